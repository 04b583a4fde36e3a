"""Two variants side by side: the verdict, and where the difference lies, by size, class and type of error, down to the images."""

from __future__ import annotations

import streamlit as st

from dashboard import clicks, downloads, experiments, live, state, theme
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import compare_choice, compare_figures, compare_images
from gfl_lab.errors import StoreError
from gfl_lab.metrics.error_types import about
from gfl_lab.report import claim_sentences as sentences
from gfl_lab.report import variant_comparison as report
from gfl_lab.report.columns import PAIR_COUNT
from gfl_lab.report.comparison import INCONCLUSIVE
from gfl_lab.report.differences import budget_note
from gfl_lab.report.formatting import format_number, format_size, p_text
from gfl_lab.report.statistics import NO_LOOK, ONE_SEED
from gfl_lab.report.variant_comparison_grid import group_titles, row_verdict, settings_grid
from gfl_lab.report.variant_pair import VariantPair

MANY_IMAGES = 1000  # from here on comparing takes a minute or more, and starts on a click
MOST_CLASSES = 20
_ABOUT_ERRORS = "Six types, as TIDE has them, each corrected alone; lower is better. The parts do not add up."


def _table(rows: list[report.DifferenceRow], pair: VariantPair) -> str:
    group, names = rows[0].group, pair.names
    head = [("", "name"), (names[0], "num wide"), (names[1], "num wide"), ("difference", "num"), ("± 95%", "num")]
    head += [("p", "num")] if group == report.METRIC else []
    head += [(PAIR_COUNT.title, "num")] if group == report.ERROR else []
    head += [("verdict", "name")]
    lines, chosen = [], state.chosen(compare_images.OF)
    for row in rows:
        line = [_name(row, chosen), format_number("AP", row.value), format_number("AP", row.reference)]
        line += [format_number("AP", row.found.mean, True), format_size(row.half)]
        line += [p_text(row.found.p if row.comparison is None else row.comparison.p)] if group == report.METRIC else []
        line += [f"{row.counts[0]:.0f} / {row.counts[1]:.0f}"] if row.counts else []
        line += [theme.verdict_html(row.verdict, row_verdict(row))]
        lines.append(line)
    return theme.table_html(head, lines)


def _name(row: report.DifferenceRow, chosen: str | None) -> str:
    """Return a row's name; of a class or a type of error as a button that shows its images. Below a type of error: its meaning."""
    if row.group not in (report.CLASS, report.ERROR):
        return theme.text(row.name)
    remark = f'<span class="delta remark dim">{theme.text(about(row.name, row.iou))}</span>' if row.counts else ""
    of = compare_images.key(row.group, row.name)
    put = clicks.put_attribute(**{compare_images.OF: "" if of == chosen else of})
    return f'<span class="opens{" best" if of == chosen else ""}" title="show its images" {put}>{theme.text(row.name)}</span>{remark}'


def _show(rows: list[report.DifferenceRow], pair: VariantPair, error_iou: float) -> None:
    span, names = compare_figures.scale(rows), pair.names
    for group, title in group_titles(rows).items():
        shown = [row for row in rows if row.group == group]
        if group == report.CLASS:
            shown = sorted(shown, key=lambda row: -abs(row.found.mean))
        left, shown = len(shown[MOST_CLASSES:]), shown[:MOST_CLASSES]
        if not shown:
            continue
        how = {report.ERROR: _ABOUT_ERRORS, report.CLASS: "A click on a class shows its images."}.get(group, "")
        theme.heading(title, how + (" A click on a type shows its images." if group == report.ERROR else ""))
        with st.container(key=f"beside-{group}"):
            plot, table = (st.container(), st.container()) if group == report.ERROR else st.columns(2, gap="medium")
        with plot:
            unit = f"{names[0]} minus {names[1]} [AP points]"
            figure = compare_figures.differences(shown, span, theme.ink(), names)
            st.plotly_chart(figure, key=f"pair-{group}", config=CONFIG, alt=f"{title}: difference and interval of each row")
            extent = "preliminary, without intervals," if shown[0].verdict == NO_LOOK else "with 95% intervals"
            cut = compare_figures.CUT if compare_figures.is_cut(shown, span) else ""
            if cut:
                theme.show(f'<div class="dim small">{cut}</div>')
            words = f"{title}: {unit}, {extent} over {pair.about}. {cut}".rstrip()
            downloads.figure(f"pair-{group}", pair.experiment, words, None if pair.is_planned else pair.other)
        with table:
            theme.show(_table(shown, pair))
            if left:
                theme.show(f'<div class="dim small">and {left} with smaller differences: gfl-lab compare --json has all</div>')
        if group in (report.CLASS, report.ERROR):
            compare_images.show(group, [row.name for row in shown], pair, error_iou)


def _answer(rows: list[report.DifferenceRow], pair: VariantPair) -> None:
    """Draw the verdict on AP in a sentence, and what would settle an open one."""
    found = next((row.comparison for row in rows if row.group == report.METRIC and row.name == "AP" and row.comparison), None)
    if found is None:
        return
    words = theme.verdict_html(found.verdict, sentences.title(found))
    theme.show(f'<div class="answer">{words} · {theme.text(sentences.verdict(found, *pair.names))}</div>')
    if caveats := sentences.caveats(found):
        question = "<b>What would resolve this?</b> " if found.verdict in (INCONCLUSIVE, ONE_SEED) else ""
        theme.show(f'<div class="dim small">{question}{theme.text(" ".join(caveats))}</div>')


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
    found = compare_choice.choose(experiment)
    if found is None:
        live.watch(experiment)
        return
    pair, error_iou = found
    if problem := pair.equal_problem:
        theme.empty("The same trials", problem)
    elif not pair.trials:
        theme.empty("They share no finished seed", "A difference is paired: both must have finished the same seed.")
    elif problem := _problem(pair):
        theme.empty("Not comparable", problem)
    elif pair.experiment.data.val_images < MANY_IMAGES or st.button(
        f"Compare on {pair.experiment.data.val_images} images: a minute or more"
    ):
        _compare(pair, error_iou)
    live.watch(experiment, *(each for each in (pair.experiment, pair.other) if state.of(each) != state.of(experiment)))


def _problem(pair: VariantPair) -> str:
    """Return why the two may not be compared; empty if they may, and where that cannot be read, which the comparison says."""
    try:
        return reader().not_comparable(pair)
    except StoreError:
        return ""


def _compare(pair: VariantPair, error_iou: float) -> None:
    try:
        rows = reader().comparison(pair, error_iou)
    except StoreError as error:
        theme.alert(str(error))
        return
    _answer(rows, pair)
    if any(row.verdict == NO_LOOK for row in rows):
        about_seeds = "There are no intervals before the first look."
    elif all(row.found.seeds > 1 for row in rows):
        about_seeds = "Intervals are over other seeds and other images; they are not corrected for the number of rows."
    else:
        about_seeds = (
            "Intervals are over other images alone: one seed is no evidence on others; they are not corrected for the number of rows."
        )
    theme.show(f'<div class="dim small">{pair.about}. {about_seeds}</div>')
    differing = () if pair.is_planned else pair.differing(reader().store.recorded)
    _notes([*pair.notes(), *filter(None, [budget_note(differing)])])
    _show(rows, pair, error_iou)
    if differing:
        theme.heading("Settings that differ", "Of the trials of the first seed that both have finished; with data, code and environment.")
        grid = settings_grid(differing, pair.names)
        theme.show(
            theme.table_html(
                [(column.title, "setting" if at else "name") for at, column in enumerate(grid.columns)],
                [[theme.text(cell.text) for cell in row.cells] for row in grid.rows],
            )
        )
    _notes(report.notes(rows))


def _notes(notes: list[str]) -> None:
    theme.show("".join(f'<div class="dim small">{theme.text(note)}</div>' for note in notes))


_body()
