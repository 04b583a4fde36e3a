"""From ``Settings`` to a detector: a backbone, FPN and ``GFLFamilyHead`` in mmdet's ``GFL``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from torch import nn

from gfl_lab.detector.assigners import ASSIGNERS
from gfl_lab.detector.backbones import backbone_config
from gfl_lab.detector.box_forms import BOX_FORMS
from gfl_lab.detector.class_loss import CLASS_LOSSES
from gfl_lab.detector.qualities import QUALITIES
from gfl_lab.spec.backbones import BACKBONE_STRIDES
from gfl_lab.spec.bins import has_weighted_bins
from gfl_lab.spec.choices import BUILT_IN
from gfl_lab.spec.settings import Settings

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""ImageNet statistics, RGB, of pixels 0..255."""


def component(settings: Settings, kind: str) -> dict[str, Any]:
    """Return the config of a registered component of the user's: its class and ``component_args``."""
    given: dict[str, dict[str, Any]] = {str(name): values for name, values in settings.component_args.items()}
    return {"type": getattr(settings, kind), **given.get(kind, {})}


def model_config(settings: Settings, num_classes: int) -> ConfigDict:
    """Return the mmdet config of the detector.

    ``init_weights`` is not in the config: the trainer loads it, safely, into ``model.backbone`` (checkpoints/pretrained.py).

    Args:
        settings: groups detector, model, input and evaluation are used.
        num_classes: C.
    """
    first = BACKBONE_STRIDES.index(settings.strides[0])
    stages = min(len(BACKBONE_STRIDES), first + len(settings.strides))  # no stage that no level uses
    backbone, channels = backbone_config(settings, stages)
    config = {
        "type": "GFL",
        "data_preprocessor": {
            "type": "mmdet.BatchPreprocessor",
            # scope in the name: mmengine builds this one by its own registry
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "bgr_to_rgb": True,
            "pad_size_divisor": settings.pad_to,
        },
        "backbone": backbone,
        "neck": {
            "type": "FPN",
            "in_channels": channels,
            "out_channels": settings.neck_channels,
            "start_level": first,
            **({"end_level": stages - 1} if len(channels) > stages else {}),  # a backbone that always has all its maps
            "add_extra_convs": "on_output",
            "num_outs": len(settings.strides),
            "relu_before_extra_convs": settings.neck_relu,
        },
        "bbox_head": head_config(settings, num_classes),
        "train_cfg": {
            "assigner": _assigner(settings),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {
            "nms_pre": settings.nms_pre,
            "min_bbox_size": 0,
            "score_thr": settings.score_thr,
            "nms": {"type": "nms", "iou_threshold": settings.nms_iou},
            "max_per_img": settings.max_dets,
        },
    }
    return ConfigDict(config)


def head_config(settings: Settings, num_classes: int) -> dict[str, Any]:
    """Return the config of the dense head.

    Each quality and box form names the settings that decide its fields (``settings`` of its class).

    Args:
        settings: groups detector and model are used.
        num_classes: C.
    """
    box_type = f"dirac_{settings.bbox_coder}" if settings.box == "dirac" else "weighted" if has_weighted_bins(settings) else settings.box
    box = _part(settings, box_type, BOX_FORMS[box_type].settings)
    if not settings.trains_dfl and "dfl_weight" in box:
        box["dfl_weight"] = 0.0
    whole = settings.box_loss if settings.box_loss in BUILT_IN["box_loss"] else component(settings, "box_loss")
    return {
        "type": settings.head,
        "num_classes": num_classes,
        "in_channels": settings.neck_channels,
        "feat_channels": settings.head_channels,
        "tower": {"convs": settings.head_convs, "bias": settings.tower_bias},
        "quality": _part(settings, settings.quality, QUALITIES[settings.quality].settings),
        "box": box,
        "box_loss": {"loss": whole, "weight": settings.box_loss_weight, "weighting": settings.box_weighting},
        "cls_loss": _class_loss(settings),
        **settings.component_args.get("head", {}),
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": settings.anchor_scale,
            "scales_per_octave": 1,
            "strides": list(settings.strides),
        },
    }


def _assigner(settings: Settings) -> dict[str, Any]:
    if settings.assigner == "ATSSAssigner":
        return {"type": "ATSSAssigner", "topk": settings.atss_topk}
    own = ASSIGNERS.get(settings.assigner)
    return component(settings, "assigner") if own is None else _part(settings, settings.assigner, own.settings)


def _class_loss(settings: Settings) -> dict[str, Any] | None:
    """Return the config of the class loss; None for the quality's own."""
    if settings.cls_loss == "auto":
        return None
    own = CLASS_LOSSES.get(settings.cls_loss)
    return component(settings, "cls_loss") if own is None else _part(settings, settings.cls_loss, own.settings)


def _part(settings: Settings, kind: str, fields: Mapping[str, str]) -> dict[str, Any]:
    return {"type": kind, **{field: getattr(settings, setting) for setting, field in fields.items()}}


def build_detector(settings: Settings, num_classes: int) -> nn.Module:
    """Return the detector with randomly initialised weights, for notebooks and tests."""
    model = MODELS.build(model_config(settings, num_classes))
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # mmengine reports each parameter's initialisation
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)
    return model
