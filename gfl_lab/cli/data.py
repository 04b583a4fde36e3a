"""`gfl-lab data`: check a data set, or make the generated one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.addresses import absolute
from gfl_lab.cli.numbers import Number, Whole
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import ExitCode
from gfl_lab.session.refusals import require_output

if TYPE_CHECKING:
    from gfl_lab.session.dataset_check import DatasetCheck


@click.group("data")
def command() -> None:
    """Check a data set, or make the generated one."""


@command.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--profile",
    metavar="NAME",
    help="Profile, by name or file: also show boxes that no location learns, and distances from locations to box sides, in bins.",
)
@click.option("--reg-max", type=Whole(1, 128), help="Index of the last bin, instead of the profile's.")
@click.option("--bin-width", type=Number(0, 64, min_open=True), help="Distance between bins in strides, instead of the profile's.")
@click.option("--verbose", is_flag=True, help="Print every error and warning, not one line for each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every error and warning.")
def check(path: Path | None, profile: str | None, reg_max: int | None, bin_width: float | None, verbose: bool, as_json: bool) -> None:
    """Check the data set in folder PATH completely, every image decoded; exit code 2 when it cannot be trained on.

    With --profile also assign every training box to locations (cells of the feature maps), as training would. Show the
    boxes that have none, why, and the strides, anchor scale or image size that would leave fewer; and on each level how
    far the sides are from the cells, in bins, and the share that reg_max and bin_width clip. PATH may then be left out
    where the profile generates its data.

    Example:  gfl-lab data check ~/data/coco --profile coco_1x
    """
    from gfl_lab.cli.progress import counter
    from gfl_lab.session.dataset_check import check_data
    from gfl_lab.session.inputs import named_profile
    from gfl_lab.session.run_tree import default_tree

    if profile is None and (reg_max is not None or bin_width is not None):
        raise click.UsageError("--reg-max and --bin-width need --profile: strides, image size and the rest come from it")
    if profile is None and path is None:
        raise click.UsageError("give PATH, a folder in COCO format, or a --profile that generates its data")
    with_settings = None if profile is None else named_profile(profile)
    found = check_data(path, with_settings, default_tree(), reg_max=reg_max, bin_width=bin_width, counter=counter)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, verbose)
    if not found.report.ok:
        say(f"error: {found.folder} cannot be trained on")
    sys.exit(int(ExitCode.DONE if found.report.ok else ExitCode.USAGE))


def _print(found: DatasetCheck, verbose: bool) -> None:
    """Print the report, and the assignment of the boxes if there is one."""
    from gfl_lab.cli.side_table import print_sides

    print(found.report.to_text(verbose))
    assignment = found.assignment
    if assignment is None or not found.report.ok:
        return
    if assignment.why_not:
        print(f"\nassignment of boxes, profile {assignment.profile}: not analysed: {assignment.why_not}")
    if assignment.sides and assignment.unassigned:
        print_sides(assignment.sides, f"profile {assignment.profile}", consoles()[0])
        print("", *assignment.unassigned.lines(), sep="\n")


@command.command("areas")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def areas(path: Path, out: Path) -> None:
    """Copy the data set PATH to the new folder OUT with every annotation's area set to width x height; images are linked.

    AP_S, AP_M and AP_L go by area. Use the copy where `data check` warns of areas that do not fit their boxes.
    """
    from gfl_lab.data.areas import write_with_areas

    for split, count in write_with_areas(absolute(path, "PATH"), absolute(out, "OUT")).items():
        say(f"{split}: {count} areas changed")
    print(out)


@command.command("generate")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--train-images", type=Whole(8, 100_000), default=800, show_default=True, help="Training images.")
@click.option("--val-images", type=Whole(8, 100_000), default=200, show_default=True, help="Validation images.")
@click.option("--size", type=Whole(96, 1024), default=128, show_default=True, help="Side of the square images, px.")
@click.option("--seed", type=Whole(0, 2**31 - 1), default=0, show_default=True, help="Seed of the generator.")
def generate(path: Path, train_images: int, val_images: int, size: int, seed: int) -> None:
    """Make the data set ambiguous_shapes in a folder under PATH; prints the folder."""
    require_output(path, folder=True)
    from gfl_lab.data.ambiguous_shapes import AmbiguousShapesSpec
    from gfl_lab.data.ambiguous_shapes import generate as make

    print(make(AmbiguousShapesSpec(train_images, val_images, size, seed), path))
