"""Faults of mmdet's detectors that stop training or prediction here, each mended in a function of its own.

``mend_config`` changes the dict of a model before it is built, ``mend_detector`` a detector that was built. Neither changes
the names or shapes of weights, nor a number that mmdet itself would give. ``VERIFIED_MMDET`` is the version that every
function here was written for; a test compares it with the one installed, and each fix has a test that fails without it.

A fix of a method puts a class with that method between the object and its own class. Copies of a detector keep it, and
mmdet's classes stay as they are for others.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from gfl_lab.errors import InputError, Problem

VERIFIED_MMDET = "3.3.0"

SMALLEST_EPS = 1e-12
"""Added to a variance of float32 above 2e-5 it changes nothing."""


def mend_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a model's config with all fixes of configs; dicts, lists and tuples are copied, values are shared."""
    mended: dict[str, Any] = with_positive_eps(model)
    return mended


def with_positive_eps(node: Any) -> Any:
    """Return a config in which no norm has ``eps=0``, which torch 2.11 refuses.

    mmdet 3.3.0's NAS-FCOS gives it, since the backbone's published norms have theirs within the variance.
    """
    if isinstance(node, Mapping):
        norm = "Norm" in str(node.get("type")) or str(node.get("type")) in ("BN", "GN", "IN", "LN", "SyncBN")
        return {key: SMALLEST_EPS if key == "eps" and norm and value == 0 else with_positive_eps(value) for key, value in node.items()}
    return type(node)(map(with_positive_eps, node)) if isinstance(node, list | tuple) else node


def mend_detector(detector: nn.Module) -> None:
    """Fix every part of a detector for which there is a fix here, in place. Does nothing the second time."""
    for part in detector.modules():
        for base, fix in _fixes():
            if isinstance(part, base) and not isinstance(part, fix):
                own: type = type(part)
                part.__class__ = between(fix, own)


class PredictsWithoutLoss(nn.Module):
    """``SSDHead``: prediction asks for the loss of classes, and this head alone has none (mmdetection 11063, 11305, 11780).

    mmdet 3.3.0's ``_predict_by_feat_single`` reads ``loss_cls.custom_cls_channels``. None has no such attribute.
    """

    loss_cls = None


class LooksAtOneImageATime(nn.Module):
    """Guided anchoring: prediction takes the first image's mask of locations for all images of a batch.

    In mmdet 3.3.0 ``forward_single`` of ``GuidedAnchorHead`` and ``GARetinaHead`` has ``sigmoid()[0]``, and mmcv's masked
    convolution refuses a batch. Here images go through it one after another.
    """

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return class scores, boxes, shapes and locations of one level, each (N, ·, H, W)."""
        plain = super().forward_single  # type: ignore[misc]
        if self.training:
            return tuple(plain(x))
        return tuple(torch.cat(parts) for parts in zip(*(plain(image) for image in x.split(1)), strict=True))


class KnowsImagesWithoutBorder(nn.Module):
    """``CenterNetHead``: prediction asks each image for the border that the config's own cropping has put around it.

    mmdet 3.3.0 reads ``img_meta["border"]`` in ``_predict_by_feat_single``. Images that were only scaled have none.
    """

    def predict_by_feat(self, *maps: Any, batch_img_metas: list[dict[str, Any]], **arguments: Any) -> Any:
        """Return the boxes of each image, as mmdet does, with a border of 0 for an image without."""
        metas = [{"border": (0.0, 0.0, 0.0, 0.0)} | meta for meta in batch_img_metas]
        return super().predict_by_feat(*maps, batch_img_metas=metas, **arguments)  # type: ignore[misc]


class CountsItsTokens(nn.Module):
    """Two-stage DETRs (DINO, DDQ, Deformable DETR): fewer locations than queries end in an error of torch about ``topk``."""

    def pre_decoder(self, memory: Tensor, *arguments: Any, **named: Any) -> Any:
        """Choose the queries, as mmdet does. Raises InputError: the images are too small for their number."""
        queries = int(self.num_queries)  # type: ignore[arg-type]
        if self.as_two_stage and memory.size(1) < queries:
            message = (
                f"{type(self).__name__} chooses {queries} queries among the locations of its maps, and these images have {memory.size(1)}"
            )
            raise InputError(Problem(message, hint="Use larger images, or fewer queries: cfg_options.model.num_queries."))
        return super().pre_decoder(memory, *arguments, **named)  # type: ignore[misc]


class GivesAtMostItsQueries(nn.Module):
    """``DETRHead``: with more ``max_per_img`` than it has predictions, prediction ends in an error of torch about ``topk``."""

    def _predict_by_feat_single(self, cls_score: Tensor, *arguments: Any, **named: Any) -> Any:
        most = cls_score.numel() if self.loss_cls.use_sigmoid else len(cls_score)  # type: ignore[union-attr]
        with _at_most(self, most):
            return super()._predict_by_feat_single(cls_score, *arguments, **named)  # type: ignore[misc]


class GivesAtMostItsProposals(nn.Module):
    """``SparseRoIHead``: as ``GivesAtMostItsQueries``, for its proposals times the classes."""

    def predict_bbox(self, x: Any, metas: Any, results: list[Any], *arguments: Any, **named: Any) -> Any:
        """Return the boxes of each image, as mmdet does."""
        fewest = min((len(found) for found in results), default=0)
        with _at_most(self, fewest * int(self.bbox_head[-1].num_classes)):  # type: ignore[index, union-attr]
            return super().predict_bbox(x, metas, results, *arguments, **named)  # type: ignore[misc]


@contextlib.contextmanager
def _at_most(head: Any, most: int) -> Iterator[None]:
    """Let a head give at most ``most`` detections of an image."""
    own = head.test_cfg
    if own.get("max_per_img", 0) > most:
        head.test_cfg = ConfigDict({**own, "max_per_img": most})
    try:
        yield
    finally:
        head.test_cfg = own


class NamesTooSmallImages(nn.Module):
    """``SSDNeck``: an image below the config's 300 or 512 px leaves nothing for the last convolution, which torch reports."""

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps of all levels. Raises InputError: the images are too small."""
        try:
            maps: tuple[Tensor, ...] = super().forward(inputs)
        except RuntimeError as error:
            if "greater than actual input size" not in str(error):
                raise
            rows, columns = inputs[-1].shape[-2:]
            message = (
                f"the images are too small for SSD: its last map of the backbone is {rows} x {columns}, and its neck halves it further"
            )
            raise InputError(Problem(message, hint="Use images of 300 px or more on both sides.")) from error
        return maps


class StartsFromRandomNumbers(nn.Module):
    """``TridentResNet``: no initialisation reaches its ``TridentConv``, whose weights hold what was in memory before, at times not even numbers.

    mmdet 3.3.0's config relies on published weights, and its stages are torch's ``Sequential``, into which mmengine's
    ``init_weights`` does not go. Here these convolutions start as the others of mmdet's ResNets do.
    """

    def init_weights(self) -> None:
        """Draw their weights from a normal distribution (He et al., arXiv 1502.01852), by their outputs; then do what mmdet does."""
        from mmdet.models.backbones.trident_resnet import TridentConv

        for part in self.modules():
            if isinstance(part, TridentConv):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        super().init_weights()  # type: ignore[misc]


class ComputesLossesInFloat32(nn.Module):
    """Dense heads under mixed precision: several losses of mmdet's need float32, and on CUDA autocast refuses one of them.

    AutoAssign, FreeAnchor and TOOD call ``binary_cross_entropy``, and VFNet writes IoUs of float32 into a map of the type
    of the scores. Here the losses of every dense head are computed in float32, outside of autocast, as ours are.
    """

    def loss_by_feat(self, *maps: Any, **arguments: Any) -> Any:
        """Return the losses of maps, as mmdet does."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            return super().loss_by_feat(*_in_float32(maps), **_in_float32(arguments))  # type: ignore[misc]


class AssignsWhereThePointsAre(nn.Module):
    """``RepPointsHead``: on a GPU training stops, since ``PointAssigner`` numbers the points with a tensor on the CPU.

    mmdet 3.3.0 calls ``torch.arange`` without a device and indexes the result with a mask of the GPU.
    """

    def _get_targets_single(self, flat_proposals: Tensor, *arguments: Any, **named: Any) -> Any:
        with torch.device(flat_proposals.device):
            return super()._get_targets_single(flat_proposals, *arguments, **named)  # type: ignore[misc]


def _in_float32(value: Any) -> Any:
    """Return a value with the floating-point tensors in its lists, tuples and dicts as float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(map(_in_float32, value))
    return {key: _in_float32(part) for key, part in value.items()} if isinstance(value, dict) else value


@functools.cache
def _fixes() -> tuple[tuple[type, type], ...]:
    """Return the classes of mmdet that have a fix, and their fixes."""
    from mmdet.models.backbones import TridentResNet
    from mmdet.models.dense_heads import CenterNetHead, DETRHead, GuidedAnchorHead, RepPointsHead, SSDHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.detectors import DeformableDETR
    from mmdet.models.necks import SSDNeck
    from mmdet.models.roi_heads import SparseRoIHead

    return (
        (SSDHead, PredictsWithoutLoss),
        (GuidedAnchorHead, LooksAtOneImageATime),
        (CenterNetHead, KnowsImagesWithoutBorder),
        (DeformableDETR, CountsItsTokens),
        (DETRHead, GivesAtMostItsQueries),
        (SparseRoIHead, GivesAtMostItsProposals),
        (SSDNeck, NamesTooSmallImages),
        (TridentResNet, StartsFromRandomNumbers),
        (RepPointsHead, AssignsWhereThePointsAre),
        (BaseDenseHead, ComputesLossesInFloat32),
    )


@functools.cache
def between(fix: type, own: type) -> type:
    """Return a class of the name of ``own`` that looks into ``fix`` first."""
    return type(own.__name__, (fix, own), {"__module__": own.__module__, "__doc__": own.__doc__})
