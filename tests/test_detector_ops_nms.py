"""Soft-NMS and the groups of NMS without a compiled mmcv: against mmcv's order of steps in plain loops, with many ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab.detector import mmcv_ops as ops

# isort: split
# after ours: mmcv.ops can be imported only once the operators are there
import mmcv.ops

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(not ops.is_installed(), reason="a compiled mmcv is installed")


def _iou(a: list[float], b: list[float], offset: float = 0) -> np.float32:
    """In float32, as mmcv's CPU operators compute: other roundings would break other ties."""
    (x1, y1, x2, y2), (u1, v1, u2, v2), one = np.float32(a), np.float32(b), np.float32(offset)
    both = max(np.float32(0), min(x2, u2) - max(x1, u1) + one) * max(np.float32(0), min(y2, v2) - max(y1, v1) + one)
    area = (x2 - x1 + one) * (y2 - y1 + one) + (u2 - u1 + one) * (v2 - v1 + one) - both
    return np.float32(both / area) if area else np.float32("nan")


def _soft(
    boxes: list[list[float]], scores: list[float], threshold: float, sigma: float, least: float, method: str, offset: int
) -> list[tuple[int, np.float32]]:
    """Index and score, in mmcv's order: the best box moves to the front, the last one to the place of a dropped one."""
    rows = [(index, np.float32(score)) for index, score in enumerate(scores)]
    front = 0
    while front < len(rows):
        best = max(range(front, len(rows)), key=lambda place: (rows[place][1], -place))
        rows[front], rows[best] = rows[best], rows[front]
        place = front + 1
        while place < len(rows):
            index, score = rows[place]
            iou = _iou(boxes[rows[front][0]], boxes[index], offset)
            if method == "gaussian":
                score *= np.exp(np.array([-(iou * iou) / np.float32(sigma)]))[0]
            elif iou >= np.float32(threshold):
                score *= np.float32(0) if method == "naive" else np.float32(1) - iou
            if score < np.float32(least):
                rows[place] = rows[-1]
                rows.pop()
            else:
                rows[place] = (index, score)
                place += 1
        front += 1
    return rows


_SIDE = st.sampled_from([0, 2, 4, 6, 8, 12])  # on a grid, so that overlaps and scores tie
_BOX = st.tuples(_SIDE, _SIDE, st.sampled_from([4, 8, 16]), st.sampled_from([4, 8, 16])).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
_SCORE = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(_BOX, _SCORE), min_size=1, max_size=14), st.sampled_from(["naive", "linear", "gaussian"]), st.sampled_from([0, 1])
)
def test_soft_nms_takes_the_steps_of_mmcv(rows: list[tuple[list[float], float]], method: str, offset: int) -> None:
    boxes, scores = [box for box, _ in rows], [score for _, score in rows]
    expected = _soft(boxes, scores, 0.31, 0.37, 0.06, method, offset)
    dets, inds = mmcv.ops.soft_nms(torch.tensor(boxes).float(), torch.tensor(scores), 0.31, 0.37, 0.06, method, offset)
    assert inds.tolist() == [index for index, _ in expected]
    assert dets[:, :4].tolist() == [boxes[index] for index, _ in expected]
    np.testing.assert_allclose(dets[:, 4].numpy(), [score for _, score in expected], rtol=1e-6)


def test_soft_nms_by_hand() -> None:
    boxes = np.array([[0, 0, 8, 8], [0, 0, 8, 4], [0, 0, 8, 8], [20, 20, 28, 28]], dtype=np.float32)
    scores = np.array([0.5, 0.9, 0.5, 0.5], dtype=np.float32)
    # box 1 first; its IoU with boxes 0 and 2 is 1/2, so they fall to 0.25, and box 3 leads; then 0 and 2 tie, and 2 lies first,
    # since 0 had to make room for 3; the rest of 0 is nothing
    dets, inds = mmcv.ops.soft_nms(boxes, scores, 0.3, min_score=0.1)
    assert inds.tolist() == [1, 3, 2]
    assert np.allclose(dets[:, 4], [0.9, 0.5, 0.25])


def test_boxes_without_area_stay() -> None:
    dets, inds = mmcv.ops.soft_nms(torch.zeros(2, 4), torch.tensor([0.5, 0.4]), 0.3)
    assert inds.tolist() == [0, 1] and dets[:, 4].tolist() == pytest.approx([0.5, 0.4])
    assert [group.tolist() for group in mmcv.ops.nms_match(torch.tensor([[1.0, 1, 1, 1, 0.5], [1, 1, 1, 1, 0.4]]), 0.3)] == [[0], [1]]


def test_nothing_to_suppress() -> None:
    for method in ("naive", "linear", "gaussian"):
        dets, inds = mmcv.ops.soft_nms(torch.zeros(0, 4), torch.zeros(0), method=method)
        assert dets.shape == (0, 5) and inds.shape == (0,) and inds.dtype == torch.int64
    assert mmcv.ops.nms_match(torch.zeros(0, 5), 0.5) == []


def test_batched_soft_nms_keeps_classes_apart() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 8, 8]]), torch.tensor([0.9, 0.8, 0.7])
    dets, kept = mmcv.ops.batched_nms(boxes, scores, torch.tensor([0, 1, 1]), {"type": "soft_nms", "iou_threshold": 0.5, "min_score": 0.05})
    assert kept.tolist() == [0, 1] and dets[:, 4].tolist() == pytest.approx([0.9, 0.8])


@settings(max_examples=60)
@given(st.lists(st.tuples(_BOX, _SCORE), min_size=1, max_size=14), st.sampled_from([0.25, 0.5, 1.0]))
def test_groups_are_those_of_greedy_suppression(rows: list[tuple[list[float], float]], threshold: float) -> None:
    left = sorted(range(len(rows)), key=lambda index: -rows[index][1])  # stable: ties keep their order
    expected = []
    while left:
        joins = [index for index in left[1:] if _iou(rows[left[0]][0], rows[index][0]) >= threshold]
        expected.append([left[0], *joins])
        left = [index for index in left[1:] if index not in joins]
    dets = torch.tensor([[*box, score] for box, score in rows])
    groups = mmcv.ops.nms_match(dets, threshold)
    assert [group.tolist() for group in groups] == expected and all(group.dtype == torch.int64 for group in groups)
