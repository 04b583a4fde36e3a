"""Convolution at chosen locations, by the plain convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from gfl_lab.detector.mmcv_ops.extension import replaces


@replaces("mmcv.ops.masked_conv")
def masked_conv2d(
    features: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, padding: int | tuple[int, int] = 0, stride: int = 1
) -> Tensor:
    """Return the convolution of ``features`` where ``mask`` is positive, and 0 elsewhere, also without the bias.

    Guided anchoring predicts with it (Wang et al., arXiv 1901.03278, section 3.3). mmcv computes the chosen locations alone;
    here all are computed and the others are set to 0. The type is that of the same convolution without a mask.

    Args:
        features: (1, C, H, W).
        mask: (1, H, W).
        weight: (C', C, kh, kw).
        bias: (C',) or None.
        padding: such that the output has the size of the mask.
        stride: 1.

    Returns:
        (1, C', H, W).

    Raises:
        ValueError: more than one image, another stride, or a mask of another size than the output.
    """
    if features.size(0) != 1 or mask.shape[:-2] != (1,):
        raise ValueError(f"masked_conv2d takes one image and one mask at a time, not {tuple(features.shape)} and {tuple(mask.shape)}")
    if _pair(stride) != (1, 1):
        raise ValueError(f"masked_conv2d has stride 1 only, not {stride}")
    output = F.conv2d(features, weight, bias, padding=padding)
    if output.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f"the mask is {tuple(mask.shape[-2:])}, the output of the convolution {tuple(output.shape[-2:])}; change the padding"
        )
    return torch.where(mask[:, None] > 0, output, 0)
