"""``recipe: config``: a trial trains as mmengine's Runner trains the same config, bit by bit; it resumes, and it stands in tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import RepeatDataset
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.data import coco
from gfl_lab.errors import DataError, InputError, Interrupted
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.setup.dataset import TrialDataset, seeded
from gfl_lab.spec.plain_config import decode
from gfl_lab.spec.schedule import steps_of
from gfl_lab.spec.settings import Settings
from gfl_lab.train.loop import seed_step
from gfl_lab.train.trial import run_trial
from gfl_lab.zoo import source
from gfl_lab.zoo.options import with_options
from gfl_lab.zoo.resolve import complete, resolve
from tests.support.cli import runner
from tests.support.real_data import CROPS
from tests.support.trials import make_trial

# isort: split
from mmdet.datasets import CocoDataset  # after gfl_lab, which has the operators that mmdet imports

SHORT = {
    "train_cfg.max_epochs": 2, "auto_scale_lr.base_batch_size": 2, "param_scheduler.0.end": 3, "param_scheduler.1.milestones": [1],
    "train_pipeline.2.scale": [96, 64], "test_pipeline.1.scale": [96, 64],
}  # fmt: skip
NARROW = {
    "model.backbone.depth": 18, "model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64], "model.neck.out_channels": 16,
}  # fmt: skip
DENSE = {"model.bbox_head.in_channels": 16, "model.bbox_head.feat_channels": 16}
TWO_STAGES = {
    "model.rpn_head.in_channels": 16, "model.rpn_head.feat_channels": 16, "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16, "model.roi_head.bbox_head.fc_out_channels": 32,
}  # fmt: skip


WITH_GROUPS = {"model.neck.out_channels": 64, "model.bbox_head.in_channels": 64, "model.bbox_head.feat_channels": 64}
CROPS_OF_24_PX = {"train_pipeline.3": {"type": "RandomCrop", "crop_size": [24, 24]}}
"""Many of them leave no box, and mmdet takes another image."""


def options(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in (SHORT, NARROW, *parts) for key, value in part.items()}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of blood cells, 256 x 192, in an order that is not that of their ids; one has a crowd region alone."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    shutil.copytree(CROPS["bccd_crop"], folder)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    first = content["images"][0]
    shutil.copy(folder / "images" / first["file_name"], folder / "images" / "crowd.jpg")
    content["images"] = [*reversed(content["images"]), {**first, "id": 9, "file_name": "crowd.jpg"}]
    crowd = {"id": 999, "image_id": 9, "category_id": 1, "bbox": [20, 20, 90, 60], "area": 5400, "iscrowd": 1}
    content["annotations"].append(crowd)
    file.write_text(json.dumps(content))
    return folder


def trial_of(root: Path, data: Path, detector: str, given: dict[str, Any]) -> TrialDir:
    return make_trial(root, data, detector=detector, recipe="config", cfg_options=given)


def weights(trial: TrialDir) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_safely(trial.file(naming.LAST_CHECKPOINT))["state_dict"]
    return found


def unequal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [key for key in ours if not torch.equal(ours[key], theirs[key])]


# --- mmengine's Runner ----------------------------------------------------------------------------


class Seeded:
    """Random choices of a data set as those of a trial: they follow from seed, epoch and index."""

    epoch = 0

    def __getitem__(self, idx: int) -> Any:
        with seeded(0, self.epoch, idx):
            return super().__getitem__(idx)  # type: ignore[misc]


@DATASETS.register_module()
class SeededCocoDataset(Seeded, CocoDataset):
    """mmdet's data set with the seeds of a trial."""


@DATASETS.register_module()
class SeededRepeatDataset(Seeded, RepeatDataset):
    """mmengine's repeated data set with the seeds of a trial."""


class Seeds(Hook):
    """Gives mmengine's Runner the seeds of a trial: for the samples of an epoch, and for what the detector draws in a step."""

    def before_train_epoch(self, runner: Runner) -> None:
        runner.train_dataloader.dataset.epoch = runner.epoch

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_step(0, runner.iter)


def stock(detector: str, given: dict[str, Any], data: Path, out: Path, seeds: bool) -> dict[str, torch.Tensor]:
    """Train a config with mmengine's Runner and mmdet's own data set, preprocessing and hooks; return its weights."""
    found = coco.find_dataset(data)
    plain = Config.fromfile(source.file_of(detector)).to_dict()
    images = "train_dataloader.dataset.dataset" if "dataset" in plain["train_dataloader"]["dataset"] else "train_dataloader.dataset"
    values = {path: value for path, value in given.items() if not path.startswith("test_pipeline.")}
    for path in [path for path in values if path.startswith("train_pipeline.")]:
        values[f"{images}.pipeline.{path.removeprefix('train_pipeline.')}"] = values.pop(path)
    config = Config(with_options(plain, values))
    head = config.model.bbox_head if "bbox_head" in config.model else config.model.roi_head.bbox_head
    head.num_classes = 3
    config.model.backbone.update(init_cfg=None, frozen_stages=-1, norm_eval=False)
    config.train_dataloader.update(batch_size=given["auto_scale_lr.base_batch_size"], num_workers=0, persistent_workers=False)
    data_set = config.train_dataloader.dataset
    if repeated := data_set.type == "RepeatDataset":
        data_set.type = "SeededRepeatDataset"
        data_set = data_set.dataset
    data_set.update(
        type="SeededCocoDataset" if seeds and not repeated else "CocoDataset",
        data_root="",
        ann_file=str(found.train_annotations),
        data_prefix={"img": str(found.train_images)},
        metainfo={"classes": coco.dataspec(data).classes},
    )
    for part in ("val", "test"):
        config.update({f"{part}_cfg": None, f"{part}_dataloader": None, f"{part}_evaluator": None})
    config.update(work_dir=str(out), randomness={"seed": 0}, log_level="ERROR", experiment_name=out.name)
    runner = Runner.from_cfg(config)
    if seeds:
        runner.register_hook(Seeds())
    runner.train()
    return dict(runner.model.state_dict())


@pytest.mark.parametrize(
    ("detector", "given", "seeds"),
    [
        ("mmdet:retinanet_r50_fpn_1x_coco", options(DENSE, {"train_pipeline.3.prob": 1.0}), False),
        ("mmdet:faster-rcnn_r50_fpn_1x_coco", options(TWO_STAGES), True),
    ],
    ids=["no random choices", "flips and samples of boxes"],
)
def test_a_trial_has_the_weights_of_mmengine_s_runner_to_the_last_bit(
    detector: str, given: dict[str, Any], seeds: bool, cells: Path, tmp_path: Path
) -> None:
    trial = trial_of(tmp_path, cells, detector, given)
    run_trial(trial.path)
    assert trial.state() is TrialState.DONE, trial.file(naming.LOG).read_text()
    assert unequal(weights(trial), stock(detector, given, cells, tmp_path / "stock", seeds)) == []
    assert max(line.step for line in trial.metric_lines()) == 6


REPEATED = """
_base_ = {base!r}
train_dataloader = dict(
    batch_sampler=None, dataset=dict(_delete_=True, type="RepeatDataset", times=2, dataset={{{{_base_.train_dataloader.dataset}}}}))
train_cfg = dict(max_epochs=1)
"""


def test_a_repeated_data_set_gives_an_epoch_of_as_many_passes_in_one_order_and_resumes(cells: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(REPEATED.format(base=str(source.file_of("mmdet:retinanet_r50_fpn_1x_coco"))))
    given = options(DENSE, {"train_cfg.max_epochs": 1, "auto_scale_lr.base_batch_size": 5})
    trial = trial_of(tmp_path, cells, str(file), given)
    settings = trial.manifest().spec.settings
    assert (settings.data_repeats, steps_of(settings, 6)) == (2, 3)
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        run_trial(trial.path, should_stop=lambda: next(asked) >= 2)
    run_trial(trial.path)
    assert max(line.step for line in trial.metric_lines()) == 3, "12 images in batches of 5"
    assert unequal(weights(trial), stock(str(file), given, cells, tmp_path / "stock", seeds=True)) == []


# --- resuming, in the same recipe -----------------------------------------------------------------

FCOS = "mmdet:fcos_r50-caffe_fpn_gn-head_1x_coco"
CROPPED = options(WITH_GROUPS, CROPS_OF_24_PX)


@pytest.fixture(scope="module")
def cropped(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialDir:
    """A finished trial with parameter groups, clipped gradients and random crops."""
    trial = trial_of(tmp_path_factory.mktemp("cropped"), cells, FCOS, CROPPED)
    run_trial(trial.path)
    assert trial.state() is TrialState.DONE, trial.file(naming.LOG).read_text()
    return trial


def test_so_has_one_with_parameter_groups_clipping_and_crops_that_leave_no_box(cropped: TrialDir, cells: Path, tmp_path: Path) -> None:
    assert unequal(weights(cropped), stock(FCOS, CROPPED, cells, tmp_path / "stock", seeds=True)) == []


def test_a_trial_stopped_within_an_epoch_ends_with_the_same_weights(cropped: TrialDir, cells: Path, tmp_path: Path) -> None:
    trial = trial_of(tmp_path, cells, FCOS, CROPPED)
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        run_trial(trial.path, should_stop=lambda: next(asked) >= 4)
    run_trial(trial.path)
    assert trial.state() is TrialState.DONE and unequal(weights(trial), weights(cropped)) == []


# --- what of a config acts ------------------------------------------------------------------------


def stored(name: str, **given: Any) -> Any:
    settings = complete(Settings(detector=name if name.endswith(".py") else f"mmdet:{name}", recipe="config", cfg_options=given))
    return decode(resolve(settings, 3))


def test_options_of_the_pipelines_and_the_batch_act_and_a_list_becomes_the_tuple_that_mmcv_wants() -> None:
    given = {"train_pipeline.2.scale": [96, 64], "test_pipeline.1.scale": [128, 64], "auto_scale_lr.base_batch_size": 3}
    found = stored("retinanet_r50_fpn_1x_coco", **given)
    assert (found["train_pipeline"][2]["scale"], found["test_pipeline"][1]["scale"], found["batch_size"]) == ((96, 64), (128, 64), 3)
    with pytest.raises(ValidationError, match=r"train_dataloader\.batch_size: a path starts with one of"):
        Settings(cfg_options={"train_dataloader.batch_size": 3})


def test_images_without_boxes_mixed_shapes_and_padding_to_a_size_are_the_config_s() -> None:
    found = stored("retinanet_r50_fpn_1x_coco")
    assert found["train_data"] == {"filter_cfg": {"filter_empty_gt": True, "min_size": 32}, "like_shapes": True}
    assert "batch_augments" not in found["model"]["data_preprocessor"]
    assert stored("ddq-detr-4scale_r50_8xb2-12e_coco")["train_data"]["filter_cfg"] == {"min_size": 32}
    padded = stored("retinanet_effb3_fpn_8xb4-crop896-1x_coco")
    assert padded["model"]["data_preprocessor"]["batch_augments"] == [{"type": "mmdet.BatchFixedSizePad", "size": (896, 896)}]
    assert not stored("cornernet_hourglass104_10xb5-crop511-210e-mstest_coco")["train_data"]["like_shapes"]


def test_a_sampler_that_draws_images_by_class_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    base = f"_base_ = {str(source.file_of('mmdet:retinanet_r50_fpn_1x_coco'))!r}\n"
    file.write_text(base + "train_dataloader = dict(sampler=dict(_delete_=True, type='ClassAwareSampler', num_sample_class=1))\n")
    with pytest.raises(InputError, match="train_dataloader.sampler is ClassAwareSampler, and a trial takes each image once an epoch"):
        stored(str(file))


def test_a_crop_without_boxes_is_replaced_by_another_image_and_an_epoch_of_them_ends(cells: Path) -> None:
    kinds = {"type": "RandomCrop", "crop_size": (24, 24)}, {"type": "FilterAnnotations", "min_gt_bbox_wh": (999, 999)}
    with DefaultScope.overwrite_default_scope("mmdet"):
        often, never = (
            TrialDataset(
                ann_file=str(cells / "annotations" / "instances_train.json"),
                data_prefix={"img": str(cells / "images")},
                classes=coco.dataspec(cells).classes,
                max_refetch=20,
                pipeline=[{"type": "LoadImageCached"}, {"type": "LoadAnnotations", "with_bbox": True}, crop, {"type": "PackDetInputs"}],
            )
            for crop in kinds
        )
    state = np.random.get_state()[1].tolist()
    seen = [[often[index]["data_samples"].img_id for index in range(6)] for _ in range(2)]
    assert seen[0] == seen[1] != [often.get_data_info(index)["img_id"] for index in range(6)]
    assert np.random.get_state()[1].tolist() == state
    with pytest.raises(DataError, match="left no box in 21 images one after another"):
        never[0]


# --- a run and its table --------------------------------------------------------------------------

EXPERIMENT = {
    "name": "own_recipe",
    "question": "Does a config's own recipe stand beside a profile's?",
    "profile": "smoke",
    "variants": {
        "gfl": {},
        "retinanet": {"detector": "mmdet:retinanet_r18_fpn_1x_coco", "recipe": "config"}
        | {f"cfg_options.{path}": value for path, value in options(DENSE).items()},
    },
    "baseline": "gfl",
    "seeds": [0],
}


@pytest.mark.slow
def test_a_run_trains_it_and_the_table_marks_its_row(
    mlflow_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copy(mlflow_db, tmp_path / "runs" / naming.MLFLOW_DB)
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cli = runner(monkeypatch, capsys)
    file = tmp_path / "own_recipe.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT))
    code, _, err = cli("run", file, "--executor", "inline")
    assert code == 4, err  # all trained, and the comparison is marked
    rows = [row.manifest().spec.settings for row in RunTree(tmp_path / "runs").trials()]
    (ours,) = [settings for settings in rows if settings.recipe == "config"]
    assert (ours.epochs, ours.batch_size, ours.image_size, ours.warmup_iters, ours.optimizer) == (2, 2, (96, 64), 3, "sgd")
    _, out, _ = cli("table", file)
    assert "image_size differs but is no declared axis: [128,128] in gfl; [96,64] in retinanet" in " ".join(out.split())
    (row,) = [line for line in out.splitlines() if line.startswith("retinanet") and "†" in line]
    assert row.split()[1:3] == ["1", "†"]
