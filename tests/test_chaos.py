"""The chaos run: how it deals faults and what it takes for different; and one short round of it."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import Lab, Round, State, deal, report, untimed
from benchmarks.chaos_faults import FAULTS, Scene, of_home
from tests.support.waiting import wait_until


def test_the_seed_fixes_the_faults_and_every_one_comes_up_before_any_comes_up_again() -> None:
    dealt = deal(30, random.Random(3), FAULTS)
    assert dealt == deal(30, random.Random(3), FAULTS) != deal(30, random.Random(4), FAULTS)
    assert all(1 <= len(hand) <= 4 for hand in dealt)
    kinds = [kind for hand in dealt for kind, _ in hand]
    for start in range(0, len(kinds) - len(FAULTS) + 1, len(FAULTS)):
        assert sorted(kinds[start : start + len(FAULTS)]) == sorted(FAULTS)


def test_times_do_not_count_and_every_other_number_does() -> None:
    table = {"rows": [{"metrics": {"AP": {"mean": 1.0}, "fps": {"mean": 9.0}}, "delta": {"latency_ms": 1}}], "final/fps": {0: 3.0}}
    assert untimed(table) == {"rows": [{"metrics": {"AP": {"mean": 1.0}}, "delta": {}}]}
    state = State(table={"AP": 1.0}, lines={"a": [1]}, mlflow={"run": {"val/AP": {1: 1.0}}}, weights={"a": "00"})
    assert state.differences(state) == []
    for field, other in (("table", {"AP": 1.0000001}), ("lines", {"a": [1, 1]}), ("mlflow", {}), ("weights", {"a": "01"})):
        (said,) = state.differences(dataclasses.replace(state, **{field: other}))
        assert field in said


def test_the_report_counts_hits_misses_and_rounds_that_differ() -> None:
    rounds = [
        Round(1, [("sigint", 2.0), ("driver_kill", None)], [130, 0], 60.0, []),
        Round(2, [("sigint", 2.0), ("sigint", 9.0)], [130, 130, 0], 60.0, ["the table differs"]),
    ]
    text = report(rounds, "--rounds 2")
    assert "1 of 2 rounds" in text and "| sigint | 3 | 0 | 2 | 1 |" in text and "| driver_kill | 0 | 1 | 0 | 0 |" in text
    assert "the table differs" in text


def test_processes_are_found_by_their_run_tree_and_later_actions_come_in_order(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], env=os.environ | {"GFL_LAB_HOME": str(tmp_path)}) as process:
        try:
            wait_until(lambda: of_home(tmp_path))  # right after its exec, a process may have no environment to read yet
            assert of_home(tmp_path) == {process.pid: "sleep 60"} and of_home(tmp_path / "other") == {}
        finally:
            process.kill()
    assert of_home(tmp_path) == {}
    scene, done = Scene(tmp_path, random.Random(0), start=lambda: None), []
    scene.after(100, lambda: done.append("later"))
    scene.after(0, lambda: done.append("first"))
    scene.due()
    assert done == ["first"] and len(scene.later) == 1
    scene.due(everything=True)
    assert done == ["first", "later"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_short_round_ends_with_the_same_state(tmp_path: Path) -> None:
    lab = Lab(tmp_path, epochs=3, profile=None)
    undisturbed = lab.play(0, [], random.Random(0))
    assert undisturbed.problems == [] and undisturbed.exits == [0] and lab.expected is not None
    played = lab.play(1, [("trial_kill", 0.0), ("driver_kill", 1.0)], random.Random(1))
    assert played.problems == [] and played.faults[0][1] is not None, str(played)


def test_it_says_which_faults_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", "--faults", "rain"], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 2 and "no such fault: rain" in done.stderr and "driver_kill" in done.stderr
