"""How long until a trial has done its first training step: the first and the next of a fork server, and in a fresh interpreter.

    uv run python benchmarks/trial_start.py            a minute
    uv run python benchmarks/trial_start.py --write    also writes benchmarks/results/

A trial of the desk profile. Its time begins where it is asked for, and ends with its first line in metrics.jsonl; then it is stopped.
The fork server is the one that `gfl-lab run` keeps for each slot: it imports torch, mmdet and mmengine once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import LAB, header, lab_environment, publish, timed
from gfl_lab.orchestrate.supervisor import Job, TrialProcess

EXPERIMENT = """
name: start
question: How long until the first step?
profile: desk
axes: {qfl: [true]}
overrides: {epochs: 1}
"""
ENTRY, PRELOAD = "gfl_lab.train.trial:run_trial", "gfl_lab.train.trial"


def first_step(trial: Path, stop: Path, start: Callable[[], Any]) -> float:
    """Seconds from here to the trial's first step; it ends before this returns."""
    for path in trial.iterdir():
        if path.name != "manifest.json":
            path.unlink()
    stop.unlink(missing_ok=True)
    began = time.time()
    running = threading.Thread(target=start)
    running.start()
    lines = trial / "metrics.jsonl"
    while not (lines.exists() and "\n" in lines.read_text()):
        time.sleep(0.005)
        if not running.is_alive():
            sys.exit(f"the trial ended before its first step: {(trial / 'log.txt').read_text()}")
    stop.touch()
    running.join()
    return json.loads(lines.read_text().splitlines()[0])["time"] - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="trial-start-"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environment = lab_environment(folder / "runs")
    (folder / "start.yaml").write_text(EXPERIMENT)
    timed([*LAB, "run", str(folder / "start.yaml"), "--executor", "inline"], environment)
    (trial,) = (folder / "runs" / "trials").glob("*/")
    stop = folder / "stop"
    threads = len(os.sched_getaffinity(0))
    kwargs = {"threads": threads, "stop_file": str(stop)}

    def fresh() -> None:
        code = f"from gfl_lab.train.trial import run_trial; run_trial({str(trial)!r}, threads={threads}, stop_file={str(stop)!r})"
        subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)

    in_fresh = [first_step(trial, stop, fresh) for _ in range(asked.rounds)]
    firsts, nexts = [], []
    for _ in range(asked.rounds):
        servers: list[TrialProcess] = []

        def with_server(servers: list[TrialProcess] = servers) -> None:
            if not servers:
                servers.append(TrialProcess(PRELOAD))
            servers[0].run(Job(str(trial), ENTRY, PRELOAD, kwargs))

        firsts.append(first_step(trial, stop, with_server))
        nexts += [first_step(trial, stop, with_server) for _ in range(2)]
        servers[0].close()

    def line(name: str, found: list[float]) -> str:
        return f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} to {max(found):.2f} |"

    report = [
        *header("Until a trial's first step", f"uv run python benchmarks/trial_start.py --rounds {asked.rounds}", ("torch", "mmdet", "mmengine")),
        f"- desk, one trial at a time on {threads} threads; Python's byte code and the files were there",
        "",
        "| | median, s | least and most, s |",
        "| :-- | --: | --: |",
        line("a fresh interpreter", in_fresh),
        line("the first trial of a fork server, its start included", firsts),
        line("the next ones", nexts),
    ]  # fmt: skip
    publish("trial_start", "\n".join(report) + "\n", asked.write)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
