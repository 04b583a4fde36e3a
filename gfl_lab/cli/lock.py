"""Bring a table's lock file up to date after a run: extend it, keep it, or replace it when told to."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfl_lab import naming
from gfl_lab.cli.output import plural, say
from gfl_lab.errors import StoreError

if TYPE_CHECKING:  # the command line starts without them
    from gfl_lab.records.table_lock import TableLock
    from gfl_lab.report.lock import Comparison
    from gfl_lab.results.rows import ExperimentRow
    from gfl_lab.results.store import Store

SHOWN = 10
"""Deviations that are listed; `gfl-lab verify` lists all."""


def settle(
    row: ExperimentRow, store: Store, folder: Path, *, damaged: Collection[str], trained: bool, relock: bool, experiment: str
) -> bool:
    """Bring the lock file up to the table, as far as that is an extension of it; say what is not done.

    A missing one is made of the trials whose files are sound. One that is there is extended by trials that finished since. It is
    kept, and the numbers as they are now are written beside it, where a locked number differs; and it is kept where locked trials have
    left the plan and nothing was trained.

    Args:
        row: the experiment. store: to read its trials. folder: of the experiment.
        damaged: ids of finished trials whose files are damaged. trained: whether this run has trained anything.
        relock: whether to replace it, whatever differs. experiment: the file, for the messages.

    Returns:
        Whether the lock file and the table agree.
    """
    from gfl_lab.records.table_lock import read_table_lock, write_table_lock
    from gfl_lab.report.lock import make_lock, without
    from gfl_lab.report.table import build_table

    path, beside = folder / naming.LOCK, folder / naming.NEW_LOCK
    sound = without(row, damaged)
    found = make_lock(sound, build_table(sound, store.resampled_or_none), store.records_or_none)
    if relock or not path.exists():
        write_table_lock(path, found)
        beside.unlink(missing_ok=True)
        if damaged:
            say(f"note: {path.name} holds {plural(len(found.trials), 'trial')}; the damaged ones are not in it")
        return True
    accept = f"Accept what is there now with:  gfl-lab run {experiment} --relock"
    try:
        comparison = _compare(read_table_lock(path), found, row, damaged)
    except StoreError as error:
        say(f"warning: the lock file cannot be read, and is left as it is: {error.problems[0].message}\n    {accept}")
        return False
    if comparison.changed:
        write_table_lock(beside, found)
        say(f"warning: {plural(len(comparison.changed), 'deviation')} from {path.name}, which is kept:")
        _list(comparison.changed)
        say(f"    The numbers as they are now: {beside}\n    {accept}")
        return False
    if damaged:
        return True  # what is sound is as locked; what is not is told elsewhere
    if comparison.dropped and not trained:
        say(f"warning: {path.name} is kept: it holds what the plan does not have any more, and nothing was trained:")
        _list(comparison.dropped)
        say(f"    {accept}")
        return False
    beside.unlink(missing_ok=True)
    if comparison.dropped:
        copy = _keep(path, folder)
        say(f"note: what has left the plan has left {path.name} too; the former one is {copy}")
    if not comparison.equal:
        write_table_lock(path, found)
    return True


def _compare(locked: TableLock, found: TableLock, row: ExperimentRow, damaged: Collection[str]) -> Comparison:
    """The comparison without the damaged trials, whose numbers stand in no row either."""
    from dataclasses import replace

    from gfl_lab.report.lock import compare

    result = compare(locked, found, {trial.id for trial in row.trials}, {variant.name for variant in row.variants})
    if not damaged:
        return result
    changed = [
        each for each in result.changed if each.trial not in damaged and (each.trial or each.what in ("experiment", "profile", "data"))
    ]
    return replace(result, changed=tuple(changed))


def _list(found: Collection[Any]) -> None:
    for each in list(found)[:SHOWN]:
        say(f"    {each}")
    if len(found) > SHOWN:
        say(f"    and {len(found) - SHOWN} more, which `gfl-lab verify` lists")


def _keep(path: Path, folder: Path) -> Path:
    """A copy of a lock file that is about to be replaced, named by its content."""
    import hashlib

    copy = folder / "previous" / f"table.lock-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.json"
    copy.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, copy)
    return copy
