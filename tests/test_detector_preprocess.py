"""Images into the network: bit by bit what mmdet's preprocessor makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gfl_lab.detector.build import PIXEL_MEAN, PIXEL_STD
from gfl_lab.detector.preprocess import BatchPreprocessor

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.datasets.transforms import PackDetInputs
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from gfl_lab.setup.dataset import PackBytes

CONFIG: dict[str, Any] = {"mean": PIXEL_MEAN, "std": PIXEL_STD, "bgr_to_rgb": True, "pad_size_divisor": 32}


def _images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def _samples(count: int) -> list[DetDataSample]:
    out = []
    for _ in range(count):
        sample = DetDataSample(metainfo={"img_shape": (1, 1)})
        sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(torch.tensor([[1.0, 2, 3, 4]])), labels=torch.zeros(1))
        sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0))
        out.append(sample)
    return out


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("sizes", [[(64, 96)] * 3, [(40, 50), (64, 20), (33, 64)]], ids=["one size", "padded"])
def test_bit_by_bit_that_of_mmdet(sizes: list[tuple[int, int]], swap: bool) -> None:
    config = CONFIG | {"bgr_to_rgb": swap}
    ours, theirs = BatchPreprocessor(**config), DetDataPreprocessor(**config)
    found, expected = (each({"inputs": _images(*sizes), "data_samples": _samples(3)}, True) for each in (ours, theirs))
    assert torch.equal(found["inputs"], expected["inputs"]) and found["inputs"].dtype == torch.float32
    assert found["inputs"].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(found["data_samples"], expected["data_samples"], strict=True):
        assert one.metainfo == other.metainfo and isinstance(one.gt_instances.bboxes, torch.Tensor)
    on_device = ours._on_device([image.permute(1, 2, 0) for image in _images(*sizes)], *expected["inputs"].shape[2:])
    assert torch.equal(on_device, expected["inputs"]) and on_device.is_contiguous(memory_format=torch.channels_last)


def test_what_is_not_a_list_of_bytes_goes_the_way_of_mmdet() -> None:
    ours, theirs = BatchPreprocessor(**CONFIG), DetDataPreprocessor(**CONFIG)
    for inputs in ([image.float() for image in _images((32, 32), (32, 64))], torch.stack(_images((32, 64), (32, 64)))):
        assert torch.equal(
            ours({"inputs": inputs, "data_samples": None})["inputs"], theirs({"inputs": inputs, "data_samples": None})["inputs"]
        )


def test_packing_copies_no_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    for given in (image, image[:, ::-1]):  # a flip leaves a view with negative strides
        results = {"img": given, "img_id": 1}
        ours, theirs = (pack(meta_keys=("img_id",))(dict(results)) for pack in (PackBytes, PackDetInputs))
        assert torch.equal(ours["inputs"], theirs["inputs"]) and ours["data_samples"].metainfo == {"img_id": 1}
        assert ours["inputs"].permute(1, 2, 0).is_contiguous()
    assert PackBytes()({"img": image})["inputs"].data_ptr() == image.ctypes.data
