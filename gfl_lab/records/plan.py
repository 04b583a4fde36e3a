"""plan.json: the variants of an experiment under a profile, and the trials of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfl_lab.records.files import JsonObject, damaged, object_of, read_json, text_of, write_record
from gfl_lab.records.result import numbers_of
from gfl_lab.spec import renames

if TYPE_CHECKING:  # the command line starts without pydantic
    from gfl_lab.spec.trial import DataSpec

DEFAULT_METRICS = ("AP",)


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of a plan.

    Attributes:
        id: Its id.
        seed: Its seed.
        needs: Ids of the trials that it needs, by setting. Only if it needs any.
    """

    id: str
    seed: int
    needs: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plan.json holds it."""
        return {"id": self.id, "seed": self.seed} | ({"needs": dict(self.needs)} if self.needs else {})

    @classmethod
    def from_json(cls, found: Any) -> PlannedTrial:
        """Return the trial in a JSON value. Raises LookupError, TypeError, ValueError or AttributeError if it is none."""
        needs = {str(role): str(trial) for role, trial in (found.get("needs") or {}).items()}
        return cls(str(found["id"]), int(found["seed"]), needs)


@dataclass(frozen=True)
class Reference:
    """A published row beside ours.

    Attributes:
        row: Name of the row.
        metrics: Its numbers.
        source: Its source.
        split: Data split of its numbers.
        comparable: Whether the row can be compared with the variant.
        why_not: Reasons why it cannot.
    """

    row: str
    metrics: Mapping[str, float]
    source: str
    split: str
    comparable: bool
    why_not: str = ""

    @classmethod
    def from_json(cls, found: JsonObject) -> Reference:
        """Return the row in a JSON object; what is missing is empty."""
        return cls(
            row=text_of(found.get("row")),
            metrics=numbers_of(found.get("metrics")),
            source=text_of(found.get("source")),
            split=text_of(found.get("split")),
            comparable=bool(found.get("comparable")),
            why_not=text_of(found.get("why_not")),
        )


@dataclass(frozen=True)
class Design:
    """Seeds only where they are needed: an experiment whose looks at the table are fixed before the first one (``report.looks``).

    Attributes:
        min_effect: AP points. Rows are decided to be better, worse, or equivalent within this.
        looks: Numbers of seeds at which verdicts are taken, rising, the first one 2 or more. The seeds are 0, 1, 2, ...
    """

    min_effect: float
    looks: tuple[int, ...]

    @property
    def seeds(self) -> range:
        """The seeds of the last look."""
        return range(self.looks[-1])

    @staticmethod
    def first(seeds: Collection[int], most: int) -> range:
        """Return the seeds 0, 1, 2, ... up to the first one that is not in ``seeds``, at most ``most`` of them."""
        return range(next((seed for seed in range(most) if seed not in seeds), most))

    def to_json(self) -> dict[str, Any]:
        """Return the design as plan.json holds it."""
        return {"until_resolved": self.min_effect, "looks": list(self.looks)}

    @classmethod
    def from_json(cls, found: Any) -> Design:
        """Return the design in a JSON value. Raises LookupError, TypeError or ValueError if it is none."""
        looks = tuple(map(int, found["looks"]))
        if not looks or looks[0] < 2 or list(looks) != sorted(set(looks)):
            raise ValueError(f"its looks are {list(looks)}")
        return cls(float(found["until_resolved"]), looks)


@dataclass(frozen=True)
class Extension:
    """Seeds or variants that were added to a table in which verdicts could be read already.

    Attributes:
        added: ISO time.
        read: Most seeds of a verdict before.
        seeds: Most seeds of a row since.
        variants: Number of added variants.
    """

    added: str
    read: int
    seeds: int
    variants: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the extension as plan.json holds it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, found: Any) -> Extension:
        """Return the extension in a JSON value. Raises LookupError, TypeError or ValueError if it is none."""
        return cls(str(found["added"]), int(found["read"]), int(found["seeds"]), int(found.get("variants", 0)))


@dataclass(frozen=True)
class PlannedVariant:
    """A variant of a plan.

    Attributes:
        name: Its name.
        axes: Its value on each axis.
        settings: All its settings.
        baseline: Whether it is the baseline.
        reference: Its published row, or null.
        trials: A trial for each seed.
    """

    name: str
    axes: Mapping[str, Any]
    settings: Mapping[str, Any]
    baseline: bool
    reference: Reference | None
    trials: tuple[PlannedTrial, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the variant as plan.json holds it."""
        return {
            "name": self.name, "axes": self.axes, "settings": self.settings, "baseline": self.baseline,
            "reference": None if self.reference is None else dict(vars(self.reference)),
            "trials": [trial.to_json() for trial in self.trials],
        }  # fmt: skip

    @classmethod
    def from_json(cls, found: Any) -> PlannedVariant:
        """Return the variant in a JSON value. Raises LookupError, TypeError, ValueError or AttributeError if it is none."""
        return cls(
            str(found["name"]),
            dict(found["axes"]),
            dict(found["settings"]),
            bool(found.get("baseline")),
            Reference.from_json(found["reference"]) if found.get("reference") else None,
            tuple(map(PlannedTrial.from_json, found["trials"])),
        )


@dataclass(frozen=True)
class PlannedNeed:
    """A trial of a plan that is no row of its table: others need its weights.

    Attributes:
        name: The settings in which it differs from the experiment's.
        settings: All its settings.
        data: Its data set, in the form of ``spec.data`` in manifest.json.
        trial: The trial.
    """

    name: str
    settings: Mapping[str, Any]
    data: DataSpec
    trial: PlannedTrial

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plan.json holds it."""
        return {"name": self.name, "settings": self.settings, "data": self.data.model_dump(mode="json")} | self.trial.to_json()

    @classmethod
    def from_json(cls, found: Any) -> PlannedNeed:
        """Return the trial in a JSON value. Raises LookupError, TypeError, ValueError or AttributeError if it is none."""
        from gfl_lab.spec.trial import DataSpec

        return cls(str(found["name"]), dict(found["settings"]), DataSpec.model_validate(found["data"]), PlannedTrial.from_json(found))


@dataclass(frozen=True)
class PlanFile:
    """An experiment under a profile.

    Attributes:
        created: ISO time of the first plan over these data.
        experiment: Name of the experiment.
        question: Its question.
        kind: ``ablation``, ``search`` or ``imported``.
        source: Its file.
        axes: Values of each axis. The axis ``arm`` has the names of variants that the experiment names itself.
        declared: Settings that axes or variants vary.
        metrics: Metrics of the table.
        min_effect: Smallest difference in AP that matters. Only if the file has one.
        notes: Sentences under the table, such as notes on imported files. Only if there are any.
        design: Looks that were fixed beforehand. Only with ``until_resolved``.
        profile: Name of the profile.
        profile_title: Its title.
        data: The data set, in the form of ``spec.data`` in manifest.json.
        variants: The variants, in the order of the table.
        needed: Trials that others need and that are no row of the table. Only if there are any.
        extensions: Seeds or variants added after verdicts could be read. Only if there are any.
    """

    created: str
    experiment: str
    question: str
    kind: str
    source: str
    axes: Mapping[str, tuple[Any, ...]]
    declared: tuple[str, ...]
    metrics: tuple[str, ...]
    profile: str
    profile_title: str
    data: DataSpec
    variants: tuple[PlannedVariant, ...]
    needed: tuple[PlannedNeed, ...] = ()
    min_effect: float | None = None
    notes: tuple[str, ...] = ()
    design: Design | None = None
    extensions: tuple[Extension, ...] = ()

    @property
    def baseline(self) -> Mapping[str, Any] | None:
        """Values of the baseline on each axis, or null."""
        return next((variant.axes for variant in self.variants if variant.baseline), None)

    @property
    def trials(self) -> tuple[PlannedTrial, ...]:
        """Every trial of the table, variant by variant."""
        return tuple(trial for variant in self.variants for trial in variant.trials)

    @property
    def all_trials(self) -> tuple[PlannedTrial, ...]:
        """Every trial: those that others need, and those of the table."""
        return (*(each.trial for each in self.needed), *self.trials)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file, without its format version."""
        return {
            "created": self.created,
            "experiment": {
                "name": self.experiment,
                "question": self.question,
                "kind": self.kind,
                "source": self.source,
                "axes": {axis: list(values) for axis, values in self.axes.items()},
                "declared": list(self.declared),
                "baseline": self.baseline,
                "table": {"metrics": list(self.metrics)},
                **({} if self.min_effect is None else {"min_effect": self.min_effect}),
                **({"notes": list(self.notes)} if self.notes else {}),
                **({} if self.design is None else {"design": self.design.to_json()}),
            },
            "profile": {"name": self.profile, "title": self.profile_title},
            "data": self.data.model_dump(mode="json"),
            "variants": [variant.to_json() for variant in self.variants],
            **({"needed": [each.to_json() for each in self.needed]} if self.needed else {}),
            **({"extensions": [each.to_json() for each in self.extensions]} if self.extensions else {}),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> PlanFile:
        """Return the plan in a JSON object. Raises LookupError, TypeError, ValueError or AttributeError if it is none."""
        from gfl_lab.spec.trial import DataSpec

        experiment, profile = found["experiment"], object_of(found.get("profile")) or {}
        axes = {str(axis): tuple(values) for axis, values in (experiment.get("axes") or {}).items()}
        return cls(
            created=text_of(found.get("created")),
            experiment=text_of(experiment.get("name")),
            question=text_of(experiment.get("question")),
            kind=text_of(experiment.get("kind")),
            source=text_of(experiment.get("source")),
            axes=axes,
            declared=tuple(map(str, experiment.get("declared") or axes)),
            metrics=tuple(map(str, (experiment.get("table") or {}).get("metrics") or DEFAULT_METRICS)),
            profile=text_of(profile.get("name")),
            profile_title=text_of(profile.get("title")),
            data=DataSpec.model_validate(found["data"]),
            variants=tuple(map(PlannedVariant.from_json, found["variants"])),
            needed=tuple(map(PlannedNeed.from_json, found.get("needed") or ())),
            min_effect=None if experiment.get("min_effect") is None else float(experiment["min_effect"]),
            notes=tuple(map(str, experiment.get("notes") or ())),
            design=None if experiment.get("design") is None else Design.from_json(experiment["design"]),
            extensions=tuple(map(Extension.from_json, found.get("extensions") or ())),
        )


def read_plan(path: Path) -> PlanFile:
    """Read a plan.

    Raises:
        StoreError: it is missing or damaged. FormatError: it is of a format that this version does not read.
    """
    content = read_json(path)
    try:
        return PlanFile.from_json(renames.upgrade_plan(content))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"is no plan: {_reason(error)}") from None


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write a plan."""
    write_record(path, plan.to_json())


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'it has another shape'}"
