"""Is the Ray node of this machine or container in its cluster? ``python -m gfl_lab.orchestrate.node_health``, exit code 0 or 1.

A node's daemon (the raylet) lives on for about a minute after the head has restarted and no longer counts the node. So the head is
asked. Ray's own probes ask its dashboard agent, which gfl-lab does not start; `ray health-check` asks whether the head answers;
`ray.init` would register a driver each time and write log files.
"""

from __future__ import annotations

import contextlib
import socket
import sys

import psutil

ANSWER_S = 5
"""Seconds for an answer of the head."""


def local_nodes() -> dict[str, str]:
    """Return {id of the node: address of its head} of every raylet among the processes that are visible here."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "raylet":
                options = dict(part.split("=", 1) for part in process.cmdline() if part.startswith("--") and "=" in part)
                if "--node_id" in options and "--gcs-address" in options:
                    found[options["--node_id"]] = options["--gcs-address"]
    return found


def living_nodes(head: str) -> set[str]:
    """Return the ids of the nodes that the head at ``head`` counts as alive.

    Raises:
        OSError: nothing listens there. Exception: what Ray raises when the head does not answer or refuses the token.
    """
    host, _, port = head.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()  # Ray would try for a minute
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(head, timeout=ANSWER_S)
    return {node.node_id for node in (*status.active_nodes, *status.idle_nodes) if node.node_id}


def why_unhealthy() -> str:
    """Return why a node here is not in its cluster; empty if each one is."""
    nodes = local_nodes()
    if not nodes:
        return "no raylet runs here"
    for head in sorted(set(nodes.values())):
        try:
            living = living_nodes(head)
        except Exception as error:
            return f"the head at {head} does not answer: {error}"
        for node in (node for node, own in nodes.items() if own == head and node not in living):
            return f"the head at {head} does not count node {node} among the living"
    return ""


if __name__ == "__main__":
    reason = why_unhealthy()
    print(reason or "in the cluster")
    sys.exit(bool(reason))
