"""The pictures of `gfl-lab predict`: where they go, and drawing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfl_lab.data.pixels import ImageError, read_image, read_rgb
from gfl_lab.errors import InputError, Problem
from gfl_lab.records.files import atomic_path
from gfl_lab.report.boxes import box_view
from gfl_lab.report.drawing import draw
from gfl_lab.session.refusals import output_problem


@dataclass(frozen=True)
class PictureOptions:
    """Options of pictures.

    Attributes:
        folder: where they go. force: write over pictures that exist. max_boxes: boxes that are drawn, the best.
    """

    folder: Path
    force: bool = False
    max_boxes: int = 10


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


def write_picture(image: Path, target: Path, detections: Sequence[Mapping[str, Any]], white_level: int, distributions: bool) -> bool:
    """Draw detections on an image, and write the picture.

    Args:
        detections: those to draw, as `inference.reevaluate.predict_images` yields them.
        white_level: of the data set's images, see `data.pixels.read_rgb`.
        distributions: draw the distributions of the four edges too.

    Returns:
        True if distributions were asked for and the detections have none (Dirac boxes, mmdet's detectors).
    """
    views = [box_view(row) for row in detections]
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        draw(read_rgb(image, white_level), views, distributions=distributions).save(temporary, format="PNG")
    return distributions and bool(views) and not any(side.probability is not None for view in views for side in view.sides)


def _image_problem(path: Path) -> Problem | None:
    try:
        read_image(path)
    except ImageError as error:
        return Problem(error.why, str(path))
    return None
