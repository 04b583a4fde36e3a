"""Find the experiment that a person names in a run tree, by its file or by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfl_lab import naming, shipped
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.records.plan import read_plan
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.spec.choices import IMPORTED


@dataclass(frozen=True)
class Stored:
    """An experiment of a run tree, found by its file or by its name.

    Attributes:
        name, profile, kind: of the experiment. argument: as it was given, for commands in messages.
    """

    name: str
    profile: str
    kind: str
    argument: str


def require_run(tree: RunTree, given: Path, profile: str | None) -> Stored:
    """Return the experiment of ``tree`` that a person names by its file, or by its name alone. A file goes before a name.

    Raises:
        InputError: it has not been run there, or the name stands for several.
    """
    if (found := by_name(tree, given, profile)) is not None:
        return found
    from gfl_lab.session.inputs import read_files  # with the models of all settings, which a name does not need

    path = _file_of(tree, given)
    files = read_files(path, profile)
    name, chosen = files.experiment.name, files.profile.name
    if (name, chosen) not in tree.experiments():
        known = [p for e, p in tree.experiments() if e == name]
        again = f"Run it first:  gfl-lab run {path}" + (f" --profile {profile}" if profile else "")
        hint = f"It has been run on: {', '.join(known)}." if known else again
        raise InputError(Problem(f"experiment {name} has not been run on profile {chosen} under {tree.root}", hint=hint))
    return Stored(name, chosen, files.experiment.kind, str(path))


def by_name(tree: RunTree, given: Path, profile: str | None) -> Stored | None:
    """Return the experiment of a plain name that no file has; None where a file is meant."""
    name = _plain_name(given)
    profiles = [known for experiment, known in tree.experiments() if experiment == name]
    if not profiles or (profile not in profiles and shipped.experiment_file(name) is not None):
        return None
    if profile is None and len(profiles) > 1:
        raise InputError(Problem(f"experiment {name} has been run on several profiles", hint=f"Give --profile: {', '.join(profiles)}"))
    chosen = profile or profiles[0]
    if chosen not in profiles:
        hint = f"It is there on: {', '.join(profiles)}."
        raise InputError(Problem(f"experiment {name} has not been run on profile {chosen} under {tree.root}", hint=hint))
    return Stored(name, chosen, read_plan(tree.experiment(name, chosen) / naming.PLAN).kind, name)


def _plain_name(given: Path) -> str:
    """Return the name if ``given`` can be that of an experiment: no path, no ending of YAML, no file; else nothing."""
    plain = len(given.parts) == 1 and given.suffix not in (".yaml", ".yml") and not given.is_file()
    return given.name if plain and naming.is_valid_name(given.name) else ""


def _file_of(tree: RunTree, given: Path) -> Path:
    """Return the file of an experiment. Raises InputError, with the experiment of ``tree`` whose name is close."""
    try:
        return shipped.find_experiment(given)
    except InputError:
        import difflib

        near = difflib.get_close_matches(given.name, {name for name, _ in tree.experiments()}, n=1)
        if not near or not _plain_name(given):
            raise
        raise InputError(Problem(f"there is no experiment {given.name!r}", hint=f"Did you mean {near[0]!r}?")) from None


def experiment_name(tree: RunTree, given: Path) -> str:
    """Return the name of an experiment that a person names by its file, or by its name. Raises InputError."""
    name = _plain_name(given)
    if name and shipped.experiment_file(name) is None and any(name == known for known, _ in tree.experiments()):
        return name
    from gfl_lab.spec.files import load_experiment

    return load_experiment(_file_of(tree, given))[0].name


def file_to_run(tree: RunTree, given: Path) -> Path:
    """Return the file of an experiment of ``tree`` that a person names where a file is needed.

    Raises:
        InputError: it has no file, because its detections were imported; or the file is not found.
    """
    name = _plain_name(given)
    found = [tree.experiment(known, profile) for known, profile in tree.experiments() if known == name]
    if not found:
        return _file_of(tree, given)
    plan = read_plan(found[0] / naming.PLAN)
    if plan.kind == IMPORTED:
        hint = f"Add files with `gfl-lab import-results {name}`, or see the results with `gfl-lab table {name}`."
        raise InputError(Problem(f"{name} is made of imported detections: there is nothing to train", hint=hint))
    if plan.source and (file := shipped.experiment_file(Path(plan.source).stem)) is not None:
        return file
    raise InputError(Problem(f"{name} was run from the file {plan.source}, which is not found by its name", hint="Give its path."))


def stored_experiment(tree: RunTree, given: Path, profile: str | None) -> tuple[Store, ExperimentRow]:
    """Return the store of ``tree``, and the row of an experiment there that is no search. Raises InputError."""
    found = require_run(tree, given, profile)
    if found.kind == "search":
        raise InputError(Problem(f"{found.name} is a search", hint=f"Confirm its best with:  gfl-lab confirm {found.argument}"))
    store = Store(tree)
    try:
        return store, store.experiment(found.name, found.profile)
    except StoreError as error:
        raise InputError(error.problems) from None
