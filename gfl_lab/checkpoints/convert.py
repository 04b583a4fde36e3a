"""Weights of other projects under our names: recognised by keys and shapes alone, renamed, and checked for completeness.

``convert`` takes a flat state dict and returns one that a detector (or a backbone) built from the settings it derives
loads without a key missing or left over. Nothing here reads files; that is ``checkpoints/import_checkpoint.py``.

Names: mmdet 2.x and 3.x (``GFLHead``, ``ATSSHead``), implus/GFocal and implus/GFocalV2, czczup/ViT-Adapter, DeiT,
torchvision; PaddleDetection's in ``convert_paddle.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from mmdet.registry import MODELS
from torch import Tensor

from gfl_lab.checkpoints import convert_paddle
from gfl_lab.checkpoints.visible_settings import backbone_settings, count_matches, detector_settings
from gfl_lab.detector.build import model_config
from gfl_lab.detector.vit_adapter import from_deit
from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.settings import Settings

SOURCES = {
    "mmdet-gfl": "GFL detector with mmdet's names",
    "mmdet-atss": "ATSS detector with mmdet's names",
    "gfocalv2": "GFLv2 detector with the names of implus/GFocalV2",
    "gfocal-v1": "GFL detector of implus/GFocal (mmdet 1.x)",
    "vit-adapter-gfl": "ViT-Adapter detector with a GFL head",
    "vit-adapter-atss": "ViT-Adapter detector with an ATSS head",
    "gfl-lab": "detector of gfl-lab",
    "paddle-gfl": "GFL detector of PaddleDetection",
    "paddle-gflv2": "GFLv2 detector of PaddleDetection",
    "deit": "DeiT, the ViT part of ViT-Adapter",
    "torchvision": "ResNet or ResNeXt with torchvision's names",
    "mmdet-backbone": "deep-stem ResNet or Res2Net with mmdet's names",
    "paddle-backbone": "ResNet of PaddleDetection",
}
"""The models that can be recognised, and their names."""

LOOKED_FOR = {
    "bbox_head.gfl_cls.weight": "GFL, GFocal, GFocalV2, ViT-Adapter",
    "bbox_head.atss_cls.weight": "ATSS",
    "head.gfl_head_cls.weight": "PaddleDetection GFL",
    "conv1.conv1.norm._mean or conv1.conv1_1.norm._mean": "PaddleDetection backbone",
    "blocks.0.attn.qkv.weight": "DeiT",
    "layer1.0.conv1.weight": "torchvision or mmdet backbone",
}
"""The key that each kind of file is known by."""


_HEAD_NAMES = {
    "distribution_project.project": "integral.project",
    **{f"atss_{old}.{part}": f"gfl_{new}.{part}" for old, new in (("cls", "cls"), ("reg", "reg"), ("centerness", "quality"))
       for part in ("weight", "bias")},
}  # fmt: skip
"""Names under ``bbox_head.``: of other heads, and of gfl-lab's."""

_DEIT_S_WIDTH, _DEIT_S_BLOCKS = 384, 12
_OFFICIAL_GFLV2_CHANNELS = 81


@dataclass(frozen=True)
class Recognised:
    """A recognised file.

    Attributes:
        source: a key of ``SOURCES``.
        kind: a whole detector, or a backbone to start from.
        settings: gfl-lab settings that build it, as far as they follow from shapes.
        num_classes: C; None for a backbone.
        warnings: for the user to read before trusting the numbers.
    """

    source: str
    kind: Literal["detector", "backbone"]
    settings: dict[str, Any]
    num_classes: int | None
    warnings: tuple[str, ...]

    @property
    def description(self) -> str:
        """The source in words."""
        return SOURCES[self.source]


@dataclass(frozen=True)
class Converted:
    """A state dict under our names; those of a backbone have no ``backbone.`` in front.

    Attributes:
        recognised: what the file was.
        state_dict: in the order of the model it fits.
        renamed: old key to new key, where they differ.
        dropped: key to the reason why it is left out.
        added: keys that the source does not have: batch counters, set to 0.
    """

    recognised: Recognised
    state_dict: dict[str, Tensor]
    renamed: dict[str, str]
    dropped: dict[str, str]
    added: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Count of weights, buffers (statistics, counters, ``integral.project``) not among them."""
        buffers = ("running_mean", "running_var", "num_batches_tracked", "integral.project")
        return sum(value.numel() for key, value in self.state_dict.items() if not key.endswith(buffers))


@dataclass
class _Work:
    """A conversion under way."""

    state: dict[str, Tensor] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def put(self, old: str, new: str, value: Tensor) -> None:
        self.state[new] = value
        if new != old:
            self.renamed[old] = new


def recognise(state: Mapping[str, Tensor]) -> Recognised:
    """Return what a state dict is and which settings build it. Arguments and errors as ``convert``."""
    return convert(state).recognised


def convert(state: Mapping[str, Tensor]) -> Converted:
    """Rename a state dict to our names and check it against the model that its settings build.

    Args:
        state: key to tensor, as saved by its project; ``module.`` in front (data parallel) is taken off.

    Raises:
        InputError: it is none of ``SOURCES``, or not a whole one, or of a size that gfl-lab has no setting for.
    """
    if not state:
        raise InputError("the file holds no weights")
    work = _Work()
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if convert_paddle.is_paddle(state):
        source = _rename_paddle(state, work)
    elif any(key.startswith("bbox_head.") for key in state):
        source = _rename_detector(state, work)
    elif "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state:
        source = _rename_deit(state, work)
    elif any(key.removeprefix("backbone.").startswith("layer1.0.") for key in state):
        source = _rename_backbone(state, work)
    else:
        raise _unknown(state)

    try:
        if any(key.startswith("bbox_head.") for key in work.state):
            settings, num_classes = detector_settings(work.state, work.warnings)
            settings["neck_relu"] = source.startswith("paddle")
        else:
            bare = {f"backbone.{key}": value for key, value in work.state.items()}
            settings, num_classes = backbone_settings(bare, work.warnings), None
    except (IndexError, ValueError):  # a weight with fewer dimensions than its layer has
        raise InputError(f"the file has the keys of {SOURCES[source]}, but shapes that no such model has") from None
    kind: Literal["detector", "backbone"] = "backbone" if num_classes is None else "detector"
    wanted = _expected_shapes(settings, num_classes)
    if source == "deit":
        wanted = {key: shape for key, shape in wanted.items() if key in work.state}  # from_deit has seen that it is whole
    fitted, added = _fit(work.state, wanted, SOURCES[source])
    recognised = Recognised(source, kind, settings, num_classes, tuple(work.warnings))
    return Converted(recognised, fitted, work.renamed, work.dropped, added)


# --- names ----------------------------------------------------------------------------------------


def _rename_detector(state: Mapping[str, Tensor], work: _Work) -> str:
    head = {key.removeprefix("bbox_head.") for key in state if key.startswith("bbox_head.")}
    if "gfl_cls.weight" not in head and "atss_cls.weight" not in head:
        raise _unknown(state)
    for key, value in state.items():
        name = key.removeprefix("bbox_head.")
        if key.startswith("data_preprocessor."):
            work.dropped[key] = "pixel statistics are settings, not weights"
        else:
            work.put(key, "bbox_head." + _HEAD_NAMES.get(name, name) if name != key else key, value)
    vit = "backbone.pos_embed" in state
    _drop_background(work)
    if "atss_cls.weight" in head:
        return "vit-adapter-atss" if vit else "mmdet-atss"
    if "distribution_project.project" in head:
        work.warnings.append(
            "weights of mmdet 1.x: they were trained with centres at (stride - 1) / 2 and boxes one pixel wider, so AP here is "
            "lower than published (mmdet issue 4353 reports 36.3); for GFL v1 use mmdet's own weights"
        )
        return "gfocal-v1"
    if "gfl_quality.weight" in head or "integral.project" not in head:
        return "gfl-lab"
    if "reg_conf.0.weight" in head:
        return "gfocalv2"
    return "vit-adapter-gfl" if vit else "mmdet-gfl"


def _drop_background(work: _Work) -> None:
    """Drop the surplus class channel of GFLv2's authors, who train one more than classes; its target is always 0."""
    weight = work.state.get("bbox_head.gfl_cls.weight")
    if weight is None or len(weight) != _OFFICIAL_GFLV2_CHANNELS or "bbox_head.reg_conf.2.weight" not in work.state:
        return
    for part in ("weight", "bias"):
        key = f"bbox_head.gfl_cls.{part}"
        if key in work.state:
            work.state[key] = work.state[key][:-1].clone()
            work.dropped[f"{key}[{_OFFICIAL_GFLV2_CHANNELS - 1}]"] = "81st class channel of GFLv2's authors: background, always 0"


def _rename_deit(state: Mapping[str, Tensor], work: _Work) -> str:
    width = state["patch_embed.proj.weight"].shape[0]
    blocks = count_matches(state, r"blocks\.(\d+)\.")
    if (width, blocks) != (_DEIT_S_WIDTH, _DEIT_S_BLOCKS):
        raise InputError(f"the ViT has {blocks} blocks of width {width}: only DeiT-S ({_DEIT_S_BLOCKS} of {_DEIT_S_WIDTH}) is offered")
    kept = from_deit(state)
    for key, value in state.items():
        if key in kept:
            work.put(key, key, value)
        else:
            work.dropped[key] = "ViT-Adapter has no class token, last norm or classifier"
    return "deit"


def _rename_backbone(state: Mapping[str, Tensor], work: _Work) -> str:
    for key, value in state.items():
        if key.startswith(("fc.", "head.")):
            work.dropped[key] = "ImageNet classifier"
        else:
            work.put(key, key.removeprefix("backbone."), value)
    own = any(key.startswith("stem.") for key in work.state)
    return "mmdet-backbone" if own else "torchvision"


def _rename_paddle(state: Mapping[str, Tensor], work: _Work) -> str:
    for key, value in state.items():
        new = convert_paddle.our_name(key, state)
        if new is None:
            work.dropped[key] = convert_paddle.why_dropped(key)
        else:
            work.put(key, new, value.reshape(()) if new.startswith("bbox_head.scales.") else value)
    if not any(key.startswith("bbox_head.") for key in work.state):
        work.state = {key.removeprefix("backbone."): value for key, value in work.state.items()}
        work.renamed = {old: new.removeprefix("backbone.") for old, new in work.renamed.items()}
        return "paddle-backbone"
    _drop_background(work)
    work.warnings.append(
        "PaddleDetection's published AP is measured at score_thr 0.025 and without clipping boxes to the image; set score_thr: 0.025 to come close"
    )
    if "bbox_head.reg_conf.0.weight" not in work.state:
        return "paddle-gfl"
    work.warnings.append(
        "PaddleDetection applies a second sigmoid to GFLv2's score at test, so all its scores exceed 0.5; here the score is class x quality"
    )
    return "paddle-gflv2"


def _unknown(state: Mapping[str, Tensor]) -> InputError:
    first = ", ".join(list(state)[:5])
    known = "; ".join(f"{key} ({what})" for key, what in LOOKED_FOR.items())
    return InputError(
        Problem(
            f"these weights are of no known detector or backbone; the first of {len(state)} keys: {first}", hint=f"Looked for: {known}."
        )
    )


# --- settings -------------------------------------------------------------------------------------


# --- completeness ---------------------------------------------------------------------------------


def _expected_shapes(settings: dict[str, Any], num_classes: int | None) -> dict[str, torch.Size]:
    """Return the keys and shapes of the detector that ``settings`` build, or without classes of its backbone."""
    try:
        config = model_config(Settings(**settings), num_classes or 1)
    except ValueError as error:
        raise InputError(f"the file's shapes ask for settings that gfl-lab does not take: {error}") from None
    if num_classes is None:
        config = config.backbone
    with torch.device("meta"):
        model = MODELS.build(config)
    return {key: value.shape for key, value in model.state_dict().items()}


def _fit(state: dict[str, Tensor], wanted: dict[str, torch.Size], what: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return ``state`` in the order of ``wanted``, and the keys added to it. Raises InputError unless it fits in both directions."""
    counters = tuple(key for key in wanted if key.endswith("num_batches_tracked") and key not in state)
    missing = [key for key in wanted if key not in state and key not in counters]
    extra = [key for key in state if key not in wanted]
    wrong = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key])}" for key in wanted if key in state and state[key].shape != wanted[key]
    ]
    problems = [
        Problem(f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {text}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}")
        for keys, text in ((missing, "missing"), (extra, "left over"), (wrong, "of another shape"))
        if keys
    ]
    if problems:
        raise InputError([Problem(f"the file looks like this: {what}; but it is not a whole one, or of another kind"), *problems])
    return {key: state[key] if key in state else torch.zeros((), dtype=torch.int64) for key in wanted}, counters
