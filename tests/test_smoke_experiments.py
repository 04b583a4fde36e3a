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
from gfl_lab.spec.files import load_experiment

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.yaml"))
STEPS = {"1x": 2, "2x": 4, "3x": 6}  # 8 images in batches of 4; a batch of 6 also takes two steps


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all, so that cells which two tables share are trained once."""
    return tmp_path_factory.mktemp("smoke")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
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
