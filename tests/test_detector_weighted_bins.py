"""Bins by D-FINE's W(n): the function, the box form, and everything that reads its distributions, by hand-worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gfl_lab.checkpoints.visible_settings import detector_settings
from gfl_lab.detector import losses
from gfl_lab.detector.box_forms import WeightedGeneral, peak_mean
from gfl_lab.detector.box_forms.weighted import weighted_dfl
from gfl_lab.detector.build import build_detector
from gfl_lab.detector.qualities.dgqp import distribution_statistics
from gfl_lab.errors import InputError
from gfl_lab.inference.detections import detection_json
from gfl_lab.metrics import box_modes, boxdist
from gfl_lab.metrics.bins import places, stored_positions, weighted_positions, weighting_function
from gfl_lab.metrics.truth_scores import truth_scores
from gfl_lab.report.boxes import box_view
from gfl_lab.report.epoch_trend import epoch_trends
from gfl_lab.report.sides import INPUT, sides
from gfl_lab.spec.bins import bin_positions, reach, unit_in_strides
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import inactive
from tests.support.heads import THREE, feats, make_head, metas

AT = weighted_positions(4, 0.5, 0.25, 8.0)
"""-4, 0, 4, 8, 12: with four bins beside the middle one, W is -1, -1/2, 0, 1/2, 1 whatever c is."""


def test_the_function_by_hand() -> None:
    """a/c + 1 is 3: W(6) of n = 8 is -1/4 + 1/4 * 3^(4/6), W(5) is -1/4 + 1/4 * 3^(2/6)."""
    assert weighting_function(4, 0.5, 0.25) == (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert weighting_function(8, 0.5, 0.25)[4:] == pytest.approx((0, -0.25 + 0.25 * 3 ** (1 / 3), -0.25 + 0.25 * 3 ** (2 / 3), 0.5, 1.0))
    assert AT == (-4.0, 0.0, 4.0, 8.0, 12.0)
    for wrong in ((5, 0.5, 0.25), (2, 0.5, 0.25), (8, 0.0, 0.25), (8, 0.5, -1.0)):
        with pytest.raises(ValueError, match=r"n is|a is"):
            weighting_function(*wrong)


@given(half=st.integers(2, 64), a=st.floats(0.01, 16), c=st.floats(0.001, 1000))
def test_the_function_is_odd_and_grows_faster_outwards(half: int, a: float, c: float) -> None:
    found = np.array(weighting_function(2 * half, a, c))
    np.testing.assert_array_equal(found, -found[::-1])
    assert found[-1] == 2 * a and found[-2] == pytest.approx(a) and found[half] == 0
    gaps = np.diff(found[half:-1])
    assert (np.diff(gaps) >= -1e-9 * a).all() and (np.diff(found) > 0).all()


def test_a_large_c_spaces_the_inner_bins_evenly() -> None:
    assert weighting_function(8, 0.6, 1000.0)[1:-1] == pytest.approx([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6], abs=1e-3)


def _form() -> WeightedGeneral:
    return WeightedGeneral(reg_max=4, dfl_weight=1.0)


def test_box_and_loss_by_hand() -> None:
    """A location at (32, 32) of stride 8: distances of 4, 6 (half of 4 and of 8), 0 and 12 strides."""
    form, sure = _form(), 40.0
    logits = torch.zeros(4, 5)
    logits[0, 2] = logits[1, 2] = logits[1, 3] = logits[2, 1] = logits[3, 4] = sure
    prior, unit = torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([[8.0]])
    found = form.decode(logits.view(1, 20), prior, unit)
    torch.testing.assert_close(found.distances, torch.tensor([[4.0, 6, 0, 12]]))
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, -16, 32, 128]]))
    # targets 2, 10, 0 and 100 strides: w is 1/2 between bins 1 and 2, 1/2 between 3 and 4; 0 at bin 1; 12 - 0.1 * 4, w = 0.9
    target = torch.tensor([[16.0, -48, 32, 832]])
    fitted = form.fit(logits.view(1, 20) * 0, prior, unit, target)
    torch.testing.assert_close(fitted.boxes, torch.tensor([[0.0, 0, 8, 8]]))  # even probabilities: the anchor
    assert fitted.loss is not None and fitted.loss.item() == pytest.approx(math.log(5))
    fitted = form.fit(logits.view(1, 20), prior, unit, target)
    # -log p: 40 at bin 1 and 0 at bin 2; log 2 + 40 at bins 3 (0.69) and 4 (40.69); 0; 0.1 * 40
    expected = (0.5 * 40) + (0.5 * math.log(2) + 0.5 * (40 + math.log(2))) + 0.0 + 0.1 * 40
    assert fitted.loss is not None and fitted.loss.item() == pytest.approx(expected / 4, abs=1e-4)
    torch.testing.assert_close(fitted.targets, target / 8)


def test_dfl_on_even_positions_is_gfls() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 9, generator=generator).requires_grad_()
    target = torch.cat([torch.rand(192, generator=generator) * 7.9, torch.arange(8.0)])
    one, other = weighted_dfl(logits, target, torch.arange(9.0)), losses.distribution_focal_loss(logits, target)
    torch.testing.assert_close(one, other)
    (gradient,), (known,) = (torch.autograd.grad(loss.sum(), logits, retain_graph=True) for loss in (one, other))
    torch.testing.assert_close(gradient, known)


@given(y=st.floats(-4, 11.6))
def test_dfl_is_least_where_the_mean_is_the_target(y: float) -> None:
    ideal = boxdist.ideal_distribution([y], [1.0], 4, AT)
    assert float(boxdist.expectation(ideal, AT)) == pytest.approx(y)
    log_p = torch.tensor(ideal).clamp(min=1e-30).log().float()[None]
    here = weighted_dfl(log_p, torch.tensor([y]), torch.tensor(AT))
    for other in (y - 0.5, y + 0.5):
        if AT[0] <= other <= AT[-1] - 0.4:
            moved = torch.tensor(boxdist.ideal_distribution([other], [1.0], 4, AT)).clamp(min=1e-30).log().float()[None]
            assert here.item() < weighted_dfl(moved, torch.tensor([y]), torch.tensor(AT)).item() + 1e-6


def test_a_head_of_it() -> None:
    """Its bins are in its state under a name of their own; flat logits give the anchor; a second peak is left out at test."""
    head = make_head(box="weighted", quality="joint").eval()
    assert "integral.position" in head.state_dict() and "integral.project" not in head.state_dict()
    torch.testing.assert_close(head.integral.position, torch.tensor(weighted_positions(16, 0.5, 0.25, 8.0)))
    torch.nn.init.zeros_(head.gfl_reg.weight), torch.nn.init.zeros_(head.gfl_reg.bias)
    maps = feats(THREE, (96, 96), torch.Generator().manual_seed(0), images=1)
    distances = head.dense_outputs(head(maps), metas(1, (10**6, 10**6))).distances
    torch.testing.assert_close(distances, torch.full_like(distances, 4.0))
    probs = torch.tensor([0.1, 0.0, 0.2, 0.3, 0.4])
    assert peak_mean(probs, torch.tensor(AT)).item() == pytest.approx((0.2 * 4 + 0.3 * 8 + 0.4 * 12) / 0.9)


def test_variance_that_the_dgqp_sees() -> None:
    """Half at -4 and half at 12, the ends: a variance of 1/4 of the squared range; bins 1 and 3 at 1/4 and 3/4 of it: 1/16."""
    relative = WeightedGeneral(reg_max=4).integral.relative()
    logits = torch.full((4, 5), -60.0)
    logits[0, 0] = logits[0, 4] = logits[1, 1] = logits[1, 3] = logits[2, 2] = logits[3, 0] = 0.0
    found = distribution_statistics(logits.reshape(1, 20, 1, 1), 4, topk=0, mean=False, variance=True, positions=relative)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.25, 0.0625, 0.0, 0.0]))


def test_moments_distances_and_modes() -> None:
    p = np.array([0.0, 0.5, 0.0, 0.25, 0.25])
    assert boxdist.expectation(p, AT) == 5.0
    assert boxdist.spread(p, AT) == pytest.approx(math.sqrt(0.5 * 25 + 0.25 * 9 + 0.25 * 49))
    np.testing.assert_allclose(boxdist.ideal_distribution([2.0, 11.0, 50.0], [0.5, 0.25, 0.25], 4, AT), [0, 0.25, 0.25, 0.0875, 0.4125])
    assert boxdist.wasserstein1(p, [0, 0, 0.5, 0.25, 0.25], AT) == pytest.approx(2.0)
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    many, edges = rng.dirichlet(np.ones(5), 20), rng.uniform(-6, 14, (20, 2))
    theirs = [stats.wasserstein_distance(AT, e, row, [0.3, 0.7]) for row, e in zip(many, edges, strict=True)]
    np.testing.assert_allclose(boxdist.wasserstein1_points(many, edges, np.tile([0.3, 0.7], (20, 1)), AT), theirs, atol=1e-9)
    found = box_modes.modes(p, AT)
    assert found.count == 2 and found.place.tolist() == [0.0, 10.0]
    assert box_modes.shows_both_edges(p, 0.5, 9.5, AT) and not box_modes.shows_both_edges(p, 0.5, 8.5, AT)
    even = [0.0, 1.0, 2.0, 3.0, 4.0]
    for one, other in zip(vars(box_modes.modes(many)).values(), vars(box_modes.modes(many, even)).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def _row(**changes: object) -> dict[str, object]:
    p = np.tile([0.0, 0.5, 0.0, 0.25, 0.25], (4, 1)).astype(np.float32)
    return {
        "image_id": 1, "annotation_id": 7, "category": "a", "stride": 8, "bin_width": 1.0, "scale_x": 2.0, "scale_y": 1.0, "bins": 5,
        "probs": p.ravel(), "bin_positions": np.array(AT, np.float32), "expectation": [5.0] * 4, "target": [4.0] * 4, "cell_x": 100.0,
        "cell_y": 100.0, "ambiguous_side": 2, "ambiguity": "hidden", "edge_a": 0.0, "edge_b": 10.0, "prob_a": 0.5, "cell_iou": 0.9,
        "score": 0.9, "det_score": 0.9, "det_iou": 0.9, "gt_x1": 0.0, "gt_y1": 0.0, "gt_x2": 40.0, "gt_y2": 40.0, "det_x1": 0.0,
        "det_y1": 0.0, "det_x2": 40.0, "det_y2": 40.0, "epoch": 1,
    } | changes  # fmt: skip


def test_readers_of_the_file() -> None:
    row = _row()
    right = box_view(row).sides[2]
    assert right.positions.tolist() == list(AT) and right.px_per_bin == 4.0
    assert right.mode_places == (0.0, 10.0) and right.ideal is not None and right.ideal.tolist() == [0, 0.5, 0, 0.25, 0.25]
    assert right.pixel(right.positions).tolist() == [84, 100, 116, 132, 148]
    assert right.borders.tolist() == [-6, -2, 2, 6, 10, 14] and right.widths.tolist() == [4.0] * 5
    table = sides(pd.DataFrame([row])[list(INPUT)])
    assert table["spread"].tolist() == pytest.approx([math.sqrt(27)] * 4)
    trend = epoch_trends(pd.DataFrame([row]))[2]  # 16 px a bin: half of the mass from 92 to 108 px
    assert trend.probability[0, (trend.places > 92) & (trend.places < 108)].tolist() == [0.5 / 16] * 16
    assert trend.probability.sum() == pytest.approx(1.0)
    shown = detection_json(row | {"probs": list(row["probs"]), "bin_positions": list(AT)}, True)  # type: ignore[arg-type, call-overload]
    assert shown["bin_positions"] == list(AT)
    old = {key: value for key, value in row.items() if key != "bin_positions"}  # a file from before there was the column
    assert box_view(old).sides[2].positions.tolist() == [0, 1, 2, 3, 4] and sides(pd.DataFrame([old]))["spread"].iloc[0] != pytest.approx(5)
    assert stored_positions(None) is stored_positions([]) is None and places(3, None).tolist() == [0, 1, 2]


def test_truth_scores_use_the_positions_and_count_the_same_sides() -> None:
    probs = np.tile([0.0, 0.5, 0.0, 0.25, 0.25], (1, 4, 1))
    columns = {
        "probs": probs,
        "expectation": np.full((1, 4), 5.0),
        "ambiguous_side": [2],
        "edges": [[0.0, 4.0]],
        "prob_a": [0.5],
        "scored": [True],
    }
    found = truth_scores(**columns, reg_max=4, positions=AT)
    assert found.two_mode_recall == 0 and found.wasserstein == pytest.approx(0.25 * 4 + 0.25 * 8)
    assert found.counts() == truth_scores(**columns, reg_max=4).counts()
    assert truth_scores(**{**columns, "edges": [[0.0, 3.5]]}, reg_max=4).two_mode_recall == 1


def test_weights_of_it_are_not_imported() -> None:
    small = {"backbone": "r18", "base_channels": 4, "neck_channels": 8, "head_channels": 8, "head_convs": 1, "strides": [8, 16]}
    state = build_detector(resolve_settings(small, {"bins": "weighted"}), 2).state_dict()
    with pytest.raises(InputError, match="only uniform bins are imported"):
        detector_settings(state, [])


def test_settings() -> None:
    found = resolve_settings({"bins": "weighted", "reg_max": 4})
    assert bin_positions(found) == AT and unit_in_strides(found) == 1 and reach(found, 0.1) == pytest.approx(11.6)
    assert "bin_width" in inactive(found) and not {"bins", "bins_a", "bins_c", "reg_max"} & inactive(found).keys()
    plain = resolve_settings({"bin_width": 0.5})
    assert bin_positions(plain) is None and unit_in_strides(plain) == 0.5 and reach(plain, 0.1) == pytest.approx(7.95)
    assert {"bins_a", "bins_c"} <= inactive(plain).keys()
    dirac = resolve_settings({"bins": "weighted", "box": "dirac"})
    assert {"bins", "bins_a"} <= inactive(dirac).keys() and bin_positions(dirac) is None
    for n in (3, 2):
        with pytest.raises(ValueError, match=f"reg_max is {n}: with bins: weighted it must be even and at least 4"):
            resolve_settings({"bins": "weighted", "reg_max": n})
