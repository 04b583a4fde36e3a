"""Trial functions that take milliseconds: what the executors' tests run in place of training."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import Interrupted
from gfl_lab.records.files import write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir
from tests.support.raw import raw_manifest
from tests.support.waiting import wait_until


def _result(trial: TrialDir, **content: object) -> None:
    write_json(trial.file(naming.RESULT), {"format": 1, "trial": trial.id, **content})


def succeed(path: str, should_stop: Callable[[], bool] | None = None, **_: object) -> None:
    """Ten steps, one epoch, done."""
    trial = TrialDir(Path(path))
    trial.take_lease()
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    print("hello from the trial", flush=True)
    for step in range(1, 11):
        writer.write("train", step, 1, {"loss": 1 / step})
    writer.write("val", 10, 1, {"AP": 50.0})
    metrics = {"AP": 50.0}
    if trial.file(naming.MANIFEST).exists():
        write_records(trial)
        metrics |= {"AP50": 50.0, "AP75": 50.0}
    _result(trial, status="done", metrics=metrics, seconds={"total": 0.1}, pid=os.getpid())
    trial.drop_lease()


def write_records(trial: TrialDir) -> None:
    """The records of an evaluation whose AP is 50: of two boxes, each of a class of its own, one is found."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gfl_lab.metrics.coco_records import Records
    from tests.support.fake_runs import SCHEMA

    data = raw_manifest(trial)["spec"]["data"]
    box = np.array([[0.0, 0.0, 40.0, 40.0]])
    records = Records(
        image_ids=np.arange(data["val_images"]), det_image=np.zeros(1, int), det_label=np.zeros(1, int), det_score=np.ones(1), det_box=box,
        gt_image=np.zeros(2, int), gt_label=np.arange(2), gt_area=np.full(2, 1600.0), gt_crowd=np.zeros(2, bool), gt_id=np.arange(1, 3),
        gt_box=np.repeat(box, 2, 0), classes=tuple(data["classes"]),
    )  # fmt: skip
    np.savez(trial.file(naming.EVAL_RECORDS), resampled=np.full((10, 3), 50.0), **records.arrays())
    pq.write_table(pa.Table.from_pylist([], SCHEMA), trial.file(naming.DISTRIBUTIONS))


def fail(path: str, **_: object) -> None:
    """A failed trial writes its result and returns."""
    _result(TrialDir(Path(path)), status="failed", failure={"kind": "non_finite_loss", "reason": "NaN at step 3", "step": 3, "epoch": 1})


def die_once(path: str, **kwargs: object) -> None:
    """Killed by SIGKILL on the first attempt, done on the second."""
    mark = Path(path) / "died"
    if not mark.exists():
        mark.write_text(json.dumps(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    succeed(path)


def die_always(path: str, **_: object) -> None:
    """Killed by SIGKILL, each time."""
    with (Path(path) / "attempts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_stop(path: str, stop_file: str = "", should_stop: Callable[[], bool] | None = None, **_: object) -> None:
    """Runs until it is asked to stop."""
    trial = TrialDir(Path(path))
    trial.take_lease()
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    writer.write("train", 1, 1, {"loss": 1.0})
    try:
        for _tick in range(1200):
            if (should_stop or Path(stop_file).exists)():
                _result(trial, status="interrupted", reason="stopped")
                raise Interrupted("stopped")
            time.sleep(0.05)
    finally:
        trial.drop_lease()


def hang_when_asked(path: str, stop_file: str = "", should_stop: Callable[[], bool] | None = None, **_: object) -> None:
    """Runs until it is asked to stop, and then hangs."""
    trial = TrialDir(Path(path))
    trial.take_lease()
    MetricWriter(trial.file(naming.METRICS_FILE)).write("train", 1, 1, {"loss": 1.0})
    try:
        while not (should_stop or Path(stop_file).exists)():
            time.sleep(0.05)
        time.sleep(300)
    finally:
        trial.drop_lease()


def stuck(path: str, should_stop: Callable[[], bool] | None = None, **_: object) -> None:
    """A trial that hears nothing, with a process of its own where it may have one."""
    trial = TrialDir(Path(path))
    trial.take_lease()
    MetricWriter(trial.file(naming.METRICS_FILE)).write("train", 1, 1, {"loss": 1.0})
    if should_stop is None and os.fork() == 0:
        time.sleep(120)
        os._exit(0)
    time.sleep(120)


IMPORTED = f"{os.getpid()} {time.monotonic()}"


def tell(path: str, **_: object) -> None:
    """Return the inheritance of a trial's process from its parent."""
    told = {
        "server": os.getppid(), "imported": IMPORTED, "gpus": os.environ["CUDA_VISIBLE_DEVICES"], "asker": os.environ["ASKER"], "niceness": os.nice(0),
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
    }  # fmt: skip
    _result(TrialDir(Path(path)), status="done", metrics={}, **told)


def sleep_with_child(path: str, **_: object) -> None:
    """Starts a process of its own and sleeps: what must not stay behind."""
    pid = os.fork()
    if pid == 0:
        time.sleep(120)
        os._exit(0)
    write_json(Path(path) / "pids.json", {"pids": [os.getpid(), pid]})
    time.sleep(120)


def warm_up_beside_another(path: str, **_: object) -> None:
    """A warm-up that ends once a second one runs beside it."""
    trial = TrialDir(Path(path))
    run = trial.path.parents[2]
    (run / f"{os.getpid()}.warms").touch()
    wait_until(lambda: len(list(run.glob("*.warms"))) == 2, 60)
    measured = {"seconds_per_iteration": 0.5, "seconds_per_image": 0.25, "seconds_once": 3.0, "memory_mib": 700.0, "gpu_memory_mib": 0.0}
    _result(trial, status="done", metrics=measured, device="cpu")
