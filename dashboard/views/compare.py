"""Two variants side by side: where their difference lies, by size, class and type of error."""

from __future__ import annotations

import streamlit as st

from dashboard import experiments, live, state, theme
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import compare_figures
from gfl_lab.errors import StoreError
from gfl_lab.metrics.error_types import ABOUT
from gfl_lab.report import variant_comparison as report
from gfl_lab.report.comparison import by_seed, shared
from gfl_lab.report.formatting import MISSING, format_number, p_text, verdict_text
from gfl_lab.results.rows import ExperimentRow, VariantRow

MANY_IMAGES = 1000  # from here on comparing takes a minute or more, and starts on a click
MOST_CLASSES = 20
_TITLES = {
    report.METRIC: ("AP", ""),
    report.SIZE: ("AP by size", ""),
    report.CLASS: ("AP by class", ""),
    report.ERROR: ("AP50 that errors cost", "By TIDE's six types, each corrected alone; lower is better, and the parts do not add up."),
}


def _table(rows: list[report.DifferenceRow], group: str) -> str:
    head = [("", "name"), ("ours", "num"), ("theirs", "num"), ("difference", "num"), ("± 95%", "num")]
    if group == report.METRIC:
        head += [("p", "num"), ("verdict", "num")]
    if group == report.ERROR:
        head += [("number", "num"), ("", "name")]
    lines = []
    for row in rows:
        half = MISSING if row.half is None else format_number("AP", row.half)
        css = {True: "better", False: "worse", None: "dim"}[row.better]
        line = [theme.text(row.name), format_number("AP", row.value), format_number("AP", row.reference)]
        line += [f'<span class="{css}">{format_number("AP", row.found.mean, True)}</span>', half]
        if group == report.METRIC:
            verdict = verdict_text(row.comparison) if row.comparison else row.verdict
            p = row.found.p if row.comparison is None else row.comparison.p
            line += [p_text(p), f'<span class="{css}">{theme.text(verdict)}</span>']
        if row.counts:
            line += [f"{row.counts[0]:.0f} / {row.counts[1]:.0f}", f'<span class="dim small">{theme.text(ABOUT[row.name])}</span>']
        lines.append(line)
    return theme.table_html(head, lines)


def _show(rows: list[report.DifferenceRow], colours: tuple[str, str]) -> None:
    for group, (title, about) in _TITLES.items():
        shown = [row for row in rows if row.group == group]
        if group == report.CLASS:
            shown = sorted(shown, key=lambda row: -abs(row.found.mean))
        left, shown = len(shown[MOST_CLASSES:]), shown[:MOST_CLASSES]
        if not shown:
            continue
        theme.heading(title, about)
        plot, table = (st.container(), st.container()) if group == report.ERROR else st.columns(2, gap="medium")
        with plot:
            figure = compare_figures.differences(shown, colours, group == report.ERROR, theme.ink())
            st.plotly_chart(figure, key=f"pair-{group}", config=CONFIG, alt=f"{title}: difference and interval of each row")
        with table:
            theme.show(_table(shown, group))
            if left:
                theme.show(f'<div class="dim small">and {left} with smaller differences: gfl-lab compare --json has all</div>')


def _variants(experiment: ExperimentRow, *names: str) -> tuple[VariantRow, VariantRow]:
    first, second = (experiments.variant_of(experiment, name) for name in names)
    return first, second


def _pairs(experiment: ExperimentRow, variant: str, reference: str) -> list[tuple[str, str]]:
    """Return the trials of both with the same seed."""
    found = shared(*_variants(experiment, variant, reference))
    return [(first.id, second.id) for (_, first), (_, second) in found.values()]


def _body() -> None:
    experiment = live.current()
    theme.header("Two variants side by side", under=live.data_line(experiment))
    if experiment.kind == experiments.SEARCH:
        theme.empty(
            "A search is not compared",
            "Its trials had unequal budgets. This trains its best and the defaults alike:",
            "gfl-lab confirm EXPERIMENT.yaml",
        )
        return
    ready = [variant.name for variant in experiment.variants if by_seed(variant, "AP")]
    if len(ready) < 2:
        theme.empty("Nothing to compare yet", "Two variants are compared as soon as each has a finished trial.")
        live.watch(experiment)
        return
    baseline = experiment.baseline.name if experiment.baseline and experiment.baseline.name in ready else ready[0]
    left, right = st.columns(2)
    with left:
        variant = state.choose("Ours", "ours", ready, default=next(name for name in reversed(ready) if name != baseline))
    with right:
        others = [name for name in ready if name != variant]
        reference = state.choose("Theirs", "theirs", others, default=baseline)
    pairs = _pairs(experiment, variant, reference)
    palette = theme.colours(experiment)
    if not pairs:
        theme.empty("They share no finished seed", "A difference is paired: both must have finished the same seed.")
    elif experiment.data.val_images < MANY_IMAGES or st.button(f"Compare on {experiment.data.val_images} images: a minute or more"):
        seeds = "1 seed" if len(pairs) == 1 else f"{len(pairs)} seeds"
        about = "over other seeds and other images" if len(pairs) > 1 else "over other images alone: one seed is no evidence on others"
        theme.show(f'<div class="dim">{seeds}. Intervals are {about}; they are not corrected for the number of rows.</div>')
        try:
            rows = reader().comparison(tuple(pairs), experiment, *_variants(experiment, variant, reference))
        except StoreError as error:
            theme.alert(str(error))
        else:
            _show(rows, (palette[variant], palette[reference]))
            theme.show("".join(f'<div class="dim small">{theme.text(note)}</div>' for note in report.notes(rows)))
    live.watch(experiment)


_body()
