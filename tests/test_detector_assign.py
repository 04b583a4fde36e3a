"""Batched ATSS gives mmdet's answer for each image of any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab.detector.assign import UNASSIGNED, assign

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.task_modules import AnchorGenerator, ATSSAssigner
from mmengine.structures import InstanceData


def _priors(height: int, width: int, strides: tuple[int, ...], scale: float = 8.0) -> tuple[torch.Tensor, list[int]]:
    generator = AnchorGenerator(ratios=[1.0], octave_base_scale=scale, scales_per_octave=1, strides=list(strides))
    levels = generator.grid_priors([(-(-height // s), -(-width // s)) for s in strides], device="cpu")
    return torch.cat(levels), [len(level) for level in levels]


def _stock(priors: torch.Tensor, counts: list[int], boxes: torch.Tensor) -> torch.Tensor:
    labels = torch.zeros(len(boxes), dtype=torch.long)
    result = ATSSAssigner(topk=9).assign(InstanceData(priors=priors), counts, InstanceData(bboxes=boxes, labels=labels))
    return result.gt_inds - 1


def _check(priors: torch.Tensor, counts: list[int], images: list[torch.Tensor]) -> torch.Tensor:
    widest = max(len(boxes) for boxes in images)
    padded = torch.zeros(len(images), widest, 4)
    valid = torch.zeros(len(images), widest, dtype=torch.bool)
    for row, boxes in enumerate(images):
        padded[row, : len(boxes)], valid[row, : len(boxes)] = boxes, True
    before = padded.clone()
    ours = assign(priors, counts, padded, valid)
    assert torch.equal(padded, before)
    assert ours.shape == (len(images), len(priors)) and ours.dtype == torch.long
    for row, boxes in enumerate(images):
        assert torch.equal(ours[row], _stock(priors, counts, boxes)), f"image {row} with {len(boxes)} boxes"
    return ours


def _boxes(
    count: int, size: float, generator: torch.Generator, grid: float = 0.0, smallest: float = 2.0, largest: float = 1.0
) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * size * 0.9
    boxes = torch.cat([corner, corner + smallest + torch.rand(count, 2, generator=generator) * size * largest], dim=1)
    return (boxes / grid).round() * grid if grid else boxes


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64, 128), (4, 8)])
@pytest.mark.parametrize("grid", [0.0, 1.0, 4.0], ids=["real", "whole pixels", "multiples of 4 (ties)"])
def test_random_batches(strides: tuple[int, ...], grid: float) -> None:
    generator = torch.Generator().manual_seed(len(strides) * 10 + int(grid))
    priors, counts = _priors(128, 160, strides)
    for _ in range(4):
        numbers = torch.randint(0, 12, (6,), generator=generator).tolist()
        ours = _check(priors, counts, [_boxes(n, 128, generator, grid, smallest=4) for n in numbers])
        assert (ours != UNASSIGNED).any()


def test_one_level() -> None:
    generator = torch.Generator().manual_seed(2)
    priors, counts = _priors(128, 160, (16,), scale=2.0)  # boxes of 28 to 54 px neither hold nor lie in all 9 anchors of 32 px
    for grid in (0.0, 2.0):
        _check(priors, counts, [_boxes(n, 128, generator, grid, smallest=28, largest=0.2) for n in (0, 1, 5, 20)])


@pytest.mark.parametrize("numbers", [[0], [1], [0, 0], [0, 1, 3], [1, 1, 1], [60, 1, 0]])
def test_few_and_many_boxes(numbers: list[int]) -> None:
    generator = torch.Generator().manual_seed(3)
    priors, counts = _priors(128, 128, (8, 16, 32))
    for grid in (0.0, 8.0):
        _check(priors, counts, [_boxes(n, 128, generator, grid, smallest=8) for n in numbers])


def test_no_boxes_assign_nothing() -> None:
    priors, counts = _priors(64, 64, (8, 16))
    assert (assign(priors, counts, torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.bool)) == UNASSIGNED).all()


def test_crowd_in_one_place() -> None:
    generator = torch.Generator().manual_seed(5)
    priors, counts = _priors(128, 128, (8, 16, 32))
    base = torch.tensor([30.0, 30.0, 70.0, 80.0])
    ours = _check(priors, counts, [base + torch.randn(40, 4, generator=generator) * 3, base.repeat(5, 1)])
    assert set(ours[1].tolist()) == {UNASSIGNED, 0}  # of equal boxes the first wins


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (8, 8), (64, 16)])
def test_levels_with_fewer_priors_than_candidates(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(7)
    priors, counts = _priors(*size, (8, 16, 32))
    assert min(counts) < 9
    _check(priors, counts, [_boxes(n, 30, generator, grid) for n in (0, 1, 4) for grid in (0.0, 2.0)])


def test_boxes_beyond_the_image() -> None:
    generator = torch.Generator().manual_seed(9)
    priors, counts = _priors(96, 96, (8, 16, 32, 64, 128))
    huge = torch.tensor(
        [[-200.0, -150.0, 400.0, 380.0], [-20.0, 10.0, 300.0, 40.0], [90.0, 90.0, 500.0, 500.0], [500.0, 500.0, 600.0, 600.0]]
    )
    _check(priors, counts, [huge, huge[:1], _boxes(5, 96, generator, largest=4), huge[3:]])


def test_small_boxes_on_one_level_where_every_candidate_has_the_same_iou() -> None:
    """Standard deviation 0: every candidate reaches the mean. (mmdet's rounding decides box by box.)"""
    generator = torch.Generator().manual_seed(11)
    priors, counts = _priors(128, 128, (8,))
    for count in (1, 2, 3, 7, 40):
        corner = 40 + torch.rand(count, 1, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + 17 + torch.rand(count, 1, 2, generator=generator)], 2)
        for images in (boxes, boxes.view(1, count, 4)):
            ours = assign(priors, counts, images, torch.ones(images.shape[:2], dtype=torch.bool))
            alone = assign(priors, counts, boxes, torch.ones(count, 1, dtype=torch.bool))
            assert ((alone >= 0).sum(1) >= 4).all()  # 9 candidates on a grid of 8 px, those inside 17 px
            assert torch.equal((ours >= 0).any(0), (alone >= 0).any(0))


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64, 128), (4, 8)])
def test_images_of_other_sizes_in_one_batch(strides: tuple[int, ...]) -> None:
    """Priors that an image does not have are no candidates, also where it has fewer than candidates are wanted."""
    generator = torch.Generator().manual_seed(13)
    height, width = 128, 160
    priors, counts = _priors(height, width, strides)
    level = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    corner = (priors[:, :2] + priors[:, 2:]) / 2
    shapes = [(128, 160), (96, 160), (128, 33), (40, 40), (8, 8), (64, 128)]
    usable = torch.stack([(corner[:, 0] < w) & (corner[:, 1] < h) for h, w in shapes])
    for _ in range(5):
        images = [_boxes(n, min(shape), generator, smallest=4) for n, shape in zip((7, 3, 5, 2, 1, 0), shapes, strict=True)]
        padded, valid = torch.zeros(len(images), 7, 4), torch.zeros(len(images), 7, dtype=torch.bool)
        for row, boxes in enumerate(images):
            padded[row, : len(boxes)], valid[row, : len(boxes)] = boxes, True
        ours = assign(priors, counts, padded, valid, usable=usable)
        assert (ours[~usable] == UNASSIGNED).all()
        for row, boxes in enumerate(images):
            own = usable[row]
            stock = _stock(priors[own], torch.bincount(level[own], minlength=len(counts)).tolist(), boxes)
            assert torch.equal(ours[row, own], stock), f"an image of {shapes[row]} with {len(boxes)} boxes"
    everything = torch.ones(len(images), len(priors), dtype=torch.bool)
    assert torch.equal(assign(priors, counts, padded, valid, usable=everything), assign(priors, counts, padded, valid))


def test_hand_worked() -> None:
    """One level of stride 8 on a 24x24 image, anchors of 16 px, a box that is the middle anchor: it alone passes.

    IoU with the middle is 1, with its four neighbours 1/3, with the corners 1/7: mean 0.3228, standard deviation 0.2671.
    """
    priors, counts = _priors(24, 24, (8,), scale=2.0)
    ours = assign(priors, counts, priors[None, None, 4], torch.ones(1, 1, dtype=torch.bool))
    assert ours[0].tolist() == [-1, -1, -1, -1, 0, -1, -1, -1, -1]


@given(st.data())
@settings(max_examples=60)
def test_any_batch(data: st.DataObject) -> None:
    strides = data.draw(st.sampled_from([(8, 16, 32), (8, 16, 32, 64), (16, 32)]))
    height, width = data.draw(st.integers(1, 6)) * 16, data.draw(st.integers(1, 6)) * 16
    priors, counts = _priors(height, width, strides)
    coordinate = st.integers(-16, 200).map(lambda v: v / 2)
    box = st.tuples(coordinate, coordinate, st.integers(1, 160), st.integers(1, 160)).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    images = data.draw(st.lists(st.lists(box, max_size=5), min_size=1, max_size=4))
    _check(priors, counts, [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in images])
