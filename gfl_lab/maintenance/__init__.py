"""Upkeep of a machine and its run tree: what can be deleted, and whether environment and runs are sound."""
