"""Tables that are extended after their verdicts could be read: a second look, which the p-values do not include."""

from __future__ import annotations

from gfl_lab import naming
from gfl_lab.records.plan import Extension, PlanFile, PlannedVariant
from gfl_lab.rundir import RunTree, TrialState

VERDICT = 2
"""Seeds that a verdict needs at least."""


def extensions(new: PlanFile, old: PlanFile, tree: RunTree, time: str) -> tuple[Extension, ...]:
    """Return the extensions of ``old``, and one more if ``new`` adds seeds or variants to verdicts that were there.

    Seeds that the looks of a design ask for are none: its p-values are corrected for them. To fix looks when verdicts are there
    already is one.
    """
    read = _read(old, tree)
    if read < VERDICT:
        return old.extensions
    former = {_key(variant): variant for variant in old.variants}
    planned = set(new.design.seeds) if new.design and old.design else set[int]()
    seeds, variants = 0, 0
    for variant in new.variants:
        before = former.get(_key(variant))
        variants += before is None
        if before is not None and _seeds(variant) - _seeds(before) - planned:
            seeds = max(seeds, len(variant.trials))
    if new.design and not old.design:
        seeds = max(seeds, new.design.looks[-1])
    return (*old.extensions, Extension(time, read, seeds or read, variants)) if seeds or variants else old.extensions


def _read(plan: PlanFile, tree: RunTree) -> int:
    """Return the most seeds that a row shares with the baseline, of those that have finished."""
    done = {each.name: {t.seed for t in each.trials if tree.trial(t.id).state() is TrialState.DONE} for each in plan.variants}
    baseline = next((done[each.name] for each in plan.variants if each.baseline), None)
    return 0 if baseline is None else max((len(baseline & done[each.name]) for each in plan.variants if not each.baseline), default=0)


def _key(variant: PlannedVariant) -> str:
    """Return what makes a variant the same one: its settings, or the name of imported detections, which have none."""
    return naming.canonical_json(variant.settings) if variant.settings else variant.name


def _seeds(variant: PlannedVariant) -> set[int]:
    return {trial.seed for trial in variant.trials}
