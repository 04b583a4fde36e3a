"""docs/tutorial.md: its commands run in their order, and the page shows what they print.

Replacements keep it cheap: the profile is ``smoke``, one epoch instead of six, trials run inline instead of on Ray, and without MLflow. Numbers, times,
ids, paths and verdicts are masked; a line ``…`` stands for any number of lines.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from gfl_lab.cli import main as command_line
from gfl_lab.session.session import RunOptions
from tests.support.no_mirror import NoMirror

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
PREFIX = "uv run gfl-lab "
VERDICT = r"(?:better|worse|inconclusive|equivalent|no signal|no spread)(?:,? within ±\S+)?(?: \(weak\))?"
MASKS = (
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"estimated time .*", "TIME"),
    (r"(?<=planned)  +(?:unknown|[\d msh]+)", "  "),
    (r"(?<=:)\d{4}\b|/\S+(?=/experiments/|  +\(Ctrl-C)|/\S+/runs", ""),
    (r"\b(?:desk|smoke)\b", "PROFILE"),
    (VERDICT, "VERDICT"),
    (r"[+−±]? ?\d[\d.,]*(?:/\d+)?(?: to [+−]?[\d.]+)?(?: seeds\b)?|(?<= )–(?= |$)", "#"),
    (r"(?:≥|over) ?# ?(?:images|seeds)?|# images\b", "#"),
    (r"# # ?#|# #", "#"),
    (r"─+", "─"),
    (r"\s+", " "),
)


def masked(text: str) -> list[str]:
    """Return the lines without what differs from run to run; empty lines are left out."""
    lines = []
    for line in text.splitlines():
        for pattern, word in MASKS:
            line = re.sub(pattern, word, line)
        lines.append(re.sub(r"(?:# ?)+", "# ", line).strip())
    return [line for line in lines if line]


def missing(shown: list[str], printed: list[str]) -> str | None:
    """Return the first line of ``shown`` that ``printed`` does not have at its place; None if the page is right."""
    place, elided = 0, False
    for line in shown:
        if line == "…":
            elided = True
            continue
        found = printed.index(line, place) if line in printed[place:] else None
        if found is None or (found != place and not elided):
            return line
        place, elided = found + 1, False
    return None if elided or place == len(printed) else f"(left out) {printed[place]}"


@pytest.mark.slow
def test_the_commands_of_the_tutorial_print_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GFL_LAB_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("gfl_lab.cli.dashboard.warn_of_container", lambda: None)
    monkeypatch.setattr("gfl_lab.session.session.start_mirror", NoMirror)
    monkeypatch.setattr(os, "execvpe", lambda *_: sys.exit(0))  # the dashboard serves until Ctrl-C
    made = RunOptions.__init__
    monkeypatch.setattr(RunOptions, "__init__", lambda self, executor="ray", *others, **named: made(self, "inline", *others, **named))
    (experiment,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("my_first.yaml").write_text(experiment.replace("profile: desk", "profile: smoke").replace("epochs: 6", "epochs: 1"))
    commands = re.findall(r"```sh\n(.*?)\n```(?:\n\n```text\n(.*?)```)?", PAGE, re.DOTALL)
    assert [command.split()[3] for command, _ in commands[1:]] == ["plan", "run", "compare", "dashboard", "status"]
    for command, shown in commands:
        if command == "pip install uv":
            continue
        assert command.startswith(PREFIX) and shown, command
        printed = io.StringIO()
        monkeypatch.setattr(sys, "argv", ["gfl-lab", *shlex.split(command.removeprefix(PREFIX))])
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as end:
            command_line.main()
            sys.exit(0)
        assert not end.value.code, printed.getvalue()
        wrong = missing(masked(shown), masked(printed.getvalue()))
        assert wrong is None, f"{command}: {wrong}\n" + "\n".join(masked(printed.getvalue()))


def test_masks_leave_words_and_a_wrong_line_is_found() -> None:
    assert (
        masked("dfl=on   seed 0  185b5b684656  planned  58 s")
        == masked("dfl=on   seed 1  5053e4c9f993  planned")
        == ["dfl=on seed# ID planned"]
    )
    assert missing(["a", "…", "c"], ["a", "b", "c"]) is None and missing(["a", "c"], ["a", "b", "c"]) == "c"
    assert missing(["a"], ["a", "b"]) == "(left out) b" and missing(["…", "d"], ["a"]) == "d"
