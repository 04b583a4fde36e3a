"""eval.npz: detections and ground truth of one evaluation, image by image, and AP on bootstrap samples of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gfl_lab import naming
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.files import atomic_path


def write_evaluation(path: Path, records: Records, resampled: np.ndarray, metrics: Mapping[str, float] | None = None) -> None:
    """Write eval.npz, atomically: the arrays of ``Records``, enough to compute AP on any images; resampled (R, 3), of ``coco_ap.resample``.

    Args:
        metrics: of the evaluation, as result.json will have them, so that a result that was changed later is seen; without them the
            file has none.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        own_metrics = {} if metrics is None else {"metrics": np.array(naming.canonical_json(dict(metrics)))}
        arrays = {"format": np.array(naming.FORMAT_VERSION), "resampled": resampled, **own_metrics, **records.arrays()}
        np.savez_compressed(file, allow_pickle=False, **arrays)
