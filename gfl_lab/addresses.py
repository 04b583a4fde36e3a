"""Paths as people give them, as URLs, and back. No other module pastes a path into a URL: ``%``, ``?`` and ``#`` have a meaning there."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from gfl_lab.errors import InputError, Problem

SQLITE_PATH_BYTES = 504
"""Longest path of a database that SQLite opens: its limit is 512 bytes, and it adds ``-journal`` to the name."""

_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def file_name(address: str) -> str:
    """Return the name of the file at the end of a URL."""
    return PurePosixPath(unquote(urlsplit(address).path)).name


def digest_in_name(address: str) -> str:
    """Return the first hex digits of a file's SHA-256, which published weights have in their name: ``25944287`` of ``x-25944287.pth``.

    Empty where the name has none.
    """
    match = _DIGEST.search(file_name(address))
    return match[1] if match else ""


def absolute_beside(text: str, beside: Path, what: str) -> str:
    """Return the path with ``~`` resolved and links as they are. A relative one starts at the folder ``beside``.

    Args:
        what: the setting that gives it, for messages.

    Raises:
        InputError: it cannot be written down as UTF-8 text.
    """
    try:
        path = os.path.abspath(beside / Path(text).expanduser())
    except RuntimeError:  # no such user
        path = os.path.abspath(beside / text)
    check_text(path, what)
    return path


def absolute(text: str | os.PathLike[str], what: str) -> Path:
    """Return the path with ``~`` and links resolved.

    Args:
        what: what the path is of, for messages: "GFL_LAB_HOME".

    Raises:
        InputError: it has no absolute form, or cannot be written down as UTF-8 text.
    """
    try:
        path = Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a current folder that is gone, a NUL
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            Problem(f"{what}: {shown(os.fspath(text))} is no path here: {reason}", hint="Give the absolute path of a folder.")
        ) from None
    check_text(str(path), what)
    return path


def check_text(text: str, what: str) -> None:
    """Raise InputError if ``text`` has bytes that are not UTF-8: plans, manifests and MLflow hold paths as text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(Problem(f"{what}: {shown(text)} has bytes that are not UTF-8", hint="Rename it, or give another path.")) from None


def readable(text: str) -> str:
    """Return text as it can be printed: letters of any script as they are; control characters and marks that turn text escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def shown(text: str) -> str:
    """Return ``text`` in quotes, as ``readable`` returns it."""
    return f"'{readable(text)}'"


def file_uri(path: Path) -> str:
    """Return ``file:///...`` of an absolute path.

    Raises:
        ValueError: the path is relative.
    """
    return path.as_uri()


def sqlite_uri(path: Path) -> str:
    """Return the SQLAlchemy URL of a database file: ``sqlite:////...``, and ``sqlite+pysqlite:////...`` if the path needs escapes.

    Both name the same driver. For the first prefix MLflow makes the folder of the path as it is written, escapes and all.

    Raises:
        ValueError: this version of SQLAlchemy reads another path back (before 2.1 it cannot write a ``?``), or the path is not
            valid UTF-8.
    """
    from sqlalchemy.engine import URL, make_url

    text = URL.create("sqlite", database=str(path)).render_as_string()
    if text != f"sqlite:///{path}":
        text = URL.create("sqlite+pysqlite", database=str(path)).render_as_string()
    if make_url(text).database != str(path):
        raise ValueError(f"SQLAlchemy has no URL for the path {str(path)!r}")
    return text


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the file behind a SQLAlchemy URL, or None where the URL names no file.

    A database in memory is no file, and neither is the server of another kind of URL.
    """
    if not uri.startswith("sqlite"):  # most addresses are of servers: no need of SQLAlchemy, which takes a second to import
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database).resolve()


@contextlib.contextmanager
def sqlite_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for reading alone; nothing is created where there is none.

    Raises:
        sqlite3.Error: there is no file, or it is no database.
    """
    connection = sqlite3.connect(f"{file_uri(path.absolute())}?mode=ro", uri=True)
    try:
        yield connection
    finally:
        connection.close()
