"""`gfl-lab dashboard`: the Streamlit app."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gfl_lab import shipped
from gfl_lab.cli.options import profile_option
from gfl_lab.cli.output import say, warn_of_container
from gfl_lab.cli.server_ports import free_port, port_option


@click.command("dashboard")
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@profile_option
@port_option(8501)
def command(experiment: Path | None, profile: str | None, port: int) -> None:
    """Open the dashboard on 127.0.0.1: tables, curves, box distributions. Works while trials run. Ctrl-C ends it.

    With EXPERIMENT, its file or its name in the run tree, the address is that of its table.
    """
    from gfl_lab.session.lookup import require_run
    from gfl_lab.session.run_tree import default_tree

    page = ""
    if experiment is not None:
        found = require_run(default_tree(), experiment, profile)
        page = f"/table?experiment={found.name}/{found.profile}"
    elif profile is not None:
        raise click.UsageError("--profile goes with EXPERIMENT")
    warn_of_container()
    port = free_port(port)
    arguments = [
        sys.executable, "-P", str(shipped.dashboard() / "__main__.py"), "--server.address=127.0.0.1", f"--server.port={port}", "--server.headless=true",
        "--browser.gatherUsageStats=false", "--browser.serverAddress=localhost", "--server.fileWatcherType=none", "--client.toolbarMode=minimal",
    ]  # fmt: skip
    say(f"dashboard: http://127.0.0.1:{port}{page}  over {default_tree().root}  (Ctrl-C ends it)")
    os.execvpe(sys.executable, arguments, os.environ | {"GFL_LAB_HOME": str(default_tree().root)})
