"""List what waits for a GPU, and what is copied to it, in a training step and a prediction of each variant. Needs no GPU.

    python benchmarks/gpu/fakecuda.py

Tensors are torch's fake tensors of the device ``cuda``, as in tests/test_cuda_path.py, which holds this against a list.
"""

from __future__ import annotations

from collections import Counter

import torch

import gfl_lab.detector  # noqa: F401  first: mmdet.models can be imported only once the operators are there
from benchmarks.detector_speed import batch, wrapper
from benchmarks.gpu.smoke import VARIANTS, build
from gfl_lab.train.step import TrainingStep
from tests.support.fake_cuda import FakeCuda, fake_cuda, with_gradients

SIZE = (96, 128)


def told(what: str, seen: FakeCuda) -> None:
    """Print what was seen, and forget it."""
    print(f"  {what}")
    for (operation, place), many in sorted(seen.waits.items()):
        print(f"    waits: {operation} at {place} x{many}")
    for (place, waits), many in sorted(Counter((one.place, one.waits) for one in seen.copies).items()):
        print(f"    copies to the device{' and waits' if waits else ''}: {place} x{many}")
    for operation, place in seen.mixed:
        print(f"    MIXES DEVICES: {operation} at {place}")
    seen.clear()


def main() -> None:
    torch.set_num_threads(1)
    for name, changes in VARIANTS.items():
        model = build(changes, check=True)
        print(name, flush=True)
        with fake_cuda() as seen:
            model = model.to("cuda").train()
            steps = wrapper(model, "bfloat16")
            for turn in ("first step", "second step"):
                seen.clear()
                with with_gradients(model):
                    TrainingStep(model, steps)(batch(2, SIZE, "cpu", True))
                told(turn, seen)
            with torch.inference_mode():
                model.eval().test_step(batch(2, SIZE, "cpu", False))
            told("prediction of two images", seen)


if __name__ == "__main__":
    main()
