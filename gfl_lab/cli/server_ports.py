"""Ports of the servers that gfl-lab starts; all of them on 127.0.0.1."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import click

from gfl_lab.cli.numbers import Whole
from gfl_lab.cli.output import say
from gfl_lab.errors import ResourceError


def port_option(default: int) -> Callable[..., Any]:
    """Add ``--port``."""
    return click.option(
        "--port", type=Whole(1, 65535), default=default, show_default=True, help="Port on 127.0.0.1; the next free one when taken."
    )


def free_port(first: int) -> int:
    """Return ``first``, or the next free port within 50.

    Raises:
        ResourceError: all are taken.
    """
    for port in range(first, min(first + 50, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port != first:
            say(f"port {first} is taken; using {port}")
        return port
    raise ResourceError(f"no free port from {first} to {first + 49} on 127.0.0.1; give another with --port")
