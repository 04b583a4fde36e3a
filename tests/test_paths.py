"""Paths with every character that a file system takes: as URLs, in messages, and through a real run with its MLflow database."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_lab import addresses, naming, rundir
from gfl_lab.addresses import file_uri, sqlite_path, sqlite_reader, sqlite_uri
from gfl_lab.errors import InputError, ResourceError, StoreError
from gfl_lab.rundir import RunTree
from gfl_lab.tracking import database
from gfl_lab.tracking.mirror import Mirror
from gfl_lab.tracking.server import DamagedDatabase, MirrorError
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree
from tests.support.unchecked import skip_checks
from tests.test_run import PROFILE

ROOT = Path(__file__).parents[1]
NASTY = "a%2Fb %d%%25?m=1&x;y:z@h#f'q\"\\back\nnew\t細🎉{[(*,$HOME)]} +=~ "
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: Path("/", *names))


@given(PATHS)
def test_a_path_survives_its_urls(path: Path) -> None:
    from sqlalchemy.engine import make_url

    text = sqlite_uri(path)
    assert make_url(text).database == str(path) and make_url(text).get_backend_name() == "sqlite"
    assert sqlite_path(text) == path.resolve()
    written = text.partition("://")[2][1:]
    assert text.startswith("sqlite+pysqlite://") or written == str(path), "MLflow makes the folder of the path as it is written"
    parts = urllib.parse.urlsplit(file_uri(path))
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    assert urllib.request.url2pathname(parts.path) == str(path)


@pytest.mark.parametrize("uri", ["http://a/b", "postgresql+psycopg2://u@h/d", "sqlite://", "sqlite:///:memory:", "sqlite", "sqlite:/x", ""])
def test_what_is_no_file_has_no_path(uri: str) -> None:
    assert sqlite_path(uri) is None


def test_a_database_is_read_and_never_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / NASTY / "x.db"
    path.parent.mkdir()
    with pytest.raises(sqlite3.OperationalError), sqlite_reader(path) as connection:
        connection.execute("SELECT 1 FROM t")
    assert not path.exists()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
    with sqlite_reader(path) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("INSERT INTO t VALUES (1)")


# --- what people give -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _ready_database() -> None:
    """MLflow makes each database itself."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runner(monkeypatch, capsys)


def not_utf8(folder: Path) -> str:
    return os.fsdecode(os.fsencode(folder) + b"/\xff")


def a_file(folder: Path) -> str:
    (folder / "file").touch()
    return str(folder / "file" / "runs")


def a_loop(folder: Path) -> str:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return str(folder / "a")


@pytest.mark.parametrize(
    "home,reason",
    [(not_utf8, "not UTF-8"), (a_file, "file is not a folder"), (a_loop, "no path here"), (lambda _: "~nobody-of-this-name/runs", "no path here")],
)  # fmt: skip
def test_a_run_tree_that_cannot_be_is_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: object, reason: str) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", home(tmp_path))
    code, out, err = cli("status")
    assert code == 2 and reason in err and err.startswith("error: ") and not out
    with pytest.raises(InputError):
        rundir.home()


def test_a_current_folder_that_is_gone(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GFL_LAB_HOME")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, _, err = cli("status")
    monkeypatch.chdir(tmp_path)
    assert code == 2 and "./runs" in err


def test_the_run_tree_is_absolute_and_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("link/x", "./real/../real/x", "~/link/x"):
        monkeypatch.setenv("GFL_LAB_HOME", path)
        assert rundir.home() == tmp_path.resolve() / "real" / "x"


@pytest.mark.parametrize(
    "arguments", [("status", "\udcff.yaml"), ("data", "check", "\udcff"), ("plan", "x.yaml", "--init-weights", "\udcff")]
)
def test_arguments_that_are_not_utf8(cli: Cli, arguments: tuple[str, ...]) -> None:
    code, _, err = cli(*arguments)
    assert code == 2 and "not UTF-8" in err


def test_an_account_that_is_not_there(cli: Cli) -> None:
    code, _, err = cli("data", "check", "~nobody-of-this-name")
    assert code == 2 and "no path here" in err


def test_the_hint_on_where_to_look_helps_where_it_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from gfl_lab.cli import output
    from gfl_lab.session.ablation_end import look_closer

    monkeypatch.delenv("GFL_LAB_PAGES", raising=False)
    assert "gfl-lab dashboard" in look_closer()
    for inside in (False, True):
        monkeypatch.setattr(output, "in_container", lambda inside=inside: inside)
        output.warn_of_container()
        assert bool(capsys.readouterr().err) is inside
    monkeypatch.setenv("GFL_LAB_PAGES", "http://localhost:8501")
    assert look_closer() == "look closer:  http://localhost:8501"


def test_messages_show_what_cannot_be_printed() -> None:
    assert addresses.shown("a\n\x1b[2J") == r"'a\n\x1b[2J'" and addresses.shown("細") == "'細'"


def test_a_folder_too_long_for_sockets_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from gfl_lab.maintenance.machine import sockets
    from gfl_lab.orchestrate import ray_cluster
    from gfl_lab.orchestrate.ray_tune import TuneExecutor

    most = ray_cluster.SOCKET_BYTES - len(f"/{ray_cluster.SCRATCH.format(os.getuid())}/r/{ray_cluster._SOCKET}")
    for length, fits in ((most, True), (most + 1, False)):
        monkeypatch.setattr(tempfile, "tempdir", "/" + "d" * (length - 1))
        ((ok, text),) = sockets()
        assert ok is fits and (fits or "Set TMPDIR" in text)
    for folder in ("/細", '/a"', "/a\\b", "/\udcff"):  # seen: Ray reads its own path as ASCII, and as JSON
        monkeypatch.setattr(tempfile, "tempdir", folder)
        ((ok, text),) = sockets()
        assert not ok and "Set TMPDIR" in text and text.encode()
    monkeypatch.setattr(tempfile, "tempdir", "/t %2F#?&;:@='")  # seen to work
    assert next(iter(sockets()))[0]
    executor = TuneExecutor(cpus=1, gpus=0, gpu_optional=True, machine_cpus=1, machine_gpus=0, address=None, should_stop=lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", "/" + "d" * 200)
    with pytest.raises(ResourceError, match="too long for the sockets"):
        executor.capacity()


@pytest.mark.parametrize(
    "address,reason,told",
    [(None, "The current node timed out during startup.", "--executor inline"), (None, "x", "gfl-lab doctor"), ("h:1", "x", "token")],
)
def test_a_ray_that_does_not_start_is_told_with_the_way_out(address: str | None, reason: str, told: str) -> None:
    from gfl_lab.orchestrate.ray_cluster import not_started

    assert told in not_started(address, reason).hint


# --- files that are damaged -----------------------------------------------------------------------


def small_database(path: Path, version: str | None = "abc") -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("CREATE TABLE filler (a)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 3000,)] * 20)
        if version is not None:
            connection.execute("INSERT INTO alembic_version VALUES (?)", [version])
        connection.commit()
    return path


def damage(path: Path, kind: str) -> None:
    if kind == "garbage":
        path.write_bytes(b"no database" * 100)
    elif kind == "truncated":
        path.write_bytes(small_database(path).read_bytes()[:20_000])
    elif kind == "of another program":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (a)")
    elif kind == "without a version":
        small_database(path, None)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a broken link":
        path.symlink_to(path.with_name("nowhere"))


KINDS = ["garbage", "truncated", "of another program", "without a version", "a folder", "a broken link"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_database_is_told_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / naming.MLFLOW_DB
    damage(path, kind)
    with pytest.raises(DamagedDatabase) as raised:
        database.check(path)
    (problem,) = raised.value.problems
    assert str(path) in problem.message and "doctor --repair" in problem.hint


def test_a_page_that_was_overwritten_is_found(tmp_path: Path) -> None:
    path = small_database(tmp_path / naming.MLFLOW_DB)
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 4 * 4096] = os.urandom(4096)
    path.write_bytes(content)
    assert not database.check(path)
    with pytest.raises(DamagedDatabase):
        database.check_pages(path)


def test_no_database_and_an_empty_one_are_made(tmp_path: Path) -> None:
    assert database.check(tmp_path / "x.db")
    (tmp_path / "x.db").touch()
    assert database.check(tmp_path / "x.db") and not database.check(small_database(tmp_path / "y.db"))


def test_a_locked_database_is_no_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    path = small_database(tmp_path / "x.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MirrorError, match="locked") as raised:
            database.check(path)
    assert not isinstance(raised.value, DamagedDatabase) and "fuser" in raised.value.problems[0].hint
    assert not database.check(path)


def test_a_path_that_sqlite_does_not_open_is_told_by_its_length(tmp_path: Path) -> None:
    folder = tmp_path
    while len(os.fsencode(folder)) <= addresses.SQLITE_PATH_BYTES:
        folder /= "d" * 100
    with pytest.raises(MirrorError, match="bytes long") as raised:
        database.check(folder / "x.db")
    assert "GFL_LAB_HOME" in raised.value.problems[0].hint
    longest = Path(str(folder)[: addresses.SQLITE_PATH_BYTES - len("/xx.db")] + "/xx.db")
    longest.parent.mkdir(parents=True)
    assert len(os.fsencode(longest)) == addresses.SQLITE_PATH_BYTES
    with contextlib.closing(sqlite3.connect(longest)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (a)")


def test_nothing_is_lost_when_a_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / naming.MLFLOW_DB
    for content in ("first", "second"):
        path.write_text(content)
        path.with_name(f"{path.name}-wal").write_text(f"wal of {content}")
        kept = database.set_aside(path)
        assert kept.read_text() == content and kept.with_name(f"{kept.name}-wal").read_text() == f"wal of {content}"
    assert len(list(tmp_path.iterdir())) == 4


TORN = {"empty": b"", "torn": b'{"format": 1, "vari', "deep": b"[" * 100_000, "a list": b"[]", "of another shape": b'{"variants": 3}'}


@pytest.mark.parametrize("content", TORN.values(), ids=list(TORN))
def test_a_torn_plan_is_told_with_the_way_out(cli: Cli, tmp_path: Path, content: bytes) -> None:
    tree = write_fake_tree(tmp_path / "runs", epochs=1, train_images=4, val_images=1)
    path = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    path.write_bytes(content)
    code, _, err = cli("table", ROOT / "experiments" / "table3_qfl_dfl.yaml", "--profile", "desk")
    assert code == 2 and "Move it away" in err and "internal error" not in err
    code, _, err = cli("status")
    assert code == 0 and "Move it away" in err

    from gfl_lab.maintenance.run_files import plans
    from gfl_lab.tracking.mlflow_payload import read_plan

    with pytest.raises(StoreError, match="Move it away"):
        read_plan(tree, "table3_qfl_dfl", "desk")
    assert list(plans(tree, repair=False)) == [] and path.exists()
    ((ok, text),) = plans(tree, repair=True)
    assert ok and "run table3_qfl_dfl again" in text
    assert path.with_name("plan.json.damaged").read_bytes() == content and tree.experiments() == []


# --- the whole way --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["garbage", pytest.param("truncated", marks=pytest.mark.exhaustive)])
def test_doctor_replaces_a_damaged_database(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from gfl_lab.maintenance.doctor import CHECKS

    for check in ("detector", "packages", "sockets", "processes", "ray"):
        monkeypatch.setitem(CHECKS, check, lambda tree, repair: iter(()))
    skip_checks(monkeypatch.setattr)
    tree = write_fake_tree(tmp_path / "runs", epochs=1, train_images=4, val_images=1)
    path = tree.root / naming.MLFLOW_DB
    damage(path, kind)
    content = path.read_bytes()
    code, _, err = cli("sync")
    assert code == 6 and "doctor --repair" in err and path.read_bytes() == content
    code, out, _ = cli("doctor")
    assert code == 6 and "is damaged" in out and path.read_bytes() == content
    code, out, err = cli("doctor", "--repair")
    assert code == 0 and "kept as mlflow.db.damaged-1" in out, out + err
    assert path.with_name("mlflow.db.damaged-1").read_bytes() == content
    with sqlite_reader(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM runs").fetchone() == (5,)
    assert cli("doctor")[0] == 0


@pytest.mark.slow
def test_files_of_a_database_that_was_moved_away_do_not_get_into_the_new_one(tmp_path: Path) -> None:
    tree = RunTree(tmp_path)
    wal = tmp_path / f"{naming.MLFLOW_DB}-wal"
    with contextlib.closing(sqlite3.connect(tmp_path / naming.MLFLOW_DB)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE of_the_old_one (a)")
        connection.commit()
        shutil.copy(wal, tmp_path / "kept")
    (tmp_path / naming.MLFLOW_DB).unlink()
    (tmp_path / "kept").replace(wal)
    Mirror(tree, tree.mlflow_uri).prepare()
    with sqlite_reader(tmp_path / naming.MLFLOW_DB) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "runs" in tables and "of_the_old_one" not in tables


@pytest.mark.slow
def test_a_run_under_a_path_of_every_kind_of_character(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_db: Path) -> None:
    """Trains in this process, mirrors, syncs in another; the artifacts are read back, and nothing lies beside the tree."""
    folder = tmp_path / NASTY / "-dash%00"
    (folder / "profiles").mkdir(parents=True)
    (folder / "profiles" / "tiny.yaml").write_text(PROFILE.replace("EPOCHS", "1"))
    file = folder / f"-{NASTY}.yaml"
    file.write_text("name: smoke\nprofile: tiny\naxes: {dfl: [true]}\ntable: {metrics: [AP]}\n")
    (folder / "runs").mkdir()
    shutil.copy(mlflow_db, folder / "runs" / naming.MLFLOW_DB)
    monkeypatch.setenv("GFL_LAB_HOME", str(folder / "runs"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(folder)
    code, out, err = cli("run", "--executor", "inline", "--", file.name)
    assert code == 0 and "warning" not in err, err + out
    command = [sys.executable, "-m", "gfl_lab.cli.main", "sync"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "up to date" in done.stdout, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("a%")] == [NASTY]
    tree = RunTree((folder / "runs").resolve())

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tree.mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    assert len(runs) == 2 and {run.info.status for run in runs} == {"FINISHED"}
    (child,) = [run for run in runs if run.data.tags[naming.TAG_KIND] == "trial"]
    (trial,) = tree.trials()
    fetched = Path(client.download_artifacts(child.info.run_id, naming.RESULT, str(tmp_path)))
    assert fetched.read_bytes() == trial.file(naming.RESULT).read_bytes()
