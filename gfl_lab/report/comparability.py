"""Whether variants of two experiments may be compared: the same validation images and annotations, and the same evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfl_lab.metrics.coco_records import Records
from gfl_lab.metrics.score_threshold import APART, visible_threshold
from gfl_lab.naming import setting_text
from gfl_lab.results.rows import ExperimentRow, VariantRow
from gfl_lab.spec.cfg_options import spread

Side = tuple[ExperimentRow, VariantRow, Records | None]
"""A variant with its experiment and the evaluation of one of its trials."""
PROTOCOL: Mapping[str, str] = {
    "score_thr": "score threshold",
    "nms_iou": "IoU of NMS",
    "nms_pre": "candidates of NMS",
    "max_dets": "detections of an image",
}
"""Settings of an evaluation that both must have alike. ``decode`` belongs to the variant: it may differ."""
_TEST_OPTIONS = "cfg_options.model.test_cfg"
_TOLERANCE = 1e-3
"""px, px^2: annotations that are closer are the same, written in another way."""


def not_comparable(sides: tuple[Side, Side], names: tuple[str, str]) -> str:
    """Return why two variants may not be compared, as a sentence; empty if they may.

    Args:
        sides: an evaluation that is None is not checked.
        names: of both, for the sentence.
    """
    why = _data(sides) or _evaluation(sides)
    return f"{names[0]} and {names[1]} are not comparable: {why}." if why else ""


def _data(sides: tuple[Side, Side]) -> str:
    (first, _, one), (second, _, two) = sides
    if first.data.classes != second.data.classes:
        return f"other data, {_classes(first)} and {_classes(second)}"
    if one is None or two is None or first.data.digest == second.data.digest:
        return ""
    images = set(one.image_ids.tolist()), set(two.image_ids.tolist())
    if images[0] != images[1]:
        both = len(images[0] & images[1])
        other = "another split" if first.data.name == second.data.name else f"other data ({first.data.name} and {second.data.name})"
        return f"{other}, {len(images[0])} and {len(images[1])} validation images, of which {both} have the same id"
    if not _same_annotations(one, two):
        return f"other annotations of the validation images ({len(one.gt_id)} and {len(two.gt_id)} boxes)"
    return ""


def _classes(experiment: ExperimentRow) -> str:
    shown = ", ".join(experiment.data.classes[:3]) + (", …" if len(experiment.data.classes) > 3 else "")
    return f"{len(experiment.data.classes)} classes ({shown})" if len(experiment.data.classes) != 1 else f"the class {shown}"


def _same_annotations(one: Records, two: Records) -> bool:
    """Return True if both evaluations have the same annotated boxes, whatever their order."""
    if len(one.gt_id) != len(two.gt_id):
        return False
    first, second = (np.argsort(each.gt_id, kind="stable") for each in (one, two))

    def differ(name: str) -> float:
        """Return the largest difference of a column, box by box."""
        values = getattr(one, name)[first].astype(np.float64) - getattr(two, name)[second].astype(np.float64)
        return float(np.abs(values).max(initial=0.0))

    exact = all(differ(name) == 0 for name in ("gt_id", "gt_image", "gt_label", "gt_crowd"))
    return exact and all(differ(name) <= _TOLERANCE for name in ("gt_box", "gt_area"))


def _evaluation(sides: tuple[Side, Side]) -> str:
    (first, variant, one), (second, reference, two) = sides
    if first.is_imported or second.is_imported:
        if one is None or two is None:
            return ""
        limits = [_threshold(*side) for side in sides]
        if abs(limits[0] - limits[1]) > APART:
            return f"another score threshold ({limits[0]:.3g} and {limits[1]:.3g})"
        return "" if one.max_dets == two.max_dets else f"other detections of an image ({one.max_dets} and {two.max_dets})"
    settings = [spread(each.settings) for each in (variant, reference)]
    found = [f"{title} {_values(settings, key)}" for key, title in PROTOCOL.items() if settings[0].get(key) != settings[1].get(key)]
    options = sorted({key for each in settings for key in each if key.startswith(_TEST_OPTIONS)})
    found += [f"{key} {_values(settings, key)}" for key in options if settings[0].get(key) != settings[1].get(key)]
    return f"another evaluation ({', '.join(found)})" if found else ""


def _threshold(experiment: ExperimentRow, variant: VariantRow, records: Records | None) -> float:
    """Return the score threshold of a variant: its setting, or of imported detections what they show; 0 where none shows."""
    if not experiment.is_imported and "score_thr" in variant.settings:
        return float(variant.settings["score_thr"])
    return 0.0 if records is None else visible_threshold(records.det_image, records.det_score)


def _values(settings: Sequence[Mapping[str, Any]], key: str) -> str:
    first, second = (setting_text(each[key]) if key in each else "not given" for each in settings)
    return f"{first} and {second}"
