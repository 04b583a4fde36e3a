"""A copy of the run tree of version 0.1 that lies in tests/data, with the paths of the copy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support import DATA

STORED = DATA / "run_tree_0_1"
PLACEHOLDER = "@ROOT@"
WITH_PATHS = ("manifest.json", "config.py")


@dataclass(frozen=True)
class OldTree:
    """The place of the copy."""

    root: Path
    """The run tree, a value for ``GFL_LAB_HOME``."""
    axes: Path
    """The experiment that names both trials by an axis; it has a published table."""
    arms: Path
    """The experiment that names the same two trials by hand."""
    baseline: str = "a5fee4a9f77b"
    joint: str = "37c0b0c14627"

    @property
    def trials(self) -> tuple[str, str]:
        return self.baseline, self.joint


def copy_old_tree(folder: Path) -> OldTree:
    """Copy the tree to ``folder/runs`` and its experiments and profile beside it."""
    shutil.copytree(STORED, folder, ignore=shutil.ignore_patterns("tree", "README.md"), dirs_exist_ok=True)
    root = shutil.copytree(STORED / "tree", folder / "runs")
    for name in WITH_PATHS:
        for path in root.glob(f"trials/*/{name}"):
            path.write_text(path.read_text().replace(PLACEHOLDER, str(folder)))
    return OldTree(root, folder / "quality_0_1.yaml", folder / "arms_0_1.yaml")
