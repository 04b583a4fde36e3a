"""Six types of error of a detector, and the AP that each costs at one IoU threshold.

The types and the oracle that corrects each are those of TIDE (Bolya et al., ECCV 2020, arXiv 2008.08115, sections 2.2 and 2.3). From
TIDE's foreground threshold on, an IoU of 0.5 by default, a detection is right where it takes a box of its class. A detection that overlaps a
box by 0.1 up to the threshold is badly localised. Tests hold the costs against the authors' tool. Unlike it, a cost below zero is shown as it is, since costs are subtracted from each other here,
and a detection in a crowd is no error.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from gfl_lab.metrics.coco_ap import IOUS, REPLICATES, Matches
from gfl_lab.metrics.coco_matching import match, overlaps
from gfl_lab.metrics.coco_records import Records

RIGHT_IOU, BACKGROUND_IOU = 0.5, 0.1
TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")
_CLS, _LOC, _BOTH, _DUPE, _BKG = range(5)


def about(name: str, right_iou: float = RIGHT_IOU) -> str:
    """Return what an error of the type ``name`` is, for a threshold."""
    return {
        "classification": "on a box of another class",
        "localisation": f"right class, IoU {BACKGROUND_IOU:g} to {right_iou:g}",
        "both": f"another class and IoU {BACKGROUND_IOU:g} to {right_iou:g}",
        "duplicate": "its box was taken by a detection with a higher score",
        "background": f"on no box (IoU below {BACKGROUND_IOU:g})",
        "missed": "a box that no detection of the kinds above could have found",
    }[name]


def threshold_level(right_iou: float) -> int:
    """Return the position of a threshold in ``coco_ap.IOUS``.

    Raises:
        ValueError: it is none of these, 0.5, 0.55, ..., 0.95. Detections are matched at these alone.
    """
    level = round((right_iou - IOUS[0]) / 0.05) if math.isfinite(right_iou) else -1
    if not 0 <= level < len(IOUS) or abs(IOUS[level] - right_iou) > 1e-6:
        raise ValueError(f"{right_iou:g} is no IoU threshold of COCO; it must be one of {', '.join(f'{iou:g}' for iou in IOUS)}")
    return level


@dataclass(frozen=True)
class Errors:
    """Every error of a trial.

    Attributes:
        found: the matches at the threshold alone; D detections.
        kind: (D,) index into ``TYPES``, -1 for a right detection and one that does not count.
        target: (D,) position in the records of the box that the error is about, -1 where there is none.
        mends: (D,) whether correcting it makes it the detection of its box; else it is taken away.
        target_label: (D,) class of that box.
        missed: (G',) of the boxes that count, those that are missed; in the order of ``found.gt_image``.
    """

    found: Matches
    kind: np.ndarray
    target: np.ndarray
    mends: np.ndarray
    target_label: np.ndarray
    missed: np.ndarray

    @property
    def counts(self) -> dict[str, int]:
        """Number of errors of each type."""
        counted = {name: int((self.kind == number).sum()) for number, name in enumerate(TYPES[:-1])}
        return counted | {TYPES[-1]: int(self.missed.sum())}

    def corrected(self, name: str) -> Matches:
        """Return the matches with all errors of one type corrected."""
        if name == TYPES[-1]:
            return dataclasses.replace(self.found, gt_image=self.found.gt_image[~self.missed], gt_label=self.found.gt_label[~self.missed])
        of_type = self.kind == TYPES.index(name)
        mended = of_type & self.mends
        box = self.found.box.copy()
        box[0, mended] = self.target[mended]
        label = np.where(mended, self.target_label, self.found.label)
        kept = np.flatnonzero(~of_type | mended)
        order = kept[np.lexsort((-self.found.score[kept], label[kept]))]
        return dataclasses.replace(
            self.found, image=self.found.image[order], label=label[order], score=self.found.score[order], index=self.found.index[order],
            box=box[:, order], ignored=self.found.ignored[:, order],
        )  # fmt: skip


def errors_of(records: Records, right_iou: float = RIGHT_IOU) -> Errors:
    """Find and sort the errors of a trial.

    Args:
        right_iou: IoU from which a detection of the right class is right, one of ``coco_ap.IOUS``.

    Raises:
        ValueError: ``right_iou`` is none of these.
    """
    level = threshold_level(right_iou)
    every = match(records)
    taken, ignored = every.box[level], every.ignored[level]
    count = len(taken)
    kind, target = np.full(count, -1), np.full(count, -1)
    counting = np.flatnonzero(np.isin(records.gt_image, every.image_ids) & ~records.gt_crowd)
    gt_image = np.searchsorted(every.image_ids, records.gt_image[counting])
    used = np.isin(counting, taken[(taken >= 0) & ~ignored])
    wrong = (taken < 0) & ~ignored

    by_image = np.argsort(every.image, kind="stable")
    starts = np.searchsorted(every.image[by_image], np.arange(len(every.image_ids) + 1))
    gt_order = np.argsort(gt_image, kind="stable")
    gt_starts = np.searchsorted(gt_image[gt_order], np.arange(len(every.image_ids) + 1))
    for image in range(len(every.image_ids)):
        detections = by_image[starts[image] : starts[image + 1]]
        detections = detections[wrong[detections]]
        boxes = gt_order[gt_starts[image] : gt_starts[image + 1]]  # into `counting`
        if not len(detections):
            continue
        if not len(boxes):
            kind[detections] = _BKG
            continue
        iou = overlaps(records.det_box[every.index[detections]], records.gt_box[counting[boxes]])
        same = every.label[detections][:, None] == records.gt_label[counting[boxes]][None]
        kind[detections], chosen = _sort(iou, same, used[boxes], right_iou)
        target[detections] = np.where(chosen >= 0, counting[boxes][chosen], -1)

    free = np.ones(len(records.gt_image), bool)
    free[counting[used]] = False
    mends = _best_of_each(every.score, target, (target >= 0) & free[target] & np.isin(kind, (_CLS, _LOC)))
    could = np.isin(counting, target[np.isin(kind, (_CLS, _LOC))])
    return Errors(
        found=dataclasses.replace(
            every,
            box=every.box[level : level + 1],
            ignored=every.ignored[level : level + 1],
            gt_image=gt_image,
            gt_label=records.gt_label[counting],
        ),
        kind=kind,
        target=target,
        mends=mends,
        target_label=records.gt_label[target] if len(records.gt_label) else np.zeros(count, int),
        missed=~used & ~could,
    )  # fmt: skip


def _sort(iou: np.ndarray, same: np.ndarray, used: np.ndarray, right_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Return type and box of each wrong detection of one image; the first type in TIDE's order that fits.

    Args:
        iou: (n, G). same: (n, G) whether the class is the box's. used: (G,) whether the box was found.
    """
    own, other, taken = iou * same, iou * ~same, iou * (same & used)
    rows = np.arange(len(iou))
    own_at, other_at = own.argmax(1), other.argmax(1)
    tests = (
        (_LOC, (own[rows, own_at] >= BACKGROUND_IOU) & (own[rows, own_at] <= right_iou), own_at),
        (_CLS, other[rows, other_at] >= right_iou, other_at),
        (_DUPE, taken.max(1) >= right_iou, taken.argmax(1)),
        (_BKG, iou.max(1) <= BACKGROUND_IOU, np.full(len(iou), -1)),
    )
    kind = np.select([found for _, found, _ in tests], [number for number, _, _ in tests], _BOTH)
    return kind, np.select([found for _, found, _ in tests], [at for _, _, at in tests], -1)


def _best_of_each(score: np.ndarray, target: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the candidate with the highest score for each box; (D,) bool."""
    best = np.zeros(len(score), bool)
    index = np.flatnonzero(candidates)
    index = index[np.lexsort((-score[index], target[index]))]
    best[index[np.diff(target[index], prepend=-1) != 0]] = True
    return best


def costs(errors: Errors, weights: np.ndarray | None = None) -> dict[str, float]:
    """Return AP points at the threshold that each type of error costs: AP with all of that type corrected, minus AP.

    The parts do not add up to what is missing to 100, since correcting one error changes what another one costs.

    Args:
        weights: (I,) how often each image counts, as ``Matches.precision`` takes it.
    """
    base = errors.found.ap(weights)
    return {name: errors.corrected(name).ap(weights) - base for name in TYPES}


def resampled_costs(errors: Errors, replicates: int = REPLICATES, seed: int = 0) -> dict[str, np.ndarray]:
    """Return (replicates,) of each type's cost on bootstrap samples of the images, the samples of ``coco_ap.resample``."""
    images = len(errors.found.image_ids)
    corrected = {name: errors.corrected(name) for name in TYPES}
    rng = np.random.default_rng(seed)
    found = {name: np.empty(replicates) for name in TYPES}
    for number in range(replicates):
        weights = np.bincount(rng.integers(0, images, images), minlength=images)
        base = errors.found.ap(weights)
        for name in TYPES:
            found[name][number] = corrected[name].ap(weights) - base
    return found
