"""Runs trials one after the other, each in a process of its own, and judges how each ended by its run directory."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import FailureKind
from gfl_lab.orchestrate.forkserver import EXIT_INTERRUPTED
from gfl_lab.rundir import TrialDir, TrialState, write_json

MAX_LOST = 2
"""A trial whose process vanishes (kill -9, out of host memory) goes on from its checkpoint this many times."""


LEASE_WAIT_S = 30.0


@dataclass(frozen=True)
class Job:
    """What an executor is given: where a trial lives and how to call what runs it.

    Args:
        path: the run directory, with a manifest.
        entry: ``module:function``; called with ``path`` and ``kwargs``.
        preload: module imported once, before the first trial.
    """

    path: str
    entry: str
    preload: str
    kwargs: dict[str, Any]


class TrialProcess:
    """A fork server and, while a trial runs, its child."""

    def __init__(self, preload: str) -> None:
        self._errors = tempfile.TemporaryFile()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "gfl_lab.orchestrate.forkserver", preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,
        )

    def run(self, job: Job) -> TrialState:
        """Run a trial to its end: done, failed or interrupted. A lost process is started again, at most ``MAX_LOST`` times.

        A trial that another driver runs (two experiments may share it) is left to it, and nothing of it is touched: running.
        """
        trial = TrialDir(Path(job.path))
        self._wait_for_lease(trial)
        for attempt in range(MAX_LOST + 1):
            code = self._once(job)
            state = trial.state()
            if code == EXIT_INTERRUPTED or state in (TrialState.DONE, TrialState.FAILED, TrialState.RUNNING):
                return state
            if os.path.exists(job.kwargs.get("stop_file", "")):
                return TrialState.INTERRUPTED
            lost = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            with trial.file(naming.LOG).open("a") as log:
                log.write(f"gfl-lab: the trial's process was {lost} (attempt {attempt + 1} of {MAX_LOST + 1})\n")
        failure = {
            "kind": FailureKind.LOST_PROCESS,
            "reason": f"the trial's process was {lost}, {MAX_LOST + 1} times; often the machine ran out of memory",
            "step": 0,
            "epoch": 0,
        }
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(
            trial.file(naming.RESULT),
            {"format": naming.FORMAT_VERSION, "trial": trial.id, "status": "failed", "failure": failure, "finished": finished},
        )
        trial.drop_lease()
        return TrialState.FAILED

    @staticmethod
    def _wait_for_lease(trial: TrialDir) -> None:
        """The process of a killed actor takes a moment to die; starting before would meet its lease."""
        end = time.monotonic() + LEASE_WAIT_S
        while trial.lease_alive() and time.monotonic() < end:
            time.sleep(0.1)

    def _once(self, job: Job) -> int:
        request = {"entry": job.entry, "kwargs": {"path": job.path, **job.kwargs}, "log": str(Path(job.path) / naming.LOG)}
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        while True:
            line = self._server.stdout.readline()
            if not line:
                self._errors.seek(0)
                words = self._errors.read().decode(errors="replace").strip().splitlines()
                raise RuntimeError(f"the process that starts trials ended: {words[-1] if words else 'no message'}")
            message = json.loads(line)
            if "exit" in message:
                return message["exit"]

    def close(self) -> None:
        """End the server and whatever it runs."""
        self._server.stdin.close()
        self._errors.close()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
