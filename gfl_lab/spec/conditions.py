"""Conditions under which a setting acts. Each stands at the fields that it is for; messages, docs and searches use its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gfl_lab.spec.backbones import BACKBONES, acts
from gfl_lab.spec.bins import has_weighted_bins
from gfl_lab.spec.choices import BUILT_IN, JOINT, OWN

if TYPE_CHECKING:
    from gfl_lab.spec.settings import Settings


class Condition(str):
    """The text of a condition ("acts only with ..."), with its test.

    It is text, so that it can stand in a field's JSON schema.
    """

    holds: Callable[[Settings], bool]

    def __new__(cls, text: str, holds: Callable[[Settings], bool]) -> Condition:
        """Make a condition. ``holds`` takes complete settings."""
        made = super().__new__(cls, text)
        made.holds = holds
        return made


def _in_head(text: str, holds: Callable[[Settings], bool]) -> Condition:
    """Return a condition of the detector's own head. A head of the user's may read any setting, so there it always holds."""
    return Condition(text, lambda s: s.head not in BUILT_IN["head"] or holds(s))


def _maps_used(settings: Settings) -> int:
    """Return how many pyramid levels come from maps of the backbone (strides 4, 8, 16, 32); the others are extra."""
    return sum(stride <= 32 for stride in settings.strides)


WITH_OWN = Condition("detector: gfl", lambda s: s.detector == OWN)
WITH_MMDET = Condition("detector: mmdet:NAME or a config file", lambda s: s.detector != OWN)
WITH_PROFILE = Condition("recipe: profile", lambda s: s.recipe == "profile")
WITH_CONFIG = Condition("recipe: config", lambda s: s.recipe == "config")
WITH_QFL = _in_head("quality: joint or dgqp, with cls_loss: auto", lambda s: s.quality in JOINT and s.cls_loss == "auto")
WITH_VARIFOCAL = _in_head("cls_loss: varifocal", lambda s: s.cls_loss == "varifocal")
WITH_QUALITY_BRANCH = _in_head("quality: centerness or iou", lambda s: s.quality in ("centerness", "iou"))
WITH_GUIDED_LOSS = _in_head("quality: centerness_guided or iou_guided", lambda s: s.quality.endswith("_guided"))
WITH_DGQP = _in_head("quality: dgqp", lambda s: s.quality == "dgqp")
WITH_GENERAL_BOX = _in_head("a general box (dfl: true, or box: general)", lambda s: s.box == "general")
WITH_WEIGHTED_BINS = _in_head("a general box with bins: weighted", has_weighted_bins)
WITH_BINS = _in_head(
    "a general box with bins: uniform, a gaussian or direct one, or bbox_coder: distance",
    lambda s: s.bbox_coder == "distance" if s.box == "dirac" else not has_weighted_bins(s),
)
WITH_DIRAC_BOX = _in_head("box: dirac", lambda s: s.box == "dirac")
WITH_GAUSSIAN_BOX = _in_head("box: gaussian", lambda s: s.box == "gaussian")
WITH_BOX_LOSS = _in_head("a box that is not Gaussian, or gaussian_box_loss: true", lambda s: s.box != "gaussian" or s.gaussian_box_loss)
WITH_DFL = _in_head("dfl: true", lambda s: s.trains_dfl)
WITH_ATSS = Condition("assigner: ATSSAssigner", lambda s: s.assigner == "ATSSAssigner")
WITH_FCOS = _in_head("assigner: fcos", lambda s: s.assigner == "fcos")
WITH_MAX_IOU = _in_head("assigner: max_iou", lambda s: s.assigner == "max_iou")
WITH_LOW_QUALITY = _in_head("assigner: max_iou with max_iou_low_quality: true", lambda s: s.assigner == "max_iou" and s.max_iou_low_quality)
WITH_TAL = _in_head("assigner: tal", lambda s: s.assigner == "tal")
WITH_SIMOTA = _in_head("assigner: simota", lambda s: s.assigner == "simota")
WITH_DISTILLATION = Condition("distillation: ld or kd", lambda s: s.detector == OWN and s.distillation != "none")
WITH_LD = Condition("distillation: ld", lambda s: s.distillation == "ld")
WITH_KD = Condition("distillation: kd", lambda s: s.distillation == "kd")
WITH_DCN = Condition("dcn: v1 or v2", lambda s: s.dcn != "none")
WITH_VIT_ADAPTER = Condition("backbone: vit-adapter-s", lambda s: acts("drop_path", s.backbone))
WITH_RESNET = Condition("a ResNet, ResNeXt or Res2Net", lambda s: acts("frozen_stages", s.backbone))
WITH_BUILT_IN_BACKBONE = Condition("a backbone of gfl-lab's", lambda s: s.backbone in BACKBONES)
WITH_TWO_EXTRA_LEVELS = Condition("two pyramid levels more than the backbone has", lambda s: len(s.strides) - _maps_used(s) >= 2)
WITH_STEPS = Condition("lr_schedule: step", lambda s: s.lr_schedule == "step")
WITH_WARMUP = Condition("warmup_iters above 0", lambda s: s.warmup_iters > 0)
WITH_WEIGHT_DECAY = Condition("weight_decay above 0", lambda s: s.weight_decay > 0)
WITH_SCALES = Condition("a scale_range with two ends", lambda s: s.scale_range[0] != s.scale_range[1])
