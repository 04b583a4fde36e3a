"""`plan --measure`: warm one trial of each distinct model up, and keep what was measured under runs/measured/."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from gfl_lab import naming
from gfl_lab.orchestrate.cost import detector, shape
from gfl_lab.orchestrate.driver import jobs_for, write_manifests
from gfl_lab.orchestrate.resources import Machine, TrialResources
from gfl_lab.orchestrate.supervisor import Job, TrialProcess
from gfl_lab.plan.plan import Trial
from gfl_lab.records.cost import Measured, MeasuredData, write_measured
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.result import Done, Failed, Result, now
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.spec.code import CodeFile

WARM_UP_PREFIX = ".warm-up-"
GIB_EACH = 4
"""Memory that is reckoned for each warm-up before any is measured."""


def distinct(trials: Sequence[Trial]) -> list[Trial]:
    """Return the first trial of each model: seeds, and settings that do not change the timing, are no models of their own."""
    found: dict[str, Trial] = {}
    for trial in trials:
        settings = trial.spec.settings.model_dump(mode="json")
        found.setdefault(shape(settings) + detector(settings), trial)
    return list(found.values())


@dataclass(frozen=True)
class WarmUp:
    """How a trial is warmed up.

    Attributes:
        entry: ``module:function`` that warms up the trial in a folder.
        paths: of the data. code: the user's files that trials name.
        loader_workers: processes that load images.
    """

    entry: str
    paths: DataPaths
    code: Sequence[CodeFile]
    loader_workers: int


def measure(
    trials: Sequence[Trial], tree: RunTree, warm_up: WarmUp, resources: TrialResources, machine: Machine, say: Callable[[str], None]
) -> list[str]:
    """Warm up each distinct model of ``trials`` and write what was measured to the run tree.

    On CPUs as many run at once as the run itself will have, since trials slow each other down; on a GPU one, since what fits
    is not known yet.

    Args:
        resources: of each trial. machine: the one that the trials run on.
        say: called with a line for each one that is done.

    Returns:
        One sentence for each failure.
    """
    models = distinct(trials)
    gpu = bool(resources.gpus)
    at_once = 1 if gpu else max(1, min(resources.slots, len(trials), int(machine.memory_gib // GIB_EACH)))
    rounds = [models[index % len(models)] for index in range(max(len(models), at_once))]  # the last ones are not alone either
    root = tree.root / naming.MEASURED_DIR
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=WARM_UP_PREFIX, dir=root))
    how = {"threads": resources.cpus, "loader_workers": warm_up.loader_workers}
    jobs: SimpleQueue[tuple[Trial, Job]] = SimpleQueue()
    try:
        for number, trial in enumerate(rounds):
            scratch = RunTree(folder / str(number))
            write_manifests([trial], scratch, warm_up.paths, warm_up.code)
            jobs.put((trial, jobs_for([trial], scratch, warm_up.entry, how, gpus=resources.gpus)[0]))
        preload = "" if gpu else warm_up.entry.partition(":")[0]
        done = _run(jobs, [TrialProcess(preload, resources.cpus) for _ in range(at_once)])
        problems = []
        for trial in models:
            own = [result for warmed, result in done if warmed.id == trial.id]
            good = [result for result in own if isinstance(result, Done)]
            if not good:
                problems.append(f"the warm-up of {trial.id} failed: {_reason(own[0])}")
                continue
            found = _record(trial, good, resources, at_once)
            key = naming.digest([shape(found.settings), detector(found.settings), found.data.digest, found.device, resources.cpus])
            write_measured(root / f"{key}.json", found)
            say(
                f"measured {naming.setting_text(trial.spec.settings.backbone)} of trial {trial.id}: {found.seconds_per_iteration:.3f} s an "
                f"iteration, {found.seconds_per_image:.4f} s an image of evaluation, {found.memory_mib:.0f} MiB"
                + (f", {found.gpu_memory_mib:.0f} MiB of the GPU" if gpu else "")
            )
        return problems
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(jobs: SimpleQueue[tuple[Trial, Job]], processes: Sequence[TrialProcess]) -> list[tuple[Trial, Result | None]]:
    """Run the queue empty, each process one job after the other."""
    found: list[tuple[Trial, Result | None]] = []

    def work(process: TrialProcess) -> None:
        with contextlib.suppress(Empty):
            while True:
                trial, job = jobs.get_nowait()
                process.run(job)
                found.append((trial, TrialDir(Path(job.path)).result()))

    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            for future in [pool.submit(work, process) for process in processes]:
                future.result()
        finally:  # on Ctrl-C this ends what still runs
            with contextlib.suppress(Empty):
                while True:
                    jobs.get_nowait()
            for process in processes:
                process.close()
    return found


def _reason(result: Result | None) -> str:
    return result.failure.reason if isinstance(result, Failed) else "it left no result"


def _record(trial: Trial, results: Sequence[Done], resources: TrialResources, at_once: int) -> Measured:
    metrics = [result.metrics or {} for result in results]
    data = trial.spec.data

    def mean(key: str) -> float:
        return round(statistics.mean(each[key] for each in metrics), 6)

    return Measured(
        settings=trial.spec.settings.model_dump(mode="json"),
        data=MeasuredData(data.name, data.digest),
        seconds_per_iteration=mean("seconds_per_iteration"),
        seconds_per_image=mean("seconds_per_image"),
        seconds_once=mean("seconds_once"),
        memory_mib=round(max(each["memory_mib"] for each in metrics), 1),
        gpu_memory_mib=round(max(each["gpu_memory_mib"] for each in metrics), 1),
        device=results[0].device,
        cpus=resources.cpus,
        at_once=at_once,
        measured=now(),
    )
