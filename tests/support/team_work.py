"""What the processes of a team do in tests; called through the fork server, because a test's own process has threads."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from gfl_lab.errors import FailureKind, TrialError
from gfl_lab.rundir import write_json
from gfl_lab.train.team import Team, in_team


def _tell(error: Exception) -> dict[str, Any]:
    return {"kind": FailureKind.OUT_OF_MEMORY if isinstance(error, MemoryError) else FailureKind.ERROR, "reason": str(error)}


def agree(path: str, size: int) -> None:
    """Each process writes what it learned from the others."""

    def work(team: Team) -> int:
        found = {
            "pid": os.getpid(),
            "leads": team.leads,
            "any": [team.any(team.leads), team.any(not team.leads)],
            "mean": float(team.mean(torch.tensor([float(team.rank)]))),
        }
        write_json(Path(path) / f"rank{team.rank}.json", found)
        team.wait()
        return team.size

    write_json(Path(path) / "returned.json", {"size": in_team(size, work, _tell), "pid": os.getpid()})


def go_wrong(path: str, size: int, how: str) -> None:
    """The last process goes wrong while the first one waits for it."""

    def work(team: Team) -> None:
        write_json(Path(path) / f"rank{team.rank}.json", {"pid": os.getpid()})
        team.wait()
        if team.rank == team.size - 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("no room")
        team.wait()
        time.sleep(60)

    try:
        in_team(size, work, _tell)
    except TrialError as error:
        (Path(path) / "told.json").write_text(json.dumps([error.kind, str(error)]))
