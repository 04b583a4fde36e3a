"""Checkpoints that hold only tensors and plain values, so that they load with ``weights_only=True`` (decision 2)."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem, ResourceError, StoreError
from gfl_lab.rundir import atomic_path

_HINT = (
    "Only files of tensors and plain values are loaded, never code. Save it again as torch.save({'state_dict': model.state_dict()}, path)."
)


def save_checkpoint(path: Path, runner: Any, *, epoch: int, step: int, trial: str) -> None:
    """Write weights, optimizer, schedules and position atomically.

    Args:
        epoch: finished epochs. step: finished iterations. trial: its id.
    """
    content = {
        "meta": {
            "epoch": epoch,
            "iter": step,
            "trial": trial,
            "format": naming.FORMAT_VERSION,
            "classes": list(runner.train_dataloader.dataset.metainfo["classes"]),
        },
        "state_dict": {key: value.detach().cpu() for key, value in runner.model.state_dict().items()},
        "optimizer": runner.optim_wrapper.state_dict(),
        "param_schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
        "torch_rng": torch.get_rng_state(),
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's writer hides the system's error
            if "inline_container" not in str(error):
                raise
            raise OSError(errno.ENOSPC, "the checkpoint could not be written, no space left on device", str(path)) from None


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
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a whole torch file: {(str(error).splitlines() or ['it is empty'])[0]}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not a dictionary of weights")
    return content


def load_last(path: Path, trial: str) -> dict[str, Any] | None:
    """The trial's own last checkpoint, or None when there is none that can be used.

    Raises:
        StoreError: it belongs to another trial.
    """
    if not path.exists():
        return None
    try:
        content = load_safely(path)
    except InputError:
        path.replace(path.with_suffix(".damaged"))
        return None
    if content["meta"]["trial"] != trial:
        raise StoreError(f"{path} belongs to trial {content['meta']['trial']}, not to {trial}")
    return content


def restore(runner: Any, content: dict[str, Any]) -> None:
    """Put weights, optimizer and schedules of a checkpoint into a built runner. The loop's position is the caller's."""
    runner.model.load_state_dict(content["state_dict"])
    runner.optim_wrapper.load_state_dict(content["optimizer"])
    for scheduler, state in zip(runner.param_schedulers, content["param_schedulers"], strict=True):
        scheduler.load_state_dict(state)
    torch.set_rng_state(content["torch_rng"])


def fetch_torchvision(depth: str) -> dict[str, Any]:
    """torchvision's ImageNet weights of a ResNet, from torch's hub folder, else downloaded into it.

    Raises:
        ResourceError: they are not there and cannot be downloaded; says where to put the file.
    """
    import torchvision.models

    name = {"r18": "ResNet18", "r34": "ResNet34", "r50": "ResNet50", "r101": "ResNet101"}[depth]
    url = getattr(torchvision.models, f"{name}_Weights").IMAGENET1K_V1.url
    try:
        return torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        file = url.rpartition("/")[2]
        raise ResourceError(
            Problem(
                f"torchvision's weights {file} are not in {torch.hub.get_dir()}/checkpoints and could not be downloaded ({error})",
                hint="Put the file there, or give --weights FILE, or --weights random to start from nothing.",
            )
        ) from None


def load_backbone(backbone: nn.Module, weights: str, depth: str) -> None:
    """Start a ResNet from ImageNet weights: a file, or torchvision's (looked up in torch's hub folder, else downloaded).

    The file may hold torchvision's own names or a detector's (``backbone.`` in front). Everything in the backbone must be
    found, and nothing but the classifier ``fc`` may be left over.

    Raises:
        InputError: the weights cannot be had or do not fit.
    """
    if weights == "torchvision":
        state = fetch_torchvision(depth)
    else:
        content = load_safely(Path(weights))
        state = content.get("state_dict", content.get("model", content))
    own = backbone.state_dict()
    if any(key.startswith("backbone.") for key in state):
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    wrong = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or extra or wrong:
        parts = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for keys, what in ((missing, "missing"), (extra, "left over"), (wrong, "of another shape"))
            if keys
        ]
        raise InputError(f"weights {weights} do not fit backbone {depth}: {', '.join(parts)}")
    backbone.load_state_dict(state, strict=False)
