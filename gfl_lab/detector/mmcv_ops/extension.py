"""The stand-in for ``mmcv._ext``, mmcv's compiled operators, which mmcv-lite lacks.

``install()`` puts a module of that name in place. It then puts our functions in the place of mmcv's functions of the same
name. An operator of the extension that is not served raises ``OperatorMissing`` when it is called. A compiled
``mmcv._ext`` is left alone.

Two decorators add an operator, each in a file of its own beside this one:

- ``@operator``: the function is the operator of the extension with its name. It has that operator's signature, with
  outputs that mmcv has allocated.
- ``@replaces(module)``: the function stands in for mmcv's function of its name in ``module``, one level above the
  extension. It is differentiable, so no operator for a gradient is needed.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any, TypeVar

from gfl_lab.errors import Problem, ResourceError

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Replacement = TypeVar("_Replacement", bound=Callable[..., Any])  # a function, or a class

EXTENSION = "mmcv._ext"

VERIFIED_MMCV = "2.1.0"
"""Version of mmcv-lite whose extension module and functions are replaced here."""

OPERATORS: dict[str, Callable[..., Any]] = {}
"""Operators of the extension that are served, by mmcv's names."""

FUNCTIONS: dict[tuple[str, str], Any] = {}
"""Functions and classes that stand in for mmcv's, by module and name."""


def served() -> list[str]:
    """Return the names of all operators and functions that are served, sorted."""
    return sorted({*OPERATORS, *(name for _, name in FUNCTIONS)})


class OperatorMissing(ResourceError, NotImplementedError):
    """A model needs an mmcv operator that is not served here."""

    def __init__(self, name: str) -> None:
        self.operator = name
        super().__init__(
            Problem(
                f"the mmcv operator '{name}' is not available: this environment has mmcv-lite, which has no compiled operators",
                hint=f"gfl-lab serves {', '.join(served())}; a compiled mmcv, where it is installed, is used instead.",
            )
        )


def operator(function: _Function) -> _Function:
    """Serve ``function`` as the operator of the same name of ``mmcv._ext``."""
    OPERATORS[function.__name__] = function
    return function


def replaces(module: str) -> Callable[[_Replacement], _Replacement]:
    """Put the decorated function or class in the place of the one of the same name in ``module``, wherever mmcv uses it."""

    def register(replacement: _Replacement) -> _Replacement:
        FUNCTIONS[module, replacement.__name__] = replacement
        return replacement

    return register


class _Extension(types.ModuleType):
    """The module ``mmcv._ext``: any name is there, the ones that are not served raise when called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in OPERATORS:
            return OPERATORS[name]

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise OperatorMissing(name)

        missing.__name__ = missing.__qualname__ = name
        return missing


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Extension(spec.name, __doc__)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def is_installed() -> bool:
    """Return True if ``mmcv._ext`` is the module that ``install`` made."""
    return isinstance(sys.modules.get(EXTENSION), _Extension)


def install() -> None:
    """Make ``mmcv.ops`` and with it ``mmdet.models`` importable without a compiled mmcv. Does nothing the second time."""
    if importlib.util.find_spec(EXTENSION) is not None:
        return
    module = importlib.util.module_from_spec(ModuleSpec(EXTENSION, _Loader(), origin=__name__))
    sys.modules[EXTENSION] = module
    import mmcv

    mmcv._ext = module
    importlib.import_module("mmcv.ops")
    # modules of mmcv import functions of each other by name, such as the switchable convolution deform_conv2d
    places = [place for name, place in list(sys.modules.items()) if name.startswith("mmcv.ops")]
    for (home, name), replacement in FUNCTIONS.items():
        original = getattr(importlib.import_module(home), name)
        for place in places:
            if place.__dict__.get(name) is original:
                setattr(place, name, replacement)
