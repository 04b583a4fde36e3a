"""A trial function whose AP is known beforehand: an effect by learning rate, and noise by learning rate and seed."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from gfl_lab import naming
from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.records.files import write_json
from gfl_lab.rundir import TrialDir
from tests.support.fake_trial import write_records
from tests.support.raw import raw_manifest

EFFECTS = {0.001: 0.0, 0.002: 30.0, 0.003: 0.02, 0.004: -2.0}
"""AP over that of the baseline, by learning rate: very large, next to nothing, and large."""
NOISE = 0.3
FAILING = 0.009
STARTED = "started.log"


def ap(lr: float, seed: int) -> float:
    """AP of a trial."""
    noise = np.random.default_rng(zlib.crc32(f"{lr} {seed}".encode())).normal()
    return round(50 + EFFECTS.get(lr, 0.0) + NOISE * float(noise), 4)


def known(path: str, **_: object) -> None:
    """Write a finished trial; with the learning rate FAILING from the third seed on a failed one."""
    trial = TrialDir(Path(path))
    trial.take_lease()
    spec = raw_manifest(trial)["spec"]
    lr, seed = spec["settings"]["lr"], spec["seed"]
    with trial.file(STARTED).open("a") as log:
        log.write("1\n")
    if lr == FAILING and seed >= 2:
        content = {"status": "failed", "failure": {"kind": "non_finite_loss", "reason": "NaN", "step": 1, "epoch": 1}}
    else:
        write_records(trial)
        with np.load(trial.file(naming.EVAL_RECORDS)) as arrays:
            kept = dict(arrays)
        np.savez(trial.file(naming.EVAL_RECORDS), **kept | {"resampled": np.full((10, len(RESAMPLED)), ap(lr, seed))})
        content = {"status": "done", "metrics": dict.fromkeys(RESAMPLED, ap(lr, seed)), "seconds": {"total": 0.1}}
    write_json(trial.file(naming.RESULT), {"format": 1, "trial": trial.id, **content})
    trial.drop_lease()
