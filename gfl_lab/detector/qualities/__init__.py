"""Estimates of the localisation quality of boxes: each is a class in a file of its own.

==================  ==========================================================  ===========================
``quality``         classification loss                                         score at test
==================  ==========================================================  ===========================
none                focal loss                                                  class
centerness          focal loss; a branch learns the centerness                  class * branch
iou                 focal loss; a branch learns the IoU                         class * branch
centerness_guided   focal loss, positives weighted by their centerness          class
iou_guided          focal loss, positives weighted by their IoU                 class
joint               QFL: the class score is the IoU                             class
dgqp                QFL on class * quality, read off the box distribution       class * quality
==================  ==========================================================  ===========================

The default weight of a positive's box losses is ``spec.shorthand.default_box_weighting``.
"""

from __future__ import annotations

from typing import Any

from gfl_lab.detector.parts import build_part
from gfl_lab.detector.qualities.base import Quality, QualityTargets
from gfl_lab.detector.qualities.branch import CenternessBranch, IouBranch
from gfl_lab.detector.qualities.dgqp import Dgqp
from gfl_lab.detector.qualities.guided import CenternessGuided, IouGuided
from gfl_lab.detector.qualities.joint import Joint
from gfl_lab.detector.qualities.none import NoQuality

QUALITIES: dict[str, type[Quality]] = {
    "none": NoQuality,
    "centerness": CenternessBranch,
    "iou": IouBranch,
    "centerness_guided": CenternessGuided,
    "iou_guided": IouGuided,
    "joint": Joint,
    "dgqp": Dgqp,
}
"""The estimates by the ``type`` of a head's ``quality``, which is the value of the setting."""


def build_quality(config: str | dict[str, Any]) -> Quality:
    """Return the estimate of a ``type``, or of ``{"type": ..., field: value, ...}``. Raises ValueError, naming what is wrong."""
    return build_part("quality", QUALITIES, config)


__all__ = ["QUALITIES", "Quality", "QualityTargets", "build_quality"]
