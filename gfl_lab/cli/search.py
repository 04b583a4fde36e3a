"""What `gfl-lab run`, `plan` and `table` do for an experiment of `kind: search`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.addresses import absolute
from gfl_lab.cli import executors
from gfl_lab.cli.costs import check_budget, cost_text, share_of
from gfl_lab.cli.output import consoles, plural, print_json, say
from gfl_lab.cli.prepare import Files, prepare
from gfl_lab.cli.unassigned import say_unassigned, unassigned_groups
from gfl_lab.errors import ExitCode, InputError, Problem


def run_search(
    files: Files, tree: Any, machine: Any, share: Any, limit: Any, *, executor: str, address: str | None, cpus: int | None, gpus: float | None,
    data: Path | None, seeds: list[int] | None, weights: dict[str, str], as_json: bool,
) -> ExitCode:  # fmt: skip
    """Search until as many trials have ended as the file asks for, and print the ranked table. Goes on where it was."""
    from gfl_lab.orchestrate import driver
    from gfl_lab.orchestrate.budget import Meter

    experiment = files.experiment
    folder = tree.experiment(experiment.name, files.profile.name)
    stop = driver.StopSwitch(folder / naming.STOP_REQUEST)
    runner = mirror = meter = None
    code = ExitCode.DONE
    stop.listen()
    try:
        prepared = prepare_search(files, tree, data=data, seeds=seeds, weights=weights)
        with driver.only_driver(folder) as killed:
            state, plan, created = _open(files, prepared, tree, folder, stop)
            if killed:
                driver.wait_for_orphans([trial for variant in state.all_variants for trial in variant.trials], tree)
            share = _share(prepared, tree, machine, share, address, cpus, gpus, executor)
            optional = gpus is None and not files.profile.resources.gpu_required
            if not state.ledger.complete:
                runner = executors.make_executor(executor, share, address, len(machine.gpus), stop, gpu_optional=optional)
                if address:
                    share = executors.on_cluster(runner)
            _say_plan(plan, state.ledger, share, limit, tree, machine, address)
            if not state.ledger.complete:
                say_unassigned(unassigned_groups(prepared.plan, prepared.paths, tree), plan, data, files.source.path.parent, notes=False)
            for backbone in sorted({v.settings.backbone for v in prepared.plan.variants if v.settings.init_weights == "pretrained"}):
                from gfl_lab.checkpoints.pretrained import fetch_pretrained

                fetch_pretrained(backbone)
            state.save()
            _save_plan(plan, state, folder, created)
            mirror = executors.start_mirror(tree, plan)
            if not state.ledger.complete:
                runner.capacity()
                meter = Meter(folder / naming.COST, share, limit, stop=lambda: os.kill(os.getpid(), signal.SIGINT))
                for sentence in _train(state, plan, runner, stop, share, meter):
                    say(f"error: Ray: {sentence}")
                runner.close(wait=False)
            _save_plan(plan, state, folder, created)
            code = _finish(state, plan, tree, folder, mirror, files.source.path, as_json)
    except KeyboardInterrupt:
        if not stop.signal:
            raise
    finally:
        stop.restore()
        if runner:
            runner.close()
        for file in folder.glob(naming.stop_request("*")):  # whoever was asked has ended
            file.unlink(missing_ok=True)
    over = meter is not None and meter.exhausted
    if stop.signal:
        code = executors.say_stopped(stop.signal, mirror, "the budget" if over else "")
    return code


def prepare_search(files: Files, tree: Any, *, data: Path | None, seeds: list[int] | None, weights: dict[str, str]) -> Any:
    """As ``prepare``; the plan holds the corners of the space. Raises InputError for what no search of these data can go by."""
    if seeds is not None and len(seeds) != 1:
        hint = "`gfl-lab confirm` compares the best with the defaults over several seeds."
        raise InputError(Problem(f"a search has one seed, and --seeds gives {len(seeds)}", hint=hint))
    metric = files.experiment.search.metric
    if metric in naming.TRUTH_METRICS and data is not None:
        from gfl_lab.data import ambiguous_shapes

        if ambiguous_shapes.describe(absolute(data, "--data")) is None:
            place = files.source.place("search", "metric")
            raise InputError(Problem(f"{metric} needs data whose true edges are known, and {data} has none", place))
    prepared = prepare(files, tree, data=data, seeds=seeds, weights=weights, say=say)
    return prepared


def _open(files: Files, prepared: Any, tree: Any, folder: Path, stop: Any) -> tuple[Any, Any, str]:
    """The state of this search, with everything known in it; its plan; and when it was begun."""
    from gfl_lab.orchestrate import driver
    from gfl_lab.orchestrate.pruner import SuccessiveHalving
    from gfl_lab.orchestrate.search import SearchState, open_ledger
    from gfl_lab.plan.search import definition_of, resolve
    from gfl_lab.spec.schedule import total_epochs

    search = files.experiment.search
    plan = dataclasses.replace(prepared.plan, experiment=files.experiment)
    ledger, notes = open_ledger(folder, definition_of(files.experiment, prepared.plan), search.trials)
    for note in notes:
        say(f"note: {note}")
    better = naming.METRICS[search.metric].higher_is_better
    pruner = None
    if search.scheduler == "asha":
        epochs = total_epochs(prepared.plan.variants[0].settings)
        pruner = SuccessiveHalving(higher_is_better=better, max_epochs=epochs, grace_epochs=search.grace_epochs, reduction=search.reduction)
    state = SearchState(
        ledger, folder, tree, dimensions=search.dimensions, metric=search.metric, higher_is_better=better, seed=search.sampler_seed,
        resolve=lambda settings: resolve(files.experiment, settings, prepared.expand), pruner=pruner,
        prepare=lambda variant: driver.write_manifests(variant.trials, tree, prepared.paths, prepared.code),
    )  # fmt: skip
    return state, plan, ledger.created


def _share(
    prepared: Any, tree: Any, machine: Any, share: Any, address: str | None, cpus: int | None, gpus: float | None, executor: str
) -> Any:
    """What a trial takes, from measured memory where it is known."""
    from gfl_lab.orchestrate.cost import Paces

    if (tree.root / naming.MEASURED_DIR).exists() and not address:
        peak = Paces(tree).peak(prepared.plan.trials, gpu=bool(share.gpus))
        share = share_of(machine, prepared.plan.profile.resources, cpus=cpus, gpus=gpus, peak=peak)
    return dataclasses.replace(share, slots=1) if executor == "inline" else share


def _save_plan(plan: Any, state: Any, folder: Path, created: str) -> None:
    from gfl_lab.plan.search import plan_of
    from gfl_lab.records.plan import write_plan

    write_plan(folder / naming.PLAN, plan_of(plan, state.all_variants).record(created))


def _say_plan(plan: Any, ledger: Any, share: Any, limit: Any, tree: Any, machine: Any, address: str | None) -> None:
    from gfl_lab.orchestrate import resources
    from gfl_lab.orchestrate.cost import Paces, cost_of, estimates

    search, data = plan.experiment.search, plan.data
    say(f"data: {data.name} {data.digest}, {data.train_images} training and {data.val_images} validation images")
    say(f"search for {'high' if naming.METRICS[search.metric].higher_is_better else 'low'} {search.metric} over:")
    for dimension in search.dimensions:
        say(f"  {dimension.key}: {dimension}")
    how = "no trial is stopped early"
    if search.scheduler == "asha":
        how = f"ASHA stops early: each gets {plural(search.grace_epochs, 'epoch')}, then 1 in {search.reduction} goes on"
    say(f"{plural(search.trials, 'trial')}; {how}")
    left = max(0, ledger.trials - ledger.ended)
    if ledger.complete:
        say(f"{plural(ledger.ended, 'trial')} have ended already: nothing to train")
        return
    device = resources.device_of(machine, share.gpus) if not address else "" if share.gpus else "cpu"
    each = estimates(plan.trials, plan, tree, share, device, Paces(tree))
    expected = list(itertools.islice(itertools.cycle(each), left))
    if search.scheduler == "none":
        check_budget(limit, expected, share)
    at_most = "" if search.scheduler == "none" else "if none were stopped early: "
    cost = cost_of([estimate.seconds for estimate in expected], share)
    say(f"{ledger.ended} ended, {left} to go, {min(share.slots, left)} at once; {at_most}{cost_text(cost, expected, share)}")


def _train(state: Any, plan: Any, executor: Any, stop: Any, share: Any, meter: Any) -> list[str]:
    from gfl_lab.cli import run
    from gfl_lab.cli.display import display
    from gfl_lab.orchestrate import driver
    from gfl_lab.orchestrate.search import SearchWatcher, run_search
    from gfl_lab.rundir import TrialState

    stop.install()
    how = executors.how_to_run(share, executor, plan.profile.resources)
    with display(consoles()[1]) as listener:

        def listen(progress: list[Any]) -> None:
            meter.look(sum(trial.state is TrialState.RUNNING for trial in progress))
            listener(progress)

        watcher = SearchWatcher(state, plan, listen)

        def begin(variant: Any, number: int, stop_file: Path) -> Any:
            _save_plan(plan, state, state.folder, state.ledger.created)
            watcher.add(number, variant, plan.data.train_images)
            own = how | {"stop_file": str(stop_file)}
            return driver.jobs_for(variant.trials, state.tree, run.TRIAL_ENTRY, own, gpus=executor.gpus)[0]

        watcher.start()
        try:
            return run_search(state, begin, executor, stop)
        finally:
            watcher.finish()
            meter.save()


def _finish(state: Any, plan: Any, tree: Any, folder: Path, mirror: Any, file: Path, as_json: bool) -> ExitCode:
    """Write and print the ranked table, complete the mirror, say what is missing; the exit code."""
    from gfl_lab.records.search import Outcome
    from gfl_lab.report.exports import write_ranking
    from gfl_lab.report.ranking import rank
    from gfl_lab.report.ranking_grid import ranking_json, ranking_sheet
    from gfl_lab.report.writers.terminal import ranking_report
    from gfl_lab.results.search import read_search

    ranking = rank(read_search(tree, plan.experiment.name, plan.profile.name))
    write_ranking(ranking, folder)
    if as_json:
        print_json(ranking_json(ranking))
    else:
        consoles()[0].print(ranking_report(ranking_sheet(ranking)))
    failed = [entry for entry in state.ledger.suggestions if entry.state is Outcome.FAILED and not entry.final]
    for entry in failed:
        say(f"failed: suggestion {entry.number} ({entry.trial}): {entry.failure.kind}: {entry.failure.reason}")
        say(f"        log: {tree.trial(entry.trial).file(naming.LOG)}")
    if not mirror.finish():
        say(f"warning: {mirror.shortfall}")
    say(f"table written to {folder} (json, md, csv, html)")
    if ranking.best and state.ledger.complete:
        say(f"confirm the best with:  gfl-lab confirm {shlex.quote(str(file))}")
    if not state.ledger.complete:
        left = [entry for entry in state.ledger.suggestions if entry.state is Outcome.OPEN]
        if left:
            say(f"note: {plural(len(left), 'trial')} begun and not ended; the same command goes on with them")
        return ExitCode.TRIALS_FAILED
    return ExitCode.DONE


def show_plan(files: Files, *, data: Path | None, seeds: list[int] | None, weights: dict[str, str], as_json: bool) -> None:
    """`gfl-lab plan` of a search: what would be searched, and what has ended."""
    from gfl_lab.orchestrate import resources
    from gfl_lab.orchestrate.search import open_ledger
    from gfl_lab.plan.search import definition_of
    from gfl_lab.rundir import RunTree

    tree, machine = RunTree.default(), resources.look()
    prepared = prepare_search(files, tree, data=data, seeds=seeds, weights=weights)
    definition = definition_of(files.experiment, prepared.plan)
    ledger, _ = open_ledger(
        tree.experiment(files.experiment.name, files.profile.name), definition, files.experiment.search.trials, look=True
    )
    plan = dataclasses.replace(prepared.plan, experiment=files.experiment)
    unassigned = unassigned_groups(prepared.plan, prepared.paths, tree)
    if as_json:
        print_json(
            {
                "experiment": plan.experiment.name, "profile": plan.profile.name, "kind": "search", "data": plan.data.model_dump(mode="json"),
                "search": plan.experiment.search.model_dump(mode="json"), "ended": ledger.ended, "suggestions": len(ledger.suggestions),
                "unassigned": unassigned,
            }
        )  # fmt: skip
        return
    say_unassigned(unassigned, plan, data, files.source.path.parent)
    _say_plan(plan, ledger, share_of(machine, files.profile.resources), None, tree, machine, None)


def print_table(tree: Any, name: str, profile: str, form: str) -> None:
    """`gfl-lab table` of a search, on stdout. Raises InputError."""
    from gfl_lab.errors import StoreError
    from gfl_lab.report.exports import RANKING_FORMS
    from gfl_lab.report.ranking import rank
    from gfl_lab.report.ranking_grid import ranking_sheet
    from gfl_lab.report.writers.terminal import ranking_report
    from gfl_lab.results.search import read_search

    if form == "tex":
        raise InputError("the ranked table of a search has no LaTeX form; `gfl-lab confirm` makes a table for a paper")
    try:
        ranking = rank(read_search(tree, name, profile))
    except StoreError as error:
        raise InputError(error.problems) from None
    if form == "text":
        consoles()[0].print(ranking_report(ranking_sheet(ranking)))
    else:
        sys.stdout.write(RANKING_FORMS[form](ranking))


def status_lines(tree: Any, name: str, profile: str, cost: str) -> list[str]:
    """`gfl-lab status` of a search: its trials in the ledger's words, since one that was stopped early is neither failed nor unfinished."""
    from gfl_lab.errors import StoreError
    from gfl_lab.report.ranking_grid import state_text
    from gfl_lab.results.search import read_search

    try:
        search = read_search(tree, name, profile)
    except StoreError as error:
        return [f"{name} on {profile}: {error.problems[0].message}"]
    shown = [row for row in search.suggestions if row.trial and row.state != "repeat"]
    counts: dict[str, int] = {}
    for row in shown:
        counts[row.state] = counts.get(row.state, 0) + 1
    lines = [
        f"{name} on {profile}: a search, " + ", ".join([*(f"{count} {state}" for state, count in counts.items()), f"of {search.trials}"])
    ]
    lines += [f"  {cost}", "  ranked table:  gfl-lab table EXPERIMENT.yaml"]
    width = max((len(naming.variant_name(dict(row.settings))) for row in shown), default=0)
    for row in shown:
        value = "" if row.value is None else f"  {search.metric} {row.value:.{naming.METRICS[search.metric].digits}f}"
        reason = f"  {row.reason}" if row.reason else ""
        lines.append(f"  {row.number:3}  {naming.variant_name(dict(row.settings)):{width}}  {row.trial}  {state_text(row)}{value}{reason}")
    return lines


def stopped_early(tree: Any, name: str, profile: str) -> set[str]:
    """Ids of the trials that a search has stopped early; none where its ledger cannot be read."""
    from gfl_lab.errors import StoreError
    from gfl_lab.results.search import STOPPED, read_search

    try:
        return {row.trial for row in read_search(tree, name, profile).suggestions if row.state == STOPPED}
    except StoreError:
        return set()
