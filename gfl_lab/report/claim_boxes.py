"""Ground-truth boxes whose learned distributions two variants are compared on, chosen by a rule that looks at both alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gfl_lab.report.bimodal import RANKING_INPUT, most_bimodal
from gfl_lab.report.boxes import BoxView, SideView
from gfl_lab.results.rows import VariantRow

CHOICE_INPUT = (*RANKING_INPUT, "level")
"""The columns of distributions.parquet that ``choose_boxes`` needs."""
MAX_BOXES = 2
_RANKED = 200
"""Sides that are looked at, the most bimodal first."""
_ROOM = 0.35
"""Surroundings that a picture shows on each side, as a share of the longer side of the boxes."""
_LEAST = 24.0
"""px: a picture shows at least so much of the image."""


@dataclass(frozen=True)
class ChosenBox:
    """A ground-truth box, and why it was chosen.

    Attributes:
        side: the most bimodal one, of ``naming.SIDES``; empty where no box has a side with two modes.
        of_variant: True if it is the variant's most bimodal side, False if the other's.
        bimodality: of ``side``, 0 to 1.
    """

    image_id: int
    annotation_id: int
    side: str = ""
    of_variant: bool = True
    bimodality: float = 0.0


@dataclass(frozen=True)
class BoxPair:
    """One ground-truth box as both variants see it.

    Attributes:
        image: (height, width, 3) RGB uint8; None where it cannot be read any more.
    """

    chosen: ChosenBox
    variant: BoxView
    reference: BoxView
    image: NDArray[np.uint8] | None = None

    @property
    def sides(self) -> list[tuple[SideView, SideView]]:
        """The four sides: (variant's, other's)."""
        return list(zip(self.variant.sides, self.reference.sides, strict=True))

    @property
    def window(self) -> tuple[float, float, float, float]:
        """The square of the image, xyxy px, that holds all boxes and their surroundings; it may reach beyond the image."""
        boxes = [box for box in (self.variant.gt, self.variant.prediction, self.reference.prediction) if box is not None]
        x1, y1, x2, y2 = (pick(box[corner] for box in boxes) for corner, pick in enumerate((min, min, max, max)))
        half = max(x2 - x1, y2 - y1, _LEAST) * (0.5 + _ROOM)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        return x - half, y - half, x + half, y + half


def learns_distributions(frame: pd.DataFrame | None) -> bool:
    """Return True if boxes of a trial have distributions of their sides. ``frame``: ``CHOICE_INPUT``, None for a trial that has none."""
    return frame is not None and bool((frame["bins"] > 1).any())


def why_none(variant: VariantRow, frame: pd.DataFrame | None) -> str:
    """Return why a variant's boxes have no distributions, as the rest of a sentence that its name begins."""
    if not variant.is_own_detector:
        return "is a detector of mmdet's that gives boxes and scores alone"
    if frame is None:
        return "has boxes and scores on record alone"
    return f"predicts one distance for each side (box: {variant.settings.get('box') or 'dirac'})"


def choose_boxes(variant: pd.DataFrame, reference: pd.DataFrame) -> list[ChosenBox]:
    """Return up to ``MAX_BOXES`` boxes that have sides in both trials: the one with the most bimodal side of each trial.

    If both are the same box, or one trial has no side with two modes, the next most bimodal side of either follows. Without any such side
    the first box of the annotations is taken. Empty where no box has sides in both.

    Args:
        variant, reference: ``CHOICE_INPUT`` of a trial of each, with the same seed.
    """
    common = [key for key in _with_sides(variant) if key in set(_with_sides(reference))]
    ranked = [
        [each for each in _ranking(frame, own) if (each.image_id, each.annotation_id) in set(common)]
        for frame, own in ((variant, True), (reference, False))
    ]
    first_of_each = [ranking[0] for ranking in ranked if ranking]
    rest = sorted((each for ranking in ranked for each in ranking[1:]), key=lambda each: -each.bimodality)
    found: dict[tuple[int, int], ChosenBox] = {}
    for each in [*first_of_each, *rest, *([ChosenBox(*min(common))] if common and not first_of_each else [])]:
        found.setdefault((each.image_id, each.annotation_id), each)
    return list(found.values())[:MAX_BOXES]


def _with_sides(frame: pd.DataFrame) -> list[tuple[int, int]]:
    """Return (image, annotation) of the ground-truth boxes that a location is matched to."""
    kept = frame[(frame["annotation_id"] >= 0) & (frame["level"] >= 0)]
    return [(int(image), int(annotation)) for image, annotation in zip(kept["image_id"], kept["annotation_id"], strict=True)]


def _ranking(frame: pd.DataFrame, of_variant: bool) -> list[ChosenBox]:
    rows = most_bimodal(frame, _RANKED).to_dict("records")
    return [ChosenBox(int(r["image_id"]), int(r["annotation_id"]), str(r["side"]), of_variant, float(r["bimodality"])) for r in rows]
