"""Soft non-maximum suppression, in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gfl_lab.detector.mmcv_ops.extension import operator

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2


def _weights(boxes: np.ndarray, areas: np.ndarray, iou_threshold: float, sigma: float, method: int, offset: int) -> np.ndarray:
    """Return the factor of each score after the first, by its box's IoU with the first: (M - 1,) float32."""
    low, high = np.maximum(boxes[0, :2], boxes[1:, :2]), np.minimum(boxes[0, 2:], boxes[1:, 2:])
    sides = np.maximum(high - low + np.float32(offset), np.float32(0))
    inter = sides[:, 0] * sides[:, 1]
    with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without area: nan, which is above no threshold
        iou = inter / (areas[0] + areas[1:] - inter)
        if method == GAUSSIAN:
            return np.exp(-(iou * iou) / np.float32(sigma))
        over = iou >= np.float32(iou_threshold)
    return np.where(over, np.float32(0) if method == NAIVE else np.float32(1) - iou, np.float32(1))


def _after_swaps(alive: np.ndarray) -> np.ndarray:
    """Return the order in which places are left when the last place moves into each one that is no longer alive."""
    kept = int(alive.sum())
    order = np.arange(kept)
    order[~alive[:kept]] = kept + np.flatnonzero(alive[kept:])[::-1]
    return order


@operator
def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float, method: int, offset: int
) -> Tensor:
    """Lower the scores of boxes that overlap a better one, and drop those that fall too low (Bodla et al., arXiv 1704.04503).

    The best box of those left is taken, and the others' scores are multiplied: by 0 or by ``1 - IoU`` from
    ``iou_threshold`` on, or by ``exp(-IoU ** 2 / sigma)``. Ties go to the box that lies first, and the order of places is
    that of mmcv's CPU operator, which moves the last box to the place of a dropped one. Computed in float32.

    Args:
        boxes: (N, 4) xyxy, on the CPU as mmcv passes them.
        scores: (N,).
        dets: (N, 5), overwritten: the first K rows are the boxes and new scores, best first.
        iou_threshold: 0..1, not used by the Gaussian.
        sigma: above 0, of the Gaussian.
        min_score: boxes whose score falls below it are dropped.
        method: 0 naive, 1 linear, 2 Gaussian.
        offset: 0, or 1 for the convention in which a box is ``x2 - x1 + 1`` wide.

    Returns:
        (K,) int64, indices of the boxes in ``dets``.
    """
    box, score = boxes.detach().cpu().float().numpy(), scores.detach().cpu().float().numpy()
    area = (box[:, 2] - box[:, 0] + np.float32(offset)) * (box[:, 3] - box[:, 1] + np.float32(offset))
    place, left = np.arange(len(box)), score.copy()
    found: list[tuple[int, float]] = []
    while len(place):
        best = int(left.argmax())
        place[[0, best]], left[[0, best]] = place[[best, 0]], left[[best, 0]]
        found.append((int(place[0]), float(left[0])))
        left = left[1:] * _weights(box[place], area[place], iou_threshold, sigma, method, offset)
        order = _after_swaps(~(left < np.float32(min_score)))
        place, left = place[1:][order], left[order]
    kept = torch.tensor([index for index, _ in found], dtype=torch.int64)
    dets[: len(kept), :4] = boxes[kept].to(dets)
    dets[: len(kept), 4] = torch.tensor([value for _, value in found], dtype=dets.dtype)
    return kept
