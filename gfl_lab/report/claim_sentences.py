"""The verdict on a claim in words: one sentence, what it rests on, and what would settle it."""

from __future__ import annotations

from collections.abc import Sequence

from gfl_lab.report.comparison import BETTER, EQUIVALENT, INCONCLUSIVE, WORSE, Comparison
from gfl_lab.report.formatting import about, format_number, p_text
from gfl_lab.report.noise import LEVEL
from gfl_lab.report.power import MAX_SEEDS
from gfl_lab.report.statistics import LARGEST, NO_LOOK, NO_RECORDS, NO_SIGNAL, NO_SPREAD, ONE_SEED
from gfl_lab.wording import joined, plural

TITLES = {BETTER: "Better", WORSE: "Worse", EQUIVALENT: "Equivalent", INCONCLUSIVE: "Inconclusive"}
NO_VERDICT = "No verdict"


def title(found: Comparison) -> str:
    """Return the verdict as a heading: ``Better``, ``Equivalent within ±0.3 AP``, ``No verdict: one seed``."""
    word = TITLES.get(found.verdict)
    if word is None:
        return f"{NO_VERDICT}: {found.verdict}"
    within = f" within ±{found.min_effect:g} AP" if found.verdict == EQUIVALENT else ""
    return word + within + (" (weak)" if found.weak else "")


def verdict(found: Comparison, variant: str, reference: str) -> str:
    """Return the verdict in one sentence, with the difference and its interval in AP points."""
    amount, interval = difference(found), interval_text(found)
    if found.verdict in (BETTER, WORSE):
        return f"{variant} is {found.verdict} than {reference}: {amount} AP points ({interval})."
    if found.verdict == EQUIVALENT:
        return f"{variant} and {reference} are equivalent within ±{found.min_effect:g} AP: they differ by {amount} AP points ({interval})."
    if found.verdict == INCONCLUSIVE:
        return f"It is open whether {variant} is better than {reference}: {amount} AP points ({interval})."
    if found.verdict in (NO_SIGNAL, NO_SPREAD, NO_RECORDS):
        return f"Nothing can be concluded on {variant} and {reference}, since {found.why}."
    if found.verdict == NO_LOOK:
        return f"{variant} differs from {reference} by {amount} AP points so far. {preliminary([found])}"
    return f"{variant} differs from {reference} by {amount} AP points ({interval}). One seed shows nothing of other seeds."


def difference(found: Comparison) -> str:
    """Return the difference with its sign: ``+2.3``."""
    return format_number("AP", found.found.mean, signed=True)


def interval_text(found: Comparison) -> str:
    """Return ``95% interval +1.2 to +3.4``; with one seed, what the choice of images alone makes uncertain; ``preliminary`` before a look."""
    if found.found.ends is not None:
        low, high = found.found.ends
        return f"95% interval {format_number('AP', low, True)} to {format_number('AP', high, True)}"
    half = found.found.image_half
    if half is not None and found.verdict == ONE_SEED:
        return f"± {format_number('AP', half)} for the choice of images alone"
    return "preliminary" if found.verdict == NO_LOOK else "no interval"


def preliminary(compared: Sequence[Comparison]) -> str:
    """Return the sentence on differences that have no verdict before the first look; empty if there are none. One metric at a time."""
    reasons = sorted({each.found.why for each in compared if each.verdict == NO_LOOK})
    if len(reasons) < 2:
        return "".join(f"Preliminary: {why}." for why in reasons)
    rows = {why: joined([each.variant for each in compared if each.found.why == why]) for why in reasons}
    return " ".join(f"Preliminary for {rows[why]}: {why}." for why in reasons)


def seeds(found: Comparison) -> str:
    """Return the number of seeds behind a difference: ``3 seeds``, or ``3 and 5 trainings`` where they do not pair."""
    groups = found.found.groups
    return plural(found.found.seeds, "seed") if groups is None else f"{groups.sizes[0]} and {groups.sizes[1]} trainings"


def basis(found: Comparison, val_images: int) -> str:
    """Return what the verdict rests on: seeds, images, p and its correction."""
    parts = [f"{seeds(found)}, {val_images:,} validation images"]
    if found.p is not None:
        corrected = f"after Holm's correction for {found.rows} rows" if found.rows > 1 else "(two-sided; one row, no correction)"
        sign = "" if p_text(found.p).startswith("<") else "= "
        parts.append(f"p {sign}{p_text(found.p)} {corrected}")
    return "; ".join(parts) + "."


def caveats(found: Comparison) -> list[str]:
    """Return the limits of the verdict, and what would settle an open one."""
    sentences = []
    if found.within and found.better is not None:
        sentences.append(f"The difference is shown to be smaller than ±{found.min_effect:g} AP, the smallest effect that matters.")
    if found.weak:
        sentences.append("Weak: two seeds hardly show how much seeds differ; take three or more.")
    if found.verdict == INCONCLUSIVE:
        if found.found.p is not None and found.found.p < 1 - LEVEL:
            sentences.append("The interval of this row alone leaves 0 out; corrected for all rows, p does not.")
        sentences.append(f"There is too little data to tell a difference, or to show that it lies within ±{found.min_effect:g} AP.")
    if found.verdict == ONE_SEED:
        sentences.append("To settle it: train two more seeds of both.")
    return [*sentences, *_power(found)]


def _power(found: Comparison) -> list[str]:
    """Return the smallest effect that this number of seeds shows; for an open question, also what the smallest that matters would need."""
    if found.detectable is None:
        return []
    seen = f"{seeds(found)} show a true difference of {format_number('AP', found.detectable)} AP or more 8 times in 10"
    if found.detectable > LARGEST:
        seen = f"{seeds(found)} are too few to show any difference 8 times in 10"
    if found.verdict != INCONCLUSIVE:
        return [f"{seen}."]
    least = f"{found.min_effect:g} AP"
    if found.images_needed is not None:
        images = f"{found.found.images:,} validation images show {found.images_resolve:.2g} AP at best"
        return [
            f"To settle it: {seen}. {images}, however many seeds; {least} would need about {about(found.images_needed):,} images at least."
        ]
    if found.needed is None:
        return [f"To settle it: {seen}; {least} would need more than {MAX_SEEDS:,} seeds."]
    return [f"To settle it: {seen}; {least} would need {plural(found.needed, 'seed')} of each row."]
