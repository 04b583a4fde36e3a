"""No estimate: classification by focal loss, the score is the class's."""

from __future__ import annotations

from dataclasses import dataclass

from gfl_lab.detector.class_loss import FocalLoss
from gfl_lab.detector.qualities.base import Quality


@dataclass(frozen=True)
class NoQuality(Quality):
    """Plain classification.

    Attributes:
        gamma, alpha: of focal loss.
    """

    gamma: float = 2.0
    alpha: float = 0.25

    @property
    def element_loss(self) -> FocalLoss:
        """Focal loss."""
        return FocalLoss(self.gamma, self.alpha)
