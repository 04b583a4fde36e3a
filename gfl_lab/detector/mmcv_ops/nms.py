"""Greedy non-maximum suppression, by torchvision's kernel."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from gfl_lab.detector.mmcv_ops.extension import operator


@operator
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Return the boxes that greedy non-maximum suppression keeps.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        iou_threshold: a box goes when its IoU with a kept one is above this.
        offset: 0, or 1 for the convention in which a box is ``x2 - x1 + 1`` wide.

    Returns:
        (K,) int64, indices of the boxes kept, best score first.
    """
    if offset:  # x2 - x1 + 1 is the width of a box whose far corner lies one further out
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes.float(), scores.float(), iou_threshold)
