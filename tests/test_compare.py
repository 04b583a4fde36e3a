"""`compare` and `diff`: two variants by size, class and type of error; two trials by what they wrote down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gfl_lab import naming
from gfl_lab.metrics.coco_ap import RESAMPLED, mean_ap, resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.metrics.error_types import TYPES, costs, errors_of
from gfl_lab.records.files import read_json, write_json
from gfl_lab.report.differences import differences
from gfl_lab.report.statistics import Difference
from gfl_lab.report.variant_comparison import DifferenceRow, compare_variants, context
from gfl_lab.report.variant_comparison_grid import comparison_sheet
from gfl_lab.results.rows import TrialRow, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.variant_pair import find_pair
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree
from tests.test_error_types import scene
from tests.test_report_table import experiment

FILE = Path(__file__).parents[1] / "experiments" / "table3_qfl_dfl.yaml"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path))
    return runner(monkeypatch, capsys)


def better(records: Records, by: float) -> Records:
    """The same detections with their boxes moved towards the nearest box of their image by a share of the way."""
    boxes = records.det_box.copy()
    for i in range(len(boxes)):
        near = records.gt_box[records.gt_image == records.det_image[i]]
        boxes[i] += by * (near[np.abs(near - boxes[i]).sum(1).argmin()] - boxes[i])
    return Records(**{**vars(records), "det_box": boxes})


def written(tmp_path: Path, seeds: tuple[int, ...] = (0, 1)) -> RunTree:
    """Four variants whose boxes get better from one to the next, with fewer bootstrap samples of AP than an evaluation draws."""
    tree = write_fake_tree(tmp_path, seeds=seeds, val_images=3)
    for index, variant in enumerate(Store(tree).experiment("table3_qfl_dfl", "desk").variants):
        for trial in variant.trials:
            file = tree.trial(trial.id).file(naming.EVAL_RECORDS)
            records = better(scene(trial.seed), 0.2 * index)
            np.savez_compressed(file, **records.arrays(), resampled=resample(match(records), replicates=100))
    return tree


def test_numbers_are_those_of_the_parts() -> None:
    variant, reference = better(scene(0), 0.5), scene(0)
    rows = {(row.group, row.name): row for row in compare_variants([(variant, reference)], 20)}
    assert (
        rows["metric", "AP"].found.mean == pytest.approx(match(variant).ap() - match(reference).ap())
        and rows["metric", "AP"].found.mean > 0
    )
    assert rows["size", "AP_L"].value == pytest.approx(match(variant, "large").ap())
    classes = [row for (group, _), row in rows.items() if group == "class"]
    assert np.mean([row.value for row in classes]) == pytest.approx(rows["metric", "AP"].value), "AP is the mean over classes"
    errors = errors_of(reference)
    for name in TYPES:
        row = rows["error", name]
        assert row.reference == pytest.approx(costs(errors)[name]) and row.counts[1] == errors.counts[name]
    assert rows["error", "localisation"].found.mean < 0, "better boxes cost less"
    high = {row.name: row for row in compare_variants([(variant, reference)], 2, error_iou=0.75) if row.group == "error"}
    strict = errors_of(reference, 0.75)
    assert {name: high[name].reference for name in TYPES} == pytest.approx(costs(strict))
    assert high["localisation"].counts[1] == strict.counts["localisation"] > errors.counts["localisation"] and high["missed"].iou == 0.75
    assert all(row.found.half is None and row.half > 0 for row in rows.values() if row.value != row.reference), "one seed: images alone"


def test_what_is_equal_differs_by_nothing_and_other_images_are_refused() -> None:
    rows = compare_variants([(scene(0), scene(0)), (scene(0), scene(0))], 5)
    assert all((row.found.mean, row.verdict, row.better, row.half) == (0, "no signal", None, None) for row in rows)
    same = compare_variants([(better(scene(0), 0.5), scene(0))] * 2, 5)
    assert all(row.half is None and row.found.image_half > 0 for row in same if row.verdict == "no spread"), "as a table has it"
    assert any(row.verdict == "no spread" for row in same)
    with pytest.raises(ValueError, match="same images"):
        compare_variants([(scene(0), scene(0, images=39))])


def test_a_size_without_boxes_is_left_out() -> None:
    rows = compare_variants([(scene(0), scene(1))], 5)
    assert {row.name for row in rows if row.group == "size"} == {"AP_M", "AP_L"}  # boxes are 40 to 150 px


def test_compare_prints_and_gives_json(cli: Cli, tmp_path: Path) -> None:
    written(tmp_path)
    code, out, err = cli("compare", FILE, "qfl=on dfl=on")
    assert code == 0, err
    assert all(
        word in out
        for word in (
            "AP by size",
            "AP by class",
            "localisation",
            "difference: qfl=on dfl=on minus qfl=off dfl=off",
            "over seeds and images",
        )
    )
    code, out, err = cli("compare", FILE, "qfl=on dfl=on", "--error-iou", "0.72")
    assert code == 2 and not out and "0.72 is no IoU threshold of COCO; it must be one of 0.5, 0.55, 0.6" in err
    code, out, _ = cli("compare", FILE, "qfl=on dfl=on", "qfl=on dfl=off", "--json", "--error-iou", "0.75")
    found = json.loads(out)
    assert {row["iou"] for row in found["rows"] if row["group"] == "error"} == {0.75}
    assert code == 0 and found["seeds"] == [0, 1] and found["reference"] == "qfl=on dfl=off"
    assert all(row["interval"] or row["verdict"].startswith("no ") for row in found["rows"])
    assert all(row["weak"] for row in found["rows"] if row["interval"]), "two seeds"


def test_table_and_compare_print_the_same_numbers(cli: Cli, tmp_path: Path) -> None:
    tree = written(tmp_path, seeds=(0, 1, 2))
    for trial in Store(tree).experiment("table3_qfl_dfl", "desk").trials:  # what the records give, as in a real run
        file, found = tree.trial(trial.id).file(naming.RESULT), resampled_ap(tree, trial.id)
        result = read_json(file)
        write_json(file, result | {"metrics": result["metrics"] | found})
    table = json.loads(cli("table", FILE, "--json")[1])
    for row in table["rows"][1:]:
        found = json.loads(cli("compare", FILE, row["variant"], "--json")[1])
        metrics = {each["name"]: each for each in found["rows"] if each["group"] == "metric"}
        assert metrics.keys() == {"AP", "AP50", "AP75"}
        for name, each in metrics.items():
            known = row["delta"][name]
            assert each["difference"] == pytest.approx(known["mean"], abs=1e-6)
            assert {key: each[key] for key in ("interval", "p", "p_holm", "verdict", "weak", "rows_pooled", "why")} == {
                key: known[key] for key in ("interval", "p", "p_holm", "verdict", "weak", "rows_pooled", "why")
            }
    text = cli("compare", FILE, table["rows"][1]["variant"])[1]
    assert "corrected by Holm's method for its 3 rows" in text and table["rows"][1]["delta"]["AP"]["verdict"] in text


def resampled_ap(tree: RunTree, trial: str) -> dict[str, float]:
    precision = match(Store(tree).records(trial)).precision()
    return {name: mean_ap(precision[list(at)]) for name, at in RESAMPLED.items()}


def test_the_sizes_pool_their_spread_over_the_table() -> None:
    def row(name: str, baseline: bool, *small: float) -> VariantRow:
        trials = tuple(TrialRow(f"{name}{s}", s, TrialState.DONE, {"AP": 40.0 + s, "AP_M": value}) for s, value in enumerate(small))
        return VariantRow(name, {}, {}, baseline, None, trials)

    known = context(
        experiment(row("off", True, 50, 51), row("v0", False, 52, 54), row("v1", False, 50, 55)),
        row("v0", False, 52, 54), row("off", True, 50, 51), lambda name: None,
    )  # fmt: skip
    assert [each.seed_variance for each in known.others["AP_M"]] == [8.0]  # of v1: 0 and 4
    pairs = [(better(scene(0), 0.5), scene(0)), (better(scene(1), 0.3), scene(1))]
    alone, pooled = ({(each.group, each.name): each.found for each in compare_variants(pairs, 10, of)} for of in (None, known))
    own = alone["size", "AP_M"].seed_variance
    assert pooled["size", "AP_M"].spread == pytest.approx((own + 8.0) / 2) and pooled["size", "AP_M"].rows == 2
    assert pooled["class", "a"] == alone["class", "a"] and pooled["size", "AP_L"] == alone["size", "AP_L"]
    looked = tuple(replace(each, found=replace(each.found, level=0.01)) for each in known.totals)
    early = {(each.group, each.name): each.found for each in compare_variants(pairs, 10, replace(known, totals=looked))}
    for name in (("size", "AP_M"), ("class", "a")):  # the interval of a look, and p enlarged by 5% / 1%
        assert early[name].half > pooled[name].half and early[name].p >= pooled[name].p


def test_python_compares_the_seeds_that_both_have_finished(tmp_path: Path) -> None:
    store = Store(written(tmp_path, seeds=(0, 1, 2)))
    row = store.experiment("table3_qfl_dfl", "desk")
    last = row.variants[-1]
    partly = replace(row, variants=(*row.variants[:-1], replace(last, trials=last.trials[:2])))
    pair = find_pair(partly, "qfl=on dfl=on")
    assert pair.reference == row.baseline and list(pair.trials) == [0, 1]
    assert pair.trials[1] == (last.trials[1].id, row.baseline.trials[1].id)
    sheet = comparison_sheet(pair.compare(store), row, "first", "second")
    assert [grid.columns[0].title for grid in sheet.grids][:2] == ["AP", "AP by size"] and sheet.notes[
        0
    ] == "difference: first minus second"
    assert [column.title for column in sheet.grids[0].columns][1:3] == ["first", "second"]


def test_a_class_that_neither_has_learned_has_no_signal_and_is_not_weak() -> None:
    found = Difference(0.01, 0.1, 0.9, 1e-4, 0.0, 2, spread=1e-4, freedom=3.0, highest=0.5)
    low, high = (DifferenceRow("class", "a", 0.5, 0.5, replace(found, highest=most), min_effect=2.0) for most in (0.5, 5.0))
    assert (low.verdict, low.weak, high.verdict, high.weak, high.why) == ("no signal", False, "equivalent", True, "")
    assert low.why == "it is below the smallest effect that matters, 2 AP, in every trial of both"


def test_the_classes_that_differ_most_are_shown_and_the_others_counted() -> None:
    found = Difference(1.0, None, None, None, None, 2)
    rows = [DifferenceRow("class", f"c{i}", 0.0, 0.0, replace(found, mean=float(i))) for i in range(14)]
    grid = comparison_sheet(rows, experiment(), "one", "two").grids[0]
    assert [row.name for row in grid.rows] == [f"c{i}" for i in range(13, 1, -1)] and grid.note.startswith("and 2 classes with")
    error = DifferenceRow("error", "localisation", 2.0, 1.0, found, (4.0, 3.0), 0.75)
    grid = comparison_sheet([error], experiment(), "one", "two").grids[0]
    assert grid.columns[0].title == "AP75 that errors cost (lower is better)"
    assert grid.columns[-2].title == "errors (all scores)" and grid.rows[0].cells[-2].text == "4 / 3"
    assert [cell.text for cell in grid.rows[0].cells][-1] == "right class, IoU 0.1 to 0.75"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no variant 'nothing'"),
        (["dfl=on"], "2 variants of table3_qfl_dfl have 'dfl=on' in their name"),
        (["qfl=off dfl=off"], "both are qfl=off dfl=off, which is the baseline"),
        (["qfl=on dfl=on"], "share no finished seed"),
    ],
)
def test_mistakes_get_one_sentence(cli: Cli, tmp_path: Path, arguments: list[str], words: str) -> None:
    write_fake_tree(tmp_path, states=TrialState.PLANNED, val_images=2)
    code, out, err = cli("compare", FILE, *arguments)
    assert code == 2 and words in err and not out


def test_missing_and_torn_records_are_told(cli: Cli, tmp_path: Path) -> None:
    tree = written(tmp_path)
    trial = Store(tree).experiment("table3_qfl_dfl", "desk").variants[3].trials[0]
    file = tree.trial(trial.id).file(naming.EVAL_RECORDS)
    file.write_bytes(file.read_bytes()[:100])
    code, _, err = cli("compare", FILE, "qfl=on dfl=on")
    assert code == 2 and f"evaluation of trial {trial.id} cannot be read" in err
    file.unlink()
    assert f"trial {trial.id} has no evaluation records" in cli("compare", FILE, "qfl=on dfl=on")[2]


def test_diff_names_settings_environment_code_and_numbers(cli: Cli, tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path, seeds=(0, 1), val_images=2)
    variants = Store(tree).experiment("table3_qfl_dfl", "desk").variants
    first, second = (tree.trial(variant.trials[0].id) for variant in variants[:2])
    for trial, version in ((first, "1.0"), (second, "2.0")):
        write_json(trial.file(naming.RESULT), read_json(trial.file(naming.RESULT)) | {"environment": {"torch": version, "numpy": "3"}})
        manifest = read_json(trial.file(naming.MANIFEST))
        manifest["spec"]["components"] = [{"name": "mine.py", "digest": version}]
        write_json(trial.file(naming.MANIFEST), manifest)
        (trial.path / naming.COMPONENTS_DIR).mkdir()
        (trial.path / naming.COMPONENTS_DIR / "mine.py").write_text(f"same\nscale = {version}\n")
    code, out, err = cli("diff", first.id[:6], second.id, "--json")
    assert code == 0, err
    found = {(each["group"], each["name"]): each for each in json.loads(out)["differences"]}
    assert found["settings", "qfl"]["first"] == "off" and found["settings", "qfl"]["second"] == "on"
    assert found["environment", "torch"]["second"] == "2.0" and ("environment", "numpy") not in found
    assert "-scale = 1.0\n+scale = 2.0" in found["code", "mine.py"]["text"]
    assert ("numbers", "AP") in found and not any(group == "data" for group, _ in found)
    text = cli("diff", first.id, second.id)[1]
    assert "+scale = 2.0" in text and "torch" in text and "lr" not in text.split()
    seeds = cli("diff", *(trial.id for trial in variants[0].trials), "--json")[1]
    assert {each["name"] for each in json.loads(seeds)["differences"] if each["group"] == "settings"} == {"seed"}


def test_the_same_trial_differs_in_nothing(cli: Cli, tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path, val_images=2)
    store = Store(tree)
    trial = store.experiment("table3_qfl_dfl", "desk").trials[0].id
    assert differences(store.recorded(trial), store.recorded(trial)) == []
    code, out, err = cli("diff", trial, trial)
    assert code == 0 and not out.strip() and "differ in nothing" in err and "no environment on record" in err
    tree.trial(trial).file(naming.MANIFEST).write_text("{}")
    code, _, err = cli("diff", trial, trial)
    assert code == 2 and "cannot be read" in err
