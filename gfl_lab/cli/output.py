"""Printing, as all commands do it: data on stdout, everything else on stderr, colour only where it belongs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

from gfl_lab.errors import GflLabError

if TYPE_CHECKING:
    from rich.console import Console


def consoles() -> tuple[Console, Console]:
    """Return rich's consoles for stdout and stderr; no colour without a terminal, with NO_COLOR or on a dumb terminal."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"

    def make(file: TextIO) -> Console:
        width = None if file.isatty() else 160
        return Console(file=file, no_color=plain or None, highlight=False, soft_wrap=False, width=width, markup=False, emoji=False)

    return make(sys.stdout), make(sys.stderr)


def say(text: str = "") -> None:
    """Print a line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def in_container() -> bool:
    """Return True if this process runs in a container of Docker, Podman or Kubernetes."""
    return os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv") or "KUBERNETES_SERVICE_HOST" in os.environ


def warn_of_container() -> None:
    """Print a warning if this is a container: its servers can be reached from inside alone."""
    if in_container():
        say(
            "warning: this listens on 127.0.0.1 of the container, which cannot be reached from outside; docs/deployment.md has services that can"
        )


def print_json(value: object) -> None:
    """Print JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_problems(error: GflLabError) -> None:
    """Print every problem of an error on stderr."""
    count = len(error.problems)
    if count > 1:
        say(f"error: {count} problems")
    for problem in error.problems:
        say(f"  {problem}" if count > 1 else f"error: {problem}")
