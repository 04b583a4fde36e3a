"""Turn a search's suggestions into trials, and keep the ledger of suggestions and their outcomes. Pure but for its file."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.plan.plan import Plan, Variant
from gfl_lab.spec.file_models import ExperimentFile, Profile
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.rules import SettingsRuleError
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.search import Dimension, SearchSpec
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.source import Source
from gfl_lab.spec.trial import computed
from gfl_lab.spec.value_text import identity, same

MAX_COMBINATIONS, MAX_DRAWN = 1000, 20_000


def search_of(experiment: ExperimentFile) -> SearchSpec:
    """Return what a search searches. Raises ValueError for an ablation, which has no such part."""
    if experiment.search is None:
        raise ValueError(f"experiment {experiment.name} is an {experiment.kind}, not a search")
    return experiment.search


def definition_of(experiment: ExperimentFile, plan: Plan) -> dict[str, Any]:
    """Return the definition of a search: all but the number of trials. Two searches with the same one are the same search.

    Args:
        plan: of the search's corners: all of them have the same data, seed and training code.
    """
    search, spec = search_of(experiment), plan.variants[0].trials[0].spec
    # Paths of weights are left out: their content is in the trials' ids.
    fixed = {
        key: value
        for key, value in (plan.profile.settings | experiment.overrides).items()
        if key not in search.space and key != "init_weights"
    }
    return {
        "space": search.space,
        "metric": search.metric,
        "scheduler": {"name": search.scheduler, "grace_epochs": search.grace_epochs, "reduction": search.reduction},
        "sampler_seed": search.sampler_seed,
        "seed": spec.seed,
        "settings": fixed,
        "data": spec.data.digest,
        "code": spec.code,
        "components": sorted({file.digest for variant in plan.variants for file in variant.trials[0].spec.components}),
        "corner": plan.variants[0].trials[0].id,
    }


def resolve(experiment: ExperimentFile, settings: Mapping[str, Any], expand: Callable[[ExperimentFile], Plan]) -> Variant:
    """Return the variant, with one trial, of a suggestion. It is built as a named variant of an ablation, so its trial has the same id.

    Raises:
        SpecError: the settings refuse the combination.
    """
    name = naming.variant_name(dict(settings))
    plan = expand(experiment.model_copy(update={"variants": {name: dict(settings)}}))
    idle = inactive(plan.variants[0].settings).keys() & settings.keys()
    if idle:  # as everywhere, they keep the value of the profile: two suggestions that train the same are one trial
        acting = {key: value for key, value in settings.items() if key not in idle}
        plan = expand(experiment.model_copy(update={"variants": {name: acting}}))
    return dataclasses.replace(plan.variants[0], name=name, axes=dict(settings))


def plan_of(plan: Plan, variants: Iterable[Variant]) -> Plan:
    """Return the plan.json of a search: the space as axes, and a variant for each trial so far."""
    axes = {found.key: list(found.choices) or [str(found)] for found in search_of(plan.experiment).dimensions}
    return dataclasses.replace(plan, experiment=plan.experiment.model_copy(update={"axes": axes, "variants": {}}), variants=tuple(variants))


def corners(experiment: ExperimentFile, profile: Profile, source: Source) -> dict[str, dict[str, Any]]:
    """Return combinations, as variants, with every choice and every end of a range: they must be possible before anything runs.

    Raises:
        SpecError: a value is possible in no combination, a setting changes nothing, or no trial could be stopped early.
    """
    search = search_of(experiment)
    dimensions = search.dimensions
    problems = []
    base = profile.settings, experiment.overrides
    found, refused, idle = _combinations(dimensions, base)
    possible = {(key, identity(value)) for settings, _ in found for key, value in settings.items()}
    for dimension in dimensions:
        key = dimension.key
        for index, value in enumerate(dimension.corners):
            if (key, identity(value)) not in possible:
                why = next((why for settings, why in refused if same(settings[key], value)), "")
                place = (index,) if dimension.choices else (("low", "high")[index],)
                message = f"{naming.setting_text(value)} is possible in no combination under profile {profile.name}: {why}"
                problems.append(Problem(message, source.place("search", "space", key, *place)))
    if not problems:
        for key in sorted(idle & set(search.space)):
            hint = "Beside the other settings nothing reads it; docs/variants.md."
            problems.append(Problem(f"{key!r} has no effect in any combination", source.place("search", "space", key), hint))
        epochs = total_epochs(found[0][1])
        if search.scheduler == "asha" and search.grace_epochs >= epochs:
            hint = "Lower it, or give `scheduler: none`."
            message = f"grace_epochs is {search.grace_epochs}, but a trial has {epochs}: nothing could be stopped early"
            problems.append(Problem(message, source.place("search", "grace_epochs"), hint))
    if problems:
        raise SpecError(problems)
    variants: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    shown: set[tuple[str, str]] = set()
    for settings, resolved in found:
        new = {(key, repr(value)) for key, value in settings.items()} - shown
        content = naming.canonical_json(computed(resolved))
        if new and content not in seen:
            variants[naming.variant_name(settings)] = settings
            seen.add(content)
            shown |= new
    return variants


def _combinations(
    dimensions: tuple[Dimension, ...], base: tuple[dict[str, Any], dict[str, Any]]
) -> tuple[list[tuple[dict[str, Any], Settings]], list[tuple[dict[str, Any], str]], frozenset[str]]:
    """Return the possible combinations of corners, the refused ones with the reason, and the settings without effect in all."""
    keys = [dimension.key for dimension in dimensions]
    ends = [dimension.corners for dimension in dimensions]
    if math.prod(map(len, ends)) <= MAX_COMBINATIONS:
        tried: Iterable[tuple[Any, ...]] = itertools.product(*ends)
    else:  # too many to try all: each value up to a hundred times beside others drawn at random
        draw = random.Random(0)
        times = max(3, min(100, MAX_DRAWN // sum(map(len, ends))))
        tried = [
            tuple(value if at == index else draw.choice(values) for at, values in enumerate(ends))
            for index in range(len(ends))
            for value in ends[index]
            for _ in range(times)
        ]
    found, refused = [], []
    idle: Set[str] | None = None
    for values in tried:
        settings = dict(zip(keys, values, strict=True))
        try:
            resolved = resolve_settings(*base, settings)
        except ValidationError as error:
            refused.append((settings, reason_of(error)))
            continue
        found.append((settings, resolved))
        idle = inactive(resolved).keys() if idle is None else idle & inactive(resolved).keys()
    return found, refused, frozenset(idle or ())


def reason_of(error: ValidationError) -> str:
    """Return the first rule that a combination breaks."""
    item = error.errors()[0]
    rule = item.get("ctx", {}).get("error")
    return rule.problems[0][1] if isinstance(rule, SettingsRuleError) else item["msg"].removeprefix("Value error, ")
