"""Every published row, and the experiment and variant that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gfl_lab import shipped
from gfl_lab.errors import SpecError
from gfl_lab.plan import published
from gfl_lab.plan.plan import draft_plan
from gfl_lab.spec.file_models import Profile
from gfl_lab.spec.files import find_profile, load_experiment, load_profile, load_published


def survey_folders(folders: Sequence[Path], warn: Callable[[str], None]) -> list[published.Entry]:
    """Return an entry for each published row; of files with one name the first folder's counts.

    Args:
        folders: of experiments; profiles and published tables are in their subfolders.
        warn: receives a line for an experiment file that cannot be read, which is left out.

    Raises:
        SpecError: a published table is not valid.
    """
    places = [folder / shipped.PUBLISHED for folder in folders]
    tables = [load_published(name, places) for name in _files(places)]
    known = {table.id for table in tables}
    profiles: dict[str, Profile] = {}
    candidates: list[published.Candidate] = []
    for path in _files(folders).values():
        try:
            experiment, _ = load_experiment(path)
            table = experiment.published_table
            if table is None or table not in known:
                continue
            if experiment.profile not in profiles:
                file = find_profile(experiment.profile, [folder / shipped.PROFILES for folder in folders])
                profiles[experiment.profile] = load_profile(file)
            variants = draft_plan(experiment, profiles[experiment.profile]).variants
        except SpecError as error:
            warn(f"warning: {path} is left out: {error.problems[0]}")
            continue
        candidates += [published.Candidate(experiment.name, table, variant.name, variant.resolved) for variant in variants]
    return published.survey(tables, candidates)


def _files(folders: Iterable[Path]) -> dict[str, Path]:
    """Return the YAML files of folders by name without suffix; the first folder goes before the others."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else ():
            found.setdefault(path.stem, path)
    return found
