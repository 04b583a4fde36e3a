"""`gfl-lab predict`: what is drawn and told of images is what the trial's own evaluation found on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gfl_lab import naming
from gfl_lab.report.boxes import TrueBox, box_view, with_truth
from gfl_lab.report.close_up import close_up, side_thumbnail, viewport
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
    two_panels, legend = 380 + 54, 2 * 28
    assert before.shape == (768 + two_panels + legend + 4 * 16, 2 * 380 + 16 + 2 * 16, 3)
    code, _, err = cli(general.id, image(shapes), "--out", out)
    assert code == 2 and "is there already" in err and "--force" in err
    code, _, err = cli(dirac.id, image(shapes), "--distributions", "--score-thr", "0", "--out", out, "--force")
    assert code == 0 and "no box distributions: a Dirac box gives one distance a side" in err
    with Image.open(out / "val_00000.png") as picture:
        assert picture.size == (768, 768), "nothing but the image and its boxes"


def test_chosen_boxes_and_their_truth(cli: Cli, general: TrialDir, imported: Path, shapes: Path, tmp_path: Path) -> None:
    common = (image(shapes), "--score-thr", "0", "--json")
    everything = json.loads(cli(general.id, *common)[1])["images"][0]
    code, out, err = cli(general.id, *common, "--box", "3", "--box", "1", "--truth")
    found = json.loads(out)["images"][0]
    assert code == 0, err
    ious = [each.pop("iou") for each in found["detections"]]
    assert found["detections"] == [everything["detections"][0], everything["detections"][2]]
    coco = json.loads((shapes / "annotations/instances_val.json").read_text())
    number = next(entry["id"] for entry in coco["images"] if entry["file_name"] == image(shapes).name)
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    annotated = [entry for entry in coco["annotations"] if entry["image_id"] == number]
    assert [each["class"] for each in found["truth"]] == [names[entry["category_id"]] for entry in annotated]
    for each, iou in zip(found["detections"], ious, strict=True):
        own = [entry["bbox"] for entry in annotated if names[entry["category_id"]] == each["class"]]
        assert iou == pytest.approx(max((overlap(each["box"], box) for box in own), default=0), abs=1e-4)
    assert cli(imported, *common, "--profile", "smoke", "--annotations", shapes / "annotations/instances_val.json")[0] == 0

    code, out, err = cli(general.id, image(shapes), "--score-thr", "0", "--box", "2", "--truth", "--distributions", "--out", tmp_path)
    assert code == 0 and "box 2 drawn" in err, err
    with Image.open(tmp_path / "val_00000.png") as picture:
        assert picture.width == 768 + 2 * 16 and (np.asarray(picture) == (230, 159, 0)).all(-1).any(), "the annotated boxes are amber"


def overlap(box: list[float], other: list[float]) -> float:
    """Return the IoU of (x1, y1, x2, y2) and (x, y, width, height)."""
    x, y, width, height = other
    across = min(box[2], x + width) - max(box[0], x)
    down = min(box[3], y + height) - max(box[1], y)
    common = max(across, 0) * max(down, 0)
    return common / ((box[2] - box[0]) * (box[3] - box[1]) + width * height - common)


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
        (["TRIAL", "IMAGE", "--box", "9999"], ["there is no box 9999", "--score-thr"]),
        (["TRIAL", "photo.png", "--truth"], ["photo.png", "no image of the data set of trial", "--annotations"]),
        (["mmdet:gfl_r50_fpn_1x_coco", "IMAGE", "--truth"], ["is no trial", "--annotations"]),
        (["TRIAL", "photo.png", "--annotations", "coco.json"], ["photo.png: coco.json lists no image of this name"]),
        (["TRIAL", "photo.png", "--annotations", "text.png"], ["text.png"]),
    ],
)
def test_mistakes(
    cli: Cli, general: TrialDir, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}
    content = {"images": [{"id": 1, "file_name": "other.png"}], "annotations": [box], "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    given = [general.id if each == "TRIAL" else str(image(shapes)) if each == "IMAGE" else each for each in arguments]
    code, out, err = cli(*given)
    assert code == 2 and not out and all(word in err for word in words), err
    assert not (tmp_path / "predictions").exists() or not list((tmp_path / "predictions").iterdir())


def test_a_distribution_stands_where_its_bins_lie() -> None:
    """A left side with all its mass 2 bins of 8 px from a cell at x = 40: its bar is at x = 24, above the box's middle.

    Its annotators draw the left side at x = 28 and x = 20: 1.5 and 2.5 bins from the cell.
    """
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
    truth = [TrueBox("b", (24, 32, 64, 48)), TrueBox("a", (28, 32, 64, 48), 0, (28.0, 20.0), (0.6, 0.4)), TrueBox("a", (0, 0, 9, 9))]
    seen = with_truth(box_view(row), truth)
    assert seen.gt == (28, 32, 64, 48) and seen.detection_iou == pytest.approx(36 / 40)
    assert seen.sides[0].edges == pytest.approx((1.5, 2.5)) and seen.sides[1].edges is None
    assert with_truth(box_view(row), truth[:1]).gt is None

    def drawn(row: dict[str, object]) -> Callable[[float, float], tuple[int, ...]]:
        picture, view = np.asarray(close_up(black, box_view(row), "#0072b2", 380)), viewport(box_view(row), black.shape[:2], 380)
        return lambda x, y: tuple(picture[int(view.y(y)), int(view.x(x))])

    at = drawn(row)
    assert at(24, 38) != (0, 0, 0) == at(30, 38) == at(10, 38)
    assert at(64, 38) != (0, 0, 0)  # the right side, 3 bins away
    assert at(47, 32 - 1) != (0, 0, 0) == at(41, 32 - 6)  # the top side's bar grows to the right

    at = drawn(row | {"bin_positions": [0.0, 1.0, 1.5, 4.0, 5.0]})
    assert at(28, 38) != (0, 0, 0) == at(24 - 3, 38), "weighted bins: the second bin is 1.5 strides away"

    wide = np.pad(black, ((0, 0), (0, 900), (0, 0)), constant_values=200)
    near, far = (np.asarray(side_thumbnail(each, box_view(row), "left", 96)) for each in (black, wide))
    assert near.shape == (96, 96, 3) and (near == far).all(), "the picture of a box does not depend on the size of its image"
    light, dark = (np.asarray(side_thumbnail(black[:50], box_view(row), "left", 96, paper=paper)) for paper in ("#ffffff", "#14171b"))
    assert light[-1, 0].tolist() == [255] * 3 and dark[-1, 0].tolist() == [0x14, 0x17, 0x1B], "beyond the image, the colour of the page"
