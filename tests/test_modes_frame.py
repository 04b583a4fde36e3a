"""The table of modes: by hand, and the same places as the dashboard shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab.errors import InputError
from gfl_lab.metrics.bins import weighted_positions
from gfl_lab.report.boxes import box_view
from gfl_lab.report.modes import COLUMNS, INPUT, modes_frame
from gfl_lab.report.sides import sides
from gfl_lab.results.store import Store
from tests.support.fake_runs import write_fake_tree

WEIGHTED = np.array([-4, 0, 4, 8, 12], np.float32)


def frame(**changes: object) -> pd.DataFrame:
    """One box at a location of stride 8: left certain at bin 2, top at two places, right between bins 1 and 2, bottom at the last bin."""
    p = np.zeros((4, 5), np.float32)
    p[0, 2] = p[3, 4] = 1
    p[1, [0, 4]] = 0.75, 0.25
    p[2, [1, 2]] = 0.5
    row = {
        "image_id": 1, "annotation_id": 7, "category": "a", "cell_x": 20.0, "cell_y": 30.0, "stride": 8, "bin_width": 0.5, "scale_x": 2.0,
        "scale_y": 1.0, "bins": 5, "probs": p.ravel(), "bin_positions": np.array([], np.float32),
    }  # fmt: skip
    assert set(row) == set(INPUT)
    return pd.DataFrame([row | changes])


def test_a_box_by_hand() -> None:
    found = modes_frame(frame())
    assert list(found.columns) == list(COLUMNS)
    assert set(found["image_id"]) == {1} and set(found["annotation_id"]) == {7} and set(found["category"]) == {"a"}
    assert found["side"].tolist() == ["left", "top", "top", "right", "bottom"] and found["mode"].tolist() == [1, 1, 2, 1, 1]
    assert found["place"].tolist() == [2, 0, 4, 1.5, 4] and found["mass"].tolist() == [1, 0.75, 0.25, 1, 1]
    # A bin is 8 * 0.5 px of the network's input: 2 px of the image across, 4 px down.
    assert found["place_px"].tolist() == [20 - 4, 30, 30 - 16, 20 + 3, 30 + 16]


def test_weighted_bins_lie_at_their_positions() -> None:
    found = modes_frame(frame(bin_positions=WEIGHTED, bin_width=1.0))
    assert found["place"].tolist() == [4, -4, 12, 2, 12]
    assert found["place_px"].tolist() == [20 - 16, 30 + 32, 30 - 96, 20 + 8, 30 + 96], "below 0: on the other side of the location"


def test_rows_of_several_trials_keep_their_order_and_their_own_bins() -> None:
    false_positive = frame(annotation_id=-1, probs=np.tile(np.eye(3, dtype=np.float32)[1], 4), bins=3)
    both = pd.concat([frame(), frame(bin_positions=WEIGHTED), false_positive, frame()]).set_axis([30, 10, 20, 40])
    found = modes_frame(both)
    assert found["box"].tolist() == [30] * 5 + [10] * 5 + [20] * 4 + [40] * 5
    assert found[found["side"] == "left"]["place"].tolist() == [2, 4, 1, 2]


def test_a_box_without_location_or_distribution_and_a_side_of_nan_have_no_modes() -> None:
    probs = frame()["probs"][0].copy()
    probs[1] = np.nan
    nothing = [frame(cell_x=np.nan, cell_y=np.nan, stride=0), frame(bins=0, probs=np.array([], np.float32))]
    found = modes_frame(pd.concat([*nothing, frame(probs=probs)], ignore_index=True))
    assert found["side"].tolist() == ["top", "top", "right", "bottom"] and set(found["box"]) == {2}
    for empty in (modes_frame(None), modes_frame(frame().iloc[:0]), modes_frame(nothing[1])):
        assert empty.dtypes.to_dict() == found.dtypes.to_dict() and not len(empty)


def test_a_frame_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"no column cell_x, stride\n.*INPUT"):
        modes_frame(frame().drop(columns=["cell_x", "stride"]))
    with pytest.raises(InputError, match="box 0 has 20 probabilities for 4 bins"):
        modes_frame(frame(bins=4))
    with pytest.raises(InputError, match="box 0 has 20 probabilities and 3 positions for 5 bins"):
        modes_frame(frame(bin_positions=WEIGHTED[:3]))


def are_shown(found: pd.DataFrame, row: pd.Series) -> None:
    """Assert that the modes of a box are those of the dashboard's page Boxes: side, number, place and pixel."""
    shown = [(side, number, place) for side in box_view(row).sides for number, place in enumerate(side.mode_places, 1)]
    assert found["side"].tolist() == [side.side for side, _, _ in shown] and found["mode"].tolist() == [number for _, number, _ in shown]
    np.testing.assert_allclose(found["place"], [place for _, _, place in shown], atol=1e-9)
    np.testing.assert_allclose(found["place_px"], [side.pixel(place) for side, _, place in shown], atol=1e-9)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([5, 17]),
    st.sampled_from([None, (0.5, 0.25), (0.3, 1.0)]),
    st.floats(0.05, 4),
    st.floats(0.2, 5),
)  # fmt: skip
def test_masses_sum_to_one_and_places_are_those_of_the_dashboard(
    seed: int, bins: int, weighted: tuple[float, float] | None, sharpness: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    p = rng.gamma(sharpness, size=(4, bins)) + 1e-9
    positions = () if weighted is None else weighted_positions(bins - 1, *weighted, 8.0)
    rest = dict.fromkeys(("det_score", "det_iou", "cell_iou", "score", "edge_a", "edge_b", "prob_a"), np.nan)
    one = frame(
        probs=(p / p.sum(1, keepdims=True)).astype(np.float32).ravel(), bins=bins, bin_positions=np.array(positions, np.float32),
        scale_x=scale, scale_y=2 * scale, expectation=np.zeros(4), target=np.zeros(4), ambiguity="", ambiguous_side=-1, **rest,
    )  # fmt: skip
    found = modes_frame(one)
    assert found.groupby("side")["mass"].sum().to_numpy() == pytest.approx(np.ones(4), abs=1e-6) and (found["mass"] > 0).all()
    low, high = (0, bins - 1) if weighted is None else np.float32(positions)[[0, -1]]
    assert found["place"].between(low, high).all()
    are_shown(found, one.iloc[0])


def test_a_trial_from_the_store_has_the_modes_that_the_dashboard_shows(tmp_path: Path) -> None:
    store = Store(write_fake_tree(tmp_path))
    dfl = next(v for v in store.experiment("table3_qfl_dfl", "desk").variants if v.name == "qfl=off dfl=on")
    boxes = store.distributions(dfl.done[0].id)
    assert boxes is not None and (boxes["annotation_id"] < 0).any()
    found = modes_frame(boxes)
    for box, row in boxes.iterrows():
        are_shown(found[found["box"] == box], row)
    counts = found[found["annotation_id"] >= 0].groupby(["annotation_id", "side"]).size()
    counted = sides(boxes.assign(bin_positions=[[]] * len(boxes))).set_index(["annotation_id", "side"])["modes"].sort_index()
    assert (counts.sort_index() == counted).all() and counted.max() == 2
    assert modes_frame(store.distributions(dfl.done[0].id, INPUT)).equals(found), "the columns that the docs name suffice"
