"""Annotations' ``area``, by which AP_S, AP_M and AP_L are split: does it fit the boxes, and a copy of the data set in which it does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfl_lab.addresses import absolute, readable
from gfl_lab.data.annotations import read_annotations
from gfl_lab.data.findings import Findings, show
from gfl_lab.data.layout import SPLITS, below, find_dataset
from gfl_lab.errors import DataError, InputError, Problem

TINY_MEDIAN = 0.05
"""Half of the areas under this share of their boxes: the areas are of another unit. Areas of segments are about 0.6 of their boxes."""
TINY_PX = 4.0
"""An area under 1 square px is that of another unit where its box has at least this many."""
HINT = "AP_S, AP_M and AP_L go by area. `gfl-lab data areas PATH OUT` makes a copy of the data set with width x height"


def check_areas(boxes: Sequence[tuple[int, tuple[float, ...], float]], file: str, warnings: Findings) -> None:
    """Warn of areas that cannot be those of their boxes or of a segment in them.

    Larger than its box (by more than one px on each side, which is rounding), 0 or under 1 square px in a box that is not as small, or
    a small share of the box in most annotations.

    Args:
        boxes: (annotation id, (x, y, width, height), area) of annotations that are no crowds.
    """
    if not boxes:
        return
    sides = np.array([box[2:] for _, box, _ in boxes])
    areas = np.array([area for *_, area in boxes])
    with np.errstate(over="ignore"):
        of_box = sides.prod(1)
        most = (sides + 1).prod(1)
    solid = of_box > 0
    ratio = areas[solid] / of_box[solid]
    if solid.any() and (median := float(np.median(ratio))) < TINY_MEDIAN:
        message = f"half of the {int(solid.sum())} areas are under {median:.2g} of width x height"
        if areas[solid].max() <= 1:
            message += "; none is above 1: they seem to be shares of the image"
        warnings.add("areas of another unit", message, file, "", HINT)
        return
    for index in np.flatnonzero((areas > most * (1 + 1e-6)) | ((areas < 1) & (of_box >= TINY_PX))).tolist():
        number, box, area = boxes[index]
        message = f"area is {area:g} and width x height {box[2] * box[3]:g} (bbox {show(list(box))})"
        warnings.add("areas that do not fit their boxes", message, file, f"annotation {number}", HINT)


def write_with_areas(root: Path | str, out: Path | str) -> dict[str, int]:
    """Make a copy of a data set in which every area is width x height: new annotation files beside links to the image folders.

    Returns:
        The number of changed areas, by split.

    Raises:
        DataError: the data set cannot be read. InputError: ``out`` exists, or cannot be written.
    """
    root, out = absolute(root, "the data set"), Path(os.path.abspath(Path(out).expanduser()))
    if os.path.lexists(out):
        raise InputError(Problem("it exists already", readable(str(out)), "Give a new folder."))
    paths = find_dataset(root)
    findings, contents, changed = Findings(), {}, {}
    for split in SPLITS:
        file, _ = paths.split(split)
        coco = read_annotations(file, findings, below(root, file))
        if coco is None:
            continue
        changed[split] = 0
        for annotation in coco["annotations"]:
            box = annotation.get("bbox")
            if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
                hint = "`gfl-lab data check` lists everything that is wrong"
                findings.add("annotations without a box", f"bbox is {show(box)}", below(root, file), "", hint)
                continue
            changed[split] += annotation.get("area") != box[2] * box[3]
            annotation["area"] = box[2] * box[3]
        contents[split] = coco
    if findings:
        raise DataError(findings.problems())
    made = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        (made / "annotations").mkdir(parents=True)
        for split in SPLITS:
            text = json.dumps(contents[split], ensure_ascii=False)
            (made / f"annotations/instances_{split}.json").write_bytes(text.encode("utf-8", "surrogatepass"))
            (made / f"{split}2017").symlink_to(paths.split(split)[1], target_is_directory=True)
        made.rename(out)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise InputError(Problem(f"cannot be written: {error.strerror or error}", readable(str(out)))) from None
    return changed
