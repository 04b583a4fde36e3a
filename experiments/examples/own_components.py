"""Three components that gfl-lab does not have, for own_components.yaml and own_head.yaml; docs/extending.md explains them."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor, nn

from gfl_lab.detector.head import GFLFamilyHead


@MODELS.register_module()
class AlphaGIoULoss(nn.Module):
    """1 - IoU^alpha + (empty part of the enclosing box)^alpha; alpha 1 is GIoU (He et al., arXiv 2110.13675, section 3)."""

    def __init__(self, alpha: float = 3.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, boxes: Tensor, targets: Tensor, weight: Tensor, avg_factor: Tensor) -> Tensor:
        iou, giou = (bbox_overlaps(boxes, targets, mode=mode, is_aligned=True) for mode in ("iou", "giou"))
        loss = 1 - iou**self.alpha + (iou - giou).clamp(min=0) ** self.alpha
        return (loss * weight).sum() / avg_factor


@TASK_UTILS.register_module()
class BestPriorAssigner(BaseAssigner):
    """Each box teaches the one location whose anchor overlaps it most."""

    def assign(self, pred_instances: InstanceData, gt_instances: InstanceData, gt_instances_ignore: Any = None) -> AssignResult:
        priors, boxes = pred_instances.priors, gt_instances.bboxes
        assigned = torch.zeros(len(priors), dtype=torch.long, device=priors.device)  # 0 is background
        if len(boxes):
            assigned[bbox_overlaps(boxes, priors).argmax(dim=1)] = torch.arange(1, len(boxes) + 1, device=priors.device)
        return AssignResult(len(boxes), assigned, None, labels=None)


@MODELS.register_module()
class TemperatureHead(GFLFamilyHead):
    """Class logits divided by a temperature: below 1 scores are sharper, above 1 flatter (Guo et al., arXiv 1706.04599)."""

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = temperature

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        logits, *others = super().forward_single(x, scale)
        return logits / self.temperature, *others
