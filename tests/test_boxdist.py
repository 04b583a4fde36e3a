"""Box distributions: hand-worked numbers, and properties of the mode definition (docs/box-distributions.md)."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gfl_lab.metrics import box_modes, boxdist, truth_scores

N = 16


def one_hot(k: int, n: int = N) -> np.ndarray:
    return np.eye(n + 1)[k]


def blurred(p: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    result = np.convolve(p, kernel, mode="same")
    return result / result.sum()


# --- moments --------------------------------------------------------------------------------------


def test_moments_by_hand():
    p = np.zeros(5)
    p[1], p[4] = 0.75, 0.25
    assert boxdist.expectation(p) == pytest.approx(0.75 * 1 + 0.25 * 4)
    assert boxdist.spread(p) == pytest.approx(np.sqrt(0.75 * 0.75**2 + 0.25 * 2.25**2))
    assert boxdist.entropy(p) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert boxdist.tail_mass(p) == pytest.approx(0.25)


def test_moments_keep_leading_axes():
    p = np.full((2, 3, 4, 17), 1 / 17)
    for function in (boxdist.expectation, boxdist.spread, boxdist.entropy, boxdist.tail_mass, box_modes.bimodality):
        assert function(p).shape == (2, 3, 4)
    assert boxdist.entropy(p) == pytest.approx(np.log(17))
    assert boxdist.spread(p) == pytest.approx(np.sqrt((17**2 - 1) / 12))


def test_entropy_of_one_bin_is_zero():
    assert boxdist.entropy(one_hot(3)) == 0


def test_a_single_bin_is_refused():
    with pytest.raises(ValueError, match="at least two bins"):
        box_modes.modes(np.ones((3, 1)))


# --- ideal distribution ---------------------------------------------------------------------------


def test_ideal_distribution_by_hand():
    p = boxdist.ideal_distribution([2.25, 6.0], [0.4, 0.6], 8)
    expected = np.zeros(9)
    expected[2], expected[3], expected[6] = 0.4 * 0.75, 0.4 * 0.25, 0.6
    np.testing.assert_allclose(p, expected, atol=1e-15)


def test_ideal_distribution_clips_as_training_does():
    np.testing.assert_allclose(boxdist.ideal_distribution([40.0], [1.0], 16)[-2:], [0.1, 0.9], atol=1e-12)
    np.testing.assert_allclose(boxdist.ideal_distribution([-3.0], [1.0], 16), one_hot(0), atol=1e-12)


@given(st.lists(st.tuples(st.floats(0, N - 0.1), st.floats(0.05, 1)), min_size=1, max_size=4))
def test_ideal_distribution_keeps_the_mean(points):
    edges, weights = np.array(points).T
    weights = weights / weights.sum()
    p = boxdist.ideal_distribution(edges, weights, N)
    assert p.sum() == pytest.approx(1)
    assert boxdist.expectation(p) == pytest.approx((edges * weights).sum())


@given(st.floats(0, N - 0.1), st.floats(0, N - 0.1), st.floats(0.1, 0.9), st.integers(0, 2**31))
@settings(max_examples=50)
def test_ideal_distribution_minimises_the_expected_dfl(a, b, prob, seed):
    """DFL of a distribution q at target y is -(w0 log q[i] + w1 log q[i+1]); no other q has a lower mean over both targets."""

    def dfl(q: np.ndarray, y: float) -> float:
        i = int(np.floor(y))
        return -((i + 1 - y) * np.log(q[i] + 1e-12) + (y - i) * np.log(q[i + 1] + 1e-12))

    ideal = boxdist.ideal_distribution([a, b], [prob, 1 - prob], N)
    other = 0.8 * ideal + 0.2 * np.random.default_rng(seed).dirichlet(np.ones(N + 1))

    def mean(q: np.ndarray) -> float:
        return prob * dfl(q, a) + (1 - prob) * dfl(q, b)

    assert mean(ideal) <= mean(other) + 1e-9


# --- modes ----------------------------------------------------------------------------------------


def test_modes_by_hand():
    p = np.zeros(17)
    p[3], p[4], p[5], p[9], p[10] = 0.2, 0.2, 0.04, 0.36, 0.2
    found = box_modes.modes(p)
    assert found.count == 2
    # valley: bins 6, 7, 8 at 0, so the split is at 7; place: the bins from half height on, and one more each way
    np.testing.assert_allclose(found.mass, [0.44, 0.56])
    np.testing.assert_allclose(found.place, [(3 * 0.2 + 4 * 0.2 + 5 * 0.04) / 0.44, (9 * 0.36 + 10 * 0.2) / 0.56])
    np.testing.assert_allclose(found.height, [0.2, 0.36])
    assert found.valley[0] == 0


def test_an_edge_between_two_bins_is_one_mode_at_the_edge():
    edges = np.linspace(0, N - 0.1, 400)
    found = box_modes.modes(boxdist.ideal_distribution(edges[:, None], np.ones((400, 1)), N))
    assert (found.count == 1).all()
    np.testing.assert_allclose(found.place[:, 0], edges, atol=1e-9)


def test_plateaus_and_the_uniform_distribution_are_one_mode():
    flat = np.zeros(17)
    flat[4:9] = 0.2
    for p, place in ((flat, 6.0), (np.full(17, 1 / 17), 8.0), (one_hot(0), 0.0), (one_hot(16), 16.0)):
        found = box_modes.modes(p)
        assert found.count == 1
        assert found.place[0] == pytest.approx(place)
        assert box_modes.bimodality(p) == 0


@pytest.mark.parametrize(("lesser", "count"), [(0.09, 1), (0.11, 2), (0.3, 2)])
def test_a_mode_needs_its_mass(lesser, count):
    p = (1 - lesser) * one_hot(4) + lesser * one_hot(10)
    assert box_modes.modes(p).count == count


@pytest.mark.parametrize(("valley", "count"), [(0.2, 2), (0.24, 2), (0.26, 1), (0.4, 1)])
def test_a_mode_needs_its_valley(valley, count):
    p = np.zeros(17)
    p[4], p[5], p[6] = 1.0, valley, 0.49
    assert box_modes.modes(p / p.sum()).count == count


def test_light_peaks_give_their_mass_to_their_neighbours():
    p = np.zeros(17)
    p[2], p[5], p[8], p[12] = 0.5, 0.06, 0.06, 0.38
    found = box_modes.modes(p)
    assert found.count == 2
    assert found.mass.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.place, [2, 12])


def test_noise_around_a_mode_is_no_mode():
    rng = np.random.default_rng(0)
    base = boxdist.ideal_distribution(rng.uniform(1, 15, (5000, 1)), np.ones((5000, 1)), N)
    p = 0.93 * base + 0.07 * rng.dirichlet(np.full(17, 0.5), 5000)
    assert (box_modes.modes(p).count == 1).all()


@given(
    edge=st.floats(0, N),
    half=st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
)
def test_a_two_hot_under_a_unimodal_kernel_is_one_mode(edge, half):
    falling = np.sort(half)[::-1]
    kernel = np.concatenate([falling[:0:-1], falling])
    p = blurred(boxdist.ideal_distribution([min(edge, N - 0.1)], [1.0], N), kernel / kernel.sum())
    assert box_modes.modes(p).count == 1
    assert box_modes.bimodality(p) == 0


@given(
    low=st.floats(1, 11),
    gap=st.floats(3, 12),
    prob=st.floats(0.25, 0.75),
    sigma=st.floats(0, 0.4),
    noise=st.floats(0, 0.03),
)
@settings(max_examples=300)
def test_two_edges_three_bins_apart_are_two_modes_at_their_places(low, gap, prob, sigma, noise):
    high = low + gap
    assume(high <= N - 1)
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / max(sigma, 1e-3)) ** 2)
    p = blurred(boxdist.ideal_distribution([low, high], [prob, 1 - prob], N), kernel / kernel.sum())
    p = (1 - noise) * p + noise / (N + 1)
    found = box_modes.modes(p)
    assert found.count == 2
    assert np.abs(found.place - [low, high]).max() <= 0.5
    assert box_modes.shows_both_edges(p, high, low)
    assert 0 < box_modes.bimodality(p) <= 1


def test_noise_in_empty_bins_is_no_mode():
    p = np.zeros(17)
    p[[0, 2, 3, 5]] = 1.4e-9
    p[1], p[4] = 0.25, 0.75 - 4 * 1.4e-9
    found = box_modes.modes(p)
    assert found.count == 2 and found.height == pytest.approx([0.25, 0.75]) and found.mass == pytest.approx([0.25, 0.75])
    assert box_modes.bimodality(p) == pytest.approx(0.5)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=33))
@settings(max_examples=300)
def test_invariants(weights):
    assume(sum(weights))
    p = np.array(weights, float) / sum(weights)
    found, turned = box_modes.modes(p), box_modes.modes(p[::-1])
    count = int(found.count)
    assert count >= 1
    assert found.mass.sum() == pytest.approx(1)
    assert (np.diff(found.place[:count]) > 0).all()
    assert count == 1 or found.mass[:count].min() >= box_modes.MIN_MODE_MASS - 1e-6
    assert (found.valley <= box_modes.MAX_VALLEY_RATIO * np.minimum(found.height[:-1], found.height[1:]) + 1e-6).all()
    assert 0 <= box_modes.bimodality(p) <= 1
    assert (box_modes.bimodality(p) > 0) == (count >= 2)
    # reversal
    assert turned.count == count
    np.testing.assert_allclose(turned.mass[:count][::-1], found.mass[:count], atol=1e-9)
    np.testing.assert_allclose(len(p) - 1 - turned.place[:count][::-1], found.place[:count], atol=1e-6)
    heaviest = np.sort(found.mass)[::-1]
    if count < 3 or heaviest[1] - heaviest[2] > 1e-9:  # of three equally heavy modes the lower two are taken
        assert box_modes.bimodality(p[::-1]) == pytest.approx(float(box_modes.bimodality(p)), abs=1e-9)


def test_many_at_once_equal_one_by_one():
    p = np.random.default_rng(1).dirichlet(np.full(17, 0.3), 200)
    together = box_modes.modes(p.reshape(50, 4, 17))
    assert together.count.shape == (50, 4)
    ranks = box_modes.bimodality(p)
    for k, row in enumerate(p):
        alone = box_modes.modes(row)
        count = int(alone.count)
        assert together.count.reshape(-1)[k] == count
        np.testing.assert_allclose(together.place.reshape(200, -1)[k, :count], alone.place[:count])
        assert ranks[k] == pytest.approx(float(box_modes.bimodality(row)))


def test_an_empty_batch():
    assert box_modes.modes(np.zeros((0, 4, 17))).count.shape == (0, 4)
    assert box_modes.bimodality(np.zeros((0, 17))).shape == (0,)


def test_twenty_thousand_sides_take_less_than_a_second():
    p = np.random.default_rng(0).dirichlet(np.full(17, 0.3), 20_000)
    start = time.process_time()
    box_modes.modes(p)
    assert time.process_time() - start < 1


def test_bimodality_by_hand():
    p = 0.5 * one_hot(3) + 0.5 * one_hot(9)
    assert box_modes.bimodality(p) == pytest.approx(1)
    q = np.zeros(17)
    q[3], q[4], q[5] = 0.5, 0.1, 0.4
    # bin 4 is the valley: half its mass on either side; lesser mass 0.45, depth 1 - 0.1 / 0.4
    assert box_modes.bimodality(q) == pytest.approx(2 * 0.45 * 0.75)


# --- distances ------------------------------------------------------------------------------------


def test_wasserstein_by_hand():
    assert boxdist.wasserstein1(one_hot(2), one_hot(7)) == pytest.approx(5)
    assert boxdist.wasserstein1(0.5 * one_hot(0) + 0.5 * one_hot(10), one_hot(5)) == pytest.approx(5)
    # the two-hot of 4.25 has 0.75 on 4 and 0.25 on 5: 0.75 * 0.25 + 0.25 * 0.75
    assert boxdist.wasserstein1_points(boxdist.ideal_distribution([4.25], [1.0], N), [4.25], [1.0]) == pytest.approx(0.375)
    # everything at 5 against halves at 3.5 and 8: 0.5 * 1.5 + 0.5 * 3
    assert boxdist.wasserstein1_points(one_hot(5), [8.0, 3.5], [0.5, 0.5]) == pytest.approx(2.25)
    assert boxdist.wasserstein1_dirac(5.0, [8.0, 3.5], [0.5, 0.5]) == pytest.approx(2.25)
    # points beyond the bins count at their true place
    assert boxdist.wasserstein1_points(one_hot(16), [20.0], [1.0]) == pytest.approx(4)


@given(st.integers(0, 2**31), st.lists(st.integers(0, N), min_size=1, max_size=3))
def test_points_on_bins_agree_with_bins(seed, edges):
    rng = np.random.default_rng(seed)
    p, weights = rng.dirichlet(np.ones(N + 1)), rng.dirichlet(np.ones(len(edges)))
    q = np.zeros(N + 1)
    np.add.at(q, edges, weights)
    assert boxdist.wasserstein1_points(p, np.array(edges, float), weights) == pytest.approx(float(boxdist.wasserstein1(p, q)), abs=1e-9)


@given(st.integers(0, 2**31))
def test_wasserstein_is_a_metric_and_bounds_the_means(seed):
    p, q, r = np.random.default_rng(seed).dirichlet(np.ones(N + 1), 3)
    w = boxdist.wasserstein1
    assert w(p, q) == pytest.approx(float(w(q, p)))
    assert w(p, r) <= w(p, q) + w(q, r) + 1e-12
    assert abs(boxdist.expectation(p) - boxdist.expectation(q)) <= w(p, q) + 1e-12


def test_points_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    p, edges = rng.dirichlet(np.ones(N + 1), 50), rng.uniform(-2, 20, (50, 2))
    ours = boxdist.wasserstein1_points(p, edges, np.tile([0.3, 0.7], (50, 1)))
    theirs = [stats.wasserstein_distance(np.arange(N + 1), e, row, [0.3, 0.7]) for row, e in zip(p, edges, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


# --- scores ---------------------------------------------------------------------------------------


def _columns(sides: list[np.ndarray], **columns):
    """One row a box: the given distribution on side 2 (right), a sharp one on the rest."""
    probs = np.stack([np.stack([one_hot(3), one_hot(3), p, one_hot(3)]) for p in sides])
    rows = len(sides)
    values = {
        "ambiguous_side": np.full(rows, 2),
        "edges": np.tile([3.5, 7.0], (rows, 1)),
        "prob_a": np.full(rows, 0.5),
        "scored": np.ones(rows, bool),
        "expectation": boxdist.expectation(probs),
        "reg_max": N,
    }
    return {"probs": probs, **values, **columns}


IDEAL = boxdist.ideal_distribution([3.5, 7.0], [0.5, 0.5], N)


def test_scores_by_hand():
    shifted = boxdist.ideal_distribution([3.5, 8.2], [0.5, 0.5], N)  # the far mode 1.2 bins off
    columns = _columns([IDEAL, one_hot(5), shifted, IDEAL])
    columns["ambiguous_side"][3] = -1  # the fourth box is clear, and its right side wrongly shows two modes
    scores = truth_scores.truth_scores(**columns)
    assert scores.two_mode_recall == pytest.approx(1 / 3)
    assert scores.clear_sides == 3 * 3 + 4
    assert scores.false_bimodality == pytest.approx(1 / 13)
    w1 = [0.25, 0.5 * 1.5 + 0.5 * 2.0, float(boxdist.wasserstein1_points(shifted, [3.5, 7.0], [0.5, 0.5]))]
    assert scores.wasserstein == pytest.approx(np.mean(w1))
    assert scores.counts()["recall_sides"] == 3
    assert set(scores.metrics()) == {"two_mode_recall", "false_bimodality", "wasserstein"}


def test_rows_of_flat_lists_as_in_the_file():
    columns = _columns([IDEAL, one_hot(5)])
    flat = [row.reshape(-1).astype(np.float32) for row in columns["probs"]]
    listed = [list(row) for row in columns["expectation"]]
    assert truth_scores.truth_scores(**{**columns, "probs": flat, "expectation": listed}) == truth_scores.truth_scores(
        **{**columns, "probs": np.stack(flat)}
    )


def test_a_dirac_box_is_scored_on_the_same_sides():
    columns = _columns([IDEAL, IDEAL], expectation=np.array([[3, 3, 5.0, 3], [3, 3, 3.5, 3]]))
    scores = truth_scores.truth_scores(**{**columns, "probs": [[], []]})
    assert (scores.two_mode_recall, scores.false_bimodality) == (0.0, 0.0)
    assert scores.wasserstein == pytest.approx(np.mean([0.5 * 1.5 + 0.5 * 2.0, 0.5 * 3.5]))
    assert scores.counts() == truth_scores.truth_scores(**columns).counts()


def test_sides_that_cannot_show_two_modes_are_left_out_and_counted():
    columns = _columns([IDEAL] * 4, edges=np.array([[3.5, 7.0], [5.0, 7.0], [3.5, 16.5], [3.5, 7.0]]))
    columns["scored"][3] = False
    scores = truth_scores.truth_scores(**columns)
    assert scores.recall_sides == 1
    assert scores.two_mode_recall == 1
    assert scores.too_close_sides == 1
    assert scores.out_of_reach_sides == 1
    assert scores.wasserstein_sides == 2
    assert scores.scored_boxes == 3
    assert scores.clear_sides == 9


def test_scores_without_a_side_are_left_undefined():
    columns = _columns([IDEAL], scored=np.zeros(1, bool))
    assert truth_scores.truth_scores(**columns).metrics() == {}
    assert truth_scores.truth_scores(**_columns([IDEAL][:1], ambiguous_side=np.array([-1]))).two_mode_recall is None
    empty = truth_scores.truth_scores(probs=[], expectation=[], ambiguous_side=[], edges=[], prob_a=[], scored=[], reg_max=N)
    assert empty.metrics() == {} and empty.boxes == 0


def test_wrong_bin_count_is_refused():
    with pytest.raises(ValueError, match="17 bins"):
        truth_scores.truth_scores(**_columns([IDEAL], reg_max=8))


def test_rows_without_a_cell_are_not_scored():
    columns = _columns([IDEAL, IDEAL])
    columns["probs"][1] = np.nan
    assert truth_scores.truth_scores(**columns).scored_boxes == 1
