"""What this machine has, and whether a trial fits on it. Looked at without importing torch or Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from gfl_lab.errors import Problem, ResourceError


@dataclass(frozen=True)
class Machine:
    """CPU cores this process may use, GPUs it can see (by name), and memory in GiB."""

    cpus: int
    gpus: tuple[str, ...]
    memory_gib: float

    def __str__(self) -> str:
        gpus = f"{len(self.gpus)} x {self.gpus[0]}" if self.gpus else "no GPU"
        return f"{self.cpus} CPU cores, {gpus}, {self.memory_gib:.0f} GiB memory"


@dataclass(frozen=True)
class Share:
    """What one trial takes, and how many run at once on this machine."""

    cpus: int
    gpus: float
    slots: int


def look() -> Machine:
    """Cores allowed to this process, GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(len(os.sched_getaffinity(0)), _gpu_names(), memory)


def _gpu_names() -> tuple[str, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    tool = shutil.which("nvidia-smi")
    if visible in ("", "-1") or tool is None:
        return ()
    try:
        listed = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    names = tuple(line.strip() for line in listed.stdout.splitlines() if line.strip())
    return names if visible is None else names[: len([part for part in visible.split(",") if part.strip()])]


def share(machine: Machine, *, cpus: int, gpus: float, gpu_required: bool, asked_cpus: int | None, asked_gpus: float | None) -> Share:
    """What a trial takes on ``machine``.

    Args:
        cpus, gpus, gpu_required: the profile's wish; a wished GPU that is not there means CPU, unless it is required.
        asked_cpus, asked_gpus: the user's order; it is met or refused.

    Raises:
        ResourceError: what was asked for or required is not there. Every problem at once.
    """
    problems = []
    if asked_gpus is not None and asked_gpus > len(machine.gpus):
        problems.append(
            Problem(
                f"--gpus {asked_gpus:g} was asked for each trial, but this machine has {len(machine.gpus)}",
                hint="Ask for fewer, or give --address of a cluster.",
            )
        )
    if asked_cpus is not None and asked_cpus > machine.cpus:
        problems.append(
            Problem(f"--cpus {asked_cpus} was asked for each trial, but this machine has {machine.cpus}", hint="Ask for fewer.")
        )
    if gpu_required and asked_gpus is None and len(machine.gpus) < max(gpus, 1):
        problems.append(Problem(f"the profile requires {max(gpus, 1):g} GPU, but this machine has {len(machine.gpus)}"))
    if problems:
        raise ResourceError(problems)
    gpus = asked_gpus if asked_gpus is not None else min(gpus, len(machine.gpus))
    cpus = asked_cpus if asked_cpus is not None else min(cpus, machine.cpus)
    slots = machine.cpus // cpus
    if gpus:
        slots = min(slots, int(len(machine.gpus) / gpus + 1e-9))
    return Share(cpus, gpus, max(1, slots))
