"""Boxes without a location to learn them, for `plan` and `run`: one line for each group of variants that has many."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.data.assignment import Pyramid
from gfl_lab.data.proposals import NOTEWORTHY
from gfl_lab.data.unassigned import VERSION, find_unassigned, training_boxes, why_not_analysed
from gfl_lab.plan.plan import Plan, Variant
from gfl_lab.records.files import write_json
from gfl_lab.records.manifest import DataPaths
from gfl_lab.rundir import RunTree
from gfl_lab.session.inputs import profile_argument
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.wording import first_of

MOST_BOXES = 50_000
"""Boxes that are looked at here; `data check` looks at all."""
MOST_GROUPS = 8
"""Groups of variants that are looked at."""
BESIDE = ("box", "reg_max", "bin_width", "bins", "bins_a", "bins_c", "flip_prob", "scale_range", "crop")
"""Settings that the report depends on, beside those of the assignment."""
NAMED = 2
"""Variants of a group that are named."""


def unassigned_groups(plan: Plan, paths: DataPaths, tree: RunTree) -> list[dict[str, Any]]:
    """Count the boxes that a plan's variants leave without a location; variants that assign boxes alike are one group.

    The result is kept in the run tree, under the digest of the data and the settings that decide.

    Args:
        plan: of ``prepare``.
        paths: of its data.

    Returns:
        For each group ``variants`` (names) and ``analysed``; and where that is true, ``Unassigned.to_dict()``, else ``reason``.

    Raises:
        DataError: the annotations cannot be read.
    """
    groups: dict[Pyramid | str, list[Variant]] = {}
    for variant in plan.variants:
        groups.setdefault(why_not_analysed(variant.settings) or Pyramid.of(variant.settings), []).append(variant)
    found, boxes, number = [], _Boxes(Path(paths.train_annotations)), 0
    for key, variants in groups.items():
        out: dict[str, Any] = {"variants": [variant.name for variant in variants]}
        number += isinstance(key, Pyramid)
        if not isinstance(key, Pyramid):
            out |= {"analysed": False, "reason": key}
        elif number > MOST_GROUPS:
            out |= {"analysed": False, "reason": f"only the first {MOST_GROUPS} kinds of assignment are looked at"}
        else:
            out |= _kept(variants[0].settings, key, plan.data.digest, boxes, tree)
        found.append(out)
    return found


def unassigned_lines(
    groups: Sequence[dict[str, Any]], plan: Plan, data: Path | None, beside: Path, notes: bool = True
) -> list[str]:  # fmt: skip
    """Return a warning for each group of variants that leaves more than 2% of the boxes without a location.

    Args:
        groups: of ``unassigned_groups``.
        plan: theirs.
        data: the folder that the user gave.
        beside: the experiment file's folder.
        notes: also name the groups that were not analysed.
    """
    own = resolve_settings(plan.profile.settings)
    lines = []
    for group in groups:
        names, alone = group["variants"], len(groups) == 1
        who = "" if alone else f" ({first_of(names, NAMED)})"
        if not group["analysed"]:
            if notes:
                lines.append(f"note: boxes without a location are not counted{who}: {group['reason']}")
        elif group["share"] > NOTEWORTHY:
            path = f" {shlex.quote(str(data))}" if data else ""
            like = all(group[key] == _plain(getattr(own, key)) for key in ("strides", "anchor_scale", "atss_topk", "image_size", "pad_to"))
            profile = shlex.quote(profile_argument(plan.profile.name, beside.resolve()))
            look = f". Causes and other settings:  gfl-lab data check{path} --profile {profile}" if like else ""
            lines.append(f"warning{who}: {group['summary']}{look}")
    return lines


def nearest_of(distances: Any, many: int) -> Any:
    """Return ``assignment.NearestOf``: the choice of training among locations at the same distance. Loads torch."""
    import torch

    return torch.from_numpy(distances).topk(many, dim=1, largest=False).indices.numpy()


class _Boxes:
    """The training boxes of a data set, read when they are needed."""

    def __init__(self, annotations: Path) -> None:
        self._annotations, self._boxes = annotations, None  # type: Path, Any

    def get(self) -> Any:
        if self._boxes is None:
            self._boxes = training_boxes(self._annotations)
        return self._boxes


def _kept(settings: Settings, pyramid: Pyramid, data_digest: str, boxes: _Boxes, tree: RunTree) -> dict[str, Any]:
    """Return the report on a group, from the run tree, or made and stored there."""
    values = settings.model_dump(mode="json")
    key = naming.digest([VERSION, MOST_BOXES, _plain(asdict(pyramid)), [values[key] for key in BESIDE]])
    file = tree.root / naming.DATA_DIR / ".checked" / f"unassigned-{data_digest}-{key}.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and kept.keys() >= {"analysed", "summary", "share", *asdict(pyramid).keys() - {"topk"}}:
            return kept
    except (OSError, ValueError):
        pass  # not there, or damaged: it is made again
    report = find_unassigned(boxes.get(), settings, most=MOST_BOXES, propose_above=1)
    if report.share > NOTEWORTHY / 2:  # worth loading torch, if locations are equally far from boxes
        report = find_unassigned(boxes.get(), settings, most=MOST_BOXES, propose_above=NOTEWORTHY, nearest_of=nearest_of)
    found = _plain(report.to_dict())
    write_json(file, found)
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: lists in place of tuples."""
    return json.loads(json.dumps(value))
