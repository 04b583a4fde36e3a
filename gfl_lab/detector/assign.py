"""Adaptive training sample selection (ATSS, Zhang et al., arXiv 1912.02424) for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UNASSIGNED = -1
"""Index of a location that no box claims."""

TOPK = 9
"""Candidates per box and level."""


def assign(
    priors: Tensor, num_level_priors: Sequence[int], gt_boxes: Tensor, gt_valid: Tensor, topk: int = TOPK, usable: Tensor | None = None
) -> Tensor:
    """Return the box that each location is trained on; for each image the result of mmdet's ``ATSSAssigner(topk)`` (but see ``_threshold``).

    For each box and level the ``topk`` priors with the nearest centres are candidates. Those whose IoU with the box
    reaches mean + standard deviation of all its candidates' IoU, and whose centre is inside the box (by 0.01 px), are
    positive. A location claimed by several boxes goes to the one of highest IoU.

    Args:
        priors: (A, 4) anchor boxes, xyxy pixels, level after level.
        num_level_priors: priors of each level; sums to A.
        gt_boxes: (N, G, 4) xyxy pixels, padded to the largest number of boxes of an image.
        gt_valid: (N, G) bool, False where padding.
        topk: candidates per box and level, fewer where a level has fewer priors.
        usable: (N, A) bool, the priors that each image has; None if each has all. Among priors equally far from a box
            the candidates may differ from those of an image that has only its own priors.

    Returns:
        (N, A) int64 index into G, ``UNASSIGNED`` (-1) for background.
    """
    images, boxes = gt_boxes.shape[:2]
    if boxes == 0 or len(priors) == 0:
        return gt_boxes.new_full((images, len(priors)), UNASSIGNED, dtype=torch.long)
    found = find_candidates(priors, num_level_priors, gt_boxes, topk, usable)
    inside = is_inside((priors[:, :2] + priors[:, 2:])[found.index] / 2.0, gt_boxes[:, :, None])
    positive = (found.iou >= found.threshold[..., None]) & inside & gt_valid[..., None]
    if found.usable is not None:
        positive &= found.usable

    claims = found.iou.new_full((images, boxes, len(priors)), -1).scatter_(2, found.index, torch.where(positive, found.iou, -1.0))
    best, winner = claims.max(dim=1)
    return torch.where(best >= 0, winner, UNASSIGNED)


@dataclass(frozen=True)
class Candidates:
    """The priors nearest to each box: G boxes of N images with K priors each.

    Attributes:
        index: (N, G, K) int64 into the priors.
        iou: (N, G, K) with the box.
        usable: (N, G, K) bool, those that the image has; None where it has all.
    """

    index: Tensor
    iou: Tensor
    usable: Tensor | None

    @property
    def threshold(self) -> Tensor:
        """(N, G) float64, the IoU from which on a candidate is positive: mean + standard deviation."""
        return _threshold(self.iou, self.usable)


def find_candidates(priors: Tensor, num_level_priors: Sequence[int], gt_boxes: Tensor, topk: int, usable: Tensor | None) -> Candidates:
    """Return the ``topk`` priors of each level whose centres are nearest to each box's; arguments as those of ``assign``, at least one box."""
    centers = (priors[:, :2] + priors[:, 2:]) / 2.0
    gt_centers = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2.0
    # The square root stays: it makes ties of distances that differ by rounding only, and ties decide who is a candidate.
    distance = (
        (centers[:, 0] - gt_centers[..., 0, None]).square_().add_((centers[:, 1] - gt_centers[..., 1, None]).square_()).sqrt_()
    )  # (N, G, A)
    if usable is not None:
        distance.masked_fill_(~usable[:, None], math.inf)
    nearest, start = [], 0
    for level in distance.split(list(num_level_priors), dim=2):
        nearest.append(level.topk(min(topk, level.shape[2]), dim=2, largest=False).indices + start)
        start += level.shape[2]
    index = torch.cat(nearest, dim=2)
    own = None if usable is None else distance.gather(2, index).isfinite()
    return Candidates(index, broadcast_iou(priors[index], gt_boxes[:, :, None]), own)


def broadcast_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return IoU of boxes that broadcast, (..., 4) xyxy; the order of operations is that of mmdet's ``bbox_overlaps``."""
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    size = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp_(min=0)
    overlap = size[..., 0] * size[..., 1]
    return overlap / (area_a + area_b - overlap).clamp_(min=1e-6)


def is_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Return True where points (..., 2) lie inside boxes (..., 4) that broadcast, by more than 0.01 px."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1).amin(dim=-1) > 0.01


def _threshold(iou: Tensor, own: Tensor | None) -> Tensor:
    """Return the mean + standard deviation of each box's candidates: (N, G, K) to (N, G), float64; of those in the mask ``own`` alone.

    In float64 the mean of equal numbers is that number. mmdet's float32 mean may be a bit above it, depending on how many
    boxes the image has and on the processor's vector width; where all candidates of a box have one IoU (a pyramid of one
    level and a box inside all its candidates) it then finds no positive. Here all of them are, by the definition.
    """
    iou = iou.double()
    if own is None:
        return iou.mean(2) + iou.std(2)
    many = own.sum(2)
    mean = torch.where(own, iou, 0).sum(2) / many
    apart = torch.where(own, iou - mean[..., None], 0)
    return mean + (apart.square().sum(2) / (many - 1)).sqrt()
