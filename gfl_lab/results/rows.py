"""Frozen rows, without links back to files. `report` computes on these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gfl_lab import naming
from gfl_lab.records.plan import Design as Design
from gfl_lab.records.plan import Extension as Extension
from gfl_lab.records.plan import Reference as Reference
from gfl_lab.records.result import Failure as Failure
from gfl_lab.rundir import TrialState as TrialState
from gfl_lab.spec.choices import IMPORTED, OWN


@dataclass(frozen=True)
class TrialRow:
    """One trial as it stands now.

    ``metrics`` holds final numbers only (AP 0 to 100), empty until it is done; ``latest`` those of the last evaluation
    so far. ``seconds`` is wall time in all; ``timings`` its parts. ``updated`` is the unix time of the last sign of
    life, 0 when there is none. ``step`` of ``steps`` and ``epoch`` of ``epochs`` count from 1. ``parts`` is above 1 for a
    finished trial that ran out of memory: the steps after ``parts_since`` were done in parts. ``needs`` holds the ids of the
    trials whose weights it needs, by the setting that describes each.
    """

    id: str
    seed: int
    state: TrialState
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    device: str = ""
    latest: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    updated: float = 0.0
    peak_memory_mib: float = 0.0
    parts: int = 1
    parts_since: int = 0
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """Share of its training steps that are done, 0 to 1; 1 for a finished trial."""
        if self.state is TrialState.DONE:
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True)
class Resampled:
    """A trial's AP on bootstrap samples of its validation images; samples of two trials over the same images are the same.

    ``values`` are (R,) by metric, of ``coco_ap.RESAMPLED``; ``images`` their number.
    """

    values: Mapping[str, np.ndarray]
    images: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return sum(array.nbytes for array in self.values.values())


@dataclass(frozen=True)
class Logged:
    """One metric of one trial as it was logged, in the file's order.

    Attributes:
        step, epoch: (N,) int64, from 1; a step stands twice where a resume repeated it.
        value: (N,) float64; NaN or infinite where training wrote so.
    """

    variant: str
    seed: int
    trial: str
    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Recorded:
    """The records of one trial: everything that its numbers follow from.

    ``components`` are the user's files by name; ``environment`` is empty until it is done, and for trials of versions before it
    was kept.
    """

    id: str
    state: TrialState
    seed: int
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    code: int
    weights_digest: str
    components: Mapping[str, str]
    environment: Mapping[str, Any]
    metrics: Mapping[str, float]
    needs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantRow:
    """One cell of an experiment: its axes' values, all its settings, and its trials by seed."""

    name: str
    axes: Mapping[str, Any]
    settings: Mapping[str, Any]
    baseline: bool
    reference: Reference | None
    trials: tuple[TrialRow, ...]

    @property
    def done(self) -> tuple[TrialRow, ...]:
        """Its finished trials."""
        return tuple(trial for trial in self.trials if trial.state is TrialState.DONE)

    @property
    def failed(self) -> bool:
        """True if one of its trials has failed."""
        return any(trial.state is TrialState.FAILED for trial in self.trials)

    @property
    def is_own_detector(self) -> bool:
        """True if it is of the GFL family, whose heads give distances or distributions of box sides. Few of mmdet's detectors do."""
        return bool(self.settings.get("detector", OWN) == OWN)


@dataclass(frozen=True)
class DataRow:
    """The data set of an experiment."""

    name: str
    digest: str
    classes: tuple[str, ...]
    train_images: int
    val_images: int
    truth: bool

    @property
    def text(self) -> str:
        """The data set in a line: its name, images and classes."""
        classes = "1 class" if len(self.classes) == 1 else f"{len(self.classes)} classes"
        images = (
            f"{self.train_images} training and {self.val_images} validation images" if self.train_images else f"{self.val_images} images"
        )
        return f"{self.name}: {images}, {classes}"


@dataclass(frozen=True)
class Outline:
    """What a plan alone says of an experiment: its kind, the digest of its data, and the names of its variants."""

    name: str
    profile: str
    kind: str
    data: str
    variants: tuple[str, ...]


@dataclass(frozen=True)
class ExperimentRow:
    """An experiment under a profile, with the state of every trial."""

    name: str
    profile: str
    question: str
    kind: str
    source: str
    created: str
    axes: Mapping[str, tuple[Any, ...]]
    metrics: tuple[str, ...]
    data: DataRow
    variants: tuple[VariantRow, ...]
    profile_title: str = ""
    declared: frozenset[str] = frozenset()
    """Settings that the axes or variants vary, with those that follow from them."""
    needed: tuple[VariantRow, ...] = ()
    """Trials that are no rows of the table: others need their weights. One row each."""
    min_effect: float | None = None
    """The smallest difference in AP that matters; None where the experiment says nothing of it."""
    notes: tuple[str, ...] = ()
    """Sentences that belong under its table."""
    design: Design | None = None
    """Looks at the table that were fixed beforehand; None where its seeds were."""
    extensions: tuple[Extension, ...] = ()
    """Seeds and variants that were added when there were verdicts already."""

    @property
    def is_imported(self) -> bool:
        """Return True if it is made of detection files of other projects: nothing was trained, and no box has a distribution."""
        return self.kind == IMPORTED

    def run_command(self, seeds: Sequence[int] = ()) -> str:
        """Return the command that trains what is missing, with the options that decide which trials there are.

        Args:
            seeds: of the table; all that are planned by default. The folder of a data set is not on record, so ``PATH`` stands for it.
        """
        command = f"gfl-lab run {self.name} --profile {self.profile}"
        command += "" if self.data.name == naming.GENERATED_DATA else " --data PATH"
        if self.kind == "search":
            return command
        if self.design is not None:
            return f"{command} --until-resolved {self.design.min_effect:g} --max-seeds {self.design.looks[-1]}"
        return f"{command} --seeds {seeds_option(seeds or sorted({trial.seed for trial in self.trials}))}"

    @property
    def baseline(self) -> VariantRow | None:
        """The variant that the others are compared with, if the experiment names one."""
        return next((variant for variant in self.variants if variant.baseline), None)

    @property
    def trials(self) -> tuple[TrialRow, ...]:
        """All trials, variant by variant."""
        return tuple(trial for variant in self.variants for trial in variant.trials)

    @property
    def all_trials(self) -> tuple[TrialRow, ...]:
        """Every trial: those that others need, and those of the table."""
        return (*(trial for needed in self.needed for trial in needed.trials), *self.trials)

    @property
    def counts(self) -> dict[TrialState, int]:
        """Number of trials in each state, with every state as a key."""
        trials = self.trials
        return {state: sum(trial.state is state for trial in trials) for state in TrialState}

    @property
    def progress(self) -> float:
        """Mean progress of its trials, 0 to 1."""
        trials = self.trials
        return sum(trial.progress for trial in trials) / len(trials) if trials else 0.0


def seeds_option(seeds: Sequence[int]) -> str:
    """Return seeds as ``--seeds`` takes them: ``0,1,2``, or ``0..9`` for many in a row."""
    in_a_row = len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}..{seeds[-1]}" if in_a_row else ",".join(map(str, seeds))
