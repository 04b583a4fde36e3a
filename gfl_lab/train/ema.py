"""A moving average of a model's weights, which takes the model's place wherever it is judged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """Exponential moving average of everything in a model's state.

    After update t (from 0) the average is ``d * average + (1 - d) * weights`` with ``d = min(decay, (1 + t) / (10 + t))``,
    the ramp of PaddleDetection (``ppdet/optimizer/ema.py``): early weights leave soon. It starts at the model's weights,
    whose part in it is below 1e-6 after 20 updates; PaddleDetection starts at 0 and divides that out.

    Statistics of batch norms are averaged as weights are; counts, which are whole numbers, are copied. Parameters that never change
    (frozen stages, constants) stays bitwise the same.

    Args:
        model: whose state is averaged; the average lies on its device.
        decay: upper bound of d, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights in."""
        averaged: list[torch.Tensor] = []
        present: list[torch.Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.weights[name])
                present.append(value)
            else:
                self.weights[name].copy_(value)
        # a few kernels for all on a GPU; on a CPU one lerp_ each
        get_ema_multi_avg_fn(min(self.decay, (1 + self.updates) / (10 + self.updates)))(averaged, present, None)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights with the average."""
        for name, value in model.state_dict().items():
            value.copy_(self.weights[name])

    @contextlib.contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Put the average into the model within the block, and its own weights back after it, bit by bit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    value.copy_(own[name])

    def load(self, weights: Mapping[str, Any], updates: int) -> None:
        """Continue from a saved average."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
        self.updates = updates
