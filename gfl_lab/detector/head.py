"""One dense head for the GFL family: towers and prediction layers, with exchangeable strategies.

============  =================================  ========================================
argument      decides                            classes
============  =================================  ========================================
``quality``   class loss, branch, score          ``qualities``, one file each
``box``       box prediction, decoding, DFL      ``box_forms``, one file each
``box_loss``  loss of the whole box, its weight  ``losses.BOX_LOSSES``, or a registered one
``cls_loss``  class loss                         the quality's, ``class_loss.CLASS_LOSSES``, or a registered one
``assigner``  which location learns which box    ATSS, ``assigners``, or a registered one
============  =================================  ========================================

Target assignment is in ``targets.py`` (ATSS) and ``assigners`` (others), the class loss in ``class_loss.py``, post-processing in ``postprocess.py``. With
the weights copied, quality ``joint`` on a general box equals mmdet's ``GFLHead`` and ``centerness`` on a Dirac box its
``ATSSHead``, in losses, gradients and predictions. Targets and losses of all images and levels are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule, Scale
from mmdet.models.dense_heads.anchor_head import AnchorHead
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmdet.models.utils import multi_apply, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn

from gfl_lab.detector import background_loss, losses, positives
from gfl_lab.detector.assign import TOPK, UNASSIGNED
from gfl_lab.detector.assigners import ASSIGNERS, Assigner, build_assigner
from gfl_lab.detector.box_forms import Fitted, build_box_form
from gfl_lab.detector.class_loss import ClassTargets, registered_class_loss, sum_class_loss
from gfl_lab.detector.distillation import Distillation
from gfl_lab.detector.geometry import Geometry, GeometryCache
from gfl_lab.detector.head_arguments import BoxLoss, Tower, check_weighting, group_norm, named_class_loss, refuse_moved
from gfl_lab.detector.positives import JoinedPositives, LevelPositives, PaddedPositives, Positives
from gfl_lab.detector.postprocess import DenseOutputs, Maps, Reader
from gfl_lab.detector.qualities import QUALITIES, QualityTargets, build_quality
from gfl_lab.detector.qualities.base import ClassTerms
from gfl_lab.detector.targets import GroundTruth, Targets, assign_batch, assign_by, pad_shapes
from gfl_lab.detector.valuable_region import valuable_region
from gfl_lab.spec.shorthand import default_box_weighting


@MODELS.register_module()
class GFLFamilyHead(AnchorHead):
    """Dense head of the GFL family (see the module's table).

    Parameters have the names of mmdet's ``GFLHead`` (``cls_convs``, ``reg_convs``, ``gfl_cls``, ``gfl_reg``, ``scales``,
    ``integral.project``), so its checkpoints load; a branch is ``gfl_quality``, the DGQP ``reg_conf`` as in its authors'
    code. Subclass it for a head of your own (docs/extending.md).

    Args:
        num_classes: C.
        in_channels: channels of the neck.
        feat_channels: channels of the towers, a multiple of 8.
        tower: fields of ``Tower``.
        quality: a key of ``qualities.QUALITIES``, or ``{"type": key, field: value, ...}``.
        box: a key of ``box_forms.BOX_FORMS``, or ``{"type": key, field: value, ...}``.
        box_loss: fields of ``BoxLoss``.
        cls_loss: None for the quality's own; ``{"type": key of CLASS_LOSSES, field: value, ...}``; or the config of a
            registered loss called as mmdet's: ``(logits (M, C), target, weight=(M,), avg_factor=positives)``, with the target
            (labels (M,), IoU (M,)) for joint and labels, C for background, else.
        **kwargs: of ``AnchorHead``: anchor_generator, train_cfg, test_cfg. ``train_cfg["assigner"]`` is that of ATSS, a registered
            one, or ``{"type": key of ASSIGNERS, field: value, ...}``.

    Raises:
        ValueError: an unknown type or field, or parts that do not go together.
        TypeError: an argument that is now a field of a group.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        tower: dict[str, Any] | None = None,
        quality: str | dict[str, Any] = "joint",
        box: str | dict[str, Any] = "general",
        box_loss: dict[str, Any] | None = None,
        cls_loss: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_moved(kwargs)
        # AnchorHead's constructor calls _init_layers, which needs these
        self.tower = Tower(**tower or {})
        self.quality_estimate, self.box_form = build_quality(quality), build_box_form(box)
        quality_type = quality if isinstance(quality, str) else quality["type"]
        if problem := self.quality_estimate.problem(self.box_form):
            raise ValueError(problem)
        if cls_loss and not self.quality_estimate.takes_class_loss:
            raise ValueError(f"a cls_loss would not see the quality that quality '{quality_type}' brings into the loss")
        self.own_class_loss = named_class_loss(cls_loss, quality_type)
        whole = BoxLoss(**box_loss or {})
        self.box_loss_weight = whole.weight
        self.box_weighting = whole.weighting or default_box_weighting(quality_type)
        check_weighting(self.box_weighting)
        self.own_assigner: Assigner | None = None
        if (train_cfg := kwargs.get("train_cfg")) and train_cfg["assigner"]["type"] in ASSIGNERS:
            self.own_assigner = build_assigner(train_cfg["assigner"])
            kwargs["train_cfg"] = ConfigDict({**train_cfg, "assigner": {"type": "ATSSAssigner", "topk": TOPK}})  # AnchorHead builds it
        override = {"type": "Normal", "name": "gfl_cls", "std": 0.01, "bias_prob": 0.01}
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            feat_channels=feat_channels,
            bbox_coder={"type": "DistancePointBBoxCoder"},
            loss_cls={"type": "FocalLoss", "use_sigmoid": True},
            loss_bbox={"type": "GIoULoss"},
            init_cfg={"type": "Normal", "layer": "Conv2d", "std": 0.01, "override": override},
            **kwargs,
        )
        del self.loss_cls, self.loss_bbox  # AnchorHead insists on building them; ours are in losses.py
        self.cls_loss = MODELS.build(cls_loss) if cls_loss and self.own_class_loss is None else None
        self.box_loss = whole.loss if isinstance(whole.loss, str) else MODELS.build(whole.loss)
        self.topk: int = self.train_cfg["assigner"].get("topk", TOPK) if self.train_cfg else TOPK
        self._geometries = GeometryCache(self.prior_generator)
        self.distillation: Distillation | None = None

    # --- network ------------------------------------------------------------------------------------

    def _init_layers(self) -> None:
        """Make the layers; their order is that of parameters in optimizers and of random numbers in ``init_weights``."""
        norm_cfg = self.tower.norm_cfg or group_norm(self.feat_channels)
        bias = True if self.tower.bias else "auto"

        def tower() -> nn.ModuleList:
            inputs = [self.in_channels] + [self.feat_channels] * (self.tower.convs - 1)
            return nn.ModuleList(ConvModule(c, self.feat_channels, 3, padding=1, norm_cfg=norm_cfg, bias=bias) for c in inputs)

        for name, module in self.box_form.layers().items():
            self.add_module(name, module)
        self.cls_convs, self.reg_convs = tower(), tower()
        class_channels = self.feat_channels + self.quality_estimate.class_channels
        self.gfl_cls = nn.Conv2d(class_channels, self.cls_out_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, self.box_form.channels, 3, padding=1)
        for name, module in self.quality_estimate.layers(self.feat_channels, self.box_form).items():
            self.add_module(name, module)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], ...]:
        """Predict at every location of every level.

        Args:
            x: a (N, in_channels, H, W) feature map for each level.

        Returns:
            Lists over levels: class logits (N, C, H, W); box predictions (N, channels of the box form, H, W), for the
            general box side-major distribution logits; and where quality is estimated apart from the class (centerness,
            iou, decomposed dgqp) its logits (N, 1, H, W).
        """
        return multi_apply(self.forward_single, x, self.scales)

    def forward_single(self, x: Tensor, scale: Scale) -> tuple[Tensor, ...]:
        """Return the predictions of one level (N, in_channels, H, W). ``scale`` multiplies all box predictions, as in mmdet's heads."""
        cls_feat = reg_feat = x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            reg_feat = conv(reg_feat)
        boxes = scale(self.gfl_reg(reg_feat)).float()
        return self.quality_estimate.predict(self, cls_feat, reg_feat, boxes)

    def geometry(self, featmap_sizes: Sequence[Sequence[int]], device: torch.device) -> Geometry:
        """Return the locations of a pyramid with these (height, width) of its levels; those used last are kept."""
        return self._geometries.get(featmap_sizes, device)

    # --- training -----------------------------------------------------------------------------------

    def loss(self, x: tuple[Tensor, ...], batch_data_samples: list[Any]) -> dict[str, Tensor]:
        """Return the losses of a batch, from (N, in_channels, H, W) features of the neck; see ``loss_by_feat``."""
        gt_instances, _, metas = unpack_gt_instances(batch_data_samples)
        return self.loss_by_feat(*self(x), batch_gt_instances=gt_instances, batch_img_metas=metas)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        qualities: list[Tensor] | None = None,
        *,
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict[str, Any]],
    ) -> dict[str, Tensor]:
        """Return the losses of a batch: a scalar for each term that the variant has.

        Every process makes one collective call whatever its batch holds, and a batch without boxes gives zeros that keep
        the graph. Computed in float32 outside of autocast.

        Args:
            cls_scores, bbox_preds, qualities: what ``forward`` returned.
            batch_gt_instances: ``bboxes`` (G, 4) xyxy px of the network input and ``labels`` (G,) for each image.
            batch_img_metas: with ``pad_shape`` (height, width).

        Returns:
            ``loss_cls``; ``loss_bbox`` and the box form's own loss as it has them; ``loss_centerness`` or ``loss_iou`` of a
            branch; ``loss_ld``, ``loss_ld_vlr`` or ``loss_kd`` of a distillation.
        """
        device, estimate = cls_scores[0].device, self.quality_estimate
        with torch.autocast(device.type, enabled=False):
            geometry = self.geometry([level.shape[-2:] for level in cls_scores], device)
            truth = GroundTruth.pad(batch_gt_instances, device)
            assigned, usable = self.targets(geometry, truth, batch_img_metas, Maps(cls_scores, bbox_preds, qualities))
            is_positive = assigned != UNASSIGNED
            at = self._locate(is_positive, cls_scores, geometry, truth)
            index = assigned[at.image, at.location]
            boxes, labels = truth.boxes[at.image, index], truth.labels[at.image, index]
            if at.real is not None:  # what counts nowhere must be a box all the same, or its gradient is no number
                boxes = torch.where(at.real[:, None], boxes, geometry.priors[at.location])
            # mmdet counts at least one positive for each image
            count = is_positive.sum(1).clamp(min=1).sum().float()

            fitted = self.fit_boxes(at.gather(bbox_preds), geometry, at.location, boxes)
            kind = self.box_loss if isinstance(self.box_loss, str) else "giou"
            iou, box_loss = losses.iou_and_box_loss(fitted.boxes, fitted.targets, kind)
            measured = QualityTargets(iou.detach(), losses.centerness_target(geometry.centers[at.location], boxes))
            weight = self._box_weight(at, cls_scores, qualities, measured)

            class_targets = ClassTargets(labels, _or_ones(estimate.score_target(measured), iou), usable)
            classes = self._class_terms(cls_scores, qualities, at, class_targets, measured) if self.cls_loss is None else None
            totals = [count, weight.sum()]
            if classes is not None and classes.before is not None and classes.after is not None:
                totals += [classes.before, classes.after]
            shared = reduce_mean(torch.stack(totals))  # the one collective
            count, weight_sum = shared[0], shared[1].clamp(min=1 / get_world_size())
            if classes is None and self.cls_loss is not None:
                joint_iou = measured.iou if estimate.is_class_score else None
                terms = {"loss_cls": registered_class_loss(self.cls_loss, cls_scores, at, class_targets, joint_iou, count)}
            elif classes is not None:
                terms = {"loss_cls": _total(classes, shared) / count}
            terms |= self._box_terms(fitted, box_loss, weight, weight_sum)
            own = estimate.own_loss(lambda: at.gather(qualities or [])[:, 0], measured, at.real)
            if own is not None:
                name, factor, value = own
                terms[name] = factor * value / count
            if self.distillation is not None:
                terms |= self.distillation.terms(at, cls_scores, bbox_preds, weight, count)
                if self.distillation.valuable:
                    region = valuable_region(geometry, truth, geometry.usable(pad_shapes(batch_img_metas)), self.topk)
                    terms |= self.distillation.valuable_terms(bbox_preds, region)
        return terms

    def targets(self, geometry: Geometry, truth: GroundTruth, metas: Sequence[dict[str, Any]], maps: Maps | None = None) -> Targets:
        """Return which box each location of a batch learns.

        Args:
            metas: with ``pad_shape`` (height, width) of each image.
            maps: the head's predictions, for assigners that need them.
        """
        shapes = pad_shapes(metas)
        if self.own_assigner is not None:
            predictions = self._reader(maps).for_assignment(maps) if maps is not None and self.own_assigner.needs_predictions else None
            return self.own_assigner.targets(geometry, truth, geometry.usable(shapes), predictions)
        if not self._assigns_by_atss:
            return assign_by(self.assigner, geometry, truth, shapes)
        never_waits = self._never_waits(geometry.priors.device)
        return assign_batch(geometry, truth.boxes, truth.valid, shapes, self.topk, never_waits=never_waits)

    def fit_boxes(self, predictions: Tensor, geometry: Geometry, location: Tensor, targets: Tensor) -> Fitted:
        """Return ``BoxForm.fit`` of predictions (P, channels) at locations (P,) with targets (P, 4) px."""
        unit = (geometry.strides[location] * self.box_form.bin_width)[:, None]
        return self.box_form.fit(predictions, geometry.priors[location], unit, targets)

    def _never_waits(self, device: torch.device) -> bool:
        """Return True if losses ask the device for no number: only a user's own parts may do so.

        On a CPU there is nothing to wait for, and arrays of fixed length take time.
        """
        own = self.cls_loss is not None or not isinstance(self.box_loss, str) or not (self.own_assigner or self._assigns_by_atss)
        return (device.type != "cpu" or positives.ALWAYS_PADDED) and not own

    @property
    def _assigns_by_atss(self) -> bool:
        return self.own_assigner is None and (not self.train_cfg or type(self.assigner) is ATSSAssigner)

    def _most_positives(self, geometry: Geometry, truth: GroundTruth) -> int | None:
        """Return how many positives a batch can have; None where its boxes do not say."""
        if self.own_assigner is None:
            most: int | None = sum(min(self.topk, count) for count in geometry.num_level_priors)
        else:
            most = self.own_assigner.most(geometry)
        return None if most is None else sum(min(count * most, len(geometry.priors)) for count in truth.counts)

    def _locate(self, is_positive: Tensor, cls_scores: Sequence[Tensor], geometry: Geometry, truth: GroundTruth) -> Positives:
        """Return the positives of a (N, A) mask in the form that suits device and size of the batch."""
        if self._never_waits(is_positive.device):
            most = self._most_positives(geometry, truth)
            if (
                most is None
            ):  # arrays as long as all locations of the batch would cost more than one wait (docs/decisions/0042-assigners.md)
                most = int(is_positive.sum())
            return PaddedPositives.find(is_positive, most, geometry.sizes)
        image, location = is_positive.nonzero(as_tuple=True)
        if self.cls_loss is None and sum(level.numel() for level in cls_scores) >= background_loss.WORTHWHILE:
            return LevelPositives.locate(image, location, geometry.sizes)
        return JoinedPositives(image, location)

    def _box_weight(
        self, at: Positives, cls_scores: Sequence[Tensor], qualities: Sequence[Tensor] | None, measured: QualityTargets
    ) -> Tensor:
        """Return the weight (P,) of the box losses at each positive; 0 where there is none."""
        if self.box_weighting == "score":
            weight = self.quality_estimate.box_weight(at, cls_scores, qualities)
        else:
            weight = _or_ones(getattr(measured, self.box_weighting, None), measured.iou)
        return weight if at.real is None else weight * at.real

    def _class_terms(
        self, cls_scores: list[Tensor], qualities: list[Tensor] | None, at: Positives, targets: ClassTargets, measured: QualityTargets
    ) -> ClassTerms:
        estimate = self.quality_estimate
        factors = qualities if estimate.multiplies_score else None
        loss = self.own_class_loss or estimate.element_loss
        summed = sum_class_loss(loss, cls_scores, factors, at, targets, apart=estimate.looks_at_positives)
        return estimate.class_terms(summed, measured)

    def _box_terms(self, fitted: Fitted, box_loss: Tensor, weight: Tensor, weight_sum: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of the box: of the whole box, and the form's own."""
        terms = {}
        if self.box_form.has_box_loss:
            if isinstance(self.box_loss, str):
                whole = (box_loss * weight).sum() / weight_sum
            elif len(fitted.boxes):
                whole = self.box_loss(fitted.boxes, fitted.targets, weight=weight, avg_factor=weight_sum)
            else:
                whole = fitted.boxes.sum() * 0  # mmdet's losses differ in what they make of no box
            terms["loss_bbox"] = self.box_loss_weight * whole
        if fitted.loss is not None:
            terms[self.box_form.loss_name] = self.box_form.loss_weight * (fitted.loss * weight).sum() / weight_sum
        return terms

    # --- prediction ---------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        batch_img_metas: Sequence[dict[str, Any]] = (),
        cfg: Any = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Return the detections of each image, as mmdet's; in float32 outside of autocast, since bfloat16 has no exact pixels.

        Threshold, top-k and decoding of all images and levels are done at once, unless ``_predict_by_feat_single`` is a
        subclass's own. Arguments and result: ``forward``, ``postprocess.Reader.detect``.
        """
        with torch.autocast(cls_scores[0].device.type, enabled=False):
            outputs = [
                None if levels is None else [level.detach().float() for level in levels]
                for levels in (cls_scores, bbox_preds, score_factors)
            ]
            if type(self)._predict_by_feat_single is not GFLFamilyHead._predict_by_feat_single:
                return super().predict_by_feat(*outputs, batch_img_metas=batch_img_metas, cfg=cfg, rescale=rescale, with_nms=with_nms)
            maps = Maps(outputs[0] or [], outputs[1] or [], outputs[2])
            return self._reader(maps).detect(maps, batch_img_metas, cfg or self.test_cfg, rescale, with_nms)

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor | None],
        mlvl_priors: list[Tensor],
        img_meta: dict[str, Any],
        cfg: Any,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Return the detections of one image, from its (C, H, W) maps: what a subclass may override."""
        factors = [level[None] for level in score_factor_list if level is not None]
        maps = Maps([level[None] for level in cls_score_list], [level[None] for level in bbox_pred_list], factors or None)
        return self._reader(maps).detect(maps, [img_meta], cfg or self.test_cfg, rescale, with_nms)[0]

    @torch.no_grad()
    def dense_outputs(self, head_outs: tuple[list[Tensor], ...], img_metas: list[dict[str, Any]]) -> DenseOutputs:
        """Return scores, boxes and distributions at every location.

        Args:
            head_outs: what ``forward`` returned for a batch of N images.
            img_metas: with ``img_shape`` (height, width), to which boxes are clipped.
        """
        maps = Maps(*head_outs)
        with torch.autocast(maps.logits[0].device.type, enabled=False):
            return self._reader(maps).dense(maps, img_metas)

    def _reader(self, maps: Maps) -> Reader:
        geometry = self.geometry([level.shape[-2:] for level in maps.logits], maps.logits[0].device)
        return Reader(geometry, self.box_form, self.quality_estimate.multiplies_score)


def _or_ones(values: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like) if values is None else values


def _total(terms: ClassTerms, shared: Tensor) -> Tensor:
    """Return the summed classification loss; ``shared`` holds sums over all processes, from place 2 on those before and after scaling."""
    if terms.scaled is None:
        return terms.fixed
    if terms.before is None:
        return terms.fixed + terms.scaled
    return terms.fixed + terms.scaled * (shared[2] / shared[3].clamp(min=1e-12))


__all__ = ["QUALITIES", "DenseOutputs", "GFLFamilyHead"]
