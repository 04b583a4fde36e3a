"""Matching of detections to ground truth, as COCO does it (pycocotools, ``COCOeval``), for all images and classes at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gfl_lab.metrics.coco_ap import IOUS, Matches
from gfl_lab.metrics.coco_records import Records

AREAS: Mapping[str, tuple[float, float]] = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Ranges of a box's area in square pixels, both ends included."""


def match(records: Records, area: str = "all") -> Matches:
    """Match detections to ground truth, image by image and class by class, as COCOeval does.

    In the order of their scores, each detection takes the free box of its class that it overlaps most, if their IoU reaches
    the threshold; a box that does not count (crowd, outside the area range) only when there is no other, and crowds by any
    number of detections.
    """
    low, high = AREAS[area]
    image_ids = np.unique(records.image_ids)
    classes = len(records.classes)

    def group(image: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.searchsorted(image_ids, image) * classes + label

    det_group = group(records.det_image, records.det_label)
    order = np.lexsort((-records.det_score.astype(np.float64), det_group))
    rank = _rank(det_group[order])
    order = order[rank < records.max_dets]
    det_group, rank = det_group[order], rank[rank < records.max_dets]
    det_box = records.det_box[order].astype(np.float64)
    det_area = (det_box[:, 2:] - det_box[:, :2]).prod(axis=1) if records.det_area is None else records.det_area[order]

    kept = np.isin(records.gt_image, image_ids)
    gt_index = np.flatnonzero(kept)
    gt_ignored = records.gt_crowd[kept] | (records.gt_area[kept] < low) | (records.gt_area[kept] > high)
    gt_group = group(records.gt_image[kept], records.gt_label[kept])
    gt_order = np.lexsort((gt_ignored, gt_group))
    gt_index, gt_group, gt_ignored = gt_index[gt_order], gt_group[gt_order], gt_ignored[gt_order]

    taken, met_ignored = _match_groups(
        det_group, rank, det_box, gt_group, records.gt_box[gt_index].astype(np.float64), gt_ignored, records.gt_crowd[gt_index]
    )
    outside = (det_area < low) | (det_area > high)
    ignored = met_ignored | ((taken < 0) & outside)
    box = np.where(taken >= 0, np.append(gt_index, -1)[taken], -1)

    label = records.det_label[order]
    score = records.det_score[order]
    ranking = np.lexsort((det_group, -score.astype(np.float64), label))  # ties in the order of images, as COCO's stable sort has them
    return Matches(
        image_ids=image_ids,
        image=det_group[ranking] // max(1, classes),
        label=label[ranking],
        score=score[ranking],
        index=order[ranking],
        box=box[:, ranking],
        ignored=ignored[:, ranking],
        gt_image=gt_group[~gt_ignored] // max(1, classes),
        gt_label=gt_group[~gt_ignored] % max(1, classes),
        classes=classes,
    )


def _rank(group: np.ndarray) -> np.ndarray:
    """Return the position of each element in its run of equal values."""
    if not len(group):
        return np.zeros(0, np.int64)
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    return np.arange(len(group)) - np.repeat(first, np.diff(np.r_[first, len(group)]))


def _match_groups(
    det_group: np.ndarray, det_rank: np.ndarray, det_box: np.ndarray, gt_group: np.ndarray, gt_box: np.ndarray, gt_ignored: np.ndarray, gt_crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Match greedily in all groups (an image and a class) at once, rank by rank.

    Groups come with ascending numbers, detections in them by rank, boxes in them with the ignored ones last. Groups of like
    numbers of boxes are padded to one width.

    Returns:
        (T, D) index of the box taken, -1 for none; (T, D) whether that box is ignored.
    """
    thresholds = np.minimum(IOUS, 1 - 1e-10)
    taken = np.full((len(thresholds), len(det_group)), -1, np.int64)
    met_ignored = np.zeros(taken.shape, bool)
    groups, gt_start, gt_count = np.unique(gt_group, return_index=True, return_counts=True)
    det_start = np.searchsorted(det_group, groups)
    det_count = np.searchsorted(det_group, groups, side="right") - det_start
    width = 1 << np.ceil(np.log2(np.maximum(gt_count, 1))).astype(int)
    for padded in np.unique(width):
        members = np.flatnonzero((width == padded) & (det_count > 0))
        members = members[np.argsort(-det_count[members], kind="stable")]
        if not len(members):
            continue
        column = np.arange(padded)
        there = column < gt_count[members, None]  # (n, P)
        index = np.where(there, gt_start[members, None] + column, 0)
        boxes, crowd = gt_box[index], gt_crowd[index] & there
        shut = there & gt_ignored[index]
        free = np.repeat(there[:, None], len(thresholds), axis=1)  # (n, T, P)
        for step in range(int(det_count[members[0]])):
            active = int(np.searchsorted(-det_count[members], -step, side="left"))  # groups that have a detection of this rank
            at = det_start[members[:active]] + step
            iou = _iou(det_box[at], boxes[:active], crowd[:active])[:, None]  # (n, 1, P)
            can = free[:active] & (iou >= thresholds[:, None])
            counting = can & ~shut[:active, None]
            use = np.where(counting.any(-1, keepdims=True), counting, can)
            found = use.any(-1)
            # The last one of equal overlaps, as in COCOeval's loop.
            best = padded - 1 - np.where(use, iou, -1.0)[..., ::-1].argmax(-1)
            row, level = np.nonzero(found)
            chosen = best[row, level]
            taken[level, at[row]] = index[row, chosen]
            met_ignored[level, at[row]] = shut[row, chosen]
            free[row, level, chosen] = crowd[row, chosen]
    return taken, met_ignored


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (N, M) IoU of (N, 4) with (M, 4) boxes, xyxy."""
    return _iou(boxes.astype(np.float64), np.broadcast_to(others, (len(boxes), *others.shape)), np.zeros((len(boxes), len(others)), bool))


def _iou(det: np.ndarray, gt: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return IoU of (n, 4) detections with (n, P, 4) boxes, xyxy; over a crowd the share of the detection that lies in it."""
    det = det[:, None]
    det_size, gt_size = det[..., 2:] - det[..., :2], gt[..., 2:] - gt[..., :2]
    inner = np.minimum(det[..., 2:], gt[..., 2:]) - np.maximum(det[..., :2], gt[..., :2])
    shared = np.where((inner > 0).all(-1), inner.prod(-1), 0.0)
    det_area = det_size.prod(-1)
    union = np.where(crowd, det_area, det_area + gt_size.prod(-1) - shared)
    return shared / np.where(union > 0, union, 1.0)
