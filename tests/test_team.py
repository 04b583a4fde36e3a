"""A trial in several processes (gloo, CPU): the same training as in one, nothing left behind, and failures told by their cause."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from gfl_lab import naming
from gfl_lab.data import ambiguous_shapes
from gfl_lab.orchestrate.stop_limit import StopLimit
from gfl_lab.orchestrate.supervisor import Job, TrialProcess
from gfl_lab.records.files import read_json
from gfl_lab.rundir import TrialDir, TrialState
from tests.support.processes import alive, kill
from tests.support.raw import raw_result
from tests.support.team_work import BATCHES, branch_gradients
from tests.support.waiting import holds_within
from tests.test_run import Lab
from tests.test_train import make_trial, weights

WORK = "tests.support.team_work"
TRIAL = "gfl_lab.train.trial"
NEVER = StopLimit(lambda: False, 0.0)
"""Of work that nobody asks to stop."""


@pytest.fixture(scope="module")
def server() -> TrialProcess:
    """A fork server with torch and mmdet in it."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    process = TrialProcess(TRIAL)
    yield process
    process.close()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=21, val_images=8), tmp_path_factory.mktemp("data"))


def forking(path: Path, entry: str, **kwargs: object) -> Job:
    """A job whose further processes are forks of its first one.

    Each is a fresh interpreter otherwise, which imports torch and mmdet for 5 to 8 s: `branches` and `--gpus 2` below start those.
    """
    return Job(str(path), f"{WORK}:forking", TRIAL, {"of": entry, **kwargs})


def gone(pids: list[int]) -> bool:
    return holds_within(lambda: not any(alive(pid) for pid in pids), 10)


def agreed(folder: Path, size: int) -> list[int]:
    """Check what the processes of a group learned from each other; return their ids."""
    ranks = [read_json(folder / f"rank{rank}.json") for rank in range(size)]
    assert [rank["is_main"] for rank in ranks] == [True, *[False] * (size - 1)]
    assert all(rank["flag"] == [True, False] and rank["mean"] == (size - 1) / 2 for rank in ranks)
    assert not any(rank["bad_fork"] for rank in ranks), "each could use its GPU"
    pids = [rank["pid"] for rank in ranks]
    assert len({*pids}) == size
    return pids


@pytest.fixture(scope="module")
def branches(server: TrialProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a group of two processes has written."""
    folder = tmp_path_factory.mktemp("branches")
    server._once(Job(str(folder), f"{WORK}:branches", TRIAL, {"size": 2}), NEVER)
    return folder


def test_processes_agree_and_leave(branches: Path) -> None:
    pids = agreed(branches, 2)
    assert read_json(branches / "returned.json") == {"size": 2, "pid": pids[0]}, "only the first process goes on after the work"
    assert gone(pids)


@pytest.mark.parametrize(("how", "kind", "words"), [("killed", "lost_process", "was killed"), ("raised", "out_of_memory", "no room")])
def test_three_processes_agree_and_the_first_tells_what_befell_another(
    server: TrialProcess, tmp_path: Path, how: str, kind: str, words: str
) -> None:
    server._once(forking(tmp_path, f"{WORK}:go_wrong", size=3, how=how), NEVER)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told[0] == kind and words in told[1] and "process 2 of 3" in told[1]
    assert gone(agreed(tmp_path, 3))


def test_one_that_never_comes_to_the_others_is_noticed(server: TrialProcess, tmp_path: Path) -> None:
    code = server._once(Job(str(tmp_path), f"{WORK}:go_wrong_and_be_ended", TRIAL, {"size": 2}), NEVER)
    assert code == -signal.SIGKILL
    assert json.loads((tmp_path / "told.json").read_text()) == ["lost_process", "process 1 of 2 ended with exit code 1"]
    assert "ImportError: it cannot be imported" in (tmp_path / naming.LOG).read_text()


@pytest.mark.parametrize("batches", list(BATCHES))
@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_are_means_also_of_a_branch_that_one_process_uses(branch_records: list[dict[str, Any]], batches: str, steps: int) -> None:
    alone = [branch_gradients(torch.tensor(images), steps) for images in BATCHES[batches]]
    ours, theirs = (record[f"{batches}, {steps}"] for record in branch_records)
    assert ours == theirs
    for layer in range(2):
        parts = [torch.tensor([0.0, 0.0] if gradients[layer] is None else gradients[layer]) for gradients, _ in alone]
        mean = None if batches == "first part" and layer == 1 and steps == 1 else (sum(parts) / 2).tolist()
        assert ours[0][layer] == (pytest.approx(mean) if mean else None)
    assert ours[0][2] is None, "what no process uses has no gradient, so that no decay changes it"
    assert ours[1] == pytest.approx(sum(loss for _, loss in alone) / 2)


@pytest.fixture(scope="module")
def branch_records(branches: Path) -> list[dict[str, Any]]:
    return [read_json(branches / f"gradients{rank}.json") for rank in range(2)]


STILL = {"norm_eval": True, "frozen_stages": 4}
"""No batch statistics, which are of a process' own part of the batch on a CPU."""


def losses(trial: TrialDir) -> list[dict[str, float]]:
    return [line.metrics for line in trial.metric_lines() if line.kind == "train"]


def run(server: TrialProcess, trial: TrialDir, processes: int) -> TrialState:
    return server.run(forking(trial.path, f"{TRIAL}:run_trial", processes=processes))


ATSS = {
    "detector": "mmdet:atss_r50_fpn_1x_coco",
    "cfg_options": {
        "model.backbone.depth": 18, "model.backbone.base_channels": 16, "model.backbone.norm_eval": True, "model.backbone.frozen_stages": 4,
        "model.neck.in_channels": [16, 32, 64, 128], "model.neck.out_channels": 64, "model.bbox_head.in_channels": 64,
        "model.bbox_head.feat_channels": 64,
    },
}  # fmt: skip
OWN_RECIPE = {
    "detector": "mmdet:atss_r50_fpn_1x_coco",
    "recipe": "config",
    "cfg_options": {
        "model.backbone.depth": 18, "model.backbone.base_channels": 16, "model.backbone.frozen_stages": 4, "model.neck.in_channels": [16, 32, 64, 128],
        "model.neck.out_channels": 64, "model.bbox_head.in_channels": 64, "model.bbox_head.feat_channels": 64, "train_cfg.max_epochs": 1, "auto_scale_lr.base_batch_size": 4,
        "train_pipeline.2.scale": [128, 128], "test_pipeline.1.scale": [128, 128],
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("settings", [STILL, ATSS, OWN_RECIPE], ids=["gfl", "atss of mmdet", "atss by its own recipe"])
def test_two_processes_train_what_one_does(server: TrialProcess, shapes: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    one, two = make_trial(tmp_path / "one", shapes, **settings), make_trial(tmp_path / "two", shapes, **settings)
    assert one.id == two.id, "how many processes is no part of what a trial computes"
    assert run(server, one, 1) is TrialState.DONE and run(server, two, 2) is TrialState.DONE
    assert raw_result(two)["processes"] == 2 and raw_result(one)["processes"] == 1
    assert [line.keys() for line in losses(one)] == [line.keys() for line in losses(two)] and len(losses(one)) == 6
    for ours, theirs in zip(losses(two), losses(one), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3)
    first, second = weights(two), weights(one)
    assert first.keys() == second.keys(), "a checkpoint does not say how many processes wrote it"
    for key, value in second.items():
        torch.testing.assert_close(first[key], value, rtol=0, atol=5e-3, msg=lambda text, key=key: f"{key}: {text}")
    assert raw_result(two)["metrics"]["AP"] == pytest.approx(raw_result(one)["metrics"]["AP"], abs=2.0)


@pytest.mark.slow
def test_a_killed_process_of_two_and_the_trial_ends_bitwise_the_same(server: TrialProcess, shapes: Path, tmp_path: Path) -> None:
    calm, disturbed = make_trial(tmp_path / "calm", shapes), make_trial(tmp_path / "disturbed", shapes)
    assert run(server, calm, 2) is TrialState.DONE

    killed: list[int] = []

    def kill_the_second() -> None:
        end = time.time() + 60
        while time.time() < end and not killed:
            if len(disturbed.metric_lines()) >= 4 and (lease := disturbed.lease()):
                children = psutil.Process(lease.pid).children()
                kill(children)
                killed.extend(child.pid for child in children)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_the_second)
    killer.start()
    assert run(server, disturbed, 2) is TrialState.DONE
    killer.join()
    assert killed and gone(killed)
    assert losses(disturbed) == losses(calm)
    ours, theirs = weights(disturbed), weights(calm)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert "process" in disturbed.file(naming.LOG).read_text()


@pytest.mark.slow
def test_two_gpus_of_a_run_are_two_processes_under_one_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_db: Path) -> None:
    """`--gpus 2` on a machine that claims to have two; torch finds none, so gloo stands in for NCCL."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "0, GPU-a, 81920, NVIDIA H100"\necho "1, GPU-b, 81920, NVIDIA H100"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lab = Lab(tmp_path / "lab", experiment="name: smoke\nprofile: tiny\naxes: {dfl: [true]}\ntable: {metrics: [AP]}\n", database=mlflow_db)
    out, err = lab.here("run", str(lab.file), "--gpus", "1.5", code=6)
    assert "1.5" in err and "whole" in err and not lab.tree.experiments() and not lab.tree.trials()
    out, err = lab.here("run", str(lab.file), "--gpus", "2", "--executor", "inline", code=2)
    assert "--executor inline" in err and not lab.tree.experiments() and not lab.tree.trials()
    out, err = lab.here("run", str(lab.file), "--gpus", "2")
    assert "1 at once, each on 1 core and 2 GPU" in err
    (trial,) = lab.tree.trials()
    assert raw_result(trial)["processes"] == 2
    assert "in each of 2 processes" in trial.file(naming.LOG).read_text()
    assert [row["metrics"]["AP"]["n"] for row in lab.table()["rows"]] == [1]
