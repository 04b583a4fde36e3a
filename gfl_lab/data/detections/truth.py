"""The annotations that detection files are evaluated against."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from gfl_lab import naming
from gfl_lab.data.annotation_check import AnnotationCheck
from gfl_lab.data.annotations import read_annotations
from gfl_lab.data.check import check_categories
from gfl_lab.data.findings import Findings
from gfl_lab.data.id_check import check_id
from gfl_lab.spec.trial import DataSpec


@dataclass(frozen=True)
class Truth:
    """Images, classes and boxes of an annotation file.

    Boxes stand in the order of the file, as pycocotools takes them: it decides between boxes of equal overlap.

    Attributes:
        image_ids: (I,) ascending. sizes: (I, 2) width and height, px; 0 where the file has none.
        names: file names by position of the image; empty text where the file has none.
        category_ids: (K,) ascending; classes: their names.
        image, label, area, crowd, number: (G,) of the boxes: image id, class from 0, px^2, whether a crowd, annotation id.
        box: (G, 4) xyxy, px.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    names: tuple[str, ...]
    category_ids: np.ndarray
    classes: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    number: np.ndarray
    box: np.ndarray

    @cached_property
    def stems(self) -> dict[str, list[int]]:
        """Positions of images by their file's name without folder and ending, lower case left as it is."""
        found: dict[str, list[int]] = defaultdict(list)
        for position, name in enumerate(self.names):
            if name:
                found[PureWindowsPath(name).stem].append(position)
        return dict(found)

    @cached_property
    def boxes_of(self) -> dict[int, np.ndarray]:
        """Indices of the boxes that count, by position of the image."""
        index = np.flatnonzero(~self.crowd)
        where = np.searchsorted(self.image_ids, self.image[index])
        order = np.argsort(where, kind="stable")
        index, where = index[order], where[order]
        starts = np.flatnonzero(np.diff(where, prepend=-1))
        return {int(where[start]): part for start, part in zip(starts, np.split(index, starts[1:]), strict=True)} if len(index) else {}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that AP depends on, first 16 hex digits."""
        total = hashlib.sha256(naming.canonical_json([list(self.classes), self.category_ids.tolist()]).encode("utf-8", "surrogatepass"))
        for array in (self.image_ids, self.image, self.label, self.area, self.crowd, self.box):
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()[:16]

    def data(self, name: str) -> DataSpec:
        """Return the data set of an imported trial: it has no training images."""
        return DataSpec(name=name, digest=self.digest, classes=self.classes, train_images=0, val_images=len(self.image_ids))


def read_truth(path: Path, file: str, findings: Findings) -> Truth | None:
    """Read an annotation file, gzipped or not; None with findings if it cannot be evaluated against.

    Args:
        file: what messages call it.
    """
    problems = Findings()
    coco = read_annotations(path, problems, file)
    if coco is not None and not problems:
        names = check_categories(coco, file, problems, Findings())
        images = _images(coco, file, problems)
        entries = {number: {"size": None, **entry} for number, entry in images.items()}
        boxes = AnnotationCheck(entries, names, "val", file, problems, Findings()).run(coco["annotations"])
        if not problems:
            return _truth(images, names, boxes)
    findings.extend(problems)
    return None


def _images(coco: dict[str, Any], file: str, findings: Findings) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(coco["images"]):
        number = entry.get("id")
        if not check_id(number, "images", "id", file, f"images[{index}]", findings):
            continue
        if number in found:
            findings.add("image ids used twice", f"image id {number} is used twice", file, f"image {number}")
        size = [entry.get(key) for key in ("width", "height")]
        sound = all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in size)
        name = entry.get("file_name")
        found[number] = {"pixels": size if sound else [0, 0], "name": name if isinstance(name, str) else ""}
    if not coco["images"]:
        findings.add("no images", "has no images", file)
    return found


def _truth(images: dict[int, dict[str, Any]], names: dict[int, str], boxes: list[tuple[int, Any]]) -> Truth:
    ids, categories = sorted(images), np.array(sorted(names), np.int64)
    rows = [row for _, row in boxes]
    corner = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    corner[:, 2:] += corner[:, :2]
    return Truth(
        image_ids=np.array(ids, np.int64),
        sizes=np.array([images[number]["pixels"] for number in ids], np.int64),
        names=tuple(images[number]["name"] for number in ids),
        category_ids=categories,
        classes=tuple(names[number] for number in sorted(names)),
        image=np.array([row[0] for row in rows], np.int64),
        label=np.searchsorted(categories, np.array([row[1] for row in rows], np.int64)),
        area=np.array([row[3] for row in rows], np.float64),
        crowd=np.array([row[4] for row in rows], bool),
        number=np.array([number for number, _ in boxes], np.int64),
        box=corner,
    )
