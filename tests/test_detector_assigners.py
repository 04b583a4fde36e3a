"""Assigners beside ATSS: by hand, against mmdet's own classes image by image, in padded batches, and their settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gfl_lab.data.unassigned import why_not_analysed
from gfl_lab.detector.assigners import ASSIGNERS, Predictions, build_assigner, simota
from gfl_lab.detector.geometry import Geometry, make_geometry
from gfl_lab.detector.targets import GroundTruth
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import inactive
from tests.support.heads import CLASSES, THREE, batch, feats, make_head, metas

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.task_modules.assigners import MaxIoUAssigner, SimOTAAssigner, TaskAlignedAssigner, sim_ota_assigner
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.structures import InstanceData

CPU = torch.device("cpu")
SIZE, PADDED = (128, 160), [(128, 160), (64, 160), (96, 128)]
KINDS = ("crowded", "huge", "one", "none")


def geometry_of(strides: tuple[int, ...] = THREE, size: tuple[int, int] = SIZE, scale: int = 8) -> Geometry:
    generator = AnchorGenerator(strides=list(strides), ratios=[1.0], octave_base_scale=scale, scales_per_octave=1)
    return make_geometry(generator, [(-(-size[0] // s), -(-size[1] // s)) for s in strides], CPU)


def predictions_of(geometry: Geometry, truth: GroundTruth, generator: torch.Generator) -> Predictions:
    """Scores of any size, and boxes near the true ones or near the anchors."""
    images, locations = len(truth.boxes), len(geometry.priors)
    boxes = geometry.priors + torch.randn(images, locations, 4, generator=generator) * 6
    if truth.boxes.shape[1]:
        nearest = (geometry.centers[:, None] - (truth.boxes[..., :2] + truth.boxes[..., 2:])[:, None] / 2).abs().sum(3).argmin(2)
        near = truth.boxes.gather(1, nearest[..., None].expand(-1, -1, 4)) + torch.randn(images, locations, 4, generator=generator) * 4
        boxes = torch.where(torch.rand(images, locations, 1, generator=generator) < 0.5, near, boxes)
    return Predictions(torch.rand(images, locations, CLASSES, generator=generator) ** 2, boxes)


def by_mmdet(name: str, fields: dict[str, Any], geometry: Geometry, keep: Tensor, boxes: InstanceData, found: Predictions) -> Tensor:
    """What mmdet's class gives one image with these locations: 0 for background, i + 1 for box i, -1 where it does not count."""
    priors, counts = geometry.within(keep)
    given = InstanceData(priors=priors, scores=found.scores[keep], bboxes=found.boxes[keep])
    crowd = InstanceData(bboxes=torch.tensor([[0.0, 0, 200, 200]]), labels=torch.tensor([0]))  # ignored regions change nothing
    if name == "max_iou":
        names = {"positive": "pos_iou_thr", "negative": "neg_iou_thr", "low_quality": "match_low_quality", "least": "min_pos_iou"}
        stock = MaxIoUAssigner(**{names[key]: value for key, value in fields.items()}, ignore_iof_thr=-1)
        return stock.assign(given, boxes, crowd).gt_inds
    if name == "tal":
        return TaskAlignedAssigner(topk=fields["topk"]).assign(given, boxes, crowd, alpha=fields["alpha"], beta=fields["beta"]).gt_inds
    if name == "simota":
        given.priors = torch.cat([geometry.centers[keep], geometry.strides[keep, None].expand(-1, 2)], 1)
        return SimOTAAssigner(center_radius=fields["radius"], candidate_topk=fields["topk"]).assign(given, boxes, crowd).gt_inds
    ends = [fields["reach"] * stride for stride in geometry.level_strides[:-1]]
    ranges = tuple(zip([-1, *ends], [*ends, 1e8], strict=True))
    head = FCOSHead(99, 8, feat_channels=8, strides=list(geometry.level_strides), regress_ranges=ranges, norm_cfg=None,
                    center_sampling=fields["radius"] > 0, center_sample_radius=fields["radius"])  # fmt: skip
    numbered = InstanceData(bboxes=boxes.bboxes, labels=torch.arange(len(boxes.labels)))  # the label tells which box it is
    labels, targets = head.get_targets(list(geometry.centers[keep].split(counts)), [numbered])
    label, distances = torch.cat(labels), torch.cat(targets)
    own = label < 99
    centers = geometry.centers[keep][own]
    learned = torch.cat([centers - distances[own, :2], centers + distances[own, 2:]], 1)
    torch.testing.assert_close(learned, boxes.bboxes[label[own]], rtol=1e-5, atol=1e-4)
    return torch.where(own, label + 1, 0)


CASES = [
    ("fcos", {"radius": 1.5, "reach": 8.0}), ("fcos", {"radius": 0.0, "reach": 4.0}),
    ("max_iou", {"positive": 0.5, "negative": 0.4, "low_quality": True, "least": 0.0}),
    ("max_iou", {"positive": 0.4, "negative": 0.3, "low_quality": True, "least": 0.3}),
    ("max_iou", {"positive": 0.3, "negative": 0.3, "low_quality": False, "least": 0.0}),
    ("tal", {"alpha": 1.0, "beta": 6.0, "topk": 13}), ("tal", {"alpha": 0.5, "beta": 2.0, "topk": 4}),
    ("simota", {"topk": 10, "radius": 2.5}), ("simota", {"topk": 4, "radius": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize("shapes", [None, PADDED], ids=["one shape", "padded"])
@pytest.mark.parametrize(("name", "fields"), CASES, ids=[f"{name} {list(fields.values())}" for name, fields in CASES])
def test_is_mmdets(name: str, fields: dict[str, Any], shapes: list[tuple[int, int]] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # 100,000 beside a cost leaves float32 7 bits behind the point, and the choice among costs that are then equal is any
    monkeypatch.setattr(sim_ota_assigner, "INF", 1000.0)
    monkeypatch.setattr(simota, "FAR_COST", 1000.0)
    geometry, assigner = geometry_of(), build_assigner({"type": name, **fields})
    usable = geometry.usable(shapes or [SIZE] * 3)
    positives = ignored = 0
    for number, kind in enumerate(KINDS * 2):
        generator = torch.Generator().manual_seed(number)
        instances = batch(kind, SIZE, generator)
        truth = GroundTruth.pad(instances, CPU)
        found = predictions_of(geometry, truth, generator)
        assigned, counts = assigner.targets(geometry, truth, usable, found if assigner.needs_predictions else None)
        most = assigner.most(geometry)
        for image, boxes in enumerate(instances):
            keep = torch.arange(len(geometry.priors)) if usable is None else usable[image].nonzero()[:, 0]
            expected = by_mmdet(name, fields, geometry, keep, boxes, Predictions(found.scores[image], found.boxes[image]))
            ours = assigned[image, keep] + 1
            if counts is not None:
                ours = torch.where(counts[image, keep], ours, -1)
            assert torch.equal(ours, expected), (kind, image)
            others = torch.ones(len(geometry.priors), dtype=torch.bool).index_fill_(0, keep, False)
            assert (assigned[image, others] == -1).all() and (counts is None or not counts[image, others].any())
            per_box = torch.bincount(expected.clamp(min=0))[1:]
            assert most is None or (per_box <= most).all()
            positives, ignored = positives + int((expected > 0).sum()), ignored + int((expected < 0).sum())
    assert positives > 100 and (ignored > 0) == (name == "max_iou" and fields["negative"] < fields["positive"])


def one(boxes: list[list[float]], labels: list[int] | None = None) -> GroundTruth:
    return GroundTruth.pad([InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels or [0] * len(boxes)))], CPU)


def learned(name: str, truth: GroundTruth, found: Predictions | None = None, **fields: Any) -> dict[tuple[int, ...], int]:
    """{(x, y) of a location, px: its box} on strides 8 and 16 of 64 x 64 px."""
    geometry = geometry_of((8, 16), (64, 64))
    assigned = build_assigner({"type": name, **fields}).targets(geometry, truth, None, found).assigned[0]
    return {
        (int(level), *map(int, center)): int(box)
        for level, center, box in zip(geometry.levels, geometry.centers, assigned, strict=True)
        if box >= 0
    }


def test_fcos_by_hand() -> None:
    """The first level has distances of up to 24 px, the second those from 24 px on: the middle of a box of 48 px is both levels'."""
    small, large = [10.0, 10, 30, 30], [8.0, 8, 56, 56]
    assert learned("fcos", one([small, large]), radius=0.0, reach=3.0) == {
        **dict.fromkeys([(0, x, y) for x in (16, 24) for y in (16, 24)], 0),  # up to 14 px; the large box is larger
        (0, 32, 32): 1,
        **{(1, x, y): 1 for x in (16, 32, 48) for y in (16, 32, 48)},  # 24 to 40 px, from 24 on; the small box has 14
    }
    # 1 stride around (20, 20) and (32, 32): strictly inside 12 to 28, and inside 16 to 48
    near = learned("fcos", one([small, large]), radius=1.0, reach=3.0)
    assert near == {**dict.fromkeys([(0, x, y) for x in (16, 24) for y in (16, 24)], 0), (0, 32, 32): 1, (1, 32, 32): 1}


def test_max_iou_by_hand() -> None:
    """Anchors of 64 px at multiples of 8, and of 128 px at multiples of 16. The box is the anchor at (32, 32); 8 px aside is IoU 56/72."""
    truth = one([[0.0, 0, 64, 64]])
    found = learned("max_iou", truth, positive=0.75, negative=0.5, low_quality=False)
    assert found == dict.fromkeys([(0, 32, 32), (0, 24, 32), (0, 40, 32), (0, 32, 24), (0, 32, 40)], 0)
    thin = one([[30.0, 0, 34, 64]])  # IoU at most 4/64: all anchors of the first level that hold it, whose x is 8 to 56 (2 px to spare)
    assert learned("max_iou", thin) == {(0, x, 32): 0 for x in (8, 16, 24, 32, 40, 48, 56)}
    assert learned("max_iou", thin, least=0.2) == {} == learned("max_iou", one([[1000.0, 1000, 1010, 1010]])), "no anchor overlaps it"
    twice = learned("max_iou", one([[30.0, 0, 34, 64], [30.0, 0, 34, 64]]))
    assert set(twice.values()) == {1}, "the last one of equals"


def test_tal_and_simota_by_hand() -> None:
    """Three locations predict the box exactly, with scores 0.9, 0.8 and 0.5; a fourth, scored 0.95, half of it; one outside is exact."""
    geometry, truth = geometry_of((8, 16), (64, 64)), one([[4.0, 4, 36, 36]], [1])
    found = Predictions(torch.full((1, 80, CLASSES), 0.01), torch.zeros(1, 80, 4))
    at = {tuple(map(int, center)): place for place, center in enumerate(geometry.centers[:64])}
    for center, score, box in (
        ((16, 16), 0.9, [4.0, 4, 36, 36]), ((24, 16), 0.8, [4.0, 4, 36, 36]), ((16, 24), 0.5, [4.0, 4, 36, 36]),
        ((24, 24), 0.95, [4.0, 4, 20, 36]), ((48, 48), 0.99, [4.0, 4, 36, 36]),
    ):  # fmt: skip
        found.scores[0, at[center], 1], found.boxes[0, at[center]] = score, torch.tensor(box)
    # alignment 0.99, 0.9, 0.8, 0.5 and 0.95 / 64: the third of the three best lies outside
    assert learned("tal", truth, found, topk=3) == {(0, 16, 16): 0, (0, 24, 16): 0}
    assert learned("tal", truth, found, topk=9) == dict.fromkeys([(0, 16, 16), (0, 24, 16), (0, 16, 24), (0, 24, 24)], 0)
    # IoU 1 + 1 + 1 + 1/2 of the candidates: k is 3; (48, 48) is no candidate, neither inside nor 20 px from the middle
    assert learned("simota", truth, found) == dict.fromkeys([(0, 16, 16), (0, 24, 16), (0, 16, 24)], 0)
    assert learned("simota", truth, found, topk=2) == dict.fromkeys([(0, 16, 16), (0, 24, 16)], 0)


def test_what_needs_no_decoding_switch_sees_the_trained_boxes() -> None:
    """``decode: local_peak`` is a switch of the test: it changes no assignment."""
    generator = torch.Generator().manual_seed(3)
    maps, boxes, meta = feats(THREE, (96, 96), generator), batch("crowded", (96, 96), generator), metas(3, (96, 96))
    losses = []
    for decode in ("expectation", "local_peak"):
        head = make_head(decode=decode, assigner="tal")
        losses.append(head.loss_by_feat(*head(maps), batch_gt_instances=boxes, batch_img_metas=meta))
    assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0])


def test_settings() -> None:
    assert resolve_settings({"assigner": "atss"}) == resolve_settings({})
    own = {"fcos": {"fcos_radius", "fcos_reach"}, "tal": {"tal_alpha", "tal_beta", "tal_topk"}, "simota": {"simota_topk", "simota_radius"},
           "max_iou": {"max_iou_positive", "max_iou_negative", "max_iou_low_quality", "max_iou_least"}}  # fmt: skip
    assert own.keys() == ASSIGNERS.keys()
    everything = set().union(*own.values()) | {"atss_topk"}
    for name, keys in own.items():
        settings = resolve_settings({"assigner": name})
        assert everything & inactive(settings).keys() == everything - keys
        assert why_not_analysed(settings) == f"assigner is {name}: boxes without a location are counted for ATSS alone"
        assert set(ASSIGNERS[name].settings) == keys
    assert everything & inactive(resolve_settings({})).keys() == everything - {"atss_topk"}
    assert "max_iou_least" in inactive(resolve_settings({"assigner": "max_iou", "max_iou_low_quality": False}))
    with pytest.raises(ValueError, match=r"max_iou_negative is 0\.6, above max_iou_positive, 0\.5"):
        resolve_settings({"assigner": "max_iou", "max_iou_negative": 0.6})
