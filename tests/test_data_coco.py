"""Checking data sets: the real ones are valid, and every defect that we can make is found, named and placed."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gfl_lab.data import coco
from gfl_lab.errors import DataError, ExitCode
from tests.support.real_data import CROPS, REAL

COUNTS = {
    "bccd_crop": (5, 14, 4, 9), "coco_crop": (4, 32, 4, 31),
    "bccd": (292, 3935, 72, 944), "coco_slice": (59, 577, 66, 552), "coco_people": (427, 3124, 150, 1179),
}  # fmt: skip
"""Images and boxes of train, then of val; crowd regions are no boxes."""


def noise(path: Path, size=(64, 48), mode="RGB", seed=0, **options) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


class Dataset:
    """A small valid data set; ``edit`` changes one annotation file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "annotations").mkdir(parents=True)
        (root / "images").mkdir()
        for number, split in enumerate(("train", "val")):
            data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
            for k in range(3):
                image_id = 10 * number + k
                name = f"{split}{k}.jpg"
                noise(root / "images" / name, seed=image_id, quality=90)
                data["images"].append({"id": image_id, "file_name": name, "width": 64, "height": 48})
                for j in range(2):
                    data["annotations"].append(
                        {
                            "id": 100 * number + 10 * k + j,
                            "image_id": image_id,
                            "category_id": j + 1,
                            "bbox": [5 + 20 * j, 6, 18, 20.5],
                            "area": 369.0,
                            "iscrowd": 0,
                        }
                    )
            (root / f"annotations/instances_{split}.json").write_text(json.dumps(data))

    def file(self, split: str = "train") -> Path:
        return self.root / f"annotations/instances_{split}.json"

    def edit(self, change: Callable[[dict], object], split: str = "train") -> None:
        data = json.loads(self.file(split).read_text())
        change(data)
        self.file(split).write_text(json.dumps(data))

    def errors(self) -> list[str]:
        return [str(problem) for problem in coco.check_dataset(self.root).errors]

    def warnings(self) -> list[str]:
        report = coco.check_dataset(self.root)
        assert report.ok, report.errors
        return [str(problem) for problem in report.warnings]


@pytest.fixture
def data(tmp_path) -> Dataset:
    return Dataset(tmp_path / "set")


# --- valid sets -----------------------------------------------------------------------------------


def test_a_valid_set_and_its_numbers(data):
    report = coco.require_valid(data.root)
    assert report.ok
    assert not report.warnings
    assert report.classes == ("cat", "dog")
    train = report.splits["train"]
    assert (train.images, train.boxes, train.small, train.medium, train.large) == (3, 6, 6, 0, 0)
    assert (train.most_boxes, train.mean_boxes, train.min_size, train.max_size) == (2, 2.0, (64, 48), (64, 48))
    assert train.boxes_by_class == {"cat": 3, "dog": 3}
    assert len(report.digest) == 16
    json.dumps(report.to_dict(), allow_nan=False)
    assert "2 classes: cat, dog" in report.to_text()


@pytest.mark.parametrize("name", REAL)
def test_real_sets_are_valid(name):
    root = REAL[name]
    report = coco.require_valid(root)
    train, val = report.splits["train"], report.splits["val"]
    assert (train.images, train.boxes, val.images, val.boxes) == COUNTS[name]
    spec = coco.dataspec(root, report)
    assert (spec.name, spec.digest, spec.classes, spec.truth) == (name, report.digest, report.classes, False)
    assert (spec.train_images, spec.val_images) == (train.images, val.images)


def test_twenty_lost_bytes_of_a_real_photograph_are_found(tmp_path):
    root = tmp_path / "bccd"
    shutil.copytree(CROPS["bccd_crop"], root)
    victim = next(iter(sorted((root / "images").iterdir())))
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-20])
    report = coco.check_dataset(root)
    assert len(report.errors) == 1
    assert victim.name in str(report.errors[0])
    assert "truncated" in str(report.errors[0])


def test_the_layout_of_coco_itself(data, tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir()
        shutil.copy(data.file(split), root / f"annotations/instances_{split}2017.json")
        for path in (data.root / "images").glob(f"{split}*"):
            shutil.copy(path, root / f"{split}2017")
    paths = coco.find_dataset(root)
    assert paths.split("val") == (root / "annotations/instances_val2017.json", root / "val2017")
    assert coco.require_valid(root).digest == coco.require_valid(data.root).digest


def test_a_byte_order_mark_is_no_defect(data):
    data.file().write_bytes(b"\xef\xbb\xbf" + data.file().read_bytes())
    assert coco.check_dataset(data.root).ok


def test_strange_characters_in_file_names_are_no_defect(data):
    name = "a b#=ü'%.jpg"
    (data.root / "images/train0.jpg").rename(data.root / "images" / name)
    data.edit(lambda d: d["images"][0].update(file_name=name))
    assert not data.warnings()


# --- errors ---------------------------------------------------------------------------------------


def change(key: str, index: int, **values) -> Callable[[dict], object]:
    return lambda d: d[key][index].update(values)


BAD_CONTENT = {
    "missing image id": (change("annotations", 1, image_id=77), "instances_train.json: annotation 1: image_id 77 is not among the images"),
    "image id as text": (change("annotations", 1, image_id="0"), 'annotation 1: image_id is the text "0"; it must be a whole number'),
    "image id of a half": (change("annotations", 1, image_id=0.5), "annotation 1: image_id 0.5 is not among the images"),
    "unknown category": (
        change("annotations", 0, category_id=3),
        "instances_train.json: annotation 0: category_id 3 is not among the categories",
    ),
    "box outside": (
        change("annotations", 0, bbox=[50, 6, 18, 20]),
        "annotation 0: bbox [50.0, 6.0, 18.0, 20.0] leaves its image of 64x48 px by 4 px",
    ),
    "box far left": (change("annotations", 0, bbox=[-5, 6, 18, 20]), "leaves its image of 64x48 px by 5 px"),
    "corners for a size": (change("annotations", 0, bbox=[40, 30, 60, 44]), "not two corners"),
    "box of negative width": (change("annotations", 0, bbox=[5, 6, -1, 20]), "width and height must not be negative"),
    "box of negative height": (change("annotations", 0, bbox=[5, 26, 18, -20]), "has no area"),
    "box of three": (change("annotations", 0, bbox=[5, 26, 18]), "it must be [x, y, width, height]"),
    "box of text": (change("annotations", 0, bbox=["5", 26, 18, 4]), "it must be [x, y, width, height]"),
    "no box": (lambda d: d["annotations"][0].pop("bbox"), "bbox is null"),
    "box beyond floats": (change("annotations", 0, bbox=[5, 6, 10**400, 4]), "is not finite"),
    "area below zero": (change("annotations", 0, area=-1), "area is -1"),
    "area as text": (change("annotations", 0, area="369"), 'area is "369"'),
    "iscrowd 2": (change("annotations", 0, iscrowd=2), "iscrowd is 2"),
    "annotation id twice": (change("annotations", 1, id=0), "annotation id 0 is used twice"),
    "annotation without id": (lambda d: d["annotations"][4].pop("id"), "annotations[4]: id is null"),
    "image id twice": (change("images", 1, id=0), "image id 0 is used twice"),
    "image without size": (change("images", 1, width=None), "image 1: width and height are null and 48"),
    "image without name": (change("images", 1, file_name=""), "image 1: file_name is"),
    "missing file": (change("images", 1, file_name="gone.jpg"), 'instances_train.json: image 1: the image file "gone.jpg" is missing'),
    "file in a parent": (change("images", 1, file_name="../annotations/x.jpg"), "leaves the image folder"),
    "absolute file": (change("images", 1, file_name="/etc/passwd"), "leaves the image folder"),
    "file of a drive": (change("images", 1, file_name="C:\\x.jpg"), "leaves the image folder"),
    "file behind backslashes": (change("images", 1, file_name="a\\..\\..\\x.jpg"), "leaves the image folder"),
    "file name with NUL": (change("images", 1, file_name="a\0.jpg"), "leaves the image folder"),
    "wrong size": (change("images", 1, width=100), 'image 1 ("train1.jpg"): is 64x48 px, the annotations have 100x48'),
    "category without name": (change("categories", 1, name=None), "name of category 2 is null"),
    "category id twice": (change("categories", 1, id=1), "category id 1 is used twice"),
    "category name twice": (change("categories", 1, name="cat"), 'two categories are named "cat"'),
    "other categories": (
        change("categories", 1, name="cow"),
        'category 2 differs between train and val: annotations/instances_train.json has "cow", annotations/instances_val.json has "dog"',
    ),
    "two other categories": (
        lambda d: [category.update(name=f"other {category['name']}") for category in d["categories"]],
        'category 2 differs between train and val: annotations/instances_train.json has "other',
    ),
    "one category more": (lambda d: d["categories"].append({"id": 3, "name": "cow"}), "instances_val.json has none"),
    "no categories": (lambda d: d["categories"].clear(), "has no categories"),
    "no boxes": (lambda d: d["annotations"].clear(), "instances_train.json: has no boxes"),
    "only crowds": (lambda d: [a.update(iscrowd=1) for a in d["annotations"]], "instances_train.json: has no boxes"),
    "no images": (lambda d: (d["images"].clear(), d["annotations"].clear()), "instances_train.json: has no images"),
    "no images key": (lambda d: d.pop("images"), "has no 'images'"),
    "annotations as object": (lambda d: d.update(annotations={}), "'annotations' is an object; it must be a list"),
    "entry as text": (lambda d: d["annotations"].append("x"), "annotations[6]: is text"),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_bad_content(data, case):
    edit, expected = BAD_CONTENT[case]
    data.edit(edit)
    errors = data.errors()
    assert any(expected in error for error in errors), errors
    with pytest.raises(DataError) as caught:
        coco.require_valid(data.root)
    assert caught.value.exit_code is ExitCode.USAGE
    with pytest.raises(DataError):
        coco.dataspec(data.root)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have(data, text):
    data.file().write_text(data.file().read_text().replace("20.5", text, 1))
    errors = data.errors()
    assert any(f"numbers that JSON does not have: {text} 1x" in error for error in errors), errors
    assert any("instances_train.json: annotation 0" in error for error in errors)


def test_nan_where_no_check_looks(data):
    data.edit(lambda d: d.update(info={"version": 1.5}))
    data.file().write_text(data.file().read_text().replace("1.5", "NaN"))
    assert ["NaN 1x" in error for error in data.errors()] == [True]


BAD_FILES = {
    "empty": (b"", "instances_val.json: is empty"),
    "not JSON": (b"{", "instances_val.json: is not JSON"),
    "a list": (b"[]", "instances_val.json: holds a list"),
    "binary": (b"\xff\xfe\x00", "instances_val.json: is not UTF-8"),
    "deep": (b"[" * 200_000, "instances_val.json: is"),
    "another format": (b'{"shapes": []}', "has no 'images'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_annotation_files(data, case):
    content, expected = BAD_FILES[case]
    data.file("val").write_bytes(content)
    errors = data.errors()
    assert any(expected in error for error in errors), errors


def jpeg(data: Dataset) -> Path:
    return data.root / "images/train1.jpg"


BAD_IMAGES = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-20]), "truncated"),
    "half": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "truncated"),
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "no image": (lambda p: p.write_bytes(b"hello, world" * 100), "no image format"),
    "header only": (lambda p: p.write_bytes(p.read_bytes()[:30]), "cannot be decoded"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images(data, case):
    damage, expected = BAD_IMAGES[case]
    damage(jpeg(data))
    errors = data.errors()
    assert len(errors) == 1
    assert errors[0].startswith('annotations/instances_train.json: image 1 ("train1.jpg"): cannot be decoded')
    assert expected in errors[0]
    assert coco.check_dataset(data.root, decode=False).ok  # only pixels tell


def test_a_truncated_png(data):
    noise(data.root / "images/x.png")
    path = data.root / "images/x.png"
    path.write_bytes(path.read_bytes()[:-2000])
    data.edit(change("images", 0, file_name="x.png"))
    assert "cannot be decoded" in data.errors()[0]


def test_random_damage_never_crashes_the_check(data):
    rng = np.random.default_rng(0)
    clean = jpeg(data).read_bytes()
    for _ in range(40):
        broken = bytearray(clean)
        for at in rng.integers(0, len(broken), 8):
            broken[at] = rng.integers(256)
        jpeg(data).write_bytes(bytes(broken))
        coco.check_dataset(data.root)


def test_nothing_there(tmp_path):
    for root, expected in ((tmp_path / "none", "does not exist"), (tmp_path, "no annotations for train")):
        report = coco.check_dataset(root)
        assert expected in str(report.errors[0])
        with pytest.raises(DataError, match=expected):
            coco.find_dataset(root)
    assert len(coco.check_dataset(tmp_path).errors) == 4  # both annotation files, both image folders
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not a folder"):
        coco.find_dataset(tmp_path / "file")


def test_missing_image_folder(data):
    shutil.rmtree(data.root / "images")
    assert any("no folder with the images of train" in error for error in data.errors())


def test_two_defects_at_once_are_both_reported(data):
    data.edit(change("annotations", 0, bbox=[50, 6, 18, 20]))
    jpeg(data).write_bytes(jpeg(data).read_bytes()[:-20])
    data.edit(lambda d: (d["categories"][0].update(name="cow"), d["annotations"][3].update(bbox=[1, 1, -1, 5])), "val")
    with pytest.raises(DataError) as caught:
        coco.require_valid(data.root)
    text = str(caught.value)
    for expected in ("leaves its image", "truncated", "category 1 differs", "instances_val.json: annotation 111: bbox", "has no area"):
        assert expected in text
    assert len(caught.value.problems) == 4


def test_one_broken_file_does_not_hide_the_other(data):
    data.file("train").write_text("{")
    data.edit(change("annotations", 0, bbox=[5, 6, -1, 20]), "val")
    errors = data.errors()
    assert any("instances_train.json: is not JSON" in error for error in errors)
    assert any("instances_val.json: annotation 100" in error for error in errors)


def test_a_thousand_of_one_kind_are_counted_and_hide_nothing(data):
    def many(d: dict) -> None:
        template = d["annotations"][0]
        d["annotations"] += [{**copy.deepcopy(template), "id": 1000 + k, "bbox": [k, 1, -1, 0]} for k in range(1000)]
        d["annotations"].append({**template, "id": 5000, "category_id": 9})

    data.edit(many)
    errors = data.errors()
    assert len(errors) == 2
    negative = next(error for error in errors if "negative" in error)
    assert negative.startswith("annotations/instances_train.json: 1000 boxes of negative width or height: annotation 1000: bbox [0.0, 1.0,")
    assert negative.count("bbox") == 3 and negative.endswith(", and 997 more")
    assert any("annotation 5000: category_id 9" in error for error in errors)
    report = coco.check_dataset(data.root)
    assert len(report.to_text().splitlines()) < 10
    assert len(report.to_text(verbose=True).splitlines()) > 1001
    assert len(report.to_dict()["errors"]) == 1001


def test_unsafe_names_are_never_opened(data, monkeypatch):
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read(self))
    data.edit(change("images", 0, file_name="../annotations/instances_val.json"))
    data.errors()
    assert all(".." not in str(path) for path in opened)


# --- warnings -------------------------------------------------------------------------------------


def duplicate(d: dict) -> None:
    d["annotations"].append({**d["annotations"][0], "id": 999, "bbox": [5, 6, 18, 20.4]})


WARNINGS = {
    "rounding": (change("annotations", 0, bbox=[46.5, 6, 18, 20]), "leaves its image of 64x48 px by 0.5 px"),
    "no annotations": (lambda d: d["annotations"].__delitem__(slice(0, 2)), "image 0: has no annotations"),
    "whole image": (change("annotations", 0, bbox=[0, 0, 64, 48], area=3072), "covers the whole image"),
    "same box twice": (duplicate, "two boxes of one class are nearly the same (IoU 0.995)"),
    "thin": (change("annotations", 0, bbox=[5, 6, 0.5, 20]), "thinner than a pixel"),
    "no area": (lambda d: [a.pop("area") for a in d["annotations"]], "6 annotations have no area"),
    "empty class": (lambda d: [a.update(category_id=1) for a in d["annotations"]], "no boxes of 1 of 2 classes: dog"),
    "listed twice": (change("images", 1, file_name="train0.jpg"), 'file "train0.jpg" is also image 0'),
    "train in val": (change("images", 1, file_name="val0.jpg"), "val is not independent of train"),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(data, case):
    edit, expected = WARNINGS[case]
    data.edit(edit)
    warnings = data.warnings()
    assert any(expected in warning for warning in warnings), warnings


def test_boxes_to_the_image_border_are_clean(data):
    data.edit(change("annotations", 0, bbox=[46.004, 0, 18, 48.004]))
    assert not data.warnings()


def exif(path: Path, orientation: int) -> None:
    with Image.open(path) as image:
        tags = image.getexif()
        tags[0x0112] = orientation
        image.save(path, exif=tags)


IMAGE_WARNINGS = {
    "greyscale": (lambda p: noise(p, mode="L"), "is greyscale"),
    "PNG named jpg": (lambda p: noise(p, mode="RGBA", format="PNG"), "is named .jpg but is PNG"),
    "alpha": (lambda p: noise(p, mode="RGBA", format="PNG"), "alpha channel"),
    "turned": (lambda p: exif(p, 6), "has EXIF orientation 6"),
    "impossible orientation": (lambda p: exif(p, 0), "EXIF orientation 0, which does not exist"),
    "copy of a train image": (lambda p: shutil.copy(p.with_name("train2.jpg"), p), "has the same content as"),
    "copy of a val image": (lambda p: shutil.copy(p.with_name("val2.jpg"), p), "val is not independent of train"),
}


@pytest.mark.parametrize("case", IMAGE_WARNINGS)
def test_image_warnings(data, case):
    edit, expected = IMAGE_WARNINGS[case]
    edit(jpeg(data))
    warnings = data.warnings()
    assert any(expected in warning for warning in warnings), warnings


@pytest.mark.parametrize("number", [-1, 2**53, 10**30])
def test_ids_are_what_the_evaluation_can_hold(data, number):
    data.edit(change("annotations", 0, id=number))
    assert any("whole number from 0" in str(problem) for problem in coco.check_dataset(data.root).errors)


@pytest.mark.parametrize("name", ["x" * 5000 + ".jpg", "a\udcff.jpg"])
def test_a_name_that_no_file_can_have_is_a_missing_image(data, name):
    data.edit(change("images", 0, file_name=name))
    assert any("is missing" in str(problem) for problem in coco.check_dataset(data.root).errors)


def test_training_images_are_counted_as_training_uses_them(data):
    assert coco.dataspec(data.root).train_images == 3
    for number in (0, 1):
        data.edit(change("annotations", number, bbox=[5, 6, 0.5, 20], area=10))
    assert coco.dataspec(data.root).train_images == 2
    for number in range(2, 6):
        data.edit(change("annotations", number, bbox=[5, 6, 0.5, 20], area=10))
    assert any("no image can be trained on" in str(problem) for problem in coco.check_dataset(data.root).errors)


# --- digest and reading ---------------------------------------------------------------------------


def test_digest_names_the_content(data, tmp_path):
    first = coco.dataset_digest(data.root)
    assert first == coco.check_dataset(data.root).digest
    copied = tmp_path / "elsewhere"
    shutil.copytree(data.root, copied)
    assert coco.dataset_digest(copied) == first
    # what does not count
    data.edit(lambda d: (d.update(info={"x": 1}), d["annotations"][0].update(segmentation=[], bbox=[5.0, 6.0, 18.0, 20.5])))
    (data.root / "images/train0.jpg").rename(data.root / "images/other.jpg")
    data.edit(change("images", 0, file_name="other.jpg"))
    assert coco.dataset_digest(data.root) == first


@pytest.mark.parametrize(
    "edit",
    [
        change("annotations", 0, bbox=[5, 6, 18, 20.25]),
        change("annotations", 0, category_id=2),
        change("annotations", 0, iscrowd=1),
        lambda d: d["annotations"].pop(),
        lambda d: d["images"].reverse(),
    ],
)
def test_digest_changes_with_the_annotations(data, edit):
    first = coco.dataset_digest(data.root)
    data.edit(edit)
    assert coco.dataset_digest(data.root) != first


def test_digest_cache(data, tmp_path):
    cache = tmp_path / "cache"
    first = coco.dataset_digest(data.root, cache)
    assert coco.dataset_digest(data.root, cache) == first
    stored = next(cache.iterdir())
    noise(jpeg(data), seed=99, quality=90)
    os.utime(jpeg(data), ns=(1, 1))
    changed = coco.dataset_digest(data.root, cache)
    assert changed != first
    assert changed == coco.dataset_digest(data.root)
    stored.write_text("not json")
    assert coco.dataset_digest(data.root, cache) == changed


def test_digest_of_a_missing_image(data):
    jpeg(data).unlink()
    with pytest.raises(DataError, match="train1.jpg"):
        coco.dataset_digest(data.root)


def test_dataspec(data):
    spec = coco.dataspec(data.root)
    assert spec.model_dump() == {
        "name": "set",
        "digest": coco.dataset_digest(data.root),
        "classes": ("cat", "dog"),
        "train_images": 3,
        "val_images": 3,
        "truth": False,
    }
    assert coco.dataspec(data.root, cache=data.root.parent / "cache") == spec


def test_load_fills_in_what_coco_files_always_have(data):
    def strip(d: dict) -> None:
        d["categories"].reverse()
        for annotation in d["annotations"]:
            del annotation["area"], annotation["iscrowd"]

    data.edit(strip)
    loaded = coco.load_coco(data.file())
    assert [category["id"] for category in loaded["categories"]] == [1, 2]
    assert all(a["area"] == pytest.approx(18 * 20.5) and a["iscrowd"] == 0 for a in loaded["annotations"])
    data.file().write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        coco.load_coco(data.file())


@pytest.mark.parametrize(
    ("train", "val", "train_images", "val_images", "prefix"),
    [
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", "valid", ""),
        ("annotations/my_train_v2.json", "annotations/my_val_v2.json", "images", "images", ""),
        ("train.json", "val.json", "images/train", "images/val", ""),
        ("annotations/train.json", "annotations/val.json", "images", "images", "train/"),
    ],
)
def test_layouts_that_exports_have(tmp_path: Path, train: str, val: str, train_images: str, val_images: str, prefix: str) -> None:
    for number, (file, folder) in enumerate(((train, train_images), (val, val_images))):
        name = f"{prefix}{number}.png"
        (tmp_path / folder / prefix).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (number, 0, 0)).save(tmp_path / folder / name)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        content = {
            "images": [{"id": 1, "file_name": name, "width": 48, "height": 40}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 9]}],
            "categories": [{"id": 1, "name": "a"}],
        }
        (tmp_path / file).write_text(json.dumps(content))
    found = coco.find_dataset(tmp_path)
    assert (found.train_annotations, found.val_annotations) == (tmp_path / train, tmp_path / val)
    assert (found.train_images, found.val_images) == (tmp_path / train_images, tmp_path / val_images)
    assert coco.check_dataset(tmp_path).ok


def test_two_files_that_may_be_meant_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("a_train.json", "b_train.json", "a_val.json"):
        (tmp_path / "annotations" / name).write_text("{}")
    with pytest.raises(DataError, match="several annotation files"):
        coco.find_dataset(tmp_path)
