"""The losses of the GFL family as plain functions: element by element, in float32, without reduction or weight.

Sources: Generalized Focal Loss (Li et al., arXiv 2006.04388) and V2 (arXiv 2011.12885), Focal Loss (Lin et al., arXiv
1708.02002), GIoU (Rezatofighi et al., arXiv 1902.09630), DIoU and CIoU (Zheng et al., arXiv 1911.08287), IoU loss (Yu et
al., UnitBox, arXiv 1608.01471), centerness (Tian et al., FCOS, arXiv 1904.01355).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def generalized_focal_loss(log_p: Tensor, target: Tensor, bounds: Tensor, beta: float) -> Tensor:
    """Return the general form (arXiv 2006.04388, eq. 8), of which focal loss (without alpha), QFL and DFL are special cases.

    ``-|y - (y_l p_l + y_r p_r)|^beta * ((y_r - y) log p_l + (y - y_l) log p_r)``

    ======  ================  ==================  ================  ==========================================
    case    beta              y_l, y_r            y                 p_l, p_r
    ======  ================  ==================  ================  ==========================================
    FL      gamma             0, 1                0 or 1            1 - p, p
    QFL     beta              0, 1                IoU in [0, 1]     1 - p, p
    DFL     0                 neighbouring bins   distance in bins  their softmax entries (need not sum to 1)
    ======  ================  ==================  ================  ==========================================

    Args:
        log_p: (..., 2) logarithms of p_l and p_r, so that neither has to be kept from 0.
        target: (...) y, with y_l <= y <= y_r.
        bounds: (..., 2) or broadcastable: y_l < y_r.
        beta: 0, or at least 1.

    Returns:
        (...) loss; least at p_l = (y_r - y) / (y_r - y_l).
    """
    log_p, target, bounds = log_p.float(), target.float(), bounds.float()
    left, right = bounds[..., 0], bounds[..., 1]
    cross_entropy = -((right - target) * log_p[..., 0] + (target - left) * log_p[..., 1])
    if beta == 0:
        return cross_entropy
    return (target - (bounds * log_p.exp()).sum(-1)).abs().pow(beta) * cross_entropy


def quality_focal_loss(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Return the quality focal loss (arXiv 2006.04388, eq. 5): ``|y - p|^beta * BCE(p, y)`` with ``p = sigmoid(logit)``.

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


def quality_focal_loss_of_product(logits: Tensor, quality_logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Return QFL of GFLv2's joint score ``J = sigmoid(logit) * sigmoid(quality logit)``, taken as the probability that it is.

    Must be called outside of autocast, inside of which torch refuses cross-entropy of probabilities on CUDA.

    Args:
        logits: any shape.
        quality_logits: broadcastable to it.
        target, beta: as for ``quality_focal_loss``.

    Returns:
        Loss of each element, shape of ``logits``.
    """
    joint, target = logits.float().sigmoid() * quality_logits.float().sigmoid(), target.float()
    error = target - joint
    return F.binary_cross_entropy(joint, target, reduction="none") * (error.square() if beta == 2 else error.abs().pow(beta))


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Return the sigmoid focal loss (arXiv 1708.02002, eq. 5): ``-alpha_t (1 - p_t)^gamma log(p_t)``.

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
    """Return the distribution focal loss (arXiv 2006.04388, eq. 6): ``-((i+1 - y) log P_i + (y - i) log P_i+1)`` with ``i = floor(y)``.

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


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-likelihood of a normal distribution without its constant: ``(mu - y)^2 / (2 sigma^2) + log(sigma^2) / 2``.

    The paper's Gaussian form (arXiv 2006.04388, appendix). Arguments of one shape, which is the result's.
    """
    error = (mean.float() - target.float()).square()
    return 0.5 * (error * (-log_variance.float()).exp() + log_variance.float())


BOX_LOSSES = ("giou", "diou", "ciou", "iou")


def iou_and_box_loss(boxes: Tensor, targets: Tensor, kind: str = "giou") -> tuple[Tensor, Tensor]:
    """Return IoU and the loss of pairs of boxes.

    ====  ==============================================================================================
    giou  1 - GIoU (arXiv 1902.09630)
    diou  1 - IoU + squared distance of the centres / squared diagonal of the hull (arXiv 1911.08287, eq. 7)
    ciou  diou's + a term for unlike aspect ratios, counted from IoU 0.5 on as the authors' code does (eq. 10)
    iou   -ln IoU (arXiv 1608.01471); the IoU counts as at least 1e-6
    ====  ==============================================================================================

    Args:
        boxes: (M, 4) xyxy.
        targets: (M, 4) xyxy, same unit.
        kind: of the loss.

    Returns:
        (M,) IoU in [0, 1], not detached, and (M,) loss.
    """
    if kind == "giou":
        iou, giou = iou_and_giou(boxes, targets)
        return iou, 1 - giou
    iou = iou_and_giou(boxes, targets)[0]
    if kind == "iou":
        return iou, -iou.clamp(min=1e-6).log()
    boxes, targets = boxes.float(), targets.float()
    eps = 1e-7
    hull = (torch.max(boxes[:, 2:], targets[:, 2:]) - torch.min(boxes[:, :2], targets[:, :2])).clamp(min=0)
    apart = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]).square().sum(1) / 4
    diou = iou - apart / (hull.square().sum(1) + eps)
    if kind == "diou":
        return iou, 1 - diou
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    angle, target_angle = (torch.atan(s[:, 0] / (s[:, 1] + eps)) for s in (size, target_size))
    aspect = 4 / math.pi**2 * (angle - target_angle).square()
    with torch.no_grad():
        share = (iou > 0.5) * aspect / (1 - iou + aspect).clamp(min=eps)
    return iou, 1 - (diou - share * aspect).clamp(-1, 1)


def iou_and_giou(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalized IoU (arXiv 1902.09630) of pairs of boxes.

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
    """Return the centerness (arXiv 1904.01355, eq. 3): ``sqrt(min(l,r)/max(l,r) * min(t,b)/max(t,b))``.

    Args:
        centers: (M, 2) points.
        boxes: (M, 4) xyxy.

    Returns:
        (M,) in (0, 1]; 0 for a point outside of its box, which ATSS never assigns.
    """
    to_top_left, to_bottom_right = (centers - boxes[:, :2]).clamp(min=0), (boxes[:, 2:] - centers).clamp(min=0)
    ratio = torch.min(to_top_left, to_bottom_right) / torch.max(to_top_left, to_bottom_right).clamp(min=1e-12)
    return (ratio[:, 0] * ratio[:, 1]).sqrt()
