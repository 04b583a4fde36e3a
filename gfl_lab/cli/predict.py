"""`gfl-lab predict`: objects that trained weights detect on images, with the distributions of their box edges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.numbers import Number
from gfl_lab.cli.options import picture_options, renamed_option, weights_options
from gfl_lab.cli.output import print_json, say
from gfl_lab.cli.progress import download
from gfl_lab.wording import joined, plural

if TYPE_CHECKING:
    from gfl_lab.session.pictures import PictureOptions


@click.command("predict")
@click.argument("weights", metavar="TRIAL|WEIGHTS")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--distributions", is_flag=True, help="Add a panel for each box, with the distributions of its four edges. Add them to the JSON too."
)
@renamed_option(
    "--score", "--score-thr", "score_thr", default=0.3, show_default=True, type=Number(0, 1), help="Leave out detections below this score."
)
@picture_options
@weights_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and draw nothing.")
def command(
    weights: str, images: tuple[Path, ...], distributions: bool, score_thr: float, pictures: PictureOptions, config: str | None,
    profile: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Detect objects on images and draw them.

    TRIAL is a finished trial: EXPERIMENT:VARIANT:SEED, or the beginning of its id. WEIGHTS is a file of gfl-lab or of a project that
    import-checkpoint supports; or mmdet:NAME, the weights that mmdet publishes for its config NAME. They are downloaded once.

    Examples:  gfl-lab predict "table3_qfl_dfl:qfl=on dfl=on:0" photo.jpg --distributions --box 1

    gfl-lab predict 3fa9 photo.jpg,  gfl-lab predict mmdet:gfl_r50_fpn_1x_coco photo.jpg
    """
    from gfl_lab.session.pictures import chosen, detections_json, picture_paths, require_images, write_picture
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.trained import detector_for_images, require_weights
    from gfl_lab.session.true_boxes import true_boxes

    tree = default_tree()
    require_weights(tree, weights, config=config)
    targets = {} if as_json else picture_paths(images, pictures)
    require_images(images)
    truth = true_boxes(tree, weights, images, pictures.annotations) if pictures.truth else {}
    with download(weights) as progress:
        detector = detector_for_images(tree, weights, profile, config=config, distributions=distributions, progress=progress)
    from gfl_lab.inference.reevaluate import predict_images

    for note in detector.notes:
        say(f"note: {note}")
    found = predict_images(detector, images, score_thr)
    if as_json:
        shown = [detections_json(path, rows, pictures, truth.get(path), distributions=distributions) for path, rows in found]
        print_json({"weights": detector.name, "classes": list(detector.spec.data.classes), "images": shown})
        return
    for path, rows in found:
        drawn = chosen(path, rows, pictures)
        without = write_picture(path, targets[path], drawn, truth.get(path), detector.spec.data.white_level, distributions=distributions)
        rest = ""
        if len(rows) > len(drawn):
            rest = f", {joined([f'box {number}' for number in drawn])} drawn" if pictures.numbers else f", the best {len(drawn)} drawn"
        say(f"{path}: {plural(len(rows), 'detection')}{rest}; {targets[path]}")
        if without:
            say(
                "note: these weights have no box distributions: a Dirac box gives one distance a side, and mmdet's detectors give boxes alone"
            )
