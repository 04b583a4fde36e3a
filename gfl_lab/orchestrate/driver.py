"""The driver: writes what pending trials compute, has an executor run them, and watches their run directories."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.orchestrate.extensions import extensions
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.plan.graph import with_seed
from gfl_lab.plan.plan import Plan, Trial, Variant
from gfl_lab.records.files import WAYS_OUT, damaged, write_bytes
from gfl_lab.records.manifest import DataPaths, new_manifest, write_manifest
from gfl_lab.records.plan import Design, PlanFile, PlannedNeed, PlannedTrial, read_plan, write_plan
from gfl_lab.records.result import now
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.spec.code import CodeFile

_DRIVER_LOCK = ".driver.lock"
ORPHANS_S = 30.0
"""Seconds to wait for trials to end with their driver: one on this machine; on another node, until Ray has noticed."""


Handler = Callable[[int, FrameType | None], Any] | int | None
"""A signal's handler, as `signal.signal` returns it."""


class StopSwitch:
    """First signal: trials write a checkpoint and stop. Second, or one while no trial runs yet: everything stops now.

    The trials of this driver look for ``file``, so it works over a shared file system, and trials of other drivers go on.
    """

    def __init__(self, file: Path) -> None:
        self.signal = 0
        self.file = file
        self._asks_trials = True
        self._previous: dict[int, Handler] = {}

    def __call__(self) -> bool:
        """Return True if a stop was asked for."""
        return self.signal != 0

    def listen(self) -> None:
        """Take SIGINT and SIGTERM over (main thread only); until ``install`` the first one raises KeyboardInterrupt."""
        self._asks_trials = False
        for number in (signal.SIGINT, signal.SIGTERM):
            previous = signal.signal(number, self._handle)
            self._previous.setdefault(number, previous)

    def install(self) -> None:
        """Listen as ``listen`` does, but pass the first signal on to the trials; clear the requests to an earlier driver."""
        self.file.unlink(missing_ok=True)
        self.listen()
        self._asks_trials = True

    def ask(self) -> None:
        """Ask the trials to stop if a signal has come. Call it again and again: a full disk may take no file at first."""
        if self.signal and not self.file.exists():
            with contextlib.suppress(OSError):
                self.file.touch()

    def restore(self) -> None:
        """Give the signals back when no trial is left. Does nothing when they were never taken."""
        if self._asks_trials and self._previous:
            self.file.unlink(missing_ok=True)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = bool(self.signal) or not self._asks_trials
        self.signal = self.signal or number
        if now:
            raise KeyboardInterrupt
        self.ask()


@contextlib.contextmanager
def only_driver(folder: Path) -> Iterator[bool]:
    """Hold the experiment for this process.

    Yields:
        True if the driver before was killed, or stopped at once: its trials may be ending just now.

    Raises:
        InputError: another driver holds it; the message names it and its start.
        OSError: of a full disk, naming the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _DRIVER_LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(f"this experiment is being run already, by {holder}. Wait for it, or stop it with Ctrl-C.") from None
        file.seek(0)
        killed = bool(file.read().strip())
        file.truncate(0)
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
        except OSError as error:  # write() gives no name
            raise OSError(error.errno, error.strerror, str(path)) from None
        for leftover in folder.glob(".*.tmp"):  # a killed driver's half-written files
            leftover.unlink(missing_ok=True)
        yield killed
        file.truncate(0)  # not after an exception: then too trials may be dying


def is_driven(folder: Path) -> bool:
    """Return True if a driver holds the experiment."""
    try:
        with (folder / _DRIVER_LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def wait_for_orphans(trials: Sequence[Trial], tree: RunTree) -> None:
    """Wait until the trials of a killed driver have ended with it, ``ORPHANS_S`` at most. Those that still run have another driver."""
    end = time.monotonic() + ORPHANS_S
    while time.monotonic() < end and any(tree.trial(trial.id).lease_alive() for trial in trials):
        time.sleep(0.1)


def of_other_seeds(plan: Plan, folder: Path) -> list[tuple[Variant, Trial]]:
    """Return the trials of other seeds that an earlier run left in the table of this plan, each with its variant.

    Raises:
        StoreError: the former plan cannot be read.
    """
    path = folder / naming.PLAN
    old = _former_plan(path) if path.exists() else None
    return _of_other_seeds(plan, old) if old and old.data.digest == plan.data.digest else []


def _of_other_seeds(plan: Plan, old: PlanFile) -> list[tuple[Variant, Trial]]:
    former = {trial.id: trial.seed for trial in old.trials}
    graph = {trial.id: trial for trial in plan.all_trials}
    found = []
    for variant in plan.variants:
        for seed in sorted(set(former.values()) - {trial.spec.seed for trial in variant.trials}):
            # By id, so that neither other weights nor another version of the training code gets into a row.
            trial = with_seed(variant.trials[0], seed, graph)
            if trial.id in former:
                found.append((variant, trial))
    return found


def save_plan(plan: Plan, folder: Path, tree: RunTree) -> list[str]:
    """Write plan.json, keeping every trial of another seed that the former plan had for the same variant.

    A plan over other data is moved to ``previous/<digest>/`` with its tables first. Looks that were fixed beforehand stay; what a plan
    adds although verdicts could be read already is recorded.

    Returns:
        Notes for the user.

    Raises:
        InputError: the former plan had fixed other looks.
    """
    path, new = folder / naming.PLAN, plan.record(now())
    if not path.exists():
        write_plan(path, new)
        return []
    old = _former_plan(path)
    if old.data.digest != new.data.digest:
        archive = folder / "previous" / old.data.digest
        archive.mkdir(parents=True, exist_ok=True)
        for file in [path, *folder.glob(naming.TABLE_STEM + ".*")]:
            file.replace(archive / file.name)
        write_plan(path, new)
        return [f"the table so far was over other data ({old.data.name}, {old.data.digest}); it is kept in {archive}"]
    new = replace(new, design=design_kept(plan.design, old.design))
    kept = _of_other_seeds(plan, old)
    record = _with_needs(_with_trials(replace(new, created=old.created), plan, kept), old, kept)
    write_plan(path, replace(record, extensions=extensions(record, old, tree, now())))
    notes = [f"{len(kept)} trials of other seeds stay in the table"] if kept else []
    present = {naming.canonical_json(variant.settings) for variant in new.variants}
    if gone := sum(naming.canonical_json(variant.settings) not in present for variant in old.variants):
        notes.append(f"{gone} variants of the former plan are no longer in the file; their trials are kept on disk")
    return notes


def check_design(plan: Plan, folder: Path) -> None:
    """Refuse looks that are not those of the first run over the same data.

    Raises:
        InputError: they are others. StoreError: the former plan cannot be read.
    """
    path = folder / naming.PLAN
    if path.exists() and (old := _former_plan(path)).data.digest == plan.data.digest:
        design_kept(plan.design, old.design)


def design_kept(asked: Design | None, former: Design | None) -> Design | None:
    """Return the looks of an experiment: those that it has, else those that are asked for.

    Raises:
        InputError: it has others.
    """
    if asked and former and asked != former:
        message = (
            f"the first run of this experiment fixed looks at {_listed(former.looks)} seeds for {former.min_effect:g} AP, and this one asks "
            f"for looks at {_listed(asked.looks)} seeds for {asked.min_effect:g} AP"
        )
        hint = (
            f"Looks are fixed before the first one. Go on with the options of the first run, or with `seeds: {{until_resolved: "
            f"{former.min_effect:g}, looks: [{_listed(former.looks)}]}}` in the file. Or ask a new question: copy the file and give it another "
            "name. Finished trials are reused."
        )
        raise InputError(Problem(message, hint=hint))
    return former or asked


def _listed(looks: Sequence[int]) -> str:
    return ", ".join(map(str, looks))


def _with_trials(record: PlanFile, plan: Plan, more: Sequence[tuple[Variant, Trial]]) -> PlanFile:
    """Return ``record`` of ``plan`` with more trials of its variants, each variant's trials in the order of their seeds."""
    added: dict[int, list[PlannedTrial]] = {}
    for variant, trial in more:
        added.setdefault(id(variant), []).append(PlannedTrial(trial.id, trial.spec.seed, trial.spec.needs))
    variants = []
    for variant, entry in zip(plan.variants, record.variants, strict=True):
        trials = sorted([*entry.trials, *added.get(id(variant), ())], key=lambda trial: trial.seed)
        variants.append(replace(entry, trials=tuple(trials)))
    return replace(record, variants=tuple(variants))


def _with_needs(record: PlanFile, old: PlanFile, kept: Sequence[tuple[Variant, Trial]]) -> PlanFile:
    """Return ``record`` with what the trials of other seeds need, as the former plan had it."""
    former = {each.trial.id: each for each in old.needed}
    present = {trial.id for trial in record.trials} | {each.trial.id for each in record.needed}
    more: dict[str, PlannedNeed] = {}

    def add(needs: Mapping[str, str]) -> None:
        for needed in needs.values():
            if needed in former and needed not in present and needed not in more:
                add(former[needed].trial.needs)
                more[needed] = former[needed]

    for _, trial in kept:
        add(trial.spec.needs)
    return replace(record, needed=(*record.needed, *more.values()))


def _former_plan(path: Path) -> PlanFile:
    try:
        old = read_plan(path)
    except StoreError as error:
        raise StoreError(Problem(error.problems[0].message, hint=WAYS_OUT[naming.PLAN])) from None
    if old.created and old.data.digest and all(variant.settings and variant.trials for variant in old.variants):
        return old
    raise damaged(path, "is no plan")


def write_manifests(
    trials: Sequence[Trial], tree: RunTree, paths: DataPaths, code: Sequence[CodeFile] = (), others: Mapping[str, DataPaths] | None = None
) -> None:  # fmt: skip
    """Write the manifest of each trial; paths may have changed since a former one, what is computed cannot have.

    Args:
        paths: of the experiment's data set. others: of other data sets, by their digests.
        code: the files that trials name as their components; each trial gets copies of its own.
    """
    contents = {file.digest: file.content for file in code}
    for trial in trials:
        folder = tree.trial(trial.id)
        folder.path.mkdir(parents=True, exist_ok=True)
        for component in trial.spec.components:
            write_bytes(folder.file(naming.COMPONENTS_DIR) / component.name, contents[component.digest])
        manifest = new_manifest(folder.file(naming.MANIFEST), trial.spec, (others or {}).get(trial.spec.data.digest, paths))
        write_manifest(manifest.file, manifest)


def jobs_for(trials: Sequence[Trial], tree: RunTree, entry: str, kwargs: dict[str, Any], *, gpus: float = 0.0) -> list[Job]:
    """Return the jobs that run ``trials``.

    Args:
        entry: ``module:function``; on a CPU its module is what the fork server imports once.
        gpus: what each trial takes.
    """
    preload = "" if gpus else entry.partition(":")[0]
    return [Job(str(tree.trial(trial.id).path), entry, preload, kwargs) for trial in trials]


def states(trials: Sequence[Trial], tree: RunTree) -> dict[str, TrialState]:
    """Return the state of each trial by id."""
    return {trial.id: tree.trial(trial.id).state() for trial in trials}
