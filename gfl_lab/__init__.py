"""gfl-lab: ablations of a detector, from one YAML file to an AP table.

>>> import gfl_lab
>>> lab = gfl_lab.open()
>>> lab.run("table3_qfl_dfl", profile="smoke")
>>> lab.table("table3_qfl_dfl", profile="smoke")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gfl_lab.session.lab import Lab

__version__ = "0.2.0"
__all__ = ["__version__", "open"]


def open(root: str | Path | None = None, *, verbose: bool = True) -> Lab:
    """Open a run tree; see `gfl_lab.session.lab.Lab`. Nothing is read or written yet.

    Args:
        root: its folder; None is ``$GFL_LAB_HOME``, or ``runs`` in the current folder.
        verbose: print what happens on stderr; without it only warnings and failures.

    Raises:
        InputError: it cannot be a folder.
    """
    from gfl_lab.session.lab import Lab  # read only when it is used: importing gfl_lab takes no time

    return Lab(root, verbose=verbose)
