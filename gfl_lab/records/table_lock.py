"""table.lock.json: the trials behind a table, with their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gfl_lab.records.files import damaged, read_json, text_of, write_record

Numbers: TypeAlias = Mapping[str, float | None]


@dataclass(frozen=True)
class LockedTrial:
    """A finished trial.

    Attributes:
        variant: Name of its variant.
        seed: Its seed.
        records: Digest of its detections, or null.
        metrics: Its metrics.
    """

    variant: str
    seed: int
    records: str | None
    metrics: Numbers


@dataclass(frozen=True)
class LockedRow:
    """A row of the table.

    Attributes:
        metrics: Mean of each metric over seeds, as in table.json.
        delta: Difference of each metric to the baseline, as in table.json.
    """

    metrics: Mapping[str, Any]
    delta: Mapping[str, Any]

    @property
    def means(self) -> dict[str, float | None]:
        """Mean of each metric."""
        return {key: cell.get("mean") for key, cell in self.metrics.items()}

    @property
    def differences(self) -> dict[str, float | None]:
        """Mean difference of each metric to the baseline."""
        return {key: cell.get("mean") for key, cell in self.delta.items()}


@dataclass(frozen=True)
class LockedData:
    """The data set of a table.

    Attributes:
        name: Name of the data set.
        digest: Its digest.
        val_images: Number of its validation images.
    """

    name: str
    digest: str
    val_images: int


@dataclass(frozen=True)
class TableLock:
    """A table as it was made.

    Attributes:
        experiment, profile: Names.
        gfl_lab: Version that wrote the file.
        data: The data set.
        trials: The trials behind the table.
        rows: The rows of the table.
    """

    experiment: str
    profile: str
    gfl_lab: str
    data: LockedData
    trials: Mapping[str, LockedTrial]
    rows: Mapping[str, LockedRow]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file, without its format version."""
        return {
            "experiment": self.experiment,
            "profile": self.profile,
            "gfl_lab": self.gfl_lab,
            "data": dict(vars(self.data)),
            "trials": {trial: dict(vars(locked)) for trial, locked in self.trials.items()},
            "rows": {variant: dict(vars(row)) for variant, row in self.rows.items()},
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> TableLock:
        """Return the lock in a JSON object. Raises LookupError, TypeError, ValueError or AttributeError if it is none."""
        data = found["data"]
        return cls(
            experiment=found["experiment"],
            profile=found["profile"],
            gfl_lab=text_of(found.get("gfl_lab")),
            data=LockedData(text_of(data.get("name")), data["digest"], int(data.get("val_images") or 0)),
            trials={
                str(trial): LockedTrial(each["variant"], each["seed"], each["records"], dict(each["metrics"]))
                for trial, each in found["trials"].items()
            },
            rows={
                str(variant): LockedRow(_cells(row["metrics"]), _cells(row["delta"])) for variant, row in found["rows"].items()
            },
        )  # fmt: skip


def _cells(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(cell) for key, cell in found.items()}


def read_table_lock(path: Path) -> TableLock:
    """Read the lock of a table.

    Raises:
        StoreError: it is missing or damaged. FormatError: it is of a format that this version does not read.
    """
    content = read_json(path)
    try:
        return TableLock.from_json(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"is no lock file of a table: {type(error).__name__}: {error}") from None


def write_table_lock(path: Path, lock: TableLock) -> None:
    """Write the lock of a table."""
    write_record(path, lock.to_json())
