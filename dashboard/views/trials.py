"""Trials: state, time and place of each; opened, its settings, its difference to the baseline, why it failed, and the end of its log."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from dashboard import clicks, experiments, live, state, theme
from dashboard.reader import reader
from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.report import needs
from gfl_lab.report.formatting import format_number, metric_title
from gfl_lab.report.trial_differences import number_differences, same_seed, setting_differences
from gfl_lab.results.rows import ExperimentRow, TrialRow, TrialState, VariantRow
from gfl_lab.results.search import STOPPED

KINDS = {
    "non_finite_loss": "the loss became NaN or infinite",
    "out_of_memory": "out of memory",
    "bad_data": "data could not be read",
    "lost_process": "the process ended unexpectedly",
    "disk_full": "the disk is full",
    "needed_trial": "a trial that it needs has failed, or has lost its weights",
    "error": "an error",
    "unreadable": "its files cannot be read",
}
LOG_LINES = 40
_PHASES = ("setup", "train", "eval", "latency", "distributions")
_ORDER = (TrialState.FAILED, TrialState.RUNNING, TrialState.INTERRUPTED, TrialState.PLANNED, STOPPED, TrialState.DONE)
_REMARKS = {
    TrialState.INTERRUPTED: "continues from its checkpoint with the same command",
    STOPPED: "stopped by the search: other trials were better",
}


def _states(experiment: ExperimentRow) -> tuple[dict[str, str], str]:
    """Return the state of each trial, and the problems of a search's ledger."""
    try:
        return experiments.states(experiment), ""
    except StoreError as error:
        return {trial.id: trial.state.value for trial in experiment.all_trials}, str(error)


def _why(trial: TrialRow, state: str) -> str:
    if trial.failure is None:
        return f'<span class="dim">{_REMARKS[state]}</span>' if state in _REMARKS else ""
    at = f", step {trial.failure.step}" if trial.failure.step else ""
    return theme.text(KINDS.get(trial.failure.kind, trial.failure.kind) + at)


def _link(link: needs.Link) -> str:
    """Return what a trial needs, and its state, as HTML."""
    if link.trial is None:
        return f'<span class="mono">{theme.text(link.id)}</span> <span class="dim">not in the plan</span>'
    return f"{theme.text(link.variant)}, seed {link.trial.seed} {theme.state_html(link.trial.state)}"


def _name(variant: VariantRow, trial: TrialRow, colour: str = "") -> str:
    """Return the name of a trial's variant as a button that opens the trial."""
    put = clicks.put_attribute(trial=trial.id)
    swatch = theme.swatch(colour) if colour else ""
    return f'<span class="opens" title="open this trial" data-scroll="one-trial" {put}>{swatch}{theme.text(variant.name)}</span>'


def _row(experiment: ExperimentRow, name: str, trial: TrialRow, state: str) -> list[str]:
    found = [f'<span class="dim">{link.words}</span> {_link(link)}' for link in needs.links(experiment, trial)]
    return [
        name,
        str(trial.seed),
        theme.state_html(state),
        theme.bar_html(trial, state),
        f"{trial.epoch} of {trial.epochs}" if trial.epochs else "–",
        theme.duration(trial.seconds),
        theme.text(trial.device or "–"),
        "<br>".join(filter(None, (_why(trial, state), *found))),
    ]


def _list(experiment: ExperimentRow) -> None:
    palette = theme.colours(experiment)
    states, problem = _states(experiment)
    if problem:
        theme.alert(problem)
    theme.show(theme.counts_html(Counter(states[trial] for trial in {trial.id for trial in experiment.trials})))
    head = [
        ("variant", "name"),
        ("seed", "num"),
        ("state", "name"),
        ("progress", ""),
        ("epoch", "num"),
        ("time", "num"),
        ("device", "name"),
        ("remark", "remark"),
    ]
    rows = [
        _row(experiment, _name(variant, trial, palette[variant.name]), trial, states[trial.id])
        for variant in experiment.variants
        for trial in variant.trials
    ]
    theme.show(theme.table_html(head, rows))
    if experiment.needed:
        theme.heading("Trials that others need", "They are trained for their weights, and are no rows of the table.")
        rows = [
            _row(experiment, _name(variant, trial), trial, states[trial.id]) for variant in experiment.needed for trial in variant.trials
        ]
        theme.show(theme.table_html([("trial", "name"), *head[1:]], rows))


def _all_variants(experiment: ExperimentRow) -> tuple[VariantRow, ...]:
    """Return the variants of the table, and the trials that others need."""
    return (*experiment.variants, *experiment.needed)


def _facts(experiment: ExperimentRow, variant: VariantRow, trial: TrialRow) -> list[tuple[str, str]]:
    """Return what is known of a trial, as (name, HTML)."""
    facts = [("state", theme.state_html(_states(experiment)[0][trial.id])), ("trial", f'<span class="mono">{theme.text(trial.id)}</span>')]
    facts.append(("variant", f"{theme.text(variant.name)}, seed {trial.seed}"))
    facts += [(link.words, _link(link)) for link in needs.links(experiment, trial)]
    if users := needs.users(experiment, trial):
        facts.append(("needed by", "<br>".join(f"{theme.text(v.name)}, seed {t.seed} {theme.state_html(t.state)}" for v, t in users)))
    if trial.steps:
        facts.append(("steps", f"{trial.step} of {trial.steps} (epoch {trial.epoch} of {trial.epochs})"))
    if trial.device:
        facts.append(("device", theme.text(trial.device)))
    if trial.peak_memory_mib:
        facts.append(("peak memory", f"{trial.peak_memory_mib:.0f} MiB"))
    if trial.seconds:
        known = [*(p for p in _PHASES if p in trial.timings), *sorted(set(trial.timings) - set(_PHASES))]
        parts = ", ".join(f"{theme.text(phase)} {theme.duration(trial.timings[phase])}" for phase in known if trial.timings[phase] >= 0.5)
        facts.append(("time", theme.duration(trial.seconds) + (f' <span class="dim">({parts})</span>' if parts else "")))
    if trial.updated and trial.state is not TrialState.DONE:
        facts.append(("last update", experiments.age(trial.updated)))
    return facts


def _log(trial: TrialRow) -> None:
    """Draw the end of a trial's log."""
    try:
        log = reader().store.log_tail(trial.id, LOG_LINES)
    except StoreError as error:
        theme.alert(str(error))
        return
    if log:
        theme.show(f'<div class="dim small" style="margin-top:.4rem">The last {LOG_LINES} lines of its log</div>')
        st.code(theme.redact(log), language=None, wrap_lines=True, height=340)
    elif trial.state is TrialState.PLANNED:
        theme.empty("Not started", "The same command runs it.")
    else:
        theme.empty("No log", "The trial has written no log.")


def _detail(experiment: ExperimentRow, trial_id: str) -> None:
    variant, trial = next((v, t) for v in _all_variants(experiment) for t in v.trials if t.id == trial_id)
    if failure := trial.failure:
        at = f" at step {failure.step}, epoch {failure.epoch}" if failure.step else ""
        theme.show(
            f'<div class="alert"><b>{theme.text(KINDS.get(failure.kind, failure.kind))}{at}</b>'
            f"<br>{theme.text(theme.redact(failure.reason))}</div>"
        )
    facts = _facts(experiment, variant, trial)
    theme.show("<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>")
    _against_baseline(experiment, variant, trial)
    _settings(variant)
    _commands(experiment, trial)
    _log(trial)


def _against_baseline(experiment: ExperimentRow, variant: VariantRow, trial: TrialRow) -> None:
    """Draw in what the trial differs from the baseline: settings, and numbers of the same seed."""
    baseline = experiment.baseline
    if baseline is None or variant.name == baseline.name:
        return
    lines = [[theme.text(key), theme.text(own), theme.text(other)] for key, (own, other) in setting_differences(variant, baseline).items()]
    if lines:
        theme.show("<b>Settings that differ from the baseline</b>")
        theme.show(theme.table_html([("setting", "name"), ("this trial", "setting"), (baseline.name, "setting")], lines))
    other = same_seed(baseline, trial)
    if other is not None and (found := number_differences(trial, other)):
        head = [("", "name"), *((metric_title(key), "num") for key in found)]
        rows = [["this trial", *(format_number(key, trial.metrics[key]) for key in found)]]
        rows.append([f"{theme.text(baseline.name)}, seed {other.seed}", *(format_number(key, other.metrics[key]) for key in found)])
        rows.append(["difference", *(format_number(key, value, signed=True) for key, value in found.items())])
        theme.show("<b>Numbers beside the baseline's trial of the same seed</b> <span class='dim'>one seed is no verdict</span>")
        theme.show(theme.table_html(head, rows))


def _settings(variant: VariantRow) -> None:
    with st.expander("All settings"):
        lines = [[theme.text(key), theme.text(naming.setting_text(value))] for key, value in sorted(variant.settings.items())]
        theme.show(theme.table_html([("setting", "name"), ("value", "setting")], lines))


def _commands(experiment: ExperimentRow, trial: TrialRow) -> None:
    """Draw the commands for this trial, to copy."""
    if trial.state is TrialState.DONE:
        commands = [] if experiment.is_imported else [f"gfl-lab predict {trial.id} IMAGE.jpg"]
        if other := same_seed(experiment.baseline, trial):
            commands.append(f"gfl-lab diff {other.id} {trial.id}")
    else:
        commands = [experiment.run_command()]
    if commands:
        st.code("\n".join(commands), language=None)


experiment = live.current()
theme.header("Trials and failures", under=live.data_line(experiment))
live.follow(_list)
states, _ = _states(experiment)
ordered = sorted(((v, t) for v in _all_variants(experiment) for t in v.trials), key=lambda pair: _ORDER.index(states[pair[1].id]))
if ordered:
    theme.show('<span id="one-trial"></span>')
    theme.heading("One trial")
    titles = {t.id: f"{v.name}, seed {t.seed}, {theme.state_title(states[t.id])}" for v, t in ordered}
    chosen = state.choose(
        "Trial",
        "trial",
        list(titles),
        names=titles.__getitem__,
        label_visibility="collapsed",
        width=760 if experiment.kind == experiments.SEARCH else 420,
    )
    live.follow(lambda row: _detail(row, chosen))
else:
    theme.empty("No trials", "The plan of this experiment holds none.")
