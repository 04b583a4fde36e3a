"""Artifacts of a trial: box distributions, detections, images, logs."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gfl_lab import naming
from gfl_lab.data.annotations import read_annotations
from gfl_lab.data.findings import Findings
from gfl_lab.data.layout import escapes, image_file
from gfl_lab.errors import StoreError
from gfl_lab.metrics.coco_ap import RESAMPLED, resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.manifest import Manifest
from gfl_lab.results.cache import Stamp, StampedCache, stamp_of
from gfl_lab.results.reader import TreeReader
from gfl_lab.results.rows import Resampled
from gfl_lab.rundir import RunTree

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

_RESAMPLED_BYTES = 64 * 2**20
"""For AP on resampled images that is kept in memory; 24 kB a trial."""
_LOG_BYTES = 64 * 1024

_DAMAGED_ARRAYS = (OSError, KeyError, TypeError, ValueError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)
"""Exceptions of NumPy for a file that is no archive of these arrays."""


class ArtifactReader(TreeReader):
    """Reads what a trial has produced beside its numbers."""

    def __init__(self, tree: RunTree) -> None:
        super().__init__(tree)
        self._resampled: StampedCache[str, Resampled] = StampedCache(_RESAMPLED_BYTES, lambda found: found.nbytes)
        self._file_names: StampedCache[Path, dict[int, str]] = StampedCache()

    # --- distributions ---

    def distributions_stamp(self, trial_id: str) -> Stamp:
        """Return a stamp that changes with the trial's distributions; None while there are none. For callers that cache."""
        return stamp_of(self._tree.trial(trial_id).file(naming.DISTRIBUTIONS))

    def distributions(self, trial_id: str, columns: Sequence[str] | None = None, **where: int | str) -> pd.DataFrame | None:
        """Return the learned box distributions of a trial, one row a ground-truth box or kept false positive.

        Args:
            trial_id: 12 hex digits.
            columns: the only ones to read; all when None. Reading few is much cheaper: the probabilities are nearly the whole file.
                Columns of ``distribution_files.LATER_COLUMNS`` are left out where the file is older.
            where: keep the rows where a column has this value, e.g. ``image_id=3``.

        Returns:
            None while the trial has none. List columns hold float32 arrays.

        Raises:
            StoreError: the file is damaged, or has no such column.
        """
        path = self._tree.trial(trial_id).file(naming.DISTRIBUTIONS)
        if not path.exists():
            return None
        from gfl_lab.results import distribution_files

        try:
            return distribution_files.read(path, columns, where)
        except StoreError as error:
            raise StoreError(f"the distributions of trial {trial_id} have {self._reason(error)}") from None
        except distribution_files.DAMAGED as error:
            raise StoreError(f"the distributions of trial {trial_id} cannot be read: {self._reason(error)}") from None

    def history(self, trial_id: str, image_id: int, annotation_id: int) -> pd.DataFrame | None:
        """Return the distributions of one box after each epoch, with all columns of distributions.parquet and ``epoch`` (from 1).

        Returns:
            None while there is none, and where this box is not among those that are followed (``train.history``).

        Raises:
            StoreError: the file is damaged.
        """
        path = self._tree.trial(trial_id).file(naming.HISTORY)
        if not path.exists():
            return None
        from gfl_lab.results import distribution_files

        try:
            found = distribution_files.read(path, where={"image_id": image_id, "annotation_id": annotation_id})
        except (StoreError, *distribution_files.DAMAGED) as error:
            raise StoreError(f"the history of trial {trial_id} cannot be read: {self._reason(error)}") from None
        return found.sort_values("epoch").reset_index(drop=True) if len(found) else None

    # --- evaluation ---

    def records(self, trial_id: str) -> Records | None:
        """Return detections and ground truth of a finished trial, image by image; None while there are none. Raises StoreError."""
        return self._read_evaluation(trial_id, Records.of)

    def records_or_none(self, trial_id: str) -> Records | None:
        """Return ``records``; None too if the file is damaged."""
        try:
            return self.records(trial_id)
        except StoreError:
            return None

    def records_stamp(self, trial_id: str) -> Stamp:
        """Return a stamp that changes with the trial's records; None while there are none. For callers that cache."""
        return stamp_of(self._tree.trial(trial_id).file(naming.EVAL_RECORDS))

    def resampled(self, trial_id: str) -> Resampled | None:
        """Return a finished trial's AP on bootstrap samples of its images; None while there is none. Raises StoreError."""
        stamp = self.records_stamp(trial_id)
        if (held := self._resampled.get(trial_id, stamp)) is not None:
            return held
        found = self._read_evaluation(trial_id, _resampled)
        return None if found is None else self._resampled.put(trial_id, stamp, found)

    def resampled_or_none(self, trial_id: str) -> Resampled | None:
        """Return ``resampled``; None too if the file is damaged, so that a table appears without its intervals."""
        try:
            return self.resampled(trial_id)
        except StoreError:
            return None

    def _read_evaluation(self, trial_id: str, read: Callable[[Mapping[str, np.ndarray]], T]) -> T | None:
        path = self._tree.trial(trial_id).file(naming.EVAL_RECORDS)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return read(arrays)
        except _DAMAGED_ARRAYS as error:
            raise StoreError(f"the evaluation of trial {trial_id} cannot be read: {self._reason(error)}") from None

    # --- images and logs ---

    def image(self, trial_id: str, image_id: int) -> np.ndarray:
        """Return a validation image as the trial saw it: (height, width, 3), RGB, uint8, as stored (EXIF orientation is ignored, as in training).

        Raises:
            StoreError: the manifest or the image is missing or damaged, or the image's name leads out of its folder.
        """
        try:
            manifest = self._tree.trial(trial_id).manifest()
            folder = Path(manifest.paths.val_images)
        except StoreError as error:
            raise StoreError(f"trial {trial_id} has no place of its images: {self._reason(error)}") from None
        if manifest.is_imported:
            raise StoreError(f"trial {trial_id} is of imported detections, which come without images")
        name = self._file_name(trial_id, image_id, manifest)
        path = image_file(folder, name)
        if escapes(name) or not path.resolve().is_relative_to(folder.resolve()):
            raise StoreError(f"image {image_id} is called {name!r}, which leads out of the image folder; it is not opened")
        if not path.exists():
            raise StoreError(f"image {image_id} ({name}) is not in the data folder any more")
        from gfl_lab.data.pixels import ImageError, read_rgb

        try:
            return read_rgb(path, _white_level(manifest))
        except ImageError as error:
            raise StoreError(f"image {image_id} ({name}) cannot be read: {error.why}") from None

    def _file_name(self, trial_id: str, image_id: int, manifest: Manifest) -> str:
        try:
            frame = self.distributions(trial_id, ["file_name"], image_id=int(image_id))
        except StoreError:
            frame = None
        if frame is not None and len(frame):
            return str(frame["file_name"].iloc[0])
        # An image without boxes, or a trial without distributions yet.
        try:
            return self._names_of(Path(manifest.paths.val_annotations))[int(image_id)]
        except (StoreError, OSError, LookupError, TypeError, ValueError):
            raise StoreError(f"trial {trial_id} has no image {image_id}") from None

    def _names_of(self, annotations: Path) -> dict[int, str]:
        """Return the file names of images by id. Raises OSError, LookupError, TypeError or ValueError for damaged annotations."""
        stamp = stamp_of(annotations)
        if (held := self._file_names.get(annotations, stamp)) is not None:
            return held
        content = read_annotations(annotations, Findings(), annotations.name)
        if content is None:
            raise ValueError("damaged annotations")
        return self._file_names.put(annotations, stamp, {int(each["id"]): str(each["file_name"]) for each in content["images"]})

    def log_tail(self, trial_id: str, lines: int = 40) -> str:
        """Return the last lines of a trial's log, oldest first; empty when there is none."""
        path = self._tree.trial(trial_id).file(naming.LOG)
        if stamp_of(path) is None:
            return ""
        try:
            text = _read_tail(path, max(_LOG_BYTES, 400 * lines)).decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _resampled(arrays: Mapping[str, np.ndarray]) -> Resampled:
    """Return AP on resampled images from the arrays of an evaluation, of which it reads no others. Raises KeyError if one is missing."""
    # Files from before AP was resampled in the evaluation have the records alone.
    values = arrays["resampled"] if "resampled" in arrays else resample(match(Records.of(arrays)))
    return Resampled(dict(zip(RESAMPLED, values.T, strict=True)), len(np.unique(arrays["image_ids"])))


def _white_level(manifest: Manifest) -> int:
    """Return the white level of a trial's data; 0 if it is not known."""
    try:
        return manifest.data.white_level
    except StoreError:
        return 0


def _read_tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        file.seek(max(0, end - size))
        return file.read()
