"""The driver is killed, stopped, stopped at once, or started twice: real processes, trials that only wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.chaos_faults import of_home
from gfl_lab import naming
from gfl_lab.data.ambiguous_shapes import AmbiguousShapesSpec
from gfl_lab.orchestrate import driver
from gfl_lab.records.files import write_json
from gfl_lab.rundir import RunTree, TrialState
from tests.support.processes import command_line, family

ROOT = Path(__file__).parents[1]
PROFILE = """
name: tiny
title: a smoke profile
data: {train_images: 8, val_images: 8, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 8, neck_channels: 16, head_channels: 16, head_convs: 1, strides: [8, 16, 32], epochs: 1, batch_size: 8,
  image_size: [128, 128]}
"""
WITH_FAKES = """
import sys
import gfl_lab.session.entries
from gfl_lab.cli.main import main
from gfl_lab.session import session
from tests.support.no_mirror import NoMirror
session.start_mirror = NoMirror
gfl_lab.session.entries.TRIAL_ENTRY = sys.argv.pop(1)
main()
"""


class Lab:
    """A folder with an experiment of two trials, and gfl-lab run over it as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.tree = RunTree(folder / "runs")
        (folder / "profiles").mkdir(parents=True)
        (folder / "profiles/tiny.yaml").write_text(PROFILE)
        self.file = folder / "two trials.yaml"
        self.file.write_text("name: two\nprofile: tiny\naxes: {dfl: [false, true]}\n")
        self.said, self.starts = folder / "said-0.txt", 0

    def start(self, entry: str, *options: str) -> subprocess.Popen[str]:
        environment = os.environ | {"GFL_LAB_HOME": str(self.tree.root), "PYTHONPATH": str(ROOT)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-c", WITH_FAKES, f"tests.{entry}", "run", str(self.file), *options]
        self.starts += 1
        self.said = self.said.with_name(f"said-{self.starts}.txt")  # of the last one started
        with self.said.open("w") as said:
            return subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)

    def wait_for(self, condition: Callable[[], object], seconds: float = 120.0) -> None:
        end = time.time() + seconds
        while not condition():
            assert time.time() < end, self.said.read_text()
            time.sleep(0.05)

    def is_asked_to_stop(self) -> bool:
        """Return True if the driver has taken a first signal."""
        return any(self.tree.root.rglob(naming.STOP_REQUEST))

    def running(self) -> int:
        return sum(trial.state() is TrialState.RUNNING for trial in self.tree.trials())


def waits_for_a_lock(pid: int) -> bool:
    """Return True if the process is blocked by a file lock of another one."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any("->" in words and str(pid) in words for words in lines)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    for pid in of_home(made.tree.root):  # of a test that failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_second_driver_is_refused_and_after_a_kill_the_same_command_goes_on_at_once(lab: Lab) -> None:
    first = lab.start("support.fake_trial:stuck")
    lab.wait_for(lambda: lab.running() == 2)
    second = lab.start("support.fake_trial:succeed")
    assert second.wait(60) == 2
    said = lab.said.read_text()
    assert f"run already, by process {first.pid} on " in said and " since 20" in said and "Ctrl-C" in said
    assert lab.running() == 2, "the second one touches nothing"

    # Ray's own agents take up to two minutes to go: test_run.py waits for those.
    killed = {pid for pid in of_home(lab.tree.root) if pid != first.pid and any("gfl_lab" in command_line(p) for p in family(pid)[:1])}
    assert len(killed) >= 2
    first.kill()
    first.wait()
    third = lab.start("support.fake_trial:succeed", "--executor", "inline")  # while the trials of the first are dying
    assert third.wait(200) == 0, lab.said.read_text()
    assert {trial.state() for trial in lab.tree.trials()} == {TrialState.DONE}
    lab.wait_for(lambda: not killed & of_home(lab.tree.root).keys())


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_second_ctrl_c_stops_trials_that_hear_nothing(lab: Lab) -> None:
    process = lab.start("support.fake_trial:stuck")
    lab.wait_for(lambda: lab.running() == 2)
    process.send_signal(signal.SIGINT)
    lab.wait_for(lab.is_asked_to_stop)
    assert process.poll() is None and lab.running() == 2, "the first one asks and waits"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, lab.said.read_text()
    assert "continue with:  gfl-lab run '" in lab.said.read_text() and "Traceback" not in lab.said.read_text()
    assert lab.running() == 0
    lab.wait_for(lambda: not of_home(lab.tree.root))


@pytest.mark.slow
def test_the_first_of_two_signals_decides_the_exit_code(lab: Lab) -> None:
    process = lab.start("support.fake_trial:stuck", "--executor", "inline")
    lab.wait_for(lambda: lab.running() == 1)
    process.send_signal(signal.SIGTERM)
    lab.wait_for(lab.is_asked_to_stop)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 143
    assert "continue with:  gfl-lab run '" in lab.said.read_text() and "Traceback" not in lab.said.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_any_trial_runs_stops_at_once(lab: Lab, number: int, code: int) -> None:
    data = lab.tree.root / "data"
    data.mkdir(parents=True)
    folder = AmbiguousShapesSpec(train_images=8, val_images=8, size=128, seed=0).folder
    with (data / f".{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process makes the data set
        process = lab.start("support.fake_trial:succeed", "--executor", "inline")
        lab.wait_for(lambda: "generating" in lab.said.read_text())
        lab.wait_for(lambda: waits_for_a_lock(process.pid))
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == code
    assert "continue with:  gfl-lab run '" in lab.said.read_text() and "Traceback" not in lab.said.read_text()


def test_a_driver_that_was_killed_is_told_from_one_that_ended(tmp_path: Path) -> None:
    (tmp_path / ".plan.json.abc.tmp").write_text("half")
    with driver.only_driver(tmp_path) as killed:
        assert not killed
    with contextlib.suppress(KeyboardInterrupt), driver.only_driver(tmp_path) as killed:
        assert not killed
        raise KeyboardInterrupt
    with driver.only_driver(tmp_path) as killed:
        assert killed
    with driver.only_driver(tmp_path) as killed:
        assert not killed
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_dying_trials_are_waited_for_and_others_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ORPHANS_S", 1.0)
    tree = RunTree(tmp_path)
    trial = tree.trial("0" * 12)
    trial.path.mkdir(parents=True)
    with subprocess.Popen(["sleep", "0.4"]) as dying:
        start = int(Path(f"/proc/{dying.pid}/stat").read_text().rpartition(")")[2].split()[19])
        lease = {"format": naming.FORMAT_VERSION, "pid": dying.pid, "start": start, "host": os.uname().nodename, "since": time.time()}
        write_json(trial.file(naming.LEASE), lease)
        assert trial.lease_alive()
        driver.wait_for_orphans([type("Trial", (), {"id": trial.id})], tree)
        assert not trial.lease_alive()
    write_json(trial.file(naming.LEASE), lease | {"host": "elsewhere"})
    driver.wait_for_orphans([type("Trial", (), {"id": trial.id})], tree)
    assert trial.lease_alive(), "it is another machine's: the wait has an end"
