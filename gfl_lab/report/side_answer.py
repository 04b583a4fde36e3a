"""How often has a trial learned two places for an edge? Counts of sides, and of the edges that two annotators drew differently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gfl_lab.metrics.box_modes import MIN_MODE_MASS, MODE_TOLERANCE_BINS
from gfl_lab.metrics.truth_scores import MIN_EDGE_GAP_BINS, TruthScores, truth_scores
from gfl_lab.report.answer import Answer, agrees
from gfl_lab.report.formatting import format_number
from gfl_lab.report.sides import positions_of
from gfl_lab.wording import plural

EDGE_INPUT = (
    "annotation_id", "bins", "probs", "bin_positions", "expectation", "ambiguous_side", "edge_a", "edge_b", "prob_a", "scored",
)  # fmt: skip
"""The columns of distributions.parquet that ``edge_counts`` needs."""
_NO_DISTRIBUTION = {
    "dirac": "one distance for each side (a Dirac box)",
    "direct": "one distance for each side (a direct box)",
}


@dataclass(frozen=True)
class EdgeCounts:
    """Ambiguous sides that a trial could show as two modes, and those that it shows; clear sides, and those with two modes or more.

    They are the counts behind ``two_mode_recall`` and ``false_bimodality`` (``metrics.truth_scores``).
    """

    ambiguous: int
    found: int
    clear: int
    false: int


def edge_counts(frame: pd.DataFrame | None) -> EdgeCounts | None:
    """Return the counts of a trial's distributions (``EDGE_INPUT``); None without distributions, or without ambiguous sides."""
    if frame is None:
        return None
    frame = frame[(frame["annotation_id"] >= 0) & (frame["bins"] > 1)]
    if not len(frame) or not (frame["ambiguous_side"] >= 0).any():
        return None
    bins = int(frame["bins"].iloc[0])
    missing = [np.nan] * (4 * bins)
    scores = truth_scores(
        probs=[p if len(p) == 4 * bins else missing for p in frame["probs"]],
        expectation=list(frame["expectation"]),
        ambiguous_side=frame["ambiguous_side"].to_numpy(),
        edges=frame[["edge_a", "edge_b"]].to_numpy(float),
        prob_a=frame["prob_a"].to_numpy(float),
        scored=frame["scored"].to_numpy(bool),
        reg_max=bins - 1,
        positions=positions_of(frame),
    )
    return _counts(scores)


def _counts(scores: TruthScores) -> EdgeCounts:
    found = round((scores.two_mode_recall or 0.0) * scores.recall_sides)
    false = round((scores.false_bimodality or 0.0) * scores.clear_sides)
    return EdgeCounts(scores.recall_sides, found, scores.clear_sides, false)


def side_answer(found: pd.DataFrame, edges: EdgeCounts | None, trial: str, box: str) -> Answer:
    """Return how many sides of a trial have two modes, and how many ambiguous edges are found as two.

    Args:
        found: as ``sides.sides`` returns it; empty for a trial without distributions.
        edges: of the same trial; None for data without ambiguous edges.
        trial: its name in the sentence. box: the box form of its settings; empty for a detector that has none.
    """
    if not len(found):
        if box in ("general", "gaussian"):
            return Answer(f"{trial} has no side with a finite distribution: its outputs are NaN or infinite, or no box has a location.")
        gives = _NO_DISTRIBUTION.get(box, "no distribution of box sides")
        return Answer(f"{trial} predicts {gives}: no side can have two modes.", _why_two(edges is not None))
    bimodal, count = int((found["modes"] >= 2).sum()), len(found)
    sentence = f"{trial}: {bimodal:,} of {plural_of(count, 'side')} {agrees(bimodal, 'has', 'have')} two modes or more."
    if edges is None:
        return Answer(
            f"{sentence} The annotations give one edge a side, so they cannot tell whether a second mode is right.", _why_two(False)
        )
    if not edges.ambiguous:
        return Answer(f"{sentence} No ambiguous edge is wide enough to be two modes.", _why_two(True))
    sentence += (
        f" {edges.found:,} of {plural_of(edges.ambiguous, 'ambiguous edge')} {agrees(edges.found, 'is', 'are')} found as two modes"
        f" (two-mode recall {format_number('two_mode_recall', edges.found / edges.ambiguous)});"
        f" {edges.false:,} of {plural_of(edges.clear, 'clear side')} {agrees(edges.false, 'has', 'have')} a second mode that is false."
    )
    return Answer(sentence, _why_two(True))


def plural_of(count: int, noun: str) -> str:
    """Return ``1 side`` or ``1,200 sides``."""
    return plural(count, noun).replace(str(count), f"{count:,}", 1)


def _why_two(has_truth: bool) -> str:
    mode = f"A mode is a peak that stands apart and holds at least {MIN_MODE_MASS:.0%} of the mass."
    if not has_truth:
        return mode
    return (
        f"{mode} An ambiguous edge has two annotated places, at least {MIN_EDGE_GAP_BINS:g} bins apart; it is found if a mode lies within "
        f"{MODE_TOLERANCE_BINS:g} bin of each. Counts of one trial: they show nothing of other seeds."
    )
