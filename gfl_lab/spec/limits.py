"""Limits of an experiment. The command line imports them for its help, so this module imports nothing."""

MAX_TRIALS = 10_000
"""Trials that are planned unless more are asked for (`--max-trials`)."""
