"""Target assignment and losses of the head alone, ours and mmdet's GFLHead with ATSS, on the same outputs of the network.

    uv run python benchmarks/head_losses.py                       CPU: batch 2 of 800 x 1344, 80 classes
    uv run python benchmarks/head_losses.py --device cuda --batch 16
    uv run python benchmarks/head_losses.py --sweep               how the time grows with boxes, classes, batch and image size
    uv run python benchmarks/head_losses.py --write               also writes benchmarks/results/

Both get the same class and box predictions, boxes and labels; their losses and the gradients of their inputs must agree to 1e-4
before anything is timed. Rounds alternate between the two, and the median counts. ``forward`` is `loss_by_feat`; ``and backward``
adds the gradients of its inputs.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from benchmarks.machine import header, in_turns, publish
from benchmarks.stock import random_boxes, waiting, where
from gfl_lab.detector.head import GFLFamilyHead

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.dense_heads import GFLHead
from mmengine.structures import InstanceData

STRIDES = (8, 16, 32, 64, 128)
LIKE_COCO = {"batch": 2, "size": (800, 1344), "classes": 80, "boxes": 7}
"""The default: COCO has 7.3 boxes an image."""
SWEEP = {
    "boxes": (0, 1, 7, 30, 100, 500),
    "classes": (3, 80, 365, 1203),
    "batch": (1, 2, 4, 8),
    "size": ((128, 128), (320, 320), (640, 640), (800, 1344)),
}


def heads(classes: int) -> dict[str, torch.nn.Module]:
    """Ours and the stock head in the setting in which both are GFL."""
    common: dict[str, Any] = {
        "num_classes": classes,
        "in_channels": 8,
        "feat_channels": 8,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 8,
            "scales_per_octave": 1,
            "strides": STRIDES,
        },
        "train_cfg": {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1, "debug": False},
        "test_cfg": {"nms_pre": 1000, "score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 100},
    }
    norm = {"type": "GN", "num_groups": 1, "requires_grad": True}
    stock = GFLHead(
        **common,
        stacked_convs=1,
        reg_max=16,
        norm_cfg=norm,
        loss_cls={"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        loss_dfl={"type": "DistributionFocalLoss", "loss_weight": 0.25},
        loss_bbox={"type": "GIoULoss", "loss_weight": 2.0},
    )
    return {"gfl-lab": GFLFamilyHead(**common, tower={"convs": 1, "norm_cfg": norm}), "mmdet": stock}


def case(batch: int, size: tuple[int, int], classes: int, boxes: int, device: str) -> dict[str, Any]:
    """Predictions of every level, and about ``boxes`` boxes an image: one fewer, as many, one more, and so on."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]

    def noise(channels: int, scale: float, shift: float) -> list[torch.Tensor]:
        made = [torch.randn(batch, channels, h, w, generator=generator) * scale + shift for h, w in shapes]
        return [level.to(device).requires_grad_() for level in made]

    instances = []
    for image in range(batch):
        count = max(0, boxes + (image % 3 - 1 if boxes > 1 else 0))
        found, labels = random_boxes(count, size, classes, generator)
        instances.append(InstanceData(bboxes=found.to(device), labels=labels.to(device)))
    metas = [{"img_shape": size, "pad_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}] * batch
    return {"cls": noise(classes, 1.0, -4.0), "reg": noise(68, 1.0, 0.0), "instances": instances, "metas": metas}


def run(head: torch.nn.Module, given: dict[str, Any], backward: bool) -> dict[str, float]:
    """One round; the sums of its terms."""
    for level in (*given["cls"], *given["reg"]):
        level.grad = None
    kept = {"batch_gt_instances": given["instances"], "batch_img_metas": given["metas"]}
    terms = head.loss_by_feat(given["cls"], given["reg"], **kept)
    totals = {key: sum(value) if isinstance(value, list) else value for key, value in terms.items()}
    if backward:
        sum(totals.values()).backward()
    return totals


def measure(setting: dict[str, Any], repeat: int, device: str) -> dict[bool, dict[str, float]]:
    """Median seconds of ours and theirs, without and with the backward pass."""
    given = case(**setting, device=device)
    pair = {name: head.to(device).train() for name, head in heads(setting["classes"]).items()}
    values, gradients = {}, {}
    for name, head in pair.items():
        values[name] = {key: float(value.detach()) for key, value in run(head, given, True).items()}
        gradients[name] = [level.grad for level in (*given["cls"], *given["reg"])]
    for key, value in values["mmdet"].items():
        assert abs(values["gfl-lab"][key] - value) <= 1e-4 * max(1.0, abs(value)), (setting, key, values)
    for ours, theirs in zip(*gradients.values(), strict=True):
        if ours is not None and theirs is not None:  # stock leaves none where no image has a box
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    found = {}
    for backward in (False, True):
        found[backward] = in_turns({name: partial(run, head, given, backward) for name, head in pair.items()}, repeat, 2, waiting(device))
    return found


def row(name: str, found: dict[bool, dict[str, float]]) -> str:
    """A line of the table."""
    cells = [
        f"{1000 * found[b]['gfl-lab']:.1f} | {1000 * found[b]['mmdet']:.1f} | {found[b]['mmdet'] / found[b]['gfl-lab']:.2f}"
        for b in (False, True)
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=LIKE_COCO["batch"])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--sweep", action="store_true", help="also how the time grows")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    base, few = LIKE_COCO | {"batch": asked.batch}, max(3, asked.repeat // 3)
    lines = [
        row("{batch} x {size[0]} x {size[1]}, {classes} classes, {boxes} boxes".format(**base), measure(base, asked.repeat, asked.device))
    ]
    if asked.sweep:
        for key, values in SWEEP.items():
            for value in values:
                said = " x ".join(map(str, value)) if isinstance(value, tuple) else value
                lines.append(row(f"{key} {said}", measure(base | {key: value}, few, asked.device)))
    options = f"--device {asked.device} --batch {asked.batch} --repeat {asked.repeat}{' --sweep' if asked.sweep else ''}"
    report = "\n".join(
        [
            *header("The head's targets and losses", f"uv run python benchmarks/head_losses.py {options}", ("torch", "mmdet", "mmengine")),
            f"- on {where(asked.device)}, float32; median of {asked.repeat} rounds in turns{f' ({few} in all rows but the first)' if asked.sweep else ''}; losses and gradients agree to 1e-4 in every row",
            "",
            "| | forward: gfl-lab, ms | mmdet, ms | mmdet / gfl-lab | and backward: gfl-lab, ms | mmdet, ms | mmdet / gfl-lab |",
            "| :-- | --: | --: | --: | --: | --: | --: |",
            *lines,
        ]
    )
    publish(f"head_losses_{asked.device}", report + "\n", asked.write)


if __name__ == "__main__":
    main()
