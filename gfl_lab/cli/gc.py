"""`gfl-lab gc`: what a run tree could do without, and deleting it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gfl_lab import naming
from gfl_lab.cli.output import print_json, say
from gfl_lab.errors import StoreError
from gfl_lab.wording import plural

TRAINING_STATE, DEAD_SESSION = "training state", "dead Ray session"
DAMAGED = "*.damaged"
_NEEDED = ("meta", "state_dict")
"""What evaluation reads of a checkpoint; the rest is for going on with training, which a finished trial never does."""


@dataclass(frozen=True)
class Item:
    """Something that can go: ``size`` bytes of ``path``; of a checkpoint with training state only a part of the file."""

    kind: str
    path: Path
    size: int
    trial: str = ""


@click.command("gc")
@click.option("--delete", is_flag=True, help="Delete what is listed; without it nothing is touched.")
@click.option("--checkpoints", is_flag=True, help="Also the last checkpoints of finished trials: they cannot be evaluated again then.")
@click.option("--unreferenced", is_flag=True, help="Also trials that no plan refers to, and plans and tables over former data.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(delete: bool, checkpoints: bool, unreferenced: bool, as_json: bool) -> None:
    """Show what the run tree could do without, and delete it with --delete.

    Results, evaluations, distributions and logs are never touched, nor the last checkpoint of a finished trial or any of an
    unfinished one, nor a trial that runs.
    """
    from gfl_lab.rundir import RunTree

    tree = RunTree.default()
    # What goes as a whole goes first: a smaller checkpoint needs room while it is written.
    items = sorted(_find(tree, checkpoints, unreferenced), key=lambda item: item.kind == TRAINING_STATE)
    gone = [item for item in items if _delete(item, tree)] if delete else []
    freed, total = sum(item.size for item in gone), sum(item.size for item in items)
    if as_json:
        print_json(
            {
                "home": str(tree.root), "deleted": delete, "bytes": total, "freed": freed,
                "rows": [{"kind": item.kind, "path": str(item.path), "bytes": item.size, "trial": item.trial or None, "gone": item in gone} for item in items],
            }
        )  # fmt: skip
        return
    sessions = [item for item in items if item.kind == DEAD_SESSION]
    for item in items:
        if item.kind != DEAD_SESSION:
            shown = item.path.relative_to(tree.root) if item.path.is_relative_to(tree.root) else item.path
            print(f"{_mib(item.size):>10}  {item.kind:22}  {shown}")
    if sessions:  # one line: there may be hundreds, and none says anything
        told = f"{plural(len(sessions), 'folder')} in {sessions[0].path.parent}"
        print(f"{_mib(sum(item.size for item in sessions)):>10}  {'dead Ray sessions':22}  {told}")
    if not items:
        say(f"nothing to delete under {tree.root}")
    elif delete:
        say(f"{plural(len(gone), 'item')} deleted, {_mib(freed)} freed")
        if len(gone) < len(items):
            say(f"note: {len(items) - len(gone)} left alone: a process has taken them meanwhile, or they could not be changed")
    else:
        say(f"{plural(len(items), 'item')}, {_mib(total)}; nothing was touched. Delete them with:  gfl-lab gc --delete")


def _find(tree: Any, checkpoints: bool, unreferenced: bool) -> Iterator[Item]:
    from gfl_lab.orchestrate import orphans
    from gfl_lab.orchestrate.trainings import needed_by_others
    from gfl_lab.rundir import TrialState

    named = _referenced(tree) if unreferenced else None
    needed = needed_by_others(tree) if unreferenced or checkpoints else set()
    if needed:
        say(f"note: the weights of {plural(len(needed), 'finished trial')} stay: unfinished trials are going to evaluate them")
    if (tree.root / naming.TRIALS_DIR).is_symlink():
        say(f"note: {tree.root / naming.TRIALS_DIR} is a link, which is not followed")
        trials = []
    else:
        trials = [trial for trial in tree.trials() if not trial.path.is_symlink()]
    for trial in trials:
        try:
            state = trial.state()
        except StoreError as error:
            say(f"note: trial {trial.id} is left alone: {error.problems[0].message}")
            continue
        if state is TrialState.RUNNING:
            continue
        if named is not None and trial.id not in named and trial.id not in needed:
            yield Item("unreferenced trial", trial.path, _size(trial.path), trial.id)
            continue
        last, previous = trial.file(naming.LAST_CHECKPOINT), trial.file(naming.PREVIOUS_CHECKPOINT)
        if state is TrialState.DONE:
            if checkpoints and _is_file(last) and trial.id not in needed:
                yield Item("last checkpoint", last, _size(last), trial.id)
            elif _is_file(last) and (surplus := _surplus(last)):
                yield Item(TRAINING_STATE, last, surplus, trial.id)
            if _is_file(previous):
                yield Item("previous checkpoint", previous, _size(previous), trial.id)
        for path in filter(_is_file, sorted(trial.path.glob(DAMAGED))):
            yield Item("damaged, set aside", path, _size(path), trial.id)
    going = [] if named is None else [trial.path for trial in trials if trial.id not in named and trial.id not in needed]
    for path in orphans.temporary_files(tree):
        if not any(path.is_relative_to(folder) for folder in going):
            yield Item("half-written", path, _size(path))
    if unreferenced:
        for path in sorted((tree.root / naming.EXPERIMENTS_DIR).glob("*/*/previous/*")):
            if path.is_dir() and not orphans.through_link(path, tree.root):
                yield Item("plan over former data", path, _size(path))
    for path in orphans.ray_leftovers():
        yield Item(DEAD_SESSION, path, _size(path))


def _referenced(tree: Any) -> set[str]:
    """Ids of trials that a present plan, table or search refers to.

    Raises:
        StoreError: a file of an experiment cannot be read, so nobody knows what it refers to.
    """
    from gfl_lab.records.plan import read_plan

    found: set[str] = set()
    for path in sorted((tree.root / naming.EXPERIMENTS_DIR).glob("*/*/*.json*")):
        try:
            found.update(re.findall(r"\b[0-9a-f]{12}\b", path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} cannot be read ({error}), so it is not known which trials it refers to") from None
    for name, profile in tree.experiments():
        read_plan(tree.experiment(name, profile) / naming.PLAN)  # a torn plan has lost references
    return found


def _delete(item: Item, tree: Any) -> bool:
    """Delete one item. Whether it is gone. It writes nothing but a smaller checkpoint: the disk may be full."""
    if item.path.is_symlink():
        return False
    with contextlib.ExitStack() as stack:
        if item.trial:
            try:
                folder = os.open(tree.trial(item.trial).path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                return False
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)  # whoever takes the lease waits for this lock
            if tree.trial(item.trial).lease_alive():
                return False
        return _remove(item)


def _remove(item: Item) -> bool:
    try:
        if item.kind == TRAINING_STATE:
            _strip(item.path)
        elif item.path.is_dir():
            shutil.rmtree(item.path)  # unlinks links, never follows them
        else:
            item.path.unlink()
        return True
    except (OSError, RuntimeError) as error:
        say(f"warning: {item.path}: {error}")
        return False


def _surplus(path: Path) -> int:
    """Bytes of tensors in a checkpoint that only training needs; 0 for one that has none or cannot be read."""
    from gfl_lab.checkpoints.files import load_safely
    from gfl_lab.errors import InputError

    try:
        content = load_safely(path)
    except InputError:
        return 0
    if not set(_NEEDED) <= content.keys():
        return 0
    shared = set(_storages({key: content[key] for key in _NEEDED}))
    rest = set(_storages({key: value for key, value in content.items() if key not in _NEEDED}))
    return sum(size for _, size in rest - shared)


def _storages(value: Any) -> Iterator[tuple[int, int]]:
    """(address, bytes) of the memory of every tensor in nested dicts and lists."""
    import torch

    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
    elif isinstance(value, dict):
        for each in value.values():
            yield from _storages(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _storages(each)


def _strip(path: Path) -> None:
    """Write a checkpoint anew, atomically, with what evaluation needs."""
    import torch

    from gfl_lab.checkpoints.files import load_safely
    from gfl_lab.records.files import atomic_path

    content = load_safely(path)
    with atomic_path(path) as temporary:
        torch.save({key: content[key] for key in _NEEDED}, temporary)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _size(path: Path) -> int:
    """Bytes on disk under ``path``, links not followed."""
    if not path.is_dir():
        return path.stat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
