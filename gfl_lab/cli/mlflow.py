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
    from gfl_lab.rundir import RunTree
    from gfl_lab.tracking.database import ui_command, ui_pages
    from gfl_lab.tracking.mirror import Mirror

    tree = RunTree.default()
    if os.environ.get("MLFLOW_TRACKING_URI"):
        say("note: MLFLOW_TRACKING_URI is set; this shows the database beside the runs, not that server")
    warn_of_container()
    port = free_port(port)
    Mirror(tree, tree.mlflow_uri).prepare()
    arguments, environment = ui_command(tree, port)
    say(f"MLflow UI: http://127.0.0.1:{port}  (takes some ten seconds to answer; Ctrl-C ends it)")
    for name, address in ui_pages(tree, port):
        say(f"  {name}: {address}")
    os.execvpe(arguments[0], arguments, environment)
