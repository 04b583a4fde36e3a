"""Other strides, anchors, image sizes and candidates that leave fewer training boxes without a location."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.data.assignment import Assignment, Boxes, NearestOf, Pyramid, assign
from gfl_lab.metrics.boxdist import TARGET_MARGIN
from gfl_lab.spec.bins import reach
from gfl_lab.spec.settings import Settings

SCREENED = 5_000
"""Boxes that all settings are tried on; the best of them are counted on every box."""
NOTEWORTHY = 0.02
"""Share of the boxes from which on `plan` and `run` warn of it."""
ENOUGH = 0.005
"""Share of the boxes up to which fewer are no gain: then the cheaper settings are the better ones."""
BETTER = 0.8
"""Settings are worth a line where they leave at most this share of the boxes that are without a location now."""
CLIPPED = 0.01
"""Share of the sides beyond the last bin from which on a proposal mentions them."""
STRIDES = (4, 8, 16, 32, 64, 128)
ANCHOR_FACTORS = (0.5, 0.625, 0.75, 0.875, 1.25, 1.5, 2.0)
IMAGE_FACTORS = (0.5, 0.75, 1.25, 1.5, 2.0)
TOPKS = (5, 7, 12, 15)
KINDS = ("strides", "anchor_scale", "image_size", "atss_topk")


@dataclass(frozen=True)
class Proposal:
    """Settings that leave fewer boxes without a location.

    Attributes:
        settings: those that differ from the present ones.
        unassigned: boxes that they leave without a location.
        cost: one line on what they cost.
        clipped_share: share of the box sides beyond the last bin, of 1.
    """

    settings: dict[str, Any]
    unassigned: int
    cost: str
    clipped_share: float

    @property
    def yaml(self) -> str:
        """The settings as an experiment file or a profile has them."""
        return ", ".join(f"{key}: {naming.setting_text(value)}" for key, value in self.settings.items())


@dataclass(frozen=True)
class _Trial:
    """Other settings, and what they leave without a location.

    Attributes:
        change: the settings that differ.
        settings: all of them.
        effort: how far the change goes, as a sum of logarithms: of the factor in locations and pixels, up or down, and of that
            in ``anchor_scale`` and ``atss_topk``.
        unassigned, boxes: boxes without a location, of those looked at.
        clipped: share of the box sides beyond the last bin.
    """

    change: dict[str, Any]
    settings: Settings
    effort: float
    unassigned: int = 0
    boxes: int = 0
    clipped: float = 0.0

    @property
    def rank(self) -> tuple[float, ...]:
        """Sort key: settings that leave hardly any box, then those that leave few, small changes first; then by what they leave."""
        share = self.unassigned / max(1, self.boxes)
        if share <= ENOUGH:
            return 0, self.effort, share
        return (1, self.effort, share) if share <= NOTEWORTHY else (2, share, self.effort)


def propose(
    boxes: Boxes, settings: Settings, now: Assignment, nearest_of: NearestOf | None, progress: Callable[[int, int], None] | None
) -> tuple[list[Proposal], int]:
    """Return the best other settings, and how many were tried.

    All are tried on a sample; the best of each kind are counted on all boxes. Two kinds together are tried where one alone
    leaves too many.
    """
    sample = boxes.sample(SCREENED)
    current = now.unassigned if sample is boxes else assign(sample, Pyramid.of(settings), nearest_of).unassigned
    wanted = list(_changes(settings))
    done: list[_Trial] = []
    for number, trial in enumerate(wanted):
        done.append(_count(sample, trial, nearest_of))
        if progress:
            progress(number + 1, len(wanted))
    chosen = [trial for kind in KINDS for trial in _best([t for t in done if kind in t.change], current)]
    if chosen and min(trial.unassigned for trial in chosen) > NOTEWORTHY * len(sample):
        alone = min(trial.unassigned for trial in chosen)
        pairs = [
            _change(settings, one.change | other.change)
            for one, other in itertools.combinations(chosen, 2)
            if one.change.keys().isdisjoint(other.change)
        ]
        both = [_count(sample, trial, nearest_of) for trial in pairs if trial]
        done += both
        chosen += sorted((trial for trial in both if trial.unassigned <= BETTER * alone), key=lambda trial: trial.rank)[:2]
    if sample is not boxes:
        chosen = [_count(boxes, trial, nearest_of) for trial in chosen]
    chosen = sorted((trial for trial in chosen if trial.unassigned <= BETTER * now.unassigned), key=lambda trial: trial.rank)
    chosen = [trial for trial in chosen if not _is_superfluous(trial, chosen)]
    return [Proposal(t.change, t.unassigned, _cost(t, settings), _clip_of(t)) for t in chosen], len(done)


def _changes(settings: Settings) -> Iterator[_Trial]:
    """Return every single setting that is tried: more levels, other anchors, images and numbers of candidates."""
    long, short = settings.image_size
    levels = [STRIDES[first:last] for first, last in itertools.combinations(range(len(STRIDES) + 1), 2)]
    changes: list[dict[str, Any]] = [{"strides": strides} for strides in levels if set(strides) > set(settings.strides)]
    changes += [{"anchor_scale": float(f"{settings.anchor_scale * factor:.3g}")} for factor in ANCHOR_FACTORS]
    changes += [{"image_size": (round(long * factor), round(short * factor))} for factor in IMAGE_FACTORS]
    changes += [{"atss_topk": topk} for topk in TOPKS]
    for trial in (_change(settings, change) for change in changes):
        if trial and Pyramid.of(trial.settings) != Pyramid.of(settings):
            yield trial


def _change(settings: Settings, change: dict[str, Any]) -> _Trial | None:
    """Return settings with some changed; None where that breaks a rule."""
    try:
        other = Settings(**settings.model_dump() | change)
    except ValidationError:
        return None
    factors = (
        _locations(other) / _locations(settings),
        math.prod(other.image_size) / math.prod(settings.image_size),
        other.anchor_scale / settings.anchor_scale,
        other.atss_topk / settings.atss_topk,
    )
    return _Trial(change, other, sum(abs(math.log(factor)) for factor in factors))


def _locations(settings: Settings) -> float:
    """Return locations of the head for each pixel of the network input."""
    return sum(1 / stride**2 for stride in settings.strides)


def _count(boxes: Boxes, trial: _Trial, nearest_of: NearestOf | None) -> _Trial:
    found = assign(boxes, Pyramid.of(trial.settings), nearest_of)
    clipped = float((found.distances > reach(trial.settings, TARGET_MARGIN)).mean()) if found.distances.size else 0.0
    return replace(trial, unassigned=found.unassigned, boxes=len(boxes), clipped=clipped)


def _clip_of(trial: _Trial) -> float:
    """Return the share of clipped sides, for boxes made of bins."""
    return trial.clipped if trial.settings.box == "general" else 0.0


def _best(trials: Sequence[_Trial], current: int) -> list[_Trial]:
    """Return the change of one kind that leaves fewest, and the best of at most half its effort, if much better than today."""
    good = [trial for trial in trials if trial.unassigned <= BETTER * current]

    def order(trial: _Trial) -> tuple[float, ...]:
        return 0 if trial.unassigned <= ENOUGH * trial.boxes else trial.unassigned, trial.effort

    best = sorted(good, key=order)[:1]
    return best + sorted((trial for trial in good if best and trial.effort <= best[0].effort / 2), key=order)[:1]


def _is_superfluous(trial: _Trial, chosen: Sequence[_Trial]) -> bool:
    """Return True if another change of the same settings is listed that leaves fewer, and a smaller change leaves no more."""
    same = any(other.change.keys() == trial.change.keys() and other.unassigned < trial.unassigned for other in chosen)
    return same and any(other.unassigned <= trial.unassigned and other.effort < trial.effort for other in chosen)


def _cost(trial: _Trial, settings: Settings) -> str:
    """Return the price of the change, beyond new trials."""
    parts = []
    other = trial.settings
    if "strides" in trial.change:
        levels = len(other.strides) - len(settings.strides)
        ratio = _locations(other) / _locations(settings)
        parts.append(f"{levels} level{'s' if levels > 1 else ''} more, {ratio:.3g} times the locations")
    if "image_size" in trial.change:
        ratio = math.prod(other.image_size) / math.prod(settings.image_size)
        parts.append(f"{ratio:.2g} times the pixels" + (", less detail" if ratio < 1 else ""))
    if "anchor_scale" in trial.change:
        way = "coarser" if other.anchor_scale < settings.anchor_scale else "finer"
        parts.append(f"boxes move to {way} levels" if len(other.strides) > 1 else "other anchors for every box")
    if "atss_topk" in trial.change:
        parts.append(f"{'more' if other.atss_topk > settings.atss_topk else 'fewer'} candidates for every box")
    return ", ".join(parts)
