"""`gfl-lab sync`: bring a tracking server up to date from the run directories."""

from __future__ import annotations

import click

from gfl_lab.cli.output import say


@click.command("sync")
@click.option("--to", "uri", metavar="URI", help="Tracking server; default: MLFLOW_TRACKING_URI, or the database beside the runs.")
def command(uri: str | None) -> None:
    """Mirror all runs to MLflow again; nothing is doubled, however often it is done."""
    from gfl_lab.rundir import RunTree
    from gfl_lab.tracking.mirror import Mirror

    tree = RunTree.default()
    mirror = Mirror(tree, uri)
    mirror.prepare()
    for name, profile in tree.experiments():
        report = mirror.sync(name, profile, final=True)
        say(f"{name} on {profile}: {report}")
    if not tree.experiments():
        say(f"no runs under {tree.root}")
