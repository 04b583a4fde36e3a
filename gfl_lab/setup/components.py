"""The user's code: imported so that its classes are registered while, and only while, a trial that uses it runs.

A file is executed once in a process, from the bytes that were read, as a module named by its digest. ``load`` makes the
registries hold the classes of exactly the files it is given, so trials with and without them can follow each other in one
process, and a changed file can follow its former self.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mmdet.registry
import mmengine.registry
from mmengine.registry import Registry

import gfl_lab.detector  # noqa: F401  (what the user's file must find registered)
from gfl_lab import naming
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.rundir import TrialDir
from gfl_lab.spec.code import CodeFile
from gfl_lab.spec.trial import TrialSpec

MODULE_PREFIX = "gfl_lab_component_"

_FRAMEWORK = {"mmdet", "mmengine", "mmcv", "gfl_lab"}
_REGISTRIES = list(
    {
        id(value): value
        for package in (mmengine.registry, mmdet.registry)
        for value in vars(package).values()
        if isinstance(value, Registry)
    }.values()
)


@dataclass(frozen=True)
class _Entry:
    """A class under a name in a registry."""

    registry: Registry
    name: str
    value: type


_imported: dict[str, tuple[_Entry, ...]] = {}
"""Classes that each executed file has registered, by digest."""
_active: dict[str, CodeFile] = {}
"""Files whose classes the registries hold now, by digest."""


def load(files: Sequence[CodeFile]) -> frozenset[str]:
    """Register the classes of ``files``, and of no other file of the user's.

    Returns:
        Their names.

    Raises:
        InputError: a file cannot be imported, or registers a name that is taken; the problem names file and line.
    """
    wanted = {file.digest: file for file in files}
    for digest in [digest for digest in _active if digest not in wanted]:
        _withdraw(_imported[digest])
        del _active[digest]
    for digest, file in wanted.items():
        if digest in _active:
            continue
        if digest not in _imported:
            _imported[digest] = _execute(file)
        else:
            for entry in _imported[digest]:
                if entry.name in entry.registry.module_dict:
                    raise InputError(_taken(f"{entry.name} is already registered in {entry.registry.name}", file.name))
                entry.registry.module_dict[entry.name] = entry.value
        _active[digest] = file
    return frozenset(entry.name for digest in wanted for entry in _imported[digest])


def load_of_trial(trial: TrialDir, spec: TrialSpec) -> None:
    """Register what the trial's own copies of the user's files hold; nothing for a trial without.

    Raises:
        StoreError: a copy is missing or is not what the trial's id was made with. InputError: it cannot be imported here.
    """
    files = []
    for component in spec.components:
        path = trial.file(naming.COMPONENTS_DIR) / component.name
        try:
            file = CodeFile(path, path.read_bytes())
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        if file.digest != component.digest:
            raise StoreError(
                Problem(
                    f"{path} was changed: the trial was planned with other code", hint="Run the experiment again: it writes the copy anew."
                )
            )
        files.append(file)
    load(files)


def _execute(file: CodeFile) -> tuple[_Entry, ...]:
    """Run the file as a module and see what it registers; on an error nothing of it stays."""
    module = types.ModuleType(MODULE_PREFIX + file.digest)
    module.__file__ = str(file.path)
    before = {id(registry): dict(registry.module_dict) for registry in _REGISTRIES}
    known = set(sys.modules)
    sys.modules[module.__name__] = module
    problem = None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # `--json` keeps stdout for itself
            exec(compile(file.content, str(file.path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        problem = problem_of(error, file)
    entries, replaced = [], []
    for registry in _REGISTRIES:
        former = before[id(registry)]
        for name, value in registry.module_dict.items():
            if name not in former and not _is_new_framework_class(value, known):
                entries.append(_Entry(registry, name, value))
            elif name in former and former[name] is not value:
                replaced.append(_Entry(registry, name, former[name]))
    if replaced and problem is None:
        names = ", ".join(entry.name for entry in replaced)
        problem = Problem(f"it replaces what is registered as {names}", file.name, "Give your class a name of its own.")
    if problem is not None:
        _withdraw(entries)
        for entry in replaced:
            entry.registry.module_dict[entry.name] = entry.value
        del sys.modules[module.__name__]
        raise InputError(problem)
    return tuple(entries)


def _is_new_framework_class(value: type, known: set[str]) -> bool:
    """Return True if an import in the user's file has made mmdet or mmengine register a class of theirs."""
    module = getattr(value, "__module__", "") or ""
    return module.partition(".")[0] in _FRAMEWORK and module not in known


def _withdraw(entries: Sequence[_Entry]) -> None:
    for entry in entries:
        entry.registry.module_dict.pop(entry.name, None)


def problem_of(error: BaseException, *files: CodeFile) -> Problem:
    """Return the problem of an exception in the user's code, with the line of the user's file."""
    names = {str(file.path): file.name for file in files}
    place = next(iter(names.values())) if len(names) == 1 else ""
    for frame, line in _frames(error):
        if frame in names:
            place = f"{names[frame]}:{line}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, KeyError) and "is already registered in" in text:
        return _taken(text, place)
    return Problem(f"{type(error).__name__}: {text}" if text else type(error).__name__, place)


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    """Return (file, line) of each frame of the error, outermost first; a syntax error's own place last."""
    for frame in traceback.extract_tb(error.__traceback__):
        yield frame.filename, frame.lineno or 0
    if isinstance(error, SyntaxError):
        yield error.filename or "", error.lineno or 0


def _taken(text: str, place: str) -> Problem:
    for digest, file in _active.items():
        text = text.replace(f"at {MODULE_PREFIX}{digest}", f"by {file.name}")
    return Problem(text, place, "Give your class a name of its own.")
