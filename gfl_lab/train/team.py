"""One trial in several processes of one node, a GPU each: they share every batch, and only the first one writes.

The first process starts the others, each a fresh interpreter, so that every one can use its GPU (docs/decisions/0015). All of
them are in the session of the first and die with it. Gradients go over NCCL where each process has a GPU, else over gloo;
flags always go over gloo, on 127.0.0.1.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gfl_lab.errors import FailureKind, Interrupted, TrialError
from gfl_lab.processes import fresh_command

PATIENCE = datetime.timedelta(hours=12)
"""How long the others wait while the first one evaluates. A process that dies is noticed within seconds, not by this."""
GRACE_S = 20.0
"""How long the first process may take to notice that another one has died, before it is ended too."""


class LostRank(TrialError):
    """Another process of the trial ended before its work was done; ``kind`` is what that one told."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Team:
    """The processes of a trial, seen from one of them.

    Attributes:
        rank: 0 for the one that writes. size: how many there are.
    """

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the first process says so; all must ask at the same point."""
        return flag

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes of a tensor of float32."""
        return values

    def least(self, number: int) -> int:
        """The smallest that any process has; all must ask at the same point."""
        return number

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes; one that no process has stays None."""

    def wait(self) -> None:
        """Wait until all have come here."""

    def close(self) -> None:
        """All work is done."""


class _Ranks(Team):
    """A place in the team. The first one knows the others, by rank, and watches them from the start."""

    def __init__(
        self,
        rank: int,
        size: int,
        folder: Path,
        others: dict[int, subprocess.Popen[bytes]],
        abandon: Callable[[LostRank], None] | None = None,
    ) -> None:
        self.rank, self.size, self.folder, self.others, self._abandon = rank, size, folder, others, abandon
        self._over = threading.Event()
        if others:
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def meet(self) -> None:
        """Connect to the others; waits for them."""
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo else listens on the host's own address
        os.environ["NCCL_SOCKET_IFNAME"] = "lo"
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus >= self.size:
            torch.cuda.set_device(self.rank)
        backend = "cpu:gloo,cuda:nccl" if gpus >= self.size else "gloo"
        store = dist.FileStore(str(self.folder / "meet"), self.size)  # not its URL, in which a folder's # and ? would have a meaning
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        self._flags = dist.new_group(backend="gloo", timeout=PATIENCE)

    def any(self, flag: bool) -> bool:
        told = torch.tensor([int(flag)])
        dist.broadcast(told, 0, group=self._flags)
        return bool(told)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def least(self, number: int) -> int:
        told = torch.tensor([number])
        dist.all_reduce(told, dist.ReduceOp.MIN, group=self._flags)
        return int(told)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        own = [parameter for parameter in parameters if parameter.requires_grad]
        if not own:
            return
        # One message for all, and with them who has each: a branch may have been used on one process alone.
        has = own[0].new_tensor([float(parameter.grad is not None) for parameter in own])
        flat = torch.cat([has, *(p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in own)])
        dist.all_reduce(flat)
        used = (flat[: len(own)] > 0).tolist()
        means = flat[len(own) :].div_(self.size).split([parameter.numel() for parameter in own])
        for parameter, mean, anyone in zip(own, means, used, strict=True):
            if anyone:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(mean.view_as(parameter))

    def wait(self) -> None:
        dist.barrier(group=self._flags)

    def close(self) -> None:
        self.wait()
        self._over.set()
        dist.destroy_process_group()

    def end(self) -> None:
        """Nothing of the team stays behind, however its work ended."""
        self._over.set()

    def lost(self, seconds: float = 5.0) -> LostRank | None:
        """The failure of another process, if one has ended badly: what this one then sees is only a broken connection."""
        end = time.monotonic() + seconds
        while self.others and time.monotonic() < end:
            if self._ended():
                return self._cause()
            time.sleep(0.05)
        return None

    def _ended(self) -> list[int]:
        return [rank for rank, process in self.others.items() if process.poll() is not None]

    def _cause(self) -> LostRank:
        """What befell the first one that ended: the others lose their connections to it, and tell of that."""
        time.sleep(0.5)  # for those that are just ending
        told = {rank: _failure_file(self.folder, rank) for rank in self._ended()}
        for rank, file in told.items():
            if not file.exists():
                code = self.others[rank].returncode
                how = "was killed; often the machine ran out of memory" if code < 0 else f"ended with exit code {code}"
                return LostRank(FailureKind.LOST_PROCESS, f"process {rank} of {self.size} {how}")
        rank = min(told, key=lambda rank: told[rank].stat().st_mtime_ns)
        failure = json.loads(told[rank].read_text())
        return LostRank(FailureKind(failure["kind"]), f"{failure['reason']} (in process {rank} of {self.size})")

    def _watch(self) -> None:
        """End this process when another one has died and it does not notice: NCCL may wait for ever."""
        while not self._over.wait(1.0):
            if self._ended():
                if not self._over.wait(GRACE_S):
                    try:
                        if self._abandon:
                            self._abandon(self._cause())
                    finally:
                        os.kill(os.getpid(), signal.SIGKILL)
                return


def _failure_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"


def in_team(
    size: int,
    work: Callable[[Team], Any],
    entry: str,
    kwargs: dict[str, Any],
    abandon: Callable[[LostRank], None] | None = None,
) -> Any:
    """Do ``work`` in this process, and the same in ``size - 1`` more that it starts; what it returned here.

    Args:
        work: called with this process' place in the team.
        entry: ``module:function`` that the others call, with ``kwargs`` and the ``rank``, ``size`` and ``folder`` that `join` takes.
        abandon: called in a thread of this process, which is then killed, when another one has ended and ``work`` does not notice.

    Raises:
        LostRank: another process ended before its work was done. And whatever ``work`` raises here.
    """
    if size == 1:
        return work(Team())
    others: dict[int, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="gfl-ranks-") as folder:
        try:
            for rank in range(1, size):
                command = fresh_command(entry, {**kwargs, "rank": rank, "size": size, "folder": folder}, os.getpid())
                others[rank] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            team = _Ranks(0, size, Path(folder), others, abandon)
            try:
                team.meet()
                result = work(team)
                team.close()
                return result
            except Exception as error:
                if not isinstance(error, TrialError) and (lost := team.lost()):  # else only a broken connection is seen here
                    raise lost from error
                raise
            finally:
                team.end()
        finally:
            for process in others.values():
                process.kill()
                process.wait()


def join(rank: int, size: int, folder: str, work: Callable[[Team], Any], tell: Callable[[Exception], dict[str, Any]]) -> None:
    """Do ``work`` as process ``rank`` of a team, in a process that `in_team` has started.

    Args:
        tell: {kind, reason} of what ``work`` raised, which the first process then tells.

    Raises:
        Exception: whatever ``work`` raises, but for Interrupted.
    """
    try:
        team = _Ranks(rank, size, Path(folder), {})
        team.meet()
        work(team)
        team.close()
    except Interrupted:
        pass
    except Exception as error:
        _failure_file(Path(folder), rank).write_text(json.dumps(tell(error)))
        raise
