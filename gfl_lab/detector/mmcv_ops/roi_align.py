"""RoIAlign, by torchvision's kernel."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from gfl_lab.detector.mmcv_ops.extension import replaces


@replaces("mmcv.ops.roi_align")
def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
) -> Tensor:
    """Return the features inside each box, averaged in a grid of bins (He et al., arXiv 1703.06870, section 3).

    Each bin averages bilinear samples on a regular grid. A sample more than one pixel outside the map is 0. Computed in
    float32 at least, returned in the type of ``input``. Differentiable by ``input``, not by the boxes.

    Args:
        input: (N, C, H, W).
        rois: (K, 5) image index and xyxy box, px of the image.
        output_size: rows and columns of bins.
        spatial_scale: map px per image px.
        sampling_ratio: samples a side of a bin; 0 for one for each pixel of the map, rounded up.
        pool_mode: "avg".
        aligned: shift boxes by half a pixel of the map, so that pixel centres lie at integers. Without it boxes are also
            at least one pixel wide and high.

    Returns:
        (K, C, rows, columns).

    Raises:
        NotImplementedError: ``pool_mode`` is "max", which torchvision does not have.
    """
    if pool_mode != "avg":
        raise NotImplementedError(f"RoIAlign with pool_mode '{pool_mode}' is not available without a compiled mmcv; use 'avg'")
    dtype = torch.promote_types(input.dtype, torch.float32)
    pooled = torchvision.ops.roi_align(
        input.to(dtype), rois.to(dtype), output_size, float(spatial_scale), max(int(sampling_ratio), 0), bool(aligned)
    )
    return pooled.to(input.dtype)
