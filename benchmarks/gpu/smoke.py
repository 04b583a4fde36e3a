"""Compare a training step and a prediction of every family of variants on the GPU with the CPU; list where the host waits.

python benchmarks/gpu/smoke.py --device cuda            prints a row as each variant is done; exit code 1 if one is wrong
python benchmarks/gpu/smoke.py --device cpu --check     runs each variant at a tiny size
"""

from __future__ import annotations

import argparse
import copy
import time
import traceback
import warnings
from collections import Counter
from functools import partial

import torch

import gfl_lab.detector  # noqa: F401  first: mmdet.models can be imported only once the operators are there
from benchmarks.detector_speed import CLASSES, batch, wrapper
from benchmarks.stock import initialise
from gfl_lab.detector import mmcv_ops as ops
from gfl_lab.detector import positives
from gfl_lab.detector.build import model_config
from gfl_lab.detector.msda import MultiScaleDeformableAttention
from gfl_lab.spec.settings import Settings
from gfl_lab.train.step import TrainingStep

# isort: split
from mmdet.registry import MODELS

VARIANTS = {
    "GFL": {},
    "ATSS (centerness, Dirac)": {"quality": "centerness", "box": "dirac", "dfl": False},
    "focal loss alone, FCOS's distances": {"quality": "none", "box": "dirac", "dfl": False, "bbox_coder": "distance"},
    "IoU branch": {"quality": "iou", "box": "dirac", "dfl": False},
    "centerness-guided": {"quality": "centerness_guided", "box": "dirac", "dfl": False},
    "IoU-guided, renormalised": {"quality": "iou_guided", "box": "general", "guided_renormalise": True},
    "QFL, Dirac": {"quality": "joint", "box": "dirac", "dfl": False},
    "QFL, Gaussian": {"quality": "joint", "box": "gaussian", "dfl": False, "gaussian_box_loss": True},
    "GFLv2 (DGQP)": {"quality": "dgqp"},
    "GFLv2 composed, variance": {"quality": "dgqp", "dgqp_form": "composed", "dgqp_variance": True},
    "CIoU, beta 1, local peak": {"box_loss": "ciou", "qfl_beta": 1.0, "decode": "local_peak"},
    "IoU loss, n = 8": {"box_loss": "iou", "reg_max": 8, "bin_width": 2.0},
    "DCN v1, R50": {"backbone": "r50", "dcn": "v1"},
    "DCN v2, R50": {"backbone": "r50", "dcn": "v2"},
    "DCN v2, ResNeXt-101": {"backbone": "x101-32x4d", "dcn": "v2"},
    "DCN v2, Res2Net-101": {"backbone": "r2-101", "dcn": "v2", "quality": "dgqp"},
    "R50-vd": {"backbone": "r50vd"},
    "ViT-Adapter-S (deformable attention)": {"backbone": "vit-adapter-s", "drop_path": 0.0},
}


def build(changes: dict, check: bool) -> torch.nn.Module:
    small = {"base_channels": 8, "neck_channels": 16, "head_channels": 16, "head_convs": 1} if check else {}
    settings = Settings(**({"backbone": "r18"} | small | changes))
    torch.manual_seed(0)
    model = MODELS.build(model_config(settings, CLASSES) | {"type": "TrialDetector"})
    initialise(model)
    with torch.no_grad():
        model.bbox_head.gfl_cls.bias += 1.5
        if hasattr(model.bbox_head, "reg_conf") and settings.dgqp_form == "decomposed":
            model.bbox_head.reg_conf[-1].bias += 8
    return model


def loss_terms(model: torch.nn.Module, given: dict) -> dict[str, float]:
    data = model.train().data_preprocessor(copy.deepcopy(given), True)
    return {key: float((sum(value) if isinstance(value, list) else value).detach()) for key, value in model(**data, mode="loss").items()}


def waits(action, device: str) -> Counter:
    """Count the lines at which the host waits for the GPU during ``action``."""
    if device != "cuda":
        action()
        return Counter()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = (w for w in seen if "synchronizing" in str(w.message))
    return Counter("/".join(w.filename.split("/")[-3:]) + f":{w.lineno}" for w in found)


def apart(ours: dict[str, float], theirs: dict[str, float]) -> float:
    return max(abs(ours[key] - theirs[key]) / max(1.0, abs(theirs[key])) for key in theirs)


def one(changes: dict, device: str, check: bool, size: tuple[int, int]) -> tuple[str, list[str], dict[str, Counter]]:
    wrong, cells, counted = [], [], {}
    given, blank = batch(2, size, device, True), batch(2, size, device, False)
    base = build(changes, check)
    expected = loss_terms(copy.deepcopy(base), given)
    positives.ALWAYS_PADDED = device == "cpu"  # the way of a GPU, to compare it with the CPU's
    for precision in ("float32", "bfloat16", "float16"):
        if device == "cpu" and precision == "float16":
            continue
        model = copy.deepcopy(base).to(device)
        torch.backends.cudnn.allow_tf32 = False
        if precision == "float32":
            off = apart(loss_terms(model, given), expected)
            cells.append(f"{off:.0e}")
            if not off < 1e-3:
                wrong.append(f"losses are {off:.1e} from the CPU's")
        torch.backends.cudnn.allow_tf32 = True
        steps, first = wrapper(model.train(), precision), None
        for turn in range(3):
            torch.manual_seed(turn)
            if turn == 2 and precision != "float16":
                counted[f"step, {precision}"] = waits(partial(TrainingStep(model, steps), copy.deepcopy(given)), device)
                continue
            terms = {key: float(value) for key, value in TrainingStep(model, steps)(copy.deepcopy(given)).items()}
            first = first or terms
            if not all(value == value and abs(value) < 1e6 for value in terms.values()):
                wrong.append(f"{precision}: {terms}")
        off = apart({k: first[k] for k in expected}, expected)
        if not off < (0.01 if precision == "float32" else 0.05):
            wrong.append(f"{precision}: first losses are {off:.3f} from float32 on the CPU")
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            wrong.append(f"{precision}: parameters are not finite after three steps")
        with torch.inference_mode(), torch.autocast(device, dtype=getattr(torch, precision), enabled=precision != "float32"):
            found = model.eval().test_step(copy.deepcopy(blank))
            if precision == "float32":
                counted["prediction"] = waits(partial(model.eval().test_step, copy.deepcopy(blank)), device)
        many = [len(sample.pred_instances) for sample in found]
        if not all(torch.isfinite(sample.pred_instances.bboxes).all() for sample in found):
            wrong.append(f"{precision}: boxes are not finite")
        cells.append(f"{first['loss']:.3f}, {'+'.join(map(str, many))}")
    # detections of the same weights, both in float32
    torch.backends.cudnn.allow_tf32 = False
    positives.ALWAYS_PADDED = False
    with torch.inference_mode():
        pair = [copy.deepcopy(base).to(where).eval().test_step(copy.deepcopy(blank)) for where in ("cpu", device)]
    for here, there in zip(*pair, strict=True):
        here, there = here.pred_instances, there.pred_instances
        if abs(len(here) - len(there)) > 2:
            wrong.append(f"{len(there)} detections, {len(here)} on the CPU")
        elif len(here) and len(there):
            least = min(len(here), len(there), 20)
            off = float((here.scores[:least] - there.scores[:least].cpu()).abs().max())
            if off > 1e-3:
                wrong.append(f"scores are {off:.1e} from the CPU's")
    torch.backends.cudnn.allow_tf32 = True
    return " | ".join(cells), wrong, counted


def operators(device: str) -> list[str]:
    """Compare NMS, deformable attention and deformable convolution with the CPU; return a message for each that differs."""
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, batched_nms

    wrong, generator = [], torch.Generator().manual_seed(0)
    for count in (0, 1, 64, 65, 3000):
        corner = torch.rand(count, 2, generator=generator) * 300
        boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 60 + 1], 1)
        scores = torch.rand(count, generator=generator)
        labels = torch.randint(0, 5, (count,), generator=generator)
        for offset in (0, 1):
            if not torch.equal(ops.nms(boxes.to(device), scores.to(device), 0.6, offset).cpu(), ops.nms(boxes, scores, 0.6, offset)):
                wrong.append(f"nms of {count} boxes, offset {offset}, keeps others than on the CPU")
        if count:
            kept = [
                batched_nms(boxes.to(d), scores.to(d), labels.to(d), {"type": "nms", "iou_threshold": 0.6})[1].cpu()
                for d in ("cpu", device)
            ]
            if not torch.equal(*kept):
                wrong.append(f"batched_nms of {count} boxes keeps others than on the CPU")

    def compare(name: str, layer: torch.nn.Module, *inputs, tolerance: float = 1e-4) -> None:
        results = []
        for where in ("cpu", device):
            own = copy.deepcopy(layer).to(where)
            args = [x.to(where).requires_grad_() if isinstance(x, torch.Tensor) else x for x in (copy.deepcopy(i) for i in inputs)]
            out = own(*args)
            out.square().sum().backward()
            results.append([out.detach().cpu(), *(p.grad.cpu() for p in own.parameters()), args[0].grad.cpu()])
        for a, b in zip(*results, strict=True):
            off = float((a - b).norm() / a.norm().clamp(min=1e-6))
            if not off < tolerance:
                wrong.append(f"{name}: {off:.1e} from the CPU")

    torch.backends.cudnn.allow_tf32 = False
    shapes = [(16, 20), (8, 10), (4, 5)]
    cells = sum(h * w for h, w in shapes)
    attention = MultiScaleDeformableAttention(32, 4, 3)
    with torch.no_grad():
        for p in attention.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    compare(
        "deformable attention", attention, torch.randn(2, cells, 32, generator=generator), torch.rand(1, cells, 2, generator=generator),
        torch.randn(2, cells, 32, generator=generator), shapes,
    )  # fmt: skip
    for kind in (DeformConv2dPack, ModulatedDeformConv2dPack):
        layer = kind(8, 12, 3, padding=1)
        with torch.no_grad():
            layer.conv_offset.weight.copy_(torch.randn(layer.conv_offset.weight.shape, generator=generator) * 0.1)
            layer.conv_offset.bias.copy_(torch.rand(layer.conv_offset.bias.shape, generator=generator) - 0.3)
        compare(kind.__name__, layer, torch.randn(3, 8, 17, 19, generator=generator), tolerance=1e-3)
    torch.backends.cudnn.allow_tf32 = True
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", nargs="*", help="variants whose name has one of these parts")
    asked = parser.parse_args()
    if asked.device == "cpu":
        torch.set_num_threads(1)
    size = (96, 128) if asked.check else (256, 320)
    bad, where_it_waits = 0, {}
    print(f"# Smoke on {torch.cuda.get_device_name() if asked.device == 'cuda' else 'cpu'}, {size[0]} x {size[1]}, batch 2\n", flush=True)
    try:
        wrong = operators(asked.device)
    except Exception:
        wrong = [traceback.format_exc()]
    bad += bool(wrong)
    print("operators:", "; ".join(wrong) or "NMS, deformable attention, deformable convolution as on the CPU", "\n")
    middle = "" if asked.device == "cpu" else " float16: loss, detections |"
    print(f"| variant | losses from the CPU's | float32: loss, detections | bfloat16: loss, detections |{middle} s | |")
    print("| :-- | --: | --: | --: |" + (" --: |" if middle else "") + " --: | :-- |", flush=True)
    for name, changes in VARIANTS.items():
        if asked.only and not any(part in name for part in asked.only):
            continue
        began = time.perf_counter()
        try:
            cells, wrong, counted = one(changes, asked.device, asked.check, size)
            for what, lines in counted.items():
                where_it_waits.setdefault(what, {}).setdefault(tuple(sorted(lines.items())), []).append(name)
        except Exception as error:
            traceback.print_exc()
            cells, wrong = "-", [f"{type(error).__name__}: {error}".replace("\n", " ")[:300]]
            if "CUDA error" in str(error):
                print("a CUDA error: nothing more can be tried in this process", flush=True)
                raise SystemExit(1) from None
        bad += bool(wrong)
        print(f"| {name} | {cells} | {time.perf_counter() - began:.1f} | {'WRONG: ' + '; '.join(wrong) if wrong else 'ok'} |", flush=True)
    print("\nLines at which the host waits for the GPU, how often, and their first variants:")
    for what, groups in where_it_waits.items():
        for lines, names in groups.items():
            print(f"- {what}: {', '.join(f'{line} x{many}' for line, many in lines) or 'nowhere'} ({len(names)}: {', '.join(names[:3])})")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
