"""How often the intervals of a table hold a difference that is known, and how often a table's verdicts are wrong.

    uv run python benchmarks/interval_coverage.py                       2,000 tables a cell; --write also writes benchmarks/results/
    uv run python benchmarks/interval_coverage.py --runs 200 --json     fewer, and as JSON

Two kinds of worlds, and the statistics of ``gfl_lab.report`` in both:

- ``trials``: AP of a trial = effect of its seed + response of its variant to each image + noise of this trial on each image, all normal
  and halved between a variant and the baseline; 200 images, and one pair's difference has a standard deviation of 0.5 AP. The image
  share is the part of that variance which images make, half of it by response and half by noise. All true differences are 0;
  for equivalence, they are also taken as the smallest effect that matters: the least at which a row must not be called equivalent.
- ``detectors``: boxes and scores of detectors drawn from a model (tests/support/detectors.py) over 50 images, AP computed by COCO's rules;
  one row. With an effect, the true difference is measured over all runs. They take long, and are drawn where asked for.

``cells`` hold the worlds that the intervals are made for, with equal and unequal numbers of seeds. ``beside`` holds those that break what
they take for granted: one row that varies three times as much as the others, and pooled intervals for rows with one seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.machine import header, publish
from gfl_lab.metrics.coco_ap import REPLICATES, resample
from gfl_lab.report.noise import LEVEL, Noise, half_width, image_variances, p_values, p_within, pool
from gfl_lab.report.statistics import difference, holm
from tests.support.detectors import World

SEEDS = (2, 3, 5, 10)
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.0)
BESIDE_SHARES = (0.5, 0.1, 0.0)
ROWS = 5
PAIR_SD = 0.5
MIN_EFFECT = 1.0
"""AP, the smallest effect that matters: so large that some rows of three seeds are found equivalent. With a smaller one hardly any would
be, and none wrongly."""
IMAGES = 200
UNEQUAL = ((5, 3, 2, 2, 3), (2, 2, 2, 2, 5), (10, 2, 3, 2, 2), (3, 3, 1, 3, 1))
"""Seeds of each row in tables of unequal rows; a row with one seed has no interval of its own, and adds nothing to the others."""
CHUNK = 100
"""Tables that are simulated at once: bounds the memory."""
DETECTORS = {"images": World(), "seeds": World(seed_sd=0.4, response_sd=0.05)}
"""True if a difference is uncertain because of the choice of images, not because of the seeds."""
DETECTOR_SAMPLES = 60


@dataclasses.dataclass(frozen=True)
class Tables:
    """Simulated tables: (runs, rows) of each row's mean difference, seeds, S^2, B and E."""

    mean: np.ndarray
    seeds: np.ndarray
    seed_variance: np.ndarray
    image_variance: np.ndarray
    residual: np.ndarray

    def columns(self, rows: Sequence[int]) -> Tables:
        """Some of the rows."""
        return Tables(*(getattr(self, field.name)[:, list(rows)] for field in dataclasses.fields(self)))

    def alone(self) -> Tables:
        """Each row as a table of its own."""
        return Tables(*(getattr(self, field.name).reshape(-1, 1) for field in dataclasses.fields(self)))


def bootstrap_weights(images: int, samples: int) -> np.ndarray:
    """(samples, images) the share of each image in the samples that ``coco_ap.resample`` draws."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(samples)]) / images


def tables(
    runs: int,
    seeds: Sequence[int],
    share: float,
    scale: Sequence[float] = (),
    images: int = IMAGES,
    samples: int = REPLICATES,
    pairs: Sequence[tuple[int, int]] = (),
) -> Tables:
    """Draw tables of ``len(seeds)`` rows against one baseline, which has as many seeds as the row with the most.

    Args:
        seeds: of each row. share: of images in the variance of one pair.
        scale: standard deviation of each variant's part, relative to the baseline's; default 1.
        pairs: rows to compare with each other; each pair is one more row of the result.
    """
    most, rows = max(seeds), len(seeds)
    rng = np.random.default_rng(zlib.crc32(repr((seeds, share, scale)).encode()))
    scales = np.array([1.0, *(scale or [1.0] * rows)], np.float32)[None, :, None]
    weights = bootstrap_weights(images, samples).T.astype(np.float32)
    variance = PAIR_SD**2 / 2  # of a trial
    of_seed, of_image = np.float32(np.sqrt(variance * (1 - share))), np.float32(np.sqrt(variance * share / 2 * images))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    found: list[list[np.ndarray]] = []
    for start in range(0, runs, CHUNK):
        n = min(CHUNK, runs - start)
        level = of_seed * normal(n, rows + 1, most) * scales
        per_image = (
            of_image * (rng.normal(size=(n, rows + 1, 1, images)) + rng.normal(size=(n, rows + 1, most, images))) * scales[..., None]
        )
        value = level + per_image.mean(-1)
        sampled = level[..., None] + per_image @ weights  # (n, variants, seeds, samples)
        members = [(row, 0, k) for row, k in enumerate(seeds, start=1)]
        members += [(one + 1, other + 1, min(seeds[one], seeds[other])) for one, other in pairs]
        parts = []
        for row, other, k in members:
            each = (value[:, row] - value[:, other])[:, :k].astype(float)
            known = image_variances((sampled[:, row] - sampled[:, other])[:, :k])
            spread = each.var(-1, ddof=1) if k > 1 else np.full(n, np.nan)
            parts.append((each.mean(-1), np.full(n, float(k)), spread, *known))
        found.append([np.stack(column, axis=-1) for column in zip(*parts, strict=True)])
    return Tables(*(np.concatenate(column) for column in zip(*found, strict=True)))


def noise_of(drawn: Tables) -> Noise:
    """Return the rows' spread as ``report.statistics`` pools it."""
    return pool(drawn.seeds, drawn.seed_variance, drawn.residual)


def judged(drawn: Tables, shown: Sequence[int] | None = None) -> dict[str, float]:
    """Coverage, family-wise error with Holm's correction, and mean half width over the rows ``shown``, in percent and AP.

    The spread is pooled over all rows of ``drawn``, those that are not shown too.
    """
    shown = list(range(drawn.mean.shape[1])) if shown is None else list(shown)
    noise, drawn = Noise(*(part[:, shown] for part in noise_of(drawn))), drawn.columns(shown)
    half = half_width(1 - LEVEL, drawn.seeds, drawn.image_variance, noise)
    p = p_values(drawn.mean, drawn.seeds, drawn.image_variance, noise)
    wrong = [min(holm(dict(enumerate(row))).values()) < 1 - LEVEL for row in p]
    return {
        "coverage": 100 * float((np.abs(drawn.mean) <= half).mean()),
        "fwer": 100 * float(np.mean(wrong)),
        "half_width": float(half.mean()),
        **equivalence(drawn, noise),
    }


def equivalence(drawn: Tables, noise: Noise) -> dict[str, float]:
    """Percent of tables that call a row equivalent when all differ by ``MIN_EFFECT``, and of rows so called when none differs."""
    found = {}
    for name, truth, over in (("equivalent_wrongly", MIN_EFFECT, np.any), ("equivalent_rightly", 0.0, np.mean)):
        p = p_within(drawn.mean + truth, MIN_EFFECT, drawn.seeds, drawn.image_variance, noise)
        called = [[each < 1 - LEVEL for each in holm(dict(enumerate(row))).values()] for row in p]
        found[name] = 100 * float(np.mean(over(called, axis=1)))
    return found


def cell(world: str, seeds: int | Sequence[int], share: float, rows: int, runs: int, found: dict[str, float]) -> dict[str, Any]:
    """A cell as it is printed."""
    shown = seeds if isinstance(seeds, int) else list(seeds)
    rounded = {key: round(value, 3 if key == "half_width" else 2) for key, value in found.items()}
    return {"world": world, "seeds": shown, "image_share": share, "rows": rows, "runs": runs, **rounded}


def made_for(runs: int) -> Iterator[dict[str, Any]]:
    """The cells of the world ``trials``."""
    for share in SHARES:
        for seeds in SEEDS:
            pairs = list(combinations(range(ROWS), 2))
            drawn = tables(runs, (seeds,) * ROWS, share, pairs=pairs)
            rows = drawn.columns(range(ROWS))
            yield cell("trials", seeds, share, 1, runs, judged(rows.alone()))
            yield cell("trials", seeds, share, ROWS, runs, judged(rows))
            each = [judged(drawn.columns([*range(ROWS), ROWS + number]), [ROWS]) for number in range(len(pairs))]
            mean = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
            yield cell("trials, two variants of a table", seeds, share, 1, runs, mean)
        for several in UNEQUAL:
            drawn = tables(runs, several, share)
            yield cell("trials, unequal seeds", several, share, ROWS, runs, judged(drawn, [i for i, k in enumerate(several) if k > 1]))


def beside(runs: int) -> Iterator[dict[str, Any]]:
    """Worlds that the intervals are not made for."""
    wide = (np.sqrt(2 * 3.0**2 - 1), *[1.0] * (ROWS - 1))  # so that the first row's pairs vary three times as much
    for share in BESIDE_SHARES:
        for seeds in SEEDS[:-1]:
            drawn = tables(runs, (seeds,) * ROWS, share, wide)
            yield cell("one row of three times the spread: that row", seeds, share, ROWS, runs, judged(drawn, [0]))
            yield cell("one row of three times the spread: the others", seeds, share, ROWS, runs, judged(drawn, range(1, ROWS)))
            for name, scale in (("alike", ()), ("of three times the spread", wide)):
                drawn = tables(runs, (1, *[seeds] * (ROWS - 1)), share, scale)
                yield cell(f"a row with one seed, {name}, on the others' spread", seeds, share, ROWS, runs, judged(drawn, [0]))


def detectors(runs: int) -> Iterator[dict[str, Any]]:
    """The cells of the world ``detectors``."""
    for name, world in DETECTORS.items():
        for effect in (0.0, 0.3):
            for seeds in SEEDS[:-1]:
                rng = np.random.default_rng(seeds)
                found = []
                for _ in range(runs):
                    pairs = dataclasses.replace(world, effect=effect).pairs(rng, seeds)
                    samples = [(resample(ours, DETECTOR_SAMPLES)[:, 0], resample(theirs, DETECTOR_SAMPLES)[:, 0]) for ours, theirs in pairs]
                    found.append(difference([(ours.ap(), theirs.ap()) for ours, theirs in pairs], samples, world.images))
                truth = 0.0 if effect == 0 else float(np.mean([each.mean for each in found]))
                covered = float(np.mean([each.low <= truth <= each.high for each in found]))
                numbers = {
                    "coverage": 100 * covered,
                    "fwer": 100 * (1 - covered),
                    "half_width": float(np.mean([each.half for each in found])),
                }
                yield cell(f"detectors, {name}{', an effect' if effect else ''}", seeds, float("nan"), 1, runs, numbers)


def line(found: dict[str, Any]) -> str:
    """A cell as a line of a Markdown table."""
    share = "–" if np.isnan(found["image_share"]) else f"{100 * found['image_share']:.0f}%"
    seeds = found["seeds"] if isinstance(found["seeds"], int) else ", ".join(map(str, found["seeds"]))
    return (
        f"| {found['world']} | {seeds} | {share} | {found['rows']} | {found['runs']} | {found['coverage']:.1f}% | {found['fwer']:.1f}% | "
        f"{found['half_width']:.2f} | {_percent(found, 'equivalent_wrongly')} | {_percent(found, 'equivalent_rightly')} |"
    )


def _percent(found: dict[str, Any], key: str) -> str:
    return f"{found[key]:.1f}%" if key in found else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000, help="simulated tables for each cell")
    parser.add_argument(
        "--detectors", metavar="N", type=int, default=0, help="also N experiments for each cell of the detectors' world, some 0.3 s each"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    head = ["| world | seeds | image share | rows | tables | coverage | family-wise error | half width | equivalent, wrongly | rightly |", "| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"]  # fmt: skip
    cells, others = [], []
    for kept, makers in (
        (cells, (made_for(asked.runs), *([detectors(asked.detectors)] if asked.detectors else []))),
        (others, (beside(asked.runs),)),
    ):
        for found in (each for maker in makers for each in maker):
            kept.append(found)
            if not asked.json:
                print(line(found), flush=True)
    if asked.json:
        known = [
            [{key: None if isinstance(value, float) and np.isnan(value) else value for key, value in found.items()} for found in each]
            for each in (cells, others)
        ]
        print(json.dumps({"cells": known[0], "beside": known[1]}, indent=1))
        return
    report = [
        *header("How often a table's intervals and verdicts are right", f"uv run python benchmarks/interval_coverage.py --runs {asked.runs}{f' --detectors {asked.detectors}' if asked.detectors else ''}{' --write' if asked.write else ''}", ("numpy", "scipy")),
        f"- `trials`: {IMAGES} images, {REPLICATES:,} bootstrap samples, one pair's standard deviation {PAIR_SD} AP; `detectors`: 50 images, "
        f"{DETECTOR_SAMPLES} bootstrap samples",
        f"- equivalent within ±{MIN_EFFECT:g} AP: wrongly, tables that say so of some row when all differ by as much; rightly, rows when none differs",
        "",
        "## What the intervals are made for",
        "",
        *head,
        *map(line, cells),
        "",
        "## Beside it",
        "",
        *head,
        *map(line, others),
    ]  # fmt: skip
    publish("interval_coverage", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
