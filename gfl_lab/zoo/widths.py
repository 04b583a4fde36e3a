"""The profile's widths in an mmdet config: with the profile's recipe all variants have a backbone, neck and head of its size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gfl_lab.spec.settings import Settings
from gfl_lab.wording import joined

PUBLISHED = 256
"""Channels of neck and heads in mmdet's configs."""
FIRST_STAGE = 64
_BASIC_DEPTHS = (18, 34)
_SCALED = ("fc_out_channels", "cls_out_channels", "feedforward_channels", "num_feats")
"""Widths that are multiples, or parts, of the neck's."""
_WITH_GROUP_NORM = frozenset({
    "ATSSHead", "AutoAssignHead", "CenterNetUpdateHead", "DDODHead", "FCOSHead", "GFLHead", "LDHead", "NASFCOSHead", "PAAHead",
    "ParallelTOODHead", "TOODHead", "VFNetHead",
})  # fmt: skip
"""Heads whose towers have group norms of 32 groups by default."""
_WITH_EMBEDDING = frozenset({"ConditionalDETRHead", "DABDETRHead", "DDQDETRHead", "DETRHead", "DINOHead", "DeformableDETRHead"})
"""Heads that take 256 channels by default."""
_OF_ONE_WIDTH = frozenset({"ConditionalDETR", "DABDETR", "DDQDETR", "DINO"})
"""Models whose code counts on 256 channels: their encoding of box coordinates has 128 numbers a coordinate."""


def with_widths(model: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the model with the settings ``base_channels``, ``neck_channels`` and ``head_channels``, and maps that fit its ResNet's depth.

    A backbone that is no plain ResNet, and a neck that has not the published width of 256, keep their own.
    """
    changed = _with_backbone(model, settings.base_channels)
    if _of_one_width(changed) or _neck_width(changed) != PUBLISHED or settings.neck_channels == settings.head_channels == PUBLISHED:
        return changed
    scaled = {key: value if key in ("backbone", "data_preprocessor") else _scaled(value, key, settings) for key, value in changed.items()}
    heads = {key: scaled[key] for key in ("bbox_head", "rpn_head") if isinstance(scaled.get(key), Mapping)}
    return scaled | {key: _with_defaults(head, settings) for key, head in heads.items()}


def _with_defaults(head: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return a head with the widths that its class would take for itself, where the config leaves them to it."""
    own = dict(head)
    if own.get("type") in _WITH_GROUP_NORM and "norm_cfg" not in own:
        own["norm_cfg"] = {"type": "GN", "num_groups": _groups(32, settings), "requires_grad": True}
    if own.get("type") in _WITH_EMBEDDING:
        own.setdefault("embed_dims", settings.neck_channels)
    return own


def note(model: Mapping[str, Any], settings: Settings, detector: str) -> str:
    """Return one sentence where a detector keeps a size of its own beside a profile that has another one; else nothing."""
    own = []
    if settings.base_channels != FIRST_STAGE and not is_plain_resnet(model.get("backbone")):
        own.append("the width of its backbone")
    fixed = _of_one_width(model) or _neck_width(model) != PUBLISHED
    if (settings.neck_channels, settings.head_channels) != (PUBLISHED, PUBLISHED) and fixed:
        own.append("the width of its neck and head")
    head = model.get("bbox_head")
    convs = head.get("stacked_convs", settings.head_convs) if isinstance(head, Mapping) else settings.head_convs
    if convs != settings.head_convs:
        own.append(f"its {convs} convolutions before each prediction (the profile: {settings.head_convs})")
    if (levels := _levels(model, settings)) != len(settings.strides):
        own.append(f"its {levels} pyramid levels (the profile: {len(settings.strides)})")
    return f"{detector} keeps {joined(own)}" if own else ""


def _levels(model: Mapping[str, Any], settings: Settings) -> int:
    """Return the pyramid levels of a model's neck; those of the settings where it does not list them."""
    levels = _last_neck(model).get("num_outs")
    return levels if isinstance(levels, int) else len(settings.strides)


def _of_one_width(model: Mapping[str, Any]) -> bool:
    return model["type"] in _OF_ONE_WIDTH or bool(model.get("as_two_stage"))  # Deformable DETR encodes the boxes of its first stage


def is_plain_resnet(backbone: Any) -> bool:
    return isinstance(backbone, Mapping) and backbone.get("type") == "ResNet"


def _with_backbone(model: dict[str, Any], base_channels: int) -> dict[str, Any]:
    """Return the model with a ResNet of this width, and a neck that takes its maps."""
    backbone = model.get("backbone")
    if not isinstance(backbone, Mapping) or not is_plain_resnet(backbone):
        return model
    base = base_channels if "base_channels" not in backbone else int(backbone["base_channels"])
    expansion = 1 if backbone.get("depth") in _BASIC_DEPTHS else 4
    used = backbone.get("out_indices", (0, 1, 2, 3))
    maps = [base * expansion * 2**stage for stage in used]
    own = {**backbone, "base_channels": base} if base != FIRST_STAGE else dict(backbone)
    if base != FIRST_STAGE and "stem_channels" in own:
        own["stem_channels"] = max(1, int(own["stem_channels"]) * base // FIRST_STAGE)
    if base != FIRST_STAGE and isinstance(norm := own.get("norm_cfg"), Mapping) and "num_groups" in norm:
        own["norm_cfg"] = {**norm, "num_groups": math.gcd(int(norm["num_groups"]), base)}
    return {**model, "backbone": own, **_neck_for(model.get("neck"), maps)}


def _neck_for(neck: Any, maps: list[int]) -> dict[str, Any]:
    """Return {neck: ...} whose first part takes these maps; empty without a neck that lists the channels it takes."""
    first = neck[0] if isinstance(neck, list | tuple) and neck else neck
    taken = first.get("in_channels") if isinstance(first, Mapping) else None
    if isinstance(taken, int):  # one that takes the last map alone
        fitted = {**first, "in_channels": maps[-1]}
    elif isinstance(taken, list | tuple) and len(taken) == len(maps):
        fitted = {**first, "in_channels": type(taken)(maps)}
    else:
        return {}
    return {"neck": [fitted, *neck[1:]] if isinstance(neck, list | tuple) else fitted}


def _neck_width(model: Mapping[str, Any]) -> int:
    width = _last_neck(model).get("out_channels")
    return width if isinstance(width, int) else 0


def _last_neck(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the neck that the heads read; empty where there is none."""
    neck = model.get("neck")
    last = neck[-1] if isinstance(neck, list | tuple) and neck else neck
    return last if isinstance(last, Mapping) else {}


def _scaled(node: Any, key: str, settings: Settings) -> Any:
    """Return a part of neck or heads with every width of 256 replaced, and those that go with it in proportion."""
    if isinstance(node, Mapping):
        return {name: _scaled(value, name, settings) for name, value in node.items()}
    if isinstance(node, list | tuple) and key != "in_channels":
        return type(node)(_scaled(item, key, settings) for item in node)
    if not isinstance(node, int) or isinstance(node, bool):
        return node
    if node == PUBLISHED and ("channel" in key or key == "embed_dims"):
        return settings.head_channels if key == "feat_channels" else settings.neck_channels
    if key in _SCALED:
        return max(1, node * settings.neck_channels // PUBLISHED)
    if key == "num_groups":
        return _groups(node, settings)
    return node


def _groups(wished: int, settings: Settings) -> int:
    """Return the groups of a norm. Each has two channels at least, since a map of one location gives one value for each."""
    return math.gcd(wished, settings.neck_channels // 2, settings.head_channels // 2)
