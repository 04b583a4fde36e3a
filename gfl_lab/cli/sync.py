"""`gfl-lab sync`: bring a tracking server up to date from the run directories."""

from __future__ import annotations

import click

from gfl_lab.cli.options import renamed_option
from gfl_lab.cli.output import print_json, say


@click.command("sync")
@renamed_option(
    "--to",
    "--tracking-uri",
    "uri",
    metavar="URI",
    help="Tracking server.  [default: MLFLOW_TRACKING_URI, or the database beside the runs]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was sent as JSON.")
def command(uri: str | None, as_json: bool) -> None:
    """Update MLflow from the run directories; nothing is doubled.

    Runs that a killed process left RUNNING are ended. Exit code 6 when the server cannot be reached; what has arrived stays.
    """
    from gfl_lab.session.mirroring import FullSync
    from gfl_lab.session.run_tree import default_tree

    tree = default_tree()
    sync = FullSync(tree, uri)
    say(f"MLflow: {sync.uri}")
    rows = []
    for sent in sync.run():
        if not as_json:
            print(f"{sent.experiment} on {sent.profile}: {sent.report}", flush=True)
        for problem in sent.report.problems:
            say(f"warning: {problem}")
        rows.append(sent.to_json())
    if as_json:
        print_json({"uri": sync.uri, "rows": rows})
    elif not rows and not sync.error:
        say(f"no runs under {tree.root}")
    if sync.error:
        raise sync.error
