"""Files of a trial as JSON, for tests of what stands in them."""

from __future__ import annotations

from typing import Any

from gfl_lab import naming
from gfl_lab.records.files import read_json
from gfl_lab.rundir import TrialDir


def raw_result(trial: TrialDir) -> Any:
    """The content of result.json; None where there is none."""
    path = trial.file(naming.RESULT)
    return read_json(path) if path.exists() else None


def raw_manifest(trial: TrialDir) -> dict[str, Any]:
    """The content of manifest.json."""
    return read_json(trial.file(naming.MANIFEST))
