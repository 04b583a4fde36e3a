"""The score threshold of detections, as far as the detections show it."""

from __future__ import annotations

import numpy as np

CUT = 0.005
"""A lowest score from here on is that of a threshold, where detections are not limited by their number."""
FULL = 0.5
"""In this share of the images a detector gives as many detections as it ever does: it is limited by their number, not by a score."""
APART = 0.02
"""Thresholds that differ by more change AP too much for a comparison."""


def is_cut(lowest: float, counts: np.ndarray) -> bool:
    """Return True if a score threshold cut the detections.

    Args:
        lowest: lowest score. counts: (I,) detections of each image that has some.
    """
    most = int(counts.max()) if len(counts) else 0
    full = float((counts == most).mean()) if len(counts) else 0.0
    return lowest >= CUT and (full < FULL or most < 10)


def visible_threshold(image: np.ndarray, score: np.ndarray) -> float:
    """Return the lowest score of detections that a threshold cut; 0 where none shows.

    Args:
        image: (D,) id of each detection's image. score: (D,).
    """
    if not len(score):
        return 0.0
    lowest = float(score.min())
    return lowest if is_cut(lowest, np.unique(image, return_counts=True)[1]) else 0.0
