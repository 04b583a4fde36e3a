"""Data as they are: whatever passes the check trains and shows the same pixels; whatever is refused names the image or the annotation."""

from __future__ import annotations

import copy
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import gfl_lab.train.trial  # noqa: F401  (registers what trial_config names)
from gfl_lab import naming
from gfl_lab.analysis.side_distances import scale_boxes
from gfl_lab.data import coco, pixels
from gfl_lab.data.assignment import scaled_size
from gfl_lab.errors import DataError, InputError
from gfl_lab.inference.evaluate import CocoEvaluator, Detections
from gfl_lab.metrics.coco_matching import match
from gfl_lab.orchestrate.dataset_archives import fetch_dataset, push_dataset
from gfl_lab.records.files import write_json
from gfl_lab.records.manifest import DataPaths
from gfl_lab.report.panels import sheet
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session import dataset, inputs
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec
from gfl_lab.storage import Storage
from tests.support.cli import runner

SMALL = Settings(backbone="r18", strides=(8, 16, 32), image_size=(128, 128), epochs=1, batch_size=2)
WIDTH, HEIGHT = 64, 48


def photo(seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Smooth (H, W, 3) RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


class Folder:
    """Three training images and two of validation, each with two boxes."""

    def __init__(self, root: Path) -> None:
        self.root, self.images = root, root / "images"
        self.images.mkdir(parents=True)
        (root / "annotations").mkdir()
        for number, split in enumerate(("train", "val")):
            content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
            for k in range(3 - number):
                image_id = 10 * number + k
                name = f"{split}{k}.png"
                Image.fromarray(photo(image_id)).save(self.images / name)
                content["images"].append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
                for j in range(2):
                    content["annotations"].append(
                        {
                            "id": 100 * number + 10 * k + j,
                            "image_id": image_id,
                            "category_id": j + 1,
                            "bbox": [5 + 20 * j, 6, 18, 20.5],
                            "area": 250.0,
                            "iscrowd": 0,
                        }
                    )
            self.write(content, split)

    def file(self, split: str = "train") -> Path:
        return self.root / f"annotations/instances_{split}.json"

    def read(self, split: str = "train") -> dict[str, Any]:
        return json.loads(self.file(split).read_text())

    def write(self, content: Any, split: str = "train") -> None:
        self.file(split).write_text(json.dumps(content))

    def edit(self, change: Callable[[dict[str, Any]], object], *splits: str) -> None:
        for split in splits or ("train", "val"):
            content = self.read(split)
            change(content)
            self.write(content, split)

    def image(self, name: str, data: bytes | np.ndarray, **entry: Any) -> None:
        """Let the first image of both splits be a file ``name`` with this content."""
        for split in ("train", "val"):
            path = self.images / f"{split}_{name}"
            if isinstance(data, bytes):
                path.write_bytes(data)
            else:
                Image.fromarray(data).save(path)
            self.edit(lambda d, path=path: d["images"][0].update({"file_name": path.name} | entry), split)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


def agree(root: Path, work: Path) -> tuple[Any, dict[int, np.ndarray]]:
    """Read everything as training, evaluation and the pages do; the report, and RGB pixels of validation images by id."""
    report = coco.check_dataset(root)
    assert report.ok, report.to_text()
    json.dumps(report.to_dict(), allow_nan=False)
    report.to_text().encode()
    data = coco.dataspec(root, report)
    assert coco.dataspec(root, coco.require_valid(root, decode=False), work / "cache") == data
    assert coco.dataspec(root, coco.require_valid(root, decode=False), work / "cache") == data, "from what was remembered"
    assert coco.find_white_level(root) == data.white_level
    spec = TrialSpec(settings=SMALL, data=data, seed=0, code=TRAINING_CODE_VERSION)
    paths = {key: str(value) for key, value in vars(coco.find_dataset(root)).items()}
    trial = RunTree(work / "runs").trial(spec.id)
    trial.path.mkdir(parents=True, exist_ok=True)
    write_json(trial.file(naming.MANIFEST), {"format": 1, "trial": spec.id, "spec": spec.model_dump(mode="json"), "paths": paths})
    config = trial_config(spec, paths, "")
    init_default_scope("mmdet")
    for loader in (config.train_dataloader, config.val_loader):
        loader.dataset.serialize_data = False  # which would collect garbage each time
    train, val = (DATASETS.build(loader.dataset) for loader in (config.train_dataloader, config.val_loader))
    assert (len(train), len(val)) == (data.train_images, data.val_images)
    learned = sum(len(train[index]["data_samples"].gt_instances) for index in range(len(train)))
    split = report.splits["train"]
    if data.train_images == split.images - split.images_without_boxes and not split.crowds:
        assert learned == split.boxes - split.skipped_boxes
    shown = {}
    for index in range(len(val)):
        sample, info = val[index], val.get_data_info(index)
        assert min(sample["inputs"].shape[1:]) >= 1
        seen = val.pipeline.transforms[0]({"img_path": info["img_path"]})["img"]
        assert seen.shape == (info["height"], info["width"], 3) and seen.dtype == np.uint8
        shown[info["img_id"]] = Store(RunTree(work / "runs")).image(spec.id, info["img_id"])
        assert np.array_equal(shown[info["img_id"]], seen[..., ::-1]), "the page shows what the network sees"
        assert np.array_equal(pixels.read_rgb(info["img_path"], data.white_level), shown[info["img_id"]]), "predict draws on it"
    batches = [batch for batch in Runner.build_dataloader(config.val_loader, seed=0)]
    assert sum(len(batch["inputs"]) for batch in batches) == len(val)
    evaluator = CocoEvaluator(paths["val_annotations"], data.classes)
    metrics, _ = evaluator(perfect(evaluator))
    assert "AP" in metrics
    return report, shown


def perfect(evaluator: CocoEvaluator) -> Detections:
    """Every box that is no crowd, found."""
    truth = [each for each in evaluator.truth.anns.values() if not each["iscrowd"]]
    label = {int(number): index for index, number in enumerate(evaluator.category_ids)}
    box = np.array([each["bbox"] for each in truth], float)
    box[:, 2:] += box[:, :2]
    ids = np.array([each["image_id"] for each in truth], np.int64)
    return Detections(
        np.array(sorted(evaluator.truth.imgs)), ids, np.array([label[each["category_id"]] for each in truth]), np.full(len(truth), 0.9), box
    )


def refused(root: Path) -> str:
    report = coco.check_dataset(root)
    assert not report.ok
    with pytest.raises(DataError):
        coco.require_valid(root)
    return "\n".join(map(str, report.errors))


def each(key: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda d: [entry.update(values) for entry in d[key]]


def first(key: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda d: d[key][0].update(values)


def floats(d: dict[str, Any]) -> None:
    for key, names in (("images", ("id", "width", "height")), ("annotations", ("id", "image_id", "category_id")), ("categories", ("id",))):
        for entry in d[key]:
            entry.update({name: float(entry[name]) for name in names})


# --- annotations ----------------------------------------------------------------------------------

ACCEPTED = {
    "as it is": (lambda d: None, ""),
    "whole floats": (floats, ""),
    "iscrowd as truth values": (each("annotations", iscrowd=False), ""),
    "a crowd as a truth value": (first("annotations", iscrowd=True), ""),
    "iscrowd as a float": (each("annotations", iscrowd=0.0), ""),
    "whole boxes": (each("annotations", bbox=[3, 4, 20, 21]), ""),
    "a box without height": (first("annotations", bbox=[5, 6, 18, 0], area=0), "has no width or no height: training skips it"),
    "a box without width or height": (first("annotations", bbox=[5, 6, 0, 0], area=0), "training skips it"),
    "boxes without height": (lambda d: [d["annotations"][k].update(bbox=[5, 6, 18, 0], area=0) for k in (0, 2)], "2 boxes without height"),
    "a thin box": (first("annotations", bbox=[5, 6, 0.5, 20]), "is thinner than a pixel: training skips it"),
    "a box on the border": (first("annotations", bbox=[64, 6, 1, 20]), "does not meet its image"),
    "a box a little outside": (first("annotations", bbox=[46.5, 6, 18, 20]), "leaves its image of 64x48 px by 0.5 px"),
    "area of zero": (each("annotations", area=0), "half of the"),
    "one area of zero": (first("annotations", area=0), "area is 0 and width x height 369"),
    "normalised areas": (each("annotations", area=0.12), "they seem to be shares of the image"),
    "areas of another resolution": (each("annotations", area=4 * 369), "6 areas that do not fit their boxes"),
    "areas that are missing": (lambda d: [entry.pop("area") for entry in d["annotations"]], "have no area; width x height is used"),
    "areas of VOC": (each("annotations", area=19 * 21.5), ""),
    "a name of spaces": (first("categories", name=" cat\n"), "has spaces around it"),
    "a class in Chinese": (first("categories", name="\u7ec6\u80de"), ""),
    "no boxes in an image": (lambda d: d["annotations"].__delitem__(slice(0, 2)), "has no annotations"),
    "url": (lambda d: [entry.update(coco_url="http://x/y.jpg", license=3) for entry in d["images"]], ""),
    "other keys": (lambda d: d.update(info=None, licenses=[], videos=[{"id": "x"}]), ""),
    "segments and keypoints": (each("annotations", segmentation=[[1, 2, 3, 4, 5, 6]], keypoints=[0] * 51, num_keypoints=0), ""),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_annotations_that_pass(folder: Folder, tmp_path: Path, case: str) -> None:
    change, words = ACCEPTED[case]
    folder.edit(change)
    report, _ = agree(folder.root, tmp_path)
    told = "\n".join(map(str, report.warnings))
    assert words in told and bool(words) == bool(told), told


def test_whole_floats_are_the_same_data(folder: Folder) -> None:
    before = coco.dataspec(folder.root)
    folder.edit(floats)
    folder.edit(each("annotations", iscrowd=False))
    assert coco.dataspec(folder.root) == before


REFUSED = {
    "half an id": (first("images", id=0.5), "images[0]: id is 0.5"),
    "half a size": (first("images", width=64.5), "image 0: width and height are 64.5 and 48"),
    "a size as text": (first("images", width="64"), 'width and height are "64" and 48'),
    "a size beyond numbers": (first("images", width=1e300), "width and height are"),
    "a truth value as a size": (first("images", height=True), "width and height are 64 and true"),
    "negative height": (first("annotations", bbox=[5, 26, 18, -20]), "annotation 0: bbox [5.0, 26.0, 18.0, -20.0]"),
    "far outside": (first("annotations", bbox=[500, 6, 18, 20]), "annotation 0: bbox [500.0, 6.0, 18.0, 20.0] leaves its image"),
    "text in a box": (first("annotations", bbox=["5", "6", "18", "20"]), "annotation 0: bbox"),
    "duplicate id": (first("annotations", id=1), "annotation id 1 is used twice"),
    "unknown category": (first("annotations", category_id=7), "annotation 0: category_id 7"),
    "unknown image": (first("annotations", image_id=7), "annotation 0: image_id 7"),
    "half a category": (first("annotations", category_id=1.5), "annotation 0: category_id 1.5"),
    "a lone surrogate": (each("categories", name="\ud800"), "no valid Unicode"),
    "coco_url alone": (lambda d: (d["images"][0].pop("file_name"), d["images"][0].update(coco_url="http://x/1.jpg")), "coco_url alone"),
    "absolute name": (
        first("images", file_name="/data/images/train0.png"),
        "there is train0.png in the image folder: write the name alone",
    ),
    "Windows drive": (first("images", file_name="C:\\images\\train0.png"), "there is train0.png in the image folder"),
    "parent by URL": (first("images", file_name="%2e%2e/annotations/instances_val.json"), "is missing"),
    "another case": (first("images", file_name="TRAIN0.PNG"), "there is train0.png: upper and lower case differ"),
    "a folder in the name": (first("images", file_name="export/train0.png"), "there is train0.png: file names count from"),
    "another ending": (first("images", file_name="train0.jpg"), "there is train0.png"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_annotations_that_are_refused(folder: Folder, case: str) -> None:
    change, words = REFUSED[case]
    folder.edit(change, "train")
    if case == "a lone surrogate":
        folder.edit(change, "val")
    told = refused(folder.root)
    assert words in told and told.startswith("annotations/instances_train.json"), told


def test_ids_that_are_text_are_told_once(folder: Folder) -> None:
    def as_text(d: dict[str, Any]) -> None:
        for entry in d["images"]:
            entry["id"] = str(entry["id"])
        for entry in d["annotations"]:
            entry["image_id"] = str(entry["image_id"])

    folder.edit(as_text)
    errors = coco.check_dataset(folder.root).errors
    assert [str(error).splitlines()[0] for error in errors] == [
        'annotations/instances_train.json: 3 ids that are text: images[0]: id is the text "0"; it must be a whole number from 0 to 2^53 - 1; '
        'images[1]: id is the text "1"; it must be a whole number from 0 to 2^53 - 1; '
        'images[2]: id is the text "2"; it must be a whole number from 0 to 2^53 - 1',
        'annotations/instances_val.json: 2 ids that are text: images[0]: id is the text "10"; it must be a whole number from 0 to 2^53 - 1; '
        'images[1]: id is the text "11"; it must be a whole number from 0 to 2^53 - 1',
    ]
    folder.edit(lambda d: [entry.update(id=str(entry["id"])) for entry in d["categories"]])
    folder.edit(lambda d: [entry.update(category_id=str(entry["category_id"]), id=str(entry["id"])) for entry in d["annotations"]])
    errors = coco.check_dataset(folder.root).errors
    assert len(errors) == 2 and all("ids that are text" in str(error) for error in errors)


def test_messages_say_the_path_below_the_data_folder(tmp_path: Path) -> None:
    root = tmp_path / "robo"
    flat = Folder(tmp_path / "flat")
    for split, name in (("train", "train"), ("val", "valid")):
        (root / name).mkdir(parents=True)
        for path in flat.images.glob(f"{split}*"):
            path.rename(root / name / path.name)
        flat.file(split).rename(root / name / "_annotations.coco.json")
    agree(root, tmp_path)
    content = json.loads((root / "valid/_annotations.coco.json").read_text())
    content["annotations"][0]["bbox"] = [1, 2, 3]
    (root / "valid/_annotations.coco.json").write_text(json.dumps(content))
    assert refused(root).startswith("valid/_annotations.coco.json: annotation 100: bbox is [1, 2, 3]")
    (root / "train/_annotations.coco.json").write_text("{")
    assert "train/_annotations.coco.json: is not JSON" in refused(root)
    with pytest.raises(DataError, match="train/_annotations.coco.json"):
        coco.dataset_digest(root)


# --- annotation files -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(folder: Folder, tmp_path: Path, encoding: str) -> None:
    before = coco.dataspec(folder.root)
    for split in ("train", "val"):
        folder.file(split).write_bytes(folder.file(split).read_text().encode(encoding))
    assert coco.dataspec(folder.root) == before
    agree(folder.root, tmp_path)


FILES = {
    "Latin-1": ('{"images": [], "x": "é"}'.encode("latin-1"), "is not UTF-8 text"),
    "XML": (b"<annotations><image/></annotations>", "is XML, as CVAT and Pascal VOC write it"),
    "JSON lines": (b'{"a": 1}\n{"a": 2}', "holds several JSON values"),
    "half": (b'{"images": [', "is not JSON"),
    "spaces": (b"  \n", "is empty"),
    "Label Studio": (b'[{"id": 1, "data": {"image": "x"}, "annotations": []}]', "holds a list of tasks, as Label Studio exports them"),
    "results": (b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "holds a list of detections"),
    "a list": (b"[1]", "holds a list"),
    "a number": (b"7", "holds a number"),
    "LabelMe": (b'{"shapes": [], "imagePath": "a.jpg"}', "LabelMe"),
    "VIA": (b'{"_via_img_metadata": {}}', "VGG Image Annotator"),
    "panoptic": (b'{"images": [], "categories": [], "annotations": [{"segments_info": [], "file_name": "a.png"}]}', "panoptic"),
    "captions": (b'{"images": [], "annotations": [{"caption": "a dog"}]}', "holds captions"),
    "test set": (b'{"images": [], "categories": []}', "has no 'annotations'"),
    "long number": (b'{"images": [' + b"9" * 5000 + b"]}", "is not JSON"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_coco(folder: Folder, case: str) -> None:
    content, words = FILES[case]
    folder.file("val").write_bytes(content)
    told = refused(folder.root)
    assert told.count("annotations/instances_val.json") == 1 and words in told, told


# --- images ---------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = Image.fromarray(photo(7))
FORMATS = {
    **{f"{mode} {kind}": (mode, kind) for kind in ("PNG", "TIFF", "TGA") for mode in ("RGB", "L", "P", "1", "LA", "RGBA") if (mode, kind) != ("1", "TGA")},
    **{kind: ("RGB", kind) for kind in ("JPEG", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM", "PCX", "ICO")},
    "CMYK JPEG": ("CMYK", "JPEG"), "CMYK TIFF": ("CMYK", "TIFF"), "grey JPEG": ("L", "JPEG"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMATS)
def test_every_format_is_read_alike(folder: Folder, tmp_path: Path, case: str) -> None:
    mode, kind = FORMATS[case]
    options = {"sizes": [(WIDTH, HEIGHT)], "bitmap_format": "bmp"} if kind == "ICO" else {"quality": 100} if kind == "JPEG" else {}
    image = RGB.convert(mode)
    folder.image(f"x.{kind.lower()}", encoded(image, kind, **options))
    _, shown = agree(folder.root, tmp_path)
    expected = np.asarray(image.convert("RGB"), int)
    exact = kind in ("PNG", "TIFF", "TGA", "BMP", "PPM", "PCX", "ICO")
    gap = np.abs(shown[10] - expected)
    assert gap.max() <= 1 if exact else gap.mean() < 12, (gap.max(), gap.mean())


def test_files_of_8_bits_are_read_as_ever(folder: Folder) -> None:
    """By OpenCV, which existing results were made with."""
    for name, data in (("a.jpg", encoded(RGB, "JPEG", quality=70)), ("a.png", encoded(RGB, "PNG")), ("a.bmp", encoded(RGB, "BMP"))):
        (folder.images / name).write_bytes(data)
        assert np.array_equal(pixels.read_image(folder.images / name), cv2.imread(str(folder.images / name)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_read(folder: Folder, tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    folder.image(f"x.{kind.lower()}", encoded(RGB, kind, save_all=True, append_images=[Image.fromarray(photo(9))], **options))
    report, shown = agree(folder.root, tmp_path)
    assert "holds 2 frames; only the first is used" in str(report.warnings)
    assert np.abs(shown[10] - np.asarray(RGB, int)).mean() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_ignored_by_everyone(folder: Folder, tmp_path: Path, kind: str) -> None:
    exif = RGB.getexif()
    exif[0x0112] = 6
    folder.image(f"x.{kind.lower()}", encoded(RGB, kind, exif=exif))
    report, shown = agree(folder.root, tmp_path)
    assert "has EXIF orientation 6: it is used as stored" in str(report.warnings) and shown[10].shape == (HEIGHT, WIDTH, 3)
    folder.edit(first("images", width=HEIGHT, height=WIDTH))
    folder.edit(lambda d: [entry.update(bbox=[1, 1, 10, 10]) for entry in d["annotations"]])
    assert "the size is that after turning by EXIF orientation" in refused(folder.root)


def test_a_tiff_is_turned_by_its_own_tag_for_everyone(folder: Folder, tmp_path: Path) -> None:
    exif = RGB.getexif()
    exif[0x0112] = 6
    folder.image("x.tif", encoded(RGB, "TIFF", exif=exif), width=HEIGHT, height=WIDTH)
    report, shown = agree(folder.root, tmp_path)
    assert "is read turned" in str(report.warnings) and np.array_equal(shown[10], np.rot90(np.asarray(RGB), -1))


@pytest.mark.parametrize("size", [(20000, 40), (40, 20000), (20000, 1), (1, 1), (33, 2000)])
def test_images_of_extreme_sides(folder: Folder, tmp_path: Path, size: tuple[int, int]) -> None:
    folder.image("long.png", photo(3, size), width=size[0], height=size[1])
    folder.edit(lambda d: [entry.update(bbox=[0, 0, 1, 1], area=1) for entry in d["annotations"][:2]])
    report, _ = agree(folder.root, tmp_path)
    assert ("training skips images with a side under 32 px" in str(report.warnings)) == (min(size) < 32)


def test_a_panorama_is_drawn_without_being_enlarged_to_gigabytes() -> None:
    assert sheet(np.zeros((40, 20000, 3), np.uint8), {}, None, distributions=False).size == (20000, 40)
    assert sheet(np.zeros((100, 1000, 3), np.uint8), {}, None, distributions=False).size == (4000, 400)
    assert sheet(np.zeros((480, 640, 3), np.uint8), {}, None, distributions=False).size == (1280, 960)


def test_a_side_is_never_scaled_to_nothing() -> None:
    assert scaled_size(20000, 40, (128, 128)) == (128, 1)
    assert scaled_size(40, 20000, (1333, 800)) == (3, 1333)
    assert scaled_size(640, 480, (1333, 800)) == (1067, 800)
    boxes, size = scale_boxes(torch.tensor([[0.0, 0.0, 10000.0, 40.0]]), (20000, 40), (128, 128))
    assert size == (128, 1) and boxes.tolist() == [[0.0, 0.0, 64.0, 1.0]]


DEEP = {
    "12 bits in a PNG": ("png", np.uint16, 4095, 4095),
    "16 bits in a PNG": ("png", np.uint16, 65535, 65535),
    "12 bits in a TIFF": ("tiff", np.uint16, 4000, 4095),
    "8 bits in a 16-bit PNG": ("png", np.uint16, 255, 255),
    "12 bits in a PGM": ("pgm", np.uint16, 4095, 4095),
    "signed 16 bits": ("tiff", np.int16, 1000, 1023),
    "32 bits": ("tiff", np.int32, 100_000, 131_071),
    "floats to 1": ("tiff", np.float32, 1.0, 1),
    "doubles to 1": ("tiff", np.float64, 0.9, 1),
    "floats to 255": ("tiff", np.float32, 255.0, 255),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", DEEP)
def test_deep_images_are_scaled_by_the_white_level_of_the_data_set(folder: Folder, tmp_path: Path, case: str, channels: int) -> None:
    ending, kind, peak, white = DEEP[case]
    if ending == "pgm" and channels == 3:
        ending = "ppm"
    values = photo(5)[..., :channels].squeeze() / 255.0
    values = (values / values.max() * peak).astype(kind)
    dim = (values / 8).astype(kind)  # an image that is dark stays dark beside one that is bright
    folder.image(f"x.{ending}", cv2.imencode(f".{ending}", values)[1].tobytes())
    (folder.images / f"val_x.{ending}").write_bytes(cv2.imencode(f".{ending}", dim)[1].tobytes())
    report, shown = agree(folder.root, tmp_path)
    assert report.white_level == coco.dataspec(folder.root).white_level == white
    assert f"values are divided by {white}" in "\n".join(map(str, report.warnings))
    expected = np.rint(np.clip(dim.astype(float) * 255 / white, 0, 255))
    expected = expected[..., ::-1] if channels == 3 else np.repeat(expected[..., None], 3, 2)
    assert np.abs(shown[10] - expected).max() <= 1


def test_floats_beside_integers_and_values_that_are_no_numbers_are_refused(folder: Folder) -> None:
    grey = photo(1)[..., 0]
    (folder.images / "f.tiff").write_bytes(cv2.imencode(".tiff", grey.astype(np.float32) / 255)[1].tobytes())
    (folder.images / "i.png").write_bytes(cv2.imencode(".png", grey.astype(np.uint16) * 16)[1].tobytes())
    folder.edit(first("images", file_name="f.tiff"), "train")
    folder.edit(first("images", file_name="i.png"), "val")
    told = refused(folder.root)
    assert 'image 0 ("f.tiff")' in told and 'image 10 ("i.png")' in told
    bad = grey.astype(np.float32)
    bad[3, 3] = np.nan
    (folder.images / "f.tiff").write_bytes(cv2.imencode(".tiff", bad)[1].tobytes())
    assert 'image 0 ("f.tiff"): cannot be decoded: it holds values that are not finite' in refused(folder.root)


def test_the_white_level_counts_in_a_trials_id_and_8_bits_leave_it_as_it_was() -> None:
    data = DataSpec(name="a", digest="b", classes=("x",), train_images=1, val_images=1)
    assert "white_level" not in data.model_dump() and "white_level" not in data.model_dump(mode="json")
    spec = TrialSpec(settings=SMALL, data=data, seed=0, code=1)
    deep = spec.model_copy(update={"data": data.model_copy(update={"white_level": 4095})})
    assert deep.id != spec.id and deep.data.model_dump()["white_level"] == 4095
    assert TrialSpec.model_validate(deep.model_dump(mode="json")) == deep


def broken(data: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "empty": (b"", "it is empty"),
        "half": (data[: len(data) // 2], "truncated"),
        "text": (b"hello " * 50, "no image format"),
        "head": (data[:30], "cannot be decoded"),
        "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n", "cannot be decoded"),
    }


BROKEN = broken(encoded(RGB, "JPEG", quality=90))


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_named(folder: Folder, case: str) -> None:
    data, words = BROKEN[case]
    folder.image("x.jpg", data)
    told = refused(folder.root)
    assert 'annotations/instances_train.json: image 0 ("train_x.jpg"): cannot be decoded' in told and words in told, told
    with pytest.raises(pixels.ImageError) as caught:
        pixels.read_image(folder.images / "val_x.jpg")
    assert "\n" not in str(caught.value) and "val_x.jpg cannot be read: " in str(caught.value)


def test_a_png_without_its_last_chunk_is_read_by_everyone(folder: Folder, tmp_path: Path) -> None:
    folder.image("x.png", encoded(RGB, "PNG")[:-12])
    report, shown = agree(folder.root, tmp_path)
    assert "has no end marker" in str(report.warnings) and np.array_equal(shown[10], np.asarray(RGB))


def test_deep_pngs_without_their_last_chunk_lose_no_bits(folder: Folder, tmp_path: Path) -> None:
    values = photo(5).astype(np.uint16) * 16
    folder.image("x.png", cv2.imencode(".png", values)[1].tobytes()[:-12])
    assert "it is damaged, or holds more than 8 bits" in refused(folder.root)
    folder.image("x.png", cv2.imencode(".png", values[..., 0])[1].tobytes()[:-12])
    report, shown = agree(folder.root, tmp_path)
    assert report.white_level == 4095 and np.abs(shown[10][..., 0] - values[..., 0] * (255 / 4095)).max() <= 1


def test_damaged_files_of_every_format_are_read_or_refused_in_one_line() -> None:
    deep = photo(1).astype(np.uint16) * 16
    files = [encoded(RGB.convert(mode), kind) for mode, kind in FORMATS.values() if kind != "ICO"]
    files += [cv2.imencode(f".{kind}", deep)[1].tobytes() for kind in ("png", "tiff")]
    files += [cv2.imencode(f".{kind}", deep.astype(np.float32))[1].tobytes() for kind in ("tiff", "hdr", "pfm")]
    rng = np.random.default_rng(0)
    outcomes = []
    for clean in files:
        for variant in range(12):
            data = bytearray(clean)
            if variant % 3:
                for at in rng.integers(0, len(data) if variant % 3 == 1 else min(200, len(data)), 4):
                    data[at] = rng.integers(256)
            else:
                del data[rng.integers(1, len(data)) :]
            try:
                pixels_read = pixels.to_8_bits(pixels.decode(bytes(data)))
                outcomes.append(pixels_read.ndim == 3 and pixels_read.shape[2] == 3 and pixels_read.dtype == np.uint8)
            except ValueError as error:
                outcomes.append("\n" not in str(error) and str(error) != "")
    assert all(outcomes)


def test_an_image_that_unfolds_into_gigabytes_is_refused(folder: Folder) -> None:
    folder.image("x.png", encoded(Image.new("1", (20_000, 10_000)), "PNG"), width=20_000, height=10_000)
    assert 'image 0 ("train_x.png"): cannot be decoded: it has more than 178,956,970 px' in refused(folder.root)


def test_what_is_no_file_is_named(folder: Folder) -> None:
    (folder.images / "folder.png").mkdir()
    (folder.images / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder.images / "pipe.png")
    for name, words in (
        ("folder.png", "is a folder"),
        ("loop.png", "is a symbolic link that leads to no file"),
        ("pipe.png", "is no regular file"),
        ("gone.png", "is missing"),
    ):
        folder.edit(first("images", file_name=name), "train")
        assert f'annotations/instances_train.json: image 0: the image file "{name}" {words}' in refused(folder.root)


def test_a_folder_of_another_case_is_named(folder: Folder) -> None:
    folder.images.rename(folder.root / "Images")
    assert "there is Images: upper and lower case differ" in refused(folder.root)


def test_one_id_for_all_annotations_is_told_alone(folder: Folder) -> None:
    folder.edit(each("annotations", id=1))
    report = coco.check_dataset(folder.root)
    assert len(report.errors) == 2 and not report.warnings


def test_a_link_out_of_the_folder_trains_and_the_check_says_that_it_is_not_shown(folder: Folder) -> None:
    (folder.root.parent / "elsewhere.png").write_bytes((folder.images / "val0.png").read_bytes())
    (folder.images / "val0.png").unlink()
    (folder.images / "val0.png").symlink_to(folder.root.parent / "elsewhere.png")
    report = coco.check_dataset(folder.root)
    assert report.ok and "pages do not show it" in str(report.warnings)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("sub\\deep\\{}.png", "sub/deep/{}.png"),
        (".\\{}.png", "{}.png"),
        ("./{}.png", "{}.png"),
        ("a%20b%C3%A9{}.png", "a bé{}.png"),
        ("100%{}.png", "100%{}.png"),
        (unicodedata.normalize("NFC", "é{}.png"), unicodedata.normalize("NFD", "é{}.png")),
        (unicodedata.normalize("NFD", "é{}.png"), unicodedata.normalize("NFC", "é{}.png")),
        ("a b#=ü'&{}.png", "a b#=ü'&{}.png"),
        ("images/{}.png", "{}.png"),
        ("back\\slash{}.png", "back\\slash{}.png"),
        ("\u7ec6\u80de{}.png", "\u7ec6\u80de{}.png"),
    ],
)
def test_file_names_as_exporters_write_them(folder: Folder, tmp_path: Path, written: str, file: str) -> None:
    for split in ("train", "val"):
        content = folder.read(split)
        for entry in content["images"]:
            stem = Path(entry["file_name"]).stem
            target = folder.images / file.format(stem)
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder.images / entry["file_name"]).rename(target)
            entry["file_name"] = written.format(stem)
        folder.write(content, split)
    report, _ = agree(folder.root, tmp_path)
    plain = written.removeprefix("./").removeprefix("images/") == file
    assert plain != any("is read as" in str(warning) for warning in report.warnings), report.warnings


def test_a_data_set_that_goes_to_a_cluster_is_the_same_there(folder: Folder, tmp_path: Path) -> None:
    for split, written in (("train", "sub\\a%20b.png"), ("val", unicodedata.normalize("NFC", "é.png"))):
        content = folder.read(split)
        target = folder.images / ("sub/a b.png" if split == "train" else unicodedata.normalize("NFD", written))
        target.parent.mkdir(exist_ok=True)
        (folder.images / content["images"][0]["file_name"]).rename(target)
        content["images"][0]["file_name"] = written
        folder.write(content, split)
    folder.file("val").write_bytes(folder.file("val").read_text().encode("utf-16"))
    data = coco.dataspec(folder.root)
    (tmp_path / "storage").mkdir()
    (tmp_path / "cache").mkdir()
    storage = Storage(f"file://{tmp_path}/storage")
    here = {key: str(value) for key, value in vars(coco.find_dataset(folder.root)).items()}
    push_dataset(storage, data.digest, DataPaths.from_json(here), lambda _: None)
    paths = {key: Path(value) for key, value in fetch_dataset(storage, data.digest, tmp_path / "cache").to_json().items()}
    for split in ("train", "val"):
        for image in coco.load_coco(paths[f"{split}_annotations"])["images"]:
            there, here = (coco.image_file(place, image["file_name"]) for place in (paths[f"{split}_images"], folder.images))
            assert there.read_bytes() == here.read_bytes()


def test_names_are_printed_readably(folder: Folder) -> None:
    folder.edit(first("images", file_name="\u7ec6\u80de\u202e\x1b[31m.png"), "train")
    folder.edit(first("categories", name="\u7ec6\u80de"))
    report = coco.check_dataset(folder.root)
    text = report.to_text()
    assert "\u7ec6\u80de\\u202e\\x1b[31m.png" in text and "2 classes: \u7ec6\u80de, dog" in text
    assert "\u202e" not in text and "\x1b" not in text


# --- areas, evaluation, commands ------------------------------------------------------------------


def test_a_box_without_height_counts_in_evaluation_as_in_pycocotools(folder: Folder, tmp_path: Path) -> None:
    folder.edit(first("annotations", bbox=[5, 6, 18, 0], area=0), "val")
    evaluator = CocoEvaluator(folder.file("val"), ("cat", "dog"))
    found = perfect(evaluator)
    metrics, _ = evaluator(found)
    stock = COCO(str(folder.file("val")))
    for number, entry in enumerate(stock.dataset["annotations"], 1):
        entry["id"] = number
    stock.createIndex()
    boxes = found.box.copy()
    boxes[:, 2:] -= boxes[:, :2]
    results = stock.loadRes(np.column_stack([found.image_id, boxes, found.score, found.label + 1]))
    stats = COCOeval(stock, results, "bbox")
    stats.evaluate()
    stats.accumulate()
    stats.summarize()
    assert metrics["AP"] == pytest.approx(100 * stats.stats[0], abs=1e-6) and metrics["AP"] < 100
    assert metrics["AP_S"] == pytest.approx(100 * stats.stats[3], abs=1e-6)
    evaluator.write_records(tmp_path / "eval.npz", found)
    from gfl_lab.metrics.coco_records import Records

    with np.load(tmp_path / "eval.npz") as arrays:
        assert match(Records.of(arrays)).ap() == pytest.approx(metrics["AP"], abs=1e-5)


def test_areas_are_computed_in_a_copy(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    folder.edit(each("annotations", area=0.12, note="kept"))
    cli = runner(monkeypatch, capsys, "data")
    code, out, _ = cli("check", str(folder.root))
    assert code == 0 and "gfl-lab data areas PATH OUT" in out
    code, out, err = cli("areas", str(folder.root), str(tmp_path / "copy"))
    assert code == 0 and out.strip() == str(tmp_path / "copy") and "train: 6 areas changed" in err
    report, _ = agree(tmp_path / "copy", tmp_path)
    assert not report.warnings
    made = json.loads((tmp_path / "copy/annotations/instances_val.json").read_text())
    assert all(entry["area"] == 18 * 20.5 and entry["note"] == "kept" for entry in made["annotations"])
    code, _, err = cli("areas", str(folder.root), str(tmp_path / "copy"))
    assert code == 2 and "exists already" in err


def test_a_warning_for_many_images_is_one_line(folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    def many(d: dict[str, Any]) -> None:
        template = d["images"][0]
        for number in range(400):
            name = f"grey{number}.png"
            Image.fromarray(photo(number)[..., 0]).save(folder.images / name)
            d["images"].append(template | {"id": 1000 + number, "file_name": name})
            d["annotations"].append(d["annotations"][0] | {"id": 1000 + number, "image_id": 1000 + number})

    folder.edit(many, "train")
    cli = runner(monkeypatch, capsys, "data")
    code, out, _ = cli("check", str(folder.root))
    lines = [line for line in out.splitlines() if "warning:" in line]
    assert code == 0 and lines == [
        '  warning: annotations/instances_train.json: 400 images that are not RGB: image 1000 ("grey0.png"), image 1001 ("grey1.png"), '
        'image 1002 ("grey2.png"), and 397 more: is greyscale; it is read as RGB'
    ]
    _, out, _ = cli("check", str(folder.root), "--verbose")
    assert sum("is greyscale" in line for line in out.splitlines()) == 400
    _, out, _ = cli("check", str(folder.root), "--json")
    assert len(json.loads(out)["warnings"]) == 400
    said: list[str] = []
    tree = RunTree(tmp_path / "runs")
    files = type("F", (), {"profile": None})()
    dataset.prepare_data(files.profile, tree, folder.root, said.append)
    assert [line for line in said if "warning:" in line] == [
        f"warning: 400 warnings of 1 kind about the data:  gfl-lab data check {folder.root}"
    ]


@pytest.mark.parametrize("where", ["profiles", "experiments/profiles"])
def test_profiles_are_found_as_by_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / where).mkdir(parents=True)
    (tmp_path / where / "mine.yaml").write_text("name: mine\ntitle: x\ndata: required\n")
    assert inputs.named_profile("mine").name == "mine"
    (tmp_path / "e.yaml").write_text("name: e\nprofile: mine\naxes: {reg_max: [8, 16]}\n")
    assert inputs.read_files(tmp_path / "e.yaml", None).profile.name == "mine"
    beside = tmp_path / "far/profiles"
    beside.mkdir(parents=True)
    (beside / "mine.yaml").write_text("name: mine\ntitle: beside\ndata: required\n")
    (tmp_path / "far/e.yaml").write_text("name: e\nprofile: mine\naxes: {reg_max: [8, 16]}\n")
    assert inputs.read_files(tmp_path / "far/e.yaml", None).profile.title == "beside"
    with pytest.raises(InputError, match="there is no profile"):
        inputs.named_profile("none")


# --- anything else --------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([2**31, 2**53, 10**30, 1e308, float("nan"), float("inf"), -0.0, 0.5, 1e-300])
    | st.floats(-5, 70)
    | st.sampled_from(["", "0", "train0.png", "train1.png", "..", "a\\b.png", "%00", "\ud800", "\x00", "x" * 300])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox"]), inner, max_size=2), max_leaves=4
)


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """The path of every value below ``value``."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in pairs for place in ((*at, key), *places(inner, (*at, key)))]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, dict[str, Any]]:
    folder = Folder(tmp_path_factory.mktemp("fuzz") / "set")
    return folder, folder.read()


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_any_change_is_refused_or_trains(valid: tuple[Folder, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, draw: Any) -> None:
    folder, original = valid
    content = copy.deepcopy(original)
    for _ in range(draw.draw(st.integers(1, 3))):
        *way, key = draw.draw(st.sampled_from(places(content) or [("images",)]))
        inner = content
        for step in way:
            inner = inner[step]
        action = draw.draw(st.sampled_from(["replace", "nudge", "nudge", "nudge", "delete", "repeat"]))
        number = isinstance(inner[key], (int, float)) and not isinstance(inner[key], bool)
        if action == "nudge" and number:
            inner[key] = draw.draw(
                st.sampled_from([float(inner[key]), inner[key] * 0.99, inner[key] + 0.3, 0, inner[key] == 1, inner[key] / 30])
            )
        elif action == "nudge" and isinstance(inner[key], dict):
            inner[key][draw.draw(st.sampled_from(["area", "iscrowd", "extra", "coco_url"]))] = draw.draw(SCALARS)
        elif action in ("replace", "nudge"):
            inner[key] = draw.draw(VALUES)
        elif action == "delete":
            del inner[key]
        elif isinstance(inner, list):
            inner.append(copy.deepcopy(inner[key]))
    folder.write(content)
    report = coco.check_dataset(folder.root)
    report.to_text().encode()
    json.dumps(report.to_dict(), allow_nan=False, ensure_ascii=False).encode()
    if report.ok:
        agree(folder.root, tmp_path_factory.mktemp("work"))
    else:
        assert all("annotations/instances_train.json" in str(error) for error in report.errors)
