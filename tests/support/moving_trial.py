"""A trial that can be held, killed and gone on with, in milliseconds: each step is a line, each fifth a checkpoint.

A checkpoint is a file as torch writes it, but for its content: the step. A trial that needs others looks for the last step in theirs.

As a script it is `gfl-lab` with this trial in place of training, held at the steps MOVING_HOLD until the file MOVING_GATE exists.
"""

from __future__ import annotations

import io
import json
import os
import socket
import time
import zipfile
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import Interrupted
from gfl_lab.records.files import write_bytes, write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir
from tests.support.raw import raw_manifest

STEPS = 30
EVERY = 5
EXTRA = "extra.bin"


def checkpoint_of(step: int) -> bytes:
    """Return a checkpoint after ``step`` steps."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("last/data.pkl", str(step))
    return content.getvalue()


def step_of(checkpoint: bytes) -> int:
    """Return the steps done at a checkpoint."""
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
        return int(archive.read("last/data.pkl"))


def go(path: str, *, stop_file: str = "", gate: str = "", hold_at: int | None = None, **_: object) -> None:
    """Do the steps after the last checkpoint; at ``hold_at`` wait until ``gate`` exists, or a stop is asked for."""
    gate = gate or os.environ.get("MOVING_GATE", "")
    holds = {hold_at} if hold_at else {int(step) for step in os.environ.get("MOVING_HOLD", "").split()}
    trial = TrialDir(Path(path))
    trial.take_lease()
    trial.file(naming.RESULT).unlink(missing_ok=True)
    annotations = json.loads(Path(raw_manifest(trial)["paths"]["train_annotations"]).read_text())
    images = Path(raw_manifest(trial)["paths"]["train_images"])
    assert all((images / image["file_name"]).read_bytes() for image in annotations["images"])
    for needed in raw_manifest(trial)["spec"].get("needs", {}).values():
        assert step_of((trial.path.parent / needed / naming.LAST_CHECKPOINT).read_bytes()) == STEPS
        assert raw_manifest(TrialDir(trial.path.parent / needed))["trial"] == needed
    checkpoint = trial.file(naming.LAST_CHECKPOINT)
    first = step_of(checkpoint.read_bytes()) + 1 if checkpoint.exists() else 1
    print(f"starts at step {first} on {socket.gethostname()}", flush=True)
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    writer.truncate_after(first - 1)
    for step in range(first, STEPS + 1):
        writer.write("train", step, 1, {"loss": 1 / step})
        if step % EVERY == 0:
            write_bytes(checkpoint, checkpoint_of(step))
        while step in holds and not Path(gate).exists():
            if stop_file and Path(stop_file).exists():
                write_bytes(checkpoint, checkpoint_of(step))
                write_json(trial.file(naming.RESULT), {"format": 1, "trial": trial.id, "status": "interrupted", "reason": "asked"})
                trial.drop_lease()
                raise Interrupted("asked")
            time.sleep(0.02)
    trial.file(naming.CONFIG).write_text("x = 1\n")
    trial.file(EXTRA).write_bytes(b"records")
    result = {
        "status": "done", "metrics": {key: 50.0 for key in ("AP", "AP50", "AP75")}, "counts": {}, "per_class": {}, "epochs": 1, "steps": STEPS,
        "seconds": {"total": 1.0}, "peak_memory_mib": 1, "device": "cpu", "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    write_json(trial.file(naming.RESULT), {"format": naming.FORMAT_VERSION, "trial": trial.id, **result})
    trial.drop_lease()


if __name__ == "__main__":
    from gfl_lab.cli import main
    from gfl_lab.session import entries
    from tests.support.unchecked import skip_checks

    skip_checks()
    entries.TRIAL_ENTRY = "tests.support.moving_trial:go"
    main.main()
