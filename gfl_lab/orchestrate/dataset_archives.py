"""Data sets and files of initial weights in a storage, under the digests by which trials name them.

A data set is packed into archives, because one request for each of a hundred thousand images takes longer than training on
them does. Each archive is named by its own SHA-256, and ``index.json``, written last, lists them: so a data set is there as a
whole or not at all, what an interrupted upload has put is not put again, and a damaged archive is noticed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from gfl_lab.data.layout import image_file
from gfl_lab.errors import Problem, StoreError
from gfl_lab.processes import one_at_a_time
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.storage import SPLITS, ArchiveIndex, read_archive_index
from gfl_lab.storage import Readable, Storage, is_plain_name

ARCHIVE_BYTES = 256 * 2**20
"""An archive is closed when it holds this much."""

_INDEX = "index.json"


def push_dataset(storage: Storage, digest: str, paths: DataPaths, say: Callable[[str], None]) -> None:
    """Put a data set, unless it is there.

    Args:
        digest: of its content. paths: of its files here.

    Raises:
        ResourceError: the storage cannot be reached. OSError: a file cannot be read.
    """
    folder = f"data/{digest}"
    if storage.stamp(f"{folder}/{_INDEX}"):
        return
    say(f"putting the data set {digest} into {storage.uri}, once")
    shared, own = paths.train_images == paths.val_images, paths.to_json()
    members: dict[str, Path] = {}
    found: dict[str, str] = {}
    for split in SPLITS:
        images = "images" if shared else split
        annotations = Path(own[f"{split}_annotations"])
        members[f"{split}.json"] = annotations
        folder_of_images = Path(own[f"{split}_images"])
        for image in json.loads(annotations.read_bytes())["images"]:
            file = image_file(folder_of_images, image["file_name"])  # under the name that it has here: it is found by it there too
            members[f"{images}/{file.relative_to(folder_of_images).as_posix()}"] = file
        found |= {f"{split}_annotations": f"{split}.json", f"{split}_images": images}
    there = storage.list(folder)
    archives = []
    for archive, name in _archives(members):
        size = archive.seek(0, 2)
        archive.seek(0)
        if name not in there or there[name].size != size:
            storage.upload(archive, f"{folder}/{name}")
        archives.append(name)
    storage.write(f"{folder}/{_INDEX}", ArchiveIndex(digest, archives, found).to_bytes())


def _archives(members: Mapping[str, Path]) -> Iterator[tuple[BinaryIO, str]]:
    """Yield temporary tar files over ``members``, the same ones for the same content, each with its name."""
    waiting = deque(members.items())
    while waiting:
        with tempfile.TemporaryFile(prefix="gfl-lab-") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                while waiting and file.tell() < ARCHIVE_BYTES:
                    name, path = waiting.popleft()
                    with path.open("rb") as content:
                        entry = tarfile.TarInfo(name)
                        entry.size = content.seek(0, 2)
                        content.seek(0)
                        archive.addfile(entry, content)
            file.flush()
            file.seek(0)
            yield file, hashlib.file_digest(file, "sha256").hexdigest() + ".tar"


def fetch_dataset(storage: Storage, digest: str, cache: Path) -> DataPaths:
    """Return the paths of a data set under ``cache / digest``; fetch it if it is missing. Processes of a node wait for each other.

    Raises:
        StoreError: it is not in the storage, or damaged there. ResourceError: the storage cannot be reached.
        OSError: it cannot be written here.
    """
    folder = cache / digest
    with one_at_a_time(cache / f".{digest}.lock"):
        if not folder.is_dir():
            for leftover in cache.glob(f".{digest}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=cache, prefix=f".{digest}.", suffix=".tmp"))
            try:
                _fetch_into(temporary, storage, digest)
                temporary.chmod(0o755)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    try:
        return DataPaths.from_json({key: str(folder / name) for key, name in read_archive_index(folder / _INDEX).paths.items()})
    except ValueError as error:
        raise StoreError(f"{folder / _INDEX} is damaged: it {error}") from None


def _fetch_into(folder: Path, storage: Storage, digest: str) -> None:
    index = storage.read(f"data/{digest}/{_INDEX}")
    if index is None:
        raise StoreError(f"data set {digest} is not in {storage.uri}, or not the whole of it")
    (folder / _INDEX).write_bytes(index)
    known = read_archive_index(folder / _INDEX)
    if not all(map(is_plain_name, known.paths.values())):
        raise StoreError(f"data/{digest}/{_INDEX} in {storage.uri} is damaged")
    for name in known.archives:
        with storage.reading(f"data/{digest}/{name}") as stream:
            hashed = _Hashed(stream)
            damage = None
            try:
                with tarfile.open(fileobj=cast(BinaryIO, hashed), mode="r|") as archive:  # it only reads
                    archive.extractall(folder, filter="data")
            except tarfile.TarError as error:
                damage = error
            while hashed.read(2**20):
                pass
        if damage or f"{hashed.sum.hexdigest()}.tar" != name:
            hint = f"Delete data/{digest} there; the next run puts it again."
            raise StoreError(Problem(f"data set {digest} is damaged in {storage.uri}: {name} is not what it was", hint=hint))


class _Hashed:
    """A stream whose SHA-256 is known when it has been read."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self.sum = stream, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.sum.update(data)
        return data


def push_weights(storage: Storage, digest: str, path: Path) -> None:
    """Put a file of initial weights, unless it is there. Raises ResourceError; OSError when it cannot be read."""
    there = storage.stamp(f"weights/{digest}")
    with path.open("rb") as file:
        if there is None or there.size != file.seek(0, 2):
            file.seek(0)
            storage.upload(file, f"weights/{digest}")


def fetch_weights(storage: Storage, digest: str, cache: Path) -> Path:
    """Return a file of initial weights under ``cache``; fetch it if it is missing.

    Raises:
        StoreError: it is not in the storage, or damaged there. ResourceError: the storage cannot be reached.
    """
    if not is_plain_name(digest):
        raise StoreError(f"{digest!r} is no digest of weights")
    path = cache / f"{digest}.pth"
    with one_at_a_time(cache / f".{digest}.lock"):
        if not path.exists():
            fetched = cache / f".{digest}.fetched"
            storage.download(f"weights/{digest}", fetched)
            with fetched.open("rb") as file:
                if not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
                    raise StoreError(f"weights/{digest} in {storage.uri} are damaged: delete them there; the next run puts them again")
            fetched.replace(path)
    return path
