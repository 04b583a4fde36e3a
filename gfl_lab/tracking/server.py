"""A tracking server: the few calls that the mirror makes, each either done or a MirrorError."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfl_lab.addresses import file_uri, sqlite_path
from gfl_lab.errors import Problem, ResourceError
from gfl_lab.mlflow_import import importing_mlflow

BATCH = 1000
"""Metrics, params and tags in one ``log_batch`` call: MLflow's limit."""

PAGE = 1000
"""Runs in one page of a search."""

PATIENCE_S = 5.0
"""A call without an answer for this long is taken for one to a server that hangs."""

PARAM_LIMIT = 6000
"""Characters of a param; MLflow cuts longer ones."""


class MirrorError(ResourceError):
    """The tracking server or database cannot be used now. Nothing is lost: a later sync completes it."""

    waited = 0.0
    """Seconds for which the call that failed had waited."""


class DamagedDatabase(MirrorError):
    """The file of the sqlite database holds no usable database of MLflow's."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(
            Problem(
                f"{path} is damaged or no MLflow database: {reason}",
                hint="The run directories are complete. Move it away, or have `gfl-lab doctor --repair` do so for the one beside the runs: "
                "a new one is filled from them.",
            )
        )


class StorageError(MirrorError):
    """Some files could not be stored; everything else has been sent."""


@dataclass
class Run:
    """One run on the server, as far as it is known."""

    id: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    has_data: bool = False
    metric_keys: tuple[str, ...] = ()
    steps: dict[str, set[int]] | None = None
    """Metric key -> steps that the server has; None: to be read from ``metric_keys``."""
    inode: int = 0
    offset: int = 0
    """Offset up to which the metrics file with that inode has been sent."""
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Artifact name -> size and time of the file that was uploaded."""

    def forget_steps(self) -> None:
        """Keep the keys only: memory stays flat, and steps are read again where they are needed again."""
        if self.steps is not None:
            self.metric_keys, self.steps = tuple(self.steps), None
            self.inode = self.offset = 0


def quiet_import() -> Any:
    """Import mlflow's client, with nothing on stdout. Takes 3 s."""
    with importing_mlflow():
        import mlflow.entities
        import mlflow.exceptions
        import mlflow.tracking

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Each error of a database is raised too, and reported once by the caller; their tracebacks would bury that sentence. The first
    # also logs each of its ten attempts to open a database.
    for name in ("mlflow.store", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def unusable(uri: str, error: Exception, what: str = "be used") -> MirrorError:
    """Return the error for an MLflow at ``uri`` that cannot do ``what``."""
    text = redacted(" ".join(str(error).split()))
    path = sqlite_path(uri)
    if path is not None and (found := re.search(r"database disk image is malformed|file is not a database", text)):
        return DamagedDatabase(path, found[0])
    return MirrorError(
        Problem(
            f"MLflow at {redacted(uri)} cannot {what}: {type(error).__name__}: {text.partition(' [SQL: ')[0][:400]}",
            hint="the run directories are complete; `gfl-lab sync` mirrors them when it can be reached",
        )
    )


def redacted(text: str) -> str:
    """Return ``text`` without the user and password of any URL in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


class Server:
    """MLflow at ``uri``. Every method that asks it raises MirrorError when it cannot be used now.

    Args:
        artifacts: where the artifacts of new experiments go; None where the server decides.
        shared: whether others may write at the same time, whom no lock holds back.
    """

    def __init__(self, uri: str, artifacts: Path | None, shared: bool) -> None:
        self.uri, self.shared, self._artifacts = uri, shared, artifacts
        self.call_since: float | None = None
        """``time.monotonic`` of the call that waits for an answer now."""
        with self._asking():
            self._client = quiet_import().tracking.MlflowClient(tracking_uri=uri)

    @contextlib.contextmanager
    def _asking(self, what: str = "be used") -> Iterator[None]:
        """Turn whatever mlflow and its libraries raise into one error."""
        started = self.call_since = time.monotonic()
        try:
            yield
        except Exception as error:
            wrapped = unusable(self.uri, error, what)
            wrapped.waited = time.monotonic() - started
            raise wrapped from error
        finally:
            self.call_since = None

    # --- experiments and runs ---

    def experiment(self, name: str) -> str:
        """Return the id of the experiment ``name``; make it if there is none."""
        with self._asking():
            found = self._client.get_experiment_by_name(name)
            if found is None:
                # Never from the current folder, which is MLflow's default.
                location = None if self._artifacts is None else file_uri(self._artifacts / name)
                tags = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens its pages for language models
                return self._client.create_experiment(name, artifact_location=location, tags=tags)
        if found.lifecycle_stage != "active":
            raise MirrorError(
                Problem(
                    f"the MLflow experiment {name!r} at {redacted(self.uri)} has been deleted",
                    hint=f"restore it (mlflow experiments restore -x {found.experiment_id}) or remove it for good (mlflow gc)",
                )
            )
        return found.experiment_id

    def runs(self, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
        """Return every run with these tags, by id."""
        found: list[Run] = []
        token = None
        while True:
            with self._asking():
                page = self._client.search_runs(
                    [experiment_id],
                    filter_string=" and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items()),
                    max_results=PAGE,
                    order_by=["attributes.run_id"],
                    page_token=token,
                )
            for run in page:
                data = bool(run.inputs and run.inputs.dataset_inputs)
                found.append(
                    Run(run.info.run_id, run.info.status, dict(run.data.tags), dict(run.data.params), data, tuple(run.data.metrics))
                )
            token = page.token
            if not token:
                return found

    def create_run(self, experiment_id: str, name: str, start: int, tags: Mapping[str, str]) -> Run:
        """Create a run, RUNNING since ``start`` (ms)."""
        with self._asking():
            made = self._client.create_run(experiment_id, start_time=start, tags=dict(tags), run_name=name)
        return Run(made.info.run_id, "RUNNING", dict(tags), {}, steps={})

    def delete_run(self, run: Run) -> None:
        """Delete a run; another process may have done so already."""
        with self._asking():
            self._client.delete_run(run.id)

    # --- one run ---

    def read_steps(self, run: Run) -> None:
        """Read which steps of each metric the run has."""
        with self._asking():
            run.steps = {key: {point.step for point in self._client.get_metric_history(run.id, key)} for key in run.metric_keys}

    def log(self, run: Run, points: Iterable[tuple[str, float, int, int]], tags: Mapping[str, str], params: Mapping[str, str]) -> int:
        """Send what it lacks: points (key, value, ms, step), params, and last the tags. The number of points sent."""
        from mlflow.entities import Metric, Param, RunTag

        new_tags = {key: value for key, value in tags.items() if run.tags.get(key, "") != value}
        new_params = {key: value[:PARAM_LIMIT] for key, value in params.items() if key not in run.params}
        room = max(1, BATCH - len(new_tags) - len(new_params))
        batch: dict[tuple[str, int], Any] = {}
        sent = 0
        if run.steps is None:
            self.read_steps(run)
        known = run.steps if run.steps is not None else {}

        def send(**more: Any) -> int:
            with self._asking():
                self._client.log_batch(run.id, metrics=list(batch.values()), **more)
            for key, step in batch:
                known.setdefault(key, set()).add(step)
            done = len(batch)
            batch.clear()
            return done

        for key, value, when, step in points:
            if (key, step) not in batch and step not in known.get(key, ()):
                if len(batch) == room:
                    sent += send()
                batch[key, step] = Metric(key, value, when, step)
        if batch or new_tags or new_params:
            sent += send(params=[Param(*pair) for pair in new_params.items()], tags=[RunTag(*pair) for pair in new_tags.items()])
        run.tags.update(new_tags)
        run.params.update(new_params)
        return sent

    def log_data(self, run: Run, name: str, digest: str, source_type: str, source: str, profile: str) -> None:
        """Log the data set as the run's input, once."""
        if run.has_data:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest, source_type=source_type, source=source, profile=profile)
        with self._asking():
            self._client.log_inputs(run.id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "train and val")])])
        run.has_data = True

    def upload(self, run: Run, path: Path, folder: str | None) -> bool:
        """Upload a file that has changed since it last was; a second upload replaces the first. Return True if it was sent."""
        stamp = file_stamp(path)
        if stamp is None or run.files.get(path.name) == stamp:
            return False
        with self._asking(f"store {path.name}"):
            self._client.log_artifact(run.id, str(path), folder)
        run.files[path.name] = stamp
        return True

    def set_status(self, run: Run, status: str, end: int | None) -> None:
        """Set the status of a run, and its end (ms) if it has ended."""
        if run.status == status:
            return
        with self._asking():
            if end is None:
                self._client.update_run(run.id, status=status)
            else:
                self._client.set_terminated(run.id, status=status, end_time=end)
        run.status = status


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Return the size and modification time (ns) of a file, or None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
