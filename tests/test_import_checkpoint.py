"""Other projects' weights: files built with the published names and shapes, none downloaded.

Each format is proved complete in both directions (``convert`` compares with the model that its settings build, and a
strict load repeats it) and, where anything but a name could differ, equal in numbers to its source's formula.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from click.testing import CliRunner
from torch import Tensor, nn

from gfl_lab.checkpoints.convert import LOOKED_FOR, SOURCES, Converted, convert, recognise
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.checkpoints.import_checkpoint import import_checkpoint, read_weights
from gfl_lab.checkpoints.pretrained import load_backbone
from gfl_lab.checkpoints.visible_settings import NOT_VISIBLE
from gfl_lab.cli.main import cli, main
from gfl_lab.detector.build import model_config
from gfl_lab.errors import InputError
from gfl_lab.spec.settings import Settings

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.runner import save_checkpoint

torch.set_num_threads(1)  # the models are small: threads cost more than they give, above all beside other processes

CLASSES, WIDTH = 3, 16
STRIDES = [8, 16, 32, 64, 128]


# --- helpers --------------------------------------------------------------------------------------


def _stock(head: str = "GFLHead", backbone: dict[str, Any] | None = None, channels: list[int] | None = None, **extra: Any) -> nn.Module:
    """mmdet's own detector as its config files have it, narrow."""
    losses: dict[str, Any] = {"loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0}}
    if head == "ATSSHead":
        losses |= {
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]},
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
            "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        }
    else:
        losses |= {"loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0}}
    config = {
        "type": head.removesuffix("Head"),
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8} | (backbone or {}),
        "neck": {
            "type": "FPN",
            "in_channels": channels or [8, 16, 32, 64],
            "out_channels": WIDTH,
            "start_level": 1,
            "add_extra_convs": "on_output",
            "num_outs": 5,
        },
        "bbox_head": {
            "type": head,
            "num_classes": CLASSES,
            "in_channels": WIDTH,
            "feat_channels": WIDTH,
            "stacked_convs": 2,
            "norm_cfg": {"type": "GN", "num_groups": 2, "requires_grad": True},
            "anchor_generator": {
                "type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1, "strides": STRIDES,
            },
        }
        | losses
        | extra,
    }  # fmt: skip
    return MODELS.build(ConfigDict(config))


def _randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Different numbers in every tensor, statistics included, of a size that keeps maps finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not name.endswith("project"):
            value.copy_(_numbers(name, tuple(value.shape), generator))
    return model.eval()


def _numbers(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith(("running_var", "_variance")) or (len(shape) <= 1 and not name.endswith(("bias", "mean"))):
        return 1 + 0.2 * noise.clamp(-2, 2)
    return noise / max(1, torch.Size(shape[1:]).numel()) ** 0.5


def _build(converted: Converted) -> nn.Module:
    """Our detector, or backbone, from the derived settings, loaded strictly."""
    recognised = converted.recognised
    config = model_config(Settings(**recognised.settings), recognised.num_classes or 1)
    model = MODELS.build(config if recognised.kind == "detector" else config.backbone)
    model.load_state_dict(converted.state_dict, strict=True)
    model.eval()  # a ResNet's returns None
    return model


def _image(size: int = 128) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def _outputs(detector: nn.Module, image: Tensor) -> list[list[Tensor]]:
    return [list(level) for level in detector.bbox_head(detector.extract_feat(image))]


def _assert_same(ours: list[list[Tensor]], source: list[list[Tensor]]) -> None:
    assert len(ours) == len(source)
    for mine, theirs in zip(ours, source, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def _like(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of full published shapes that take no memory."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


# --- mmdet ----------------------------------------------------------------------------------------


def test_mmdet_gfl_is_taken_as_it_is() -> None:
    stock = _randomise(_stock())
    converted = convert({f"module.{key}": value for key, value in stock.state_dict().items()})
    recognised = converted.recognised
    assert (recognised.source, recognised.kind, recognised.num_classes) == ("mmdet-gfl", "detector", CLASSES)
    assert recognised.settings == {
        "backbone": "r18", "base_channels": 8, "dcn": "none", "neck_channels": WIDTH, "neck_relu": False, "head_channels": WIDTH,
        "head_convs": 2, "tower_bias": False, "strides": STRIDES, "box": "general", "reg_max": 16, "quality": "joint",
    }  # fmt: skip
    assert not converted.renamed and not converted.dropped and not converted.added and NOT_VISIBLE in recognised.warnings
    assert converted.parameters == sum(p.numel() for p in stock.parameters())
    assert recognise(stock.state_dict()) == recognised
    _assert_same(_outputs(_build(converted), _image()), _outputs(stock, _image()))


def test_mmdet_atss_gives_the_same_numbers() -> None:
    stock = _randomise(_stock("ATSSHead"))
    converted = convert(stock.state_dict())
    assert converted.recognised.source == "mmdet-atss"
    assert {key: converted.recognised.settings[key] for key in ("quality", "box")} == {"quality": "centerness", "box": "dirac"}
    assert converted.renamed == {
        f"bbox_head.atss_{old}.{part}": f"bbox_head.gfl_{new}.{part}"
        for old, new in (("cls", "cls"), ("reg", "reg"), ("centerness", "quality"))
        for part in ("weight", "bias")
    }
    _assert_same(_outputs(_build(converted), _image()), _outputs(stock, _image()))


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ({"depth": 34}, {"backbone": "r34", "base_channels": 8}),
        ({"depth": 50}, {"backbone": "r50"}),
        ({"depth": 101, "dcn": "DCN", "stage_with_dcn": (False, True, True, True)}, {"backbone": "r101", "dcn": "v1", "dcn_stages": "c3-c5"}),
        ({"depth": 50, "dcn": "DCNv2", "stage_with_dcn": (False, False, True, True)}, {"backbone": "r50", "dcn": "v2", "dcn_stages": "c4-c5"}),
        ({"type": "ResNeXt", "depth": 101, "groups": 4, "base_width": 4}, {"backbone": "x101-32x4d", "dcn": "none"}),
        (
            {"type": "ResNeXt", "depth": 101, "groups": 4, "base_width": 4, "dcn": "DCN", "stage_with_dcn": (False, False, True, True)},
            {"backbone": "x101-32x4d", "dcn": "v1", "dcn_stages": "c4-c5"},
        ),
        (
            {"type": "Res2Net", "depth": 101, "scales": 4, "base_width": 3.25, "dcn": "DCN", "stage_with_dcn": (False, False, True, True)},
            {"backbone": "r2-101", "dcn": "v1", "dcn_stages": "c4-c5"},
        ),
        ({"type": "ResNetV1d", "depth": 50}, {"backbone": "r50vd"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if "base_width" not in value else value["type"],
)  # fmt: skip
def test_backbones_are_told_apart(backbone: dict[str, Any], settings: dict[str, Any]) -> None:
    backbone = backbone | ({"dcn": {"type": backbone["dcn"], "deform_groups": 1}} if "dcn" in backbone else {})
    channels = [8, 16, 32, 64] if backbone["depth"] < 50 else [32, 64, 128, 256]
    with torch.device("meta"):
        stock = _stock(backbone=backbone, channels=channels)
    converted = convert(stock.state_dict())
    assert converted.recognised.settings.items() >= (settings | {"base_channels": 8}).items()
    assert not converted.renamed and not converted.dropped


@pytest.mark.parametrize(
    "settings",
    [
        {"reg_max": 8, "strides": (8, 16, 32), "head_convs": 1},
        {"strides": (4, 8), "box": "dirac"},
        {"strides": (32,), "quality": "centerness"},
        {"box": "gaussian", "quality": "joint", "dfl": False, "tower_bias": True},
        {"quality": "dgqp", "dgqp_topk": 2, "dgqp_channels": 8},
        {"quality": "dgqp", "dgqp_form": "composed"},
    ],
    ids=str,
)
def test_settings_of_our_own_detectors_come_back(settings: dict[str, Any]) -> None:
    wanted = Settings(backbone="r18", base_channels=8, neck_channels=24, head_channels=WIDTH, **{"head_convs": 2} | settings)
    with torch.device("meta"):
        state = MODELS.build(model_config(wanted, 2)).state_dict()
    recognised = recognise(state)
    assert (Settings(**recognised.settings), recognised.num_classes) == (wanted, 2)


# --- GFocal and GFocalV2 --------------------------------------------------------------------------


def _gfocalv2(seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """The rest of a stock GFL detector, and the state of the authors' repository: 81 class channels and ``reg_conf``."""
    stock = _randomise(_stock(num_classes=81))
    generator = torch.Generator().manual_seed(seed)
    state = dict(stock.state_dict())
    for key, shape in {"0.weight": (64, 20, 1, 1), "0.bias": (64,), "2.weight": (1, 64, 1, 1), "2.bias": (1,)}.items():
        state[f"bbox_head.reg_conf.{key}"] = torch.randn(shape, generator=generator)
    return stock, state


def test_gfocalv2_loses_its_81st_channel_and_gives_the_same_scores() -> None:
    stock, state = _gfocalv2()
    converted = convert(state)
    recognised = converted.recognised
    assert (recognised.source, recognised.num_classes) == ("gfocalv2", 80)
    expected = {
        "quality": "dgqp",
        "dgqp_topk": 4,
        "dgqp_mean": True,
        "dgqp_variance": False,
        "dgqp_channels": 64,
        "dgqp_form": "decomposed",
    }
    assert recognised.settings.items() >= expected.items()
    assert set(converted.dropped) == {"bbox_head.gfl_cls.weight[80]", "bbox_head.gfl_cls.bias[80]"} and not converted.renamed
    assert any("5 highest alone" in warning for warning in recognised.warnings)

    logits, boxes, quality = _outputs(_build(converted), _image())
    for cls, reg, ours_cls, ours_reg, ours_quality in zip(*_outputs(stock, _image()), logits, boxes, quality, strict=True):
        # the authors' formula: J = sigmoid(cls) * I, I from the top 4 probabilities of each side and their mean
        probs = reg.reshape(1, 4, 17, *reg.shape[2:]).softmax(2)
        top = probs.topk(4, dim=2).values
        seen = torch.cat([top, top.mean(2, keepdim=True)], dim=2).reshape(1, 20, *reg.shape[2:])
        hidden = F.conv2d(seen, state["bbox_head.reg_conf.0.weight"], state["bbox_head.reg_conf.0.bias"]).relu()
        score = cls.sigmoid() * F.conv2d(hidden, state["bbox_head.reg_conf.2.weight"], state["bbox_head.reg_conf.2.bias"]).sigmoid()
        torch.testing.assert_close(ours_cls.sigmoid() * ours_quality.sigmoid(), score[:, :80], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours_reg, reg, rtol=1e-4, atol=1e-4)


def test_only_gfocalv2_loses_a_channel() -> None:
    with torch.device("meta"):
        assert recognise(_stock(num_classes=81).state_dict()).num_classes == 81


def test_gfocal_v1_comes_with_a_warning() -> None:
    with torch.device("meta"):
        state = dict(_stock().state_dict())
    state["bbox_head.distribution_project.project"] = state.pop("bbox_head.integral.project")
    converted = convert(state)
    assert converted.recognised.source == "gfocal-v1"
    assert converted.renamed == {"bbox_head.distribution_project.project": "bbox_head.integral.project"}
    assert any("mmdet 1.x" in warning for warning in converted.recognised.warnings)


# --- ViT-Adapter and DeiT -------------------------------------------------------------------------


def _weight_and_bias(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": shape if part == "weight" else shape[:1] for name, shape in shapes.items() for part in ("weight", "bias")}


def _vit_shapes() -> dict[str, tuple[int, ...]]:
    """The ViT part of DeiT-S: names and shapes as published."""
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 197, 384), **_weight_and_bias(**{"patch_embed.proj": (384, 3, 16, 16)})}
    for i in range(12):
        block = {
            "norm1": (384,), "attn.qkv": (1152, 384), "attn.proj": (384, 384), "norm2": (384,), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536),
        }  # fmt: skip
        shapes |= {f"blocks.{i}.{key}": shape for key, shape in _weight_and_bias(**block).items()}
    return shapes


def _vit_adapter_shapes() -> dict[str, tuple[int, ...]]:
    """The backbone of ViT-Adapter-S: names and shapes as published."""

    def attention(levels: int) -> dict[str, tuple[int, ...]]:
        return {"sampling_offsets": (6 * levels * 4 * 2, 384), "attention_weights": (6 * levels * 4, 384), "value_proj": (384, 384),
                "output_proj": (384, 384)}  # fmt: skip

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        parts = {part: (channels,) for part in ("weight", "bias", "running_mean", "running_var")} | {"num_batches_tracked": ()}
        return {f"{name}.{part}": shape for part, shape in parts.items()}

    shapes = _vit_shapes() | {"level_embed": (3, 384)} | {f"blocks.{i}.gamma{k}": (384,) for i in range(12) for k in (1, 2)}
    for index, inputs in ((0, 3), (3, 64), (6, 64)):
        shapes |= {f"spm.stem.{index}.weight": (64, inputs, 3, 3)} | norm(f"spm.stem.{index + 1}", 64)
    for i, (inputs, channels) in enumerate(((64, 128), (128, 256), (256, 256)), start=2):
        shapes |= {f"spm.conv{i}.0.weight": (channels, inputs, 3, 3)} | norm(f"spm.conv{i}.1", channels)
    shapes |= _weight_and_bias(**{f"spm.fc{i}": (384, c, 1, 1) for i, c in enumerate((64, 128, 256, 256), start=1)})
    extractor = {
        "query_norm": (384,), "feat_norm": (384,), **{f"attn.{key}": shape for key, shape in attention(1).items()},
        "ffn.fc1": (96, 384), "ffn.dwconv.dwconv": (96, 1, 3, 3), "ffn.fc2": (384, 96), "ffn_norm": (384,),
    }  # fmt: skip
    injector = {"query_norm": (384,), "feat_norm": (384,), **{f"attn.{key}": shape for key, shape in attention(3).items()}}
    for i in range(4):
        shapes |= {f"interactions.{i}.injector.{key}": shape for key, shape in _weight_and_bias(**injector).items()}
        shapes |= {f"interactions.{i}.injector.gamma": (384,)}
        shapes |= {f"interactions.{i}.extractor.{key}": shape for key, shape in _weight_and_bias(**extractor).items()}
    for i in range(2):
        shapes |= {f"interactions.3.extra_extractors.{i}.{key}": shape for key, shape in _weight_and_bias(**extractor).items()}
    shapes |= _weight_and_bias(up=(384, 384, 2, 2))
    for i in range(1, 5):
        shapes |= norm(f"norm{i}", 384)
    return shapes


@pytest.mark.parametrize(("head", "source"), [("GFLHead", "vit-adapter-gfl"), ("ATSSHead", "vit-adapter-atss")])
def test_vit_adapter(head: str, source: str) -> None:
    with torch.device("meta"):
        rest = _stock(head, channels=[384] * 4, num_classes=80).state_dict()
    state = {key: value for key, value in rest.items() if not key.startswith("backbone.")}
    backbone = _like(_vit_adapter_shapes())
    state |= {f"backbone.{key}": value for key, value in backbone.items()}
    converted = convert(state)
    assert converted.recognised.source == source
    assert converted.recognised.settings.items() >= {"backbone": "vit-adapter-s", "base_channels": 64, "strides": STRIDES}.items()
    weights = sum(value.numel() for key, value in backbone.items() if not key.endswith(("mean", "var", "tracked")))
    assert weights == 27_503_888  # the published count: the names above are all there are
    assert not converted.dropped and not converted.added
    assert len(converted.renamed) == (0 if head == "GFLHead" else 6)


def test_deit_small() -> None:
    state = _like(_vit_shapes() | {"cls_token": (1, 1, 384)} | _weight_and_bias(norm=(384,), head=(1000, 384)))
    converted = convert(state)
    assert (converted.recognised.source, converted.recognised.kind, converted.recognised.num_classes) == ("deit", "backbone", None)
    assert converted.recognised.settings == {"backbone": "vit-adapter-s", "base_channels": 64, "dcn": "none"}
    assert set(converted.dropped) == {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert converted.state_dict.keys() == _vit_shapes().keys() and not converted.renamed
    state.pop("blocks.11.mlp.fc2.bias")
    with pytest.raises(InputError, match=r"blocks\.11\.mlp\.fc2\.bias"):
        convert(state)
    with pytest.raises(InputError, match="2 blocks of width 192"):
        convert(
            _like({"patch_embed.proj.weight": (192, 3, 16, 16), "blocks.0.attn.qkv.weight": (576, 192), "blocks.1.norm1.weight": (192,)})
        )


# --- torchvision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ours"),
    [("resnet18", "r18"), ("resnet34", "r34"), ("resnet50", "r50"), ("resnet101", "r101"), ("resnext101_32x8d", "x101-32x8d")],
)
def test_torchvision(name: str, ours: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    converted = convert(state)
    assert converted.recognised.source == "torchvision" and converted.recognised.kind == "backbone"
    assert converted.recognised.settings == {"backbone": ours, "base_channels": 64, "dcn": "none"}
    assert set(converted.dropped) == {"fc.weight", "fc.bias"} and converted.state_dict.keys() == state.keys() - set(converted.dropped)


def test_torchvision_gives_the_same_maps_and_counters_may_be_missing() -> None:
    source = _randomise(torchvision.models.resnet18())
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    converted = convert(state)
    assert len(converted.added) == 20 and all(key.endswith("num_batches_tracked") for key in converted.added)
    image = _image(64)
    with torch.no_grad():
        x = source.maxpool(source.relu(source.bn1(source.conv1(image))))
        theirs = [x := layer(x) for layer in (source.layer1, source.layer2, source.layer3, source.layer4)]
        _assert_same([list(_build(converted)(image))], [theirs])


# --- PaddleDetection ------------------------------------------------------------------------------

_PADDLE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class _Paddle:
    """A state dict with PaddleDetection's names, and its forward pass in functions, over the same names."""

    def __init__(self, depth: int, variant: str, base: int = 8, dgqp: bool = False, classes: int = CLASSES) -> None:
        self.depth, self.variant, self.base, self.dgqp = depth, variant, base, dgqp
        self.expansion = 1 if depth < 50 else 4
        self.state: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(depth)
        self._backbone()
        self._detector(classes)

    def _add(self, **shapes: tuple[int, ...]) -> None:
        for key, shape in shapes.items():
            self.state[key] = _numbers(key, shape, self._generator)

    def _conv_norm(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        norm = {f"{name}.norm.{part}": (outputs,) for part in ("weight", "bias", "_mean", "_variance")}
        self._add(**{f"{name}.conv.weight": (outputs, inputs, kernel, kernel)}, **norm)

    def blocks(self, stage: int) -> list[str]:
        count = _PADDLE_BLOCKS[self.depth][stage - 2]
        names = ["a", *(f"b{i}" for i in range(1, count))] if count > 10 else [chr(ord("a") + i) for i in range(count)]
        return [f"backbone.res{stage}.res{stage}{name}" for name in names]

    def _backbone(self) -> None:
        base = self.base
        if self.variant == "d":
            for i, (inputs, outputs) in enumerate(((3, base // 2), (base // 2, base // 2), (base // 2, base)), start=1):
                self._conv_norm(f"backbone.conv1.conv1_{i}", inputs, outputs, 3)
        else:
            self._conv_norm("backbone.conv1.conv1", 3, base, 7)
        inputs = base
        for stage in range(2, 6):
            width = base * 2 ** (stage - 2)
            for i, block in enumerate(self.blocks(stage)):
                if self.expansion == 1:
                    self._conv_norm(f"{block}.branch2a", inputs, width, 3)
                    self._conv_norm(f"{block}.branch2b", width, width, 3)
                else:
                    self._conv_norm(f"{block}.branch2a", inputs, width, 1)
                    self._conv_norm(f"{block}.branch2b", width, width, 3)
                    self._conv_norm(f"{block}.branch2c", width, width * 4, 1)
                if i == 0:
                    pooled = self.variant == "d" and stage > 2
                    self._conv_norm(f"{block}.short.conv" if pooled else f"{block}.short", inputs, width * self.expansion, 1)
                inputs = width * self.expansion

    def _detector(self, classes: int) -> None:
        for stage in (3, 4, 5):
            lateral = "neck.fpn_inner_res5_sum" if stage == 5 else f"neck.fpn_inner_res{stage}_sum_lateral"
            channels = self.base * 2 ** (stage - 2) * self.expansion
            self._add(**_weight_and_bias(**{lateral: (WIDTH, channels, 1, 1), f"neck.fpn_res{stage}_sum": (WIDTH, WIDTH, 3, 3)}))
        self._add(**_weight_and_bias(**{f"neck.fpn_{i}": (WIDTH, WIDTH, 3, 3) for i in (6, 7)}))
        for tower in ("cls", "reg"):
            for i in range(2):
                name = f"head.conv_feat.fcos_head_{tower}_tower_conv_{i}"
                self._add(**_weight_and_bias(**{f"{name}.conv": (WIDTH, WIDTH, 3, 3), f"{name}.norm": (WIDTH,)}))
        self._add(**_weight_and_bias(**{"head.gfl_head_cls": (classes, WIDTH, 3, 3), "head.gfl_head_reg": (68, WIDTH, 3, 3)}))
        self._add(**{f"head.p{i}_feat.scale_reg": (1,) for i in range(3, 8)})
        self.state["head.distribution_project.project"] = torch.linspace(0, 16, 17)
        if self.dgqp:
            for i, shape in ((1, (64, 20, 1, 1)), (2, (1, 64, 1, 1))):
                self._add(**_weight_and_bias(**{f"head.dgqp_module.dgqp_reg_conv{i}": shape}))
                for part in ("weight", "bias"):  # registered twice, saved twice
                    self.state[f"head.dgqp_module.reg_conv{i}.{part}"] = self.state[f"head.dgqp_module.dgqp_reg_conv{i}.{part}"]

    def _apply(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance, scale, shift = (self.state[f"{name}.norm.{part}"] for part in ("_mean", "_variance", "weight", "bias"))
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)

    def _block(self, name: str, x: Tensor, stride: int) -> Tensor:
        if self.expansion == 1:
            y = self._apply(f"{name}.branch2b", self._apply(f"{name}.branch2a", x, stride).relu())
        else:
            y = self._apply(f"{name}.branch2b", self._apply(f"{name}.branch2a", x).relu(), stride).relu()
            y = self._apply(f"{name}.branch2c", y)
        if f"{name}.short.conv.conv.weight" in self.state:  # pool, then a 1x1 convolution of stride 1
            x = self._apply(f"{name}.short.conv", F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False))
        elif f"{name}.short.conv.weight" in self.state:
            x = self._apply(f"{name}.short", x, stride)
        return (x + y).relu()

    def _plain(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps of res2 to res5."""
        if self.variant == "d":
            for i, stride in ((1, 2), (2, 1), (3, 1)):
                x = self._apply(f"backbone.conv1.conv1_{i}", x, stride).relu()
        else:
            x = self._apply("backbone.conv1.conv1", x, 2).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in range(2, 6):
            for i, block in enumerate(self.blocks(stage)):
                x = self._block(block, x, 2 if i == 0 and stage > 2 else 1)
            maps.append(x)
        return maps

    def outputs(self, image: Tensor) -> list[list[Tensor]]:
        """Class logits (with DGQP scores), box logits of each level."""
        c3, c4, c5 = self.features(image)[1:]
        p5 = self._plain("neck.fpn_inner_res5_sum", c5)
        p4 = self._plain("neck.fpn_inner_res4_sum_lateral", c4) + F.interpolate(p5, scale_factor=2.0)
        p3 = self._plain("neck.fpn_inner_res3_sum_lateral", c3) + F.interpolate(p4, scale_factor=2.0)
        levels = [self._plain(f"neck.fpn_res{i}_sum", p) for i, p in ((3, p3), (4, p4), (5, p5))]
        levels.append(self._plain("neck.fpn_6", levels[-1], 2))
        levels.append(self._plain("neck.fpn_7", levels[-1].relu(), 2))
        classes, boxes = [], []
        for level, x in enumerate(levels, start=3):
            towers = {}
            for tower in ("cls", "reg"):
                y = x
                for i in range(2):
                    name = f"head.conv_feat.fcos_head_{tower}_tower_conv_{i}"
                    scale, shift = self.state[f"{name}.norm.weight"], self.state[f"{name}.norm.bias"]
                    y = F.group_norm(self._plain(f"{name}.conv", y), 2, scale, shift).relu()
                towers[tower] = y
            score = self._plain("head.gfl_head_cls", towers["cls"])
            box = self._plain("head.gfl_head_reg", towers["reg"]) * self.state[f"head.p{level}_feat.scale_reg"]
            if self.dgqp:
                top = box.reshape(1, 4, 17, *box.shape[2:]).softmax(2).topk(4, dim=2).values
                seen = torch.cat([top, top.mean(2, keepdim=True)], dim=2).reshape(1, 20, *box.shape[2:])
                quality = self._plain("head.dgqp_module.dgqp_reg_conv2", self._plain("head.dgqp_module.dgqp_reg_conv1", seen).relu())
                score = score.sigmoid() * quality.sigmoid()
            classes.append(score)
            boxes.append(box)
        return [classes, boxes]


@pytest.mark.parametrize(("depth", "variant", "ours"), [(18, "d", "r18vd"), (34, "d", "r34vd"), (50, "b", "r50"), (101, "d", "r101vd")])
def test_paddle_gfl_gives_the_same_numbers(depth: int, variant: str, ours: str) -> None:
    paddle = _Paddle(depth, variant)
    converted = convert(paddle.state)
    recognised = converted.recognised
    assert (recognised.source, recognised.num_classes) == ("paddle-gfl", CLASSES)
    assert recognised.settings.items() >= {"backbone": ours, "base_channels": 8, "tower_bias": True, "neck_relu": True}.items()
    assert not converted.dropped and all(key.endswith("num_batches_tracked") for key in converted.added)
    assert converted.state_dict["bbox_head.scales.4.scale"].shape == ()
    _assert_same(_outputs(_build(converted), _image()), paddle.outputs(_image()))


def test_paddle_gflv2_gives_the_same_scores() -> None:
    paddle = _Paddle(18, "d", dgqp=True, classes=81)
    converted = convert(paddle.state)
    assert (converted.recognised.source, converted.recognised.num_classes) == ("paddle-gflv2", 80)
    assert sum("second name" in reason for reason in converted.dropped.values()) == 4
    logits, boxes, quality = _outputs(_build(converted), _image())
    scores, theirs = paddle.outputs(_image())
    _assert_same([[a.sigmoid() * b.sigmoid() for a, b in zip(logits, quality, strict=True)], boxes], [[s[:, :80] for s in scores], theirs])


@pytest.mark.parametrize(("depth", "variant", "ours"), [(50, "b", "r50"), (34, "d", "r34vd"), (101, "d", "r101vd")])
def test_paddle_backbone(depth: int, variant: str, ours: str) -> None:
    paddle = _Paddle(depth, variant)
    state = {key.removeprefix("backbone."): value for key, value in paddle.state.items() if key.startswith("backbone.")}
    converted = convert(state | _like({"fc.weight": (2048, 1000), "fc.bias": (1000,)}))
    assert (converted.recognised.source, converted.recognised.kind) == ("paddle-backbone", "backbone")
    assert converted.recognised.settings == {"backbone": ours, "base_channels": 8, "dcn": "none"}
    assert set(converted.dropped) == {"fc.weight", "fc.bias"}
    with torch.no_grad():
        _assert_same([list(_build(converted)(_image(64)))], [paddle.features(_image(64))])


def test_paddle_forms_that_are_not_offered() -> None:
    with pytest.raises(InputError, match=r"left over: layer1\.0\.downsample"):  # its R18 of variant b has a projection there
        convert({key: value for key, value in _Paddle(18, "b").state.items() if key.startswith("backbone.")})
    deep = {key.replace(".short.conv.", ".short."): value for key, value in _Paddle(50, "d").state.items()}
    with pytest.raises(InputError, match="variant c"):
        convert(deep)


# --- what is refused ------------------------------------------------------------------------------


def test_unknown_and_partial_state_dicts_say_what_was_looked_for() -> None:
    with pytest.raises(InputError, match=r"of no known detector or backbone; the first of 2 keys: encoder\.weight") as error:
        convert(_like({"encoder.weight": (3, 3), "encoder.bias": (3,)}))
    assert all(key in str(error.value) for key in LOOKED_FOR)
    with pytest.raises(InputError, match="no known detector"):
        convert(_like({"bbox_head.retina_cls.weight": (720, 256, 3, 3)}))
    with pytest.raises(InputError, match="no weights"):
        convert({})
    with torch.device("meta"):
        state = dict(_stock().state_dict())
    for broken, message in (
        (
            {key: value for key, value in state.items() if key != "neck.fpn_convs.3.conv.bias"},
            r"1 key missing: neck\.fpn_convs\.3\.conv\.bias",
        ),
        (state | {"bbox_head.extra": torch.zeros(1)}, r"1 key left over: bbox_head\.extra"),
        (
            state | {"bbox_head.reg_convs.1.conv.weight": torch.zeros(2, 2)},
            r"another shape: bbox_head\.reg_convs\.1\.conv\.weight \(2, 2\)",
        ),
        (state | {"bbox_head.gfl_reg.weight": torch.zeros(60, WIDTH, 3, 3)}, "gfl_reg has 60 channels"),
        ({key: value for key, value in state.items() if not key.startswith("neck.")}, "not whole"),
        ({key: value for key, value in state.items() if ".layer4.1." not in key}, "basic blocks"),
    ):
        with pytest.raises(InputError, match=message):
            convert(broken)


def test_other_deformable_stages_are_refused() -> None:
    dcn = {"dcn": {"type": "DCN", "deform_groups": 1}, "stage_with_dcn": (False, False, False, True)}
    with torch.device("meta"):
        state = _stock(backbone={"depth": 50} | dcn, channels=[32, 64, 128, 256]).state_dict()
    with pytest.raises(InputError, match=r"layers \[4\]"):
        convert(state)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_checkpoint_of_mmengine_with_its_logs(tmp_path: Path, form: str) -> None:
    stock = _stock()
    hub = MessageHub.get_instance("test_import_checkpoint")
    for step in range(3):
        hub.update_scalar("train/loss", np.float64(1.5 + step))
        hub.update_scalar("train/lr", 0.01)
    hub.update_info("iter", np.int64(3))
    file = tmp_path / "epoch_12.pth"
    meta = {"epoch": 12, "cfg": "model = dict()", "seed": np.int64(7), "dataset_meta": {"classes": ("a", "b", "c"), "palette": [(0, 0, 0)]}}
    content = {"meta": meta, "state_dict": stock.state_dict(), "message_hub": hub.state_dict()}
    if form == "zip":
        save_checkpoint(content, str(file))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="Python objects"):
        load_safely(file)  # so this file does hold them
    found = read_weights(file)
    assert found.weights.keys() == stock.state_dict().keys() and not found.others and found.classes == ("a", "b", "c")
    versions = stock.state_dict()._metadata  # torch's own name for them: mmdet's heads read the version of theirs there
    assert found.weights._metadata == versions and versions["bbox_head"]["version"] == 1
    assert all(torch.equal(value, found.weights[key]) for key, value in stock.state_dict().items())


class _Malicious:
    """Runs a command when an unsafe reader opens it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


class _Evaluating(_Malicious):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w')",)


@pytest.mark.parametrize(("kind", "name"), [(_Malicious, "posix.system"), (_Evaluating, "eval")])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, kind: type[_Malicious], name: str) -> None:
    marker = tmp_path / "executed"
    content = {"state_dict": {"a": torch.zeros(1)}, "bad": kind(marker)}
    torch.save(content, tmp_path / "bad.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for protocol in (2, 4):
        (tmp_path / f"bad{protocol}.pdparams").write_bytes(pickle.dumps({"a": np.zeros(1), "bad": kind(marker)}, protocol))
    files = sorted([*tmp_path.glob("*.pth"), *tmp_path.glob("*.pdparams")])
    assert len(files) == 4
    for file in files:
        out = tmp_path / "out.pth"
        with pytest.raises(InputError, match="Python objects" if file.stem == "old" else name):
            import_checkpoint(file, out)
        assert not marker.exists() and not out.exists()
    pickle.loads((tmp_path / "bad2.pdparams").read_bytes())
    assert marker.exists()  # so the files are what they claim to be


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_paddle_file(tmp_path: Path, protocol: int, kind: type) -> None:
    paddle = _Paddle(18, "d")
    arrays: dict[str, Any] = {key: value.numpy() for key, value in paddle.state.items()}
    arrays["StructuredToParameterName@@"] = {key: f"param_{i}" for i, key in enumerate(paddle.state)}
    arrays["head.gfl_head_cls.bias"] = ("conv2d_7.b_0", arrays["head.gfl_head_cls.bias"])  # newer Paddle's pair
    file = tmp_path / "gfl_r18vd_1x_coco.pdparams"
    file.write_bytes(pickle.dumps(kind(arrays), protocol))
    done = import_checkpoint(file, tmp_path / "out.pth")
    assert done.dropped == {"StructuredToParameterName@@": "not a tensor"}
    written = load_safely(tmp_path / "out.pth")
    expected = convert(paddle.state).state_dict
    assert written["state_dict"].keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in written["state_dict"].items())
    np.savez(tmp_path / "same.npz", **{key: value.numpy() for key, value in paddle.state.items()})
    assert convert(read_weights(tmp_path / "same.npz").weights).recognised == done.converted.recognised


@pytest.mark.parametrize("form", ["torch", "legacy", "paddle", "npz"])
def test_damaged_files(tmp_path: Path, form: str) -> None:
    file, out = tmp_path / "file", tmp_path / "out.pth"
    weights = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    if form == "paddle":
        file.write_bytes(pickle.dumps({key: value.numpy() for key, value in weights.items()}))
    elif form == "npz":
        with file.open("wb") as stream:
            np.savez(stream, **{key: value.numpy() for key, value in weights.items()})
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=form == "torch")
    whole = file.read_bytes()
    for end in (len(whole) // 2, len(whole) - 20, 30, 3):
        file.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"file"):
            import_checkpoint(file, out)
    for content in (b"", b"not weights at all", b"\x80\x04garbage", b"PK\x03\x04garbage"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"file"):
            import_checkpoint(file, out)
    file.unlink()
    with pytest.raises(InputError, match="does not exist"):
        import_checkpoint(file, out)
    assert list(tmp_path.iterdir()) == []


def test_written_backbones_are_taken_as_weights(tmp_path: Path) -> None:
    paddle = _Paddle(34, "d")
    sources = {
        "r18": torchvision.models.resnet18().state_dict(),
        "r34vd": {key.removeprefix("backbone."): value for key, value in paddle.state.items() if key.startswith("backbone.")},
        "r50": _Paddle(50, "b").state,  # a whole detector
    }
    for name, state in sources.items():
        torch.save(state, tmp_path / f"{name}.pth")
        done = import_checkpoint(tmp_path / f"{name}.pth", tmp_path / f"{name}.gfl-lab.pth")
        backbone = MODELS.build(model_config(Settings(**done.converted.recognised.settings), 1).backbone)
        load_backbone(backbone, str(done.out), name)
        written = {key.removeprefix("backbone."): value for key, value in done.converted.state_dict.items()}
        assert all(torch.equal(value, written[key]) for key, value in backbone.state_dict().items())


# --- the command -------------------------------------------------------------------------------------


def test_verb_writes_what_loads_and_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "elsewhere" / "atss.pth"
    source.parent.mkdir()
    torch.save({"state_dict": _stock("ATSSHead").state_dict(), "optimizer": {}}, source)
    before = source.read_bytes()
    done = CliRunner().invoke(cli, ["import-checkpoint", str(source), "--json"], catch_exceptions=False)
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["out"] == "atss.gfl-lab.pth"
    assert (report["source"], report["description"], report["kind"]) == ("mmdet-atss", SOURCES["mmdet-atss"], "detector")
    assert len(report["renamed"]) == 6 and report["dropped"] == [] and report["warnings"]
    written = load_safely(tmp_path / "atss.gfl-lab.pth")
    assert written["meta"] == {
        "format": 1, "kind": "detector", "source": "mmdet-atss", "settings": report["settings"], "num_classes": CLASSES, "sha256": report["sha256"],
    }  # fmt: skip
    model = MODELS.build(model_config(Settings(**report["settings"]), CLASSES))
    model.load_state_dict(written["state_dict"], strict=True)
    assert report["parameters"] == sum(p.numel() for p in model.parameters()) and report["keys"] == len(model.state_dict())

    with pytest.raises(InputError, match="exists"):
        CliRunner().invoke(cli, ["import-checkpoint", str(source)], catch_exceptions=False)
    text = CliRunner().invoke(cli, ["import-checkpoint", str(source), "--force"], catch_exceptions=False).stdout
    assert "ATSS detector with mmdet's names (detector, 3 classes)" in text and "quality: centerness" in text and "bin_width 1" in text
    with pytest.raises(InputError, match="exists"):  # never the source itself
        CliRunner().invoke(cli, ["import-checkpoint", str(source), "--out", str(source), "--force"], catch_exceptions=False)
    assert source.read_bytes() == before


def test_mistakes_are_exit_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(2, 2)}, file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gfl-lab", "import-checkpoint", str(file)])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and "encoder.weight" in err and "Looked for" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == [file]
