"""One head for the rows of GFL's Table 3: its two ideas are independent switches.

===================  =======================  =========================================  =====================
paper's row          ``quality``              ``box``                                    weight of box losses
===================  =======================  =========================================  =====================
ATSS                 centerness, focal loss   dirac (delta-xywh of the anchor)           centerness target
QFL only             joint, QFL               dirac                                      best predicted score
DFL only             centerness, focal loss   general (bins), DFL                        centerness target
GFL                  joint, QFL               general, DFL                               best predicted score
===================  =======================  =========================================  =====================

With the weights copied, GFL equals mmdet's ``GFLHead`` and ATSS its ``ATSSHead``, in losses, gradients and predictions.
Targets and losses of all images and levels are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, Scale
from mmdet.models.dense_heads.anchor_head import AnchorHead
from mmdet.models.dense_heads.gfl_head import Integral
from mmdet.models.utils import filter_scores_and_topk, multi_apply, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from gfl_lab.detector import losses
from gfl_lab.detector.assign import TOPK, UNASSIGNED, assign

DISTANCE_MARGIN = 0.1
"""DFL targets are clamped to n minus this, in bins, so that a right neighbour exists (as mmdet's coder)."""


def group_norm(channels: int) -> dict[str, Any]:
    """Config of the towers' group norm: at most 32 groups of at least 8 channels, so the published 256 channels have 32.

    Channels must be a multiple of 8; 64 have 8 groups.
    """
    groups = max(g for g in range(1, 33) if channels % g == 0 and channels // g >= 8)
    return {"type": "GN", "num_groups": groups, "requires_grad": True}


@dataclass(frozen=True)
class Geometry:
    """Locations of a pyramid, level after level; A of them.

    Attributes:
        priors: (A, 4) anchor boxes, xyxy px of the network input.
        centers: (A, 2) px.
        strides: (A,) px, float32.
        levels: (A,) int64.
        num_level_priors: locations of each level.
    """

    priors: Tensor
    centers: Tensor
    strides: Tensor
    levels: Tensor
    num_level_priors: tuple[int, ...]


@dataclass(frozen=True)
class DenseOutputs:
    """What the head says at every location, before any threshold or NMS, as float32 on the head's device.

    Attributes:
        scores: (N, A, C) final scores, centerness included where there is such a branch.
        boxes: (N, A, 4) xyxy, px of the network input, clipped to the image as at test.
        probs: (N, A, 4, n+1) distribution of each side (left, top, right, bottom) over the bins; None for a Dirac box.
        distances: (N, A, 4) expected distance from the centre to each side, in bins (stride * bin_width); not clipped.
        centers: (A, 2) px of the network input.
        strides: (A,) px.
        levels: (A,) int64.
    """

    scores: Tensor
    boxes: Tensor
    probs: Tensor | None
    distances: Tensor
    centers: Tensor
    strides: Tensor
    levels: Tensor


@MODELS.register_module()
class GFLFamilyHead(AnchorHead):
    """Dense head with switches for the quality branch and the box representation (see the module's table).

    Parameters have the names of mmdet's ``GFLHead`` (``cls_convs``, ``reg_convs``, ``gfl_cls``, ``gfl_reg``, ``scales``,
    ``integral.project``), so its checkpoints load; the centerness branch is ``gfl_quality``.

    Args:
        num_classes: C.
        in_channels: channels of the neck.
        feat_channels: channels of the towers, a multiple of 8.
        stacked_convs: convolutions of each tower.
        quality: "joint" (QFL) or "centerness" (focal loss and a centerness branch).
        box: "general" (distribution over bins) or "dirac" (delta-xywh).
        reg_max: n; a side has n+1 bins 0..n. Unused for Dirac.
        bin_width: Delta, distance between bins in strides; also the unit of ``DenseOutputs.distances`` for Dirac.
        qfl_beta: exponent of QFL.
        focal_gamma, focal_alpha: focal loss.
        box_weight: weight of the GIoU loss.
        dfl_weight: weight of DFL; 0 leaves the term out.
        norm_cfg: norm of the towers; None is ``group_norm(feat_channels)``.
        **kwargs: of ``AnchorHead``: anchor_generator, train_cfg, test_cfg.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        quality: Literal["joint", "centerness"] = "joint",
        box: Literal["general", "dirac"] = "general",
        reg_max: int = 16,
        bin_width: float = 1.0,
        qfl_beta: float = 2.0,
        focal_gamma: float = 2.0,
        focal_alpha: float = 0.25,
        box_weight: float = 2.0,
        dfl_weight: float = 0.25,
        norm_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if quality not in ("joint", "centerness"):
            raise ValueError(f"quality is '{quality}': it must be 'joint' or 'centerness'")
        if box not in ("general", "dirac"):
            raise ValueError(f"box is '{box}': it must be 'general' or 'dirac'")
        # AnchorHead's constructor calls _init_layers, which needs these
        self.quality, self.box = quality, box
        self.stacked_convs, self.reg_max, self.bin_width = stacked_convs, reg_max, bin_width
        self.qfl_beta, self.focal_gamma, self.focal_alpha = qfl_beta, focal_gamma, focal_alpha
        self.box_weight, self.dfl_weight = box_weight, dfl_weight
        self.norm_cfg = norm_cfg or group_norm(feat_channels)
        if box == "general":
            coder = {"type": "DistancePointBBoxCoder"}
        else:
            coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}
        override = {"type": "Normal", "name": "gfl_cls", "std": 0.01, "bias_prob": 0.01}
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            feat_channels=feat_channels,
            bbox_coder=coder,
            loss_cls={"type": "FocalLoss", "use_sigmoid": True},
            loss_bbox={"type": "GIoULoss"},
            init_cfg={"type": "Normal", "layer": "Conv2d", "std": 0.01, "override": override},
            **kwargs,
        )
        self.topk = self.train_cfg["assigner"]["topk"] if self.train_cfg else TOPK
        del self.loss_cls, self.loss_bbox  # AnchorHead insists on building them; ours are in losses.py
        self._last_geometry: tuple[Any, Geometry] | None = None

    # --- network ------------------------------------------------------------------------------------

    def _init_layers(self) -> None:
        def tower() -> nn.ModuleList:
            inputs = [self.in_channels] + [self.feat_channels] * (self.stacked_convs - 1)
            return nn.ModuleList(ConvModule(c, self.feat_channels, 3, padding=1, norm_cfg=self.norm_cfg) for c in inputs)

        self.cls_convs, self.reg_convs = tower(), tower()
        self.gfl_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, 4 * (self.reg_max + 1) if self.box == "general" else 4, 3, padding=1)
        if self.quality == "centerness":
            self.gfl_quality = nn.Conv2d(self.feat_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)
        if self.box == "general":
            self.integral = Integral(self.reg_max)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], ...]:
        """Predict at every location of every level.

        Args:
            x: a (N, in_channels, H, W) feature map for each level.

        Returns:
            Lists over levels: class logits (N, C, H, W); box predictions (N, 4(n+1), H, W), side-major distribution
            logits, or (N, 4, H, W) deltas for Dirac; and with centerness its logits (N, 1, H, W).
        """
        return multi_apply(self.forward_single, x, self.scales)

    def forward_single(self, x: Tensor, scale: Scale) -> tuple[Tensor, ...]:
        """The same for one level. ``scale`` multiplies logits (general) or deltas (Dirac), as in mmdet's heads."""
        cls_feat = reg_feat = x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            reg_feat = conv(reg_feat)
        outputs = self.gfl_cls(cls_feat), scale(self.gfl_reg(reg_feat)).float()
        return (*outputs, self.gfl_quality(reg_feat)) if self.quality == "centerness" else outputs

    # --- geometry -----------------------------------------------------------------------------------

    def geometry(self, featmap_sizes: Sequence[tuple[int, int]], device: torch.device) -> Geometry:
        """Locations of a pyramid with these (height, width) of its levels. The last one asked for is kept."""
        key = (tuple((int(h), int(w)) for h, w in featmap_sizes), torch.device(device))
        if self._last_geometry is None or self._last_geometry[0] != key:
            with torch.inference_mode(False):  # what an evaluation leaves here must do for training
                self._last_geometry = key, self._make_geometry(*key)
        return self._last_geometry[1]

    def _make_geometry(self, featmap_sizes: Sequence[tuple[int, int]], device: torch.device) -> Geometry:
        levels = self.prior_generator.grid_priors(list(featmap_sizes), dtype=torch.float32, device=device)
        counts = tuple(len(level) for level in levels)
        priors = torch.cat(levels)
        strides = torch.tensor([float(stride[0]) for stride in self.prior_generator.strides], device=device)
        level = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device), output_size=len(priors))
        return Geometry(priors, (priors[:, :2] + priors[:, 2:]) / 2, strides[level], level, counts)

    def _valid_groups(
        self, featmap_sizes: list[tuple[int, int]], metas: list[dict], device: torch.device
    ) -> list[tuple[list[int], Tensor | None]]:
        """Images by their padded size, each with the (A,) mask of locations inside it, None where that is all.

        Images of a batch are padded to the largest; locations beyond an image's own ``pad_shape`` take no part.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, meta in enumerate(metas):
            groups.setdefault(tuple(meta["pad_shape"][:2]), []).append(index)
        out = []
        for (height, width), images in groups.items():
            covered = all(
                h * stride[1] - height < stride[1] and w * stride[0] - width < stride[0]
                for (h, w), stride in zip(featmap_sizes, self.prior_generator.strides, strict=True)
            )
            flags = None if covered else torch.cat(self.prior_generator.valid_flags(featmap_sizes, (height, width), device=device))
            out.append((images, flags))
        return out

    # --- training -----------------------------------------------------------------------------------

    def loss(self, x: tuple[Tensor, ...], batch_data_samples: list[Any]) -> dict[str, Tensor]:
        """Losses of a batch, from features of the neck; see ``loss_by_feat``."""
        gt_instances, _, metas = unpack_gt_instances(batch_data_samples)
        return self.loss_by_feat(*self(x), batch_gt_instances=gt_instances, batch_img_metas=metas)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        qualities: list[Tensor] | None = None,
        *,
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
    ) -> dict[str, Tensor]:
        """Losses of a batch: a scalar for each term that the variant has.

        Every rank makes one collective call whatever its batch holds, and a batch without boxes gives zeros that keep
        the graph. Computed in float32 outside of autocast.

        Args:
            cls_scores, bbox_preds, qualities: what ``forward`` returned.
            batch_gt_instances: ``bboxes`` (G, 4) xyxy px of the network input and ``labels`` (G,) for each image.
            batch_img_metas: with ``pad_shape`` (height, width).

        Returns:
            ``loss_cls``, ``loss_bbox``; ``loss_dfl`` for the general box unless its weight is 0; ``loss_centerness``.
        """
        device = cls_scores[0].device
        sizes = [tuple(level.shape[-2:]) for level in cls_scores]
        with torch.autocast(device.type, enabled=False):
            logits, box_preds = _join(cls_scores), _join(bbox_preds)
            geometry = self.geometry(sizes, device)
            assigned, gt_boxes, gt_labels, valid = self._targets(geometry, sizes, batch_gt_instances, batch_img_metas)

            image, location = (assigned != UNASSIGNED).nonzero(as_tuple=True)
            index = assigned[image, location]
            targets, labels = gt_boxes[image, index], gt_labels[image, index]
            centers = geometry.centers[location]
            # mmdet counts at least one positive for each image
            positives = (assigned != UNASSIGNED).sum(1).clamp(min=1).sum().float()

            boxes, targets_in_unit, dfl = self._decode_positives(box_preds[image, :, location], geometry, location, targets)
            iou, giou = losses.iou_and_giou(boxes, targets_in_unit)
            if self.quality == "joint":
                weight = logits.detach()[image, :, location].amax(1).sigmoid()
                class_target = torch.zeros_like(logits).index_put_((image, labels, location), iou.detach())
                loss_cls = losses.quality_focal_loss(logits, class_target, self.qfl_beta)
            else:
                weight = losses.centerness_target(centers, targets)
                class_target = torch.zeros_like(logits).index_put_((image, labels, location), torch.ones_like(iou))
                loss_cls = losses.focal_loss(logits, class_target, self.focal_gamma, self.focal_alpha)
            if valid is not None:
                loss_cls = loss_cls * valid[:, None]

            positives, weight_sum = reduce_mean(torch.stack([positives, weight.sum()]))
            weight_sum = weight_sum.clamp(min=1)
            terms = {
                "loss_cls": loss_cls.sum() / positives,
                "loss_bbox": self.box_weight * ((1 - giou) * weight).sum() / weight_sum,
            }
            if dfl is not None:
                terms["loss_dfl"] = self.dfl_weight * (dfl * weight).sum() / weight_sum
            if qualities is not None:
                centerness = _join(qualities)[image, 0, location]
                terms["loss_centerness"] = F.binary_cross_entropy_with_logits(centerness, weight, reduction="sum") / positives
        return terms

    def _targets(
        self, geometry: Geometry, sizes: list[tuple[int, int]], instances: list[InstanceData], metas: list[dict]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(N, A) assigned box or -1, padded (N, G, 4) boxes, (N, G) labels, and (N, A) bool of locations that count."""
        device = geometry.priors.device
        counts = [len(instance.labels) for instance in instances]
        gt_boxes = geometry.priors.new_zeros((len(counts), max(counts), 4))
        gt_labels = torch.zeros((len(counts), max(counts)), dtype=torch.long, device=device)
        for row, (count, instance) in enumerate(zip(counts, instances, strict=True)):
            if count:
                gt_boxes[row, :count] = get_box_tensor(instance.bboxes)
                gt_labels[row, :count] = instance.labels
        gt_valid = torch.arange(max(counts), device=device) < torch.tensor(counts, device=device)[:, None]

        groups = self._valid_groups(sizes, metas, device)
        if all(flags is None for _, flags in groups):
            return assign(geometry.priors, geometry.num_level_priors, gt_boxes, gt_valid, self.topk), gt_boxes, gt_labels, None
        assigned = torch.full((len(counts), len(geometry.priors)), UNASSIGNED, dtype=torch.long, device=device)
        valid = torch.ones_like(assigned, dtype=torch.bool)
        for images, flags in groups:
            if flags is None:
                assigned[images] = assign(geometry.priors, geometry.num_level_priors, gt_boxes[images], gt_valid[images], self.topk)
                continue
            kept = flags.nonzero().squeeze(1)
            level_counts = torch.bincount(geometry.levels[kept], minlength=len(geometry.num_level_priors)).tolist()
            found = torch.full_like(assigned[images], UNASSIGNED)
            found[:, kept] = assign(geometry.priors[kept], level_counts, gt_boxes[images], gt_valid[images], self.topk)
            assigned[images], valid[images] = found, flags
        return assigned, gt_boxes, gt_labels, valid

    def _decode_positives(
        self, predictions: Tensor, geometry: Geometry, location: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Decoded boxes (P, 4) and targets (P, 4) in one unit, bins or for Dirac px, and DFL (P,), mean over sides."""
        if self.box == "dirac":
            return self.bbox_coder.decode(geometry.priors[location], predictions), targets, None
        unit = (geometry.strides[location] * self.bin_width)[:, None]
        centers, targets = geometry.centers[location] / unit, targets / unit
        boxes = self.bbox_coder.decode(centers, self.integral(predictions))
        if not self.dfl_weight:
            return boxes, targets, None
        distances = self.bbox_coder.encode(centers, targets, self.reg_max, DISTANCE_MARGIN)
        dfl = losses.distribution_focal_loss(predictions.reshape(-1, self.reg_max + 1), distances.reshape(-1))
        return boxes, targets, dfl.view(-1, 4).mean(1)

    # --- prediction ---------------------------------------------------------------------------------

    def predict_by_feat(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], score_factors: list[Tensor] | None = None, **kwargs: Any):
        """Detections of each image, as mmdet's; in float32 outside of autocast, since bfloat16 has no exact pixels."""
        with torch.autocast(cls_scores[0].device.type, enabled=False):
            outputs = [
                None if levels is None else [level.float() for level in levels] for levels in (cls_scores, bbox_preds, score_factors)
            ]
            return super().predict_by_feat(*outputs, **kwargs)

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor | None],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: Any,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Detections of one image. Threshold and top-k act on the class score alone; centerness comes in afterwards."""
        cfg = self.test_cfg if cfg is None else cfg
        kept: dict[str, list[Tensor]] = {"scores": [], "labels": [], "preds": [], "priors": [], "strides": [], "factors": []}
        outputs = zip(cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors, self.prior_generator.strides, strict=True)
        for cls_score, bbox_pred, factor, priors, stride in outputs:
            scores = cls_score.flatten(1).t().sigmoid()
            scores, labels, keep, _ = filter_scores_and_topk(scores, cfg.score_thr, cfg.get("nms_pre", -1))
            kept["scores"].append(scores)
            kept["labels"].append(labels)
            kept["preds"].append(bbox_pred.flatten(1)[:, keep].t())
            kept["priors"].append(priors[keep])
            kept["strides"].append(priors.new_full((len(keep),), float(stride[0])))
            if factor is not None:
                kept["factors"].append(factor.flatten()[keep].sigmoid())
        found = {name: torch.cat(levels) for name, levels in kept.items() if levels}
        boxes, _, _ = self._decode(found["preds"], found["priors"], found["strides"])
        results = InstanceData(bboxes=_clip(boxes, img_meta["img_shape"]), scores=found["scores"], labels=found["labels"])
        if "factors" in found:
            results.score_factors = found["factors"]
        return self._bbox_post_process(results=results, cfg=cfg, rescale=rescale, with_nms=with_nms, img_meta=img_meta)

    def _decode(self, predictions: Tensor, priors: Tensor, strides: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Boxes (M, 4) px, not clipped; distances (M, 4) in bins; probabilities (M, 4, n+1) or None. Of (M, channels) predictions."""
        centers = (priors[:, :2] + priors[:, 2:]) / 2
        unit = (strides * self.bin_width)[:, None]
        if self.box == "dirac":
            boxes = self.bbox_coder.decode(priors, predictions)
            return boxes, torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=1) / unit, None
        probs = predictions.reshape(-1, 4, self.reg_max + 1).softmax(2)
        distances = probs @ self.integral.project.float()
        return self.bbox_coder.decode(centers, distances * unit), distances, probs

    @torch.no_grad()
    def dense_outputs(self, head_outs: tuple[list[Tensor], ...], img_metas: list[dict]) -> DenseOutputs:
        """Scores, boxes and distributions at every location.

        Args:
            head_outs: what ``forward`` returned for a batch of N images.
            img_metas: with ``img_shape`` (height, width), to which boxes are clipped.
        """
        cls_scores, bbox_preds, *qualities = head_outs
        device = cls_scores[0].device
        geometry = self.geometry([tuple(level.shape[-2:]) for level in cls_scores], device)
        with torch.autocast(device.type, enabled=False):
            scores = _join(cls_scores).transpose(1, 2).sigmoid()
            if qualities:
                scores = scores * _join(qualities[0]).transpose(1, 2).sigmoid()
            predictions = _join(bbox_preds).transpose(1, 2)
            images = len(predictions)
            flat = self._decode(predictions.flatten(0, 1), geometry.priors.repeat(images, 1), geometry.strides.repeat(images))
            boxes, distances, probs = (None if part is None else part.unflatten(0, (images, -1)) for part in flat)
            boxes = torch.stack([_clip(own, meta["img_shape"]) for own, meta in zip(boxes, img_metas, strict=True)])
        return DenseOutputs(scores, boxes, probs, distances, geometry.centers, geometry.strides, geometry.levels)


def _join(levels: list[Tensor]) -> Tensor:
    """Maps (N, channels, H, W) of all levels to (N, channels, A), float32; channels first, so it is a plain copy."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).float()


def _clip(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Clip (M, 4) xyxy boxes to an image of (height, width)."""
    height, width = shape[:2]
    return torch.stack(
        [boxes[:, 0].clamp(0, width), boxes[:, 1].clamp(0, height), boxes[:, 2].clamp(0, width), boxes[:, 3].clamp(0, height)], dim=1
    )
