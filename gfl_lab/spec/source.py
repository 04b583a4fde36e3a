"""YAML files as plain values with the line of each key, and the problems of reading them."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec.renames import RenamedKeyWarning
from gfl_lab.spec.scalars import AmbiguousWord, value_of
from gfl_lab.spec.value_text import Path_, value_at

MAX_FILE_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 40
"""Levels of lists and mappings within each other."""

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
        found = value_at(self.value, at)
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
