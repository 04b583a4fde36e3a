"""Checking a data set completely: what passes is trained on and shown."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from gfl_lab.addresses import absolute, readable
from gfl_lab.data import ambiguous_shapes
from gfl_lab.data.annotations import MIN_BOX_PX, MIN_SIDE_PX, as_float, is_id, is_learned, is_number, read_annotations
from gfl_lab.data.areas import check_areas
from gfl_lab.data.digest import digest_of
from gfl_lab.data.findings import Finding, Findings, listed, show
from gfl_lab.data.image_check import check_pixels, white_level_of
from gfl_lab.data.layout import SPLITS, Listings, below, escapes, find_dataset, image_file, is_file, why_missing
from gfl_lab.errors import DataError, Problem

ROUNDING_PX = 1.0
"""A box that leaves its image by at most this much is a warning: coordinates rounded, or counted from 1."""
EXACT_PX = 0.01
"""... and by at most this much is inside: COCO writes two decimals."""
SAME_BOX_IOU = 0.9
"""Two boxes of one class in one image at this IoU or more are probably one object annotated twice."""
WHOLE_IMAGE = 0.99
"""A box over this share of its image or more is reported as one over the whole image."""
SMALL_AREA, MEDIUM_AREA = 32.0**2, 96.0**2
"""COCO's size classes: small below 32 x 32 px, large from 96 x 96 px, by the annotation's ``area``."""

_ID_RULE = "it must be a whole number from 0 to 2^53 - 1"
_TEXT_IDS = "ids that are text"
_BAD_IMAGES = ("no images", "images without an id", _TEXT_IDS)
_BAD_CATEGORIES = ("no categories", "categories without an id", "categories without a name", "category ids used twice", _TEXT_IDS)
Box = tuple[int, int, tuple[float, ...], float, bool]
"""Image id, category id, (x, y, w, h), area, crowd."""


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
    trainable: int = 0  # images that training uses: sides of MIN_SIDE_PX at least, and a box that is learned and no crowd
    skipped_boxes: int = 0  # boxes without a side of MIN_BOX_PX: training leaves them out, evaluation counts them
    most_boxes: int = 0
    mean_boxes: float = 0.0
    min_size: tuple[int, int] = (0, 0)  # smallest width and smallest height, px
    max_size: tuple[int, int] = (0, 0)
    boxes_by_class: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetReport:
    """The numbers of a data set, and its problems. ``digest`` is empty where there are errors or pixels were not read.

    Attributes:
        white_level: value of deep images that becomes 255; 0 where all images have 8 bits, or pixels were not read.
    """

    root: str
    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, SplitReport]
    error_kinds: tuple[Finding, ...]
    warning_kinds: tuple[Finding, ...]
    decoded: bool
    digest: str = ""
    white_level: int = 0

    @property
    def ok(self) -> bool:
        """Whether it can be trained on."""
        return not self.error_kinds

    @property
    def errors(self) -> tuple[Problem, ...]:
        """One problem for each kind of error in a file."""
        return tuple(finding.summary() for finding in self.error_kinds)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """One problem for each kind of warning in a file."""
        return tuple(finding.summary() for finding in self.warning_kinds)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The errors (the name that the rest of the package uses)."""
        return self.errors

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with every error and every warning."""
        value = {key: getattr(self, key) for key in ("root", "name", "classes", "decoded", "digest", "white_level")}
        value["splits"] = {name: asdict(split) for name, split in self.splits.items()}
        for key, kinds in (("errors", self.error_kinds), ("warnings", self.warning_kinds)):
            value[key] = [asdict(problem) | {"kind": finding.kind} for finding in kinds for problem in finding.each()]
        return value | {"ok": self.ok}

    def to_text(self, verbose: bool = False) -> str:
        """Return the report as people read it, without colour.

        Args:
            verbose: one line for each problem, not for each kind.
        """
        lines = [f"{readable(self.name)}: {readable(self.root)}"]
        if self.classes:
            lines.append(f"  {len(self.classes)} classes: {', '.join(map(readable, self.classes))}")
        for name, split in self.splits.items():
            lines.append(
                f"  {name}: {split.images} images, {split.boxes} boxes (small {split.small}, medium {split.medium}, large {split.large}), "
                f"{split.crowds} crowd regions; {split.mean_boxes:.1f} boxes an image, at most {split.most_boxes}"
            )
            if split.images:
                lines.append(f"    sizes {split.min_size[0]}x{split.min_size[1]} to {split.max_size[0]}x{split.max_size[1]} px")
        if self.digest:
            lines.append(f"  digest {self.digest}")
        for title, kinds in (("error", self.error_kinds), ("warning", self.warning_kinds)):
            for finding in kinds:
                for problem in finding.each() if verbose else [finding.summary()]:
                    lines.append(f"  {title}: {str(problem).replace(chr(10), chr(10) + '  ')}")
        lines.append("  valid" if self.ok else "  not valid")
        return "\n".join(lines)


def check_dataset(root: Path | str, decode: bool = True) -> DatasetReport:
    """Check the data set under ``root`` completely; nothing is raised, everything is in the report.

    Args:
        root: its folder.
        decode: decode every image (threads). Without, pixels, real sizes and duplicates go unchecked and there is no digest.
    """
    root = absolute(root, "the data set")
    errors, warnings = Findings(), Findings()
    name = root.name
    try:
        paths = find_dataset(root)
    except DataError as error:
        for problem in error.problems:
            errors.add(problem.message, problem.message, problem.place, "", problem.hint)
        return DatasetReport(str(root), name, (), {}, errors.all(), (), decode)
    read: dict[str, dict[str, Any]] = {}
    files, folders, names, images, splits = {}, {}, {}, {}, {}
    for split in SPLITS:
        path, folders[split] = paths.split(split)
        file = files[split] = below(root, path)
        coco = read_annotations(path, errors, file)
        if coco is None:
            continue
        read[split] = coco
        names[split] = _check_categories(coco, file, errors, warnings)
        images[split] = _check_images(coco, folders[split], split, file, errors, warnings)
        boxes = _check_annotations(coco, images[split], names[split], split, file, errors, warnings)
        check_areas([(number, box, area) for number, (_, _, box, area, crowd) in boxes if not crowd], file, warnings)
        sound = [box for _, box in boxes]
        _warn_same_boxes(sound, file, warnings)
        splits[split] = _split_report(images[split], sound, names[split])
        if split == "train" and splits[split].boxes and not splits[split].trainable and not errors:
            message = f"no image can be trained on: each has a side under {MIN_SIDE_PX} px, or no box of {MIN_BOX_PX} px at least"
            errors.add("no trainable images", message, file)
        if not errors.has(file, *_BAD_IMAGES):
            _warn_without_boxes(coco, images[split], splits[split], len(names[split]), file, warnings)
    if len(names) == 2 and not any(errors.has(file, *_BAD_CATEGORIES) for file in files.values()):
        _check_same_categories(names, files, errors)
    generated = ambiguous_shapes.describe(root)
    digest, white = "", 0
    if decode:
        found = check_pixels(images, files, folders, errors, warnings)
        white = white_level_of(result.deep for result in found.values() if result.deep)
        if generated and not errors and not ambiguous_shapes.verify(root):
            hint = "generate it anew, or delete dataset.json to use it as data without known truth"
            errors.add("altered", "the content differs from the digest in dataset.json", ambiguous_shapes.DATASET_FILE, "", hint)
        if generated and not errors:
            digest = generated["digest"]  # of pixels: the bytes of a PNG depend on the zlib that wrote it
        elif not errors:
            sums = {split: {number: found[record["path"]].sha256 for number, record in images[split].items()} for split in SPLITS}
            digest = digest_of(read, sums)
    if generated:
        name = generated["name"]
    classes = tuple(names["train"][number] for number in sorted(names["train"])) if "train" in names else ()
    return DatasetReport(str(root), name, classes, splits, errors.all(), warnings.all(), decode, digest, white)


def require_valid(root: Path | str, decode: bool = True) -> DatasetReport:
    """Return the report of a valid data set.

    Raises:
        DataError: one problem for each kind of error found.
    """
    report = check_dataset(root, decode)
    if not report.ok:
        raise DataError(report.errors)
    return report


# --- categories and images ------------------------------------------------------------------------


def _check_id(value: Any, what: str, key: str, file: str, item: str, errors: Findings) -> bool:
    """Whether a value may be an id; text is told apart, since all ids of a file are text then."""
    if is_id(value):
        return True
    if isinstance(value, str):
        hint = "COCO's ids are whole numbers: write them without quotation marks, or number images and categories anew"
        errors.add(_TEXT_IDS, f"{key} is the text {show(value)}; {_ID_RULE}", file, item, hint)
    else:
        errors.add(f"{what} without an id", f"{key} is {show(value)}; {_ID_RULE}", file, item)
    return False


def _check_categories(coco: Mapping[str, Any], file: str, errors: Findings, warnings: Findings) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, category in enumerate(coco["categories"]):
        number, name = category.get("id"), category.get("name")
        place = f"categories[{index}]"
        if not _check_id(number, "categories", "id", file, place, errors):
            continue
        if not isinstance(name, str) or not name.strip():
            errors.add("categories without a name", f"name of category {number} is {show(name)}; it must be text", file, place)
        elif any("\ud800" <= c <= "\udfff" for c in name):
            message = f"name of category {number} is {show(name)}, which is no valid Unicode"
            errors.add("categories without a name", message, file, place)
        elif number in names:
            message = f"category id {number} is used twice ({show(names[number])}, {show(name)})"
            errors.add("category ids used twice", message, file, place)
        else:
            if name in names.values():
                errors.add("category names used twice", f"two categories are named {show(name)}", file, place)
            if name != name.strip() or not name.isprintable():
                message = f"name of category {number} has spaces around it or characters that are not printed: {show(name)}"
                warnings.add("category names that look like others", message, file, place)
            names[number] = name
    if not coco["categories"]:
        errors.add("no categories", "has no categories", file)
    return names


def _check_same_categories(names: Mapping[str, Mapping[int, str]], files: Mapping[str, str], errors: Findings) -> None:
    for number in sorted(names["train"].keys() | names["val"].keys()):
        ours, theirs = names["train"].get(number), names["val"].get(number)
        if ours != theirs:
            said = [
                f"{files[split]} {'has none' if value is None else 'says ' + show(value)}"
                for split, value in (("train", ours), ("val", theirs))
            ]
            message = f"category {number} differs between train and val: {', '.join(said)}"
            errors.add("categories that differ between train and val", message)


def _check_images(
    coco: Mapping[str, Any], folder: Path, split: str, file: str, errors: Findings, warnings: Findings
) -> dict[int, dict[str, Any]]:
    """Images by id whose entry is sound; the ``path`` key is set where the file is there."""
    images: dict[int, dict[str, Any]] = {}
    names: dict[Path, int] = {}
    listings = Listings()
    for index, entry in enumerate(coco["images"]):
        number, name = entry.get("id"), entry.get("file_name")
        if not _check_id(number, "images", "id", file, f"images[{index}]", errors):
            continue
        place = f"image {number}"
        if number in images:
            errors.add("image ids used twice", f"image id {number} is used twice", file, place)
            continue
        width, height = entry.get("width"), entry.get("height")
        sound = all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v < 2**31 for v in (width, height))
        if not sound:
            message = f"width and height are {show(width)} and {show(height)}; they must be whole numbers of px"
            errors.add("images without a size", message, file, place)
        elif split == "train" and min(width, height) < MIN_SIDE_PX:
            message = f"is {width}x{height} px: training skips images with a side under {MIN_SIDE_PX} px"
            warnings.add(f"images with a side under {MIN_SIDE_PX} px, which training skips", message, file, place)
        record: dict[str, Any] = {"id": number, "name": name, "size": (width, height) if sound else None, "path": None}
        images[number] = record
        if not isinstance(name, str) or not name:
            hint = "it has a coco_url alone: load the image down and give its name" if entry.get("coco_url") else ""
            errors.add("images without a file name", f"file_name is {show(name)}; it must be text", file, place, hint)
        elif escapes(name):
            hint = "file names are relative to the image folder and hold no '..'"
            if is_file(folder / PureWindowsPath(name).name):
                hint += f"; there is {readable(PureWindowsPath(name).name)} in the image folder: write the name alone"
            errors.add("file names that leave the image folder", f"file_name {show(name)} leaves the image folder", file, place, hint)
        else:
            path = image_file(folder, name)
            if path in names:
                warnings.add("files listed twice", f"file {show(name)} is also image {names[path]}", file, place)
            names[path] = number
            if is_file(path):
                record["path"] = path
                if path != folder / name:
                    message = f"file_name {show(name)} is read as {show(path.relative_to(folder).as_posix())}"
                    warnings.add("file names that are written in another way than the files are named", message, file, place)
            else:
                why, hint = why_missing(folder, name, listings)
                if "\\" in name:
                    hint += "; backslashes are read as slashes"
                errors.add("image files that are missing", f"the image file {show(name)} {why}", file, place, hint)
    if not coco["images"]:
        errors.add("no images", "has no images", file)
    return images


# --- annotations ----------------------------------------------------------------------------------


def _check_annotations(
    coco: Mapping[str, Any],
    images: Mapping[int, Mapping[str, Any]],
    names: Mapping[int, str],
    split: str,
    file: str,
    errors: Findings,
    warnings: Findings,
) -> list[tuple[int, Box]]:
    """Ids of sound annotations, and what they hold."""
    sound: list[tuple[int, Box]] = []
    ids: set[int] = set()
    no_area = 0
    # If ids of images or categories are unusable, annotations cannot be matched with them: that would be told once more for each.
    images_known, names_known = not errors.has(file, *_BAD_IMAGES), not errors.has(file, *_BAD_CATEGORIES)
    for index, entry in enumerate(coco["annotations"]):
        number = entry.get("id")
        place = f"annotation {number}" if is_id(number) else f"annotations[{index}]"
        if _check_id(number, "annotations", "id", file, place, errors):
            if number in ids:
                errors.add("annotation ids used twice", f"annotation id {number} is used twice", file, place)
            ids.add(number)
        image_id, category_id, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        known = is_id(image_id) and image_id in images
        if not known and images_known:
            if isinstance(image_id, str):
                _check_id(image_id, "", "image_id", file, place, errors)
            else:
                message = f"image_id {show(image_id)} is not among the images"
                errors.add("annotations of images that are not listed", message, file, place)
        if not is_id(category_id) or category_id not in names:
            known = False
            if names_known and isinstance(category_id, str):
                _check_id(category_id, "", "category_id", file, place, errors)
            elif names_known:
                message = f"category_id {show(category_id)} is not among the categories"
                errors.add("annotations of unknown categories", message, file, place)
        box = _check_box(box, file, place, errors)
        if box is None:
            continue
        x, y, width, height = box
        area = entry.get("area")
        if area is None:
            no_area += 1
            area = width * height
        elif not is_number(area) or not math.isfinite(as_float(area)) or area < 0:
            errors.add("areas that are no areas", f"area is {show(area)}; it must be a number, 0 or more", file, place)
            continue
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            errors.add("iscrowd that is neither 0 nor 1", f"iscrowd is {show(crowd)}; it must be 0 or 1", file, place)
            continue
        if not known:
            continue
        if size := images[image_id]["size"]:
            out = max(-x, -y, x + width - size[0], y + height - size[1])
            message = f"bbox {show(list(box))} leaves its image of {size[0]}x{size[1]} px by {out:g} px"
            if out > ROUNDING_PX:
                hint = "bbox is [x, y, width, height], not two corners"
                errors.add("boxes outside their image", message, file, place, hint)
                continue
            if out > EXACT_PX:
                warnings.add("boxes slightly outside their image", message, file, place)
            if width * height >= WHOLE_IMAGE * size[0] * size[1]:
                warnings.add("boxes over the whole image", "the box covers the whole image; it may be right", file, place)
        _warn_not_learned(box, size, split == "train", file, place, warnings)
        sound.append((number, (image_id, category_id, box, float(area), bool(crowd))))
    if no_area:
        warnings.add("annotations without an area", f"{no_area} annotations have no area; width x height is used", file)
    if not any(not crowd for _, (*_, crowd) in sound) and not errors:
        errors.add("no boxes", "has no boxes: nothing to learn from or to measure", file)
    return sound


def _check_box(box: Any, file: str, place: str, errors: Findings) -> tuple[float, float, float, float] | None:
    """The box as four floats, or None."""
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


def _warn_same_boxes(sound: list[Box], file: str, warnings: Findings) -> None:
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
    """Pairs of (N, 4) boxes at ``SAME_BOX_IOU`` or more, the first index the lower; ``rows`` at once, so that memory is bounded."""
    low, high, area = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
    for start in range(0, len(boxes), rows):
        part = slice(start, start + rows)
        side = np.minimum(high[part, None], high[None]) - np.maximum(low[part, None], low[None])
        inter = np.clip(side, 0, None).prod(-1)
        with np.errstate(divide="ignore", invalid="ignore"):  # areas below what a float holds
            iou = inter / (area[part, None] + area[None] - inter)
        for i, j in zip(*np.nonzero(np.triu(iou >= SAME_BOX_IOU, 1 + start)), strict=True):
            yield start + int(i), int(j), float(iou[i, j])


def _warn_without_boxes(
    coco: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], split: SplitReport, classes: int, file: str, warnings: Findings
) -> None:
    annotated = {entry.get("image_id") for entry in coco["annotations"] if is_id(entry.get("image_id"))}
    for number, record in images.items():
        if number not in annotated and annotated:
            message = f"has no annotations ({show(record['name'])}): empty, or forgotten"
            warnings.add("images without annotations", message, file, f"image {number}")
    absent = [name for name, count in split.boxes_by_class.items() if not count]
    if absent and split.boxes:
        message = f"no boxes of {len(absent)} of {classes} classes: {listed(absent)}"
        warnings.add("classes without boxes", message, file)


def _split_report(images: Mapping[int, Mapping[str, Any]], sound: list[Box], names: Mapping[int, str]) -> SplitReport:
    boxes = [entry for entry in sound if not entry[4]]
    per_image = Counter(entry[0] for entry in boxes)
    by_class = Counter(entry[1] for entry in boxes)
    sizes = [record["size"] for record in images.values() if record["size"]]
    small = sum(entry[3] < SMALL_AREA for entry in boxes)
    large = sum(entry[3] >= MEDIUM_AREA for entry in boxes)
    learned = [entry[0] for entry in boxes if is_learned(entry[2], images[entry[0]]["size"] or (0, 0))]
    return SplitReport(
        images=len(images),
        boxes=len(boxes),
        crowds=len(sound) - len(boxes),
        small=small,
        medium=len(boxes) - small - large,
        large=large,
        images_without_boxes=len(images) - len(per_image),
        trainable=len({number for number in learned if min(images[number]["size"] or (0, 0)) >= MIN_SIDE_PX}),
        skipped_boxes=len(boxes) - len(learned),
        most_boxes=max(per_image.values(), default=0),
        mean_boxes=len(boxes) / len(images) if images else 0.0,
        min_size=(min((s[0] for s in sizes), default=0), min((s[1] for s in sizes), default=0)),
        max_size=(max((s[0] for s in sizes), default=0), max((s[1] for s in sizes), default=0)),
        boxes_by_class={names[number]: by_class[number] for number in sorted(names)},
    )
