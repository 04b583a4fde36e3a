"""Numbers and names as people read them, the same in every form: terminal, Markdown, LaTeX, HTML, dashboard.

A real minus sign is written. Each writer escapes text for its own language, since names come from files and are data, never markup.
"""

from __future__ import annotations

import unicodedata

from gfl_lab import naming
from gfl_lab.report.comparison import BETTER, EQUIVALENT, INCONCLUSIVE, WORSE, Comparison
from gfl_lab.report.power import MAX_SEEDS
from gfl_lab.report.statistics import LARGEST, NO_SIGNAL

MISSING = "–"
VERDICT_SIGNS = {BETTER: "▲", WORSE: "▼", EQUIVALENT: "=", INCONCLUSIVE: "?"}
"""A sign for each verdict, so that colour is not the only difference. All others have ``MISSING``."""


def digits_of(key: str) -> int:
    """Return the number of decimals of a metric; 3 for one that ``naming.METRICS`` does not have."""
    return naming.METRICS[key].digits if key in naming.METRICS else 3


def metric_title(key: str) -> str:
    """Return a metric's title; its key where ``naming.METRICS`` does not have it."""
    return naming.METRICS[key].title if key in naming.METRICS else key


def rounded(key: str, value: float) -> float:
    """Return a metric's value as it is printed."""
    return round(value, digits_of(key))


def format_number(key: str, value: float, signed: bool = False) -> str:
    """Return a metric's value with its digits and a real minus sign: 39.2, −0.3; ``signed`` adds the plus, except to zero."""
    return decimal(value, digits_of(key), signed)


def decimal(value: float, digits: int = 2, signed: bool = False) -> str:
    """Return a number with a real minus sign; ``signed`` adds the plus, except to zero."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return ("−" if text[0] == "-" else "+" if signed else "") + text[1:]


def format_size(value: float | None) -> str:
    """Return the size of a difference in AP points; ``> 100`` for one that no two detectors can have, an en dash for None."""
    return MISSING if value is None else f"> {LARGEST:g}" if value > LARGEST else format_number("AP", value)


def format_spread(key: str, mean: float, std: float | None, signed: bool = False) -> str:
    """Return ``39.2 ± 0.1``; ``39.2`` without a spread."""
    return format_number(key, mean, signed) + ("" if std is None else f" ± {format_number(key, std)}")


def one_line(text: str) -> str:
    """Return ``text`` without line breaks and control characters."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def shortened(text: str, most: int = 28) -> str:
    """Return at most ``most`` characters of ``text``; a longer one ends in an ellipsis."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def about(count: int) -> int:
    """Return a number of images with two significant digits, rounded up."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def p_text(p: float | None) -> str:
    """Return p as people read it; an en dash where there is none."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def needed_text(each: Comparison) -> str:
    """Return ``12 seeds``, ``≥ 330 images`` where no number of seeds suffices on these images, or an en dash where nothing is known."""
    if each.p is None:
        return MISSING
    if each.images_needed is not None:
        return f"≥ {about(each.images_needed)} images"
    return f"over {MAX_SEEDS} seeds" if each.needed is None else f"{each.needed} seeds"


def verdict_text(each: Comparison) -> str:
    """Return the verdict as people read it: ``better``, ``better, within ±0.3``, ``equivalent within ±0.3``; marked ``(weak)`` on two seeds."""
    if each.verdict == NO_SIGNAL:
        return each.verdict
    within = f"{'' if each.better is None else ','} within ±{each.min_effect:g}" if each.within else ""
    return each.verdict + within + (" (weak)" if each.weak else "")
