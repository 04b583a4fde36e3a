"""Faults in files of each kind are reported with file, line and rule, in words that name no type of a library."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from gfl_lab.errors import SpecError
from gfl_lab.spec.files import load_experiment, load_profile, load_published
from gfl_lab.spec.hints import ALIASES, nearest
from gfl_lab.spec.settings import Settings

ABLATION = {
    "name": "file", "question": "q", "kind": "ablation", "profile": "desk", "custom_imports": [], "axes": {"qfl": [False, True], "reg_max": [8, 16]},
    "overrides": {"lr": 0.1, "image_size": [128, 128], "component_args": {"head": {"a": 1}}}, "when": {"reg_max": {"qfl": True}},
    "baseline": {"qfl": False, "reg_max": 8}, "seeds": [0, 1], "published_table": "", "table": {"rows": ["qfl"], "metrics": ["AP"]},
}  # fmt: skip
NAMED = {
    "name": "file", "profile": "desk", "variants": {"a": {"qfl": True}, "b": {"strides": [8, 16], "no_decay": ["norm"]}}, "baseline": "a",
}  # fmt: skip
SEARCH = {
    "name": "file", "kind": "search", "profile": "desk", "seeds": [0],
    "search": {
        "space": {"lr": {"low": 0.001, "high": 0.1, "log": True}, "reg_max": [8, 16, 24], "qfl_beta": {"low": 1, "high": 2}}, "trials": 2,
        "metric": "AP", "scheduler": "asha", "grace_epochs": 1, "reduction": 3, "sampler_seed": 0,
    },
}  # fmt: skip
PROFILE = {
    "name": "file", "title": "t", "data": {"train_images": 8, "val_images": 8, "size": 128, "seed": 0}, "settings": {"lr": 0.1},
    "resources": {"cpus": 1, "gpus": 0.5, "gpu_packing": False, "gpu_required": False, "loader_workers": 1}, "cpu_seconds_per_image": 0.1,
    "reproduces": "",
}  # fmt: skip
PUBLISHED = {
    "id": "file", "title": "t", "source": "s", "split": "coco_minival", "evidence": "", "training": "", "settings": {"lr": 0.1}, "differs": "",
    "rows": [{"name": "r", "settings": {"qfl": True}, "metrics": {"AP": 40.0, "AP50": None}, "evidence": "", "why_not": ""}],
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], Callable[[Path], object]]] = {
    "ablation": (ABLATION, load_experiment),
    "variants": (NAMED, load_experiment),
    "search": (SEARCH, load_experiment),
    "profile": (PROFILE, load_profile),
    "published": (PUBLISHED, lambda path: load_published("file", [path.parent])),
}
WRONG = [
    5, -1, 1.5, float("nan"), float("inf"), 10**30, "text", "", "8", True, None, [], [1], ["a", None], [[1]], {}, {"a": 1}, {"a": {"b": [None]}},
]  # fmt: skip
LEAKS = re.compile(
    r"pydantic|dict\[|list\[|tuple\[|literal\[|instance of|DeskData|Resources|Spec\b|ExperimentFile|PublishedRow|PublishedTable|Input should|"
    r"function-|NoneType|<class|ValidationError|\bNone\b|\bTrue\b|\bFalse\b|dictionary|valid (string|integer|list|tuple|boolean|number)|Value error"
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of a file, and every entry of its lists."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(item, (*at, key))


def put(content: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = deepcopy(content)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return changed


def told(kind: str, content: Any, folder: Path) -> list[str]:
    """The problems of a file; empty where it loads."""
    path = folder / "file.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    try:
        KINDS[kind][1](path)
    except SpecError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_given_every_wrong_type_is_told_with_its_line_and_without_a_type_of_python(kind: str, tmp_path: Path) -> None:
    content = KINDS[kind][0]
    assert told(kind, content, tmp_path) == []
    refused = 0
    for at in places(content):
        for value in WRONG:
            for problem in (found := told(kind, put(content, at, value), tmp_path)):
                assert re.match(r"file\.yaml:[0-9]+", problem), (at, value, problem)
                assert not LEAKS.search(problem), (at, value, problem)
            refused += bool(found)
    assert refused > 100


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_anywhere_is_told(kind: str, tmp_path: Path) -> None:
    content = KINDS[kind][0]
    for at in [(), *places(content)]:
        inner: Any = content
        for key in at:
            inner = inner[key]
        if isinstance(inner, dict) and "a" not in inner and "component_args" not in at and "metrics" not in at:
            assert any("zzz" in problem for problem in told(kind, put(content, (*at, "zzz"), {}), tmp_path)), at


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e400", "-1", "true", "'1'", "null", "1_0", "010", "1:30", "2026-11-27"])
def test_no_number_of_any_file_is_other_than_a_finite_one_in_its_range(number: str, tmp_path: Path) -> None:
    may_be = {"-1": {"frozen_stages"}, "null": {"loader_workers"}}.get(number, set())
    for key, field in Settings.model_fields.items():
        if field.annotation in (int, float) and key not in may_be:
            problems = told("ablation", f"name: file\nprofile: desk\naxes: {{dfl: [true]}}\noverrides:\n  {key}: {number}\n", tmp_path)
            assert any(problem.startswith("file.yaml:5") for problem in problems), key
    for kind in ("search", "profile"):
        content = KINDS[kind][0]
        for at in places(content):
            inner: Any = content
            for key in at:
                inner = inner[key]
            if isinstance(inner, int | float) and not isinstance(inner, bool) and not {*at} & may_be:
                text = yaml.safe_dump(put(content, at, "@@"), sort_keys=False).replace("'@@'", number)
                assert told(kind, text, tmp_path), (at, number)


def test_problems_of_fields_and_between_fields_are_told_together(tmp_path: Path) -> None:
    text = "name: file\nprofile: desk\nseeds: [0, 0]\nvariants:\n  a: {epochs: 0, strides: [8, 32], quality: dgqp, box: dirac, image_size: [1, 2]}\n"
    found = "\n".join(told("variants", text, tmp_path))
    for words in ("epochs is 0", "each must be twice", "quality: dgqp reads", "image_size.0 is 1", "seeds list 0 twice"):
        assert words in found
    # a rule about a field that is wrong by itself says nothing: another value may keep it
    found = "\n".join(
        told("variants", "name: file\nprofile: desk\nvariants: {a: {quality: dgqp, box: dirrac, strides: [8, 32]}}\n", tmp_path)
    )
    assert "reads the distribution" not in found and "each must be twice" in found and "box is 'dirrac'" in found
    found = "\n".join(
        told("ablation", "name: file\nprofile: desk\naxes: {qfl: [on]}\nseeds: [-1]\noverrides: {lr: 010, lr: 1}\n", tmp_path)
    )
    assert "on is ambiguous" in found and "seeds.0 is -1" in found and "given twice" in found and "010 is ambiguous" in found


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("lerning_rate", "lr"), ("learning_rate", "lr"), ("learningRate", "lr"), ("Learning-Rate", "lr"), ("batch", "batch_size"), ("bs", "batch_size"),
        ("batchsize", "batch_size"), ("max_epochs", "epochs"), ("epoch", "epochs"), ("wd", "weight_decay"), ("weightdecay", "weight_decay"),
        ("img_size", "image_size"), ("imgsz", "image_size"), ("iou_threshold", "nms_iou"), ("conf_thres", "score_thr"), ("warmup", "warmup_iters"),
        ("qlf", "qfl"), ("regmax", "reg_max"), ("grad_clip", "clip_grad_norm"), ("model_ema", "ema_decay"), ("amp", "precision"),
    ],
)  # fmt: skip
def test_a_key_of_another_name_is_recognised(word: str, key: str) -> None:
    assert nearest(word, Settings.model_fields) == f"Did you mean {key!r}?"


@pytest.mark.parametrize("word", ["zzz", "on", "8", "x", "", "momentum", "q" * 100_000])
def test_what_is_near_nothing_is_not_guessed(word: str) -> None:
    assert nearest(word, Settings.model_fields).startswith("Valid keys: ")


def test_aliases_name_keys_that_exist() -> None:
    keys = {*Settings.model_fields, *ABLATION, *SEARCH["search"], *PROFILE["resources"], "variants", "low", "high", "search"}
    assert set(ALIASES.values()) <= keys and not ALIASES.keys() & Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("box_loss", "eiouloss", "EIoULoss"),
        ("box_loss", "guiou", "giou"),
        ("cls_loss", "focalloss", "FocalLoss"),
        ("assigner", "maxiouassigner", "MaxIoUAssigner"),
        ("assigner", "max-iou", "max_iou"),
        ("head", "gflfamilyhead", "GFLFamilyHead"),
        ("box_loss", "myloss", ""),
    ],
)
def test_a_class_name_in_lower_case_is_refused_with_the_rule_and_the_nearest(tmp_path: Path, key: str, value: str, near: str) -> None:
    """Also of mmdet's classes, which are known without importing them."""
    (tmp_path / "mine.py").write_text("from mmdet.registry import MODELS\n\n\n@MODELS.register_module()\nclass MyLoss:\n    pass\n")
    file = tmp_path / "file.yaml"
    for imports in ([], ["mine.py"]):
        file.write_text(yaml.safe_dump({"name": "file", "profile": "desk", "custom_imports": imports, "axes": {key: [value]}}))
        with pytest.raises(SpecError) as raised:
            load_experiment(file)
        (problem,) = [each for each in raised.value.problems if key in each.message]
        assert f"{key} is {value!r}: it must be one of" in problem.message and "which begins with a capital letter" in problem.message
        assert problem.message.endswith(f"; did you mean {near}?") if near else "did you mean" not in problem.message
        assert problem.hint == ("The files under `custom_imports` define: MyLoss." if imports else "")
