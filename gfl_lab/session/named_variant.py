"""Find the experiment and the variant that a person names in a run tree as EXPERIMENT:VARIANT."""

from __future__ import annotations

from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem, SpecError
from gfl_lab.records.plan import read_plan
from gfl_lab.results.rows import ExperimentRow, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.lookup import experiment_name
from gfl_lab.session.variant_pair import find_variant

TRIAL, VARIANT = "trial", "variant"
"""What a name is of."""
_FORMS = {TRIAL: "VARIANT:SEED", VARIANT: "VARIANT"}


def names_a_variant(text: str) -> bool:
    """Return True if ``text`` has the form EXPERIMENT:VARIANT and is no file."""
    return ":" in text and not Path(text).is_file()


def find_named_variant(tree: RunTree, given: str) -> tuple[ExperimentRow, VariantRow]:
    """Return the experiment of ``tree`` and the variant that a person names.

    Args:
        given: ``EXPERIMENT:VARIANT``, or ``EXPERIMENT@PROFILE:VARIANT`` if the tree has the experiment on several profiles. EXPERIMENT is a
            file, or the name of an experiment in the tree. VARIANT is as ``find_variant`` takes it.

    Raises:
        InputError: there is none, several, or it is a search.
    """
    if not names_a_variant(given):
        raise InputError(Problem(f"{given!r} names no variant of an experiment", hint=f"Write EXPERIMENT:{_FORMS[VARIANT]}."))
    text, variant = split(given)
    experiment = find_experiment_of(tree, text, given, VARIANT)
    if not variant.strip():
        raise InputError(Problem(f"{given!r} names no variant", hint=form_hint(text, experiment, VARIANT)))
    return experiment, find_variant(experiment, variant)


def split(given: str) -> tuple[str, str]:
    """Return the experiment and the rest. The first colon ends the experiment, unless a file's own name has colons."""
    parts = given.split(":")
    for count in range(len(parts) - 1, 1, -1):
        if Path(_without_profile(path := ":".join(parts[:count]))).is_file():
            return path, ":".join(parts[count:])
    return parts[0], ":".join(parts[1:])


def is_experiment(tree: RunTree, text: str) -> bool:
    """Return True if ``tree`` has an experiment of this name."""
    return any(text == name for name, _ in tree.experiments())


def find_experiment_of(tree: RunTree, text: str, given: str, what: str) -> ExperimentRow:
    """Return the experiment of ``tree`` that ``EXPERIMENT[@PROFILE]`` names.

    Args:
        given: the whole name, for messages. what: TRIAL or VARIANT, which the whole name is of.

    Raises:
        InputError: there is none, several, or it is a search.
    """
    path = _without_profile(text)
    try:
        in_tree = is_experiment(tree, path) and not Path(path).is_file()  # also where a folder of this name stands in the current one
        name = path if in_tree else experiment_name(tree, Path(path))
    except SpecError:
        raise
    except InputError as error:
        problem = error.problems[0]
        raise InputError(Problem(f"{given!r} names no {what}: {problem.message}", hint=problem.hint)) from None
    profiles = [profile for known, profile in tree.experiments() if known == name]
    wanted = text[len(path) + 1 :]
    if not profiles:
        hint = f"Run it first:  gfl-lab run {path}" + (f" --profile {wanted}" if wanted else "")
        raise InputError(Problem(f"experiment {name} has not been run under {tree.root}", hint=hint))
    if wanted and wanted not in profiles:
        hint = f"It is there on: {', '.join(profiles)}."
        raise InputError(Problem(f"experiment {name} has not been run on profile {wanted} under {tree.root}", hint=hint))
    if not wanted and len(profiles) > 1:
        hint = f"Write {path}@{profiles[0]}:{_FORMS[what]}. Profiles: {', '.join(profiles)}."
        raise InputError(Problem(f"experiment {name} has been run on several profiles", hint=hint))
    chosen = wanted or profiles[0]
    if read_plan(tree.experiment(name, chosen) / naming.PLAN).kind == "search":
        if what == VARIANT:
            raise InputError(Problem(f"{name} is a search", hint=f"Confirm its best with:  gfl-lab confirm {path}"))
        hint = f"gfl-lab status {path} lists its trials and their ids."
        raise InputError(Problem(f"{name} is a search: its trials are named by their ids alone", hint=hint))
    return Store(tree).experiment(name, chosen)


def form_hint(text: str, experiment: ExperimentRow, what: str) -> str:
    """Return how to name a trial or a variant of an experiment, with its variants."""
    variants = ", ".join(repr(variant.name) for variant in experiment.variants)
    return f"Write {text}:{_FORMS[what]}. Variants: {variants}."


def _without_profile(text: str) -> str:
    """Return EXPERIMENT of ``EXPERIMENT@PROFILE``. A file may have an @ in its name, and a profile has no colon."""
    experiment, at, profile = text.rpartition("@")
    return experiment if at and ":" not in profile and not Path(text).is_file() else text
