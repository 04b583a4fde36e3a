"""Heads of mmdet's with quality focal loss, and TOOD's assignment on a plain head, which mmdet itself does not have.

An experiment names one in a config's place: ``cfg_options.model.bbox_head.type: RetinaQFLHead``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import ATSSHead, FoveaHead, RetinaHead, SSDHead, TOODHead
from mmdet.models.losses import QualityFocalLoss
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps, distance2bbox
from mmengine.model import bias_init_with_prob
from torch import Tensor, nn

PRIOR = 0.01
"""Class score of every location before training, as in the focal loss's paper (arXiv 1708.02002)."""


def qualities(boxes: Tensor, truth: Tensor, positive: Tensor) -> Tensor:
    """Return the target of QFL at each location: the predicted box's IoU with its own, 0 where it has none.

    Args:
        boxes, truth: (N, 4) xyxy, in any unit; without effect where not ``positive``.
        positive: (N,) bool.
    """
    found = boxes.new_zeros(len(boxes))
    found[positive] = bbox_overlaps(boxes[positive].detach(), truth[positive], is_aligned=True).clamp(min=1e-6)
    return found


def rows(maps: Tensor, channels: int) -> Tensor:
    """Return a map (N, A * channels, H, W) as rows (N * H * W * A, channels)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, channels)


@MODELS.register_module()
class RetinaQFLHead(RetinaHead):
    """RetinaNet with QFL: the score of a class is the IoU of the anchor's box (GFL, arXiv 2006.04388, Table 1b)."""

    def loss_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, anchors: Tensor, labels: Tensor, label_weights: Tensor, bbox_targets: Tensor,
        bbox_weights: Tensor, avg_factor: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the two losses of a level; arguments as mmdet's ``AnchorHead`` has them."""
        deltas, targets, labels = rows(bbox_pred, 4), bbox_targets.reshape(-1, 4), labels.reshape(-1)
        boxes, truth = (self.bbox_coder.decode(anchors.reshape(-1, 4), each) for each in (deltas.detach(), targets))
        quality = qualities(boxes, truth, labels < self.num_classes)
        scores = rows(cls_score, self.cls_out_channels)
        loss_cls = self.loss_cls(scores, (labels, quality), label_weights.reshape(-1), avg_factor=avg_factor)
        return loss_cls, self.loss_bbox(deltas, targets, bbox_weights.reshape(-1, 4), avg_factor=avg_factor)


@MODELS.register_module()
class FoveaQFLHead(FoveaHead):
    """FoveaBox with QFL: the score of a class is the IoU of the location's box (GFL, arXiv 2006.04388, Table 1b)."""

    def loss_by_feat(
        self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], batch_gt_instances: Any, batch_img_metas: Sequence[Any],
        batch_gt_instances_ignore: Any = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the losses; arguments as mmdet's ``FoveaHead`` has them."""
        sizes = [scores.shape[-2:] for scores in cls_scores]
        priors = self.prior_generator.grid_priors(sizes, dtype=bbox_preds[0].dtype, device=bbox_preds[0].device)
        labels, targets = self.get_targets(batch_gt_instances, sizes, priors)
        scores = torch.cat([rows(each, self.cls_out_channels) for each in cls_scores])
        sides = torch.cat([rows(each, 4) for each in bbox_preds])
        positive = labels < self.num_classes
        count = int(positive.sum())
        # sides are logarithms of distances, in one unit at a location: the IoU needs neither unit nor location
        boxes, truth = (around_zero(each.exp()) for each in (sides.detach(), targets))
        quality = qualities(boxes, truth, positive)
        loss_cls = self.loss_cls(scores, (labels, quality), avg_factor=count + len(cls_scores[0]))
        if not count:
            return {"loss_cls": loss_cls, "loss_bbox": sides.sum() * 0}
        return {"loss_cls": loss_cls, "loss_bbox": self.loss_bbox(sides[positive], targets[positive], avg_factor=count)}


def around_zero(distances: Tensor) -> Tensor:
    """Return the boxes (N, 4) with these distances of their sides to the origin: left, top, right, bottom."""
    return torch.cat((-distances[:, :2], distances[:, 2:]), dim=1)


@MODELS.register_module()
class SSDQFLHead(SSDHead):
    """SSD with QFL: a sigmoid for each class in place of the softmax with a background class (GFL, arXiv 2006.04388, Table 1b).

    The paper does not say what becomes of SSD's choice of hard negatives. Here all negatives count, as in QFL's own formula,
    and scores start at ``PRIOR``.

    Args:
        beta: of QFL. others: as ``SSDHead`` has them.
    """

    def __init__(self, *others: Any, beta: float = 2.0, **named: Any) -> None:
        super().__init__(*others, **named)
        self.use_sigmoid_cls = True
        self.quality_focal = QualityFocalLoss(beta=beta)

    def _init_layers(self) -> None:
        self.cls_out_channels = self.num_classes
        super()._init_layers()

    def init_weights(self) -> None:
        """Initialise as mmdet does, with class scores of ``PRIOR``."""
        super().init_weights()
        for level in self.cls_convs:
            nn.init.constant_(level[-1].bias, bias_init_with_prob(PRIOR))

    def loss_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, anchor: Tensor, labels: Tensor, label_weights: Tensor, bbox_targets: Tensor,
        bbox_weights: Tensor, avg_factor: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the two losses of an image; arguments as mmdet's ``SSDHead`` has them."""
        boxes, truth = (self.bbox_coder.decode(anchor, each) for each in (bbox_pred.detach(), bbox_targets))
        quality = qualities(boxes, truth, labels < self.num_classes)
        loss_cls = self.quality_focal(cls_score, (labels, quality), label_weights, avg_factor=avg_factor)
        miss = nn.functional.smooth_l1_loss(bbox_pred, bbox_targets, reduction="none", beta=self.train_cfg["smoothl1_beta"])
        return loss_cls[None], (miss * bbox_weights).sum() / avg_factor


@MODELS.register_module()
class ParallelTOODHead(TOODHead):
    """Task alignment learning on ATSS's parallel head: two towers without exchange, in place of the T-head (TOOD, arXiv 2108.07755, Table 6).

    Assignment and losses are those of ``TOODHead``.
    """

    def _init_layers(self) -> None:
        ATSSHead._init_layers(self)
        del self.atss_centerness

    def init_weights(self) -> None:
        """Initialise as ATSS's head."""
        super(TOODHead, self).init_weights()

    def forward(self, feats: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return class scores (N, C, H, W), 0 to 1, and boxes (N, 4, H, W), xyxy in strides, of each level."""
        found = [self._level(x, index) for index, x in enumerate(feats)]
        return tuple(scores for scores, _ in found), tuple(boxes for _, boxes in found)

    def _level(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        count, _, height, width = x.shape
        stride = self.prior_generator.strides[index][0]
        anchors = self.prior_generator.single_level_grid_priors((height, width), index, device=x.device).repeat(count, 1)
        to_class = to_box = x
        for class_conv, box_conv in zip(self.cls_convs, self.reg_convs, strict=True):
            to_class, to_box = class_conv(to_class), box_conv(to_box)
        sides = self.scales[index](self.atss_reg(to_box)).float()
        if self.anchor_type == "anchor_free":
            boxes = distance2bbox(self.anchor_center(anchors) / stride, rows(sides.exp(), 4))
        else:
            boxes = self.bbox_coder.decode(anchors, rows(sides, 4)) / stride
        return self.atss_cls(to_class).sigmoid(), boxes.reshape(count, height, width, 4).permute(0, 3, 1, 2)
