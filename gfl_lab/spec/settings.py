"""Every setting of a trial, flat: what an experiment may hold fixed, vary or leave to its profile.

One flat namespace, so that ``axes: {reg_max: [8, 16]}``, ``overrides: {lr: 0.02}`` and a profile's ``settings:`` all say the
same words. Each field belongs to a group; the fairness check and the comparison with published rows ask by group.
Defaults are the paper's (Li et al., arXiv 2006.04388; mmdet 3.3 ``configs/gfl``), except where a profile says otherwise.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from gfl_lab import naming
from gfl_lab.spec import renames
from gfl_lab.spec.schedule import total_epochs

DETECTOR, MODEL, SCHEDULE, INPUT, EVALUATION = "detector", "model", "schedule", "input", "evaluation"

MAX_WEIGHT, MAX_ITERATIONS = 1_000_000, 1_000_000_000
"""Upper ends of the settings that have no natural one: beyond them 32-bit numbers overflow."""


JOINT, NOT_JOINT = ("joint", "dgqp"), ("centerness", "none", "iou", "centerness_guided", "iou_guided")
"""Forms of ``quality`` with and without quality focal loss; the first is what ``qfl`` alone means."""

_SHORT = (("qfl", "quality", JOINT, NOT_JOINT), ("dfl", "box", ("general",), ("dirac", "gaussian", "general")))
"""A switch, the setting it is short for, and that setting's values when it is on and off."""

BACKBONES = ("r18", "r34", "r50", "r101", "r18vd", "r34vd", "r50vd", "r101vd", "x101-32x4d", "x101-32x8d", "r2-101", "vit-adapter-s")
PRETRAINED_BACKBONES = ("r18", "r34", "r50", "r101", "x101-32x4d", "x101-32x8d", "r2-101", "vit-adapter-s")
"""Backbones with published weights that ``init_weights: pretrained`` can download (checkpoints/pretrained.py)."""
DCN_BACKBONES = ("r50", "r101", "x101-32x4d", "x101-32x8d", "r2-101")

BUILT_IN: dict[str, tuple[str, ...]] = {
    "head": ("GFLFamilyHead",),
    "cls_loss": ("auto",),
    "box_loss": ("giou", "diou", "ciou", "iou"),
    "assigner": ("ATSSAssigner",),
    "backbone": BACKBONES,
}
"""Settings that may also name a registered class of the user's, and what they may be without one."""

ALIASES = (
    {
        alias: name
        for name, aliases in {
            "lr": "learning_rate base_lr lr0 initial_lr init_lr max_lr alpha rate",
            "batch_size": "batch bs batchsize samples_per_gpu train_batch_size imgs_per_batch images_per_batch ims_per_batch",
            "base_batch_size": "auto_scale_lr reference_batch_size nominal_batch_size nbs",
            "epochs": "epoch max_epochs num_epochs n_epochs total_epochs iterations max_iters steps",
            "weight_decay": "wd decay l2 l2_penalty",
            "no_decay": "no_weight_decay",
            "bias_lr_mult": "bias_lr_factor",
            "optimizer": "optim opt solver",
            "warmup_iters": "warmup warmup_steps warm_up warmup_iterations warmup_epochs",
            "warmup_start_factor": "warmup_ratio warmup_lr start_factor",
            "lr_schedule": "scheduler lr_scheduler lr_policy lr_config",
            "lr_steps": "milestones steps_decay decay_epochs lr_milestones",
            "clip_grad_norm": "grad_clip clip_grad max_norm gradient_clip gradient_clipping max_grad_norm",
            "ema_decay": "model_ema",
            "precision": "amp fp16 bf16 mixed_precision dtype half",
            "flip_prob": "hflip fliplr horizontal_flip flip_ratio random_flip",
            "scale_range": "multi_scale multiscale img_scale",
            "image_size": "img_size imgsz input_size image_scale resize resolution size imsize",
            "pad_to": "size_divisor pad_size_divisor",
            "reg_max": "n bins num_bins regmax dfl_n",
            "bin_width": "delta bin_size",
            "qfl_beta": "beta gamma focal_gamma",
            "dfl_weight": "loss_dfl_weight dfl_loss_weight",
            "box_loss": "bbox_loss loss_bbox iou_loss reg_loss",
            "box_loss_weight": "bbox_weight loss_bbox_weight",
            "cls_loss": "classification_loss loss_cls",
            "assigner": "assignment label_assignment",
            "atss_topk": "topk",
            "backbone": "model arch architecture encoder net network",
            "base_channels": "width base_width",
            "init_weights": "pretrained checkpoint init load_from init_cfg",
            "frozen_stages": "freeze frozen freeze_at",
            "norm_eval": "bn_eval freeze_bn frozen_bn",
            "drop_path": "drop_path_rate stochastic_depth droppath",
            "neck_channels": "fpn_channels out_channels neck_width",
            "head_channels": "feat_channels head_width",
            "head_convs": "stacked_convs num_convs tower_convs",
            "strides": "stride levels fpn_strides",
            "anchor_scale": "octave_base_scale anchor_size anchor",
            "score_thr": "score_threshold conf conf_thres confidence confidence_threshold score_thresh score",
            "nms_iou": "iou_threshold nms_threshold nms_thr nms_thresh iou_thr iou_thres nms",
            "max_dets": "max_per_img max_detections detections_per_image max_det",
            "quality": "quality_branch centerness",
            "box": "bbox box_form representation",
            "seeds": "seed random_seed",
            "axes": "axis grid sweep vary parameters matrix",
            "variants": "combinations configs",
            "overrides": "settings fixed common shared defaults config params",
            "when": "conditions if only_if",
            "search": "space search_space hpo tune",
            "trials": "num_trials max_trials n_trials num_samples samples budget",
            "sampler_seed": "random_state",
            "low": "min lower from start",
            "high": "max upper to stop",
            "grace_epochs": "grace_period min_epochs min_resource",
            "reduction": "reduction_factor eta",
            "custom_imports": "imports plugins modules",
            "question": "description about title",
        }.items()
        for alias in aliases.split()
    }
    | renames.SETTINGS
    | renames.EXPERIMENT_KEYS
    | renames.RESOURCE_KEYS
)
"""Names that other tools give to a key of ours, for the hint beside an unknown key."""


def _field(group: str, default: Any, help: str, **rules: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group}, **rules)


class Settings(BaseModel):
    """All settings of a variant, validated; a ``Settings`` that exists can be trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # --- detector: what GFL's ablations vary ---
    qfl: bool = _field(DETECTOR, True, "quality focal loss (`quality: joint`); off: focal loss (`quality: centerness`)")
    quality: Literal["none", "centerness", "iou", "centerness_guided", "iou_guided", "joint", "dgqp"] = _field(
        DETECTOR,
        "joint",
        "what scores localisation: nothing, a centerness or IoU branch, focal loss weighted by centerness or IoU (the "
        "paper's implicit forms), the joint score of QFL, or GFLv2's distribution-guided predictor",
    )
    dfl: bool = _field(DETECTOR, True, "distribution focal loss on a general box (`box: general`); off: no DFL")
    box: Literal["dirac", "gaussian", "general"] = _field(
        DETECTOR, "general", "box representation; `dfl: false` alone means dirac, `box: general` with `dfl: false` is general without DFL"
    )
    qfl_beta: float = _field(
        DETECTOR, 2.0, "beta of QFL: 0 or at least 1; between them the gradient is NaN where the score equals the IoU", ge=0, le=16
    )
    reg_max: int = _field(DETECTOR, 16, "n: index of the last bin, so n+1 bins a side", ge=1, le=128)
    bin_width: float = _field(DETECTOR, 1.0, "Delta: distance between bins, in strides", gt=0, le=64)
    dfl_weight: float = _field(DETECTOR, 0.25, "weight of DFL", ge=0, le=MAX_WEIGHT)
    box_loss: str = _field(DETECTOR, "giou", "loss of the whole box: giou, diou, ciou, iou, or a registered loss of yours")
    box_loss_weight: float = _field(DETECTOR, 2.0, "weight of the loss of the whole box", ge=0, le=MAX_WEIGHT)
    box_weighting: Literal["auto", "score", "centerness", "iou", "uniform"] = _field(
        DETECTOR,
        "auto",
        "what weighs the box losses of a positive; auto: score for joint and dgqp, centerness for centerness, else uniform",
    )
    bbox_coder: Literal["delta", "distance"] = _field(
        DETECTOR,
        "delta",
        "Dirac box: delta-xywh of the anchor (ATSS), or the exponential of the side distances in halves of the anchor (FCOS)",
    )
    gaussian_weight: float = _field(DETECTOR, 1.0, "weight of the Gaussian box's likelihood, mean over the four sides", ge=0, le=MAX_WEIGHT)
    gaussian_box_loss: bool = _field(DETECTOR, False, "Gaussian box: add the loss of the whole box, on the means; the paper has none")
    quality_weight: float = _field(DETECTOR, 1.0, "weight of the centerness or IoU branch's loss", ge=0, le=MAX_WEIGHT)
    guided_eta: float = _field(DETECTOR, 1.0, "guided classification: exponent of the quality that weighs a positive", ge=0, le=8)
    guided_renormalise: bool = _field(DETECTOR, False, "guided classification: keep the summed loss of the positives unchanged")
    dgqp_topk: int = _field(DETECTOR, 4, "DGQP: highest probabilities of each side that it sees; 0 none", ge=0, le=129)
    dgqp_mean: bool = _field(DETECTOR, True, "DGQP: also sees their mean (of all bins when dgqp_topk is 0)")
    dgqp_variance: bool = _field(DETECTOR, False, "DGQP: also sees the variance of each side's distribution")
    dgqp_channels: int = _field(DETECTOR, 64, "DGQP: hidden width", ge=1, le=1024)
    dgqp_form: Literal["decomposed", "composed"] = _field(
        DETECTOR, "decomposed", "DGQP: score = class x quality, or the predictor's features joined to the class tower's"
    )
    dgqp_detach: bool = _field(DETECTOR, False, "DGQP: stop its gradient at the distribution")
    head: str = _field(DETECTOR, "GFLFamilyHead", "the dense head, or a registered one of yours")
    cls_loss: str = _field(
        DETECTOR, "auto", "classification loss; auto: QFL for joint and dgqp, else focal loss; or a registered loss of yours"
    )
    assigner: str = _field(DETECTOR, "ATSSAssigner", "which cells learn which box: ATSS, or a registered assigner of yours")
    atss_topk: int = _field(DETECTOR, 9, "k of ATSS: cells nearest to a box's centre that are candidates, on each level", ge=1, le=100)

    # --- model: what carries the head ---
    backbone: str = _field(
        MODEL,
        "r50",
        "r18, r34, r50, r101, their `vd` forms (r50vd), x101-32x4d, x101-32x8d, r2-101 (Res2Net), vit-adapter-s, or a registered one of yours",
    )
    dcn: Literal["none", "v1", "v2"] = _field(
        MODEL, "none", "deformable 3x3 convolutions in the backbone (not r18, r34, vd, vit-adapter-s)"
    )
    dcn_stages: Literal["c3-c5", "c4-c5"] = _field(MODEL, "c3-c5", "stages with deformable convolutions")
    base_channels: int = _field(
        MODEL, 64, "channels of the first stage; 64 is the published width of every backbone (ViT: 6 heads of this many)", ge=4, le=256
    )
    init_weights: str = _field(
        MODEL, "random", "backbone start: random, pretrained (downloads what is published), or the path of a weights file"
    )
    frozen_stages: int = _field(MODEL, 1, "ResNet stages that do not train: -1 none, 0 the stem, 1 stem and first stage, ...", ge=-1, le=4)
    norm_eval: bool = _field(MODEL, True, "keep the ResNet's batch-norm statistics fixed")
    bn_requires_grad: bool = _field(MODEL, True, "train scale and shift of the ResNet's batch norms in stages that train")
    drop_path: float = _field(MODEL, 0.2, "ViT-Adapter: drop-path rate of the last block", ge=0, lt=1)
    neck_channels: int = _field(MODEL, 256, "channels of the FPN", ge=8, le=1024)
    neck_relu: bool = _field(MODEL, False, "ReLU before the FPN's second extra level (PaddleDetection)")
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
    batch_size: int = _field(SCHEDULE, 16, "images a step", ge=1, le=1024)
    optimizer: Literal["sgd", "adamw"] = _field(SCHEDULE, "sgd", "SGD with momentum 0.9, or AdamW")
    lr: float = _field(SCHEDULE, 0.01, "peak learning rate, for base_batch_size images", gt=0, le=10)
    base_batch_size: int = _field(
        SCHEDULE,
        0,
        "batch size that lr is meant for: lr is scaled to batch_size, linearly (SGD) or by the root (AdamW); 0 is not",
        ge=0,
        le=65536,
    )
    weight_decay: float = _field(SCHEDULE, 1e-4, "weight decay", ge=0, le=1)
    no_decay: tuple[str, ...] = _field(SCHEDULE, (), "parameters whose name contains one of these have no weight decay")
    bias_lr_mult: float = _field(SCHEDULE, 1.0, "learning rate of biases, as a factor", gt=0, le=10)
    lr_schedule: Literal["step", "cosine"] = _field(SCHEDULE, "step", "drops of 0.1 at lr_steps, or cosine to 1% of lr")
    lr_steps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = _field(
        SCHEDULE, (0.6667, 0.9167), "where the step schedule drops, in parts of all epochs: 8 and 11 of 12"
    )
    warmup_iters: int = _field(SCHEDULE, 500, "iterations of linear warm-up", ge=0, le=MAX_ITERATIONS)
    warmup_start_factor: float = _field(SCHEDULE, 0.001, "where the warm-up starts, as a part of lr", gt=0, le=1)
    clip_grad_norm: float = _field(SCHEDULE, 0.0, "clip gradients to this norm; 0 does not", ge=0, le=MAX_WEIGHT)
    ema_decay: float = _field(
        SCHEDULE, 0.0, "decay of the moving average of weights that is evaluated, e.g. 0.9998; 0 has none", ge=0, lt=1
    )
    precision: Literal["float32", "bfloat16", "float16"] = _field(SCHEDULE, "float32", "float32, or autocast of the forward pass")
    flip_prob: float = _field(SCHEDULE, 0.5, "probability of a horizontal flip in training", ge=0, le=1)
    scale_range: tuple[Annotated[float, Field(ge=0.1, le=4)], Annotated[float, Field(ge=0.1, le=4)]] = _field(
        SCHEDULE, (1.0, 1.0), "multi-scale training: range of the shortest side, in parts of image_size's; [0.6, 1.0] is 480 to 800 px"
    )
    scale_step: float = _field(
        SCHEDULE, 0.0, "multi-scale training: step between the scales (0.04 is 32 of 800 px); 0 any scale", ge=0, le=1
    )
    interpolation: Literal["bilinear", "bicubic"] = _field(SCHEDULE, "bilinear", "how training images are scaled; at test it is bilinear")
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
        EVALUATION, "expectation", "side of a general box: mean of its distribution, or mean over the bins of its highest peak alone"
    )
    score_thr: float = _field(EVALUATION, 0.05, "class scores below this are no detections", ge=0, lt=1)
    nms_iou: float = _field(EVALUATION, 0.6, "IoU of non-maximum suppression, class by class", gt=0, le=1)
    nms_pre: int = _field(EVALUATION, 1000, "(location, class) pairs kept per level before NMS", ge=1, le=MAX_ITERATIONS)
    max_dets: int = _field(EVALUATION, 100, "detections kept per image", ge=1, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        return complete(renames.current(values)) if isinstance(values, dict) else values  # manifests may hold old names

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

    @model_validator(mode="after")
    def _rules(self) -> Settings:
        if problems := _broken_rules(self):
            raise SettingsRuleError(problems)
        return self


def _broken_rules(s: Settings) -> list[tuple[tuple[str, ...], str]]:
    """(settings that a rule is about, message) for each rule between settings, or beyond what a type says, that ``s`` breaks.

    The first of the settings is the one that the message is shown at.
    """
    problems: list[tuple[tuple[str, ...], str]] = []

    def tell(message: str, *about: str) -> None:
        problems.append((about, message))

    if any(b != 2 * a for a, b in zip(s.strides, s.strides[1:], strict=False)):
        tell(f"strides are {list(s.strides)}: each must be twice the one before", "strides")
    if s.strides[0] > 32:
        tell(f"strides start at {s.strides[0]}: the backbone has 4, 8, 16 and 32, so the first must be at most 32", "strides")
    if s.image_size[0] < s.image_size[1]:
        tell(f"image_size is {list(s.image_size)}: the longest side comes first", "image_size")
    if s.scale_range[0] > s.scale_range[1]:
        tell(f"scale_range is {list(s.scale_range)}: the smaller end comes first", "scale_range")
    if s.qfl != (s.quality in JOINT):
        tell(f"qfl: {str(s.qfl).lower()} contradicts quality: {s.quality}; give one of the two", "quality", "qfl")
    if s.dfl and s.box != "general":
        tell(f"dfl: true contradicts box: {s.box}, which has no bins; give box: general or dfl: false", "box", "dfl")
    if s.quality == "dgqp":
        if s.box != "general":
            tell(f"quality: dgqp reads the distribution of a general box, and box is {s.box}", "quality", "box", "dfl")
        if s.dgqp_topk > s.reg_max + 1:
            tell(f"dgqp_topk is {s.dgqp_topk}, but a side has {s.reg_max + 1} bins (reg_max + 1)", "dgqp_topk", "reg_max", "quality")
        if not (s.dgqp_topk or s.dgqp_mean or s.dgqp_variance):
            message = "dgqp_topk is 0 and dgqp_mean and dgqp_variance are off: the predictor would see nothing"
            tell(message, "dgqp_topk", "dgqp_mean", "dgqp_variance", "quality")
    if s.cls_loss != "auto" and s.quality in ("dgqp", "centerness_guided", "iou_guided"):
        message = f"cls_loss: {s.cls_loss} would not see the quality that quality: {s.quality} brings into the loss"
        tell(message, "cls_loss", "quality")
    if s.backbone == "vit-adapter-s" and s.pad_to % 32:
        tell(f"pad_to is {s.pad_to}: backbone vit-adapter-s takes images padded to a multiple of 32", "pad_to", "backbone")
    if s.dcn != "none" and s.backbone not in DCN_BACKBONES:
        tell(f"backbone {s.backbone} has no deformable form; {', '.join(DCN_BACKBONES)} have", "dcn", "backbone")
    for key, built_in in BUILT_IN.items():
        value = getattr(s, key)
        if value not in built_in and not _is_class_name(value):
            near = difflib.get_close_matches(value.lower(), built_in, n=1, cutoff=0.5)
            hint = f"it must be one of {', '.join(built_in)}, or the name of a registered class (docs/extending.md)"
            tell(f"{key} is {value!r}: {hint}" + (f"; did you mean {near[0]}?" if near else ""), key)
    return problems


def rule_problems(values: dict[str, Any], refused: Iterable[str]) -> list[tuple[str, str]]:
    """(setting, message) for each rule that the valid ones among ``values`` break, where ``refused`` are not valid by themselves.

    A rule that is about a refused setting is left out: another value of it may keep the rule.
    """
    doubtful = set(refused) | {other for short, long, _, _ in _SHORT for other in (short, long) if {short, long} & set(refused)}
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


def lay_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Settings ``over`` laid on ``under``: the later layer's word wins, also where ``qfl`` contradicts ``quality`` or ``dfl`` ``box``."""
    kept = dict(under)
    for short, long, on, off in _SHORT:
        if short in over and long not in over and kept.get(long) not in (on if over[short] is True else off):
            kept.pop(long, None)
        if long in over and short not in over and over[long] not in (on if kept.get(short) is True else off):
            kept.pop(short, None)
    return kept | over


def complete(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the words filled in that others imply: ``qfl`` is short for a form of ``quality``, ``dfl`` for one of ``box``."""
    filled = dict(values)
    for short, long, on, off in _SHORT:
        if short in filled and long not in filled:
            filled[long] = off[0] if filled[short] is False else on[0]
        elif long in filled and short not in filled:
            filled[short] = filled[long] in on
    if filled.get("box_weighting", "auto") == "auto":
        filled["box_weighting"] = default_box_weighting(filled.get("quality", "joint"))
    return filled


def default_box_weighting(quality: str) -> str:
    """What ``box_weighting: auto`` means beside a ``quality``."""
    return "score" if quality in JOINT else "centerness" if quality == "centerness" else "uniform"


def implied(keys: Iterable[str]) -> set[str]:
    """``keys`` and the settings that follow from them: whoever varies ``qfl`` varies ``quality`` and the weight of the box losses."""
    quality, box = {"qfl", "quality", "box_weighting"}, {"dfl", "box"}
    found = set(keys)
    return found | (quality if found & {"qfl", "quality"} else set()) | (box if found & box else set())


def inactive(settings: Settings) -> Mapping[str, str]:
    """{setting: beside what it acts} for the settings that change no weight and no AP beside the others of ``settings``.

    With a head of the user's nothing of the detector is among them, because it may read anything.
    """
    s = settings
    return _inactive(
        own_head=s.head not in BUILT_IN["head"], quality=s.quality, cls_loss=s.cls_loss, box=s.box, dfl=s.dfl, bbox_coder=s.bbox_coder,
        gaussian_box_loss=s.gaussian_box_loss, assigner=s.assigner, dcn=s.dcn, backbone=s.backbone, extra=len(s.strides) - _maps_used(s),
        lr_schedule=s.lr_schedule, warms_up=s.warmup_iters > 0, decays=s.weight_decay > 0, scales=s.scale_range[0] != s.scale_range[1],
    )  # fmt: skip


@functools.cache
def _inactive(
    *, own_head: bool, quality: str, cls_loss: str, box: str, dfl: bool, bbox_coder: str, gaussian_box_loss: bool, assigner: str, dcn: str,
    backbone: str, extra: int, lr_schedule: str, warms_up: bool, decays: bool, scales: bool,
) -> Mapping[str, str]:  # fmt: skip
    """As ``inactive``, from all that it depends on. A plan asks for thousands of variants, most of them alike in this."""
    found: dict[str, str] = {}

    def only(acts: bool, beside: str, *names: str) -> None:
        if not acts:
            found.update(dict.fromkeys(names, beside))

    if not own_head:
        only(quality in JOINT and cls_loss == "auto", "quality: joint or dgqp, with cls_loss: auto", "qfl_beta")
        only(quality in ("centerness", "iou"), "quality: centerness or iou", "quality_weight")
        only(quality.endswith("_guided"), "quality: centerness_guided or iou_guided", "guided_eta", "guided_renormalise")
        only(quality == "dgqp", "quality: dgqp", *(name for name in Settings.model_fields if name.startswith("dgqp_")))
        only(box == "general", "a general box (dfl: true, or box: general)", "decode", "reg_max")
        only(box != "dirac" or bbox_coder == "distance", "a general or gaussian box, or bbox_coder: distance", "bin_width")
        only(box == "dirac", "box: dirac", "bbox_coder")
        only(box == "gaussian", "box: gaussian", "gaussian_weight", "gaussian_box_loss")
        only(box != "gaussian" or gaussian_box_loss, "gaussian_box_loss: true on a Gaussian box", "box_loss", "box_loss_weight")
        only(dfl, "dfl: true", "dfl_weight")
    only(assigner in BUILT_IN["assigner"], "assigner: ATSSAssigner", "atss_topk")
    only(dcn != "none", "dcn: v1 or v2", "dcn_stages")
    only(backbone == "vit-adapter-s", "backbone: vit-adapter-s", "drop_path")
    resnet = backbone in BACKBONES and backbone != "vit-adapter-s"
    only(resnet, "a ResNet, ResNeXt or Res2Net", "frozen_stages", "norm_eval", "bn_requires_grad")
    only(backbone in BACKBONES, "a backbone of gfl-lab's", "base_channels")
    only(extra >= 2, "two pyramid levels more than the backbone has", "neck_relu")
    only(lr_schedule == "step", "lr_schedule: step", "lr_steps")
    only(warms_up, "warmup_iters above 0", "warmup_start_factor")
    only(decays, "weight_decay above 0", "no_decay")
    only(scales, "a scale_range with two ends", "scale_step")
    return MappingProxyType(found)


def _maps_used(settings: Settings) -> int:
    """Pyramid levels that come from maps of the backbone (strides 4, 8, 16, 32); the others are extra."""
    return sum(stride <= 32 for stride in settings.strides)


def _counted(settings: Settings, known_edges: bool) -> set[str]:
    """Inactive settings that count in a trial's id all the same.

    ``reg_max`` and ``bin_width`` do where they decide which sides are scored against known edges, or how wide an exported
    distribution is. Those of a registered backbone do since they always have: else finished trials would count as missing.
    """
    found = set()
    if settings.box == "gaussian" or known_edges:
        found |= {"reg_max", "bin_width"}
    if settings.backbone not in BACKBONES:
        found |= {"base_channels", "frozen_stages", "norm_eval", "bn_requires_grad"}
    return found


def effective(settings: Settings, known_edges: bool = True) -> dict[str, Any]:
    """Return what a trial's id holds of ``settings``, as JSON values.

    Left out are defaults, inactive settings and arguments that no component takes.

    Args:
        known_edges: whether the data set has the true edge distributions.
    """
    values = settings.model_dump(mode="json")
    own = {kind for kind, known in BUILT_IN.items() if getattr(settings, kind) not in known} | {"head"}
    values["component_args"] = {kind: given for kind, given in values["component_args"].items() if given and kind in own}
    idle, defaults = set(inactive(settings)) - _counted(settings, known_edges), _defaults()
    return {key: value for key, value in values.items() if value != defaults[key] and key not in idle}


def computed(settings: Settings) -> dict[str, Any]:
    """Return what training computes from ``settings``, as JSON values: equal for variants whose weights and AP are equal.

    It is coarser than ``effective``: other spellings of the same schedule, learning rate, freezing or loss are the same too.
    """
    idle = inactive(settings)
    values = {key: value for key, value in effective(settings).items() if key not in idle}
    values["epochs"] = total_epochs(settings)
    values.pop("schedule", None)
    if settings.base_batch_size in (0, settings.batch_size):
        values.pop("base_batch_size", None)
    if "frozen_stages" not in idle:
        values["frozen_stages"] = min(settings.frozen_stages, _stages(settings))
    if settings.dfl and settings.dfl_weight == 0 and settings.head in BUILT_IN["head"]:
        values.pop("dfl_weight", None)
        values |= {"dfl": False}
    return values


def _stages(settings: Settings) -> int:
    """Stages of the backbone that the pyramid uses."""
    return min(4, (4, 8, 16, 32).index(settings.strides[0]) + len(settings.strides))


@functools.cache
def _defaults() -> dict[str, Any]:
    return Settings().model_dump(mode="json")


def _is_class_name(name: str) -> bool:
    return name.isidentifier() and name[0].isupper()


class SettingsRuleError(ValueError):
    """Rules between or beyond single fields: (fields that it is about, message) for each that is broken.

    Attributes:
        problems: (the field that a message is shown at, message).
    """

    def __init__(self, broken: list[tuple[tuple[str, ...], str]]) -> None:
        self.broken = broken
        self.problems = [(about[0], message) for about, message in broken]
        super().__init__("; ".join(message for _, message in broken))


def group_of(key: str) -> str:
    """The group of a setting. Raises KeyError for an unknown key."""
    return Settings.model_fields[key].json_schema_extra["group"]


def help_of(key: str) -> str:
    """One line on a setting."""
    return Settings.model_fields[key].description or ""


class DataSpec(BaseModel):
    """The data a trial sees, by content: two folders with the same digest give the same trial id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str = Field(description="SHA-256 over annotations and images, first 16 hex digits")
    classes: tuple[str, ...]
    train_images: int = Field(description="training images that are used; those without a box, or too small, are left out")
    val_images: int
    truth: bool = Field(False, description="whether annotations carry the true edge distributions (ambiguous_shapes)")
    white_level: int = Field(0, ge=0, description="value of images of more than 8 bits that becomes 255; 0: there are none")

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the white level out where there is none: data sets of 8-bit images keep their trials' ids."""
        return {key: value for key, value in serialise(self).items() if key != "white_level" or value}


class ComponentFile(BaseModel):
    """A file of the user's code that a trial uses; its copy lies in the trial's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str = Field(description="SHA-256 of the file, first 16 hex digits")


class TrialSpec(BaseModel):
    """One trial, fully resolved: everything that its numbers depend on, and nothing else (no paths, no machine).

    ``weights_digest`` stands for the content of the initial weights. ``code`` is ``TRAINING_CODE_VERSION`` of the code
    that runs it, ``components`` the user's own (docs/extending.md).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings
    data: DataSpec
    seed: int = Field(ge=0, le=2**31 - 1)
    weights_digest: str = ""
    code: int
    components: tuple[ComponentFile, ...] = ()

    @property
    def id(self) -> str:
        """Content hash: 12 hex digits.

        Only settings that act and are not at their defaults count (``effective``), so that a setting that is added later
        changes no id. A default may therefore never change without raising ``TRAINING_CODE_VERSION``.
        """
        return self._digest(effective(self.settings, self.data.truth))

    @property
    def training_id(self) -> str:
        """Content hash of what the trained weights depend on: trials that differ in test settings alone have it in common.

        A component of the user's may read any setting, so with one it is the trial's own id.
        """
        settings = effective(self.settings, self.data.truth)
        if not self.components:
            settings = {key: value for key, value in settings.items() if group_of(key) != EVALUATION}
        return self._digest(settings)

    def _digest(self, settings: dict[str, Any]) -> str:
        """Return the hash of the trial with these settings in place of its own, under their first names (``renames``)."""
        content = self.model_dump(mode="json", exclude={"settings"})
        acting = {key: value for key, value in settings.items() if key != "init_weights"}  # weights_digest has its content
        content["settings"] = renames.first_edition(acting)
        content["data"].pop("name")
        components = content.pop("components")
        if components:
            content["components"] = sorted(file["digest"] for file in components)
        return naming.digest(content)


TRAINING_CODE_VERSION = 1
"""Raised whenever a change of our code changes the numbers of a trial, so that old results are not taken for new."""
