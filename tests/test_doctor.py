"""`gfl-lab doctor` finds what was broken on purpose, repairs it when told to, and leaves the living alone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from gfl_lab import naming
from gfl_lab.maintenance import machine
from gfl_lab.maintenance.doctor import CHECKS
from gfl_lab.orchestrate import orphans, resources
from gfl_lab.orchestrate.measure import WARM_UP_PREFIX
from gfl_lab.processes import GUARD
from gfl_lab.records.files import read_json, write_json
from gfl_lab.rundir import RunTree
from gfl_lab.tracking.mirror import Mirror
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree
from tests.support.processes import alive, family, left_after
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
FAKES = "tests.support.fake_trial"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command, on a run tree and a scratch folder of this test's; it sees no orphan of anybody else's."""
    everyone = orphans.orphans
    monkeypatch.setattr(orphans, "orphans", lambda: [orphan for orphan in everyone() if orphan.log.startswith(str(tmp_path))])
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(resources, "_gpus", lambda: ())
    monkeypatch.setitem(CHECKS, "detector", lambda tree, repair: iter(()))  # slow, and not asked here
    monkeypatch.setitem(CHECKS, "sockets", lambda tree, repair: iter(()))  # pytest's folders are longer than a socket's may be
    return runner(monkeypatch, capsys, "doctor")


def told(cli: Cli, *arguments: str) -> tuple[int, dict[str, list[tuple[bool, str]]]]:
    """Exit code, and (ok, message) by check."""
    code, out, _ = cli(*arguments, "--json")
    found: dict[str, list[tuple[bool, str]]] = {}
    for row in json.loads(out)["rows"]:
        found.setdefault(row["check"], []).append((row["ok"], row["message"]))
    return code, found


def age(path: Path, seconds: float = 2 * orphans.OLD_S) -> Path:
    when = time.time() - seconds
    os.utime(path, (when, when))
    return path


def test_stale_leases_and_half_written_files(cli: Cli, tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path / "runs", states={1: "interrupted", 2: "running"}, whole=True)
    dead, living = [next(t for t in tree.trials() if t.state() == state) for state in ("interrupted", "running")]
    done = next(trial for trial in tree.trials() if trial.state() == "done")
    write_json(dead.file(naming.LEASE), {"format": 1, "pid": 2**22 + 1, "start": 1, "host": os.uname().nodename, "since": 1.0})
    old = [done.path / ".last.pth.x.tmp", tree.experiment("table3_qfl_dfl", "desk") / ".plan.json.x.tmp"]
    young, written = done.path / ".result.json.y.tmp", living.path / ".last.pth.z.tmp"
    for path in (*old, young, written):
        path.write_text("half")
    warm = tree.root / naming.MEASURED_DIR / f"{WARM_UP_PREFIX}abc"
    (warm / "0").mkdir(parents=True)
    for path in (*old, written, warm):
        age(path)
    outside = tmp_path / "outside"
    outside.mkdir()
    linked = age(outside / ".a.b.tmp") if (outside / ".a.b.tmp").write_text("x") else None
    (tree.root / naming.EXPERIMENTS_DIR / "link").symlink_to(outside.parent, target_is_directory=True)

    code, found = told(cli)
    assert code == 6 and all(path.exists() for path in (*old, warm)) and dead.lease(), "dry without --repair"
    bad = [message for ok, message in found["runs"] if not ok]
    assert len(bad) == 4 and any(dead.id in message for message in bad) and all("--repair" in message for message in bad)
    assert told(cli, "--repair")[0] == 0
    assert not any(path.exists() for path in (*old, warm)) and not dead.lease()
    assert young.exists() and written.exists() and living.lease_alive() and linked is not None and linked.exists()
    assert told(cli)[0] == 0


def guard_of(trial: int) -> int:
    """The process that waits for the end of this one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == GUARD and f"Pid:\t{trial}\n" in Path(f"/proc/{process.pid}/fdinfo/0").read_text():
                return process.pid
    raise AssertionError(f"process {trial} has no guard")


def test_an_orphan_is_killed_and_a_driver_with_its_trial_is_not(cli: Cli, tmp_path: Path) -> None:
    """What a child has forked stays behind when its server and its guard are killed; here it is found, beside a living one."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    servers, supervisors, children = [], [], []
    for name in ("0123456789ab", "ba9876543210"):
        trial = tmp_path / name
        trial.mkdir()
        code = (
            "from gfl_lab.orchestrate.supervisor import *\n"
            f"p = TrialProcess({FAKES!r})\n"
            f"print(p._server._process.pid, flush=True)\np.run(Job({str(trial)!r}, {FAKES + ':sleep_with_child'!r}, {FAKES!r}, {{}}))"
        )
        supervisors.append(
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        )
        servers.append(int(supervisors[-1].stdout.readline()))
        wait_until((trial / "pids.json").exists)
        children.append(read_json(trial / "pids.json")["pids"])
    try:
        supervisors[0].send_signal(signal.SIGSTOP)  # it would start the trial anew
        os.kill(guard_of(children[0][0]), signal.SIGKILL)
        os.kill(servers[0], signal.SIGKILL)
        left_after(family(children[0][0])[:1], 10)
        lost = children[0][1]
        code, found = told(cli)
        assert code == 6 and [str(lost) in message for ok, message in found["processes"] if not ok] == [True]
        assert alive(lost)
        code, found = told(cli, "--repair")
        assert code == 0 and found["processes"][0][0] and "killed" in found["processes"][0][1]
        assert not left_after(family(lost)[:1], 10)
        assert all(alive(pid) for pid in (supervisors[1].pid, servers[1], *children[1])), "whoever is held lives on"
        assert told(cli)[1]["processes"] == [(True, "no process of a dead driver")]
    finally:
        for process in supervisors:
            process.kill()
            process.wait()
        for pid in (servers[0], *children[0]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("listed", "seen", "words"),
    [
        (0, 0, []),
        (1, 1, [(True, "CUDA works: H100")]),
        (2, 0, [(False, "nvidia-smi lists 2 GPUs, but CUDA does not work in torch")]),
        (0, 1, [(False, "CUDA sees 1 GPU, but nvidia-smi is missing or lists none")]),
    ],
)
def test_gpus_that_trials_cannot_use_are_told(
    monkeypatch: pytest.MonkeyPatch, listed: int, seen: int, words: list[tuple[bool, str]]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(seen))
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "H100")
    found = list(machine.gpus(listed))
    assert [(ok, message[: len(text)]) for (ok, message), (_, text) in zip(found, words, strict=True)] == words


def test_a_pid_that_was_given_away_is_not_killed() -> None:
    mine = psutil.Process()
    assert not orphans.Orphan(mine.pid, mine.create_time() - 1000, "").kill()
    assert not orphans.Orphan(2**22 + 1, 1.0, "").kill()


def test_sessions_of_dead_drivers_are_told_from_living_ones(cli: Cli, tmp_path: Path) -> None:
    scratch = tmp_path / "t" / f"gfl-lab-{os.getuid()}"
    scratch.mkdir(mode=0o700)
    dead = scratch / "r" / f"session_2026-01-01_00-00-00_000000_{2**22 + 1}"
    living = scratch / "r" / f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    named = scratch / "r" / f"session_2026-01-01_00-00-01_000000_{2**22 + 2}"
    tune = scratch / "tune-abc"
    for folder in (dead / "logs", living, named, tune):
        folder.mkdir(parents=True)
    age(tune)
    raylet = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", f"--session={named}"])
    try:
        assert orphans.stale_ray_sessions() == [dead]
        code, found = told(cli, "--repair")
        assert code == 0 and "1 folder of dead Ray sessions" in found["ray"][0][1]
        assert not dead.exists() and living.exists() and named.exists() and tune.exists()
    finally:
        raylet.kill()
        raylet.wait()
    living.rmdir()
    assert orphans.stale_ray_sessions() == [named, tune], "Tune's folders go when no session lives"


@pytest.mark.slow
def test_mlflow_of_an_older_schema_and_runs_left_running(cli: Cli, tmp_path: Path, mlflow_db: Path) -> None:
    """A driver dies: its runs say RUNNING. Then an older MLflow's database: it is raised, and a copy kept."""
    tree = write_fake_tree(tmp_path / "runs", states={0: "running"}, whole=True)
    shutil.copy(mlflow_db, tree.root / naming.MLFLOW_DB)
    mirror = Mirror(tree)
    mirror.prepare()
    mirror.sync("table3_qfl_dfl", "desk")
    assert told(cli)[0] == 6, "the trial runs, but no driver does"
    trial = next(trial for trial in tree.trials() if trial.lease())
    trial.drop_lease()
    code, found = told(cli)
    assert code == 6 and any("2 runs of table3_qfl_dfl (desk) as running" in message for ok, message in found["mlflow"] if not ok)

    def running() -> list[str]:
        with contextlib.closing(sqlite3.connect(tree.root / naming.MLFLOW_DB)) as connection:
            return [row[0] for row in connection.execute("SELECT run_uuid FROM runs WHERE status = 'RUNNING'")]

    assert len(running()) == 2
    assert told(cli, "--repair")[0] == 0 and running() == []
    assert told(cli)[0] == 0

    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    config = _get_alembic_config(tree.mlflow_uri)
    command.downgrade(config, "-1")
    code, found = told(cli)
    assert code == 6 and any("has schema" in message and "--repair" in message for ok, message in found["mlflow"] if not ok)
    assert told(cli, "--repair")[0] == 0 and list(tree.root.glob("mlflow.db.*.bak"))
    assert told(cli)[0] == 0


def test_an_empty_place_is_in_order_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    code, found = told(cli)
    assert code == 0 and found["mlflow"] == [(True, "no MLflow database yet")] and not (tmp_path / "runs").exists()
    assert any("tested" in message for _, message in found["packages"]) and RunTree(tmp_path / "runs").trials() == []


def test_a_version_that_was_not_asked_for_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"mmdet": "3.2.0", "pandas": "0.1"}.get(name) or real(name))
    code, found = told(cli)
    assert code == 6 and any(not ok and "mmdet 3.2.0, not <3.4,>=3.3" in message for ok, message in found["packages"])
    assert any(ok and "pandas 0.1 (tested:" in message for ok, message in found["packages"])
