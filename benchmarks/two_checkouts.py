"""Speed of this checkout and of another one, such as the release before a rebuild: the same work in both, in turns.

    uv run python benchmarks/two_checkouts.py OTHER                     all cases; 25 minutes on two quiet cores
    uv run python benchmarks/two_checkouts.py OTHER --case head coco    some of them
    uv run python benchmarks/two_checkouts.py OTHER --write             also writes benchmarks/results/

OTHER is a folder with a checkout and its environment (``uv sync``). Each round runs a case once in each checkout, the first of the two
changing from round to round; the medians and the median of the rounds' ratios are reported. A ratio below 1 says that this checkout
is faster. Commands and workers run with the checkout's own interpreter, and import gfl_lab and the benchmarks from there.

    head        targets, losses and gradients of the head on 2 images of 800 x 1344, 80 classes: processor time, one thread
    coco        COCO evaluation of 1,000 images with records and bootstrap samples: processor time, one core
    step        a training step of the desk profile, over two epochs of 100, on one core: both checkouts at the same time
    start       `gfl-lab run table3_qfl_dfl` on smoke over Ray: seconds to the first training step, and to the end
    dashboard   a page opened from its address in a new browser, over a run tree of 10,000 trials (--experiments: of 100 trials each)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from benchmarks import dashboard_scale
from benchmarks.machine import ROOT, header, lab_environment, publish

CASES = ("head", "coco", "step", "start", "dashboard")

Case = Iterator[tuple[str, float, float]]
"""Rounds of a case: what was measured, and its seconds here and in the other checkout."""

HEAD = """
import torch
from benchmarks.head_losses import LIKE_COCO, case, heads, run
torch.set_num_threads(1)  # processor time of one thread: other work on the machine counts less
given, head = case(**LIKE_COCO, device="cpu"), heads(80)["gfl-lab"].train()
def action():
    began = time.thread_time()
    run(head, given, True)
    return time.thread_time() - began
"""
COCO = """
from pathlib import Path
import os, tempfile
from benchmarks import coco_eval as bench
import numpy as np
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
records = bench.detector(1, bench.truth())
kept = records.det_image < 1000
order = np.lexsort((-records.det_score[kept], records.det_image[kept]))
columns = (records.det_image, records.det_label, records.det_score, records.det_box)
found = bench.Detections(np.arange(1000), *(column[kept][order] for column in columns))
folder = Path(tempfile.mkdtemp())
bench.annotation_file(folder / "truth.json", records, 1000)
def action():
    began = time.process_time()
    bench.ours(folder / "truth.json", found, folder)
    return time.process_time() - began
"""
SERVE = """
import sys, time
sys.path.insert(0, ".")
%s
action(); action()
print("ready", flush=True)
for line in sys.stdin:
    print(action(), flush=True)
"""
STEP = """
name: step
question: How long does a training step take?
profile: desk
axes: {dfl: [true]}
%s: {epochs: 2}
"""


class Checkout:
    """A checkout of gfl-lab with its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ".venv" / "bin" / "python"
        if not self.python.exists():
            sys.exit(f"{folder} has no .venv: call uv sync there")

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a command over the run tree ``home``."""
        return lab_environment(home) | {"PYTHONPATH": str(self.folder)}

    def commit(self) -> str:
        """Return the short hash of the commit."""
        shown = subprocess.run(["git", "-C", self.folder, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        return shown.stdout.strip()

    @contextmanager
    def worker(self, code: str, home: Path) -> Iterator[Callable[[], float]]:
        """Run ``code`` in a process of its own; yield a function that calls its ``action`` there and returns the seconds."""
        process = subprocess.Popen(
            [self.python, "-c", SERVE % code], cwd=self.folder, env=self.environment(home), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin and process.stdout
        requests, answers = process.stdin, process.stdout

        def answer() -> str:
            while line := answers.readline():
                if line.strip() == "ready" or line[0].isdigit():
                    return line
            sys.exit(f"the worker of {self.folder} ended")

        def call() -> float:
            requests.write("\n")
            requests.flush()
            return float(answer())

        answer()
        try:
            yield call
        finally:
            requests.close()
            process.wait()

    def start(self, experiment: Path, home: Path, core: int) -> subprocess.Popen[str]:
        """Start ``gfl-lab run --executor inline`` on one core."""
        command = [self.python, "-m", "gfl_lab.cli.main", "run", str(experiment), "--executor", "inline"]
        return subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command], cwd=self.folder, env=self.environment(home), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, experiment: Path | str, home: Path, *options: str) -> float:
        """Run ``gfl-lab run``; return its seconds."""
        command = [self.python, "-m", "gfl_lab.cli.main", "run", str(experiment), *options]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=self.folder, env=self.environment(home), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{command} in {self.folder} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return time.perf_counter() - began


Pair = tuple[Checkout, Checkout]


def in_turns(first: Callable[[], float], second: Callable[[], float], rounds: int) -> Iterator[tuple[float, float]]:
    """Call both in each round, the other one first in every second round; yield their values."""
    for number in range(rounds):
        if number % 2:
            theirs, ours = second(), first()
        else:
            ours, theirs = first(), second()
        yield ours, theirs


def working(name: str, code: str, pair: Pair, folder: Path, rounds: int) -> Case:
    """Yield the rounds of code that both checkouts run in workers."""
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(checkout.worker(code, folder)) for checkout in pair)
        for seconds in in_turns(ours, theirs, rounds):
            yield name, *seconds


def steps(trial: Path) -> list[tuple[int, float]]:
    """Return (step, Unix time) of a trial's training lines."""
    lines = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["time"]) for line in lines if line["kind"] == "train"]


def desk_step(pair: Pair, folder: Path, rounds: int) -> Case:
    """Yield seconds of a training step: the mean without the slowest tenth, among which is the evaluation between the epochs.

    Both train at the same time, each on a core of its own, and change cores from round to round: whatever slows the machine down
    meets both.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("the case step takes two cores")
    homes = [folder / f"step-{index}" for index in range(2)]
    files = [folder / f"step-{index}.yaml" for index in range(2)]
    for checkout, home, file in zip(pair, homes, files, strict=True):
        file.write_text(STEP % overrides_key(checkout))
        checkout.run(file, home, "--executor", "inline")  # data set and byte code are made once
    for turn in range(rounds):
        for home in homes:
            shutil.rmtree(home / "trials")
        running = [
            checkout.start(file, home, cores[(turn + index) % 2])
            for index, (checkout, home, file) in enumerate(zip(pair, homes, files, strict=True))
        ]
        for process in running:
            out, err = process.communicate()
            if process.returncode:
                sys.exit(f"{process.args} ended with {process.returncode}:\n{err[-3000:]}")
        found = []
        for home in homes:
            (trial,) = (home / "trials").glob("*/")
            moments = steps(trial)
            found.append(
                statistics.mean(sorted(later - earlier for (_, earlier), (_, later) in itertools.pairwise(moments))[: -len(moments) // 10])
            )
        yield "a training step of the desk profile, one core", found[0], found[1]


def overrides_key(checkout: Checkout) -> str:
    """Return the name of the YAML key for settings of all variants, which was renamed (docs/decisions/0025-names-of-settings.md)."""
    return "overrides" if (checkout.folder / "docs/decisions/0025-names-of-settings.md").exists() else "set"


def start(pair: Pair, folder: Path, rounds: int) -> Case:
    """Yield seconds from the command to the first training step of any trial, and to the command's end."""
    number = 0
    found: dict[tuple[int, int], tuple[float, float]] = {}

    def measure(index: int) -> float:
        nonlocal number
        number += 1
        home = folder / f"start-{number}"
        source = folder / f"smoke-{index}"
        if source.exists():
            shutil.copytree(source, home)
        else:  # data set, database and byte code are made once
            pair[index].run("experiments/table3_qfl_dfl.yaml", source, "--profile", "smoke")
            for part in ("trials", "experiments"):
                shutil.rmtree(source / part, ignore_errors=True)
            shutil.copytree(source, home)
        began = time.time()
        total = pair[index].run("experiments/table3_qfl_dfl.yaml", home, "--profile", "smoke")
        first = min(steps(trial)[0][1] for trial in (home / "trials").glob("*/"))
        shutil.rmtree(home)
        found[index, sum(key[0] == index for key in found)] = (first - began, total)
        return total

    for turn, (ours, theirs) in enumerate(in_turns(lambda: measure(0), lambda: measure(1), rounds)):
        yield "from `gfl-lab run` to the first training step", found[0, turn][0], found[1, turn][0]
        yield "Table 3 on smoke over Ray, from command to end", ours, theirs


def dashboard(pair: Pair, folder: Path, rounds: int, experiments: int) -> Case:
    """Yield seconds of each page of the dashboard. Both servers run all the time, over the same run tree."""
    root = folder / "tree"
    for part in ("trials", "data", "experiments"):
        (root / part).mkdir(parents=True)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(dashboard_scale.build, [str(root)] * experiments, range(experiments)))
    with ExitStack() as stack:
        addresses = []
        for checkout in pair:
            command = [str(checkout.python.with_name("gfl-lab")), "dashboard", "--port", "PORT"]
            environment = {"GFL_LAB_HOME": str(root), "PYTHONPATH": str(checkout.folder)}
            addresses.append(stack.enter_context(dashboard_scale.served(command, environment, "/_stcore/health"))[0])

        def opened(address: str, page: str, turn: int) -> float:
            name = dashboard_scale.experiment_of(turn, experiments)
            query = f"?experiment={quote(f'{name}/desk', safe='')}" if page else ""
            driver = dashboard_scale.browser()
            try:
                driver.get("about:blank")
                began = time.perf_counter()
                driver.get(f"{address}/{page}{query}")
                dashboard_scale.until(driver, dashboard_scale.DRAWN % f"/{page}")
                return time.perf_counter() - began
            finally:
                driver.quit()

        for page in dashboard_scale.PAGES:  # the first time of each server is told apart
            first = [opened(address, page, 0) for address in addresses]
            yield f"dashboard, first time: {page or 'overview'}", *first

        def visits(address: str, page: str) -> Callable[[], float]:
            turns = itertools.count(1)
            return lambda: opened(address, page, next(turns))

        for page in dashboard_scale.PAGES:
            calls = [visits(address, page) for address in addresses]
            for seconds in in_turns(calls[0], calls[1], rounds):
                yield f"dashboard: {page or 'overview'}", *seconds


def table(found: dict[str, list[tuple[float, float]]]) -> Iterator[str]:
    """Yield a line for each thing that was measured."""
    for name, rounds in found.items():
        ours, theirs = (statistics.median(each) for each in zip(*rounds, strict=True))
        ratios = sorted(a / b for a, b in rounds)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if len(ratios) > 1 else ""
        yield f"| {name} | {len(rounds)} | {1000 * ours:,.1f} | {1000 * theirs:,.1f} | {statistics.median(ratios):.3f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--experiments", type=int, default=100, help="of 100 trials each, for the dashboard")
    parser.add_argument("--rounds", type=int, help="rounds of each case, instead of its own number")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    pair = Checkout(ROOT), Checkout(asked.other.resolve())
    folder = Path(tempfile.mkdtemp(prefix="two-checkouts-"))
    cases: dict[str, Callable[[], Case]] = {
        "head": lambda: working("targets, losses and gradients of the head", HEAD, pair, folder, asked.rounds or 20),
        "coco": lambda: working("COCO evaluation of 1,000 images", COCO, pair, folder, asked.rounds or 10),
        "step": lambda: desk_step(pair, folder, asked.rounds or 6),
        "start": lambda: start(pair, folder, asked.rounds or 5),
        "dashboard": lambda: dashboard(pair, folder, asked.rounds or 4, asked.experiments),
    }
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        for name in asked.case:
            for what, ours, theirs in cases[name]():
                found.setdefault(what, []).append((ours, theirs))
                print(f"{what}: {ours:.4f} {theirs:.4f}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options = f" --case {' '.join(asked.case)}" + (f" --experiments {asked.experiments}" if "dashboard" in asked.case else "")
    report = [
        *header("This checkout and another one", f"uv run python benchmarks/two_checkouts.py OTHER{options}", ("torch", "mmdet", "ray", "streamlit")),
        f"- this one: {pair[0].commit()}; the other: {pair[1].commit()}",
        "",
        "| what | rounds | this one, median ms | the other, median ms | median ratio | ratios |",
        "| :-- | --: | --: | --: | --: | :-- |",
        *table(found),
    ]  # fmt: skip
    publish("_".join(["two_checkouts", *(asked.case if len(asked.case) < len(CASES) else [])]), "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
