"""FCOS's assignment: by the size of a box, at the locations inside it or near its middle (arXiv 1904.01355, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gfl_lab.detector.assigners.base import Assigner, Predictions, is_near_middle, least_distance, within_usable
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.targets import GroundTruth, Targets

NO_END = 1e8
"""Upper end of the last level's range, px."""


@dataclass(frozen=True)
class Fcos(Assigner):
    """A location inside a box learns it if its largest distance to a side is within its level's range. The smallest box wins.

    Level l has the distances from ``reach`` strides of level l - 1 to ``reach`` strides of its own, both ends included; the
    first level also has all below, the last one all above. Strides 8 to 128 and 8 give FCOS's 64, 128, 256 and 512 px.

    Attributes:
        radius: centre sampling, in strides: only locations this near to the box's middle along x and y. 0: the whole box.
        reach: upper end of a level's range, in its strides.
    """

    radius: float = 1.5
    reach: float = 8.0

    settings = {"fcos_radius": "radius", "fcos_reach": "reach"}

    def _assign(self, geometry: Geometry, truth: GroundTruth, usable: Tensor | None, predictions: Predictions | None) -> Targets:
        boxes, strides, levels = truth.boxes, geometry.strides, geometry.levels
        low = torch.where(levels == 0, -1.0, strides * (self.reach / 2))  # a stride is twice the one before
        high = torch.where(levels == len(geometry.sizes) - 1, NO_END, strides * self.reach)
        x, y, (x1, y1, x2, y2) = geometry.centers[:, 0], geometry.centers[:, 1], boxes[..., None].unbind(2)
        farthest = torch.maximum(torch.maximum(x - x1, x2 - x), torch.maximum(y - y1, y2 - y))
        mine = (least_distance(geometry.centers, boxes) > 0) & (farthest >= low) & (farthest <= high) & truth.valid[..., None]
        if self.radius:
            mine &= is_near_middle(geometry, boxes, self.radius)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(2)[..., None]
        smallest, winner = torch.where(within_usable(mine, usable), area, math.inf).min(dim=1)
        return Targets(torch.where(smallest < math.inf, winner, -1), usable)

    def most(self, geometry: Geometry) -> int | None:
        """Return how many locations lie in the square around a middle, on all levels; None for whole boxes."""
        return len(geometry.sizes) * (math.floor(2 * self.radius) + 1) ** 2 if self.radius else None
