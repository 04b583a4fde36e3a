"""AP of any multiset of images against pycocotools on a data set in which each image really stands that often."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gfl_lab.metrics.coco_ap import IOUS, mean_ap
from gfl_lab.metrics.coco_matching import AREAS, match
from gfl_lab.metrics.coco_records import Records


def records(
    truth: list[tuple[int, int, tuple[float, ...], bool]], found: list[tuple[int, int, float, tuple[float, ...]]], images: int, classes: int = 2, max_dets: int = 100
) -> Records:  # fmt: skip
    """Truth: (image, label, box, crowd). Found: (image, label, score, box). Images are numbered from 1."""
    gt_box = np.array([box for *_, box, _ in truth], np.float64).reshape(-1, 4)
    return Records(
        image_ids=np.arange(1, images + 1),
        det_image=np.array([image for image, *_ in found], np.int64),
        det_label=np.array([label for _, label, *_ in found], np.int64),
        det_score=np.array([score for *_, score, _ in found], np.float32),
        det_box=np.array([box for *_, box in found], np.float32).reshape(-1, 4),
        gt_image=np.array([image for image, *_ in truth], np.int64),
        gt_label=np.array([label for _, label, *_ in truth], np.int64),
        gt_area=(gt_box[:, 2:] - gt_box[:, :2]).prod(1),
        gt_crowd=np.array([crowd for *_, crowd in truth], bool),
        gt_id=np.arange(len(truth)),
        gt_box=gt_box,
        classes=tuple("abcdefgh"[:classes]),
        max_dets=max_dets,
    )


def drawn(seed: int) -> Records:
    """A few images: crowds, boxes of all sizes, detections near them, of another class, doubled, and out of nothing."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 15)), int(rng.integers(1, 4))
    truth, found = [], []
    for image in range(1, images + 1):
        boxes = []
        for _ in range(rng.integers(0, 8)):
            corner, size = rng.integers(0, 200, 2), rng.integers(4, 140, 2)
            boxes.append((*corner, *(corner + size)))
            truth.append((image, int(rng.integers(classes)), tuple(map(float, boxes[-1])), bool(rng.random() < 0.1)))
        labels = [label for at, label, *_ in truth if at == image]
        for _ in range(rng.integers(0, 30)):
            if boxes and rng.random() < 0.7:
                which = int(rng.integers(len(boxes)))
                noise = rng.normal(0, 6, 4)
                box = np.array(boxes[which]) + (noise.round() if seed % 2 else noise)  # whole pixels: equal overlaps occur
                label = labels[which] if rng.random() < 0.8 else int(rng.integers(classes))
            else:
                corner = rng.uniform(0, 200, 2)
                box, label = np.r_[corner, corner + rng.uniform(3, 120, 2)], int(rng.integers(classes))
            box[2:] = np.maximum(box[2:], box[:2] + 1)
            found.append((image, label, rng.random(), tuple(box)))
    return records(truth, found, images, classes, int(rng.choice([3, 10, 100])))


def pycocotools_precision(r: Records, weights: np.ndarray) -> np.ndarray:
    """(T, R, K, A) of a COCO evaluation in which image i stands ``weights[i]`` times."""
    images, annotations, detections = [], [], []
    for image, times in zip(r.image_ids, weights, strict=True):
        for _ in range(times):
            number = len(images) + 1
            images.append({"id": number})
            for j in np.flatnonzero(r.gt_image == image):
                x1, y1, x2, y2 = map(float, r.gt_box[j])
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": number, "category_id": int(r.gt_label[j]) + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(r.gt_area[j]), "iscrowd": int(r.gt_crowd[j]),
                    }
                )  # fmt: skip
            for j in np.flatnonzero(r.det_image == image):
                x1, y1, x2, y2 = map(float, r.det_box[j])
                score, label = float(r.det_score[j]), int(r.det_label[j]) + 1
                detections.append({"image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images, "annotations": annotations, "categories": [{"id": k + 1, "name": name} for k, name in enumerate(r.classes)],
        }  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.maxDets = [r.max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


@pytest.mark.parametrize("seed", range(30))
def test_ap_of_resampled_images_is_that_of_a_full_coco_evaluation(seed: int) -> None:
    r = drawn(seed)
    rng = np.random.default_rng(seed)
    for weights in (np.ones(len(r.image_ids), int), rng.integers(0, 3, len(r.image_ids))):
        if not np.isin(r.det_image, r.image_ids[weights > 0]).any():
            continue  # pycocotools refuses to load no detections
        theirs = pycocotools_precision(r, weights)
        for number, area in enumerate(AREAS):
            expected = np.where(theirs[:, 0, :, number] < 0, np.nan, theirs[..., number].mean(1))
            np.testing.assert_allclose(match(r, area).precision(weights), expected, rtol=0, atol=1e-12)


BOX = (0.0, 0.0, 10.0, 10.0)


def test_hand_worked() -> None:
    # Two boxes in two images; the better-scored detection is wrong, the second right, the third misses by IoU 0.6.
    truth = [(1, 0, BOX, False), (2, 0, BOX, False)]
    found = [(1, 0, 0.9, (50.0, 50.0, 60.0, 60.0)), (1, 0, 0.8, BOX), (2, 0, 0.7, (0.0, 0.0, 6.0, 10.0))]
    m = match(records(truth, found, images=2))
    precision = m.precision()
    assert np.isnan(precision[:, 1]).all(), "a class without boxes has no AP"
    # At 0.5: right at rank 2 (1/2) and rank 3 (2/3): the best precision at every recall is 2/3.
    assert precision[0, 0] == pytest.approx(2 / 3)
    # Above 0.6 only the second is right: precision 1/2 up to recall 0.5, which are 51 of 101 levels.
    assert precision[3, 0] == pytest.approx(0.5 * 51 / 101)
    assert m.ap() == pytest.approx(100 * np.nanmean(precision[:, 0]))
    # The second image alone: one box, found with IoU 0.6 first.
    assert m.precision(np.array([0, 1]))[:, 0] == pytest.approx((IOUS <= 0.6 + 1e-9).astype(float))
    assert np.isnan(m.ap(np.array([0, 0])))


def test_weights_are_copies_and_order_does_not_matter() -> None:
    r = drawn(4)
    rng = np.random.default_rng(0)
    shuffled, gt = rng.permutation(len(r.det_image)), rng.permutation(len(r.gt_image))
    other = Records(
        r.image_ids[::-1], r.det_image[shuffled], r.det_label[shuffled], r.det_score[shuffled], r.det_box[shuffled], r.gt_image[gt], r.gt_label[gt],
        r.gt_area[gt], r.gt_crowd[gt], r.gt_id[gt], r.gt_box[gt], r.classes, r.max_dets,
    )  # fmt: skip
    weights = rng.integers(0, 4, len(r.image_ids))
    assert match(other).ap(weights) == match(r).ap(weights)
    assert match(r).ap(3 * weights) == pytest.approx(match(r).ap(weights), abs=2.0)  # more copies: finer recall steps, same curve


def test_equal_scores_within_an_image_are_the_exception() -> None:
    # One image with two boxes, counted twice; a right, a wrong and a right detection. With equal scores COCO ranks the copies of the image one
    # after the other (right, wrong, right, right, wrong, right), we each detection twice (right, right, wrong, wrong, right, right).
    truth = [(1, 0, BOX, False), (1, 0, (100.0, 0.0, 110.0, 10.0), False)]
    for equal in (True, False):
        scores = (0.5, 0.5, 0.5) if equal else (0.5, 0.5 - 1e-6, 0.5 - 2e-6)
        found = [(1, 0, scores[0], BOX), (1, 0, scores[1], (50.0, 50.0, 60.0, 60.0)), (1, 0, scores[2], truth[1][2])]
        r = records(truth, found, images=1)
        ours, theirs = match(r).precision(np.array([2]))[0, 0], pycocotools_precision(r, np.array([2]))[0, :, 0, 0].mean()
        assert ours == pytest.approx((51 + 2 / 3 * 50) / 101)  # precision 1 up to recall 1/2, then 4 of 6
        assert theirs == pytest.approx(
            (26 + 0.75 * 50 + 2 / 3 * 25) / 101 if equal else ours
        )  # 1 up to recall 1/4, 3 of 4 up to 3/4, 4 of 6


def test_nothing_found_and_nothing_there() -> None:
    assert match(records([(1, 0, BOX, False)], [], images=1)).ap() == 0
    assert np.isnan(match(records([], [(1, 0, 0.5, BOX)], images=1)).ap())
    assert np.isnan(mean_ap(np.full((10, 2), np.nan)))
    crowd = match(records([(1, 0, BOX, True)], [(1, 0, 0.5, BOX), (1, 0, 0.4, BOX)], images=1))
    assert crowd.ignored.all() and np.isnan(crowd.ap())
