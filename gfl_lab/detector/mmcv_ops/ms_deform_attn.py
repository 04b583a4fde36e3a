"""Multi-scale deformable attention on CUDA, by mmcv's own PyTorch function, which mmcv itself uses on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from gfl_lab.detector.mmcv_ops.extension import replaces


@replaces("mmcv.ops.multi_scale_deform_attn")
class MultiScaleDeformableAttnFunction:
    """Stand-in for mmcv's autograd function of this name; ``apply`` is the one method that mmcv and mmdet call."""

    @staticmethod
    def apply(
        value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
    ) -> Tensor:
        """Return each query's weighted sum of samples (Zhu et al., arXiv 2010.04159, eq. 3).

        Samples are bilinear, 0 outside of a map. Computed in float32 at least, returned in the type of ``value``.

        Args:
            value: (N, sum of H * W, heads, C / heads), all maps.
            spatial_shapes: (L, 2) int, rows and columns of each map; read on the host once.
            level_start_index: not used; follows from the shapes.
            locations: (N, Q, heads, L, P, 2), x and y as parts of the map's width and height, 0..1 inside.
            weights: (N, Q, heads, L, P).
            im2col_step: not used.

        Returns:
            (N, Q, C).
        """
        from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

        dtype = torch.promote_types(value.dtype, torch.float32)
        with torch.autocast(value.device.type, enabled=False):
            sums = multi_scale_deformable_attn_pytorch(value.to(dtype), spatial_shapes.tolist(), locations.to(dtype), weights.to(dtype))
        return sums.to(value.dtype)
