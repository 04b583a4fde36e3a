"""From an experiment to the list of its trials: expanded, named by content, compared with what is published. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.plan import published as published_rows
from gfl_lab.plan.expand import MAX_TRIALS, Resolved, cells
from gfl_lab.plan.merge import merge, merge_notes, why_equal
from gfl_lab.records.plan import PlanFile, PlannedTrial, PlannedVariant, Reference
from gfl_lab.spec.files import ExperimentFile, Profile, PublishedTable, resolve_settings
from gfl_lab.spec.rules import SettingsRuleError
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, ComponentFile, DataSpec, TrialSpec, computed


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
    groups: dict[str, list[Resolved]] = {}
    idle: Mapping[str, str] | None = None
    for cell in cells(experiment, seeds, source=source, max_trials=max_trials):
        try:
            settings = resolve_settings(profile.settings, experiment.overrides, cell.settings)
        except ValidationError as error:
            for message in _messages(error):
                refused.setdefault(message, []).append(cell.name)
            continue
        settings = settings.model_copy(update={"init_weights": weights_of(settings)})
        resolved = Resolved(cell.name, cell.axes, cell.settings, cell.baseline, settings)
        acting = inactive(settings)
        idle = acting if idle is None else {key: why for key, why in idle.items() if key in acting}
        groups.setdefault(naming.canonical_json(computed(settings)), []).append(resolved)
    problems = [_refusal(message, names, profile, source, bool(experiment.variants)) for message, names in refused.items()]
    variants, merged = [], []
    for group in groups.values():
        if experiment.variants:
            problems += [
                Problem(
                    f"variants {group[0].name!r} and {twin.name!r} are the same settings, or compute the same",
                    source,
                    why_equal(group[0], twin),
                )
                for twin in group[1:]
            ]
        variant = group[0]
        if len(group) > 1 and not experiment.variants:
            variant, about = merge(group, lambda overrides: resolve_settings(profile.settings, experiment.overrides, overrides), weights_of)
            merged.append((about, variant.name, len(group)))
        variants.append(Variant(variant.name, variant.axes, variant.resolved, variant.baseline, None, ()))
    idle = idle or {}
    for axis in sorted(idle.keys() & set(experiment.axes)):
        count = len(experiment.axes[axis])
        same = f"; its {count} values would train the same" if count > 1 else ""
        hint = f"It acts only beside {idle[axis]}. Drop the axis, or vary it where it acts; docs/variants.md."
        problems.append(Problem(f"axis {axis!r} has no effect in any variant{same}", f"{source}: axes" if source else "axes", hint))
    if problems:
        raise SpecError(problems)
    plan = Plan(experiment, profile, source, data, tuple(variants), merge_notes(merged))
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
        reference = published_rows.reference(settings, plan.profile, data, published) if published else None
        return replace(variant, reference=reference, trials=tuple(Trial(spec.id, spec) for spec in specs))

    return replace(plan, data=data, variants=tuple(over(variant) for variant in plan.variants))


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


def steps_of(settings: Mapping[str, Any] | Settings, train_images: int) -> int:
    """Iterations of a trial: epochs times batches, the last batch of an epoch may be smaller."""
    batch_size = settings["batch_size"] if isinstance(settings, Mapping) else settings.batch_size
    return total_epochs(settings) * -(-train_images // batch_size)
