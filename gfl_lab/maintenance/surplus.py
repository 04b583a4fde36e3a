"""Everything that a run tree can do without, as `gfl-lab gc` lists it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.orchestrate import orphans
from gfl_lab.orchestrate.trainings import needed_by_others
from gfl_lab.records.plan import read_plan
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.wording import plural

DAMAGED_FILES = "*.damaged"


class Kind(StrEnum):
    """A kind of surplus, as it is printed."""

    UNREFERENCED = "unreferenced trial"
    LAST_CHECKPOINT = "last checkpoint"
    TRAINING_STATE = "training state"
    PREVIOUS_CHECKPOINT = "previous checkpoint"
    DAMAGED = "damaged, set aside"
    HALF_WRITTEN = "half-written"
    FORMER_PLAN = "plan over former data"
    DEAD_SESSION = "dead Ray session"


@dataclass(frozen=True)
class Item:
    """Something that can be deleted.

    Attributes:
        size: in bytes; of TRAINING_STATE only a part of the file.
        trial: id of the trial that it belongs to, or empty.
    """

    kind: Kind
    path: Path
    size: int
    trial: str = ""


def find_surplus(tree: RunTree, *, checkpoints: bool, unreferenced: bool, say: Callable[[str], None]) -> list[Item]:
    """Return what can be deleted, in the order in which to delete it.

    Args:
        checkpoints: also the last checkpoints of finished trials.
        unreferenced: also trials that no plan refers to, and plans over former data.
        say: receives a line for each thing that is left alone.

    Raises:
        StoreError: a file of an experiment cannot be read, so it is not known which trials it refers to.
    """
    search = _Search(tree, checkpoints, _referenced(tree) if unreferenced else None, say)
    # A folder goes before a checkpoint is written without its training state, which needs room for a moment.
    return sorted(search.items(), key=lambda item: item.kind is Kind.TRAINING_STATE)


@dataclass
class _Search:
    """One look through a run tree. ``referenced``: ids of the trials that plans refer to, or None to keep all others too."""

    tree: RunTree
    checkpoints: bool
    referenced: set[str] | None
    say: Callable[[str], None]
    needed: set[str] = field(default_factory=set)

    def items(self) -> Iterator[Item]:
        if self.referenced is not None or self.checkpoints:
            self.needed = needed_by_others(self.tree)
        if self.needed:
            self.say(
                f"note: the weights of {plural(len(self.needed), 'finished trial')} stay: unfinished trials need them, or are going to evaluate them"
            )
        trials = self._trials()
        for trial in trials:
            yield from self._of_trial(trial)
        dropped = [trial.path for trial in trials if self._is_unreferenced(trial)]
        for path in orphans.temporary_files(self.tree):
            if not any(path.is_relative_to(folder) for folder in dropped):
                yield Item(Kind.HALF_WRITTEN, path, _size(path))
        if self.referenced is not None:
            yield from self._former_plans()
        for path in orphans.stale_ray_sessions():
            yield Item(Kind.DEAD_SESSION, path, _size(path))

    def _trials(self) -> list[TrialDir]:
        folder = self.tree.root / naming.TRIALS_DIR
        if folder.is_symlink():
            self.say(f"note: {folder} is a link, which is not followed")
            return []
        return [trial for trial in self.tree.trials() if not trial.path.is_symlink()]

    def _is_unreferenced(self, trial: TrialDir) -> bool:
        return self.referenced is not None and trial.id not in self.referenced and trial.id not in self.needed

    def _of_trial(self, trial: TrialDir) -> Iterator[Item]:
        try:
            state = trial.state()
        except StoreError as error:
            self.say(f"note: trial {trial.id} is left alone: {error.problems[0].message}")
            return
        if state is TrialState.RUNNING:
            return
        if self._is_unreferenced(trial):
            yield Item(Kind.UNREFERENCED, trial.path, _size(trial.path), trial.id)
            return
        if state is TrialState.DONE:
            yield from self._checkpoints(trial)
        for path in filter(_is_file, sorted(trial.path.glob(DAMAGED_FILES))):
            yield Item(Kind.DAMAGED, path, _size(path), trial.id)

    def _checkpoints(self, trial: TrialDir) -> Iterator[Item]:
        last, previous = trial.file(naming.LAST_CHECKPOINT), trial.file(naming.PREVIOUS_CHECKPOINT)
        if self.checkpoints and _is_file(last) and trial.id not in self.needed:
            yield Item(Kind.LAST_CHECKPOINT, last, _size(last), trial.id)
        elif _is_file(last):
            from gfl_lab.maintenance.training_state import training_state_bytes  # loads torch

            if size := training_state_bytes(last):
                yield Item(Kind.TRAINING_STATE, last, size, trial.id)
        if _is_file(previous):
            yield Item(Kind.PREVIOUS_CHECKPOINT, previous, _size(previous), trial.id)

    def _former_plans(self) -> Iterator[Item]:
        for path in sorted((self.tree.root / naming.EXPERIMENTS_DIR).glob("*/*/previous/*")):
            if path.is_dir() and not orphans.through_link(path, self.tree.root):
                yield Item(Kind.FORMER_PLAN, path, _size(path))


def _referenced(tree: RunTree) -> set[str]:
    """Return the ids of trials that a present plan, table or search refers to. Raises StoreError, see `find_surplus`."""
    found: set[str] = set()
    for path in sorted((tree.root / naming.EXPERIMENTS_DIR).glob("*/*/*.json*")):
        try:
            found.update(re.findall(r"\b[0-9a-f]{12}\b", path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} cannot be read ({error}), so it is not known which trials it refers to") from None
    for name, profile in tree.experiments():
        read_plan(tree.experiment(name, profile) / naming.PLAN)  # a torn plan has lost references
    return found


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _size(path: Path) -> int:
    """Return the bytes on disk under ``path``, links not followed."""
    if not path.is_dir():
        return path.stat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
