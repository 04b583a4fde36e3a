"""A table's lock file: which trials stand behind its numbers and what each of them found, so that anyone can check it later.

Made with the table, and made anew by ``gfl-lab verify`` from the run directories; what differs between the two has changed since,
or came out differently where the trials were trained again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gfl_lab import __version__
from gfl_lab.integrity.damage import UNSTABLE
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.table_lock import LockedData, LockedRow, LockedTrial, Numbers, TableLock
from gfl_lab.report.table import Table
from gfl_lab.report.table_data import table_json
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.spec import renames

ADDED, GONE = "finished since", "not finished or not there"


@dataclass(frozen=True)
class Deviation:
    """One thing that is not as the lock file has it; ``trial`` is empty where it is of the table, ``locked`` for a damaged file."""

    trial: str
    what: str
    locked: str
    found: str

    def __str__(self) -> str:
        text = f"{self.what}: locked {self.locked}, here {self.found}" if self.locked else f"{self.what} {self.found}"
        return (f"trial {self.trial}: " if self.trial else "") + text


def digest_of(records: Records) -> str:
    """Return the first 16 hex digits of the SHA-256 of all detections and boxes: the same for the same numbers, however stored."""
    seen = hashlib.sha256()
    for name, array in sorted(records.arrays().items()):
        seen.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()[:16]


def make_lock(experiment: ExperimentRow, table: Table, records: Callable[[str], Records | None]) -> TableLock:
    """Return the lock of a table as it stands now; only finished trials are in it."""
    trials = {}
    for variant in experiment.variants:
        for trial in variant.done:
            found = records(trial.id)
            trials[trial.id] = LockedTrial(
                variant.name,
                trial.seed,
                None if found is None else digest_of(found),
                {key: round(value, 6) for key, value in sorted(trial.metrics.items()) if key not in UNSTABLE},
            )
    data = experiment.data
    locked_data = LockedData(data.name, data.digest, data.val_images)
    return TableLock(experiment.name, experiment.profile, __version__, locked_data, trials, _rows(table))


def _rows(table: Table) -> dict[str, LockedRow]:
    """Return the table's numbers by variant, without those that vary from time to time."""

    def stable(cells: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in cells.items() if key not in UNSTABLE}

    return {row["variant"]: LockedRow(stable(row["metrics"]), stable(row["delta"])) for row in table_json(table)["rows"]}


def deviations(locked: TableLock, found: TableLock) -> list[Deviation]:
    """Return all that differs from the lock; nothing for the same trials with the same numbers."""
    return [*_head_deviations(locked, found), *_trial_deviations(locked, found), *_row_deviations(locked, found)]


def _head_deviations(locked: TableLock, found: TableLock) -> list[Deviation]:
    pairs = {
        "experiment": (locked.experiment, found.experiment),
        "profile": (locked.profile, found.profile),
        "data": (locked.data.digest, found.data.digest),
    }
    return [Deviation("", what, str(one), str(two)) for what, (one, two) in pairs.items() if one != two]


def _trial_deviations(locked: TableLock, found: TableLock) -> list[Deviation]:
    listed: list[Deviation] = []
    for trial, known in locked.trials.items():
        here = found.trials.get(trial)
        if here is None:
            listed.append(Deviation(trial, f"{known.variant}, seed {known.seed}", "finished", GONE))
            continue
        if known.records != here.records:
            listed.append(Deviation(trial, "detections", str(known.records), str(here.records)))
        listed += _differing(trial, known.metrics, here.metrics)
    for trial, here in found.trials.items():
        if trial not in locked.trials:
            listed.append(Deviation(trial, f"{here.variant}, seed {here.seed}", "not there", ADDED))
    return listed


def _row_deviations(locked: TableLock, found: TableLock) -> list[Deviation]:
    listed: list[Deviation] = []
    locked_rows = {_present_name(name, found.rows): row for name, row in locked.rows.items()}
    for variant, row in locked_rows.items():
        own = found.rows.get(variant)
        if own is None:
            listed.append(Deviation("", variant, "a row", "no row"))
            continue
        listed += _differing("", row.means, own.means, f"{variant}, mean of ")
        listed += _differing("", row.differences, own.differences, f"{variant}, difference of ")
    return listed


def _present_name(variant: str, rows: Collection[str]) -> str:
    """Return the name in ``rows`` of a locked variant: settings in it may have had other names then."""
    return variant if variant in rows else renames.current_variant_name(variant)


def _differing(trial: str, locked: Numbers, found: Numbers, prefix: str = "") -> list[Deviation]:
    return [Deviation(trial, prefix + key, str(value), str(found.get(key))) for key, value in locked.items() if found.get(key) != value]


def without(experiment: ExperimentRow, trials: Collection[str]) -> ExperimentRow:
    """Return the experiment without these trials."""
    kept = [replace(row, trials=tuple(trial for trial in row.trials if trial.id not in trials)) for row in experiment.variants]
    return replace(experiment, variants=tuple(kept))


@dataclass(frozen=True)
class Comparison:
    """A table's lock file beside the table as it is now.

    Attributes:
        changed: locked numbers that differ now, or belong to trials that the plan has and that are not finished.
        dropped: locked trials and rows that the plan does not have any more.
        added: trials that finished since.
    """

    changed: tuple[Deviation, ...]
    dropped: tuple[Deviation, ...]
    added: tuple[Deviation, ...]

    @property
    def equal(self) -> bool:
        """True if the lock file has the numbers of the table now."""
        return not (self.changed or self.dropped or self.added)


def compare(locked: TableLock, found: TableLock, planned: Collection[str], rows: Collection[str]) -> Comparison:
    """Sort the deviations of a lock file by what a run may do about them.

    The means of a row change with the trials behind them. They are compared only where no trial was added or dropped.

    Args:
        planned: ids of the plan's trials. rows: names of its variants.
    """
    listed = deviations(locked, found)
    added = tuple(each for each in listed if each.found == ADDED)
    gone_rows = {name for name in locked.rows if _present_name(name, rows) not in rows}
    dropped = tuple(
        each for each in listed
        if (each.found == GONE and each.trial not in planned) or (not each.trial and each.found == "no row" and each.what in gone_rows)
    )  # fmt: skip
    rest = [each for each in listed if each not in added and each not in dropped]
    heads = ("experiment", "profile", "data")
    if added or dropped:
        rest = [each for each in rest if each.trial or each.what in heads]
    return Comparison(tuple(rest), dropped, added)
