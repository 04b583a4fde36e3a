"""The services of docker-compose.yml as plain processes on this machine, without Docker: everything on 127.0.0.1.

    python deploy/topology.py FOLDER

starts PostgreSQL (Debian's packages), an S3 server, `mlflow server` over both, a Ray head, Ray workers and the dashboard, waits
until each answers, prints their addresses, and stops all of them on Ctrl-C or SIGTERM. FOLDER keeps the database, the runs, logs,
and `lab.env`: the variables with which `gfl-lab run --address` finds the services, secrets among them (mode 0600).

The S3 server is moto's: a test double, which keeps artifacts in memory and takes any key. They are gone when it stops (the run
directories are the truth, `gfl-lab sync` sends them again); for artifacts that stay use docker-compose.yml or your own storage.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from gfl_lab.orchestrate.ray_cluster import LOOPBACK_ONLY

HOST = "127.0.0.1"
BUCKET = "mlflow"
RAY_ON_LOOPBACK = f"""
from ray._private import services
from ray.scripts.scripts import main
services.get_node_ip_address = lambda address=None: "{HOST}"
main()
"""
"""`ray start` with 127.0.0.1 taken literally. By default Ray replaces it by the machine's outer address. It takes another address of the
loopback literally, but listens on all of the machine's then. The variable of `ray_cluster.LOOPBACK_ONLY` allows no second node. So a
private name of Ray's is replaced, here alone; tests/test_topology.py looks at every port, with the Ray of `ray_cluster.CHECKED_WITH`."""

START_S = 600.0
STOP_S = 15.0


class Failed(Exception):
    """A service that did not start; the message has its name and the reason."""


class Services:
    """Processes that start one after the other and stop in reverse; none outlives this one."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(
        self,
        name: str,
        command: list[str],
        ready: Callable[[], object],
        environment: dict[str, str],
        user: str | None = None,
        tries: int = 1,
    ) -> None:
        """Start a service and wait until ``ready`` gives something true. One that ends before is started anew, ``tries`` times in all.

        Raises:
            Failed: it ended, or was not ready in time.
        """
        path = self._logs / f"{name}.log"
        for last in [False] * (tries - 1) + [True]:
            with path.open("wb") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, preexec_fn=_end_with_parent, **_as(user)
                )  # fmt: skip
            self._running.append((name, process))
            end = time.monotonic() + START_S
            while process.poll() is None and time.monotonic() < end:
                if _holds(ready):
                    print(f"{name} runs", file=sys.stderr, flush=True)
                    return
                time.sleep(0.2)
            if last or process.poll() is None:
                what = f"did not answer within {START_S:.0f} s" if process.poll() is None else "ended"
                raise Failed(f"{name} {what}; the end of {path}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
            self._running.pop()

    def log(self, name: str) -> str:
        """Return the output of a service so far."""
        return (self._logs / f"{name}.log").read_text(errors="replace")

    def ended(self) -> list[str]:
        """Return the names of services that have ended by themselves."""
        return [name for name, process in self._running if process.poll() is not None]

    def stop(self) -> None:
        """Stop everything, the last first; what does not go is killed, with all that it had started."""
        for name, process in reversed(self._running):
            family = []
            with contextlib.suppress(psutil.Error):
                family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)  # SIGINT: "fast shutdown"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            _, left = psutil.wait_procs([child for child in family if child.is_running()], timeout=2)
            for child in left:
                with contextlib.suppress(psutil.Error):
                    child.kill()
            process.kill()
            process.wait()
        self._running.clear()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: also when this program is killed


def _as(user: str | None) -> dict[str, object]:
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _holds(condition: Callable[[], object]) -> object:
    try:
        return condition()
    except (ConnectionError, TimeoutError, urllib.error.URLError):
        return False


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200


def _listens(port: int) -> bool:
    with socket.create_connection((HOST, port), 2):
        return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _secrets(path: Path) -> dict[str, str]:
    """Return the secrets, made once; the database keeps its password."""
    if path.exists():
        return dict(line.split("=", 1) for line in path.read_text().splitlines())
    made = {name: secrets.token_hex(32) for name in ("RAY_AUTH_TOKEN", "POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    _write_private(path, "".join(f"{name}={value}\n" for name, value in made.items()))
    return made


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's server programs: on the path, or in Debian's place. None when they are not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent  # initdb may be a link; the other programs lie beside what it leads to
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return folders[-1].parent if folders else None


def start_postgres(services: Services, folder: Path, port: int, password: str) -> str:
    """Start PostgreSQL with a database for MLflow. It refuses root, so for root it runs as the account `postgres`.

    Returns:
        Address of the database, password included.
    """
    programs = postgres_programs()
    if programs is None:
        raise Failed("PostgreSQL is not installed: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else None
    folder.mkdir(mode=0o700, exist_ok=True)
    if user:
        shutil.chown(folder, user, user)
        if subprocess.run(["test", "-w", str(folder)], **_as(user)).returncode:
            raise Failed(f"the account {user} cannot enter {folder}: take a folder that everybody may pass through, under /srv for example")
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD": password, "LC_ALL": "C.UTF-8"}
    data = folder / "data"
    if not data.exists():
        secret = folder / "password"
        _write_private(secret, password)
        if user:
            shutil.chown(secret, user, user)
        command = [programs / "initdb", f"--pgdata={data}", "--username=mlflow", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8"]  # fmt: skip
        made = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, **_as(user))
        secret.unlink()
        if made.returncode:
            shutil.rmtree(data, ignore_errors=True)
            raise Failed(f"initdb: {made.stderr.strip()}")
    where = [f"--host={HOST}", f"--port={port}", "--username=mlflow"]
    services.start(
        "postgres",
        [str(programs / "postgres"), "-D", str(data), "-h", HOST, "-p", str(port), "-k", str(folder)],
        lambda: subprocess.run([programs / "pg_isready", "--quiet", *where], env=environment).returncode == 0,
        environment,
        user,
    )
    ask = [programs / "psql", *where, "--dbname=postgres", "--tuples-only", "--no-align", "--command"]
    if not subprocess.run(
        [*ask, "select 1 from pg_database where datname = 'mlflow'"], capture_output=True, env=environment, check=True
    ).stdout:
        subprocess.run([*ask, "create database mlflow"], capture_output=True, env=environment, check=True)
    return f"postgresql+psycopg2://mlflow:{password}@{HOST}:{port}/mlflow"


def start_all(services: Services, folder: Path, runs: Path, workers: int, cpus: int, scratch: str) -> dict[str, str]:
    """Start every service.

    Returns:
        Variables for `gfl-lab`: what stands in lab.env.
    """
    secret = _secrets(folder / "secrets.env")
    database_port, s3_port, mlflow_port, ray_port, dashboard_port, *agents = _free_ports(6 + workers)
    plain = os.environ | {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "GFL_LAB_HOME": str(runs)}
    # Variables of a Ray on this machine alone may be left over in the environment.
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", *LOOPBACK_ONLY, *secret):
        plain.pop(name, None)

    database = start_postgres(services, folder / "postgres", database_port, secret["POSTGRES_PASSWORD"])

    keys = {name: secret[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    storage = keys | {"AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_S3_ENDPOINT_URL": f"http://{HOST}:{s3_port}"}
    services.start("s3", [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(s3_port)], lambda: _listens(s3_port), plain)
    _make_bucket(storage)

    services.start(
        "mlflow",
        [
            sys.executable, "-m", "mlflow", "server", f"--host={HOST}", f"--port={mlflow_port}", "--workers=1", f"--artifacts-destination=s3://{BUCKET}",
            f"--allowed-hosts={HOST}:{mlflow_port},localhost:{mlflow_port}",
        ],
        lambda: _answers(f"http://{HOST}:{mlflow_port}/health"),
        plain | storage | {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )  # fmt: skip

    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secret["RAY_AUTH_TOKEN"], "RAY_USAGE_STATS_ENABLED": "0"}
    start = [sys.executable, "-c", RAY_ON_LOOPBACK, "start", "--block", "--disable-usage-stats", "--object-store-memory=104857600"]
    head = [
        "--head", f"--port={ray_port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", f"--temp-dir={scratch}",
    ]  # fmt: skip
    join = [f"--address={HOST}:{ray_port}", f"--num-cpus={cpus}"]
    for name, role in [("ray-head", head), *((f"ray-worker-{number}", join) for number in range(1, workers + 1))]:
        command = [*start, f"--node-ip-address={HOST}", f"--dashboard-agent-listen-port={agents.pop()}", *role]
        services.start(
            name, command, lambda name=name: "Ray runtime started" in services.log(name), plain | ray, tries=3
        )  # Ray gives up after 30 s of starting, and a busy machine may need longer

    services.start(
        "dashboard",
        [sys.executable, "-m", "gfl_lab.cli.main", "dashboard", f"--port={dashboard_port}"],
        lambda: _answers(f"http://{HOST}:{dashboard_port}/_stcore/health"),
        plain,
    )
    return {
        "GFL_LAB_HOME": str(runs), "MLFLOW_TRACKING_URI": f"http://{HOST}:{mlflow_port}", "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secret["RAY_AUTH_TOKEN"], "LAB_ADDRESS": f"{HOST}:{ray_port}", "LAB_DASHBOARD": f"http://{HOST}:{dashboard_port}",
    }  # fmt: skip


def _make_bucket(storage: dict[str, str]) -> None:
    import boto3

    client = boto3.client(
        "s3", endpoint_url=storage["MLFLOW_S3_ENDPOINT_URL"], region_name=storage["AWS_DEFAULT_REGION"],
        aws_access_key_id=storage["AWS_ACCESS_KEY_ID"], aws_secret_access_key=storage["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)


def main() -> int:
    """Run until a signal, or until a service ends by itself."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="database, logs, secrets, and the runs unless --runs says otherwise")
    parser.add_argument("--runs", type=Path, help="run tree (default: FOLDER/runs)")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers (default: 2)")
    parser.add_argument("--cpus", type=int, default=1, help="CPU cores that each worker offers (default: 1)")
    options = parser.parse_args()
    folder = options.folder.resolve()
    runs = (options.runs or folder / "runs").resolve()
    for made in (folder, folder / "logs", runs):
        made.mkdir(parents=True, exist_ok=True)
    environment = folder / "lab.env"
    environment.unlink(missing_ok=True)
    scratch = tempfile.mkdtemp(prefix="gfl-ray-")  # short: socket paths end at 107 bytes

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    services = Services(folder / "logs")
    try:
        variables = start_all(services, folder, runs, options.workers, options.cpus, scratch)
        _write_private(environment, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
        print(f"MLflow     {variables['MLFLOW_TRACKING_URI']}")
        print(f"dashboard  {variables['LAB_DASHBOARD']}")
        print(f"Ray        {variables['LAB_ADDRESS']}, {options.workers} workers")
        print(f"use it:    . {environment} && gfl-lab run FILE --address $LAB_ADDRESS", flush=True)
        while not (ended := services.ended()):
            time.sleep(1)
        raise Failed(f"{', '.join(ended)} ended; see {folder / 'logs'}")
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        services.stop()
        environment.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
