"""The one place where gfl-lab stands in for private parts of mmcv: its compiled operators, on torchvision's kernels.

Why: mmcv has no wheels for present versions of torch, and its extension ``mmcv._ext`` takes a CUDA compiler and half an
hour to build. mmcv-lite has all of mmcv's Python without the extension, and ``import mmdet.models`` fails without it.
There is no public interface to give mmcv other operators. ``VERIFIED_MMCV`` is the version that this file was written
against; a test compares it with the one installed.

``install()`` puts a module of the extension's name in place. Operators that this detector family needs are in
``OPERATORS``, each with the signature of mmcv's own. Any other name of the extension raises ``OperatorMissing`` when it is
called. A compiled ``mmcv._ext`` is left alone.

To add an operator, decorate a function with ``@operator``: its name is the name that mmcv looks up.

Deformable convolution is replaced one level higher, in the functions that mmcv's modules call (``FUNCTIONS``):
torchvision has its gradient in one kernel, where mmcv takes it in two halves, and mmcv's own function refuses batches
that its chunk of 32 images does not divide. ``DCN`` (v1), ``DCNv2`` and every module built on these functions stay
mmcv's, with its parameter names.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from gfl_lab.errors import Problem, ResourceError

EXTENSION = "mmcv._ext"

VERIFIED_MMCV = "2.1.0"
"""Version of mmcv-lite whose extension module and functions this file stands in for."""

OPERATORS: dict[str, Callable[..., Any]] = {}
"""Operators served here, by mmcv's names."""


class OperatorMissing(ResourceError, NotImplementedError):
    """A model needs an mmcv operator that torchvision has no kernel for."""

    def __init__(self, name: str) -> None:
        self.operator = name
        super().__init__(
            Problem(
                f"the mmcv operator '{name}' is not available: this environment has mmcv-lite, which has no compiled operators",
                hint=f"gfl-lab serves {', '.join(sorted(OPERATORS))}; a compiled mmcv, where it is installed, is used instead.",
            )
        )


def operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Serve ``function`` as the mmcv operator of the same name."""
    OPERATORS[function.__name__] = function
    return function


@operator
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Return the boxes that greedy non-maximum suppression keeps.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        iou_threshold: a box goes when its IoU with a kept one is above this.
        offset: 0, or 1 for the convention in which a box is ``x2 - x1 + 1`` wide.

    Returns:
        (K,) int64, indices of the boxes kept, best score first.
    """
    if offset:  # x2 - x1 + 1 is the width of a box whose far corner lies one further out
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes.float(), scores.float(), iou_threshold)


def _focal_terms(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    positive = F.one_hot(target, logits.size(1) + 1)[:, : logits.size(1)].bool()
    signed = torch.where(positive, logits, -logits).float()  # logit of "this class's answer is right"
    scale = torch.where(positive, alpha, 1 - alpha)
    if weight.numel():
        scale = scale * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    return positive, signed, scale, (-signed).sigmoid()


@operator
def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float) -> None:
    """Write the focal loss of each logit (Lin et al., arXiv 1708.02002, eq. 5) into ``output``.

    Args:
        input: (N, C) logits.
        target: (N,) int64 class, C for background.
        weight: (C,) weight of each target class, or empty.
        output: (N, C), overwritten.
    """
    _, signed, scale, wrong = _focal_terms(input, target, weight, gamma, alpha)
    output.copy_(-scale * wrong.pow(gamma) * F.logsigmoid(signed))


@operator
def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Write the derivative of ``sigmoid_focal_loss_forward`` by ``input`` into ``grad_input`` (N, C); arguments as there."""
    positive, signed, scale, wrong = _focal_terms(input, target, weight, gamma, alpha)
    # d/ds [-(1-p)^g log p] with p = sigmoid(s): (1-p)^g (g p log p - (1-p))
    grad = scale * wrong.pow(gamma) * (gamma * (1 - wrong) * F.logsigmoid(signed) - wrong)
    grad_input.copy_(torch.where(positive, grad, -grad))


def _deform(
    input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    # no kernel in bfloat16 on CPU; and positions are sums of offsets and indices, which half types round to whole pixels
    dtype = torch.promote_types(offset.dtype, torch.float32)
    mask, bias = (None if x is None else x.to(dtype) for x in (mask, bias))
    return torchvision.ops.deform_conv2d(input.to(dtype), offset.to(dtype), weight.to(dtype), bias, stride, padding, dilation, mask)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """Return a deformable convolution, v1 (Dai et al., arXiv 1703.06211, eq. 2), with the signature of mmcv's ``deform_conv2d``.

    Each tap of the kernel reads the input at its own place plus an offset, bilinearly, zero outside. Computed in
    float32 at least, returned in the type of ``offset``, as mmcv does. Any batch size, any map size.

    Args:
        input: (N, C, H, W).
        offset: (N, deform_groups * 2 * kh * kw, H', W') px; (dy, dx) of each tap, row by row.
        weight: (C', C / groups, kh, kw).
        groups, deform_groups: follow from the shapes.
        bias: False; v1 has none.
        im2col_step: not used; the chunk is the largest divisor of N up to 32.

    Returns:
        (N, C', H', W').
    """
    if bias:
        raise ValueError("deform_conv2d has no bias")
    return _deform(input, offset, None, weight, None, stride, padding, dilation).to(offset.dtype)


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Return a deformable convolution, v2 (Zhu et al., arXiv 1811.11168, eq. 1): v1 with each tap's sample times ``mask``.

    Args:
        mask: (N, deform_groups * kh * kw, H', W'), 0..1.
        bias: (C',) or None.

    Other arguments, types and the result as in ``deform_conv2d``.
    """
    return _deform(input, offset, mask, weight, bias, stride, padding, dilation).to(offset.dtype)


FUNCTIONS = {"deform_conv": deform_conv2d, "modulated_deform_conv": modulated_deform_conv2d}
"""Functions that stand in for mmcv's of the same name, by the module of ``mmcv.ops`` that defines them."""


@operator
def get_compiler_version() -> str:
    """Return the text of mmcv's environment report in place of a compiler."""
    return "none (gfl-lab serves torchvision's kernels)"


@operator
def get_compiling_cuda_version() -> str:
    """Return the text of mmcv's environment report in place of the compiler's CUDA version."""
    return f"none (torch {torch.version.cuda or 'without CUDA'})"


class _Extension(types.ModuleType):
    """The module ``mmcv._ext``: any name is there, the ones that are not served raise when called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in OPERATORS:
            return OPERATORS[name]

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise OperatorMissing(name)

        missing.__name__ = missing.__qualname__ = name
        return missing


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Extension(spec.name, __doc__)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def is_installed() -> bool:
    """Return True if ``mmcv._ext`` is the module that ``install`` made."""
    return isinstance(sys.modules.get(EXTENSION), _Extension)


def install() -> None:
    """Make ``mmcv.ops`` and with it ``mmdet.models`` importable without a compiled mmcv. Does nothing the second time."""
    if importlib.util.find_spec(EXTENSION) is not None:
        return
    module = importlib.util.module_from_spec(ModuleSpec(EXTENSION, _Loader(), origin=__name__))
    sys.modules[EXTENSION] = module
    import mmcv

    mmcv._ext = module
    package = importlib.import_module("mmcv.ops")
    for name, function in FUNCTIONS.items():
        for place in (package, importlib.import_module(f"mmcv.ops.{name}")):
            setattr(place, function.__name__, function)
