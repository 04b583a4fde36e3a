"""The ablation that confirms a search: its best suggestions against the defaults, over several seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.records.files import write_bytes, write_text
from gfl_lab.report.ranking import rank
from gfl_lab.results.search import read_search
from gfl_lab.rundir import RunTree
from gfl_lab.session.inputs import Files, read_files
from gfl_lab.session.weights import with_absolute_paths
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.trial import computed

SEEDS = 3
DEFAULTS = "defaults"

Suggestions = dict[str, dict[str, Any]]
"""Settings by the name of their variant."""


@dataclass(frozen=True)
class Confirmation:
    """The ablation that confirms a search.

    Attributes:
        files: of the search.
        path: of the ablation's file.
        variants: the suggestions to confirm; empty if they compute what the defaults do.
        seeds: to compare on.
        search_seed: the seed on which the suggestions were chosen.
    """

    files: Files
    path: Path
    variants: Suggestions
    seeds: tuple[int, ...]
    search_seed: int

    @property
    def profile_path(self) -> Path:
        """Return the path of the profile that is written beside the ablation."""
        return self.path.parent / "profiles" / f"{self.files.profile.name}.yaml"


def confirmation(experiment: Path, profile: str | None, *, top: int, seeds: Sequence[int] | None, tree: RunTree) -> Confirmation:
    """Return the ablation that confirms a search; nothing is written.

    Args:
        experiment: the search's file.
        profile: instead of the search's own.
        top: number of its best finished suggestions.
        seeds: to compare on; None for three that the search has not seen.

    Raises:
        InputError: it is no search, has not been run, or no suggestion has finished.
    """
    files = read_files(experiment, profile)
    name, profile_name = files.experiment.name, files.profile.name
    if files.experiment.kind != "search":
        raise InputError(
            Problem(f"{experiment} is an {files.experiment.kind}", hint="`confirm` takes the file of a search (kind: search).")
        )
    try:
        search = read_search(tree, name, profile_name)
    except StoreError as error:
        hint = f"Run it first:  gfl-lab run {experiment}" + (f" --profile {profile}" if profile else "")
        raise InputError(Problem(error.problems[0].message, hint=hint)) from None
    best = rank(search).best
    if not best:
        raise InputError(f"no suggestion of search {name} on profile {profile_name} has finished yet")
    variants = _without_defaults({f"suggestion {row.number}": dict(row.settings) for row in best[:top]}, files)
    path = tree.experiment(name, profile_name) / f"{confirming(name)}.yaml"
    return Confirmation(files, path, variants, tuple(seeds or (search.seed + 1 + index for index in range(SEEDS))), search.seed)


def confirming(name: str) -> str:
    """Return the name of the ablation that confirms the search ``name``."""
    return f"confirm_{name}"[:100]


@contextlib.contextmanager
def as_before_if_refused(paths: Sequence[Path], refusals: tuple[type[Exception], ...]) -> Iterator[None]:
    """Put the files back as they were, or away, if the run that they are for is refused by one of ``refusals``."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        yield
    except refusals:
        for path, content in before.items():
            if content is not None:
                write_bytes(path, content)
                continue
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what else lies there stays
                path.parent.rmdir()
        raise


def write_confirmation(found: Confirmation) -> None:
    """Write the ablation's file beside the search's results; and its profile beside it, since a file finds its profile there."""
    files, path = found.files, found.path
    experiment = files.experiment
    beside = files.source.path.resolve().parent
    content = {
        "name": path.stem,
        "question": f"Is the best of {experiment.name} better than the defaults on seeds that it was not chosen on?",
        "kind": "ablation",
        "profile": files.profile.name,
        "custom_imports": [str(file.path) for file in files.code],
        "overrides": with_absolute_paths(experiment.overrides, beside),
        "variants": {DEFAULTS: {}, **{name: with_absolute_paths(settings, beside) for name, settings in found.variants.items()}},
        "baseline": DEFAULTS,
        "seeds": list(found.seeds),
        "table": {"metrics": list(experiment.table.metrics)},
    }
    header = f"# Written by `gfl-lab confirm`; written anew each time. The search: {experiment.name} on {files.profile.name}.\n"
    write_text(path, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    profile = yaml.safe_dump(files.profile.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    write_text(found.profile_path, profile)


def _without_defaults(variants: Suggestions, files: Files) -> Suggestions:
    """Return ``variants`` without those that compute what the defaults do."""
    base = files.profile.settings, files.experiment.overrides
    default = computed(resolve_settings(*base))
    return {name: settings for name, settings in variants.items() if computed(resolve_settings(*base, settings)) != default}
