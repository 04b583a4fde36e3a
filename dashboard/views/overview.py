"""Overview: every experiment with its question, the verdict on each variant, and where its trials stand; of a search the best."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard import experiments, live, pages, state, theme
from dashboard.figures import metric_label
from dashboard.reader import reader
from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.report import claim_sentences as sentences
from gfl_lab.report import needs
from gfl_lab.report.comparison import Comparison
from gfl_lab.report.formatting import MISSING, format_number, verdict_text
from gfl_lab.report.ranking import Ranking
from gfl_lab.results.rows import ExperimentRow, TrialRow, TrialState, VariantRow
from gfl_lab.results.search import DONE, FAILED, STOPPED, SuggestionRow

MOST_VARIANTS = 12
MOST_BEST = 5
PER_PAGE = 20
_GOING_ON = (TrialState.RUNNING, TrialState.INTERRUPTED)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ap(variant: VariantRow) -> str:
    final = [trial.metrics["AP"] for trial in variant.trials if "AP" in trial.metrics]
    if final:
        return f"{_mean(final):.1f}"
    latest = [trial.latest["AP"] for trial in variant.trials if "AP" in trial.latest and trial.state in _GOING_ON]
    return f'<span class="dim">{_mean(latest):.1f} so far</span>' if latest else '<span class="dim">–</span>'


def _states(variant: VariantRow) -> str:
    if len(variant.trials) == 1:
        trial = variant.trials[0]
        there = trial.epochs and trial.state not in (TrialState.DONE, TrialState.PLANNED)
        return theme.state_html(trial.state) + (f' <span class="dim">epoch {trial.epoch} of {trial.epochs}</span>' if there else "")
    return theme.counts_html({state: sum(trial.state is state for trial in variant.trials) for state in TrialState})


def _found(trials: Sequence[TrialRow]) -> str:
    """Return the states of needed trials in a line, as HTML."""
    if len(trials) == 1:
        return theme.state_html(trials[0].state)
    counts = {state: sum(trial.state is state for trial in trials) for state in TrialState}
    return " ".join(theme.state_html(state, count) for state, count in counts.items() if count) or "not in the plan"


def _needs(experiment: ExperimentRow, variant: VariantRow) -> str:
    """Return what the trials of a variant start from or learn from, with its state, as HTML."""
    return "".join(
        f'<div class="dim small">{words} {theme.text(name)}: {_found(trials)}</div>'
        for words, name, trials in needs.sources(experiment, variant)
    )


def _name(experiment: ExperimentRow, variant: VariantRow, colour: str = "") -> str:
    name = (theme.swatch(colour) if colour else "") + theme.text(variant.name)
    return name + (' <span class="dim small">baseline</span>' if variant.baseline else "") + _needs(experiment, variant)


def _progress(variant: VariantRow) -> str:
    """Return where the trials of a variant stand, as HTML: with bars until all have finished."""
    bars = "" if len(variant.done) == len(variant.trials) else f'<div class="bars">{theme.bars_html(variant.trials)}</div>'
    return _states(variant) + bars


def _row(experiment: ExperimentRow, variant: VariantRow, found: Comparison | None, colour: str) -> list[str]:
    cells = [_name(experiment, variant, colour), _ap(variant)]
    if found is None:
        cells += ["", ""] if variant.baseline else [f'<span class="dim">{MISSING}</span>', ""]
    else:
        interval = theme.text(sentences.interval_text(found).removeprefix("95% interval "))
        cells += [
            f'{sentences.difference(found)} <span class="pm">{interval}</span>',
            theme.verdict_html(found.verdict, verdict_text(found)),
        ]
    return [*cells, _progress(variant)]


def _variants(experiment: ExperimentRow) -> None:
    palette = theme.colours(experiment)
    shown = experiment.variants[:MOST_VARIANTS]
    found = reader().comparisons(experiment)
    baseline = experiment.baseline.name if experiment.baseline else ""
    minus = f"difference to {baseline}, 95% interval" if baseline else ""
    head = [
        ("variant", "name c-name"),
        ("AP", "num c-ap"),
        (minus, "c-minus"),
        ("verdict" if baseline else "", "c-verdict"),
        ("trials", "c-trials"),
    ]
    theme.show(theme.table_html(head, [_row(experiment, each, found.get(each.name), palette[each.name]) for each in shown]))
    if early := sentences.preliminary(list(found.values())):
        theme.show(f'<div class="dim small">{theme.text(early)}</div>')
    if len(shown) < len(experiment.variants):
        theme.show(f'<div class="dim small">and {len(experiment.variants) - len(shown)} more variants in the table</div>')
    if needed := needs.grouped(experiment):
        head = [("trials that others need", "name c-name"), ("AP", "num c-ap"), ("trials", "")]
        lines = [[_name(experiment, row), _ap(row), _progress(row)] for row in needed[:MOST_VARIANTS]]
        theme.show(theme.table_html(head, lines))
        if len(needed) > MOST_VARIANTS:
            theme.show(f'<div class="dim small">and {len(needed) - MOST_VARIANTS} more on the page Trials</div>')


def _suggestion(experiment: ExperimentRow, found: Ranking, place: int | None, row: SuggestionRow) -> list[str]:
    trial = next((trial for trial in experiment.trials if trial.id == row.trial), None)
    value = MISSING
    if row.value is not None and row.state != FAILED:
        value = theme.text(format_number(found.search.metric, row.value))
        value = value if row.state == DONE else f'<span class="dim">{value} {"then" if row.state == STOPPED else "so far"}</span>'
    there = f' <span class="dim">epoch {row.epoch} of {row.epochs}</span>' if row.epochs and row.state != DONE else ""
    settings = naming.variant_name({key: row.settings[key] for key in found.keys})
    bar = theme.bar_html(trial, row.state) if trial else ""
    return [str(place or MISSING), theme.text(settings), f'<div class="bars">{bar}</div>', theme.state_html(row.state) + there, value]


def _best(experiment: ExperimentRow, found: Ranking) -> None:
    shown = found.rows[:MOST_BEST]
    if not shown:
        return
    head = [
        ("rank", "num"),
        ("settings", "settings"),
        ("progress", "third"),
        ("trial", ""),
        (metric_label(found.search.metric), "num"),
    ]
    theme.show(theme.table_html(head, [_suggestion(experiment, found, place, row) for place, row in shown]))
    if len(shown) < len(found.rows):
        theme.show(f'<div class="dim small">and {len(found.rows) - len(shown)} more in the ranked table</div>')


def _experiment(experiment: ExperimentRow) -> None:
    counts, found, problem = theme.counts_html(experiment.counts), None, ""
    if experiment.kind == experiments.SEARCH:
        try:
            found = reader().ranking(experiment)
            counts = theme.counts_html(*experiments.suggestion_counts(found))
        except StoreError as error:
            problem, counts = str(error), ""
    with st.container(border=True):
        newest = max((trial.updated for trial in experiment.all_trials), default=0.0)
        facts = " · ".join(
            part
            for part in (
                experiment.name,
                f"profile {experiment.profile}" + (f" ({experiment.profile_title})" if experiment.profile_title else ""),
                live.data_line(experiment),
                f"last update {experiments.age(newest)}" if newest else "",
            )
            if part
        )
        theme.show(
            f'<h2 style="margin-top:0">{theme.text(experiment.question or experiment.name)}</h2>'
            f'<div class="dim small">{theme.text(facts)}</div><div style="margin:.45rem 0 .2rem">{counts}</div>'
        )
        if problem:
            theme.alert(problem)
        elif found is not None:
            _best(experiment, found)
        else:
            _variants(experiment)
        links = st.container(horizontal=True, gap="medium")
        query = {state.EXPERIMENT: state.of(experiment)}
        for entry in pages.PAGES:
            if entry.of_experiment:
                label = "Ranked table" if entry.name == "table" and experiment.kind == experiments.SEARCH else entry.title
                links.page_link(str(entry.file), label=label, query_params=query)


def _from_the_first() -> None:
    state.put(**{"from": "0"})


def _choice() -> tuple[str, int]:
    """Return the text to search for and the first experiment to show; the choices appear if there are more than a page holds."""
    if len(experiments.names()) <= PER_PAGE:
        return "", 0
    with st.container(horizontal=True, gap="medium"):
        query = state.typed("Find", "find", width=340, placeholder="in names, profiles and questions", on_change=_from_the_first)
        many = len(experiments.matching(query))
        starts = [str(start) for start in range(0, max(many, 1), PER_PAGE)]
        shown = {start: f"{int(start) + 1} to {min(int(start) + PER_PAGE, many)} of {many}" if many else "none" for start in starts}
        return query, int(state.choose("Experiments", "from", starts, names=shown.__getitem__, width=220))


def _page(query: str, start: int) -> tuple[list[ExperimentRow], list[str]]:
    """Return the experiments from the ``start``-th on, those that run first; and the problems of unreadable ones."""
    rows, problems = [], []
    for name in experiments.live_first(experiments.matching(query))[start : start + PER_PAGE]:
        try:
            rows.append(reader().store.experiment(*name))
        except StoreError as error:
            problems.append(str(error))
    return sorted(rows, key=lambda row: not experiments.is_live(row)), problems


theme.header("Experiments")
if not experiments.names():
    theme.empty(
        "Nothing has been run yet",
        "An experiment appears here as soon as it is planned, and is followed while it trains. "
        "The first one takes a few minutes on two CPU cores:",
        "gfl-lab run experiments/table3_qfl_dfl.yaml",
    )
else:
    query, start = _choice()
    read = [_page(query, start)]
    running = experiments.is_live(*read[0][0])

    @st.fragment(run_every=live.EVERY_S if running else None)
    def _list() -> None:
        rows, problems = read.pop() if read else _page(query, start)
        for problem in problems:
            theme.alert(problem)
        if not rows and not problems:
            theme.empty("No experiment has these words", "They are looked for in names, profiles and questions.")
        for experiment in rows:
            _experiment(experiment)
        if running and not experiments.is_live(*rows):
            st.rerun()

    _list()
