"""The evaluation that ends a trial: its records on disk, the metrics of its result, and the latency."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gfl_lab import naming
from gfl_lab.analysis.distributions import DistributionCollector
from gfl_lab.inference.evaluate import CocoEvaluator, collect
from gfl_lab.inference.latency import measure_latency
from gfl_lab.inference.predict import predict_and_collect
from gfl_lab.integrity.damage import UNSTABLE
from gfl_lab.records.result import Done
from gfl_lab.rundir import TrialDir
from gfl_lab.spec.trial import TrialSpec


@dataclass(frozen=True)
class Numbers:
    """The outcome of the final evaluation.

    Attributes:
        metrics: AP metrics (0 to 100), scores against the truth where it is known, ``fps`` and ``latency_ms``.
        per_class: AP by class. counts: of detections and boxes. rows: of distributions.parquet.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    counts: dict[str, int]
    rows: list[dict[str, Any]]

    @property
    def logged(self) -> dict[str, float]:
        """The metrics as the last evaluation's line in metrics.jsonl holds them."""
        return {key: round(value, 4) for key, value in self.metrics.items() if key not in UNSTABLE}

    def result(self) -> Done:
        """Return the parts of the trial's result that the evaluation gives."""
        return Done(metrics=self.metrics, per_class=self.per_class, counts=self.counts)


def evaluate_final(
    trial: TrialDir, spec: TrialSpec, model: nn.Module, val_loader: Any, evaluator: CocoEvaluator, clock: Clock, *, eval_seconds: float = 0.0
) -> Numbers:  # fmt: skip
    """Evaluate a trial's final weights; write eval.npz and distributions.parquet, each atomically; measure the latency.

    Args:
        model: with the final weights, on its device.
        clock: gets the laps ``eval``, ``distributions`` and ``latency``. eval_seconds: of earlier evaluations, added to ``eval``.
    """
    collector = DistributionCollector(evaluator.truth, evaluator.category_ids, spec.settings, spec.data.truth)
    detections = collect(predict_and_collect(model, val_loader, collector))
    metrics, per_class = evaluator(detections)
    counts: dict[str, int] = {"detections": len(detections.score), "boxes": sum(row["annotation_id"] >= 0 for row in collector.rows)}
    if spec.data.truth:
        scores = collector.truth_scores()
        metrics |= scores.metrics()
        counts |= scores.counts()
    metrics = {key: round(value, 6) for key, value in metrics.items()}
    evaluator.write_records(trial.file(naming.EVAL_RECORDS), detections, metrics)
    clock.lap("eval", plus=eval_seconds)
    collector.write(trial.file(naming.DISTRIBUTIONS))
    clock.lap("distributions")
    latency = measure_latency(model, val_loader.dataset, trial.path.parent / ".latency.lock")
    clock.lap("latency")
    trial.log(f"done: AP {metrics.get('AP', 0):.1f}, {latency['fps']:.1f} images a second")
    metrics |= {key: round(value, 6) for key, value in latency.items()}
    return Numbers(metrics, {key: round(value, 4) for key, value in per_class.items()}, counts, collector.rows)


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory of the trial: of torch's allocator on its GPU, or of this process where the model is on the CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device


def device_name(model: nn.Module) -> str:
    """Return ``cpu``, or ``cuda:0 NAME``."""
    device = device_of(model)
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"


class Clock:
    """Seconds spent in each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str, *, plus: float = 0.0, minus: float = 0.0) -> None:
        """End a part."""
        now = time.perf_counter()
        self.laps[name] = now - self._last + plus - minus
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Return ``seconds`` of result.json, without the total."""
        return {key: round(value, 3) for key, value in self.laps.items()}
