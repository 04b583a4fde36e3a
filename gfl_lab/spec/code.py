"""Files of Python code that an experiment brings along (``custom_imports``): read and checked here, never run."""

from __future__ import annotations

import ast
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import Problem
from gfl_lab.spec.choices import BUILT_IN
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.source import MAX_FILE_BYTES, Source
from gfl_lab.spec.trial import ComponentFile


@dataclass(frozen=True)
class CodeFile:
    """A file of the user's code as it was read.

    Attributes:
        path: absolute.
        content: its bytes; what is imported and copied is this, not what may stand in the file by then.
    """

    path: Path
    content: bytes

    @property
    def name(self) -> str:
        """File name, unique in an experiment."""
        return self.path.name

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()[:16]

    @property
    def component(self) -> ComponentFile:
        """The record that a trial keeps of it."""
        return ComponentFile(name=self.name, digest=self.digest)


def read_code(entries: Sequence[Any], source: Source) -> tuple[tuple[CodeFile, ...], list[Problem]]:
    """Return the files named under ``custom_imports``, relative to the experiment file, and the problems with them.

    Args:
        entries: as written; what is no text is left to the experiment's own model.
    """
    files: list[CodeFile] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, str):
            continue
        place = source.place("custom_imports", index)
        found = _read(entry, source.path.resolve().parent)
        if isinstance(found, Problem):
            problems.append(Problem(found.message, found.place or place, found.hint))
        elif found.name in {file.name for file in files}:
            problems.append(
                Problem(f"two files of `custom_imports` are called {found.name}", place, "Copies lie side by side in a trial: rename one.")
            )
        else:
            files.append(found)
    return tuple(files), problems


def _read(entry: str, folder: Path) -> CodeFile | Problem:
    try:
        path = Path(os.path.abspath(folder / Path(entry).expanduser()))
        if path.suffix != ".py" or not naming.is_valid_name(path.name):
            rule = "a Python file, its name of letters, digits, _ . and - with .py at the end"
            return Problem(f"custom_imports names {entry!r}: it must be {rule}")
        if path.exists() and not path.is_file():
            return Problem(f"{entry} is no file", hint="Name the .py files themselves.")
        if path.stat().st_size > MAX_FILE_BYTES:
            return Problem(f"{entry} is larger than {MAX_FILE_BYTES:,} bytes")
        content = path.read_bytes()
    except FileNotFoundError:
        return Problem(f"{entry} does not exist", hint=f"Paths under `custom_imports` are relative to the experiment file, in {folder}.")
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, an unknown ~user
        return Problem(f"{entry} cannot be read: {getattr(error, 'strerror', None) or error}")
    try:
        ast.parse(content, filename=path.name)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        return Problem(f"not valid Python: {error.msg}", f"{path.name}{line}")
    except (ValueError, RecursionError, MemoryError) as error:
        return Problem(f"not valid Python: {error}", path.name)
    return CodeFile(path, content)


def class_names(settings: Settings) -> set[str]:
    """Return every registered class that ``settings`` may name: under ``head``, ``box_loss``, ... and anywhere in ``component_args``."""
    own = {value for key, known in BUILT_IN.items() if (value := getattr(settings, key)) not in known}
    return own | {text.rpartition(".")[2] for text in _texts(settings.component_args)}  # without a scope: mmdet.MyLoss


def not_plain(key: str) -> str:
    """Return the message on a setting whose value is not plain (``is_plain``)."""
    return f"{key} holds what a trial's manifest cannot: only text, finite numbers, true, false, null, lists and mappings with text keys"


def is_plain(value: Any) -> bool:
    """Return True if JSON gives ``value`` back as it is, so that a trial's manifest can hold it."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
