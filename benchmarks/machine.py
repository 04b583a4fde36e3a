"""What every results file says of where and when it was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence

import psutil

from gfl_lab.machine import processor


def header(title: str, command: str, packages: Sequence[str] = ()) -> list[str]:
    """First lines of a results file, in Markdown: date, machine, versions, command."""
    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return [
        f"# {title}",
        "",
        f"- date: {datetime.date.today().isoformat()}",
        f"- machine: {machine}, {platform.system()} {platform.release()}, Python {platform.python_version()}",
        *([f"- versions: {versions}"] if versions else []),
        f"- command: `{command}`",
    ]
