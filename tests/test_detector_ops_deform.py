"""Deformable convolution without a compiled mmcv: against its formula, plain convolution and hand-worked numbers."""

from __future__ import annotations

import itertools
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gfl_lab.detector import mmcv_ops as ops

# isort: split
# after ours: mmcv.ops can be imported only once the operators are there
import mmcv.ops
from mmcv.cnn import build_conv_layer
from mmdet.registry import MODELS

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(not ops.is_installed(), reason="a compiled mmcv is installed")


def _formula(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, groups: int, deform_groups: int
) -> Tensor:
    """One ``grid_sample`` for each tap and deform group, then a 1x1 convolution over all samples."""
    n, _, height, width = x.shape
    kh, kw = weight.shape[-2:]
    rows, columns = offset.shape[-2:]
    offset = offset.view(n, deform_groups, kh * kw, 2, rows, columns)
    mask = mask.view(n, deform_groups, kh * kw, rows, columns)
    taps = []
    for tap, (i, j) in enumerate(itertools.product(range(kh), range(kw))):
        parts = []
        for group, part in enumerate(x.chunk(deform_groups, dim=1)):
            y = torch.arange(rows)[:, None] * stride - padding + i * dilation + offset[:, group, tap, 0]
            x_ = torch.arange(columns) * stride - padding + j * dilation + offset[:, group, tap, 1]
            grid = torch.stack([(2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
            sample = F.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            parts.append(sample * mask[:, group, tap, None])
        taps.append(torch.cat(parts, dim=1))
    columns_of_taps = torch.stack(taps, dim=2).flatten(1, 2)  # (N, C * taps, H', W'), channel first as in the weight
    return F.conv2d(columns_of_taps, weight.flatten(1)[..., None, None], groups=groups)


@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "deform_groups"),
    [(3, 1, 1, 1, 1, 1), (3, 2, 1, 1, 1, 1), (3, 1, 2, 2, 2, 1), (3, 1, 1, 1, 4, 2), (1, 1, 0, 1, 1, 4), (5, 2, 2, 1, 2, 1)],
)
def test_equals_the_formula_in_value_and_gradient(
    modulated: bool, kernel: int, stride: int, padding: int, dilation: int, groups: int, deform_groups: int
) -> None:
    generator = torch.Generator().manual_seed(kernel + stride + groups)
    height, width = 9, 11
    rows, columns = ((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in (height, width))
    taps = deform_groups * kernel**2
    x = torch.randn(3, 8, height, width, generator=generator)
    offset = 2 * torch.randn(3, 2 * taps, rows, columns, generator=generator)  # some samples lie outside
    mask = torch.rand(3, taps, rows, columns, generator=generator)
    weight = torch.randn(12, 8 // groups, kernel, kernel, generator=generator)
    upstream = torch.randn(3, 12, rows, columns, generator=generator)
    inputs = [x, offset, mask, weight] if modulated else [x, offset, weight]
    for value in inputs:
        value.requires_grad_()
    options = (stride, padding, dilation, groups, deform_groups)
    if modulated:
        ours = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, *options)
        expected = _formula(x, offset, mask, weight, *options)
    else:
        ours = mmcv.ops.deform_conv2d(x, offset, weight, *options)
        expected = _formula(x, offset, torch.ones_like(mask), weight, *options)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    for got, wanted in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()  # off the pixel grid

    x, offset, mask, weight, bias = values(2, 2, 3, 4), values(2, 18, 3, 4), values(2, 9, 3, 4), values(2, 2, 3, 3), values(2)
    assert torch.autograd.gradcheck(lambda *a: ops.deform_conv2d(*a, 1, 1), (x, offset, weight))
    assert torch.autograd.gradcheck(lambda *a: ops.modulated_deform_conv2d(*a, 1, 1), (x, offset, mask, weight, bias))


def test_offsets_are_dy_then_dx() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, :, 0, 0] = torch.tensor([0.5, 0.25])  # half a row down, a quarter of a column right: 0.5 * 2 + 0.25 * 1
    offset[0, :, 1, 1] = torch.tensor([0.0, 0.5])  # half outside, where all is zero: 0.5 * 3
    y = ops.deform_conv2d(x, offset, torch.ones(1, 1, 1, 1))
    assert y.flatten().tolist() == [1.25, 1.0, 2.0, 1.5]


def test_offsets_of_a_larger_map_are_read_as_the_kernel_of_mmcv_reads_them() -> None:
    """Its position in memory is ``(channel * H' + y) * W' + x`` with the sides of the output, so the maps' first numbers are taken."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 2, 3, 4, generator=generator), torch.randn(3, 2, 3, 3, generator=generator)
    offset, mask = torch.randn(2, 18, 6, 8, generator=generator), torch.rand(2, 9, 6, 8, generator=generator)
    read_offset, read_mask = torch.empty(2, 18, 3, 4), torch.empty(2, 9, 3, 4)
    for read, given in ((read_offset, offset), (read_mask, mask)):
        for image, channel, row, column in itertools.product(*map(range, read.shape)):
            read[image, channel, row, column] = given[image].flatten()[(channel * 3 + row) * 4 + column]
    expected = ops.modulated_deform_conv2d(x, read_offset, read_mask, weight, None, 1, 1)
    assert torch.equal(ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1), expected)


def _layer(kind: str, **arguments: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_conv_layer({"type": kind}, 8, 12, 3, padding=1, **arguments)


@pytest.mark.parametrize(("height", "width"), [(6, 7), (2, 5), (2, 2), (1, 1)])
def test_starts_as_plain_convolution_on_any_map(height: int, width: int) -> None:
    x = torch.randn(2, 8, height, width, generator=torch.Generator().manual_seed(0))
    v1, v2 = _layer("DCN", groups=4), _layer("DCNv2", groups=4)
    torch.testing.assert_close(v1(x), F.conv2d(x, v1.weight, padding=1, groups=4))
    torch.nn.init.normal_(v2.bias)
    torch.testing.assert_close(v2(x), 0.5 * F.conv2d(x, v2.weight, padding=1, groups=4) + v2.bias[:, None, None])  # sigmoid(0)


@pytest.mark.parametrize(("kind", "of_a_tap", "bias"), [("DCN", 2, {}), ("DCNv2", 3, {"bias": (12,)})])
@pytest.mark.parametrize("deform_groups", [1, 2])
def test_names_and_shapes_of_published_weights(kind: str, of_a_tap: int, bias: dict[str, Any], deform_groups: int) -> None:
    layer = _layer(kind, groups=2, deform_groups=deform_groups)
    channels = of_a_tap * 9 * deform_groups
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {"weight": (12, 4, 3, 3), "conv_offset.weight": (channels, 8, 3, 3), "conv_offset.bias": (channels,), **bias}


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
@pytest.mark.parametrize("batch", [0, 1, 33, 37, 48])
def test_any_batch_size(kind: str, batch: int) -> None:
    layer = _layer(kind)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(batch, 8, 3, 4, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    y.square().sum().backward()
    assert y.shape == (batch, 12, 3, 4) and layer.weight.grad.isfinite().all()
    if batch:
        torch.testing.assert_close(y[-1:], layer(x[-1:]))


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def test_autocast(kind: str, dtype: torch.dtype, device: str) -> None:
    layer = _layer(kind).to(device)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(2, 8, 9, 10, generator=torch.Generator().manual_seed(2)).to(device).requires_grad_()
    with torch.autocast(device, dtype):
        y = layer(x)
    assert y.dtype == dtype
    y.float().square().sum().backward()
    for parameter in (x, *layer.parameters()):
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)  # 8 bits of offset


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
def test_mmdet_backbone_trains_through_it(kind: str) -> None:
    torch.manual_seed(0)
    config = {"type": kind, "deform_groups": 1, "fallback_on_stride": False}
    backbone = MODELS.build(
        {"type": "ResNet", "depth": 50, "base_channels": 8, "num_stages": 2, "strides": (1, 2), "dilations": (1, 1), "out_indices": (0, 1)}
        | {"dcn": config, "stage_with_dcn": (False, True), "norm_eval": False}
    )
    backbone.train()
    x = torch.randn(2, 3, 32, 32)
    optimizer = torch.optim.SGD(backbone.parameters(), 0.01)
    losses = []
    for _ in range(5):
        loss = (backbone(x)[1] - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    offsets = [value for name, value in backbone.named_parameters() if "conv_offset" in name]
    assert losses[-1] < losses[0] and len(offsets) == 2 * 4 and all(value.abs().sum() > 0 for value in offsets)


def test_compiled_mmcv_keeps_its_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = types.ModuleType(ops.EXTENSION)
    compiled.__spec__ = ModuleSpec(ops.EXTENSION, None)
    theirs = object()
    monkeypatch.setitem(sys.modules, ops.EXTENSION, compiled)
    monkeypatch.setattr(mmcv.ops, "deform_conv2d", theirs)
    ops.install()
    assert mmcv.ops.deform_conv2d is theirs and not ops.is_installed()


def test_an_offset_that_is_no_number_reads_nothing_and_does_not_end_the_process() -> None:
    offset = torch.zeros(1, 2, 4, 4)
    offset[0, :, 1, 2] = torch.nan
    found = ops.deform_conv2d(torch.ones(1, 1, 4, 4), offset, torch.ones(1, 1, 1, 1))
    wanted = torch.ones(1, 1, 4, 4)
    wanted[0, 0, 1, 2] = 0
    assert torch.equal(found, wanted)
