"""What a box prediction means: the forms of the paper's Table 2(a), each with its decoding and its own loss.

All forms speak of the four distances from a location to the sides (left, top, right, bottom) in bins, a bin being
``stride * bin_width`` px, so that they can be compared. Source: arXiv 2006.04388, sections 3.2 and the appendix's table of
distributions.

===========  ========  =====================================================  ==================================
form         channels  prediction                                             its own loss, per side
===========  ========  =====================================================  ==================================
dirac delta  4         dx, dy, dw, dh of the anchor (ATSS)                    none (the loss of the whole box)
dirac dist.  4         log of the distances, in halves of the anchor (FCOS)   none
gaussian     8         4 means, beyond half an anchor; then 4 log variances   negative log-likelihood
general      4(n+1)    logits over the bins 0..n of each side                 DFL
===========  ========  =====================================================  ==================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from mmdet.models.dense_heads.gfl_head import Integral
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from torch import Tensor

from gfl_lab.detector import losses

DISTANCE_MARGIN = 0.1
"""DFL targets are clamped to n minus this, in bins, so that a right neighbour exists (as mmdet's coder)."""

MAX_LOG_RATIO = math.log(1000 / 16)
"""Bound of a log distance, as mmdet's delta coder has for widths: a box of 62 anchors."""

DELTA_STDS = 0.1, 0.2
"""Standard deviations of ATSS's deltas: of a centre, and of a log size."""

LOG_VARIANCE_BOUND = 7.0
"""Bound of the Gaussian's log variance, a standard deviation of 0.03 to 33 bins; reached smoothly, so a gradient leads back."""


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


class BoxForm(Protocol):
    """Of a location: ``predictions`` (M, channels), ``priors`` (M, 4) anchors xyxy px, ``unit`` (M, 1) px of a bin."""

    channels: int

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded: ...

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted: ...


def _centers(priors: Tensor) -> Tensor:
    return (priors[:, :2] + priors[:, 2:]) / 2


def _half_anchor(priors: Tensor, unit: Tensor) -> Tensor:
    return (priors[:, 2:] - priors[:, :2]).repeat(1, 2) / 2 / unit


def _around(centers: Tensor, distances: Tensor) -> Tensor:
    return torch.cat([centers - distances[:, :2], centers + distances[:, 2:]], dim=1)


@dataclass(frozen=True)
class DiracDelta:
    """ATSS's box: delta-xywh of the anchor, means 0, stds 0.1 0.1 0.2 0.2. Boxes and targets of ``fit`` are in px."""

    channels: int = 4

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        boxes, centers = self._boxes(predictions, priors), _centers(priors)
        return Decoded(boxes, torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=1) / unit, None)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        return Fitted(self._boxes(predictions, priors), targets, None)

    @staticmethod
    def _boxes(predictions: Tensor, priors: Tensor) -> Tensor:
        """Decode as mmdet's ``DeltaXYWHBBoxCoder``, bit by bit; that one copies its constants to the device in each call."""
        shift, log_scale = predictions[:, :2] * DELTA_STDS[0], predictions[:, 2:] * DELTA_STDS[1]
        sizes = priors[:, 2:] - priors[:, :2]
        centers = (priors[:, :2] + priors[:, 2:]) * 0.5 + sizes * shift
        sizes = sizes * log_scale.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        return torch.cat([centers - sizes * 0.5, centers + sizes * 0.5], dim=1)


@dataclass(frozen=True)
class DiracDistance:
    """FCOS's box: the exponential keeps a distance positive; 0 is half the anchor."""

    channels: int = 4

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        distances = self._distances(predictions, priors, unit)
        return Decoded(_around(_centers(priors), distances * unit), distances, None)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        return Fitted(_around(_centers(priors) / unit, self._distances(predictions, priors, unit)), targets / unit, None)

    @staticmethod
    def _distances(predictions: Tensor, priors: Tensor, unit: Tensor) -> Tensor:
        return predictions.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * _half_anchor(priors, unit)


@dataclass(frozen=True)
class Gaussian:
    """An independent normal distribution for each side. ``reg_max`` is only the range of the exported ``probs``."""

    reg_max: int
    channels: int = 8

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        mean, log_variance = self._parameters(predictions, priors, unit)
        probs = normal_bins(mean, log_variance, self.reg_max)
        return Decoded(_around(_centers(priors), mean * unit), mean, probs)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        mean, log_variance = self._parameters(predictions, priors, unit)
        centers, targets = _centers(priors) / unit, targets / unit
        distances = torch.cat([centers - targets[:, :2], targets[:, 2:] - centers], dim=1)
        return Fitted(_around(centers, mean), targets, losses.gaussian_nll(mean, log_variance, distances).mean(1))

    @staticmethod
    def _parameters(predictions: Tensor, priors: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = predictions.chunk(2, dim=1)
        return mean + _half_anchor(priors, unit), LOG_VARIANCE_BOUND * torch.tanh(log_variance / LOG_VARIANCE_BOUND)


@dataclass(frozen=True)
class General:
    """GFL's box: a free distribution over the bins of each side; its mean is the distance.

    Args:
        integral: mmdet's; holds the positions of the bins.
        coder: mmdet's.
        dfl: whether ``fit`` computes DFL.
        local_peak: decode the mean over the highest peak alone (``peak_mean``) instead of the whole distribution.
    """

    integral: Integral
    coder: DistancePointBBoxCoder
    dfl: bool = True
    local_peak: bool = False

    @property
    def channels(self) -> int:
        return 4 * (self.integral.reg_max + 1)

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        probs = predictions.unflatten(1, (4, self.integral.reg_max + 1)).softmax(2)
        distances = peak_mean(probs) if self.local_peak else probs @ self.integral.project.float()
        return Decoded(self.coder.decode(_centers(priors), distances * unit), distances, probs)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        centers, targets = _centers(priors) / unit, targets / unit
        boxes = self.coder.decode(centers, self.integral(predictions))
        if not self.dfl:
            return Fitted(boxes, targets, None)
        n = self.integral.reg_max
        distances = self.coder.encode(centers, targets, n, DISTANCE_MARGIN)
        dfl = losses.distribution_focal_loss(predictions.reshape(-1, n + 1), distances.reshape(-1))
        return Fitted(boxes, targets, dfl.view(-1, 4).mean(1))


def peak_mean(probs: Tensor) -> Tensor:
    """Mean over the bins of the highest peak alone, in bins: the peak runs from its top down to the valley on either side.

    Of a distribution with one peak it is the mean of the whole. Among equal tops the first counts.

    Args:
        probs: (..., n+1) distributions.

    Returns:
        (...) in [0, n].
    """
    bins = torch.arange(probs.shape[-1], device=probs.device)
    top = probs.argmax(-1, keepdim=True)
    step = probs.diff(dim=-1)  # step i leads from bin i to bin i + 1
    # a bin belongs to the peak when no step between it and the top goes up on the way away from the top
    falls_left = ((step >= 0) | (bins[:-1] >= top)).flip(-1).cumprod(-1).flip(-1)
    falls_right = ((step <= 0) | (bins[:-1] < top)).cumprod(-1)
    ones = torch.ones_like(falls_left[..., :1])
    peak = torch.cat([falls_left, ones], -1) * torch.cat([ones, falls_right], -1)
    mass = probs * peak
    return (mass * bins).sum(-1) / mass.sum(-1)


def normal_bins(mean: Tensor, log_variance: Tensor, reg_max: int) -> Tensor:
    """Mass of normal distributions within half a bin of each bin 0..n; the end bins take the tails.

    Args:
        mean, log_variance: (...) in bins and bins squared.

    Returns:
        (..., n+1), summing to 1.
    """
    borders = torch.arange(reg_max, device=mean.device, dtype=mean.dtype) + 0.5
    below = torch.special.ndtr((borders - mean[..., None]) * (-log_variance[..., None] / 2).exp())
    return torch.cat([below[..., :1], below.diff(dim=-1), 1 - below[..., -1:]], dim=-1)
