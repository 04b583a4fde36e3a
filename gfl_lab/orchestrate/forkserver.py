"""A process that has imported what a trial needs and forks one child per trial: a fresh process without its imports.

Run as ``python -m gfl_lab.orchestrate.forkserver MODULE``, the module to import. A fork sees no GPU. With an empty MODULE nothing
is imported, and each child becomes a fresh interpreter, which CUDA needs. It talks in JSON lines, never in pickles:

    stdin   {"entry": "module:function", "kwargs": {...}, "log": "/path/log.txt"}     start a child (one at a time)
            {"kill": true}                                                            kill it
    stdout  {"ready": true, "pid": 122}   {"pid": 123}   {"exit": 0}   {"exit": -9}    negative: killed by that signal

When stdin ends, because the parent has died or is done, the child is killed and the server leaves. The child asks
the kernel to die with the server, and has a guard that ends what it has forked itself. So nothing stays behind, whichever of the
three is killed, or all of them.

docs/decisions/0003-forkserver.md has the reasons against `multiprocessing`'s forkserver.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import traceback
from typing import Any, NoReturn

from gfl_lab.processes import GUARD, call_and_exit, die_with_parent, fresh_command, hide_gpus, no_collections, rename


def _child(request: dict[str, Any], server: int, fresh: bool) -> NoReturn:
    """Run as the child: output to the log, a session of its own, a guard. ``fresh``: continue as a new interpreter with these."""
    try:
        die_with_parent(server)
        os.setsid()
        _guard()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if fresh:
            command = fresh_command(request["entry"], request["kwargs"], server)
            os.execv(command[0], command)
        hide_gpus()
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)
        call_and_exit(request["entry"], request["kwargs"])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _guard() -> None:
    """Leave a process that waits for this one's end and then kills what is left of its session.

    The server does so too, but a kill of the driver may end the server too (Ray kills the children of its workers), and
    what the trial has forked asks no kernel to die. The process has no parent among ours, so that no ``wait`` of a trial's code meets it.
    """
    trial = os.getpid()
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    if os.fork():
        os._exit(0)
    with contextlib.suppress(BaseException):
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        rename(GUARD)
        os.closerange(0, 4096)  # the server's pipes end when the server does
        ended = os.pidfd_open(trial)
        select.select([ended], [], [])
    with contextlib.suppress(BaseException):
        os.killpg(trial, signal.SIGKILL)
    os._exit(0)


def _say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # its session first: loader processes too
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def main(preload: str) -> None:
    """Serve until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the driver decides what it means
    if preload:
        hide_gpus()
        with no_collections():
            importlib.import_module(preload)
            gc.freeze()  # a child neither looks through what was imported at each collection, nor copies its pages for that
    _serve(fresh=not preload)


def _serve(fresh: bool) -> None:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _say({"ready": True, "pid": os.getpid()})
    pid, buffer = 0, b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
        if pid:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                _kill(pid)  # what the child left in its session
                pid = 0
                _say({"exit": os.waitstatus_to_exitcode(status)})
        if 0 not in readable:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "kill" in request:
                if pid:
                    _kill(pid)
                continue
            server = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _child(request, server, fresh)
            _say({"pid": pid})
    if pid:
        _kill(pid)


if __name__ == "__main__":
    main(sys.argv[1])
