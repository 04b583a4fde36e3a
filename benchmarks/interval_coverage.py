"""How often intervals hold a difference that is known: ours, one that leaves the images out, and percentiles of a bootstrap.

    uv run python benchmarks/interval_coverage.py                       2,000 experiments a row; --write also writes benchmarks/results/
    uv run python benchmarks/interval_coverage.py --runs 200            fewer

Detectors are drawn from a model (tests/support/detectors.py) whose true difference is known, or measured over all experiments.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.machine import header, publish
from gfl_lab.cocoap import Matches, resample
from gfl_lab.report.statistics import difference, image_variance
from tests.support.detectors import World

SEEDS = (2, 3, 5, 10)
REPLICATES = 60
WORLDS = {"images": World(), "seeds": World(seed_sd=0.4, response_sd=0.05)}
"""Whether a difference is uncertain because of the choice of images or because of the seeds."""
WAYS = ("ours", "seeds alone", "percentiles")


def percentiles(pairs: Sequence[tuple[Matches, Matches]], rng: np.random.Generator, replicates: int) -> tuple[float, float]:
    """2.5 and 97.5% of the mean difference when seeds and images are both drawn with replacement."""
    images = len(pairs[0][0].image_ids)
    found = []
    for _ in range(replicates):
        weights = np.bincount(rng.integers(0, images, images), minlength=images)
        each = [ours.ap(weights) - theirs.ap(weights) for ours, theirs in pairs]
        found.append(np.mean(rng.choice(each, len(each))))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def coverage(world: World, seeds: int, runs: int) -> dict[str, tuple[float, float]]:
    """(share of intervals that hold the truth, their mean half width in AP) by way."""
    rng = np.random.default_rng(seeds)
    means: list[float] = []
    intervals: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(runs):
        pairs = world.pairs(rng, seeds)
        values = [(ours.ap(), theirs.ap()) for ours, theirs in pairs]
        samples = [(resample(ours, REPLICATES)[:, 0], resample(theirs, REPLICATES)[:, 0]) for ours, theirs in pairs]
        own, alone = difference(values, image_variance(samples), world.images), difference(values)
        means.append(own.mean)
        intervals["ours"].append((own.low, own.high))
        intervals["seeds alone"].append((alone.low, alone.high))
        intervals["percentiles"].append(percentiles(pairs, rng, REPLICATES))
    truth = 0.0 if world.effect == 0 else float(np.mean(means))
    return {
        way: (float(np.mean([low <= truth <= high for low, high in found])), float(np.mean([(high - low) / 2 for low, high in found])))
        for way, found in intervals.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000, help="simulated experiments for each row")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    lines = [
        *header("How often 95% intervals hold the true difference", f"uv run python benchmarks/interval_coverage.py --runs {asked.runs}{' --write' if asked.write else ''}", ("numpy", "scipy")),
        f"- {asked.runs} simulated experiments a row over {World().images} images; {REPLICATES} bootstrap samples each",
        "",
        "| noise mostly of | effect | seeds | " + " | ".join(f"{way}: covers | half width" for way in WAYS) + " |",
        "| :-- | --: | --: |" + " --: | --: |" * len(WAYS),
    ]  # fmt: skip
    for name, world in WORLDS.items():
        for effect in (0.0, 0.3):
            for seeds in SEEDS:
                found = coverage(dataclasses.replace(world, effect=effect), seeds, asked.runs)
                cells = " | ".join(f"{100 * found[way][0]:.1f}% | {found[way][1]:.2f}" for way in WAYS)
                lines.append(f"| {name} | {'none' if effect == 0 else 'known'} | {seeds} | {cells} |")
                print(lines[-1], flush=True)
    report = "\n".join(lines) + "\n"
    publish("interval_coverage", report, asked.write)


if __name__ == "__main__":
    main()
