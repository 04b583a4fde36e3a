"""COCO's average precision of any multiset of images, in milliseconds, from one trial's detections.

Matching detections to ground truth does not depend on which other images there are, so it is done once (``match``). AP over
images that each count w times (a bootstrap sample has some twice and some not at all) then needs sums along the ranking only
(``Matches.precision``). The numbers are those of a full COCO evaluation on a data set in which each image stands w times
(pycocotools, ``COCOeval``: T. Lin et al., ECCV 2014); tests hold them against it. There is one exception: detections of one class with the
same score in the same image. For an image that stands w times, COCO ranks such a group w times in a row, and this module each of its members
w times. With scores that differ, by however little, both agree; no order among equal scores is the right one.

numpy only; AP is 0 to 100 where a docstring does not say otherwise.
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
"""Bootstrap samples of the images by which the uncertainty of AP is told."""
RESAMPLED: Mapping[str, tuple[int, ...]] = {"AP": tuple(range(10)), "AP50": (0,), "AP75": (5,)}
"""Metrics that are known on each sample, in the order of their columns, with the thresholds that they are the mean of."""
AREAS: Mapping[str, tuple[float, float]] = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Ranges of a box's area in square pixels, both ends included."""
_EPS = np.spacing(1)


@dataclass(frozen=True)
class Records:
    """Detections and ground truth of one trial over its validation images, as eval.npz holds them.

    Attributes:
        image_ids: (I,) every image that was evaluated.
        det_image, det_label, det_score: (D,); det_box: (D, 4) xyxy, pixels.
        gt_image, gt_label, gt_area, gt_crowd, gt_id: (G,); gt_box: (G, 4) xyxy, pixels.
        classes: names by label.
        max_dets: detections counted for each image and class.
    """

    image_ids: np.ndarray
    det_image: np.ndarray
    det_label: np.ndarray
    det_score: np.ndarray
    det_box: np.ndarray
    gt_image: np.ndarray
    gt_label: np.ndarray
    gt_area: np.ndarray
    gt_crowd: np.ndarray
    gt_id: np.ndarray
    gt_box: np.ndarray
    classes: tuple[str, ...]
    max_dets: int = 100

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Records:
        """From the arrays of an eval.npz. Raises KeyError where one is missing."""
        columns = {name: np.asarray(arrays[name]) for name in _ARRAYS}
        limit = int(arrays["max_dets"]) if "max_dets" in arrays else 100
        return cls(**columns, classes=tuple(map(str, arrays["classes"])), max_dets=limit)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of an eval.npz, ``of`` in reverse."""
        columns = {name: getattr(self, name) for name in _ARRAYS}
        return columns | {"classes": np.array(self.classes), "max_dets": np.array(self.max_dets)}


_ARRAYS = (
    "image_ids", "det_image", "det_label", "det_score", "det_box", "gt_image", "gt_label", "gt_area", "gt_crowd", "gt_id", "gt_box",
)  # fmt: skip


@dataclass(frozen=True)
class Matches:
    """What each detection met in its image, ranked by class and score; everything that AP over any images needs.

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
        """Mean precision over recall levels at each threshold and class.

        Args:
            weights: (I,) whole numbers >= 0: how often each image counts. None: once.

        Returns:
            (T, K) from 0 to 1; NaN for a class without boxes in these images.
        """
        if weights is None:
            weights = np.ones(len(self.image_ids), np.int64)
        return self._ranking.precision(np.asarray(weights, np.int64))

    def ap(self, weights: np.ndarray | None = None) -> float:
        """AP over thresholds and classes; NaN when no image has a box."""
        return mean_ap(self.precision(weights))


def resample(matches: Matches, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """AP, AP50 and AP75 on bootstrap samples of the images; of equal scores within an image see the top of this module.

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
    """AP from the (T, K) of ``Matches.precision``, or of some of its rows; NaN when no class has a box."""
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
    """(K, R) how many right detections reach each recall level, decided by the same division that COCO compares."""
    count = boxes[:, None]
    least = np.ceil(RECALLS * count).astype(np.int64)
    safe = np.maximum(count, 1)
    least -= (least > 0) & ((least - 1) / safe >= RECALLS)
    least += least / safe < RECALLS
    return least


def match(records: Records, area: str = "all") -> Matches:
    """Match detections to ground truth, image by image and class by class, as COCOeval does.

    In the order of their scores, each detection takes the free box of its class that it overlaps most, if their IoU reaches
    the threshold; a box that does not count (crowd, outside the area range) only when there is no other, and crowds by any
    number of detections.
    """
    low, high = AREAS[area]
    image_ids = np.unique(records.image_ids)
    classes = len(records.classes)

    def group(image: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.searchsorted(image_ids, image) * classes + label

    det_group = group(records.det_image, records.det_label)
    order = np.lexsort((-records.det_score.astype(np.float64), det_group))
    rank = _rank(det_group[order])
    order = order[rank < records.max_dets]
    det_group, rank = det_group[order], rank[rank < records.max_dets]
    det_box = records.det_box[order].astype(np.float64)
    det_size = det_box[:, 2:] - det_box[:, :2]

    kept = np.isin(records.gt_image, image_ids)
    gt_index = np.flatnonzero(kept)
    gt_ignored = records.gt_crowd[kept] | (records.gt_area[kept] < low) | (records.gt_area[kept] > high)
    gt_group = group(records.gt_image[kept], records.gt_label[kept])
    gt_order = np.lexsort((gt_ignored, gt_group))
    gt_index, gt_group, gt_ignored = gt_index[gt_order], gt_group[gt_order], gt_ignored[gt_order]

    taken, met_ignored = _match_groups(
        det_group, rank, det_box, gt_group, records.gt_box[gt_index].astype(np.float64), gt_ignored, records.gt_crowd[gt_index]
    )
    outside = (det_size.prod(axis=1) < low) | (det_size.prod(axis=1) > high)
    ignored = met_ignored | ((taken < 0) & outside)
    box = np.where(taken >= 0, np.append(gt_index, -1)[taken], -1)

    label = records.det_label[order]
    score = records.det_score[order]
    ranking = np.lexsort((det_group, -score.astype(np.float64), label))  # ties in the order of images, as COCO's stable sort has them
    return Matches(
        image_ids=image_ids,
        image=det_group[ranking] // max(1, classes),
        label=label[ranking],
        score=score[ranking],
        index=order[ranking],
        box=box[:, ranking],
        ignored=ignored[:, ranking],
        gt_image=gt_group[~gt_ignored] // max(1, classes),
        gt_label=gt_group[~gt_ignored] % max(1, classes),
        classes=classes,
    )


def _rank(group: np.ndarray) -> np.ndarray:
    """Position of each element in its run of equal values."""
    if not len(group):
        return np.zeros(0, np.int64)
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    return np.arange(len(group)) - np.repeat(first, np.diff(np.r_[first, len(group)]))


def _match_groups(
    det_group: np.ndarray, det_rank: np.ndarray, det_box: np.ndarray, gt_group: np.ndarray, gt_box: np.ndarray, gt_ignored: np.ndarray, gt_crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Greedy matching in all groups (an image and a class) at once, rank by rank.

    Groups come with ascending numbers, detections in them by rank, boxes in them with the ignored ones last. Groups of like
    numbers of boxes are padded to one width.

    Returns:
        (T, D) index of the box taken, -1 for none; (T, D) whether that box is ignored.
    """
    thresholds = np.minimum(IOUS, 1 - 1e-10)
    taken = np.full((len(thresholds), len(det_group)), -1, np.int64)
    met_ignored = np.zeros(taken.shape, bool)
    groups, gt_start, gt_count = np.unique(gt_group, return_index=True, return_counts=True)
    det_start = np.searchsorted(det_group, groups)
    det_count = np.searchsorted(det_group, groups, side="right") - det_start
    width = 1 << np.ceil(np.log2(np.maximum(gt_count, 1))).astype(int)
    for padded in np.unique(width):
        members = np.flatnonzero((width == padded) & (det_count > 0))
        members = members[np.argsort(-det_count[members], kind="stable")]
        if not len(members):
            continue
        column = np.arange(padded)
        there = column < gt_count[members, None]  # (n, P)
        index = np.where(there, gt_start[members, None] + column, 0)
        boxes, crowd = gt_box[index], gt_crowd[index] & there
        shut = there & gt_ignored[index]
        free = np.repeat(there[:, None], len(thresholds), axis=1)  # (n, T, P)
        for step in range(int(det_count[members[0]])):
            active = int(np.searchsorted(-det_count[members], -step, side="left"))  # groups that have a detection of this rank
            at = det_start[members[:active]] + step
            iou = _iou(det_box[at], boxes[:active], crowd[:active])[:, None]  # (n, 1, P)
            can = free[:active] & (iou >= thresholds[:, None])
            counting = can & ~shut[:active, None]
            use = np.where(counting.any(-1, keepdims=True), counting, can)
            found = use.any(-1)
            # Of equal overlaps the last one, as COCOeval's loop has it.
            best = padded - 1 - np.where(use, iou, -1.0)[..., ::-1].argmax(-1)
            row, level = np.nonzero(found)
            chosen = best[row, level]
            taken[level, at[row]] = index[row, chosen]
            met_ignored[level, at[row]] = shut[row, chosen]
            free[row, level, chosen] = crowd[row, chosen]
    return taken, met_ignored


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) IoU of (N, 4) with (M, 4) boxes, xyxy."""
    return _iou(boxes.astype(np.float64), np.broadcast_to(others, (len(boxes), *others.shape)), np.zeros((len(boxes), len(others)), bool))


def _iou(det: np.ndarray, gt: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of (n, 4) detections with (n, P, 4) boxes, xyxy; over a crowd the share of the detection that lies in it."""
    det = det[:, None]
    det_size, gt_size = det[..., 2:] - det[..., :2], gt[..., 2:] - gt[..., :2]
    inner = np.minimum(det[..., 2:], gt[..., 2:]) - np.maximum(det[..., :2], gt[..., :2])
    shared = np.where((inner > 0).all(-1), inner.prod(-1), 0.0)
    det_area = det_size.prod(-1)
    union = np.where(crowd, det_area, det_area + gt_size.prod(-1) - shared)
    return shared / np.where(union > 0, union, 1.0)
