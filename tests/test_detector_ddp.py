"""Two processes (gloo) against one process with the joint batch: the same gradients, also when one rank has no boxes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import gfl_lab.detector  # noqa: F401
from tests.support.heads import THREE, batch, feats, make_head, metas, samples
from tests.test_detector_variants import IDS, VARIANTS

SIZE = (96, 96)
KINDS = (("crowded", "one"), ("crowded", "none"), ("none", "none"))


class _Loss(nn.Module):
    """The summed loss of a head as a forward pass, which is what DDP wraps."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: tuple[torch.Tensor, ...], data: list) -> torch.Tensor:
        return sum(self.head.loss(maps, data).values())


def _half(kind: str, seed: int) -> tuple[tuple[torch.Tensor, ...], list]:
    generator = torch.Generator().manual_seed(seed)
    return feats(THREE, SIZE, generator), samples(batch(kind, SIZE, generator), metas(3, SIZE))


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for number, variant in enumerate(VARIANTS):
        model = nn.parallel.DistributedDataParallel(_Loss(make_head(**variant)))
        found = []
        for kinds in KINDS:
            model.zero_grad()
            model(*_half(kinds[rank], rank)).backward()
            found.append(_gradients(model))
        if rank == 0:
            torch.save(found, f"{folder}/{number}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of rank 0 after DDP's averaging, a file for each variant."""
    if not dist.is_gloo_available() or sys.platform == "win32":
        pytest.skip("torch has no gloo here")
    folder = tmp_path_factory.mktemp("ddp")
    # A fork needs no import of torch and mmdet; beside a GPU it could not go backward.
    method = "spawn" if torch.accelerator.is_available() else "fork"
    mp.start_processes(_rank, args=(str(folder),), nprocs=2, start_method=method)
    return folder


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=IDS)
def test_gradients_of_the_joint_batch(two_processes: Path, number: int) -> None:
    model = _Loss(make_head(**VARIANTS[number]))
    for kinds, distributed in zip(KINDS, torch.load(two_processes / f"{number}.pth", weights_only=True), strict=True):
        (maps, data), (more_maps, more_data) = (_half(kind, rank) for rank, kind in enumerate(kinds))
        model.zero_grad()
        model(tuple(torch.cat(pair) for pair in zip(maps, more_maps, strict=True)), data + more_data).backward()
        assert kinds == ("none", "none") or any(gradient.any() for gradient in distributed)
        for (name, parameter), gradient in zip(model.named_parameters(), distributed, strict=True):
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(
                gradient, parameter.grad, rtol=1e-4, atol=1e-5 * max(scale, 1), msg=lambda m, name=name: f"{name}: {m}"
            )
