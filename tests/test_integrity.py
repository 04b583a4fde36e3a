"""Damaged files of finished trials: each kind is found, what can be is made again, and no lock file certifies the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gfl_lab import naming
from gfl_lab.errors import DiskFull
from gfl_lab.integrity.damage import Cure
from gfl_lab.integrity.trial_check import CHECKED, Checked, damage
from gfl_lab.orchestrate import damaged as damages
from gfl_lab.records.files import read_json, write_json
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.train import finished
from gfl_lab.train.trial import run_trial
from tests.support.cli import Cli, runner
from tests.support.trials import train

TINY = {"epochs": 1, "score_thr": 0.01}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> tuple[TrialDir, TrialDir]:
    """Two finished trials with distributions."""
    tree = RunTree(tmp_path_factory.mktemp("runs"))
    return train(tree, shapes, **TINY), train(tree, shapes, qfl=False, **TINY)


@pytest.fixture
def two(pair: tuple[TrialDir, TrialDir], tmp_path: Path) -> tuple[TrialDir, TrialDir]:
    """Copies of both, to be damaged."""
    tree = RunTree(tmp_path / "copy")
    for trial in pair:
        shutil.copytree(trial.path, tree.trial(trial.id).path)
    return tree.trial(pair[0].id), tree.trial(pair[1].id)


def edit(trial: TrialDir, **changes: object) -> None:
    result = json.loads(trial.file(naming.RESULT).read_text())
    trial.file(naming.RESULT).write_text(json.dumps(result | changes))


def set_metric(trial: TrialDir, key: str, value: object) -> None:
    edit(trial, metrics=read_json(trial.file(naming.RESULT))["metrics"] | {key: value})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


BREAK: dict[str, Callable[[TrialDir, TrialDir, str], object]] = {
    "gone": lambda one, two, name: one.file(name).unlink(),
    "empty": lambda one, two, name: os.truncate(one.file(name), 0),
    "torn": lambda one, two, name: os.truncate(one.file(name), one.file(name).stat().st_size // 2),
    "garbage": lambda one, two, name: one.file(name).write_bytes(b"garbage" * 99),
    "one bit": lambda one, two, name: flip(one.file(name)),
    "another trial's": lambda one, two, name: swap(one.file(name), two.file(name)),
    "a folder": lambda one, two, name: (one.file(name).unlink(), one.file(name).mkdir()),
}
FILES = (naming.MANIFEST, naming.RESULT, naming.EVAL_RECORDS, naming.DISTRIBUTIONS, naming.HISTORY, naming.METRICS_FILE)


@pytest.mark.slow
def test_a_sound_trial_has_no_damage_and_neither_has_one_that_never_finished(two: tuple[TrialDir, TrialDir]) -> None:
    assert damage(two[0]) == damage(two[1]) == []
    for status in ("failed", "interrupted"):
        edit(two[0], status=status)
        assert damage(two[0]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", BREAK)
def test_every_file_that_is_broken_is_named(two: tuple[TrialDir, TrialDir], how: str, name: str) -> None:
    if (how, name) in (("gone", naming.RESULT), ("one bit", naming.MANIFEST), ("one bit", naming.RESULT)):
        pytest.skip("not finished any more; or a bit that need not count")
    BREAK[how](*two, name)
    found = damage(two[0])
    assert name in {each.file for each in found}, found
    assert all(str(two[0].path) not in str(each) for each in found), "no place of this machine"
    if how == "gone":
        assert [str(each) for each in found] == [f"{name} is missing"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AP", 99.0),
        ("AP50", 0.123),
        ("AP", float("nan")),
        ("AP", "1"),
        ("AP", -1.0),
        ("AP75", None),
        ("wasserstein", 0.0),
        ("AP_M", 77.0),
        ("more", 1.0),
    ],
)
def test_a_metric_that_is_not_what_the_evaluation_gave_is_seen(two: tuple[TrialDir, TrialDir], key: str, value: object) -> None:
    set_metric(two[0], key, value)
    assert [each.file for each in damage(two[0])] == [naming.RESULT]
    assert damage(two[1]) == []


@pytest.mark.slow
def test_an_older_result_without_check_sums_is_compared_by_content(two: tuple[TrialDir, TrialDir]) -> None:
    for trial in two:
        result = read_json(trial.file(naming.RESULT))
        del result["files"]
        write_json(trial.file(naming.RESULT), result)
        with np.load(trial.file(naming.EVAL_RECORDS)) as arrays:
            content = {key: value for key, value in arrays.items() if key != "metrics"}
        np.savez_compressed(trial.file(naming.EVAL_RECORDS), **content)
        assert damage(trial) == []
    set_metric(two[0], "AP", 99.0)
    assert "disagree: AP 99 and" in str(damage(two[0])[0])
    two[1].file(naming.EVAL_RECORDS).unlink()
    assert [str(each) for each in damage(two[1])] == ["eval.npz is missing"]


@pytest.mark.slow
def test_what_has_passed_is_read_again_only_when_it_changes(two: tuple[TrialDir, TrialDir], monkeypatch: pytest.MonkeyPatch) -> None:
    one, tree = two[0], RunTree(two[0].path.parent.parent)
    first = Checked(tree)
    assert first.damage(one) == []
    first.save()
    monkeypatch.setattr("gfl_lab.integrity.trial_check.damage", lambda trial: pytest.fail("nothing has changed"))
    assert Checked(tree).damage(one) == []
    monkeypatch.undo()
    times = one.file(naming.EVAL_RECORDS).stat()
    flip(one.file(naming.EVAL_RECORDS))
    os.utime(one.file(naming.EVAL_RECORDS), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [each.file for each in Checked(tree).damage(one)] == [naming.EVAL_RECORDS], "of the same size and time"
    (tree.root / naming.TRIALS_DIR / CHECKED).write_text("{")
    assert Checked(tree).damage(one), "a damaged memory is no memory"


def stable(trial: TrialDir) -> dict[str, object]:
    result = read_json(trial.file(naming.RESULT))
    metrics = {key: value for key, value in result["metrics"].items() if key not in ("fps", "latency_ms")}
    return {"metrics": metrics, **{key: result[key] for key in ("per_class", "counts", "epochs", "steps", "device")}}


@pytest.mark.slow
def test_records_are_made_again_from_the_last_checkpoint_to_the_last_bit(
    two: tuple[TrialDir, TrialDir], pair: tuple[TrialDir, TrialDir]
) -> None:
    one = two[0]
    with np.load(one.file(naming.EVAL_RECORDS)) as arrays:
        before = {key: arrays[key] for key in arrays}
    kept = {name: one.file(name).read_bytes() for name in (naming.HISTORY, naming.METRICS_FILE, naming.LAST_CHECKPOINT)}
    one.file(naming.EVAL_RECORDS).unlink()
    one.file(naming.DISTRIBUTIONS).write_bytes(b"")
    set_metric(one, "AP", 99.0)
    assert damages.examine(one, TrialState.DONE).evaluated
    run_trial(one.path)
    assert damage(one) == [] and stable(one) == stable(pair[0])
    with np.load(one.file(naming.EVAL_RECORDS)) as arrays:
        assert all(np.array_equal(arrays[key], before[key]) for key in before)
    assert {name: one.file(name).read_bytes() for name in kept} == kept
    assert read_json(one.file(naming.RESULT))["seconds"] == read_json(pair[0].file(naming.RESULT))["seconds"], "of the training"
    assert not one.lease() and not one.file(naming.REPAIR).exists() and not one.file(naming.RESERVE).exists()

    stamp = one.file(naming.RESULT).stat().st_mtime_ns
    run_trial(one.path)
    assert one.file(naming.RESULT).stat().st_mtime_ns == stamp, "a sound trial is left as it is"


@pytest.mark.slow
def test_without_its_weights_a_trial_keeps_its_numbers_and_says_why(two: tuple[TrialDir, TrialDir]) -> None:
    one, other = two
    result = one.file(naming.RESULT).read_bytes()
    for trial in two:
        trial.file(naming.EVAL_RECORDS).unlink()
    swap(one.file(naming.LAST_CHECKPOINT), other.file(naming.LAST_CHECKPOINT))
    run_trial(one.path)
    assert f"belongs to trial {other.id}" in damages.failure(one) and one.file(naming.RESULT).read_bytes() == result
    flip(one.file(naming.LAST_CHECKPOINT))
    found = damages.examine(one, TrialState.DONE)
    assert not found.evaluated and "eval.npz is missing; it cannot be evaluated again: last.pth is damaged" in found.beyond_repair
    one.file(naming.LAST_CHECKPOINT).unlink()
    assert "last.pth is missing" in damages.examine(one, TrialState.DONE).beyond_repair
    run_trial(one.path)
    assert one.file(naming.RESULT).read_bytes() == result and "last.pth is missing" in damages.failure(one)


@pytest.mark.slow
def test_a_disk_that_fills_while_records_are_made_again_loses_nothing(
    two: tuple[TrialDir, TrialDir], pair: tuple[TrialDir, TrialDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = two[0]
    one.file(naming.EVAL_RECORDS).unlink()
    result = one.file(naming.RESULT).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28), "somewhere")

    monkeypatch.setattr(finished, "file_entries", full)
    run_trial(one.path)
    assert one.file(naming.RESULT).read_bytes() == result and "no space left" in damages.failure(one)
    monkeypatch.setattr(TrialDir, "prepare", full)
    run_trial(one.path)
    monkeypatch.undo()
    assert DiskFull and one.file(naming.RESULT).read_bytes() == result and one.state() is TrialState.DONE
    run_trial(one.path)
    assert damage(one) == [] and stable(one) == stable(pair[0])


@pytest.mark.slow
def test_a_result_that_is_torn_is_made_again_also_from_weights_alone(
    two: tuple[TrialDir, TrialDir], pair: tuple[TrialDir, TrialDir]
) -> None:
    from gfl_lab.maintenance.training_state import drop_training_state

    for trial, name in ((two[0], naming.EVAL_RECORDS), (two[1], "")):
        drop_training_state(trial.file(naming.LAST_CHECKPOINT))
        trial.file(naming.RESULT).write_bytes(b'{"format": 1')
        if name:
            trial.file(name).unlink()
    for trial, former in zip(two, pair, strict=True):
        assert trial.state() is TrialState.INTERRUPTED
        run_trial(trial.path)
        assert damage(trial) == [] and stable(trial) == stable(former)
        assert "loss" not in trial.file(naming.LOG).read_text().rpartition("damaged: ")[2], "nothing is trained"


def test_only_training_makes_curves_again(tmp_path: Path) -> None:
    assert {name: damages.Damage(name, "").cure for name in (*FILES, "components/x.py")} == {
        naming.MANIFEST: Cure.REWRITE, naming.RESULT: Cure.EVALUATE, naming.EVAL_RECORDS: Cure.EVALUATE, naming.DISTRIBUTIONS: Cure.EVALUATE,
        naming.HISTORY: Cure.TRAIN, naming.METRICS_FILE: Cure.TRAIN, "components/x.py": Cure.REWRITE,
    }  # fmt: skip


# --- the command line -----------------------------------------------------------------------------

PROFILE = """
name: tiny
title: a smoke profile
data: {train_images: 8, val_images: 8, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 8, frozen_stages: -1, norm_eval: false, neck_channels: 16, head_channels: 16, head_convs: 1,
  strides: [8, 16, 32], epochs: 1, batch_size: 8, optimizer: adamw, lr: 0.004, lr_schedule: cosine, warmup_iters: 2, image_size: [128, 128],
  score_thr: 0.01}
"""


@pytest.mark.slow
def test_verify_refuses_what_is_broken_and_run_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/tiny.yaml").write_text(PROFILE)
    file = tmp_path / "smoke.yaml"
    file.write_text("name: smoke\nprofile: tiny\naxes: {dfl: [false, true]}\nbaseline: {dfl: false}\n")
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cli: Cli = runner(monkeypatch, capsys)

    def run(*more: str) -> tuple[int, str]:
        code, _, err = cli("run", file, "--executor", "inline", *more)
        return code, err

    assert run()[0] == 0
    code, _, err = cli("verify", file)
    assert code == 0 and "recomputed the AP of 2 of 2 trials from their detections; every number is as locked" in err
    tree = RunTree(tmp_path / "runs")
    lock = tree.experiment("smoke", "tiny") / naming.LOCK
    locked = lock.read_bytes()
    one, two = tree.trials()
    sound = stable(one)

    one.file(naming.EVAL_RECORDS).unlink()
    set_metric(one, "AP", 99.0)
    two.file(naming.MANIFEST).unlink()
    code, out, err = cli("verify", file)
    assert code == 4 and f"trial {one.id}: eval.npz is missing" in out and f"trial {two.id}: manifest.json is missing" in out
    assert "recomputed the AP of 1 of 2 trials" in err
    assert cli("table", file)[0] == 0
    code, out, _ = cli("doctor")
    assert code == 6 and f"trial {one.id} is damaged: eval.npz is missing" in out and two.id in out and "--seeds 0`" in out
    code, out, err = cli("plan", file)
    assert code == 0 and f"{one.id}  damaged" in out and "evaluated again from its checkpoint" in out
    assert f"trial {two.id} is damaged: manifest.json is missing" in err and "0 of 2 trials to train, 1 to evaluate again, " in err
    code, err = run()
    assert code == 0 and "damaged, evaluated again" in err and "its manifest is written anew" in err
    assert f"repaired: trial {one.id} (eval.npz is missing); AP was 99" in err and f"repaired: trial {two.id}" in err
    assert stable(one) == sound and lock.read_bytes() == locked
    assert cli("verify", file)[0] == 0

    one.file(naming.EVAL_RECORDS).unlink()
    one.file(naming.LAST_CHECKPOINT).unlink()
    code, err = run()
    assert code == 4 and "1 damaged" in err and "still damaged: eval.npz is missing; it cannot be evaluated again" in err
    assert str(one.path) in err and lock.read_bytes() == locked and stable(one) == sound
    lock.unlink()
    assert run()[0] == 4 and list(read_json(lock)["trials"]) == [two.id], "made of what can be verified"
    code, out, _ = cli("verify", file)
    assert code == 4 and one.id in out

    # The seeds of an earlier run stay in the table, and so does the damage of their trials.
    lock.unlink()
    one.path.rename(tmp_path / "away")
    code, err = run("--seeds", "1")
    trials = sorted(trial.id for trial in tree.trials())
    two.file(naming.EVAL_RECORDS).write_bytes(b"")
    lock.unlink()
    code, err = run("--seeds", "1")
    assert f"trial {two.id}, of a seed that an earlier run left in the table, is damaged: eval.npz has 0 bytes" in err
    assert code == 0 and f"repaired: trial {two.id}" in err and sorted(read_json(lock)["trials"]) == trials
