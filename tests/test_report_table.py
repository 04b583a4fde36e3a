"""The table's numbers by hand: means, spreads, paired differences, footnotes, and the JSON that other programs read."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_lab import naming
from gfl_lab.report.exports import TABLE_FORMS
from gfl_lab.report.fairness import unfair
from gfl_lab.report.table import Table, build_table
from gfl_lab.report.table_data import table_json
from gfl_lab.report.table_grid import table_sheet
from gfl_lab.report.table_rows import paired_delta, stat
from gfl_lab.report.writers.terminal import TableReport
from gfl_lab.results.rows import DataRow, ExperimentRow, Failure, Reference, TrialRow, VariantRow
from gfl_lab.rundir import TrialState
from tests.support.grids import metric_cells

PAPER = "arXiv 2006.04388 (NeurIPS 2020), Table 3"


def trial(seed: int, state: TrialState = TrialState.DONE, failure: Failure | None = None, **metrics: float) -> TrialRow:
    return TrialRow(f"{seed:012x}", seed, state, metrics, failure, device="cpu")


def variant(name: str, *trials: TrialRow, baseline: bool = False, reference: Reference | None = None, **settings: Any) -> VariantRow:
    settings = settings or {"qfl": not baseline}
    axes = {"qfl": settings["qfl"]}
    return VariantRow(name, axes, {"lr": 0.01, "strides": [8, 16], **settings}, baseline, reference, trials)


def experiment(*variants: VariantRow, metrics: tuple[str, ...] = ("AP", "fps")) -> ExperimentRow:
    data = DataRow("shapes", "0" * 16, ("a", "b"), 10, 5, True)
    return ExperimentRow(
        "t3", "desk", "What?", "ablation", "t3.yaml", "", {"qfl": (False, True)}, metrics, data, variants, declared=frozenset({"qfl"})
    )


def published(**metrics: float) -> Reference:
    return Reference("ATSS", metrics, PAPER, "coco_minival", False, "other data")


def test_mean_and_sample_standard_deviation() -> None:
    found = stat([38.0, 40.0, 42.0])
    assert (found.mean, found.std, found.n) == (40.0, 2.0, 3)  # sum of squares 8 over n-1 = 2


def test_one_seed_has_no_spread() -> None:
    assert stat([39.2]).std is None


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan]])
def test_nothing_finite_is_no_statistic(values: list[float]) -> None:
    assert stat(values) is None


def test_delta_is_paired_over_shared_seeds_only() -> None:
    baseline = variant("off", trial(0, AP=50.0), trial(1, AP=52.0), trial(2, AP=90.0), baseline=True)
    ours = variant("on", trial(0, AP=51.0), trial(1, AP=54.0), trial(3, AP=10.0))
    found = paired_delta(ours, baseline, "AP")
    assert (found.mean, found.n, found.seeds) == (1.5, 2, (0, 1))
    assert found.std == pytest.approx(math.sqrt(0.5))  # differences 1 and 2
    notes = build_table(experiment(baseline, ours)).footnotes
    assert [note for note in notes if "partner" in note] == [
        "on: the difference uses 2 seeds of 3, and 2 of 3 of the baseline (off): the others have no partner. So it is not the difference "
        "of the two means."
    ]


def test_a_trial_that_is_not_done_counts_for_nothing() -> None:
    running = trial(1, TrialState.RUNNING, AP=99.0)
    table = build_table(experiment(variant("off", trial(0, AP=50.0), running, baseline=True)))
    assert table.rows[0].metrics["AP"].n == 1
    assert table.rows[0].metrics["AP"].mean == 50.0
    assert table.rows[0].counts == {"running": 1, "done": 1}


def test_the_baseline_has_no_delta_and_a_row_without_shared_seed_says_so() -> None:
    table = build_table(experiment(variant("off", trial(0, AP=50.0), baseline=True), variant("on", trial(1, AP=51.0))))
    assert table.rows[0].delta == {} == table.rows[1].delta
    assert any("No difference can be given for on" in note for note in table.footnotes)


def test_existing_metrics_are_kept_and_truth_scores_are_shown() -> None:
    table = build_table(experiment(variant("off", trial(0, AP=1.0, AP75=2.0, AP_S=3.0, latency_ms=4.0, wasserstein=0.5), baseline=True)))
    assert table.columns == ("AP", "fps", "wasserstein")
    assert table.all_metrics == ("AP", "AP75", "AP_S", "fps", "latency_ms", "wasserstein")


def test_footnotes_say_everything_once() -> None:
    failed = trial(1, TrialState.FAILED, Failure("non_finite_loss", "the loss became\nNaN at step 7", 7))
    table = build_table(
        experiment(
            variant("off", trial(0, AP=50.0), failed, baseline=True, reference=published(AP=39.2)),
            variant("on", trial(0, AP=51.0), trial(1, TrialState.PLANNED), reference=published(AP=39.9, fps=19.4)),
        )
    )
    notes = "\n".join(table.footnotes)
    assert notes.count(PAPER) == 1
    assert notes.count("not comparable (other data)") == 1
    assert "Failed: off, seed 1 (trial 000000000001): non_finite_loss: the loss became NaN at step 7" in notes
    assert "Incomplete: off has 1 of 2 trials done (1 failed)." in notes
    assert "Incomplete: on has 1 of 2 trials done (1 planned)." in notes
    assert "no spread can be given" in notes
    assert "±" not in notes
    assert table.published == ("AP", "fps")


def test_batches_that_were_done_in_parts_are_told_of() -> None:
    split = dataclasses.replace(trial(0, AP=51.0), parts=4, parts_since=120)
    table = build_table(experiment(variant("off", trial(0, AP=50.0), baseline=True), variant("on", split)))
    assert [note for note in table.footnotes if "out of memory" in note] == [
        "on, seed 0 (trial 000000000000) ran out of memory: from step 121 on its batches were done in 4 parts, so its numbers are not quite "
        "those of whole batches."
    ]


def test_spread_is_explained_where_there_is_one() -> None:
    table = build_table(experiment(variant("off", trial(0, AP=1.0), trial(1, AP=2.0), baseline=True)))
    assert table.footnotes == ("± is the sample standard deviation over seeds.",)


def test_fps_from_different_devices_is_flagged() -> None:
    other = dataclasses.replace(trial(0, AP=1.0, fps=90.0), device="cuda:0 NVIDIA H200")
    table = build_table(experiment(variant("off", trial(0, AP=1.0, fps=9.0), baseline=True), variant("on", other)))
    assert any("different devices (cpu, cuda:0 NVIDIA H200)" in note for note in table.footnotes)


def test_json_has_the_documented_form() -> None:
    table = build_table(
        experiment(
            variant("off", trial(0, AP=50.0), baseline=True, reference=published(AP=39.2)),
            variant("on", trial(0, AP=50.7), trial(1, TrialState.FAILED, Failure("error", "x", 3))),
        )
    )
    value = json.loads(json.dumps(table_json(table), allow_nan=False))
    assert value["experiment"] == "t3"
    assert value["profile"] == "desk"
    first, second = value["rows"]
    assert first["variant"] == "off"
    assert first["settings"] == {"qfl": False}
    assert first["metrics"] == {"AP": {"mean": 50.0, "std": None, "n": 1}}
    assert first["delta"] == {}
    assert first["reference"] == {
        "row": "ATSS", "metrics": {"AP": 39.2}, "source": PAPER, "split": "coco_minival", "comparable": False, "why_not": "other data",
    }  # fmt: skip
    assert first["trials"] == [{"id": "000000000000", "seed": 0, "state": "done"}]
    unknown = (
        "interval", "p", "p_holm", "std_error_images", "std_seeds", "rows_pooled", "resolves", "seeds_needed", "images", "images_resolve",
        "images_needed", "p_equivalent", "look",
    )  # fmt: skip
    told = {
        "guarded": False,
        "seeds_needed_for": 0.3,
        "min_effect": 0.3,
        "within_min_effect": False,
        "verdict": "one seed",
        "weak": False,
        "why": "",
    }
    assert second["delta"] == {"AP": {"mean": 0.7, "std": None, "n": 1, "seeds": [0], **dict.fromkeys(unknown), **told}}
    assert second["reference"] is None
    assert second["trials"][1]["failure"] == {"kind": "error", "reason": "x", "step": 3}


def test_a_table_of_nothing_yet() -> None:
    planned = trial(0, TrialState.PLANNED)
    table = build_table(experiment(variant("off", planned, baseline=True), variant("on", planned)))
    value = table_json(table)
    assert [row["metrics"] for row in value["rows"]] == [{}, {}]
    assert value["counts"] == {"planned": 1}
    assert build_table(experiment()).rows == ()


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=8), st.floats(-50, 50))
def test_delta_is_antisymmetric_and_blind_to_what_seeds_do_to_both(pairs: list[tuple[float, float]], shift: float) -> None:
    ours = variant("on", *(trial(i, AP=a) for i, (a, _) in enumerate(pairs)))
    theirs = variant("off", *(trial(i, AP=b) for i, (_, b) in enumerate(pairs)), baseline=True)
    shifted = [variant(v.name, *(trial(t.seed, AP=t.metrics["AP"] + shift * t.seed) for t in v.trials), qfl=True) for v in (ours, theirs)]
    found = paired_delta(ours, theirs, "AP")
    assert found.mean == pytest.approx(-paired_delta(theirs, ours, "AP").mean, abs=1e-9)
    assert paired_delta(*shifted, "AP").mean == pytest.approx(found.mean, abs=1e-6)


@given(st.dictionaries(st.sampled_from(["AP", "AP50", "fps", "wasserstein"]), st.floats(allow_nan=True, allow_infinity=True)))
def test_json_never_holds_nan(metrics: dict[str, float]) -> None:
    table = build_table(experiment(variant("off", trial(0, **metrics), baseline=True), variant("on", trial(0, **metrics))))
    json.dumps(table_json(table), allow_nan=False)


# --- fairness -------------------------------------------------------------------------------------


def test_declared_axes_alone_are_fair() -> None:
    assert unfair(experiment(variant("off", baseline=True, qfl=False), variant("on", qfl=True))) == []


def test_an_undeclared_difference_names_setting_values_and_variants() -> None:
    found = unfair(experiment(variant("off", baseline=True, qfl=False, lr=0.01), variant("on", qfl=True, lr=0.02)))
    assert found == ["lr differs but is no declared axis: 0.01 in off; 0.02 in on"]


def test_a_missing_setting_and_a_type_change_are_differences() -> None:
    found = unfair(experiment(variant("off", qfl=False, flip_prob=0, extra=1), variant("on", qfl=True, flip_prob=False)))
    assert [problem.split()[0] for problem in found] == ["extra", "flip_prob"]


def test_tuple_and_list_are_the_same_value() -> None:
    assert unfair(experiment(variant("off", qfl=False, strides=(8, 16)), variant("on", qfl=True, strides=[8, 16]))) == []


def test_axes_must_agree_with_settings() -> None:
    bad = dataclasses.replace(variant("on", qfl=True), axes={"qfl": False})
    assert unfair(experiment(bad)) == ["on: the axis qfl is off, its settings have on"]


def test_an_unfair_row_is_marked_and_told_of_in_every_form() -> None:
    from gfl_lab.report.exports import TABLE_FORMS

    fair = variant("on", trial(0, AP=51.0), qfl=True)
    odd = variant("odd", trial(0, AP=52.0), qfl=True, lr=0.02)
    table = build_table(experiment(variant("off", trial(0, AP=50.0), baseline=True, qfl=False), fair, odd))
    assert [row.unfair for row in table.rows] == [False, False, True]
    assert [row["unfair"] for row in table_json(table)["rows"]] == [False, False, True]
    assert table.footnotes[0] == "† Unfair: lr differs but is no declared axis: 0.01 in off and on; 0.02 in odd."
    for text in (TABLE_FORMS["md"](table), TABLE_FORMS["html"](table)):
        assert "1 †" in text and "† Unfair: lr differs" in text
    assert "1 \\dag{}" in TABLE_FORMS["tex"](table)
    assert not any(row.unfair for row in build_table(experiment(variant("off", baseline=True, qfl=False), fair)).rows)


# --- metrics --------------------------------------------------------------------------------------


def forms(table: Table) -> dict[str, str]:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    console.print(TableReport(table_sheet(table)))
    return {form: write(table) for form, write in TABLE_FORMS.items()} | {"terminal": console.file.getvalue()}


def test_a_metric_without_an_entry_is_shown_and_exported() -> None:
    table = build_table(
        experiment(variant("off", trial(0, AP=50.0, sharpness=0.25), baseline=True), variant("on", trial(0, AP=51.0, sharpness=0.5)))
    )
    assert table.columns == ("AP", "fps", "sharpness") and table.all_metrics[-1] == "sharpness"
    for form, text in forms(table).items():
        assert "sharpness" in text, form
        assert ("0.25" if form in ("csv", "json") else "0.250") in text, form
    assert table_json(table)["rows"][1]["delta"]["sharpness"]["mean"] == 0.25
    assert [cells[-1].best for cells in metric_cells(table)] == [False, False], "which way is better is not known"


def test_a_metric_needs_its_entry_and_its_value_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = naming.Metric("sharpness", "sharpness of edges", "px", False, 1, "how far an edge is smeared")
    monkeypatch.setitem(naming.METRICS, "sharpness", entry)
    rows = (variant("off", trial(0, AP=50.0, sharpness=2.04), baseline=True), variant("on", trial(0, AP=51.0, sharpness=1.0)))
    shown = build_table(experiment(*rows, metrics=("AP", "sharpness")))
    assert [cells[1].text for cells in metric_cells(shown)] == ["2.0", "1.0"]
    assert [cells[1].best for cells in metric_cells(shown)] == [False, True], "lower is better"
    for form, text in forms(shown).items():
        assert ("sharpness" if form in ("csv", "json") else "sharpness of edges") in text, form
    hidden = build_table(experiment(*rows))
    assert "sharpness" not in hidden.columns and table_json(hidden)["rows"][0]["metrics"]["sharpness"]["mean"] == 2.04
