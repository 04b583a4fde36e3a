"""A short warm-up of a trial: how long an iteration and an image of evaluation take, and how much memory.

It builds the Runner of the real trial on the real data and runs some iterations of it. Its measurements go to result.json in
the folder that it is given; nothing of it can be taken for a trial.
"""

from __future__ import annotations

import contextlib
import random
import resource
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

import gfl_lab.setup.dataset
import gfl_lab.train.optim  # noqa: F401  (both register what trial_config names)
from gfl_lab import naming
from gfl_lab.analysis.distributions import DistributionCollector
from gfl_lab.errors import FailureKind
from gfl_lab.inference.evaluate import CocoEvaluator, collect
from gfl_lab.inference.latency import MAX_SECONDS, MEASURED_IMAGES, WARMUP_IMAGES
from gfl_lab.inference.predict import predict, predict_and_collect
from gfl_lab.records.result import Done, Failed, Failure, Result, write_result
from gfl_lab.rundir import TrialDir
from gfl_lab.setup.components import load_of_trial
from gfl_lab.setup.config import PREFETCHED, batch_bytes, loaders_that_fit, trial_config
from gfl_lab.spec.choices import TEACHER
from gfl_lab.spec.needs import needs_of
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TrialSpec
from gfl_lab.train.loop import TrialRunner
from gfl_lab.train.needed import learn_from

DROPPED = 2
"""First iterations, in which memory is allocated and kernels are chosen."""
LEAST_ITERATIONS, LEAST_S, MOST_S = 8, 6.0, 60.0
CUDA_CONTEXT_MIB = 600.0
"""Memory of a process on a GPU beside torch's own: CUDA's context and the kernels that are loaded (H100: 500 MiB)."""


class _Enough(Exception):
    """Enough iterations have been seen."""


class _Timer(Hook):
    """Ends of iterations; raises _Enough when they suffice."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # The terms of the loss are on the host by now. On a GPU this is the end of a forward pass: two of them are a step apart.
        self.ends.append(time.perf_counter())
        seen, passed = len(self.ends) - DROPPED, self.ends[-1] - self.ends[min(DROPPED, len(self.ends)) - 1]
        if (seen >= LEAST_ITERATIONS and passed >= LEAST_S) or (seen >= 1 and passed >= MOST_S):
            raise _Enough


def measure(path: str | Path, *, threads: int, loader_workers: int) -> None:
    """Warm the trial of the manifest in folder ``path`` up, and write what was measured to its result.json.

    ``metrics`` there: ``seconds_per_iteration``, ``seconds_per_image`` (of evaluation), ``seconds_once`` (set-up and the
    measurement of latency), ``memory_mib`` (of this process and its loaders, with the images that they will come to keep) and
    ``gpu_memory_mib``.

    Args:
        threads: CPU threads. loader_workers: processes that load images.
    """
    trial = TrialDir(Path(path))
    try:
        outcome: Result = _measure(trial, threads, loader_workers)
    except Exception as error:
        traceback.print_exc()
        outcome = Failed(failure=Failure(FailureKind.ERROR, f"{type(error).__name__}: {error}"))
    write_result(trial.file(naming.RESULT), replace(outcome, trial=trial.id))


def _measure(trial: TrialDir, threads: int, loader_workers: int) -> Done:
    started = time.perf_counter()
    manifest = trial.manifest()
    spec = manifest.spec
    load_of_trial(trial, spec)
    torch.set_num_threads(threads)
    random.seed(spec.seed)
    np.random.seed(spec.seed)
    loaders = loaders_that_fit(loader_workers, spec.settings)
    config = trial_config(spec, manifest.paths.to_json(), str(trial.path), loaders)
    runner = TrialRunner.from_cfg(config)
    teaches = any(need.role == TEACHER for need in needs_of(spec.settings))
    runner.load_or_resume = lambda: learn_from(runner.model, spec.settings, None) if teaches else None  # weights change no time
    evaluator = CocoEvaluator(manifest.paths.val_annotations, spec.data.classes, spec.settings.max_dets)
    loader = Runner.build_dataloader(config.val_loader, seed=spec.seed)
    setup = time.perf_counter() - started

    timer = _Timer()
    runner.register_hook(timer)
    try:
        runner.train()
    except _Enough:
        pass
    ends = timer.ends[min(DROPPED, len(timer.ends) - 2) :] if len(timer.ends) > 1 else [started + setup, *timer.ends]
    iteration = (ends[-1] - ends[0]) / (len(ends) - 1)
    image = _evaluation(runner.model, loader, evaluator, spec)
    cached = sum(each.dataset.decoded.size for each in (runner.train_dataloader, loader))
    device = next(runner.model.parameters()).device
    on_gpu = device.type == "cuda"
    metrics = {
        "seconds_per_iteration": iteration,
        "seconds_per_image": image,
        "seconds_once": setup + min(MAX_SECONDS, image * (WARMUP_IMAGES + min(MEASURED_IMAGES, len(loader.dataset)))),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + (cached + _loaders_bytes(loaders, spec.settings)) / 2**20,
        "gpu_memory_mib": torch.cuda.max_memory_reserved(device) / 2**20 + CUDA_CONTEXT_MIB if on_gpu else 0.0,
        "iterations": len(ends) - 1,
    }
    return Done(metrics=metrics, device=f"cuda {torch.cuda.get_device_name(device)}" if on_gpu else "cpu")


def _loaders_bytes(loaders: int, settings: Settings) -> int:
    """Return the private memory of loader processes, alive since both loaders were used, and of the batches that they keep ready."""
    own = 0
    for process in psutil.Process().children(recursive=True) if loaders else []:
        with contextlib.suppress(psutil.Error):
            own += process.memory_full_info().uss
    return own + loaders * PREFETCHED * batch_bytes(settings)


def _evaluation(model: torch.nn.Module, loader: Any, evaluator: CocoEvaluator, spec: TrialSpec) -> float:
    """Return the seconds of an image, without the first batch if there are more: until LEAST_S are full or all have been seen."""
    truth = spec.data.truth
    collector = DistributionCollector(evaluator.truth, evaluator.category_ids, spec.settings, ambiguous=True) if truth else None
    marks: list[tuple[float, int]] = []

    def batches() -> Iterator[Any]:
        for batch in loader:
            yield batch
            marks.append((time.perf_counter(), len(batch["inputs"])))
            if marks[-1][0] - marks[0][0] > LEAST_S:
                return

    started = time.perf_counter()
    found = list(predict_and_collect(model, batches(), collector) if collector else predict(model, batches()))
    before = time.perf_counter()
    evaluator(collect(iter(found)))
    scoring = (time.perf_counter() - before) / len(found)
    if len(marks) == 1:
        return (marks[0][0] - started) / marks[0][1] + scoring
    return (marks[-1][0] - marks[0][0]) / sum(count for _, count in marks[1:]) + scoring
