"""The end of an ablation: repairs, table, lock file, failures, and the last sync of the mirror."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import ExitCode
from gfl_lab.orchestrate import damaged as damages
from gfl_lab.orchestrate import driver
from gfl_lab.orchestrate.damaged import Damaged
from gfl_lab.report.exports import write_table
from gfl_lab.report.fairness import unfair
from gfl_lab.report.table import Table, build_table
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import TrialState
from gfl_lab.session.lock_file import LockFile
from gfl_lab.session.outcome import Outcome
from gfl_lab.session.plan_text import way_out
from gfl_lab.session.reporting import Reporter
from gfl_lab.session.standing import Standing
from gfl_lab.tracking.background import BackgroundMirror
from gfl_lab.wording import plural


class AblationEnd:
    """Reports how an ablation ended.

    Args:
        standing: where the trials stood when the session began.
        folder: of the experiment in the run tree.
        experiment: the file, for commands in messages.
    """

    def __init__(self, standing: Standing, folder: Path, reporter: Reporter, *, experiment: str) -> None:
        self.standing, self.tree, self.folder, self.experiment = standing, standing.tree, folder, experiment
        self.reporter, self.say = reporter, reporter.say

    def report(self, mirror: BackgroundMirror, *, stopped: bool, over_storage: bool, relock: bool) -> Outcome:
        """Write table and lock file, complete the mirror, and report what is missing.

        Args:
            stopped: a signal has ended the trials; then missing ones are no failure.
            over_storage: the trials ran on nodes that share a storage alone.
            relock: replace the lock file, whatever differs.
        """
        plan, before = self.standing.plan, self.standing.states
        repaired = self.standing.to_repair
        now = driver.states(plan.trials, self.tree)
        trained = any(
            before[trial.id] is not TrialState.DONE and now.get(trial.id) is TrialState.DONE
            for trial in self.standing.pending
            if trial.id not in repaired
        )
        damaged = self._repairs(over_storage=over_storage)
        store = Store(self.tree)
        row = store.experiment(plan.experiment.name, plan.profile.name)
        table = self._table(row, store)
        failed = self._failures(row)
        problems = unfair(row)
        for problem in problems:
            self.say(f"unfair: {problem}")
        lock = LockFile(self.folder, row, store, self.say, experiment=self.experiment)
        agrees = lock.settle(damaged, trained=trained, relock=relock)
        if not mirror.finish():
            self.say(f"warning: {mirror.shortfall}")
        self.say(f"table written to {self.folder} (json, md, csv, tex, html)")
        self.say(look_closer())
        elsewhere = sum(state is TrialState.RUNNING for state in now.values())
        if elsewhere:
            self.say(f"note: {plural(elsewhere, 'trial')} run by another process: the same command completes the table when it has ended")
        missing = any(state is not TrialState.DONE for state in now.values())
        if failed or (missing and not stopped):
            return Outcome(ExitCode.TRIALS_FAILED, table)
        return Outcome(ExitCode.UNFAIR if problems or damaged or not agrees else ExitCode.DONE, table)

    def _table(self, row: ExperimentRow, store: Store) -> Table:
        table = build_table(row, store.resampled_or_none)
        write_table(table, self.folder)
        self.reporter.table(table)
        return table

    def _failures(self, row: ExperimentRow) -> bool:
        """Print which trials failed; return whether any did."""
        rows = [*row.needed, *row.variants]
        failed = [(variant, trial) for variant in rows for trial in variant.trials if trial.state is TrialState.FAILED]
        for variant, trial in failed:
            failure = trial.failure
            at = f" at step {failure.step} (epoch {failure.epoch})" if failure and failure.step else ""
            kind, reason = (failure.kind, failure.reason) if failure else ("error", "")
            self.say(f"failed: {variant.name} seed {trial.seed} ({trial.id}): {kind}{at}: {reason}")
            self.say(f"        log: {self.tree.trial(trial.id).file(naming.LOG)}")
        if failed:
            self.say("the same command tries them again, from their last checkpoints; what each kind means: docs/failures.md")
        return bool(failed)

    def _repairs(self, *, over_storage: bool) -> Mapping[str, Damaged]:
        """Check every finished trial once more, and report what was repaired and what was not; return what is still damaged."""
        left = self.standing.damage_now()
        for trial, damage in self.standing.damaged.items():
            if trial not in left:
                before, now = damage.ap, damages.recorded_ap(self.tree.trial(trial))
                changed = "" if before == now else f"; AP was {'unreadable' if before is None else before}, and is {now}"
                self.say(f"repaired: trial {trial} ({damage}){changed}")
        for trial, damage in left.items():
            recorded = self.tree.trial(trial).state() is TrialState.DONE
            stand = "Its numbers are in the table as recorded. " if recorded else ""
            self.say(
                f"warning: trial {trial} is still damaged: {self._reason(damage, over_storage=over_storage)}\n"
                f"    {stand}{way_out(damage, self.tree)} and give the same command."
            )
        return left

    def _reason(self, damage: Damaged, *, over_storage: bool) -> str:
        """Return why a trial is still damaged."""
        if reason := damage.beyond_repair:
            return reason
        trial = self.tree.trial(damage.trial)
        failed = damages.failure(trial)
        if over_storage:
            failed = "over --storage no finished trial is; the same command without --address does it"
        return f"{damage}; it was not evaluated again" + (f": {failed}" if failed else f", see {trial.file(naming.LOG)}")


def look_closer() -> str:
    """Return the line on how to see the results: by commands, or by the addresses in GFL_LAB_PAGES."""
    if pages := os.environ.get("GFL_LAB_PAGES"):
        return f"look closer:  {pages}"
    return "look closer:  gfl-lab dashboard   or   gfl-lab mlflow"
