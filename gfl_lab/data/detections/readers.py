"""Readers of detection files as they are: ids and coordinates are returned as written, and ``readings`` decides what they mean.

COCO's results format is a list of {image_id, category_id, bbox, score} (cocodataset.org, "Results format"). mmdet writes it as
``NAME.bbox.json``, detectron2 as ``coco_instances_results.json``, ultralytics as ``predictions.json``, PaddleDetection as ``bbox.json``.
"""

from __future__ import annotations

import gc
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from gfl_lab.addresses import readable
from gfl_lab.data.annotations import as_float, is_number, unpacked
from gfl_lab.data.findings import Findings, kind_of, show

XYWH, YOLO = "xywh", "normalised-cxcywh"
KEYS = ("image_id", "category_id", "bbox", "score")
_FORMAT = "Write COCO's results format: a list of {image_id, category_id, bbox: [x, y, width, height], score}"
_NUMBERS = {int, float}


@dataclass(frozen=True)
class RawDetections:
    """The detections of one file, in its order.

    Attributes:
        images: (D,) ids or names of images, as written.
        categories: (D,) int64 as written.
        boxes: (D, 4) as written. scores: (D,).
        layout: of the boxes, a key of ``readings.LAYOUTS``: what the format documents.
        listed: names of all images that the format has an entry for, also those without a detection; None where it says nothing of them.
        text: True for YOLO's text files, where classes are counted from 0 and images are named by their files.
    """

    images: Sequence[int | str]
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    layout: str = XYWH
    listed: tuple[str, ...] | None = None
    text: bool = False


def read_results(path: Path, file: str, findings: Findings) -> RawDetections | None:
    """Read a file in COCO's results format, gzipped or not; None with findings if it is none.

    Args:
        file: what messages call it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        findings.add("files that cannot be read", f"cannot be read: {error.strerror or error}", file)
        return None
    try:
        data = unpacked(data)
    except (OSError, EOFError, zlib.error) as error:
        findings.add("damaged gzip files", f"is gzipped, and cut off or damaged: {error}", file, "", "Copy it again.")
        return None
    value = _parsed(data, file, findings)
    del data
    if value is None:
        return None
    if problem := _other_content(value):
        findings.add("files of another format", problem, file, "", _FORMAT + ".")
        return None
    return _columns(value, file, findings)


def _parsed(data: bytes, file: str, findings: Findings) -> Any | None:
    """Return the JSON value; None with findings. Collection of garbage is off meanwhile: millions of new objects take a third longer with it."""
    on = gc.isenabled()
    gc.disable()
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        findings.add("files that are not UTF-8", f"is not UTF-8 text (byte {error.start})", file, "", "Save it as UTF-8.")
    except (RecursionError, MemoryError):
        findings.add("files that are not JSON", "is nested too deeply, or too large, to be read", file)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) - 1 or "Unterminated" in error.msg
        why = "is empty" if not data.strip() else f"is not JSON: {error}"
        hint = "It seems to be cut off: copy it again, or write it again." if cut else _FORMAT + "."
        findings.add("files that are not JSON", why, file, "", hint)
    finally:
        if on:
            gc.enable()
    return None


def _other_content(value: Any) -> str:
    """Return what a JSON value is if it is no list of detections; else nothing."""
    if isinstance(value, dict):
        if {"images", "annotations"} <= value.keys():
            return "holds annotations (images, annotations, categories), no detections"
        keys = ", ".join(show(key) for key in list(value)[:4])
        return f"holds an object with the keys {keys}, no list of detections" if value else "holds an empty object, no list of detections"
    return "" if isinstance(value, list) else f"holds {kind_of(value)}, no list of detections"


def _columns(entries: list[Any], file: str, findings: Findings) -> RawDetections | None:
    """Return the columns of a list of detections; None with findings where an entry is no detection."""
    try:
        images, categories, boxes, scores = ([entry[key] for entry in entries] for key in KEYS)
        flat = list(chain.from_iterable(boxes))
        sound = (
            set(map(type, images)) <= {int, str}
            and set(map(type, categories)) <= {int}
            and set(map(type, scores)) <= _NUMBERS
            and set(map(type, boxes)) <= {list}
            and set(map(len, boxes)) <= {4}
            and set(map(type, flat)) <= _NUMBERS
        )
        if sound:
            box = np.array(flat, np.float64).reshape(-1, 4)
            score = np.array(scores, np.float64)
            if np.isfinite(box).all() and np.isfinite(score).all():
                return RawDetections(images, np.array(categories, np.int64), box, score)
    except (TypeError, KeyError, OverflowError, IndexError):
        pass
    entries = [_whole(entry) for entry in entries]
    before = len(findings.all())
    for index, entry in enumerate(entries):
        _check(entry, f"detections[{index}]", file, findings)
    return None if len(findings.all()) > before else _columns_of_whole(entries)


def _whole(entry: Any) -> Any:
    """Return a detection with ids written as whole floats (12.0) as integers."""
    if not isinstance(entry, dict):
        return entry
    ids = {key: int(entry[key]) for key in KEYS[:2] if isinstance(entry.get(key), float) and entry[key].is_integer()}
    return {**entry, **ids} if ids else entry


def _columns_of_whole(entries: list[Any]) -> RawDetections:
    images, categories, boxes, scores = ([entry[key] for entry in entries] for key in KEYS)
    return RawDetections(
        images, np.array(categories, np.int64), np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64)
    )  # fmt: skip


def _check(entry: Any, item: str, file: str, findings: Findings) -> None:
    """Add everything that keeps an entry from being a detection."""
    if not isinstance(entry, dict):
        findings.add("entries that are no objects", f"is {kind_of(entry)}; it must be an object", file, item, _FORMAT + ".")
        return
    image, category, box = (entry.get(key) for key in KEYS[:3])
    score: Any = entry.get("score")
    if missing := [key for key in KEYS if key not in entry]:
        hint = _FORMAT + "."
        if missing == ["score"] and ("area" in entry or "iscrowd" in entry):
            hint = "The entries look like annotations: give the file that the detector wrote."
        elif "bbox" in missing and "segmentation" in entry:
            hint = "The file seems to hold masks alone: give the file of boxes, such as NAME.bbox.json."
        findings.add(f"entries without {' and '.join(missing)}", f"has no {' and no '.join(missing)}", file, item, hint)
        return
    if not isinstance(image, int | str) or isinstance(image, bool):
        findings.add("image ids that are none", f"image_id is {show(image)}; it must be a number or a name", file, item)
    if not isinstance(category, int) or isinstance(category, bool) or abs(category) >= 2**53:
        hint = "Write the ids of the annotations' categories, not their names." if isinstance(category, str) else ""
        findings.add("class ids that are none", f"category_id is {show(category)}; it must be a whole number", file, item, hint)
    if not is_number(score) or not math.isfinite(as_float(score)):
        findings.add("scores that are no numbers", f"score is {show(score)}; it must be a number from 0 to 1", file, item)
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        findings.add("boxes that are none", f"bbox is {show(box)}; it must be four numbers", file, item)
    elif not all(math.isfinite(as_float(value)) for value in box):
        findings.add("boxes that are not finite", f"bbox is {show(box)}: a coordinate is not finite", file, item)


# --- YOLO's text files ----------------------------------------------------------------------------

_TEXT = "`yolo val save_txt=True save_conf=True` writes a line of six numbers for each detection: class x_center y_center width height confidence."
_FIELDS = 6


def is_text_folder(path: Path) -> bool:
    """Return True for a folder, which can hold text files alone."""
    return path.is_dir()


def read_text_folder(folder: Path, file: str, findings: Findings) -> RawDetections | None:
    """Read a folder of YOLO's text files, one for each image: ``class x_center y_center width height confidence``, shares of the image.

    Files are those of the folder, or of ``labels`` in it, where ultralytics writes them.
    """
    inner = folder / "labels"
    folder = inner if not any(folder.glob("*.txt")) and inner.is_dir() else folder
    files = sorted(each for each in folder.glob("*.txt") if each.name != "classes.txt")
    if not files:
        jsons = sorted(folder.glob("*.json*"))
        hint = f"It holds {readable(jsons[0].name)}: give that file." if jsons else _TEXT
        findings.add("folders without text files", "holds no .txt file", file, "", hint)
        return None
    before, images, rows = len(findings.all()), list[int | str](), list[np.ndarray]()
    for each in files:
        values = _lines(each, file, findings)
        if values is not None:
            rows.append(values)
            images += [each.stem] * len(values)
    if len(findings.all()) > before:
        return None
    table = np.concatenate(rows) if rows else np.zeros((0, _FIELDS))
    return RawDetections(
        images, table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5], YOLO, tuple(each.stem for each in files), text=True
    )  # fmt: skip


def _lines(path: Path, file: str, findings: Findings) -> np.ndarray | None:
    """Return the (N, 6) numbers of a text file; None with findings."""
    place = readable(path.name)
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        widths = {len(line) for line in lines}
        if widths == {_FIELDS - 1}:
            message = "has five numbers in a line: the confidence is missing"
            findings.add("text files without confidence", message, file, place, _TEXT)
            return None
        if widths - {_FIELDS}:
            message = f"has {max(widths - {_FIELDS})} numbers in a line, not six"
            findings.add("text files of another form", message, file, place, _TEXT)
            return None
        values = np.array(lines, np.float64).reshape(-1, _FIELDS)
    except UnicodeDecodeError:
        findings.add("text files of another form", "is not UTF-8 text", file, place, _TEXT)
        return None
    except (OSError, ValueError) as error:
        findings.add("text files of another form", f"cannot be read: {error}", file, place, _TEXT)
        return None
    if not np.isfinite(values).all() or (values[:, 0] != np.floor(values[:, 0])).any():
        findings.add(
            "text files of another form", "has a class that is no whole number, or numbers that are not finite", file, place, _TEXT
        )
        return None
    return values
