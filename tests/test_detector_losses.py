"""Losses against hand-worked numbers (detector facts, section 7) and mmdet's classes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab.detector import losses
from gfl_lab.detector import mmcv_ops as ops

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.models.losses import CIoULoss, DIoULoss, DistributionFocalLoss, FocalLoss, GIoULoss, IoULoss, QualityFocalLoss


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
    @settings(max_examples=50)
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
    @settings(max_examples=30)
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


class TestGeneralizedFocalLoss:
    """The general form has focal loss, QFL and DFL as special cases, in value and gradient."""

    @staticmethod
    def _binary(logit: torch.Tensor, target: torch.Tensor, beta: float) -> torch.Tensor:
        log_p = torch.stack([torch.nn.functional.logsigmoid(-logit), torch.nn.functional.logsigmoid(logit)], -1)
        return losses.generalized_focal_loss(log_p, target, torch.tensor([0.0, 1.0]), beta)

    def test_worked_number(self) -> None:
        assert self._binary(torch.zeros(1), torch.tensor([0.8]), 2.0).item() == pytest.approx(0.0623832, abs=1e-6)

    @given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 1)), min_size=1, max_size=8), st.sampled_from([0.0, 1.0, 2.0, 2.5, 4.0]))
    @settings(max_examples=80)
    def test_qfl(self, pairs: list[tuple[float, float]], beta: float) -> None:
        logits, target = torch.tensor(pairs, dtype=torch.float32).T
        ours, special = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        a, b = self._binary(ours, target, beta), losses.quality_focal_loss(special, target, beta)
        a.sum().backward(), b.sum().backward()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.grad, special.grad, rtol=1e-3, atol=1e-5)

    @given(st.lists(st.tuples(st.floats(-9, 9), st.sampled_from([0.0, 1.0])), min_size=1, max_size=8), st.sampled_from([1.0, 2.0, 3.0]))
    @settings(max_examples=60)
    def test_focal_loss(self, pairs: list[tuple[float, float]], gamma: float) -> None:
        logits, target = torch.tensor(pairs, dtype=torch.float32).T
        ours, special = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        a, b = self._binary(ours, target, gamma), 2 * losses.focal_loss(special, target, gamma, alpha=0.5)
        a.sum().backward(), b.sum().backward()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.grad, special.grad, rtol=1e-3, atol=1e-5)

    @given(st.lists(st.floats(0, 15.9), min_size=1, max_size=8), st.integers(0, 99))
    @settings(max_examples=60)
    def test_dfl(self, distances: list[float], seed: int) -> None:
        target = torch.tensor(distances, dtype=torch.float32)
        logits = torch.randn(len(target), 17, generator=torch.Generator().manual_seed(seed)) * 3
        ours, special = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        left = target.floor().long()
        log_p = ours.log_softmax(1).gather(1, torch.stack([left, left + 1], 1))
        a = losses.generalized_focal_loss(log_p, target, torch.stack([left, left + 1], 1), 0.0)
        b = losses.distribution_focal_loss(special, target)
        a.sum().backward(), b.sum().backward()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.grad, special.grad, rtol=1e-3, atol=1e-5)

    @given(st.floats(-3, 3), st.floats(0.2, 4), st.floats(0, 1), st.sampled_from([0.0, 1.0, 2.0]))
    @settings(max_examples=60)
    def test_least_where_the_expectation_is_the_target(self, low: float, width: float, part: float, beta: float) -> None:
        """p_l = (y_r - y) / (y_r - y_l), whatever the bounds."""
        bounds = torch.tensor([low, low + width])
        target = torch.tensor(low + part * width)
        grid = torch.linspace(0.001, 0.999, 999)
        values = losses.generalized_focal_loss(torch.stack([grid.log(), (1 - grid).log()], -1), target, bounds, beta)
        best = torch.tensor(min(max(1 - part, 1e-6), 1 - 1e-6))
        lowest = losses.generalized_focal_loss(torch.stack([best.log(), (1 - best).log()]), target, bounds, beta)
        assert lowest.item() <= values.min().item() + 1e-4


class TestProductQFL:
    @given(
        st.lists(st.tuples(st.floats(-6, 6), st.floats(-6, 6), st.floats(0, 1)), min_size=1, max_size=8), st.sampled_from([0.0, 2.0, 4.0])
    )
    @settings(max_examples=60)
    def test_is_mmdets_qfl_on_probabilities(self, triples: list[tuple[float, float, float]], beta: float) -> None:
        logits, quality, target = torch.tensor(triples, dtype=torch.float32).T
        joint = (logits.sigmoid() * quality.sigmoid())[:, None]
        loss = QualityFocalLoss(beta=beta, activated=True)
        expected = loss(joint, (torch.zeros(len(target), dtype=torch.long), target), reduction_override="none")
        torch.testing.assert_close(losses.quality_focal_loss_of_product(logits, quality, target, beta), expected, rtol=1e-4, atol=1e-6)

    def test_is_qfl_for_a_sure_quality(self) -> None:
        logits, target = torch.linspace(-5, 5, 11), torch.linspace(0, 1, 11)
        ours = losses.quality_focal_loss_of_product(logits, torch.tensor(40.0), target)
        torch.testing.assert_close(ours, losses.quality_focal_loss(logits, target), rtol=1e-4, atol=1e-6)

    def test_extreme_scores_have_finite_gradients(self) -> None:
        logits = torch.tensor([60.0, -60, 60, -60]).requires_grad_()
        quality = torch.tensor([60.0, -60, -60, 60]).requires_grad_()
        losses.quality_focal_loss_of_product(logits, quality, torch.tensor([0.0, 1.0, 0.5, 0.5])).sum().backward()
        assert torch.isfinite(logits.grad).all() and torch.isfinite(quality.grad).all()


def test_gaussian_nll() -> None:
    """At log variance 0 it is half the squared error; the best log variance is the log of the squared error."""
    mean, target = torch.tensor([0.0, 2, 5]), torch.tensor([1.0, 2, 2])
    assert losses.gaussian_nll(mean, torch.zeros(3), target).tolist() == [0.5, 0.0, 4.5]
    at_best = torch.tensor([9.0]).log().requires_grad_()
    loss = losses.gaussian_nll(torch.tensor([5.0]), at_best, torch.tensor([2.0]))
    loss.backward()
    assert loss.item() == pytest.approx(0.5 + 0.5 * math.log(9)) and at_best.grad.item() == pytest.approx(0, abs=1e-6)
    stock = torch.nn.GaussianNLLLoss(reduction="none")(mean, target, torch.tensor([2.0, 1, 0.5]))
    torch.testing.assert_close(losses.gaussian_nll(mean, torch.tensor([2.0, 1, 0.5]).log(), target), stock)


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

    @pytest.mark.parametrize(
        ("kind", "stock"), [("giou", GIoULoss), ("diou", DIoULoss), ("ciou", CIoULoss), ("iou", IoULoss)], ids=lambda v: str(v)
    )
    def test_every_box_loss_of_mmdet(self, kind: str, stock: type) -> None:
        torch.manual_seed(0)
        ours = torch.rand(200, 4) * 20
        ours[:, 2:] += ours[:, :2] + 0.5
        target = ours + torch.randn(200, 4) * 2  # most overlap, some only just
        target[:, 2:] = torch.max(target[:, 2:], target[:, :2] + 0.5)
        ours.requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        iou, loss = losses.iou_and_box_loss(ours, target, kind)
        expected = stock()(theirs, target, reduction_override="none")
        loss.sum().backward(), expected.sum().backward()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(iou, losses.iou_and_giou(ours, target)[0])

    def test_box_losses_by_hand(self) -> None:
        """A 10 x 10 box against its left half: IoU 1/2, hull the box itself, centres 2.5 apart, aspect 1 against 1/2."""
        box, half = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 5, 10]])
        found = {kind: losses.iou_and_box_loss(box, half, kind)[1].item() for kind in losses.BOX_LOSSES}
        assert found["giou"] == pytest.approx(0.5) and found["iou"] == pytest.approx(math.log(2))
        assert found["diou"] == pytest.approx(0.5 + 6.25 / 200)
        assert found["ciou"] == pytest.approx(found["diou"], abs=1e-5)  # the aspect term begins above IoU 1/2
        wider = torch.tensor([[0.0, 0, 8, 10]])
        aspect = 4 / math.pi**2 * (math.atan(1) - math.atan(0.8)) ** 2
        share = aspect / (1 - 0.8 + aspect)
        assert losses.iou_and_box_loss(box, wider, "ciou")[1].item() == pytest.approx(0.2 + 1 / 200 + share * aspect, abs=1e-6)

    def test_centerness_outside_of_the_box_is_0(self) -> None:
        assert losses.centerness_target(torch.tensor([[-1.0, 5], [0, 5]]), torch.tensor([[0.0, 0, 10, 10]] * 2)).tolist() == [0, 0]

    def test_centerness(self) -> None:
        centers = torch.tensor([[5.0, 5.0], [2.0, 5.0], [1.0, 9.0]])
        boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
        assert losses.centerness_target(centers, boxes).tolist() == pytest.approx([1.0, 0.5, 1 / 9], abs=1e-6)

    def test_nothing(self) -> None:
        none = torch.zeros(0, 4, requires_grad=True)
        iou, giou = losses.iou_and_giou(none, torch.zeros(0, 4))
        (iou.sum() + giou.sum() + losses.centerness_target(torch.zeros(0, 2), none).sum()).backward()
        assert none.grad.shape == (0, 4)
