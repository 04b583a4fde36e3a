"""An HTTP server of files on 127.0.0.1 that breaks off, ignores ranges or has nothing, as a test asks."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files`` (path without the slash, content).

    Attributes:
        files: may be changed at any time.
        ranges: whether parts of a file can be asked for.
        cuts: for the coming requests, the bytes of the body after which the connection breaks; None: not at all.
        seen: the path and the Range header ("" without one) of each request.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.ranges = files, True
        self.cuts: list[int | None] = []
        self.seen: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def file_server(files: dict[str, bytes]) -> Iterator[FileServer]:
    server = FileServer(files)
    try:
        yield server
    finally:
        server.close()


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, asked = self.path.removeprefix("/"), self.headers.get("Range", "")
            server.seen.append((name, asked))
            if name not in server.files:
                self.send_error(404)
                return
            body, status, start = server.files[name], 200, 0
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            if match and server.ranges:
                status, start = 206, int(match[1])
                if start >= len(body):
                    self.send_error(416)
                    return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = server.cuts.pop(0) if server.cuts else None
            self.wfile.write(body[start:] if cut is None else body[start : start + cut])

        def log_message(self, *_: object) -> None:
            pass

    return Handler
