"""How often looks that are fixed beforehand give a wrong verdict, and how many trials they save.

    uv run python benchmarks/until_resolved.py                    10,000 tables a cell; --write also writes benchmarks/results/
    uv run python benchmarks/until_resolved.py --tables 500       fewer

The world is that of ``trials`` in benchmarks/interval_coverage.py: 200 images, and one pair's difference has a standard deviation of
0.5 AP. The image share is the part of that variance which images make. The rule is the product's (``gfl_lab.report.looks``), over arrays
(``gfl_lab.report.looks_simulated``); tests/test_looks.py compares the two.

1. Errors: tables of rows that do not differ from the baseline at all (a verdict of better or worse is wrong; nothing else stops a row), and tables of rows that all
   differ by the smallest effect that matters (a verdict of equivalent is wrong), for looks up to 2, 3, 5, 8 and 10 seeds.
2. Trials: the tables that the project ships with published numbers, each with the differences of its rows to its baseline as its source
   has them, against five fixed seeds. Power is the share of the rows which differ by the smallest effect that matters or more that
   are called better or worse, and rightly so; resolved are all rows with a verdict.
3. Reading a table of fixed seeds again and again without any correction, for comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.machine import header, publish
from gfl_lab.plan.plan import draft_plan
from gfl_lab.plan.published import matching_row
from gfl_lab.report.looks import LOOKS, looks_up_to
from gfl_lab.report.looks_simulated import BETTER, EQUIVALENT, NO_VERDICT, WORSE, Drawn, draw, play
from gfl_lab.spec.files import find_profile, load_experiment, load_profile, load_published

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.0)
MOST = (2, 3, 5, 8, 10)
ROWS = (1, 5)
PAIR_SD = 0.5
WORLDS = ((0.15, 0.3), (0.25, 0.5), (0.25, 0.3))
"""(standard deviation of a pair, smallest effect that matters) of the published tables, AP. The authors of GFL put the noise of a trial
near 0.1 AP, which makes 0.14 a pair."""
FIXED = 5


def errors(tables: int) -> Iterator[str]:
    """Lines of the table of errors."""
    for rows in ROWS:
        for share in SHARES:
            drawn = draw(np.random.default_rng(0), tables, rows, range(2, MOST[-1] + 1), pair_sd=PAIR_SD, image_share=share)
            for most in MOST:
                looks = looks_up_to(most)
                at = Drawn(*(part[..., [seeds - 2 for seeds in looks]] for part in vars(drawn).values()))
                null, edge = play(at, looks, 0.0, 0.0), play(at, looks, 2 * PAIR_SD, 2 * PAIR_SD)
                wrong = np.isin(null.verdict, (BETTER, WORSE)).any(-1).mean()
                alike = (edge.verdict == EQUIVALENT).any(-1).mean()
                yield f"| {rows} | {share:.0%} | {', '.join(map(str, looks))} | {tables:,} | {100 * wrong:.2f}% | {100 * alike:.2f}% |"


def uncorrected(tables: int) -> Iterator[str]:
    """Lines on tables that are read at each look as if it were the only one."""
    for rows in ROWS:
        for share in (0.5, 0.1, 0.0):
            drawn = draw(np.random.default_rng(0), tables, rows, LOOKS, pair_sd=PAIR_SD, image_share=share)
            wrong = np.zeros(tables, bool)
            found = []
            for index in range(len(LOOKS)):
                one = Drawn(*(part[..., index : index + 1] for part in vars(drawn).values()))
                wrong |= np.isin(play(one, (LOOKS[index],), 0.0, 0.0, fixed=True).verdict, (BETTER, WORSE)).any(-1)
                found.append(f"{100 * wrong.mean():.1f}%")
            yield f"| {rows} | {share:.0%} | {' | '.join(found)} |"


def published() -> dict[str, list[float]]:
    """AP of each row minus that of its baseline, by experiment, of those that ship with published numbers."""
    found = {}
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        experiment, _ = load_experiment(path)
        if not experiment.published_table:
            continue
        table = load_published(experiment.published_table, [EXPERIMENTS / "published"])
        profile = load_profile(find_profile(experiment.profile, [EXPERIMENTS / "profiles"]))
        rows = [(variant.baseline, matching_row(variant.resolved, table)) for variant in draft_plan(experiment, profile).variants]
        known = [(baseline, row.metrics.get("AP")) for baseline, row in rows if row]
        base = next((ap for baseline, ap in known if baseline and ap is not None), None)
        differences = [round(ap - base, 2) for baseline, ap in known if not baseline and ap is not None] if base is not None else []
        if differences:
            found[experiment.name] = differences
    return found


def savings(tables: int, given: dict[str, list[float]]) -> Iterator[str]:
    """Lines of the table of trials."""
    for pair_sd, min_effect in WORLDS:
        for share in (0.5, 0.1):
            looks = tuple(sorted({*LOOKS, FIXED}))
            ours, theirs = np.zeros(4), np.zeros(4)
            for number, differences in enumerate(given.values()):
                drawn = draw(np.random.default_rng(number), tables, len(differences), looks, pair_sd=pair_sd, image_share=share)
                at, single = (
                    Drawn(*(part[..., [looks.index(seeds) for seeds in chosen]] for part in vars(drawn).values()))
                    for chosen in (LOOKS, (FIXED,))
                )
                truth = np.broadcast_to(np.array(differences), drawn.mean.shape[:2])
                for total, played in (
                    (ours, play(at, LOOKS, truth, min_effect)),
                    (theirs, play(single, (FIXED,), truth, min_effect, fixed=True)),
                ):
                    large = np.abs(truth) >= min_effect
                    right = played.verdict == np.where(truth > 0, BETTER, WORSE)
                    wrong = np.isin(played.verdict, (BETTER, WORSE)) & ~right & (truth != 0) | (large & (played.verdict == EQUIVALENT))
                    wrong |= np.isin(played.verdict, (BETTER, WORSE)) & (truth == 0)
                    total += [played.trials.mean(), (right & large).mean(0).sum(), (played.verdict != NO_VERDICT).mean(0).sum(), wrong.any(-1).mean()]  # fmt: skip
            large_rows = sum(abs(each) >= min_effect for differences in given.values() for each in differences)
            rows = sum(map(len, given.values()))
            texts = [
                f"{total[0]:,.0f} | {100 * total[1] / large_rows:.1f}% | {100 * total[2] / rows:.1f}% | {100 * total[3] / len(given):.2f}%"
                for total in (ours, theirs)
            ]
            yield f"| {pair_sd:g} | {min_effect:g} | {share:.0%} | {texts[0]} | {texts[1]} | {100 - 100 * ours[0] / theirs[0]:.0f}% |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", type=int, default=10_000, help="simulated tables for each cell")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    given = published()
    rows = sum(map(len, given.values()))
    per_table = max(50, asked.tables // 20)
    report = [
        *header("Looks that are fixed beforehand: errors and trials", f"uv run python benchmarks/until_resolved.py --tables {asked.tables}{' --write' if asked.write else ''}", ("numpy", "scipy")),
        f"- looks by default {', '.join(map(str, LOOKS))}; 200 images; a bootstrap over images is taken at its limit of endlessly many samples",
        "",
        "## Errors of a whole table",
        "",
        f"A pair's standard deviation is {PAIR_SD} AP. Wrong: better or worse, when no row differs and none may stop before the last look. Wrongly equivalent: within ±{2 * PAIR_SD:g} AP, when all rows differ by as much.",
        "",
        "| rows | image share | looks | tables | wrong | wrongly equivalent |",
        "| --: | --: | :-- | --: | --: | --: |",
    ]  # fmt: skip

    def add(lines: Iterator[str]) -> None:
        for line in lines:
            print(line, flush=True)
            report.append(line)

    add(errors(asked.tables))
    report += [
        "", "## Trials", "",
        f"{len(given)} published tables with {rows} rows beside their baselines, {per_table} times each; AP of their sources taken for the truth. "
        f"Trials are of all tables together: looks against {FIXED} fixed seeds. Wrong are tables with a wrong verdict.", "",
        "| pair sd | smallest effect | image share | trials | power | resolved | wrong | fixed: trials | power | resolved | wrong | fewer trials |",
        "| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]  # fmt: skip
    add(savings(per_table, given))
    report += [
        "", "## Tables that are read at each look without a correction", "",
        "Wrong so far, when no row differs, by the number of seeds at which the table was read, after all readings before.", "",
        f"| rows | image share | {' | '.join(map(str, LOOKS))} |", "| --: | --: | --: | --: | --: | --: | --: |",
    ]  # fmt: skip
    add(uncorrected(asked.tables))
    publish("until_resolved", "\n".join(report) + "\n", asked.write)


if __name__ == "__main__":
    main()
