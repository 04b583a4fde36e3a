"""The checkpoints of a training: all that it needs to continue exactly where it was (docs/decisions/0005)."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely, save
from gfl_lab.errors import InputError, StoreError
from gfl_lab.records.files import atomic_path, check_format
from gfl_lab.rundir import TrialDir
from gfl_lab.train.ema import MovingAverage

_WHOLE = {"meta", "state_dict", "optimizer", "param_schedulers"}


def save_checkpoint(trial: TrialDir, runner: Any, *, epoch: int, step: int, average: MovingAverage | None = None) -> None:
    """Write weights, optimizer, schedules and position as the last checkpoint, atomically; what was the last is the previous one then.

    At every moment at least one whole checkpoint lies on the disk, though for an instant not under the name of the last.

    ``state_dict`` holds the trial's weights, which are the moving average where there is one; ``trained`` then holds those
    that training goes on with.

    Args:
        epoch: finished epochs. step: finished iterations. average: the moving average of the weights.
    """

    weights = _on_cpu(dict(runner.model.state_dict()))
    content = {
        "meta": {
            "epoch": epoch,
            "iter": step,
            "trial": trial.id,
            "format": naming.FORMAT_VERSION,
            "classes": list(runner.train_dataloader.dataset.metainfo["classes"]),
        },
        "state_dict": _on_cpu(average.weights) if average else weights,
        "optimizer": _on_cpu(runner.optim_wrapper.state_dict()),
        "param_schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
    }
    if average:
        content |= {"trained": weights, "average_updates": average.updates}
    path = trial.file(naming.LAST_CHECKPOINT)
    with atomic_path(path) as temporary:
        save(content, temporary, path)
        if path.exists():
            path.replace(trial.file(naming.PREVIOUS_CHECKPOINT))


def _on_cpu(state: Any) -> Any:
    """Return nested dictionaries and lists with their tensors on the CPU: a checkpoint from a GPU is read on any machine."""
    if isinstance(state, torch.Tensor):
        return state.detach().cpu()
    if isinstance(state, Mapping):
        return {key: _on_cpu(value) for key, value in state.items()}
    return type(state)(_on_cpu(value) for value in state) if isinstance(state, (list, tuple)) else state


def load_last(trial: TrialDir) -> dict[str, Any] | None:
    """Return the trial's last good checkpoint, or None when there is none.

    A damaged one is set aside (``last.damaged``), the one before it is used, and log.txt has a line on it.

    Raises:
        StoreError: it belongs to another trial, or is of another format.
    """
    for name in (naming.LAST_CHECKPOINT, naming.PREVIOUS_CHECKPOINT):
        path = trial.file(name)
        if not path.exists():
            continue
        try:
            content = load_safely(path)
            _check_whole(path, content)
        except StoreError:
            raise
        except InputError as error:
            cause = error.__context__
            if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL)):
                raise cause from None  # it could not be read now, but may be sound
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            trial.log(f"{error.problems[0].message}; it is set aside as {aside.name}")
            continue
        if content["meta"]["trial"] != trial.id:
            raise StoreError(f"{path} belongs to trial {content['meta']['trial']}, not to {trial.id}")
        return content
    return None


def _check_whole(path: Path, content: dict[str, Any]) -> None:
    """Refuse a checkpoint that has lost something. Raises InputError; FormatError for one of another format."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the check sums
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if damaged:
        raise InputError(f"{path} is damaged: the check sum of {damaged} is wrong")
    meta = content.get("meta")
    if not isinstance(meta, dict) or not _WHOLE <= content.keys() or not {"trial", "epoch", "iter"} <= meta.keys():
        raise InputError(f"{path} is not a trial's checkpoint")
    check_format(path, meta.get("format", naming.FORMAT_VERSION))


def restore(runner: Any, content: dict[str, Any], average: MovingAverage | None = None) -> None:
    """Put weights, their average, optimizer and schedules of a checkpoint into a built runner. The loop's position is the caller's."""
    runner.model.load_state_dict(content.get("trained", content["state_dict"]))
    if average:
        average.load(content["state_dict"], content["average_updates"])
    runner.optim_wrapper.load_state_dict(content["optimizer"])
    for scheduler, state in zip(runner.param_schedulers, content["param_schedulers"], strict=True):
        scheduler.load_state_dict(state)
