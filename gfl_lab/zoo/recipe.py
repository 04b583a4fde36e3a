"""``recipe: config``: a config's own optimizer, schedule, augmentation and test, as far as a trial can repeat them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.choices import MMDET
from gfl_lab.spec.settings import Settings
from gfl_lab.zoo.rewrite import FIXED_SIZE, test_part

TRANSFORMS = frozenset({
    "LoadImageFromFile", "LoadAnnotations", "Resize", "RandomResize", "RandomChoiceResize", "RandomFlip", "RandomCrop", "RandomChoice",
    "FilterAnnotations", "PhotoMetricDistortion", "Expand", "MinIoURandomCrop", "Pad", "RandomShift", "YOLOXHSVRandomAug", "RandomAffine",
    "RandomCenterCropPad", "Normalize", "PackDetInputs",
})  # fmt: skip
"""Transforms of one image whose random numbers are drawn from ``random`` and ``numpy.random``, which a trial seeds for each sample."""

_REPEATED = "RepeatDataset"
_MASK_KEYS = ("with_mask", "with_seg", "poly2mask")


class Recipe(NamedTuple):
    """Training and test settings of a config, as plain Python data.

    Attributes:
        optim_wrapper: optimizer, clipping, parameter groups. param_scheduler: schedules of the learning rate.
        train_pipeline, test_pipeline: transforms of a sample.
        train_data: ``filter_cfg``, the images that are left out of training; ``like_shapes``, whether the images of a batch are all
            wide or all high; ``repeats``, how often an epoch takes each image, where that is more than once.
        epochs: of the whole training. batch_size: images a step, over all GPUs.
        notes: parts of the config that a trial leaves out, in words.
    """

    optim_wrapper: dict[str, Any]
    param_scheduler: list[dict[str, Any]]
    train_pipeline: list[dict[str, Any]]
    test_pipeline: list[dict[str, Any]]
    train_data: dict[str, Any]
    epochs: int
    batch_size: int
    notes: tuple[str, ...]

    def to_config(self) -> dict[str, Any]:
        """Return the parts that a trial is trained with, by their names in its config."""
        return {key: value for key, value in self._asdict().items() if key != "notes"}


def laid_open(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in which ``train_pipeline``, ``test_pipeline`` and ``auto_scale_lr.base_batch_size`` are what a trial uses.

    mmdet's files have these names too, but its loaders hold copies, so that a change of the names alone would change nothing.
    """
    opened = dict(config)
    for name, key in (("train_pipeline", "train_dataloader"), ("test_pipeline", "val_dataloader")):
        opened[name] = copy.deepcopy(list(_data(config, key).get("pipeline") or ()))
    size = (config.get("train_dataloader") or {}).get("batch_size", 2)  # one GPU's
    opened["auto_scale_lr"] = {"base_batch_size": size, **(config.get("auto_scale_lr") or {})}
    return opened


def _data(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the data set of a loader, without what repeats it; an empty mapping if there is none."""
    loader = config.get(key)
    data = loader.get("dataset") if isinstance(loader, Mapping) else None
    while isinstance(data, Mapping) and data.get("type") == _REPEATED:
        data = data.get("dataset")
    return data if isinstance(data, Mapping) else {}


def _repeats(config: Mapping[str, Any]) -> int:
    """Return how often an epoch takes each image."""
    times, data = 1, (config.get("train_dataloader") or {}).get("dataset")
    while isinstance(data, Mapping) and data.get("type") == _REPEATED:
        times, data = times * int(data["times"]), data.get("dataset")
    return times


def recipe_of(detector: str, config: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a config.

    Args:
        detector: the setting, for messages.
        config: from ``laid_open``.

    Raises:
        InputError: every part that a trial cannot repeat.
    """
    problems: list[str] = []
    wrapper = config.get("optim_wrapper") or {}
    if not isinstance(wrapper.get("optimizer"), Mapping):
        problems.append("it has no optim_wrapper.optimizer")
    train = config.get("train_cfg") or {}
    if not isinstance(train.get("max_epochs"), int) or not train.get("by_epoch", True):
        problems.append("its training is not counted in epochs (train_cfg.max_epochs)")
    if int(wrapper.get("accumulative_counts", 1)) != 1:
        problems.append(f"it adds up the gradients of {wrapper['accumulative_counts']} batches (optim_wrapper.accumulative_counts)")
    train_data = _train_data(config, problems)
    if not _data(config, "val_dataloader"):
        problems.append("it has no val_dataloader.dataset")
    pipelines = [_pipeline(config[name], problems) for name in ("train_pipeline", "test_pipeline")]
    if problems:
        hint = "With recipe: profile it is trained as the profile's other variants are."
        raise InputError(
            [Problem(f"{detector} cannot be trained by its own recipe: {problem}", hint=hint) for problem in dict.fromkeys(problems)]
        )
    schedulers = config.get("param_scheduler") or []
    return Recipe(
        optim_wrapper={key: value for key, value in wrapper.items() if key in ("optimizer", "clip_grad", "paramwise_cfg", "constructor")},
        param_scheduler=[dict(each) for each in ([schedulers] if isinstance(schedulers, Mapping) else schedulers)],
        train_pipeline=pipelines[0],
        test_pipeline=[each for each in pipelines[1] if each["type"] != "LoadAnnotations"],
        train_data=train_data,
        epochs=train["max_epochs"],
        batch_size=int(config["auto_scale_lr"]["base_batch_size"]),
        notes=_left_out(detector, config),
    )


def _train_data(config: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return how images are chosen and put into batches, and add the problem of each way that a trial cannot repeat."""
    data, loader = _data(config, "train_dataloader"), config.get("train_dataloader") or {}
    if not data:
        problems.append("it has no train_dataloader.dataset")
    if "dataset" in data or "datasets" in data:
        problems.append(f"train_dataloader.dataset is {data.get('type')}, which chooses among, mixes or joins other data sets")
    sampler = loader.get("sampler") or {}
    if sampler.get("type", "DefaultSampler") != "DefaultSampler" or not sampler.get("shuffle", True):
        problems.append(f"train_dataloader.sampler is {sampler.get('type')}, and a trial takes each image once an epoch, in random order")
    given = data.get("filter_cfg") or {}
    kept = {key: given[key] for key in ("filter_empty_gt", "min_size") if given.get(key)}
    found = {"filter_cfg": kept, "like_shapes": loader.get("batch_sampler") is not None}
    return found | ({"repeats": times} if (times := _repeats(config)) > 1 else {})


def _pipeline(transforms: Sequence[Mapping[str, Any]], problems: list[str]) -> list[dict[str, Any]]:
    """Return a pipeline for boxes alone, and add the problem of each transform that a trial cannot repeat."""
    kept = []
    for each in transforms:
        kind = str(each.get("type"))
        if kind not in TRANSFORMS:
            problems.append(f"its pipeline has {kind}, which is not among the transforms of one image that a trial can repeat")
            continue
        own = {key: value for key, value in each.items() if key not in ("backend_args", "file_client_args", *_MASK_KEYS)}
        if kind == "LoadAnnotations":
            own["with_bbox"] = True
        if kind == "FilterAnnotations":
            own = {key: value for key, value in own.items() if key not in ("by_mask", "min_gt_mask_area")}
        if kind == "RandomChoice":
            own["transforms"] = [_pipeline(branch, problems) for branch in each["transforms"]]
        kept.append(own)
    return kept


def _left_out(detector: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    hooks = sorted({str(hook.get("type")) for hook in config.get("custom_hooks") or ()} - {"NumClassCheckHook", "CheckInvalidLossHook"})
    found = []
    name = detector.removeprefix(MMDET)
    if hooks:
        found.append(f"{name}: {', '.join(hooks)} of its config {'is' if len(hooks) == 1 else 'are'} not run (ema_decay is a setting)")
    if str((config.get("optim_wrapper") or {}).get("type", "")).startswith("Amp"):
        found.append(f"{name}: its config trains in mixed precision; here the setting precision decides")
    augments = (config["model"].get("data_preprocessor") or {}).get("batch_augments") or ()
    if kinds := ", ".join(str(each.get("type")) for each in augments if each.get("type") != FIXED_SIZE):
        found.append(f"{name}: {kinds} of its config is left out")
    return tuple(found)


def as_settings(recipe: Recipe, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that say what a config's recipe is, as far as settings can: for tables, costs and the fairness check."""
    found: dict[str, Any] = {"epochs": recipe.epochs, "schedule": "1x", "batch_size": recipe.batch_size, "base_batch_size": 0}
    found["data_repeats"] = recipe.train_data.get("repeats", 1)
    optimizer = recipe.optim_wrapper["optimizer"]
    kind = str(optimizer.get("type")).lower()
    if kind in ("sgd", "adamw"):
        found["optimizer"] = kind
    for key in ("lr", "weight_decay"):
        if isinstance(value := optimizer.get(key), int | float):
            found[key] = float(value)
    clip = recipe.optim_wrapper.get("clip_grad")
    found["clip_grad_norm"] = float(clip["max_norm"]) if isinstance(clip, Mapping) and "max_norm" in clip else 0.0
    found |= _schedule(recipe) | size_settings(recipe.test_pipeline) | protocol_settings(model)
    return found


def _schedule(recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = {"warmup_iters": 0}
    for each in recipe.param_scheduler:
        if each.get("type") == "LinearLR" and not each.get("by_epoch", True):
            found |= {"warmup_iters": int(each.get("end", 0)), "warmup_start_factor": float(each.get("start_factor", 1 / 3))}
        elif each.get("type") == "MultiStepLR" and each.get("by_epoch", True):
            found |= {
                "lr_schedule": "step",
                "lr_steps": tuple(round(step / recipe.epochs, 4) for step in each["milestones"] if step <= recipe.epochs),
            }
        elif each.get("type") == "CosineAnnealingLR":
            found["lr_schedule"] = "cosine"
    return found


def size_settings(test_pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the size that test images are scaled into, where the config scales them with their ratio kept."""
    for each in test_pipeline:
        scale = each.get("scale")
        if each["type"] == "Resize" and isinstance(scale, list | tuple) and len(scale) == 2:
            longest, shortest = max(scale), min(scale)
            return {"image_size": (int(longest), int(shortest))} if shortest >= 32 else {}
    return {}


def protocol_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the test. A detector without a threshold, or without NMS, has one that leaves every box."""
    test = test_part(model)
    nms = test.get("nms")
    found = {
        "score_thr": float(test.get("score_thr", 0.0)),
        "nms_iou": float(nms["iou_threshold"]) if isinstance(nms, Mapping) and nms.get("iou_threshold") else 1.0,
        "max_dets": min(1000, int(test.get("max_per_img", 100))),
    }
    if isinstance(before := test.get("nms_pre"), int) and before >= 1:
        found["nms_pre"] = before
    return found


def settings_with_recipe(settings: Settings, recipe: Recipe, model: Mapping[str, Any]) -> Settings:
    """Return settings that say what the recipe is (``as_settings``)."""
    return Settings(**{**settings.model_dump(), **as_settings(recipe, model)})
