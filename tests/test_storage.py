"""Storage, and trials on nodes that share nothing else: against an S3 server in this process, and a folder. tests/test_cluster.py has a run."""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from gfl_lab import naming, storage
from gfl_lab.errors import InputError, ResourceError, StoreError
from gfl_lab.orchestrate import dataset_archives, driver, remote_worker, run_sync
from gfl_lab.orchestrate.run_sync import DriverSide, Link
from gfl_lab.orchestrate.supervisor import Job, TrialProcess
from gfl_lab.plan.plan import build_plan
from gfl_lab.records.files import write_json
from gfl_lab.records.lease import Lease
from gfl_lab.records.manifest import DataPaths
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.files import load_experiment, load_profile
from gfl_lab.spec.trial import DataSpec
from gfl_lab.storage import Storage, Synced
from tests.support.cli import runner
from tests.support.moving_trial import EXTRA, STEPS, checkpoint_of, step_of
from tests.support.raw import raw_manifest, raw_result
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
FAKES = "tests.support.moving_trial"
DIGEST = "0123456789abcdef"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of a bucket on a server of this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("AWS_")]:
            patch.delenv(key)
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            patch.setenv(key, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="lab")
        yield "s3://lab"
        server.stop()


@pytest.fixture
def bucket(s3: str) -> str:
    return f"{s3}/{secrets.token_hex(4)}/runs"


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file":
        return Storage(f"file://{tmp_path}/mount/runs")
    return Storage(request.getfixturevalue("bucket"))


# --- storage ---


def test_objects_come_and_go(store: Storage) -> None:
    store.prepare()
    store.prepare()
    assert store.list("trials") == {} and store.read("a/b") is None and store.stamp("a/b") is None
    store.delete("a/b")
    store.write("a/b", b"one")
    store.write("a/c/d", b"two")
    assert store.read("a/b") == b"one" and store.stamp("a/b").size == 3
    assert store.list("a").keys() == {"b"} and store.list("a", deep=True).keys() == {"b", "c/d"}
    store.delete("a/b")
    assert store.list("a", deep=True).keys() == {"c/d"}


def test_a_storage_of_another_format_is_refused(store: Storage) -> None:
    store.write("gfl-lab-storage.json", b'{"format": 99}')
    with pytest.raises(StoreError, match="format 99"):
        store.prepare()


class Breaking(io.BytesIO):
    """A file that cannot be read to its end."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 8:
            raise OSError("input/output error")
        return super().read(min(size or 0, 4))


def test_what_breaks_off_replaces_nothing(store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WHOLE_BYTES", 8)
    store.upload(io.BytesIO(b"good " * 10), "a/b")
    with pytest.raises(OSError, match="input/output"):
        store.upload(Breaking(b"bad " * 10), "a/b")
    assert store.read("a/b") == b"good " * 10 and store.list("a").keys() == {"b"}

    local = tmp_path / "b"
    local.write_text("mine")
    monkeypatch.setattr(storage, "_CHUNK", 4)
    whole, chunks = storage._Guarded.read, []

    def broken(self: storage._Guarded, size: int = -1) -> bytes:
        chunks.append(whole(self, size) if len(chunks) < 2 else b"")
        return chunks[-1]

    monkeypatch.setattr(storage._Guarded, "read", broken)
    with pytest.raises(ResourceError, match="broke off"):
        store.download("a/b", local)
    assert local.read_text() == "mine" and [path.name for path in tmp_path.glob("*b*")] == ["b"]
    monkeypatch.setattr(storage._Guarded, "read", whole)
    store.download("a/b", local)
    assert local.read_bytes() == b"good " * 10
    with pytest.raises(StoreError, match="is not in"):
        store.download("a/none", local)


@pytest.mark.parametrize(
    "uri", ["s3://AKIA123:hidden@lab/runs", "s3://lab/runs?secret_key=hidden", "abfs://account:hidden@host/runs", "s3://hidden@lab"]
)
def test_addresses_with_credentials_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(InputError, match="credentials") as caught:
        Storage(uri)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("uri", ["runs", "nope://a/b", "s3://", "s3:lab/runs", "s3://lab?colour=red", "file://"])
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(InputError):
        Storage(uri)


def test_a_storage_that_does_not_answer_is_named(s3: str) -> None:
    with pytest.raises(ResourceError, match="s3://nowhere.*cannot be reached"):
        Storage("s3://nowhere/runs").prepare()  # no such bucket; none is made
    with pytest.raises(ResourceError, match="cannot be reached"):
        Storage("s3://lab/runs?endpoint_override=127.0.0.1:1&scheme=http").read("a")


def test_who_has_changed_is_told_without_clocks(store: Storage, tmp_path: Path) -> None:
    here = Synced(store, tmp_path / "here", "trials/x")
    here.folder.mkdir()
    (here.folder / "a").write_text("1")
    os.utime(here.folder / "a", (0, 0))
    assert here.changed_here(["a", "none"]) == ["a"]
    here.push(["a", "none"])
    assert here.changed_here(["a"]) == [] == here.changed_there(store.list("trials/x"))

    there = Synced(store, tmp_path / "there", "trials/x")
    there.pull("a", store.list("trials/x")["a"])
    (there.folder / "a").write_text("1 and 2")
    there.push(["a"])
    here = Synced(store, here.folder, "trials/x")  # remembered on disk
    assert here.changed_here(["a"]) == [] and here.changed_there(store.list("trials/x")) == ["a"]
    assert Synced(store, here.folder, "trials/y").changed_here(["a"]) == ["a"]


# --- data ---


@pytest.fixture
def paths(tmp_path: Path) -> DataPaths:
    """A data set of six images, some in sub-folders."""
    root = tmp_path / "coco"
    found = {}
    for split in ("train", "val"):
        (root / split / "sub").mkdir(parents=True)
        names = [f"{split}{n}.png" for n in range(2)] + ["sub/ümlaut.png"]
        for name in names:
            (root / split / name).write_bytes(f"{split} {name}".encode() * 50)
        (root / f"{split}.json").write_text(json.dumps({"images": [{"file_name": name} for name in names]}))
        found |= {f"{split}_annotations": str(root / f"{split}.json"), f"{split}_images": str(root / split)}
    return DataPaths.from_json(found)


def images_of(paths: DataPaths) -> dict[str, bytes]:
    return {
        f"{split}/{image['file_name']}": (Path(paths.to_json()[f"{split}_images"]) / image["file_name"]).read_bytes()
        for split in ("train", "val")
        for image in json.loads(Path(paths.to_json()[f"{split}_annotations"]).read_text())["images"]
    }


def test_a_data_set_arrives_whole_or_not_at_all(store: Storage, paths: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_archives, "ARCHIVE_BYTES", 2000)
    cache, put = tmp_path / "cache", []
    upload = store.upload

    def counted(file: io.BytesIO, name: str, limit: int) -> None:
        if len(put) == limit:
            raise ResourceError("away")
        put.append(name)
        upload(file, name)

    monkeypatch.setattr(store, "upload", lambda file, name: counted(file, name, 2))
    with pytest.raises(ResourceError):
        dataset_archives.push_dataset(store, DIGEST, paths, lambda _: None)
    with pytest.raises(StoreError, match="not the whole"):
        dataset_archives.fetch_dataset(store, DIGEST, cache)
    assert [path.name for path in cache.iterdir()] == [f".{DIGEST}.lock"]

    monkeypatch.setattr(store, "upload", lambda file, name: counted(file, name, 99))
    dataset_archives.push_dataset(store, DIGEST, paths, lambda _: None)
    dataset_archives.push_dataset(store, DIGEST, paths, lambda _: pytest.fail("put twice"))
    assert len(put) == len(set(put)) > 3, "what was there has not been put again"

    threads = [threading.Thread(target=dataset_archives.fetch_dataset, args=(store, DIGEST, cache)) for _ in range(3)]
    fetched = []
    into = dataset_archives._fetch_into
    monkeypatch.setattr(dataset_archives, "_fetch_into", lambda *given: (fetched.append(1), into(*given)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [1], "actors of one node share what one of them fetches"
    assert images_of(dataset_archives.fetch_dataset(store, DIGEST, cache)) == images_of(paths)

    store.write(put[0], store.read(put[0]).replace(b"train0", b"trainX"))
    with pytest.raises(StoreError, match="damaged"):
        dataset_archives.fetch_dataset(store, DIGEST, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == [f".{DIGEST}.lock"]


def test_weights_travel_by_their_digest(store: Storage, tmp_path: Path) -> None:
    import hashlib

    file = tmp_path / "w.pth"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()[:16]
    dataset_archives.push_weights(store, digest, file)
    assert dataset_archives.fetch_weights(store, digest, tmp_path / "cache").read_bytes() == b"weights"
    store.write(f"weights/{'f' * 16}", b"other")
    with pytest.raises(StoreError, match="damaged"):
        dataset_archives.fetch_weights(store, "f" * 16, tmp_path / "cache")


# --- trials ---


class Lab:
    """A driver and nodes that share a storage."""

    def __init__(self, folder: Path, uri: str, paths: DataPaths) -> None:
        self.folder, self.uri, self.paths = folder, uri, paths
        self.tree = RunTree(folder / "driver")
        experiment = load_experiment(ROOT / "experiments/table3_qfl_dfl.yaml")[0]
        data = DataSpec(name="six", digest=DIGEST, classes=("a",), train_images=3, val_images=3)
        plan = build_plan(experiment, load_profile(ROOT / "experiments/profiles/desk.yaml"), data)
        self.planned = plan.trials[:1]
        driver.write_manifests(self.planned, self.tree, paths)
        self.trial = self.tree.trial(self.planned[0].id)
        self.stop_file = folder / naming.STOP_REQUEST
        self.gate = folder / "gate"
        self.side = self.driver()

    def driver(self) -> DriverSide:
        side = DriverSide(self.uri, self.tree)
        side.refresh([self.trial.id])
        side.publish([self.trial.id], [], lambda _: None)
        return side

    def job(self, side: DriverSide | None = None, **kwargs: object) -> Job:
        given = {"stop_file": str(self.stop_file), "gate": str(self.gate), **kwargs}
        return (side or self.side).watch(driver.jobs_for(self.planned, self.tree, f"{FAKES}:go", given))[0]

    def start_node(self, name: str, job: Job) -> subprocess.Popen[str]:
        """A node that can be killed."""
        code = (
            "import json, sys; from pathlib import Path; from gfl_lab.orchestrate import run_sync, remote_worker, supervisor\n"
            "run_sync.EVERY_S = remote_worker.EVERY_S = 0.1; remote_worker.LOOK_S = 0.1\n"
            "job = supervisor.Job(**json.loads(sys.argv[1]))\n"
            "print(remote_worker.run_on_node(supervisor.TrialProcess(job.preload), job, Path(sys.argv[2])))"
        )
        given = json.dumps({key: getattr(job, key) for key in ("path", "entry", "preload", "kwargs", "link")})
        return subprocess.Popen([sys.executable, "-c", code, given, str(self.folder / name)], stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def steps_there(self) -> int:
        content = self.side.storage.read(f"trials/{self.trial.id}/{naming.LAST_CHECKPOINT}")
        return step_of(content) if content else 0


@pytest.fixture
def lab(bucket: str, paths: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for module in (run_sync, remote_worker):
        monkeypatch.setattr(module, "EVERY_S", 0.1)
    monkeypatch.setattr(remote_worker, "LOOK_S", 0.1)
    return Lab(tmp_path, bucket, paths)


@pytest.fixture
def process(lab: Lab) -> Iterator[TrialProcess]:
    server = TrialProcess(FAKES)
    yield server
    server.close()


def steps(trial: TrialDir) -> list[int]:
    return [line.step for line in trial.metric_lines()]


def test_a_trial_whose_node_dies_goes_on_on_another_one(lab: Lab, process: TrialProcess) -> None:
    lab.side.start()
    first = lab.start_node("first", lab.job(hold_at=12))
    wait_until(lambda: lab.steps_there() == 10 and lab.trial.state() is TrialState.RUNNING and 12 in steps(lab.trial))
    assert raw_result(lab.trial) is None and lab.trial.lease().pid == first.pid
    first.kill()  # it has done 12 steps, and its last checkpoint holds 10
    first.wait()
    wait_until(lambda: lab.trial.state() is TrialState.INTERRUPTED)
    assert remote_worker.run_on_node(process, lab.job(), lab.folder / "second") is TrialState.DONE
    assert lab.side.finish() == []
    assert lab.trial.state() is TrialState.DONE and steps(lab.trial) == list(range(1, STEPS + 1))
    words = lab.trial.file(naming.LOG).read_text()
    assert [line.split()[3] for line in words.splitlines()] == ["1", "11"]
    assert lab.trial.file(EXTRA).read_bytes() == b"records" and lab.trial.file(naming.CONFIG).exists()
    assert step_of(lab.trial.file(naming.LAST_CHECKPOINT).read_bytes()) == STEPS
    assert raw_manifest(lab.trial)["paths"] == lab.paths.to_json(), "the driver's own"
    assert not lab.trial.file(naming.LEASE).exists() and lab.side.storage.list("leases") == {}
    assert not list((lab.folder / "second").glob(f"storages/*/trials/{lab.trial.id}")), "a node keeps no copy of what is done"


def test_a_stop_request_reaches_the_node_and_the_next_run_goes_on(lab: Lab, process: TrialProcess) -> None:
    lab.side.start()
    job = lab.job(hold_at=7)
    threading.Timer(0.0, lambda: (wait_until(lambda: 7 in steps(lab.trial)), lab.stop_file.touch())).start()
    assert remote_worker.run_on_node(process, job, lab.folder / "a") is TrialState.INTERRUPTED
    assert lab.side.finish() == []
    assert lab.trial.state() is TrialState.INTERRUPTED and step_of(lab.trial.file(naming.LAST_CHECKPOINT).read_bytes()) == 7
    assert lab.side.storage.list("stop", deep=True) == {}
    lab.stop_file.unlink()

    lab.tree = RunTree(lab.folder / "another driver")  # which knows the trial from the storage alone
    driver.write_manifests(lab.planned, lab.tree, lab.paths)
    lab.trial = lab.tree.trial(lab.trial.id)
    side = lab.driver()
    assert lab.trial.state() is TrialState.INTERRUPTED and steps(lab.trial) == list(range(1, 8))
    assert remote_worker.run_on_node(process, lab.job(side), lab.folder / "b") is TrialState.DONE
    assert side.finish() == [] and steps(lab.trial) == list(range(1, STEPS + 1))
    assert "starts at step 8 on" in lab.trial.file(naming.LOG).read_text()


def test_what_was_trained_here_is_gone_on_with_there(lab: Lab, process: TrialProcess) -> None:
    lab.trial.file(naming.LAST_CHECKPOINT).write_bytes(checkpoint_of(20))
    lab.trial.file(naming.METRICS_FILE).write_text(
        "".join(json.dumps({"kind": "train", "step": n, "epoch": 1, "time": n, "metrics": {}}) + "\n" for n in range(1, 23))
    )
    side = lab.driver()
    assert remote_worker.run_on_node(process, lab.job(side), lab.folder / "a") is TrialState.DONE
    assert side.finish() == [] and steps(lab.trial) == list(range(1, STEPS + 1))
    assert lab.trial.file(naming.LOG).read_text().startswith("starts at step 21 on")


def test_a_done_result_is_never_replaced(lab: Lab, process: TrialProcess) -> None:
    done = {"format": 1, "trial": lab.trial.id, "status": "done", "metrics": {"AP": 61.0}}
    name = f"trials/{lab.trial.id}/{naming.RESULT}"
    lab.side.storage.write(name, json.dumps(done | {"metrics": {"AP": 1.0}}).encode())
    assert remote_worker.run_on_node(process, lab.job(), lab.folder / "a") is TrialState.DONE
    assert json.loads(lab.side.storage.read(name))["metrics"] == {"AP": 1.0}
    assert not lab.side.storage.stamp(f"trials/{lab.trial.id}/{naming.METRICS_FILE}"), "it was not trained"
    write_json(lab.trial.file(naming.RESULT), done)
    for status in ("failed", "done"):
        lab.side.storage.write(name, json.dumps(done | {"status": status, "metrics": {"AP": 2.0}}).encode())
        lab.driver()
        assert raw_result(lab.trial) == done


def test_a_result_that_cannot_be_put_is_put_later_and_not_computed_again(
    lab: Lab, process: TrialProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, away = Storage.upload, []

    def sometimes(self: Storage, file: io.BytesIO, name: str) -> None:
        if name.endswith(naming.RESULT) and len(away) < 3:
            away.append(name)
            raise ResourceError("the storage cannot be reached")
        upload(self, file, name)

    monkeypatch.setattr(Storage, "upload", sometimes)
    monkeypatch.setattr(remote_worker, "LAST_TRIES_S", 0.0)
    with pytest.raises(ResourceError):
        remote_worker.run_on_node(process, lab.job(), lab.folder / "a")
    assert lab.side.finish() == [] and lab.trial.state() is TrialState.INTERRUPTED
    monkeypatch.setattr(remote_worker, "LAST_TRIES_S", 60.0)
    assert remote_worker.run_on_node(process, lab.job(), lab.folder / "a") is TrialState.DONE
    assert len(away) == 3 and lab.side.finish() == [] and lab.trial.state() is TrialState.DONE
    assert lab.trial.file(naming.LOG).read_text().count("starts at step") == 1


def test_of_two_nodes_that_have_a_trial_the_first_gives_it_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = lab.start_node("first", lab.job(hold_at=3)), None
    wait_until(lambda: lab.side.storage.list(f"trials/{lab.trial.id}").keys() >= {naming.METRICS_FILE})
    try:
        second = lab.start_node("second", lab.job(hold_at=3))
        assert first.communicate(timeout=60)[0].strip() == TrialState.RUNNING
        assert naming.RESULT not in lab.side.storage.list(f"trials/{lab.trial.id}"), "it puts nothing any more"
        assert json.loads(lab.side.storage.read(f"leases/{lab.trial.id}.json"))["pid"] == second.pid
        lab.gate.touch()
        assert second.communicate(timeout=60)[0].strip() == TrialState.DONE
    finally:
        for started in (first, second):
            if started and started.poll() is None:
                started.send_signal(signal.SIGKILL)
                started.wait()


def holder(lab: Lab, name: str, run: str) -> remote_worker.Holder:
    return remote_worker.Holder(
        lab.side.storage, Link(lab.uri, run), lab.folder / name / lab.trial.id, "stop/none", lab.folder / name / "stop"
    )


def test_a_trial_of_another_driver_is_left_to_it_while_its_lease_is_renewed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_worker, "HEARTBEAT_S", 0.3)
    first = holder(lab, "first", "run 1")
    assert first.take() and not holder(lab, "second", "run 2").take()
    first.release()
    second, again = holder(lab, "second", "run 2"), holder(lab, "again", "run 2")
    assert second.take() and second.is_mine() and again.take()
    again.release()
    assert not second.is_mine(), "another one has had it, and has ended it"
    second.release()
    elsewhere = {"format": 1, "pid": 1, "start": 1, "host": "elsewhere", "since": 1.0, "run": "run 3"}
    lab.side.storage.write(f"leases/{lab.trial.id}.json", json.dumps(elsewhere).encode())
    lab.side.refresh([lab.trial.id])
    assert lab.trial.state() is TrialState.RUNNING and lab.trial.lease() == Lease.from_json(elsewhere)
    monkeypatch.setattr(remote_worker, "LEASE_STALE_S", 0.5)  # nobody renews it
    third = holder(lab, "third", "run 4")
    assert third.take()
    third.release()
    lab.side.refresh([lab.trial.id])
    assert lab.trial.state() is TrialState.PLANNED


# --- trials that need others ---


@pytest.fixture
def student(lab: Lab) -> TrialDir:
    """A trial that needs the trial of ``lab``."""
    (own,) = lab.planned
    spec = own.spec.model_copy(update={"needs": {"init_from": own.id}, "seed": 7})
    needing = replace(own, id=spec.id, spec=spec)
    driver.write_manifests([needing], lab.tree, lab.paths)
    lab.planned = [needing]
    return lab.tree.trial(needing.id)


def test_a_node_fetches_the_weights_that_a_trial_needs_once_they_are_done(lab: Lab, student: TrialDir, process: TrialProcess) -> None:
    side = DriverSide(lab.uri, lab.tree)
    side.publish([student.id], [], lambda _: None)
    with pytest.raises(StoreError, match=f"needs trial {lab.trial.id}, which is not finished"):
        remote_worker.run_on_node(process, lab.job(side), lab.folder / "a")
    needed = Job(str(lab.trial.path), f"{FAKES}:go", FAKES, {"stop_file": ""})
    assert remote_worker.run_on_node(process, side.watch([needed])[0], lab.folder / "a") is TrialState.DONE
    assert lab.trial.state() is TrialState.PLANNED
    side.fetch(lab.trial.id, lambda: False)
    assert lab.trial.state() is TrialState.DONE, "before any other look at the storage"
    stale = RunTree(lab.folder / "b" / "storages" / naming.digest(lab.uri)).trial(lab.trial.id)
    stale.path.mkdir(parents=True)
    stale.file(naming.LAST_CHECKPOINT).write_bytes(checkpoint_of(5))  # of an attempt on this node that another one went on with
    assert remote_worker.run_on_node(process, lab.job(side), lab.folder / "b") is TrialState.DONE
    assert side.finish() == [] and student.state() is TrialState.DONE


def test_what_was_finished_here_is_put_for_the_trials_that_need_it(lab: Lab, student: TrialDir, process: TrialProcess) -> None:
    done = {"format": 1, "trial": lab.trial.id, "status": "done", "metrics": {"AP": 61.0}}
    lab.trial.file(naming.LAST_CHECKPOINT).write_bytes(checkpoint_of(STEPS))
    write_json(lab.trial.file(naming.RESULT), done)
    side = DriverSide(lab.uri, lab.tree)
    side.publish([student.id], [lab.trial.id], lambda _: None)
    assert remote_worker.run_on_node(process, lab.job(side), lab.folder / "a") is TrialState.DONE
    name = f"trials/{lab.trial.id}/{naming.RESULT}"
    assert json.loads(side.storage.read(name)) == done
    write_json(lab.trial.file(naming.RESULT), done | {"metrics": {"AP": 1.0}})
    side.publish([student.id], [lab.trial.id], lambda _: None)
    assert json.loads(side.storage.read(name)) == done, "a finished trial there is left as it is"


# --- the command line ---


def test_a_storage_is_for_a_cluster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = runner(monkeypatch, capsys, "run")
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path))
    for arguments in (["--storage", "s3://lab/runs"], ["--executor", "inline", "--storage", "s3://lab/runs", "--address", "x:1"]):
        code, _, err = run(ROOT / "experiments/table3_qfl_dfl.yaml", *arguments)
        assert code == 2 and "--storage is for a cluster" in err
    code, _, err = run(ROOT / "experiments/table3_qfl_dfl.yaml", "--storage", "s3://me:hidden@lab/runs", "--address", "x:1")
    assert code == 2 and "credentials" in err and "hidden" not in err
