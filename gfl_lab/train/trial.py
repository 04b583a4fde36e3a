"""One trial, from its manifest to its result: the function that an executor runs in a process of its own."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import random
import resource
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.models.detectors import GFL
from mmdet.registry import MODELS
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

import gfl_lab.train.dataset
import gfl_lab.train.optim  # noqa: F401  (both register what trial_config names)
from gfl_lab import naming
from gfl_lab.errors import FailureKind, Interrupted, NonFiniteLoss, StoreError, TrialError
from gfl_lab.rundir import MetricWriter, TrialDir, write_json
from gfl_lab.spec.settings import TrialSpec
from gfl_lab.train.checkpoint import load_backbone, load_last, restore, save_checkpoint
from gfl_lab.train.components import load_of_trial
from gfl_lab.train.config import trial_config
from gfl_lab.train.distributions import DistributionCollector, predict_and_collect
from gfl_lab.train.ema import MovingAverage
from gfl_lab.train.evaluate import CocoEvaluator, collect, predict
from gfl_lab.train.latency import measure_latency

HEARTBEAT_S = 10.0


@MODELS.register_module()
class TrialDetector(GFL):
    """mmdet's single-stage detector that refuses a non-finite loss before the backward pass.

    Convolutions run in channels-last memory order, which takes a fifth off a training step on a CPU (docs/decisions/0004).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.to(memory_format=torch.channels_last)

    def extract_feat(self, batch_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Pyramid maps of (N, 3, H, W) images."""
        return super().extract_feat(batch_inputs.contiguous(memory_format=torch.channels_last))

    def parse_losses(self, losses: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """As mmengine's. Raises NonFiniteLoss (its step is filled in by the trial)."""
        total, terms = super().parse_losses(losses)
        if not torch.isfinite(total):
            raise NonFiniteLoss(0, 0, {name: float(value.detach()) for name, value in terms.items()})
        return total, terms


class TrialRunner(Runner):
    """mmengine's Runner without its own folders, log files and environment probe: the run directory has a place for each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with contextlib.suppress(OSError):
            os.rmdir(self._log_dir)

    def build_logger(self, log_level: int | str = "INFO", **_: Any) -> MMLogger:
        return MMLogger.get_instance(self._experiment_name, log_level="WARNING")

    def build_visualizer(self, visualizer: Any = None) -> Any:
        return _NoVisualizer()

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        pass

    def dump_config(self) -> None:
        pass


class _NoVisualizer:
    """Stands in for mmengine's visualizer: metrics go to metrics.jsonl."""

    dataset_meta: Any = None

    def add_config(self, config: Any) -> None:
        pass


class TrialHook(Hook):
    """What a trial does around mmengine's loop: metric lines, checkpoints, evaluation, stopping when asked.

    Args:
        trial: the run directory.
        evaluate: evaluates the model and returns AP metrics.
        should_stop: asked before each step.
        resumed: the checkpoint to go on from, or None.
        seed: of the trial; with the step it seeds what the model draws in training (drop path).
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        trial: TrialDir,
        evaluate: Callable[[], dict[str, float]],
        should_stop: Callable[[], bool],
        resumed: dict[str, Any] | None,
        seed: int,
    ) -> None:
        self.trial, self.evaluate, self.should_stop, self.resumed = trial, evaluate, should_stop, resumed
        self.seed = seed
        self.average: MovingAverage | None = None
        self.writer = MetricWriter(trial.file(naming.METRICS_FILE))
        self.eval_seconds = 0.0
        self.lr = 0.0

    def before_train(self, runner: TrialRunner) -> None:
        if self.resumed is None:
            self.writer.truncate_after(0)
            return
        epoch, step = self.resumed["meta"]["epoch"], self.resumed["meta"]["iter"]
        runner.train_loop._epoch, runner.train_loop._iter = epoch, step
        runner.train_dataloader.batch_sampler.skip = step - epoch * len(runner.train_dataloader)
        self.writer.truncate_after(step)
        evaluated = {line["epoch"] for line in self.trial.metric_lines() if line["kind"] == "val"}
        if 0 < epoch < runner.max_epochs and epoch not in evaluated and step == epoch * len(runner.train_dataloader):
            self._validate(runner, step, epoch)

    def before_train_epoch(self, runner: TrialRunner) -> None:
        runner.train_dataloader.dataset.set_epoch(runner.epoch)

    def before_train_iter(self, runner: TrialRunner, batch_idx: int, data_batch: Any = None) -> None:
        if self.should_stop():
            self._save(runner, runner.epoch, runner.iter)
            raise Interrupted(f"stopped as asked after step {runner.iter}; the checkpoint holds it")
        self.lr = runner.optim_wrapper.get_lr()["lr"][0]
        # Drop path must not depend on what was drawn before the step: an interruption would change it.
        torch.manual_seed(int(np.random.SeedSequence((self.seed, runner.iter)).generate_state(1)[0]))

    def after_train_iter(self, runner: TrialRunner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None) -> None:
        if self.average:
            self.average.update(runner.model)
        terms = {name: round(float(value.detach()), 6) for name, value in (outputs or {}).items()}
        self.writer.write("train", runner.iter + 1, runner.epoch + 1, terms | {"lr": self.lr})

    def after_train_epoch(self, runner: TrialRunner) -> None:
        epoch, step = runner.epoch + 1, runner.iter
        self._save(runner, epoch, step)
        if epoch < runner.max_epochs:  # the last epoch is evaluated with its distributions, after training
            self._validate(runner, step, epoch)

    def _validate(self, runner: TrialRunner, step: int, epoch: int) -> None:
        started = time.perf_counter()
        with self.average.in_place_of(runner.model) if self.average else contextlib.nullcontext():
            metrics = self.evaluate()
        self.writer.write("val", step, epoch, {key: round(value, 4) for key, value in metrics.items()})
        _log(self.trial, f"epoch {epoch}, step {step}: AP {metrics.get('AP', 0):.1f}")
        self.eval_seconds += time.perf_counter() - started

    def _save(self, runner: TrialRunner, epoch: int, step: int) -> None:
        path = self.trial.file(naming.LAST_CHECKPOINT)
        save_checkpoint(path, runner, epoch=epoch, step=step, trial=self.trial.id, average=self.average)


def run_trial(
    path: str | Path,
    *,
    threads: int = 1,
    loader_workers: int = 0,
    stop_file: str = "",
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Train and evaluate the trial in folder ``path``, going on from its last checkpoint; write its result.

    Whatever happens, the outcome is in result.json when this returns or raises; nothing is raised for a failed trial.

    Args:
        path: run directory with a manifest.
        threads: CPU threads.
        loader_workers: processes that load images.
        stop_file: a file whose appearance asks the trial to stop; its driver's.
        should_stop: asked before each step, instead of looking for the file.

    Raises:
        Interrupted: asked to stop; a checkpoint holds the progress.
    """
    trial = TrialDir(Path(path))
    trial.take_lease()
    if _is_done(trial):  # by another driver, after this one had planned
        trial.drop_lease()
        return
    started = time.time()
    trial.file(naming.RESULT).unlink(missing_ok=True)
    beating = threading.Event()
    threading.Thread(target=_heartbeat, args=(trial, beating), daemon=True).start()
    outcome: dict[str, Any]
    try:
        outcome = _train(trial, threads, loader_workers, should_stop or (lambda: bool(stop_file) and os.path.exists(stop_file)))
    except Interrupted as error:
        outcome = {"status": "interrupted", "reason": str(error)}
        raise
    except Exception as error:
        _log(trial, traceback.format_exc())
        outcome = {"status": "failed", "failure": _failure(error)}
    except BaseException as error:  # Ctrl-C in the inline executor: the last checkpoint stands
        outcome = {"status": "interrupted", "reason": type(error).__name__}
        raise
    finally:
        beating.set()
        seconds = outcome.setdefault("seconds", {})
        seconds["total"] = round(time.time() - started, 3)
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(trial.file(naming.RESULT), {"format": naming.FORMAT_VERSION, "trial": trial.id, **outcome, "finished": finished})
        trial.drop_lease()


def _is_done(trial: TrialDir) -> bool:
    with contextlib.suppress(StoreError):
        return (trial.result() or {}).get("status") == "done"
    return False


def _log(trial: TrialDir, text: str) -> None:
    """A line in the trial's log.txt, whichever executor runs it."""
    with trial.file(naming.LOG).open("a", encoding="utf-8") as log:
        log.write(f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {text.rstrip()}\n")


def _heartbeat(trial: TrialDir, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_S):
        trial.touch_lease()


def _failure(error: Exception) -> dict[str, Any]:
    """What failed, as result.json tells it."""
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, NonFiniteLoss):
        return {"kind": error.kind, "reason": reason, "step": error.step, "epoch": error.epoch}
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in reason:
        kind = FailureKind.OUT_OF_MEMORY
    elif isinstance(error, FileNotFoundError):
        kind = FailureKind.BAD_DATA
    elif isinstance(error, TrialError):
        kind = error.kind
    else:
        kind, reason = FailureKind.ERROR, f"{type(error).__name__}: {reason}"
    return {"kind": kind, "reason": reason, "step": 0, "epoch": 0}


def _train(trial: TrialDir, threads: int, loader_workers: int, should_stop: Callable[[], bool]) -> dict[str, Any]:
    manifest = trial.manifest()
    spec = TrialSpec.model_validate(manifest["spec"])
    load_of_trial(trial, spec)
    settings = spec.settings
    clock = _Clock()
    torch.set_num_threads(threads)
    random.seed(spec.seed)
    np.random.seed(spec.seed)

    config = trial_config(spec, manifest["paths"], str(trial.path), loader_workers)
    with contextlib.redirect_stdout(io.StringIO()):
        config.dump(str(trial.file(naming.CONFIG)))
    runner = TrialRunner.from_cfg(config)
    evaluator = CocoEvaluator(manifest["paths"]["val_annotations"], spec.data.classes, settings.max_dets)
    val_loader = Runner.build_dataloader(config.val_loader, seed=spec.seed)

    def evaluate() -> dict[str, float]:
        if not spec.data.truth:
            return evaluator(collect(predict(runner.model, val_loader)))[0]
        # Where the true edges are known, the scores against them are followed from epoch to epoch, as AP is.
        seen = DistributionCollector(evaluator.truth, evaluator.category_ids, settings, ambiguous=True)
        metrics = evaluator(collect(predict_and_collect(runner.model, val_loader, seen)))[0]
        return metrics | seen.truth_scores().metrics()

    resumed = load_last(trial.file(naming.LAST_CHECKPOINT), trial.id)
    hook = TrialHook(trial, evaluate, should_stop, resumed, spec.seed)
    runner.register_hook(hook)
    runner.load_or_resume = lambda: _start(runner, spec, hook)
    clock.lap("setup")
    start = f"goes on after step {resumed['meta']['iter']}" if resumed else "starts"
    _log(
        trial,
        f"trial {trial.id} {start}: seed {spec.seed}, data {spec.data.name} {spec.data.digest}, {_device_name(runner.model)}, {threads} threads",
    )
    try:
        runner.train()
    except NonFiniteLoss as error:
        raise NonFiniteLoss(runner.iter + 1, runner.epoch + 1, error.losses) from None
    if hook.average:
        hook.average.copy_to(runner.model)  # from here on it is the trial's model
    clock.lap("train", minus=hook.eval_seconds)

    collector = DistributionCollector(evaluator.truth, evaluator.category_ids, settings, spec.data.truth)
    detections = collect(predict_and_collect(runner.model, val_loader, collector))
    metrics, per_class = evaluator(detections)
    evaluator.write_records(trial.file(naming.EVAL_RECORDS), detections)
    clock.lap("eval", plus=hook.eval_seconds)

    collector.write(trial.file(naming.DISTRIBUTIONS))
    counts: dict[str, int] = {"detections": len(detections.score), "boxes": sum(row["annotation_id"] >= 0 for row in collector.rows)}
    if spec.data.truth:
        scores = collector.truth_scores()
        metrics |= scores.metrics()
        counts |= scores.counts()
    hook.writer.write("val", runner.iter, runner.epoch, {key: round(value, 4) for key, value in metrics.items()})
    hook.writer.close()
    clock.lap("distributions")
    metrics |= measure_latency(runner.model, val_loader.dataset, trial.path.parent / ".latency.lock")
    clock.lap("latency")
    _log(trial, f"done: AP {metrics.get('AP', 0):.1f}, {metrics['fps']:.1f} images a second")
    return {
        "status": "done",
        "metrics": {key: round(value, 6) for key, value in metrics.items()},
        "per_class": {key: round(value, 4) for key, value in per_class.items()},
        "counts": counts,
        "epochs": runner.epoch,
        "steps": runner.iter,
        "seconds": {key: round(value, 3) for key, value in clock.laps.items()},
        "peak_memory_mib": _peak_memory_mib(),
        "device": _device_name(runner.model),
    }


def _start(runner: TrialRunner, spec: TrialSpec, hook: TrialHook) -> None:
    """After mmengine has initialised the weights: put in those that the trial starts or goes on with."""
    settings = spec.settings
    if hook.resumed is None and settings.weights != "random":
        load_backbone(runner.model.backbone, settings.weights, settings.backbone)
    if settings.ema:
        hook.average = MovingAverage(runner.model, settings.ema)
    if hook.resumed is not None:
        restore(runner, hook.resumed, hook.average)


def _peak_memory_mib() -> float:
    """Peak memory so far: of the GPU's allocator where there is one, else of this process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _device_name(model: torch.nn.Module) -> str:
    device = next(model.parameters()).device
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"


class _Clock:
    """Seconds spent in each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str, *, plus: float = 0.0, minus: float = 0.0) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last + plus - minus
        self._last = now
