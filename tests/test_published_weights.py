"""mmdet's published weights by name and by file: the same detections as mmdet's own detector, from a server on 127.0.0.1.

The files hold random weights under the published names: mmdet's own configs, made narrow.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gfl_lab.checkpoints.download import cache_folder
from gfl_lab.checkpoints.visible_settings import NOT_VISIBLE
from gfl_lab.detector.build import model_config
from gfl_lab.detector.mmdet_detector import mmdet_detector
from gfl_lab.errors import InputError
from gfl_lab.inference.published_weights import read_with_config
from gfl_lab.inference.reevaluate import predict_images
from gfl_lab.rundir import RunTree
from gfl_lab.session.inputs import named_profile
from gfl_lab.session.trained import DEFAULT_PROFILE, detector_for_images
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.plain_config import decode
from gfl_lab.zoo import source
from gfl_lab.zoo.metafile import find, read_index
from gfl_lab.zoo.trained import read_trained
from tests.support.cli import Cli, runner
from tests.support.file_server import FileServer, file_server

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmcv.transforms import Compose
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint

torch.set_num_threads(1)

GFL, ATSS, RETINA = "gfl_r50_fpn_1x_coco", "atss_r50_fpn_1x_coco", "retinanet_r50_fpn_1x_coco"
COCO = tuple(CocoDataset.METAINFO["classes"])
WHEEL = source.configs_folder()
"""mmdet's own folder; the fixture below puts another in its place."""


def narrow(name: str) -> Config:
    """mmdet's config with the same detector, 8 channels wide and with 18 layers."""
    config = Config.fromfile(WHEEL / name.split("_")[0] / f"{name}.py")
    model = config.model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.bbox_head.update(in_channels=16, feat_channels=16)
    if name != RETINA:
        model.bbox_head.norm_cfg = {"type": "GN", "num_groups": 2, "requires_grad": True}
    return config


def random_detector(name: str, classes: int = 80) -> tuple[Config, torch.nn.Module]:
    """A narrow detector of mmdet's with random weights and statistics, and many scores above 0.05."""
    init_default_scope("mmdet")
    config = narrow(name)
    config.model.bbox_head.num_classes = classes
    model = MODELS.build(config.model)
    generator = torch.Generator().manual_seed(3)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not key.endswith("project"):
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            else:
                value.copy_((0 if key.endswith(("bias", "mean")) else 1) + 0.1 * noise.clamp(-2, 2))
    layer, bias = {GFL: ("gfl_cls", -3), ATSS: ("atss_cls", -2), RETINA: ("retina_cls", -3)}[name]
    getattr(model.bbox_head, layer).bias.data.add_(bias)
    return config, model.eval()


def file_of(model: torch.nn.Module) -> bytes:
    """The bytes of a checkpoint as mmdet publishes it."""
    content = io.BytesIO()
    torch.save({"meta": {"CLASSES": COCO, "epoch": 12, "config": "model = dict()"}, "state_dict": model.state_dict()}, content)
    return content.getvalue()


def publish(server: FileServer, name: str, content: bytes, tmp_path: Path) -> None:
    """Serve a file of weights, and list it in the index."""
    file = f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files[file] = content
    folder = tmp_path / "configs" / name.split("_")[0]
    results = "[{Task: Object Detection, Dataset: COCO, Metrics: {box AP: 40.2}}]"
    folder.joinpath("metafile.yml").write_text(
        f"Models:\n  - Name: {name}\n    Config: configs/{folder.name}/{name}.py\n    Results: {results}\n    Weights: {server.uri}/{file}\n"
    )
    read_index.cache_clear()


@pytest.fixture(scope="module")
def detectors() -> dict[str, tuple[Config, torch.nn.Module]]:
    return {name: random_detector(name) for name in (GFL, ATSS, RETINA)}


@pytest.fixture
def zoo(detectors: dict[str, tuple[Config, torch.nn.Module]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of the detectors' files, an index that names it, and an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(source, "configs_folder", lambda: tmp_path / "configs")
    source.names.cache_clear()
    source.read.cache_clear()
    with file_server({}) as server:
        for name, (config, model) in detectors.items():
            folder = tmp_path / "configs" / name.split("_")[0]
            folder.mkdir(parents=True)
            config.dump(folder / f"{name}.py")
            publish(server, name, file_of(model), tmp_path)
        yield server
    source.names.cache_clear()
    source.read.cache_clear()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of 96 x 64 px."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.mark.parametrize("name", [GFL, ATSS, RETINA])
def test_detections_are_those_of_mmdet(
    name: str, zoo: FileServer, detectors: dict[str, tuple[Config, torch.nn.Module]], photo: Path, tmp_path: Path
) -> None:
    """mmdet's own config, pipeline and detector on the same picture: the same boxes, classes and scores."""
    config, stock = detectors[name]
    own = detector_for_images(RunTree(tmp_path / "runs"), f"mmdet:{name}")
    [(_, found)] = predict_images(own, [photo], 0.0)
    same_detections(found, stock, config, photo)


def test_test_settings_of_trained_weights_act_in_the_config(
    zoo: FileServer, detectors: dict[str, tuple[Config, torch.nn.Module]], photo: Path, tmp_path: Path
) -> None:
    """mmdet's own detector with the same values in its ``test_cfg`` gives the same detections."""
    config, stock = detectors[RETINA]
    own = detector_for_images(RunTree(tmp_path / "runs"), f"mmdet:{RETINA}")
    values = {"score_thr": 0.3, "nms_iou": 0.3, "nms_pre": 60, "max_dets": 25}
    [(_, found)] = predict_images(own.under(values), [photo], 0.0)
    changed = copy.deepcopy(stock)
    changed.bbox_head.test_cfg.update(score_thr=0.3, nms={"type": "nms", "iou_threshold": 0.3}, nms_pre=60, max_per_img=25)
    assert len(found) <= 25
    same_detections(found, changed, config, photo)
    only = decode(own.under({"nms_iou": 0.3}).spec.config["model"])["test_cfg"]
    assert only == {**decode(own.spec.config["model"])["test_cfg"], "nms": {"type": "nms", "iou_threshold": 0.3}}, "each acts by itself"
    for key, value in {"pad_to": 64, "image_size": (64, 64), "decode": "local_peak"}.items():
        with pytest.raises(
            InputError, match=rf"(?s){key} has no effect on these weights.*may be set .* max_dets, nms_iou, nms_pre, score_thr"
        ):
            own.under({key: value})


def test_distributions_of_mmdets_gfl_head_are_those_of_ours_with_the_same_weights(
    zoo: FileServer, detectors: dict[str, tuple[Config, torch.nn.Module]], photo: Path, tmp_path: Path
) -> None:
    """The same file, once converted to our head and once in mmdet's own: the same rows of distributions."""
    tree, file = RunTree(tmp_path / "runs"), tmp_path / "mine.pth"
    file.write_bytes(file_of(detectors[GFL][1]))
    ours = detector_for_images(tree, f"mmdet:{GFL}", distributions=True)
    mmdets = detector_for_images(tree, str(file), config=f"mmdet:{GFL}", distributions=True)
    assert mmdets.spec.config and not ours.spec.config
    [(_, wanted)], [(_, found)] = (predict_images(each, [photo], 0.0) for each in (ours, mmdets))
    assert len(found) == len(wanted) > 20
    for key in ("category", "bins", "bin_width", "bin_positions", "level", "stride", "cell_x", "cell_y"):
        assert [row[key] for row in found] == [row[key] for row in wanted], key
    for key in ("probs", "expectation", "score", "cell_x1", "cell_y2", "det_score"):
        np.testing.assert_allclose([row[key] for row in found], [row[key] for row in wanted], rtol=1e-4, atol=1e-5, err_msg=key)
    assert found[0]["bins"] == 17 and sum(found[0]["probs"]) == pytest.approx(4)
    with pytest.raises(InputError, match="the head of .* predicts no distributions of box edges"):
        detector_for_images(tree, str(file), config=f"mmdet:{RETINA}", distributions=True)


def same_detections(found: Sequence[Mapping[str, Any]], stock: torch.nn.Module, config: Config, photo: Path) -> None:
    """Compare detections with those of mmdet's detector, pipeline and config."""
    pipeline = Compose([step for step in config.test_dataloader.dataset.pipeline if step["type"] != "LoadAnnotations"])
    with torch.no_grad():
        [sample] = stock.test_step(pseudo_collate([pipeline({"img_path": str(photo), "img_id": 0})]))
    theirs = sample.pred_instances
    assert len(found) == len(theirs) > 20
    assert [row["category"] for row in found] == [COCO[label] for label in theirs.labels]
    np.testing.assert_allclose([row["det_score"] for row in found], theirs.scores, atol=1e-5)
    boxes = [[row["det_x1"], row["det_y1"], row["det_x2"], row["det_y2"]] for row in found]
    np.testing.assert_allclose(boxes, theirs.bboxes, atol=1e-3)


def test_a_photograph_in_the_first_minute(cli: Cli, zoo: FileServer, photo: Path, tmp_path: Path) -> None:
    """One command fetches the file, shows the edges, and fetches it no second time. An interruption loses nothing."""
    zoo.cuts = [1000, 0]
    code, out, err = cli("predict", f"mmdet:{GFL}", photo, "--distributions", "--profile", "smoke")
    assert code == 6 and out == "" and "the same command continues there" in err and not (tmp_path / "predictions").exists()
    code, out, err = cli("predict", f"mmdet:{GFL}", photo, "--distributions", "--profile", "smoke", "--score-thr", "0.05")
    assert code == 0 and out == "", err
    assert f"downloading mmdet:{GFL} (1.0 MB, 0.0 MB are there)" in err
    assert "published box AP of 40.2 on COCO" in err and NOT_VISIBLE not in err and "detections" in err
    with Image.open(tmp_path / "predictions" / "photo.png") as picture:
        assert picture.size > (96, 64)
    assert len(list(cache_folder().iterdir())) == 1

    zoo.close()
    code, out, err = cli("predict", f"mmdet:{GFL}", photo, "--distributions", "--profile", "smoke", "--score-thr", "0.05", "--json")
    assert code == 0 and "downloading" not in err
    shown = json.loads(out)
    assert shown["weights"] == f"mmdet:{GFL}" and tuple(shown["classes"]) == COCO
    for each in shown["images"][0]["detections"]:
        assert all(len(p) == 17 and sum(p) == pytest.approx(1, abs=1e-4) for p in each["distributions"].values())


def coco_folder(root: Path, photo: Path, classes: tuple[str, ...]) -> Path:
    """A data set of one picture twice, with one box, and the categories ``classes``."""
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir(parents=True)
        (root / f"{split}2017" / "1.png").write_bytes(photo.read_bytes())
        image = {"id": 1, "file_name": "1.png", "width": 96, "height": 64}
        box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": [image], "annotations": [box], "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_evaluate_takes_a_name_or_a_file(cli: Cli, zoo: FileServer, photo: Path, tmp_path: Path) -> None:
    data = coco_folder(tmp_path / "coco", photo, COCO)
    code, out, err = cli("evaluate", f"mmdet:{GFL}", "--data", data, "--profile", "smoke", "--json")
    assert code == 0, err
    by_name = json.loads(out)
    assert by_name["weights"] == f"mmdet:{GFL}" and by_name["images"] == 1
    file = next(path for path in cache_folder().iterdir() if path.name.startswith(GFL))
    code, out, err = cli("evaluate", file, "--data", data, "--profile", "smoke", "--json")
    assert code == 0 and NOT_VISIBLE in err and "do not name their classes" not in err, err
    assert json.loads(out)["rows"] == by_name["rows"]

    others = coco_folder(tmp_path / "others", photo, ("person", "two", *COCO[2:]))
    code, out, err = cli("evaluate", f"mmdet:{GFL}", "--data", others)
    assert code == 2 and "class 2 is bicycle in the weights and two in the data set" in err
    few = coco_folder(tmp_path / "few", photo, COCO[:4])
    code, out, err = cli("evaluate", f"mmdet:{GFL}", "--data", few)
    assert code == 2 and "the weights have 80 classes" in err
    code, out, err = cli("evaluate", f"mmdet:{GFL}")
    assert code == 2 and "Give --data PATH" in err


def test_another_detector_of_mmdet_by_name(cli: Cli, zoo: FileServer, photo: Path, tmp_path: Path) -> None:
    """It is drawn without distributions, and evaluated by its config; what has no meaning for it is refused before the download."""
    code, _, err = cli("predict", f"mmdet:{RETINA}", photo, "--distributions")
    assert code == 2 and f"the head of mmdet:{RETINA} predicts no distributions of box edges" in err and not zoo.seen
    code, _, err = cli("predict", f"mmdet:{RETINA}", photo, "--profile", "smoke")
    assert code == 2 and "tested by its own config" in err and not zoo.seen
    code, _, err = cli("predict", f"mmdet:{ATSS}", photo, "--distributions")
    assert code == 2 and "predicts no distributions" in err and not zoo.seen
    code, out, err = cli("predict", f"mmdet:{RETINA}", photo)
    assert code == 0 and "published box AP of 40.2" in err and (tmp_path / "predictions" / "photo.png").is_file(), err
    code, out, err = cli("evaluate", f"mmdet:{RETINA}", "--data", coco_folder(tmp_path / "coco", photo, COCO), "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["images"] == 1 and report["settings"]["nms_iou"] == 0.5 and report["settings"]["image_size"] == [1333, 800]
    code, out, err = cli("evaluate", f"mmdet:{RETINA}", "--data", tmp_path / "coco", "--set", "nms_iou=0.6", "--json")
    assert code == 0 and json.loads(out)["set"] == {"nms_iou": 0.6}, err
    code, _, err = cli("evaluate", f"mmdet:{RETINA}", "--data", tmp_path / "coco", "--set", "image_size=[640,480]")
    assert code == 2 and "image_size has no effect on these weights" in err


def test_a_file_of_mmdet_with_its_config(cli: Cli, zoo: FileServer, photo: Path, tmp_path: Path) -> None:
    """Three classes of the user's, in a file as mmengine's Runner saves it, with logs beside the weights."""
    config, model = random_detector(RETINA, 3)
    hub = MessageHub.get_instance("test_published_weights")
    hub.update_scalar("train/loss", np.float64(1.5))
    content = {
        "meta": {"epoch": 1, "seed": np.int64(7), "dataset_meta": {"classes": ("a", "b", "c")}},
        "state_dict": model.state_dict(), "message_hub": hub.state_dict(), "optimizer": {"state": {}},
    }  # fmt: skip
    save_checkpoint(content, str(tmp_path / "epoch_1.pth"))
    named = ["--detector", f"mmdet:{RETINA}"]
    code, out, err = cli("predict", tmp_path / "epoch_1.pth", photo, *named, "--score-thr", "0", "--json")
    assert code == 0, err
    assert json.loads(out)["classes"] == ["a", "b", "c"] and len(json.loads(out)["images"][0]["detections"]) > 0
    config.dump(tmp_path / "my_config.py")
    data = coco_folder(tmp_path / "mine", photo, ("a", "b", "c"))
    code, out, err = cli("evaluate", tmp_path / "epoch_1.pth", "--data", data, "--detector", tmp_path / "my_config.py", "--json")
    assert code == 0, err
    bare = dict(model.state_dict())
    torch.save(bare, tmp_path / "bare.pth")
    code, bare_out, err = cli("evaluate", tmp_path / "bare.pth", "--data", data, *named, "--json")
    assert code == 0 and "do not name their classes" in err, err
    assert json.loads(bare_out)["rows"] == json.loads(out)["rows"]

    first, *others = bare
    torch.save({key: bare[key] for key in others}, tmp_path / "part.pth")
    torch.save(bare | {"more": torch.zeros(1)}, tmp_path / "more.pth")
    for path, options, words in (
        ("part.pth", named, f"1 missing (first: {first})"),
        ("more.pth", named, "1 left over (first: more)"),
        ("bare.pth", ["--detector", f"mmdet:{ATSS}"], "missing (first: bbox_head.atss_centerness"),
        ("bare.pth", [], "--detector mmdet:NAME"),
        ("bare.pth", ["--detector", "mmdet:retinanet"], "mmdet has no config"),
        ("none.pth", named, "neither a trial's id nor a file"),
        ("epoch_1.pth", [*named, "--profile", "smoke"], "tested by its own config"),
    ):
        code, out, err = cli("evaluate", tmp_path / path, "--data", data, *options)
        assert code == 2 and out == "" and words in err, err
    code, _, err = cli("evaluate", f"mmdet:{RETINA}", "--data", data, *named)
    assert code == 2 and "--detector goes with a weights file" in err


def test_a_config_that_pads_and_does_not_scale(photo: Path, tmp_path: Path) -> None:
    """CenterNet's test wants images in float32, and adds a border."""
    name = "mmdet:centernet_r18_8xb16-crop512-140e_coco"
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = mmdet_detector(read_trained(name).model, 0.0, 100)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    [(_, found)] = predict_images(read_with_config(tmp_path / "weights.pth", name, None), [photo], 0.0)
    config = source.read(name)
    pipeline = Compose([step for step in config["test_dataloader"]["dataset"]["pipeline"] if step["type"] != "LoadAnnotations"])
    with torch.no_grad():
        [sample] = model.eval().test_step(pseudo_collate([pipeline({"img_path": str(photo), "img_id": 0})]))
    assert len(found) == len(sample.pred_instances) == 100
    boxes = [[row["det_x1"], row["det_y1"], row["det_x2"], row["det_y2"]] for row in found]
    np.testing.assert_allclose(boxes, sample.pred_instances.bboxes, atol=1e-3)


def test_published_entries_that_a_detector_has_not_are_left_out_and_named(
    cli: Cli, zoo: FileServer, detectors: dict[str, tuple[Config, torch.nn.Module]], photo: Path, tmp_path: Path
) -> None:
    state = detectors[RETINA][1].state_dict()
    state["bbox_head.old"] = torch.zeros(1)
    content = io.BytesIO()
    torch.save({"meta": {}, "state_dict": state}, content)
    publish(zoo, RETINA, content.getvalue(), tmp_path)
    code, _, err = cli("predict", f"mmdet:{RETINA}", photo)
    assert code == 0 and "note: 1 entry of the file is left out: bbox_head.old" in err, err
    del state["bbox_head.retina_cls.weight"]
    content = io.BytesIO()
    torch.save({"meta": {}, "state_dict": state}, content)
    publish(zoo, RETINA, content.getvalue(), tmp_path)
    code, _, err = cli("predict", f"mmdet:{RETINA}", photo, "--out", "again")
    assert code == 2 and "1 missing (first: bbox_head.retina_cls.weight), 1 left over (first: bbox_head.old)" in err, err


def test_mistakes_and_a_network_that_is_away(cli: Cli, zoo: FileServer, photo: Path, tmp_path: Path) -> None:
    code, _, err = cli("predict", "mmdet:gfl_r50_fpn_1x", photo)
    assert code == 2 and "mmdet has no config of this name" in err and f"Did you mean {GFL}" in err
    code, _, err = cli("predict", f"mmdet:{GFL}", tmp_path / "none.png")
    assert code == 2 and "no such file" in err
    zoo.files = {name: content[:-1] for name, content in zoo.files.items()}
    code, _, err = cli("predict", f"mmdet:{GFL}", photo)
    assert code == 6 and "SHA-256 begins with" in err
    zoo.close()
    code, _, err = cli("predict", f"mmdet:{GFL}", photo)
    assert code == 6 and f"put it into {cache_folder()}" in err and zoo.uri in err
    assert not list(cache_folder().iterdir())


@pytest.mark.parametrize("name", sorted({entry.name for entry in read_index(WHEEL).values() if entry.is_own_detector}))
def test_profile_has_the_settings_of_the_configs(name: str) -> None:
    """Image size, pixel statistics, anchors and test settings of each config that is offered are the default profile's."""
    config = Config.fromfile(find(name).config_path)
    settings = resolve_settings(named_profile(DEFAULT_PROFILE).settings)
    ours = model_config(settings, 80)
    theirs = config.model
    pixels = ("mean", "std", "bgr_to_rgb", "pad_size_divisor")
    assert [theirs.data_preprocessor[key] for key in pixels] == [ours.data_preprocessor[key] for key in pixels]
    assert theirs.test_cfg == ours.test_cfg
    assert theirs.bbox_head.anchor_generator == ours.bbox_head.anchor_generator
    coder = theirs.bbox_head.get("bbox_coder")
    assert coder is None or (coder.type, coder.target_stds) == ("DeltaXYWHBBoxCoder", [0.1, 0.1, 0.2, 0.2])
    [resize] = [step for step in config.test_dataloader.dataset.pipeline if step["type"] == "Resize"]
    assert (resize["scale"], resize["keep_ratio"]) == (settings.image_size, True)
