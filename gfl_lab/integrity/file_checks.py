"""Checks of the single files of a finished trial, and of their agreement with each other."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gfl_lab import naming
from gfl_lab.errors import FormatError, StoreError
from gfl_lab.integrity.damage import UNREADABLE, UNSTABLE, Damage, file_entry, reason_of
from gfl_lab.metrics.coco_ap import RESAMPLED, mean_ap
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.result import FileEntry
from gfl_lab.rundir import TrialDir
from gfl_lab.spec.trial import DataSpec, TrialSpec

TOLERANCE = 0.01
"""AP points by which a recorded AP may differ from the one that its detections give."""


_COLUMNS = {"image_id", "annotation_id", "category_id", "file_name", "score", "det_score", "bins", "probs", "expectation", "target"}


def checkpoint_damage(path: Path, *, whole: bool = False) -> str:
    """Return why a checkpoint is unusable as a file; empty for a sound one.

    Args:
        whole: read all of it and compare its check sums, instead of its table of contents alone.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "is not a checkpoint"
            damaged = archive.testzip() if whole else None
    except FileNotFoundError:
        return "is missing"
    except UNREADABLE as error:
        return reason_of(error)
    return f"is damaged: the check sum of {damaged} is wrong" if damaged else ""


def recomputed_ap(records: Records) -> dict[str, float]:
    """Return AP, AP50 and AP75 of the detections; without those that are not defined."""
    precision = match(records).precision()
    found = {key: mean_ap(precision[list(rows)]) for key, rows in RESAMPLED.items()}
    return {key: value for key, value in found.items() if not math.isnan(value)}


def check_manifest(trial: TrialDir, found: list[Damage]) -> DataSpec | None:
    """Return the trial's data set, if its manifest has a specification, and add the damage of the manifest and the files beside it."""
    try:
        manifest = trial.manifest()
    except FormatError:
        raise
    except (StoreError, OSError) as error:
        found.append(Damage(naming.MANIFEST, reason_of(error)))
        return None
    try:
        spec = manifest.imported if manifest.is_imported else manifest.spec
    except StoreError:
        found.append(Damage(naming.MANIFEST, "has no valid specification"))
        return None
    if spec.id != trial.id or manifest.trial != trial.id:
        found.append(Damage(naming.MANIFEST, f"belongs to trial {spec.id if spec.id != trial.id else manifest.trial}"))
        return None
    try:
        _ = manifest.paths
    except StoreError:
        found.append(Damage(naming.MANIFEST, "has no paths of the data"))
    if isinstance(spec, TrialSpec):
        _components(trial, spec, found)
    return spec.data


def _components(trial: TrialDir, spec: TrialSpec, found: list[Damage]) -> None:
    for component in spec.components:
        name = f"{naming.COMPONENTS_DIR}/{Path(component.name).name}"
        try:
            content = trial.file(name).read_bytes()
        except OSError as error:
            found.append(Damage(name, reason_of(error)))
            continue
        if hashlib.sha256(content).hexdigest()[: len(component.digest)] != component.digest:
            found.append(Damage(name, "is not the file that the trial was made with"))


def check_listed(trial: TrialDir, name: str, files: Mapping[str, FileEntry], found: list[Damage], *, required: bool) -> bool:
    """Return True if a file exists as result.json lists it, so that its content is worth reading; add its damage."""
    path, entry = trial.file(name), files.get(name)
    try:
        size = path.stat().st_size
        if not path.is_file():
            found.append(Damage(name, "is not a file; move it away"))
        elif entry is None:
            return True
        elif size != entry.bytes:
            found.append(Damage(name, f"has {size} bytes, not {entry.bytes}"))
        elif file_entry(path).sha256 != entry.sha256:
            found.append(Damage(name, "has another content than its trial wrote"))
        else:
            return True
    except FileNotFoundError:
        if required or entry is not None:
            found.append(Damage(name, "is missing"))
    except OSError as error:
        found.append(Damage(name, reason_of(error)))
    return False


def check_records(trial: TrialDir, data: DataSpec | None, metrics: Mapping[str, float] | None, found: list[Damage]) -> None:
    """Return True if eval.npz is whole, over the trial's images and classes, and gives the metrics of its result."""
    try:
        with zipfile.ZipFile(trial.file(naming.EVAL_RECORDS)) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the check sum of {damaged} is wrong")
        with np.load(trial.file(naming.EVAL_RECORDS), allow_pickle=False) as arrays:
            records = Records.of(arrays)
            recorded = json.loads(str(arrays["metrics"])) if "metrics" in arrays else None
        what = records_disagreement(records)
        ours = {} if what else recomputed_ap(records)
    except UNREADABLE as error:
        found.append(Damage(naming.EVAL_RECORDS, reason_of(error)))
        return
    if not what and data is not None and tuple(records.classes) != data.classes:
        what = f"has the classes {', '.join(records.classes[:5])}, not the trial's"
    if not what and data is not None and len(np.unique(records.image_ids)) != data.val_images:
        what = f"is over {len(np.unique(records.image_ids))} images, not {data.val_images}"
    if what:
        found.append(Damage(naming.EVAL_RECORDS, what))
        return
    if metrics is None:
        return
    for key in RESAMPLED:
        one, two = metrics.get(key), ours.get(key)
        if (one is None) != (two is None) or (one is not None and two is not None and not abs(one - two) <= TOLERANCE):
            shown = " and ".join(f"{key} {'undefined' if value is None else format(value, '.6g')}" for value in (one, two))
            found.append(Damage(naming.RESULT, f"and {naming.EVAL_RECORDS} disagree: {shown}"))
            return
    if recorded is not None and recorded != (own := {key: value for key, value in metrics.items() if key not in UNSTABLE}):
        keys = sorted({*recorded, *own})
        shown = ", ".join(f"{key} {own.get(key)} and {recorded.get(key)}" for key in keys if recorded.get(key) != own.get(key))
        found.append(Damage(naming.RESULT, f"and {naming.EVAL_RECORDS} disagree: {shown}"))


def records_disagreement(records: Records) -> str:
    """Return why the arrays of an evaluation cannot belong together; empty if they can."""
    for side, names in (("det", ("image", "label", "score", "box")), ("gt", ("image", "label", "area", "crowd", "id", "box"))):
        arrays = [getattr(records, f"{side}_{name}") for name in names]
        if len({len(array) for array in arrays}) != 1 or arrays[-1].shape[1:] != (4,):
            return f"has {side} arrays of different lengths"
        if not np.isin(arrays[0], records.image_ids).all():
            return f"has {side} boxes on images that it does not list"
        if len(arrays[1]) and not (0 <= arrays[1].min() and arrays[1].max() < len(records.classes)):
            return f"has {side} boxes of classes that it does not list"
    if not (np.isfinite(records.det_score).all() and np.isfinite(records.det_box).all() and np.isfinite(records.gt_box).all()):
        return "holds numbers that are not finite"
    return ""


def check_distributions(trial: TrialDir, found: list[Damage]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(trial.file(naming.DISTRIBUTIONS), partitioning=None)
        if missing := _COLUMNS - set(table.column_names):
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        table.validate(full=True)
    except (pa.ArrowException, *UNREADABLE) as error:
        found.append(Damage(naming.DISTRIBUTIONS, reason_of(error)))
