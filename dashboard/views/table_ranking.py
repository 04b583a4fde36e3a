"""The ranked table of a search, the importance of its settings, and its metric over each of them."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import downloads, experiments, theme
from dashboard.figures import CONFIG, metric_label
from dashboard.reader import reader
from dashboard.views import table_ranking_figures
from gfl_lab import naming
from gfl_lab.errors import FormatError, StoreError
from gfl_lab.report.exports import RANKING_FORMS
from gfl_lab.report.formatting import MISSING, format_number
from gfl_lab.report.ranking import Importance, Ranking, importance_text
from gfl_lab.report.ranking_answer import ranking_answer
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.search import DONE, FAILED, STOPPED, SuggestionRow

MOST_ROWS = 200


def show(experiment: ExperimentRow) -> None:
    """Draw the ranked table."""
    try:
        ranking = reader().ranking(experiment)
    except StoreError as error:
        theme.alert(str(error))
        if not isinstance(error, FormatError):
            theme.empty(
                "The ranked table cannot be shown",
                f"It is made from {naming.SEARCH} beside the plan. Without that file the same command searches anew; "
                "what its trials have computed is kept and used again.",
            )
        return
    theme.answer(ranking_answer(ranking))
    _head(ranking)
    if ranking.rows:
        theme.show(_table(ranking))
    if len(ranking.rows) > MOST_ROWS:
        theme.show(f'<div class="dim small">and {len(ranking.rows) - MOST_ROWS} more, which the files below hold</div>')
    if not any(place for place, _ in ranking.rows):
        theme.empty("Nothing to rank yet", "Trials are ranked here one by one as they finish or are stopped early.")
    about = importance_text(ranking.importance)
    notes = "".join(f"<li>{theme.text(theme.redact(note))}</li>" for note in ranking.notes if note != about)
    theme.show(f'<ul class="notes small dim">{notes}</ul>')
    if ranking.rows:
        downloads.buttons(experiment, {form: partial(write, ranking) for form, write in RANKING_FORMS.items()})
    if ranking.best:
        theme.heading("Is the best one better?", "This compares it with the defaults, over seeds that it was not chosen on.")
        st.code(f"gfl-lab confirm EXPERIMENT.yaml --profile {experiment.profile}", language=None)
    if any(place for place, _ in ranking.rows):
        _plots(ranking)


def _head(ranking: Ranking) -> None:
    metric = naming.METRICS[ranking.search.metric]
    way = "high" if metric.higher_is_better else "low"
    space = "".join(f"<dt>{theme.text(dimension.key)}</dt><dd>{theme.text(dimension)}</dd>" for dimension in ranking.dimensions)
    theme.show(
        f'<div style="margin:.2rem 0 .5rem">{theme.counts_html(*experiments.suggestion_counts(ranking))}</div>'
        f'<div class="dim">A search for {way} {theme.text(metric.title)} over</div><dl>{space}</dl>'
    )


def _table(ranking: Ranking) -> str:
    head = [("rank", "num"), ("no.", "num"), *((key, "setting") for key in ranking.keys), (metric_label(ranking.search.metric), "num")]
    head += [("state", "name"), ("trial", "name")]
    lines = []
    for place, row in ranking.rows[:MOST_ROWS]:
        settings = [theme.text(naming.setting_text(row.settings[key])) for key in ranking.keys]
        there = f' <span class="small">at {row.epoch} of {row.epochs}</span>' if row.epochs and row.state != DONE else ""
        trial = f'<span class="mono">{theme.text(row.trial)}</span>'
        cells = [str(place or MISSING), str(row.number), *settings, _value(ranking, row), theme.state_html(row.state) + there, trial]
        css = "best" if place == 1 and row.state == DONE else "" if row.state == DONE else "dim"
        lines.append([f'<span class="{css}">{cell}</span>' if css else cell for cell in cells])
    return theme.table_html(head, lines)


def _value(ranking: Ranking, row: SuggestionRow) -> str:
    if row.value is None or row.state == FAILED:
        return MISSING
    shown = theme.text(format_number(ranking.search.metric, row.value))
    if row.state == DONE:
        return shown
    return shown + ("*" if row.state == STOPPED else ' <span class="small">so far</span>')


def _plots(ranking: Ranking) -> None:
    marks = theme.search_marks()
    theme.heading("How much each setting mattered", importance_text(ranking.importance))
    if isinstance(ranking.importance, Importance):
        figure = table_ranking_figures.importance(ranking.importance.shares, marks[DONE][0])
        st.plotly_chart(figure, key="importance", config=CONFIG, alt="Importance of each setting as a bar")
    valued = [row for place, row in ranking.rows if place]
    if not valued:
        return
    metric = naming.METRICS[ranking.search.metric].title
    theme.heading(f"{metric} over each setting", "One mark a trial, over all that is searched.")
    words = {DONE: "finished", STOPPED: "stopped early, at the value of its last epoch"}
    theme.show(
        '<div class="legend">'
        + "".join(f'<span><b style="color:{colour}">{sign}</b> {words[state]}</span>' for state, (colour, _, sign) in marks.items())
        + "</div>"
    )
    dimensions = ranking.dimensions
    columns = st.columns(3 if len(dimensions) in (3, 5, 6, 9) else 2, gap="medium")
    for index, dimension in enumerate(dimensions):
        figure = table_ranking_figures.over_setting(dimension, valued, ranking.search.metric, marks)
        with columns[index % len(columns)]:
            st.plotly_chart(figure, key=f"over-{dimension.key}", config=CONFIG, alt=f"{metric} over {dimension.key}, one mark a trial")
