"""Every backbone that gfl-lab has, as one entry: names, rules, published weights, and the code that builds it.

The entries need no torch, because planning and checks read them. Code that does is named as ``"module:function"``.
To add a backbone, add an entry (docs/development.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

PUBLISHED_WIDTH = 64
"""``base_channels`` of every published backbone; widths are in proportion to it."""

BACKBONE_STRIDES = (4, 8, 16, 32)
"""Strides of a backbone's four maps."""


@dataclass(frozen=True)
class Layout:
    """Marks by which the weights of a member of the ResNet family are recognised.

    Attributes:
        block: kind of its residual blocks.
        blocks: of the four stages.
        form: plain; vd: a deep stem; grouped: convolutions in groups of ``group_width`` channels; res2net: scales in a block.
        group_width: channels of a group.
    """

    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, int, int, int]
    form: Literal["plain", "vd", "grouped", "res2net"] = "plain"
    group_width: int = 0


@dataclass(frozen=True)
class Backbone:
    """A backbone.

    Attributes:
        build: "module:function" that takes (options, settings, stages) and returns the mmdet config and the channels of the
            maps at ``BACKBONE_STRIDES``: ``stages`` of them or, where it always has all its maps, four.
        options: the function's, for this entry.
        weights: published ImageNet weights: "torchvision:" with the name of a model, "openmmlab:" with a key of mmengine's
            model zoo, an address, or "" where none can be downloaded.
        weights_hint: the way to weights where none can be downloaded; ``{name}`` is the backbone's.
        read_weights: "module:function" that takes a state dict of another project's and returns it under the backbone's names,
            with the names that it cannot hold; "" where names are torchvision's.
        layout: how a converter recognises its weights; None where it has code of its own.
        dcn: has a form with deformable convolutions.
        pad_to: sides of its images are multiples of this, px.
        settings: settings of the group model that act beside some backbones only, this one among them.
    """

    build: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    weights_hint: str = ""
    read_weights: str = ""
    layout: Layout | None = None
    dcn: bool = False
    pad_to: int = 1
    settings: tuple[str, ...] = ()


_R18, _R34 = (2, 2, 2, 2), (3, 4, 6, 3)
_R101 = (3, 4, 23, 3)
_CONVERT_PADDLE = (
    "Convert PaddleDetection's file with `gfl-lab import-checkpoint FILE` and give the path of the result (--init-weights {name}=FILE), "
    "or --init-weights random to start from nothing."
)


def _resnet(kind: str, depth: int, layout: Layout, **more: Any) -> Backbone:
    return Backbone(
        build="gfl_lab.detector.backbones:resnet",
        options=MappingProxyType({"type": kind, "depth": depth, "group_width": layout.group_width}),
        layout=layout,
        settings=("frozen_stages", "norm_eval", "bn_requires_grad"),
        weights_hint=_CONVERT_PADDLE if layout.form == "vd" else "",
        **more,
    )


BACKBONES: dict[str, Backbone] = {
    "r18": _resnet("ResNet", 18, Layout("basic", _R18), weights="torchvision:ResNet18"),
    "r34": _resnet("ResNet", 34, Layout("basic", _R34), weights="torchvision:ResNet34"),
    "r50": _resnet("ResNet", 50, Layout("bottleneck", _R34), weights="torchvision:ResNet50", dcn=True),
    "r101": _resnet("ResNet", 101, Layout("bottleneck", _R101), weights="torchvision:ResNet101", dcn=True),
    "r18vd": _resnet("ResNetVd", 18, Layout("basic", _R18, "vd")),
    "r34vd": _resnet("ResNetVd", 34, Layout("basic", _R34, "vd")),
    "r50vd": _resnet("ResNetVd", 50, Layout("bottleneck", _R34, "vd")),
    "r101vd": _resnet("ResNetVd", 101, Layout("bottleneck", _R101, "vd")),
    "x101-32x4d": _resnet("ResNeXt", 101, Layout("bottleneck", _R101, "grouped", 4), weights="openmmlab:resnext101_32x4d", dcn=True),
    "x101-32x8d": _resnet("ResNeXt", 101, Layout("bottleneck", _R101, "grouped", 8), weights="torchvision:ResNeXt101_32X8D", dcn=True),
    "r2-101": _resnet("Res2Net", 101, Layout("bottleneck", _R101, "res2net"), weights="openmmlab:res2net101_v1d_26w_4s", dcn=True),
    "vit-adapter-s": Backbone(
        build="gfl_lab.detector.vit_adapter:vit_adapter",
        weights="https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
        read_weights="gfl_lab.detector.vit_adapter:read_weights",
        pad_to=32,
        settings=("drop_path",),
    ),
}
"""The backbones by the value of the setting ``backbone``."""


def with_weights() -> list[str]:
    """Return the backbones whose published weights can be downloaded."""
    return [name for name, entry in BACKBONES.items() if entry.weights]


def with_dcn() -> list[str]:
    """Return the backbones that have a form with deformable convolutions."""
    return [name for name, entry in BACKBONES.items() if entry.dcn]


def acts(setting: str, backbone: str) -> bool:
    """Return True if a setting that acts beside some backbones only does so beside this one."""
    return backbone in BACKBONES and setting in BACKBONES[backbone].settings


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that ``"module:function"`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
