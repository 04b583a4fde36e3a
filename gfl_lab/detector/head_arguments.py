"""Arguments of the head that are groups of fields, and what is refused among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gfl_lab.detector.class_loss import CLASS_LOSSES
from gfl_lab.detector.parts import build_part
from gfl_lab.detector.varifocal import VarifocalLoss

WEIGHTINGS = ("score", "centerness", "iou", "uniform")

MOVED_ARGUMENTS = {
    **{name: f"tower.{new}" for name, new in (("stacked_convs", "convs"), ("tower_bias", "bias"), ("norm_cfg", "norm_cfg"))},
    **{name: f"box.{name}" for name in ("reg_max", "bin_width", "dfl_weight")},
    "dirac_coder": "box.type", "decode": "box.decoding", "gaussian_weight": "box.weight", "gaussian_box_loss": "box.box_loss",
    "box_weight": "box_loss.weight", "box_weighting": "box_loss.weighting",
    "qfl_beta": "quality.beta", "focal_gamma": "quality.gamma", "focal_alpha": "quality.alpha", "quality_weight": "quality.weight",
    "guided_eta": "quality.eta", "guided_renormalise": "quality.renormalise",
    **{f"dgqp_{name}": f"quality.{name}" for name in ("topk", "mean", "variance", "channels", "form", "detach")},
}  # fmt: skip
"""Arguments that heads took one by one in version 0.1: where they are now, for messages about heads of users."""


def group_norm(channels: int) -> dict[str, Any]:
    """Return the config of the towers' group norm: at most 32 groups of at least 8 channels, so 256 channels have 32.

    Channels must be a multiple of 8; 64 have 8 groups.
    """
    groups = max(g for g in range(1, 33) if channels % g == 0 and channels // g >= 8)
    return {"type": "GN", "num_groups": groups, "requires_grad": True}


@dataclass(frozen=True)
class Tower:
    """The two towers of a head.

    Attributes:
        convs: 3x3 convolutions of each.
        bias: biases in them.
        norm_cfg: config of their norm; None for ``group_norm``.
    """

    convs: int = 4
    bias: bool = False
    norm_cfg: dict[str, Any] | None = None


@dataclass(frozen=True)
class BoxLoss:
    """The loss of the whole box.

    Attributes:
        loss: one of ``losses.BOX_LOSSES``, or the config of a registered loss called as mmdet's:
            ``(boxes (P, 4), targets (P, 4), weight=(P,), avg_factor=sum of weights)``.
        weight: of its term.
        weighting: what weighs the box losses of a positive, one of ``WEIGHTINGS``; None for the quality's default.
    """

    loss: str | dict[str, Any] = "giou"
    weight: float = 2.0
    weighting: str | None = None


def refuse_moved(arguments: Mapping[str, Any]) -> None:
    """Raise TypeError if an argument is now a field of a group; the message says of which."""
    if moved := sorted(arguments.keys() & MOVED_ARGUMENTS.keys()):
        raise TypeError("; ".join(f"{name} is given as {MOVED_ARGUMENTS[name]}" for name in moved))


def check_weighting(weighting: str) -> None:
    """Raise ValueError if a weighting of the box losses is unknown."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"box_weighting is '{weighting}': it must be one of {', '.join(WEIGHTINGS)}")


def named_class_loss(config: Mapping[str, Any] | None, quality: str) -> VarifocalLoss | None:
    """Return the class loss of ``CLASS_LOSSES`` that a config names; None if it names none of them.

    Raises:
        ValueError: the loss does not go with the quality.
    """
    if not config or config["type"] not in CLASS_LOSSES:
        return None
    loss = build_part("cls_loss", CLASS_LOSSES, config)
    if quality != loss.quality:
        needs = f"it needs quality '{loss.quality}', whose target is the IoU"
        raise ValueError(f"cls_loss is '{config['type']}' and quality is '{quality}': {needs}")
    return loss
