"""Trials that differ in test settings alone share one training: one of them trains, the others evaluate its final weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.integrity.file_checks import checkpoint_damage
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.plan.plan import Trial
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.trial import TrialSpec


class Trainings:
    """The finished trials of a tree whose weights other trials would train.

    Args:
        trials: that are to run. tree: where finished ones are looked for, whichever experiment they are of.
    """

    def __init__(self, trials: Sequence[Trial], tree: RunTree) -> None:
        self._tree = tree
        self._training = {trial.id: trial.spec.training_id for trial in trials}
        self._finished: dict[str, str] = {}  # by training
        for trial_id, training in finished_trainings(tree, [trial.spec for trial in trials]).items():
            if trial_id not in self._training:
                self._finished.setdefault(training, trial_id)

    def weights_of(self, trial: str) -> str:
        """Return the finished trial whose final weights serve this one; empty if there is none."""
        return self._finished.get(self._training.get(trial, ""), "")

    def evaluated(self) -> dict[str, str]:
        """Return the trials that are not trained themselves, each with the trial whose weights it evaluates, finished or still to run."""
        first = dict(self._finished)
        found = {}
        for trial, training in self._training.items():
            if first.setdefault(training, trial) != trial:
                found[trial] = first[training]
        return found

    def next_ones(self, waiting: Sequence[Trial], running: Iterable[str] = (), ended: Iterable[str] | None = None) -> list[Trial]:
        """Return the trials that can run now: one of each training, and all whose weights are there.

        Args:
            running: ids of trials that run already.
            ended: ids of those that have ended since the last call; None looks at all.
        """
        for trial_id in self._training if ended is None else self._training.keys() & set(ended):
            training = self._training[trial_id]
            if training not in self._finished and usable(self._tree.trial(trial_id)):
                self._finished[training] = trial_id
        begun = {self._training.get(trial, trial) for trial in running}
        ready = []
        for trial in waiting:
            training = self._training.get(trial.id, trial.id)  # of no other: its records are made again
            if training in self._finished or training not in begun:
                ready.append(trial)
                begun.add(training)
        return ready

    def jobs(self, jobs: Iterable[Job]) -> list[Job]:
        """Return the jobs, each with the trial whose weights it may evaluate."""
        found = []
        for job in jobs:
            donor = self.weights_of(job.path.rpartition("/")[2])
            found.append(replace(job, kwargs=job.kwargs | {"weights_from": donor}) if donor else job)
        return found


def finished_trainings(tree: RunTree, like: Sequence[TrialSpec]) -> dict[str, str]:
    """Return the training ids, by trial, of the finished trials with usable weights that share a training with one of ``like``."""
    wanted = {spec.training_id for spec in like}
    keys = {(spec.seed, spec.data.digest, spec.code, spec.weights_digest) for spec in like}
    found: dict[str, str] = {}
    for trial in tree.trials():
        with contextlib.suppress(StoreError, OSError):
            manifest = trial.manifest()
            if (manifest.seed, manifest.data.digest, manifest.code, manifest.weights_digest) not in keys:
                continue
            spec = manifest.spec
            if spec.id == trial.id and (training := spec.training_id) in wanted and usable(trial):
                found[trial.id] = training
    return found


def usable(trial: TrialDir) -> bool:
    """Return True if the trial has finished, and its last checkpoint looks whole."""
    try:
        return trial.state() is TrialState.DONE and not checkpoint_damage(trial.file(naming.LAST_CHECKPOINT))
    except (StoreError, OSError):
        return False


def needed_by_others(tree: RunTree) -> set[str]:
    """Return the finished trials whose weights an unfinished trial needs, or is going to evaluate.

    They are found by their manifests: a run writes those of all its trials before it starts the first one.
    """
    waiting: list[TrialSpec] = []
    for trial in tree.trials():
        with contextlib.suppress(StoreError, OSError):
            if trial.state() is not TrialState.DONE:
                waiting.append(trial.manifest().spec)
    needed = {trial for spec in waiting for trial in spec.needs.values()}
    return needed.union(finished_trainings(tree, waiting)) if waiting else needed
