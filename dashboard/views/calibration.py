"""Calibration: score and width of the distributions against the IoU of a box, and the distributions in numbers."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import downloads, live, state, theme
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import calibration_figures
from gfl_lab.errors import StoreError
from gfl_lab.report import columns
from gfl_lab.report import sides as report
from gfl_lab.report.calibration import Reliability
from gfl_lab.report.calibration_answer import calibration_answer
from gfl_lab.report.formatting import MISSING, decimal
from gfl_lab.results.rows import ExperimentRow, TrialRow, VariantRow

_WORDS = {
    "ambiguous": {True: "two ground-truth edges", False: "one edge"},
    "neighbour": {True: "another box beside it", False: "free"},
}


def _trials(experiment: ExperimentRow, seed: str) -> list[tuple[VariantRow, TrialRow]]:
    return [(variant, trial) for variant in experiment.variants for trial in variant.done if str(trial.seed) == seed]


def _number(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None or pd.isna(value) else decimal(value, digits)


def _scores(
    experiment: ExperimentRow, trials: list[tuple[VariantRow, TrialRow]], palette: dict[str, str], order: list[str]
) -> dict[str, Reliability]:
    """Draw scores against the IoU; return the numbers behind them by variant."""
    theme.heading(
        "Score against IoU",
        "Detections in ten bins of their score: how much they overlap the nearest box of their class. On the diagonal the score is the IoU.",
    )
    found, lines = {}, []
    for variant, trial in trials:
        try:
            known = reader().reliability(trial.id)
            spread = report.agreement(reader().sides(trial.id))
        except StoreError as error:
            theme.alert(str(error))
            continue
        if known is None:
            continue
        found[variant.name] = known
        name = f"{theme.swatch(palette[variant.name])}{theme.text(variant.name)}"
        numbers = [_number(value) for value in (known.error, known.pearson, known.spearman, spread.pearson, spread.spearman)]
        lines.append([name, f"{int(known.count.sum())}", *numbers])
    if not found:
        theme.empty("No trial of this seed has records", "They are written at the end of a trial.")
        return found
    plot, notes = st.columns([3, 2], gap="medium")
    with plot:
        figure = calibration_figures.reliability(found, palette, order, theme.ink())
        st.plotly_chart(figure, key="reliability", config=CONFIG, alt="mean IoU over mean score, one line a variant")
        downloads.figure("reliability", experiment, "Mean IoU over mean score of detections, in ten bins of the score.")
        figure = calibration_figures.counts(found, palette)
        st.plotly_chart(figure, key="counts", config=CONFIG, alt="number of detections in each bin of the score, one bar a variant")
    with notes:
        theme.variants_legend(found, palette)
        theme.show(
            '<div class="notes small dim">Below, the number of detections in each bin of the score. A line above the diagonal: boxes lie better than the score '
            "says. Calibration error: distance of score and IoU, bin by bin, weighted by detections; lower is better.<br><br>Spread: of the four "
            "sides of each ground-truth box, against the IoU of its location's box; negative where narrow distributions mean good boxes. A Dirac "
            "box has none.</div>"
        )
    of_bins, *correlations = columns.CALIBRATION_COLUMNS
    head = [theme.Head("variant", "name"), theme.Head("detections", "num"), theme.Head(of_bins.title, "num short", of_bins.key)]
    for column in correlations:
        head += [theme.Head(f"{column.title}: Pearson", "num short", column.key), theme.Head("Spearman", "num")]
    theme.show(theme.table_html(head, lines))
    return found


def _distributions(trials: list[tuple[VariantRow, TrialRow]], palette: dict[str, str], experiment: ExperimentRow) -> None:
    theme.heading("The distributions in numbers", "Means over the sides of all ground-truth boxes.")
    options = [name for name in report.GROUPS if name != "ambiguous" or experiment.data.truth]
    by = state.choose("Grouped by", "group", options, default="ambiguous" if experiment.data.truth else "side", widget=st.segmented_control)
    lines = []
    for variant, trial in trials:
        try:
            rows = report.grouped(reader().sides(trial.id), [report.GROUPS[by]])
        except StoreError as error:
            theme.alert(str(error))
            continue
        for _, row in rows.iterrows():
            group = row[report.GROUPS[by]]
            words = _WORDS[by][bool(group)] if by in _WORDS else str(group)
            numbers = [_number(row["entropy"]), _number(row["spread"]), _number(100 * row["bimodal"], 1), _number(100 * row["tail"], 1)]
            name = f"{theme.swatch(palette[variant.name])}{theme.text(variant.name)}"
            lines.append([name, theme.text(words), f"{int(row['sides'])}", *numbers, _number(row["error"])])
    if not lines:
        theme.empty(
            "No distributions of this seed", "Dirac boxes and mmdet's detectors have none; others are written at the end of a trial."
        )
        return
    head = [theme.Head("variant", "name"), theme.Head(by, "name"), theme.Head("sides", "num")]
    head += [theme.Head(f"{c.title} [{c.unit}]", "num short", c.key) for c in columns.SIDE_COLUMNS if c.key in report.MEASURES]
    theme.show(theme.table_html(head, lines))
    theme.show(
        '<div class="notes small dim">Bimodal: sides with two modes or more. Tail: mass on the last bin, where the object reaches further '
        "than the bins do. Error: distance of the decoded edge from the annotated one.</div>"
    )


def _hidden(trials: list[tuple[VariantRow, TrialRow]], palette: dict[str, str]) -> None:
    """Draw whether ambiguous distributions stand where other boxes are close."""
    lines = []
    for variant, trial in trials:
        try:
            found = reader().coincidence(trial.id)
        except StoreError:  # reported above
            continue
        if found.auc is None or not found.beside:
            continue
        name = f"{theme.swatch(palette[variant.name])}{theme.text(variant.name)}"
        interval = f' <span class="pm">[{_number(found.low)}, {_number(found.high)}]</span>' if found.low is not None else ""
        top = _number(None if found.top_beside is None else 100 * found.top_beside, 1)
        lines.append([name, f"{found.sides}", _number(100 * found.beside, 1), f"{found.top}", top, f"{_number(found.auc)}{interval}"])
    if not lines:
        return
    theme.heading(
        "Are the ambiguous sides those beside other boxes?",
        "A box that overlaps or touches another often has an edge that cannot be seen; there two answers are right.",
    )
    head = [
        ("variant", "name"),
        ("sides", "num"),
        ("beside another box [%]", "num short"),
        (f"bimodal, of the top {report.TOP:.0%}", "num short"),
        ("of them beside another box [%]", "num short"),
        ("wider beside another box: how often [0 to 1]", "num short"),
    ]
    theme.show(theme.table_html(head, lines))
    theme.show(
        '<div class="notes small dim">How often: of all pairs of a side beside another box and a free one, the share in which the first '
        "has the wider distribution, with a 95% interval over other images. 0.5 means that the two have nothing to do with each other.</div>"
    )


def _body() -> None:
    experiment = live.current()
    theme.header("Calibration and distributions in numbers", under=live.data_line(experiment))
    seeds = sorted({trial.seed for variant in experiment.variants for trial in variant.done})
    if not seeds:
        theme.empty("No trial has finished", "Calibration needs the detections that a trial writes at its end.")
    else:
        answer = st.container()
        seed = str(seeds[0])
        if len(seeds) > 1:
            seed = state.choose("Seed", "seed", [str(each) for each in seeds], width=120)
        trials = _trials(experiment, seed)
        palette, order = theme.colours(experiment), [variant.name for variant in experiment.variants]
        found = _scores(experiment, trials, palette, order)
        if found:
            with answer:
                theme.answer(calibration_answer(found))
        if experiment.is_imported:
            theme.empty(
                "No box distributions", "This experiment is made of imported detections. They hold boxes and scores, no distributions."
            )
        else:
            _distributions(trials, palette, experiment)
            _hidden(trials, palette)
    live.watch(experiment)


_body()
