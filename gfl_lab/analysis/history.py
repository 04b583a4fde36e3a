"""The distributions of a few boxes after every epoch: when does a model learn that an edge has two places?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gfl_lab.analysis.distributions import SCHEMA
from gfl_lab.records.files import atomic_path

IMAGES = 12
"""Validation images that are followed: the first ones by id."""
HISTORY_SCHEMA = pa.schema([("epoch", pa.int32()), *SCHEMA])


class History:
    """history.parquet: rows as distributions.parquet has them, of ground-truth boxes of some images, with the epoch.

    Args:
        path: of the file; what it holds of this epoch and later ones, from before an interruption, is replaced.
        images: ids of all validation images.
    """

    def __init__(self, path: Path, images: Iterable[int]) -> None:
        self.path = path
        self.images = frozenset(sorted(images)[:IMAGES])

    def add(self, epoch: int, rows: Iterable[dict[str, Any]]) -> None:
        """Write what was seen after ``epoch`` (from 1). Boxes without a distribution leave no file."""
        kept = [
            {"epoch": epoch} | row for row in rows if row["annotation_id"] >= 0 and row["image_id"] in self.images and len(row["probs"])
        ]
        if not kept:
            return
        table = pa.Table.from_pylist(kept, schema=HISTORY_SCHEMA)
        with contextlib.suppress(FileNotFoundError, pa.ArrowException):  # a damaged one is begun anew: no training ends for it
            before = pq.read_table(self.path, schema=HISTORY_SCHEMA, partitioning=None)
            table = pa.concat_tables([before.filter(pc.less(before["epoch"], epoch)), table])
        with atomic_path(self.path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
