"""A Ray cluster on one machine whose nodes are as separate as machines.

Each node is a set of Linux namespaces with a network address, a host name, process ids, shared memory and a temporary folder
of its own; the only thing that nodes share is the file system. Killing a node's first process takes everything on it away at
once, its network address too. Needs root; ``why_not`` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from gfl_lab.orchestrate.ray_cluster import LOOPBACK_ONLY
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.0"
PORT = 6379
QUICKER = {
    "health_check_initial_delay_ms": 2000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3, "prestart_worker_first_driver": False,
}  # fmt: skip
"""Ray's own settings take a dead node for dead after some 15 s, for which the tests need not wait, and start workers that no actor needs."""
NAMESPACES = ["--net", "--uts", "--mount", "--pid", "--ipc"]

_FIRST_PROCESS = """
set -e
hostname "$1"
mount -t tmpfs tmpfs "$TMPDIR"
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
echo ready
read -r  # the network is there
shift
for try in 1 2 3; do "$@" >&2 && break; done &  # Ray gives up after 30 s of starting, and a busy machine may need longer
while true; do wait -n || sleep 0.2; done  # the first process of a node reaps what others leave
"""


def why_not() -> str:
    """Why no such node can be made here, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not installed"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return tried.stderr.strip()


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition`` holds, which may take a process of its own to ask."""
    wait_until(condition, 240, what, every=0.1)


class Node:
    """One node. The first one is the head: no trial runs on it, drivers are started there."""

    def __init__(self, cluster: Cluster, number: int, *ray: str) -> None:
        self.name, self.address = f"node-{number}", f"{NETWORK}.{number + 1}"
        self.log = cluster.folder / f"{self.name}.log"
        self._environment = cluster.environment
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--include-log-monitor=false", f"--node-ip-address={self.address}", "--object-store-memory=80000000", *ray]  # fmt: skip
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "bash", "-c", _FIRST_PROCESS, "first", self.name, *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._environment, text=True, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n", self.log.read_text()
        self.first = psutil.Process(self._process.pid).children()[0].pid

    def network(self, head: Node | None) -> None:
        """Give the node its address: on a bridge that lives on the head."""
        inside = f"nsenter --net --target {self.first} ip"
        if head is None:
            script = f"{inside} link add switch type bridge; {inside} addr add {self.address}/24 dev switch; {inside} link set switch up; {inside} route add default dev switch"
        else:
            there = f"nsenter --net --target {head.first} ip"
            script = (
                f"{there} link add {self.name} type veth peer name uplink netns {self.first}; {there} link set {self.name} master switch up; "
                f"{inside} addr add {self.address}/24 dev uplink; {inside} link set uplink up; {inside} route add default dev uplink"
            )
        subprocess.run(["sh", "-ec", script], check=True)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def start(self, *command: str, **options: object) -> subprocess.Popen[str]:
        """Start a command on the node. The process that comes back enters the node; the command is its child."""
        inside = ["nsenter", *NAMESPACES, "--target", str(self.first), f"--wd={ROOT}", *command]
        return subprocess.Popen(inside, env=self._environment, text=True, start_new_session=True, **options)

    def processes(self) -> list[psutil.Process]:
        """Every process on the node."""
        space = os.readlink(f"/proc/{self.first}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == space and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        """kill -9 of everything on the node."""
        self._process.kill()
        self._process.wait()


class Cluster:
    """A head without CPUs, where nothing runs but drivers, and nodes that come and go.

    Args:
        folder: for the logs of the nodes. environment: of all that runs on the nodes, beside this process' own.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.local = tempfile.mkdtemp(prefix="gfl")  # socket paths are short; each node mounts a file system of its own over it
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT), "TMPDIR": self.local, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
        } | environment  # fmt: skip
        # The last two are of a Ray that this test process has used itself, on its own machine alone.
        for key in ("GFL_LAB_HOME", "MLFLOW_TRACKING_URI", "RAY_AUTH_TOKEN_PATH", *LOOPBACK_ONLY):
            self.environment.pop(key, None)
        self.nodes: list[Node] = []
        self._made = 0
        self.head = self._add(
            None, "--head", f"--port={PORT}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", f"--temp-dir={self.local}/r",
            f"--system-config={json.dumps(QUICKER)}",
        )  # fmt: skip
        self.address = f"{self.head.address}:{PORT}"
        try:
            self.ready(self.head)
        except BaseException:  # nobody else can end it
            self.close()
            raise

    def _add(self, head: Node | None, *ray: str) -> Node:
        node = Node(self, self._made, *ray)
        self._made += 1
        self.nodes.append(node)
        node.network(head)
        return node

    def worker(self, cpus: int = 2, gpus: int = 0) -> Node:
        """A further node for trials. It joins within seconds; ``ready`` waits for it."""
        return self._add(self.head, f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")

    def ready(self, *nodes: Node) -> None:
        """Wait until Ray runs on the nodes."""
        for node in nodes:
            wait_for(lambda node=node: "Ray runtime started" in node.log.read_text(), f"Ray on {node.name}: {node.log}")

    def kill(self, node: Node) -> None:
        """Take a node away as a power cut does."""
        self.nodes.remove(node)
        node.kill()

    def close(self) -> None:
        """End every node."""
        for node in reversed(self.nodes):
            node.kill()
        Path(self.local).rmdir()
