"""The locations of a feature pyramid: anchors, centres, strides and levels, made once for each shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gfl_lab.detector.transfer import to_device

CACHED_SHAPES = 64
"""Geometries that a head keeps, at most 50 MB at 800 x 1333 px: multi-scale training returns to the same shapes."""

Size = tuple[int, int]
"""(height, width), of a feature map in locations or of an image in px."""


@dataclass(frozen=True)
class Geometry:
    """Locations of a pyramid, level after level, row by row; A of them.

    Attributes:
        priors: (A, 4) anchor boxes, xyxy px of the network input.
        centers: (A, 2) px.
        strides: (A,) px, float32.
        levels: (A,) int64.
        sizes: (height, width) of each level, in locations.
        level_strides: px of each level.
        center_offset: place of a location's centre in its square, in strides from the upper left corner.
    """

    priors: Tensor
    centers: Tensor
    strides: Tensor
    levels: Tensor
    sizes: tuple[Size, ...]
    level_strides: tuple[int, ...]
    center_offset: float

    @property
    def num_level_priors(self) -> tuple[int, ...]:
        """Locations of each level."""
        return tuple(height * width for height, width in self.sizes)

    def covers(self, shape: Size) -> bool:
        """Return True if an image padded to ``shape`` px has every location."""
        return all(
            height * stride - shape[0] < stride and width * stride - shape[1] < stride
            for (height, width), stride in zip(self.sizes, self.level_strides, strict=True)
        )

    def usable(self, shapes: Sequence[Size]) -> Tensor | None:
        """Return (N, A) bool: the locations inside each of N images padded to ``shapes`` px; None where each has all.

        One copy to the device, and no wait for it.
        """
        if all(self.covers(shape) for shape in shapes):
            return None
        ends = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32)
        strides = self.strides[:, None]
        corners = (self.centers / strides - self.center_offset).round() * strides  # whole multiples, whatever the anchors round to
        return (corners < to_device(ends, corners.device)[:, None]).all(-1)

    def within(self, keep: Tensor) -> tuple[Tensor, list[int]]:
        """Return the (K, 4) priors at the (K,) indices ``keep`` and how many of them lie on each level."""
        counts = torch.bincount(self.levels[keep], minlength=len(self.sizes)).tolist()
        return self.priors[keep], counts


def make_geometry(prior_generator: Any, sizes: Sequence[Size], device: torch.device) -> Geometry:
    """Return the geometry of levels of these (height, width), on ``device``.

    It is computed on the host and reaches a GPU in four copies, none of which the host waits for.

    Args:
        prior_generator: mmdet's ``AnchorGenerator`` with one anchor for each location.
    """
    levels = prior_generator.grid_priors(list(sizes), dtype=torch.float32, device="cpu")
    priors = torch.cat(levels)
    level_strides = tuple(int(stride[0]) for stride in prior_generator.strides)
    level = torch.arange(len(levels)).repeat_interleave(torch.tensor([len(one) for one in levels]), output_size=len(priors))
    strides = torch.tensor(level_strides, dtype=torch.float32)
    return Geometry(
        priors=to_device(priors, device),
        centers=to_device((priors[:, :2] + priors[:, 2:]) / 2, device),
        strides=to_device(strides[level], device),
        levels=to_device(level, device),
        sizes=tuple(sizes),
        level_strides=level_strides,
        center_offset=float(prior_generator.center_offset),
    )


class GeometryCache:
    """The geometries of the shapes that a head used last, at most ``CACHED_SHAPES``.

    Args:
        prior_generator: mmdet's ``AnchorGenerator``.
    """

    def __init__(self, prior_generator: Any) -> None:
        self._prior_generator = prior_generator
        self._kept: dict[tuple[tuple[Size, ...], torch.device], Geometry] = {}

    def get(self, sizes: Sequence[Sequence[int]], device: torch.device) -> Geometry:
        """Return the geometry of levels of these (height, width); the one not used for longest makes room."""
        key = (tuple((int(height), int(width)) for height, width in sizes), torch.device(device))
        found = self._kept.pop(key, None)
        if found is None:
            with torch.inference_mode(False):  # an evaluation may make it, and training uses it
                found = make_geometry(self._prior_generator, *key)
        self._kept[key] = found  # the one used last is the last of the dictionary
        if len(self._kept) > CACHED_SHAPES:
            del self._kept[next(iter(self._kept))]
        return found
