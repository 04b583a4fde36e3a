"""One trial, from its manifest to its result: the function that an executor runs in a process of its own."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner

import gfl_lab.setup.dataset
import gfl_lab.train.optim  # noqa: F401  (both register what trial_config names)
from gfl_lab import naming
from gfl_lab.analysis.distributions import DistributionCollector
from gfl_lab.analysis.history import History
from gfl_lab.checkpoints.pretrained import load_backbone, load_backbone_of_mmdet
from gfl_lab.errors import (
    FormatError,
    Interrupted,
    NonFiniteLoss,
    StoreError,
)
from gfl_lab.inference.evaluate import CocoEvaluator, collect
from gfl_lab.inference.predict import predict_and_collect
from gfl_lab.integrity.damage import file_entries
from gfl_lab.integrity.trial_check import has_finished
from gfl_lab.records import result as records
from gfl_lab.records.accumulation import Accumulation
from gfl_lab.records.files import write_text
from gfl_lab.records.result import Done, Failed, Result, finished_now, write_result
from gfl_lab.rundir import TrialDir
from gfl_lab.setup.components import load_of_trial
from gfl_lab.setup.config import SHARED_MEMORY, loaders_that_fit, trial_config
from gfl_lab.spec.choices import INIT_FROM, TEACHER
from gfl_lab.spec.trial import TrialSpec
from gfl_lab.train.checkpoint import load_last, restore
from gfl_lab.train.ema import MovingAverage
from gfl_lab.train.environment import environment
from gfl_lab.train.failure import failure_of, full_disk_raised
from gfl_lab.train.final import Clock, device_name, device_of, evaluate_final, peak_memory_mib
from gfl_lab.train.finished import FinalWeights, adopted_weights, beating, evaluated, prepare_process, read_spec, repair, trained_weights
from gfl_lab.train.loop import Position, TrialHook, TrialRunner
from gfl_lab.train.needed import learn_from, needed_trial, start_from
from gfl_lab.train.parallel import LostProcess, join_group, run_in_group
from gfl_lab.train.process_group import ProcessGroup


def run_trial(
    path: str | Path,
    *,
    threads: int = 1,
    loader_workers: int = 0,
    processes: int = 1,
    stop_file: str = "",
    weights_from: str = "",
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Train and evaluate the trial in folder ``path``, going on from its last checkpoint; write its result.

    A finished trial whose records are damaged is evaluated again, from its last checkpoint; else it is left as it is.

    The outcome is always in result.json when this returns or raises; nothing is raised for a failed trial.

    Args:
        path: run directory with a manifest.
        threads: CPU threads, of all processes together.
        loader_workers: processes that load images, for each process.
        processes: that share each batch, a GPU each where there are as many (process_group.py).
        stop_file: a file of its driver; the trial stops when it appears.
        weights_from: id of a finished trial beside this one that differs from it in test settings alone. Its final weights are
            evaluated, and nothing is trained, unless they are gone or damaged by now.
        should_stop: asked before each step, instead of looking for the file.

    Raises:
        Interrupted: asked to stop; a checkpoint holds the progress.
        StoreError: another process runs it, or its result is of a format that this version does not read.
        DiskFull: there was no room for even the outcome.
    """
    trial = TrialDir(Path(path))
    with full_disk_raised(trial):
        trial.take_lease()
        if _has_finished(trial):  # by another driver, after this one had planned; or its records are damaged
            try:
                repair(trial, threads=max(1, threads // processes), loader_workers=loader_workers)
            finally:
                trial.drop_lease()
            return
        trial.prepare()
    started = time.time()
    trial.file(naming.RESULT).unlink(missing_ok=True)
    position = Position()
    outcome: Result
    stop = should_stop or (lambda: bool(stop_file) and os.path.exists(stop_file))

    def failed(error: Exception) -> Failed:
        return Failed(failure=replace(failure_of(trial, error), step=position.step, epoch=position.epoch))

    of_each = {"threads": max(1, threads // processes), "loader_workers": loader_workers}

    def evaluate_only(weights: FinalWeights) -> Done:
        position.step, position.epoch = weights.step, weights.epoch
        return evaluated(trial, weights, **of_each)

    def work(group: ProcessGroup) -> Done | None:
        return _train(trial, **of_each, should_stop=stop, position=position, group=group)

    def on_lost(error: LostProcess) -> None:
        trial.log(str(error))
        _write_result(trial, failed(error), time.time() - started)
        trial.drop_lease()

    try:
        with beating(trial):
            if weights := trained_weights(trial) or adopted_weights(trial, weights_from):
                outcome = evaluate_only(weights)
            else:
                found = run_in_group(processes, work, f"{__name__}:follow", {"path": str(trial.path.absolute()), **of_each}, on_lost)
                assert found is not None, "the first process evaluates"
                outcome = found
    except Interrupted as error:
        outcome = records.Interrupted(reason=str(error))
        raise
    except Exception as error:
        trial.release_reserve()
        trial.log(traceback.format_exc())
        outcome = failed(error)
    except BaseException as error:  # Ctrl-C in the inline executor: the last checkpoint stands
        outcome = records.Interrupted(reason=type(error).__name__)
        raise
    finally:
        trial.release_reserve()
        try:
            with full_disk_raised(trial):
                _write_result(trial, outcome, time.time() - started)
        finally:
            trial.drop_lease()
    if isinstance(outcome, Done):
        trial.file(naming.PREVIOUS_CHECKPOINT).unlink(missing_ok=True)


def follow(path: str, *, threads: int, loader_workers: int, rank: int, size: int, folder: str) -> None:
    """Train the trial in folder ``path`` as process ``rank`` of ``size``; the first one writes and evaluates.

    Args:
        threads, loader_workers: of this process. folder: where the processes meet (`join_group`).
    """
    trial = TrialDir(Path(path))

    def work(group: ProcessGroup) -> None:
        _train(trial, threads, loader_workers, lambda: False, Position(), group)

    join_group(rank, size, folder, work, lambda error: failure_of(trial, error).to_json())


def _write_result(trial: TrialDir, outcome: Result, seconds: float) -> None:
    accumulation = None
    with contextlib.suppress(StoreError):  # a damaged record is the reason of such a failure
        accumulation = trial.accumulation()
    result = finished_now(replace(outcome, trial=trial.id, accumulation=accumulation), seconds)
    write_result(trial.file(naming.RESULT), result)


def _has_finished(trial: TrialDir) -> bool:
    """Return True if nothing is left to train. Raises FormatError for a result of another format, which is never written over."""
    try:
        return has_finished(trial)
    except FormatError:
        trial.drop_lease()
        raise


def _train(
    trial: TrialDir, threads: int, loader_workers: int, should_stop: Callable[[], bool], position: Position, group: ProcessGroup
) -> Done | None:
    """Return the result; None in a process that only follows."""
    manifest = trial.manifest()
    spec = read_spec(manifest)
    load_of_trial(trial, spec)
    settings = spec.settings
    clock = Clock()
    prepare_process(threads, spec.seed)

    loaders = loaders_that_fit(loader_workers, settings)
    config = trial_config(spec, manifest.paths.to_json(), str(trial.path), loaders)
    if group.is_main:
        write_text(trial.file(naming.CONFIG), config.pretty_text)
    runner = TrialRunner.from_cfg(config)
    if group.size > 1 and device_of(runner.model).type == "cuda":
        runner.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(runner.model)
    runner.group = group
    evaluator = CocoEvaluator(manifest.paths.val_annotations, spec.data.classes, settings.max_dets)
    val_loader = Runner.build_dataloader(config.val_loader, seed=spec.seed)

    history = History(trial.file(naming.HISTORY), evaluator.truth.imgs)

    def evaluate(epoch: int) -> dict[str, float]:
        # With known true edges, the scores against them are recorded after each epoch, like AP: on all images.
        truth, some = spec.data.truth, None if spec.data.truth else history.images
        seen = DistributionCollector(evaluator.truth, evaluator.category_ids, settings, ambiguous=truth, images=some)
        metrics = evaluator(collect(predict_and_collect(runner.model, val_loader, seen)))[0]
        history.add(epoch, seen.rows)
        return metrics | seen.truth_scores().metrics() if truth else metrics

    resumed = _load_last(trial, group)
    hook = TrialHook(trial, evaluate, should_stop, resumed, spec.seed, position, group)
    runner.register_hook(hook)
    runner.load_or_resume = lambda: _start(runner, spec, hook)
    clock.lap("setup")
    step = resumed["meta"]["iter"] if resumed else 0
    runner.accumulation_steps = _accumulation_steps(trial, step, group)
    start = f"continues after step {step}" if resumed else "starts"
    in_steps = f", each batch of {settings.batch_size} in {runner.accumulation_steps} parts" if runner.accumulation_steps > 1 else ""
    processes = f" in each of {group.size} processes" if group.size > 1 else ""
    if group.is_main:
        trial.log(
            f"trial {trial.id} {start}: seed {spec.seed}, data {spec.data.name} {spec.data.digest}, {device_name(runner.model)}, "
            f"{threads} threads{processes}{in_steps}"
        )
        if loaders < loader_workers:
            trial.log(f"{loaders} of {loader_workers} loader processes: {SHARED_MEMORY} has no room for the batches of more")
    try:
        runner.train()
    except NonFiniteLoss as error:
        raise NonFiniteLoss(runner.iter + 1, runner.epoch + 1, error.losses) from None
    if not group.is_main:
        return None
    if TEACHER in spec.needs:
        runner.model.bbox_head.distillation = None  # its memory is free for the evaluation
    if hook.average:
        hook.average.copy_to(runner.model)  # from here on it is the trial's model
    clock.lap("train", minus=hook.eval_seconds)

    numbers = evaluate_final(trial, spec, runner.model, val_loader, evaluator, clock, eval_seconds=hook.eval_seconds)
    history.add(runner.epoch, numbers.rows)
    hook.writer.write("val", runner.iter, runner.epoch, numbers.logged)
    hook.writer.close()
    return replace(
        numbers.result(),
        files=file_entries(trial),
        epochs=runner.epoch,
        steps=runner.iter,
        processes=group.size,
        seconds=clock.seconds(),
        peak_memory_mib=peak_memory_mib(device_of(runner.model)),
        device=device_name(runner.model),
        environment=environment(device_name(runner.model), threads),
    )


def _start(runner: TrialRunner, spec: TrialSpec, hook: TrialHook) -> None:
    """Put in the weights that the trial starts or goes on with, after mmengine has initialised them."""
    settings = spec.settings
    if hook.resumed is None and settings.init_weights != "random":
        if spec.config:
            load_backbone_of_mmdet(runner.model.backbone, settings.init_weights, spec.config.get("pretrained", ""))
        else:
            load_backbone(runner.model.backbone, settings.init_weights, settings.backbone)
    if hook.resumed is None and INIT_FROM in spec.needs:
        said = start_from(runner.model, needed_trial(hook.trial, spec, INIT_FROM))
        if hook.group.is_main:
            hook.trial.log(said)
    if TEACHER in spec.needs:
        learn_from(runner.model, settings, needed_trial(hook.trial, spec, TEACHER))
    if settings.ema_decay:
        hook.average = MovingAverage(runner.model, settings.ema_decay)
    if hook.resumed is not None:
        restore(runner, hook.resumed, hook.average)


def _load_last(trial: TrialDir, group: ProcessGroup) -> dict[str, Any] | None:
    """Return the last checkpoint, in each process. The first one sets damaged files aside before the others look."""
    if not group.is_main:
        group.barrier()
    found = load_last(trial)
    if group.is_main:
        group.barrier()
    return found


def _accumulation_steps(trial: TrialDir, step: int, group: ProcessGroup) -> int:
    """Return the number of parts of each batch, and record the first step with them, which is the earliest that a trial ever went on from."""
    accumulation = trial.accumulation()
    if accumulation is None:
        return 1
    since = accumulation.since_step
    if group.is_main and (since is None or step < since):
        trial.write_accumulation(Accumulation(accumulation.parts, step))
    return accumulation.parts
