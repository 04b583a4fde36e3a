"""The mirror against a real MLflow on sqlite: every point exactly once, whatever happened before."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gfl_lab import naming
from gfl_lab.errors import ExitCode, StoreError
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.tracking import mlflow_payload, server
from gfl_lab.tracking.background import BackgroundMirror
from gfl_lab.tracking.database import ui_command, ui_pages
from gfl_lab.tracking.mirror import Mirror
from gfl_lab.tracking.server import MirrorError
from tests.support.fake_runs import with_needed_trials, write_fake_tree
from tests.support.raw import raw_result

NAME, PROFILE = "table3_qfl_dfl", "desk"


@pytest.fixture(autouse=True)
def _no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(autouse=True)
def _ready_database() -> None:
    """MLflow makes each database itself."""


@pytest.fixture
def tree(tmp_path: Path, mlflow_db: Path) -> RunTree:
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    return write_fake_tree(tmp_path, epochs=3, train_images=8, val_images=2)


def client(tree: RunTree) -> Any:
    return server.quiet_import().tracking.MlflowClient(tree.mlflow_uri)


def runs(tree: RunTree, name: str = NAME) -> list[Any]:
    found = client(tree)
    return list(found.search_runs([found.get_experiment_by_name(name).experiment_id], max_results=500))


def parent_and_children(tree: RunTree) -> tuple[Any, dict[str, Any]]:
    found = runs(tree)
    (parent,) = [run for run in found if run.data.tags[naming.TAG_KIND] == "experiment"]
    children = [run for run in found if run.data.tags[naming.TAG_KIND] == "trial"]
    by_trial = {run.data.tags[naming.TAG_TRIAL]: run for run in children}
    assert len(by_trial) == len(children)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return parent, by_trial


def points(tree: RunTree) -> Counter[tuple[str, str, int]]:
    """(trial, key, step) of every stored metric value: read from the database, so that nothing hides a double."""
    connection = sqlite3.connect(tree.root / naming.MLFLOW_DB)
    try:
        query = "SELECT t.value, m.key, m.step FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = ?"
        return Counter(connection.execute(query, (naming.TAG_TRIAL,)).fetchall())
    finally:
        connection.close()


def expected(tree: RunTree) -> set[tuple[str, str, int]]:
    found = set()
    for trial in tree.trials():
        for line in trial.metric_lines():
            step = line.step if line.kind == "train" else line.epoch
            found |= {(trial.id, naming.mlflow_metric(line.kind, key), step) for key in line.metrics}
        result = raw_result(trial) or {}
        if result.get("status") == "done" and not trial.lease_alive():
            found |= {(trial.id, f"final/{key}", 0) for key in (*result["metrics"], "seconds", "peak_memory_mib")}
    return found


def assert_exact(tree: RunTree) -> None:
    found = points(tree)
    assert set(found) == expected(tree)
    assert set(found.values()) == {1}


def trial_of(tree: RunTree, index: int) -> TrialDir:
    plan = read_json(tree.experiment(NAME, PROFILE) / naming.PLAN)
    return tree.trial(plan["variants"][index]["trials"][0]["id"])


# --- what arrives ---------------------------------------------------------------------------------


def test_a_finished_experiment_arrives_whole(tree: RunTree) -> None:
    folder = tree.experiment(NAME, PROFILE)
    for name in mlflow_payload.TABLE_FILES:
        (folder / name).write_text("| a |" if name.endswith("md") else "x", encoding="utf-8")
    for trial in tree.trials():
        trial.file(naming.CONFIG).write_text("model = dict()\n", encoding="utf-8")
        trial.file(naming.EVAL_RECORDS).write_bytes(b"npz")
    report = Mirror(tree).sync(NAME, PROFILE, final=True)
    assert (report.runs, report.points) == (5, len(expected(tree)))
    assert_exact(tree)

    parent, children = parent_and_children(tree)
    assert parent.info.run_name == "table3_qfl_dfl · desk"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"] == "| a |"
    assert parent.data.tags[naming.TAG_STATUS] == "4 done"
    assert parent.data.params["qfl"] == "off, on"
    assert parent.data.params["seeds"] == "0"
    mlflow_client = client(tree)
    assert [f.path for f in mlflow_client.list_artifacts(parent.info.run_id)] == ["plan.json", "table"]
    assert {f.path for f in mlflow_client.list_artifacts(parent.info.run_id, "table")} == {
        f"table/{name}" for name in mlflow_payload.TABLE_FILES
    }

    trial = trial_of(tree, 1)
    child = children[trial.id]
    assert child.info.run_name == "qfl=on dfl=off · seed 0"
    assert child.data.params == {"qfl": "on", "dfl": "off", "seed": "0", "trial": trial.id}
    assert child.info.status == "FINISHED"
    assert child.data.tags.items() >= {
        naming.TAG_EXPERIMENT: NAME, naming.TAG_PROFILE: PROFILE, naming.TAG_VARIANT: "qfl=on dfl=off", naming.TAG_SEED: "0",
        naming.TAG_STATUS: "done", naming.TAG_QUESTION: "What do QFL and DFL each add to ATSS?",
    }.items()  # fmt: skip
    assert child.data.metrics["final/AP"] == pytest.approx(raw_result(trial)["metrics"]["AP"])
    history = mlflow_client.get_metric_history(child.info.run_id, "train/loss_cls")
    lines = [line for line in trial.metric_lines() if line.kind == "train"]
    assert [(p.step, p.value, p.timestamp) for p in history] == [
        (line.step, line.metrics["loss_cls"], round(line.time * 1000)) for line in lines
    ]
    assert [p.step for p in mlflow_client.get_metric_history(child.info.run_id, "val/AP")] == [1, 2, 3]
    assert {f.path for f in mlflow_client.list_artifacts(child.info.run_id)} == set(mlflow_payload.TRIAL_FILES)
    (data,) = child.inputs.dataset_inputs
    plan = read_json(folder / naming.PLAN)
    assert (data.dataset.name, data.dataset.digest) == ("ambiguous_shapes", plan["data"]["digest"])
    assert json.loads(data.dataset.profile)["train_images"] == 8
    assert child.info.start_time < lines[0].time * 1000 <= child.info.end_time


def test_states(tmp_path: Path, mlflow_db: Path) -> None:
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    tree = write_fake_tree(tmp_path, epochs=3, train_images=8, val_images=2, states=["running", "failed", "interrupted", "planned"])
    Mirror(tree).sync(NAME, PROFILE)
    parent, children = parent_and_children(tree)
    assert parent.info.status == "RUNNING"
    assert len(children) == 3
    assert [children[trial_of(tree, i).id].info.status for i in range(3)] == ["RUNNING", "FAILED", "KILLED"]
    assert "non_finite_loss" in children[trial_of(tree, 1).id].data.tags[mlflow_payload.TAG_FAILURE]
    assert not any(key.startswith("final/") for child in children.values() for key in child.data.metrics)

    # The running one is done, the failed one runs again, the interrupted one has gone: the driver ends.
    trial_of(tree, 0).drop_lease()
    failed = trial_of(tree, 1)
    failed.file(naming.RESULT).unlink()
    failed.take_lease()
    Mirror(tree).sync(NAME, PROFILE)
    _, children = parent_and_children(tree)
    again = children[failed.id]
    assert (again.info.status, again.data.tags[naming.TAG_STATUS]) == ("RUNNING", "running")
    assert again.data.tags.get(mlflow_payload.TAG_FAILURE, "") == ""
    failed.drop_lease()
    Mirror(tree).sync(NAME, PROFILE, final=True)
    parent, children = parent_and_children(tree)
    assert parent.info.status == "KILLED"
    assert {child.info.status for child in children.values()} == {"KILLED"}
    assert_exact(tree)


def test_needed_trials_have_runs_and_are_named_in_those_that_need_them(tmp_path: Path, mlflow_db: Path) -> None:
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    tree = write_fake_tree(tmp_path, epochs=2, train_images=4, val_images=2, states=["running", "planned", "done", "done"])
    name, (needed, tuned, student, teacher) = with_needed_trials(tree)
    path = tree.experiment(NAME, PROFILE) / naming.PLAN
    content = read_json(path)
    content["needed"][0]["data"] |= {"name": "other", "digest": "0" * 16}
    write_json(path, content)
    Mirror(tree).sync(NAME, PROFILE)
    parent, _ = parent_and_children(tree)
    assert (parent.info.status, parent.data.tags[naming.TAG_STATUS]) == ("RUNNING", "1 planned, 2 done; trials that others need: 1 running")
    by_trial = {run.data.tags.get(naming.TAG_TRIAL): run for run in runs(tree)}
    first = by_trial[needed]
    assert (first.info.run_name, first.info.status) == (f"{name} · seed 0", "RUNNING")
    assert first.data.tags.items() >= {
        naming.TAG_KIND: "needed", naming.TAG_EXPERIMENT: NAME, naming.TAG_PROFILE: PROFILE, naming.TAG_NEEDED_BY: "qfl=on dfl=off · seed 0",
        "mlflow.parentRunId": parent.info.run_id,
    }.items()  # fmt: skip
    assert [each.dataset.name for each in first.inputs.dataset_inputs] == ["other"]
    assert by_trial[student].data.tags["gfl.teacher"] == f"{teacher} (qfl=on dfl=on · seed 0)"
    assert by_trial[teacher].data.tags.items() >= {naming.TAG_KIND: "trial", naming.TAG_NEEDED_BY: "qfl=off dfl=on · seed 0"}.items()
    assert tuned not in by_trial and naming.TAG_NEEDED_BY not in by_trial[student].data.tags

    # The needed trial is interrupted for good. It decides nothing: the trial of the table that needs it has not begun.
    tree.trial(needed).drop_lease()
    Mirror(tree).sync(NAME, PROFILE, final=True)
    assert {run.info.status for run in runs(tree) if run.data.tags.get(naming.TAG_TRIAL) == needed} == {"KILLED"}
    assert parent_and_children(tree)[0].info.status == "KILLED"
    # Later plans need it as a row, and the teacher no more: the same runs, with other tags.
    del content["variants"][1]["trials"][0]["needs"]
    del content["variants"][0]["trials"][0]["needs"]
    content["variants"][0]["trials"], content["needed"] = [{"id": needed, "seed": 0}], []
    write_json(path, content)
    Mirror(tree).sync(NAME, PROFILE, final=True)
    parent, children = parent_and_children(tree)
    assert len(runs(tree)) == 4 and children[needed].info.run_id == first.info.run_id
    assert not any(run.data.tags.get(naming.TAG_NEEDED_BY) for run in children.values())
    assert_exact(tree)


def test_hostile_names_arrive_as_they_are(tmp_path: Path, mlflow_db: Path) -> None:
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    tree = write_fake_tree(tmp_path, epochs=2, train_images=4, val_images=2, hostile=True)
    Mirror(tree).sync(NAME, PROFILE, final=True)
    parent, _ = parent_and_children(tree)
    assert "<script>" not in parent.data.tags["mlflow.note.content"].replace("\\<", "")
    assert_exact(tree)


def test_not_a_number_is_kept_and_infinity_becomes_it(tree: RunTree) -> None:
    trial = trial_of(tree, 0)
    with trial.file(naming.METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"kind":"train","step":999,"epoch":9,"time":1e9,"metrics":{"loss":NaN,"loss_cls":Infinity,"text":"x","flag":true}}\n')
    Mirror(tree).sync(NAME, PROFILE)
    found = {key for (trial_id, key, step) in points(tree) if trial_id == trial.id and step == 999}
    assert found == {"train/loss", "train/loss_cls"}
    run = parent_and_children(tree)[1][trial.id]
    (value,) = [p.value for p in client(tree).get_metric_history(run.info.run_id, "train/loss_cls") if p.step == 999]
    assert math.isnan(value)


# --- nothing is doubled ---------------------------------------------------------------------------


def test_a_second_sync_sends_nothing(tree: RunTree) -> None:
    first = Mirror(tree)
    first.sync(NAME, PROFILE, final=True)
    before = points(tree)
    assert (first.sync(NAME, PROFILE, final=True).points, Mirror(tree).sync(NAME, PROFILE, final=True).points) == (0, 0)
    for run in runs(tree):  # without the fingerprint the server is asked what it has
        client(tree).set_tag(run.info.run_id, mlflow_payload.TAG_SYNCED, "")
    assert Mirror(tree).sync(NAME, PROFILE).points == 0
    assert points(tree) == before
    assert len(runs(tree)) == 5


@pytest.mark.parametrize("call", [0, 3, 11])
@pytest.mark.parametrize("for_good", [False, True])
def test_an_error_in_mid_sync_is_made_good(tree: RunTree, monkeypatch: pytest.MonkeyPatch, call: int, for_good: bool) -> None:
    """The server stores a batch, then the connection breaks, once or for good: the worst moment."""
    monkeypatch.setattr(server, "BATCH", 20)
    mirror = Mirror(tree)
    mirror.prepare()
    client = mirror._server._client
    real, calls = client.log_batch, iter(range(1000))

    def breaking(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        number = next(calls)
        if number == call or (for_good and number > call):
            raise ConnectionError("http://user:secret@host is gone")

    monkeypatch.setattr(client, "log_batch", breaking)
    if for_good:
        with pytest.raises(MirrorError, match="cannot be used") as caught:
            mirror.sync(NAME, PROFILE)
        assert "secret" not in str(caught.value)
        assert caught.value.exit_code == ExitCode.UNFIT
        monkeypatch.setattr(client, "log_batch", real)
    mirror.sync(NAME, PROFILE)
    assert_exact(tree)
    assert len(runs(tree)) == 5


def test_a_file_that_grows_and_is_cut_back(tmp_path: Path, mlflow_db: Path) -> None:
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    tree = write_fake_tree(tmp_path, epochs=3, train_images=8, val_images=2, states=["running", "planned", "planned", "planned"])
    trial, mirror = trial_of(tree, 0), Mirror(tree)
    mirror.sync(NAME, PROFILE)
    last = max(line.step for line in trial.metric_lines())
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    for resumed in (False, True):
        if resumed:
            writer.truncate_after(last - 2)  # two steps are done again, with other values, then more follow
        for step in range(last - 1 if resumed else last + 1, last + 5):
            writer.write("train", step, 2, {"loss": 100.0 + step, "lr": 0.1})
            writer.write("val", step, 2, {"AP": 1.0 * step})
            mirror.sync(NAME, PROFILE)
    writer.close()
    found = points(tree)
    assert set(found.values()) == {1}
    assert set(found) >= expected(tree)
    fresh = Mirror(tree)
    assert fresh.sync(NAME, PROFILE).points == 0
    assert points(tree) == found


def test_two_mirrors_take_turns(tmp_path: Path, mlflow_db: Path) -> None:
    """Each believes to know what the server has; the other has written since."""
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    tree = write_fake_tree(tmp_path, epochs=3, train_images=8, val_images=2, states=["running", "planned", "planned", "planned"])
    writer = MetricWriter(trial_of(tree, 0).file(naming.METRICS_FILE))
    mirrors = [Mirror(tree), Mirror(tree)]
    for i in range(6):
        writer.write("train", 100 + i, 9, {"loss": float(i)})
        mirrors[i % 3 % 2].sync(NAME, PROFILE)
    writer.close()
    mirrors[1].sync(NAME, PROFILE)
    assert_exact(tree)
    assert len(runs(tree)) == 2


def test_a_trial_of_two_experiments_is_a_child_of_each(tmp_path: Path, mlflow_db: Path) -> None:
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    tree = write_fake_tree(tmp_path, epochs=2, train_images=4, val_images=2)
    plan = read_json(tree.experiment(NAME, PROFILE) / naming.PLAN)
    other = plan | {"experiment": plan["experiment"] | {"name": "other"}}
    write_json(tree.experiment("other", PROFILE) / naming.PLAN, other)
    for name in (NAME, "other", NAME, "other"):
        Mirror(tree).sync(name, PROFILE)
    assert len(runs(tree)) == len(runs(tree, "other")) == 5
    assert set(points(tree).values()) == {2}  # once under each


def test_seeds_added_later_join_the_same_parent(tree: RunTree) -> None:
    mirror = Mirror(tree)
    mirror.sync(NAME, PROFILE, final=True)
    write_fake_tree(tree.root, epochs=3, train_images=8, val_images=2, seeds=(0, 1), states={(0, 1): "planned", (1, 1): "running"})
    mirror.sync(NAME, PROFILE)
    parent, children = parent_and_children(tree)
    assert parent.info.status == "RUNNING"
    assert len(children) == 7
    assert parent.data.params["seeds"] == "0"
    assert parent.data.tags["gfl.now.seeds"] == "0, 1"


# --- server and database --------------------------------------------------------------------------


def test_the_database_lies_beside_the_runs_whatever_the_folder(tree: RunTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    Mirror(tree).sync(NAME, PROFILE)
    assert list(elsewhere.iterdir()) == []
    assert (tree.root / naming.MLFLOW_ARTIFACTS / NAME).is_dir()
    connection = sqlite3.connect(tree.root / naming.MLFLOW_DB)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_uri_of_the_user_wins(tree: RunTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert Mirror(tree).uri == "http://127.0.0.1:1"
    assert Mirror(tree, tree.mlflow_uri).uri == tree.mlflow_uri


def test_a_server_that_is_not_there_is_one_error_soon(tree: RunTree) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(MirrorError, match="gfl-lab sync"):
        Mirror(tree, f"http://127.0.0.1:{port}").sync(NAME, PROFILE)
    assert time.monotonic() - started < 30


def test_a_file_that_is_no_database_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / naming.MLFLOW_DB).write_bytes(b"not a database, but long enough to be read as one" * 50)
    with pytest.raises(MirrorError, match="no MLflow database"):
        Mirror(RunTree(tmp_path)).prepare()
    assert (tmp_path / naming.MLFLOW_DB).read_bytes().startswith(b"not a database")


def test_a_database_of_a_newer_mlflow_is_refused(tree: RunTree) -> None:
    connection = sqlite3.connect(tree.root / naming.MLFLOW_DB)
    connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.commit()
    connection.close()
    with pytest.raises(MirrorError, match="newer MLflow"):
        Mirror(tree).prepare()


def test_an_error_of_the_database_is_told_without_tracebacks(tree: RunTree) -> None:
    Mirror(tree).prepare()
    connection = sqlite3.connect(tree.root / naming.MLFLOW_DB)
    # As a full disk does, each write fails in sqlite, which MLflow logs with a traceback.
    connection.execute("ALTER TABLE tags RENAME TO gone")
    connection.commit()
    connection.close()
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils", "sqlalchemy")]
    for each in loggers:
        each.addHandler(handler)
    try:
        with pytest.raises(MirrorError, match="no such table"):
            Mirror(tree).sync(NAME, PROFILE)
    finally:
        for each in loggers:
            each.removeHandler(handler)
    assert logged == []


def test_no_plan_is_a_store_error(tree: RunTree) -> None:
    with pytest.raises(StoreError):
        Mirror(tree).sync("none", PROFILE)


def test_a_deleted_mlflow_experiment_is_said(tree: RunTree) -> None:
    Mirror(tree).sync(NAME, PROFILE)
    found = client(tree)
    found.delete_experiment(found.get_experiment_by_name(NAME).experiment_id)
    with pytest.raises(MirrorError, match="has been deleted"):
        Mirror(tree).sync(NAME, PROFILE)


def test_ui_command_is_small_local_and_silent(tree: RunTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    argv, env = ui_command(tree, 5001)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--workers") + 1] == "1"
    assert argv[argv.index("--backend-store-uri") + 1] == tree.mlflow_uri
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "MLFLOW_TRACKING_URI" not in env


def test_the_addresses_that_are_printed_are_those_of_the_experiments(tree: RunTree) -> None:
    mirror = Mirror(tree)
    mirror.prepare()
    assert ui_pages(tree, 5001) == []
    mirror.sync(NAME, PROFILE)
    number = client(tree).get_experiment_by_name(NAME).experiment_id
    assert ui_pages(tree, 5001) == [(NAME, f"http://127.0.0.1:5001/#/experiments/{number}/runs?workflowType=machine_learning")]
    found = client(tree)
    for started, name in enumerate("abcdef", 1):
        found.create_run(found.create_experiment(name), start_time=started)
    assert [name for name, _ in ui_pages(tree, 5001)] == [NAME, "f", "e", "d", "c"], "those in which a run began last"
    found.create_run(found.get_experiment_by_name("a").experiment_id)
    assert ui_pages(tree, 5001)[0][0] == "a"
    found.delete_experiment(number)
    assert NAME not in {name for name, _ in ui_pages(tree, 5001, most=99)} and len(ui_pages(tree, 5001, most=99)) == 6


# --- in the background ----------------------------------------------------------------------------


def test_background_mirror_follows_and_finishes(tmp_path: Path, mlflow_db: Path) -> None:
    shutil.copy(mlflow_db, tmp_path / naming.MLFLOW_DB)
    tree = write_fake_tree(tmp_path, epochs=3, train_images=8, val_images=2, states=["running", "done", "done", "done"])
    thread = BackgroundMirror(Mirror(tree), NAME, PROFILE, every=0.05)
    thread.start()
    trial = trial_of(tree, 0)
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    for step in range(200, 220):
        writer.write("train", step, 9, {"loss": 1.0})
        time.sleep(0.02)
    writer.close()
    trial.drop_lease()
    assert thread.finish(timeout=30)
    assert thread.error is None
    assert_exact(tree)
    assert parent_and_children(tree)[0].info.status == "KILLED"


def test_background_mirror_never_raises(tmp_path: Path) -> None:
    (tmp_path / naming.MLFLOW_DB).write_bytes(b"x" * 5000)
    tree = write_fake_tree(tmp_path, epochs=1, train_images=2, val_images=1)
    thread = BackgroundMirror(Mirror(tree), NAME, PROFILE, every=0.05)
    thread.start()
    assert not thread.finish(timeout=30)
    assert isinstance(thread.error, MirrorError)


# --- processes ------------------------------------------------------------------------------------

SCRIPT = f"""
import sys
from pathlib import Path
from gfl_lab.rundir import RunTree
from gfl_lab.tracking import mirror, server
server.BATCH = 30
server.quiet_import()
print("starts", flush=True)
print(mirror.Mirror(RunTree(Path(sys.argv[1]))).sync({NAME!r}, {PROFILE!r}, final=True).points)
"""


def start(tree: RunTree) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(Path(server.__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tree.root)], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_two_processes_on_no_database(tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path, epochs=3, train_images=8, val_images=2)
    processes = [start(tree), start(tree)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(int(out.removeprefix("starts\n")) for out, _ in outputs) == [0, len(expected(tree))]
    assert_exact(tree)
    assert len(runs(tree)) == 5


@pytest.mark.slow
def test_killed_at_any_point(tree: RunTree) -> None:
    """SIGKILL after some points have been written; then a whole sync."""
    for wanted in (1, 120):
        process = start(tree)
        assert process.stdout.readline() == "starts\n"
        while process.poll() is None and sum(points(tree).values()) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    Mirror(tree).sync(NAME, PROFILE, final=True)
    assert_exact(tree)
    assert len(runs(tree)) == 5
