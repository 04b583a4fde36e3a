"""The varifocal loss against hand-worked numbers and mmdet's class; by itself, and as the class loss of a head."""

from __future__ import annotations

import math

import pytest
import torch

from gfl_lab.detector.varifocal import varifocal_loss
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import inactive
from tests.support.heads import CLASSES, THREE, batch, feats, make_head, metas

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.losses import VarifocalLoss


def test_worked_numbers() -> None:
    """At score 0.5 a positive of IoU 0.8 costs 0.8 ln 2, a background 0.75 * 0.25 ln 2; a positive of IoU 0 is background."""
    found = varifocal_loss(torch.zeros(3), torch.tensor([0.8, 0.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([0.8, 0.1875, 0.1875]) * math.log(2))
    # score 0.88079708, target 0.25: 0.25 * (softplus(2) - 0.25 * 2) = 0.25 * (2.1269280 - 0.5)
    assert varifocal_loss(torch.tensor([2.0]), torch.tensor([0.25])).item() == pytest.approx(0.4067320, abs=1e-6)
    assert varifocal_loss(torch.tensor([2.0]), torch.zeros(1), alpha=1.0, gamma=1.0).item() == pytest.approx(
        0.8807971 * 2.1269280, abs=1e-6
    )


@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.5, 1.0), (1.25, 2.5), (0.0, 0.0)])
def test_value_and_gradient_of_mmdet(alpha: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = (torch.randn(200, 5, generator=generator) * 4).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    target = torch.rand(200, 5, generator=generator) * (torch.rand(200, 5, generator=generator) < 0.3)
    stock = VarifocalLoss(alpha=alpha, gamma=gamma)(theirs, target, reduction_override="none")
    found = varifocal_loss(ours, target, alpha, gamma)
    torch.testing.assert_close(found, stock, rtol=1e-5, atol=1e-6)
    found.sum().backward(), stock.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_loss_of_a_head_is_mmdets() -> None:
    """The IoU that the head trains on is read off its QFL counterpart's targets, through a loss that records them."""
    head = make_head(cls_loss={"type": "varifocal", "alpha": 0.5, "gamma": 1.5})
    generator = torch.Generator().manual_seed(3)
    maps, instances, meta = feats(THREE, (96, 96), generator), batch("crowded", (96, 96), generator), metas(3, (96, 96))
    outs = head(maps)
    found = head.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)["loss_cls"]
    seen = {}

    def record(
        logits: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor], weight: torch.Tensor, avg_factor: torch.Tensor
    ) -> torch.Tensor:
        seen.update(logits=logits, labels=target[0], iou=target[1], positives=avg_factor)
        return logits.sum()

    other = make_head()
    other.cls_loss = record
    other.loss_by_feat(*outs, batch_gt_instances=instances, batch_img_metas=meta)
    target = torch.zeros(len(seen["labels"]), CLASSES + 1).scatter_(1, seen["labels"][:, None], seen["iou"][:, None])[:, :CLASSES]
    stock = VarifocalLoss(alpha=0.5, gamma=1.5)(seen["logits"], target, avg_factor=seen["positives"])
    assert (target > 0).sum() > 50
    torch.testing.assert_close(found, stock, rtol=1e-5, atol=1e-6)
    for a, b in zip(*(torch.autograd.grad(loss, list(outs[0]), retain_graph=True) for loss in (found, stock)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_settings() -> None:
    acting = resolve_settings({"cls_loss": "varifocal"})
    assert not {"varifocal_alpha", "varifocal_gamma"} & inactive(acting).keys() and "qfl_beta" in inactive(acting)
    assert {"varifocal_alpha", "varifocal_gamma"} <= inactive(resolve_settings({})).keys()
    for quality in ("centerness", "none"):
        with pytest.raises(ValueError, match=f"varifocal learns the IoU, and quality: {quality} has another target; give quality: joint"):
            resolve_settings({"cls_loss": "varifocal", "quality": quality})
        with pytest.raises(ValueError, match="it needs quality 'joint'"):
            make_head(cls_loss={"type": "varifocal"}, quality=quality)
    with pytest.raises(ValueError, match="would not see the quality"):
        resolve_settings({"cls_loss": "varifocal", "quality": "dgqp"})
    with pytest.raises(ValueError, match="0 or at least 1, because the gradient of p\\^gamma"):
        resolve_settings({"cls_loss": "varifocal", "varifocal_gamma": 0.5})
