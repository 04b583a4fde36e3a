"""What commands that train share: the executor, the mirror beside it, and the settings of a trial's process."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gfl_lab.cli.output import say
from gfl_lab.errors import ExitCode

if TYPE_CHECKING:
    from gfl_lab.orchestrate.executor import Executor
    from gfl_lab.orchestrate.resources import Share

LAST_SYNC_S = 5.0
"""A command that is stopped waits this long for MLflow to show it; the next one completes what is missing."""


def make_executor(
    name: str, resources: Share, address: str | None, machine_gpus: int, stop: Callable[[], bool], *, gpu_optional: bool
) -> Executor:
    """Return the executor of ``--executor`` and ``--address``; nothing is started yet."""
    if name == "inline":
        from gfl_lab.orchestrate.inline import InlineExecutor

        return InlineExecutor(stop)
    from gfl_lab.orchestrate.ray_tune import TuneExecutor

    return TuneExecutor(
        cpus=resources.cpus, gpus=resources.gpus, gpu_optional=gpu_optional, machine_cpus=resources.slots * resources.cpus,
        machine_gpus=machine_gpus, address=address, should_stop=stop,
    )  # fmt: skip


def on_cluster(executor: Any) -> Share:
    """Wait until the executor has reached its cluster, say what that has, and return what a trial takes there and how many run at once."""
    from gfl_lab.cli.output import plural
    from gfl_lab.orchestrate.resources import Share

    slots = executor.capacity()
    cpus, gpus = (sum(node.get(key, 0) for node in executor.nodes) for key in ("CPU", "GPU"))
    has = f"{plural(round(cpus), 'CPU core')}, {plural(round(gpus), 'GPU') if gpus else 'no GPU'}"
    say(f"cluster: {plural(len(executor.nodes), 'node')} with {has}; room for {plural(slots, 'trial')} at once now")
    return Share(executor.cpus, executor.gpus, slots)


def how_to_run(resources: Share, executor: Executor, wish: Any) -> dict[str, Any]:
    """Return the settings of a trial's process. A cluster may have no GPU to take; an inline trial takes no more than one."""
    from gfl_lab.orchestrate.resources import loaders, processes_of

    gpus = executor.gpus  # inline: no loader processes either, unless they are asked for
    return {
        "threads": resources.cpus,
        "loader_workers": loaders(wish.loader_workers, resources.cpus, gpus),
        "processes": processes_of(gpus),
    }


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
