"""How the training budget is spent: rates and groups, scales and crops, moving average, precision, initial weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.data import DataLoader

from gfl_lab.checkpoints import download, pretrained
from gfl_lab.checkpoints.pretrained import fetch_pretrained, load_backbone, published_url
from gfl_lab.detector.build import build_detector
from gfl_lab.detector.vit_adapter import ViTAdapter
from gfl_lab.errors import InputError, ResourceError
from gfl_lab.session.weights import digest_weights
from gfl_lab.setup.config import learning_rate, milestones, trial_config
from gfl_lab.setup.dataset import TrialDataset, seeded
from gfl_lab.spec.schedule import steps_of, total_epochs
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import DataSpec, TrialSpec
from gfl_lab.train.ema import MovingAverage
from gfl_lab.train.optim import OverflowingGradients

PATHS = dict.fromkeys(("train_annotations", "val_annotations", "train_images", "val_images"), "")


def config(paths: dict[str, str] = PATHS, **settings: Any) -> Any:
    data = DataSpec(name="", digest="", classes=("a", "b", "c"), train_images=10, val_images=1)
    return trial_config(TrialSpec(settings=Settings(**settings), data=data, seed=0, code=1), paths, "work")


# --- schedule and rate ---


@pytest.mark.parametrize(("schedule", "epochs", "steps"), [("1x", 12, 84), ("2x", 24, 168), ("3x", 36, 252)])
def test_a_schedule_multiplies_the_epochs_everywhere(schedule: str, epochs: int, steps: int) -> None:
    settings = Settings(schedule=schedule)
    assert total_epochs(settings) == total_epochs(settings.model_dump(mode="json")) == epochs
    assert steps_of(settings, 100) == steps_of(settings.model_dump(mode="json"), 100) == steps  # 7 batches of 16
    made = config(schedule=schedule)
    assert made.train_cfg.max_epochs == epochs and made.param_scheduler[1].end == epochs
    assert config(schedule=schedule, lr_schedule="cosine").param_scheduler[1].T_max == epochs


def test_runs_from_before_schedules_are_1x() -> None:
    assert total_epochs({"epochs": 16}) == 16


@pytest.mark.parametrize(
    ("epochs", "schedule", "lr_steps", "expected"),
    [
        (12, "1x", (0.6667, 0.9167), [8, 11]),
        (12, "2x", (0.6667, 0.9167), [16, 22]),
        (12, "3x", (0.75, 0.9167), [27, 33]),
        (12, "3x", (0.6667, 0.9167), [24, 33]),
        (16, "1x", (0.6667, 0.9167), [11, 15]),
        (18, "1x", (0.6667, 0.9167), [12, 16]),  # 11/12 of 18 is 16.5, rounded to even as ever
        (1, "1x", (0.6667, 0.9167), [1]),
        (10, "1x", (0.89,), [9]),
    ],
)
def test_milestones_of_the_published_schedules(epochs: int, schedule: str, lr_steps: tuple[float, ...], expected: list[int]) -> None:
    assert milestones(Settings(epochs=epochs, schedule=schedule, lr_steps=lr_steps)) == expected


@given(epochs=st.integers(1, 1000))
def test_default_milestones_are_those_of_two_thirds_and_eleven_twelfths(epochs: int) -> None:
    assert milestones(Settings(epochs=epochs)) == sorted({max(1, min(epochs - 1, round(epochs * part))) for part in (2 / 3, 11 / 12)})


@pytest.mark.parametrize(
    ("optimizer", "lr", "base_batch_size", "batch_size", "expected"),
    [
        ("sgd", 0.01, 16, 8, 0.005),
        ("sgd", 0.01, 16, 16, 0.01),
        ("sgd", 0.01, 16, 64, 0.04),
        ("sgd", 0.01, 0, 8, 0.01),
        ("adamw", 1e-4, 16, 4, 5e-5),
        ("adamw", 1e-4, 16, 64, 2e-4),
        ("adamw", 1e-4, 0, 64, 1e-4),
    ],
)
def test_rate_and_batch_scale_together(optimizer: str, lr: float, base_batch_size: int, batch_size: int, expected: float) -> None:
    settings = {"optimizer": optimizer, "lr": lr, "base_batch_size": base_batch_size, "batch_size": batch_size}
    assert learning_rate(Settings(**settings)) == pytest.approx(expected, rel=1e-12)
    assert config(**settings).optim_wrapper.optimizer.lr == pytest.approx(expected, rel=1e-12)


def test_warm_up_starts_at_its_factor() -> None:
    assert config(warmup_start_factor=1 / 3).param_scheduler[0].start_factor == pytest.approx(1 / 3)


def small_detector() -> nn.Module:
    tiny = Settings(backbone="r18", base_channels=8, neck_channels=8, head_channels=8, head_convs=1, strides=(8, 16), frozen_stages=1)
    return build_detector(tiny, 3)


def groups(model: nn.Module, **settings: Any) -> dict[str, tuple[float, float]]:
    """(rate, decay) by parameter name, once for each."""
    optimizer = build_optim_wrapper(model, config(**settings).optim_wrapper.to_dict()).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rows = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in optimizer.param_groups for p in group["params"]]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_parameters_without_decay_and_biases_with_their_own_rate() -> None:
    model = small_detector()
    assert set(groups(model).values()) == {(0.01, 0.0001)}
    found = groups(model, no_decay=["bias", "fpn_convs"], bias_lr_mult=2.0)
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {
        "backbone.layer2.0.conv1.weight": (0.01, 0.0001),
        "backbone.layer2.0.bn1.bias": (0.01, 0.0),  # a norm's bias keeps the rate
        "bbox_head.cls_convs.0.gn.weight": (0.01, 0.0001),
        "bbox_head.cls_convs.0.gn.bias": (0.01, 0.0),
        "neck.fpn_convs.0.conv.weight": (0.01, 0.0),
        "neck.lateral_convs.0.conv.bias": (0.02, 0.0),
        "bbox_head.gfl_cls.bias": (0.02, 0.0),
    }
    assert {name: found[name] for name in expected} == expected
    assert groups(model, bias_lr_mult=2.0)["bbox_head.gfl_cls.bias"] == (0.02, 0.0001)


@pytest.mark.parametrize("deformable", [{}, {"dcn": "v2", "dcn_stages": "c3-c5"}])
def test_the_gfl_authors_zoo_has_their_decay_for_every_parameter(deformable: dict[str, str]) -> None:
    zoo = yaml.safe_load((Path(__file__).parents[1] / "experiments" / "zoo_gfocal.yaml").read_text())
    recipe = {key: zoo["overrides"][key] for key in ("bias_lr_mult", "no_decay")}
    small = {"backbone": "r50", "base_channels": 8, "neck_channels": 8, "head_channels": 8, "strides": (8, 16), "frozen_stages": 1}
    model = build_detector(Settings(**small, **deformable), 3)
    found = groups(model, **recipe)
    assert any("gn.bias" in name for name in found) and any("conv_offset.bias" in name for name in found) == bool(deformable)
    for name, (rate, decay) in found.items():
        # mmdet 1.x with paramwise_options=dict(bias_lr_mult=2., bias_decay_mult=0.): norms first, by their names, then biases
        norm = re.search(r"(bn|gn)\d*\.(weight|bias)$", name)
        bias = not norm and name.endswith(".bias")
        assert decay == (0.0 if bias else 0.0001), name
        if ".downsample." not in name:  # the one difference left, which the published table's `differs` states
            assert rate == (0.02 if bias else 0.01), name


def test_the_logged_rate_is_that_of_plain_parameters() -> None:
    wrapper = build_optim_wrapper(small_detector(), config(no_decay=["bias"], bias_lr_mult=2.0).optim_wrapper.to_dict())
    assert wrapper.get_lr()["lr"][0] == 0.01


# --- images ---


@pytest.fixture
def scope() -> Iterator[None]:
    if not DefaultScope.check_instance_created("test_train_schedule"):
        DefaultScope.get_instance("test_train_schedule", scope_name="mmdet")
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])
"""BGR of the box with label 0, 1, 2."""


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three images with boxes painted in the colour of their label, on black; many small ones, so that crops miss them."""
    folder = tmp_path_factory.mktemp("coloured")
    layouts = [
        (90, 60, [(4, 4, 20, 20), (40, 30, 30, 24), (76, 2, 12, 50)]),
        (60, 90, [(2, 2, 10, 10), (40, 60, 18, 28), (5, 50, 20, 20)]),
        (160, 50, [(2, 2, 10, 10)]),
    ]
    images, annotations = [], []
    for number, (width, height, boxes) in enumerate(layouts, 1):
        pixels = np.zeros((height, width, 3), np.uint8)
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for label, (x, y, w, h) in enumerate(boxes):
            pixels[y : y + h, x : x + w] = COLOURS[label]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    categories = [{"id": 1 + label, "name": name} for label, name in enumerate("abc")]
    (folder / "train.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return PATHS | {"train_annotations": str(folder / "train.json"), "train_images": str(folder)}


def dataset(paths: dict[str, str], pipeline: list[dict[str, Any]] | None = None, **settings: Any) -> TrialDataset:
    given = config(paths, **settings).train_dataloader.dataset.to_dict()
    given.pop("type")
    return TrialDataset(**given | ({"pipeline": pipeline} if pipeline else {}))


def shapes_of(data: TrialDataset, index: int, draws: int) -> list[tuple[int, int]]:
    """(height, width) of one image in each of so many epochs."""
    found = []
    for epoch in range(draws):
        data.set_epoch(epoch)
        found.append(tuple(data[index]["inputs"].shape[1:]))
    return found


def test_one_scale_draws_nothing_and_is_the_pipeline_of_before(scope: None, coloured: dict[str, str]) -> None:
    before = [
        {"type": "LoadImageCached"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "Resize", "scale": (96, 64), "keep_ratio": True},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "flip")},
    ]
    old, new = dataset(coloured, before, image_size=[96, 64]), dataset(coloured, image_size=[96, 64])
    for epoch in range(6):
        for index in range(3):
            old.set_epoch(epoch)
            new.set_epoch(epoch)
            a, b = old[index], new[index]
            assert torch.equal(a["inputs"], b["inputs"])
            assert torch.equal(a["data_samples"].gt_instances.bboxes.tensor, b["data_samples"].gt_instances.bboxes.tensor)


@pytest.mark.parametrize("scale_range", [[1.0, 1.0], [0.5, 0.5]])
def test_a_single_scale_consumes_no_random_number(scope: None, coloured: dict[str, str], scale_range: list[float]) -> None:
    data = dataset(coloured, image_size=[96, 64], scale_range=scale_range, scale_step=0.1)
    resize = data.pipeline.transforms[2]
    with seeded(3):
        before = np.random.get_state()[1].copy(), np.random.get_state()[2]
        resize({"img": np.zeros((30, 40, 3), np.uint8), "img_shape": (30, 40)})
        assert (np.random.get_state()[1] == before[0]).all() and np.random.get_state()[2] == before[1]
    assert resize.scale == (96, round(64 * scale_range[0]))


def test_any_scale_of_the_range_is_drawn(scope: None, coloured: dict[str, str]) -> None:
    data = dataset(coloured, image_size=[100, 60], scale_range=[0.8, 1.0])
    sides = [min(shape) for shape in shapes_of(data, 0, 200)]
    assert set(sides) == set(range(48, 61))


def test_scales_of_the_grid_are_drawn_alike(scope: None, coloured: dict[str, str]) -> None:
    data = dataset(coloured, image_size=[100, 60], scale_range=[0.5, 1.0], scale_step=0.2)
    sides = [min(shape) for shape in shapes_of(data, 0, 300)]
    assert set(sides) == {30, 42, 54}, "anchored at the lower end; 1.0 is not on the grid"
    assert all(abs(sides.count(side) - 100) < 4 * math.sqrt(300 * 2 / 9) for side in (30, 42, 54))
    published = config(scale_range=[0.6, 1.0], scale_step=0.04).train_dataloader.dataset.pipeline[2].scales
    assert [short for _, short in published] == list(range(480, 801, 32)) and {cap for cap, _ in published} == {1333}


def test_the_longest_side_keeps_its_cap(scope: None, coloured: dict[str, str]) -> None:
    long = dataset(coloured, image_size=[100, 60], scale_range=[1.0, 1.2])
    assert {width for _, width in shapes_of(long, 2, 30)} == {100}  # 160 x 50
    assert config(scale_range=[0.6, 1.2]).train_dataloader.dataset.pipeline[2].scale == [(1333, 480), (1333, 960)]
    square = dataset(coloured, image_size=[64, 64], scale_range=[1.0, 1.5])
    assert {max(shape) for shape in shapes_of(square, 0, 30)} == {64}


def test_evaluation_has_one_scale_and_is_bilinear() -> None:
    made = config(scale_range=[0.5, 1.0], crop="vit_adapter", interpolation="bicubic")
    (resize,) = [step for step in made.val_loader.dataset.pipeline if "Resize" in step.type]
    assert resize.scale == (1333, 800) and resize.get("interpolation", "bilinear") == "bilinear"
    assert made.train_dataloader.dataset.pipeline[3].transforms[0][0].interpolation == "bicubic"


def test_vit_adapters_crops_at_the_published_size() -> None:
    flip, choice, last = config(crop="vit_adapter", scale_range=[0.6, 1.0], scale_step=0.04).train_dataloader.dataset.pipeline[2:-1]
    scales = [(1333, short) for short in range(480, 801, 32)]
    (alone,), (first, crop, again) = choice.transforms
    assert flip == {"type": "RandomFlip", "prob": 0.5}
    assert alone.scales == again.scales == scales and first.scales == [(1333, 400), (1333, 500), (1333, 600)]
    assert (crop.crop_type, crop.crop_size, crop.allow_negative_crop) == ("absolute_range", (384, 600), True)
    assert (last.crop_type, last.crop_size, last.allow_negative_crop) == ("absolute_range", (1024, 1024), True)


def test_boxes_stay_with_their_objects_through_scales_and_crops(scope: None, coloured: dict[str, str]) -> None:
    data = dataset(coloured, image_size=[96, 64], crop="vit_adapter", scale_range=[0.6, 1.0], scale_step=0.1)
    checked, empty, cropped = 0, 0, 0
    for epoch in range(60):
        data.set_epoch(epoch)
        for index in range(3):
            sample = data[index]
            image, truth = sample["inputs"].permute(1, 2, 0).numpy().astype(int), sample["data_samples"].gt_instances
            height, width = image.shape[:2]
            assert max(height, width) <= 96 and min(height, width) <= 82
            boxes = truth.bboxes.tensor.numpy()
            assert (boxes >= 0).all() and (boxes[:, ::2] <= width).all() and (boxes[:, 1::2] <= height).all()
            empty += not len(boxes)
            cropped += len(boxes) < len(data.get_data_info(index)["instances"])
            painted = np.zeros((height, width), bool)
            for (x1, y1, x2, y2), label in zip(boxes, truth.labels.tolist(), strict=True):
                painted[max(0, math.floor(y1) - 1) : math.ceil(y2) + 1, max(0, math.floor(x1) - 1) : math.ceil(x2) + 1] = True
                inner = image[math.ceil(y1) + 2 : max(0, math.floor(y2) - 2), math.ceil(x1) + 2 : max(0, math.floor(x2) - 2)]
                if inner.size:  # what is left of its edge's blur, after up to two scalings
                    assert (np.abs(inner - COLOURS[label]) <= 25).all(), (epoch, index, label)
                    checked += 1
            assert (image.max(2)[~painted] <= 32).all(), "what is painted has a box"
    assert checked > 200 and empty > 5 and cropped > 20


def test_a_sample_depends_on_seed_epoch_and_index_alone_whatever_the_augmentation(scope: None, coloured: dict[str, str]) -> None:
    settings = {"image_size": [96, 64], "crop": "vit_adapter", "scale_range": [0.6, 1.2]}
    data, other = dataset(coloured, **settings), dataset(coloured, **settings)
    data.set_epoch(5)
    other.set_epoch(5)
    straight = [data[index]["inputs"] for index in range(3)]
    loader = DataLoader(other, batch_size=1, sampler=[2, 0, 1], num_workers=2, collate_fn=lambda samples: samples[0]["inputs"])
    for index, image in zip([2, 0, 1], loader, strict=True):
        assert torch.equal(image, straight[index])
    data.set_epoch(6)
    assert any(data[index]["inputs"].shape != straight[index].shape for index in range(3))


# --- moving average ---


def test_the_moving_average_is_the_formulas() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    constant = model[0].bias.detach().clone()
    average = MovingAverage(model, decay=0.3)
    expected = {name: value.double().clone() for name, value in model.state_dict().items()}
    for t in range(6):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 3))
        model(torch.randn(4, 3))  # moves the statistics
        average.update(model)
        decay = min(0.3, (1 + t) / (10 + t))  # 0.1, 0.1818, 0.25, 0.3, ...
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in average.weights.items():
        if name != "1.num_batches_tracked":
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    assert average.weights["1.num_batches_tracked"] == 6 and average.updates == 6
    assert torch.equal(average.weights["0.bias"], constant), "what does not change is not rounded either"

    own = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError), average.in_place_of(model):
        assert torch.equal(model[0].weight, average.weights["0.weight"]) and not torch.equal(model[0].weight, own["0.weight"])
        raise KeyError
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    again = MovingAverage(model, decay=0.3)
    again.load(average.weights, average.updates)
    for one in (average, again):
        one.update(model)
    assert all(torch.equal(average.weights[name], again.weights[name]) for name in own)


# --- precision ---


def half(**settings: Any) -> tuple[nn.Linear, Any]:
    model = nn.Linear(2, 1)
    given = config(precision="float16", optimizer="adamw", lr=0.1, weight_decay=0.0, **settings).optim_wrapper.to_dict()
    return model, build_optim_wrapper(model, given)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_float16_step_that_overflows_is_left_out_and_halves_the_scale(clip: float) -> None:
    model, wrapper = half(clip_grad_norm=clip)
    weight = model.weight.detach().clone()

    def step(factor: float) -> None:
        with wrapper.optim_context(model):
            out = model(torch.ones(1, 2))
        assert out.dtype is torch.float16
        wrapper.update_params(out.float().sum() * factor)

    step(1e30)
    assert torch.equal(model.weight, weight) and wrapper.state_dict()["loss_scaler"]["scale"] == 256
    step(1.0)
    assert torch.allclose(model.weight, weight - 0.1, atol=1e-5), "Adam's first step is lr, whatever the scale"
    fresh, restored = half(clip_grad_norm=clip)
    fresh.load_state_dict(model.state_dict())
    restored.load_state_dict(wrapper.state_dict())
    assert restored.scaler.get_scale() == 256
    with pytest.raises(OverflowingGradients, match="bfloat16"):
        for _ in range(30):
            step(1e38)


def test_bfloat16_needs_no_scale() -> None:
    model = nn.Linear(2, 1)
    wrapper = build_optim_wrapper(model, config(precision="bfloat16", lr=0.5).optim_wrapper.to_dict())
    weight = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 2))
    wrapper.update_params(out.float().sum())
    assert out.dtype is torch.bfloat16 and torch.allclose(model.weight, weight - 0.5 * (1 + 1e-4 * weight), atol=1e-6)
    assert wrapper.state_dict()["loss_scaler"] == {}


# --- initial weights ---


@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("r18", "resnet18-f37072fd.pth"),
        ("r101", "resnet101-63fe2227.pth"),
        ("x101-32x8d", "resnext101_32x8d-8ba56ff5.pth"),
        ("x101-32x4d", "resnext101_32x4d-a5af3160.pth"),
        ("r2-101", "res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth"),
        ("vit-adapter-s", "deit_small_patch16_224-cd65a155.pth"),
    ],
)
def test_published_weights_come_from_their_publisher(backbone: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    torch.save({"a": torch.ones(1)}, tmp_path / file)
    monkeypatch.setattr(download, "fetch", lambda *wanted: asked.extend(wanted) or tmp_path / file)
    assert fetch_pretrained(backbone).keys() == {"a"}
    address, digest = asked
    assert address.startswith("https://") and address.endswith("/" + file) and digest == file[-12:-4]


@pytest.mark.parametrize(
    ("backbone", "way_out"), [("r18vd", "import-checkpoint"), ("r50vd", "import-checkpoint"), ("MyNet", "--init-weights FILE")]
)
def test_a_backbone_without_published_weights_says_the_way_out(backbone: str, way_out: str) -> None:
    with pytest.raises(ResourceError, match=f"(?s){backbone}.*{way_out}"):
        published_url(backbone)


def test_weights_that_cannot_be_downloaded_say_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise URLError(OSError("no route to host"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    words = r"(?s)backbone x101-32x4d: resnext101_32x4d-a5af3160.pth.*no route to host.*put it into .*--init-weights FILE"
    with pytest.raises(ResourceError, match=words):
        fetch_pretrained("x101-32x4d")


def test_the_words_random_and_pretrained_are_no_files(tmp_path: Path) -> None:
    assert digest_weights("random") == "" and digest_weights("pretrained") == "pretrained"
    with pytest.raises(InputError, match="cannot be read"):
        digest_weights(str(tmp_path / "torchvision"))


def test_offsets_of_deformable_convolutions_may_be_missing(tmp_path: Path) -> None:
    def net(offsets: bool) -> nn.Module:
        block = nn.Module()
        block.conv2 = nn.Conv2d(2, 2, 3)
        if offsets:
            block.conv2.conv_offset = nn.Conv2d(2, 18, 3)
        return nn.ModuleDict({"layer2": block})

    plain, deformable = net(False), net(True)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    load_backbone(deformable, str(tmp_path / "plain.pth"), "r50")
    assert torch.equal(deformable["layer2"].conv2.weight, plain["layer2"].conv2.weight)
    torch.save({"layer2.conv2.weight": plain["layer2"].conv2.weight.detach()}, tmp_path / "half.pth")
    with pytest.raises(InputError, match=r"1 missing \(first: layer2.conv2.bias\)"):
        load_backbone(deformable, str(tmp_path / "half.pth"), "r50")


def test_a_deit_file_starts_the_transformer_of_vit_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = ViTAdapter(base_channels=4)
    dims = backbone.out_channels[0]
    vit = {
        key: torch.randn_like(value)
        for key, value in backbone.state_dict().items()
        if key.startswith(("pos_embed", "patch_embed.", "blocks.")) and ".gamma" not in key
    }
    deit = vit | {"cls_token": torch.zeros(1, 1, dims), "norm.weight": torch.ones(dims), "norm.bias": torch.zeros(dims)}
    deit |= {"head.weight": torch.zeros(1000, dims), "head.bias": torch.zeros(1000)}
    before = {key: value.clone() for key, value in backbone.state_dict().items()}

    torch.save({"model": deit}, tmp_path / "deit.pth")
    load_backbone(backbone, str(tmp_path / "deit.pth"), "vit-adapter-s")
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, vit.get(key, before[key])), key
    monkeypatch.setattr(pretrained, "fetch_pretrained", lambda name: {"model": deit})
    load_backbone(ViTAdapter(base_channels=4), "pretrained", "vit-adapter-s")

    torch.save({f"backbone.{key}": value for key, value in vit.items()}, tmp_path / "converted.pth")  # as import-checkpoint writes it
    load_backbone(ViTAdapter(base_channels=4), str(tmp_path / "converted.pth"), "vit-adapter-s")
    del vit["blocks.3.attn.qkv.weight"]
    torch.save(vit, tmp_path / "part.pth")
    with pytest.raises(InputError, match="blocks.3.attn.qkv.weight"):
        load_backbone(backbone, str(tmp_path / "part.pth"), "vit-adapter-s")
    whole = {key: value for key, value in backbone.state_dict().items() if key != "interactions.0.injector.gamma"}
    torch.save(whole, tmp_path / "whole.pth")
    with pytest.raises(InputError, match="interactions.0.injector.gamma"):
        load_backbone(backbone, str(tmp_path / "whole.pth"), "vit-adapter-s")
