"""The run tree: atomic writes, states, leases, metric lines."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gfl_lab import naming, rundir
from gfl_lab.errors import FormatError, StoreError
from gfl_lab.records.accumulation import Accumulation
from gfl_lab.records.files import atomic_path, read_json, write_json
from gfl_lab.records.lease import write_lease
from gfl_lab.records.metric_lines import MetricWriter, read_metric_lines
from gfl_lab.rundir import RunTree, TrialDir, TrialState


@pytest.fixture
def trial(tmp_path: Path) -> TrialDir:
    folder = RunTree(tmp_path).trial("0123456789ab")
    folder.path.mkdir(parents=True)
    return folder


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(ValueError):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_told_with_the_file_that_found_no_room(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(OSError) as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() does, without a name
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", '{"format": 99}', '{"format": 0}', '{"format": "x"}', '{"format": true}'])
def test_a_damaged_newer_or_older_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match="plan.json"):
        read_json(path)


def test_states_follow_from_files(trial: TrialDir) -> None:
    assert trial.state() is TrialState.PLANNED
    trial.take_lease()
    assert trial.state() is TrialState.RUNNING
    MetricWriter(trial.file(naming.METRICS_FILE)).write("train", 1, 1, {"loss": 1.0})
    trial.drop_lease()
    assert trial.state() is TrialState.INTERRUPTED
    write_json(trial.file(naming.RESULT), {"format": 1, "status": "done", "metrics": {"AP": 1.0}})
    assert trial.state() is TrialState.DONE
    for damaged in ({"status": "done"}, {"status": "finished"}, {}):
        write_json(trial.file(naming.RESULT), {"format": 1, **damaged})
        assert trial.state() is TrialState.INTERRUPTED, damaged
    trial.file(naming.RESULT).write_text("{torn")
    assert trial.state() is TrialState.INTERRUPTED


@pytest.mark.parametrize(("version", "way_out"), [(99, "Use the newer gfl-lab"), (0, "move the folder away")])
def test_a_result_of_another_format_is_neither_done_nor_to_be_done_again(trial: TrialDir, version: int, way_out: str) -> None:
    write_json(trial.file(naming.RESULT), {"format": version, "status": "done", "metrics": {}})
    with pytest.raises(FormatError, match=f"result.json has format {version}(.|\n)*{way_out}"):
        trial.state()
    write_json(trial.file(naming.RESULT), {"status": "done", "metrics": {}})
    assert trial.state() is TrialState.DONE, "without a format a file is judged by what it holds"


def test_whoever_holds_the_lease_clears_what_a_killed_process_left(trial: TrialDir) -> None:
    for name in (".last.pth.abc.tmp", ".eval.npz.x.tmp", ".manifest.json.y.tmp"):
        trial.file(name).write_bytes(b"half")
    trial.prepare()
    assert sorted(os.listdir(trial.path)) == [".manifest.json.y.tmp", naming.RESERVE], "a manifest is written by drivers"
    assert trial.file(naming.RESERVE).stat().st_size == rundir.RESERVE_BYTES
    trial.release_reserve()
    assert not trial.file(naming.RESERVE).exists()


def test_how_batches_are_split_is_read_back_and_never_guessed(trial: TrialDir) -> None:
    assert trial.accumulation() is None
    trial.write_accumulation(Accumulation(4))
    assert trial.accumulation() == Accumulation(4)
    for damaged in ("{", "{}", '{"parts": 1}', '{"parts": 2, "since_step": "x"}'):
        trial.file(naming.ACCUMULATION).write_text(damaged)
        with pytest.raises(StoreError, match=naming.ACCUMULATION):
            trial.accumulation()


def test_a_lease_that_cannot_be_read_goes_by_its_age(trial: TrialDir) -> None:
    trial.file(naming.LEASE).write_text("")
    assert trial.lease_alive()
    os.utime(trial.file(naming.LEASE), (0, 0))
    assert not trial.lease_alive()


def test_the_lease_of_a_killed_process_is_dead_even_if_its_pid_lives_again(trial: TrialDir) -> None:
    code = f"import time; from pathlib import Path; from gfl_lab.rundir import TrialDir; TrialDir(Path({str(trial.path)!r})).take_lease(); print('x', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert trial.state() is TrialState.RUNNING
    with pytest.raises(StoreError, match=str(process.pid)):
        trial.take_lease()
    process.kill()
    process.wait()
    assert not trial.lease_alive()
    lease = json.loads(trial.file(naming.LEASE).read_text())
    write_json(trial.file(naming.LEASE), lease | {"pid": os.getpid()})  # the pid lives, the process is another
    assert not trial.lease_alive()
    trial.take_lease()
    assert trial.lease_alive()


def test_a_lease_of_another_host_goes_by_its_age(trial: TrialDir) -> None:
    write_json(trial.file(naming.LEASE), {"format": 1, "pid": 1, "start": 1, "host": "elsewhere", "since": time.time()})
    assert trial.lease_alive()
    old = time.time() - rundir.LEASE_STALE_S - 1
    os.utime(trial.file(naming.LEASE), (old, old))
    assert not trial.lease_alive()
    trial.touch_lease()
    assert trial.lease_alive()


def test_the_lease_of_another_host_with_our_pid_is_not_ours(trial: TrialDir) -> None:
    trial.take_lease()
    write_lease(trial.file(naming.LEASE), replace(trial.lease(), host="elsewhere"))
    with pytest.raises(StoreError, match="elsewhere"):
        trial.take_lease()


def test_metric_lines_are_read_as_they_come_and_torn_ones_wait(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path)
    writer.write("train", 1, 1, {"loss": 2.0})
    lines, offset = read_metric_lines(path)
    assert [line.metrics["loss"] for line in lines] == [2.0]
    with path.open("ab") as file:
        file.write(b'{"kind":"train","step":2,')
    assert read_metric_lines(path, offset) == ([], offset)
    with path.open("ab") as file:
        file.write(b'"epoch":1,"time":0,"metrics":{"loss":1.0}}\n')
    lines, offset = read_metric_lines(path, offset)
    assert [line.step for line in lines] == [2]
    writer.truncate_after(1)
    assert [line.step for line in read_metric_lines(path)[0]] == [1]
    lines, _ = read_metric_lines(path, offset)
    assert [line.step for line in lines] == [1], "a file cut back is read from its start"


def test_an_evaluation_that_is_done_again_has_one_line_and_lines_of_another_shape_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path)
    for epoch in (1, 2):
        writer.write("train", epoch, epoch, {"loss": 1.0})
        writer.write("val", epoch, epoch, {"AP": 1.0})
    with path.open("a") as file:
        file.write(
            '{"metrics": {"loss": 1}}\n{"kind": "train", "step": "3", "epoch": 1, "metrics": {}}\n{"step": 1, "epoch": 1, "metrics": 5}\n'
        )
    writer.truncate_after(2, unevaluated_from=2)
    assert [(line.kind, line.step) for line in read_metric_lines(path)[0]] == [("train", 1), ("val", 1), ("train", 2)]


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_half(tmp_path: Path) -> None:
    """The system takes what fits and refuses the next byte; here by a limit on the size of files."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from gfl_lab.records.metric_lines import MetricWriter\n"
        "writer = MetricWriter(Path(sys.argv[1])); writer.write('train', 1, 1, {'loss': 1.0})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "size = Path(sys.argv[1]).stat().st_size + 10; resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "try: writer.write('train', 2, 1, {'loss': 1.0})\n"
        "except OSError as error: print(error.errno)"
    )
    path = tmp_path / "metrics.jsonl"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout.strip() == str(errno.ENOSPC), done.stderr
    assert path.read_bytes().count(b"\n") == 1 and path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("text", ["../../etc", "0123456789AB", "0123456789ab/", "", "0123456789abc"])
def test_only_an_id_is_a_trial(tmp_path: Path, text: str) -> None:
    with pytest.raises(StoreError):
        RunTree(tmp_path).trial(text)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "-x", ".x", "a..b", "a\n", "x" * 101])
def test_only_a_name_is_an_experiment(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        RunTree(tmp_path).experiment(name, "desk")


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "r"))
    assert rundir.home() == tmp_path / "r"
    monkeypatch.delenv("GFL_LAB_HOME")
    monkeypatch.chdir(tmp_path)
    assert rundir.home() == tmp_path / "runs"
