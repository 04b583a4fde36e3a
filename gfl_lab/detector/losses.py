"""The losses of the GFL family as plain functions: element by element, in float32, without reduction or weight.

Sources: Generalized Focal Loss (Li et al., arXiv 2006.04388), Focal Loss (Lin et al., arXiv 1708.02002), GIoU
(Rezatofighi et al., arXiv 1902.09630), centerness (Tian et al., FCOS, arXiv 1904.01355).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def quality_focal_loss(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss (arXiv 2006.04388, eq. 5): ``|y - p|^beta * BCE(p, y)`` with ``p = sigmoid(logit)``.

    Args:
        logits: any shape.
        target: same shape, y in [0, 1]: the IoU at the class of a positive location, 0 elsewhere. No gradient flows into it.
        beta: 0, or at least 1; in between the gradient is NaN where p equals y.

    Returns:
        Loss of each element, shape of ``logits``.
    """
    logits, target = logits.float(), target.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    error = target - logits.sigmoid()
    # an even power needs no absolute value, whose gradient costs a pass over all locations
    return cross_entropy * (error.square() if beta == 2 else error.abs().pow(beta))


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Sigmoid focal loss (arXiv 1708.02002, eq. 5): ``-alpha_t (1 - p_t)^gamma log(p_t)``.

    Args:
        logits: any shape.
        target: same shape, 1 at the class of a positive location, 0 elsewhere.
        gamma: focusing exponent.
        alpha: weight of target 1; 1 - alpha is that of target 0.

    Returns:
        Loss of each element, shape of ``logits``.
    """
    target = target.float()
    against = logits.float() * (1 - 2 * target)  # logit of the wrong answer: sigmoid of it is 1 - p_t
    alpha_t = (1 - alpha) + (2 * alpha - 1) * target
    return alpha_t * against.sigmoid().pow(gamma) * F.softplus(against)


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Distribution focal loss (arXiv 2006.04388, eq. 6): ``-((i+1 - y) log P_i + (y - i) log P_i+1)`` with ``i = floor(y)``.

    Args:
        logits: (M, n+1), one row a box side.
        target: (M,) distance y in bins, 0 <= y < n. Raises (on CUDA: asserts) for y >= n.

    Returns:
        (M,) loss of each side.
    """
    target = target.float()
    left = target.floor().long()
    neighbours = torch.stack([left, left + 1], dim=1)
    right_share = target - left
    log_p = F.log_softmax(logits.float(), dim=1).gather(1, neighbours)
    return -(log_p[:, 0] * (1 - right_share) + log_p[:, 1] * right_share)


def iou_and_giou(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU (arXiv 1902.09630) of pairs of boxes.

    Args:
        boxes: (M, 4) xyxy.
        targets: (M, 4) xyxy, same unit.

    Returns:
        (M,) IoU in [0, 1] and (M,) GIoU in [-1, 1].
    """
    boxes, targets = boxes.float(), targets.float()
    # Clamps as mmdet's bbox_overlaps: 1e-6 for IoU, 1e-7 for GIoU would differ only for boxes without area.
    eps = 1e-7
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    overlap = (torch.min(boxes[:, 2:], targets[:, 2:]) - torch.max(boxes[:, :2], targets[:, :2])).clamp(min=0).prod(1)
    union = (size.prod(1) + target_size.prod(1) - overlap).clamp(min=eps)
    hull = (torch.max(boxes[:, 2:], targets[:, 2:]) - torch.min(boxes[:, :2], targets[:, :2])).clamp(min=0).prod(1).clamp(min=eps)
    iou = overlap / union
    return iou, iou - (hull - union) / hull


def centerness_target(centers: Tensor, boxes: Tensor) -> Tensor:
    """Centerness (arXiv 1904.01355, eq. 3): ``sqrt(min(l,r)/max(l,r) * min(t,b)/max(t,b))``.

    Args:
        centers: (M, 2) points inside their boxes.
        boxes: (M, 4) xyxy.

    Returns:
        (M,) in (0, 1].
    """
    to_top_left, to_bottom_right = centers - boxes[:, :2], boxes[:, 2:] - centers
    ratio = torch.min(to_top_left, to_bottom_right) / torch.max(to_top_left, to_bottom_right)
    return (ratio[:, 0] * ratio[:, 1]).sqrt()
