"""Check of a finished trial's files: they are whole, its own, and agree with each other.

The result of a finished trial is one file of several. The numbers of a table come from it, the intervals and every recomputed AP from
eval.npz, the pages from distributions.parquet. ``damage`` reads all of them; ``Checked`` keeps the trials that have passed, by
the stamps of their files, so that a run over thousands of trials reads only what has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from gfl_lab import naming
from gfl_lab.errors import FormatError, StoreError
from gfl_lab.metrics.coco_ap import RESAMPLED, mean_ap
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.marks import SoundTrials, read_sound_trials, write_sound_trials
from gfl_lab.records.result import Done, Failed, FileEntry, Interrupted
from gfl_lab.records.result_check import Inspection, inspect_result
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.spec.trial import TrialSpec

TOLERANCE = 0.01
"""AP points by which a recorded AP may differ from the one that its detections give."""
UNSTABLE = ("fps", "latency_ms")
"""Metrics that differ from measurement to measurement."""
LISTED = (naming.EVAL_RECORDS, naming.DISTRIBUTIONS, naming.HISTORY, naming.METRICS_FILE)
"""Files whose size and check sum stand in result.json."""
CHECKED = ".intact.json"
"""In the folder of all trials: the stamps of those that have passed the check."""
_RULES = 1
"""Raised whenever ``damage`` checks something that it did not check before."""

_UNREADABLE = (OSError, KeyError, TypeError, ValueError, IndexError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
_COLUMNS = {"image_id", "annotation_id", "category_id", "file_name", "score", "det_score", "bins", "probs", "expectation", "target"}


class Cure(StrEnum):
    """The way to make a damaged file whole again."""

    REWRITE = "rewrite"  # from the plan, which has the specification
    EVALUATE = "evaluate"  # from the last checkpoint
    TRAIN = "train"  # nothing but training the trial once more


_CURES = {
    naming.MANIFEST: Cure.REWRITE,
    naming.RESULT: Cure.EVALUATE,
    naming.EVAL_RECORDS: Cure.EVALUATE,
    naming.DISTRIBUTIONS: Cure.EVALUATE,
}


@dataclass(frozen=True)
class Damage:
    """One file of a finished trial that is not as it should be. ``str()`` is a phrase: ``eval.npz is missing``."""

    file: str
    what: str

    @property
    def cure(self) -> Cure:
        """The way to make the file whole again."""
        return Cure.REWRITE if self.file.startswith(naming.COMPONENTS_DIR + "/") else _CURES.get(self.file, Cure.TRAIN)

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def phrase(found: Sequence[Damage]) -> str:
    """Return all damages of a trial in one phrase."""
    return "; ".join(map(str, found))


def file_entry(path: Path) -> FileEntry:
    """Return size and check sum of a file. Raises OSError."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def file_entries(trial: TrialDir) -> dict[str, FileEntry]:
    """Return the files of a result: an entry for each listed file that the trial has. Raises OSError."""
    return {name: file_entry(trial.file(name)) for name in LISTED if trial.file(name).exists()}


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
        found.append(Damage(naming.RESULT, _reason(error)))
    if result is None or isinstance(result.result, Failed | Interrupted):
        return []
    spec = _manifest(trial, found)
    found += [Damage(naming.RESULT, fault) for fault in result.faults]
    metrics, files = result.metrics, result.files
    if _listed(trial, naming.EVAL_RECORDS, files, found, required=True):
        _records(trial, spec, metrics, found)
    if _listed(trial, naming.DISTRIBUTIONS, files, found, required=True):
        _distributions(trial, found)
    for name in (naming.HISTORY, naming.METRICS_FILE):
        _listed(trial, name, files, found, required=False)
    if (what := checkpoint_damage(trial.file(naming.LAST_CHECKPOINT))) and trial.file(naming.LAST_CHECKPOINT).exists():
        found.append(Damage(naming.LAST_CHECKPOINT, what))
    return found


def checkpoint_damage(path: Path, *, whole: bool = False) -> str:
    """Return why a checkpoint is unusable as a file; empty for a sound one.

    Args:
        whole: read all of it and compare its check sums, instead of its table of contents alone.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "is not a checkpoint"
            damaged = archive.testzip() if whole else None
    except FileNotFoundError:
        return "is missing"
    except _UNREADABLE as error:
        return _reason(error)
    return f"is damaged: the check sum of {damaged} is wrong" if damaged else ""


def recomputed_ap(records: Records) -> dict[str, float]:
    """Return AP, AP50 and AP75 of the detections; without those that are not defined."""
    precision = match(records).precision()
    found = {key: mean_ap(precision[list(rows)]) for key, rows in RESAMPLED.items()}
    return {key: value for key, value in found.items() if not math.isnan(value)}


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


# --- the single files -----------------------------------------------------------------------------


def _manifest(trial: TrialDir, found: list[Damage]) -> TrialSpec | None:
    """Return the trial's specification, if its manifest has one, and add the damage of the manifest and the files beside it."""
    try:
        manifest = trial.manifest()
    except FormatError:
        raise
    except (StoreError, OSError) as error:
        found.append(Damage(naming.MANIFEST, _reason(error)))
        return None
    try:
        spec = manifest.spec
    except StoreError:
        found.append(Damage(naming.MANIFEST, "does not say what the trial computes"))
        return None
    if spec.id != trial.id or manifest.trial != trial.id:
        found.append(Damage(naming.MANIFEST, f"belongs to trial {spec.id if spec.id != trial.id else manifest.trial}"))
        return None
    try:
        _ = manifest.paths
    except StoreError:
        found.append(Damage(naming.MANIFEST, "does not say where the data are"))
    _components(trial, spec, found)
    return spec


def _components(trial: TrialDir, spec: TrialSpec, found: list[Damage]) -> None:
    for component in spec.components:
        name = f"{naming.COMPONENTS_DIR}/{Path(component.name).name}"
        try:
            content = trial.file(name).read_bytes()
        except OSError as error:
            found.append(Damage(name, _reason(error)))
            continue
        if hashlib.sha256(content).hexdigest()[: len(component.digest)] != component.digest:
            found.append(Damage(name, "is not the file that the trial was made with"))


def _listed(trial: TrialDir, name: str, files: Mapping[str, FileEntry], found: list[Damage], *, required: bool) -> bool:
    """Return True if a file exists as result.json lists it, so that its content is worth reading; add its damage."""
    path, entry = trial.file(name), files.get(name)
    try:
        size = path.stat().st_size
        if not path.is_file():
            found.append(Damage(name, "is not a file; move it away"))
        elif entry is None:
            return True
        elif size != entry.bytes:
            found.append(Damage(name, f"has {size} bytes, not {entry.bytes}"))
        elif file_entry(path).sha256 != entry.sha256:
            found.append(Damage(name, "has another content than its trial wrote"))
        else:
            return True
    except FileNotFoundError:
        if required or entry is not None:
            found.append(Damage(name, "is missing"))
    except OSError as error:
        found.append(Damage(name, _reason(error)))
    return False


def _records(trial: TrialDir, spec: TrialSpec | None, metrics: Mapping[str, float] | None, found: list[Damage]) -> None:
    """Return True if eval.npz is whole, over the trial's images and classes, and gives the metrics of its result."""
    try:
        with zipfile.ZipFile(trial.file(naming.EVAL_RECORDS)) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the check sum of {damaged} is wrong")
        with np.load(trial.file(naming.EVAL_RECORDS), allow_pickle=False) as arrays:
            records = Records.of(arrays)
            recorded = json.loads(str(arrays["metrics"])) if "metrics" in arrays else None
        what = records_disagreement(records)
        ours = {} if what else recomputed_ap(records)
    except _UNREADABLE as error:
        found.append(Damage(naming.EVAL_RECORDS, _reason(error)))
        return
    if not what and spec is not None and tuple(records.classes) != spec.data.classes:
        what = f"has the classes {', '.join(records.classes[:5])}, not the trial's"
    if not what and spec is not None and len(np.unique(records.image_ids)) != spec.data.val_images:
        what = f"is over {len(np.unique(records.image_ids))} images, not {spec.data.val_images}"
    if what:
        found.append(Damage(naming.EVAL_RECORDS, what))
        return
    if metrics is None:
        return
    for key in RESAMPLED:
        one, two = metrics.get(key), ours.get(key)
        if (one is None) != (two is None) or (one is not None and two is not None and not abs(one - two) <= TOLERANCE):
            shown = " and ".join(f"{key} {'undefined' if value is None else format(value, '.6g')}" for value in (one, two))
            found.append(Damage(naming.RESULT, f"and {naming.EVAL_RECORDS} disagree: {shown}"))
            return
    if recorded is not None and recorded != (own := {key: value for key, value in metrics.items() if key not in UNSTABLE}):
        keys = sorted({*recorded, *own})
        shown = ", ".join(f"{key} {own.get(key)} and {recorded.get(key)}" for key in keys if recorded.get(key) != own.get(key))
        found.append(Damage(naming.RESULT, f"and {naming.EVAL_RECORDS} disagree: {shown}"))


def records_disagreement(records: Records) -> str:
    """Return why the arrays of an evaluation cannot belong together; empty if they can."""
    for side, names in (("det", ("image", "label", "score", "box")), ("gt", ("image", "label", "area", "crowd", "id", "box"))):
        arrays = [getattr(records, f"{side}_{name}") for name in names]
        if len({len(array) for array in arrays}) != 1 or arrays[-1].shape[1:] != (4,):
            return f"has {side} arrays of different lengths"
        if not np.isin(arrays[0], records.image_ids).all():
            return f"has {side} boxes on images that it does not list"
        if len(arrays[1]) and not (0 <= arrays[1].min() and arrays[1].max() < len(records.classes)):
            return f"has {side} boxes of classes that it does not list"
    if not (np.isfinite(records.det_score).all() and np.isfinite(records.det_box).all() and np.isfinite(records.gt_box).all()):
        return "holds numbers that are not finite"
    return ""


def _distributions(trial: TrialDir, found: list[Damage]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(trial.file(naming.DISTRIBUTIONS), partitioning=None)
        if missing := _COLUMNS - set(table.column_names):
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        table.validate(full=True)
    except (pa.ArrowException, *_UNREADABLE) as error:
        found.append(Damage(naming.DISTRIBUTIONS, _reason(error)))


def _reason(error: Exception) -> str:
    """Say what went wrong, without the place of the tree on this machine."""
    if isinstance(error, FileNotFoundError) or (isinstance(error, StoreError) and "does not exist" in str(error)):
        return "is missing"
    if isinstance(error, PermissionError) or "Permission denied" in str(error):
        return "cannot be read: permission denied"
    if isinstance(error, KeyError):
        return f"is damaged: {error.args[0]} is missing"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, StoreError):  # names the file with its path, at the beginning and often at the end
        text = (text.partition(" cannot be read: ")[2] or text.partition(" holds ")[2] or text).partition(": '/")[0]
    return f"is damaged: {text}"
