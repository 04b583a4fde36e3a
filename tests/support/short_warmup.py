"""The warm-up of a trial, over after fewer seconds than a trustworthy measurement needs."""

from __future__ import annotations

from gfl_lab.train import warmup

SHORT_S = 0.5
"""Seconds of iterations, and of evaluation, at least."""


def measure(path: str, *, threads: int, loader_workers: int) -> None:
    """Warm the trial of the manifest in folder ``path`` up, as the real function does."""
    warmup.LEAST_S = SHORT_S
    warmup.measure(path, threads=threads, loader_workers=loader_workers)
