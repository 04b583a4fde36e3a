"""GFL's joint score: the class score learns the IoU, by quality focal loss (arXiv 2006.04388, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gfl_lab.detector.class_loss import QualityFocalLoss
from gfl_lab.detector.qualities.base import Quality, QualityTargets


@dataclass(frozen=True)
class Joint(Quality):
    """The class score is the quality.

    Attributes:
        beta: exponent of QFL; 0, or at least 1.
    """

    beta: float = 2.0

    settings = {"qfl_beta": "beta"}
    is_class_score = True

    @property
    def element_loss(self) -> QualityFocalLoss:
        """QFL."""
        return QualityFocalLoss(self.beta)

    def score_target(self, targets: QualityTargets) -> Tensor:
        """Return the IoU (P,) of each positive."""
        return targets.iou
