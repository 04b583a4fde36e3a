"""`gfl-lab compare`: two variants of an experiment in detail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.options import experiment_argument, profile_option
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import InputError, Problem
from gfl_lab.wording import plural

if TYPE_CHECKING:
    from gfl_lab.metrics.coco_records import Records
    from gfl_lab.report.variant_comparison import DifferenceRow
    from gfl_lab.results.rows import ExperimentRow, VariantRow
    from gfl_lab.results.store import Store

MOST_CLASSES = 12


@click.command("compare")
@experiment_argument
@click.argument("variant")
@click.argument("other", required=False)
@profile_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path, variant: str, other: str | None, profile: str | None, as_json: bool) -> None:
    """Compare VARIANT of EXPERIMENT with OTHER (by default the baseline): by size, class and type of error.

    A variant is named as the table names it; a part of the name that no other has is enough.

    Example:  gfl-lab compare experiments/table3_qfl_dfl.yaml "qfl=on dfl=on"
    """
    from gfl_lab.report.comparison import shared
    from gfl_lab.report.variant_comparison import compare_variants, comparison_json, context
    from gfl_lab.session.lookup import stored_experiment
    from gfl_lab.session.run_tree import default_tree

    store, row = stored_experiment(default_tree(), experiment, profile)
    ours = _variant(row, variant)
    theirs = row.baseline if other is None else _variant(row, other)
    if theirs is None:
        raise InputError(f"{row.name} has no baseline: name both variants")
    if ours.name == theirs.name:
        raise InputError(f"both are {ours.name}" + (", which is the baseline" if other is None else ""))
    finished = shared(ours, theirs)
    if not finished:
        raise InputError(
            Problem(f"{ours.name} and {theirs.name} share no finished seed", hint=f"Train what is missing:  gfl-lab run {experiment}")
        )
    pairs = []
    for trials in finished.values():
        first, second = (_records(store, trial.id) for _, trial in trials)
        pairs.append((first, second))
    say(f"{ours.name} against {theirs.name}, {plural(len(finished), 'seed')}")
    try:
        rows = compare_variants(pairs, known=context(row, ours, theirs, store.resampled_or_none))
    except ValueError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json(
            {
                "experiment": row.name,
                "profile": row.profile,
                "ours": ours.name,
                "theirs": theirs.name,
                "seeds": list(finished),
                "rows": comparison_json(rows),
            }
        )
        return
    _print(rows, ours.name, theirs.name)


def _variant(row: ExperimentRow, name: str) -> VariantRow:
    """The variant of that name, or the only one whose name holds it. Raises InputError."""
    exact = [variant for variant in row.variants if variant.name == name]
    found = exact or [variant for variant in row.variants if name in variant.name]
    if len(found) == 1:
        return found[0]
    known = ", ".join(repr(variant.name) for variant in found or row.variants)
    problem = (
        f"{plural(len(found), 'variant')} of {row.name} have {name!r} in their name" if found else f"{row.name} has no variant {name!r}"
    )
    raise InputError(Problem(problem, hint=f"Name one of: {known}"))


def _records(store: Store, trial: str) -> Records:
    found = store.records(trial)
    if found is None:
        raise InputError(f"trial {trial} has no evaluation records")
    return found


def _print(rows: Sequence[DifferenceRow], ours: str, theirs: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gfl_lab.metrics.error_types import ABOUT
    from gfl_lab.report import variant_comparison
    from gfl_lab.report.formatting import MISSING, format_number, p_text, verdict_text

    out = consoles()[0]
    one_seed = all(row.found.seeds == 1 for row in rows)
    titles = {
        variant_comparison.METRIC: "AP", variant_comparison.SIZE: "AP by size", variant_comparison.CLASS: "AP by class", variant_comparison.ERROR: "AP50 that errors cost (lower is better)",
    }  # fmt: skip
    for group, title in titles.items():
        shown = [row for row in rows if row.group == group]
        left = 0
        if group == variant_comparison.CLASS:
            shown = sorted(shown, key=lambda row: -abs(row.found.mean))
            left, shown = max(0, len(shown) - MOST_CLASSES), shown[:MOST_CLASSES]
        if not shown:
            continue
        grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="bold")
        grid.add_column(title, overflow="fold")
        for head in ("ours", "theirs", "difference", "± 95%"):
            grid.add_column(head, justify="right")
        if group == variant_comparison.METRIC:
            grid.add_column("p", justify="right")
            grid.add_column("verdict")
        if group == variant_comparison.ERROR:
            grid.add_column("number", justify="right")
            grid.add_column("")
        for row in shown:
            style = {True: "green", False: "red", None: "dim"}[row.better]
            line: list[Text | str] = [Text(row.name), format_number("AP", row.value), format_number("AP", row.reference)]
            line += [
                Text(format_number("AP", row.found.mean, True), style=style),
                MISSING if row.half is None else format_number("AP", row.half),
            ]
            if row.comparison:
                line += [p_text(row.comparison.p), Text(verdict_text(row.comparison), style=style)]
            elif group == variant_comparison.METRIC:
                line += [p_text(row.found.p), Text(row.verdict, style=style)]
            if row.counts:
                line += [f"{row.counts[0]:.0f} / {row.counts[1]:.0f}", Text(ABOUT[row.name], style="dim")]
            grid.add_row(*line)
        out.print(grid)
        out.print(
            Text(f"and {plural(left, 'class').replace('classs', 'classes')} with smaller differences (--json has all)" if left else "")
        )
    out.print(Text(f"ours: {ours}", style="dim"))
    out.print(Text(f"theirs: {theirs}", style="dim"))
    about = "over the choice of images alone: one seed says nothing of others" if one_seed else "over seeds and images"
    out.print(Text(f"± 95%: half width of the interval of the difference, {about}; not corrected for the number of rows.", style="dim"))
    for note in variant_comparison.notes(rows):
        out.print(Text(note, style="dim"))
