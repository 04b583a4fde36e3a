"""Runs of fake trials: without the check of finished trials' files, since fakes have no detections."""

from __future__ import annotations

from gfl_lab import integrity
from gfl_lab.orchestrate import damaged


def skip_checks() -> None:
    """Take every finished trial for whole, in this process."""
    damaged.damage = integrity.damage = lambda trial: []
