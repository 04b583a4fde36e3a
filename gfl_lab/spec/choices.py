"""Names that settings may have: forms of quality, and what may be replaced by a registered class."""

from __future__ import annotations

from collections.abc import Collection

from gfl_lab.spec.backbones import BACKBONES

OWN, MMDET = "gfl", "mmdet:"
"""``detector``: the GFL family, and the prefix of a config of mmdet's."""

IMPORTED = "imported"
"""Kind of an experiment of imported detections in plan.json, and the name of its profile."""

JOINT, NOT_JOINT = ("joint", "dgqp"), ("centerness", "none", "iou", "centerness_guided", "iou_guided")
"""Forms of ``quality`` with and without quality focal loss; the first is the one that ``qfl`` alone stands for."""

ASSIGNERS = ("fcos", "max_iou", "tal", "simota")
"""Assigners of gfl-lab's beside ATSS, which is ``ATSSAssigner`` or ``atss``."""

BUILT_IN: dict[str, Collection[str]] = {
    "head": ("GFLFamilyHead",),
    "cls_loss": ("auto", "varifocal"),
    "box_loss": ("giou", "diou", "ciou", "iou"),
    "assigner": ("ATSSAssigner", *ASSIGNERS),
    "backbone": BACKBONES,
}
"""Settings that may also name a registered class of the user's, and their values without one."""

INIT_FROM = "init_from"
TEACHER = "teacher"
ROLES = (INIT_FROM, TEACHER)
"""Settings that describe another trial, which must have finished before (needs.py)."""
