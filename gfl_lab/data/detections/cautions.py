"""Differences between detection files that their AP does not show: other images, other score thresholds, other limits of detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfl_lab.data.detections.check import MAX_DETS, Detections
from gfl_lab.data.detections.truth import Truth
from gfl_lab.metrics.coco_ap import mean_ap
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.metrics.score_threshold import APART, is_cut
from gfl_lab.wording import first_of, plural

COSTLY = 0.06
"""A threshold above this is warned of by itself: mmdet and detectron2 cut at 0.05, which costs little."""
COVERED = 0.95
"""A file that has detections on a smaller share of the images than another is warned of."""


@dataclass(frozen=True)
class Facts:
    """The shape of a file: images with detections, the lowest score, the most detections of an image, and whether a threshold cut it."""

    found: Detections
    images: np.ndarray
    lowest: float
    most: int
    cut: bool


def facts_of(found: Detections) -> Facts:
    """Return the facts of a file."""
    images, counts = np.unique(found.position, return_counts=True)
    lowest, most = (float(found.score.min()), int(counts.max())) if len(counts) else (0.0, 0)
    return Facts(found, images, lowest, most, is_cut(lowest, counts))


def cautions(files: Sequence[Detections], truth: Truth) -> list[str]:
    """Return a sentence for each caution, most important first. Empty files are named by their own notes."""
    facts = [facts_of(each) for each in files if len(each.score)]
    return [*_images(facts, truth), *_thresholds(facts, truth), *_limits(facts)] if facts else []


def _images(facts: Sequence[Facts], truth: Truth) -> list[str]:
    annotated = np.array(sorted(truth.boxes_of), np.int64)
    if not len(annotated):
        return []
    covered = {each.found.file: int(np.isin(annotated, each.images).sum()) for each in facts}
    most = max(covered.values())
    few = {file: count for file, count in covered.items() if count < COVERED * most}
    total = f"{len(annotated):,} images with annotated objects"
    if few:
        shown = _some([f"{file} on {count:,}" for file, count in few.items()])
        return [
            f"Other images: of {total}, the fullest file has detections on {most:,}, {shown}. Images without a detection count as missed objects."
        ]
    if most < COVERED * len(annotated):
        missing = len(annotated) - most
        return [
            f"Images without a detection: of {total}, no file has a detection on {missing:,} or more. If the detectors were not run on them, "
            "AP is too low: give the annotations of the images that they were run on."
        ]
    return []


def _thresholds(facts: Sequence[Facts], truth: Truth) -> list[str]:
    cut = [each for each in facts if each.cut]
    costly = [each for each in cut if each.lowest > COSTLY]
    levels = {each.found.file: each.lowest if each.cut else 0.0 for each in facts}
    differ = max(levels.values()) - min(levels.values()) > APART
    notes = []
    if costly or (differ and cut):
        named = costly if costly else [max(cut, key=lambda each: each.lowest)]
        shown = _some([f"{each.found.file} has no score below {each.lowest:.3g}" for each in named])
        notes.append(
            f"Score threshold: {shown}. AP counts detections of low scores too, so a threshold lowers it: write all from 0.001 on."
        )
    if differ and cut:
        low, high = min(levels.values()), max(levels.values())
        notes.append(
            f"Arms were cut at different scores, from {low:.3g} to {high:.3g}: their AP cannot be compared.{_cost(facts, high, truth)}"
        )
    return notes


def _cost(facts: Sequence[Facts], threshold: float, truth: Truth) -> str:
    """Return what the highest threshold would cost the fullest other file, measured."""
    full = min(facts, key=lambda each: each.lowest)
    kept = full.found.score >= threshold
    if kept.all():
        return ""
    records = full.found.records(truth)
    before, after = _ap(records), _ap(_kept(records, kept))
    return f" {full.found.file} has AP {before:.1f}, and {after:.1f} if it is cut at {threshold:.3g} too."


def _kept(records: Records, kept: np.ndarray) -> Records:
    import dataclasses

    names = ("det_image", "det_label", "det_score", "det_box", "det_area")
    return dataclasses.replace(records, **{name: getattr(records, name)[kept] for name in names})


def _ap(records: Records) -> float:
    return mean_ap(match(records).precision())


def _limits(facts: Sequence[Facts]) -> list[str]:
    above = [each for each in facts if each.most > MAX_DETS]
    if not above:
        return []
    dropped = [_dropped(each.found) for each in above]
    shown = _some([f"{each.found.file} up to {each.most:,}" for each in above])
    out = f"; {plural(sum(dropped), 'detection')} beyond that are left out" if sum(dropped) else ", and no class has more"
    return [f"More than {MAX_DETS} detections in an image: {shown}. As in COCO's evaluation the {MAX_DETS} best of each class count{out}."]


def _dropped(found: Detections) -> int:
    """Return how many detections are beyond the best of their image and class."""
    _, counts = np.unique(found.position * (int(found.label.max()) + 1) + found.label, return_counts=True)
    return int(np.maximum(counts - MAX_DETS, 0).sum())


def _some(texts: Sequence[str]) -> str:
    return first_of(texts, 3)
