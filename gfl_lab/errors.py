"""Every error a user can cause, in one tree.

GflLabError
├── InputError          wrong usage or input                      exit 2
│   ├── SpecError       an experiment or profile file
│   └── DataError       a data set
├── ResourceError       the machine cannot do what was asked       exit 6
│   └── RayGone         Ray does not answer any more
├── BudgetError         it would cost more than --budget           exit 5
├── StoreError          a run directory that cannot be read        exit 2
│   └── FormatError     whole, but of another format
└── TrialError          a trial that ended badly; carries a kind    exit 3
    ├── NonFiniteLoss
    ├── DiskFull
    ├── NeededTrialMissing
    └── Interrupted

A problem has a place where one is known ("file.yaml:12: axes.reg_max"). An error holds all problems found, not the
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of the command line; documented in docs/command-line.md."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    TRIALS_FAILED = 3
    UNFAIR = 4
    OVER_BUDGET = 5
    UNFIT = 6
    SIGINT = 130
    SIGTERM = 143


class FailureKind(StrEnum):
    """Kind of a trial's failure. Values are written to disk: they are added, never renamed or removed."""

    NON_FINITE_LOSS = "non_finite_loss"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_DATA = "bad_data"
    LOST_PROCESS = "lost_process"
    DISK_FULL = "disk_full"
    NEEDED_TRIAL = "needed_trial"
    ERROR = "error"


class Retry(StrEnum):
    """The action after a failure, within the same run. The same command tries every failed trial again."""

    NO = "no"
    GO_ON = "from the last checkpoint, as long as the trial gets further"
    IN_PARTS = "from the last checkpoint, with each batch in twice as many parts"


RETRY: dict[FailureKind, Retry] = {
    FailureKind.NON_FINITE_LOSS: Retry.NO,
    FailureKind.OUT_OF_MEMORY: Retry.IN_PARTS,
    FailureKind.BAD_DATA: Retry.NO,
    FailureKind.LOST_PROCESS: Retry.GO_ON,
    FailureKind.DISK_FULL: Retry.NO,
    FailureKind.NEEDED_TRIAL: Retry.NO,
    FailureKind.ERROR: Retry.NO,
}
"""The retry policy; docs/failures.md holds the same table for people."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and the way out."""

    message: str
    place: str = ""
    hint: str = ""

    def __str__(self) -> str:
        head = f"{self.place}: {self.message}" if self.place else self.message
        return f"{head}\n    {self.hint}" if self.hint else head


class GflLabError(Exception):
    """Base class. ``str(error)`` is what the user reads: complete sentences, no traceback."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, problems: str | Problem | Sequence[Problem]) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InputError(GflLabError):
    """Wrong usage or input; nothing has been written."""

    exit_code = ExitCode.USAGE


class SpecError(InputError):
    """An experiment or profile file breaks a rule. Holds every problem of the file."""


class DataError(InputError):
    """A data set breaks a rule. Holds every problem found."""


class StoreError(InputError):
    """A run directory, or a file in it, is damaged or of a format this version cannot read."""


class FormatError(StoreError):
    """A file is of a format that this version does not read. It may well be whole: nothing writes over it."""


class ResourceError(GflLabError):
    """The machine or the environment cannot do what was asked."""

    exit_code = ExitCode.UNFIT


class RayGone(ResourceError):
    """Ray does not answer any more. Its teardown in this process may wait for the head: a command ends without it."""


class BudgetError(GflLabError):
    """The work is expected to cost more than its budget; nothing has been started."""

    exit_code = ExitCode.OVER_BUDGET


class TrialError(GflLabError):
    """A trial ended without a result. ``kind`` decides what happens next."""

    exit_code = ExitCode.TRIALS_FAILED
    kind = FailureKind.ERROR


class NonFiniteLoss(TrialError):
    """A loss term was NaN or infinite; raised before the optimizer's step, so the weights are still the last good ones."""

    kind = FailureKind.NON_FINITE_LOSS

    def __init__(self, step: int, epoch: int, losses: dict[str, float]) -> None:
        self.step, self.epoch, self.losses = step, epoch, losses
        terms = ", ".join(f"{name}={value:g}" for name, value in losses.items())
        super().__init__(
            f"the loss became non-finite at step {step} (epoch {epoch}): {terms}; training stopped before the weights were touched. "
            "A lower lr or a longer warm-up is the usual cure."
        )


class DiskFull(TrialError):
    """The outcome of a trial could not be written down, for want of space; so it is raised."""

    kind = FailureKind.DISK_FULL


class NeededTrialMissing(TrialError):
    """The weights of a trial that this one needs cannot be used."""

    kind = FailureKind.NEEDED_TRIAL


class Interrupted(TrialError):
    """The trial was asked to stop and left a checkpoint to go on from."""
