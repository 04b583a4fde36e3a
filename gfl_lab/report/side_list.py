"""A list of box sides to look at: the most bimodal, the widest, the worst placed, or those on which two variants disagree."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

BIMODALITY, WIDTH, ERROR, DISAGREEMENT = "bimodality", "width", "error", "disagreement"
ORDERS = (BIMODALITY, WIDTH, ERROR, DISAGREEMENT)
_COLUMN = {BIMODALITY: "bimodality", WIDTH: "spread", ERROR: "off", DISAGREEMENT: "disagreement"}


@dataclass(frozen=True)
class SideFilter:
    """The sides that a list holds.

    Attributes:
        category: of the box; empty for all. iou: least IoU of the box that is decoded at the location. score: least score.
    """

    category: str = ""
    iou: float = 0.0
    score: float = 0.0


def side_list(
    found: pd.DataFrame, order: str = BIMODALITY, only: SideFilter = SideFilter(), other: pd.DataFrame | None = None, limit: int = 60
) -> pd.DataFrame:
    """Return one side for each box, the first by ``order``; boxes with nothing to show in that order are left out.

    Args:
        found: as ``sides.sides`` returns it.
        order: of ``ORDERS``, from the largest value down.
        other: the same of another variant, for ``disagreement``: the distance of the two expectations of a side, px.

    Returns:
        The columns of ``found``, ``off`` (distance of the expectation from the annotated edge, px), ``disagreement`` (NaN where ``other``
        has no such side), and ``value``, what the rows are ordered by.
    """
    work = found.assign(off=found["error"].abs())
    key = ["annotation_id", "side"]
    if other is not None and len(other):
        work = work.merge(other[[*key, "error"]].rename(columns={"error": "other_error"}), on=key, how="left")
        work["disagreement"] = (work["error"] - work.pop("other_error")).abs()
    else:
        work["disagreement"] = float("nan")
    work["value"] = work[_COLUMN[order]].astype(float)
    keep = (work["value"] > 0) & (work["cell_iou"].fillna(0.0) >= only.iou) & (work["score"].fillna(0.0) >= only.score)
    if only.category:
        keep &= work["category"] == only.category
    ranked = work[keep].sort_values("value", ascending=False, kind="stable")
    return ranked.drop_duplicates("annotation_id").head(limit).reset_index(drop=True)
