"""How often the page Curves states a trend in flat curves of one seed, and finds a true one.

    uv run python benchmarks/trend_errors.py --write

A curve is noise with a standard deviation of 1 AP, an autoregression of order 1; ``slope`` is its true slope in AP an epoch.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.machine import header, publish
from gfl_lab.report.curve_answer import FALLS, LEVEL_WITHIN_NOISE, RISES, trends
from gfl_lab.report.curves import Curve, Line

EPOCHS = (12, 16, 24, 36, 100)
CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.9)


def stated(epochs: int, correlation: float, variants: int, tables: int, slope: float = 0.0) -> float:
    """Return the percentage of curves, in so many ``tables`` of ``variants``, that get a trend: any in flat curves, else the true one."""
    rng = np.random.default_rng([epochs, round(100 * correlation), variants])
    shocks = rng.standard_normal((tables, variants, epochs))
    noise = shocks.copy()
    for epoch in range(1, epochs):
        noise[..., epoch] = correlation * noise[..., epoch - 1] + np.sqrt(1 - correlation**2) * shocks[..., epoch]
    x = np.arange(1.0, epochs + 1)
    wanted = {RISES} if slope else {RISES, FALLS}
    count = 0
    for table in 50 + noise + slope * x:
        curves = [Curve(str(n), (Line(0, str(n), x, y),), x, y, y, y) for n, y in enumerate(table)]
        found = [trend.direction for trend in trends(curves)]
        assert set(found) <= {RISES, FALLS, LEVEL_WITHIN_NOISE}
        count += sum(each in wanted for each in found)
    return 100 * count / (tables * variants)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--curves", type=int, default=4000, help="simulated curves for each number")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    lines = []
    for epochs in EPOCHS:
        for variants in (1, 4):
            numbers = [stated(epochs, each, variants, asked.curves // variants) for each in CORRELATIONS]
            power = stated(epochs, 0.3, variants, asked.curves // variants, 1.0)
            lines.append(f"| {epochs} | {variants} | " + " | ".join(f"{each:.1f}" for each in (*numbers, power)) + " |")
            print(lines[-1], flush=True)
    command = f"uv run python benchmarks/trend_errors.py --curves {asked.curves}{' --write' if asked.write else ''}"
    report = [
        *header("Trends stated in flat curves of one seed", command, ("numpy", "scipy")),
        f"- % of {asked.curves:,} curves with a stated trend, by the correlation of consecutive epochs; the noise has a standard deviation of "
        "1 AP",
        "- last column: curves that rise by 1 AP an epoch, correlation 0.3, and are said to rise",
        "",
        "| epochs | variants | " + " | ".join(f"{each:g}" for each in CORRELATIONS) + " | rising |",
        "| --: | --: |" + " --: |" * (len(CORRELATIONS) + 1),
        *lines,
    ]
    publish("trend_errors", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
