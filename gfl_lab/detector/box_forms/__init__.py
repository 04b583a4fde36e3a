"""The forms of a box prediction (the paper's Table 2a), each a class in a file of its own, and their names in a head's config.

Source: arXiv 2006.04388, sections 3.2 and the appendix's table of distributions. All forms give the four distances from a
location to the sides (left, top, right, bottom) in bins of ``stride * bin_width`` px, so that they can be compared.

==============  ========  =====================================================  ==================================
type            channels  prediction                                             its own loss, per side
==============  ========  =====================================================  ==================================
dirac_delta     4         dx, dy, dw, dh of the anchor (ATSS)                    none (the loss of the whole box)
dirac_distance  4         log of the distances, in halves of the anchor (FCOS)   none
direct          4         the distances, beyond half an anchor                   none
gaussian        8         4 means, beyond half an anchor; then 4 log variances   negative log-likelihood
general         4(n+1)    logits over the bins 0..n of each side                 DFL
weighted        4(n+1)    the same, bins at half the anchor + W(n) anchors       DFL between neighbouring bins
==============  ========  =====================================================  ==================================
"""

from __future__ import annotations

from typing import Any

from gfl_lab.detector.box_forms.base import BoxForm, Decoded, Fitted
from gfl_lab.detector.box_forms.dirac import DiracDelta, DiracDistance
from gfl_lab.detector.box_forms.direct import Direct
from gfl_lab.detector.box_forms.gaussian import Gaussian, normal_bins
from gfl_lab.detector.box_forms.general import DISTANCE_MARGIN, General, peak_mean
from gfl_lab.detector.box_forms.weighted import WeightedGeneral
from gfl_lab.detector.parts import build_part

BOX_FORMS: dict[str, type[BoxForm]] = {
    "general": General,
    "weighted": WeightedGeneral,
    "gaussian": Gaussian,
    "dirac_delta": DiracDelta,
    "dirac_distance": DiracDistance,
    "direct": Direct,
}
"""The forms by the ``type`` of a head's ``box``."""


def build_box_form(config: str | dict[str, Any]) -> BoxForm:
    """Return the form of a ``type``, or of ``{"type": ..., field: value, ...}``. Raises ValueError, naming what is wrong."""
    return build_part("box", BOX_FORMS, config)


__all__ = [
    "BOX_FORMS",
    "DISTANCE_MARGIN",
    "BoxForm",
    "Decoded",
    "DiracDelta",
    "DiracDistance",
    "Direct",
    "Fitted",
    "Gaussian",
    "General",
    "WeightedGeneral",
    "build_box_form",
    "normal_bins",
    "peak_mean",
]
