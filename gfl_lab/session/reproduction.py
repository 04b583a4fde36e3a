"""Training a finished trial once more, beside its run tree, and comparing the numbers."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import ExitCode, InputError, Problem, StoreError
from gfl_lab.integrity.damage import UNSTABLE
from gfl_lab.orchestrate import driver
from gfl_lab.orchestrate.executor import run_jobs
from gfl_lab.orchestrate.inline import InlineExecutor
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.processes import hide_gpus
from gfl_lab.records.result import Done, Failed
from gfl_lab.report.differences import NUMBERS, Differing, differences
from gfl_lab.report.lock import digest_of
from gfl_lab.results.rows import Recorded
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.session import entries
from gfl_lab.session.refusals import require_output
from gfl_lab.session.trial_lookup import find_trial, require_done
from gfl_lab.wording import duration


@dataclass(frozen=True)
class Reproduction:
    """A trial and its second training.

    Attributes:
        recorded, again: the two. differing: everything in which they differ, but what differs between any two trainings.
        detections_equal: every detection is the same to the last bit.
    """

    recorded: Recorded
    again: Recorded
    differing: tuple[Differing, ...]
    detections_equal: bool

    @property
    def exact(self) -> bool:
        """Return True if all numbers and all detections are the same."""
        return self.detections_equal and not any(each.group == NUMBERS for each in self.differing)


def reproduce(tree: RunTree, named: str, keep: Path | None, say: Callable[[str], None]) -> Reproduction | ExitCode:
    """Train a trial once more from its manifest alone, and compare; the recorded trial is left as it is.

    Args:
        named: the trial, as ``find_trial`` takes it.
        keep: a new folder for the run tree of the second training; None for a temporary one.
        say: receives what happens.

    Returns:
        The comparison; the exit code if the second training was stopped or failed.

    Raises:
        InputError: there is no such finished trial, ``keep`` exists, or an input of the trial is missing.
    """
    first = find_trial(tree, named)
    require_done(tree, first)
    store = Store(tree)
    try:
        recorded, records = store.recorded(first.id), store.records(first.id)
    except StoreError as error:
        raise InputError(error.problems) from None
    if keep is not None and keep.exists():
        raise InputError(Problem("it is there already", str(keep), "Give a folder that is not there yet."))
    if keep is not None:
        require_output(keep, folder=True)
    _require_inputs(first)
    result = first.result()
    took = result.seconds.get("total") if result else None
    say(f"trial {first.id}: seed {recorded.seed}, data {recorded.data.get('name')}; it took {duration(took)} the first time")
    with contextlib.ExitStack() as stack:
        root = keep if keep is not None else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gfl-lab-reproduce-")))
        again = _copy(first, RunTree(root.absolute()))
        for needed in _needed(first):
            beside = _copy(needed, RunTree(root.absolute()))
            shutil.copy(needed.file(naming.LAST_CHECKPOINT), beside.file(naming.LAST_CHECKPOINT))
        if isinstance(result, Done) and result.device == "cpu":
            hide_gpus()  # a GPU would compute other last digits
        # The number of threads decides in which order sums are made, so it is the recorded one.
        if _train(again, root, int(recorded.environment.get("threads", 1))):
            say("stopped; nothing of the recorded trial has changed")
            return ExitCode.SIGINT
        if (state := again.state()) is not TrialState.DONE:
            ended = again.result()
            reason = f": {ended.failure.kind} {ended.failure.reason}" if isinstance(ended, Failed) else ""
            say(f"the second training {state}{reason}")
            if keep is None:
                say("give --keep FOLDER to keep its log")
            return ExitCode.TRIALS_FAILED
        fresh = Store(RunTree(root.absolute()))
        second, same = fresh.recorded(first.id), fresh.records(first.id)
    differing = tuple(each for each in differences(recorded, second) if not (each.group == NUMBERS and each.name in UNSTABLE))
    equal = records is not None and same is not None and digest_of(records) == digest_of(same)
    return Reproduction(recorded, second, differing, equal)


def _require_inputs(trial: TrialDir) -> None:
    """Refuse a trial whose data, weights or code are not at the paths of its manifest. Raises InputError with all that is missing."""
    try:
        manifest = trial.manifest()
        files = [*map(Path, manifest.paths.to_json().values()), *manifest.component_files]
        files += [manifest.weights_file] if manifest.weights_file else []
        files += [needed.file(name) for needed in _needed(trial) for name in (naming.MANIFEST, naming.LAST_CHECKPOINT)]
    except StoreError as error:
        raise InputError(error.problems) from None
    missing = [path for path in files if not path.exists()]
    if missing:
        hint = "Put it back there: a trial is reproduced from the paths in its manifest."
        raise InputError([Problem("the trial was trained with this, and it is not there any more", str(path), hint) for path in missing])


def _needed(trial: TrialDir) -> list[TrialDir]:
    """Return the trials whose weights a trial needs, each once. Raises StoreError."""
    return [TrialDir(trial.path.parent / needed) for needed in dict.fromkeys(trial.manifest().needs.values())]


def _copy(trial: TrialDir, tree: RunTree) -> TrialDir:
    """Copy what a trial starts from, its manifest and components, into another run tree."""
    again = tree.trial(trial.id)
    again.path.mkdir(parents=True)
    shutil.copy(trial.file(naming.MANIFEST), again.file(naming.MANIFEST))
    if trial.file(naming.COMPONENTS_DIR).is_dir():
        shutil.copytree(trial.file(naming.COMPONENTS_DIR), again.file(naming.COMPONENTS_DIR))
    return again


def _train(trial: TrialDir, root: Path, threads: int) -> bool:
    """Train a trial in this process; return True if a signal has stopped it."""
    stop = driver.StopSwitch(root / naming.STOP_REQUEST)
    stop.install()
    try:
        run_jobs(InlineExecutor(stop), [Job(str(trial.path), entries.TRIAL_ENTRY, "", {"stop_file": str(stop.file), "threads": threads})])
    finally:
        stop.restore()
    return bool(stop.signal)
