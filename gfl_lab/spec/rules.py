"""Rules between settings, and beyond the type of one: which combinations can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gfl_lab.spec import cfg_options, shorthand
from gfl_lab.spec.backbones import BACKBONES, with_dcn
from gfl_lab.spec.bins import has_weighted_bins
from gfl_lab.spec.choices import BUILT_IN, MMDET, OWN
from gfl_lab.spec.registered import CLASS_RULE, near_class

if TYPE_CHECKING:
    from gfl_lab.spec.settings import Settings

Broken = tuple[tuple[str, ...], str]
"""(settings that a rule is about, message); the message is shown at the first of the settings."""


class SettingsRuleError(ValueError):
    """Rules between or beyond single fields that settings break.

    Attributes:
        broken: (settings that the rule is about, message) for each.
        problems: (the setting that a message is shown at, message).
    """

    def __init__(self, broken: list[Broken]) -> None:
        self.broken = broken
        self.problems = [(about[0], message) for about, message in broken]
        super().__init__("; ".join(message for _, message in broken))


def broken_rules(settings: Settings) -> list[Broken]:
    """Return every rule that complete settings break, in the order in which they are shown."""
    options = [(("cfg_options",), message) for message in cfg_options.broken(settings.cfg_options)]
    if settings.detector != OWN:
        return [*options, *_mmdet(settings), *(problem for problem in _input(settings) if problem[0] != ("strides",))]
    return [
        *options,
        *_input(settings),
        *shorthand.contradictions(settings),
        *_dgqp(settings),
        *_bins(settings),
        *_losses(settings),
        *_assigner(settings),
        *_backbone(settings),
        *_registered(settings),
    ]


def _mmdet(s: Settings) -> Iterator[Broken]:
    if not (s.detector.endswith(".py") or (s.detector.startswith(MMDET) and len(s.detector) > len(MMDET))):
        message = f"detector is {s.detector!r}: it must be gfl, mmdet:NAME with the name of one of mmdet's configs, or a config file (.py)"
        yield ("detector",), message


def _input(s: Settings) -> Iterator[Broken]:
    if any(b != 2 * a for a, b in zip(s.strides, s.strides[1:], strict=False)):
        yield ("strides",), f"strides are {list(s.strides)}: each must be twice the one before"
    if s.strides[0] > 32:
        yield ("strides",), f"strides start at {s.strides[0]}: the backbone has 4, 8, 16 and 32, so the first must be at most 32"
    if s.image_size[0] < s.image_size[1]:
        yield ("image_size",), f"image_size is {list(s.image_size)}: the longest side comes first"
    if s.scale_range[0] > s.scale_range[1]:
        yield ("scale_range",), f"scale_range is {list(s.scale_range)}: the smaller end comes first"


def _dgqp(s: Settings) -> Iterator[Broken]:
    if s.quality != "dgqp":
        return
    if s.box != "general":
        yield ("quality", "box", "dfl"), f"quality: dgqp reads the distribution of a general box, and box is {s.box}"
    if s.dgqp_topk > s.reg_max + 1:
        message = f"dgqp_topk is {s.dgqp_topk}, but a side has {s.reg_max + 1} bins (reg_max + 1)"
        yield ("dgqp_topk", "reg_max", "quality"), message
    if not (s.dgqp_topk or s.dgqp_mean or s.dgqp_variance):
        message = "dgqp_topk is 0 and dgqp_mean and dgqp_variance are off: the predictor would see nothing"
        yield ("dgqp_topk", "dgqp_mean", "dgqp_variance", "quality"), message


def _bins(s: Settings) -> Iterator[Broken]:
    if has_weighted_bins(s) and (s.reg_max < 4 or s.reg_max % 2):
        message = f"reg_max is {s.reg_max}: with bins: weighted it must be even and at least 4, since W(n) has a middle bin"
        yield ("reg_max", "bins", "box", "dfl"), message


def _losses(s: Settings) -> Iterator[Broken]:
    if s.cls_loss != "auto" and s.quality in ("dgqp", "centerness_guided", "iou_guided"):
        message = f"cls_loss: {s.cls_loss} would not see the quality that quality: {s.quality} brings into the loss"
        yield ("cls_loss", "quality"), message
    elif s.cls_loss == "varifocal" and s.quality != "joint":
        message = f"cls_loss: varifocal learns the IoU, and quality: {s.quality} has another target; give quality: joint"
        yield ("cls_loss", "quality"), message


def _assigner(s: Settings) -> Iterator[Broken]:
    if s.assigner == "max_iou" and s.max_iou_negative > s.max_iou_positive:
        message = f"max_iou_negative is {s.max_iou_negative}, above max_iou_positive, {s.max_iou_positive}: an anchor would be both"
        yield ("max_iou_negative", "max_iou_positive", "assigner"), message


def _backbone(s: Settings) -> Iterator[Broken]:
    entry = BACKBONES.get(s.backbone)
    if entry and s.pad_to % entry.pad_to:
        message = f"pad_to is {s.pad_to}: backbone {s.backbone} takes images padded to a multiple of {entry.pad_to}"
        yield ("pad_to", "backbone"), message
    if s.dcn != "none" and not (entry and entry.dcn):
        yield ("dcn", "backbone"), f"backbone {s.backbone} has no deformable form; {', '.join(with_dcn())} have"


def _registered(s: Settings) -> Iterator[Broken]:
    for key, built_in in BUILT_IN.items():
        value = getattr(s, key)
        if value not in built_in and not (value.isidentifier() and value[0].isupper()):
            hint = f"it must be one of {', '.join(built_in)}, or {CLASS_RULE} (docs/extending.md)"
            yield (key,), f"{key} is {value!r}: {hint}" + (f"; did you mean {near}?" if (near := near_class(key, value)) else "")
