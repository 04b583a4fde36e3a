"""Variants of two experiments: their numbers by hand, what is refused with its reason, on the command line and on the page Compare."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gfl_lab import naming
from gfl_lab.errors import InputError
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.files import read_json, write_json
from gfl_lab.report import variant_comparison, variant_pair
from gfl_lab.report.comparability import not_comparable
from gfl_lab.report.comparison import compare_alone
from gfl_lab.report.differences import DATA, SETTINGS, Differing, budget_note
from gfl_lab.report.variant_pair import NOT_PLANNED, pair_of
from gfl_lab.results.rows import Design, ExperimentRow, TrialRow, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.variant_pair import find_pair_of
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree
from tests.test_error_types import scene
from tests.test_report_table import experiment

FIRST, LATER = "table3_qfl_dfl", "later"
SMALL = {"val_images": 3, "train_images": 2}


def row(name: str, ap: dict[int, float], *, ids: str = "", **settings: object) -> VariantRow:
    """A variant with an AP for each seed."""
    trials = tuple(TrialRow(f"{ids or name}{seed}", seed, TrialState.DONE, {"AP": value}) for seed, value in ap.items())
    return VariantRow(name, {}, {"score_thr": 0.05, "nms_iou": 0.6, "max_dets": 100} | settings, False, None, trials)


def of(name: str, *variants: VariantRow, **changes: object) -> ExperimentRow:
    return dataclasses.replace(experiment(*variants), name=name, **changes)


# --- numbers --------------------------------------------------------------------------------------


def test_seeds_are_paired_by_number_and_the_interval_is_that_of_the_pair_alone() -> None:
    one, two = row("a", {0: 50.0, 1: 52.9, 2: 54.0, 3: 56.1}), row("b", {1: 51.0, 2: 52.0, 3: 54.0, 9: 10.0})
    noisy = row("noisy", {1: 90.0, 2: 10.0, 3: 50.0})
    pair = pair_of(of("x", one, noisy), one, two, of("y", two, noisy))
    assert pair.trials == {1: ("a1", "b1"), 2: ("a2", "b2"), 3: ("a3", "b3")} and not pair.equal and not pair.is_planned
    (found,) = compare_alone(one, two, lambda trial: None, 0.3)
    assert found.verdict == "no records", "without the images nothing is said of them"
    context = pair.context(None)
    (found,) = context.totals
    # differences 1.9, 2.0, 2.1: error 0.1 / sqrt(3), t(0.975, 2) = 4.302653
    assert (found.found.mean, found.found.half) == pytest.approx((2.0, 4.302653 * 0.1 / 3**0.5), abs=1e-6)
    assert (found.verdict, found.rows, found.found.rows) == ("better", 1, 1) and found.p == found.found.p and not context.others
    turned = pair.reversed().context(None).totals[0]
    assert (turned.verdict, turned.found.mean, turned.found.half) == ("worse", -found.found.mean, found.found.half)
    assert pair.names == ("x:a", "y:b") and pair.reversed().names == ("y:b", "x:a")


def test_a_trial_that_both_experiments_have_is_left_out_and_named() -> None:
    one, two = row("a", {0: 50.0, 1: 51.0, 2: 52.0}), row("b", {0: 40.0, 1: 51.0, 2: 52.5})
    two = dataclasses.replace(two, trials=(two.trials[0], one.trials[1], two.trials[2]))
    pair = pair_of(of("x", one), one, two, of("y", two))
    assert list(pair.trials) == [0, 2] and pair.equal == {1: "a1"} and pair.context(None).totals[0].found.seeds == 2
    assert any(note.startswith("Left out: both experiments share the trial of seed 1 (a1)") for note in pair.notes())
    same = pair_of(of("x", one), one, row("b", {0: 50.0, 1: 51.0, 2: 52.0}, ids="a"), of("y"))
    assert (
        same.equal_problem == "x:a and y:b are the same trials, so they are equal by definition: a0 (seed 0), a1 (seed 1) and a2 (seed 2)."
    )
    with pytest.raises(InputError, match="equal by definition"):
        find_pair_of((of("x", one), one), (of("y"), same.reference))
    within = pair_of(of("x", one), one, same.reference)
    assert len(within.trials) == 3 and within.names == ("a", "b") and within.notes() == [], "in one experiment nothing has changed"


def test_notes_say_what_was_not_planned() -> None:
    one, two = row("a", {0: 50.0}), row("b", {0: 51.0})
    looks = of("y", two, design=Design(2.0, (2, 3)))
    pair = pair_of(of("x", one, min_effect=0.5), one, two, looks)
    assert pair.notes()[0] == NOT_PLANNED and pair.min_effect() == 0.5 and pair.min_effect(0.1) == 0.1
    assert "Seeds of y were added until its rows had a verdict. p is not corrected for that here." in pair.notes()
    assert any("the smaller one of the two experiments: 0.5 AP" in note for note in pair.notes())
    profiles = pair_of(of("x", one), one, two, of("x", two, profile="smoke"))
    assert profiles.names == ("x@desk:a", "x@smoke:b") and not profiles.is_planned


def test_the_budget_is_named_and_the_method_is_not() -> None:
    found = [
        Differing(SETTINGS, "qfl", "on", "off"), Differing(SETTINGS, "epochs", "6", "12"), Differing(SETTINGS, "image_size", "[128, 128]", "[64, 64]"),
        Differing(DATA, "train_images", "800", "400"), Differing(DATA, "name", "a", "b"),
    ]  # fmt: skip
    assert budget_note(found) == (
        "Their budgets differ: epochs 6 and 12, image_size [128, 128] and [64, 64] and training images 800 and 400. "
        "The difference is not that of the method alone."
    )
    assert budget_note(found[:1]) == ""


# --- what is refused ------------------------------------------------------------------------------


def changed(records: Records, **values: object) -> Records:
    return Records(**{**vars(records), **values})


def reason(
    one: Records | None,
    two: Records | None,
    digest: str = "1" * 16,
    name: str = "shapes",
    first: VariantRow | None = None,
    **settings: object,
) -> str:
    """Why two variants are not comparable whose second one has other data, and ``settings`` of its own."""
    data = dataclasses.replace(experiment().data, digest=digest, name=name)
    sides = (of("x"), first or row("a", {}), one), (of("y", data=data), row("b", {}, **settings), two)
    return not_comparable(sides, ("x:a", "y:b"))


def test_the_same_annotations_in_another_order_and_other_training_data_are_comparable() -> None:
    one = scene(0)
    order = np.random.default_rng(0).permutation(len(one.gt_id))
    names = ("gt_image", "gt_label", "gt_area", "gt_crowd", "gt_id", "gt_box")
    shuffled = changed(scene(0), **{each: getattr(one, each)[order] for each in names})
    assert reason(one, shuffled) == "" == reason(one, changed(shuffled, gt_box=shuffled.gt_box + 1e-6))
    assert reason(None, None) == "", "what cannot be read is said by the comparison"


OTHER: dict[str, tuple[Callable[[], str], str]] = {
    "split": (lambda: reason(scene(0), scene(0, images=30)), "another split, 40 and 30 validation images, of which 30 have the same id"),
    "data": (lambda: reason(scene(0), scene(0, images=30), name="coco"), "other data (shapes and coco), 40 and 30 validation images"),
    "boxes": (lambda: reason(scene(0), scene(1)), "other annotations of the validation images ("),
    "label": (lambda: reason(scene(0), changed(scene(0), gt_label=(scene(0).gt_label + 1) % 3)), "other annotations"),
    "crowd": (lambda: reason(scene(0), changed(scene(0), gt_crowd=~scene(0).gt_crowd)), "other annotations"),
    "area": (lambda: reason(scene(0), changed(scene(0), gt_area=scene(0).gt_area / 2)), "other annotations"),
    "threshold": (lambda: reason(scene(0), scene(0), score_thr=0.001), "another evaluation (score threshold 0.05 and 0.001)"),
    "nms": (
        lambda: reason(scene(0), scene(0), nms_iou=0.5, max_dets=300),
        "another evaluation (IoU of NMS 0.6 and 0.5, detections of an image 100 and 300)",
    ),
    "options": (
        lambda: reason(scene(0), scene(0), cfg_options={"model.test_cfg.nms.type": "soft_nms"}),
        "another evaluation (cfg_options.model.test_cfg.nms.type not given and soft_nms)",
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_what_is_not_comparable_gives_its_reason(case: str) -> None:
    found, words = OTHER[case]
    assert found().startswith(f"x:a and y:b are not comparable: {words}") and found().endswith(".")


def test_other_classes_and_settings_of_the_method() -> None:
    data = dataclasses.replace(experiment().data, classes=("a", "c"))
    sides = (of("x"), row("a", {}), None), (of("y", data=data), row("b", {}), None)
    assert "other data, 2 classes (a, b) and 2 classes (a, c)" in not_comparable(sides, ("x:a", "y:b"))
    assert reason(scene(0), scene(0), digest="0" * 16, decode="local_peak", epochs=24, image_size=[64, 64]) == ""


def test_of_imported_detections_the_threshold_is_what_they_show() -> None:
    one, two = scene(0), scene(0)
    cut = two.det_score >= 0.3
    fewer = changed(two, **{each: getattr(two, each)[cut] for each in ("det_image", "det_label", "det_score", "det_box")})

    def imported(records: Records, **settings: object) -> str:
        sides = (
            (of("x"), row("a", {}, **settings), one),
            (of("y", kind="imported"), dataclasses.replace(row("b", {}), settings={}), records),
        )
        return not_comparable(sides, ("x:a", "y:b"))

    assert imported(two, score_thr=0.0) == ""
    assert f"another score threshold (0.05 and {fewer.det_score.min():.3g})" in imported(fewer)
    assert "another score threshold (0.2 and 0)" in imported(changed(two, det_score=two.det_score * 0.001), score_thr=0.2)
    assert "other detections of an image (100 and 300)" in imported(changed(two, max_dets=300), score_thr=0.0)


# --- a run tree -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments on the same annotations, of which the later trained longer, and whose last variant is the first one's; not to be changed.

    A third one is on other images.
    """
    root = tmp_path_factory.mktemp("across")
    tree = write_fake_tree(root, name=FIRST, seeds=(0, 1, 2), epochs=1, **SMALL)
    write_fake_tree(root, name=LATER, seeds=(1, 2, 3), epochs=2, **SMALL)
    write_fake_tree(root, name="elsewhere", seeds=(0, 1), epochs=1, val_images=2, train_images=2)
    file, other = (tree.experiment(name, "desk") / naming.PLAN for name in (LATER, FIRST))
    plan, first = read_json(file), read_json(other)
    plan["variants"][3]["trials"] = first["variants"][3]["trials"]
    write_json(file, plan)
    return root


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant_pair, "compare_variants", functools.partial(variant_comparison.compare_variants, replicates=5))


@pytest.fixture
def cli(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(made))
    return runner(monkeypatch, capsys)


def test_the_command_compares_two_experiments(cli: Cli, made: Path) -> None:
    names = f"{FIRST}:qfl=on dfl=off", f"{LATER}:dfl=off qfl=off"
    code, out, err = cli("compare", *names, "--json")
    found = json.loads(out)
    assert code == 0 and "table3_qfl_dfl:qfl=on dfl=off against later:qfl=off dfl=off, 2 seeds" in err
    assert (found["experiment"], found["reference_experiment"], found["reference_profile"]) == (FIRST, LATER, "desk")
    assert (found["seeds"], found["planned"], found["notes"][0]) == ([1, 2], False, NOT_PLANNED)
    rows = {name: Store(RunTree(made)).experiment(name, "desk").variants for name in (FIRST, LATER)}
    ap = {(name, trial.seed): trial.metrics["AP"] for name, at in ((FIRST, 1), (LATER, 0)) for trial in rows[name][at].trials}
    (total,) = (each for each in found["rows"] if (each["group"], each["name"]) == ("metric", "AP"))
    assert total["difference"] == pytest.approx(np.mean([ap[FIRST, seed] - ap[LATER, seed] for seed in (1, 2)]), abs=1e-6)
    assert total["p"] == total["p_holm"] and total["rows_pooled"] == 1 and total["weak"]
    differing = {each["name"]: (each["variant"], each["reference"]) for each in found["differing"]}
    assert differing["epochs"] == ("1", "2") and "digest" in differing and "seed" not in differing and "AP" not in differing
    code, out, _ = cli("compare", *names)
    text = " ".join(out.split())
    assert code == 0 and "Not planned:" in text and "Their budgets differ: epochs 1 and 2" in text and "differs in" in text
    within = json.loads(cli("compare", FIRST, "qfl=on dfl=on", "--json")[1])
    assert within["planned"] and within["reference_experiment"] == FIRST and "differing" not in within
    named = json.loads(cli("compare", f"{FIRST}:qfl=on dfl=on", f"{FIRST}@desk:qfl=off dfl=off", "--json")[1])
    assert named == within, "both of one experiment is the planned comparison"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((f"{FIRST}:qfl=on dfl=off", "elsewhere:qfl=on dfl=off"), "not comparable: another split, 3 and 2 validation images"),
        ((f"{FIRST}:qfl=on dfl=on", f"{LATER}:qfl=on dfl=on"), "are the same trials, so they are equal by definition"),
        ((f"{FIRST}:qfl=on dfl=on", f"{FIRST}:dfl=on qfl=on"), "both are qfl=on dfl=on of table3_qfl_dfl"),
        ((f"{FIRST}:qfl=on dfl=on", "qfl=on dfl=off"), "'qfl=on dfl=off' names no variant of an experiment"),
        ((f"{FIRST}:qfl=on dfl=on", "latter:qfl=on"), "Did you mean 'later'?"),
        ((f"{FIRST}:", f"{LATER}:qfl=on dfl=on"), "Write table3_qfl_dfl:VARIANT. Variants: 'qfl=off dfl=off'"),
        ((f"{FIRST}:qfl=on dfl=on", f"{LATER}:qfl=on dfl=off", "more"), "need no third name"),
        ((f"{FIRST}:qfl=on dfl=on", f"{LATER}:qfl=on dfl=off", "--profile", "desk"), "write EXPERIMENT@PROFILE:VARIANT"),
    ],
)
def test_mistakes_get_one_sentence(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = cli("compare", *arguments)
    assert code == 2 and not out and words in " ".join(err.split()), err


# --- the page -------------------------------------------------------------------------------------


def test_the_page_offers_variants_of_other_experiments_and_says_why_some_are_not_comparable(
    made: Path, monkeypatch: pytest.MonkeyPatch, no_packages: None
) -> None:
    from tests.test_dashboard_pages import html_of, open_page, words_of

    def opened(variant: str, reference: str):
        return open_page("compare", made, monkeypatch, experiment=f"{FIRST}/desk", variant=variant, reference=reference)

    app = opened("qfl=on dfl=off", "later/desk:qfl=off dfl=off")
    options = app.selectbox(key="w:reference").options
    assert options[3:5] == ["elsewhere · desk: qfl=off dfl=off", "elsewhere · desk: qfl=on dfl=off"] and len(options) == 11
    text = words_of(app)
    assert "table3_qfl_dfl:qfl=on dfl=off" in text and NOT_PLANNED in text and "2 seeds" in text
    assert "Their budgets differ: epochs 1 and 2" in text and "Settings that differ" in text and "AP by class" in text
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert chart["layout"]["xaxis"]["title"]["text"] == "table3_qfl_dfl:qfl=on dfl=off minus<br>later:qfl=off dfl=off [AP points]"
    assert ">table3_<wbr>qfl_<wbr>dfl:<wbr>qfl=on dfl=off</th>" in html_of(app), "a long name breaks in the head of its column"
    assert "elsewhere:qfl=on dfl=off are not comparable: another split" in words_of(
        opened("qfl=on dfl=off", "elsewhere/desk:qfl=on dfl=off")
    )
    assert "equal by definition" in words_of(opened("qfl=on dfl=on", "later/desk:qfl=on dfl=on"))
    own = opened("table3_qfl_dfl/desk:qfl=on dfl=on", "qfl=off dfl=off")
    assert own.query_params["variant"] == "qfl=on dfl=on" and NOT_PLANNED not in html_of(own) and "Settings that differ" not in html_of(own)


def test_an_experiment_without_results_is_compared_with_others_that_are_chosen(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_packages: None
) -> None:
    from tests.test_dashboard_pages import html_of, open_page, words_of

    shutil.copytree(made, tmp_path / "runs")
    write_fake_tree(tmp_path / "runs", name="aaa_planned", states="planned", epochs=1, **SMALL)
    app = open_page("compare", tmp_path / "runs", monkeypatch, experiment="aaa_planned/desk")
    assert "Choose two variants above" in html_of(app) and app.selectbox(key="w:variant").value == ""
    app.selectbox(key="w:variant").select("later/desk:qfl=on dfl=off").run()
    app.selectbox(key="w:reference").select("later/desk:qfl=off dfl=off").run()
    assert "qfl=on dfl=off is" in words_of(app) or "whether qfl=on dfl=off is" in words_of(app)
    assert NOT_PLANNED not in html_of(app), "both are of one experiment"
