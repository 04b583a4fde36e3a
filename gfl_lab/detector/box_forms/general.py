"""GFL's box: a free distribution over the bins of each side (arXiv 2006.04388, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from mmdet.models.dense_heads.gfl_head import Integral
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from torch import Tensor, nn

from gfl_lab.detector import losses
from gfl_lab.detector.box_forms.base import BoxForm, Decoded, Fitted, centers_of

DISTANCE_MARGIN = 0.1
"""DFL targets are clamped to n minus this, in bins, so that a right neighbour exists (as mmdet's coder)."""

DECODINGS = ("expectation", "local_peak")


@dataclass
class General(BoxForm):
    """A distribution over the bins 0..n of each side; its mean is the distance.

    Attributes:
        reg_max: n.
        decoding: "expectation" of the whole distribution, or "local_peak": its highest peak alone (``peak_mean``), at test.
        dfl_weight: weight of DFL; 0 leaves the term out.
        integral: mmdet's module with the positions of the bins; the head's ``integral.project`` in a state dict.
    """

    reg_max: int = 16
    decoding: str = "expectation"
    dfl_weight: float = 0.25
    integral: Any = field(init=False, repr=False, compare=False)

    settings = {"bin_width": "bin_width", "reg_max": "reg_max", "decode": "decoding", "dfl_weight": "dfl_weight"}
    loss_name: ClassVar[str] = "loss_dfl"

    def __post_init__(self) -> None:
        if self.decoding not in DECODINGS:
            raise ValueError(f"decoding is '{self.decoding}': it must be one of {', '.join(DECODINGS)}")
        self.integral = Integral(self.reg_max)
        self._coder = DistancePointBBoxCoder()

    @property
    def channels(self) -> int:
        """Channels of a prediction: 4(n+1), side-major."""
        return 4 * (self.reg_max + 1)

    @property
    def loss_weight(self) -> float:
        """Weight of DFL."""
        return self.dfl_weight

    def layers(self) -> dict[str, nn.Module]:
        """Return the module with the positions of the bins."""
        return {"integral": self.integral}

    def decode(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Decoded:
        """Return boxes (M, 4), distances (M, 4) and distributions (M, 4, n+1)."""
        probs = predictions.unflatten(1, (4, self.reg_max + 1)).softmax(2)
        positions = self.integral.project.float()
        distances = peak_mean(probs, positions) if self.decoding == "local_peak" else probs @ positions
        return Decoded(self._coder.decode(centers_of(priors), distances * unit), distances, probs)

    def training_boxes(self, predictions: Tensor, priors: Tensor, unit: Tensor) -> Tensor:
        """Return the boxes (M, 4) of the mean distances, xyxy px."""
        return self._coder.decode(centers_of(priors), self.integral(predictions) * unit)

    def fit(self, predictions: Tensor, priors: Tensor, unit: Tensor, targets: Tensor) -> Fitted:
        """Return boxes and targets (M, 4) in bins, and DFL (M,)."""
        centers, targets = centers_of(priors) / unit, targets / unit
        boxes = self._coder.decode(centers, self.integral(predictions))
        if not self.dfl_weight:
            return Fitted(boxes, targets, None)
        dfl = self._dfl(predictions.reshape(-1, self.reg_max + 1), self._targets(centers, targets).reshape(-1))
        return Fitted(boxes, targets, dfl.view(-1, 4).mean(1))

    def _targets(self, centers: Tensor, boxes: Tensor) -> Tensor:
        """Return the distances (M, 4) that DFL learns, kept within the reach of the bins."""
        return self._coder.encode(centers, boxes, self.reg_max, DISTANCE_MARGIN)

    def _dfl(self, logits: Tensor, distances: Tensor) -> Tensor:
        """Return DFL (S,) of distributions (S, n+1) for distances (S,)."""
        return losses.distribution_focal_loss(logits, distances)


def peak_mean(probs: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the mean over the bins of the highest peak alone: from its top down to the valley on either side.

    With one peak it is the mean of the whole distribution. Among equal tops the first counts.

    Args:
        probs: (..., n+1) distributions.
        positions: (n+1,) of the bins, ascending; None for 0, 1, ..., n.

    Returns:
        (...) in the unit of the positions.
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
    return (mass * (bins if positions is None else positions)).sum(-1) / mass.sum(-1)
