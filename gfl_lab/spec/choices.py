"""Names that settings may have: forms of quality, backbones, and what may be replaced by a registered class."""

from __future__ import annotations

JOINT, NOT_JOINT = ("joint", "dgqp"), ("centerness", "none", "iou", "centerness_guided", "iou_guided")
"""Forms of ``quality`` with and without quality focal loss; the first is the one that ``qfl`` alone stands for."""

BACKBONES = ("r18", "r34", "r50", "r101", "r18vd", "r34vd", "r50vd", "r101vd", "x101-32x4d", "x101-32x8d", "r2-101", "vit-adapter-s")
PRETRAINED_BACKBONES = ("r18", "r34", "r50", "r101", "x101-32x4d", "x101-32x8d", "r2-101", "vit-adapter-s")
"""Backbones with published weights that ``init_weights: pretrained`` can download (checkpoints/pretrained.py)."""
DCN_BACKBONES = ("r50", "r101", "x101-32x4d", "x101-32x8d", "r2-101")

BUILT_IN: dict[str, tuple[str, ...]] = {
    "head": ("GFLFamilyHead",),
    "cls_loss": ("auto",),
    "box_loss": ("giou", "diou", "ciou", "iou"),
    "assigner": ("ATSSAssigner",),
    "backbone": BACKBONES,
}
"""Settings that may also name a registered class of the user's, and their values without one."""
