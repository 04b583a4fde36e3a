"""Measures what mirroring 10, 100 and 1,000 trials to MLflow costs: filling a database, finding nothing to do, one round of a run.

    uv run python benchmarks/mirror_scale.py                  prints a report; --write also puts it under benchmarks/results/
    uv run python benchmarks/mirror_scale.py --trials 10,100  only these numbers of trials

The run directories are made up (tests/support/fake_runs.py): 32 metric lines, a result and box distributions for each trial; two
trials of each tree run. The mirror and its sqlite database are real. Each number of trials has a fresh tree and a fresh process.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import header, publish

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mlflow", "sqlalchemy")
NAME, PROFILE = "table3_qfl_dfl", "desk"
ROUNDS = 9


@dataclass
class Cost:
    """Wall and CPU seconds of one thing."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.3f}" if self.wall < 1 else f"{self.wall:.1f}"


@dataclass
class Measured:
    """The cost of one tree."""

    trials: int
    points: int
    artifacts: int
    fill: Cost
    again: Cost
    idle: Cost
    live: Cost
    memory_mib: float


def timed(call) -> tuple[Cost, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu), value


def rounds(call, before=lambda: None) -> Cost:
    """Medians of some calls, with ``before`` outside the measured time."""
    costs = []
    for _ in range(ROUNDS):
        before()
        costs.append(timed(call)[0])
    return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs))


def measure(trials: int) -> Measured:
    """Build a tree of that many trials and mirror it."""
    sys.path.insert(0, str(ROOT))
    from gfl_lab import naming
    from gfl_lab.records.files import read_json
    from gfl_lab.records.metric_lines import MetricWriter
    from gfl_lab.tracking.mirror import Mirror
    from tests.support.fake_runs import write_fake_tree

    with tempfile.TemporaryDirectory() as folder:
        running = {(0, 0): "running", (1, 0): "running"}
        seeds = range(math.ceil(trials / 4))
        tree = write_fake_tree(Path(folder), seeds=seeds, states=running, epochs=8, train_images=6, val_images=2)
        plan = read_json(tree.experiment(NAME, PROFILE) / naming.PLAN)
        writers = [MetricWriter(tree.trial(variant["trials"][0]["id"]).file(naming.METRICS_FILE)) for variant in plan["variants"][:2]]
        steps = iter(range(1000, 100_000))

        def train() -> None:
            """Three seconds of training on two cores: a few lines from each running trial."""
            time.sleep(0.5)
            for step in (next(steps) for _ in range(4)):
                for writer in writers:
                    writer.write("train", step, 9, {"loss": 1.0, "loss_cls": 0.5, "loss_bbox": 0.5, "lr": 0.001})

        mirror = Mirror(tree, tree.mlflow_uri)
        mirror.prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fill, report = timed(lambda: mirror.sync(NAME, PROFILE))
        fresh = Mirror(tree, tree.mlflow_uri)
        fresh.prepare()
        again, nothing = timed(lambda: fresh.sync(NAME, PROFILE))
        if nothing.runs or nothing.points:
            sys.exit(f"the second sync sent something: {nothing}")
        idle = rounds(lambda: fresh.sync(NAME, PROFILE), lambda: time.sleep(0.5))
        live = rounds(lambda: fresh.sync(NAME, PROFILE), train)
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        for writer in writers:
            writer.close()
        return Measured(4 * len(seeds), report.points, report.artifacts, fill, again, idle, live, memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="10,100,1000", help="numbers of trials, with commas")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    found = []
    for trials in map(int, asked.trials.split(",")):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(measure, trials).result())
            print(found[-1], file=sys.stderr)
    report = text(found, sys.argv[1:])
    publish("mirror_scale", report, asked.write)


def text(found: list[Measured], arguments: list[str]) -> str:
    """The report as Markdown."""
    lines = [
        *header(
            f"Mirroring to MLflow: {', '.join(f'{m.trials:,}' for m in found)} trials",
            f"{' '.join(['uv run python benchmarks/mirror_scale.py', *arguments])}",
            PACKAGES,
        ),
        f"- load while measuring (1 and 5 minutes): {' and '.join(f'{load:.1f}' for load in os.getloadavg()[:2])}",
        "",
        "sqlite beside the runs. 32 metric lines a trial; two trials run, the others are done. Seconds of wall time, CPU seconds of the process in brackets.",
        f"Rounds are medians of {ROUNDS}.",
        "",
        "| trials | values | files | first sync | for each trial | second sync, new process | round, nothing new | round, 8 new lines | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for m in found:
        each = f"{m.fill.wall / m.trials * 1000:.0f} ms"
        costs = " | ".join(f"{cost} ({cost.cpu:.3f})" for cost in (m.again, m.idle, m.live))
        lines.append(
            f"| {m.trials} | {m.points} | {m.artifacts} | {m.fill} ({m.fill.cpu:.1f}) | {each} | {costs} | +{m.memory_mib:.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
