"""Published files: downloaded once, continued after an interruption, checked by hash. From a server on 127.0.0.1."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfl_lab.checkpoints import download
from gfl_lab.checkpoints.download import cache_folder, fetch
from gfl_lab.errors import ResourceError
from tests.support.file_server import FileServer, file_server

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]
NAME = f"net-{DIGEST}.pth"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of one file, and an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_BLOCK", 1024)
    with file_server({NAME: CONTENT}) as own:
        yield own


def get(server: FileServer, digest: str = DIGEST, name: str = NAME) -> Path:
    return fetch(f"{server.uri}/{name}", digest)


def files() -> dict[str, int]:
    return {path.name: path.stat().st_size for path in cache_folder().iterdir()}


def test_a_file_is_downloaded_once_with_its_progress(server: FileServer, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    path = fetch(f"{server.uri}/{NAME}", DIGEST, lambda done, of: steps.append((done, of)))
    assert path == tmp_path / "home" / "hub" / "checkpoints" / NAME and path.read_bytes() == CONTENT
    assert steps == [(done, 10240) for done in range(0, 10241, 1024)]
    assert get(server) == path and server.seen == [(NAME, "")] and files() == {NAME: 10240}


def test_an_interrupted_download_goes_on_where_it_stands(server: FileServer) -> None:
    """The second try brings nothing, so the call gives up; the next call asks for the rest alone."""
    server.cuts = [3000, 0]
    with pytest.raises(ResourceError) as caught:
        get(server)
    assert "0.0 MB of 0.0 MB" in str(caught.value) and "the same command continues there" in str(caught.value)
    assert caught.value.exit_code == 6 and files() == {f"{NAME}.part": 3000}
    assert get(server).read_bytes() == CONTENT and files() == {NAME: 10240}
    assert [asked for _, asked in server.seen] == ["", "bytes=3000-", "bytes=3000-"]


def test_a_connection_that_breaks_is_opened_again(server: FileServer) -> None:
    server.cuts = [3000, 4000]
    assert get(server).read_bytes() == CONTENT
    assert [asked for _, asked in server.seen] == ["", "bytes=3000-", "bytes=7000-"]


def test_a_server_without_ranges_sends_the_file_again(server: FileServer) -> None:
    server.ranges, server.cuts = False, [3000]
    assert get(server).read_bytes() == CONTENT
    assert [asked for _, asked in server.seen] == ["", "bytes=3000-"]


def test_a_beginning_of_another_file_is_dropped(server: FileServer) -> None:
    cache_folder().mkdir(parents=True)
    part = cache_folder() / f"{NAME}.part"
    for beginning in (b"x" * 100, b"x" * 20000):
        part.write_bytes(beginning)
        assert get(server).read_bytes() == CONTENT and files() == {NAME: 10240}
        (cache_folder() / NAME).unlink()
    part.write_bytes(CONTENT)  # whole, and only not renamed yet
    assert get(server).read_bytes() == CONTENT
    part.write_bytes(b"x" * 100)
    assert get(server, "", NAME) == cache_folder() / NAME  # it is there: nothing is asked
    (cache_folder() / NAME).unlink()
    assert get(server, "", NAME).read_bytes() == CONTENT, "without a hash a beginning is never trusted"


def test_a_wrong_hash_is_an_error_and_leaves_nothing(server: FileServer) -> None:
    server.files[NAME] = CONTENT[:-1]
    with pytest.raises(ResourceError, match=f"SHA-256 begins with [0-9a-f]{{8}} and should begin with {DIGEST}"):
        get(server)
    assert files() == {}


def test_a_damaged_file_in_the_cache_is_replaced(server: FileServer) -> None:
    path = get(server)
    path.write_bytes(b"damaged")
    server.files = {}
    with pytest.raises(ResourceError, match="is there with another hash"):
        get(server)
    assert path.read_bytes() == b"damaged"
    server.files = {NAME: CONTENT}
    assert get(server).read_bytes() == CONTENT


def test_no_such_file_and_no_server(server: FileServer) -> None:
    with pytest.raises(ResourceError) as caught:
        get(server, name="other-12345678.pth")
    assert "the server answers 404 Not Found" in str(caught.value) and files() == {}
    server.close()
    with pytest.raises(ResourceError) as caught:
        get(server)
    assert f"{NAME} could not be downloaded from {server.uri}/{NAME}" in str(caught.value) and "refused" in str(caught.value)
    assert f"put it into {cache_folder()}" in str(caught.value) and files() == {}
    with pytest.raises(ResourceError, match="no address of http"):
        fetch(f"file:///{NAME}", DIGEST)


def test_two_that_ask_at_once_download_once(server: FileServer) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(get(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache_folder() / NAME] * 4 and server.seen == [(NAME, "")] and files() == {NAME: 10240}


def test_a_full_disk_names_the_file(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_transfer", full)
    with pytest.raises(OSError, match="No space left") as caught:
        get(server)
    assert caught.value.filename == str(cache_folder() / f"{NAME}.part") and not isinstance(caught.value, ResourceError)
