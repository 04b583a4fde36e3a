"""Types of error: by hand, by what the parts must add up to, and against the authors' own tool where it is installed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gfl_lab.metrics.coco_ap import resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.metrics.error_types import TYPES, Errors, costs, errors_of, resampled_costs

BOX = (0, 0, 100, 100)


def records(detections: list[tuple], truth: list[tuple], images: int = 1, classes: int = 2) -> Records:
    """From (image, class, score, box) and (image, class, box)."""
    det_image, det_label, det_score, det_box = zip(*detections, strict=True) if detections else ((), (), (), ())
    gt_image, gt_label, gt_box = zip(*truth, strict=True) if truth else ((), (), ())
    boxes = np.array(gt_box, float).reshape(-1, 4)
    return Records(
        image_ids=np.arange(images), det_image=np.array(det_image, int), det_label=np.array(det_label, int),
        det_score=np.array(det_score, float), det_box=np.array(det_box, float).reshape(-1, 4), gt_image=np.array(gt_image, int),
        gt_label=np.array(gt_label, int), gt_area=(boxes[:, 2:] - boxes[:, :2]).prod(1), gt_crowd=np.zeros(len(boxes), bool),
        gt_id=np.arange(1, len(boxes) + 1), gt_box=boxes, classes=tuple("abc"[:classes]),
    )  # fmt: skip


def of(*detections: tuple, truth: list[tuple] | None = None) -> Errors:
    return errors_of(records(list(detections), [(0, 0, BOX)] if truth is None else truth))


def counted(found: Errors) -> dict[str, int]:
    return {name: n for name, n in found.counts.items() if n}


@pytest.mark.parametrize(
    ("detection", "name", "missed"),
    [
        ((0, 1, 0.9, BOX), "classification", 0),
        ((0, 0, 0.9, (0, 0, 100, 40)), "localisation", 0),  # IoU 0.4
        ((0, 1, 0.9, (0, 0, 100, 40)), "both", 1),
        ((0, 0, 0.9, (0, 0, 100, 5)), "background", 1),  # IoU 0.05
        ((0, 0, 0.9, (200, 200, 300, 300)), "background", 1),
    ],
)
def test_one_wrong_detection_of_one_box(detection: tuple, name: str, missed: int) -> None:
    found = of(detection, truth=[(0, 0, BOX), (0, 1, (400, 400, 450, 450))])
    assert counted(found) == {name: 1, "missed": 1 + missed}  # the second box is always missed


def test_a_second_detection_of_a_box_is_a_duplicate() -> None:
    found = of((0, 0, 0.9, BOX), (0, 0, 0.8, BOX))
    assert counted(found) == {"duplicate": 1}
    assert costs(found)["duplicate"] == 0, "below the right one it costs nothing"
    assert counted(of((0, 0, 0.9, (0, 0, 100, 60)), (0, 0, 0.8, BOX))) == {"duplicate": 1}, "by score, not by overlap"


def test_costs_by_hand() -> None:
    # Class 0: a right detection at 0.9 of two boxes, and one at 0.8 that overlaps the second by 0.4.
    second = (200, 0, 300, 100)
    found = of((0, 0, 0.9, BOX), (0, 0, 0.8, (200, 0, 300, 40)), truth=[(0, 0, BOX), (0, 0, second)])
    assert found.found.ap() == pytest.approx(100 * 51 / 101)  # precision 1 up to recall 0.5
    assert costs(found) == pytest.approx({name: 0.0 for name in TYPES} | {"localisation": 100 * 50 / 101})
    # The same with nothing near the second box: it is missed, and without it the first is all there is.
    found = of((0, 0, 0.9, BOX), truth=[(0, 0, BOX), (0, 0, second)])
    assert costs(found)["missed"] == pytest.approx(100 * 50 / 101) and counted(found) == {"missed": 1}
    # A false alarm above the right one: precision 1/2 at every recall.
    found = of((0, 0, 0.95, (500, 500, 600, 600)), (0, 0, 0.9, BOX))
    assert found.found.ap() == pytest.approx(50) and costs(found)["background"] == pytest.approx(50)


def test_a_wrong_class_is_moved_to_the_right_one() -> None:
    truth = [(0, 0, BOX), (0, 1, (200, 200, 300, 300))]
    found = of((0, 1, 0.9, BOX), (0, 1, 0.8, (200, 200, 300, 300)), truth=truth)
    # class 0 has AP 0, class 1 has 50 because of the false alarm above; corrected both have 100
    assert found.found.ap() == pytest.approx(25) and costs(found)["classification"] == pytest.approx(75)


def test_of_several_errors_at_a_box_the_best_is_mended_and_the_others_go() -> None:
    found = of((0, 1, 0.9, BOX), (0, 1, 0.8, BOX), (0, 0, 0.7, (0, 0, 100, 40)))
    assert counted(found) == {"classification": 2, "localisation": 1}
    assert found.mends.sum() == 1 and found.found.score[found.mends] == 0.9
    assert costs(found)["classification"] == pytest.approx(100) and costs(found)["localisation"] == 0


def test_the_threshold_decides_what_is_right_and_what_is_badly_placed() -> None:
    one = records([(0, 0, 0.9, (0, 0, 100, 60)), (0, 1, 0.8, (0, 0, 100, 60))], [(0, 0, BOX)])  # IoU 0.6 with its box
    for iou, expected in ((0.5, {"classification": 1}), (0.6, {"classification": 1}), (0.65, {"localisation": 1, "both": 1})):
        assert counted(errors_of(one, iou)) == expected, iou
    assert errors_of(one, 0.5).found.ap() == 100 and costs(errors_of(one, 0.75)) == pytest.approx(
        {name: 0.0 for name in TYPES} | {"localisation": 100.0}
    )
    for iou in (0.45, 0.52, 1.0, float("nan")):
        with pytest.raises(ValueError, match="no IoU threshold of COCO"):
            errors_of(one, iou)


def test_crowds_and_empty_images_make_no_errors_of_their_own() -> None:
    one = records([(0, 0, 0.9, BOX), (1, 0, 0.8, BOX)], [(0, 0, BOX)], images=3)
    assert counted(errors_of(one)) == {"background": 1}
    crowd = Records(**{**vars(one), "gt_crowd": np.array([True])})
    assert counted(errors_of(crowd)) == {"background": 1}
    assert counted(errors_of(records([], [], images=2))) == {}


def scene(seed: int, images: int = 40) -> Records:
    """Boxes and detections of every kind, three classes."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for image in range(images):
        for _ in range(rng.integers(1, 5)):
            label = int(rng.integers(3))
            low = rng.uniform(0, 300, 2)
            box = np.concatenate([low, low + rng.uniform(40, 150, 2)])
            truth.append((image, label, box))
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(0, rng.choice([3, 25, 60]), 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 5)
                detections.append((image, int(rng.integers(3)) if rng.random() < 0.3 else label, float(rng.random()), moved))
        for _ in range(rng.integers(0, 3)):
            low = rng.uniform(0, 400, 2)
            detections.append((image, int(rng.integers(3)), float(rng.random()), np.concatenate([low, low + 50])))
    return records(detections, truth, images, 3)


@pytest.mark.parametrize("seed", range(5))
def test_every_detection_is_right_or_one_error_and_every_box_found_reachable_or_missed(seed: int) -> None:
    found = errors_of(scene(seed))
    right = (found.found.box[0] >= 0) & ~found.found.ignored[0]
    assert ((found.kind == -1) == right).all() and set(found.kind) == {-1, 0, 1, 2, 3, 4}
    boxes = len(found.missed)
    reachable = len(set(found.target[found.mends]))
    assert right.sum() + reachable + found.missed.sum() == boxes
    everything = found
    for name in ("both", "duplicate", "background"):  # false alarms alone: taking them away can only help
        assert costs(everything)[name] >= 0
    # All detections right or mended, all others gone, nothing missed: AP 100.
    best = found.corrected("missed")
    keep = right | found.mends
    perfect = Errors(found.found, np.where(keep, np.where(right, -1, 0), 2), found.target, found.mends, found.target_label, found.missed)
    mended = perfect.corrected("classification")
    final = Errors(
        mended, np.where(np.isin(mended.index, found.found.index[keep]), -1, 2), *[np.zeros(len(mended.label), int)] * 3, found.missed
    )
    assert dataclasses.replace(final.corrected("both"), gt_image=best.gt_image, gt_label=best.gt_label).ap() == pytest.approx(100)


def test_resampled_costs_are_of_the_samples_that_ap_has() -> None:
    found = errors_of(scene(0))
    samples = resampled_costs(found, 5)
    rng = np.random.default_rng(0)
    weights = np.bincount(rng.integers(0, 40, 40), minlength=40)
    assert {name: values[0] for name, values in samples.items()} == pytest.approx(costs(found, weights))
    assert resample(match(scene(0)), 5)[0, 1] == pytest.approx(found.found.ap(weights)), "AP50 of the same sample"


@pytest.mark.parametrize(("seed", "iou"), [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.75), (4, 0.75)])
def test_costs_are_those_of_tide(seed: int, iou: float) -> None:
    pytest.importorskip("tidecv", reason="the authors' tool is not installed: pip install tidecv")
    from tidecv import TIDE, Data

    one = scene(seed)
    truth, found = Data("truth"), Data("found", max_dets=1000)
    wide = lambda box: [box[0], box[1], box[2] - box[0], box[3] - box[1]]  # noqa: E731
    for label in range(3):
        truth.add_class(label, str(label))
    for image in range(40):
        truth.add_image(image, str(image))
    for image, label, box in zip(one.gt_image, one.gt_label, one.gt_box, strict=True):
        truth.add_ground_truth(int(image), int(label), wide(box))
    for image, label, score, box in zip(one.det_image, one.det_label, one.det_score, one.det_box, strict=True):
        found.add_detection(int(image), int(label), float(score), wide(box))
    run = TIDE().evaluate(truth, found, pos_threshold=iou, background_threshold=0.1, mode=TIDE.BOX)
    by_tide = {error.short_name: value for error, value in run.fix_main_errors().items()}
    costs_here = costs(errors_of(one, iou))
    assert errors_of(one, iou).found.ap() == pytest.approx(run.ap, abs=1e-6)
    names = {"Cls": "classification", "Loc": "localisation", "Both": "both", "Dupe": "duplicate", "Bkg": "background", "Miss": "missed"}
    assert {name: max(0.0, costs_here[names[name]]) for name in by_tide} == pytest.approx(by_tide, abs=1e-6)
