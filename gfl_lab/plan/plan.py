"""Turn an experiment into the list of its trials: expanded, named by content, compared with published rows. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.plan import published as published_rows
from gfl_lab.plan.expand import Resolved, combinations, too_many
from gfl_lab.plan.graph import Graph, NeededTrial, base_settings, needed_base, needed_first
from gfl_lab.plan.graph import Trial as Trial
from gfl_lab.plan.merge import merge, merge_notes, why_equal
from gfl_lab.records.plan import Design, PlanFile, PlannedNeed, PlannedTrial, PlannedVariant, Reference
from gfl_lab.spec.file_models import ExperimentFile, Profile, PublishedTable
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.limits import MAX_TRIALS
from gfl_lab.spec.needs import completed, data_folders
from gfl_lab.spec.rules import SettingsRuleError
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, ComponentFile, DataSpec, TrialSpec, computed


@dataclass(frozen=True)
class Variant:
    """A combination of settings to compare with others: its axes' values, all of its settings, and a trial for each seed."""

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
    needed: tuple[NeededTrial, ...] = ()
    """Trials that are no rows of the table: others need their weights. Each stands behind those that it needs itself."""
    design: Design | None = None
    """Looks at the table that are fixed beforehand; None where its seeds are."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial of the table once, in the plan's order."""
        unique = {trial.id: trial for variant in self.variants for trial in variant.trials}
        return tuple(unique.values())

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """Every trial once, each behind those that it needs; else in the plan's order."""
        return needed_first([*(each.trial for each in self.needed), *self.trials])

    def record(self, created: str) -> PlanFile:
        """Return what plan.json holds of the plan.

        Args:
            created: ISO time.
        """
        experiment = self.experiment
        axes = experiment.axes or {naming.NAMED_AXIS: list(experiment.variants)}
        return PlanFile(
            created=created,
            experiment=experiment.name,
            question=experiment.question,
            kind=experiment.kind,
            source=self.source,
            axes={axis: tuple(values) for axis, values in axes.items()},
            declared=tuple(sorted({*experiment.axes, *itertools.chain(*experiment.variants.values())})),
            metrics=tuple(experiment.table.metrics),
            min_effect=experiment.min_effect,
            design=self.design,
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
                    tuple(PlannedTrial(trial.id, trial.spec.seed, trial.spec.needs) for trial in variant.trials),
                )
                for variant in self.variants
            ),
            needed=tuple(
                PlannedNeed(
                    each.name,
                    each.trial.spec.settings.model_dump(mode="json"),
                    each.trial.spec.data,
                    PlannedTrial(each.trial.id, each.trial.spec.seed, each.trial.spec.needs),
                )
                for each in self.needed
            ),
        )


@dataclass(frozen=True)
class PlanInputs:
    """Inputs of a plan beside experiment, profile and data.

    Attributes:
        source: name of the experiment file, for messages.
        seeds: instead of the experiment's own.
        counts: {variant: how many of the first seeds it has}, instead of ``seeds``. design: the looks that decide them.
        published: rows to show beside ours.
        weights_digest: content digest of the setting ``init_weights``.
        components: the user's code that a variant uses.
        weights_of: initial weights of a variant, where they follow from its backbone.
        complete: settings with the values that an mmdet config decides. Raises InputError.
        config_of: config of an mmdet detector for a number of classes; None for the GFL family. Raises InputError.
        max_trials: more are refused before anything is expanded.
    """

    source: str = ""
    seeds: Sequence[int] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    design: Design | None = None
    published: PublishedTable | None = None
    weights_digest: Callable[[str], str] = lambda weights: "" if weights == "random" else weights
    components: Callable[[Settings], tuple[ComponentFile, ...]] = lambda settings: ()
    weights_of: Callable[[Settings], str] = lambda settings: settings.init_weights
    complete: Callable[[Settings], Settings] = lambda settings: settings
    config_of: Callable[[Settings, int], dict[str, Any] | None] = lambda settings, classes: None
    max_trials: int = MAX_TRIALS


PLAIN = PlanInputs()


@dataclass(frozen=True)
class Draft:
    """The variants of an experiment under a profile, all settings checked. ``over`` makes their trials.

    Attributes:
        notes: combinations that train the same, in words.
    """

    experiment: ExperimentFile
    profile: Profile
    inputs: PlanInputs
    variants: tuple[Resolved, ...]
    notes: tuple[str, ...]

    @property
    def data_folders(self) -> set[str]:
        """The folders of the data sets that needed trials have of their own."""
        return set[str]().union(*(data_folders(found.resolved) for found in self.variants))

    def over(self, data: DataSpec, others: Mapping[str, DataSpec] | None = None) -> Plan:
        """Return the plan: the variants with their trials over ``data``, what these need, and the published rows beside them.

        Args:
            others: the content of each of ``data_folders``.

        Raises:
            SpecError: with what the trials need, there are too many.
        """
        seeds = _seeds(self.experiment, self.inputs)
        if len(data.classes) == 1 and (alone := [found.name for found in self.variants if found.resolved.distillation == "kd"]):
            message = (
                f"distillation: kd compares the scores of classes, and {data.name} has one class: variant {alone[0]} would learn nothing"
            )
            raise SpecError(Problem(message, self.inputs.source, "Give distillation: ld."))
        graph = Graph(self._spec, data, others or {}, lambda: base_settings(self.profile, self.experiment))
        variants = tuple(self._variant(found, data, seeds, graph) for found in self.variants)
        plan = Plan(self.experiment, self.profile, self.inputs.source, data, variants, self.notes, design=self.inputs.design)
        plan = replace(plan, needed=graph.needed({trial.id for trial in plan.trials}))
        if plan.needed and (count := len(plan.all_trials)) > self.inputs.max_trials:
            raise too_many(f"{count:,} trials with those that others need", self.inputs.max_trials, self.inputs.source)
        return plan

    def _variant(self, found: Resolved, data: DataSpec, seeds: Sequence[int], graph: Graph) -> Variant:
        settings, inputs = found.resolved, self.inputs
        reference = published_rows.reference(settings, self.profile, data, inputs.published) if inputs.published else None
        own = range(inputs.counts[found.name]) if found.name in inputs.counts else seeds
        trials = tuple(graph.trial(settings, data, seed) for seed in own)
        return Variant(found.name, found.axes, settings, found.baseline, reference, trials)

    def _spec(self, settings: Settings, data: DataSpec, seed: int, needs: dict[str, str]) -> TrialSpec:
        inputs = self.inputs
        return TrialSpec(
            settings=settings,
            data=data,
            seed=seed,
            weights_digest=inputs.weights_digest(settings.init_weights),
            code=TRAINING_CODE_VERSION,
            components=inputs.components(settings),
            config=inputs.config_of(settings, len(data.classes)),
            needs=needs,
        )


def build_plan(experiment: ExperimentFile, profile: Profile, data: DataSpec, inputs: PlanInputs = PLAIN) -> Plan:
    """Expand ``experiment`` under ``profile`` into trials over ``data``. Raises as ``draft_plan``."""
    return draft_plan(experiment, profile, inputs).over(data)


def draft_plan(experiment: ExperimentFile, profile: Profile, inputs: PlanInputs = PLAIN) -> Draft:
    """Expand ``experiment`` under ``profile`` into variants.

    Combinations of values that train the same are one variant; the notes name them.

    Raises:
        SpecError: there are too many, or a combination of settings breaks a rule.
    """
    possible, problems = _resolve(experiment, profile, inputs)
    groups: dict[str, list[Resolved]] = {}
    for resolved in possible:
        groups.setdefault(naming.canonical_json(computed(resolved.resolved)), []).append(resolved)
    variants, merged = [], []
    for group in groups.values():
        variant = group[0]
        if experiment.variants:
            problems += [_twin_problem(variant, twin, inputs.source) for twin in group[1:]]
        elif len(group) > 1:
            variant, about = merge(group, _resolver(experiment, profile, inputs))
            merged.append((about, variant.name, len(group)))
        variants.append(variant)
    problems += _idle_axes(experiment, possible, inputs.source)
    if problems:
        raise SpecError(problems)
    return Draft(experiment, profile, inputs, tuple(variants), merge_notes(merged))


def _resolver(experiment: ExperimentFile, profile: Profile, inputs: PlanInputs) -> Callable[[dict[str, Any]], Settings]:
    """Return a function that completes the settings of a variant, and of the trials that it needs.

    It raises ValidationError, SettingsRuleError, and what ``inputs.complete`` raises.
    """

    def finish(settings: Settings) -> Settings:
        return inputs.complete(settings.model_copy(update={"init_weights": inputs.weights_of(settings)}))

    def needed(own: dict[str, Any]) -> Settings:
        return resolve_settings(*needed_base(profile, experiment), own)

    return lambda own: finish(completed(resolve_settings(profile.settings, experiment.overrides, own), needed, finish))


def _seeds(experiment: ExperimentFile, inputs: PlanInputs) -> Sequence[int]:
    return experiment.first_seeds if inputs.seeds is None else inputs.seeds


def _resolve(experiment: ExperimentFile, profile: Profile, inputs: PlanInputs) -> tuple[list[Resolved], list[Problem]]:
    """Return each possible combination with all of its settings, and one problem for each rule that the others break."""
    found: list[Resolved] = []
    refused: dict[str, list[str]] = {}
    resolve = _resolver(experiment, profile, inputs)
    for combination in combinations(experiment, _seeds(experiment, inputs), source=inputs.source, max_trials=inputs.max_trials):
        try:
            settings = resolve(combination.settings)
        except (ValidationError, SettingsRuleError) as error:
            for message in _messages(error):
                refused.setdefault(message, []).append(combination.name)
            continue
        found.append(Resolved(combination.name, combination.axes, combination.settings, combination.baseline, settings))
    named = bool(experiment.variants)
    return found, [_refusal(message, names, profile, inputs.source, named) for message, names in refused.items()]


def _twin_problem(first: Resolved, twin: Resolved, source: str) -> Problem:
    message = f"variants {first.name!r} and {twin.name!r} are the same settings, or compute the same"
    return Problem(message, source, why_equal(first, twin))


def _idle_axes(experiment: ExperimentFile, possible: list[Resolved], source: str) -> list[Problem]:
    """Return a problem for each axis that is inactive in every combination."""
    if not possible:
        return []
    idle = [inactive(each.resolved) for each in possible]
    problems = []
    for axis in sorted(set(experiment.axes).intersection(*idle)):
        count = len(experiment.axes[axis])
        same = f"; its {count} values would train the same" if count > 1 else ""
        hint = f"It acts only beside {idle[0][axis]}. Drop the axis, or vary it where it acts; docs/variants.md."
        problems.append(Problem(f"axis {axis!r} has no effect in any variant{same}", f"{source}: axes" if source else "axes", hint))
    return problems


def _messages(error: ValidationError | SettingsRuleError) -> list[str]:
    if isinstance(error, SettingsRuleError):
        return [message for _, message in error.problems]
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
    """Return one problem for all variants that break the same rule."""
    which = (
        f"variant {names[0]}" if len(names) == 1 else f"{len(names):,} variants ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    )
    way = "Vary an axis only where it applies (`when: {quality: {box: general}}`), or name the combinations as variants."
    return Problem(f"{which} under profile {profile.name}: {message}", source, "" if named else way)
