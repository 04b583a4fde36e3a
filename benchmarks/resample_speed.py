"""How long 1,000 paired bootstrap samples of the images take at the size of COCO's validation set, and pycocotools for one of them.

    uv run python benchmarks/resample_speed.py             prints a report; --write also puts it under benchmarks/results/
    uv run python benchmarks/resample_speed.py --samples 50

5,000 images, 80 classes, 36,000 boxes, 100 detections an image (made up: six in ten near a box of their class). Ours: matching of
both detectors once, then AP, AP50 and AP75 of both on each sample. The peer: pycocotools' COCOeval of both detectors on the data set of
one sample, in which each image stands as often as it was drawn; its loading is not counted. One core (numpy's threads held to one).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.machine import header, publish
from gfl_lab.metrics.coco_ap import resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records

IMAGES, CLASSES, BOXES, PER_IMAGE = 5000, 80, 36_000, 100


def detector(seed: int, truth: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Records:
    """Detections of one detector on the same boxes."""
    gt_image, gt_label, gt_box = truth
    rng = np.random.default_rng(seed)
    count = IMAGES * PER_IMAGE
    image = np.repeat(np.arange(IMAGES), PER_IMAGE)
    order = np.argsort(gt_image, kind="stable")
    starts, counts = np.searchsorted(gt_image[order], np.arange(IMAGES)), np.bincount(gt_image, minlength=IMAGES)
    near = (rng.random(count) < 0.6) & (counts[image] > 0)
    box = order[np.minimum(starts[image] + rng.integers(0, 1000, count) % np.maximum(counts[image], 1), BOXES - 1)]
    anywhere = np.c_[rng.uniform(0, 400, (count, 2)), rng.uniform(400, 500, (count, 2))]
    boxes = np.where(near[:, None], gt_box[box] + rng.normal(0, 8, (count, 4)), anywhere)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    label = np.where(near, gt_label[box], rng.integers(0, CLASSES, count))
    return Records(
        image_ids=np.arange(IMAGES), det_image=image, det_label=label, det_score=rng.random(count), det_box=boxes, gt_image=gt_image,
        gt_label=gt_label, gt_area=(gt_box[:, 2:] - gt_box[:, :2]).prod(1), gt_crowd=np.zeros(BOXES, bool), gt_id=np.arange(1, BOXES + 1),
        gt_box=gt_box, classes=tuple(map(str, range(CLASSES))),
    )  # fmt: skip


def truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, class and box of every annotated object; three classes an image."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, IMAGES, BOXES)
    label = rng.integers(0, CLASSES, (IMAGES, 3))[image, rng.integers(0, 3, BOXES)]
    low, size = rng.uniform(0, 400, (BOXES, 2)), rng.uniform(5, 200, (BOXES, 2))
    return image, label, np.c_[low, low + size]


def peer(records: Records, weights: np.ndarray) -> tuple[float, float]:
    """(AP, seconds) of pycocotools on the data set in which image i stands ``weights[i]`` times."""
    copies = np.repeat(np.arange(IMAGES), weights)  # image of each copy
    by_gt, by_det = (np.argsort(image, kind="stable") for image in (records.gt_image, records.det_image))
    gt_at, det_at = (
        np.searchsorted(image[order], np.arange(IMAGES + 1)) for image, order in ((records.gt_image, by_gt), (records.det_image, by_det))
    )
    annotations, rows = [], []
    for copy, image in enumerate(copies.tolist()):
        for i in by_gt[gt_at[image] : gt_at[image + 1]].tolist():
            x1, y1, x2, y2 = records.gt_box[i].tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": copy, "category_id": int(records.gt_label[i]), "bbox": [x1, y1, x2 - x1, y2 - y1],
                 "area": float(records.gt_area[i]), "iscrowd": 0}
            )  # fmt: skip
        own = by_det[det_at[image] : det_at[image + 1]]
        box = records.det_box[own]
        rows.append(
            np.column_stack([np.full(len(own), copy), box[:, :2], box[:, 2:] - box[:, :2], records.det_score[own], records.det_label[own]])
        )
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": copy} for copy in range(len(copies))], "annotations": annotations, "categories": [{"id": i} for i in range(CLASSES)]
        }  # fmt: skip
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(np.concatenate(rows)), "bbox")
        began = time.perf_counter()
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        took = time.perf_counter() - began
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return 100 * float(precision[precision > -1].mean()), took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap samples of the images")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    boxes = truth()
    pair = [detector(seed, boxes) for seed in (1, 2)]
    began = time.perf_counter()
    matches = [match(records) for records in pair]
    matched = time.perf_counter() - began
    samples = [resample(each, asked.samples) for each in matches]
    took = time.perf_counter() - began
    weights = np.bincount(np.random.default_rng(0).integers(0, IMAGES, IMAGES), minlength=IMAGES)  # the first sample
    theirs = [peer(records, weights) for records in pair]
    one = sum(seconds for _, seconds in theirs)
    gap = max(abs(ap - found[0, 0]) for (ap, _), found in zip(theirs, samples, strict=True))
    lines = [
        *header(
            "AP on resampled images at COCO's size", f"uv run python benchmarks/resample_speed.py --samples {asked.samples}", ("numpy", "pycocotools")
        ),
        f"- {IMAGES:,} images, {CLASSES} classes, {BOXES:,} boxes, {PER_IMAGE} detections an image; two detectors; one core",
        "",
        "| what | measured |",
        "| :-- | --: |",
        f"| ours: matching both detectors, s | {matched:.1f} |",
        f"| ours: {asked.samples:,} paired samples, matching included, s | {took:.1f} |",
        f"| pycocotools: one paired sample, loading not counted, s | {one:.1f} |",
        f"| that times {asked.samples:,}, over ours | {one * asked.samples / took:,.0f} |",
        f"| largest difference of AP on that sample | {gap:.1e} |",
    ]  # fmt: skip
    report = "\n".join(lines) + "\n"
    publish("resample_speed", report, asked.write)


if __name__ == "__main__":
    main()
