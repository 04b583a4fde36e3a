"""The class loss without a tensor of targets, against the one with it: every variant, memory order, padding and precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gfl_lab.detector import dense, losses
from tests.support.heads import FIVE, THREE, batch, feats, make_head, metas
from tests.test_detector_head import _check_losses, _pair
from tests.test_detector_variants import IDS, VARIANTS

SIZE = (96, 128)
PADDED = [(96, 128), (64, 128), (96, 96)]


@pytest.fixture
def by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch goes the way of large ones, in blocks that end anywhere."""
    monkeypatch.setattr(dense, "WORTHWHILE", 0)
    monkeypatch.setattr(dense, "_BLOCK", 101)


@pytest.mark.parametrize("kind", ["none", "one", "crowded"])
@pytest.mark.parametrize("variant", ["gfl", "atss"])
@pytest.mark.usefixtures("by_blocks")
def test_losses_and_gradients_of_the_stock_head(variant: str, kind: str) -> None:
    _check_losses(*_pair(variant, FIVE), FIVE, kind, (128, 160))
    _check_losses(*_pair(variant, THREE), THREE, kind, (128, 160), padded=[(128, 160), (64, 160), (96, 128)], seed=4)


def _terms_and_gradients(
    head: Any, kind: str, padded: list[tuple[int, int]] | None, order: torch.memory_format
) -> tuple[dict[str, Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    maps, boxes = feats(THREE, SIZE, generator), batch(kind, SIZE, generator)
    outs = [[level.detach().contiguous(memory_format=order).requires_grad_() for level in levels] for levels in head(maps)]
    terms = head.loss_by_feat(*outs, batch_gt_instances=boxes, batch_img_metas=metas(3, SIZE, padded))
    sum(terms.values()).backward()
    return terms, [torch.zeros_like(level) if level.grad is None else level.grad for levels in outs for level in levels]


@pytest.mark.parametrize("padded", [None, PADDED], ids=["one shape", "padded"])
@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_equals_the_loss_with_targets(
    variant: dict[str, Any], padded: list[tuple[int, int]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(**variant)
    for kind in ("crowded", "none"):
        expected, gradients = _terms_and_gradients(head, kind, padded, torch.contiguous_format)
        with monkeypatch.context() as patch:
            patch.setattr(dense, "WORTHWHILE", 0)
            patch.setattr(dense, "_BLOCK", 97)
            for order in (torch.contiguous_format, torch.channels_last):
                terms, found = _terms_and_gradients(head, kind, padded, order)
                assert terms.keys() == expected.keys()
                for name, value in terms.items():
                    torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
                for one, other in zip(found, gradients, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("factored", [False, True])
def test_background_and_its_gradient_in_float64_terms(beta: float, factored: bool) -> None:
    """Sum and gradient against the plain formula differentiated in float64, up to logits of +-60, and over several blocks."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 7, 9, generator=generator) * 4
    logits.view(-1)[:4] = torch.tensor([60.0, -60.0, 20.0, 0.0])
    quality = torch.randn(2, 1, 7, 9, generator=generator)
    inputs = [logits, quality] if factored else [logits]
    exact = [part.double().requires_grad_() for part in inputs]
    score = exact[0].sigmoid() * (exact[1].sigmoid() if factored else 1)
    plain = score**beta * (-torch.log1p(-score) if factored else torch.nn.functional.softplus(exact[0]))
    plain.sum().backward()

    ours = [part.clone().requires_grad_() for part in inputs]
    nothing = torch.zeros(0, dtype=torch.long)
    at = dense.Positives.locate(nothing, nothing, [(7, 9)])
    total, classes, factors = dense.background_and_positives(ours[:1], ours[1:] or None, at, beta, None)
    total.backward()
    assert total.item() == pytest.approx(plain.sum().item(), rel=1e-5) and classes.shape == (0, 3)
    assert (factors is None) != factored
    for part, reference in zip(ours, exact, strict=True):
        assert part.grad is not None and reference.grad is not None
        torch.testing.assert_close(part.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_bfloat16_maps_keep_a_float32_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    level = (torch.randn(2, 4, 8, 8, generator=generator) - 2).bfloat16().requires_grad_()
    image, location = torch.tensor([0, 1]), torch.tensor([5, 63])
    total, own, _ = dense.background_and_positives([level], None, dense.Positives.locate(image, location, [(8, 8)]), 2.0, None)
    reference = losses.quality_focal_loss(level.detach(), torch.zeros_like(level))
    assert total.dtype == own.dtype == torch.float32 and total.item() == pytest.approx(reference.sum().item(), rel=1e-5)
    (total + own.sum()).backward()
    assert level.grad is not None and level.grad.dtype == torch.bfloat16
    assert level.grad[0, :, 0, 5].mean() > 0.9 > level.grad[0, :, 0, 6].mean()


def test_positives_come_back_in_their_order() -> None:
    sizes = [(4, 6), (2, 3), (1, 2)]
    maps = [torch.arange(2 * h * w, dtype=torch.float32).view(2, 1, h, w) + 1000 * level for level, (h, w) in enumerate(sizes)]
    image, location = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([31, 3, 30, 23, 24])
    at = dense.Positives.locate(image, location, sizes)
    assert at.gather(maps).flatten().tolist() == [2001, 3, 2002, 24 + 23, 1006]
    zeros = [torch.zeros_like(level) for level in maps]
    at.add(zeros, torch.tensor([[1.0], [2], [3], [4], [5]]))
    assert at.gather(zeros).flatten().tolist() == [1, 2, 3, 4, 5] and sum(level.sum() for level in zeros) == 15
