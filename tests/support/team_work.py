"""The work of a team in tests, called through a fork server as a trial is."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from gfl_lab.errors import FailureKind, TrialError
from gfl_lab.records.files import write_json
from gfl_lab.train import team
from gfl_lab.train.team import Team, in_team, join


def _tell(error: Exception) -> dict[str, Any]:
    return {"kind": FailureKind.OUT_OF_MEMORY if isinstance(error, MemoryError) else FailureKind.ERROR, "reason": str(error)}


def _agree(team: Team, path: str) -> int:
    found = {
        "pid": os.getpid(),
        "leads": team.leads,
        "bad_fork": torch.cuda._is_in_bad_fork(),  # torch's own mark; it has no public name
        "any": [team.any(team.leads), team.any(not team.leads)],
        "mean": float(team.mean(torch.tensor([float(team.rank)]))),
    }
    write_json(Path(path) / f"rank{team.rank}.json", found)
    team.wait()
    return team.size


def agree(path: str, size: int) -> None:
    """Each process writes what it learned from the others."""
    returned = in_team(size, lambda team: _agree(team, path), f"{__name__}:also_agree", {"path": path})
    write_json(Path(path) / "returned.json", {"size": returned, "pid": os.getpid()})


def also_agree(path: str, rank: int, size: int, folder: str) -> None:
    """Be a further process of `agree`."""
    join(rank, size, folder, lambda team: _agree(team, path), _tell)


def _go_wrong(team: Team, path: str, how: str) -> None:
    write_json(Path(path) / f"rank{team.rank}.json", {"pid": os.getpid()})
    team.wait()
    if team.rank == team.size - 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("no room")
    team.wait()
    time.sleep(60)


def go_wrong(path: str, size: int, how: str) -> None:
    """The last process goes wrong while the first one waits for it."""
    try:
        in_team(size, lambda team: _go_wrong(team, path, how), f"{__name__}:also_go_wrong", {"path": path, "how": how})
    except TrialError as error:
        (Path(path) / "told.json").write_text(json.dumps([error.kind, str(error)]))


def also_go_wrong(path: str, how: str, rank: int, size: int, folder: str) -> None:
    """Be a further process of `go_wrong`. With ``how`` absent the last one does not even get to the others."""
    if how == "absent" and rank == size - 1:
        raise ImportError("it cannot be imported")
    join(rank, size, folder, lambda team: _go_wrong(team, path, how), _tell)


def go_wrong_and_be_ended(path: str, size: int) -> None:
    """One never comes to the meeting place: the first process tells so, and is killed."""

    def abandon(error: TrialError) -> None:
        (Path(path) / "told.json").write_text(json.dumps([error.kind, str(error)]))

    team.GRACE_S = 0.5
    in_team(size, lambda _: None, f"{__name__}:also_go_wrong", {"path": path, "how": "absent"}, abandon)
