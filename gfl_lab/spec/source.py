"""YAML files as plain values that remember where each key stood, and pydantic's errors told in those places."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec.settings import SettingsRuleError

MAX_FILE_BYTES = 1_000_000
MAX_NODES = 100_000

Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader, which also reads ``1e-4`` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


@dataclass
class Source:
    """A YAML mapping and the line (from 1) of every key in it."""

    path: Path
    value: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)

    def place(self, *keys: str | int) -> str:
        """``file.yaml:12: axes.reg_max``; the nearest parent's line when the key itself has none."""
        line = next((self.lines[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in self.lines), 1)
        dotted = ".".join(str(key) for key in keys)
        return f"{self.path.name}:{line}" + (f": {dotted}" if dotted else "")

    @staticmethod
    def line_of(place: str) -> int:
        """The line named in a place; 0 when it names none."""
        number = place.split(": ")[0].rpartition(":")[2]
        return int(number) if number.isdigit() else 0


def read_yaml(path: Path) -> Source:
    """Read a YAML mapping with the safe loader.

    Raises:
        SpecError: no file, not text, not YAML, empty, not a mapping, or a key given twice.
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

    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise SpecError(Problem("the file is empty", path.name, "An experiment needs at least: name, profile, and axes or arms."))
        if not isinstance(node, yaml.MappingNode):
            raise SpecError(
                Problem("the file does not hold `key: value` lines at its top level", f"{path.name}:{node.start_mark.line + 1}")
            )
        source = Source(path, {})
        problems: list[Problem] = []
        _index(node, (), source, problems)
        source.value = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(Problem(f"not valid YAML: {what}", f"{path.name}{line}")) from None
    except (ValueError, TypeError, RecursionError) as error:  # e.g. an impossible date, an unhashable key
        raise SpecError(Problem(f"not valid YAML: {error}", path.name)) from None
    finally:
        if loader is not None:
            loader.dispose()
    if problems:
        raise SpecError(problems)
    return source


def _index(node: yaml.Node, at: Path_, source: Source, problems: list[Problem]) -> None:
    if len(source.lines) > MAX_NODES:  # aliases of aliases: a few lines that stand for millions
        raise SpecError(Problem(f"the file holds more than {MAX_NODES:,} values", source.path.name))
    source.lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = getattr(key, "value", None)
            line = key.start_mark.line + 1
            if not isinstance(name, str):
                problems.append(Problem("a key must be a plain word", f"{source.path.name}:{line}"))
                continue
            if name in seen:
                problems.append(Problem(f"{name!r} is given twice, first in line {seen[name]}", f"{source.path.name}:{line}", "Keep one."))
            seen[name] = line
            source.lines[(*at, name)] = line
            _index(value, (*at, name), source, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.lines[(*at, index)] = item.start_mark.line + 1
            _index(item, (*at, index), source, problems)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the nearest valid key, or all of them when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Valid keys: {', '.join(known)}."


def problems_of(error: ValidationError, model: type[BaseModel], source: Source, prefix: Path_ = ()) -> list[Problem]:
    """Tell each of pydantic's errors in the file's own words and place."""
    problems = []
    for item in error.errors(include_url=False):
        rule = item.get("ctx", {}).get("error")
        if isinstance(rule, SettingsRuleError):
            problems += [Problem(message, source.place(*prefix, key)) for key, message in rule.problems]
            continue
        loc = tuple(part for part in item["loc"])
        keys = prefix + loc
        kind = item["type"]
        if kind == "extra_forbidden":
            parent = _model_at(model, loc[:-1])
            known = parent.model_fields if parent is not None else ()
            problems.append(Problem(f"unknown key {str(loc[-1])!r}", source.place(*keys), nearest(str(loc[-1]), known)))
        elif kind == "missing":
            problems.append(Problem(f"{loc[-1]!r} is missing", source.place(*keys[:-1])))
        else:
            name = ".".join(str(part) for part in loc)
            problems.append(Problem(f"{name} is {_show(item['input'])}: {_reword(item['msg'])}", source.place(*keys)))
    return problems


def _model_at(model: type[BaseModel], loc: Path_) -> type[BaseModel] | None:
    for part in loc:
        if not isinstance(part, str) or part not in model.model_fields:
            return None
        annotation = model.model_fields[part].annotation
        options = [annotation, *typing.get_args(annotation)]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return None
    return model


def _show(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _reword(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return message if message.startswith(("it ", "must ")) else f"must be {message}" if message[:1].islower() else message


def check_keys(given: Mapping[str, Any], known: Iterable[str], source: Source, prefix: Path_) -> list[Problem]:
    """A problem for each key of ``given`` that is not in ``known``."""
    known = list(known)
    return [Problem(f"unknown key {key!r}", source.place(*prefix, key), nearest(str(key), known)) for key in given if key not in known]
