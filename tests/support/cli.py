"""The command line in this process, as a user meets it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from gfl_lab.cli.main import main

Cli = Callable[..., tuple[int, str, str]]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: str) -> Cli:
    """Return a function that runs ``gfl-lab [command] ARGUMENTS`` and returns exit code, stdout and stderr. A traceback fails the test."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gfl-lab", *command, *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err, out + err
        return code, out, err

    return run
