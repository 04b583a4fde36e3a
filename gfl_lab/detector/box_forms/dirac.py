"""Boxes without a distribution: four numbers, as ATSS and FCOS predict them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfl_lab.detector.box_forms.base import MAX_LOG_RATIO, BoxForm, Decoded, Fitted, around, centers_of, distances_to_sides, half_anchor

DELTA_STDS = 0.1, 0.2
"""Standard deviations of ATSS's deltas: of a centre, and of a log size."""


@dataclass
class Dirac(BoxForm):
    """Four numbers for each location."""

    @property
    def channels(self) -> int:
        """Channels of a prediction: 4."""
        return 4


@dataclass
class DiracDelta(Dirac):
    """ATSS's box: delta-xywh of the anchor, means 0, stds 0.1 0.1 0.2 0.2. Boxes and targets of ``fit`` are in px."""

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        """Return boxes (M, 4), and their sides' distances (M, 4) from the location."""
        boxes = self._boxes(predictions, priors)
        return Decoded(boxes, distances_to_sides(centers_of(priors), boxes) / unit, None)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        """Return boxes and targets (M, 4) in px; there is no loss of its own."""
        return Fitted(self._boxes(predictions, priors), targets, None)

    @staticmethod
    def _boxes(predictions: Tensor, priors: Tensor) -> Tensor:
        """Decode as mmdet's ``DeltaXYWHBBoxCoder``, bit by bit; that one copies its constants to the device in each call."""
        shift, log_scale = predictions[:, :2] * DELTA_STDS[0], predictions[:, 2:] * DELTA_STDS[1]
        sizes = priors[:, 2:] - priors[:, :2]
        centers = (priors[:, :2] + priors[:, 2:]) * 0.5 + sizes * shift
        sizes = sizes * log_scale.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        return torch.cat([centers - sizes * 0.5, centers + sizes * 0.5], dim=1)


@dataclass
class DiracDistance(Dirac):
    """FCOS's box: the exponential keeps a distance positive; 0 is half the anchor."""

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        """Return boxes (M, 4) and distances (M, 4)."""
        distances = self._distances(predictions, priors, unit)
        return Decoded(around(centers_of(priors), distances * unit), distances, None)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        """Return boxes and targets (M, 4) in bins; there is no loss of its own."""
        return Fitted(around(centers_of(priors) / unit, self._distances(predictions, priors, unit)), targets / unit, None)

    @staticmethod
    def _distances(predictions: Tensor, priors: Tensor, unit: Tensor) -> Tensor:
        return predictions.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * half_anchor(priors, unit)
