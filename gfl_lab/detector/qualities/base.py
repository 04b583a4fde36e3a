"""The contract of a quality estimate: its layers, its part in the classification loss, its own loss, and the score at test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from gfl_lab.detector.box_forms import BoxForm
from gfl_lab.detector.class_loss import ClassLossSum, ElementLoss
from gfl_lab.detector.positives import Positives


class QualityTargets(NamedTuple):
    """Measured qualities of P positives: (P,) each, in [0, 1], detached.

    Attributes:
        iou: of the predicted and the true box.
        centerness: of the location in the true box.
    """

    iou: Tensor
    centerness: Tensor


class ClassTerms(NamedTuple):
    """The summed classification loss, in parts.

    Attributes:
        fixed: scalar, the part that stays as it is.
        scaled: scalar, the part that is multiplied by ``before / after``, both summed over all processes; None without one.
        before, after: detached scalars.
    """

    fixed: Tensor
    scaled: Tensor | None = None
    before: Tensor | None = None
    after: Tensor | None = None


@dataclass(frozen=True)
class Quality(ABC):
    """A quality estimate. Subclasses override what differs from a plain classification by focal loss.

    Attributes:
        settings: {setting of a trial: field} of the fields that settings decide.
        takes_class_loss: a registered classification loss can take the place of the estimate's own.
        is_class_score: the class score itself learns the IoU.
        multiplies_score: the predicted quality is part of the score already in training and before the score threshold.
        looks_at_positives: ``class_terms`` needs the loss of each positive.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    takes_class_loss: ClassVar[bool] = True
    is_class_score: ClassVar[bool] = False
    multiplies_score: ClassVar[bool] = False
    looks_at_positives: ClassVar[bool] = False

    @property
    @abstractmethod
    def element_loss(self) -> ElementLoss:
        """The classification loss of single logits."""

    def problem(self, form: BoxForm) -> str:
        """Return why the estimate cannot be made of predictions of this box form; "" if it can."""
        return ""

    @property
    def class_channels(self) -> int:
        """Channels that join the class tower's in front of ``gfl_cls``."""
        return 0

    def layers(self, channels: int, form: BoxForm) -> dict[str, nn.Module]:
        """Return modules that become the head's, by name.

        Args:
            channels: of the towers.
            form: of the box predictions.
        """
        return {}

    def predict(self, layers: nn.Module, cls_feat: Tensor, reg_feat: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """Return class logits (N, C, H, W), the box predictions, and the quality's logits (N, 1, H, W) where there are any.

        Args:
            layers: the head, with ``gfl_cls`` and the modules of ``layers``.
            cls_feat, reg_feat: (N, channels, H, W) of the towers.
            boxes: (N, channels of the box form, H, W) float32.
        """
        return layers.get_submodule("gfl_cls")(cls_feat), boxes

    def score_target(self, targets: QualityTargets) -> Tensor | None:
        """Return the (P,) target of each positive's class score; None for 1."""
        return None

    def class_terms(self, loss: ClassLossSum, targets: QualityTargets) -> ClassTerms:
        """Return the classification loss in parts; ``loss.of_positives`` is there if the estimate looks at positives."""
        return ClassTerms(loss.total)

    def own_loss(self, logits: Callable[[], Tensor], targets: QualityTargets, real: Tensor | None) -> tuple[str, float, Tensor] | None:
        """Return name, weight and sum of the loss of a branch; None without one.

        Args:
            logits: returns the branch's (P,) logits at the positives.
            real: (P,) bool, which are positives; None where all are.
        """
        return None

    def box_weight(self, at: Positives, logits: Sequence[Tensor], qualities: Sequence[Tensor] | None) -> Tensor:
        """Return the best score (P,) at each positive, detached: what weighs box losses by ``score``."""
        weight = at.gather([level.detach() for level in logits]).amax(1).sigmoid()
        if self.multiplies_score and qualities is not None:
            weight = weight * at.gather([level.detach() for level in qualities])[:, 0].sigmoid()
        return weight
