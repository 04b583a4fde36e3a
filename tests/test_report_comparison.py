"""Variants against the baseline: which trials are paired, what is corrected for what, and what stands in each form of the table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.metrics import coco_records
from gfl_lab.metrics.coco_ap import RESAMPLED, resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.report.claim_sentences import caveats, verdict
from gfl_lab.report.comparison import compare, compare_two
from gfl_lab.report.exports import TABLE_FORMS
from gfl_lab.report.formatting import MISSING
from gfl_lab.report.grid import Tone
from gfl_lab.report.statistics import p_equivalent
from gfl_lab.report.table import Table, build_table
from gfl_lab.report.table_data import table_json
from gfl_lab.report.table_grid import comparison_grid, table_sheet
from gfl_lab.report.writers.terminal import TableReport
from gfl_lab.results.rows import ExperimentRow, Resampled, TrialRow, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialState
from tests.support.grids import comparison_texts, comparison_titles, metric_cells
from tests.test_report_table import experiment


def trial(name: str, seed: int, **metrics: float) -> TrialRow:
    return TrialRow(f"{name}{seed}", seed, TrialState.DONE, metrics, device="cpu")


def rows(*offsets: float, spread: float = 0.1, seeds: int = 3) -> ExperimentRow:
    """A baseline at AP 50 and a variant at each offset, whose paired differences vary by ``spread`` from seed to seed."""

    def one(name: str, offset: float, spread: float, baseline: bool) -> VariantRow:
        trials = tuple(trial(name, seed, AP=50 + seed + offset + spread * (seed - (seeds - 1) / 2)) for seed in range(seeds))
        return VariantRow(name, {"qfl": not baseline}, {"qfl": not baseline}, baseline, None, trials)

    return experiment(one("off", 0, 0, True), *(one(f"v{n}", offset, spread, False) for n, offset in enumerate(offsets)))


def samples(**sd: float):
    """By trial: AP on 200 samples of 100 images, with the noise that its variant is given, the same for all its seeds."""

    def known(name: str) -> Resampled:
        noise = np.random.default_rng(0).normal(0, sd.get(name[:-1], 0.0), 200)
        return Resampled(dict.fromkeys(RESAMPLED, 50 + noise), 100)

    return known


def test_by_hand() -> None:
    (found,) = compare(rows(2.0))
    # differences 1.9, 2.0, 2.1: error 0.1 / sqrt(3), t(0.975, 2) = 4.302653
    assert (found.variant, found.metric, found.rows, found.verdict) == ("v0", "AP", 1, "better")
    assert found.found.half == pytest.approx(4.302653 * 0.1 / 3**0.5, abs=1e-6)
    assert found.p == found.found.p == pytest.approx(2 * 0.000416, abs=1e-5)  # t = 34.64 with 2 degrees
    assert compare(rows(-2.0))[0].verdict == "worse"


def test_the_choice_of_images_can_undo_a_verdict() -> None:
    assert compare(rows(2.0))[0].verdict == "better"
    found = compare(rows(2.0), samples(v0=2.0))[0]
    assert found.verdict == "inconclusive" and found.found.half > 3.5 and found.needed is None
    same = compare(rows(2.0), lambda name: Resampled(dict.fromkeys(RESAMPLED, np.arange(9.0)), 100))[0]
    assert same.found.image_variance == 0 and same.verdict == "better", "what both share takes nothing away"


def test_holm_counts_the_rows_of_the_experiment() -> None:
    found = compare(rows(0.2, 0.5, 0.9))
    raw = [each.found.p for each in found]
    assert sorted(raw, reverse=True) == raw
    assert [each.p for each in found] == pytest.approx([raw[0], raw[1] * 2, raw[2] * 3])
    assert {each.rows for each in found} == {3}


def test_equivalence_by_hand() -> None:
    """Differences -0.1, 0, 0.1: the 95% interval is 0 ± 4.302653 * 0.1 / sqrt(3) = 0 ± 0.2484."""
    (found,) = compare(rows(0.0), min_effect=0.25)
    assert (found.verdict, found.within, found.better) == ("equivalent", True, None) and found.p_equivalent < 0.05
    (found,) = compare(rows(0.0), min_effect=0.248)
    assert (found.verdict, found.within) == ("inconclusive", False) and found.p_equivalent > 0.05
    # t = 0.3 / (0.1 / sqrt(3)) = 5.196 with 2 degrees
    assert compare(rows(0.0), min_effect=0.3)[0].p_equivalent == pytest.approx(2 * 0.017549, abs=1e-5)
    assert compare(rows(-0.4), min_effect=0.3)[0].p_equivalent == 1.0


def test_a_difference_that_is_there_and_too_small_to_matter_is_called_both() -> None:
    table = build_table(rows(0.5, -0.5), min_effect=1.0)
    assert [(each.verdict, each.within) for each in table.compared] == [("better", True), ("worse", True)]
    assert [line[-1] for line in comparison_texts(table)] == ["better, within ±1", "worse, within ±1"]
    assert any(note.startswith("Within ±1 AP for v0, v1:") for note in table.footnotes)
    json_row = table_json(table)["rows"][1]["delta"]["AP"]
    assert json_row["verdict"] == "better" and json_row["within_min_effect"] is True and json_row["min_effect"] == 1.0


def test_equivalence_is_corrected_for_the_rows_and_shown_in_every_form() -> None:
    (alone,) = compare(rows(0.0))
    found = compare(rows(0.0, 0.01, 0.02))
    raw = [float(p_equivalent(each.found, 0.3)) for each in found]
    assert [each.p_equivalent for each in found] == pytest.approx(
        [3 * raw[0], max(3 * raw[0], 2 * raw[1]), max(3 * raw[0], 2 * raw[1], raw[2])]
    )
    assert alone.p_equivalent == pytest.approx(p_equivalent(alone.found, 0.3)), "one row"
    table = build_table(rows(0.0), samples(v0=0.02))
    assert any(note.startswith("Equivalent: ") for note in table.footnotes) and not any("Inconclusive" in note for note in table.footnotes)
    for form in ("md", "html", "tex"):
        assert "equivalent within" in TABLE_FORMS[form](table), form
    assert csv_rows(table)[1]["AP_delta_verdict"] == "equivalent" and csv_rows(table)[1]["AP_delta_min_effect"] == "0.3"
    assert float(csv_rows(table)[1]["AP_delta_p_equivalent"]) == pytest.approx(table.compared[0].p_equivalent, rel=1e-3)


def test_the_smallest_effect_that_matters_is_the_experiments_unless_another_one_is_asked_for() -> None:
    own = dataclasses.replace(rows(0.0), min_effect=2.0)
    assert build_table(own).compared[0].min_effect == 2.0 and build_table(own, min_effect=0.7).compared[0].min_effect == 0.7
    assert build_table(rows(0.0)).compared[0].min_effect == 0.3


@given(st.floats(-1, 1), st.floats(0.01, 1), st.integers(2, 6), st.floats(0.05, 3))
def test_equivalent_is_that_the_interval_lies_inside(offset: float, spread: float, seeds: int, min_effect: float) -> None:
    (found,) = compare(rows(offset, spread=spread, seeds=seeds), min_effect=min_effect)
    inside = -min_effect < found.found.low and found.found.high < min_effect
    assert found.within == inside or abs(abs(found.found.mean) + found.found.half - min_effect) < 1e-9
    assert (found.verdict == "equivalent") == (found.within and not (found.found.low > 0 or found.found.high < 0))


def csv_rows(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(TABLE_FORMS["csv"](table))))


def test_one_seed_says_what_images_alone_make_uncertain() -> None:
    (found,) = compare(rows(1.0, seeds=1), samples(v0=0.5))
    assert found.verdict == "one seed" and found.p is None and found.needed is None and found.detectable is None
    assert found.found.image_half == pytest.approx(1.96 * 0.5, rel=0.15)
    table = build_table(rows(1.0, seeds=1), samples(v0=0.5))
    assert comparison_texts(table)[0][1] == "+1.0" and "(images)" in comparison_texts(table)[0][2]
    assert any("± covers the choice of validation images alone" in note for note in table.footnotes)
    assert not any("8 times in 10" in note for note in table.footnotes)


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_records_there_is_no_interval_and_the_table_says_why(seeds: int) -> None:
    known = samples(v0=0.5, v1=0.5)
    for lookup, why in (
        (lambda name: None if name == "v00" else known(name), "the evaluation records (eval.npz) of trial v00 are missing or damaged"),
        (lambda name: dataclasses.replace(known(name), images=99) if name == "v00" else known(name), "different numbers of images"),
    ):
        table = build_table(rows(1.0, 2.0, seeds=seeds), lookup)
        first, second = table.compared
        assert (first.verdict, first.p, first.found.half, first.better) == ("no records", None, None, None)
        assert second.verdict == ("one seed" if seeds == 1 else "better"), "the other row stands"
        assert comparison_texts(table)[0][2:] == (MISSING, MISSING, MISSING, MISSING, "no records")
        assert any(note.startswith("No interval for v0: ") and why in note for note in table.footnotes)
        assert why in table_json(table)["rows"][1]["delta"]["AP"]["why"]
        for form in (TABLE_FORMS["md"], TABLE_FORMS["html"], TABLE_FORMS["csv"], TABLE_FORMS["tex"]):
            assert "no records" in form(table)
    assert not any("No interval" in note for note in build_table(rows(1.0), known).footnotes)


def test_without_a_lookup_the_intervals_know_of_seeds_alone_and_say_so() -> None:
    table = build_table(rows(1.0))
    assert table.compared[0].verdict == "better" and any("seeds alone for v0" in note for note in table.footnotes)


def test_the_seeds_needed_are_those_of_the_difference_that_is_asked_for() -> None:
    found = {points: build_table(rows(2.0, 0.0), samples(v0=0.1, v1=0.1), points) for points in (0.3, 0.5, 1.0)}
    needed = [found[points].compared[1].needed for points in found]
    assert needed == sorted(needed, reverse=True) and needed[0] > needed[-1]
    table = found[0.5]
    assert "needed for 0.5 AP" in comparison_titles(table) and any('"needed for 0.5 AP"' in note for note in table.footnotes)
    assert table_json(table)["rows"][1]["delta"]["AP"]["seeds_needed_for"] == 0.5
    baseline, second, _ = csv.DictReader(io.StringIO(TABLE_FORMS["csv"](table)))
    assert (baseline["AP_delta_seeds_needed_for"], second["AP_delta_seeds_needed_for"]) == ("", "0.5")
    assert all("needed for 0.5 AP" in form(table) for form in (TABLE_FORMS["md"], TABLE_FORMS["html"], TABLE_FORMS["tex"]))


def test_every_form_shows_them() -> None:
    table = build_table(rows(2.0, 0.0), samples(v0=0.1, v1=0.1))
    (line, other) = comparison_texts(table)
    assert line[1] == "+2.0" and line[-1] == "better" and other[-1] == "inconclusive" and other[1] == "0.0"
    for text in (TABLE_FORMS["md"](table), TABLE_FORMS["html"](table)):
        assert all(part in text for part in (*comparison_titles(table), line[2].replace("+", "+"), "inconclusive"))
    assert "better" in TABLE_FORMS["tex"](table) and r"$\Delta$ AP" in TABLE_FORMS["tex"](table)
    first, second, _ = table_json(table)["rows"]
    assert first["delta"] == {} and second["delta"]["AP"]["verdict"] == "better" and second["delta"]["AP"]["seeds_needed"] >= 2
    low, high = second["delta"]["AP"]["interval"]
    assert low < 2.0 < high and second["delta"]["AP"]["p_holm"] == pytest.approx(2 * second["delta"]["AP"]["p"], rel=1e-3)
    lines = list(csv.DictReader(io.StringIO(TABLE_FORMS["csv"](table))))
    assert lines[0]["AP_delta_low"] == "" and float(lines[1]["AP_delta_low"]) == pytest.approx(low, abs=1e-6)
    json.dumps(table_json(table), allow_nan=False)


def test_the_page_draws_each_interval_where_it_lies() -> None:
    import re

    table = build_table(rows(2.0, -1.0), samples(v0=0.1, v1=0.1))
    text = TABLE_FORMS["html"](table)
    lines = [tuple(map(float, found)) for found in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1', text)]
    dots = [float(found) for found in re.findall(r'<circle cx="([\d.]+)"', text)]
    zero = float(re.search(r'class="zero" x1="([\d.]+)"', text)[1])
    assert len(lines) == len(dots) == 2 and all(low < dot < high for (low, high), dot in zip(lines, dots, strict=True))
    assert (dots[0] - zero) / (zero - dots[1]) == pytest.approx(2.0, abs=0.01), "to scale"
    assert "+1.0</text>" in text and "0.0</text>" in text
    assert "<svg" not in TABLE_FORMS["html"](build_table(rows(1.0, seeds=1)))


def all_forms(table: Table) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(TableReport(table_sheet(table)))
    text = console.file.getvalue() + TABLE_FORMS["md"](table) + TABLE_FORMS["html"](table) + TABLE_FORMS["csv"](table)
    return " ".join(text.split())


def test_a_verdict_of_two_seeds_is_marked_as_weak_in_every_form() -> None:
    table = build_table(rows(2.0, 0.0, seeds=2), samples(v0=0.1, v1=0.1))
    assert [line[-1] for line in comparison_texts(table)] == ["better (weak)", "inconclusive (weak)"]
    for form in (TABLE_FORMS["md"], TABLE_FORMS["html"], TABLE_FORMS["tex"]):
        assert "better (weak)" in form(table)
    assert [row["delta"]["AP"]["weak"] for row in table_json(table)["rows"][1:]] == [True, True]
    assert [row["AP_delta_weak"] for row in csv.DictReader(io.StringIO(TABLE_FORMS["csv"](table)))] == ["", "true", "true"]
    assert any(note.startswith("Weak: v0, v1 rest on two seeds") for note in table.footnotes)
    three = build_table(rows(2.0, seeds=3), samples(v0=0.1))
    assert "(weak)" not in all_forms(three) and not any("Weak" in note for note in three.footnotes)


def test_an_interval_ends_where_no_difference_can_lie() -> None:
    table = build_table(rows(30.0, spread=40.0, seeds=2), samples(v0=0.1))
    (each,) = (each for each in table.comparisons if each.metric == "AP")
    # 30 +- 12.7 * sqrt(40^2 / 2 / 2), about 254
    assert each.found.low == pytest.approx(-224.2, abs=1) and each.found.high == pytest.approx(284.2, abs=1)
    (line,) = comparison_texts(table)
    assert (line[2], line[4], line[-1]) == ("−100.0 to +100.0", "> 100", "inconclusive (weak)")
    assert any(note.startswith("v0: the interval is cut at ±100 AP") for note in table.footnotes)
    assert "95% interval −100.0 to +100.0" in verdict(each, "v0", "off") and "too few to show any difference" in " ".join(caveats(each))
    (interval,) = comparison_grid(table).intervals
    assert (interval.low, interval.high) == (-100.0, 100.0) and "284" not in TABLE_FORMS["md"](table) + TABLE_FORMS["html"](table)
    low, high = table_json(table)["rows"][1]["delta"]["AP"]["interval"]
    assert (low, high) == (pytest.approx(each.found.low), pytest.approx(each.found.high)), "programs get the ends as they are"
    assert float(csv_rows(table)[1]["AP_delta_high"]) == pytest.approx(each.found.high)


def test_colour_follows_the_verdict_and_not_the_sign() -> None:
    def colours(table: Table) -> list[Tone]:
        return [cells[0].tone for cells in metric_cells(table)]

    assert colours(build_table(rows(2.0, -2.0, 0.0), samples())) == [Tone.PLAIN, Tone.GOOD, Tone.BAD, Tone.FAINT]
    assert colours(build_table(rows(2.0, -2.0, seeds=1), samples())) == [Tone.PLAIN, Tone.FAINT, Tone.FAINT], "one seed decides nothing"
    assert colours(build_table(rows(2.0, -2.0), samples(v0=9.0, v1=9.0))) == [Tone.PLAIN, Tone.FAINT, Tone.FAINT], "inconclusive"
    assert colours(build_table(rows(2.0), lambda name: None)) == [Tone.PLAIN, Tone.FAINT], "no records"
    for seeds, wanted in ((1, 0), (3, 1)):
        page = TABLE_FORMS["html"](build_table(rows(2.0, seeds=seeds), samples()))
        assert page.count('class="delta up"') == wanted and 'class="delta down"' not in page
        console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system="standard")
        console.print(TableReport(table_sheet(build_table(rows(2.0, seeds=seeds), samples()))))
        assert ("\x1b[32m" in console.file.getvalue()) == bool(wanted)


def test_a_metric_that_is_not_judged_is_not_coloured() -> None:
    small = [trial(name, seed, AP=50.0 + seed, AP_S=value) for name, value in (("off", 10.0), ("v0", 20.0)) for seed in range(3)]
    variants = [VariantRow(name, {}, {}, name == "off", None, tuple(small[i : i + 3])) for name, i in (("off", 0), ("v0", 3))]
    table = build_table(dataclasses.replace(experiment(*variants), metrics=("AP", "AP_S")))
    assert [cell.tone for cell in metric_cells(table)[1]] == [Tone.FAINT] * 2 and metric_cells(table)[1][1].detail.startswith("+10.0")


def test_no_detections_at_all_are_no_result() -> None:
    def zero(name: str, baseline: bool) -> VariantRow:
        return VariantRow(name, {}, {}, baseline, None, tuple(trial(name, seed, AP=0.0, AP50=0.0) for seed in range(3)))

    table = build_table(
        experiment(zero("off", True), zero("v0", False)), lambda name: Resampled(dict.fromkeys(RESAMPLED, np.zeros(200)), 72)
    )
    assert comparison_texts(table) == [("v0", "0.0", MISSING, MISSING, MISSING, MISSING, "no signal")]
    found = table_json(table)["rows"][1]["delta"]["AP"]
    assert (found["interval"], found["p"], found["seeds_needed"], found["verdict"]) == (None, None, None, "no signal")
    text = all_forms(table)
    assert "No signal for v0: AP shows nothing here, since it is 0.0 in every trial of both." in text
    assert "AP is 0.0 in every trial of off and v0" in text and "1.00" not in text and "8 times in 10" not in text


def test_variants_that_have_learned_nothing_are_not_called_equivalent() -> None:
    """AP of 0.5 lies within 2 AP of any other below 2, whatever the change does; that it lies within 0.4 AP is shown."""

    def one(name: str, baseline: bool, *ap: float) -> VariantRow:
        return VariantRow(name, {}, {}, baseline, None, tuple(trial(name, seed, AP=value) for seed, value in enumerate(ap)))

    found = experiment(one("off", True, 0.50, 0.51, 0.50), one("v0", False, 0.52, 0.50, 0.51), one("v1", False, 5.0, 5.1, 4.9))
    low, high = compare(found, min_effect=2.0)
    assert (low.verdict, high.verdict) == ("no signal", "better") and low.within and low.p > 0.05
    assert low.why == "it is below the smallest effect that matters, 2 AP, in every trial of both" and high.why == ""
    assert compare(found, min_effect=0.4)[0].verdict == "equivalent"
    table = build_table(found, min_effect=2.0)
    assert comparison_texts(table)[0][-1] == "no signal"
    assert "No signal for v0: AP shows nothing here, since it is below the smallest effect that matters, 2 AP" in all_forms(table)


def test_a_setting_without_effect_is_no_result_either() -> None:
    found = compare(rows(0.0, 2.0, spread=0.0), samples())
    assert [each.verdict for each in found[:2]] == ["no signal", "no spread"]
    table = build_table(rows(0.0, spread=0.0), samples())
    assert any("both have the same numbers in every seed" in note for note in table.footnotes)


def test_a_metric_that_is_undefined_says_so() -> None:
    def one(name: str, baseline: bool) -> VariantRow:
        return VariantRow(name, {}, {}, baseline, None, tuple(trial(name, s, AP=40.0 + s, AP_S=float("nan")) for s in range(3)))

    table = build_table(dataclasses.replace(experiment(one("off", True), one("v0", False)), metrics=("AP", "AP_S")))
    assert any(note.startswith("No AP_S: it is undefined in every finished trial.") for note in table.footnotes), table.footnotes
    nothing = VariantRow("off", {}, {}, True, None, (trial("off", 0, AP=float("nan")),))
    assert any(note.startswith("No AP: it is undefined") for note in build_table(experiment(nothing)).footnotes)


def test_images_that_are_too_few_are_told_with_how_many_would_do() -> None:
    known = samples(v0=0.4, v1=0.4)
    table = build_table(rows(2.0, 0.0), lambda name: dataclasses.replace(known(name), images=72))
    first = table.compared[0]
    # all seeds share their image noise, so none of it averages out: 2.8016 sd, and (2.8016 sd / 0.3)^2 x 72 images
    limit = 2.801585 * first.found.image_variance**0.5
    assert (first.images_resolve, first.images_needed) == (pytest.approx(limit, rel=1e-6), int(72 * (limit / 0.3) ** 2) + 1)
    assert first.needed is None
    rounded = -(-first.images_needed // 10) * 10
    assert comparison_texts(table)[0][5] == f"≥ {rounded} images"
    text = all_forms(table)
    assert "over 1000" not in text and f"≥ {rounded} images" in text
    assert "0.3 AP: not with 72 validation images, however many seeds." in text
    assert f"The smallest difference that they can show is {limit:.2g} AP; it takes at least about {rounded:,} images." in text
    found = table_json(table)["rows"][1]["delta"]["AP"]
    assert (found["seeds_needed"], found["images"], found["images_needed"]) == (None, 72, first.images_needed)
    assert found["images_resolve"] == pytest.approx(limit, abs=1e-6)
    assert list(csv.DictReader(io.StringIO(TABLE_FORMS["csv"](table))))[1]["AP_delta_images_needed"] == str(first.images_needed)
    assert r"$\geq$ " in TABLE_FORMS["tex"](table)
    enough = build_table(rows(2.0, spread=30.0), samples(v0=0.01))
    assert comparison_texts(enough)[0][5] == "over 1000 seeds" and enough.compared[0].images_needed is None, "here the seeds are the limit"


def test_what_is_pooled_is_told_and_which_row_is_not() -> None:
    table = build_table(rows(2.0, 0.0, 1.0), samples(v0=0.1))
    assert any("pooled over 3 rows that have two seeds or more" in note for note in table.footnotes)
    assert {row["delta"]["AP"]["rows_pooled"] for row in table_json(table)["rows"][1:]} == {3}
    odd = rows(2.0, 0.0, 1.0)
    wild = dataclasses.replace(odd.variants[3], trials=tuple(trial("v2", seed, AP=50 + 9 * (-1) ** seed) for seed in range(3)))
    table = build_table(dataclasses.replace(odd, variants=(*odd.variants[:3], wild)), samples())
    assert any(note.startswith("v2: seeds differ far more here than in the other rows") for note in table.footnotes)
    assert [row["delta"]["AP"]["guarded"] for row in table_json(table)["rows"][1:]] == [False, False, True]
    assert not any("pooled" in note for note in build_table(rows(2.0), samples()).footnotes)


# --- two variants by themselves ---


def noisy(seeds: int = 3, variants: int = 4) -> ExperimentRow:
    """A table whose differences vary from seed to seed; without detections that are alike."""
    rng = np.random.default_rng(5)

    def one(name: str, index: int) -> VariantRow:
        trials = [trial(name, s, **{key: 40 + index + rng.normal(0, 0.4) for key in RESAMPLED}) for s in range(seeds)]
        return VariantRow(name, {"n": index}, {"n": index}, index == 0, None, tuple(trials))

    return experiment(*(one(f"v{i}", i) for i in range(variants)))


def trial_noise(name: str) -> Resampled:
    rng = np.random.default_rng(sum(map(ord, name)))
    return Resampled({key: 40 + rng.normal(0, 0.3, 100) for key in RESAMPLED}, 100)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_row_of_the_table_and_the_comparison_of_its_two_variants_are_the_same_numbers(seeds: int) -> None:
    row = noisy(seeds)
    table = {(each.variant, each.metric): each for each in compare(row, trial_noise)}
    baseline = row.variants[0]
    for variant in row.variants[1:]:
        forth, back = compare_two(row, variant, baseline, trial_noise), compare_two(row, baseline, variant, trial_noise)
        assert len(forth) == len(back) == len(RESAMPLED)
        for one, other in zip(forth, back, strict=True):
            assert one == table[variant.name, one.metric]
            assert (other.p, other.found.half, other.found.mean) == (one.p, one.found.half, -one.found.mean)
            assert {one.verdict, other.verdict} in ({"better", "worse"}, {one.verdict})


@pytest.mark.parametrize("baseline", [True, False])
def test_two_variants_beside_the_baseline_give_the_same_in_either_order(baseline: bool) -> None:
    row = noisy()
    if not baseline:
        row = dataclasses.replace(row, variants=tuple(dataclasses.replace(each, baseline=False) for each in row.variants))
    for ours, theirs in ((2, 3), (1, 3), (0, 1), (0, 3)):
        forth = compare_two(row, row.variants[ours], row.variants[theirs], trial_noise)
        back = compare_two(row, row.variants[theirs], row.variants[ours], trial_noise)
        assert [each.found.mean for each in forth] == pytest.approx([-each.found.mean for each in back])
        assert [(each.found.half, each.p) for each in forth] == [pytest.approx((each.found.half, each.p)) for each in back]
        assert forth[0].found.rows == (4 if baseline and 0 not in (ours, theirs) else 3 if 0 in (ours, theirs) else 4)


def test_nothing_to_compare_shows_nothing() -> None:
    table = build_table(experiment(rows().variants[0]))
    assert table.comparisons == () and "Differences in AP" not in TABLE_FORMS["md"](table)


# --- what the store knows of a trial ---


def records() -> Records:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 30, 40], [0, 0, 20, 20]], float)
    return Records(
        image_ids=np.array([3, 7, 9]), det_image=np.array([3, 7]), det_label=np.array([0, 1]), det_score=np.array([0.9, 0.8], np.float32),
        det_box=boxes[:2].astype(np.float32), gt_image=np.array([3, 7, 9]), gt_label=np.array([0, 1, 0]), gt_area=np.array([100.0, 875, 400]),
        gt_crowd=np.zeros(3, bool), gt_id=np.array([1, 2, 3]), gt_box=boxes, classes=("a", "b"), max_dets=7,
    )  # fmt: skip


def write(tree: RunTree, **more: np.ndarray) -> Path:
    path = tree.trial("0" * 12).file(naming.EVAL_RECORDS)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **records().arrays(), **more)
    return path


def test_records_are_read_as_they_were_written_and_resampled_when_they_are_old(tmp_path: Path) -> None:
    tree = RunTree(tmp_path)
    store = Store(tree)
    assert store.records("0" * 12) is None is store.resampled("0" * 12)
    write(tree)
    found = store.records("0" * 12)
    assert found.classes == ("a", "b") and found.max_dets == 7
    assert all((getattr(found, name) == getattr(records(), name)).all() for name in coco_records._ARRAYS)
    seen = store.resampled("0" * 12)
    assert seen.images == 3 and (seen.values["AP50"] == resample(match(records()))[:, 1]).all()
    write(tree, resampled=np.full((5, 3), 40.0))
    assert (Store(tree).resampled("0" * 12).values["AP75"] == np.full(5, 40.0)).all()


def test_a_torn_record_is_told_and_hides_no_table(tmp_path: Path) -> None:
    path = write(RunTree(tmp_path))
    path.write_bytes(path.read_bytes()[:-40])
    store = Store(RunTree(tmp_path))
    with pytest.raises(StoreError, match="evaluation of trial 000000000000 cannot be read"):
        store.resampled("0" * 12)
    assert store.resampled_or_none("0" * 12) is None


def test_an_interval_that_leaves_0_out_beside_a_corrected_p_above_5_percent_is_explained() -> None:
    # differences 0.26, 0.46, 0.66 of one row: p 0.03 by itself, 0.06 among two
    given = rows(0.46, 0.0, spread=0.2)
    table = build_table(given)
    each = table.compared[0]
    assert each.verdict == "inconclusive" and each.found.p < 0.05 < each.p and each.found.low > 0
    assert any(note.startswith("v0: the interval leaves 0 out, but it is of one row alone. With 2 rows") for note in table.footnotes)
    alone = build_table(rows(0.9, spread=0.2))
    assert alone.compared[0].verdict == "better" and not any("of one row alone" in note for note in alone.footnotes)
