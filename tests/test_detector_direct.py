"""Direct regression of distances: by hand, against mmdet's FCOS head and coder, and its settings."""

from __future__ import annotations

import pytest
import torch

from gfl_lab.detector.box_forms import Direct
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import inactive
from tests.support.heads import CLASSES, TEST_CFG

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from mmengine.config import ConfigDict

PRIOR, UNIT = torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([[8.0]])
"""A location at (32, 32) of stride 8; half an anchor is 4 bins."""


def test_by_hand() -> None:
    """Predictions of 0, 2, -3 and -9 are distances of 4, 6, 1 and 0 bins, 32, 48, 8 and 0 px."""
    prediction = torch.tensor([[0.0, 2, -3, -9]], requires_grad=True)
    found = Direct().decode(prediction, PRIOR, UNIT)
    assert found.distances.tolist() == [[4, 6, 1, 0]] and found.boxes.tolist() == [[0, -16, 40, 32]] and found.probs is None
    fitted = Direct().fit(prediction, PRIOR, UNIT, torch.tensor([[8.0, 8, 56, 56]]))
    assert fitted.boxes.tolist() == [[0, -2, 5, 4]] and fitted.targets.tolist() == [[1, 1, 7, 7]] and fitted.loss is None
    fitted.boxes.sum().backward()
    assert prediction.grad is not None and prediction.grad.tolist() == [[-1, -1, 1, 0]], "linear, and flat below 0"
    far = Direct().decode(torch.tensor([[1e4, 1e4, 1e4, 1e4]]), PRIOR, UNIT)
    assert far.distances.tolist() == [[10_004.0] * 4], "no largest distance"


def test_is_the_inverse_of_mmdets_coder() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(50, 2, generator=generator) * 100
    priors = torch.cat([centers - 32, centers + 32], 1)
    boxes = torch.cat([centers - torch.rand(50, 2, generator=generator) * 300, centers + torch.rand(50, 2, generator=generator) * 300], 1)
    unit = torch.full((50, 1), 4.0)
    prediction = DistancePointBBoxCoder().encode(centers, boxes) / unit - 8
    torch.testing.assert_close(Direct().decode(prediction, priors, unit).boxes, boxes, rtol=1e-5, atol=1e-4)


def test_is_mmdets_fcos_with_norm_on_bbox() -> None:
    """FCOSHead's distances and boxes from the same output of its last convolution."""
    torch.manual_seed(0)
    head = FCOSHead(CLASSES, 16, feat_channels=16, stacked_convs=1, strides=[8], regress_ranges=((-1, 1e8),), norm_on_bbox=True,
                    norm_cfg={"type": "GN", "num_groups": 4}, test_cfg=ConfigDict(TEST_CFG)).eval()  # fmt: skip
    torch.nn.init.normal_(head.conv_reg.weight, std=0.3)
    raw: list[torch.Tensor] = []
    head.conv_reg.register_forward_hook(lambda _module, _inputs, output: raw.append(output))
    with torch.no_grad():
        distances = head((torch.randn(2, 16, 6, 7),))[1][0]
    points = head.prior_generator.grid_priors([(6, 7)], device="cpu")[0]
    found, expected = raw[0][1].flatten(1).t(), distances[1].flatten(1).t()
    priors, unit = torch.cat([points - 32, points + 32], 1), torch.full((42, 1), 8.0)
    ours = Direct().decode(found - 4, priors, unit)
    assert (expected == 0).any() and (expected > 8).any()
    torch.testing.assert_close(ours.distances * 8, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.boxes, head.bbox_coder.decode(points, expected), rtol=1e-5, atol=1e-5)


def test_settings() -> None:
    found = resolve_settings({"box": "direct"})
    assert not found.dfl and {"reg_max", "bins", "dfl_weight", "bbox_coder", "decode"} <= inactive(found).keys()
    assert not {"bin_width", "box_loss"} & inactive(found).keys()
    with pytest.raises(ValueError, match="dfl: true contradicts box: direct, which has no bins"):
        resolve_settings({"box": "direct", "dfl": True})
