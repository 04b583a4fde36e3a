"""Python users choose a run tree: what works on one works on the tree that it is given, not on the one of GFL_LAB_HOME."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfl_lab import naming
from gfl_lab.errors import InputError
from gfl_lab.maintenance import machine, run_files, tracking_database
from gfl_lab.rundir import RunTree
from gfl_lab.session import lookup, trial_lookup
from gfl_lab.session.verification import verify
from tests.support.fake_runs import write_fake_tree
from tests.test_compare import FILE

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names another tree, which is empty."""
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "elsewhere"))


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    return write_fake_tree(tmp_path / "mine", epochs=1, train_images=4, val_images=1)


def test_an_experiment_and_a_trial_are_found_in_the_given_tree(tree: RunTree) -> None:
    _, row = lookup.stored_experiment(tree, FILE, "desk")
    assert row.name == "table3_qfl_dfl"
    first = row.trials[0].id
    assert trial_lookup.trial_or_file(tree, first) == tree.trial(first)
    with pytest.raises(InputError, match="under"):
        lookup.require_run(RunTree(tree.root / "none"), FILE, "desk")


def test_an_unfinished_trial_is_told_with_the_command_of_the_given_trees_experiment(tree: RunTree) -> None:
    trial = tree.trials()[0]
    trial.file(naming.RESULT).unlink()
    with pytest.raises(InputError) as raised:
        trial_lookup.require_done(tree, trial)
    assert "gfl-lab run table3_qfl_dfl --profile desk --seeds 0" in raised.value.problems[0].hint


def test_verify_reads_the_lock_file_of_the_given_tree(tree: RunTree) -> None:
    with pytest.raises(InputError, match="no such lock file") as raised:
        verify(tree, FILE, "desk", None)
    assert str(tree.root) in raised.value.problems[0].place


def test_doctor_looks_at_the_given_tree(tree: RunTree) -> None:
    assert next(run_files.runs(tree, repair=False)) == (True, f"4 trials, 1 experiments in {tree.root}")
    assert any(str(tree.root) in message for _, message in machine.disk(tree))
    tree.experiment("table3_qfl_dfl", "desk").joinpath(naming.PLAN).write_text("{")
    assert [ok for ok, _ in run_files.plans(tree, repair=True)] == [True]
    (tree.root / naming.MLFLOW_DB).write_bytes(b"no database" * 100)
    ((ok, message),) = tracking_database.database(tree, repair=False)
    assert not ok and "it is kept under another name" in message
