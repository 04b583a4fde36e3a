"""A config's model for the data and the recipe of a trial: classes, masks, initial weights, norms, protocol of the test."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.settings import Settings

Model = dict[str, Any]

_MASK_PARTS = (
    "mask_head", "mask_roi_extractor", "mask_iou_head", "point_head", "semantic_head", "semantic_roi_extractor", "semantic_fusion",
    "interleaved", "mask_info_flow", "glbctx_head", "feat_relay_head",
)  # fmt: skip
_WITHOUT_MASKS = {
    "MaskScoringRoIHead": "StandardRoIHead",
    "PointRendRoIHead": "StandardRoIHead",
    "HybridTaskCascadeRoIHead": "CascadeRoIHead",
    "SCNetRoIHead": "CascadeRoIHead",
    "SCNetBBoxHead": "ConvFCBBoxHead",
}
"""Types of parts whose own addition is for masks, and what they are without it."""
_SYNCHRONISED = ("SyncBN", "MMSyncBN", "NaiveSyncBN")


def with_classes(model: Model, classes: int) -> Model:
    """Return the model for ``classes`` classes: each ``num_classes`` but those of a region proposal network, which has one.

    Raises:
        InputError: a loss weighs the config's own classes one by one.
    """

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            if isinstance(weights := node.get("class_weight"), list | tuple):
                message = (
                    f"{path}.class_weight has {len(weights)} weights, one for each class of the config, and the data have {classes} classes"
                )
                raise InputError(Problem(message, hint=f"Give a number: cfg_options.{path}.class_weight: 1.0."))
            return {
                key: classes
                if key == "num_classes" and isinstance(value, int)
                else value
                if key == "rpn_head"
                else walk(value, f"{path}.{key}")
                for key, value in node.items()
            }
        if isinstance(node, list | tuple):
            return type(node)(walk(item, f"{path}.{index}") for index, item in enumerate(node))
        return node

    changed: Model = walk(model, "model")
    return changed


def without_masks(model: Model) -> Model:
    """Return a two-stage detector without its parts for masks, so that it learns boxes alone: Mask R-CNN becomes Faster R-CNN."""
    if not isinstance(model.get("roi_head"), Mapping):
        return model
    head = {key: value for key, value in model["roi_head"].items() if key not in _MASK_PARTS}
    return {**model, "roi_head": _renamed(head)}


def _renamed(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _WITHOUT_MASKS.get(value, value) if key == "type" and isinstance(value, str) else _renamed(value)
            for key, value in node.items()
        }
    return type(node)(map(_renamed, node)) if isinstance(node, list | tuple) else node


def without_pretrained(model: Model) -> Model:
    """Return the model without addresses of initial weights: the setting ``init_weights`` decides what it starts from."""

    def walk(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {
                key: walk(value)
                for key, value in node.items()
                if key != "pretrained"
                and not (key == "init_cfg" and isinstance(value, Mapping) and (value.get("type") == "Pretrained" or "checkpoint" in value))
            }
        return type(node)(map(walk, node)) if isinstance(node, list | tuple) else node

    changed: Model = walk(model)
    return changed


def trained_from_start(model: Model) -> Model:
    """Return the model with a backbone whose stages and norms all train, as random initial weights need it."""
    backbone = model.get("backbone")
    if not isinstance(backbone, Mapping):
        return model
    own = dict(backbone)
    if "frozen_stages" in own:
        own["frozen_stages"] = 0 if own["type"] == "EfficientNet" else -1  # the number of its frozen stages; elsewhere the last one
    if "norm_eval" in own or any(part in str(own["type"]) for part in ("ResNe", "Res2Net", "RegNet")):
        own["norm_eval"] = False  # mmdet's ResNets keep the statistics of their norms unless norm_eval is False
    return {**model, "backbone": own}


def with_plain_norms(model: Model) -> Model:
    """Return the model with plain batch norms in place of synchronised ones: a trial of several GPUs makes them synchronised itself."""

    def walk(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: "BN" if key == "type" and value in _SYNCHRONISED else walk(value) for key, value in node.items()}
        return type(node)(map(walk, node)) if isinstance(node, list | tuple) else node

    changed: Model = walk(model)
    return changed


def test_part(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of ``test_cfg`` that decides which boxes are detections: the second stage's, or the whole."""
    test = model.get("test_cfg")
    if not isinstance(test, Mapping):
        return {}
    inner = test.get("rcnn")
    return inner if isinstance(inner, Mapping) else test


_OF_TEST = {"score_thr": "score_thr", "nms_iou": "nms", "nms_pre": "nms_pre", "max_dets": "max_per_img"}
"""Settings of the protocol, and their keys in ``test_cfg``."""


def test_settings(model: Mapping[str, Any]) -> frozenset[str]:
    """Return the settings of the protocol that stand in the model's test.

    A detector without a score threshold, or without a number of detections, has its scores and number cut when it predicts
    (``detector.mmdet_detector``).
    """
    part = test_part(model)
    found = {key for key, name in _OF_TEST.items() if name in part}
    if not (isinstance(part.get("nms"), Mapping) and "iou_threshold" in part["nms"]):
        found.discard("nms_iou")
    if "rcnn" in model.get("test_cfg", {}):
        found.discard("nms_pre")
    return frozenset(found)


def with_test_settings(model: Model, values: Mapping[str, Any]) -> Model:
    """Return the model with other ``values`` of the protocol's settings, where its test has them. The kind of NMS stays."""
    part = dict(test_part(model))
    for key in sorted(values.keys() & test_settings(model)):
        part[_OF_TEST[key]] = {**part["nms"], "iou_threshold": values[key]} if key == "nms_iou" else values[key]
    return _with_test_part(model, part)


def with_protocol(model: Model, settings: Settings) -> Model:
    """Return the model with the profile's protocol: score threshold, NMS, detections an image, candidates before NMS.

    A detector without one of them stays without: prediction cuts scores and number itself (``inference.predict``).
    """
    part = dict(test_part(model))
    if "nms" in part:
        part["nms"] = {"type": "nms", "iou_threshold": settings.nms_iou}
    return with_test_settings(_with_test_part(model, part), {key: getattr(settings, key) for key in _OF_TEST})


def _with_test_part(model: Model, part: dict[str, Any]) -> Model:
    """Return the model with another ``test_part``."""
    found, changed = test_part(model), copy.deepcopy(model)
    if not found:
        return changed
    if found is model["test_cfg"]:
        changed["test_cfg"] = part
    else:
        changed["test_cfg"]["rcnn"] = part
    return changed


CONTIGUOUS = frozenset({"CenterNet", "CornerNet", "GridRCNN"})
"""Models whose heads take their maps apart as they lie in memory, which fails in channels-last order."""


def with_preprocessor(model: Model, settings: Settings) -> Model:
    """Return the model with our preprocessing of images, which has the config's mean, deviation and order of colours.

    Padding is to a multiple of the config's and of the profile's.
    """
    given = model.get("data_preprocessor") or {}
    own = {key: given[key] for key in ("mean", "std", "bgr_to_rgb", "rgb_to_bgr") if key in given}
    pad_to = math.lcm(int(given.get("pad_size_divisor", 1)), settings.pad_to)
    if model["type"] in CONTIGUOUS:
        return with_own_preprocessor({**model, "data_preprocessor": {**given, "pad_size_divisor": pad_to}})
    # scope in the name: mmengine builds this one by its own registry
    return {**model, "data_preprocessor": {"type": "mmdet.BatchPreprocessor", **own, "pad_size_divisor": pad_to}}


FIXED_SIZE = "BatchFixedSizePad"
"""The only one of mmdet's batch augmentations that draws no random number: padding to a given size, in training."""


def with_own_preprocessor(model: Model, padding: bool = False) -> Model:
    """Return the model with the config's preprocessing, without what it does to masks and to whole batches.

    Args:
        padding: keep the padding of training batches to a given size.
    """
    given = model.get("data_preprocessor") or {}
    kept = {key: given[key] for key in ("mean", "std", "bgr_to_rgb", "rgb_to_bgr", "pad_size_divisor") if key in given}
    augments = [each for each in given.get("batch_augments") or () if padding and each["type"] == FIXED_SIZE]
    if augments:
        kept["batch_augments"] = [{"type": f"mmdet.{FIXED_SIZE}", "size": each["size"]} for each in augments]
    return {**model, "data_preprocessor": {"type": "mmdet.DetDataPreprocessor", **kept}}
