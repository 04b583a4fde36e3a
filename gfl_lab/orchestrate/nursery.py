"""Fork servers, each an own process that imports, or all of a machine from one that has imported: the nursery (forkserver.py)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

END_S = 5
"""How long a server may take to leave once its stdin has ended, and a nursery to be asked."""


class Nursery:
    """A process that imports a module and then forks fork servers, for trials' supervisors of this user on this machine.

    It ends when it is closed or when this process does, and takes the servers along.

    Args:
        preload: the module.
        threads: of a trial; libraries that count the machine's cores when they are imported are told so.
    """

    def __init__(self, preload: str, threads: int) -> None:
        self.address = f"gfl-lab-nursery-{os.getpid()}-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{self.address}")  # in no folder: nothing to clear away after a crash
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gfl_lab.orchestrate.forkserver", preload, "--nursery", str(listener.fileno())],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[listener.fileno()],
                env={"OMP_NUM_THREADS": str(threads)} | os.environ, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it, and whatever servers are left."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()


class Server:
    """A fork server, seen from the process whose trials it starts and with which it ends.

    Args:
        preload: the module that it has imported before it forks; empty: each of its trials is a fresh interpreter.
        nursery: address of the nursery to take it from; without one, or when that has gone, it is a process of its own.
    """

    def __init__(self, preload: str, nursery: str | None = None) -> None:
        self.pid: int | None = None  # of one from a nursery: once it has said that it is ready
        self._preload, self._closed = preload, False
        self._last: dict[str, Any] = {}
        self._errors = tempfile.TemporaryFile()
        self._own: subprocess.Popen[bytes] | None = None
        self._start(nursery)

    def _start(self, nursery: str | None) -> None:
        """Make the pipes and whoever has their other ends."""
        requests, to = os.pipe()
        answers, says = os.pipe()
        self._to, self._from = open(to, "wb", buffering=0), open(answers, "rb")
        pipes = [requests, says, self._errors.fileno()]
        self._from_nursery = nursery is not None and _ask(nursery, pipes)
        if not self._from_nursery:
            self._own = subprocess.Popen(
                [sys.executable, "-P", "-m", "gfl_lab.orchestrate.forkserver", self._preload],
                stdin=pipes[0], stdout=pipes[1], stderr=pipes[2], start_new_session=True,
            )  # fmt: skip
            self.pid = self._own.pid
        os.close(requests)
        os.close(says)

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request; `answer` tells what comes of it."""
        self._last = request
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._to.write(json.dumps(request).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The next message.

        Raises:
            RuntimeError: the server has ended; with the last line of what it said.
        """
        while True:
            line = self._from.readline()
            if line:
                message = json.loads(line)
                self.pid = message["pid"] if "ready" in message else self.pid
                return message
            if self._closed or not self._from_nursery or self.pid is not None:
                self._errors.seek(0)
                words = self._errors.read().decode(errors="replace").strip().splitlines()
                raise RuntimeError(f"the process that starts trials ended: {words[-1] if words else 'no message'}")
            self._to.close()  # the nursery died before it forked one
            self._from.close()
            self._start(None)
            self.ask(self._last)

    def close(self) -> None:
        """End the server and whatever it runs."""
        self._closed = True
        self._to.close()
        ended = select.poll()
        ended.register(self._from, 0)  # the other end is closed
        if not ended.poll(1000 * END_S) and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        if self._own:
            self._own.wait()
        self._from.close()
        self._errors.close()


def _ask(address: str, pipes: list[int]) -> bool:
    """Ask the nursery at ``address`` for a server with ``pipes`` as stdin, stdout and stderr; whether there was one to be asked.

    The server gets what else a child of this process would have: its environment, its priority, and its rank among those the
    kernel kills first for want of memory.
    """
    own = {
        "environment": dict(os.environ),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
    }
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(END_S)
            connection.connect(f"\0{address}")
            socket.send_fds(connection, [b" "], pipes)
            connection.sendall(json.dumps(own).encode())
        return True
    except OSError:
        return False
