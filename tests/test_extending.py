"""Adding a setting touches its field and its use alone: axes, ids, rules, hints and schemas take it from the field.

Metric, backbone, executor, page and published table have tests of this kind beside their own (docs/development.md, "How to").
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIELD = """
    qfl_gamma: float = _field(DETECTOR, 0.0, "a setting of this test", ge=0, lt=1, acts_only_with=conditions.WITH_QFL)
"""
PROGRAM = """
import json, sys
from gfl_lab.plan.plan import draft_plan
from gfl_lab.spec.files import load_experiment, load_profile
from gfl_lab.spec.settings import CONDITIONS, Settings, inactive
from gfl_lab.spec.trial import effective
from gfl_lab.errors import SpecError
from pathlib import Path

found = {"defaults": effective(Settings(reg_max=8))}
if "qfl_gamma" in Settings.model_fields:
    plan = draft_plan(load_experiment(Path("own.yaml"))[0], load_profile(Path(sys.argv[1])))
    found["variants"] = [variant.name for variant in plan.variants]
    found["counted"] = ["qfl_gamma" in effective(variant.resolved) for variant in plan.variants]
    found["inactive"] = "qfl_gamma" in inactive(Settings(qfl=False, qfl_gamma=0.5))
    found["condition"] = str(CONDITIONS["qfl_gamma"])
    found["schema"] = Settings.model_json_schema()["properties"]["qfl_gamma"]["exclusiveMaximum"]
    try:
        load_experiment(Path("wrong.yaml"))
    except SpecError as error:
        found["problems"] = [str(problem) for problem in error.problems]
print(json.dumps(found))
"""


def run(package: Path, folder: Path) -> dict[str, object]:
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "experiments" / "profiles" / "smoke.yaml")]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(package), "PATH": ""}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("added")
    shutil.copytree(ROOT / "gfl_lab", folder / "gfl_lab", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "gfl_lab" / "spec" / "settings.py"
    text = file.read_text()
    place = "    reg_max: int = _field("
    assert text.count(place) == 1
    file.write_text(text.replace(place, FIELD.strip("\n") + "\n" + place))
    (folder / "own.yaml").write_text("name: own\nprofile: smoke\naxes: {qfl_gamma: [0.0, 0.5]}\n")
    (folder / "wrong.yaml").write_text("name: wrong\nprofile: smoke\naxes: {qfl_gama: [0.0, 0.5]}\noverrides: {qfl_gamma: 1.0}\n")
    return run(folder, folder)


def test_a_new_setting_is_an_axis_and_counts_only_where_it_is_no_default(found: dict[str, object]) -> None:
    assert found["variants"] == ["qfl_gamma=0", "qfl_gamma=0.5"] and found["counted"] == [False, True]


def test_its_rules_conditions_and_hints_come_from_the_field(found: dict[str, object]) -> None:
    assert found["inactive"] and found["condition"] and found["schema"] == 1
    problems = " ".join(map(str, found["problems"])) if isinstance(found["problems"], list) else ""
    assert "Did you mean 'qfl_gamma'" in problems and "less than 1" in problems


def test_finished_trials_keep_their_ids(found: dict[str, object], tmp_path: Path) -> None:
    assert found["defaults"] == run(ROOT, tmp_path)["defaults"]
