"""Whether all files of a finished trial are whole, and which trials of a tree have passed that check."""

from __future__ import annotations

from typing import Any

from gfl_lab import naming
from gfl_lab.errors import FormatError, StoreError
from gfl_lab.integrity.damage import LISTED, Damage, reason_of
from gfl_lab.integrity.file_checks import check_distributions, check_listed, check_manifest, check_records, checkpoint_damage
from gfl_lab.records.marks import SoundTrials, read_sound_trials, write_sound_trials
from gfl_lab.records.result import Done, Failed, Interrupted
from gfl_lab.records.result_check import Inspection, inspect_result
from gfl_lab.rundir import RunTree, TrialDir

CHECKED = ".intact.json"
"""In the folder of all trials: the stamps of those that have passed the check."""
_RULES = 1
"""Raised whenever ``damage`` checks something that it did not check before."""


def has_finished(trial: TrialDir) -> bool:
    """Return True if the trial's result is that of a finished one, or is damaged beside records of the final evaluation.

    Raises:
        FormatError: the result is of a format that this version does not read.
    """
    try:
        result = trial.result()
    except FormatError:
        raise
    except (StoreError, OSError):
        # A trial that was killed on its way has a previous checkpoint, unless it was killed before the second one.
        return trial.file(naming.EVAL_RECORDS).exists() and not trial.file(naming.PREVIOUS_CHECKPOINT).exists()
    return isinstance(result, Done)


def is_imported(trial: TrialDir) -> bool:
    """Return True if the trial holds detections of another project, by its manifest; False too where that cannot be read."""
    try:
        return trial.manifest().is_imported
    except (StoreError, OSError):
        return False


def damage(trial: TrialDir) -> list[Damage]:
    """Read every record of a finished trial, and recompute its AP from its detections.

    Returns:
        Every file that is missing, damaged, of another trial, or in disagreement with the others; empty for a sound trial. A trial
        that never finished has none either.

    Raises:
        FormatError: a file is of a format that this version does not read.
    """
    found: list[Damage] = []
    try:
        result = inspect_result(trial.file(naming.RESULT))
    except FormatError:
        raise
    except (StoreError, OSError) as error:
        result = Inspection(None)
        found.append(Damage(naming.RESULT, reason_of(error)))
    if result is None or isinstance(result.result, Failed | Interrupted):
        return []
    data = check_manifest(trial, found)
    found += [Damage(naming.RESULT, fault) for fault in result.faults]
    metrics, files = result.metrics, result.files
    if check_listed(trial, naming.EVAL_RECORDS, files, found, required=True):
        check_records(trial, data, metrics, found)
    if check_listed(trial, naming.DISTRIBUTIONS, files, found, required=not is_imported(trial)):
        check_distributions(trial, found)
    for name in (naming.HISTORY, naming.METRICS_FILE):
        check_listed(trial, name, files, found, required=False)
    if (what := checkpoint_damage(trial.file(naming.LAST_CHECKPOINT))) and trial.file(naming.LAST_CHECKPOINT).exists():
        found.append(Damage(naming.LAST_CHECKPOINT, what))
    return found


class Checked:
    """The trials of a tree that have passed ``damage``, with the stamps of their files.

    A stamp holds inode, size, and the times of the last change of content and of the inode. ``gfl-lab verify`` does not use it.
    """

    def __init__(self, tree: RunTree) -> None:
        self._tree, self._path = tree, tree.root / naming.TRIALS_DIR / CHECKED
        self._known = read_sound_trials(self._path, _RULES)
        self._dirty = False

    def damage(self, trial: TrialDir) -> list[Damage]:
        """Return ``damage`` of a trial; empty without reading a file for a trial that has passed and has not changed since."""
        stamp = _stamp(trial)
        if self._known.get(trial.id) == stamp:
            return []
        found = damage(trial)
        if not found and _stamp(trial) == stamp:
            self._known[trial.id], self._dirty = stamp, True
        return found

    def save(self) -> None:
        """Write down what has passed; a disk that cannot be written costs the next command time, and nothing else."""
        if not self._dirty:
            return
        try:
            write_sound_trials(self._path, SoundTrials(_RULES, self._known))
            self._dirty = False
        except OSError:
            pass


def _stamp(trial: TrialDir) -> str:
    seen: list[Any] = []
    for name in (naming.MANIFEST, naming.RESULT, *LISTED, naming.LAST_CHECKPOINT):
        try:
            status = trial.file(name).stat()
            seen.append([name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode])
        except OSError:
            seen.append([name])
    for path in sorted(trial.file(naming.COMPONENTS_DIR).glob("*.py")):
        try:
            seen.append([path.name, path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns])
        except OSError:
            seen.append([path.name])
    return naming.digest(seen)
