"""The executor over Ray Tune. The only module that imports Ray, and only when it is used.

Tune executes a list and keeps no state of ours: a new Tuner over the pending trials at every call, no Tune checkpoints, no
work in callbacks, and whether a trial is done is read from its run directory (traps R1 to R24 of the design's notes).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gfl_lab import rundir
from gfl_lab.addresses import shown
from gfl_lab.errors import Problem, ResourceError
from gfl_lab.orchestrate.nursery import Nursery
from gfl_lab.orchestrate.supervisor import Job, TrialProcess
from gfl_lab.rundir import TrialDir, TrialState

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else Ray ships the project and builds a second environment
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a traceback for each actor that dies; log.txt tells of it
    "RAY_prestart_worker_first_driver": "0",  # idle workers of which no actor is made, while the machine is busy starting
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
    "PYTHONWARNINGS": "ignore",
}
MAX_LOST_ACTORS = 2
"""A trial whose Ray actor or node dies moves, and goes on from its checkpoint, this many times without getting further than it
ever was (`moves`)."""

LOOK_S = 2.0
GONE_S = 30.0
"""A cluster whose head is silent for so long has gone away; it is looked at every LOOK_S."""

QUIET_S, PAUSE_S = 3.0, 0.3
"""After so long without an event Tune's loop pauses at each turn: by as much later it may notice the next one, or a Ctrl-C."""

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
    """Folder for Ray's sessions: short (socket paths end at 107 bytes), of this user alone."""
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


def prepare_environment() -> None:
    """Set what Ray reads when it is imported. A user's own settings win."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ:
        token = scratch_dir() / "ray-token"
        if not token.exists():
            handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(handle, secrets.token_hex(32).encode())
            os.close(handle)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


class RayTuneExecutor:
    """Schedules jobs with Ray Tune, each on an actor with the stated share of the machine.

    Args:
        cpus, gpus: what one trial takes.
        gpu_optional: take no GPU where no node has one.
        machine_cpus, machine_gpus: what Ray may use on this machine; ignored with ``address``.
        address: of a running cluster; None starts Ray here, for this run alone.
        should_stop: no further trial starts once it says yes.
        preload: module that trials' processes on this machine have imported, unless they have GPUs.
    """

    def __init__(
        self, *, cpus: int, gpus: float, gpu_optional: bool, machine_cpus: int, machine_gpus: int, address: str | None, should_stop: Callable[[], bool], preload: str
    ) -> None:  # fmt: skip
        self.cpus, self.gpus, self.machine_cpus, self.machine_gpus = cpus, gpus, machine_cpus, machine_gpus
        self.gpu_optional, self.address, self.should_stop, self._preload = gpu_optional, address, should_stop, preload
        self.nodes: list[dict[str, float]] = []
        """Resources of each living node, known once it has started."""
        self._litter: list[Path] = []
        self._nursery: Nursery | None = None

    @property
    def nursery(self) -> str | None:
        """Address of the nursery, which is there on this machine alone and for trials without GPUs."""
        return self._nursery.address if self._nursery else None

    def start(self) -> None:
        """Connect to Ray, or start it.

        Raises:
            ResourceError: there is no cluster at the address, or no node that a trial fits on.
        """
        if self.address and not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"}:
            raise ResourceError(
                Problem(
                    f"no token for the Ray cluster at {self.address}",
                    hint="Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_MODE=disabled for a cluster without tokens.",
                )
            )
        if self.address is None:
            check_sockets()
        if self.address is None and not self.gpus:
            self._nursery = Nursery(self._preload, self.cpus)
        prepare_environment()
        import ray
        import ray.tune  # here, in a thread that no signal interrupts: half imported, Ray ends the process with a traceback
        from ray._private import ray_constants

        if self.address is None or _on_loopback(self.address):
            # Else Ray takes the machine's outer address for this node's, and opens its ports to the network.
            ray_constants.ENABLE_RAY_CLUSTER = False

        common = {"include_dashboard": False, "log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
        for attempt in range(1, STARTS + 1):
            try:
                if self.address:
                    ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
                else:
                    with _without_extras():
                        ray.init(
                            address="local", num_cpus=self.machine_cpus, num_gpus=self.machine_gpus, object_store_memory=OBJECT_STORE_BYTES,
                            _temp_dir=str(scratch_dir() / "r"), **common,
                        )  # fmt: skip
                break
            except Exception as error:  # a bare Exception too, when its node takes more than 30 s to start
                ray.shutdown()
                if attempt < STARTS and "timed out during startup" in str(error):
                    continue
                raise ResourceError(_not_started(self.address, str(error))) from None
        if self.address is None:
            self._litter.append(Path(ray._private.worker._global_node.get_session_dir_path()))
        nodes = self.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self.gpu_optional and not any(node.get("GPU", 0) for node in nodes):
            self.gpus = 0
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            shown = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            hint = "Ask for less with --cpus or --gpus."
            if self.address:
                hint += " Nodes that have just been started, or the head of which has, take up to a minute to join."
            raise ResourceError(
                Problem(f"a trial asks for {self.cpus} CPUs and {self.gpus:g} GPUs on one node, but the nodes have: {shown}", hint=hint)
            )

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run every job; returns when all ended. How each ended stands in its run directory.

        Returns:
            What went wrong outside the trials (an actor that could not start), one sentence each.

        Raises:
            ResourceError: the cluster does not answer any more.
        """
        from ray import tune

        should_stop = self.should_stop
        storage = tempfile.mkdtemp(prefix="tune-", dir=scratch_dir())
        self._litter.append(Path(storage))

        class Stop(tune.Stopper):
            def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
                return False

            def stop_all(self) -> bool:
                return should_stop()

        tuner = tune.Tuner(
            tune.with_resources(_trainable(self.nursery), {"CPU": self.cpus, "GPU": self.gpus}),
            param_space={"job": tune.grid_search([asdict(job) for job in jobs])},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                name="tune", storage_path=storage, stop=Stop(), verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=MAX_LOST_ACTORS), callbacks=[moves(), unhurried()],
            ),
        )  # fmt: skip
        results = in_contact(tuner.fit) if self.address else tuner.fit()
        problems = sorted({str(error).strip().splitlines()[-1] for error in results.errors})
        if problems:
            self._litter.clear()  # whoever looks for the cause wants Ray's logs
        return problems

    def close(self) -> None:
        """Leave Ray; what this process started ends with it, and its logs go unless something was wrong."""
        import ray

        ray.shutdown()
        if self._nursery:
            self._nursery.close()
        for folder in self._litter:
            shutil.rmtree(folder, ignore_errors=True)


def _not_started(address: str | None, reason: str) -> Problem:
    """Say why Ray is not there, and what to do."""
    if address:
        hint = "See that its head runs and that the address, the token and the version of Ray are those of the cluster."
        return Problem(f"the cluster at {address} could not be reached: {reason}", hint=hint)
    if "timed out during startup" in reason:
        message = f"Ray did not start on this machine within 30 s, {STARTS} times in a row: the machine is too busy"
        return Problem(message, hint="Give the same command again when it has less to do, or with --executor inline, which needs no Ray.")
    hint = f"`gfl-lab doctor` looks at what Ray needs; its logs are in {scratch_dir() / 'r'}. --executor inline trains without Ray."
    return Problem(f"Ray could not be started on this machine: {reason}", hint=hint)


def _run(process: TrialProcess, job: Job) -> TrialState:
    if job.link is None:
        return process.run(job)
    from gfl_lab.orchestrate.remote_worker import run_on_node

    return run_on_node(process, job, (rundir.home() if os.environ.get("GFL_LAB_HOME") else scratch_dir()) / "node")


@contextlib.contextmanager
def _without_extras() -> Iterator[None]:
    """Ray starts its node without dashboard, autoscaler and log monitor: three processes that nobody asks for, and a wait for one.

    ``include_dashboard=False`` takes away only the dashboard's pages, and for the others `ray.init` has no argument.
    """
    from ray._private import parameter, services

    dashboard, params = services.start_api_server, parameter.RayParams
    services.start_api_server = lambda *_, **__: (None, None)  # as it says when there is none
    parameter.RayParams = functools.partial(params, no_monitor=True, include_log_monitor=False)
    try:
        yield
    finally:
        services.start_api_server, parameter.RayParams = dashboard, params


def _on_loopback(address: str) -> bool:
    """Whether the cluster listens on this machine's loopback alone: not so for one that is only asked for by that name."""
    from ray._private import services

    host, _, port = address.rpartition(":")
    if host.strip("[]") not in ("127.0.0.1", "localhost", "::1"):
        return False
    try:
        socket.create_connection((services.get_node_ip_address(), int(port)), 2).close()
    except (OSError, ValueError):
        return True
    return False


def in_contact(call: Callable[[], Any]) -> Any:
    """Run ``call`` for as long as the head of the cluster answers. Ray itself would abort this process after a minute's silence.

    Raises:
        ResourceError: it has been silent for GONE_S.
    """
    import ray

    head = ray.get_runtime_context().gcs_address
    host, _, port = head.rpartition(":")
    ended: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            ended.append((True, call()))
        except BaseException as error:
            ended.append((False, error))

    thread = threading.Thread(target=run, name="tune", daemon=True)
    thread.start()
    heard = time.monotonic()
    while thread.is_alive():
        thread.join(LOOK_S)
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), LOOK_S).close()
            heard = time.monotonic()
        if time.monotonic() - heard > GONE_S:
            atexit.unregister(ray.shutdown)  # it would wait for the head
            hint = (
                "Its nodes end their trials within a minute. Start it again and give the same command: they go on from their checkpoints."
            )
            raise ResourceError(Problem(f"the Ray cluster at {head} has not answered for {GONE_S:.0f} s", hint=hint))
    done, outcome = ended[0]
    if not done:
        raise outcome
    return outcome


def moves() -> Any:
    """Tune's callback that counts a trial's lost actors anew whenever the trial got further than it ever was.

    So a long trial outlives any number of nodes, and one that takes its node with it each time comes to an end.
    """
    from ray import tune

    class Moves(tune.Callback):
        def __init__(self) -> None:
            self._reached: dict[str, int] = {}

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            with contextlib.suppress(Exception):  # one that left here would end the whole run
                folder = TrialDir(Path(trial.config["job"]["path"]))
                folder.log("its Ray actor, or the node of that, was lost; Ray gives the trial to another one")
                reached = len(folder.metric_lines())
                if reached > self._reached.get(trial.trial_id, 0):
                    self._reached[trial.trial_id] = reached
                    trial.run_metadata.num_failures = 1

    return Moves()


def unhurried() -> Any:
    """Tune's callback that slows its loop down while nothing happens: its ten turns a second take 3% of a core from the trials."""
    from ray import tune

    class Unhurried(tune.Callback):
        def __init__(self) -> None:
            self._happened_at = time.monotonic()

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self._happened_at > QUIET_S:
                time.sleep(PAUSE_S)

        def _happened(self, iteration: int, trials: list[Any], trial: Any, *args: Any, **info: Any) -> None:
            self._happened_at = time.monotonic()

        on_trial_start = on_trial_result = on_trial_complete = on_trial_error = on_trial_recover = _happened

    return Unhurried()


def _trainable(nursery: str | None) -> type:
    from ray import tune

    class TrialActor(tune.Trainable):
        """One Tune trial: a supervisor of one trial process. Thin, so that Tune may reuse it for the next."""

        def setup(self, config: dict[str, Any]) -> None:
            self.job = Job(**config["job"])
            self.process = TrialProcess(self.job.preload, nursery)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.job = Job(**new_config["job"])
            return True

        def step(self) -> dict[str, Any]:
            return {"state": str(_run(self.process, self.job)), "done": True}

        def cleanup(self) -> None:
            self.process.close()

    return TrialActor
