"""Calibration: detections' scores against the IoU that they reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gfl_lab.metrics.coco_matching import overlaps
from gfl_lab.metrics.coco_records import Records

BINS = 10
_FEW = 3
"""Correlations want at least this many pairs."""


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram, and the numbers beside it.

    QFL trains the joint score to be the IoU with the box of its class (arXiv 2006.04388, section 3.1), so the ideal is the diagonal.

    Attributes:
        edges: (B+1,) of the score's bins, equally wide, from 0 to 1. A bin holds its upper edge, (a, b], as Guo et al. have them
            (ICML 2017, section 2); the first one holds 0 too.
        score, iou: (B,) means in each bin, NaN where it is empty. count: (B,) detections.
        error: expected calibration error: mean over detections of |mean score - mean IoU| of their bin; None without detections.
        pearson, spearman: correlation of score and IoU; None where there are too few, or one of them never varies.
    """

    edges: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    count: np.ndarray
    error: float | None
    pearson: float | None
    spearman: float | None


def correlations(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    """Return Pearson's and Spearman's correlation of the pairs that are both finite; None if there is none."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < _FEW or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None
    ranks = (pd.Series(x).rank(), pd.Series(y).rank())
    return float(np.corrcoef(x, y)[0, 1]), float(np.corrcoef(*ranks)[0, 1])


def best_ious(records: Records) -> np.ndarray:
    """Return (D,) IoU of each detection with the box of its class and image that it overlaps most; 0 where there is none. Crowds do not count."""
    found = np.zeros(len(records.det_score))
    boxes = ~records.gt_crowd
    classes = len(records.classes)

    def group(image: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.searchsorted(ids, image) * classes + label

    ids = np.unique(records.image_ids)
    det, gt = group(records.det_image, records.det_label), group(records.gt_image[boxes], records.gt_label[boxes])
    det_order, gt_order = np.argsort(det, kind="stable"), np.argsort(gt, kind="stable")
    gt_box = records.gt_box[boxes]
    for key in np.intersect1d(det, gt):
        detections = det_order[np.searchsorted(det[det_order], key) : np.searchsorted(det[det_order], key, side="right")]
        truths = gt_order[np.searchsorted(gt[gt_order], key) : np.searchsorted(gt[gt_order], key, side="right")]
        found[detections] = overlaps(records.det_box[detections], gt_box[truths]).max(1)
    return found


def reliability(records: Records, bins: int = BINS) -> Reliability:
    """Return the scores of all kept detections against their ``best_ious``."""
    score, iou = records.det_score.astype(np.float64), best_ious(records)
    edges = np.linspace(0, 1, bins + 1)
    # Compared as float32, which scores are kept as: 0.3 is then on an edge, as it is for who reads it.
    at = np.clip(np.searchsorted(edges.astype(np.float32), score.astype(np.float32), side="left") - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_score = np.bincount(at, score, bins) / count
        mean_iou = np.bincount(at, iou, bins) / count
    error = float(np.nansum(np.abs(mean_score - mean_iou) * count) / len(score)) if len(score) else None
    return Reliability(edges, mean_score, mean_iou, count, error, *correlations(score, iou))
