"""Arms whose trainings do not pair: differences by hand, against SciPy's tests of two groups, by properties, and with a known truth."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics as plain
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import unpaired_coverage
from gfl_lab.report.comparison import compare, compare_two
from gfl_lab.report.power import detectable, images_resolve, seeds_needed
from gfl_lab.report.statistics import p_equivalent
from gfl_lab.report.table import build_table
from gfl_lab.report.unpaired import Arm, compare_arms
from gfl_lab.report.variant_comparison import compare_variants, context
from gfl_lab.report.variant_pair import pair_of
from gfl_lab.results.rows import Resampled, TrialRow, VariantRow
from gfl_lab.rundir import TrialState
from tests.test_error_types import scene
from tests.test_report_table import experiment

Z = 1.959963985
A, B = [41.0, 42.0, 43.0], [40.0, 40.0, 40.6]


def samples(seed: int, trainings: int, sd: float = 0.3) -> np.ndarray:
    """AP on eight samples of the images: a part that the arm's trainings share, and one of each."""
    rng = np.random.default_rng(seed)
    return 40 + rng.normal(0, 0.4, 8) + rng.normal(0, sd, (trainings, 8))


def test_two_arms_of_one_size_are_welchs_two_groups() -> None:
    found = compare_arms(Arm(A), Arm(B))
    # means 42 and 40.2; variances 1 and 0.12; error sqrt(1.12 / 3) = 0.611010; degrees of freedom 1.12^2 / (1^2 + 0.12^2) * 2 = 2.473186
    assert found.mean == pytest.approx(1.8) and found.freedom == pytest.approx(2.473186, abs=1e-6)
    assert found.half == pytest.approx(0.611010 * stats.t.ppf(0.975, 2.473186), abs=1e-5)
    assert found.p == pytest.approx(stats.ttest_ind(A, B, equal_var=False).pvalue, abs=1e-9)
    assert (found.rows, found.seeds, found.guarded, found.spread) == (1, 3, False, pytest.approx(1.12)), "of one training of each"


@pytest.mark.parametrize("sizes", [(2, 5), (5, 2), (3, 4)])
def test_unequal_numbers_of_files_all_count(sizes: tuple[int, int]) -> None:
    one, other = [41.0, 41.4, 41.9, 41.1, 41.6][: sizes[0]], [40.2, 40.6, 40.1, 40.9, 40.4][: sizes[1]]
    found = compare_arms(Arm(one), Arm(other))
    parts = [plain.variance(values) / len(values) for values in (one, other)]
    welch = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    freedom = min(welch, 2 * (min(sizes) - 1))
    assert found.freedom == pytest.approx(freedom) and (welch > freedom) == (min(sizes) == 2), "no more than two arms of 2 files could have"
    assert found.half == pytest.approx(stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5)
    assert found.p == pytest.approx(2 * stats.t.sf(found.mean / sum(parts) ** 0.5, freedom), rel=1e-6)
    assert found.groups.sizes == sizes and found.seeds == min(sizes) and found.pairs == pytest.approx(2 / (1 / sizes[0] + 1 / sizes[1]))
    assert found.reversed().groups.sizes == sizes[::-1]


def test_images_by_hand() -> None:
    ours, theirs = samples(0, 3), samples(1, 2)
    one, other = [41.0, 42.0, 43.0], [40.0, 40.9]
    found = compare_arms(Arm(one, ours, 50), Arm(other, theirs, 50))

    def residual(each: np.ndarray) -> float:
        """E: (V - B) n / (n - 1) of one arm."""
        n = len(each)
        mean = [plain.fmean(column) for column in each.T.tolist()]
        return max(0.0, (plain.fmean(plain.variance(row) for row in each.tolist()) - plain.variance(mean)) * n / (n - 1))

    b = plain.variance([plain.fmean(x) - plain.fmean(y) for x, y in zip(ours.T.tolist(), theirs.T.tolist(), strict=True)])
    g = plain.variance(one) / 3 + plain.variance(other) / 2
    e = residual(ours) / 3 + residual(theirs) / 2
    pairs, t = 2 / (1 / 3 + 1 / 2), stats.t.ppf(0.975, found.freedom)
    assert (found.image_variance, found.images, found.freedom) == (pytest.approx(b), 50, 2)
    assert found.residual == pytest.approx(pairs * e) and found.spread == pytest.approx(pairs * g)
    assert found.half == pytest.approx((Z**2 * b + max(0.0, t * t * g - Z**2 * e)) ** 0.5, rel=1e-6)
    assert found.half > (Z**2 * b) ** 0.5
    assert p_equivalent(found, abs(found.mean) + found.half + 0.01) < 0.05 < p_equivalent(found, abs(found.mean) + found.half - 0.01)


def test_seeds_needed_are_files_of_every_arm() -> None:
    found = compare_arms(Arm(A), Arm(B))
    rate = found.freedom / 2

    def shown(size: int) -> float:
        return float((stats.t.ppf(0.975, rate * (size - 1)) + stats.t.ppf(0.8, rate * (size - 1))) * (1.12 / size) ** 0.5)

    assert found.groups.rate == pytest.approx(rate) and detectable(found) == pytest.approx(shown(3))
    assert seeds_needed(found, 1.0) == next(size for size in range(2, 99) if shown(size) <= 1) and images_resolve(found) is None


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (Arm([0.0, 0.01]), Arm([0.0, 0.02]), "no signal"), (Arm([40.0, 40.0]), Arm([40.0]), "no signal"), (Arm([41.0]), Arm(B), "one seed"),
        (Arm([41.0, 41.0]), Arm([40.0, 40.0]), "no spread"), (Arm(A, why="lost"), Arm(B), "no records"),
    ],
)  # fmt: skip
def test_what_shows_no_noise_gets_no_interval(one: Arm, other: Arm, verdict: str) -> None:
    found = compare_arms(one, other)
    assert (found.verdict, found.half, found.p) == (verdict, None, None)


def test_one_file_still_shows_what_the_images_make_uncertain() -> None:
    found = compare_arms(Arm([41.0], samples(0, 1), 50), Arm(B, samples(1, 3), 50))
    b = plain.variance((samples(0, 1)[0] - samples(1, 3).mean(0)).tolist())
    assert found.half is None and found.image_half == pytest.approx(Z * b**0.5)


def test_the_order_of_files_does_not_matter() -> None:
    ours, theirs = samples(0, 3), samples(1, 3)
    first = compare_arms(Arm(A, ours, 9), Arm(B, theirs, 9))
    for order in itertools.permutations(range(3)):
        again = compare_arms(Arm([A[i] for i in order], ours[list(order)], 9), Arm(B, theirs, 9))
        assert (again.mean, again.half, again.p) == pytest.approx((first.mean, first.half, first.p), rel=1e-9)
    back = compare_arms(Arm(B, theirs, 9), Arm(A, ours, 9))
    assert (back.mean, back.half) == pytest.approx((-first.mean, first.half)) and first.reversed().mean == pytest.approx(back.mean)


# --- imported experiments -------------------------------------------------------------------------


def imported(**arms: list[float]) -> Any:
    rows = [
        VariantRow(name, {"arm": name}, {}, number == 0, None, tuple(TrialRow(f"{name}{s}", s, TrialState.DONE, {"AP": v, "AP_M": v}) for s, v in enumerate(values)))
        for number, (name, values) in enumerate(arms.items())
    ]  # fmt: skip
    return dataclasses.replace(experiment(*rows), kind="imported", axes={"arm": tuple(arms)}, declared=frozenset({"arm"}))


def lookup(trial: str) -> Resampled:
    noise = np.random.default_rng(sum(map(ord, trial))).normal(0, 0.1, 50)
    return Resampled({key: 50 + noise for key in ("AP", "AP50", "AP75")}, 100)


def test_a_table_uses_every_file_of_an_imported_arm() -> None:
    row = imported(yolo=[40.0, 40.4, 40.1, 40.6, 40.2], dfine=[42.0, 42.5, 42.1], detr=[41.0])
    table = build_table(row, lookup)
    delta = table.rows[1].delta["AP"]
    assert delta.mean == pytest.approx(plain.fmean([42.0, 42.5, 42.1]) - plain.fmean([40.0, 40.4, 40.1, 40.6, 40.2]))
    assert (delta.n, delta.seeds) == (3, ()) and delta.std == pytest.approx(
        (plain.variance([42.0, 42.5, 42.1]) + plain.variance([40.0, 40.4, 40.1, 40.6, 40.2])) ** 0.5
    )
    found = {each.variant: each for each in table.compared}
    assert found["dfine"].found.mean == delta.mean and found["dfine"].verdict == "better" and found["detr"].verdict == "one seed"
    assert found["dfine"].found.groups.sizes == (3, 5)
    notes = " ".join(table.footnotes)
    assert "do not pair" in notes and "independent groups" in notes and "partner" not in notes and "paired over" not in notes
    assert compare(row, lookup) == table.comparisons
    dfine, yolo, detr = (next(each for each in row.variants if each.name == name) for name in ("dfine", "yolo", "detr"))
    assert compare_two(row, yolo, dfine, lookup)[0].found.mean == -delta.mean
    assert compare_two(row, detr, dfine, lookup)[0].verdict == "one seed"
    pair = pair_of(row, dfine, yolo)
    assert pair.compared == (("dfine0", "yolo0"), ("dfine1", "yolo1"), ("dfine2", "yolo2"), (None, "yolo3"), (None, "yolo4"))
    assert pair.about == "3 and 5 files" and pair.to_json([])["seeds"] == []
    trained = dataclasses.replace(
        row, name="other", kind="ablation", variants=(yolo, dataclasses.replace(dfine, trials=(*yolo.trials[:1], *dfine.trials[1:])))
    )
    across = pair_of(row, yolo, trained.variants[1], trained)
    assert across.compared == (("yolo1", "dfine1"), ("yolo2", "dfine2"), ("yolo3", None), ("yolo4", None)), "the shared trial is left out"
    found = across.context(lookup).totals[0].found
    assert found.groups.sizes == (4, 2) and found.mean == pytest.approx(plain.fmean([40.4, 40.1, 40.6, 40.2]) - plain.fmean([42.5, 42.1]))


def test_classes_and_errors_use_every_file_too() -> None:
    row = imported(yolo=[40.0, 40.4, 40.1], dfine=[42.0, 42.5], other=[30.0, 31.0])
    yolo, dfine = row.variants[:2]
    known = context(row, dfine, yolo, lookup)
    assert not known.is_paired
    pairs = [(scene(3), scene(0)), (scene(4), scene(1)), (None, scene(2))]
    found = {(each.group, each.name): each for each in compare_variants(pairs, 10, known)}
    one, other = (
        [compare_variants([(records, records)], 2)[0] for records in side]
        for side in ((scene(3), scene(4)), (scene(0), scene(1), scene(2)))
    )
    assert found["metric", "AP"].value == pytest.approx(np.mean([each.value for each in one]))
    assert found["metric", "AP"].reference == pytest.approx(np.mean([each.value for each in other]))
    label = found["class", "a"].found
    assert label.groups.sizes == (2, 3) and found["size", "AP_M"].found.groups.sizes == (2, 3)
    assert label.mean == pytest.approx(found["class", "a"].value - found["class", "a"].reference)


# --- with a known truth ---------------------------------------------------------------------------


@pytest.mark.parametrize(("files", "share"), [((3, 5), 0.5), ((2, 2), 0.0), ((3, 3, 2), 0.1)])
def test_intervals_hold_the_truth(files: tuple[int, ...], share: float) -> None:
    found = unpaired_coverage.cell(150, files, share, samples=50)
    assert 90 <= found["coverage"] <= 99.9 and found["fwer"] <= 10
    assert len(files) > 2 or found["half_width"] <= found["pairs_half_width"]


def test_the_benchmarks_table_is_what_the_product_says_of_it() -> None:
    drawn = unpaired_coverage.tables(2, (3, 2, 4), 0.3, (1, 1, 2), samples=20)
    pairs, noise = unpaired_coverage.noise_of(drawn)
    for run in range(2):
        arms = [_arm(*(float(each[run, at]) for each in (drawn.mean, drawn.variance)), size) for at, size in enumerate((3, 2, 4))]
        found = [compare_arms(each, arms[0]) for each in arms[1:]]
        assert [each.spread for each in found] == pytest.approx(list(noise.variance[run]), rel=1e-6)
        assert [each.freedom for each in found] == pytest.approx(list(noise.freedom[run]), rel=1e-6)
        assert [each.pairs for each in found] == pytest.approx(list(pairs[run]))


def _arm(mean: float, variance: float, size: int) -> Arm:
    """An arm of this mean and sample variance."""
    values = np.arange(size) - (size - 1) / 2
    return Arm((50 + mean + values * (variance / values.var(ddof=1)) ** 0.5).tolist())


def test_the_benchmark_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("SHARES", (0.5,)), ("ALIKE", ((2, 3),)), ("UNLIKE", ()), ("REPLICATES", 20)):
        monkeypatch.setattr(unpaired_coverage, name, value)
    monkeypatch.setattr(sys, "argv", ["unpaired_coverage.py", "--runs", "4", "--json"])
    unpaired_coverage.main()
    (found,) = json.loads(capsys.readouterr().out)["cells"]
    assert found["files"] == [2, 3] and {"coverage", "fwer", "half_width", "pairs_coverage"} <= found.keys()
