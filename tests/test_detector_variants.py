"""Every variant of the head: what its terms are, by formulas written apart from it; precision; and the switches at test."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gfl_lab.detector import losses
from gfl_lab.detector.assign import UNASSIGNED
from gfl_lab.detector.qualities import QUALITIES
from gfl_lab.detector.qualities.dgqp import distribution_statistics, predictor
from gfl_lab.detector.targets import GroundTruth

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.dense_heads import GFLHead
from mmdet.models.losses import CrossEntropyLoss, FocalLoss
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from tests.support.heads import CLASSES, FIVE, THREE, batch, common, feats, make_head, metas, new_head, samples

torch.set_num_threads(1)
SIZE = (96, 96)

VARIANTS: list[dict[str, Any]] = [
    {"quality": quality, "box": box}
    for quality, box in itertools.product(QUALITIES, ("general", "gaussian", "dirac_delta"))
    if quality != "dgqp" or box == "general"
]
VARIANTS += [
    {"quality": "centerness", "box": "dirac_distance"},
    {"quality": "centerness", "box": "gaussian", "gaussian_box_loss": True},
    {"quality": "joint", "box_loss": "ciou"},
    {"quality": "joint", "box_loss": "iou"},
    {"quality": "joint", "box_loss": "diou", "box_weighting": "iou"},
    {"quality": "joint", "dfl_weight": 0.0, "tower_bias": True},
    {"quality": "iou_guided", "guided_renormalise": True, "guided_eta": 1.5},
    {"quality": "joint", "decode": "local_peak"},
    {"quality": "joint", "box": "direct", "cls_loss": {"type": "varifocal", "alpha": 0.5, "gamma": 1.5}},
    {"quality": "centerness", "box": "direct", "assigner": "fcos"},
    {"quality": "none", "assigner": "max_iou"},
    {"quality": "joint", "assigner": "tal"},
    {"quality": "dgqp", "assigner": "simota"},
    {"quality": "dgqp", "dgqp_form": "composed"},
    {"quality": "dgqp", "box": "weighted", "dgqp_variance": True},
    {"quality": "dgqp", "dgqp_detach": True, "dgqp_topk": 0, "dgqp_variance": True},
]
HOST_COUNTS = ("max_iou",)
"""Assigners whose positives a GPU has to count for the host: any number of anchors can overlap a box most."""
IDS = [" ".join(str(value) for value in variant.values()) for variant in VARIANTS]


def _inputs(kind: str = "crowded", strides: tuple[int, ...] = THREE) -> tuple[tuple[Tensor, ...], list[InstanceData], list[dict]]:
    generator = torch.Generator().manual_seed(3)
    return feats(strides, SIZE, generator), batch(kind, SIZE, generator), metas(3, SIZE)


def _loss(head: torch.nn.Module, kind: str = "crowded") -> dict[str, Tensor]:
    maps, instances, meta = _inputs(kind)
    return head.loss(maps, samples(instances, meta))


def _positives(head: torch.nn.Module, instances: list[InstanceData], meta: list[dict]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, location, label and box of each positive, by the assignment that test_detector_assign proves."""
    sizes = [(-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in THREE]
    geometry = head.geometry(sizes, torch.device("cpu"))
    truth = GroundTruth.pad(instances, torch.device("cpu"))
    boxes, labels = truth.boxes, truth.labels
    assigned = head.targets(geometry, truth, meta).assigned
    image, location = (assigned != UNASSIGNED).nonzero(as_tuple=True)
    index = assigned[image, location]
    return image, location, labels[image, index], boxes[image, index]


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_trains_with_and_without_boxes(variant: dict[str, Any]) -> None:
    head = make_head(**variant)
    box, quality = variant.get("box", "general"), variant["quality"]
    expected = {"loss_cls"} | ({f"loss_{quality}"} if quality in ("centerness", "iou") else set())
    expected |= {"loss_bbox"} if box != "gaussian" or variant.get("gaussian_box_loss") else set()
    expected |= {"loss_gaussian"} if box == "gaussian" else set()
    expected |= {"loss_dfl"} if box in ("general", "weighted") and variant.get("dfl_weight", 1) else set()
    for kind in ("crowded", "one", "none"):
        terms = _loss(head, kind)
        assert terms.keys() == expected
        head.zero_grad()
        sum(terms.values()).backward()
        for name, parameter in head.named_parameters():  # each has one, so that DDP never waits
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if kind == "none":
            assert all(value.item() == 0 for name, value in terms.items() if name != "loss_cls")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_autocast(variant: dict[str, Any], dtype: torch.dtype) -> None:
    """A step under autocast: float32 losses near the exact ones, finite gradients, float32 detections."""
    head = make_head(**variant)
    exact = _loss(head)
    with torch.autocast("cpu", dtype):
        rough = _loss(head)
    sum(rough.values()).backward()
    for name, value in rough.items():
        assert value.dtype == torch.float32 and torch.isfinite(value)
        torch.testing.assert_close(value, exact[name], rtol=0.06, atol=2e-2)
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
    maps, _, meta = _inputs()
    with torch.autocast("cpu", dtype), torch.no_grad():
        found = head.eval().predict(maps, samples([InstanceData()] * 3, meta))
    assert len(found[0]) and found[0].bboxes.dtype == found[0].scores.dtype == torch.float32


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_dense_outputs_agree_with_detections(variant: dict[str, Any]) -> None:
    head = make_head(**variant | ({} if variant.get("box") == "weighted" else {"bin_width": 0.5})).eval()
    maps, _, meta = _inputs()
    with torch.no_grad():
        outs = head(maps)
        dense = head.dense_outputs(outs, meta)
        head.test_cfg.score_thr, head.test_cfg.nms_pre = 0.1, -1
        assert (dense.probs is None) == (variant.get("box", "general").startswith("dir"))
        if dense.probs is not None:
            torch.testing.assert_close(dense.probs.sum(-1), torch.ones(dense.probs.shape[:-1]))
        checked = 0
        for image, result in enumerate(head.predict_by_feat(*outs, batch_img_metas=meta)):
            for score, label, found in zip(result.scores, result.labels, result.bboxes, strict=True):
                here = (dense.scores[image, :, label] - score).abs() < 1e-6
                assert (dense.boxes[image, here] - found).abs().amax(1).min() < 1e-3
                checked += 1
    assert checked > 5


def test_score_is_class_times_quality() -> None:
    maps, _, meta = _inputs()
    for quality in ("centerness", "iou", "dgqp"):
        head = make_head(quality=quality).eval()
        outs = head(maps)
        classes, factor = (torch.cat([level.flatten(2) for level in outs[i]], 2).transpose(1, 2).sigmoid() for i in (0, 2))
        torch.testing.assert_close(head.dense_outputs(outs, meta).scores, classes * factor)


def test_threshold_of_dgqp_acts_on_the_product_and_of_a_branch_on_the_class() -> None:
    maps, _, meta = _inputs()
    for quality, least in (("dgqp", 0.3), ("centerness", 0.0)):
        head = make_head(quality=quality).eval()
        torch.nn.init.constant_((head.reg_conf[2] if quality == "dgqp" else head.gfl_quality).bias, -1.5)  # quality near 0.2
        torch.nn.init.constant_(head.gfl_cls.bias, 1.0)
        head.test_cfg.score_thr = 0.3
        with torch.no_grad():
            scores = torch.cat([result.scores for result in head.predict_by_feat(*head(maps), batch_img_metas=meta)])
        assert (scores >= least).all() and (quality == "dgqp" or (scores < 0.3).any())


# --- quality -----------------------------------------------------------------------------------------


def test_dgqp_loss_is_stock_qfl_on_the_product_as_a_probability() -> None:
    """mmdet's GFLHead with QFL in its form for probabilities, fed with the product; its box weight would take a second sigmoid."""
    head = make_head(FIVE, quality="dgqp")
    loss_cls = {"type": "QualityFocalLoss", "use_sigmoid": True, "activated": True, "beta": 2.0, "loss_weight": 1.0}
    stock = GFLHead(**common(FIVE, loss_cls=loss_cls, loss_bbox={"type": "GIoULoss", "loss_weight": 2.0}))
    for kind in ("none", "one", "crowded", "huge"):
        maps, instances, meta = _inputs(kind, FIVE)
        maps = [level.requires_grad_() for level in maps]
        classes, boxes, quality = head(maps)
        joint = [c.sigmoid() * q.sigmoid() for c, q in zip(classes, quality, strict=True)]
        ours = head.loss_by_feat(classes, boxes, quality, batch_gt_instances=instances, batch_img_metas=meta)["loss_cls"]
        theirs = sum(stock.loss_by_feat(joint, boxes, instances, meta)["loss_cls"])
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        outputs = [*classes, *quality]
        for a, b in zip(*(torch.autograd.grad(loss, outputs, retain_graph=True) for loss in (ours, theirs)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_dgqp_weighs_boxes_by_the_best_product() -> None:
    head = make_head(quality="dgqp", dfl_weight=0.25)
    maps, instances, meta = _inputs()
    outs = head(maps)
    classes, boxes, quality = (torch.cat([level.flatten(2) for level in levels], 2) for levels in outs)
    image, location, _, targets = _positives(head, instances, meta)
    weight = (classes.sigmoid() * quality.sigmoid())[image, :, location].amax(1)
    geometry = head.geometry([level.shape[-2:] for level in maps], torch.device("cpu"))
    _, _, dfl = head.fit_boxes(boxes[image, :, location], geometry, location, targets)
    terms = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)
    assert weight.sum() > 1
    torch.testing.assert_close(terms["loss_dfl"], 0.25 * (dfl * weight).sum() / weight.sum())


def test_gradient_of_the_quality_reaches_the_distribution_unless_detached() -> None:
    for detach in (False, True):
        head = make_head(quality="dgqp", dgqp_detach=detach)
        gradient = torch.autograd.grad(_loss(head)["loss_cls"], head.gfl_reg.weight, allow_unused=True)[0]
        assert (gradient is None or not gradient.any()) if detach else gradient.abs().max() > 1e-6


def test_dgqp_statistics_by_hand() -> None:
    """Two bins of 0.5 and 0.25 + 0.25: order per side is top-k, mean of the top-k, variance over n squared."""
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.5, 0.5]])
    logits = probs.clamp(min=1e-30).log().reshape(1, 12, 1, 1)
    seen = distribution_statistics(logits, 2, topk=2, mean=True, variance=True).reshape(4, 4)
    means = probs @ torch.tensor([0.0, 1, 2])
    variance = (probs * (torch.tensor([0.0, 1, 2]) - means[:, None]) ** 2).sum(1) / 4
    top = torch.tensor([[0.5, 0.25], [0.8, 0.1], [1 / 3, 1 / 3], [0.5, 0.5]])
    torch.testing.assert_close(seen, torch.cat([top, top.mean(1, keepdim=True), variance[:, None]], 1), atol=1e-6, rtol=1e-5)
    only_mean = distribution_statistics(logits, 2, topk=0, mean=True, variance=False)
    torch.testing.assert_close(only_mean, torch.full((1, 4, 1, 1), 1 / 3))


def test_dgqp_parameters() -> None:
    assert sum(p.numel() for p in predictor(20, 64, composed=False).parameters()) == 1409
    names = {name for name, _ in predictor(20, 64, composed=False).named_parameters()}
    assert names == {"0.weight", "0.bias", "2.weight", "2.bias"}
    head = make_head(quality="dgqp")
    assert head.reg_conf[0].weight.shape == (64, 20, 1, 1) and head.reg_conf[2].weight.shape == (1, 64, 1, 1)
    assert make_head(quality="dgqp", dgqp_form="composed").gfl_cls.weight.shape == (CLASSES, 64 + 64, 3, 3)


def test_initial_scores_of_gflv2() -> None:
    """Class prior 0.01 and a quality near a half."""
    head = new_head(THREE, quality="dgqp")
    head.init_weights()
    maps, _, meta = _inputs()
    assert head.dense_outputs(head(maps), meta).scores.mean().item() == pytest.approx(0.0051, abs=4e-4)


def test_iou_branch_learns_the_iou_on_positives() -> None:
    head = make_head(quality="iou", quality_weight=0.5)
    maps, instances, meta = _inputs()
    outs = head(maps)
    image, location, _, targets = _positives(head, instances, meta)
    branch = torch.cat([level.flatten(2) for level in outs[2]], 2)[image, 0, location]
    dense = head.dense_outputs(outs, [{"img_shape": (10**6, 10**6)}] * 3)
    unclipped = (
        torch.cat([dense.centers, dense.centers], 1)[location]
        + dense.distances[image, location] * torch.tensor([-1.0, -1, 1, 1]) * dense.strides[location, None]
    )
    iou = losses.iou_and_giou(unclipped, targets)[0]
    per_image = torch.bincount(image, minlength=3).clamp(min=1).sum()
    expected = 0.5 * CrossEntropyLoss(use_sigmoid=True)(branch[:, None], iou[:, None], avg_factor=per_image)
    terms = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)
    torch.testing.assert_close(terms["loss_iou"], expected, rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(terms["loss_iou"], head.gfl_reg.weight, allow_unused=True, retain_graph=True)[0] is None
    # and its box loss is the plain mean over positives
    giou = losses.iou_and_giou(unclipped, targets)[1]
    torch.testing.assert_close(terms["loss_bbox"], 2 * (1 - giou).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("quality", "eta", "renormalise"), [("iou_guided", 1.0, False), ("centerness_guided", 1.5, False), ("iou_guided", 1.5, True)])  # fmt: skip
def test_guided_classification_weighs_positives(quality: str, eta: float, renormalise: bool) -> None:
    """mmdet's focal loss with sample weights: 1 for a negative, quality^eta for a positive, rescaled where asked for."""
    head = make_head(quality=quality, guided_eta=eta, guided_renormalise=renormalise)
    maps, instances, meta = _inputs()
    outs = head(maps)
    logits = torch.cat([level.flatten(2) for level in outs[0]], 2).transpose(1, 2)
    image, location, labels, targets = _positives(head, instances, meta)
    geometry = head.geometry([level.shape[-2:] for level in maps], torch.device("cpu"))
    predictions = torch.cat([level.flatten(2) for level in outs[1]], 2)[image, :, location]
    boxes, in_unit, _ = head.fit_boxes(predictions, geometry, location, targets)
    weighed = (
        losses.iou_and_giou(boxes, in_unit)[0] if quality == "iou_guided" else losses.centerness_target(geometry.centers[location], targets)
    )
    target = torch.full(logits.shape[:2], CLASSES)
    target[image, location] = labels
    focal = FocalLoss(use_sigmoid=True)
    of_positives = focal(logits[image, location], labels, reduction_override="none").sum(1)
    weight = torch.ones(logits.shape[:2])
    weight[image, location] = weighed.detach() ** eta
    if renormalise:
        weight[image, location] *= of_positives.sum().detach() / (of_positives * weight[image, location]).sum().detach()
    per_image = torch.bincount(image, minlength=3).clamp(min=1).sum()
    expected = focal(logits.reshape(-1, CLASSES), target.flatten(), weight=weight.flatten(), avg_factor=per_image)
    ours = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)["loss_cls"]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(*(torch.autograd.grad(loss, list(outs[0]), retain_graph=True) for loss in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_eta_0_is_no_quality() -> None:
    none, guided = _loss(make_head(quality="none")), _loss(make_head(quality="iou_guided", guided_eta=0.0))
    assert none.keys() == guided.keys() and all(torch.equal(none[key], guided[key]) for key in none)


@pytest.mark.parametrize("weighting", ["score", "centerness", "iou", "uniform"])
def test_box_weighting(weighting: str) -> None:
    """DFL of flat logits is ln(n+1) a side, so the weighted mean is too; the IoU term tells the weightings apart."""
    head = make_head(quality="none", box_weighting=weighting)
    maps, instances, meta = _inputs()
    outs = head(maps)
    flat = [torch.zeros_like(level) for level in outs[1]]
    terms = head.loss_by_feat(outs[0], flat, batch_gt_instances=instances, batch_img_metas=meta)
    assert terms["loss_dfl"].item() == pytest.approx(0.25 * 2.833213, rel=1e-5)
    image, location, _, targets = _positives(head, instances, meta)
    geometry = head.geometry([level.shape[-2:] for level in maps], torch.device("cpu"))
    boxes, in_unit, _ = head.fit_boxes(torch.zeros(len(image), 68), geometry, location, targets)
    iou, giou = losses.iou_and_giou(boxes, in_unit)
    score = torch.cat([level.flatten(2) for level in outs[0]], 2).sigmoid()[image, :, location].amax(1)
    weight = {"score": score, "iou": iou, "uniform": torch.ones_like(iou), "centerness": losses.centerness_target(geometry.centers[location], targets)}[weighting]  # fmt: skip
    torch.testing.assert_close(terms["loss_bbox"], 2 * ((1 - giou) * weight).sum() / weight.sum().clamp(min=1), rtol=1e-5, atol=1e-6)


# --- box forms ---------------------------------------------------------------------------------------


def test_every_form_starts_near_its_anchor() -> None:
    """Without features, deltas of 0, distances of 0 and means of 0 are the anchor: 8 strides wide, 4 to each side."""
    maps = tuple(torch.zeros(1, 32, 96 // s, 128 // s) for s in THREE)
    meta = metas(1, (10**6, 10**6))
    for extra in ({"box": "dirac_delta"}, {"box": "dirac_distance"}, {"box": "direct"}, {"box": "gaussian"}):
        head = make_head(quality="centerness", bin_width=0.5, **extra)
        torch.nn.init.zeros_(head.gfl_reg.weight), torch.nn.init.zeros_(head.gfl_reg.bias)
        torch.testing.assert_close(head.dense_outputs(head(maps), meta).distances, torch.full((1, 252, 4), 8.0))


def test_gaussian_loss_by_hand() -> None:
    """One location, centre (32, 32) of stride 8; half an anchor is 4 bins."""
    head = make_head(box="gaussian", quality="none", gaussian_weight=1.0)
    geometry = head.geometry([(12, 16), (6, 8), (3, 4)], torch.device("cpu"))
    location = torch.tensor([4 * 16 + 4])
    assert geometry.centers[location].tolist() == [[32.0, 32.0]]
    targets = torch.tensor([[0.0, 8, 64, 48]])  # distances 4, 3, 4, 2 bins
    prediction = torch.tensor([[1.0, 0, 0, -2, 0, 0, 7 * math.atanh(math.log(4) / 7), 0]])  # means 5, 4, 4, 2
    boxes, in_unit, loss = head.fit_boxes(prediction, geometry, location, targets)
    assert loss.item() == pytest.approx((0.5 + 0.5 + 0.5 * 1.3862944 + 0) / 4, abs=1e-6)
    assert boxes.tolist() == [[-1.0, 0.0, 8.0, 6.0]] and in_unit.tolist() == [[0.0, 1.0, 8.0, 6.0]]


def test_local_peak_is_a_switch_on_trained_weights() -> None:
    """Two peaks, at bins 2 and 10: the expectation lies between them, the local peak at the higher one."""
    head = make_head(quality="joint").eval()
    torch.nn.init.zeros_(head.gfl_reg.weight)
    logits = torch.full((4, 17), -20.0)
    logits[:, 2], logits[:, 10] = 1.0, 1.5
    head.gfl_reg.bias.data.copy_(logits.flatten())
    for scale in head.scales:
        torch.nn.init.ones_(scale.scale)
    maps, _, meta = _inputs()
    with torch.no_grad():
        outs = head(maps)
        between = head.dense_outputs(outs, meta).distances
        head.box_form.decoding = "local_peak"
        peak = head.dense_outputs(outs, meta).distances
    high = 1 / (1 + torch.tensor(-0.5).exp())
    torch.testing.assert_close(between, torch.full_like(between, 2 * (1 - high) + 10 * high), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(peak, torch.full_like(peak, 10.0), rtol=1e-4, atol=1e-4)


# --- components of a user's own ----------------------------------------------------------------------


@pytest.fixture
def registered() -> Any:
    """A loss and an assigner registered for one test."""

    @MODELS.register_module(name="TestSquaredLoss", force=True)
    class SquaredLoss(torch.nn.Module):
        def __init__(self, factor: float = 1.0) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, boxes: Tensor, targets: Tensor, weight: Tensor, avg_factor: Tensor) -> Tensor:
            return self.factor * ((boxes - targets).square().mean(1) * weight).sum() / avg_factor

    @TASK_UTILS.register_module(name="TestFirstCells", force=True)
    class FirstCells:
        def assign(self, pred_instances: InstanceData, gt_instances: InstanceData, gt_instances_ignore: Any = None) -> AssignResult:
            found = torch.zeros(len(pred_instances.priors), dtype=torch.long)
            if len(gt_instances.bboxes):
                found[:3] = 1
                found[3] = -1
            return AssignResult(len(gt_instances.bboxes), found, None, labels=None)

    yield
    MODELS.module_dict.pop("TestSquaredLoss")
    TASK_UTILS.module_dict.pop("TestFirstCells")


@pytest.mark.usefixtures("registered")
def test_own_box_loss() -> None:
    head = make_head(quality="none", box_loss={"type": "TestSquaredLoss", "factor": 3.0}, dfl_weight=0.0)
    maps, instances, meta = _inputs()
    outs = head(maps)
    image, location, _, targets = _positives(head, instances, meta)
    geometry = head.geometry([level.shape[-2:] for level in maps], torch.device("cpu"))
    predictions = torch.cat([level.flatten(2) for level in outs[1]], 2)[image, :, location]
    boxes, in_unit, _ = head.fit_boxes(predictions, geometry, location, targets)
    terms = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)
    torch.testing.assert_close(terms["loss_bbox"], 2 * 3 * (boxes - in_unit).square().mean(1).mean(), rtol=1e-5, atol=1e-5)
    assert _loss(head, "none")["loss_bbox"].item() == 0


def test_mmdets_own_losses_as_registered_losses() -> None:
    built_in, registered = make_head(), make_head(box_loss={"type": "GIoULoss"}, cls_loss={"type": "QualityFocalLoss", "use_sigmoid": True})
    for kind in ("crowded", "one", "none"):
        a, b = _loss(built_in, kind), _loss(registered, kind)
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)
    built_in, registered = make_head(quality="none"), make_head(quality="none", cls_loss={"type": "FocalLoss", "use_sigmoid": True})
    torch.testing.assert_close(_loss(built_in)["loss_cls"], _loss(registered)["loss_cls"], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("registered")
def test_own_assigner() -> None:
    cfg = {"allowed_border": -1, "pos_weight": -1, "debug": False}
    head = make_head(train_cfg=ConfigDict(assigner={"type": "TestFirstCells"}, **cfg))
    maps, instances, meta = _inputs("one")
    image, location, _, _ = _positives(head, instances, meta)
    assert image.tolist() == [0, 0, 0] and location.tolist() == [0, 1, 2]
    terms = _loss(head, "one")
    assert torch.isfinite(sum(terms.values())) and terms["loss_bbox"] > 0
    # what it ignores has no classification loss
    outs = head(maps)
    a = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)["loss_cls"]
    outs[0][0].data[0, :, 0, 3] += 5
    b = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)["loss_cls"]
    torch.testing.assert_close(a, b)

    # mmdet's own one-by-one ATSS answers as our batched one
    @TASK_UTILS.register_module(name="TestStockATSS", force=True)
    class StockATSS(TASK_UTILS.get("ATSSAssigner")):
        pass

    stock = make_head(train_cfg=ConfigDict(assigner={"type": "TestStockATSS", "topk": 9}, **cfg))
    ours = make_head()
    padded = metas(3, SIZE, [(96, 128), (64, 128), (96, 96)])
    _, instances, _ = _inputs("crowded")
    for a, b in zip(_positives(stock, instances, padded), _positives(ours, instances, padded), strict=True):
        assert torch.equal(a, b)
    TASK_UTILS.module_dict.pop("TestStockATSS")


def test_branch_terms_keep_their_sum_apart() -> None:
    """The branch's loss is a mean over positives of a batch, not of its images."""
    head = make_head(quality="centerness")
    maps, instances, meta = _inputs()
    outs = head(maps)
    image, location, _, targets = _positives(head, instances, meta)
    geometry = head.geometry([level.shape[-2:] for level in maps], torch.device("cpu"))
    branch = torch.cat([level.flatten(2) for level in outs[2]], 2)[image, 0, location]
    expected = F.binary_cross_entropy_with_logits(branch, losses.centerness_target(geometry.centers[location], targets), reduction="sum")
    per_image = torch.bincount(image, minlength=3).clamp(min=1).sum()
    terms = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)
    torch.testing.assert_close(terms["loss_centerness"], expected / per_image)
