"""The answers of the pages Curves, Boxes and Calibration: rules and sentences by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import special

from gfl_lab.metrics.coco_records import Records
from gfl_lab.report.answer import names_of
from gfl_lab.report.calibration import Estimate, Reliability, reliability
from gfl_lab.report.calibration_answer import calibration_answer, confidence
from gfl_lab.report.curve_answer import RisenLoss, Trend, correlated, curve_answer, risen_losses, trends
from gfl_lab.report.curves import curves
from gfl_lab.report.side_answer import EdgeCounts, edge_counts, side_answer
from gfl_lab.results.rows import DataRow, ExperimentRow, Failure, Logged, TrialRow, TrialState, VariantRow
from tests.test_error_types import BOX, records
from tests.test_report_series import logged

HALF = (0, 0, 100, 50)
"""IoU 0.5 with BOX."""


def trend_of(*lines: list[float]) -> Trend:
    (found,) = trends(curves(logged({("a", seed): line for seed, line in enumerate(lines)}), "val"))
    return found


# --- curves ---


def test_the_trend_of_one_seed_has_the_scatter_about_its_line_as_noise() -> None:
    found = trend_of([10.0, 13.0, 13.0])
    # the line rises by 1.5; residuals -0.5, 1, -0.5: variance 1.5 / 1 with one degree of freedom, over sum x^2 = 2
    # with correlation r the slope varies by (1 - r^2) / 2, and the scatter says (1 - r)(3 - r) / 6: 1.8 times as much at r = 0.5
    assert found.slope == pytest.approx(1.5) and found.half == pytest.approx(12.7062 * math.sqrt(0.75 * 1.8), rel=1e-4)
    assert correlated(3) == pytest.approx((1.8, 1.0)) and correlated(6, 0.0) == pytest.approx((1.0, 4.0))
    assert found.direction == "level" and (found.first, found.last, found.seeds) == (1, 3, 1)
    assert trend_of([10.0, 12.0, 14.0]).direction == "rises" and trend_of([14.0, 12.0, 10.0]).direction == "falls"


def test_the_trend_of_several_seeds_has_the_spread_of_their_slopes_as_noise() -> None:
    found = trend_of([0.0, 2.0, 4.0], [1.0, 4.0, 7.0], [5.0, 9.0, 13.0])
    # slopes 2, 3, 4: mean 3, variance 1, two degrees of freedom
    assert found.slope == pytest.approx(3.0) and found.half == pytest.approx(4.30265 / math.sqrt(3), rel=1e-4)
    assert found.direction == "rises" and trend_of([0.0, 2.0, 4.0], [9.0, 8.0, 7.0]).direction == "level"


def test_variants_pool_their_noise() -> None:
    lines = {("a", 0): 2.0, ("a", 1): 3.0, ("a", 2): 4.0, ("b", 0): 0.0, ("b", 1): 2.0, ("b", 2): 4.0}
    a, b = trends(curves(logged({key: [10.0, 10 + slope, 10 + 2 * slope] for key, slope in lines.items()}), "val"))
    # variances 1 and 4 are no F of 19: mean 2.5, and 4 / (1 + 0.25) degrees of freedom
    expected = -special.stdtrit(3.2, 0.025) * math.sqrt(2.5 / 3)
    assert a.half == pytest.approx(expected) and b.half == pytest.approx(expected)


def test_the_trend_is_that_of_the_last_quarter_of_the_epochs() -> None:
    found = trend_of([float(n) for n in range(12)] + [20.0, 20.0, 20.0, 20.0])
    assert (found.first, found.last, found.slope, found.direction) == (13, 16, 0.0, "level")
    assert trend_of([50.0, 50.01, 50.02]).direction == "level", "a change that prints as 0.0"
    assert trend_of([0.0, 0.01, 0.03]).direction == "silent"


def test_there_is_no_trend_of_two_epochs_nor_through_gaps() -> None:
    assert trends(curves(logged({("a", 0): [1.0, 2.0], ("b", 0): [1.0, math.nan, 3.0]}), "val")) == ()
    assert trend_of([1.0, math.nan, 3.0, 5.0]).last == 4


def loss_of(variant: str, seed: int, first: list[float], last: list[float]) -> Logged:
    epoch = np.repeat([1, 2], [len(first), len(last)])
    return Logged(variant, seed, f"{variant}{seed}", np.arange(len(epoch)), epoch, np.array(first + last))


def test_a_loss_has_risen_if_its_last_median_lies_above_its_first_epoch() -> None:
    high, low = [2.0] * 9 + [3.0], [1.0] * 4 + [math.nan, math.inf] + [4.0] * 8
    risen, are_told = risen_losses([loss_of("a", 1, high, low), loss_of("b", 0, high, high)])
    assert are_told and risen == (RisenLoss("a", 1, 3.0, 4.0),)
    assert risen_losses([loss_of("a", 0, [1.0] * 9, [9.0] * 9)]) == ((), False), "too few steps to tell"
    assert risen_losses([loss_of("a", 0, high, [])]) == ((), False), "one epoch"


def experiment(*states: TrialState, failure: Failure | None = None, kind: str = "ablation") -> ExperimentRow:
    """Variants a, b, ... of one trial each, as ``logged`` names them; a failed one has ``failure``."""
    variants = []
    for name, state in zip("abcdefg", states, strict=False):
        trial = TrialRow(f"{name}0", 0, state, failure=failure if state is TrialState.FAILED else None)
        variants.append(VariantRow(name, {}, {}, False, None, (trial,)))
    data = DataRow("shapes", "0", ("disc",), 8, 4, True)
    return ExperimentRow("x", "desk", "", kind, "", "", {}, (), data, tuple(variants))


DONE, FAILED, RUNNING = TrialState.DONE, TrialState.FAILED, TrialState.RUNNING


def test_the_sentences_on_curves() -> None:
    val = tuple(logged({("a", 0): [1.0, 2.0, 3.0], ("b", 0): [5.0, 5.0, 5.0], ("c", 0): [1.0, 9.0]}))
    loss = (loss_of("a", 0, [3.0] * 10, [2.0] * 10), loss_of("b", 0, [3.0] * 10, [2.0] * 10), loss_of("c", 0, [2.0] * 10, [3.0] * 10))
    known = {("val", "AP"): val, ("train", "loss"): loss}
    found = curve_answer(experiment(DONE, DONE, DONE), known)
    assert found.sentence == (
        "AP still rises at the end of training in a. AP is level within noise in b. No trend with fewer than 3 evaluated epochs: c. "
        "The loss rose in c, seed 0 (at most 2 in its first epoch, median 3 in its last)."
    )
    assert found.reason.startswith("AP points an epoch over epochs 1 to 3, with 95% intervals: a +1.00 (+1.00 to +1.00), b 0.00")
    assert "one seed" in found.reason and "does not show that the curve is flat" in found.reason
    broken = Failure("non_finite_loss", "NaN", 7, 1)
    found = curve_answer(experiment(RUNNING, FAILED, failure=broken), known | {("train", "loss"): loss[:2]})
    assert found.sentence == "No trial has finished, so no curve has its end yet. The loss became NaN or infinite in b, seed 0 (step 7)."
    assert found.reason == ""
    found = curve_answer(
        experiment(DONE, DONE, RUNNING, FAILED, failure=Failure("disk_full", "full")), known | {("train", "loss"): loss[:2]}
    )
    assert "1 unfinished trial is left out." in found.sentence and "1 trial failed for another reason: d, seed 0." in found.sentence
    found = curve_answer(experiment(DONE, DONE, kind="search"), known | {("train", "loss"): loss[:2]})
    assert found.sentence.startswith("AP still rises at the end of training in 1 of 2 trials.")
    assert found.sentence.endswith("No loss diverged.")
    assert "epochs 1 to 3, from 0.00 to +1.00 among the trials, each judged by its 95% interval. Noise" in found.reason
    found = curve_answer(experiment(DONE, FAILED, failure=broken, kind="search"), known)
    assert "infinite in 1 trial. The loss rose in 1 trial." in found.sentence, "long names are left out"


def test_many_variants_are_counted() -> None:
    assert names_of(list("abcd"), 9) == "a, b, c and d" and names_of(list("abcde"), 9) == "5 variants"
    assert names_of(list("abc"), 3) == "all 3 variants" and names_of(list("ab"), 2) == "a and b"


# --- boxes ---

ONE, TWO = [0.0, 1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.0, 0.25, 0.25]


def box(sides: list[list[float]], ambiguous: int = -1, annotation: int = 1) -> dict[str, object]:
    """A row of distributions.parquet: five bins, true edges at 0.5 and 3.5 of the ambiguous side."""
    edges = (0.5, 3.5) if ambiguous >= 0 else (math.nan, math.nan)
    return {
        "annotation_id": annotation, "bins": 5, "probs": [p for side in sides for p in side], "bin_positions": [], "expectation": [1.0] * 4,
        "ambiguous_side": ambiguous, "edge_a": edges[0], "edge_b": edges[1], "prob_a": 0.5, "scored": True,
    }  # fmt: skip


def test_ambiguous_edges_are_counted() -> None:
    rows = [box([TWO, ONE, ONE, ONE], 0), box([ONE, ONE, TWO, ONE], 1), box([TWO] * 4, annotation=-1)]
    assert edge_counts(pd.DataFrame(rows)) == EdgeCounts(ambiguous=2, found=1, clear=6, false=1)
    assert edge_counts(pd.DataFrame([box([TWO, ONE, ONE, ONE])])) is None and edge_counts(None) is None
    nowhere = box([ONE] * 4, 0) | {"probs": [], "expectation": [math.nan] * 4, "scored": False}
    assert edge_counts(pd.DataFrame([*rows, nowhere])) == EdgeCounts(2, 1, 6, 1)
    assert edge_counts(pd.DataFrame([rows[0] | {"bins": 0, "probs": []}])) is None, "a Dirac box"


def test_the_sentences_on_boxes() -> None:
    sides = pd.DataFrame({"modes": [2, 1, 1, 3]})
    found = side_answer(sides, EdgeCounts(3, 2, 1200, 1), "dfl, seed 0", "general")
    assert found.sentence == (
        "dfl, seed 0: 2 of 4 sides have two modes or more. 2 of 3 ambiguous edges are found as two modes (two-mode recall 0.667); "
        "1 of 1,200 clear sides has a second mode that is false."
    )
    assert "at least 10% of the mass" in found.reason and "at least 3 bins apart" in found.reason and "within 1 bin" in found.reason
    found = side_answer(sides, None, "dfl, seed 0", "general")
    assert found.sentence.endswith("The annotations give one edge a side, so they cannot tell whether a second mode is right.")
    found = side_answer(sides[:0], None, "atss, seed 1", "dirac")
    assert found.sentence == "atss, seed 1 predicts one distance for each side (a Dirac box): no side can have two modes."
    assert "no side with a finite distribution" in side_answer(sides[:0], None, "dfl, seed 1", "general").sentence
    assert "no distribution of box sides" in side_answer(sides[:0], None, "yolo, seed 1", "").sentence


# --- calibration ---


def of_images(images: list[tuple[tuple[float, tuple[int, ...]], ...]]) -> Records:
    """Detections (score, box) of each image, which has one annotated box."""
    found = [(image, 0, score, box) for image, each in enumerate(images) for score, box in each]
    return records(found, [(image, 0, BOX) for image in range(len(images))], images=len(images))


def test_the_gap_of_score_and_iou_has_an_interval_over_images() -> None:
    some = ((0.9, BOX), (0.4, HALF), (0.3, (0, 0, 100, 30)), (0.7, (0, 0, 100, 70)))
    alike = reliability(of_images([some] * 10))
    # scores 0.9, 0.4, 0.3, 0.7 against IoU 1, 0.5, 0.3, 0.7 in each image, in the same order: every sample has the same numbers
    assert alike.gap == pytest.approx((-0.2 / 4,) * 3) and alike.rank == pytest.approx((1.0,) * 3)
    assert alike.low[[8, 3]] == pytest.approx([-0.1, -0.1]) and alike.high[8] == pytest.approx(-0.1) and np.isnan(alike.low[0])
    assert confidence(alike.gap) == "underconfident" and confidence(Estimate(0.2, 0.1, 0.3)) == "overconfident"
    unlike = reliability(of_images([((0.9, HALF),), ((0.6, BOX),)] * 5))
    assert unlike.gap is not None and unlike.gap.value == pytest.approx(0.0) and confidence(unlike.gap) == "within noise"
    assert np.isnan(unlike.low).all(), "five images for each bin"
    few = reliability(of_images([some] * 9))
    assert few.gap is not None and few.gap.low is None and confidence(few.gap) == "too few images"
    assert reliability(records([], [(0, 0, BOX)])).gap is None


def test_the_sentences_on_calibration() -> None:
    base = reliability(records([(0, 0, 0.9, HALF)], [(0, 0, BOX)]))

    def of(gap: tuple[float, float, float] | None, rank: float | None) -> Reliability:
        return dataclasses.replace(base, gap=gap and Estimate(*gap), rank=None if rank is None else Estimate(rank, rank - 0.1, rank + 0.1))

    found = calibration_answer(
        {"a": of((-0.12, -0.14, -0.1), 0.5), "b": of((-0.1, -0.11, -0.09), 0.625), "c": of((0.01, -0.1, 0.2), -0.25)}
    )
    assert found.sentence == (
        "Scores are underconfident in a and b: their mean lies 0.10 to 0.12 below the mean IoU. In c mean score and mean IoU agree within noise. "
        "Among detections with an IoU of 0.5 or more, the score ranks boxes by their IoU with a correlation of 0.50 (a), 0.62 (b), −0.25 (c); "
        "1 is the order of the IoU, 0 no order."
    )
    assert "a −0.12 (−0.14 to −0.10)" in found.reason and "c −0.25 (−0.35 to −0.15)" in found.reason
    over = of((0.2, 0.1, 0.3), None)
    assert "overconfident in a: their mean lies 0.20 above the mean IoU." in calibration_answer({"a": over}).sentence
    low, high = np.full(10, -1.0), np.array([1.0, 1.0, -0.1, -0.2, 1.0, 1.0, 1.0, 1.0, 1.0, -0.1])
    some = dataclasses.replace(over, low=low, high=high)
    assert "Underconfident at scores of 0.2 to 0.4, 0.9 to 1.0 in b." in calibration_answer({"a": over, "b": some}).sentence
    assert "nothing is ranked" in calibration_answer({"a": of((0.2, 0.1, 0.3), None)}).sentence
    assert "Fewer than 10 images have detections in a" in calibration_answer({"a": reliability(of_images([((0.9, BOX),)]))}).sentence
    assert "No trial has detections" in calibration_answer({"a": of(None, None)}).sentence
