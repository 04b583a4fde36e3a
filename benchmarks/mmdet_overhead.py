"""Seconds of a training step of an mmdet detector: a trial of gfl-lab by the config's own recipe, and mmengine's Runner on the same config.

    uv run python benchmarks/mmdet_overhead.py             three rounds in turns: under 6 minutes on two slow cores
    uv run python benchmarks/mmdet_overhead.py --write     also writes benchmarks/results/
    uv run python benchmarks/mmdet_overhead.py --rounds 1 --images 24     to try it

RetinaNet with a ResNet-18 and narrower layers. gfl-lab trains it by `gfl-lab run --executor inline` with `recipe: config`. The Runner has
what mmdet has: CocoDataset, its pipeline, samplers, preprocessing and default hooks, with a checkpoint after each epoch. It is run
with 0 and with 2 loader processes, and the faster one counts. One training at a time, on all cores.

The time is that of the whole training without evaluation, over its steps: reading the annotations, initial weights, steps,
loading, logs, records and checkpoints. On a machine whose speed varies, the processor time of the whole command says more: it is
printed too, with all that either command does once (imports, MLflow, evaluation). Every image is flipped, so that no random number decides, and both ways must come to the
same weights, bit by bit: that is checked in every round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.machine import LAB, header, lab_environment, publish, timed

NAME = "retinanet_r50_fpn_1x_coco"
WORKERS = (0, 2)
FINISHED = "runs/trials/*/result.json"
EPOCHS, BATCH, SIDE_PX = 2, 4, 160
OPTIONS = {
    "model.backbone.depth": 18,
    "model.backbone.base_channels": 16,
    "model.neck.in_channels": [16, 32, 64, 128],
    "model.neck.out_channels": 64,
    "model.bbox_head.in_channels": 64,
    "model.bbox_head.feat_channels": 64,
    "train_cfg.max_epochs": EPOCHS,
    "train_pipeline.2.scale": [SIDE_PX, SIDE_PX],
    "train_pipeline.3.prob": 1.0,
}


class Training(NamedTuple):
    """One training: wall seconds a step, and processor seconds of the whole command, its start and its evaluation included."""

    step: float
    processor: float


def processor_seconds() -> float:
    """Processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_data(folder: Path, images: int) -> Path:
    """Generated images in COCO format, whose boxes have one annotator: mmdet knows no others."""
    from gfl_lab.data import ambiguous_shapes

    data = ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=images, val_images=8, size=SIDE_PX), folder)
    plain = folder / "shapes"
    (plain / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        for annotation in content["annotations"]:
            annotation.pop("ambiguity", None)
        (plain / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for entry in data.iterdir():
        if entry.is_dir() and entry.name != "annotations":
            entry.rename(plain / entry.name)
    return plain


def measure_ours(folder: Path, data: Path, seed: int, environment: dict[str, str]) -> tuple[Training, Path]:
    """A trial of gfl-lab, and its folder."""
    given = OPTIONS | {"auto_scale_lr.base_batch_size": BATCH, "test_pipeline.1.scale": [SIDE_PX, SIDE_PX]}
    variant = {"detector": f"mmdet:{NAME}", "recipe": "config"} | {f"cfg_options.{path}": value for path, value in given.items()}
    experiment = folder / "overhead.yaml"
    experiment.write_text(
        yaml.safe_dump(
            {"name": "overhead", "question": "How long?", "profile": "desk", "variants": {"retinanet": variant}, "seeds": [seed]}
        )
    )
    before = set(folder.glob(FINISHED))
    cores = str(len(os.sched_getaffinity(0)))
    began = processor_seconds()
    timed([*LAB, "run", str(experiment), "--data", str(data), "--executor", "inline", "--cpus", cores], environment)
    (file,) = set(folder.glob(FINISHED)) - before
    result = json.loads(file.read_text())
    return Training(result["seconds"]["train"] / result["steps"], processor_seconds() - began), file.parent


def stock(data: Path, out: Path, workers: int, seed: int) -> None:
    """Train the config with mmengine's Runner; the seconds a step go to ``out/seconds.json``, the weights to ``out/weights.pth``."""
    import torch
    from mmengine.config import Config
    from mmengine.runner import Runner

    import gfl_lab.detector  # noqa: F401  (the operators that mmcv-lite lacks: NMS)
    from gfl_lab.data import coco
    from gfl_lab.zoo import source
    from gfl_lab.zoo.options import with_options

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    found, classes = coco.find_dataset(data), coco.dataspec(data).classes
    loaders = {path.replace("train_pipeline", "train_dataloader.dataset.pipeline"): value for path, value in OPTIONS.items()}
    config = Config(with_options(Config.fromfile(source.file_of(f"mmdet:{NAME}")).to_dict(), loaders))
    config.model.bbox_head.num_classes = len(classes)
    config.model.backbone.update(init_cfg=None, frozen_stages=-1, norm_eval=False)
    config.train_dataloader.update(batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
    config.train_dataloader.dataset.update(
        data_root="",
        ann_file=str(found.train_annotations),
        data_prefix={"img": str(found.train_images)},
        metainfo={"classes": classes},
    )
    for part in ("val", "test"):
        config.update({f"{part}_cfg": None, f"{part}_dataloader": None, f"{part}_evaluator": None})
    config.update(work_dir=str(out / "work"), randomness={"seed": seed})
    runner = Runner.from_cfg(config)
    began = time.perf_counter()
    runner.train()
    (out / "seconds.json").write_text(json.dumps((time.perf_counter() - began) / runner.iter))
    torch.save(runner.model.state_dict(), out / "weights.pth")


def measure_stock(folder: Path, data: Path, workers: int, seed: int, trial: Path, environment: dict[str, str]) -> Training:
    """The Runner's training, whose weights must be the trial's."""
    import torch

    out = Path(tempfile.mkdtemp(dir=folder))
    began = processor_seconds()
    timed([sys.executable, str(Path(__file__)), "--stock", str(data), str(out), str(workers), str(seed)], environment)
    processor = processor_seconds() - began
    ours = torch.load(trial / "last.pth", weights_only=True)["state_dict"]
    theirs = torch.load(out / "weights.pth", weights_only=True)
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
        sys.exit(f"round {seed}: the weights of the trial and of the Runner with {workers} loader processes differ")
    return Training(json.loads((out / "seconds.json").read_text()), processor)


def row(name: str, trainings: list[Training]) -> str:
    """A line of the report's table."""
    steps, processor = zip(*trainings, strict=True)
    numbers = [", ".join(f"{1000 * each:.0f}" for each in steps), f"{1000 * statistics.median(steps):.0f}"]
    numbers += [", ".join(f"{each:.1f}" for each in processor), f"{statistics.median(processor):.1f}"]
    return f"| {name} | {' | '.join(numbers)} |"


def ratios(ours: list[Training], theirs: list[Training], field: str) -> str:
    """gfl-lab over the Runner in words: the median of the rounds, and each."""
    each = [getattr(one, field) / getattr(other, field) for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(each):.3f}; by round {', '.join(f'{ratio:.3f}' for ratio in each)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=120, help="training images; an epoch has a quarter as many steps")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    parser.add_argument("--stock", nargs=4, metavar=("DATA", "OUT", "WORKERS", "SEED"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stock:
        data, out, workers, seed = asked.stock
        stock(Path(data), Path(out), int(workers), int(seed))
        return
    folder = Path(tempfile.mkdtemp(prefix="mmdet-overhead-"))
    environment = lab_environment(folder / "runs")
    data = make_data(folder / "data", asked.images)
    ours: list[Training] = []
    theirs: dict[int, list[Training]] = {workers: [] for workers in WORKERS}
    for seed in range(asked.rounds):
        training, trial = measure_ours(folder, data, seed, environment)
        ours.append(training)
        for workers in WORKERS:
            theirs[workers].append(measure_stock(folder, data, workers, seed, trial, environment))
        print(ours, theirs, file=sys.stderr, flush=True)
    best = min(WORKERS, key=lambda workers: statistics.median(each.step for each in theirs[workers]))
    options = f"--rounds {asked.rounds} --images {asked.images}"
    steps = EPOCHS * -(-asked.images // BATCH)
    report: list[Any] = [
        *header("An mmdet detector in gfl-lab and with mmengine's Runner", f"uv run python benchmarks/mmdet_overhead.py {options}", ("torch", "mmdet", "mmengine")),
        f"- {NAME} with a ResNet-18 of 16 channels, neck and head of 64, batches of {BATCH} images of {SIDE_PX} x {SIDE_PX}, {EPOCHS} epochs, {steps} steps, {len(os.sched_getaffinity(0))} threads, float32",
        "- all of the training without evaluation, over its steps; weights equal bit by bit in every round",
        "",
        "| | ms a step, by round | median | processor s of the whole command | median |",
        "| :-- | --: | --: | --: | --: |",
        row("gfl-lab: a trial with `recipe: config`", ours),
        *(row(f"mmengine's Runner, {workers} loader processes", theirs[workers]) for workers in WORKERS),
        "",
        f"gfl-lab over the Runner, wall time a step, the faster one ({best} loader processes): {ratios(ours, theirs[best], 'step')}.",
        "",
        f"gfl-lab over the Runner, processor time, as many loader processes (0): {ratios(ours, theirs[0], 'processor')}.",
        "",
    ]  # fmt: skip
    publish("mmdet_overhead", "\n".join(report), asked.write)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
