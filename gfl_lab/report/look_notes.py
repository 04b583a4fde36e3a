"""The notes below a table on its looks: when each row stopped, and what was added after verdicts could be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfl_lab.report.claim_sentences import preliminary
from gfl_lab.report.comparison import BETTER, EQUIVALENT, WORSE, Comparison
from gfl_lab.report.looks import DECIDED, HOPE, OUT_OF_REACH, SILENT
from gfl_lab.report.statistics import NO_LOOK
from gfl_lab.results.rows import Design, ExperimentRow, Extension
from gfl_lab.wording import joined, plural


def look_notes(experiment: ExperimentRow, comparisons: Sequence[Comparison]) -> list[str]:
    """Return the notes; ``comparisons`` are those in AP."""
    notes = [] if experiment.design is None else _about_looks(experiment, experiment.design, comparisons)
    return [*notes, *(_extension(each, planned=experiment.design is None and not experiment.is_imported) for each in experiment.extensions)]


def _about_looks(experiment: ExperimentRow, design: Design, comparisons: Sequence[Comparison]) -> list[str]:
    most = design.looks[-1]
    notes = [
        f"The looks at this table were fixed beforehand: {joined([str(seeds) for seeds in design.looks])} seeds, until each row is better, "
        f"worse, or equivalent within ±{design.min_effect:g} AP. Intervals and p are corrected for all looks together, "
        "so a row that is open yet may be read."
    ]
    by_stop: dict[str, dict[int, list[str]]] = {}
    for each in comparisons:
        if each.looked_at is not None and each.verdict != NO_LOOK:
            stop = DECIDED if each.verdict in (BETTER, WORSE, EQUIVALENT) else each.looked_at.stopped
            by_stop.setdefault(stop, {}).setdefault(each.looked_at.seeds, []).append(each.variant)
    if decided := by_stop.get(DECIDED):
        notes.append(f"Decided with {_by_seeds(decided)}.")
    if hopeless := by_stop.get(OUT_OF_REACH):
        notes.append(
            f"Stopped without a verdict with {_by_seeds(hopeless)}: the chance that {most} seeds give one is below {100 * HOPE:.0f}%, "
            "should the difference stay as it is."
        )
    if silent := by_stop.get(SILENT):
        notes.append(f"Stopped without a verdict with {_by_seeds(silent)}: AP is below {design.min_effect:g} in every trial of both.")
    still = by_stop.get("", {})
    if last := still.get(most):
        notes.append(f"Undecided at the last look, {most} seeds: {joined(last)}.")
    if going := {seeds: names for seeds, names in still.items() if seeds != most}:
        notes.append(f"Open: {_by_seeds(going)} so far. `gfl-lab run` continues with --until-resolved {design.min_effect:g}.")
    shown = {each.variant for each in comparisons}
    if early := preliminary(comparisons):
        notes.append(early)
    if waiting := [each.name for each in experiment.variants if not each.baseline and each.name not in shown]:
        notes.append(f"No look yet at {joined(waiting)}: the first one needs {plural(design.looks[0], 'seed')} of each variant.")
    if beyond := sorted({trial.seed for trial in experiment.trials} - set(design.seeds)):
        notes.append(f"Seeds {joined([str(seed) for seed in beyond])} are beyond the last look: means hold them, verdicts do not.")
    return notes


def _by_seeds(names: Mapping[int, Sequence[str]]) -> str:
    """Return ``2 seeds: a and b; 4 seeds: c``."""
    return "; ".join(f"{plural(seeds, 'seed')}: {joined(each)}" for seeds, each in sorted(names.items()))


def _extension(each: Extension, *, planned: bool) -> str:
    """Return the note; ``planned``: the looks at this table could have been fixed beforehand."""
    added = [f"seeds up to {each.seeds} of a variant"] if each.seeds > each.read else []
    added += [plural(each.variants, "variant")] if each.variants else []
    out = " Fix the looks beforehand with --until-resolved." if planned else ""
    return (
        f"Extended after it was read: on {each.added[:10]} there were verdicts from {plural(each.read, 'seed')}, and {joined(added or ['seeds'])} were added. "
        f"p is not corrected for that first look: chance had one more occasion.{out}"
    )
