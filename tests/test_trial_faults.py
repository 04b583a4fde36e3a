"""A trial is broken at exact points, in real processes: it ends as the undisturbed one, to the last bit, or fails with its reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import gfl_lab.orchestrate.supervisor as process_module
from gfl_lab import naming
from gfl_lab.data import ambiguous_shapes
from gfl_lab.detector.trial_detector import TrialDetector
from gfl_lab.errors import RETRY, DiskFull, ExitCode, FailureKind, FormatError
from gfl_lab.integrity.trial_check import damage
from gfl_lab.orchestrate.executor import run_jobs
from gfl_lab.orchestrate.inline import InlineExecutor
from gfl_lab.orchestrate.supervisor import MAX_LOST, Job, TrialProcess
from gfl_lab.records.accumulation import Accumulation
from gfl_lab.records.files import read_json, write_json
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.setup import components
from gfl_lab.train.trial import run_trial
from tests.support.cli import runner
from tests.support.faulty_trial import POINTS, fill
from tests.support.raw import raw_manifest, raw_result
from tests.test_components import write
from tests.test_train import TINY, assert_same, make_trial

ROOT = Path(__file__).parents[1]
FAULTS = "tests.support.faulty_trial"
SMALLEST = TINY | {"ema_decay": 0.4}
"""Two epochs of two steps, 20 images; with a second set of weights in the checkpoint."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=20, val_images=8), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def server() -> Iterator[TrialProcess]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    process = TrialProcess(FAULTS)
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    yield process
    process.close()


@pytest.fixture(scope="module")
def calm(server: TrialProcess, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialDir:
    """The undisturbed trial."""
    trial = make_trial(tmp_path_factory.mktemp("calm"), shapes, **SMALLEST)
    assert server.run(job(trial, "killed", at=[])) is TrialState.DONE
    return trial


def job(trial: TrialDir, fault: str, **kwargs: object) -> Job:
    return Job(str(trial.path), f"{FAULTS}:{fault}", FAULTS, kwargs)


def log(trial: TrialDir) -> str:
    return trial.file(naming.LOG).read_text()


# --- kill -9 ---


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_trial_goes_on_and_ends_bitwise_the_same(
    server: TrialProcess, calm: TrialDir, shapes: Path, tmp_path: Path, point: str
) -> None:
    trial = make_trial(tmp_path, shapes, **SMALLEST)
    assert server.run(job(trial, "killed", at=[point])) is TrialState.DONE
    assert "killed by SIGKILL" in log(trial), "the fault must have struck"
    assert_same(trial, calm)
    assert not [path.name for path in trial.path.iterdir() if path.name.startswith(".") or path.suffix in (".tmp", ".damaged")]
    assert not trial.file(naming.PREVIOUS_CHECKPOINT).exists() and not trial.file(naming.LEASE).exists()


@pytest.mark.slow
def test_a_trial_killed_ten_times_on_its_way_still_ends(server: TrialProcess, shapes: Path, tmp_path: Path) -> None:
    calm, trial = (make_trial(tmp_path / name, shapes, **SMALLEST | {"epochs": 5}) for name in ("calm", "disturbed"))
    assert server.run(job(calm, "killed", at=[])) is TrialState.DONE
    assert server.run(job(trial, "killed", at=[f"step {step}" for step in range(1, 11)])) is TrialState.DONE
    assert log(trial).count("killed by SIGKILL") == 10 > MAX_LOST
    assert_same(trial, calm)


def test_a_trial_that_always_dies_at_one_place_fails_with_the_reason(server: TrialProcess, shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes, **SMALLEST)
    assert server.run(job(trial, "always_dies", step=4)) is TrialState.FAILED
    failure = raw_result(trial)["failure"]
    assert (failure["kind"], failure["step"], failure["epoch"]) == ("lost_process", 3, 2)
    assert "SIGKILL after step 3" in failure["reason"] and f"{MAX_LOST + 1} times without getting further" in failure["reason"]
    assert len((trial.path / "attempts").read_text().split()) == MAX_LOST + 1
    assert not trial.file(naming.LEASE).exists()


FASTER_RCNN = {
    "detector": "mmdet:faster-rcnn_r50_fpn_1x_coco", "cfg_options": {"model.backbone.depth": 18}, "precision": "bfloat16", "ema_decay": 0.9,
}  # fmt: skip
"""A detector of two stages, whose proposals and samples are drawn at random."""


@pytest.mark.slow
def test_an_mmdet_detector_goes_on_bitwise_the_same_after_a_kill_and_in_parts_after_want_of_memory(
    server: TrialProcess, shapes: Path, tmp_path: Path
) -> None:
    calm, killed, small = (make_trial(tmp_path / name, shapes, **SMALLEST | FASTER_RCNN) for name in ("calm", "killed", "small"))
    assert server.run(job(calm, "killed", at=[])) is TrialState.DONE
    assert server.run(job(killed, "killed", at=["step 3"])) is TrialState.DONE
    assert "killed by SIGKILL" in log(killed)
    assert_same(killed, calm)
    assert server.run(job(small, "little_memory", images=3, from_step=3)) is TrialState.DONE
    assert raw_result(small)["accumulation"] == {"parts": 4, "since_step": 2}
    found = pq.read_table(calm.file(naming.DISTRIBUTIONS))
    assert found.num_rows and set(found["bins"].to_pylist()) == {0}, "boxes and detections are there, distributions are not"
    assert not calm.file(naming.HISTORY).exists() and damage(calm) == []


# --- out of memory ---


def train_lines(trial: TrialDir) -> list[dict[str, float]]:
    return [line.metrics for line in trial.metric_lines() if line.kind == "train"]


def test_out_of_memory_the_same_batch_in_parts_also_after_a_kill(
    server: TrialProcess, calm: TrialDir, shapes: Path, tmp_path: Path
) -> None:
    whole, killed = (make_trial(tmp_path / name, shapes, **SMALLEST) for name in ("whole", "killed"))
    assert server.run(job(whole, "little_memory", images=3, from_step=3)) is TrialState.DONE
    assert server.run(job(killed, "little_memory", images=3, from_step=3, die_at=4)) is TrialState.DONE
    assert "killed by SIGKILL" in log(killed)
    for trial in (whole, killed):
        assert raw_result(trial)["accumulation"] == {"parts": 4, "since_step": 2}, "2 parts of 5 images are still too large"
        assert "done in 2 parts" in log(trial) and "each batch of 10 in 4 parts" in log(trial) and "OutOfMemoryError" in log(trial)
    assert_same(killed, whole)
    assert len(train_lines(whole)) == len(train_lines(calm)) == 4 and raw_result(whole)["steps"] == 4
    assert [line["lr"] for line in train_lines(whole)] == [line["lr"] for line in train_lines(calm)]
    assert train_lines(whole)[:2] == train_lines(calm)[:2], "before, nothing is split"
    assert train_lines(whole)[2] != train_lines(calm)[2]
    assert train_lines(whole)[2]["loss_cls"] == pytest.approx(train_lines(calm)[2]["loss_cls"], rel=0.1)
    assert "accumulation" not in raw_result(calm)


def test_out_of_memory_with_single_images_is_a_failure(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inline executor has the same policy."""
    trial = make_trial(tmp_path, shapes, **SMALLEST | {"batch_size": 3})

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(TrialDetector, "loss", full)
    assert run_jobs(InlineExecutor(lambda: False), [Job(str(trial.path), "gfl_lab.train.trial:run_trial", "gfl_lab.train.trial", {})]) == []
    result = raw_result(trial)
    assert (result["failure"]["kind"], result["failure"]["step"]) == ("out_of_memory", 1)
    assert result["accumulation"] == {"parts": 3, "since_step": 0} and "cannot be split further" in log(trial)


def test_parts_have_the_gradient_of_the_whole(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a loss that is a mean over images; 10 images in 3 parts of 4, 3 and 3. Batch norms keep their statistics."""

    def plain(self: TrialDetector, inputs: torch.Tensor, samples: list) -> dict[str, torch.Tensor]:
        assert len(inputs) == len(samples)
        return {"loss_cls": torch.stack([level.square().mean((1, 2, 3)) for level in self.extract_feat(inputs)]).sum(0).mean()}

    monkeypatch.setattr(TrialDetector, "loss", plain)
    still = SMALLEST | {"norm_eval": True, "frozen_stages": 1, "epochs": 1}
    whole, parts = (make_trial(tmp_path / name, shapes, **still) for name in ("whole", "parts"))
    parts.write_accumulation(Accumulation(3))
    for trial in (whole, parts):
        run_trial(trial.path)
    for one, other in zip(train_lines(whole), train_lines(parts), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert train_lines(whole)[0]["loss"] != train_lines(whole)[1]["loss"], "the first step has changed something"


def test_a_process_that_the_kernel_killed_for_memory_ran_out_of_memory(
    server: TrialProcess, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(tmp_path, shapes, **SMALLEST | {"epochs": 1})
    counts = iter([0, 1, 1, 1])
    monkeypatch.setattr(process_module, "oom_kills", lambda: next(counts))
    assert server.run(job(trial, "killed", at=["step 2"])) is TrialState.DONE
    assert raw_result(trial)["accumulation"] == {"parts": 2, "since_step": 0}
    assert "the kernel had run out of memory" in log(trial)


def test_a_counter_of_kills_is_found_here() -> None:
    assert process_module.oom_kills() >= 0
    assert process_module._counter(Path("/proc/self/limits"), "oom_kill") == 0


# --- disk full ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("when", ["line", "checkpoint", "outcome"])
def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room(
    server: TrialProcess, calm: TrialDir, shapes: Path, small_disk: Path, when: str
) -> None:
    trial = make_trial(small_disk, shapes, **SMALLEST)
    assert server.run(job(trial, "disk_fills", when=when)) is TrialState.FAILED
    failure = raw_result(trial)["failure"]
    assert failure["kind"] == "disk_full" and "bytes are free" in failure["reason"] and str(trial.path) in failure["reason"], failure
    assert failure["step"] == {"line": 1, "checkpoint": 2, "outcome": 0}[when], "0: the process could not tell, its supervisor did"
    assert "DiskFull" in log(trial) or "Traceback" in log(trial) or when == "outcome"
    assert not trial.file(naming.LEASE).exists() and not list(trial.path.glob(".*"))
    (trial.path.parent / "filler").unlink()
    assert server.run(job(trial, "disk_fills", when=when)) is TrialState.DONE
    assert_same(trial, calm)


def test_a_disk_without_room_for_a_single_word(server: TrialProcess, calm: TrialDir, shapes: Path, small_disk: Path) -> None:
    trial = make_trial(small_disk, shapes, **SMALLEST)
    filler = small_disk / "filler"
    fill(filler)
    with pytest.raises(DiskFull, match=rf"trial {trial.id}: .*no space left on the disk of {trial.path}, \d+ bytes are free"):
        server.run(job(trial, "killed", at=[]))
    with pytest.raises(DiskFull, match=f"trial {trial.id}: no space left on the disk"):
        run_trial(trial.path)
    assert not trial.file(naming.LEASE).exists() and raw_result(trial) is None
    filler.unlink()
    assert server.run(job(trial, "killed", at=[])) is TrialState.DONE
    assert_same(trial, calm)


# --- data, users' code ---


@pytest.mark.parametrize(
    ("what", "workers", "words"),
    [("images", 0, "cannot be read"), ("images", 1, "cannot be read"), ("annotations", 0, "instances_val.json")],
)
def test_data_that_vanish_are_told(server: TrialProcess, shapes: Path, tmp_path: Path, what: str, workers: int, words: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    trial = make_trial(tmp_path, data, **SMALLEST)
    assert server.run(job(trial, "data_vanish", what=what, loader_workers=workers)) is TrialState.FAILED
    failure = raw_result(trial)["failure"]
    assert failure["kind"] == "bad_data" and words in failure["reason"] and len(failure["reason"].splitlines()) == 1, failure
    assert (failure["step"] > 0) == (what == "images") and "Traceback" in log(trial)


BUG = """
from mmdet.registry import MODELS
from torch import nn

@MODELS.register_module()
class OwnLoss(nn.Module):
    calls = 0

    def forward(self, boxes, targets, weight, avg_factor):
        OwnLoss.calls += 1
        if OwnLoss.calls > 4:
            return [].pop()
        return ((boxes - targets).abs().mean(1) * weight).sum() / avg_factor
"""


def test_a_bug_in_a_users_loss_is_told_with_its_line_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    path = write(
        tmp_path, "axes: {box_loss: [OwnLoss, giou]}\noverrides: {image_size: [128, 128], strides: [8, 16, 32], epochs: 4}\n", own=BUG
    )
    try:
        code, _, err = runner(monkeypatch, capsys)("run", path, "--executor", "inline")
    finally:
        components.load([])
    assert code == ExitCode.TRIALS_FAILED, err
    failed, done = sorted(RunTree(tmp_path / "runs").trials(), key=lambda trial: trial.state() is TrialState.DONE)
    assert (failed.state(), done.state()) == (TrialState.FAILED, TrialState.DONE)
    failure = raw_result(failed)["failure"]
    assert failure["kind"] == "error" and failure["reason"] == "IndexError: pop from empty list (own.py:12)" and failure["step"] > 0
    assert f"error at step {failure['step']} (epoch {failure['epoch']}): IndexError" in err and str(failed.file(naming.LOG)) in err
    assert "Traceback" in log(failed) and "own.py" in log(failed)


# --- run directories of elsewhere ---


def test_a_manifest_that_is_torn_missing_old_or_of_another_trial_is_refused(shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes, **SMALLEST)
    path = trial.file(naming.MANIFEST)
    good = read_json(path)
    spec = good["spec"]
    for content, words in (
        (json.dumps(good)[:200], "cannot be read"),
        (json.dumps(good | {"format": 0}), "has format 0; this gfl-lab reads format 1"),
        (json.dumps(good | {"spec": spec | {"seed": 7}}), "another trial's"),
        (json.dumps(good | {"spec": spec | {"settings": spec["settings"] | {"gone": 1}}}), "settings.gone"),
        (json.dumps({key: value for key, value in good.items() if key != "paths"}), "has no paths of the data"),
        (None, "does not exist"),
    ):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        run_trial(trial.path)
        failure = raw_result(trial)["failure"]
        assert failure["kind"] == "error" and words in failure["reason"] and naming.MANIFEST in failure["reason"], failure


def test_a_result_of_another_format_is_not_written_over(server: TrialProcess, shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes, **SMALLEST)
    for version in (0, 2):
        write_json(trial.file(naming.RESULT), {"format": version, "status": "done"})
        before = trial.file(naming.RESULT).read_bytes()
        with pytest.raises(FormatError, match=f"has format {version}"):
            run_trial(trial.path)
        with pytest.raises(FormatError, match=f"has format {version}"):
            server.run(job(trial, "killed", at=[]))
        assert trial.file(naming.RESULT).read_bytes() == before and not trial.file(naming.LEASE).exists()


def test_a_run_directory_from_another_machine_goes_on_here(server: TrialProcess, calm: TrialDir, shapes: Path, tmp_path: Path) -> None:
    """Stopped there, copied with the lease of a process there, and planned again here, over the data's folder of here."""
    trial = make_trial(tmp_path / "there", shapes, **SMALLEST)
    with pytest.raises(Exception, match="stopped as asked"):
        asked = iter(range(9))
        run_trial(trial.path, should_stop=lambda: next(asked) >= 2)
    write_json(trial.file(naming.LEASE), {"format": 1, "pid": 1, "start": 1, "host": "elsewhere", "since": 0.0})
    os.utime(trial.file(naming.LEASE), (0, 0))
    manifest = raw_manifest(trial)
    write_json(trial.file(naming.MANIFEST), manifest | {"paths": {key: f"/nowhere{path}" for key, path in manifest["paths"].items()}})
    here = TrialDir(tmp_path / "here" / trial.id)
    shutil.copytree(trial.path, here.path)

    assert here.state() is TrialState.INTERRUPTED
    assert server.run(job(here, "killed", at=[])) is TrialState.FAILED
    assert raw_result(here)["failure"]["kind"] == "bad_data" and "instances_val.json" in raw_result(here)["failure"]["reason"]
    write_json(here.file(naming.MANIFEST), manifest)  # as `gfl-lab run` does for each trial that it starts
    assert server.run(job(here, "killed", at=[])) is TrialState.DONE
    assert "continues after step 2" in log(here)
    assert_same(here, calm)


# --- documents ---


def test_every_kind_and_its_retry_stand_in_the_documents() -> None:
    text = (ROOT / "docs/failures.md").read_text()
    table = text[: text.index("\n## ")]
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    assert rows.keys() == {str(kind) for kind in FailureKind} == {str(kind) for kind in RETRY}
    for kind, retry in RETRY.items():
        assert f"| {retry} |" in rows[kind], kind
