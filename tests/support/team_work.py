"""The work of a process group in tests, called through a fork server as a trial is."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper

from gfl_lab.errors import FailureKind, TrialError
from gfl_lab.processes import call_and_exit, die_with_parent
from gfl_lab.records.files import write_json
from gfl_lab.train import parallel
from gfl_lab.train.parallel import join_group, run_in_group
from gfl_lab.train.process_group import ProcessGroup
from gfl_lab.train.step import TrainingStep


class Forked:
    """A further process of a group as a fork of the first one, with those methods of Popen that `parallel` calls.

    It calls the function that the command names, as the fresh interpreter in whose place it is, and needs no import of torch.
    """

    def __init__(self, command: list[str], **_: object) -> None:
        *_, entry, kwargs, parent = command
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self._pid = os.fork()
        if not self._pid:
            die_with_parent(int(parent))
            call_and_exit(entry, json.loads(kwargs))

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.01)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)


def forking(path: str, of: str, **kwargs: object) -> None:
    """Call ``of``, a ``module:function``, with further processes that are forks. Only without a GPU, which a fork cannot use."""
    parallel.subprocess = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)
    module, _, name = of.partition(":")
    getattr(importlib.import_module(module), name)(path=path, **kwargs)


def _describe(error: Exception) -> dict[str, Any]:
    return {"kind": FailureKind.OUT_OF_MEMORY if isinstance(error, MemoryError) else FailureKind.ERROR, "reason": str(error)}


def _agree(group: ProcessGroup, path: str) -> None:
    """Write what each process learned from the others."""
    found = {
        "pid": os.getpid(),
        "is_main": group.is_main,
        "bad_fork": torch.cuda._is_in_bad_fork(),  # torch's own mark; it has no public name
        "flag": [group.broadcast_flag(group.is_main), group.broadcast_flag(not group.is_main)],
        "mean": float(group.all_reduce_mean(torch.tensor([float(group.rank)]))),
    }
    write_json(Path(path) / f"rank{group.rank}.json", found)


def _go_wrong(group: ProcessGroup, path: str, how: str) -> None:
    _agree(group, path)
    group.barrier()
    if group.rank == group.size - 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("no room")
    group.barrier()
    time.sleep(60)


def go_wrong(path: str, size: int, how: str) -> None:
    """The processes agree; then the last one goes wrong while the first one waits for it."""
    try:
        run_in_group(size, lambda group: _go_wrong(group, path, how), f"{__name__}:also_go_wrong", {"path": path, "how": how})
    except TrialError as error:
        (Path(path) / "told.json").write_text(json.dumps([error.kind, str(error)]))


def also_go_wrong(path: str, how: str, rank: int, size: int, folder: str) -> None:
    """Be a further process of `go_wrong`."""
    join_group(rank, size, folder, lambda group: _go_wrong(group, path, how), _describe)


def go_wrong_and_be_ended(path: str, size: int) -> None:
    """One never comes to the meeting place: the first process tells so, and is killed."""

    def on_lost(error: TrialError) -> None:
        (Path(path) / "told.json").write_text(json.dumps([error.kind, str(error)]))

    parallel.GRACE_S = 0.5
    run_in_group(size, lambda _: None, "tests.support.no_import:join", {}, on_lost)


class _Branches(BaseModel):
    """A model whose branch ``second`` takes part in the loss of images above 0 alone, and ``never`` in none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.never = (torch.nn.Linear(2, 1, bias=False) for _ in range(3))
        for layer in (self.first, self.second, self.never):
            torch.nn.init.ones_(layer.weight)

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = "loss") -> dict[str, torch.Tensor]:
        loss = self.first(inputs).square().mean()
        return {"loss_sum": loss + self.second(inputs).mean() if (inputs > 0).all() else loss}


class _Recorder(OptimWrapper):
    """Keeps the gradients that a step would use."""

    def step(self, **_: Any) -> None:
        module = self.optimizer.param_groups[0]["params"]
        self.seen = [None if parameter.grad is None else parameter.grad.flatten().tolist() for parameter in module]


BATCHES = {
    "one process": [[[1.0, 2.0], [3.0, 5.0]], [[-1.0, 1.0], [2.0, -3.0]]],
    "first part": [[[3.0, 5.0], [-1.0, 2.0]], [[-1.0, 1.0], [2.0, -3.0]]],
}
"""Images of each of two processes: the branch is used in the main process alone, in all of its batch or in the first half of it."""


def branch_gradients(images: torch.Tensor, accumulation_steps: int, group: ProcessGroup | None = None) -> tuple[list[Any], float]:
    """Return the gradients of one step and its loss."""
    model = _Branches()
    optim = _Recorder(torch.optim.SGD(model.parameters(), lr=0.1))
    terms = TrainingStep(model, optim, accumulation_steps, group)({"inputs": images})
    return optim.seen, float(terms["loss"])


def _branches(group: ProcessGroup, path: str) -> int:
    _agree(group, path)
    found = {
        f"{name}, {steps}": branch_gradients(torch.tensor(images[group.rank]), steps, group)
        for name, images in BATCHES.items()
        for steps in (1, 2)
    }
    write_json(Path(path) / f"gradients{group.rank}.json", found)
    group.barrier()
    return group.size


def branches(path: str, size: int) -> None:
    """The processes agree, and each writes the gradients of a step in which a branch is used by the main process alone."""
    returned = run_in_group(size, lambda group: _branches(group, path), f"{__name__}:also_branches", {"path": path})
    write_json(Path(path) / "returned.json", {"size": returned, "pid": os.getpid()})


def also_branches(path: str, rank: int, size: int, folder: str) -> None:
    """Be a further process of `branches`."""
    join_group(rank, size, folder, lambda group: _branches(group, path), _describe)
