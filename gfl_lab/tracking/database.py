"""The sqlite database that is a tracking server of its own: made, raised to a newer schema, locked between processes, shown."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import Problem
from gfl_lab.rundir import RunTree
from gfl_lab.tracking.server import MirrorError, quiet_import, unusable

LOCK_WAIT_S = 120.0


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI, absolute; None for another kind of server."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()


# --- schema ---------------------------------------------------------------------------------------


def identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from another one in its place; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_usable(path: Path, uri: str, artifacts: Path) -> None:
    """Create the database ``path`` of ``uri``, or raise its schema to that of the installed mlflow. The caller holds its lock.

    Raises:
        MirrorError: it is no database, or one of a newer MLflow, or cannot be written.
    """
    quiet_import()
    try:
        if not path.exists() or path.stat().st_size == 0:
            _create(path, artifacts)
        else:
            _upgrade(path)
        _let_go(uri)
    except MirrorError:
        raise
    except Exception as error:
        raise unusable(uri, error) from error


def _let_go(uri: str) -> None:
    """Close mlflow's connections to a file that was once in this place: it keeps them for the life of the process."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.get(uri)
    if engine is not None:
        engine.dispose()


def _create(path: Path, artifacts: Path) -> None:
    """Build the schema in a file beside ``path`` and move it there: a killed process leaves no half database."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    for litter in path.parent.glob(f"{prefix}*"):
        if litter.is_dir():
            shutil.rmtree(litter, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        fresh = Path(folder) / path.name
        store = SqlAlchemyStore(f"sqlite:///{fresh}", artifacts.as_uri())
        store.engine.dispose()
        # WAL: readers (the UI) and the writer do not block each other. The mode stays with the file.
        with contextlib.closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        fresh.replace(path)


def _upgrade(path: Path) -> None:
    """Raise the schema, after a copy; refuse one that is newer."""
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            with contextlib.suppress(sqlite3.OperationalError):  # in use by a reader just now: the next start sets it
                connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            raise MirrorError(
                Problem(f"{path} is no MLflow database: {error}", hint="move it away; gfl-lab makes a new one and fills it")
            ) from None
    found = row[0] if row else "unknown"
    if found == utils._get_latest_schema_revision():
        return
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(utils._get_alembic_config(f"sqlite:///{path}"))
    if found not in {revision.revision for revision in script.walk_revisions()}:
        raise MirrorError(
            Problem(
                f"{path} has schema {found}, which this MLflow does not know",
                hint="a newer MLflow wrote it: use that one, or move the file away and run `gfl-lab sync`",
            )
        )
    backup = path.with_name(f"{path.name}.{found}.bak")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    engine = create_engine(f"sqlite:///{path}")
    try:
        utils._upgrade_db(engine)
    finally:
        engine.dispose()


# --- one mirror at a time -------------------------------------------------------------------------


def lock_path(tree: RunTree, uri: str) -> Path:
    """The lock file of those who mirror to ``uri``: beside a database, whoever fills it; else in the run tree."""
    return Path(f"{sqlite_path(uri) or tree.root / naming.MLFLOW_DB}.lock")


class Turn:
    """The lock while it is held. Its file says which mirror was the last to write each experiment.

    Args:
        file: the lock file; None where the folder cannot be written (a read-only archive, mirrored to a server elsewhere).
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def take_over(self, key: str, token: str) -> bool:
        """Write ``token`` down for ``key``. Whether it stood there already, so that nobody else has written since."""
        if self._file is None:
            return False
        try:
            tokens = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            tokens = {}
        if not isinstance(tokens, dict):
            tokens = {}
        if tokens.get(key) == token:
            return True
        self._file.write_text(json.dumps(tokens | {key: token}), encoding="utf-8")
        return False


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[Turn]:
    """Hold the lock file ``path``.

    Raises:
        MirrorError: another process holds it for longer than LOCK_WAIT_S.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError:
        yield Turn(None)
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
        yield Turn(path)  # closing the file gives the lock back


# --- MLflow's own UI ------------------------------------------------------------------------------


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


def ui_pages(tree: RunTree, port: int, most: int = 5) -> list[tuple[str, str]]:
    """(experiment, address) of MLflow's page of the ``most`` experiments in which a run began last, the newest first.

    From its start page MLflow 3 leads to its views for language models; these addresses open the runs.
    """
    path = sqlite_path(tree.mlflow_uri)
    asked = (
        "SELECT experiments.name, experiment_id FROM experiments LEFT JOIN runs USING (experiment_id) "
        "WHERE experiments.lifecycle_stage = 'active' AND experiments.name != 'Default' "
        "GROUP BY experiment_id ORDER BY MAX(runs.start_time) DESC, experiment_id DESC"
    )
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute(f"{asked} LIMIT ?", [most]).fetchall()
    return [(name, f"http://127.0.0.1:{port}/#/experiments/{number}/runs?workflowType=machine_learning") for name, number in found]
