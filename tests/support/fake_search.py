"""A trial function for searches: a smooth function of the settings instead of training, an epoch every few milliseconds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import Interrupted
from gfl_lab.records.files import write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir
from tests.support.raw import raw_manifest

EPOCHS_LOG = "epochs.log"


def ap(settings: dict, epoch: int) -> float:
    """AP after an epoch: best at lr 0.001 and qfl_beta 2, rising with the epochs."""
    height = 60 - 8 * abs(math.log10(settings["lr"]) + 3) - 3 * abs(settings["qfl_beta"] - 2)
    return round(height * (1 - 0.5**epoch), 4)


def search_trial(path: str, stop_file: str = "", should_stop: Callable[[], bool] | None = None, **_: object) -> None:
    """Trains epoch by epoch from where it was; each epoch that it does is a line of epochs.log. Diverges above lr 0.05."""
    trial = TrialDir(Path(path))
    trial.take_lease()
    settings = raw_manifest(trial)["spec"]["settings"]
    pause = float(os.environ.get("FAKE_EPOCH_S", "0.02"))
    trial.file(naming.RESULT).unlink(missing_ok=True)
    asked = should_stop or (lambda: Path(stop_file).exists())
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    outcome: dict = {"status": "interrupted", "reason": "stopped"}
    try:
        for epoch in range(len([line for line in trial.metric_lines() if line.kind == "val"]) + 1, settings["epochs"] + 1):
            end = time.monotonic() + pause
            while True:
                if asked():
                    raise Interrupted("stopped")
                if time.monotonic() > end:
                    break
                time.sleep(0.005)
            if settings["lr"] > 0.05:
                outcome = {"status": "failed", "failure": {"kind": "non_finite_loss", "reason": "NaN", "step": epoch, "epoch": epoch}}
                return
            writer.write("val", epoch, epoch, {"AP": ap(settings, epoch)})
            with trial.file(EPOCHS_LOG).open("a") as log:
                log.write(f"{epoch}\n")
        outcome = {
            "status": "done",
            "metrics": {"AP": ap(settings, settings["epochs"])},
            "epochs": settings["epochs"],
            "seconds": {"total": 0.1},
        }
    finally:
        write_json(trial.file(naming.RESULT), {"format": 1, "trial": trial.id, **outcome})
        trial.drop_lease()
