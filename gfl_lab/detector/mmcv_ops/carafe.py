"""CARAFE, content-aware upsampling, in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl_lab.detector.mmcv_ops.extension import replaces


@replaces("mmcv.ops.carafe")
def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Return the upsampled map (Wang et al., arXiv 1905.02188, eq. 2): a weighted sum of the neighbours of each location.

    Location (y, x) of the output sums the ``kernel_size`` x ``kernel_size`` neighbours of location (y // s, x // s) of
    ``features``, 0 outside, with its own weights. Computed in float32 at least, returned in the type of ``features``.

    Args:
        features: (N, C, H, W).
        masks: (N, group_size * kernel_size ** 2, s * H, s * W), weights; the channels of a group share them.
        kernel_size: odd.
        group_size: a divisor of C.
        scale_factor: s, at least 1.

    Returns:
        (N, C, s * H, s * W).

    Raises:
        ValueError: sizes that do not fit each other.
    """
    n, channels, height, width = features.shape
    wanted = (n, group_size * kernel_size**2, scale_factor * height, scale_factor * width)
    if tuple(masks.shape) != wanted or kernel_size % 2 == 0 or channels % group_size:
        raise ValueError(
            f"CARAFE of {tuple(features.shape)} takes masks of {wanted}, an odd kernel and groups that divide the channels; "
            f"not {tuple(masks.shape)}, kernel {kernel_size}, {group_size} groups"
        )
    dtype = torch.promote_types(features.dtype, torch.float32)
    border = kernel_size // 2
    padded = F.pad(features.to(dtype), (border,) * 4).unflatten(1, (group_size, -1))[..., None]  # (N, G, C / G, H + k - 1, W + k - 1, 1)
    weights = masks.to(dtype).view(n, group_size, kernel_size**2, 1, height, scale_factor, width, scale_factor)
    output = features.new_zeros((n, group_size, channels // group_size, height, scale_factor, width, scale_factor), dtype=dtype)
    for tap in range(kernel_size**2):  # one neighbour at a time: all at once would take kernel_size ** 2 maps of memory
        row, column = divmod(tap, kernel_size)
        neighbour = padded[..., row : row + height, None, column : column + width, :]
        output = torch.addcmul(output, neighbour, weights[:, :, tap])
    return output.reshape(n, channels, scale_factor * height, scale_factor * width).to(features.dtype)


@replaces("mmcv.ops.carafe")
def carafe_naive(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Return ``carafe`` of the same arguments; mmcv has two kernels for it."""
    return carafe(features, masks, kernel_size, group_size, scale_factor)
