"""Files of a run tree: written atomically; JSON with a format version, and one error for each way in which it cannot be read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, cast

from gfl_lab import naming
from gfl_lab.errors import FormatError, Problem, StoreError

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
JsonObject: TypeAlias = "Mapping[str, JsonValue]"
"""A JSON object as it was read; for reading alone."""

WAYS_OUT = {
    naming.PLAN: "Move it away (`gfl-lab doctor --repair` does so) and run the experiment again: finished trials are found by their ids.",
    naming.SEARCH: "Move it away and run the search again: the trials are kept, but the search starts anew.",
    naming.MANIFEST: "Run the experiment again: the manifest is written anew.",
    naming.RESULT: "Run the experiment again: the trial continues from its last checkpoint.",
    naming.ACCUMULATION: "Move the trial's folder away and run the experiment again: it trains the trial anew.",
}
"""The way out for a damaged file, by its name."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that is moved onto it, synced to disk, when the block ends without an error.

    Raises:
        OSError: of a full disk, naming ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:  # write() gives no name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused: readers in other languages cannot parse it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_record(path: Path, content: JsonObject) -> None:
    """Write a JSON object with the present format version before its own keys, atomically."""
    write_json(path, {"format": naming.FORMAT_VERSION, **content})


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_json(path: Path) -> dict[str, JsonValue]:
    """Read a JSON object written by this package.

    A file without a format version is taken for one of the present version.

    Raises:
        StoreError: the file is missing or damaged.
        FormatError: this version does not read its format.
    """
    found = read_json_or_none(path)
    if found is None:
        raise StoreError(f"{path} does not exist")
    return found


def read_json_or_none(path: Path) -> dict[str, JsonValue] | None:
    """Read a JSON object as ``read_json`` does; None if there is no file."""
    try:
        value = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise damaged(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except RecursionError:
        raise damaged(path, "cannot be read: it is nested too deeply") from None
    if not isinstance(value, dict):
        raise damaged(path, f"holds {type(value).__name__}, not an object")
    check_format(path, value.get("format", naming.FORMAT_VERSION))
    return value


def damaged(path: Path, reason: str) -> StoreError:
    """Return the error to raise for a file of the run tree that cannot be used, with the way out."""
    return StoreError(Problem(f"{path} {reason}", hint=WAYS_OUT.get(path.name, "")))


def check_format(path: Path, version: object) -> None:
    """Refuse a file of a format that this version does not read.

    Raises:
        FormatError: an older or a newer format; it gives the way out.
    """
    if version == naming.FORMAT_VERSION and not isinstance(version, bool):
        return
    newer = isinstance(version, int) and version > naming.FORMAT_VERSION
    hint = (
        "Use the newer gfl-lab that wrote it." if newer else "Use the gfl-lab that wrote it, or move the folder away and compute it again."
    )
    raise FormatError(Problem(f"{path} has format {version!r}; this gfl-lab reads format {naming.FORMAT_VERSION}", hint=hint))


# --- values of JSON objects -----------------------------------------------------------------------


def number_of(value: object) -> float | None:
    """Return a value if it is a number, which a bool is not, else None. Infinity and NaN are numbers."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def integer_of(value: object) -> int | None:
    """Return a value if it is an integer, which a bool is not, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def object_of(value: object) -> JsonObject | None:
    """Return a value if it is a JSON object, else None."""
    return cast(JsonObject, value) if isinstance(value, dict) else None


def text_of(value: object) -> str:
    """Return a value as text; empty for None."""
    return "" if value is None else str(value)
