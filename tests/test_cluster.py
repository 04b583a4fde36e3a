"""`gfl-lab run --address` on a real Ray cluster of separate nodes (tests/support/nodes.py), which are killed and added in mid-run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gfl_lab import naming
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from tests.support import moving_trial
from tests.support.counting_trial import EACH, HELD_AT, HOLD, PROFILE, STEPS, places, value_after
from tests.support.nodes import NETWORK, Cluster, Node, wait_for, why_not
from tests.support.processes import command_line, kill, left_after, process_name
from tests.support.raw import raw_manifest, raw_result

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")]

ACTOR = "ray::ResourceTrainable"
"""Ray's name for the processes of Tune's actors once they have begun their trials."""
SAVED = HELD_AT // EACH * EACH
"""Step of the last checkpoint of a trial that is held."""
S3_PORT = 5555
S3 = {
    "AWS_ENDPOINT_URL": f"http://{NETWORK}.1:{S3_PORT}", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "hidden",
    "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip
"""Variables of the nodes for a storage on the head."""


class Lab:
    """One run tree on the folder that the nodes share, and drivers on the cluster.

    Only drivers have GFL_LAB_HOME: so nodes keep what they need in temporary folders, which are their own.
    """

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.gate, self.database = folder, folder / "gate", database
        self.cluster = Cluster(folder, S3 | {"MOVING_GATE": str(self.gate), "MOVING_HOLD": "12 23"})
        self.tree = self.run_tree("runs")
        (folder / "profiles").mkdir()
        (folder / "profiles" / "tiny.yaml").write_text(PROFILE)

    def run_tree(self, name: str) -> RunTree:
        """An empty run tree with MLflow's database, which each new one takes MLflow 3 s to make."""
        tree = RunTree(self.folder / name)
        tree.root.mkdir()
        shutil.copy(self.database, tree.root / naming.MLFLOW_DB)
        return tree

    def experiment(self, name: str, learning_rate: float) -> Path:
        """An experiment of two variants whose trials no other one shares."""
        file = self.folder / f"{name}.yaml"
        file.write_text(
            f"name: {name}\nprofile: tiny\naxes: {{dfl: [false, true]}}\noverrides: {{lr: {learning_rate}}}\ntable: {{metrics: [AP]}}\n"
        )
        return file

    def start(
        self,
        file: Path,
        *options: str,
        node: Node | None = None,
        tree: RunTree | None = None,
        trial: str = "counting_trial",
        gone: float = 8.0,
    ) -> subprocess.Popen[str]:
        """A driver with trials of ``tests.support.<trial>``, on the head and with the shared run tree where not said otherwise.

        One with counting trials gives a cluster up that has been silent for ``gone`` seconds.
        """
        variables = [f"GFL_LAB_HOME={(tree or self.tree).root}", f"COUNTING_GONE_S={gone}"]
        arguments = ["run", str(file), "--address", self.cluster.address, *options]
        command = ["env", *variables, sys.executable, "-m", f"tests.support.{trial}", *arguments]
        return (node or self.cluster.head).start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def until(self, driver: subprocess.Popen[str], condition: Callable[[], object], what: str) -> None:
        """Wait for the condition while the driver runs."""

        def holds() -> object:
            assert driver.poll() is None, "".join(driver.communicate())
            return condition()

        wait_for(holds, what)

    def trials(self, file: Path) -> list[TrialDir]:
        """Trials of the experiment, as planned."""
        plan = json.loads((self.tree.experiment(file.stem, "tiny") / "plan.json").read_text())
        return [self.tree.trial(trial["id"]) for variant in plan["variants"] for trial in variant["trials"]]

    def hold(self) -> None:
        """Trials stand still at step HELD_AT until ``release``."""
        (self.tree.root / HOLD).touch()

    def release(self) -> None:
        (self.tree.root / HOLD).unlink(missing_ok=True)

    def held(self, file: Path) -> list[TrialDir]:
        """Trials that stand still now, or did when their node was killed."""
        if not (self.tree.experiment(file.stem, "tiny") / "plan.json").exists():
            return []
        return [trial for trial in self.trials(file) if max((line.step for line in trial.metric_lines()), default=0) == HELD_AT - 1]

    def whole(self, file: Path, driver: subprocess.Popen[str]) -> str:
        """The driver ends with 0, each trial has counted each step once, and the table has every number. What it said."""
        out, err = driver.communicate(timeout=240)
        assert driver.returncode == 0, out + err
        assert "Traceback" not in out + err
        for trial in self.trials(file):
            assert raw_result(trial)["metrics"]["AP"] == value_after(STEPS, raw_manifest(trial)["spec"]["seed"])
            assert [line.step for line in trial.metric_lines() if line.kind == "train"] == list(range(1, STEPS + 1))
        table = json.loads((self.tree.experiment(file.stem, "tiny") / "table.json").read_text())
        assert [[trial["state"] for trial in row["trials"]] for row in table["rows"]] == [["done"] * (len(self.trials(file)) // 2)] * 2
        return err


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, mlflow_db: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("cluster"), mlflow_db)
    try:
        made.cluster.ready(made.cluster.worker(), made.cluster.worker())
        yield made
    finally:
        made.cluster.close()


@pytest.fixture(autouse=True)
def released(lab: Lab) -> Iterator[None]:
    yield
    lab.release()


def nodes_of(trials: list[TrialDir]) -> set[str]:
    return {place["node"] for trial in trials for place in places(trial)}


def of_the_run(node: Node) -> list[psutil.Process]:
    """Ray's actors, fork servers and trials on a node."""
    lines = {process: command_line(process) for process in node.processes()}
    return [process for process, line in lines.items() if ACTOR in line or "gfl_lab.orchestrate" in line]


@pytest.mark.exhaustive
def test_a_killed_actor_s_trial_moves(lab: Lab) -> None:
    file = lab.experiment("actor", 0.002)
    lab.hold()
    driver = lab.start(file, "--seeds", "0")
    lab.until(driver, lambda: len(lab.held(file)) == 2, "two trials")
    victim = next(process for node in lab.cluster.nodes for process in of_the_run(node) if ACTOR in command_line(process))
    theirs = victim.children(recursive=True)
    victim.kill()
    assert not left_after(theirs, 15)
    lab.until(driver, lambda: sum(len(places(trial)) for trial in lab.trials(file)) == 3, "the trial elsewhere")
    lab.release()
    lab.whole(file, driver)
    starts = sorted([place["after"] for place in places(trial) if "began" in place] for trial in lab.trials(file))
    assert starts == [[0], [0, SAVED]]
    assert sum("Ray actor" in trial.file("log.txt").read_text() for trial in lab.trials(file)) == 1


def test_a_run_uses_every_node_but_the_head_and_a_killed_node_s_trials_move_also_to_a_new_one(lab: Lab) -> None:
    file = lab.experiment("node", 0.003)
    lab.hold()
    driver = lab.start(file, "--seeds", "0,1,2")
    lab.until(driver, lambda: len(lab.held(file)) == 4, "four trials at once")
    assert nodes_of(lab.trials(file)) == {node.name for node in lab.cluster.nodes[1:]}
    victim = lab.cluster.nodes[-1]
    lost = [trial for trial in lab.trials(file) if nodes_of([trial]) == {victim.name}]
    assert len(lost) == 2
    lab.cluster.kill(victim)
    added = lab.cluster.worker()
    lab.until(driver, lambda: added.name in nodes_of(lab.trials(file)), "trials on the new node")
    lab.release()
    err = lab.whole(file, driver)
    assert "room for 4 trials at once" in err and "6 trials to train, 0 reused; 4 at once, each on 1 core;" in err
    assert "no GPU" in err and "GPU-hours" not in err
    assert lab.cluster.head.name not in nodes_of(lab.trials(file))
    for trial in lost:
        first, second = (place for place in places(trial) if "began" in place)
        assert first["node"] == victim.name and second["node"] != victim.name and second["after"] == SAVED
    others = [trial for trial in lab.trials(file) if trial not in lost]
    assert all(len({place["pid"] for place in places(trial)}) == 1 for trial in others)


@pytest.mark.exhaustive
def test_a_killed_driver_leaves_nothing_on_the_nodes_and_the_same_command_goes_on(lab: Lab) -> None:
    file = lab.experiment("driver", 0.004)
    lab.hold()
    driver = lab.start(file, "--seeds", "0,1")
    lab.until(driver, lambda: len(lab.held(file)) == 4, "four trials at once")
    assert all(of_the_run(node) for node in lab.cluster.nodes[1:])
    kill(psutil.Process(driver.pid).children())
    driver.communicate()
    wait_for(lambda: not any(of_the_run(node) for node in lab.cluster.nodes), "the run's processes to end")
    wait_for(lambda: not any(trial.state() is TrialState.RUNNING for trial in lab.trials(file)), "leases to age")
    lab.release()
    lab.whole(file, lab.start(file, "--seeds", "0,1"))
    assert [[place["after"] for place in places(trial) if "began" in place] for trial in lab.trials(file)] == [[0, SAVED]] * 4


@pytest.mark.exhaustive
def test_half_a_gpu_each_is_two_trials_on_a_gpu_and_never_three(lab: Lab) -> None:
    """A logical GPU: what is reserved, not what a card does."""
    file = lab.experiment("halves", 0.005)
    node = lab.cluster.worker(cpus=4, gpus=1)
    lab.cluster.ready(node)
    lab.hold()
    driver = lab.start(file, "--seeds", "0,1,2", "--gpus", "0.5")
    lab.until(driver, lambda: len(lab.held(file)) == 2, "two trials at once")
    time.sleep(3.0)  # a third would come now
    assert len(lab.held(file)) == 2
    lab.release()
    lab.whole(file, driver)
    trials = lab.trials(file)
    assert nodes_of(trials) == {node.name}
    spans = [(began["began"], ended["ended"]) for began, ended in map(places, trials)]
    assert max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans) == 2


def steps(trial: TrialDir) -> list[int]:
    return [line.step for line in trial.metric_lines()]


def test_a_cluster_that_shares_only_a_storage(lab: Lab) -> None:
    """Ctrl-C, the same command again, and a node that dies: each trial does each step once, and the driver has the table.

    Variant b starts from the weights of a trial that none of the variants is.
    """
    file = lab.folder / "two.yaml"
    file.write_text("name: two\nprofile: tiny\nvariants: {a: {dfl: false}, b: {init_from: {dfl: true}}}\ntable: {metrics: [AP]}\n")
    tree, head, nodes = lab.run_tree("driver"), lab.cluster.head, lab.cluster.nodes[1:]
    head.start(
        sys.executable, "-m", "moto.server", "-H", head.address, "-p", str(S3_PORT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    make = (
        "import boto3, botocore.config as c; boto3.client('s3', config=c.Config(retries={'max_attempts': 20})).create_bucket(Bucket='lab')"
    )
    assert head.start(sys.executable, "-c", make).wait(120) == 0

    def run() -> subprocess.Popen[str]:
        return lab.start(file, "--storage", "s3://lab/runs", tree=tree, trial="moving_trial")

    def held(at: int) -> bool:
        return [trial.state() for trial in tree.trials() if steps(trial)[-1:] == [at]] == [TrialState.RUNNING] * 2

    driver = run()
    lab.until(driver, lambda: held(12), "both trials held")
    for inside in psutil.Process(driver.pid).children():
        inside.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 130 and "Traceback" not in out + err, out + err
    begun = [trial for trial in tree.trials() if steps(trial)]
    (waiting,) = (trial for trial in tree.trials() if not steps(trial))
    assert [trial.state() for trial in begun] == [TrialState.INTERRUPTED] * 2 and waiting.state() is TrialState.PLANNED
    assert [moving_trial.step_of(trial.file(naming.LAST_CHECKPOINT).read_bytes()) for trial in begun] == [12, 12]

    driver = run()
    lab.until(driver, lambda: held(23), "both trials held again")
    victim = next(node for node in nodes if node.name == begun[0].lease().host)
    moved = [trial for trial in begun if trial.lease().host == victim.name]
    lab.cluster.kill(victim)
    lab.until(driver, lambda: all((lease := trial.lease()) and lease.host != victim.name for trial in moved), "the trials elsewhere")
    lab.gate.touch()
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, out + err
    for trial in tree.trials():
        assert trial.state() is TrialState.DONE and steps(trial) == list(range(1, moving_trial.STEPS + 1))
        assert trial.file(moving_trial.EXTRA).read_bytes() == b"records"
        starts = [int(line.split()[3]) for line in trial.file(naming.LOG).read_text().splitlines() if line.startswith("starts")]
        assert starts == [1] if trial == waiting else starts == ([1, 13, 21] if trial in moved else [1, 13])
    table = json.loads((tree.experiment("two", "tiny") / "table.json").read_text())
    assert [row["trials"][0]["state"] for row in table["rows"]] == ["done"] * 2

    tree = lab.run_tree("colleague")
    out, err = run().communicate(timeout=240)
    assert "nothing to train" in err and len(tree.trials()) == 3 and raw_manifest(tree.trials()[0])["spec"], out + err
    assert not any("hidden" in file.read_text(errors="replace") for file in lab.folder.rglob("*.*") if file.is_file())


def health(node: Node) -> tuple[int, str]:
    """Exit code and words of the node's health check."""
    asked = node.start(sys.executable, "-m", "gfl_lab.orchestrate.node_health", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = asked.communicate(timeout=120)
    return asked.returncode, out + err


def raylets(node: Node) -> set[int]:
    return {process.pid for process in node.processes() if process_name(process) == "raylet"}


def test_a_node_is_healthy_while_the_head_counts_it(lab: Lab) -> None:
    """The head is started anew, under the same address: the nodes' daemons live on for a while, in no cluster."""
    head, *others, worker = lab.cluster.nodes
    for node in others:  # one is enough here, and each starts a Ray anew
        lab.cluster.kill(node)
    for node in (head, worker):
        wait_for(lambda node=node: health(node)[0] == 0, f"{node.name} in the cluster")
    before, before_head = raylets(worker), raylets(head)
    kill(process for process in head.processes() if process_name(process) == "gcs_server")
    code, text = health(worker)
    assert code == 1 and "does not answer" in text
    wait_for(lambda: raylets(head) - before_head, "the new head's raylet")  # cheaper than to ask for the health again and again
    wait_for(lambda: health(head)[0] == 0, "the new head")
    code, text = health(worker)
    if raylets(worker) == before:
        assert code == 1 and "among the living" in text, text
    # As whoever watches the health does; Ray's daemon gives up by itself after some 40 s.
    kill(process for process in worker.processes() if process.pid in before)
    wait_for(lambda: raylets(worker) - before, "the worker's new raylet")
    wait_for(lambda: health(worker)[0] == 0, "the worker in the new cluster")
    assert raylets(worker) and not raylets(worker) & before


def test_more_than_any_node_has_is_refused(lab: Lab) -> None:
    out, err = lab.start(lab.experiment("large", 0.006), "--cpus", "64").communicate(timeout=120)
    assert "a trial asks for 64 CPUs" in err


def test_a_cluster_that_goes_away_is_told(lab: Lab) -> None:
    """Last, since there is no cluster after it. The driver and both trials are on the only worker that is left."""
    file = lab.experiment("away", 0.007)
    lab.hold()
    driver = lab.start(file, "--seeds", "0", node=lab.cluster.nodes[1], gone=5.0)  # Ray itself needs a core until then
    lab.until(driver, lambda: len(lab.held(file)) == 2, "two trials")
    lab.cluster.kill(lab.cluster.head)
    out, err = driver.communicate(timeout=240)
    print(out, err)
    assert driver.returncode == 6
    assert "Ray cluster" in err and "Traceback" not in err
