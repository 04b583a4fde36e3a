"""lease.json: the process that runs a trial now."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.files import JsonObject, integer_of, number_of, object_of, read_json, text_of, write_record


@dataclass(frozen=True)
class Lease:
    """The holder of a trial.

    Attributes:
        pid: Process id of the holder.
        start: Start of the process, in clock ticks since boot; tells it from a later process with the same pid.
        host: Name of the machine.
        since: Unix time in s of the lease; 0 if unknown.
        run: Run of the driver that gave the trial to this node. Only on a cluster without a shared file system.
    """

    pid: int
    start: int | None
    host: str
    since: float = 0.0
    run: str = ""

    @property
    def here(self) -> bool:
        """True if the holder is on this machine."""
        return self.host == socket.gethostname()

    def same_holder(self, other: Lease) -> bool:
        """Return True if both name the same process."""
        return (self.pid, self.start, self.host) == (other.pid, other.start, other.host)

    def to_json(self) -> JsonObject:
        """Return the content of the file, without its format version."""
        found: JsonObject = {"pid": self.pid, "start": self.start, "host": self.host, "since": self.since}
        return {**found, "run": self.run} if self.run else found

    def encode(self) -> bytes:
        """Return the file's content, as an object in a storage holds it."""
        return json.dumps({"format": naming.FORMAT_VERSION, **self.to_json()}).encode()

    @classmethod
    def from_json(cls, found: JsonObject) -> Lease | None:
        """Return the lease in a JSON object, or None if it names no machine. A process that it does not name has the pid 0."""
        host = found.get("host")
        if not isinstance(host, str):
            return None
        return cls(
            pid=integer_of(found.get("pid")) or 0,
            start=integer_of(found.get("start")),
            host=host,
            since=number_of(found.get("since")) or 0.0,
            run=text_of(found.get("run")),
        )

    @classmethod
    def decode(cls, content: bytes) -> Lease | None:
        """Return the lease in an object of a storage, or None if there is none."""
        try:
            found = object_of(json.loads(content))
        except ValueError:
            return None
        return None if found is None else cls.from_json(found)


def read_lease(path: Path) -> Lease | None:
    """Read a lease; None if there is none or it cannot be read."""
    try:
        return Lease.from_json(read_json(path))
    except StoreError:
        return None


def write_lease(path: Path, lease: Lease) -> None:
    """Write a lease, atomically."""
    write_record(path, lease.to_json())
