"""Differences, intervals, p-values, seeds needed: by hand, by properties, and by simulation with a known truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_lab.cocoap import Matches, resample
from gfl_lab.report.statistics import Difference, detectable, difference, holm, image_variance, seeds_needed
from tests.support.detectors import World


def test_without_images_it_is_students_paired_interval() -> None:
    found = difference([(41.0, 40.0), (42.0, 40.0), (43.0, 40.0)])
    # mean 2, standard deviation 1, error 1/sqrt(3); t(0.975, 2) = 4.302653, and p of t = 2 sqrt(3) with 2 degrees: 0.074180
    assert (found.mean, found.seed_variance, found.seeds) == (2.0, 1.0, 3)
    assert found.half == pytest.approx(4.302653 / 3**0.5, abs=1e-5)
    assert found.p == pytest.approx(0.074180, abs=1e-6)
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_the_choice_of_images_widens_it_and_lends_it_freedom() -> None:
    pairs = [(41.0, 40.0), (42.0, 40.0), (43.0, 40.0)]
    # of seeds 1/3, of images 1/3: error sqrt(2/3), freedom (2/3)^2 / ((1/3)^2 / 2 + (1/3)^2 / 100) = 7.843
    found = difference(pairs, image_variance=1 / 3, images=101)
    assert found.half == pytest.approx(2.3139 * (2 / 3) ** 0.5, abs=1e-3)
    assert found.image_half == pytest.approx(1.959964 / 3**0.5, abs=1e-5)
    only_images = difference([(5.0, 4.0), (6.0, 5.0)], image_variance=4.0, images=10_000)
    assert only_images.half == pytest.approx(1.9602 * 2, abs=1e-3)


def test_one_seed_has_no_interval_and_equal_results_no_width() -> None:
    one = difference([(41.0, 40.0)], image_variance=0.25, images=100)
    assert (one.mean, one.half, one.p, one.low) == (1.0, None, None, None)
    assert one.image_half == pytest.approx(0.98, abs=1e-3)
    with pytest.raises(ValueError, match="one seed"):
        seeds_needed(one, 0.3)
    assert difference([(4.0, 4.0), (4.0, 4.0)]).p == 1.0
    assert difference([(5.0, 4.0), (5.0, 4.0)]).p == 0.0


def test_holm_by_hand() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_helps(p_values: dict[str, float]) -> None:
    corrected = holm(p_values)
    assert list(corrected) == list(p_values)
    assert all(
        p <= corrected[name] <= min(1.0, p * len(p_values)) or corrected[name] == 1.0 or corrected[name] >= p
        for name, p in p_values.items()
    )
    ranked = sorted(p_values, key=p_values.get)
    assert all(corrected[a] <= corrected[b] for a, b in zip(ranked, ranked[1:], strict=False))


def noise(seed_variance: float, images: float = 0.0) -> Difference:
    return Difference(0.0, 1.0, 1.0, seed_variance, images, 3)


def test_seeds_needed() -> None:
    # error 1/sqrt(n), freedom n-1: n = 31 of the t tables for a standardised difference of 0.52; 10 for 1.0
    assert seeds_needed(noise(1.0), 1.0) == 10
    assert seeds_needed(noise(0.0), 0.3) == 2
    assert seeds_needed(noise(1.0), 0.5) > seeds_needed(noise(1.0), 1.0) > seeds_needed(noise(0.1), 1.0)
    assert seeds_needed(noise(0.1, images=1.0), 0.3, images=5000) is None, "no number of seeds outweighs too few images"
    assert seeds_needed(noise(1e6), 0.3) is None


def sampled(pairs: list[tuple[Matches, Matches]], replicates: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """AP of both on the same bootstrap samples."""
    return [(resample(ours, replicates)[:, 0], resample(theirs, replicates)[:, 0]) for ours, theirs in pairs]


def test_images_are_resampled_for_both_alike() -> None:
    rng = np.random.default_rng(0)
    pairs = World(images=30).pairs(rng, 2)
    assert image_variance(sampled([(ours, ours) for ours, _ in pairs], 20)) == 0, (
        "a variant against itself differs by nothing on any sample"
    )
    assert image_variance(sampled(pairs, 20)) == image_variance(sampled(pairs, 20)) > 0
    few, many = (World(images=images).pairs(rng, 2) for images in (25, 400))
    assert image_variance(sampled(few, 100)) > 4 * image_variance(sampled(many, 100)), "it falls with the number of images"
    # Two pairs by hand: differences (1, 3) and (3, 1) on two samples have means (2, 2); (1, 3) and (1, 5) have (1, 4), variance 4.5.
    zero = np.zeros(2)
    assert image_variance([(np.array([1.0, 3.0]), zero), (np.array([3.0, 1.0]), zero)]) == 0
    assert image_variance([(np.array([1.0, 3.0]), zero), (np.array([1.0, 5.0]), zero)]) == pytest.approx(4.5)


def test_what_is_detectable_is_what_the_seeds_needed_resolve() -> None:
    found = noise(1.0)
    assert detectable(Difference(0.0, None, None, None, 0.1, 1)) is None
    size = detectable(found)
    assert size == pytest.approx((4.302653 + 1.060660) / 3**0.5, abs=1e-5)  # t(0.975, 2) and t(0.8, 2)
    assert seeds_needed(found, size) == 3 and seeds_needed(found, size - 1e-6) == 4


def covered(world: World, seeds: int, runs: int, replicates: int, truth: float | None = None) -> float:
    """Share of intervals that hold the truth: 0 without an effect, else the mean over all runs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(runs):
        pairs = world.pairs(rng, seeds)
        values = [(ours.ap(), theirs.ap()) for ours, theirs in pairs]
        found.append(difference(values, image_variance(sampled(pairs, replicates)), world.images))
    truth = float(np.mean([each.mean for each in found])) if truth is None else truth
    return float(np.mean([each.low <= truth <= each.high for each in found]))


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "truth"), [(0.0, 0.0), (0.3, None)])
def test_intervals_cover_at_their_nominal_rate(effect: float, truth: float | None) -> None:
    share = covered(World(effect=effect), seeds=3, runs=200, replicates=40, truth=truth)
    assert 0.90 <= share <= 0.995  # 95% nominal; 200 runs vary by 1.5%


@pytest.mark.slow
def test_an_interval_without_the_images_would_not_cover() -> None:
    world = dataclasses.replace(World(), response_sd=0.6, seed_sd=0.01)
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        found = difference([(ours.ap(), theirs.ap()) for ours, theirs in world.pairs(rng, 10)])
        hits += found.low <= 0 <= found.high
    assert hits < 80
