"""Variants against the baseline: which trials are paired, what is corrected for what, and what stands in each form of the table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from gfl_lab import cocoap, naming
from gfl_lab.cocoap import RESAMPLED, Records, match, resample
from gfl_lab.errors import StoreError
from gfl_lab.report import export
from gfl_lab.report.cells import comparison_head, comparison_rows
from gfl_lab.report.comparison import compare
from gfl_lab.report.table import build_table, table_json
from gfl_lab.results.rows import ExperimentRow, Resampled, TrialRow, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialState
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
    assert found.verdict == "not resolved" and found.found.half > 3.5 and found.needed is None
    same = compare(rows(2.0), lambda name: Resampled(dict.fromkeys(RESAMPLED, np.arange(9.0)), 100))[0]
    assert same.found.image_variance == 0 and same.verdict == "better", "what both share takes nothing away"


def test_holm_counts_the_rows_of_the_experiment() -> None:
    found = compare(rows(0.2, 0.5, 0.9))
    raw = [each.found.p for each in found]
    assert sorted(raw, reverse=True) == raw
    assert [each.p for each in found] == pytest.approx([raw[0], raw[1] * 2, raw[2] * 3])
    assert {each.rows for each in found} == {3}


def test_one_seed_says_what_images_alone_make_uncertain() -> None:
    (found,) = compare(rows(1.0, seeds=1), samples(v0=0.5))
    assert found.verdict == "one seed" and found.p is None and found.needed is None and found.detectable is None
    assert found.found.image_half == pytest.approx(1.96 * 0.5, rel=0.15)
    table = build_table(rows(1.0, seeds=1), samples(v0=0.5))
    assert comparison_rows(table)[0][1] == "+1.0" and "(images)" in comparison_rows(table)[0][2]
    assert any("± is what the choice of validation images alone" in note for note in table.footnotes)
    assert not any("8 times in 10" in note for note in table.footnotes)


def test_missing_records_are_told_and_other_images_never_mixed() -> None:
    known = samples(v0=0.5)
    for lookup in (
        lambda name: None if name == "v01" else known(name),
        lambda name: dataclasses.replace(known(name), images=99) if name == "off1" else known(name),
    ):
        table = build_table(rows(1.0), lookup)
        assert table.compared[0].found.image_variance is None
        assert any("seeds alone for v0" in note for note in table.footnotes)
    assert not any("seeds alone" in note for note in build_table(rows(1.0), known).footnotes)


def test_the_seeds_needed_are_those_of_the_difference_that_is_asked_for() -> None:
    found = {points: build_table(rows(2.0, 0.0), samples(v0=0.1, v1=0.1), points) for points in (0.3, 0.5, 1.0)}
    needed = [found[points].compared[1].needed for points in found]
    assert needed == sorted(needed, reverse=True) and needed[0] > needed[-1]
    table = found[0.5]
    assert "0.5 needs" in comparison_head(table) and any('"0.5 needs"' in note for note in table.footnotes)
    assert table_json(table)["rows"][1]["delta"]["AP"]["seeds_needed_for"] == 0.5
    baseline, second, _ = csv.DictReader(io.StringIO(export.to_csv(table)))
    assert (baseline["AP_delta_seeds_needed_for"], second["AP_delta_seeds_needed_for"]) == ("", "0.5")
    assert all("0.5 needs" in form(table) for form in (export.to_markdown, export.to_html, export.to_latex))


def test_every_form_shows_them() -> None:
    table = build_table(rows(2.0, 0.0), samples(v0=0.1, v1=0.1))
    (line, other) = comparison_rows(table)
    assert line[1] == "+2.0" and line[-1] == "better" and other[-1] == "not resolved" and other[1] == "0.0"
    for text in (export.to_markdown(table), export.to_html(table)):
        assert all(part in text for part in (*comparison_head(table), line[2].replace("+", "+"), "not resolved"))
    assert "better" in export.to_latex(table) and r"$\Delta$ AP" in export.to_latex(table)
    first, second, _ = table_json(table)["rows"]
    assert first["delta"] == {} and second["delta"]["AP"]["verdict"] == "better" and second["delta"]["AP"]["seeds_needed"] >= 2
    low, high = second["delta"]["AP"]["interval"]
    assert low < 2.0 < high and second["delta"]["AP"]["p_holm"] == pytest.approx(2 * second["delta"]["AP"]["p"], rel=1e-3)
    lines = list(csv.DictReader(io.StringIO(export.to_csv(table))))
    assert lines[0]["AP_delta_low"] == "" and float(lines[1]["AP_delta_low"]) == pytest.approx(low, abs=1e-6)
    json.dumps(table_json(table), allow_nan=False)


def test_the_page_draws_each_interval_where_it_lies() -> None:
    import re

    table = build_table(rows(2.0, -1.0), samples(v0=0.1, v1=0.1))
    text = export.to_html(table)
    lines = [tuple(map(float, found)) for found in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1', text)]
    dots = [float(found) for found in re.findall(r'<circle cx="([\d.]+)"', text)]
    zero = float(re.search(r'class="zero" x1="([\d.]+)"', text)[1])
    assert len(lines) == len(dots) == 2 and all(low < dot < high for (low, high), dot in zip(lines, dots, strict=True))
    assert (dots[0] - zero) / (zero - dots[1]) == pytest.approx(2.0, abs=0.01), "to scale"
    assert "+1.0</text>" in text and "0.0</text>" in text
    assert "<svg" not in export.to_html(build_table(rows(1.0, seeds=1)))


def test_nothing_to_compare_shows_nothing() -> None:
    table = build_table(experiment(rows().variants[0]))
    assert table.comparisons == () and "Differences in AP" not in export.to_markdown(table)


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
    assert all((getattr(found, name) == getattr(records(), name)).all() for name in cocoap._ARRAYS)
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
