"""The places of a data set's files: its annotation files, its image folders, and the file of one image.

Layouts (docs/data.md):

    annotations/instances_train.json     annotations/instances_train2017.json     train/_annotations.coco.json
    annotations/instances_val.json       annotations/instances_val2017.json       valid/_annotations.coco.json
    images/                              train2017/  val2017/                     train/  valid/
"""

from __future__ import annotations

import json
import mmap
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from gfl_lab.addresses import absolute, readable
from gfl_lab.data.findings import listed
from gfl_lab.errors import DataError, Problem

SPLITS = ("train", "val")
_NAMES = {"train": ("train",), "val": ("val", "valid", "validation")}
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class CocoPaths:
    """Paths of a data set's files; all absolute."""

    train_annotations: Path
    val_annotations: Path
    train_images: Path
    val_images: Path

    def split(self, name: str) -> tuple[Path, Path]:
        """Return (annotation file, image folder) of "train" or "val"."""
        return (self.train_annotations, self.train_images) if name == "train" else (self.val_annotations, self.val_images)


def find_dataset(root: Path | str) -> CocoPaths:
    """Find the files of the data set under ``root``, in any of the layouts of docs/data.md.

    Raises:
        DataError: there is no such folder, or an annotation file or image folder is missing; all of them at once.
    """
    root = absolute(root, "the data set")
    hint = "expected annotations/instances_train.json, annotations/instances_val.json and images/, or another layout of docs/data.md"
    shown = readable(str(root))
    try:
        if not os.path.isdir(root):
            why = "is not a folder" if os.path.lexists(root) else "does not exist"
            raise DataError(Problem(f"the data set folder {why}", shown, hint))
        os.listdir(root)
    except (OSError, ValueError) as error:
        raise DataError(Problem(f"the data set folder cannot be read: {getattr(error, 'strerror', None) or error}", shown)) from None
    problems, found = [], {}
    for split in SPLITS:
        exact = _annotation_files(split)
        file = next((root / name for name in exact if os.path.isfile(root / name)), None)
        if file is None:
            loose = [path for path in sorted((root / "annotations").glob(f"*{split}*.json")) if os.path.isfile(path)]
            file = loose[0] if len(loose) == 1 else None
            if len(loose) > 1:
                files = listed(path.name for path in loose)
                problems.append(
                    Problem(f"several annotation files may be meant for {split}: {files}", shown, f"name the right one {exact[0]}")
                )
                continue
        if file is None:
            problems.append(Problem(f"no annotations for {split}: neither {exact[0]} nor {exact[1]} is there", shown, hint))
        folders = _image_folders(split)
        folder = _folder_of_images(file, root, [root / name for name in folders if os.path.isdir(root / name)])
        if folder is None:
            near = next((name for name in sorted(os.listdir(root)) if name.casefold() in folders), "")
            case = f"there is {readable(near)}: upper and lower case differ" if near else hint
            problems.append(Problem(f"no folder with the images of {split}: none of {', '.join(folders)} is there", shown, case))
        if file and folder:
            found[split] = (file, folder)
    if problems:
        raise DataError(problems)
    return CocoPaths(found["train"][0], found["val"][0], found["train"][1], found["val"][1])


def below(root: Path, path: Path) -> str:
    """Return a path as messages show it: below the data folder, with slashes."""
    try:
        return readable(path.relative_to(root).as_posix())
    except ValueError:
        return readable(str(path))


def _annotation_files(split: str) -> list[str]:
    names = _NAMES[split]
    exact = [f"annotations/instances_{split}.json", f"annotations/instances_{split}2017.json"]
    exact += [f"{name}/_annotations.coco.json" for name in names]
    return exact + [f"{folder}{name}.json" for folder in ("annotations/", "") for name in names]


def _image_folders(split: str) -> list[str]:
    return [folder for name in _NAMES[split] for folder in (f"{name}2017", f"images/{name}2017", f"images/{name}", name)] + ["images"]


def _folder_of_images(annotations: Path | None, root: Path, folders: list[Path]) -> Path | None:
    """Return the folder that holds the first listed image, else the first; the data folder itself where file names begin there."""
    name = first_file_name(annotations) if annotations is not None else None
    if name is not None and not escapes(name):
        for folder in (*folders, root):
            if is_file(image_file(folder, name)):
                return folder
    return folders[0] if folders else None


def first_file_name(annotations: Path) -> str | None:
    """Return the first file name in an annotation file, without parsing it where that can be avoided: they have up to 450 MB."""
    try:
        with annotations.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            match = _FILE_NAME.search(content)
            if match is None and b"\0" in content[:64]:  # UTF-16 or UTF-32
                match = _FILE_NAME.search(json.dumps(json.loads(content[:])).encode())
            return json.loads(match.group(1)) if match else None
    except (OSError, ValueError, RecursionError, MemoryError):
        return None  # the check reports what is wrong with the file


# --- the file of an image -------------------------------------------------------------------------


def escapes(name: str) -> bool:
    """Return True if a file name could leave the folder it is joined to, on any system."""
    return (
        "\0" in name
        or PurePosixPath(name).is_absolute()
        or bool(PureWindowsPath(name).drive or PureWindowsPath(name).root)
        or ".." in PureWindowsPath(name).parts
    )


def is_file(path: Path) -> bool:
    """Return True for a regular file, and False for a name that no file can have (too long, not encodable)."""
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):
        return False


def image_file(folder: Path | str, name: str) -> Path:
    """Return the file of an image that annotations call ``name``: training, evaluation, check and pages all find it here.

    The name is taken as written. If there is no such file, backslashes are read as slashes, ``%20`` and the like as in a URL, and
    accented letters in Unicode's other form (NFC, NFD). A name of plain letters needs no look at the disk.
    """
    folder = Path(folder)
    path = folder / name
    if name.isascii() and "\\" not in name and "%" not in name:
        return path
    return next((folder / other for other in _spellings(name) if not escapes(other) and is_file(folder / other)), path)


def _spellings(name: str) -> Iterator[str]:
    yield name
    slashes = name.replace("\\", "/")
    for text in (slashes, unquote(slashes, errors="strict") if _is_url(slashes) else slashes):
        yield text
        for form in ("NFC", "NFD"):
            yield unicodedata.normalize(form, text)


def _is_url(text: str) -> bool:
    try:
        return unquote(text, errors="strict") != text
    except UnicodeDecodeError:
        return False


class Listings:
    """Names of the files in folders, each read once: by name without case, and by name without ending."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[dict[str, str], dict[str, str]]] = {}

    def named(self, folder: Path, name: str) -> str | None:
        """Return the file of that name, whatever its case."""
        return self._of(folder)[0].get(name.casefold())

    def stem(self, folder: Path, stem: str) -> str | None:
        """Return a file of that name with another ending."""
        return self._of(folder)[1].get(stem)

    def _of(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        if folder not in self._known:
            try:
                names = sorted(os.listdir(folder))
            except (OSError, ValueError):
                names = []
            self._known[folder] = {name.casefold(): name for name in names}, {Path(name).stem: name for name in names}
        return self._known[folder]


def why_missing(folder: Path, name: str, listings: Listings) -> tuple[str, str]:
    """Return why there is no file for an image, as (message, hint)."""
    path = image_file(folder, name)
    place = f"looked for in {readable(str(folder))}"
    try:
        if os.path.isdir(path):
            return "is a folder", place
        if os.path.islink(path):
            return "is a symbolic link that leads to no file", place
        if os.path.lexists(path):
            return "is no regular file", place
    except (OSError, ValueError):
        return "is missing", place
    near = Path(name.replace("\\", "/"))
    parent = folder / near.parent
    if other := listings.named(parent, near.name):
        return "is missing", f"there is {readable(other)}: upper and lower case differ"
    if len(near.parts) > 1 and (other := listings.named(folder, near.name)):
        return "is missing", f"there is {readable(other)}: file names count from {readable(str(folder))}"
    if other := listings.stem(parent, near.stem):
        return "is missing", f"there is {readable(other)}"
    return "is missing", place
