"""Target assignment, in one place: which box each location of a batch learns.

The head trains on it, and the analyses of a trial's box distributions and of side distances ask it, so that all three see
the same locations. ``data/assignment.py`` computes the same without torch, for ``plan`` and ``data check``; tests compare.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from gfl_lab.detector.assign import TOPK, UNASSIGNED, assign
from gfl_lab.detector.geometry import Geometry, Size


@dataclass(frozen=True)
class GroundTruth:
    """The boxes of N images, padded to the largest number G of an image.

    Attributes:
        boxes: (N, G, 4) xyxy, px of the network input; zeros where padding.
        labels: (N, G) class; 0 where padding.
        valid: (N, G) bool, False where padding.
        counts: boxes of each image.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    counts: tuple[int, ...]

    @classmethod
    def pad(cls, instances: Sequence[InstanceData], device: torch.device) -> GroundTruth:
        """Return the ``bboxes`` (G, 4) and ``labels`` (G,) of each image in arrays on ``device``."""
        counts = tuple(len(instance.labels) for instance in instances)
        boxes = torch.zeros((len(counts), max(counts), 4), device=device)
        labels = torch.full((len(counts), max(counts)), -1, dtype=torch.long, device=device)
        for row, (count, instance) in enumerate(zip(counts, instances, strict=True)):
            if count:
                boxes[row, :count] = get_box_tensor(instance.bboxes)
                labels[row, :count] = instance.labels
        valid = labels >= 0
        return cls(boxes, labels.clamp_(min=0), valid, counts)


class Targets(NamedTuple):
    """Training targets of each location.

    Attributes:
        assigned: (N, A) index of its box, ``UNASSIGNED`` (-1) for background.
        usable: (N, A) bool, locations that count; None where all do.
    """

    assigned: Tensor
    usable: Tensor | None


def pad_shapes(metas: Sequence[dict[str, Any]]) -> list[Size]:
    """Return the padded (height, width) of each image, px."""
    return [(int(meta["pad_shape"][0]), int(meta["pad_shape"][1])) for meta in metas]


def assign_batch(
    geometry: Geometry, boxes: Tensor, valid: Tensor, shapes: Sequence[Size], topk: int = TOPK, *, never_waits: bool = False
) -> Targets:
    """Assign boxes to locations by ATSS, each image by the locations inside its own padded shape.

    Args:
        geometry: of the batch, whose images are padded to the largest.
        boxes: (N, G, 4) xyxy px; ``valid``: (N, G) bool, False where padding.
        shapes: padded (height, width) of each image, px.
        topk: candidates of a box on each level.
        never_waits: take images of other shapes than the batch through one assignment with a mask, which asks a GPU for no
            number. Otherwise each shape has an assignment of its own, which is mmdet's answer also among priors that are
            equally far from a box.
    """
    priors, counts = geometry.priors, geometry.num_level_priors
    if never_waits:
        usable = geometry.usable(shapes)
        return Targets(assign(priors, counts, boxes, valid, topk, usable), usable)
    groups = list(_by_shape(geometry, shapes))
    if all(keep is None for _, keep in groups):
        return Targets(assign(priors, counts, boxes, valid, topk), None)
    assigned, usable = _nothing(len(shapes), geometry)
    for images, keep in groups:
        if keep is None:
            assigned[images] = assign(priors, counts, boxes[images], valid[images], topk)
            continue
        own_priors, own_counts = geometry.within(keep)
        found, flags = torch.full_like(assigned[images], UNASSIGNED), torch.zeros_like(usable[images])
        found[:, keep], flags[:, keep] = assign(own_priors, own_counts, boxes[images], valid[images], topk), True
        assigned[images], usable[images] = found, flags
    return Targets(assigned, usable)


def assign_by(assigner: Any, geometry: Geometry, truth: GroundTruth, shapes: Sequence[Size]) -> Targets:
    """Assign boxes to locations by a registered assigner of the user's, called as mmdet calls its own: image by image.

    A location that it ignores (-1) does not count.

    Args:
        assigner: has ``assign``; where that takes ``num_level_priors``, it is given the locations of each level.
        shapes: padded (height, width) of each image, px.
    """
    assigned, usable = _nothing(len(shapes), geometry)
    takes_levels = "num_level_priors" in inspect.signature(assigner.assign).parameters
    for images, keep in _by_shape(geometry, shapes):
        own = torch.arange(len(geometry.priors), device=assigned.device) if keep is None else keep
        priors, counts = geometry.within(own)
        extra = {"num_level_priors": counts} if takes_levels else {}
        for row in images:
            count = truth.counts[row]
            boxes = InstanceData(bboxes=truth.boxes[row, :count], labels=truth.labels[row, :count])
            found = assigner.assign(pred_instances=InstanceData(priors=priors), gt_instances=boxes, **extra).gt_inds
            assigned[row, own] = (found - 1).clamp(min=UNASSIGNED)
            usable[row] = False
            usable[row, own] = found >= 0
    return Targets(assigned, usable)


def _nothing(images: int, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return (N, A) without a box, and (N, A) of locations that all count."""
    assigned = torch.full((images, len(geometry.priors)), UNASSIGNED, dtype=torch.long, device=geometry.priors.device)
    return assigned, torch.ones_like(assigned, dtype=torch.bool)


def _by_shape(geometry: Geometry, shapes: Sequence[Size]) -> Iterator[tuple[list[int], Tensor | None]]:
    """Yield the images of each padded shape with the (K,) indices of their locations, None for all."""
    groups: dict[Size, list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    for shape, images in groups.items():
        usable = geometry.usable([shape])
        yield images, None if usable is None else usable[0].nonzero().squeeze(1)
