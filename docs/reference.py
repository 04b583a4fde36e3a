"""Write the generated parts of these pages: settings, keys of files, options of commands, files of a run tree, columns and verdicts.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated -->``. Write all of them anew with

    uv run python docs/reference.py
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, NamedTuple

import click
from pydantic import BaseModel

from gfl_lab import naming
from gfl_lab.cli.main import cli
from gfl_lab.data.unassigned import MEANING
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.accumulation import Accumulation
from gfl_lab.records.cost import Measured, Spent
from gfl_lab.records.distribution_columns import COLUMNS
from gfl_lab.records.environment import Environment
from gfl_lab.records.lease import Lease
from gfl_lab.records.manifest import DataPaths, Manifest
from gfl_lab.records.marks import FailedRepair, SoundTrials
from gfl_lab.records.metric_lines import MetricLine
from gfl_lab.records.plan import Design, PlanFile, PlannedNeed
from gfl_lab.records.result import Done, Failed, Failure, Interrupted, Outcome
from gfl_lab.records.search import SearchFile, Suggestion
from gfl_lab.records.table_lock import TableLock
from gfl_lab.report import columns
from gfl_lab.spec.file_models import DeskData, ExperimentFile, Profile, PublishedRow, PublishedTable, Resources, TableSpec
from gfl_lab.spec.imported import ImportedSpec
from gfl_lab.spec.search import SearchSpec
from gfl_lab.spec.settings import CONDITIONS, Settings, group_of, help_of
from gfl_lab.spec.trial import DataSpec, TrialSpec

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: ([\w -]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# --- settings and keys of files -------------------------------------------------------------------


def settings_of(group: str) -> str:
    """Return the table of a group's settings."""
    schema = Settings.model_json_schema()["properties"]
    keys = [key for key in Settings.model_fields if group_of(key) == group]
    rows = [
        [f"`{key}`", f"`{json.dumps(schema[key].get('default'))}`", rule(schema[key]), CONDITIONS.get(key, ""), help_of(key)]
        for key in keys
    ]
    return table(("setting", "default", "values", "acts only with", "meaning"), rows)


def keys_of(model: type[BaseModel]) -> str:
    """Return the table of a file's keys. Every key has a description in the code."""
    schema = model.model_json_schema()
    rows = []
    for key, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{key} has no description"
        found = schema["properties"][key]
        empty = found.get("default") in (None, "", [], {}) or "$ref" in found
        default = "required" if field.is_required() else "" if empty else f"`{json.dumps(found['default'])}`"
        rows.append([f"`{key}`", default, rule(found), field.description])
    return table(("key", "default", "values", "meaning"), rows)


def rule(schema: dict[str, Any]) -> str:
    """Return the values that a key takes, in a few words; empty where the meaning says it."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return _list_rule(schema)
    if kind == "object":
        return "" if "propertyNames" not in schema else "by kind: " + ", ".join(f"`{kind}`" for kind in schema["propertyNames"]["enum"])
    if kind in ("boolean", "string"):
        return {"boolean": "`true`, `false`", "string": "text"}[kind]
    if kind in ("integer", "number"):
        return _number_rule(schema)
    numbers = [each for each in schema.get("anyOf", []) if each.get("type") in ("integer", "number")]
    return _number_rule(numbers[0]) if numbers else ""


def _list_rule(schema: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} values, each {rule(schema['prefixItems'][0])}"
    each = rule(schema["items"])
    if "maxItems" in schema:
        return f"{schema['minItems']} to {schema['maxItems']} of {each}"
    return f"list; each {each}" if each else "list"


def _number_rule(schema: dict[str, Any]) -> str:
    ends = (("exclusiveMinimum", "> "), ("minimum", "≥ "), ("exclusiveMaximum", "< "), ("maximum", "≤ "), ("multipleOf", "multiple of "))
    parts = ["whole number" if schema["type"] == "integer" else "number"]
    parts += [f"{sign}{schema[end]}" if isinstance(schema[end], int) else f"{sign}{schema[end]:g}" for end, sign in ends if end in schema]
    return ", ".join(parts)


# --- commands -------------------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    """Return every command by its full name; ``data check`` for a command of a group."""
    context = click.Context(cli)
    found: dict[str, click.Command] = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command
        members = (
            {f"{name} {each}": member for each, member in command.commands.items()} if isinstance(command, click.Group) else {name: command}
        )
        found |= members
    return found


def has_options(command: click.Command) -> bool:
    """Return True if a command has options beside ``--help``."""
    return any(isinstance(each, click.Option) and not each.hidden for each in command.params)


def options_of(command: click.Command) -> str:
    """Return the table of a command's options, without the former names and ``--help``."""
    rows = []
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            rows.append([f"`{_spelling(option)}`", _meaning(option)])
    return table(("option", "meaning"), rows)


def _spelling(option: click.Option) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(map(str, option.type.choices))}"
    return f"{names} {option.metavar or option.type.name.upper()}"


def _meaning(option: click.Option) -> str:
    text, _, default = " ".join((option.help or "").split()).partition(" [default: ")
    assert text, f"{option.name} has no help"
    default = default.rstrip("]") or (str(option.default) if option.show_default else "")
    return text + (f" Default: {default}." if default else "")


# --- files of a run tree --------------------------------------------------------------------------


class Field(NamedTuple):
    """Fields of a file with one meaning: their paths, the type of their values in words, and the meaning."""

    paths: tuple[str, ...]
    kind: str
    meaning: str


LEAVES: Collection[type] = frozenset({Settings, Environment, Accumulation, Failure, DataSpec})
"""Records whose fields another table has."""

PLACES: dict[tuple[type, str], str] = {
    **{
        (PlanFile, name): f"experiment.{name}"
        for name in ("question", "kind", "source", "axes", "declared", "min_effect", "notes", "design")
    },
    (PlanFile, "experiment"): "experiment.name",
    (PlanFile, "baseline"): "experiment.baseline",
    (PlanFile, "metrics"): "experiment.table.metrics",
    (PlanFile, "profile"): "profile.name",
    (PlanFile, "profile_title"): "profile.title",
    (PlannedNeed, "trial"): "",
    (Design, "min_effect"): "until_resolved",
    (SoundTrials, "stamps"): "trials",
}
"""Paths of attributes that have another name in the file; empty if the file has the fields of the attribute without it."""

DERIVED: dict[type, tuple[str, ...]] = {PlanFile: ("baseline",), SearchFile: ("digest",), Suggestion: ("epochs",)}
"""Properties that a file has beside the attributes."""

KEYS = {"trials": "<id>", "rows": "<variant>", "files": "<name>"}
"""Keys of the maps that hold records."""


def fields_of(record: type, prefix: str = "", leaves: Collection[type] = LEAVES) -> list[Field]:
    """Return the fields of a record in its file, with those of the records inside it. Every attribute has a meaning in the code."""
    hints = typing.get_type_hints(record, localns={"DataSpec": DataSpec})
    found = []
    for names, meaning in meanings_of(record).items():
        paths = tuple(PLACES.get((record, name), name) for name in names)
        inner, step = _inner_record(hints[names[0]], names[0])
        if paths[0]:
            found.append(Field(tuple(prefix + path for path in paths), _kind(hints[names[0]]), meaning))
        if inner is not None and inner not in leaves:
            found += fields_of(inner, prefix + (paths[0] + step if paths[0] else ""), leaves)
    return found + [property_of(record, name, prefix) for name in DERIVED.get(record, ())]


def meanings_of(record: type) -> dict[tuple[str, ...], str]:
    """Return {names: meaning} of a record's attributes: a model's descriptions, else the section of a docstring."""
    if issubclass(record, BaseModel):
        found = {(name,): field.description or "" for name, field in record.model_fields.items()}
        attributes = set(record.model_fields)
    else:
        section = (inspect.getdoc(record) or "").partition("Attributes:\n")[2].splitlines()
        lines: list[str] = []
        for line in itertools.takewhile(lambda line: line.startswith("    "), section):
            if line.startswith("        "):
                lines[-1] += " " + line.strip()
            else:
                lines.append(line.strip())
        found = {tuple(names.split(", ")): text.replace("``", "`") for names, _, text in (line.partition(": ") for line in lines)}
        attributes = {name for name, hint in inspect.get_annotations(record).items() if "ClassVar" not in str(hint)}
    missing = attributes - {name for names, meaning in found.items() for name in names if meaning}
    assert not missing, f"{record.__name__} has attributes without a meaning: {', '.join(sorted(missing))}"
    return found


def property_of(record: type, name: str, prefix: str = "") -> Field:
    """Return the field of a property; its meaning is the first line of its docstring."""
    found = inspect.getattr_static(record, name)
    hint = typing.get_type_hints(found.fget)["return"]
    return Field((prefix + PLACES.get((record, name), name),), _kind(hint), (inspect.getdoc(found) or "").splitlines()[0])


def manifest_fields() -> list[Field]:
    """Return the fields of a manifest."""
    imported = [field for field in fields_of(ImportedSpec, "spec.imported.") if field.paths != ("spec.imported.data",)]
    head = [property_of(Manifest, "trial"), property_of(Manifest, "created")]
    return [*head, *fields_of(TrialSpec, "spec.", frozenset({Settings})), *imported, *fields_of(DataPaths, "paths.")]


def _bare(hint: Any) -> Any:
    """Return a type without None and without ClassVar."""
    if typing.get_origin(hint) is ClassVar:
        return typing.get_args(hint)[0]
    others = [each for each in typing.get_args(hint) if each is not NoneType]
    return others[0] if NoneType in typing.get_args(hint) else hint


def _inner_record(hint: Any, name: str) -> tuple[type | None, str]:
    """Return the record inside a type, and the step of the path to its fields; None if there is no record."""
    hint = _bare(hint)
    origin, arguments, step = typing.get_origin(hint), typing.get_args(hint), "."
    if origin in (dict, Mapping):
        hint, step = arguments[1], f".{KEYS.get(name, '<key>')}."
    elif origin in (tuple, list, Sequence):
        hint, step = arguments[0], "[]."
    is_record = isinstance(hint, type) and ("Attributes:" in (hint.__doc__ or "") or issubclass(hint, BaseModel))
    return (hint if is_record else None), step


def _kind(hint: Any) -> str:
    hint = _bare(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{each.value}`" for each in hint)
    if typing.get_origin(hint) in (tuple, list, Sequence):
        return "list"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}.get(hint, "object")


def fields(found: Iterable[Field]) -> str:
    """Return the table of a file's fields."""
    return table(("key", "values", "meaning"), [[_names(field.paths), field.kind, field.meaning] for field in found])


def results() -> str:
    """Return the table of the fields of a result, by its status."""
    kinds: dict[str, type] = {"every": Outcome, "`done`": Done, "`failed`": Failed, "`interrupted`": Interrupted}
    rows = [
        [status, _names(field.paths), field.kind, field.meaning]
        for status, kind in kinds.items()
        for field in fields_of(kind, leaves=LEAVES - {Failure})
    ]
    return table(("status", "key", "values", "meaning"), rows)


def arrays() -> str:
    """Return the table of the arrays of an eval.npz that hold detections and ground truth."""
    return table(("array", "meaning"), [[_names(names), meaning] for names, meaning in meanings_of(Records).items()])


def distributions() -> str:
    """Return the columns of distributions.parquet."""
    return table(("column", "type", "meaning"), [[_names(column.names), column.type, column.meaning] for column in COLUMNS])


def _names(paths: Iterable[str]) -> str:
    return ", ".join(f"`{path}`" for path in paths)


FILES: dict[str, Callable[[], list[Field]]] = {
    "manifest": manifest_fields,
    **{
        name: lambda record=record: fields_of(record)
        for name, record in {
            "lease": Lease, "metrics": MetricLine, "accumulation": Accumulation, "repair": FailedRepair, "plan": PlanFile, "search": SearchFile,
            "lock": TableLock, "cost": Spent, "measured": Measured, "intact": SoundTrials,
        }.items()
    },
}  # fmt: skip
"""{name: function that returns the fields} of files of a run tree, without the version of their form."""


# --- tables ---------------------------------------------------------------------------------------


def metrics() -> str:
    """Return the table of the metrics."""
    rows = [[f"`{m.key}`", m.title, m.unit, "higher" if m.higher_is_better else "lower", m.help] for m in naming.METRICS.values()]
    return table(("key", "title", "unit", "better", "meaning"), rows)


def differences() -> str:
    """Return the columns of the table of differences."""
    return table(("column", "meaning"), [[column.title, column.help] for column in columns.difference_columns()])


def verdicts() -> str:
    """Return the verdicts."""
    return table(("verdict", "meaning"), [[f"`{verdict}`", meaning] for verdict, meaning in columns.VERDICTS.items()])


def causes() -> str:
    """Return the causes by which a box has no location."""
    return table(("`cause`", "meaning"), [[f"`{cause}`", meaning] for cause, meaning in MEANING.items()])


PARTS: dict[str, Callable[[], str]] = {
    **{f"settings {group}": lambda group=group: settings_of(group) for group in dict.fromkeys(map(group_of, Settings.model_fields))},
    **{
        f"keys {name}": lambda model=model: keys_of(model)
        for name, model in {
            "experiment": ExperimentFile, "table": TableSpec, "search": SearchSpec, "profile": Profile, "data": DeskData, "resources": Resources,
            "published table": PublishedTable, "published row": PublishedRow,
        }.items()
    },
    **{f"options {name}": lambda command=command: options_of(command) for name, command in commands().items() if has_options(command)},
    **{f"fields {name}": lambda of=of: fields(of()) for name, of in FILES.items()},
    "fields result": results,
    "fields eval": arrays,
    "fields distributions": distributions,
    "causes": causes,
    "metrics": metrics,
    "differences": differences,
    "verdicts": verdicts,
}  # fmt: skip
"""{name of a part: function that makes its text}."""


def renewed(text: str) -> str:
    """Return a page with its generated parts as the code has them now. Raises KeyError for an unknown part."""
    return PART.sub(lambda part: part[1] + PARTS[part[2]]() + part[3], text)


if __name__ == "__main__":
    for page in DOCS.glob("*.md"):
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
