"""`gfl-lab confirm`: a search's best against the defaults, over several seeds, as an ablation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gfl_lab.cli.numbers import Whole
from gfl_lab.cli.options import experiment_argument, parse_seeds, profile_option
from gfl_lab.cli.output import say
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.wording import plural

if TYPE_CHECKING:
    from gfl_lab.session.inputs import Files

SEEDS = 3
DEFAULTS = "defaults"


@click.command("confirm", context_settings={"ignore_unknown_options": True})
@experiment_argument
@profile_option
@click.option("--top", type=Whole(1, 20), default=1, show_default=True, help="How many of the best finished suggestions.")
@click.option("--seeds", metavar="LIST", callback=parse_seeds, help="Seeds to compare on; default three that the search has not seen.")
@click.argument("run_options", nargs=-1, type=click.UNPROCESSED)
def command(experiment: Path, profile: str | None, top: int, seeds: list[int] | None, run_options: tuple[str, ...]) -> None:
    """Compare the best of a search, EXPERIMENT, with the profile's defaults over several seeds, and print the table.

    Writes an ablation beside the search's results and runs it. All other options are those of `gfl-lab run`, and must be
    the ones that the search was run with where they decide what is trained (--data, --init-weights).

    Example:  gfl-lab confirm experiments/search_desk.yaml --top 2
    """
    from gfl_lab.cli.run import command as run
    from gfl_lab.report.ranking import rank
    from gfl_lab.results.search import read_search
    from gfl_lab.rundir import RunTree
    from gfl_lab.session.inputs import read_files

    files = read_files(experiment, profile)
    name, profile_name = files.experiment.name, files.profile.name
    if files.experiment.kind != "search":
        raise InputError(
            Problem(f"{experiment} is an {files.experiment.kind}", hint="`confirm` takes the file of a search (kind: search).")
        )
    tree = RunTree.default()
    folder = tree.experiment(name, profile_name)
    try:
        search = read_search(tree, name, profile_name)
    except StoreError as error:
        hint = f"Run it first:  gfl-lab run {experiment}" + (f" --profile {profile}" if profile else "")
        raise InputError(Problem(error.problems[0].message, hint=hint)) from None
    best = rank(search).best
    if not best:
        raise InputError(f"no suggestion of search {name} on profile {profile_name} has finished yet")
    variants = {f"suggestion {row.number}": dict(row.settings) for row in best[:top]}
    variants = _without_defaults(variants, files)
    if not variants:
        say(f"the best of the search computes what the defaults of profile {profile_name} do: there is nothing to confirm")
        return
    seeds = seeds or [search.seed + 1 + index for index in range(SEEDS)]
    if search.seed in seeds:
        say(f"note: seed {search.seed} is the search's own: the best was chosen for its number there, which flatters it")
    path = folder / f"{confirming(name)}.yaml"
    context = run.make_context("gfl-lab run", [str(path), "--profile", profile_name, *run_options])  # refuses wrong options
    with _as_before_where_refused([path, folder / "profiles" / f"{profile_name}.yaml"]):
        _write(files, path, variants, seeds)
        say(f"{plural(len(variants), 'suggestion')} against the defaults, seeds {', '.join(map(str, seeds))}: {path}")
        with context:
            run.invoke(context)


@contextlib.contextmanager
def _as_before_where_refused(paths: list[Path]) -> Iterator[None]:
    """Put the files back as they were, or away, where the run that they are for is refused."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        yield
    except (InputError, click.UsageError):
        from gfl_lab.records.files import write_bytes

        for path, content in before.items():
            if content is not None:
                write_bytes(path, content)
                continue
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what else lies there stays
                path.parent.rmdir()
        raise


def confirming(name: str) -> str:
    """Name of the ablation that confirms the search ``name``."""
    return f"confirm_{name}"[:100]


def _without_defaults(variants: dict[str, dict[str, Any]], files: Files) -> dict[str, dict[str, Any]]:
    """Return ``variants`` without those that compute what the defaults do."""
    from gfl_lab.spec.files import resolve_settings
    from gfl_lab.spec.trial import computed

    base = files.profile.settings, files.experiment.overrides
    default = computed(resolve_settings(*base))
    return {name: settings for name, settings in variants.items() if computed(resolve_settings(*base, settings)) != default}


def _write(files: Files, path: Path, variants: dict[str, dict[str, Any]], seeds: list[int]) -> None:
    """The ablation's file, beside the search's results; the profile beside it, since a file finds its profile there."""
    import yaml

    from gfl_lab.records.files import write_text
    from gfl_lab.session.weights import with_absolute_weights

    experiment = files.experiment
    beside = files.source.path.resolve().parent
    content = {
        "name": path.stem,
        "question": f"Is the best of {experiment.name} better than the defaults on seeds that it was not chosen on?",
        "kind": "ablation",
        "profile": files.profile.name,
        "custom_imports": [str(file.path) for file in files.code],
        "overrides": with_absolute_weights(experiment.overrides, beside),
        "variants": {DEFAULTS: {}, **{name: with_absolute_weights(settings, beside) for name, settings in variants.items()}},
        "baseline": DEFAULTS,
        "seeds": seeds,
        "table": {"metrics": list(experiment.table.metrics)},
    }
    header = f"# Written by `gfl-lab confirm`; written anew each time. The search: {experiment.name} on {files.profile.name}.\n"
    write_text(path, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    profile = yaml.safe_dump(files.profile.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    write_text(path.parent / "profiles" / f"{files.profile.name}.yaml", profile)
