"""Which trials of a search are stopped early."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab.orchestrate.pruner import SuccessiveHalving
from gfl_lab.orchestrate.ray_cluster import prepare_environment


def pruner(**changes: int) -> SuccessiveHalving:
    return SuccessiveHalving(**{"higher_is_better": True, "max_epochs": 9, "grace_epochs": 1, "reduction": 3} | changes)


def test_the_first_at_a_rung_goes_on_and_the_best_third_after_it() -> None:
    found = pruner()
    assert not found.stops(0, 1, 10.0), "there is nothing to compare it with"
    assert found.stops(1, 1, 9.0) and not found.stops(2, 1, 11.0)
    assert not found.stops(2, 2, 0.0), "no rung at epoch 2"
    assert not found.stops(2, 3, 5.0) and not found.stops(0, 3, 5.0), "an equal value goes on"
    low = pruner(higher_is_better=False)
    assert not low.stops(0, 1, 10.0) and low.stops(1, 1, 11.0) and not low.stops(2, 1, 9.0)


def test_no_trial_stops_in_its_grace_epochs_and_each_at_its_last() -> None:
    found = pruner(grace_epochs=4)
    for number in range(20):
        assert not any(found.stops(number, epoch, -number) for epoch in (1, 2, 3))
    assert found.stops(0, 9, 100.0)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), grace=st.integers(1, 5), reduction=st.integers(2, 5), epochs=st.integers(6, 30), higher=st.booleans()
)
def test_its_decisions_are_those_of_ray_s_asha(seed: int, grace: int, reduction: int, epochs: int, higher: bool) -> None:
    """Trials at once, with values of which some are equal; some report a later epoch first, as after an interruption."""
    prepare_environment(None)
    schedulers = pytest.importorskip("ray.tune.schedulers")
    theirs = schedulers.ASHAScheduler(
        time_attr="epoch", metric="value", mode="max" if higher else "min", max_t=epochs, grace_period=grace, reduction_factor=reduction
    )
    ours = pruner(higher_is_better=higher, max_epochs=epochs, grace_epochs=grace, reduction=reduction)
    random = np.random.default_rng(seed)
    reached: dict[int, int] = {}
    trials = {number: SimpleNamespace(trial_id=str(number)) for number in range(12)}
    for trial in trials.values():
        theirs.on_trial_add(None, trial)
    for _ in range(120):
        number = int(random.choice(list(trials)))
        epoch = reached[number] = reached.get(number, 0) + int(random.integers(1, 3))
        value = float(np.round(random.normal(), 1))
        stops = theirs.on_trial_result(None, trials[number], {"epoch": epoch, "value": value}) == schedulers.TrialScheduler.STOP
        assert ours.stops(number, epoch, value) is stops
        if stops:
            del trials[number]
        if not trials:
            break
