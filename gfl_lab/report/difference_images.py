"""The images behind a difference of two variants: boxes that one finds and the other misses, and errors that one makes and the other does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.metrics.error_types import RIGHT_IOU, TYPES, errors_of, threshold_level

Box = tuple[float, float, float, float]
MISSED = TYPES[-1]


@dataclass(frozen=True)
class Mark:
    """One box, or one wrong detection, in which two variants differ.

    Attributes:
        box: (x1, y1, x2, y2) in px of the image: of the annotated box, or of the wrong detection.
        variant, reference: number of seeds in which each finds it, or makes the error.
        truth: the annotated box that a wrong detection is about; None where it is about none.
    """

    box: Box
    variant: int
    reference: int
    truth: Box | None = None


@dataclass(frozen=True)
class ImageDifference:
    """The difference of two variants on one image.

    Attributes:
        variant, reference: boxes found, or errors made, on this image by one and not by the other; mean over seeds.
        marks: what they are.
    """

    image_id: int
    variant: float
    reference: float
    marks: tuple[Mark, ...]

    def reversed(self) -> ImageDifference:
        """Return the same with the two variants exchanged."""
        marks = tuple(Mark(mark.box, mark.reference, mark.variant, mark.truth) for mark in self.marks)
        return ImageDifference(self.image_id, self.reference, self.variant, marks)


@dataclass(frozen=True)
class _Event:
    image_id: int
    box: Box
    truth: Box | None = None


_Events = Mapping[Hashable, _Event]


def class_images(pairs: Sequence[tuple[Records, Records]], name: str, iou: float = RIGHT_IOU, score: float = 0.0) -> list[ImageDifference]:
    """Return the images with boxes of a class that one variant finds and the other misses.

    Args:
        pairs: the records of (variant, reference), seed by seed.
        iou: a box is found by a detection of its class that COCO's matching gives it at this threshold, one of ``coco_ap.IOUS``.
        score: detections below it find nothing.

    Returns:
        First the images on which the variant finds most that the reference misses.

    Raises:
        ValueError: there is no such class or threshold.
    """
    if name not in pairs[0][0].classes:
        raise ValueError(f"there is no class {name!r}")
    found = [(_found(first, name, iou, score), _found(second, name, iou, score)) for first, second in pairs]
    return _images(found)


def error_images(pairs: Sequence[tuple[Records, Records]], name: str, iou: float = RIGHT_IOU) -> list[ImageDifference]:
    """Return the images with errors of a type that one variant makes and the other does not.

    Errors about an annotated box are the same error where both variants make one about it; a detection on no box is an error of its own.

    Args:
        pairs: the records of (variant, reference), seed by seed.
        name: of ``error_types.TYPES``. iou: the threshold from which a detection is right.

    Returns:
        First the images on which the variant makes most errors that the reference does not make.

    Raises:
        ValueError: there is no such type or threshold.
    """
    if name not in TYPES:
        raise ValueError(f"there is no type of error {name!r}")
    return _images(
        [(_errors(first, name, iou, 2 * seed), _errors(second, name, iou, 2 * seed + 1)) for seed, (first, second) in enumerate(pairs)]
    )


def _found(records: Records, name: str, iou: float, score: float) -> _Events:
    """Return the boxes of a class that a trial finds."""
    matches, level = match(records), threshold_level(iou)
    is_found = (
        (matches.box[level] >= 0) & ~matches.ignored[level] & (matches.label == records.classes.index(name)) & (matches.score >= score)
    )
    return {int(records.gt_id[at]): _Event(int(records.gt_image[at]), _box(records.gt_box[at])) for at in matches.box[level][is_found]}


def _errors(records: Records, name: str, iou: float, trial: int) -> _Events:
    """Return the errors of a type that a trial makes; ``trial`` tells detections on no box of one trial from those of others."""
    found = errors_of(records, iou)
    events: dict[Hashable, _Event] = {}
    if name == MISSED:
        counting = np.flatnonzero(np.isin(records.gt_image, found.found.image_ids) & ~records.gt_crowd)
        for at in counting[found.missed]:
            events[int(records.gt_id[at])] = _Event(int(records.gt_image[at]), _box(records.gt_box[at]))
        return events
    for at in np.flatnonzero(found.kind == TYPES.index(name)):
        detection, target = int(found.found.index[at]), int(found.target[at])
        key: Hashable = int(records.gt_id[target]) if target >= 0 else (trial, detection)
        truth = _box(records.gt_box[target]) if target >= 0 else None
        if key not in events:  # of several about one box the one with the highest score, which comes first in its class
            events[key] = _Event(int(records.det_image[detection]), _box(records.det_box[detection]), truth)
    return events


def _images(found: Sequence[tuple[_Events, _Events]]) -> list[ImageDifference]:
    """Return the events that the variant has in more seeds than the reference, or in fewer, image by image."""
    first, second = (Counter(key for pair in found for key in pair[side]) for side in (0, 1))
    events = {key: event for pair in reversed(found) for side in pair for key, event in side.items()}
    marks: dict[int, list[Mark]] = {}
    for key, event in events.items():
        if first[key] != second[key]:
            marks.setdefault(event.image_id, []).append(Mark(event.box, first[key], second[key], event.truth))
    images = [
        ImageDifference(
            image,
            sum(max(0, mark.variant - mark.reference) for mark in each) / len(found),
            sum(max(0, mark.reference - mark.variant) for mark in each) / len(found),
            tuple(each),
        )
        for image, each in marks.items()
    ]
    return sorted(images, key=lambda image: (image.reference - image.variant, -image.variant, image.image_id))


def _box(values: np.ndarray) -> Box:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2
