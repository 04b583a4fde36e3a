"""The class loss over every location of a pyramid, most of which are background, without a tensor of targets.

For a location without a box the loss depends on its logits alone. It is summed, and its gradient made, block by block while a
block is in the processor's cache, level by level in the memory order that the network left; a positive is looked at apart. The
sums are those of ``losses.py`` up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gfl_lab.detector.positives import SparsePositives

WORTHWHILE = 2**20
"""Logits of a batch from which on the way through here is taken; below it nothing is gained."""

_BLOCK = 2**18
"""Logits of a block on a CPU: with what is computed from them they fit into the cache of a core or two."""


def background_and_positives(
    class_levels: Sequence[Tensor],
    quality_levels: Sequence[Tensor] | None,
    positives: SparsePositives,
    power: float,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the summed loss of a batch as if all of it were background, and the logits of its positives.

    ``p^power * -log(1 - p)`` with p the class score, ``sigmoid(logit)``, or the product with the quality's: what QFL and,
    without its factor, focal loss make of target 0.

    Args:
        class_levels: (N, C, H, W) logits of each level.
        quality_levels: (N, 1, H, W) logits of a quality that multiplies the score (GFLv2), or None.
        positives: of the batch.
        power: beta of QFL, gamma of focal loss; 0, or at least 1.
        valid: (N, A) bool, the locations that count; None where all do.

    Returns:
        The sum, (P, C) class logits and (P,) quality logits or None; gradients flow through all of them.
    """
    count = len(class_levels)
    found = _Dense.apply(power, valid, positives, count, *class_levels, *(quality_levels or ()))
    return found[0], found[1], found[2] if quality_levels else None


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, power: float, valid: Tensor | None, positives: SparsePositives, count: int, *levels: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.power, ctx.valid, ctx.positives, ctx.count = power, valid, positives, count
        ctx.save_for_backward(*levels)
        classes, qualities = levels[:count], levels[count:]
        sums = []
        for logits, quality, weight, _, _ in _blocks(classes, qualities, valid):
            score, log_miss = _score(logits, quality)
            loss = _power(score, power)
            sums.append((loss if weight is None else loss.mul_(weight)).mul_(log_miss).sum(dtype=torch.float32))
        total = torch.stack(sums).double().sum().float()
        return total, positives.gather(classes), positives.gather(qualities)[:, 0] if qualities else total.new_zeros(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor, of_classes: Tensor, of_qualities: Tensor) -> tuple[Tensor | None, ...]:
        levels, count, power = ctx.saved_tensors, ctx.count, ctx.power
        gradients = [torch.empty_like(level) for level in levels[:count]] + [torch.zeros_like(level) for level in levels[count:]]
        for logits, quality, weight, own, of_quality in _blocks(levels[:count], levels[count:], ctx.valid, gradients):
            score, log_miss = _score(logits, quality)
            # d/dp (p^b * -log(1 - p)) times p: what is left for a logit is 1 - its own sigmoid
            if quality is None:
                slope = (1 - score).mul_(log_miss).mul_(power).add_(score)
            else:
                slope = score.div((1 - score).clamp_(min=1e-12)).add_(log_miss, alpha=power)
            slope.mul_(_power(score, power)).mul_(of_sum if weight is None else of_sum * weight)
            if quality is not None and of_quality is not None:
                of_quality.add_((slope * (1 - quality.sigmoid())).sum_to_size(quality.shape))
                slope.mul_(1 - logits.sigmoid())
            assert own is not None
            own.copy_(slope)
        ctx.positives.add(gradients[:count], of_classes)
        if len(levels) > count:
            ctx.positives.add(gradients[count:], of_qualities[:, None])
        return None, None, None, None, *gradients


def _blocks(
    classes: Sequence[Tensor], qualities: Sequence[Tensor], valid: Tensor | None, gradients: Sequence[Tensor] = ()
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]]:
    """Yield class logits, float32, with their quality logits and weights, and the places of the gradients of both.

    On a GPU a block is a level; on a CPU it is a part of one, which needs maps that are dense in memory.
    """
    start = 0
    for index, level in enumerate(classes):
        count = level[0, 0].numel()
        weight = None if valid is None else valid[:, None, start : start + count].view(-1, 1, *level.shape[-2:])
        start += count
        beside = (qualities[index] if qualities else None, weight)
        out = (gradients[index], gradients[len(classes) + index] if qualities else None) if gradients else (None, None)
        if level.device.type != "cpu":
            yield level.float(), *_float(*beside), out[0], out[1]
        elif not qualities and weight is None and _is_dense(level):
            flat = [None if part is None else part.as_strided((part.numel(),), (1,)) for part in (level, out[0])]
            for begin in range(0, level.numel(), _BLOCK):
                block, own = (None if part is None else part[begin : begin + _BLOCK] for part in flat)
                assert block is not None
                yield block.float(), None, None, own, None
        else:
            rows = max(1, _BLOCK // (level.shape[1] * level.shape[3]))
            for image in range(len(level)):
                for begin in range(0, level.shape[2], rows):
                    cut = (slice(image, image + 1), slice(None), slice(begin, begin + rows))
                    quality, mask, own, of_quality = (None if part is None else part[cut] for part in (*beside, *out))
                    yield level[cut].float(), *_float(quality, mask), own, of_quality


def _is_dense(level: Tensor) -> bool:
    return level.is_contiguous() or level.is_contiguous(memory_format=torch.channels_last)


def _float(quality: Tensor | None, weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return None if quality is None else quality.float(), None if weight is None else weight.float()


def _score(logits: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the score p and ``-log(1 - p)``."""
    if quality is None:
        return logits.sigmoid(), F.softplus(logits)
    score = logits.sigmoid().mul_(quality.sigmoid())
    return score, torch.log1p(-score).neg_().clamp_(max=100)  # as torch bounds a cross-entropy of probabilities


def _power(score: Tensor, power: float) -> Tensor:
    return score.square() if power == 2 else score.pow(power)
