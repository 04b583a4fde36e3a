"""`gfl-lab confirm`: a search's best against the defaults, over several seeds, as an ablation."""

from __future__ import annotations

from pathlib import Path

import click

from gfl_lab.cli.numbers import Whole
from gfl_lab.cli.options import experiment_argument, parse_seeds, profile_option
from gfl_lab.cli.output import say
from gfl_lab.errors import InputError
from gfl_lab.wording import plural


@click.command("confirm", context_settings={"ignore_unknown_options": True})
@experiment_argument
@profile_option
@click.option("--top", type=Whole(1, 20), default=1, show_default=True, help="Number of best finished suggestions to compare.")
@click.option("--seeds", metavar="LIST", callback=parse_seeds, help="Seeds to compare on.  [default: three that the search has not seen]")
@click.argument("run_options", nargs=-1, type=click.UNPROCESSED)
def command(experiment: Path, profile: str | None, top: int, seeds: list[int] | None, run_options: tuple[str, ...]) -> None:
    """Compare the best of a search, EXPERIMENT, with the profile's defaults over several seeds, and print the table.

    Writes an ablation beside the search's results and runs it. All other options are those of `gfl-lab run`, and must be
    the ones that the search was run with where they decide what is trained (--data, --init-weights).

    Example:  gfl-lab confirm experiments/search_desk.yaml --top 2
    """
    from gfl_lab.cli.run import command as run
    from gfl_lab.session.confirmation import as_before_if_refused, confirmation, write_confirmation
    from gfl_lab.session.run_tree import default_tree

    found = confirmation(experiment, profile, top=top, seeds=seeds, tree=default_tree())
    name = found.files.profile.name
    if not found.variants:
        say(f"the best of the search computes what the defaults of profile {name} do: there is nothing to confirm")
        return
    if found.search_seed in found.seeds:
        say(f"note: seed {found.search_seed} is the search's own: the best was chosen for its number there, which flatters it")
    context = run.make_context("gfl-lab run", [str(found.path), "--profile", name, *run_options])  # refuses wrong options
    with as_before_if_refused([found.path, found.profile_path], (InputError, click.UsageError)):
        write_confirmation(found)
        count = plural(len(found.variants), "suggestion")
        say(f"{count} against the defaults, seeds {', '.join(map(str, found.seeds))}: {found.path}")
        with context:
            run.invoke(context)
