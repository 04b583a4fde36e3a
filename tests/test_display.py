"""The display of running trials: rows with bars on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import gfl_lab
from gfl_lab.cli.display import display
from gfl_lab.cli.progress import counter
from gfl_lab.session.reporting import LineReporter, Progress, TrialState


def console(height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, height=height, color_system=None, markup=False)


def last_frame(screen: Console) -> list[str]:
    """The rows that stay on the terminal when the display has ended."""
    file = screen.file
    assert isinstance(file, io.StringIO)
    return [line.strip() for line in file.getvalue().rpartition("\x1b[2K")[2].splitlines() if line.strip("\x1b[?25h ")]


def trial(
    number: int, state: TrialState, step: int = 0, loss: float | None = None, ap: float | None = None, eta_s: float | None = None
) -> Progress:
    return Progress(f"t{number}", f"variant{number}[x] 0", state, 1, 2, step, 10, loss, ap, eta_s)


def test_each_trial_has_a_row_with_its_bar() -> None:
    screen = console()
    with display(screen) as listen:
        listen([trial(0, TrialState.RUNNING, 1), trial(1, TrialState.PLANNED)])
        listen(
            [trial(0, TrialState.RUNNING, 5, loss=1.25, ap=31.4, eta_s=60.0), trial(1, TrialState.RUNNING, 10), trial(2, TrialState.FAILED)]
        )
    first, second, third = last_frame(screen)
    assert "variant0[x] 0" in first and "epoch 1/2" in first and "loss 1.250" in first and "AP 31.4" in first and "left" in first
    assert "━" in first and "evaluates" in second and "loss -" in second and "failed" in third


@pytest.mark.parametrize("height", [6, 8])
def test_where_not_all_fit_the_running_and_failed_ones_are_shown_and_all_counted(height: int) -> None:
    screen = console(height)
    done = [trial(number, TrialState.DONE, 10) for number in range(20)]
    with display(screen) as listen:
        listen([*done, trial(20, TrialState.FAILED), trial(21, TrialState.RUNNING, 3), trial(22, TrialState.PLANNED)])
    rows = last_frame(screen)
    assert [row.split("[")[0] for row in rows[:-1]] == ["variant20", "variant21"]
    assert rows[-1] == "20 done, 1 failed, 1 running, 1 waiting"


STEPS = (
    [trial(0, TrialState.PLANNED)],
    [trial(0, TrialState.RUNNING)],
    [trial(0, TrialState.RUNNING, 5, loss=1.25, ap=31.4, eta_s=60.0)],
    [trial(0, TrialState.RUNNING, 6, loss=1.2, ap=31.4, eta_s=50.0)],
    [trial(0, TrialState.DONE, 10, loss=1.0, ap=33.0)],
)
LINES = [
    "[variant0[x] 0] trains",
    "[variant0[x] 0] trains  epoch 1/2  step 5/10  loss 1.250  AP 31.4  1 min 00 s left",
    "[variant0[x] 0] done  epoch 1/2  step 10/10  loss 1.000  AP 33.0",
]


def test_python_users_get_the_lines_of_a_run_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Console(file=io.StringIO(), width=40, markup=False)
    for context in (display(plain), LineReporter().progress()):
        with context as listen:
            for step in STEPS:
                listen(step)
    assert isinstance(plain.file, io.StringIO)
    assert capsys.readouterr().err.splitlines() == plain.file.getvalue().splitlines() == LINES


def test_a_resumed_trial_has_a_line_for_where_it_resumes() -> None:
    """It comes with the first step, whose number shows the checkpoint's. A trial that repeats nothing has no such line."""
    plain = Console(file=io.StringIO(), width=100, markup=False)
    old = trial(0, TrialState.RUNNING, 9, loss=1.25, ap=31.4)
    first = replace(trial(0, TrialState.RUNNING, 6, loss=1.25, ap=31.4, eta_s=4.0), resumed_from=(1, 5))
    with display(plain) as listen:
        for step in (trial(0, TrialState.PLANNED, 9), replace(old, resuming=True), first, replace(first, step=7)):
            listen([step])
        listen([trial(0, TrialState.DONE, 10, loss=1.0, ap=33.0)])
    assert isinstance(plain.file, io.StringIO)
    lines = plain.file.getvalue().splitlines()
    assert lines == ["[variant0[x] 0] resumes from epoch 1, step 5", "[variant0[x] 0] done  epoch 1/2  step 10/10  loss 1.000  AP 33.0"]
    screen = console()
    with display(screen) as listen:
        listen([replace(old, resuming=True)])
    assert "resumes" in last_frame(screen)[0]


@pytest.mark.parametrize("options", [{"progress": False}, {"verbose": False}])
def test_progress_can_be_left_out(options: dict[str, bool], capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter(**options).progress() as listen:
        for step in STEPS:
            listen(step)
    assert capsys.readouterr() == ("", "")


def test_a_lab_shows_progress_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reporters: list[LineReporter] = []

    class Recorded:
        def __init__(self, files: object, tree: object, reporter: LineReporter, *_: object) -> None:
            reporters.append(reporter)

        def run(self) -> None:
            """Do nothing."""

    monkeypatch.setattr("gfl_lab.session.looks.Session", Recorded)
    for verbose in (True, False):
        for progress in (True, False):
            gfl_lab.open(tmp_path, verbose=verbose).run("table3_qfl_dfl", profile="smoke", progress=progress)
    gfl_lab.open(tmp_path).run("table3_qfl_dfl", profile="smoke")
    assert [reporter.shows_progress for reporter in reporters] == [True, False, False, False, True]


def test_elsewhere_than_on_a_terminal_a_count_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with counter("evaluating", "image") as count:
        for _ in range(2):  # a second evaluation of the same images
            for done in range(1, 4):
                count(done, 3)
        count(1, 1)
    assert capsys.readouterr().err.splitlines() == ["evaluating 3 images"] * 2 + ["evaluating 1 image"]
