"""Latency of one image: batch 1, from the prepared image to kept boxes, decoding and NMS included."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector

from gfl_lab.processes import one_at_a_time

WARMUP_IMAGES, MEASURED_IMAGES, MAX_SECONDS = 5, 50, 30.0


@torch.inference_mode()
def measure_latency(model: BaseDetector, dataset: Any, lock: Path) -> dict[str, float]:
    """Return the median latency over validation images, decoded and resized beforehand.

    On a CPU with one thread the thread's own CPU time is taken, so that other work on the machine counts less; else wall time.

    Returns:
        ``latency_ms`` (milliseconds an image) and ``fps`` (its inverse, images a second).
    """
    model.eval()
    count = min(len(dataset), MEASURED_IMAGES)
    samples = [dataset[index] for index in range(count)]
    batches = [{"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]} for sample in samples]
    cuda = next(model.parameters()).is_cuda
    clock = time.thread_time if not cuda and torch.get_num_threads() == 1 else time.perf_counter
    times = []
    with one_at_a_time(lock):  # one trial of this machine measures at a time; others go on training
        for batch in batches[:WARMUP_IMAGES]:
            model.test_step(batch)
        started = time.perf_counter()
        for batch in batches:
            if cuda:
                torch.cuda.synchronize()
            before = clock()
            model.test_step(batch)
            if cuda:
                torch.cuda.synchronize()
            times.append(clock() - before)
            if time.perf_counter() - started > MAX_SECONDS and len(times) >= 5:
                break
    median = statistics.median(times)
    return {"latency_ms": 1000 * median, "fps": 1 / median}
