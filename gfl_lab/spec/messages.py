"""pydantic's errors as problems of a file, in the file's own words, at the lines of their keys."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from gfl_lab.errors import Problem
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.rules import SettingsRuleError
from gfl_lab.spec.scalars import value_of
from gfl_lab.spec.source import Source
from gfl_lab.spec.value_text import Path_, show, value_at


def problems_of(error: ValidationError, model: type[BaseModel], source: Source, prefix: Path_ = ()) -> list[Problem]:
    """Tell each of pydantic's errors in the file's own words and place."""
    found: dict[Path_, list[Any]] = {}
    given = value_at(source.value, prefix)
    for item in error.errors(include_url=False):
        found.setdefault(_keys(item["loc"], item["type"], model, given), []).append(item)
    problems = []
    for keys, items in found.items():
        if any(len(other) > len(keys) and other[: len(keys)] == keys for other in found):
            continue  # one of several forms did fit, but for something within it
        rule = items[0].get("ctx", {}).get("error")
        if isinstance(rule, SettingsRuleError):
            problems += [Problem(message, source.place(*prefix, key)) for key, message in rule.problems]
        else:
            problems.append(_problem_at(items, keys, model, source, prefix))
    return problems


def _problem_at(items: list[Any], keys: Path_, model: type[BaseModel], source: Source, prefix: Path_) -> Problem:
    """Return one problem for all errors at one key: several items are the forms that it could have had."""
    kind, place = items[0]["type"], source.place(*prefix, *keys)
    name = ".".join(str(part) for part in keys)
    if kind == "extra_forbidden":
        parent = _model_at(model, keys[:-1])
        return Problem(f"unknown key {str(keys[-1])!r}", place, nearest(str(keys[-1]), parent.model_fields if parent is not None else ()))
    if kind == "missing":
        if isinstance(keys[-1], int):
            return Problem(f"{'.'.join(map(str, keys[:-1]))} lists {keys[-1]} values, too few", source.place(*prefix, *keys[:-1]))
        return Problem(f"{keys[-1]!r} is missing", source.place(*prefix, *keys[:-1]))
    if items[0]["loc"][-1:] == ("[key]",):
        known = re.findall(r"'([^']+)'", items[0].get("ctx", {}).get("expected", ""))
        return Problem(f"unknown key {items[0]['input']!r}", place, nearest(str(items[0]["input"]), known))
    rules = list(dict.fromkeys(_rule(item) for item in items))
    rule = rules[0] if len(rules) == 1 else "must be " + " or ".join(rule.removeprefix("must be ") for rule in rules)
    value = items[0]["input"]
    return Problem(f"{name} is {show(value)}: {rule}" if name else f"{show(value)} {rule}", place, _spelling(value, items))


def _keys(loc: Path_, kind: str, model: type[BaseModel], given: Any) -> Path_:
    """Return the keys of the file in an error's location, without the names of types that pydantic puts between them."""
    keys: list[str | int] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(given, Mapping) and part in given:
            given = given[part]
        elif isinstance(given, list | tuple) and isinstance(part, int) and part < len(given):
            given = given[part]
        elif (last and kind in ("missing", "extra_forbidden")) or (not keys and part in model.model_fields):
            given = None
        elif not (given is None and isinstance(part, int)):
            continue
        keys.append(part)
    return tuple(keys)


def _model_at(model: type[BaseModel], loc: Path_) -> type[BaseModel] | None:
    at: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):  # an entry of a list
            continue
        if at is None or part not in at.model_fields:
            return None
        options = _types_in(at.model_fields[part].annotation)
        at = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return at


def _types_in(annotation: Any) -> list[Any]:
    return [annotation, *(found for part in typing.get_args(annotation) for found in _types_in(part))]


_RULES = {
    "int_type": "must be a whole number (integer)",
    "int_from_float": "must be a whole number (integer)",
    "int_parsing": "must be a whole number (integer)",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false (boolean)",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be `key: value` pairs",
    "model_type": "must be `key: value` pairs",
    "model_attributes_type": "must be `key: value` pairs",
    "none_required": "must be null",
    "finite_number": "must be a finite number",
}


_BOUNDS = {
    "greater_than_equal": ("greater than or equal to", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("less than or equal to", "le"),
    "less_than": ("less than", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def _rule(item: Any) -> str:
    """Return the rule behind one of pydantic's errors, without names of Python types."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "float_type" and isinstance(item["input"], int) and not isinstance(item["input"], bool):
        return "must be a finite number, and this one is too large"
    if kind in _RULES:
        return _RULES[kind]
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]:g}" if abs(context[key]) < 1e5 else f"must be {words} {context[key]:,}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        count = context["min_length" if least else "max_length"]
        return f"must have {'at least' if least else 'at most'} {count} {'entry' if count == 1 else 'entries'}"
    if kind == "value_error":
        message = str(context["error"])
        return message if message.startswith(("it ", "must ")) else f"it is refused: {message}"
    return "must be something else; docs/experiment-files.md has the form of every key"


def _spelling(value: Any, items: list[Any]) -> str:
    """Return a hint for text that looks like another type."""
    kinds = {item["type"] for item in items}
    if kinds & {"int_type", "int_from_float"} and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"Write {int(value)}."
    if not isinstance(value, str):
        return ""
    if "bool_type" in kinds and value.lower() in ("true", "yes", "on", "false", "no", "off"):
        return f"Write {'true' if value.lower() in ('true', 'yes', 'on') else 'false'}, without quotes."
    if kinds & {"int_type", "float_type"}:
        try:
            number = value_of(value.strip())
        except ValueError:
            return "Write the number with digits and a decimal point alone."
        if isinstance(number, int | float) and not isinstance(number, bool):
            return f"Write {value.strip()} without quotes."
    return ""


def check_keys(given: Mapping[str, Any], known: Iterable[str], source: Source, prefix: Path_) -> list[Problem]:
    """Return a problem for each key of ``given`` that is not in ``known``."""
    known = list(known)
    return [Problem(f"unknown key {key!r}", source.place(*prefix, key), nearest(str(key), known)) for key in given if key not in known]
