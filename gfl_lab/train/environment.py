"""The environment of a trial, as far as it can change its numbers: versions, processor, device, threads."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

import torch

from gfl_lab.machine import processor
from gfl_lab.records.environment import Environment

PACKAGES = (
    "gfl-lab",
    "torch",
    "torchvision",
    "mmdet",
    "mmengine",
    "mmcv-lite",
    "mmcv",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "faster-coco-eval",
)
"""Packages that compute, load or evaluate; mmcv where it is there in place of mmcv-lite."""


def environment(device: str, threads: int) -> Environment:
    """Return the environment of this process; packages that are not installed are left out.

    Args:
        device: what the model was on, as people read it. threads: of torch.
    """
    found: dict[str, str | int] = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return Environment(found | {"processor": processor(), "device": device, "threads": threads})
