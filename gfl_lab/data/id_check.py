"""Ids of images, categories and annotations: whole numbers, each used once."""

from __future__ import annotations

from typing import Any

from gfl_lab.data.annotations import is_id
from gfl_lab.data.findings import Findings, show

ID_RULE = "it must be a whole number from 0 to 2^53 - 1"
TEXT_IDS = "ids that are text"
BAD_IMAGES = ("no images", "images without an id", TEXT_IDS)
BAD_CATEGORIES = ("no categories", "categories without an id", "categories without a name", "category ids used twice", TEXT_IDS)
"""Kinds of errors after which ids of images, or of categories, cannot be used to check annotations."""


def check_id(value: Any, what: str, key: str, file: str, item: str, errors: Findings) -> bool:
    """Return True if a value may be an id. Text is a kind of error of its own, since all ids of a file are text then."""
    if is_id(value):
        return True
    if isinstance(value, str):
        hint = "COCO's ids are whole numbers: write them without quotation marks, or number images and categories anew"
        errors.add(TEXT_IDS, f"{key} is the text {show(value)}; {ID_RULE}", file, item, hint)
    else:
        errors.add(f"{what} without an id", f"{key} is {show(value)}; {ID_RULE}", file, item)
    return False
