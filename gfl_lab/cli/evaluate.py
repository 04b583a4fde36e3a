"""`gfl-lab evaluate`: trained weights under other test settings, or converted weights on a data set; nothing is trained."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gfl_lab.addresses import absolute
from gfl_lab.cli.numbers import Whole
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import InputError, Problem, SpecError
from gfl_lab.wording import plural

if TYPE_CHECKING:
    from gfl_lab.inference.reevaluate import Evaluation, Subject
    from gfl_lab.rundir import TrialDir

DEFAULT_PROFILE = "coco_1x"


def parse_changes(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE`` each, the value in YAML."""
    from gfl_lab.spec.settings import Settings
    from gfl_lab.spec.source import Source, read_value
    from gfl_lab.spec.values import one_value_problems

    changes: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise click.BadParameter(f"{text!r}: write KEY=VALUE, as in decode=local_peak")
        if key in changes:
            raise click.BadParameter(f"{key} is given twice")
        try:
            changes[key] = read_value(value)
        except SpecError as error:
            problem = error.problems[0]
            why = problem.message.replace("not valid YAML:", f"{value} is no YAML value:")
            raise click.BadParameter(f"{text!r}: {why}{f'. {problem.hint}' if problem.hint else ''}") from None
        if key in Settings.model_fields and (problems := one_value_problems(key, changes[key], Source(Path(), {}), ())):
            raise click.BadParameter("; ".join(problem.message for problem in problems))
    return changes


@click.command("evaluate")
@click.argument("what", metavar="TRIAL|WEIGHTS")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, callback=parse_changes, help="Another test setting; repeatable.")
@click.option("--data", metavar="PATH", type=click.Path(path_type=Path), help="Folder with a data set in COCO format, for WEIGHTS.")
@click.option(
    "--profile",
    metavar="NAME",
    help=f"Profile that gives imported WEIGHTS their image size and test settings.  [default: {DEFAULT_PROFILE}]",
)
@click.option("--limit", metavar="N", type=Whole(1), help="Only the first N validation images, for a quick look.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str, changes: dict[str, Any], data: Path | None, profile: str | None, limit: int | None, as_json: bool) -> None:
    """Evaluate trained weights: those of TRIAL, a finished trial's id or how it begins, beside its recorded numbers; or those
    in the file WEIGHTS, which `gfl-lab import-checkpoint` wrote, on the data set --data. Nothing is trained or changed.

    Examples:  gfl-lab evaluate 3fa9 --set decode=local_peak,  gfl-lab evaluate gfl_r50.gfl-lab.pth --data ~/data/coco
    """
    from gfl_lab.session.lookup import require_done, trial_of_checkpoint, trial_or_file
    from gfl_lab.session.run_tree import default_tree

    tree = default_tree()
    trial = trial_or_file(tree, what)
    if trial is not None and (data or profile):
        raise click.UsageError(f"{'--data' if data else '--profile'} goes with a weights file; a trial is evaluated on its own data")
    if trial is None:
        trial = None if data else trial_of_checkpoint(Path(what))
        if trial is None and not data:
            raise InputError(
                Problem(f"there is nothing to evaluate {what} on", hint="Give --data PATH, a folder in COCO format (docs/data.md).")
            )
    if trial is not None:
        require_done(tree, trial)

    from gfl_lab.inference import reevaluate

    if trial is not None:
        subject = reevaluate.read_trial(trial, tree)
    else:
        from gfl_lab.session.inputs import named_profile

        assert data is not None  # weights without data have been refused
        subject = reevaluate.read_weights(Path(what), absolute(data, "--data"), named_profile(profile or DEFAULT_PROFILE), tree)
    changed = subject.under(changes)
    for note in subject.notes:
        say(f"note: {note}")
    before = None if subject.metrics is None else ("as trained", subject.metrics)
    if limit and before and limit < subject.spec.data.val_images:
        # What is recorded speaks of all images: beside some of them stands an evaluation of the same ones.
        before = ("as trained", _evaluate(subject, limit).metrics) if changes else None
    done = _evaluate(changed, limit)
    name = " ".join(f"{key}={_text(value)}" for key, value in changes.items()) or (
        "again" if before else "as trained" if trial else "weights"
    )
    rows = [*([before] if before else []), (name, done.metrics)]
    if as_json:
        print_json(_to_dict(trial, subject, changed, changes, rows, done))
    else:
        _print(trial, subject, rows, done)


def _evaluate(subject: Subject, limit: int | None) -> Evaluation:
    from gfl_lab.inference.reevaluate import evaluate

    with _progress() as seen:
        return evaluate(subject, limit, seen)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """What counts images: a bar on a terminal, elsewhere one line when the first is done."""
    console = consoles()[1]
    if not console.is_terminal:
        yield lambda done, of: say(f"evaluating {plural(of, 'image')}") if done == 1 else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("evaluates"), BarColumn(24), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _text(value: Any) -> str:
    from gfl_lab.naming import setting_text

    return setting_text(value)


def _differences(rows: list[tuple[str, dict[str, float]]]) -> dict[str, float]:
    """Second minus first row, where both have a value."""
    if len(rows) < 2:
        return {}
    (_, before), (_, after) = rows
    return {key: round(after[key] - before[key], 6) for key in before if key in after}


def _to_dict(
    trial: TrialDir | None,
    subject: Subject,
    changed: Subject,
    changes: dict[str, Any],
    rows: list[tuple[str, dict[str, float]]],
    done: Evaluation,
) -> dict[str, Any]:
    from gfl_lab.inference.reevaluate import SETTABLE

    settings = changed.spec.settings.model_dump(mode="json")
    return {
        "trial": trial.id if trial else None,
        "weights": None if trial else subject.name,
        "data": subject.spec.data.name,
        "images": done.images,
        "all_images": done.all_images,
        "device": done.device,
        "set": {key: settings[key] for key in changes},
        "settings": {key: settings[key] for key in SETTABLE},
        "rows": [{"name": name, "metrics": metrics} for name, metrics in rows],
        "differences": _differences(rows),
        "per_class": done.per_class,
    }


def _print(trial: TrialDir | None, subject: Subject, rows: list[tuple[str, dict[str, float]]], done: Evaluation) -> None:
    from rich.table import Table

    from gfl_lab.inference.reevaluate import COMPARED
    from gfl_lab.naming import METRICS

    columns = dict(rows)
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    grid.add_column("", no_wrap=True)
    for name in columns:
        grid.add_column(re.sub(r" (?=\w+=)", "\n", name), justify="right", no_wrap=True, vertical="bottom")
    if len(rows) > 1:
        grid.add_column("difference", justify="right", no_wrap=True, vertical="bottom")
    for key in COMPARED:
        if not any(key in metrics for metrics in columns.values()):
            continue
        metric = METRICS[key]
        digits = max(2, metric.digits)  # the same weights twice: no seed's noise hides a second digit
        cells = [f"{metrics[key]:.{digits}f}" if key in metrics else "-" for metrics in columns.values()]
        if len(rows) > 1:
            difference = _differences(rows).get(key)
            cells.append("-" if difference is None else f"{difference:+.{digits}f}")
        grid.add_row(f"{metric.title}, {metric.unit}" if metric.unit else metric.title, *cells)
    which = f"all {plural(done.images, 'validation image')}"
    if done.images < done.all_images:
        which = f"the first {done.images} of {plural(done.all_images, 'validation image')}"
    out, _ = consoles()
    head = f"trial {trial.id}" if trial else subject.name
    out.print(f"{head} on {which} of {subject.spec.data.name}, {done.device}", soft_wrap=True)
    if trial and subject.device.partition(" ")[0].partition(":")[0] != done.device.partition(":")[0]:
        out.print(f"It was trained on {subject.device}; another device alone changes the last digits.", soft_wrap=True)
    out.print(grid)
