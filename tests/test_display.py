"""The display of running trials: rows with bars on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gfl_lab.cli.display import display
from gfl_lab.cli.progress import counter
from gfl_lab.session.reporting import Progress, TrialState


def console(height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, height=height, color_system=None, markup=False)


def last_frame(screen: Console) -> list[str]:
    """The rows that stay on the terminal when the display has ended."""
    file = screen.file
    assert isinstance(file, io.StringIO)
    return [line.strip() for line in file.getvalue().rpartition("\x1b[2K")[2].splitlines() if line.strip("\x1b[?25h ")]


def trial(number: int, state: TrialState, step: int = 0, **more: float) -> Progress:
    return Progress(f"t{number}", f"variant{number}[x] 0", state, 1, 2, step, 10, **more)


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


def test_elsewhere_than_on_a_terminal_a_count_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with counter("evaluating", "image") as count:
        for _ in range(2):  # a second evaluation of the same images
            for done in range(1, 4):
                count(done, 3)
        count(1, 1)
    assert capsys.readouterr().err.splitlines() == ["evaluating 3 images"] * 2 + ["evaluating 1 image"]
