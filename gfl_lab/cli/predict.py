"""`gfl-lab predict`: what trained weights see on images, with the distributions of their box edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gfl_lab import naming
from gfl_lab.cli.numbers import Number, Whole
from gfl_lab.cli.options import renamed_option
from gfl_lab.cli.output import print_json, say
from gfl_lab.wording import plural


@click.command("predict")
@click.argument("what", metavar="TRIAL|CHECKPOINT")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--distributions", is_flag=True, help="Draw the four edge distributions of each box, and add them to the JSON.")
@renamed_option(
    "--score", "--score-thr", "score_thr", default=0.3, show_default=True, type=Number(0, 1), help="Leave out detections below this score."
)
@renamed_option(
    "--most", "--max-boxes", "max_boxes", default=10, show_default=True, type=Whole(1), help="Draw at most this many boxes, the best."
)
@click.option("--out", default=Path("predictions"), show_default=True, type=click.Path(path_type=Path), help="Folder for the pictures.")
@click.option("--force", is_flag=True, help="Write over pictures that are there.")
@click.option(
    "--profile", metavar="NAME", default="coco_1x", show_default=True, help="For converted weights: image size and test settings."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and draw nothing.")
def command(
    what: str,
    images: tuple[Path, ...],
    distributions: bool,
    score_thr: float,
    max_boxes: int,
    out: Path,
    force: bool,
    profile: str,
    as_json: bool,
) -> None:
    """Detect objects on images with a finished trial, or with weights of import-checkpoint, and draw them.

    Example:  gfl-lab predict 3fa9 photo.jpg --distributions
    """
    from gfl_lab.session.lookup import require_done, trial_of_checkpoint, trial_or_file
    from gfl_lab.session.pictures import picture_paths, require_images, write_picture
    from gfl_lab.session.run_tree import default_tree

    tree = default_tree()
    targets = {} if as_json else picture_paths(images, out, force)
    require_images(images)
    trial = trial_or_file(tree, what) or trial_of_checkpoint(Path(what))
    if trial is not None:
        require_done(tree, trial)
    from gfl_lab.inference import reevaluate

    if trial is not None:
        subject = reevaluate.read_trial(trial, tree, with_data=False)
    else:
        from gfl_lab.session.inputs import named_profile

        subject = reevaluate.read_weights(Path(what), None, named_profile(profile), tree)
    for note in subject.notes:
        say(f"note: {note}")
    found = []
    for path, rows in reevaluate.predict_images(subject, images, max(score_thr, subject.spec.settings.score_thr)):
        if as_json:
            found.append({"image": str(path), "detections": [_to_dict(row, distributions) for row in rows]})
            continue
        without = write_picture(path, targets[path], rows[:max_boxes], subject.spec.data.white_level, distributions)
        rest = f", the best {max_boxes} drawn" if len(rows) > max_boxes else ""
        say(f"{path}: {plural(len(rows), 'detection')}{rest}; {targets[path]}")
        if without:
            say("note: these weights have Dirac boxes, which have no distribution")
    if as_json:
        print_json({"weights": subject.name, "classes": list(subject.spec.data.classes), "images": found})


def _to_dict(row: dict[str, Any], distributions: bool) -> dict[str, Any]:
    """Return a detection as JSON; places in px of the image, xyxy, distances in bins outwards from the cell."""
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
