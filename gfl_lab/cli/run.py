"""`gfl-lab run`: train what is missing, mirror it, print the table. Run, resume and retry are this one verb."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from gfl_lab.cli.output import consoles, duration, plural, print_json, say
from gfl_lab.cli.prepare import experiment_argument, plan_options, prepare, read_files
from gfl_lab.errors import ExitCode

TRIAL_ENTRY = "gfl_lab.train.trial:run_trial"


@click.command("run")
@experiment_argument
@plan_options
@click.option(
    "--executor",
    type=click.Choice(["ray", "inline"]),
    default="ray",
    show_default=True,
    help="Ray Tune, or one after the other in this process.",
)
@click.option("--address", metavar="ADDRESS", help="Ray cluster to use instead of this machine.")
@click.option("--cpus", type=click.IntRange(1), help="CPU cores for each trial, instead of the profile's.")
@click.option("--gpus", type=click.FloatRange(0), help="GPUs, or a share of one, for each trial, instead of the profile's.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON on stdout.")
def command(
    experiment: Path, profile: str | None, data: Path | None, seeds: list[int] | None, weights: dict[str, str],
    executor: str, address: str | None, cpus: int | None, gpus: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Train what is missing of EXPERIMENT and print its table.

    The same command goes on after an interruption, retries failed trials, and adds seeds. What is done is never trained
    again.

    Example:  gfl-lab run experiments/table3_qfl_dfl.yaml --seeds 0,1,2
    """
    from gfl_lab import naming
    from gfl_lab.orchestrate import driver, resources
    from gfl_lab.rundir import RunTree, TrialState

    files = read_files(experiment, profile)
    tree = RunTree.default()
    machine = resources.look()
    wish = files.profile.resources
    if address:
        share = resources.Share(cpus or wish.cpus, wish.gpus if gpus is None else gpus, 1)
    else:
        share = resources.share(machine, cpus=wish.cpus, gpus=wish.gpus, gpu_required=wish.gpu_required, asked_cpus=cpus, asked_gpus=gpus)
    if executor == "inline":
        share = dataclasses.replace(share, slots=1)
    say(
        f"gfl-lab: {files.experiment.name} on profile {files.profile.name}"
        + (f" ({files.experiment.question})" if files.experiment.question else "")
    )
    say(f"machine: {machine}" + (f"; Ray cluster at {address}" if address else ""))

    folder = tree.experiment(files.experiment.name, files.profile.name)
    stop = driver.StopSwitch(folder / naming.STOP_REQUEST)
    engine = _executor(executor, share, machine, address, stop, gpu_optional=gpus is None and not wish.gpu_required)
    # Ray takes seconds to start: meanwhile the data set is generated, on a first run, where nothing can be wrong any more.
    sure = data is None and not weights and files.profile.data != "required" and not files.code
    first = sure and not (folder / naming.PLAN).exists()
    starting = _Engine(engine) if executor == "ray" and first else None
    try:
        prepared = prepare(files, tree, data=data, seeds=seeds, weights=weights, say=say)
        plan = prepared.plan
        with driver.only_driver(folder):
            found = driver.states(plan.trials, tree)
            pending = [trial for trial in plan.trials if found[trial.id] not in (TrialState.DONE, TrialState.RUNNING)]
            _say_plan(plan, found, pending, share, tree)
            for backbone in sorted({t.spec.settings.backbone for t in pending if t.spec.settings.weights == "pretrained"}):
                from gfl_lab.train.checkpoint import fetch_pretrained

                fetch_pretrained(backbone)  # once, before anything is written and before trials would each do it
            for note in driver.save_plan(plan, folder):
                say(f"note: {note}")
            mirror = _start_mirror(tree, plan)
            if pending:
                driver.write_manifests(pending, tree, prepared.paths, prepared.code)
                if executor == "ray":
                    starting = starting or _Engine(engine)
                    starting.ready()
                for sentence in _train(plan, pending, tree, engine, stop, wish, share):
                    say(f"error: Ray: {sentence}")
            code = _finish(plan, tree, folder, mirror, as_json)
            missing = [state for state in driver.states(plan.trials, tree).values() if state != TrialState.DONE]
            if not stop.signal and missing:
                code = ExitCode.TRIALS_FAILED
            if elsewhere := missing.count(TrialState.RUNNING):
                say(f"note: {plural(elsewhere, 'trial')} run by another process: the same command completes the table when it has ended")
    finally:
        stop.restore()
        if starting:
            starting.close()
    if stop.signal:
        say(f"stopped; go on with:  gfl-lab {' '.join(sys.argv[1:])}")
        code = ExitCode.SIGINT if stop.signal == signal.SIGINT else ExitCode.SIGTERM
    sys.exit(int(code))


class _Engine(threading.Thread):
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

    def close(self) -> None:
        """Close the executor, once it has started."""
        self._over.set()
        self.join()


def _executor(name: str, share: Any, machine: Any, address: str | None, stop: Any, gpu_optional: bool) -> Any:
    if name == "inline":
        from gfl_lab.orchestrate.inline import InlineExecutor

        return InlineExecutor(stop)
    from gfl_lab.orchestrate.ray_tune import RayTuneExecutor

    return RayTuneExecutor(
        cpus=share.cpus, gpus=share.gpus, gpu_optional=gpu_optional, machine_cpus=machine.cpus, machine_gpus=len(machine.gpus), address=address, should_stop=stop,
    )  # fmt: skip


def _say_plan(plan: Any, found: dict[str, Any], pending: list[Any], share: Any, tree: Any) -> None:
    from gfl_lab.orchestrate.driver import expected_seconds, wall_seconds

    data = plan.data
    classes = "1 class" if len(data.classes) == 1 else f"{len(data.classes)} classes"
    say(f"data: {data.name} {data.digest}, {data.train_images} training and {data.val_images} validation images, {classes}")
    say("plan:")
    width = max(len(variant.name) for variant in plan.variants)
    words = {
        "done": "done, reused",
        "planned": "to train",
        "interrupted": "goes on from its checkpoint",
        "failed": "failed before, tried again",
        "running": "run by another process",
    }
    for variant in plan.variants:
        for trial in variant.trials:
            baseline = "  (baseline)" if variant.baseline else ""
            say(f"  {variant.name:{width}}  seed {trial.spec.seed}  {trial.id}  {words[found[trial.id]]}{baseline}")
    done = sum(state == "done" for state in found.values())
    if not pending:
        say(f"all {plural(len(found), 'trial')} of this plan are done already: nothing to train")
        return
    at_once = min(share.slots, len(pending))
    takes = f"{plural(share.cpus, 'core')}" + (f" and {share.gpus:g} GPU" if share.gpus else "")
    each = expected_seconds(pending, plan, tree, share.cpus)
    expected = wall_seconds(each, at_once)
    say(
        f"{plural(len(pending), 'trial')} to train, {done} reused; {at_once} at once, each on {takes}; expected time {'about ' if expected else ''}{duration(expected)}"
    )


def _start_mirror(tree: Any, plan: Any) -> Any:
    from gfl_lab.tracking.mirror import BackgroundMirror, Mirror

    mirror = BackgroundMirror(Mirror(tree), plan.experiment.name, plan.profile.name)
    mirror.start()
    return mirror


def _train(plan: Any, pending: list[Any], tree: Any, engine: Any, stop: Any, wish: Any, share: Any) -> list[str]:
    from gfl_lab.cli.display import display
    from gfl_lab.orchestrate import driver

    labels = {trial.id: f"{variant.name} seed {trial.spec.seed}" for variant in plan.variants for trial in variant.trials}
    stop.install()
    how = {"threads": share.cpus, "loader_workers": wish.loader_workers, "stop_file": str(stop.file)}
    jobs = driver.jobs_for(pending, tree, TRIAL_ENTRY, how)
    with display(consoles()[1]) as listener:
        watcher = driver.Watcher(tree, plan, pending, labels, listener)
        watcher.start()
        try:
            return engine.run(jobs)
        finally:
            watcher.finish()


def _finish(plan: Any, tree: Any, folder: Path, mirror: Any, as_json: bool) -> ExitCode:
    """Write and print the table, complete the mirror, say what failed; the exit code."""
    from gfl_lab.report.export import render_terminal, write_all
    from gfl_lab.report.table import build_table, table_json, unfair
    from gfl_lab.results.store import Store
    from gfl_lab.rundir import TrialState

    row = Store(tree).experiment(plan.experiment.name, plan.profile.name)
    table = build_table(row)
    write_all(table, folder)
    out, err = consoles()
    if as_json:
        print_json(table_json(table))
    else:
        out.print(render_terminal(table))
    failed = [(variant, trial) for variant in row.variants for trial in variant.trials if trial.state is TrialState.FAILED]
    for variant, trial in failed:
        failure = trial.failure
        say(
            f"failed: {variant.name} seed {trial.seed} ({trial.id}): {failure.kind if failure else 'error'}: {failure.reason if failure else ''}"
        )
        say(f"        log: {tree.trial(trial.id).file('log.txt')}")
    problems = unfair(row)
    for problem in problems:
        say(f"unfair: {problem}")
    if not mirror.finish():
        say(f"warning: MLflow is not complete ({mirror.error or 'no answer in time'}); `gfl-lab sync` completes it")
    say(f"table written to {folder} (json, md, csv, tex, html)")
    say("look closer:  gfl-lab dashboard   or   gfl-lab ui")
    if failed:
        return ExitCode.TRIALS_FAILED
    return ExitCode.UNFAIR if problems else ExitCode.DONE
