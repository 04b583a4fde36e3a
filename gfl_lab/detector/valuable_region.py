"""The valuable localisation region (VLR, Zheng et al., arXiv 2102.12252, algorithm 1): where a teacher's edges help beside the positives."""

from __future__ import annotations

import torch
from torch import Tensor

from gfl_lab.detector.assign import TOPK, broadcast_iou, find_candidates
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.targets import GroundTruth

GAMMA = 0.25
"""The region reaches down to this share of ATSS's threshold."""


def valuable_region(geometry: Geometry, truth: GroundTruth, usable: Tensor | None, topk: int = TOPK) -> Tensor:
    """Return the weight of each location in localisation distillation's second region; 0 outside of it.

    With t the threshold by which ATSS takes positives for a box (mean + standard deviation of its candidates' IoU), a
    location is in the region of that box if the DIoU of its anchor with the box is at least t / 4 and below t. Its weight
    is the IoU of anchor and box; of several boxes, the highest. As in the authors' code a positive whose anchor lies aslant may be
    in the region, too.

    Args:
        usable: (N, A) bool, the locations inside each image's padded shape; None where all are.
        topk: candidates of a box on each level.

    Returns:
        (N, A) float32 in [0, 1).
    """
    images, boxes = truth.boxes.shape[:2]
    weight = truth.boxes.new_zeros((images, len(geometry.priors)))
    if boxes == 0:
        return weight
    threshold = find_candidates(geometry.priors, geometry.num_level_priors, truth.boxes, topk, usable).threshold
    for image in range(images):  # one at a time: each pair of location and box has ten numbers
        iou, diou = _iou_and_diou(geometry.priors, truth.boxes[image, :, None])  # (G, A)
        high = threshold[image, :, None]
        inside = (diou < high) & (diou >= GAMMA * high) & truth.valid[image, :, None]
        weight[image] = torch.where(inside, iou, 0).amax(0)
    return weight if usable is None else weight * usable


def _iou_and_diou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and DIoU (arXiv 1911.08287, equation 7) of boxes that broadcast, (..., 4) xyxy."""
    iou = broadcast_iou(a, b)
    hull = torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return iou, iou - apart.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-6)
