"""The distances of box sides from their locations, printed level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gfl_lab.analysis.side_levels import SideDistances


def print_sides(sides: SideDistances, title: str, console: Console) -> None:
    """Print the table of levels, on a terminal with a histogram of each, and the advice."""
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
    """Return bars of the sides in each bin, at most ``width`` of them, and after a `|` one of those beyond n; a count is never no bar."""
    together = -(-reg_max // width)
    bars = [sum(counts[start : min(start + together, reg_max)]) for start in range(0, reg_max, together)] + [sum(counts[reg_max:])]
    top = max(bars)
    drawn = ["\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"[-(-8 * bar // top) - 1] if bar else " " for bar in bars]
    return f"{''.join(drawn[:-1])}|{drawn[-1]}"
