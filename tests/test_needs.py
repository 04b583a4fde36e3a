"""Trials that need other trials: their graph, their ids, the order in which they run, and the weights that they start from."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.detector.build import build_detector, model_config
from gfl_lab.detector.distillation import Distillation, softened_divergence
from gfl_lab.detector.positives import JoinedPositives
from gfl_lab.errors import FailureKind, Interrupted, NeededTrialMissing, SpecError
from gfl_lab.orchestrate.driver import of_other_seeds, save_plan, states
from gfl_lab.orchestrate.executor import Ended
from gfl_lab.orchestrate.needs import Order, run_in_order
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.orchestrate.trainings import Trainings, needed_by_others
from gfl_lab.plan.graph import required_by
from gfl_lab.plan.plan import Plan, PlanInputs, Trial, build_plan, draft_plan
from gfl_lab.records.files import write_json
from gfl_lab.records.plan import read_plan
from gfl_lab.rundir import RunTree
from gfl_lab.session.reproduction import Reproduction, reproduce
from gfl_lab.session.standing import Standing
from gfl_lab.spec.file_models import ExperimentFile, Profile
from gfl_lab.spec.files import load_experiment
from gfl_lab.spec.needs import completed, given_values, needs_of
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import DataSpec, TrialSpec
from gfl_lab.train.finished import FinalWeights
from gfl_lab.train.needed import NeededTrial, learn_from, start_from
from gfl_lab.train.trial import run_trial
from tests.support.cli import runner
from tests.support.raw import raw_result
from tests.support.trials import SMALL, train

DATA = DataSpec(name="mine", digest="0" * 16, classes=("a", "b"), train_images=8, val_images=4)
OTHER = DATA.model_copy(update={"name": "other", "digest": "1" * 16, "train_images": 80})
PROFILE = Profile(name="p", title="", data="required", settings={"epochs": 3})


def experiment(**content: object) -> ExperimentFile:
    return ExperimentFile.model_validate({"name": "x", "profile": "p", **content})


def planned(seeds: tuple[int, ...] = (0,), **content: object) -> Plan:
    return build_plan(experiment(**content), PROFILE, DATA, PlanInputs(seeds=seeds))


# --- the graph ------------------------------------------------------------------------------------


def test_a_needed_trial_is_in_the_plan_once_before_those_that_need_it_and_in_no_row() -> None:
    plan = planned(
        seeds=(0, 1),
        overrides={"lr": 0.5},
        variants={
            "plain": {},
            "tuned": {"lr": 0.01, "init_from": {"reg_max": 8}},
            "tuned slowly": {"lr": 0.001, "init_from": {"reg_max": 8}},
        },
    )
    assert [each.name for each in plan.needed] == ["reg_max=8", "reg_max=8"] and [each.roles for each in plan.needed] == [
        ("init_from",)
    ] * 2
    first, second = (each.trial for each in plan.needed)
    assert (first.spec.seed, second.spec.seed) == (0, 1), "the seed of the trial that needs it"
    assert first.spec.settings == Settings(epochs=3, lr=0.5, reg_max=8), "over profile and overrides, not over the variant"
    for variant in plan.variants[1:]:
        assert [trial.spec.needs for trial in variant.trials] == [{"init_from": first.id}, {"init_from": second.id}]
    assert len(plan.trials) == 6 and len(plan.all_trials) == 8
    order = [trial.id for trial in plan.all_trials]
    assert all(order.index(needed) < order.index(trial.id) for trial in plan.all_trials for needed in trial.spec.needs.values())


def test_a_needed_trial_that_is_a_variant_too_is_one_trial_and_comes_first() -> None:
    plan = planned(variants={"tuned": {"lr": 0.001, "init_from": {} | {"reg_max": 8}}, "eight bins": {"reg_max": 8}})
    tuned, eight = plan.trials
    assert plan.needed == () and tuned.spec.needs == {"init_from": eight.id} and [t.id for t in plan.all_trials] == [eight.id, tuned.id]


def test_chains_fixed_seeds_and_other_data() -> None:
    draft = {"tuned": {"init_from": {"seed": 7, "data": "/other", "epochs": 5, "init_from": {"reg_max": 8}}}}
    found = draft_plan(experiment(variants=draft, seeds=[3]), PROFILE)
    assert found.data_folders == {"/other"}
    plan = found.over(DATA, {"/other": OTHER})
    first, second = (each.trial.spec for each in plan.needed)
    assert (first.settings.reg_max, first.seed, first.data) == (8, 7, OTHER), "what a needed trial needs has its seed and data"
    assert (second.settings.epochs, second.seed, second.data) == (5, 7, OTHER) and second.needs == {"init_from": first.id}
    assert [each.name for each in plan.needed][0] == "reg_max=8 on other"
    assert required_by(plan.trials, plan.all_trials) == {first.id, second.id}


def test_an_id_is_that_of_the_needed_trial_however_it_is_described() -> None:
    spelled = [{"reg_max": 8}, {"reg_max": 8, "lr": 0.01}, {"reg_max": 8, "epochs": 3}]
    ids = {planned(variants={"tuned": {"init_from": given}}).trials[0].id for given in spelled}
    assert len(ids) == 1
    with pytest.raises(SpecError, match="are the same settings"):
        planned(variants={"a": {"init_from": spelled[0]}, "b": {"init_from": spelled[1]}})
    plain, tuned, other = planned(variants={"a": {}, "b": {"init_from": spelled[0]}, "c": {"init_from": {"reg_max": 4}}}).trials
    assert len({plain.id, tuned.id, other.id}) == 3 and len({t.spec.training_id for t in (plain, tuned, other)}) == 3
    assert "needs" not in plain.spec.model_dump() and plain.spec.training_id != tuned.spec.training_id
    again = TrialSpec.model_validate_json(tuned.spec.model_dump_json())
    assert again == tuned.spec and again.id == tuned.id


@given(st.integers(1, 128), st.sampled_from(["joint", "centerness", "dgqp"]), st.sampled_from(["auto", "score", "iou"]))
def test_a_completed_description_stands_for_itself(reg_max: int, quality: str, weighting: str) -> None:
    settings = Settings(reg_max=max(4, reg_max), quality=quality, box_weighting=weighting, image_size=(640, 512))
    assert Settings(**given_values(settings)) == settings
    base = {"reg_max": 64, "box_weighting": weighting}
    student = completed(Settings(init_from={"quality": quality, "seed": 3}), lambda own: Settings(**base | own))
    (need,) = needs_of(student)
    assert need.seed == 3 and need.settings == Settings(reg_max=64, box_weighting=weighting, quality=quality)
    assert needs_of(completed(student, lambda own: Settings(**own)))[0].settings == need.settings, "completed once more it is the same"


def test_trials_with_those_that_they_need_are_counted() -> None:
    variants = {"tuned": {"init_from": {"reg_max": 8}}}
    with pytest.raises(SpecError, match="has 4 trials with those that others need; at most 3 are planned"):
        build_plan(experiment(variants=variants), PROFILE, DATA, PlanInputs(seeds=(0, 1), max_trials=3))


def test_a_rule_broken_in_a_description_is_told_with_the_variant() -> None:
    with pytest.raises(SpecError, match="variant tuned under profile p: quality: dgqp reads the distribution"):
        planned(variants={"tuned": {"init_from": {"quality": "dgqp", "dfl": False}}})


def test_seeds_that_stay_in_the_table_keep_what_they_need(tmp_path: Path) -> None:
    content = {"variants": {"tuned": {"init_from": {"reg_max": 8}}, "fixed": {"init_from": {"reg_max": 8, "seed": 9}}}}
    both, one = planned(seeds=(0, 1), **content), planned(seeds=(1,), **content)
    assert len(both.needed) == 3
    save_plan(both, tmp_path, RunTree(tmp_path))
    others = [trial.id for _, trial in of_other_seeds(one, tmp_path)]
    assert others == [variant.trials[0].id for variant in both.variants]
    save_plan(one, tmp_path, RunTree(tmp_path))
    record = read_plan(tmp_path / naming.PLAN)
    assert {each.trial.id for each in record.needed} == {each.trial.id for each in both.needed}
    assert [len(variant.trials) for variant in record.variants] == [2, 2] and record.trials[0].needs == both.trials[0].spec.needs


# --- messages -------------------------------------------------------------------------------------


def test_every_mistake_in_a_description_is_told_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("""name: x
profile: smoke
variants:
  a:
    init_from:
      reg_maxx: 8
      seed: -1
      data: ""
  b:
    init_from: {dgqp_topk: 20, quality: dgqp}
  c: {init_from: {init_from: {init_from: {init_from: {init_from: {}}}}}}
  d: {init_from: 3}
""")
    with pytest.raises(SpecError) as found:
        load_experiment(path)
    told = {problem.place: f"{problem.message} {problem.hint}" for problem in found.value.problems}
    assert (
        "unknown key 'reg_maxx' " in told["x.yaml:6: variants.a.init_from.reg_maxx"]
        and "reg_max" in told["x.yaml:6: variants.a.init_from.reg_maxx"]
    )
    assert "init_from.seed is -1: must be a whole number" in told["x.yaml:7: variants.a.init_from.seed"]
    assert "must be the path of a folder" in told["x.yaml:8: variants.a.init_from.data"]
    assert "dgqp_topk is 20, but a side has 17 bins" in told["x.yaml:10: variants.b.init_from.dgqp_topk"]
    assert "at most 4 may" in told["x.yaml:11: variants.c.init_from.init_from.init_from.init_from.init_from"]
    assert "must be `key: value` pairs" in told["x.yaml:12: variants.d.init_from"] and len(told) == 6


def test_an_axis_of_descriptions_and_a_search_without(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nprofile: smoke\naxes:\n  init_from:\n  - {epochs: 1}\n  - {epoch: 2}\n")
    with pytest.raises(SpecError, match=r"x.yaml:6: axes.init_from.1.epoch: unknown key 'epoch'"):
        load_experiment(path)
    path.write_text("name: x\nkind: search\nprofile: smoke\nsearch: {space: {init_from: [{epochs: 1}, {epochs: 2}]}, trials: 2}\n")
    with pytest.raises(SpecError, match="'init_from' cannot be searched: it describes another trial"):
        load_experiment(path)


# --- order ----------------------------------------------------------------------------------------


class FakeTree:
    """Trials that end as a test says."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.tree = RunTree(root)
        for trial in plan.all_trials:
            folder = self.tree.trial(trial.id)
            paths = dict.fromkeys(("train_annotations", "val_annotations", "train_images", "val_images"), "")
            write_json(
                folder.file(naming.MANIFEST), {"format": 1, "trial": trial.id, "spec": trial.spec.model_dump(mode="json"), "paths": paths}
            )

    def end(self, trial: str, status: str) -> None:
        folder = self.tree.trial(trial)
        content = {
            "format": 1,
            "trial": trial,
            "status": status,
            "metrics": {"AP": 1.0},
            "failure": {"kind": "error", "reason": "it broke"},
        }
        write_json(folder.file(naming.RESULT), content)
        if status == "done":
            torch.save({"state_dict": {}}, folder.file(naming.LAST_CHECKPOINT))


class FakeExecutor:
    """Runs jobs one after the other; each ends as ``ends`` has it, else done."""

    gpus = 0.0

    def __init__(self, fake: FakeTree, ends: dict[str, str]) -> None:
        self.fake, self.ends, self.jobs, self.ran = fake, ends, [], []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def results(self, watch: Callable[[], None]) -> Iterator[Ended]:
        while self.jobs:
            job = self.jobs.pop(0)
            trial = Path(job.path).name
            self.ran.append(trial)
            if (end := self.ends.get(trial, "done")) != "lost":
                self.fake.end(trial, end)
            yield Ended(job, "its worker was lost" if end == "lost" else "")


CHAIN = {
    "variants": {"plain": {}, "tuned": {"init_from": {"reg_max": 8, "init_from": {"reg_max": 4}}}, "other": {"init_from": {"reg_max": 8}}}
}


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Plan, FakeTree]:
    plan = planned(**CHAIN)
    return plan, FakeTree(tmp_path, plan)


def run(fake: FakeTree, trials: list[Trial], ends: dict[str, str] | None = None, stop: Callable[[], bool] = lambda: False) -> list[str]:
    """Run ``trials`` and return the ids of those that ran."""
    executor = FakeExecutor(fake, ends or {})
    order = Order(trials, fake.tree, Trainings(trials, fake.tree))
    made = lambda ready: [Job(str(fake.tree.trial(trial.id).path), "", "", {}) for trial in ready]  # noqa: E731
    run_in_order(executor, order, made, lambda: None, stop)  # type: ignore[arg-type]
    return executor.ran


def pending(plan: Plan, fake: FakeTree) -> list[Trial]:
    """Return the trials to run, without a look for damage: the files of these are not real ones."""
    standing = Standing(plan, fake.tree, states=states(plan.all_trials, fake.tree))
    return standing.pending


def test_each_trial_runs_as_soon_as_what_it_needs_is_there(chain: tuple[Plan, FakeTree]) -> None:
    plan, fake = chain
    plain, tuned, other = (trial.id for trial in plan.trials)
    names = {each.trial.id: each.name for each in plan.needed}
    ran = run(fake, pending(plan, fake))
    assert [names.get(trial, trial) for trial in ran] == ["reg_max=4", "reg_max=8", plain, "reg_max=8 init_from=...", other, tuned]
    assert pending(plan, fake) == []


def test_a_failure_names_itself_in_all_that_need_the_trial_and_the_next_run_tries_all_again(chain: tuple[Plan, FakeTree]) -> None:
    plan, fake = chain
    plain, tuned, other = (trial.id for trial in plan.trials)
    first = next(each.trial.id for each in plan.needed if each.name == "reg_max=4")
    ran = run(fake, pending(plan, fake), {first: "failed"})
    assert tuned not in ran and {plain, other} < set(ran)
    result = raw_result(fake.tree.trial(tuned))
    middle = next(trial.id for trial in plan.all_trials if trial.spec.needs.get("init_from") == first)
    assert result["status"] == "failed" and result["failure"]["kind"] == FailureKind.NEEDED_TRIAL
    assert result["failure"]["reason"] == (
        f"it needs trial {middle} (init_from), which failed: it needs trial {first} (init_from), which failed: it broke"
    )
    assert [trial.id for trial in pending(plan, fake)] == [first, middle, tuned]
    assert run(fake, pending(plan, fake)) == [first, middle, tuned] and pending(plan, fake) == []


def test_weights_that_are_lost_block_what_needs_them_with_the_way_out(chain: tuple[Plan, FakeTree]) -> None:
    plan, fake = chain
    other = plan.trials[2]
    needed = other.spec.needs["init_from"]
    run(fake, [trial for trial in plan.all_trials if trial.id == needed])
    fake.tree.trial(needed).file(naming.LAST_CHECKPOINT).unlink()
    assert run(fake, [other]) == []
    reason = raw_result(fake.tree.trial(other.id))["failure"]["reason"]
    assert f"whose weights are lost: last.pth is missing. To train it once more, move {fake.tree.trial(needed).path} away" in reason


def test_a_stop_and_a_lost_worker_fail_nothing(chain: tuple[Plan, FakeTree]) -> None:
    plan, fake = chain
    first = next(each.trial.id for each in plan.needed if each.name == "reg_max=4")
    ran = run(fake, pending(plan, fake), {first: "lost"})
    middle = next(trial.id for trial in plan.all_trials if trial.spec.needs.get("init_from") == first)
    assert middle not in ran and not fake.tree.trial(middle).file(naming.RESULT).exists()
    assert run(fake, pending(plan, fake), stop=lambda: True) == []
    assert not fake.tree.trial(middle).file(naming.RESULT).exists()


def test_a_trial_of_another_driver_is_waited_for(chain: tuple[Plan, FakeTree], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, fake = chain
    other = plan.trials[2]
    needed = fake.tree.trial(other.spec.needs["init_from"])
    needed.take_lease()

    def elsewhere(seconds: float) -> None:
        fake.end(needed.id, "done")
        needed.drop_lease()

    monkeypatch.setattr("gfl_lab.orchestrate.needs.time.sleep", elsewhere)
    waiting = pending(plan, fake)
    assert needed.id not in {trial.id for trial in waiting}
    assert run(fake, [trial for trial in waiting if trial.id == other.id]) == [other.id]


def test_what_only_finished_trials_need_is_not_trained_and_what_unfinished_ones_need_is_kept(chain: tuple[Plan, FakeTree]) -> None:
    plan, fake = chain
    tuned = plan.trials[1]
    needed = required_by([tuned], plan.all_trials)
    for trial in needed:
        fake.end(trial, "done")
    assert needed_by_others(fake.tree) == {tuned.spec.needs["init_from"], plan.trials[2].spec.needs["init_from"]}
    shutil.rmtree(fake.tree.root)
    for trial in plan.trials:
        fake.end(trial.id, "done")
    assert pending(plan, fake) == [] and needed_by_others(fake.tree) == set()


# --- weights --------------------------------------------------------------------------------------


def detector(classes: int = 3, **settings: object) -> torch.nn.Module:
    return build_detector(Settings.model_validate(SMALL | settings), classes)


def needed(tmp_path: Path, model: torch.nn.Module) -> NeededTrial:
    spec = TrialSpec(settings=Settings(), data=DATA, seed=0, code=1)
    return NeededTrial(RunTree(tmp_path).trial(spec.id), spec, FinalWeights(model.state_dict(), 1, 1, {}))


def test_all_weights_whose_names_and_shapes_fit_are_taken_and_the_others_are_listed(tmp_path: Path) -> None:
    donor, model = detector(classes=5, reg_max=8, bin_width=2.0), detector(bin_width=1.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = start_from(model, needed(tmp_path, donor))
    after, given = model.state_dict(), donor.state_dict()
    apart = {
        name
        for name, value in before.items()
        if torch.equal(after[name], value) and not (name in given and torch.equal(given[name], value))
    }
    assert apart == {f"bbox_head.{layer}.{part}" for layer in ("gfl_cls", "gfl_reg") for part in ("weight", "bias")} | {
        "bbox_head.integral.project"
    }
    assert all(torch.equal(after[name], given[name]) for name in after.keys() - apart)
    assert "these start anew: bbox_head.gfl_cls.weight (3, 16, 3, 3) there (5, 16, 3, 3)" in said
    total = len(after) - 1
    assert f"{total - 4} of {total} are taken" in said and "project" not in said


def test_the_positions_of_the_bins_are_the_trials_own(tmp_path: Path) -> None:
    donor, model = detector(bin_width=2.0), detector()
    donor.bbox_head.integral.project += 100
    assert "start anew" not in start_from(model, needed(tmp_path, donor))
    assert model.bbox_head.integral.project.tolist() == list(range(17))


def test_weights_of_which_none_fits_are_refused(tmp_path: Path) -> None:
    donor = needed(tmp_path, torch.nn.Linear(2, 2))
    with pytest.raises(NeededTrialMissing, match="no weight of trial .* fits"):
        start_from(detector(), donor)


@pytest.mark.slow
def test_a_trial_starts_from_the_final_average_of_another_and_goes_on_without_it(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = RunTree(tmp_path)
    first = train(tree, shapes, epochs=1, ema_decay=0.5)
    state = load_safely(first.file(naming.LAST_CHECKPOINT))["state_dict"]
    spec = first.manifest().spec
    tuned = spec.model_copy(
        update={"settings": Settings(**given_values(spec.settings) | {"ema_decay": 0.0, "lr": 1e-9}), "needs": {"init_from": first.id}}
    )
    paths = first.manifest().paths.to_json()
    folder = tree.trial(tuned.id)
    write_json(folder.file(naming.MANIFEST), {"format": 1, "trial": tuned.id, "spec": tuned.model_dump(mode="json"), "paths": paths})
    run_trial(folder.path)
    assert raw_result(folder)["status"] == "done"
    assert f"it starts from the weights of trial {first.id}: " in folder.file(naming.LOG).read_text()
    own = load_safely(folder.file(naming.LAST_CHECKPOINT))["state_dict"]
    assert torch.allclose(own["bbox_head.gfl_cls.weight"], state["bbox_head.gfl_cls.weight"], atol=1e-6), "lr is next to nothing"
    # without the other one: a fresh trial fails with its name, one that has a checkpoint goes on
    shutil.rmtree(first.path)
    folder.file(naming.RESULT).unlink()
    checkpoint = folder.file(naming.LAST_CHECKPOINT)
    run_trial(folder.path)
    assert raw_result(folder)["status"] == "done"
    for file in (folder.file(naming.RESULT), checkpoint):
        file.unlink()
    run_trial(folder.path)
    failure = raw_result(folder)["failure"]
    assert failure["kind"] == "needed_trial" and f"it needs trial {first.id} (init_from), whose weights cannot be used" in failure["reason"]


def test_plan_and_status_show_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nprofile: smoke\nvariants: {scratch: {}, tuned: {init_from: {reg_max: 8}}}\n")
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    cli = runner(monkeypatch, capsys)
    code, out, err = cli("plan", path)
    assert code == 0 and "init_from: reg_max=8  seed 0" in out and "(for 1 trial)" in out and "3 of 3 trials to train" in err
    found = json.loads(cli("plan", path, "--json")[1])
    (needed_row,), (scratch, tuned) = found["needed"], found["rows"]
    assert tuned["needs"] == {"init_from": needed_row["trial"]} and needed_row["needed_by"] == [tuned["trial"]] and scratch["needs"] == {}


# --- distillation ---------------------------------------------------------------------------------


def test_a_teacher_is_needed_only_where_something_is_learned_from_it() -> None:
    plan = planned(axes={"distillation": ["none", "ld", "kd"]}, overrides={"backbone": "r18", "teacher": {"backbone": "r34"}})
    (teacher,) = plan.needed
    assert teacher.name == "backbone=r34" and teacher.roles == ("teacher",) and teacher.trial.spec.settings.distillation == "none"
    none, ld, kd = plan.trials
    assert none.spec.needs == {} and ld.spec.needs == kd.spec.needs == {"teacher": teacher.trial.id}
    assert none.id == planned(variants={"small": {"backbone": "r18"}}).trials[0].id, "as without a teacher"
    assert len({none.id, ld.id, kd.id}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation": "ld"}, "distillation: ld learns from a teacher, and there is none; give one"),
        ({"distillation": "ld", "teacher": {"reg_max": 8}}, "compares bin by bin, and reg_max is 8 in the teacher and 16 in the student"),
        (
            {"distillation": "ld", "bins": "weighted", "teacher": {"bins": "weighted", "anchor_scale": 4.0}},
            "compares bin by bin, and anchor_scale is 4.0 in the teacher and 8.0 in the student",
        ),
        ({"distillation": "ld", "teacher": {"dfl": False}}, "compares the distributions of general boxes, and the teacher has box: dirac"),
        ({"distillation": "kd", "teacher": {"strides": [8, 16, 32]}}, "the teacher has strides [8, 16, 32]"),
        ({"distillation": "kd", "teacher": {"seed": 1, "distillation": "ld"}}, "distillation: ld learns from a teacher, and there is none"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_at_planning(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as found:
        planned(variants={"student": settings})
    assert message in str(found.value) and "variant student" in str(found.value)


def test_class_scores_of_one_class_teach_nothing() -> None:
    one = DATA.model_copy(update={"classes": ("a",)})
    with pytest.raises(SpecError, match="mine has one class: variant student would learn nothing"):
        build_plan(experiment(variants={"student": {"distillation": "kd", "teacher": {"epochs": 2}}}), PROFILE, one)


def test_the_divergence_is_mmdets_and_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdet.models.losses import KnowledgeDistillationKLDivLoss

    student, teacher = torch.randn(7, 17, requires_grad=True), torch.randn(7, 17)
    ours = softened_divergence(student, teacher, 10.0)
    stock = KnowledgeDistillationKLDivLoss(reduction="none", loss_weight=1.0, T=10)(student, teacher)
    assert torch.allclose(ours, stock, atol=1e-6)
    # two bins at T = 1: q = (1/2, 1/2), p = (1/4, 3/4): KL = (ln 2 + ln(2/3)) / 2, halved by the mean over bins
    by_hand = (math.log(2) + math.log(2 / 3)) / 4
    assert softened_divergence(torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2), 1.0).item() == pytest.approx(by_hand)
    assert softened_divergence(teacher, teacher, 3.0).abs().max() < 1e-6, "nothing is learned from oneself"


def batch(classes: int = 3) -> tuple[torch.Tensor, list[DetDataSample]]:
    boxes = torch.tensor([[10.0, 12.0, 60.0, 70.0], [50.0, 40.0, 110.0, 100.0]])
    sample = DetDataSample(metainfo={"pad_shape": (128, 128), "img_shape": (128, 128), "batch_input_shape": (128, 128)})
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, classes - 1]))
    return torch.randn(1, 3, 128, 128), [sample]


@pytest.mark.parametrize("padded", [False, True])
def test_ld_is_that_of_mmdets_ld_head(monkeypatch: pytest.MonkeyPatch, padded: bool) -> None:
    """With the weights of a GFL head copied, loss_ld of mmdet's LDHead, summed over its levels, and all other losses."""
    from mmdet.models.dense_heads import LDHead

    monkeypatch.setattr("gfl_lab.detector.positives.ALWAYS_PADDED", padded)
    torch.manual_seed(0)
    student, teacher = detector(), detector(head_convs=2)
    images, samples = batch()
    torch.nn.init.constant_(student.bbox_head.gfl_cls.bias, 2.0)  # the weights sum to more than 1, below which GFLHead and LDHead differ
    config = {"type": "ATSSAssigner", "topk": 9}
    stock = LDHead(
        3, 16, feat_channels=16, stacked_convs=1, norm_cfg={"type": "GN", "num_groups": 2, "requires_grad": True}, reg_max=16,
        anchor_generator={"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1, "strides": [8, 16, 32]},
        loss_cls={"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0}, loss_bbox={"type": "GIoULoss", "loss_weight": 2.0},
        loss_dfl={"type": "DistributionFocalLoss", "loss_weight": 0.25}, loss_ld={"type": "KnowledgeDistillationKLDivLoss", "loss_weight": 0.25, "T": 10},
        train_cfg=ConfigDict(assigner=config, allowed_border=-1, pos_weight=-1, debug=False),
    )  # fmt: skip
    stock.load_state_dict(student.bbox_head.state_dict())
    learner = Distillation(teacher, "ld", 10.0, 0.25)
    student.bbox_head.distillation = learner
    learner.look(images)
    maps = student.extract_feat(images)
    ours = student.bbox_head.loss(maps, samples)
    theirs = stock.loss(maps, teacher.bbox_head(teacher.extract_feat(images)), samples)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(sum(value).item(), abs=1e-5), name
    assert ours["loss_ld"].item() > 0


def test_kd_averages_over_the_positives() -> None:
    student = torch.randn(1, 3, 2, 2, requires_grad=True)
    teacher = torch.randn(1, 3, 2, 2)
    at = JoinedPositives(torch.tensor([0, 0]), torch.tensor([1, 2]))
    learner = Distillation(torch.nn.Identity(), "kd", 2.0, 10.0)
    learner._logits = [teacher]
    (name, value), *_ = learner.terms(at, [student], [], torch.ones(2), torch.tensor(2.0)).items()
    pairs = [(student[0, :, y, x], teacher[0, :, y, x]) for y, x in ((0, 1), (1, 0))]
    assert name == "loss_kd"
    assert float(value) == pytest.approx(10 * float(sum(softened_divergence(s[None], t[None], 2.0) for s, t in pairs)) / 2, rel=1e-5)


def test_a_teacher_is_in_no_state_dict_stays_as_it_is_and_sees_the_students_images(tmp_path: Path) -> None:
    settings = completed(
        Settings.model_validate(SMALL | {"distillation": "ld", "teacher": {"head_convs": 2}}), lambda own: Settings(**SMALL | own)
    )
    model = MODELS.build({**model_config(settings, 3), "type": "TrialDetector"})
    names, parameters = set(model.state_dict()), sum(1 for _ in model.parameters())
    donor = detector(head_convs=2)
    learn_from(model, settings, needed(tmp_path, donor))
    teacher = model.bbox_head.distillation.teacher
    assert set(model.state_dict()) == names and sum(1 for _ in model.parameters()) == parameters
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert all(torch.equal(value, donor.state_dict()[name]) for name, value in before.items())
    model.train()
    for _ in range(2):
        losses = model.loss(*batch())
        sum(value for value in losses.values()).backward()
    assert "loss_ld" in losses and not teacher.training and not any(value.requires_grad for value in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model.loss(*batch())["loss_ld"])


@pytest.mark.slow
def test_an_interrupted_student_ends_with_the_numbers_of_an_undisturbed_one(tmp_path: Path, shapes: Path) -> None:
    trees = [RunTree(tmp_path / name) for name in ("whole", "stopped")]
    own = {"epochs": 1, "distillation": "ld", "ld_region": "main_and_vlr", "ema_decay": 0.5, "precision": "bfloat16"}
    ends = []
    for tree, stop in zip(trees, (False, True), strict=True):
        teacher = train(tree, shapes, epochs=1)
        spec = teacher.manifest().spec
        settings = completed(
            Settings(**given_values(spec.settings) | own | {"teacher": {"seed": 0}}),
            lambda given, base=spec.settings: Settings(**given_values(base) | given),
        )
        student = spec.model_copy(update={"settings": settings, "needs": {"teacher": teacher.id}, "seed": 3})
        folder = tree.trial(student.id)
        paths = teacher.manifest().paths.to_json()
        write_json(
            folder.file(naming.MANIFEST), {"format": 1, "trial": student.id, "spec": student.model_dump(mode="json"), "paths": paths}
        )
        if stop:
            with pytest.raises(Interrupted):
                run_trial(folder.path, should_stop=iter([False, True, True, True]).__next__)
        run_trial(folder.path)
        assert raw_result(folder)["status"] == "done", raw_result(folder)
        ends.append(folder)
    states = [load_safely(folder.file(naming.LAST_CHECKPOINT))["state_dict"] for folder in ends]
    assert ends[0].id == ends[1].id and all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert {"loss_ld", "loss_ld_vlr"} <= set(ends[1].metric_lines()[0].metrics)
    again = reproduce(trees[0], ends[0].id, None, lambda line: None)
    assert isinstance(again, Reproduction) and again.exact, "from its manifest and the weights of its teacher"
