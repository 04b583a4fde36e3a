"""`gfl-lab import-results`: an experiment of detection files that other projects made."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gfl_lab.cli.options import min_effect_option
from gfl_lab.cli.output import consoles, say

if TYPE_CHECKING:
    from gfl_lab.session.import_results import ImportOptions

_LAYOUTS = ("xywh", "xyxy", "cxcywh", "normalised-xywh", "normalised-xyxy", "normalised-cxcywh")
_CLASS_IDS = ("as-is", "zero-based", "one-based")


def _pairs(_ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (name, text) of ``NAME=TEXT`` each."""
    found = []
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise click.BadParameter(
                f"{text!r}: write NAME=FILE. Quote a pattern, so that the shell leaves it as it is: --arm 'yolo=runs/yolo_s*.json'"
            )
        found.append((name, value))
    return found


def _readings(choices: tuple[str, ...]) -> Callable[..., dict[str, str]]:
    def read(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for text in given:
            arm, _, value = text.rpartition("=")
            if value not in choices:
                raise click.BadParameter(f"{value!r} is none of {', '.join(choices)}; for one arm write ARM={choices[1]}")
            if arm in found:
                raise click.BadParameter(f"given twice{f' for {arm}' if arm else ''}")
            found[arm] = value
        return found

    return read


def _import_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of an import: the command takes them as ``options``, an ImportOptions."""

    @functools.wraps(command)
    def with_options(
        *args: Any, more: list[tuple[str, str]], arms: list[tuple[str, str]], class_ids: dict[str, str], boxes: dict[str, str],
        annotations: Path, baseline: str | None, min_effect: float | None, question: str, **others: Any,
    ) -> Any:  # fmt: skip
        from gfl_lab.data.detections.check import Options
        from gfl_lab.session.import_results import ImportOptions

        if not arms:
            raise click.UsageError("give --arm NAME=FILES for each detector")
        readings = Options(class_ids, boxes)
        return command(*args, options=ImportOptions([*arms, *more], annotations, baseline, min_effect, question, readings), **others)

    options = (
        click.argument("more", nargs=-1, metavar="[NAME=FILE]...", callback=_pairs),
        click.option(
            "--annotations",
            required=True,
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="COCO annotations of the images, .json or .json.gz.",
        ),
        click.option(
            "--arm",
            "arms",
            multiple=True,
            metavar="NAME=FILES",
            callback=_pairs,
            help="A detector and its files, one for each seed: paths or patterns, separated by commas.",
        ),
        click.option("--baseline", metavar="NAME", help="Arm that the others are compared with.  [default: the first]"),
        min_effect_option,
        click.option("--question", metavar="TEXT", default="", help="Question that the comparison answers, for the table."),
        click.option(
            "--class-ids",
            multiple=True,
            metavar="[ARM=]READING",
            callback=_readings(_CLASS_IDS),
            help="Meaning of class ids: as-is (ids of the annotations), zero-based or one-based (places in their list of classes).",
        ),
        click.option(
            "--boxes",
            multiple=True,
            metavar="[ARM=]FORM",
            callback=_readings(_LAYOUTS),
            help="Form of boxes: xywh, xyxy or cxcywh in pixels; normalised-xywh and so on as shares of the image.",
        ),
    )
    found: Callable[..., Any] = with_options
    for option in reversed(options):
        found = option(found)
    return found


@click.command("import-results")
@click.argument("name")
@_import_options
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON on stdout.")
def command(name: str, options: ImportOptions, as_json: bool) -> None:
    """Make the experiment NAME of detections that other projects wrote, and print its table; nothing is trained.

    A file is one seed of one arm: COCO's results format (JSON or JSON.gz) as mmdet, detectron2, ultralytics and PaddleDetection
    write it, or a folder of YOLO's text files. Files that do not fit are refused with the likely cause. The same command with more
    files adds them.

    Example:  gfl-lab import-results val --annotations val.json --arm 'yolo=runs/yolo_s*.json' --arm 'dfine=runs/dfine_s*.json'
    """
    from gfl_lab.report.exports import TABLE_FORMS
    from gfl_lab.report.table_grid import table_sheet
    from gfl_lab.report.writers.terminal import TableReport
    from gfl_lab.session.import_results import import_results
    from gfl_lab.session.run_tree import default_tree

    table = import_results(default_tree(), name, options, say)
    if as_json:
        sys.stdout.write(TABLE_FORMS["json"](table))
    else:
        consoles()[0].print(TableReport(table_sheet(table)))
