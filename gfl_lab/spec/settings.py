"""Every setting of a trial, flat: what an experiment may hold fixed, vary or leave to its profile.

One flat namespace, so that ``axes: {reg_max: [8, 16]}``, ``set: {lr: 0.02}`` and a profile's ``settings:`` all say the
same words. Each field belongs to a group; the fairness check and the comparison with published rows ask by group.
Defaults are the paper's (Li et al., arXiv 2006.04388; mmdet 3.3 ``configs/gfl``), except where a profile says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gfl_lab import naming

DETECTOR, MODEL, SCHEDULE, INPUT, EVALUATION = "detector", "model", "schedule", "input", "evaluation"


JOINT, NOT_JOINT = ("joint", "dgqp"), ("centerness", "none", "iou", "centerness_guided", "iou_guided")
"""Forms of ``quality`` with and without quality focal loss; the first is what ``qfl`` alone means."""

_SHORT = (("qfl", "quality", JOINT, NOT_JOINT), ("dfl", "box", ("general",), ("dirac", "gaussian", "general")))
"""A switch, the setting it is short for, and that setting's values when it is on and off."""

BACKBONES = ("r18", "r34", "r50", "r101", "r18vd", "r34vd", "r50vd", "r101vd", "x101-32x4d", "x101-32x8d", "r2-101", "vit-adapter-s")
PRETRAINED_BACKBONES = ("r18", "r34", "r50", "r101", "x101-32x4d", "x101-32x8d", "r2-101", "vit-adapter-s")
"""Backbones with published weights that ``weights: pretrained`` can download (train/checkpoint.py)."""
DCN_BACKBONES = ("r50", "r101", "x101-32x4d", "x101-32x8d", "r2-101")

BUILT_IN: dict[str, tuple[str, ...]] = {
    "head": ("GFLFamilyHead",),
    "cls_loss": ("auto",),
    "box_loss": ("giou", "diou", "ciou", "iou"),
    "assigner": ("ATSSAssigner",),
    "backbone": BACKBONES,
}
"""Settings that may also name a registered class of the user's, and what they may be without one."""


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
    dfl_weight: float = _field(DETECTOR, 0.25, "weight of DFL", ge=0)
    box_loss: str = _field(DETECTOR, "giou", "loss of the whole box: giou, diou, ciou, iou, or a registered loss of yours")
    box_weight: float = _field(DETECTOR, 2.0, "weight of the loss of the whole box", ge=0)
    box_weighting: Literal["auto", "score", "centerness", "iou", "uniform"] = _field(
        DETECTOR,
        "auto",
        "what weighs the box losses of a positive; auto: score for joint and dgqp, centerness for centerness, else uniform",
    )
    dirac_coder: Literal["delta", "distance"] = _field(
        DETECTOR,
        "delta",
        "Dirac box: delta-xywh of the anchor (ATSS), or the exponential of the side distances in halves of the anchor (FCOS)",
    )
    gaussian_weight: float = _field(DETECTOR, 1.0, "weight of the Gaussian box's likelihood, mean over the four sides", ge=0)
    gaussian_box_loss: bool = _field(DETECTOR, False, "Gaussian box: add the loss of the whole box, on the means; the paper has none")
    quality_weight: float = _field(DETECTOR, 1.0, "weight of the centerness or IoU branch's loss", ge=0)
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
    weights: str = _field(
        MODEL, "random", "backbone start: random, pretrained (downloads what is published), or the path of a weights file"
    )
    frozen_stages: int = _field(MODEL, 1, "ResNet stages that do not train: -1 none, 0 the stem, 1 stem and first stage, ...", ge=-1, le=4)
    norm_eval: bool = _field(MODEL, True, "keep the ResNet's batch-norm statistics fixed")
    norm_train: bool = _field(MODEL, True, "train scale and shift of the ResNet's batch norms in stages that train")
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
    arguments: dict[Literal["head", "cls_loss", "box_loss", "assigner", "backbone"], dict[str, Any]] = _field(
        MODEL, {}, "constructor arguments for registered components, e.g. {head: {temperature: 2.0}}"
    )

    # --- schedule: the training budget and how it is spent ---
    epochs: int = _field(SCHEDULE, 12, "passes over the training images in a 1x schedule", ge=1, le=1000)
    schedule: Literal["1x", "2x", "3x"] = _field(SCHEDULE, "1x", "multiplies epochs")
    batch_size: int = _field(SCHEDULE, 16, "images a step", ge=1, le=1024)
    optimizer: Literal["sgd", "adamw"] = _field(SCHEDULE, "sgd", "SGD with momentum 0.9, or AdamW")
    lr: float = _field(SCHEDULE, 0.01, "peak learning rate, for lr_batch images", gt=0, le=10)
    lr_batch: int = _field(
        SCHEDULE,
        0,
        "batch size that lr is meant for: lr is scaled to batch_size, linearly (SGD) or by the root (AdamW); 0 is not",
        ge=0,
        le=65536,
    )
    weight_decay: float = _field(SCHEDULE, 1e-4, "weight decay", ge=0, le=1)
    no_decay: tuple[str, ...] = _field(SCHEDULE, (), "parameters whose name contains one of these have no weight decay")
    bias_lr: float = _field(SCHEDULE, 1.0, "learning rate of biases, as a factor", gt=0, le=10)
    lr_schedule: Literal["step", "cosine"] = _field(SCHEDULE, "step", "drops of 0.1 at lr_steps, or cosine to 1% of lr")
    lr_steps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = _field(
        SCHEDULE, (0.6667, 0.9167), "where the step schedule drops, in parts of all epochs: 8 and 11 of 12"
    )
    warmup_iters: int = _field(SCHEDULE, 500, "iterations of linear warm-up", ge=0)
    warmup_factor: float = _field(SCHEDULE, 0.001, "where the warm-up starts, as a part of lr", gt=0, le=1)
    clip_grad_norm: float = _field(SCHEDULE, 0.0, "clip gradients to this norm; 0 does not", ge=0)
    ema: float = _field(SCHEDULE, 0.0, "decay of the moving average of weights that is evaluated, e.g. 0.9998; 0 has none", ge=0, lt=1)
    precision: Literal["float32", "bfloat16", "float16"] = _field(SCHEDULE, "float32", "float32, or autocast of the forward pass")
    flip: float = _field(SCHEDULE, 0.5, "probability of a horizontal flip in training", ge=0, le=1)
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
    nms_pre: int = _field(EVALUATION, 1000, "(location, class) pairs kept per level before NMS", ge=1)
    max_dets: int = _field(EVALUATION, 100, "detections kept per image", ge=1, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        return complete(values) if isinstance(values, dict) else values

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
        problems = []
        if any(b != 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False)):
            problems.append(("strides", f"strides are {list(self.strides)}: each must be twice the one before"))
        if self.strides[0] > 32:
            problems.append(
                ("strides", f"strides start at {self.strides[0]}: the backbone has 4, 8, 16 and 32, so the first must be at most 32")
            )
        if self.image_size[0] < self.image_size[1]:
            problems.append(("image_size", f"image_size is {list(self.image_size)}: the longest side comes first"))
        if self.scale_range[0] > self.scale_range[1]:
            problems.append(("scale_range", f"scale_range is {list(self.scale_range)}: the smaller end comes first"))
        if self.qfl != (self.quality in JOINT):
            problems.append(("quality", f"qfl: {str(self.qfl).lower()} contradicts quality: {self.quality}; give one of the two"))
        if self.dfl and self.box != "general":
            problems.append(("box", f"dfl: true contradicts box: {self.box}, which has no bins; give box: general or dfl: false"))
        if self.quality == "dgqp":
            if self.box != "general":
                problems.append(("quality", f"quality: dgqp reads the distribution of a general box, and box is {self.box}"))
            if self.dgqp_topk > self.reg_max + 1:
                problems.append(("dgqp_topk", f"dgqp_topk is {self.dgqp_topk}, but a side has {self.reg_max + 1} bins (reg_max + 1)"))
            if not (self.dgqp_topk or self.dgqp_mean or self.dgqp_variance):
                problems.append(("dgqp_topk", "dgqp_topk is 0 and dgqp_mean and dgqp_variance are off: the predictor would see nothing"))
        if self.cls_loss != "auto" and self.quality in ("dgqp", "centerness_guided", "iou_guided"):
            problems.append(
                ("cls_loss", f"cls_loss: {self.cls_loss} would not see the quality that quality: {self.quality} brings into the loss")
            )
        if self.backbone == "vit-adapter-s" and self.pad_to % 32:
            problems.append(("pad_to", f"pad_to is {self.pad_to}: backbone vit-adapter-s takes images padded to a multiple of 32"))
        if self.dcn != "none" and self.backbone not in DCN_BACKBONES:
            problems.append(("dcn", f"backbone {self.backbone} has no deformable form; {', '.join(DCN_BACKBONES)} have"))
        for key, built_in in BUILT_IN.items():
            value = getattr(self, key)
            if value not in built_in and not _is_class_name(value):
                hint = f"it must be one of {', '.join(built_in)}, or the name of a registered class (docs/extending.md)"
                problems.append((key, f"{key} is {value!r}: {hint}"))
        if problems:
            raise SettingsRuleError(problems)
        return self


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


def inert(settings: Settings) -> frozenset[str]:
    """Settings that nothing reads beside the others of ``settings``, so that they change no number.

    ``reg_max`` and ``bin_width`` are never among them: distances of every box form are measured in bins. With a head of the
    user's nothing of the detector is, because it may read anything.
    """
    found = set()

    def unless(acts: bool, *names: str) -> None:
        if not acts:
            found.update(names)

    if settings.head in BUILT_IN["head"]:
        unless(settings.quality in JOINT and settings.cls_loss == "auto", "qfl_beta")
        unless(settings.quality in ("centerness", "iou"), "quality_weight")
        unless(settings.quality.endswith("_guided"), "guided_eta", "guided_renormalise")
        unless(settings.quality == "dgqp", *(name for name in Settings.model_fields if name.startswith("dgqp_")))
        unless(settings.box == "general", "decode")
        unless(settings.box == "dirac", "dirac_coder")
        unless(settings.box == "gaussian", "gaussian_weight", "gaussian_box_loss")
        unless(settings.box != "gaussian" or settings.gaussian_box_loss, "box_loss", "box_weight")
        unless(settings.dfl, "dfl_weight")
    unless(settings.dcn != "none", "dcn_stages")
    unless(settings.backbone == "vit-adapter-s", "drop_path")
    unless(settings.backbone != "vit-adapter-s", "frozen_stages", "norm_eval", "norm_train")
    unless(settings.lr_schedule == "step", "lr_steps")
    unless(settings.scale_range[0] != settings.scale_range[1], "scale_step")
    return frozenset(found)


def effective(settings: Settings) -> dict[str, Any]:
    """What ``settings`` compute, as JSON values: without those at their defaults, the inert ones and arguments nobody takes."""
    values = settings.model_dump(mode="json")
    own = {kind for kind, known in BUILT_IN.items() if getattr(settings, kind) not in known} | {"head"}
    values["arguments"] = {kind: given for kind, given in values["arguments"].items() if given and kind in own}
    defaults, idle = Settings().model_dump(mode="json"), inert(settings)
    return {key: value for key, value in values.items() if value != defaults[key] and key not in idle}


def _is_class_name(name: str) -> bool:
    return name.isidentifier() and name[0].isupper()


class SettingsRuleError(ValueError):
    """Rules between or beyond single fields: (field, message) for each that is broken."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(message for _, message in problems))


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
        return self._digest(effective(self.settings))

    @property
    def training_id(self) -> str:
        """Content hash of what the trained weights depend on: trials that differ in test settings alone have it in common.

        A component of the user's may read any setting, so with one it is the trial's own id.
        """
        settings = effective(self.settings)
        if not self.components:
            settings = {key: value for key, value in settings.items() if group_of(key) != EVALUATION}
        return self._digest(settings)

    def _digest(self, settings: dict[str, Any]) -> str:
        """Hash of the trial with these settings in place of its own."""
        content = self.model_dump(mode="json")
        content["settings"] = {key: value for key, value in settings.items() if key != "weights"}  # weights_digest has its content
        content["data"].pop("name")
        components = content.pop("components")
        if components:
            content["components"] = sorted(file["digest"] for file in components)
        return naming.digest(content)


TRAINING_CODE_VERSION = 1
"""Raised whenever a change of our code changes the numbers of a trial, so that old results are not taken for new."""
