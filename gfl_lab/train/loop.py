"""mmengine's training loop as a trial runs it: what is written at each step, and when a checkpoint is."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner

from gfl_lab import naming
from gfl_lab.errors import Interrupted
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir
from gfl_lab.train.checkpoint import save_checkpoint
from gfl_lab.train.ema import MovingAverage
from gfl_lab.train.process_group import ProcessGroup
from gfl_lab.train.step import TrainingStep

CHECKPOINT_S = 600.0
"""A checkpoint is written at least this often, so that a kill in an epoch of hours loses little."""


@dataclass
class Position:
    """The step that is being done, or was done last, and its epoch; both from 1, and 0 before the first."""

    step: int = 0
    epoch: int = 0


class TrialRunner(Runner):
    """mmengine's Runner without its own folders, log files and environment probe: the run directory has a place for each.

    Attributes:
        group: the processes that share each batch.
        accumulation_steps: the number of parts of each batch whose gradients are added up, to save memory.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group, self.accumulation_steps = ProcessGroup(), 1
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


@LOOPS.register_module()
class TrialTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, each iteration of which is a `TrainingStep`; it may start within an epoch."""

    def start_after(self, epoch: int, step: int) -> None:
        """Start after so many finished epochs and steps."""
        self._epoch, self._iter = epoch, step

    def run(self) -> torch.nn.Module:
        """Train, with the weights that the model has now."""
        self._step = TrainingStep(self.runner.model, self.runner.optim_wrapper, self.runner.accumulation_steps, self.runner.group)
        return super().run()

    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Take one step."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self._step(data_batch)
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


@HOOKS.register_module()
class TrialInfoHook(RuntimeInfoHook):
    """mmengine's, by which components can read epoch and step, without formatting the configuration once more (0.2 s)."""

    def before_run(self, runner: TrialRunner) -> None:
        """Tell the message hub of the run."""
        runner.message_hub.update_info_dict({"seed": runner.seed, "experiment_name": runner.experiment_name})
        self.last_loop_stage = None


def seed_step(seed: int, step: int) -> None:
    """Seed every generator for the step after ``step`` finished ones of a trial with this seed."""
    step_seed = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    torch.manual_seed(step_seed)
    np.random.seed(step_seed)
    random.seed(step_seed)


class TrialHook(Hook):
    """The trial's part in mmengine's loop: metric lines, checkpoints, evaluation, stopping on request.

    Args:
        trial: the run directory.
        evaluate: evaluates the model after an epoch (from 1) and returns AP metrics.
        should_stop: asked before each step.
        resumed: the checkpoint to go on from, or None.
        seed: of the trial; with the step it seeds what the model draws in training (drop path).
        position: kept up to date, for reports of a failure.
        group: its main process writes and evaluates, the others follow it.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        trial: TrialDir,
        evaluate: Callable[[int], dict[str, float]],
        should_stop: Callable[[], bool],
        resumed: dict[str, Any] | None,
        seed: int,
        position: Position,
        group: ProcessGroup,
    ) -> None:
        self.trial, self.evaluate, self.should_stop, self.resumed = trial, evaluate, should_stop, resumed
        self.seed, self.position, self.group = seed, position, group
        self.average: MovingAverage | None = None
        self.writer = MetricWriter(trial.file(naming.METRICS_FILE))
        self.eval_seconds = 0.0
        self.lr = 0.0
        self.saved_at = time.monotonic()

    def before_train(self, runner: TrialRunner) -> None:
        if self.resumed is None:
            if self.group.is_main:
                self.writer.truncate_after(0)
            return
        epoch, step = self.resumed["meta"]["epoch"], self.resumed["meta"]["iter"]
        runner.train_loop.start_after(epoch, step)
        runner.train_dataloader.batch_sampler.skip = step - epoch * len(runner.train_dataloader)
        self.position.step, self.position.epoch = step, min(step // len(runner.train_dataloader) + 1, runner.max_epochs)
        if self.group.is_main:
            self._take_up_metrics(runner, epoch, step)

    def _take_up_metrics(self, runner: TrialRunner, epoch: int, step: int) -> None:
        """Cut the metric lines back to the checkpoint, and add an evaluation that was lost."""
        self.writer.truncate_after(step, unevaluated_from=runner.max_epochs)
        lines = self.trial.metric_lines()
        if missing := step - len({line.step for line in lines if line.trains}):
            self.trial.log(
                f"the metric lines of {missing} steps before the checkpoint are lost: the curves have a gap, the result does not"
            )
        evaluated = {line.epoch for line in lines if line.evaluates}
        if 0 < epoch < runner.max_epochs and epoch not in evaluated and step == epoch * len(runner.train_dataloader):
            self._validate(runner, step, epoch)

    def before_train_epoch(self, runner: TrialRunner) -> None:
        runner.train_dataloader.dataset.set_epoch(runner.epoch)

    def before_train_iter(self, runner: TrialRunner, batch_idx: int, data_batch: Any = None) -> None:
        stop = self.group.broadcast_flag(self.should_stop())
        if stop or time.monotonic() - self.saved_at >= CHECKPOINT_S:
            self._save(runner, runner.epoch, runner.iter)
        if stop:
            raise Interrupted(f"stopped as asked after step {runner.iter}; the checkpoint holds it")
        self.position.step, self.position.epoch = runner.iter + 1, runner.epoch + 1
        self.lr = runner.optim_wrapper.get_lr()["lr"][0]
        # Drop path, and the samplers of mmdet's detectors, must not depend on what was drawn before the step: an interruption would
        # change it.
        seed_step(self.seed, runner.iter)

    def after_train_iter(self, runner: TrialRunner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None) -> None:
        if self.average:
            self.average.update(runner.model)
        if not self.group.is_main:
            return
        terms = {name: round(float(value.detach()), 6) for name, value in (outputs or {}).items()}
        self.writer.write("train", runner.iter + 1, runner.epoch + 1, terms | {"lr": self.lr})

    def after_train_epoch(self, runner: TrialRunner) -> None:
        epoch, step = runner.epoch + 1, runner.iter
        self._save(runner, epoch, step)
        if epoch < runner.max_epochs:  # the last epoch is evaluated with its distributions, after training
            self._validate(runner, step, epoch)

    def _validate(self, runner: TrialRunner, step: int, epoch: int) -> None:
        if not self.group.is_main:
            return  # the next step waits for the first process
        started = time.perf_counter()
        with self.average.in_place_of(runner.model) if self.average else contextlib.nullcontext():
            metrics = self.evaluate(epoch)
        self.writer.write("val", step, epoch, {key: round(value, 4) for key, value in metrics.items()})
        self.trial.log(f"epoch {epoch}, step {step}: AP {metrics.get('AP', 0):.1f}")
        self.eval_seconds += time.perf_counter() - started

    def _save(self, runner: TrialRunner, epoch: int, step: int) -> None:
        if not self.group.is_main:
            return
        self.writer.sync()  # the lines must not be behind the checkpoint after a power cut
        save_checkpoint(self.trial, runner, epoch=epoch, step=step, average=self.average)
        self.saved_at = time.monotonic()
