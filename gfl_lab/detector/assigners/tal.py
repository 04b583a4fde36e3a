"""Task alignment learning: the locations that classify and localise a box best together (TOOD, arXiv 2108.07755, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gfl_lab.detector.assign import broadcast_iou, is_inside
from gfl_lab.detector.assigners.base import Assigner, Predictions, class_scores, highest
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.targets import GroundTruth, Targets


@dataclass(frozen=True)
class Tal(Assigner):
    """The ``topk`` locations with the highest ``score^alpha * IoU^beta`` learn a box if they lie inside it. The highest IoU wins.

    The score is that of the box's class, the IoU that of the predicted box (equation 1). mmdet's ``TaskAlignedAssigner``. TOOD's
    first epochs by ATSS and its normalised alignment as target are not part of it: the target stays that of ``quality``.

    Attributes:
        alpha, beta: exponents.
        topk: candidates of a box on all levels.
    """

    alpha: float = 1.0
    beta: float = 6.0
    topk: int = 13

    settings = {"tal_alpha": "alpha", "tal_beta": "beta", "tal_topk": "topk"}
    needs_predictions: ClassVar[bool] = True

    def _assign(self, geometry: Geometry, truth: GroundTruth, usable: Tensor | None, predictions: Predictions | None) -> Targets:
        assert predictions is not None
        iou = broadcast_iou(predictions.boxes[:, None], truth.boxes[:, :, None])
        alignment = class_scores(predictions.scores, truth.labels) ** self.alpha * iou**self.beta
        if usable is not None:
            alignment = alignment.masked_fill(~usable[:, None], -1.0)
        best, candidates = alignment.topk(min(self.topk, iou.shape[2]), dim=2)
        inside = is_inside(geometry.centers[candidates], truth.boxes[:, :, None])
        positive = (best > 0) & inside & truth.valid[..., None]
        claims = torch.where(positive, iou.gather(2, candidates), -1.0)
        return Targets(highest(torch.full_like(iou, -1.0).scatter_(2, candidates, claims)), usable)

    def most(self, geometry: Geometry) -> int:
        """Return ``topk``."""
        return self.topk
