"""From a TrialSpec to the complete mmengine configuration that a Runner trains; also what config.py records."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from mmengine.config import Config

from gfl_lab.data.annotations import MIN_SIDE_PX
from gfl_lab.detector.build import model_config
from gfl_lab.spec.plain_config import decode
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TrialSpec
from gfl_lab.zoo.rewrite import CONTIGUOUS

SHARED_MEMORY, SHARED_MEMORY_PART = Path("/dev/shm"), 0.5
"""The place where loader processes hand images over, and the part of its free space that those of a trial may take."""
PREFETCHED = 2
"""Batches that each of them has ready: torch's default."""
VIT_ADAPTER_SHORT_SIDES = (0.5, 0.625, 0.75)
VIT_ADAPTER_CROP = (0.48, 0.75)
VIT_ADAPTER_LAST_CROP = 1.28
"""ViT-Adapter's crops in parts of the shortest side: 400, 500, 600; 384 to 600; and 1024 of 800 px
(czczup/ViT-Adapter, ``configs/gfl/gfl_deit_adapter_small_fpn_3x_coco.py``)."""


def trial_config(spec: TrialSpec, paths: dict[str, str], work_dir: str, loader_workers: int = 0) -> Config:
    """Return the complete configuration of a trial.

    Args:
        spec: what to train.
        paths: train_annotations, val_annotations, train_images, val_images; absolute.
        work_dir: the run directory.
        loader_workers: processes that load images; the numbers do not depend on it.
    """
    settings = spec.settings
    own = decode(spec.config) if spec.config else {}
    config = {
        "default_scope": "mmdet",
        "work_dir": work_dir,
        "model": detector_config(spec),
        "train_dataloader": _loader(spec, paths, "train", loader_workers, own),
        "val_loader": _loader(spec, paths, "val", loader_workers, own),
        "train_cfg": {"type": "TrialTrainLoop", "max_epochs": total_epochs(settings)},
        "optim_wrapper": _optim_wrapper(settings, own.get("optim_wrapper")),
        "param_scheduler": own["param_scheduler"] if "param_scheduler" in own else _schedulers(settings),
        "randomness": {"seed": spec.seed},
        "default_hooks": {
            "timer": None,
            "logger": None,
            "checkpoint": None,
            "runtime_info": {"type": "TrialInfoHook"},
            "param_scheduler": {"type": "ParamSchedulerHook"},
            "sampler_seed": {"type": "DistSamplerSeedHook"},
        },
        "env_cfg": {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 1}, "dist_cfg": {"backend": "gloo"}},
    }
    return Config(config, format_python_code=False)  # yapf takes 0.2 s for the text, which has its lines and indents without it


def detector_config(spec: TrialSpec) -> dict[str, Any]:
    """Return the config of the detector that a trial trains: of the GFL family, or one of mmdet's that the trial has stored."""
    if not spec.config:
        return {**model_config(spec.settings, len(spec.data.classes)), "type": "TrialDetector"}
    # With the profile's recipe all variants run in the memory order that is fast; a config's own recipe is mmdet's to the last bit.
    settings, model = spec.settings, decode(spec.config)["model"]
    return {
        "type": "mmdet_detector",
        "config": model,
        "score_thr": settings.score_thr,
        "max_dets": settings.max_dets,
        "channels_last": settings.recipe == "profile" and model["type"] not in CONTIGUOUS,
    }


def loaders_that_fit(wished: int, settings: Settings) -> int:
    """Return as many of the ``wished`` loader processes as shared memory has room for: each keeps two batches there.

    A container often has 64 MB of it, and a process that finds it full is killed.
    """
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0
    return min(wished, int(free * SHARED_MEMORY_PART // (PREFETCHED * batch_bytes(settings))))


def batch_bytes(settings: Settings) -> int:
    """Return the bytes of a batch of 8-bit images at their largest."""
    return 3 * math.prod(settings.image_size) * settings.batch_size


def _loader(spec: TrialSpec, paths: dict[str, str], split: str, workers: int, own: dict[str, Any]) -> dict[str, Any]:
    """Return the loader of a split.

    Args:
        own: of an mmdet config; what it has of pipelines and training data takes the place of the profile's.
    """
    settings, training = spec.settings, split == "train"
    own_pipeline = own.get("train_pipeline" if training else "test_pipeline")
    own_data: dict[str, Any] = {}
    own_batches: dict[str, Any] = {}
    if training and "train_data" in own:
        own_data = {"filter_cfg": own["train_data"]["filter_cfg"], "like_mmdet": True}
        own_batches = {"like_shapes": own["train_data"]["like_shapes"]}
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
    pipeline: list[dict[str, Any]] = [{"type": "LoadImageCached", "white_level": spec.data.white_level}]
    if training:
        pipeline += [{"type": "LoadAnnotations", "with_bbox": True}, *_augmentation(settings)]
    else:
        pipeline += [{"type": "ResizeKeepRatio", "scale": tuple(settings.image_size), "keep_ratio": True}]
    pipeline += [{"type": "PackBytes", "meta_keys": meta}]
    if own_pipeline is not None:
        load = pipeline[0] | {"copy": True}
        pipeline = [
            load | {"to_float32": bool(each.get("to_float32"))} if each["type"] == "LoadImageFromFile" else each for each in own_pipeline
        ]
    one_shape = {"type": "OneShapeBatchSampler", "image_size": tuple(settings.image_size), "pad_to": _padded_to(spec)}
    return {
        # A config's own test takes one image at a time, as mmdet's does.
        "batch_size": settings.batch_size if training else 1 if own_pipeline is not None else min(settings.batch_size, 16),
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "drop_last": False,
        "sampler": {"type": "WholeSampler", "shuffle": training, "seed": spec.seed},
        "batch_sampler": {"type": "ResumableBatchSampler", **own_batches} if training else one_shape,
        "collate_fn": {"type": "pseudo_collate"},
        "dataset": {
            "type": "TrialDataset",
            "ann_file": paths[f"{split}_annotations"],
            "data_prefix": {"img": paths[f"{split}_images"]},
            "classes": tuple(spec.data.classes),
            "seed": spec.seed,
            "draw_annotators": training and spec.data.truth,
            "filter_cfg": {"filter_empty_gt": True, "min_size": MIN_SIDE_PX} if training else None,
            "test_mode": not training,
            "pipeline": pipeline,
            **({"repeats": settings.data_repeats} if training and settings.data_repeats > 1 else {}),
            **own_data,
        },
    }


def _padded_to(spec: TrialSpec) -> int:
    """Return the number of which the sides of padded images are multiples, px."""
    if not spec.config:
        return spec.settings.pad_to
    return int(spec.config["model"]["data_preprocessor"].get("pad_size_divisor", 1))


def _augmentation(settings: Settings) -> list[dict[str, Any]]:
    """Return scaling, flips and crops of training, drawn from ``numpy.random``, which the data set seeds for each sample."""
    scale, flip = _multi_scale(settings), {"type": "RandomFlip", "prob": settings.flip_prob}
    if settings.crop == "none":
        return [scale, flip]
    short = settings.image_size[1]

    def crop(least: float, most: float) -> dict[str, Any]:
        size = (round(least * short), round(most * short))
        return {"type": "mmdet.RandomCrop", "crop_type": "absolute_range", "crop_size": size, "allow_negative_crop": True}

    cropped = [_resize(settings, VIT_ADAPTER_SHORT_SIDES), crop(*VIT_ADAPTER_CROP), scale]
    return [flip, {"type": "RandomChoice", "transforms": [[scale], cropped]}, crop(VIT_ADAPTER_LAST_CROP, VIT_ADAPTER_LAST_CROP)]


def _multi_scale(settings: Settings) -> dict[str, Any]:
    """Return scaling with a factor in ``scale_range``: any, or one of a grid of ``scale_step`` that starts at the range's lower end."""
    low, high = settings.scale_range
    if low == high or not settings.scale_step:
        return _resize(settings, [low, high], between=True)
    count = math.floor((high - low) / settings.scale_step + 1e-6)
    return _resize(settings, [low + index * settings.scale_step for index in range(count + 1)])


def _resize(settings: Settings, factors: Sequence[float], between: bool = False) -> dict[str, Any]:
    """Scale an image, ratio kept, into ``image_size`` with the shortest side times a factor, and the longest side as it is.

    One factor draws no random number. Several are drawn from with equal probability; ``between`` two of them it is any whole
    number of pixels.
    """
    cap, short = settings.image_size
    sizes = [(cap, min(cap, round(factor * short))) for factor in factors]  # the larger of the two caps the longest side
    how = {"keep_ratio": True, "interpolation": settings.interpolation}
    if len(set(factors)) == 1:
        return {"type": "ResizeKeepRatio", "scale": sizes[0], **how}
    if between:
        return {"type": "RandomResize", "scale": sizes, "resize_type": "ResizeKeepRatio", **how}
    return {"type": "RandomChoiceResize", "scales": sizes, "resize_type": "ResizeKeepRatio", **how}


def learning_rate(settings: Settings) -> float:
    """Return the peak rate: ``lr``, or for a ``base_batch_size`` scaled to ``batch_size``, linearly for SGD and by the square root for AdamW.

    Sources: Goyal et al., arXiv 1706.02677, section 2.1 (linear); Malladi et al., arXiv 2205.10287 (square root for
    adaptive methods).
    """
    if not settings.base_batch_size:
        return settings.lr
    ratio = settings.batch_size / settings.base_batch_size
    return settings.lr * (ratio if settings.optimizer == "sgd" else math.sqrt(ratio))


def _optim_wrapper(settings: Settings, own: dict[str, Any] | None) -> dict[str, Any]:
    """Return the optimizer and its wrapper, by the settings, or by an mmdet config whose recipe is trained (``own``)."""
    if own is not None:
        return {**own, **_wrapper_type(settings)}
    if settings.optimizer == "sgd":
        optimizer = {"type": "SGD", "momentum": 0.9}
    else:
        optimizer = {"type": "AdamW", "fused": True}
    wrapper = {
        **_wrapper_type(settings),
        "optimizer": optimizer | {"lr": learning_rate(settings), "weight_decay": settings.weight_decay},
        "clip_grad": {"max_norm": settings.clip_grad_norm} if settings.clip_grad_norm else None,
    }
    if settings.no_decay or settings.bias_lr_mult != 1:
        groups = {"no_decay": settings.no_decay, "bias_lr": settings.bias_lr_mult}
        wrapper |= {"constructor": "SettingsOptimConstructor", "paramwise_cfg": groups}
    return wrapper


def _wrapper_type(settings: Settings) -> dict[str, str]:
    if settings.precision == "float32":
        return {"type": "TrialOptimWrapper"}
    return {"type": "AutocastOptimWrapper", "precision": settings.precision}


def milestones(settings: Settings) -> list[int]:
    """Return the epochs after which the step schedule drops the rate, e.g. [8, 11] of 12, [16, 22] of 24, [27, 33] of 36.

    A drop comes before the last epoch at the latest, so that in a short schedule it still has an effect.

    ``lr_steps`` are rounded fractions (0.6667 is 2/3), so they are taken for the nearest one of a denominator up to 100.
    """
    epochs = total_epochs(settings)
    return sorted({max(1, min(epochs - 1, round(epochs * Fraction(part).limit_denominator(100)))) for part in settings.lr_steps})


def _schedulers(settings: Settings) -> list[dict[str, Any]]:
    epochs = total_epochs(settings)
    schedulers: list[dict[str, Any]] = []
    if settings.warmup_iters:
        schedulers.append(
            {"type": "LinearLR", "start_factor": settings.warmup_start_factor, "by_epoch": False, "begin": 0, "end": settings.warmup_iters}
        )
    if settings.lr_schedule == "step":
        schedulers.append(
            {"type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": epochs, "milestones": milestones(settings), "gamma": 0.1}
        )
    else:
        schedulers.append(
            {
                "type": "CosineAnnealingLR",
                "by_epoch": True,
                "begin": 0,
                "end": epochs,
                "T_max": epochs,
                "eta_min_ratio": 0.01,
                "convert_to_iter_based": True,
            }
        )
    return schedulers
