"""A trial on a node of a cluster that shares only a storage with its driver (run_sync.py has the layout)."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import ResourceError, StoreError
from gfl_lab.orchestrate import dataset_archives, run_sync
from gfl_lab.orchestrate.run_sync import EVERY_S, LAST_TRIES_S, Link, TransferThrottle
from gfl_lab.orchestrate.supervisor import Job, TrialProcess
from gfl_lab.processes import one_at_a_time
from gfl_lab.records.lease import Lease, write_lease
from gfl_lab.records.manifest import write_manifest
from gfl_lab.rundir import LEASE_STALE_S, RunTree, TrialDir, TrialState
from gfl_lab.storage import Storage, Synced, is_plain_name, open_storage

HEARTBEAT_S = 10.0
LOOK_S = 2.0
"""Seconds between two checks of a node that the trial is still its own and is not to stop."""


def run_on_node(process: TrialProcess, job: Job, scratch: Path) -> TrialState:
    """Run a trial whose job has a link to a storage.

    Args:
        scratch: folder of this node, whose actors share it: copies of data sets, and run directories of what is not done.

    Returns:
        Its outcome; running when another node or another driver works on it.

    Raises:
        ResourceError: the storage cannot be reached. StoreError: the trial or its data are not there, or damaged.
    """
    if job.link is None:
        raise ValueError(f"{job.path} has no link to a storage")
    link = Link(**job.link)
    storage = open_storage(link.uri)
    tree = RunTree(scratch / "storages" / naming.digest(link.uri))
    trial = tree.trial(Path(job.path).name)
    trial.path.mkdir(parents=True, exist_ok=True)
    stop_file = tree.root / "stop" / f"{link.run}-{trial.id}"
    stop_file.parent.mkdir(exist_ok=True)
    stop_file.unlink(missing_ok=True)
    holder = Holder(
        storage, link, tree.root / "leases" / trial.id, run_sync.stop_name(link.run, job.kwargs.get("stop_file", "")), stop_file
    )
    if not holder.take():
        return TrialState.RUNNING
    try:
        synced = Synced(storage, trial.path, run_sync.trial_folder(trial.id))
        if run_sync.done_there(storage, trial.id):
            return TrialState.DONE
        state = TrialState.DONE
        if not run_sync.is_done(trial):  # else it is done but has never arrived
            _fetch(storage, trial, synced, scratch)
            for needed in trial.manifest().spec.needs.values():
                _fetch_needed(storage, tree, needed)
            pusher = _Pusher(synced, holder)
            try:
                state = process.run(replace(job, path=str(trial.path), kwargs=job.kwargs | {"stop_file": str(stop_file)}, link=None))
            finally:
                pusher.finish()
        if not _put_all(synced, holder):
            return TrialState.RUNNING
        if state is TrialState.DONE:
            shutil.rmtree(trial.path, ignore_errors=True)
        return state
    finally:
        holder.release()
        stop_file.unlink(missing_ok=True)


class Holder(threading.Thread):
    """Holds a trial's lease in the storage, and passes a request to stop on to the trial.

    Args:
        folder: local one for the lease alone. stop_name: the object that asks to stop. stop_file: what the trial looks for.
    """

    def __init__(self, storage: Storage, link: Link, folder: Path, stop_name: str, stop_file: Path) -> None:
        super().__init__(name="lease", daemon=True)
        self._storage, self._link, self._stop_name, self._stop_file = storage, link, stop_name, stop_file
        self._slot = TrialDir(folder)
        self._name = run_sync.lease_name(self._slot.id)
        self._mine: Lease | None = None
        self._over = threading.Event()
        self.lost = False

    def take(self) -> bool:
        """Take the lease and begin to renew it, unless someone else renews it, for which one has to wait a moment.

        A lease of the same run of the same driver is taken at once: the driver would not have given the trial to two nodes
        unless the first had died. If it has not, it will see that it has lost the trial.
        """
        self._slot.path.mkdir(parents=True, exist_ok=True)
        seen, end = None, time.monotonic() + LEASE_STALE_S
        while self._is_held_by_another():
            stamp = self._storage.stamp(self._name)
            if seen and stamp and stamp != seen:
                return False
            seen = stamp
            if time.monotonic() > end:
                break
            time.sleep(LOOK_S)
        self._slot.drop_lease()
        self._slot.take_lease()
        taken = self._slot.lease()
        self._mine = replace(taken, run=self._link.run) if taken else None
        self._renew()
        self.start()
        return True

    def _is_held_by_another(self) -> bool:
        lease = self._there()
        if not lease or lease.run == self._link.run:
            return False
        self._slot.drop_lease()
        write_lease(self._slot.file(naming.LEASE), lease)
        return self._slot.lease_alive()  # its time is now, so one of another host counts as alive until it has been waited for

    def run(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(LOOK_S):
            with contextlib.suppress(ResourceError):
                if not self.is_mine() or self._storage.stamp(self._stop_name):
                    self._stop_file.touch()
                if self.lost:
                    return
                if time.monotonic() >= renewed + HEARTBEAT_S:
                    self._renew()
                    renewed = time.monotonic()

    def is_mine(self) -> bool:
        """Return True if the trial is still this node's: no other node has taken it, and perhaps ended it. Raises ResourceError."""
        self.lost = self.lost or self._there() != self._mine
        return not self.lost

    def _there(self) -> Lease | None:
        return Lease.decode(self._storage.read(self._name) or b"")

    def _renew(self) -> None:
        if self._mine:
            self._storage.write(self._name, self._mine.encode())

    def release(self) -> None:
        """Give the trial up, if it is still one's own."""
        self._over.set()
        self.join()
        self._slot.drop_lease()
        with contextlib.suppress(ResourceError):
            if self.is_mine():
                self._storage.delete(self._name)


def _fetch(storage: Storage, trial: TrialDir, synced: Synced, scratch: Path) -> None:
    """Fetch everything that the trial needs, with paths of this node, and no result or lease of an earlier attempt."""
    listed = storage.list(synced.remote)
    run_sync.take_over(synced, listed)
    synced.forget(naming.RESULT)
    trial.file(naming.RESULT).unlink(missing_ok=True)
    storage.download(f"{synced.remote}/{naming.MANIFEST}", trial.file(naming.MANIFEST))
    manifest = trial.manifest()
    try:
        for name in storage.list(f"{synced.remote}/{naming.COMPONENTS_DIR}"):
            if is_plain_name(name):
                storage.download(f"{synced.remote}/{naming.COMPONENTS_DIR}/{name}", trial.file(naming.COMPONENTS_DIR) / name)
        paths = dataset_archives.fetch_dataset(storage, manifest.data.digest, scratch / "data")
        weights = None
        if manifest.weights_file:
            weights = dataset_archives.fetch_weights(storage, manifest.weights_digest, scratch / "weights")
        moved = manifest.moved(paths, weights)
    except (LookupError, TypeError) as error:
        raise StoreError(f"the manifest of trial {trial.id} in {storage.uri} is damaged: {error!r}") from None
    write_manifest(trial.file(naming.MANIFEST), moved)


def _fetch_needed(storage: Storage, tree: RunTree, trial_id: str) -> None:
    """Fetch the weights of a finished trial that one of this node needs; its actors wait for each other.

    Raises:
        StoreError: it has not finished.
    """
    if not is_plain_name(trial_id) or not run_sync.done_there(storage, trial_id):
        raise StoreError(f"it needs trial {trial_id}, which is not finished in {storage.uri}")
    trial = tree.trial(trial_id)
    with one_at_a_time(tree.root / "needed" / trial_id):
        trial.path.mkdir(parents=True, exist_ok=True)
        synced = Synced(storage, trial.path, run_sync.trial_folder(trial_id))
        listed = storage.list(synced.remote)
        for name in synced.changed_there({name: listed[name] for name in (naming.MANIFEST, naming.LAST_CHECKPOINT) if name in listed}):
            synced.pull(name, listed[name])


class _Pusher(threading.Thread):
    """Puts what has changed while the trial runs, but for its result."""

    def __init__(self, synced: Synced, holder: Holder) -> None:
        super().__init__(name="pusher", daemon=True)
        self._synced, self._holder, self._throttle = synced, holder, TransferThrottle()
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(EVERY_S) and not self._holder.lost:
            # A storage that does not answer holds no trial up: what is missing is put later, or by the one who ends it.
            with contextlib.suppress(ResourceError, OSError):
                changed = self._synced.changed_here(name for name in run_sync.local_names(self._synced.folder) if name != naming.RESULT)
                due = [name for name in changed if self._throttle.is_due(name)]
                if any(name.endswith(".pth") for name in due):
                    due = [name for name in changed if name in due or name == naming.METRICS_FILE]
                if due and self._holder.is_mine():
                    with self._throttle.timed(*due):
                        self._synced.push(due)

    def finish(self) -> None:
        """End it, after the transfer that is going on."""
        self._over.set()
        self.join()


def _put_all(synced: Synced, holder: Holder) -> bool:
    """Put everything that is not there yet, the result last, trying for a while. Raises ResourceError, OSError.

    Returns:
        True if the trial was still this node's.
    """
    end = time.monotonic() + LAST_TRIES_S
    while True:
        try:
            if holder.is_mine():
                synced.push(synced.changed_here(run_sync.local_names(synced.folder)))
            return not holder.lost
        except ResourceError:
            if time.monotonic() > end:
                raise
        time.sleep(LOOK_S)
