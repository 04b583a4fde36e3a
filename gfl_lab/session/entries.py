"""Functions that run in a process of their own, as ``module:function``. Read here at each use, so that a test can give others."""

from __future__ import annotations

TRIAL_ENTRY = "gfl_lab.train.trial:run_trial"
"""Trains and evaluates a trial."""

WARM_UP_ENTRY = "gfl_lab.train.warmup:measure"
"""Runs some iterations of a trial, for an estimate of its time and memory."""
