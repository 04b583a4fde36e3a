"""`run_trial` with a fault at an exact point, for a process of its own: what is broken here stays broken in that process.

A fault strikes once in a run directory, marked by a file there; so the attempt after it is undisturbed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gfl_lab import naming
from gfl_lab.detector.trial_detector import TrialDetector
from gfl_lab.inference import latency
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir
from gfl_lab.train import final, loop, trial
from gfl_lab.train.trial import run_trial
from tests.support.raw import raw_manifest

# isort: split
from mmdet.models.detectors import TwoStageDetector  # after ours, which has mmcv's operators

latency.WARMUP_IMAGES, latency.MEASURED_IMAGES = 0, 2  # as tests/conftest.py, for the processes that begin with this module

POINTS = (
    "step 1", "step 4", "half a checkpoint", "before the renames", "between the renames", "validation", "last evaluation",
    "eval records", "distributions", "last line", "result",
)  # fmt: skip
"""Places at which `killed` can kill a trial; among its checkpoints, the second one's write."""


def _once(path: Path, point: str) -> bool:
    mark = path / f"mark-{point.replace(' ', '-')}"
    if mark.exists():
        return False
    mark.touch()
    return True


def _before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Have ``act`` called with the arguments of a function or method just before it."""
    original = getattr(owner, name)

    def both(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, both)


def killed(path: str, at: list[str], **kwargs: Any) -> None:
    """SIGKILL at each of these points, one an attempt, the first one that has not struck yet."""
    folder = Path(path)
    last, previous = folder / naming.LAST_CHECKPOINT, folder / naming.PREVIOUS_CHECKPOINT
    point = next((point for point in at if _once(folder, point)), "")

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_at_step(hook: Any, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter + 1 == int(point.split()[1]):
            die()

    if point.startswith("step"):
        _before(loop.TrialHook, "before_train_iter", die_at_step)
    elif point == "half a checkpoint":

        def half(content: Any, file: Path) -> None:
            save(content, file)
            if os.path.exists(last):
                os.truncate(file, file.stat().st_size // 2)
                die()

        save, torch.save = torch.save, half
    elif point == "before the renames":
        _before(Path, "replace", lambda file, to: die() if file.name == last.name else None)
    elif point == "between the renames":
        _before(Path, "replace", lambda file, to: die() if Path(to) == last and not os.path.exists(last) and previous.exists() else None)
    elif point == "validation":
        _before(loop.TrialHook, "_validate", die)
    elif point == "last evaluation":
        _before(trial.CocoEvaluator, "write_records", die)
    elif point == "eval records":
        _before(Path, "chmod", lambda file, mode: die() if file.name.startswith(".eval.npz") else None)
    elif point == "distributions":
        _before(Path, "chmod", lambda file, mode: die() if file.name.startswith(".distributions") else None)
    elif point == "last line":
        _before(final, "measure_latency", die)
    elif point == "result":
        _before(trial, "_write_result", die)
    run_trial(path, **kwargs)


def always_dies(path: str, step: int, **kwargs: Any) -> None:
    """SIGKILL before this step, every time; a line for each attempt."""

    def die(hook: Any, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter + 1 == step:
            with (Path(path) / "attempts").open("a") as file:
                file.write("x\n")
            os.kill(os.getpid(), signal.SIGKILL)

    _before(loop.TrialHook, "before_train_iter", die)
    run_trial(path, **kwargs)


def little_memory(path: str, images: int, from_step: int = 1, die_at: int = 0, **kwargs: Any) -> None:
    """No room for more than so many images in training, from a step on; killed once before step ``die_at``, in parts."""

    def full(detector: Any, inputs: torch.Tensor, *_: Any, **__: Any) -> None:
        if detector.training and len(inputs) > images and position.step >= from_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def watch(hook: Any, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter + 1 == die_at and runner.accumulation_steps > 1 and _once(Path(path), "died in parts"):
            os.kill(os.getpid(), signal.SIGKILL)
        position.step = runner.iter + 1

    position = loop.Position()
    for kind in (TrialDetector, TwoStageDetector):
        _before(kind, "loss", full)
    _before(loop.TrialHook, "before_train_iter", watch)
    run_trial(path, **kwargs)


def fill(filler: Path, leave: int = 0) -> None:
    """Fill the file system that this file is on, but for so many bytes."""
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    if leave:
        os.truncate(filler, filler.stat().st_size - leave)


def disk_fills(path: str, when: str, **kwargs: Any) -> None:
    """Fills the file system of the run directory, once, but for what `when` says: at the first ``line`` of metrics nothing is left;
    at the first ``checkpoint`` 128 KiB; and at the ``outcome`` nothing, once more."""

    filler = Path(path).parent / "filler"
    if _once(Path(path), "filled"):
        if when == "checkpoint":
            _before(loop.TrialHook, "_save", lambda *_, **__: fill(filler, leave=2**17))
        else:
            _before(MetricWriter, "write", lambda *_: fill(filler))
        if when == "outcome":
            _before(trial, "_write_result", lambda *_: fill(filler))
    run_trial(path, **kwargs)


def data_vanish(path: str, what: str, **kwargs: Any) -> None:
    """The training images vanish after the first step, or the validation's annotations while the trial starts."""
    paths = raw_manifest(TrialDir(Path(path)))["paths"]

    def away(name: str) -> None:
        shutil.move(paths[name], paths[name] + ".away")

    if what == "images":
        _before(loop.TrialHook, "after_train_iter", lambda hook, runner, *_, **__: away("train_images") if runner.iter == 0 else None)
    else:
        _before(trial, "trial_config", lambda *_: away("val_annotations"))
    run_trial(path, **kwargs)
