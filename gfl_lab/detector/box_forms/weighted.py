"""A general box with non-uniform bins: fine near the anchor's side, coarse far from it (W(n) of D-FINE, arXiv 2410.13842)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfl_lab.detector.box_forms.base import distances_to_sides
from gfl_lab.detector.box_forms.general import DISTANCE_MARGIN, General
from gfl_lab.metrics.bins import weighted_positions


class WeightedIntegral(nn.Module):
    """The mean of distributions over bins at given positions, as mmdet's ``Integral`` over 0..n.

    Args:
        positions: (n+1) ascending. They are ``integral.position`` in a state dict, so that they are not taken for uniform ones.
    """

    position: Tensor

    def __init__(self, positions: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("position", torch.tensor(positions))

    @property
    def project(self) -> Tensor:
        """The positions, under the name that ``Integral`` has."""
        return self.position

    def forward(self, logits: Tensor) -> Tensor:
        """Return the mean of each distribution: (M, 4(n+1)) side-major to (M, 4)."""
        return F.linear(logits.unflatten(1, (4, -1)).softmax(2), self.position.type_as(logits))

    def relative(self) -> Tensor:
        """Return the positions from 0 at the first bin to 1 at the last."""
        return (self.position - self.position[0]) / (self.position[-1] - self.position[0])


@dataclass
class WeightedGeneral(General):
    """A distribution over bins at ``anchor_scale (1/2 + W(i))`` strides; its mean is the distance, which may be below 0.

    Attributes:
        a, c: of ``metrics.bins.weighting_function``.
        anchor_scale: side of the anchor, in strides.
    """

    a: float = 0.5
    c: float = 0.25
    anchor_scale: float = 8.0
    bin_width: float = field(default=1.0, init=False)

    settings = {
        **{key: name for key, name in General.settings.items() if key != "bin_width"},
        "bins_a": "a", "bins_c": "c", "anchor_scale": "anchor_scale",
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.integral = WeightedIntegral(weighted_positions(self.reg_max, self.a, self.c, self.anchor_scale))

    def _targets(self, centers: Tensor, boxes: Tensor) -> Tensor:
        first, last, before = self.integral.position[0], self.integral.position[-1], self.integral.position[-2]
        return distances_to_sides(centers, boxes).clamp(min=first, max=last - DISTANCE_MARGIN * (last - before))

    def _dfl(self, logits: Tensor, distances: Tensor) -> Tensor:
        return weighted_dfl(logits, distances, self.integral.position)


def weighted_dfl(logits: Tensor, target: Tensor, positions: Tensor) -> Tensor:
    """Return DFL between the two bins beside y: ``-(1 - w) log P_i - w log P_i+1`` with ``w = (y - x_i) / (x_i+1 - x_i)``.

    With x_i = i it is equation 6 of arXiv 2006.04388.

    Args:
        logits: (M, n+1), one row a box side.
        target: (M,) distance y, from x_0 to x_n.
        positions: (n+1,) x, ascending.

    Returns:
        (M,) loss of each side.
    """
    left = torch.bucketize(target.float(), positions[1:-1], right=True)
    low, high = positions[left], positions[left + 1]
    share = (target.float() - low) / (high - low)
    log_p = F.log_softmax(logits.float(), dim=1).gather(1, torch.stack([left, left + 1], dim=1))
    return -(log_p[:, 0] * (1 - share) + log_p[:, 1] * share)
