"""Files of published weights: downloaded once into torch's hub folder, continued after an interruption, checked by their hash."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BufferedRandom
from pathlib import Path
from urllib.parse import urlsplit

import torch

from gfl_lab.addresses import file_name
from gfl_lab.errors import Problem, ResourceError

Progress = Callable[[int, int], None]
"""Called with the bytes that are there, and with the bytes of the whole file (0: not known)."""

TIMEOUT_SECONDS = 30.0
"""Longest wait for the server's next bytes."""

_BLOCK = 1 << 20
_CONNECTION_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class _Broken(Exception):
    """The transfer ended before the file did. ``str()`` is the reason; ``final``: another try is pointless."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def cache_folder() -> Path:
    """Return the folder of downloaded weights: ``hub/checkpoints`` under TORCH_HOME, by default under ~/.cache/torch."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(address: str, digest: str, progress: Progress = lambda done, of: None) -> Path:
    """Return the file at ``address``, from ``cache_folder()``, else downloaded into it.

    The received part is kept in ``NAME.part``. A later call continues there if the server can send parts of a file. Processes that
    ask for the same file at once download it once.

    Args:
        address: http or https; its last part is the file's name.
        digest: the first hex digits of the file's SHA-256. Empty: the file is not checked.
        progress: called for each MB of a download, never for a file that is there.

    Raises:
        ResourceError: it cannot be downloaded, or has another hash; the hint names the place for the file.
        OSError: the folder cannot be written to, or its disk is full.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ResourceError(f"{address} is no address of http or https")
    target = cache_folder() / file_name(address)
    if _is_whole(target, digest):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        with _locked(part) as file:
            if not _is_whole(target, digest):  # else another process was sooner
                _download(address, digest, file, progress)
                os.fsync(file.fileno())
                part.replace(target)
    except _Broken as error:
        raise _not_downloaded(address, target, part, str(error)) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:  # write() gives no name
            raise OSError(error.errno, error.strerror, str(part)) from error
        raise
    return target


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BufferedRandom]:
    """Open a file for appending, alone among processes. It is removed at the end if it is empty."""
    while True:
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # removed by the process that had it until now
            try:
                yield file
            finally:
                file.flush()
                own = os.fstat(file.fileno())
                if not own.st_size and part.exists() and os.path.samestat(own, part.stat()):
                    part.unlink()
            return


def _is_whole(path: Path, digest: str) -> bool:
    """Return True if a file is there and its hash, if one is known, is right."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not digest or hashlib.file_digest(file, "sha256").hexdigest().startswith(digest)


def _download(address: str, digest: str, file: BufferedRandom, progress: Progress) -> None:
    """Complete ``file``, which may hold the beginning. Raises _Broken, then with the part that has arrived, if it is of use."""
    if not digest:
        file.truncate(0)  # the beginning may be that of another file
    continued = file.seek(0, os.SEEK_END) > 0
    while True:
        before = file.tell()
        try:
            _transfer(address, file, progress)
        except _Broken as error:
            file.flush()
            if error.final or file.tell() <= before:
                raise
            continue  # a connection that broke: the rest is asked for, as long as each try brings something
        file.flush()
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found.startswith(digest):
            return
        file.truncate(0)
        if not continued:
            raise _Broken(f"its SHA-256 begins with {found[:8]} and should begin with {digest}", final=True)
        continued = False  # the beginning was of another file: once more from the start


def _transfer(address: str, file: BufferedRandom, progress: Progress) -> None:
    """Ask the server once for what is missing of ``file``, and append it. Raises _Broken if that is not all."""
    start = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            if start and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                file.truncate(0)  # the server sends files only whole
                start = file.seek(0)
            length = response.headers.get("Content-Length")
            total = start + int(length) if length is not None else 0
            done = start
            progress(done, total)
            while block := response.read(_BLOCK):
                file.write(block)
                done += len(block)
                progress(done, total)
    except urllib.error.HTTPError as error:
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the hash decides
        raise _Broken(f"the server answers {error.code} {error.reason}", final=True) from None
    except _CONNECTION_ERRORS as error:
        raise _Broken(str(getattr(error, "reason", "") or error or type(error).__name__)) from None
    if total and done < total:
        raise _Broken(f"the connection ended after {megabytes(done)} of {megabytes(total)}")


def megabytes(size: int) -> str:
    """Return a number of bytes in MB, for people."""
    return f"{size / 1e6:.1f} MB"


def _not_downloaded(address: str, target: Path, part: Path, reason: str) -> ResourceError:
    hint = f"{megabytes(part.stat().st_size)} are kept; the same command continues there. " if part.exists() else ""
    if target.exists():
        hint += f"{target} is there with another hash. "
    hint += f"Without a network: download it elsewhere and put it into {target.parent}."
    return ResourceError(Problem(f"{target.name} could not be downloaded from {address}: {reason}", hint=hint))
