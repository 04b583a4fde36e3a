"""Faults of mmdet's detectors and their fixes: each test shows the fault on the detector as it is, then that it is gone."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from torch import Tensor, nn

import gfl_lab.detector  # noqa: F401  (makes mmdet.models importable)
from gfl_lab.detector import mmdet_fixes as fixes
from gfl_lab.errors import InputError
from gfl_lab.train.loop import TrialInfoHook

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
import mmdet.models  # noqa: F401
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

torch.set_num_threads(1)

SIZE = (64, 96)
META = {"img_shape": SIZE, "ori_shape": SIZE, "batch_input_shape": SIZE, "pad_shape": SIZE, "scale_factor": (1.0, 1.0)}
FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0}
ATSS = {"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1, "strides": [8, 16]}
CODER = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}


def _built(config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(config))


def _mended(part: nn.Module) -> nn.Module:
    fixes.mend_detector(part)
    return part


def _maps(batch: int = 2, channels: int = 8) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    return tuple(torch.randn(batch, channels, SIZE[0] // stride, SIZE[1] // stride, generator=generator) for stride in (8, 16))


def _samples() -> list[DetDataSample]:
    boxes = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40], [50, 10, 90, 60]]), labels=torch.tensor([0, 1]))
    return [DetDataSample(metainfo=META, gt_instances=boxes) for _ in range(2)]


def test_written_for_the_installed_mmdet() -> None:
    """In another mmdet a fault may be gone: look at each before changing the number."""
    assert metadata.version("mmdet") == fixes.VERIFIED_MMDET


class TestMending:
    def _head(self) -> nn.Module:
        return _built(
            {
                "type": "CenterNetHead",
                "in_channels": 8,
                "feat_channels": 8,
                "num_classes": 2,
                "test_cfg": {"topk": 3, "local_maximum_kernel": 3},
            }
        )

    def test_changes_no_name_and_no_other_part(self) -> None:
        whole = nn.ModuleDict({"head": self._head(), "conv": nn.Conv2d(1, 1, 1)})
        before, classes = copy.deepcopy(whole.state_dict()), (type(whole["head"]), type(whole["conv"]))
        fixes.mend_detector(whole)
        after = whole.state_dict()
        assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
        assert (
            isinstance(whole["head"], classes[0]) and type(whole["head"]).__name__ == "CenterNetHead" and type(whole["conv"]) is classes[1]
        )

    def test_twice_is_once_and_copies_are_mended(self) -> None:
        head = _mended(self._head())
        kind = type(head)
        fixes.mend_detector(head)
        assert type(head) is kind is type(copy.deepcopy(head)) and type(self._head()) is not kind


class TestMostDetections:
    """More detections asked for than a head has predictions: all of them, not an error of torch."""

    @pytest.mark.parametrize(("loss", "most"), [({"type": "CrossEntropyLoss"}, 4), (FOCAL, 12)])
    def test_queries(self, loss: dict[str, Any], most: int) -> None:
        def head(limit: int) -> nn.Module:
            return _built({"type": "DETRHead", "num_classes": 3, "embed_dims": 8, "loss_cls": loss, "test_cfg": {"max_per_img": limit}})

        scores = torch.randn(4, 4 if loss is not FOCAL else 3, generator=torch.Generator().manual_seed(0))
        arguments = (scores, torch.rand(4, 4, generator=torch.Generator().manual_seed(1)), META)
        with pytest.raises(RuntimeError, match="out of range"):
            head(100)._predict_by_feat_single(*arguments)
        mended = _mended(head(100))
        found, all_of_them = mended._predict_by_feat_single(*arguments), head(most)._predict_by_feat_single(*arguments)
        assert len(found) == most and mended.test_cfg["max_per_img"] == 100
        torch.testing.assert_close(found.scores, all_of_them.scores)
        torch.testing.assert_close(_mended(head(2))._predict_by_feat_single(*arguments).bboxes, all_of_them.bboxes[:2])

    def test_proposals(self) -> None:
        class Roi(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.test_cfg, self.bbox_head = ConfigDict(max_per_img=100), [SimpleNamespace(num_classes=3)]

            def predict_bbox(self, x: Any, metas: Any, results: list[Any]) -> int:
                return int(self.test_cfg.max_per_img)

        roi = Roi()
        roi.__class__ = fixes.between(fixes.GivesAtMostItsProposals, Roi)
        two, four = (InstanceData(bboxes=torch.zeros(count, 4)) for count in (2, 4))
        assert roi.predict_bbox(None, None, [four, two]) == 6 and roi.test_cfg.max_per_img == 100
        assert roi.predict_bbox(None, None, [InstanceData(bboxes=torch.zeros(50, 4))]) == 100


class TestEps:
    CONFIG = {"type": "ResNet", "depth": 18, "base_channels": 4, "norm_cfg": {"type": "BN", "eps": 0, "requires_grad": False}}

    def test_a_norm_without_eps_runs_and_gives_its_formula(self) -> None:
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with pytest.raises(ValueError, match="eps must be positive"):
            _built(self.CONFIG)(x)
        backbone = _built(fixes.mend_config(self.CONFIG))
        backbone.eval()
        backbone(x)
        norm = backbone.bn1
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2.0)
        y = backbone.conv1(x)
        plain = (y - norm.running_mean[:, None, None]) / norm.running_var.sqrt()[:, None, None]
        torch.testing.assert_close(norm(y), plain)

    def test_other_values_stay(self) -> None:
        given = {"a": [{"type": "BN", "eps": 0.001}], "loss": {"type": "IoULoss", "eps": 0}, "neck": ({"type": "GN", "num_groups": 4},)}
        mended = fixes.mend_config(given)
        assert mended == given and mended is not given and isinstance(mended["neck"], tuple)


def test_ssd_predicts() -> None:
    prior = {
        "type": "SSDAnchorGenerator",
        "scale_major": False,
        "strides": [8, 16, 32],
        "ratios": ([2],) * 3,
        "min_sizes": [8, 16, 32],
        "max_sizes": [16, 32, 64],
    }
    test = {"nms_pre": 100, "nms": {"type": "nms", "iou_threshold": 0.45}, "min_bbox_size": 0, "score_thr": 0.02, "max_per_img": 20}
    head = _built({"type": "SSDHead", "in_channels": (8, 8, 8), "num_classes": 2, "anchor_generator": prior, "test_cfg": test}).eval()
    scores, boxes = head((*_maps(), torch.ones(2, 8, 2, 3)))
    with pytest.raises(AttributeError, match="loss_cls"):
        head.predict_by_feat(scores, boxes, batch_img_metas=[META, META])
    found = _mended(head).predict_by_feat(scores, boxes, batch_img_metas=[META, META])
    best = max(level[0].permute(1, 2, 0).reshape(-1, 3).softmax(-1)[:, :2].max() for level in scores)
    assert found[0].scores[0] == pytest.approx(best.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["GARetinaHead", "GARPNHead"])
def test_guided_anchoring_predicts_each_image_as_if_alone(kind: str) -> None:
    config = {"type": kind, "in_channels": 8, "feat_channels": 8, "loss_cls": FOCAL, "loc_filter_thr": 0.5} | (
        {"num_classes": 2, "stacked_convs": 1} if kind == "GARetinaHead" else {}
    )
    octave = {"type": "AnchorGenerator", "octave_base_scale": 8, "scales_per_octave": 1, "ratios": [1.0], "strides": [8, 16]}
    square = {"type": "AnchorGenerator", "ratios": [1.0], "scales": [8], "strides": [8, 16]}
    head = _built(config | {"approx_anchor_generator": octave, "square_anchor_generator": square})
    nn.init.normal_(head.conv_loc.weight)  # so that the images' masks differ
    maps = _maps()
    trained = head(maps)[0]
    head.eval()
    with pytest.raises(ValueError, match="one image"):
        head(maps)
    alone = [head([level[index : index + 1] for level in maps]) for index in range(2)]
    together = _mended(head)(maps)
    for output, (first, second) in zip(together, zip(*alone, strict=True), strict=True):
        for level, pair in zip(output, zip(first, second, strict=True), strict=True):
            torch.testing.assert_close(level, torch.cat(pair))
    head.train()
    assert all(torch.equal(one, other) for one, other in zip(trained, head(maps)[0], strict=True))


def test_centernet_predicts_images_without_a_border() -> None:
    head = TestMending()._head().eval()
    maps = head((torch.randn(2, 8, 16, 24, generator=torch.Generator().manual_seed(0)),))
    with pytest.raises(KeyError, match="border"):
        head.predict_by_feat(*maps, batch_img_metas=[META, META])
    bordered = [META | {"border": [0.0, 0, 0, 0]}, META | {"border": [4.0, 0, 6, 0]}]
    expected = head.predict_by_feat(*maps, batch_img_metas=bordered)
    found = _mended(head).predict_by_feat(*maps, batch_img_metas=[META, META])
    assert torch.equal(found[0].bboxes, expected[0].bboxes) and torch.equal(
        found[1].bboxes, expected[1].bboxes + torch.tensor([6.0, 4, 6, 4])
    )
    again = head.predict_by_feat(*maps, batch_img_metas=bordered)  # an image with a border keeps it
    assert torch.equal(again[1].bboxes, expected[1].bboxes) and "border" not in META


def test_a_two_stage_detr_names_the_number_of_its_queries() -> None:
    attention = {"embed_dims": 256, "num_heads": 8, "dropout": 0.0}
    ffn = {"embed_dims": 256, "feedforward_channels": 8}
    detector = _built(
        {
            "type": "DINO", "num_queries": 40, "with_box_refine": True, "as_two_stage": True, "num_feature_levels": 1,
            "backbone": {"type": "ResNet", "depth": 18, "base_channels": 4, "out_indices": (3,)},
            "neck": {"type": "ChannelMapper", "in_channels": [32], "out_channels": 256, "kernel_size": 1, "norm_cfg": {"type": "GN", "num_groups": 32}, "num_outs": 1},
            "encoder": {"num_layers": 1, "layer_cfg": {"self_attn_cfg": {**attention, "num_levels": 1}, "ffn_cfg": ffn}},
            "decoder": {"num_layers": 1, "return_intermediate": True, "post_norm_cfg": None, "layer_cfg": {"self_attn_cfg": attention, "cross_attn_cfg": {**attention, "num_levels": 1}, "ffn_cfg": ffn}},
            "positional_encoding": {"num_feats": 128, "normalize": True},
            "bbox_head": {"type": "DINOHead", "num_classes": 2, "embed_dims": 256, "sync_cls_avg_factor": True, "loss_cls": FOCAL},
            "dn_cfg": {"label_noise_scale": 0.5, "box_noise_scale": 1.0, "group_cfg": {"dynamic": True, "num_groups": None, "num_dn_queries": 10}},
            "test_cfg": {"max_per_img": 10},
        }
    ).eval()  # fmt: skip
    small = torch.zeros(1, 3, 128, 128)
    with pytest.raises(RuntimeError, match="out of range"):
        detector.predict(small, _samples()[:1])
    fixes.mend_detector(detector)
    with pytest.raises(InputError, match=r"DINO chooses 40 queries .* have 16\b") as error:
        detector.predict(small, _samples()[:1])
    assert "num_queries" in str(error.value)
    assert len(detector.predict(torch.zeros(1, 3, 224, 224), _samples()[:1])[0].pred_instances) == 10  # 49 locations


def test_ssd_names_images_that_are_too_small() -> None:
    neck = _built(
        {
            "type": "SSDNeck",
            "in_channels": (8, 8),
            "out_channels": (8, 8, 8),
            "level_strides": (1,),
            "level_paddings": (0,),
            "l2_norm_scale": None,
        }
    )
    neck((torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 4, 4)))
    small = (torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 2, 3))
    with pytest.raises(RuntimeError, match="greater than actual input size"):
        neck(small)
    with pytest.raises(InputError, match="last map of the backbone is 2 x 3"):
        _mended(neck)(small)
    with pytest.raises(RuntimeError, match="channels"):  # other errors stay as they are
        neck((torch.zeros(1, 8, 4, 4), torch.zeros(1, 9, 8, 8)))


def test_paa_trains_with_the_mixture_of_scikit_learn() -> None:
    head = _built(
        {
            "type": "PAAHead", "num_classes": 2, "in_channels": 8, "feat_channels": 8, "stacked_convs": 1, "norm_cfg": None, "topk": 9,
            "reg_decoded_bbox": True, "score_voting": True, "anchor_generator": ATSS, "bbox_coder": CODER, "loss_cls": FOCAL,
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.3},
            "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 0.5},
            "train_cfg": {
                "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.1, "neg_iou_thr": 0.1, "min_pos_iou": 0, "ignore_iof_thr": -1},
                "allowed_border": -1, "pos_weight": -1,
            },
        }
    )  # fmt: skip
    losses = head.loss(_maps(), _samples())
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values()) and losses["loss_bbox"].sum() > 0


def _tood() -> nn.Module:
    train = {
        "initial_epoch": 4,
        "initial_assigner": {"type": "ATSSAssigner", "topk": 9},
        "assigner": {"type": "TaskAlignedAssigner", "topk": 13},
    }
    return _built(
        {
            "type": "TOODHead", "num_classes": 2, "in_channels": 8, "feat_channels": 8, "stacked_convs": 2, "anchor_type": "anchor_free",
            "norm_cfg": None, "anchor_generator": ATSS, "bbox_coder": CODER, "initial_loss_cls": FOCAL | {"activated": True},
            "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "activated": True, "beta": 2.0, "loss_weight": 1.0},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
            "train_cfg": train | {"alpha": 1, "beta": 6, "allowed_border": -1, "pos_weight": -1},
        }
    )  # fmt: skip


def test_epoch_and_step_of_a_trial_reach_the_parts_that_ask_for_them() -> None:
    """TOOD changes its assigner with the epoch; YOLOX's resizing of batches asks for the step. A trial's hook gives both."""
    hub = MessageHub.get_instance("a trial of this test")
    head, maps = _tood(), _maps()
    lr = SimpleNamespace(get_lr=lambda: {"lr": [0.1]})
    losses = {}
    for epoch in (0, 4):
        runner = SimpleNamespace(message_hub=hub, epoch=epoch, iter=9, optim_wrapper=lr)
        TrialInfoHook().before_train_epoch(runner)
        TrialInfoHook().before_train_iter(runner, 0)
        losses[epoch] = sum(torch.as_tensor(each).sum().item() for value in head.loss(maps, _samples()).values() for each in value)
        assert head.epoch == epoch
    assert all(map(math.isfinite, losses.values())) and losses[0] != losses[4]
    resize = MODELS.build({"type": "BatchSyncRandomResize", "random_size_range": (32, 64), "interval": 10, "size_divisor": 32})
    images, samples = resize(torch.zeros(2, 3, *SIZE), _samples())
    assert resize._input_size is not None and images.shape[-2:] == SIZE  # step 10 draws the next size


@contextlib.contextmanager
def _memory_of_others() -> Iterator[None]:
    """New tensors hold what is no number, where they might hold anything."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _tridentnet(**init: object) -> nn.Module:
    return _built(
        {
            "type": "TridentResNet", "depth": 50, "num_branch": 3, "test_branch_idx": 1, "strides": (1, 2, 2), "dilations": (1, 1, 1),
            "trident_dilations": (1, 2, 3), "num_stages": 3, "out_indices": (2,), "base_channels": 4, **init,
        }
    )  # fmt: skip


def test_tridentnet_starts_from_random_numbers_and_keeps_pretrained_ones(tmp_path: Path) -> None:
    with _memory_of_others():
        plain = _tridentnet()
        plain.init_weights()
        assert plain.layer3[0].conv2.weight.isnan().all(), "the fault"
        mended = _mended(_tridentnet())
        mended.init_weights()
    assert all(torch.isfinite(value).all() for value in mended.state_dict().values())
    assert mended.layer3[1].conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.1)
    torch.save(mended.state_dict(), tmp_path / "weights.pth")
    again = _mended(_tridentnet(init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pth")}))
    again.init_weights()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in mended.state_dict().items())


def _vfnet() -> nn.Module:
    return _built(
        {
            "type": "VFNetHead", "num_classes": 2, "in_channels": 8, "feat_channels": 8, "stacked_convs": 1, "norm_cfg": None,
            "strides": [8, 16], "dcn_on_last_conv": False, "use_atss": True, "use_vfl": True, "anchor_generator": ATSS | {"center_offset": 0.0},
            "loss_cls": {"type": "VarifocalLoss", "use_sigmoid": True, "alpha": 0.75, "gamma": 2.0, "iou_weighted": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.5}, "loss_bbox_refine": {"type": "GIoULoss", "loss_weight": 2.0},
            "train_cfg": {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1},
        }
    )  # fmt: skip


def test_losses_of_a_dense_head_are_in_float32_under_mixed_precision() -> None:
    """VFNet fails without it on any device. Losses that only CUDA refuses are in benchmarks/gpu/mmdet_detectors.py."""
    head = _vfnet()
    with torch.autocast("cpu", torch.bfloat16):
        maps = head(_maps())
        assert maps[0][0].dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="dtypes match"):
            head.loss_by_feat(*maps, batch_gt_instances=[each.gt_instances for each in _samples()], batch_img_metas=[META, META])
        losses = _mended(head).loss(_maps(), _samples())
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values())
    assert {torch.as_tensor(value).dtype for value in losses.values()} == {torch.float32}
    sum(torch.as_tensor(value).sum() for value in losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_in_full_precision_losses_of_a_dense_head_are_mmdets() -> None:
    expected, found = _vfnet().loss(_maps(), _samples()), _mended(_vfnet()).loss(_maps(), _samples())
    assert all(torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)) for key, value in expected.items())


def test_reppoints_makes_its_tensors_where_its_points_are(monkeypatch: pytest.MonkeyPatch) -> None:
    head = _built({"type": "RepPointsHead", "num_classes": 2, "in_channels": 8, "feat_channels": 8, "stacked_convs": 1})
    monkeypatch.setattr(type(head), "_get_targets_single", lambda *arguments, **named: torch.arange(3).device.type)
    points = torch.empty(4, 3, device="meta")
    assert head._get_targets_single(points, None) == "cpu"
    assert _mended(head)._get_targets_single(points, None) == "meta"
