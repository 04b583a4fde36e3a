"""The processes of one trial on one node, a GPU each, as each of them sees the others: torch's process group.

Each process takes its part of every batch (`WholeSampler`, docs/decisions/0009); torch's DistributedDataParallel averages the
gradients during the backward pass (docs/decisions/0030). Tensors on a GPU travel over NCCL, everything else over gloo. Both
use the loopback interface alone.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = datetime.timedelta(hours=12)
"""Time that a process waits for another, which may be evaluating. The death of a process is noticed within seconds, not by this."""


class ProcessGroup:
    """A trial in a single process, and the interface of `DistributedGroup`. Collective calls are made by all processes, in one order.

    Attributes:
        rank: 0 for the main process, which alone writes. size: number of processes.
    """

    rank, size = 0, 1

    @property
    def is_main(self) -> bool:
        """Return True in the process that writes."""
        return self.rank == 0

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the main process' ``flag``. Collective."""
        return flag

    def all_reduce_mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over the processes of a float32 tensor. Collective."""
        return values

    def all_reduce_min(self, number: int) -> int:
        """Return the smallest ``number`` of any process. Collective."""
        return number

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module whose forward and backward pass train ``model``. Collective; every process has its final start weights."""
        return model

    def barrier(self) -> None:
        """Wait until all processes are here. Collective."""

    def close(self) -> None:
        """Leave the group after a barrier, when all work is done."""


class DistributedGroup(ProcessGroup):
    """One process of several.

    Args:
        rank: of this process.
        size: number of processes.
        folder: where they meet; the same, empty one for all.
    """

    def __init__(self, rank: int, size: int, folder: Path) -> None:
        self.rank, self.size, self.folder = rank, size, folder

    def connect(self) -> None:
        """Connect to the other processes; waits for them."""
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo else listens on the host's own address
        os.environ["NCCL_SOCKET_IFNAME"] = "lo"
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus >= self.size:
            torch.cuda.set_device(self.rank)
        backend = "cpu:gloo,cuda:nccl" if gpus >= self.size else "gloo"
        # An object, not a file:// address: there a # or ? of the folder's name would have a meaning.
        store = dist.FileStore(str(self.folder / "meet"), self.size)  # type: ignore[attr-defined]  # public, but not in __all__
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
        self._flags = dist.new_group(backend="gloo", timeout=TIMEOUT)

    def broadcast_flag(self, flag: bool) -> bool:
        sent = torch.tensor([int(flag)])
        dist.broadcast(sent, 0, group=self._flags)
        return bool(sent)

    def all_reduce_mean(self, values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def all_reduce_min(self, number: int) -> int:
        smallest = torch.tensor([number])
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=self._flags)
        return int(smallest)

    def wrap(self, model: nn.Module) -> DistributedDataParallel:
        """Return ``model`` in torch's wrapper, which averages gradients over the processes during the backward pass.

        ``find_unused_parameters``: a head of the user's may leave a branch out of the graph for a batch without boxes, in one
        process alone. Such a gradient counts as 0; a parameter that no process used keeps None. The graph is not static for the
        same reason. It also keeps the buckets as they are made: torch else rearranges them after the first step, and sums over
        more than two processes would differ after a resumption.
        """
        return DistributedDataParallel(
            model,
            broadcast_buffers=False,  # statistics of batch norms are written by the main process alone, and training does not read them
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )

    def barrier(self) -> None:
        dist.barrier(group=self._flags)

    def close(self) -> None:
        dist.destroy_process_group()


def without_gradient_sync(network: nn.Module, skip: bool) -> AbstractContextManager[None]:
    """Return a context in which, if ``skip``, gradients are added up in this process and not averaged over the processes."""
    return network.no_sync() if skip and isinstance(network, DistributedDataParallel) else contextlib.nullcontext()
