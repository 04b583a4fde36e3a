"""Length of a trial's training, from its settings; planning, training and reading of results share it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfl_lab.spec.settings import Settings


def total_epochs(values: Settings | Mapping[str, Any]) -> int:
    """Return the passes over the training images: ``epochs`` times the factor of ``schedule``.

    Args:
        values: settings, or what plan.json or a manifest holds of them; without ``schedule``, as older runs are, it is 1x.

    Raises:
        KeyError, TypeError, ValueError: a damaged mapping.
    """
    if not isinstance(values, Mapping):
        values = {"epochs": values.epochs, "schedule": values.schedule}
    return int(values["epochs"]) * int(str(values.get("schedule", "1x")).removesuffix("x"))


def data_repeats(values: Settings | Mapping[str, Any]) -> int:
    """Return how often an epoch takes each training image; 1 where runs are older than the setting.

    Args:
        values: as for ``total_epochs``.
    """
    return int(values.get("data_repeats", 1)) if isinstance(values, Mapping) else values.data_repeats


def steps_of(values: Settings | Mapping[str, Any], train_images: int) -> int:
    """Return the iterations of a trial: epochs times batches. The last batch of an epoch may be smaller.

    Args:
        values: as for ``total_epochs``, which has what is raised, too.
    """
    batch_size = int(values["batch_size"]) if isinstance(values, Mapping) else values.batch_size
    return total_epochs(values) * math.ceil(train_images * data_repeats(values) / batch_size)
