"""From ``Settings`` to a detector: ResNet, FPN and ``GFLFamilyHead`` in mmdet's ``GFL``."""

from __future__ import annotations

import logging

from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from torch import nn

from gfl_lab.spec.settings import Settings

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""ImageNet statistics, RGB, of pixels 0..255."""

BACKBONE_STRIDES = (4, 8, 16, 32)
"""Strides of the four ResNet stages."""

_DEPTHS = {"r18": 18, "r34": 34, "r50": 50, "r101": 101}


def model_config(settings: Settings, num_classes: int) -> ConfigDict:
    """mmdet config of the detector.

    ``weights`` is not in the config: the trainer loads it, safely, into ``model.backbone`` (train/checkpoint.py).

    Args:
        settings: groups detector, model, input and evaluation are used.
        num_classes: C.
    """
    depth = _DEPTHS[settings.backbone]
    expansion = 1 if depth < 50 else 4
    first = BACKBONE_STRIDES.index(settings.strides[0])
    stages = min(len(BACKBONE_STRIDES), first + len(settings.strides))  # no stage that no level uses
    config = {
        "type": "GFL",
        "data_preprocessor": {
            "type": "mmdet.DetDataPreprocessor",
            # scope in the name: mmengine builds this one by its own registry
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "bgr_to_rgb": True,
            "pad_size_divisor": settings.pad_to,
        },
        "backbone": {
            "type": "ResNet",
            "depth": depth,
            "base_channels": settings.base_channels,
            "num_stages": stages,
            "strides": (1, 2, 2, 2)[:stages],
            "dilations": (1,) * stages,
            "out_indices": tuple(range(stages)),
            "frozen_stages": min(settings.frozen_stages, stages),
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "norm_eval": settings.norm_eval,
            "style": "pytorch",
        },
        "neck": {
            "type": "FPN",
            "in_channels": [settings.base_channels * 2**stage * expansion for stage in range(stages)],
            "out_channels": settings.neck_channels,
            "start_level": first,
            "add_extra_convs": "on_output",
            "num_outs": len(settings.strides),
        },
        "bbox_head": {
            "type": "GFLFamilyHead",
            "num_classes": num_classes,
            "in_channels": settings.neck_channels,
            "feat_channels": settings.head_channels,
            "stacked_convs": settings.head_convs,
            "quality": "joint" if settings.qfl else "centerness",
            "box": "general" if settings.dfl else "dirac",
            "reg_max": settings.reg_max,
            "bin_width": settings.bin_width,
            "qfl_beta": settings.qfl_beta,
            "box_weight": settings.box_weight,
            "dfl_weight": settings.dfl_weight,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": settings.anchor_scale,
                "scales_per_octave": 1,
                "strides": list(settings.strides),
            },
        },
        "train_cfg": {
            "assigner": {"type": "ATSSAssigner", "topk": settings.atss_topk},
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


def build_detector(settings: Settings, num_classes: int) -> nn.Module:
    """The detector with randomly initialised weights, for notebooks and tests."""
    model = MODELS.build(model_config(settings, num_classes))
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # mmengine reports each parameter's initialisation
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)
    return model
