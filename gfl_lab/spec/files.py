"""Experiment, profile and published-table files: their form, and loading them with every problem told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec.code import is_plain, read_code
from gfl_lab.spec.search import SearchSpec, search_problems
from gfl_lab.spec.settings import Settings, SettingsRuleError, lay_over
from gfl_lab.spec.source import Source, check_keys, nearest, problems_of, read_yaml

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
Model = TypeVar("Model", bound=BaseModel)
MAX_ARM_CHARACTERS = 100
NOT_PLAIN = "arguments hold what a trial's manifest cannot: only text, finite numbers, true, false, null, lists and mappings with text keys"
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class DeskData(BaseModel):
    """The generated data set of a profile: how many images, how large, from which seed."""

    model_config = _STRICT

    train_images: int = Field(800, ge=8, le=100_000)
    val_images: int = Field(200, ge=8, le=100_000)
    size: int = Field(128, ge=128, le=1024, description="side of the square images, px")
    seed: Seed = 0


class Resources(BaseModel):
    """What one trial asks of the machine. None of it can change a trial's numbers, so none of it is in its id."""

    model_config = _STRICT

    cpus: int = Field(1, ge=1, le=1024, description="CPU cores (and threads)")
    gpus: float = Field(0, ge=0, le=64, description="GPUs, or a share of one; taken only where there is a GPU unless gpu_required")
    pack: bool = Field(
        False, description="as many trials on a GPU as fit by the peak memory that `plan --measure` has measured; `gpus` each until then"
    )
    gpu_required: bool = Field(False, description="refuse to run on a CPU")
    loader_workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="processes that load images, 0: the trial's own; not given: on a GPU one for each of its cores but one",
    )


class Profile(BaseModel):
    """Where and how big: data, settings that suit it, resources."""

    model_config = _STRICT

    name: str
    title: str
    data: DeskData | Literal["required"] = Field(description="a generated data set, or `required`: give --data PATH")
    settings: dict[str, Any] = Field(default_factory=dict)
    resources: Resources = Resources()
    cpu_seconds_per_image: float = Field(
        0, ge=0, description="training and evaluation of one image on one core, for a first estimate of time; 0 unknown"
    )
    reproduces: str = Field("", description="id of the published training settings that this profile repeats, when the data are the same")


class TableSpec(BaseModel):
    """What the table shows."""

    model_config = _STRICT

    rows: list[str] = Field(default_factory=list, description="axes in the order of the variant's name; default: all, as declared")
    metrics: list[str] = Field(default_factory=lambda: ["AP", "AP50", "AP75", "fps"], min_length=1)


class ExperimentFile(BaseModel):
    """An experiment file as written; see docs/experiment-files.md."""

    model_config = _STRICT

    name: str
    question: str = ""
    kind: Literal["ablation", "search"] = "ablation"
    profile: str
    code: list[str] = Field(default_factory=list, description="Python files that register components, relative to this file")
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)
    when: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baseline: dict[str, Any] | str | None = None
    seeds: list[Seed] = Field(default_factory=lambda: [0], min_length=1)
    reference: str = ""
    table: TableSpec = TableSpec()
    search: SearchSpec | None = None


class PublishedRow(BaseModel):
    """One row of a published table."""

    model_config = _STRICT

    name: str
    settings: dict[str, Any] = Field(
        description="what a variant must have to stand beside the row; with `why_not` the source's own words, which nothing reads"
    )
    metrics: dict[str, float | None]
    evidence: str = Field("", description="where the numbers were read, if not as the table's")
    why_not: str = Field("", description="why no variant of this family can produce the row; empty where one can")


class PublishedTable(BaseModel):
    """A published table: facts with their source."""

    model_config = _STRICT

    id: str
    title: str
    source: str
    split: str = Field(description="images that were evaluated: coco_minival, or another one that we cannot compare with")
    evidence: str = Field("", description="where the numbers were read: paper_text, official_repo, reading_note, ...")
    training: str = Field("", description="id of the published training settings; empty: the source states none")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings that every row was made with, beyond the defaults")
    differs: str = Field("", description="what the source did otherwise that no setting says; then no row is called comparable")
    rows: list[PublishedRow]


def settings_problems(given: dict[str, Any], source: Source, prefix: tuple[str | int, ...]) -> list[Problem]:
    """Problems of a partial set of settings: unknown keys, wrong types, values out of range."""
    problems = check_keys(given, Settings.model_fields, source, prefix)
    known = {key: value for key, value in given.items() if key in Settings.model_fields}
    if not is_plain(known.get("arguments")):
        problems.append(Problem(NOT_PLAIN, source.place(*prefix, "arguments")))
    try:
        resolve_settings(known)
    except ValidationError as error:
        problems += problems_of(error, Settings, source, prefix)
    return problems


def resolve_settings(*layers: dict[str, Any]) -> Settings:
    """Settings from layers, later ones over earlier ones, over the defaults.

    Raises:
        ValidationError: a value breaks a rule.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = lay_over(merged, layer)
    return Settings(**merged)


def find_profile(name: str, folders: list[Path]) -> Path:
    """The file of profile ``name``: first of ``folders`` that has it.

    Raises:
        SpecError: there is none; names those that exist.
    """
    known: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else []:
            known.setdefault(path.stem, path)
    if name in known:
        return known[name]
    raise SpecError(
        Problem(
            f"there is no profile {name!r}", hint=nearest(name, known) if known else f"No profile files in {', '.join(map(str, folders))}."
        )
    )


def load_profile(path: Path) -> Profile:
    """Read a profile file. Raises SpecError with every problem."""
    source = read_yaml(path)
    profile = _validate(Profile, source)
    problems = settings_problems(profile.settings, source, ("settings",))
    if profile.name != path.stem:
        problems.append(Problem(f"name is {profile.name!r} but the file is {path.name}", source.place("name"), "The two must agree."))
    if problems:
        raise SpecError(problems)
    return profile


def load_published(table_id: str, folders: list[Path], source: Source | None = None) -> PublishedTable:
    """The published table ``table_id``. Raises SpecError with every problem; when there is none, naming those that exist."""
    known = {path.stem: path for folder in reversed(folders) if folder.is_dir() for path in sorted(folder.glob("*.yaml"))}
    if table_id not in known:
        place = source.place("reference") if source else ""
        raise SpecError(Problem(f"there is no published table {table_id!r}", place, nearest(table_id, known)))
    content = read_yaml(known[table_id])
    table = _validate(PublishedTable, content)
    problems = settings_problems(table.settings, content, ("settings",))
    if table.id != table_id:
        problems.append(Problem(f"id is {table.id!r} but the file is {content.path.name}", content.place("id"), "The two must agree."))
    for index, row in enumerate([] if problems else table.rows):
        if not row.why_not:
            problems += settings_problems(lay_over(table.settings, row.settings), content, ("rows", index, "settings"))
    if problems:
        raise SpecError(problems)
    return table


def load_experiment(path: Path) -> tuple[ExperimentFile, Source]:
    """Read an experiment file and check everything that needs no profile.

    Raises:
        SpecError: every problem of the file, each with its line.
    """
    source = read_yaml(path)
    try:
        experiment = ExperimentFile.model_validate(source.value)
        problems: list[Problem] = []
    except ValidationError as error:
        problems = problems_of(error, ExperimentFile, source)
        experiment = None
    raw = source.value

    def part(key: str, kind: type) -> Any:
        value = raw.get(key)
        return value if isinstance(value, kind) else kind()

    if isinstance(raw.get("name"), str) and not naming.is_valid_name(raw["name"]):
        problems.append(
            Problem(
                f"name is {raw['name']!r}: it becomes a folder, so letters, digits, _ . - only, not starting with a sign",
                source.place("name"),
            )
        )
    problems += read_code(part("code", list), source)[1]
    problems += settings_problems({str(k): v for k, v in part("set", dict).items()}, source, ("set",))
    problems += _axes_problems(part("axes", dict), source)
    for arm, settings in part("arms", dict).items():
        if isinstance(arm, str) and not (arm.strip() and arm.isprintable() and len(arm) <= MAX_ARM_CHARACTERS):
            rule = f"it is shown in tables, so 1 to {MAX_ARM_CHARACTERS} printable characters"
            problems.append(Problem(f"an arm is named {arm!r}: {rule}", source.place("arms", arm)))
        if isinstance(settings, dict):
            problems += settings_problems(settings, source, ("arms", arm))
    axes, arms = part("axes", dict), part("arms", dict)
    if axes and arms:
        problems.append(
            Problem(
                "an experiment has axes or arms, not both",
                source.place("arms"),
                "Write the grid's cells as arms too, or split the file in two.",
            )
        )
    problems = _kind_problems(raw, source, problems)
    if not axes and not arms and "axes" not in raw and "arms" not in raw and raw.get("kind") != "search":
        problems.append(Problem("nothing varies: there are neither axes nor arms", source.place()))
    for key in sorted(set(axes) & set(part("set", dict))):
        problems.append(Problem(f"{key!r} is an axis and also set", source.place("set", key), "Keep one."))
    problems += _baseline_problems(raw.get("baseline"), axes, arms, source)
    problems += _when_problems(part("when", dict), axes, source)
    seeds = part("seeds", list)
    if len(set(map(str, seeds))) != len(seeds):
        problems.append(Problem(f"seeds are {seeds}: each may stand once", source.place("seeds")))
    table = part("table", dict)
    if isinstance(table.get("rows"), list):
        for index, key in enumerate(table["rows"]):
            if axes and isinstance(key, str) and key not in axes:
                problems.append(Problem(f"{key!r} is not an axis", source.place("table", "rows", index), nearest(key, map(str, axes))))
    if isinstance(table.get("metrics"), list):
        for index, key in enumerate(table["metrics"]):
            if isinstance(key, str) and key not in naming.METRICS:
                problems.append(Problem(f"{key!r} is not a metric", source.place("table", "metrics", index), nearest(key, naming.METRICS)))
    if problems or experiment is None:
        raise SpecError(sorted(problems, key=lambda problem: source.line_of(problem.place)))
    return experiment, source


def _kind_problems(raw: dict[str, Any], source: Source, problems: list[Problem]) -> list[Problem]:
    """``problems``, and what an ablation and a search may not take from each other."""
    if raw.get("kind") == "search":
        own = "A search draws its settings itself: give them under search.space."
        found = [
            Problem(f"{key!r} belongs to an ablation", source.place(key), own)
            for key in ("axes", "arms", "when", "baseline", "reference")
            if key in raw
        ]
        if isinstance(raw.get("seeds"), list) and len(raw["seeds"]) > 1:
            hint = "`gfl-lab confirm` compares the best with the defaults over several seeds."
            found.append(Problem("a search has one seed: its suggestions differ in their settings alone", source.place("seeds"), hint))
        if "search" not in raw:
            found.append(
                Problem("'search' is missing: what is searched, and for how many trials", source.place("kind"), "See docs/search.md.")
            )
        elif isinstance(raw["search"], dict):
            fixed = raw["set"] if isinstance(raw.get("set"), dict) else {}
            found += search_problems(raw["search"], fixed, source)
        return problems + found
    unequal = "Trials that a scheduler stops early have unequal budgets, so rows could not be compared. Give `kind: search`."
    found = [
        Problem(f"{key!r} belongs to a search, not to an ablation", source.place(key), unequal)
        for key in ("search", "scheduler")
        if key in raw
    ]
    return [problem for problem in problems if problem.place != source.place("scheduler")] + found


def _axes_problems(axes: dict[Any, Any], source: Source) -> list[Problem]:
    problems = check_keys(axes, Settings.model_fields, source, ("axes",))
    for key, values in axes.items():
        if key not in Settings.model_fields:
            continue
        if not isinstance(values, list):
            continue  # told by the file's own model
        if not values:
            problems.append(Problem(f"axes.{key} is empty: it must list the values to try", source.place("axes", key)))
        shown = [repr(value) for value in values]  # true and 1, 1 and 1.0 are different values
        for index, value in enumerate(values):
            if key == "arguments" and not is_plain(value):
                problems.append(Problem(NOT_PLAIN, source.place("axes", key, index)))
            if shown[index] in shown[:index]:
                problems.append(Problem(f"{key} lists {value!r} twice", source.place("axes", key, index)))
            try:
                resolve_settings({key: value})
            except ValidationError as error:
                for problem in problems_of(error, Settings, source, ()):
                    problems.append(Problem(problem.message, source.place("axes", key, index), problem.hint))
    return problems


def _baseline_problems(baseline: Any, axes: dict[str, Any], arms: dict[str, Any], source: Source) -> list[Problem]:
    if baseline is None:
        return []
    if arms:
        if not isinstance(baseline, str) or baseline not in arms:
            return [
                Problem(f"baseline is {baseline!r}, which is not an arm", source.place("baseline"), nearest(str(baseline), map(str, arms)))
            ]
        return []
    if not isinstance(baseline, dict):
        return [Problem(f"baseline is {baseline!r}: it must give a value for each axis", source.place("baseline"))]
    problems = check_keys(baseline, axes, source, ("baseline",))
    for key, values in axes.items():
        if key not in baseline:
            problems.append(Problem(f"baseline gives no value for axis {key!r}", source.place("baseline")))
        elif isinstance(values, list) and baseline[key] not in values:
            problems.append(
                Problem(f"baseline.{key} is {baseline[key]!r}, which is not among the axis' values {values}", source.place("baseline", key))
            )
    return problems


def _when_problems(when: dict[str, Any], axes: dict[str, Any], source: Source) -> list[Problem]:
    problems = []
    for axis, condition in when.items():
        if axis not in axes:
            problems.append(
                Problem(f"when.{axis}: {axis!r} is not an axis", source.place("when", axis), nearest(str(axis), map(str, axes)))
            )
        for key, value in condition.items() if isinstance(condition, dict) else ():
            if key not in axes or key == axis:
                problems.append(Problem(f"when.{axis}.{key}: the condition must name another axis", source.place("when", axis, key)))
            elif isinstance(axes[key], list) and value not in axes[key]:
                problems.append(
                    Problem(
                        f"when.{axis}.{key} is {value!r}, which is not among the axis' values {axes[key]}", source.place("when", axis, key)
                    )
                )
    return problems


def _validate(model: type[Model], source: Source) -> Model:
    try:
        return model.model_validate(source.value)
    except ValidationError as error:
        raise SpecError(problems_of(error, model, source)) from None


__all__ = [
    "DeskData",
    "ExperimentFile",
    "Profile",
    "PublishedTable",
    "Resources",
    "SettingsRuleError",
    "find_profile",
    "load_experiment",
    "load_profile",
    "load_published",
    "resolve_settings",
]
