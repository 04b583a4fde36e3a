"""cost.json: the cost of an experiment's commands so far. runs/measured/*.json: the measurements of a warm-up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gfl_lab.errors import StoreError
from gfl_lab.records.files import read_json, write_record
from gfl_lab.spec import renames

_DAMAGE = (StoreError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Spent:
    """The cost of an experiment's commands so far, and the trial resources of the last one.

    Attributes:
        cpus, gpus: Cores and GPUs of each trial of the last command.
        at_once: Trials of the last command that ran at the same time.
        wall_seconds: Wall time of all commands.
        core_seconds, gpu_seconds: Time of each core and each GPU, added up over all commands.
    """

    cpus: int
    gpus: float
    at_once: int
    wall_seconds: float
    core_seconds: float
    gpu_seconds: float


def read_spent(path: Path) -> Spent | None:
    """Read what an experiment has cost; None if nothing is known."""
    try:
        found: Mapping[str, Any] = read_json(path)
        return Spent(
            int(found["cpus"]),
            float(found["gpus"]),
            int(found["at_once"]),
            float(found["wall_seconds"]),
            float(found["core_seconds"]),
            float(found["gpu_seconds"]),
        )
    except _DAMAGE:
        return None


def write_spent(path: Path, spent: Spent) -> None:
    """Write what an experiment has cost. Raises OSError."""
    write_record(path, vars(spent))


class MeasuredData(NamedTuple):
    """The data set that a warm-up ran on.

    Attributes:
        name: Name of the data set.
        digest: Its digest.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class Measured:
    """A warm-up of one model on one machine.

    Attributes:
        settings: All settings of the trial.
        data: The data set.
        seconds_per_iteration: Seconds of a training step.
        seconds_per_image: Seconds of an image in evaluation.
        seconds_once: Seconds of a trial's set-up and of its latency.
        memory_mib: Peak memory of the process and its loaders, in MiB.
        gpu_memory_mib: Peak memory of the GPU, in MiB; 0 on a CPU.
        device: ``cpu`` or ``cuda NAME``.
        cpus: Cores of the trial.
        at_once: Warm-ups that ran at the same time.
        measured: ISO time.
    """

    settings: Mapping[str, Any]
    data: MeasuredData
    seconds_per_iteration: float
    seconds_per_image: float
    seconds_once: float
    memory_mib: float
    gpu_memory_mib: float
    device: str
    cpus: int
    at_once: int = 1
    measured: str = ""


def read_measured(path: Path) -> Measured | None:
    """Read a warm-up; None if the file cannot be read."""
    try:
        found: Mapping[str, Any] = read_json(path)
        return Measured(
            settings=renames.current(found["settings"]),
            data=MeasuredData(str(found["data"]["name"]), str(found["data"]["digest"])),
            seconds_per_iteration=float(found["seconds_per_iteration"]),
            seconds_per_image=float(found["seconds_per_image"]),
            seconds_once=float(found["seconds_once"]),
            memory_mib=float(found["memory_mib"]),
            gpu_memory_mib=float(found["gpu_memory_mib"]),
            device=str(found["device"]),
            cpus=int(found["cpus"]),
            at_once=int(found.get("at_once", 1)),
            measured=str(found.get("measured", "")),
        )
    except _DAMAGE:
        return None


def read_all_measured(folder: Path) -> Iterator[Measured]:
    """Read every warm-up in a folder that can be read, by file name."""
    for path in sorted(folder.glob("*.json")):
        if (found := read_measured(path)) is not None:
            yield found


def write_measured(path: Path, measured: Measured) -> None:
    """Write a warm-up."""
    write_record(path, {**vars(measured), "data": {**measured.data._asdict()}})
