"""Files of box distributions. This module alone of ``results`` needs pandas and pyarrow, so it is imported when one is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gfl_lab.errors import StoreError

DAMAGED = (pa.ArrowException, OSError)
"""Exceptions of a file that cannot be read."""
LATER_COLUMNS = ("bin_positions",)
"""Columns of distributions.parquet that files of earlier versions do not have."""


def read(path: Path, columns: Sequence[str] | None = None, where: Mapping[str, int | str] | None = None) -> pd.DataFrame:
    """Return rows of a file. List columns hold float32 arrays.

    Args:
        columns: the only ones to read; all when None. Of ``LATER_COLUMNS`` those that the file has.
        where: keep the rows in which these columns have these values.

    Raises:
        StoreError: the file has no such column. ArrowException, OSError: it is damaged.
    """
    where = where or {}
    known = set(pq.read_schema(path).names)
    columns = columns and [c for c in columns if c in known or c not in LATER_COLUMNS]
    if missing := [c for c in (*(columns or ()), *where) if c not in known]:
        raise StoreError(f"no column {', '.join(missing)}")
    filters = [(column, "==", value) for column, value in where.items()] or None
    # partitioning=None: a folder called `a=b` above the file is no column
    return pq.read_table(path, columns=list(columns) if columns else None, filters=filters, partitioning=None).to_pandas()
