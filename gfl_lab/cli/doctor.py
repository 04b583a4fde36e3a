"""`gfl-lab doctor`: is this environment fit, and is the run tree sound."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from gfl_lab.cli.output import print_json, say
from gfl_lab.errors import ExitCode, GflLabError

PACKAGES = ("torch", "torchvision", "mmdet", "mmengine", "mmcv-lite", "ray", "mlflow", "streamlit", "faster-coco-eval", "numpy", "pandas")
MIN_FREE_GIB = 2.0


@click.command("doctor")
@click.option("--fix", is_flag=True, help="Repair what can be repaired: dead leases, half-written files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(fix: bool, as_json: bool) -> None:
    """Check the environment and the run tree; --fix repairs what it can. Exit code 6 when something is wrong."""
    found = []
    for name, check in (
        ("packages", _packages),
        ("detector", _detector),
        ("machine", _machine),
        ("disk", _disk),
        ("ray", _ray),
        ("runs", lambda: _runs(fix)),
    ):
        try:
            found += [{"check": name, "ok": ok, "message": text} for ok, text in check()]
        except (GflLabError, ImportError, OSError, RuntimeError) as error:
            found.append({"check": name, "ok": False, "message": f"{type(error).__name__}: {error}"})
    if as_json:
        print_json({"rows": found})
    else:
        for row in found:
            print(f"{'ok  ' if row['ok'] else 'BAD '} {row['check']:9} {row['message']}")
    bad = sum(not row["ok"] for row in found)
    say("everything is in order" if not bad else f"{bad} of {len(found)} checks failed")
    sys.exit(int(ExitCode.UNFIT if bad else ExitCode.DONE))


Lines = Iterator[tuple[bool, str]]
_Check = Callable[[], Any]


def _packages() -> Lines:
    yield (3, 11) <= sys.version_info[:2] <= (3, 12), f"Python {sys.version.split()[0]} (3.11 and 3.12 are supported)"
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{package} is not installed"
    yield True, ", ".join(versions)


def _detector() -> Lines:
    import torch

    from gfl_lab.detector.build import build_detector
    from gfl_lab.spec.settings import Settings

    small = Settings(backbone="r18", base_channels=8, neck_channels=16, head_channels=16, head_convs=1, strides=(8, 16), frozen_stages=-1)
    model = build_detector(small, 2).eval()
    with torch.inference_mode():
        scores = model.bbox_head(model.extract_feat(torch.zeros(1, 3, 64, 64)))[0]
    yield scores[0].shape == (1, 2, 8, 8), "a detector builds and runs without a compiled mmcv"
    if torch.cuda.is_available():
        yield True, f"CUDA works: {torch.cuda.get_device_name(0)}"


def _machine() -> Lines:
    from gfl_lab.orchestrate.resources import look

    machine = look()
    yield machine.memory_gib >= 4, f"{machine} (4 GiB memory at least)"


def _disk() -> Lines:
    from gfl_lab.rundir import home

    root = home()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    yield free >= MIN_FREE_GIB, f"{free:.1f} GiB free at {root} ({MIN_FREE_GIB:g} at least)"
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    yield writable, f"{existing} can be written" if writable else f"{existing} is not a folder that can be written"
    shared = shutil.disk_usage("/dev/shm").free / 2**20 if os.path.isdir("/dev/shm") else 0
    yield shared >= 150, f"{shared:.0f} MiB free in /dev/shm (Ray wants 150)"


def _ray() -> Lines:
    from gfl_lab.orchestrate.ray_tune import scratch_dir

    yield True, f"Ray's sessions go to {scratch_dir()}"


def _runs(fix: bool) -> Lines:
    from gfl_lab.results.store import Store
    from gfl_lab.rundir import RunTree, TrialState

    tree = RunTree.default()
    trials = tree.trials()
    yield True, f"{len(trials)} trials, {len(tree.experiments())} experiments in {tree.root}"
    for problem in Store(tree).problems():
        yield False, problem
    for trial in trials:
        if trial.lease() and not trial.lease_alive():
            if fix:
                trial.drop_lease()
            yield fix, f"trial {trial.id} has the lease of a dead process" + (", removed" if fix else "; --fix removes it")
        for torn in trial.path.glob(".*.tmp"):
            if trial.state() is not TrialState.RUNNING:
                if fix:
                    torn.unlink()
                yield fix, f"trial {trial.id} has the half-written file {torn.name}" + (", removed" if fix else "; --fix removes it")
