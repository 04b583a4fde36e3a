"""Heads of mmdet's with QFL or TOOD's assignment: targets by hand, losses against mmdet's functions, and what they leave unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

import gfl_lab.detector.mmdet_heads as heads
from gfl_lab.detector.mmdet_detector import mmdet_detector
from gfl_lab.spec.plain_config import decode
from gfl_lab.spec.settings import Settings
from gfl_lab.zoo.resolve import resolve

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.losses.gfocal_loss import quality_focal_loss
from mmdet.structures.bbox import bbox_overlaps

HEAD = "cfg_options.model.bbox_head."
QFL = {f"{HEAD}loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0}}
RETINANET = {"detector": "mmdet:retinanet_r50_fpn_1x_coco", f"{HEAD}type": "RetinaQFLHead", **QFL}
FOVEABOX = {"detector": "mmdet:fovea_r50_fpn_4xb4-1x_coco", f"{HEAD}type": "FoveaQFLHead", **QFL}
SSD = {"detector": "mmdet:ssd512_coco", f"{HEAD}type": "SSDQFLHead"}
TAL = {"detector": "mmdet:tood_r50_fpn_1x_coco", f"{HEAD}type": "ParallelTOODHead", f"{HEAD}stacked_convs": 2}
TRUTH = InstanceData(bboxes=torch.tensor([[10.0, 10, 70, 80], [60, 40, 120, 120]]), labels=torch.tensor([0, 2]))
META = {"img_shape": (128, 128), "pad_shape": (128, 128), "batch_input_shape": (128, 128), "scale_factor": (1.0, 1.0)}


def head_of(options: dict[str, Any]) -> nn.Module:
    """The head of a narrow detector for three classes, with initial weights."""
    MMLogger.get_current_instance().setLevel("ERROR")  # it reports the initialisation of each weight
    torch.manual_seed(0)
    config = resolve(Settings(**options, base_channels=8, neck_channels=16, head_channels=16), 3)
    model = decode(config["model"])
    with DefaultScope.overwrite_default_scope("mmdet"):
        if options is SSD:  # its backbone has no narrow form
            head = MODELS.build({**model["bbox_head"], "train_cfg": model["train_cfg"], "test_cfg": model["test_cfg"]})
            head.init_weights()
            return head
        detector = mmdet_detector(model, 0.0, 10)
    detector.init_weights()
    return detector.bbox_head


def maps(channels: int = 16, strides: tuple[int, ...] = (8, 16, 32, 64, 128), size: int = 128) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, channels, size // stride, size // stride, generator=generator) for stride in strides]


def test_the_target_is_the_iou_and_0_where_nothing_is() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 6, 6]])
    truth = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [5, 5, 6, 6]])
    assert heads.qualities(boxes, truth, torch.tensor([True, True, False])).tolist() == pytest.approx([1.0, 1 / 3, 0.0])
    assert heads.around_zero(torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[-1, -2, 3, 4]]


def test_retinanets_classes_learn_the_iou_of_each_anchor_s_box() -> None:
    head = head_of(RETINANET)
    anchors = torch.tensor([[[0.0, 0, 32, 32], [8, 8, 40, 40]]])
    deltas, scores = torch.tensor([[0.1, 0.0, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.3, -1.0, 0.2], [0.5, 0.1, -2.0]])
    targets = torch.tensor([[0.0, 0.1, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([[1, 3]])  # the second anchor is background
    loss_cls, loss_bbox = head.loss_by_feat_single(
        scores.reshape(1, 2, 1, 3).permute(0, 3, 1, 2), deltas.reshape(1, 2, 1, 4).permute(0, 3, 1, 2), anchors, labels,
        torch.ones(1, 2), targets[None], torch.tensor([[[1.0] * 4, [0.0] * 4]]), avg_factor=2.0,
    )  # fmt: skip
    iou = bbox_overlaps(head.bbox_coder.decode(anchors[0], deltas), head.bbox_coder.decode(anchors[0], targets), is_aligned=True)
    quality = torch.tensor([float(iou[0]), 0.0])
    torch.testing.assert_close(loss_cls, quality_focal_loss(scores, (labels[0], quality), beta=2.0, reduction="none").sum() / 2)
    assert float(loss_bbox) == pytest.approx((0.1 + 0.1 + 0.2 + 0.1) / 2)  # L1


def test_foveaboxs_boxes_learn_as_without_qfl() -> None:
    head = head_of(FOVEABOX)
    plain = head_of({"detector": FOVEABOX["detector"]})
    plain.load_state_dict(head.state_dict())
    ours, theirs = (each.loss_by_feat(*each(maps()), [TRUTH], [META]) for each in (head, plain))
    torch.testing.assert_close(ours["loss_bbox"], theirs["loss_bbox"])
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    assert float(head.loss_by_feat(*head(maps()), [empty], [META])["loss_bbox"]) == 0


def test_foveaboxs_classes_learn_the_iou_of_each_location_s_box() -> None:
    head = head_of(FOVEABOX)
    scores, sides = head(maps())
    sizes = [each.shape[-2:] for each in scores]
    labels, targets = head.get_targets([TRUTH], sizes, head.prior_generator.grid_priors(sizes, device="cpu"))
    flat, positive = torch.cat([heads.rows(each, 4) for each in sides]), labels < 3
    inner = torch.minimum(flat[positive].exp(), targets[positive].exp()), torch.maximum(flat[positive].exp(), targets[positive].exp())
    quality = torch.zeros(len(labels))
    both = [each[:, 0] + each[:, 2] for each in inner], [each[:, 1] + each[:, 3] for each in inner]
    overlap = both[0][0] * both[1][0]
    areas = [
        (each[positive].exp()[:, 0] + each[positive].exp()[:, 2]) * (each[positive].exp()[:, 1] + each[positive].exp()[:, 3])
        for each in (flat, targets)
    ]
    quality[positive] = overlap / (areas[0] + areas[1] - overlap)
    wanted = quality_focal_loss(torch.cat([heads.rows(each, 3) for each in scores]), (labels, quality), reduction="none").sum() / (
        int(positive.sum()) + 1
    )
    torch.testing.assert_close(head.loss_by_feat(scores, sides, [TRUTH], [META])["loss_cls"], wanted)
    assert int(positive.sum()) > 3


def test_ssd_has_a_sigmoid_for_each_class_and_no_background_class() -> None:
    head = head_of(SSD)
    assert head.use_sigmoid_cls and head.cls_out_channels == 3
    scores, deltas = head([torch.randn(1, channels, 4, 4) for channels in head.in_channels])
    assert [each.shape[1] for each in scores] == [3 * anchors for anchors in head.num_base_priors]
    assert 0.001 < float(torch.cat([each.sigmoid().flatten() for each in scores]).median()) < 0.1
    anchor, labels = torch.tensor([[0.0, 0, 32, 32], [8, 8, 40, 40]]), torch.tensor([1, 3])
    pred, wanted = torch.tensor([[0.5, 0, 0, 0], [9.0, 9, 9, 9]]), torch.zeros(2, 4)
    classes = torch.tensor([[0.3, -1.0, 0.2], [0.5, 0.1, -2.0]])
    loss_cls, loss_bbox = head.loss_by_feat_single(
        classes, pred, anchor, labels, torch.ones(2), wanted, torch.tensor([[1.0] * 4, [0.0] * 4]), avg_factor=2.0
    )
    iou = bbox_overlaps(head.bbox_coder.decode(anchor, pred), anchor, is_aligned=True)[0]
    torch.testing.assert_close(
        loss_cls[0], quality_focal_loss(classes, (labels, torch.tensor([float(iou), 0.0])), reduction="none").sum() / 2
    )
    assert float(loss_bbox) == pytest.approx(0.125 / 2)  # smooth L1: 0.5 * 0.5 ** 2


def test_the_parallel_head_has_atss_s_towers_and_tood_s_losses() -> None:
    head = head_of(TAL)
    assert {name.partition(".")[0] for name, _ in head.named_parameters()} == {"cls_convs", "reg_convs", "atss_cls", "atss_reg", "scales"}
    scores, boxes = head(maps())
    assert [tuple(each.shape) for each in scores] == [(1, 3, 128 // stride, 128 // stride) for stride in (8, 16, 32, 64, 128)]
    assert all(bool(((each > 0) & (each < 1)).all()) for each in scores)
    with torch.no_grad():
        head.atss_reg.weight.zero_()
        head.atss_reg.bias.zero_()
    (_, boxes) = head(maps())
    # exp(0) strides to each side of the location
    assert boxes[1][0, :, 2, 3].tolist() == [3 - 1, 2 - 1, 3 + 1, 2 + 1]


@pytest.mark.parametrize("epoch", [0, 9])
def test_the_parallel_head_learns_by_atss_first_and_by_alignment_then(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    MessageHub.get_current_instance().update_info("epoch", epoch)
    head = head_of(TAL)
    asked: list[str] = []
    for name in ("initial_assigner", "alignment_assigner"):
        assigner = getattr(head, name)
        real = assigner.assign
        monkeypatch.setattr(
            assigner, "assign", lambda *given, name=name, real=real, **named: (asked.append(name), real(*given, **named))[1]
        )
    losses = head.loss_by_feat(*head(maps()), [TRUTH], [META])
    sum(sum(parts) for parts in losses.values()).backward()
    assert all(parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) for parameter in head.parameters())
    assert asked == ["initial_assigner" if epoch < 4 else "alignment_assigner"]
