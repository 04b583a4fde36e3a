"""Box forms by hand-worked numbers and properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab.detector.box_forms import DiracDistance, Gaussian, General, normal_bins, peak_mean
from gfl_lab.detector.box_forms.gaussian import LOG_VARIANCE_BOUND

PRIORS = torch.tensor([[0.0, 0, 64, 64], [-32, 16, 96, 144]])  # anchors of strides 8 and 16
UNIT = torch.tensor([[8.0], [16.0]])


def _distribution(*mass: float) -> torch.Tensor:
    return torch.tensor(mass) / sum(mass)


class TestPeakMean:
    @pytest.mark.parametrize(
        ("mass", "mean"),
        [
            ((0, 1, 2, 1, 0), 2.0),  # one peak: the mean
            ((4, 0, 0, 5, 0), 3.0),
            ((4, 2, 1, 3, 1), (0 * 4 + 1 * 2 + 2 * 1) / 7),  # the valley belongs to the peak above it
            ((1, 3, 1, 2, 4), (2 * 1 + 3 * 2 + 4 * 4) / 7),
            ((5, 0, 5), 0.0),  # equal tops: the first
            ((1, 1, 1, 1), 1.5),  # flat: one peak
            ((0, 0, 1), 2.0),
        ],
    )
    def test_by_hand(self, mass: tuple[float, ...], mean: float) -> None:
        assert peak_mean(_distribution(*mass)).item() == pytest.approx(mean, abs=1e-6)

    @given(st.lists(st.floats(0.01, 1), min_size=2, max_size=17))
    @settings(max_examples=100)
    def test_mirrored(self, mass: list[float]) -> None:
        probs = _distribution(*mass)
        if (probs == probs.max()).sum() == 1:
            assert peak_mean(probs.flip(0)).item() == pytest.approx(len(mass) - 1 - peak_mean(probs).item(), abs=1e-4)
        assert 0 <= peak_mean(probs).item() <= len(mass) - 1

    @given(st.integers(0, 16), st.floats(0.2, 5))
    @settings(max_examples=50)
    def test_one_peak_is_the_mean_of_the_whole(self, top: int, width: float) -> None:
        probs = torch.softmax(-((torch.arange(17.0) - top) ** 2) / width, 0)
        assert peak_mean(probs).item() == pytest.approx((probs * torch.arange(17.0)).sum().item(), abs=1e-4)

    def test_shapes(self) -> None:
        assert peak_mean(torch.rand(3, 4, 17).softmax(-1)).shape == (3, 4)
        assert peak_mean(torch.zeros(0, 4, 17)).shape == (0, 4)


class TestNormalBins:
    @given(st.floats(-5, 25), st.floats(-7, 7))
    @settings(max_examples=60)
    def test_sums_to_1(self, mean: float, log_variance: float) -> None:
        probs = normal_bins(torch.tensor(mean), torch.tensor(log_variance), 16)
        assert probs.shape == (17,) and (probs >= -1e-6).all() and probs.sum().item() == pytest.approx(1, abs=1e-5)

    def test_by_hand(self) -> None:
        probs = normal_bins(torch.tensor([4.0, -9.0, 40.0]), torch.zeros(3), 16)
        assert probs[0, 4].item() == pytest.approx(math.erf(0.5 / math.sqrt(2)), abs=1e-6)  # within half a bin of the mean
        assert probs[1, 0].item() == pytest.approx(1) and probs[2, 16].item() == pytest.approx(1)  # tails go to the ends
        torch.testing.assert_close(probs[0, 3], probs[0, 5])


class TestForms:
    def test_distances_of_the_fcos_form(self) -> None:
        form = DiracDistance()
        predictions = torch.tensor([[0.0, math.log(2), 0, 0], [0, 0, 0, math.log(0.5)]])
        found = form.decode(predictions, PRIORS, UNIT)
        assert found.distances.tolist() == [pytest.approx([4, 8, 4, 4]), pytest.approx([4, 4, 4, 2])]
        assert found.boxes.tolist() == [pytest.approx([0, -32, 64, 64]), pytest.approx([-32, 16, 96, 112])]
        assert found.probs is None and torch.isfinite(form.decode(torch.full((2, 4), 1e4), PRIORS, UNIT).boxes).all()

    @pytest.mark.parametrize("form", [DiracDistance(), Gaussian(reg_max=16), General(reg_max=16)])
    def test_fit_and_decode_agree(self, form: DiracDistance | Gaussian | General) -> None:
        """The box that training sees is the box at test, in bins instead of px."""
        torch.manual_seed(0)
        predictions = torch.randn(2, form.channels) * 0.3
        fitted, decoded = form.fit(predictions, PRIORS, UNIT, PRIORS + 3.0), form.decode(predictions, PRIORS, UNIT)
        torch.testing.assert_close(fitted.boxes * UNIT, decoded.boxes)
        torch.testing.assert_close(fitted.targets * UNIT, PRIORS + 3.0)

    def test_variance_is_bounded_and_a_gradient_leads_back(self) -> None:
        predictions = torch.zeros(1, 8)
        predictions[:, 4:] = torch.tensor([100.0, -100, -8, 0])
        loss = Gaussian(reg_max=16).fit(predictions.requires_grad_(), PRIORS[:1], UNIT[:1], PRIORS[:1] + 40.0).loss
        assert torch.isfinite(loss) and loss.item() < 25 / 4 * math.exp(LOG_VARIANCE_BOUND)
        loss.backward()
        assert predictions.grad[0, 6] < 0  # far off and too sure: the variance widens

    def test_a_target_beyond_the_last_bin_is_clamped(self) -> None:
        form = General(reg_max=4)
        fitted = form.fit(torch.zeros(1, 20), PRIORS[:1], UNIT[:1], torch.tensor([[-400.0, -400, 400, 400]]))
        assert fitted.loss.item() == pytest.approx(math.log(5), abs=1e-5)
