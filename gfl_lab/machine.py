"""The processor of this machine."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path


def processor() -> str:
    """Return the model of the processor; empty if the system does not name it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
