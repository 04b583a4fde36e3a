"""Stock mmdet beside ours: the same detector, with mmdet's own head, from one configuration."""

from __future__ import annotations

from copy import deepcopy
from typing import Any


def stock_model(ours: dict[str, Any]) -> dict[str, Any]:
    """mmdet's GFL with ``GFLHead`` for a model configuration of ours (QFL and DFL on); weights of one load into the other."""
    model, head = deepcopy(dict(ours)), ours["bbox_head"]
    kept = ("num_classes", "in_channels", "feat_channels", "stacked_convs", "reg_max", "anchor_generator")
    model["type"] = "GFL"
    model["bbox_head"] = {
        "type": "GFLHead",
        **{key: head[key] for key in kept},
        "norm_cfg": {"type": "GN", "num_groups": min(32, head["feat_channels"] // 8), "requires_grad": True},
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": head["qfl_beta"], "loss_weight": 1.0},
        "loss_dfl": {"type": "DistributionFocalLoss", "loss_weight": head["dfl_weight"]},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": head["box_weight"]},
    }
    return model
