"""Executors, supervision and the driver, over trials that take milliseconds."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from gfl_lab import naming
from gfl_lab.errors import FailureKind, InputError, ResourceError
from gfl_lab.orchestrate import driver, resources
from gfl_lab.orchestrate.executor import run_jobs
from gfl_lab.orchestrate.inline import InlineExecutor
from gfl_lab.orchestrate.resources import TrialResources, loaders
from gfl_lab.orchestrate.supervisor import MAX_LOST, Attempts, Job, TrialProcess
from gfl_lab.orchestrate.watcher import Progress, Watcher
from gfl_lab.plan.plan import PlanInputs, build_plan
from gfl_lab.processes import no_collections
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.lease import write_lease
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.session.workers import process_settings
from gfl_lab.spec.file_models import Resources
from gfl_lab.spec.files import load_experiment, load_profile
from gfl_lab.spec.trial import DataSpec
from tests.support.processes import alive
from tests.support.raw import raw_result
from tests.support.waiting import holds_within, wait_until

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DATA = DataSpec(name="shapes", digest="0" * 16, classes=("a",), train_images=160, val_images=20)
FAKES = "tests.support.fake_trial"


@pytest.fixture(params=["a fork", "a fresh interpreter"])
def process(request: pytest.FixtureRequest) -> Iterator[TrialProcess]:
    server = TrialProcess("" if "fresh" in request.param else FAKES)
    yield server
    server.close()


def job(folder: Path, function: str, number: int = 0) -> Job:
    path = folder / f"{number:012x}"
    path.mkdir(parents=True, exist_ok=True)
    return Job(str(path), f"{FAKES}:{function}", FAKES, {})


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    return holds_within(lambda: not any(alive(pid) for pid in pids), seconds)


def test_each_trial_has_a_process_of_its_own_and_a_log(process: TrialProcess, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "succeed", n) for n in range(3)]
    assert [process.run(j) for j in jobs] == [TrialState.DONE] * 3
    pids = [raw_result(TrialDir(Path(j.path)))["pid"] for j in jobs]
    assert len({*pids, os.getpid()}) == 4
    assert "hello from the trial" in (Path(jobs[0].path) / naming.LOG).read_text()


def test_a_trial_that_hangs_when_it_is_asked_to_stop_is_killed_and_the_next_one_runs(process: TrialProcess, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    hung = replace(job(tmp_path, "hang_when_asked"), kwargs={"stop_file": str(stop)}, stop_wait_s=0.2)
    assert process.run(hung) is TrialState.INTERRUPTED
    trial = TrialDir(Path(hung.path))
    assert trial.state() is TrialState.INTERRUPTED and not trial.file(naming.LEASE).exists()
    assert "still ran 0.2 s later" in raw_result(trial)["reason"] and "still ran" in trial.file(naming.LOG).read_text()
    assert process.run(job(tmp_path, "succeed", 1)) is TrialState.DONE


@pytest.mark.parametrize("preload", [FAKES, ""], ids=["a fork", "a fresh interpreter"])
def test_a_file_in_the_current_folder_takes_the_place_of_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preload: str) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not the json of Python')")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(TrialProcess(preload)) as process:
        assert process.run(job(tmp_path, "succeed")) is TrialState.DONE


def test_a_failed_trial_is_not_tried_again(process: TrialProcess, tmp_path: Path) -> None:
    assert process.run(job(tmp_path, "fail")) is TrialState.FAILED
    assert process.run(job(tmp_path, "succeed", 1)) is TrialState.DONE


def test_a_lost_process_goes_on_by_itself(process: TrialProcess, tmp_path: Path) -> None:
    lost = job(tmp_path, "die_once")
    assert process.run(lost) is TrialState.DONE
    assert "SIGKILL" in (Path(lost.path) / naming.LOG).read_text()


def test_a_trial_that_always_dies_fails_with_a_reason(process: TrialProcess, tmp_path: Path) -> None:
    lost = job(tmp_path, "die_always")
    assert process.run(lost) is TrialState.FAILED
    assert len((Path(lost.path) / "attempts").read_text().split()) == MAX_LOST + 1
    failure = raw_result(TrialDir(Path(lost.path)))["failure"]
    assert failure["kind"] == "lost_process" and "SIGKILL" in failure["reason"]


def test_losses_count_only_while_a_trial_gets_no_further(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    attempts, writer = Attempts(trial), MetricWriter(trial.file(naming.METRICS_FILE))
    for step in range(1, 8):
        writer.write("train", step, 1, {"loss": 1.0})
        assert attempts.another(FailureKind.LOST_PROCESS), "it has got further each time"
    writer.truncate_after(4)
    writer.write("train", 5, 1, {"loss": 1.0})  # going over old ground is no progress
    assert [attempts.another(FailureKind.LOST_PROCESS) for _ in range(MAX_LOST)] == [True] * (MAX_LOST - 1) + [False]


def test_only_some_kinds_are_tried_again(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    write_json(trial.file(naming.MANIFEST), {"format": 1, "spec": {"settings": {"batch_size": 6}}})
    attempts = Attempts(trial)
    for kind in FailureKind:
        if kind not in (FailureKind.OUT_OF_MEMORY, FailureKind.LOST_PROCESS):
            assert not attempts.another(kind), kind
    parts = []
    while attempts.another(FailureKind.OUT_OF_MEMORY):
        parts.append(trial.accumulation().parts)
    assert parts == [2, 4, 6], "up to single images"
    write_json(trial.file(naming.RESULT), {"format": 1, "status": "failed", "failure": {"kind": "of the future", "reason": "", "step": 0}})
    assert not attempts.another_after(TrialState.FAILED)


def test_a_trial_of_another_driver_is_left_to_it(process: TrialProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfl_lab.orchestrate.supervisor.LEASE_WAIT_S", 0.2)
    shared = job(tmp_path, "succeed")
    trial = TrialDir(Path(shared.path))
    write_json(trial.file(naming.LEASE), {"format": 1, "pid": 1, "start": 1, "host": "elsewhere", "since": time.time()})
    assert process.run(shared) is TrialState.RUNNING
    assert run_jobs(InlineExecutor(lambda: False), [shared, job(tmp_path, "succeed", 1)]) == []
    assert trial.lease_alive() and raw_result(trial) is None
    assert TrialDir(tmp_path / f"{1:012x}").state() is TrialState.DONE


def test_a_stop_request_interrupts(process: TrialProcess, tmp_path: Path) -> None:
    stop = driver.StopSwitch(tmp_path / naming.STOP_REQUEST)
    waiting = job(tmp_path, "wait_for_stop")
    waiting = Job(waiting.path, waiting.entry, waiting.preload, {"stop_file": str(stop.file)})
    trial = TrialDir(Path(waiting.path))

    def ask() -> None:
        wait_until(lambda: trial.metric_lines())
        stop._handle(signal.SIGINT, None)

    asking = threading.Thread(target=ask)
    asking.start()
    assert process.run(waiting) is TrialState.INTERRUPTED
    asking.join()
    assert stop() and stop.signal == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):  # the second signal
        stop._handle(signal.SIGINT, None)
    stop.restore()
    assert stop.file.exists(), "a driver that never took the signals leaves the file to the one that did"
    stop.install()
    assert not stop.file.exists()
    stop.file.touch()
    stop.restore()
    assert not stop.file.exists()


VICTIMS = ["supervisor", "server", "child", "server child supervisor"]


@pytest.mark.parametrize("preload", [FAKES, ""], ids=["a fork", "a fresh interpreter"])
@pytest.mark.parametrize("victims", VICTIMS)
def test_nothing_stays_behind_whoever_is_killed(tmp_path: Path, preload: str, victims: str) -> None:
    trial = tmp_path / "0123456789ab"
    trial.mkdir()
    code = (
        "from gfl_lab.orchestrate.supervisor import *\n"
        f"TrialProcess({preload!r}).run(Job({str(trial)!r}, {FAKES + ':sleep_with_child'!r}, {FAKES!r}, {{}}))"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_until((trial / "pids.json").exists)
    child, grandchild = read_json(trial / "pids.json")["pids"]
    pids = {"supervisor": supervisor.pid, "server": psutil.Process(child).ppid(), "child": child}
    assert alive(child) and alive(grandchild)
    for victim in victims.split():
        os.kill(pids[victim], signal.SIGKILL)
    assert gone([child, grandchild] if victims == "child" else [pids["server"], child, grandchild])
    supervisor.kill()
    supervisor.wait()


def test_servers_are_like_whoever_started_them_and_end_with_it(tmp_path: Path) -> None:
    """Each has its starter's environment, priority and rank for the kernel, but sees no GPU."""
    nice = os.nice(0)
    levels = [min(nice + more, 19) for more in (1, 2)]
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom gfl_lab.orchestrate.supervisor import *\n"
        "number, niceness = map(int, sys.argv[1:3])\nos.environ['ASKER'] = os.environ['CUDA_VISIBLE_DEVICES'] = sys.argv[1]\n"
        "os.setpriority(os.PRIO_PROCESS, 0, niceness)\n"
        "Path('/proc/self/oom_score_adj').write_text(str(700 + number))\n"
        f"job = Job(sys.argv[3], {FAKES + ':tell'!r}, {FAKES!r}, {{}})\n"
        f"process = TrialProcess({FAKES!r})\nprocess.run(job)\nprocess.close()"
    )
    folders = [tmp_path / f"{number:012x}" for number in (2, 3)]
    for folder in folders:
        folder.mkdir()
    starters = [
        subprocess.Popen([sys.executable, "-c", code, str(number), str(level), str(folder)])
        for number, level, folder in zip((2, 3), levels, folders, strict=True)
    ]
    assert [starter.wait(60) for starter in starters] == [0, 0]
    found = [raw_result(TrialDir(folder)) for folder in folders]
    assert [one["asker"] for one in found] == ["2", "3"]
    assert [one["gpus"] for one in found] == ["", ""], "a fork could not use them"
    assert [one["niceness"] for one in found] == levels
    assert [one["oom_score_adj"] for one in found] == [702, 703]
    assert gone([one["server"] for one in found])


def test_a_killed_server_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    """The executor gives the trial to another worker then, which makes a server anew."""
    process = TrialProcess(FAKES)
    assert process.run(job(tmp_path, "succeed", 1)) is TrialState.DONE
    os.kill(process._server._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the process that starts trials ended"):
        process.run(job(tmp_path, "succeed", 2))
    process.close()


def test_imports_collect_nothing_and_the_collector_is_afterwards_as_before() -> None:
    assert gc.isenabled()
    with contextlib.suppress(ImportError), no_collections():
        with no_collections():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer one goes on"
        raise ImportError
    assert gc.isenabled()


def test_inline_runs_in_this_process_and_stops(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "succeed", 0), job(tmp_path, "succeed", 1)]
    run_jobs(InlineExecutor(lambda: False), jobs)
    assert raw_result(TrialDir(Path(jobs[0].path)))["pid"] == os.getpid()
    assert all(TrialDir(Path(j.path)).state() is TrialState.DONE for j in jobs)
    later = job(tmp_path, "succeed", 2)
    run_jobs(InlineExecutor(lambda: True), [later])
    assert TrialDir(Path(later.path)).state() is TrialState.PLANNED


# --- driver ---


def plan(**changes: object):
    experiment = load_experiment(EXPERIMENTS / "table3_qfl_dfl.yaml")[0].model_copy(update=changes)
    return build_plan(experiment, load_profile(EXPERIMENTS / "profiles" / "desk.yaml"), DATA, PlanInputs(source="table3.yaml"))


def test_a_plan_keeps_other_seeds_of_the_same_cells(tmp_path: Path) -> None:
    assert driver.save_plan(plan(seeds=[0, 1]), tmp_path, RunTree(tmp_path)) == []
    notes = driver.save_plan(plan(seeds=[2]), tmp_path, RunTree(tmp_path))
    saved = read_json(tmp_path / naming.PLAN)
    assert [[trial["seed"] for trial in variant["trials"]] for variant in saved["variants"]] == [[0, 1, 2]] * 4
    assert "8 trials of other seeds stay" in notes[0]


def test_a_plan_keeps_no_trial_of_another_version_of_the_training_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.save_plan(plan(seeds=[0, 1]), tmp_path, RunTree(tmp_path))
    monkeypatch.setattr("gfl_lab.plan.plan.TRAINING_CODE_VERSION", 99)
    assert driver.save_plan(plan(seeds=[0]), tmp_path, RunTree(tmp_path)) == []
    saved = read_json(tmp_path / naming.PLAN)
    assert [[trial["seed"] for trial in variant["trials"]] for variant in saved["variants"]] == [[0]] * 4


def test_a_plan_over_other_data_keeps_the_former_table(tmp_path: Path) -> None:
    driver.save_plan(plan(), tmp_path, RunTree(tmp_path))
    (tmp_path / "table.md").write_text("old")
    other = plan()
    other = build_plan(other.experiment, other.profile, DATA.model_copy(update={"digest": "1" * 16}))
    notes = driver.save_plan(other, tmp_path, RunTree(tmp_path))
    assert (tmp_path / "previous" / ("0" * 16) / "table.md").read_text() == "old"
    assert "kept in" in notes[0] and not (tmp_path / "table.md").exists()


def test_the_second_driver_is_told_who_holds_the_experiment(tmp_path: Path) -> None:
    code = f"import time; from pathlib import Path; from gfl_lab.orchestrate.driver import only_driver\nwith only_driver(Path({str(tmp_path)!r})):\n  print('x', flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    first.stdout.readline()
    with pytest.raises(InputError, match=f"process {first.pid} .* since"), driver.only_driver(tmp_path):
        pass
    first.kill()
    first.wait()
    with driver.only_driver(tmp_path):
        pass


def test_a_driver_on_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"No space left on device: '.*\.driver\.lock'"):
        patch.setattr(os, "write", full)
        with driver.only_driver(tmp_path):
            pass
    with driver.only_driver(tmp_path) as killed:
        assert not killed


def test_the_watcher_sees_progress_eta_and_failures(tmp_path: Path) -> None:
    tree = RunTree(tmp_path)
    made = plan(seeds=[0])
    driver.write_manifests(made.trials, tree, DataPaths("/x", "/x", "/x", "/x"))
    seen: list[list[Progress]] = []
    watcher = Watcher(tree, made, made.trials, {trial.id: trial.id for trial in made.trials}, seen.append)
    folder = tree.trial(made.trials[0].id)
    folder.file(naming.METRICS_FILE).write_text(
        "".join(
            json.dumps({"kind": "train", "step": n, "epoch": 1, "time": 2.0 * n, "metrics": {"loss": 1.5}}) + "\n" for n in range(1, 11)
        )
    )
    watcher.look()
    first = seen[-1][0]
    assert (first.step, first.steps, first.loss, first.state) == (10, 320, 1.5, TrialState.INTERRUPTED)
    assert first.eta_s == pytest.approx(2.0 * 310)
    assert seen[-1][1].state is TrialState.PLANNED


def test_the_watcher_shows_where_a_killed_trial_resumes(tmp_path: Path) -> None:
    """The lines go up to step 10, the checkpoint to step 6. Each line's time is that of its attempt."""
    tree, made, seen = RunTree(tmp_path), plan(seeds=[0]), list[list[Progress]]()
    driver.write_manifests(made.trials, tree, DataPaths("/x", "/x", "/x", "/x"))
    folder = tree.trial(made.trials[0].id)

    def lines(*times: float) -> None:
        text = (
            json.dumps({"kind": "train", "step": n, "epoch": 1 + (n > 5), "time": time, "metrics": {"loss": 1.5}}) + "\n"
            for n, time in enumerate(times, 1)
        )
        folder.file(naming.METRICS_FILE).write_text("".join(text))

    def taken(since: float, *, living: bool) -> None:
        folder.drop_lease()
        folder.take_lease()
        lease = folder.lease()
        assert lease is not None
        write_lease(folder.file(naming.LEASE), replace(lease, since=since, start=lease.start if living else 0))

    def shown() -> tuple[TrialState, bool, tuple[int, int] | None]:
        watcher.look()
        one = seen[-1][0]
        return one.state, one.resuming, one.resumed_from

    lines(*range(100, 110))
    taken(99.0, living=False)
    watcher = Watcher(tree, made, made.trials, {trial.id: trial.id for trial in made.trials}, seen.append)
    assert shown() == (TrialState.PLANNED, False, None), "it waits: nothing of this run has ended"
    taken(200.0, living=True)
    assert shown() == (TrialState.RUNNING, True, None)
    lines(*range(100, 106))  # cut back to the checkpoint
    assert shown() == (TrialState.RUNNING, True, None)
    lines(*range(100, 106), 201)
    assert shown() == (TrialState.RUNNING, False, (2, 6))
    taken(200.0, living=False)
    assert shown() == (TrialState.INTERRUPTED, False, None), "killed in this run"
    taken(300.0, living=True)
    assert shown() == (TrialState.RUNNING, True, None)
    lines(301)  # the checkpoint was damaged: from the start
    assert shown() == (TrialState.RUNNING, False, None)


def test_a_folder_that_cannot_be_read_and_a_listener_that_fails_end_no_watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener counts the budget: without it a run would go on beyond it."""
    tree, made, seen = RunTree(tmp_path), plan(seeds=[0]), list[list[Progress]]()
    driver.write_manifests(made.trials, tree, DataPaths("/x", "/x", "/x", "/x"))
    tree.trial(made.trials[0].id).file(naming.METRICS_FILE).mkdir()  # reading it is an OSError

    def listen(progress: list[Progress]) -> None:
        seen.append(progress)
        raise BrokenPipeError("the terminal is closed")

    monkeypatch.setattr("gfl_lab.orchestrate.watcher.WATCH_S", 0.01)
    watcher = Watcher(tree, made, made.trials, {trial.id: trial.id for trial in made.trials}, listen)
    watcher.start()
    wait_until(lambda: len(seen) >= 3)
    watcher.finish()
    assert len(seen[-1]) == len(made.trials) and seen[-1][0].state is TrialState.PLANNED


def test_the_watcher_takes_no_outcome_of_an_earlier_run_for_one_of_this(tmp_path: Path) -> None:
    tree = RunTree(tmp_path)
    made = plan(seeds=[0])
    driver.write_manifests(made.trials, tree, DataPaths("/x", "/x", "/x", "/x"))
    folder, other = (tree.trial(trial.id) for trial in made.trials[:2])
    write_json(folder.file(naming.RESULT), {"format": 1, "status": "done", "metrics": {"AP": 1.0}})  # its records are damaged
    write_json(other.file(naming.RESULT), {"format": 1, "status": "failed", "failure": {"reason": "no memory"}})  # tried again
    seen: list[list[Progress]] = []
    watcher = Watcher(tree, made, made.trials, {trial.id: trial.id for trial in made.trials}, seen.append)
    watcher.look()
    assert [(one.state, one.reason) for one in seen[-1][:2]] == [(TrialState.PLANNED, "")] * 2
    folder.take_lease()
    watcher.look()
    assert seen[-1][0].state is TrialState.RUNNING
    folder.drop_lease()
    for each, content in ((folder, {"status": "done", "metrics": {}}), (other, {"status": "failed", "failure": {"reason": "again"}})):
        before = each.file(naming.RESULT).stat().st_mtime_ns
        write_json(each.file(naming.RESULT), {"format": 1, **content})
        os.utime(each.file(naming.RESULT), ns=(before + 10**9, before + 10**9))
    watcher.look()
    assert [(one.state, one.reason) for one in seen[-1][:2]] == [(TrialState.DONE, ""), (TrialState.FAILED, "again")]


# --- resources ---


def test_more_than_there_is_is_refused_at_once_and_wishes_give_way() -> None:
    machine = resources.Machine(4, (), 8.0)
    with pytest.raises(ResourceError) as caught:
        resources.trial_resources(machine, Resources(cpus=1, gpus=0), cpus=99, gpus=2)
    assert len(caught.value.problems) == 2 and "--gpus 2" in str(caught.value)
    with pytest.raises(ResourceError, match="requires"):
        resources.trial_resources(machine, Resources(cpus=1, gpus=1, gpu_required=True))
    assert resources.trial_resources(machine, Resources(cpus=2, gpus=0.25)) == resources.TrialResources(2, 0, 2)
    one_gpu = resources.Machine(16, ("H200",), 64.0)
    assert resources.trial_resources(one_gpu, Resources(cpus=1, gpus=0.25)) == resources.TrialResources(1, 0.25, 4)
    assert resources.trial_resources(one_gpu, Resources(cpus=8, gpus=0.25)).slots == 2


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "expected"),
    [(None, 64, 0, 0), (None, 1, 1, 0), (None, 8, 1, 7), (None, 4, 0.25, 3), (None, 16, 2, 7), (0, 16, 1, 0), (5, 2, 0, 5)],
)
def test_loader_processes_take_the_trials_cores_that_a_gpu_leaves_free(asked: int | None, cpus: int, gpus: float, expected: int) -> None:
    assert loaders(asked, cpus, gpus) == expected


def test_settings_of_a_trials_process() -> None:
    assert process_settings(TrialResources(4, 0.25, 4), Resources(), 0.25) == {"threads": 4, "loader_workers": 3, "processes": 1}
    assert process_settings(TrialResources(4, 1, 4), Resources(), 0)["loader_workers"] == 0, "a cluster had no GPU"
    assert process_settings(TrialResources(16, 2, 1), Resources(), 2) == {"threads": 16, "loader_workers": 7, "processes": 2}
    assert process_settings(TrialResources(8, 1, 1), Resources(), 0) == {"threads": 8, "loader_workers": 0, "processes": 1}
    assert process_settings(TrialResources(8, 1, 1), Resources(loader_workers=2), 0)["loader_workers"] == 2


def test_a_wish_for_cores_leaves_no_gpu_idle() -> None:
    def taken(cpus: int, gpus: int, wish: float, asked: int | None = None) -> TrialResources:
        machine = resources.Machine(cpus, ("H200",) * gpus, 64.0, (140.0,) * gpus)
        return resources.trial_resources(machine, Resources(cpus=8, gpus=wish), cpus=asked)

    assert taken(64, 4, 1) == TrialResources(8, 1, 4)
    assert taken(16, 4, 1) == TrialResources(4, 1, 4)
    assert taken(2, 4, 1) == TrialResources(1, 1, 2)
    assert taken(16, 1, 0.25) == TrialResources(8, 0.25, 2) and taken(16, 4, 0.25) == TrialResources(4, 0.25, 4)
    assert taken(16, 4, 1, asked=8) == TrialResources(8, 1, 2), "what is ordered is not touched"
    assert taken(16, 0, 1) == TrialResources(8, 0, 2) and taken(4, 0, 1) == TrialResources(4, 0, 1)


def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resources.look().gpus == ()
