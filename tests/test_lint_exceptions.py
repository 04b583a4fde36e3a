"""The list of functions over the complexity limits (``per-file-ignores`` in pyproject.toml) holds exactly what needs it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
LIMITS = ("C901", "PLR0913")


def over_the_limits() -> dict[str, set[str]]:
    """Return the rules that each file breaks if nothing is excepted: ``{path: {rule}}``."""
    done = subprocess.run(
        [
            sys.executable, "-m", "ruff", "check", "--isolated", "--exit-zero", f"--select={','.join(LIMITS)}",
            f"--config=lint.mccabe.max-complexity={LINT['mccabe']['max-complexity']}",
            f"--config=lint.pylint.max-args={LINT['pylint']['max-args']}", "--output-format=json", ".",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    found: dict[str, set[str]] = defaultdict(set)
    for finding in json.loads(done.stdout):
        found[str(Path(finding["filename"]).relative_to(ROOT))].add(finding["code"])
    return found


def test_the_limits_are_set_and_checked() -> None:
    assert LINT["mccabe"]["max-complexity"] == 15 and LINT["pylint"]["max-args"] == 8
    assert set(LIMITS) <= set(LINT["select"])


def test_no_exception_has_become_needless() -> None:
    listed = {path: set(rules) for path, rules in LINT["per-file-ignores"].items()}
    needed = over_the_limits()
    stale = {path: sorted(rules - needed.get(path, set())) for path, rules in listed.items() if rules - needed.get(path, set())}
    assert not stale, "remove these entries from [tool.ruff.lint.per-file-ignores]: the list may only shrink"
