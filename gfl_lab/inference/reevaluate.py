"""Trained detectors on images: COCO evaluation of a validation split, and detections on single images. Nothing is written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

import gfl_lab.setup.dataset  # noqa: F401  (registers what trial_config names)
from gfl_lab.addresses import readable
from gfl_lab.analysis.distributions import DistributionCollector
from gfl_lab.data.pixels import ImageError
from gfl_lab.errors import InputError, Problem, ResourceError
from gfl_lab.inference.detections import DetectionRow
from gfl_lab.inference.evaluate import CocoEvaluator, collect
from gfl_lab.inference.predict import predict, predict_and_collect
from gfl_lab.inference.trained_detector import TrainedDetector
from gfl_lab.setup.config import trial_config


@dataclass(frozen=True)
class Evaluation:
    """One pass over validation images.

    Attributes:
        metrics: AP metrics (0 to 100), and the scores against the truth where it is known; undefined ones are left out.
        per_class: AP by class. images: how many were evaluated, of ``all_images``. device: cpu, cuda:0.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    images: int
    all_images: int
    device: str


def evaluate(
    detector: TrainedDetector, limit: int | None = None, progress: Callable[[int, int], None] = lambda done, of: None
) -> Evaluation:
    """Evaluate as a trial does after its last epoch, on the GPU where there is one.

    Args:
        limit: only the first so many validation images, by id.
        progress: called after each image with how many are done, and of how many.

    Raises:
        InputError: the weights do not fit their settings. DataError: an image cannot be read. ResourceError: too little memory.
    """
    with _memory_problem():
        return _evaluate(detector, limit, progress)


def _evaluate(detector: TrainedDetector, limit: int | None, progress: Callable[[int, int], None]) -> Evaluation:
    spec, settings = detector.spec, detector.spec.settings
    config, model = _build(detector)
    if limit is not None:
        config.val_loader.dataset.indices = limit
    loader = Runner.build_dataloader(config.val_loader, seed=spec.seed)
    images = len(loader.dataset)
    # mmdet's own evaluation counts 100 detections of a class, however many its config keeps
    counted = settings.max_dets if detector.is_trial or not spec.config else min(settings.max_dets, 100)
    evaluator = CocoEvaluator(detector.paths.val_annotations, spec.data.classes, counted)
    collector = DistributionCollector(evaluator.truth, evaluator.category_ids, settings, ambiguous=True) if spec.data.truth else None
    samples = predict_and_collect(model, loader, collector) if collector else predict(model, loader)
    metrics, per_class = evaluator(collect(_counted(samples, images, progress)))
    if collector:
        metrics |= collector.truth_scores().metrics()
    return Evaluation(
        metrics={key: round(value, 6) for key, value in metrics.items()},
        per_class={key: round(value, 4) for key, value in per_class.items()},
        images=images,
        all_images=len(evaluator.truth.imgs),
        device=str(next(model.parameters()).device),
    )


def predict_images(detector: TrainedDetector, images: Sequence[Path], min_score: float) -> Iterator[tuple[Path, list[DetectionRow]]]:
    """Detect objects on images one by one, on the GPU where there is one.

    Args:
        min_score: detections with a lower score are left out, as are those below the detector's own ``score_thr``.

    Yields:
        The image and its detections, best first, boxes in px of the image, with the four distributions of the location that each
        came from.

    Raises:
        InputError: the weights do not fit their settings, or a file is no image.
    """
    with _memory_problem():
        config, model = _build(detector)
    classes, least = detector.spec.data.classes, max(min_score, detector.spec.settings.score_thr)
    pipeline = Compose(config.val_loader.dataset.pipeline)
    for number, path in enumerate(images):
        try:
            sample = pipeline({"img_path": str(path), "img_id": number, "instances": []})
        except ImageError as error:
            raise InputError(Problem(error.why, readable(str(path)))) from None
        labels = np.arange(len(classes))
        truth = SimpleNamespace(
            cats={label: {"name": name} for label, name in enumerate(classes)}, imgs={number: {"file_name": path.name}}, imgToAnns={}
        )
        collector = DistributionCollector(truth, labels, detector.spec.settings, ambiguous=False, least=least)
        with _memory_problem():
            for _ in predict_and_collect(model, [pseudo_collate([sample])], collector):
                pass
        yield path, sorted(cast(list[DetectionRow], collector.rows), key=lambda row: -row["det_score"])


@contextlib.contextmanager
def _memory_problem() -> Iterator[None]:
    """Raise ResourceError in place of torch's error for want of memory on a GPU."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ResourceError(Problem("the GPU has too little memory", hint="CUDA_VISIBLE_DEVICES=-1 takes the CPU.")) from None


def _build(detector: TrainedDetector) -> tuple[Any, nn.Module]:
    """Return mmengine's configuration, and the detector with its weights on the device that evaluates."""
    config = trial_config(detector.spec, detector.paths.to_json(), work_dir="")
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    _load(model, detector.state, detector.name)
    if getattr(model, "with_roi_head", False) and getattr(model.roi_head, "with_mask", False):
        model.roi_head.mask_head = None  # masks change no box
    return config, model.to(get_device())


def _counted(samples: Iterator[Any], images: int, progress: Callable[[int, int], None]) -> Iterator[Any]:
    for done, sample in enumerate(samples, 1):
        progress(done, images)
        yield sample


def _load(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Put weights into a detector, with every key accounted for."""
    own = model.state_dict()
    unfit = {
        "missing": sorted(own.keys() - state.keys()),
        "left over": sorted(state.keys() - own.keys()),
        "of another shape": sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape),
    }
    parts = [f"{len(keys)} {what} (first: {', '.join(keys[:3])})" for what, keys in unfit.items() if keys]
    try:
        model.load_state_dict(state)  # also renames keys of former versions of its modules
    except RuntimeError:
        raise InputError(f"the weights of {name} do not fit the detector of their settings: {', '.join(parts)}") from None
