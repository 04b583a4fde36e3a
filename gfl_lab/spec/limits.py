"""Limits of an experiment. The command line imports them for its help, so this module imports nothing."""

MAX_TRIALS = 10_000
"""Trials that are planned unless more are asked for (`--max-trials`)."""

LOOKS = (2, 3, 4, 6, 8)
"""Numbers of seeds at which a table is looked at, where seeds are trained until each row has a verdict and no looks are given."""
MOST_SEEDS = 100
"""The most seeds that a look may have."""
