"""`gfl-lab dashboard`: the Streamlit app."""

from __future__ import annotations

import os
import sys

import click

from gfl_lab import shipped
from gfl_lab.cli.output import say, warn_of_container
from gfl_lab.cli.server_ports import free_port, port_option


@click.command("dashboard")
@port_option(8501)
def command(port: int) -> None:
    """Open the dashboard on 127.0.0.1: tables, curves, box distributions. Works while trials run. Ctrl-C ends it."""
    from gfl_lab.session.run_tree import default_tree

    warn_of_container()
    port = free_port(port)
    arguments = [
        sys.executable, "-P", str(shipped.dashboard() / "__main__.py"), "--server.address=127.0.0.1", f"--server.port={port}", "--server.headless=true",
        "--browser.gatherUsageStats=false", "--browser.serverAddress=localhost", "--server.fileWatcherType=none", "--client.toolbarMode=minimal",
    ]  # fmt: skip
    say(f"dashboard: http://127.0.0.1:{port}  over {default_tree().root}  (Ctrl-C ends it)")
    os.execvpe(sys.executable, arguments, os.environ | {"GFL_LAB_HOME": str(default_tree().root)})
