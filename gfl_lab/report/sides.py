"""Every learned distribution in numbers: a row for each side of each ground-truth box, and what groups of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gfl_lab import naming
from gfl_lab.metrics import box_modes, boxdist
from gfl_lab.metrics.bins import stored_positions
from gfl_lab.metrics.coco_matching import AREAS
from gfl_lab.report.calibration import correlations

INPUT = (
    "image_id", "annotation_id", "category", "stride", "bin_width", "scale_x", "scale_y", "bins", "probs", "expectation", "target",
    "bin_positions", "ambiguous_side", "ambiguity", "cell_iou", "score", "gt_x1", "gt_y1", "gt_x2", "gt_y2",
)  # fmt: skip
"""The columns of distributions.parquet that ``sides`` needs."""

COLUMNS = (
    "image_id", "annotation_id", "category", "size", "side", "ambiguous", "neighbour", "entropy", "spread", "modes", "bimodality", "tail",
    "error", "cell_iou", "score",
)  # fmt: skip
GROUPS = {"side": "side", "class": "category", "size": "size", "neighbour": "neighbour", "ambiguous": "ambiguous"}
"""By what sides may be grouped: what it is called, and its column."""
NEAR = 0.1
"""A band along a side, this part of the box's extent wide to either hand: another box that reaches into it is a neighbour."""
MEASURES = ("entropy", "spread", "bimodal", "tail", "error")


def sides(frame: pd.DataFrame | None) -> pd.DataFrame:
    """Return a row for each side of each ground-truth box that has a distribution.

    Returns:
        ``COLUMNS``: size is small, medium or large, as COCO has them; ambiguous if the data have two edges here; neighbour
        whether another box of the image reaches into a band along this side (``NEAR``), as one does that hides it; entropy in nats
        and spread (standard deviation) in the unit of the distances, bins; modes, their number; bimodality 0 to 1; tail, the mass on the last bin; error,
        expectation minus annotated distance, in px of the image; cell_iou and score of the box, the same in its four rows.
    """
    if frame is not None:
        frame = frame[frame["annotation_id"] >= 0]
        frame = frame.assign(neighbour=list(neighbours(frame)))[frame["bins"] > 1]
    parts = []
    for bins, group in frame.groupby("bins") if frame is not None and len(frame) else ():
        group = group[[len(p) == 4 * bins for p in group["probs"]]]
        if not len(group):
            continue
        p = np.stack(group["probs"].to_numpy()).astype(np.float64).reshape(-1, 4, int(bins))
        whole = np.isfinite(p).all((1, 2))
        group, p = group[whole], p[whole]
        if not len(group):
            continue
        scale = group[["scale_x", "scale_y"]].to_numpy(float)[:, [0, 1, 0, 1]]
        unit = (group["stride"] * group["bin_width"]).to_numpy(float)[:, None] / scale
        gap = np.stack(group["expectation"].to_numpy()).astype(float) - np.stack(group["target"].to_numpy()).astype(float)
        area = ((group["gt_x2"] - group["gt_x1"]) * (group["gt_y2"] - group["gt_y1"])).to_numpy(float)
        size = np.select([area < AREAS["small"][1], area < AREAS["medium"][1]], ["small", "medium"], "large")
        values = {
            "entropy": boxdist.entropy(p), "spread": boxdist.spread(p, positions_of(group)), "modes": box_modes.modes(p).count, "bimodality": box_modes.bimodality(p),
            "tail": boxdist.tail_mass(p), "error": gap * unit,
        }  # fmt: skip
        of_box = {key: group[key].to_numpy() for key in ("image_id", "annotation_id", "category", "cell_iou", "score")} | {"size": size}
        columns = {key: np.repeat(value, 4) for key, value in of_box.items()} | {key: value.ravel() for key, value in values.items()}
        columns["side"] = np.tile(naming.SIDES, len(group))
        columns["ambiguous"] = (np.arange(4) == group["ambiguous_side"].to_numpy()[:, None]).ravel()
        columns["neighbour"] = np.stack(group["neighbour"].to_numpy()).ravel()
        parts.append(pd.DataFrame(columns)[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: [] for name in COLUMNS})


def positions_of(frame: pd.DataFrame) -> np.ndarray | None:
    """Return the positions of the bins of rows of one trial; None where bin i is at i."""
    return stored_positions(frame["bin_positions"].iloc[0]) if "bin_positions" in frame else None


def neighbours(frame: pd.DataFrame) -> np.ndarray:
    """Return (rows, 4) for each side of each box (``gt_x1`` to ``gt_y2``): True if another box of its image reaches into the band along it."""
    boxes = frame[["gt_x1", "gt_y1", "gt_x2", "gt_y2"]].to_numpy(float)
    images = frame["image_id"].to_numpy()
    found = np.zeros((len(frame), 4), bool)
    for image in np.unique(images):
        rows = np.flatnonzero(images == image)
        box = boxes[rows]
        width, height = (NEAR * (box[:, 2] - box[:, 0])), (NEAR * (box[:, 3] - box[:, 1]))
        x1, y1, x2, y2 = box.T
        bands = np.stack(
            [
                np.stack([x1 - width, y1, x1 + width, y2], 1), np.stack([x1, y1 - height, x2, y1 + height], 1),
                np.stack([x2 - width, y1, x2 + width, y2], 1), np.stack([x1, y2 - height, x2, y2 + height], 1),
            ], 1,
        )  # fmt: skip
        low = np.maximum(bands[:, :, None, :2], box[None, None, :, :2])
        high = np.minimum(bands[:, :, None, 2:], box[None, None, :, 2:])
        met = (high > low).all(-1)  # (n, 4, n)
        met[np.arange(len(rows)), :, np.arange(len(rows))] = False
        found[rows] = met.any(-1)
    return found


def grouped(found: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the means of groups of sides.

    Args:
        found: as ``sides`` returns it. by: columns; none for one row over all.

    Returns:
        ``by``, sides (their number), entropy, spread, bimodal (share with two modes or more, 0 to 1), tail, error (mean size of the
        expectation's error, px).
    """
    if not len(found):
        return pd.DataFrame({name: [] for name in (*by, "sides", *MEASURES)})
    work = found.assign(bimodal=found["modes"] >= 2, error=found["error"].abs(), sides=1)
    how = {"sides": "sum"} | dict.fromkeys(MEASURES, "mean")
    if not by:
        return pd.DataFrame([work.agg(how)])
    return work.groupby(list(by), sort=False, observed=True).agg(how).reset_index()


@dataclass(frozen=True)
class Agreement:
    """Agreement of the width of a box's distributions with its error: GFLv2's premise (arXiv 2011.12885, section 3).

    Correlations of the mean spread of a box's four sides with the IoU that its cell reaches; negative where narrow means good.
    None where there is none to give.
    """

    pearson: float | None
    spearman: float | None
    boxes: int


def agreement(found: pd.DataFrame) -> Agreement:
    """Return the agreement of the boxes in a frame that ``sides`` returned."""
    if not len(found):
        return Agreement(None, None, 0)
    boxes = found.groupby("annotation_id").agg({"spread": "mean", "cell_iou": "first"})
    return Agreement(*correlations(boxes["spread"].to_numpy(float), boxes["cell_iou"].to_numpy(float)), len(boxes))


TOP = 0.05
"""Share of the sides that counts as the most ambiguous ones."""
REPLICATES = 500


@dataclass(frozen=True)
class Coincidence:
    """Do ambiguous distributions stand where another box is close, as they would if it hides the edge?

    Attributes:
        sides: their number; beside, the share of them with a neighbour, 0 to 1.
        top: number of the most bimodal ones (``TOP`` of all, only such with two modes); top_beside, the share with a neighbour; None
            where none has two modes.
        auc: how often a side with a neighbour has a wider distribution (spread) than one without, of all such pairs: 0.5 where the two
            have nothing to do with each other (Mann and Whitney 1947). None where all sides are of one kind.
        low, high: its 95% interval over other choices of images (bootstrap). None with fewer than two images.
    """

    sides: int
    beside: float
    top: int
    top_beside: float | None
    auc: float | None
    low: float | None
    high: float | None


def coincidence(found: pd.DataFrame, seed: int = 0) -> Coincidence:
    """Return the coincidence of a frame that ``sides`` returned."""
    near = found["neighbour"].to_numpy(bool)
    if not len(near):
        return Coincidence(0, 0.0, 0, None, None, None, None)
    score = found["bimodality"].to_numpy(float)
    top = np.argsort(-score, kind="stable")[: max(1, round(TOP * len(score)))]
    top = top[score[top] > 0]
    _, rank = np.unique(found["spread"].to_numpy(float), return_inverse=True)
    _, image = np.unique(found["image_id"].to_numpy(), return_inverse=True)
    auc = _auc(rank, near, np.ones(len(near)))
    low = high = None
    images = image.max() + 1
    if auc is not None and images > 1:
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=REPLICATES)
        again = [value for times in drawn if (value := _auc(rank, near, times[image].astype(float))) is not None]
        low, high = (float(value) for value in np.quantile(again, [0.025, 0.975]))
    return Coincidence(len(near), float(near.mean()), len(top), float(near[top].mean()) if len(top) else None, auc, low, high)


def _auc(rank: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float | None:
    """Return the weighted share of (positive, other) pairs in which the positive one ranks higher, equal ranks counting half."""
    size = int(rank.max()) + 1
    of_positive, of_other = (np.bincount(rank[part], weight[part], size) for part in (positive, ~positive))
    pairs = of_positive.sum() * of_other.sum()
    return float(of_positive @ (np.cumsum(of_other) - of_other / 2) / pairs) if pairs else None
