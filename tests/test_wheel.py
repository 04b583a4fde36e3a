"""The wheel, installed into an environment of its own and used in an empty folder: what a user of `pip install` has.

The environment sees the libraries of the one that runs the tests, but not the checkout: a ``.pth`` file adds their folder, and
Python reads no ``.pth`` files in a folder that was added in this way, so the editable installation is not seen.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder to work in."""

    python: Path
    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command of the environment in the folder and return its stdout; it must end with exit code ``code``."""
        program = [str(self.python.with_name(command[0])), *command[1:]]
        done = subprocess.run(program, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory, mlflow_db: Path) -> Installed:
    place = tmp_path_factory.mktemp("env")
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` sets the one; pip itself takes some seconds to install
    subprocess.run([sys.executable, "-m", "venv", *["--without-pip"] * bool(uv), str(place)], check=True, capture_output=True)
    python = place / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GFL_LAB", "MLFLOW", "COV_", "PYTEST"))}
    install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    subprocess.run([*install, "--quiet", "--no-index", "--no-deps", str(wheel)], env=environment, check=True, capture_output=True)
    libraries = sysconfig.get_path("purelib")
    site = place / Path(libraries).relative_to(sys.prefix)
    (site / "libraries_of_the_tests.pth").write_text(f"{libraries}\n")
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    shutil.copy(mlflow_db, home)
    return Installed(python, folder, environment | {"GFL_LAB_HOME": str(home)})


def test_the_wheel_claims_one_top_level_name_and_holds_no_leftovers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"gfl_lab"}
    info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE", "gfl_lab/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pth"))]
    for folder in ("experiments", "dashboard"):
        listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
        if listed.returncode:
            pytest.skip("not a git checkout")
        assert {f"gfl_lab/_shipped/{name}" for name in listed.stdout.split()} <= set(names)


def test_the_wheel_is_what_is_imported(installed: Installed) -> None:
    program = (
        "import gfl_lab, importlib.metadata, importlib.util, json; from gfl_lab import shipped; "
        "print(json.dumps([gfl_lab.__file__, str(importlib.util.find_spec('dashboard')), str(shipped.root()), "
        "importlib.metadata.version('gfl-lab'), gfl_lab.__version__, shipped.damaged()]))"
    )
    file, dashboard, root, version, own, damaged = json.loads(installed.run("python", "-c", program))
    place = installed.python.parent.parent
    assert Path(file).is_relative_to(place) and Path(root).is_relative_to(place) and dashboard == "None"
    assert version == own and damaged == []


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from gfl_lab.cli.main import main
ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["gfl-lab", *arguments]
    code, out = 0, io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    ended.append([code, out.getvalue()])
print(json.dumps(ended))
"""
"""Calls gfl-lab with each list of arguments; prints exit codes and outputs."""


def test_init_plan_run_published_and_doctor_in_an_empty_folder(installed: Installed) -> None:
    assert list(installed.folder.iterdir()) == []
    assert installed.run("gfl-lab", "init", "lab").strip() == "lab"
    assert (installed.folder / "lab" / "profiles" / "smoke.yaml").is_file()
    commands = [  # in one process, which imports torch once
        ["init", "lab"],
        ["plan", "table3_qfl_dfl", "--profile", "smoke", "--json"],
        ["run", "lab/table3_qfl_dfl.yaml", "--profile", "smoke", "--executor", "inline", "--json"],
        ["published", "--json"],
        ["doctor", "--json"],
    ]
    ended = json.loads(installed.run("python", "-P", "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)).splitlines()[-1])
    assert [code for code, _ in ended] == [2, 0, 0, 0, 0], ended
    plan, table, published, doctor = (json.loads(out) for _, out in ended[1:])
    assert len(plan["rows"]) == 4
    assert len(table["rows"]) == 4 and all(row["metrics"]["AP"]["n"] == 1 for row in table["rows"])
    rows = published["rows"]
    assert len(rows) > 200 and sum(row["runnable"] for row in rows) >= 100
    checks = doctor["rows"]
    assert [row for row in checks if row["check"] == "files"] and all(row["ok"] for row in checks)


def test_the_dashboard_comes_up_and_its_pages_render(installed: Installed) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(installed.python.with_name("gfl-lab")), "dashboard", f"--port={port}"]
    process = subprocess.Popen(command, cwd=installed.folder, env=installed.environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("dashboard:"))  # in a container a warning comes before it
        address = said.split()[1]
        assert address.startswith("http://127.0.0.1:")
        answer = ""
        deadline = time.monotonic() + 120
        while answer != "ok" and time.monotonic() < deadline and process.poll() is None:
            try:
                answer = urllib.request.urlopen(f"{address}/_stcore/health", timeout=10).read().decode()
            except OSError:
                time.sleep(0.2)  # it does not listen yet
        assert answer == "ok"
        assert "streamlit" in urllib.request.urlopen(address, timeout=30).read().decode().lower()
    finally:
        process.terminate()
        process.wait(timeout=60)
    program = (
        "from streamlit.testing.v1 import AppTest; from gfl_lab import shipped\n"
        "app = AppTest.from_file(str(shipped.dashboard() / 'app.py'), default_timeout=120).run()\n"
        "assert not app.exception, app.exception\n"
        "for page in ('table', 'curves', 'trials', 'guide'):\n"
        "    app.switch_page(f'views/{page}.py').run()\n"
        "    assert not app.exception, app.exception\n"
        "import dashboard; print(dashboard.__file__)"
    )
    place = Path(installed.run("python", "-P", "-c", program).split()[-1])
    assert place.is_relative_to(installed.python.parent.parent)


def test_a_file_that_is_missing_is_named(installed: Installed) -> None:
    """Last: it takes the published tables away."""
    program = "from gfl_lab import shipped; print(shipped.experiments() / shipped.PUBLISHED)"
    tables = Path(installed.run("python", "-c", program).strip())
    assert tables.is_relative_to(installed.python.parent.parent)
    tables.rename(tables.with_name("away"))
    installed.run("gfl-lab", "published", code=6)
    doctor = (  # without its other checks: one of them builds a detector
        "from gfl_lab.maintenance.doctor import CHECKS; [CHECKS.pop(name) for name in [*CHECKS] if name != 'files']; "
        "from gfl_lab.cli.main import main; main()"
    )
    checks = json.loads(installed.run("python", "-P", "-c", doctor, "doctor", "--json", code=6))["rows"]
    wrong = [row["message"] for row in checks if not row["ok"]]
    assert any("missing or damaged: gfl_lab/_shipped/experiments/published/" in message for message in wrong)
