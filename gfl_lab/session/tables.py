"""The table of an ablation and the ranking of a search, from what is on disk."""

from __future__ import annotations

from gfl_lab.errors import InputError, StoreError
from gfl_lab.report.fairness import unfair
from gfl_lab.report.ranking import Ranking, rank
from gfl_lab.report.table import Table, build_table
from gfl_lab.results.search import read_search
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.lookup import Stored


def stored_table(tree: RunTree, found: Stored, min_effect: float | None = None) -> tuple[Table, list[str]]:
    """Return the table of an experiment that is no search, and where its variants differ in more than the declared axes.

    Args:
        min_effect: AP points, the smallest difference that matters; None for the experiment's own.

    Raises:
        InputError: its plan cannot be read.
    """
    store = Store(tree)
    try:
        row = store.experiment(found.name, found.profile)
    except StoreError as error:
        raise InputError(error.problems) from None
    return build_table(row, store.resampled_or_none, min_effect), list(unfair(row))


def stored_ranking(tree: RunTree, found: Stored) -> Ranking:
    """Return the ranked table of a search. Raises InputError if its records cannot be read."""
    try:
        return rank(read_search(tree, found.name, found.profile))
    except StoreError as error:
        raise InputError(error.problems) from None
