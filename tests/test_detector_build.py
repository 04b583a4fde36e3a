"""From settings to a detector: sizes published for the models, and the operators that stand in for mmcv's."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from gfl_lab.detector import mmcv_ops as ops
from gfl_lab.detector.box_forms import DiracDistance, Gaussian, General
from gfl_lab.detector.build import build_detector, model_config
from gfl_lab.detector.memory_order import to_channels_last
from gfl_lab.detector.mmcv_ops import extension
from gfl_lab.detector.qualities.branch import CenternessBranch
from gfl_lab.detector.qualities.dgqp import Dgqp
from gfl_lab.detector.qualities.guided import IouGuided
from gfl_lab.errors import ResourceError
from gfl_lab.spec.settings import Settings
from tests.test_architecture import below

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

torch.set_num_threads(1)  # the model is small: threads cost more than they give, above all beside other processes

DESK: dict[str, Any] = {
    "backbone": "r18",
    "base_channels": 24,
    "neck_channels": 64,
    "head_channels": 64,
    "head_convs": 2,
    "strides": (8, 16, 32),
    "frozen_stages": -1,
    "norm_eval": False,
    "image_size": (128, 128),
}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _on_meta(**settings: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return MODELS.build(model_config(Settings(**settings), 80))


@pytest.mark.parametrize(
    ("settings", "detector", "head"),
    [
        ({}, 32_440_537, 5_063_833),
        ({"qfl": False, "dfl": False}, 32_295_322, 4_918_618),
        ({"backbone": "r101"}, 51_432_665, 5_063_833),
        ({"backbone": "r18"}, 19_420_889, 5_063_833),
        ({"backbone": "r34"}, 29_529_049, 5_063_833),
        ({"backbone": "r101", "dcn": "v1"}, 52_718_837, 5_063_833),
        ({"backbone": "x101-32x4d", "dcn": "v1", "dcn_stages": "c4-c5"}, 53_467_053, 5_063_833),
        ({"quality": "dgqp"}, 32_440_537 + 1409, 5_065_242),
        ({"backbone": "vit-adapter-s"}, 35_813_801, 5_063_833),
    ],
    ids=["GFL R50", "ATSS R50", "GFL R101", "GFL R18", "GFL R34", "GFL R101-DCN", "GFL X101-DCN", "GFLv2 R50", "GFL ViT-Adapter-S"],
)
def test_parameters_of_the_published_models(settings: dict[str, Any], detector: int, head: int) -> None:
    model = _on_meta(**settings)
    assert (_count(model), _count(model.bbox_head)) == (detector, head)


def test_names_of_the_published_checkpoints() -> None:
    shapes = {name: tuple(value.shape) for name, value in _on_meta().bbox_head.state_dict().items()}
    towers = {f"{tower}_convs.{i}.{part}" for tower in ("cls", "reg") for i in range(4) for part in ("conv.weight", "gn.weight", "gn.bias")}
    last = {"gfl_cls.weight", "gfl_cls.bias", "gfl_reg.weight", "gfl_reg.bias", "integral.project"}
    assert shapes.keys() == towers | last | {f"scales.{i}.scale" for i in range(5)}
    assert shapes["gfl_reg.weight"] == (68, 256, 3, 3) and shapes["integral.project"] == (17,) and shapes["scales.0.scale"] == ()


def test_every_switch_of_the_head_reaches_it() -> None:
    settings = Settings(
        quality="iou_guided", box="gaussian", gaussian_weight=0.5, gaussian_box_loss=True, guided_eta=1.5, guided_renormalise=True,
        box_loss="ciou", box_loss_weight=1.5, box_weighting="iou", tower_bias=True, bin_width=0.5,
    )  # fmt: skip
    with torch.device("meta"):
        head = MODELS.build(model_config(settings, 3)).bbox_head
    assert head.quality_estimate == IouGuided(eta=1.5, renormalise=True)
    assert head.box_form == Gaussian(bin_width=0.5, weight=0.5, box_loss=True)
    assert (head.box_loss, head.box_loss_weight, head.box_weighting) == ("ciou", 1.5, "iou")
    assert head.cls_convs[0].conv.bias is not None
    settings = Settings(
        quality="dgqp", dgqp_topk=2, dgqp_mean=False, dgqp_variance=True, dgqp_channels=8, dgqp_detach=True, dgqp_form="composed"
    )
    with torch.device("meta"):
        head = MODELS.build(model_config(settings, 3)).bbox_head
    assert head.quality_estimate == Dgqp(topk=2, mean=False, variance=True, channels=8, form="composed", detach=True)
    assert head.reg_conf[0].weight.shape == (8, 12, 1, 1) and head.gfl_cls.in_channels == 256 + 8
    with torch.device("meta"):
        head = MODELS.build(model_config(Settings(box="general", dfl=False, quality="none", decode="local_peak"), 3)).bbox_head
    assert head.box_form == General(dfl_weight=0, decoding="local_peak")
    assert MODELS.build(model_config(Settings(**DESK, box="dirac", bbox_coder="distance"), 3)).bbox_head.box_form == DiracDistance()
    with torch.device("meta"):
        head = MODELS.build(model_config(Settings(quality="centerness", quality_weight=0.5), 3)).bbox_head
    assert head.quality_estimate == CenternessBranch(weight=0.5)
    assert model_config(Settings(neck_relu=True), 3).neck.relu_before_extra_convs


def test_switches_reach_the_model() -> None:
    config = model_config(Settings(qfl=False, reg_max=8, bin_width=0.5, dfl_weight=0.5, nms_iou=0.5, pad_to=64, **DESK), 3)
    head = config.bbox_head
    assert head.quality == {"type": "centerness", "weight": 1.0} and head.tower == {"convs": 2, "bias": False}
    assert head.box == {"type": "general", "reg_max": 8, "bin_width": 0.5, "decoding": "expectation", "dfl_weight": 0.5}
    assert head.box_loss == {"loss": "giou", "weight": 2.0, "weighting": "centerness"}
    assert model_config(Settings(qfl_beta=1.0), 3).bbox_head.quality == {"type": "joint", "beta": 1.0}
    assert config.neck.in_channels == [24, 48, 96, 192] and config.neck.start_level == 1 and config.neck.num_outs == 3
    assert config.test_cfg.nms.iou_threshold == 0.5 and config.data_preprocessor.pad_size_divisor == 64
    assert "init_cfg" not in model_config(Settings(init_weights="pretrained"), 3).backbone  # the trainer loads weights, safely
    assert config.train_cfg.assigner.topk == 9 and model_config(Settings(atss_topk=16), 3).train_cfg.assigner.topk == 16


@pytest.mark.parametrize("strides", [(4, 8), (8, 16, 32), (16, 32, 64, 128), (32,)])
def test_first_level_is_the_first_stride(strides: tuple[int, ...]) -> None:
    model = build_detector(Settings(**{**DESK, "strides": strides}), 2).eval()
    with torch.no_grad():
        levels = model.extract_feat(torch.zeros(1, 3, 256, 128))
    assert [tuple(level.shape[-2:]) for level in levels] == [(256 // s, 128 // s) for s in strides]


@pytest.mark.parametrize(
    ("qfl", "dfl"),
    [(False, False), (True, True), *(pytest.param(*both, marks=pytest.mark.exhaustive) for both in [(True, False), (False, True)])],
)
def test_desk_model_trains_and_predicts(qfl: bool, dfl: bool) -> None:
    torch.manual_seed(0)
    model = build_detector(
        Settings(qfl=qfl, dfl=dfl, score_thr=0.0, **DESK | {"base_channels": 16, "neck_channels": 32, "head_channels": 32}), 3
    )
    gt = torch.tensor([[20.0, 20, 80, 90], [70, 60, 120, 124]])
    samples = []
    for boxes in (gt, gt[:0]):
        sample = DetDataSample(metainfo={"img_shape": (128, 128), "ori_shape": (128, 128), "scale_factor": (1.0, 1.0)})
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)))
        samples.append(sample)
    images = [torch.randint(0, 60, (3, 128, 128), dtype=torch.uint8) for _ in samples]
    for (x1, y1, x2, y2), value in zip(gt.int().tolist(), (160, 250), strict=True):
        images[0][:, y1:y2, x1:x2] = value
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(60):
        losses = model(**model.data_preprocessor({"inputs": images, "data_samples": samples}, True), mode="loss")
        assert all(torch.isfinite(term) for term in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(**model.data_preprocessor({"inputs": images, "data_samples": samples}), mode="predict")
    full, empty = (sample.pred_instances for sample in found)
    # the two boxes, learned by heart, come first; the empty image has nothing of the kind
    assert sorted(full.labels[:2].tolist()) == [0, 1] and full.scores[1] > 0.3
    assert (box_iou(full.bboxes[:2], gt)[[0, 1], full.labels[:2]] > 0.7).all()
    assert empty.scores.max() < 0.3
    assert len(full) <= 100 and (full.scores.diff() <= 0).all()


@pytest.mark.skipif(not ops.is_installed(), reason="a compiled mmcv is installed")
class TestOperators:
    def test_nms(self) -> None:
        from mmcv.ops import batched_nms, nms

        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]])
        scores = torch.tensor([0.5, 0.9, 0.4, 0.1])
        dets, kept = nms(boxes, scores, iou_threshold=0.6)
        assert kept.tolist() == [1, 3] and torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], 1))
        _, kept = batched_nms(boxes, scores, torch.tensor([0, 0, 1, 1]), {"type": "nms", "iou_threshold": 0.6})
        assert kept.tolist() == [1, 2, 3]
        _, kept = nms(boxes, scores, iou_threshold=0.6, score_threshold=0.2, max_num=1)
        assert kept.tolist() == [1]
        # widths of x2 - x1 + 1: IoU of the pixels 0..9 and 5..14 is 5/15 with the offset, 4/14 without
        pair = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9]])
        assert len(nms(pair, torch.tensor([0.9, 0.8]), 0.31, offset=1)[1]) == 1
        assert len(nms(pair, torch.tensor([0.9, 0.8]), 0.31, offset=0)[1]) == 2

    def test_an_operator_that_is_not_served_says_its_name_when_called(self) -> None:
        from mmcv.ops import RoIPool

        layer = RoIPool(7)  # building a layer is fine
        with pytest.raises(ResourceError, match="roi_pool_forward"):
            layer(torch.zeros(1, 1, 8, 8), torch.zeros(1, 5))

    def test_module_has_a_spec(self) -> None:
        import importlib.util

        assert importlib.util.find_spec("mmcv._ext").loader is not None
        assert not hasattr(sys.modules["mmcv._ext"], "__wrapped__")

    def test_installing_twice_changes_nothing(self) -> None:
        before = sys.modules["mmcv._ext"]
        ops.install()
        assert sys.modules["mmcv._ext"] is before


TRAINING = ("gfl_lab.detector", "gfl_lab.setup", "gfl_lab.checkpoints", "gfl_lab.analysis", "gfl_lab.inference", "gfl_lab.train")


@pytest.mark.slow
def test_in_a_fresh_process_one_module_of_mmcv_is_replaced_quietly_and_no_other_and_no_service_is_loaded() -> None:
    """A module mmcv._ext that is already there stays, and the import prints nothing. mmdet finds the real libraries: PAA's mixtures.

    All modules of the detector and of training are imported, and none of them loads Ray, MLflow or Streamlit.
    """
    code = """
import importlib, importlib.machinery, importlib.util, sys, types
compiled = types.ModuleType('mmcv._ext'); compiled.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', None)
import mmcv; sys.modules['mmcv._ext'] = compiled
spec = importlib.util.spec_from_file_location('ops', sys.argv[1])
ops = importlib.util.module_from_spec(spec); spec.loader.exec_module(ops); ops.install()
assert sys.modules['mmcv._ext'] is compiled and not ops.is_installed()
del sys.modules['mmcv._ext']
import gfl_lab.detector
assert gfl_lab.detector.mmcv_ops.is_installed()
print('quiet until here', flush=True); print('quiet until here', file=sys.stderr, flush=True)

for name in sys.argv[2:]:
    importlib.import_module(name)
assert not {'ray', 'mlflow', 'streamlit'} & {name.partition('.')[0] for name in sys.modules}
from mmdet.models.dense_heads import paa_head
assert paa_head.skm.GaussianMixture.__module__.startswith('sklearn.')
import matplotlib.pyplot, mmdet.utils.mot_error_visualize, scipy.optimize, sklearn
fakes = {name for name, module in list(sys.modules.items()) if getattr(module, '__spec__', None) and 'gfl_lab' in str(module.__spec__.origin)}
assert {name for name in fakes if not name.startswith('gfl_lab')} <= {'mmcv._ext'}, fakes
"""
    # A pytest plugin's start-up hook in a child would load modules that ours do not.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "PYTEST_"))}
    command = [sys.executable, "-c", code, extension.__file__, *below(*TRAINING)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("quiet until here") and done.stderr.startswith("quiet until here"), done.stdout + done.stderr


def test_stands_in_for_the_verified_version_of_mmcv_only() -> None:
    """Another mmcv may have other operators: read its ``mmcv/ops`` and compare signatures before changing the number."""
    assert metadata.version("mmcv-lite") == ops.VERIFIED_MMCV


def test_the_table_of_operators_lists_what_is_served() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text()
    table = page.partition("## Operators of mmcv")[2].partition("\nAll compute")[0]
    listed = {name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed | {"get_compiler_version", "get_compiling_cuda_version"} == set(ops.served())


def test_a_narrow_strided_layer_keeps_plain_memory_order_and_its_numbers() -> None:
    """oneDNN writes past its memory there on a CPU with AVX2 alone; test_components.py trains such a backbone."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(8, 4, 3))
    ours = copy.deepcopy(plain)
    to_channels_last(ours)
    seen: list[bool] = []
    ours[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].is_contiguous()))
    image = torch.randn(2, 4, 32, 32)
    found = ours(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, plain(image))
    assert seen == [True] and not ours[1]._forward_pre_hooks and ours[2].weight.is_contiguous(memory_format=torch.channels_last)
