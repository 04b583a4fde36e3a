"""Check of a finished trial's files: they are whole, its own, and agree with each other.

The result of a finished trial is one file of several. The numbers of a table come from it, the intervals and every recomputed AP from
eval.npz, the pages from distributions.parquet. ``trial_check.damage`` reads all of them; ``trial_check.Checked`` keeps the trials that
have passed, by the stamps of their files, so that a run over thousands of trials reads only what has changed.
"""
