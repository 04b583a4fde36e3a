"""From an experiment to the list of its trials: expanded, named by content, compared with what is published. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.plan import published as published_rows
from gfl_lab.spec.files import ExperimentFile, Profile, PublishedTable, resolve_settings
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.settings import TRAINING_CODE_VERSION, ComponentFile, DataSpec, Settings, TrialSpec, effective, inert

COCO_VALIDATION = "coco_minival"
"""Published split that is COCO 2017's validation images, the ones that trials on COCO are evaluated on."""


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
    reference: dict[str, Any] | None
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Plan:
    """Every trial of an experiment under a profile, before anything runs."""

    experiment: ExperimentFile
    profile: Profile
    source: str
    data: DataSpec
    variants: tuple[Variant, ...]

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial once, in the plan's order."""
        unique = {trial.id: trial for variant in self.variants for trial in variant.trials}
        return tuple(unique.values())

    def to_json(self, created: str) -> dict[str, Any]:
        """The plan as plan.json holds it (rundir.py)."""
        experiment = self.experiment
        return {
            "format": naming.FORMAT_VERSION,
            "created": created,
            "experiment": {
                "name": experiment.name,
                "question": experiment.question,
                "kind": experiment.kind,
                "source": self.source,
                "axes": experiment.axes or {"arm": list(experiment.arms)},
                "declared": sorted({*experiment.axes, *itertools.chain(*experiment.arms.values())}),
                "baseline": next((variant.axes for variant in self.variants if variant.baseline), None),
                "table": {"metrics": list(experiment.table.metrics)},
            },
            "profile": {"name": self.profile.name, "title": self.profile.title},
            "data": self.data.model_dump(mode="json"),
            "variants": [
                {
                    "name": variant.name,
                    "axes": variant.axes,
                    "settings": variant.settings.model_dump(mode="json"),
                    "baseline": variant.baseline,
                    "reference": variant.reference,
                    "trials": [{"id": trial.id, "seed": trial.spec.seed} for trial in variant.trials],
                }
                for variant in self.variants
            ],
        }


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
    weights_of: Callable[[Settings], str] = lambda settings: settings.weights,
) -> Plan:
    """Expand ``experiment`` under ``profile`` into trials.

    Args:
        data: what the trials will see.
        seeds: instead of the experiment's own.
        published: rows to stand beside ours.
        weights_digest: content digest of the setting ``weights``.
        components: the user's code that a variant uses.
        weights_of: the initial weights of a variant, where they follow from its backbone.

    Raises:
        SpecError: a combination of settings breaks a rule.
    """
    variants, problems, seen = [], [], {}
    idle: frozenset[str] | None = None
    for axes, overrides, baseline in _cells(experiment):
        name = axes["arm"] if experiment.arms else naming.variant_name(axes)
        try:
            settings = resolve_settings(profile.settings, experiment.set, overrides)
        except ValidationError as error:
            problems += [
                Problem(
                    f"variant {name} under profile {profile.name}: {item['msg'].removeprefix('Value error, ')}",
                    source,
                    ""
                    if experiment.arms
                    else "Vary an axis only where it applies (`when: {quality: {box: general}}`), or name the combinations as arms.",
                )
                for item in error.errors()
            ]
            continue
        settings = settings.model_copy(update={"weights": weights_of(settings)})
        idle = inert(settings) if idle is None else idle & inert(settings)
        key = naming.canonical_json(effective(settings))
        if key in seen and not experiment.arms:
            continue
        if key in seen:
            problems.append(Problem(f"arms {seen[key]!r} and {name!r} are the same settings, or compute the same", hint="Drop one."))
            continue
        seen[key] = name
        specs = [
            TrialSpec(
                settings=settings,
                data=data,
                seed=seed,
                weights_digest=weights_digest(settings.weights),
                code=TRAINING_CODE_VERSION,
                components=components(settings),
            )
            for seed in (experiment.seeds if seeds is None else seeds)
        ]
        reference = _reference(settings, profile, data, published) if published else None
        variants.append(Variant(name, axes, settings, baseline, reference, tuple(Trial(spec.id, spec) for spec in specs)))
    for axis in sorted((idle or frozenset()) & set(experiment.axes)):
        problems.append(
            Problem(f"axis {axis!r} has no effect in any variant", "axes", "Beside the other settings nothing reads it; docs/variants.md.")
        )
    if problems:
        raise SpecError(problems)
    return Plan(experiment, profile, source, data, tuple(variants))


def _cells(experiment: ExperimentFile) -> Iterable[tuple[dict[str, Any], dict[str, Any], bool]]:
    """(axes, overriding settings, is it the baseline) of each cell, the baseline first where it is named."""
    if experiment.arms:
        cells = [({"arm": arm}, dict(settings), arm == experiment.baseline) for arm, settings in experiment.arms.items()]
    else:
        order = experiment.table.rows + [axis for axis in experiment.axes if axis not in experiment.table.rows]
        cells, known = [], set()
        for values in itertools.product(*(experiment.axes[axis] for axis in order)):
            cell = dict(zip(order, values, strict=True))
            for axis, condition in experiment.when.items():
                if any(cell.get(key) != value for key, value in condition.items()):
                    cell.pop(axis, None)
            is_baseline = isinstance(experiment.baseline, dict) and all(cell.get(k, v) == v for k, v in experiment.baseline.items())
            key = repr(cell)  # true and 1 are different values
            if key not in known:
                known.add(key)
                cells.append((cell, dict(cell), is_baseline))
    return sorted(cells, key=lambda cell: not cell[2])


def _reference(settings: Settings, profile: Profile, data: DataSpec, published: PublishedTable) -> dict[str, Any] | None:
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
    return {
        "row": row.name,
        "metrics": {key: value for key, value in row.metrics.items() if value is not None},
        "source": published.source,
        "split": published.split,
        "comparable": not reasons,
        "why_not": "; ".join(reasons),
    }


def looks_like_coco(data: DataSpec) -> bool:
    """Whether the data are COCO 2017 by their counts: 80 classes, 5,000 validation and about 118,000 training images."""
    return len(data.classes) == 80 and data.val_images == 5000 and 117_000 <= data.train_images <= 118_287


def steps_of(settings: Mapping[str, Any] | Settings, train_images: int) -> int:
    """Iterations of a trial: epochs times batches, the last batch of an epoch may be smaller."""
    batch_size = settings["batch_size"] if isinstance(settings, Mapping) else settings.batch_size
    return total_epochs(settings) * -(-train_images // batch_size)
