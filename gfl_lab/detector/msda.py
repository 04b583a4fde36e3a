"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3) on ``F.grid_sample``.

Runs on CPU and CUDA without a compiled extension. Parameters have the names, shapes and initial values of the published
implementations, so that their weights load by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfl_lab.detector.transfer import to_device

Shapes = Sequence[tuple[int, int]]
"""(height, width) in cells of each level of a feature pyramid."""


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def multi_scale_deformable_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Return, for each query and head, the weighted sum of values sampled bilinearly at points of all levels.

    Computed in float32 at least, also inside autocast.

    Args:
        value: (N, S, heads, d), the levels one after the other, each row by row; S cells in all.
        shapes: (height, width) of each level.
        locations: (N, Q, heads, levels, points, 2) x and y over the level's extent: 0 and 1 are its outer edges, the
            centre of cell i of n is (i + 0.5) / n. Cells outside the level are zero.
        weights: (N, Q, heads, levels, points), usually adding up to 1 over levels and points.

    Returns:
        (N, Q, heads * d), dtype of ``value``.
    """
    dtype = value.dtype
    images, _, heads, width = value.shape
    with torch.autocast(value.device.type, enabled=False):
        value, locations, weights = (_at_least_float32(tensor) for tensor in (value, locations, weights))
        grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (N * heads, Q, levels, points, 2), -1..1
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (N * heads, 1, Q, levels, points)
        total = value.new_zeros(())
        for level, (part, shape) in enumerate(zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)):
            maps = part.permute(0, 2, 3, 1).reshape(images * heads, width, *shape)
            sampled = F.grid_sample(maps, grids[:, :, level], align_corners=False)  # (N * heads, d, Q, points)
            total = total + (sampled * weights[:, :, :, level]).sum(-1)
        return total.view(images, heads * width, -1).transpose(1, 2).to(dtype)


class MultiScaleDeformableAttention(nn.Module):
    """Each query looks at a few points around its reference point, on every level; where and how much, it predicts itself.

    No residual connection and no dropout inside.

    Args:
        embed_dims: D, channels of queries, features and output.
        heads: must divide ``embed_dims * value_ratio``.
        levels: feature levels.
        points: sampling points of a head on one level.
        value_ratio: channels of the sampled values in units of D (``deform_ratio`` of ViT-Adapter).
    """

    def __init__(self, embed_dims: int, heads: int, levels: int, points: int = 4, value_ratio: float = 1.0) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        value_dims = int(embed_dims * value_ratio)
        self.sampling_offsets = nn.Linear(embed_dims, heads * levels * points * 2)
        self.attention_weights = nn.Linear(embed_dims, heads * levels * points)
        self.value_proj = nn.Linear(embed_dims, value_dims)
        self.output_proj = nn.Linear(value_dims, embed_dims)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the published start: head h looks along the angle 2 pi h / heads, its point p lies p cells out, all weigh the same."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = [2 * math.pi * head / self.heads for head in range(self.heads)]
        directions = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])
        directions = directions / directions.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1.0, self.points + 1)[:, None]
        bias = (directions[:, None, None] * steps).expand(-1, self.levels, -1, -1)  # (heads, levels, points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, references: Tensor, features: Tensor, shapes: Shapes) -> Tensor:
        """Attend from queries to points of all levels.

        Args:
            query: (N, Q, D).
            references: (1 or N, Q, 2) x and y, 0..1, the point that a query's offsets start from, on every level.
            features: (N, S, D), levels concatenated.
            shapes: (height, width) of each level. Offsets count cells of the level.

        Returns:
            (N, Q, D).
        """
        images, queries, _ = query.shape
        value = self.value_proj(features).unflatten(-1, (self.heads, -1))
        offsets = _at_least_float32(self.sampling_offsets(query)).view(images, queries, self.heads, self.levels, self.points, 2)
        cells = to_device(torch.tensor([(width, height) for height, width in shapes], dtype=offsets.dtype), offsets.device)[:, None]
        locations = references[:, :, None, None, None] + offsets / cells
        weights = self.attention_weights(query).view(images, queries, self.heads, self.levels * self.points).softmax(-1)
        weights = weights.unflatten(-1, (self.levels, self.points))
        return self.output_proj(multi_scale_deformable_attention(value, shapes, locations, weights))
