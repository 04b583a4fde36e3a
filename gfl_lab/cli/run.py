"""`gfl-lab run`: train what is missing, mirror it, print the table. Run, resume and retry are this one verb."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from gfl_lab.cli import executors
from gfl_lab.cli.costs import budget_option, check_budget, cost_text, parse_budget, share_of
from gfl_lab.cli.numbers import Number, Whole
from gfl_lab.cli.output import consoles, look_closer, plural, print_json, say
from gfl_lab.cli.prepare import experiment_argument, plan_options, prepare, read_files
from gfl_lab.cli.refusals import check_address
from gfl_lab.cli.unassigned import say_unassigned, unassigned_groups
from gfl_lab.errors import ExitCode, InputError, Problem
from gfl_lab.processes import hide_gpus

TRIAL_ENTRY = "gfl_lab.train.trial:run_trial"
LISTED = 100
"""Trials of a plan that are listed before they run."""


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
@click.option(
    "--storage",
    metavar="URI",
    envvar="GFL_LAB_STORAGE",
    help="S3-compatible storage (s3://BUCKET/PREFIX) for a cluster whose nodes share no file system.",
)
@click.option("--cpus", type=Whole(1, 1024), help="CPU cores for each trial, instead of the profile's.")
@click.option("--gpus", type=Number(0, 64), help="GPUs, or a share of one, for each trial, instead of the profile's.")
@budget_option
@click.option("--relock", is_flag=True, help="Replace the table's lock file, also where locked numbers differ from those of now.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON on stdout.")
def command(
    experiment: Path, profile: str | None, data: Path | None, seeds: list[int] | None, weights: dict[str, str], max_trials: int,
    executor: str, address: str | None, storage: str | None, cpus: int | None, gpus: float | None, budget: str | None, relock: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train what is missing of EXPERIMENT and print its table.

    The same command goes on after an interruption, retries failed trials, and adds seeds. What is done is never trained
    again; where its files are missing or damaged, they are made again from its last checkpoint. Exit code 4 when that cannot
    be done, or when numbers differ from those that were locked.

    Example:  gfl-lab run experiments/table3_qfl_dfl.yaml --seeds 0,1,2
    """
    from gfl_lab import naming
    from gfl_lab.integrity import Checked
    from gfl_lab.orchestrate import damaged as damages
    from gfl_lab.orchestrate import driver, resources
    from gfl_lab.orchestrate.budget import Meter
    from gfl_lab.orchestrate.cost import Paces, estimates
    from gfl_lab.orchestrate.trainings import Trainings
    from gfl_lab.rundir import RunTree, TrialState

    storage = _storage_of(storage, cluster=bool(address) and executor == "ray")
    files = read_files(experiment, profile)
    tree = RunTree.default()
    shared = _driver_side(storage, tree)
    check_address(address, executor)
    machine = resources.look()
    wish = files.profile.resources
    if address:
        share = resources.Share(cpus or wish.cpus, wish.gpus if gpus is None else gpus, 1)
    else:
        share = share_of(machine, wish, cpus=cpus, gpus=gpus)
    _check_gpus(share.gpus, executor)
    if executor == "inline" and not share.gpus:
        hide_gpus()  # the trials' process is this one
    limit = parse_budget(budget, share.gpus)
    say(
        f"gfl-lab: {files.experiment.name} on profile {files.profile.name}"
        + (f" ({files.experiment.question})" if files.experiment.question else "")
    )
    say(f"machine: {machine}" + (f"; Ray cluster at {address}" if address else "") + (f" over {storage}" if storage else ""))

    if files.experiment.kind == "search":
        if storage:
            raise InputError("a search needs a file system that its nodes share: --storage serves ablations alone")
        from gfl_lab.cli.search import run_search

        code = run_search(
            files, tree, machine, share, limit, executor=executor, address=address, cpus=cpus, gpus=gpus, data=data, seeds=seeds,
            weights=weights, as_json=as_json,
        )  # fmt: skip
        sys.exit(int(code))
    folder = tree.experiment(files.experiment.name, files.profile.name)
    stop = driver.StopSwitch(folder / naming.STOP_REQUEST)
    # Ray takes seconds to start: meanwhile the data set is generated, on a first run, where nothing can be wrong any more.
    sure = data is None and not weights and files.profile.data != "required" and not files.code
    measured = (tree.root / naming.MEASURED_DIR).exists()  # then what a trial takes follows from the plan
    first = sure and limit is None and not measured and not (folder / naming.PLAN).exists()
    optional = gpus is None and not wish.gpu_required
    runner = executors.make_executor(executor, share, address, len(machine.gpus), stop, gpu_optional=optional)
    if first:
        runner.start()
    mirror, meter, complete = None, None, False
    stop.listen()
    try:
        prepared = prepare(files, tree, data=data, seeds=seeds, weights=weights, say=say, max_trials=max_trials)
        plan = prepared.plan
        with driver.only_driver(folder) as killed:
            if shared:
                shared.refresh(trial.id for trial in plan.trials)
            if killed:
                driver.wait_for_orphans(plan.trials, tree)
            found = driver.states(plan.trials, tree)
            if shared:  # what others have done
                came = [t for t in plan.trials if found[t.id] is TrialState.DONE and not tree.trial(t.id).file(naming.MANIFEST).exists()]
                driver.write_manifests(came, tree, prepared.paths, prepared.code)
            checked = Checked(tree)
            others = driver.of_other_seeds(plan, folder)
            known = [*plan.trials, *(trial for _, trial in others)]
            damaged = damages.examine_all(known, driver.states(known, tree), tree, checked)
            if shared and damaged:
                shared.fetch_again(damaged)
                found = driver.states(plan.trials, tree)
                damaged = damages.examine_all(known, driver.states(known, tree), tree, checked)
            to_repair = {trial for trial, each in damaged.items() if each.evaluated and not shared}
            lost = {trial for trial, each in damaged.items() if each.lost}
            pending = [
                trial for trial in plan.trials
                if trial.id in to_repair or (found[trial.id] not in (TrialState.DONE, TrialState.RUNNING) and trial.id not in lost)
            ]  # fmt: skip
            pending += [trial for _, trial in others if trial.id in to_repair]
            paces = Paces(tree)
            if measured and not address:
                share = share_of(machine, wish, cpus=cpus, gpus=gpus, peak=paces.peak(pending, gpu=bool(share.gpus)))
                runner = executors.make_executor(executor, share, address, len(machine.gpus), stop, gpu_optional=optional)
            if executor == "inline":
                share = dataclasses.replace(share, slots=1)
            if pending and address and executor == "ray":
                share = executors.on_cluster(runner)
                limit = parse_budget(budget, share.gpus)
            # The kind of a cluster's GPU is not known here.
            device = resources.device_of(machine, share.gpus) if not address else "" if share.gpus else "cpu"
            # A node that shares a storage alone does not see another trial's weights: there each trial trains.
            trainings = None if shared else Trainings([trial for trial in pending if trial.id not in to_repair], tree)
            weights_of = trainings.evaluated() if trainings else {}
            expected = estimates(pending, plan, tree, share, device, paces, evaluated={*to_repair, *weights_of})
            _say_plan(plan, found, damaged, weights_of, pending, share, expected)
            if shared and (several := len(pending) - len({trial.spec.training_id for trial in pending})):
                say(f"note: {plural(several, 'trial')} could share the training of others, but not over --storage: each one trains")
            if pending:
                say_unassigned(unassigned_groups(plan, prepared.paths, tree), plan, data, files.source.path.parent, notes=False)
            check_budget(limit, expected, share)
            for backbone in sorted({t.spec.settings.backbone for t in pending if t.spec.settings.init_weights == "pretrained"}):
                from gfl_lab.checkpoints.pretrained import fetch_pretrained

                fetch_pretrained(backbone)  # once, before anything is written and before trials would each do it
            for note in driver.save_plan(plan, folder):
                say(f"note: {note}")
            rewritten = [trial for trial in known if trial.id in damaged and damaged[trial.id].rewritten]
            driver.write_manifests(rewritten, tree, prepared.paths, prepared.code)
            mirror = executors.start_mirror(tree, plan)
            if pending:
                driver.write_manifests(pending, tree, prepared.paths, prepared.code)
                if shared:
                    shared.publish([trial.id for trial in pending], prepared.paths, say)
                runner.capacity()
                meter = Meter(folder / naming.COST, share, limit, stop=lambda: os.kill(os.getpid(), signal.SIGINT))
                for sentence in _train(plan, others, pending, trainings, tree, runner, stop, wish, share, meter, shared):
                    say(f"error: {sentence}")
            runner.close(wait=False)
            trained = any(
                found[trial.id] is not TrialState.DONE and tree.trial(trial.id).state() is TrialState.DONE
                for trial in pending if trial.id not in to_repair
            )  # fmt: skip
            left = _tell_repairs(known, tree, damaged, checked, over_storage=bool(shared))
            code = _finish(plan, tree, folder, mirror, as_json, left, trained=trained, relock=relock, experiment=str(experiment))
            missing = [state for state in driver.states(plan.trials, tree).values() if state != TrialState.DONE]
            complete = not missing
            if not stop.signal and missing:
                code = ExitCode.TRIALS_FAILED
            if elsewhere := missing.count(TrialState.RUNNING):
                say(f"note: {plural(elsewhere, 'trial')} run by another process: the same command completes the table when it has ended")
    except KeyboardInterrupt:
        if not stop.signal:
            raise
    finally:
        stop.restore()
        runner.close()
    over = meter is not None and meter.exhausted
    if stop.signal and not (over and complete):
        code = executors.say_stopped(stop.signal, mirror, f"--budget {budget}" if over else "")
    sys.exit(int(code))


def _check_gpus(gpus: float, executor: str) -> None:
    """Raises InputError for what a trial cannot take, here or on a cluster."""
    if gpus > 1 and executor == "inline":
        raise InputError(
            Problem(
                f"--executor inline runs a trial in this process alone, and {gpus:g} GPUs take one each",
                hint="Give --gpus 1, or leave --executor out.",
            )
        )
    if gpus > 1 and gpus != int(gpus):
        raise InputError(Problem(f"{gpus:g} GPUs: a trial takes a share of one or several whole ones", hint=f"Give --gpus {int(gpus)}."))


def _storage_of(uri: str | None, cluster: bool) -> str | None:
    """``--storage`` where it has a meaning: for a cluster. A user's environment may always name one."""
    given = click.get_current_context().get_parameter_source("storage") is click.core.ParameterSource.COMMANDLINE
    if uri and given and not cluster:
        raise click.UsageError("--storage is for a cluster: give --address too, and no --executor inline")
    return uri if cluster else None


def _driver_side(storage: str | None, tree: Any) -> Any:
    if storage is None:
        return None
    from gfl_lab.orchestrate.run_sync import DriverSide

    return DriverSide(storage, tree)


def _say_plan(
    plan: Any, found: dict[str, Any], damaged: dict[str, Any], weights_of: dict[str, str], pending: list[Any], share: Any, expected: list[Any]
) -> None:  # fmt: skip
    from gfl_lab.orchestrate.cost import cost_of

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
    going = {trial.id for trial in pending}

    def word(trial: str) -> str:
        if trial in weights_of:
            return f"to evaluate, with the weights of {weights_of[trial]}"
        if (damage := damaged.get(trial)) is None:
            return words[found[trial]]
        if trial in going:
            return "damaged, evaluated again from its checkpoint"
        return "damaged" if damage.lost or damage.evaluated or damage.beyond_repair else "done, reused; its manifest is written anew"

    lines = [
        f"  {variant.name:{width}}  seed {trial.spec.seed}  {trial.id}  {word(trial.id)}{'  (baseline)' if variant.baseline else ''}"
        for variant in plan.variants
        for trial in variant.trials
    ]
    say("\n".join(lines[:LISTED]))
    if len(lines) > LISTED:
        say(f"  and {len(lines) - LISTED} more, which `gfl-lab plan` lists")
    for trial, damage in damaged.items():
        seed = "" if trial in found else ", of a seed that an earlier run left in the table,"
        say(f"warning: trial {trial}{seed} is damaged: {damage}" + ("; it is evaluated again" if seed and trial in going else ""))
    beyond = {trial for trial, damage in damaged.items() if trial not in going and damage.beyond_repair}
    done = sum(state == "done" and trial not in going and trial not in beyond for trial, state in found.items())
    again = sum(trial in damaged for trial in going)
    if not pending:
        if beyond:
            say(f"{done} of {plural(len(found), 'trial')} of this plan are reused, {len(beyond)} damaged; nothing to train")
        else:
            say(f"all {plural(len(found), 'trial')} of this plan are done already: nothing to train")
        return
    at_once = min(share.slots, len(pending))
    takes = f"{plural(share.cpus, 'core')}" + (f" and {share.gpus:g} GPU" if share.gpus else "")
    cost = cost_of([estimate.seconds for estimate in expected], share)
    parts = [f"{plural(len(pending) - again - len(weights_of), 'trial')} to train"]
    parts += [f"{len(weights_of)} to evaluate with the weights of another"] if weights_of else []
    parts += [f"{again} to evaluate again"] if again else []
    parts += [f"{done} reused"] + ([f"{len(beyond)} damaged"] if beyond else [])
    say(f"{', '.join(parts)}; {at_once} at once, each on {takes}; {cost_text(cost, expected, share)}")


def _train(
    plan: Any, others: list[Any], pending: list[Any], trainings: Any, tree: Any, executor: Any, stop: Any, wish: Any, share: Any, meter: Any,
    shared: Any,
) -> list[str]:  # fmt: skip
    from gfl_lab.cli.display import display
    from gfl_lab.orchestrate import driver
    from gfl_lab.orchestrate.executor import run_jobs
    from gfl_lab.rundir import TrialState

    planned = [(variant, trial) for variant in plan.variants for trial in variant.trials]
    labels = {trial.id: f"{variant.name} seed {trial.spec.seed}" for variant, trial in [*planned, *others]}
    stop.install()
    how = executors.how_to_run(share, executor, wish) | {"stop_file": str(stop.file)}
    if shared:
        shared.start()
    with display(consoles()[1]) as listener:

        def listen(progress: list[Any]) -> None:
            meter.look(sum(trial.state is TrialState.RUNNING for trial in progress))
            listener(progress)

        watcher = driver.Watcher(tree, plan, pending, labels, listen)
        watcher.start()
        problems, in_a_hurry = [], True
        try:
            waiting = pending
            while waiting and not stop():
                ready = trainings.next_ones(waiting) if trainings else waiting
                jobs = driver.jobs_for(ready, tree, TRIAL_ENTRY, how, gpus=executor.gpus)
                jobs = shared.watch(jobs) if shared else trainings.jobs(jobs)
                problems += [f"Ray: {sentence}" for sentence in run_jobs(executor, jobs)]
                begun = {trial.id for trial in ready}
                waiting = [trial for trial in waiting if trial.id not in begun]
            in_a_hurry = False
        finally:
            if shared:
                problems += shared.finish(in_a_hurry)
            watcher.finish()
            meter.save()
        return problems


def _tell_repairs(trials: list[Any], tree: Any, damaged: dict[str, Any], checked: Any, *, over_storage: bool) -> dict[str, Any]:
    """Look at every finished trial once more, say what was repaired and what was not; what is still damaged, by id."""
    from gfl_lab import naming
    from gfl_lab.orchestrate import damaged as damages
    from gfl_lab.orchestrate import driver

    left = damages.examine_all(trials, driver.states(trials, tree), tree, checked)
    for trial in damaged:
        if trial not in left:
            before, now = damaged[trial].ap, damages.recorded_ap(tree.trial(trial))
            changed = "" if before == now else f"; AP was {'unreadable' if before is None else before}, and is {now}"
            say(f"repaired: trial {trial} ({damaged[trial]}){changed}")
    for trial, damage in left.items():
        reason = damage.beyond_repair
        if not reason:
            failed = damages.failure(tree.trial(trial))
            if over_storage:
                failed = "over --storage no finished trial is; the same command without --address does it"
            reason = f"{damage}; it was not evaluated again" + (f": {failed}" if failed else f", see {tree.trial(trial).file(naming.LOG)}")
        folder = tree.trial(trial)
        stand = "Its numbers are in the table as recorded. " if folder.state() == "done" else ""
        if {each.file for each in damage.found} == {naming.LAST_CHECKPOINT}:
            stand += f"No table needs {naming.LAST_CHECKPOINT}, which may be deleted. "
        say(
            f"warning: trial {trial} is still damaged: {reason}\n    {stand}To train it once more, move {folder.path} away and give the same command."
        )
    return left


def _finish(
    plan: Any, tree: Any, folder: Path, mirror: Any, as_json: bool, damaged: dict[str, Any], *, trained: bool, relock: bool, experiment: str
) -> ExitCode:  # fmt: skip
    """Write and print the table, settle its lock file, complete the mirror, say what failed; the exit code."""
    from gfl_lab.cli.lock import settle
    from gfl_lab.report.exports import write_table
    from gfl_lab.report.fairness import unfair
    from gfl_lab.report.table import build_table
    from gfl_lab.report.table_data import table_json
    from gfl_lab.report.table_grid import table_sheet
    from gfl_lab.report.writers.terminal import TableReport
    from gfl_lab.results.store import Store
    from gfl_lab.rundir import TrialState

    store = Store(tree)
    row = store.experiment(plan.experiment.name, plan.profile.name)
    table = build_table(row, store.resampled_or_none)
    write_table(table, folder)
    out, err = consoles()
    if as_json:
        print_json(table_json(table))
    else:
        out.print(TableReport(table_sheet(table)))
    failed = [(variant, trial) for variant in row.variants for trial in variant.trials if trial.state is TrialState.FAILED]
    for variant, trial in failed:
        failure = trial.failure
        at = f" at step {failure.step} (epoch {failure.epoch})" if failure and failure.step else ""
        say(
            f"failed: {variant.name} seed {trial.seed} ({trial.id}): {failure.kind if failure else 'error'}{at}: {failure.reason if failure else ''}"
        )
        say(f"        log: {tree.trial(trial.id).file('log.txt')}")
    if failed:
        say("the same command tries them again, from their last checkpoints; what each kind means: docs/failures.md")
    problems = unfair(row)
    for problem in problems:
        say(f"unfair: {problem}")
    agrees = settle(row, store, folder, damaged=damaged, trained=trained, relock=relock, experiment=experiment)
    if not mirror.finish():
        say(f"warning: {mirror.shortfall}")
    say(f"table written to {folder} (json, md, csv, tex, html)")
    say(look_closer())
    if failed:
        return ExitCode.TRIALS_FAILED
    return ExitCode.UNFAIR if problems or damaged or not agrees else ExitCode.DONE
