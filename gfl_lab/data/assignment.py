"""Boxes that ATSS (Zhang et al., arXiv 1912.02424) leaves without a location, with the causes; computed without torch.

The anchors of a level are a regular grid, so the nearest to a box are found around it, instead of among all anchors of the
image as ``detector/assign.py`` does in training. The arithmetic is that of training, operation by operation in float32. One
thing it does not settle: which of several anchors at the same distance from a box are candidates. Without ``nearest_of`` they
are the first by row and column.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gfl_lab.spec.settings import Settings

INSIDE_PX = 0.01
"""A location is inside a box if it is farther than this from each of its sides."""
CHUNK = 2**21
"""Distances of boxes to locations that are computed at once."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
NearestOf = Callable[[Floats, int], Ints]
"""From distances (G, A) and k: indices (G, k) of the k least of each row, chosen among equal ones as training does."""


class Cause(StrEnum):
    """Cause for a box that no location learns, in the order of the search for causes."""

    SAME_BOX = "same_box"
    CROWDED_OUT = "crowded_out"
    ONE_CANDIDATE = "one_candidate"
    NO_LOCATION_INSIDE = "no_location_inside"
    BEST_OUTSIDE = "best_outside"
    BELOW_ANCHORS = "below_anchors"
    ABOVE_ANCHORS = "above_anchors"
    BETWEEN_ANCHORS = "between_anchors"


@dataclass(frozen=True)
class Pyramid:
    """The settings that decide which locations learn a box.

    Attributes:
        strides: of the levels, px.
        anchor_scale: side of the square anchor, in strides.
        topk: candidates of a box on each level.
        image_size: longest and shortest side that images are scaled into, px.
        pad_to: padded sides are multiples of this, px.
    """

    strides: tuple[int, ...]
    anchor_scale: float
    topk: int
    image_size: tuple[int, int]
    pad_to: int

    @classmethod
    def of(cls, settings: Settings) -> Pyramid:
        """Return the pyramid of a variant."""
        return cls(settings.strides, settings.anchor_scale, settings.atss_topk, settings.image_size, settings.pad_to)

    @property
    def anchors(self) -> tuple[float, ...]:
        """Side of each level's anchor, px."""
        return tuple(stride * self.anchor_scale for stride in self.strides)


@dataclass(frozen=True)
class Boxes:
    """Boxes of a split, image after image.

    Attributes:
        xyxy: (G, 4) float32, px of the images as they are.
        image: (G,) index of each box's image, ascending.
        sizes: (N, 2) width and height of the images, px.
    """

    xyxy: Floats
    image: Ints
    sizes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.xyxy)

    def sample(self, most: int) -> Boxes:
        """Return these boxes or, if they are more than ``most``, those of some images, drawn by a fixed seed."""
        if len(self) <= most:
            return self
        counts = np.bincount(self.image, minlength=len(self.sizes))
        order = np.random.default_rng(0).permutation(len(self.sizes))
        enough = int(np.searchsorted(np.cumsum(counts[order]), most)) + 1
        chosen = np.sort(order[:enough])
        number = np.full(len(self.sizes), -1)
        number[chosen] = np.arange(len(chosen))
        kept = number[self.image] >= 0
        return Boxes(self.xyxy[kept], number[self.image[kept]], self.sizes[chosen])


@dataclass(frozen=True)
class Assignment:
    """The outcome for each box.

    Attributes:
        xyxy: (G, 4) float32, px of the network input.
        causes: (G,) index into ``Cause`` of a box without a location, -1 of one that has some.
        distances: (P, 4) from the locations that learn a box to its left, top, right and bottom side, in strides.
    """

    xyxy: Floats
    causes: Ints
    distances: Floats

    @property
    def unassigned(self) -> int:
        """Boxes without a location."""
        return int((self.causes >= 0).sum())

    def having(self, cause: Cause) -> Flags:
        """Return (G,) the boxes without a location for this cause."""
        return self.causes == list(Cause).index(cause)


def scaled_size(width: float, height: float, into: tuple[int, int]) -> tuple[int, int]:
    """Return width and height, px, of an image as mmcv's ``rescale_size`` does: as large as ``into`` allows, ratio kept.

    Each is at least 1 px: mmcv would leave an image of 20000 x 40 px no height in 128 x 128. Training, evaluation and the analyses of a
    data set scale by this function.
    """
    factor = min(max(into) / max(width, height), min(into) / min(width, height))
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def assign(boxes: Boxes, pyramid: Pyramid, nearest_of: NearestOf | None = None) -> Assignment:
    """Assign every box to locations as training does, each image by itself, with the cause for each box that has none.

    Args:
        nearest_of: called for the candidates of boxes with several locations at the same distance.
    """
    xyxy, padded = _scaled(boxes, pyramid)
    number = len(xyxy)
    found = _Found(number)
    cells = (3 + math.isqrt(pyramid.topk - 1)) | 1  # a square of topk locations, and one more around it
    step = max(1, CHUNK // (cells * cells * len(pyramid.strides)))
    for start in range(0, number, step):
        _candidates(slice(start, start + step), xyxy, padded[boxes.image[start : start + step]], pyramid, cells, nearest_of, found)
    learnt, distances = _settle(found.positives, boxes.image, xyxy)

    causes = np.full(number, -1)
    order = {cause: index for index, cause in enumerate(Cause)}
    lost = np.flatnonzero(~learnt)
    crowded = lost[found.positive[lost]]
    causes[crowded] = order[Cause.CROWDED_OUT]
    causes[crowded[_has_twin(crowded, learnt, boxes.image, xyxy)]] = order[Cause.SAME_BOX]
    lost = lost[~found.positive[lost]]
    area = (xyxy[lost, 2] - xyxy[lost, 0]).astype(float) * (xyxy[lost, 3] - xyxy[lost, 1])
    size, anchors = np.sqrt(area), pyramid.anchors
    conditions = {
        Cause.ONE_CANDIDATE: found.single[lost],
        # the location nearest to a box's centre is a candidate, and if any lies inside the box it does
        Cause.NO_LOCATION_INSIDE: ~found.inside[lost],
        Cause.BEST_OUTSIDE: found.reaches[lost],
        Cause.BELOW_ANCHORS: size < anchors[0],
        Cause.ABOVE_ANCHORS: size >= anchors[-1],
        Cause.BETWEEN_ANCHORS: np.ones(len(lost), bool),
    }
    causes[lost] = np.select(list(conditions.values()), [order[cause] for cause in conditions], -1) if len(lost) else -1
    return Assignment(xyxy, causes, distances)


class _Found:
    """The outcome for the candidates of ``number`` boxes, and the positives: (box, location, IoU, stride, center x, center y) of each chunk."""

    def __init__(self, number: int) -> None:
        self.positive, self.inside = np.zeros(number, bool), np.zeros(number, bool)
        self.reaches, self.single = np.zeros(number, bool), np.zeros(number, bool)
        self.positives: list[tuple[Ints, Ints, Floats, Ints, Floats, Floats]] = []


def _scaled(boxes: Boxes, pyramid: Pyramid) -> tuple[Floats, Ints]:
    """Return (G, 4) boxes of the network input, and (N, 2) width and height of the padded images."""
    known: dict[tuple[float, float], tuple[int, int]] = {}
    sizes = [(float(width), float(height)) for width, height in boxes.sizes]
    scaled = np.array([known.setdefault(size, scaled_size(*size, pyramid.image_size)) for size in sizes], np.int64).reshape(-1, 2)
    factors = (scaled / boxes.sizes).astype(np.float32)  # whole px: the two differ a little
    limits = scaled.astype(np.float32)
    xyxy = boxes.xyxy * np.tile(factors, 2)[boxes.image]
    return np.clip(xyxy, 0, np.tile(limits, 2)[boxes.image]), -(-scaled // pyramid.pad_to) * pyramid.pad_to


def _axis(stride: int, count: int, anchor: np.float32) -> tuple[Floats, Floats, Floats]:
    """Return near side, far side and center of a level's anchors along one axis, px."""
    place = np.arange(count, dtype=np.float32) * np.float32(stride)
    near = (place - np.float32(0.5) * anchor).astype(np.float32, copy=False)
    far = (place + np.float32(0.5) * anchor).astype(np.float32, copy=False)
    return near, far, ((near + far) / np.float32(2)).astype(np.float32, copy=False)


def _candidates(
    chunk: slice, every: Floats, padded: Ints, pyramid: Pyramid, cells: int, nearest_of: NearestOf | None, found: _Found
) -> None:
    """Find the candidates of a chunk of boxes on all levels, and those that are positive."""
    xyxy = every[chunk]
    centers = (xyxy[:, :2] + xyxy[:, 2:]) / np.float32(2)
    levels = []
    for level, step in enumerate(pyramid.strides):
        counts = -(-padded // step)
        near, far, middle = _axis(step, int(counts.max(initial=1)), np.float32(step) * np.float32(pyramid.anchor_scale))
        col, row, real, tied = _nearest(centers, counts, middle, step, pyramid.topk, cells)
        if nearest_of:
            _untie(np.flatnonzero(tied), centers, counts, middle, nearest_of, (col, row))
        iou = _iou((near[col], near[row], far[col], far[row]), xyxy)
        x, y = middle[col], middle[row]
        sides = (x - xyxy[:, 0, None], y - xyxy[:, 1, None], xyxy[:, 2, None] - x, xyxy[:, 3, None] - y)
        inside = np.minimum(np.minimum(sides[0], sides[1]), np.minimum(sides[2], sides[3])) > np.float32(INSIDE_PX)
        location = (np.int64(level) << 40) | (row << 20) | col
        levels.append((iou, inside & real, real, location, np.full(iou.shape, step), x, y))
    iou, inside, real, location, stride, x, y = (np.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
    reaches = (iou >= _threshold(iou, real)[:, None]) & real
    positive = reaches & inside
    found.positive[chunk], found.inside[chunk], found.reaches[chunk] = positive.any(1), inside.any(1), reaches.any(1)
    found.single[chunk] = real.sum(1) == 1
    box, place = positive.nonzero()
    at = (box, place)
    found.positives.append((box + (chunk.start or 0), location[at], iou[at], stride[at], x[at], y[at]))


def _nearest(centers: Floats, counts: Ints, middle: Floats, stride: int, topk: int, cells: int) -> tuple[Ints, Ints, Flags, Flags]:
    """Return column and row of the ``topk`` locations of a level nearest to each box's center, and which of them exist: all (G, topk).

    The last result, (G,), is true if a further location is as near as the farthest of them.

    Args:
        centers: (G, 2) px.
        counts: (G, 2) columns and rows of the level.
        middle: px of the columns, and of the rows.
        cells: columns and rows around the center that are looked at. Boxes for which these are not surely enough are looked at
            again with twice as many.
    """
    across = []
    for axis in (0, 1):
        count = counts[:, axis]
        wide = min(cells, int(count.max(initial=1)))
        nearest = np.clip(np.rint(centers[:, axis] / stride).astype(np.int64), 0, count - 1)
        start = np.clip(nearest - wide // 2, 0, np.maximum(count - wide, 0))
        index = start[:, None] + np.arange(wide)
        real = index < count[:, None]
        index = np.minimum(index, len(middle) - 1)
        apart = middle[index] - centers[:, axis, None]
        before = np.where(start > 0, centers[:, axis] - middle[start - 1], np.inf)
        after = np.where(start + wide < count, middle[np.minimum(start + wide, len(middle) - 1)] - centers[:, axis], np.inf)
        across.append((index, real, apart * apart, np.minimum(before, after)))
    (cols, col_real, x2, beyond_x), (rows, row_real, y2, beyond_y) = across
    distance = np.sqrt(x2[:, None, :] + y2[:, :, None])
    distance[~(col_real[:, None, :] & row_real[:, :, None])] = np.inf
    distance = distance.reshape(len(centers), -1)
    many = min(topk, distance.shape[1])
    order = np.argsort(distance, axis=1, kind="stable")
    farthest = np.take_along_axis(distance, order[:, : many + 1], axis=1)
    tied = np.zeros(len(centers), bool)
    if farthest.shape[1] > many:
        tied = (farthest[:, many - 1] == farthest[:, many]) & np.isfinite(farthest[:, many])
    order, farthest = order[:, :many], farthest[:, :many]
    real = np.isfinite(farthest)
    beyond = np.minimum(beyond_x, beyond_y)
    col = np.take_along_axis(cols, order % cols.shape[1], axis=1)
    row = np.take_along_axis(rows, order // cols.shape[1], axis=1)
    if many < topk:
        gap = ((0, 0), (0, topk - many))
        col, row, real = np.pad(col, gap), np.pad(row, gap), np.pad(real, gap)
    short = np.flatnonzero((many < topk) & np.isfinite(beyond) | (np.isfinite(beyond) & ~(farthest[:, -1] < beyond)))
    cells = 2 * cells + 1
    step = max(1, CHUNK // cells**2)
    for again in (short[start : start + step] for start in range(0, len(short), step)):
        col[again], row[again], real[again], tied[again] = _nearest(centers[again], counts[again], middle, stride, topk, cells)
    return col, row, real, tied


def _untie(tied: Ints, centers: Floats, counts: Ints, middle: Floats, nearest_of: NearestOf, found: tuple[Ints, Ints]) -> None:
    """Put the columns and rows in ``found`` that ``nearest_of`` chooses for the boxes ``tied``, among all locations of the level."""
    col, row = found
    shapes, group = np.unique(counts[tied], axis=0, return_inverse=True)
    for number, (cols, rows) in enumerate(shapes.tolist()):
        own = tied[group.reshape(-1) == number]
        step = max(1, CHUNK // (cols * rows))
        for part in (own[start : start + step] for start in range(0, len(own), step)):
            x, y = middle[:cols] - centers[part, 0, None], middle[:rows] - centers[part, 1, None]
            distance = np.sqrt((x * x)[:, None, :] + (y * y)[:, :, None]).reshape(len(part), -1)
            index = nearest_of(distance, col.shape[1])
            col[part], row[part] = index % cols, index // cols


def _iou(anchor: tuple[Floats, Floats, Floats, Floats], xyxy: Floats) -> Floats:
    """Return (G, K) IoU of candidates and their boxes; the order of operations is that of ``detector/assign.py``."""
    x1, y1, x2, y2 = (xyxy[:, side, None] for side in range(4))
    anchor_area = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
    area = (x2 - x1) * (y2 - y1)
    zero = np.float32(0)
    width = np.maximum(np.minimum(anchor[2], x2) - np.maximum(anchor[0], x1), zero)
    height = np.maximum(np.minimum(anchor[3], y2) - np.maximum(anchor[1], y1), zero)
    overlap = width * height
    return overlap / np.maximum(anchor_area + area - overlap, np.float32(1e-6))


def _threshold(iou: Floats, real: Flags) -> NDArray[np.float64]:
    """Return (G,) mean + standard deviation of the IoU of the candidates that exist; not a number where there is only one."""
    wide = iou.astype(np.float64)
    many = real.sum(1)
    mean = np.where(real, wide, 0).sum(1) / many
    apart = np.where(real, wide - mean[:, None], 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return mean + np.sqrt(np.square(apart).sum(1) / (many - 1))


def _settle(positives: list[tuple[Ints, Ints, Floats, Ints, Floats, Floats]], image: Ints, xyxy: Floats) -> tuple[Flags, Floats]:
    """Give each location to the box of highest IoU; (G,) boxes that keep one, (P, 4) distances of sides in strides."""
    learnt: Flags = np.zeros(len(xyxy), bool)
    if not positives:
        return learnt, np.empty((0, 4), np.float32)
    box, location, iou, stride, x, y = (np.concatenate(parts) for parts in zip(*positives, strict=True))
    of_image = image[box]
    order = np.lexsort((box, -iou, location, of_image))
    first = np.ones(len(order), bool)
    first[1:] = (location[order][1:] != location[order][:-1]) | (of_image[order][1:] != of_image[order][:-1])
    won = order[first]
    learnt[box[won]] = True
    own, unit = xyxy[box[won]], stride[won, None].astype(np.float32)
    center = np.stack([x[won], y[won]], axis=1)
    distances = np.concatenate([center - own[:, :2], own[:, 2:] - center], axis=1) / unit
    return learnt, distances.astype(np.float32, copy=False)


def _has_twin(lost: Ints, learnt: Flags, image: Ints, xyxy: Floats) -> Flags:
    """Return which of the boxes ``lost`` have the coordinates of a learnt box of their image."""
    near = np.flatnonzero(np.isin(image, image[lost]) & learnt)
    known = set(zip(image[near].tolist(), map(tuple, xyxy[near].tolist()), strict=True))
    return np.array([(number, tuple(box)) in known for number, box in zip(image[lost].tolist(), xyxy[lost].tolist(), strict=True)], bool)
