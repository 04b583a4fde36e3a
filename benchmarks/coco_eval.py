"""COCO evaluation of 5,000 images as a trial does it, records of every image included, and pycocotools on the same detections.

    uv run python benchmarks/coco_eval.py             prints a report; --write also puts it under benchmarks/results/
    uv run python benchmarks/coco_eval.py --sweep     how the time grows with the images, too

80 classes, 7.2 boxes and 100 detections an image (made up: benchmarks/resample_speed.py). Both read the same annotation file, which
is not counted, and begin with detections in memory. The peer: loadRes, evaluate, accumulate, summarize. Ours: the same numbers, AP by
class, and eval.npz with every detection. AP on 1,000 bootstrap samples of the images, which eval.npz holds too, is told apart.
One core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.resample_speed import BOXES, CLASSES, IMAGES, PER_IMAGE, detector, truth  # first: it holds numpy to one core

# isort: split
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.machine import header, publish
from gfl_lab.inference import evaluate
from gfl_lab.inference.evaluate import CocoEvaluator, Detections
from gfl_lab.metrics.coco_ap import resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records

TOLERANCE = 0.01
"""AP points: a larger difference of the two evaluations is an error."""
KEYS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


def annotation_file(path: Path, records: Records, images: int) -> None:
    """The ground truth of the first images as COCO has it."""
    annotations = []
    for i in np.flatnonzero(records.gt_image < images).tolist():
        x1, y1, x2, y2 = records.gt_box[i].tolist()
        annotations.append(
            {"id": i + 1, "image_id": int(records.gt_image[i]), "category_id": int(records.gt_label[i]) + 1,
             "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(records.gt_area[i]), "iscrowd": 0}
        )  # fmt: skip
    listed = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 640} for i in range(images)]
    categories = [{"id": i + 1, "name": str(i)} for i in range(CLASSES)]
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))


def ours(file: Path, found: Detections, folder: Path) -> tuple[dict[str, float], float, float]:
    """Metrics; seconds of evaluation and records; seconds of the bootstrap samples."""
    evaluator = CocoEvaluator(file, tuple(map(str, range(CLASSES))))
    sampled = 0.0

    def timed(action: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(given: Any) -> Any:
            nonlocal sampled
            began = time.perf_counter()
            try:
                return action(given)
            finally:
                sampled += time.perf_counter() - began

        return call

    with mock.patch.multiple(evaluate, match=timed(match), resample=timed(resample)):
        began = time.perf_counter()
        metrics, _ = evaluator(found)
        evaluator.write_records(folder / "eval.npz", found)
        took = time.perf_counter() - began
    return metrics, took - sampled, sampled


def peer(file: Path, found: Detections) -> tuple[dict[str, float], float]:
    """Metrics and seconds of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(file))
        rows = np.column_stack(
            [found.image_id, found.box[:, :2], found.box[:, 2:] - found.box[:, :2], found.score, found.label + 1]
        )  # fmt: skip
        began = time.perf_counter()
        evaluation = COCOeval(data, data.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        took = time.perf_counter() - began
    return {key: 100 * float(value) for key, value in zip(KEYS, evaluation.stats, strict=False)}, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="also with fewer images")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # its own threads too
    records = detector(1, truth())
    lines, gap = [], 0.0
    with tempfile.TemporaryDirectory(prefix="coco-eval-") as name:
        folder = Path(name)
        for images in (500, 1000, 2000, IMAGES) if asked.sweep else (IMAGES,):
            kept = records.det_image < images
            order = np.lexsort((-records.det_score[kept], records.det_image[kept]))
            found = Detections(
                np.arange(images),
                *(column[kept][order] for column in (records.det_image, records.det_label, records.det_score, records.det_box)),
            )
            file = folder / f"{images}.json"
            annotation_file(file, records, images)
            metrics, seconds, sampled = ours(file, found, folder)
            theirs, their_seconds = peer(file, found)
            gaps = [abs(value - theirs[key]) for key, value in metrics.items()]
            assert all(each <= TOLERANCE for each in gaps), (metrics, theirs)
            gap = max(gap, *gaps)
            lines.append(f"| {images:,} | {seconds:.1f} | {their_seconds:.1f} | {their_seconds / seconds:.1f} | {sampled:.1f} |")
    report = "\n".join(
        [
            *header("COCO evaluation, records included", f"uv run python benchmarks/coco_eval.py{' --sweep' if asked.sweep else ''}", ("faster-coco-eval", "pycocotools", "numpy")),
            f"- {CLASSES} classes, {BOXES / IMAGES:.1f} boxes and {PER_IMAGE} detections an image; one core; largest difference of the six numbers {gap:.1e}",
            "",
            "| images | gfl-lab, s | pycocotools, s | pycocotools / gfl-lab | AP on 1,000 bootstrap samples beside it, s |",
            "| --: | --: | --: | --: | --: |",
            *lines,
            "",
        ]
    )  # fmt: skip
    publish("coco_eval", report, asked.write)


if __name__ == "__main__":
    main()
