"""Boxes that no location learns: counted as the head's targets have them, each with its cause, and what would leave fewer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gfl_lab.train  # noqa: F401  (makes mmdet importable)
from gfl_lab.analysis.side_distances import side_distances
from gfl_lab.data import coco
from gfl_lab.data.assignment import Assignment, Boxes, Cause, Pyramid, assign, scaled_size
from gfl_lab.data.unassigned import MEANING, Unassigned, find_unassigned, training_boxes, why_not_analysed
from gfl_lab.detector.build import model_config
from gfl_lab.detector.targets import GroundTruth
from gfl_lab.session.unassigned import nearest_of, unassigned_lines
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.files import load_profile, resolve_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec
from tests.support.cli import Cli, runner
from tests.support.real_data import REAL
from tests.test_side_distances import write_set

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmcv.image import rescale_size
from mmdet.registry import DATASETS, MODELS
from mmengine.structures import InstanceData

ROOT = Path(__file__).parents[1]
CARD = {"bbox": [230, 150, 180, 180]}
"""90 px of the 320x240 into which an image of 640x480 is scaled: between the anchors of 64 and 128 px."""


def bccd(**own: object) -> Settings:
    profile = load_profile(ROOT / "experiments/profiles/bccd.yaml")
    return resolve_settings(profile.settings, own)


def boxes_of(xyxy: list[list[float]], size: tuple[int, int]) -> Boxes:
    """Boxes of one image of (width, height)."""
    return Boxes(np.array(xyxy, np.float32).reshape(-1, 4), np.zeros(len(xyxy), np.int64), np.array([size], float))


def causes(found: Assignment) -> list[str]:
    return ["" if cause < 0 else str(list(Cause)[cause]) for cause in found.causes]


ANCHORS_OF_16 = Pyramid((8,), 2.0, 9, (64, 64), 8)
"""One level: anchors of 16 px on the points 0, 8, 16, ... of a 64x64 image."""


@pytest.mark.parametrize(
    ("xyxy", "pyramid", "expected"),
    [
        # no multiple of 8 lies between 1 and 6
        ([[1, 1, 6, 6]], ANCHORS_OF_16, [Cause.NO_LOCATION_INSIDE]),
        # the second box has one positive alone, (32, 32) with IoU 0.88, and there the first has IoU 1
        ([[24, 24, 40, 40], [25, 24, 41, 40]], ANCHORS_OF_16, ["", Cause.CROWDED_OUT]),
        ([[24, 24, 40, 40], [24, 24, 40, 40], [24, 24, 40, 40]], ANCHORS_OF_16, ["", Cause.SAME_BOX, Cause.SAME_BOX]),
        # the standard deviation of one number is none
        ([[24, 24, 40, 40]], Pyramid((8,), 2.0, 1, (64, 64), 8), [Cause.ONE_CANDIDATE]),
        # nine of 27 candidates have IoU 64²/90² = 0.506, nine 90²/128² = 0.494, nine 90²/256² = 0.124: mean + deviation is 0.555
        ([[115, 75, 205, 165]], Pyramid((8, 16, 32), 8.0, 9, (320, 256), 32), [Cause.BETWEEN_ANCHORS]),
        # a fourth level adds nine of 0.031: mean + deviation is 0.5056
        ([[115, 75, 205, 165]], Pyramid((8, 16, 32, 64), 8.0, 9, (320, 256), 32), [""]),
        # nine of 18 candidates have IoU 20²/64² = 0.098, nine 20²/128² = 0.024: half of them, so mean + deviation is above both
        ([[54, 54, 74, 74]], Pyramid((8, 16), 8.0, 9, (128, 128), 8), [Cause.BELOW_ANCHORS]),
        # nine of 18 have IoU 32²/64² = 0.25, nine 16²/64²
        ([[0, 0, 64, 64]], Pyramid((8, 16), 2.0, 9, (64, 64), 8), [Cause.ABOVE_ANCHORS]),
        # rows of the second level lie at 0, 16, ...: highest is IoU 7·16 / (256 + 384 - 112) = 0.21, of anchors centred on y = 16
        ([[4, 7, 52, 15]], Pyramid((8, 16), 1.0, 9, (64, 64), 8), [Cause.BEST_OUTSIDE]),
    ],
)
def test_hand_worked(xyxy: list[list[float]], pyramid: Pyramid, expected: list[str]) -> None:
    assert causes(assign(boxes_of(xyxy, pyramid.image_size), pyramid)) == expected


def test_every_cause_has_a_text_and_every_reason_its_boxes() -> None:
    assert set(MEANING) == set(Cause)
    size = (320, 256)
    every = [[115, 75, 205, 165], [1, 1, 6, 6], [20, 20, 60, 60], [20, 20, 60, 60], [70, 40, 250, 220]]
    found = find_unassigned(boxes_of(every, size), Settings(strides=(8, 16, 32), image_size=size))
    assert {reason.cause for reason in found.reasons} == {"between_anchors", "no_location_inside", "same_box"}
    assert {reason.between: reason.boxes for reason in found.reasons if reason.between} == {(64.0, 128.0): 1, (128.0, 256.0): 1}
    assert sum(reason.boxes for reason in found.reasons) == found.unassigned == 4
    assert [reason.boxes for reason in found.reasons] == [1] * 4
    text = "\n".join(found.lines())
    assert "4 of 5 training boxes (80.0%)" in text and "between the anchors of 64 and 128 px (median size 90 px)" in text
    assert "1 box repeats another one exactly: remove it" in text


def learnt_by_the_head(own: Settings, boxes: Boxes) -> np.ndarray:
    """(G,) boxes with a location in the targets of the real head, all images in one batch."""
    config = model_config(own, 1)
    head = MODELS.build({**config.bbox_head, "train_cfg": config.train_cfg, "test_cfg": config.test_cfg})
    truth, metas = [], []
    for number, size in enumerate(boxes.sizes):
        into = scaled_size(*size, own.image_size)
        factor = torch.tensor([into[0] / size[0], into[1] / size[1]], dtype=torch.float32).repeat(2)
        xyxy = torch.from_numpy(boxes.xyxy[boxes.image == number]) * factor
        xyxy = torch.minimum(xyxy.clamp(min=0), torch.tensor([*into, *into], dtype=torch.float32))
        truth.append(InstanceData(bboxes=xyxy, labels=torch.zeros(len(xyxy), dtype=torch.long)))
        metas.append({"pad_shape": tuple(-(-side // own.pad_to) * own.pad_to for side in into[::-1])})
    shape = [max(sides) for sides in zip(*(meta["pad_shape"] for meta in metas), strict=True)]
    levels = [tuple(-(-side // stride) for side in shape) for stride in own.strides]
    cpu = torch.device("cpu")
    assigned = head.targets(head.geometry(levels, cpu), GroundTruth.pad(truth, cpu), metas).assigned
    counts = np.bincount(boxes.image, minlength=len(boxes.sizes))
    return np.concatenate([np.isin(np.arange(many), row.unique().numpy()) for row, many in zip(assigned, counts, strict=True)])


SHAPES = [(40, 30), (320, 240), (640, 480), (300, 500), (900, 33), (33, 700), (100, 100)]


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    strides=st.sampled_from([(8, 16, 32), (8,), (8, 16), (4, 8, 16, 32, 64), (8, 16, 32, 64, 128)]),
    scale=st.sampled_from([8.0, 8.0, 4.0, 1.0, 6.3]),
    topk=st.sampled_from([9, 9, 9, 1, 2, 17, 60]),
    into=st.sampled_from([(320, 240), (128, 128), (213, 127)]),
    pad_to=st.sampled_from([32, 32, 1]),
)
def test_what_is_counted_is_what_the_head_does_not_learn(
    seed: int, strides: tuple[int, ...], scale: float, topk: int, into: tuple[int, int], pad_to: int
) -> None:
    """Also boxes of whole px, which often lie equally far from several anchors, and copies."""
    own = Settings(
        strides=strides, anchor_scale=scale, atss_topk=topk, image_size=into, pad_to=pad_to, head_channels=8, neck_channels=8, head_convs=1
    )
    rng = np.random.default_rng(seed)
    sizes = np.array([SHAPES[k] for k in rng.integers(len(SHAPES), size=3)], float)
    image = np.sort(rng.integers(3, size=int(rng.integers(1, 40))))
    corner = rng.uniform(0, sizes[image] * 0.95)
    far = np.minimum(corner + np.exp(rng.uniform(0, math.log(400), corner.shape)), sizes[image])
    if whole := rng.random() < 0.5:
        sizes[:] = into  # not scaled
        corner, far = np.floor(corner), np.floor(corner) + np.ceil(far - corner)
    boxes = Boxes(np.concatenate([corner, far], axis=1).astype(np.float32), image, sizes)
    if rng.random() < 0.3:  # twins
        boxes.xyxy[1:][image[1:] == image[:-1]] = boxes.xyxy[:-1][image[1:] == image[:-1]]
    found = assign(boxes, Pyramid.of(own), nearest_of if whole else None)
    np.testing.assert_array_equal(found.causes < 0, learnt_by_the_head(own, boxes))
    assert sum(int(found.having(cause).sum()) for cause in Cause) == found.unassigned == int((found.causes >= 0).sum())


@given(
    st.tuples(st.integers(1, 30_000), st.integers(1, 30_000)),
    st.tuples(st.integers(32, 8192), st.integers(32, 8192)).map(lambda pair: tuple(sorted(pair, reverse=True))),
)
def test_sizes_are_scaled_as_mmcv_does(size: tuple[int, int], into: tuple[int, int]) -> None:
    assert scaled_size(*size, into) == tuple(max(1, side) for side in rescale_size(size, into))


def test_the_boxes_are_those_that_training_learns(tmp_path: Path) -> None:
    """Crowds, thin boxes, boxes outside their image, small images and images without a box are left out, ids are out of order."""
    good, crowd = {"bbox": [10, 10, 50.5, 40]}, {"bbox": [0, 0, 64, 64], "iscrowd": 1}
    thin, outside = {"bbox": [10, 10, 0.5, 40]}, {"bbox": [101, 10, 20, 20]}
    flat, border = {"bbox": [5, 5, 20, 0]}, {"bbox": [90, 90, 15, 15]}
    own = [[good, crowd, border], [crowd], [good], [], [thin, flat, outside], [border, good, thin]]
    paths = write_set(tmp_path, [(100, 100), (100, 100), (31, 200), (100, 100), (100, 100), (100, 100)], own)
    content = json.loads(paths.train_annotations.read_text())
    content["images"].reverse()
    content["annotations"].reverse()
    paths.train_annotations.write_text(json.dumps(content))

    data = DataSpec(name="", digest="", classes=("cat",), train_images=0, val_images=0)
    spec = TrialSpec(settings=Settings(), data=data, seed=0, code=TRAINING_CODE_VERSION)
    config = trial_config(spec, {key: str(value) for key, value in vars(paths).items()}, "")
    infos = DATASETS.build({**config.train_dataloader.dataset, "pipeline": [], "serialize_data": False}).data_list
    expected = [[one["bbox"] for one in info["instances"] if not one["ignore_flag"]] for info in infos]
    found = training_boxes(paths.train_annotations)
    assert [found.xyxy[found.image == number].tolist() for number in range(len(found.sizes))] == expected and len(expected) == 2
    assert found.sizes.tolist() == [[100, 100]] * 2


@pytest.mark.parametrize("name", REAL)
def test_real_data_agrees_with_the_side_distances_of_torch(name: str) -> None:
    profile = "desk" if name in ("coco_crop", "coco_slice") else "bccd"
    own = resolve_settings(load_profile(ROOT / f"experiments/profiles/{profile}.yaml").settings)
    paths = coco.find_dataset(REAL[name])
    found = find_unassigned(training_boxes(paths.train_annotations), own, propose_above=1, nearest_of=nearest_of)
    classes = coco.check_dataset(REAL[name], decode=False).classes
    other = side_distances(paths, classes, own)
    assert (found.images, found.boxes, found.unassigned) == (other.images, other.boxes, other.boxes_without_cells)
    assert sum(reason.boxes for reason in found.reasons) == found.unassigned


# --- other settings -------------------------------------------------------------------------------


def cards(count: int = 300, seed: int = 0) -> Boxes:
    """Boxes of about 180 px on images of 640x480, one to three an image."""
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(count // 2, size=count))
    high = rng.normal(205, 20, count)
    wide = high * rng.uniform(0.6, 0.95, count)
    near = rng.uniform(0, 1, (count, 2)) * np.stack([640 - wide, 480 - high], axis=1)
    used, image = np.unique(image, return_inverse=True)
    xyxy = np.concatenate([near, near + np.stack([wide, high], axis=1)], axis=1).astype(np.float32)
    return Boxes(xyxy, image, np.tile([640.0, 480.0], (len(used), 1)))


def proposals(found: Unassigned) -> dict[str, int]:
    return {proposal.yaml: proposal.unassigned for proposal in found.proposals}


def test_cards_want_another_level() -> None:
    found = find_unassigned(cards(), bccd())
    assert found.share > 0.1
    main = found.reasons[0]
    assert (main.cause, main.between) == ("between_anchors", (64.0, 128.0)) and main.boxes >= found.unassigned - 1
    assert found.proposals[0].yaml == "strides: [8, 16, 32, 64]" and found.proposals[0].unassigned <= 1
    assert {"anchor_scale", "image_size"} <= {key for proposal in found.proposals for key in proposal.settings}
    assert found.summary.startswith(f"{found.unassigned} of 300 training boxes (")
    assert "; strides: [8, 16, 32, 64] would leave " in found.summary and found.summary.endswith("(1 level more, 1.01 times the locations)")


@pytest.mark.parametrize("kind", ["cards", "small", "crowded"])
def test_each_proposal_leaves_what_it_says_and_can_be_given(kind: str) -> None:
    rng = np.random.default_rng(1)
    boxes = cards()
    if kind != "cards":
        near = rng.uniform(0, 400, (400, 2)) if kind == "small" else rng.uniform(100, 180, (400, 2))
        far = near + rng.uniform(4, 30 if kind == "small" else 60, (400, 2))
        boxes = Boxes(np.concatenate([near, far], axis=1).astype(np.float32), np.sort(rng.integers(20, size=400)), np.full((20, 2), 480.0))
    found = find_unassigned(boxes, bccd())
    assert found.proposals and found.tried >= len(found.proposals)
    counts = [proposal.unassigned for proposal in found.proposals]
    assert max(counts) <= 0.8 * found.unassigned
    for proposal in found.proposals:
        again = find_unassigned(boxes, bccd(**{key: list(v) if isinstance(v, tuple) else v for key, v in proposal.settings.items()}))
        assert again.unassigned == proposal.unassigned, proposal


def test_large_sets_are_screened_on_a_sample_and_counted_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfl_lab.data.proposals.SCREENED", 400)
    boxes = cards(1500)
    found = find_unassigned(boxes, bccd())
    assert found.boxes == found.all_boxes == len(boxes)
    first = found.proposals[0]
    assert find_unassigned(boxes, bccd(**{k: list(v) for k, v in first.settings.items()})).unassigned == first.unassigned
    part = find_unassigned(boxes, bccd(), most=500)
    assert 500 <= part.boxes < 510 and part.all_boxes == len(boxes) and part.share == pytest.approx(found.share, abs=0.05)
    assert f"in a sample of {part.images} of {len(boxes.sizes)} images" in part.summary
    assert find_unassigned(boxes, bccd(), most=500) == part


def test_boxes_that_other_scales_may_learn_are_not_called_never_learned() -> None:
    assert "and are never learned" in find_unassigned(cards(), bccd()).summary
    for own in ({"scale_range": [0.6, 1.0]}, {"crop": "vit_adapter"}):
        found = find_unassigned(cards(), bccd(**own))
        assert "get no location at scale 1 without crops: " in found.summary and "never" not in "\n".join(found.lines())


def test_no_setting_helps_where_boxes_repeat() -> None:
    found = find_unassigned(boxes_of([[100, 100, 160, 160]] * 500, (320, 240)), bccd())
    assert found.unassigned == 499 and not found.proposals and [reason.cause for reason in found.reasons] == ["same_box"]
    assert found.advice == "No setting helps where 499 boxes repeat another one exactly: remove them from the annotations."
    assert "other settings" in found.summary


def test_a_proposal_says_what_it_clips() -> None:
    found = find_unassigned(cards(), bccd(reg_max=4))
    assert [text for text in found.lines() if "anchor_scale" in text and "% of the box sides" in text]
    assert not [text for text in find_unassigned(cards(), bccd()).lines() if "of the box sides" in text]
    assert not [text for text in find_unassigned(cards(), bccd(reg_max=4, dfl=False)).lines() if "of the box sides" in text]


@pytest.mark.parametrize(
    ("xyxy", "size"),
    [
        ([[0, 0, 640, 480]], (640, 480)),
        ([[0, 0, 1, 1], [639, 479, 640, 480], [0, 479, 640, 480]], (640, 480)),
        ([[5, 5, 19_000, 39]], (20_000, 40)),
        ([[0, 0, 30_000, 1]], (30_000, 32)),
        ([[-0.5, -0.5, 640.5, 480.5]], (640, 480)),
        ([], (640, 480)),
    ],
    ids=["whole image", "1 px", "wide image", "wider image", "over the border", "no boxes"],
)
def test_odd_boxes(xyxy: list[list[float]], size: tuple[int, int]) -> None:
    for own in (bccd(), Settings(), bccd(atss_topk=100), bccd(strides=[32])):
        found = find_unassigned(boxes_of(xyxy, size), own)
        assert found.boxes == len(xyxy) and sum(reason.boxes for reason in found.reasons) == found.unassigned
        assert json.dumps(found.to_dict(), allow_nan=False) and "\n".join(found.lines()) and found.summary


def test_locations_equally_far_are_asked_for() -> None:
    """Around (16, 16) the 9 nearest anchors are the 3 x 3; of the 16 around (20, 20) 12 are nearest: 4, then 8 at the same distance."""
    asked: list[tuple[int, int]] = []

    def first(distances: np.ndarray, many: int) -> np.ndarray:
        asked.append(distances.shape)
        assert distances.dtype == np.float32 and many == 9
        return np.argsort(distances, axis=1, kind="stable")[:, :many]

    found = assign(boxes_of([[12, 12, 20, 20], [4, 4, 36, 36], [8, 8, 24, 24]], (64, 64)), ANCHORS_OF_16, first)
    assert asked == [(1, 64)]
    plain = assign(boxes_of([[12, 12, 20, 20], [4, 4, 36, 36], [8, 8, 24, 24]], (64, 64)), ANCHORS_OF_16)
    np.testing.assert_array_equal(found.causes, plain.causes)


def test_own_assigners_and_heads_are_not_analysed() -> None:
    assert why_not_analysed(bccd()) == ""
    assert why_not_analysed(bccd(assigner="MyAssigner")) == "assigner is MyAssigner, which may assign boxes in its own way"
    assert "head is MyHead" in why_not_analysed(bccd(head="MyHead"))


# --- the command line -----------------------------------------------------------------------------

PROFILE = """
name: lab
title: cards
data: required
settings: {strides: [8, 16, 32], image_size: [320, 240], backbone: r18, base_channels: 8, init_weights: random, neck_channels: 8,
  head_channels: 8, epochs: 1, batch_size: 2, base_batch_size: 2}
cpu_seconds_per_image: 100
"""
EXPERIMENT = """
name: cards
kind: ablation
profile: lab
axes: {strides: [[8, 16, 32], [8, 16, 32, 64]], qfl: [false, true]}
baseline: {strides: [8, 16, 32], qfl: false}
"""


@pytest.fixture(scope="module")
def card_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of 640x480, each with a card of 180 px and an object of 64 px."""
    root = tmp_path_factory.mktemp("cards")
    write_set(root, [(640, 480)] * 4, [[CARD, {"bbox": [64, 64, 64, 64]}]] * 4, pixels=True)
    return root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    (tmp_path / "lab/profiles").mkdir(parents=True)
    (tmp_path / "lab/profiles/lab.yaml").write_text(PROFILE)
    (tmp_path / "lab/cards.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return runner(monkeypatch, capsys)


def test_data_check_says_why_and_what_would_serve(cli: Cli, folder: Path, card_set: Path) -> None:
    code, out, _ = cli("data", "check", card_set, "--profile", "lab/profiles/lab.yaml")
    assert code == 0 and "boxes without a location: 4 of 8 training boxes (50.0%); they are never learned\n" in out
    assert "  4  size between the anchors of 64 and 128 px (median size 90 px)" in out and "mean + standard deviation" in out
    assert "strides: [8, 16, 32, 64]" in out and "leaves 0" in out
    code, out, _ = cli("data", "check", card_set, "--profile", "lab/profiles/lab.yaml", "--json")
    found = json.loads(out)["unassigned"]
    assert code == 0 and found["analysed"] and (found["unassigned"], found["boxes"]) == (4, 8) == (found["all_boxes"] - 4, 8)
    assert json.loads(out)["sides"]["boxes_without_cells"] == 4
    assert found["reasons"][0]["cause"] == "between_anchors" and found["reasons"][0]["between"] == [64.0, 128.0]
    best = found["proposals"][0]
    assert best["settings"] == {"strides": [8, 16, 32, 64]} and best["unassigned"] == 0


def test_a_profile_is_found_here_and_beside_the_experiment(cli: Cli, folder: Path, card_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("data", "check", card_set, "--profile", "lab")[0] == 2
    code, _, err = cli("data", "check", card_set, "--profile", "nowhere.yaml")
    assert code == 2 and "nowhere.yaml" in err
    monkeypatch.chdir(folder / "lab")
    assert cli("data", "check", card_set, "--profile", "lab", "--json")[0] == 0
    shutil.move("cards.yaml", folder / "cards.yaml")  # no longer beside its profile, which lies in ./profiles
    assert cli("plan", folder / "cards.yaml", "--data", card_set)[0] == 0


def test_plan_has_a_line_for_each_group_of_variants_that_loses_boxes(
    cli: Cli, folder: Path, card_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = cli("plan", "lab/cards.yaml", "--data", card_set)
    lines = [line for line in err.splitlines() if "location" in line]
    assert code == 0 and len(lines) == 1 and "location" not in out
    assert lines[0].startswith("warning (strides=[8, 16, 32] qfl=off, strides=[8, 16, 32] qfl=on): 4 of 8 training boxes (50.0%) get no")
    assert "strides: [8, 16, 32, 64] would leave 0" in lines[0]
    assert lines[0].endswith(f"gfl-lab data check {card_set} --profile lab/profiles/lab.yaml")
    code, out, _ = cli("plan", "lab/cards.yaml", "--data", card_set, "--json")
    groups = json.loads(out)["unassigned"]
    assert [(group["analysed"], group["unassigned"], len(group["variants"])) for group in groups] == [(True, 4, 2), (True, 0, 2)]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it has been kept")

    with monkeypatch.context() as patched:
        patched.setattr("gfl_lab.data.unassigned.find_unassigned", refuse)
        code, _, again = cli("plan", "lab/cards.yaml", "--data", card_set)
    assert code == 0 and lines[0] in again
    kept = sorted((folder / "runs/data/.checked").glob("unassigned-*.json"))
    assert len(kept) == 2
    kept[0].write_text('{"analysed": tr')
    kept[1].write_text("[]")
    code, _, again = cli("plan", "lab/cards.yaml", "--data", card_set)
    assert code == 0 and lines[0] in again


def test_run_says_it_before_it_trains(cli: Cli, folder: Path, card_set: Path) -> None:
    code, _, err = cli("run", "lab/cards.yaml", "--data", card_set, "--executor", "inline", "--budget", "1min")
    assert code == 5 and "4 of 8 training boxes (50.0%) get no location" in err
    assert not (folder / "runs/trials").exists()


def test_search_says_it_too(cli: Cli, folder: Path, card_set: Path) -> None:
    text = (
        "name: tune\nkind: search\nprofile: lab\nsearch: {trials: 2, metric: AP, scheduler: none, space: {atss_topk: {low: 7, high: 12}}}\n"
    )
    (folder / "lab/tune.yaml").write_text(text)
    code, _, err = cli("plan", "lab/tune.yaml", "--data", card_set)
    assert code == 0 and "training boxes (50.0%) get no location" in err, err


def test_few_are_not_worth_a_line(cli: Cli, folder: Path, tmp_path: Path) -> None:
    many = [{"bbox": [8 + 40 * column, 8 + 40 * row, 30, 30]} for column in range(10) for row in range(10)]
    write_set(tmp_path / "few", [(640, 480)], [[*many, {"bbox": [1, 1, 5, 5]}]], pixels=True)
    code, _, err = cli("plan", "lab/cards.yaml", "--data", tmp_path / "few")
    assert code == 0 and "location" not in err
    code, out, _ = cli("plan", "lab/cards.yaml", "--data", tmp_path / "few", "--json")
    assert [group["unassigned"] for group in json.loads(out)["unassigned"]] == [1, 1]


def test_own_assigners_are_named(cli: Cli, folder: Path, card_set: Path) -> None:
    text = PROFILE.replace("lab\n", "own\n", 1).replace("strides:", "assigner: Mine, strides:")
    (folder / "lab/profiles/own.yaml").write_text(text)
    code, out, _ = cli("data", "check", card_set, "--profile", "lab/profiles/own.yaml")
    assert code == 0 and "not analysed: assigner is Mine" in out and "boxes without" not in out
    code, out, _ = cli("data", "check", card_set, "--profile", "lab/profiles/own.yaml", "--json")
    found = json.loads(out)
    assert code == 0 and found["sides"] is None and found["unassigned"] == {
        "analysed": False, "reason": "assigner is Mine, which may assign boxes in its own way"
    }  # fmt: skip


def test_groups_that_are_not_analysed_are_named_once() -> None:
    plan = type("Plan", (), {"profile": load_profile(ROOT / "experiments/profiles/bccd.yaml")})
    groups = [{"variants": ["a", "b", "c"], "analysed": False, "reason": "assigner is X"}]
    found = unassigned_lines(groups, plan, None, ROOT / "experiments")
    assert found == ["note: boxes without a location are not counted: assigner is X"]
    assert unassigned_lines(groups, plan, None, ROOT / "experiments", notes=False) == []
