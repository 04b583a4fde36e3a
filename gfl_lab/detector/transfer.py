"""Copies between the host and a GPU that do not make the host wait: from and to page-locked ("pinned") memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``.

    A copy from pageable memory to a GPU waits until all work in the stream before it is done. This one goes through pinned memory, which
    torch keeps and reuses, and waits for nothing.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
    return pinned.to(device, non_blocking=True)


def all_to_device(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors on ``device``, in one copy for all of one type and row shape: a batch has several small ones for each image."""
    tensors = list(tensors)
    groups: dict[tuple[torch.dtype, torch.Size], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.device != device:
            groups.setdefault((tensor.dtype, tensor.shape[1:]), []).append(index)
    for members in groups.values():
        counts = [len(tensors[index]) for index in members]
        moved = to_device(torch.cat([tensors[index] for index in members]), device)
        for index, part in zip(members, moved.split(counts), strict=True):
            tensors[index] = part
    return tensors


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy ``tensor`` to the host; return a function that waits for the copy alone and returns the values.

    Work that is queued between the two calls is not waited for.
    """
    if tensor.device.type != "cuda":
        return lambda: tensor
    values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    values.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # the core is free for loaders and for other trials meanwhile
    done.record()

    def wait() -> Tensor:
        done.synchronize()
        return values

    return wait
