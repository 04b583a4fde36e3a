"""Time of `gfl-lab run` beyond training: a first table, the same again, more seeds, and a table that shares half of its cells.

    uv run python benchmarks/reuse.py                  8 minutes on two quiet cores: every trial trains for one epoch
    uv run python benchmarks/reuse.py --write          also writes benchmarks/results/

Whoever trains without a record of what is done trains all of it each time. Beyond training is the command's wall time less what its
trials took, spread over the slots: start of Python and Ray, planning, MLflow, the table, and a slot's wait for the last trial. Beside
it what a user would otherwise do who knows which cells are missing: a shell loop over mmengine's stock Runner for just those, as many
at a time (`run_overhead.py --stock`: the same configurations; imports, evaluation and checkpoints included).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks import run_overhead
from benchmarks.machine import LAB, header, lab_environment, publish, timed
from benchmarks.run_overhead import EXPERIMENT, PACKAGES, slots_of, stock_loop


def seconds_of(home: Path) -> dict[str, float]:
    """Seconds of each finished trial."""
    found = {path.parent.name: json.loads(path.read_text()) for path in (home / "trials").glob("*/result.json")}
    return {name: result["seconds"]["total"] for name, result in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="reuse-"))
    home = folder / "runs"
    shutil.copytree(EXPERIMENT.parent / "published", folder / "published")
    environment = lab_environment(home)

    def experiment(name: str, **changes: Any) -> str:
        path = folder / f"{name}.yaml"
        content = yaml.safe_load(EXPERIMENT.read_text()) | {"name": name} | changes
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False))
        return str(path)

    first = experiment("first", overrides={"epochs": asked.epochs})
    second = experiment(
        "second", axes={"qfl": [False, True], "dfl": [True], "bin_width": [1.0, 0.5]}, baseline={"qfl": False, "dfl": True, "bin_width": 1.0},
        overrides={"epochs": asked.epochs}, published_table=None, table={"rows": ["qfl", "bin_width"]},
    )  # fmt: skip
    slots = slots_of(Path(first), environment)
    rows = []
    for name, words in (
        ("Table 3, nothing there", [first]),
        ("the same once more", [first]),
        ("with seeds 0, 1 and 2", [first, "--seeds", "0,1,2"]),
        ("a second table, half of whose cells are in the first", [second]),
    ):
        before = seconds_of(home)
        wall = timed([*LAB, "run", *words], environment)
        took = {trial: seconds for trial, seconds in seconds_of(home).items() if trial not in before}
        loop = stock_loop([home / "trials" / trial for trial in took], folder / "stock", run_overhead.__file__, slots, environment)
        rows.append(
            f"| {name} | {len(took)} | {sum(took.values()) / slots:.1f} | {wall:.1f} | {wall - sum(took.values()) / slots:.1f} "
            f"| {loop:.1f} | {wall - loop:+.1f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    report = [
        *header("Runs that share cells", f"uv run python benchmarks/reuse.py --epochs {asked.epochs} --write", PACKAGES),
        f"- Table 3 on desk with {asked.epochs} epoch of training a trial, {slots} trials at a time",
        "",
        "| run | trials trained | their time on the slots, s | wall, s | beyond training, s | a loop over those trials alone, s | more than the loop, s |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
        *rows,
    ]
    publish("reuse", "\n".join(report) + "\n", asked.write)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
