"""The contract of an assigner: which box each location of a batch learns, from locations, boxes and perhaps predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gfl_lab.detector.assign import UNASSIGNED
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.targets import GroundTruth, Targets


class Predictions(NamedTuple):
    """A head's predictions at every location, detached: scores (N, A, C) as at test, and boxes (N, A, 4), xyxy px, not clipped."""

    scores: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Assigner(ABC):
    """An assigner of gfl-lab's own. Regions without labels (crowds) are background to all of them, as to mmdet's defaults.

    Attributes:
        settings: {setting of a trial: field} of the fields that settings decide.
        needs_predictions: ``assign`` is given predictions.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    needs_predictions: ClassVar[bool] = False

    def targets(self, geometry: Geometry, truth: GroundTruth, usable: Tensor | None, predictions: Predictions | None) -> Targets:
        """Return which box each location learns, and which locations count.

        Args:
            usable: (N, A) bool, the locations that each image has; None where each has all. The others learn nothing.
            predictions: given where they are needed.
        """
        if truth.boxes.shape[1] and len(geometry.priors):
            return self._assign(geometry, truth, usable, predictions)
        shape = (len(truth.boxes), len(geometry.priors))
        return Targets(torch.full(shape, UNASSIGNED, dtype=torch.long, device=geometry.priors.device), usable)

    @abstractmethod
    def _assign(self, geometry: Geometry, truth: GroundTruth, usable: Tensor | None, predictions: Predictions | None) -> Targets:
        """Return ``targets`` where there are boxes (N, G, 4), G above 0."""

    @abstractmethod
    def most(self, geometry: Geometry) -> int | None:
        """Return how many locations one box has at most; None where the geometry does not say, and a GPU is asked in each step."""


def highest(claims: Tensor) -> Tensor:
    """Return the box (N, A) with the highest claim on each location, ``UNASSIGNED`` where none is 0 or above: (N, G, A) to (N, A)."""
    best, winner = claims.max(dim=1)
    return torch.where(best >= 0, winner, UNASSIGNED)


def within_usable(mask: Tensor, usable: Tensor | None) -> Tensor:
    """Return a (N, G, A) mask without the locations that an image does not have."""
    return mask if usable is None else mask & usable[:, None]


def class_scores(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the score of each box's class at each location: (N, A, C) and (N, G) to (N, G, A)."""
    return scores.transpose(1, 2).gather(1, labels[:, :, None].expand(-1, -1, scores.shape[1]))


def least_distance(centers: Tensor, boxes: Tensor) -> Tensor:
    """Return the distance (N, G, A) from points (A, 2) to the nearest side of boxes (N, G, 4), px; negative outside."""
    x, y, (x1, y1, x2, y2) = centers[:, 0], centers[:, 1], boxes[..., None].unbind(2)
    return torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))


def is_near_middle(geometry: Geometry, boxes: Tensor, radius: float) -> Tensor:
    """Return (N, G, A) bool: the location lies inside the square of ``radius`` strides to either hand of the box's middle."""
    reach, middle = geometry.strides * radius, (boxes[..., :2] + boxes[..., 2:])[..., None] / 2
    x, y, middle_x, middle_y = geometry.centers[:, 0], geometry.centers[:, 1], middle[:, :, 0], middle[:, :, 1]
    inside = (x > middle_x - reach) & (x < middle_x + reach)
    return inside & (y > middle_y - reach) & (y < middle_y + reach)
