"""Curves, boxes, epoch trends, bimodal sides and speed: everything that is drawn, on hand-made numbers and on full, empty and half-finished experiments."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_lab.report import bimodal, boxes, curves, epoch_trend, speed
from gfl_lab.results.rows import Logged
from gfl_lab.results.store import open_store
from tests.support.fake_runs import write_fake_tree


def logged(values: dict[tuple[str, int], list[float]], first: int = 1) -> list[Logged]:
    """Values by variant and seed, from step (and epoch) ``first`` on."""
    found = []
    for (variant, seed), line in values.items():
        step = np.arange(first, first + len(line))
        found.append(Logged(variant, seed, f"{variant}{seed}", step, step, np.array(line, float)))
    return found


def test_curve_mean_and_range_by_hand():
    a, b = curves.curves(logged({("a", 0): [4.0, 2.0, 1.0], ("a", 1): [2.0, 6.0], ("b", 0): [1.0]}), "train")
    assert a.x.tolist() == [1, 2] and a.mean.tolist() == [3.0, 4.0] and a.low.tolist() == [2.0, 2.0] and a.high.tolist() == [4.0, 6.0]
    assert [line.y.tolist() for line in a.lines] == [[4.0, 2.0, 1.0], [2.0, 6.0]]
    assert b.mean.tolist() == b.low.tolist() == b.high.tolist() == [1.0]


def test_the_mean_is_where_every_seed_has_a_value():
    (a,) = curves.curves([*logged({("a", 1): [1.0, 2.0, 3.0]}), *logged({("a", 0): [5.0, 7.0]}, first=2)], "train")
    assert [line.seed for line in a.lines] == [0, 1] and a.x.tolist() == [2, 3] and a.mean.tolist() == [3.5, 5.0]


def test_the_last_epochs_alone():
    lines = logged({("a", 0): [4.0, 2.0, 1.0, 3.0], ("b", 0): [1.0, 2.0]})
    a, b = curves.curves(lines, "val", last_epochs=3)
    assert a.x.tolist() == [2, 3, 4] and a.mean.tolist() == [2.0, 1.0, 3.0] and b.x.tolist() == [2]
    assert [curve.variant for curve in curves.curves(lines, "train", last_epochs=2)] == ["a"], "b ended before"
    assert curves.curves(lines, "val", window=3, last_epochs=1)[0].mean.tolist() == [2.0], "smoothed over the values before, too"


def test_terms_that_differ_by_variant():
    logged_by = {"loss": ["a", "b"], "loss_cls": ["a", "b"], "loss_dfl": ["b", "b"], "lr": ["a", "b"]}
    assert curves.differing_terms(logged_by) == {"loss_dfl": ("b",)}
    assert curves.differing_terms({key: ["a", "b"] for key in logged_by}) == {}
    variants = [("a", {"quality": "none"}), ("b", {"quality": "joint"}), ("c", {"quality": "none", "dfl_weight": 1})]
    assert curves.term_groups("loss_cls", variants) == [("a", "c"), ("b",)]
    assert curves.term_groups("lr", variants) == [("a", "b", "c")] and curves.term_groups("loss_cls", []) == []


def test_curve_order_is_the_order_given():
    assert [c.variant for c in curves.curves(logged({("b", 0): [2.0], ("a", 0): [1.0], ("b", 1): [2.0]}), "train")] == ["b", "a"]
    assert curves.curves([], "val") == ()


def test_smoothing_is_a_centred_mean_and_keeps_gaps():
    (curve,) = curves.curves(logged({("a", 0): [1.0, 2.0, 6.0, math.nan, math.inf, 5.0]}), "train", window=3)
    assert curve.mean[:3].tolist() == [1.5, 3.0, 4.0] and np.isnan(curve.mean[3:5]).all() and curve.mean[5] == 5.0


@given(st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), max_size=60), st.sampled_from([1, 3, 5, 51]))
def test_smoothing_is_what_pandas_says(values, window):
    line = pd.Series(values, dtype=float)
    expected = line.rolling(window, center=True, min_periods=1).mean().mask(line.isna()) if window > 1 else line
    np.testing.assert_allclose(curves.smoothed(line.to_numpy(), window), expected, rtol=1e-9, atol=1e-9)


def test_thinning_keeps_the_ends():
    (curve,) = curves.curves(logged({("a", 0): list(map(float, range(10_000)))}), "train", max_points=100)
    assert len(curve.x) == 100 and curve.x[0] == 1 and curve.x[-1] == 10_000 and np.array_equal(curve.mean, curve.x - 1)


def test_a_step_logged_twice_counts_once():
    step = np.array([1, 2, 1])
    (curve,) = curves.curves([Logged("a", 0, "a0", step, step, np.array([1.0, 2.0, 3.0]))], "train")
    assert curve.mean.tolist() == [3.0, 2.0]


@pytest.mark.parametrize("states", ["planned", "failed", "running", {0: "done", 1: "failed", 2: "running", 3: "planned"}])
def test_partial_experiments(tmp_path, states):
    store = open_store(write_fake_tree(tmp_path, states=states, epochs=3, seeds=(0, 1)).root)
    (experiment,) = store.experiments()
    logged = store.logged(experiment)
    keys = curves.curve_keys(key for kind, key in logged if kind == "train")
    assert keys[:2] == ("loss", "loss_cls") if states != "planned" else keys == ()
    for key in keys:
        for curve in curves.curves(logged["train", key], "train"):
            assert len(curve.lines) == 2 and (curve.low <= curve.mean).all() and (curve.mean <= curve.high).all()
    assert len(speed.speed_accuracy(experiment)) == sum(bool(v.done) for v in experiment.variants)


# --- boxes ---


def row(**changes):
    """A box whose left side has two equal modes at bins 2 and 6 of stride 8 on an image scaled by 0.5."""
    p = np.zeros((4, 9))
    p[0, [2, 6]] = 0.5
    p[[1, 2, 3], [3, 4, 5]] = 1.0
    found = {
        "image_id": 7,
        "file_name": "a.png",
        "annotation_id": 3,
        "category": "<b>",
        "gt_x1": 68.0,
        "gt_y1": 52.0,
        "gt_x2": 164.0,
        "gt_y2": 180.0,
        "level": 0,
        "stride": 8,
        "cell_x": 100.0,
        "cell_y": 100.0,
        "scale_x": 0.5,
        "scale_y": 0.5,
        "score": 0.9,
        "cell_x1": 36.0,
        "cell_y1": 52.0,
        "cell_x2": 164.0,
        "cell_y2": 180.0,
        "cell_iou": 0.75,
        "det_score": math.nan,
        "det_iou": math.nan,
        "det_x1": math.nan,
        "det_y1": math.nan,
        "det_x2": math.nan,
        "det_y2": math.nan,
        "bins": 9,
        "bin_width": 1.0,
        "probs": p.reshape(-1).astype(np.float32),
        "expectation": np.array([4, 3, 4, 5], np.float32),
        "target": np.array([2, 3, 4, 5], np.float32),
        "ambiguous_side": 0,
        "ambiguity": "blurred",
        "edge_a": 2.0,
        "edge_b": 6.0,
        "prob_a": 0.35,
        "scored": True,
    }
    return found | changes


def test_box_view_by_hand():
    view = boxes.box_view(row())
    left, top, right, bottom = view.sides
    # a bin is 8 px of the network's input, 16 px of the image; left and top count towards smaller coordinates
    assert left.px_per_bin == 16 and left.pixel(left.target) == 68.0 and left.pixel(left.expectation) == 36.0
    assert top.pixel(top.target) == 52.0 and right.pixel(right.target) == 164.0 and bottom.pixel(bottom.target) == 180.0
    assert left.edges == (2.0, 6.0) and left.edge_probs == (0.35, 0.65) and left.ideal[[2, 6]] == pytest.approx([0.35, 0.65])
    assert left.bimodality == pytest.approx(1.0) and left.mode_places == pytest.approx((2.0, 6.0))
    assert top.edges is None and top.bimodality == 0 and left.horizontal and not top.horizontal
    assert view.detection is None and view.prediction == view.location_box == (36.0, 52.0, 164.0, 180.0)
    assert view.detection_score is None and view.location_iou == 0.75


def test_box_view_of_a_dirac_box_a_false_positive_and_a_box_without_cell():
    dirac = boxes.box_view(row(bins=0, probs=np.array([], np.float32)))
    assert all(side.probability is None and side.ideal is None for side in dirac.sides) and dirac.sides[0].edges == (2.0, 6.0)
    nan = math.nan
    false = boxes.box_view(
        row(annotation_id=-1, gt_x1=nan, gt_y1=nan, gt_x2=nan, gt_y2=nan, target=np.full(4, nan), ambiguous_side=-1, edge_a=nan)
    )
    assert false.gt is None and false.sides[0].target is None and false.sides[0].edges is None
    lost = boxes.box_view(row(level=-1, cell_x=nan, cell_y=nan, probs=np.array([]), expectation=np.full(4, nan)))
    assert lost.sides == () and lost.location is None and lost.gt is not None


def test_box_view_refuses_probabilities_of_another_shape():
    with pytest.raises(ValueError, match="not 4 x 9"):
        boxes.box_view(row(probs=np.ones(7)))


def test_most_bimodal_by_hand():
    clear = np.zeros((4, 9), np.float32)
    clear[:, 3] = 1
    uneven = clear.copy()
    uneven[2] = 0
    uneven[2, [1, 7]] = [0.8, 0.2]
    frame = pd.DataFrame(
        [
            row(annotation_id=1, probs=clear.reshape(-1), ambiguous_side=-1),
            row(annotation_id=2, probs=uneven.reshape(-1), scale_x=1.0, ambiguous_side=-1),
            row(annotation_id=3),
            row(annotation_id=-1),
        ]
    )
    found = bimodal.most_bimodal(frame)
    assert tuple(found.columns) == bimodal.RANKING_COLUMNS
    assert found["annotation_id"].tolist() == [3, 2] and found["side"].tolist() == ["left", "right"]
    assert found["bimodality"].tolist() == pytest.approx([1.0, 0.4], abs=1e-6)
    assert found["gap_px"].tolist() == pytest.approx([64.0, 48.0], abs=1e-4)
    assert found["true_gap_px"][0] == 64.0 and np.isnan(found["true_gap_px"][1]) and found["ambiguity"].tolist() == ["blurred", ""]
    assert len(bimodal.most_bimodal(frame, limit=1)) == 1


def test_most_bimodal_says_which_sides_are_beside_another_box():
    """Of the box of 96 x 128 px the left side at x 68 is bimodal; the other box ends at 60 or at 70."""
    for edge, beside in ((50.0, False), (60.0, True)):
        other = row(annotation_id=4, probs=np.eye(9)[[1, 1, 1, 1]].ravel(), gt_x1=0.0, gt_x2=edge)
        found = bimodal.most_bimodal(pd.DataFrame([row(), other]))
        assert found[["annotation_id", "side", "neighbour"]].to_numpy().tolist() == [[3, "left", beside]]


def test_most_bimodal_of_nothing():
    for frame in (None, pd.DataFrame(), pd.DataFrame([row(bins=0, probs=np.array([]))]), pd.DataFrame([row(annotation_id=-1)])):
        found = bimodal.most_bimodal(frame)
        assert len(found) == 0 and tuple(found.columns) == bimodal.RANKING_COLUMNS


def test_most_bimodal_finds_the_true_ambiguities(tmp_path):
    store = open_store(write_fake_tree(tmp_path, val_images=20).root)
    trial = store.experiments()[0].variants[3].trials[0]
    found = bimodal.most_bimodal(store.distributions(trial.id, bimodal.RANKING_INPUT), 5)
    assert found["true_gap_px"].notna().all()
    assert np.abs(found["gap_px"] - found["true_gap_px"]).max() < 4


def test_speed_accuracy_means(tmp_path):
    store = open_store(write_fake_tree(tmp_path, seeds=(0, 1)).root)
    (experiment,) = store.experiments()
    point = speed.speed_accuracy(experiment)[0]
    trials = experiment.variants[0].trials
    assert point.ap == pytest.approx(sum(t.metrics["AP"] for t in trials) / 2) and [s[0] for s in point.seeds] == [0, 1]


def test_nothing_on_the_front_is_beaten_in_both() -> None:
    def point(fps: float, ap: float) -> speed.Point:
        return speed.Point(f"{fps}", fps, ap, ())

    points = [point(10, 40), point(20, 39), point(15, 38), point(20, 35), point(5, 40), point(30, 20)]
    assert [(p.fps, p.ap) for p in speed.pareto(points)] == [(10, 40), (20, 39), (30, 20)]
    assert speed.pareto([]) == () and len(speed.pareto([point(1, 1), point(1, 1)])) == 1


def test_published_speeds_are_those_of_the_references(tmp_path) -> None:
    experiment = open_store(write_fake_tree(tmp_path, val_images=2).root).experiment("table3_qfl_dfl", "desk")
    assert [(p.variant, p.fps, p.ap) for p in speed.published_speed(experiment)][0] == ("qfl=off dfl=off", 19.4, 39.2)
    assert len(speed.published_speed(experiment)) == 4


def test_an_epoch_trend_puts_every_epochs_bins_where_they_lie_on_the_image() -> None:
    """A left side 2 bins of 8 px from a cell at x = 40, then 1 bin from a cell at 32: the same 24 px, one bin (8 px) wide."""
    nan = float("nan")

    def row(epoch: int, cell: float, bin_: int) -> dict:
        p = np.zeros((4, 4))
        p[0, bin_] = p[1, 0] = p[2, 0] = p[3, 0] = 1
        return {
            "epoch": epoch, "bins": 4, "probs": p.ravel(), "expectation": p @ np.arange(4.0), "target": [bin_, 0, 0, 0], "cell_x": cell,
            "cell_y": 40.0, "scale_x": 1.0, "scale_y": 1.0, "stride": 8, "bin_width": 1.0, "ambiguous_side": 0, "ambiguity": "blurred",
            "edge_a": float(bin_), "edge_b": bin_ + 1.0, "prob_a": 0.5, "category": "a", "det_score": nan, "det_iou": nan, "cell_iou": nan,
            "score": 0.5, **{f"{box}_{part}": nan for box in ("gt", "det", "cell") for part in ("x1", "y1", "x2", "y2")},
        }  # fmt: skip

    left, top, _, _ = epoch_trend.epoch_trends(pd.DataFrame([row(1, 40.0, 2), row(2, 32.0, 1)]))
    assert left.side == "left" and left.epochs.tolist() == [1, 2] and left.expectation.tolist() == [24, 24]
    inside = (left.places > 20) & (left.places < 28)
    for epoch in left.probability:
        assert epoch[inside] == pytest.approx(1 / 8) and epoch.sum() == pytest.approx(1)
    assert left.target == 24 and left.edges == (24, 16) and top.edges is None
    assert epoch_trend.epoch_trends(pd.DataFrame([row(1, 40.0, 2) | {"probs": [], "bins": 0}])) == ()
    broken = row(3, 40.0, 2) | {"probs": np.full(16, nan)}
    left, *_ = epoch_trend.epoch_trends(pd.DataFrame([row(1, 40.0, 2), broken]))
    assert left.epochs.tolist() == [1] and epoch_trend.epoch_trends(pd.DataFrame([broken])) == (), "a loss that diverged"
