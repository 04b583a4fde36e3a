"""`gfl-lab sync`: bring a tracking server up to date from the run directories."""

from __future__ import annotations

import click

from gfl_lab.cli.output import print_json, say
from gfl_lab.errors import GflLabError


@click.command("sync")
@click.option("--to", "uri", metavar="URI", help="Tracking server; default: MLFLOW_TRACKING_URI, or the database beside the runs.")
@click.option("--json", "as_json", is_flag=True, help="Print what was sent as JSON.")
def command(uri: str | None, as_json: bool) -> None:
    """Mirror all runs to MLflow again; nothing is doubled, however often it is done.

    Runs that a killed process left RUNNING are ended. Exit code 6 when the server cannot be reached; what has arrived stays.
    """
    from gfl_lab.rundir import RunTree
    from gfl_lab.tracking.mirror import Mirror
    from gfl_lab.tracking.server import PATIENCE_S, redacted

    tree = RunTree.default()
    mirror = Mirror(tree, uri)
    say(f"MLflow: {redacted(mirror.uri)}")
    mirror.prepare()
    rows: list[dict[str, object]] = []
    failed: dict[str, GflLabError] = {}  # by text: what is wrong with the server is said once
    for name, profile in tree.experiments():
        try:
            report = mirror.sync(name, profile, final=True)
        except GflLabError as error:
            failed[str(error)] = error
            if getattr(error, "waited", 0.0) > PATIENCE_S:
                break  # the server hangs: it would do so for each experiment
            continue
        if not as_json:
            print(f"{name} on {profile}: {report}", flush=True)
        for problem in report.problems:
            say(f"warning: {problem}")
        sent = {"runs": report.runs, "points": report.points, "artifacts": report.artifacts, "seconds": round(report.seconds, 3)}
        rows.append({"experiment": name, "profile": profile, **sent})
    if as_json:
        print_json({"uri": redacted(mirror.uri), "rows": rows})
    elif not rows and not failed:
        say(f"no runs under {tree.root}")
    if failed:
        worst = max(failed.values(), key=lambda error: error.exit_code)
        raise type(worst)([problem for error in failed.values() for problem in error.problems])
