"""SimOTA: each box takes as many locations of least cost as its predictions overlap it well (YOLOX, arXiv 2107.08430, section 2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gfl_lab.detector.assign import broadcast_iou
from gfl_lab.detector.assigners.base import Assigner, Predictions, class_scores, is_near_middle, least_distance, within_usable
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.targets import GroundTruth, Targets

FAR_COST = 100_000.0
"""Added to the cost of a location that is not both inside the box and near its middle."""


@dataclass(frozen=True)
class SimOta(Assigner):
    """A box takes k locations of least ``cross-entropy + 3 * -log IoU``; k is the sum of its ``topk`` highest IoU, at least 1.

    Candidates are the locations inside any box or near any middle. The cross-entropy is that of all classes' scores; k is rounded
    down. A location that several boxes take learns the one of least cost. mmdet's ``SimOTAAssigner``.

    Attributes:
        topk: predictions whose IoU is summed.
        radius: of the square around a box's middle, in strides.
        iou_weight: of the cost's second part.
    """

    topk: int = 10
    radius: float = 2.5
    iou_weight: float = 3.0

    settings = {"simota_topk": "topk", "simota_radius": "radius"}
    needs_predictions: ClassVar[bool] = True

    def _assign(self, geometry: Geometry, truth: GroundTruth, usable: Tensor | None, predictions: Predictions | None) -> Targets:
        assert predictions is not None
        inside = (least_distance(geometry.centers, truth.boxes) > 0) & truth.valid[..., None]
        near = is_near_middle(geometry, truth.boxes, self.radius) & truth.valid[..., None]
        candidate = within_usable((inside | near).any(1, keepdim=True), usable) & truth.valid[..., None]  # (N, G, A)
        iou = broadcast_iou(predictions.boxes[:, None], truth.boxes[:, :, None])
        cost = self._class_cost(predictions.scores, truth.labels) - self.iou_weight * (iou + 1e-8).log() + ~(inside & near) * FAR_COST
        cost = torch.where(candidate, cost, math.inf)

        count = min(self.topk, iou.shape[2])
        many = torch.where(candidate, iou, 0.0).topk(count, dim=2).values.sum(2).int().clamp_(min=1)
        least, order = cost.topk(count, dim=2, largest=False)
        taken = (torch.arange(count, device=iou.device) < many[..., None]) & least.isfinite()
        matched = torch.zeros_like(order, dtype=torch.bool).new_zeros(iou.shape).scatter_(2, order, taken)
        takers = matched.sum(1)
        winner = torch.where(takers > 1, cost.argmin(1), matched.int().argmax(1))
        return Targets(torch.where(takers > 0, winner, -1), usable)

    @staticmethod
    def _class_cost(scores: Tensor, labels: Tensor) -> Tensor:
        """Return the summed cross-entropy (N, G, A) of scores (N, A, C) with each box's class alone as 1; logarithms from -100 on."""
        miss, hit = -(1 - scores).log().clamp(min=-100), -scores.log().clamp(min=-100)
        return miss.sum(2)[:, None] + class_scores(hit - miss, labels)

    def most(self, geometry: Geometry) -> int:
        """Return ``topk``."""
        return self.topk
