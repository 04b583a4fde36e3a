"""Write the generated parts of these pages: settings, keys of files, options of commands, columns and verdicts.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated -->``. Write all of them anew with

    uv run python docs/reference.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from gfl_lab import naming
from gfl_lab.cli.main import cli
from gfl_lab.report import columns
from gfl_lab.spec.file_models import DeskData, ExperimentFile, Profile, PublishedRow, PublishedTable, Resources, TableSpec
from gfl_lab.spec.search import SearchSpec
from gfl_lab.spec.settings import CONDITIONS, Settings, group_of, help_of

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
