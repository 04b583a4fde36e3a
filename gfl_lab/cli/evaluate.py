"""`gfl-lab evaluate`: trained weights under other test settings, or converted weights on a data set; nothing is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.numbers import Whole
from gfl_lab.cli.options import parse_settings, weights_options
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.cli.progress import counter, download

if TYPE_CHECKING:
    from gfl_lab.session.evaluation import EvaluationReport


@click.command("evaluate")
@click.argument("weights", metavar="TRIAL|WEIGHTS")
@click.option(
    "--set",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    callback=parse_settings,
    help="Another value for a test setting, such as decode=local_peak. Repeatable.",
)
@click.option("--data", metavar="PATH", type=click.Path(path_type=Path), help="Folder with a data set in COCO format, for WEIGHTS.")
@weights_options
@click.option("--limit", metavar="N", type=Whole(1), help="Only the first N validation images, for a quick look.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    weights: str, changes: dict[str, object], data: Path | None, config: str | None, profile: str | None, limit: int | None, as_json: bool
) -> None:
    """Evaluate trained weights. Nothing is trained or changed.

    TRIAL is a finished trial: EXPERIMENT:VARIANT:SEED, or the beginning of its id. It is evaluated beside its recorded numbers.
    WEIGHTS is evaluated on the data set --data: a file, of gfl-lab or of a project that import-checkpoint supports; or mmdet:NAME, the
    weights that mmdet publishes for its config NAME. They are downloaded once.

    Examples:  gfl-lab evaluate "table3_qfl_dfl:qfl=on dfl=on:0" --set decode=local_peak

    gfl-lab evaluate mmdet:gfl_r50_fpn_1x_coco --data ~/data/coco
    """
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.trained import detector_to_evaluate

    with download(weights) as progress:
        detector = detector_to_evaluate(default_tree(), weights, data, profile, config=config, progress=progress)
    from gfl_lab.session.evaluation import evaluate_again

    for note in detector.notes:
        say(f"note: {note}")
    with counter("evaluating", "image") as count:
        report = evaluate_again(detector, changes, limit, count)
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)


def _print(report: EvaluationReport) -> None:
    """Print a column for each evaluation and one for the difference, a row for each metric."""
    from rich.table import Table

    from gfl_lab.inference.trained_detector import COMPARED
    from gfl_lab.naming import METRICS

    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    grid.add_column("", no_wrap=True)
    columns = [(name, metrics, "") for name, metrics in report.rows.items()]
    columns += [("difference", report.differences, "+")] if len(report.rows) > 1 else []
    for name, _, _ in columns:
        grid.add_column(re.sub(r" (?=\w+=)", "\n", name), justify="right", no_wrap=True, vertical="bottom")
    for key in COMPARED:
        if any(key in metrics for metrics in report.rows.values()):
            metric = METRICS[key]
            digits = max(2, metric.digits)  # the same weights twice: no seed's noise hides a second digit
            cells = [f"{metrics[key]:{sign}.{digits}f}" if key in metrics else "-" for _, metrics, sign in columns]
            grid.add_row(f"{metric.title}, {metric.unit}" if metric.unit else metric.title, *cells)
    out = consoles()[0]
    for line in (report.heading, report.device_note):
        if line:
            out.print(line, soft_wrap=True)
    out.print(grid)
