"""Distillation: a detector learns from the predictions of a frozen teacher at its own positives.

Localisation distillation (LD, Zheng et al., arXiv 2102.12252) compares the edge distributions of student and teacher, softened by a
temperature T: with p = softmax(student / T) and q = softmax(teacher / T) of one side it is T^2 KL(q || p), its terms averaged over
the bins and over the sides of a box, and summed over the positives with the weights of the box losses. As in mmdet's ``LDHead`` the sum is
not divided by these weights, so the term grows with the number of positives. A second term takes the same over the valuable
region (``valuable_region``), with its weights and a quarter of the factor, as the authors' code does. KD compares the class logits
in the same way, and is a mean over the positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gfl_lab.detector.positives import Positives

LD, KD = "ld", "kd"

VALUABLE_SHARE = 0.25
"""Factor of the valuable region's term beside that of the positives: 16 in the authors' code divides it, and 4 the other."""


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), its terms averaged over the K classes.

    Equals mmdet's ``KnowledgeDistillationKLDivLoss`` without reduction.

    Args:
        student, teacher: (M, K) logits.

    Returns:
        (M,) at least 0; the gradient goes to ``student`` alone.
    """
    target = (teacher.detach() / temperature).softmax(1)
    terms = functional.kl_div((student / temperature).log_softmax(1), target, reduction="none")
    return terms.mean(1) * temperature**2


class Distillation:
    """A frozen teacher, and what is learned from it. No module: the teacher is in no state dict, optimizer or moving average.

    Args:
        teacher: a detector whose head is a ``GFLFamilyHead`` with the strides of the student's, and for LD with its bins.
        kind: ``LD`` or ``KD``.
        temperature: T. weight: of the term.
        valuable: learn in the valuable region, too; for LD alone.
    """

    def __init__(self, teacher: Any, kind: str, temperature: float, weight: float, valuable: bool = False) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.kind, self.temperature, self.weight, self.valuable = kind, temperature, weight, valuable
        self._logits: Sequence[Tensor] = ()

    @torch.no_grad()
    def look(self, images: Tensor) -> None:
        """Let the teacher predict on (N, 3, H, W) images, as the student gets them; ``terms`` compares with these predictions."""
        classes, boxes, *_ = self.teacher.bbox_head(self.teacher.extract_feat(images))
        self._logits = boxes if self.kind == LD else classes

    def terms(
        self, at: Positives, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], weight: Tensor, count: Tensor
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the weighted term of a batch: ``loss_ld`` or ``loss_kd``.

        Args:
            at: P positives. cls_scores, bbox_preds: (N, channels, H, W) of each level, the student's.
            weight: (P,) of the box losses. count: number of positives, the mean over the processes.
        """
        if self.kind == KD:
            divergence = softened_divergence(at.gather(cls_scores), at.gather(self._logits), self.temperature)
            real = divergence if at.real is None else divergence * at.real
            return {"loss_kd": self.weight * real.sum() / count}
        sides = [at.gather(levels).unflatten(1, (4, -1)).flatten(0, 1) for levels in (bbox_preds, self._logits)]
        divergence = softened_divergence(sides[0], sides[1], self.temperature).view(-1, 4).mean(1)
        return {"loss_ld": self.weight * (divergence * weight).sum()}

    def valuable_terms(self, bbox_preds: Sequence[Tensor], weight: Tensor) -> dict[str, Tensor]:
        """Return the weighted term of the valuable region: ``loss_ld_vlr``.

        Each location is computed, those outside with weight 0, so that the host never waits for a GPU to count them.

        Args:
            bbox_preds: (N, channels, H, W) of each level, the student's.
            weight: (N, A) of ``valuable_region``.
        """
        total = weight.new_zeros(())
        parts = weight.split([level[0, 0].numel() for level in bbox_preds], dim=1)
        for student, teacher, part in zip(bbox_preds, self._logits, parts, strict=True):
            sides = [level.flatten(2).unflatten(1, (4, -1)).movedim(2, -1).flatten(0, 2) for level in (student, teacher)]  # (N 4 H W, K)
            divergence = softened_divergence(sides[0], sides[1], self.temperature)
            total = total + (divergence.view(len(part), 4, -1).mean(1) * part).sum()
        return {"loss_ld_vlr": VALUABLE_SHARE * self.weight * total}
