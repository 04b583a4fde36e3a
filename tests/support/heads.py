"""Small heads and batches for tests of the detector."""

from __future__ import annotations

from typing import Any

import torch

from gfl_lab.detector.head import GFLFamilyHead
from gfl_lab.detector.head_arguments import MOVED_ARGUMENTS

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

CLASSES = 4
THREE, FIVE = (8, 16, 32), (8, 16, 32, 64, 128)
TEST_CFG = {"nms_pre": 50, "min_bbox_size": 0, "score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 100}


def common(strides: tuple[int, ...], **extra: Any) -> dict[str, Any]:
    """Constructor arguments of a dense head of mmdet's, of 32 input and 64 tower channels."""
    return {
        "num_classes": CLASSES,
        "in_channels": 32,
        "feat_channels": 64,
        "stacked_convs": 2,
        "norm_cfg": {"type": "GN", "num_groups": 8, "requires_grad": True},
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 8,
            "scales_per_octave": 1,
            "strides": list(strides),
        },
        "train_cfg": ConfigDict(assigner={"type": "ATSSAssigner", "topk": 9}, allowed_border=-1, pos_weight=-1, debug=False),
        "test_cfg": ConfigDict(TEST_CFG),
        **extra,
    }


def grouped(arguments: dict[str, Any]) -> dict[str, Any]:
    """Put arguments of a variant, given one by one as in mmdet's heads, into the groups of ``GFLFamilyHead``'s constructor."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in ("quality", "box"):
            found.setdefault(name, {})["type"] = value
        elif name == "assigner":
            found["train_cfg"] = ConfigDict({**arguments["train_cfg"], "assigner": {"type": value}})
        elif name == "box_loss":
            found.setdefault("box_loss", {})["loss"] = value
        elif name in MOVED_ARGUMENTS:
            group, field = MOVED_ARGUMENTS[name].split(".")
            found.setdefault(group, {})[field] = value
        else:
            found[name] = value
    for name, default in (("quality", "joint"), ("box", "general")):
        if name in found:
            found[name].setdefault("type", default)
    return found


def new_head(strides: tuple[int, ...] = THREE, **extra: Any) -> GFLFamilyHead:
    """A head before ``init_weights``."""
    return GFLFamilyHead(**grouped(common(strides, **extra)))


def make_head(strides: tuple[int, ...] = THREE, **extra: Any) -> GFLFamilyHead:
    """An initialised head whose predictions are spread as in the middle of training, the same at every call."""
    torch.manual_seed(1)
    head = new_head(strides, **extra)
    head.init_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in head.named_parameters():
            if name.startswith(("gfl_", "scales", "reg_conf")):
                value.add_(torch.randn(value.shape, generator=generator) * (0.05 if name.endswith("weight") else 0.3))
        head.gfl_cls.bias += 3
    return head


def batch(kind: str, size: tuple[int, int], generator: torch.Generator) -> list[InstanceData]:
    """Three images: "none", "one" or "crowded" boxes, or "huge" ones beyond what n = 4 bins reach and beyond the image."""

    def boxes(count: int, smallest: float, largest: float) -> InstanceData:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] * 0.8, size[0] * 0.8])
        wh = smallest + torch.rand(count, 2, generator=generator) * (largest - smallest)
        return InstanceData(bboxes=torch.cat([corner, corner + wh], 1), labels=torch.randint(0, CLASSES, (count,), generator=generator))

    if kind == "none":
        return [boxes(0, 1, 1) for _ in range(3)]
    if kind == "one":
        return [boxes(1, 20, 60), boxes(0, 1, 1), boxes(0, 1, 1)]
    if kind == "crowded":
        return [boxes(25, 8, 60), boxes(3, 8, 100), boxes(0, 1, 1)]
    return [
        InstanceData(bboxes=torch.tensor([[-400.0, -300, 500, 600], [10, 10, 40, 50]]), labels=torch.tensor([0, 3])),
        boxes(2, 100, 400),
        boxes(1, 5, 6),
    ]


def metas(count: int, size: tuple[int, int], padded: list[tuple[int, int]] | None = None) -> list[dict]:
    """Meta data of images of (height, width), a few px smaller than their padding."""
    shapes = padded or [size] * count
    return [{"img_shape": (h - 3, w - 5), "pad_shape": (h, w), "ori_shape": (h - 3, w - 5), "scale_factor": (1.0, 1.0)} for h, w in shapes]


def feats(strides: tuple[int, ...], size: tuple[int, int], generator: torch.Generator, images: int = 3) -> tuple[torch.Tensor, ...]:
    """Random pyramid maps of 32 channels."""
    return tuple(torch.randn(images, 32, -(-size[0] // s), -(-size[1] // s), generator=generator) for s in strides)


def samples(instances: list[InstanceData], metas: list[dict]) -> list[DetDataSample]:
    """Data samples with these boxes."""
    out = []
    for instance, meta in zip(instances, metas, strict=True):
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances, sample.ignored_instances = instance, InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0))
        out.append(sample)
    return out
