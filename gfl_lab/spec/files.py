"""Experiment, profile and published-table files: their form, and loading them with every problem reported at once."""

from __future__ import annotations

import graphlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec import renames
from gfl_lab.spec.code import NOT_PLAIN, is_plain, read_code
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.search import SearchSpec, search_problems
from gfl_lab.spec.settings import Settings, rule_problems
from gfl_lab.spec.shorthand import lay_over
from gfl_lab.spec.source import Source, check_keys, problems_of, read_yaml, repeated, same, show
from gfl_lab.spec.values import value_problems

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
Model = TypeVar("Model", bound=BaseModel)
MAX_NAME_CHARACTERS = 100
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class DeskData(BaseModel):
    """The generated data set of a profile: how many images, how large, from which seed."""

    model_config = _STRICT

    train_images: int = Field(800, ge=8, le=100_000)
    val_images: int = Field(200, ge=8, le=100_000)
    size: int = Field(128, ge=128, le=1024, description="side of the square images, px")
    seed: Seed = 0


class Resources(BaseModel):
    """Resources of one trial. They do not change a trial's numbers, so they are not in its id."""

    model_config = _STRICT

    cpus: int = Field(1, ge=1, le=1024, description="CPU cores (and threads)")
    gpus: float = Field(0, ge=0, le=64, description="GPUs, or part of one; taken only where there is a GPU unless gpu_required")
    gpu_packing: bool = Field(
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
    """A profile: data, settings that suit them, resources."""

    model_config = _STRICT

    name: str
    title: str
    data: DeskData | Literal["required"] = Field(description="a generated data set, or `required`: give --data PATH")
    settings: dict[str, Any] = Field(default_factory=dict)
    resources: Resources = Field(default_factory=lambda: Resources.model_validate({}))
    cpu_seconds_per_image: float = Field(
        0, ge=0, description="training and evaluation of one image on one core, for a first estimate of time; 0 unknown"
    )
    reproduces: str = Field("", description="id of the published training settings that this profile repeats, when the data are the same")


class TableSpec(BaseModel):
    """Contents of the table."""

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
    custom_imports: list[str] = Field(default_factory=list, description="Python files that register components, relative to this file")
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    overrides: dict[str, Any] = Field(default_factory=dict)
    when: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baseline: dict[str, Any] | str | None = None
    seeds: list[Seed] = Field(default_factory=lambda: [0], min_length=1)
    published_table: str = ""
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
    """Return the problems of a partial set of settings: unknown keys, wrong types, values out of range, and rules between the others."""
    problems = check_keys(given, Settings.model_fields, source, prefix)
    known = {key: value for key, value in given.items() if key in Settings.model_fields}
    if not is_plain(known.get("component_args")):
        problems.append(Problem(NOT_PLAIN, source.place(*prefix, "component_args")))
    try:
        resolve_settings(known)
    except ValidationError as error:
        problems += problems_of(error, Settings, source, prefix)
        refused = {str(item["loc"][0]) for item in error.errors(include_url=False) if item["loc"]}
        if refused:  # then the rules between settings have not been looked at
            problems += [Problem(message, source.place(*prefix, key)) for key, message in rule_problems(known, refused)]
    return problems


def resolve_settings(*layers: dict[str, Any]) -> Settings:
    """Return settings from layers, later ones over earlier ones, over the defaults.

    Raises:
        ValidationError: a value breaks a rule.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = lay_over(merged, layer)
    return Settings(**merged)


def find_profile(name: str, folders: list[Path]) -> Path:
    """Return the file of profile ``name``: first of ``folders`` that has it.

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
    source.rename(renames.SETTINGS, "settings")
    source.rename(renames.RESOURCE_KEYS, "resources")
    profile, problems = _validate(Profile, source)
    if isinstance(settings := source.value.get("settings"), dict):
        problems += settings_problems(settings, source, ("settings",))
    if isinstance(name := source.value.get("name"), str) and name != path.stem:
        problems.append(Problem(f"name is {name!r} but the file is {path.name}", source.place("name"), "The two must agree."))
    return _checked(profile, problems, source)


def load_published(table_id: str, folders: list[Path], source: Source | None = None) -> PublishedTable:
    """Return the published table ``table_id``. Raises SpecError with every problem; if there is none, with the names that exist."""
    known = {path.stem: path for folder in reversed(folders) if folder.is_dir() for path in sorted(folder.glob("*.yaml"))}
    if table_id not in known:
        place = source.place("published_table") if source else ""
        raise SpecError(Problem(f"there is no published table {table_id!r}", place, nearest(table_id, known)))
    content = read_yaml(known[table_id])
    content.rename(renames.SETTINGS, "settings")
    for index, row in enumerate(content.value["rows"] if isinstance(content.value.get("rows"), list) else ()):
        if isinstance(row, dict) and not row.get("why_not"):
            content.rename(renames.SETTINGS, "rows", index, "settings")
    table, problems = _validate(PublishedTable, content)
    raw = content.value
    shared = raw["settings"] if isinstance(raw.get("settings"), dict) else {}
    wrong = settings_problems(shared, content, ("settings",))
    if isinstance(raw.get("id"), str) and raw["id"] != table_id:
        wrong.append(Problem(f"id is {raw['id']!r} but the file is {content.path.name}", content.place("id"), "The two must agree."))
    for index, row in enumerate(raw["rows"] if isinstance(raw.get("rows"), list) else []):
        if isinstance(row, dict) and isinstance(row.get("settings"), dict) and not row.get("why_not"):
            own = row["settings"] if wrong else lay_over(shared, row["settings"])
            problems += settings_problems(own, content, ("rows", index, "settings"))
    return _checked(table, problems + wrong, content)


def load_experiment(path: Path) -> tuple[ExperimentFile, Source]:
    """Read an experiment file and check everything that needs no profile.

    Raises:
        SpecError: every problem of the file, each with its line.
    """
    source = read_yaml(path)
    _rename_old(source)
    experiment, problems = _validate(ExperimentFile, source)
    raw = source.value

    def part(key: str, kind: type) -> Any:
        value = raw.get(key)
        return value if isinstance(value, kind) else kind()

    axes, variants = part("axes", dict), part("variants", dict)
    if isinstance(raw.get("name"), str) and not naming.is_valid_name(raw["name"]):
        problems.append(
            Problem(
                f"name is {raw['name']!r}: it becomes a folder, so letters, digits, _ . - only, not starting with a sign",
                source.place("name"),
            )
        )
    problems += read_code(part("custom_imports", list), source)[1]
    problems += settings_problems(part("overrides", dict), source, ("overrides",))
    problems += _axes_problems(axes, source)
    for name, settings in variants.items():
        if not (name.strip() and name.isprintable() and len(name) <= MAX_NAME_CHARACTERS):
            rule = f"it is shown in tables, so 1 to {MAX_NAME_CHARACTERS} printable characters"
            problems.append(Problem(f"a variant is named {name!r}: {rule}", source.place("variants", name)))
        if isinstance(settings, dict):
            problems += settings_problems(settings, source, ("variants", name))
    problems += _varied_problems(raw, source)
    problems = _kind_problems(raw, source, problems)
    for key in sorted(set(axes) & set(part("overrides", dict))):
        problems.append(Problem(f"{key!r} is an axis and also in overrides", source.place("overrides", key), "Keep one."))
    problems += _baseline_problems(raw.get("baseline"), axes, variants, source)
    problems += _when_problems(part("when", dict), axes, source)
    problems += _seed_problems(part("seeds", list), source)
    problems += _table_problems(part("table", dict), axes, source)
    return _checked(experiment, problems, source), source


def _rename_old(source: Source) -> None:
    """Replace old names wherever an experiment file has settings or keys of its own."""
    source.rename(renames.EXPERIMENT_KEYS)
    raw = source.value
    places: list[tuple[str, ...]] = [("axes",), ("overrides",), ("baseline",), ("when",), ("table", "rows"), ("search", "space")]
    for at in places:
        source.rename(renames.SETTINGS, *at)
    for key in ("variants", "when"):
        for name in raw[key] if isinstance(raw.get(key), dict) else ():
            source.rename(renames.SETTINGS, key, name)


def _varied_problems(raw: dict[str, Any], source: Source) -> list[Problem]:
    """Return the problems of a file in which nothing varies, or too much does."""
    if raw.get("kind") == "search":
        return []
    given = [key for key in ("axes", "variants") if key in raw]
    if not given:
        hint = "Give `axes`, for example `axes: {qfl: [false, true]}`, or `variants`."
        return [Problem("nothing varies: there are neither axes nor variants", source.place(), hint)]
    if len(given) == 2:
        hint = "Write the combinations of the axes as variants too, or split the file in two."
        return [Problem("an experiment has axes or variants, not both", source.place("variants"), hint)]
    hint = "List the values to try, or to train the defaults alone give one variant: `variants: {defaults: {}}`."
    return [Problem(f"{key} is empty: nothing varies", source.place(key), hint) for key in given if raw[key] == {}]


def _seed_problems(seeds: list[Any], source: Source) -> list[Problem]:
    return [
        Problem(
            f"seeds list {show(seeds[index])} twice, first in line {source.line('seeds', first)}: each may stand once",
            source.place("seeds", index),
            "Keep one.",
        )
        for index, first in repeated(seeds).items()
    ]


def _table_problems(table: dict[str, Any], axes: dict[str, Any], source: Source) -> list[Problem]:
    problems = []
    rows, metrics = [value if isinstance(value := table.get(key), list) else [] for key in ("rows", "metrics")]
    for index, key in enumerate(rows):
        if axes and isinstance(key, str) and key not in axes:
            problems.append(Problem(f"{key!r} is not an axis", source.place("table", "rows", index), nearest(key, axes)))
    for index, key in enumerate(metrics):
        if isinstance(key, str) and key not in naming.METRICS:
            problems.append(Problem(f"{key!r} is not a metric", source.place("table", "metrics", index), nearest(key, naming.METRICS)))
    for name, values in (("rows", rows), ("metrics", metrics)):
        for index in repeated(values):
            problems.append(Problem(f"table.{name} lists {show(values[index])} twice", source.place("table", name, index), "Keep one."))
    return problems


def _kind_problems(raw: dict[str, Any], source: Source, problems: list[Problem]) -> list[Problem]:
    """Return ``problems`` and the parts that an ablation and a search may not take from each other."""
    if raw.get("kind") == "search":
        own = "A search draws its settings itself: give them under search.space."
        found = [
            Problem(f"{key!r} belongs to an ablation", source.place(key), own)
            for key in ("axes", "variants", "when", "baseline", "published_table")
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
            fixed = raw["overrides"] if isinstance(raw.get("overrides"), dict) else {}
            found += search_problems(raw["search"], fixed, source)
        return problems + found
    unequal = "Trials that a scheduler stops early have unequal budgets, so rows could not be compared. Give `kind: search`."
    found = [
        Problem(f"{key!r} belongs to a search, not to an ablation", source.place(key), unequal)
        for key in ("search", "scheduler")
        if key in raw
    ]
    return [problem for problem in problems if problem.place != source.place("scheduler")] + found


def _axes_problems(axes: dict[str, Any], source: Source) -> list[Problem]:
    problems = check_keys(axes, Settings.model_fields, source, ("axes",))
    for key, values in axes.items():
        if key not in Settings.model_fields or not isinstance(values, list):
            continue  # reported by the file's own model
        if not values:
            problems.append(Problem(f"axes.{key} is empty: it must list the values to try", source.place("axes", key)))
        problems += value_problems(key, values, source, ("axes", key))
    return problems


def _baseline_problems(baseline: Any, axes: dict[str, Any], variants: dict[str, Any], source: Source) -> list[Problem]:
    if baseline is None:
        return []
    if variants:
        if not isinstance(baseline, str) or baseline not in variants:
            message = f"baseline is {show(baseline)}, which is not a variant"
            return [Problem(message, source.place("baseline"), nearest(str(baseline), variants))]
        return []
    if not isinstance(baseline, dict):
        if not isinstance(baseline, str):
            return []  # reported by the file's own model
        return [Problem(f"baseline is {show(baseline)}: it must give a value for each axis", source.place("baseline"))]
    problems = check_keys(baseline, axes, source, ("baseline",)) if axes else []
    for key, values in axes.items():
        if key not in baseline:
            problems.append(Problem(f"baseline gives no value for axis {key!r}", source.place("baseline")))
        elif isinstance(values, list) and not _among(baseline[key], values):
            message = f"baseline.{key} is {show(baseline[key])}, which is not among the axis' values {show(values)}"
            problems.append(Problem(message, source.place("baseline", key)))
    return problems


def _when_problems(when: dict[str, Any], axes: dict[str, Any], source: Source) -> list[Problem]:
    problems = []
    for axis, condition in when.items():
        if axis not in axes:
            problems.append(Problem(f"when.{axis}: {axis!r} is not an axis", source.place("when", axis), nearest(axis, axes)))
        if condition == {}:
            message = f"when.{axis} is empty: it must name another axis and its value"
            problems.append(Problem(message, source.place("when", axis), "Drop it, or give a condition: `when: {reg_max: {dfl: true}}`."))
        for key, value in condition.items() if isinstance(condition, dict) else ():
            place = source.place("when", axis, key)
            if key not in axes or key == axis:
                hint = nearest(key, set(axes) - {axis}) if set(axes) - {axis} else ""
                problems.append(Problem(f"when.{axis}.{key}: the condition must name another axis", place, hint))
            elif isinstance(axes[key], list) and not _among(value, axes[key]):
                values = show(axes[key])
                problems.append(Problem(f"when.{axis}.{key} is {show(value)}, which is not among the axis' values {values}", place))
    if cycle := _cycle(
        {axis: [key for key in condition if key in when] for axis, condition in when.items() if isinstance(condition, dict)}
    ):
        hint = "Drop one of these conditions: each axis would have to apply before the other."
        problems.append(Problem(f"the conditions form a cycle: {' -> '.join(cycle)}", source.place("when", cycle[0]), hint))
    return problems


def _cycle(needs: dict[str, list[str]]) -> list[str]:
    """Return the keys of a cycle, the first also last; empty if there is none. A key that needs itself is no cycle; it has its own problem."""
    graph = {key: [other for other in others if other != key] for key, others in needs.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))  # graphlib names a key before those that need it
    return []


def _among(value: Any, values: list[Any]) -> bool:
    return any(same(value, each) for each in values)


def _validate(model: type[Model], source: Source) -> tuple[Model | None, list[Problem]]:
    """Return the file as ``model``, or None and the problems of its form."""
    try:
        return model.model_validate(source.value), []
    except ValidationError as error:
        return None, problems_of(error, model, source)


def _checked(found: Model | None, problems: list[Problem], source: Source) -> Model:
    """Return ``found`` and warn of old names. Raises SpecError with the problems, each once, in the order of the file."""
    source.warn_of_renamed()
    problems = [*source.problems, *problems]
    if problems or found is None:
        raise SpecError(sorted(dict.fromkeys(problems), key=lambda problem: source.line_of(problem.place)))
    return found


__all__ = [
    "DeskData",
    "ExperimentFile",
    "Profile",
    "PublishedTable",
    "Resources",
    "find_profile",
    "load_experiment",
    "load_profile",
    "load_published",
    "resolve_settings",
]
