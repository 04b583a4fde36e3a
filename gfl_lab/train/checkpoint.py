"""Checkpoints that hold only tensors and plain values, so that they load with ``weights_only=True`` (decision 2)."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import nn

from gfl_lab import naming
from gfl_lab.detector.build import model_config
from gfl_lab.errors import InputError, Problem, ResourceError, StoreError
from gfl_lab.records.files import atomic_path, check_format
from gfl_lab.rundir import TrialDir
from gfl_lab.spec.settings import Settings
from gfl_lab.train.ema import MovingAverage

_HINT = (
    "Only files of tensors and plain values are loaded, never code. Save it again as torch.save({'state_dict': model.state_dict()}, path)."
)

_TORCHVISION = {
    "r18": "ResNet18", "r34": "ResNet34", "r50": "ResNet50", "r101": "ResNet101", "x101-32x8d": "ResNeXt101_32X8D",
}  # fmt: skip
_OPENMMLAB = {"x101-32x4d": "resnext101_32x4d", "r2-101": "res2net101_v1d_26w_4s"}
"""Names in mmengine's table of weights, as mmdet's configurations have them behind ``open-mmlab://``."""
DEIT_SMALL = "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth"


DAMAGE = (
    EOFError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, MemoryError, RecursionError, AssertionError, OSError,
    RuntimeError, struct.error,
)  # fmt: skip
"""What readers of pickles raise on bytes that are no pickle, or half of one."""


def save_checkpoint(trial: TrialDir, runner: Any, *, epoch: int, step: int, average: MovingAverage | None = None) -> None:
    """Write weights, optimizer, schedules and position as the last checkpoint, atomically; what was the last is the previous one then.

    At every moment at least one whole checkpoint lies on the disk, though for an instant not under the name of the last.

    ``state_dict`` holds the trial's weights, which are the moving average where there is one; ``trained`` then holds those
    that training goes on with.

    Args:
        epoch: finished epochs. step: finished iterations. average: the moving average of the weights.
    """

    weights = _on_cpu(dict(runner.model.state_dict()))
    content = {
        "meta": {
            "epoch": epoch,
            "iter": step,
            "trial": trial.id,
            "format": naming.FORMAT_VERSION,
            "classes": list(runner.train_dataloader.dataset.metainfo["classes"]),
        },
        "state_dict": _on_cpu(average.weights) if average else weights,
        "optimizer": _on_cpu(runner.optim_wrapper.state_dict()),
        "param_schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
    }
    if average:
        content |= {"trained": weights, "average_updates": average.updates}
    path = trial.file(naming.LAST_CHECKPOINT)
    with atomic_path(path) as temporary:
        _save(content, temporary, path)
        if path.exists():
            path.replace(trial.file(naming.PREVIOUS_CHECKPOINT))


def _on_cpu(state: Any) -> Any:
    """Return nested dictionaries and lists with their tensors on the CPU: a checkpoint from a GPU is read on any machine."""
    if isinstance(state, torch.Tensor):
        return state.detach().cpu()
    if isinstance(state, Mapping):
        return {key: _on_cpu(value) for key, value in state.items()}
    return type(state)(_on_cpu(value) for value in state) if isinstance(state, (list, tuple)) else state


def write_weights(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically, in place of one that is there. Raises OSError, also for what torch hides of a full disk."""
    with atomic_path(path) as temporary:
        _save(content, temporary, path)


def _save(content: dict[str, Any], temporary: Path, path: Path) -> None:
    try:
        torch.save(content, temporary)
    except RuntimeError as error:  # torch's writer hides the system's error
        if "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


_WHOLE = {"meta", "state_dict", "optimizer", "param_schedulers"}


def load_safely(path: Path) -> dict[str, Any]:
    """Read a torch file of tensors and plain values onto the CPU.

    Raises:
        InputError: no file, damaged, or it holds objects other than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except pickle.UnpicklingError:
        raise InputError(f"{path} holds Python objects. {_HINT}") from None
    except DAMAGE as error:
        raise InputError(f"{path} is not a whole torch file: {(str(error).splitlines() or ['it is empty'])[0]}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not a dictionary of weights")
    return content


def load_last(trial: TrialDir) -> dict[str, Any] | None:
    """The trial's last good checkpoint, or None when there is none.

    A damaged one is set aside (``last.damaged``), the one before it is used, and log.txt says so.

    Raises:
        StoreError: it belongs to another trial, or is of another format.
    """
    for name in (naming.LAST_CHECKPOINT, naming.PREVIOUS_CHECKPOINT):
        path = trial.file(name)
        if not path.exists():
            continue
        try:
            content = load_safely(path)
            _check_whole(path, content)
        except StoreError:
            raise
        except InputError as error:
            cause = error.__context__
            if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL)):
                raise cause from None  # it could not be read now, which says nothing against it
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            trial.log(f"{error.problems[0].message}; it is set aside as {aside.name}")
            continue
        if content["meta"]["trial"] != trial.id:
            raise StoreError(f"{path} belongs to trial {content['meta']['trial']}, not to {trial.id}")
        return content
    return None


def _check_whole(path: Path, content: dict[str, Any]) -> None:
    """Refuse a checkpoint that has lost something. Raises InputError; FormatError for one of another format."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the check sums
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if damaged:
        raise InputError(f"{path} is damaged: the check sum of {damaged} is wrong")
    meta = content.get("meta")
    if not isinstance(meta, dict) or not _WHOLE <= content.keys() or not {"trial", "epoch", "iter"} <= meta.keys():
        raise InputError(f"{path} is not a trial's checkpoint")
    check_format(path, meta.get("format", naming.FORMAT_VERSION))


def restore(runner: Any, content: dict[str, Any], average: MovingAverage | None = None) -> None:
    """Put weights, their average, optimizer and schedules of a checkpoint into a built runner. The loop's position is the caller's."""
    runner.model.load_state_dict(content.get("trained", content["state_dict"]))
    if average:
        average.load(content["state_dict"], content["average_updates"])
    runner.optim_wrapper.load_state_dict(content["optimizer"])
    for scheduler, state in zip(runner.param_schedulers, content["param_schedulers"], strict=True):
        scheduler.load_state_dict(state)


def published_url(backbone: str) -> str:
    """Where the ImageNet weights of a backbone are published: torchvision, mmengine's model zoo, or DeiT's authors.

    Raises:
        ResourceError: nothing that we load is published for it.
    """
    if backbone in _TORCHVISION:
        import torchvision.models

        return getattr(torchvision.models, f"{_TORCHVISION[backbone]}_Weights").IMAGENET1K_V1.url
    if backbone in _OPENMMLAB:
        from mmengine.runner.checkpoint import get_external_models

        return get_external_models()[_OPENMMLAB[backbone]]
    if backbone == "vit-adapter-s":
        return DEIT_SMALL
    hint = "Give the path of a weights file (--weights FILE), or --weights random to start from nothing."
    if backbone.endswith("vd"):
        hint = (
            "Convert PaddleDetection's file with `gfl-lab import-checkpoint FILE` and give the path of the result "
            f"(--weights {backbone}=FILE), or --weights random to start from nothing."
        )
    raise ResourceError(Problem(f"weights: pretrained: no weights for backbone {backbone} are published that can be downloaded", hint=hint))


def fetch_pretrained(backbone: str) -> dict[str, Any]:
    """A backbone's published ImageNet weights, from torch's hub folder, else downloaded into it.

    Raises:
        ResourceError: none are published, or they are not there and cannot be downloaded; says where to put the file.
    """
    url = published_url(backbone)
    file = url.rpartition("/")[2]
    try:
        return torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ResourceError(f"the published weights {file} hold Python objects, and only tensors and plain values are loaded") from None
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            Problem(
                f"the published weights {file} of backbone {backbone} are not in {torch.hub.get_dir()}/checkpoints and could not be "
                f"downloaded from {url} ({error})",
                hint="Put the file there, or give --weights FILE, or --weights random to start from nothing.",
            )
        ) from None


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
                    "--weights",
                    f"The backbone has base_channels {settings.base_channels} here (published files have 64). For several backbones give "
                    f"--weights {settings.backbone}=FILE for each; --weights random starts from nothing.",
                )
                for problem in error.problems
            ]
    if problems:
        raise InputError(problems)


def _fitting(own: Mapping[str, Any], content: dict[str, Any], weights: str, name: str) -> dict[str, Any]:
    """The part of a file's content that goes into a backbone of state ``own``. Raises InputError when it does not fit."""
    state = content.get("state_dict", content.get("model", content))
    if any(key.startswith("backbone.") for key in state):
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    vit_only = name == "vit-adapter-s" and not any(key.startswith("interactions.") for key in state)
    if vit_only and "cls_token" in state:
        from gfl_lab.detector.vit_adapter import from_deit

        state = from_deit(state)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked") and ".conv_offset." not in key]
    if vit_only:
        missing = [key for key in missing if key.startswith(("pos_embed", "patch_embed.", "blocks.")) and ".gamma" not in key]
    wrong = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or extra or wrong:
        parts = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for keys, what in ((missing, "missing"), (extra, "left over"), (wrong, "of another shape"))
            if keys
        ]
        raise InputError(f"weights {weights} do not fit backbone {name}: {', '.join(parts)}")
    return state
