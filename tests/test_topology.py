"""The whole installation from real processes (deploy/topology.py): PostgreSQL, S3 (moto's), MLflow server, Ray, dashboard, and a run on it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.topology import postgres_programs
from gfl_lab.naming import TAG_KIND
from gfl_lab.rundir import RunTree
from tests.support.processes import command_line, family, left_after, listening, process_name, users
from tests.test_run import PROFILE

ROOT = Path(__file__).parents[1]
EXPERIMENT = "name: smoke\nprofile: tiny\naxes: {dfl: [false, true]}\ntable: {metrics: [AP, AP50]}\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed (apt-get install postgresql)"),
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own account may pass through, which pytest's folders do not allow."""
    made = Path(tempfile.mkdtemp(prefix="gfl-topology-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def services(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(ROOT / "deploy" / "topology.py"), str(folder), "--workers", "1", "--cpus", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[-1].startswith("use it:"), process.communicate(timeout=60)
        yield process
    finally:
        process.terminate()
        process.wait(120)


@pytest.fixture(scope="module")
def variables(folder: Path, services: subprocess.Popen[str]) -> dict[str, str]:
    """Return the exports of lab.env."""
    file = folder / "lab.env"
    assert file.stat().st_mode & 0o777 == 0o600 and (folder / "secrets.env").stat().st_mode & 0o777 == 0o600
    return dict(word.split("=", 1) for line in file.read_text().splitlines() for word in shlex.split(line)[1:])


def test_a_run_ends_in_postgresql_s3_and_the_dashboard(folder: Path, variables: dict[str, str]) -> None:
    (folder / "profiles").mkdir()
    (folder / "profiles" / "tiny.yaml").write_text(PROFILE.replace("EPOCHS", "1"))
    file = folder / "smoke.yaml"
    file.write_text(EXPERIMENT)
    command = [sys.executable, "-m", "gfl_lab.cli.main", "run", str(file), "--address", variables["LAB_ADDRESS"], "--json"]
    ran = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    assert [row["trials"][0]["state"] for row in json.loads(ran.stdout)["rows"]] == ["done", "done"]
    assert "MLflow is not complete" not in ran.stderr
    tree = RunTree(folder / "runs")
    assert not (tree.root / "mlflow.db").exists()

    from mlflow.tracking import MlflowClient

    client = MlflowClient(variables["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    parent = next(run for run in runs if run.data.tags[TAG_KIND] == "experiment")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(runs) == 3 and len(children) == 2 and {run.info.status for run in runs} == {"FINISHED"}

    import psycopg2

    secret = dict(line.split("=", 1) for line in (folder / "secrets.env").read_text().splitlines())
    port = int((folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[3])
    with psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", password=secret["POSTGRES_PASSWORD"], dbname="mlflow") as database:
        cursor = database.cursor()
        cursor.execute("select run_uuid from runs where status = 'FINISHED'")
        assert {run for (run,) in cursor.fetchall()} == {run.info.run_id for run in runs}
    database.close()
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", password="", dbname="mlflow")

    child = children[0]
    assert child.info.artifact_uri.startswith("mlflow-artifacts:"), "clients need no key of the storage"
    names = [item.path for item in client.list_artifacts(child.info.run_id) if not item.is_dir]
    assert "result.json" in names
    fetched = Path(client.download_artifacts(child.info.run_id, "result.json", str(folder)))
    assert json.loads(fetched.read_text())["trial"] in {trial.id for trial in tree.trials()}

    url = variables["LAB_DASHBOARD"]
    assert urllib.request.urlopen(f"{url}/_stcore/health", timeout=10).read() == b"ok"
    assert b"<title>" in urllib.request.urlopen(url, timeout=10).read()


def test_nothing_is_open_to_the_network_and_nothing_stays(folder: Path, services: subprocess.Popen[str], variables: dict[str, str]) -> None:
    _, *below = family(services.pid)
    databases = [process for process in below if process_name(process) == "postgres"]
    assert {"postgres", "raylet", "gcs_server"} <= {process_name(process) for process in below}
    assert databases and 0 not in users(databases)
    open_at = listening(below)
    assert open_at and {address for _, address in open_at} <= {"127.0.0.1", "::1"}, open_at
    secret = variables["RAY_AUTH_TOKEN"]
    assert not [process for process in below if secret in command_line(process)]

    services.send_signal(signal.SIGTERM)
    assert services.wait(120) == 0
    assert not left_after(below, 20)
    assert not (folder / "lab.env").exists()
