"""The generated data set: deterministic, complete or absent, and its truth fits its pixels."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gfl_lab import naming
from gfl_lab.data import ambiguous_shapes as shapes
from gfl_lab.data import coco, shape_images
from gfl_lab.errors import DataError

SMALL = shapes.AmbiguousShapesSpec(train_images=60, val_images=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return shapes.generate(SMALL, tmp_path_factory.mktemp("data"))


def annotations(folder: Path, split: str = "train") -> dict:
    return json.loads((folder / f"annotations/instances_{split}.json").read_text())


# --- drawing a box --------------------------------------------------------------------------------

RIGHT = {"bbox": [10, 20, 30, 40], "ambiguity": {"side": 2, "kind": "blurred", "edges": [40, 70], "probs": [0.6, 0.4]}}


def test_draw_box_by_hand():
    assert shapes.read_annotation(RIGHT) == ((10, 20, 40, 60), 2, (40, 70), (0.6, 0.4))
    assert shapes.annotator_boxes(RIGHT) == ((10, 20, 40, 60), (10, 20, 70, 60))
    assert shapes.draw_box(RIGHT, 0.0) == shapes.draw_box(RIGHT, 0.599) == (10, 20, 40, 60)
    assert shapes.draw_box(RIGHT, 0.6) == shapes.draw_box(RIGHT, 0.999) == (10, 20, 70, 60)
    top = {"bbox": [10, 20, 30, 40], "ambiguity": {"side": 1, "kind": "blurred", "edges": [20, 5], "probs": [0.6, 0.4]}}
    assert shapes.draw_box(top, 0.9) == (10, 5, 40, 60)


@pytest.mark.parametrize("annotation", [{"bbox": [1, 2, 3, 4], "ambiguity": None}, {"bbox": [1, 2, 3, 4]}])
def test_a_clear_box_is_the_same_for_both(annotation):
    assert shapes.annotator_boxes(annotation) == ((1, 2, 4, 6), (1, 2, 4, 6))
    assert shapes.draw_box(annotation, 0.99) == (1, 2, 4, 6)


# --- content --------------------------------------------------------------------------------------


def test_the_same_spec_gives_the_same_digest_on_every_machine(folder, tmp_path):
    again = shapes.generate(SMALL, tmp_path)
    about = shapes.describe(again)
    assert about == shapes.describe(folder)
    assert about["digest"] == "5d7329d6936b5400"  # a change of it is a change of the data: raise GENERATOR_VERSION
    assert shapes.verify(again)


def test_other_seeds_give_other_data_and_more_images_keep_the_first(folder, tmp_path):
    other = shapes.generate(shapes.AmbiguousShapesSpec(train_images=2, val_images=1, seed=1), tmp_path)
    more = shapes.generate(shapes.AmbiguousShapesSpec(train_images=2, val_images=1), tmp_path)
    first = (folder / "images/train_00000.png").read_bytes()
    assert (other / "images/train_00000.png").read_bytes() != first
    assert (more / "images/train_00000.png").read_bytes() == first


def test_it_is_a_valid_coco_data_set_with_truth(folder):
    report = coco.require_valid(folder)
    assert report.classes == shapes.CLASSES
    assert (report.splits["train"].images, report.splits["val"].images) == (60, 20)
    assert not report.warnings
    spec = coco.dataspec(folder)
    assert (spec.name, spec.truth, spec.digest) == ("ambiguous_shapes", True, report.digest)
    assert coco.dataspec(folder, report) == spec
    assert coco.dataset_digest(folder) == spec.digest


def test_annotations(folder):
    for split in ("train", "val"):
        data = annotations(folder, split)
        for annotation in data["annotations"]:
            ambiguity = annotation["ambiguity"]
            a, b = shapes.annotator_boxes(annotation)
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) in (a, b)
            assert annotation["area"] == width * height
            for box in (a, b):
                assert 0 <= box[0] < box[2] <= 128
                assert 0 <= box[1] < box[3] <= 128
            if ambiguity is None:
                assert a == b
                continue
            assert sum(ambiguity["probs"]) == pytest.approx(1)
            assert min(ambiguity["probs"]) >= 0.35
            assert ambiguity["probs"][0] == shape_images.SHORT_PROBABILITY[ambiguity["kind"]]
            assert 28 <= abs(ambiguity["edges"][0] - ambiguity["edges"][1]) <= 34
            assert (b[0] <= a[0], b[1] <= a[1], b[2] >= a[2], b[3] >= a[3]) == (True,) * 4
            assert sum(p != q for p, q in zip(a, b, strict=True)) == 1
            assert a[ambiguity["side"]] == ambiguity["edges"][0]


def test_every_kind_and_side_occurs_and_half_the_objects_are_ambiguous(folder):
    found = [a["ambiguity"] for split in ("train", "val") for a in annotations(folder, split)["annotations"]]
    kinds, sides = Counter(a["kind"] for a in found if a), Counter(a["side"] for a in found if a)
    assert set(kinds) == set(shape_images.KINDS)
    assert set(sides) == set(range(len(naming.SIDES)))
    assert 0.35 < sum(kinds.values()) / len(found) < 0.65


def test_objects_do_not_overlap(folder):
    by_image: dict[int, list] = {}
    for annotation in annotations(folder)["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(shapes.annotator_boxes(annotation)[1])
    assert max(len(boxes) for boxes in by_image.values()) >= 2
    for boxes in by_image.values():
        for k, a in enumerate(boxes):
            for b in boxes[:k]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("shape", shapes.CLASSES)
@pytest.mark.parametrize("tip", range(4))
@pytest.mark.parametrize(("length", "across"), [(26, 24), (27, 25), (56, 50), (90, 24), (89, 49)])
def test_bodies_touch_all_four_sides_of_their_box(shape, tip, length, across):
    first, last = shape_images.body_rows(shape, length, across, tip)
    assert len(first) == len(last) == across
    assert (last > first).all()
    assert first.min() == 0
    assert last.max() == length


@pytest.mark.parametrize("kind", shape_images.KINDS)
@pytest.mark.parametrize("shape", shapes.CLASSES)
@pytest.mark.parametrize("side", range(4))
def test_pixels_change_at_both_edges_and_nowhere_beyond(kind, shape, side):
    """Painted on flat grey, an object changes pixels up to its far edge exactly, and looks different beyond its near one."""
    length, across, tail, margin = 40, 30, 30, 4
    extent = (across + 2 * margin, length + tail) if side in (0, 2) else (length + tail, across + 2 * margin)
    for seed in range(5):
        image = np.full((*extent, 3), 128, np.int32)
        view = shape_images.turned(image, side)
        shape_images.draw_object(np.random.default_rng(seed), view, shape, length, across, tail, kind, False)
        # `turned` puts the ambiguous side last, so that one check serves all sides
        assert view.shape[:2] == (across + 2 * margin, length + tail)
        body = view[margin:-margin]
        changed = (body != 128).any(-1)
        assert changed[:, 0].any()  # the body's far end
        assert changed[:, -1].any()  # the tail's end
        assert changed[0].any()
        assert changed[-1].any()
        middle = body[across // 2 - 5 : across // 2 + 5].astype(float).mean(0)
        step = np.abs(np.diff(middle, axis=0)).sum(-1)
        if shape == "box":
            assert step[length - 1] > 25  # the near edge
            assert np.abs(middle[-1] - 128).sum() > 15  # the far edge against the background


# --- files ----------------------------------------------------------------------------------------


def test_it_is_reused(folder, monkeypatch):
    def never(*_):
        raise AssertionError("generated again")

    monkeypatch.setattr(shapes, "_write", never)
    assert shapes.generate(SMALL, folder.parent) == folder


@pytest.mark.parametrize("damage", ["image", "annotations", "dataset.json"])
def test_a_damaged_folder_is_made_again(tmp_path, damage):
    spec = shapes.AmbiguousShapesSpec(train_images=3, val_images=2)
    folder = shapes.generate(spec, tmp_path)
    about = shapes.describe(folder)
    target = {
        "image": folder / "images/val_00001.png",
        "annotations": folder / "annotations/instances_val.json",
        "dataset.json": folder / "dataset.json",
    }[damage]
    target.unlink()
    assert shapes.describe(folder) is None
    shapes.generate(spec, tmp_path)
    assert shapes.describe(folder) == about
    assert shapes.verify(folder)


def test_altered_pixels_are_found(tmp_path):
    folder = shapes.generate(shapes.AmbiguousShapesSpec(train_images=3, val_images=2), tmp_path)
    Image.new("RGB", (128, 128)).save(folder / "images/val_00001.png")
    assert not shapes.verify(folder)
    assert any("dataset.json" in str(problem) for problem in coco.check_dataset(folder).errors)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "_write", broken)
        with pytest.raises(OSError, match="disk full"):
            shapes.generate(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_the_rest_of_a_killed_process_is_cleared(tmp_path):
    spec = shapes.AmbiguousShapesSpec(train_images=2, val_images=1)
    stale = tmp_path / f".{spec.folder}.abc.tmp"
    (stale / "images").mkdir(parents=True)
    shapes.generate(spec, tmp_path)
    assert not stale.exists()


def _generate(root: str) -> str:
    return str(shapes.generate(shapes.AmbiguousShapesSpec(train_images=40, val_images=5), Path(root)))


def test_several_processes_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.map(_generate, [str(tmp_path)] * 3, chunksize=1)
    assert len(set(folders)) == 1
    assert shapes.verify(Path(folders[0]))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_a_bad_spec_names_every_problem():
    with pytest.raises(DataError) as caught:
        shapes.AmbiguousShapesSpec(train_images=0, size=64)
    assert len(caught.value.problems) == 2
    assert "train_images is 0" in str(caught.value)
