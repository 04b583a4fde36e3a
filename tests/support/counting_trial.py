"""A trial that counts steps: milliseconds each, checkpoints, a result that depends on every step, and a note of where it ran.

As a script it is `gfl-lab` with this trial in place of training.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir
from tests.support.raw import raw_manifest

STEPS = 20
EACH = 5
"""Steps from one checkpoint to the next."""

HELD_AT = 12
"""While the run tree holds a file HOLD, trials stand still here: two steps after a checkpoint."""

HOLD = "hold"
PLACES = "places.jsonl"
STEP_S = 0.02
LEASE_AGE_S = 45.0
"""Leases look this much older than they are, so that a dead node's count as stale after 15 s and not after 60."""


PROFILE = """
name: tiny
title: nothing is trained
data: {train_images: 16, val_images: 8, size: 128, seed: 0}
resources: {cpus: 1}
settings: {backbone: r18, base_channels: 8, frozen_stages: -1, norm_eval: false, neck_channels: 16, head_channels: 16, head_convs: 1, strides: [8, 16, 32],
  epochs: 10, batch_size: 8, optimizer: adamw, lr: 0.002, lr_schedule: cosine, warmup_iters: 2, image_size: [128, 128]}
"""
"""Entry of an experiment whose trials only count."""


def value_after(steps: int, seed: int) -> float:
    """Return the number that a trial has counted to; each step depends on the one before."""
    value = float(seed)
    for step in range(1, steps + 1):
        value = (value * 1.000123 + step) % 97.0
    return value


def places(trial: TrialDir) -> list[dict[str, Any]]:
    """Each start of the trial: ``node``, ``pid``, ``after`` (steps done before), ``began`` and, if it came that far, ``ended``."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in trial.file(PLACES).read_text().splitlines()]
    return []


def _note(trial: TrialDir, **what: object) -> None:
    with trial.file(PLACES).open("a") as file:
        file.write(json.dumps(what) + "\n")


def count(path: str, **_: object) -> None:
    """The trial. Refuses to run beside another process that runs the same trial."""
    trial = TrialDir(Path(path))
    hold = trial.path.parents[1] / HOLD
    trial.take_lease()
    trial.file(naming.RESULT).unlink(missing_ok=True)
    seed = raw_manifest(trial)["spec"]["seed"]
    try:
        saved = read_json(trial.file(naming.LAST_CHECKPOINT))
    except StoreError:
        saved = {"step": 0, "value": float(seed)}
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    writer.truncate_after(saved["step"])
    value = saved["value"]
    _note(trial, node=socket.gethostname(), pid=os.getpid(), after=saved["step"], began=time.time())
    for step in range(saved["step"] + 1, STEPS + 1):
        while step == HELD_AT and hold.exists():
            _beat(trial)
            time.sleep(0.1)
        value = (value * 1.000123 + step) % 97.0
        writer.write("train", step, (step + 1) // 2, {"loss": value})
        if step % EACH == 0:
            write_json(trial.file(naming.LAST_CHECKPOINT), {"step": step, "value": value})
        _beat(trial)
        time.sleep(STEP_S)
    writer.write("val", STEPS, STEPS // 2, {"AP": value})
    _note(trial, node=socket.gethostname(), pid=os.getpid(), ended=time.time())
    result = {
        "status": "done", "metrics": {key: value for key in ("AP", "AP50", "AP75")}, "counts": {}, "per_class": {}, "epochs": STEPS // 2, "steps": STEPS,
        "seconds": {"total": 1.0}, "peak_memory_mib": 1, "device": "cpu", "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    write_json(trial.file(naming.RESULT), {"format": naming.FORMAT_VERSION, "trial": trial.id, **result})
    trial.drop_lease()


def _beat(trial: TrialDir) -> None:
    with contextlib.suppress(FileNotFoundError):
        past = time.time() - LEASE_AGE_S
        os.utime(trial.file(naming.LEASE), (past, past))


if __name__ == "__main__":
    from gfl_lab.cli import main
    from gfl_lab.orchestrate import ray_cluster
    from gfl_lab.session import entries
    from tests.support.unchecked import skip_checks

    skip_checks()
    ray_cluster.GONE_S = float(os.environ.get("COUNTING_GONE_S", 8.0))
    entries.TRIAL_ENTRY = "tests.support.counting_trial:count"
    main.main()
