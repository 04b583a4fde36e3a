"""Trials on nodes that share no disk with their driver: both see a storage, and each has a run tree of its own.

    storage/
      data/<digest>/  weights/<digest>    what trials read (dataset_archives.py)
      trials/<id>/                        a run directory, but for its lease; result.json is put last
      leases/<id>.json                    the node that works on the trial now; renewed while it does
      stop/<run>/<file>                   a driver asks its trials to stop

The driver's run tree stays the truth that people read: before a run it fetches what others have done, during the run what its
trials have written. A node has a scratch tree: it fetches the trial with its checkpoint, so that a trial that moved goes on,
trains in it, and puts what has changed every few seconds. A node that has lost its trial to another one stops and puts nothing
any more. The result of a finished trial is never replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from gfl_lab import naming
from gfl_lab.errors import ResourceError, StoreError
from gfl_lab.orchestrate import dataset_archives
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.records.result import Done, says_done
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.storage import Stamp, Storage, Synced, is_plain_name, open_storage

EVERY_S = 3.0
"""Seconds between two looks of either side for changes."""
SHARE = 0.1
"""A file that takes long to transfer is transferred less often: so that it takes at most this share of the time."""
LAST_TRIES_S = 300.0
"""At a trial's end its files must arrive: so long it is tried again while the storage does not answer."""
_THREADS = 16

T = TypeVar("T")

_STAYS = {naming.MANIFEST, naming.LEASE, naming.PREVIOUS_CHECKPOINT}
"""Not exchanged with the rest: the driver's, the lease, and what would be needed if files in the storage could be torn."""
_LIVE = (naming.METRICS_FILE, naming.LOG)


@dataclass(frozen=True)
class Link:
    """The link from a job's node to its driver, sent with the job.

    Args:
        uri: of the storage. run: names one run of one driver.
    """

    uri: str
    run: str


def trial_folder(trial_id: str) -> str:
    """Return the name of a trial's folder in the storage."""
    return f"trials/{trial_id}"


def lease_name(trial_id: str) -> str:
    """Return the name of a trial's lease in the storage."""
    return f"leases/{trial_id}.json"


def stop_name(run: str, stop_file: str) -> str:
    """Return the name of the object that stands for ``stop_file``."""
    return f"stop/{run}/{Path(stop_file).name.lstrip('.')}"


def exchanged(names: Iterable[str]) -> list[str]:
    """Return, in their order, those names of a trial's folder that its node puts into the storage.

    Metrics go before the checkpoint, which may never be ahead of them; the result last of all.
    """

    def rank(name: str) -> int:
        return 3 if name == naming.RESULT else 2 if name.endswith(".pth") else 1 if name == naming.METRICS_FILE else 0

    return sorted((n for n in names if is_plain_name(n) and n not in _STAYS and not n.endswith(".damaged")), key=lambda n: (rank(n), n))


def local_names(folder: Path) -> list[str]:
    """Return ``exchanged`` of the names in a local folder."""
    return exchanged(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def is_done(trial: TrialDir) -> bool:
    """Return True if the trial's result is that of a finished one, whatever its lease."""
    with contextlib.suppress(StoreError):
        result = trial.result()
        return isinstance(result, Done) and result.metrics is not None
    return False


def done_there(storage: Storage, trial_id: str) -> bool:
    """Return True if the storage has the result of a finished trial. Raises ResourceError."""
    content = storage.read(f"{trial_folder(trial_id)}/{naming.RESULT}")
    return content is not None and says_done(content)


def take_over(synced: Synced, listed: dict[str, Stamp]) -> None:
    """Make the local run directory what the one in the storage is, if that one has changed since both were equal.

    If it has no checkpoint, but the local one has, the local one is kept: it is further.

    Raises:
        ResourceError, StoreError, OSError: as Synced.pull; what has been fetched is whole, and a later call goes on.
    """
    checkpoints = {name for name in listed if name.endswith(".pth")}
    here = set(local_names(synced.folder))
    further_here = not checkpoints and naming.RESULT not in listed and any(name.endswith(".pth") for name in here)
    changed = exchanged(synced.changed_there({name: stamp for name, stamp in listed.items() if "/" not in name}))
    if further_here or not changed:
        return
    # Checkpoints before metrics: those grow meanwhile, and may reach further than the checkpoint, never less far.
    for name in sorted(changed, key=lambda name: (name == naming.RESULT, name not in checkpoints)):
        synced.pull(name, listed[name])
    if checkpoints:
        for name in here - set(listed) - {naming.LOG}:  # of other attempts: an accumulation, an evaluation
            (synced.folder / name).unlink(missing_ok=True)
        (synced.folder / naming.PREVIOUS_CHECKPOINT).unlink(missing_ok=True)


class TransferThrottle:
    """The time from which each file may be transferred again, by its name."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}

    def is_due(self, name: str) -> bool:
        """Return True if the file may be transferred now."""
        return time.monotonic() >= self._not_before.get(name, 0.0)

    @contextlib.contextmanager
    def timed(self, *names: str) -> Iterator[None]:
        """Measure the time of a transfer."""
        began = time.monotonic()
        yield
        now = time.monotonic()
        self._not_before.update(dict.fromkeys(names, now + (now - began) / SHARE))


# --- the driver's side ----------------------------------------------------------------------------


class DriverSide:
    """The driver's side of the storage. Methods that fail raise ResourceError, naming the storage.

    Args:
        tree: the driver's run tree.
    """

    def __init__(self, uri: str, tree: RunTree) -> None:
        self.storage, self.tree = open_storage(uri), tree
        self.link = Link(uri, secrets.token_hex(8))
        self._synced: dict[str, Synced] = {}
        self._watched: dict[str, TrialDir] = {}
        self._active: set[str] = set()
        self._throttle = TransferThrottle()
        self._stop_files: set[Path] = set()
        self._requested: set[str] = set()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()

    def refresh(self, trial_ids: Iterable[str]) -> None:
        """Fetch, before anything is planned, everything in the storage on trials that are not done here, leases too."""
        self.storage.prepare()
        leases = self.storage.list("leases")
        known = self.storage.list("trials", deep=True)
        folders: dict[str, dict[str, Stamp]] = {}
        for name, stamp in known.items():
            trial_id, _, file = name.partition("/")
            folders.setdefault(trial_id, {})[file] = stamp
        trials = [self.tree.trial(trial_id) for trial_id in trial_ids]

        def one(trial: TrialDir) -> None:
            self._pull_lease(trial, leases)
            if trial.id in folders:
                self._take_over(trial, folders[trial.id])

        _each(one, trials)

    def fetch_again(self, trial_ids: Iterable[str]) -> None:
        """Fetch every file of these trials that the storage has, whatever is here, if it has finished there."""

        def one(trial: TrialDir) -> None:
            listed = self.storage.list(trial_folder(trial.id))
            if naming.RESULT in listed:
                for name in exchanged(listed):
                    self._sync(trial).pull(name, listed[name])

        _each(one, [self.tree.trial(trial_id) for trial_id in trial_ids])

    def publish(self, trial_ids: Iterable[str], needed: Iterable[str], say: Callable[[str], None]) -> None:
        """Put what pending trials read and what they go on from: manifests, components, data, weights, checkpoints.

        Args:
            needed: finished trials that pending ones need, put whole unless they are finished there.

        Raises:
            StoreError: a file of ours cannot be read.
        """
        trials = [self.tree.trial(trial_id) for trial_id in trial_ids]
        manifests = [trial.manifest() for trial in trials]
        paths = {manifest.data.digest: manifest.paths for manifest in manifests}
        weights = {manifest.weights_digest: path for manifest in manifests if (path := manifest.weights_file)}
        try:
            for digest, own in paths.items():
                dataset_archives.push_dataset(self.storage, digest, own, say)
            for digest, path in weights.items():
                dataset_archives.push_weights(self.storage, digest, path)
            _each(self._put, trials)
            _each(self._put_done, [self.tree.trial(trial_id) for trial_id in needed])
        except OSError as error:
            raise StoreError(f"{error.filename or 'a file'} cannot be put into {self.storage.uri}: {error.strerror or error}") from None

    def _put(self, trial: TrialDir) -> None:
        synced = self._sync(trial)
        for component in sorted(trial.file(naming.COMPONENTS_DIR).glob("*")):
            self.storage.write(f"{synced.remote}/{naming.COMPONENTS_DIR}/{component.name}", component.read_bytes())
        self.storage.write(f"{synced.remote}/{naming.MANIFEST}", trial.file(naming.MANIFEST).read_bytes())
        synced.push(synced.changed_here(name for name in local_names(trial.path) if name != naming.RESULT))

    def _put_done(self, trial: TrialDir) -> None:
        if not done_there(self.storage, trial.id):
            self._put(trial)
            self._sync(trial).push([naming.RESULT])

    def watch(self, jobs: Sequence[Job]) -> list[Job]:
        """Follow these jobs from now on; the same jobs as nodes are to be given them."""
        for job in jobs:
            trial = TrialDir(Path(job.path))
            if stop_file := job.kwargs.get("stop_file"):
                self._stop_files.add(Path(stop_file))
            self._watched[trial.id] = trial
        return [replace(job, link=asdict(self.link)) for job in jobs]

    def start(self) -> None:
        """Begin to follow, in a thread."""
        self._thread = threading.Thread(target=self._follow, name="storage", daemon=True)
        self._thread.start()

    def finish(self, in_a_hurry: bool = False) -> list[str]:
        """Fetch what is left, trying once or for a while, and end the thread. Returns what could not be fetched, one sentence each."""
        self._over.set()
        if self._thread:
            self._thread.join()
        end = time.monotonic() + (0.0 if in_a_hurry else LAST_TRIES_S)
        while True:
            try:
                self._look(everything=True)
                for name in self._requested:
                    self.storage.delete(name)
                return []
            except (ResourceError, StoreError, OSError) as error:
                if time.monotonic() > end:
                    return [f"not everything could be fetched from {self.storage.uri}, the same command fetches it: {error}"]
            time.sleep(min(EVERY_S, max(0.0, end - time.monotonic())))

    def fetch(self, trial_id: str, should_stop: Callable[[], bool]) -> None:
        """Fetch what is left of a trial that has ended on its node, trying for a while: others may need it."""
        end = time.monotonic() + LAST_TRIES_S
        while True:
            with contextlib.suppress(ResourceError, StoreError, OSError), self._looking:
                return self._fetch(self._watched[trial_id], self.storage.list("leases"), everything=True)
            if should_stop() or time.monotonic() > end:
                return  # `finish` says what is missing
            time.sleep(EVERY_S)

    def _follow(self) -> None:
        while not self._over.wait(EVERY_S / 3):
            with contextlib.suppress(ResourceError):
                self._ask_to_stop()
            with contextlib.suppress(ResourceError, StoreError, OSError), self._looking:
                self._look()

    def _ask_to_stop(self) -> None:
        for file in self._stop_files:
            name = stop_name(self.link.run, file.name)
            if file.exists() and name not in self._requested:
                self.storage.write(name, b"")
                self._requested.add(name)

    def _look(self, everything: bool = False) -> None:
        leases = self.storage.list("leases")
        held = {trial_id for trial_id in self._watched if f"{trial_id}.json" in leases}
        wanted = self._watched.keys() if everything else held | self._active
        problems = _each(lambda trial_id: self._fetch(self._watched[trial_id], leases, everything), wanted, keep_going=True)
        self._active = held
        if problems:
            raise problems[0]

    def _fetch(self, trial: TrialDir, leases: dict[str, Stamp], everything: bool) -> None:
        if is_done(trial) and not trial.file(naming.LEASE).exists():
            return
        listed = self.storage.list(trial_folder(trial.id))
        working = f"{trial.id}.json" in leases
        if working:
            self._pull_lease(trial, leases)
            if naming.RESULT not in listed and not is_done(trial):
                trial.file(naming.RESULT).unlink(missing_ok=True)  # of a former attempt
        if everything or not working or naming.RESULT in listed:
            self._take_over(trial, listed)
        elif not is_done(trial):
            for name in self._sync(trial).changed_there({name: listed[name] for name in _LIVE if name in listed}):
                if self._throttle.is_due(f"{trial.id}/{name}"):
                    with self._throttle.timed(f"{trial.id}/{name}"):
                        self._sync(trial).pull(name, listed[name])
        self._pull_lease(trial, leases)

    def _take_over(self, trial: TrialDir, listed: dict[str, Stamp]) -> None:
        if not is_done(trial) and not _runs_here(trial):
            take_over(self._sync(trial), listed)

    def _pull_lease(self, trial: TrialDir, leases: dict[str, Stamp]) -> None:
        """Make the local lease the storage's; the time of its file is the time when it was renewed there."""
        name, path = f"{trial.id}.json", trial.file(naming.LEASE)
        if name not in leases:
            if (lease := trial.lease()) and lease.run:  # a node's; another one is of a process on this machine
                path.unlink(missing_ok=True)
            return
        if _runs_here(trial):
            return
        stamp = leases[name]
        if not path.exists() or path.stat().st_mtime_ns != stamp.mtime_ns:
            with contextlib.suppress(StoreError):  # given up meanwhile
                self.storage.download(f"leases/{name}", path)
                os.utime(path, ns=(stamp.mtime_ns, stamp.mtime_ns))

    def _sync(self, trial: TrialDir) -> Synced:
        if trial.id not in self._synced:
            self._synced[trial.id] = Synced(self.storage, trial.path, trial_folder(trial.id))
        return self._synced[trial.id]


def _runs_here(trial: TrialDir) -> bool:
    """Return True if a process runs the trial on this machine's disk, and no node of a cluster."""
    lease = trial.lease()
    return trial.lease_alive() and not (lease and lease.run)


def _each(work: Callable[[T], None], items: Iterable[T], keep_going: bool = False) -> list[BaseException]:
    """Do ``work`` with each item, several at once; raises the first error, or returns them all."""
    with ThreadPoolExecutor(_THREADS) as pool:
        done = [pool.submit(work, item) for item in items]
    errors = [error for future in done if (error := future.exception())]
    if errors and not keep_going:
        raise errors[0]
    return errors
