"""Trials that differ in test settings alone share one training, and end with the numbers that they would have alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.integrity.trial_check import damage
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.orchestrate.trainings import Trainings, needed_by_others
from gfl_lab.plan.plan import Trial
from gfl_lab.records.accumulation import Accumulation
from gfl_lab.records.files import read_json, write_json
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.settings import EVALUATION, Settings, group_of
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, ComponentFile, DataSpec, TrialSpec
from gfl_lab.train.finished import adopted_weights
from gfl_lab.train.trial import run_trial
from tests.support.cli import runner
from tests.support.raw import raw_result
from tests.support.trials import train

DATA = DataSpec(name="d", digest="0" * 16, classes=("a",), train_images=8, val_images=4)
TESTS = {"decode": "local_peak", "score_thr": 0.2, "nms_iou": 0.5, "nms_pre": 50, "max_dets": 7}
"""Another value of every test setting."""


def spec_of(seed: int = 0, components: tuple[ComponentFile, ...] = (), **settings: object) -> TrialSpec:
    return TrialSpec(settings=Settings(**settings), data=DATA, seed=seed, code=TRAINING_CODE_VERSION, components=components)


def test_every_test_setting_and_no_other_shares_its_training() -> None:
    assert set(TESTS) == {key for key in Settings.model_fields if group_of(key) == EVALUATION}
    plain = spec_of()
    for key, value in TESTS.items():
        other = spec_of(**{key: value})
        assert other.id != plain.id and other.training_id == plain.training_id, key
    others = [
        {"lr": 0.02},
        {"image_size": (640, 640)},
        {"pad_to": 64},
        {"epochs": 13},
        {"box": "dirac", "dfl": False},
        {"ema_decay": 0.9},
        {"seed": 1},
    ]
    for changed in others:
        assert spec_of(**changed).training_id != plain.training_id, changed


def test_a_component_of_the_users_may_read_any_setting() -> None:
    own = (ComponentFile(name="x.py", digest="1" * 16),)
    assert spec_of(components=own).training_id != spec_of(components=own, nms_iou=0.5).training_id


class FakeTree:
    """Trials that are finished when a test says so."""

    def __init__(self, root: Path) -> None:
        self.tree = RunTree(root)

    def add(self, spec: TrialSpec, status: str = "") -> Trial:
        trial = self.tree.trial(spec.id)
        paths = dict.fromkeys(("train_annotations", "val_annotations", "train_images", "val_images"), "")
        write_json(trial.file(naming.MANIFEST), {"format": 1, "trial": spec.id, "spec": spec.model_dump(mode="json"), "paths": paths})
        self.end(spec.id, status)
        return Trial(spec.id, spec)

    def end(self, trial_id: str, status: str) -> None:
        trial = self.tree.trial(trial_id)
        if status:
            write_json(trial.file(naming.RESULT), {"format": 1, "trial": trial_id, "status": status, "metrics": {"AP": 1.0}, "failure": {}})
        if status == "done":
            torch.save({"state_dict": {}}, trial.file(naming.LAST_CHECKPOINT))


def test_one_of_each_training_first_and_the_next_when_it_fails(tmp_path: Path) -> None:
    fake = FakeTree(tmp_path)
    group = [fake.add(spec_of(nms_iou=value)) for value in (0.6, 0.5, 0.4)]
    alone = fake.add(spec_of(seed=1))
    repaired = fake.add(spec_of(seed=2), "done")
    trainings = Trainings([*group, alone], fake.tree)
    assert trainings.evaluated() == {group[1].id: group[0].id, group[2].id: group[0].id}
    waiting = [*group, alone, repaired]
    first = trainings.next_ones(waiting)
    assert first == [group[0], alone, repaired]
    assert all(
        "weights_from" not in job.kwargs for job in trainings.jobs([Job(str(fake.tree.trial(t.id).path), "", "", {}) for t in first])
    )
    fake.end(group[0].id, "failed")
    fake.end(alone.id, "done")
    waiting = group[1:]
    assert trainings.next_ones(waiting) == [group[1]], "the second one trains"
    fake.end(group[1].id, "done")
    assert trainings.next_ones([group[2]]) == [group[2]]
    (job,) = trainings.jobs([Job(str(fake.tree.trial(group[2].id).path), "e", "p", {"threads": 1})])
    assert job.kwargs == {"threads": 1, "weights_from": group[1].id}


def test_a_finished_trial_of_any_experiment_serves_while_its_weights_are_there(tmp_path: Path) -> None:
    fake = FakeTree(tmp_path)
    done = fake.add(spec_of(), "done")
    wanted = fake.add(spec_of(nms_iou=0.5))
    assert Trainings([wanted], fake.tree).evaluated() == {wanted.id: done.id} and needed_by_others(fake.tree) == {done.id}
    fake.tree.trial(done.id).file(naming.LAST_CHECKPOINT).write_bytes(b"torn")
    assert Trainings([wanted], fake.tree).evaluated() == {} and needed_by_others(fake.tree) == set()
    fake.end(done.id, "done")
    fake.end(wanted.id, "done")
    assert needed_by_others(fake.tree) == set(), "nobody waits"


def test_gc_keeps_weights_that_an_unfinished_trial_is_going_to_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeTree(tmp_path)
    done, other = fake.add(spec_of(), "done"), fake.add(spec_of(seed=5), "done")
    fake.add(spec_of(nms_iou=0.5))
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path))
    monkeypatch.setattr("gfl_lab.orchestrate.orphans.stale_ray_sessions", lambda: [])
    code, _, err = runner(monkeypatch, capsys, "gc")("--delete", "--checkpoints")
    assert code == 0 and "the weights of 1 finished trial stay" in err
    assert (
        fake.tree.trial(done.id).file(naming.LAST_CHECKPOINT).exists()
        and not fake.tree.trial(other.id).file(naming.LAST_CHECKPOINT).exists()
    )
    runner(monkeypatch, capsys, "gc")("--delete", "--unreferenced")
    assert fake.tree.trial(done.id).path.exists() and not fake.tree.trial(other.id).path.exists()


# --- real ones ------------------------------------------------------------------------------------

TINY = {"epochs": 2, "score_thr": 0.01, "ema_decay": 0.5}
OTHER = {"decode": "local_peak", "nms_iou": 0.3, "max_dets": 50, "score_thr": 0.02}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> tuple[TrialDir, TrialDir]:
    """Two trials that differ in test settings alone, each trained by itself."""
    trees = [RunTree(tmp_path_factory.mktemp(name)) for name in ("one", "two")]
    return train(trees[0], shapes, **TINY), train(trees[1], shapes, **TINY | OTHER)


@pytest.fixture
def both(pair: tuple[TrialDir, TrialDir], tmp_path: Path) -> tuple[TrialDir, TrialDir]:
    """A copy of the first one, and the second one with nothing but its manifest."""
    tree = RunTree(tmp_path / "tree")
    shutil.copytree(pair[0].path, tree.trial(pair[0].id).path)
    new = tree.trial(pair[1].id)
    new.path.mkdir()
    shutil.copy(pair[1].file(naming.MANIFEST), new.file(naming.MANIFEST))
    return tree.trial(pair[0].id), new


def assert_as_if_alone(new: TrialDir, alone: TrialDir) -> None:
    assert new.state() is TrialState.DONE and damage(new) == []
    with np.load(new.file(naming.EVAL_RECORDS)) as one, np.load(alone.file(naming.EVAL_RECORDS)) as two:
        assert set(one) == set(two) and all(np.array_equal(one[key], two[key]) for key in two)
    ours, theirs = raw_result(new), raw_result(alone)
    for key in ("metrics", "per_class", "counts", "epochs", "steps"):
        keep = (
            (lambda told: {name: value for name, value in told.items() if name not in ("fps", "latency_ms")})
            if key == "metrics"
            else (lambda told: told)
        )
        assert keep(ours[key]) == keep(theirs[key]), key
    mine, other = (load_safely(trial.file(naming.LAST_CHECKPOINT)) for trial in (new, alone))
    assert mine["meta"]["trial"] == new.id and all(
        torch.equal(mine["state_dict"][key], value) for key, value in other["state_dict"].items()
    )
    lines = [[line._replace(time=0.0) for line in trial.metric_lines()] for trial in (new, alone)]
    assert [line for line in lines[0] if line.kind == "train"] == [line for line in lines[1] if line.kind == "train"]
    assert lines[0][-1] == lines[1][-1]


@pytest.mark.slow
def test_with_the_weights_of_the_other_the_numbers_are_those_of_a_training_of_its_own(
    both: tuple[TrialDir, TrialDir], pair: tuple[TrialDir, TrialDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    donor, new = both
    monkeypatch.setattr("gfl_lab.train.trial._train", lambda *_: pytest.fail("nothing is trained"))
    before = {path.name: path.read_bytes() for path in donor.path.iterdir() if path.is_file()}
    run_trial(new.path, weights_from=donor.id)
    assert_as_if_alone(new, pair[1])
    result = raw_result(new)
    assert result["weights_from"] == donor.id and "train" not in result["seconds"] and result["seconds"]["total"] < 1000
    assert {path.name: path.read_bytes() for path in donor.path.iterdir() if path.is_file()} == before
    # it stands for itself: its records are made again without the other one
    shutil.rmtree(donor.path)
    new.file(naming.EVAL_RECORDS).unlink()
    run_trial(new.path)
    assert_as_if_alone(new, pair[1])
    assert raw_result(new)["weights_from"] == donor.id


@pytest.mark.slow
def test_killed_between_the_weights_and_the_result_it_goes_on_also_without_the_other(
    both: tuple[TrialDir, TrialDir], pair: tuple[TrialDir, TrialDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    donor, new = both
    monkeypatch.setattr("gfl_lab.train.trial._train", lambda *_: pytest.fail("nothing is trained"))
    assert adopted_weights(new, donor.id)
    assert new.state() is TrialState.INTERRUPTED
    shutil.rmtree(donor.path)
    run_trial(new.path, weights_from=donor.id)
    assert_as_if_alone(new, pair[1])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "damaged", "of another training", "unfinished"])
def test_weights_that_cannot_be_used_are_trained(both: tuple[TrialDir, TrialDir], pair: tuple[TrialDir, TrialDir], how: str) -> None:
    donor, new = both
    if how == "gone":
        shutil.rmtree(donor.path)
    elif how == "damaged":
        path = donor.file(naming.LAST_CHECKPOINT)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    elif how == "unfinished":
        write_json(donor.file(naming.RESULT), raw_result(donor) | {"status": "interrupted"})
    else:
        manifest = read_json(donor.file(naming.MANIFEST))
        manifest["spec"]["settings"]["lr"] = 0.5
        write_json(donor.file(naming.MANIFEST), manifest)
    assert adopted_weights(new, donor.id) is None and "cannot be used, so this one trains" in new.file(naming.LOG).read_text()
    assert not new.file(naming.LAST_CHECKPOINT).exists()
    if how == "damaged":
        run_trial(new.path, weights_from=donor.id)
        assert_as_if_alone(new, pair[1])
        assert "weights_from" not in raw_result(new)


@pytest.mark.slow
def test_a_note_on_how_the_weights_were_trained_comes_along(both: tuple[TrialDir, TrialDir]) -> None:
    donor, new = both
    donor.write_accumulation(Accumulation(2, 1))
    assert adopted_weights(new, donor.id) and new.accumulation() == Accumulation(2, 1)


def test_the_plan_tells_trainings_from_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "d.yaml"
    (tmp_path / "profiles").mkdir()
    profile = (
        "name: tiny\ntitle: t\ndata: {train_images: 8, val_images: 8, size: 128, seed: 0}\nsettings: {epochs: 1, image_size: [128, 128]}\n"
    )
    (tmp_path / "profiles/tiny.yaml").write_text(profile)
    file.write_text("name: d\nprofile: tiny\naxes: {decode: [expectation, local_peak], lr: [0.01, 0.02]}\n")
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    cli = runner(monkeypatch, capsys, "plan")
    code, out, err = cli(file)
    assert code == 0 and "2 of 4 trials to train, 2 to evaluate with the weights of another, " in err and out.count("weights of") == 2
    found = json.loads(cli(file, "--json")[1])
    assert found["trainings"] == 2 and [bool(row["weights_from"]) for row in found["rows"]].count(True) == 2
