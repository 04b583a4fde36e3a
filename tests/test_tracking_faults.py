"""The mirror against a real `mlflow server` behind a proxy that fails: training goes on, and in the end everything is there once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfl_lab import naming
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.tracking import mlflow_payload, server
from gfl_lab.tracking.background import BackgroundMirror
from gfl_lab.tracking.database import ui_command
from gfl_lab.tracking.mirror import Mirror, MirrorError
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree
from tests.support.proxy import Proxy
from tests.support.raw import raw_result
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
PROFILE = "desk"
SMALL = {"epochs": 2, "train_images": 4, "val_images": 1}

pytestmark = pytest.mark.slow


class Lab:
    """A real tracking server: its port, database and artifacts."""

    def __init__(self, root: Path, template: Path) -> None:
        self.tree = RunTree(root)
        root.mkdir()
        shutil.copy(template, root / naming.MLFLOW_DB)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        arguments, environment = ui_command(self.tree, self.port)
        arguments = [argument for argument in arguments if argument != "--no-serve-artifacts"]
        at = arguments.index("--default-artifact-root")
        arguments[at : at + 2] = ["--artifacts-destination", str(root / "stored")]
        with (root / "log").open("w") as log:
            self.process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, cwd=root)

    def wait(self) -> None:
        for _ in range(2400):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return
            except OSError:
                assert self.process.poll() is None, (self.tree.root / "log").read_text()
                time.sleep(0.1)
        raise AssertionError("no server")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)

    def rows(self, query: str, name: str) -> list[tuple]:
        """Rows of the database that belong to active runs of the experiment ``name``."""
        connection = sqlite3.connect(self.tree.root / naming.MLFLOW_DB)
        try:
            runs = "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ? AND runs.lifecycle_stage = 'active'"
            return connection.execute(query.replace("{runs}", f"({runs})"), (name,)).fetchall()
        finally:
            connection.close()

    def statuses(self, name: str) -> Counter[str]:
        return Counter(status for (status,) in self.rows("SELECT status FROM runs WHERE run_uuid IN {runs}", name))

    def points(self, name: str) -> Counter[tuple[str, str, int]]:
        query = "SELECT t.value, m.key, m.step FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = 'gfl.trial' WHERE m.run_uuid IN {runs}"
        return Counter(self.rows(query, name))

    def artifacts(self, name: str) -> dict[tuple[str, str], str]:
        """(trial or parent, path) -> digest, of the files as they are stored."""
        found = {}
        query = "SELECT r.artifact_uri, t.value FROM runs r LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'gfl.trial' WHERE r.run_uuid IN {runs}"
        for uri, trial in self.rows(query, name):
            folder = self.tree.root / "stored" / uri.removeprefix("mlflow-artifacts:/")
            for path in folder.rglob("*"):
                if path.is_file():
                    found[trial or "", str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def everything(self, name: str) -> tuple[object, ...]:
        """All that the server has of an experiment, to compare."""
        tags = self.rows("SELECT run_uuid, key, value FROM tags WHERE run_uuid IN {runs}", name)
        params = self.rows("SELECT run_uuid, key, value FROM params WHERE run_uuid IN {runs}", name)
        return sorted(tags), sorted(params), self.points(name), self.artifacts(name), self.statuses(name)


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory, mlflow_db: Path) -> Iterator[tuple[Lab, Lab]]:
    """Two servers; the second has an experiment of somebody else's where the first has the first of ours."""
    root = tmp_path_factory.mktemp("labs")
    pair = Lab(root / "one", mlflow_db), Lab(root / "two", mlflow_db)
    try:
        for lab in pair:
            lab.wait()
        client = server.quiet_import().tracking.MlflowClient(f"http://127.0.0.1:{pair[1].port}")
        for i in range(30):
            client.create_experiment(f"somebody-elses-{i}")
        yield pair
    finally:
        for lab in pair:
            lab.stop()


@pytest.fixture
def lab(labs: tuple[Lab, Lab]) -> Lab:
    return labs[0]


def patience(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """How long a call may take before the server counts as one that hangs, and before the client gives it up."""
    for module in ("server", "background", "mirror", "experiment"):
        monkeypatch.setattr(f"gfl_lab.tracking.{module}.PATIENCE_S", seconds)


@pytest.fixture
def proxy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
        monkeypatch.delenv(key)
    patience(monkeypatch, 300.0)  # a busy machine is none that hangs
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    with_faults = Proxy(lab.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_faults.uri)
    yield with_faults
    with_faults.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of an experiment for each test: they share the server."""
    return "e-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]


@pytest.fixture
def tree(tmp_path: Path, name: str) -> RunTree:
    return write_fake_tree(tmp_path / "runs", name=name, **SMALL)


@pytest.fixture
def cli(tree: RunTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))
    return runner(monkeypatch, capsys)


def trials_of(tree: RunTree, name: str) -> list[TrialDir]:
    plan = read_json(tree.experiment(name, PROFILE) / naming.PLAN)
    return [tree.trial(trial["id"]) for variant in plan["variants"] for trial in variant["trials"]]


def expected(tree: RunTree, name: str) -> set[tuple[str, str, int]]:
    found = set()
    for trial in trials_of(tree, name):
        for line in trial.metric_lines():
            step = line.step if line.kind == "train" else line.epoch
            found |= {(trial.id, naming.mlflow_metric(line.kind, key), step) for key in line.metrics}
        result = raw_result(trial) or {}
        if result.get("status") == "done":
            found |= {(trial.id, f"final/{key}", 0) for key in (*result["metrics"], "seconds", "peak_memory_mib")}
    return found


def assert_whole(lab: Lab, tree: RunTree, name: str, **statuses: int) -> None:
    """Every run, point and file once, and as on disk."""
    assert lab.statuses(name) == (statuses or {"FINISHED": 5})
    found = lab.points(name)
    assert set(found) == expected(tree, name) and set(found.values()) == {1}
    stored = lab.artifacts(name)
    for trial in trials_of(tree, name):
        for file in mlflow_payload.TRIAL_FILES:
            if trial.file(file).exists():
                assert stored[trial.id, file] == hashlib.sha256(trial.file(file).read_bytes()).hexdigest()
    assert ("", naming.PLAN) in stored


# --- an answer that does not come -----------------------------------------------------------------

CALLS = ("experiments/create", "runs/create", "runs/log-batch", "runs/log-inputs", "runs/update", "mlflow-artifacts")


@pytest.mark.parametrize("fault", ["lose", pytest.param("cut", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("call", CALLS)
def test_a_broken_call_is_made_good_in_the_same_sync(lab: Lab, proxy: Proxy, tree: RunTree, name: str, call: str, fault: str) -> None:
    """The second of its kind, where there is one: of a run that is known already, not the parent's."""
    calls = iter(["", fault] if call != "experiments/create" else [fault])
    proxy.fault = lambda request: next(calls, "") if call in request else ""
    Mirror(tree).sync(name, PROFILE, final=True)
    assert next(calls, "none left") == "none left"
    assert_whole(lab, tree, name)


@pytest.mark.parametrize("call", ["runs/create", "runs/log-batch"])
def test_an_answer_is_lost_and_then_the_server_and_the_process(lab: Lab, proxy: Proxy, tree: RunTree, name: str, call: str) -> None:
    lost: list[str] = []

    def fault(request: str) -> str:
        lost.extend([request] if lost or call in request else [])
        return {0: "", 1: "lose"}.get(len(lost), "error")

    proxy.fault = fault
    with pytest.raises(MirrorError):
        Mirror(tree).sync(name, PROFILE, final=True)
    proxy.fault = lambda request: ""
    Mirror(tree).sync(name, PROFILE, final=True)  # as a new process: it knows nothing
    assert_whole(lab, tree, name)


def test_a_client_that_repeats_requests_doubles_no_run(
    lab: Lab, proxy: Proxy, tree: RunTree, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has set retries: the HTTP client sends a create_run again whose answer was lost."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    calls = iter(["lose", "", "lose"])
    proxy.fault = lambda request: next(calls, "") if "runs/create" in request else ""
    report = Mirror(tree).sync(name, PROFILE, final=True)
    assert sum("runs/create" in request for request in proxy.seen) == 7
    assert report.runs == 5
    assert_whole(lab, tree, name)


def test_files_that_fail_stop_no_metrics_and_come_later(lab: Lab, proxy: Proxy, tree: RunTree, name: str) -> None:
    failing = naming.RESULT
    proxy.fault = lambda request: "cut" if request.startswith("PUT") and failing in request else ""
    with pytest.raises(MirrorError, match=f"cannot store {failing}"):
        Mirror(tree).sync(name, PROFILE, final=True)
    assert lab.statuses(name) == {"FINISHED": 5}
    assert set(lab.points(name)) == expected(tree, name)
    proxy.fault = lambda request: ""
    report = Mirror(tree).sync(name, PROFILE, final=True)
    assert report.artifacts and not report.runs and not report.points
    assert_whole(lab, tree, name)


def test_two_trees_at_once_share_the_runs(lab: Lab, proxy: Proxy, tree: RunTree, name: str, tmp_path: Path) -> None:
    """No lock holds them back: each makes runs that the other makes too."""
    shutil.copytree(tree.root, tmp_path / "copy", symlinks=True)
    proxy.delay = 0.03
    barrier = threading.Barrier(2)
    left: list[object] = []

    def mirror(root: Path) -> None:
        one = Mirror(RunTree(root))
        barrier.wait()
        for _ in range(20):
            try:
                one.sync(name, PROFILE, final=True)
                return
            except MirrorError as error:
                last = error
        left.append(last)

    threads = [threading.Thread(target=mirror, args=(root,)) for root in (tree.root, tmp_path / "copy")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(400)
    assert not left
    assert_whole(lab, tree, name)


# --- while a run goes on --------------------------------------------------------------------------


class Training:
    """A trial of a tree that runs in this process, and its mirror."""

    def __init__(self, tree: RunTree, name: str) -> None:
        self.trial = trials_of(tree, name)[0]
        self.mirror = BackgroundMirror(Mirror(tree), name, PROFILE, every=0.05)
        self.writer = MetricWriter(self.trial.file(naming.METRICS_FILE))
        self.steps = iter(range(1000, 2000))

    def step(self) -> int:
        step = next(self.steps)
        self.writer.write("train", step, 9, {"loss": 1.0, "lr": 0.1})
        return step

    def end(self) -> None:
        self.writer.close()
        self.trial.drop_lease()


@pytest.fixture
def training(tmp_path: Path, name: str) -> Iterator[Training]:
    tree = write_fake_tree(tmp_path / "training", name=name, states=["running", "done", "done", "done"], **SMALL)
    started = Training(tree, name)
    yield started
    started.end()


def test_a_server_that_is_away_at_the_start_and_in_the_middle(lab: Lab, proxy: Proxy, training: Training, name: str) -> None:
    tree = training.mirror.mirror.tree
    proxy.refuse()
    training.mirror.start()
    training.step()
    wait_until(lambda: isinstance(training.mirror.error, MirrorError), 240)
    proxy.open()
    wait_until(lambda: (training.trial.id, "train/loss", training_step(training)) in lab.points(name), 240)
    proxy.refuse()
    training.step()
    wait_until(lambda: isinstance(training.mirror.error, MirrorError), 240)
    proxy.open()
    training.step()
    training.end()
    assert training.mirror.finish(timeout=240), training.mirror.shortfall
    assert_whole(lab, tree, name, FINISHED=3, KILLED=2)


def training_step(training: Training) -> int:
    return max(line.step for line in training.trial.metric_lines())


def test_a_server_that_comes_back_with_an_empty_database(labs: tuple[Lab, Lab], proxy: Proxy, training: Training, name: str) -> None:
    one, two = labs
    tree = training.mirror.mirror.tree
    training.mirror.start()
    step = training.step()
    wait_until(lambda: (training.trial.id, "train/loss", step) in one.points(name), 240)
    before = two.rows("SELECT count(*) FROM runs WHERE ? != '' AND experiment_id <= 30", name)
    away: list[str] = []
    proxy.fault = lambda request: away.append(request) or "error"
    training.step()
    wait_until(lambda: away, 240)  # the mirror has seen that the server went away; no pass of it goes on with the other one
    proxy.upstream, proxy.fault = two.port, lambda request: ""
    other = trials_of(tree, name)[1]
    training.step()
    other.take_lease()  # and a trial of which the old server knew is done again
    other.drop_lease()
    training.end()
    assert training.mirror.finish(timeout=240), training.mirror.shortfall
    assert_whole(two, tree, name, FINISHED=3, KILLED=2)
    assert two.rows("SELECT count(*) FROM runs WHERE ? != '' AND experiment_id <= 30", name) == before

    proxy.upstream = one.port  # and the old one is back
    Mirror(tree).sync(name, PROFILE, final=True)
    assert_whole(one, tree, name, FINISHED=3, KILLED=2)


def test_a_new_trial_goes_into_no_other_experiment_that_has_the_old_id(
    labs: tuple[Lab, Lab], proxy: Proxy, tree: RunTree, name: str
) -> None:
    one, two = labs
    mirror = Mirror(tree)
    mirror.sync(name, PROFILE)
    proxy.upstream = two.port
    write_fake_tree(tree.root, name=name, seeds=(0, 1), **SMALL)
    mirror.sync(name, PROFILE, final=True)
    assert_whole(two, tree, name, FINISHED=9)
    strangers = "SELECT e.name FROM tags t JOIN runs r USING (run_uuid) JOIN experiments e USING (experiment_id) WHERE t.key = 'gfl.experiment' AND t.value = ?"
    assert {found for (found,) in two.rows(strangers, name)} == {name}


def test_a_slow_server_is_not_waited_for_and_completed_later(lab: Lab, proxy: Proxy, training: Training, name: str) -> None:
    tree = training.mirror.mirror.tree
    proxy.delay = 0.5
    training.mirror.start()
    wait_until(lambda: len(proxy.seen) > 3, 240)
    training.step()
    training.end()
    assert not training.mirror.finish(timeout=0.6)
    assert "is slow" in training.mirror.shortfall and "4 trials are not complete there" in training.mirror.shortfall
    proxy.delay = 0.0
    slow = iter(["drip"])  # of the runs that are missing, one
    proxy.fault = lambda request: next(slow, "") if "runs/create" in request else ""
    training.mirror.join(240)
    assert not training.mirror.is_alive() and training.mirror.error is None
    assert next(slow, "none left") == "none left"
    assert_whole(lab, tree, name, FINISHED=3, KILLED=2)


def test_a_server_that_hangs_is_given_up_at_the_end(proxy: Proxy, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.fault = lambda request: "hang"
    patience(monkeypatch, 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")  # only giving up ends this
    training.mirror.start()
    wait_until(lambda: bool(proxy.seen), 240)
    assert not training.mirror.finish(timeout=3600)
    assert "does not answer; 4 trials are not complete there" in training.mirror.shortfall


DRIVER = """
import os, sys
import gfl_lab.session.entries
from gfl_lab.cli.main import main
gfl_lab.session.entries.TRIAL_ENTRY = "tests.support.fake_trial:succeed"
sys.argv = ["gfl-lab", "run", sys.argv[1], "--executor", "inline"]
main()
"""
EXPERIMENT = (
    "{name: NAME, question: Whether it ends, profile: tiny, axes: {qfl: [false, true]}, baseline: {qfl: false}, table: {metrics: [AP]}}"
)
TINY = """
{name: tiny, title: tiny, data: {train_images: 8, val_images: 8, size: 128, seed: 0}, settings: {backbone: r18, base_channels: 8, neck_channels: 16,
  head_channels: 16, head_convs: 1, strides: [8, 16, 32], epochs: 1, batch_size: 2, image_size: [128, 128]}}
"""


def test_a_run_with_a_server_that_hangs_ends_and_sync_completes_it(
    lab: Lab, proxy: Proxy, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/tiny.yaml").write_text(TINY)
    (tmp_path / "file.yaml").write_text(EXPERIMENT.replace("NAME", name))
    home = tmp_path / "runs"
    proxy.fault = lambda request: "hang"
    environment = os.environ | {"GFL_LAB_HOME": str(home), "PYTHONPATH": str(ROOT), "MLFLOW_HTTP_REQUEST_TIMEOUT": "3600"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "file.yaml"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"warning: MLflow at {proxy.uri} does not answer; 2 trials are not complete there" in done.stderr
    assert "gfl-lab sync" in done.stderr
    assert [trial.state() for trial in RunTree(home).trials()] == ["done", "done"]

    proxy.fault = lambda request: ""
    monkeypatch.setenv("GFL_LAB_HOME", str(home))
    code, out, _ = runner(monkeypatch, capsys)("sync")
    assert (code, out.startswith(f"{name} on tiny: 3 new runs")) == (0, True), out
    assert lab.statuses(name) == {"FINISHED": 3}


# --- gfl-lab sync and doctor ----------------------------------------------------------------------


def test_sync_twice_is_sync_once(lab: Lab, proxy: Proxy, tree: RunTree, name: str, cli: Cli) -> None:
    code, out, err = cli("sync", "--tracking-uri", proxy.uri, "--json")
    (row,) = json.loads(out)["rows"]
    assert code == 0 and json.loads(out)["uri"] == proxy.uri and proxy.uri in err
    assert (row["experiment"], row["profile"], row["runs"]) == (name, PROFILE, 5)
    assert row["points"] == len(expected(tree, name)) and row["artifacts"] == len(lab.artifacts(name))
    assert_whole(lab, tree, name)
    before = lab.everything(name)
    proxy.seen.clear()
    code, out, _ = cli("sync")
    assert code == 0 and out.startswith(f"{name} on {PROFILE}: up to date"), out
    assert not any("create" in request or "log-" in request for request in proxy.seen)
    # A server that has lost what the mirror noted there is asked what it has; files are sent again, in place of the old ones.
    client = server.quiet_import().tracking.MlflowClient(proxy.uri)
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id]):
        client.set_tag(run.info.run_id, mlflow_payload.TAG_SYNCED, "")
    code, out, _ = cli("sync", "--json")
    assert json.loads(out)["rows"][0] | {"seconds": 0, "artifacts": 0} == row | {"runs": 0, "points": 0, "artifacts": 0, "seconds": 0}
    assert lab.everything(name) == before


def test_sync_says_what_it_cannot_reach_and_which_experiment_it_cannot_read(
    lab: Lab, proxy: Proxy, tree: RunTree, name: str, cli: Cli
) -> None:
    (tree.experiment("broken", PROFILE)).mkdir(parents=True)
    (tree.experiment("broken", PROFILE) / naming.PLAN).write_text("{")
    code, out, err = cli("sync")
    assert code == 2 and f"{name} on {PROFILE}: 5 new runs" in out and "plan.json cannot be read" in err
    proxy.refuse()
    code, out, err = cli("sync", "--json")
    assert code == 6 and json.loads(out)["rows"] == []
    assert err.count(f"MLflow at {proxy.uri} cannot be used") == 1 and "the run directories are complete" in err


KILLED = """
import sys, time
from pathlib import Path
from gfl_lab import naming
from gfl_lab.records.files import read_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import RunTree
from gfl_lab.tracking.background import BackgroundMirror
from gfl_lab.tracking.mirror import Mirror
tree = RunTree(Path(sys.argv[1]))
for name in sys.argv[2:]:
    plan = read_json(tree.experiment(name, "desk") / naming.PLAN)
    for variant in plan["variants"][:2]:
        trial = tree.trial(variant["trials"][0]["id"])
        trial.take_lease()
        MetricWriter(trial.file(naming.METRICS_FILE)).write("train", 1, 1, {"loss": 1.0})
    BackgroundMirror(Mirror(tree), name, "desk", every=0.05).start()
time.sleep(300)
"""


def test_after_a_killed_driver_nothing_stays_running(
    lab: Lab, proxy: Proxy, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{name}-{part}" for part in "abc"]
    tree = RunTree(tmp_path / "runs")
    for part in names:
        write_fake_tree(tree.root, name=part, rng_seed=ord(part[-1]), states=["planned"] * 3 + ["done"], **SMALL)
    for part in names:
        for trial in trials_of(tree, part):
            trial.path.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", KILLED, str(tree.root), *names], env=environment)
    try:
        wait_until(lambda: all(lab.statuses(part) == {"RUNNING": 3, "FINISHED": 1} for part in names), 240)
    finally:
        driver.kill()
        driver.wait()
    monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))

    # Of the second experiment one trial goes on, in this process; of the third one has left the plan.
    trials_of(tree, names[1])[0].take_lease()
    path = tree.experiment(names[2], PROFILE) / naming.PLAN
    plan = read_json(path)
    write_json(path, plan | {"variants": plan["variants"][1:]})

    assert runner(monkeypatch, capsys)("sync")[0] == 0
    assert lab.statuses(names[0]) == lab.statuses(names[2]) == {"KILLED": 3, "FINISHED": 1}
    assert lab.statuses(names[1]) == {"RUNNING": 2, "KILLED": 1, "FINISHED": 1}
    trials_of(tree, names[1])[0].drop_lease()
    assert runner(monkeypatch, capsys)("sync")[0] == 0
    assert lab.statuses(names[1]) == {"KILLED": 3, "FINISHED": 1}
