"""How far the estimates of `gfl-lab plan` are from what finished desk trials took: from history, each left out in turn, and from warm-ups.

    uv run python benchmarks/plan_error.py --home RUNS                  from history alone: seconds
    uv run python benchmarks/plan_error.py --home RUNS --measure        also warms up each distinct model, as plan --measure does
    ... --write                                                         also writes benchmarks/results/

RUNS is only read; warm-ups are kept in a temporary folder. Trials that were interrupted are left out, since their result tells
the seconds of the last attempt alone. What a trial took depends on what else the machine did then: compare trials of a machine
that was left to them, and measure on the same machine, idle.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import header
from gfl_lab import naming
from gfl_lab.orchestrate import resources
from gfl_lab.orchestrate.cost import Timings
from gfl_lab.orchestrate.expected import HISTORY, WARM_UP
from gfl_lab.orchestrate.measure import distinct, measure
from gfl_lab.plan.plan import Trial
from gfl_lab.records.files import read_json
from gfl_lab.rundir import RunTree
from gfl_lab.session.entries import WARM_UP_ENTRY
from gfl_lab.spec.trial import TrialSpec
from tests.support.raw import raw_manifest, raw_result

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Case:
    """A finished trial: what it took, and what each kind of estimate says, in seconds."""

    experiment: str
    variant: str
    trial: Trial
    true: float
    paths: dict[str, str]
    estimates: dict[str, float] = field(default_factory=dict)

    def error(self, source: str) -> float:
        """Percent that the estimate is too high."""
        return 100 * (self.estimates[source] / self.true - 1)


def finished(tree: RunTree, profile: str) -> tuple[list[Case], int]:
    """Every finished trial of a profile's experiments once, and how many were left out as interrupted."""
    cases: dict[str, Case] = {}
    resumed = 0
    for name, own in tree.experiments():
        if own != profile:
            continue
        for variant in read_json(tree.experiment(name, own) / naming.PLAN)["variants"]:
            for entry in variant["trials"]:
                folder = tree.trial(entry["id"])
                if folder.state() != "done" or entry["id"] in cases:
                    continue
                if "continues after step" in folder.file(naming.LOG).read_text(errors="replace"):
                    resumed += 1
                    continue
                manifest, result = raw_manifest(folder), raw_result(folder)
                spec = TrialSpec.model_validate(manifest["spec"])
                trial = Trial(entry["id"], spec)
                cases[entry["id"]] = Case(name, variant["name"], trial, result["seconds"]["total"], manifest["paths"])
    return list(cases.values()), resumed


def estimate(cases: Sequence[Case], tree: RunTree, source: str, cpus: int) -> None:
    """Fill in the estimates that rest on ``source``; of history each case sees all the others."""
    timings = Timings(tree)
    for case in cases:
        spec = case.trial.spec.model_dump(mode="json")
        found = timings.estimate(spec["settings"], spec["data"], cpus=cpus, device="cpu", without=case.trial.id, sources=(source,))
        if found.seconds is not None:
            case.estimates[source] = found.seconds


def warm_up(cases: Sequence[Case], home: RunTree, cpus: int) -> None:
    """Measure each distinct model, as many at once as trials run at once."""
    machine = resources.look()
    taken = resources.TrialResources(cpus, 0, machine.cpus // cpus)
    by_data: dict[str, list[Case]] = {}
    for case in cases:
        by_data.setdefault(case.trial.spec.data.digest, []).append(case)
    for own in by_data.values():
        trials = [case.trial for case in own]
        print(f"warming up {len(distinct(trials))} models", file=sys.stderr)
        say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
        problems = measure(trials, home, own[0].paths, (), taken, machine, WARM_UP_ENTRY, 0, say)
        if problems:
            sys.exit("\n".join(problems))


def summary(cases: Sequence[Case], source: str) -> str:
    """Median and largest absolute error of single trials, and that of their sum."""
    own = [case for case in cases if source in case.estimates]
    if not own:
        return "–"
    errors = [abs(case.error(source)) for case in own]
    total = 100 * (sum(case.estimates[source] for case in own) / sum(case.true for case in own) - 1)
    return f"{statistics.median(errors):.0f}% (largest {max(errors):.0f}%); of the sum {total:+.0f}%"


def report(cases: Sequence[Case], sources: Sequence[str]) -> list[str]:
    """The table: a row for each variant, then all together."""
    names = {HISTORY: "from history, left out", WARM_UP: "from a warm-up"}
    lines = [
        f"| experiment | variant | trials | took, s | {' | '.join(f'{names[source]}: median error (largest); of the sum' for source in sources)} |",
        f"| :-- | :-- | --: | --: | {' | '.join('--:' for _ in sources)} |",
    ]
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.experiment, case.variant), []).append(case)
    for (experiment, variant), own in groups.items():
        took = [case.true for case in own]
        spread = f"{statistics.mean(took):.0f} ({min(took):.0f} to {max(took):.0f})"
        lines.append(f"| {experiment} | {variant} | {len(own)} | {spread} | {' | '.join(summary(own, source) for source in sources)} |")
    took = [case.true for case in cases]
    spread = f"{statistics.mean(took):.0f} ({min(took):.0f} to {max(took):.0f})"
    lines.append(f"| **all** | | {len(cases)} | {spread} | {' | '.join(summary(cases, source) for source in sources)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--profile", default="desk")
    parser.add_argument("--cpus", type=int, default=1, help="cores that each trial had")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    tree = RunTree(asked.home.resolve())
    cases, resumed = finished(tree, asked.profile)
    if not cases:
        sys.exit(f"no finished trial of profile {asked.profile} under {tree.root}")
    sources = [HISTORY]
    estimate(cases, tree, HISTORY, asked.cpus)
    if asked.measure:
        sources.append(WARM_UP)
        with tempfile.TemporaryDirectory() as folder:
            measured = RunTree(Path(folder))
            load = os.getloadavg()[0]
            warm_up(cases, measured, asked.cpus)
            estimate(cases, measured, WARM_UP, asked.cpus)
    today = datetime.date.today().isoformat()
    lines = [
        *header(
            f"Error of the estimates of `gfl-lab plan` on {asked.profile}",
            f"uv run python benchmarks/plan_error.py --home RUNS{' --measure' if asked.measure else ''} --write",
        ),
        f"- trials: {len(cases)} finished ones; {resumed} interrupted ones are left out",
    ]
    if asked.measure:
        lines.append(f"- load of the machine before the warm-ups: {load:.1f}; as many warm-ups ran at once as trials do")
    lines += ["- error: of the seconds of a trial, as `plan` shows them, against those in its result", "", *report(cases, sources), ""]
    print("\n".join(lines))
    if asked.write:
        (ROOT / "benchmarks" / "results" / f"plan_error_{today}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
