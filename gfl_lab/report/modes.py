"""Modes of learned distributions as a table: each place where a trial believes a side of a box to be, in bins and in pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem
from gfl_lab.metrics import box_modes
from gfl_lab.metrics.bins import stored_positions
from gfl_lab.report.boxes import OUTWARD
from gfl_lab.results.distribution_files import LATER_COLUMNS

INPUT = (
    "image_id", "annotation_id", "category", "cell_x", "cell_y", "stride", "bin_width", "scale_x", "scale_y", "bins", "probs", "bin_positions",
)  # fmt: skip
"""The columns of distributions.parquet that ``modes_frame`` needs. Files of version 0.1 have no ``bin_positions``: bin i is at i there."""

_TYPES = {
    "image_id": "int64", "annotation_id": "int64", "category": "str", "box": "int64", "side": "str", "mode": "int64",
    "place": "float64", "place_px": "float64", "mass": "float64",
}  # fmt: skip
COLUMNS = tuple(_TYPES)


def modes_frame(frame: pd.DataFrame | None) -> pd.DataFrame:
    """Return one row for each mode of each side of each box.

    The pixel of a mode follows from the location (``cell_x``, ``cell_y``) at which the box's distributions were read::

        place_px = cell_x - place * stride * bin_width / scale_x    left;  right with + in place of -
        place_px = cell_y - place * stride * bin_width / scale_y    top;  bottom with + in place of -

    ``stride * bin_width`` is the unit of ``place`` in pixels of the network's input. ``scale_x`` and ``scale_y`` are the network's
    pixels for one pixel of the original image.

    Columns:

    - ``image_id``, ``annotation_id`` (-1: false positive), ``category``: those of the box.
    - ``box``: label of the box's row, for ``frame.loc[box]``.
    - ``side``: name of ``naming.SIDES``.
    - ``mode``: number of the mode, from 1.
    - ``place``: distance from the location to the mode (``box_modes.modes``), from the first to the last bin's position. In bins;
      with ``bins: weighted`` in strides, and below 0 where the mode lies on the other side of the location.
    - ``place_px``: x (left, right) or y (top, bottom) of the mode in pixels of the original image. It can lie outside the image.
    - ``mass``: probability of the mode, above 0 and at most 1. It sums to 1 over a side, but for rounding of float32.

    There are no rows for a box without a location, for Dirac and direct boxes, which have no distribution, and for a side whose
    probabilities are not finite.

    Args:
        frame: as ``Store.distributions`` returns it, with at least the columns ``INPUT``; also rows of several trials. None gives an
            empty table.

    Returns:
        The modes with ``COLUMNS``, in the order of ``frame``, then left, top, right, bottom, then from the first bin to the last.

    Raises:
        InputError: a column is missing, or the number of probabilities or positions does not match ``bins``.
    """
    if frame is None:
        return _empty()
    missing = [name for name in INPUT if name not in frame and name not in LATER_COLUMNS]
    if missing:
        hint = "Read all columns, or those of gfl_lab.report.modes.INPUT."
        raise InputError(Problem(f"the frame of box distributions has no column {', '.join(missing)}", hint=hint))
    located = np.isfinite(frame[["cell_x", "cell_y"]].to_numpy(np.float64)).all(1)
    stored = frame["bin_positions"] if "bin_positions" in frame else [None] * len(frame)
    alike: dict[tuple[float, ...] | int, list[int]] = {}  # rows by positions of their bins, or by the number of uniform bins
    for row, (bins, probs, value) in enumerate(zip(frame["bins"], frame["probs"], stored, strict=True)):
        if not located[row] or not len(probs):
            continue
        positions = stored_positions(value)
        if len(probs) != 4 * bins or (positions is not None and len(positions) != bins):
            given = f"{len(probs)} probabilities" + ("" if positions is None else f" and {len(positions)} positions")
            raise InputError(f"box {frame.index[row]!r} has {given} for {bins} bins: it must have 4 x {bins} and {bins}")
        alike.setdefault(int(bins) if positions is None else tuple(positions.tolist()), []).append(row)
    parts = [_modes_of(frame, np.array(rows), None if isinstance(key, int) else np.array(key)) for key, rows in alike.items()]
    if not parts:
        return _empty()
    found = pd.concat(parts).sort_values("row", kind="stable", ignore_index=True)
    return found[list(COLUMNS)]


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _TYPES.items()})


def _modes_of(frame: pd.DataFrame, rows: np.ndarray, positions: np.ndarray | None) -> pd.DataFrame:
    """Return the modes of these rows, whose bins all lie at the same positions; with ``row``, the row's number in the frame."""
    group = frame.iloc[rows]
    p = np.stack(group["probs"].to_numpy()).astype(np.float64).reshape(len(rows), 4, -1)
    found = box_modes.modes(p, positions)
    count = np.where(np.isfinite(p).all(axis=-1), found.count, 0)
    at, side, mode = np.nonzero(np.arange(found.place.shape[-1]) < count[..., None])
    axis = side % 2
    location = group[["cell_x", "cell_y"]].to_numpy(np.float64)[at, axis]
    scale = group[["scale_x", "scale_y"]].to_numpy(np.float64)[at, axis]
    unit = (group["stride"].to_numpy(np.float64) * group["bin_width"].to_numpy(np.float64))[at] / scale
    place = found.place[at, side, mode]
    columns = {name: group[name].to_numpy()[at] for name in ("image_id", "annotation_id", "category")}
    return pd.DataFrame(
        columns
        | {
            "row": rows[at], "box": group.index.to_numpy()[at], "side": np.array(naming.SIDES)[side], "mode": mode + 1, "place": place,
            "place_px": location + OUTWARD[side] * place * unit, "mass": np.minimum(found.mass[at, side, mode], 1.0),  # float32 probabilities can sum to a little more
        }
    )  # fmt: skip
