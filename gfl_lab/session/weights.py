"""Initial weights of a backbone: from the setting ``init_weights`` to a file that has been checked."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfl_lab.addresses import check_text
from gfl_lab.errors import InputError
from gfl_lab.session.mmdet_variants import absolute_detector, with_absolute_detector
from gfl_lab.spec.backbones import with_weights
from gfl_lab.spec.file_models import ExperimentFile
from gfl_lab.spec.settings import Settings

RANDOM, PRETRAINED = "random", "pretrained"
"""Values of ``init_weights`` that name no file."""


def absolute_weights(weights: str, beside: Path) -> str:
    """Return ``init_weights`` with its path made absolute; a relative one starts at the folder ``beside``.

    Raises:
        InputError: the path holds characters that no file system takes.
    """
    if weights in (RANDOM, PRETRAINED):
        return weights
    try:
        path = os.path.abspath(beside / Path(weights).expanduser())
    except RuntimeError:  # no such user
        path = os.path.abspath(beside / weights)
    check_text(path, "init_weights")
    return path


def with_absolute_weights(settings: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """Return ``settings`` with the path of their initial weights, if they have one, made absolute."""
    own = {"init_weights": absolute_weights(settings["init_weights"], beside)} if "init_weights" in settings else {}
    return {**settings, **own}


def experiment_with_absolute_paths(experiment: ExperimentFile, beside: Path) -> ExperimentFile:
    """Return ``experiment`` with the paths of initial weights and of config files made absolute; relative ones start at ``beside``."""

    def absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
        return with_absolute_detector(with_absolute_weights(settings, beside), beside)

    axes = dict(experiment.axes)
    if "init_weights" in axes:
        axes["init_weights"] = [absolute_weights(value, beside) for value in axes["init_weights"]]
    if "detector" in axes:
        axes["detector"] = [absolute_detector(value, beside) for value in axes["detector"]]
    own = {
        "overrides": absolute(experiment.overrides),
        "variants": {name: absolute(values) for name, values in experiment.variants.items()},
        "axes": axes,
    }
    return experiment.model_copy(update=own)


def check_weights(variants: Sequence[Settings], say: Callable[[str], None]) -> None:
    """Refuse files of initial weights that do not fit their backbones; warn of weights that are not published.

    Raises:
        InputError: a file cannot be read, or does not fit.
    """
    asked = {settings.backbone for settings in variants if settings.init_weights == PRETRAINED}
    for backbone in sorted(asked - {*with_weights()}):
        say(
            f"warning: init_weights: pretrained, but none are published for backbone {backbone} that can be downloaded: "
            f"give --init-weights {backbone}=FILE"
        )
    files: dict[str, list[Settings]] = {}
    for settings in variants:
        if settings.init_weights not in (RANDOM, PRETRAINED):
            files.setdefault(settings.init_weights, []).append(settings)
    if files:
        from gfl_lab.checkpoints.pretrained import check_fit

        for file, having in files.items():
            check_fit(file, having)


def fetch_weights(settings: Iterable[Settings]) -> None:
    """Download the published weights that ``settings`` start from, once, before several trials would each do it.

    Raises:
        InputError, ResourceError: they cannot be had.
    """
    backbones = sorted({each.backbone for each in settings if each.init_weights == PRETRAINED})
    if backbones:
        from gfl_lab.checkpoints.pretrained import fetch_pretrained

        for backbone in backbones:
            fetch_pretrained(backbone)


@functools.cache
def digest_weights(weights: str) -> str:
    """Return the part of a trial's id for its initial weights.

    It is empty for random ones, ``pretrained`` for published ones (they follow from the backbone), else the file's SHA-256.

    Raises:
        InputError: the file cannot be read.
    """
    if weights == RANDOM:
        return ""
    if weights == PRETRAINED:
        return weights
    try:
        with open(weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"weights file {weights!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
