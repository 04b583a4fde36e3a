"""Forward passes of a trained detector over the images of a loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector

from gfl_lab.analysis.distributions import DistributionCollector
from gfl_lab.detector.mmdet_detector import has_distributions
from gfl_lab.detector.transfer import all_to_device


@torch.inference_mode()
def predict(model: BaseDetector, loader: Any) -> Iterator[Any]:
    """Return mmdet's predicted samples for every image of ``loader``, boxes in pixels of the original image."""
    model.eval()
    for batch in loader:
        yield from on_host(model.test_step(batch))


def on_host(samples: list[Any]) -> list[Any]:
    """Move the detections of a batch's samples to the host, with one wait for a GPU for each of boxes, scores and classes."""
    places = [(sample.pred_instances, key) for sample in samples for key in ("bboxes", "scores", "labels")]
    values = all_to_device((instances[key] for instances, key in places), torch.device("cpu"))
    for (instances, key), value in zip(places, values, strict=True):
        instances[key] = value
    return samples


@torch.inference_mode()
def predict_and_collect(model: BaseDetector, loader: Any, collector: DistributionCollector) -> Iterator[Any]:
    """Predict as `predict` does, one forward pass, while the collector gets the head's outputs at every location.

    For a head without box distributions it gets only the detections.
    """
    model.eval()
    if not has_distributions(model):
        for batch in loader:
            samples = on_host(model.test_step(batch))
            collector.add_detections(samples)
            yield from samples
        return
    head = model.bbox_head
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        metas = [sample.metainfo for sample in data["data_samples"]]
        outs = head(model.extract_feat(data["inputs"]))
        results = head.predict_by_feat(*outs, batch_img_metas=metas, rescale=True)
        samples = on_host(model.add_pred_to_datasample(data["data_samples"], results))
        if collector.wants(samples):
            geometry = head.geometry([level.shape[-2:] for level in outs[0]], outs[0][0].device)
            collector.add(head.dense_outputs(outs, metas), geometry, samples)
        yield from samples
