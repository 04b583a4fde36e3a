"""The places of a batch's positives in its pyramid, in three forms with the same results.

``JoinedPositives`` serve small batches: their maps are joined. ``LevelPositives`` read large maps level by level.
``PaddedPositives`` have a fixed length, so that the host never waits for a GPU to count them (docs/decisions/0014-positives-in-padded-arrays.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfl_lab.detector.geometry import Size

ALWAYS_PADDED = False
"""Take positives as ``PaddedPositives`` on a CPU, too: for tests."""


def join(levels: Sequence[Tensor]) -> Tensor:
    """Return maps (N, channels, H, W) of all levels as (N, channels, A), float32. Channels stay first: it is a plain copy."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).float()


@dataclass(frozen=True)
class JoinedPositives:
    """P positives, read off maps of all levels joined.

    Attributes:
        image, location: (P,) int64 into N and A.
        real: None: each is a positive.
    """

    image: Tensor
    location: Tensor
    real: None = None

    def gather(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (P, channels) float32 of (N, channels, H, W) maps."""
        return join(levels)[self.image, :, self.location]


@dataclass(frozen=True)
class LevelPositives:
    """P positives, read off each level's map.

    Attributes:
        image, location: (P,) int64 into N and A.
        levels: (image, y, x) of those on each level.
        order: (P,) that sorts them by level.
        back: (P,) from the order of levels back to the order in which they were given.
        real: None: each is a positive.
    """

    image: Tensor
    location: Tensor
    levels: tuple[tuple[Tensor, Tensor, Tensor], ...]
    order: Tensor
    back: Tensor
    real: None = None

    @classmethod
    def locate(cls, image: Tensor, location: Tensor, sizes: Sequence[Size]) -> LevelPositives:
        """Return the positives of (P,) images and locations in a pyramid with these (height, width) of its levels."""
        ends = torch.tensor([h * w for h, w in sizes]).cumsum(0)
        level = torch.bucketize(location, ends.to(location.device), right=True)
        order = level.argsort(stable=True)
        found = []
        parts = order.split(torch.bincount(level, minlength=len(sizes)).tolist())
        for part, end, (height, width) in zip(parts, ends.tolist(), sizes, strict=True):
            within = location[part] - (end - height * width)
            found.append((image[part], within // width, within % width))
        return cls(image, location, tuple(found), order, order.argsort())

    def gather(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (P, channels) float32 of (N, channels, H, W) maps."""
        return torch.cat([level[i, :, y, x] for level, (i, y, x) in zip(levels, self.levels, strict=True)]).float()[self.back]

    def add(self, maps: Sequence[Tensor], values: Tensor) -> None:
        """Add (P, channels) values to (N, channels, H, W) maps at the positives, in place. No two are at one place."""
        for level, (i, y, x), part in zip(maps, self.levels, values[self.order].split([len(i) for i, _, _ in self.levels]), strict=True):
            level[i, :, y, x] += part.to(level.dtype)


@dataclass(frozen=True)
class PaddedPositives:
    """Positives in arrays as long as a batch can have positives: P places.

    Attributes:
        image, location: (P,) int64 into N and A; place 0 where there is no positive.
        real: (P,) bool, which are positives; the others must count nowhere.
        levels: (image, y, x) on each level and whether the positive is on it at all, (P,) each. A positive that is not
            on a level has an arbitrary place there. These places are spread over the level: CUDA adds values of one place in turn.
    """

    image: Tensor
    location: Tensor
    real: Tensor
    levels: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]

    @classmethod
    def locate(cls, image: Tensor, location: Tensor, real: Tensor, sizes: Sequence[Size], images: int) -> PaddedPositives:
        """Return the positives among (P,) images and locations, those in the mask ``real``, in levels of these sizes.

        Args:
            images: N, of the batch.
        """
        found, start = [], 0
        spare = torch.arange(len(image), device=image.device)
        for height, width in sizes:
            own = real & (location >= start) & (location < start + height * width)
            within = torch.where(own, location - start, spare // images % (height * width))
            found.append((torch.where(own, image, spare % images), within // width, within % width, own))
            start += height * width
        return cls(image, location, real, tuple(found))

    @classmethod
    def find(cls, positive: Tensor, most: int, sizes: Sequence[Size]) -> PaddedPositives:
        """Return where a (N, A) mask is true, which it is at ``most`` places at most."""
        flat = positive.flatten()
        place = torch.nonzero_static(flat, size=most, fill_value=0)[:, 0]
        real = torch.arange(most, device=flat.device) < flat.sum()
        images, locations = positive.shape
        return cls.locate(place // locations, place % locations, real, sizes, images)

    def gather(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (P, channels) float32 of (N, channels, H, W) maps; 0 where there is no positive."""
        parts = [torch.where(own[:, None], level[i, :, y, x].float(), 0) for level, (i, y, x, own) in zip(levels, self.levels, strict=True)]
        return torch.stack(parts).sum(0)

    def add(self, maps: Sequence[Tensor], values: Tensor) -> None:
        """Add (P, channels) values to (N, channels, H, W) maps at the positives, in place."""
        for level, (i, y, x, own) in zip(maps, self.levels, strict=True):
            part = torch.where(own[:, None], values, 0).to(level.dtype)
            level.permute(0, 2, 3, 1).index_put_((i, y, x), part, accumulate=True)


SparsePositives = LevelPositives | PaddedPositives
"""Positives that are read off each level's map."""

Positives = JoinedPositives | SparsePositives
