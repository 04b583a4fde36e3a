"""However a trial starts, CUDA can be initialised in it if it has a GPU, and it sees none otherwise. Tested without a GPU.

`tests/support/cuda_trial.py` notes what a process is when a trial begins in it, in place of training.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfl_lab.orchestrate.stop_limit import StopLimit
from gfl_lab.orchestrate.supervisor import Job, TrialProcess
from gfl_lab.rundir import RunTree
from tests.support.cli import Cli, runner
from tests.support.cuda_trial import UUIDS, starts
from tests.support.raw import raw_manifest
from tests.support.unchecked import skip_checks

ROOT = Path(__file__).parents[1]
TRIAL = "tests.support.cuda_trial"
NEVER = StopLimit(lambda: False, 0.0)
"""Of work that nobody asks to stop."""

PROFILE = """
name: fake
title: no training
data: {train_images: 8, val_images: 8, size: 128, seed: 0}
resources: {cpus: 1, gpus: 1}
settings: {backbone: r18, base_channels: 8, epochs: 2}
"""
ABLATION = "name: grid\nprofile: fake\naxes: {dfl: [false, true]}\nseeds: [0, 1]\ntable: {metrics: [AP]}\n"
SEARCH = "name: find\nkind: search\nprofile: fake\nsearch: {space: {lr: {low: 0.001, high: 0.1}}, trials: 2, scheduler: none}\n"
DRIVER = f"""
from gfl_lab.cli import main
from gfl_lab.session import entries, session
from tests.support.unchecked import skip_checks
skip_checks()
entries.TRIAL_ENTRY = "{TRIAL}:record"
class NoMirror:
    def finish(self, _timeout=0):
        return True
session.start_mirror = lambda *_: NoMirror()
main.main()
"""


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two GPUs, as `nvidia-smi` lists them, and an experiment on it; the folder."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n" + "".join(f'echo "{index}, {uuid}, 81920, NVIDIA H100"\n' for index, uuid in enumerate(UUIDS)))
    tool.chmod(0o755)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "fake.yaml").write_text(PROFILE)
    (tmp_path / "grid.yaml").write_text(ABLATION)
    (tmp_path / "find.yaml").write_text(SEARCH)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    for name in ("CUDA_VISIBLE_DEVICES", "MLFLOW_TRACKING_URI", "PRETEND_NVML", "PYTORCH_NVML_BASED_CUDA_CHECK"):
        monkeypatch.setenv(name, "")  # so that it is put back after what the command sets
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def cli(pretend: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    monkeypatch.setattr("gfl_lab.session.entries.TRIAL_ENTRY", f"{TRIAL}:record")
    skip_checks(monkeypatch.setattr)
    monkeypatch.setattr("gfl_lab.session.entries.WARM_UP_ENTRY", f"{TRIAL}:warm_up")
    monkeypatch.setattr("gfl_lab.session.session.start_mirror", lambda *_: type("NoMirror", (), {"finish": lambda *_: True})())
    return runner(monkeypatch, capsys)


def answer_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have NVML tell torch of two GPUs, and torch ask it."""
    monkeypatch.setenv("PRETEND_NVML", "1")
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def on_ray(folder: Path, trials: int, experiment: str, *arguments: str, **environment: str) -> tuple[list[dict], str]:
    """Return the notes of so many trials of ``gfl-lab run`` on Ray, in the order in which they began, and what the command said."""
    command = [sys.executable, "-c", DRIVER, "run", experiment, *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr + done.stdout
    found = sorted(starts(folder / "runs"), key=lambda start: start["began"])
    assert len(found) == len({start["pid"] for start in found}) == trials, "each trial has a process of its own"
    assert not any(start["bad_fork"] for start in found)
    return found, done.stderr


@pytest.mark.parametrize("nvml", [False, True], ids=["", "NVML answers"])
@pytest.mark.parametrize("how", ["a GPU", "no GPU"])
def test_a_trial_that_has_a_gpu_can_use_it_and_another_sees_none(
    pretend: Path, monkeypatch: pytest.MonkeyPatch, how: str, nvml: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    if nvml:
        answer_nvml(monkeypatch)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(contextlib.closing(TrialProcess("" if how == "a GPU" else TRIAL)))
        trial = pretend / "0123456789ab"
        trial.mkdir()
        process.run(Job(str(trial), f"{TRIAL}:record", "", {}))
    (start,) = starts(trial)
    assert not start["bad_fork"]
    assert start["visible"] == ("1" if how == "a GPU" else "")
    assert start["device"] == ("cuda" if nvml and how == "a GPU" else "cpu")


@pytest.mark.parametrize("nvml", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["", "NVML answers"])
def test_each_process_of_a_trial_can_use_its_gpu(pretend: Path, monkeypatch: pytest.MonkeyPatch, nvml: bool) -> None:
    """The processes do not meet if NVML answers: torch then believes in GPUs that do not work."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(UUIDS))
    if nvml:
        answer_nvml(monkeypatch)
    with contextlib.closing(TrialProcess("")) as process:
        code = process._once(Job(str(pretend), f"{TRIAL}:record_team", "", {"size": 2}), NEVER)
    found = starts(pretend)
    assert code == 0 or nvml
    assert len({start["pid"] for start in found}) == 2 and not any(start["bad_fork"] for start in found)
    assert [start["visible"] for start in found] == [",".join(UUIDS)] * 2


@pytest.mark.slow
def test_ray_gives_each_of_two_trials_a_gpu(pretend: Path) -> None:
    """An ablation, and GPUs of which nobody spoke; the test of packing below has one that the user named."""
    found, said = on_ray(pretend, 4, "grid.yaml", TOGETHER="2")
    assert "2 at once, each on 1 core and 1 GPU" in said
    assert {start["visible"] for start in found[:2]} == {"0", "1"} == {start["visible"] for start in found}


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("visible", ["MIG-aaaa,MIG-bbbb", "1,0"])
def test_a_search_on_ray_has_the_gpus_that_the_user_named(pretend: Path, visible: str) -> None:
    found, _ = on_ray(pretend, 2, "find.yaml", TOGETHER="2", CUDA_VISIBLE_DEVICES=visible)
    assert {start["visible"] for start in found} == set(visible.split(","))


@pytest.mark.slow
def test_trials_are_packed_on_a_gpu_by_what_a_warm_up_measured_there(pretend: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times 20,000 MiB and a quarter fit into 80 GiB; this test has cores for two."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS[1])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    profile = pretend / "profiles" / "fake.yaml"
    profile.write_text(PROFILE.replace("gpus: 1", "gpus: 1, gpu_packing: true"))
    code, _, err = cli("plan", pretend / "grid.yaml", "--measure")
    assert code == 0, err
    warm_ups = starts(pretend / "notes")
    assert len({start["pid"] for start in warm_ups}) == 2, "two models"
    assert [(start["bad_fork"], start["visible"]) for start in warm_ups] == [(False, UUIDS[1])] * 2
    found, said = on_ray(pretend, 2, "grid.yaml", "--seeds", "0", TOGETHER="2")
    assert "2 at once, each on 1 core and 0.3333 GPU" in said
    assert [start["visible"] for start in found] == [UUIDS[1]] * 2


def test_a_warm_up_without_a_gpu_sees_none(pretend: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_nvml(monkeypatch)
    (pretend / "profiles" / "fake.yaml").write_text(PROFILE.replace("gpus: 1", "gpus: 0"))
    code, _, err = cli("plan", pretend / "grid.yaml", "--measure")
    assert code == 0, err
    found = starts(pretend / "notes")
    assert found and {(start["bad_fork"], start["visible"], start["device"]) for start in found} == {(False, "", "cpu")}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_ray_leaves_the_gpus_of_the_machine_alone_for_trials_without_one(pretend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_nvml(monkeypatch)
    found, _ = on_ray(pretend, 4, "grid.yaml", "--gpus", "0")
    assert {(start["visible"], start["device"]) for start in found} == {("", "cpu")}


@pytest.mark.parametrize(("experiment", "trials"), [("grid.yaml", 4), ("find.yaml", 2)])
@pytest.mark.parametrize("gpus", ["1", "0"])
def test_inline_the_process_itself_has_the_gpu_or_sees_none(pretend: Path, cli: Cli, experiment: str, trials: int, gpus: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    code, _, err = cli("run", pretend / experiment, "--executor", "inline", "--gpus", gpus)
    assert code == 0, err
    found = starts(pretend / "runs")
    assert [start["pid"] for start in found] == [os.getpid()] * trials and not any(start["bad_fork"] for start in found)
    assert {start["visible"] for start in found} == {"1" if gpus == "1" else ""}


@pytest.mark.parametrize(("device", "visible"), [("cpu", ""), ("cuda:0 NVIDIA H100", "1")])
def test_a_trial_is_reproduced_on_the_device_that_it_was_trained_on(
    pretend: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, device: str, visible: str
) -> None:
    monkeypatch.setenv("PRETEND_DEVICE", device)
    assert cli("run", pretend / "grid.yaml", "--executor", "inline", "--seeds", "0")[0] == 0
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    trial = next(iter(RunTree(pretend / "runs").trials()))
    code, _, err = cli("reproduce", trial.id, "--keep", pretend / "again")
    assert code == 4 and "train" not in err.lower().replace("trained", ""), err  # there are no detections to compare
    (start,) = starts(pretend / "again")
    assert start["visible"] == visible and not start["bad_fork"]


def test_loader_processes_ask_nothing_of_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are forked from a process that may have used a GPU: in them any question would be an error."""
    import torch
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    from gfl_lab.data import ambiguous_shapes
    from gfl_lab.setup.config import trial_config
    from gfl_lab.spec.trial import TrialSpec
    from tests.test_train import make_trial

    data = ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=8, val_images=4), tmp_path / "data")
    trial = make_trial(tmp_path / "runs", data, batch_size=2)
    manifest = raw_manifest(trial)
    init_default_scope("mmdet")
    config = trial_config(TrialSpec.model_validate(manifest["spec"]), manifest["paths"], str(trial.path), loader_workers=2)
    parent = os.getpid()

    def refuse(*_: object) -> None:
        if os.getpid() != parent:
            (tmp_path / "asked").touch()
            raise AssertionError("a loader process asks for CUDA")

    for name in ("_lazy_init", "is_available", "device_count", "current_device"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    for part in (config.train_dataloader, config.val_loader):
        loader = Runner.build_dataloader(part, seed=0)
        batches = list(loader)
        assert loader.num_workers == 2 and not loader.pin_memory, "the trial pins what it copies, in its own process"
        assert batches and not any(image.is_cuda or image.is_pinned() for batch in batches for image in batch["inputs"])
    assert not (tmp_path / "asked").exists()
