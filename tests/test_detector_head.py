"""The head against mmdet's own heads, and what each switch must and must not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gfl_lab.detector.head import GFLFamilyHead
from gfl_lab.detector.head_arguments import group_norm

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.dense_heads import ATSSHead, GFLHead
from mmengine.structures import InstanceData

from tests.support.heads import CLASSES, FIVE, THREE, grouped
from tests.support.heads import batch as _batch
from tests.support.heads import common as _common
from tests.support.heads import feats as _feats
from tests.support.heads import metas as _metas
from tests.support.heads import new_head as _new_head
from tests.support.heads import samples as _samples

torch.set_num_threads(1)  # small maps: threads cost more than they give, above all beside other processes


def _stock_gfl(strides: tuple[int, ...], **extra: Any) -> GFLHead:
    loss_cls = {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0}
    loss_bbox = {"type": "GIoULoss", "loss_weight": 2.0}
    return GFLHead(**_common(strides, loss_cls=loss_cls, loss_bbox=loss_bbox, **extra))


def _stock_atss(strides: tuple[int, ...]) -> ATSSHead:
    coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}
    loss_cls = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0}
    loss_bbox = {"type": "GIoULoss", "loss_weight": 2.0}
    centerness = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}
    return ATSSHead(**_common(strides, bbox_coder=coder, loss_cls=loss_cls, loss_bbox=loss_bbox, loss_centerness=centerness))


def _copy(ours: GFLFamilyHead, stock: torch.nn.Module) -> None:
    """Random weights, larger than at the start of training, the same in both heads."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in ours.named_parameters():
            if name.startswith(("gfl_", "scales")):
                value.add_(torch.randn(value.shape, generator=generator) * (0.05 if name.endswith("weight") else 0.3))
        ours.gfl_cls.bias += 3
    names = {"gfl_cls": "atss_cls", "gfl_reg": "atss_reg", "gfl_quality": "atss_centerness"} if isinstance(stock, ATSSHead) else {}
    state = {".".join([names.get(k.split(".")[0], k.split(".")[0]), *k.split(".")[1:]]): v for k, v in ours.state_dict().items()}
    stock.load_state_dict(state)  # strict: every name and shape is the stock's


def _pair(variant: str, strides: tuple[int, ...], **extra: Any) -> tuple[GFLFamilyHead, torch.nn.Module]:
    if variant == "gfl":
        ours, stock = _new_head(strides, **extra), _stock_gfl(strides, **extra)
    else:
        ours, stock = _new_head(strides, quality="centerness", box="dirac_delta"), _stock_atss(strides)
    torch.manual_seed(1)
    ours.init_weights()
    _copy(ours, stock)
    return ours, stock


def _check_losses(
    ours: GFLFamilyHead, stock: torch.nn.Module, strides: tuple[int, ...], kind: str, size: tuple[int, int], padded=None, seed: int = 0
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    feats, instances, metas = _feats(strides, size, generator), _batch(kind, size, generator), _metas(3, size, padded)
    grads, sums = [], []
    for head in (ours, stock):
        head.zero_grad()
        inputs = [feat.clone().requires_grad_() for feat in feats]
        outs = head(tuple(inputs))
        for levels in outs:
            for level in levels:
                level.retain_grad()
        if head is ours:
            losses = ours.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=metas)
            assert all(term.dim() == 0 and term.requires_grad for term in losses.values())
        else:
            losses = head.loss_by_feat(*outs, instances, metas)
        sums.append({name: sum(term) if isinstance(term, list) else term for name, term in losses.items()})
        sum(sums[-1].values()).backward()
        predictions = [level.grad for levels in outs for level in levels]
        weights = {n.replace("atss_centerness", "gfl_quality").replace("atss_", "gfl_"): p.grad for n, p in head.named_parameters()}
        grads.append((predictions, weights, [i.grad for i in inputs]))
    assert sums[0].keys() == sums[1].keys()
    for name, value in sums[0].items():
        torch.testing.assert_close(value, sums[1][name], rtol=1e-5, atol=1e-5)
    for a, b in zip(grads[0][0] + grads[0][2], grads[1][0] + grads[1][2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert grads[0][1].keys() == grads[1][1].keys()
    for name, a in grads[0][1].items():
        b = grads[1][1][name]
        torch.testing.assert_close(
            a, torch.zeros_like(a) if b is None else b, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
    return {name: value.item() for name, value in sums[0].items()}


@pytest.mark.parametrize("kind", ["none", "one", "crowded", "huge"])
@pytest.mark.parametrize("strides", [THREE, FIVE], ids=["3 levels", "5 levels"])
@pytest.mark.parametrize("variant", ["gfl", "atss"])
def test_losses_and_gradients_of_the_stock_head(variant: str, strides: tuple[int, ...], kind: str) -> None:
    extra = {"reg_max": 4 if kind == "huge" else 16} if variant == "gfl" else {}
    ours, stock = _pair(variant, strides, **extra)
    terms = _check_losses(ours, stock, strides, kind, (128, 160))
    if kind == "none":
        assert terms["loss_cls"] > 0 and all(value == 0 for name, value in terms.items() if name != "loss_cls")
    else:
        assert all(value > 0 for value in terms.values())


@pytest.mark.parametrize("variant", ["gfl", "atss"])
def test_images_padded_to_the_largest(variant: str) -> None:
    """Locations beyond an image's own pad_shape are no candidates and have no loss."""
    ours, stock = _pair(variant, THREE)
    _check_losses(ours, stock, THREE, "crowded", (128, 160), padded=[(128, 160), (64, 160), (96, 128)], seed=4)
    _check_losses(ours, stock, THREE, "crowded", (128, 160), padded=[(96, 96), (96, 96), (96, 128)], seed=5)


@pytest.mark.parametrize("variant", ["gfl", "atss"])
def test_predictions_of_the_stock_head(variant: str) -> None:
    ours, stock = _pair(variant, FIVE)
    generator = torch.Generator().manual_seed(0)
    feats, metas = _feats(FIVE, (128, 160), generator), _metas(3, (128, 160))
    for meta, factor in zip(metas, (1.0, 0.5, 2.0), strict=True):
        meta["scale_factor"] = (factor, factor)
    found = 0
    for head in (ours, stock):
        head.eval()
    with torch.no_grad():
        for threshold in (0.05, 0.3, 0.99):
            ours.test_cfg.score_thr = stock.test_cfg.score_thr = threshold
            pair = [head.predict(feats, _samples([InstanceData()] * 3, metas), rescale=True) for head in (ours, stock)]
            for a, b in zip(*pair, strict=True):
                torch.testing.assert_close(a.scores, b.scores, rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-5, atol=1e-4)
                assert torch.equal(a.labels, b.labels)
                found += len(a)
    assert found > 50


VARIANTS = [
    ("centerness", "dirac_delta", {"loss_cls", "loss_bbox", "loss_centerness"}),
    ("joint", "dirac_delta", {"loss_cls", "loss_bbox"}),
    ("centerness", "general", {"loss_cls", "loss_bbox", "loss_dfl", "loss_centerness"}),
    ("joint", "general", {"loss_cls", "loss_bbox", "loss_dfl"}),
]


@pytest.mark.parametrize(("quality", "box", "terms"), VARIANTS)
def test_terms_of_each_variant(quality: str, box: str, terms: set[str]) -> None:
    head = _new_head(THREE, quality=quality, box=box)
    head.init_weights()
    generator = torch.Generator().manual_seed(0)
    feats, metas = _feats(THREE, (96, 96), generator), _metas(3, (96, 96))
    for kind in ("crowded", "none"):
        losses = head.loss(feats, _samples(_batch(kind, (96, 96), generator), metas))
        assert losses.keys() == terms
        head.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in head.named_parameters():  # so that DDP never waits for one
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert hasattr(head, "gfl_quality") == (quality == "centerness")
    assert head.gfl_reg.out_channels == (68 if box == "general" else 4)
    assert ("integral.project" in head.state_dict()) == (box == "general")


def test_dfl_only_weights_boxes_by_centerness() -> None:
    """DFL of a flat distribution is ln(n+1) for each side, whatever the weights, so the normalised term is 0.25 ln 17."""
    head = _new_head(THREE, quality="centerness", box="general")
    outs = [torch.zeros(1, CLASSES, 16 // k, 16 // k) for k in (1, 2, 4)], [torch.zeros(1, 68, 16 // k, 16 // k) for k in (1, 2, 4)]
    quality = [torch.zeros(1, 1, 16 // k, 16 // k) for k in (1, 2, 4)]
    boxes = InstanceData(bboxes=torch.tensor([[20.0, 20, 90, 100], [5, 60, 60, 120]]), labels=torch.tensor([0, 1]))
    losses = head.loss_by_feat(*outs, quality, batch_gt_instances=[boxes], batch_img_metas=_metas(1, (128, 128)))
    assert losses["loss_dfl"].item() == pytest.approx(0.25 * 2.833213, rel=1e-5)


def test_without_dfl_weight_there_is_no_term() -> None:
    head = _new_head(THREE, dfl_weight=0.0)
    generator = torch.Generator().manual_seed(0)
    losses = head.loss(_feats(THREE, (96, 96), generator), _samples(_batch("crowded", (96, 96), generator), _metas(3, (96, 96))))
    assert losses.keys() == {"loss_cls", "loss_bbox"}


def test_bin_width_is_a_unit() -> None:
    """Distances x at Delta 1 and 2x at Delta 2 are the same bins: same losses and distributions, boxes decoded twice as far."""
    one, two = (_new_head(THREE, bin_width=width) for width in (1.0, 2.0))
    two.load_state_dict(one.state_dict())
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 68, generator=generator)
    location = torch.tensor([0, 5, 99, 100, 260, 300, 335])
    geometry = one.geometry([(16, 16), (8, 8), (4, 4)], torch.device("cpu"))
    centers = geometry.centers[location]
    reach = geometry.strides[location, None] * torch.rand(7, 4, generator=generator) * 8
    near = torch.cat([centers - reach[:, :2], centers + reach[:, 2:]], 1)
    far = torch.cat([centers - 2 * reach[:, :2], centers + 2 * reach[:, 2:]], 1)
    dfl_one, dfl_two = one.fit_boxes(logits, geometry, location, near)[2], two.fit_boxes(logits, geometry, location, far)[2]
    torch.testing.assert_close(dfl_one, dfl_two, rtol=1e-5, atol=1e-5)
    feats = _feats(THREE, (128, 128), generator)
    dense = [head.dense_outputs(head(feats), _metas(3, (10**6, 10**6))) for head in (one, two)]
    torch.testing.assert_close(dense[0].distances, dense[1].distances)
    assert (dense[1].boxes[..., 2:] - dense[1].centers > 1.9 * (dense[0].boxes[..., 2:] - dense[0].centers)).all()


def test_quality_gets_no_gradient_into_the_box_and_scores_none_from_its_losses() -> None:
    head = _new_head(THREE)
    head.init_weights()
    generator = torch.Generator().manual_seed(0)
    feats, instances = _feats(THREE, (96, 96), generator), _batch("crowded", (96, 96), generator)
    losses = head.loss(feats, _samples(instances, _metas(3, (96, 96))))
    of_class = torch.autograd.grad(losses["loss_cls"], [head.gfl_reg.weight], retain_graph=True, allow_unused=True)[0]
    assert of_class is None or not of_class.any()
    for name in ("loss_bbox", "loss_dfl"):
        of_box = torch.autograd.grad(losses[name], [head.gfl_cls.weight], retain_graph=True, allow_unused=True)[0]
        assert of_box is None or not of_box.any()


@pytest.mark.parametrize(("quality", "box", "_terms"), VARIANTS)
def test_dense_outputs_agree_with_predictions(quality: str, box: str, _terms: set[str]) -> None:
    head = _new_head(THREE, quality=quality, box=box, bin_width=0.5).eval()
    head.init_weights()
    torch.nn.init.normal_(head.gfl_cls.weight, std=0.2)
    torch.nn.init.normal_(head.gfl_reg.weight, std=0.1)
    generator = torch.Generator().manual_seed(0)
    feats, metas = _feats(THREE, (96, 128), generator, images=2), _metas(2, (96, 128))
    with torch.no_grad():
        outs = head(feats)
        dense = head.dense_outputs(outs, metas)
        locations = 12 * 16 + 6 * 8 + 3 * 4
        assert dense.scores.shape == (2, locations, CLASSES) and dense.boxes.shape == dense.distances.shape == (2, locations, 4)
        assert dense.centers.shape == (locations, 2) and dense.levels.tolist() == [0] * 192 + [1] * 48 + [2] * 12
        assert dense.strides.unique().tolist() == [8, 16, 32]
        assert (dense.boxes[..., 0::2] <= 128 - 5).all() and (dense.boxes[..., 1::2] <= 96 - 3).all() and (dense.boxes >= 0).all()
        if box == "general":
            assert dense.probs.shape == (2, locations, 4, 17)
            torch.testing.assert_close(dense.probs.sum(-1), torch.ones(2, locations, 4))
            torch.testing.assert_close((dense.probs * torch.arange(17.0)).sum(-1), dense.distances, rtol=1e-5, atol=1e-5)
        else:
            assert dense.probs is None
        # boxes are the distances from the centres, in units of stride * bin_width, clipped
        reach = dense.distances * (dense.strides * 0.5)[:, None]
        limits = torch.tensor([123.0, 93.0])
        torch.testing.assert_close(
            dense.boxes[..., :2], (dense.centers - reach[..., :2]).clamp(min=0).minimum(limits), rtol=1e-5, atol=1e-3
        )
        # every detection is a location's score and box
        head.test_cfg.score_thr, head.test_cfg.nms_pre = 0.5, -1
        for image, result in enumerate(head.predict_by_feat(*outs, batch_img_metas=metas)):
            assert len(result) > 3
            for score, label, found in zip(result.scores, result.labels, result.bboxes, strict=True):
                here = (dense.scores[image, :, label] - score).abs() < 1e-6
                assert (dense.boxes[image, here] - found).abs().amax(1).min() < 1e-3


@pytest.mark.parametrize("variant", ["gfl", "atss"])
@pytest.mark.parametrize(
    "changes",
    [
        {"nms_pre": 7},
        {"nms_pre": 1000, "max_per_img": 5},
        {"min_bbox_size": 20},
        {"min_bbox_size": -1, "nms": {"type": "nms", "iou_threshold": 0.3}},
        {"nms": {"type": "nms", "iou_threshold": 0.6, "split_thr": 20}},
        {"nms": {"type": "nms", "iou_threshold": 0.6, "class_agnostic": True}},
        {"score_thr": 0.999},
    ],
    ids=str,
)
def test_test_settings_of_the_stock_head(variant: str, changes: dict[str, Any]) -> None:
    """Of images of other sizes than the batch, too; and without NMS."""
    ours, stock = _pair(variant, FIVE)
    generator = torch.Generator().manual_seed(2)
    feats, metas = _feats(FIVE, (128, 160), generator), _metas(3, (128, 160), [(128, 160), (64, 160), (96, 128)])
    for meta, factor in zip(metas, ((1.0, 1.25), (0.5, 0.5), (2.0, 1.9)), strict=True):
        meta["scale_factor"] = factor
    for head in (ours.eval(), stock.eval()):
        head.test_cfg.update(changes)
    with torch.no_grad():
        for with_nms in (True, False):
            pair = [head.predict_by_feat(*head(feats), batch_img_metas=metas, rescale=True, with_nms=with_nms) for head in (ours, stock)]
            for one, other in zip(*pair, strict=True):
                assert len(one) == len(other)
                torch.testing.assert_close(one.scores, other.scores, rtol=1e-5, atol=1e-6)
                assert torch.equal(one.labels, other.labels)
                torch.testing.assert_close(one.bboxes, other.bboxes, rtol=1e-4, atol=1e-3)


def test_a_head_may_read_off_image_by_image() -> None:
    """What docs/extending.md offers: a subclass's own ``_predict_by_feat_single`` is asked, and may ask ours."""
    seen: list[tuple[int, int]] = []

    class Own(GFLFamilyHead):
        def _predict_by_feat_single(self, cls_score_list: Any, bbox_pred_list: Any, *args: Any, **kwargs: Any) -> InstanceData:
            seen.append(cls_score_list[0].shape[1:])
            return super()._predict_by_feat_single(cls_score_list, bbox_pred_list, *args, **kwargs)

    for quality in ("joint", "centerness", "dgqp"):
        heads = [kind(**grouped(_common(THREE, quality=quality))) for kind in (GFLFamilyHead, Own)]
        heads[1].load_state_dict(heads[0].state_dict())
        feats, metas = _feats(THREE, (96, 128), torch.Generator().manual_seed(0)), _metas(3, (96, 128))
        with torch.no_grad():
            for head in heads:
                head.gfl_cls.bias.fill_(1.0)
                head.test_cfg.score_thr = 0.3
            found = [head.eval().predict_by_feat(*head(feats), batch_img_metas=metas) for head in heads]
        for one, other in zip(*found, strict=True):
            assert len(one)
            torch.testing.assert_close(one.scores, other.scores)
            torch.testing.assert_close(one.bboxes, other.bboxes)
    assert seen == [(12, 16)] * 9


def test_autocast_keeps_losses_and_boxes_in_float32() -> None:
    head = _new_head(THREE, quality="centerness")
    head.init_weights()
    generator = torch.Generator().manual_seed(0)
    feats, metas = _feats(THREE, (96, 96), generator), _metas(3, (96, 96))
    samples = _samples(_batch("crowded", (96, 96), generator), metas)
    exact = head.loss(feats, samples)
    with torch.autocast("cpu", torch.bfloat16):
        rough = head.loss(feats, samples)
        head.test_cfg.score_thr = 0.001
        found = head.predict(feats, samples)
    sum(rough.values()).backward()
    for name, value in rough.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=1e-3)
    assert len(found[0]) and found[0].bboxes.dtype == found[0].scores.dtype == torch.float32


@pytest.mark.parametrize("box", ["general", "dirac_delta"])
def test_trains_after_an_evaluation_in_inference_mode(box: str) -> None:
    head = _new_head(THREE, box=box)
    generator = torch.Generator().manual_seed(0)
    feats, metas = _feats(THREE, (96, 96), generator), _metas(3, (96, 96))
    with torch.inference_mode():
        head.dense_outputs(head(feats), metas)
    sum(head.loss(feats, _samples(_batch("crowded", (96, 96), generator), metas)).values()).backward()
    assert head.gfl_reg.weight.grad.any()


def test_one_collective_whatever_the_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from gfl_lab.detector import head as module

    calls: list[torch.Size] = []
    monkeypatch.setattr(module, "reduce_mean", lambda value: (calls.append(value.shape), value)[1])
    generator = torch.Generator().manual_seed(0)
    for quality, box, _ in VARIANTS:
        head = _new_head(THREE, quality=quality, box=box)
        for kind in ("none", "one", "crowded"):
            head.loss(_feats(THREE, (96, 96), generator), _samples(_batch(kind, (96, 96), generator), _metas(3, (96, 96))))
    assert calls == [torch.Size([2])] * 12


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (24, 3), (64, 8), (256, 32), (264, 24), (512, 32)])
def test_group_norm(channels: int, groups: int) -> None:
    assert group_norm(channels)["num_groups"] == groups


def test_unknown_switch() -> None:
    with pytest.raises(ValueError, match="quality is 'iuo'"):
        _new_head(THREE, quality="iuo")
    with pytest.raises(ValueError, match="box is 'gauss'"):
        _new_head(THREE, box="gauss")
