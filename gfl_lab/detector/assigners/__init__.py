"""Assigners beside ATSS: which locations learn which box, each a class in a file of its own, for a whole batch at once.

==========  ==========================================================================================  ===================
type        a location learns a box if                                                                  needs predictions
==========  ==========================================================================================  ===================
fcos        it is inside, near the middle, and the box's size is its level's; the smallest box wins     no
max_iou     its anchor's IoU reaches a threshold, or is the box's highest                               no
tal         ``score^alpha * IoU^beta`` of its prediction is among the box's highest, and it is inside   yes
simota      the cost of its prediction is among the box's k least                                       yes
==========  ==========================================================================================  ===================

ATSS is in ``detector/assign.py``. It needs no prediction either.
"""

from __future__ import annotations

from typing import Any

from gfl_lab.detector.assigners.base import Assigner, Predictions
from gfl_lab.detector.assigners.fcos import Fcos
from gfl_lab.detector.assigners.max_iou import MaxIou
from gfl_lab.detector.assigners.simota import SimOta
from gfl_lab.detector.assigners.tal import Tal
from gfl_lab.detector.parts import build_part

ASSIGNERS: dict[str, type[Assigner]] = {"fcos": Fcos, "max_iou": MaxIou, "tal": Tal, "simota": SimOta}
"""The assigners by the ``type`` of a head's ``assigner``, which is the value of the setting."""


def build_assigner(config: str | dict[str, Any]) -> Assigner:
    """Return the assigner of a ``type``, or of ``{"type": ..., field: value, ...}``. Raises ValueError, naming what is wrong."""
    return build_part("assigner", ASSIGNERS, config)


__all__ = ["ASSIGNERS", "Assigner", "Predictions", "build_assigner"]
