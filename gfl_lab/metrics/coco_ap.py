"""COCO's average precision of any multiset of images, in milliseconds, from one trial's detections.

Matching detections to ground truth does not depend on which other images there are, so it is done once (``match``). AP over
images that each count w times (a bootstrap sample has some twice and some not at all) then needs sums along the ranking only
(``Matches.precision``). The numbers are those of a full COCO evaluation on a data set in which each image stands w times
(pycocotools, ``COCOeval``: T. Lin et al., ECCV 2014); tests hold them against it. There is one exception: detections of one class with the
same score in the same image. For an image that stands w times, COCO ranks such a group w times in a row, and this module each of its members
w times. With scores that differ, by however little, both agree; no order among equal scores is the right one.

numpy only; AP is 0 to 100 unless a docstring has another range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds, as COCO has them."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Recall levels at which precision is read."""
REPLICATES = 1000
"""Number of bootstrap samples of the images, for the uncertainty of AP."""
RESAMPLED: Mapping[str, tuple[int, ...]] = {"AP": tuple(range(10)), "AP50": (0,), "AP75": (5,)}
"""Metrics that are known on each sample, in the order of their columns, with the thresholds that they are the mean of."""
_EPS = np.spacing(1)


@dataclass(frozen=True)
class Matches:
    """The matches of each detection in its image, ranked by class and score; everything that AP over any images needs.

    D counts the detections that COCO looks at (at most ``max_dets`` for each image and class), T thresholds, K classes.

    Attributes:
        image_ids: (I,) ascending; weights are given in this order.
        image: (D,) index into ``image_ids``. label, score: (D,), by label and then from the highest score down.
        index: (D,) position of the detection in the records.
        box: (T, D) position in the records of the ground-truth box that it matched, -1 for none.
        ignored: (T, D) whether it counts neither as right nor as wrong (crowd, outside the area range).
        gt_image, gt_label: (G',) of the boxes that count, image as an index.
        classes: how many there are.
    """

    image_ids: np.ndarray
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    index: np.ndarray
    box: np.ndarray
    ignored: np.ndarray
    gt_image: np.ndarray
    gt_label: np.ndarray
    classes: int

    @cached_property
    def _ranking(self) -> _Ranking:
        return _Ranking.of(self)

    def precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the mean precision over recall levels at each threshold and class.

        Args:
            weights: (I,) whole numbers >= 0: how often each image counts. None: once.

        Returns:
            (T, K) from 0 to 1; NaN for a class without boxes in these images.
        """
        if weights is None:
            weights = np.ones(len(self.image_ids), np.int64)
        return self._ranking.precision(np.asarray(weights, np.int64))

    def ap(self, weights: np.ndarray | None = None) -> float:
        """Return AP over thresholds and classes; NaN when no image has a box."""
        return mean_ap(self.precision(weights))


def resample(matches: Matches, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """Return AP, AP50 and AP75 on bootstrap samples of the images; for equal scores within an image see the top of this module.

    The samples follow from the number of images and ``seed`` alone: of two trials over the same images, the same row is of the
    same images, so that rows may be subtracted.

    Returns:
        (replicates, 3) in the order of ``RESAMPLED``; NaN where a sample has no box.
    """
    images = len(matches.image_ids)
    rng = np.random.default_rng(seed)
    found = np.empty((replicates, len(RESAMPLED)))
    for number in range(replicates):
        precision = matches.precision(np.bincount(rng.integers(0, images, images), minlength=images))
        found[number] = [mean_ap(precision[list(rows)]) for rows in RESAMPLED.values()]
    return found


def mean_ap(precision: np.ndarray) -> float:
    """Return AP from the (T, K) of ``Matches.precision``, or of some of its rows; NaN when no class has a box."""
    known = precision[~np.isnan(precision)]
    return 100 * float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class _Ranking:
    """Positions along the ranking that weights are summed over, the same for every sample of images.

    A segment is one threshold and class. Only right detections raise recall, so precision is read at those alone.
    """

    image: np.ndarray  # (D,) of each detection
    starts: np.ndarray  # (K,) where a class starts in the ranking
    right: np.ndarray  # (M,) position in the ranking of each right detection, segment by segment
    segment: np.ndarray  # (M,)
    ends: np.ndarray  # (S + 1,) where segments start and end in `right`
    ignored: np.ndarray  # (N,) position of each ignored detection, threshold by threshold
    ignored_before: np.ndarray  # (M,) how many of `ignored` come before the right one, counted from the array's start
    ignored_from: np.ndarray  # (M,) how many of `ignored` come before its class at its threshold
    gt_image: np.ndarray
    gt_label: np.ndarray
    classes: int

    @classmethod
    def of(cls, m: Matches) -> _Ranking:
        thresholds, classes = len(m.box), m.classes
        starts = np.searchsorted(m.label, np.arange(classes))
        rows, right = np.nonzero((m.box >= 0) & ~m.ignored)
        segment = rows * classes + m.label[right]
        ends = np.searchsorted(segment, np.arange(thresholds * classes + 1))
        ig_rows, ignored = np.nonzero(m.ignored)
        width = len(m.label) + 1
        keys = ig_rows * width + ignored
        before = np.searchsorted(keys, rows * width + right)
        since = np.searchsorted(keys, rows * width + starts[m.label[right]])
        return cls(m.image, starts, right, segment, ends, ignored, before, since, m.gt_image, m.gt_label, classes)

    def precision(self, weights: np.ndarray) -> np.ndarray:
        boxes = np.bincount(self.gt_label, weights=weights[self.gt_image], minlength=self.classes).astype(np.int64)  # (K,)
        segments = len(self.ends) - 1
        per_det = weights[self.image]
        seen = np.concatenate([[0], np.cumsum(per_det)])  # (D + 1,)
        skipped = np.concatenate([[0], np.cumsum(per_det[self.ignored])])
        count = np.concatenate([[0], np.cumsum(per_det[self.right])])
        hits = count[1:] - count[self.ends[self.segment]]  # (M,) right ones so far, in the segment
        label = self.segment % self.classes
        judged = seen[self.right + 1] - seen[self.starts[label]] - (skipped[self.ignored_before] - skipped[self.ignored_from])
        precision = hits / (judged + _EPS)
        # The best precision at this recall or a higher one: a running maximum from the segment's end, kept apart by offsets.
        offset = 2.0 * (segments - 1 - self.segment)
        best = np.maximum.accumulate((precision + offset)[::-1])[::-1] - offset
        needed = _needed(boxes)  # (K, R)
        size = int(weights.sum()) * max(1, len(self.image)) + 2
        keys = hits + self.segment * size
        wanted = np.tile(needed, (segments // self.classes, 1)) + (np.arange(segments) * size)[:, None]  # (S, R)
        found = np.searchsorted(keys, wanted)
        reached = found < self.ends[1:, None]
        values = np.where(reached, np.append(best, 0.0)[np.minimum(found, len(best))], 0.0).mean(axis=1)
        values = values.reshape(-1, self.classes)
        values[:, boxes == 0] = np.nan
        return values


def _needed(boxes: np.ndarray) -> np.ndarray:
    """Return (K, R): the number of right detections that reach each recall level, decided by the same division that COCO compares."""
    count = boxes[:, None]
    least = np.ceil(RECALLS * count).astype(np.int64)
    safe = np.maximum(count, 1)
    least -= (least > 0) & ((least - 1) / safe >= RECALLS)
    least += least / safe < RECALLS
    return least
