"""`gfl-lab data`: check a data set, or make the generated one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gfl_lab.addresses import absolute
from gfl_lab.cli.numbers import Number, Whole
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import ExitCode, InputError, Problem
from gfl_lab.session.refusals import require_output

if TYPE_CHECKING:
    from gfl_lab.analysis.side_distances import SideDistances
    from gfl_lab.data.unassigned import Unassigned


@click.group("data")
def command() -> None:
    """Check a data set, or make the generated one."""


@command.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--profile",
    "profile_name",
    metavar="NAME",
    help="Show which boxes no location learns, and how far box sides are from their cells, with a profile's settings.",
)
@click.option("--reg-max", type=Whole(1, 128), help="n, instead of the profile's.")
@click.option("--bin-width", type=Number(0, 64, min_open=True), help="Distance between bins in strides, instead of the profile's.")
@click.option("--verbose", is_flag=True, help="Print every error and warning, not one line for each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every error and warning.")
def check(path: Path | None, profile_name: str | None, reg_max: int | None, bin_width: float | None, verbose: bool, as_json: bool) -> None:
    """Check the data set in folder PATH completely, every image decoded; exit code 2 when it cannot be trained on.

    With --profile also assign every training box to locations (cells of the feature maps), as training would. Show the
    boxes that have none, why, and the strides, anchor scale or image size that would leave fewer; and on each level how
    far the sides are from the cells, in bins, and the share that reg_max and bin_width clip. PATH may then be left out
    where the profile generates its data.

    Example:  gfl-lab data check ~/data/coco --profile coco_1x
    """
    from gfl_lab.data.coco import check_dataset
    from gfl_lab.data.unassigned import why_not_analysed

    if profile_name is None and (reg_max is not None or bin_width is not None):
        raise click.UsageError("--reg-max and --bin-width need --profile: strides, image size and the rest come from it")
    if profile_name is None and path is None:
        raise click.UsageError("give PATH, a folder in COCO format, or a --profile that generates its data")
    profile, settings = (None, None) if profile_name is None else _profile(profile_name)
    if path is None:
        path = _generated(profile)
    report = check_dataset(absolute(path, "PATH"))
    sides = unassigned = None
    reason = why_not_analysed(settings) if settings is not None else ""
    if settings is not None and report.ok and not reason:
        own = {key: value for key, value in (("reg_max", reg_max), ("bin_width", bin_width)) if value is not None}
        unassigned = _locate(path, settings.model_copy(update=own))
        sides = _measure(path, report.classes, settings, reg_max, bin_width)
    if as_json:
        found: dict[str, Any] = {}
        if profile is not None:
            located = {"analysed": False, "reason": reason} if reason else unassigned and unassigned.to_dict()
            found = {"profile": profile.name, "sides": sides and sides.to_dict(), "unassigned": located if report.ok else None}
        print_json(report.to_dict() | found)
    else:
        print(report.to_text(verbose))
        if reason and report.ok and profile:
            print(f"\nassignment of boxes, profile {profile.name}: not analysed: {reason}")
        if sides and unassigned and profile:
            print_sides(sides, f"profile {profile.name}", consoles()[0])
            print("", *unassigned.lines(), sep="\n")
    if not report.ok:
        say(f"error: {path} cannot be trained on")
    sys.exit(int(ExitCode.DONE if report.ok else ExitCode.USAGE))


def _profile(name: str) -> tuple[Any, Any]:
    """Return a profile and its settings. Raises SpecError."""
    from gfl_lab.session.inputs import named_profile
    from gfl_lab.spec.files import resolve_settings

    profile = named_profile(name)
    return profile, resolve_settings(profile.settings)


def _generated(profile: Any) -> Path:
    """Return the folder of the data that a profile generates. The data are made if they are missing."""
    from gfl_lab.data.ambiguous_shapes import AmbiguousShapesSpec
    from gfl_lab.data.ambiguous_shapes import generate as make
    from gfl_lab.session.run_tree import default_tree

    if profile.data == "required":
        message = f"profile {profile.name} has no data set of its own"
        raise InputError(Problem(message, hint="Give PATH, a folder in COCO format (docs/data.md)."))
    return make(AmbiguousShapesSpec(**profile.data.model_dump()), default_tree().root / "data")


def _locate(path: Path, settings: Any) -> Unassigned:
    """Return the boxes of a valid data set that no location learns."""
    from rich.progress import Progress

    from gfl_lab.data.coco import find_dataset
    from gfl_lab.data.unassigned import find_unassigned, training_boxes
    from gfl_lab.session.unassigned import nearest_of

    console = consoles()[1]
    boxes = training_boxes(find_dataset(path).train_annotations)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("trying other settings")
        return find_unassigned(boxes, settings, nearest_of=nearest_of, progress=lambda done, of: bar.update(task, completed=done, total=of))


def _measure(path: Path, classes: tuple[str, ...], settings: Any, reg_max: int | None, bin_width: float | None) -> SideDistances:
    import torch
    from rich.progress import Progress

    from gfl_lab.analysis.side_distances import side_distances
    from gfl_lab.data.coco import find_dataset

    console = consoles()[1]
    if not console.is_terminal:
        say("assigning the training boxes to cells")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the pieces are too small for several: on busy cores they wait for each other
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("assigning boxes to cells")
            paths = find_dataset(path)
            return side_distances(paths, classes, settings, reg_max, bin_width, lambda done, of: bar.update(task, completed=done, total=of))
    finally:
        torch.set_num_threads(threads)


def print_sides(sides: SideDistances, title: str, console: Any) -> None:
    """Print the table of levels, on a terminal with a histogram of each, and the advice."""
    from rich.table import Table

    width, height = sides.image_size
    console.print(
        f"\nbox sides, {title}: reg_max {sides.reg_max}, bin_width {sides.bin_width:g}, image_size {width}x{height}; "
        f"{sides.boxes} boxes of {sides.images} training images"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("stride", "boxes", "of all", "cells", "50%", "90%", "99%", "max", "clipped\nsides", "clipped\nboxes"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in (*sides.levels, sides.all):
        numbers = ["-"] * 6
        if level.cells and level.quantiles:
            numbers = [f"{distance:.1f}" for distance in (*(level.quantiles[q] for q in ("0.5", "0.9", "0.99")), level.max)]
            numbers += [f"{share:.2%}" for share in (level.clipped_share, level.clipped_boxes_share)]
        table.add_row(str(level.stride or "all"), str(level.boxes), f"{level.boxes_share:.1%}", str(level.cells), *numbers)
    console.print(table)
    if console.is_terminal:
        console.print(f"sides in bins 0 to {sides.reg_max}, and beyond:")
        for level in sides.levels:
            console.print(f"{level.stride:6}  {histogram(level.counts, sides.reg_max)}")
    console.print("distances are in bins; a box may have cells on several levels")
    for note in sides.notes:
        console.print(f"note: {note}")
    console.print(sides.advice, soft_wrap=True)


def histogram(counts: Sequence[int], reg_max: int, width: int = 32) -> str:
    """Return bars of the sides in each bin, at most ``width`` of them, then a `|` and a bar of those beyond n. A count is never no bar."""
    together = -(-reg_max // width)
    bars = [sum(counts[start : min(start + together, reg_max)]) for start in range(0, reg_max, together)] + [sum(counts[reg_max:])]
    top = max(bars)
    drawn = ["\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"[-(-8 * bar // top) - 1] if bar else " " for bar in bars]
    return f"{''.join(drawn[:-1])}|{drawn[-1]}"


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
@click.option("--train-images", type=Whole(8, 100_000), default=800, show_default=True)
@click.option("--val-images", type=Whole(8, 100_000), default=200, show_default=True)
@click.option("--size", type=Whole(96, 1024), default=128, show_default=True, help="Side of the square images, px.")
@click.option("--seed", type=Whole(0, 2**31 - 1), default=0, show_default=True)
def generate(path: Path, train_images: int, val_images: int, size: int, seed: int) -> None:
    """Make the data set ambiguous_shapes in a folder under PATH; prints the folder."""
    require_output(path, folder=True)
    from gfl_lab.data.ambiguous_shapes import AmbiguousShapesSpec
    from gfl_lab.data.ambiguous_shapes import generate as make

    print(make(AmbiguousShapesSpec(train_images, val_images, size, seed), path))
