"""Files in S3-compatible storage, or on any file system that pyarrow opens, for a cluster whose nodes share no disk.

Objects are whole or not there, whichever the storage: what fails half-way replaces nothing. Credentials and endpoint come from
where the storage's own tools look for them (for S3 the AWS environment variables); an address that holds any is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from urllib.parse import parse_qsl, urlsplit

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem, ResourceError, StoreError
from gfl_lab.records.files import atomic_path
from gfl_lab.records.storage import read_synced, write_synced

WHOLE_BYTES = 8 * 2**20
"""Up to this size an object is written in one call; a larger one under another name first."""
_CHUNK = 4 * 2**20
_SECRET = re.compile(r"secret|password|token|key|sas|credential|signature", re.IGNORECASE)
_MARK = "gfl-lab-storage.json"
_SYNCED = ".synced.json"


@dataclass(frozen=True)
class Stamp:
    """Size in bytes and time of the last change of an object or a file, to see that it has changed."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: Any) -> Stamp:
        """Return the stamp of a local file's ``os.stat_result``."""
        return cls(status.st_size, status.st_mtime_ns)


def is_storage_uri(text: str) -> bool:
    """Return True if ``text`` is the address of a storage, not a path."""
    return "://" in text


def is_plain_name(name: str) -> bool:
    """Return True if ``name``, from a storage's listing, may become a file in a folder of ours."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\\\0")


class Storage:
    """A folder of objects. Names are relative to it and have ``/`` between their parts. Safe for threads.

    Args:
        uri: ``s3://bucket/prefix``, ``file:///mnt/prefix``, or what else pyarrow.fs.FileSystem.from_uri takes.

    Raises:
        InputError: no such address, or one with credentials in it. ResourceError: pyarrow cannot open it.
    """

    def __init__(self, uri: str) -> None:
        try:
            parts = urlsplit(uri)
            secret = "@" in parts.netloc or any(_SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            raise InputError("the address of the storage is no URI; write s3://BUCKET/PREFIX") from None
        if secret:
            raise InputError(
                Problem("the address of the storage holds credentials", hint="Leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
            )  # fmt: skip
        if not parts.scheme or not is_storage_uri(uri):
            raise InputError(Problem(f"{uri!r} is no address of a storage", hint="Write s3://BUCKET/PREFIX, or file:///PATH for a mount."))
        import pyarrow
        from pyarrow import fs

        self.uri = uri
        self._fs_module = fs
        try:
            whole, path = fs.FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
            raise InputError(f"{uri!r} is no address of a storage: {_sentence(error)}") from None
        except (OSError, pyarrow.ArrowException) as error:
            raise ResourceError(f"the storage {uri} cannot be opened: {_sentence(error)}") from None
        if not path.strip("/"):
            raise InputError(Problem(f"{uri!r} names no bucket or folder", hint="Write s3://BUCKET/PREFIX."))
        self._atomic = whole.type_name == "s3"  # an object appears when its last part has arrived
        self._whole, self._base, self._fs = whole, path.rstrip("/"), fs.SubTreeFileSystem(path, whole)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def prepare(self) -> None:
        """Find out, before any work is done, whether the storage answers, can be written and is of our format.

        Raises:
            ResourceError: it does not answer or refuses. StoreError: another version's.
        """
        mark = self.read(_MARK)
        if mark is None:
            self.write(_MARK, json.dumps({"format": naming.FORMAT_VERSION}).encode())
            return
        try:
            version = json.loads(mark)["format"]
        except (ValueError, LookupError, TypeError):
            version = None
        if version != naming.FORMAT_VERSION:
            raise StoreError(
                Problem(f"{self.uri} has format {version}; this gfl-lab reads format {naming.FORMAT_VERSION}", hint="Give another prefix.")
            )

    def list(self, folder: str, *, deep: bool = False) -> dict[str, Stamp]:
        """Return the objects in ``folder``, by name relative to it; with those of its sub-folders if ``deep``. Raises ResourceError."""
        with self._reaching(folder):
            found = self._fs.get_file_info(self._fs_module.FileSelector(folder, recursive=deep, allow_not_found=True))
        files = (info for info in found if info.type == self._fs_module.FileType.File)
        stamps = {str(PurePosixPath(info.path).relative_to(folder)): Stamp(info.size, info.mtime_ns) for info in files}
        return {name: stamp for name, stamp in stamps.items() if not PurePosixPath(name).name.startswith(".")}

    def stamp(self, name: str) -> Stamp | None:
        """Return the stamp of an object, or None when there is none. Raises ResourceError."""
        with self._reaching(name):
            info = self._fs.get_file_info(name)
        return Stamp(info.size, info.mtime_ns) if info.type == self._fs_module.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """Return the content of a small object, or None when there is none. Raises ResourceError."""
        try:
            with self._reaching(name, may_be_absent=True), self._fs.open_input_stream(name) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Readable]:
        """Open an object as a file to be read from begin to end.

        Raises:
            StoreError: there is none. ResourceError: it cannot be reached.
        """
        try:
            with self._reaching(name, may_be_absent=True):
                stream = self._fs.open_input_stream(name)
        except FileNotFoundError:
            raise StoreError(f"{name} is not in {self.uri}") from None
        with stream:
            yield _Guarded(self, name, stream)

    def write(self, name: str, content: bytes) -> None:
        """Put an object, whole. Raises ResourceError."""
        self._put(name, [content])

    def upload(self, file: BinaryIO, name: str) -> None:
        """Put what stands in ``file`` from its place on, up to the size that it has now. Raises ResourceError; OSError from the file."""
        start = file.tell()
        left = file.seek(0, 2) - start
        file.seek(start)
        if left <= WHOLE_BYTES:
            self._put(name, [file.read(left)])
            return

        def chunks() -> Iterator[bytes]:
            read = 0
            while read < left and (chunk := file.read(min(_CHUNK, left - read))):
                read += len(chunk)
                yield chunk

        self._put(name, chunks())

    def download(self, name: str, path: Path) -> int:
        """Fetch an object to ``path``, which it replaces when it has arrived whole; the bytes it holds.

        Raises:
            StoreError: there is none. ResourceError: it cannot be reached. OSError: ``path`` cannot be written.
        """
        size = 0
        with self.reading(name) as stream, atomic_path(path) as temporary, temporary.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                size += file.write(chunk)
            stamp = self.stamp(name)
            if stamp is None or stamp.size != size:
                raise ResourceError(f"{name} in {self.uri} changed or broke off while it was fetched")
        return size

    def delete(self, name: str) -> None:
        """Take an object away, if it is there. Raises ResourceError."""
        with contextlib.suppress(FileNotFoundError), self._reaching(name, may_be_absent=True):
            self._fs.delete_file(name)

    def _put(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write an object from a stream. A stream cut short by an error makes an object too, so parts go to another name first."""
        direct = self._atomic and isinstance(chunks, list)
        folder, _, last = name.rpartition("/")
        target = name if direct else f"{folder}/.{last}.{secrets.token_hex(4)}.tmp".lstrip("/")
        with self._reaching(name):
            if not self._atomic:
                self._whole.create_dir(f"{self._base}/{folder}".rstrip("/"), recursive=True)
            stream = self._fs.open_output_stream(target)
        try:
            for chunk in chunks:
                with self._reaching(name):
                    stream.write(chunk)
            with self._reaching(name):
                stream.close()
                if not direct:
                    self._fs.move(target, name)
        except BaseException:
            with contextlib.suppress(Exception):
                stream.close()
            if not direct:
                with contextlib.suppress(ResourceError):
                    self.delete(target)
            raise

    @contextlib.contextmanager
    def _reaching(self, name: str, *, may_be_absent: bool = False) -> Iterator[None]:
        """Turn each error of the storage into a ResourceError that names the object; FileNotFoundError passes if it is expected."""
        import pyarrow

        try:
            yield
        except (OSError, pyarrow.ArrowException) as error:
            if may_be_absent and isinstance(error, FileNotFoundError):
                raise
            raise ResourceError(f"{name or 'the folder'} in {self.uri} cannot be reached: {_sentence(error)}") from None


class Readable(Protocol):
    """A stream that can be read from begin to end."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes; all that is left if it is negative."""
        ...


class _Guarded:
    """A stream of a storage whose errors are the storage's."""

    def __init__(self, storage: Storage, name: str, stream: Any) -> None:
        self._storage, self._name, self._stream = storage, name, stream

    def read(self, size: int = -1) -> bytes:
        with self._storage._reaching(self._name):
            data: bytes = self._stream.read(size) if size >= 0 else self._stream.read()
            return data


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_open: dict[str, Storage] = {}
_opening = threading.Lock()


def open_storage(uri: str) -> Storage:
    """Return the storage at an address; one object for each address in a process. Raises as Storage does."""
    with _opening:
        if uri not in _open:
            _open[uri] = Storage(uri)
        return _open[uri]


class Synced:
    """A local folder and its counterpart in a storage, which one side at a time works on.

    The stamps of both sides when they were last equal are kept in the folder, so that one can see which side has changed
    since, without comparing clocks.

    Args:
        folder: the local one; made when something is fetched.
        remote: name of the counterpart in the storage.
    """

    def __init__(self, storage: Storage, folder: Path, remote: str) -> None:
        self.storage, self.folder, self.remote = storage, folder, remote
        self._file = folder / _SYNCED
        self._pairs: dict[str, tuple[Stamp, Stamp]] = {}  # name: (local, remote)
        for name, (local, there) in read_synced(self._file, self._storage_digest()).items():
            self._pairs[name] = Stamp(*local), Stamp(*there)

    def changed_there(self, listed: dict[str, Stamp]) -> list[str]:
        """Return the names of ``listed`` (the counterpart now) that have changed since both sides were equal."""
        return [name for name, stamp in listed.items() if name not in self._pairs or self._pairs[name][1] != stamp]

    def changed_here(self, names: Iterable[str]) -> list[str]:
        """Return the names of existing local files that have changed since both sides were equal."""
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                stamp = Stamp.of((self.folder / name).stat())
                if name not in self._pairs or self._pairs[name][0] != stamp:
                    found.append(name)
        return found

    def pull(self, name: str, stamp: Stamp) -> None:
        """Fetch a file, listed with ``stamp``. Raises StoreError, ResourceError, OSError."""
        path = self.folder / name
        self.storage.download(f"{self.remote}/{name}", path)
        self._remember(name, Stamp.of(path.stat()), stamp)

    def push(self, names: Iterable[str]) -> None:
        """Put files, in this order. All are opened before the first is read: what is appended to meanwhile only gets longer.

        Raises:
            ResourceError: the storage cannot be reached. OSError: a file cannot be read.
        """
        with contextlib.ExitStack() as opened:
            files = []
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a checkpoint at the moment of its replacement
                    files.append((name, opened.enter_context((self.folder / name).open("rb"))))
            for name, file in files:
                here = Stamp.of(os.fstat(file.fileno()))
                self.storage.upload(file, f"{self.remote}/{name}")
                there = self.storage.stamp(f"{self.remote}/{name}")
                if there:
                    self._remember(name, here, there)

    def forget(self, name: str) -> None:
        """Delete the file there; the local one is left alone. Raises ResourceError."""
        self.storage.delete(f"{self.remote}/{name}")
        if self._pairs.pop(name, None):
            self._save()

    def _remember(self, name: str, here: Stamp, there: Stamp) -> None:
        self._pairs[name] = (here, there)
        self._save()

    def _save(self) -> None:
        files = {name: ((here.size, here.mtime_ns), (there.size, there.mtime_ns)) for name, (here, there) in self._pairs.items()}
        write_synced(self._file, self._storage_digest(), files)

    def _storage_digest(self) -> str:
        return naming.digest([self.storage.uri, self.remote])
