"""The experiment files and profiles that gfl-lab brings along: valid, plannable anywhere, and what they claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gfl_lab import naming
from gfl_lab.cli.main import main
from gfl_lab.plan.plan import Plan, PlanInputs, build_plan
from gfl_lab.spec.file_models import UntilResolved
from gfl_lab.spec.files import load_experiment, load_profile, load_published, resolve_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import DataSpec

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = [path for path in sorted(EXPERIMENTS.glob("*.yaml")) if load_experiment(path)[0].kind == "ablation"]
PROFILES = {path.stem: load_profile(path) for path in sorted((EXPERIMENTS / "profiles").glob("*.yaml"))}
TABLES = [path.stem for path in sorted((EXPERIMENTS / "published").glob("*.yaml"))]
COCO = DataSpec(name="coco", digest="1" * 16, classes=tuple(map(str, range(80))), train_images=117_266, val_images=5000)

SIZES = {"epochs", "image_size", "pad_to", "strides", "base_channels", "neck_channels", "head_channels", "head_convs", "warmup_iters"}
"""Settings that belong to a profile alone: an experiment that set one of these would break, or not shrink, under another profile."""


def plan_of(name: str, profile: str | None = None) -> Plan:
    experiment, _ = load_experiment(EXPERIMENTS / f"{name}.yaml")
    published = load_published(experiment.published_table, [EXPERIMENTS / "published"]) if experiment.published_table else None
    return build_plan(experiment, PROFILES[profile or experiment.profile], COCO, PlanInputs(published=published))


def test_the_published_tables_have_an_experiment_each_as_far_as_they_can_be_run() -> None:
    referenced = [load_experiment(path)[0].published_table for path in FILES]
    named = [reference for reference in referenced if reference]
    runnable = {table for table in TABLES if any(not row.why_not for row in load_published(table, [EXPERIMENTS / "published"]).rows)}
    assert set(named) == runnable


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_plans_under_every_profile(path: Path) -> None:
    experiment, _ = load_experiment(path)
    assert experiment.name == path.stem and experiment.question.endswith("?") and experiment.baseline is not None
    shapes = set()
    for profile in PROFILES:
        plan = plan_of(path.stem, profile)
        assert [variant.baseline for variant in plan.variants].count(True) == 1
        assert len(plan.trials) == len(plan.variants) * len(experiment.first_seeds)
        shapes.add(tuple(variant.name for variant in plan.variants))
    assert len(shapes) == 1, "the same variants under every profile"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_leaves_sizes_to_its_profile(path: Path) -> None:
    experiment, _ = load_experiment(path)
    given = set(experiment.axes) | set(experiment.overrides)
    for variant in experiment.variants.values():
        needs_512 = str(variant.get("detector", "")).startswith("mmdet:ssd512")  # it cannot run on less
        given |= variant.keys() - ({"image_size"} if needs_512 else set())
    if path.stem == "detectors":  # mmdet's heads have these in every profile
        given -= {"head_convs", "strides"}
    assert not given & SIZES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_variants_differ_from_the_papers_gfl_in_nothing_unsaid(path: Path) -> None:
    """Under the paper's profile, what neither the experiment nor the profile names is at its default."""
    experiment, _ = load_experiment(path)
    said = (
        set(PROFILES["coco_1x"].settings)
        | set(experiment.axes)
        | set(experiment.overrides)
        | {"qfl", "quality", "dfl", "box", "box_weighting", "cfg_options"}
    )
    said |= {key.partition(".")[0] for variant in experiment.variants.values() for key in variant}
    default = Settings()
    for variant in plan_of(path.stem, "coco_1x").variants:
        assert {key for key in Settings.model_fields if getattr(variant.settings, key) != getattr(default, key)} <= said


def test_desk_experiments_repeat_with_seeds() -> None:
    for path in FILES:
        experiment, _ = load_experiment(path)
        if experiment.profile == "desk" and path.stem != "table3_qfl_dfl":  # the first one that people run
            assert experiment.seeds == [0, 1, 2] or isinstance(experiment.seeds, UntilResolved), path.name


def test_experiments_that_are_there_for_box_distributions_show_them() -> None:
    for name in ("table2a_box", "table2b_reg_max", "table2c_bin_width", "box_losses", "dfl_weight"):
        assert set(naming.TRUTH_METRICS) <= set(load_experiment(EXPERIMENTS / f"{name}.yaml")[0].table.metrics)


@pytest.mark.parametrize(
    ("part", "wholes"),
    [
        ("figure8_speed", ["table4_backbones"]),
        ("gflv2_speed", ["gflv2_test_dev"]),
        ("tood_table5", ["table4_backbones", "gflv2_test_dev"]),
        ("tood_table2", ["table1a_quality"]),
        ("tood_table6", ["table1a_quality"]),
        ("gflv2_efficiency", ["gflv2_input_statistics"]),
    ],
)
def test_the_same_cell_in_two_tables_is_one_trial(part: str, wholes: list[str]) -> None:
    whole = {trial.id for name in wholes for trial in plan_of(name, "coco_1x").trials}
    assert {trial.id for trial in plan_of(part, "coco_1x").trials} <= whole


def test_smoke_shrinks_sizes_and_nothing_else() -> None:
    paper, smoke = (resolve_settings(PROFILES[name].settings) for name in ("coco_1x", "smoke"))
    changed = {key for key in Settings.model_fields if getattr(paper, key) != getattr(smoke, key)}
    assert changed <= SIZES | {"batch_size", "base_batch_size", "init_weights", "frozen_stages", "norm_eval"}
    assert smoke.init_weights == "random", "nothing is downloaded"
    assert smoke.strides == paper.strides
    smallest = smoke.image_size[1] * 0.6  # the smallest scale of the published ranges
    assert -(-smallest // smoke.pad_to) * smoke.pad_to >= 3 * 32, "the coarsest backbone stage is at least a 3x3 kernel wide"


def test_every_profile_says_for_which_batch_its_learning_rate_is() -> None:
    for profile in PROFILES.values():
        assert profile.settings["base_batch_size"] == profile.settings["batch_size"], profile.name


def test_a_profile_reproduces_what_it_says() -> None:
    claims = [profile for profile in PROFILES.values() if profile.reproduces]
    assert [profile.name for profile in claims] == ["coco_1x"]
    for profile in claims:
        tables = [load_published(table, [EXPERIMENTS / "published"]) for table in TABLES]
        tables = [table for table in tables if table.training == profile.reproduces and table.settings and "recipe" not in table.settings]
        assert tables
        own = resolve_settings(profile.settings)
        for table in tables:
            shared = resolve_settings(table.settings)
            assert own == shared, table.id


def test_the_command_line_plans_under_smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gfl-lab", "plan", str(EXPERIMENTS / "zoo_vit_adapter.yaml"), "--profile", "smoke"])
    main()
    out, err = capsys.readouterr()
    assert out.startswith("ATSS ") and "\nGFL " in out and "2 of 2 trials to train" in err
