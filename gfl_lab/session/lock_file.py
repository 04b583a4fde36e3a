"""Bring a table's lock file up to date after a run: extend it, keep it, or replace it with ``relock``."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.table_lock import TableLock, read_table_lock, write_table_lock
from gfl_lab.report.lock import Comparison, compare, make_lock, without
from gfl_lab.report.table import build_table
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.store import Store
from gfl_lab.wording import plural

SHOWN = 10
"""Deviations that are listed; `gfl-lab verify` lists all."""


class LockFile:
    """The lock file of an experiment.

    Args:
        folder: of the experiment.
        row: the experiment as it is now. store: to read its trials.
        say: called with each message.
        experiment: the file, for commands in messages.
    """

    def __init__(self, folder: Path, row: ExperimentRow, store: Store, say: Callable[[str], None], *, experiment: str) -> None:
        self.path, self.beside = folder / naming.LOCK, folder / naming.NEW_LOCK
        self.row, self.store, self.say = row, store, say
        self._accept = f"Accept what is there now with:  gfl-lab run {experiment} --relock"

    def settle(self, damaged: Collection[str], *, trained: bool, relock: bool) -> bool:
        """Bring the lock file up to the table, as far as that is an extension of it; return whether the two agree.

        A missing one is made of the trials whose files are sound. One that is there is extended by trials that finished since.
        It is kept, and the numbers as they are now are written beside it, where a locked number differs. It is also kept where
        locked trials have left the plan and nothing was trained.

        Args:
            damaged: ids of finished trials whose files are damaged.
            trained: this run has trained trials.
            relock: replace it, whatever differs.
        """
        sound = without(self.row, damaged)
        now = make_lock(sound, build_table(sound, self.store.resampled_or_none), self.store.records_or_none)
        if relock or not self.path.exists():
            write_table_lock(self.path, now)
            self.beside.unlink(missing_ok=True)
            if damaged:
                self.say(f"note: {self.path.name} holds {plural(len(now.trials), 'trial')}; the damaged ones are not in it")
            return True
        comparison = self._compare(now, damaged)
        if comparison is None:
            return False
        if comparison.changed:
            write_table_lock(self.beside, now)
            self.say(f"warning: {plural(len(comparison.changed), 'deviation')} from {self.path.name}, which is kept:")
            self._list(comparison.changed)
            self.say(f"    The numbers as they are now: {self.beside}\n    {self._accept}")
            return False
        if damaged:
            return True  # sound trials are as locked; the damaged ones are reported elsewhere
        return self._extend(comparison, now, trained=trained)

    def _extend(self, comparison: Comparison, now: TableLock, *, trained: bool) -> bool:
        """Take in trials that finished since, and drop those that have left the plan, if anything was trained."""
        if comparison.dropped and not trained:
            self.say(f"warning: {self.path.name} is kept: it holds trials that have left the plan, and nothing was trained:")
            self._list(comparison.dropped)
            self.say(f"    {self._accept}")
            return False
        self.beside.unlink(missing_ok=True)
        if comparison.dropped:
            self.say(f"note: trials that have left the plan have left {self.path.name} too; the former one is {self._keep()}")
        if not comparison.equal:
            write_table_lock(self.path, now)
        return True

    def _compare(self, now: TableLock, damaged: Collection[str]) -> Comparison | None:
        """Return the comparison without the damaged trials; None, with a message, if the lock file cannot be read."""
        planned, rows = {trial.id for trial in self.row.trials}, {variant.name for variant in self.row.variants}
        try:
            result = compare(read_table_lock(self.path), now, planned, rows)
        except StoreError as error:
            self.say(f"warning: the lock file cannot be read, and is left as it is: {error.problems[0].message}\n    {self._accept}")
            return None
        if not damaged:
            return result
        changed = [
            each for each in result.changed if each.trial not in damaged and (each.trial or each.what in ("experiment", "profile", "data"))
        ]  # fmt: skip
        return replace(result, changed=tuple(changed))

    def _list(self, found: Collection[object]) -> None:
        for each in list(found)[:SHOWN]:
            self.say(f"    {each}")
        if len(found) > SHOWN:
            self.say(f"    and {len(found) - SHOWN} more, which `gfl-lab verify` lists")

    def _keep(self) -> Path:
        """Copy the lock file, named by its content, before it is replaced."""
        copy = self.path.parent / "previous" / f"table.lock-{hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]}.json"
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(self.path, copy)
        return copy
