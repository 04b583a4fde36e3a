"""Compare mmcv's replaced operators, and detectors of mmdet's, on the GPU with the CPU.

python benchmarks/gpu/mmdet_detectors.py --device cuda              prints a row as each detector is done; exit code 1 if one is wrong
python benchmarks/gpu/mmdet_detectors.py --device cpu --only atss   the same on a CPU, for the configs whose name has a part

Every detector has smoke widths and the same weights on both. Compared are detections in float32. Then it trains three steps in float32,
bfloat16 and float16, and predicts after each. After a CUDA error the other detectors of that process fail, too: try them with --only.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

CONFIGS = """
    atss_r50_fpn_1x_coco autoassign_r50-caffe_fpn_1x_coco cascade-rcnn_r50_fpn_1x_coco centernet_r18_8xb16-crop512-140e_coco
    centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco cornernet_hourglass104_8xb6-210e-mstest_coco ddod_r50_fpn_1x_coco
    deformable-detr_r50_16xb2-50e_coco deformable-detr-refine-twostage_r50_16xb2-50e_coco detr_r50_8xb2-150e_coco
    dab-detr_r50_8xb2-50e_coco dino-4scale_r50_8xb2-12e_coco atss_r50-caffe_fpn_dyhead_1x_coco dynamic-rcnn_r50_fpn_1x_coco
    faster-rcnn_r50_fpn_1x_coco faster-rcnn_r50_fpn-carafe_1x_coco faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco
    faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco faster-rcnn_r50_fpn_dpool_1x_coco faster-rcnn_r50_fpn_soft-nms_1x_coco
    fcos_r50-caffe_fpn_gn-head_1x_coco fovea_r50_fpn_gn-head-align_4xb4-2x_coco freeanchor_r50_fpn_1x_coco fsaf_r50_fpn_1x_coco
    ga-retinanet_r50-caffe_fpn_1x_coco gfl_r50_fpn_1x_coco grid-rcnn_r50_fpn_gn-head_2x_coco htc_r50_fpn_1x_coco
    libra-faster-rcnn_r50_fpn_1x_coco mask-rcnn_r50_fpn_1x_coco nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco
    paa_r50_fpn_1x_coco retinanet-r50_fpn_pisa_1x_coco queryinst_r50_fpn_1x_coco reppoints-moment_r50_fpn_1x_coco
    retinanet_r50_fpn_1x_coco retinanet_pvtv2-b0_fpn_1x_coco rtmdet_tiny_8xb32-300e_coco sparse-rcnn_r50_fpn_1x_coco ssd300_coco
    tood_r50_fpn_1x_coco vfnet_r50_fpn_1x_coco vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco yolof_r50-c5_8xb8-1x_coco
    yolov3_d53_8xb8-320-273e_coco yolox_tiny_8xb8-300e_coco conditional-detr_r50_8xb2-50e_coco
""".split()
WIDTHS = {"base_channels": 8, "neck_channels": 16, "head_channels": 16, "image_size": (320, 320), "pad_to": 32, "score_thr": 0.0}
SIZE = (320, 320)


def operators(device: str) -> list[str]:
    """Compare mmcv's operators with the CPU; return a message for each that differs."""
    import torch

    import gfl_lab.detector  # noqa: F401  first: mmcv.ops can be imported only once the operators are there

    # isort: split
    from mmcv.ops import CARAFE, DeformRoIPoolPack, MaskedConv2d, MultiScaleDeformableAttention, RoIAlign, nms_match, soft_nms

    torch.backends.cudnn.allow_tf32 = False
    wrong, generator = [], torch.Generator().manual_seed(0)

    def random(*shape: int) -> Any:
        return torch.rand(shape, generator=generator)

    def compare(name: str, make: Any, *inputs: Any) -> None:
        results = []
        for where in ("cpu", device):
            torch.manual_seed(0)
            layer = make().to(where)
            moved = [x.clone().to(where) if isinstance(x, torch.Tensor) else x for x in inputs]
            moved[0].requires_grad_()
            out = layer(*moved)
            out.square().sum().backward()
            results.append([out, moved[0].grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
        for a, b in zip(*results, strict=True):
            off = float((a - b.cpu()).norm() / a.norm().clamp(min=1e-6))
            if not off < 1e-3:
                wrong.append(f"{name}: {off:.1e} from the CPU")

    corner = random(20, 2) * 60
    regions = torch.cat([torch.arange(20)[:, None] % 2, corner, corner + random(20, 2) * 60 + 2], 1)
    features = random(2, 16, 20, 24)
    for aligned in (False, True):
        for ratio in (0, 2):
            compare(
                f"RoIAlign, aligned {aligned}, ratio {ratio}", lambda a=aligned, r=ratio: RoIAlign(7, 0.25, r, aligned=a), features, regions
            )
    compare("deformable RoI pooling", lambda: DeformRoIPoolPack(7, 16, deform_fc_channels=32, spatial_scale=0.25), features, regions)
    masks = torch.softmax(random(2, 25, 40, 48), 1)
    compare("CARAFE", lambda: CARAFE(5, 1, 2), features, masks)
    shapes = torch.tensor([(16, 20), (8, 10), (4, 5)])
    cells = int(shapes.prod(1).sum())
    starts = torch.cat([torch.zeros(1, dtype=torch.long), shapes.prod(1).cumsum(0)[:-1]])

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MultiScaleDeformableAttention(32, 4, 3, batch_first=True, dropout=0.0)
            torch.nn.init.normal_(self.inner.attention_weights.weight, std=0.1)

        def forward(self, query: Any, places: Any) -> Any:
            return self.inner(
                query, reference_points=places, spatial_shapes=shapes.to(query.device), level_start_index=starts.to(query.device)
            )

    compare("multi-scale deformable attention", Attention, random(2, cells, 32), random(2, cells, 3, 2))
    with torch.no_grad():
        torch.manual_seed(0)
        conv = MaskedConv2d(16, 8, 3, padding=1).eval()
        chosen = (random(1, 20, 24) > 0.5).float()
        pair = [copy.deepcopy(conv).to(d)(features[:1].to(d), chosen.to(d)).cpu() for d in ("cpu", device)]
        if not torch.allclose(*pair, atol=1e-4):
            wrong.append("masked convolution differs")
    corner = random(500, 2) * 200
    boxes, scores = torch.cat([corner, corner + random(500, 2) * 60 + 1], 1), random(500)
    for method in ("naive", "linear", "gaussian"):
        pair = [soft_nms(boxes.to(d), scores.to(d), 0.5, method=method) for d in ("cpu", device)]
        if not all(torch.allclose(a, b.cpu(), atol=1e-5) for a, b in zip(*pair, strict=True)):
            wrong.append(f"soft-NMS, {method}, differs")
    pair = [[each.cpu().tolist() for each in nms_match(torch.cat([boxes, scores[:, None]], 1).to(d), 0.5)] for d in ("cpu", device)]
    if pair[0] != pair[1]:
        wrong.append("nms_match differs")
    return wrong


def one(name: str, device: str) -> tuple[str, list[str]]:
    """Return the cells of a detector's row, and what is wrong with it."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    import gfl_lab.detector  # noqa: F401

    # isort: split
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.logging import MessageHub, MMLogger

    from benchmarks.detector_speed import wrapper
    from benchmarks.zoo_configs import CLASSES, images
    from gfl_lab.spec.plain_config import decode
    from gfl_lab.spec.settings import Settings
    from gfl_lab.zoo.resolve import complete, resolve

    register_all_modules(init_default_scope=True)
    MMLogger.get_current_instance().setLevel("ERROR")
    hub = MessageHub.get_current_instance()
    hub.update_info("epoch", 0)
    hub.update_info("iter", 0)

    stored = resolve(complete(Settings(detector=f"mmdet:{name}", **WIDTHS)), CLASSES)
    assert stored is not None
    torch.manual_seed(0)
    base = MODELS.build({"type": "mmdet_detector", "config": decode(stored["model"]), "score_thr": 0.0, "max_dets": 100})
    base.init_weights()
    base.eval()
    wrong, cells = [], []
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():  # not inference_mode: what a detector keeps would be of no use in training
        here = base.test_step(images(*SIZE))
        there = base.to(device).test_step(images(*SIZE))
    apart = 0.0
    for a, b in zip(here, there, strict=True):
        a, b = a.pred_instances.scores.sort(descending=True)[0][:20], b.pred_instances.scores.cpu().sort(descending=True)[0][:20]
        apart = max(apart, float((a - b).abs().max()) if len(a) == len(b) and len(a) else float(len(a) != len(b)))
    cells.append(f"{apart:.0e}")
    if not apart < 1e-2:
        wrong.append(f"scores are {apart:.1e} from the CPU's")
    torch.backends.cudnn.allow_tf32 = True
    weights = copy.deepcopy(base.state_dict())
    for precision in ("float32", "bfloat16", "float16"):
        if device == "cpu" and precision == "float16":
            continue
        base.load_state_dict(weights)
        steps, losses = wrapper(base.train(), precision), []
        try:
            for turn in range(3):
                torch.manual_seed(turn)
                losses.append(float(base.train_step(images(*SIZE), steps)["loss"]))
            base.eval()
            with torch.no_grad(), torch.autocast(device, getattr(torch, precision), enabled=precision != "float32"):
                found = base.test_step(images(*SIZE))
        except Exception as error:
            if "CUDA error" in str(error):
                raise
            wrong.append(f"{precision}: {type(error).__name__}: {error}".replace("\n", " ")[:300])
            cells.append("-")
            continue
        if not all(value == value and abs(value) < 1e6 for value in losses):
            wrong.append(f"{precision}: losses {losses}")
        if not all(torch.isfinite(p).all() for p in base.parameters()):
            wrong.append(f"{precision}: parameters are not finite")
        if not all(torch.isfinite(sample.pred_instances.bboxes).all() for sample in found):
            wrong.append(f"{precision}: boxes are not finite")
        cells.append(" ".join(f"{value:.3g}" for value in losses))
    return " | ".join(cells), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", help="configs whose name has one of these parts")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    names = [name for name in CONFIGS if not asked.only or any(part in name for part in asked.only)]
    print(f"# mmdet's detectors on {asked.device}, {SIZE[0]} x {SIZE[1]}, batch 2\n", flush=True)
    context, bad, began = multiprocessing.get_context("spawn"), 0, time.monotonic()
    with ProcessPoolExecutor(asked.workers, context) as pool:
        first = pool.submit(operators, asked.device)
        waiting = {pool.submit(one, name, asked.device): name for name in names}
        try:
            wrong = first.result()
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"[:300]]
        bad += bool(wrong)
        print("operators:", "; ".join(wrong) or "as on the CPU", "\n")
        middle = "" if asked.device == "cpu" else " float16 |"
        print(f"| config | scores from the CPU's | losses, float32 | bfloat16 |{middle} s | |")
        print("| :-- | --: | --: | --: |" + (" --: |" if middle else "") + " --: | :-- |", flush=True)
        for done in as_completed(waiting):
            try:
                cells, wrong = done.result()
            except (Exception, BrokenProcessPool) as error:
                cells, wrong = "-", [f"{type(error).__name__}: {error}".replace("\n", " ")[:300]]
            bad += bool(wrong)
            print(
                f"| {waiting[done]} | {cells} | {time.monotonic() - began:.0f} | {'WRONG: ' + '; '.join(wrong) if wrong else 'ok'} |",
                flush=True,
            )
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
