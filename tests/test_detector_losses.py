"""Losses against hand-worked numbers (detector facts, section 7) and mmdet's classes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab.detector import losses, ops

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.losses import DistributionFocalLoss, FocalLoss, GIoULoss, QualityFocalLoss


def _two_peaks() -> torch.Tensor:
    logits = torch.zeros(1, 17)
    logits[0, 3], logits[0, 4] = 5.0, 4.0
    return logits


class TestQualityFocalLoss:
    def test_worked_numbers(self) -> None:
        logits = torch.tensor([[0.0, -2.0]])
        assert losses.quality_focal_loss(logits, torch.tensor([[0.8, 0.0]])).sum().item() == pytest.approx(0.0641868, abs=1e-6)
        assert losses.quality_focal_loss(logits, torch.zeros(1, 2)).sum().item() == pytest.approx(0.1750903, abs=1e-6)
        # |0.8 - 0.5|^2 * ln 2
        assert losses.quality_focal_loss(torch.zeros(1), torch.tensor([0.8])).item() == pytest.approx(0.09 * math.log(2), abs=1e-7)

    @pytest.mark.parametrize("beta", [0.0, 1.0, 1.5, 2.0, 2.5, 4.0])
    def test_value_and_gradient_of_mmdet(self, beta: float) -> None:
        torch.manual_seed(0)
        ours, stock = (torch.randn(50, 5, dtype=torch.float32).requires_grad_() for _ in range(2))
        stock.data.copy_(ours.data)
        labels, quality = torch.randint(0, 6, (50,)), torch.rand(50)
        target = torch.zeros(50, 6).scatter_(1, labels[:, None], quality[:, None])[:, :5]
        a = losses.quality_focal_loss(ours, target, beta).sum() / 7
        b = QualityFocalLoss(beta=beta)(stock, (labels, quality), avg_factor=7)
        a.backward(), b.backward()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.grad, stock.grad, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 2.5])
    def test_gradient_is_finite_where_score_equals_quality(self, beta: float) -> None:
        logits = torch.zeros(3, requires_grad=True)
        losses.quality_focal_loss(logits, torch.full((3,), 0.5), beta).sum().backward()
        assert torch.isfinite(logits.grad).all()

    @given(st.floats(-12, 12), st.sampled_from([0.0, 1.0]))
    @settings(max_examples=50, deadline=None)
    def test_is_focal_loss_without_alpha_for_hard_labels(self, logit: float, y: float) -> None:
        logit, y = torch.tensor([logit]), torch.tensor([y])
        # alpha 0.5 scales both labels by a half
        torch.testing.assert_close(losses.quality_focal_loss(logit, y), 2 * losses.focal_loss(logit, y, alpha=0.5), rtol=1e-5, atol=1e-7)

    def test_float32_inside(self) -> None:
        assert losses.quality_focal_loss(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2)).dtype == torch.float32


class TestFocalLoss:
    @pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.75)])
    def test_value_and_gradient_of_mmdet(self, gamma: float, alpha: float) -> None:
        torch.manual_seed(1)
        ours = (torch.randn(40, 4) * 4).requires_grad_()
        stock = ours.detach().clone().requires_grad_()
        labels = torch.randint(0, 5, (40,))
        target = torch.nn.functional.one_hot(labels, 5)[:, :4]
        a = losses.focal_loss(ours, target, gamma, alpha).sum() / 3
        b = FocalLoss(gamma=gamma, alpha=alpha)(stock, labels, avg_factor=3)
        a.backward(), b.backward()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.grad, stock.grad, rtol=1e-5, atol=1e-6)

    def test_worked_number(self) -> None:
        # alpha 0.25, p_t = 0.5: 0.25 * 0.25 * ln 2; background 0.75 * 0.25 * ln 2
        out = losses.focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
        assert out.tolist() == pytest.approx([math.log(2) / 16, 3 * math.log(2) / 16], abs=1e-7)

    def test_large_logits_stay_finite(self) -> None:
        logits = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
        out = losses.focal_loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]))
        out.sum().backward()
        assert torch.isfinite(out).all() and torch.isfinite(logits.grad).all()
        assert out.tolist() == pytest.approx([0, 50, 150, 0], abs=1e-4)

    @pytest.mark.skipif(not ops.is_installed(), reason="a compiled mmcv is installed")
    def test_mmcv_operator(self) -> None:
        """mmdet's FocalLoss takes the operator on CUDA: its two halves must agree with our function."""
        from mmcv.ops import sigmoid_focal_loss

        torch.manual_seed(2)
        ours = (torch.randn(30, 3) * 3).requires_grad_()
        served = ours.detach().clone().requires_grad_()
        labels = torch.randint(0, 4, (30,))
        grad = torch.rand(30, 3)
        a = losses.focal_loss(ours, torch.nn.functional.one_hot(labels, 4)[:, :3])
        b = sigmoid_focal_loss(served, labels, 2.0, 0.25, None, "none")
        a.backward(grad), b.backward(grad)
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(ours.grad, served.grad)


class TestDistributionFocalLoss:
    def test_worked_numbers(self) -> None:
        assert losses.distribution_focal_loss(torch.zeros(4, 17), torch.tensor([0.0, 3.5, 9.99, 15.9])).tolist() == pytest.approx(
            [math.log(17)] * 4, abs=1e-6
        )
        assert losses.distribution_focal_loss(_two_peaks(), torch.tensor([3.25])).item() == pytest.approx(0.6345468, abs=1e-6)

    def test_target_on_the_last_bin_is_an_error(self) -> None:
        with pytest.raises((IndexError, RuntimeError)):
            losses.distribution_focal_loss(torch.zeros(1, 17), torch.tensor([16.0]))

    @pytest.mark.parametrize("n", [1, 4, 16])
    def test_value_and_gradient_of_mmdet(self, n: int) -> None:
        torch.manual_seed(n)
        ours = torch.randn(60, n + 1).requires_grad_()
        stock = ours.detach().clone().requires_grad_()
        target, weight = torch.rand(60) * (n - 0.1), torch.rand(60)
        a = 0.25 * (losses.distribution_focal_loss(ours, target) * weight).sum() / 4
        b = DistributionFocalLoss(loss_weight=0.25)(stock, target, weight=weight, avg_factor=4.0)
        a.backward(), b.backward()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.grad, stock.grad, rtol=1e-5, atol=1e-6)

    @given(st.floats(0, 15.9))
    @settings(max_examples=30, deadline=None)
    def test_smallest_where_the_neighbours_carry_the_fraction(self, y: float) -> None:
        """The minimum over distributions is the entropy of (1 - f, f), at P_i = i+1 - y, P_i+1 = y - i."""
        i = int(y)
        f = torch.tensor(y) - i
        best = torch.full((1, 17), -60.0)
        best[0, i], best[0, i + 1] = (1 - f).clamp(min=1e-9).log(), f.clamp(min=1e-9).log()
        target = torch.tensor([y])
        lowest = losses.distribution_focal_loss(best, target).item()
        shifted = best + torch.eye(17)[i] * 0.3
        assert losses.distribution_focal_loss(shifted, target).item() >= lowest - 1e-5


class TestBoxes:
    def test_worked_numbers(self) -> None:
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 4], [0, 0, 1, 1]])
        targets = torch.tensor([[0.0, 0, 10, 5], [2, 2, 6, 6], [0, 0, 1, 1]])
        iou, giou = losses.iou_and_giou(boxes, targets)
        assert iou.tolist() == pytest.approx([0.5, 4 / 28, 1.0], abs=1e-6)
        assert giou.tolist() == pytest.approx([0.5, 4 / 28 - 8 / 36, 1.0], abs=1e-6)
        weighted = 2 * ((1 - giou[:2]) * torch.tensor([0.5, 0.25])).sum()
        assert weighted.item() == pytest.approx(1.0397, abs=1e-4)

    def test_value_and_gradient_of_mmdet(self) -> None:
        torch.manual_seed(0)
        ours = torch.rand(80, 4) * 20
        ours[:60, 2:] += ours[:60, :2]  # the last 20 may be inside out, as a decoded box may
        ours.requires_grad_()
        stock = ours.detach().clone().requires_grad_()
        target = torch.rand(80, 4) * 20
        target[:, 2:] += target[:, :2] + 1
        a = (1 - losses.iou_and_giou(ours, target)[1]).sum()
        b = GIoULoss()(stock, target, avg_factor=1.0)
        a.backward(), b.backward()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.grad, stock.grad, rtol=1e-4, atol=1e-5)

    def test_centerness(self) -> None:
        centers = torch.tensor([[5.0, 5.0], [2.0, 5.0], [1.0, 9.0]])
        boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
        assert losses.centerness_target(centers, boxes).tolist() == pytest.approx([1.0, 0.5, 1 / 9], abs=1e-6)

    def test_nothing(self) -> None:
        none = torch.zeros(0, 4, requires_grad=True)
        iou, giou = losses.iou_and_giou(none, torch.zeros(0, 4))
        (iou.sum() + giou.sum() + losses.centerness_target(torch.zeros(0, 2), none).sum()).backward()
        assert none.grad.shape == (0, 4)
