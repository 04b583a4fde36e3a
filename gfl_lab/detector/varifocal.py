"""Varifocal loss: the class score learns the IoU, and only the background is focused (VarifocalNet, arXiv 2008.13367, eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


def varifocal_loss(logits: Tensor, target: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Return the varifocal loss: ``q BCE(p, q)`` where q > 0, ``-alpha p^gamma log(1 - p)`` where q = 0, with ``p = sigmoid(logit)``.

    Args:
        logits: any shape.
        target: same shape, q in [0, 1]: the IoU at the class of a positive location, 0 elsewhere. No gradient flows into it.
        alpha: weight of target 0, at least 0.
        gamma: exponent of the score there; 0, or at least 1.

    Returns:
        Loss of each element, shape of ``logits``.
    """
    logits, target = logits.float(), target.float()
    background = logits.sigmoid()
    background = alpha * (background.square() if gamma == 2 else background.pow(gamma))
    weight = torch.where(target > 0, target, background)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


@dataclass(frozen=True)
class VarifocalLoss:
    """The varifocal loss as an ``ElementLoss`` of the head.

    Attributes:
        alpha, gamma: of ``varifocal_loss``.
        settings: {setting of a trial: field}.
        quality: the only ``quality`` whose score it trains: its target is the IoU.
    """

    alpha: float = 0.75
    gamma: float = 2.0

    settings: ClassVar[Mapping[str, str]] = {"varifocal_alpha": "alpha", "varifocal_gamma": "gamma"}
    quality: ClassVar[str] = "joint"

    @property
    def power(self) -> float:
        """Exponent of the score in the loss of a background location."""
        return self.gamma

    @property
    def background_factor(self) -> float:
        """Factor of the loss of a background location."""
        return self.alpha

    def __call__(self, logits: Tensor, factors: Tensor | None, target: Tensor) -> Tensor:
        """Return the loss of each element of ``logits`` (...); there are no ``factors``."""
        return varifocal_loss(logits, target, self.alpha, self.gamma)
