"""Deformable convolution, v1 and v2, by torchvision's kernel.

It is replaced in the functions that mmcv's modules call: torchvision has its gradient in one kernel, where mmcv takes it in
two halves, and mmcv's own function refuses batches that its chunk of 32 images does not divide. ``DCN`` (v1), ``DCNv2`` and
every module built on these functions stay mmcv's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn.modules.utils import _pair

from gfl_lab.detector.mmcv_ops.extension import replaces


def _deform(
    input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    # no kernel in bfloat16 on CPU; and positions are sums of offsets and indices, which half types round to whole pixels
    dtype = torch.promote_types(offset.dtype, torch.float32)
    mask, bias = (None if x is None else x.to(dtype) for x in (mask, bias))
    # torchvision's kernel reads outside of the map where an offset is no number, which ends the process
    offset = offset.to(dtype).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return torchvision.ops.deform_conv2d(input.to(dtype), offset, weight.to(dtype), bias, stride, padding, dilation, mask)


def _leading(values: Tensor, rows: int, columns: int) -> Tensor:
    """Return the first ``rows * columns`` numbers of each channel as mmcv's kernel v2 counts them, where a map is larger than the output.

    The kernel takes the size of the output for that of the offsets. DyHead gives a smaller level the offsets of a larger
    one, and its published weights were trained so.
    """
    n, channels, height, width = values.shape
    if (height, width) == (rows, columns) or height * width < rows * columns:
        return values
    return values.flatten(1)[:, : channels * rows * columns].view(n, channels, rows, columns)


@replaces("mmcv.ops.deform_conv")
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


@replaces("mmcv.ops.modulated_deform_conv")
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
    steps, borders, gaps = _pair(stride), _pair(padding), _pair(dilation)
    rows, columns = (
        (input.size(2 + axis) + 2 * borders[axis] - gaps[axis] * (weight.size(2 + axis) - 1) - 1) // steps[axis] + 1 for axis in (0, 1)
    )
    offset, mask = _leading(offset, rows, columns), _leading(mask, rows, columns)
    return _deform(input, offset, mask, weight, bias, stride, padding, dilation).to(offset.dtype)
