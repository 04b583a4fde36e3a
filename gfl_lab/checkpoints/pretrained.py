"""Published ImageNet weights of a backbone, and files of weights that a training starts from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import nn

from gfl_lab.addresses import digest_in_name
from gfl_lab.checkpoints import download
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.detector.build import model_config
from gfl_lab.errors import InputError, Problem, ResourceError
from gfl_lab.spec.backbones import BACKBONES, PUBLISHED_WIDTH, load_function
from gfl_lab.spec.settings import Settings


def published_url(backbone: str) -> str:
    """Return the address of a backbone's published ImageNet weights: torchvision's, mmengine's model zoo's, or of DeiT's authors.

    Raises:
        ResourceError: nothing that we load is published for it.
    """
    entry = BACKBONES.get(backbone)
    where, _, name = entry.weights.partition(":") if entry else ("", "", "")
    if entry and where == "torchvision":
        import torchvision.models

        url: str = getattr(torchvision.models, f"{name}_Weights").IMAGENET1K_V1.url
        return url
    if entry and where == "openmmlab":
        from mmengine.runner.checkpoint import get_external_models

        return str(get_external_models()[name])
    if entry and entry.weights:
        return entry.weights
    hint = "Give the path of a weights file (--init-weights FILE), or --init-weights random to start from nothing."
    if entry and entry.weights_hint:
        hint = entry.weights_hint.format(name=backbone)
    raise ResourceError(
        Problem(f"init_weights: pretrained: no weights for backbone {backbone} are published that can be downloaded", hint=hint)
    )


def fetch_pretrained(backbone: str) -> dict[str, Any]:
    """Return a backbone's published ImageNet weights, from torch's hub folder, else downloaded into it.

    Raises:
        ResourceError: none are published, or they are not there and cannot be downloaded; the hint names the place for the file.
        InputError: the file holds Python objects, or is damaged.
    """
    return _fetch(published_url(backbone), backbone)


def _fetch(address: str, backbone: str) -> dict[str, Any]:
    try:
        path = download.fetch(address, digest_in_name(address))
    except ResourceError as error:
        hint = "Or give --init-weights FILE, or --init-weights random to start from nothing."
        raise ResourceError(
            [Problem(f"published weights of backbone {backbone}: {p.message}", p.place, f"{p.hint} {hint}") for p in error.problems]
        ) from None
    return load_safely(path)


def address_of(checkpoint: str) -> str:
    """Return the address of the weights that an mmdet config names: ``torchvision://resnet50``, ``open-mmlab://...``, or a URL.

    Raises:
        ResourceError: mmengine has no such weights, or they are a path on the machine of the config's author.
    """
    from mmengine.runner.checkpoint import get_external_models, get_torchvision_models

    kind, _, name = checkpoint.partition("://")
    if kind in ("http", "https"):
        return checkpoint
    try:
        if kind == "torchvision":
            return str(get_torchvision_models()[name])
        if kind in ("open-mmlab", "openmmlab"):
            return str(get_external_models()[name])
    except KeyError:
        pass
    hint = "Give --init-weights FILE, or --init-weights random to start from nothing."
    raise ResourceError(Problem(f"init_weights: pretrained: the config names {checkpoint}, which has no address", hint=hint))


_WITH_A_READER = {"ViTAdapter": "vit-adapter-s"}
"""Classes of backbones of gfl-lab's that a config may name, whose weights have other names where they are published."""


def load_backbone_of_mmdet(backbone: nn.Module, weights: str, checkpoint: str) -> None:
    """Start the backbone of an mmdet detector from initial weights, as ``load_backbone`` does; offsets that they lack start at 0.

    Args:
        weights: a file, or ``pretrained`` for the weights that the config names. Entries of these that the backbone does not have
            are left out, as mmdet leaves them out.
        checkpoint: the config's name for them; empty with a file.

    Raises:
        InputError: the weights do not fit. ResourceError: they cannot be had.
    """
    state = _for_mmdet(backbone, weights, checkpoint)
    offsets = {key: torch.zeros_like(value) for key, value in backbone.state_dict().items() if ".conv_offset." in key}
    backbone.load_state_dict(offsets | state, strict=False)


def check_backbone_of_mmdet(config: Mapping[str, Any], weights: str, checkpoint: str = "") -> None:
    """Refuse initial weights that do not fit the backbone of an mmdet detector; published ones are downloaded if need be.

    Args:
        config: of the backbone. weights, checkpoint: as ``load_backbone_of_mmdet`` takes them.

    Raises:
        InputError, ResourceError: as ``load_backbone_of_mmdet``.
    """
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        backbone = MODELS.build(dict(config))
    _for_mmdet(backbone, weights, checkpoint)


def _for_mmdet(backbone: nn.Module, weights: str, checkpoint: str) -> dict[str, Any]:
    """Return the part of initial weights that goes into the backbone of an mmdet detector."""
    own, name = backbone.state_dict(), type(backbone).__name__
    name = _WITH_A_READER.get(name, name)
    if weights != "pretrained":
        return _fitting(own, load_safely(Path(weights)), weights, name)
    state = _backbone_part(_fetch(address_of(checkpoint), checkpoint))
    if name not in BACKBONES:
        state = {key: value for key, value in state.items() if key in own}
    return _fitting(own, state, checkpoint, name)


def load_backbone(backbone: nn.Module, weights: str, name: str) -> None:
    """Start a backbone from ImageNet weights.

    A file may hold the backbone's own names, torchvision's, DeiT's, or a detector's (``backbone.`` in front, of which only the
    backbone is taken). Everything in the backbone must be found, but for offsets of deformable convolutions, which start
    at 0, and for the adapter where the file holds a ViT alone, as DeiT's does; nothing but the classifier may be left over.

    Args:
        weights: a file, or ``pretrained``: what is published (looked up in torch's hub folder, else downloaded).
        name: the setting ``backbone``.

    Raises:
        InputError: the file does not fit. ResourceError: the published weights cannot be had.
    """
    content = fetch_pretrained(name) if weights == "pretrained" else load_safely(Path(weights))
    backbone.load_state_dict(_fitting(backbone.state_dict(), content, weights, name), strict=False)


def check_fit(weights: str, variants: Iterable[Settings]) -> None:
    """Refuse a file of initial weights that does not fit the backbones of these variants, before anything is trained.

    Raises:
        InputError: the file cannot be read, or every backbone that it does not fit.
    """
    content = load_safely(Path(weights))
    problems = []
    configs = {json.dumps(config := model_config(settings, 1).backbone, sort_keys=True): (config, settings) for settings in variants}
    for config, settings in configs.values():
        with torch.device("meta"):
            backbone = MODELS.build(config)
        try:
            _fitting(backbone.state_dict(), content, weights, settings.backbone)
        except InputError as error:
            problems += [
                Problem(
                    problem.message,
                    "--init-weights",
                    f"The backbone has base_channels {settings.base_channels} here (published files have {PUBLISHED_WIDTH}). For several backbones give "
                    f"--init-weights {settings.backbone}=FILE for each; --init-weights random starts from nothing.",
                )
                for problem in error.problems
            ]
    if problems:
        raise InputError(problems)


def _fitting(own: Mapping[str, Any], content: dict[str, Any], weights: str, name: str) -> dict[str, Any]:
    """Return the part of a file's content that goes into a backbone of state ``own``. Raises InputError when it does not fit."""
    state = _backbone_part(content)
    entry = BACKBONES.get(name)
    is_needed: Callable[[str], bool] = lambda key: True  # noqa: E731
    if entry and entry.read_weights:
        state, is_needed = load_function(entry.read_weights)(state)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked") and ".conv_offset." not in key and is_needed(key)]
    wrong = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or extra or wrong:
        parts = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for keys, what in ((missing, "missing"), (extra, "left over"), (wrong, "of another shape"))
            if keys
        ]
        raise InputError(f"weights {weights} do not fit backbone {name}: {', '.join(parts)}")
    return state


def _backbone_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict of a backbone in a file's content, which may be a whole detector's."""
    state: dict[str, Any] = content.get("state_dict", content.get("model", content))
    if any(key.startswith("backbone.") for key in state):
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return state
