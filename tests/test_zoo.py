"""Detectors of mmdet's as variants: settings, configs read and rewritten, refusals; a step and a prediction of one config of each kind."""

from __future__ import annotations

import copy
import importlib
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from pydantic import ValidationError

import gfl_lab.detector
from gfl_lab.detector.mmdet_detector import best, without_memory
from gfl_lab.errors import InputError
from gfl_lab.session.mmdet_variants import resolved_once
from gfl_lab.setup.config import detector_config
from gfl_lab.spec import cfg_options
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.plain_config import NotPlainError, decode, encode
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.trial import DataSpec, TrialSpec
from gfl_lab.zoo import rewrite, source
from gfl_lab.zoo.options import with_options
from gfl_lab.zoo.resolve import complete, notes, resolve

RETINANET = "mmdet:retinanet_r50_fpn_1x_coco"
GAMMA = "model.bbox_head.loss_cls.gamma"
DATA = DataSpec(name="d", digest="0" * 16, classes=("a", "b", "c"), train_images=8, val_images=8)
SMOKE = {"base_channels": 8, "neck_channels": 16, "head_channels": 16, "image_size": [160, 128], "pad_to": 32}


def spec(settings: Settings) -> TrialSpec:
    settings = complete(settings)
    return TrialSpec(settings=settings, data=DATA, seed=0, code=1, config=resolve(settings, len(DATA.classes)))


def model_of(settings: Settings) -> Any:
    found = resolve(complete(settings), 3)
    assert found is not None
    return decode(found)["model"]


# --- settings -------------------------------------------------------------------------------------


def test_an_option_is_a_setting_of_its_own_and_later_layers_replace_it_path_by_path() -> None:
    settings = resolve_settings(
        {"detector": RETINANET, "cfg_options": {GAMMA: 1.0, "model.neck.num_outs": 4}}, {f"cfg_options.{GAMMA}": 2.0}
    )
    assert settings.cfg_options == {GAMMA: 2.0, "model.neck.num_outs": 4}
    assert cfg_options.setting_value(settings, f"cfg_options.{GAMMA}") == 2.0
    assert cfg_options.setting_value(settings, "lr") == settings.lr


@given(st.dictionaries(st.sampled_from(["model.a", "model.b.c", "lr", "epochs"]), st.integers(1, 9)))
def test_spread_undoes_folded(values: dict[str, int]) -> None:
    given_ = {f"cfg_options.{key}" if key.startswith("model") else key: value for key, value in values.items()}
    folded = cfg_options.folded(given_)
    assert cfg_options.spread(folded) == given_ and not any(map(cfg_options.is_option, folded))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"detector": "retinanet"}, "it must be gfl, mmdet:NAME"),
        ({"cfg_options.model..lr": 1}, "names joined by single dots"),
        ({"cfg_options.model.bbox_head.num_classes": 3}, "follows from the data"),
        ({"cfg_options.modle.neck": 3}, "did you mean model?"),
    ],
)
def test_wrong_options_are_refused_with_the_rule(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("?", r"\?")):
        Settings(**values)


def test_settings_of_our_family_are_inactive_beside_an_mmdet_detector_and_the_profile_s_beside_a_config_s_recipe() -> None:
    idle = inactive(Settings(detector=RETINANET))
    assert {"quality", "reg_max", "backbone", "atss_topk", "decode"} <= idle.keys()
    assert not {"detector", "cfg_options", "recipe", "lr", "epochs", "score_thr", "image_size", "base_channels"} & idle.keys()
    by_config = inactive(Settings(detector=RETINANET, recipe="config"))
    assert {"lr", "epochs", "batch_size", "score_thr", "image_size", "base_channels"} <= by_config.keys()
    assert not {"precision", "ema_decay", "recipe"} & by_config.keys()
    assert {"cfg_options", "recipe"} <= inactive(Settings()).keys()


def test_options_of_a_recipe_are_inactive_beside_the_profile_s_and_a_note_says_so() -> None:
    rate = "cfg_options.optim_wrapper.optimizer.lr"
    settings = Settings(**{"detector": RETINANET, rate: 0.1, "cfg_options.model.neck.out_channels": 128})
    assert {key: str(text) for key, text in inactive(settings).items() if key.startswith("cfg_options.")} == {rate: "recipe: config"}
    (note,) = [note for note in notes(settings) if "optim_wrapper" in note]
    assert note.startswith("retinanet_r50_fpn_1x_coco: ") and note.endswith("act only with recipe: config")
    plain = Settings(**{"detector": RETINANET, "cfg_options.model.neck.out_channels": 128})
    assert resolve(settings, 3) == resolve(plain, 3)
    by_config = settings.model_copy(update={"recipe": "config"})
    assert not any(key.startswith("cfg_options.") for key in inactive(by_config)) and not any(
        "act only" in note for note in notes(by_config)
    )


# --- ids ------------------------------------------------------------------------------------------


def test_the_id_is_that_of_the_resolved_config_and_not_of_its_name(tmp_path: Path) -> None:
    copied = tmp_path / "mine.py"
    copied.write_text(f"_base_ = {str(source.file_of(RETINANET))!r}\n")
    known = spec(Settings(detector=RETINANET))
    assert spec(Settings(detector=str(copied))).id == known.id
    assert spec(Settings(detector=RETINANET, cfg_options={GAMMA: 2.0})).id == known.id, "2.0 is what the config has"
    assert spec(Settings(detector=RETINANET, cfg_options={GAMMA: 1.5})).id != known.id
    assert spec(Settings(detector=RETINANET, quality="iou", dfl=False)).id == known.id, "these belong to our family"
    other_test = spec(Settings(detector=RETINANET, nms_iou=0.5))
    assert (
        other_test.id != known.id and other_test.training_id == known.training_id != spec(Settings(detector=RETINANET, lr=0.1)).training_id
    )
    assert TrialSpec.model_validate(known.model_dump(mode="json")) == known
    assert spec(Settings()).config is None and "config" not in spec(Settings()).model_dump()


# --- configs as data ------------------------------------------------------------------------------

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(_PLAIN)
def test_a_config_comes_back_from_json_with_its_tuples(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(("value", "where"), [({"a": [1, {"b": object()}]}, "a.1.b"), ({"a": float("inf")}, "a"), ({"a": {1: 2}}, "a")])
def test_what_json_does_not_hold_is_refused_with_its_path(value: Any, where: str) -> None:
    with pytest.raises(NotPlainError, match=f"^{where} "):
        encode(value)


def test_options_change_mappings_and_lists_and_name_the_part_that_is_missing() -> None:
    config = {"model": {"neck": [{"type": "FPN", "num_outs": 5}], "head": {"loss": {"gamma": 2.0}}}}
    untouched = copy.deepcopy(config)
    changed = with_options(config, {"model.neck.0.num_outs": 3, "model.head.loss.alpha": 0.5})
    assert changed == {"model": {"neck": [{"type": "FPN", "num_outs": 3}], "head": {"loss": {"gamma": 2.0, "alpha": 0.5}}}}
    assert config == untouched
    with pytest.raises(InputError) as caught:
        with_options(config, {"model.haed.loss": 1, "model.neck.1": 1, "model.head.loss.gamma.x": 1})
    assert [problem.message for problem in caught.value.problems] == [
        "cfg_options.model.haed.loss: the config has no model.haed",
        "cfg_options.model.neck.1: the config has no '1' in model.neck: it has 1 entries, from 0",
        "cfg_options.model.head.loss.gamma.x: the config has no 'x' in model.head.loss.gamma: it is 2.0, which has no parts",
    ]
    assert caught.value.problems[0].hint == "Did you mean 'head'?"


def test_names_of_configs_are_found_and_near_ones_offered() -> None:
    assert len(source.names()) > 700 and source.file_of(RETINANET).name == "retinanet_r50_fpn_1x_coco.py"
    with pytest.raises(InputError) as caught:
        source.file_of("mmdet:retinanet_r50_fpn")
    assert "retinanet_r50_fpn_1x_coco" in caught.value.problems[0].hint
    with pytest.raises(InputError, match="does not exist"):
        source.file_of("/nowhere/mine.py")


def test_a_broken_file_of_the_user_s_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("model = dict(type='ATSS'\n")
    with pytest.raises(InputError, match="cannot be read: SyntaxError"):
        source.read(str(tmp_path / "bad.py"))
    (tmp_path / "part.py").write_text("optimizer = dict(type='SGD')\n")
    with pytest.raises(InputError, match="describes no detector"):
        source.read(str(tmp_path / "part.py"))


# --- rewrites -------------------------------------------------------------------------------------


def test_classes_are_those_of_the_data_everywhere_but_in_the_proposal_network() -> None:
    model = {
        "rpn_head": {"num_classes": 1},
        "roi_head": {"bbox_head": [{"num_classes": 80, "loss_cls": {"num_classes": 80}}, {"num_classes": 80}]},
    }
    assert rewrite.with_classes(model, 3) == {
        "rpn_head": {"num_classes": 1},
        "roi_head": {"bbox_head": [{"num_classes": 3, "loss_cls": {"num_classes": 3}}, {"num_classes": 3}]},
    }
    with pytest.raises(InputError, match=r"model\.bbox_head\.loss_cls\.class_weight has 2 weights"):
        rewrite.with_classes({"bbox_head": {"loss_cls": {"class_weight": [1.0, 2.0]}}}, 3)


def test_masks_weights_and_synchronised_norms_go_and_a_random_backbone_trains_as_a_whole() -> None:
    model = {
        "backbone": {
            "type": "ResNet", "frozen_stages": 1, "norm_cfg": {"type": "SyncBN"}, "norm_eval": True,
            "init_cfg": {"type": "Pretrained", "checkpoint": "somewhere"},
        },
        "roi_head": {"type": "HybridTaskCascadeRoIHead", "bbox_head": {"init_cfg": {"type": "Normal"}}, "mask_head": {}, "semantic_head": {}},
    }  # fmt: skip
    changed = rewrite.trained_from_start(rewrite.without_pretrained(rewrite.without_masks(rewrite.with_plain_norms(model))))
    assert changed == {
        "backbone": {"type": "ResNet", "frozen_stages": -1, "norm_cfg": {"type": "BN"}, "norm_eval": False},
        "roi_head": {"type": "CascadeRoIHead", "bbox_head": {"init_cfg": {"type": "Normal"}}},
    }


def test_the_profile_s_protocol_is_every_detector_s() -> None:
    settings = Settings(detector=RETINANET, score_thr=0.1, nms_iou=0.7, nms_pre=50, max_dets=20)
    own = {"score_thr": 0.05, "nms": {"type": "soft_nms", "iou_threshold": 0.5}, "max_per_img": 100}
    wanted = {"score_thr": 0.1, "nms": {"type": "nms", "iou_threshold": 0.7}, "max_per_img": 20}
    one = rewrite.with_protocol({"test_cfg": {**own, "nms_pre": 1000, "min_bbox_size": 0}}, settings)
    assert one["test_cfg"] == {**wanted, "nms_pre": 50, "min_bbox_size": 0}
    two = rewrite.with_protocol({"test_cfg": {"rpn": {"nms_pre": 1000}, "rcnn": own}}, settings)
    assert two["test_cfg"] == {"rpn": {"nms_pre": 1000}, "rcnn": wanted}
    assert rewrite.with_protocol({"test_cfg": {"max_per_img": 300}}, settings)["test_cfg"] == {"max_per_img": 20}
    assert (
        model_of(settings.model_copy(update={"cfg_options": {"model.test_cfg.nms.iou_threshold": 0.4}}))["test_cfg"]["nms"]["iou_threshold"]
        == 0.4
    )


def test_other_test_settings_of_trained_weights_leave_the_kind_of_nms_and_what_the_test_has_not() -> None:
    values = {"score_thr": 0.1, "nms_iou": 0.7, "nms_pre": 50, "max_dets": 20}
    part = {"score_thr": 0.05, "nms": {"type": "soft_nms", "iou_threshold": 0.5}, "max_per_img": 100}
    two_stage = {"test_cfg": {"rpn": {"nms_pre": 1000}, "rcnn": part}}
    assert rewrite.test_settings(two_stage) == {"score_thr", "nms_iou", "max_dets"}
    assert rewrite.with_test_settings(two_stage, values)["test_cfg"] == {
        "rpn": {"nms_pre": 1000}, "rcnn": {"score_thr": 0.1, "nms": {"type": "soft_nms", "iou_threshold": 0.7}, "max_per_img": 20},
    }  # fmt: skip
    assert rewrite.with_test_settings(two_stage, {"max_dets": 20})["test_cfg"]["rcnn"] == {**part, "max_per_img": 20}
    assert rewrite.test_settings({"test_cfg": {"max_per_img": 300}}) == {"max_dets"} and rewrite.test_settings({}) == frozenset()


def test_detections_of_a_detector_without_a_protocol_are_cut_by_score_and_number() -> None:
    found = InstanceData(scores=torch.tensor([0.2, 0.9, 0.05, 0.6]), labels=torch.tensor([0, 1, 2, 3]))
    assert best(found, 0.05, 100).labels.tolist() == [1, 3, 0], "a score must be above the threshold"
    assert best(found, 0.0, 2).labels.tolist() == [1, 3]
    assert best(found, 0.0, 4) is found


def test_a_detector_of_another_depth_than_the_profile_s_says_so() -> None:
    small = {"head_convs": 2, "strides": [8, 16, 32], "base_channels": 24, "neck_channels": 64, "head_channels": 64}
    (note,) = notes(Settings(detector="mmdet:atss_r50_fpn_1x_coco", **small))
    assert (
        note
        == "atss_r50_fpn_1x_coco keeps its 4 convolutions before each prediction (the profile: 2) and its 5 pyramid levels (the profile: 3)"
    )
    assert notes(Settings(detector="mmdet:atss_r50_fpn_1x_coco")) == (), "4 and 5, as the published head"
    (note,) = notes(Settings(detector="mmdet:fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco", base_channels=24))
    assert note.endswith("keeps the width of its backbone")


def test_the_profile_s_widths_are_every_resnet_detector_s_and_its_depth_decides_the_maps() -> None:
    settings = Settings(detector=RETINANET, **SMOKE, cfg_options={"model.backbone.depth": 18})
    model = model_of(settings)
    assert model["backbone"]["base_channels"] == 8 and model["neck"]["in_channels"] == [8, 16, 32, 64]
    assert (model["neck"]["out_channels"], model["bbox_head"]["in_channels"], model["bbox_head"]["feat_channels"]) == (16, 16, 16)
    assert model_of(Settings(detector=RETINANET))["neck"]["in_channels"] == [256, 512, 1024, 2048]
    two_stage = model_of(Settings(detector="mmdet:deformable-detr-refine-twostage_r50_16xb2-50e_coco", **SMOKE))
    assert two_stage["neck"]["out_channels"] == 256, "its encoding of the first stage's boxes has 512 numbers"


@pytest.mark.parametrize(
    "name",
    [
        "mask-rcnn_r50_fpn_gn-all_2x_coco",  # groups of the backbone's norms
        "faster-rcnn_r50_fpn_fcos-rpn_1x_coco",  # groups of the norms that a proposal network takes by default
        "scnet_r50_fpn_1x_coco",  # its box head without masks
        "retinanet_effb3_fpn_8xb4-crop896-1x_coco",  # its stages are counted from 0
        "retinanet_pvtv2-b0_fpn_1x_coco",  # an address of weights without a type
    ],
)
def test_a_rewritten_config_builds_with_small_widths(name: str) -> None:
    stored = resolve(complete(Settings(detector=f"mmdet:{name}", **SMOKE)), 3)
    assert stored is not None and without_memory(decode(stored["model"]), name) is not None and "checkpoint" not in str(stored)


def test_a_detector_is_built_to_look_at_without_memory_and_without_warnings_of_libraries() -> None:
    with pytest.raises(InputError, match="the detector mmdet:mine cannot be built here: KeyError: 'NoSuchDetector"):
        without_memory({"type": "NoSuchDetector"}, "mmdet:mine")
    name = "mmdet:atss_r50_fpn_1x_coco"
    model = model_of(Settings(detector=name, **SMOKE))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        detector = without_memory(model, name)
        assert all(weight.is_meta for weight in detector.parameters())
        assert any("num_anchors" in str(warning.message) for warning in seen), "mmdet warns of its own code"
        seen.clear()
        importlib.reload(gfl_lab.detector)
        without_memory(model, name)
        assert not seen


def test_seeds_of_a_variant_share_one_resolved_config_and_their_ids_are_as_before() -> None:
    config_of = resolved_once()
    first, again = (config_of(Settings(detector=RETINANET, **SMOKE), 3) for _ in range(2))
    assert first is again and first == resolve(Settings(detector=RETINANET, **SMOKE), 3)
    assert config_of(Settings(detector=RETINANET, **SMOKE), 4) != first
    assert config_of(Settings(detector=RETINANET, **SMOKE, nms_iou=0.3), 3) != first and config_of(Settings(), 3) is None


# --- a config's own recipe ------------------------------------------------------------------------


def test_the_recipe_of_a_config_fills_the_settings_and_is_stored_whole() -> None:
    settings = complete(Settings(detector=RETINANET, recipe="config", epochs=3, lr=0.5, score_thr=0.3))
    told = {key: getattr(settings, key) for key in ("epochs", "schedule", "batch_size", "optimizer", "lr", "weight_decay", "lr_steps")}
    assert told == {
        "epochs": 12, "schedule": "1x", "batch_size": 16, "optimizer": "sgd", "lr": 0.01, "weight_decay": 1e-4, "lr_steps": (0.6667, 0.9167),
    }  # fmt: skip
    assert (settings.warmup_iters, settings.image_size, settings.score_thr, settings.nms_iou) == (500, (1333, 800), 0.05, 0.5)
    stored = decode(resolve(settings, 3))
    assert stored["optim_wrapper"]["optimizer"] == {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001}
    assert [each["type"] for each in stored["param_scheduler"]] == ["LinearLR", "MultiStepLR"]
    assert [each["type"] for each in stored["train_pipeline"]] == [
        "LoadImageFromFile", "LoadAnnotations", "Resize", "RandomFlip", "PackDetInputs",
    ]  # fmt: skip
    assert [each["type"] for each in stored["test_pipeline"]] == ["LoadImageFromFile", "Resize", "PackDetInputs"]
    shorter = complete(Settings(detector=RETINANET, recipe="config", cfg_options={"train_cfg.max_epochs": 2}))
    assert shorter.epochs == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("yolox_s_8xb8-300e_coco", "train_dataloader.dataset is MultiImageMixDataset"),
        ("ssd300_voc0712", "train_dataloader.dataset is ConcatDataset"),
        ("rtmdet_s_8xb32-300e_coco", "its pipeline has CachedMosaic"),
    ],
)
def test_a_recipe_that_a_trial_cannot_repeat_is_refused(name: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        complete(Settings(detector=f"mmdet:{name}", recipe="config"))
    assert any(reason in problem.message for problem in caught.value.problems)
    complete(Settings(detector=f"mmdet:{name}"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rpn_r50_fpn_1x_coco", "no box AP"),
        ("solov2_r50_fpn_1x_coco", "no box AP"),
        ("yolact_r50_1xb8-55e_coco", "needs masks"),
        ("rtmdet-ins_s_8xb32-300e_coco", "needs masks"),
        ("ld_r18-gflv1-r101_fpn_1x_coco", "another detector's weights"),
        ("glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365", "reads text"),
        ("fast-rcnn_r50_fpn_1x_coco", "regions from a file"),
        ("soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco", "images without labels"),
    ],
)
def test_what_is_no_detector_of_boxes_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        complete(Settings(detector=f"mmdet:{name}"))


# --- a step and a prediction ----------------------------------------------------------------------

TRAINED = textwrap.dedent("""
    atss_r50_fpn_1x_coco autoassign_r50-caffe_fpn_1x_coco cascade-rcnn_r50_fpn_1x_coco centernet_r18_8xb16-crop512-140e_coco
    centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco ddod_r50_fpn_1x_coco deformable-detr_r50_16xb2-50e_coco detr_r50_8xb2-150e_coco
    dynamic-rcnn_r50_fpn_1x_coco faster-rcnn_r50_fpn_1x_coco faster-rcnn_r50_fpn-carafe_1x_coco faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco
    faster-rcnn_r50_fpn_dpool_1x_coco faster-rcnn_r50_fpn_soft-nms_1x_coco fcos_r50-caffe_fpn_gn-head_1x_coco
    fovea_r50_fpn_4xb4-1x_coco fovea_r50_fpn_gn-head-align_4xb4-2x_coco freeanchor_r50_fpn_1x_coco fsaf_r50_fpn_1x_coco
    ga-retinanet_r50-caffe_fpn_1x_coco gfl_r50_fpn_1x_coco htc_r50_fpn_1x_coco libra-faster-rcnn_r50_fpn_1x_coco
    libra-retinanet_r50_fpn_1x_coco mask-rcnn_r50_fpn_1x_coco nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco
    paa_r50_fpn_1x_coco retinanet-r50_fpn_pisa_1x_coco queryinst_r50_fpn_1x_coco reppoints-moment_r50_fpn_1x_coco
    retinanet_r18_fpn_1x_coco retinanet_r50_fpn_1x_coco rtmdet_tiny_8xb32-300e_coco sparse-rcnn_r50_fpn_1x_coco
    tood_r50_fpn_1x_coco vfnet_r50_fpn_1x_coco yolof_r50-c5_8xb8-1x_coco yolox_tiny_8xb8-300e_coco
    conditional-detr_r50_8xb2-50e_coco grid-rcnn_r50_fpn_gn-head_2x_coco
""").split()
"""One config of each kind, and of each operator of mmcv that is replaced. benchmarks/results has all of them."""


def _samples(height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(2)]
    made = []
    for number in range(2):
        sample = DetDataSample(
            metainfo={"img_id": number, "img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
        )
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[10.0, 10, 70, 80], [60, 40, 150, 120]]), labels=torch.tensor([0, 2]))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        made.append(sample)
    return {"inputs": images, "data_samples": made}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_and_a_prediction_are_finite_and_reach_every_weight(name: str) -> None:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        settings = Settings(detector=f"mmdet:{name}", score_thr=0.0, max_dets=10, **SMOKE)
        torch.use_deterministic_algorithms(True)  # what nothing initialises is then no number
        try:
            model = MODELS.build(detector_config(spec(settings)))
        finally:
            torch.use_deterministic_algorithms(False)
        for key in ("epoch", "iter"):  # which mmengine's Runner tells the detectors
            MessageHub.get_current_instance().update_info(key, 0)
        MMLogger.get_current_instance().setLevel("ERROR")  # it reports the initialisation of each weight
        model.init_weights()
        assert [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()] == []
        data = model.data_preprocessor(_samples(128, 160), True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        loss.backward()
        assert torch.isfinite(loss)
        assert [key for key, each in model.named_parameters() if each.requires_grad and each.grad is None] == []
        model.eval()
        with torch.inference_mode():
            found = model.test_step(_samples(128, 160))
    assert all(len(each.pred_instances) <= 10 and torch.isfinite(each.pred_instances.bboxes).all() for each in found)
    assert all((each.pred_instances.labels < 3).all() for each in found)
