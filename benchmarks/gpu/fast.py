"""Time training and inference with torch.compile, CUDA graphs, bfloat16 weights and other options, beside stock mmdet.

    python benchmarks/gpu/fast.py --device cuda --seconds 600          prints a row as each combination is done, and a summary last
    python benchmarks/gpu/fast.py --device cpu --check --seconds 300   runs each at a tiny size; torch.compile generates no code

Each combination runs in an interpreter of its own: one that fails, hangs or breaks CUDA costs its own limit and no other. All have the
same weights, images and boxes. ``off`` is the distance of the loss (training) or of the sum of scores (inference) from gfl-lab's in
float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import traceback
from typing import Any

import torch

import gfl_lab.detector  # noqa: F401  first: mmdet.models can be imported only once the operators are there
from benchmarks.detector_speed import batch, models, wrapper
from gfl_lab.train.step import TrainingStep

COMBINATIONS: list[tuple[str, str, int, dict[str, Any]]] = [
    # what, name, seconds at most, how
    ("training", "stock, float32", 40, {"who": "mmdet", "precision": "float32"}),
    ("training", "stock, AMP", 40, {"who": "mmdet", "precision": "AMP"}),
    ("training", "gfl-lab, float32", 40, {}),
    ("training", "gfl-lab, bfloat16", 40, {"precision": "bfloat16"}),
    ("training", "gfl-lab, bfloat16, compiled", 120, {"precision": "bfloat16", "compile": "default"}),
    ("training", "gfl-lab, bfloat16, fused SGD", 40, {"precision": "bfloat16", "fused": True}),
    ("training", "gfl-lab, bfloat16, cudnn.benchmark", 50, {"precision": "bfloat16", "benchmark": True}),
    ("latency", "stock, float32", 30, {"who": "mmdet", "precision": "float32"}),
    ("latency", "stock, float16", 30, {"who": "mmdet", "precision": "float16"}),
    ("latency", "gfl-lab, float32", 30, {}),
    ("latency", "gfl-lab, bfloat16", 30, {"precision": "bfloat16"}),
    ("latency", "gfl-lab, bfloat16 weights, CUDA graph", 40, {"weights": "bfloat16", "graph": True}),
    ("latency", "gfl-lab, bfloat16 weights, norms folded, CUDA graph", 40, {"weights": "bfloat16", "fold": True, "graph": True}),
    ("latency", "gfl-lab, bfloat16 weights, compiled, CUDA graph", 120, {"weights": "bfloat16", "compile": "reduce-overhead"}),
    (
        "training",
        "gfl-lab, bfloat16, compiled, CUDA graphs, fused SGD",
        150,
        {"precision": "bfloat16", "compile": "reduce-overhead", "fused": True},
    ),
    ("training", "gfl-lab, bfloat16, contiguous", 40, {"precision": "bfloat16", "contiguous": True}),
    ("throughput", "stock, float32", 40, {"who": "mmdet", "precision": "float32"}),
    ("throughput", "stock, float16", 40, {"who": "mmdet", "precision": "float16"}),
    ("throughput", "gfl-lab, bfloat16", 40, {"precision": "bfloat16"}),
    ("throughput", "gfl-lab, bfloat16 weights, norms folded", 40, {"weights": "bfloat16", "fold": True}),
    ("throughput", "gfl-lab, bfloat16 weights, compiled", 120, {"weights": "bfloat16", "compile": "default"}),
    ("training", "gfl-lab, float32, TF32 for products too", 40, {"matmul": True}),
    ("training", "gfl-lab, float32, compiled", 120, {"compile": "default"}),
    ("latency", "gfl-lab, float32, CUDA graph", 40, {"graph": True}),
    ("latency", "gfl-lab, bfloat16, contiguous", 30, {"precision": "bfloat16", "contiguous": True}),
    ("training", "stock, float32, compiled", 120, {"who": "mmdet", "precision": "float32", "compile": "default"}),
    ("training", "gfl-lab, bfloat16, again", 40, {"precision": "bfloat16"}),
]
"""The last one repeats an earlier one: the difference is the drift of the card's speed."""


def one_network(model: torch.nn.Module, asked: argparse.Namespace, how: dict[str, Any], static: list[Any]) -> None:
    """Make ``extract_feat`` run backbone, neck and head as one function, compiled or as a CUDA graph; the head then passes it on."""
    backbone, neck, head = model.backbone, model.neck, model.bbox_head
    plain = type(head).forward
    channels_last = how.get("who") != "mmdet" and not how.get("contiguous")
    dtype = getattr(torch, how.get("weights", "float32"))

    def network(x: torch.Tensor) -> tuple[list[torch.Tensor], ...]:
        return plain(head, neck(backbone(x)))

    run = network
    if mode := how.get("compile"):
        kind = {"backend": "aot_eager"} if asked.check else {} if mode == "default" else {"mode": mode}
        run = torch.compile(network, dynamic=False, **kind)

    def ready(x: torch.Tensor) -> torch.Tensor:
        return x.to(dtype).contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def replayed(x: torch.Tensor) -> Any:
        x = ready(x)
        if not static:
            given = x.clone(memory_format=torch.preserve_format)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    network(given)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outs = network(given)
            static.extend((graph, given, outs))
        graph, given, outs = static
        given.copy_(x)
        graph.replay()
        return outs

    model.extract_feat = replayed if how.get("graph") else lambda x: run(ready(x))
    head.forward = lambda outs: outs


def measure(what: str, how: dict[str, Any], asked: argparse.Namespace, pair: dict[str, torch.nn.Module]) -> dict[str, Any]:
    """Return the milliseconds of one combination, with its loss or score, memory and graphs."""
    cuda = asked.device == "cuda"
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    if how.get("graph") and not cuda:
        return {"left out": "no CUDA graphs on a CPU"}
    if not cuda and how.get("precision") in ("AMP", "float16"):
        return {"left out": "stock has no mixed precision on a CPU"}
    torch.set_num_threads(8 if cuda else 1)
    torch.backends.cudnn.benchmark = bool(how.get("benchmark"))
    if how.get("matmul"):
        torch.set_float32_matmul_precision("high")
    model = pair[how.get("who", "gfl-lab")].to(asked.device)
    if how.get("contiguous"):
        model.to(memory_format=torch.contiguous_format)
        model.extract_feat = lambda x: model.neck(model.backbone(x.contiguous()))
    if how.get("fold"):
        from mmcv.cnn.utils import fuse_conv_bn

        model.eval()
        fuse_conv_bn(model.backbone)
    if weights := how.get("weights"):
        for part in (model.backbone, model.neck, model.bbox_head):
            part.to(getattr(torch, weights))
    if how.get("compile") or how.get("graph") or how.get("weights"):
        one_network(model, asked, how, [])
    size, images = asked.size, {"training": asked.batch, "latency": 1, "throughput": asked.throughput}[what]
    given, precision = batch(images, size, asked.device, what == "training"), how.get("precision", "float32")
    if what == "training":
        optimizer = wrapper(model, precision)
        if how.get("fused"):
            optimizer.optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, fused=True)
        model.train()
        seen = []

        def action() -> None:
            if cuda and how.get("compile"):
                torch.compiler.cudagraph_mark_step_begin()
            seen.append(TrainingStep(model, optimizer)(given)["loss"])
    else:
        model.eval()
        autocast = torch.autocast(asked.device, dtype=getattr(torch, precision), enabled=precision != "float32")
        seen = []

        def action() -> None:
            if cuda and how.get("compile"):
                torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad() if how.get("compile") or how.get("graph") else torch.inference_mode(), autocast:
                seen.append(model.test_step(given)[0].pred_instances.scores)

    began = time.perf_counter()
    action()
    wait()
    first = time.perf_counter() - began
    figure = float(seen[0]) if what == "training" else float(seen[0].float().sum())
    for _ in range(1 if asked.check else 4):
        action()
    rounds = 2 if asked.check else 12 if what == "training" else 40 if what == "latency" else 10
    times = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        action()
        wait()
        times.append(time.perf_counter() - began)
    found: dict[str, Any] = {"ms": 1000 * statistics.median(times), "first": first, "figure": figure, "images": images}
    found["spread"] = 1000 * (max(times) - min(times))
    if cuda:
        found["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    if how.get("compile"):
        counters = torch._dynamo.utils.counters
        found["graphs"], found["breaks"] = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        found["why"] = [str(reason).split("\n")[0][:120] for reason in counters["graph_break"]][:2]
    return found


def spawned(seconds: float, index: int) -> dict[str, Any]:
    """Measure combination ``index`` in a new interpreter; a combination that fails returns its reason."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", str(index)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + 20, check=False)
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {seconds:.0f} s"}
    except (IndexError, ValueError):
        return {"error": "it died"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seconds", type=float, default=280)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--throughput", type=int, default=32)
    parser.add_argument("--only", nargs="*", help="combinations whose name has one of these parts")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    end = time.monotonic() + asked.seconds
    asked.size, depth = (800, 1344), 50
    if asked.check:
        asked.size, depth, asked.batch, asked.throughput = (64, 96), 18, 2, 2
    if asked.one is not None:
        what, _, _, how = COMBINATIONS[asked.one]
        try:
            print(json.dumps(measure(what, how, asked, models(depth, "cpu"))))
        except Exception as error:
            traceback.print_exc()
            print(json.dumps({"error": f"{type(error).__name__}: {error}".replace("\n", " ")[:200]}))
        return
    print(f"# R{depth}, {asked.size[0]} x {asked.size[1]}, training batch {asked.batch}, throughput batch {asked.throughput}\n")
    print("| what | which | ms | images/s | spread, ms | off | first, s | GiB | graphs, breaks |")
    print("| :-- | :-- | --: | --: | --: | --: | --: | --: | :-- |", flush=True)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    bad = 0
    for index, (what, name, limit, _) in enumerate(COMBINATIONS):
        if asked.only and not any(part in name for part in asked.only):
            continue
        left = end - time.monotonic()
        if left < 15:
            print(f"| {what} | {name} | no time left | | | | | | |", flush=True)
            continue
        seconds = min(limit, left)
        one = spawned(seconds, index)
        if "ms" not in one:
            bad += "error" in one
            print(f"| {what} | {name} | {one.get('error') or one.get('left out')} | | | | | | |", flush=True)
            continue
        found[what, name] = one
        base = found.get((what, "gfl-lab, float32"), found.get((what, "stock, float32"), one))
        off = abs(one["figure"] - base["figure"]) / max(1e-9, abs(base["figure"]))
        graphs = f"{one['graphs']}, {one['breaks']} {'; '.join(one['why'])}" if "graphs" in one else ""
        print(
            f"| {what} | {name} | {one['ms']:.1f} | {1000 * one['images'] / one['ms']:.1f} | {one['spread']:.1f} | {off:.1e} | {one['first']:.1f} | {one.get('GiB', 0):.1f} | {graphs} |",
            flush=True,
        )
    for what in ("training", "latency", "throughput"):
        rows = sorted((one["ms"], name) for (kind, name), one in found.items() if kind == what)
        base = found.get((what, "stock, float32"))
        if rows and base:
            print(f"\n{what}, stock in float32 over each: " + "; ".join(f"{name} {base['ms'] / ms:.2f}" for ms, name in rows))
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
