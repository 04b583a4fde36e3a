"""Estimates and what they rest on, packing, budgets: from made-up trials, a fake nvidia-smi, and a real warm-up."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from gfl_lab import naming
from gfl_lab.errors import InputError, ResourceError
from gfl_lab.orchestrate import budget as budgets
from gfl_lab.orchestrate import resources
from gfl_lab.orchestrate.budget import Budget, Meter, last_resources, spent
from gfl_lab.orchestrate.cost import Timings, estimates
from gfl_lab.orchestrate.expected import HINT, HISTORY, NOTHING, WARM_UP, Estimate, cost_of, rests_on, wall_seconds
from gfl_lab.orchestrate.measure import WarmUp, measure
from gfl_lab.orchestrate.resources import Machine, Peak, TrialResources, trial_resources
from gfl_lab.plan.plan import build_plan
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.metric_lines import write_metric_lines
from gfl_lab.rundir import RunTree
from gfl_lab.session import entries
from gfl_lab.spec.file_models import Resources
from gfl_lab.spec.files import load_experiment, load_profile
from gfl_lab.spec.trial import DataSpec
from gfl_lab.train import warmup
from tests.support import short_warmup
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree
from tests.support.raw import raw_result
from tests.test_run import one_core

ROOT = Path(__file__).parents[1]
TABLE3 = ROOT / "experiments" / "table3_qfl_dfl.yaml"


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    """Four finished trials: 96 steps of 0.4 s, eight evaluations of 10 images in 2.1 s, 5.3 s besides, on one core."""
    tree = write_fake_tree(tmp_path / "runs")
    for trial in tree.trials():
        trial.file(naming.LOG).write_text(f"2026-11-21T12:00:00+00:00 trial {trial.id} starts: seed 0, data x y, cpu, 1 threads\n")
    return tree


def spec_of(tree: RunTree, index: int = 0) -> tuple[dict, dict]:
    plan = read_json(tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN)
    return plan["variants"][index]["settings"], plan["data"]


def measured(tree: RunTree, settings: dict, data: dict, **changes: object) -> None:
    found = {
        "format": 1, "settings": settings, "data": {"name": data["name"], "digest": data["digest"]}, "seconds_per_iteration": 1.0,
        "seconds_per_image": 0.1, "seconds_once": 10.0, "memory_mib": 1000.0, "gpu_memory_mib": 0.0, "device": "cpu", "cpus": 1, "at_once": 1,
    } | changes  # fmt: skip
    write_json(tree.root / naming.MEASURED_DIR / f"{naming.digest(found)}.json", found)


# --- estimates ---


def test_other_epochs_and_images_are_reckoned_from_the_pace_of_finished_trials(tree: RunTree) -> None:
    settings, data = spec_of(tree)
    same = Timings(tree).estimate(settings, data, cpus=1, device="cpu")
    assert same.rests_on == HISTORY and same.count == 1 and same.apart == ()
    assert same.seconds == pytest.approx(96 * 0.4 + 2.1 + 5.3)
    other = Timings(tree).estimate(
        settings | {"epochs": 3, "schedule": "2x"}, data | {"train_images": 100, "val_images": 50}, cpus=1, device="cpu"
    )
    assert other.seconds == pytest.approx(6 * 50 * 0.4 + 6 * 50 * 2.1 / 80 + 5.3)
    half = Timings(tree).estimate(settings, data, cpus=1, device="cpu", done=0.5)
    assert half.seconds == pytest.approx((96 * 0.4 + 2.1) / 2 + 5.3)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "r50"}, {"base_channels": 64}, {"image_size": [256, 256]}, {"batch_size": 16}, {"precision": "bfloat16"}, {"strides": [8, 16]},
        {"crop": "vit_adapter"}, {"detector": "mmdet:atss_r50_fpn_1x_coco"},
    ],
)  # fmt: skip
def test_another_model_or_batch_is_not_like_them(tree: RunTree, changes: dict) -> None:
    settings, data = spec_of(tree)
    assert Timings(tree).estimate(settings | changes, data, cpus=1, device="cpu") == Estimate(None, NOTHING)
    assert Timings(tree).estimate(settings, data | {"name": "other", "digest": "f" * 16}, cpus=1, device="cpu").seconds is None
    assert Timings(tree).estimate(settings, data, cpus=1, device="cuda H200").seconds is None, "a GPU's seconds are not a CPU's"


def test_learning_rate_and_loss_weights_change_no_pace(tree: RunTree) -> None:
    settings, data = spec_of(tree)
    found = Timings(tree).estimate(
        settings | {"lr": 0.5, "dfl_weight": 3.0, "qfl_beta": 1.0, "init_weights": "pretrained"}, data, cpus=1, device="cpu"
    )
    assert found.rests_on == HISTORY and found.count == 1 and found.apart == ()


def test_what_is_most_alike_is_asked_and_the_difference_told(tree: RunTree) -> None:
    settings, data = spec_of(tree, 3)
    other = settings | {"reg_max": 24}  # no finished trial has it
    near = Timings(tree).estimate(other, data, cpus=1, device="cpu")
    assert near.rests_on == HISTORY and near.count == 4 and near.apart == ("detector settings",)
    assert "with other detector settings" in rests_on([near])
    measured(tree, other, data)
    own = Timings(tree).estimate(other, data, cpus=1, device="cpu")
    assert own.rests_on == WARM_UP and own.seconds == pytest.approx(96 * 1.0 + 80 * 0.1 + 10)
    assert Timings(tree).estimate(settings, data, cpus=1, device="cpu").rests_on == HISTORY, "finished trials are better than a warm-up"
    two = Timings(tree).estimate(other, data, cpus=2, device="cpu")
    assert two.seconds == pytest.approx(own.seconds / 2) and two.apart == ("cores",)


def test_a_resumed_trial_gives_the_pace_of_its_last_attempt(tree: RunTree) -> None:
    settings, data = spec_of(tree)
    plan = read_json(tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN)
    trial = tree.trial(plan["variants"][0]["trials"][0]["id"])
    lines = [line._replace(time=line.time - (10_000 if line.step <= 48 else 0)) for line in trial.metric_lines()]  # the first half long ago
    write_metric_lines(trial.file(naming.METRICS_FILE), lines)
    result = raw_result(trial)
    result["seconds"] |= {"train": 48 * 0.7, "eval": 4 * 10 * 0.02, "total": 48 * 0.7 + 0.8 + 5.0}
    write_json(trial.file(naming.RESULT), result)
    assert Timings(tree).estimate(settings, data, cpus=1, device="cpu").seconds == pytest.approx(96 * 0.7 + 80 * 0.02 + 5.0)


def test_the_profiles_hint_is_the_last_resort_and_for_cpus_alone(tmp_path: Path) -> None:
    profile = load_profile(ROOT / "experiments" / "profiles" / "desk.yaml")
    data = DataSpec(name="shapes", digest="0" * 16, classes=("a",), train_images=160, val_images=20)
    plan = build_plan(load_experiment(TABLE3)[0], profile, data)
    tree = RunTree(tmp_path)
    found = estimates(plan.trials, plan, tree, TrialResources(1, 0, 2), "cpu")
    assert {each.rests_on for each in found} == {HINT} and found[0].seconds == pytest.approx(0.012 * 160 * 16)
    assert cost_of([each.seconds for each in found], TrialResources(1, 0, 2)).wall_s == pytest.approx(2 * found[0].seconds)
    assert rests_on(found) == "the profile's default"
    on_gpu = estimates(plan.trials, plan, tree, TrialResources(1, 0.25, 4), "cuda H200")
    assert {each.rests_on for each in on_gpu} == {NOTHING} and cost_of(
        [each.seconds for each in on_gpu], TrialResources(1, 0.25, 4)
    ) is None


def test_damaged_records_are_passed_over(tree: RunTree) -> None:
    settings, data = spec_of(tree)
    (tree.root / naming.MEASURED_DIR).mkdir()
    (tree.root / naming.MEASURED_DIR / "x.json").write_text("{")
    (tree.root / naming.MEASURED_DIR / "y.json").write_text('{"settings": 3}')
    for trial in tree.trials()[:2]:
        trial.file(naming.RESULT).write_text('{"status": "done"}')
    assert sum(len(known) for known in Timings(tree)._known.values()) == 2


def test_wall_time_fills_slots_in_order() -> None:
    assert wall_seconds([10, 10, 10, 10], 2) == 20
    assert wall_seconds([30, 10, 10], 2) == 30
    assert wall_seconds([1, None], 2) is None
    assert wall_seconds([], 2) == 0


# --- packing ---


def gpus(cpus: int = 16, count: int = 1, gib: float = 80.0) -> Machine:
    return Machine(cpus, ("H100",) * count, 128.0, (gib,) * count)


def take(machine: Machine, gpus: float = 0.25, asked: float | None = None, pack: bool = False, peak: Peak | None = None) -> TrialResources:
    return trial_resources(machine, Resources(gpus=gpus, gpu_packing=pack), gpus=asked, peak=peak)


def test_packing_takes_what_was_measured_and_never_more_than_fits() -> None:
    peak = Peak(2000.0, 10 * 1024)  # times 1.25 is 12.5 of 80 GiB: six fit
    packed = take(gpus(), gpus=1, pack=True, peak=peak)
    assert packed.slots == 6 and packed.gpus == pytest.approx(1 / 6, abs=1e-4) and packed.slots * packed.gpus <= 1
    assert take(gpus(), gpus=1, peak=peak) == TrialResources(1, 1, 1), "a whole GPU stays one without `gpu_packing`"
    assert take(gpus(), gpus=0.25, peak=peak) == TrialResources(1, 0.25, 4), "a stated part that is enough stays"
    raised = take(gpus(), gpus=0.1, peak=peak)
    assert raised.slots == 6, "a wished part that is too small gives way"
    assert take(gpus(count=2), gpus=1, pack=True, peak=peak).slots == 12
    assert take(gpus(cpus=4), gpus=1, pack=True, peak=peak).slots == 4
    assert take(gpus(count=2), gpus=0.4).slots == 4, "parts of two GPUs make no third part"
    assert take(gpus(), gpus=0.25, pack=True) == TrialResources(1, 0.25, 4), "nothing measured: as stated"


def test_a_share_that_was_ordered_and_is_too_small_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"--gpus 0.1 is less .* 10.0 GiB of the GPU's 80"):
        take(gpus(), asked=0.1, peak=Peak(0.0, 10 * 1024))
    assert take(gpus(), asked=0.5, peak=Peak(0.0, 10 * 1024)).slots == 2
    with pytest.raises(ResourceError, match="does not fit on the GPU"):
        take(gpus(gib=8.0), gpus=1, peak=Peak(0.0, 10 * 1024))


def test_host_memory_bounds_how_many_run_at_once() -> None:
    machine = Machine(16, (), 24.0)
    assert take(machine, gpus=0, peak=Peak(4 * 1024)).slots == 4  # 5 GiB each of 24
    assert take(machine, gpus=0, peak=Peak(40 * 1024)).slots == 1
    assert take(machine, gpus=0).slots == 16


def test_without_nvidia_smi_torch_is_asked_where_there_is_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(
        "from types import SimpleNamespace\n"
        "cuda = SimpleNamespace(device_count=lambda: 2, get_device_properties=lambda i: SimpleNamespace(total_memory=80 << 30, name=f'H100 {i}'))\n"
    )
    (tmp_path / "driver").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(resources.shutil, "which", lambda name: None)
    monkeypatch.setattr(resources, "DRIVER", tmp_path / "driver")
    machine = resources.look()
    assert machine.gpus == ("H100 0", "H100 1") and machine.gpu_memory_gib == (80.0, 80.0)
    monkeypatch.setattr(resources, "DRIVER", tmp_path / "none")
    assert resources.look().gpus == ()


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in on PATH that lists two GPUs as the real one does."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\n[ "$1" = "--query-gpu=index,uuid,memory.total,name" ] && [ "$2" = "--format=csv,noheader,nounits" ] || exit 2\n'
        'echo "0, GPU-aaaa-1, 81920, NVIDIA H100 80GB HBM3"\necho "1, GPU-bbbb-2, 24576, NVIDIA L4"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


def test_gpus_and_their_memory_are_asked_of_nvidia_smi(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = resources.look()
    assert machine.gpus == ("NVIDIA H100 80GB HBM3", "NVIDIA L4") and machine.gpu_memory_gib == (80.0, 24.0) and machine.gpu_memory == 24.0
    assert resources.device_of(machine, 0.5) == "cuda NVIDIA H100 80GB HBM3" and resources.device_of(machine, 0) == "cpu"
    for visible, names in (
        ("1", ["NVIDIA L4"]), ("1,0", ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]), ("GPU-bbbb", ["NVIDIA L4"]), ("0,7,1", ["NVIDIA H100 80GB HBM3"]),
        ("", []), ("-1", []), ("0,-1,1", ["NVIDIA H100 80GB HBM3"]), ("0,0", []), ("GPU-aaaa-1,GPU-aaaa-1", []),
    ):  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert list(resources.look().gpus) == names, visible
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cccc")
    assert resources.look().gpu_memory_gib == (0.0,), "the memory of a slice is not the GPU's"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    assert resources.look().gpus == ()


def test_the_peak_counts_once_every_model_was_measured(tree: RunTree) -> None:
    data = DataSpec(**spec_of(tree)[1])
    experiment = load_experiment(TABLE3)[0].model_copy(update={"seeds": [0, 1]})
    plan = build_plan(experiment, load_profile(ROOT / "experiments" / "profiles" / "desk.yaml"), data)
    models = [variant.settings.model_dump(mode="json") for variant in plan.variants]
    for index, settings in enumerate(models[:3]):
        measured(tree, settings, data.model_dump(), memory_mib=1000.0 + index)
    assert Timings(tree).peak(plan.trials, gpu=False) is None
    measured(tree, models[3], data.model_dump(), memory_mib=5000.0)
    assert Timings(tree).peak(plan.trials, gpu=False) == Peak(5000.0, 0.0)
    assert Timings(tree).peak(plan.trials, gpu=True) is None
    assert Timings(tree).peak([], gpu=False) is None


# --- budgets ---


def test_budgets_are_read() -> None:
    assert Budget.parse("90min").amount == 5400 and Budget.parse("90min").unit == "wall"
    assert Budget.parse("1.5h").amount == 5400
    assert Budget.parse("40gpuh") == Budget("40gpuh", "gpu", 144_000) and Budget.parse("8cpuh").unit == "core"
    for wrong in ("", "12", "h", "-3h", "3d", "0h", "1e3h", "12 h x"):
        with pytest.raises(InputError, match="90min or 12h"):
            Budget.parse(wrong)


def test_what_is_known_may_be_too_much_already() -> None:
    two_cores = TrialResources(2, 0, 1)
    hour = Estimate(3600.0, HISTORY, 1)
    assert Budget.parse("1.9h").exceeded([hour, hour], two_cores) is True
    assert Budget.parse("2h").exceeded([hour, hour], two_cores) is False
    assert Budget.parse("3.9cpuh").exceeded([hour, hour], two_cores) is True
    assert Budget.parse("3h").exceeded([hour, Estimate(None)], two_cores) is None
    assert Budget.parse("30min").exceeded([hour, Estimate(None)], two_cores) is True


def test_the_meter_counts_what_runs_and_stops_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(budgets.time, "monotonic", lambda: clock[0])
    stops: list[int] = []
    file = tmp_path / naming.COST

    def run(budget: str | None) -> Meter:
        meter = Meter(file, TrialResources(2, 0.25, 4), Budget.parse(budget) if budget else None, lambda: stops.append(1))
        for running in (0, 3, 4, 4, 1):
            clock[0] += 900
            meter.look(running)
        meter.save()
        return meter

    first = run("5cpuh")  # (3 + 4 + 4 + 1) x 900 s x 2 cores = 6 core-hours
    assert first.exhausted and stops == [1]
    assert (first.spent.wall_s, first.spent.core_s, first.spent.gpu_s) == (4500, 21600, 2700)
    second = run(None)
    assert not second.exhausted and stops == [1] and second.spent == first.spent, "each command has its own"
    assert spent(file).core_s == 43200 and last_resources(file) == TrialResources(2, 0.25, 4), "the file adds them up"
    assert not run("2gpuh").exhausted and run("0.7gpuh").exhausted and run("1h").exhausted
    file.write_text("{")
    assert spent(file) is None and last_resources(file) is None


# --- the command line ---


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(resources, "_gpus", lambda: ())
    return runner(monkeypatch, capsys)


EXPERIMENT = """
name: small
profile: small
axes: {qfl: [false, true]}
"""
PROFILE = """
name: small
title: a small profile
data: {train_images: 16, val_images: 8, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 8, frozen_stages: -1, norm_eval: false, neck_channels: 16, head_channels: 16, head_convs: 1, strides: [8, 16, 32],
  epochs: 300, batch_size: 8, optimizer: adamw, lr: 0.002, lr_schedule: cosine, warmup_iters: 2, image_size: [128, 128]}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/small.yaml").write_text(PROFILE)
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    return tmp_path / "small.yaml"


def test_plan_and_run_refuse_what_is_over_budget(cli: Cli, small: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profiles/small.yaml"
    profile.write_text(profile.read_text() + "cpu_seconds_per_image: 0.5\n")
    each = 0.5 * 16 * 300
    code, out, err = cli("plan", small, "--budget", "1min", "--json")
    plan = json.loads(out)
    assert code == 5 and "--budget is 1min" in err and "the profile's default" in err and "--measure" in err
    assert plan["budget"] == {"given": "1min", "enough": False} and plan["rows"][0]["rests_on"] == "profile"
    assert [row["expected_seconds"] for row in plan["rows"]] == [each, each]
    assert plan["expected"]["core_hours"] == pytest.approx(2 * each / 3600, abs=1e-3)
    code, out, err = cli("run", small, "--budget", "0.1cpuh")
    assert code == 5 and "of core time" in err and out == ""
    runs = tmp_path / "runs"
    assert {path.name for path in runs.iterdir()} == {"data", "experiments"} and not (runs / "experiments/small/small/plan.json").exists()
    assert cli("plan", small, "--budget", "12h")[0] == 0
    code, _, err = cli("run", small, "--budget", "3d")
    assert code == 2 and "90min or 12h" in err
    code, _, err = cli("run", small, "--budget", "40gpuh")
    assert code == 2 and "no GPU" in err


def test_no_estimate_is_said_plainly(cli: Cli, small: Path) -> None:
    code, out, err = cli("plan", small, "--budget", "1min")
    assert code == 0 and "no estimate is possible" in err and "time unknown" in err
    assert json.loads(cli("plan", small, "--budget", "1min", "--json")[1])["budget"]["enough"] is None


def test_status_tells_what_is_spent_and_left(cli: Cli, tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path / "runs", states={1: "planned", 2: "interrupted"})
    folder = tree.experiment("table3_qfl_dfl", "desk")
    code, out, _ = cli("status")
    assert code == 0 and "spent: not recorded; left about" in out and "(from " in out
    write_json(
        folder / naming.COST,
        {"format": 1, "cpus": 2, "gpus": 0, "at_once": 2, "wall_seconds": 3600, "core_seconds": 7200, "gpu_seconds": 0},
    )
    row = json.loads(cli("status", "--json")[1])["experiments"][0]
    assert row["spent"] == {"seconds": 3600.0, "core_hours": 2.0, "gpu_hours": 0.0}
    assert row["left"]["seconds"] > 0 and row["expected"]["core_hours"] == pytest.approx(2 + row["left"]["core_hours"], abs=1e-3)
    assert "nothing left" not in cli("status")[1]
    write_fake_tree(tmp_path / "done")
    os.environ["GFL_LAB_HOME"] = str(tmp_path / "done")
    assert "nothing left to train" in cli("status")[1]


def test_as_many_warm_ups_run_at_once_as_trials_will(tmp_path: Path) -> None:
    """Each of the two models' warm-ups ends only beside another one."""
    profile = load_profile(ROOT / "experiments" / "profiles" / "desk.yaml")
    data = DataSpec(name="shapes", digest="0" * 16, classes=("a",), train_images=160, val_images=20)
    trials = build_plan(load_experiment(TABLE3)[0], profile, data).trials[:2]
    warm_up = WarmUp("tests.support.fake_trial:warm_up_beside_another", DataPaths("/x", "/x", "/x", "/x"), (), 0)
    said: list[str] = []
    assert measure(trials, RunTree(tmp_path), warm_up, TrialResources(1, 0, 2), Machine(2, (), 24.0), said.append) == []
    assert len(said) == 2 and all("0.500 s an iteration, 0.2500 s an image of evaluation, 700 MiB" in line for line in said)
    found = [read_json(file) for file in sorted((tmp_path / naming.MEASURED_DIR).iterdir())]
    assert [(each["at_once"], each["seconds_once"]) for each in found] == [(2, 3.0)] * 2


@pytest.mark.slow
def test_a_warm_up_measures_and_a_spent_budget_stops(
    small: Path, tmp_path: Path, mlflow_db: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything real, but for Ray: the trials run in the driver's own process, which is this one."""
    home = tmp_path / "runs"
    home.mkdir()
    shutil.copy(mlflow_db, home / naming.MLFLOW_DB)
    monkeypatch.setenv("GFL_LAB_HOME", str(home))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert entries.WARM_UP_ENTRY == f"{warmup.__name__}:{warmup.measure.__name__}"
    monkeypatch.setattr(entries, "WARM_UP_ENTRY", f"{short_warmup.__name__}:{short_warmup.measure.__name__}")
    lab = runner(monkeypatch, capsys)
    threads = torch.get_num_threads()

    with one_core():
        code, out, err = lab("plan", small, "--seeds", "0..2", "--measure", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert "warming up 2 of 6 trials" in err and {row["rests_on"] for row in plan["rows"]} == {"warm-up"}
    files = sorted((home / naming.MEASURED_DIR).iterdir())
    assert [file.suffix for file in files] == [".json", ".json"] and not (home / "trials").exists(), "no run directory stays"
    found = read_json(files[0])
    assert 0 < found["seconds_per_iteration"] < 60 and 0 < found["seconds_per_image"] < 60 and found["memory_mib"] > 100
    assert found["device"] == "cpu" and found["cpus"] == 1

    code, _, err = lab("run", small, "--executor", "inline", "--budget", "0.02min")
    assert code == 5 and "--budget is 0.02min" in err and "from warm-ups" in err
    for file in files:
        file.unlink()
    code, _, err = lab("run", small, "--executor", "inline", "--budget", "0.05min")
    torch.set_num_threads(threads)
    assert code == 5 and "no estimate is possible" in err and "--budget 0.05min is spent" in err and "continue with:  gfl-lab run" in err, (
        err
    )
    tree = RunTree(home)
    assert [trial.state() for trial in tree.trials() if raw_result(trial)] == ["interrupted"]
    assert next(trial for trial in tree.trials() if raw_result(trial)).file(naming.LAST_CHECKPOINT).exists()
    cost = spent(tree.experiment("small", "small") / naming.COST)
    assert cost.wall_s >= 3 and 0 < cost.core_s <= cost.wall_s


@pytest.mark.parametrize(
    "nodes,cpus,gpus,slots",
    [
        ([{"CPU": 2}, {"CPU": 2}, {}], 1, 0, 4),
        ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2),  # a trial runs on one node
        ([{"CPU": 8, "GPU": 1}, {"CPU": 8}], 1, 1, 1),
        ([{"CPU": 8, "GPU": 2}], 1, 0.3, 6),
        ([{"CPU": 8, "GPU": 3}, {"CPU": 1, "GPU": 4}], 2, 2, 1),
        ([{"CPU": 0.5}], 1, 0, 0),
    ],
)
def test_trials_at_once_on_a_cluster_are_those_that_fit_on_each_node(nodes: list[dict[str, float]], cpus: int, gpus: float, slots: int) -> None:  # fmt: skip
    from gfl_lab.orchestrate.resources import resources_on_nodes

    assert resources_on_nodes(nodes, cpus, gpus) == TrialResources(cpus, gpus, slots)
