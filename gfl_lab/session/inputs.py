"""The files of an experiment: its own, its profile, its published table, and the code that it brings along."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from gfl_lab import shipped
from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec.code import CodeFile, read_code
from gfl_lab.spec.file_models import ExperimentFile, Profile, PublishedTable
from gfl_lab.spec.files import find_profile, load_experiment, load_profile, load_published
from gfl_lab.spec.source import Source


@dataclass(frozen=True)
class Files:
    """The files behind a plan, read and checked; nothing has been written, and none of ``code`` has been run."""

    experiment: ExperimentFile
    source: Source
    profile: Profile
    published: PublishedTable | None
    code: tuple[CodeFile, ...] = ()

    @property
    def folder(self) -> Path:
        """Return the folder of the experiment file; paths in the file are relative to it."""
        return self.source.path.resolve().parent

    @property
    def quoted(self) -> str:
        """Return the experiment file as a shell takes it."""
        return shlex.quote(str(self.source.path))


def read_files(path: Path, profile: str | None = None) -> Files:
    """Read an experiment, its profile and its published table.

    Args:
        path: of the experiment file.
        profile: name or path, instead of the experiment's own.

    Raises:
        SpecError: every problem of the first file that has one.
    """
    experiment, source = load_experiment(path)
    beside = path.resolve().parent
    code, problems = read_code(experiment.custom_imports, source)
    found: Profile | None = None
    published = None
    try:
        found = named_profile(profile or experiment.profile, beside)
    except SpecError as error:
        place = "" if profile else source.place("profile")
        problems += [problem if problem.place else Problem(problem.message, place, problem.hint) for problem in error.problems]
    if experiment.published_table:
        try:
            published = load_published(experiment.published_table, shipped.published_folders(beside), source)
        except SpecError as error:
            problems += error.problems
    if problems or found is None:
        raise SpecError(problems)
    return Files(experiment, source, found, published, code)


def named_profile(name: str, beside: Path | None = None) -> Profile:
    """Read a profile by its name, from the first of ``shipped.profile_folders`` that has it, or by its path (``lab/profiles/mine.yaml``).

    Raises:
        SpecError: there is none, or every problem in it.
    """
    if name.endswith(".yaml"):
        return load_profile(Path(name).expanduser())
    return load_profile(find_profile(name, shipped.profile_folders(beside)))


def profile_argument(name: str, beside: Path) -> str:
    """Return a profile of an experiment in folder ``beside`` as `gfl-lab data check --profile` takes it: its name, else its path.

    Raises:
        SpecError: there is none.
    """
    if name.endswith(".yaml"):
        return name
    file = find_profile(name, shipped.profile_folders(beside))
    first = next((folder / file.name for folder in shipped.profile_folders() if (folder / file.name).is_file()), None)
    return name if first == file else os.path.relpath(file)
