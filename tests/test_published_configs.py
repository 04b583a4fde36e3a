"""Published rows that mmdet's configs run: method, backbone, schedule and scales of each config are those that its row names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gfl_lab.spec.file_models import PublishedRow
from gfl_lab.spec.files import load_published, resolve_settings
from gfl_lab.zoo.metafile import read_index
from gfl_lab.zoo.options import with_options
from gfl_lab.zoo.recipe import laid_open
from gfl_lab.zoo.source import configs_folder, read
from tests.support import DATA

PUBLISHED = Path(__file__).parents[1] / "experiments" / "published"
TABLES = {path.stem: load_published(path.stem, [PUBLISHED]) for path in sorted(PUBLISHED.glob("*.yaml"))}
ROWS = [(table, row.name) for table, content in TABLES.items() for row in content.rows if not row.why_not and "detector" in row.settings]
METHODS = {
    "fcos": ("FCOS", "FCOSHead"), "ssd512": ("SingleStageDetector", "SSDHead"), "ssd512 + qfl": ("SingleStageDetector", "SSDQFLHead"), "retinanet": ("RetinaNet", "RetinaHead"), "retinanet + qfl": ("RetinaNet", "RetinaQFLHead"),
    "foveabox": ("FOVEA", "FoveaHead"), "foveabox + qfl": ("FOVEA", "FoveaQFLHead"), "fsaf": ("FSAF", "FSAFHead"), "paa": ("PAA", "PAAHead"),
    "vfnet": ("VFNet", "VFNetHead"), "ddod-atss": ("DDOD", "DDODHead"), "freeanchor": ("RetinaNet", "FreeAnchorRetinaHead"),
    "pisa": ("RetinaNet", "PISARetinaHead"), "tood": ("TOOD", "TOODHead"), "T-head + ATSS": ("TOOD", "TOODHead"),
    "sparse_rcnn": ("SparseRCNN", "SparseRoIHead"), "T-head + TAL": ("TOOD", "TOODHead"), "parallel head + TAL": ("TOOD", "ParallelTOODHead"), "reppoints": ("RepPointsDetector", "RepPointsHead"),
    "cornernet": ("CornerNet", "CornerHead"), "centripetalnet": ("CornerNet", "CentripetalHead"), "faster r-cnn": ("FasterRCNN", "StandardRoIHead"),
    "faster r-cnn w/ fpn": ("FasterRCNN", "StandardRoIHead"), "libra r-cnn": ("FasterRCNN", "StandardRoIHead"),
    "cascade r-cnn": ("CascadeRCNN", "CascadeRoIHead"), "grid r-cnn": ("GridRCNN", "GridRoIHead"), "tridentnet": ("TridentFasterRCNN", "TridentRoIHead"),
}  # fmt: skip
"""Type of the model and of its dense head, or of its second stage, by the source's name of the method."""
EPOCHS = {"1x": 12, "12e": 12, "2x": 24, "3x": 36, "120e": 120}


@pytest.fixture(scope="module")
def reference() -> dict[tuple[str, str], dict[str, Any]]:
    """What each source says of each row, in its own words."""
    content = yaml.load((DATA / "published" / "reference.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {(table["id"], row["name"]): row["settings"] for table in content["tables"] for row in table["rows"]}


def row_of(table: str, name: str) -> PublishedRow:
    return next(row for row in TABLES[table].rows if row.name == name)


def config_of(table: str, name: str) -> dict[str, Any]:
    settings = resolve_settings(TABLES[table].settings, row_of(table, name).settings)
    assert settings.recipe == "config"
    return with_options(laid_open(read(settings.detector)), settings.cfg_options)


def backbone_of(model: dict[str, Any]) -> str:
    """Return the source's word for a backbone."""
    own = model["backbone"]
    plain = {
        "ResNet": lambda: f"r{own['depth']}",
        "TridentResNet": lambda: f"r{own['depth']}",
        "ResNeXt": lambda: f"x{own['depth']}-{own['groups']}x{own['base_width']}d",
        "HourglassNet": lambda: f"hg{52 * own['num_stacks']}",
        "ViTAdapter": lambda: "vit-adapter-s",
        "SSDVGG": lambda: f"vgg{own['depth']}",
    }[own["type"]]()
    return plain + ("-dcn" if own.get("dcn") else "")


def claims_of(said: dict[str, Any], config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what a source says of a row beside what its config has: {word: (theirs, ours)}."""
    model, data = config["model"], config["train_dataloader"]["dataset"]
    pipeline = [step["type"] for step in config["train_pipeline"]]
    pipeline += [step["type"] for each in config["train_pipeline"] for branch in each.get("transforms", ()) for step in branch]
    epochs, milestones = config["train_cfg"]["max_epochs"] * data.get("times", 1), config["param_scheduler"][-1]
    head = (model.get("bbox_head") or model["roi_head"])["type"]
    method = (said.get("detector") or said["method"]).partition(" (")[0] + (" + qfl" if said.get("qfl") else "")
    found: dict[str, tuple[Any, Any]] = {
        "method": (METHODS[method], (model["type"], head)),
        "end": (config["train_cfg"]["max_epochs"], milestones["end"]),
        "drops": (True, milestones["milestones"][-1] < milestones["end"]),
    }
    if said.get("backbone"):
        ours = backbone_of(model)
        found["backbone"] = (said["backbone"], "x101" if said["backbone"] == "x101" else ours)  # one source does not name the groups
    if "schedule" in said:
        found["schedule"] = (EPOCHS[said["schedule"]], epochs)
    if "epochs" in said:
        found["epochs"] = (said["epochs"], epochs)
    if "multiscale_train" in said:
        found["multiscale_train"] = (
            said["multiscale_train"],
            bool({"RandomResize", "RandomChoiceResize", "RandomCenterCropPad"} & {*pipeline}),
        )
    return found


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_a_config_is_the_detector_that_its_row_names(table: str, name: str, reference: dict[tuple[str, str], dict[str, Any]]) -> None:
    claims = claims_of(reference[table, name], config_of(table, name))
    assert {word: theirs for word, (theirs, _) in claims.items()} == {word: ours for word, (_, ours) in claims.items()}


def test_the_options_that_change_a_config_are_what_the_rows_ask_for() -> None:
    score_voting, plain = (
        config_of("mmdet_baselines_zoo", f"paa ({kind}) r-50 12e")["model"] for kind in ("score voting", "no score voting")
    )
    assert (score_voting["bbox_head"]["score_voting"], plain["bbox_head"]["score_voting"]) == (True, False)
    atss = config_of("tood_t6_alignment", "T-head + ATSS")
    assert atss["model"]["train_cfg"]["initial_epoch"] > atss["train_cfg"]["max_epochs"] and "ATSS" in str(
        atss["model"]["train_cfg"]["initial_assigner"]
    )
    deformable = config_of("tood_t5_test_dev", "PAA r-101-dcn")["model"]["backbone"]
    assert deformable["dcn"]["type"] == "DCNv2" and deformable["stage_with_dcn"] == [False, True, True, True]
    libra = config_of("gfl_t4_test_dev", "Libra R-CNN R-101")["model"]
    assert "BFP" in str(libra["neck"]) and "BalancedL1Loss" in str(libra["roi_head"]) and "IoUBalancedNegSampler" in str(libra["train_cfg"])
    improved = config_of("gfl_t4_test_dev", "FCOS X-101-64x4d")["model"]
    switches = ("center_sampling", "centerness_on_reg", "norm_on_bbox", "conv_bias", "loss_bbox")
    theirs = read("mmdet:fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco")["model"]
    assert [improved["bbox_head"][key] for key in switches] == [theirs["bbox_head"][key] for key in switches]
    assert improved["test_cfg"] == theirs["test_cfg"]
    sparse = config_of("vit_adapter_gfl", "ViT-Adapter-S + Sparse R-CNN")
    assert sparse["optim_wrapper"]["optimizer"] == {"type": "AdamW", "lr": 0.0001, "weight_decay": 0.05}
    assert [branch[-1]["crop_size"] for branch in sparse["train_pipeline"][3]["transforms"]] == [[1024, 1024]] * 2
    free, based = (config_of("mmdet_baselines_zoo", f"tood (anchor-{kind}) r-50 1x")["model"]["bbox_head"] for kind in ("free", "based"))
    assert (free.get("anchor_type", "anchor_free"), based["anchor_type"]) == ("anchor_free", "anchor_based")


TEST_DEV = {"vfnet r-50 2x": 44.8, "vfnet r-101 2x": 46.7}
"""AP in mmdet's metafile where that is its README's figure for test-dev; the row has the other one."""


def test_rows_of_mmdets_zoo_have_the_ap_that_mmdet_itself_gives_their_configs() -> None:
    index, checked = read_index(configs_folder()), 0
    for row in TABLES["mmdet_baselines_zoo"].rows:
        name = str(row.settings.get("detector", "")).removeprefix("mmdet:")
        if name in index and not any(key.startswith("cfg_options") for key in row.settings):
            assert index[name].box_ap == TEST_DEV.get(row.name, row.metrics["AP"]), row.name
            checked += 1
    assert checked >= 14
