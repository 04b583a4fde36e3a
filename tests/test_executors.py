"""The contract of executors (gfl_lab/orchestrate/executor.py): each one passes the same tests. And the queue behind Ray Tune's."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from gfl_lab import naming
from gfl_lab.errors import ResourceError
from gfl_lab.mlflow_import import importing_mlflow
from gfl_lab.orchestrate import ray_tune
from gfl_lab.orchestrate.executor import Ended, Executor, problems_of, run_jobs
from gfl_lab.orchestrate.inline import InlineExecutor
from gfl_lab.orchestrate.job_queue import JobQueue
from gfl_lab.orchestrate.ray_cluster import CHECKED_WITH, listens_on_loopback_alone, prepare_environment, scratch_dir
from gfl_lab.orchestrate.supervisor import MAX_LOST, Job
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.rundir import TrialDir, TrialState
from gfl_lab.tracking.server import quiet_import
from tests.support import fake_trial
from tests.support.processes import family, kill, left_after, process_name

ROOT = Path(__file__).parents[1]
FAKES = "tests.support.fake_trial"


class Switch:
    """Asks an executor to start no further trial."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self) -> bool:
        return self.on


Make = Callable[[Switch], Executor]


def job(folder: Path, function: str, number: int = 0) -> Job:
    path = folder / f"{number:012x}"
    path.mkdir(parents=True, exist_ok=True)
    return Job(str(path), f"{FAKES}:{function}", FAKES, {"stop_file": str(folder / f"stop-{number}")})


def state(found: Job) -> TrialState:
    return TrialDir(Path(found.path)).state()


def on_ray(address: str | None) -> Make:
    from gfl_lab.orchestrate.ray_tune import TuneExecutor

    return lambda stop: TuneExecutor(
        cpus=1, gpus=0, gpu_optional=True, machine_cpus=2, machine_gpus=0, address=address, should_stop=stop
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Ray of its own on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    prepare_environment(None)  # the same for both kinds of Ray: Ray reads its authentication mode once
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--include-log-monitor=false",
    ]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", f"--temp-dir={scratch_dir() / 'c'}", "--block"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    yield f"127.0.0.1:{port}"
    started = family(head.pid)
    kill(started)
    left_after(started, 30)


RAY = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(
    scope="module",
    params=["inline", pytest.param("Ray here", marks=RAY), pytest.param("Ray at an address", marks=RAY)],
)  # fmt: skip
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes executors of one kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        if request.param == "inline":
            yield InlineExecutor
        elif request.param == "Ray here":
            yield on_ray(None)
        else:
            address = request.getfixturevalue("cluster")
            yield on_ray(address)


@pytest.fixture(scope="class")
def executor(make: Make) -> Iterator[Executor]:
    """One that no test stops or closes."""
    made = make(Switch())
    made.start()
    yield made
    made.close()


# --- the contract ---


class TestOneExecutor:
    """Tests that share an executor."""

    def test_it_has_room_and_a_trial_of_a_cpu_takes_no_gpu(self, executor: Executor) -> None:
        assert executor.capacity() >= 1 and executor.gpus == 0

    def test_each_job_ends_once_however_it_ends(self, executor: Executor, tmp_path: Path) -> None:
        jobs = [job(tmp_path, "succeed", 1), job(tmp_path, "fail", 2), job(tmp_path, "succeed", 3)]
        for each in jobs:
            executor.submit(each)
        ended = list(executor.results())
        assert sorted(one.job.path for one in ended) == [each.path for each in jobs]
        assert not any(one.problem for one in ended), "how a trial ends is no matter of the executor's"
        assert [state(each) for each in jobs] == [TrialState.DONE, TrialState.FAILED, TrialState.DONE]
        assert list(executor.results()) == []

    def test_a_job_may_be_given_while_results_are_read(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(job(tmp_path, "succeed", 1))
        seen = []
        for ended in executor.results():
            seen.append(ended.job.path)
            if len(seen) < 3:
                executor.submit(job(tmp_path, "succeed", 1 + len(seen)))
        assert seen == [str(tmp_path / f"{number:012x}") for number in (1, 2, 3)]

    def test_its_caller_watches_while_a_trial_runs_and_stops_that_one_alone(self, executor: Executor, tmp_path: Path) -> None:
        stopped, next_one = job(tmp_path, "wait_for_stop", 1), job(tmp_path, "succeed", 2)
        lines = TrialDir(Path(stopped.path)).file(naming.METRICS_FILE)

        def watch() -> None:
            if lines.exists():
                Path(stopped.kwargs["stop_file"]).touch()

        executor.submit(stopped)
        executor.submit(next_one)
        assert len(list(executor.results(watch))) == 2
        assert (state(stopped), state(next_one)) == (TrialState.INTERRUPTED, TrialState.DONE)

    def test_a_trial_that_hangs_when_it_is_asked_to_stop_is_ended_and_its_place_is_free(self, executor: Executor, tmp_path: Path) -> None:
        hung, next_one = replace(job(tmp_path, "hang_when_asked", 1), stop_wait_s=0.5), job(tmp_path, "succeed", 2)
        lines = TrialDir(Path(hung.path)).file(naming.METRICS_FILE)

        def watch() -> None:
            if lines.exists():
                Path(hung.stop_file).touch()

        assert run_jobs(executor, [hung, next_one], watch) == []
        assert (state(hung), state(next_one)) == (TrialState.INTERRUPTED, TrialState.DONE)

    def test_a_lost_process_goes_on(self, executor: Executor, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        if isinstance(executor, InlineExecutor):
            pytest.skip("its trials have no process of their own")
        lost = job(tmp_path, "die_once", 1)
        assert run_jobs(executor, [lost]) == [] and state(lost) is TrialState.DONE


@pytest.mark.parametrize(
    "make",
    ["inline", pytest.param("Ray here", marks=RAY), pytest.param("Ray at an address", marks=[*RAY, pytest.mark.exhaustive])],
    indirect=True,
)
class TestAnExecutorEach:
    """Tests that stop or close one: a process has one connection to Ray at a time.

    At an address they run with ``--exhaustive``; test_cluster.py stops a run on a cluster, and has one whose cluster goes away.
    """

    def test_after_a_stop_no_trial_begins_and_every_job_ends_although_those_that_run_hang(self, make: Make, tmp_path: Path) -> None:
        stop = Switch()
        made = make(stop)
        made.start()
        jobs = [replace(job(tmp_path, "hang_when_asked", number), stop_wait_s=0.5) for number in range(6)]
        begun = [TrialDir(Path(each.path)).file(naming.METRICS_FILE) for each in jobs]

        def watch() -> None:
            if any(file.exists() for file in begun):
                stop.on = True
                for each in jobs:
                    Path(each.stop_file).touch()

        for each in jobs:
            made.submit(each)
        ended = list(made.results(watch))
        assert sorted(one.job.path for one in ended) == [each.path for each in jobs] and not any(one.problem for one in ended)
        states = [state(each) for each in jobs]
        assert states.count(TrialState.PLANNED) >= 6 - made.capacity()
        assert set(states) == {TrialState.INTERRUPTED, TrialState.PLANNED}
        made.close()

    def test_an_exception_of_the_watcher_reaches_the_caller_and_closing_ends_what_runs(self, make: Make, tmp_path: Path) -> None:
        class Full(Exception):
            pass

        made = make(Switch())
        made.start()
        endless = job(tmp_path, "wait_for_stop", 1)
        trial = TrialDir(Path(endless.path))

        def watch() -> None:
            if trial.file(naming.METRICS_FILE).exists():
                raise Full

        made.submit(endless)
        with pytest.raises(Full):
            list(made.results(watch))
        made.close()
        end = time.monotonic() + 30
        while trial.lease_alive() and time.monotonic() < end:
            time.sleep(0.1)
        assert not trial.lease_alive()

    def test_closing_one_that_has_never_started_or_twice_does_nothing(self, make: Make) -> None:
        made = make(Switch())
        made.close(wait=False)
        made.close()


# --- Ray ---


def test_ray_is_the_version_whose_unstable_options_were_checked() -> None:
    """When Ray moves: run the slow tests of this file, of test_run.py and test_cluster.py, then raise ``CHECKED_WITH``."""
    assert version("ray").startswith(CHECKED_WITH + ".")


@pytest.mark.parametrize(
    ("address", "words", "others"),
    [(None, "ports on this machine alone", "cluster"), ("head.example:6379", "log in to the cluster at head.example:6379", "this machine")],
)
def test_a_program_that_has_imported_ray_is_refused_in_words_that_fit(
    monkeypatch: pytest.MonkeyPatch, address: str | None, words: str, others: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    for name in [name for name in os.environ if name.startswith(("RAY_", "TUNE_"))]:
        monkeypatch.delenv(name)
    with pytest.raises(ResourceError) as raised:
        prepare_environment(address)
    (problem,) = raised.value.problems
    assert words in problem.message and others not in problem.message + problem.hint and problem.hint


def test_an_address_is_on_the_loopback_alone_unless_another_address_of_the_machine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not listens_on_loopback_alone("10.77.0.1:6379") and not listens_on_loopback_alone("head:6379")
    with socket.socket() as own, socket.socket() as every:
        own.bind(("127.0.0.1", 0))
        own.listen()
        assert listens_on_loopback_alone(f"127.0.0.1:{own.getsockname()[1]}")
        every.bind(("0.0.0.0", 0))
        every.listen()
        outer = SimpleNamespace(address="127.0.0.2", family=socket.AF_INET)  # stands for an address of the network
        monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [outer]})
        monkeypatch.setattr("gfl_lab.orchestrate.ray_cluster.LOOPBACK_NET", "127.0.0.1")
        assert not listens_on_loopback_alone(f"localhost:{every.getsockname()[1]}")
        assert listens_on_loopback_alone(f"localhost:{own.getsockname()[1]}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_of_this_machine_whose_head_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would abort this process a minute later."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("gfl_lab.orchestrate.ray_cluster.GONE_S", 1.0)
    monkeypatch.setattr("gfl_lab.orchestrate.ray_cluster.LOOK_S", 0.2)
    made, endless = on_ray(None)(Switch()), job(tmp_path, "wait_for_stop")

    def watch() -> None:
        if TrialDir(Path(endless.path)).file(naming.METRICS_FILE).exists():
            kill(process for process in family(os.getpid()) if "gcs_server" in process_name(process))

    made.submit(endless)
    try:
        with pytest.raises(ResourceError, match="Ray on this machine has not answered") as raised:
            list(made.results(watch))
        assert "same command again" in raised.value.problems[0].hint
    finally:
        made.close()


class NoRay:
    """Stands for a connection to Ray, whose settings it makes as that does; nothing is started."""

    address, gone = None, False

    def __init__(self, address: str | None, *, cpus: int, gpus: int) -> None:
        self.cpus = cpus

    def open(self) -> None:
        prepare_environment(self.address)

    def nodes(self) -> list[dict[str, float]]:
        return [{"CPU": self.cpus}]

    def check(self) -> None:
        """Do nothing."""

    def close(self, *, keep_logs: bool) -> None:
        """Do nothing."""


@pytest.mark.parametrize("error", [None, RuntimeError("first line\nthe loop broke"), OSError(28, "No space left on device")])
def test_a_tune_that_has_ended_by_itself_is_told_with_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def fit() -> None:
        if error:
            raise error

    monkeypatch.setattr(ray_tune, "RayConnection", NoRay)
    monkeypatch.setattr(ray_tune.TuneExecutor, "_tuner", lambda executor, storage: SimpleNamespace(fit=fit))
    made = on_ray(None)(Switch())
    jobs = [job(tmp_path, "succeed", number) for number in range(2)]
    with pytest.raises(ResourceError, match="Tune has ended with 2 trials left") as raised:
        run_jobs(made, jobs)
    (problem,) = raised.value.problems
    assert "Repeat the command" in problem.hint and "first line" not in problem.message
    assert error is None or str(error).splitlines()[-1] in problem.message
    made.close()


def test_a_tune_that_has_ended_after_a_stop_leaves_trials_that_never_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tune, "RayConnection", NoRay)
    monkeypatch.setattr(ray_tune.TuneExecutor, "_tuner", lambda executor, storage: SimpleNamespace(fit=lambda: None))
    stop = Switch()
    stop.on = True
    made, only = on_ray(None)(stop), job(tmp_path, "succeed")
    made.submit(only)
    assert list(made.results()) == [Ended(only)]
    made.close()


def test_tune_and_the_mirror_import_mlflow_in_turns_without_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same time Python may find a deadlock between their imports, and MLflow reads its settings when it is imported."""
    stop, begun, imported = Switch(), threading.Event(), threading.Event()

    def fit() -> None:
        begun.set()
        stop.on = True

    monkeypatch.setattr(ray_tune, "RayConnection", NoRay)
    monkeypatch.setattr(ray_tune.TuneExecutor, "_tuner", lambda executor, storage: SimpleNamespace(fit=fit))
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    made, mirror = on_ray(None)(stop), threading.Thread(target=lambda: quiet_import() and imported.set(), daemon=True)
    with importing_mlflow():
        mirror.start()
        assert made.capacity()
        assert not begun.wait(0.3) and not imported.is_set()
    assert begun.wait(60) and imported.wait(60)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    made.close()


def test_inline_a_trial_collects_no_garbage_among_what_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []

    succeed = fake_trial.succeed

    def counting(**given: object) -> None:
        frozen.append(gc.get_freeze_count())
        succeed(**given)

    monkeypatch.setattr(fake_trial, "succeed", counting)
    gc.unfreeze()
    made = InlineExecutor(Switch())
    made.submit(job(tmp_path, "succeed"))
    assert len(list(made.results())) == 1
    assert frozen[0] > 10_000 and gc.get_freeze_count() == 0


# --- the queue of jobs that a scheduler's workers may lose ---


def queue_of(folder: Path, *functions: str) -> tuple[JobQueue, list[Job]]:
    queue, jobs = JobQueue(lambda: False), [job(folder, name, number) for number, name in enumerate(functions)]
    for each in jobs:
        queue.submit(each)
    return queue, jobs


def test_jobs_are_handed_out_in_order_and_a_lost_one_at_the_end_again(tmp_path: Path) -> None:
    queue, jobs = queue_of(tmp_path, "succeed", "succeed")
    assert queue.hand_out("a", 0) == jobs[0] and queue.hand_out("b", 0) == jobs[1] and queue.hand_out("c", 0) is None
    queue.begun("a")
    assert not queue.idle
    queue.ended("a", "lost")
    assert queue.idle and queue.events.empty() and "lost; another worker" in (Path(jobs[0].path) / naming.LOG).read_text()
    queue.ended("b")
    assert queue.events.get_nowait() == Ended(jobs[1])
    assert queue.hand_out("d", 0) == jobs[0]
    queue.ended("d")
    assert queue.events.get_nowait() == Ended(jobs[0]) and queue.events.empty()


def test_a_job_that_takes_its_worker_with_it_each_time_comes_to_an_end(tmp_path: Path) -> None:
    queue, (only,) = queue_of(tmp_path, "succeed")
    for number in range(MAX_LOST):
        assert queue.hand_out(str(number), 0) == only
        queue.ended(str(number), "lost")
        assert queue.events.empty()
    queue.hand_out("last", 0)
    queue.ended("last", "lost")
    ended = queue.events.get_nowait()
    assert ended == Ended(only, "lost, 3 times without getting further") and queue.hand_out("none", 0) is None
    log = Path(only.path) / naming.LOG
    assert "lost, 3 times" in log.read_text()
    told = "trial 000000000000: lost, 3 times without getting further. The same command continues it; log: "
    assert problems_of([ended]) == [told + str(log)]


def test_one_problem_of_many_trials_is_one_sentence(tmp_path: Path) -> None:
    ended = [Ended(job(tmp_path, "succeed", number), "lost") for number in range(5)] + [Ended(job(tmp_path, "succeed", 9))]
    (told,) = problems_of(ended)
    assert told.startswith("5 trials (000000000000, 000000000001, 000000000002 and 2 more): lost. The same command continues them; log of")


def test_a_run_directory_that_cannot_be_read_ends_its_job_alone(tmp_path: Path) -> None:
    queue, (bad, good) = queue_of(tmp_path, "succeed", "succeed")
    TrialDir(Path(bad.path)).file(naming.METRICS_FILE).mkdir()
    assert queue.hand_out("a", 0) is None and queue.hand_out("b", 0) == good
    ended = queue.events.get_nowait()
    assert ended.job == bad and "cannot be read" in ended.problem


def test_a_job_that_gets_further_outlives_any_number_of_workers(tmp_path: Path) -> None:
    queue, (only,) = queue_of(tmp_path, "succeed")
    writer = MetricWriter(TrialDir(Path(only.path)).file(naming.METRICS_FILE))
    for number in range(5 * MAX_LOST):
        assert queue.hand_out(str(number), 0) == only
        writer.write("train", number + 1, 1, {"loss": 1.0})
        queue.ended(str(number), "lost")
    assert queue.events.empty()


def test_a_closed_queue_hands_nothing_out_again(tmp_path: Path) -> None:
    queue, (only,) = queue_of(tmp_path, "succeed")
    queue.hand_out("a", 0)
    queue.close()
    queue.ended("a", "lost")
    assert queue.over and queue.events.get_nowait() == Ended(only, "lost")
