"""`gfl-lab gc`: what a run tree could do without, and deleting it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.output import print_json, say
from gfl_lab.wording import plural

if TYPE_CHECKING:
    from gfl_lab.maintenance.surplus import Item


@click.command("gc")
@click.option("--delete", is_flag=True, help="Delete the listed files. Without it they are only listed.")
@click.option("--checkpoints", is_flag=True, help="Also the last checkpoints of finished trials, which can then not be evaluated again.")
@click.option("--unreferenced", is_flag=True, help="Also trials that no plan refers to, and plans and tables over former data.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(delete: bool, checkpoints: bool, unreferenced: bool, as_json: bool) -> None:
    """List files of the run tree that are not needed; --delete deletes them.

    Results, evaluations, distributions and logs are never touched, nor the last checkpoint of a finished trial or any of an
    unfinished one, nor a trial that runs.
    """
    from gfl_lab.maintenance import deletion
    from gfl_lab.maintenance.surplus import find_surplus
    from gfl_lab.session.run_tree import default_tree

    tree = default_tree()
    items = find_surplus(tree, checkpoints=checkpoints, unreferenced=unreferenced, say=say)
    gone = [item for item in items if deletion.delete(item, tree, say)] if delete else []
    freed, total = sum(item.size for item in gone), sum(item.size for item in items)
    if as_json:
        rows = [
            {"kind": item.kind, "path": str(item.path), "bytes": item.size, "trial": item.trial or None, "gone": item in gone}
            for item in items
        ]
        print_json({"home": str(tree.root), "deleted": delete, "bytes": total, "freed": freed, "rows": rows})
        return
    _print(items, tree.root)
    if not items:
        say(f"nothing to delete under {tree.root}")
    elif delete:
        say(f"{plural(len(gone), 'item')} deleted, {_mib(freed)} freed")
        if len(gone) < len(items):
            say(f"note: {len(items) - len(gone)} left alone: a process has taken them meanwhile, or they could not be changed")
    else:
        say(f"{plural(len(items), 'item')}, {_mib(total)}; nothing was touched. Delete them with:  gfl-lab gc --delete")


def _print(items: Sequence[Item], root: Path) -> None:
    """Print a line for each item, and one for all dead Ray sessions, of which there may be hundreds."""
    from gfl_lab.maintenance.surplus import Kind

    sessions = [item for item in items if item.kind is Kind.DEAD_SESSION]
    for item in items:
        if item.kind is not Kind.DEAD_SESSION:
            shown = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
            print(f"{_mib(item.size):>10}  {item.kind:22}  {shown}")
    if sessions:
        folders = f"{plural(len(sessions), 'folder')} in {sessions[0].path.parent}"
        print(f"{_mib(sum(item.size for item in sessions)):>10}  {'dead Ray sessions':22}  {folders}")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
