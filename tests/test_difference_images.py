"""The images behind a difference: counted by hand, and against the counts of the errors."""

from __future__ import annotations

import pytest

from gfl_lab.metrics.error_types import TYPES, errors_of
from gfl_lab.report.difference_images import ImageDifference, class_images, error_images
from tests.test_error_types import BOX, records, scene

HALF = (0, 0, 100, 60)  # IoU 0.6 with BOX


def test_a_class_shows_the_boxes_that_one_finds_and_the_other_misses() -> None:
    truth = [(0, 0, BOX), (1, 0, BOX), (2, 1, BOX)]
    first = records([(0, 0, 0.9, BOX), (2, 1, 0.9, BOX)], truth, images=3)
    second = records([(1, 0, 0.4, HALF), (2, 1, 0.9, BOX)], truth, images=3)
    found = class_images([(first, second)], "a")
    assert [(each.image_id, each.variant, each.reference) for each in found] == [(0, 1.0, 0.0), (1, 0.0, 1.0)]
    assert found[0].marks[0].box == BOX and (found[0].marks[0].variant, found[0].marks[0].reference) == (1, 0)
    assert class_images([(first, second)], "b") == [], "both find it"
    assert [each.image_id for each in class_images([(first, second)], "a", iou=0.75)] == [0], "0.6 finds nothing at 0.75"
    assert [each.image_id for each in class_images([(first, second)], "a", score=0.5)] == [0]
    assert [image.reversed() for image in reversed(found)] == class_images([(second, first)], "a")
    with pytest.raises(ValueError, match="no class 'c'"):
        class_images([(first, second)], "c")


def test_boxes_are_counted_over_seeds() -> None:
    truth = [(0, 0, BOX)]
    finds, misses = records([(0, 0, 0.9, BOX)], truth), records([], truth)
    (found,) = class_images([(finds, misses), (finds, finds), (finds, misses)], "a")
    assert (found.marks[0].variant, found.marks[0].reference) == (3, 1) and found.variant == pytest.approx(2 / 3)
    assert class_images([(finds, misses), (misses, finds)], "a") == [], "each finds it once"


def test_errors_about_a_box_are_the_same_error_and_false_alarms_are_not() -> None:
    truth = [(0, 0, BOX), (1, 0, BOX)]
    first = records([(0, 0, 0.9, HALF), (1, 0, 0.9, HALF), (1, 0, 0.8, (500, 500, 600, 600))], truth, images=2)
    second = records([(0, 0, 0.9, (0, 0, 100, 65)), (1, 0, 0.9, BOX), (1, 0, 0.8, (500, 500, 600, 600))], truth, images=2)
    (badly_placed,) = error_images([(first, second)], "localisation", 0.75)
    assert badly_placed.image_id == 1 and badly_placed.marks[0].box == HALF and badly_placed.marks[0].truth == BOX
    (alarm,) = error_images([(first, second)], "background")
    assert (alarm.image_id, alarm.variant, alarm.reference) == (1, 1.0, 1.0) and len(alarm.marks) == 2
    with pytest.raises(ValueError, match="no type of error 'lateness'"):
        error_images([(first, second)], "lateness")


@pytest.mark.parametrize("name", TYPES)
def test_the_images_of_a_type_account_for_the_difference_of_its_counts(name: str) -> None:
    first, second = scene(0), scene(1)
    second = type(second)(**{**vars(second), **{key: value for key, value in vars(first).items() if key.startswith("gt_")}})
    found: list[ImageDifference] = error_images([(first, second)], name)
    net = sum(each.variant - each.reference for each in found)
    counts = [errors_of(each).counts[name] for each in (first, second)]
    if name in ("background", "missed"):
        assert net == counts[0] - counts[1]
    assert [each.variant - each.reference for each in found] == sorted((each.variant - each.reference for each in found), reverse=True)
