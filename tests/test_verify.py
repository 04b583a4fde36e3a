"""`verify` and `reproduce`: a table against its lock file, a trial against itself trained once more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gfl_lab import naming
from gfl_lab.integrity.file_checks import recomputed_ap
from gfl_lab.metrics.coco_ap import resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.table_lock import TableLock
from gfl_lab.report.lock import deviations, digest_of, make_lock
from gfl_lab.report.table import build_table
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from tests.support.cli import Cli, runner
from tests.support.fake_runs import CLASSES, write_fake_tree
from tests.test_compare import FILE, better
from tests.test_error_types import scene
from tests.test_evaluate import altered


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path))
    return runner(monkeypatch, capsys)


def lock_of(tree: RunTree) -> dict:
    store = Store(tree)
    row = store.experiment("table3_qfl_dfl", "desk")
    return {"format": naming.FORMAT_VERSION, **make_lock(row, build_table(row, store.resampled_or_none), store.records_or_none).to_json()}


def locked(tmp_path: Path) -> RunTree:
    """Four finished trials whose AP is that of their records, with the lock file."""
    tree = write_fake_tree(tmp_path, val_images=40)
    for index, variant in enumerate(Store(tree).experiment("table3_qfl_dfl", "desk").variants):
        trial = tree.trial(variant.trials[0].id)
        records = replace(better(scene(0), 0.2 * index), classes=CLASSES)
        np.savez_compressed(trial.file(naming.EVAL_RECORDS), resampled=resample(match(records), 20), **records.arrays())
        result = read_json(trial.file(naming.RESULT))
        kept = {key: value for key, value in result["metrics"].items() if not key.startswith("AP")}
        write_json(trial.file(naming.RESULT), result | {"metrics": recomputed_ap(records) | kept})
    write_json(tree.experiment("table3_qfl_dfl", "desk") / naming.LOCK, lock_of(tree))
    return tree


def set_metric(trial: TrialDir, **values: float) -> None:
    result = read_json(trial.file(naming.RESULT))
    write_json(trial.file(naming.RESULT), result | {"metrics": result["metrics"] | values})


def first_trial(tree: RunTree) -> TrialDir:
    return tree.trial(Store(tree).experiment("table3_qfl_dfl", "desk").trials[1].id)


def test_what_has_not_changed_verifies(cli: Cli, tmp_path: Path) -> None:
    tree = locked(tmp_path)
    set_metric(first_trial(tree), fps=1.0)  # speed is not locked
    code, out, err = cli("verify", FILE)
    assert (
        code == 0
        and not out
        and "4 trials locked; recomputed the AP of 4 of 4 trials from their detections; every number is as locked" in err
    )


def test_an_edited_result_is_seen_in_the_trial_the_table_and_against_its_records(cli: Cli, tmp_path: Path) -> None:
    tree = locked(tmp_path)
    trial = first_trial(tree)
    set_metric(trial, AP=99.0)
    code, out, err = cli("verify", FILE)
    assert code == 4 and "deviations" in err
    assert (
        f"trial {trial.id}: AP: locked" in out
        and "mean of AP" in out
        and "difference of AP" in out
        and "result.json and eval.npz disagree" in out
    )


def test_other_detections_a_missing_trial_and_other_data_are_told(cli: Cli, tmp_path: Path) -> None:
    tree = locked(tmp_path)
    trial = first_trial(tree)
    np.savez_compressed(trial.file(naming.EVAL_RECORDS), resampled=np.zeros((20, 3)), **replace(scene(1), classes=CLASSES).arrays())
    found = json.loads(cli("verify", FILE, "--json")[1])
    assert {"detections", naming.RESULT} <= {each["what"] for each in found["deviations"] if each["trial"] == trial.id}
    assert (found["trials"], found["finished"], found["recomputed"]) == (4, 4, 4)
    trial.file(naming.EVAL_RECORDS).write_bytes(b"garbage")
    found = json.loads(cli("verify", FILE, "--json")[1])
    assert naming.EVAL_RECORDS in {each["what"] for each in found["deviations"]} and (found["finished"], found["recomputed"]) == (4, 3)
    trial.file(naming.RESULT).unlink()
    assert "not finished or not there" in cli("verify", FILE)[1]
    other = lock_of(tree) | {"data": {"digest": "0"}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    code, out, _ = cli("verify", FILE, "--lock", tmp_path / "other.json")
    assert code == 4 and "data: locked 0" in out


def test_a_trial_that_came_later_and_a_row_that_went_are_told(tmp_path: Path) -> None:
    now = lock_of(locked(tmp_path))
    gone = json.loads(json.dumps(now))
    trial, known = next(iter(gone["trials"].items()))
    del gone["trials"][trial]
    gone["rows"]["one more"] = {"metrics": {}, "delta": {}}
    told = [str(each) for each in deviations(TableLock.from_json(gone), TableLock.from_json(now))]
    assert told == [
        f"trial {trial}: {known['variant']}, seed 0: locked not there, here finished since",
        "one more: locked a row, here no row",
    ]
    assert deviations(TableLock.from_json(now), TableLock.from_json(now)) == []


@pytest.mark.parametrize(
    "content", ["{}", "[]", "no json", '{"experiment": "a", "profile": "b", "data": {"digest": 1}, "trials": [], "rows": {}}']
)
def test_what_is_no_lock_file_gets_one_sentence(cli: Cli, tmp_path: Path, content: str) -> None:
    locked(tmp_path)
    (tmp_path / "bad.json").write_text(content)
    code, out, err = cli("verify", FILE, "--lock", tmp_path / "bad.json")
    assert code == 2 and not out and "bad.json" in err
    assert "no such lock file" in cli("verify", FILE, "--lock", tmp_path / "none.json")[2]


def test_a_digest_is_of_numbers_not_of_files(tmp_path: Path) -> None:
    one = scene(0)
    for name, save in (("a", np.savez), ("b", np.savez_compressed)):
        save(tmp_path / f"{name}.npz", resampled=np.zeros(3), **one.arrays())
    found = [digest_of(type(one).of(np.load(tmp_path / f"{name}.npz"))) for name in "ab"]
    assert found[0] == found[1] == digest_of(one) != digest_of(better(one, 1e-6))


@pytest.mark.slow
def test_a_trial_trained_once_more_is_the_same_to_the_last_bit(
    tree: RunTree, general: TrialDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))
    run = runner(monkeypatch, capsys, "reproduce")
    before = general.file(naming.RESULT).read_bytes()
    code, out, err = run(general.id[:8], "--keep", tmp_path / "kept")
    assert code == 0 and "every detection is the same to the last bit" in out, out + err
    assert RunTree(tmp_path / "kept").trial(general.id).state() is TrialState.DONE and general.file(naming.RESULT).read_bytes() == before
    code, _, err = run(general.id, "--keep", tmp_path / "kept")
    assert code == 2 and "is there already" in err

    copy = altered(general, tmp_path, monkeypatch)
    result = read_json(copy.file(naming.RESULT))
    write_json(
        copy.file(naming.RESULT),
        result | {"metrics": result["metrics"] | {"AP": 77.0}, "environment": {**result["environment"], "torch": "0.1"}},
    )
    code, out, _ = run(copy.id, "--json")
    found = {each["name"]: each for each in json.loads(out)["differences"]}
    assert (
        code == 4 and found["AP"]["recorded"] == "77" and found["torch"]["group"] == "environment" and json.loads(out)["detections_equal"]
    )


def test_an_unfinished_trial_cannot_be_reproduced(cli: Cli, tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path, states=TrialState.INTERRUPTED, val_images=2)
    code, _, err = cli("reproduce", Store(tree).experiment("table3_qfl_dfl", "desk").trials[0].id)
    assert code == 2 and "was interrupted" in err
