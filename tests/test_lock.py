"""The lock file after a run: extended by what is new, never overwritten where a locked number differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gfl_lab import naming
from gfl_lab.cli.output import say
from gfl_lab.integrity.file_checks import recomputed_ap
from gfl_lab.records.files import read_json, write_json
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.lock_file import LockFile
from tests.support.fake_runs import CLASSES
from tests.test_compare import better
from tests.test_error_types import scene
from tests.test_verify import first_trial, lock_of, locked, set_metric

FOLDER = ("table3_qfl_dfl", "desk")


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    return locked(tmp_path)


def settled(tree: RunTree, *, damaged: tuple[str, ...] = (), trained: bool = True, relock: bool = False) -> bool:
    """Return what ``LockFile.settle`` returns; its messages go to stderr."""
    store = Store(tree)
    lock = LockFile(tree.experiment(*FOLDER), store.experiment(*FOLDER), store, say, experiment="x.yaml")
    return lock.settle(damaged, trained=trained, relock=relock)


def paths(tree: RunTree) -> tuple[Path, Path]:
    return tree.experiment(*FOLDER) / naming.LOCK, tree.experiment(*FOLDER) / naming.NEW_LOCK


def change(tree: RunTree) -> str:
    """Another evaluation of one trial, whole and consistent in itself."""
    trial = first_trial(tree)
    records = replace(better(scene(3), 0.1), classes=CLASSES)
    np.savez_compressed(trial.file(naming.EVAL_RECORDS), resampled=np.zeros((20, 3)), **records.arrays())
    set_metric(trial, **recomputed_ap(records))
    return trial.id


@pytest.mark.parametrize("trained", [False, True])
def test_the_same_numbers_leave_it_as_it_is(tree: RunTree, trained: bool) -> None:
    lock, beside = paths(tree)
    before = lock.read_bytes(), lock.stat().st_mtime_ns
    assert settled(tree, trained=trained) and (lock.read_bytes(), lock.stat().st_mtime_ns) == before and not beside.exists()


@pytest.mark.parametrize("trained", [False, True])
def test_a_number_that_differs_keeps_it_until_it_is_told(tree: RunTree, capsys: pytest.CaptureFixture[str], trained: bool) -> None:
    lock, beside = paths(tree)
    before = lock.read_bytes()
    changed = change(tree)
    assert not settled(tree, trained=trained) and lock.read_bytes() == before and read_json(beside) == lock_of(tree)
    said = capsys.readouterr().err
    assert f"trial {changed}: AP: locked" in said and "gfl-lab run x.yaml --relock" in said and str(beside) in said
    assert settled(tree, relock=True) and read_json(lock) == lock_of(tree) and not beside.exists()
    assert settled(tree)


def test_a_locked_trial_that_is_not_finished_any_more_keeps_it(tree: RunTree) -> None:
    lock, _ = paths(tree)
    before = lock.read_bytes()
    first_trial(tree).file(naming.RESULT).unlink()
    assert not settled(tree) and lock.read_bytes() == before


@pytest.mark.parametrize("trained", [False, True])
def test_trials_that_finished_since_extend_it_unless_a_locked_number_differs(tree: RunTree, trained: bool) -> None:
    lock, _ = paths(tree)
    whole = read_json(lock)
    fewer = json.loads(json.dumps(whole))
    del fewer["trials"][first_trial(tree).id]
    for row in fewer["rows"].values():
        row["metrics"] = row["delta"] = {}
    write_json(lock, fewer)
    assert settled(tree, trained=trained) and read_json(lock) == whole
    other = next(iter(fewer["trials"]))
    fewer["trials"][other]["metrics"]["AP"] = 1.0
    write_json(lock, fewer)
    assert not settled(tree, trained=trained) and read_json(lock) == fewer


def test_what_left_the_plan_leaves_it_with_a_copy_when_something_was_trained(tree: RunTree, capsys: pytest.CaptureFixture[str]) -> None:
    lock, _ = paths(tree)
    before = lock.read_bytes()
    plan = tree.experiment(*FOLDER) / naming.PLAN
    content = read_json(plan)
    write_json(plan, content | {"variants": content["variants"][:3]})
    assert not settled(tree, trained=False) and lock.read_bytes() == before and "left" not in capsys.readouterr().out
    assert settled(tree, trained=True) and read_json(lock) == lock_of(tree) and len(read_json(lock)["trials"]) == 3
    assert [path.read_bytes() for path in lock.parent.glob("previous/table.lock-*.json")] == [before]


def test_damaged_trials_are_in_no_lock_file_and_let_none_be_extended(tree: RunTree, capsys: pytest.CaptureFixture[str]) -> None:
    lock, _ = paths(tree)
    before, bad = lock.read_bytes(), first_trial(tree).id
    assert settled(tree, damaged=[bad]) and lock.read_bytes() == before
    set_metric(first_trial(tree), AP=99.0)
    assert settled(tree, damaged=[bad]) and lock.read_bytes() == before, "the run tells of it elsewhere"
    lock.unlink()
    assert settled(tree, damaged=[bad]) and bad not in read_json(lock)["trials"] and len(read_json(lock)["trials"]) == 3
    assert "3 trials" in capsys.readouterr().err
    assert not any(99.0 in trial["metrics"].values() for trial in read_json(lock)["trials"].values())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"trials": 3}', '{"format": 99}'])
def test_what_is_no_lock_file_is_left_as_it_is(tree: RunTree, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    lock, _ = paths(tree)
    lock.write_text(content)
    assert not settled(tree) and lock.read_text() == content and "--relock" in capsys.readouterr().err
    assert settled(tree, relock=True) and read_json(lock) == lock_of(tree)
