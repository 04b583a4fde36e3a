"""Overview: every experiment with its question and where it stands."""

from __future__ import annotations

import streamlit as st

from dashboard import data, live, look, state
from gfl_lab.results.rows import ExperimentRow, TrialState, VariantRow

MOST_VARIANTS = 12
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
        return look.state_html(trial.state) + (f' <span class="dim">epoch {trial.epoch} of {trial.epochs}</span>' if there else "")
    return look.counts_html({state: sum(trial.state is state for trial in variant.trials) for state in TrialState})


def _row(variant: VariantRow, colour: str) -> list[str]:
    name = f"{look.swatch(colour)}{look.text(variant.name)}" + (' <span class="dim small">baseline</span>' if variant.baseline else "")
    bars = "".join(look.bar_html(trial) for trial in variant.trials)
    return [name, f'<div class="bars">{bars}</div>', _states(variant), _ap(variant)]


def _experiment(experiment: ExperimentRow) -> None:
    counts = experiment.counts
    with st.container(border=True):
        newest = max((trial.updated for trial in experiment.trials), default=0.0)
        told = " · ".join(
            part
            for part in (
                experiment.name,
                f"profile {experiment.profile}" + (f" ({experiment.profile_title})" if experiment.profile_title else ""),
                live.data_line(experiment),
                f"last sign of life {data.age(newest)}" if newest else "",
            )
            if part
        )
        look.show(
            f'<h2 style="margin-top:0">{look.text(experiment.question or experiment.name)}</h2>'
            f'<div class="dim small">{look.text(told)}</div><div style="margin:.45rem 0 .2rem">{look.counts_html(counts)}</div>'
        )
        palette = look.colours(experiment)
        shown = experiment.variants[:MOST_VARIANTS]
        progress = "progress, one bar a seed" if any(len(variant.trials) > 1 for variant in shown) else "progress"
        head = [("variant", "name"), (progress, "half"), ("trials", ""), ("AP", "num")]
        look.show(look.table_html(head, [_row(variant, palette[variant.name]) for variant in shown]))
        if len(shown) < len(experiment.variants):
            look.show(f'<div class="dim small">and {len(experiment.variants) - len(shown)} more variants in the table</div>')
        links = st.container(horizontal=True, gap="medium")
        query = {state.EXPERIMENT: state.of(experiment)}
        for page, label in (("table", "AP table"), ("curves", "Curves"), ("boxes", "Box distributions"), ("trials", "Trials and failures")):
            links.page_link(f"views/{page}.py", label=label, query_params=query)


look.header("Experiments")
if not data.store().names():
    look.empty(
        "Nothing has been run yet",
        "An experiment appears here as soon as it is planned, and is followed while it trains. "
        "The first one takes a few minutes on two CPU cores:",
        "gfl-lab run experiments/table3_qfl_dfl.yaml",
    )
else:
    running = data.is_live(*data.store().experiments())

    @st.fragment(run_every=live.EVERY_S if running else None)
    def _list() -> None:
        experiments = data.store().experiments()
        for problem in data.store().problems():
            look.alert(problem)
        for experiment in sorted(experiments, key=lambda e: (not data.is_live(e), e.name, e.profile)):
            _experiment(experiment)
        if running and not data.is_live(*experiments):
            st.rerun()

    _list()
