"""Running an experiment until each row has a verdict: one session for each look, with more seeds for the rows that need them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from gfl_lab.errors import ExitCode, InputError, Problem
from gfl_lab.orchestrate.expected import Cost, cost_of
from gfl_lab.orchestrate.resources import TrialResources
from gfl_lab.records.plan import Design
from gfl_lab.report.comparison import look_at
from gfl_lab.report.looks import DECIDED, OUT_OF_REACH, SILENT, LookedAt, looks_up_to, seeds_wanted
from gfl_lab.report.looks_simulated import EFFECTS, expected_trials
from gfl_lab.report.ranking import Ranking
from gfl_lab.report.table import Table
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.inputs import Files
from gfl_lab.session.outcome import Outcome
from gfl_lab.session.planning import PlanOptions, Prepared, prepare
from gfl_lab.session.reporting import Listener, Reporter
from gfl_lab.session.session import RunOptions, Session
from gfl_lab.spec.file_models import UntilResolved
from gfl_lab.spec.limits import LOOKS
from gfl_lab.wording import duration, joined


@dataclass(frozen=True)
class Resolve:
    """A person's wish that seeds are trained until each row has a verdict.

    Attributes:
        until: AP points: rows are decided to be better, worse, or equivalent within this. None: as the experiment's file says, if it does.
        max_seeds: of a variant; None for 8, or what the file says.
    """

    until: float | None = None
    max_seeds: int | None = None


def run_experiment(
    files: Files, tree: RunTree, reporter: Reporter, plan: PlanOptions, options: RunOptions, resolve: Resolve | None = None
) -> Outcome:
    """Run an experiment in one session, or look by look if it fixes looks. Returns and raises as ``Session.run``."""
    design = design_of(files, plan, resolve or Resolve())
    if design is None:
        return Session(files, tree, reporter, plan, options).run()
    held = HeldTable(reporter)
    try:
        return _look_by_look(design, files, tree, held, plan, options)
    finally:
        held.release()


def _look_by_look(design: Design, files: Files, tree: RunTree, reporter: Reporter, plan: PlanOptions, options: RunOptions) -> Outcome:
    """Run a session for each look until every row has stopped, or no session brings a row further; return how the last one ended."""
    counts: dict[str, int] = {}
    spent = Cost(0.0, 0.0, 0.0)
    while True:
        session = Session(files, tree, reporter, replace(plan, design=design, counts=counts), options, spent)
        outcome = session.run()
        spent = session.spent
        if outcome.stopped or outcome.code not in (ExitCode.DONE, ExitCode.UNFAIR, ExitCode.TRIALS_FAILED):
            return outcome
        store = Store(tree)
        row = store.experiment(files.experiment.name, files.profile.name)
        rows = look_at(row, store.resampled_or_none)
        for line in look_lines(design, rows, _failed(row)):
            reporter.say(line)
        wanted = counts_of(row, design, rows)
        if wanted == counts or all(count <= _trained(row, name) for name, count in wanted.items()):
            return outcome
        counts = wanted


def design_of(files: Files, plan: PlanOptions, resolve: Resolve) -> Design | None:
    """Return the looks that are asked for, or those of the experiment's file; None if there are none.

    Raises:
        InputError: they do not fit the experiment, or the other options.
    """
    given = files.experiment.seeds
    if resolve.until is None and resolve.max_seeds is not None and not isinstance(given, UntilResolved):
        raise InputError(Problem("--max-seeds is for --until-resolved", hint="Give both, or the seeds themselves: --seeds 0..7."))
    if resolve.until is None and (plan.seeds is not None or not isinstance(given, UntilResolved)):
        return None
    if plan.seeds is not None:
        raise InputError(
            Problem("--until-resolved decides the seeds, and --seeds gives them", hint="Give one of the two; --max-seeds N is the limit.")
        )
    if files.experiment.kind == "search":
        raise InputError(
            Problem("a search has one seed: --until-resolved is for ablations", hint="`gfl-lab confirm` makes one of a search.")
        )
    if files.experiment.baseline is None:
        place = files.source.place()
        raise InputError(Problem("no variant is the baseline, so there is no difference to resolve", place, "Name one: `baseline: NAME`."))
    until, looks = (given.until_resolved, tuple(given.looks)) if isinstance(given, UntilResolved) else (0.0, LOOKS)
    if resolve.max_seeds is not None:
        looks = looks_up_to(resolve.max_seeds)
    return Design(resolve.until or until, looks)


def counts_of(row: ExperimentRow, design: Design, rows: Mapping[str, LookedAt]) -> dict[str, int]:
    """Return how many seeds each variant needs now; the baseline as many as the row with the most.

    A variant with a failed trial keeps what it has: its other seeds would bring it to no look. The next command tries it again.
    """
    wanted = seeds_wanted(design.looks, rows)
    failed = _failed(row)
    most = max((count for name, count in wanted.items() if name not in failed), default=design.looks[0])
    wanted = {variant.name: wanted.get(variant.name, most) for variant in row.variants}
    return {name: max(1, _trained(row, name)) if name in failed else count for name, count in wanted.items()}


def _failed(row: ExperimentRow) -> set[str]:
    return {variant.name for variant in row.variants if variant.failed}


def _trained(row: ExperimentRow, name: str) -> int:
    """Return how many of its first seeds a variant has finished."""
    done = {trial.seed for variant in row.variants if variant.name == name for trial in variant.done}
    return len(Design.first(done, len(done)))


def look_lines(design: Design, rows: Mapping[str, LookedAt], failed: Collection[str] = ()) -> list[str]:
    """Return what a look has shown: which rows stop, which go on, and which wait since one of their trials has ``failed``."""
    seeds = max((row.seeds for row in rows.values()), default=0)
    lines = []
    words_of = {
        DECIDED: "decided",
        OUT_OF_REACH: f"out of reach of {design.looks[-1]} seeds",
        SILENT: f"no signal, AP below {design.min_effect:g} in every trial",
    }
    for why, words in words_of.items():
        if names := [name for name, row in rows.items() if row.stopped == why and row.seeds == seeds]:
            lines.append(f"look at {seeds} seeds: {words}: {joined(names)}")
    waiting = [name for name, row in rows.items() if not row.stopped and name in failed]
    lines += [f"{joined(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for a trial that failed"] if waiting else []
    going = [name for name, row in rows.items() if not row.stopped and name not in failed]
    if not going and waiting:
        return lines
    if not going:
        return [*lines, f"all {len(rows)} rows have stopped" if len(rows) > 1 else "the row has stopped"]
    if all(rows[name].seeds == design.looks[-1] for name in going):
        return [*lines, f"the last look leaves undecided: {joined(going)}"]
    after = min(seeds_wanted(design.looks, {name: rows[name] for name in going}).values())
    return [*lines, f"look at {seeds} seeds: {joined(going)} {'goes' if len(going) == 1 else 'go'} on, with {after} seeds"]


class HeldTable:
    """A reporter that keeps the table of each look back, so that a person is shown the last one."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._table: Table | None = None

    def say(self, text: str) -> None:
        """Pass a line on."""
        self._reporter.say(text)

    def table(self, table: Table) -> None:
        """Keep the table."""
        self._table = table

    def ranking(self, ranking: Ranking) -> None:
        """Pass a ranked table on."""
        self._reporter.ranking(ranking)

    def progress(self) -> AbstractContextManager[Listener]:
        """Return the context in which trials run."""
        return self._reporter.progress()

    def release(self) -> None:
        """Pass the last table on."""
        if self._table is not None:
            self._reporter.table(self._table)


@dataclass(frozen=True)
class Prospect:
    """How many trials an experiment will take until each row has a verdict, those that have finished too.

    Attributes:
        least: of the first look. most: of the last one. expected: on average, for the effects in ``basis``.
        basis: what ``expected`` takes for granted, as a sentence goes on.
    """

    design: Design
    least: int
    most: int
    expected: float
    basis: str

    def to_json(self) -> dict[str, Any]:
        """Return the part of ``gfl-lab plan --json``."""
        numbers = {"least_trials": self.least, "expected_trials": round(self.expected, 1), "most_trials": self.most}
        return self.design.to_json() | numbers | {"rests_on": self.basis}

    def lines(self, trial_s: float | None, resources: TrialResources) -> list[str]:
        """Return what ``gfl-lab plan`` says of it.

        Args:
            trial_s: estimated time of one trial, in s; None if it is not known.
        """

        def takes(trials: float) -> str:
            cost = None if trial_s is None else cost_of([trial_s] * round(trials), resources)
            return "" if cost is None else f" ({duration(cost.wall_s)})"

        looks = joined([str(seeds) for seeds in self.design.looks])
        return [
            f"until each row is better, worse, or equivalent within {self.design.min_effect:g} AP, at looks of {looks} seeds: "
            f"{self.least} trials{takes(self.least)} at least, {self.most}{takes(self.most)} at most",
            f"expected: about {self.expected:.0f} trials{takes(self.expected)}, {self.basis}",
        ]


def plan_next_look(
    files: Files, tree: RunTree, plan: PlanOptions, resolve: Resolve, say: Callable[[str], None]
) -> tuple[Prepared, Prospect | None]:
    """Make the plan of the next look, and the prospect of all looks; without looks, make the plan of the experiment.

    Raises:
        SpecError, DataError, InputError: as ``prepare`` and ``design_of``.
    """
    design = design_of(files, plan, resolve)
    prepared = prepare(files, tree, replace(plan, design=design), say)
    if design is None:
        return prepared, None
    spread = None
    store = Store(tree)
    if (files.experiment.name, files.profile.name) in tree.experiments():
        row = store.experiment(files.experiment.name, files.profile.name)
        if row.design is not None and row.data.digest == prepared.plan.data.digest:
            rows = look_at(row, store.resampled_or_none)
            known = [found.spread for each in rows.values() if (found := each.found.get("AP")) and found.spread]
            spread = math.sqrt(sum(known) / len(known)) if known else None
            prepared = prepare(files, tree, replace(plan, design=design, counts=counts_of(row, design, rows)), lambda _: None)
    return prepared, _prospect(design, len(prepared.plan.variants), spread)


def _prospect(design: Design, variants: int, spread: float | None) -> Prospect:
    """Return the prospect of an experiment.

    Args:
        spread: standard deviation of a pair's difference, AP, from its finished trials; None if there is none yet.
    """
    expected = expected_trials(design.looks, variants - 1, design.min_effect, design.min_effect if spread is None else spread)
    known = "an assumption" if spread is None else "as in the finished trials"
    noise = f"for a difference that varies by {design.min_effect if spread is None else spread:.2g} AP from seed to seed ({known}),"
    effects = joined([f"{each:g}" for each in EFFECTS])
    basis = f"{noise} with true differences of {effects} times {design.min_effect:g} AP equally likely"
    return Prospect(design, design.looks[0] * variants, design.looks[-1] * variants, expected, basis)
