"""Configs that are no detectors of boxes on images, or need what a trial does not have, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gfl_lab.errors import InputError, Problem

_NO_BOXES = "it finds masks or regions without classes, so it has no box AP"
_MASKS = "its training needs masks, and the data have boxes alone"
_TRACKING = "it follows objects through videos, and the data are single images"
_TEXT = "it reads text beside the image"
_TEACHER = "it learns from another detector's weights, which the config names by a path"
_UNLABELLED = "it learns from images without labels too"

_ONLY_IN_TRAINING = (_MASKS,)
"""Reasons that weights which are trained already do not have."""

REFUSED = {
    **dict.fromkeys(("RPN", "SOLO", "SOLOv2", "MaskFormer", "Mask2Former", "PanopticFPN"), _NO_BOXES),
    **dict.fromkeys(("YOLACT", "CondInst", "BoxInst"), _MASKS),
    **dict.fromkeys(
        ("MaskTrackRCNN", "Mask2FormerVideo", "ByteTrack", "DeepSORT", "OCSORT", "QDTrack", "StrongSORT", "BaseReID"), _TRACKING
    ),
    **dict.fromkeys(("GLIP", "GroundingDINO"), _TEXT),
    **dict.fromkeys(("KnowledgeDistillationSingleStageDetector", "LAD"), _TEACHER),
    **dict.fromkeys(("SoftTeacher", "SemiBaseDetector"), _UNLABELLED),
    "FastRCNN": "it takes regions from a file that another detector has made",
    "Detectron2Wrapper": "its model is detectron2's, which is not installed",
    "CrowdDet": "it predicts two boxes for each region and is scored by other rules than COCO's",
}
"""Reasons by the ``type`` of the model."""

REFUSED_HEADS = {"RTMDetInsHead": _MASKS, "RTMDetInsSepBNHead": _MASKS}
"""Reasons by the ``type`` of the dense head."""

_WAYS = {_TEACHER: "Give the variant a `teacher` of its own (docs/variants.md)."}


def check(detector: str, model: Mapping[str, Any]) -> None:
    """Refuse a config that cannot be trained and scored on a data set in COCO format.

    Args:
        detector: the setting. model: of its config.

    Raises:
        InputError: with the reason.
    """
    if reason := _reason(model):
        raise InputError(Problem(f"{detector} cannot be a variant: {model['type']}: {reason}", hint=_WAYS.get(reason, "")))


def check_trained(detector: str, model: Mapping[str, Any]) -> None:
    """Refuse a config whose trained weights cannot detect objects on images.

    Args:
        detector: the setting. model: of its config.

    Raises:
        InputError: with the reason.
    """
    if (reason := _reason(model)) and reason not in _ONLY_IN_TRAINING:
        raise InputError(Problem(f"weights of {detector} cannot be used: {model['type']}: {reason}"))


def _reason(model: Mapping[str, Any]) -> str | None:
    head = model.get("bbox_head")
    head_kind = str(head.get("type")) if isinstance(head, Mapping) else ""
    reason = REFUSED.get(str(model["type"])) or REFUSED_HEADS.get(head_kind)
    if reason is None and isinstance(model.get("detector"), Mapping):
        reason = "it is built around another detector, in model.detector"
    return reason
