"""Backbones by name: published parameter counts, PaddleDetection's vd form, deformable starts, classes of the user's."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfl_lab.checkpoints.pretrained import published_url
from gfl_lab.detector import vit_adapter as _vit_adapter  # noqa: F401  (registers ViTAdapter)
from gfl_lab.detector.backbones import backbone_config
from gfl_lab.detector.build import build_detector
from gfl_lab.errors import InputError
from gfl_lab.spec.backbones import BACKBONES, Backbone, load_function, with_dcn, with_weights
from gfl_lab.spec.settings import Settings, inactive

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

torch.set_num_threads(1)

DEFORMABLE = tuple(name for name in with_dcn() if name != "x101-32x8d")  # 32x4d with another width
RESNETS = tuple(name for name in BACKBONES if name != "vit-adapter-s")
VD = ("r18vd", "r34vd", "r50vd", "r101vd")
PROJECTION = 64 * 64 + 2 * 64
"""1x1 convolution and batch norm of the first block's shortcut in R18-vd and R34-vd."""


def _build(stages: int = 4, **settings: Any) -> nn.Module:
    return MODELS.build(backbone_config(Settings(**settings), stages)[0])


def _count(**settings: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _build(**settings).parameters())


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"backbone": "r18"}, 11_176_512),
        ({"backbone": "r34"}, 21_284_672),
        ({"backbone": "r50"}, 23_508_032),
        ({"backbone": "r101"}, 42_500_160),
        ({"backbone": "r18vd"}, 11_195_744 + PROJECTION),
        ({"backbone": "r34vd"}, 21_303_904 + PROJECTION),
        ({"backbone": "r50vd"}, 23_527_264),
        ({"backbone": "r101vd"}, 42_519_392),
        ({"backbone": "r101", "dcn": "v1", "dcn_stages": "c3-c5"}, 43_786_332),
        # v2 has 9 more channels, masks, for each 3x3 of 128 (4 blocks), 256 (23) and 512 (3) channels
        ({"backbone": "r101", "dcn": "v2"}, 43_786_332 + sum(n * 9 * (9 * c + 1) for n, c in ((4, 128), (23, 256), (3, 512)))),
        ({"backbone": "x101-32x4d"}, 42_128_704),
        ({"backbone": "x101-32x8d"}, 88_791_336 - 2048 * 1000 - 1000),  # torchvision's count, less its classifier
        ({"backbone": "x101-32x4d", "dcn": "v1", "dcn_stages": "c4-c5"}, 44_534_548),
        ({"backbone": "r2-101", "dcn": "v1", "dcn_stages": "c4-c5"}, 44_644_100),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_parameters_of_the_published_backbones(settings: dict[str, Any], parameters: int) -> None:
    assert _count(**settings) == parameters


def _check_training(backbone: nn.Module, channels: list[int], dtype: torch.dtype) -> None:
    backbone.train()
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        maps = backbone(x)
    assert [tuple(level.shape) for level in maps] == [(2, c, 96 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
    sum(level.float().square().mean() for level in maps).backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "dcn"), [(name, dcn) for name in RESNETS for dcn in (("none", "v1", "v2") if name in DEFORMABLE else ("none",))]
)
def test_trains_at_small_width(name: str, dcn: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config, channels = backbone_config(Settings(backbone=name, dcn=dcn, base_channels=8, frozen_stages=-1, norm_eval=False), 4)
    assert channels == [(8 if name[:3] in ("r18", "r34") else 32) * 2**stage for stage in range(4)]
    backbone = MODELS.build(config)
    backbone.init_weights()
    _check_training(backbone, channels, dtype)


def test_vit_adapter() -> None:
    config, channels = backbone_config(Settings(backbone="vit-adapter-s", base_channels=8, drop_path=0.1), 2)
    assert config == {"type": "ViTAdapter", "base_channels": 8, "drop_path_rate": 0.1} and channels == [48, 48, 48, 48]
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        _check_training(MODELS.build(config), channels, dtype)


@pytest.mark.parametrize(("name", "expansion"), [("r18", 1), ("r50", 4)])
def test_config_of_the_plain_backbones(name: str, expansion: int) -> None:
    config, channels = backbone_config(
        Settings(backbone=name, base_channels=16, frozen_stages=4, norm_eval=False, bn_requires_grad=False), 3
    )
    assert config == {
        "type": "ResNet",
        "depth": int(name[1:]),
        "base_channels": 16,
        "num_stages": 3,
        "strides": (1, 2, 2),
        "dilations": (1, 1, 1),
        "out_indices": (0, 1, 2),
        "frozen_stages": 3,
        "norm_cfg": {"type": "BN", "requires_grad": False},
        "norm_eval": False,
        "style": "pytorch",
    }
    assert channels == [16 * expansion, 32 * expansion, 64 * expansion]


@pytest.mark.parametrize("name", RESNETS)
def test_frozen_stages_and_norms(name: str) -> None:
    backbone = _build(backbone=name, base_channels=8, frozen_stages=1, bn_requires_grad=False)
    backbone.train()
    for parameter_name, parameter in backbone.named_parameters():
        frozen = not parameter_name.startswith(("layer2", "layer3", "layer4"))
        assert parameter.requires_grad == (not frozen and parameter.ndim > 1)  # a ResNet's vectors are all of batch norms
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)  # norm_eval


@pytest.mark.parametrize("name", DEFORMABLE)
@pytest.mark.parametrize(("dcn", "kind", "channels"), [("v1", "DCN", 18), ("v2", "DCNv2", 27)])
@pytest.mark.parametrize(("dcn_stages", "stages"), [("c3-c5", 4), ("c4-c5", 4), ("c3-c5", 2)])
def test_deformable_stages(name: str, dcn: str, kind: str, channels: int, dcn_stages: str, stages: int) -> None:
    settings = Settings(backbone=name, dcn=dcn, dcn_stages=dcn_stages, base_channels=8)
    config, _ = backbone_config(settings, stages)
    before = copy.deepcopy(config)
    with torch.device("meta"):
        backbone = MODELS.build(config)
    assert config == before == backbone_config(settings, stages)[0] and config["dcn"] == {"type": kind, "deform_groups": 1}
    offsets = {key: value.shape[0] for key, value in backbone.state_dict().items() if key.endswith("conv_offset.weight")}
    assert set(offsets.values()) == {channels}
    blocks = {
        f"layer{stage}": (3, 4, 6 if name == "r50" else 23, 3)[stage - 1] for stage in range(2 if dcn_stages == "c3-c5" else 3, stages + 1)
    }
    scales = 3 if name == "r2-101" else 1
    assert {layer: sum(key.startswith(layer) for key in offsets) for layer in blocks} == {layer: n * scales for layer, n in blocks.items()}
    assert len(offsets) == sum(blocks.values()) * scales
    if name == "x101-32x4d":
        assert backbone.layer2[0].conv2.groups == 4 and backbone.layer2[0].conv2.weight.shape == (32, 8, 3, 3)


def test_published_groups_of_resnext() -> None:
    with torch.device("meta"):
        backbone = _build(backbone="x101-32x4d", dcn="v1")
    assert backbone.layer4[0].conv2.groups == 32 and backbone.layer4[0].conv2.conv_offset.groups == 1


@pytest.mark.parametrize("name", ["r50", "x101-32x4d", "r2-101"])
@pytest.mark.parametrize("dcn", ["v1", "v2"])
def test_offsets_are_zero_after_initialisation(name: str, dcn: str) -> None:
    backbone = _build(backbone=name, dcn=dcn, base_channels=8)
    for value in backbone.parameters():
        nn.init.ones_(value)
    backbone.init_weights()
    offsets = [value for key, value in backbone.named_parameters() if "conv_offset" in key]
    assert offsets and all((value == 0).all() for value in offsets)
    assert backbone.conv1.weight.std() > 0 if hasattr(backbone, "conv1") else backbone.stem[0].weight.std() > 0


class TestResNetVd:
    """ResNetVd against mmdet's V1d, and its projections against their formula."""

    @pytest.mark.parametrize("name", ["r50vd", "r101vd"])
    def test_bottlenecks_equal_mmdets_v1d(self, name: str) -> None:
        torch.manual_seed(0)
        ours = _build(backbone=name, base_channels=8)
        config = backbone_config(Settings(backbone=name, base_channels=8), 4)[0]
        theirs = MODELS.build(config | {"type": "ResNetV1d"})
        theirs.load_state_dict(ours.state_dict())  # strict: the names are the same
        ours.eval(), theirs.eval()
        x = torch.randn(1, 3, 70, 90)  # odd sides after the first stages: the pools' ceil_mode counts
        for a, b in zip(ours(x), theirs(x), strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("name", ["r18vd", "r34vd"])
    def test_basic_blocks_have_one_more_shortcut_than_mmdets(self, name: str) -> None:
        with torch.device("meta"):
            ours = _build(backbone=name)
            theirs = MODELS.build(backbone_config(Settings(backbone=name), 4)[0] | {"type": "ResNetV1d"})
        shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
        more = {key: shapes.pop(key) for key in shapes.keys() - theirs.state_dict().keys()}
        assert shapes == {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
        norm = {f"layer1.0.downsample.2.{part}": (64,) for part in ("weight", "bias", "running_mean", "running_var")}
        assert more == {"layer1.0.downsample.1.weight": (64, 64, 1, 1), "layer1.0.downsample.2.num_batches_tracked": ()} | norm

    def test_first_blocks_by_their_formula(self) -> None:
        torch.manual_seed(0)
        backbone = _build(backbone="r18vd", base_channels=8)
        backbone.eval()
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        x = torch.randn(1, 8, 7, 5)
        for layer, stride in ((backbone.layer1, 1), (backbone.layer2, 2)):
            block, state = layer[0], layer[0].state_dict()

            def norm(value: Tensor, name: str, state: dict[str, Tensor] = state) -> Tensor:
                weight, bias = (state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
                return value / math.sqrt(1 + 1e-5) * weight + bias  # running mean 0, variance 1

            y = norm(F.conv2d(x, state["conv1.weight"], stride=stride, padding=1), "bn1").relu()
            y = norm(F.conv2d(y, state["conv2.weight"], padding=1), "bn2")
            short = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else x
            short = norm(F.conv2d(short, state["downsample.1.weight"]), "downsample.2")
            expected = (y + short).relu()
            torch.testing.assert_close(block(x), expected)
            x = expected
        assert x.shape == (1, 16, 4, 3)

    @pytest.mark.parametrize("name", VD)
    def test_fewer_stages(self, name: str) -> None:
        _, channels = backbone_config(Settings(backbone=name, base_channels=8), 2)
        maps = _build(stages=2, backbone=name, base_channels=8)(torch.zeros(1, 3, 64, 64))
        assert [level.shape[1] for level in maps] == channels and len(channels) == 2


class TestBackboneOfTheUser:
    """A registered class by its name."""

    @pytest.fixture
    def registered(self) -> Any:
        class PooledPixels(nn.Module):
            def __init__(self, width: int = 3) -> None:
                super().__init__()
                self.out_channels = [width, width, width, width]
                self.project = nn.Conv2d(3, width, 1)

            def forward(self, x: Tensor) -> tuple[Tensor, ...]:
                x = self.project(x)
                return tuple(F.avg_pool2d(x, stride) for stride in (4, 8, 16, 32))

        class Silent(nn.Module):
            pass

        for cls in (PooledPixels, Silent):
            MODELS.register_module(module=cls)
        yield
        for cls in (PooledPixels, Silent):
            del MODELS.module_dict[cls.__name__]

    def test_takes_its_arguments_and_says_its_channels(self, registered: None) -> None:
        settings = Settings(backbone="PooledPixels", component_args={"backbone": {"width": 5}})
        torch.manual_seed(0)
        before = torch.get_rng_state()
        config, channels = backbone_config(settings, 3)
        assert config == {"type": "PooledPixels", "width": 5} and channels == [5, 5, 5, 5]
        assert torch.equal(torch.get_rng_state(), before)  # the trial's start does not depend on it
        _check_training(MODELS.build(config), channels, torch.float32)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"backbone": "Unheard"}, "backbone Unheard is not registered"),
            ({"backbone": "Silent"}, "backbone Silent has out_channels None; this pyramid needs those of 4 maps"),
            ({"backbone": "PooledPixels", "component_args": {"backbone": {"depth": 5}}}, "unexpected keyword argument 'depth'"),
        ],
    )
    def test_mistakes_are_named(self, registered: None, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            backbone_config(Settings(**settings), 4)


class _Shallow(nn.Module):
    """Four convolutions: the smallest backbone there is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        strides, inputs = (4, 2, 2, 2), (3, width, width, width)
        self.layers = nn.ModuleList(nn.Conv2d(c, width, stride, stride) for c, stride in zip(inputs, strides, strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)
        return tuple(maps)


def shallow(options: dict[str, Any], settings: Settings, stages: int) -> tuple[dict[str, Any], list[int]]:
    """Return config and channels, as an entry's function does."""
    width = options["times"] * settings.base_channels
    return {"type": "Shallow", "width": width}, [width] * 4


def test_one_entry_is_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, rules, published weights and training take a backbone from its entry alone."""
    address = "https://example.org/shallow-00000000.pth"
    entry = Backbone(
        build=f"{__name__}:shallow",
        options={"times": 2},
        weights=address,
        pad_to=64,
        settings=("frozen_stages", "norm_eval", "bn_requires_grad"),
    )
    monkeypatch.setitem(BACKBONES, "shallow", entry)
    MODELS.register_module(name="Shallow", module=_Shallow)
    try:
        settings = Settings(
            backbone="shallow", base_channels=4, pad_to=64, neck_channels=8, head_channels=8, head_convs=1, strides=(8, 16, 32)
        )
        assert "drop_path" in inactive(settings) and not {"norm_eval", "base_channels"} & inactive(settings).keys()
        assert "shallow" in with_weights() and published_url("shallow") == address
        for wrong, message in (({"dcn": "v2"}, "shallow has no deformable form"), ({"pad_to": 32}, "padded to a multiple of 64")):
            with pytest.raises(ValueError, match=message):
                Settings(**settings.model_dump() | wrong)
        model = build_detector(settings, 3).train()
        sample = DetDataSample(metainfo={"img_shape": (64, 64), "pad_shape": (64, 64)})
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[4.0, 4, 60, 56]]), labels=torch.tensor([1]))
        optimizer, before = torch.optim.SGD(model.parameters(), lr=0.001), copy.deepcopy(model.backbone.state_dict())
        total = sum(model.loss(torch.randn(1, 3, 64, 64), [sample]).values())
        total.backward()
        optimizer.step()
        assert total.isfinite() and all(not torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    finally:
        del MODELS.module_dict["Shallow"]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_entry_names_code_that_is_there(name: str) -> None:
    entry = BACKBONES[name]
    assert callable(load_function(entry.build)) and (not entry.read_weights or callable(load_function(entry.read_weights)))
    assert set(entry.settings) <= Settings.model_fields.keys()
    if entry.weights:
        assert published_url(name).startswith("https://")
