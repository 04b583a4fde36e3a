"""A claim on two variants of an ablation that has been run: everything of it that is read from the run tree."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.records.files import write_text
from gfl_lab.report.boxes import BoxView, box_view
from gfl_lab.report.claim import Boxes, Claim, Parts, build_claim, facts
from gfl_lab.report.claim_boxes import CHOICE_INPUT, BoxPair, ChosenBox, choose_boxes, learns_distributions, why_none
from gfl_lab.report.statistics import NO_LOOK
from gfl_lab.report.writers.claim_page import to_claim_page
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.variant_pair import VariantPair, find_pair
from gfl_lab.wording import joined


def read_claim(
    tree: RunTree, experiment: ExperimentRow, variant: str, against: str | None = None, min_effect: float | None = None
) -> Claim:
    """Return the claim that ``variant`` makes.

    Args:
        variant: as ``find_pair`` takes it. against: likewise; None is the baseline.
        min_effect: AP points, the smallest difference that matters; None for the experiment's own.

    Raises:
        InputError: there are no such two variants, they share no finished seed, or too few for a comparison.
    """
    if against is None and experiment.baseline is None:
        known = ", ".join(repr(each.name) for each in experiment.variants)
        raise InputError(Problem(f"{experiment.name} has no baseline", hint=f"Name the other variant with --against: {known}"))
    store, pair = Store(tree), find_pair(experiment, variant, against)
    claim = build_claim(experiment, pair.variant, pair.reference, store.resampled_or_none, min_effect)
    if "AP" not in claim.comparisons or claim.main.verdict == NO_LOOK:
        hint = f"gfl-lab table has what there is; train more seeds:  {experiment.run_command()}"
        raise InputError(Problem(f"there is no comparison of {pair.variant.name} with {pair.reference.name} yet", hint=hint))
    return dataclasses.replace(
        claim,
        parts=_parts(store, pair, min_effect),
        boxes=_boxes(store, pair),
        settings=pair.differing(store.recorded),
        commands=_commands(tree, pair, against, min_effect),
        facts=_facts(store, pair),
    )


def write_claim(claim: Claim, path: Path) -> None:
    """Write a claim's page, atomically."""
    write_text(path, to_claim_page(claim))


def _parts(store: Store, pair: VariantPair, min_effect: float | None) -> Parts:
    try:
        return Parts(tuple(pair.compare(store, min_effect)))
    except (InputError, StoreError) as error:
        return Parts(missing=f"It cannot be shown: {error.problems[0].message}.")


# --- boxes ----------------------------------------------------------------------------------------


def _boxes(store: Store, pair: VariantPair) -> Boxes:
    """Return the distributions of the first shared seed."""
    (seed, trials), *_ = pair.trials.items()
    variants = (pair.variant, pair.reference)
    try:
        frames = [store.distributions(trial, CHOICE_INPUT) for trial in trials]
    except StoreError as error:
        return Boxes(missing=f"It cannot be shown: {error.problems[0].message}.")
    notes = tuple(
        f"{each.name} {why_none(each, frame)}." for each, frame in zip(variants, frames, strict=True) if not learns_distributions(frame)
    )
    first, second = frames
    if first is None or second is None or len(notes) == len(variants):
        return Boxes(missing=" ".join(notes))
    chosen = choose_boxes(first, second)
    if not chosen:
        return Boxes(missing=" ".join(notes) or "No ground-truth box has a location of both variants.")
    try:
        pairs = [_pair(store, trials, each) for each in chosen]
    except (StoreError, ValueError, KeyError) as error:
        return Boxes(missing=f"It cannot be shown: {error}.")
    return Boxes(tuple(pairs), seed, _rule(pair, chosen), notes=notes)


def _pair(store: Store, trials: tuple[str, str], chosen: ChosenBox) -> BoxPair:
    """Return a chosen box in both trials. Raises StoreError, ValueError or KeyError for damaged distributions."""
    first, second = (_view(store, trial, chosen) for trial in trials)
    return BoxPair(chosen, first, second, _image(store, trials[0], chosen.image_id))


def _view(store: Store, trial: str, chosen: ChosenBox) -> BoxView:
    frame = store.distributions(trial, image_id=chosen.image_id)
    rows = pd.DataFrame() if frame is None else frame[frame["annotation_id"] == chosen.annotation_id]
    return box_view({str(key): value for key, value in rows.iloc[0].items()})


def _image(store: Store, trial: str, image_id: int) -> NDArray[np.uint8] | None:
    try:
        return store.image(trial, image_id)
    except StoreError:
        return None


def _rule(pair: VariantPair, chosen: Sequence[ChosenBox]) -> str:
    """Return how the boxes were chosen."""
    if not chosen[0].side:
        return "No side has two modes, so this is the first box of the annotations."
    names = [pair.variant.name if each.of_variant else pair.reference.name for each in chosen]
    if len(set(names)) > 1:
        return f"Chosen by rule: the box with the most bimodal side of {joined(names)}. They are extremes, not typical boxes."
    boxes = "the box with the most bimodal side" if len(names) == 1 else f"the {len(names)} boxes with the most bimodal sides"
    return f"Chosen by rule: {boxes} of {names[0]}. They are extremes, not typical boxes."


# --- what it takes to repeat it --------------------------------------------------------------------


def _facts(store: Store, pair: VariantPair) -> dict[str, str]:
    recorded = []
    for trial in (trial for trials in pair.trials.values() for trial in trials):
        try:
            recorded.append(store.recorded(trial))
        except StoreError:
            continue
    return facts(pair.experiment, recorded)


def _commands(tree: RunTree, pair: VariantPair, against: str | None, min_effect: float | None) -> tuple[str, ...]:
    """Return the commands that train or import, check and print the same."""
    experiment = pair.experiment
    if experiment.is_imported:
        first, named = _import(tree, experiment), experiment.name
    else:
        named = f"{experiment.name} --profile {experiment.profile}"
        first = experiment.run_command(list(pair.trials))
    claim = f"gfl-lab report {named} --claim {shlex.quote(pair.variant.name)}"
    claim += f" --against {shlex.quote(pair.reference.name)}" if against is not None else ""
    claim += f" --min-effect {min_effect:g}" if min_effect is not None else ""
    return (first, f"gfl-lab verify {named}", f"{claim} -o claim.html")


def _import(tree: RunTree, experiment: ExperimentRow) -> str:
    """Return the command that imports the same files; their folders are not on record."""
    annotations, arms = "ANNOTATIONS", []
    for variant in experiment.variants:
        files = []
        for trial in variant.trials:
            try:
                manifest = tree.trial(trial.id).manifest()
                annotations = Path(manifest.paths.val_annotations).name
                files.append(manifest.imported.file)
            except StoreError:
                files.append("FILE")
        arms.append(f"--arm {shlex.quote(variant.name + '=' + ','.join(files))}")
    baseline = f" --baseline {shlex.quote(experiment.baseline.name)}" if experiment.baseline else ""
    return f"gfl-lab import-results {experiment.name} --annotations {shlex.quote(annotations)} {' '.join(arms)}{baseline}"
