"""The list of sides to look at, and the differences of a trial to the baseline's."""

from __future__ import annotations

import math

import pandas as pd

from gfl_lab.report.side_list import SideFilter, side_list
from gfl_lab.report.sides import COLUMNS
from gfl_lab.report.trial_differences import number_differences, same_seed, setting_differences
from gfl_lab.results.rows import TrialRow, TrialState, VariantRow


def rows(*values: tuple[int, str, float, float, float]) -> pd.DataFrame:
    """Sides by annotation id, side, bimodality, spread and error."""
    found = [
        dict.fromkeys(COLUMNS, 0.0) | {"image_id": 1, "annotation_id": box, "category": "ab"[box % 2], "side": side, "bimodality": two}
        | {"spread": wide, "error": error, "cell_iou": 0.1 * box, "score": 0.2 * box}
        for box, side, two, wide, error in values
    ]  # fmt: skip
    return pd.DataFrame(found)


SIDES = rows((1, "left", 0.2, 1.0, -3.0), (1, "top", 0.5, 0.5, 1.0), (2, "left", 0.0, 2.0, 0.5), (3, "left", 0.9, 0.1, 0.0))


def boxes(found: pd.DataFrame) -> list[tuple[int, str]]:
    return list(zip(found["annotation_id"], found["side"], strict=True))


def test_a_list_has_one_side_for_each_box_the_largest_first() -> None:
    assert boxes(side_list(SIDES)) == [(3, "left"), (1, "top")], "2 has one mode"
    assert boxes(side_list(SIDES, "width")) == [(2, "left"), (1, "left"), (3, "left")]
    assert boxes(side_list(SIDES, "error")) == [(1, "left"), (2, "left")] and side_list(SIDES, "error")["value"].tolist() == [3.0, 0.5]
    assert boxes(side_list(SIDES, limit=1)) == [(3, "left")] and list(side_list(SIDES[:0])) == list(side_list(SIDES))


def test_filters() -> None:
    assert boxes(side_list(SIDES, "width", SideFilter(iou=0.25))) == [(3, "left")]
    assert boxes(side_list(SIDES, "width", SideFilter(score=0.4))) == [(2, "left"), (3, "left")]
    assert boxes(side_list(SIDES, "width", SideFilter("b"))) == [(1, "left"), (3, "left")]


def test_disagreement_is_the_distance_of_the_expectations() -> None:
    other = rows((1, "left", 0.0, 1.0, 2.0), (3, "left", 0.0, 1.0, 0.5), (3, "top", 0.0, 1.0, 9.0))
    found = side_list(SIDES, "disagreement", other=other)
    assert boxes(found) == [(1, "left"), (3, "left")] and found["value"].tolist() == [5.0, 0.5]
    assert not len(side_list(SIDES, "disagreement"))


def trial(number: int, seed: int, **metrics: float) -> TrialRow:
    return TrialRow(f"{number:012x}", seed, TrialState.DONE, metrics)


def test_a_trial_beside_the_baselines_of_its_seed() -> None:
    baseline = VariantRow("off", {}, {"dfl": False, "lr": 0.01}, True, None, (trial(1, 0, AP=40.0), trial(2, 1, AP=41.0, fps=5.0)))
    variant = VariantRow("on", {}, {"dfl": True, "lr": 0.01, "own": [1]}, False, None, (trial(3, 1, AP=43.0, AP50=math.nan, fps=4.0),))
    assert setting_differences(variant, baseline) == {"dfl": ("on", "off"), "own": ("[1]", "–")}
    other = same_seed(baseline, variant.trials[0])
    assert other == baseline.trials[1] and number_differences(variant.trials[0], other) == {"AP": 2.0, "fps": -1.0}
    assert same_seed(baseline, baseline.trials[0]) is None and same_seed(None, variant.trials[0]) is None
