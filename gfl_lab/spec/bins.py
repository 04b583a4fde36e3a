"""Positions of the bins of a variant's box distributions, and the unit of its distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfl_lab.metrics.bins import weighted_positions

if TYPE_CHECKING:
    from gfl_lab.spec.settings import Settings


def has_weighted_bins(settings: Settings) -> bool:
    """Return True if the box has non-uniform bins."""
    return settings.box == "general" and settings.bins == "weighted"


def bin_positions(settings: Settings) -> tuple[float, ...] | None:
    """Return the positions of the bins in strides where they are weighted; None where bin i is at i times ``unit_in_strides``."""
    if not has_weighted_bins(settings):
        return None
    return weighted_positions(settings.reg_max, settings.bins_a, settings.bins_c, settings.anchor_scale)


def unit_in_strides(settings: Settings) -> float:
    """Return the unit of all distances: ``bin_width``, or 1 for weighted bins, which have no one width."""
    return 1.0 if has_weighted_bins(settings) else settings.bin_width


def reach(settings: Settings, margin: float) -> float:
    """Return the largest distance that is learned unclipped, in strides.

    Args:
        margin: part of the last gap between bins that is left.
    """
    positions = bin_positions(settings)
    if positions is None:
        return (settings.reg_max - margin) * settings.bin_width
    return positions[-1] - margin * (positions[-1] - positions[-2])
