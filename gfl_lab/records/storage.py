"""Files about a storage: the index of a data set's archives, and the files of a folder as both sides last had them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.files import damaged, integer_of, object_of, read_json, text_of, write_record

SPLITS = ("train", "val")
PATH_KEYS = tuple(f"{split}_{what}" for split in SPLITS for what in ("annotations", "images"))

SyncedStamp = tuple[int, int]
"""Size in bytes and time of the last change in ns."""


@dataclass(frozen=True)
class ArchiveIndex:
    """The archives that a data set is packed into.

    Attributes:
        digest: of the data set.
        archives: names, each the SHA-256 of its content.
        paths: of annotations and images inside the unpacked archives, by ``PATH_KEYS``.
    """

    digest: str
    archives: Sequence[str]
    paths: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Return the content of its file."""
        content = {"format": naming.FORMAT_VERSION, "digest": self.digest, "archives": list(self.archives), "paths": {**self.paths}}
        return json.dumps(content, indent=2).encode()


def read_archive_index(path: Path) -> ArchiveIndex:
    """Read the index of a data set's archives.

    Raises:
        StoreError: it is missing, damaged, or of another format.
    """
    found = read_json(path)
    paths, archives = object_of(found.get("paths")), found.get("archives")
    if paths is None or not all(isinstance(paths.get(key), str) for key in PATH_KEYS) or not isinstance(archives, list):
        raise damaged(path, "is no index of a data set's archives")
    return ArchiveIndex(text_of(found.get("digest")), tuple(map(text_of, archives)), {key: text_of(paths[key]) for key in PATH_KEYS})


def read_synced(path: Path, storage: str) -> dict[str, tuple[SyncedStamp, SyncedStamp]]:
    """Read the stamps (local, remote) of files as both sides last had them; none if they are of another storage, or cannot be read.

    Args:
        storage: digest of its address.
    """
    try:
        known = read_json(path)
    except StoreError:
        return {}
    files = object_of(known.get("files"))
    if known.get("storage") != storage or files is None:
        return {}
    pairs = {name: _pair(value) for name, value in files.items()}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def write_synced(path: Path, storage: str, files: Mapping[str, tuple[SyncedStamp, SyncedStamp]]) -> None:
    """Write the stamps of files as both sides now have them. Raises OSError."""
    write_record(path, {"storage": storage, "files": {name: [list(local), list(remote)] for name, (local, remote) in files.items()}})


def _pair(value: object) -> tuple[SyncedStamp, SyncedStamp] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    local, remote = map(_stamp, value)
    return None if local is None or remote is None else (local, remote)


def _stamp(value: object) -> SyncedStamp | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    size, mtime_ns = map(integer_of, value)
    return None if size is None or mtime_ns is None else (size, mtime_ns)
