"""Components of a user's own: from a file beside the experiment to a trained trial, without a change to gfl-lab."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.detector.build import build_detector
from gfl_lab.errors import InputError, Interrupted, SpecError, StoreError
from gfl_lab.orchestrate import resources
from gfl_lab.orchestrate.driver import write_manifests
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.session.inputs import read_files
from gfl_lab.session.mmdet_variants import announce_detectors
from gfl_lab.session.planning import PlanOptions, Prepared, prepare
from gfl_lab.setup import components
from gfl_lab.spec.code import CodeFile, class_names
from gfl_lab.spec.files import load_experiment
from gfl_lab.spec.registered import mmdet_classes
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TrialSpec
from gfl_lab.train.trial import run_trial
from tests.support.cli import Cli, runner
from tests.support.heads import THREE, batch, feats, make_head, metas, samples
from tests.support.raw import raw_manifest, raw_result

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "experiments" / "examples"
DOCS = (ROOT / "docs" / "extending.md").read_text()

PROFILE = """
name: tiny
title: as small as a trial can be
data: {train_images: 8, val_images: 8, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 4, frozen_stages: -1, norm_eval: false, neck_channels: 8, head_channels: 8, head_convs: 1,
  strides: [8, 16], reg_max: 4, epochs: 2, batch_size: 4, lr: 0.001, warmup_iters: 0, image_size: [64, 64]}
"""
LOSS = """
from mmdet.registry import MODELS
from torch import nn

@MODELS.register_module()
class OwnLoss(nn.Module):
    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, boxes, targets, weight, avg_factor):
        return self.factor * ((boxes - targets).abs().mean(1) * weight).sum() / avg_factor
"""
AXES = "axes: {box_loss: [giou, OwnLoss]}\nbaseline: {box_loss: giou}\n"


@pytest.fixture(autouse=True)
def _no_component_stays() -> Iterator[None]:
    yield
    components.load([])


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(resources, "_gpus", lambda: ())
    return runner(monkeypatch, capsys)


def write(folder: Path, text: str = AXES, **files: str) -> Path:
    """An experiment of profile ``tiny`` whose code is ``files``: ``own=...`` is own.py."""
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    (folder / "profiles" / "tiny.yaml").write_text(PROFILE)
    for name, content in files.items():
        (folder / f"{name}.py").write_text(content)
    code = f"custom_imports: [{', '.join(f'{name}.py' for name in files)}]\n" if files else ""
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\nprofile: tiny\n{code}{text}")
    return path


def planned(path: Path, tree: RunTree, say: Callable[[str], None] = lambda _: None) -> Prepared:
    return prepare(read_files(path, None), tree, PlanOptions(), say)


def ids(path: Path, tree: RunTree) -> dict[str, str]:
    return {variant.name: variant.trials[0].id for variant in planned(path, tree).plan.variants}


def file_of(path: Path, text: str) -> CodeFile:
    return CodeFile(path, text.encode())


# --- the experiment file --------------------------------------------------------------------------


def test_everything_wrong_with_the_files_is_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name, text in {"good.py": "", "bad.py": "x = 1\ny = = 2\n", "other/good.py": "", "notes.txt": ""}.items():
        (tmp_path / name).write_text(text)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nprofile: desk\ncustom_imports:\n  - good.py\n  - gone.py\n  - notes.txt\n  - bad.py\n  - other/good.py\n  - other\n  - sub dir.py\naxes: {dfl: [true]}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_experiment(path)
    found = [(problem.place, problem.message) for problem in caught.value.problems]
    assert sorted(place for place, _ in found) == sorted(
        [
            "mine.yaml:5: custom_imports.1",
            "mine.yaml:6: custom_imports.2",
            "bad.py:2",
            "mine.yaml:8: custom_imports.4",
            "mine.yaml:9: custom_imports.5",
            "mine.yaml:10: custom_imports.6",
        ]
    )
    told = dict(found)
    assert "gone.py does not exist" in told["mine.yaml:5: custom_imports.1"] and "not valid Python" in told["bad.py:2"]
    assert "two files of `custom_imports` are called good.py" in told["mine.yaml:8: custom_imports.4"]


def test_entries_must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nprofile: desk\ncustom_imports: [1]\naxes: {dfl: [true]}\n")
    with pytest.raises(SpecError, match="custom_imports.0 is 1: must be text"):
        load_experiment(path)


@pytest.mark.parametrize("value", [".nan", "[.inf]"])
def test_arguments_must_survive_the_manifest(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.yaml"
    for text in (
        f"overrides: {{component_args: {{head: {{a: {value}}}}}}}\naxes: {{dfl: [true]}}",
        f"axes: {{component_args: [{{head: {{a: {value}}}}}]}}",
    ):
        path.write_text(f"name: mine\nprofile: desk\n{text}\n")
        with pytest.raises(SpecError, match="component_args holds what a trial's manifest cannot"):
            load_experiment(path)


def test_dates_and_keys_in_arguments_are_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nprofile: desk\noverrides: {component_args: {head: {a: 2026-11-21, b: {1: 2}}}}\naxes: {dfl: [true]}\n")
    assert load_experiment(path)[0].overrides["component_args"] == {"head": {"a": "2026-11-21", "b": {"1": 2}}}


def test_names_of_classes_are_found_in_settings_and_deep_in_arguments() -> None:
    assert class_names(Settings()) == set()
    settings = Settings(box_loss="OwnLoss", component_args={"head": {"parts": [{"type": "mmdet.OwnNorm"}], "n": 3}})
    assert class_names(settings) == {"OwnLoss", "OwnNorm"}


def test_a_dict_is_shown_as_people_write_it() -> None:
    assert (
        naming.setting_text({"head": {"temperature": 2.0, "on": True, "sides": [1, 2]}})
        == "{head: {temperature: 2, on: on, sides: [1, 2]}}"
    )


# --- ids ------------------------------------------------------------------------------------------


def test_ids_follow_the_content_of_the_files_and_only_of_variants_that_use_them(tmp_path: Path) -> None:
    tree = RunTree(tmp_path / "runs")
    first = ids(write(tmp_path, own=LOSS), tree)
    plain = ids(write(tmp_path, "axes: {box_loss: [giou]}\n"), tree)
    assert first["box_loss=giou"] == plain["box_loss=giou"]

    changed = ids(write(tmp_path, own=LOSS + "# a word\n"), tree)
    assert changed["box_loss=giou"] == first["box_loss=giou"] and changed["box_loss=OwnLoss"] != first["box_loss=OwnLoss"]
    assert ids(write(tmp_path, renamed=LOSS), tree) == first
    with_helper = ids(write(tmp_path, helper="# nothing", own=LOSS), tree)
    assert with_helper["box_loss=giou"] == first["box_loss=giou"] and with_helper["box_loss=OwnLoss"] != first["box_loss=OwnLoss"]
    assert ids(write(tmp_path, own=LOSS, helper="# nothing"), tree) == with_helper


def test_arguments_enter_the_id_where_a_component_takes_them(tmp_path: Path) -> None:
    tree = RunTree(tmp_path / "runs")
    without = ids(write(tmp_path, own=LOSS), tree)
    given = ids(write(tmp_path, AXES + "overrides: {component_args: {box_loss: {factor: 2.0}}}\n", own=LOSS), tree)
    assert given["box_loss=giou"] == without["box_loss=giou"] and given["box_loss=OwnLoss"] != without["box_loss=OwnLoss"]


def test_a_spec_without_components_keeps_its_id_and_its_form(tmp_path: Path) -> None:
    tree = RunTree(tmp_path / "runs")
    for variant in planned(write(tmp_path, own=LOSS), tree).plan.variants:
        spec = variant.trials[0].spec
        stored = spec.model_dump(mode="json")
        assert TrialSpec.model_validate(stored).id == spec.id
        if not spec.components:
            del stored["components"]  # as a manifest of an earlier version has it
            assert TrialSpec.model_validate(stored).id == spec.id


# --- refusals -------------------------------------------------------------------------------------

OLD_HEAD = """
from gfl_lab.detector.head import GFLFamilyHead
from mmdet.registry import MODELS

@MODELS.register_module()
class OldHead(GFLFamilyHead):
    def __init__(self, *args, reg_max=16, **kwargs):
        super().__init__(*args, reg_max=reg_max, **kwargs)
"""
HEAD_ARGUMENTS = "variants: {own: {component_args: {head: {%s}}}, gfl: {}}\n"


@pytest.mark.parametrize(
    ("text", "files", "words"),
    [
        (AXES, {"own": "def f(:\n"}, ["own.py:1", "not valid Python"]),
        (AXES, {"own": "\nimport nowhere_at_all\n"}, ["own.py:2", "ModuleNotFoundError: No module named 'nowhere_at_all'"]),
        (AXES, {"own": LOSS + "\ndef f():\n    return 1 / 0\nf()\n"}, ["own.py:15", "ZeroDivisionError: division by zero"]),
        (AXES, {"own": "raise SystemExit(0)"}, ["own.py:1", "SystemExit"]),
        (AXES, {"own": LOSS, "again": LOSS + "#"}, ["again.py:5", "OwnLoss is already registered in model by own.py"]),
        (AXES, {"own": LOSS.replace("OwnLoss", "GIoULoss")}, ["own.py:5", "GIoULoss is already registered"]),
        (AXES, {"own": LOSS.replace("OwnLoss", "TrialDetector")}, ["own.py:5", "TrialDetector is already registered"]),
        (AXES, {"own": LOSS.replace("module()", "module(name='GIoULoss', force=True)")}, ["own.py", "replaces", "GIoULoss"]),
        (AXES, {"own": LOSS.replace("OwnLoss", "OwnLos")}, ["axes.box_loss.1", "not registered", "Did you mean 'OwnLos'?"]),
        (AXES, {}, ["axes.box_loss.1", "OwnLoss is not registered", "extending.md"]),
        (AXES, {"own": LOSS.replace("MODELS", "TASK_UTILS")}, ["registered in TASK_UTILS", "@MODELS.register_module()"]),
        ("axes: {head: [GFLFamilyHead, ATSSHead]}\n", {}, ["axes.head.1", "ATSSHead is no subclass of GFLFamilyHead"]),
        ("axes: {assigner: [ATSSAssigner, MaxIoUAssigner]}\n", {}, ["axes.assigner.1", "missing 2 required", "it takes: pos_iou_thr"]),
        (
            "axes: {backbone: [r18, RegNet]}\noverrides: {component_args: {backbone: {arch: regnetx_400mf}}}\n",
            {},
            ["axes.backbone.1", "out_channels"],
        ),
        (
            AXES + "overrides: {component_args: {box_loss: {faktor: 1}}}\n",
            {"own": LOSS},
            ["axes.box_loss.1", "'faktor'", "it takes: factor"],
        ),
        (
            AXES + "overrides: {component_args: {box_loss: {factor: x, type: Y}}}\n",
            {"own": LOSS},
            ["overrides.component_args", "the setting box_loss names"],
        ),
        (
            "axes: {dfl: [true]}\noverrides: {component_args: {box_loss: {factor: 1}}}\n",
            {},
            ["overrides.component_args", "no variant that has it names"],
        ),
        (HEAD_ARGUMENTS % "reg_max: 8", {}, ["variants.own.component_args", "component_args.head gives reg_max", "Give the setting"]),
        (HEAD_ARGUMENTS % "qfl_beta: 1", {}, ["variants.own.component_args", "component_args.head gives qfl_beta", "Give the setting"]),
        ("axes: {head: [GFLFamilyHead, OldHead]}\n", {"own": OLD_HEAD}, ["axes.head.1", "reg_max is now box.reg_max", "extending.md"]),
        (HEAD_ARGUMENTS % "temperature: 8", {}, ["'temperature'"]),
        ("axes: {dfl: [true]}\n", {"own": LOSS}, ["mine.yaml:3: custom_imports", "no variant uses the code: it registers OwnLoss"]),
        ("axes: {dfl: [true]}\n", {"own": ""}, ["no variant uses the code: it registers nothing"]),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(
    cli: Cli, tmp_path: Path, text: str, files: dict[str, str], words: list[str]
) -> None:
    code, out, err = cli("run", write(tmp_path, text, **files), "--executor", "inline")
    assert code == 2 and not out
    assert all(word in err for word in words), err
    assert not (tmp_path / "runs").exists()


def test_an_error_in_a_constructor_is_told_with_its_line(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("plan", write(tmp_path, own=LOSS.replace("self.factor = factor", "raise ValueError('no luck')")))
    assert code == 2 and "box_loss OwnLoss cannot be built (own.py:9): ValueError: no luck" in err


def test_what_mmdet_has_needs_no_code(tmp_path: Path) -> None:
    text = "axes: {box_loss: [giou, EIoULoss]}\noverrides: {assigner: MaxIoUAssigner, component_args: {assigner: {pos_iou_thr: 0.5, neg_iou_thr: 0.4}}}\n"
    lines: list[str] = []
    trials = planned(write(tmp_path, text), RunTree(tmp_path / "runs"), lines.append).plan.trials
    assert len(trials) == 2 and not any(trial.spec.components for trial in trials)
    assert lines[0] == "importing torch and mmdet to check EIoULoss and MaxIoUAssigner", "a line comes before the slow part"


def test_the_check_of_mmdets_detectors_is_announced() -> None:
    lines: list[str] = []
    for name in ("detectors", "table3_qfl_dfl"):
        announce_detectors(read_files(ROOT / "experiments" / f"{name}.yaml"), lines.append)
    assert lines == ["importing torch and mmdet to check 6 detectors of mmdet"]


def test_an_experiment_without_components_needs_no_torch(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("setup.components", "train.component_check"):
        monkeypatch.setitem(sys.modules, f"gfl_lab.{module}", None)  # an import would fail
    path = write(tmp_path, "axes: {dfl: [false, true]}\n")
    assert cli("plan", path)[0] == 0
    path.write_text(path.read_text() + "overrides: {box_loss: EIoULoss}\n")
    assert cli("plan", path)[0] == 1


def test_what_a_file_prints_does_not_mix_with_json(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("plan", write(tmp_path, own="print('hello')\n" + LOSS), "--json")
    assert code == 0 and out.startswith("{") and "hello" in err


# --- the registries -------------------------------------------------------------------------------


def test_registries_hold_the_classes_of_the_loaded_files_and_no_others(tmp_path: Path) -> None:
    before = set(MODELS.module_dict)
    one, changed = file_of(tmp_path / "own.py", LOSS), file_of(tmp_path / "own.py", LOSS + "VERSION = 2\n")
    assert components.load([one]) == {"OwnLoss"}
    first = MODELS.get("OwnLoss")
    components.load([one])
    assert MODELS.get("OwnLoss") is first, "executed once"
    components.load([changed])
    assert MODELS.get("OwnLoss") is not first
    components.load([one])
    assert MODELS.get("OwnLoss") is first
    components.load([])
    assert set(MODELS.module_dict) == before


def test_a_file_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    before, modules = dict(MODELS.module_dict), set(sys.modules)
    for ending in ("raise ValueError\n", "MODELS.register_module(name='GIoULoss', module=OwnLoss, force=True)\n"):
        with pytest.raises(InputError):
            components.load([file_of(tmp_path / "own.py", LOSS + ending)])
        assert dict(MODELS.module_dict) == before
    assert not {name for name in set(sys.modules) - modules if name.startswith(components.MODULE_PREFIX)}


def test_a_class_of_mmdets_under_a_new_name_counts_as_the_files_own(tmp_path: Path) -> None:
    text = "from mmdet.models.losses import L1Loss\nfrom mmdet.registry import MODELS\nMODELS.register_module(name='SideLoss', module=L1Loss)\n"
    assert components.load([file_of(tmp_path / "own.py", text)]) == {"SideLoss"}
    components.load([])
    assert "SideLoss" not in MODELS.module_dict and "L1Loss" in MODELS.module_dict


def test_two_files_meet_in_the_registries(tmp_path: Path) -> None:
    user = "from mmdet.registry import MODELS\n@MODELS.register_module()\nclass Twice(MODELS.get('OwnLoss')):\n    pass\n"
    files = [file_of(tmp_path / "own.py", LOSS), file_of(tmp_path / "user.py", user)]
    assert components.load(files) == {"OwnLoss", "Twice"}


# --- training -------------------------------------------------------------------------------------


def manifests(path: Path, tree: RunTree) -> dict[str, TrialDir]:
    """The trials of an experiment, written as `gfl-lab run` does, by variant."""
    prepared = planned(path, tree)
    write_manifests(prepared.plan.trials, tree, prepared.paths, prepared.code)
    return {variant.name: tree.trial(variant.trials[0].id) for variant in prepared.plan.variants}


EXAMPLE_ARMS = """
variants:
  gfl: {}
  own: {box_loss: AlphaGIoULoss, assigner: BestPriorAssigner, head: TemperatureHead, component_args: {head: {temperature: 2.0}, box_loss: {alpha: 2.0}}}
"""


def losses(trial: TrialDir) -> list[dict[str, float]]:
    return [line.metrics for line in trial.metric_lines() if line.kind == "train"]


def test_the_example_trains_and_a_stopped_trial_goes_on_with_its_own_copy(tmp_path: Path) -> None:
    source = (EXAMPLES / "own_components.py").read_text()
    path = write(tmp_path, EXAMPLE_ARMS, own=source)
    whole = manifests(path, RunTree(tmp_path / "whole"))
    for trial in whole.values():
        run_trial(trial.path)
        assert raw_result(trial)["status"] == "done", raw_result(trial)
    assert (whole["own"].file(naming.COMPONENTS_DIR) / "own.py").read_text() == source
    assert not whole["gfl"].file(naming.COMPONENTS_DIR).exists()

    stopped = manifests(path, RunTree(tmp_path / "stopped"))["own"]
    assert stopped.id == whole["own"].id
    asked = itertools.count()
    with pytest.raises(Interrupted):
        run_trial(stopped.path, should_stop=lambda: next(asked) >= 3)
    (tmp_path / "own.py").write_text("raise RuntimeError('the trial must not read this')\n")
    components.load([])
    run_trial(stopped.path)
    ours, theirs = (load_safely(trial.file(naming.LAST_CHECKPOINT))["state_dict"] for trial in (stopped, whole["own"]))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert losses(stopped) == losses(whole["own"]) and losses(whole["own"])[0] != losses(whole["gfl"])[0]


def test_a_changed_copy_is_refused_and_the_next_run_heals_it(tmp_path: Path) -> None:
    tree = RunTree(tmp_path / "runs")
    path = write(tmp_path, AXES + "overrides: {epochs: 1}\n", own=LOSS)
    trial = manifests(path, tree)["box_loss=OwnLoss"]
    copy = trial.file(naming.COMPONENTS_DIR) / "own.py"
    for spoil in (lambda: copy.write_text(LOSS.replace("abs()", "square()")), copy.unlink):
        spoil()
        run_trial(trial.path)
        assert trial.state() is TrialState.FAILED and str(copy) in raw_result(trial)["failure"]["reason"]
        with pytest.raises(StoreError):
            components.load_of_trial(trial, TrialSpec.model_validate(raw_manifest(trial)["spec"]))
        manifests(path, tree)
    run_trial(trial.path)
    assert trial.state() is TrialState.DONE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_components", "own_head"])
def test_an_example_runs_on_smoke_and_again_trains_nothing(cli: Cli, tmp_path: Path, mlflow_db: Path, name: str) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copy(mlflow_db, tmp_path / "runs" / naming.MLFLOW_DB)
    arguments = ("run", EXAMPLES / f"{name}.yaml", "--profile", "smoke", "--seeds", "0", "--executor", "inline")
    code, out, err = cli(*arguments)
    assert code == 0 and "baseline" in out, err
    trials = RunTree(tmp_path / "runs").trials()
    assert len(trials) == {"own_components": 4, "own_head": 3}[name] and all(trial.state() is TrialState.DONE for trial in trials)
    assert sum(trial.file(naming.COMPONENTS_DIR).exists() for trial in trials) == len(trials) - 1
    assert "nothing to train" in cli(*arguments)[2]


# --- the documentation ----------------------------------------------------------------------------

SNIPPETS = "\n".join(re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL))
EXAMPLE_CODE = (EXAMPLES / "own_components.py").read_text()
KINDS = {
    "box_loss": "AlphaGIoULoss",
    "cls_loss": "SoftTargetLoss",
    "assigner": "BestPriorAssigner",
    "head": "TemperatureHead",
    "backbone": "PlainBackbone",
}
"""Components that the page prints, or names in the example's code."""


def test_the_experiments_in_the_docs_are_the_examples() -> None:
    blocks = re.findall(r"```yml\n(.*?)```", DOCS, re.DOTALL)
    assert [re.sub(r" +#.*", "", block) for block in blocks] == [(EXAMPLES / "own_components.yaml").read_text()]
    variants = yaml.safe_load((EXAMPLES / "own_head.yaml").read_text())["variants"]
    assert [yaml.safe_load(text) for text in re.findall(r"`sharper: (\{.*?\})`", DOCS)] == [variants["sharper"]]


def test_every_component_in_the_docs_trains(tmp_path: Path) -> None:
    variants = "".join(f"  {key}: {{{key}: {name}}}\n" for key, name in KINDS.items()) + "  regnet: {backbone: RegNet400MF}\n"
    every = ", ".join(f"{key}: {name}" for key, name in KINDS.items())
    together = f"  all: {{{every}, component_args: {{head: {{temperature: 2.0}}, backbone: {{width: 8}}}}}}\n"
    path = write(tmp_path, f"variants:\n  gfl: {{}}\n{variants}{together}overrides: {{epochs: 1}}\n", snippets=SNIPPETS, own=EXAMPLE_CODE)
    trial = manifests(path, RunTree(tmp_path / "runs"))["all"]
    run_trial(trial.path)
    assert raw_result(trial)["status"] == "done", raw_result(trial)
    assert all({"loss_cls", "loss_bbox", "loss_dfl"} <= line.keys() for line in losses(trial))


def head_losses(**switches: object) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Losses of a crowded batch, and their gradients at the features."""
    generator, size = torch.Generator().manual_seed(3), (96, 128)
    head = make_head(**switches)
    maps = tuple(level.requires_grad_() for level in feats(THREE, size, generator))
    terms = head.loss(maps, samples(batch("crowded", size, generator), metas(3, size)))
    sum(terms.values()).backward()
    return terms, [level.grad for level in maps]


def test_the_classification_loss_in_the_docs_is_qfl_with_beta_0(tmp_path: Path) -> None:
    components.load([file_of(tmp_path / "snippets.py", SNIPPETS)])
    torch.testing.assert_close(head_losses(cls_loss={"type": "SoftTargetLoss"}), head_losses(qfl_beta=0.0), rtol=1e-4, atol=1e-5)


# --- the example's own numbers --------------------------------------------------------------------


@pytest.fixture
def example() -> None:
    path = EXAMPLES / "own_components.py"
    components.load([CodeFile(path, path.read_bytes())])


@pytest.mark.usefixtures("example")
def test_alpha_giou_of_two_boxes_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    targets = torch.tensor([[1.0, 0, 3, 2], [3, 0, 4, 1]])  # IoU 1/3 and nothing empty; IoU 0 and 2 of 4 empty
    weight = torch.tensor([1.0, 3.0])
    loss = MODELS.build({"type": "AlphaGIoULoss", "alpha": 3.0})(boxes, targets, weight=weight, avg_factor=weight.sum())
    assert loss.item() == pytest.approx(((1 - 1 / 27) + 3 * (1 + 1 / 8)) / 4, rel=1e-5)


@pytest.mark.usefixtures("example")
def test_alpha_giou_with_alpha_1_is_giou_in_value_and_gradient() -> None:
    torch.testing.assert_close(head_losses(box_loss={"type": "AlphaGIoULoss", "alpha": 1.0}), head_losses(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("example")
def test_each_box_teaches_its_best_anchor() -> None:
    priors = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [20, 20, 24, 24]])
    assigner = TASK_UTILS.build({"type": "BestPriorAssigner"})

    def assigned(boxes: torch.Tensor) -> list[int]:
        truth = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
        return assigner.assign(InstanceData(priors=priors), truth).gt_inds.tolist()

    assert assigned(torch.tensor([[20.0, 20, 23, 24], [1.5, 0, 6, 4]])) == [0, 2, 1]
    assert assigned(torch.zeros(0, 4)) == [0, 0, 0]


@pytest.mark.usefixtures("example")
def test_a_temperature_divides_the_logits_and_nothing_else() -> None:
    small = {"backbone": "r18", "base_channels": 4, "neck_channels": 8, "head_channels": 8, "head_convs": 1}
    hot = build_detector(Settings(**small, head="TemperatureHead", component_args={"head": {"temperature": 4.0}}), 2).bbox_head
    plain = build_detector(Settings(**small), 2).bbox_head
    hot.load_state_dict(plain.state_dict())
    maps = tuple(torch.randn(1, 8, side, side, generator=torch.Generator().manual_seed(side)) for side in (8, 4, 2, 1, 1))
    with torch.no_grad():
        (scores, boxes), (plain_scores, plain_boxes) = hot(maps), plain(maps)
    for ours, theirs in zip([*scores, *boxes], [*(level / 4 for level in plain_scores), *plain_boxes], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_classes_that_are_read_from_mmdets_files_are_those_that_it_registers() -> None:
    for registry, key, ending in ((MODELS, "box_loss", "Loss"), (TASK_UTILS, "assigner", "Assigner")):
        registry.import_from_location()
        own = {name for name, value in registry.module_dict.items() if name.endswith(ending) and value.__module__.startswith("mmdet.")}
        assert set(mmdet_classes(key)) <= own and len(mmdet_classes(key)) > 8
