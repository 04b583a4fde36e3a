"""Trials whose training is over: their final weights are evaluated, and nothing is trained.

A finished trial whose records are damaged gets them again in this way (``repair``).
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import random
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor

from gfl_lab import naming
from gfl_lab.analysis.history import History
from gfl_lab.checkpoints.files import DAMAGE, load_safely, write_weights
from gfl_lab.errors import GflLabError, StoreError
from gfl_lab.inference.evaluate import CocoEvaluator
from gfl_lab.integrity.damage import Cure, file_entries, phrase
from gfl_lab.integrity.file_checks import checkpoint_damage
from gfl_lab.integrity.trial_check import damage
from gfl_lab.processes import keep_freed_memory
from gfl_lab.records.files import damaged, write_text
from gfl_lab.records.manifest import DataPaths, Manifest
from gfl_lab.records.marks import FailedRepair, write_failed_repair
from gfl_lab.records.metric_lines import MetricWriter, write_metric_lines
from gfl_lab.records.result import Done, EvaluatedAgain, now, salvage_result, write_result
from gfl_lab.rundir import TrialDir, TrialState
from gfl_lab.setup.components import load_of_trial
from gfl_lab.setup.config import loaders_that_fit, trial_config
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.trial import TrialSpec
from gfl_lab.train.environment import environment
from gfl_lab.train.failure import failure_of
from gfl_lab.train.final import Clock, Numbers, device_name, evaluate_final, peak_memory_mib

HEARTBEAT_S = 10.0


@dataclass(frozen=True)
class FinalWeights:
    """The weights at the end of a training: the moving average where there is one.

    Attributes:
        state: state dict of the detector, on the CPU. epoch, step: finished ones. meta: of the checkpoint.
    """

    state: Mapping[str, Tensor]
    epoch: int
    step: int
    meta: Mapping[str, Any]


def final_weights(trial: TrialDir, spec: TrialSpec) -> FinalWeights:
    """Read the last checkpoint of a trial whose training is over, comparing its check sums.

    Raises:
        StoreError, InputError: there is none, it is damaged or another trial's, or training was not over.
    """
    path = trial.file(naming.LAST_CHECKPOINT)
    if what := checkpoint_damage(path, whole=True):
        raise StoreError(f"{path} {what}")
    content = load_safely(path)
    meta, state = content.get("meta"), content.get("state_dict")
    if not isinstance(meta, dict) or not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StoreError(f"{path} is not a trial's checkpoint")
    if meta.get("trial") != trial.id:
        raise StoreError(f"{path} belongs to trial {meta.get('trial')}, not to {trial.id}")
    epoch, step = meta.get("epoch"), meta.get("iter")
    if type(epoch) is not int or type(step) is not int or epoch != total_epochs(spec.settings):
        raise StoreError(f"{path} is of epoch {epoch}, and the training has {total_epochs(spec.settings)}")
    return FinalWeights(state, epoch, step, meta)


def trained_weights(trial: TrialDir) -> FinalWeights | None:
    """Return the weights of an unfinished trial whose checkpoint is of the end of its training and cannot be trained on.

    None for every other trial: it trains, or goes on from its checkpoint.
    """
    try:
        content = torch.load(trial.file(naming.LAST_CHECKPOINT), map_location="cpu", weights_only=True, mmap=True)
        if "optimizer" in content:
            return None
        del content
        return final_weights(trial, read_spec(trial.manifest()))
    except (GflLabError, pickle.UnpicklingError, *DAMAGE):
        return None


def adopted_weights(trial: TrialDir, donor_id: str) -> FinalWeights | None:
    """Take the final weights of another finished trial that trained as this one would; its curves and its notes come along.

    Afterwards the folder is that of a trial whose training is over, with a checkpoint of its own. None where there is no such trial,
    or its weights cannot be used: then the log has the reason, and the trial trains.
    """
    if not donor_id:
        return None
    donor = TrialDir(trial.path.parent / donor_id)
    try:
        spec, theirs = (read_spec(each.manifest()) for each in (trial, donor))
        if donor.state() is not TrialState.DONE or theirs.training_id != spec.training_id:
            raise StoreError(f"trial {donor_id} is not finished, or trained otherwise")
        weights = final_weights(donor, theirs)
        lines = [line for line in donor.metric_lines() if line.trains]
        accumulation = donor.accumulation()
    except (GflLabError, OSError) as error:
        trial.log(f"the weights of trial {donor_id} cannot be used, so this one trains: {error}")
        return None
    trial.log(f"its weights are those of trial {donor_id}, which differs from it in test settings alone")
    for name in (naming.HISTORY, naming.PREVIOUS_CHECKPOINT, naming.ACCUMULATION):
        trial.file(name).unlink(missing_ok=True)
    if accumulation:
        trial.write_accumulation(accumulation)
    write_metric_lines(trial.file(naming.METRICS_FILE), lines)
    meta = {**weights.meta, "trial": trial.id, "weights_from": donor_id}
    write_weights(trial.file(naming.LAST_CHECKPOINT), {"meta": meta, "state_dict": dict(weights.state)})
    return replace(weights, meta=meta)


def read_spec(manifest: Manifest) -> TrialSpec:
    """Return what the trial computes.

    Raises:
        StoreError: the manifest is damaged, another version's, or another trial's.
    """
    spec, _ = manifest.spec, manifest.paths
    if spec.id != manifest.file.parent.name:
        raise damaged(manifest.file, f"is another trial's: it computes {spec.id}")
    return spec


def evaluated(trial: TrialDir, weights: FinalWeights, *, threads: int, loader_workers: int) -> Done:
    """Evaluate an unfinished trial whose final weights are there, write all its records, and return its result."""
    manifest = trial.manifest()
    spec = read_spec(manifest)
    load_of_trial(trial, spec)
    clock = Clock()
    trial.log(
        f"trial {trial.id}: training is over, its final weights are evaluated: data {spec.data.name} {spec.data.digest}, {threads} threads"
    )
    numbers, device, images = evaluate_weights(
        trial, spec, manifest.paths, weights, threads=threads, loader_workers=loader_workers, clock=clock
    )  # fmt: skip
    History(trial.file(naming.HISTORY), images).add(weights.epoch, numbers.rows)
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    writer.truncate_after(weights.step, unevaluated_from=weights.epoch)
    writer.write("val", weights.step, weights.epoch, numbers.logged)
    writer.close()
    return replace(
        numbers.result(),
        files=file_entries(trial),
        epochs=weights.epoch,
        steps=weights.step,
        processes=1,
        seconds=clock.seconds(),
        peak_memory_mib=peak_memory_mib(torch.device(get_device())),
        device=device,
        environment=environment(device, threads),
        weights_from=str(weights.meta.get("weights_from", "")),
    )


def prepare_process(threads: int, seed: int) -> None:
    """Make this process ready for a trial: its threads, memory and random numbers, and nothing left of a trial before."""
    if torch.cuda.is_initialized():  # inline, a trial before has used this process
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.set_num_threads(threads)
    keep_freed_memory()
    random.seed(seed)
    np.random.seed(seed)


def evaluate_weights(
    trial: TrialDir, spec: TrialSpec, paths: DataPaths, weights: FinalWeights, *, threads: int, loader_workers: int, clock: Clock
) -> tuple[Numbers, str, Collection[int]]:  # fmt: skip
    """Evaluate final weights as a trial does at the end of its training, with the same threads and seeds.

    Returns:
        The numbers, the device as people read it, and the ids of all validation images.

    Raises:
        StoreError: the weights do not fit the trial's settings.
    """
    prepare_process(threads, spec.seed)
    config = trial_config(spec, paths.to_json(), str(trial.path), loaders_that_fit(loader_workers, spec.settings))
    if not trial.file(naming.CONFIG).exists():
        write_text(trial.file(naming.CONFIG), config.pretty_text)
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    try:
        model.load_state_dict(weights.state)
    except RuntimeError as error:
        raise StoreError(f"{trial.file(naming.LAST_CHECKPOINT)} does not fit the trial: {str(error).splitlines()[-1].strip()}") from None
    model = model.to(get_device())
    evaluator = CocoEvaluator(paths.val_annotations, spec.data.classes, spec.settings.max_dets)
    loader = Runner.build_dataloader(config.val_loader, seed=spec.seed)
    clock.lap("setup")
    return evaluate_final(trial, spec, model, loader, evaluator, clock), device_name(model), evaluator.truth.imgs


def repair(trial: TrialDir, *, threads: int, loader_workers: int) -> None:
    """Make the damaged records of a finished trial again from its last checkpoint; its caller holds the lease.

    A sound trial is left as it is. The result is replaced at the very end, so that a kill or a full disk loses nothing. Why it
    could not be done stands in repair.json and in the log; nothing is raised.
    """
    found = damage(trial)
    if not any(each.cure is Cure.EVALUATE for each in found):
        return
    trial.log(f"damaged: {phrase(found)}; its last checkpoint is evaluated again")
    try:
        with beating(trial):
            trial.prepare()
            _evaluate_again(trial, threads, loader_workers)
        trial.file(naming.REPAIR).unlink(missing_ok=True)
    except Exception as error:
        trial.release_reserve()
        trial.log(traceback.format_exc())
        failure = failure_of(trial, error)
        with contextlib.suppress(OSError):
            write_failed_repair(trial.file(naming.REPAIR), FailedRepair(failure.kind, failure.reason, now()))
    finally:
        trial.release_reserve()


def _evaluate_again(trial: TrialDir, threads: int, loader_workers: int) -> None:
    manifest = trial.manifest()
    spec = read_spec(manifest)
    load_of_trial(trial, spec)
    clock = Clock()
    weights = final_weights(trial, spec)
    former = salvage_result(trial.file(naming.RESULT)) or Done(metrics=None)
    numbers, device, _ = evaluate_weights(
        trial, spec, manifest.paths, weights, threads=threads, loader_workers=loader_workers, clock=clock
    )  # fmt: skip
    # The check sums of files that were not written again stay: a damaged history must not become a sound one.
    kept = {name: entry for name, entry in (former.files or {}).items() if name in (naming.HISTORY, naming.METRICS_FILE)}
    again = EvaluatedAgain(now(), device, clock.seconds(), environment(device, threads))
    result = replace(
        numbers.result(),
        trial=trial.id,
        files=file_entries(trial) | kept,
        epochs=weights.epoch,
        steps=weights.step,
        processes=former.processes,
        seconds=former.seconds or {"total": round(sum(clock.laps.values()), 3)},
        peak_memory_mib=peak_memory_mib(torch.device(get_device())) if former.peak_memory_mib is None else former.peak_memory_mib,
        device=former.device or device,
        environment=former.environment or again.environment,
        weights_from=former.weights_from,
        evaluated_again=again,
        accumulation=former.accumulation,
        finished=former.finished or again.finished,
    )
    write_result(trial.file(naming.RESULT), result)


@contextlib.contextmanager
def beating(trial: TrialDir) -> Iterator[None]:
    """Renew the trial's lease in a thread meanwhile."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            trial.touch_lease()

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()
