"""The CPU cores, GPUs and memory of this machine, and the resources of a trial on it. Imports no torch and no Ray."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gfl_lab.errors import Problem, ResourceError

if TYPE_CHECKING:
    from gfl_lab.spec.file_models import Resources

DRIVER = Path("/dev/nvidiactl")
"""Exists if NVIDIA's driver is loaded."""
MEMORY_SAFETY = 1.25
"""Measured peaks are multiplied by this before trials are packed: a warm-up does not see every shape of image."""


@dataclass(frozen=True)
class Machine:
    """CPU cores this process may use, GPUs it can see (by name), and memory in GiB; ``gpu_memory_gib`` is 0 where it is not known."""

    cpus: int
    gpus: tuple[str, ...]
    memory_gib: float
    gpu_memory_gib: tuple[float, ...] = ()

    def __str__(self) -> str:
        gpus = f"{len(self.gpus)} x {self.gpus[0]}" if self.gpus else "no GPU"
        if self.gpu_memory:
            gpus += f" ({self.gpu_memory:.0f} GiB)"
        return f"{self.cpus} CPU cores, {gpus}, {self.memory_gib:.0f} GiB memory"

    @property
    def gpu_memory(self) -> float:
        """GiB of the smallest GPU; 0 where one is not known."""
        return min(self.gpu_memory_gib, default=0.0)


@dataclass(frozen=True)
class Peak:
    """Measured peak memory of one trial, MiB; 0 where it is not known."""

    memory_mib: float
    gpu_memory_mib: float = 0.0


@dataclass(frozen=True)
class TrialResources:
    """CPU cores and GPUs of one trial, and the number of trials that run at once (``slots``)."""

    cpus: int
    gpus: float
    slots: int


def processes_of(gpus: float) -> int:
    """Return the number of processes of a trial that takes ``gpus``: one for each whole GPU (train/process_group.py)."""
    return max(1, int(gpus))


def loaders(preferred: int | None, cpus: int, gpus: float) -> int:
    """Return the number of processes that load images for each process of a trial that takes ``cpus`` and ``gpus``.

    Args:
        preferred: of the profile. Without it: on a GPU one for each core of the trial but its own process's, which feeds the GPU;
            on a CPU none, since the trial's cores have enough to do.
    """
    if preferred is not None:
        return preferred
    return max(0, cpus // processes_of(gpus) - 1) if gpus else 0


def look() -> Machine:
    """Return this machine: cores allowed to this process, GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible, memory.

    The limit of the control group counts as memory, if it is less.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    gpus = _gpus()
    return Machine(len(os.sched_getaffinity(0)), tuple(name for name, _ in gpus), memory / 2**30, tuple(gib for _, gib in gpus))


def resources_on_nodes(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> TrialResources:
    """Return the resources of a trial on a cluster, and how many trials run at once on its nodes.

    Args:
        nodes: resources of each living node, as Ray names them: ``CPU``, ``GPU``.
        cpus, gpus: of a trial, which runs on one node.
    """
    slots = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) / cpus)
        if gpus >= 1:
            fit = min(fit, int(node.get("GPU", 0) / gpus + 1e-9))
        elif gpus:  # parts of different GPUs make no whole one
            fit = min(fit, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9))
        slots += fit
    return TrialResources(cpus, gpus, slots)


def device_of(machine: Machine, gpus: float) -> str:
    """Return the device of a trial that takes ``gpus``: ``cpu``, or ``cuda NAME``."""
    return f"cuda {machine.gpus[0]}" if gpus and machine.gpus else "cpu"


def _gpus() -> tuple[tuple[str, float], ...]:
    """Return (name, GiB) of each visible GPU, as nvidia-smi lists them; without it, as torch does where there is a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return ()
    tool = shutil.which("nvidia-smi")
    listed = tool and _output([tool, "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"], 20)
    if not listed:
        return _gpus_of_torch() if DRIVER.exists() else ()
    rows = [[part.strip() for part in line.split(",", 3)] for line in listed.splitlines() if line.count(",") >= 3]
    found = {(index, uuid): (name, float(mib) / 1024 if mib.isdigit() else 0.0) for index, uuid, mib, name in rows}
    if visible is None:
        return tuple(found.values())
    chosen: list[tuple[str, float]] = []
    parts = [part for part in map(str.strip, visible.split(",")) if part]
    if len({*parts}) < len(parts):
        return ()  # CUDA sees none where one is named twice
    for part in parts:
        match = [gpu for (index, uuid), gpu in found.items() if part == index or (part.startswith("GPU-") and uuid.startswith(part))]
        if part.startswith("MIG-") and found:  # a slice, whose memory nvidia-smi does not list this way
            match = [(next(iter(found.values()))[0], 0.0)]
        if not match:
            break  # CUDA sees none from the first wrong one on
        chosen += match[:1]
    return tuple(chosen)


def _gpus_of_torch() -> tuple[tuple[str, float], ...]:
    """Return (name, GiB) of each GPU that torch can use, asked in a process of its own: some containers have a driver and no nvidia-smi."""
    code = (
        "import torch\nfor i in range(torch.cuda.device_count()):\n p = torch.cuda.get_device_properties(i)\n print(p.total_memory, p.name)"
    )
    lines = [line.split(" ", 1) for line in _output([sys.executable, "-P", "-c", code], 120).splitlines()]
    return tuple((name, int(size) / 2**30) for size, name in lines)


def _output(command: list[str], seconds: float) -> str:
    """Return what a command prints; nothing if it fails or takes longer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def trial_resources(
    machine: Machine, preferred: Resources, *, cpus: int | None = None, gpus: float | None = None, peak: Peak | None = None
) -> TrialResources:
    """Return what a trial takes on ``machine``.

    Args:
        preferred: of the profile; a preferred GPU that is not there means CPU, unless it is required. With ``gpu_packing`` a trial takes
            the part of a GPU that the measured peak needs.
        cpus, gpus: of the user, met or refused.
        peak: measured peak memory of the most demanding trial. Never more trials at once than fit.

    Raises:
        ResourceError: a requested or required resource is missing. Every problem at once.
    """
    problems = _unmet_orders(machine, preferred, cpus, gpus)
    taken = gpus if gpus is not None else min(preferred.gpus, len(machine.gpus))
    if taken > 1 and taken != int(taken):
        source = f"--gpus {taken:g}" if gpus is not None else f"the profile's gpus: {taken:g}"
        problems.append(Problem(f"{source}: a trial takes a part of one GPU or several whole ones", hint=f"Ask for {int(taken)}."))
    if peak and peak.gpu_memory_mib and machine.gpu_memory and 0 < taken <= 1:
        taken, misfit = _part_for_peak(machine, peak, taken, ordered=gpus is not None, pack=preferred.gpu_packing)
        problems += misfit
    if problems:
        raise ResourceError(problems)
    slots, least = machine.cpus, 1
    if taken:  # parts of different GPUs make no whole one
        slots = int(len(machine.gpus) / taken + 1e-9) if taken >= 1 else len(machine.gpus) * int(1 / taken + 1e-9)
        least = min(slots, len(machine.gpus))  # trials at once that leave no GPU idle: a preference for more cores gives way
    cores = cpus if cpus is not None else max(1, min(preferred.cpus, machine.cpus // least))
    slots = min(slots, machine.cpus // cores)
    if peak and peak.memory_mib:
        slots = min(slots, int(machine.memory_gib * 1024 / (peak.memory_mib * MEMORY_SAFETY)))
    return TrialResources(cores, taken, max(1, slots))


def _unmet_orders(machine: Machine, preferred: Resources, cpus: int | None, gpus: float | None) -> list[Problem]:
    """Return a problem for each order, and for a required GPU, that the machine cannot meet."""
    problems = []
    if gpus is not None and gpus > len(machine.gpus):
        problems.append(
            Problem(
                f"--gpus {gpus:g} was asked for each trial, but this machine has {len(machine.gpus)}",
                hint="Ask for fewer, or give --address of a cluster.",
            )
        )
    if cpus is not None and cpus > machine.cpus:
        problems.append(Problem(f"--cpus {cpus} was asked for each trial, but this machine has {machine.cpus}", hint="Ask for fewer."))
    if preferred.gpu_required and gpus is None and len(machine.gpus) < max(preferred.gpus, 1):
        problems.append(Problem(f"the profile requires {max(preferred.gpus, 1):g} GPU, but this machine has {len(machine.gpus)}"))
    return problems


def _part_for_peak(machine: Machine, peak: Peak, taken: float, *, ordered: bool, pack: bool) -> tuple[float, list[Problem]]:
    """Return the part of a GPU that a trial takes by its measured peak, and a problem if it does not fit."""
    needs = peak.gpu_memory_mib * MEMORY_SAFETY / (machine.gpu_memory * 1024)
    fit = int(1 / needs + 1e-9)
    measured = (
        f"a warm-up took {peak.gpu_memory_mib / 1024:.1f} GiB of the GPU's {machine.gpu_memory:.0f} (counted {MEMORY_SAFETY:g} times)"
    )
    if not fit:
        hint = "Take a smaller batch_size or image_size, or precision: bfloat16."
        return taken, [Problem(f"a trial does not fit on the GPU: {measured}", hint=hint)]
    if ordered:
        hint = f"Ask for {1 / fit:.4g} or more."
        return taken, [Problem(f"--gpus {taken:g} is less than a trial needs: {measured}", hint=hint)] if taken < needs else []
    return (int(10_000 / fit) / 10_000 if taken < needs or pack else taken), []  # Ray counts in parts of 0.0001
