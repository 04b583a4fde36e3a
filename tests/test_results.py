"""gfl_lab.results: what is on disk is what is handed out, while trials run, and beside damaged ones."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.files import write_json
from gfl_lab.records.metric_lines import MetricWriter, read_metric_lines
from gfl_lab.results import artifacts, curves
from gfl_lab.results.cache import FileStamp, StampedCache
from gfl_lab.results.store import UNREADABLE, open_store
from gfl_lab.rundir import TrialState
from tests.support.fake_runs import write_fake_tree
from tests.support.raw import raw_manifest

MIXED = {0: "done", 1: "running", 2: "failed", 3: "interrupted"}


@pytest.fixture
def mixed(tmp_path):
    tree = write_fake_tree(tmp_path / "runs", states=MIXED, epochs=4, train_images=10, batch_size=4, val_images=4)
    return tree, open_store(tree.root)


def only(store):
    (experiment,) = store.experiments()
    return experiment


def test_experiment_row(mixed):
    _, store = mixed
    row = only(store)
    assert (row.name, row.profile, row.kind, row.metrics) == ("table3_qfl_dfl", "desk", "ablation", ("AP", "AP50", "AP75", "fps"))
    assert row.axes == {"qfl": (False, True), "dfl": (False, True)}
    assert row.data.truth and row.data.train_images == 10 and row.data.classes == ("disc", "block", "wedge")
    assert row.baseline.name == "qfl=off dfl=off"
    assert row.variants[3].reference.metrics["AP"] == 40.2 and not row.variants[3].reference.comparable
    assert row.counts == {TrialState.PLANNED: 0, TrialState.RUNNING: 1, TrialState.INTERRUPTED: 1, TrialState.FAILED: 1, TrialState.DONE: 1}


def test_states_and_progress(mixed):
    _, store = mixed
    done, running, failed, interrupted = only(store).trials
    # 10 images in batches of 4 are 3 steps; 4 epochs are 12
    assert [t.steps for t in (done, running, failed, interrupted)] == [12, 12, 12, 12]
    assert (done.step, done.epoch, done.progress) == (12, 4, 1.0) and done.metrics["AP"] > 50 and done.device == "cpu"
    assert (running.state, running.step, running.epoch, running.metrics) == (TrialState.RUNNING, 6, 2, {})
    assert running.progress == 0.5 and "AP" in running.latest and running.seconds > 0
    assert failed.failure.kind == "non_finite_loss" and failed.failure.step == 4
    assert interrupted.state is TrialState.INTERRUPTED and interrupted.failure is None and interrupted.step == 8


def test_planned_trials_have_no_folder(tmp_path):
    store = open_store(write_fake_tree(tmp_path, states="planned").root)
    row = only(store)
    assert {t.state for t in row.trials} == {TrialState.PLANNED} and row.progress == 0
    assert store.logged(row) == {}
    assert store.distributions(row.trials[0].id) is None and store.log_tail(row.trials[0].id) == ""


def test_no_tree_at_all(tmp_path):
    store = open_store(tmp_path / "nothing")
    assert store.experiments() == () and store.problems() == () and store.names() == []
    with pytest.raises(StoreError, match="none yet"):
        store.experiment("a", "desk")


def test_unknown_experiment_names_the_known(mixed):
    with pytest.raises(StoreError, match=r"'nope'.*Known: table3_qfl_dfl \(desk\)"):
        mixed[1].experiment("nope", "desk")


def test_default_root_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFL_LAB_HOME", str(write_fake_tree(tmp_path).root))
    assert len(open_store().experiments()) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        '{"format": 99, "status": "done"}',
        "{}",
        '{"status": "great"}',
        '{"status": "failed", "failure": 3}',
        '{"status": "done", "metrics": {"AP": 1}, "epochs": [1]}',
    ],
)
def test_a_damaged_result_shows_as_failed_and_hides_nothing(mixed, damage):
    tree, store = mixed
    before = only(store)
    tree.trial(before.trials[0].id).file(naming.RESULT).write_text(damage)
    for reader in (store, open_store(tree.root)):
        after = only(reader)
        assert after.trials[0].state is TrialState.FAILED and after.trials[0].failure.kind == UNREADABLE
        assert after.trials[0].failure.reason and str(tree.root) not in after.trials[0].failure.reason
        assert after.trials[1:] == before.trials[1:]


def test_damaged_lease_and_metrics(mixed):
    tree, store = mixed
    running = tree.trial(only(store).trials[1].id)
    running.file(naming.METRICS_FILE).write_bytes(b'\xff\xfe{"metrics"\n{"kind":"val","metrics":7}\n[1]\n')
    assert only(store).trials[1].step == 0
    assert running.id not in {one.trial for one in store.logged(only(store))["train", "loss"]}
    running.file(naming.LEASE).write_text("{}")
    assert only(store).trials[1].state is TrialState.RUNNING, "it may be another host's, half-seen: it goes by its age"
    os.utime(running.file(naming.LEASE), (time.time() - 61, time.time() - 61))
    assert only(store).trials[1].state is TrialState.INTERRUPTED
    running.file(naming.LEASE).write_text(json.dumps({"host": os.uname().nodename, "pid": "x"}))
    assert only(store).trials[1].state is TrialState.INTERRUPTED


@pytest.mark.parametrize("plan", ["{", "{}", '{"experiment": 1, "data": {}, "variants": []}', '{"format": 2}'])
def test_a_damaged_plan_is_a_problem_not_the_end(mixed, plan):
    tree, store = mixed
    write_fake_tree(tree.root, name="other", states="done", epochs=2)
    (tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN).write_text(plan)
    assert [e.name for e in store.experiments()] == ["other"]
    (problem,) = store.problems()
    assert "table3_qfl_dfl (desk)" in problem and str(tree.root) not in problem


def test_a_plan_with_a_foreign_id_cannot_leave_the_tree(mixed):
    tree, store = mixed
    file = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    plan = json.loads(file.read_text())
    plan["variants"][0]["trials"][0]["id"] = "../../../etc"
    write_json(file, plan)
    trial = only(store).trials[0]
    assert trial.state is TrialState.FAILED and "not a trial id" in trial.failure.reason
    assert "qfl=off dfl=off" not in {one.variant for one in store.logged(only(store))["train", "loss"]}


# --- curves ---


def all_logged(store, row):
    """How many values there are of all metrics."""
    return sum(len(one.value) for each in store.logged(row).values() for one in each)


def loss_of(store, row, trial_id):
    """Step and value of one trial's loss."""
    (one,) = (one for one in store.logged(row)["train", "loss"] if one.trial == trial_id)
    return dict(zip(one.step.tolist(), one.value.tolist(), strict=True))


def test_curves_hold_every_value(mixed):
    tree, store = mixed
    row = only(store)
    lines = [line for trial in row.trials for line in tree.trial(trial.id).metric_lines()]
    assert all_logged(store, row) == sum(len(line.metrics) for line in lines)
    train = [line for line in tree.trial(row.trials[0].id).metric_lines() if line.kind == "train"]
    first = store.logged(row)["train", "loss_cls"][0]
    assert (first.trial, first.variant, first.seed) == (row.trials[0].id, "qfl=off dfl=off", 0)
    assert first.value.tolist() == [line.metrics["loss_cls"] for line in train]
    assert first.step.tolist() == [line.step for line in train] and first.epoch.tolist() == [line.epoch for line in train]


def test_curves_read_only_what_is_new(mixed, monkeypatch):
    tree, store = mixed
    row = only(store)
    before = all_logged(store, row)
    offsets = []
    real = read_metric_lines
    monkeypatch.setattr(curves, "read_metric_lines", lambda path, offset=0: offsets.append(offset) or real(path, offset))
    assert all_logged(store, row) == before and offsets == []
    trial = row.trials[1].id
    path = tree.trial(trial).file(naming.METRICS_FILE)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"kind":"train","step":7,"epoch":3,"time":1.0,"metrics":{"loss":0.5}}\n{"kind":"train","st')
    assert all_logged(store, row) == before + 1 and offsets == [size]
    assert only(store).trials[1].step == 7
    with path.open("ab") as file:
        file.write(b'ep":8,"epoch":3,"time":1.0,"metrics":{"loss":0.25}}\n')
    assert all_logged(store, row) == before + 2 and loss_of(store, row, trial)[8] == 0.25


def test_curves_after_a_resume_cut_the_file_back(mixed):
    tree, store = mixed
    row = only(store)
    trial = row.trials[3]
    all_logged(store, row)
    writer = MetricWriter(tree.trial(trial.id).file(naming.METRICS_FILE))
    writer.truncate_after(2)
    for step in range(3, 30):  # longer than before: its size alone would not tell
        writer.write("train", step, 1, {"loss": 9.0})
    writer.close()
    own = loss_of(store, row, trial.id)
    assert list(own) == list(range(1, 30)) and set(list(own.values())[2:]) == {9.0}


def test_a_metric_that_not_every_line_has_keeps_its_own_steps(mixed):
    tree, store = mixed
    trial = only(store).trials[1].id
    path = tree.trial(trial).file(naming.METRICS_FILE)
    last = json.loads(path.read_text().splitlines()[-1])["step"]
    for turn in range(2):  # read at once, and as what is new
        with path.open("a") as file:
            for step in range(last + 1, last + 5):
                extra = {"grad": float(step)} if step % 2 else {}
                file.write(json.dumps({"kind": "train", "step": step, "epoch": 9, "time": 1.0, "metrics": {"loss": 1.0} | extra}) + "\n")
        last += 4
        for reader in (store, open_store(tree.root)):
            (one,) = (one for one in reader.logged(only(reader))["train", "grad"] if one.trial == trial)
            assert one.step.tolist() == one.value.tolist() and len(one.step) == 2 * (turn + 1) and set(one.epoch) == {9}
            assert list(loss_of(reader, only(reader), trial))[-4 * (turn + 1) :] == list(range(last - 4 * (turn + 1) + 1, last + 1))


def test_metrics_of_the_same_lines_share_their_steps(mixed):
    _, store = mixed
    found = store.logged(only(store))
    assert found["train", "loss"][0].step is found["train", "loss_cls"][0].step is not found["val", "AP"][0].step


def test_an_experiment_whose_name_is_none_is_said_to_be_so(mixed):
    tree, store = mixed
    shutil.copytree(tree.experiment("table3_qfl_dfl", "desk").parent, tree.root / naming.EXPERIMENTS_DIR / "table3 (copy)")
    with pytest.raises(StoreError, match=r"table3 \(copy\).*cannot name an experiment"):
        store.experiment("table3 (copy)", "desk")
    assert len(store.experiments()) == 1 and "cannot name" in store.problems()[0]


def test_one_foreign_id_does_not_hide_that_an_experiment_runs(mixed):
    tree, store = mixed
    assert store.is_running("table3_qfl_dfl", "desk") and not store.is_running("nope", "desk")
    file = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    plan = json.loads(file.read_text())
    plan["variants"][0]["trials"][0]["id"] = "../../../etc"
    write_json(file, plan)
    assert store.is_running("table3_qfl_dfl", "desk")


def test_the_least_recently_used_value_leaves_the_cache_first_and_the_newest_stays():
    cache, stamp = StampedCache(10, len), FileStamp(1, 2, 3)
    for key, value in (("a", "aaaa"), ("b", "bbbb"), ("a", "aaaaa")):
        cache.put(key, stamp, value)
    cache.get("b", stamp)
    cache.put("c", stamp, "ccc")
    assert [cache.get(key, stamp) for key in "abc"] == [None, "bbbb", "ccc"] and len(cache) == 2
    assert cache.put("d", stamp, "d" * 99) == cache.get("d", stamp) == "d" * 99 and len(cache) == 1


def test_a_value_is_of_the_file_that_it_was_read_from():
    cache, old, new = StampedCache(), FileStamp(1, 2, 3), FileStamp(1, 2, 4)
    cache.put("a", old, "before")
    assert cache.get("a", new) is None and cache.last("a") == (old, "before")
    cache.put("a", new, "after")
    assert cache.get("a", new) == "after" and cache.get("a", old) is None
    cache.drop("a")
    assert cache.last("a") is None


def test_curves_forgotten_for_room_are_read_again(mixed, monkeypatch):
    tree, _ = mixed
    monkeypatch.setattr(curves, "CURVES_BYTES", 1)
    small, roomy = open_store(tree.root), mixed[1]
    for row in (only(small), only(small)):
        assert all_logged(small, row) == all_logged(roomy, row) > 0 and len(small._curves) == 1


def test_progress_reads_the_end_of_a_long_file_only(mixed):
    tree, store = mixed
    trial = only(store).trials[1]
    path = tree.trial(trial.id).file(naming.METRICS_FILE)
    with path.open("ab") as file:
        for step in range(7, 5000):
            file.write(b'{"kind":"train","step":%d,"epoch":3,"time":1.0,"metrics":{"loss":0.5}}\n' % step)
    assert len(artifacts._read_tail(path, 1000)) == 1000
    assert only(store).trials[1].step == 4999 and only(store).trials[1].progress == 1.0


# --- distributions, images, logs ---


def test_distributions_by_column_and_row(mixed):
    _, store = mixed
    trial = only(store).trials[0].id
    whole = store.distributions(trial)
    assert {"probs", "target", "edge_a", "scored"} <= set(whole.columns)
    some = store.distributions(trial, ["image_id", "category"], annotation_id=2)
    assert list(some.columns) == ["image_id", "category"] and len(some) == 1
    with pytest.raises(StoreError, match="no column nope"):
        store.distributions(trial, ["nope"])
    stamp = store.distributions_stamp(trial)
    assert stamp == store.distributions_stamp(trial) is not None


def test_damaged_distributions(mixed):
    tree, store = mixed
    trial = only(store).trials[0].id
    tree.trial(trial).file(naming.DISTRIBUTIONS).write_bytes(b"PAR1 not really")
    with pytest.raises(StoreError, match="cannot be read") as error:
        store.distributions(trial)
    assert str(tree.root) not in str(error.value)


def test_image(mixed):
    tree, store = mixed
    done, running, *_ = only(store).trials
    folder = raw_manifest(tree.trial(done.id))["paths"]["val_images"]
    expected = np.asarray(Image.open(os.path.join(folder, "000002.png")).convert("RGB"))
    for trial in (done.id, running.id):  # a running one has no distributions: the name comes from the annotations
        image = store.image(trial, 2)
        assert image.dtype == np.uint8 and np.array_equal(image, expected)
    with pytest.raises(StoreError, match="has no image 99"):
        store.image(done.id, 99)
    turned = Image.fromarray(expected[:, : expected.shape[1] // 2])
    turned.getexif()[0x0112] = 6
    turned.save(os.path.join(folder, "000002.png"), exif=turned.getexif())
    assert store.image(done.id, 2).shape[:2] == turned.size[::-1], "as stored, as training reads it: boxes fit the stored pixels"
    os.remove(os.path.join(folder, "000002.png"))
    with pytest.raises(StoreError, match="not in the data folder any more") as error:
        store.image(done.id, 2)
    assert str(tree.root) not in str(error.value)
    with open(os.path.join(folder, "000003.png"), "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(StoreError, match="cannot be read"):
        store.image(done.id, 3)


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/hostname", "link.png"])
def test_an_image_never_leaves_its_folder(mixed, name):
    tree, store = mixed
    trial = only(store).trials[1].id
    manifest = raw_manifest(tree.trial(trial))
    outside = tree.root / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    (tree.root / "data" / "secret.png").symlink_to(outside)
    os.symlink(outside, os.path.join(manifest["paths"]["val_images"], "link.png"))
    file = manifest["paths"]["val_annotations"]
    with open(file, encoding="utf-8") as opened:
        annotations = json.load(opened)
    annotations["images"][0]["file_name"] = name
    with open(file, "w", encoding="utf-8") as opened:
        json.dump(annotations, opened)
    with pytest.raises(StoreError, match="leads out of the image folder"):
        store.image(trial, 1)


def test_manifest_without_paths(mixed):
    tree, store = mixed
    trial = only(store).trials[0].id
    tree.trial(trial).file(naming.MANIFEST).write_text("{}")
    with pytest.raises(StoreError, match="has no place of its images"):
        store.image(trial, 1)


def test_log_tail(mixed):
    tree, store = mixed
    trial = only(store).trials[0].id
    assert store.log_tail(trial, 2).splitlines()[-1].startswith("step 12/12")
    tree.trial(trial).file(naming.LOG).write_bytes(b"x" * 300_000 + b"\nlast \xff\n")
    assert store.log_tail(trial, 1) == "last \ufffd" and len(store.log_tail(trial, 5)) < 70_000


def test_ids_are_checked(mixed):
    for call in (mixed[1].distributions, mixed[1].log_tail, mixed[1].distributions_stamp):
        with pytest.raises(StoreError, match="not a trial id"):
            call("../../etc")
