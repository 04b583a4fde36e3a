"""Run everything that a trial does on a GPU on fake tensors of the device ``cuda``: no mixed devices, no copy that waits, known waits only.

`WAITS_...` list all places at which the host waits for a GPU; docs/decisions/0016 has the reason for each.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils._pytree import tree_leaves

from gfl_lab import naming
from gfl_lab.data import ambiguous_shapes
from gfl_lab.detector import mmcv_ops, positives
from gfl_lab.detector.build import model_config
from gfl_lab.errors import FailureKind
from gfl_lab.inference import latency
from gfl_lab.rundir import TrialDir, TrialState
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.settings import Settings
from gfl_lab.train.checkpoint import restore
from gfl_lab.train.ema import MovingAverage
from gfl_lab.train.failure import failure_of
from gfl_lab.train.optim import AutocastOptimWrapper, TrialOptimWrapper
from gfl_lab.train.step import TrainingStep
from gfl_lab.train.trial import run_trial
from tests.support.raw import raw_result

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

from benchmarks.detector_speed import CLASSES
from benchmarks.detector_speed import batch as images_and_boxes
from tests.support.fake_cuda import FakeCuda, fake_cuda, trial_on_fake_cuda, with_gradients
from tests.support.heads import THREE, batch, feats, make_head, metas, samples
from tests.test_detector_variants import HOST_COUNTS, IDS, VARIANTS
from tests.test_train import make_trial

torch.set_num_threads(1)
SIZE = (64, 96)
PADDED = [(64, 96), (64, 64), (32, 96)]
SMALL = {"backbone": "r18", "base_channels": 8, "neck_channels": 16, "head_channels": 16, "head_convs": 1}

WAITS_OF_A_STEP = {("event", "train/step.py:__call__")}
"""For the terms of the loss, once the backward pass is queued."""
WAITS_OF_AN_ASSIGNMENT = {("_local_scalar_dense", "detector/head.py:_locate")}
"""For the number of positives, with ``assigner: max_iou`` or with ``fcos`` and ``fcos_radius: 0``."""
WAITS_OF_FLOAT16 = {("_local_scalar_dense", "train/optim.py:step")}
"""For the scale of the loss, and without a fused optimizer for whether gradients overflow."""
WAITS_OF_A_PREDICTION = {("tolist", "detector/postprocess.py:detect"), ("nms", "detector/mmcv_ops/nms.py:nms")}
"""For the candidates of each image of a batch, in one transfer; and in torchvision's NMS of each image."""
WAITS_OF_AN_EVALUATION = {("copy to the host", "inference/predict.py:on_host")}
"""For boxes, scores and classes of a batch."""
WAITS_OF_DISTRIBUTIONS = {
    ("copy to the host", "analysis/distributions.py:_outputs_at"),
    ("tolist", "analysis/distributions.py:_outputs_at"),
    ("tolist", "analysis/distributions.py:_matched_locations"),
}
"""For the head's outputs at the locations of each image that is looked at."""
WAITS_OF_LATENCY = {("synchronize", "inference/latency.py:measure_latency")}
WAITS_OF_A_CHECKPOINT = {("copy to the host", "train/checkpoint.py:_on_cpu"), ("_local_scalar_dense", "train/optim.py:state_dict")}
WAITS_OF_A_START = {("copy to the host", "train/trial.py:_train")}
"""For mmengine's report of the initialised weights."""
COPIES_OF_A_START = {"train/loop.py:__init__"}
"""The model, from pageable memory."""
COPIES_OF_A_STEP = {"detector/preprocess.py:_on_device", "detector/preprocess.py:_annotations_on_device"}
"""Images, and boxes and labels: one of images, one for each type of the others."""
COPIES_OF_A_NEW_SHAPE = {"detector/geometry.py:make_geometry"}
COPIES_OF_MIXED_SHAPES = {"detector/geometry.py:usable"}
COPIES_OF_A_PREDICTION = {"detector/postprocess.py:rows"}
COPIES_OF_DISTRIBUTIONS = {f"analysis/distributions.py:{name}" for name in ("add", "_outputs_at", "_matched_locations", "_image_rows")}


def settled(seen: FakeCuda, waits: set[tuple[str, str]], copies: set[str], waiting: set[str] = frozenset()) -> None:
    """Check that all that was seen is allowed; copies at ``waiting`` places may come from pageable memory."""
    assert not seen.mixed
    assert set(seen.waits) <= waits, set(seen.waits) - waits
    assert {one.place for one in seen.copies} <= copies, seen.copies
    assert {one.place for one in seen.copies if one.waits} <= waiting, seen.copies


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_head(variant: dict[str, Any]) -> None:
    head, generator = make_head(**variant), torch.Generator().manual_seed(3)
    maps, boxes = feats(THREE, SIZE, generator), batch("crowded", SIZE, generator)
    with fake_cuda() as seen:
        head, maps = head.to("cuda"), tuple(level.to("cuda").requires_grad_() for level in maps)
        boxes = [InstanceData(bboxes=one.bboxes.to("cuda"), labels=one.labels.to("cuda")) for one in boxes]
        for turn, shapes in enumerate((None, PADDED)):
            seen.clear()
            terms = head.loss(maps, samples(boxes, metas(3, SIZE, shapes)))
            assert all(term.device.type == "cuda" and term.requires_grad for term in terms.values())
            counts = variant.get("assigner") in HOST_COUNTS
            settled(seen, WAITS_OF_AN_ASSIGNMENT if counts else set(), COPIES_OF_MIXED_SHAPES if turn else COPIES_OF_A_NEW_SHAPE)
            assert seen.waits.total() == counts
            assert len(seen.copies) == (1 if turn else 4)
        seen.clear()
        with torch.inference_mode():
            outs = head.eval()(maps)
            found = head.predict_by_feat(*outs, batch_img_metas=metas(3, SIZE), rescale=True)
            assert all(one.bboxes.device.type == one.scores.device.type == "cuda" for one in found)
            settled(seen, WAITS_OF_A_PREDICTION, COPIES_OF_A_PREDICTION)
            assert seen.waits["tolist", "detector/postprocess.py:detect"] == 1 and seen.waits.total() == 1 + 3 and len(seen.copies) == 2
            seen.clear()
            assert head.dense_outputs(outs, metas(3, SIZE)).boxes.device.type == "cuda"
            settled(seen, set(), COPIES_OF_A_PREDICTION)


def trial_model(**changes: Any) -> nn.Module:
    return MODELS.build(model_config(Settings(**SMALL | changes), CLASSES) | {"type": "TrialDetector"})


def wrap(model: nn.Module, optimizer: str, precision: str) -> OptimWrapper:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    made = torch.optim.SGD(parameters, lr=0.1, momentum=0.9) if optimizer == "sgd" else torch.optim.AdamW(parameters, fused=True)
    clip = {"max_norm": 1.0}
    if precision == "float32":
        return TrialOptimWrapper(made, clip_grad=clip)
    return AutocastOptimWrapper(optimizer=made, clip_grad=clip, precision=precision)


@pytest.mark.parametrize(
    ("changes", "optimizer", "precision", "parts"),
    [
        ({"strides": (8, 16, 32)}, "adamw", "float32", 1),
        ({"strides": (8, 16, 32)}, "sgd", "bfloat16", 2),
        ({"strides": (8, 16, 32), "quality": "dgqp"}, "adamw", "float16", 1),
        ({"strides": (8, 16, 32), "quality": "centerness", "box": "dirac", "dfl": False}, "sgd", "float16", 2),
        ({"strides": (8, 16, 32), "backbone": "r50", "dcn": "v2"}, "sgd", "bfloat16", 1),
        ({"strides": (8, 16, 32), "backbone": "vit-adapter-s"}, "adamw", "bfloat16", 1),
    ],
    ids=["adamw", "sgd bf16 parts", "adamw fp16", "sgd fp16 parts", "dcn v2", "vit"],
)
def test_step(changes: dict[str, Any], optimizer: str, precision: str, parts: int) -> None:
    """From images in the memory of the host to changed weights and their average."""
    model, given = trial_model(**changes), images_and_boxes(2, SIZE, "cpu", True)
    large = "backbone" in changes
    with fake_cuda() as seen:
        model = model.to("cuda").train()
        steps, average = wrap(model, optimizer, precision), MovingAverage(model, 0.9)
        for turn in range(1 if large else 2):
            seen.clear()
            with with_gradients(model):
                terms = TrainingStep(model, steps, parts)(given)
            average.update(model)
            assert all(term.device.type == "cpu" for term in terms.values())
            float16 = WAITS_OF_FLOAT16 if precision == "float16" else set()
            once = COPIES_OF_A_NEW_SHAPE if turn == 0 else set()
            settled(seen, WAITS_OF_A_STEP | float16, COPIES_OF_A_STEP | once | {"detector/msda.py:forward"})
            assert seen.waits["event", "train/step.py:__call__"] == 1
        assert len([one for one in seen.copies if one.place in COPIES_OF_A_STEP]) == 3
        assert optimizer == "sgd" or "_fused_adamw_" in seen.operations
        if precision != "float32":
            assert model.bbox_head.gfl_cls.weight.dtype is torch.float32, "autocast leaves weights as they are"


def devices(state: Any) -> set[str]:
    """Return the device types of all tensors in nested dictionaries and lists."""
    return {leaf.device.type for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)}


def test_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_trial` from its manifest to its result: loading, steps, averages, evaluation, distributions, checkpoints, latency."""
    data = ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=4, val_images=3), tmp_path / "data")
    own = {"image_size": (64, 64), "strides": (8, 16), "batch_size": 4, "epochs": 1, "ema_decay": 0.9, "clip_grad_norm": 1.0}
    trial = make_trial(tmp_path / "runs", data, precision="float16", **own)
    monkeypatch.setattr(latency, "WARMUP_IMAGES", 1)
    monkeypatch.setattr(latency, "MEASURED_IMAGES", 3)
    with trial_on_fake_cuda() as (seen, saved):
        run_trial(trial.path)
    assert trial.state() is TrialState.DONE, trial.file(naming.LOG).read_text()
    assert raw_result(trial)["device"] == "cuda:0 fake" and raw_result(trial)["peak_memory_mib"] == 1.0, "the allocator's peak"
    known = WAITS_OF_A_STEP | WAITS_OF_FLOAT16 | WAITS_OF_A_PREDICTION | WAITS_OF_AN_EVALUATION | WAITS_OF_DISTRIBUTIONS | WAITS_OF_LATENCY
    copies = COPIES_OF_A_STEP | COPIES_OF_A_NEW_SHAPE | COPIES_OF_A_PREDICTION | COPIES_OF_DISTRIBUTIONS | COPIES_OF_A_START
    settled(seen, known | WAITS_OF_A_START | WAITS_OF_A_CHECKPOINT, copies, COPIES_OF_A_START)
    assert seen.waits["event", "train/step.py:__call__"] == 1
    assert seen.waits["synchronize", "inference/latency.py:measure_latency"] == 2 * 3, "before and after each image"
    assert len(saved) == 1 and {"trained", "average_updates"} <= saved[0].keys() and devices(saved[0]) == {"cpu"}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_checkpoint_of_a_cpu_goes_on_on_a_gpu(optimizer: str) -> None:
    """Weights, average, optimizer and loss scale; random numbers are seeded anew at each step and in no checkpoint."""
    changes = {"strides": (8, 16)}
    model, given = trial_model(**changes), images_and_boxes(2, SIZE, "cpu", True)
    steps, average = wrap(model, optimizer, "float16"), MovingAverage(model, 0.9)
    TrainingStep(model.train(), steps)(given)
    average.update(model)
    content = {
        "state_dict": average.weights, "trained": model.state_dict(), "average_updates": 1, "optimizer": steps.state_dict(), "param_schedulers": [],
    }  # fmt: skip
    content["optimizer"]["loss_scaler"]["scale"] = 64.0
    other = trial_model(**changes)
    with fake_cuda() as seen:
        other = other.to("cuda")
        runner = SimpleNamespace(model=other, optim_wrapper=wrap(other, optimizer, "float16"), param_schedulers=[])
        goes_on = MovingAverage(other, 0.9)
        restore(runner, content, goes_on)
        assert devices(goes_on.weights) == devices(other.state_dict()) == {"cuda"} and goes_on.updates == 1
        state = runner.optim_wrapper.optimizer.state_dict()["state"]
        assert devices([value for each in state.values() for name, value in each.items() if name != "step"]) == {"cuda"}
        assert devices([each["step"] for each in state.values() if "step" in each]) <= {"cuda"}, "a fused optimizer's"
        assert runner.optim_wrapper.scaler._init_scale == 64.0
        seen.clear()
        with with_gradients(other):
            TrainingStep(other.train(), runner.optim_wrapper)(given)
        assert not seen.mixed


def test_detections_in_arrays_of_fixed_length_are_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = feats(THREE, SIZE, torch.Generator().manual_seed(3))
    for variant in ({"quality": "joint"}, {"quality": "dgqp"}, {"quality": "centerness", "box": "dirac_delta"}):
        head = make_head(**variant).eval()
        for least, limit in ((0.3, 50), (0.3, 3), (0.99, 50), (0.0, 1000)):
            head.test_cfg.score_thr, head.test_cfg.nms_pre = least, limit
            found = []
            for fixed in (False, True):
                monkeypatch.setattr(positives, "ALWAYS_PADDED", fixed)
                with torch.inference_mode():
                    found.append(head.predict_by_feat(*head(maps), batch_img_metas=metas(3, SIZE, PADDED), rescale=True))
            for one, other in zip(*found, strict=True):
                assert len(one) == len(other)
                for key in ("bboxes", "scores", "labels"):
                    assert torch.equal(one[key], other[key])
        assert sum(map(len, found[0])) > 5


def test_geometries_of_many_shapes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multi-scale training comes back to a shape without making its geometry anew; the one not used for longest goes first."""
    monkeypatch.setattr("gfl_lab.detector.geometry.CACHED_SHAPES", 2)
    head, cpu = make_head(), torch.device("cpu")
    a, b, c = ([(side, side), (side, side), (side, side)] for side in (2, 3, 4))
    first, second = head.geometry(a, cpu), head.geometry(b, cpu)
    assert head.geometry(a, cpu) is first
    head.geometry(c, cpu)
    assert head.geometry(a, cpu) is first and head.geometry(b, cpu) is not second


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "NCCL error: Cuda failure 2 'out of memory'",
    ],
)  # fmt: skip
def test_libraries_that_want_memory_are_understood(words: str, tmp_path: Path) -> None:
    assert failure_of(TrialDir(tmp_path), RuntimeError(words)).kind == FailureKind.OUT_OF_MEMORY


def test_loader_processes_touch_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are forked by a process that has initialised CUDA, after which the first use of it in a fork is an error."""

    def touched(*_: Any) -> None:
        raise RuntimeError("a loader process uses CUDA")

    data = ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=4, val_images=2), tmp_path / "data")
    trial = make_trial(tmp_path / "runs", data, image_size=(64, 64), batch_size=4, flip_prob=0.5, scale_range=(0.6, 1.0))
    config = trial_config(trial.manifest().spec, trial.manifest().paths.to_json(), str(trial.path), loader_workers=1)
    init_default_scope("mmdet")
    loaders = [Runner.build_dataloader(config[part], seed=0) for part in ("train_dataloader", "val_loader")]
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)  # as torch finds it in such a fork
    for name in ("_lazy_init", "_lazy_call"):
        monkeypatch.setattr(torch.cuda, name, touched)
    for loader in loaders:
        batches = list(loader)
        assert batches and all(image.device.type == "cpu" for image in batches[0]["inputs"])


def test_operators_of_mmcv_stay_on_the_device() -> None:
    """Those that choose by values wait: for the sizes of maps, and for the boxes of each image and each number of samples."""
    calls: dict[str, tuple[Any, set[tuple[str, str]]]] = {
        "roi_align": (lambda maps, rois: mmcv_ops.roi_align(maps, rois, 2), set()),
        "carafe": (lambda maps, rois: mmcv_ops.carafe(maps, maps.new_zeros(2, 9, 16, 20), 3, 1, 2), set()),
        "masked_conv2d": (lambda maps, rois: mmcv_ops.masked_conv2d(maps[:1], maps[:1, 0] > 0, maps.new_zeros(1, 4, 1, 1), None), set()),
        "ms_deform_attn": (
            lambda maps, rois: mmcv_ops.MultiScaleDeformableAttnFunction.apply(
                maps.new_zeros(2, 3, 1, 4), rois.new_ones(3, 2, dtype=torch.long), None, maps.new_zeros(2, 5, 1, 3, 2, 2), maps.new_zeros(2, 5, 1, 3, 2), 64
            ),
            {("tolist", "ms_deform_attn.py:apply")},
        ),
        "deform_roi_pool": (
            lambda maps, rois: mmcv_ops.deform_roi_pool(maps, rois, rois.new_zeros(5, 2, 2, 2), 2),
            {("nonzero", "deform_roi_pool.py:deform_roi_pool"), *((what, "deform_roi_pool.py:_pool") for what in ("nonzero", "unique_dim", "tolist"))},
        ),
    }  # fmt: skip
    for name, (call, waits) in calls.items():
        with fake_cuda() as seen:
            maps, rois = torch.zeros(2, 4, 8, 10, device="cuda", requires_grad=True), torch.zeros(5, 5, device="cuda")
            seen.clear()
            out = call(maps, rois)
            assert out.device.type == "cuda" and not seen.mixed and not seen.copies, name
            assert {(what, where.rpartition("/")[2]) for what, where in seen.waits} == waits, name
