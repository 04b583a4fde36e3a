"""One experiment under one profile, brought up to date on a server: its parent run, and a child run for each trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import FormatError, Problem
from gfl_lab.records.metric_lines import read_metric_lines
from gfl_lab.records.result import Done
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.tracking import mlflow_payload
from gfl_lab.tracking.mlflow_payload import Plan, Trial
from gfl_lab.tracking.server import PATIENCE_S, MirrorError, Run, Server, StorageError, file_stamp

SETTLED_S = 2.0
"""A folder's time of change is trusted once it is this old: later changes within one clock tick would not show."""

UPLOAD_FAILURES = 5
"""So many files that could not be stored, and no other is tried in the same round."""

PARENT = ""
"""Key of the parent run among the runs, which have their trial's id."""


@dataclass
class SyncReport:
    """The report of one sync."""

    runs: int = 0
    points: int = 0
    artifacts: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    """Trials that were left out because this version cannot read them."""

    def __str__(self) -> str:
        if not (self.runs or self.points or self.artifacts):
            return f"up to date ({self.seconds:.1f} s)"
        return f"{self.runs} new runs, {self.points} metric values and {self.artifacts} files sent in {self.seconds:.1f} s"


@dataclass(frozen=True)
class _Seen:
    """A trial that needs no look as long as its folder is the same."""

    changed: int | None  # modification time of the folder, ns; None: there is none
    state: TrialState


class ExperimentMirror:
    """Mirrors one experiment. It keeps a list of what the server has, so that a round sends only what is new; ``forget`` clears it."""

    def __init__(self, tree: RunTree, experiment: str, profile: str) -> None:
        self.tree, self.experiment, self.profile = tree, experiment, profile
        self.behind = 0
        """Trials that have run but are not complete on the server, as far as is known."""
        self._plan_stamp: tuple[int, int] | None = None
        self._plan: Plan | None = None
        self._id = ""  # of the MLflow experiment
        self._listed = False
        self._runs: dict[str, Run] = {}
        self._seen: dict[str, _Seen] = {}
        self._complete: set[str] = set()
        self._not_stored: list[Problem] = []

    def plan(self) -> Plan:
        """Return the plan as it is now. Raises StoreError when there is none."""
        path = self.tree.experiment(self.experiment, self.profile) / naming.PLAN
        stamp = file_stamp(path)
        if self._plan is None or stamp != self._plan_stamp or stamp is None:
            self._plan = mlflow_payload.read_plan(self.tree, self.experiment, self.profile)
            self._plan_stamp = stamp
            self._seen.clear()
        return self._plan

    def forget(self) -> None:
        """Drop what is known of the server: a call failed, another mirror has written, or it is another server."""
        self._listed = False
        self._runs.clear()
        self._seen.clear()

    def sync(self, server: Server, final: bool, report: SyncReport) -> None:
        """Send what is missing. Raises MirrorError."""
        plan = self.plan()
        self._not_stored.clear()
        states, open_trials = self._look(plan, report)
        self.behind = sum(trial.id not in self._complete for trial, _ in open_trials)
        if not self._listed:
            self._list(server)
        parent = self._parent(server, plan, states, report)
        for trial, changed in open_trials:
            complete = self._trial(server, plan, parent, trial, states[trial.id], report)
            if complete:
                self._complete.add(trial.id)
                self._remember(trial, changed, states[trial.id])
            else:
                self._complete.discard(trial.id)
        self.behind = sum(trial.id not in self._complete for trial, _ in open_trials)
        self._end_dropped(server, plan)
        self._finish_parent(server, plan, parent, states, final, report)
        if self._not_stored:
            raise StorageError(self._not_stored)

    # --- what is there ---

    def _list(self, server: Server) -> None:
        """Read which runs of this experiment the server has, and delete duplicates."""
        self._id = server.experiment(self.experiment)
        for run in server.runs(self._id, {naming.TAG_EXPERIMENT: self.experiment, naming.TAG_PROFILE: self.profile}):
            kind, trial_id = run.tags.get(naming.TAG_KIND), run.tags.get(naming.TAG_TRIAL, "")
            if kind == naming.EXPERIMENT_RUN:
                self._settle(server, PARENT, run)
            elif kind in (naming.TRIAL_RUN, naming.NEEDED_RUN) and naming.is_trial_id(trial_id):
                self._settle(server, trial_id, run)
        self._listed = True

    def _settle(self, server: Server, key: str, run: Run) -> None:
        """Choose one of two runs of one trial (an answer got lost, or two trees were mirrored at once): the one of the smaller id."""
        other = self._runs.setdefault(key, run)
        if other.id != run.id:
            self._runs[key] = min(run, other, key=lambda one: one.id)
            server.delete_run(max(run, other, key=lambda one: one.id))

    def _look(self, plan: Plan, report: SyncReport) -> tuple[dict[str, TrialState], list[tuple[Trial, int | None]]]:
        """Return the state of every trial, and those that may have something to send, with their folder's time of change."""
        states: dict[str, TrialState] = {}
        open_trials = []
        for trial in plan.trials:
            changed = _changed(trial.directory.path)
            seen = self._seen.get(trial.id)
            if seen is not None and seen.changed == changed:
                states[trial.id] = seen.state
                continue
            try:
                states[trial.id] = trial.directory.state()
            except FormatError as error:
                states[trial.id] = TrialState.INTERRUPTED
                report.problems.append(str(error))
                continue
            if states[trial.id] is TrialState.PLANNED:
                self._remember(trial, changed, TrialState.PLANNED)
            else:
                open_trials.append((trial, changed))
        return states, open_trials

    def _remember(self, trial: Trial, changed: int | None, state: TrialState) -> None:
        """Skip this trial until its folder changes. A lease can come to an end without that."""
        settled = changed is None or time.time() - changed / 1e9 > SETTLED_S
        if settled and not trial.directory.file(naming.LEASE).exists():
            self._seen[trial.id] = _Seen(changed, state)

    # --- runs ---

    def _create(self, server: Server, key: str, name: str, start: int, tags: dict[str, str], report: SyncReport) -> Run:
        if server.shared:
            # A server that came back empty may have given the id to another experiment.
            if server.experiment(self.experiment) != self._id:
                raise MirrorError(f"MLflow at {server.uri} has lost the experiment {self.experiment}")
        run = server.create_run(self._id, name, start, tags)
        report.runs += 1
        self._runs[key] = run
        if server.shared:
            ours = {tag: tags[tag] for tag in (naming.TAG_KIND, naming.TAG_EXPERIMENT, naming.TAG_PROFILE, naming.TAG_TRIAL) if tag in tags}
            for found in server.runs(self._id, ours):
                self._settle(server, key, found)
        return self._runs[key]

    def _parent(self, server: Server, plan: Plan, states: Mapping[str, TrialState], report: SyncReport) -> Run:
        if PARENT in self._runs:
            return self._runs[PARENT]
        own = (naming.TAG_EXPERIMENT, naming.TAG_PROFILE)
        tags = {naming.TAG_KIND: naming.EXPERIMENT_RUN, **{tag: plan.common[tag] for tag in own}, **plan.source}
        begun = [trial.directory for trial in plan.trials if states[trial.id] is not TrialState.PLANNED]
        starts = [mlflow_payload.started(trial, mlflow_payload.result_of(trial)) for trial in begun]
        start = min([mlflow_payload.millis(plan.record.created) or mlflow_payload.now(), *starts])
        return self._create(server, PARENT, f"{self.experiment} · {self.profile}", start, tags, report)

    def _trial(self, server: Server, plan: Plan, parent: Run, trial: Trial, state: TrialState, report: SyncReport) -> bool:
        """Bring a trial's run up to date. Return True if it is complete: everything was sent, and nothing will follow."""
        running = state is TrialState.RUNNING
        # The fingerprint is of the files before they are read: what is written meanwhile makes it differ next time.
        print_ = mlflow_payload.fingerprint(plan, trial, parent.id)
        run = self._runs.get(trial.id)
        if (
            run is not None
            and not running
            and run.tags.get(mlflow_payload.TAG_SYNCED) == print_
            and run.status == mlflow_payload.STATUS[state]
        ):
            return True
        folder = trial.directory
        result = None if running else mlflow_payload.result_of(folder)
        tags = mlflow_payload.trial_tags(plan, trial, parent.id, state, result, run.tags if run else {})
        if run is None:
            run = self._create(server, trial.id, trial.name, mlflow_payload.started(folder, result), tags | plan.source, report)
        elif running:
            server.set_status(run, "RUNNING", None)
        server.log_data(run, **mlflow_payload.data_input(trial.data, mlflow_payload.paths_of(folder)))
        whole = self._upload(server, run, [(folder.file(name), None) for name in mlflow_payload.trial_files(state)], report)
        if not running and whole:
            tags[mlflow_payload.TAG_SYNCED] = print_
        self._log(
            server,
            run,
            folder,
            result if isinstance(result, Done) and state is TrialState.DONE else None,
            tags,
            mlflow_payload.trial_params(trial),
            report,
        )
        if running:
            return False
        server.set_status(run, mlflow_payload.STATUS[state], mlflow_payload.ended(folder, result))
        if whole:
            run.forget_steps()
        return whole

    def _log(
        self,
        server: Server,
        run: Run,
        folder: TrialDir,
        result: Done | None,
        tags: dict[str, str],
        params: dict[str, str],
        report: SyncReport,
    ) -> None:
        """Send tags, params and the metric values that the server does not have: each (key, step) once, ever."""
        if run.steps is None:
            server.read_steps(run)
        path = folder.file(naming.METRICS_FILE)
        try:
            inode = path.stat().st_ino
        except OSError:
            inode = 0
        if inode != run.inode:  # a resume cut the file back: it is a new file
            run.inode, run.offset = inode, 0
        lines, offset = read_metric_lines(path, run.offset)
        points = [*mlflow_payload.line_points(lines), *(mlflow_payload.final_points(folder, result) if result else ())]
        report.points += server.log(run, points, tags, params)
        run.offset = offset

    def _upload(self, server: Server, run: Run, files: list[tuple[Path, str | None]], report: SyncReport) -> bool:
        """Upload files, each tried twice; whether the server has them all. Storage that fails stops no metrics."""
        whole = True
        for path, folder in files:
            for last in (False, True):
                if len(self._not_stored) >= UPLOAD_FAILURES:
                    return False
                try:
                    report.artifacts += server.upload(run, path, folder)
                    break
                except MirrorError as error:
                    if error.waited > PATIENCE_S:
                        raise
                    if last:
                        whole = False
                        self._not_stored += error.problems
        return whole

    def _end_dropped(self, server: Server, plan: Plan) -> None:
        """End the runs of trials that have left the plan: they must not stay RUNNING."""
        planned = {PARENT, *(trial.id for trial in plan.trials)}
        for trial_id, run in self._runs.items():
            if run.status == "RUNNING" and trial_id not in planned and not self.tree.trial(trial_id).lease_alive():
                result = mlflow_payload.result_of(self.tree.trial(trial_id))
                done = isinstance(result, Done)
                server.set_status(run, "FINISHED" if done else "KILLED", mlflow_payload.ended(self.tree.trial(trial_id), result))

    def _finish_parent(
        self, server: Server, plan: Plan, parent: Run, states: Mapping[str, TrialState], final: bool, report: SyncReport
    ) -> None:
        params = mlflow_payload.parent_params(plan)
        tags = mlflow_payload.parent_tags(plan, states) | mlflow_payload.changed_params(params, parent.params)
        server.log(parent, (), tags, params)
        server.log_data(parent, **mlflow_payload.data_input(plan.record.data))
        files = [(plan.folder / naming.PLAN, None), *((plan.folder / name, naming.TABLE_STEM) for name in mlflow_payload.TABLE_FILES)]
        print_ = naming.digest([[path.name, file_stamp(path)] for path, _ in files])
        if parent.tags.get(mlflow_payload.TAG_SYNCED) != print_ and self._upload(server, parent, files, report):
            server.log(parent, (), {mlflow_payload.TAG_SYNCED: print_}, {})
        status = mlflow_payload.parent_status(plan, states, final)
        end = None
        if status not in ("RUNNING", parent.status):
            begun = [trial.directory for trial in plan.trials if states[trial.id] is not TrialState.PLANNED]
            end = max((mlflow_payload.ended(trial, mlflow_payload.result_of(trial)) for trial in begun), default=mlflow_payload.now())
        server.set_status(parent, status, end)


def _changed(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None
