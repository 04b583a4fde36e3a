"""One dense head for the GFL family: the quality estimate, the box form, its loss and its decoding are independent switches.

==================  ==========================================================  ===========================  ==============
``quality``         classification loss                                         score at test                default weight
                                                                                                             of box losses
==================  ==========================================================  ===========================  ==============
none                focal loss                                                  class                        uniform
centerness          focal loss; a branch learns the centerness                  class * branch               centerness
iou                 focal loss; a branch learns the IoU                         class * branch               uniform
centerness_guided   focal loss, positives weighted by their centerness          class                        uniform
iou_guided          focal loss, positives weighted by their IoU                 class                        uniform
joint               QFL: the class score is the IoU                             class                        best score
dgqp                QFL on class * quality, read off the box distribution       class * quality              best score
==================  ==========================================================  ===========================  ==============

Box forms are in ``boxform.py``. With the weights copied, ``joint`` with ``general`` equals mmdet's ``GFLHead`` and
``centerness`` with ``dirac`` its ``ATSSHead``, in losses, gradients and predictions. Targets and losses of all images and
levels are computed at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, Scale
from mmcv.ops import batched_nms
from mmdet.models.dense_heads.anchor_head import AnchorHead
from mmdet.models.dense_heads.gfl_head import Integral
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from mmdet.models.utils import multi_apply, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn

from gfl_lab.detector import background_loss, dgqp, losses
from gfl_lab.detector.assign import TOPK, UNASSIGNED, assign
from gfl_lab.detector.boxform import BoxForm, DiracDelta, DiracDistance, Gaussian, General
from gfl_lab.detector.mmcv_ops import nms
from gfl_lab.detector.transfer import to_device
from gfl_lab.spec.shorthand import default_box_weighting

QUALITIES = ("none", "centerness", "iou", "centerness_guided", "iou_guided", "joint", "dgqp")
BOXES = ("general", "gaussian", "dirac")
WEIGHTINGS = ("score", "centerness", "iou", "uniform")
GEOMETRIES = 64
"""Geometries that a head keeps, at most 50 MB at 800 x 1333 px: multi-scale training comes back to the same shapes."""
NMS_AT_ONCE = 10_000
"""Boxes of an image from which on each class has an NMS of its own, as in mmcv."""


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
        scores: (N, A, C) final scores, with the quality where it is estimated apart from the class.
        boxes: (N, A, 4) xyxy, px of the network input, clipped to the image as at test.
        probs: (N, A, 4, n+1) distribution of each side (left, top, right, bottom) over the bins; None for a Dirac box.
        distances: (N, A, 4) decoded distance from the centre to each side, in bins (stride * bin_width); not clipped.
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
    """Dense head with switches for quality estimate, box form, losses and decoding (see the module's table).

    Parameters have the names of mmdet's ``GFLHead`` (``cls_convs``, ``reg_convs``, ``gfl_cls``, ``gfl_reg``, ``scales``,
    ``integral.project``), so its checkpoints load; a branch is ``gfl_quality``, the DGQP ``reg_conf`` as in its authors'
    code. Subclass it for a head of your own (docs/extending.md).

    Args:
        num_classes: C.
        in_channels: channels of the neck.
        feat_channels: channels of the towers, a multiple of 8.
        stacked_convs: convolutions of each tower.
        quality: see the module's table.
        box: "general", "gaussian" or "dirac".
        dirac_coder: "delta" (ATSS) or "distance" (FCOS).
        reg_max: n; a side has n+1 bins 0..n.
        bin_width: Delta, distance between bins in strides; the unit of every distance.
        decode: "expectation", or "local_peak": only the bins of the highest peak count (general box, at test).
        qfl_beta: exponent of QFL.
        focal_gamma, focal_alpha: focal loss.
        cls_loss: None, or the config of a registered loss called as mmdet's: ``(logits (M, C), target, weight=(M,),
            avg_factor=positives)``, with the target (labels (M,), IoU (M,)) for joint and labels, C for background, else.
        box_loss: one of ``losses.BOX_LOSSES``, or the config of a registered loss called as mmdet's:
            ``(boxes (P, 4), targets (P, 4), weight=(P,), avg_factor=sum of weights)``.
        box_weight: weight of the loss of the whole box; a registered loss has it too.
        box_weighting: what weighs the box losses of a positive; None is the module's table.
        dfl_weight: weight of DFL; 0 leaves the term out.
        gaussian_weight: weight of the Gaussian's likelihood.
        gaussian_box_loss: add the loss of the whole box to it.
        quality_weight: weight of the branch's loss.
        guided_eta: exponent of the quality that weighs a positive; guided_renormalise: keep their summed loss.
        dgqp_topk, dgqp_mean, dgqp_variance, dgqp_channels, dgqp_detach: see ``dgqp.py``.
        dgqp_form: "decomposed" (class * quality) or "composed" (the predictor's features join the class tower's).
        tower_bias: biases in the towers' convolutions.
        norm_cfg: norm of the towers; None is ``group_norm(feat_channels)``.
        **kwargs: of ``AnchorHead``: anchor_generator, train_cfg, test_cfg.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        quality: str = "joint",
        box: Literal["general", "gaussian", "dirac"] = "general",
        dirac_coder: Literal["delta", "distance"] = "delta",
        reg_max: int = 16,
        bin_width: float = 1.0,
        decode: Literal["expectation", "local_peak"] = "expectation",
        qfl_beta: float = 2.0,
        focal_gamma: float = 2.0,
        focal_alpha: float = 0.25,
        cls_loss: dict[str, Any] | None = None,
        box_loss: str | dict[str, Any] = "giou",
        box_weight: float = 2.0,
        box_weighting: str | None = None,
        dfl_weight: float = 0.25,
        gaussian_weight: float = 1.0,
        gaussian_box_loss: bool = False,
        quality_weight: float = 1.0,
        guided_eta: float = 1.0,
        guided_renormalise: bool = False,
        dgqp_topk: int = 4,
        dgqp_mean: bool = True,
        dgqp_variance: bool = False,
        dgqp_channels: int = 64,
        dgqp_form: Literal["decomposed", "composed"] = "decomposed",
        dgqp_detach: bool = False,
        tower_bias: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        box_weighting = box_weighting or default_box_weighting(quality)
        for name, value, known in (("quality", quality, QUALITIES), ("box", box, BOXES), ("box_weighting", box_weighting, WEIGHTINGS)):
            if value not in known:
                raise ValueError(f"{name} is '{value}': it must be one of {', '.join(known)}")
        if cls_loss and (quality == "dgqp" or quality.endswith("_guided")):
            raise ValueError(f"a cls_loss would not see the quality that quality '{quality}' brings into the loss")
        if quality == "dgqp" and box != "general":
            raise ValueError(f"quality 'dgqp' reads the distribution of a general box, and box is '{box}'")
        # AnchorHead's constructor calls _init_layers, which needs these
        self.quality, self.box, self.dirac_coder, self.box_weighting = quality, box, dirac_coder, box_weighting
        self.stacked_convs, self.reg_max, self.bin_width, self.decode = stacked_convs, reg_max, bin_width, decode
        self.qfl_beta, self.focal_gamma, self.focal_alpha = qfl_beta, focal_gamma, focal_alpha
        self.box_weight, self.dfl_weight, self.quality_weight = box_weight, dfl_weight, quality_weight
        self.gaussian_weight, self.gaussian_box_loss = gaussian_weight, gaussian_box_loss
        self.guided_eta, self.guided_renormalise = guided_eta, guided_renormalise
        self.dgqp_statistics = {"topk": dgqp_topk, "mean": dgqp_mean, "variance": dgqp_variance}
        self.dgqp_channels, self.dgqp_form, self.dgqp_detach = dgqp_channels, dgqp_form, dgqp_detach
        self.tower_bias = tower_bias
        self.norm_cfg = norm_cfg or group_norm(feat_channels)
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
        self.cls_loss = MODELS.build(cls_loss) if cls_loss else None
        self.box_loss = box_loss if isinstance(box_loss, str) else MODELS.build(box_loss)
        self.topk = self.train_cfg["assigner"].get("topk", TOPK) if self.train_cfg else TOPK
        self._geometries: dict[Any, Geometry] = {}

    @property
    def box_form(self) -> BoxForm:
        """The box form with the switches as they stand; ``decode`` may be changed on a trained head."""
        if self.box == "general":
            return General(self.integral, DistancePointBBoxCoder(), bool(self.dfl_weight), self.decode == "local_peak")
        if self.box == "gaussian":
            return Gaussian(self.reg_max)
        if self.dirac_coder == "distance":
            return DiracDistance()
        return DiracDelta()

    # --- network ------------------------------------------------------------------------------------

    def _init_layers(self) -> None:
        def tower() -> nn.ModuleList:
            inputs = [self.in_channels] + [self.feat_channels] * (self.stacked_convs - 1)
            bias = True if self.tower_bias else "auto"
            return nn.ModuleList(ConvModule(c, self.feat_channels, 3, padding=1, norm_cfg=self.norm_cfg, bias=bias) for c in inputs)

        if self.box == "general":
            self.integral = Integral(self.reg_max)
        self.cls_convs, self.reg_convs = tower(), tower()
        composed = self.quality == "dgqp" and self.dgqp_form == "composed"
        class_channels = self.feat_channels + (self.dgqp_channels if composed else 0)
        self.gfl_cls = nn.Conv2d(class_channels, self.cls_out_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, self.box_form.channels, 3, padding=1)
        if self.quality in ("centerness", "iou"):
            self.gfl_quality = nn.Conv2d(self.feat_channels, 1, 3, padding=1)
        elif self.quality == "dgqp":
            seen = self.dgqp_statistics["topk"] + self.dgqp_statistics["mean"] + self.dgqp_statistics["variance"]
            self.reg_conf = dgqp.predictor(4 * seen, self.dgqp_channels, composed=composed)
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
        """The same for one level. ``scale`` multiplies all box predictions, as in mmdet's heads."""
        cls_feat = reg_feat = x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            reg_feat = conv(reg_feat)
        boxes = scale(self.gfl_reg(reg_feat)).float()
        if self.quality in ("centerness", "iou"):
            return self.gfl_cls(cls_feat), boxes, self.gfl_quality(reg_feat)
        if self.quality != "dgqp":
            return self.gfl_cls(cls_feat), boxes
        logits = boxes.detach() if self.dgqp_detach else boxes
        found = self.reg_conf(dgqp.distribution_statistics(logits, self.reg_max, **self.dgqp_statistics))
        if self.dgqp_form == "composed":
            return self.gfl_cls(torch.cat([cls_feat, found.to(cls_feat.dtype)], dim=1)), boxes
        return self.gfl_cls(cls_feat), boxes, found

    # --- geometry -----------------------------------------------------------------------------------

    def geometry(self, featmap_sizes: Sequence[tuple[int, int]], device: torch.device) -> Geometry:
        """Return the locations of a pyramid with these (height, width) of its levels.

        Those used last are kept, ``GEOMETRIES`` of them.
        """
        key = (tuple((int(h), int(w)) for h, w in featmap_sizes), torch.device(device))
        found = self._geometries.pop(key, None)
        if found is None:
            with torch.inference_mode(False):  # what an evaluation leaves here must do for training
                found = self._make_geometry(*key)
        self._geometries[key] = found  # the one used last is the last of the dictionary
        if len(self._geometries) > GEOMETRIES:
            del self._geometries[next(iter(self._geometries))]
        return found

    def _make_geometry(self, featmap_sizes: Sequence[tuple[int, int]], device: torch.device) -> Geometry:
        """Compute a geometry on the host, so that it comes to a GPU in four copies and none of them is waited for."""
        levels = self.prior_generator.grid_priors(list(featmap_sizes), dtype=torch.float32, device="cpu")
        counts = tuple(len(level) for level in levels)
        priors = torch.cat(levels)
        strides = torch.tensor([float(stride[0]) for stride in self.prior_generator.strides])
        level = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts), output_size=len(priors))
        parts = (priors, (priors[:, :2] + priors[:, 2:]) / 2, strides[level], level)
        return Geometry(*(to_device(part, device) for part in parts), counts)

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
        for shape, images in groups.items():
            flags = None
            if not self._covers(shape, featmap_sizes):
                flags = torch.cat(self.prior_generator.valid_flags(featmap_sizes, shape, device=device))
            out.append((images, flags))
        return out

    def _covers(self, shape: Sequence[int], featmap_sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether an image padded to (height, width) has every location of the pyramid."""
        return all(
            h * stride[1] - shape[0] < stride[1] and w * stride[0] - shape[1] < stride[0]
            for (h, w), stride in zip(featmap_sizes, self.prior_generator.strides, strict=True)
        )

    def _own_locations(self, geometry: Geometry, featmap_sizes: Sequence[tuple[int, int]], metas: list[dict]) -> Tensor | None:
        """(N, A) bool, the locations inside each image's own ``pad_shape``; None where that is all. `_valid_groups` in one array."""
        shapes = [tuple(meta["pad_shape"][:2]) for meta in metas]
        if all(self._covers(shape, featmap_sizes) for shape in shapes):
            return None
        ends = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32)
        corners = geometry.centers - self.prior_generator.center_offset * geometry.strides[:, None]
        return (corners < to_device(ends, corners.device)[:, None]).all(-1)

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
            ``loss_cls``; ``loss_bbox``, ``loss_dfl``, ``loss_gaussian`` as the box form has them; ``loss_centerness`` or
            ``loss_iou`` of a branch.
        """
        device = cls_scores[0].device
        sizes = [tuple(level.shape[-2:]) for level in cls_scores]
        with torch.autocast(device.type, enabled=False):
            geometry = self.geometry(sizes, device)
            assigned, gt_boxes, gt_labels, valid = self._targets(geometry, sizes, batch_gt_instances, batch_img_metas)

            is_positive = assigned != UNASSIGNED
            at: background_loss.Positives | background_loss.PaddedPositives | _InJoined
            real: Tensor | None = None
            if self._never_waits(device):
                most = self._most_positives(geometry, batch_gt_instances)
                image, location, real = background_loss.find(is_positive, most)
                at = background_loss.PaddedPositives.locate(image, location, real, sizes)
            else:
                image, location = is_positive.nonzero(as_tuple=True)
                many = sum(level.numel() for level in cls_scores) >= background_loss.WORTHWHILE and self.cls_loss is None
                at = background_loss.Positives.locate(image, location, sizes) if many else _InJoined(image, location)
            index = assigned[image, location]
            targets, labels = gt_boxes[image, index], gt_labels[image, index]
            if real is not None:  # what counts nowhere must be a box all the same, or its gradient is no number
                targets = torch.where(real[:, None], targets, geometry.priors[location])
            # mmdet counts at least one positive for each image
            positives = is_positive.sum(1).clamp(min=1).sum().float()

            boxes, targets_in_unit, own_loss = self._fit_positives(at.gather(bbox_preds), geometry, location, targets)
            iou, box_loss = losses.iou_and_box_loss(boxes, targets_in_unit, self.box_loss if isinstance(self.box_loss, str) else "giou")
            target_quality = {"iou": iou.detach(), "centerness": losses.centerness_target(geometry.centers[location], targets)}
            if self.box_weighting == "score":
                weight = at.gather(_detached(cls_scores)).amax(1).sigmoid()
                if self.quality == "dgqp" and qualities is not None:
                    weight = weight * at.gather(_detached(qualities))[:, 0].sigmoid()
            else:
                weight = target_quality.get(self.box_weighting, torch.ones_like(iou))
            if real is not None:
                weight = weight * real

            class_loss: list[Tensor] = []
            renormalise: list[Tensor] = []
            if self.cls_loss is None:
                class_loss, renormalise = self._class_loss(cls_scores, qualities, at, labels, target_quality, valid)
            shared = reduce_mean(torch.stack([positives, weight.sum(), *renormalise]))  # the one collective
            positives, weight_sum = shared[0], shared[1].clamp(min=1 / get_world_size())
            if renormalise:
                class_loss[1] = class_loss[1] * (shared[2] / shared[3].clamp(min=1e-12))
            if self.cls_loss is not None:
                terms = {"loss_cls": self._own_class_loss(_join(cls_scores), image, location, labels, iou.detach(), valid, positives)}
            else:
                terms = {"loss_cls": sum(class_loss) / positives}

            if self.box != "gaussian" or self.gaussian_box_loss:
                if isinstance(self.box_loss, str):
                    whole = (box_loss * weight).sum() / weight_sum
                elif len(boxes):
                    whole = self.box_loss(boxes, targets_in_unit, weight=weight, avg_factor=weight_sum)
                else:
                    whole = boxes.sum() * 0  # mmdet's losses differ in what they make of no box
                terms["loss_bbox"] = self.box_weight * whole
            if own_loss is not None:
                name, factor = ("loss_dfl", self.dfl_weight) if self.box == "general" else ("loss_gaussian", self.gaussian_weight)
                terms[name] = factor * (own_loss * weight).sum() / weight_sum
            if self.quality in ("centerness", "iou"):
                assert qualities is not None
                branch = F.binary_cross_entropy_with_logits(
                    at.gather(qualities)[:, 0], target_quality[self.quality], weight=None if real is None else real.float(), reduction="sum"
                )
                terms[f"loss_{self.quality}"] = self.quality_weight * branch / positives
        return terms

    def _never_waits(self, device: torch.device) -> bool:
        """Whether losses are computed without the host having to know what the device found: only a user's own parts ask for that.

        On a CPU there is nobody to wait for, and what is not computed saves time.
        """
        own = self.cls_loss is not None or not isinstance(self.box_loss, str) or not self._assigns_by_atss
        return (device.type != "cpu" or background_loss.ALWAYS_PADDED) and not own

    @property
    def _assigns_by_atss(self) -> bool:
        return not self.train_cfg or type(self.assigner) is ATSSAssigner

    def _most_positives(self, geometry: Geometry, instances: list[InstanceData]) -> int:
        """More positives than a batch with these boxes cannot have."""
        candidates = sum(min(self.topk, count) for count in geometry.num_level_priors)
        return sum(min(len(instance.labels) * candidates, len(geometry.priors)) for instance in instances)

    def _class_loss(
        self,
        cls_scores: list[Tensor],
        qualities: list[Tensor] | None,
        at: background_loss.Positives | background_loss.PaddedPositives | _InJoined,
        labels: Tensor,
        target_quality: dict[str, Tensor],
        valid: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Summed classification loss in parts; and for renormalised guidance the summed loss of positives without and with it."""
        guided = self.quality.endswith("_guided")
        label_target = target_quality["iou"] if self.quality in ("joint", "dgqp") else torch.ones_like(target_quality["iou"])
        factors = qualities if self.quality == "dgqp" else None
        of_positives: Tensor | None = None
        if isinstance(at, _InJoined):
            logits = _join(cls_scores)
            target = torch.zeros_like(logits).index_put_((at.image, labels, at.location), label_target)
            loss = self._class_losses(logits, None if factors is None else _join(factors), target)
            if valid is not None:
                loss = loss * valid[:, None]
            total = loss.sum()
            if guided:
                of_positives = loss[at.image, :, at.location].sum(1)
        else:
            qfl = self.quality in ("joint", "dgqp")
            power, factor = (self.qfl_beta, 1.0) if qfl else (self.focal_gamma, 1 - self.focal_alpha)
            background, logits, factor_logits = background_loss.background_and_positives(cls_scores, factors, at, power, valid)
            of_quality = None if factor_logits is None else factor_logits[:, None]
            nothing = torch.zeros_like(logits)
            target = nothing.scatter(1, labels[:, None], label_target[:, None])
            of_positives = self._class_losses(logits, of_quality, target).sum(1)
            more = of_positives - self._class_losses(logits, of_quality, nothing).sum(1)
            if isinstance(at, background_loss.PaddedPositives):
                of_positives, more = of_positives * at.real, more * at.real
            total = factor * background + more.sum()
        if not guided or of_positives is None:
            return [total], []
        weighed = (of_positives * target_quality[self.quality.removesuffix("_guided")] ** self.guided_eta).sum()
        parts = [total - of_positives.sum(), weighed]
        return parts, [of_positives.detach().sum(), weighed.detach()] if self.guided_renormalise else []

    def _class_losses(self, logits: Tensor, factors: Tensor | None, target: Tensor) -> Tensor:
        """Classification loss of each element; ``factors`` are the logits of a quality that multiplies the score."""
        if factors is not None:
            return losses.quality_focal_loss_of_product(logits, factors, target, self.qfl_beta)
        if self.quality in ("joint", "dgqp"):
            return losses.quality_focal_loss(logits, target, self.qfl_beta)
        return losses.focal_loss(logits, target, self.focal_gamma, self.focal_alpha)

    def _own_class_loss(
        self, logits: Tensor, image: Tensor, location: Tensor, labels: Tensor, iou: Tensor, valid: Tensor | None, positives: Tensor
    ) -> Tensor:
        """The user's classification loss, called as mmdet's heads call theirs."""
        count, classes, locations = logits.shape
        flat_labels = labels.new_full((count, locations), classes)
        flat_labels[image, location] = labels
        target: Any = flat_labels.flatten()
        if self.quality == "joint":
            scores = logits.new_zeros(count, locations)
            scores[image, location] = iou
            target = (target, scores.flatten())
        weight = logits.new_ones(count, locations) if valid is None else valid.float()
        return self.cls_loss(logits.transpose(1, 2).reshape(-1, classes), target, weight=weight.flatten(), avg_factor=positives)

    def _targets(
        self, geometry: Geometry, sizes: list[tuple[int, int]], instances: list[InstanceData], metas: list[dict]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(N, A) assigned box or -1, padded (N, G, 4) boxes, (N, G) labels, and (N, A) bool of locations that count."""
        device = geometry.priors.device
        counts = [len(instance.labels) for instance in instances]
        gt_boxes = geometry.priors.new_zeros((len(counts), max(counts), 4))
        gt_labels = torch.full((len(counts), max(counts)), -1, dtype=torch.long, device=device)
        for row, (count, instance) in enumerate(zip(counts, instances, strict=True)):
            if count:
                gt_boxes[row, :count] = get_box_tensor(instance.bboxes)
                gt_labels[row, :count] = instance.labels
        gt_valid = gt_labels >= 0
        gt_labels.clamp_(min=0)

        if self._never_waits(device):
            own = self._own_locations(geometry, sizes, metas)
            assigned = assign(geometry.priors, geometry.num_level_priors, gt_boxes, gt_valid, self.topk, own)
            return assigned, gt_boxes, gt_labels, own
        groups = self._valid_groups(sizes, metas, device)
        if not self._assigns_by_atss:
            assigned, valid = self._assign_by_image(geometry, gt_boxes, gt_labels, counts, groups)
            return assigned, gt_boxes, gt_labels, valid
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

    def _assign_by_image(
        self, geometry: Geometry, gt_boxes: Tensor, gt_labels: Tensor, counts: list[int], groups: list[tuple[list[int], Tensor | None]]
    ) -> tuple[Tensor, Tensor]:
        """(N, A) assigned box or -1 and (N, A) bool of locations that count, by a registered assigner of the user's.

        It is called as mmdet calls its assigners, image by image; a location that it ignores (-1) does not count.
        """
        assigned = torch.full((len(counts), len(geometry.priors)), UNASSIGNED, dtype=torch.long, device=geometry.priors.device)
        valid = torch.ones_like(assigned, dtype=torch.bool)
        wants_levels = "num_level_priors" in inspect.signature(self.assigner.assign).parameters
        for images, flags in groups:
            kept = torch.arange(len(geometry.priors), device=assigned.device) if flags is None else flags.nonzero().squeeze(1)
            levels = torch.bincount(geometry.levels[kept], minlength=len(geometry.num_level_priors)).tolist()
            for row in images:
                truth = InstanceData(bboxes=gt_boxes[row, : counts[row]], labels=gt_labels[row, : counts[row]])
                extra = {"num_level_priors": levels} if wants_levels else {}
                found = self.assigner.assign(pred_instances=InstanceData(priors=geometry.priors[kept]), gt_instances=truth, **extra).gt_inds
                assigned[row, kept] = (found - 1).clamp(min=UNASSIGNED)
                valid[row] = False
                valid[row, kept] = found >= 0
        return assigned, valid

    def _unit(self, strides: Tensor) -> Tensor:
        """Px of a bin, (M, 1), at locations of these strides (M,)."""
        return (strides * self.bin_width)[:, None]

    def _fit_positives(
        self, predictions: Tensor, geometry: Geometry, location: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``BoxForm.fit`` of predictions (P, channels) at locations (P,) with targets (P, 4) px."""
        return self.box_form.fit(predictions, geometry.priors[location], self._unit(geometry.strides[location]), targets)

    # --- prediction ---------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        batch_img_metas: Sequence[dict] = (),
        cfg: Any = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detections of each image, as mmdet's; in float32 outside of autocast, since bfloat16 has no exact pixels.

        Threshold, top-k and decoding of all images and levels are done at once, unless ``_predict_by_feat_single`` is a
        subclass's own.
        """
        with torch.autocast(cls_scores[0].device.type, enabled=False):
            outputs = [
                None if levels is None else [level.detach().float() for level in levels]
                for levels in (cls_scores, bbox_preds, score_factors)
            ]
            if type(self)._predict_by_feat_single is not GFLFamilyHead._predict_by_feat_single:
                return super().predict_by_feat(*outputs, batch_img_metas=batch_img_metas, cfg=cfg, rescale=rescale, with_nms=with_nms)
            return self._detect(*outputs, batch_img_metas, cfg, rescale, with_nms)

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
        """Detections of one image, from its (C, H, W) maps: what a subclass may override."""
        factors = None if any(level is None for level in score_factor_list) else [level[None] for level in score_factor_list]
        maps = ([level[None] for level in levels] for levels in (cls_score_list, bbox_pred_list))
        return self._detect(*maps, factors, [img_meta], cfg, rescale, with_nms)[0]

    def _detect(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None,
        metas: Sequence[dict],
        cfg: Any,
        rescale: bool,
        with_nms: bool,
    ) -> list[InstanceData]:
        """Detections of a batch.

        Threshold and top-k act on the class score alone and a branch comes in afterwards, as in mmdet's ATSS; the DGQP's
        product is the score from the start, as in its authors' code.

        On a GPU the host waits once for the number of candidates of each image, and once in the NMS of each image.
        """
        cfg = self.test_cfg if cfg is None else cfg
        geometry = self.geometry([tuple(level.shape[-2:]) for level in cls_scores], cls_scores[0].device)
        all_scores = _join(cls_scores).sigmoid()
        factors = None if score_factors is None else _join(score_factors)[:, 0].sigmoid()
        if factors is not None and self.quality == "dgqp":
            all_scores, factors = all_scores * factors[:, None], None
        limit = cfg.get("nms_pre", -1)
        fixed = limit > 0 and (all_scores.device.type != "cpu" or background_loss.ALWAYS_PADDED)
        find = self._best_of_levels if fixed else self._above_threshold
        image, labels, location, scores = find(all_scores, geometry, cfg.score_thr, limit)
        real = scores > cfg.score_thr

        predictions = _join(bbox_preds)[image, :, location]
        boxes = self.box_form.decode(predictions, geometry.priors[location], self._unit(geometry.strides[location])).boxes
        boxes = torch.minimum(boxes.clamp(min=0), _far_corners(metas, boxes)[image])
        if factors is not None:
            scores = scores * factors[image, location]
        if rescale:
            boxes = boxes * _rows([[1 / s for s in meta["scale_factor"]] * 2 for meta in metas], boxes)[image]
        least = cfg.get("min_bbox_size", -1)
        if least >= 0:
            real &= ((boxes[:, 2:] - boxes[:, :2]) > least).all(1)
        counts = torch.zeros(len(metas), dtype=torch.long, device=image.device).index_add_(0, image, real.long()).tolist()
        if sum(counts) < len(real):
            kept = torch.nonzero_static(real, size=sum(counts))[:, 0]
            image, labels, scores, boxes = image[kept], labels[kept], scores[kept], boxes[kept]
        if not with_nms:
            parts = zip(boxes.split(counts), scores.split(counts), labels.split(counts), strict=True)
            return [InstanceData(bboxes=box, scores=score, labels=label) for box, score, label in parts]
        return self._suppress(boxes, scores, labels, image, counts, cfg)

    def _above_threshold(self, all_scores: Tensor, geometry: Geometry, least: float, limit: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (M,) image, class, location and score above ``least``; at most ``limit`` of each image and level where it is positive.

        Image after image, level after level, the best first.
        """
        image, labels, location = (all_scores > least).nonzero(as_tuple=True)
        scores = all_scores[image, labels, location]
        levels = len(geometry.num_level_priors)
        scores, best = scores.sort(descending=True)
        group, order = (image * levels + geometry.levels[location])[best].sort(stable=True)
        if 0 < limit < max(geometry.num_level_priors) * self.cls_out_channels:
            rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
            order = order[rank < limit]
        best = best[order]
        return image[best], labels[best], location[best], scores[order]

    @staticmethod
    def _best_of_levels(all_scores: Tensor, geometry: Geometry, least: float, limit: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the same in arrays of fixed length, without waiting for a GPU; among them are scores that are not above ``least``."""
        found, start = [], 0
        for count in geometry.num_level_priors:
            level = all_scores[:, :, start : start + count].flatten(1)
            scores, place = level.topk(min(limit, level.shape[1]))
            found.append((place // count, place % count + start, scores))
            start += count
        labels, location, scores = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
        image = torch.arange(len(scores), device=scores.device)[:, None].expand_as(scores)
        return image.flatten(), labels.flatten(), location.flatten(), scores.flatten()

    @staticmethod
    def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor, counts: list[int], cfg: Any) -> list[InstanceData]:
        """NMS of each class of each image, as mmcv's ``batched_nms``: classes are kept apart by moving their boxes."""
        plain = bool(cfg.nms) and set(cfg.nms) == {"type", "iou_threshold"} and cfg.nms["type"] == "nms" and max(counts) < NMS_AT_ONCE
        if plain:
            reach = boxes.new_zeros(len(counts)).scatter_reduce_(0, image, boxes.amax(1), "amax") + 1
            moved = boxes + (labels * reach[image])[:, None]
        found, start = [], 0
        for count in counts:
            own = slice(start, start + count)
            start += count
            if plain:
                kept = nms(moved[own], scores[own], cfg.nms["iou_threshold"])[: cfg.max_per_img]
                kept_scores = scores[own][kept]
            elif count:
                rows, kept = batched_nms(boxes[own], scores[own], labels[own], cfg.nms)
                kept, kept_scores = kept[: cfg.max_per_img], rows[: cfg.max_per_img, -1]  # some change the scores
            else:
                kept, kept_scores = labels[own], scores[own]
            found.append(InstanceData(bboxes=boxes[own][kept], scores=kept_scores, labels=labels[own][kept]))
        return found

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
            unit = self._unit(geometry.strides.repeat(images))
            flat = self.box_form.decode(predictions.flatten(0, 1), geometry.priors.repeat(images, 1), unit)
            boxes, distances, probs = (None if part is None else part.unflatten(0, (images, -1)) for part in flat)
            boxes = torch.minimum(boxes.clamp(min=0), _far_corners(img_metas, boxes)[:, None])
        return DenseOutputs(scores, boxes, probs, distances, geometry.centers, geometry.strides, geometry.levels)


@dataclass(frozen=True)
class _InJoined:
    """Positives of (P,) images and locations, read off maps of all levels joined."""

    image: Tensor
    location: Tensor

    def gather(self, levels: list[Tensor]) -> Tensor:
        """(P, channels) float32 of (N, channels, H, W) maps."""
        return _join(levels)[self.image, :, self.location]


def _rows(values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """A row for each image, on the device and with the type of ``like``."""
    return to_device(torch.tensor(values, dtype=like.dtype), like.device)


def _far_corners(metas: Sequence[dict], like: Tensor) -> Tensor:
    """(N, 4) width, height, width, height of each image: beyond these no box reaches."""
    return _rows([meta["img_shape"][1::-1] * 2 for meta in metas], like)


def _detached(levels: list[Tensor]) -> list[Tensor]:
    return [level.detach() for level in levels]


def _join(levels: list[Tensor]) -> Tensor:
    """Maps (N, channels, H, W) of all levels to (N, channels, A), float32; channels first, so it is a plain copy."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).float()
