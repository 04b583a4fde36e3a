"""Checking the annotations of a split: ids, boxes, areas, and boxes that look wrong."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfl_lab.data.annotations import MIN_BOX_PX, as_float, is_id, is_learned, is_number
from gfl_lab.data.findings import Findings, listed, show
from gfl_lab.data.id_check import BAD_CATEGORIES, BAD_IMAGES, check_id
from gfl_lab.data.report import Box, SplitReport

ROUNDING_PX = 1.0
"""A box that leaves its image by at most this much is a warning: coordinates rounded, or counted from 1."""
EXACT_PX = 0.01
"""... and by at most this much is inside: COCO writes two decimals."""
SAME_BOX_IOU = 0.9
"""Two boxes of one class in one image at this IoU or more are probably one object annotated twice."""
WHOLE_IMAGE = 0.99
"""A box over this share of its image or more is reported as one over the whole image."""


@dataclass(frozen=True)
class AnnotationCheck:
    """A check of the annotations of one split.

    Attributes:
        images: sound entries by id, with ``size`` (width, height) or None.
        names: of the sound categories, by id.
        split: train or val. file: the annotation file, for messages.
        errors, warnings: take what is found.
    """

    images: Mapping[int, Mapping[str, Any]]
    names: Mapping[int, str]
    split: str
    file: str
    errors: Findings
    warnings: Findings

    def run(self, annotations: list[dict[str, Any]]) -> list[tuple[int, Box]]:
        """Return the ids of the sound annotations and their boxes."""
        sound: list[tuple[int, Box]] = []
        ids: set[int] = set()
        no_area = 0
        # If ids of images or categories are unusable, annotations cannot be matched with them: each would repeat that error.
        lists_known = not self.errors.has(self.file, *BAD_IMAGES), not self.errors.has(self.file, *BAD_CATEGORIES)
        for index, entry in enumerate(annotations):
            number: Any = entry.get("id")
            place = f"annotation {number}" if is_id(number) else f"annotations[{index}]"
            if check_id(number, "annotations", "id", self.file, place, self.errors):
                if number in ids:
                    self.errors.add("annotation ids used twice", f"annotation id {number} is used twice", self.file, place)
                ids.add(number)
            known = self._is_known(entry, place, *lists_known)
            box = _check_box(entry.get("bbox"), self.file, place, self.errors)
            if box is None:
                continue
            no_area += entry.get("area") is None
            area = self._area(entry, box, place)
            if area is None or not self._has_crowd_flag(entry, place) or not known:
                continue
            size = self.images[entry["image_id"]]["size"]
            if size and not self._fits(box, size, place):
                continue
            _warn_not_learned(box, size, self.split == "train", self.file, place, self.warnings)
            sound.append((number, (entry["image_id"], entry["category_id"], box, area, bool(entry.get("iscrowd", 0)))))
        if no_area:
            self.warnings.add("annotations without an area", f"{no_area} annotations have no area; width x height is used", self.file)
        if not any(not crowd for _, (*_, crowd) in sound) and not self.errors:
            self.errors.add("no boxes", "has no boxes: nothing to learn from or to measure", self.file)
        return sound

    def _is_known(self, entry: Mapping[str, Any], place: str, images_known: bool, names_known: bool) -> bool:
        """Return True if image and category of an annotation are listed. Ids of unusable lists are not compared."""
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        known = is_id(image_id) and image_id in self.images
        if not known and images_known:
            if isinstance(image_id, str):
                check_id(image_id, "", "image_id", self.file, place, self.errors)
            else:
                message = f"image_id {show(image_id)} is not among the images"
                self.errors.add("annotations of images that are not listed", message, self.file, place)
        if is_id(category_id) and category_id in self.names:
            return known
        if names_known and isinstance(category_id, str):
            check_id(category_id, "", "category_id", self.file, place, self.errors)
        elif names_known:
            message = f"category_id {show(category_id)} is not among the categories"
            self.errors.add("annotations of unknown categories", message, self.file, place)
        return False

    def _area(self, entry: Mapping[str, Any], box: tuple[float, float, float, float], place: str) -> float | None:
        """Return the area, of the box where there is none; None where it is no area."""
        area = entry.get("area")
        if area is None:
            return box[2] * box[3]
        if not is_number(area) or not math.isfinite(as_float(area)) or area < 0:
            self.errors.add("areas that are no areas", f"area is {show(area)}; it must be a number, 0 or more", self.file, place)
            return None
        return float(area)

    def _has_crowd_flag(self, entry: Mapping[str, Any], place: str) -> bool:
        crowd = entry.get("iscrowd", 0)
        if crowd in (0, 1):
            return True
        self.errors.add("iscrowd that is neither 0 nor 1", f"iscrowd is {show(crowd)}; it must be 0 or 1", self.file, place)
        return False

    def _fits(self, box: tuple[float, float, float, float], size: tuple[int, int], place: str) -> bool:
        """Return True if a box lies in its image, but for rounding; warn of one that is slightly outside or covers all of it."""
        x, y, width, height = box
        out = max(-x, -y, x + width - size[0], y + height - size[1])
        message = f"bbox {show(list(box))} leaves its image of {size[0]}x{size[1]} px by {out:g} px"
        if out > ROUNDING_PX:
            hint = "bbox is [x, y, width, height], not two corners"
            self.errors.add("boxes outside their image", message, self.file, place, hint)
            return False
        if out > EXACT_PX:
            self.warnings.add("boxes slightly outside their image", message, self.file, place)
        if width * height >= WHOLE_IMAGE * size[0] * size[1]:
            self.warnings.add("boxes over the whole image", "the box covers the whole image; it may be right", self.file, place)
        return True


def _check_box(box: Any, file: str, place: str, errors: Findings) -> tuple[float, float, float, float] | None:
    """Return the box as four floats, or None."""
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box):
        errors.add("annotations without a box", f"bbox is {show(box)}; it must be [x, y, width, height]", file, place)
        return None
    x, y, width, height = (as_float(v) for v in box)
    box = (x, y, width, height)
    if not all(math.isfinite(v) for v in box):
        errors.add("boxes that are not finite", f"bbox {show(list(box))} is not finite", file, place)
        return None
    if width < 0 or height < 0:
        message = f"bbox {show(list(box))} has no area: width and height must not be negative"
        errors.add("boxes of negative width or height", message, file, place)
        return None
    return box


def _warn_not_learned(
    box: tuple[float, ...], size: tuple[int, int] | None, training: bool, file: str, place: str, warnings: Findings
) -> None:
    """Warn of a box that training skips, or that evaluation counts although nothing can find it."""
    if min(box[2:]) == 0:
        kind, what = "boxes without height or width", "has no width or no height"
    elif min(box[2:]) < MIN_BOX_PX:
        kind, what = "boxes thinner than a pixel", "is thinner than a pixel"
    elif size and not is_learned(box, size):
        kind, what = "boxes beside their image", f"does not meet its image of {size[0]}x{size[1]} px"
    else:
        return
    so, one = "are skipped in training", "training skips it"
    if not training:
        so, one = "count in evaluation all the same", "evaluation counts it all the same, as pycocotools does"
    warnings.add(f"{kind} {so}", f"bbox {show(list(box))} {what}: {one}", file, place)


def warn_of_same_boxes(sound: list[Box], file: str, warnings: Findings) -> None:
    """Warn of boxes of one class and image that are nearly the same."""
    groups: dict[tuple[int, int], list[tuple[float, ...]]] = defaultdict(list)
    for image_id, category_id, box, _, crowd in sound:
        if not crowd and min(box[2:]) > 0:
            groups[image_id, category_id].append(box)
    for (image_id, _), boxes in groups.items():
        if len(boxes) < 2:
            continue
        for i, j, iou in _same_boxes(np.asarray(boxes)):
            message = f"two boxes of one class are nearly the same (IoU {iou:.3f}): {show(list(boxes[i]))} and {show(list(boxes[j]))}"
            warnings.add("pairs of nearly identical boxes", message, file, f"image {image_id}")


def _same_boxes(boxes: np.ndarray, rows: int = 256) -> Iterator[tuple[int, int, float]]:
    """Return the pairs of (N, 4) boxes with an IoU of ``SAME_BOX_IOU`` or more, the lower index first; ``rows`` at once to bound memory."""
    low, high, area = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
    for start in range(0, len(boxes), rows):
        part = slice(start, start + rows)
        side = np.minimum(high[part, None], high[None]) - np.maximum(low[part, None], low[None])
        inter = np.clip(side, 0, None).prod(-1)
        with np.errstate(divide="ignore", invalid="ignore"):  # areas below what a float holds
            iou = inter / (area[part, None] + area[None] - inter)
        for i, j in zip(*np.nonzero(np.triu(iou >= SAME_BOX_IOU, 1 + start)), strict=True):
            yield start + int(i), int(j), float(iou[i, j])


def warn_without_boxes(
    coco: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], split: SplitReport, classes: int, file: str, warnings: Findings
) -> None:
    """Warn of images without annotations and of classes without boxes."""
    annotated = {entry.get("image_id") for entry in coco["annotations"] if is_id(entry.get("image_id"))}
    for number, record in images.items():
        if number not in annotated and annotated:
            message = f"has no annotations ({show(record['name'])}): empty, or forgotten"
            warnings.add("images without annotations", message, file, f"image {number}")
    absent = [name for name, count in split.boxes_by_class.items() if not count]
    if absent and split.boxes:
        message = f"no boxes of {len(absent)} of {classes} classes: {listed(absent)}"
        warnings.add("classes without boxes", message, file)
