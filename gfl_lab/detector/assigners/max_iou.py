"""Assignment by thresholds of the anchors' IoU, as in RetinaNet and Faster R-CNN (arXiv 1708.02002, section 4; 1506.01497, 3.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfl_lab.detector.assign import broadcast_iou
from gfl_lab.detector.assigners.base import Assigner, Predictions, within_usable
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.targets import GroundTruth, Targets


@dataclass(frozen=True)
class MaxIou(Assigner):
    """A location learns the box that its anchor overlaps most, from IoU ``positive`` on. Below ``negative`` it is background.

    Between the two it does not count. mmdet's ``MaxIoUAssigner``, but a box that no anchor overlaps gets no location: there it
    gets all of them.

    Attributes:
        positive, negative: IoU, ``negative`` at most ``positive``.
        low_quality: a box also gets all locations whose anchors overlap it most, from ``least`` on. If several boxes claim a
            location, the last one of the image wins.
        least: IoU.
    """

    positive: float = 0.5
    negative: float = 0.4
    low_quality: bool = True
    least: float = 0.0

    settings = {
        "max_iou_positive": "positive", "max_iou_negative": "negative", "max_iou_low_quality": "low_quality", "max_iou_least": "least",
    }  # fmt: skip

    def _assign(self, geometry: Geometry, truth: GroundTruth, usable: Tensor | None, predictions: Predictions | None) -> Targets:
        iou = broadcast_iou(geometry.priors, truth.boxes[:, :, None])
        iou = torch.where(within_usable(truth.valid[..., None], usable), iou, -1.0)
        best, box = iou.max(dim=1)
        learns = best >= self.positive
        assigned, counts = torch.where(learns, box, -1), learns | (best < self.negative)
        if self.low_quality:
            own_best = iou.amax(2, keepdim=True)
            most = (iou == own_best) & (own_best >= self.least) & (own_best > 0)
            number = torch.arange(1, iou.shape[1] + 1, device=iou.device, dtype=torch.int32)[:, None]
            last = (most * number).amax(1).long()
            assigned, counts = torch.where(last > 0, last - 1, assigned), counts | (last > 0)
        return Targets(assigned, counts if usable is None else counts & usable)

    def most(self, geometry: Geometry) -> int | None:
        """Return None: as many anchors as a level has can overlap a box equally."""
        return None
