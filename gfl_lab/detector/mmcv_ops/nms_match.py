"""Groups of boxes around those that non-maximum suppression keeps, in NumPy."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from gfl_lab.detector.mmcv_ops.extension import operator


@operator
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return the groups of prime sample attention (Cao et al., arXiv 1904.04821, section 4): kept box and those it suppresses.

    A box joins the group of the first kept box with which its IoU is at least ``iou_threshold``. Computed in float32.

    Args:
        dets: (N, 5) xyxy and score, on the CPU as mmcv passes them.
        iou_threshold: 0..1.

    Returns:
        One list of indices for each kept box, best score first, the kept box before the others. Ties keep their order.
    """
    rows = dets.detach().cpu().float().numpy()
    order = np.argsort(-rows[:, 4], kind="stable")
    area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    groups: list[list[int]] = []
    while len(order):
        first, rest = order[0], order[1:]
        low, high = np.maximum(rows[first, :2], rows[rest, :2]), np.minimum(rows[first, 2:4], rows[rest, 2:4])
        sides = np.maximum(high - low, np.float32(0))
        inter = sides[:, 0] * sides[:, 1]
        with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without area: nan, which is above no threshold
            joins = inter / (area[first] + area[rest] - inter) >= np.float32(iou_threshold)
        groups.append([int(first), *map(int, rest[joins])])
        order = rest[~joins]
    return groups
