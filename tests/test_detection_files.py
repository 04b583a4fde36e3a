"""Detection files of other projects: the forms in which they are written, AP against pycocotools, and the cause of what does not fit."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gfl_lab.data.detections.arms import find_files, seeds_of
from gfl_lab.data.detections.cautions import cautions
from gfl_lab.data.detections.check import Detections, Options, read_detections
from gfl_lab.data.detections.truth import Truth, read_truth
from gfl_lab.data.findings import Findings
from gfl_lab.metrics.coco_ap import RESAMPLED, mean_ap
from gfl_lab.metrics.coco_evaluation import SIZES
from gfl_lab.metrics.coco_matching import match
from tests.support.detection_files import annotations, changed, detections, write, write_yolo

KEYS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


def read(folder: Path, coco: dict[str, Any], found: Any, name: str = "found.json", **options: Any) -> tuple[Truth, Detections | None, str]:
    """Return annotations, detections, and every problem as one text."""
    findings = Findings()
    truth = read_truth(write(folder / "val.json", coco), "val.json", findings)
    path = found if isinstance(found, Path) else write(folder / name, found)
    result = None if truth is None else read_detections("yolo", path, truth, Options(**options), findings)
    assert truth is not None
    return truth, result, "\n".join(map(str, findings.problems()))


def ap(truth: Truth, found: Detections) -> dict[str, float]:
    """The six AP as an import computes them, without the bootstrap samples."""
    records = found.records(truth)
    precision = match(records).precision()
    values = {key: mean_ap(precision[list(rows)]) for key, rows in RESAMPLED.items()}
    return values | {key: mean_ap(match(records, area).precision()) for key, area in SIZES.items()}


def reference(coco: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO()
        theirs.dataset = copy.deepcopy(coco)
        theirs.createIndex()
        evaluation = COCOeval(theirs, theirs.loadRes(copy.deepcopy(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {key: 100 * value if value >= 0 else float("nan") for key, value in zip(KEYS, evaluation.stats, strict=False)}


@given(seed=st.integers(0, 10_000), ties=st.booleans(), images=st.integers(2, 8))
@settings(max_examples=20)
def test_the_six_ap_are_those_of_pycocotools(tmp_path_factory, seed, ties, images):
    coco = annotations(images, seed=seed)
    found = detections(coco, seed + 1, ties=ties)
    truth, read_back, problems = read(tmp_path_factory.mktemp("parity"), coco, found)
    assert read_back is not None, problems
    ours, theirs = ap(truth, read_back), reference(coco, found)
    assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True)


def test_more_than_100_detections_of_an_image_count_as_in_pycocotools(tmp_path):
    coco = annotations(3)
    found = detections(coco, 1)
    crowd = [{**found[0], "score": round(0.9 - index / 1000, 5), "bbox": [float(index), 0.0, 40.0, 40.0]} for index in range(150)]
    truth, read_back, _ = read(tmp_path, coco, found + crowd)
    assert read_back is not None and ap(truth, read_back) == pytest.approx(reference(coco, found + crowd), abs=1e-6, nan_ok=True)
    (note,) = [note for note in cautions([read_back], truth) if "100 detections" in note]
    assert "the 100 best of each class count; " in note and "left out" in note


def test_a_size_at_the_bound_of_two_ranges_counts_by_the_written_width_and_height(tmp_path):
    coco = annotations(2)
    coco["annotations"] = [{"id": 1, "image_id": 100, "category_id": 1, "bbox": [10.0, 10.0, 40.0, 40.0], "area": 1600.0, "iscrowd": 0}]
    box = {"image_id": 100, "category_id": 1, "bbox": [300.1, 0.7, 32.0, 32.0], "score": 0.9}  # 300.1 + 32.0 - 300.1 is not 32.0
    found = [box, {**box, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.8}]
    truth, read_back, _ = read(tmp_path, coco, found)
    assert read_back is not None and ap(truth, read_back)["AP_M"] == pytest.approx(reference(coco, found)["AP_M"]) == pytest.approx(50.0)


# --- forms ----------------------------------------------------------------------------------------

COCO_IDS = annotations()
FOUND = detections(COCO_IDS, 1)
STEMS = {each["id"]: Path(each["file_name"]).stem for each in COCO_IDS["images"]}
PLACES = {each["id"]: index for index, each in enumerate(COCO_IDS["categories"])}


def same(first: Detections | None, second: Detections | None) -> bool:
    assert first is not None and second is not None
    return first.digest == second.digest


def test_each_project_s_form_gives_the_same_detections(tmp_path):
    _, plain, _ = read(tmp_path, COCO_IDS, FOUND)
    _, packed, _ = read(tmp_path, COCO_IDS, FOUND, "coco_instances_results.json.gz")
    masks = changed(FOUND, segmentation=lambda each: {"size": [480, 640], "counts": "abc"})
    _, detectron2, _ = read(tmp_path, COCO_IDS, masks, "coco_instances_results.json")
    whole = changed(FOUND, image_id=lambda each: float(each["image_id"]))
    _, floats, _ = read(tmp_path, COCO_IDS, whole)
    named = changed(FOUND, image_id=lambda each: STEMS[each["image_id"]])
    _, ultralytics, _ = read(tmp_path, COCO_IDS, named, "predictions.json")
    with_ending = changed(FOUND, image_id=lambda each: STEMS[each["image_id"]] + ".jpg")
    _, endings, _ = read(tmp_path, COCO_IDS, with_ending)
    assert all(same(plain, other) for other in (packed, detectron2, floats, ultralytics, endings))
    assert ultralytics is not None and ultralytics.notes == ("images are named by their files, which the annotations have.",)


def test_class_ids_from_0_and_from_1_are_read_as_told(tmp_path):
    _, plain, _ = read(tmp_path, COCO_IDS, FOUND)
    for reading, first in (("zero-based", 0), ("one-based", 1)):
        counted = changed(FOUND, category_id=lambda each, first=first: PLACES[each["category_id"]] + first)
        _, told, problems = read(tmp_path, COCO_IDS, counted, class_ids={"yolo": reading})
        assert same(plain, told), problems
        assert told is not None and f"from {first}, as requested" in told.notes[0]


def test_text_files_of_yolo_are_read_with_the_sizes_of_the_annotations(tmp_path):
    truth, plain, _ = read(tmp_path, COCO_IDS, FOUND)
    folder = write_yolo(tmp_path / "predict", COCO_IDS, FOUND)
    _, text, problems = read(tmp_path, COCO_IDS, folder)
    assert plain is not None and text is not None, problems
    assert ap(truth, text) == pytest.approx(ap(truth, plain), abs=1e-6)
    write_yolo(tmp_path / "val" / "labels", COCO_IDS, FOUND)
    assert same(read(tmp_path, COCO_IDS, tmp_path / "val")[1], text)


def test_numbers_of_file_names_are_told_from_ids_by_where_the_boxes_lie(tmp_path):
    coco = annotations(first_image=0, name="{:012d}.jpg")
    for image in coco["images"]:
        image["file_name"] = f"{(image['id'] + 1) % 12:012d}.jpg"  # every id is also the number of another file
    found = detections(coco, 1)
    named = changed(found, image_id=lambda each: (each["image_id"] + 1) % 12)
    _, plain, _ = read(tmp_path, coco, found)
    _, mapped, _ = read(tmp_path, coco, named)
    assert same(plain, mapped) and plain is not None and not plain.notes
    assert mapped is not None and "numbers of file names" in mapped.notes[0]


# --- what does not fit ----------------------------------------------------------------------------


def corners(each: dict[str, Any]) -> list[float]:
    x, y, width, height = each["bbox"]
    return [x, y, x + width, y + height]


def shares(each: dict[str, Any]) -> list[float]:
    x, y, width, height = each["bbox"]
    return [x / 640, y / 600, width / 640, height / 600]


ONE_TO_K = annotations(categories=(1, 2, 3))
MISTAKES: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "two corners": (COCO_IDS, changed(FOUND, bbox=corners), ["seem to be two corners", "--boxes yolo=xyxy"]),
    "shares": (COCO_IDS, changed(FOUND, bbox=shares), ["as shares of the image", "--boxes yolo=normalised-xywh"]),
    "places from 0": (
        COCO_IDS, changed(FOUND, category_id=lambda each: PLACES[each["category_id"]]),
        ["class ids are not in the annotations: 0, 2", "from 0", "--class-ids yolo=zero-based"],
    ),
    "shifted down": (
        ONE_TO_K, changed(detections(ONE_TO_K, 1), category_id=lambda each: each["category_id"] - 1),
        ["class ids are not in the annotations: 0", "1 to 3", "--class-ids yolo=zero-based"],
    ),
    "a constant": (
        COCO_IDS, changed(FOUND, category_id=lambda each: {1: 3, 3: 5, 7: 9}[each["category_id"]]), ["not in the annotations: 5, 9"],
    ),
    "unknown images": (COCO_IDS, changed(FOUND, image_id=lambda each: each["image_id"] - 100), ["not in the annotations: 0, 1, 2", "places"]),
    "other names": (COCO_IDS, changed(FOUND, image_id=lambda each: f"x{each['image_id']}"), ['"x100"', "val/img_0000.jpg"]),
    "percent": (COCO_IDS, changed(FOUND, score=lambda each: 100 * each["score"]), ["of 89 above 1", "divide them by 100"]),
    "negative widths": (
        COCO_IDS, [*FOUND, {**FOUND[0], "bbox": [5, 5, -3, 4]}], ["1 box of negative width or height: [5.0, 5.0, -3.0, 4.0]"]
    ),
    "no numbers": (COCO_IDS, [*FOUND, {**FOUND[0], "score": float("nan")}], [f"detections[{len(FOUND)}]", "score is NaN"]),
    "text": (COCO_IDS, changed(FOUND, category_id=lambda each: "person"), ["category_id is", "not their names"]),
    "three numbers": (COCO_IDS, [{**FOUND[0], "bbox": [1, 2, 3]}], ["must be four numbers"]),
    "annotations": (COCO_IDS, COCO_IDS, ["holds annotations"]),
    "objects alone": (COCO_IDS, COCO_IDS["annotations"], ["has no score", "look like annotations"]),
    "another object": (COCO_IDS, {"100": [[1, 2, 3, 4, 0.5]]}, ['keys "100"', "no list of detections"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_cause_and_a_way_out(mistake, tmp_path):
    coco, found, expected = MISTAKES[mistake]
    _, result, problems = read(tmp_path, coco, found)
    assert result is None
    assert all(text in problems for text in expected), problems


def test_the_named_way_out_gives_the_detections_that_were_meant(tmp_path):
    _, plain, _ = read(tmp_path, COCO_IDS, FOUND)
    _, told, problems = read(tmp_path, COCO_IDS, changed(FOUND, bbox=corners), boxes={"": "xyxy"})
    assert told is not None and plain is not None, problems
    assert told.box == pytest.approx(plain.box)
    _, told, problems = read(tmp_path, COCO_IDS, changed(FOUND, bbox=shares), boxes={"yolo": "normalised-xywh"})
    assert told is not None and told.box == pytest.approx(plain.box), problems


def test_class_ids_that_all_exist_are_refused_where_another_reading_fits(tmp_path):
    """COCO's 80 classes as 0 to 79 are ids of other classes there; only the boxes show it."""
    coco = annotations(categories=(0, 1, 2, 3))
    for each in coco["annotations"]:
        each["category_id"] = min(each["category_id"], 2)
    found = changed(detections(coco, 1), category_id=lambda each: min(each["category_id"], 2) + 1)
    _, result, problems = read(tmp_path, coco, found)
    assert result is None and "--class-ids yolo=one-based" in problems
    sparse = annotations(categories=(1, 2, 4, 5))  # no reading by places explains ids that are one too high
    for each in sparse["annotations"]:
        each["category_id"] = {2: 1, 5: 4}.get(each["category_id"], each["category_id"])
    higher = changed(detections(sparse, 1), category_id=lambda each: {1: 2, 2: 2, 4: 5, 5: 5}[each["category_id"]])
    _, result, problems = read(tmp_path, sparse, higher)
    assert result is None and "1 too high" in problems


def test_damaged_and_empty_files_are_named(tmp_path):
    text = json.dumps(FOUND).encode()
    for name, content, expected in (
        ("cut.json", text[:-100], "cut off"),
        ("cut.json.gz", gzip.compress(text)[:-20], "cut off or damaged"),
        ("empty.json", b"", "is empty"),
        ("latin.json", b'["\xff"]', "not UTF-8"),
        ("one.txt", b"0 0.5 0.5 0.1 0.1 0.9", "Give the folder"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert expected in read(tmp_path, COCO_IDS, path)[2]
    write_yolo(tmp_path / "bare", COCO_IDS, FOUND, confidence=False)
    assert "save_conf=True" in read(tmp_path, COCO_IDS, tmp_path / "bare")[2]
    (tmp_path / "none").mkdir()
    assert "no .txt file" in read(tmp_path, COCO_IDS, tmp_path / "none")[2]


def test_a_poor_detector_and_one_without_a_detection_are_no_mistake(tmp_path):
    rng = np.random.default_rng(0)
    poor = changed(FOUND, bbox=lambda each: [*rng.uniform(0, 500, 2).tolist(), *rng.uniform(5, 30, 2).tolist()])
    assert read(tmp_path, COCO_IDS, poor)[1] is not None
    truth, nothing, _ = read(tmp_path, COCO_IDS, [])
    assert nothing is not None and nothing.notes == ("holds no detection: its AP is 0.",) and ap(truth, nothing)["AP"] == 0


# --- across files ---------------------------------------------------------------------------------


def test_thresholds_and_missing_images_are_warned_of_with_what_they_cost(tmp_path):
    truth, full, _ = read(tmp_path, COCO_IDS, FOUND, "full.json")
    _, cut, _ = read(tmp_path, COCO_IDS, [each for each in FOUND if each["score"] >= 0.5], "cut.json")
    _, half, _ = read(tmp_path, COCO_IDS, [each for each in FOUND if each["image_id"] < 105], "half.json")
    assert full is not None and cut is not None and half is not None
    assert cautions([full, full], truth) == []
    threshold, differ = cautions([full, cut], truth)
    assert "cut.json has no score below 0.5" in threshold
    before, after = ap(truth, full)["AP"], ap(truth, cut)["AP"]
    assert after < before - 5 and f"full.json has AP {before:.1f}, and {after:.1f} if it is cut at 0.5" in differ
    (images,) = cautions([full, half], truth)
    assert "of 11 images with annotated objects" in images and "half.json on 5" in images
    (subset,) = cautions([half, half], truth)
    assert "no file has a detection on 6 or more" in subset


def test_files_of_an_arm_come_in_natural_order_and_their_number_is_the_seed(tmp_path):
    names = ("yolo_s10.json", "yolo_s2.json", "dfine_s2.json", "dfine_s10.json", "a,b.json", "rtdetr.json", "det_s2.json")
    for name in names:
        (tmp_path / name).write_text("[]")
    findings = Findings()
    found = find_files([("yolo", f"{tmp_path}/yolo_s*.json"), ("dfine", f"{tmp_path}/dfine_s2.json,{tmp_path}/dfine_s10.json")], findings)
    assert [path.name for path in found["yolo"]] == ["yolo_s2.json", "yolo_s10.json"] and not findings
    assert seeds_of(found).of == {"yolo": (2, 10), "dfine": (2, 10)} and "numbers in the names" in seeds_of(found).about
    with_one = found | {"rtdetr": [tmp_path / "rtdetr.json"], "det": [tmp_path / "det_s2.json"]}
    assert seeds_of(with_one).of == {"yolo": (2, 10), "dfine": (2, 10), "rtdetr": (2,), "det": (2,)}
    others = {"a": [Path("a_1.json"), Path("a_2.json")], "b": [Path("b_7.json"), Path("b_8.json")]}
    assert seeds_of(others).of == {"a": (0, 1), "b": (0, 1)} and "counted" in seeds_of(others).about
    grown = {"a": [Path("a_1.json"), Path("a_2.json"), Path("a_3.json")], "b": [Path("b_1.json"), Path("b_2.json")]}
    assert seeds_of(grown).of == {"a": (1, 2, 3), "b": (1, 2)}
    folders = {"a": [Path("train/p.json"), Path("train2/p.json")]}
    assert seeds_of(folders).of == {"a": (0, 1)}
    assert seeds_of({"a": [Path("a_1.json")], "b": [Path("b_2.json")]}).of == {"a": (0,), "b": (0,)}
    assert [path.name for path in find_files([("x", f"{tmp_path}/a,b.json")], findings)["x"]] == ["a,b.json"]
    find_files([("x", f"{tmp_path}/none*.json"), ("x", "none.json"), (" ", "x"), ("y", "")], findings)
    assert len(findings.all()) == 4


def test_gzipped_annotations_are_the_same_annotations(tmp_path):
    findings = Findings()
    plain = read_truth(write(tmp_path / "val.json", COCO_IDS), "val.json", findings)
    packed = read_truth(write(tmp_path / "val.json.gz", COCO_IDS), "val.json.gz", findings)
    assert plain is not None and packed is not None and plain.digest == packed.digest and not findings
    (tmp_path / "cut.json.gz").write_bytes((tmp_path / "val.json.gz").read_bytes()[:-30])
    assert read_truth(tmp_path / "cut.json.gz", "cut.json.gz", findings) is None
    assert "is gzipped, and damaged" in str(findings.problems()[0])
    no_boxes = {**COCO_IDS, "annotations": []}
    assert read_truth(write(tmp_path / "none.json", no_boxes), "none.json", findings) is None
    no_classes = {key: value for key, value in COCO_IDS.items() if key != "categories"}
    assert read_truth(write(tmp_path / "classes.json", no_classes), "classes.json", findings) is None
    assert "has no 'categories'" in "\n".join(map(str, findings.problems()))
