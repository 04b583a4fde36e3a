"""Every setting of a trial, flat: what an experiment may hold fixed, vary or leave to its profile.

One flat namespace, so that ``axes: {reg_max: [8, 16]}``, ``overrides: {lr: 0.02}`` and a profile's ``settings:`` all use the
same names. Each field belongs to a group; the fairness check and the comparison with published rows go by group.
Defaults are the paper's (Li et al., arXiv 2006.04388; mmdet 3.3 ``configs/gfl``), unless a profile has other ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from gfl_lab.spec import cfg_options, conditions, renames
from gfl_lab.spec.backbones import BACKBONES, with_dcn
from gfl_lab.spec.choices import OWN
from gfl_lab.spec.conditions import Condition
from gfl_lab.spec.rules import SettingsRuleError, broken_rules
from gfl_lab.spec.shorthand import expand, partners

DETECTOR, MODEL, SCHEDULE, INPUT, EVALUATION = "detector", "model", "schedule", "input", "evaluation"

MAX_WEIGHT, MAX_ITERATIONS = 1_000_000, 1_000_000_000
"""Upper ends of the settings that have no natural one: beyond them 32-bit numbers overflow."""


def _field(group: str, default: Any, help: str, acts_only_with: Condition | None = None, **rules: Any) -> Any:
    extra: dict[str, Any] = {"group": group} | ({"acts_only_with": acts_only_with} if acts_only_with else {})
    return Field(default, description=help, json_schema_extra=extra, **rules)


class Settings(BaseModel):
    """All settings of a variant, validated; a ``Settings`` that exists can be trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # --- which detector: ours, or one of mmdet's ---
    detector: str = _field(
        DETECTOR,
        OWN,
        "gfl, the family of these settings; mmdet:NAME, a config of mmdet's by its file name; or the path of a config file of yours (.py)",
    )
    cfg_options: dict[str, Any] = _field(
        DETECTOR,
        {},
        "values of an mmdet config by dotted path; each is also a setting of its own, `cfg_options.model.bbox_head.loss_cls.gamma: 1.5`",
        acts_only_with=conditions.WITH_MMDET,
    )
    recipe: Literal["profile", "config"] = _field(
        SCHEDULE,
        "profile",
        "an mmdet config's training: with the profile's settings, or with the config's own optimizer, schedule and augmentation",
        acts_only_with=conditions.WITH_MMDET,
    )

    # --- detector: what GFL's ablations vary ---
    qfl: bool = _field(DETECTOR, True, "quality focal loss (`quality: joint`); off: focal loss (`quality: centerness`)")
    quality: Literal["none", "centerness", "iou", "centerness_guided", "iou_guided", "joint", "dgqp"] = _field(
        DETECTOR,
        "joint",
        "quality of localisation in the score: none, a centerness or IoU branch, focal loss weighted by centerness or IoU (the "
        "paper's implicit forms), the joint score of QFL (joint), or GFLv2's distribution-guided predictor (dgqp)",
    )
    dfl: bool = _field(DETECTOR, True, "distribution focal loss on a general box (`box: general`); off: no DFL")
    box: Literal["dirac", "gaussian", "general", "direct"] = _field(
        DETECTOR,
        "general",
        "box representation; `dfl: false` alone means dirac, `box: general` with `dfl: false` is general without DFL, "
        "`direct` is four linear distances without bins",
    )
    qfl_beta: float = _field(
        DETECTOR,
        2.0,
        "beta of QFL: 0 or at least 1; between them the gradient is NaN where the score equals the IoU",
        ge=0,
        le=16,
        acts_only_with=conditions.WITH_QFL,
    )
    reg_max: int = _field(
        DETECTOR, 16, "n: index of the last bin, so n+1 bins a side", ge=1, le=128, acts_only_with=conditions.WITH_GENERAL_BOX
    )
    bins: Literal["uniform", "weighted"] = _field(
        DETECTOR,
        "uniform",
        "bins of a general box: evenly spaced, or by D-FINE's non-uniform weighting function W(n), finest at the anchor's side",
        acts_only_with=conditions.WITH_GENERAL_BOX,
    )
    bins_a: float = _field(
        DETECTOR,
        0.5,
        "a of W(n): reach of the bins but the outer two to either side of the anchor's, in anchors",
        gt=0,
        le=16,
        acts_only_with=conditions.WITH_WEIGHTED_BINS,
    )
    bins_c: float = _field(
        DETECTOR,
        0.25,
        "c of W(n): curvature; the smaller, the finer the bins in the middle",
        gt=0,
        le=1000,
        acts_only_with=conditions.WITH_WEIGHTED_BINS,
    )
    bin_width: float = _field(DETECTOR, 1.0, "Delta: distance between bins, in strides", gt=0, le=64, acts_only_with=conditions.WITH_BINS)
    dfl_weight: float = _field(DETECTOR, 0.25, "weight of DFL", ge=0, le=MAX_WEIGHT, acts_only_with=conditions.WITH_DFL)
    box_loss: str = _field(
        DETECTOR,
        "giou",
        "loss of the whole box: giou, diou, ciou, iou, or a registered loss of yours",
        acts_only_with=conditions.WITH_BOX_LOSS,
    )
    box_loss_weight: float = _field(
        DETECTOR, 2.0, "weight of the loss of the whole box", ge=0, le=MAX_WEIGHT, acts_only_with=conditions.WITH_BOX_LOSS
    )
    box_weighting: Literal["auto", "score", "centerness", "iou", "uniform"] = _field(
        DETECTOR,
        "auto",
        "weight of a positive in the box losses; auto: score for joint and dgqp, centerness for centerness, else uniform",
    )
    bbox_coder: Literal["delta", "distance"] = _field(
        DETECTOR,
        "delta",
        "Dirac box: delta-xywh of the anchor (ATSS), or the exponential of the side distances in halves of the anchor (FCOS)",
        acts_only_with=conditions.WITH_DIRAC_BOX,
    )
    gaussian_weight: float = _field(
        DETECTOR,
        1.0,
        "weight of the Gaussian box's likelihood, mean over the four sides",
        ge=0,
        le=MAX_WEIGHT,
        acts_only_with=conditions.WITH_GAUSSIAN_BOX,
    )
    gaussian_box_loss: bool = _field(
        DETECTOR,
        False,
        "Gaussian box: add the loss of the whole box, on the means; the paper has none",
        acts_only_with=conditions.WITH_GAUSSIAN_BOX,
    )
    quality_weight: float = _field(
        DETECTOR, 1.0, "weight of the centerness or IoU branch's loss", ge=0, le=MAX_WEIGHT, acts_only_with=conditions.WITH_QUALITY_BRANCH
    )
    guided_eta: float = _field(
        DETECTOR,
        1.0,
        "guided classification: exponent of the quality that weighs a positive",
        ge=0,
        le=8,
        acts_only_with=conditions.WITH_GUIDED_LOSS,
    )
    guided_renormalise: bool = _field(
        DETECTOR,
        False,
        "guided classification: keep the summed loss of the positives unchanged",
        acts_only_with=conditions.WITH_GUIDED_LOSS,
    )
    dgqp_topk: int = _field(
        DETECTOR,
        4,
        "DGQP: number of highest probabilities of each side among its inputs; 0: none",
        ge=0,
        le=129,
        acts_only_with=conditions.WITH_DGQP,
    )
    dgqp_mean: bool = _field(
        DETECTOR, True, "DGQP: their mean is an input too (of all bins if dgqp_topk is 0)", acts_only_with=conditions.WITH_DGQP
    )
    dgqp_variance: bool = _field(
        DETECTOR, False, "DGQP: the variance of each side's distribution is an input too", acts_only_with=conditions.WITH_DGQP
    )
    dgqp_channels: int = _field(DETECTOR, 64, "DGQP: hidden width", ge=1, le=1024, acts_only_with=conditions.WITH_DGQP)
    dgqp_form: Literal["decomposed", "composed"] = _field(
        DETECTOR,
        "decomposed",
        "DGQP: score = class x quality, or the predictor's features joined to the class tower's",
        acts_only_with=conditions.WITH_DGQP,
    )
    dgqp_detach: bool = _field(DETECTOR, False, "DGQP: stop its gradient at the distribution", acts_only_with=conditions.WITH_DGQP)
    head: str = _field(DETECTOR, "GFLFamilyHead", "the dense head, or a registered one of yours")
    cls_loss: str = _field(
        DETECTOR,
        "auto",
        "classification loss; auto: QFL for joint and dgqp, else focal loss; varifocal, with `quality: joint`; or a registered loss of yours",
    )
    varifocal_alpha: float = _field(
        DETECTOR, 0.75, "varifocal loss: weight of the background", ge=0, le=16, acts_only_with=conditions.WITH_VARIFOCAL
    )
    varifocal_gamma: float = _field(
        DETECTOR,
        2.0,
        "varifocal loss: exponent of the background's score: 0 or at least 1",
        ge=0,
        le=16,
        acts_only_with=conditions.WITH_VARIFOCAL,
    )
    assigner: str = _field(
        DETECTOR,
        "ATSSAssigner",
        "assignment of boxes to locations in training: atss (ATSSAssigner), fcos, max_iou, tal, simota, or a registered assigner of yours",
    )
    atss_topk: int = _field(
        DETECTOR,
        9,
        "k of ATSS: on each level, the k locations nearest to a box's centre are candidates",
        ge=1,
        le=100,
        acts_only_with=conditions.WITH_ATSS,
    )

    fcos_radius: float = _field(
        DETECTOR,
        1.5,
        "FCOS: locations within this many strides of a box's centre along x and y; 0: all inside the box",
        ge=0,
        le=64,
        acts_only_with=conditions.WITH_FCOS,
    )
    fcos_reach: float = _field(
        DETECTOR,
        8.0,
        "FCOS: largest distance to a side that a level learns, in strides; the smallest is half of it",
        gt=0,
        le=64,
        acts_only_with=conditions.WITH_FCOS,
    )
    max_iou_positive: float = _field(
        DETECTOR,
        0.5,
        "max_iou: smallest IoU of an anchor with the box that its location learns",
        gt=0,
        le=1,
        acts_only_with=conditions.WITH_MAX_IOU,
    )
    max_iou_negative: float = _field(
        DETECTOR,
        0.4,
        "max_iou: IoU below which a location is background; from there to max_iou_positive it is ignored",
        ge=0,
        le=1,
        acts_only_with=conditions.WITH_MAX_IOU,
    )
    max_iou_low_quality: bool = _field(
        DETECTOR, True, "max_iou: a box also gets the locations whose anchors overlap it most", acts_only_with=conditions.WITH_MAX_IOU
    )
    max_iou_least: float = _field(
        DETECTOR, 0.0, "max_iou: smallest IoU of those anchors", ge=0, le=1, acts_only_with=conditions.WITH_LOW_QUALITY
    )
    tal_alpha: float = _field(DETECTOR, 1.0, "TAL: exponent of the class score", ge=0, le=16, acts_only_with=conditions.WITH_TAL)
    tal_beta: float = _field(DETECTOR, 6.0, "TAL: exponent of the predicted box's IoU", ge=0, le=16, acts_only_with=conditions.WITH_TAL)
    tal_topk: int = _field(DETECTOR, 13, "TAL: candidates of a box", ge=1, le=1000, acts_only_with=conditions.WITH_TAL)
    simota_topk: int = _field(
        DETECTOR,
        10,
        "SimOTA: predictions of a box whose IoUs sum to its number of locations",
        ge=1,
        le=1000,
        acts_only_with=conditions.WITH_SIMOTA,
    )
    simota_radius: float = _field(
        DETECTOR,
        2.5,
        "SimOTA: locations within this many strides of a box's centre cost least",
        ge=0,
        le=64,
        acts_only_with=conditions.WITH_SIMOTA,
    )

    distillation: Literal["none", "ld", "kd"] = _field(
        DETECTOR,
        "none",
        "distillation from `teacher` at the positives: none, its edge distributions (ld), or its class scores (kd)",
    )
    ld_temperature: float = _field(
        DETECTOR, 10.0, "LD: temperature that softens both distributions", ge=1, le=1000, acts_only_with=conditions.WITH_LD
    )
    ld_weight: float = _field(DETECTOR, 0.25, "weight of LD", ge=0, le=MAX_WEIGHT, acts_only_with=conditions.WITH_LD)
    ld_region: Literal["main", "main_and_vlr"] = _field(
        DETECTOR,
        "main",
        "locations that LD trains: the positives, or also the valuable region around them",
        acts_only_with=conditions.WITH_LD,
    )
    kd_temperature: float = _field(
        DETECTOR, 2.0, "KD: temperature that softens both class scores", ge=1, le=1000, acts_only_with=conditions.WITH_KD
    )
    kd_weight: float = _field(DETECTOR, 10.0, "weight of KD", ge=0, le=MAX_WEIGHT, acts_only_with=conditions.WITH_KD)

    # --- model: what carries the head ---
    backbone: str = _field(
        MODEL,
        "r50",
        f"{', '.join(BACKBONES)}, or a registered one of yours",
    )
    dcn: Literal["none", "v1", "v2"] = _field(MODEL, "none", f"deformable 3x3 convolutions in the backbone ({', '.join(with_dcn())})")
    dcn_stages: Literal["c3-c5", "c4-c5"] = _field(
        MODEL, "c3-c5", "stages with deformable convolutions", acts_only_with=conditions.WITH_DCN
    )
    base_channels: int = _field(
        MODEL,
        64,
        "channels of the first stage; 64 is the published width of every backbone (ViT: 6 heads of this many)",
        ge=4,
        le=256,
        acts_only_with=conditions.WITH_BUILT_IN_BACKBONE,
    )
    init_weights: str = _field(
        MODEL, "random", "backbone start: random, pretrained (ImageNet weights, downloaded), or the path of a weights file"
    )
    init_from: dict[str, Any] = _field(
        MODEL,
        {},
        "settings of another trial, over those of the experiment: its final weights are the start; also `seed` and `data` (its data set)",
    )
    teacher: dict[str, Any] = _field(
        MODEL,
        {},
        "settings of another trial, over those of the experiment: it is the teacher of `distillation`; also `seed`",
        acts_only_with=conditions.WITH_DISTILLATION,
    )
    frozen_stages: int = _field(
        MODEL,
        1,
        "ResNet stages that do not train: -1 none, 0 the stem, 1 stem and first stage, ...",
        ge=-1,
        le=4,
        acts_only_with=conditions.WITH_RESNET,
    )
    norm_eval: bool = _field(MODEL, True, "keep the ResNet's batch-norm statistics fixed", acts_only_with=conditions.WITH_RESNET)
    bn_requires_grad: bool = _field(
        MODEL, True, "train scale and shift of the ResNet's batch norms in stages that train", acts_only_with=conditions.WITH_RESNET
    )
    drop_path: float = _field(
        MODEL, 0.2, "ViT-Adapter: drop-path rate of the last block", ge=0, lt=1, acts_only_with=conditions.WITH_VIT_ADAPTER
    )
    neck_channels: int = _field(MODEL, 256, "channels of the FPN", ge=8, le=1024)
    neck_relu: bool = _field(
        MODEL, False, "ReLU before the FPN's second extra level (PaddleDetection)", acts_only_with=conditions.WITH_TWO_EXTRA_LEVELS
    )
    head_channels: int = _field(MODEL, 256, "channels of the head's towers, a multiple of 8", ge=8, le=1024, multiple_of=8)
    head_convs: int = _field(MODEL, 4, "3x3 convolutions in each tower", ge=1, le=8)
    tower_bias: bool = _field(MODEL, False, "biases in the towers' convolutions (PaddleDetection)")
    strides: tuple[Literal[4, 8, 16, 32, 64, 128], ...] = _field(
        MODEL, (8, 16, 32, 64, 128), "strides of the pyramid levels, each twice the one before", min_length=1, max_length=6
    )
    anchor_scale: float = _field(MODEL, 8.0, "side of the square anchor, in strides", gt=0, le=64)
    component_args: dict[Literal["head", "cls_loss", "box_loss", "assigner", "backbone"], dict[str, Any]] = _field(
        MODEL, {}, "constructor arguments for registered components, e.g. {head: {temperature: 2.0}}"
    )

    # --- schedule: the training budget and how it is spent ---
    epochs: int = _field(SCHEDULE, 12, "passes over the training images in a 1x schedule", ge=1, le=1000)
    schedule: Literal["1x", "2x", "3x"] = _field(SCHEDULE, "1x", "multiplies epochs")
    data_repeats: int = _field(
        SCHEDULE, 1, "passes over the training images in one epoch, each time augmented anew, in one random order", ge=1, le=1000
    )
    batch_size: int = _field(SCHEDULE, 16, "images a step", ge=1, le=1024)
    optimizer: Literal["sgd", "adamw"] = _field(SCHEDULE, "sgd", "SGD with momentum 0.9, or AdamW")
    lr: float = _field(SCHEDULE, 0.01, "peak learning rate, for base_batch_size images", gt=0, le=10)
    base_batch_size: int = _field(
        SCHEDULE,
        0,
        "batch size that lr is meant for: lr is scaled to batch_size, linearly (SGD) or by the root (AdamW); 0: no scaling",
        ge=0,
        le=65536,
    )
    weight_decay: float = _field(SCHEDULE, 1e-4, "weight decay", ge=0, le=1)
    no_decay: tuple[str, ...] = _field(
        SCHEDULE, (), "parameters whose name contains one of these have no weight decay", acts_only_with=conditions.WITH_WEIGHT_DECAY
    )
    bias_lr_mult: float = _field(SCHEDULE, 1.0, "learning rate of biases, as a factor", gt=0, le=10)
    lr_schedule: Literal["step", "cosine"] = _field(SCHEDULE, "step", "drops of 0.1 at lr_steps, or cosine to 1% of lr")
    lr_steps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = _field(
        SCHEDULE,
        (0.6667, 0.9167),
        "drops of the step schedule, as parts of all epochs: 8 and 11 of 12",
        acts_only_with=conditions.WITH_STEPS,
    )
    warmup_iters: int = _field(SCHEDULE, 500, "iterations of linear warm-up", ge=0, le=MAX_ITERATIONS)
    warmup_start_factor: float = _field(
        SCHEDULE, 0.001, "start of the warm-up, as a part of lr", gt=0, le=1, acts_only_with=conditions.WITH_WARMUP
    )
    clip_grad_norm: float = _field(SCHEDULE, 0.0, "norm to which gradients are clipped; 0: no clipping", ge=0, le=MAX_WEIGHT)
    ema_decay: float = _field(SCHEDULE, 0.0, "decay of the moving average of weights that is evaluated, e.g. 0.9998; 0: none", ge=0, lt=1)
    precision: Literal["float32", "bfloat16", "float16"] = _field(SCHEDULE, "float32", "float32, or autocast of the forward pass")
    flip_prob: float = _field(SCHEDULE, 0.5, "probability of a horizontal flip in training", ge=0, le=1)
    scale_range: tuple[Annotated[float, Field(ge=0.1, le=4)], Annotated[float, Field(ge=0.1, le=4)]] = _field(
        SCHEDULE, (1.0, 1.0), "multi-scale training: range of the shortest side, in parts of image_size's; [0.6, 1.0] is 480 to 800 px"
    )
    scale_step: float = _field(
        SCHEDULE,
        0.0,
        "multi-scale training: step between the scales (0.04 is 32 of 800 px); 0 any scale",
        ge=0,
        le=1,
        acts_only_with=conditions.WITH_SCALES,
    )
    interpolation: Literal["bilinear", "bicubic"] = _field(SCHEDULE, "bilinear", "scaling of training images; bilinear at test")
    crop: Literal["none", "vit_adapter"] = _field(
        SCHEDULE, "none", "random crops in training: none, or ViT-Adapter's choice of resize or resize, crop and resize, then a crop"
    )

    # --- input ---
    image_size: tuple[Annotated[int, Field(ge=32, le=8192)], Annotated[int, Field(ge=32, le=8192)]] = _field(
        INPUT, (1333, 800), "longest and shortest side that an image is scaled into, ratio kept, px"
    )
    pad_to: int = _field(INPUT, 32, "pad images to a multiple of this, px", ge=1, le=256)

    # --- evaluation protocol ---
    decode: Literal["expectation", "local_peak"] = _field(
        EVALUATION,
        "expectation",
        "side of a general box: mean of its distribution, or mean over the bins of its highest peak alone",
        acts_only_with=conditions.WITH_GENERAL_BOX,
    )
    score_thr: float = _field(EVALUATION, 0.05, "score threshold before NMS", ge=0, lt=1)
    nms_iou: float = _field(EVALUATION, 0.6, "IoU of non-maximum suppression, class by class", gt=0, le=1)
    nms_pre: int = _field(EVALUATION, 1000, "most (location, class) pairs of a level before NMS", ge=1, le=MAX_ITERATIONS)
    max_dets: int = _field(EVALUATION, 100, "most detections of an image", ge=1, le=1000)

    @property
    def trains_dfl(self) -> bool:
        """True if a general box is trained with DFL."""
        return self.dfl

    @model_validator(mode="wrap")
    @classmethod
    def _once(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Complete and check a dict of settings. Settings that exist are taken as they are: they were checked when they were made."""
        if isinstance(values, cls):
            return values
        # manifests may hold old names
        made = validate(expand(renames.current(cfg_options.folded(values))) if isinstance(values, dict) else values)
        if problems := broken_rules(made):
            raise SettingsRuleError(problems)
        return made

    @field_validator("strides", "image_size", "scale_range", "lr_steps", "no_decay", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value  # YAML and JSON have no tuples

    @field_validator("qfl_beta")
    @classmethod
    def _no_nan_gradient(cls, beta: float) -> float:
        if 0 < beta < 1:
            raise ValueError("it must be 0 or at least 1, because the gradient of |y - p|^beta is NaN at y = p in between")
        return beta

    @field_validator("varifocal_gamma")
    @classmethod
    def _no_nan_gradient_at_0(cls, gamma: float) -> float:
        if 0 < gamma < 1:
            raise ValueError("it must be 0 or at least 1, because the gradient of p^gamma is infinite at p = 0 in between")
        return gamma


def _extra(key: str, name: str) -> JsonValue:
    extra = Settings.model_fields[key].json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def group_of(key: str) -> str:
    """Return the group of a setting. Raises KeyError for an unknown key."""
    return str(_extra(key, "group"))


def help_of(key: str) -> str:
    """Return one line on a setting. Raises KeyError for an unknown key."""
    return Settings.model_fields[key].description or ""


CONDITIONS: dict[str, Condition] = {
    key: condition for key in Settings.model_fields if isinstance(condition := _extra(key, "acts_only_with"), Condition)
}
"""The condition of each setting that acts only with others."""


def rule_problems(values: dict[str, Any], refused: Iterable[str]) -> list[tuple[str, str]]:
    """Return (setting, message) for each rule that the valid ones among ``values`` break, where ``refused`` are not valid by themselves.

    A rule that is about a refused setting is left out: another value of it may keep the rule.
    """
    doubtful = set(refused) | partners(set(refused))
    try:
        Settings(**{key: value for key, value in values.items() if key not in doubtful})
    except ValidationError as error:
        rules = [item.get("ctx", {}).get("error") for item in error.errors(include_url=False)]
        return [
            (about[0], message)
            for rule in rules
            if isinstance(rule, SettingsRuleError)
            for about, message in rule.broken
            if not doubtful & set(about)
        ]
    return []


OF_OWN_DETECTOR = frozenset(
    key
    for key in Settings.model_fields
    if group_of(key) in (DETECTOR, MODEL)
    and key not in ("detector", "cfg_options", "init_weights", "init_from", "base_channels", "neck_channels", "head_channels")
) | {"decode"}
"""Settings of the GFL family's detectors, which an mmdet config has no use for."""
OF_PROFILE_RECIPE = frozenset(
    key
    for key in Settings.model_fields
    if group_of(key) in (SCHEDULE, INPUT, EVALUATION) and key not in ("recipe", "precision", "ema_decay")
) | {"base_channels", "neck_channels", "head_channels"}
"""Settings that stand in an mmdet config too: with ``recipe: config`` its own values hold."""


def inactive(settings: Settings) -> Mapping[str, str]:
    """Return {setting: text of its condition} for the settings that change no weight and no AP beside the others.

    With a head of the user's none of the detector is among them, because it may read anything.
    """
    found: dict[str, str] = {key: condition for key, condition in CONDITIONS.items() if not condition.holds(settings)}
    if settings.detector != OWN:
        found |= dict.fromkeys(OF_OWN_DETECTOR, conditions.WITH_OWN)
        if settings.recipe == "config":
            found |= {key: conditions.WITH_PROFILE for key in OF_PROFILE_RECIPE if key not in found}
        else:
            paths = cfg_options.of_recipe(settings.cfg_options)
            found |= dict.fromkeys((f"{cfg_options.PREFIX}{path}" for path in paths), conditions.WITH_CONFIG)
    return found
