"""Checking a data set completely: what passes is trained on and shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from gfl_lab.addresses import absolute, readable
from gfl_lab.data import ambiguous_shapes
from gfl_lab.data.annotation_check import AnnotationCheck, warn_of_same_boxes, warn_without_boxes
from gfl_lab.data.annotations import MIN_BOX_PX, MIN_SIDE_PX, read_annotations
from gfl_lab.data.areas import check_areas
from gfl_lab.data.digest import digest_of
from gfl_lab.data.findings import Findings, show
from gfl_lab.data.id_check import BAD_CATEGORIES, BAD_IMAGES, check_id
from gfl_lab.data.image_check import check_pixels, white_level_of
from gfl_lab.data.layout import SPLITS, Listings, below, escapes, find_dataset, image_file, is_file, why_missing
from gfl_lab.data.report import DatasetReport, split_report
from gfl_lab.errors import DataError


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
        names[split] = check_categories(coco, file, errors, warnings)
        images[split] = _check_images(coco, folders[split], split, file, errors, warnings)
        check = AnnotationCheck(images[split], names[split], split, file, errors, warnings)
        boxes = check.run(coco["annotations"])
        check_areas([(number, box, area) for number, (_, _, box, area, crowd) in boxes if not crowd], file, warnings)
        sound = [box for _, box in boxes]
        warn_of_same_boxes(sound, file, warnings)
        splits[split] = split_report(images[split], sound, names[split])
        if split == "train" and splits[split].boxes and not splits[split].trainable and not errors:
            message = f"no image can be trained on: each has a side under {MIN_SIDE_PX} px, or no box of {MIN_BOX_PX} px at least"
            errors.add("no trainable images", message, file)
        if not errors.has(file, *BAD_IMAGES):
            warn_without_boxes(coco, images[split], splits[split], len(names[split]), file, warnings)
    if len(names) == 2 and not any(errors.has(file, *BAD_CATEGORIES) for file in files.values()):
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


def check_categories(coco: Mapping[str, Any], file: str, errors: Findings, warnings: Findings) -> dict[int, str]:
    """Return the names of the sound categories by id."""
    names: dict[int, str] = {}
    for index, category in enumerate(coco["categories"]):
        number, name = category.get("id"), category.get("name")
        place = f"categories[{index}]"
        if not check_id(number, "categories", "id", file, place, errors):
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
            found = [
                f"{files[split]} {'has none' if value is None else 'has ' + show(value)}"
                for split, value in (("train", ours), ("val", theirs))
            ]
            message = f"category {number} differs between train and val: {', '.join(found)}"
            errors.add("categories that differ between train and val", message)


def _check_images(
    coco: Mapping[str, Any], folder: Path, split: str, file: str, errors: Findings, warnings: Findings
) -> dict[int, dict[str, Any]]:
    """Return the sound entries of images by id; the ``path`` key is set if the file exists."""
    images: dict[int, dict[str, Any]] = {}
    names: dict[Path, int] = {}
    listings = Listings()
    for index, entry in enumerate(coco["images"]):
        number, name = entry.get("id"), entry.get("file_name")
        if not check_id(number, "images", "id", file, f"images[{index}]", errors):
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
