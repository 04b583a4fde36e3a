"""Outcome of every config in mmdet's wheel: whether it builds, whether it can be a variant, and a training step of some.

    uv run python -m benchmarks.zoo_configs                    build all; 16 minutes on two busy cores
    uv run python -m benchmarks.zoo_configs --train --write    also trains, and writes benchmarks/results/; 12 minutes more
    uv run python -m benchmarks.zoo_configs --only ssd yolox   folders

Each config is built as it is, on the meta device where its constructors allow it, then as a variant. ``--train`` takes
enough of the variants for each kind of detector in each folder, and for each class that a config names: one training step on
two small images with random weights, and a prediction. Widths are small; where a detector cannot be made so, they are its own.

Work is done in processes of low priority. One that takes too long or too much memory is ended, and its config has that as
its outcome. Outcomes are kept in ``--state``; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import header, publish

Outcome = dict[str, Any]

PACKAGES = ["torch", "torchvision", "mmdet", "mmengine", "mmcv-lite"]
SMALL = {"base_channels": 8, "neck_channels": 16, "head_channels": 16}
SIZES = ((128, 160), (256, 320), (320, 384))
"""Height and width, px; the larger ones for detectors that refuse the smaller ones."""
CLASSES = 3
FRAGMENT = "fragment"
BUILDS = "builds"
LIMIT_S = {"build": 120.0, "train": 300.0}
LIMIT_GIB = 8.0


# --- in a worker ----------------------------------------------------------------------------------


def message_of(error: BaseException) -> str:
    """Return the first line of an error, without paths of this machine."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return short(text)


def short(text: str) -> str:
    """Return the first sentence of a message, without paths of this machine."""
    text = re.sub(r"/\S*/site-packages/", "", re.sub(r"\s+", " ", text))
    return re.split(r"\.(?: (?=[A-Z])|$)|, please| by executing", text)[0][:200].strip()


def built(model: Mapping[str, Any]) -> Any:
    """Return a model, on the meta device if its constructors allow it."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    try:
        with torch.device("meta"):
            return MODELS.build(ConfigDict(model))
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error):
            raise
        return MODELS.build(ConfigDict(model))


def variant_outcome(model: Mapping[str, Any], name: str) -> str:
    """Return ``BUILDS``, or why gfl-lab's detector for a config cannot be built."""
    from gfl_lab.detector.mmdet_detector import without_memory
    from gfl_lab.errors import GflLabError

    try:
        without_memory(model, name)
    except GflLabError as error:
        return error.problems[0].message.replace(f"the detector {name} cannot be built here: ", "")
    return BUILDS


def types_in(node: Any) -> set[str]:
    """Return every value of a key ``type`` in a config."""
    if isinstance(node, Mapping):
        own = {node["type"].rpartition(".")[2]} if isinstance(node.get("type"), str) else set()
        return own.union(*map(types_in, node.values()))
    return set().union(*map(types_in, node)) if isinstance(node, list | tuple) else set()


def build_outcome(file: Path) -> Outcome:
    """Return ``as_is``, ``variant`` (text) and ``types`` of a config."""
    from mmengine.config import Config

    from gfl_lab.detector.mmdet_fixes import mend_config
    from gfl_lab.errors import InputError
    from gfl_lab.spec.plain_config import decode
    from gfl_lab.spec.settings import Settings
    from gfl_lab.zoo.resolve import complete, resolve

    try:
        config = Config.fromfile(file, import_custom_modules=False).to_dict()
    except BaseException as error:
        return {"as_is": f"cannot be read: {message_of(error)}", "variant": "cannot be read"}
    if not isinstance(config.get("model"), Mapping) or "type" not in config["model"]:
        return {"as_is": FRAGMENT, "variant": FRAGMENT}
    found: Outcome = {"kind": config["model"]["type"]}
    try:
        built(mend_config(config["model"]))
        found["as_is"] = BUILDS
    except BaseException as error:
        found["as_is"] = message_of(error)
    try:
        model = resolve(complete(Settings(detector=str(file), **SMALL)), CLASSES)
        assert model is not None
        found["variant"] = variant_outcome(decode(model["model"]), file.stem)
        found["types"] = sorted(types_in(decode(model["model"])))
    except InputError as error:
        found["variant"] = error.problems[0].message.partition("cannot be a variant: ")[2] or error.problems[0].message
    found["variant"] = re.sub(r"/\S*/", "", found["variant"])[:200]
    return found


@contextlib.contextmanager
def counted_operators() -> Iterator[set[str]]:
    """Give the names of the operators of mmcv that are called within the block."""
    from gfl_lab.detector import mmcv_ops

    called: set[str] = set()

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            called.add(name)
            return function(*arguments, **named)

        return call

    plain = dict(mmcv_ops.OPERATORS)
    mmcv_ops.OPERATORS.update({name: noting(name, function) for name, function in plain.items()})
    places = []
    for (_, name), function in mmcv_ops.FUNCTIONS.items():
        if isinstance(function, type):  # called on CUDA alone
            continue
        for key, module in list(sys.modules.items()):
            if key.startswith(("mmcv.", "mmdet.")) and getattr(module, "__dict__", {}).get(name) is function:
                setattr(module, name, noting(name, function))
                places.append((module, name, function))
    try:
        yield called
    finally:
        mmcv_ops.OPERATORS.update(plain)
        for module, name, function in places:
            setattr(module, name, function)


def images(height: int, width: int) -> dict[str, Any]:
    """Return two images with two boxes each, as a loader gives them."""
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    samples = []
    for number in range(2):
        meta = {"img_id": number, "img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0), "flip": False}
        boxes = torch.tensor([[0.06, 0.08, 0.44, 0.62], [0.38, 0.31, 0.94, 0.94]]) * torch.tensor([width, height, width, height])
        sample = DetDataSample(metainfo=meta, gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor([0, 2])))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    inputs = [torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(2)]
    return {"inputs": inputs, "data_samples": samples}


def step_and_prediction(file: Path, widths: Mapping[str, int], size: tuple[int, int]) -> Outcome:
    """Train a detector for one step and predict. Raises what the detector raises."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.logging import MessageHub

    from gfl_lab.spec.plain_config import decode
    from gfl_lab.spec.settings import Settings
    from gfl_lab.zoo.resolve import complete, resolve

    model = resolve(complete(Settings(detector=str(file), **widths)), CLASSES)
    assert model is not None
    torch.manual_seed(0)
    detector = MODELS.build({"type": "mmdet_detector", "config": decode(model["model"]), "score_thr": 0.0, "max_dets": 100})
    with contextlib.redirect_stdout(sys.stderr):
        detector.init_weights()
    hub = MessageHub.get_current_instance()
    hub.update_info("epoch", 0)
    hub.update_info("iter", 0)
    detector.train()
    with counted_operators() as called:
        loss, _ = detector.parse_losses(detector(**detector.data_preprocessor(images(*size), True), mode="loss"))
        loss.backward()
        without = [name for name, each in detector.named_parameters() if each.requires_grad and each.grad is None]
        detector.eval()
        with torch.inference_mode():
            found = detector.test_step(images(*size))
    finite = all(bool(each.pred_instances.bboxes.isfinite().all()) for each in found)
    return {
        "loss": round(loss.item(), 4) if loss.isfinite() else None, "without_gradient": without[:3], "finite": finite,
        "boxes": [len(each.pred_instances) for each in found], "size": list(size), "small": bool(widths), "operators": sorted(called),
    }  # fmt: skip


def train_outcome(file: Path) -> Outcome:
    """Return the outcome of the smallest way in which a detector trains, or ``error`` of the last one tried."""
    error: BaseException = RuntimeError("nothing was tried")
    for widths, size in (*((SMALL, size) for size in SIZES), *(({}, size) for size in SIZES)):
        try:
            return step_and_prediction(file, widths, size)
        except Exception as failed:
            error = failed
    return {"error": message_of(error)}


def work(connection: Any) -> None:
    """Answer each (task, file) with an outcome, until None comes."""
    os.nice(10)
    warnings.filterwarnings("ignore")
    import logging

    import torch

    torch.set_num_threads(1)
    import gfl_lab.detector  # noqa: F401  (before mmdet.models, which needs its operators)

    # isort: split
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    logging.disable(logging.WARNING)
    while (asked := connection.recv()) is not None:
        task, file = asked
        with contextlib.redirect_stdout(sys.stderr):
            found = {"build": build_outcome, "train": train_outcome}[task](Path(file))
        connection.send(found)


# --- beside the workers ---------------------------------------------------------------------------


class Worker:
    """A process that works on one config after another, and is replaced when it has to be ended."""

    def __init__(self) -> None:
        self.process: Any = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, task: str, file: Path) -> Outcome:
        """Return the outcome of a task, or why it was ended."""
        if self.process is None:
            self._start()
        began = time.monotonic()
        self.connection.send((task, str(file)))
        try:
            while not self.connection.poll(0.5):
                used = psutil.Process(self.process.pid).memory_info().rss / 2**30
                if used > LIMIT_GIB:
                    return self._end(task, f"ended: it took more than {LIMIT_GIB:.0f} GiB")
                if time.monotonic() - began > LIMIT_S[task]:
                    return self._end(task, f"ended: it took more than {LIMIT_S[task]:.0f} s")
            found: Outcome = self.connection.recv()
        except (EOFError, psutil.NoSuchProcess):
            return self._end(task, "its process died")
        return found | {"seconds": round(time.monotonic() - began, 1)}

    def _end(self, task: str, reason: str) -> Outcome:
        self.process.kill()
        self.process.join()
        self.process = None
        return {"error": reason} if task == "train" else {"as_is": reason, "variant": reason}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.connection.send(None)
            self.process.join(10)


class State:
    """Outcomes by task and config, kept in a file line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[str, str], Outcome] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a run that was ended
                    row = json.loads(line)
                    self.found[row["task"], row["config"]] = row["outcome"]

    def add(self, task: str, config: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        self.found[task, config] = outcome
        with self.path.open("a") as file:
            file.write(json.dumps({"task": task, "config": config, "outcome": outcome}) + "\n")


def run_all(task: str, configs: Sequence[str], folder: Path, state: State, workers: int) -> None:
    """Find the outcomes that are not there yet."""
    left = [config for config in configs if (task, config) not in state.found]
    began = time.monotonic()

    def part(number: int) -> None:
        worker = Worker()
        for config in left[number::workers]:
            state.add(task, config, worker.ask(task, folder / config))
            done = sum((task, each) in state.found for each in left)
            print(f"{task} {done}/{len(left)} {time.monotonic() - began:.0f} s: {config}", file=sys.stderr)
        worker.close()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(part, range(workers)))


def cost(config: str) -> tuple[int, str]:
    """Return an order in which a small detector comes before a large one of the same parts."""
    large = (
        "x101",
        "r101",
        "swin-l",
        "swinl",
        "swin-b",
        "swin-s",
        "_x_",
        "_l_",
        "-l_",
        "hrnetv2p-w40",
        "hrnetv2p-w32",
        "s101",
        "regnetx-12",
        "regnetx-8",
    )
    small = ("tiny", "_s_", "-s_", "r18", "swin-t", "w18", "_1x_")
    name = f"_{Path(config).stem}_"
    return sum(word in name for word in large) * 2 - sum(word in name for word in small), config


def parts_of(config: str, outcome: Outcome) -> set[str]:
    """Return what the choice of trained configs is to cover: folder, detector in it, and each class that the model names."""
    folder = Path(config).parts[0]
    kind = {"MaskRCNN": "FasterRCNN"}.get(outcome["kind"], outcome["kind"])  # its parts for masks are left out
    own = set() if folder == "_base_" else {f"folder {folder}", f"{kind} in {folder}"}
    return own | set(outcome.get("types", ()))


def chosen(state: State, configs: Iterable[str]) -> list[str]:
    """Return variants that cover the parts of all variants: greedily, small ones first."""
    parts = {
        config: parts_of(config, state.found["build", config])
        for config in sorted(configs, key=cost)
        if state.found["build", config]["variant"] == BUILDS
    }
    missing: set[str] = set().union(*parts.values()) if parts else set()
    picked = []
    while missing:
        best = max(parts, key=lambda config: len(parts[config] & missing) / max(1, 1 + cost(config)[0]))  # the first of the best
        picked.append(best)
        missing -= parts[best]
    return sorted(picked)


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a Markdown table."""
    return ["", f"| {' | '.join(heads)} |", "| :-- " * len(heads) + "|", *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def counts(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Return each text with its number, the most frequent first; texts that differ in a name or number alone are one."""
    found = collections.Counter(re.sub(r"'\S+\.py'|\S+\.py|\d\d+", "…", text) for text in texts)
    return found.most_common()


def report(state: State, configs: Sequence[str], trained: Sequence[str], command: str) -> str:
    """Return the report."""
    built_ = {config: {**state.found["build", config]} for config in configs}
    for one in built_.values():
        one |= {key: short(one[key]) for key in ("as_is", "variant")}
    whole = [config for config in configs if built_[config]["as_is"] != FRAGMENT]
    as_is = [config for config in whole if built_[config]["as_is"] == BUILDS]
    variants = [config for config in whole if built_[config]["variant"] == BUILDS]
    lines = header("Configs of mmdet", command, PACKAGES)
    summary = [
        ("files", len(configs)), ("fragments without a model", len(configs) - len(whole)), ("build as they are", len(as_is)),
        ("are a variant: built for the data and the profile", len(variants)),
    ]  # fmt: skip
    steps = {config: state.found["train", config] for config in trained if ("train", config) in state.found}
    good = [config for config, one in steps.items() if one.get("loss") is not None and one["finite"] and not one["without_gradient"]]
    if steps:
        summary += [
            ("tried in training and prediction", len(steps)),
            ("of these with finite loss, a gradient for each weight, finite boxes", len(good)),
        ]
    lines += table(("", "configs"), summary)
    lines += ["", "## Reasons why a config does not build as it is"]
    lines += table(("reason", "configs"), counts(built_[config]["as_is"] for config in whole if config not in as_is))
    lines += ["", "## Reasons why a config cannot be a variant"]
    lines += table(("reason", "configs"), counts(built_[config]["variant"] for config in whole if config not in variants))
    if steps:
        lines += _steps(steps)
    lines += ["", "## All configs", "", "By folder. Those without a remark build as they are and as a variant."]
    lines += _list(built_)
    return "\n".join(lines) + "\n"


def _steps(steps: Mapping[str, Outcome]) -> list[str]:
    operators = collections.Counter(name for one in steps.values() for name in one.get("operators", ()))
    lines = ["", "## Operators of mmcv that were called", "", "Multi-scale deformable attention has its operator on CUDA alone."]
    lines += table(("operator", "configs"), sorted(operators.items()))
    lines += [
        "",
        "## One training step and one prediction",
        "",
        "Small: base, neck and head of 8, 16 and 16 channels where they can be changed.",
    ]
    rows = []
    for config, one in sorted(steps.items()):
        if "error" in one:
            rows.append((config.removesuffix(".py"), one["error"], "", "", "", one.get("seconds", "")))
            continue
        remark = (
            f"no gradient: {', '.join(one['without_gradient'])}" if one["without_gradient"] else "" if one["finite"] else "boxes not finite"
        )
        loss = "not finite" if one["loss"] is None else f"{one['loss']:.4g}"
        size = f"{one['size'][0]} x {one['size'][1]}{'' if one['small'] else ', full width'}"
        rows.append((config.removesuffix(".py"), loss, " ".join(map(str, one["boxes"])), size, remark, one.get("seconds", "")))
    return lines + table(("config", "loss", "boxes", "images", "remark", "s"), rows)


def _list(built_: Mapping[str, Outcome]) -> list[str]:
    lines = []
    folders: dict[str, dict[str, list[str]]] = {}
    for config, one in built_.items():
        remark = one["as_is"] if one["as_is"] == one["variant"] else f"as it is: {one['as_is']}; variant: {one['variant']}"
        remark = "" if remark == BUILDS else "builds as it is; no variant: " + one["variant"] if one["as_is"] == BUILDS else remark
        folders.setdefault(str(Path(config).parent), {}).setdefault(remark, []).append(Path(config).stem)
    for folder, remarks in sorted(folders.items()):
        for remark, names in sorted(remarks.items()):
            lines.append(f"- **{folder}**{f', {remark}' if remark else ''}: {', '.join(names)}")
    return ["", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="one step and a prediction of those that cover all folders and classes")
    parser.add_argument("--only", nargs="+", default=[], help="folders, in place of all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "zoo_configs.jsonl")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    from gfl_lab.zoo.source import configs_folder

    folder = configs_folder()
    configs = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.py"))]
    configs = [config for config in configs if not asked.only or Path(config).parts[0] in asked.only]
    state = State(asked.state)
    run_all("build", configs, folder, state, asked.workers)
    trained = chosen(state, configs) if asked.train else []
    run_all("train", trained, folder, state, asked.workers)
    command = "uv run python -m benchmarks.zoo_configs" + " --train" * asked.train + " --write" * asked.write
    publish("zoo_configs", report(state, configs, trained, command), asked.write)


if __name__ == "__main__":
    main()
