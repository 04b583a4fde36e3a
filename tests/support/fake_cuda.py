"""Code that runs as on a GPU, without one: tensors have the device ``cuda``, shapes and types, and no values (torch's fake tensors).

Every operation passes through ``FakeCuda``, which records tensors of two devices in one operation, copies from the host, and everything
for which the host waits. An operation whose result depends on values gets made-up ones, so that the code goes on.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes  # the documented way to watch operators
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from gfl_lab.train import loop, trial

FOUND = 3
"""Elements that `nonzero`, a boolean mask and the like are made to find."""

_WAIT = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal", "_local_scalar_dense", "nms"}
_WITHOUT_FAKE = {"_amp_foreach_non_finite_check_and_unscale_", "_amp_update_scale_", "_fused_adamw_", "_fused_sgd_"}
"""Operators of optimizers in place, which have no version for fake tensors: only the devices of their arguments are looked at."""
_MADE_UP = {torch.bool: True, torch.float32: 1.0, torch.float64: 1.0}


@dataclass(frozen=True)
class Copy:
    """A copy from the host to the device, and where in gfl_lab it is asked for."""

    place: str
    shape: tuple[int, ...]
    waits: bool


class FakeCuda(TorchDispatchMode):
    """Record what happens on the device.

    Attributes:
        waits: (operation, place) of each wait of the host, and how often. copies: to the device. mixed: operations over two devices.
        operations: names of all that ran on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copies: list[Copy] = []
        self.mixed: list[tuple[str, str]] = []
        self.operations: set[str] = set()
        self.pinned: set[int] = set()

    def clear(self) -> None:
        """Delete the record so far."""
        self.waits.clear()
        self.copies.clear()
        self.mixed.clear()

    def wait(self, what: str) -> None:
        """Record a wait of the host."""
        self.waits[what, place()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled() and func.namespace == "aten":  # then autograd has not taken apart what it takes apart else
            with self:
                taken_apart = func.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        name = func.overloadpacket.__name__
        pin = kwargs.pop("pin_memory", None)
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        on_device = any(one.device.type == "cuda" for one in tensors)
        if on_device:
            self.operations.add(name)
        if name in ("_to_copy", "copy_"):
            self._copy(name, args, kwargs)
        elif on_device and any(one.device.type == "cpu" and one.dim() for one in tensors):
            self.mixed.append((name, place()))
        if on_device and name in _WAIT:
            self.wait(name)
        if name == "_local_scalar_dense":
            return _MADE_UP.get(tensors[0].dtype, 1)
        if name == "nonzero":
            return tensors[0].new_zeros((FOUND, tensors[0].dim()), dtype=torch.long)
        if name == "nms":
            return tensors[0].new_zeros(min(FOUND, len(tensors[0])), dtype=torch.long)
        if name == "bincount":
            return tensors[0].new_zeros(kwargs.get("minlength", args[2] if len(args) > 2 else FOUND))
        if name == "_unique2":
            return tensors[0].new_zeros(FOUND), *(tensors[0].new_zeros(FOUND, dtype=torch.long) for _ in range(2))
        if name == "unique_dim":
            rows = tensors[0].new_zeros((FOUND, *tensors[0].shape[1:]))
            return rows, *(tensors[0].new_zeros(FOUND, dtype=torch.long) for _ in range(2))
        if name == "equal":
            return True
        if name == "repeat_interleave" and isinstance(args[-1], Tensor) and kwargs.get("output_size") is None:
            if on_device:
                self.wait(name)
            return args[-1].new_zeros(FOUND)
        if name in ("index", "index_put_", "index_put", "_index_put_impl_") and any(_is_mask(one) for one in args[1]):
            if on_device:
                self.wait(f"{name} by a mask")
            indices = [part for one in args[1] for part in (_as_places(one) if _is_mask(one) else [one])]
            values = [args[2].expand(args[2].shape) if args[2].dim() == 0 else args[2][:FOUND]] if name != "index" else []
            args = (args[0], indices, *values)
        if name in _WITHOUT_FAKE:
            return args[0] if name == "_amp_update_scale_" else None
        out = func(*args, **kwargs)
        if pin and isinstance(out, Tensor):
            out._is_pinned = True
        return out

    def _copy(self, name: str, args: Any, kwargs: Any) -> None:
        if name == "_to_copy":
            source, target = args[0], kwargs.get("device")
            target, kept = (args[0].device if target is None else torch.device(target)), False
            without_wait = kwargs.get("non_blocking", False)
        else:
            source, target, kept = args[1], args[0].device, getattr(args[0], "_is_pinned", False)
            without_wait = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if source.device.type == target.type:
            return
        if target.type == "cuda":
            self.copies.append(Copy(place(), tuple(source.shape), not (without_wait and getattr(source, "_is_pinned", False))))
        elif not (without_wait and kept):
            self.wait("copy to the host")


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _as_places(mask: Tensor) -> list[Tensor]:
    return [mask.new_zeros(FOUND, dtype=torch.long) for _ in range(mask.dim())]


def place() -> str:
    """Return ``detector/head.py:_detect``: the innermost function of gfl_lab that is running, or that asks for a transfer."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if "/gfl_lab/" in file and not file.endswith("/detector/transfer.py"):
            function = [part for part in frame.f_code.co_qualname.split(".") if not part.startswith("<")]
            return f"{file.rpartition('/gfl_lab/')[2]}:{function[-1] if function else '<module>'}"
        frame = frame.f_back
    return "?"


class _Event:
    """Stands in for ``torch.cuda.Event``."""

    seen: FakeCuda

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        self.seen.wait("event")


def _numpy(original: Callable[..., Any]) -> Callable[..., Any]:
    def numpy(self: Tensor, *args: Any, **kwargs: Any) -> np.ndarray:
        if not isinstance(self, FakeTensor):
            return original(self, *args, **kwargs)
        assert self.device.type == "cpu", "numpy() of a tensor on the device"
        return np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))

    return numpy


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Within the block ``model.to("cuda")`` works as if there were a GPU, and every operation is watched.

    There is no backward pass over fake tensors of a GPU that is not there: see `with_gradients`.
    """
    seen = FakeCuda()

    def tolist(self: Tensor) -> Any:
        if self.device.type == "cuda":
            seen.wait("tolist")
        return np.full(tuple(self.shape), _MADE_UP.get(self.dtype, 1)).tolist()

    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda, "get_device_name", lambda *_: "fake"),
            (torch.cuda, "max_memory_allocated", lambda *_: 2**20),
            (torch.cuda, "synchronize", lambda *_: seen.wait("synchronize")),
            (torch.cuda, "Event", type("Event", (_Event,), {"seen": seen})),
            (torch.Tensor, "numpy", _numpy(torch.Tensor.numpy)),
            (FakeTensor, "tolist", tolist),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(seen)
        yield seen


def with_gradients(model: torch.nn.Module) -> Any:
    """In place of a backward pass, which torch does not have here, parameters get gradients of their shapes within the block."""

    def backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
        assert self.device.type == "cuda" and self.requires_grad and self.dim() == 0
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)

    return mock.patch.object(torch.Tensor, "backward", backward)


@contextlib.contextmanager
def trial_on_fake_cuda() -> Iterator[tuple[FakeCuda, list[dict[str, Any]]]]:
    """Within the block `run_trial` trains on the fake device from the moment that its model goes there.

    Yields:
        The record of the device, and the content of each checkpoint, which is not written. Loaders work with real tensors.
    """
    seen, saved = FakeCuda(), []
    originals = loop.TrialRunner.wrap_model, trial.Runner.build_dataloader, DataLoader.__iter__

    def save(content: dict[str, Any], path: Any) -> None:
        saved.append(content)
        open(path, "wb").close()

    def build(*args: Any, **kwargs: Any) -> DataLoader:
        with _disable_current_modes():
            return originals[1](*args, **kwargs)

    def batches(self: DataLoader) -> Iterator[Any]:
        with _disable_current_modes():
            loader = originals[2](self)
        while True:
            with _disable_current_modes():
                batch = next(loader, None)
            if batch is None:
                return
            yield batch

    with contextlib.ExitStack() as stack:

        def wrap(self: Any, config: Any, model: torch.nn.Module) -> torch.nn.Module:
            one = stack.enter_context(fake_cuda())
            seen.waits, seen.copies, seen.mixed = one.waits, one.copies, one.mixed
            stack.enter_context(with_gradients(model))
            return originals[0](self, config, model)

        for target, name, value in (
            (loop.TrialRunner, "wrap_model", wrap),
            (trial.Runner, "build_dataloader", staticmethod(build)),
            (DataLoader, "__iter__", batches),
            (torch, "save", save),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(mock.patch("mmengine.runner.runner.get_device", lambda: "cuda"))
        yield seen, saved
