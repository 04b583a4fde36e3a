"""`gfl-lab run` with everything real: Ray Tune, mmdet, MLflow on sqlite, on a data set of 24 images."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gfl_lab import naming
from gfl_lab.cli.main import main
from gfl_lab.naming import TAG_KIND, TAG_SEED, TAG_STATUS, TAG_TRIAL, TAG_VARIANT
from gfl_lab.rundir import RunTree, TrialState
from tests.support.processes import command_line, family, left_after, listening, process_name
from tests.support.raw import raw_manifest, raw_result
from tests.support.real_data import CROPS, REAL, WHOLE
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "experiments" / "examples"

pytestmark = pytest.mark.slow

PROFILE = """
name: tiny
title: a smoke profile
data: {train_images: 16, val_images: 8, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 8, frozen_stages: -1, norm_eval: false, neck_channels: 16, head_channels: 16, head_convs: 1, strides: [8, 16, 32],
  epochs: EPOCHS, batch_size: 8, optimizer: adamw, lr: 0.002, lr_schedule: cosine, warmup_iters: 2, image_size: [128, 128]}
"""
EXPERIMENT = """
name: smoke
question: Does it run?
profile: tiny
axes: {qfl: [false, true], dfl: [false, true]}
baseline: {qfl: false, dfl: false}
published_table: gfl_t3_qfl_dfl
table: {metrics: [AP, AP50, AP75, fps, two_mode_recall, false_bimodality, wasserstein]}
"""
OWN = EXPERIMENT + "custom_imports: [own_components.py]\noverrides: {box_loss: AlphaGIoULoss, init_from: {epochs: 1}}\n"
"""The same with a component of the user's own in every trial, and one more trial, whose weights the four start from."""


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Give processes that start within the block one core, so that they train one trial at a time: one import of torch less."""
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Lab:
    """A folder with an experiment, and gfl-lab run in it, as a process of its own or in this one."""

    def __init__(
        self, folder: Path, epochs: int = 2, experiment: str = EXPERIMENT, profile: str = PROFILE, database: Path | None = None
    ) -> None:
        self.folder, self.tree = folder, RunTree(folder / "runs")
        (folder / "profiles").mkdir(parents=True)
        if database:
            self.tree.root.mkdir()
            shutil.copy(database, self.tree.root / naming.MLFLOW_DB)
        (folder / "profiles/tiny.yaml").write_text(profile.replace("EPOCHS", str(epochs)))
        shutil.copy(EXAMPLES / "own_components.py", folder)
        self.file = folder / "smoke.yaml"
        self.file.write_text(experiment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {"GFL_LAB_HOME": str(self.tree.root), "PYTHONPATH": str(ROOT)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-m", "gfl_lab.cli.main", *arguments]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=self.folder, start_new_session=True
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=400)
        assert process.returncode == code, err + out
        assert "Traceback" not in out + err
        return out, err

    def here(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run gfl-lab in this process, where torch, mmdet and MLflow are imported once for all tests."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())  # of these alone: what is set for Ray stays, as Ray does
            patch.setenv("GFL_LAB_HOME", str(self.tree.root))
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            patch.setattr(sys, "argv", ["gfl-lab", *arguments])
            stack.enter_context(contextlib.chdir(self.folder))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            try:
                main()
                found: object = 0
            except SystemExit as error:
                found = error.code or 0
        assert found == code, err.getvalue() + out.getvalue()
        assert "Traceback" not in out.getvalue() + err.getvalue()
        return out.getvalue(), err.getvalue()

    def table(self) -> dict:
        return json.loads(self.here("table", str(self.file), "--json")[0])

    def mlflow_runs(self) -> list:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.tree.mlflow_uri)
        return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])

    def wait_for(self, condition: Callable[[], object], seconds: float = 300.0) -> None:
        wait_until(condition, seconds)

    def steps(self) -> list[int]:
        return [max((line.step for line in trial.metric_lines()), default=0) for trial in self.tree.trials()]


def numbers(table: dict) -> dict:
    """Return the numbers that must not depend on how often a run was disturbed."""
    return {
        row["variant"]: {key: value for key, value in row["metrics"].items() if key not in ("fps", "latency_ms")} for row in table["rows"]
    }


# --- on Ray: killed, and the same command again; one run tree, of trials with a component of the user's own, for all of these tests ---


@dataclass
class Killed:
    """A run whose driver was killed while a trial trained."""

    lab: Lab
    trials: list[psutil.Process]
    """Fork servers and trials, as the driver's descendants."""
    listening: set[tuple[str, str]]
    """Names of processes that listen, and their addresses."""
    left: list[psutil.Process]
    """Of ``trials``, those that still run some seconds after the kill."""
    running: list[bool]
    """Of each trial, whether its state is RUNNING after the kill."""


@pytest.fixture(scope="module")
def killed_family() -> Iterator[list[psutil.Process]]:
    """Processes of drivers that tests have killed: at the end of the module all of them are gone.

    Ray's own agents look for their raylet now and then, so they have two minutes more; other tests run meanwhile.
    """
    family: list[psutil.Process] = []
    yield family
    assert not left_after(family, 120)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, killed_family: list[psutil.Process], mlflow_db: Path) -> Killed:
    lab = Lab(tmp_path_factory.mktemp("killed") / "lab", experiment=OWN, database=mlflow_db)
    with one_core():
        process = lab.start("run", str(lab.file))
    lab.wait_for(lambda: any(step >= 1 for step in lab.steps()))
    _, *below = started = family(process.pid)
    killed_family.extend(below)
    trials = [p for p in below if not process_name(p).startswith("ray::") and "gfl_lab.orchestrate" in command_line(p)]
    open_at = listening(started)
    process.kill()
    process.wait()
    left = left_after(trials, 15)
    return Killed(lab, trials, open_at, left, [trial.state() is TrialState.RUNNING for trial in lab.tree.trials()])


@pytest.fixture(scope="module")
def resumed(killed: Killed) -> Lab:
    """The same command again, which trains four trials to their end: on a Ray of this process, one at a time.

    `test_executors.py` and `test_cuda_start.py` have two at a time.
    """
    assert not killed.lab.tree.experiment("smoke", "tiny").joinpath("table.md").exists()
    with one_core():
        out, err = killed.lab.here("run", str(killed.lab.file))
    assert "published (not comparable)" in out and "trials to train" in err
    return killed.lab


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory, mlflow_db: Path) -> Lab:
    """The same experiment without Ray, undisturbed."""
    lab = Lab(tmp_path_factory.mktemp("inline") / "lab", experiment=OWN, database=mlflow_db)
    lab.here("run", str(lab.file), "--executor", "inline")
    return lab


def test_a_killed_driver_leaves_no_trial_behind_and_nothing_was_open_to_the_network(killed: Killed) -> None:
    assert len(killed.trials) >= 2, "fork servers and trials are in the family"
    assert {name for name, _ in killed.listening} & {"raylet", "gcs_server"}
    assert {address for _, address in killed.listening} <= {"127.0.0.1", "::1"}, "nothing is open to the network"
    assert not killed.left, "trials must die with the driver at once"
    assert killed.running and not any(killed.running)


def test_the_same_command_goes_on_to_the_numbers_of_an_undisturbed_run_without_ray(resumed: Lab, inline: Lab) -> None:
    found = numbers(resumed.table())
    assert len(found) == 4 and found == numbers(inline.table())
    copies = [trial.file(naming.COMPONENTS_DIR) / "own_components.py" for trial in resumed.tree.trials()]
    assert {copy.read_text() for copy in copies} == {(EXAMPLES / "own_components.py").read_text()}
    assert {run.info.status for run in resumed.mlflow_runs()} == {"FINISHED"}
    needs = [raw_manifest(trial)["spec"].get("needs") for trial in resumed.tree.trials()]
    assert sorted(map(bool, needs)) == [False, True, True, True, True], "the four start from the weights of a fifth"


def test_four_trials_on_ray_a_table_and_a_mirror(resumed: Lab) -> None:
    table = resumed.table()
    assert [row["variant"] for row in table["rows"]] == ["qfl=off dfl=off", "qfl=off dfl=on", "qfl=on dfl=off", "qfl=on dfl=on"]
    for row in table["rows"]:
        assert row["metrics"]["AP"]["n"] == 1 and row["trials"][0]["state"] == "done" and not row["reference"]["comparable"]
    folder = resumed.tree.experiment("smoke", "tiny")
    assert {path.suffix for path in folder.glob("table.*")} == {".json", ".md", ".csv", ".tex", ".html"}

    runs = resumed.mlflow_runs()
    parents = [run for run in runs if run.data.tags[TAG_KIND] == "experiment"]
    children = [run for run in runs if run.data.tags[TAG_KIND] == "trial"]
    assert len(parents) == 1 and len(children) == 4
    for child in children:
        assert child.info.status == "FINISHED" and child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert {TAG_VARIANT, TAG_SEED, TAG_TRIAL, TAG_STATUS} <= child.data.tags.keys()
        assert (
            {"qfl", "dfl", "seed"} <= child.data.params.keys() and "val/AP" in child.data.metrics and "train/loss_cls" in child.data.metrics
        )
        assert child.inputs.dataset_inputs[0].dataset.name == "ambiguous_shapes"


def test_the_same_command_again_trains_nothing_and_says_why(resumed: Lab) -> None:
    before = {trial.id: trial.file("result.json").stat().st_mtime_ns for trial in resumed.tree.trials()}
    out, err = resumed.here("run", str(resumed.file), "--json")
    assert "nothing to train" in err and len(json.loads(out)["rows"]) == 4
    assert before == {trial.id: trial.file("result.json").stat().st_mtime_ns for trial in resumed.tree.trials()}
    assert Counter(run.data.tags[TAG_KIND] for run in resumed.mlflow_runs()) == {"experiment": 1, "trial": 4, "needed": 1}


# --- other runs ---


def stop_with_a_checkpoint(lab: Lab, process: subprocess.Popen[str], number: int, code: int, after: int) -> None:
    """Send the driver, a process of its own, a signal once a trial has done so many steps; see ``stopped_with_a_checkpoint``."""
    lab.wait_for(lambda: any(step >= after for step in lab.steps()))
    # A trial in a process of its own is held until the request has reached its folder: it would come to its end meanwhile.
    leases = [trial.lease() for trial in lab.tree.trials()]
    held = [lease.pid for lease in leases if lease and lease.pid != process.pid]
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    process.send_signal(number)
    if held:
        lab.wait_for((lab.tree.experiment("smoke", "tiny") / naming.STOP_REQUEST).exists)
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    stopped_with_a_checkpoint(lab, err)


def stopped_with_a_checkpoint(lab: Lab, err: str) -> None:
    """Check that the run says how to go on, that a trial has a checkpoint, and that MLflow has no run as running."""
    assert "continue with:  gfl-lab run" in err and "Traceback" not in err
    interrupted = [trial for trial in lab.tree.trials() if trial.state() is TrialState.INTERRUPTED]
    assert interrupted and all(trial.file("last.pth").exists() for trial in interrupted)
    assert not [run for run in lab.mlflow_runs() if run.info.status == "RUNNING"]


def test_a_signal_stops_with_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, mlflow_db: Path) -> None:
    """Of this process; `test_search.py` has both signals for drivers of their own, on Ray and without it."""
    lab = Lab(tmp_path / "lab", epochs=200, database=mlflow_db)

    def interrupt() -> None:
        lab.wait_for(lambda: any(step >= 3 for step in lab.steps()))
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    _, err = lab.here("run", str(lab.file), "--executor", "inline", code=130)
    other.join()
    stopped_with_a_checkpoint(lab, err)


def test_a_trial_that_diverges_fails_with_its_step_and_the_others_go_on(tmp_path: Path, mlflow_db: Path) -> None:
    """Without Ray; `test_executors.py` has one that fails among others for every executor."""
    experiment = "name: smoke\nprofile: tiny\naxes: {lr: [10.0, 0.01]}\noverrides: {optimizer: sgd, warmup_iters: 0, epochs: 6}\n"
    lab = Lab(tmp_path / "lab", experiment=experiment, database=mlflow_db)
    out, err = lab.here("run", str(lab.file), "--seeds", "3", "--executor", "inline", code=3)
    assert "non_finite_loss" in err and "step" in err and "log" in err
    states = {row["variant"]: row["trials"][0]["state"] for row in lab.table()["rows"]}
    assert states == {"lr=0.01": "done", "lr=10": "failed"}


@pytest.mark.parametrize("name", [*CROPS, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in WHOLE if name != "coco_people")])
def test_real_photographs(tmp_path: Path, mlflow_db: Path, name: str) -> None:
    profile = PROFILE.replace("data: {train_images: 16, val_images: 8, size: 128, seed: 0}", "data: required").replace(
        "[128, 128]", "[160, 120]"
    )
    experiment = "name: smoke\nprofile: tiny\naxes: {dfl: [true]}\n"
    lab = Lab(tmp_path / "lab", epochs=1, experiment=experiment, profile=profile, database=mlflow_db)
    lab.here("run", str(lab.file), "--data", str(REAL[name]), "--executor", "inline")
    row = lab.table()["rows"][0]
    assert row["trials"][0]["state"] == "done" and row["metrics"]["AP"]["mean"] >= 0 and "two_mode_recall" not in row["metrics"]


def test_the_papers_setting_on_a_few_coco_images(tmp_path: Path, mlflow_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Profile coco_1x as it is (R50, 800x1333, SGD, weights from a file), but for one epoch of one image, a strip of 1333x250, on the CPU."""
    source = CROPS["coco_crop"]
    import torch
    import torchvision
    from PIL import Image

    monkeypatch.setattr("gfl_lab.inference.latency.WARMUP_IMAGES", 0)  # a forward pass takes seconds
    data, height = tmp_path / "coco", 48
    for name in ("annotations", "images"):
        (data / name).mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((source / f"annotations/instances_{split}.json").read_text())
        kept = [a for a in content["annotations"] if not a["iscrowd"] and a["bbox"][1] + a["bbox"][3] <= height]
        image = next(image for image in content["images"] if image["id"] == kept[0]["image_id"])
        with Image.open(source / "images" / image["file_name"]) as whole:
            whole.crop((0, 0, image["width"], height)).save(data / "images" / image["file_name"])
        kept = [a for a in kept if a["image_id"] == image["id"]]
        content |= {"images": [image | {"height": height}], "annotations": kept}
        (data / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    weights = tmp_path / "r50.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), weights)

    experiment = (
        "name: smoke\nprofile: coco_1x\naxes: {qfl: [true]}\noverrides: {epochs: 1, batch_size: 1}\npublished_table: gfl_t3_qfl_dfl\n"
    )
    lab = Lab(tmp_path / "lab", experiment=experiment, database=mlflow_db)
    lab.here("run", str(lab.file), "--data", str(data), "--init-weights", str(weights), "--executor", "inline", "--cpus", "1")
    trial = lab.tree.trials()[0]
    spec = raw_manifest(trial)["spec"]
    settings = spec["settings"]
    assert (settings["backbone"], settings["image_size"], settings["lr"], settings["optimizer"], settings["strides"]) == (
        "r50",
        [1333, 800],
        0.01,
        "sgd",
        [8, 16, 32, 64, 128],
    )
    assert len(spec["weights_digest"]) == 16 and len(spec["data"]["classes"]) == 80
    assert raw_result(trial)["steps"] == 1 and trial.state() is TrialState.DONE
    assert not lab.table()["rows"][0]["reference"]["comparable"]
    config = trial.file("config.py").read_text()
    for words in ("num_classes=80", "frozen_stages=1", "norm_eval=True", "momentum=0.9", "start_factor=0.001", "milestones="):
        assert words in config, words
