"""Stock mmdet beside ours: the same detector, with mmdet's own head, from one configuration; and what both are timed on."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from mmengine.logging import MMLogger


def stock_model(ours: dict[str, Any]) -> dict[str, Any]:
    """mmdet's GFL with ``GFLHead`` for a model configuration of ours (QFL and DFL on); weights of one load into the other."""
    model, head = deepcopy(dict(ours)), ours["bbox_head"]
    kept = ("num_classes", "in_channels", "feat_channels", "anchor_generator")
    model["type"], model["data_preprocessor"]["type"] = "GFL", "mmdet.DetDataPreprocessor"
    model["bbox_head"] = {
        "type": "GFLHead",
        **{key: head[key] for key in kept},
        "stacked_convs": head["tower"]["convs"],
        "reg_max": head["box"]["reg_max"],
        "norm_cfg": {"type": "GN", "num_groups": min(32, head["feat_channels"] // 8), "requires_grad": True},
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": head["quality"]["beta"], "loss_weight": 1.0},
        "loss_dfl": {"type": "DistributionFocalLoss", "loss_weight": head["box"]["dfl_weight"]},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": head["box_loss"]["weight"]},
    }
    return model


def stock_loader(ours: Any, workers: int, training: bool) -> dict[str, Any]:
    """mmdet's data set, pipeline and samplers for a loader configuration of ours without crops: the same scales and flips."""
    steps = [dict(step) for step in ours.dataset.pipeline]
    steps[0], steps[-1]["type"] = {"type": "LoadImageFromFile"}, "PackDetInputs"
    if not training:
        steps.insert(-1, {"type": "LoadAnnotations", "with_bbox": True})
    data = {
        "type": "CocoDataset",
        "ann_file": ours.dataset.ann_file,
        "data_prefix": ours.dataset.data_prefix,
        "metainfo": {"classes": ours.dataset.classes},
        "pipeline": steps,
    }
    return {
        "batch_size": ours.batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": {"type": "DefaultSampler", "shuffle": training},
        **({"batch_sampler": {"type": "AspectRatioBatchSampler"}} if training else {"drop_last": False}),
        "dataset": data | ({"filter_cfg": {"filter_empty_gt": True, "min_size": 32}} if training else {"test_mode": True}),
    }


def random_boxes(count: int, size: tuple[int, int], classes: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 4) boxes of 12 to 400 px inside an image of (height, width), xyxy, and their (count,) labels."""
    width_height = torch.tensor([float(size[1]), float(size[0])])
    corner = torch.rand(count, 2, generator=generator) * width_height * 0.8
    extent = torch.exp(torch.rand(count, 2, generator=generator) * 3.5 + 2.5)
    far = torch.minimum(corner + extent, width_height)
    return torch.cat([corner, far], 1), torch.randint(classes, (count,), generator=generator)


def initialise(model: torch.nn.Module) -> None:
    """``init_weights`` without mmengine's list of every parameter."""
    logger = MMLogger.get_current_instance()
    logger.setLevel("WARNING")
    model.init_weights()


def waiting(device: str) -> Callable[[], Any]:
    """Return a function that waits until a device has done all its work."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def where(device: str) -> str:
    """A device in words."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
