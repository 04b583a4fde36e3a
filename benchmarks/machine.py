"""Shared parts of the benchmarks: the head and the place of a results file, and rounds that alternate between two ways."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from gfl_lab.machine import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LAB = [sys.executable, "-m", "gfl_lab.cli.main"]
"""The command `gfl-lab`, of this tree."""


def header(title: str, command: str, packages: Sequence[str] = ()) -> list[str]:
    """First lines of a results file, in Markdown: date, machine, versions, command."""
    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return [
        f"# {title}",
        "",
        f"- date: {datetime.date.today().isoformat()}",
        f"- machine: {machine}, {platform.system()} {platform.release()}, Python {platform.python_version()}",
        *([f"- versions: {versions}"] if versions else []),
        f"- command: `{command}`",
    ]


def publish(name: str, report: str, write: bool) -> None:
    """Print a report; with ``write`` also put it into ``benchmarks/results/NAME_DATE.md``."""
    print(report)
    if write:
        (RESULTS / f"{name}_{datetime.date.today().isoformat()}.md").write_text(report)


def in_turns(actions: Mapping[str, Callable[[], Any]], rounds: int, warm: int, wait: Callable[[], Any] = lambda: None) -> dict[str, float]:
    """Median seconds of each action, one after the other in every round, after ``warm`` rounds that do not count.

    ``wait`` is called before and after: it empties a GPU's queue.
    """
    found: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm + rounds):
        for name, action in actions.items():
            wait()
            began = time.perf_counter()
            action()
            wait()
            if turn >= warm:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in found.items()}


def lab_environment(home: Path) -> dict[str, str]:
    """The environment of a command over a run tree of its own, without a tracking server; Python may write its byte code."""
    kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE")}
    return kept | {"GFL_LAB_HOME": str(home), "PYTHONPATH": str(ROOT)}


def timed(command: str | list[str], environment: dict[str, str]) -> float:
    """Seconds of a command; its words go to stderr only when it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        command, shell=isinstance(command, str), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return time.perf_counter() - started
