"""Deformable RoI pooling, in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from gfl_lab.detector.mmcv_ops.extension import replaces

AT_ONCE = 2**24
"""Samples of all channels that are held at a time: 64 MB in float32."""


def _samples(map_: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return bilinear samples of one map (C, H, W) at places (R, B): (C, R, B); 0 from one pixel outside on, else the border's."""
    height, width = map_.shape[-2:]
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    values = F.grid_sample(map_[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
    return values * ((x >= -1) & (x <= width) & (y >= -1) & (y <= height))


def _places(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return x and y of each place of a grid, row by row: (2, rows * columns)."""
    y, x = torch.meshgrid(torch.arange(rows, device=like.device), torch.arange(columns, device=like.device), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()]).to(like.dtype)


def _pool(map_: Tensor, boxes: Tensor, offset: Tensor | None, size: tuple[int, int], sampling_ratio: int, gamma: float) -> Tensor:
    """Return the pooled boxes of one image: (R, C, *size). Boxes are (R, 4) xyxy, px of the map."""
    rows, columns = size
    low, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    bins = torch.stack([extent[:, 0] / columns, extent[:, 1] / rows], dim=1)
    grid = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil().clamp(min=0)
    starts = low[:, :, None] + bins[:, :, None] * _places(rows, columns, like=bins)  # (R, 2, rows * columns)
    if offset is not None:
        starts = starts + gamma * extent[:, :, None] * offset.flatten(2)
    pooled = map_.new_zeros((map_.size(0), *starts[:, 0].shape))
    for across, down in torch.unique(grid, dim=0).int().tolist():  # boxes of as many samples together
        x, y = _places(down, across, like=bins) + 0.5
        parts = torch.stack([x / across, y / down])
        alike = ((grid[:, 0] == across) & (grid[:, 1] == down)).nonzero()[:, 0]
        at_once = max(1, AT_ONCE // max(1, pooled[:, 0].numel() * across * down))
        for some in alike.split(at_once) if across * down else ():
            place = starts[some][..., None] + bins[some][:, :, None, None] * parts[:, None]  # (R', 2, bins, samples)
            values = _samples(map_, place[:, 0].flatten(1), place[:, 1].flatten(1))
            pooled = pooled.index_copy(1, some, values.unflatten(2, (-1, across * down)).mean(-1))
    return pooled.transpose(0, 1).unflatten(2, size)


@replaces("mmcv.ops.deform_roi_pool")
def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Return the features inside each box, averaged in bins that are each shifted by an offset (Dai et al., arXiv 1703.06211, eq. 5).

    Samples as in ``roi_align`` with ``aligned``. Computed in float32 at least, returned in the type of ``input``.
    Differentiable by ``input`` and ``offset``. The gradient by an offset is that of the value; mmcv's kernel extrapolates
    it at samples within one pixel outside the map, where the value is constant across the border.

    Args:
        input: (N, C, H, W).
        rois: (K, 5) image index and xyxy box, px of the image.
        offset: (K, 2, rows, columns), dx and dy of each bin, as parts of the box's width and height times ``gamma``; or None.
        output_size: rows and columns of bins.
        spatial_scale: map px per image px.
        sampling_ratio: samples a side of a bin; 0 for one for each pixel of the map, rounded up.
        gamma: factor of the offsets.

    Returns:
        (K, C, rows, columns).
    """
    size = _pair(output_size)
    dtype = torch.promote_types(input.dtype, torch.float32)
    maps, boxes = input.to(dtype), rois.detach()[:, 1:].to(dtype) * spatial_scale - 0.5
    if not len(rois):
        return input.flatten()[:0].view(0, input.size(1), *size)  # part of the graph, as all outputs are
    output = maps.new_zeros((len(rois), input.size(1), *size))
    for image, map_ in enumerate(maps):
        mine = (rois[:, 0] == image).nonzero()[:, 0]
        shifts = None if offset is None or not offset.numel() else offset[mine].to(dtype)
        output = output.index_copy(0, mine, _pool(map_, boxes[mine], shifts, size, int(sampling_ratio), float(gamma)))
    return output.to(input.dtype)
