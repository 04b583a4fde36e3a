"""RoIAlign and deformable RoI pooling without a compiled mmcv: against their formulas in plain loops, and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gfl_lab.detector import mmcv_ops as ops

# isort: split
# after ours: mmcv.ops can be imported only once the operators are there
import mmcv.ops

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(not ops.is_installed(), reason="a compiled mmcv is installed")

ROIS = [
    [0, 2.0, 3.0, 30.0, 21.0],
    [1, -9.0, -5.0, 50.0, 60.0],
    [1, 8.0, 8.0, 8.0, 8.0],
    [0, 16.5, 1.0, 22.5, 39.0],
    [0, -40.0, 0.0, -30.0, 9.0],
]
"""Inside; over the border; without area; narrow; outside. In px of an image whose map has a quarter of its sides."""


def _sample(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear, 0 from one pixel outside on, else the border's value."""
    height, width = plane.shape
    if y < -1 or x < -1 or y > height or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = plane[top, left] * (1 - dx) + plane[top, right] * dx
    return (1 - dy) * above + dy * (plane[down, left] * (1 - dx) + plane[down, right] * dx)


def _formula(
    maps: np.ndarray,
    rois: np.ndarray,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool = True,
    shifts: np.ndarray | None = None,
) -> np.ndarray:
    """Mean of the samples of each bin; ``shifts`` (K, 2, rows, columns) in parts of the box, dx first."""
    rows, columns = size
    out = np.zeros((len(rois), maps.shape[1], rows, columns))
    for k, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (value * scale - 0.5 * aligned for value in box)
        wide, high = x2 - x1, y2 - y1
        if not aligned:
            wide, high = max(wide, 1.0), max(high, 1.0)
        across = ratio or math.ceil(wide / columns)
        down = ratio or math.ceil(high / rows)
        for channel, i, j in np.ndindex(*out.shape[1:]):
            dx, dy = (0.0, 0.0) if shifts is None else (shifts[k, 0, i, j] * wide, shifts[k, 1, i, j] * high)
            for row, column in np.ndindex(down, across):
                y = y1 + dy + (i + (row + 0.5) / down) * high / rows
                x = x1 + dx + (j + (column + 0.5) / across) * wide / columns
                out[k, channel, i, j] += _sample(maps[int(image), channel], y, x) / max(down * across, 1)
    return out


def _maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_roi_align_equals_the_formula(aligned: bool, ratio: int) -> None:
    maps, rois = _maps(2, 2, 9, 11), torch.tensor(ROIS)
    layer = mmcv.ops.RoIAlign((3, 2), 0.25, ratio, aligned=aligned)
    expected = _formula(maps.double().numpy(), rois.double().numpy(), (3, 2), 0.25, ratio, aligned)
    torch.testing.assert_close(layer(maps, rois).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_roi_align_by_hand() -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4)  # 4 y + x
    # one bin from 0.5 to 2.5 a side after the shift by half a pixel, its middle at (1.5, 1.5): 4 * 1.5 + 1.5
    assert ops.roi_align(ramp, torch.tensor([[0.0, 1, 1, 3, 3]]), 1).flatten().tolist() == [7.5]
    # without the shift the middle lies at (2, 2)
    assert ops.roi_align(ramp, torch.tensor([[0.0, 1, 1, 3, 3]]), 1, aligned=False).flatten().tolist() == [10.0]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient_of_roi_align_by_finite_differences(aligned: bool, ratio: int) -> None:
    maps, rois = _maps(2, 1, 4, 5, dtype=torch.float64).requires_grad_(), torch.tensor(ROIS)
    assert torch.autograd.gradcheck(lambda x: ops.roi_align(x, rois, (2, 2), 0.125, ratio, "avg", aligned), (maps,))


def test_roi_align_refuses_the_maximum() -> None:
    with pytest.raises(NotImplementedError, match="pool_mode 'max'"):
        mmcv.ops.RoIAlign(2, pool_mode="max")(_maps(1, 1, 4, 4), torch.tensor([ROIS[0]]))


def _shifts(scale: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return scale * torch.randn(len(ROIS), 2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_deform_roi_pool_equals_the_formula(shifted: bool, ratio: int) -> None:
    maps, rois, offset = _maps(2, 2, 9, 11), torch.tensor(ROIS), _shifts(2.0)
    layer = mmcv.ops.DeformRoIPool((3, 2), 0.25, ratio, gamma=0.2)
    shifts = 0.2 * offset.double().numpy() if shifted else None
    expected = _formula(maps.double().numpy(), rois.double().numpy(), (3, 2), 0.25, ratio, shifts=shifts)
    pooled = layer(maps, rois, offset if shifted else None)
    torch.testing.assert_close(pooled.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients_of_deform_roi_pool_by_finite_differences(ratio: int) -> None:
    maps, rois = _maps(2, 1, 6, 7, dtype=torch.float64).requires_grad_(), torch.tensor(ROIS[:4], dtype=torch.float64)
    offset = _shifts(0.1, torch.float64)[:4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x, shift: ops.deform_roi_pool(x, rois, shift, (3, 2), 0.125, ratio), (maps, offset))


def test_packs_of_deform_roi_pool_train_every_weight() -> None:
    maps, rois = _maps(2, 2, 9, 11), torch.tensor(ROIS)
    for pack in (mmcv.ops.DeformRoIPoolPack, mmcv.ops.ModulatedDeformRoIPoolPack):
        torch.manual_seed(0)
        layer = pack((2, 2), 2, deform_fc_channels=16, spatial_scale=0.25)
        torch.nn.init.normal_(layer.offset_fc[-1].weight)
        layer(maps, rois).square().sum().backward()
        assert all(value.grad.abs().sum() > 0 for value in layer.offset_fc[-1].parameters())


CALLS: list[Any] = [
    pytest.param(lambda maps, rois: ops.roi_align(maps, rois, 2, 0.25), id="roi_align"),
    pytest.param(lambda maps, rois: ops.deform_roi_pool(maps, rois, None, 2, 0.25), id="deform_roi_pool"),
]


@pytest.mark.parametrize("call", CALLS)
def test_no_boxes(call: Any) -> None:
    maps = _maps(2, 3, 4, 4).requires_grad_()
    pooled = call(maps, torch.zeros(0, 5))
    assert pooled.shape == (0, 3, 2, 2)
    pooled.sum().backward()  # a part of the graph, as every output is
    assert maps.grad.abs().sum() == 0


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32_and_returns_the_type_of_the_input(call: Any, dtype: torch.dtype) -> None:
    maps, rois = _maps(2, 2, 9, 11).to(dtype).requires_grad_(), torch.tensor(ROIS)
    pooled = call(maps, rois)
    assert pooled.dtype == dtype and torch.equal(pooled, call(maps.float(), rois).to(dtype))
    pooled.float().sum().backward()
    assert maps.grad.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(maps.detach(), rois), pooled)
