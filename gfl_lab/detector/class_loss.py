"""The classification loss of a batch: focal, quality focal or varifocal loss, summed over every location and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gfl_lab.detector import background_loss, losses
from gfl_lab.detector.positives import JoinedPositives, PaddedPositives, Positives, SparsePositives, join
from gfl_lab.detector.varifocal import VarifocalLoss


class ElementLoss(Protocol):
    """A classification loss of single logits, (...) of any shape."""

    @property
    def power(self) -> float:
        """Exponent of the score in the loss of a background location."""

    @property
    def background_factor(self) -> float:
        """Factor of the loss of a background location."""

    def __call__(self, logits: Tensor, factors: Tensor | None, target: Tensor) -> Tensor:
        """Return the loss of each element; ``factors`` are the logits of a quality that multiplies the score."""


@dataclass(frozen=True)
class FocalLoss:
    """Focal loss (arXiv 1708.02002, eq. 5) with exponent ``gamma`` and weight ``alpha`` of a positive."""

    gamma: float
    alpha: float

    @property
    def power(self) -> float:
        """Exponent of the score in the loss of a background location."""
        return self.gamma

    @property
    def background_factor(self) -> float:
        """Factor of the loss of a background location."""
        return 1 - self.alpha

    def __call__(self, logits: Tensor, factors: Tensor | None, target: Tensor) -> Tensor:
        """Return the loss of each element of ``logits`` (...); there are no ``factors``."""
        return losses.focal_loss(logits, target, self.gamma, self.alpha)


@dataclass(frozen=True)
class QualityFocalLoss:
    """QFL (arXiv 2006.04388, eq. 5) with exponent ``beta``."""

    beta: float

    @property
    def power(self) -> float:
        """Exponent of the score in the loss of a background location."""
        return self.beta

    @property
    def background_factor(self) -> float:
        """Factor of the loss of a background location: 1."""
        return 1.0

    def __call__(self, logits: Tensor, factors: Tensor | None, target: Tensor) -> Tensor:
        """Return the loss of each element of ``logits`` (...), or of the product of score and quality."""
        if factors is None:
            return losses.quality_focal_loss(logits, target, self.beta)
        return losses.quality_focal_loss_of_product(logits, factors, target, self.beta)


CLASS_LOSSES = {"varifocal": VarifocalLoss}
"""Losses of the head's own that can take the place of a quality's, by the ``type`` of its ``cls_loss``."""


class ClassLossSum(NamedTuple):
    """The summed loss: scalar ``total``, of it (P,) ``of_positives``, the loss of all classes at each positive; None where not asked for."""

    total: Tensor
    of_positives: Tensor | None


class ClassTargets(NamedTuple):
    """Targets of the class logits.

    Attributes:
        labels: (P,) class of each positive.
        score: (P,) target of its class.
        usable: (N, A) bool, locations that count; None where all do.
    """

    labels: Tensor
    score: Tensor
    usable: Tensor | None


def sum_class_loss(
    loss: ElementLoss, logits: Sequence[Tensor], factors: Sequence[Tensor] | None, at: Positives, targets: ClassTargets, *, apart: bool
) -> ClassLossSum:
    """Sum the loss over all locations and classes; large batches without a tensor of targets (docs/decisions/0013-dense-class-loss.md).

    Args:
        logits: (N, C, H, W) of each level.
        factors: (N, 1, H, W) logits of a quality that multiplies the score, or None.
        apart: also return the loss at each positive.
    """
    if isinstance(at, JoinedPositives):
        return _sum_joined(loss, join(logits), None if factors is None else join(factors), at, targets, apart)
    return _sum_sparse(loss, logits, factors, at, targets)


def _sum_joined(
    loss: ElementLoss, logits: Tensor, factors: Tensor | None, at: JoinedPositives, targets: ClassTargets, apart: bool
) -> ClassLossSum:
    target = torch.zeros_like(logits).index_put_((at.image, targets.labels, at.location), targets.score)
    each = loss(logits, factors, target)
    if targets.usable is not None:
        each = each * targets.usable[:, None]
    total = each.sum()
    return ClassLossSum(total, each[at.image, :, at.location].sum(1) if apart else None)


def _sum_sparse(
    loss: ElementLoss, logits: Sequence[Tensor], factors: Sequence[Tensor] | None, at: SparsePositives, targets: ClassTargets
) -> ClassLossSum:
    background, own, own_factors = background_loss.background_and_positives(logits, factors, at, loss.power, targets.usable)
    own_quality = None if own_factors is None else own_factors[:, None]
    nothing = torch.zeros_like(own)
    target = nothing.scatter(1, targets.labels[:, None], targets.score[:, None])
    of_positives = loss(own, own_quality, target).sum(1)
    more = of_positives - loss(own, own_quality, nothing).sum(1)
    if isinstance(at, PaddedPositives):
        of_positives, more = of_positives * at.real, more * at.real
    return ClassLossSum(loss.background_factor * background + more.sum(), of_positives)


def registered_class_loss(
    loss: nn.Module, logits: Sequence[Tensor], at: Positives, targets: ClassTargets, iou: Tensor | None, positives: Tensor
) -> Tensor:
    """Return a registered classification loss of the user's, called as mmdet's heads call theirs.

    Args:
        logits: (N, C, H, W) of each level.
        iou: (P,) IoU of each positive, where the target has it beside the labels; else None.
        positives: the loss's ``avg_factor``.
    """
    joined = join(logits)
    count, classes, locations = joined.shape
    labels = targets.labels.new_full((count, locations), classes)
    labels[at.image, at.location] = targets.labels
    target: Any = labels.flatten()
    if iou is not None:
        scores = joined.new_zeros(count, locations)
        scores[at.image, at.location] = iou
        target = (target, scores.flatten())
    weight = joined.new_ones(count, locations) if targets.usable is None else targets.usable.float()
    return loss(joined.transpose(1, 2).reshape(-1, classes), target, weight=weight.flatten(), avg_factor=positives)
