"""Every setting of a trial, flat: what an experiment may hold fixed, vary or leave to its profile.

One flat namespace, so that ``axes: {reg_max: [8, 16]}``, ``set: {lr: 0.02}`` and a profile's ``settings:`` all say the
same words. Each field belongs to a group; the fairness check and the comparison with published rows ask by group.
Defaults are the paper's (Li et al., arXiv 2006.04388; mmdet 3.3 ``configs/gfl``), except where a profile says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gfl_lab import naming

DETECTOR, MODEL, SCHEDULE, INPUT, EVALUATION = "detector", "model", "schedule", "input", "evaluation"


def _field(group: str, default: Any, help: str, **rules: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group}, **rules)


class Settings(BaseModel):
    """All settings of a variant, validated; a ``Settings`` that exists can be trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # --- detector: what GFL's ablations vary ---
    qfl: bool = _field(DETECTOR, True, "quality focal loss: one joint score of class and IoU; off: focal loss and a centerness branch")
    dfl: bool = _field(DETECTOR, True, "general box distribution with distribution focal loss; off: a Dirac box (delta-xywh)")
    qfl_beta: float = _field(
        DETECTOR, 2.0, "beta of QFL: 0 or at least 1; between them the gradient is NaN where the score equals the IoU", ge=0, le=16
    )
    reg_max: int = _field(DETECTOR, 16, "n: index of the last bin, so n+1 bins a side", ge=1, le=128)
    bin_width: float = _field(DETECTOR, 1.0, "Delta: distance between bins, in strides", gt=0, le=64)
    dfl_weight: float = _field(DETECTOR, 0.25, "weight of DFL", ge=0)
    box_weight: float = _field(DETECTOR, 2.0, "weight of the GIoU loss", ge=0)

    # --- model: what carries the head ---
    backbone: Literal["r18", "r34", "r50", "r101"] = _field(MODEL, "r50", "ResNet depth")
    base_channels: int = _field(MODEL, 64, "channels of the first ResNet stage; 64 is the published width", ge=4, le=256)
    weights: str = _field(MODEL, "random", "backbone start: random, torchvision (downloads), or the path of a weights file")
    frozen_stages: int = _field(
        MODEL, 1, "backbone stages that do not train: -1 none, 0 the stem, 1 stem and first stage, ...", ge=-1, le=4
    )
    norm_eval: bool = _field(MODEL, True, "keep the backbone's batch-norm statistics fixed")
    neck_channels: int = _field(MODEL, 256, "channels of the FPN", ge=8, le=1024)
    head_channels: int = _field(MODEL, 256, "channels of the head's towers, a multiple of 8", ge=8, le=1024, multiple_of=8)
    head_convs: int = _field(MODEL, 4, "3x3 convolutions in each tower", ge=1, le=8)
    strides: tuple[Literal[4, 8, 16, 32, 64, 128], ...] = _field(
        MODEL, (8, 16, 32, 64, 128), "strides of the pyramid levels, each twice the one before", min_length=1, max_length=6
    )
    anchor_scale: float = _field(MODEL, 8.0, "side of the square anchor, in strides", gt=0, le=64)

    atss_topk: int = _field(MODEL, 9, "k of ATSS: cells nearest to a box's centre that are candidates, on each level", ge=1, le=100)

    # --- schedule: the training budget and how it is spent ---
    epochs: int = _field(SCHEDULE, 12, "passes over the training images", ge=1, le=1000)
    batch_size: int = _field(SCHEDULE, 16, "images a step, over all GPUs", ge=1, le=1024)
    optimizer: Literal["sgd", "adamw"] = _field(SCHEDULE, "sgd", "SGD with momentum 0.9, or AdamW")
    lr: float = _field(SCHEDULE, 0.01, "peak learning rate, for this batch size", gt=0, le=10)
    weight_decay: float = _field(SCHEDULE, 1e-4, "weight decay", ge=0, le=1)
    lr_schedule: Literal["step", "cosine"] = _field(
        SCHEDULE, "step", "steps of 0.1 at 2/3 and 11/12 of the epochs (8 and 11 of 12), or cosine to 1% of lr"
    )
    warmup_iters: int = _field(SCHEDULE, 500, "iterations of linear warm-up from 0.001 of lr", ge=0)
    clip_grad_norm: float = _field(SCHEDULE, 0.0, "clip gradients to this norm; 0 does not", ge=0)
    flip: float = _field(SCHEDULE, 0.5, "probability of a horizontal flip in training", ge=0, le=1)

    # --- input ---
    image_size: tuple[Annotated[int, Field(ge=32, le=8192)], Annotated[int, Field(ge=32, le=8192)]] = _field(
        INPUT, (1333, 800), "longest and shortest side that an image is scaled into, ratio kept, px"
    )
    pad_to: int = _field(INPUT, 32, "pad images to a multiple of this, px", ge=1, le=256)

    # --- evaluation protocol ---
    score_thr: float = _field(EVALUATION, 0.05, "class scores below this are no detections", ge=0, lt=1)
    nms_iou: float = _field(EVALUATION, 0.6, "IoU of non-maximum suppression, class by class", gt=0, le=1)
    nms_pre: int = _field(EVALUATION, 1000, "(location, class) pairs kept per level before NMS", ge=1)
    max_dets: int = _field(EVALUATION, 100, "detections kept per image", ge=1, le=1000)

    @field_validator("strides", "image_size", mode="before")
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
        if problems:
            raise SettingsRuleError(problems)
        return self


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


class TrialSpec(BaseModel):
    """One trial, fully resolved: everything that its numbers depend on, and nothing else (no paths, no machine).

    ``weights_digest`` stands for the content of the initial weights. ``code`` is ``TRAINING_CODE_VERSION`` of the code
    that runs it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings
    data: DataSpec
    seed: int = Field(ge=0, le=2**31 - 1)
    weights_digest: str = ""
    code: int

    @property
    def id(self) -> str:
        """Content hash: 12 hex digits."""
        content = self.model_dump(mode="json")
        content["settings"].pop("weights")  # its content counts (weights_digest), not where it lies
        content["data"].pop("name")
        return naming.digest(content)


TRAINING_CODE_VERSION = 1
"""Raised whenever a change of our code changes the numbers of a trial, so that old results are not taken for new."""
