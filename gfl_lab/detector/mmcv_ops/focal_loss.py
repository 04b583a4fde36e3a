"""Sigmoid focal loss of logits and its derivative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl_lab.detector.mmcv_ops.extension import operator


def _focal_terms(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    positive = F.one_hot(target, logits.size(1) + 1)[:, : logits.size(1)].bool()
    signed = torch.where(positive, logits, -logits).float()  # logit of "this class's answer is right"
    scale = torch.where(positive, alpha, 1 - alpha)
    if weight.numel():
        scale = scale * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    return positive, signed, scale, (-signed).sigmoid()


@operator
def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float) -> None:
    """Write the focal loss of each logit (Lin et al., arXiv 1708.02002, eq. 5) into ``output``.

    Args:
        input: (N, C) logits.
        target: (N,) int64 class, C for background.
        weight: (C,) weight of each target class, or empty.
        output: (N, C), overwritten.
    """
    _, signed, scale, wrong = _focal_terms(input, target, weight, gamma, alpha)
    output.copy_(-scale * wrong.pow(gamma) * F.logsigmoid(signed))


@operator
def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Write the derivative of ``sigmoid_focal_loss_forward`` by ``input`` into ``grad_input`` (N, C); arguments as there."""
    positive, signed, scale, wrong = _focal_terms(input, target, weight, gamma, alpha)
    # d/ds [-(1-p)^g log p] with p = sigmoid(s): (1-p)^g (g p log p - (1-p))
    grad = scale * wrong.pow(gamma) * (gamma * (1 - wrong) * F.logsigmoid(signed) - wrong)
    grad_input.copy_(torch.where(positive, grad, -grad))
