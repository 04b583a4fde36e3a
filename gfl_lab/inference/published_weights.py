"""Weights of mmdet's detectors: those that mmdet publishes, by the name of their config, and files of a training with mmdet."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import mmdet.datasets  # noqa: F401  (registers the data sets, which name their classes)
from mmdet.registry import DATASETS
from torch import Tensor

from gfl_lab.checkpoints.download import Progress, fetch
from gfl_lab.checkpoints.import_checkpoint import WeightsFile, convert_file, read_weights
from gfl_lab.detector.mmdet_detector import without_memory
from gfl_lab.errors import InputError, Problem
from gfl_lab.inference.trained_detector import TrainedDetector, converted_detector, data_images, detector_of, is_own
from gfl_lab.spec.choices import MMDET
from gfl_lab.spec.file_models import Profile
from gfl_lab.spec.settings import Settings
from gfl_lab.wording import plural
from gfl_lab.zoo.metafile import Published
from gfl_lab.zoo.trained import TrainedConfig, read_trained


def read_published(entry: Published, data: Path | None, profile: Profile, progress: Progress) -> TrainedDetector:
    """Return a detector with the weights that mmdet publishes for a config.

    A detector of the GFL family becomes gfl-lab's own; others are mmdet's, with the config's own preprocessing and test.

    Args:
        data: folder of a data set in COCO format with the weights' classes. None: for images of no data set.
        profile: gives a detector of the GFL family its settings of groups input and evaluation.
        progress: see ``checkpoints.download.fetch``.

    Raises:
        ResourceError: the file cannot be downloaded, or has another hash than its name says.
        InputError: its weights fit neither config nor data, or find no boxes on images. DataError: problems of the data set.
    """
    name = f"{MMDET}{entry.name}"
    config = None if entry.is_own_detector else read_trained(name)
    keys = keys_of(config) if config else set()  # what cannot be built is refused before anything is downloaded
    file = read_weights(fetch(entry.address, entry.digest, progress))
    note = f"{name} is {entry.file}, with a published box AP of {entry.box_ap:g} on {entry.dataset}"
    if config is None:
        classes = file.classes or _classes_of({"type": "CocoDataset"})
        return converted_detector(name, convert_file(file, name), classes, data, profile, (note,))
    detector = _of_mmdet(name, config, file, data, file.classes or _classes_of(config.dataset))
    state, left_out = _without_left_over(detector.state, keys)
    return replace(detector, state=state, notes=(note, *left_out, *detector.notes))


def read_with_config(path: Path, detector: str, data: Path | None) -> TrainedDetector:
    """Return a detector of mmdet's with the weights in a file.

    Its classes are those that the file names. A file that names none has the classes of the data set, or else of the config.

    Args:
        detector: the config: ``mmdet:NAME`` or a config file.
        data: folder of a data set in COCO format with the weights' classes. None: for images of no data set.

    Raises:
        InputError: the file cannot be read safely, is gfl-lab's own, or fits neither config nor data. DataError: of the data set.
    """
    config, file = read_trained(detector), read_weights(path)
    if is_own(file):
        raise InputError(Problem("it is a file of gfl-lab's, with its detector on record", str(path), "Leave --detector out."))
    keys_of(config)
    known = file.classes or (() if data else _classes_of(config.dataset))
    return _of_mmdet(str(path), config, file, data, known)


def _of_mmdet(name: str, config: TrainedConfig, file: WeightsFile, data: Path | None, known: tuple[str, ...]) -> TrainedDetector:
    """Return weights as the detector of a config. ``known``: names of their classes; empty for those of ``data``."""
    images = data_images(data)
    count = len(known) or (len(images.content.classes) if images else 0)
    if not count:
        hint = "Give --data FOLDER, or save the weights with meta['dataset_meta']['classes']."
        raise InputError(Problem(f"neither the file nor the config {config.detector} names the classes", name, hint))
    stored = config.for_classes(0 if count == len(_classes_of(config.dataset)) else count)
    return detector_of(name, _without_prefix(file.weights), Settings(**config.settings()), known, count, images, stored)


def keys_of(config: TrainedConfig) -> set[str]:
    """Return the keys of the weights of a config's detector. Raises InputError if it cannot be built here."""
    return {*without_memory(config.model, config.detector).state_dict()}


def _without_left_over(state: Mapping[str, Tensor], own: set[str]) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return published weights without entries that the detector of their config does not have, and a sentence on these.

    Older versions of mmdet saved some. If an entry is missing too, all stay: the weights do not fit, and loading them reports it.
    """
    left_over = [key for key in state if key not in own]
    if not left_over or own - state.keys():
        return state, ()
    kept = cast(dict[str, Tensor], copy.copy(state))  # with the versions of its modules
    for key in left_over:
        del kept[key]
    first = f"{', '.join(left_over[:3])}{', ...' if len(left_over) > 3 else ''}"
    return kept, (f"{plural(len(left_over), 'entry')} of the file {'is' if len(left_over) == 1 else 'are'} left out: {first}",)


def _classes_of(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a config's classes: its own, or else those of its kind of data set; empty where neither has any."""
    kind = DATASETS.get(str(dataset.get("type")))
    names = (dataset.get("metainfo") or {}).get("classes") or (getattr(kind, "METAINFO", None) or {}).get("classes") or ()
    return tuple(names)


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the ``module.`` of data parallel training."""
    if not all(key.startswith("module.") for key in weights):
        return weights
    return {key.removeprefix("module."): value for key, value in weights.items()}
