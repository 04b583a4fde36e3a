"""The pictures of `gfl-lab predict`: where they go, and drawing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gfl_lab.data.pixels import ImageError, read_image, read_rgb
from gfl_lab.errors import InputError, Problem
from gfl_lab.records.files import atomic_path
from gfl_lab.report.boxes import TrueBox, box_view, with_truth
from gfl_lab.report.panels import sheet
from gfl_lab.session.refusals import output_problem
from gfl_lab.wording import plural

if TYPE_CHECKING:
    from gfl_lab.inference.detections import DetectionRow

Row = TypeVar("Row", bound=Mapping[str, Any])


@dataclass(frozen=True)
class PictureOptions:
    """Options of pictures.

    Attributes:
        folder: where they go. force: write over pictures that exist. max_boxes: boxes that are drawn, the best.
        numbers: the only boxes to draw, 1 is the one with the best score; empty for the best ``max_boxes``.
        truth: draw annotated boxes. annotations: file with them; None is the data set of the trial.
    """

    folder: Path
    force: bool = False
    max_boxes: int = 10
    numbers: tuple[int, ...] = ()
    truth: bool = False
    annotations: Path | None = None


def require_images(images: Sequence[Path]) -> None:
    """Refuse images that cannot be read, before weights are loaded and pictures are written. Raises InputError with all of them."""
    if missing := [Problem("there is no such file", str(path)) for path in images if not path.is_file()]:
        raise InputError(missing)
    if unreadable := [problem for path in images if (problem := _image_problem(path))]:
        raise InputError(unreadable)


def picture_paths(images: Sequence[Path], options: PictureOptions) -> dict[Path, Path]:
    """Return the path of the picture of each image.

    Raises:
        InputError: a picture would be written over something.
    """
    out = options.folder
    targets = {path: out / f"{path.stem}.png" for path in images}
    problems = [problem for problem in [output_problem(out, folder=True)] if problem]
    for path, target in ({} if problems else targets).items():
        twins = [str(other) for other, its in targets.items() if its == target and other != path]
        if twins:
            same = f"its picture would have the name of that of {', '.join(twins)}: {target}"
            problems.append(Problem(same, str(path), "One call each, with another --out."))
        elif target.exists() and not options.force:
            problems.append(Problem(f"{target} is there already", str(path), "Give --force to write over it, or another --out."))
    if problems:
        raise InputError(problems)
    return targets


def chosen(image: Path, detections: Sequence[Row], options: PictureOptions) -> dict[int, Row]:
    """Return the detections to draw or print, by their number from 1, best first.

    Args:
        detections: all of the image, best first, as ``inference.reevaluate.predict_images`` yields them.

    Raises:
        InputError: a chosen number is higher than the number of detections.
    """
    if not options.numbers:
        return dict(enumerate(detections[: options.max_boxes], 1))
    if missing := sorted(number for number in set(options.numbers) if number > len(detections)):
        there = f"it has {plural(len(detections), 'detection')} from this score on"
        hint = "Choose a lower number, or lower --score-thr."
        raise InputError(Problem(f"there is no box {missing[0]}: {there}", str(image), hint))
    return {number: detections[number - 1] for number in sorted(set(options.numbers))}


def detections_json(
    image: Path, detections: Sequence[DetectionRow], options: PictureOptions, truth: Sequence[TrueBox] | None, *, distributions: bool
) -> dict[str, object]:
    """Return the detections of an image as JSON: the chosen ones, or all.

    With ``truth`` each detection has ``iou``, that with the annotated box of its class that it overlaps most (0 for none), and the
    image has all annotated boxes as ``truth``. Raises InputError as ``chosen`` does.
    """
    from gfl_lab.inference.detections import detection_json  # imports torch

    rows = list(chosen(image, detections, options).values()) if options.numbers else list(detections)
    shown = [detection_json(row, distributions) for row in rows]
    if truth is None:
        return {"image": str(image), "detections": shown}
    for row, each in zip(rows, shown, strict=True):
        each["iou"] = round(with_truth(box_view(row), truth).detection_iou or 0.0, 6)
    return {"image": str(image), "detections": shown, "truth": [{"class": box.category, "box": list(box.box)} for box in truth]}


def write_picture(
    image: Path, target: Path, detections: Mapping[int, Mapping[str, Any]], truth: Sequence[TrueBox] | None, white_level: int, *,
    distributions: bool,
) -> bool:  # fmt: skip
    """Draw detections on an image, and write the picture.

    Args:
        detections: those to draw, as ``chosen`` returns them.
        truth: the annotated boxes, to draw too; None for none.
        white_level: of the data set's images, see `data.pixels.read_rgb`.
        distributions: add a panel for each box, with the distributions of its four edges.

    Returns:
        True if distributions were asked for and the detections have none (Dirac boxes, mmdet's detectors).
    """
    views = {number: with_truth(box_view(row), truth or ()) for number, row in detections.items()}
    has_none = not any(side.probability is not None for view in views.values() for side in view.sides)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        sheet(read_rgb(image, white_level), views, truth, distributions=distributions and not has_none).save(temporary, format="PNG")
    return distributions and bool(views) and has_none


def _image_problem(path: Path) -> Problem | None:
    try:
        read_image(path)
    except ImageError as error:
        return Problem(error.why, str(path))
    return None
