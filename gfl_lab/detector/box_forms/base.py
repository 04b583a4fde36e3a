"""The contract of a box form, and the geometry that all of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

MAX_LOG_RATIO = math.log(1000 / 16)
"""Bound of a log distance, as mmdet's delta coder has for widths: a box of 62 anchors."""


class Decoded(NamedTuple):
    """M decoded predictions: boxes (M, 4) xyxy px, not clipped; distances (M, 4) in bins; probs (M, 4, n+1) or None."""

    boxes: Tensor
    distances: Tensor
    probs: Tensor | None


class Fitted(NamedTuple):
    """P positives in training: boxes and targets (P, 4) xyxy in one unit; the form's own loss (P,), mean over sides, or None."""

    boxes: Tensor
    targets: Tensor
    loss: Tensor | None


@dataclass
class BoxForm(ABC):
    """A form of box prediction: its channels, layers, decoding, and its own loss.

    In every method ``predictions`` are (M, channels), ``priors`` (M, 4) anchors, xyxy px, and ``unit`` (M, 1) px of a bin.

    Attributes:
        bin_width: Delta, distance between bins in strides.
        settings: {setting of a trial: field} of the fields that settings decide.
        loss_name: term of the form's own loss; "" without one.
    """

    bin_width: float = 1.0

    settings: ClassVar[Mapping[str, str]] = {"bin_width": "bin_width"}
    loss_name: ClassVar[str] = ""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of a prediction."""

    @property
    def loss_weight(self) -> float:
        """Weight of the form's own loss."""
        return 0.0

    @property
    def has_box_loss(self) -> bool:
        """Return True if the loss of the whole box is part of training."""
        return True

    def layers(self) -> dict[str, nn.Module]:
        """Return modules that become the head's, by name: without parameters, since predictions come from ``gfl_reg``."""
        return {}

    @abstractmethod
    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        """Return boxes, distances and distributions of predictions."""

    def training_boxes(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Tensor:
        """Return the boxes (M, 4), xyxy px, that training compares with the targets; switches of the test do not change them."""
        return self.decode(predictions, priors, unit).boxes

    @abstractmethod
    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        """Return boxes, with the ``targets`` (M, 4), xyxy px, in the unit of the box loss, and the form's own loss."""


def centers_of(priors: Tensor) -> Tensor:
    """Return the (M, 2) centres of boxes (M, 4)."""
    return (priors[:, :2] + priors[:, 2:]) / 2


def half_anchor(priors: Tensor, unit: Tensor) -> Tensor:
    """Return half the width and height of anchors, twice: (M, 4) in bins."""
    return (priors[:, 2:] - priors[:, :2]).repeat(1, 2) / 2 / unit


def around(centers: Tensor, distances: Tensor) -> Tensor:
    """Return the boxes (M, 4) whose sides have these ``distances`` (M, 4) from ``centers`` (M, 2)."""
    return torch.cat([centers - distances[:, :2], centers + distances[:, 2:]], dim=1)


def distances_to_sides(centers: Tensor, boxes: Tensor) -> Tensor:
    """Return distances (M, 4) from ``centers`` (M, 2) to the left, top, right and bottom side of ``boxes`` (M, 4), in their unit."""
    return torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=1)
