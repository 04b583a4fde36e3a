"""Mirrors run directories to MLflow, as often as one likes, with nothing doubled (docs/mlflow.md).

The run directory is the truth; MLflow shows it. One process mirrors; training never waits for it. Whatever goes wrong,
the next ``sync`` makes the server complete: on first contact with a run it reads which (metric, step) the server has,
and sends the rest.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import math
import os
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gfl_lab
from gfl_lab import naming, rundir
from gfl_lab.errors import Problem, ResourceError, StoreError
from gfl_lab.rundir import RunTree, TrialDir, TrialState

BATCH = 1000
"""Metrics in one ``log_batch`` call: MLflow's limit."""

TAG_SYNCED = "gfl.synced"
"""Fingerprint of what was mirrored when a run was complete: the same again means that there is nothing to do."""

TAG_FAILURE = "gfl.failure"
"""Why a trial failed: kind and reason."""

LOCK_SUFFIX = ".lock"
LOCK_WAIT_S = 120.0
NOTE_LIMIT = 7500
"""Characters of a description; MLflow cuts tag values at 8000."""

TABLE_FILES = tuple(f"{naming.TABLE_STEM}.{name}" for name in ("md", "html", "json", "csv", "tex"))
TRIAL_ARTIFACTS = (naming.CONFIG, naming.RESULT, naming.DISTRIBUTIONS, naming.EVAL_RECORDS)

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # A dead server otherwise blocks each call for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_STATUS = {
    TrialState.PLANNED: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.DONE: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.INTERRUPTED: "KILLED",
}


class MirrorError(ResourceError):
    """The tracking server or database cannot be used now. Nothing is lost: a later sync completes it."""


@dataclass
class SyncReport:
    """What one sync sent."""

    runs: int = 0
    points: int = 0
    artifacts: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        if not (self.runs or self.points or self.artifacts):
            return f"up to date ({self.seconds:.1f} s)"
        return f"{self.runs} new runs, {self.points} metric values and {self.artifacts} files sent in {self.seconds:.1f} s"


@dataclass
class _Run:
    """What is known about one run on the server."""

    id: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    has_data: bool
    steps: dict[str, set[int]] | None  # metric key -> steps that the server has; None: not read yet
    metric_keys: tuple[str, ...] = ()
    inode: int = 0
    offset: int = 0
    artifacts: dict[str, tuple[int, int]] = field(default_factory=dict)


def _quiet_import() -> Any:
    """Import mlflow's client: telemetry off, short timeouts (unless the user set them), nothing on stdout. Takes 3 s."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import mlflow.entities
    import mlflow.exceptions
    import mlflow.tracking

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def default_uri(tree: RunTree) -> str:
    """``$MLFLOW_TRACKING_URI``, or the database beside the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or tree.mlflow_uri


def _sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI, absolute; None for another kind of server."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()


def _redacted(text: str) -> str:
    """``text`` without the user and password of any URL in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[Any]:
    """Exclusive lock of ``path`` between processes; yields the open file, or None where the folder cannot be written.

    Raises:
        MirrorError: another process holds it for longer than LOCK_WAIT_S.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError:
        yield None  # a read-only archive, mirrored to a server elsewhere
        return
    with file:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise MirrorError(f"another process has been mirroring {path.parent} to MLflow for {LOCK_WAIT_S:.0f} s") from None
                time.sleep(0.05)
        yield file  # closing the file gives the lock back


def _millis(when: float | str | None) -> int | None:
    """Unix seconds or ISO text as MLflow's milliseconds; None for anything else."""
    if isinstance(when, str):
        try:
            moment = datetime.datetime.fromisoformat(when)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        when = moment.timestamp()
    return round(when * 1000) if isinstance(when, (int, float)) and math.isfinite(when) and when > 0 else None


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and modification time of a file, or None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _number(value: Any) -> float | None:
    """A metric value as MLflow takes it: infinities become NaN, because they would flatten its charts."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else math.nan


def _one_line(text: Any, limit: int = 250) -> str:
    joined = " ".join(str(text).split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"


class Mirror:
    """Mirrors the experiments of ``tree`` to the tracking server ``uri``.

    Args:
        uri: None for ``$MLFLOW_TRACKING_URI``, or where that is not set the sqlite database beside the runs.

    Constructing it costs nothing; mlflow is imported by the first ``prepare`` or ``sync``.
    """

    def __init__(self, tree: RunTree, uri: str | None = None) -> None:
        self.tree = RunTree(tree.root.resolve())
        self.uri = uri or default_uri(self.tree)
        self._token = uuid.uuid4().hex
        self._guard = threading.Lock()
        self._client: Any = None
        self._prepared = False
        self._mlflow_experiments: dict[str, str] = {}
        self._runs: dict[tuple[str, str, str], _Run] = {}  # (experiment, profile, trial id or "")
        self._listed: set[tuple[str, str]] = set()

    # --- set-up ---

    def prepare(self) -> None:
        """Make the server usable: a sqlite database is created (WAL) or its schema raised, under a lock between processes.

        Raises:
            MirrorError: the database cannot be made, or is of a newer MLflow.
        """
        with self._guard, self._wrapped(), _file_lock(self._lock_path()):
            self._prepare()

    def _lock_path(self) -> Path:
        return self.tree.root / (naming.MLFLOW_DB + LOCK_SUFFIX)

    def _artifact_root(self) -> Path:
        return self.tree.root / naming.MLFLOW_ARTIFACTS

    def _prepare(self) -> None:
        path = _sqlite_path(self.uri)
        if self._prepared and (path is None or path.exists()):
            return
        mlflow = _quiet_import()
        if path is not None:
            if not path.exists() or path.stat().st_size == 0:
                self._create_database(path)
            else:
                self._upgrade_database(path)
        self._forget()
        self._client = mlflow.tracking.MlflowClient(tracking_uri=self.uri)
        self._prepared = True

    def _create_database(self, path: Path) -> None:
        """Build the schema in a file beside ``path`` and move it there: a killed process leaves no half database."""
        import sqlite3

        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            fresh = Path(folder) / path.name
            store = SqlAlchemyStore(f"sqlite:///{fresh}", self._artifact_root().as_uri())
            store.engine.dispose()
            # WAL: readers (the UI) and the writer do not block each other. The mode stays with the file.
            connection = sqlite3.connect(fresh)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()
            fresh.replace(path)

    def _upgrade_database(self, path: Path) -> None:
        """Raise the schema to that of the installed mlflow, after a copy; refuse one that is newer."""
        import sqlite3

        from mlflow.store.db import utils
        from sqlalchemy import create_engine

        connection = sqlite3.connect(path)
        try:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            with contextlib.suppress(sqlite3.OperationalError):  # in use by a reader just now: the next start sets it
                connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            raise MirrorError(
                Problem(f"{path} is no MLflow database: {error}", hint="move it away; gfl-lab makes a new one and fills it")
            ) from None
        finally:
            connection.close()
        head = utils._get_latest_schema_revision()
        if found is not None and found[0] == head:
            return
        from alembic.script import ScriptDirectory

        script = ScriptDirectory.from_config(utils._get_alembic_config(self.uri))
        if found is None or found[0] not in {revision.revision for revision in script.walk_revisions()}:
            raise MirrorError(
                Problem(
                    f"{path} has schema {found[0] if found else 'unknown'}, which this MLflow does not know",
                    hint="a newer MLflow wrote it: use that one, or move the file away and run `gfl-lab sync`",
                )
            )
        backup = path.with_name(f"{path.name}.{found[0]}.bak")
        source, target = sqlite3.connect(path), sqlite3.connect(backup)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        engine = create_engine(f"sqlite:///{path}")
        try:
            utils._upgrade_db(engine)
        finally:
            engine.dispose()

    @contextlib.contextmanager
    def _wrapped(self) -> Iterator[None]:
        """Turn whatever mlflow and its libraries raise into one MirrorError, and forget what was known of the server."""
        try:
            yield
        except (MirrorError, StoreError):
            self._forget()
            raise
        except Exception as error:
            self._forget()
            text = _redacted(_one_line(error, 400))
            raise MirrorError(
                Problem(
                    f"MLflow at {_redacted(self.uri)} cannot be used: {type(error).__name__}: {text}",
                    hint="the run directories are complete; `gfl-lab sync` mirrors them when it can be reached",
                )
            ) from error

    def _forget(self) -> None:
        self._mlflow_experiments.clear()
        self._runs.clear()
        self._listed.clear()

    # --- sync ---

    def sync(self, experiment: str, profile: str, final: bool = False) -> SyncReport:
        """Bring the server up to date with one experiment under a profile; sends only what is missing.

        Args:
            final: no trial will start any more, so the parent run ends too: FINISHED when all trials are done, FAILED
                when one failed, KILLED when some are missing.

        Raises:
            MirrorError: the server cannot be used now; call again later.
            StoreError: there is no such plan.
        """
        plan = rundir.read_json(self.tree.experiment(experiment, profile) / naming.PLAN)
        started = time.perf_counter()
        report = SyncReport()
        with self._guard, self._wrapped(), _file_lock(self._lock_path()) as lock:
            self._prepare()
            self._check_token(lock)
            self._sync(experiment, profile, plan, final, report)
        report.seconds = time.perf_counter() - started
        return report

    def _check_token(self, lock: Any) -> None:
        """Forget what is known of the server when another mirror has written since."""
        if lock is None:
            self._forget()
            return
        lock.seek(0)
        if lock.read() != self._token:
            self._forget()
            lock.seek(0)
            lock.truncate()
            lock.write(self._token)
            lock.flush()

    def _sync(self, experiment: str, profile: str, plan: Mapping[str, Any], final: bool, report: SyncReport) -> None:
        mlflow_experiment = self._experiment_id(experiment)
        self._list_runs(experiment, profile, mlflow_experiment)
        question = str(plan["experiment"].get("question") or "")
        planned = [(trial, variant) for variant in plan["variants"] for trial in variant["trials"]]
        # Two arms that are the same trial are one run, under the first arm's name.
        trials = list({trial["id"]: (self.tree.trial(trial["id"]), trial, variant) for trial, variant in reversed(planned)}.values())[::-1]
        states = {trial_dir.id: trial_dir.state() for trial_dir, _, _ in trials}

        parent = self._parent(experiment, profile, mlflow_experiment, plan, [d for d, _, _ in trials], report)
        common = {
            naming.TAG_EXPERIMENT: experiment,
            naming.TAG_PROFILE: profile,
            naming.TAG_QUESTION: _one_line(question, 1000),
            naming.TAG_VERSION: gfl_lab.__version__,
        }
        for trial_dir, trial, variant in trials:
            if states[trial_dir.id] is not TrialState.PLANNED:
                self._trial(experiment, profile, mlflow_experiment, parent, common, plan, variant, trial, trial_dir, report)
        self._finish_parent(experiment, profile, parent, common, plan, states, final, report)

    def _experiment_id(self, name: str) -> str:
        if name not in self._mlflow_experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                # Never from the current folder: that is MLflow's default. A server over HTTP decides by itself.
                location = None if self.uri.startswith(("http://", "https://")) else (self._artifact_root() / name).as_uri()
                self._mlflow_experiments[name] = self._client.create_experiment(
                    name,
                    artifact_location=location,
                    tags={"mlflow.experimentKind": "custom_model_development"},  # else the UI opens its pages for language models
                )
            elif found.lifecycle_stage != "active":
                raise MirrorError(
                    Problem(
                        f"the MLflow experiment {name!r} at {_redacted(self.uri)} has been deleted",
                        hint=f"restore it (mlflow experiments restore -x {found.experiment_id}) or remove it for good (mlflow gc)",
                    )
                )
            else:
                self._mlflow_experiments[name] = found.experiment_id
        return self._mlflow_experiments[name]

    def _list_runs(self, experiment: str, profile: str, mlflow_experiment: str) -> None:
        """Learn which runs of ours the server has: one search, on first contact."""
        if (experiment, profile) in self._listed:
            return
        token = None
        while True:
            page = self._client.search_runs(
                [mlflow_experiment],
                filter_string=f"tags.`{naming.TAG_EXPERIMENT}` = '{experiment}' and tags.`{naming.TAG_PROFILE}` = '{profile}'",
                max_results=500,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            for found in page:
                tags = dict(found.data.tags)
                kind, trial = tags.get(naming.TAG_KIND), tags.get(naming.TAG_TRIAL, "")
                if kind not in ("experiment", "trial"):
                    continue
                self._runs[experiment, profile, trial if kind == "trial" else ""] = _Run(
                    id=found.info.run_id,
                    status=found.info.status,
                    tags=tags,
                    params=dict(found.data.params),
                    has_data=bool(found.inputs and found.inputs.dataset_inputs),
                    steps=None,
                    metric_keys=tuple(found.data.metrics),
                )
            token = page.token
            if not token:
                break
        self._listed.add((experiment, profile))

    def _create_run(
        self, key: tuple[str, str, str], mlflow_experiment: str, start: int, tags: dict[str, str], name: str, report: SyncReport
    ) -> _Run:
        found = self._client.create_run(mlflow_experiment, start_time=start, tags=tags, run_name=name)
        run = _Run(id=found.info.run_id, status="RUNNING", tags=dict(tags), params={}, has_data=False, steps={})
        self._runs[key] = run
        report.runs += 1
        return run

    # --- parent ---

    def _parent(
        self, experiment: str, profile: str, mlflow_experiment: str, plan: Mapping[str, Any], trials: list[TrialDir], report: SyncReport
    ) -> _Run:
        key = (experiment, profile, "")
        if key in self._runs:
            return self._runs[key]
        tags = {
            naming.TAG_KIND: "experiment",
            naming.TAG_EXPERIMENT: experiment,
            naming.TAG_PROFILE: profile,
            "mlflow.source.name": f"gfl-lab run {plan['experiment'].get('source', '')}".strip(),
            "mlflow.source.type": "LOCAL",
        }
        starts = [self._start(trial, self._result(trial)) for trial in trials if trial.state() is not TrialState.PLANNED]
        start = min([_millis(plan.get("created")) or round(time.time() * 1000), *starts])
        return self._create_run(key, mlflow_experiment, start, tags, f"{experiment} · {profile}", report)

    def _finish_parent(
        self,
        experiment: str,
        profile: str,
        parent: _Run,
        common: dict[str, str],
        plan: Mapping[str, Any],
        states: Mapping[str, TrialState],
        final: bool,
        report: SyncReport,
    ) -> None:
        found = set(states.values())
        if TrialState.RUNNING in found or (not final and found & {TrialState.PLANNED, TrialState.INTERRUPTED}):
            status = "RUNNING"
        elif TrialState.FAILED in found:
            status = "FAILED"
        elif found - {TrialState.DONE}:
            status = "KILLED"
        else:
            status = "FINISHED"
        folder = self.tree.experiment(experiment, profile)
        counts = {state.value: list(states.values()).count(state) for state in TrialState if state in found}

        tags = {naming.TAG_KIND: "experiment", **common, naming.TAG_STATUS: ", ".join(f"{n} {state}" for state, n in counts.items())}
        tags["mlflow.note.content"] = self._note(folder, plan)
        axes = plan["experiment"].get("axes") or {}
        params = {axis: ", ".join(naming.setting_text(value) for value in values) for axis, values in axes.items()}
        params["seeds"] = ", ".join(str(seed) for seed in sorted({t["seed"] for v in plan["variants"] for t in v["trials"]}))
        params |= {"profile": profile, "data": f"{plan['data']['name']} {plan['data']['digest']}"}
        # Seeds and axes can grow with the file, but MLflow's params cannot change: what has changed becomes a tag.
        tags |= {f"gfl.now.{key}": value for key, value in params.items() if key in parent.params and parent.params[key] != value[:6000]}
        self._describe(parent, tags, params)
        self._data_input(parent, plan["data"], {})
        self._upload(parent, [(folder / naming.PLAN, None), *((folder / name, naming.TABLE_STEM) for name in TABLE_FILES)], report)
        end = None
        if status != "RUNNING":
            ends = [self._end(self.tree.trial(trial_id)) for trial_id, state in states.items() if state is not TrialState.PLANNED]
            end = max(ends, default=round(time.time() * 1000))
        self._set_status(parent, status, end)

    def _note(self, folder: Path, plan: Mapping[str, Any]) -> str:
        """The description: the question with the table under it, once there is one. MLflow renders it as Markdown."""
        question = str(plan["experiment"].get("question") or "")
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = (folder / f"{naming.TABLE_STEM}.md").read_text(encoding="utf-8")
            if len(text) <= NOTE_LIMIT:
                return text
        return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", _one_line(question, NOTE_LIMIT // 2))

    # --- trials ---

    def _trial(
        self,
        experiment: str,
        profile: str,
        mlflow_experiment: str,
        parent: _Run,
        common: dict[str, str],
        plan: Mapping[str, Any],
        variant: Mapping[str, Any],
        trial: Mapping[str, Any],
        trial_dir: TrialDir,
        report: SyncReport,
    ) -> None:
        key = (experiment, profile, trial_dir.id)
        # The fingerprint is of the files before they are read: what is written meanwhile makes it differ next time.
        fingerprint = self._fingerprint(trial_dir, [parent.id, common, variant["name"], variant["axes"], trial["seed"]])
        state = trial_dir.state()
        run = self._runs.get(key)
        if run is not None and state is not TrialState.RUNNING and run.tags.get(TAG_SYNCED) == fingerprint:
            return
        result = self._result(trial_dir) if state in (TrialState.DONE, TrialState.FAILED, TrialState.INTERRUPTED) else {}
        manifest: dict[str, Any] = {}
        with contextlib.suppress(StoreError):
            manifest = trial_dir.manifest()

        tags = {
            naming.TAG_KIND: "trial",
            **common,
            naming.TAG_VARIANT: str(variant["name"]),
            naming.TAG_SEED: str(trial["seed"]),
            naming.TAG_TRIAL: trial_dir.id,
            naming.TAG_STATUS: state.value,
            "mlflow.parentRunId": parent.id,
        }
        failure = result.get("failure") if state is TrialState.FAILED else None
        if failure:
            tags[TAG_FAILURE] = _one_line(f"{failure.get('kind')}: {failure.get('reason')}", 2000)
            tags["mlflow.note.content"] = "Failed: " + re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", tags[TAG_FAILURE])
        elif run is not None and run.tags.get(TAG_FAILURE):
            tags |= {TAG_FAILURE: "", "mlflow.note.content": ""}
        if run is None:
            name = f"{variant['name']} · seed {trial['seed']}"
            created = {
                **tags,
                "mlflow.source.name": f"gfl-lab run {plan['experiment'].get('source', '')}".strip(),
                "mlflow.source.type": "LOCAL",
            }
            run = self._create_run(key, mlflow_experiment, self._start(trial_dir, result), created, name, report)
        elif state is TrialState.RUNNING and run.status != "RUNNING":
            self._set_status(run, "RUNNING", None)

        params = {str(axis): naming.setting_text(value) for axis, value in variant["axes"].items()}
        self._describe(run, tags, params | {"seed": str(trial["seed"]), "trial": trial_dir.id})
        self._data_input(run, plan["data"], manifest.get("paths") or {})
        self._metrics(run, trial_dir, result if state is TrialState.DONE else {}, report)
        names = TRIAL_ARTIFACTS if state is not TrialState.RUNNING else (naming.CONFIG,)
        names += (naming.LOG,) if state is TrialState.FAILED else ()
        self._upload(run, [(trial_dir.file(name), None) for name in names], report)
        if state is not TrialState.RUNNING:
            self._set_status(run, _STATUS[state], self._end(trial_dir))
            self._describe(run, {TAG_SYNCED: fingerprint}, {})

    def _fingerprint(self, trial_dir: TrialDir, described: list[Any]) -> str:
        files = (naming.METRICS_FILE, naming.LEASE, *TRIAL_ARTIFACTS)
        return naming.digest([described, [[name, _stamp(trial_dir.file(name))] for name in files]])

    def _result(self, trial_dir: TrialDir) -> dict[str, Any]:
        try:
            return trial_dir.result() or {}
        except StoreError:
            return {}

    def _start(self, trial_dir: TrialDir, result: Mapping[str, Any]) -> int:
        """When the trial started, ms: before its first metric line, else when its lease was taken or its manifest written."""
        lines, _ = rundir.read_metric_lines(trial_dir.file(naming.METRICS_FILE))
        first = next((line.get("time") for line in lines if _millis(line.get("time"))), None)
        since = trial_dir.lease().get("since")
        if first is not None:
            if since is not None and since < first:
                return _millis(since) or _millis(first) or 0
            setup = (result.get("seconds") or {}).get("setup") or 0.0
            return _millis(first - setup) or 0
        created = None
        with contextlib.suppress(StoreError):
            created = trial_dir.manifest().get("created")
        return _millis(since) or _millis(created) or round(time.time() * 1000)

    def _end(self, trial_dir: TrialDir) -> int:
        """When it ended, ms: as its result says, else when its last metric line was written."""
        finished = _millis(self._result(trial_dir).get("finished"))
        if finished:
            return finished
        stamp = _stamp(trial_dir.file(naming.METRICS_FILE))
        return stamp[1] // 1_000_000 if stamp else round(time.time() * 1000)

    # --- one run ---

    def _describe(self, run: _Run, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
        """Set tags that differ and params that are missing."""
        from mlflow.entities import Param, RunTag

        new_tags = {key: value for key, value in tags.items() if run.tags.get(key, "") != value}
        new_params = {key: value[:6000] for key, value in params.items() if key not in run.params}
        for i in range(0, max(len(new_tags), len(new_params)), 100):
            some_tags, some_params = list(new_tags.items())[i : i + 100], list(new_params.items())[i : i + 100]
            self._client.log_batch(
                run.id, params=[Param(key, value) for key, value in some_params], tags=[RunTag(key, value) for key, value in some_tags]
            )
        run.tags.update(new_tags)
        run.params.update(new_params)

    def _data_input(self, run: _Run, data: Mapping[str, Any], paths: Mapping[str, str]) -> None:
        """The data set as the run's input, once."""
        if run.has_data:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        counts = {"train_images": data["train_images"], "val_images": data["val_images"], "classes": len(data["classes"])}
        dataset = Dataset(
            name=_one_line(data["name"], 400),
            digest=str(data["digest"])[:36],
            source_type="local" if paths else "gfl-lab",
            source=json.dumps({"uri": paths["train_annotations"], **paths} if paths.get("train_annotations") else {"name": data["name"]}),
            profile=json.dumps({**counts, "truth": bool(data.get("truth")), "class_names": list(data["classes"])[:100]}),
        )
        self._client.log_inputs(run.id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "train and val")])])
        run.has_data = True

    def _metrics(self, run: _Run, trial_dir: TrialDir, result: Mapping[str, Any], report: SyncReport) -> None:
        """Send the metric values that the server does not have: each (key, step) once, ever."""
        from mlflow.entities import Metric

        if run.steps is None:
            run.steps = {key: {point.step for point in self._client.get_metric_history(run.id, key)} for key in run.metric_keys}
        path = trial_dir.file(naming.METRICS_FILE)
        try:
            inode = path.stat().st_ino
        except OSError:
            inode = 0
        if inode != run.inode:  # a resume cut the file back: it is a new file
            run.inode, run.offset = inode, 0
        lines, offset = rundir.read_metric_lines(path, run.offset)
        points = [*self._line_points(lines), *self._final_points(trial_dir, result)]
        batch: list[Any] = []
        batched: set[tuple[str, int]] = set()

        def send() -> None:
            if batch:
                self._client.log_batch(run.id, metrics=batch)
                for key, step in batched:
                    run.steps.setdefault(key, set()).add(step)
                report.points += len(batch)
                batch.clear()
                batched.clear()

        for key, value, when, step in points:
            if (key, step) in batched or step in run.steps.get(key, ()):
                continue
            batch.append(Metric(key, value, when, step))
            batched.add((key, step))
            if len(batch) == BATCH:
                send()
        send()
        run.offset = offset

    @staticmethod
    def _line_points(lines: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float, int, int]]:
        """(key, value, ms, step): train by iteration, val by epoch, so that MLflow's axis counts what its chart shows."""
        for line in lines:
            kind, when = line.get("kind"), _millis(line.get("time")) or 0
            if kind not in ("train", "val"):
                continue
            step = line.get("step") if kind == "train" else line.get("epoch")
            if not isinstance(step, int):
                continue
            for name, raw in line["metrics"].items():
                value = _number(raw)
                if value is not None:
                    yield naming.mlflow_metric(kind, name), value, when, step

    def _final_points(self, trial_dir: TrialDir, result: Mapping[str, Any]) -> Iterator[tuple[str, float, int, int]]:
        """The finished trial's numbers, at step 0: single values, which MLflow draws as bars to compare runs by."""
        if not result:
            return
        when = self._end(trial_dir)
        extra = {"seconds": (result.get("seconds") or {}).get("total"), "peak_memory_mib": result.get("peak_memory_mib")}
        for name, raw in {**(result.get("metrics") or {}), **extra}.items():
            value = _number(raw)
            if value is not None:
                yield naming.mlflow_metric("final", name), value, when, 0

    def _upload(self, run: _Run, files: Iterable[tuple[Path, str | None]], report: SyncReport) -> None:
        """Upload files that have changed since this mirror last did; a second upload replaces the first."""
        for path, folder in files:
            stamp = _stamp(path)
            if stamp is None or run.artifacts.get(path.name) == stamp:
                continue
            self._client.log_artifact(run.id, str(path), folder)
            run.artifacts[path.name] = stamp
            report.artifacts += 1

    def _set_status(self, run: _Run, status: str, end: int | None) -> None:
        if run.status == status:
            return
        if end is None:
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status=status, end_time=end)
        run.status = status


class BackgroundMirror(threading.Thread):
    """Mirrors one experiment every few seconds while it runs. Never raises into the driver: see ``error``.

    ``start()`` prepares the server, then syncs until ``finish``. A daemon: a driver that ends without ``finish`` is not
    kept, and the next sync completes what is missing.
    """

    def __init__(self, mirror: Mirror, experiment: str, profile: str, every: float = 3.0) -> None:
        super().__init__(name="mlflow-mirror", daemon=True)
        self.mirror, self.experiment, self.profile, self.every = mirror, experiment, profile, every
        self.error: Exception | None = None
        """What the last attempt raised, or None when it succeeded."""
        self._end = threading.Event()

    def run(self) -> None:
        """Thread body."""
        self._attempt(final=False)
        while not self._end.wait(self.every):
            self._attempt(final=False)
        self._attempt(final=True)

    def _attempt(self, final: bool) -> None:
        try:
            self.mirror.prepare()
            self.mirror.sync(self.experiment, self.profile, final=final)
            self.error = None
        except Exception as error:  # a mirror never stops the driver
            self.error = error

    def finish(self, timeout: float = 60.0) -> bool:
        """One last complete sync, then the thread ends. Whether that worked within ``timeout`` seconds."""
        self._end.set()
        if self.is_alive():
            self.join(timeout)
        return not self.is_alive() and self.error is None


def ui_command(tree: RunTree, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and complete environment of MLflow's own UI over the database beside the runs, on 127.0.0.1 alone.

    The small form: one worker, no job runner (0.4 GiB instead of 1.5). Call ``Mirror(tree, tree.mlflow_uri).prepare()``
    first, so that the server does not make the database.
    """
    tree = RunTree(tree.root.resolve())
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", tree.mlflow_uri, "--no-serve-artifacts"]
    argv += ["--default-artifact-root", (tree.root / naming.MLFLOW_ARTIFACTS).as_uri()]
    env = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI")}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return argv, env
