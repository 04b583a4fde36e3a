"""Scores against IoU, and the learned distributions in numbers: by hand, and on what has no numbers to give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gfl_lab.report.calibration import best_ious, correlations, reliability
from gfl_lab.report.sides import COLUMNS, INPUT, agreement, coincidence, grouped, sides
from gfl_lab.results.store import Store
from tests.support.fake_runs import write_fake_tree
from tests.test_error_types import BOX, records, scene


def test_the_nearest_box_of_the_own_class_counts() -> None:
    half = (0, 0, 100, 50)
    one = records(
        [(0, 0, 0.9, half), (0, 1, 0.8, BOX), (1, 0, 0.7, BOX), (0, 0, 0.6, (0, 0, 100, 100))],
        [(0, 0, BOX), (0, 0, (0, 0, 100, 60)), (0, 1, (500, 500, 600, 600))],
        images=2,
    )
    assert best_ious(one) == pytest.approx([50 / 60, 0, 0, 1])


def test_best_ious_are_those_of_each_pair() -> None:
    one = scene(0)
    found = best_ious(one)
    for i in range(0, len(found), 7):
        same = (one.gt_image == one.det_image[i]) & (one.gt_label == one.det_label[i])
        best = 0.0
        for box in one.gt_box[same]:
            low, high = np.maximum(box[:2], one.det_box[i, :2]), np.minimum(box[2:], one.det_box[i, 2:])
            inner = np.prod(np.maximum(high - low, 0))
            union = np.prod(box[2:] - box[:2]) + np.prod(one.det_box[i, 2:] - one.det_box[i, :2]) - inner
            best = max(best, inner / union)
        assert found[i] == pytest.approx(best)


def test_calibration_by_hand() -> None:
    # Two detections of score 0.95 with IoU 1 and 0.5, one of 0.15 that hits nothing: bins (0.9, 1] and (0.1, 0.2]
    one = records([(0, 0, 0.95, BOX), (0, 0, 0.95, (0, 0, 100, 50)), (0, 0, 0.15, (500, 500, 510, 510))], [(0, 0, BOX)])
    found = reliability(one)
    assert found.count[[1, 9]].tolist() == [1, 2] and found.count.sum() == 3
    assert found.iou[9] == pytest.approx(0.75) and found.score[9] == pytest.approx(0.95) and np.isnan(found.iou[0])
    assert found.error == pytest.approx((2 * 0.2 + 1 * 0.15) / 3)
    assert found.pearson is None, "only two detections have an IoU of 0.5 or more"
    more = [(0, 0, 0.9, BOX), (0, 0, 0.8, (0, 0, 100, 50)), (0, 0, 0.6, (0, 0, 100, 75)), *[(0, 0, 0.01, (500, 500, 510, 510))] * 9]
    found = reliability(records(more, [(0, 0, BOX)]))
    assert found.pearson == pytest.approx(np.corrcoef([0.9, 0.8, 0.6], [1, 0.5, 0.75])[0, 1])
    assert found.spearman == pytest.approx(0.5), "scores 0.9, 0.8, 0.6: IoU first, third, second"
    assert reliability(records([(0, 0, 1.0, BOX)], [(0, 0, BOX)])).count[9] == 1, "a score of 1 is in the last bin"


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_score_on_an_edge_belongs_to_the_bin_below_as_guo_et_al_have_it(kind: type) -> None:
    far = (500, 500, 510, 510)
    scores = np.array([0.0, *(np.arange(1, 11) / 10)], kind)
    found = reliability(records([(0, 0, float(score), far) for score in scores], [(0, 0, BOX)]))
    assert found.count.tolist() == [2] + [1] * 9, "(a, b], and 0 in the first"
    # Scores of 0.5 (IoU 1) and 0.6 (IoU 0): alone in their bins the error is (0.5 + 0.6) / 2, in [0.5, 0.6] together only 0.05.
    two = reliability(records([(0, 0, 0.5, BOX), (0, 0, 0.6, far)], [(0, 0, BOX)]))
    assert two.count[[4, 5]].tolist() == [1, 1] and two.error == pytest.approx(0.55)
    # 0.55 and 0.6 share the bin (0.5, 0.6], which [a, b) would part.
    two = reliability(records([(0, 0, 0.55, BOX), (0, 0, 0.6, far)], [(0, 0, BOX)]))
    assert two.count[5] == 2 and two.error == pytest.approx(0.575 - 0.5)


def test_nothing_to_give_is_none() -> None:
    found = reliability(records([], [(0, 0, BOX)]))
    assert found.error is found.pearson is found.spearman is None
    assert correlations(np.ones(5), np.arange(5.0)) == (None, None)
    assert correlations(np.array([1, 2, np.nan]), np.array([1, np.nan, 3])) == (None, None)
    assert correlations(np.arange(5.0), np.arange(5.0) ** 3)[1] == pytest.approx(1)


def frame(**changes: object) -> pd.DataFrame:
    """One box of 40 x 50 px at a cell of stride 8: left certain at 2 bins, top two places, right spread over two bins, bottom at the last bin."""
    p = np.zeros((4, 5), np.float32)
    p[0, 2] = 1
    p[1, [0, 4]] = 0.5
    p[2, [1, 2]] = 0.5
    p[3, 4] = 1
    row = {
        "image_id": 1, "annotation_id": 7, "category": "a", "stride": 8, "bin_width": 0.5, "scale_x": 2.0, "scale_y": 1.0, "bins": 5,
        "probs": p.ravel(), "bin_positions": np.array([], np.float32), "expectation": np.array([2, 2, 1.5, 4], np.float32), "target": np.array([1, 0, 1.5, 5], np.float32),
        "ambiguous_side": 1, "ambiguity": "blurred", "cell_iou": 0.8, "score": 0.6, "gt_x1": 0.0, "gt_y1": 0.0, "gt_x2": 40.0, "gt_y2": 50.0,
    }  # fmt: skip
    assert set(row) == set(INPUT)
    return pd.DataFrame([row | changes])


def test_a_box_by_hand() -> None:
    found = sides(frame())
    assert list(found.columns) == list(COLUMNS) and found["side"].tolist() == ["left", "top", "right", "bottom"]
    assert found["entropy"].to_numpy() == pytest.approx([0, np.log(2), np.log(2), 0], abs=1e-6)
    assert found["spread"].to_numpy() == pytest.approx([0, 2, 0.5, 0])
    assert found["modes"].tolist() == [1, 2, 1, 1] and found["bimodality"][1] == pytest.approx(1)
    assert found["tail"].to_numpy() == pytest.approx([0, 0.5, 0, 1])
    # A bin is 8 * 0.5 px of the network's input: 2 px of the image across, 4 px down.
    assert found["error"].to_numpy() == pytest.approx([2, 8, 0, -4])
    assert found["ambiguous"].tolist() == [False, True, False, False] and set(found["size"]) == {"medium"}


def test_groups_are_means() -> None:
    found = sides(pd.concat([frame(), frame(annotation_id=8, category="b", ambiguous_side=-1, gt_x2=10.0)], ignore_index=True))
    by_side = grouped(found, ["side"]).set_index("side")
    assert by_side["sides"].tolist() == [2] * 4 and by_side.loc["top", "bimodal"] == 1 and by_side.loc["bottom", "error"] == 4
    by_class = grouped(found, ["category", "size"])
    assert by_class[["category", "size", "sides"]].to_numpy().tolist() == [["a", "medium", 4], ["b", "small", 4]]
    assert grouped(found, []).loc[0, "sides"] == 8 and grouped(found, []).loc[0, "bimodal"] == 0.25
    assert grouped(found, ["ambiguous"]).set_index("ambiguous").loc[True, "spread"] == 2


def test_a_neighbour_is_a_box_that_reaches_into_the_band_along_a_side() -> None:
    """A box of 40 x 50 px: bands of 4 px to either hand at left and right, of 5 px at top and bottom."""
    beside = {"annotation_id": 8, "gt_x1": 43.0, "gt_y1": 10.0, "gt_x2": 60.0, "gt_y2": 20.0}
    cases = {"none": ({}, []), "right": (beside, ["right"]), "far": (beside | {"gt_x1": 45.0}, []), "other": (beside | {"image_id": 2}, [])}
    cases["corner"] = ({"annotation_id": 8, "gt_x1": 30.0, "gt_y1": 47.0, "gt_x2": 90.0, "gt_y2": 90.0}, ["right", "bottom"])
    for name, (other, expected) in cases.items():
        both = pd.concat([frame(), frame(**other)] if other else [frame()], ignore_index=True)
        found = sides(both)
        own = found[found["annotation_id"] == 7]
        assert own.loc[own["neighbour"], "side"].tolist() == expected, name


def rows_of(spread: list[float], neighbour: list[bool], image: list[int], bimodality: list[float] | None = None) -> pd.DataFrame:
    values = {"spread": spread, "neighbour": neighbour, "image_id": image, "bimodality": bimodality or [0.0] * len(spread)}
    return pd.DataFrame(values)


def test_coincidence_by_hand() -> None:
    # beside: 3 and 1; free: 2, 1, 0. 3 beats all three, 1 beats one and ties with one: (3 + 1.5) of 6 pairs.
    found = coincidence(rows_of([3, 1, 2, 1, 0], [True, True, False, False, False], [0] * 5, [0.0, 0.9, 0.2, 0.0, 0.0]))
    assert (found.sides, found.beside, found.top, found.top_beside) == (5, 0.4, 1, 1.0)
    assert found.auc == 0.75 and found.low is None and found.high is None


def test_nothing_coincides_where_there_is_nothing_to_compare() -> None:
    none = coincidence(sides(None))
    assert (none.sides, none.top_beside, none.auc) == (0, None, None)
    free = coincidence(rows_of([1.0, 2.0], [False, False], [0, 1]))
    assert (free.beside, free.top, free.top_beside, free.auc, free.low) == (0.0, 0, None, None, None)


@given(st.data())
def test_coincidence_is_mann_whitneys_share(data) -> None:
    size = data.draw(st.integers(2, 30))
    spread = data.draw(st.lists(st.integers(0, 6).map(float), min_size=size, max_size=size))
    near = data.draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda kinds: len(set(kinds)) == 2))
    found = coincidence(rows_of(spread, near, [0] * size))
    ours = [value for value, close in zip(spread, near, strict=True) if close]
    theirs = [value for value, close in zip(spread, near, strict=True) if not close]
    assert found.auc == pytest.approx(stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))


def test_the_interval_of_a_coincidence_is_over_images() -> None:
    """Two worlds with the same 400 sides: in one every image is like the others, in one an image decides for all its sides."""
    rng = np.random.default_rng(0)
    near = rng.random(400) < 0.5
    spread = rng.random(400) + 0.3 * near
    many = coincidence(rows_of(spread.tolist(), near.tolist(), list(range(400))))
    few = coincidence(rows_of(spread.tolist(), near.tolist(), sorted(i % 8 for i in range(400))))
    assert many.low < many.auc < many.high and many.low > 0.5 and many.auc == few.auc
    decided = np.repeat(rng.normal(0, 1, 8), 50) * np.where(near, 1, -1)
    clustered = coincidence(rows_of(decided.tolist(), near.tolist(), sorted(i % 8 for i in range(400))))
    assert clustered.high - clustered.low > 3 * (few.high - few.low)


def test_width_against_iou() -> None:
    wide = np.full(20, 0.2, np.float32)
    sharp = np.tile(np.eye(5, dtype=np.float32)[2], 4)
    boxes = [
        frame(annotation_id=1, probs=wide, cell_iou=0.2),
        frame(annotation_id=2, cell_iou=0.6),
        frame(annotation_id=3, probs=sharp, cell_iou=0.9),
    ]
    found = agreement(sides(pd.concat(boxes, ignore_index=True)))
    assert found.boxes == 3 and found.spearman == pytest.approx(-1) and found.pearson < -0.9
    assert agreement(sides(frame(bins=0, probs=np.zeros(0)))).boxes == 0


def test_dirac_boxes_damaged_rows_and_none_have_no_sides() -> None:
    for nothing in (
        None,
        frame(bins=0, probs=np.zeros(0)),
        frame(annotation_id=-1),
        frame(probs=np.full(20, np.nan)),
        frame(probs=np.zeros(3)),
    ):
        found = sides(nothing)
        assert len(found) == 0 and list(found.columns) == list(COLUMNS)
        assert len(grouped(found, ["side"])) == 0


def test_what_a_tree_holds(tmp_path) -> None:
    store = Store(write_fake_tree(tmp_path, val_images=4))
    variants = store.experiment("table3_qfl_dfl", "desk").variants
    general = sides(store.distributions(variants[3].trials[0].id, INPUT))
    assert len(general) % 4 == 0 and len(general) > 0 and general["entropy"].between(0, np.log(17)).all()
    assert not len(sides(store.distributions(variants[0].trials[0].id, INPUT)))
