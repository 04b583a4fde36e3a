"""Settings that act only beside others: elsewhere they change neither losses, gradients nor detections, and no trial's id."""

from __future__ import annotations

import typing
from typing import Any, Literal

import pytest
import torch

from gfl_lab.detector.build import build_detector
from gfl_lab.plan.plan import build_plan
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.file_models import ExperimentFile, Profile
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.trial import DataSpec, TrialSpec, computed
from tests.support.heads import CLASSES, batch, metas, samples

torch.set_num_threads(1)  # these models are too small for several

SMALL = {
    "backbone": "r18", "base_channels": 8, "neck_channels": 16, "head_channels": 16, "head_convs": 1, "strides": [8, 16, 32],
    "image_size": [96, 96], "batch_size": 2, "frozen_stages": -1, "norm_eval": False,
}  # fmt: skip
BASES: dict[str, dict[str, Any]] = {
    "joint general": {}, "atss": {"qfl": False, "dfl": False}, "joint dirac": {"dfl": False}, "general without dfl": {"dfl": False, "box": "general"},
    "fcos": {"qfl": False, "dfl": False, "bbox_coder": "distance"}, "gaussian": {"box": "gaussian"}, "guided": {"quality": "iou_guided"},
    "gaussian and box loss": {"box": "gaussian", "gaussian_box_loss": True}, "iou": {"quality": "iou"}, "dgqp": {"quality": "dgqp"},
    "varifocal direct": {"cls_loss": "varifocal", "box": "direct"}, "weighted": {"bins": "weighted"}, "fcos assigner": {"assigner": "fcos"}, "max_iou": {"assigner": "max_iou"}, "tal": {"assigner": "tal"}, "simota": {"assigner": "simota"},
    "none": {"quality": "none", "box": "dirac"}, "cosine": {"lr_schedule": "cosine", "warmup_iters": 0, "weight_decay": 0.0},
    "multi-scale": {"scale_range": [0.6, 1.0]}, "extra levels": {"strides": [8, 16, 32, 64, 128]},
}  # fmt: skip
OTHER: dict[str, Any] = {
    "qfl_beta": 1.0, "reg_max": 18, "max_iou_positive": 0.6, "varifocal_gamma": 1.0, "dgqp_topk": 3, "box_loss": "ciou", "lr_steps": [0.5], "no_decay": ["bias"], "strides": [16, 32], "image_size": [128, 128],
    "scale_range": [0.5, 0.9], "backbone": "r34", "head_channels": 32, "frozen_stages": 0, "base_batch_size": 7,
}  # fmt: skip
MINE = DataSpec(name="mine", digest="0" * 16, classes=("a", "b", "c"), train_images=100, val_images=20)
SHAPES = MINE.model_copy(update={"truth": True})
PROFILE = Profile(name="p", title="", data="required", settings=SMALL)
UNTESTED = {
    "detector",
    "cfg_options",
    "recipe",
    "component_args",
    "head",
    "cls_loss",
    "assigner",
    "init_weights",
    "init_from",
    "teacher",
    "distillation",
    "ld_temperature",
    "ld_weight",
    "ld_region",
    "kd_temperature",
    "kd_weight",
    "qfl",
    "dfl",
    "quality",
    "box",
    "dcn",
    "crop",
    "schedule",
    "box_weighting",
    "ema_decay",
}
"""Registered names, what stands outside of the configuration, switches that other settings follow, and other detectors than ours (test_zoo.py)."""


def other(key: str, value: Any) -> Any:
    """Another valid value of a setting."""
    if key in OTHER:
        return OTHER[key]
    annotation = Settings.model_fields[key].annotation
    if annotation is bool:
        return not value
    if typing.get_origin(annotation) is Literal:
        return next(each for each in typing.get_args(annotation) if each != value)
    return value + 1 if annotation is int else value / 2 if value else 0.25


def config(settings: Settings) -> dict[str, Any]:
    spec = TrialSpec(settings=settings, data=MINE, seed=0, code=1)
    paths = dict.fromkeys(("train_annotations", "val_annotations", "train_images", "val_images"), "x")
    return trial_config(spec, paths, "w").to_dict()


def numbers(settings: Settings) -> list[torch.Tensor]:
    """Losses, gradients and detections of the detector on a fixed image, weights drawn from a fixed seed."""
    torch.manual_seed(0)
    model = build_detector(settings, CLASSES)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(1, 3, 64, 64, generator=generator)
    data = samples(batch("crowded", (64, 64), generator)[:1], metas(1, (64, 64)))
    losses = model.loss(images, data)
    sum(sum(value) if isinstance(value, list) else value for value in losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.eval()
    with torch.no_grad():
        found = model.predict(images, data)
    values = [value for loss in losses.values() for value in (loss if isinstance(loss, list) else [loss])]
    return values + gradients + [tensor for each in found for tensor in (each.pred_instances.bboxes, each.pred_instances.scores)]


def trial_id(settings: Settings, data: DataSpec = MINE) -> str:
    return TrialSpec(settings=settings, data=data, seed=0, code=1).id


def changed_in(settings: Settings, base: str, *keys: str) -> Settings:
    given = {key: other(key, getattr(settings, key)) for key in keys}
    return settings.model_copy(update=resolve_settings(SMALL, BASES[base], given).model_dump(include=set(keys)))


@pytest.mark.parametrize("base", BASES)
def test_what_is_inactive_changes_no_id_and_what_is_active_changes_the_configuration_and_the_id(base: str) -> None:
    settings = resolve_settings(SMALL, BASES[base])
    known = config(settings)
    for key in Settings.model_fields:
        if key in UNTESTED:
            continue
        changed = changed_in(settings, base, key)
        if key in inactive(settings):
            assert computed(changed) == computed(settings), key
            exported = settings.box == "gaussian" and key == "reg_max"  # the range of the distribution that is written down
            assert (trial_id(changed) == trial_id(settings)) != exported, key
        else:
            assert config(changed) != known, f"{key} is called active, and nothing reads it"
            assert trial_id(changed) != trial_id(settings) and computed(changed) != computed(settings), key


@pytest.mark.parametrize(
    "base",
    ["atss", "joint dirac", "general without dfl", "weighted", "varifocal direct", "tal", "gaussian", "guided", "iou", "dgqp", "cosine"],
)
def test_what_is_inactive_changes_no_number(base: str) -> None:
    settings = resolve_settings(SMALL, BASES[base])
    changed = changed_in(settings, base, *inactive(settings).keys() - UNTESTED)
    plain, again = config(settings), config(changed)
    if settings.weight_decay == 0:  # none for some parameters, where none has any
        assert again["optim_wrapper"].pop("paramwise_cfg")["no_decay"] and again["optim_wrapper"].pop("constructor")
    assert {**plain, "model": None} == {**again, "model": None}
    first, second = numbers(settings), numbers(changed)
    assert len(first) == len(second) and all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_against_known_edges_the_bins_count_for_the_id_of_any_box() -> None:
    """They decide which sides are scored; so two experiments with other bins keep trials of their own."""
    dirac = resolve_settings(SMALL, {"dfl": False})
    wide = resolve_settings(SMALL, {"dfl": False, "reg_max": 8})
    assert trial_id(dirac) == trial_id(wide) and trial_id(dirac, SHAPES) != trial_id(wide, SHAPES)


def test_other_spellings_of_one_training_are_computed_alike() -> None:
    def of(**given: Any) -> dict[str, Any]:
        return computed(resolve_settings(SMALL, given))

    assert of(epochs=24) == of(epochs=12, schedule="2x") != of(epochs=12)
    assert of(base_batch_size=0) == of(base_batch_size=2) != of(base_batch_size=4)
    assert of(frozen_stages=4) != of(frozen_stages=3)
    assert of(frozen_stages=3, strides=[4, 8]) == of(frozen_stages=2, strides=[4, 8])
    assert of(dfl_weight=0.0) == of(dfl=False, box="general") != of()


@pytest.mark.parametrize("data", [MINE, SHAPES], ids=["mine", "shapes"])
def test_an_axis_without_effect_trains_once_and_says_so(data: DataSpec) -> None:
    def plan(**content: Any) -> Any:
        return build_plan(ExperimentFile.model_validate({"name": "x", "profile": "p", **content}), PROFILE, data)

    with pytest.raises(Exception, match=r"axis 'reg_max' has no effect in any variant; its 3 values would train the same\n.*general box"):
        plan(axes={"reg_max": [8, 16, 24]}, overrides={"dfl": False})
    found = plan(axes={"dfl": [False, True], "reg_max": [8, 16, 24]}, baseline={"dfl": False, "reg_max": 8})
    assert [variant.name for variant in found.variants] == ["dfl=off", "dfl=on reg_max=8", "dfl=on reg_max=16", "dfl=on reg_max=24"]
    assert found.variants[0].baseline and found.variants[0].settings.reg_max == 16, "as where a condition leaves it out"
    assert found.notes == ("reg_max has no effect in dfl=off: 3 combinations are one variant",)
    assert found.trials[0].id == plan(axes={"dfl": [False, True]}).trials[0].id
    assert found.variants[0].axes == {"dfl": False}
    with pytest.raises(Exception, match="variants 'a' and 'b' are the same settings, or compute the same\n.*reg_max acts only beside"):
        plan(variants={"a": {"dfl": False}, "b": {"dfl": False, "reg_max": 8}})
    merged = plan(axes={"epochs": [12, 24], "schedule": ["1x", "2x"]})
    assert len(merged.variants) == 3 and "train the same" in merged.notes[0]
