"""Checks of `gfl-lab doctor` on the machine: memory, GPUs, disk, sockets, processes and Ray sessions of dead drivers."""

from __future__ import annotations

import os
import shutil

from gfl_lab.errors import GflLabError
from gfl_lab.maintenance.finding import REPAIR_HINT, Findings
from gfl_lab.orchestrate import orphans
from gfl_lab.orchestrate.ray_cluster import check_sockets, scratch_dir
from gfl_lab.orchestrate.resources import look
from gfl_lab.rundir import RunTree
from gfl_lab.wording import plural

MIN_FREE_GIB = 2.0


def resources() -> Findings:
    """Check memory and GPUs."""
    machine = look()
    yield machine.memory_gib >= 4, f"{machine} (4 GiB memory at least)"
    yield from gpus(len(machine.gpus))


def gpus(listed: int) -> Findings:
    """Compare the GPUs that nvidia-smi lists, which trials are given, with those that torch sees, which it uses."""
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if listed and not seen:
        yield (
            False,
            f"nvidia-smi lists {plural(listed, 'GPU')}, but CUDA does not work in torch {torch.__version__}: trials train on the CPU",
        )
    elif seen and not listed:
        yield False, f"CUDA sees {plural(seen, 'GPU')}, but nvidia-smi is missing or lists none: trials train on the CPU"
    elif seen:
        yield True, f"CUDA works: {torch.cuda.get_device_name(0)}"


def disk(tree: RunTree) -> Findings:
    """Check the room at the run tree and in the shared memory, and that the run tree can be written."""
    root = tree.root
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    yield free >= MIN_FREE_GIB, f"{free:.1f} GiB free at {root} ({MIN_FREE_GIB:g} at least)"
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    yield writable, f"{existing} can be written" if writable else f"{existing} is not a folder that can be written"
    shared = shutil.disk_usage("/dev/shm").free / 2**20 if os.path.isdir("/dev/shm") else 0
    yield shared >= 150, f"{shared:.0f} MiB free in /dev/shm (Ray wants 150)"


def processes(repair: bool) -> Findings:
    """Find processes of dead drivers; with ``repair`` they are killed."""
    found = orphans.orphans()
    for orphan in found:
        killed = repair and orphan.kill()
        what = f"process {orphan.pid} belongs to a driver that has gone" + (f" (log: {orphan.log})" if orphan.log.startswith("/") else "")
        yield killed, what + (", killed" if killed else f"; {REPAIR_HINT}")
    if not found:
        yield True, "no process of a dead driver"


def ray_sessions(repair: bool) -> Findings:
    """Find folders of dead Ray sessions; with ``repair`` they are deleted."""
    found = orphans.stale_ray_sessions()
    if not found:
        yield True, f"Ray's sessions go to {scratch_dir()}; none of a dead driver lies there"
        return
    if repair:
        for folder in found:
            shutil.rmtree(folder, ignore_errors=True)
    # They take room, and nothing else: what is left of a clean run too is no fault.
    yield True, f"{plural(len(found), 'folder')} of dead Ray sessions in {scratch_dir()}" + (", removed" if repair else f"; {REPAIR_HINT}")


def sockets() -> Findings:
    """Check that the folder for temporary files leaves room for the names of sockets."""
    try:
        check_sockets()
    except GflLabError as error:
        yield False, ". ".join((error.problems[0].message, error.problems[0].hint))
    else:
        yield True, "the path of the folder for temporary files is short enough for Ray's sockets"
