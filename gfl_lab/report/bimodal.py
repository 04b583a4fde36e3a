"""The most bimodal sides of a trial's ground-truth boxes, as a ranking to pick from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gfl_lab import naming
from gfl_lab.metrics import box_modes
from gfl_lab.report.sides import neighbours, positions_of

Array = NDArray[np.float64]
RANKING_INPUT = (
    "image_id", "annotation_id", "category", "stride", "bin_width", "scale_x", "scale_y", "bins", "probs", "bin_positions",
    "ambiguous_side", "ambiguity", "edge_a", "edge_b", "cell_iou", "gt_x1", "gt_y1", "gt_x2", "gt_y2",
)  # fmt: skip
"""The columns of distributions.parquet that ``most_bimodal`` needs."""
RANKING_COLUMNS = (
    "image_id", "annotation_id", "category", "side", "bimodality", "gap_px", "true_gap_px", "ambiguity", "neighbour", "cell_iou",
)  # fmt: skip


def most_bimodal(frame: pd.DataFrame | None, limit: int = 50) -> pd.DataFrame:
    """Return the sides of ground-truth boxes, most bimodal first, without sides of one mode.

    Returns:
        ``RANKING_COLUMNS``: ``side`` is a name of ``naming.SIDES``; ``bimodality`` 0 to 1 (``box_modes.bimodality``);
        ``gap_px`` the distance of the two heaviest modes in px of the original image; ``true_gap_px`` that of the two
        true edges when this is the ambiguous side, else NaN; ``ambiguity`` why it is ambiguous, empty when it is not;
        ``neighbour`` whether another annotated box is beside this side (``sides.neighbours``). Empty for a Dirac box, and for None.
    """
    empty = pd.DataFrame(
        {name: pd.Series(dtype="object" if name in ("category", "side", "ambiguity") else "float64") for name in RANKING_COLUMNS}
    )
    if frame is None or not len(frame):
        return empty
    frame = frame[frame["annotation_id"] >= 0]
    frame = frame.assign(near=list(neighbours(frame)))[frame["bins"] > 1].reset_index(drop=True)
    if not len(frame):
        return empty
    parts = []
    for bins, group in frame.groupby("bins"):
        usable = group[[len(p) == 4 * bins for p in group["probs"]]]
        if not len(usable):
            continue
        p = np.stack(usable["probs"].to_numpy()).astype(np.float64).reshape(-1, int(bins))
        p = np.where(np.isfinite(p), p, 0.0)
        score = box_modes.bimodality(p).reshape(-1, 4)
        rows, sides = np.nonzero(score > 0)
        if not len(rows):
            continue
        order = np.argsort(-score[rows, sides], kind="stable")[:limit]
        rows, sides = rows[order], sides[order]
        found = box_modes.modes(p.reshape(-1, 4, int(bins))[rows, sides], positions_of(usable))
        picked = usable.iloc[rows].reset_index(drop=True)
        scale = np.where(sides % 2 == 0, picked["scale_x"], picked["scale_y"])
        unit = picked["stride"].to_numpy(float) * picked["bin_width"].to_numpy(float) / scale
        true = picked["ambiguous_side"].to_numpy() == sides
        parts.append(
            pd.DataFrame(
                {
                    "image_id": picked["image_id"],
                    "annotation_id": picked["annotation_id"],
                    "category": picked["category"],
                    "side": [naming.SIDES[side] for side in sides],
                    "bimodality": score[rows, sides],
                    "gap_px": _gap(found) * unit,
                    "true_gap_px": np.where(true, np.abs(picked["edge_a"] - picked["edge_b"]) * unit, np.nan),
                    "ambiguity": np.where(true, picked["ambiguity"], ""),
                    "neighbour": np.stack(picked["near"].to_numpy())[np.arange(len(picked)), sides],
                    "cell_iou": picked["cell_iou"].astype(float),
                }
            )
        )
    if not parts:
        return empty
    return pd.concat(parts).sort_values("bimodality", ascending=False, kind="stable").head(limit).reset_index(drop=True)


def _gap(found: box_modes.Modes) -> Array:
    """Return the distance between the two heaviest modes of each distribution."""
    pair = np.argsort(-found.mass, axis=1, kind="stable")[:, :2]
    places = np.take_along_axis(found.place, pair, 1)
    return np.abs(places[:, 0] - places[:, -1])
