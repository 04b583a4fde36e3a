"""GFLv2's distribution-guided quality predictor: localisation quality read off the shape of the box distribution.

Source: Generalized Focal Loss V2 (Li et al., arXiv 2011.12885), section 3; parameter names of the authors' repository.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def distribution_statistics(logits: Tensor, reg_max: int, *, topk: int, mean: bool, variance: bool) -> Tensor:
    """What the predictor sees of each location: per side the highest probabilities, their mean, the variance.

    The mean is that of the ``topk`` probabilities, as in the authors' code; with ``topk`` 0 it is that of all bins, which
    is always 1/(n+1). The variance is that of the distribution over the bins, in parts of n squared, so in [0, 1/4].

    Args:
        logits: (N, 4(n+1), H, W), side-major.
        reg_max: n.
        topk: k, at most n+1.

    Returns:
        (N, 4 * width, H, W), side-major; ``width`` counts what is asked for.
    """
    probs = logits.unflatten(1, (4, reg_max + 1)).softmax(2)
    parts = []
    highest = probs.topk(topk, dim=2).values if topk else probs
    if topk:
        parts.append(highest)
    if mean:
        parts.append(highest.mean(2, keepdim=True))
    if variance:
        position = torch.linspace(0, 1, reg_max + 1, device=probs.device, dtype=probs.dtype).view(-1, 1, 1)
        first = (probs * position).sum(2, keepdim=True)
        parts.append((probs * (position - first).square()).sum(2, keepdim=True))
    return torch.cat(parts, dim=2).flatten(1, 2)


def predictor(inputs: int, channels: int, *, composed: bool) -> nn.Sequential:
    """The two small 1x1 convolutions; indexes 0 and 2 hold the parameters, as in the authors' ``reg_conf``.

    Args:
        inputs: 4 * width of ``distribution_statistics``.
        channels: hidden width p.
        composed: stop at the hidden features (N, p, H, W), which then join the class tower's, instead of going on to the
            quality logit (N, 1, H, W).
    """
    hidden = [nn.Conv2d(inputs, channels, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*hidden) if composed else nn.Sequential(*hidden, nn.Conv2d(channels, 1, 1))
