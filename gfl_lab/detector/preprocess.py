"""Images on their way into the network: colours in order, normalised, padded, in channels-last memory order."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.utils.misc import samplelist_boxtype2tensor
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from gfl_lab.detector.transfer import all_to_device


@MODELS.register_module()
class BatchPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for 8-bit images, bit by bit, but the batch is made as a whole and channels-last.

    On a CPU a pixel's 256 normalised values are looked up; elsewhere images cross to the device as bytes, in one copy, and boxes
    and labels in one more for each type. Both copies to a GPU start from pinned memory, so loaders need not pin anything.
    Other inputs (a batch already stacked, images of floats) go to mmdet's.
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return ``inputs``, a list of (3, H, W) uint8 images, BGR, as (N, 3, H, W) float32, with their ``data_samples``."""
        images = data["inputs"]
        eight_bit = isinstance(images, list) and all(image.dtype == torch.uint8 and image.shape[0] == 3 for image in images)
        if not (eight_bit and self._enable_normalize and self.pad_value == 0 and self.batch_augments is None):
            return super().forward(data, training)
        shapes = self._get_pad_shape(data)
        height, width = (max(sides) for sides in zip(*shapes, strict=True))
        make = self._look_up if self.device.type == "cpu" else self._on_device
        batch = make([image.permute(1, 2, 0) for image in images], height, width)
        samples = data.get("data_samples")
        if samples is not None:
            samples = self.cast_data(samples if self.device.type == "cpu" else self._annotations_on_device(samples))
            for sample, shape in zip(samples, shapes, strict=True):
                sample.set_metainfo({"batch_input_shape": (height, width), "pad_shape": shape})
            samplelist_boxtype2tensor(samples)
        return {"inputs": batch, "data_samples": samples}

    def _annotations_on_device(self, samples: list[Any]) -> list[Any]:
        """Return samples with the boxes and labels of all images on the model's device, each kind in one copy."""
        samples = [sample.new() for sample in samples]
        kept: list[InstanceData] = []
        for sample in samples:
            for name in ("gt_instances", "ignored_instances"):
                if name in sample:
                    setattr(sample, name, getattr(sample, name).new())
                    kept.append(getattr(sample, name))
        samplelist_boxtype2tensor(samples)
        places = [(one, key) for one in kept for key, value in one.items() if isinstance(value, Tensor)]
        for (one, key), value in zip(places, all_to_device((one[key] for one, key in places), self.device), strict=True):
            one[key] = value
        return samples

    def _look_up(self, images: list[Tensor], height: int, width: int) -> Tensor:
        """Return the batch of (H, W, 3) images on a CPU."""
        values = (torch.arange(256, dtype=torch.float32) - self.mean.view(3, 1)) / self.std.view(3, 1)
        table = np.ascontiguousarray(values.t().numpy()[:, None])  # (256, 1, 3): OpenCV's form of a table for each channel
        padded = any(image.shape[:2] != (height, width) for image in images)
        batch = (np.zeros if padded else np.empty)((len(images), height, width, 3), np.float32)
        for row, image in zip(batch, images, strict=True):
            pixels = np.ascontiguousarray(image.numpy())
            if self._channel_conversion:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            row[: pixels.shape[0], : pixels.shape[1]] = cv2.LUT(pixels, table)
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def _on_device(self, images: list[Tensor], height: int, width: int) -> Tensor:
        """Return the batch of (H, W, 3) images on the model's device."""
        padded = any(image.shape[:2] != (height, width) for image in images)
        make = torch.zeros if padded else torch.empty
        batch = make((len(images), height, width, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        for row, image in zip(batch, images, strict=True):
            row[: image.shape[0], : image.shape[1]] = image
        moved = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if self._channel_conversion:
            moved = moved.flip(1)
        out = ((moved.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for row, image in zip(out, images, strict=True):
            row[:, image.shape[0] :] = 0
            row[:, :, image.shape[1] :] = 0
        return out
