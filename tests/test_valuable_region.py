"""The second region of localisation distillation: which locations it has, their weights, and the term of the loss."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from gfl_lab.detector.build import build_detector
from gfl_lab.detector.distillation import Distillation, softened_divergence
from gfl_lab.detector.geometry import Geometry, make_geometry
from gfl_lab.detector.targets import GroundTruth
from gfl_lab.detector.valuable_region import valuable_region
from gfl_lab.spec.settings import Settings
from tests.support.trials import SMALL

Box = tuple[float, float, float, float]


def geometry_of(*sizes: int) -> Geometry:
    """Square levels of these sides, strides 8, 16, ...; anchors of 8 strides."""
    strides = [8 * 2**level for level in range(len(sizes))]
    config = {"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1, "strides": strides}
    generator = TASK_UTILS.build(config)
    return make_geometry(generator, [(side, side) for side in sizes], torch.device("cpu"))


def truth_of(*images: list[Box]) -> GroundTruth:
    instances = [InstanceData(bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long)) for boxes in images]
    return GroundTruth.pad(instances, torch.device("cpu"))


def test_the_region_of_a_box_by_hand() -> None:
    """A box of 64 px that is the middle anchor of 9 x 9, with the 3 x 3 around it as candidates.

    An anchor dx and dy px beside it overlaps it by o = (64 - dx)(64 - dy) and has IoU o / (8192 - o): 1; 4 times 0.7778; 4 times
    0.6203. Mean 0.7325 and standard deviation 0.1275 give t = 0.8600, and t / 4 = 0.2150.
    """
    (level,) = valuable_region(geometry_of(9), truth_of([(0.0, 0.0, 64.0, 64.0)]), None).view(1, 9, 9)
    assert level[4, 4] == 0, "DIoU 1 is above the threshold: a positive"
    assert level[4, 5] == pytest.approx(3584 / 4608), "DIoU 0.7778 - 64 / 9280 is below it; the weight is the IoU"
    assert level[5, 5] == pytest.approx(3136 / 5056)
    assert level[7, 6] == level[6, 7] == pytest.approx(1920 / 6272), "24 and 16 px: DIoU 0.3061 - 832 / 14144 = 0.2473"
    assert level[7, 7] == 0, "24 and 24 px: IoU 0.2427 is above t / 4, DIoU 0.2427 - 1152 / 15488 = 0.1683 below it"


def iou_and_diou(a: Box, b: Box) -> tuple[float, float]:
    def area(box: Box) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    overlap = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    iou = overlap / (area(a) + area(b) - overlap)
    return iou, iou - apart / hull


def written_out(geometry: Geometry, boxes: list[Box]) -> list[tuple[float, bool]]:
    """The weight of each location, and whether rounding may decide it."""
    weights, close = [0.0] * len(geometry.priors), [False] * len(geometry.priors)
    priors = [tuple(prior) for prior in geometry.priors.tolist()]
    for box in boxes:
        candidates: list[int] = []
        start = 0
        for count in geometry.num_level_priors:
            middles = torch.tensor([[(p[0] + p[2]) / 2, (p[1] + p[3]) / 2] for p in priors[start : start + count]])
            middle = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
            nearest = (middles - middle).square().sum(1).sqrt().topk(min(9, count), largest=False).indices.tolist()
            candidates += [start + place for place in nearest]
            start += count
        found = [iou_and_diou(priors[place], box)[0] for place in candidates]
        threshold = statistics.mean(found) + statistics.stdev(found)
        for place, prior in enumerate(priors):
            iou, diou = iou_and_diou(prior, box)
            close[place] |= min(abs(diou - threshold), abs(diou - threshold / 4)) < 1e-4
            if threshold / 4 <= diou < threshold:
                weights[place] = max(weights[place], iou)
    return list(zip(weights, close, strict=True))


coordinates = st.tuples(*(st.integers(0, 120) for _ in range(4))).map(
    lambda v: (float(min(v[0], v[1])), float(min(v[2], v[3])), max(v[0], v[1]) + 4.0, max(v[2], v[3]) + 4.0)
)


@settings(max_examples=40)
@given(st.lists(coordinates, max_size=3), st.lists(coordinates, max_size=3))
def test_it_is_the_formula_written_out_whatever_the_other_images_hold(first: list[Box], second: list[Box]) -> None:
    geometry = geometry_of(16, 8, 4)
    weight = valuable_region(geometry, truth_of(first, second), None)
    assert weight.dtype == torch.float32 and (weight >= 0).all() and (weight < 1).all()
    for row, boxes in zip(weight.tolist(), (first, second), strict=True):
        for value, (expected, close) in zip(row, written_out(geometry, boxes), strict=True):
            assert close or value == pytest.approx(expected, abs=1e-5)


def test_locations_outside_of_an_images_padded_shape_have_no_weight() -> None:
    geometry = geometry_of(16, 8, 4)
    truth = truth_of([(20.0, 20.0, 90.0, 90.0)], [(20.0, 20.0, 90.0, 90.0)])
    usable = geometry.usable([(128, 128), (64, 128)])
    assert usable is not None
    whole, part = valuable_region(geometry, truth, usable)
    assert (part > 0).any() and not part[~usable[1]].any() and whole[~usable[1]].any()


def batch() -> tuple[torch.Tensor, list[DetDataSample]]:
    """Two images, the second one padded and without a box."""
    samples = [DetDataSample(metainfo={"pad_shape": (height, 128), "img_shape": (height, 128)}) for height in (128, 96)]
    samples[0].gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 12.0, 60.0, 70.0], [50.0, 40.0, 110.0, 100.0]]), labels=torch.tensor([0, 2])
    )
    samples[1].gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return torch.randn(2, 3, 128, 128), samples


@pytest.mark.parametrize("padded", [False, True])
def test_the_term_of_the_loss_written_out(monkeypatch: pytest.MonkeyPatch, padded: bool) -> None:
    """As in the authors' code: over the sides of all locations, divergence times weight, divided by 16; here times 0.25 as ``ld_weight``."""
    monkeypatch.setattr("gfl_lab.detector.positives.ALWAYS_PADDED", padded)
    torch.manual_seed(0)
    student, teacher = (build_detector(Settings.model_validate(SMALL), 3) for _ in range(2))
    images, samples = batch()
    learner = Distillation(teacher, "ld", 10.0, 0.25, valuable=True)
    student.bbox_head.distillation = learner
    learner.look(images)
    maps = student.extract_feat(images)
    losses = student.bbox_head.loss(maps, samples)
    learner.valuable = False
    assert set(losses) - set(student.bbox_head.loss(maps, samples)) == {"loss_ld_vlr"}

    _, boxes = student.bbox_head(maps)
    geometry = student.bbox_head.geometry([level.shape[-2:] for level in boxes], images.device)
    truth = GroundTruth.pad([sample.gt_instances for sample in samples], images.device)
    weight = valuable_region(geometry, truth, geometry.usable([(128, 128), (96, 128)]))
    total = 0.0
    for image, place in weight.nonzero().tolist():
        sides = [torch.cat([level[image].flatten(1) for level in levels], 1)[:, place].view(4, -1) for levels in (boxes, learner._logits)]
        total += float(softened_divergence(sides[0].detach(), sides[1], 10.0).sum() * weight[image, place]) / 16
    assert total > 0 and losses["loss_ld_vlr"].item() == pytest.approx(0.25 * total, rel=1e-4)

    losses["loss_ld_vlr"].backward()
    gradient = student.bbox_head.gfl_reg.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_a_batch_without_a_box_learns_nothing_there_and_keeps_the_graph() -> None:
    student, teacher = (build_detector(Settings.model_validate(SMALL), 3) for _ in range(2))
    images, samples = batch()
    learner = Distillation(teacher, "ld", 10.0, 0.25, valuable=True)
    student.bbox_head.distillation = learner
    learner.look(images[1:])
    loss = student.bbox_head.loss(student.extract_feat(images[1:]), samples[1:])["loss_ld_vlr"]
    assert loss.item() == 0 and loss.requires_grad
