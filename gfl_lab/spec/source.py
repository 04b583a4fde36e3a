"""YAML files as plain values with the line of each key, and pydantic's errors reported at those lines."""

from __future__ import annotations

import difflib
import re
import typing
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.renames import RenamedKeyWarning
from gfl_lab.spec.rules import SettingsRuleError
from gfl_lab.spec.scalars import AmbiguousWord, value_of

MAX_FILE_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 40
"""Levels of lists and mappings within each other."""

Path_ = tuple[str | int, ...]

_PLAIN, _STRING = "plain", "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe parser, which gives nodes alone: unquoted words are tagged as such, and sizes are limited while it reads."""

    yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))], "": [(_PLAIN, re.compile(""))]}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._nodes, self._depth = self._nodes + 1, self._depth + 1
        line = self.peek_event().start_mark.line + 1
        if self._nodes > MAX_NODES:
            raise _TooMuch(f"the file holds more than {MAX_NODES:,} values", line)
        if self._depth > MAX_DEPTH:
            raise _TooMuch(f"lists and mappings are nested more than {MAX_DEPTH} levels deep", line)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _TooMuch(Exception):
    def __init__(self, message: str, line: int) -> None:
        self.line = line
        super().__init__(message)


@dataclass
class Source:
    """A YAML mapping and the line (from 1) of every key in it."""

    path: Path
    value: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """Wrong, though it could be read on: a key given twice, a word with two meanings (read as the likelier one)."""
    renamed: dict[str, str] = field(default_factory=dict)
    """{old name: warning with its place and its present name}."""

    def place(self, *keys: str | int) -> str:
        """Return ``file.yaml:12: axes.reg_max``; the nearest parent's line when the key itself has none."""
        line = next((self.lines[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in self.lines), 1)
        dotted = ".".join(str(key) for key in keys)
        return f"{self.path.name}:{line}" + (f": {dotted}" if dotted else "")

    def line(self, *keys: str | int) -> int:
        """Return the line of a key; 0 when it is not in the file."""
        return self.lines.get(keys, 0)

    def rename(self, table: Mapping[str, str], *at: str | int) -> None:
        """Replace old names of ``table`` among the keys of the mapping at ``at``; a list there has names as its entries.

        Each is noted in ``renamed``. Beside its new name an old one is among the ``problems``.
        """
        found = _at(self.value, at)
        if isinstance(found, list):
            for index, name in enumerate(found):
                if isinstance(name, str) and name in table:
                    self._note(name, table[name], self.place(*at, index))
                    found[index] = table[name]
        elif isinstance(found, dict) and not table.keys().isdisjoint(found):
            items = list(found.items())
            for key, _ in items:
                if key in table and table[key] in found:
                    message = f"{key!r} is the old name of {table[key]!r}, and both are given"
                    self.problems.append(Problem(message, self.place(*at, key), f"Keep {table[key]!r}."))
                elif key in table:
                    self._note(key, table[key], self.place(*at, key))
            found.clear()
            for key, value in items:
                found.setdefault(table.get(key, key), value)
            depth = len(at)
            for keys in [keys for keys in self.lines if keys[:depth] == at and len(keys) > depth and keys[depth] in table]:
                self.lines.setdefault((*at, table[str(keys[depth])], *keys[depth + 1 :]), self.lines[keys])

    def _note(self, old: str, new: str, place: str) -> None:
        self.renamed.setdefault(old, f"{place}: {old!r} is now called {new!r}")

    def warn_of_renamed(self) -> None:
        """Issue a ``RenamedKeyWarning`` for each old name in the file."""
        for message in self.renamed.values():
            warnings.warn(message, RenamedKeyWarning, stacklevel=2)

    @staticmethod
    def line_of(place: str) -> int:
        """Return the line named in a place; 0 when it names none."""
        number = place.split(": ")[0].rpartition(":")[2]
        return int(number) if number.isdigit() else 0


def read_yaml(path: Path) -> Source:
    """Read a YAML mapping: the core schema of YAML 1.2, keys as text, `<<` merges, no tags.

    Raises:
        SpecError: no file, not text, not YAML, empty, not a mapping, too large or too deep. Keys that are given twice and
            words that versions of YAML read differently are in the source's ``problems``, to be reported with all others.
    """
    try:
        if path.is_dir():
            raise SpecError(Problem(f"{path} is a folder", hint="Give the YAML file itself."))
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SpecError(f"{path} is {size} bytes long; an experiment file has at most {MAX_FILE_BYTES}")
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else [], n=1)
        raise SpecError(Problem(f"{path} does not exist", hint=f"Did you mean {path.parent / near[0]}?" if near else "")) from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not a text file in UTF-8") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise SpecError(f"{path!r} cannot be read: {error}") from None
    node = _compose(text, path.name)
    if node is None:
        raise SpecError(Problem("the file is empty", path.name, "An experiment needs at least: name, profile, and axes or variants."))
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(Problem("the file does not hold `key: value` lines at its top level", f"{path.name}:{node.start_mark.line + 1}"))
    reader = _Reader(path)
    reader.source.value = reader.value(node, ())
    if reader.unreadable:
        raise SpecError(reader.source.problems)
    return reader.source


def read_value(text: str) -> Any:
    """Return one YAML value as a file's would be read.

    Raises:
        SpecError: it is none, or can be read in two ways.
    """
    node = _compose(text, "")
    reader = _Reader(Path())
    value = None if node is None else reader.value(node, ())
    if found := reader.source.problems:
        raise SpecError([Problem(problem.message, hint=problem.hint) for problem in found])
    return value


def _compose(text: str, name: str) -> yaml.Node | None:
    """Return the root node of a text. Raises SpecError."""
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and name else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        hint = "Indent with spaces." if "'\\t'" in what else ""
        raise SpecError(Problem(f"not valid YAML: {what}", f"{name}{line}", hint)) from None
    except _TooMuch as error:
        raise SpecError(Problem(str(error), f"{name}:{error.line}" if name else "")) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(Problem(f"not valid YAML: {error}", name)) from None
    finally:
        if loader is not None:
            loader.dispose()


class _Reader:
    """From nodes to values, with the line of each key and every problem."""

    def __init__(self, path: Path) -> None:
        self.source = Source(path, {})
        self.unreadable = False
        self._values = 0
        self._open: list[yaml.Node] = []  # the nodes that hold the present one

    def value(self, node: yaml.Node, at: Path_) -> Any:
        """Return the value of ``node``, which stands at the key ``at``."""
        self._values += 1
        if self._values > MAX_NODES:  # aliases of aliases: a few lines that stand for millions
            self._refuse(node, f"the file holds more than {MAX_NODES:,} values, aliases (*name) written out")
        if len(self._open) > MAX_DEPTH:
            self._refuse(node, f"lists and mappings are nested more than {MAX_DEPTH} levels deep, aliases (*name) written out")
        if any(node is outer for outer in self._open):
            self._refuse(node, "an alias (*name) stands inside of what it names")
        self.source.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self._tell(node, f"the tag {_tag(node)} is not read", "Write lists, `key: value` pairs, text and numbers without tags.")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, at)
            found = []
            for index, item in enumerate(node.value):
                self.source.lines[(*at, index)] = item.start_mark.line + 1
                found.append(self.value(item, (*at, index)))
            return found
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, at: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or (key.tag == _PLAIN and not key.value):
                self._tell(key, "a key must be a plain word")
                continue
            name = key.value
            if name in seen:
                self._tell(key, f"{name!r} is given twice, first in line {seen[name]}", "Keep one.", readable=True)
            seen[name] = line
            if name == "<<" and key.tag == _PLAIN:
                for each in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    if isinstance(each, yaml.MappingNode):
                        merged = self.value(each, at) | merged
                    else:
                        self._tell(key, "`<<` takes `key: value` pairs from elsewhere in the file, and this is something else")
                continue
            self.source.lines[(*at, name)] = line
            found[name] = self.value(item, (*at, name))
        return merged | found

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _STRING:
            return node.value
        if node.tag != _PLAIN:
            hint = "Write text in quotes, and numbers, true, false and null without."
            self._tell(node, f"the tag {_tag(node)} is not read", hint)
            return None
        try:
            return value_of(node.value)
        except AmbiguousWord as error:
            self._tell(node, str(error), error.hint, readable=True)
            return error.meant
        except ValueError as error:
            self._tell(node, str(error))
        return None

    def _tell(self, node: yaml.Node, message: str, hint: str = "", readable: bool = False) -> None:
        self.unreadable = self.unreadable or not readable
        self.source.problems.append(Problem(message, self._place(node), hint))

    def _refuse(self, node: yaml.Node, message: str) -> None:
        raise SpecError([*self.source.problems, Problem(message, self._place(node))])

    def _place(self, node: yaml.Node) -> str:
        return f"{self.source.path.name}:{node.start_mark.line + 1}"


def _tag(node: yaml.Node) -> str:
    return node.tag.replace("tag:yaml.org,2002:", "!!")


def problems_of(error: ValidationError, model: type[BaseModel], source: Source, prefix: Path_ = ()) -> list[Problem]:
    """Tell each of pydantic's errors in the file's own words and place."""
    found: dict[Path_, list[Any]] = {}
    given = _at(source.value, prefix)
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
            problems.append(_told(items, keys, model, source, prefix))
    return problems


def _told(items: list[Any], keys: Path_, model: type[BaseModel], source: Source, prefix: Path_) -> Problem:
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


def _at(value: Any, keys: Path_) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


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


def show(value: Any) -> str:
    """Return a value as an experiment file would have it, text in quotes, at most 80 characters."""
    text = _written(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _written(value: Any, depth: int = 0) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if depth > 3 and isinstance(value, Mapping | list | tuple):
        return "..."
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(item, depth + 1)}" for key, item in list(value.items())[:10]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_written(item, depth + 1) for item in value[:30]) + "]"
    return repr(value)


def same(first: Any, second: Any) -> bool:
    """Return True if two values of a file mean the same: 1 is 1.0, but neither ``true`` nor ``"1"``."""
    return identity(first) == identity(second)


def identity(value: Any) -> Any:
    """Return a hashable key that is equal for two values that mean the same."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, Mapping):
        return ("map", frozenset((key, identity(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", tuple(identity(item) for item in value))
    return value if isinstance(value, int | float | str | type(None)) else repr(value)


def repeated(values: list[Any]) -> dict[int, int]:
    """Return {index: index of the first with the same meaning} of the values that are not the first of their kind."""
    first: dict[Any, int] = {}
    found = {}
    for index, value in enumerate(values):
        before = first.setdefault(identity(value), index)
        if before != index:
            found[index] = before
    return found


def check_keys(given: Mapping[str, Any], known: Iterable[str], source: Source, prefix: Path_) -> list[Problem]:
    """Return a problem for each key of ``given`` that is not in ``known``."""
    known = list(known)
    return [Problem(f"unknown key {key!r}", source.place(*prefix, key), nearest(str(key), known)) for key in given if key not in known]
