"""Folders that all processes of one test run share, each filled once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def _places(factory: pytest.TempPathFactory, name: str) -> tuple[Path, Path]:
    """Return the folder ``name``, and the file that says that it is filled."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return base / "shared" / name, base / "shared" / f"{name}.complete"


def filled_folder(factory: pytest.TempPathFactory, name: str) -> Path | None:
    """Return the folder ``name`` of this test run if it has been filled already."""
    folder, complete = _places(factory, name)
    return folder if complete.exists() else None


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of this test run; whoever asks first has it filled by ``fill``, the others wait.

    Nobody may write to it afterwards: tests that change something copy it.
    """
    folder, complete = _places(factory, name)
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            fill(folder)
            complete.touch()
    return folder
