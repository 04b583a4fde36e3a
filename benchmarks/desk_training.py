"""Training on the desk profile: a trial of gfl-lab, and stock mmdet with mmengine's Runner, on the same data with the same settings.

    uv run python benchmarks/desk_training.py                   3 epochs each, twice, in turns: 6 minutes on two quiet cores
    uv run python benchmarks/desk_training.py --epochs 16 --rounds 1      the whole schedule, with both APs
    uv run python benchmarks/desk_training.py --write           also writes benchmarks/results/

Stock is what mmdet ships: GFL with GFLHead and ATSSAssigner, CocoDataset, LoadImageFromFile, Resize, RandomFlip, AdamW as torch has
it, Runner with its default hooks. Backbone, neck, head, batch, schedule and images are those of the trial's config.py. It is run
with 0 and with 2 loader processes, and the faster one counts. One trial at a time, on all cores.

What is timed is training alone, from the second iteration of an epoch to its last one, evaluation and checkpoints left out: by
gfl-lab's metric lines and by a hook of the Runner's. Random numbers differ, so weights do; the whole schedule compares APs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.machine import header, lab_environment, publish, timed
from benchmarks.stock import stock_loader, stock_model

WORKERS = (0, 2)
FINISHED = "runs/trials/*/result.json"
EXPERIMENT = """
name: desk_training
question: How long does a training iteration take?
profile: desk
axes: {qfl: [true]}
overrides: {dfl: true, epochs: %d}
seeds: [%d]
"""


def stock_config(trial: Path, workers: int, out: Path) -> Any:
    """mmdet's own configuration with the numbers of the trial's."""
    from mmengine.config import Config

    config = Config.fromfile(trial / "config.py")
    config.model = stock_model(config.model)
    config.optim_wrapper.optimizer.pop("fused")
    val = config.pop("val_loader")
    return Config(
        {
            **{
                key: config[key]
                for key in ("default_scope", "model", "optim_wrapper", "param_scheduler", "train_cfg", "randomness", "env_cfg")
            },
            "work_dir": str(out),
            "train_dataloader": stock_loader(config.train_dataloader, workers, training=True),
            "val_dataloader": stock_loader(val, workers, training=False),
            "val_cfg": {"type": "ValLoop"},
            "val_evaluator": {"type": "CocoMetric", "ann_file": val.dataset.ann_file, "metric": "bbox"},
            "log_level": "WARNING",
        }
    )


def stock(trial: Path, out: Path, workers: int) -> None:
    """Train it; times of iterations by epoch and the last AP go to ``out/stock.json``."""
    import torch
    from mmdet.utils import register_all_modules
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    import gfl_lab.detector  # noqa: F401  (the operators that mmcv-lite lacks: NMS)

    register_all_modules()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    times: dict[int, list[float]] = defaultdict(list)

    class Clock(Hook):
        priority = "VERY_LOW"

        def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
            times[runner.epoch].append(time.time())

    runner = Runner.from_cfg(stock_config(trial, workers, out))
    runner.register_hook(Clock())
    runner.train()
    ap = 100 * runner.message_hub.log_scalars["val/coco/bbox_mAP"].current()
    (out / "stock.json").write_text(json.dumps({"times": list(times.values()), "AP": ap}))


def per_iteration(epochs: list[list[float]]) -> float:
    """Seconds of an iteration; of an epoch its first one, which begins in what comes before, does not count."""
    return sum(times[-1] - times[0] for times in epochs) / sum(len(times) - 1 for times in epochs)


def measure_ours(folder: Path, epochs: int, seed: int, environment: dict[str, str]) -> tuple[float, float, Path]:
    """Seconds an iteration, AP, and the trial's folder."""
    experiment = folder / "experiment.yaml"
    experiment.write_text(EXPERIMENT % (epochs, seed))
    before = set(folder.glob(FINISHED))
    command = [
        sys.executable,
        "-m",
        "gfl_lab.cli.main",
        "run",
        str(experiment),
        "--executor",
        "inline",
        "--cpus",
        str(len(os.sched_getaffinity(0))),
    ]
    timed(command, environment)
    (result,) = set(folder.glob(FINISHED)) - before
    trial = result.parent
    times: dict[int, list[float]] = defaultdict(list)
    for line in map(json.loads, (trial / "metrics.jsonl").read_text().splitlines()):
        if line["kind"] == "train":
            times[line["epoch"]].append(line["time"])
    return per_iteration(list(times.values())), json.loads((trial / "result.json").read_text())["metrics"]["AP"], trial


def measure_stock(trial: Path, folder: Path, workers: int, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds an iteration, and AP."""
    out = Path(tempfile.mkdtemp(dir=folder))
    timed([sys.executable, str(Path(__file__)), "--stock", str(trial), str(out), str(workers)], environment)
    found = json.loads((out / "stock.json").read_text())
    return per_iteration(found["times"]), found["AP"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    parser.add_argument("--stock", nargs=3, metavar=("TRIAL", "OUT", "WORKERS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stock:
        stock(Path(asked.stock[0]), Path(asked.stock[1]), int(asked.stock[2]))
        return
    folder = Path(tempfile.mkdtemp(prefix="desk-training-"))
    environment = lab_environment(folder / "runs")
    ours: list[tuple[float, float]] = []
    theirs: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
    for seed in range(asked.rounds):
        *found, trial = measure_ours(folder, asked.epochs, seed, environment)
        ours.append(tuple(found))
        for workers in WORKERS:
            theirs[workers].append(measure_stock(trial, folder, workers, environment))
        print(ours, theirs, file=sys.stderr, flush=True)

    def line(name: str, found: list[tuple[float, float]]) -> str:
        seconds = statistics.fmean(each[0] for each in found)
        rounds = ", ".join(f"{1000 * each[0]:.0f}" for each in found)
        return f"| {name} | {rounds} | {1000 * seconds:.0f} | {8 / seconds:.1f} | {', '.join(f'{each[1]:.1f}' for each in found)} |"

    best = min(statistics.fmean(each[0] for each in found) for found in theirs.values())
    options = f"--epochs {asked.epochs} --rounds {asked.rounds}"
    report = "\n".join(
        [
            *header("Training on desk: gfl-lab and stock mmdet", f"uv run python benchmarks/desk_training.py {options}", ("torch", "mmdet", "mmengine")),
            f"- QFL and DFL on, batches of 8 images of 128 x 128, {asked.epochs} epochs of 100 iterations, {len(os.sched_getaffinity(0))} threads, float32",
            "",
            "| | ms an iteration, by round | mean | images/s | AP at the end |",
            "| :-- | --: | --: | --: | --: |",
            line("gfl-lab: a trial as `gfl-lab run` trains it", ours),
            *(line(f"mmdet 3.3 and mmengine's Runner, {workers} loader processes", found) for workers, found in theirs.items()),
            "",
            f"Stock, the faster one, over gfl-lab: {best / statistics.fmean(each[0] for each in ours):.2f}.",
            "",
        ]
    )  # fmt: skip
    publish("desk_training", report, asked.write)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
