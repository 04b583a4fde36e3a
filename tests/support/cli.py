"""The command line in this process, as a user meets it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from gfl_lab.cli.main import main

Cli = Callable[..., tuple[int, str, str]]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *verb: str) -> Cli:
    """What runs ``gfl-lab [verb] ARGUMENTS`` and gives exit code, stdout and stderr; a traceback fails the test."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gfl-lab", *verb, *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run
