"""How the time of a training step grows with image size, batch, classes and boxes, on one model.

    uv run python benchmarks/growth.py --device cuda                     R50 from 800 x 1344, batch 16
    uv run python benchmarks/growth.py --depth 18 --size 256 320 --batch 2   a CPU
    uv run python benchmarks/growth.py --write                           also writes benchmarks/results/

One quantity at a time, the others at their start. A step is preprocessing, forward, losses and backward; the part of the head's
targets and losses is measured in the same step. Evaluation against images is in `coco_eval.py --sweep`, planning, running and the
table against trials in `trial_scale.py`, the dashboard against trials in `dashboard_scale.py`, targets and losses beside stock
mmdet's in `head_losses.py --sweep`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

import gfl_lab.detector  # noqa: F401  (registers the detector)
from benchmarks.machine import header, publish
from benchmarks.stock import initialise, random_boxes, waiting, where
from gfl_lab.detector.build import model_config
from gfl_lab.spec.settings import Settings

# isort: split
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def step(asked: argparse.Namespace, scale: float, batch: int, classes: int, boxes: int) -> tuple[float, float]:
    """Median seconds of a step, and of its losses (forward)."""
    torch.manual_seed(0)
    model = MODELS.build(model_config(Settings(backbone=f"r{asked.depth}"), classes) | {"type": "TrialDetector"}).to(asked.device).train()
    initialise(model)
    size = tuple(max(64, round(side * scale / 32) * 32) for side in asked.size)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(batch):
        sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0), "pad_shape": size})
        found, labels = random_boxes(boxes, size, classes, generator)
        sample.gt_instances = InstanceData(bboxes=found, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    given = {"inputs": [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(batch)], "data_samples": samples}
    wait, plain = waiting(asked.device), model.bbox_head.loss_by_feat
    losses: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        wait()
        began = time.perf_counter()
        out = plain(*args, **kwargs)
        wait()
        losses.append(time.perf_counter() - began)
        return out

    model.bbox_head.loss_by_feat = timed
    whole = []
    for _ in range(asked.rounds + 2):
        wait()
        began = time.perf_counter()
        model.zero_grad()
        terms = model(**model.data_preprocessor(given, True), mode="loss")
        model.parse_losses(terms)[0].backward()
        wait()
        whole.append(time.perf_counter() - began)
    return statistics.median(whole[2:]), statistics.median(losses[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--depth", type=int, choices=(18, 50, 101), default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    start = {"scale": 1.0, "batch": asked.batch, "classes": 80, "boxes": 7}
    sweep: dict[str, tuple[float, ...]] = {
        "scale": (0.5, 0.71, 1.0, 1.41, 2.0),
        "batch": tuple(max(1, round(asked.batch * factor)) for factor in (0.5, 1, 2, 4)),
        "classes": (3, 80, 365, 1203),
        "boxes": (0, 7, 30, 100, 500),
    }
    lines = []
    for key, values in sweep.items():
        for value in values:
            whole, losses = step(asked, **(start | {key: value}))
            said = {"scale": "sides x", "batch": "batch", "classes": "classes", "boxes": "boxes an image"}[key]
            lines.append(f"| {said} {value:g} | {1000 * whole:.0f} | {1000 * losses:.1f} | {100 * losses / whole:.1f}% |")
    options = f"--device {asked.device} --size {asked.size[0]} {asked.size[1]} --batch {asked.batch} --depth {asked.depth}"
    report = [
        *header("How a training step grows", f"uv run python benchmarks/growth.py {options}", ("torch", "mmdet")),
        f"- on {where(asked.device)}, R{asked.depth}, float32; start: {asked.size[0]} x {asked.size[1]}, batch {asked.batch}, 80 classes, 7 boxes an image; median of {asked.rounds}",
        "",
        "| | step, ms | targets and losses in it, ms | share |",
        "| :-- | --: | --: | --: |",
        *lines,
    ]
    publish(f"growth_{asked.device}", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
