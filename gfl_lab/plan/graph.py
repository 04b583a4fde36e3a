"""The trials of a plan as a graph: each behind the trials whose weights it needs. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gfl_lab.spec.choices import ROLES
from gfl_lab.spec.file_models import ExperimentFile, Profile
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.needs import SEED, Need, label, needs_of, without_needs
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import DataSpec, TrialSpec


@dataclass(frozen=True)
class Trial:
    """A trial in a plan: its id and what it computes."""

    id: str
    spec: TrialSpec


@dataclass(frozen=True)
class NeededTrial:
    """A trial that is no row of the table: others need its weights.

    Attributes:
        name: the settings in which it differs from the experiment's, and its data set if it is another one.
        roles: the settings that describe it, of ``spec.choices.ROLES``.
    """

    name: str
    roles: tuple[str, ...]
    trial: Trial


def needed_base(profile: Profile, experiment: ExperimentFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the layers of settings that hold for a needed trial where its description gives none: the profile's and the experiment's."""
    return without_needs(profile.settings), without_needs(experiment.overrides)


def base_settings(profile: Profile, experiment: ExperimentFile) -> Settings:
    """Return ``needed_base`` as complete settings; the defaults where it is none without the experiment's axes."""
    try:
        return resolve_settings(*needed_base(profile, experiment))
    except ValidationError:
        return Settings()


class Graph:
    """Makes trials together with those that they need, each once.

    Args:
        spec: makes the specification of a trial from settings, data, seed and the ids of what it needs.
        data: of the experiment. others: of the folders that needed trials name.
        base: returns the experiment's settings, for the names of needed trials.
    """

    def __init__(
        self, spec: Callable[[Settings, DataSpec, int, dict[str, str]], TrialSpec], data: DataSpec, others: Mapping[str, DataSpec], base: Callable[[], Settings]
    ) -> None:  # fmt: skip
        self._spec, self._data, self._others, self._base = spec, data, others, functools.cache(base)
        self._found: dict[str, tuple[str, list[str], Trial]] = {}  # each behind those that it needs

    def trial(self, settings: Settings, data: DataSpec, seed: int) -> Trial:
        """Return the trial with these settings; those that it needs are in the graph then."""
        needs = {need.role: self._need(need, data, seed).id for need in needs_of(settings)}
        spec = self._spec(settings, data, seed, needs)
        return Trial(spec.id, spec)

    def needed(self, rows: Collection[str]) -> tuple[NeededTrial, ...]:
        """Return the trials that others need and that are not among ``rows``, each behind those that it needs itself."""
        return tuple(
            NeededTrial(name, tuple(roles), trial) for trial_id, (name, roles, trial) in self._found.items() if trial_id not in rows
        )  # fmt: skip

    def _need(self, need: Need, data: DataSpec, seed: int) -> Trial:
        own = self._others[need.data] if need.data else data
        trial = self.trial(need.settings, own, seed if need.seed is None else need.seed)
        name = label(need, self._base()) + (f" on {own.name}" if own.digest != self._data.digest else "")
        roles = self._found.setdefault(trial.id, (name, [], trial))[1]
        if need.role not in roles:
            roles.append(need.role)
        return trial


def needed_first(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Return the trials, each once and behind those among them that it needs, in the given order where nothing is needed."""
    by_id = {trial.id: trial for trial in trials}
    found: dict[str, Trial] = {}

    def visit(trial: Trial) -> None:
        for needed in trial.spec.needs.values():
            if needed in by_id and needed not in found:
                visit(by_id[needed])
        found[trial.id] = trial

    for trial in by_id.values():
        if trial.id not in found:
            visit(trial)
    return tuple(found.values())


def required_by(trials: Iterable[Trial], graph: Sequence[Trial]) -> set[str]:
    """Return the ids of the trials of ``graph`` that ``trials`` need, and that those need, and so on."""
    by_id = {trial.id: trial for trial in graph}
    found: set[str] = set()
    open_ends = list(trials)
    while open_ends:
        for needed in open_ends.pop().spec.needs.values():
            if needed not in found and needed in by_id:
                found.add(needed)
                open_ends.append(by_id[needed])
    return found


def with_seed(trial: Trial, seed: int, graph: Mapping[str, Trial]) -> Trial:
    """Return the trial of another seed. The trials that it needs have that seed too, unless the settings give one.

    Args:
        graph: the trials that it needs, and those that they need, by id.
    """
    needs = {}
    for role, needed in trial.spec.needs.items():
        fixed = role in ROLES and SEED in getattr(trial.spec.settings, role)
        needs[role] = needed if fixed else with_seed(graph[needed], seed, graph).id
    spec = trial.spec.model_copy(update={"seed": seed, "needs": needs})
    return Trial(spec.id, spec)
