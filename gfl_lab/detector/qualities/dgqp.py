"""GFLv2's distribution-guided quality predictor: localisation quality read off the shape of the box distribution.

Source: Generalized Focal Loss V2 (Li et al., arXiv 2011.12885), section 3; parameter names of the authors' repository.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gfl_lab.detector.box_forms import BoxForm, General
from gfl_lab.detector.box_forms.weighted import WeightedIntegral
from gfl_lab.detector.qualities.joint import Joint

FORMS = ("decomposed", "composed")


@dataclass(frozen=True)
class Dgqp(Joint):
    """Class score times a quality that a small network reads off each side's distribution; QFL on the product.

    Attributes:
        topk, mean, variance: what the network sees of each side (``distribution_statistics``).
        channels: its hidden width.
        form: "decomposed" (class * quality), or "composed" (its features join the class tower's).
        detach: stop its gradient at the distribution.
    """

    topk: int = 4
    mean: bool = True
    variance: bool = False
    channels: int = 64
    form: str = "decomposed"
    detach: bool = False

    settings = Joint.settings | {f"dgqp_{name}": name for name in ("topk", "mean", "variance", "channels", "form", "detach")}
    takes_class_loss = False
    multiplies_score = True

    def problem(self, form: BoxForm) -> str:
        """Return why the network cannot read this box form; "" if it can."""
        if not isinstance(form, General):
            return f"quality 'dgqp' reads the distribution of a general box, and box is '{type(form).__name__}'"
        return "" if self.form in FORMS else f"form of quality 'dgqp' is '{self.form}': it must be one of {', '.join(FORMS)}"

    @property
    def class_channels(self) -> int:
        """Channels that join the class tower's: the hidden width of the composed form."""
        return self.channels if self.form == "composed" else 0

    def layers(self, channels: int, form: BoxForm) -> dict[str, nn.Module]:
        """Return ``reg_conf``, the two small convolutions."""
        seen = self.topk + self.mean + self.variance
        return {"reg_conf": predictor(4 * seen, self.channels, composed=self.form == "composed")}

    def predict(self, layers: nn.Module, cls_feat: Tensor, reg_feat: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """Return class logits (N, C, H, W), the box predictions, and of the decomposed form the quality's logits (N, 1, H, W)."""
        logits = boxes.detach() if self.detach else boxes
        bins = layers.get_submodule("integral")
        positions = bins.relative() if isinstance(bins, WeightedIntegral) else None
        n = boxes.shape[1] // 4 - 1
        seen = distribution_statistics(logits, n, topk=self.topk, mean=self.mean, variance=self.variance, positions=positions)
        found = layers.get_submodule("reg_conf")(seen)
        classify = layers.get_submodule("gfl_cls")
        if self.form == "composed":
            return classify(torch.cat([cls_feat, found.to(cls_feat.dtype)], dim=1)), boxes
        return classify(cls_feat), boxes, found


def distribution_statistics(
    logits: Tensor, reg_max: int, *, topk: int, mean: bool, variance: bool, positions: Tensor | None = None
) -> Tensor:
    """Return what the predictor sees of each location: of each side the highest probabilities, their mean, the variance.

    The mean is that of the ``topk`` probabilities, as in the authors' code; with ``topk`` 0 it is that of all bins, which
    is always 1/(n+1). The variance is that of the distribution over the bins, in parts of their squared range, so in [0, 1/4].

    Args:
        logits: (N, 4(n+1), H, W), side-major.
        reg_max: n.
        topk: k, at most n+1.
        positions: (n+1,) of the bins, from 0 to 1; None where they are evenly spaced.

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
        even = torch.linspace(0, 1, reg_max + 1, device=probs.device, dtype=probs.dtype)
        position = (even if positions is None else positions).view(-1, 1, 1)
        first = (probs * position).sum(2, keepdim=True)
        parts.append((probs * (position - first).square()).sum(2, keepdim=True))
    return torch.cat(parts, dim=2).flatten(1, 2)


def predictor(inputs: int, channels: int, *, composed: bool) -> nn.Sequential:
    """Return the two small 1x1 convolutions; indexes 0 and 2 hold the parameters, as in the authors' ``reg_conf``.

    Args:
        inputs: 4 * width of ``distribution_statistics``.
        channels: hidden width p.
        composed: stop at the hidden features (N, p, H, W), which then join the class tower's, instead of going on to the
            quality logit (N, 1, H, W).
    """
    hidden = [nn.Conv2d(inputs, channels, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*hidden) if composed else nn.Sequential(*hidden, nn.Conv2d(channels, 1, 1))
