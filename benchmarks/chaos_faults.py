"""Faults of the chaos run, and the processes that they hit (docs/chaos.md)."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gfl_lab import naming
from gfl_lab.rundir import RunTree, TrialDir, TrialState

ROOT = Path(__file__).resolve().parents[1]


def of_home(home: Path) -> dict[int, str]:
    """Command lines of living processes whose environment names this run tree, by pid."""
    mark, found = f"GFL_LAB_HOME={home}".encode(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if (
                mark in (entry / "environ").read_bytes().split(b"\0")
                and (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            ):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; whether there was a process to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Server:
    """An MLflow server of this round's own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.process = folder, None
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()
        self.wait()

    def start(self) -> None:
        if self.process and self.process.poll() is None:
            return  # two faults in a row each wanted it back
        (self.folder / "artifacts").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", f"{self.folder}/artifacts"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        end = time.time() + 120
        while time.time() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the MLflow server did not start; see {self.folder / 'log.txt'}")

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def empty(self) -> None:
        for file in self.folder.glob("mlflow.db*"):
            file.unlink()


class Command:
    """gfl-lab as a process of its own over the run tree ``home``; what it says goes to ``said``."""

    def __init__(self, home: Path, uri: str | None, said: Path, *arguments: str) -> None:
        environment = os.environ | {"GFL_LAB_HOME": str(home), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        if uri:
            environment["MLFLOW_TRACKING_URI"] = uri
        self.file = said
        with said.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gfl_lab.cli.main", *arguments],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def said(self) -> str:
        return self.file.read_text(errors="replace")

    def running(self) -> bool:
        return self.process.poll() is None

    def end(self) -> int:
        return self.process.wait()


@dataclass
class Scene:
    """The targets of a fault: the run tree, the command that runs now, the round's MLflow server, and what is to come later."""

    home: Path
    rng: random.Random
    start: Callable[[], Command]
    server: Server | None = None
    command: Command | None = None
    problems: list[str] = field(default_factory=list)
    later: list[tuple[float, int, Callable[[], Any]]] = field(default_factory=list)

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        heapq.heappush(self.later, (time.time() + seconds, next(_ORDER), action))

    def due(self, everything: bool = False) -> None:
        """Do what was put off until now; or all of it."""
        while self.later and (everything or self.later[0][0] <= time.time()):
            heapq.heappop(self.later)[2]()

    def running(self) -> list[TrialDir]:
        return [trial for trial in RunTree(self.home).trials() if trial.state() is TrialState.RUNNING]

    def trial_pid(self) -> tuple[TrialDir, int] | None:
        """A trial that is running, and its process."""
        trials = self.running()
        trial = self.rng.choice(trials) if trials else None
        lease = trial.lease() if trial else None
        pid = lease.pid if lease else None
        return (trial, pid) if pid in of_home(self.home) else None

    def one(self, *words: str) -> int | None:
        """A process of the run tree that has all these words in its command line."""
        found = sorted(pid for pid, line in of_home(self.home).items() if all(word in line for word in words))
        return self.rng.choice(found) if found else None


_ORDER = itertools.count()


def trial_kill(scene: Scene) -> bool:
    found = scene.trial_pid()
    return found is not None and kill(found[1])


def torn_checkpoint(scene: Scene) -> bool:
    found = scene.trial_pid()
    if found is None or not (file := found[0].file(naming.LAST_CHECKPOINT)).exists() or not kill(found[1], signal.SIGSTOP):
        return False
    os.truncate(file, scene.rng.randrange(file.stat().st_size))
    return kill(found[1])


def forkserver_kill(scene: Scene) -> bool:
    """A server: not a trial's process, which has the same command line."""
    found = {pid for pid, line in of_home(scene.home).items() if "gfl_lab.orchestrate.forkserver" in line}
    with contextlib.suppress(psutil.Error):
        parents = {pid: psutil.Process(pid).ppid() for pid in found}
        servers = sorted(pid for pid in found if parents[pid] not in found or pid in parents.values())
        return bool(servers) and kill(scene.rng.choice(servers))
    return False


def actor_kill(scene: Scene) -> bool:
    pid = scene.one("ray::", "Trainable")
    return pid is not None and kill(pid)


def raylet_kill(scene: Scene) -> bool:
    pid = scene.one("/raylet/raylet ")
    return pid is not None and kill(pid)


def driver_kill(scene: Scene) -> bool:
    return kill(scene.command.pid)


def _asked(scene: Scene, numbers: list[int]) -> bool:
    """Send signals to a command that has said its first word: before that no program of ours is there to be asked."""
    if not scene.command.said():
        return False
    kill(scene.command.pid, numbers[0])
    for number in numbers[1:]:
        scene.after(
            scene.rng.uniform(0.05, 1.5), lambda command=scene.command, number=number: command.running() and kill(command.pid, number)
        )
    return True


def sigint(scene: Scene) -> bool:
    return _asked(scene, [signal.SIGINT])


def sigint_twice(scene: Scene) -> bool:
    return _asked(scene, [signal.SIGINT, signal.SIGINT])


def sigterm(scene: Scene) -> bool:
    return _asked(scene, [signal.SIGTERM])


def two_drivers(scene: Scene) -> bool:
    if not scene.running():
        return False
    second = scene.start()
    code, said = second.end(), second.said()
    if scene.command.running() and (code != 2 or f"process {scene.command.pid} " not in said or "since" not in said):
        scene.problems.append(f"the second driver ended with {code}: {said[-300:]}")
    return True


def mlflow_away(scene: Scene) -> bool:
    scene.server.kill()
    scene.after(scene.rng.uniform(3, 15), scene.server.start)
    return True


def mlflow_slow(scene: Scene) -> bool:
    scene.server.signal(signal.SIGSTOP)
    scene.after(scene.rng.uniform(3, 15), lambda: scene.server.signal(signal.SIGCONT))
    return True


def mlflow_emptied(scene: Scene) -> bool:
    scene.server.kill()
    scene.server.empty()
    scene.after(scene.rng.uniform(0, 5), scene.server.start)
    return True


def disk_full(scene: Scene) -> bool:
    ballast = scene.home / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(2**16))
    scene.after(scene.rng.uniform(2, 8), lambda: ballast.unlink(missing_ok=True))
    return True


FAULTS: dict[str, Callable[[Scene], bool]] = {
    function.__name__: function
    for function in (
        trial_kill, torn_checkpoint, forkserver_kill, actor_kill, raylet_kill, driver_kill, sigint, sigint_twice, sigterm, two_drivers,
        mlflow_away, mlflow_slow, mlflow_emptied, disk_full,
    )
}  # fmt: skip
"""Each breaks something now and says whether there was something to break."""
NEED_SERVER = {"mlflow_away", "mlflow_slow", "mlflow_emptied"}
