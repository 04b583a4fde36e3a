"""The paper's ablation tables on the desk profile with their seeds, and which differences are larger than the noise.

    uv run python benchmarks/desk_ablations.py                                  runs what is missing of the five tables
    uv run python benchmarks/desk_ablations.py experiments/table2a_box.yaml     only these
    ... --write                                                                 also writes benchmarks/results/

A run takes hours on two cores; it goes on where it was stopped (--home keeps the runs). The interval is Student's for the
mean of the paired differences over seeds: with three seeds 4.30 standard errors to either side. It speaks of seeds alone, not
of the choice of validation images.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

from scipy import stats

from benchmarks.machine import header

ROOT = Path(__file__).resolve().parents[1]
TABLES = [
    ROOT / "experiments" / f"{n}.yaml" for n in ("table1a_quality", "table1c_beta", "table2a_box", "table2b_reg_max", "table2c_bin_width")
]
PACKAGES = ("torch", "torchvision", "mmdet", "mmengine", "ray", "numpy", "faster-coco-eval")
SHOWN = (("AP", 1), ("AP50", 1), ("AP75", 1), ("two_mode_recall", 3), ("false_bimodality", 3), ("wasserstein", 3))


def run(arguments: list[str], home: Path) -> str:
    """Run gfl-lab with its progress on our stderr; its stdout."""
    command = [str(Path(sys.executable).with_name("gfl-lab")), *arguments]
    done = subprocess.run(command, env=os.environ | {"GFL_LAB_HOME": str(home)}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def by_seed(home: Path, plan: dict) -> dict[str, dict[int, dict[str, float]]]:
    """{variant: {seed: metrics}} from the result of each finished trial."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for variant in plan["variants"]:
        for trial in variant["trials"]:
            result = json.loads((home / "trials" / trial["id"] / "result.json").read_text())
            metrics = result["metrics"]
            metrics["wasserstein"] *= variant["settings"]["bin_width"]  # from bins to strides, so that bin widths compare
            found.setdefault(variant["name"], {})[trial["seed"]] = metrics
    return found


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean of paired differences, and the half width of its 95% interval (Student)."""
    count = len(differences)
    if count < 2:
        return differences[0], math.inf
    return statistics.mean(differences), stats.t.ppf(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)


def report(file: Path, home: Path) -> list[str]:
    """The section of one table."""
    name = file.stem
    plan = json.loads((home / "experiments" / name / "desk" / "plan.json").read_text())
    metrics = by_seed(home, plan)
    baseline = next(variant["name"] for variant in plan["variants"] if variant["baseline"])
    references = {variant["name"]: (variant.get("reference") or {}).get("metrics", {}).get("AP") for variant in plan["variants"]}
    lines = [
        f"## {name}",
        "",
        f"**{plan['experiment']['question']}** Mean ± standard deviation over seeds {sorted(metrics[baseline])}.",
        "",
        "| variant | AP | AP50 | AP75 | two-mode recall | false bimodality | W1, strides | AP − baseline (95%) | published AP |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    larger, smaller = [], []
    for variant, seeds in metrics.items():
        cells = []
        for key, digits in SHOWN:
            values = [found[key] for found in seeds.values() if key in found]
            if not values:  # two edges nearer than two bins cannot be told apart
                cells.append("–")
                continue
            cells.append(f"{statistics.mean(values):.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""))
        published = f"*{references[variant]}*" if references[variant] is not None else "–"
        if variant == baseline:
            lines.append(f"| {variant} (baseline) | {' | '.join(cells)} | | {published} |")
            continue
        mean, half = interval([seeds[seed]["AP"] - metrics[baseline][seed]["AP"] for seed in sorted(seeds) if seed in metrics[baseline]])
        lines.append(f"| {variant} | {' | '.join(cells)} | {mean:+.1f} ± {half:.1f} | {published} |")
        (larger if abs(mean) > half else smaller).append(f"{variant} ({mean:+.1f} ± {half:.1f})")
    lines += ["", f"Larger than the noise of the seeds: {'; '.join(larger) or 'none'}. Not: {'; '.join(smaller) or 'none'}.", ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=TABLES)
    parser.add_argument("--home", type=Path, default=ROOT / "runs")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    for file in asked.files:
        run(["run", str(file)], asked.home)
    today = datetime.date.today().isoformat()
    lines = [
        *header(
            "Ablation tables on desk",
            f"uv run python benchmarks/desk_ablations.py {' '.join(f'experiments/{file.name}' for file in asked.files)} --write",
            PACKAGES,
        ),
        "- published AP: the paper's, COCO minival with a ResNet-50; not comparable, for orientation only",
        "",
    ]
    for file in asked.files:
        lines += report(file, asked.home)
    print("\n".join(lines))
    if asked.write:
        (ROOT / "benchmarks" / "results" / f"desk_ablations_{today}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
