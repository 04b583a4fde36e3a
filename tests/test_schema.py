"""JSON schemas of experiment and profile files: up to date, true of every shipped file, and of no wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gfl_lab.spec.renames import SETTINGS
from gfl_lab.spec.schema import SCHEMAS, experiment_schema, profile_schema, text_of
from gfl_lab.spec.source import read_yaml

ROOT = Path(__file__).parents[1]
EXPERIMENT, PROFILE = Draft202012Validator(experiment_schema()), Draft202012Validator(profile_schema())


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_stored_schemas_are_up_to_date(name: str) -> None:
    stored = (ROOT / "docs" / "schemas" / name).read_text()
    assert stored == text_of(SCHEMAS[name]()), "renew it with: uv run python -m gfl_lab.spec.schema docs/schemas"


def test_every_shipped_file_is_valid() -> None:
    files = {path: EXPERIMENT for path in (ROOT / "experiments").glob("*.yaml")}
    files |= {path: PROFILE for path in (ROOT / "experiments" / "profiles").glob("*.yaml")}
    assert len(files) > 10
    wrong = {path.name: error.message for path, validator in files.items() for error in validator.iter_errors(read_yaml(path).value)}
    assert not wrong


@pytest.mark.parametrize(
    "content",
    [
        {"axes": {"reg_max": [0]}},
        {"axes": {"regmax": [8]}},
        {"axes": {"quality": ["best"]}},
        {"overrides": {"lr": "high"}},
        {"overrides": {next(iter(SETTINGS)): 8}},
        {"variants": {"one": {"image_size": [8, 8]}}},
        {"when": {"reg_max": {"dfl": 1}}},
        {"baseline": {"regmax": 8}},
        {"table": {"metrics": ["AP5"]}},
        {"kind": "search", "search": {"space": {"regmax": [8]}}},
        {"seed": 1},
    ],
    ids=str,
)
def test_a_wrong_experiment_is_not_valid(content: dict[str, Any]) -> None:
    given = {"name": "x", "profile": "desk"}
    assert EXPERIMENT.is_valid(given)
    assert not EXPERIMENT.is_valid(given | content)


def test_a_wrong_profile_is_not_valid() -> None:
    given = {"name": "x", "title": "t", "data": "required", "settings": {"lr": 0.1}}
    assert PROFILE.is_valid(given)
    assert not PROFILE.is_valid(given | {"settings": {"lr": -0.1}}) and not PROFILE.is_valid(given | {"data": "none"})
