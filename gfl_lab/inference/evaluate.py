"""COCO evaluation of one pass over the validation images, and the per-image records that keep AP recomputable."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from gfl_lab.data.annotations import load_coco
from gfl_lab.metrics.coco_ap import resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.evaluation import write_evaluation

logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)

_STATS = {"AP": 0, "AP50": 1, "AP75": 2, "AP_S": 3, "AP_M": 4, "AP_L": 5}


@dataclass(frozen=True)
class Detections:
    """Kept detections of a whole split, image by image, best score first.

    image_id (D,), label (D,) from 0, score (D,), box (D, 4) xyxy in pixels of the original image; image_ids (I,) are all
    images looked at, those without a detection too.
    """

    image_ids: np.ndarray
    image_id: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray


def collect(samples: Iterator[Any]) -> Detections:
    """Join mmdet's predicted samples."""
    ids: list[int] = []
    parts: list[tuple[np.ndarray, ...]] = [
        (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    ]  # columns, also without an image
    for sample in samples:
        found = sample.pred_instances
        ids.append(sample.img_id)
        columns = (found.labels.cpu().numpy(), found.scores.cpu().numpy(), found.bboxes.cpu().numpy())
        parts.append((np.full(len(found), sample.img_id, np.int64), *columns))
    image_id, label, score, box = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Detections(
        np.array(ids, np.int64),
        image_id.astype(np.int64),
        label.astype(np.int64),
        score.astype(np.float64),
        box.astype(np.float64).reshape(-1, 4),
    )


class CocoEvaluator:
    """COCO AP of detections against one annotation file, read once.

    Args:
        annotations: COCO json.
        classes: names in the order of the labels.
        max_dets: detections counted per image.
    """

    def __init__(self, annotations: str | Path, classes: tuple[str, ...], max_dets: int = 100) -> None:
        dataset = load_coco(annotations)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found annotation id 0")
            self.truth = COCO(dataset, print_function=lambda *_: None)
        # COCOeval marks a matched detection with the annotation's id, and 0 means unmatched: it gets ids from 1.
        numbered = [annotation | {"id": number} for number, annotation in enumerate(dataset["annotations"], 1)]
        self._numbered = COCO(dataset | {"annotations": numbered}, print_function=lambda *_: None)
        by_name = {category["name"]: category["id"] for category in self.truth.dataset["categories"]}
        self.category_ids = np.array([by_name[name] for name in classes])
        self.classes = classes
        self.max_dets = max_dets

    def __call__(self, detections: Detections) -> tuple[dict[str, float], dict[str, float]]:
        """Return AP metrics (0 to 100; a size range without boxes is left out) and AP by class (classes without boxes left out)."""
        boxes = detections.box.copy()
        boxes[:, 2:] -= boxes[:, :2]
        rows = np.column_stack([detections.image_id, boxes, detections.score, self.category_ids[detections.label]])
        found = self._numbered.loadRes(rows if len(rows) else [])
        evaluation = COCOeval_faster(self._numbered, found, "bbox", print_function=lambda *_: None)
        evaluation.params.imgIds = detections.image_ids.tolist()
        evaluation.params.maxDets = [1, 10, self.max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        metrics = {key: 100 * float(evaluation.stats[index]) for key, index in _STATS.items() if evaluation.stats[index] >= 0}
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # (T, R, K)
        order = {category: index for index, category in enumerate(evaluation.params.catIds)}
        per_class = {}
        for name, category in zip(self.classes, self.category_ids, strict=True):
            values = precision[:, :, order[int(category)]]
            if (values > -1).any():
                per_class[name] = 100 * float(values[values > -1].mean())
        return metrics, per_class

    def write_records(self, path: Path, detections: Detections, metrics: Mapping[str, float] | None = None) -> None:
        """Write eval.npz: detections and ground truth, image by image, and AP on bootstrap samples of the images.

        Arrays: those of ``coco_records.Records``, enough to compute AP on any images; resampled (R, 3), from ``coco_ap.resample``;
        metrics, as JSON, so that a result that was changed later is seen.

        Args:
            metrics: of the evaluation, as result.json will have them; without them the file has none.
        """
        label_of = {int(category): label for label, category in enumerate(self.category_ids)}
        truth = [self.truth.anns[key] for key in sorted(self.truth.anns)]
        gt_box = np.array([annotation["bbox"] for annotation in truth], np.float64).reshape(-1, 4)
        gt_box[:, 2:] += gt_box[:, :2]
        records = Records(
            image_ids=detections.image_ids,
            det_image=detections.image_id,
            det_label=detections.label,
            det_score=detections.score.astype(np.float32),
            det_box=detections.box.astype(np.float32),
            gt_image=np.array([annotation["image_id"] for annotation in truth], np.int64),
            gt_label=np.array([label_of[annotation["category_id"]] for annotation in truth], np.int64),
            gt_area=np.array([annotation["area"] for annotation in truth], np.float64),
            gt_crowd=np.array([annotation.get("iscrowd", 0) for annotation in truth], bool),
            gt_id=np.array([annotation["id"] for annotation in truth], np.int64),
            gt_box=gt_box,
            classes=self.classes,
            max_dets=self.max_dets,
        )
        write_evaluation(path, records, resample(match(records)), metrics)
