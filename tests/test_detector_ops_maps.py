"""CARAFE, masked convolution and deformable attention without a compiled mmcv: against their formulas in plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gfl_lab.detector import mmcv_ops as ops

# isort: split
# after ours: mmcv.ops can be imported only once the operators are there
import mmcv.ops
from mmcv.cnn import build_conv_layer, build_upsample_layer
from mmcv.ops import multi_scale_deform_attn

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(not ops.is_installed(), reason="a compiled mmcv is installed")


def _values(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


class TestCarafe:
    @pytest.mark.parametrize(("kernel", "groups", "scale"), [(1, 1, 1), (3, 1, 2), (5, 2, 2), (3, 4, 3)])
    def test_equals_the_formula(self, kernel: int, groups: int, scale: int) -> None:
        features, masks = _values(2, 4, 3, 4), _values(2, groups * kernel**2, 3 * scale, 4 * scale)
        expected = np.zeros((2, 4, 3 * scale, 4 * scale))
        for n, c, y, x in np.ndindex(expected.shape):
            for i, j in np.ndindex(kernel, kernel):
                row, column = y // scale + i - kernel // 2, x // scale + j - kernel // 2
                if 0 <= row < 3 and 0 <= column < 4:
                    channel = (c // (4 // groups) * kernel + i) * kernel + j
                    expected[n, c, y, x] += features[n, c, row, column] * masks[n, channel, y, x]
        for function in (mmcv.ops.carafe, mmcv.ops.carafe_naive):
            torch.testing.assert_close(function(features, masks, kernel, groups, scale), torch.from_numpy(expected))

    def test_gradients_by_finite_differences(self) -> None:
        features, masks = _values(1, 2, 2, 3).requires_grad_(), _values(1, 18, 4, 6).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, m: ops.carafe(x, m, 3, 2, 2), (features, masks))

    def test_layer_trains_every_weight(self) -> None:
        layer = build_upsample_layer({"type": "carafe", "channels": 4, "scale_factor": 2, "up_kernel": 3, "compressed_channels": 4})
        layer(_values(2, 4, 3, 3, dtype=torch.float32)).square().sum().backward()
        assert all(value.grad.abs().sum() > 0 for value in layer.parameters())

    def test_empty_batch_and_sizes_that_do_not_fit(self) -> None:
        assert ops.carafe(torch.zeros(0, 4, 3, 3), torch.zeros(0, 9, 6, 6), 3, 1, 2).shape == (0, 4, 6, 6)
        with pytest.raises(ValueError, match=r"masks of \(1, 9, 6, 6\)"):
            ops.carafe(torch.zeros(1, 4, 3, 3), torch.zeros(1, 9, 6, 5), 3, 1, 2)


class TestMaskedConvolution:
    @pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1)])
    def test_equals_the_formula(self, kernel: int, padding: int) -> None:
        features, weight, bias = _values(1, 2, 4, 5), _values(3, 2, kernel, kernel), _values(3)
        mask = torch.tensor(np.arange(20).reshape(1, 4, 5) % 3 == 0)
        expected = np.zeros((1, 3, 4, 5))
        for c, y, x in np.ndindex(3, 4, 5):
            if mask[0, y, x]:
                expected[0, c, y, x] = bias[c]
                for k, i, j in np.ndindex(2, kernel, kernel):
                    row, column = y + i - padding, x + j - padding
                    if 0 <= row < 4 and 0 <= column < 5:
                        expected[0, c, y, x] += weight[c, k, i, j] * features[0, k, row, column]
        torch.testing.assert_close(mmcv.ops.masked_conv2d(features, mask, weight, bias, padding), torch.from_numpy(expected))

    def test_layer_with_and_without_a_mask(self) -> None:
        layer = mmcv.ops.MaskedConv2d(2, 3, 3, padding=1)
        x = _values(1, 2, 4, 5, dtype=torch.float32)
        assert torch.equal(layer(x, torch.ones(1, 4, 5)), layer(x)) and not layer(x, torch.zeros(1, 4, 5)).any()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x, torch.ones(1, 4, 5)).dtype == layer(x).dtype == torch.bfloat16

    @pytest.mark.parametrize(
        ("features", "mask", "arguments", "message"),
        [
            ((2, 2, 4, 5), (1, 4, 5), {}, "one image"),
            ((1, 2, 4, 5), (1, 4, 5), {"stride": 2}, "stride 1"),
            ((1, 2, 4, 5), (1, 3, 5), {}, "padding"),
        ],
    )
    def test_refuses_what_it_cannot_do(self, features: Any, mask: Any, arguments: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ops.masked_conv2d(torch.zeros(features), torch.zeros(mask), torch.zeros(3, 2, 1, 1), None, **arguments)


def _attention(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> np.ndarray:
    n, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    out = np.zeros((n, queries, heads, width))
    for b, q, head, level, point in np.ndindex(n, queries, heads, len(shapes), points):
        rows, columns = shapes[level]
        start = sum(r * c for r, c in shapes[:level])
        x, y = (locations[b, q, head, level, point] * torch.tensor([columns, rows]) - 0.5).tolist()
        for row, column in np.ndindex(rows, columns):
            near = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))  # 0 outside
            out[b, q, head] += weights[b, q, head, level, point].item() * near * value[b, start + row * columns + column, head].numpy()
    return out.reshape(n, queries, heads * width)


class TestDeformableAttention:
    SHAPES = [(3, 4), (2, 2)]

    def _arguments(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        locations = 1.4 * torch.rand(2, 3, 2, 2, 3, 2, generator=generator, dtype=dtype) - 0.2  # some outside
        return _values(2, 16, 2, 4, dtype=dtype), locations, torch.rand(2, 3, 2, 2, 3, generator=generator, dtype=dtype)

    def _apply(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        function = multi_scale_deform_attn.MultiScaleDeformableAttnFunction  # the one that mmcv's module takes on CUDA
        return function.apply(value, torch.tensor(self.SHAPES), torch.tensor([0, 12]), locations, weights, 64)

    def test_equals_the_formula(self) -> None:
        value, locations, weights = self._arguments()
        torch.testing.assert_close(
            self._apply(value, locations, weights), torch.from_numpy(_attention(value, self.SHAPES, locations, weights))
        )

    def test_gradients_by_finite_differences(self) -> None:
        value, locations, weights = (argument[:1, :16].requires_grad_() for argument in self._arguments())
        assert torch.autograd.gradcheck(self._apply, (value, locations, weights))

    def test_no_queries(self) -> None:
        value, locations, weights = self._arguments()
        assert self._apply(value, locations[:, :0], weights[:, :0]).shape == (2, 0, 8)

    def test_module_takes_the_same_path_on_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """mmcv's module chooses by ``value.is_cuda``; the function it then calls must give what its CPU path gives."""
        torch.manual_seed(0)
        layer = mmcv.ops.MultiScaleDeformableAttention(8, num_heads=2, num_levels=2, num_points=3, dropout=0.0, batch_first=True)
        torch.nn.init.normal_(layer.sampling_offsets.weight)
        query, reference = torch.randn(2, 16, 8), torch.rand(2, 16, 2, 2)
        arguments = {"reference_points": reference, "spatial_shapes": torch.tensor(self.SHAPES), "level_start_index": torch.tensor([0, 12])}
        on_cpu = layer(query, **arguments)
        calls = []
        monkeypatch.setattr(multi_scale_deform_attn, "IS_CUDA_AVAILABLE", True)
        monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: calls.append(1) or True))
        torch.testing.assert_close(layer(query, **arguments), on_cpu)
        assert calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_float32_and_returns_the_type_of_the_input(dtype: torch.dtype) -> None:
    features, masks = _values(1, 4, 3, 4).to(dtype), _values(1, 9, 6, 8).to(dtype)
    attention = TestDeformableAttention()
    value, locations, weights = attention._arguments(torch.float32)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            up = ops.carafe(features, masks, 3, 1, 2)
            sums = attention._apply(value.to(dtype), locations, weights)  # under autocast mmcv's locations stay float32
        assert up.dtype == sums.dtype == dtype
        assert torch.equal(up, ops.carafe(features.float(), masks.float(), 3, 1, 2).to(dtype))
        assert torch.equal(sums, attention._apply(value.to(dtype).float(), locations, weights).to(dtype))


def test_switchable_atrous_convolution_takes_the_replaced_deformable_one() -> None:
    """mmcv's ``saconv`` imports ``deform_conv2d`` by name; the replacement must reach it."""
    layer = build_conv_layer({"type": "SAC", "use_deform": True}, 4, 4, 3, padding=1, bias=False)
    y = layer(_values(2, 4, 6, 6, dtype=torch.float32))
    y.square().sum().backward()
    assert y.shape == (2, 4, 6, 6) and layer.weight.grad.abs().sum() > 0 and F.relu(y).any()
