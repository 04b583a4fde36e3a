"""A training step and inference of GFL R50, ours and stock mmdet's, in one run: images per second and milliseconds.

    uv run python benchmarks/detector_speed.py --device cuda                        800 x 1344, batch 16 and 32, the aims of issue 6
    uv run python benchmarks/detector_speed.py --size 256 320 --batch 2 --depth 18  a check on a CPU
    uv run python benchmarks/detector_speed.py --profile                            also where the time of a training step goes
    uv run python benchmarks/detector_speed.py --write                              also writes benchmarks/results/

Both have the same weights and see the same images and boxes (made up: 7 boxes an image, 80 classes), which lie in memory: no loading
is measured. A training step is a trial's or mmengine's ``train_step``: preprocessing, forward, losses, backward, SGD. Inference is ``test_step``:
preprocessing, forward, decoding, NMS. First the losses of one batch must agree to 1e-4, and the detections of one. Rounds alternate.
Mixed precision in training is mmengine's AmpOptimWrapper for stock and precision bfloat16 for us, in inference torch's autocast of the
network, to the same types (stock's needs a GPU). TF32 is as torch has it, for both. On a card that `floors.py` knows, the report also
says what share of its floor each rate is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import gfl_lab.detector  # noqa: F401  first: mmdet.models can be imported only once the operators are there
from benchmarks.floors import BANDWIDTH, floors
from benchmarks.machine import header, in_turns, publish
from benchmarks.stock import initialise, random_boxes, stock_model, waiting, where
from gfl_lab.detector.build import model_config
from gfl_lab.spec.settings import Settings

# isort: split
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.structures import InstanceData

from gfl_lab.detector.trial_detector import TrialDetector
from gfl_lab.train.optim import AutocastOptimWrapper
from gfl_lab.train.step import TrainingStep

CLASSES, BOXES = 80, 7
GROUPS = {
    "convolutions": ("conv", "mkldnn"),
    "norms": ("batch_norm", "group_norm"),
    "copies": ("copy", "_to_", "memcpy", "clone"),
    "optimizer": ("_foreach", "_fused", "optimizer"),
    "NMS, sorting": ("nms", "sort", "topk"),
}
"""Kinds of operations in a profile, by parts of torch's names for them; what is none of these is elementwise for the most part."""


def models(depth: int, device: str) -> dict[str, torch.nn.Module]:
    """Ours and stock with the same weights, frozen stage and batch norms as in the published setting."""
    settings = Settings(backbone=f"r{depth}", score_thr=0.05)
    config = model_config(settings, CLASSES)
    ours = MODELS.build(config | {"type": "TrialDetector"})
    stock = MODELS.build(ConfigDict(stock_model(config)))
    torch.manual_seed(0)
    initialise(ours)
    with torch.no_grad():
        ours.bbox_head.gfl_cls.bias += 1.5  # some detections pass the threshold, as those of a trained detector do
    stock.load_state_dict(ours.state_dict())
    return {"gfl-lab": ours.to(device), "mmdet": stock.to(device)}


def batch(images: int, size: tuple[int, int], device: str, with_boxes: bool) -> dict[str, Any]:
    """Images as a loader hands them over: uint8, on the CPU; boxes on the device."""
    generator = torch.Generator().manual_seed(images)
    height, width = size
    samples, inputs = [], []
    for index in range(images):
        inputs.append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
        meta = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0), "img_id": index, "pad_shape": size, "flip": False}
        sample = DetDataSample(metainfo=meta)
        if with_boxes:
            boxes, labels = random_boxes(BOXES, size, CLASSES, generator)
            sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def check(pair: dict[str, torch.nn.Module], given: dict[str, Any]) -> None:
    """Refuse to time two that compute different things, both in full float32."""
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    values = {}
    for name, model in pair.items():
        data = model.train().data_preprocessor(given, True)
        losses = model(**data, mode="loss")
        values[name] = {key: float((sum(value) if isinstance(value, list) else value).detach()) for key, value in losses.items()}
    for key, value in values["mmdet"].items():
        assert abs(values["gfl-lab"][key] - value) <= 1e-4 * max(1.0, abs(value)), values
    with torch.inference_mode():
        found = [[sample.pred_instances for sample in model.eval().test_step(given)] for model in pair.values()]
    for ours, theirs in zip(*found, strict=True):
        assert len(ours) == len(theirs), (len(ours), len(theirs))
        assert torch.allclose(ours.scores, theirs.scores, atol=1e-4)
    torch.backends.cudnn.allow_tf32 = tf32


def wrapper(model: torch.nn.Module, kind: str) -> OptimWrapper:
    """SGD around a model, in float32 or with what each side has for mixed precision."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    if kind == "float32":
        return OptimWrapper(optimizer)
    return AmpOptimWrapper(optimizer=optimizer) if kind == "AMP" else AutocastOptimWrapper(optimizer, precision=kind)


def training_step(model: torch.nn.Module, given: dict, kind: str) -> Callable[[], object]:
    """A step of either side over a batch."""
    steps = wrapper(model, kind)
    return partial(
        TrainingStep(model, steps) if isinstance(model, TrialDetector) else partial(model.train_step, optim_wrapper=steps), given
    )


def training(asked: argparse.Namespace) -> list[str]:
    """Lines of the table of training steps."""
    kinds = {"gfl-lab": ("float32", "bfloat16"), "mmdet": ("float32", "AMP" if asked.device == "cuda" else None)}
    given = batch(asked.batch, asked.size, asked.device, True)
    pair = models(asked.depth, asked.device)
    check(pair, given)
    actions = {}
    for name, model in pair.items():
        for kind in filter(None, kinds[name]):
            actions[f"{name}, {kind}"] = training_step(model.train(), given, kind)
    found = in_turns(actions, asked.rounds, 3, waiting(asked.device))
    ratios = [f"float32: {found['mmdet, float32'] / found['gfl-lab, float32']:.2f}"]
    if asked.device == "cuda":
        ratios.append(f"mixed precision: {found['mmdet, AMP'] / found['gfl-lab, bfloat16']:.2f}")
    ratios.append(f"stock in float32 over ours in bfloat16: {found['mmdet, float32'] / found['gfl-lab, bfloat16']:.2f}")
    lines = [row("training", asked, asked.batch, name, took) for name, took in found.items()]
    return [*lines, f"| | *stock over ours* | {'; '.join(ratios)} | | |"]


def inference(asked: argparse.Namespace) -> list[str]:
    """Lines of the table of inference, batch 1 and throughput."""
    lines = []
    pair = models(asked.depth, asked.device)
    types = {"gfl-lab": torch.bfloat16, "mmdet": torch.float16 if asked.device == "cuda" else None}
    for size in (1, asked.throughput_batch):
        given = batch(size, asked.size, asked.device, False)

        def predict(model: torch.nn.Module, dtype: torch.dtype | None, given: dict[str, Any] = given) -> None:
            with torch.inference_mode(), torch.autocast(asked.device, dtype=dtype, enabled=dtype is not None):
                model.eval().test_step(given)

        actions = {f"{name}, float32": partial(predict, model, None) for name, model in pair.items()}
        actions |= {f"{name}, {str(types[name])[6:]}": partial(predict, model, types[name]) for name, model in pair.items() if types[name]}
        found = in_turns(actions, asked.rounds, 3, waiting(asked.device))
        ratios = [f"float32: {found['mmdet, float32'] / found['gfl-lab, float32']:.2f}"]
        if types["mmdet"]:
            ratios.append(f"mixed precision: {found['mmdet, float16'] / found['gfl-lab, bfloat16']:.2f}")
        ratios.append(f"stock in float32 over ours in bfloat16: {found['mmdet, float32'] / found['gfl-lab, bfloat16']:.2f}")
        lines += [row("inference", asked, size, name, took) for name, took in found.items()]
        lines.append(f"| | *stock over ours* | {'; '.join(ratios)} | | |")
    return lines


def row(what: str, asked: argparse.Namespace, images: int, name: str, took: float) -> str:
    """A line of the table; on a card that is known also the share of its floor, layer by layer."""
    shares = ""
    card = where(asked.device)
    if card in BANDWIDTH:
        precision = "TF32" if name.endswith("float32") else "bfloat16"
        for kind, width, _, arithmetic, layers, _ in floors(asked.depth, asked.size, BANDWIDTH[card]):
            if (kind, width) == (what, precision):
                shares = f"{100 * images * max(arithmetic, layers) / took:.0f}%"
    return f"| {what}, batch {images} | {name} | {1000 * took:.1f} | {images / took:.1f} | {shares} |"


def profiled(asked: argparse.Namespace) -> list[str]:
    """Return the parts of our training step's time: a table for each precision."""
    lines = []
    given = batch(asked.batch, asked.size, asked.device, True)
    activity = ProfilerActivity.CUDA if asked.device == "cuda" else ProfilerActivity.CPU
    for kind in ("float32", "bfloat16"):
        model = models(asked.depth, asked.device)["gfl-lab"].train()
        step, wait = training_step(model, given, kind), waiting(asked.device)
        for _ in range(3):
            step()
        wait()
        began = time.perf_counter()
        for _ in range(asked.rounds):
            step()
        wait()
        wall = 1000 * (time.perf_counter() - began) / asked.rounds
        with profile(activities={ProfilerActivity.CPU, activity}) as seen:
            for _ in range(asked.rounds):
                step()
            wait()
        attribute = "self_device_time_total" if asked.device == "cuda" else "self_cpu_time_total"
        operators = [event for event in seen.key_averages() if event.device_type == DeviceType.CPU]  # a kernel's time is its operator's
        spent = grouped((event.key, getattr(event, attribute) / 1000 / asked.rounds) for event in operators)
        busy = sum(spent.values())
        assert busy, "the profiler saw no operation: it needs rights that a container may not have"
        lines += ["", f"A training step of gfl-lab in {kind}, {wall:.1f} ms without the profiler, by kind of operation:", ""]
        lines += ["| what | ms | share |", "| :-- | --: | --: |"]
        lines += [f"| {name} | {took:.1f} | {100 * took / busy:.0f}% |" for name, took in sorted(spent.items(), key=lambda one: -one[1])]
        if asked.device == "cuda":
            lines.append(f"| the GPU waits, of the whole step | {max(0.0, wall - busy):.1f} | {100 * max(0.0, 1 - busy / wall):.0f}% |")
    return lines


def grouped(events: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds by kind of operation, of torch's operators and what each took by itself."""
    found: dict[str, float] = {}
    for name, took in events:
        kinds = (kind for kind, parts in GROUPS.items() if any(part in name.lower() for part in parts))
        kind = next(kinds, "everything else")
        found[kind] = found.get(kind, 0.0) + took
    return {kind: took for kind, took in found.items() if took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--throughput-batch", type=int, default=32)
    parser.add_argument("--depth", type=int, choices=(18, 50, 101), default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=("training", "inference"))
    parser.add_argument("--profile", action="store_true", help="also where the time of a training step goes")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    asked.size = tuple(asked.size)
    lines = ([] if asked.only == "inference" else training(asked)) + ([] if asked.only == "training" else inference(asked))
    options = f"--device {asked.device} --size {asked.size[0]} {asked.size[1]} --batch {asked.batch} --throughput-batch {asked.throughput_batch} --depth {asked.depth} --rounds {asked.rounds}{f' --only {asked.only}' if asked.only else ''}{' --profile' if asked.profile else ''}"
    report = "\n".join(
        [
            *header(f"GFL R{asked.depth}: a training step and inference", f"uv run python benchmarks/detector_speed.py {options}", ("torch", "mmdet", "mmengine")),
            f"- on {where(asked.device)}; {asked.size[0]} x {asked.size[1]}, {CLASSES} classes, {BOXES} boxes an image; median of {asked.rounds} rounds in turns",
            "",
            "| what | which | ms | images/s | of the floor |",
            "| :-- | :-- | --: | --: | --: |",
            *lines,
            *(profiled(asked) if asked.profile else []),
            "",
        ]
    )  # fmt: skip
    publish(f"detector_speed_r{asked.depth}_{asked.device}", report, asked.write)


if __name__ == "__main__":
    main()
