"""The run tree on disk: what each file is, how it is written (atomically) and read.

    runs/                               where GFL_LAB_HOME points, or ./runs
      data/<name>-<digest>/             generated data sets
      trials/<id>/                      one trial: the truth about it
        manifest.json                   what it computes (TrialSpec), paths, provenance; written before it starts
        components/<name>.py            the user's code that it uses, as it was then
        config.py                       the resolved mmengine configuration
        metrics.jsonl                   one line a step or evaluation, appended while it runs
        lease.json                      who runs it now: pid, process start time, host; gone when it ends
        accumulation.json               it ran out of memory: into how many parts each batch is split
        result.json                     how it ended; a trial is done only when this says so
        log.txt  eval.npz  distributions.parquet  history.parquet  last.pth  previous.pth
      experiments/<name>/<profile>/     plan.json, table.{json,md,csv,tex,html}, table.lock.json
      mlflow.db  mlartifacts/           the mirror

A trial's state is derived, never stored: ``result.json`` says done, failed or interrupted; else a live lease says
running; else a dead lease says interrupted; else it is planned.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from gfl_lab import addresses, naming
from gfl_lab.errors import FormatError, InputError, Problem, StoreError

LEASE_STALE_S = 60.0
"""A lease from another host is taken for dead when its file was not touched for this long."""

RESERVE_BYTES = 64 * 1024
"""Space that a running trial holds back for its last words, the result and a traceback, should the disk be full."""

TEMPORARY_OF = (
    naming.LAST_CHECKPOINT, naming.METRICS_FILE, naming.RESULT, naming.CONFIG, naming.EVAL_RECORDS, naming.DISTRIBUTIONS, naming.HISTORY,
    naming.ACCUMULATION,
)  # fmt: skip
"""What only the process that holds the lease writes: temporary files of these are litter once it is dead."""


WAYS_OUT = {
    naming.PLAN: "Move it away (`gfl-lab doctor --repair` does so) and run the experiment again: finished trials are found by their ids.",
    naming.SEARCH: "Move it away and run the search again: the trials are kept, but the search starts anew.",
    naming.MANIFEST: "Run the experiment again: the manifest is written anew.",
    naming.RESULT: "Run the experiment again: the trial goes on from its last checkpoint.",
    naming.ACCUMULATION: "Move the trial's folder away and run the experiment again: it trains the trial anew.",
}
"""The way out for a damaged file, by its name."""


class TrialState(StrEnum):
    """Where a trial stands."""

    PLANNED = "planned"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DONE = "done"


def home() -> Path:
    """Absolute path of the run tree: ``$GFL_LAB_HOME``, or ``runs`` in the current folder.

    Raises:
        InputError: it cannot be the path of a folder.
    """
    given = os.environ.get("GFL_LAB_HOME")
    path = addresses.absolute(given or "runs", "GFL_LAB_HOME" if given else "the run tree ./runs")
    existing = next(one for one in (path, *path.parents) if one.exists())
    if not existing.is_dir():
        raise InputError(Problem(f"the run tree {path}: {existing} is not a folder", hint="Set GFL_LAB_HOME to a folder."))
    return path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that is moved onto it, synced to disk, when the block ends without an error.

    Raises:
        OSError: of a full disk, naming ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:  # write() knows no name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused: readers in other languages cannot parse it."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object written by this package.

    A file without a format is taken for one of the present format, and is judged by what it holds.

    Raises:
        StoreError: the file is missing or damaged. FormatError: it is of a format that this version does not read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise damaged(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except RecursionError:
        raise damaged(path, "cannot be read: it is nested too deeply") from None
    if not isinstance(value, dict):
        raise damaged(path, f"holds {type(value).__name__}, not an object")
    check_format(path, value.get("format", naming.FORMAT_VERSION))
    return value


def damaged(path: Path, reason: str) -> StoreError:
    """Return the error to raise for a file of the run tree that cannot be used, with the way out."""
    return StoreError(Problem(f"{path} {reason}", hint=WAYS_OUT.get(path.name, "")))


def check_format(path: Path, version: Any) -> None:
    """Refuse a file of a format that this version does not read.

    Raises:
        FormatError: an older or a newer one; says what to do.
    """
    if version == naming.FORMAT_VERSION and not isinstance(version, bool):
        return
    newer = isinstance(version, int) and version > naming.FORMAT_VERSION
    hint = (
        "Use the newer gfl-lab that wrote it." if newer else "Use the gfl-lab that wrote it, or move the folder away and compute it again."
    )
    raise FormatError(Problem(f"{path} has format {version!r}; this gfl-lab reads format {naming.FORMAT_VERSION}", hint=hint))


def _process_start(pid: int) -> int | None:
    """Start time of process ``pid`` in clock ticks since boot, or None when there is none: tells a reused pid apart."""
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
        """Path of one of the files named in ``naming``."""
        return self.path / name

    def manifest(self) -> dict[str, Any]:
        """What the trial computes. Raises StoreError."""
        return read_json(self.file(naming.MANIFEST))

    def result(self) -> dict[str, Any] | None:
        """How the trial ended, or None while it has not. Raises StoreError when the file is damaged."""
        path = self.file(naming.RESULT)
        return read_json(path) if path.exists() else None

    def state(self) -> TrialState:
        """Where the trial stands now. A damaged result counts as interrupted, so that `run` computes it again.

        Raises:
            FormatError: the result is another gfl-lab's, which may be whole.
        """
        if self.lease_alive():
            return TrialState.RUNNING
        try:
            result = self.result()
            if result is not None:
                done = result["status"] == TrialState.DONE
                return TrialState(result["status"]) if not done or isinstance(result["metrics"], dict) else TrialState.INTERRUPTED
        except FormatError:
            raise
        except (StoreError, KeyError, ValueError):
            return TrialState.INTERRUPTED
        if self.file(naming.LEASE).exists() or self.file(naming.METRICS_FILE).exists():
            return TrialState.INTERRUPTED
        return TrialState.PLANNED

    # --- lease ---

    def take_lease(self) -> None:
        """Say that this process runs the trial.

        Raises:
            StoreError: a live process holds it.
        """
        mine = {"pid": os.getpid(), "start": _process_start(os.getpid()), "host": socket.gethostname()}
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # of two that look at once, the second must see the first's lease
            lease = self.lease()
            if self.lease_alive() and any(lease.get(key) != value for key, value in mine.items()):
                raise StoreError(f"trial {self.id} is being run by process {lease.get('pid')} on {lease.get('host')}")
            write_json(self.file(naming.LEASE), {"format": naming.FORMAT_VERSION, **mine, "since": time.time()})
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
        """What the holder of the lease does first: clear away what a killed process left half-written, hold space back."""
        for name in TEMPORARY_OF:
            for litter in self.path.glob(f".{name}.*.tmp"):
                litter.unlink(missing_ok=True)
        self.file(naming.RESERVE).write_bytes(os.urandom(RESERVE_BYTES))  # random: a file system may store zeros as nothing

    def release_reserve(self) -> None:
        """Give the space back that ``prepare`` holds."""
        self.file(naming.RESERVE).unlink(missing_ok=True)

    def lease(self) -> dict[str, Any]:
        """The lease as written, or an empty dict."""
        try:
            return read_json(self.file(naming.LEASE))
        except StoreError:
            return {}

    def lease_alive(self) -> bool:
        """Whether a living process holds the trial."""
        lease = self.lease()
        if lease.get("host") == socket.gethostname():
            pid = lease.get("pid")
            start = _process_start(pid) if isinstance(pid, int) else None
            return start is not None and start == lease.get("start")
        try:
            return time.time() - self.file(naming.LEASE).stat().st_mtime < LEASE_STALE_S
        except OSError:
            return False

    # --- what happens to it ---

    def log(self, text: str) -> None:
        """Add a line, with the time, to log.txt; a full disk swallows it."""
        with contextlib.suppress(OSError), self.file(naming.LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {text.rstrip()}\n")

    def accumulation(self) -> dict[str, Any] | None:
        """``{"parts", "since_step"}`` of a trial that ran out of memory, else None.

        Each batch is done in ``parts`` parts whose gradients are added up, from the step after ``since_step`` on; that is None
        until the trial has gone on with it. Raises StoreError when the file is damaged: how steps were done must not be guessed.
        """
        path = self.file(naming.ACCUMULATION)
        if not path.exists():
            return None
        value = read_json(path)
        parts, since = value.get("parts"), value.get("since_step")
        if not isinstance(parts, int) or parts < 2 or not (since is None or isinstance(since, int)):
            raise damaged(path, "is damaged")
        return {"parts": parts, "since_step": since}

    def write_accumulation(self, parts: int, since_step: int | None) -> None:
        """Record that each batch is done in ``parts`` parts from the step after ``since_step`` on."""
        write_json(self.file(naming.ACCUMULATION), {"format": naming.FORMAT_VERSION, "parts": parts, "since_step": since_step})

    # --- metrics ---

    def metric_lines(self) -> list[dict[str, Any]]:
        """All metric lines, oldest first. A torn last line (the process died while writing) is left out."""
        return read_metric_lines(self.file(naming.METRICS_FILE))[0]


def read_metric_lines(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Complete metric lines from byte ``offset`` on, and the offset after them.

    A line is ``{"kind": "train" | "val", "step": int, "epoch": int, "time": float, "metrics": {key: float}}``; ``step``
    counts finished iterations from 1, ``epoch`` is the epoch that the step belongs to, from 1. AP is 0 to 100.
    When the file has become shorter than ``offset`` (a resume cut it back) reading starts again from 0.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < offset:
                offset = 0
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], 0
    end = data.rfind(b"\n") + 1
    lines = []
    for raw in data[:end].splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("metrics"), dict) and type(line.get("step")) is type(line.get("epoch")) is int:
            lines.append(line)
    return lines, offset + end


class MetricWriter:
    """Appends metric lines; one ``write`` call a line, so that a reader never sees two half lines mixed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = None

    def write(self, kind: str, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line and hand it to the operating system. Raises OSError, of a full disk, without leaving half a line."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        line = {"kind": kind, "step": step, "epoch": epoch, "time": round(time.time(), 3), "metrics": metrics}
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        written = self._file.write(data)
        if written < len(data):
            os.ftruncate(self._file.fileno(), self._file.seek(0, os.SEEK_END) - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def sync(self) -> None:
        """Have the lines on the disk, so that no checkpoint is ahead of them after a power cut."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def truncate_after(self, step: int, *, unevaluated_from: int | None = None) -> None:
        """Drop every line after ``step``, and evaluations of the epochs from ``unevaluated_from`` on: what a resumed trial does again."""
        self.close()
        lines, _ = read_metric_lines(self._path)
        kept = [
            line
            for line in lines
            if line["step"] <= step and not (unevaluated_from and line.get("kind") == "val" and line["epoch"] >= unevaluated_from)
        ]
        if self._path.exists():
            with atomic_path(self._path) as temporary:
                temporary.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in kept))

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class RunTree:
    """The run tree under ``root``: where things are."""

    root: Path

    @classmethod
    def default(cls) -> RunTree:
        """The tree at ``home()``."""
        return cls(home())

    def trial(self, trial_id: str) -> TrialDir:
        """Folder of a trial; need not exist.

        Raises:
            StoreError: ``trial_id`` does not have the form of an id (so it can never leave the tree).
        """
        if not naming.is_trial_id(trial_id):
            raise StoreError(f"{trial_id!r} is not a trial id (12 hex digits)")
        return TrialDir(self.root / naming.TRIALS_DIR / trial_id)

    def trials(self) -> list[TrialDir]:
        """Every trial with a manifest, sorted by id."""
        found = sorted((self.root / naming.TRIALS_DIR).glob("*/" + naming.MANIFEST))
        return [TrialDir(path.parent) for path in found if naming.is_trial_id(path.parent.name)]

    def folders(self) -> list[TrialDir]:
        """Every folder that is named as a trial, with a manifest or not, sorted by id."""
        found = sorted((self.root / naming.TRIALS_DIR).glob("*"))
        return [TrialDir(path) for path in found if naming.is_trial_id(path.name) and path.is_dir()]

    def experiment(self, name: str, profile: str) -> Path:
        """Folder of an experiment under a profile; need not exist. Raises StoreError for a name that is no name."""
        for text in (name, profile):
            if not naming.is_valid_name(text):
                raise StoreError(f"{text!r} cannot name an experiment or profile")
        return self.root / naming.EXPERIMENTS_DIR / name / profile

    def experiments(self) -> list[tuple[str, str]]:
        """(experiment, profile) of every plan in the tree, sorted."""
        found = (self.root / naming.EXPERIMENTS_DIR).glob(f"*/*/{naming.PLAN}")
        return sorted((path.parent.parent.name, path.parent.name) for path in found)

    def data(self, name: str) -> Path:
        """Folder of a generated data set."""
        return self.root / naming.DATA_DIR / name

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI of the mirror beside the runs."""
        return addresses.sqlite_uri(self.root / naming.MLFLOW_DB)
