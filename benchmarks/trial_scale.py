"""Measures what gfl-lab itself costs for 10, 100 and 1,000 trials that compute nothing.

    uv run python benchmarks/trial_scale.py                 prints a report; --write also puts it under benchmarks/results/
    uv run python benchmarks/trial_scale.py --trials 10,100 only these numbers of trials

Each number is a run of its own in a fresh run tree, with everything but training real: Ray Tune, fork servers, a process for each
trial, the display, MLflow on sqlite. A trial writes ten metric lines, an evaluation and a result. Variants are values of `lr`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import header

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ray", "mlflow", "pydantic", "sqlalchemy")
PROFILE = """
name: noop
title: trials that compute nothing
data: {train_images: 8, val_images: 8, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 8, neck_channels: 16, head_channels: 16, head_convs: 1, strides: [8, 16, 32], epochs: 1, batch_size: 8,
  image_size: [128, 128]}
"""
POLL_S = 0.5


def no_op(path: str, **_: object) -> None:
    """A trial that computes nothing: ten steps, one evaluation, done."""
    from gfl_lab import naming
    from gfl_lab.records.files import write_json
    from gfl_lab.records.metric_lines import MetricWriter
    from gfl_lab.rundir import TrialDir

    started = time.time()
    trial = TrialDir(Path(path))
    trial.take_lease()
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    for step in range(1, 11):
        writer.write("train", step, 1, {"loss": 1 / step, "lr": 0.01})
    metrics = {"AP": 50.0, "AP50": 70.0, "AP75": 55.0}
    writer.write("val", 10, 1, metrics)
    writer.close()
    ended = time.time()
    write_json(
        trial.file(naming.RESULT),
        {
            "format": naming.FORMAT_VERSION, "trial": trial.id, "status": "done", "metrics": metrics, "epochs": 1, "steps": 10, "started": started,
            "ended": ended, "seconds": {"total": ended - started}, "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )  # fmt: skip
    trial.drop_lease()


def driver(arguments: list[str], usage: Path) -> None:
    """`gfl-lab ARGUMENTS` in this process, with `no_op` in the place of training; writes what the process took to ``usage``."""
    import gfl_lab.session.entries
    from gfl_lab.cli.main import main
    from gfl_lab.integrity import trial_check
    from gfl_lab.orchestrate import damaged

    damaged.damage = trial_check.damage = lambda trial: []  # `no_op` leaves no records
    gfl_lab.session.entries.TRIAL_ENTRY = "benchmarks.trial_scale:no_op"
    sys.argv = ["gfl-lab", *arguments]
    try:
        main()
    finally:
        own = resource.getrusage(resource.RUSAGE_SELF)
        usage.write_text(json.dumps({"rss_mib": own.ru_maxrss / 1024, "cpu_s": own.ru_utime + own.ru_stime}))


@dataclass
class Measured:
    """One run. Seconds, MiB; ``behind`` counts finished trials that MLflow did not show as finished yet, ``left`` runs at the end."""

    trials: int
    planning: float = 0.0
    plan_command: float = 0.0
    wall: float = 0.0
    to_first: float = 0.0
    span: float = 0.0
    to_table: float = 0.0
    to_end: float = 0.0
    rss_mib: float = 0.0
    cpu_s: float = 0.0
    behind: list[int] = field(default_factory=list)
    left: int = 0


def planning_seconds(file: Path) -> float:
    """From the file to the list of trials, in this process; the best of three."""
    from gfl_lab.session.inputs import read_files
    from gfl_lab.session.planning import PlanOptions, prepare
    from gfl_lab.session.run_tree import default_tree

    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        prepare(read_files(file, None), default_tree(), PlanOptions(), lambda _: None)
        best = min(best, time.perf_counter() - started)
    return best


def finished_in_mlflow(database: Path) -> int:
    """Trials that MLflow shows as finished (its parent run, which is no trial, ends last)."""
    if not database.exists():
        return 0
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection,
    ):
        return connection.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0]
    return 0


def measure(count: int, folder: Path) -> Measured:
    """Run ``count`` trials in a fresh run tree under ``folder``."""
    home = folder / "runs"
    (folder / "profiles").mkdir(parents=True)
    (folder / "profiles/noop.yaml").write_text(PROFILE)
    file = folder / "noop.yaml"
    rates = ", ".join(f"{0.001 * (index + 1):.3f}" for index in range(count))
    file.write_text(f"name: noop\nprofile: noop\naxes: {{lr: [{rates}]}}\nbaseline: {{lr: 0.001}}\n")
    os.environ["GFL_LAB_HOME"] = str(home)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)

    found = Measured(count, planning=planning_seconds(file))
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gfl_lab.cli.main", "plan", str(file)], env=environment, check=True, capture_output=True)
    found.plan_command = time.perf_counter() - started

    usage = folder / "usage.json"
    started = time.time()
    with (folder / "out.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, "--driver", str(usage), "run", str(file)], env=environment, stdout=output, stderr=output
        )
        while process.poll() is None:
            done = sum(1 for _ in home.glob("trials/*/result.json"))
            found.behind.append(max(0, done - finished_in_mlflow(home / "mlflow.db")))
            time.sleep(POLL_S)
    found.wall = time.time() - started
    if process.returncode:
        sys.exit(f"gfl-lab run ended with {process.returncode}:\n{(folder / 'out.txt').read_text()[-4000:]}")
    results = [json.loads(path.read_text()) for path in home.glob("trials/*/result.json")]
    if len(results) != count:
        sys.exit(f"{len(results)} of {count} trials are done")
    found.left = count + 1 - finished_in_mlflow(home / "mlflow.db")
    first, last = min(r["started"] for r in results), max(r["ended"] for r in results)
    found.to_first, found.span = first - started, last - first
    found.to_table = (home / "experiments/noop/noop/table.json").stat().st_mtime - last
    found.to_end = started + found.wall - last
    for key, value in json.loads(usage.read_text()).items():
        setattr(found, key, value)
    return found


def report(runs: list[Measured], command: str) -> str:
    """The results file."""
    rows = {
        "planning, from file to trials, s": [f"{run.planning:.2f}" for run in runs],
        "`gfl-lab plan`, whole command, s": [f"{run.plan_command:.1f}" for run in runs],
        "`gfl-lab run`, whole command, s": [f"{run.wall:.0f}" for run in runs],
        "until the first trial starts, s": [f"{run.to_first:.1f}" for run in runs],
        "first trial's start to last one's end, s": [f"{run.span:.1f}" for run in runs],
        "that for each trial, s": [f"{run.span / run.trials:.3f}" for run in runs],
        "last trial's end to the table, s": [f"{run.to_table:.1f}" for run in runs],
        "last trial's end to the end of the command, s": [f"{run.to_end:.1f}" for run in runs],
        "driver's peak memory (RSS), MiB": [f"{run.rss_mib:.0f}" for run in runs],
        "driver's CPU time, s": [f"{run.cpu_s:.1f}" for run in runs],
        "that for each trial more, s": ["", *(f"{(b.cpu_s - a.cpu_s) / (b.trials - a.trials):.3f}" for a, b in zip(runs, runs[1:], strict=False))],
        "trials that MLflow was behind, at most": [str(max(run.behind, default=0)) for run in runs],
        "runs left to `gfl-lab sync` at the end": [str(run.left) for run in runs],
    }  # fmt: skip
    lines = [
        *header("gfl-lab's own cost for trials that compute nothing", f"uv run python benchmarks/trial_scale.py {command}", PACKAGES),
        "",
        "| trials | " + " | ".join(f"{run.trials:,}" for run in runs) + " |",
        "| :-- |" + " --: |" * len(runs),
        *(f"| {what} | {' | '.join(cells)} |" for what, cells in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="10,100,1000", help="how many, one run for each number")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, asked.trials.split(",")):
            runs.append(measure(count, Path(folder) / str(count)))
            print(f"{count} trials: {runs[-1].span / count:.3f} s each, driver {runs[-1].rss_mib:.0f} MiB", file=sys.stderr)
    text = report(runs, f"--trials {asked.trials}{' --write' if asked.write else ''}")
    print(text)
    if asked.write:
        (ROOT / "benchmarks" / "results" / f"trial_scale_{datetime.date.today().isoformat()}.md").write_text(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--driver"]:
        driver(sys.argv[3:], Path(sys.argv[2]))
    else:
        main()
