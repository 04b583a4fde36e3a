"""Every experiment that gfl-lab brings along, trained for a few iterations and evaluated on the CPU, through the command line.

The `smoke` profile shrinks widths and images, not the code path: full depth, five levels, schedules, scales, crops, averages
and precisions as the experiment says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from gfl_lab import naming
from gfl_lab.cli.main import main
from gfl_lab.plan.plan import build_plan
from gfl_lab.spec.files import load_experiment, load_profile
from gfl_lab.spec.trial import DataSpec

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = [path for path in sorted(EXPERIMENTS.glob("*.yaml")) if load_experiment(path)[0].kind == "ablation"]
DISTINCT = {
    "box_losses", "box_weighting", "figure8_speed", "gflv2_input_statistics", "gflv2_joint_form", "gflv2_speed", "table1a_quality", "table2a_box",
    "tood_table6", "zoo_mmdet_ld", "zoo_paddledetection", "zoo_vit_adapter",
}  # fmt: skip
"""Together they reach every choice of every setting that the others reach; numbers aside, the others combine these."""
STEPS = {"1x": 2, "2x": 4, "3x": 6}  # 8 images in batches of 4; a batch of 6 also takes two steps


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all, so that trials which two tables share are trained once."""
    return tmp_path_factory.mktemp("smoke")


def test_the_distinct_ones_reach_every_choice() -> None:
    profile = load_profile(EXPERIMENTS / "profiles" / "smoke.yaml")
    data = DataSpec(name="any", digest="0" * 16, classes=("a", "b"), train_images=8, val_images=8, truth=True)
    reached: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for path in FILES:
        for variant in build_plan(load_experiment(path)[0], profile, data).variants:
            settings = variant.settings.model_dump(mode="json").items()
            reached[path.stem in DISTINCT] |= {(key, str(value)) for key, value in settings if isinstance(value, (str, bool))}
    assert len(reached[True]) > 50 and reached[False] - reached[True] == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=[] if path.stem in DISTINCT else [pytest.mark.exhaustive]) for path in FILES]
)
def test_trains_and_evaluates(path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["gfl-lab", "run", str(path), "--profile", "smoke", "--seeds", "0", "--executor", "inline", "--json"])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    finally:
        torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    assert code == 0, err
    table = json.loads(out)
    experiment, _ = load_experiment(path)
    assert len(table["rows"]) == len(json.loads((home / "experiments" / experiment.name / "smoke" / naming.PLAN).read_text())["variants"])
    plan = json.loads((home / "experiments" / experiment.name / "smoke" / naming.PLAN).read_text())
    for variant in plan["variants"]:
        settings = variant["settings"]
        (trial,) = variant["trials"]
        folder = home / "trials" / trial["id"]
        result = json.loads((folder / naming.RESULT).read_text())
        assert result["status"] == "done" and result["steps"] == STEPS[settings["schedule"]]
        assert {"AP", "AP50", "AP75", "fps", "wasserstein"} <= result["metrics"].keys()
        bins = set(pq.read_table(folder / naming.DISTRIBUTIONS, columns=["bins"])["bins"].to_pylist())
        assert bins == {0 if settings["box"] == "dirac" else settings["reg_max"] + 1}
