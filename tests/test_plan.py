"""Plans: which trials, with which ids, beside which published rows."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gfl_lab.errors import SpecError
from gfl_lab.orchestrate.driver import write_manifests
from gfl_lab.plan.expand import combinations
from gfl_lab.plan.plan import PlanInputs, build_plan
from gfl_lab.plan.published import looks_like_coco
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.plan import read_plan, write_plan
from gfl_lab.rundir import RunTree
from gfl_lab.session.inputs import read_files
from gfl_lab.session.planning import PlanOptions, prepare
from gfl_lab.spec.file_models import ExperimentFile
from gfl_lab.spec.files import load_experiment, load_profile, load_published
from gfl_lab.spec.rules import Broken, broken_rules
from gfl_lab.spec.schedule import steps_of
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DATA = DataSpec(name="shapes", digest="0" * 16, classes=("a", "b"), train_images=100, val_images=20, truth=True)
COCO = DataSpec(name="coco", digest="1" * 16, classes=tuple(map(str, range(80))), train_images=117_266, val_images=5000)
DESK = load_profile(EXPERIMENTS / "profiles" / "desk.yaml")
COCO_1X = load_profile(EXPERIMENTS / "profiles" / "coco_1x.yaml")
TABLE3 = load_experiment(EXPERIMENTS / "table3_qfl_dfl.yaml")[0]
PUBLISHED = load_published("gfl_t3_qfl_dfl", [EXPERIMENTS / "published"])


def test_table3_has_four_variants_with_the_published_rows() -> None:
    plan = build_plan(TABLE3, DESK, DATA, PlanInputs(published=PUBLISHED))
    assert [variant.name for variant in plan.variants] == ["qfl=off dfl=off", "qfl=off dfl=on", "qfl=on dfl=off", "qfl=on dfl=on"]
    assert [variant.reference.metrics["AP"] for variant in plan.variants] == [39.2, 39.5, 39.9, 40.2]
    assert [variant.baseline for variant in plan.variants] == [True, False, False, False]
    assert not any(variant.reference.comparable for variant in plan.variants)
    assert "other data" in plan.variants[0].reference.why_not and "desk" in plan.variants[0].reference.why_not
    assert len({trial.id for trial in plan.trials}) == 4


def test_only_the_papers_own_setting_is_comparable() -> None:
    assert all(v.reference.comparable for v in build_plan(TABLE3, COCO_1X, COCO, PlanInputs(published=PUBLISHED)).variants)
    other = TABLE3.model_copy(update={"overrides": {"epochs": 24}})
    changed = build_plan(other, COCO_1X, COCO, PlanInputs(published=PUBLISHED)).variants[0].reference
    assert not changed.comparable and "epochs" in changed.why_not
    assert not looks_like_coco(DATA)


def test_an_id_is_what_is_computed_not_where() -> None:
    spec = TrialSpec(settings=Settings(), data=DATA, seed=0, code=TRAINING_CODE_VERSION)
    same = spec.model_copy(update={"data": DATA.model_copy(update={"name": "moved"}), "settings": Settings(init_weights="random")})
    assert spec.id == same.id
    others = [
        spec.model_copy(update={"seed": 1}),
        spec.model_copy(update={"code": TRAINING_CODE_VERSION + 1}),
        spec.model_copy(update={"weights_digest": "ab"}),
        spec.model_copy(update={"data": DATA.model_copy(update={"digest": "f" * 16})}),
        spec.model_copy(update={"settings": Settings(lr=0.02)}),
    ]
    assert len({spec.id, *(other.id for other in others)}) == 6


def test_the_id_of_a_trial_does_not_drift() -> None:
    """A change here makes every finished trial of every user count as missing: raise TRAINING_CODE_VERSION knowingly instead."""
    assert TrialSpec(settings=Settings(), data=DATA, seed=0, code=1).id == "9d8c52baafc1"


@given(st.integers(0, 2**31 - 1), st.floats(1e-6, 1), st.integers(1, 128))
def test_a_spec_survives_its_manifest(seed: int, lr: float, reg_max: int) -> None:
    spec = TrialSpec(settings=Settings(lr=lr, reg_max=reg_max), data=DATA, seed=seed, code=1)
    again = TrialSpec.model_validate_json(spec.model_dump_json())
    assert again == spec and again.id == spec.id


def _experiment(**content: object) -> ExperimentFile:
    return ExperimentFile.model_validate({"name": "x", "profile": "desk", **content})


def test_when_makes_an_axis_conditional() -> None:
    experiment = _experiment(axes={"dfl": [False, True], "reg_max": [8, 16]}, when={"reg_max": {"dfl": True}})
    plan = build_plan(experiment, DESK, DATA)
    assert [variant.axes for variant in plan.variants] == [{"dfl": False}, {"dfl": True, "reg_max": 8}, {"dfl": True, "reg_max": 16}]


def test_arms_are_named_and_must_differ() -> None:
    plan = build_plan(_experiment(variants={"small": {"reg_max": 8}, "large": {"reg_max": 24}}, baseline="large"), DESK, DATA)
    assert [(variant.name, variant.baseline) for variant in plan.variants] == [("large", True), ("small", False)]
    with pytest.raises(SpecError, match="same settings"):
        build_plan(_experiment(variants={"a": {"reg_max": 16}, "b": {}}), DESK, DATA)


def test_seeds_add_trials_and_keep_the_old_ids() -> None:
    one = build_plan(TABLE3, DESK, DATA)
    three = build_plan(TABLE3, DESK, DATA, PlanInputs(seeds=[0, 1, 2]))
    assert len(three.trials) == 12
    assert {trial.id for trial in one.trials} < {trial.id for trial in three.trials}


def test_cells_shared_by_two_tables_are_one_trial() -> None:
    other = build_plan(_experiment(axes={"qfl": [True], "dfl": [False, True]}), DESK, DATA)
    ids = {trial.id for trial in build_plan(TABLE3, DESK, DATA).trials}
    assert {trial.id for trial in other.trials} <= ids


def test_a_combination_that_breaks_a_rule_is_told_with_its_variant() -> None:
    with pytest.raises(SpecError, match="image_size"):
        build_plan(_experiment(axes={"image_size": [[64, 128]]}), DESK, DATA)


def test_steps_count_the_smaller_last_batch() -> None:
    assert steps_of({"epochs": 3, "batch_size": 16}, 100) == 21


def test_the_smallest_effect_that_matters_is_kept_in_the_plan(tmp_path: Path) -> None:
    for value in (None, 0.5):
        record = build_plan(_experiment(axes={"dfl": [False, True]}, min_effect=value), DESK, DATA).record("now")
        write_plan(tmp_path / "plan.json", record)
        assert read_plan(tmp_path / "plan.json").min_effect == value
    for wrong in (0, -1, "much", 101):
        with pytest.raises(ValidationError, match="min_effect"):
            _experiment(axes={"dfl": [False, True]}, min_effect=wrong)


def test_a_setting_that_nothing_reads_is_not_in_the_id() -> None:
    def of(**settings: object) -> str:
        return TrialSpec(settings=Settings(**settings), data=DATA, seed=0, code=1).id

    assert of(box="dirac") == of(box="dirac", decode="local_peak", dfl_weight=1.0, gaussian_weight=3.0)
    assert of(quality="none") == of(quality="none", qfl_beta=1.0, dgqp_topk=2, guided_eta=2.0, quality_weight=2.0)
    assert of() == of(drop_path=0.5, dcn_stages="c4-c5", scale_step=0.1, bbox_coder="distance")
    # what is read counts: distances are measured in bins also where the box has none
    assert len({of(box="dirac"), of(box="dirac", reg_max=8), of(box="dirac", bin_width=2.0), of(box="dirac", box_loss="iou")}) == 4
    assert of(decode="local_peak") != of() and of(quality="iou", quality_weight=2.0) != of(quality="iou")
    assert of(head="MyHead", quality="none", qfl_beta=1.0) != of(head="MyHead", quality="none")


def test_an_axis_that_acts_nowhere_is_an_error_and_one_that_acts_somewhere_gives_each_variant_once() -> None:
    with pytest.raises(SpecError, match="axis 'decode' has no effect"):
        build_plan(_experiment(axes={"decode": ["expectation", "local_peak"]}, overrides={"box": "dirac"}), DESK, DATA)
    plan = build_plan(_experiment(axes={"dfl": [False, True], "decode": ["expectation", "local_peak"]}), DESK, DATA)
    assert len(plan.variants) == 3


CONDITIONS = {"reg_max": {"dfl": True}, "dfl_weight": {"dfl": True, "qfl": True}, "atss_topk": {"dfl_weight": 0.5}}
GRID = {"qfl": [False, True], "dfl": [False, True], "reg_max": [8, 16], "dfl_weight": [0.25, 0.5], "atss_topk": [5, 9]}


@given(st.permutations(list(CONDITIONS)), st.permutations(list(GRID)), st.randoms())
def test_the_order_of_conditions_and_axes_changes_no_variant(order: list[str], axes: list[str], random: Random) -> None:
    when = {key: dict(random.sample(sorted(CONDITIONS[key].items()), len(CONDITIONS[key]))) for key in order}
    known = combinations(_experiment(axes=GRID, when=CONDITIONS), [0])
    found = combinations(_experiment(axes={key: GRID[key] for key in axes}, when=when), [0])
    assert {frozenset(cell.axes.items()) for cell in found} == {frozenset(cell.axes.items()) for cell in known}
    # by hand: dfl off 2; dfl on, qfl off, 2 bins: 2; both on, 2 bins, weight 0.25: 2; and weight 0.5 with 2 k: 4
    assert len(found) == len(known) == 2 + 2 + 2 + 4


def test_a_condition_on_an_axis_that_does_not_apply_does_not_hold() -> None:
    for when in ({"reg_max": {"dfl": True}, "bin_width": {"reg_max": 8}}, {"bin_width": {"reg_max": 8}, "reg_max": {"dfl": True}}):
        experiment = _experiment(axes={"dfl": [False, True], "reg_max": [8, 16], "bin_width": [1.0, 2.0]}, when=when)
        assert [cell.name for cell in combinations(experiment, [0])] == [
            "dfl=off", "dfl=on reg_max=8 bin_width=1", "dfl=on reg_max=8 bin_width=2", "dfl=on reg_max=16",
        ]  # fmt: skip


@pytest.mark.parametrize("keys", [("qfl", "dfl"), ("dfl", "reg_max", "qfl")])
def test_conditions_in_a_cycle_are_refused_by_name(tmp_path: Path, keys: tuple[str, ...]) -> None:
    values = {"qfl": True, "dfl": True, "reg_max": 8}
    when = {key: {other: values[other]} for key, other in zip(keys, keys[1:] + keys[:1], strict=True)}
    path = tmp_path / "exp.yaml"
    path.write_text(
        f"name: x\nprofile: desk\naxes: {{qfl: [true, false], dfl: [true, false], reg_max: [8, 16]}}\nwhen: {json.dumps(when)}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_experiment(path)
    assert "exp.yaml:4" in str(caught.value) and "form a cycle" in str(caught.value)
    assert all(f"{key}" in str(caught.value).partition("cycle:")[2] for key in keys)


def test_trials_are_counted_before_they_are_expanded() -> None:
    many = _experiment(axes={"reg_max": list(range(1, 101)), "atss_topk": list(range(1, 100))})
    assert len(combinations(many, [0])) == 9900
    with pytest.raises(SpecError, match=r"19,800 trials \(100 reg_max x 99 atss_topk x 2 seeds\)"):
        combinations(many, [0, 1])
    assert len(combinations(many, [0, 1], max_trials=19_800)) == 9900
    with pytest.raises(SpecError, match="at most 10,000"):
        combinations(many, range(10**9))
    # what conditions leave out is not counted, and what they leave is
    axes = {"dfl": [False, True], "reg_max": list(range(1, 129)), "qfl": [False, True], "atss_topk": list(range(1, 101))}
    assert len(combinations(_experiment(axes=axes, when={"reg_max": {"dfl": True}, "atss_topk": {"dfl": False}}), [0])) == 2 * (128 + 100)
    with pytest.raises(SpecError, match="up to 51,200 trials"):
        combinations(_experiment(axes=axes, when={"reg_max": {"qfl": True}}), [0])
    with pytest.raises(SpecError, match="3 variants"):
        combinations(_experiment(variants={"a": {}, "b": {}, "c": {}}), range(10), max_trials=20)


def test_a_rule_that_many_variants_break_is_one_problem() -> None:
    with pytest.raises(SpecError) as caught:
        build_plan(_experiment(axes={"image_size": [[64, 128]], "qfl_beta": [1.0, 2.0, 3.0, 4.0]}), DESK, DATA)
    assert len(caught.value.problems) == 1 and "4 variants (image_size=" in str(caught.value)


def test_settings_are_checked_once_for_each_combination_and_published_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_files(EXPERIMENTS / "table3_qfl_dfl.yaml")
    assert TrialSpec(settings=Settings(), data=DATA, seed=0, code=1).id, "the defaults are checked once in a process, for all ids"
    checked: list[Settings] = []

    def counted(settings: Settings) -> list[Broken]:
        checked.append(settings)
        return broken_rules(settings)

    monkeypatch.setattr("gfl_lab.spec.settings.broken_rules", counted)
    paths = DataPaths("/data", "/data", "/data", "/data")
    monkeypatch.setattr("gfl_lab.session.planning.prepare_data", lambda *_: (DATA, paths))
    tree = RunTree(tmp_path)
    plan = prepare(files, tree, PlanOptions(seeds=[0, 1, 2]), lambda line: None).plan
    assert len(plan.trials) == 12 and len(checked) == 4 + len({variant.reference.row for variant in plan.variants if variant.reference})
    checked.clear()
    write_manifests(plan.trials, tree, paths)
    plan.record("2026-01-01T00:00:00+00:00")
    assert [trial.id for trial in plan.trials] == [trial.spec.id for trial in plan.trials] and not checked
    spec = tree.trial(plan.trials[0].id).manifest().spec  # as the trial's process reads it
    assert spec == plan.trials[0].spec and len(checked) == 1
