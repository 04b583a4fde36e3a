"""Parameter names of PaddleDetection and of gfl-lab, for its GFL and GFLv2 detectors and their ResNets, variants b and d.

Source of the names: PaddleDetection 2.x ``ppdet/modeling`` (backbones/resnet.py, name_adapter.py, necks/fpn.py,
heads/fcos_head.py, heads/gfl_head.py); arrays have the layout of torch's, as the models hold no Linear but the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gfl_lab.errors import InputError

_NORM = {"weight": "weight", "bias": "bias", "_mean": "running_mean", "_variance": "running_var"}
_STEM = {"conv1_1": 0, "conv1_2": 3, "conv1_3": 6}  # indexes in mmdet's deep stem; the norm follows its conv
_HEAD = {
    "gfl_head_cls": "gfl_cls", "gfl_head_reg": "gfl_reg", "distribution_project": "integral",
    "dgqp_module.dgqp_reg_conv1": "reg_conf.0", "dgqp_module.dgqp_reg_conv2": "reg_conf.2",
}  # fmt: skip
_TWICE = "dgqp_module.reg_conv"
"""Paddle registers the DGQP's convolutions under two names and saves both."""

_STEM_KEY = re.compile(r"conv1\.(conv1(?:_\d)?)\.(conv|norm)\.(\w+)")
_BLOCK_KEY = re.compile(r"res(\d)\.res\d([a-z])(\d*)\.(branch2([abc])|short(?:\.conv)?)\.(conv|norm)\.(\w+)")
_TOWER_KEY = re.compile(r"conv_feat\.fcos_head_(cls|reg)_tower_conv_(\d+)\.(conv|norm)\.(weight|bias)")
_FPN_KEY = re.compile(r"fpn_(?:(inner)_)?(?:res(\d)_sum(?:_lateral)?|(\d+))\.(weight|bias)")
_SCALE_KEY = re.compile(r"p(\d+)_feat\.scale_reg")


def is_paddle(state: Mapping[str, Any]) -> bool:
    """Return True if keys are PaddleDetection's: its head's, or batch-norm statistics under Paddle's names."""
    return any(key.startswith("head.gfl_head_cls.") or key.endswith(".norm._variance") for key in state)


def our_name(key: str, state: Mapping[str, Any]) -> str | None:
    """Return our key for Paddle's ``key``, always with ``backbone.``, ``neck.`` or ``bbox_head.`` in front; None to leave it out.

    Args:
        key: one of ``state``'s.
        state: all keys: the variant follows from the stem, and levels count from the lowest there is.

    Raises:
        InputError: a shortcut of variant c.
    """
    if key.startswith(("fc.", "out.")) or f"head.{_TWICE}" in key:
        return None
    part, _, name = key.partition(".")
    if part == "neck":
        return _neck(name, state) or key
    if part == "head":
        return _head(name, state) or key
    name = key.removeprefix("backbone.")
    return f"backbone.{_backbone(name, state) or name}"


def why_dropped(key: str) -> str:
    """Return the reason for a None of ``our_name``."""
    return "the same convolution under its second name" if _TWICE in key else "ImageNet classifier"


def _backbone(name: str, state: Mapping[str, Any]) -> str | None:
    deep = any("conv1.conv1_1." in key for key in state)
    if match := _STEM_KEY.fullmatch(name):
        where, layer, part = match.groups()
        if where == "conv1":
            return f"conv1.{part}" if layer == "conv" else f"bn1.{_NORM.get(part, part)}"
        index = _STEM.get(where)
        return None if index is None else f"stem.{index}.{part}" if layer == "conv" else f"stem.{index + 1}.{_NORM.get(part, part)}"
    match = _BLOCK_KEY.fullmatch(name)
    if match is None:
        return None
    stage, letter, number, branch, which, layer, part = match.groups()
    block = f"layer{int(stage) - 1}.{int(number) if number else ord(letter) - ord('a')}"
    part = part if layer == "conv" else _NORM.get(part, part)
    if which:
        return f"{block}.{layer.replace('norm', 'bn')}{'abc'.index(which) + 1}.{part}"
    if deep and branch == "short" and stage != "2":
        raise InputError(
            f"{name} is a shortcut without a pool behind a deep stem: PaddleDetection's variant c, which is not offered; b and d are"
        )
    # with a deep stem (variant d) index 0 is the pool, also where it does nothing
    return f"{block}.downsample.{(1 if layer == 'norm' else 0) + deep}.{part}"


def _neck(name: str, state: Mapping[str, Any]) -> str | None:
    match = _FPN_KEY.fullmatch(name)
    if match is None:
        return None
    inner, res, extra, part = match.groups()
    found = [other.partition(".")[2] for other in state if other.startswith("neck.")]
    lowest = min(int(m[2]) for m in map(_FPN_KEY.fullmatch, found) if m and m[2])
    return f"neck.{'lateral' if inner else 'fpn'}_convs.{int(res or extra) - lowest}.conv.{part}"


def _head(name: str, state: Mapping[str, Any]) -> str | None:
    if match := _TOWER_KEY.fullmatch(name):
        tower, index, layer, part = match.groups()
        return f"bbox_head.{tower}_convs.{index}.{layer.replace('norm', 'gn')}.{part}"
    if match := _SCALE_KEY.fullmatch(name):
        levels = sorted(int(m[1]) for m in (_SCALE_KEY.fullmatch(key.removeprefix("head.")) for key in state) if m)
        return f"bbox_head.scales.{levels.index(int(match[1]))}.scale"
    module, _, part = name.rpartition(".")
    return f"bbox_head.{_HEAD[module]}.{part}" if module in _HEAD else None
