"""The physical floor of training and inference on a card: arithmetic and memory traffic of the network, counted, over the card's peaks.

    uv run python benchmarks/floors.py                    GFL R50 and R101 at 800 x 1344, H200; a minute on a CPU
    uv run python benchmarks/floors.py --write            also writes benchmarks/results/

Counted on the network itself, one image, by torch's FlopCounterMode and by the shapes of what its layers read and write. Two counts of
memory: every layer reads its input and writes its output, as eager torch launches them; and convolutions alone do, with norms, ReLUs,
sums and upsampling done on the way, as a perfect compiler would. Backward a convolution reads its input and the gradient of its output
twice and writes that of its input; any other layer reads two and writes one. What can only be less is left out: weights, the
optimizer, losses (under 1% of it), decoding. Peaks are those of NVIDIA's data sheets for the H200 and H100 SXM, dense: nobody reaches them.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gfl_lab.detector  # noqa: F401  (registers the detector)
from benchmarks.machine import header, publish
from gfl_lab.detector.build import model_config
from gfl_lab.spec.settings import Settings

# isort: split
from mmdet.registry import MODELS

PEAK = {"bfloat16": (989e12, 2), "TF32": (494e12, 4), "float32": (67e12, 4)}
"""Operations a second and bytes a number, of an H200 or H100. Torch takes TF32 for convolutions in float32 unless told otherwise."""
BANDWIDTH = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}
"""Bytes a second, by the name of a card whose arithmetic is PEAK's."""


@functools.cache
def count(depth: int, size: tuple[int, int]) -> dict[str, float]:
    """Operations (a multiplication and an addition are two) and numbers moved, of one image, forward and backward."""
    torch.manual_seed(0)
    model = MODELS.build(model_config(Settings(backbone=f"r{depth}"), 80) | {"type": "TrialDetector"}).train()
    moved = dict.fromkeys(("forward", "forward, convolutions", "backward", "backward, convolutions"), 0.0)

    def seen(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not (isinstance(output, torch.Tensor) and inputs and isinstance(inputs[0], torch.Tensor)):
            return
        read, written, conv = inputs[0].numel(), output.numel(), isinstance(module, nn.Conv2d)
        moved["forward"] += read + written
        moved["forward, convolutions"] += conv * (read + written)
        if output.requires_grad:
            back = 2 * written + read + (read if inputs[0].requires_grad else 0) if conv else written + read + written
            moved["backward"] += back
            moved["backward, convolutions"] += conv * back

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(seen)
    forward, whole = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with whole:
        with forward:
            outputs = model.bbox_head(model.extract_feat(torch.zeros(1, 3, *size)))
        sum(level.sum() for levels in outputs for level in levels).backward()
    return {"forward operations": forward.get_total_flops(), "operations": whole.get_total_flops(), **moved}


def floors(depth: int, size: tuple[int, int], bandwidth: float) -> list[tuple[str, str, float, float, float, float]]:
    """Return, for training and inference in each precision, operations and the seconds of arithmetic, layers and convolutions alone."""
    found, rows = count(depth, size), []
    for what, operations, numbers, fused in (
        ("training", found["operations"], found["forward"] + found["backward"], found["forward, convolutions"] + found["backward, convolutions"]),
        ("inference", found["forward operations"], found["forward"], found["forward, convolutions"]),
    ):  # fmt: skip
        for precision, (peak, width) in PEAK.items():
            rows.append((what, precision, operations, operations / peak, numbers * width / bandwidth, fused * width / bandwidth))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    size = tuple(asked.size)
    lines = []
    for depth in (50, 101):
        for what, precision, operations, arithmetic, layers, perfect in floors(depth, size, BANDWIDTH["NVIDIA H200"]):
            lines.append(
                f"| R{depth} {what} | {precision} | {operations / 1e9:.0f} | {1000 * arithmetic:.2f} | {1000 * layers:.2f} | {1000 * perfect:.2f} "
                f"| {1 / max(arithmetic, layers):.0f} | {1 / max(arithmetic, perfect):.0f} |"
            )
    report = [
        *header("Floors of an H200", f"uv run python benchmarks/floors.py --size {size[0]} {size[1]}", ("torch", "mmdet")),
        f"- GFL at {size[0]} x {size[1]}, 80 classes, per image; frozen stem, first stage and batch norms' statistics; 4.8 TB/s, 989, 494 and 67 Tera-operations a second",
        "",
        "| | precision | GFLOP | arithmetic, ms | memory, layer by layer, ms | memory, convolutions alone, ms | images/s at most, layer by layer | images/s at most |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: |",
        *lines,
    ]
    publish("floors_h200", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
