"""The meaning of ids and coordinates in a detection file, decided by evidence: where do its boxes lie on annotated objects.

A file is read as its format documents. If another reading puts clearly more detections on objects, it is not taken silently: the
file is refused with the option that says so. Images that are named by their files are the one thing that is mapped without being told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PureWindowsPath

import numpy as np

from gfl_lab.data.detections.truth import Truth
from gfl_lab.metrics.coco_matching import overlaps

SAMPLE = 200
"""Images with annotated objects that evidence is taken from."""
DEEPEST = 100
"""Detections of an image, the best, that evidence is taken from."""
LEAST = 5
"""With fewer objects there is no evidence."""
ON_OBJECT = 0.5
"""IoU from which a detection lies on an object."""

Corners = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _scaled(corners: Corners) -> Corners:
    return lambda boxes, sizes: corners(boxes * np.tile(sizes, 2), sizes)


def _xywh(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _xyxy(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return boxes


def _cxcywh(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


_PIXELS: dict[str, Corners] = {"xywh": _xywh, "xyxy": _xyxy, "cxcywh": _cxcywh}
LAYOUTS: dict[str, Corners] = _PIXELS | {f"normalised-{name}": _scaled(corners) for name, corners in _PIXELS.items()}
"""Layouts of boxes, each with a function from (D, 4) boxes and the (D, 2) sizes of their images to corners xyxy, px."""
WORDS = {"xywh": "x, y, width, height", "xyxy": "two corners", "cxcywh": "centre, width, height"}
AS_IS, FROM_ZERO, FROM_ONE = "as-is", "zero-based", "one-based"
CLASS_IDS = (AS_IS, FROM_ZERO, FROM_ONE)
"""Readings of class ids: those of the annotations; places in their sorted list, from 0 (COCO's 80 classes as 0 to 79) or from 1."""


def layout_words(layout: str) -> str:
    """Return a layout as messages name it: ``two corners, as shares of the image``."""
    share, _, form = layout.rpartition("-")
    return WORDS[form] + (", as shares of the image" if share else "")


def labels_of(categories: np.ndarray, reading: str, truth: Truth) -> np.ndarray:
    """Return (D,) classes from 0 under a reading, -1 for ids that it does not have."""
    count = len(truth.classes)
    if reading != AS_IS:
        label = categories - (1 if reading == FROM_ONE else 0)
        return np.where((label >= 0) & (label < count), label, -1)
    label = np.minimum(np.searchsorted(truth.category_ids, categories), count - 1)
    return np.where(truth.category_ids[label] == categories, label, -1)


@dataclass(frozen=True)
class Found:
    """The detections that lie best on annotated objects, under one reading of boxes and images.

    Attributes:
        objects: annotated objects that were looked at.
        detection, label: (F,) a detection on an object, IoU 0.5 or more, and the object's class.
    """

    objects: int
    detection: np.ndarray
    label: np.ndarray

    @property
    def share(self) -> float:
        """Share of the objects that have a detection on them, whatever its class."""
        return len(self.label) / self.objects if self.objects else 0.0


@dataclass(frozen=True)
class Evidence:
    """Detections of a file, with what evidence needs.

    Attributes:
        position: (D,) of the image of each detection, -1 where it is not known.
        boxes: (D, 4) as written. scores: (D,).
    """

    truth: Truth
    position: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @cached_property
    def _order(self) -> np.ndarray:
        """Detections by image, and then from the highest score down."""
        return np.lexsort((-self.scores, self.position))

    def found(self, layout: str) -> Found:
        """Return which objects have a detection on them, in a sample of the images."""
        truth, total, order = self.truth, 0, self._order
        where = self.position[order]
        candidates = [image for image in np.unique(where).tolist() if image in truth.boxes_of]
        images = [candidates[i] for i in np.unique(np.linspace(0, len(candidates) - 1, min(SAMPLE, len(candidates))).astype(int))]
        detections, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for image in images:
            start, end = np.searchsorted(where, [image, image + 1])
            index = order[start : min(end, start + DEEPEST)]
            objects = truth.boxes_of[image]
            total += len(objects)
            corners = LAYOUTS[layout](self.boxes[index], np.repeat(truth.sizes[image][None].astype(np.float64), len(index), axis=0))
            iou = overlaps(corners, truth.box[objects])
            best = iou.argmax(axis=0)
            on = iou[best, np.arange(len(objects))] >= ON_OBJECT
            detections.append(index[best[on]])
            labels.append(truth.label[objects[on]])
        return Found(total, np.concatenate(detections), np.concatenate(labels))


def clearly_better(other: float, own: float) -> bool:
    """Return True if a share of objects that are found under another reading says that it is the right one."""
    return other > 1.5 * own and other > own + 0.15


# --- images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageReading:
    """Positions of the images of all detections: (D,), -1 for an unknown one; ``unknown`` as written, each once."""

    position: np.ndarray
    unknown: tuple[int | str, ...]


def by_id(images: Sequence[int | str], truth: Truth) -> ImageReading:
    """Read the images of detections as ids of the annotations; text of digits counts as the number."""
    known = {int(number): position for position, number in enumerate(truth.image_ids.tolist())}

    def find(image: int | str) -> int:
        if isinstance(image, int):
            return known.get(image, -1)
        return known.get(int(image), -1) if image.isascii() and image.isdigit() else -1

    return _read(images, find)


def by_name(images: Sequence[int | str], truth: Truth) -> ImageReading:
    """Read the images of detections as names of files, without folder and ending or with them; numbers as names of digits (139 of 000139.jpg)."""
    full = {name: position for position, name in enumerate(truth.names) if name}
    stems = {stem: found[0] for stem, found in truth.stems.items() if len(found) == 1}
    numbers: dict[int, int] = {}
    for stem, position in stems.items():
        if stem.isascii() and stem.isdigit():
            numbers[int(stem)] = -1 if int(stem) in numbers else position

    def find(image: int | str) -> int:
        if isinstance(image, int):
            return numbers.get(image, -1)
        return full.get(image, stems.get(image, stems.get(PureWindowsPath(image).stem, -1)))

    return _read(images, find)


def _read(images: Sequence[int | str], find: Callable[[int | str], int]) -> ImageReading:
    known = {image: find(image) for image in dict.fromkeys(images)}
    position = np.fromiter((known[image] for image in images), np.int64, len(images))
    return ImageReading(position, tuple(image for image, found in known.items() if found < 0))
