"""An HTTP proxy that fails as networks and servers do: the way a test has to its tracking server."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[[str], str]


class Proxy:
    """Passes requests on to a port of this machine.

    Attributes:
        upstream: that port; may be changed at any time.
        fault: asked for each request, with ``"POST /api/..."``; what happens to it: ``""`` nothing, ``lose`` it is carried out but
            its answer is lost, ``cut`` half of it arrives, ``hang`` no answer ever, ``error`` 500 without being carried out,
            ``drip`` the answer comes byte by byte.
        delay: seconds that each request takes longer.
        seen: the requests so far.
    """

    def __init__(self, upstream: int = 0) -> None:
        self.upstream, self.delay, self.seen = upstream, 0.0, []
        self.fault: Fault = lambda request: ""
        self._over = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.open()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen (again)."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def refuse(self) -> None:
        """Stop listening, and break connections that are open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def close(self) -> None:
        self._over.set()
        self.refuse()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: socket.socket, address: object) -> None:
        self._open.add(request)
        super().process_request(request, address)

    def hang_up(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer, which is sent in two parts, waits 40 ms

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = f"{self.command} {self.path}"
            proxy.seen.append(request)
            fault = proxy.fault(request)
            time.sleep(proxy.delay)
            if fault == "hang":
                proxy._over.wait()
            elif fault == "cut":
                self._send_half(body)
            elif fault == "error":
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault in ("hang", "cut"):
                self.close_connection = True
                return
            upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if fault == "lose":
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for i in range(0, len(content), 1 if fault == "drip" else max(1, len(content))):
                if fault == "drip":
                    time.sleep(0.001)
                    self.wfile.write(content[i : i + 1])
                else:
                    self.wfile.write(content)

        def _send_half(self, body: bytes) -> None:
            head = f"{self.command} {self.path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in self.headers.items())
            with socket.create_connection(("127.0.0.1", proxy.upstream)) as upstream:
                upstream.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError, ValueError):
                super().handle()

        def log_message(self, *args: object) -> None:
            pass

    return Handler
