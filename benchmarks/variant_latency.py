"""Time that the general box (DFL) and the quality predictor (DGQP) add to an image; GFL and GFLv2 claim that it is none.

    uv run python benchmarks/variant_latency.py --device cuda        R50, 800 x 1344, batch 1
    uv run python benchmarks/variant_latency.py --size 400 672       a CPU
    uv run python benchmarks/variant_latency.py --write              also writes benchmarks/results/

Three detectors with the same backbone, neck and towers: QFL on Dirac boxes, QFL on general boxes, and with the predictor. Each is
timed from prepared image to kept boxes, decoding and NMS included, one after the other in every round; the median of the ratios of
one round to the first detector counts. Beside it the arithmetic of the network, counted: on a CPU time follows it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import gfl_lab.detector  # noqa: F401  (registers the detector)
from benchmarks.detector_speed import CLASSES, batch
from benchmarks.machine import header, publish
from benchmarks.stock import initialise, waiting, where
from gfl_lab.detector.build import model_config
from gfl_lab.spec.settings import Settings

# isort: split
from mmdet.registry import MODELS

VARIANTS: dict[str, dict[str, Any]] = {
    "QFL, Dirac boxes": {"quality": "joint", "box": "dirac", "dfl": False},
    "QFL, general boxes (DFL)": {"quality": "joint", "box": "general", "dfl": True},
    "the same with DGQP (GFLv2)": {"quality": "dgqp", "box": "general", "dfl": True},
}


def model(depth: int, changes: dict[str, Any], device: str) -> torch.nn.Module:
    """A detector whose class scores are spread as those of a trained one, so that some pass the threshold."""
    torch.manual_seed(0)
    found = MODELS.build(model_config(Settings(backbone=f"r{depth}", **changes), CLASSES) | {"type": "TrialDetector"})
    initialise(found)
    with torch.no_grad():
        found.bbox_head.gfl_cls.bias += 1.5
        if hasattr(found.bbox_head, "reg_conf"):
            found.bbox_head.reg_conf[-1].bias += 8  # a quality of about 1: as many candidates pass as without
    return found.to(device).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--depth", type=int, choices=(18, 50, 101), default=50)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    size = tuple(asked.size)
    given, wait = batch(1, size, asked.device, False), waiting(asked.device)
    models = {name: model(asked.depth, changes, asked.device) for name, changes in VARIANTS.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    operations = {}
    with torch.inference_mode():
        for name, each in models.items():
            counter = FlopCounterMode(display=False)
            with counter:
                each.bbox_head(each.extract_feat(torch.zeros(1, 3, *size, device=asked.device)))
            operations[name] = counter.get_total_flops() / 1e9
        for turn in range(asked.rounds + 3):
            for name, each in models.items():
                wait()
                began = time.perf_counter()
                each.test_step(given)
                wait()
                if turn >= 3:
                    times[name].append(time.perf_counter() - began)
    first = next(iter(times))
    lines = []
    for name, found in times.items():
        ratios = sorted(one / base for one, base in zip(found, times[first], strict=True))
        quarter = len(ratios) // 4
        lines.append(
            f"| {name} | {1000 * statistics.median(found):.1f} | {statistics.median(ratios):.3f} ({ratios[quarter]:.3f} to {ratios[-quarter - 1]:.3f}) "
            f"| {operations[name]:.1f} | {operations[name] / operations[first]:.3f} |"
        )
    options = f"--device {asked.device} --size {size[0]} {size[1]} --depth {asked.depth} --rounds {asked.rounds}"
    report = [
        *header("What DFL and DGQP add to the latency", f"uv run python benchmarks/variant_latency.py {options}", ("torch", "mmdet")),
        f"- on {where(asked.device)}, R{asked.depth}, batch 1, {size[0]} x {size[1]}, {CLASSES} classes, float32, random weights; {asked.rounds} rounds",
        "",
        "| | ms | over the first, median (middle half) | GFLOP | over the first |",
        "| :-- | --: | --: | --: | --: |",
        *lines,
    ]
    publish(f"variant_latency_{asked.device}", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
