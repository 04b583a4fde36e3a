"""The paper's implicit forms: focal loss whose positives are weighted by a measured quality (arXiv 2006.04388, Table 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gfl_lab.detector.class_loss import ClassLossSum
from gfl_lab.detector.qualities.base import ClassTerms, QualityTargets
from gfl_lab.detector.qualities.none import NoQuality


@dataclass(frozen=True)
class Guided(NoQuality):
    """Positives weighted by their quality.

    Attributes:
        eta: exponent of the quality.
        renormalise: keep the summed loss of the positives unchanged, over all processes.
        target: the quality that weighs, an attribute of ``QualityTargets``.
    """

    eta: float = 1.0
    renormalise: bool = False

    settings = {"guided_eta": "eta", "guided_renormalise": "renormalise"}
    takes_class_loss = False
    looks_at_positives = True
    target: ClassVar[str]

    def class_terms(self, loss: ClassLossSum, targets: QualityTargets) -> ClassTerms:
        """Return the loss of the background, and that of the positives weighted by their quality."""
        assert loss.of_positives is not None
        weighted = (loss.of_positives * getattr(targets, self.target) ** self.eta).sum()
        background = loss.total - loss.of_positives.sum()
        if not self.renormalise:
            return ClassTerms(background, weighted)
        return ClassTerms(background, weighted, loss.of_positives.detach().sum(), weighted.detach())


@dataclass(frozen=True)
class CenternessGuided(Guided):
    """Positives weighted by their centerness."""

    target = "centerness"


@dataclass(frozen=True)
class IouGuided(Guided):
    """Positives weighted by the IoU of their predicted box."""

    target = "iou"
