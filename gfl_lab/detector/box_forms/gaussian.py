"""An independent normal distribution for each side of a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gfl_lab.detector import losses
from gfl_lab.detector.box_forms.base import BoxForm, Decoded, Fitted, around, centers_of, distances_to_sides, half_anchor

LOG_VARIANCE_BOUND = 7.0
"""Bound of the log variance, a standard deviation of 0.03 to 33 bins; reached smoothly, so a gradient leads back."""


@dataclass
class Gaussian(BoxForm):
    """A normal distribution for each side.

    Attributes:
        reg_max: n, only the range of the exported distributions.
        weight: of the negative log-likelihood.
        box_loss: add the loss of the whole box, on the means; the paper has none.
    """

    reg_max: int = 16
    weight: float = 1.0
    box_loss: bool = False

    settings = {"bin_width": "bin_width", "reg_max": "reg_max", "gaussian_weight": "weight", "gaussian_box_loss": "box_loss"}
    loss_name: ClassVar[str] = "loss_gaussian"

    @property
    def channels(self) -> int:
        """Channels of a prediction: 4 means, then 4 log variances."""
        return 8

    @property
    def loss_weight(self) -> float:
        """Weight of the negative log-likelihood."""
        return self.weight

    @property
    def has_box_loss(self) -> bool:
        """Return True if the loss of the whole box is added."""
        return self.box_loss

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        """Return boxes (M, 4) of the means, the means (M, 4), and the mass (M, 4, n+1) in each bin."""
        mean, log_variance = self._parameters(predictions, priors, unit)
        probs = normal_bins(mean, log_variance, self.reg_max)
        return Decoded(around(centers_of(priors), mean * unit), mean, probs)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        """Return boxes and targets (M, 4) in bins, and the negative log-likelihood (M,)."""
        mean, log_variance = self._parameters(predictions, priors, unit)
        centers, targets = centers_of(priors) / unit, targets / unit
        distances = distances_to_sides(centers, targets)
        return Fitted(around(centers, mean), targets, losses.gaussian_nll(mean, log_variance, distances).mean(1))

    @staticmethod
    def _parameters(predictions: Tensor, priors: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = predictions.chunk(2, dim=1)
        return mean + half_anchor(priors, unit), LOG_VARIANCE_BOUND * torch.tanh(log_variance / LOG_VARIANCE_BOUND)


def normal_bins(mean: Tensor, log_variance: Tensor, reg_max: int) -> Tensor:
    """Return the mass of normal distributions within half a bin of each bin 0..n; the end bins take the tails.

    Args:
        mean, log_variance: (...) in bins and bins squared.

    Returns:
        (..., n+1), summing to 1.
    """
    borders = torch.arange(reg_max, device=mean.device, dtype=mean.dtype) + 0.5
    below = torch.special.ndtr((borders - mean[..., None]) * (-log_variance[..., None] / 2).exp())
    return torch.cat([below[..., :1], below.diff(dim=-1), 1 - below[..., -1:]], dim=-1)
