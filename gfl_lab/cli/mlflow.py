"""`gfl-lab mlflow`: MLflow's own UI over the mirror."""

from __future__ import annotations

import os

import click

from gfl_lab.cli.output import say, warn_of_container
from gfl_lab.cli.server_ports import free_port, port_option


@click.command("mlflow")
@port_option(5000)
def command(port: int) -> None:
    """Open MLflow's own UI on 127.0.0.1 (one worker, no telemetry). Ctrl-C ends it."""
    from gfl_lab.session.mirroring import tracking_pages
    from gfl_lab.session.run_tree import default_tree

    if os.environ.get("MLFLOW_TRACKING_URI"):
        say("note: MLFLOW_TRACKING_URI is set; this shows the database beside the runs, not that server")
    warn_of_container()
    port = free_port(port)
    server = tracking_pages(default_tree(), port)
    say(f"MLflow UI: http://127.0.0.1:{port}  (takes some ten seconds to answer; Ctrl-C ends it)")
    for name, address in server.pages:
        say(f"  {name}: {address}")
    os.execvpe(server.command[0], server.command, server.environment)
