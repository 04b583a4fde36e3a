"""The name of a data set by its content, and the white level of its deep images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.addresses import absolute
from gfl_lab.data import ambiguous_shapes, pixels
from gfl_lab.data.annotations import read_annotations
from gfl_lab.data.findings import Findings
from gfl_lab.data.image_check import Deep, each, white_level_of
from gfl_lab.data.layout import SPLITS, below, find_dataset, image_file
from gfl_lab.errors import DataError, Problem
from gfl_lab.records.files import write_text

_HEAD = 32
"""Bytes that are enough to see if an image may have more than 8 bits."""


@dataclass(frozen=True)
class Content:
    """Digest, 16 hex digits, and white level (0: all images have 8 bits)."""

    digest: str
    white_level: int = 0


def digest_of(cocos: Mapping[str, Mapping[str, Any]], sums: Mapping[str, Mapping[int, str]]) -> str:
    """Return the digest of annotations as ``read_annotations`` returns them, and SHA-256 by split and image id."""
    total = hashlib.sha256()
    for split in SPLITS:
        coco = cocos[split]
        annotations = []
        for entry in coco["annotations"]:
            box = [float(v) for v in entry["bbox"]]
            area = entry.get("area")
            kept = {
                "id": entry["id"],
                "image_id": entry["image_id"],
                "category_id": entry["category_id"],
                "bbox": box,
                "area": box[2] * box[3] if area is None else float(area),
                "iscrowd": int(entry.get("iscrowd", 0)),
            }
            if entry.get("ambiguity"):
                kept["ambiguity"] = entry["ambiguity"]
            annotations.append(kept)
        value = {
            "split": split,
            "categories": sorted([category["id"], category["name"]] for category in coco["categories"]),
            "images": [[entry["id"], int(entry["width"]), int(entry["height"]), sums[split][entry["id"]]] for entry in coco["images"]],
            "annotations": annotations,
        }
        total.update(naming.canonical_json(value).encode("utf-8", "surrogatepass"))
    return total.hexdigest()[:16]


def dataset_digest(root: Path | str, cache: Path | None = None) -> str:
    """Return the digest of ``dataset_content``. Equals ``check_dataset(root).digest``. Raises DataError."""
    return dataset_content(root, cache).digest


def dataset_content(root: Path | str, cache: Path | None = None) -> Content:
    """Name a valid data set by its content: annotations, categories and image bytes.

    File names, masks and other keys do not count, nor where the folder lies; the order of images and annotations does,
    since training draws by position. A folder of ``ambiguous_shapes.generate`` has the digest in its dataset.json.

    Args:
        root: the data set's folder.
        cache: a folder in which image hashes are kept, by path, size and time of last change, so that the next call need
            not read a large data set again.

    Raises:
        DataError: the data set cannot be read.
    """
    generated = ambiguous_shapes.describe(Path(root))
    if generated:
        return Content(generated["digest"])
    cocos, files = _read(root)
    known: dict[str, list[Any]] = {}
    store = cache / f"images-{naming.digest(os.fsencode(absolute(root, 'the data set')).decode('latin-1'))}.json" if cache else None
    if store and store.is_file():
        try:
            loaded = json.loads(store.read_text(encoding="utf-8"))
            known = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            known = {}

    def look(path: Path) -> list[Any]:
        """Return size, time, SHA-256, and of a deep image its largest value and whether values are integers."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = known.get(str(path))
        if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 5:
            return entry
        with path.open("rb") as file:
            deep = _deep(path) if pixels.may_be_deep(file.read(_HEAD)) else None
            file.seek(0)
            return [*stamp, hashlib.file_digest(file, "sha256").hexdigest(), deep and deep.peak, deep and deep.integers]

    entries = _each_image(look, files, root)
    sums = {str(path): entry for path, entry in entries.items()}
    if store and sums != known:
        write_text(store, json.dumps(sums))
    by_id = {split: {number: entries[path][2] for number, path in found.items()} for split, found in files.items()}
    deep = [Deep(float(entry[3]), bool(entry[4])) for entry in entries.values() if entry[3] is not None]
    return Content(digest_of(cocos, by_id), white_level_of(deep))


def find_white_level(root: Path | str) -> int:
    """Return the white level of a valid data set without reading more of 8-bit images than their first bytes.

    Files named as JPEG are taken for 8-bit ones unseen. Raises DataError: the data set cannot be read.
    """
    if ambiguous_shapes.describe(Path(root)):
        return 0
    _, files = _read(root)

    def look(path: Path) -> Deep | None:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            return None
        with path.open("rb") as file:
            return _deep(path) if pixels.may_be_deep(file.read(_HEAD)) else None

    return white_level_of(deep for deep in _each_image(look, files, root).values() if deep)


def _read(root: Path | str) -> tuple[dict[str, dict[str, Any]], dict[str, dict[int, Path]]]:
    """Return the annotations by split, and image files by split and id. Raises DataError."""
    root = absolute(root, "the data set")
    paths = find_dataset(root)
    cocos, files = {}, {}
    findings = Findings()
    for split in SPLITS:
        file, folder = paths.split(split)
        coco = read_annotations(file, findings, below(root, file))
        if coco is None or findings:
            raise DataError(findings.problems())
        cocos[split] = coco
        files[split] = {entry["id"]: image_file(folder, entry["file_name"]) for entry in coco["images"]}
    return cocos, files


def _each_image(look: Any, files: Mapping[str, Mapping[int, Path]], root: Path | str) -> dict[Path, Any]:
    try:
        return each(look, (path for split in files.values() for path in split.values()))
    except OSError as error:
        message = f"an image cannot be read: {error.strerror or error}"
        raise DataError(Problem(message, str(error.filename or root))) from None


def _deep(path: Path) -> Deep | None:
    """Return the depth of an image with more than 8 bits; None for 8, and for a damaged image, which the check reports."""
    try:
        values = pixels.decode(path.read_bytes())
    except ValueError:
        return None
    return None if values.dtype.itemsize == 1 else Deep(pixels.peak_of(values), pixels.is_integer(values))
