"""Loading of training images at 800 x 1333 with flips and 9 scales: our data set, and mmdet's, with as many loader processes.

    uv run python benchmarks/data_loading.py DATA              DATA: a folder in COCO format, with photographs
    uv run python benchmarks/data_loading.py DATA --write      also writes benchmarks/results/

What is timed is all that an image needs before the network: read, decode, scale, flip, pack, hand over to the training process, and
there normalise and pad the batch (``data_preprocessor``, on the CPU). Batches of 2. Decoded images are not kept in memory, as those
of a data set that does not fit into it, and are in the last lines; each side has seen the files once before.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch

import gfl_lab.setup.dataset as ours
from benchmarks.machine import header, publish
from benchmarks.stock import stock_loader
from gfl_lab.data import coco
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, TrialSpec

# isort: split
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.runner import Runner

SETTINGS: dict[str, Any] = {"image_size": (1333, 800), "scale_range": (0.6, 1.0), "scale_step": 0.05, "pad_to": 32, "batch_size": 2}


def loaders(data: Path, workers: int) -> dict[str, tuple[Any, Any]]:
    """Loader and preprocessor of both sides; the same images, scales, flips and batches."""
    paths = {key: str(path) for key, path in vars(coco.find_dataset(data)).items()}
    spec = TrialSpec(settings=Settings(**SETTINGS), data=coco.dataspec(data), seed=0, code=TRAINING_CODE_VERSION)
    config = trial_config(spec, paths, "", workers)
    given = config.train_dataloader
    stock = stock_loader(given, workers, training=True)
    preprocessor = config.model.data_preprocessor
    return {
        "gfl-lab": (Runner.build_dataloader(given, seed=0), MODELS.build(preprocessor)),
        "mmdet": (Runner.build_dataloader(stock, seed=0), MODELS.build(dict(preprocessor) | {"type": "DetDataPreprocessor"})),
    }


def epoch(loader: Any, preprocess: Any) -> float:
    """Images a second of an epoch."""
    began, images = time.perf_counter(), 0
    for batch in loader:
        images += len(preprocess(batch, True)["inputs"])
    return images / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    register_all_modules()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    cached = ours.CACHE_BYTES
    lines = []

    def measure(workers: int, name: str, cache: int) -> None:
        ours.CACHE_BYTES = cache
        pair = loaders(asked.data, workers)
        found: dict[str, list[float]] = {side: [] for side in pair}
        for turn in range(asked.epochs + 1):
            for side, (loader, preprocess) in pair.items():
                rate = epoch(loader, preprocess)
                if turn:
                    found[side].append(rate)
        best = {side: sorted(rates)[len(rates) // 2] for side, rates in found.items()}
        lines.append(f"| {name} | {best['gfl-lab']:.1f} | {best['mmdet']:.1f} | {best['gfl-lab'] / best['mmdet']:.2f} |")

    for workers in asked.workers:
        measure(workers, f"{workers} loader processes", 0)
    for workers in asked.workers:
        measure(workers, f"{workers} loader processes, our images in memory", cached)
    images = len(loaders(asked.data, 0)["gfl-lab"][0].dataset)
    report = [
        *header("Data loading at 800 x 1333", f"uv run python benchmarks/data_loading.py DATA --epochs {asked.epochs} --workers {' '.join(map(str, asked.workers))}", ("torch", "mmdet", "mmcv-lite", "opencv-python-headless")),
        f"- {asked.data.name}, {images} photographs; flips, short side 480 to 800 in steps of 40; batches of 2; median of {asked.epochs} epochs, in turns, after one that does not count",
        "",
        "| | gfl-lab, images/s | mmdet, images/s | gfl-lab / mmdet |",
        "| :-- | --: | --: | --: |",
        *lines,
    ]  # fmt: skip
    publish("data_loading", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
