"""A Ray of this machine's own, or a cluster: started, joined, watched and left, by Ray's public arguments and variables alone."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import psutil

from gfl_lab.addresses import shown
from gfl_lab.errors import Problem, RayGone, ResourceError

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else Ray ships the project and builds a second environment
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else a call of Tune's that comes after `ray.shutdown` starts another Ray
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # gfl-lab handles signals
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a traceback for each actor that dies; log.txt records it
    "TUNE_MAX_PENDING_TRIALS_PG": "64",  # else Tune starts one actor after the other
    "RAY_prestart_worker_first_driver": "0",  # idle workers of which no actor is made, while the machine is busy starting
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
    "PYTHONWARNINGS": "ignore",
}

CHECKED_WITH = "2.60"
"""Version of Ray with which two things were checked that it may change without notice: ``LOOPBACK_ONLY``, and the argument
``_temp_dir`` of `ray.init`, which its documentation calls unstable. Without it sessions of all users lie in one folder."""

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""By default Ray takes the machine's outer address for a node's, and opens its ports to the network. With this variable, which Ray
reads when it is imported, it takes 127.0.0.1, as it does on other systems than Linux."""

LOOPBACK_NET = "127."

LOOK_S = 2.0
GONE_S = 30.0
"""A cluster whose head is silent for so long has gone away; it is looked at every LOOK_S."""

SCRATCH = "gfl-lab-{}"
"""Name of ``scratch_dir``, by user id."""

OBJECT_STORE_BYTES = 100 * 2**20

STARTS = 4
"""Attempts to start Ray here: it gives its own node 30 s, which a busy machine may exceed. Ray has no setting for it."""

SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux."""
_SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""A socket of Ray's below its folder, with the longest process id."""


def scratch_dir() -> Path:
    """Return the folder for Ray's sessions: short (socket paths end at 107 bytes), of this user alone."""
    path = Path(tempfile.gettempdir()) / SCRATCH.format(os.getuid())
    path.mkdir(mode=0o700, exist_ok=True)
    owner = path.stat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077:
        raise ResourceError(f"{path} belongs to someone else or is open to others; remove it or set TMPDIR")
    return path


def check_sockets() -> None:
    """Raise ResourceError if Ray could not make its sockets below ``scratch_dir``."""
    most = SOCKET_BYTES - len(f"/{SCRATCH.format(os.getuid())}/r/{_SOCKET}")
    folder = tempfile.gettempdir()
    if not folder.isascii() or set(folder) & set('"\\'):
        reason = f"Ray cannot work below the folder for temporary files, whose path is not of ASCII without quotes and backslashes: {shown(folder)}"
    elif len(folder) > most:
        reason = f"the path of the folder for temporary files is too long for the sockets of Ray: {shown(folder)}"
    else:
        return
    hint = f"Set TMPDIR to a folder with a plain path of at most {most} bytes, /tmp for example, or give --executor inline."
    raise ResourceError(Problem(reason, hint=hint))


def prepare_environment(address: str | None) -> None:
    """Set what Ray reads when it is imported. A user's own settings win.

    Raises:
        ResourceError: Ray has been imported already, without them.
    """
    wanted = _ENVIRONMENT | (LOOPBACK_ONLY if address is None or listens_on_loopback_alone(address) else {})
    if "ray" in sys.modules and not wanted.keys() <= os.environ.keys():
        raise ResourceError(imported_before(address))
    for key, value in wanted.items():
        os.environ.setdefault(key, value)
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ:
        token = scratch_dir() / "ray-token"
        if not token.exists():
            handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(handle, secrets.token_hex(32).encode())
            os.close(handle)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def listens_on_loopback_alone(address: str) -> bool:
    """Return True if ``address`` names this machine's loopback, and nothing listens at its port on the machine's other addresses."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in ("127.0.0.1", "localhost", "::1"):
        return False
    own = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family == socket.AF_INET]
    for outer in (found for found in own if not found.startswith(LOOPBACK_NET)):
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((outer, int(port)), LOOK_S).close()
            return False
    return True


class RayConnection:
    """This process' connection to Ray.

    Open and close it in one thread, which must run in between: Ray's processes ask the kernel to die with the thread that started them.

    Args:
        address: of a running cluster; None starts Ray here, for this process alone.
        cpus, gpus: what Ray may use on this machine; ignored with ``address``.
    """

    def __init__(self, address: str | None, *, cpus: int, gpus: int) -> None:
        self.address, self._cpus, self._gpus = address, cpus, gpus
        self._session: Path | None = None
        self._answered, self._looked = 0.0, 0.0
        self.gone = False
        """True if the head of the cluster has not answered for too long."""

    def open(self) -> None:
        """Connect to Ray, or start it.

        Raises:
            ResourceError: there is no cluster at the address, no token for it, or Ray cannot be started here.
        """
        if self.address and not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"}:
            hint = "Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_MODE=disabled for a cluster without tokens."
            raise ResourceError(Problem(f"no token for the Ray cluster at {self.address}", hint=hint))
        if self.address is None:
            check_sockets()
        prepare_environment(self.address)
        import ray
        import ray.tune  # here, in a thread that no signal interrupts: half imported, Ray ends the process with a traceback

        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it lists each lost actor's trial as one that failed
        if ray.is_initialized():
            raise ResourceError("this process is connected to Ray already, and can be only once: close that connection, or run inline")
        for attempt in range(1, STARTS + 1):
            try:
                self._init()
                break
            except Exception as error:  # a bare Exception too, when its node takes more than 30 s to start
                ray.shutdown()
                if attempt == STARTS or "timed out during startup" not in str(error):
                    raise ResourceError(not_started(self.address, str(error))) from None
        context = ray.get_runtime_context()
        if self.address is None:
            self._session = Path(context.get_temp_dir()) / context.get_session_name()
        self._head = context.gcs_address
        self._answered = time.monotonic()

    def _init(self) -> None:
        import ray

        if self.address:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local", num_cpus=self._cpus, num_gpus=self._gpus, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False,
                log_to_driver=False, logging_level=logging.ERROR, _temp_dir=str(scratch_dir() / "r"),
            )  # fmt: skip

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of each living node, as Ray names them."""
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def answers(self) -> bool:
        """Return whether the head of the cluster answers. Ray's own calls would wait for one that does not."""
        host, _, port = self._head.rpartition(":")
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), LOOK_S).close()
            return True
        return False

    def check(self) -> None:
        """Check, every LOOK_S, that the head of the cluster answers. Ray itself would abort this process after a minute's silence.

        Raises:
            RayGone: it has been silent for GONE_S.
        """
        if time.monotonic() - self._looked < LOOK_S:
            return
        if self.answers():
            self._answered = time.monotonic()
        self._looked = time.monotonic()
        if self._looked - self._answered > GONE_S:
            import ray

            self.gone = True
            atexit.unregister(ray.shutdown)  # it would wait for the head
            raise RayGone(silent(self.address, self._head))

    def close(self, *, keep_logs: bool) -> None:
        """Leave Ray; what this process started ends with it."""
        import ray

        ray.shutdown()
        if self._session and not keep_logs:
            shutil.rmtree(self._session, ignore_errors=True)


def imported_before(address: str | None) -> Problem:
    """Return why trials cannot run on Ray in a program that has imported it."""
    if address:
        effect = f"how to log in to the cluster at {address}"
        hint = "Run the trials in a program that has not imported Ray; it may connect to the same cluster afterwards."
    else:
        effect = "to open its ports on this machine alone"
        hint = 'Run the trials before anything imports Ray, or with executor="inline".'
    return Problem(f"Ray was imported before gfl-lab could set what Ray reads at its import: {effect}", hint=hint)


def silent(address: str | None, head: str) -> Problem:
    """Return that Ray does not answer any more, and what to do."""
    if address is None:
        hint = (
            "The kernel may have ended its processes for want of memory (`dmesg`). Give the same command again: finished trials are kept."
        )
        return Problem(f"Ray on this machine has not answered for {GONE_S:.0f} s", hint=hint)
    hint = "Its nodes end their trials within a minute. Start it again and repeat the command: they continue from their checkpoints."
    return Problem(f"the Ray cluster at {head} has not answered for {GONE_S:.0f} s", hint=hint)


def not_started(address: str | None, reason: str) -> Problem:
    """Return why Ray is not there, and what to do."""
    if address:
        hint = "See that its head runs and that the address, the token and the version of Ray are those of the cluster."
        return Problem(f"the cluster at {address} could not be reached: {reason}", hint=hint)
    if "timed out during startup" in reason:
        message = f"Ray did not start on this machine within 30 s, {STARTS} times in a row: the machine is too busy"
        return Problem(message, hint="Give the same command again when it has less to do, or with --executor inline, which needs no Ray.")
    hint = f"`gfl-lab doctor` looks at what Ray needs; its logs are in {scratch_dir() / 'r'}. --executor inline trains without Ray."
    return Problem(f"Ray could not be started on this machine: {reason}", hint=hint)
