"""The sqlite database that is a tracking server of its own: made, raised to a newer schema, locked between processes, shown."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gfl_lab import naming
from gfl_lab.addresses import SQLITE_PATH_BYTES, file_uri, sqlite_path, sqlite_reader, sqlite_uri
from gfl_lab.errors import Problem
from gfl_lab.mlflow_import import importing_mlflow
from gfl_lab.rundir import RunTree
from gfl_lab.tracking.server import DamagedDatabase, MirrorError, quiet_import, unusable

LOCK_WAIT_S = 120.0

BUSY_S = 5.0
"""Seconds to wait for a database that another program has locked."""

COMPANIONS = ("-wal", "-shm", "-journal")
"""Ends of the names of the files that SQLite keeps beside a database."""

WAYS_OUT = {
    "database or disk is full": "make room on its disk",
    "attempt to write a readonly database": "make the file and its folder writable, or set MLFLOW_TRACKING_URI to a server",
}
"""Way out by SQLite's message."""


# --- schema ---------------------------------------------------------------------------------------


def identity(path: Path) -> tuple[int, int] | None:
    """Return a value that differs for another file in the same place; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_usable(path: Path, uri: str, artifacts: Path) -> None:
    """Create the database ``path`` of ``uri``, or raise its schema to that of the installed mlflow. The caller holds its lock.

    Raises:
        DamagedDatabase: it is no database of MLflow's. MirrorError: it is one of a newer MLflow, or cannot be written.
    """
    is_new = check(path)
    # MLflow keeps its connections for the life of a process, also to a file that has been moved away since.
    os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    quiet_import()
    try:
        if is_new:
            _create(path, artifacts)
        else:
            _upgrade(path)
    except MirrorError:
        raise
    except Exception as error:
        raise unusable(uri, error) from error


def _create(path: Path, artifacts: Path) -> None:
    """Build the schema in a file beside ``path`` and move it there: a killed process leaves no half database."""
    with importing_mlflow():
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    for leftover in path.parent.glob(f"{prefix}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        fresh = Path(folder) / path.name
        store = SqlAlchemyStore(sqlite_uri(fresh), file_uri(artifacts))
        store.engine.dispose()
        # WAL: readers (the UI) and the writer do not block each other. The mode stays with the file.
        with contextlib.closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        for end in COMPANIONS:  # of a database that was moved away: SQLite would play them into the new one
            path.with_name(path.name + end).unlink(missing_ok=True)
        fresh.replace(path)


def _upgrade(path: Path) -> None:
    """Raise the schema, after a copy, with ``mlflow db upgrade``; refuse one that is newer.

    Raises:
        MirrorError: the schema is one of a newer MLflow's, or the command failed.
    """
    found = schema(path)
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as connection, contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")  # in use by a reader just now: the next start sets it
    latest, known = schemas()
    if found == latest:
        return
    if found not in known:
        raise MirrorError(
            Problem(
                f"{path} has schema {found}, which this MLflow does not have",
                hint="a newer MLflow wrote it: use that one, or move the file away and run `gfl-lab sync`",
            )
        )
    backup = path.with_name(f"{path.name}.{found}.bak")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    done = subprocess.run([sys.executable, "-P", "-m", "mlflow", "db", "upgrade", sqlite_uri(path)], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        hint = f"the database as it was: {backup}. The run directories are complete; `gfl-lab sync` mirrors them afterwards"
        raise MirrorError(Problem(f"`mlflow db upgrade` of {path} failed: {lines[-1]}", hint=hint))


def schemas() -> tuple[str, set[str]]:
    """Return the latest schema of the installed MLflow, and every one that it can upgrade."""
    with importing_mlflow():
        import mlflow.store.db_migrations
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.store.db_migrations.__path__[0])))
    return str(scripts.get_current_head()), {revision.revision for revision in scripts.walk_revisions()}


# --- damage ---------------------------------------------------------------------------------------


def check(path: Path) -> bool:
    """Find out by SQLite alone whether MLflow can work with ``path``; MLflow itself would try for minutes before it gives up.

    Returns:
        True if the database is still to be made: there is no file, or an empty one.

    Raises:
        DamagedDatabase: it is no database of MLflow's. MirrorError: it cannot be opened or written now.
    """
    if len(os.fsencode(path)) > SQLITE_PATH_BYTES:
        raise MirrorError(
            Problem(
                f"the path of MLflow's database is {len(os.fsencode(path))} bytes long, and SQLite opens {SQLITE_PATH_BYTES} at most: {path}",
                hint="set GFL_LAB_HOME to a shorter path, or MLFLOW_TRACKING_URI to a tracking server",
            )
        )
    try:
        if not path.exists() and not path.is_symlink():
            return True
        if not path.is_file():
            raise DamagedDatabase(path, "a broken link" if path.is_symlink() and not path.exists() else "a folder or a device, not a file")
        if path.stat().st_size == 0:
            return True
        schema(path)
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise _fault(path, error) from None
    except OSError as error:
        raise unusable(sqlite_uri(path), error) from error
    return False


def schema(path: Path) -> str:
    """Return the revision of the database's schema.

    Raises:
        DamagedDatabase: it is no database of MLflow's. MirrorError: it cannot be read now.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise _fault(path, error) from None
    if row is None:
        raise DamagedDatabase(path, "its schema has no version")
    return str(row[0])


def check_pages(path: Path) -> None:
    """Read the whole database and compare its pages with each other.

    Raises:
        DamagedDatabase: they contradict each other. MirrorError: it cannot be read now.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise _fault(path, error) from None
    if found != "ok":
        raise DamagedDatabase(path, " ".join(found.split()))


def _fault(path: Path, error: sqlite3.Error) -> MirrorError:
    """Return the error to raise for an answer of SQLite's."""
    text = str(error)
    if "locked" in text:
        return MirrorError(
            Problem(
                f"another program has locked {path} for more than {BUSY_S:.0f} s",
                hint=f"`fuser {shlex.quote(str(path))}` names it. The run directories are complete; `gfl-lab sync` mirrors them afterwards",
            )
        )
    if isinstance(error, sqlite3.OperationalError) and "no such table" not in text:
        way_out = WAYS_OUT.get(text, "make sure that the file and its folder can be read and written")
        return MirrorError(
            Problem(
                f"{path} cannot be used: {text}",
                hint=f"{way_out}. The run directories are complete; `gfl-lab sync` mirrors them afterwards",
            )
        )
    return DamagedDatabase(path, text)


def set_aside(path: Path) -> Path:
    """Give a database another name, with the files that SQLite keeps beside it. The caller makes sure that no mirror runs.

    Returns:
        Its new path.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists() or target.is_symlink():
        number += 1
    for end in ("", *COMPANIONS):
        own = path.with_name(path.name + end)
        if own.exists() or own.is_symlink():
            own.replace(target.with_name(target.name + end))
    return target


# --- one mirror at a time -------------------------------------------------------------------------


def lock_path(tree: RunTree, uri: str) -> Path:
    """Return the lock file of all mirrors to ``uri``: beside a database, else in the run tree."""
    return Path(f"{sqlite_path(uri) or tree.root / naming.MLFLOW_DB}.lock")


class Turn:
    """The lock while it is held. Its file names the last mirror that wrote each experiment.

    Args:
        file: the lock file; None where the folder cannot be written (a read-only archive, mirrored to a server elsewhere).
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def take_over(self, key: str, token: str) -> bool:
        """Write ``token`` for ``key``. Return True if it was there already: no other mirror has written since."""
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
    """Return command and complete environment of MLflow's own UI over the database beside the runs, on 127.0.0.1 alone.

    The small form: one worker, no job runner (0.4 GiB instead of 1.5). Call ``Mirror(tree, tree.mlflow_uri).prepare()``
    first, so that the server does not make the database.
    """
    tree = RunTree(tree.root.resolve())
    argv = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", tree.mlflow_uri, "--no-serve-artifacts"]
    argv += ["--default-artifact-root", file_uri(tree.root / naming.MLFLOW_ARTIFACTS)]
    env = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI")}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return argv, env


def ui_pages(tree: RunTree, port: int, most: int = 5) -> list[tuple[str, str]]:
    """Return (experiment, address) of MLflow's page of the ``most`` experiments in which a run began last, the newest first.

    From its start page MLflow 3 leads to its views for language models; these addresses open the runs.
    """
    path = tree.root / naming.MLFLOW_DB
    query = (
        "SELECT experiments.name, experiment_id FROM experiments LEFT JOIN runs USING (experiment_id) "
        "WHERE experiments.lifecycle_stage = 'active' AND experiments.name != 'Default' "
        "GROUP BY experiment_id ORDER BY MAX(runs.start_time) DESC, experiment_id DESC"
    )
    with sqlite_reader(path) as connection:
        found = connection.execute(f"{query} LIMIT ?", [most]).fetchall()
    return [(name, f"http://127.0.0.1:{port}/#/experiments/{number}/runs?workflowType=machine_learning") for name, number in found]
