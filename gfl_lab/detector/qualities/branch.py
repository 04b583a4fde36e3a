"""A branch beside the box branch that learns a quality, as in FCOS and ATSS; the score at test is class * branch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from gfl_lab.detector.box_forms import BoxForm
from gfl_lab.detector.qualities.base import QualityTargets
from gfl_lab.detector.qualities.none import NoQuality


@dataclass(frozen=True)
class Branch(NoQuality):
    """A branch of one channel, by cross-entropy.

    Attributes:
        weight: of the branch's loss.
        target: the quality that it learns, an attribute of ``QualityTargets``.
    """

    weight: float = 1.0

    settings = {"quality_weight": "weight"}
    target: ClassVar[str]

    def layers(self, channels: int, form: BoxForm) -> dict[str, nn.Module]:
        """Return ``gfl_quality``, a 3x3 convolution to one channel."""
        return {"gfl_quality": nn.Conv2d(channels, 1, 3, padding=1)}

    def predict(self, layers: nn.Module, cls_feat: Tensor, reg_feat: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """Return class logits (N, C, H, W), the box predictions, and the branch's logits (N, 1, H, W)."""
        return layers.get_submodule("gfl_cls")(cls_feat), boxes, layers.get_submodule("gfl_quality")(reg_feat)

    def own_loss(self, logits: Callable[[], Tensor], targets: QualityTargets, real: Tensor | None) -> tuple[str, float, Tensor]:
        """Return the name, weight and summed cross-entropy of the branch."""
        weight = None if real is None else real.float()
        loss = F.binary_cross_entropy_with_logits(logits(), getattr(targets, self.target), weight=weight, reduction="sum")
        return f"loss_{self.target}", self.weight, loss


@dataclass(frozen=True)
class CenternessBranch(Branch):
    """Learns the centerness (arXiv 1904.01355, eq. 3)."""

    target = "centerness"


@dataclass(frozen=True)
class IouBranch(Branch):
    """Learns the IoU of the predicted box."""

    target = "iou"
