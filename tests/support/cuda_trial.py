"""A trial that only notes what its process could do with a GPU, in place of training.

Importing this module asks torch for CUDA, as importing what trains does: mmengine asks when it is imported. Two private names of
torch are used, since no public one tells the same: its mark of a process that was forked after such a question, in which CUDA
cannot be initialised, and the functions through which it asks NVML, which has to answer without a GPU.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from gfl_lab import naming
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir

START = "start.json"
UUIDS = ("GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-1111")

if os.environ.get("PRETEND_NVML"):
    torch.cuda._raw_device_count_nvml = lambda: len(UUIDS)
    torch.cuda._raw_device_uuid_nvml = lambda: list(UUIDS)

import mmengine.device  # noqa: E402


def start_of() -> dict[str, Any]:
    """Return what this process is, as a trial begins in it."""
    return {
        "pid": os.getpid(),
        "bad_fork": torch.cuda._is_in_bad_fork(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "device": mmengine.device.get_device(),
        "began": time.time(),
    }


def note(folder: Path) -> None:
    """Write what this process is to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / START, start_of())


def starts(root: Path) -> list[dict[str, Any]]:
    """Return what trials below ``root`` have noted."""
    return [read_json(path) for path in sorted(root.rglob(START))]


def _wait_for(root: Path, count: int) -> None:
    end = time.time() + 120
    while len(starts(root)) < count:
        assert time.time() < end, "the others never began"
        time.sleep(0.05)


def record(path: str, **_: object) -> None:
    """The trial. With TOGETHER=N it waits until N trials of its tree have begun."""
    trial = TrialDir(Path(path))
    trial.take_lease()
    note(trial.path)
    _wait_for(trial.path.parent, int(os.environ.get("TOGETHER", "1")))
    MetricWriter(trial.file(naming.METRICS_FILE)).write("val", 1, 1, {"AP": 50.0})
    result = {
        "status": "done", "metrics": {key: 50.0 for key in ("AP", "AP50", "AP75")}, "counts": {}, "per_class": {}, "epochs": 1, "steps": 1,
        "seconds": {"total": 1.0}, "peak_memory_mib": 1, "device": os.environ.get("PRETEND_DEVICE", "cpu"), "environment": {"threads": 1},
        "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    write_json(trial.file(naming.RESULT), {"format": naming.FORMAT_VERSION, "trial": trial.id, **result})
    trial.drop_lease()


def warm_up(path: str, **_: object) -> None:
    """In place of a warm-up: an iteration takes 20,000 MiB of a GPU. Its note is kept beside the folder of warm-ups."""
    trial = TrialDir(Path(path))
    metrics = {"seconds_per_iteration": 0.1, "seconds_per_image": 0.1, "seconds_once": 1.0, "memory_mib": 100.0, "gpu_memory_mib": 20_000.0}
    note(Path(os.environ["NOTES"]) / str(os.getpid()))
    write_json(trial.file(naming.RESULT), {"format": naming.FORMAT_VERSION, "status": "done", "metrics": metrics, "device": "cuda H100"})


def record_team(path: str, size: int) -> None:
    """A trial in several processes: each notes how it begins, before it meets the others."""
    note(Path(path) / "0")
    from gfl_lab.train.parallel import run_in_group
    from gfl_lab.train.process_group import DistributedGroup

    if os.environ.get("PRETEND_NVML"):  # else it fails as the others do, and ends them before they have noted anything
        DistributedGroup.connect = lambda _: _wait_for(Path(path), size)
    run_in_group(size, lambda group: group.barrier(), f"{__name__}:record_another", {"path": path})


def record_another(path: str, rank: int, size: int, folder: str) -> None:
    """Be another process of `record_team`."""
    note(Path(path) / str(rank))
    from gfl_lab.train.parallel import join_group

    join_group(rank, size, folder, lambda group: group.barrier(), lambda error: {"kind": "error", "reason": str(error)})
