"""Initial weights of a backbone: from the setting ``init_weights`` to a file that has been checked."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfl_lab.addresses import absolute_beside
from gfl_lab.errors import InputError
from gfl_lab.session.mmdet_variants import CLASSES, absolute_detector
from gfl_lab.spec.backbones import with_weights
from gfl_lab.spec.choices import OWN, ROLES
from gfl_lab.spec.file_models import ExperimentFile
from gfl_lab.spec.needs import DATA
from gfl_lab.spec.plain_config import decode
from gfl_lab.spec.settings import Settings
from gfl_lab.zoo.resolve import resolve

RANDOM, PRETRAINED = "random", "pretrained"
"""Values of ``init_weights`` that name no file."""


def absolute_weights(weights: str, beside: Path) -> str:
    """Return ``init_weights`` with its path made absolute; a relative one starts at the folder ``beside``.

    Raises:
        InputError: the path holds characters that no file system takes.
    """
    return weights if weights in (RANDOM, PRETRAINED) else absolute_beside(weights, beside, "init_weights")


def with_absolute_paths(settings: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """Return ``settings`` with the paths of weights, config files and data sets in them made absolute, also within what they need."""
    return {key: _absolute(key, value, beside) for key, value in settings.items()}


def experiment_with_absolute_paths(experiment: ExperimentFile, beside: Path) -> ExperimentFile:
    """Return ``experiment`` with the paths of weights, config files and data sets made absolute; relative ones start at ``beside``."""
    own: dict[str, Any] = {
        "overrides": with_absolute_paths(experiment.overrides, beside),
        "variants": {name: with_absolute_paths(values, beside) for name, values in experiment.variants.items()},
        "axes": {axis: [_absolute(axis, value, beside) for value in values] for axis, values in experiment.axes.items()},
    }
    return experiment.model_copy(update=own)


def _absolute(key: str, value: Any, beside: Path) -> Any:
    """Return the value of a setting with the paths in it made absolute."""
    if key == "init_weights":
        return absolute_weights(value, beside)
    if key == "detector":
        return absolute_detector(value, beside)
    if key not in ROLES:
        return value
    own = {DATA: absolute_beside(value[DATA], beside, f"{key}.{DATA}")} if DATA in value else {}
    return with_absolute_paths({inner: given for inner, given in value.items() if inner != DATA}, beside) | own


def check_weights(variants: Sequence[Settings], say: Callable[[str], None]) -> None:
    """Refuse files of initial weights that do not fit their backbones; warn of weights that are not published.

    Those of mmdet's detectors are checked with their configs (``mmdet_variants.check_detectors``).

    Raises:
        InputError: a file cannot be read, or does not fit.
    """
    variants = [settings for settings in variants if settings.detector == OWN]
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

    Those of an mmdet detector are also compared with its backbone.

    Raises:
        InputError, ResourceError: they cannot be had.
    """
    asked = [each for each in settings if each.init_weights == PRETRAINED]
    backbones = sorted({each.backbone for each in asked if each.detector == OWN})
    if asked:
        from gfl_lab.checkpoints.pretrained import check_backbone_of_mmdet, fetch_pretrained

        for backbone in backbones:
            fetch_pretrained(backbone)
        for each in asked:
            if config := resolve(each, CLASSES):
                check_backbone_of_mmdet(decode(config["model"])["backbone"], PRETRAINED, config["pretrained"])


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
