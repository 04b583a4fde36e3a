"""Old names of settings and keys: YAML with a warning, stored files silently, and no id that changes."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from gfl_lab import naming
from gfl_lab.errors import SpecError
from gfl_lab.plan.plan import Plan, build_plan
from gfl_lab.plan.search import corners, definition_of
from gfl_lab.records.search import SearchFile
from gfl_lab.records.table_lock import TableLock
from gfl_lab.report.lock import deviations
from gfl_lab.spec import renames
from gfl_lab.spec.file_models import ExperimentFile, Resources
from gfl_lab.spec.files import load_experiment, load_profile, load_published
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.trial import ComponentFile, DataSpec, TrialSpec, computed

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FIRST = json.loads((Path(__file__).parent / "data" / "first_edition_ids.json").read_text())
DATA = DataSpec(name="shapes", digest="0" * 16, classes=("a", "b"), train_images=100, val_images=20, truth=True)
COCO = DataSpec(name="coco", digest="1" * 16, classes=tuple(map(str, range(80))), train_images=117_266, val_images=5000)


def shipped_plan(name: str, profile_name: str) -> tuple[ExperimentFile, Plan]:
    experiment, source = load_experiment(EXPERIMENTS / f"{name}.yaml")
    profile = load_profile(EXPERIMENTS / "profiles" / f"{profile_name}.yaml")
    if experiment.kind == "search":
        experiment = experiment.model_copy(update={"variants": corners(experiment, profile, source)})
    return experiment, build_plan(experiment, profile, COCO if profile_name == "coco_1x" else DATA)


@pytest.mark.parametrize("key", FIRST["plans"])
def test_plans_of_shipped_experiments_have_the_ids_that_they_always_had(key: str) -> None:
    recorded = FIRST["plans"][key]
    experiment, plan = shipped_plan(*key.split(" "))
    ids = [trial.id for trial in plan.trials]
    assert (ids if isinstance(recorded["ids"], list) else naming.digest(ids)) == recorded["ids"]
    assert naming.digest([trial.spec.training_id for trial in plan.trials]) == recorded["trainings"]
    if experiment.kind == "search":
        assert SearchFile(definition_of(experiment, plan), 1, "").digest == recorded["digest"]


def test_settings_under_either_name_have_the_id_that_they_always_had() -> None:
    assert set(renames.SETTINGS) <= {key for recorded in FIRST["settings"] for key in recorded["given"]}, "each of them is tried"
    known = {key for recorded in FIRST["settings"] for key in (*recorded["given"], *recorded["inactive"])}  # later settings are left out
    for recorded in FIRST["settings"]:
        components = (ComponentFile(name="c.py", digest="ab" * 8),) if recorded["components"] else ()
        for given in (recorded["given"], renames.current(recorded["given"])):
            settings = Settings(**given)
            spec = TrialSpec(
                settings=settings, data=DATA if recorded["truth"] else COCO, seed=recorded["seed"], code=1,
                weights_digest=recorded["weights_digest"], components=components,
            )  # fmt: skip
            assert (spec.id, spec.training_id) == (recorded["id"], recorded["training_id"]), given
            assert sorted(known & renames.first_edition(inactive(settings)).keys()) == recorded["inactive"], given
            assert naming.digest(renames.first_edition(computed(settings))) == recorded["computed"], given


def test_new_names_are_fields_and_old_ones_are_not() -> None:
    for table, model in ((renames.SETTINGS, Settings), (renames.EXPERIMENT_KEYS, ExperimentFile), (renames.RESOURCE_KEYS, Resources)):
        assert set(table.values()) <= set(model.model_fields) and not set(table) & set(model.model_fields)
        assert len(set(table.values())) == len(table)


OLD = """name: old
profile: mine
axes:
  ema: [0.0, 0.9]
  dfl: [false, true]
when:
  ema: {dfl: true}
set:
  lr_batch: 8
  flip: 0.0
reference: gfl_t3_qfl_dfl
table: {rows: [ema, dfl]}
"""
NEW = (
    OLD.replace("ema:", "ema_decay:")
    .replace("[ema,", "[ema_decay,")
    .replace("set:", "overrides:")
    .replace("reference:", "published_table:")
)
NEW = NEW.replace("lr_batch", "base_batch_size").replace("flip", "flip_prob")


def load(folder: Path, text: str) -> tuple[ExperimentFile, list[str]]:
    path = folder / "old.yaml"
    path.write_text(text)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        experiment, _ = load_experiment(path)
    return experiment, [str(each.message) for each in found if issubclass(each.category, renames.RenamedKeyWarning)]


def test_an_experiment_with_old_names_is_the_same_and_each_name_is_one_warning(tmp_path: Path) -> None:
    old, told = load(tmp_path, OLD)
    new, quiet = load(tmp_path, NEW)
    assert old == new and not quiet
    assert sorted(told) == [
        "old.yaml:10: overrides.flip: 'flip' is now called 'flip_prob'",
        "old.yaml:11: reference: 'reference' is now called 'published_table'",
        "old.yaml:4: axes.ema: 'ema' is now called 'ema_decay'",
        "old.yaml:8: set: 'set' is now called 'overrides'",
        "old.yaml:9: overrides.lr_batch: 'lr_batch' is now called 'base_batch_size'",
    ]


def test_old_names_in_named_variants_searches_profiles_and_published_tables(tmp_path: Path) -> None:
    experiment, told = load(
        tmp_path, "name: old\nprofile: desk\ncode: []\narms:\n  a: {box_weight: 1.0}\n  b: {dirac_coder: distance}\nbaseline: a\n"
    )
    assert experiment.variants == {"a": {"box_loss_weight": 1.0}, "b": {"bbox_coder": "distance"}} and len(told) == 4
    experiment, told = load(tmp_path, "name: old\nprofile: desk\nkind: search\nsearch: {trials: 2, space: {ema: {low: 0.1, high: 0.9}}}\n")
    assert experiment.search and list(experiment.search.space) == ["ema_decay"] and len(told) == 1
    profile = tmp_path / "mine.yaml"
    profile.write_text("name: mine\ntitle: t\ndata: required\nsettings: {weights: random}\nresources: {pack: true}\n")
    with pytest.warns(renames.RenamedKeyWarning, match=r"mine.yaml:\d: (settings.weights|resources.pack)"):
        found = load_profile(profile)
    assert found.settings == {"init_weights": "random"} and found.resources.gpu_packing
    (tmp_path / "t.yaml").write_text(
        "id: t\ntitle: t\nsource: s\nsplit: p\nsettings: {weights: random}\nrows:\n  - {name: r, settings: {bias_lr: 2.0}, metrics: {}}\n"
    )
    with pytest.warns(renames.RenamedKeyWarning, match="bias_lr"):
        assert load_published("t", [tmp_path]).rows[0].settings == {"bias_lr_mult": 2.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            OLD.replace("  flip: 0.0", "  flip: 0.0\n  flip_prob: 0.5"),
            ["old.yaml:10", "'flip' is the old name of 'flip_prob'", "Keep 'flip_prob'"],
        ),
        (OLD + "overrides: {lr: 0.1}\n", ["old.yaml:8: set", "'set' is the old name of 'overrides'"]),
        (OLD.replace("flip: 0.0", "flip: 7.0"), ["old.yaml:10", "flip_prob is 7.0"]),
    ],
)
def test_both_names_are_an_error_and_problems_keep_their_lines(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(text)
    with pytest.warns(renames.RenamedKeyWarning), pytest.raises(SpecError) as error:
        load_experiment(path)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_both_names_in_stored_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="ema and ema_decay"):
        Settings(**{"ema": 0.5, "ema_decay": 0.5})


def first_plan() -> dict[str, Any]:
    return {
        "experiment": {"axes": {"ema": [0.0, 0.9]}, "declared": ["ema"], "baseline": {"ema": 0.0}},
        "variants": [{"name": "ema=0.9", "axes": {"ema": 0.9}, "settings": {"ema": 0.9, "lr": 0.1}}],
    }


def test_a_stored_plan_is_read_under_the_new_names() -> None:
    assert renames.upgrade_plan(first_plan()) == {
        "experiment": {"axes": {"ema_decay": [0.0, 0.9]}, "declared": ["ema_decay"], "baseline": {"ema_decay": 0.0}},
        "variants": [{"name": "ema_decay=0.9", "axes": {"ema_decay": 0.9}, "settings": {"ema_decay": 0.9, "lr": 0.1}}],
    }
    named = {"variants": [{"name": "ema=0.9", "axes": {"arm": "ema=0.9"}, "settings": {}}]}
    assert renames.upgrade_plan(named)["variants"][0]["name"] == "ema=0.9", "a name that the user gave"
    for damaged in (
        {},
        {"experiment": 3, "variants": {}},
        {"variants": [1, {"axes": None}]},
        {"experiment": {"axes": {"ema": 1, "ema_decay": 1}}},
    ):
        assert renames.upgrade_plan(damaged) is damaged


def test_a_stored_search_goes_on_under_the_new_names() -> None:
    stored = {
        "definition": {"space": {"ema": [0.0, 0.9]}, "settings": {"lr_batch": 8}}, "trials": 1, "created": "", "sampler": {}, "exhausted": False,
        "suggestions": [],
    }  # fmt: skip
    ledger = SearchFile.from_json(renames.upgrade_search(stored))
    assert ledger.definition == {"space": {"ema_decay": [0.0, 0.9]}, "settings": {"base_batch_size": 8}}
    assert ledger.digest == naming.digest({"space": {"ema": [0.0, 0.9]}, "settings": {"lr_batch": 8}}, 16)


def test_a_lock_file_with_an_old_name_of_a_variant_still_holds() -> None:
    head = {"experiment": "x", "profile": "p", "data": {"digest": "d"}, "trials": {}}
    row = {"metrics": {"AP": {"mean": 1.0}}, "delta": {}}

    def lock(variant: str) -> TableLock:
        return TableLock.from_json(head | {"rows": {variant: row}})

    assert deviations(lock("ema=0.9 dfl=on"), lock("ema_decay=0.9 dfl=on")) == []
    assert len(deviations(lock("ema=0.8"), lock("ema_decay=0.9"))) == 1


def test_the_docs_list_every_old_name() -> None:
    text = (EXPERIMENTS.parent / "docs" / "experiment-files.md").read_text()
    listed = re.findall(r"^\| `(\w+)`(?: \(\w+\))? \| `(\w+)` \|$", text, re.MULTILINE)
    assert dict(listed) == {**renames.SETTINGS, **renames.EXPERIMENT_KEYS, **renames.RESOURCE_KEYS}
