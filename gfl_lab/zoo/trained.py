"""mmdet's detectors with weights that are trained already: the model and the test of a config, as it has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.plain_config import NotPlainError, encode
from gfl_lab.zoo import refusals, rewrite
from gfl_lab.zoo.recipe import protocol_settings, size_settings
from gfl_lab.zoo.source import read

MOST_DETECTIONS = 1000
"""Detections of an image where the config does not limit them (YOLOX)."""

_OF_TRUTH = ("LoadAnnotations", "LoadPanopticAnnotations")


class TrainedConfig(NamedTuple):
    """A config as far as a test needs it.

    Attributes:
        detector: ``mmdet:NAME`` or a config file.
        model: with all its parts, those for masks too, so that weights fit it whole.
        test_pipeline: transforms of an image.
        dataset: of the test: its ``type``, and ``metainfo`` where the config names the classes.
    """

    detector: str
    model: dict[str, Any]
    test_pipeline: list[dict[str, Any]]
    dataset: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return the settings of a test by the config: image size, thresholds, and one image at a time."""
        own = size_settings(self.test_pipeline) | protocol_settings(self.model)
        if "max_per_img" not in rewrite.test_part(self.model):
            own["max_dets"] = MOST_DETECTIONS
        return {"detector": self.detector, "recipe": "config", "batch_size": 1, **own}

    def for_classes(self, classes: int) -> dict[str, Any]:
        """Return what a trial would store of the config, for a number of classes. Raises InputError if it cannot be stored."""
        model = rewrite.with_classes(self.model, classes) if classes else self.model
        try:
            stored: dict[str, Any] = encode({"model": model, "test_pipeline": self.test_pipeline})
        except NotPlainError as error:
            raise InputError(Problem(f"the config {self.detector} cannot be stored: {error}")) from None
        return stored


def read_trained(detector: str) -> TrainedConfig:
    """Read a config for weights that are trained already.

    Args:
        detector: ``mmdet:NAME`` or the path of a config file. Reading one executes it.

    Raises:
        InputError: there is no such config, it cannot be read, or its detector finds no boxes on images.
    """
    config = read(detector)
    model = rewrite.without_pretrained(rewrite.with_plain_norms(config["model"]))
    refusals.check_trained(detector, model)
    loader = config.get("test_dataloader") or config.get("val_dataloader") or {}
    dataset = loader.get("dataset") or {}
    pipeline = [_plain(each) for each in dataset.get("pipeline") or () if each["type"] not in _OF_TRUTH]
    if not pipeline:
        raise InputError(Problem(f"the config {detector} does not say how images are read: it has no test_dataloader.dataset.pipeline"))
    return TrainedConfig(detector, rewrite.with_own_preprocessor(model), pipeline, dataset)


def _plain(transform: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in transform.items() if key not in ("backend_args", "file_client_args")}
