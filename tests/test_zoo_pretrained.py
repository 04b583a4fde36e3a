"""Pretrained backbones of mmdet's detectors: what a config names, fetched, checked, and where a trial starts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.checkpoints.pretrained import address_of, check_backbone_of_mmdet, load_backbone_of_mmdet
from gfl_lab.data import coco
from gfl_lab.errors import InputError, ResourceError
from gfl_lab.records.files import write_json
from gfl_lab.rundir import RunTree
from gfl_lab.session.weights import digest_weights, fetch_weights
from gfl_lab.spec.plain_config import decode
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, TrialSpec
from gfl_lab.train.trial import run_trial
from gfl_lab.zoo import source
from gfl_lab.zoo.resolve import complete, pretrained_of, resolve
from tests.support.file_server import FileServer, file_server
from tests.support.raw import raw_result
from tests.support.trials import SMALL

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.registry import MODELS

RETINA = "mmdet:retinanet_r50_fpn_1x_coco"


def r18() -> torch.nn.Module:
    """A narrow ResNet of mmdet's, other numbers than a trial's own start."""
    torch.manual_seed(11)
    net: torch.nn.Module = MODELS.build({"type": "mmdet.ResNet", "depth": 18, "base_channels": 8, "norm_eval": False})
    return net


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with file_server({}) as own:
        yield own


def publish(server: FileServer, state: dict[str, Any]) -> str:
    """Serve weights; return their address."""
    content = io.BytesIO()
    torch.save(state, content)
    name = f"net-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth"
    server.files[name] = content.getvalue()
    return f"{server.uri}/{name}"


def config_file(folder: Path, checkpoint: str) -> str:
    """A narrow RetinaNet of the user's, whose backbone starts from ``checkpoint``."""
    base = source.configs_folder() / "retinanet" / "retinanet_r50_fpn_1x_coco.py"
    path = folder / "mine.py"
    path.write_text(
        f"_base_ = {str(base)!r}\n"
        "model = dict(backbone=dict(depth=18, base_channels=8, norm_eval=False, frozen_stages=-1, "
        f"init_cfg=dict(type='Pretrained', checkpoint={checkpoint!r})), "
        "neck=dict(in_channels=[8, 16, 32, 64], out_channels=16), bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1))\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("checkpoint", "address"),
    [
        ("torchvision://resnet50", "/resnet50-0676ba61.pth"),
        ("open-mmlab://detectron2/resnet50_caffe", "/resnet50_msra-5891d200.pth"),
        ("https://example.org/a-01234567.pth", "https://example.org/a-01234567.pth"),
    ],
)
def test_names_of_weights_have_addresses(checkpoint: str, address: str) -> None:
    assert address_of(checkpoint).startswith("https://") and address_of(checkpoint).endswith(address)


@pytest.mark.parametrize("checkpoint", ["torchvision://none", "open-mmlab://none", "./data/x.pth", "mmcls://x"])
def test_names_without_an_address_say_the_way_out(checkpoint: str) -> None:
    with pytest.raises(ResourceError, match=r"(?s)has no address.*--init-weights FILE"):
        address_of(checkpoint)


def test_the_name_is_stored_and_part_of_the_id() -> None:
    pretrained, random = (Settings(detector=RETINA, init_weights=word) for word in ("pretrained", "random"))
    found = resolve(pretrained, 3)
    assert found is not None and found["pretrained"] == "torchvision://resnet50"
    assert "init_cfg" not in found["model"]["backbone"], "mmengine would load it by itself"
    assert found["model"]["backbone"]["frozen_stages"] == 1, "the config's own start: its first stage stays as it is"
    assert "pretrained" not in (resolve(random, 3) or {})
    with pytest.raises(InputError, match=r"(?s)base_channels 8, and published weights have 64.*base_channels: 64"):
        resolve(pretrained.model_copy(update={"base_channels": 8}), 3)
    with pytest.raises(InputError, match="names no weights of its backbone"):
        pretrained_of(Settings(detector="mmdet:yolox_s_8xb8-300e_coco", init_weights="pretrained"))


def test_weights_are_fetched_and_compared_before_trials_start(server: FileServer, tmp_path: Path) -> None:
    state = dict(r18().state_dict()) | {"fc.weight": torch.zeros(2, 2), "final_layer.0.weight": torch.zeros(1)}
    settings = Settings.model_validate(SMALL | {"detector": config_file(tmp_path, publish(server, state)), "init_weights": "pretrained"})
    fetch_weights([settings, settings])
    assert len(server.seen) == 1
    del state["layer1.0.conv1.weight"]
    source.read.cache_clear()
    config_file(tmp_path, publish(server, state))
    with pytest.raises(InputError, match=r"do not fit backbone ResNet: 1 missing \(first: layer1.0.conv1.weight\)"):
        fetch_weights([settings])
    torch.save(state | {"more": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(InputError, match="1 missing .*2 left over"):
        load_backbone_of_mmdet(r18(), str(tmp_path / "file.pth"), "")


def test_offsets_of_deformable_convolutions_start_at_0_where_the_weights_have_none(tmp_path: Path) -> None:
    deformable = {"dcn": {"type": "DCN", "deform_groups": 1}, "stage_with_dcn": (False, True, True, True)}
    net = MODELS.build({"type": "mmdet.ResNet", "depth": 50, "base_channels": 8, "norm_eval": False, **deformable})
    net.init_weights()
    offsets = [key for key in net.state_dict() if ".conv_offset." in key]
    assert any(bool(net.state_dict()[key].any()) for key in offsets), "mmdet itself starts them as it does every convolution"
    torch.save({key: value + 1 for key, value in net.state_dict().items() if key not in offsets}, tmp_path / "plain.pth")
    load_backbone_of_mmdet(net, str(tmp_path / "plain.pth"), "")
    assert offsets and not any(bool(net.state_dict()[key].any()) for key in offsets)
    torch.save({key: value + 1 for key, value in net.state_dict().items()}, tmp_path / "all.pth")
    load_backbone_of_mmdet(net, str(tmp_path / "all.pth"), "")
    assert all(bool((net.state_dict()[key] == 1).all()) for key in offsets), "those that the weights have are theirs"


def test_a_vit_adapter_in_a_config_starts_from_deit_s_weights(tmp_path: Path) -> None:
    net = MODELS.build({"type": "ViTAdapter", "base_channels": 4})
    deit = {key: value + 1 for key, value in net.state_dict().items() if key.startswith(("pos_embed", "patch_embed.", "blocks."))}
    deit = {key: value for key, value in deit.items() if ".gamma" not in key}
    file = tmp_path / "deit.pth"
    torch.save({"model": deit | {"cls_token": torch.zeros(1), "norm.weight": torch.zeros(1), "norm.bias": torch.zeros(1)}}, file)
    check_backbone_of_mmdet({"type": "ViTAdapter", "base_channels": 4}, str(file))
    load_backbone_of_mmdet(net, str(file), "")
    assert len(deit) > 100 and all(torch.equal(net.state_dict()[key], value) for key, value in deit.items())
    settings = Settings(**{"detector": RETINA, "init_weights": "pretrained", "recipe": "config", "cfg_options.model.backbone": {
        "type": "ViTAdapter", "init_cfg": {"type": "Pretrained", "checkpoint": "https://example.org/deit-01234567.pth"}
    }})  # fmt: skip
    found = resolve(settings, 3)
    assert found["pretrained"] == "https://example.org/deit-01234567.pth" and "init_cfg" not in found["model"]["backbone"]


def test_a_trial_starts_from_them(server: FileServer, shapes: Path, tmp_path: Path) -> None:
    """At a learning rate of nearly 0 the trained backbone is the published one."""
    state = r18().state_dict()
    detector = config_file(tmp_path, publish(server, dict(state)))
    values = {"detector": detector, "init_weights": "pretrained", "epochs": 1, "lr": 1e-12, "weight_decay": 0.0}
    settings = complete(Settings.model_validate(SMALL | values))
    data = coco.dataspec(shapes)
    config = resolve(settings, len(data.classes))
    spec = TrialSpec(
        settings=settings, data=data, seed=0, code=TRAINING_CODE_VERSION, config=config, weights_digest=digest_weights("pretrained")
    )
    trial = RunTree(tmp_path / "runs").trial(spec.id)
    trial.path.mkdir(parents=True)
    paths = {key: str(value) for key, value in asdict(coco.find_dataset(shapes)).items()}
    content = {"format": 1, "trial": spec.id, "spec": spec.model_dump(mode="json"), "paths": paths, "created": ""}
    write_json(trial.file(naming.MANIFEST), content)
    run_trial(trial.path)
    assert raw_result(trial)["status"] == "done" and decode(config)["pretrained"] == f"{server.uri}/{server.seen[0][0]}"
    trained = load_safely(trial.file(naming.LAST_CHECKPOINT))["state_dict"]
    weights = [key for key in state if key.endswith("weight")]
    assert len(weights) == 40
    for key in weights:
        torch.testing.assert_close(trained[f"backbone.{key}"], state[key], atol=1e-6, rtol=0)
