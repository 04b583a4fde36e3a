"""`gfl-lab predict`: what is drawn and told of images is what the trial's own evaluation found on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gfl_lab import naming
from gfl_lab.report import drawing
from gfl_lab.report.boxes import box_view
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialDir
from tests.support.cli import Cli, runner
from tests.test_evaluate import altered


@pytest.fixture
def cli(tree: RunTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))
    return runner(monkeypatch, capsys, "predict")


def image(shapes: Path, number: int = 0) -> Path:
    return shapes / "images" / f"val_{number:05d}.png"


def test_detections_are_those_of_the_evaluation(cli: Cli, tree: RunTree, general: TrialDir, shapes: Path) -> None:
    code, out, err = cli(general.id, image(shapes), image(shapes, 3), "--json", "--distributions", "--score-thr", "0")
    assert code == 0, err
    records = Store(tree).records(general.id)
    for number, found in zip((0, 3), json.loads(out)["images"], strict=True):
        name = image(shapes, number).name
        ids = {row["file_name"]: row["id"] for row in json.loads((shapes / "annotations/instances_val.json").read_text())["images"]}
        own = records.det_image == ids[name]
        assert own.sum() == len(found["detections"]) > 0
        scores = np.array([each["score"] for each in found["detections"]])
        assert (np.diff(scores) <= 0).all() and np.allclose(np.sort(records.det_score[own])[::-1], scores, atol=1e-5)
        best = records.det_box[own][records.det_score[own].argmax()]
        assert np.allclose(best, found["detections"][0]["box"], atol=0.01)
        assert records.classes[records.det_label[own][records.det_score[own].argmax()]] == found["detections"][0]["class"]


def test_the_distributions_give_the_box(cli: Cli, general: TrialDir, shapes: Path) -> None:
    """The cell, its expectations and the size of a bin are those of the box: center and distances decode to it (but for clipping)."""
    out = cli(general.id, image(shapes), "--json", "--distributions", "--score-thr", "0")[1]
    for each in json.loads(out)["images"][0]["detections"]:
        assert all(len(p) == 17 and sum(p) == pytest.approx(1, abs=1e-4) for p in each["distributions"].values())
        means = [np.dot(np.arange(17), each["distributions"][side]) for side in naming.SIDES]
        assert means == pytest.approx(list(each["expectation"].values()), abs=1e-3)
        (x, y), (bx, by) = each["cell"], each["bin_px"]
        box = np.array([x - means[0] * bx, y - means[1] * by, x + means[2] * bx, y + means[3] * by])
        assert np.clip(box, 0, 128) == pytest.approx(each["box"], abs=0.05)


def test_pictures_are_written_once(cli: Cli, general: TrialDir, dirac: TrialDir, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, stdout, err = cli(general.id, image(shapes), "--distributions", "--score-thr", "0", "--max-boxes", "2", "--out", out)
    assert code == 0 and not stdout and "the best 2 drawn" in err, err
    with Image.open(out / "val_00000.png") as picture:
        before = np.asarray(picture)
    assert before.shape == (128 * 6 + 2 * 56, 128 * 6 + 2 * 56, 3)
    code, _, err = cli(general.id, image(shapes), "--out", out)
    assert code == 2 and "is there already" in err and "--force" in err
    code, _, err = cli(dirac.id, image(shapes), "--distributions", "--score-thr", "0", "--out", out, "--force")
    assert code == 0 and "no box distributions: a Dirac box gives one distance a side" in err
    with Image.open(out / "val_00000.png") as picture:
        assert (np.asarray(picture) != before).any()


def test_weights_from_elsewhere_need_no_data(cli: Cli, general: TrialDir, imported: Path, shapes: Path) -> None:
    own = json.loads(cli(general.id, image(shapes), "--json", "--score-thr", "0")[1])["images"][0]["detections"]
    code, out, err = cli(imported, image(shapes), "--json", "--score-thr", "0", "--profile", "smoke")
    found = json.loads(out)
    assert code == 0 and found["classes"] == ["class 1", "class 2", "class 3"] and "do not name their classes" in err
    assert found["images"][0]["detections"] == [], "the profile's score_thr is 0.05, and this detector is not that sure of anything"
    out = cli(general.file(naming.LAST_CHECKPOINT), image(shapes), "--json", "--score-thr", "0")[1]
    assert json.loads(out)["images"][0]["detections"] == own != []


def test_a_trial_whose_data_are_gone_still_predicts(
    cli: Cli, general: TrialDir, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = altered(general, tmp_path, monkeypatch)
    manifest = copy.file(naming.MANIFEST)
    manifest.write_text(manifest.read_text().replace(str(shapes), "/nowhere"))
    assert cli(copy.id, image(shapes), "--json")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TRIAL", "no.png", "nor.jpg"], ["2 problems", "no.png: there is no such file", "nor.jpg"]),
        (["TRIAL", "text.png"], ["text.png: it is no image"]),
        (["zz.pth", "IMAGE"], ["zz.pth is neither a trial's id nor a file"]),
        (["TRIAL", "IMAGE", "twin/val_00000.png"], ["would have the name of that of"]),
    ],
)
def test_mistakes(
    cli: Cli, general: TrialDir, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    given = [general.id if each == "TRIAL" else str(image(shapes)) if each == "IMAGE" else each for each in arguments]
    code, out, err = cli(*given)
    assert code == 2 and not out and all(word in err for word in words), err
    assert not (tmp_path / "predictions").exists() or not list((tmp_path / "predictions").iterdir())


def test_a_distribution_stands_where_its_bins_lie() -> None:
    """A left side with all its mass 2 bins of 8 px from a cell at x = 40: its bar is at x = 24, above the box's middle."""
    bins = 5
    sides = np.zeros((4, bins))
    sides[[0, 1, 2, 3], [2, 1, 3, 1]] = 1
    row = {
        "bins": bins, "probs": sides.ravel(), "expectation": [2.0, 1.0, 3.0, 1.0], "target": [float("nan")] * 4, "cell_x": 40.0,
        "cell_y": 40.0, "scale_x": 1.0, "scale_y": 1.0, "stride": 8, "bin_width": 1.0, "ambiguous_side": -1, "ambiguity": "",
        "edge_a": float("nan"), "edge_b": float("nan"), "prob_a": float("nan"), "category": "a", "det_score": 0.5, "det_iou": None,
        "cell_iou": None, "score": 0.5, "det_x1": 24.0, "det_y1": 32.0, "det_x2": 64.0, "det_y2": 48.0,
    }  # fmt: skip
    black = np.zeros((80, 100, 3), np.uint8)
    plain, drawn = (np.asarray(drawing.draw(black, [box_view(row)], distributions=on)) for on in (False, True))
    factor, margin = 9, 56
    assert plain.shape == (720, 900, 3) and drawn.shape == (720 + 2 * margin, 900 + 2 * margin, 3)

    def at(x: float, y: float) -> tuple[int, ...]:
        return tuple(drawn[int(y * factor) + margin, int(x * factor) + margin])

    assert at(24, 38) != (0, 0, 0) == at(30, 38) == at(10, 38)
    assert at(64, 38) != (0, 0, 0)  # the right side, 3 bins away
    assert at(47, 32 - 1) != (0, 0, 0) == at(41, 32 - 6)  # the top side's bar grows to the right
