"""`gfl-lab import-results` at COCO's size: two arms of one file each, 5,000 images with 100 detections, on one core.

    uv run python benchmarks/import_results.py             prints a report; --write also puts it under benchmarks/results/

80 classes, 7.2 boxes and 100 detections an image (made up: benchmarks/resample_speed.py), ids of classes and images as COCO has them not
in a row. The command is a process of its own, held to one core; its time is that of the processor, which other processes on the machine\ndo not lengthen: start, reading, checks, AP, 1,000 bootstrap samples, table and exports.
AP of both arms is compared with pycocotools on the same files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.resample_speed import CLASSES, IMAGES, detector, truth  # first: it holds numpy to one core

# isort: split
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.machine import LAB, header, lab_environment, publish
from gfl_lab.metrics.coco_records import Records

TOLERANCE = 1e-6
"""AP points: a larger difference from pycocotools is an error."""
LIMIT_S = 60.0
KEYS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
ARMS = ("yolo", "dfine")


def category(label: int) -> int:
    """Id of a class: gaps as in COCO's 1 to 90."""
    return label + 1 + label // 8


def annotation_file(path: Path, records: Records) -> None:
    """Write the ground truth as COCO has it."""
    sizes = records.gt_box[:, 2:] - records.gt_box[:, :2]
    annotations = [
        {
            "id": index + 1, "image_id": int(records.gt_image[index]), "category_id": category(int(records.gt_label[index])),
            "bbox": [*records.gt_box[index, :2].tolist(), *sizes[index].tolist()], "area": float(records.gt_area[index]), "iscrowd": 0,
        }
        for index in range(len(records.gt_image))
    ]  # fmt: skip
    images = [{"id": int(number), "file_name": f"{number:012d}.jpg", "width": 640, "height": 640} for number in records.image_ids]
    categories = [{"id": category(label), "name": str(label)} for label in range(CLASSES)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def detection_file(path: Path, records: Records) -> None:
    """Write detections in COCO's results format, rounded as ultralytics does."""
    boxes = records.det_box.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    columns = (
        records.det_image.tolist(),
        records.det_label.tolist(),
        boxes.round(3).tolist(),
        records.det_score.astype(float).round(5).tolist(),
    )
    found = [
        {"image_id": image, "category_id": category(label), "bbox": box, "score": score}
        for image, label, box, score in zip(*columns, strict=True)
    ]
    path.write_text(json.dumps(found))


def imported(folder: Path) -> tuple[dict[str, Any], float, float, float]:
    """Import both files on one core. Return the table, the seconds, those of the processor, and the peak memory in MiB."""
    arms = [argument for arm in ARMS for argument in ("--arm", f"{arm}={folder / arm}.json")]
    command = [*LAB, "import-results", "coco", "--annotations", str(folder / "val.json"), *arms, "--json"]
    core = min(os.sched_getaffinity(0))
    environment = lab_environment(folder / "runs") | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begun = time.perf_counter()
    done = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )  # fmt: skip
    printed = done.stdout.read() if done.stdout else ""
    _, status, usage = os.wait4(done.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise SystemExit(f"the import ended with status {status}")
    return json.loads(printed), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def reference(folder: Path, arm: str) -> tuple[dict[str, float], float]:
    """The six AP of pycocotools, and its seconds of the processor with reading."""
    begun = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(str(folder / "val.json"))
        evaluation = COCOeval(annotations, annotations.loadRes(str(folder / f"{arm}.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {key: 100 * float(value) for key, value in zip(KEYS, evaluation.stats, strict=False)}, time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    known = truth()
    found = {arm: detector(1 + index, known) for index, arm in enumerate(ARMS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotation_file(folder / "val.json", found[ARMS[0]])
        for arm, records in found.items():
            detection_file(folder / f"{arm}.json", records)
        size = sum((folder / f"{arm}.json").stat().st_size for arm in ARMS) / 2**20
        table, seconds, busy, memory = imported(folder)
        _, _, again, _ = imported(folder)
        worst, theirs = 0.0, 0.0
        for row in table["rows"]:
            expected, took = reference(folder, row["variant"])
            theirs += took
            worst = max(worst, *(abs(row["metrics"][key]["mean"] - expected[key]) for key in KEYS))
    lines = header("Importing detections at COCO's size", "uv run python benchmarks/import_results.py --write", ("numpy", "pycocotools"))
    lines += [
        f"- {IMAGES:,} images, {CLASSES} classes, 100 detections an image; two arms of one file, {size:.0f} MiB of JSON; one core",
        "",
        "| what | measured |",
        "| :-- | --: |",
        f"| `gfl-lab import-results`, all of it: s of the processor | {busy:.1f} |",
        f"| the same: s on the clock, with other processes on the machine (load {os.getloadavg()[0]:.1f}) | {seconds:.1f} |",
        f"| the same command again, files read and checked, nothing evaluated: s of the processor | {again:.1f} |",
        f"| peak memory, MiB | {memory:.0f} |",
        f"| pycocotools on both files, no bootstrap samples: s of the processor | {theirs:.1f} |",
        f"| largest difference of the six AP of both arms from pycocotools | {worst:.1e} |",
    ]
    publish("import_results", "\n".join(lines) + "\n", write=arguments.write)
    if worst > TOLERANCE or busy > LIMIT_S:
        raise SystemExit(f"AP differs by {worst:.1e}, and the import took {busy:.1f} s")


if __name__ == "__main__":
    main()
