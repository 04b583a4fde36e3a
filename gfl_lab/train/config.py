"""From a TrialSpec to the complete mmengine configuration that a Runner trains; also what config.py records."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from gfl_lab.data.coco import MIN_SIDE_PX
from gfl_lab.detector.build import model_config
from gfl_lab.spec.settings import Settings, TrialSpec

STEP_MILESTONES = (2 / 3, 11 / 12)
"""Where the step schedule drops the rate, in epochs of the whole: 8 and 11 of 12, 16 and 22 of 24."""


def trial_config(spec: TrialSpec, paths: dict[str, str], work_dir: str, loader_workers: int = 0) -> Config:
    """Complete configuration of a trial.

    Args:
        spec: what to train.
        paths: train_annotations, val_annotations, train_images, val_images; absolute.
        work_dir: the run directory.
        loader_workers: processes that load images; the numbers do not depend on it.
    """
    settings = spec.settings
    model = model_config(settings, len(spec.data.classes))
    model["type"] = "TrialDetector"
    config = {
        "default_scope": "mmdet",
        "work_dir": work_dir,
        "model": model,
        "train_dataloader": _loader(spec, paths, "train", loader_workers),
        "val_loader": _loader(spec, paths, "val", loader_workers),
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": settings.epochs},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": _optimizer(settings),
            "clip_grad": {"max_norm": settings.clip_grad_norm} if settings.clip_grad_norm else None,
        },
        "param_scheduler": _schedulers(settings),
        "randomness": {"seed": spec.seed},
        "default_hooks": {
            "timer": None,
            "logger": None,
            "checkpoint": None,
            "runtime_info": {"type": "RuntimeInfoHook"},
            "param_scheduler": {"type": "ParamSchedulerHook"},
            "sampler_seed": {"type": "DistSamplerSeedHook"},
        },
        "env_cfg": {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 1}, "dist_cfg": {"backend": "gloo"}},
    }
    return Config(config)


def _loader(spec: TrialSpec, paths: dict[str, str], split: str, workers: int) -> dict[str, Any]:
    settings, training = spec.settings, split == "train"
    resize = {"type": "Resize", "scale": tuple(settings.image_size), "keep_ratio": True}
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
    pipeline: list[dict[str, Any]] = [{"type": "LoadImageCached"}]
    if training:
        pipeline += [{"type": "LoadAnnotations", "with_bbox": True}, resize, {"type": "RandomFlip", "prob": settings.flip}]
    else:
        pipeline += [resize]
    pipeline += [{"type": "PackDetInputs", "meta_keys": meta}]
    # Batches of like shape save padding; images of one size need no sorting.
    batches = {"batch_sampler": {"type": "ResumableBatchSampler"}} if training else {}
    return {
        "batch_size": settings.batch_size if training else min(settings.batch_size, 16),
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "drop_last": False,
        "sampler": {"type": "DefaultSampler", "shuffle": training, "seed": spec.seed},
        **batches,
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
        },
    }


def _optimizer(settings: Settings) -> dict[str, Any]:
    if settings.optimizer == "sgd":
        return {"type": "SGD", "lr": settings.lr, "momentum": 0.9, "weight_decay": settings.weight_decay}
    return {"type": "AdamW", "lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}


def _schedulers(settings: Settings) -> list[dict[str, Any]]:
    schedulers: list[dict[str, Any]] = []
    if settings.warmup_iters:
        schedulers.append({"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": settings.warmup_iters})
    if settings.lr_schedule == "step":
        milestones = sorted({max(1, round(settings.epochs * part)) for part in STEP_MILESTONES})
        schedulers.append(
            {"type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": settings.epochs, "milestones": milestones, "gamma": 0.1}
        )
    else:
        schedulers.append(
            {
                "type": "CosineAnnealingLR",
                "by_epoch": True,
                "begin": 0,
                "end": settings.epochs,
                "T_max": settings.epochs,
                "eta_min_ratio": 0.01,
                "convert_to_iter_based": True,
            }
        )
    return schedulers
