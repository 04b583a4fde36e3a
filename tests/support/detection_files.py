"""Annotations and detection files of a small data set, as other projects write them; all numbers are drawn from a seed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Found = list[dict[str, Any]]


def annotations(
    images: int = 12, categories: Sequence[int] = (1, 3, 7), *, first_image: int = 100, name: str = "img_{:04d}.jpg", seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    """Return annotations: boxes of all sizes, a crowd now and then, one image without a box, areas that are not width x height."""
    rng = np.random.default_rng(seed)
    boxes = []
    for image in range(images - 1):
        for _ in range(int(rng.integers(3, 7))):
            size = rng.choice([20, 60, 150]) * rng.uniform(0.8, 1.2, 2)
            corner = rng.uniform(0, 400, 2)
            box = [round(float(value), 2) for value in (*corner, *size)]
            boxes.append(
                {
                    "id": len(boxes) + 1, "image_id": first_image + image, "category_id": int(rng.choice(categories)), "bbox": box,
                    "area": round(box[2] * box[3] * float(rng.uniform(0.5, 1)), 2), "iscrowd": int(rng.random() < 0.08),
                }
            )  # fmt: skip
    return {
        "images": [
            {"id": first_image + image, "file_name": f"val/{name.format(image)}", "width": 640, "height": 600} for image in range(images)
        ],
        "annotations": boxes,
        "categories": [{"id": number, "name": f"class {number}"} for number in categories],
    }


def detections(coco: Mapping[str, Any], seed: int, *, noise: float = 0.05, lowest: float = 0.001, ties: bool = False) -> Found:
    """Return detections in COCO's results format: most objects with noise, some of another class, some out of nothing."""
    rng = np.random.default_rng(seed)
    categories = [each["id"] for each in coco["categories"]]
    found: Found = []

    def add(image: int, category: int, box: Sequence[float], score: float) -> None:
        score = round(float(np.clip(score, lowest, 1)), 1 if ties else 5)
        found.append({"image_id": image, "category_id": category, "bbox": [round(float(v), 3) for v in box], "score": score})

    for each in coco["annotations"]:
        if rng.random() < 0.1:
            continue
        x, y, width, height = each["bbox"]
        moved = np.array([x, y, width, height]) + rng.normal(0, noise, 4) * np.array([width, height] * 2)
        category = each["category_id"] if rng.random() < 0.95 else int(rng.choice(categories))
        add(each["image_id"], category, (*moved[:2], *np.maximum(moved[2:], 1)), rng.beta(4, 2))
    for image in coco["images"]:
        for _ in range(4):
            size = rng.uniform(10, 200, 2)
            add(image["id"], int(rng.choice(categories)), (*rng.uniform(0, 400, 2), *size), rng.beta(1, 6))
    return found


def write(path: Path, value: Any) -> Path:
    """Write JSON, gzipped if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_yolo(folder: Path, coco: Mapping[str, Any], found: Found, *, confidence: bool = True) -> Path:
    """Write the text files of YOLO: a file for each image with a detection, classes by their place in the list of categories."""
    folder.mkdir(parents=True, exist_ok=True)
    place = {each["id"]: index for index, each in enumerate(sorted(coco["categories"], key=lambda each: each["id"]))}
    lines: dict[str, list[str]] = {}
    for each in found:
        image = next(image for image in coco["images"] if image["id"] == each["image_id"])
        (x, y, width, height), across, down = each["bbox"], image["width"], image["height"]
        values = [
            (x + width / 2) / across,
            (y + height / 2) / down,
            width / across,
            height / down,
            *([each["score"]] if confidence else []),
        ]
        line = " ".join([str(place[each["category_id"]]), *(repr(value) for value in values)])
        lines.setdefault(Path(image["file_name"]).stem, []).append(line)
    for stem, texts in lines.items():
        (folder / f"{stem}.txt").write_text("\n".join(texts) + "\n")
    return folder


def changed(found: Found, **changes: Any) -> Found:
    """Return detections with values replaced; a change is a function of the detection."""
    return [{**each, **{key: change(each) for key, change in changes.items()}} for each in found]
