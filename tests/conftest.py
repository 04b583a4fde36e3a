"""Tests marked `exhaustive` try once more, with other values, what another test tries; they run with --exhaustive.

Files with slow tests come first: with several processes, what is left at the end is short.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
"""Processes of trials import nothing from the current folder; fake trials are modules of the tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="also run the tests marked exhaustive")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--exhaustive"):
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(pytest.mark.skip(reason="runs with --exhaustive"))
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("browser")}
    items.sort(key=lambda item: item.path not in slow)
