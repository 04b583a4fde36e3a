"""Experiment, profile and published-table files: loading them, with all problems in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec import cfg_options, renames
from gfl_lab.spec.choices import ROLES
from gfl_lab.spec.code import CodeFile, is_plain, not_plain, read_code
from gfl_lab.spec.experiment_rules import (
    axes_problems,
    baseline_problems,
    kind_problems,
    looks_problems,
    seed_problems,
    table_problems,
    varied_problems,
    when_problems,
)
from gfl_lab.spec.file_models import MAX_NAME_CHARACTERS, ExperimentFile, Profile, PublishedTable
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.messages import check_keys, problems_of
from gfl_lab.spec.needs import need_problems, needs_problems
from gfl_lab.spec.registered import CLASS_RULE, classes_in
from gfl_lab.spec.settings import Settings, rule_problems
from gfl_lab.spec.shorthand import lay_over
from gfl_lab.spec.source import Source, read_yaml

Model = TypeVar("Model", bound=BaseModel)


def settings_problems(given: dict[str, Any], source: Source, prefix: tuple[str | int, ...]) -> list[Problem]:
    """Return the problems of a partial set of settings: unknown keys, wrong types, values out of range, and rules between the others."""
    known = {key: value for key, value in given.items() if key in Settings.model_fields or cfg_options.is_option(key)}
    problems = check_keys(given, {**Settings.model_fields, **known}, source, prefix)
    for key in known:
        if not is_plain(known[key]) and (key in ("component_args", "cfg_options") or cfg_options.is_option(key)):
            problems.append(Problem(not_plain(key), source.place(*prefix, key)))
    problems += needs_problems(known, source, prefix, settings_problems)
    try:
        resolve_settings(known)
    except ValidationError as error:
        problems += problems_of(error, Settings, source, prefix)
        refused = {str(item["loc"][0]) for item in error.errors(include_url=False) if item["loc"]}
        if refused:  # then the rules between settings have not been looked at
            problems += [Problem(message, source.place(*prefix, key)) for key, message in rule_problems(known, refused)]
    return problems


def resolve_settings(*layers: dict[str, Any]) -> Settings:
    """Return settings from layers, later ones over earlier ones, over the defaults; of ``cfg_options`` path by path.

    Raises:
        ValidationError: a value breaks a rule.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = lay_over(merged, cfg_options.spread(layer))
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
    code, unread = read_code(part("custom_imports", list), source)
    problems += unread
    problems += settings_problems(part("overrides", dict), source, ("overrides",))
    problems += axes_problems(axes, source)
    for role in ROLES:
        for index, value in enumerate(axes[role] if isinstance(axes.get(role), list) else ()):
            if isinstance(value, dict):
                problems += need_problems(role, value, source, ("axes", role, index), settings_problems)
    for name, settings in variants.items():
        if not (name.strip() and name.isprintable() and len(name) <= MAX_NAME_CHARACTERS):
            rule = f"it is shown in tables, so 1 to {MAX_NAME_CHARACTERS} printable characters"
            problems.append(Problem(f"a variant is named {name!r}: {rule}", source.place("variants", name)))
        if isinstance(settings, dict):
            problems += settings_problems(settings, source, ("variants", name))
    problems += varied_problems(raw, source)
    problems = kind_problems(raw, source, problems)
    for key in sorted(set(axes) & set(part("overrides", dict))):
        problems.append(Problem(f"{key!r} is an axis and also in overrides", source.place("overrides", key), "Keep one."))
    problems += baseline_problems(raw.get("baseline"), axes, variants, source)
    problems += when_problems(part("when", dict), axes, source)
    problems += seed_problems(part("seeds", list), source)
    problems += looks_problems(part("seeds", dict), raw, source)
    problems += table_problems(part("table", dict), axes, source)
    return _checked(experiment, _with_own_classes(problems, code), source), source


def _with_own_classes(problems: list[Problem], code: Sequence[CodeFile]) -> list[Problem]:
    """Add the classes in the files of the user's to each problem of a class name that is none."""
    names = ", ".join(classes_in(file.content for file in code))
    hint = f"The files under `custom_imports` define: {names}."
    return [replace(each, hint=hint) if names and CLASS_RULE in each.message and not each.hint else each for each in problems]


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
