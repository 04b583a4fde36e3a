"""Settings of a detector or backbone as far as its weights show them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gfl_lab.errors import InputError
from gfl_lab.spec.backbones import BACKBONE_STRIDES, BACKBONES

NOT_VISIBLE = "not visible in weights, so defaults: bin_width 1, anchor_scale 8, all settings of losses and of the test"
_VIT_HEADS = 6  # ViT-Adapter-S; base_channels is the width of one


def count_matches(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return the number of values of the group of ``pattern`` at the start of keys."""
    return len({match[1] for match in (re.match(pattern, key) for key in state) if match})


def need(state: Mapping[str, Tensor], key: str) -> Tensor:
    """Return a tensor that weights of this kind must have. Raises InputError if it is missing."""
    if key not in state:
        raise InputError(f"the file is not whole: {key} is missing")
    return state[key]


def backbone_settings(state: Mapping[str, Tensor], warnings: list[str]) -> dict[str, Any]:
    """Return settings of the backbone from keys with ``backbone.`` in front."""
    if "backbone.pos_embed" in state:
        width = state["backbone.pos_embed"].shape[-1]
        if width == 192:
            warnings.append("a ViT of width 192 is read as one of 6 heads; ViT-Adapter-T, which has 3, would give other numbers")
        return {"backbone": "vit-adapter-s", "base_channels": width // _VIT_HEADS, "dcn": "none"}

    stages = count_matches(state, r"backbone\.layer(\d)\.")
    blocks = tuple(count_matches(state, rf"backbone\.layer{stage}\.(\d+)\.") for stage in range(1, stages + 1))
    first = "backbone.layer1.0."
    res2net = f"{first}convs.0.weight" in state
    block = "bottleneck" if f"{first}conv3.weight" in state else "basic"
    if block == "basic":
        base_channels = need(state, f"{first}conv2.weight").shape[0]
    else:
        base_channels = state[f"{first}conv3.weight"].shape[0] // 4
    form, group_width = "vd" if "backbone.stem.0.weight" in state else "plain", 0
    if res2net:
        form = "res2net"
    elif block == "bottleneck":
        out, per_group = need(state, f"{first}conv2.weight").shape[:2]
        if out != per_group:  # narrow models have fewer groups of the same width
            form, group_width = "grouped", per_group
    family = [
        (name, entry.layout)
        for name, entry in BACKBONES.items()
        if entry.layout and (entry.layout.block, entry.layout.form, entry.layout.group_width) == (block, form, group_width)
    ]
    fits = [name for name, layout in family if layout.blocks[:stages] == blocks]
    if not fits:
        offered = ", ".join(name for name, _ in family) or "no backbone of gfl-lab"
        raise InputError(f"a ResNet of {block} blocks {list(blocks)}, form {form}, is not offered; of this kind: {offered}")
    if len(fits) > 1:
        warnings.append(f"the first {stages} stages of {' and '.join(fits)} are alike; taken as {fits[0]}")
    name = fits[0]
    settings: dict[str, Any] = {"backbone": name, "base_channels": base_channels}
    return settings | _dcn_settings(state)


def _dcn_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    offsets = {key: value for key, value in state.items() if key.startswith("backbone.") and key.endswith("conv_offset.weight")}
    if not offsets:
        return {"dcn": "none"}
    stages = sorted({int(key.removeprefix("backbone.layer")[0]) for key in offsets})
    channels = {value.shape[0] for value in offsets.values()}
    name = {(2, 3, 4): "c3-c5", (3, 4): "c4-c5"}.get(tuple(stages))
    if name is None or channels not in ({18}, {27}):
        raise InputError(
            f"deformable convolutions in layers {stages} with {sorted(channels)} offset channels are not offered: "
            "c3-c5 and c4-c5 are, with 18 (v1) or 27 (v2)"
        )
    return {"dcn": "v1" if channels == {18} else "v2", "dcn_stages": name}


def detector_settings(state: Mapping[str, Tensor], warnings: list[str]) -> tuple[dict[str, Any], int]:
    """Return settings of the whole detector, and its number of classes."""
    settings = backbone_settings(state, warnings)
    stages = 4 if settings["backbone"] == "vit-adapter-s" else count_matches(state, r"backbone\.layer(\d)\.")
    levels = count_matches(state, r"neck\.fpn_convs\.(\d+)\.")
    first = stages - count_matches(state, r"neck\.lateral_convs\.(\d+)\.")
    if not levels or not 0 <= first < len(BACKBONE_STRIDES):
        raise InputError(f"the file is not whole: a backbone of {stages} stages, and {levels} levels of an FPN")
    cls, reg = need(state, "bbox_head.gfl_cls.weight"), need(state, "bbox_head.gfl_reg.weight")
    settings |= {
        "neck_channels": need(state, "neck.fpn_convs.0.conv.weight").shape[0],
        "head_channels": need(state, "bbox_head.cls_convs.0.conv.weight").shape[0],
        "head_convs": count_matches(state, r"bbox_head\.cls_convs\.(\d+)\."),
        "tower_bias": "bbox_head.cls_convs.0.conv.bias" in state,
        "strides": [BACKBONE_STRIDES[first] * 2**level for level in range(levels)],
    }
    if "bbox_head.integral.position" in state:
        raise InputError("the file has weighted bins (integral.position), whose a and c it does not hold: only uniform bins are imported")
    if "bbox_head.integral.project" in state:
        settings |= {"box": "general", "reg_max": state["bbox_head.integral.project"].numel() - 1}
        if reg.shape[0] != 4 * (settings["reg_max"] + 1):
            raise InputError(f"gfl_reg has {reg.shape[0]} channels, which {settings['reg_max'] + 1} bins a side do not give")
    elif reg.shape[0] in (4, 8):
        settings["box"] = "dirac" if reg.shape[0] == 4 else "gaussian"
    else:
        raise InputError(f"gfl_reg has {reg.shape[0]} channels and there is no integral.project: of no known box representation")
    if "bbox_head.reg_conf.0.weight" in state:
        settings |= _dgqp_settings(state, warnings)
    elif "bbox_head.gfl_quality.weight" in state:
        settings["quality"] = "centerness"
    else:
        settings["quality"] = "joint"
    warnings.append(NOT_VISIBLE)
    return settings, cls.shape[0]


def _dgqp_settings(state: Mapping[str, Tensor], warnings: list[str]) -> dict[str, Any]:
    channels, inputs = state["bbox_head.reg_conf.0.weight"].shape[:2]
    seen = inputs // 4
    topk, mean = (seen - 1, True) if seen > 1 else (seen, False)
    warnings.append(
        f"the quality predictor sees {seen} numbers a side: taken as the {topk} highest probabilities"
        + (f" and their mean, as published; the {seen} highest alone would look the same" if mean else "")
    )
    composed = "bbox_head.reg_conf.2.weight" not in state
    return {
        "quality": "dgqp",
        "dgqp_topk": topk,
        "dgqp_mean": mean,
        "dgqp_variance": False,
        "dgqp_channels": channels,
        "dgqp_form": "composed" if composed else "decomposed",
    }
