"""The trials of an experiment that need each other: what a trial starts from, what it learns from, and which ones need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gfl_lab.results.rows import ExperimentRow, TrialRow, VariantRow
from gfl_lab.spec.choices import INIT_FROM, TEACHER

WORDS = {INIT_FROM: "starts from", TEACHER: "learns from"}
"""Use that a trial makes of the weights of another one, by the setting that describes that one."""


@dataclass(frozen=True)
class Link:
    """A trial that another one needs.

    Attributes:
        words: what is done with its weights, of ``WORDS``.
        variant: what it is called. trial: its row; None if the plan has no such trial.
        id: its id.
    """

    words: str
    variant: str
    trial: TrialRow | None
    id: str


def links(experiment: ExperimentRow, trial: TrialRow) -> tuple[Link, ...]:
    """Return the trials whose weights a trial needs."""
    if not trial.needs:
        return ()
    known = _by_id(experiment)
    return tuple(Link(WORDS.get(role, role), *known.get(needed, ("", None)), needed) for role, needed in trial.needs.items())


def users(experiment: ExperimentRow, trial: TrialRow) -> tuple[tuple[VariantRow, TrialRow], ...]:
    """Return the trials that need a trial, each with its variant."""
    return tuple((variant, other) for variant, other in _pairs(experiment) if trial.id in other.needs.values())


def grouped(experiment: ExperimentRow) -> tuple[VariantRow, ...]:
    """Return the trials that others need, those of one name and the same settings as one variant with a trial for each seed."""
    found: list[VariantRow] = []
    for row in experiment.needed:
        index = next((i for i, other in enumerate(found) if (other.name, other.settings) == (row.name, row.settings)), None)
        if index is None:
            found.append(row)
        else:
            found[index] = replace(found[index], trials=(*found[index].trials, *row.trials))
    return tuple(found)


def sources(experiment: ExperimentRow, variant: VariantRow) -> tuple[tuple[str, str, tuple[TrialRow, ...]], ...]:
    """Return what the trials of a variant need: the words of ``Link``, the name, and the needed trials, each once."""
    found: dict[tuple[str, str], dict[str, TrialRow]] = {}
    for link in (link for trial in variant.trials for link in links(experiment, trial)):
        them = found.setdefault((link.words, link.variant or link.id), {})
        if link.trial:
            them[link.id] = link.trial
    return tuple((words, name, tuple(them.values())) for (words, name), them in found.items())


def _pairs(experiment: ExperimentRow) -> Iterator[tuple[VariantRow, TrialRow]]:
    return ((variant, trial) for variant in (*experiment.needed, *experiment.variants) for trial in variant.trials)


def _by_id(experiment: ExperimentRow) -> dict[str, tuple[str, TrialRow | None]]:
    found: dict[str, tuple[str, TrialRow | None]] = {}
    for variant, trial in _pairs(experiment):
        found.setdefault(trial.id, (variant.name, trial))
    return found
