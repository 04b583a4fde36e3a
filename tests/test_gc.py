"""`gfl-lab gc` takes what nobody needs, only when told to, and never what runs or lies outside the tree."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import pytest
import torch

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.maintenance.deletion import delete
from gfl_lab.maintenance.surplus import find_surplus
from gfl_lab.orchestrate import orphans
from gfl_lab.records.files import write_json
from gfl_lab.rundir import RunTree, TrialDir
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree

PARAMETERS = 50_000


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    return runner(monkeypatch, capsys, "gc")


def checkpoint(path: Path, trial: str, average: bool = False) -> None:
    """As a trial writes it: weights, two moments of AdamW, schedules."""
    weights = {"a.weight": torch.randn(PARAMETERS)}
    content = {
        "meta": {"epoch": 8, "iter": 96, "trial": trial, "format": 1, "classes": ["x"]},
        "state_dict": weights,
        "optimizer": {
            "state": {0: {"exp_avg": torch.randn(PARAMETERS), "exp_avg_sq": torch.randn(PARAMETERS)}},
            "param_groups": [{"lr": 0.1}],
        },
        "param_schedulers": [{"last_step": 3}],
    }
    torch.save(content | ({"trained": {"a.weight": torch.randn(PARAMETERS)}, "average_updates": 5} if average else {}), path)


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    """Two finished trials, an interrupted and a running one, each with checkpoints and a damaged one."""
    tree = write_fake_tree(tmp_path / "runs", states={2: "interrupted", 3: "running"})
    for trial in tree.trials():
        checkpoint(trial.file(naming.LAST_CHECKPOINT), trial.id, average=True)
        checkpoint(trial.file(naming.PREVIOUS_CHECKPOINT), trial.id)
        (trial.path / "last.damaged").write_bytes(b"x" * 1000)
    return tree


def of(tree: RunTree, state: str) -> list[TrialDir]:
    return [trial for trial in tree.trials() if trial.state() == state]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def rows(cli: Cli, *arguments: str) -> dict:
    code, out, err = cli(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_dry_by_default(cli: Cli, tree: RunTree) -> None:
    before = contents(tree.root)
    code, out, err = cli("--checkpoints", "--unreferenced")
    assert code == 0 and "nothing was touched" in err and "--delete" in err and "last checkpoint" in out
    found = rows(cli)
    assert not found["deleted"] and found["freed"] == 0 and found["bytes"] == sum(row["bytes"] for row in found["rows"]) > 0
    assert contents(tree.root) == before


def test_finished_trials_keep_their_weights_and_the_others_everything(cli: Cli, tree: RunTree) -> None:
    done, (interrupted,), (running,) = of(tree, "done"), of(tree, "interrupted"), of(tree, "running")
    kept = {trial.id: contents(trial.path) for trial in (interrupted, running)}
    weights = {trial.id: load_safely(trial.file(naming.LAST_CHECKPOINT)) for trial in done}
    sizes = {trial.id: trial.file(naming.LAST_CHECKPOINT).stat().st_size for trial in done}
    other = {
        trial.id: {name: data for name, data in contents(trial.path).items() if not name.endswith((".pth", ".damaged"))} for trial in done
    }

    found = rows(cli, "--delete")
    kinds = sorted(row["kind"] for row in found["rows"])
    assert kinds == sorted(2 * ["training state", "previous checkpoint", "damaged, set aside"] + ["damaged, set aside"])
    assert all(row["gone"] for row in found["rows"]) and found["freed"] == found["bytes"]
    for trial in done:
        assert {path.name for path in trial.path.glob("*.pth")} == {naming.LAST_CHECKPOINT} and not list(trial.path.glob("*.damaged"))
        slim = load_safely(trial.file(naming.LAST_CHECKPOINT))
        assert slim.keys() == {"meta", "state_dict"} and slim["meta"] == weights[trial.id]["meta"]
        assert torch.equal(slim["state_dict"]["a.weight"], weights[trial.id]["state_dict"]["a.weight"])
        shrunk = sizes[trial.id] - trial.file(naming.LAST_CHECKPOINT).stat().st_size
        told = next(row["bytes"] for row in found["rows"] if row["trial"] == trial.id and row["kind"] == "training state")
        assert told == 3 * 4 * PARAMETERS and shrunk == pytest.approx(told, rel=0.02), "what it says is what it frees"
        assert {name: data for name, data in contents(trial.path).items() if not name.endswith(".pth")} == other[trial.id]
    assert contents(running.path) == kept[running.id]
    assert contents(interrupted.path) == {name: data for name, data in kept[interrupted.id].items() if name != "last.damaged"}
    assert rows(cli)["rows"] == [] and "nothing to delete" in cli()[2]


def test_checkpoints_of_finished_trials_go_only_when_asked(cli: Cli, tree: RunTree) -> None:
    found = rows(cli, "--delete", "--checkpoints")
    assert sorted(row["kind"] for row in found["rows"]).count("last checkpoint") == 2
    assert not any(trial.file(naming.LAST_CHECKPOINT).exists() for trial in of(tree, "done"))
    assert all(trial.file(naming.LAST_CHECKPOINT).exists() for trial in (*of(tree, "interrupted"), *of(tree, "running")))


def test_trials_of_no_plan_and_former_tables_go_only_when_asked(cli: Cli, tree: RunTree) -> None:
    folder = tree.experiment("table3_qfl_dfl", "desk")
    plan = json.loads((folder / naming.PLAN).read_text())
    dropped = [
        trial["id"] for variant in plan["variants"] for trial in variant["trials"] if tree.trial(trial["id"]).state() in ("done", "running")
    ]
    (folder / "previous" / "0123").mkdir(parents=True)
    (folder / "previous" / "0123" / naming.PLAN).write_text(json.dumps(plan))
    plan["variants"] = [variant for variant in plan["variants"] if variant["trials"][0]["id"] not in dropped[1:]]
    write_json(folder / naming.PLAN, plan)
    assert not [row for row in rows(cli)["rows"] if "unreferenced" in row["kind"] or "former" in row["kind"]]
    found = rows(cli, "--delete", "--unreferenced")
    (done,) = [trial for trial in dropped[1:] if trial in {row["trial"] for row in found["rows"] if row["kind"] == "unreferenced trial"}]
    assert not tree.trial(done).path.exists() and not (folder / "previous" / "0123").exists()
    assert len(tree.trials()) == 3 and of(tree, "running"), "a running trial stays, whoever refers to it"


def test_a_plan_that_cannot_be_read_keeps_every_trial(cli: Cli, tree: RunTree) -> None:
    (tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN).write_text('{"variants": [')
    before = contents(tree.root)
    code, _, err = cli("--delete", "--unreferenced")
    assert code == 2 and "plan.json" in err and contents(tree.root) == before


def test_a_trial_that_starts_meanwhile_is_left_alone(cli: Cli, tree: RunTree, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = of(tree, "done")[0]
    items = [item for item in find_surplus(tree, checkpoints=True, unreferenced=False, say=print) if item.trial == trial.id]
    trial.take_lease()
    assert items and not any(delete(item, tree, print) for item in items) and trial.file(naming.LAST_CHECKPOINT).exists()


def test_no_link_is_followed(cli: Cli, tree: RunTree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first, second = of(tree, "done")
    moved = outside / second.id
    second.path.rename(moved)
    second.path.symlink_to(moved, target_is_directory=True)  # a trial that lies elsewhere
    last = outside / "weights.pth"
    first.file(naming.LAST_CHECKPOINT).rename(last)
    first.file(naming.LAST_CHECKPOINT).symlink_to(last)
    (outside / "previous" / "x").mkdir(parents=True)
    (tree.root / naming.EXPERIMENTS_DIR / "a").mkdir()
    (tree.root / naming.EXPERIMENTS_DIR / "a" / "b").symlink_to(outside, target_is_directory=True)
    (outside / ".x.y.tmp").write_text("x")
    os.utime(outside / ".x.y.tmp", (time.time() - 2 * orphans.OLD_S,) * 2)
    before = contents(outside)
    found = rows(cli, "--delete", "--checkpoints", "--unreferenced")
    assert all(row["gone"] for row in found["rows"]) and contents(outside) == before and second.path.is_symlink()
    assert not first.file(naming.PREVIOUS_CHECKPOINT).exists() and (outside / "previous" / "x").exists()


def test_trials_behind_a_link_are_not_looked_at(cli: Cli, tree: RunTree, tmp_path: Path) -> None:
    (tree.root / naming.TRIALS_DIR).rename(tmp_path / "elsewhere")
    (tree.root / naming.TRIALS_DIR).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert rows(cli, "--checkpoints")["rows"] == [] and "a link" in cli()[2]


def test_a_full_disk_can_be_emptied(cli: Cli, tree: RunTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new is written before whole files have gone; where there is no room for a smaller checkpoint, the old one stays."""
    import errno

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gfl_lab.records.files.tempfile.mkstemp", full)
    code, out, err = cli("--delete")
    assert code == 0 and "5 items deleted" in err and "2 left alone" in err and "No space left" in err
    assert all(load_safely(trial.file(naming.LAST_CHECKPOINT))["optimizer"] for trial in of(tree, "done"))


def test_scratch_of_dead_ray_sessions_goes(cli: Cli, tree: RunTree, tmp_path: Path) -> None:
    session = tmp_path / "t" / f"gfl-lab-{os.getuid()}" / "r" / f"session_2026-01-01_00-00-00_000000_{2**22 + 1}"
    session.mkdir(parents=True)
    session.parents[1].chmod(0o700)
    (session / "log").write_bytes(b"x" * 500)
    found = rows(cli, "--delete")
    assert [row["bytes"] for row in found["rows"] if row["kind"] == "dead Ray session"] == [500] and not session.exists()
