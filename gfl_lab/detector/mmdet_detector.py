"""A detector of mmdet's own, built from a trial's stored config."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from gfl_lab.detector.memory_order import to_channels_last
from gfl_lab.detector.mmdet_distributions import read_distributions
from gfl_lab.detector.mmdet_fixes import mend_config, mend_detector
from gfl_lab.errors import GflLabError, InputError

T = TypeVar("T")


@MODELS.register_module()
def mmdet_detector(config: Mapping[str, Any], score_thr: float, max_dets: int, channels_last: bool = False) -> BaseDetector:
    """Build a detector of any of mmdet's classes, with mmdet's faults mended (``mmdet_fixes``).

    The distributions of its own GFL heads are read as ours are (``mmdet_distributions``).

    Args:
        config: of the model, complete.
        score_thr, max_dets: of the protocol. Detectors without a threshold, or without a number of detections, keep them too.
        channels_last: whether its convolutions run in channels-last memory order, as ours do (docs/decisions/0004).
    """
    model: BaseDetector = MODELS.build(ConfigDict(mend_config(config)))
    mend_detector(model)
    read_distributions(model, config)
    if channels_last:
        to_channels_last(model)
    model.add_pred_to_datasample = functools.partial(_within_protocol, model.add_pred_to_datasample, score_thr, max_dets)
    return model


def without_memory(config: Mapping[str, Any], detector: str) -> BaseDetector:
    """Build a detector to look at its parts and the keys of its weights, not to run it.

    Args:
        config: as ``mmdet_detector`` takes it. detector: the setting, for the message.

    Raises:
        InputError: it cannot be built here.
    """
    try:
        with DefaultScope.overwrite_default_scope("mmdet"):
            return on_meta_device(lambda: mmdet_detector(config, 0.0, 100))
    except GflLabError:
        raise
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        raise InputError(f"the detector {detector} cannot be built here: {type(error).__name__}: {text}") from None


def on_meta_device(build: Callable[[], T]) -> T:
    """Return what ``build`` returns, built on the meta device, where weights take no memory.

    A constructor that computes with its numbers cannot do that. It builds on the CPU, and what it raises there is raised.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception:
        return build()


def _within_protocol(add: Callable[..., list[Any]], score_thr: float, max_dets: int, samples: list[Any], results: list[Any]) -> list[Any]:
    """Add the detections of a batch to its samples: those from ``score_thr`` on, and of each image the ``max_dets`` best."""
    return add(samples, [best(found, score_thr, max_dets) for found in results])


def best(found: InstanceData, score_thr: float, max_dets: int) -> InstanceData:
    """Return the detections of an image with a score above ``score_thr``, at most ``max_dets``, best first; unchanged if all are."""
    scores = found.scores
    if len(scores) > max_dets or bool((scores <= score_thr).any()):
        order = scores.argsort(descending=True, stable=True)[:max_dets]
        found = found[order[scores[order] > score_thr]]
    return found


def has_distributions(model: Any) -> bool:
    """Return True if a detector's head gives the distribution, or at least the distance, of each side at each location."""
    return hasattr(getattr(model, "bbox_head", None), "dense_outputs")
