"""`gfl-lab data`: check a data set, or make the generated one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gfl_lab.cli.output import print_json, say
from gfl_lab.errors import ExitCode


@click.group("data")
def command() -> None:
    """Check a data set, or make the generated one."""


@command.command("check")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(path: Path, as_json: bool) -> None:
    """Check the data set in folder PATH completely, every image decoded; exit code 2 when it cannot be trained on.

    Example:  gfl-lab data check ~/data/coco
    """
    from gfl_lab.data.coco import check_dataset

    report = check_dataset(path)
    if as_json:
        print_json(report.to_dict())
    else:
        print(report.to_text())
    if report.errors:
        say(f"error: {path} cannot be trained on")
    sys.exit(int(ExitCode.USAGE if report.errors else ExitCode.DONE))


@command.command("generate")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--train-images", type=click.IntRange(8, 100_000), default=800, show_default=True)
@click.option("--val-images", type=click.IntRange(8, 100_000), default=200, show_default=True)
@click.option("--size", type=click.IntRange(96, 1024), default=128, show_default=True, help="Side of the square images, px.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
def generate(path: Path, train_images: int, val_images: int, size: int, seed: int) -> None:
    """Make the data set ambiguous_shapes in a folder under PATH; prints the folder."""
    from gfl_lab.data.ambiguous_shapes import AmbiguousShapesSpec
    from gfl_lab.data.ambiguous_shapes import generate as make

    print(make(AmbiguousShapesSpec(train_images, val_images, size, seed), path))
