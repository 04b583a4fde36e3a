"""The choice of the two variants on the page Compare: of the experiment above the page, or of any other."""

from __future__ import annotations

import streamlit as st

from dashboard import experiments, state, theme
from dashboard.reader import reader
from gfl_lab.errors import StoreError
from gfl_lab.report.comparison import by_seed
from gfl_lab.report.variant_pair import VariantPair, pair_of
from gfl_lab.results.rows import ExperimentRow, VariantRow

VARIANT, REFERENCE = "variant", "reference"
ERROR_IOUS = ("0.5", "0.6", "0.75", "0.9")
_OLD = {"ours": VARIANT, "theirs": REFERENCE}  # links of earlier versions
_NONE = ""
_OF = ":"
"""Between an experiment's id, which cannot hold it, and a variant."""


def choose(experiment: ExperimentRow) -> tuple[VariantPair, float] | None:
    """Draw the choices: two variants, and the threshold of the errors. None, with the reason on the page, while two are not chosen."""
    ready = [variant.name for variant in experiment.variants if by_seed(variant, "AP")]
    shown = {name: name for name in ready} | _others(experiment)
    if len(shown) < 2:
        theme.empty("Nothing to compare yet", "Two variants are compared as soon as each has a finished trial.")
        return None
    _from_links(experiment)
    variant, reference = _defaults(experiment, ready)
    titles = shown | {_NONE: "choose a variant"}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        first = state.choose("Variant", VARIANT, _options(shown, variant), variant, titles.__getitem__, width=350)
        rest = [key for key in _options(shown, reference) if not key or key != first]
        second = state.choose("Compared with", REFERENCE, rest, reference, titles.__getitem__, width=350)
        error_iou = state.choose("A detection is right from IoU", "error_iou", ERROR_IOUS, widget=st.segmented_control, required=True)
    if not first or not second:
        theme.empty("Nothing to compare yet", "Choose two variants above, of this experiment or of others, that have a finished trial.")
        return None
    try:
        (own, one), (other, two) = (_variant(experiment, key) for key in (first, second))
    except StoreError as error:
        theme.alert(str(error))
        return None
    return pair_of(own, one, two, other), float(error_iou)


def _others(experiment: ExperimentRow) -> dict[str, str]:
    """Return the variants of other experiments, experiment by experiment, those on the same data first: {key: words shown}."""
    found = [reader().store.outline(*name) for name in experiments.names() if name != (experiment.name, experiment.profile)]
    plans = [each for each in found if each is not None and each.kind != experiments.SEARCH]
    plans.sort(key=lambda each: each.data != experiment.data.digest)
    return {
        f"{state.experiment_id(each.name, each.profile)}{_OF}{variant}": f"{each.name} · {each.profile}: {variant}"
        for each in plans
        for variant in each.variants
    }


def _from_links(experiment: ExperimentRow) -> None:
    """Take links of earlier versions, and those in which a variant of this experiment stands with the experiment."""
    for old, new in _OLD.items():
        if old in st.query_params:
            st.query_params[new] = st.query_params.pop(old)
    own = f"{state.of(experiment)}{_OF}"
    for key in (VARIANT, REFERENCE):
        if (value := st.query_params.get(key, "")).startswith(own):
            st.query_params[key] = value.removeprefix(own)


def _defaults(experiment: ExperimentRow, ready: list[str]) -> tuple[str, str]:
    """Return the two that are compared at first: the last variant and the baseline; none where this experiment has no such two."""
    if not ready:
        return _NONE, _NONE
    baseline = experiment.baseline.name if experiment.baseline and experiment.baseline.name in ready else ready[0]
    others = [name for name in ready if name != baseline]
    return (others[-1], baseline) if others else (baseline, _NONE)


def _options(shown: dict[str, str], default: str) -> list[str]:
    return [*([] if default else [_NONE]), *shown]


def _variant(experiment: ExperimentRow, key: str) -> tuple[ExperimentRow, VariantRow]:
    """Return the variant of a key, with its experiment. Raises StoreError."""
    if any(variant.name == key for variant in experiment.variants):
        return experiment, experiments.variant_of(experiment, key)
    of, _, name = key.partition(_OF)
    other = reader().store.experiment(*of.split("/"))
    return other, experiments.variant_of(other, name)
