"""Direct regression: four distances as the convolution gives them, without bins, range or exponential (as in YOLO26)."""

from __future__ import annotations

from dataclasses import dataclass

from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from torch import Tensor

from gfl_lab.detector.box_forms.base import Decoded, Fitted, centers_of, half_anchor
from gfl_lab.detector.box_forms.dirac import Dirac


@dataclass
class Direct(Dirac):
    """A distance is ``max(0, prediction + half the anchor)`` in bins, so that 0 is the anchor.

    The distance is linear in the prediction and has no upper end. Negative ones count as 0, as in mmdet's ``FCOSHead`` with
    ``norm_on_bbox``; boxes are decoded by its coder, ``DistancePointBBoxCoder``. The offset is what a bias of the convolution would be.
    """

    def __post_init__(self) -> None:
        self._coder = DistancePointBBoxCoder()

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        """Return boxes (M, 4) and distances (M, 4)."""
        distances = self._distances(predictions, priors, unit)
        return Decoded(self._coder.decode(centers_of(priors), distances * unit), distances, None)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        """Return boxes and targets (M, 4) in bins; there is no loss of its own."""
        boxes = self._coder.decode(centers_of(priors) / unit, self._distances(predictions, priors, unit))
        return Fitted(boxes, targets / unit, None)

    @staticmethod
    def _distances(predictions: Tensor, priors: Tensor, unit: Tensor) -> Tensor:
        return (predictions + half_anchor(priors, unit)).clamp(min=0)
