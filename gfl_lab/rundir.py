"""The run tree on disk: its folders, and how files are written (atomically) and read.

    runs/                               where GFL_LAB_HOME points, or ./runs
      data/<name>-<digest>/             generated data sets
      trials/<id>/                      one trial: the truth about it
        manifest.json                   what it computes (TrialSpec), paths, provenance; written before it starts
        components/<name>.py            the user's code that it uses, as it was then
        config.py                       the resolved mmengine configuration
        metrics.jsonl                   one line a step or evaluation, appended while it runs
        lease.json                      who runs it now: pid, process start time, host; gone when it ends
        accumulation.json               it ran out of memory: into how many parts each batch is split
        result.json                     how it ended: done, failed or interrupted
        log.txt  eval.npz  distributions.parquet  history.parquet  last.pth  previous.pth
      experiments/<name>/<profile>/     plan.json, table.{json,md,csv,tex,html}, table.lock.json
      mlflow.db  mlartifacts/           the mirror

A trial's state is derived, never stored: from ``result.json``: done, failed or interrupted; else from a lease:
running if its process is alive, interrupted if not; else it is planned.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gfl_lab import addresses, naming
from gfl_lab.errors import FormatError, InputError, Problem, StoreError
from gfl_lab.records.accumulation import Accumulation, read_accumulation, write_accumulation
from gfl_lab.records.lease import Lease, read_lease, write_lease
from gfl_lab.records.manifest import Manifest, read_manifest
from gfl_lab.records.metric_lines import MetricLine, read_metric_lines
from gfl_lab.records.result import Done, Result, read_result

LEASE_STALE_S = 60.0
"""A lease from another host is taken for dead when its file was not touched for this long."""

RESERVE_BYTES = 64 * 1024
"""Space that a running trial reserves for its result and a traceback, should the disk be full."""

TEMPORARY_OF = (
    naming.LAST_CHECKPOINT, naming.METRICS_FILE, naming.RESULT, naming.CONFIG, naming.EVAL_RECORDS, naming.DISTRIBUTIONS, naming.HISTORY,
    naming.ACCUMULATION,
)  # fmt: skip
"""Files that only the process with the lease writes: their temporary files are left over once it is dead."""


class TrialState(StrEnum):
    """State of a trial."""

    PLANNED = "planned"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DONE = "done"


def home() -> Path:
    """Return the absolute path of the run tree: ``$GFL_LAB_HOME``, or ``runs`` in the current folder.

    Raises:
        InputError: it cannot be the path of a folder.
    """
    given = os.environ.get("GFL_LAB_HOME")
    path = addresses.absolute(given or "runs", "GFL_LAB_HOME" if given else "the run tree ./runs")
    existing = next(one for one in (path, *path.parents) if one.exists())
    if not existing.is_dir():
        raise InputError(Problem(f"the run tree {path}: {existing} is not a folder", hint="Set GFL_LAB_HOME to a folder."))
    return path


def _process_start(pid: int) -> int | None:
    """Start time of process ``pid`` in clock ticks since boot, or None when there is none: a reused pid has another one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True)
class TrialDir:
    """One trial's folder. Holds no data: every property reads the disk."""

    path: Path

    @property
    def id(self) -> str:
        """The trial's id: the folder's name."""
        return self.path.name

    def file(self, name: str) -> Path:
        """Return the path of one of the files named in ``naming``."""
        return self.path / name

    def manifest(self) -> Manifest:
        """Read what the trial computes. Raises StoreError."""
        return read_manifest(self.file(naming.MANIFEST))

    def result(self) -> Result | None:
        """Read how the trial ended; None while it has not. Raises StoreError if the file is damaged."""
        return read_result(self.file(naming.RESULT))

    def state(self) -> TrialState:
        """Return the state of the trial now. A damaged result counts as interrupted, so that `run` computes it again.

        Raises:
            FormatError: the result is another gfl-lab's, which may be whole.
        """
        if self.lease_alive():
            return TrialState.RUNNING
        try:
            result = self.result()
            if result is not None:
                sound = not isinstance(result, Done) or result.metrics is not None
                return TrialState(result.status) if sound else TrialState.INTERRUPTED
        except FormatError:
            raise
        except StoreError:
            return TrialState.INTERRUPTED
        if self.file(naming.LEASE).exists() or self.file(naming.METRICS_FILE).exists():
            return TrialState.INTERRUPTED
        return TrialState.PLANNED

    # --- lease ---

    def take_lease(self) -> None:
        """Take the lease: this process runs the trial.

        Raises:
            StoreError: a live process holds it.
        """
        mine = Lease(os.getpid(), _process_start(os.getpid()), socket.gethostname(), since=time.time())
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # of two that look at once, the second must see the first's lease
            lease = self.lease()
            if self.lease_alive() and not (lease and lease.same_holder(mine)):
                holder = f"process {lease.pid} on {lease.host}" if lease else "another process"
                raise StoreError(f"trial {self.id} is being run by {holder}")
            write_lease(self.file(naming.LEASE), mine)
        finally:
            os.close(folder)

    def touch_lease(self) -> None:
        """Renew the lease; readers on other hosts go by its age."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.file(naming.LEASE))

    def drop_lease(self) -> None:
        """Give the trial up."""
        self.file(naming.LEASE).unlink(missing_ok=True)

    def prepare(self) -> None:
        """Prepare the folder as the new holder of the lease: remove half-written files of a killed process, reserve space."""
        for name in TEMPORARY_OF:
            for leftover in self.path.glob(f".{name}.*.tmp"):
                leftover.unlink(missing_ok=True)
        self.file(naming.RESERVE).write_bytes(os.urandom(RESERVE_BYTES))  # random: a file system may store zeros as nothing

    def release_reserve(self) -> None:
        """Give the space back that ``prepare`` holds."""
        self.file(naming.RESERVE).unlink(missing_ok=True)

    def lease(self) -> Lease | None:
        """Return the lease as written; None if there is none, or it is damaged."""
        return read_lease(self.file(naming.LEASE))

    def lease_alive(self) -> bool:
        """Return True if a living process holds the trial."""
        lease = self.lease()
        if lease and lease.here:
            start = _process_start(lease.pid)
            return start is not None and start == lease.start
        try:
            return time.time() - self.file(naming.LEASE).stat().st_mtime < LEASE_STALE_S
        except OSError:
            return False

    # --- what happens to it ---

    def log(self, text: str) -> None:
        """Add a line, with the time, to log.txt; a full disk swallows it."""
        with contextlib.suppress(OSError), self.file(naming.LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {text.rstrip()}\n")

    def accumulation(self) -> Accumulation | None:
        """Return the split of each batch for a trial that ran out of memory, else None. Raises StoreError if the file is damaged."""
        return read_accumulation(self.file(naming.ACCUMULATION))

    def write_accumulation(self, accumulation: Accumulation) -> None:
        """Record how each batch is split."""
        write_accumulation(self.file(naming.ACCUMULATION), accumulation)

    # --- metrics ---

    def metric_lines(self) -> list[MetricLine]:
        """Return all metric lines, oldest first. A torn last line (the process died while writing) is left out."""
        return read_metric_lines(self.file(naming.METRICS_FILE))[0]


@dataclass(frozen=True)
class RunTree:
    """The run tree under ``root``: where things are."""

    root: Path

    def trial(self, trial_id: str) -> TrialDir:
        """Return the folder of a trial; need not exist.

        Raises:
            StoreError: ``trial_id`` does not have the form of an id (so it can never leave the tree).
        """
        if not naming.is_trial_id(trial_id):
            raise StoreError(f"{trial_id!r} is not a trial id (12 hex digits)")
        return TrialDir(self.root / naming.TRIALS_DIR / trial_id)

    def with_lease(self, trial_ids: Iterable[str]) -> list[TrialDir]:
        """Return the trials of these ids that have a lease, valid or not. Text without the form of an id is left out.

        Text is joined instead of paths: it is asked for every trial of a tree whenever the dashboard's overview is opened.
        """
        folder = str(self.root / naming.TRIALS_DIR)
        present = (each for each in trial_ids if naming.is_trial_id(each) and os.path.exists(f"{folder}/{each}/{naming.LEASE}"))
        return [self.trial(each) for each in present]

    def trials(self) -> list[TrialDir]:
        """Return every trial with a manifest, sorted by id."""
        found = sorted((self.root / naming.TRIALS_DIR).glob("*/" + naming.MANIFEST))
        return [TrialDir(path.parent) for path in found if naming.is_trial_id(path.parent.name)]

    def folders(self) -> list[TrialDir]:
        """Return every folder with a trial's name, with a manifest or not, sorted by id."""
        found = sorted((self.root / naming.TRIALS_DIR).glob("*"))
        return [TrialDir(path) for path in found if naming.is_trial_id(path.name) and path.is_dir()]

    def experiment(self, name: str, profile: str) -> Path:
        """Return the folder of an experiment under a profile; need not exist. Raises StoreError for a name that is no name."""
        for text in (name, profile):
            if not naming.is_valid_name(text):
                raise StoreError(f"{text!r} cannot name an experiment or profile")
        return self.root / naming.EXPERIMENTS_DIR / name / profile

    def experiments(self) -> list[tuple[str, str]]:
        """Return (experiment, profile) of every plan in the tree, sorted."""
        found = (self.root / naming.EXPERIMENTS_DIR).glob(f"*/*/{naming.PLAN}")
        return sorted((path.parent.parent.name, path.parent.name) for path in found)

    def data(self, name: str) -> Path:
        """Return the folder of a generated data set."""
        return self.root / naming.DATA_DIR / name

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI of the mirror beside the runs."""
        return addresses.sqlite_uri(self.root / naming.MLFLOW_DB)
