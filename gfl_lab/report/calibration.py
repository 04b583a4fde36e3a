"""Calibration: detections' scores against the IoU that they reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from gfl_lab.metrics.coco_matching import overlaps
from gfl_lab.metrics.coco_records import Records

BINS = 10
FOUND_IOU = 0.5
"""Correlations of score and IoU are over the detections that overlap a box of their class by at least this, as IoU-Net has them (arXiv
1807.11590, Figure 2). Most others have scores near 0; by their number they would decide the correlation."""
_FEW = 3
"""Correlations want at least this many pairs."""
REPLICATES = 500
LEAST_IMAGES = 10
"""An interval needs detections in so many images: fewer do not show how much images differ."""


class Estimate(NamedTuple):
    """A number, and its 95% interval over other choices of images (bootstrap); None where fewer than ``LEAST_IMAGES`` have detections."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram, and the numbers beside it.

    QFL trains the joint score to be the IoU with the box of its class (arXiv 2006.04388, section 3.1), so the ideal is the diagonal.

    Attributes:
        edges: (B+1,) of the score's bins, equally wide, from 0 to 1. A bin holds its upper edge, (a, b], as Guo et al. have them
            (ICML 2017, section 2); the first one holds 0 too.
        score, iou: (B,) means in each bin, NaN where it is empty. count: (B,) detections.
        error: expected calibration error: mean over detections of |mean score - mean IoU| of their bin; None without detections.
        pearson, spearman: correlation of score and IoU over detections with an IoU of at least ``FOUND_IOU``; None where there are too
            few, or one of them never varies.
        gap: mean score minus mean IoU of all detections, above 0 for scores that promise too much; None without detections.
        rank: ``spearman`` with its interval.
        low, high: (B,) ends of the 95% interval of each bin's mean score minus mean IoU over other images; NaN where there is none.
    """

    edges: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    count: np.ndarray
    error: float | None
    pearson: float | None
    spearman: float | None
    gap: Estimate | None
    rank: Estimate | None
    low: np.ndarray
    high: np.ndarray


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
    is_found = iou >= FOUND_IOU
    pearson, spearman = correlations(score[is_found], iou[is_found])
    images = _Images.of(records)
    return Reliability(
        edges,
        mean_score,
        mean_iou,
        count,
        error,
        pearson,
        spearman,
        gap=images.gap(score - iou),
        rank=None if spearman is None else images.rank(score, iou, is_found, spearman),
        **images.gaps_by_bin(score - iou, at, bins),
    )


@dataclass(frozen=True)
class _Images:
    """Bootstrap samples of the images, for intervals of numbers of their detections.

    Attributes:
        of_detection: (D,) position of each detection's image. count: number of images.
        drawn: (REPLICATES, I) how often each sample holds each image.
    """

    of_detection: np.ndarray
    count: int
    drawn: np.ndarray

    @classmethod
    def of(cls, records: Records, seed: int = 0) -> _Images:
        ids = np.unique(records.image_ids)
        drawn = np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1 / max(1, len(ids))), size=REPLICATES)
        return cls(np.searchsorted(ids, records.det_image), len(ids), drawn)

    def _sums(self, *terms: np.ndarray) -> list[np.ndarray]:
        """Return the sum of each term (D,) over the detections of each sample, (REPLICATES,)."""
        return [self.drawn @ np.bincount(self.of_detection, term, self.count) for term in terms]

    def _ends(self, among: np.ndarray, values: np.ndarray) -> tuple[float | None, float | None]:
        """Return the ends of the 95% interval of ``values`` (REPLICATES,), which the detections ``among`` (D,) some gave."""
        if len(np.unique(self.of_detection[among])) < LEAST_IMAGES:
            return None, None
        low, high = np.quantile(values[np.isfinite(values)], [0.025, 0.975])
        return float(low), float(high)

    def gap(self, difference: np.ndarray) -> Estimate | None:
        if not len(difference):
            return None
        count, total = self._sums(np.ones(len(difference)), difference)
        with np.errstate(invalid="ignore", divide="ignore"):
            return Estimate(float(difference.mean()), *self._ends(np.ones(len(difference), bool), total / count))

    def gaps_by_bin(self, difference: np.ndarray, at: np.ndarray, bins: int) -> dict[str, np.ndarray]:
        """Return ``low`` and ``high`` of ``Reliability``; ``at``: (D,) bin of each detection."""
        ends = np.full((bins, 2), np.nan)
        for index in np.unique(at):
            count, total = self._sums((at == index).astype(float), np.where(at == index, difference, 0.0))
            with np.errstate(invalid="ignore", divide="ignore"):
                low, high = self._ends(at == index, total / count)
            if low is not None and high is not None:
                ends[index] = low, high
        return {"low": ends[:, 0], "high": ends[:, 1]}

    def rank(self, score: np.ndarray, iou: np.ndarray, among: np.ndarray, spearman: float) -> Estimate:
        """Return Spearman's correlation ``among`` (D,) some with its interval. In a sample, these keep the ranks that they have among all."""
        a, b = np.zeros(len(score)), np.zeros(len(iou))
        for ranks, values in ((a, score[among]), (b, iou[among])):
            ranks[among] = pd.Series(values).rank().to_numpy(float) - (len(values) + 1) / 2
        count, first, second, product, first_square, second_square = self._sums(among.astype(float), a, b, a * b, a**2, b**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (first_square - first**2 / count) * (second_square - second**2 / count)
            return Estimate(spearman, *self._ends(among, (product - first * second / count) / np.sqrt(spread)))
