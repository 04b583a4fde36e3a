"""`gfl-lab data check --profile`: distances of box sides in bins, as training assigns boxes, and what they advise."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import gfl_lab.train  # noqa: F401  (makes mmdet importable)
from gfl_lab.analysis.side_distances import scale_boxes, side_distances
from gfl_lab.analysis.side_levels import describe_level
from gfl_lab.cli.side_table import histogram, print_sides
from gfl_lab.data import ambiguous_shapes, coco
from gfl_lab.data.shape_images import CLASSES
from gfl_lab.detector.targets import GroundTruth
from gfl_lab.errors import SpecError
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.files import load_profile, resolve_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec
from tests.support.cli import Cli, runner
from tests.support.real_data import REAL

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.datasets.transforms import Resize
from mmdet.models.task_modules import ATSSAssigner
from mmdet.registry import DATASETS, MODELS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

ROOT = Path(__file__).parents[1]


def write_set(root: Path, images: list[tuple[int, int]], boxes: list[list[dict]], pixels: bool = False) -> coco.CocoPaths:
    """A data set of one class whose train and val are images of (width, height) with annotations; black where ``pixels``."""
    for folder in ("annotations", "images"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    annotations = [box | {"image_id": k, "category_id": 1} for k, own in enumerate(boxes) for box in own]
    for split in ("train", "val"):
        content = {
            "images": [{"id": k, "file_name": f"{split}{k}.png", "width": w, "height": h} for k, (w, h) in enumerate(images)],
            "annotations": [{"id": k, "iscrowd": 0, **annotation} for k, annotation in enumerate(annotations)],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        for image in content["images"] if pixels else ():
            Image.new("RGB", (image["width"], image["height"])).save(root / "images" / image["file_name"])
    return coco.find_dataset(root)


ONE_LEVEL = {"strides": (8,), "anchor_scale": 2.0, "image_size": (64, 64), "pad_to": 8, "flip_prob": 0.0}
"""Anchors of 16 px on the points 0, 8, 16, ... of a 64x64 image."""


@pytest.mark.parametrize("factor", [1, 2], ids=["as it is", "scaled from twice the size"])
def test_hand_worked(tmp_path: Path, factor: int) -> None:
    """The box 25 24 41 40: of its 9 candidates only the anchor at (32, 32) reaches IoU 0.88 > 0.54. Its sides are 7, 8, 9 and
    8 px away, so 0.875, 1, 1.125 and 1 bins of stride 8; n = 1 reaches 0.9."""
    box = {"bbox": [25 * factor, 24 * factor, 16 * factor, 16 * factor]}
    paths = write_set(tmp_path, [(64 * factor, 64 * factor)], [[box]])
    found = side_distances(paths, ("cat",), Settings(**ONE_LEVEL, reg_max=1, qfl=False))
    (level,) = found.levels
    assert (found.images, found.boxes, found.boxes_without_cells) == (1, 1, 0)
    assert (level.stride, level.boxes, level.boxes_share, level.cells) == (8, 1, 1.0, 1)
    assert level.quantiles == {"0.5": 1.0, "0.9": 1.125, "0.99": 1.125, "0.999": 1.125} and level.max == 1.125
    assert (level.clipped_sides, level.clipped_share, level.clipped_boxes, level.clipped_boxes_share) == (3, 0.75, 1, 1.0)
    assert level.counts == (1, 3)
    assert (found.needed_reg_max, found.needed_bin_width) == (2, 1.25)  # 1.125 <= 2 - 0.1; 1.125 / 1.25 = 0.9
    assert "clips 75.00% of the sides on stride 8: reg_max 2 at bin_width 1 or bin_width 1.25 at reg_max 1" in found.advice
    assert "40.2" not in found.advice
    wide = side_distances(paths, ("cat",), Settings(**ONE_LEVEL, reg_max=1), bin_width=1.25)
    assert wide.all.clipped_sides == 0 and wide.all.max == pytest.approx(0.9) and wide.needed_reg_max == 1
    narrow = side_distances(paths, ("cat",), Settings(**ONE_LEVEL), reg_max=16, bin_width=0.5)
    assert narrow.all.counts == (0, 1, 3) + (0,) * 13 and (narrow.needed_reg_max, narrow.needed_bin_width) == (3, 0.0708)
    assert "within 2.2 bins" in narrow.advice and "2006.04388" in narrow.advice and "little effect" in narrow.advice


def test_what_training_leaves_out_is_left_out(tmp_path: Path) -> None:
    box, crowd = {"bbox": [24, 24, 16, 16]}, {"bbox": [0, 0, 64, 64], "iscrowd": 1}
    thin, stray = {"bbox": [24, 24, 16, 0.5]}, {"bbox": [1, 1, 1.5, 1.5]}
    images = [(64, 64), (64, 64), (31, 64), (64, 64), (64, 64)]
    paths = write_set(tmp_path, images, [[box, crowd, thin], [crowd], [box], [], [box, stray]])
    found = side_distances(paths, ("cat",), Settings(**ONE_LEVEL))
    assert (found.images, found.boxes, found.boxes_without_cells) == (2, 3, 1)  # no point of the grid lies in the stray box
    assert found.levels[0].boxes == found.levels[0].cells == 2 and found.levels[0].boxes_share == pytest.approx(2 / 3)
    assert found.all.quantiles["0.5"] == found.all.max == 1.0


def test_a_set_no_box_of_which_has_a_cell(tmp_path: Path) -> None:
    paths = write_set(tmp_path, [(64, 64)], [[{"bbox": [1, 1, 1.5, 1.5]}]])
    found = side_distances(paths, ("cat",), Settings(**ONE_LEVEL))
    assert found.boxes_without_cells == 1 and found.all.cells == 0 and found.all.quantiles is None and found.needed_reg_max is None
    assert "nothing to learn" in found.advice
    out = io.StringIO()
    print_sides(found, "profile x", Console(file=out, width=200, force_terminal=True))
    assert "nothing to learn" in out.getvalue()


@pytest.mark.parametrize("width", [1.0, 0.05])
def test_equal_to_what_training_learns(tmp_path: Path, width: float) -> None:
    """Images of many sizes through the trial's own pipeline and batches; targets by the head and by mmdet's assigner."""
    rng = np.random.default_rng(0)
    sizes = [(int(w), int(h)) for w, h in rng.integers(40, 300, (12, 2))] + [(200, 150)] * 4
    boxes = []
    for w, h in sizes:
        corners = np.sort(rng.uniform(0, [[w], [h]], (int(rng.integers(1, 12)), 2, 2)), axis=2)
        boxes.append([{"bbox": [x1, y1, x2 - x1, y2 - y1]} for (x1, x2), (y1, y2) in corners.tolist()])
        boxes[-1][0]["iscrowd"] = int(rng.integers(2)) if len(boxes[-1]) > 1 else 0
    paths = write_set(tmp_path, sizes, boxes, pixels=True)
    model = {"head_channels": 8, "neck_channels": 8, "head_convs": 1, "anchor_scale": 3.0}
    own = Settings(strides=(8, 16, 32), image_size=(213, 127), flip_prob=0.0, bin_width=width, reg_max=4, **model)
    found = side_distances(paths, ("cat",), own)

    data = DataSpec(name="", digest="", classes=("cat",), train_images=0, val_images=0)
    spec = TrialSpec(settings=own, data=data, seed=0, code=TRAINING_CODE_VERSION)
    config = trial_config(spec, {key: str(value) for key, value in vars(paths).items()}, "")
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(config.train_dataloader.dataset)
    head = MODELS.build({**config.model.bbox_head, "train_cfg": config.model.train_cfg, "test_cfg": config.model.test_cfg})
    preprocess = MODELS.build(config.model.data_preprocessor)
    distances, learnt, total = {8: [], 16: [], 32: []}, {8: 0, 16: 0, 32: 0}, 0
    for start in range(0, len(dataset), 4):
        items = [dataset[k] for k in range(start, min(start + 4, len(dataset)))]
        batch = preprocess({"inputs": [i["inputs"] for i in items], "data_samples": [i["data_samples"] for i in items]}, training=True)
        levels = [tuple(-(-side // stride) for side in batch["inputs"].shape[-2:]) for stride in own.strides]
        geometry = head.geometry(levels, torch.device("cpu"))
        truth = [sample.gt_instances for sample in batch["data_samples"]]
        metas = [sample.metainfo for sample in batch["data_samples"]]
        padded = GroundTruth.pad(truth, torch.device("cpu"))
        assigned, gt_boxes = head.targets(geometry, padded, metas).assigned, padded.boxes
        for k, (instances, meta) in enumerate(zip(truth, metas, strict=True)):
            total += len(instances)
            cells = (assigned[k] >= 0).nonzero().squeeze(1)
            unit = (geometry.strides[cells] * width)[:, None]
            centers, targets = geometry.centers[cells] / unit, gt_boxes[k, assigned[k, cells]] / unit
            sides = torch.cat([centers - targets[:, :2], targets[:, 2:] - centers], 1)
            for stride in own.strides:
                here = geometry.strides[cells] == stride
                distances[stride].append(sides[here])
                learnt[stride] += len(assigned[k, cells[here]].unique())
            alone = [tuple(-(-side // stride) for side in meta["pad_shape"]) for stride in own.strides]
            priors = head.prior_generator.grid_priors(alone, device="cpu")
            boxes_alone = InstanceData(bboxes=instances.bboxes, labels=instances.labels)
            stock = ATSSAssigner(topk=9).assign(InstanceData(priors=torch.cat(priors)), list(map(len, priors)), boxes_alone)
            assert sorted((stock.gt_inds[stock.gt_inds > 0] - 1).tolist()) == sorted(assigned[k, cells].tolist())
    assert found.boxes == total and found.images == len(dataset)
    assert sum(learnt.values()) > 30 and min(learnt.values()) > 0
    for level in found.levels:
        sides = torch.cat(distances[level.stride])
        assert (level.boxes, level.cells) == (learnt[level.stride], len(sides))
        assert level.max == float(sides.max()) and level.clipped_sides == int((sides > 4 - 0.1).sum())
        counts = torch.bincount(sides.flatten().long().clamp(max=511), minlength=4)
        assert level.counts == tuple(counts.tolist())


@settings(max_examples=100)
@given(st.tuples(st.integers(32, 700), st.integers(32, 700)), st.sampled_from([(1333, 800), (320, 240), (128, 128), (131, 77)]), st.data())
def test_scaling_is_mmdets(size: tuple[int, int], into: tuple[int, int], data: st.DataObject) -> None:
    reals = st.floats(-1, 1.5, width=32)
    shares = torch.tensor(data.draw(st.lists(st.tuples(reals, reals, reals, reals), min_size=1, max_size=4)))
    boxes = shares * torch.tensor([*size, *size])
    step = Resize(scale=into, keep_ratio=True)
    results = {"img": np.zeros((size[1], size[0], 1), np.uint8), "gt_bboxes": HorizontalBoxes(boxes.clone())}
    results = step(results)
    before = boxes.clone()
    ours, (width, height) = scale_boxes(boxes, size, into)
    assert (height, width) == results["img_shape"] and torch.equal(ours, results["gt_bboxes"].tensor) and torch.equal(boxes, before)


@settings(max_examples=200)
@given(
    st.lists(st.floats(np.float32(0.001), 19, width=32), min_size=4, max_size=60),
    st.integers(1, 32),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from([1, 100]),
)
def test_what_is_needed_is_enough_and_nothing_less_is(values: list[float], reg_max: int, width: float, copies: int) -> None:
    def level(distances: np.ndarray, n: int, bins: float):
        return describe_level(8, np.sort(distances.astype(np.float32)), 1, 0, 1, n, bins)

    distances = np.array(values * copies)
    found = level(distances, reg_max, width)
    assert found.clipped_sides == int((distances.astype(np.float32) > np.float32(reg_max - 0.1)).sum())
    assert sum(found.counts) == len(distances) and len(found.counts) >= reg_max
    enough = level(distances, found.needed_reg_max, width)
    assert enough.clipped_share <= 0.001
    if found.needed_reg_max > 1:
        assert level(distances, found.needed_reg_max - 1, width).clipped_share > 0.001
    for factor, sufficient in ((1, True), (0.98, False)):
        other = found.needed_bin_width * factor
        assert (level(distances.astype(np.float64) * width / other, reg_max, other).clipped_share <= 0.001) == sufficient


def test_one_side_in_a_thousand_may_be_clipped() -> None:
    near, far = [1.0] * 1998, [5.0, 9.0]
    assert describe_level(8, np.array(near + far, np.float32), 1, 1, 1, 16, 1.0).needed_reg_max == 2
    assert describe_level(8, np.array(near[:-3] + far, np.float32), 1, 1, 1, 16, 1.0).needed_reg_max == 6  # 1 of 1997
    for n in range(1, 129):  # 2.9 and its like in float32 lie above n - 0.1 in float64
        assert describe_level(8, np.full(4, n - 0.1, np.float32), 1, 1, 1, n, 1.0).needed_reg_max == n
    huge = describe_level(8, np.full(8, 2000.0, np.float32), 1, 1, 1, 16, 1.0)
    assert huge.needed_reg_max is None and huge.needed_bin_width is None
    assert len(huge.counts) == 512 and huge.counts[-1] == 8


def test_a_users_own_assigner_is_refused(tmp_path: Path) -> None:
    paths = write_set(tmp_path, [(64, 64)], [[{"bbox": [24, 24, 16, 16]}]])
    with pytest.raises(SpecError, match="assigner is MyAssigner"):
        side_distances(paths, ("cat",), Settings(**ONE_LEVEL, assigner="MyAssigner"))


def test_notes_say_what_is_left_out(tmp_path: Path) -> None:
    paths = write_set(tmp_path, [(64, 64)], [[{"bbox": [24, 24, 16, 16]}]])
    assert side_distances(paths, ("cat",), Settings(**ONE_LEVEL)).notes == ()
    many = Settings(**ONE_LEVEL | {"flip_prob": 0.5}, scale_range=(0.6, 1.0), crop="vit_adapter")
    assert [note.split()[0] for note in side_distances(paths, ("cat",), many).notes] == ["flips", "multi-scale", "crops"]


def test_histogram() -> None:
    assert histogram((8, 1, 0, 4), 4) == "█▁ ▄| "
    assert histogram((0, 0, 16, 2, 1), 2) == "  |█"
    assert histogram((1,) * 64 + (2,), 64) == "█" * 32 + "|█"  # two bins a bar


@pytest.mark.parametrize("name", REAL)
def test_real_data(name: str) -> None:
    profile = "desk" if name in ("coco_crop", "coco_slice") else "bccd"
    own = resolve_settings(load_profile(ROOT / f"experiments/profiles/{profile}.yaml").settings)
    report = coco.check_dataset(REAL[name], decode=False)
    calls = []
    found = side_distances(coco.find_dataset(REAL[name]), report.classes, own, progress=lambda done, of: calls.append((done, of)))
    assert found.images == report.splits["train"].trainable and calls[-1] == (found.images, found.images)
    thin = 1 if name == "coco_people" else 0  # a box of 0.9 px, which training leaves out
    assert found.boxes == report.splits["train"].boxes - thin
    assert found.all.boxes + found.boxes_without_cells == found.boxes
    assert found.all.cells == sum(level.cells for level in found.levels) and found.all.boxes <= sum(level.boxes for level in found.levels)
    assert all(sum(level.counts) == 4 * level.cells for level in (*found.levels, found.all))
    assert 0.9 < found.all.quantiles["0.5"] < 5  # ATSS: sides of about 8 strides
    assert max(level.max for level in found.levels if level.cells) == found.all.max


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys, "data", "check")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=8, val_images=8), tmp_path_factory.mktemp("data"))


def test_text_and_json(cli: Cli, shapes: Path) -> None:
    code, plain, _ = cli(shapes)
    assert code == 0 and "box sides" not in plain
    code, text, err = cli(shapes, "--profile", "desk", "--reg-max", 4)
    assert code == 0 and text.startswith(plain.rstrip()) and "assigning" in err
    assert "reg_max 4, bin_width 1, image_size 128x128" in text and "ambiguous sides" in text and "reg_max 4 clips" in text
    assert [line.split()[0] for line in text.splitlines() if re.match(r" *(8|16|32|all)  ", line)] == ["8", "16", "32", "all"]
    assert "▁" not in text  # no terminal
    code, out, _ = cli(shapes, "--profile", "desk", "--reg-max", 4, "--bin-width", 2, "--json")
    sides = json.loads(out)["sides"]
    assert code == 0 and json.loads(out)["ok"] and json.loads(out)["profile"] == "desk"
    assert (sides["reg_max"], sides["bin_width"], sides["image_size"]) == (4, 2.0, [128, 128])
    assert [level["stride"] for level in sides["levels"]] == [8, 16, 32] and sides["all"]["stride"] == 0
    assert sides["boxes"] == json.loads(out)["splits"]["train"]["boxes"] and sum(sides["all"]["counts"]) == 4 * sides["all"]["cells"] > 0
    assert {"advice", "needed_reg_max", "needed_bin_width", "notes", "boxes_without_cells"} <= sides.keys()
    assert sides["levels"][2]["quantiles"] is None
    code, out, _ = cli(shapes, "--json")
    assert code == 0 and not {"sides", "profile"} & json.loads(out).keys()


def test_a_terminal_shows_histograms(shapes: Path) -> None:
    own = resolve_settings(load_profile(ROOT / "experiments/profiles/desk.yaml").settings)
    found = side_distances(coco.find_dataset(shapes), CLASSES, own)
    out = io.StringIO()
    print_sides(found, "profile desk", Console(file=out, width=80, force_terminal=True, highlight=False))
    assert "…" not in out.getvalue()
    assert "bins 0 to 16, and beyond" in out.getvalue() and "█" in out.getvalue()


def test_a_profile_of_the_users_that_generates_its_data(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "profiles"
    folder.mkdir(parents=True)
    text = (ROOT / "experiments/profiles/desk.yaml").read_text().replace("name: desk", "name: own")
    (folder / "own.yaml").write_text(re.sub(r"data: {.*}", "data: {train_images: 8, val_images: 8}", text))
    code, out, _ = cli("--profile", "own")
    assert code == 0 and "profile own" in out and "8 training images" in out
    assert len(list((tmp_path / "runs/data").glob("ambiguous_shapes-*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "dsk", "."], "Did you mean 'desk'"),
        (["--profile", "bccd"], "has no data set of its own"),
        ([], "give PATH"),
        ([".", "--reg-max", "8"], "need --profile"),
        ([".", "--profile", "desk", "--reg-max", "0"], "a whole number from 1 to 128"),
        ([".", "--profile", "desk", "--bin-width", "0"], "above 0 and of at most 64"),
        (["/nowhere/at/all", "--profile", "desk"], "/nowhere/at/all"),
    ],
)
def test_refusals(cli: Cli, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, out, err = cli(*arguments)
    assert code == 2 and words in out + err and not (tmp_path / "runs").exists()


def test_bad_data_is_told_and_not_measured(cli: Cli, shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(shapes, folder)
    os.remove(folder / "dataset.json")
    path = folder / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [100, 100, 500, 20]
    path.write_text(json.dumps(content))
    code, out, err = cli(folder, "--profile", "desk")
    assert code == 2 and "leaves its image" in out and "box sides" not in out and "cannot be trained on" in err
    code, out, _ = cli(folder, "--profile", "desk", "--json")
    assert code == 2 and json.loads(out)["sides"] is None and json.loads(out)["errors"]
