"""`gfl-lab doctor`: is this environment fit, and is the run tree sound."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gfl_lab import naming, shipped
from gfl_lab.cli.output import print_json, say
from gfl_lab.errors import ExitCode, GflLabError, StoreError
from gfl_lab.wording import plural

PACKAGES = ("torch", "torchvision", "mmdet", "mmengine", "mmcv-lite", "ray", "mlflow", "streamlit", "faster-coco-eval", "numpy", "pandas")
MIN_FREE_GIB = 2.0
HOW = "`gfl-lab doctor --repair` sees to it"


@click.command("doctor")
@click.option("--repair", is_flag=True, help="Repair what can be repaired: processes, leases and files of dead drivers, MLflow's database.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(repair: bool, as_json: bool) -> None:
    """Check the environment and the run tree; --repair repairs what it can. Exit code 6 when something stays wrong."""
    found = []
    for name, check in (
        ("packages", _packages),
        ("opencv", _opencv),
        ("files", _own_files),
        ("detector", _detector),
        ("machine", _machine),
        ("disk", _disk),
        ("processes", lambda: _processes(repair)),
        ("ray", lambda: _ray(repair)),
        ("sockets", _sockets),
        ("plans", lambda: _plans(repair)),
        ("runs", lambda: _runs(repair)),
        ("mlflow", lambda: _mlflow(repair)),
    ):
        try:
            for ok, text in check():
                found.append({"check": name, "ok": ok, "message": text})
        except (GflLabError, ImportError, OSError, RuntimeError, sqlite3.Error) as error:
            message = str(error) if isinstance(error, GflLabError) else f"{type(error).__name__}: {error}"
            found.append({"check": name, "ok": False, "message": message})
    if as_json:
        print_json({"rows": found})
    else:
        for row in found:
            print(f"{'ok  ' if row['ok'] else 'BAD '} {row['check']:9} {row['message']}")
    bad = sum(not row["ok"] for row in found)
    say("everything is in order" if not bad else f"{bad} of {len(found)} checks failed")
    sys.exit(int(ExitCode.UNFIT if bad else ExitCode.DONE))


Lines = Iterator[tuple[bool, str]]


def _packages() -> Lines:
    yield (3, 11) <= sys.version_info[:2] <= (3, 12), f"Python {sys.version.split()[0]} (3.11 and 3.12 are supported)"
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{package} is not installed"
    yield True, ", ".join(versions)
    yield from _pins()


def _pins() -> Lines:
    """What is installed against what gfl-lab asks for, and against the versions that it was tested with."""
    from packaging.requirements import Requirement

    def installed(name: str) -> str:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
        return ""

    asked = [Requirement(text) for text in importlib.metadata.requires("gfl-lab") or ()]
    wrong = [
        f"{need.name} {found}, not {need.specifier}"
        for need in asked
        if not need.marker and (found := installed(need.name)) and found not in need.specifier
    ]
    yield not wrong, f"versions: {'; '.join(wrong)}" if wrong else "every version is one that gfl-lab asks for"
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", shipped.pins().read_text(), re.MULTILINE)
    other = [f"{name} {found} (tested: {pin})" for name, pin in pins if (found := installed(name)) and found.partition("+")[0] != pin]
    yield True, "note: other versions than tested: " + ", ".join(other) if other else "all versions are the tested ones"


def _opencv() -> Lines:
    """Check that one OpenCV is installed, the headless one: mmengine and mmcv-lite make pip install the plain one besides."""
    plain = [name for name in ("opencv-python", "opencv-contrib-python") if _is_installed(name)]
    way = "see docs/installation.md: `pip uninstall -y opencv-python opencv-contrib-python opencv-python-headless`, then `pip install --no-deps opencv-python-headless`"
    try:
        import cv2
    except ImportError as error:
        yield False, f"OpenCV cannot be imported: {error}; {way}"
        return
    if plain and _is_installed("opencv-python-headless"):
        yield (
            True,
            f"note: {' and '.join(plain)} and opencv-python-headless share one folder, and either may be the one that is loaded; {way}",
        )
    elif plain:
        yield True, f"note: {' and '.join(plain)} {cv2.__version__} is installed, which needs libGL; a machine without it: {way}"
    else:
        yield True, f"OpenCV {cv2.__version__} is the headless one"


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _own_files() -> Lines:
    """Check the files that gfl-lab brings along: none is missing or cut off, and each experiment finds its profile and table."""
    from gfl_lab.spec.files import find_profile, load_experiment, load_profile, load_published

    if damaged := shipped.damaged():
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        yield False, f"missing or damaged: {', '.join(damaged[:5])}{more}: install gfl-lab again"
    folder = shipped.experiments()
    shipped.dashboard()
    profiles, tables = [[folder / part] for part in (shipped.PROFILES, shipped.PUBLISHED)]
    broken = []
    files = sorted(folder.glob("*.yaml"))
    for path in files:
        try:
            experiment, source = load_experiment(path)
            load_profile(find_profile(experiment.profile, profiles))
            if experiment.published_table:
                load_published(experiment.published_table, tables, source)
        except GflLabError as error:
            broken.append(path)
            yield False, f"{path}: {error.problems[0]}"
    if not damaged and not broken:
        count = len(list(tables[0].glob("*.yaml")))
        yield True, f"{plural(len(files), 'experiment')}, {plural(count, 'published table')} and the dashboard are in {shipped.root()}"


def _detector() -> Lines:
    import torch

    from gfl_lab.detector.build import build_detector
    from gfl_lab.spec.settings import Settings

    small = Settings(backbone="r18", base_channels=8, neck_channels=16, head_channels=16, head_convs=1, strides=(8, 16), frozen_stages=-1)
    model = build_detector(small, 2).eval()
    with torch.inference_mode():
        scores = model.bbox_head(model.extract_feat(torch.zeros(1, 3, 64, 64)))[0]
    yield scores[0].shape == (1, 2, 8, 8), "a detector builds and runs without a compiled mmcv"


def _machine() -> Lines:
    from gfl_lab.orchestrate.resources import look

    machine = look()
    yield machine.memory_gib >= 4, f"{machine} (4 GiB memory at least)"
    yield from _gpus(len(machine.gpus))


def _gpus(listed: int) -> Lines:
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


def _processes(repair: bool) -> Lines:
    from gfl_lab.orchestrate import orphans

    found = orphans.orphans()
    for orphan in found:
        killed = repair and orphan.kill()
        what = f"process {orphan.pid} belongs to a driver that has gone" + (f" (log: {orphan.log})" if orphan.log.startswith("/") else "")
        yield killed, what + (", killed" if killed else f"; {HOW}")
    if not found:
        yield True, "no process of a dead driver"


def _ray(repair: bool) -> Lines:
    from gfl_lab.orchestrate import orphans
    from gfl_lab.orchestrate.ray_cluster import scratch_dir

    found = orphans.ray_leftovers()
    if not found:
        yield True, f"Ray's sessions go to {scratch_dir()}; none of a dead driver lies there"
        return
    if repair:
        for folder in found:
            shutil.rmtree(folder, ignore_errors=True)
    # They take room, and nothing else: what is left of a clean run too is no fault.
    yield True, f"{plural(len(found), 'folder')} of dead Ray sessions in {scratch_dir()}" + (", removed" if repair else f"; {HOW}")


def _sockets() -> Lines:
    """Whether the folder for temporary files leaves room for the names of sockets."""
    from gfl_lab.orchestrate.ray_cluster import check_sockets

    try:
        check_sockets()
    except GflLabError as error:
        yield False, ". ".join((error.problems[0].message, error.problems[0].hint))
    else:
        yield True, "the path of the folder for temporary files is short enough for Ray's sockets"


def _plans(repair: bool) -> Lines:
    """Plans that cannot be read are moved out of the way; without ``repair`` the check of the runs tells them."""
    from gfl_lab.errors import FormatError
    from gfl_lab.rundir import RunTree
    from gfl_lab.tracking.mlflow_payload import read_plan

    tree = RunTree.default()
    for name, profile in tree.experiments() if repair else ():
        try:
            read_plan(tree, name, profile)
        except FormatError:  # another gfl-lab's, and whole
            continue
        except StoreError as error:
            path = tree.experiment(name, profile) / naming.PLAN
            kept = path.with_name(f"{path.name}.damaged")
            path.replace(kept)
            yield True, f"{error.problems[0].message}; moved to {kept.name}: run {name} again, finished trials are found by their ids"


def _runs(repair: bool) -> Lines:
    from gfl_lab.orchestrate import orphans
    from gfl_lab.results.store import Store
    from gfl_lab.rundir import RunTree

    tree = RunTree.default()
    yield True, f"{len(tree.trials())} trials, {len(tree.experiments())} experiments in {tree.root}"
    for problem in Store(tree).problems():
        yield False, problem
    yield from _damaged(tree)
    for trial in orphans.stale_leases(tree):
        if repair:
            trial.drop_lease()
        yield repair, f"trial {trial.id} has the lease of a dead process" + (", removed" if repair else f"; {HOW}")
    for path in orphans.temporary_files(tree):
        if repair:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield repair, f"half-written: {path.relative_to(tree.root)}" + (", removed" if repair else f"; {HOW}")


def _damaged(tree: Any) -> Lines:
    """Finished trials with missing or damaged files; the command that makes them again, where there is one."""
    from gfl_lab.integrity import Checked
    from gfl_lab.orchestrate.damaged import examine
    from gfl_lab.results.store import Store

    checked, commands, count = Checked(tree), dict[str, str](), 0
    for row in Store(tree).experiments():
        seeds = "" if row.kind == "search" else " --seeds " + ",".join(map(str, sorted({trial.seed for trial in row.trials})))
        for trial in row.trials:
            commands.setdefault(trial.id, f"`gfl-lab run {row.source} --profile {row.profile}{seeds}`")
    for trial in tree.folders():
        try:
            found = examine(trial, trial.state(), checked)
        except (GflLabError, OSError) as error:
            yield False, f"trial {trial.id} cannot be checked: {error}"
            continue
        if found is None:
            count += trial.file(naming.RESULT).exists()
            continue
        again = commands.get(trial.id)
        if rest := found.beyond_repair:
            way = f"to train it once more, move {trial.path} away and give {again or 'its command again'}"
            yield False, f"trial {trial.id} is damaged: {rest}; {way}"
        else:
            yield False, f"trial {trial.id} is damaged: {found}; {again or 'the command that trained it'} makes it again, without training"
    checked.save()
    if count:
        yield True, f"{plural(count, 'trial')} that have ended have whole files, and the AP that their detections give"


def _mlflow(repair: bool) -> Lines:
    """The database's schema against the installed MLflow's, and runs that say RUNNING while nobody runs their trial."""
    from gfl_lab.addresses import sqlite_path
    from gfl_lab.rundir import RunTree
    from gfl_lab.tracking import database
    from gfl_lab.tracking.mirror import Mirror, default_uri
    from gfl_lab.tracking.server import DamagedDatabase

    tree = RunTree.default()
    path = sqlite_path(default_uri(tree))
    if path is None:
        yield True, "MLflow is a server: `gfl-lab sync` completes what it has"
        return
    try:
        if database.check(path):
            yield True, "no MLflow database yet"
            return
        database.check_pages(path)
    except DamagedDatabase as error:
        yield _replaced(error, tree, repair)
        return
    mirror = Mirror(tree)
    stored, installed = database.schema(path), _installed_schema()
    if stored == installed:
        yield True, f"{path} has the schema of the installed MLflow"
    else:
        if repair:
            mirror.prepare()  # keeps a copy; refuses one of a newer MLflow
        yield repair, f"{path} has schema {stored}, the installed MLflow {installed}" + (", raised" if repair else f"; {HOW}")
        if not repair:
            return
    zombies = _zombies(path, tree)
    if repair:
        for name, profile in zombies:
            mirror.sync(name, profile, final=not _driven(tree.experiment(name, profile)))
    for (name, profile), count in zombies.items():
        yield (
            repair,
            f"MLflow shows {plural(count, 'run')} of {name} ({profile}) as running that no process runs"
            + (", corrected" if repair else f"; {HOW}"),
        )
    if not zombies:
        yield True, "no run of MLflow says RUNNING without a process"


def _replaced(error: Any, tree: Any, repair: bool) -> tuple[bool, str]:
    """The line on a damaged database: set aside for a new one, if it is the run tree's own."""
    from gfl_lab.tracking import database
    from gfl_lab.tracking.mirror import Mirror

    problem = error.problems[0].message
    if error.path != tree.root.resolve() / naming.MLFLOW_DB:
        return False, f"{problem}; it is not the one beside the runs: move it away, and `gfl-lab sync` fills a new one"
    if not repair:
        return False, f"{problem}; {HOW}: it is kept under another name, and a new one filled from the run directories"
    with database.exclusive(database.lock_path(tree, tree.mlflow_uri)):
        kept = database.set_aside(error.path)
    mirror = Mirror(tree, tree.mlflow_uri)
    mirror.prepare()
    for name, profile in tree.experiments():
        with contextlib.suppress(StoreError):  # a plan that cannot be read has a line of its own
            mirror.sync(name, profile, final=not _driven(tree.experiment(name, profile)))
    return True, f"{problem}; kept as {kept.name}, and a new one filled from the run directories"


def _zombies(path: Path, tree: Any) -> Counter[tuple[str, str]]:
    """Experiments with runs that say RUNNING: of trials without a living lease, or of the experiment without a driver."""
    from gfl_lab.addresses import sqlite_reader

    with sqlite_reader(path) as connection:
        rows = connection.execute(
            "SELECT r.run_uuid, t.key, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE r.status = 'RUNNING' AND r.lifecycle_stage = 'active' AND t.key LIKE 'gfl.%'"
        ).fetchall()
    runs: dict[str, dict[str, str]] = {}
    for run, key, value in rows:
        runs.setdefault(run, {})[key] = value
    found: Counter[tuple[str, str]] = Counter()
    for tags in runs.values():
        own = tags.get(naming.TAG_EXPERIMENT, ""), tags.get(naming.TAG_PROFILE, "")
        if own not in tree.experiments():
            continue
        trial = tags.get(naming.TAG_TRIAL, "")
        if tree.trial(trial).lease_alive() if naming.is_trial_id(trial) else _driven(tree.experiment(*own)):
            continue
        found[own] += 1
    return found


def _driven(folder: Path) -> bool:
    """Whether a driver holds the experiment."""
    try:
        with (folder / ".driver.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _installed_schema() -> str:
    from gfl_lab.tracking.database import schemas
    from gfl_lab.tracking.server import quiet_import

    quiet_import()
    return schemas()[0]
