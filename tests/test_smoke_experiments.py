"""Every experiment that gfl-lab brings along, trained for a few iterations and evaluated on the CPU, through the command line.

By default only those variants are trained that bring a choice of a setting; with ``--exhaustive`` all of them.

The `smoke` profile shrinks widths and images, not the code path: full depth, five levels, schedules, scales, crops, averages
and precisions as the experiment says.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from gfl_lab import naming
from gfl_lab.cli.main import main
from gfl_lab.metrics.bins import places
from gfl_lab.metrics.boxdist import ideal_distribution
from gfl_lab.plan.plan import build_plan
from gfl_lab.report.modes import modes_frame
from gfl_lab.report.sides import positions_of
from gfl_lab.spec.choices import OWN
from gfl_lab.spec.files import load_experiment, load_profile
from gfl_lab.spec.trial import DataSpec

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = [path for path in sorted(EXPERIMENTS.glob("*.yaml")) if load_experiment(path)[0].kind == "ablation"]
DISTINCT = {
    "distillation": {"LD", "LD + VLR", "KD"},
    "box_losses": {"box_loss=diou", "box_loss=ciou", "box_loss=iou"},
    "box_weighting": {"box_weighting=iou", "box_weighting=uniform"},
    "figure8_speed": {"GFL X-101-32x4d-DCN", "ATSS X-101-32x8d-DCN"},
    "gflv2_input_statistics": {"Top-4", "Top-4 + mean + variance"},
    "gflv2_joint_form": {"dgqp_form=composed"},
    "gflv2_speed": {"GFLv2 Res2Net-101-DCN"},
    "successors": {"Varifocal loss", "Weighted bins", "Direct box", "FCOS assignment", "Max-IoU assignment", "TAL", "SimOTA"},
    "table1a_quality": {"quality=none", "quality=iou", "quality=centerness_guided", "quality=iou_guided"},
    "table1b_qfl": {"FoveaBox + QFL", "RetinaNet + QFL"},
    "table2a_box": {"Gaussian"},
    "table2a_box_fcos": {"Dirac"},
    "tood_table6_others": {"parallel head + TAL"},
    "zoo_mmdet_ld": {"r18 1x", "r34 1x", "r101 2x"},
    "zoo_paddledetection": {"gfl r101vd 2x", "gfl r34vd 1x", "gfl r18vd 1x"},
    "zoo_vit_adapter": {"ATSS"},
}
"""Variants by experiment. Together they reach every choice of every setting; numbers aside, the other variants combine these.

Of mmdet's detectors they have the heads that are gfl-lab's; the others train with ``--exhaustive``, and in test_zoo.py.
"""
STEPS = {"1x": 2, "2x": 4, "3x": 6}  # 8 images in batches of 4; a batch of 6 also takes two steps


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, mlflow_db: Path) -> Path:
    """One home for all, so that trials which two tables share are trained once."""
    made = tmp_path_factory.mktemp("smoke")
    shutil.copy(mlflow_db, made / naming.MLFLOW_DB)
    return made


def test_the_distinct_ones_reach_every_choice() -> None:
    profile = load_profile(EXPERIMENTS / "profiles" / "smoke.yaml")
    data = DataSpec(name="any", digest="0" * 16, classes=("a", "b"), train_images=8, val_images=8, truth=True)
    reached: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    found: dict[str, set[str]] = {}
    for path in FILES:
        distinct = DISTINCT.get(path.stem, set())
        for variant in build_plan(load_experiment(path)[0], profile, data).variants:
            settings = variant.settings.model_dump(mode="json", exclude={"detector"}).items()  # test_zoo trains one of each kind
            reached[variant.name in distinct] |= {
                (key, str(value)) for key, value in settings if isinstance(value, (str, bool)) and key != "detector"
            }
            if variant.name in distinct:
                found.setdefault(path.stem, set()).add(variant.name)
    assert found == DISTINCT
    assert len(reached[True]) > 50 and reached[False] - reached[True] == set()


def with_variants(path: Path, names: set[str], folder: Path) -> Path:
    """Write the experiment of ``path`` with the variants of those names alone."""
    experiment = yaml.safe_load(path.read_text())
    experiment.pop("baseline", None)
    if "variants" in experiment:
        experiment["variants"] = {name: settings for name, settings in experiment["variants"].items() if name in names}
    else:
        ((axis, values),) = experiment["axes"].items()
        experiment["axes"] = {axis: [value for value in values if f"{axis}={value}" in names]}
    written = folder / path.name
    written.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return written


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_the_distinct_variants_train_and_evaluate(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = DISTINCT[name]
    assert trained(with_variants(EXPERIMENTS / f"{name}.yaml", names, tmp_path), home, monkeypatch, capsys) == names


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_trains_and_evaluates(path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(path, home, monkeypatch, capsys)


def places_are_pixels_of_the_decoded_box(frame: pd.DataFrame) -> None:
    """With all mass at the decoded distances, the only mode of a side lies on the side of the box that the head decoded.

    Decoded boxes are clipped to the image of 128 px.
    """
    frame = frame[[len(p) > 0 for p in frame["probs"]]]
    at, bins = positions_of(frame), int(frame["bins"].iloc[0])
    distances = np.stack(frame["expectation"].to_numpy()).astype(float)
    certain = ideal_distribution(distances[..., None], [1.0], bins - 1, at).reshape(len(frame), -1)
    found = modes_frame(frame.assign(probs=list(certain)))
    assert (found["mode"] == 1).all() and found["side"].tolist() == list(naming.SIDES) * len(frame)
    decoded = frame[["cell_x1", "cell_y1", "cell_x2", "cell_y2"]].to_numpy(float)
    np.testing.assert_allclose(found["place_px"].clip(0, 128).to_numpy().reshape(-1, 4), decoded, atol=0.01)


def trained(path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Run the experiment of ``path``, look at the files of each trial, and return the names of the variants."""
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
        assert {"AP", "AP50", "AP75", "fps"} <= result["metrics"].keys()
        if settings["detector"] != OWN:  # it has no distributions
            continue
        assert "wasserstein" in result["metrics"]
        rows = pq.read_table(folder / naming.DISTRIBUTIONS, columns=["bins", "probs", "expectation", "bin_positions"]).to_pylist()
        assert {row["bins"] for row in rows} == {0 if settings["box"] in ("dirac", "direct") else settings["reg_max"] + 1}
        if settings["box"] == "general" and settings["decode"] == "expectation":
            means = [np.reshape(row["probs"], (4, -1)) @ places(row["bins"], row["bin_positions"] or None) for row in rows if row["probs"]]
            np.testing.assert_allclose(means, [row["expectation"] for row in rows if row["probs"]], atol=1e-3)
            places_are_pixels_of_the_decoded_box(pd.read_parquet(folder / naming.DISTRIBUTIONS))
        assert all(bool(row["bin_positions"]) == (settings["bins"] == "weighted") for row in rows)
    return {variant["name"] for variant in plan["variants"]}
