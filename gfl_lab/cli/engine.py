"""What verbs that train share: the executor in a thread of its own, the mirror beside it, and what a trial's process is told."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
from typing import Any

from gfl_lab.cli.output import say
from gfl_lab.errors import ExitCode

LAST_SYNC_S = 5.0
"""A command that is stopped waits this long for MLflow to show it; the next one completes what is missing."""


class Engine(threading.Thread):
    """Starts an executor in a thread of its own, which lives until it is closed.

    The thread must outlive Ray: Ray's processes ask the kernel to die with the thread that started them.
    """

    def __init__(self, executor: Any) -> None:
        super().__init__(name="executor", daemon=True)
        self._executor, self._error = executor, None
        self._ready, self._over = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self._executor.start()
        except BaseException as error:
            self._error = error
        self._ready.set()
        self._over.wait()
        if self._error is None:
            with contextlib.suppress(Exception):
                self._executor.close()

    def ready(self) -> None:
        """Wait until it has started; raises what starting it raised."""
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Have the executor close, once it has started, while this goes on: nothing more is to be run."""
        self._over.set()

    def close(self) -> None:
        """Close the executor, once it has started."""
        self.release()
        self.join()


def make_executor(name: str, share: Any, address: str | None, machine_gpus: int, stop: Any, gpu_optional: bool, entry: str) -> Any:
    """The executor of ``--executor`` and ``--address`` for trials that are run by ``entry``; nothing is started yet."""
    if name == "inline":
        from gfl_lab.orchestrate.inline import InlineExecutor

        return InlineExecutor(stop)
    from gfl_lab.orchestrate.ray_tune import RayTuneExecutor

    return RayTuneExecutor(
        cpus=share.cpus, gpus=share.gpus, gpu_optional=gpu_optional, machine_cpus=share.slots * share.cpus, machine_gpus=machine_gpus, address=address, should_stop=stop, preload=entry.partition(":")[0],
    )  # fmt: skip


def gpus_of(engine: Any) -> float:
    """Return the GPUs of a trial's own process: 0 inline, where trials have no process of their own, and on a cluster without any."""
    return getattr(engine, "gpus", 0)


def on_cluster(starting: Engine, executor: Any) -> Any:
    """Wait until the executor has reached its cluster, say what that has, and return what a trial takes there and how many run at once."""
    from gfl_lab.cli.output import plural
    from gfl_lab.orchestrate.resources import share_of_nodes

    starting.ready()
    share = share_of_nodes(executor.nodes, executor.cpus, executor.gpus)
    cpus, gpus = (sum(node.get(key, 0) for node in executor.nodes) for key in ("CPU", "GPU"))
    has = f"{plural(round(cpus), 'CPU core')}, {plural(round(gpus), 'GPU') if gpus else 'no GPU'}"
    say(f"cluster: {plural(len(executor.nodes), 'node')} with {has}; room for {plural(share.slots, 'trial')} at once now")
    return share


def how_to_run(share: Any, engine: Any, wish: Any) -> dict[str, Any]:
    """What a trial's process is told of its share. A cluster may have no GPU to take; who runs inline takes no more than one."""
    from gfl_lab.orchestrate.resources import loaders, processes_of

    gpus = gpus_of(engine)  # inline: no loader processes either, unless they are asked for
    return {"threads": share.cpus, "loader_workers": loaders(wish.loader_workers, share.cpus, gpus), "processes": processes_of(gpus)}


def start_mirror(tree: Any, plan: Any) -> Any:
    """Mirror the plan's experiment to MLflow from now on."""
    from gfl_lab.tracking.background import BackgroundMirror
    from gfl_lab.tracking.mirror import Mirror

    mirror = BackgroundMirror(Mirror(tree), plan.experiment.name, plan.profile.name)
    mirror.start()
    return mirror


def say_stopped(number: int, mirror: Any, spent: str) -> ExitCode:
    """The last words of a command that signal ``number`` has stopped, and its exit code. ``spent``: the budget that did it, or nothing."""
    if mirror:
        mirror.finish(LAST_SYNC_S)
    if spent:
        say(f"{spent} is spent; the same command spends it once more, a larger one more")
    say(f"stopped; go on with:  gfl-lab {shlex.join(sys.argv[1:])}")
    return ExitCode.OVER_BUDGET if spent else ExitCode.SIGINT if number == signal.SIGINT else ExitCode.SIGTERM
