"""Do scores say too much or too little of how a box lies, and do they put the better boxes first?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gfl_lab.report.answer import MOST_FIGURES, MOST_NAMES, Answer, names_of
from gfl_lab.report.calibration import FOUND_IOU, LEAST_IMAGES, Estimate, Reliability
from gfl_lab.report.formatting import decimal
from gfl_lab.wording import first_of

OVERCONFIDENT, UNDERCONFIDENT, WITHIN_NOISE, TOO_FEW = "overconfident", "underconfident", "within noise", "too few images"


def confidence(gap: Estimate | None) -> str:
    """Return what the mean score minus the mean IoU shows: the interval over other images decides; without one, nothing does."""
    if gap is None or gap.low is None or gap.high is None:
        return TOO_FEW
    if gap.low <= 0 <= gap.high:
        return WITHIN_NOISE
    return OVERCONFIDENT if gap.low > 0 else UNDERCONFIDENT


def calibration_answer(found: Mapping[str, Reliability]) -> Answer:
    """Return which variants are overconfident or underconfident, and how well their scores rank boxes by IoU.

    Args:
        found: by variant, of trials of one seed.
    """
    known = {name: each for name, each in found.items() if each.gap is not None}
    if not known:
        return Answer("No trial has detections, so scores cannot be held against the IoU.")
    sentences = []
    for verdict, than in ((OVERCONFIDENT, "above"), (UNDERCONFIDENT, "below")):
        of = {name: each for name, each in known.items() if confidence(each.gap) == verdict}
        if of:
            amount = _range([abs(each.gap.value) for each in of.values() if each.gap])
            names = names_of(list(of), len(known))
            sentences.append(f"Scores are {verdict} in {names}: their mean lies {amount} {than} the mean IoU.")
    level = [name for name, each in known.items() if confidence(each.gap) == WITHIN_NOISE]
    if level:
        sentences.append(f"In {names_of(level, len(known))} mean score and mean IoU agree within noise.")
    few = [name for name, each in known.items() if confidence(each.gap) == TOO_FEW]
    if few:
        sentences.append(
            f"Fewer than {LEAST_IMAGES} images have detections in {names_of(few, len(known))}: too few to compare score and IoU."
        )
    sentences += _at_some_scores(known)
    return Answer(" ".join([*sentences, _ranking(known)]), _reason(known))


def _at_some_scores(known: Mapping[str, Reliability]) -> list[str]:
    """Return sentences on bins of the score that differ from the variant's mean."""
    sentences = []
    for verdict in (OVERCONFIDENT, UNDERCONFIDENT):
        by_scores: dict[str, list[str]] = {}
        for name, each in known.items():
            scores = "" if confidence(each.gap) == verdict else _scores(each, verdict)
            if scores:
                by_scores.setdefault(scores, []).append(name)
        parts = [f"of {scores} in {names_of(names, len(known))}" for scores, names in by_scores.items()]
        if parts:
            sentences.append(f"{verdict.capitalize()} at scores {'; '.join(parts)}.")
    return sentences


def _scores(found: Reliability, verdict: str) -> str:
    """Return the scores whose bins are over- or underconfident, as ranges of bins beside each other: ``0.2 to 0.5, 0.8 to 0.9``."""
    shown = found.low > 0 if verdict == OVERCONFIDENT else found.high < 0
    change = np.flatnonzero(np.diff(np.concatenate([[False], shown, [False]]).astype(int)))
    return ", ".join(f"{found.edges[start]:.1f} to {found.edges[end]:.1f}" for start, end in zip(change[::2], change[1::2], strict=True))


def _ranking(known: Mapping[str, Reliability]) -> str:
    ranks = {name: each.rank.value for name, each in known.items() if each.rank is not None}
    if not ranks:
        return f"Scores or IoUs of the detections with an IoU of {FOUND_IOU:g} or more do not vary, so nothing is ranked."
    if len(ranks) > MOST_NAMES:
        figures = _range(list(ranks.values()))
    else:
        figures = ", ".join(f"{decimal(value)} ({name})" if len(known) > 1 else decimal(value) for name, value in ranks.items())
    return (
        f"Among detections with an IoU of {FOUND_IOU:g} or more, the score ranks boxes by their IoU with a correlation of {figures}; "
        "1 is the order of the IoU, 0 no order."
    )


def _reason(known: Mapping[str, Reliability]) -> str:
    gaps = [f"{name} {_figure(each.gap, signed=True)}" for name, each in known.items() if each.gap]
    ranks = [f"{name} {_figure(each.rank)}" for name, each in known.items() if each.rank]
    parts = [f"Mean score minus mean IoU of all detections, with the 95% interval over other images: {first_of(gaps, MOST_FIGURES)}."]
    if ranks:
        parts.append(
            f"Spearman's correlation of score and IoU, over detections with an IoU of {FOUND_IOU:g} or more: {first_of(ranks, MOST_FIGURES)}."
        )
    return " ".join([*parts, "One seed shows nothing of other seeds."])


def _figure(found: Estimate, signed: bool = False) -> str:
    """Return a value with its interval."""
    if found.low is None or found.high is None:
        return decimal(found.value, signed=signed)
    low, high = decimal(found.low, signed=signed), decimal(found.high, signed=signed)
    return f"{decimal(found.value, signed=signed)} ({low} to {high})"


def _range(values: Sequence[float]) -> str:
    low, high = decimal(min(values)), decimal(max(values))
    return low if low == high else f"{low} to {high}"
