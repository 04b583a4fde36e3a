"""From an experiment to the list of its trials: expanded, named by content, compared with what is published. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.plan import published as published_rows
from gfl_lab.records.plan import PlanFile, PlannedTrial, PlannedVariant, Reference
from gfl_lab.spec.files import ExperimentFile, Profile, PublishedTable, resolve_settings
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.settings import (
    TRAINING_CODE_VERSION,
    ComponentFile,
    DataSpec,
    Settings,
    SettingsRuleError,
    TrialSpec,
    computed,
    inactive,
)
from gfl_lab.spec.source import same

COCO_VALIDATION = "coco_minival"
"""Published split that is COCO 2017's validation images, the ones that trials on COCO are evaluated on."""

MAX_TRIALS = 10_000
"""Trials that are planned unless more are asked for (`--max-trials`)."""


@dataclass(frozen=True)
class Trial:
    """A trial in a plan: its id and what it computes."""

    id: str
    spec: TrialSpec


@dataclass(frozen=True)
class Variant:
    """One cell: its axes' values, resolved settings, and a trial for each seed."""

    name: str
    axes: dict[str, Any]
    settings: Settings
    baseline: bool
    reference: Reference | None
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Plan:
    """Every trial of an experiment under a profile, before anything runs."""

    experiment: ExperimentFile
    profile: Profile
    source: str
    data: DataSpec
    variants: tuple[Variant, ...]
    notes: tuple[str, ...] = ()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial once, in the plan's order."""
        unique = {trial.id: trial for variant in self.variants for trial in variant.trials}
        return tuple(unique.values())

    def record(self, created: str) -> PlanFile:
        """Return what plan.json holds of the plan.

        Args:
            created: ISO time.
        """
        experiment = self.experiment
        axes = experiment.axes or {"arm": list(experiment.variants)}
        return PlanFile(
            created=created,
            experiment=experiment.name,
            question=experiment.question,
            kind=experiment.kind,
            source=self.source,
            axes={axis: tuple(values) for axis, values in axes.items()},
            declared=tuple(sorted({*experiment.axes, *itertools.chain(*experiment.variants.values())})),
            metrics=tuple(experiment.table.metrics),
            profile=self.profile.name,
            profile_title=self.profile.title,
            data=self.data,
            variants=tuple(
                PlannedVariant(
                    variant.name,
                    variant.axes,
                    variant.settings.model_dump(mode="json"),
                    variant.baseline,
                    variant.reference,
                    tuple(PlannedTrial(trial.id, trial.spec.seed) for trial in variant.trials),
                )
                for variant in self.variants
            ),
        )


def build_plan(
    experiment: ExperimentFile,
    profile: Profile,
    data: DataSpec,
    *,
    source: str = "",
    seeds: Sequence[int] | None = None,
    published: PublishedTable | None = None,
    weights_digest: Callable[[str], str] = lambda weights: "" if weights == "random" else weights,
    components: Callable[[Settings], tuple[ComponentFile, ...]] = lambda settings: (),
    weights_of: Callable[[Settings], str] = lambda settings: settings.init_weights,
    max_trials: int = MAX_TRIALS,
) -> Plan:
    """Expand ``experiment`` under ``profile`` into trials.

    Combinations of values that train the same are one variant; the plan's notes name them.

    Args:
        data: what the trials will see.
        seeds: instead of the experiment's own.
        published: rows to stand beside ours.
        weights_digest: content digest of the setting ``init_weights``.
        components: the user's code that a variant uses.
        weights_of: the initial weights of a variant, where they follow from its backbone.
        max_trials: more are refused before anything is expanded.

    Raises:
        SpecError: there are too many, or a combination of settings breaks a rule.
    """
    seeds = experiment.seeds if seeds is None else seeds
    refused: dict[str, list[str]] = {}
    groups: dict[str, list[_Cell]] = {}
    idle: dict[str, str] | None = None
    for cell in cells(experiment, seeds, source=source, max_trials=max_trials):
        try:
            settings = resolve_settings(profile.settings, experiment.overrides, cell.settings)
        except ValidationError as error:
            for message in _messages(error):
                refused.setdefault(message, []).append(cell.name)
            continue
        settings = settings.model_copy(update={"init_weights": weights_of(settings)})
        cell = replace(cell, resolved=settings)
        acting = inactive(settings)
        idle = acting if idle is None else {key: why for key, why in idle.items() if key in acting}
        groups.setdefault(naming.canonical_json(computed(settings)), []).append(cell)
    problems = [_refusal(message, names, profile, source, bool(experiment.variants)) for message, names in refused.items()]
    variants, merged = [], []
    for group in groups.values():
        if experiment.variants:
            problems += [
                Problem(
                    f"variants {group[0].name!r} and {twin.name!r} are the same settings, or compute the same", source, _why(group[0], twin)
                )
                for twin in group[1:]
            ]
        cell = group[0]
        if len(group) > 1 and not experiment.variants:
            cell, about = _merge(group, lambda overrides: resolve_settings(profile.settings, experiment.overrides, overrides), weights_of)
            merged.append((about, cell.name, len(group)))
        variants.append(Variant(cell.name, cell.axes, cell.resolved, cell.baseline, None, ()))
    for axis in sorted((idle or {}).keys() & set(experiment.axes)):
        count = len(experiment.axes[axis])
        same = f"; its {count} values would train the same" if count > 1 else ""
        hint = f"It acts only beside {idle[axis]}. Drop the axis, or vary it where it acts; docs/variants.md."
        problems.append(Problem(f"axis {axis!r} has no effect in any variant{same}", f"{source}: axes" if source else "axes", hint))
    if problems:
        raise SpecError(problems)
    plan = Plan(experiment, profile, source, data, tuple(variants), _notes(merged))
    return plan_over(plan, data, seeds, published=published, weights_digest=weights_digest, components=components)


def plan_over(
    plan: Plan,
    data: DataSpec,
    seeds: Sequence[int],
    *,
    published: PublishedTable | None,
    weights_digest: Callable[[str], str],
    components: Callable[[Settings], tuple[ComponentFile, ...]],
) -> Plan:
    """Return the variants of ``plan`` with their trials over ``data``, and the published rows beside them."""

    def over(variant: Variant) -> Variant:
        settings, digest, used = variant.settings, weights_digest(variant.settings.init_weights), components(variant.settings)
        specs = [
            TrialSpec(settings=settings, data=data, seed=seed, weights_digest=digest, code=TRAINING_CODE_VERSION, components=used)
            for seed in seeds
        ]
        reference = _reference(settings, plan.profile, data, published) if published else None
        return replace(variant, reference=reference, trials=tuple(Trial(spec.id, spec) for spec in specs))

    return replace(plan, data=data, variants=tuple(over(variant) for variant in plan.variants))


@dataclass(frozen=True)
class _Cell:
    """A combination of the experiment's values: its name, axes, settings over those of all, and all of them resolved."""

    name: str
    axes: dict[str, Any]
    settings: dict[str, Any]
    baseline: bool
    resolved: Settings | None = None


def cells(experiment: ExperimentFile, seeds: Sequence[int], *, source: str = "", max_trials: int = MAX_TRIALS) -> list[_Cell]:
    """The combinations of an experiment's values, the baseline first where it is named.

    An axis with a condition is there only where every axis that the condition names is there and has its value. The order
    in which conditions are written has no influence.

    Raises:
        SpecError: together with the seeds there are more than ``max_trials``, counted before they are made; or the
            conditions form a cycle.
    """
    most = max_trials // max(1, len(seeds))
    if experiment.variants:
        if len(experiment.variants) > most:
            raise _too_many(f"{len(experiment.variants):,} variants", len(experiment.variants), len(seeds), max_trials, source)
        return sorted(
            (_Cell(name, {"arm": name}, dict(settings), name == experiment.baseline) for name, settings in experiment.variants.items()),
            key=lambda cell: not cell.baseline,
        )
    axes = experiment.axes
    order = experiment.table.rows + [axis for axis in axes if axis not in experiment.table.rows]
    when = {axis: condition for axis, condition in experiment.when.items() if axis in axes}
    factors = " x ".join(f"{len(axes[axis]):,} {axis}" for axis in order)
    at_most = math.prod(len(axes[axis]) for axis in order)
    if at_most > most and not when:
        raise _too_many(factors, at_most, len(seeds), max_trials, source)
    try:
        sequence = [axis for axis in TopologicalSorter({axis: when.get(axis, {}) for axis in order}).static_order() if axis in axes]
    except CycleError as error:
        raise SpecError(
            Problem(f"the conditions form a cycle: {' -> '.join(error.args[1])}", f"{source}: when" if source else "when")
        ) from None
    found: list[dict[str, int]] = [{}]  # {axis: index of its value}; each stays one combination at least, so they are counted as they grow
    for axis in sequence:
        condition = {key: {i for i, each in enumerate(axes.get(key, ())) if same(each, value)} for key, value in when.get(axis, {}).items()}
        grown: list[dict[str, int]] = []
        for cell in found:
            if all(cell.get(key, -1) in indices for key, indices in condition.items()):
                if len(grown) + len(axes[axis]) > most:
                    raise _too_many(factors, at_most, len(seeds), max_trials, source, conditions=True)
                grown += [{**cell, axis: index} for index in range(len(axes[axis]))]
            else:
                grown.append(cell)
        found = grown
    found.sort(key=lambda cell: [cell.get(axis, 0) for axis in order])
    made = []
    for cell in found:
        chosen = {axis: axes[axis][cell[axis]] for axis in order if axis in cell}
        baseline = isinstance(experiment.baseline, dict) and all(same(chosen.get(k, v), v) for k, v in experiment.baseline.items())
        made.append(_Cell(naming.variant_name(chosen), chosen, dict(chosen), baseline))
    return sorted(made, key=lambda cell: not cell.baseline)


def _too_many(factors: str, variants: int, seeds: int, max_trials: int, source: str, conditions: bool = False) -> SpecError:
    times = f" x {seeds:,} seeds" if seeds != 1 else ""
    size = f"{'up to ' if conditions else ''}{variants * seeds:,} trials ({factors}{times})"
    more = f", and more than {max_trials:,} by its conditions" if conditions else ""
    return SpecError(
        Problem(
            f"the experiment has {size}{more}; at most {max_trials:,} are planned",
            source,
            "List fewer values or seeds, vary axes only where they matter (`when`), or search instead (`kind: search`). "
            "`--max-trials N` raises the limit.",
        )
    )


def _messages(error: ValidationError) -> list[str]:
    found: list[str] = []
    for item in error.errors(include_url=False):
        rule = item.get("ctx", {}).get("error")
        found += (
            [message for _, message in rule.problems]
            if isinstance(rule, SettingsRuleError)
            else [item["msg"].removeprefix("Value error, ")]
        )
    return found


def _refusal(message: str, names: list[str], profile: Profile, source: str, named: bool) -> Problem:
    """One problem for all variants that break the same rule."""
    which = (
        f"variant {names[0]}" if len(names) == 1 else f"{len(names):,} variants ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    )
    way = "Vary an axis only where it applies (`when: {quality: {box: general}}`), or name the combinations as variants."
    return Problem(f"{which} under profile {profile.name}: {message}", source, "" if named else way)


def _why(first: _Cell, second: _Cell) -> str:
    """Why two variants train the same, and the way out."""
    idle = inactive(second.resolved)
    apart = [key for key in {**first.settings, **second.settings} if getattr(first.resolved, key) != getattr(second.resolved, key)]
    reasons = [f"{key} acts only beside {idle[key]}" for key in apart if key in idle]
    return f"Drop one{': ' + '; '.join(reasons) if reasons else ''}."


def _merge(
    group: list[_Cell], resolve: Callable[[dict[str, Any]], Settings], weights_of: Callable[[Settings], str]
) -> tuple[_Cell, tuple[str, ...]]:
    """The cell that stands for all of ``group``, which train the same, and the axes without effect in it.

    These axes are left out of it, as if a condition said so; their settings are those of the profile. If it is no such
    axis that makes them equal (two spellings of one schedule), it is the first.
    """
    first = group[0]
    idle = inactive(first.resolved)
    apart = [axis for axis in first.axes if any(axis not in cell.axes or not same(cell.axes[axis], first.axes[axis]) for cell in group)]
    if not apart or not all(axis in idle for axis in apart):
        return first, ()
    axes = {axis: value for axis, value in first.axes.items() if axis not in apart}
    try:
        settings = resolve(axes)
    except ValidationError:  # the profile's own value breaks a rule here
        return first, tuple(apart)
    settings = settings.model_copy(update={"init_weights": weights_of(settings)})
    return _Cell(naming.variant_name(axes), axes, axes, first.baseline, settings), tuple(apart)


def _notes(merged: list[tuple[tuple[str, ...], str, int]]) -> tuple[str, ...]:
    """One sentence for each set of axes without effect somewhere, with the variants that it concerns."""
    by_axes: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for about, name, count in merged:
        by_axes.setdefault(about, []).append((name, count))
    notes = []
    for about, found in by_axes.items():
        names = ", ".join(name for name, _ in found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        total = sum(count for _, count in found)
        if about:
            cause = f"{' and '.join(about)} {'has' if len(about) == 1 else 'have'} no effect in {names}"
        else:
            cause = f"different values train the same in {names}"
        notes.append(f"{cause}: {total} combinations are {'one variant' if len(found) == 1 else f'{len(found)} variants'}")
    return tuple(notes)


def _reference(settings: Settings, profile: Profile, data: DataSpec, published: PublishedTable) -> Reference | None:
    """The published row whose settings agree with the variant's, and whether ours may be compared with it.

    It may when the data have COCO's counts, the row is of COCO's validation images, and no setting differs from those that
    the row was made with.
    """
    row = published_rows.matching_row(settings, published)
    if row is None:
        return None
    reasons = []
    if not looks_like_coco(data):
        reasons.append(f"other data ({data.name}, not COCO 2017)")
    if published.split != COCO_VALIDATION:
        reasons.append(f"other images ({published.split}, ours are COCO's validation images)")
    if different := published_rows.differences(settings, published, row):
        shown = ", ".join(different[:4]) + (f" and {len(different) - 4} more" if len(different) > 4 else "")
        reasons.append(f"other settings than published (profile {profile.name}): {shown}")
    if published.differs:
        reasons.append(published.differs)
    return Reference(
        row=row.name,
        metrics={key: value for key, value in row.metrics.items() if value is not None},
        source=published.source,
        split=published.split,
        comparable=not reasons,
        why_not="; ".join(reasons),
    )


def looks_like_coco(data: DataSpec) -> bool:
    """Whether the data are COCO 2017 by their counts: 80 classes, 5,000 validation and about 118,000 training images."""
    return len(data.classes) == 80 and data.val_images == 5000 and 117_000 <= data.train_images <= 118_287


def steps_of(settings: Mapping[str, Any] | Settings, train_images: int) -> int:
    """Iterations of a trial: epochs times batches, the last batch of an epoch may be smaller."""
    batch_size = settings["batch_size"] if isinstance(settings, Mapping) else settings.batch_size
    return total_epochs(settings) * -(-train_images // batch_size)
