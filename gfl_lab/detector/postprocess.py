"""From a head's maps to detections: score threshold, decoding, clipping and NMS; and its dense outputs before all of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from torch import Tensor

from gfl_lab.detector import positives
from gfl_lab.detector.assigners import Predictions
from gfl_lab.detector.box_forms import BoxForm
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.mmcv_ops import nms
from gfl_lab.detector.positives import join
from gfl_lab.detector.transfer import to_device

NMS_AT_ONCE = 10_000
"""Boxes of an image from which on each class has an NMS of its own, as in mmcv."""


class Maps(NamedTuple):
    """Predictions of a head for N images, a map for each level.

    Attributes:
        logits: (N, C, H, W) of the classes.
        boxes: (N, channels of the box form, H, W).
        qualities: (N, 1, H, W) logits of a quality that is estimated apart from the class, or None.
    """

    logits: Sequence[Tensor]
    boxes: Sequence[Tensor]
    qualities: Sequence[Tensor] | None = None


@dataclass(frozen=True)
class DenseOutputs:
    """A head's outputs at every location, before any threshold or NMS, as float32 on the head's device.

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


class Candidates(NamedTuple):
    """M (image, class, location) with their scores, (M,) each."""

    image: Tensor
    labels: Tensor
    location: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Reader:
    """Reads boxes and scores off the maps of one head and pyramid.

    Attributes:
        geometry: of the pyramid.
        form: of the box predictions.
        multiplies_score: the quality is part of the score before the threshold (GFLv2). Else threshold and top-k act on the
            class score alone, and a branch comes in afterwards, as in mmdet's ATSS.
    """

    geometry: Geometry
    form: BoxForm
    multiplies_score: bool

    def detect(self, maps: Maps, metas: Sequence[dict[str, Any]], cfg: Any, rescale: bool, with_nms: bool) -> list[InstanceData]:
        """Return ``bboxes`` (K, 4), ``scores`` (K,) and ``labels`` (K,) of each image.

        On a GPU the host waits once for the number of candidates of each image, and once in the NMS of each image.

        Args:
            metas: with ``img_shape`` (height, width), to which boxes are clipped, and ``scale_factor`` (x, y).
            cfg: mmdet's ``test_cfg``: score_thr, nms_pre, min_bbox_size, nms, max_per_img.
            rescale: give boxes in px of the images as they are.
        """
        geometry = self.geometry
        all_scores = join(maps.logits).sigmoid()
        factors = None if maps.qualities is None else join(maps.qualities)[:, 0].sigmoid()
        if factors is not None and self.multiplies_score:
            all_scores, factors = all_scores * factors[:, None], None
        limit = cfg.get("nms_pre", -1)
        fixed = limit > 0 and (all_scores.device.type != "cpu" or positives.ALWAYS_PADDED)
        find = best_of_levels if fixed else above_threshold
        image, labels, location, scores = find(all_scores, geometry, cfg.score_thr, limit)
        real = scores > cfg.score_thr

        predictions = join(maps.boxes)[image, :, location]
        boxes = self.form.decode(predictions, geometry.priors[location], self._unit(geometry.strides[location])).boxes
        boxes = torch.minimum(boxes.clamp(min=0), far_corners(metas, boxes)[image])
        if factors is not None:
            scores = scores * factors[image, location]
        if rescale:
            boxes = boxes * rows([[1 / s for s in meta["scale_factor"]] * 2 for meta in metas], boxes)[image]
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
        return suppress(boxes, scores, labels, image, counts, cfg)

    def dense(self, maps: Maps, metas: Sequence[dict[str, Any]]) -> DenseOutputs:
        """Return scores, boxes and distributions at every location.

        Args:
            metas: with ``img_shape`` (height, width), to which boxes are clipped.
        """
        geometry = self.geometry
        scores = self._scores(maps)
        images = len(scores)
        flat = self.form.decode(*self._everywhere(maps))
        boxes, distances = flat.boxes.unflatten(0, (images, -1)), flat.distances.unflatten(0, (images, -1))
        probs = None if flat.probs is None else flat.probs.unflatten(0, (images, -1))
        boxes = torch.minimum(boxes.clamp(min=0), far_corners(metas, boxes)[:, None])
        return DenseOutputs(scores, boxes, probs, distances, geometry.centers, geometry.strides, geometry.levels)

    @torch.no_grad()
    def for_assignment(self, maps: Maps) -> Predictions:
        """Return scores and boxes at every location as training sees them, detached."""
        scores = self._scores(maps)
        boxes = self.form.training_boxes(*self._everywhere(maps))
        return Predictions(scores, boxes.unflatten(0, (len(scores), -1)))

    @staticmethod
    def _scores(maps: Maps) -> Tensor:
        """Return the final scores, (N, A, C)."""
        scores = join(maps.logits).transpose(1, 2).sigmoid()
        if maps.qualities is not None:
            scores = scores * join(maps.qualities).transpose(1, 2).sigmoid()
        return scores

    def _everywhere(self, maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
        """Return predictions, priors and px of a bin of all locations, image after image, as the box form takes them."""
        predictions = join(maps.boxes).transpose(1, 2)
        images = len(predictions)
        unit = self._unit(self.geometry.strides.repeat(images))
        return predictions.flatten(0, 1), self.geometry.priors.repeat(images, 1), unit

    def _unit(self, strides: Tensor) -> Tensor:
        """Return px of a bin, (M, 1), at locations of these strides (M,)."""
        return (strides * self.form.bin_width)[:, None]


def above_threshold(all_scores: Tensor, geometry: Geometry, least: float, limit: int) -> Candidates:
    """Return the candidates above ``least``; where ``limit`` is positive at most that many of each image and level.

    Image after image, level after level, the best first.

    Args:
        all_scores: (N, C, A).
    """
    image, labels, location = (all_scores > least).nonzero(as_tuple=True)
    scores = all_scores[image, labels, location]
    counts = geometry.num_level_priors
    scores, best = scores.sort(descending=True)
    group, order = (image * len(counts) + geometry.levels[location])[best].sort(stable=True)
    if 0 < limit < max(counts) * all_scores.shape[1]:
        rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
        order = order[rank < limit]
    best = best[order]
    return Candidates(image[best], labels[best], location[best], scores[order])


def best_of_levels(all_scores: Tensor, geometry: Geometry, least: float, limit: int) -> Candidates:
    """Return the ``limit`` best of each image and level, without waiting for a GPU; some may not be above ``least``.

    Args:
        all_scores: (N, C, A).
    """
    found, start = [], 0
    for count in geometry.num_level_priors:
        level = all_scores[:, :, start : start + count].flatten(1)
        scores, place = level.topk(min(limit, level.shape[1]))
        found.append((place // count, place % count + start, scores))
        start += count
    labels, location, scores = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    image = torch.arange(len(scores), device=scores.device)[:, None].expand_as(scores)
    return Candidates(image.flatten(), labels.flatten(), location.flatten(), scores.flatten())


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor, counts: list[int], cfg: Any) -> list[InstanceData]:
    """Apply NMS to each class of each image, as mmcv's ``batched_nms``: classes are kept apart by moving their boxes.

    Args:
        boxes: (M, 4); ``scores``, ``labels``, ``image``: (M,); image after image.
        counts: boxes of each image.
        cfg: with ``nms`` and ``max_per_img``.
    """
    plain = bool(cfg.nms) and set(cfg.nms) == {"type", "iou_threshold"} and cfg.nms["type"] == "nms" and max(counts) < NMS_AT_ONCE
    moved = boxes
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
            scored, kept = batched_nms(boxes[own], scores[own], labels[own], cfg.nms)
            kept, kept_scores = kept[: cfg.max_per_img], scored[: cfg.max_per_img, -1]  # some kinds of NMS change the scores
        else:
            kept, kept_scores = labels[own], scores[own]
        found.append(InstanceData(bboxes=boxes[own][kept], scores=kept_scores, labels=labels[own][kept]))
    return found


def rows(values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Return a row for each image, on the device and with the type of ``like``."""
    return to_device(torch.tensor(values, dtype=like.dtype), like.device)


def far_corners(metas: Sequence[dict[str, Any]], like: Tensor) -> Tensor:
    """Return (N, 4) width, height, width, height of each image, px: no box reaches beyond."""
    return rows([meta["img_shape"][1::-1] * 2 for meta in metas], like)
