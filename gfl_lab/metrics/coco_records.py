"""Detections and ground truth of one evaluation: what AP, types of error and calibration are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Records:
    """Detections and ground truth of one trial over its validation images, as eval.npz holds them.

    Attributes:
        image_ids: (I,) Ids of all validation images.
        det_image, det_label, det_score: (D,) Detections after NMS: image id, label from 0, score.
        det_box: (D, 4) Boxes of the detections: xyxy, pixels of the original image.
        gt_image, gt_label, gt_id: (G,) Ground truth: image id, label from 0, annotation id.
        gt_area, gt_crowd: (G,) Area in square pixels, and whether the box is a crowd region.
        gt_box: (G, 4) Boxes of the ground truth: xyxy, pixels of the original image.
        classes: (C,) Names by label.
        max_dets: Detections counted for each image and class.
        det_area: (D,) Width x height as written in an imported file, square pixels. Only for imported trials.
    """

    image_ids: np.ndarray
    det_image: np.ndarray
    det_label: np.ndarray
    det_score: np.ndarray
    det_box: np.ndarray
    gt_image: np.ndarray
    gt_label: np.ndarray
    gt_area: np.ndarray
    gt_crowd: np.ndarray
    gt_id: np.ndarray
    gt_box: np.ndarray
    classes: tuple[str, ...]
    max_dets: int = 100
    det_area: np.ndarray | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Records:
        """Return the records in the arrays of an eval.npz. Raises KeyError if one is missing."""
        columns = {name: np.asarray(arrays[name]) for name in _ARRAYS}
        limit = int(arrays["max_dets"]) if "max_dets" in arrays else 100
        area = np.asarray(arrays["det_area"]) if "det_area" in arrays else None
        return cls(**columns, classes=tuple(map(str, arrays["classes"])), max_dets=limit, det_area=area)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of an eval.npz, ``of`` in reverse."""
        columns = {name: getattr(self, name) for name in _ARRAYS}
        known = {} if self.det_area is None else {"det_area": self.det_area}
        return columns | {"classes": np.array(self.classes), "max_dets": np.array(self.max_dets)} | known


_ARRAYS = (
    "image_ids", "det_image", "det_label", "det_score", "det_box", "gt_image", "gt_label", "gt_area", "gt_crowd", "gt_id", "gt_box",
)  # fmt: skip
