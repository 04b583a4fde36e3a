"""How often intervals of arms whose trainings do not pair hold a known difference, beside those of pairs by number.

    uv run python benchmarks/unpaired_coverage.py                      2,000 tables a cell; --write also writes benchmarks/results/
    uv run python benchmarks/unpaired_coverage.py --runs 200 --json    fewer, and as JSON

The world is ``trials`` of ``interval_coverage``: AP of a training = its own effect + response of its arm to each image + noise of this
training on each image, all normal; 200 images, two trainings differ with a standard deviation of 0.5 AP, and all true differences are 0.
No two trainings share an effect. The first arm is the baseline. ``pairs`` are the intervals of ``statistics.judge`` on as many pairs as the
smaller arm has files, which is how imported files were compared before.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.interval_coverage import IMAGES, PAIR_SD, Tables, bootstrap_weights
from benchmarks.interval_coverage import noise_of as paired_noise
from benchmarks.machine import header, publish
from gfl_lab.metrics.coco_ap import REPLICATES
from gfl_lab.report.noise import LEVEL, Noise, half_width, image_variances, p_values
from gfl_lab.report.statistics import holm
from gfl_lab.report.unpaired import between

SHARES = (1.0, 0.1, 0.0)
ALIKE = ((2, 2), (3, 3), (5, 5), (3, 5), (2, 5), (2, 10), (3, 3, 3, 3))
"""Files of each arm, the baseline's first, where all arms vary alike."""
UNLIKE = (((3, 3), (1, 3)), ((2, 2), (1, 3)), ((5, 2), (1, 3)), ((5, 2), (3, 1)), ((10, 2), (1, 3)), ((3, 3, 3, 3), (1, 3, 1, 1)))
"""Files, and the standard deviation of each arm: one varies three times as much as the others."""
CHUNK = 100
"""Tables that are simulated at once: bounds the memory."""


@dataclass(frozen=True)
class Drawn:
    """Simulated tables: (runs, arms) mean, S^2 and E of each arm; (runs, rows) B of each arm against the first; and the same as pairs."""

    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    residual: np.ndarray
    images: np.ndarray
    pairs: Tables


def tables(runs: int, files: Sequence[int], share: float, scale: Sequence[float], samples: int = REPLICATES) -> Drawn:
    """Draw tables; the pairs are those in the order of the files."""
    rng = np.random.default_rng(zlib.crc32(repr((files, share, scale)).encode()))
    weights = bootstrap_weights(IMAGES, samples).T.astype(np.float32)
    of_training, of_image = np.sqrt(PAIR_SD**2 / 2 * (1 - share)), np.sqrt(PAIR_SD**2 / 4 * share * IMAGES)
    found, pairs = [], []
    for start in range(0, runs, CHUNK):
        n = min(CHUNK, runs - start)
        arms = []
        for size, sd in zip(files, scale, strict=True):
            level = np.float32(sd * of_training) * rng.standard_normal((n, size), np.float32)
            noise = rng.standard_normal((n, 1, IMAGES), np.float32) + rng.standard_normal((n, size, IMAGES), np.float32)
            per_image = np.float32(sd * of_image) * noise
            arms.append((level + per_image.mean(-1), level[..., None] + per_image @ weights))
        first, sampled = arms[0]
        own = [(value.mean(-1), value.var(-1, ddof=1), image_variances(each)[1]) for value, each in arms]
        images = np.stack([image_variances((each.mean(1) - sampled.mean(1))[:, None])[0] for _, each in arms[1:]], -1)
        found.append((*(np.stack(column, -1) for column in zip(*own, strict=True)), images))
        rows = []
        for value, each in arms[1:]:
            k = min(value.shape[1], first.shape[1])
            difference = (value[:, :k] - first[:, :k]).astype(float)
            known = image_variances(each[:, :k] - sampled[:, :k])
            rows.append((difference.mean(-1), np.full(n, float(k)), difference.var(-1, ddof=1), *known))
        pairs.append([np.stack(column, -1) for column in zip(*rows, strict=True)])
    mean, variance, residual, images = (np.concatenate(column) for column in zip(*found, strict=True))
    count = np.broadcast_to(np.array(files, float), mean.shape)
    return Drawn(count, mean, variance, residual, images, Tables(*(np.concatenate(column) for column in zip(*pairs, strict=True))))


def noise_of(drawn: Drawn) -> tuple[np.ndarray, Noise]:
    """Return (runs, rows) pairs and noise of each arm against the first, as ``report.unpaired`` has them."""
    rows = [between(*(each[:, [at, 0]] for each in (drawn.count, drawn.variance, drawn.residual))) for at in range(1, drawn.count.shape[1])]
    return np.stack([each for each, _ in rows], -1), Noise(
        *(np.stack(parts, -1) for parts in zip(*(noise for _, noise in rows), strict=True))
    )


def judged(mean: np.ndarray, pairs: np.ndarray, images: np.ndarray, noise: Noise) -> dict[str, float]:
    """Coverage and family-wise error with Holm's correction in percent, and mean half width in AP."""
    half = half_width(1 - LEVEL, pairs, images, noise)
    wrong = [min(holm(dict(enumerate(row))).values()) < 1 - LEVEL for row in p_values(mean, pairs, images, noise)]
    return {
        "coverage": 100 * float((np.abs(mean) <= half).mean()),
        "fwer": 100 * float(np.mean(wrong)),
        "half_width": float(half.mean()),
    }


def cell(runs: int, files: Sequence[int], share: float, scale: Sequence[float] = (), samples: int = REPLICATES) -> dict[str, Any]:
    """One cell."""
    scale = scale or (1,) * len(files)
    drawn = tables(runs, files, share, scale, samples)
    pairs, noise = noise_of(drawn)
    groups = judged(drawn.mean[:, 1:] - drawn.mean[:, :1], pairs, drawn.images, noise)
    by_pairs = judged(drawn.pairs.mean, drawn.pairs.seeds, drawn.pairs.image_variance, paired_noise(drawn.pairs))
    about = {"files": list(files), "sd": list(scale), "image_share": share, "runs": runs}
    return about | groups | {f"pairs_{key}": value for key, value in by_pairs.items()}


def line(found: dict[str, Any]) -> str:
    """A cell as a line of a Markdown table."""
    files, sd = (", ".join(f"{each:g}" for each in found[key]) for key in ("files", "sd"))
    numbers = [f"{found[key + 'coverage']:.1f}% | {found[key + 'fwer']:.1f}% | {found[key + 'half_width']:.2f}" for key in ("", "pairs_")]
    return f"| {files} | {sd} | {100 * found['image_share']:.0f}% | {' | '.join(numbers)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000, help="simulated tables for each cell")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    cells = []
    for files, scale in (*((each, ()) for each in ALIKE), *UNLIKE):
        for share in SHARES:
            cells.append(cell(asked.runs, files, share, scale))
            if not asked.json:
                print(line(cells[-1]), flush=True)
    if asked.json:
        print(json.dumps({"cells": cells}, indent=1))
        return
    command = f"uv run python benchmarks/unpaired_coverage.py --runs {asked.runs}{' --write' if asked.write else ''}"
    report = [
        *header("Intervals of arms whose trainings do not pair", command, ("numpy", "scipy")),
        f"- {IMAGES} images, {REPLICATES:,} bootstrap samples, {asked.runs:,} tables a cell; two trainings differ with a standard deviation of "
        f"{PAIR_SD} AP where all arms vary alike; all true differences are 0",
        "- sd: of each arm, relative; the first arm is the baseline",
        "",
        "| files | sd | image share | coverage | family-wise error | half width | pairs: coverage | family-wise error | half width |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: |",
        *map(line, cells),
    ]
    publish("unpaired_coverage", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
