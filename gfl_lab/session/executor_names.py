"""The names of the executors, as `--executor` and `Lab.run` take them. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal, get_args

ExecutorName = Literal["ray", "inline"]
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)
