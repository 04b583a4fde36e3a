"""Refusals from the command line alone, before anything is read, started or written."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from gfl_lab.errors import InputError, Problem, ResourceError

CONNECT_S = 5.0
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?):(?P<port>[0-9]{1,5})")
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


def check_address(address: str | None, executor: str) -> None:
    """Refuse a ``--address`` that no cluster can answer at.

    Raises:
        InputError: its form, or no token for it. ResourceError: nothing answers there.
    """
    if address is None:
        return
    if executor != "ray":
        raise InputError(
            Problem(f"--address {address} goes with --executor ray, and --executor is {executor}", hint="Leave one of the two out.")
        )
    form = "Write HOST:PORT, as `ray start --head` prints it, or auto for a cluster on this machine."
    match = _ADDRESS.fullmatch(address)
    if address != "auto" and (not match or not 0 < int(match["port"]) < 65536):
        raise InputError(Problem(f"--address {address!r} is no address of a Ray cluster", hint=form))
    if not os.environ.keys() & set(_TOKENS):
        hint = "Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_MODE=disabled for a cluster without tokens."
        raise InputError(Problem(f"no token for the Ray cluster at {address}", hint=hint))
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token and "RAY_AUTH_TOKEN" not in os.environ and not os.access(token, os.R_OK):
        raise InputError(
            Problem(f"RAY_AUTH_TOKEN_PATH names {token}, which cannot be read", hint="Name the file with the cluster's token.")
        )
    if match is None:
        return
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), CONNECT_S).close()
    except OSError as error:
        cause = error.strerror or str(error) or "no answer"
        raise ResourceError(Problem(f"no Ray cluster answers at {address}: {cause}", hint=f"Is its head running? {form}")) from None


def output_problem(path: Path, folder: bool) -> Problem | None:
    """Return why ``path`` cannot be written as a file, or with ``folder`` as a folder of files; None where it can."""
    kind = "folder" if folder else "file"
    if not str(path).strip() or "\0" in str(path):
        return Problem(f"the path of the {kind} to write is empty" if "\0" not in str(path) else "the path holds a NUL character")
    try:
        if path.exists() and path.is_dir() != folder:
            return Problem(f"{path} is {'no folder' if folder else 'a folder'}", hint=f"Give the path of a {kind}.")
        if path.is_symlink() and not path.exists():
            return Problem(f"{path} is a link to nothing", hint="Give another path.")
        existing = path if folder else path.absolute().parent
        while not os.path.lexists(existing):
            existing = existing.absolute().parent
        if not existing.is_dir():
            return Problem(f"{path} cannot be written: {existing} is no folder", hint="Give another path.")
        if not os.access(existing, os.W_OK | os.X_OK):
            return Problem(f"{path} cannot be written: {existing} does not permit it", hint="Give another path.")
    except (OSError, ValueError) as error:
        return Problem(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}", hint="Give another path.")
    return None


def require_output(path: Path, *, folder: bool) -> None:
    """Raise InputError if ``path`` cannot be written."""
    if problem := output_problem(path, folder):
        raise InputError(problem)


def require_new_file(path: Path, replace: bool) -> None:
    """Raise InputError if ``path`` cannot be written as a file, or exists and ``replace`` is False."""
    require_output(path, folder=False)
    if path.exists() and not replace:
        raise InputError(Problem(f"{path} exists", hint="Give --force to replace it, or another file."))
