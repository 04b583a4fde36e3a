"""Reading, checking and naming a detection data set in COCO format: any folder given with ``--data PATH``.

Layouts (docs/data.md):

    annotations/instances_train.json     annotations/instances_train2017.json
    annotations/instances_val.json       annotations/instances_val2017.json
    images/                              train2017/  val2017/

Image folders are looked for as ``{split}2017``, ``images/{split}2017``, ``images/{split}``, ``{split}``, ``images``; the first
that exists holds the split's images. Only ``images``, ``annotations`` and ``categories`` are read; masks are not needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from gfl_lab import naming
from gfl_lab.addresses import absolute
from gfl_lab.data import ambiguous_shapes
from gfl_lab.errors import DataError, Problem
from gfl_lab.spec.settings import DataSpec

SPLITS = ("train", "val")
EXAMPLES = 10
"""Problems of one kind that are listed one by one; the rest are counted."""

ROUNDING_PX = 1.0
"""A box that leaves its image by at most this much is a warning: coordinates rounded, or counted from 1."""
EXACT_PX = 0.01
"""... and by at most this much is inside: COCO writes two decimals."""
SAME_BOX_IOU = 0.9
"""Two boxes of one class in one image at this IoU or more are probably one object annotated twice."""
WHOLE_IMAGE = 0.99
"""A box over this share of its image or more is reported as one over the whole image."""
MIN_SIDE_PX, MIN_BOX_PX = 32, 1
"""Training leaves out smaller images, as every published GFL row does, and boxes with a shorter side."""
SMALL_AREA, MEDIUM_AREA = 32.0**2, 96.0**2
"""COCO's size classes: small below 32 x 32 px, large from 96 x 96 px, by the annotation's ``area``."""


@dataclass(frozen=True)
class CocoPaths:
    """Where a data set's files are; all absolute."""

    train_annotations: Path
    val_annotations: Path
    train_images: Path
    val_images: Path

    def split(self, name: str) -> tuple[Path, Path]:
        """(annotation file, image folder) of "train" or "val"."""
        return (self.train_annotations, self.train_images) if name == "train" else (self.val_annotations, self.val_images)


@dataclass(frozen=True)
class SplitReport:
    """Numbers of one split. Sizes are COCO's (area below 32 x 32 px, up to 96 x 96 px, above); crowd regions count apart."""

    images: int = 0
    boxes: int = 0
    crowds: int = 0
    small: int = 0
    medium: int = 0
    large: int = 0
    images_without_boxes: int = 0
    trainable: int = 0  # images that training uses: sides of MIN_SIDE_PX at least, and a box of MIN_BOX_PX that is no crowd
    most_boxes: int = 0
    mean_boxes: float = 0.0
    min_size: tuple[int, int] = (0, 0)  # smallest width and smallest height, px
    max_size: tuple[int, int] = (0, 0)
    boxes_by_class: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetReport:
    """What a data set is and what is wrong with it. ``digest`` is empty where there are errors or pixels were not read."""

    root: str
    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, SplitReport]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    decoded: bool
    digest: str = ""

    @property
    def ok(self) -> bool:
        """Whether it can be trained on."""
        return not self.errors

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The errors (the name that the rest of the package uses)."""
        return self.errors

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"ok": self.ok}

    def to_text(self) -> str:
        """The report as people read it, without colour."""
        lines = [f"{self.name}: {self.root}"]
        if self.classes:
            lines.append(f"  {len(self.classes)} classes: {', '.join(self.classes)}")
        for name, split in self.splits.items():
            lines.append(
                f"  {name}: {split.images} images, {split.boxes} boxes (small {split.small}, medium {split.medium}, large {split.large}), "
                f"{split.crowds} crowd regions; {split.mean_boxes:.1f} boxes an image, at most {split.most_boxes}"
            )
            if split.images:
                lines.append(f"    sizes {split.min_size[0]}x{split.min_size[1]} to {split.max_size[0]}x{split.max_size[1]} px")
        if self.digest:
            lines.append(f"  digest {self.digest}")
        for title, problems in (("error", self.errors), ("warning", self.warnings)):
            lines.extend(f"  {title}: {str(problem).replace(chr(10), chr(10) + '  ')}" for problem in problems)
        lines.append("  valid" if self.ok else "  not valid")
        return "\n".join(lines)


class _Findings:
    """Problems by kind, so that a thousand of one kind do not hide the one of another."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], list[Problem]] = defaultdict(list)
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, kind: str, message: str, file: str = "", item: str = "", hint: str = "") -> None:
        key = (file, kind)
        self._counts[key] += 1
        if self._counts[key] <= EXAMPLES:
            place = f"{file}: {item}" if file and item else file or item
            self._kinds[key].append(Problem(message, place, hint if self._counts[key] == 1 else ""))

    def extend(self, other: _Findings) -> None:
        for key, examples in other._kinds.items():
            self._kinds[key].extend(examples)
            self._counts[key] += other._counts[key]

    def __bool__(self) -> bool:
        return bool(self._counts)

    def problems(self) -> tuple[Problem, ...]:
        result = []
        for key, examples in self._kinds.items():
            result.extend(examples)
            more = self._counts[key] - len(examples)
            if more:
                result.append(Problem(f"and {more} more: {key[1]}", key[0]))
        return tuple(result)


# --- finding and reading --------------------------------------------------------------------------


def find_dataset(root: Path | str) -> CocoPaths:
    """The files of the data set under ``root``, in any of the layouts of docs/data.md.

    Raises:
        DataError: there is no such folder, or an annotation file or image folder is missing; all of them at once.
    """
    root = absolute(root, "the data set folder")
    hint = "expected annotations/instances_train.json, annotations/instances_val.json and images/, or another layout of docs/data.md"
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(Problem(f"the data set folder {what}", str(root), hint))
    problems, found = [], {}
    for split in SPLITS:
        names = (split, "valid", "validation") if split == "val" else (split,)
        exact = [f"annotations/instances_{split}.json", f"annotations/instances_{split}2017.json"]
        exact += [f"{name}/_annotations.coco.json" for name in names] + [
            f"{folder}{name}.json" for folder in ("annotations/", "") for name in names
        ]
        file = next((root / name for name in exact if (root / name).is_file()), None)
        if file is None:
            loose = sorted((root / "annotations").glob(f"*{split}*.json"))
            file = loose[0] if len(loose) == 1 else None
            if len(loose) > 1:
                listed = ", ".join(path.name for path in loose[:EXAMPLES])
                problems.append(
                    Problem(f"several annotation files may be meant for {split}: {listed}", str(root), f"name the right one {exact[0]}")
                )
                continue
        if file is None:
            problems.append(Problem(f"no annotations for {split}: neither {exact[0]} nor {exact[1]} is there", str(root), hint))
        folders = [folder for name in names for folder in (f"{name}2017", f"images/{name}2017", f"images/{name}", name)] + ["images"]
        present = [root / name for name in folders if (root / name).is_dir()]
        folder = _folder_of_images(file, present)
        if folder is None:
            problems.append(Problem(f"no folder with the images of {split}: none of {', '.join(folders)} is there", str(root), hint))
        found[split] = (file, folder)
    if problems:
        raise DataError(problems)
    return CocoPaths(found["train"][0], found["val"][0], found["train"][1], found["val"][1])


def _folder_of_images(annotations: Path | None, folders: list[Path]) -> Path | None:
    """Where the first listed image lies, if several folders come into question; else the first of them."""
    if len(folders) > 1 and annotations is not None:
        try:
            images = json.loads(annotations.read_text(encoding="utf-8"))["images"]
            name = next(image["file_name"] for image in images if not _escapes(image["file_name"]))
            return next((folder for folder in folders if (folder / name).is_file()), folders[0])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
            pass  # the check tells what is wrong with the file
    return folders[0] if folders else None


def load_coco(path: Path | str) -> dict[str, Any]:
    """An annotation file that passed ``check_dataset``, with what COCO's own files always have filled in.

    Each annotation gets ``iscrowd`` (0) and ``area`` (width x height) where it lacks them; categories come sorted by id.

    Raises:
        DataError: it cannot be read as COCO at all.
    """
    findings = _Findings()
    coco = _read(Path(path), findings)
    if coco is None:
        raise DataError(findings.problems())
    for annotation in coco["annotations"]:
        annotation.setdefault("iscrowd", 0)
        if annotation.get("area") is None:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    coco["categories"] = sorted(coco["categories"], key=lambda category: category["id"])
    return coco


def _read(path: Path, findings: _Findings) -> dict[str, Any] | None:
    """The content of an annotation file when it has the three lists of objects; else None, and why."""
    file = path.name
    constants: Counter[str] = Counter()

    def constant(text: str) -> float:
        constants[text] += 1
        return float(text)

    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=constant)
    except OSError as error:
        findings.add("unreadable file", f"cannot be read: {error.strerror or error}", file)
        return None
    except UnicodeDecodeError as error:
        findings.add("not UTF-8", f"is not UTF-8 text (byte {error.start})", file)
        return None
    except RecursionError:
        findings.add("not JSON", "is nested too deeply to be read", file)
        return None
    except ValueError as error:
        findings.add("not JSON", "is empty" if not path.stat().st_size else f"is not JSON: {error}", file)
        return None
    if not isinstance(value, dict):
        findings.add("not COCO", f"holds {_kind(value)}; a COCO annotation file is an object with images, annotations and categories", file)
        return None
    bad = False
    for key in ("images", "annotations", "categories"):
        if key not in value:
            findings.add("not COCO", f"has no {key!r}; a COCO detection file has images, annotations and categories", file)
            bad = True
        elif not isinstance(value[key], list):
            findings.add("not COCO", f"{key!r} is {_kind(value[key])}; it must be a list", file)
            bad = True
        else:
            for index, entry in enumerate(value[key]):
                if not isinstance(entry, dict):
                    findings.add(
                        f"entries of {key!r} that are no objects", f"is {_kind(entry)}; it must be an object", file, f"{key}[{index}]"
                    )
                    bad = True
    if constants:
        listed = ", ".join(f"{name} {count}x" for name, count in constants.items())
        findings.add(
            "NaN", f"holds numbers that JSON does not have: {listed}", file, "", "remove these annotations or repair their coordinates"
        )
    return None if bad else value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _is_id(value: Any) -> bool:
    """Whether ``value`` may be an id: a whole number that a float64 holds exactly, as COCO's evaluation keeps them."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float) -> float:
    """As a float; infinite where an integer is beyond floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_file(path: Path) -> bool:
    """``path.is_file()``, and False for a name that no file can have (too long, not encodable)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _escapes(name: str) -> bool:
    """Whether a file name could leave the folder it is joined to, on any system."""
    return (
        "\0" in name
        or PurePosixPath(name).is_absolute()
        or bool(PureWindowsPath(name).drive or PureWindowsPath(name).root)
        or ".." in PureWindowsPath(name).parts
    )


# --- checking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ImageFile:
    """What reading one image file found. ``error`` is set when it cannot be used."""

    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    error: str = ""
    warnings: tuple[tuple[str, str], ...] = ()  # (kind, message)


_BROKEN_IMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on damaged files."""


def _inspect(path: Path) -> _ImageFile:
    """Read and decode one image; every pixel, since a truncated file has an intact header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return _ImageFile(error=f"cannot be read: {error.strerror or error}")
    sha256 = hashlib.sha256(data).hexdigest()
    warnings = []
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, mode, kind = image.size, image.mode, image.format or ""
            frames = getattr(image, "n_frames", 1) if kind not in ("MPO", "JPEG") else 1
            image.load()
            try:
                orientation = image.getexif().get(0x0112, 1)
            except _BROKEN_IMAGE:  # broken EXIF harms no pixel
                orientation = 1
    except _BROKEN_IMAGE as error:
        text = str(error) if "cannot identify" not in str(error) else "it is no image format that can be read"
        return _ImageFile(sha256, error=f"cannot be decoded: {'it is empty' if not data else text}")
    if mode != "RGB":
        names = {"L": "greyscale", "1": "black and white", "P": "a palette image", "RGBA": "RGB with an alpha channel", "CMYK": "CMYK"}
        warnings.append(("images that are not RGB", f"is {names.get(mode, 'of mode ' + mode)}; it is read as RGB"))
    expected = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}.get(path.suffix.lower())
    if expected and kind != expected and not (expected == "JPEG" and kind == "MPO"):
        warnings.append(("files named as another format", f"is named {path.suffix} but is {kind}"))
    if kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        warnings.append(("files without an end marker", "has no end marker: the file may have lost its last bytes"))
    if orientation != 1:
        if isinstance(orientation, int) and 1 <= orientation <= 8:
            text = f"has EXIF orientation {orientation}: it is used as stored, not turned, so its boxes must fit the stored pixels"
        else:
            text = f"has EXIF orientation {_show(orientation)}, which does not exist; it is used as stored"
        warnings.append(("EXIF orientations", text))
    if frames > 1:
        warnings.append(("files with several frames", f"holds {frames} frames; only the first is used"))
    return _ImageFile(sha256, size, "", tuple(warnings))


def _threads() -> int:
    return min(16, 2 * (os.cpu_count() or 1))


def _each(work: Callable[[Path], Any], paths: Iterable[Path]) -> dict[Path, Any]:
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(_threads()) as pool:
        return dict(zip(unique, pool.map(work, unique), strict=True))


def _check_categories(coco: Mapping[str, Any], file: str, errors: _Findings) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, category in enumerate(coco["categories"]):
        number, name = category.get("id"), category.get("name")
        place = f"categories[{index}]"
        if not _is_id(number):
            errors.add("categories without an id", f"id is {_show(number)}; it must be a whole number from 0 to 2^53 - 1", file, place)
        elif not isinstance(name, str) or not name.strip():
            errors.add("categories without a name", f"name of category {number} is {_show(name)}; it must be text", file, place)
        elif number in names:
            errors.add(
                "category ids used twice", f"category id {number} is used twice ({_show(names[number])}, {_show(name)})", file, place
            )
        else:
            if name in names.values():
                errors.add("category names used twice", f"two categories are named {_show(name)}", file, place)
            names[number] = name
    if not coco["categories"]:
        errors.add("no categories", "has no categories", file)
    return names


def _check_images(coco: Mapping[str, Any], folder: Path, file: str, errors: _Findings, warnings: _Findings) -> dict[int, dict[str, Any]]:
    """Images by id whose entry is sound; the ``path`` key is set where the file is there."""
    images: dict[int, dict[str, Any]] = {}
    names: dict[str, int] = {}
    for index, entry in enumerate(coco["images"]):
        number, name = entry.get("id"), entry.get("file_name")
        if not _is_id(number):
            errors.add(
                "images without an id", f"id is {_show(number)}; it must be a whole number from 0 to 2^53 - 1", file, f"images[{index}]"
            )
            continue
        place = f"image {number}"
        if number in images:
            errors.add("image ids used twice", f"image id {number} is used twice", file, place)
            continue
        width, height = entry.get("width"), entry.get("height")
        sound = all(_is_number(v) and math.isfinite(_float(v)) and v >= 1 and v == int(v) for v in (width, height))
        if not sound:
            errors.add(
                "images without a size",
                f"width and height are {_show(width)} and {_show(height)}; they must be whole numbers of px",
                file,
                place,
            )
        record: dict[str, Any] = {"id": number, "name": name, "size": (int(width), int(height)) if sound else None, "path": None}
        images[number] = record
        if not isinstance(name, str) or not name:
            errors.add("images without a file name", f"file_name is {_show(name)}; it must be text", file, place)
        elif _escapes(name):
            errors.add(
                "file names that leave the image folder",
                f"file_name {_show(name)} leaves the image folder",
                file,
                place,
                "file names are relative to the image folder and hold no '..'",
            )
        else:
            if name in names:
                warnings.add("files listed twice", f"file {_show(name)} is also image {names[name]}", file, place)
            names[name] = number
            path = folder / name
            if _is_file(path):
                record["path"] = path
            else:
                errors.add(
                    "image files that are missing", f"the image file {_show(name)} is missing", file, place, f"looked for in {folder}"
                )
    if not coco["images"]:
        errors.add("no images", "has no images", file)
    return images


def _check_annotations(
    coco: Mapping[str, Any],
    images: Mapping[int, dict[str, Any]],
    names: Mapping[int, str],
    file: str,
    errors: _Findings,
    warnings: _Findings,
) -> list[tuple[int, int, tuple[float, ...], float, bool]]:
    """Sound annotations as (image id, category id, (x, y, w, h), area, crowd)."""
    sound = []
    ids: set[int] = set()
    no_area = 0
    for index, entry in enumerate(coco["annotations"]):
        number = entry.get("id")
        place = f"annotation {number}" if _is_id(number) else f"annotations[{index}]"
        if not _is_id(number):
            errors.add("annotations without an id", f"id is {_show(number)}; it must be a whole number from 0 to 2^53 - 1", file, place)
        elif number in ids:
            errors.add("annotation ids used twice", f"annotation id {number} is used twice", file, place)
        else:
            ids.add(number)
        image_id, category_id, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        known = _is_id(image_id) and image_id in images
        if not known:
            errors.add("annotations of images that are not listed", f"image_id {_show(image_id)} is not among the images", file, place)
        if not _is_id(category_id) or category_id not in names:
            errors.add("annotations of unknown categories", f"category_id {_show(category_id)} is not among the categories", file, place)
            known = False
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
            errors.add("annotations without a box", f"bbox is {_show(box)}; it must be [x, y, width, height]", file, place)
            continue
        x, y, width, height = box = tuple(_float(v) for v in box)
        if not all(math.isfinite(v) for v in box):
            errors.add("boxes that are not finite", f"bbox {_show(list(box))} is not finite", file, place)
            continue
        if width <= 0 or height <= 0:
            errors.add("boxes without area", f"bbox {_show(list(box))} has no area: width and height must be above 0", file, place)
            continue
        area = entry.get("area")
        if area is None:
            no_area += 1
            area = width * height
        elif not _is_number(area) or not math.isfinite(_float(area)) or area <= 0:
            errors.add("areas that are no areas", f"area is {_show(area)}; it must be a number above 0", file, place)
            continue
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            errors.add("iscrowd that is neither 0 nor 1", f"iscrowd is {_show(crowd)}; it must be 0 or 1", file, place)
            continue
        if not known:
            continue
        size = images[image_id]["size"]
        if size is not None:
            out = max(-x, -y, x + width - size[0], y + height - size[1])
            if out > ROUNDING_PX:
                message = f"bbox {_show(list(box))} leaves its image of {size[0]}x{size[1]} px by {out:g} px"
                errors.add("boxes outside their image", message, file, place, "bbox is [x, y, width, height], not two corners")
                continue
            if out > EXACT_PX:
                warnings.add(
                    "boxes slightly outside their image",
                    f"bbox {_show(list(box))} leaves its image of {size[0]}x{size[1]} px by {out:g} px",
                    file,
                    place,
                )
            if width * height >= WHOLE_IMAGE * size[0] * size[1]:
                warnings.add("boxes over the whole image", "the box covers the whole image; it may be right", file, place)
        if min(width, height) < 1:
            warnings.add("boxes thinner than a pixel", f"bbox {_show(list(box))} is thinner than a pixel", file, place)
        sound.append((image_id, category_id, box, float(area), bool(crowd)))
    if no_area:
        warnings.add("no area", f"{no_area} annotations have no area; width x height is used", file)
    if not any(not crowd for *_, crowd in sound) and not errors:
        errors.add("no boxes", "has no boxes: nothing to learn from or to measure", file)
    return sound


def _warn_same_boxes(sound: list[tuple[int, int, tuple[float, ...], float, bool]], file: str, warnings: _Findings) -> None:
    groups: dict[tuple[int, int], list[tuple[float, ...]]] = defaultdict(list)
    for image_id, category_id, box, _, crowd in sound:
        if not crowd:
            groups[image_id, category_id].append(box)
    for (image_id, _), boxes in groups.items():
        if len(boxes) < 2:
            continue
        b = np.asarray(boxes)
        low, high = b[:, :2], b[:, :2] + b[:, 2:]
        side = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
        inter = np.clip(side, 0, None).prod(-1)
        area = b[:, 2] * b[:, 3]
        iou = inter / (area[:, None] + area[None] - inter)
        for i, j in zip(*np.nonzero(np.triu(iou >= SAME_BOX_IOU, 1)), strict=True):
            message = (
                f"two boxes of one class are nearly the same (IoU {iou[i, j]:.3f}): {_show(list(boxes[i]))} and {_show(list(boxes[j]))}"
            )
            warnings.add("nearly identical boxes", message, file, f"image {image_id}")


def _split_report(
    images: Mapping[int, dict[str, Any]], sound: list[tuple[int, int, tuple[float, ...], float, bool]], names: Mapping[int, str]
) -> SplitReport:
    boxes = [entry for entry in sound if not entry[4]]
    per_image = Counter(entry[0] for entry in boxes)
    by_class = Counter(entry[1] for entry in boxes)
    sizes = [record["size"] for record in images.values() if record["size"]]
    small = sum(entry[3] < SMALL_AREA for entry in boxes)
    large = sum(entry[3] >= MEDIUM_AREA for entry in boxes)
    return SplitReport(
        images=len(images),
        boxes=len(boxes),
        crowds=len(sound) - len(boxes),
        small=small,
        medium=len(boxes) - small - large,
        large=large,
        images_without_boxes=len(images) - len(per_image),
        trainable=len(
            {
                number
                for number, _, box, _, _ in boxes
                if min(box[2:]) >= MIN_BOX_PX and min(images[number]["size"] or (0, 0)) >= MIN_SIDE_PX
            }
        ),
        most_boxes=max(per_image.values(), default=0),
        mean_boxes=len(boxes) / len(images) if images else 0.0,
        min_size=(min((s[0] for s in sizes), default=0), min((s[1] for s in sizes), default=0)),
        max_size=(max((s[0] for s in sizes), default=0), max((s[1] for s in sizes), default=0)),
        boxes_by_class={names[number]: by_class[number] for number in sorted(names)},
    )


def _check_pixels(
    images: Mapping[str, Mapping[int, dict[str, Any]]], files: Mapping[str, str], errors: _Findings, warnings: _Findings
) -> dict[Path, str]:
    """Decode every image; returns SHA-256 by path."""
    found = _each(_inspect, (record["path"] for split in images.values() for record in split.values() if record["path"]))
    owners: dict[str, dict[Path, tuple[str, str]]] = defaultdict(dict)
    for split, records in images.items():
        for number, record in records.items():
            path = record["path"]
            if path is None:
                continue
            result, place = found[path], f"image {number} ({_show(record['name'])})"
            if result.error:
                errors.add("images that cannot be decoded", result.error, files[split], place)
                continue
            if record["size"] and result.size != record["size"]:
                turned = result.size[::-1] == record["size"]
                message = f"is {result.size[0]}x{result.size[1]} px, the annotations say {record['size'][0]}x{record['size'][1]}"
                hint = (
                    "width and height are swapped, or the size is that after turning by EXIF orientation"
                    if turned
                    else "boxes would not fit"
                )
                errors.add("sizes that differ", message, files[split], place, hint)
            for kind, text in result.warnings:
                warnings.add(kind, text, files[split], place)
            owners[result.sha256].setdefault(path, (split, place))
    for same in owners.values():
        if len(same) < 2:
            continue
        (split, place), *others = same.values()
        for other_split, other_place in others:
            if other_split != split:
                message = f"has the same content as {files[split]}: {place}, so val is not independent of train"
                warnings.add("images in train and val", message, files[other_split], other_place)
            else:
                warnings.add("images with the same content", f"has the same content as {place}", files[other_split], other_place)
    shared = {record["path"] for record in images.get("train", {}).values()} & {record["path"] for record in images.get("val", {}).values()}
    for path in sorted(path for path in shared if path):
        warnings.add(
            "images in train and val",
            f"the file {_show(path.name)} is in train and in val, so val is not independent of train",
            files["val"],
        )
    return {path: result.sha256 for path, result in found.items()}


def check_dataset(root: Path | str, decode: bool = True) -> DatasetReport:
    """Check the data set under ``root`` completely; nothing is raised, everything is in the report.

    Args:
        root: its folder.
        decode: decode every image (threads). Without, pixels, real sizes and duplicates go unchecked and there is no digest.
    """
    root = absolute(root, "the data set folder")
    errors, warnings = _Findings(), _Findings()
    name = root.resolve().name
    try:
        paths = find_dataset(root)
    except DataError as error:
        return DatasetReport(str(root.resolve()), name, (), {}, error.problems, (), decode)
    read: dict[str, dict[str, Any]] = {}
    files, names, images, splits = {}, {}, {}, {}
    for split in SPLITS:
        path, folder = paths.split(split)
        files[split] = path.name
        coco = _read(path, errors)
        if coco is None:
            continue
        read[split] = coco
        of_boxes = _Findings()
        names[split] = _check_categories(coco, path.name, errors)
        images[split] = _check_images(coco, folder, path.name, errors, warnings)
        sound = _check_annotations(coco, images[split], names[split], path.name, of_boxes, warnings)
        errors.extend(of_boxes)
        _warn_same_boxes(sound, path.name, warnings)
        splits[split] = _split_report(images[split], sound, names[split])
        if split == "train" and splits[split].boxes and not splits[split].trainable and not errors:
            message = f"no image can be trained on: each has a side under {MIN_SIDE_PX} px, or no box of {MIN_BOX_PX} px at least"
            errors.add("no trainable images", message, path.name)
        annotated = {entry.get("image_id") for entry in coco["annotations"] if _is_id(entry.get("image_id"))}
        for number, record in images[split].items():
            if number not in annotated:
                warnings.add(
                    "images without annotations",
                    f"has no annotations ({_show(record['name'])}): empty, or forgotten",
                    path.name,
                    f"image {number}",
                )
        absent = [name for name, count in splits[split].boxes_by_class.items() if not count]
        if absent and splits[split].boxes:
            listed = ", ".join(absent[:EXAMPLES]) + (", ..." if len(absent) > EXAMPLES else "")
            warnings.add("classes without boxes", f"no boxes of {len(absent)} of {len(names[split])} classes: {listed}", path.name)
    if len(names) == 2 and names["train"] != names["val"]:
        for number in sorted(names["train"].keys() | names["val"].keys()):
            ours, theirs = names["train"].get(number), names["val"].get(number)
            if ours != theirs:
                said = [
                    f"{files[split]} {'has none' if value is None else 'says ' + _show(value)}"
                    for split, value in (("train", ours), ("val", theirs))
                ]
                errors.add(
                    "categories that differ between train and val", f"category {number} differs between train and val: {', '.join(said)}"
                )
    generated = ambiguous_shapes.describe(root)
    digest = ""
    if decode:
        sums = _check_pixels(images, files, errors, warnings)
        if generated and not errors and not ambiguous_shapes.verify(root):
            hint = "generate it anew, or delete dataset.json to use it as data without known truth"
            errors.add("altered", "the content differs from the digest in dataset.json", ambiguous_shapes.DATASET_FILE, "", hint)
        if generated and not errors:
            digest = generated["digest"]  # of pixels: the bytes of a PNG depend on the zlib that wrote it
        elif not errors:
            digest = _digest(read, {split: {number: sums[record["path"]] for number, record in images[split].items()} for split in SPLITS})
    if generated:
        name = generated["name"]
    classes = tuple(names["train"][number] for number in sorted(names["train"])) if "train" in names else ()
    return DatasetReport(str(root.resolve()), name, classes, splits, errors.problems(), warnings.problems(), decode, digest)


def require_valid(root: Path | str, decode: bool = True) -> DatasetReport:
    """The report of a valid data set.

    Raises:
        DataError: with every error found (identical kinds: the first ten, and how many more).
    """
    report = check_dataset(root, decode)
    if report.errors:
        raise DataError(report.errors)
    return report


# --- naming by content ----------------------------------------------------------------------------


def _digest(cocos: Mapping[str, Mapping[str, Any]], sums: Mapping[str, Mapping[int, str]]) -> str:
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
        total.update(naming.canonical_json(value).encode())
    return total.hexdigest()[:16]


def dataset_digest(root: Path | str, cache: Path | None = None) -> str:
    """Name of a valid data set by its content, 16 hex digits: annotations, categories and image bytes.

    File names, masks and other keys do not count, nor where the folder lies; the order of images and annotations does,
    since training draws by position. A folder of ``ambiguous_shapes.generate`` has the digest in its dataset.json. Equals
    ``check_dataset(root).digest``.

    Args:
        root: the data set's folder.
        cache: a folder in which image hashes are kept, by path, size and time of last change, so that the next call need
            not read a large data set again.

    Raises:
        DataError: the data set cannot be read.
    """
    generated = ambiguous_shapes.describe(Path(root))
    if generated:
        return generated["digest"]
    paths = find_dataset(root)
    cocos, image_paths = {}, {}
    findings = _Findings()
    for split in SPLITS:
        file, folder = paths.split(split)
        coco = _read(file, findings)
        if coco is None or findings:
            raise DataError(findings.problems())
        cocos[split] = coco
        image_paths[split] = {entry["id"]: folder / entry["file_name"] for entry in coco["images"]}
    every = list(dict.fromkeys(path for split in image_paths.values() for path in split.values()))
    known: dict[str, list[Any]] = {}
    store = cache / f"images-{naming.digest(str(Path(root).resolve()))}.json" if cache else None
    if store and store.is_file():
        try:
            loaded = json.loads(store.read_text(encoding="utf-8"))
            known = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            known = {}

    def checksum(path: Path) -> list[Any]:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = known.get(str(path))
        if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
            return entry
        with path.open("rb") as file:
            return [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]

    try:
        sums = {str(path): entry for path, entry in _each(checksum, every).items()}
    except OSError as error:
        raise DataError(Problem(f"an image cannot be read: {error.strerror or error}", str(error.filename or root))) from None
    if store and sums != known:
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary = store.with_name(f".{store.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(sums), encoding="utf-8")
        temporary.replace(store)
    return _digest(cocos, {split: {number: sums[str(path)][2] for number, path in found.items()} for split, found in image_paths.items()})


def dataspec(root: Path | str, report: DatasetReport | None = None, cache: Path | None = None) -> DataSpec:
    """What a trial's id says of its data: name, digest, classes and counts of the data set under ``root``.

    A folder made by ``ambiguous_shapes.generate`` is known by its dataset.json: its recorded digest is taken and ``truth``
    is set. Any other folder is named after itself.

    Args:
        root: the data set's folder; valid.
        report: of ``check_dataset``, if there is one, to save reading everything again.
        cache: see ``dataset_digest``.

    Raises:
        DataError: the data set cannot be read.
    """
    generated = ambiguous_shapes.describe(Path(root))
    if generated:
        return DataSpec(
            name=generated["name"],
            digest=generated["digest"],
            classes=tuple(generated["classes"]),
            train_images=generated["spec"]["train_images"],
            val_images=generated["spec"]["val_images"],
            truth=True,
        )
    if report is None or not report.ok:
        report = require_valid(root, decode=report is None and cache is None)
    return DataSpec(
        name=report.name,
        digest=report.digest or dataset_digest(root, cache),
        classes=report.classes,
        train_images=report.splits["train"].trainable,  # training leaves the others out
        val_images=report.splits["val"].images,
        truth=False,
    )
