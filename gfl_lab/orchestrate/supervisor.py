"""Runs trials one after the other, each in a process of its own, and judges how each ended by its run directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import RETRY, DiskFull, FailureKind, Retry, StoreError
from gfl_lab.orchestrate.stop_limit import LOOK_S, STOP_WAIT_S, StopLimit
from gfl_lab.processes import EXIT_INTERRUPTED
from gfl_lab.records.accumulation import Accumulation
from gfl_lab.records.result import Failed, Failure, Interrupted, now, write_result
from gfl_lab.rundir import LEASE_STALE_S, RESERVE_BYTES, TrialDir, TrialState

MAX_LOST = 2
"""A trial whose process vanishes goes on from its checkpoint this many times without getting further than it ever was."""

END_S = 5
"""Seconds for a server to leave once its stdin has ended."""

KILL_S = 30.0
"""Seconds for a killed trial to be gone; one with a large memory takes some."""

LEASE_WAIT_S = 2 * LEASE_STALE_S + 30
"""Seconds for which the former process of a trial may hold it. On another host that is until its lease is stale; and where that host
has only lost the cluster, Ray ends it there after a minute."""


@dataclass(frozen=True)
class Job:
    """The work of an executor: the folder of a trial, and the function that runs it.

    Args:
        path: the run directory, with a manifest.
        entry: ``module:function``; called with ``path`` and ``kwargs``.
        preload: module imported once, before the first trial; empty where each trial begins in a fresh interpreter, as it must
            to use a GPU.
        link: how a node without the driver's disk finds the trial (run_sync.Link), else None.
        stop_wait_s: time in s that the trial has to stop once it is asked to; then its process is ended.
    """

    path: str
    entry: str
    preload: str
    kwargs: dict[str, Any]
    link: dict[str, Any] | None = None
    stop_wait_s: float = STOP_WAIT_S

    @property
    def stop_file(self) -> str:
        """Return the file that asks the trial to stop; empty if there is none."""
        return str(self.kwargs.get("stop_file", ""))

    @property
    def asked_to_stop(self) -> bool:
        """Return True if the trial is asked to stop."""
        return os.path.exists(self.stop_file)


class Attempts:
    """Judges after each failed attempt at a trial whether there is another: the retry policy, for whichever executor."""

    def __init__(self, trial: TrialDir) -> None:
        self._trial = trial
        self._lost, self._reached = 0, len(trial.metric_lines())

    def another(self, kind: FailureKind) -> bool:
        """Return True if a trial that failed in this way is to be run again now. After running out of memory, it gets smaller batches."""
        if RETRY[kind] is Retry.IN_PARTS:
            return self._in_more_parts()
        if RETRY[kind] is Retry.GO_ON:
            # Each loss that does not count has more lines than any before it: so there is an end to this.
            reached = len(self._trial.metric_lines())
            if reached > self._reached:
                self._lost, self._reached = 0, reached
            self._lost += 1
            return self._lost <= MAX_LOST
        return False

    def another_after(self, state: TrialState) -> bool:
        """Return ``another`` for a trial that has written its result."""
        try:
            result = self._trial.result() if state is TrialState.FAILED else None
            return isinstance(result, Failed) and self.another(FailureKind(result.failure.kind))
        except (StoreError, ValueError):  # damaged, or a kind of a newer version
            return False

    def _in_more_parts(self) -> bool:
        try:
            batch = int(self._trial.manifest().settings["batch_size"])
            before = self._trial.accumulation() or Accumulation(1)
        except (StoreError, LookupError, TypeError, ValueError):
            return False
        parts = min(2 * before.parts, batch)
        if parts == before.parts:
            self._trial.log(f"out of memory with single images: a batch of {batch} cannot be split further")
            return False
        self._trial.write_accumulation(Accumulation(parts, before.since_step))
        self._trial.log(f"out of memory: each batch of {batch} is done in {parts} parts from here on, their gradients are added up")
        return True


def oom_kills() -> int:
    """Return the number of processes that the kernel has killed for want of memory, in this control group if possible, else on this host."""
    with contextlib.suppress(OSError):
        group = next((line.split("::", 1)[1].strip("/\n") for line in open("/proc/self/cgroup") if line.startswith("0::")), "")
        for folder in (Path("/sys/fs/cgroup") / group, Path("/sys/fs/cgroup")):
            if (file := folder / "memory.events").exists():
                return _counter(file, "oom_kill")
        if (file := Path("/sys/fs/cgroup/memory/memory.oom_control")).exists():
            return _counter(file, "oom_kill") + _counter(Path("/proc/vmstat"), "oom_kill")
        return _counter(Path("/proc/vmstat"), "oom_kill")
    return 0


def _counter(file: Path, name: str) -> int:
    lines = (line.split() for line in file.read_text().splitlines())
    return next((int(value) for key, value in (words for words in lines if len(words) == 2) if key == name), 0)


class Server:
    """A fork server (forkserver.py), seen from the process whose trials it starts and with which it ends.

    Args:
        preload: the module that it has imported before it forks; empty: each of its trials is a fresh interpreter.
        threads: of a trial; libraries that count the machine's cores when they are imported get this number instead.
    """

    def __init__(self, preload: str, threads: int | None = None) -> None:
        self._errors = tempfile.TemporaryFile()
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ if threads else None
        command = [sys.executable, "-P", "-m", "gfl_lab.orchestrate.forkserver", preload]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, start_new_session=True, bufsize=0
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def call(self, request: dict[str, Any], limit: StopLimit) -> int:
        """Have a child do what is requested; return its exit code, negative where a signal ended it.

        Args:
            limit: the child is killed once it is exceeded.

        Raises:
            RuntimeError: the server has ended; with the last line of its error messages. Or the child does not die.
        """
        self._send(request)
        killed = 0.0
        while True:
            if not select.select([self._answers], [], [], LOOK_S)[0]:
                if killed and time.monotonic() - killed > KILL_S:
                    raise RuntimeError("a trial was asked to stop, and neither stops nor can be killed: its device or disk may hang")
                if not killed and limit.exceeded:
                    self._send({"kill": True})
                    killed = time.monotonic()
                continue
            line = self._answers.readline()
            if not line:
                break
            message = json.loads(line)
            if "exit" in message:
                return int(message["exit"])
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"the process that starts trials ended: {words[-1] if words else 'no message'}")

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._requests.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """End the server and whatever it runs. `call` may wait in another thread, and raises then."""
        self._requests.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._answers.close()
        self._errors.close()


class TrialProcess:
    """A fork server and, while a trial runs, its child.

    A trial has a GPU only with an empty ``preload``.

    Args:
        preload, threads: as of `Server`.
    """

    def __init__(self, preload: str, threads: int | None = None) -> None:
        self._server = Server(preload, threads)

    def run(self, job: Job) -> TrialState:
        """Run a trial to its end: done, failed or interrupted. Failures are tried again as ``RETRY`` has it.

        A trial that another driver runs (two experiments may share it) is left to it, and nothing of it is touched: running.
        One that is asked to stop and does not is ended after ``job.stop_wait_s``: interrupted.

        Raises:
            DiskFull: there is no room for even the outcome. FormatError: the result is another gfl-lab's.
        """
        trial = TrialDir(Path(job.path))
        self._wait_for_lease(trial, job)
        attempts, limit = Attempts(trial), StopLimit(lambda: job.asked_to_stop, job.stop_wait_s)
        while True:
            kills = oom_kills()
            code = self._once(job, limit)
            state = trial.state()
            if code == EXIT_INTERRUPTED or state in (TrialState.DONE, TrialState.RUNNING):
                return state
            stop = job.asked_to_stop
            if state is TrialState.FAILED:
                if not stop and attempts.another_after(state):
                    continue
                return state
            if stop:
                if limit.exceeded:
                    trial.log(limit.reason)
                    _write_result(trial, Interrupted(trial=trial.id, reason=limit.reason, finished=now()))
                return TrialState.INTERRUPTED
            failure = _why_lost(trial, code, killed_for_memory=oom_kills() > kills)
            trial.log(failure.reason)
            if not attempts.another(FailureKind(failure.kind)):
                _write_failure(trial, failure)
                return TrialState.FAILED

    @staticmethod
    def _wait_for_lease(trial: TrialDir, job: Job) -> None:
        """Wait for the lease: the process of a killed actor takes a moment to die, and still holds it."""
        end = time.monotonic() + LEASE_WAIT_S
        while trial.lease_alive() and time.monotonic() < end and not job.asked_to_stop:
            time.sleep(0.1)

    def _once(self, job: Job, limit: StopLimit) -> int:
        request = {"entry": job.entry, "kwargs": {"path": job.path, **job.kwargs}, "log": str(Path(job.path) / naming.LOG)}
        return self._server.call(request, limit)

    def close(self) -> None:
        """End the server and whatever it runs."""
        self._server.close()


def _why_lost(trial: TrialDir, code: int, *, killed_for_memory: bool) -> Failure:
    """Return the failure of a trial whose process ended without a result."""
    lines = trial.metric_lines()
    step, epoch = (lines[-1].step, lines[-1].epoch) if lines else (0, 0)
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    kind, reason = FailureKind.LOST_PROCESS, f"the trial's process was {how} after step {step}"
    if code == -signal.SIGKILL and killed_for_memory:
        kind, reason = FailureKind.OUT_OF_MEMORY, f"{reason}: the kernel had run out of memory"
    elif code > 0 and (free := shutil.disk_usage(trial.path).free) < RESERVE_BYTES:
        kind = FailureKind.DISK_FULL
        reason = f"{reason}: no space left on the disk of {trial.path}, {free} bytes are free. Make room and give the same command again."
    return Failure(kind, reason, step, epoch)


def _write_failure(trial: TrialDir, failure: Failure) -> None:
    if failure.kind == FailureKind.LOST_PROCESS:
        failure = replace(failure, reason=f"{failure.reason}, {MAX_LOST + 1} times without getting further")
    _write_result(trial, Failed(trial=trial.id, failure=failure, finished=now()))


def _write_result(trial: TrialDir, result: Failed | Interrupted) -> None:
    """Write how a trial ended whose process could not. Raises DiskFull."""
    try:
        trial.release_reserve()
        write_result(trial.file(naming.RESULT), result)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = result.failure.reason if isinstance(result, Failed) else result.reason
        raise DiskFull(f"trial {trial.id}: {reason}") from None
    finally:
        trial.drop_lease()
