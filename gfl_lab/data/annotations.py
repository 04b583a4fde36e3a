"""The one reader of annotation files: the check, training, evaluation and the pages get the same values from it.

Numbers that exporters write in another form are brought into COCO's: whole floats (640.0) of ids and sizes become integers,
``iscrowd`` true and false become 1 and 0.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gfl_lab.addresses import readable
from gfl_lab.data.findings import Findings, kind_of
from gfl_lab.errors import DataError

MIN_SIDE_PX, MIN_BOX_PX = 32, 1
"""Training leaves out smaller images, as every published GFL row does, and boxes with a shorter side."""

GZIP = b"\x1f\x8b"
"""First bytes of a gzipped file."""
LISTS = ("images", "annotations", "categories")
_WHOLE = {"images": ("id", "width", "height"), "annotations": ("id", "image_id", "category_id", "iscrowd"), "categories": ("id",)}
_EXPORT = "export the data set as COCO detection, or convert it"


def unpacked(data: bytes) -> bytes:
    """Return bytes as they are, or what they hold if they are gzipped. Raises OSError, EOFError or zlib.error for damaged ones."""
    return gzip.decompress(data) if data[:2] == GZIP else data


def read_annotations(path: Path, findings: Findings, file: str) -> dict[str, Any] | None:
    """Return the content of an annotation file, gzipped or not, when it has the three lists of objects; else None.

    Args:
        findings: gets what is wrong.
        file: what messages call it.
    """
    constants: Counter[str] = Counter()

    def constant(text: str) -> float:
        constants[text] += 1
        return float(text)

    try:
        data = path.read_bytes()
    except OSError as error:
        findings.add("unreadable files", f"cannot be read: {error.strerror or error}", file)
        return None
    try:
        data = unpacked(data)
    except (OSError, EOFError, zlib.error) as error:
        findings.add("files that are not gzip", f"is gzipped, and damaged: {error}", file, "", "copy it again")
        return None
    try:
        value = json.loads(data, parse_constant=constant)
    except UnicodeDecodeError as error:
        findings.add("files that are not UTF-8", f"is not UTF-8 text (byte {error.start})", file, "", "save it as UTF-8")
        return None
    except (RecursionError, MemoryError):
        findings.add("files that are not JSON", "is nested too deeply, or too large, to be read", file)
        return None
    except ValueError as error:
        findings.add("files that are not JSON", *_not_json(data, error, file))
        return None
    del data
    if problem := _other_format(value):
        findings.add("files that are not COCO", problem, file, "", _EXPORT)
        return None
    bad = False
    for key in LISTS:
        if key not in value:
            findings.add("files that are not COCO", f"has no {key!r}; a COCO detection file has images, annotations and categories", file)
            bad = True
        elif not isinstance(value[key], list):
            findings.add("files that are not COCO", f"{key!r} is {kind_of(value[key])}; it must be a list", file)
            bad = True
        else:
            for index, entry in enumerate(value[key]):
                if isinstance(entry, dict):
                    _normalise(entry, _WHOLE[key])
                else:
                    kind = f"entries of {key!r} that are no objects"
                    findings.add(kind, f"is {kind_of(entry)}; it must be an object", file, f"{key}[{index}]")
                    bad = True
    if constants:
        counts = ", ".join(f"{name} {count}x" for name, count in constants.items())
        hint = "remove these annotations or repair their coordinates"
        findings.add("numbers that JSON does not have", f"holds numbers that JSON does not have: {counts}", file, "", hint)
    return None if bad else value


def load_coco(path: Path | str) -> dict[str, Any]:
    """Read an annotation file that passed ``check_dataset``, with what COCO's own files always have filled in.

    Each annotation gets ``iscrowd`` (0) and ``area`` (width x height) where it lacks them; categories come sorted by id.

    Raises:
        DataError: it cannot be read as COCO at all.
    """
    findings = Findings()
    coco = read_annotations(Path(path), findings, readable(str(path)))
    if coco is None:
        raise DataError(findings.problems())
    for annotation in coco["annotations"]:
        annotation.setdefault("iscrowd", 0)
        if annotation.get("area") is None:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    coco["categories"] = sorted(coco["categories"], key=lambda category: category["id"])
    return coco


def is_learned(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Return True if training uses a box: it lies in its image, and no side is shorter than ``MIN_BOX_PX``.

    Args:
        box: x, y, width, height, px. size: (width, height) of the image, px.
    """
    x, y, w, h = box
    width, height = size
    return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0) and min(w, h) >= MIN_BOX_PX


def is_id(value: Any) -> bool:
    """Return True if ``value`` may be an id: a whole number that a float64 holds exactly, as COCO's evaluation keeps them."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_number(value: Any) -> bool:
    """Return True for a number that is no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_float(value: float) -> float:
    """Return a number as a float; infinite where an integer is beyond floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _normalise(entry: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        value = entry.get(key)
        if isinstance(value, float) and value.is_integer():
            entry[key] = int(value)
    if isinstance(entry.get("iscrowd"), bool):
        entry["iscrowd"] = int(entry["iscrowd"])


def _not_json(data: bytes, error: ValueError, file: str) -> tuple[str, str, str, str]:
    """Return message, file, item and hint for a file that is not JSON."""
    start = data.lstrip()[:1]
    if not data.strip():
        return "is empty", file, "", ""
    if start == b"<":
        return "is XML, as CVAT and Pascal VOC write it", file, "", _EXPORT
    if "Extra data" in str(error) and start == b"{":
        return f"holds several JSON values: {error}", file, "", "a COCO file is one JSON object"
    return f"is not JSON: {error}", file, "", ""


def _other_format(value: Any) -> str:
    """Return what a JSON file is, if it is clearly not COCO detection; else nothing."""
    if isinstance(value, list):
        first = value[0] if value and isinstance(value[0], dict) else {}
        if {"image_id", "score"} <= first.keys():
            return "holds a list of detections (COCO's results format), no data set"
        if "data" in first and ("annotations" in first or "completions" in first):
            return "holds a list of tasks, as Label Studio exports them"
        return "holds a list; a COCO annotation file is an object with images, annotations and categories"
    if not isinstance(value, dict):
        return f"holds {kind_of(value)}; a COCO annotation file is an object with images, annotations and categories"
    if "shapes" in value and "images" not in value:
        return "has no 'images': it is LabelMe's file of one image"
    if "_via_img_metadata" in value:
        return "has no 'images': it is a project of the VGG Image Annotator (VIA)"
    annotations = value.get("annotations")
    entries = [entry for entry in annotations[:100] if isinstance(entry, dict)] if isinstance(annotations, list) else []
    if entries and not any("bbox" in entry for entry in entries):
        if all("segments_info" in entry for entry in entries):
            return "holds panoptic segmentation (annotations have segments_info and no bbox)"
        if all("caption" in entry for entry in entries):
            return "holds captions (annotations have no bbox)"
    return ""
