"""Convolutions in channels-last memory order, which takes a fifth off a training step on a CPU (docs/decisions/0004)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VECTOR = 8
"""32-bit numbers in a vector of AVX2."""


def to_channels_last(model: nn.Module) -> None:
    """Put a model's weights in channels-last order, but for convolutions that oneDNN cannot run in it.

    On a CPU with AVX2 and no AVX-512 the backward pass of a 1x1 convolution with a stride and fewer than 8 input channels writes
    past its memory in that order (torch 2.11, oneDNN 3.10: "free(): invalid next size"). Such a layer takes its input in plain order.
    """
    _lay_out(model, torch.channels_last)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels < VECTOR:
            _lay_out(layer, torch.contiguous_format)
            layer.register_forward_pre_hook(_in_plain_order)


def _lay_out(layer: Any, order: torch.memory_format) -> None:  # torch's types do not know this form of `to`
    layer.to(memory_format=order)


def _in_plain_order(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].contiguous(), *inputs[1:])
