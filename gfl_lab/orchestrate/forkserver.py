"""A process that has imported what a trial needs and forks one child per trial: a fresh process without its imports.

Run as ``python -m gfl_lab.orchestrate.forkserver MODULE``, the module to import. A fork sees no GPU. With an empty MODULE nothing
is imported, and each child becomes a fresh interpreter, which CUDA needs. It talks in JSON lines, never in pickles:

    stdin   {"entry": "module:function", "kwargs": {...}, "log": "/path/log.txt"}     start a child (one at a time)
    stdout  {"ready": true, "pid": 122}   {"pid": 123}   {"exit": 0}   {"exit": -9}    negative: killed by that signal

When stdin ends, because whoever started it has died or is done, the child is killed and the server leaves. The child asks
the kernel to die with the server, and has a guard that ends what it has forked itself. So nothing stays behind, whichever of the
three is killed, or all of them.

With ``--nursery FD`` it is a nursery: it imports the same and forks such servers, for whoever asks at the listening socket FD
(nursery.py), until its own stdin ends. So the servers of one machine import once, and they die with their nursery.

Why not `multiprocessing`'s forkserver: see docs/decisions/0003-forkserver.md.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

from gfl_lab.processes import GUARD, call_and_exit, die_with_parent, fresh_command, hide_gpus, rename

ASK_S = 5.0
"""Whoever asks a nursery has said it all within this."""


def _child(request: dict[str, Any], server: int, fresh: bool) -> NoReturn:
    """Be the child: in the log, in a session of its own, with a guard. ``fresh``: go on as a new interpreter, with all of that."""
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

    The server does so too, but whoever kills the driver may take the server along (Ray kills the children of its workers), and
    what the trial has forked asks no kernel to die. The process is nobody's child, so that no ``wait`` of a trial's code meets it.
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


def main(preload: str, nursery: int | None) -> None:
    """Serve until stdin ends; as a nursery where ``nursery`` is its listening socket."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the driver decides what it means
    if preload:
        hide_gpus()
        importlib.import_module(preload)
        gc.collect()
        gc.freeze()  # a child neither looks through what was imported at each collection, nor copies its pages for that
    if nursery is not None:
        _raise_servers(socket.socket(fileno=nursery))
    _serve(fresh=not preload)


def _raise_servers(listener: socket.socket) -> None:
    """Fork a process for each request; returns in that process, which has its asker's pipes, environment and priority."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a server's end is seen by whoever holds its pipes
    nursery = os.getpid()
    while True:
        readable, _, _ = select.select([0, listener], [], [])
        if 0 in readable:
            os._exit(0)
        connection, _ = listener.accept()
        pipes: list[int] = []
        try:
            with connection:
                _check_user(connection)
                connection.settimeout(ASK_S)
                data, pipes, *_ = socket.recv_fds(connection, 65536, 3)
                while more := connection.recv(65536):
                    data += more
            asked = json.loads(data)
            if os.fork() == 0:
                listener.close()
                _take_after(asked, pipes, nursery)
                return
        except (OSError, ValueError) as error:
            print(f"a request for a server failed: {error!r}", file=sys.stderr, flush=True)
        finally:
            for pipe in pipes:
                os.close(pipe)


def _take_after(asked: dict[str, Any], pipes: list[int], nursery: int) -> None:
    """Make this process, just forked, what a child of its asker would be; it leaves if it cannot."""
    try:
        die_with_parent(nursery)
        os.setsid()
        for number, pipe in enumerate(pipes):
            os.dup2(pipe, number)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.setpriority(os.PRIO_PROCESS, 0, max(asked["niceness"], os.getpriority(os.PRIO_PROCESS, 0)))
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(asked["oom_score_adj"])
    except BaseException:
        os._exit(1)


def _check_user(connection: socket.socket) -> None:
    """The socket has no file, whose rights would keep others out."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    if uid != os.getuid():
        raise PermissionError(f"user {uid} asked")


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
    main(sys.argv[1], int(sys.argv[3]) if sys.argv[2:3] == ["--nursery"] else None)
