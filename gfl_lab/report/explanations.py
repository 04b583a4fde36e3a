"""The notes below a table of comparisons: what its intervals and verdicts rest on, once each, as plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gfl_lab.report.comparison import EQUIVALENT, INCONCLUSIVE, Comparison
from gfl_lab.report.formatting import about
from gfl_lab.report.noise import LEVEL
from gfl_lab.report.statistics import LARGEST, NO_RECORDS, NO_SIGNAL, NO_SPREAD, ONE_SEED
from gfl_lab.wording import first_of

MOST_NAMES = 6
"""A sentence names so many rows; more are counted."""


def explain(comparisons: tuple[Comparison, ...]) -> list[str]:
    """Return the sentences that a reader needs for the comparisons of one metric."""
    sentences = []
    tested = [each for each in comparisons if each.p is not None]
    if tested:
        sentences += [_about_intervals(tested), *_about_verdicts(tested), *_about_spread(tested), *_about_images(tested)]
        if cut := [each.variant for each in tested if each.found.ends not in (None, (each.found.low, each.found.high))]:
            sentences.append(
                f"{_some(cut)}: the interval is cut at ±{LARGEST:g} AP, since no two detectors differ by more. JSON and CSV have the uncut ends."
            )
        if weak := [each.variant for each in tested if each.weak]:
            sentences.append(
                f"Weak: {_some(weak)} {_rest(weak)} on two seeds. Two numbers hardly show how much seeds differ; take three or more."
            )
        if blind := [each.variant for each in tested if each.found.image_variance is None]:
            sentences.append(f"The interval is over seeds alone for {_some(blind)}: how AP varies with the images was not looked up.")
    for verdict, title in ((NO_SIGNAL, "No signal"), (NO_SPREAD, "No spread over seeds"), (NO_RECORDS, "No interval")):
        reasons: dict[str, list[str]] = {}
        for each in comparisons:
            if each.verdict == verdict:
                reasons.setdefault(each.why, []).append(each.variant)
        for why, variants in reasons.items():
            subject = f"{comparisons[0].metric} shows nothing here, since {why}" if verdict == NO_SIGNAL else why
            out = (
                ". `gfl-lab run` evaluates such trials again, `gfl-lab import-results` imports them again, and `gfl-lab doctor` lists them"
                if "eval.npz" in why
                else ""
            )
            sentences.append(f"{title} for {_some(variants)}: {subject}{out}.")
    single = [each for each in comparisons if each.verdict == ONE_SEED]
    if single:
        images = any(each.found.image_half is not None for each in single)
        sentences.append(
            "With one seed there is no interval"
            + (": ± covers the choice of validation images alone. The spread over seeds is unknown." if images else ".")
        )
    return sentences


def _about_intervals(tested: Sequence[Comparison]) -> str:
    rows, least = tested[0].rows, f"{tested[0].min_effect:g}"
    several = f", corrected by Holm's method for {rows} rows" if rows > 1 else ""
    over = "over other seeds and other validation images" if any(each.found.image_variance is not None for each in tested) else "over seeds"
    return (
        f"The 95% interval is of the mean difference, {over}; p is two-sided{several}. "
        f'"detectable" is the smallest true difference that these seeds show in 8 of 10 cases, and "needed for {least} AP" how many '
        f"seeds would show {least} AP."
    )


def _about_verdicts(tested: Sequence[Comparison]) -> list[str]:
    """Return the meaning of verdicts without a difference, or with a small one."""
    least, verdicts = f"{tested[0].min_effect:g}", {each.verdict for each in tested}
    sentences = []
    if EQUIVALENT in verdicts:
        sentences.append(f"Equivalent: the difference is shown to lie within ±{least} AP, the smallest effect that matters.")
    if small := [each.variant for each in tested if each.within and each.better is not None]:
        sentences.append(f"Within ±{least} AP for {_some(small)}: there is a difference, and it is shown to be smaller than that.")
    if INCONCLUSIVE in verdicts:
        sentences.append(f"Inconclusive: too little data to tell a difference, or to show that it lies within ±{least} AP.")
    if alone := [each.variant for each in tested if each.verdict == INCONCLUSIVE and each.found.p is not None and each.found.p < 1 - LEVEL]:
        sentences.append(
            f"{_some(alone)}: the interval leaves 0 out, but it is of one row alone. With {tested[0].rows} rows, one does so by chance "
            "more often, and p is corrected for that."
        )
    return sentences


def _about_spread(tested: Sequence[Comparison]) -> list[str]:
    pooled = max(each.found.rows for each in tested)
    guarded = [each.variant for each in tested if each.found.guarded]
    sentences = []
    if any(each.found.groups for each in tested):
        return ["Arms are compared as independent groups of trainings over the same images, each with its own spread (Welch)."]
    if pooled > 1:
        sentences.append(f"How much seeds differ is pooled over {pooled} rows" + (" that have two seeds or more." if not guarded else "."))
    if guarded:
        sentences.append(f"{_some(guarded)}: seeds differ far more here than in the other rows, so the interval rests on this row alone.")
    return sentences


def _about_images(tested: Sequence[Comparison]) -> list[str]:
    """Return the smallest difference that the images show, and how many images more are needed, for rows that no number of seeds helps."""
    limited = [each for each in tested if each.images_needed is not None]
    if not limited:
        return []
    detectable = [(f"{each.images_resolve:.2g}", each.images_resolve) for each in limited if each.images_resolve is not None]
    counts = [(f"{about(each.images_needed):,}", float(each.images_needed)) for each in limited if each.images_needed is not None]
    resolve, needed = _range(detectable), _range(counts)
    images = limited[0].found.images
    who = "" if len(limited) == len(tested) else f" for {_some([each.variant for each in limited])}"
    return [
        f"{limited[0].min_effect:g} AP{who}: not with {images:,} validation images, however many seeds. The smallest difference that they can show is {resolve} AP; "
        f"it takes at least about {needed} images."
    ]


def _range(values: Sequence[tuple[str, float]]) -> str:
    """Return ``low to high`` of (text, number) pairs."""
    low, high = (pick(values, key=lambda each: each[1])[0] for pick in (min, max))
    return low if low == high else f"{low} to {high}"


def _some(names: Iterable[str]) -> str:
    return first_of(names, MOST_NAMES)


def _rest(names: Sequence[str]) -> str:
    return "rests" if len(names) == 1 else "rest"
