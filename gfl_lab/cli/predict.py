"""`gfl-lab predict`: what trained weights see on images, with the distributions of their box edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gfl_lab import naming
from gfl_lab.cli.lookup import require_done, trial_of_checkpoint, trial_or_file
from gfl_lab.cli.numbers import Number, Whole
from gfl_lab.cli.output import print_json, say
from gfl_lab.errors import InputError, Problem
from gfl_lab.session.refusals import output_problem
from gfl_lab.wording import plural


@click.command("predict")
@click.argument("what", metavar="TRIAL|CHECKPOINT")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--distributions", is_flag=True, help="Draw the four edge distributions of each box, and add them to the JSON.")
@click.option("--score", default=0.3, show_default=True, type=Number(0, 1), help="Leave out detections below this score.")
@click.option("--most", default=10, show_default=True, type=Whole(1), help="Draw at most this many boxes, the best.")
@click.option("--out", default=Path("predictions"), show_default=True, type=click.Path(path_type=Path), help="Folder for the pictures.")
@click.option("--force", is_flag=True, help="Write over pictures that are there.")
@click.option(
    "--profile", metavar="NAME", default="coco_1x", show_default=True, help="For converted weights: image size and test settings."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and draw nothing.")
def command(
    what: str, images: tuple[Path, ...], distributions: bool, score: float, most: int, out: Path, force: bool, profile: str, as_json: bool
) -> None:
    """Detect objects on images with a finished trial, or with weights of import-checkpoint, and draw them.

    Example:  gfl-lab predict 3fa9 photo.jpg --distributions
    """
    targets = {} if as_json else _targets(images, out, force)
    missing = [Problem("there is no such file", str(path)) for path in images if not path.is_file()]
    if missing:
        raise InputError(missing)
    if unreadable := [problem for path in images if (problem := _image_problem(path))]:
        raise InputError(unreadable)
    trial = trial_or_file(what) or trial_of_checkpoint(Path(what))
    if trial is not None:
        require_done(trial)
    from gfl_lab.inference import reevaluate
    from gfl_lab.report.boxes import box_view

    if trial is not None:
        subject = reevaluate.read_trial(trial, with_data=False)
    else:
        from gfl_lab.session.inputs import named_profile

        subject = reevaluate.read_weights(Path(what), None, named_profile(profile))
    for note in subject.notes:
        say(f"note: {note}")
    found = []
    for path, rows in reevaluate.predict_images(subject, images, max(score, subject.spec.settings.score_thr)):
        if as_json:
            found.append({"image": str(path), "detections": [_to_dict(row, distributions) for row in rows]})
            continue
        from gfl_lab.data.pixels import read_rgb
        from gfl_lab.records.files import atomic_path
        from gfl_lab.report.drawing import draw

        views = [box_view(row) for row in rows[:most]]
        target = targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            draw(read_rgb(path, subject.spec.data.white_level), views, distributions=distributions).save(temporary, format="PNG")
        rest = f", the best {most} drawn" if len(rows) > most else ""
        say(f"{path}: {plural(len(rows), 'detection')}{rest}; {target}")
        if distributions and views and not any(side.probability is not None for view in views for side in view.sides):
            say("note: these weights have Dirac boxes, which have no distribution")
    if as_json:
        print_json({"weights": subject.name, "classes": list(subject.spec.data.classes), "images": found})


def _targets(images: tuple[Path, ...], out: Path, force: bool) -> dict[Path, Path]:
    """Where the picture of each image goes. Raises InputError where it would write over something."""
    targets = {path: out / f"{path.stem}.png" for path in images}
    problems = [problem for problem in [output_problem(out, folder=True)] if problem]
    for path, target in ({} if problems else targets).items():
        twins = [str(other) for other, its in targets.items() if its == target and other != path]
        if twins:
            problems.append(
                Problem(
                    f"its picture would have the name of that of {', '.join(twins)}: {target}",
                    str(path),
                    "One call each, with another --out.",
                )
            )
        elif target.exists() and not force:
            problems.append(Problem(f"{target} is there already", str(path), "Give --force to write over it, or another --out."))
    if problems:
        raise InputError(problems)
    return targets


def _image_problem(path: Path) -> Problem | None:
    """Return why an image cannot be read, before weights are loaded and other pictures are written."""
    from gfl_lab.data.pixels import ImageError, read_image

    try:
        read_image(path)
    except ImageError as error:
        return Problem(error.why, str(path))
    return None


def _to_dict(row: dict[str, Any], distributions: bool) -> dict[str, Any]:
    """A detection; places in px of the image, xyxy, distances in bins outwards from the cell."""
    found = {
        "class": row["category"],
        "score": round(row["det_score"], 6),
        "box": [round(row[f"det_{part}"], 3) for part in ("x1", "y1", "x2", "y2")],
    }
    if not distributions:
        return found
    bins = row["bins"]
    probs = [round(p, 6) for p in row["probs"]]
    return found | {
        "cell": [round(row["cell_x"], 3), round(row["cell_y"], 3)],
        "stride": row["stride"],
        "bin_px": [round(row["stride"] * row["bin_width"] / row[f"scale_{axis}"], 6) for axis in "xy"],
        "expectation": dict(zip(naming.SIDES, (round(value, 6) for value in row["expectation"]), strict=True)),
        "distributions": {side: probs[i * bins : (i + 1) * bins] for i, side in enumerate(naming.SIDES)} if bins else None,
    }
