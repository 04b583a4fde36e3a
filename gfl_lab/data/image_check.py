"""Checking image files: each is decoded by the reader that training uses."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gfl_lab.addresses import readable
from gfl_lab.data import pixels
from gfl_lab.data.findings import Findings, show

ORIENTATION = 0x0112
_MODES = {"L": "greyscale", "1": "black and white", "P": "a palette image", "RGBA": "RGB with an alpha channel", "CMYK": "CMYK"}


@dataclass(frozen=True)
class Deep:
    """Range of the values of an image of more than 8 bits."""

    peak: float
    integers: bool


@dataclass(frozen=True)
class ImageFile:
    """The outcome of reading an image file. ``error`` is set when it cannot be used."""

    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    error: str = ""
    warnings: tuple[tuple[str, str], ...] = ()  # (kind, message)
    deep: Deep | None = None


def inspect(path: Path) -> ImageFile:
    """Read and decode one image; every pixel, since a truncated file has an intact header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return ImageFile(error=f"cannot be read: {error.strerror or error}")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        found = _header(path, data)  # the size before the pixels: they may take gigabytes
        values = pixels.decode(data)
    except ValueError as error:
        return ImageFile(sha256, error=f"cannot be decoded: {error}")
    deep = None if values.dtype.itemsize == 1 else Deep(pixels.peak_of(values), pixels.is_integer(values))
    return ImageFile(sha256, (values.shape[1], values.shape[0]), "", tuple(found), deep)


def _header(path: Path, data: bytes) -> list[tuple[str, str]]:
    """Return warnings about one image, as (kind, message). Raises ValueError where it is too large."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, mode, kind = image.size, image.mode, image.format or ""
            frames = getattr(image, "n_frames", 1) if kind not in ("MPO", "JPEG") else 1
            try:
                orientation = image.getexif().get(ORIENTATION, 1)
            except Exception:  # broken EXIF harms no pixel
                orientation = 1
    except Image.DecompressionBombError:
        raise ValueError(f"it has more than {pixels.MAX_PIXELS:,} px") from None
    except Exception:  # the reader decides whether it can be used
        return []
    if problem := pixels.size_problem(*size):
        raise ValueError(problem)
    found = []
    if mode != "RGB" and not pixels.may_be_deep(data[:32]):
        found.append(("images that are not RGB", f"is {_MODES.get(mode, 'of mode ' + mode)}; it is read as RGB"))
    expected = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}.get(path.suffix.lower())
    if expected and kind != expected and not (expected == "JPEG" and kind == "MPO"):
        found.append(("files named as another format", f"is named {path.suffix} but is {kind}"))
    ends = kind == "PNG" and b"IEND" not in data[-1024:]
    if ends or (kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")):
        found.append(("files without an end marker", "has no end marker: the file may have lost its last bytes"))
    if orientation != 1:
        if not (isinstance(orientation, int) and 1 <= orientation <= 8):
            text = f"has EXIF orientation {show(orientation)}, which does not exist; it is used as stored"
        elif kind == "TIFF":
            text = f"has orientation {orientation} as a TIFF and is read turned, so its boxes must fit the turned pixels"
        else:
            text = f"has EXIF orientation {orientation}: it is used as stored, not turned, so its boxes must fit the stored pixels"
        found.append(("images with an EXIF orientation", text))
    if frames > 1:
        found.append(("files with several frames", f"holds {frames} frames; only the first is used"))
    return found


def each(work: Callable[[Path], Any], paths: Iterable[Path]) -> dict[Path, Any]:
    """Apply ``work`` to every path in threads."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        return dict(zip(unique, pool.map(work, unique), strict=True))


def check_pixels(
    images: Mapping[str, Mapping[int, Mapping[str, Any]]],
    files: Mapping[str, str],
    folders: Mapping[str, Path],
    errors: Findings,
    found_warnings: Findings,
) -> dict[Path, ImageFile]:
    """Decode every image of both splits.

    Args:
        images: by split and id: ``path``, ``name``, ``size`` as stated.
        files: by split, what messages call the annotation file. folders: by split, where images lie.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow about single files: the check has words of its own
        found = each(inspect, (record["path"] for split in images.values() for record in split.values() if record["path"]))
    owners: dict[str, dict[Path, tuple[str, str]]] = defaultdict(dict)
    deep: dict[Path, tuple[str, str, Deep]] = {}
    for split, records in images.items():
        folder = folders[split]
        root = folder.resolve()
        for number, record in records.items():
            path = record["path"]
            if path is None:
                continue
            result, place = found[path], f"image {number} ({show(record['name'])})"
            if result.error:
                errors.add("images that cannot be decoded", result.error, files[split], place)
                continue
            if record["size"] and result.size != record["size"]:
                turned = result.size[::-1] == record["size"]
                message = f"is {result.size[0]}x{result.size[1]} px, the annotations have {record['size'][0]}x{record['size'][1]}"
                swapped = "width and height are swapped, or the size is that after turning by EXIF orientation"
                errors.add("images of another size than stated", message, files[split], place, swapped if turned else "boxes would not fit")
            for kind, text in result.warnings:
                found_warnings.add(kind, text, files[split], place)
            if (path.parent != folder or path.is_symlink()) and not path.resolve().is_relative_to(root):
                message = "leads out of the image folder: training reads it, but pages do not show it"
                found_warnings.add("symbolic links that lead out of the image folder", message, files[split], place)
            if result.deep:
                deep.setdefault(path, (split, place, result.deep))
            owners[result.sha256].setdefault(path, (split, place))
    _check_depth(list(deep.values()), files, errors, found_warnings)
    _warn_same_content(owners, files, found_warnings)
    shared = {record["path"] for record in images.get("train", {}).values()} & {record["path"] for record in images.get("val", {}).values()}
    for path in sorted(path for path in shared if path):
        message = f"the file {readable(path.name)} is in train and in val, so val is not independent of train"
        found_warnings.add("images in train and val", message, files["val"])
    return found


def white_level_of(found: Iterable[Deep]) -> int:
    """Return the white level of a data set, 0 where all its images have 8 bits: that of the largest value in any of them."""
    deep = list(found)
    return pixels.white_level(max(each.peak for each in deep), deep[0].integers) if deep else 0


def _check_depth(deep: list[tuple[str, str, Deep]], files: Mapping[str, str], errors: Findings, found_warnings: Findings) -> None:
    if not deep:
        return
    kinds = {each.integers for _, _, each in deep}
    if len(kinds) > 1:
        for wanted, what in ((True, "integers of more than 8 bits"), (False, "floats")):
            split, place, _ = next(entry for entry in deep if entry[2].integers == wanted)
            message = f"holds {what}, and other images do not: one white level cannot serve both"
            errors.add("images of integers beside images of floats", message, files[split], place, "convert one kind to the other")
        return
    white = white_level_of(each for _, _, each in deep)
    peak = max(each.peak for _, _, each in deep)
    what = "more than 8 bits a channel" if kinds == {True} else "floats"
    for split in dict.fromkeys(entry[0] for entry in deep):
        own = [place for its, place, _ in deep if its == split]
        for place in own:
            message = f"holds {what}: values are divided by {white} (the largest in train and val is {peak:g}) and scaled to 0 to 255"
            found_warnings.add(f"images with {what}", message, files[split], place)


def _warn_same_content(owners: Mapping[str, Mapping[Path, tuple[str, str]]], files: Mapping[str, str], found_warnings: Findings) -> None:
    for same in owners.values():
        (split, place), *others = same.values()
        for other_split, other_place in others:
            if other_split != split:
                message = f"has the same content as {files[split]}: {place}, so val is not independent of train"
                found_warnings.add("images in train and val", message, files[other_split], other_place)
            else:
                found_warnings.add("images with the same content", f"has the same content as {place}", files[other_split], other_place)
