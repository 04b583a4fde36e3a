"""The complete check of a data set, and how a profile's settings would assign its training boxes to locations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gfl_lab.addresses import absolute
from gfl_lab.data.ambiguous_shapes import AmbiguousShapesSpec, generate
from gfl_lab.data.coco import check_dataset, find_dataset
from gfl_lab.data.report import DatasetReport
from gfl_lab.data.unassigned import Unassigned, find_unassigned, training_boxes, why_not_analysed
from gfl_lab.errors import InputError, Problem
from gfl_lab.rundir import RunTree
from gfl_lab.session.unassigned import nearest_of
from gfl_lab.spec.file_models import Profile
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.settings import Settings

if TYPE_CHECKING:
    from gfl_lab.analysis.side_levels import SideDistances

Counter = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows the progress of a step: called with a verb and a noun (``evaluating``, ``image``), it gives a function that takes how many are done, and of how many."""


@dataclass(frozen=True)
class BoxAssignment:
    """The assignment of a data set's training boxes by a profile's settings.

    Attributes:
        unassigned: boxes without a location. sides: distances of box sides from their locations. None where not analysed.
        why_not: reason why the assignment cannot be derived from the settings; empty where it can.
    """

    profile: str
    unassigned: Unassigned | None = None
    sides: SideDistances | None = None
    why_not: str = ""


@dataclass(frozen=True)
class DatasetCheck:
    """A data set's report, and the assignment of its boxes if a profile was given."""

    folder: Path
    report: DatasetReport
    assignment: BoxAssignment | None = None

    def to_json(self) -> dict[str, object]:
        """Return the check as `gfl-lab data check --json` prints it (docs/command-line.md)."""
        found = self.assignment
        if found is None:
            return self.report.to_dict()
        unassigned: dict[str, object] | None = found.unassigned.to_dict() if found.unassigned else None
        if found.why_not and self.report.ok:
            unassigned = {"analysed": False, "reason": found.why_not}
        sides = found.sides.to_dict() if found.sides else None
        return {**self.report.to_dict(), "profile": found.profile, "sides": sides, "unassigned": unassigned}


def check_data(
    folder: Path | None,
    profile: Profile | None,
    tree: RunTree,
    *,
    reg_max: int | None = None,
    bin_width: float | None = None,
    counter: Counter = lambda step, noun: nullcontext(lambda done, of: None),
) -> DatasetCheck:
    """Check a data set completely, every image decoded; with a profile also assign its training boxes to locations.

    Args:
        folder: of the data set. None is the one that the profile generates, in ``tree``; it is made if it is not there.
        profile: its settings assign boxes. Without it only the files are checked.
        reg_max, bin_width: in place of the profile's.
        counter: shows the progress of the two steps of the assignment.

    Raises:
        InputError: there is no folder, or no profile that generates data.
    """
    folder = generated_data(profile, tree) if folder is None else folder
    report = check_dataset(absolute(folder, "PATH"))
    if profile is None:
        return DatasetCheck(folder, report)
    given = resolve_settings(profile.settings)
    if (why_not := why_not_analysed(given)) or not report.ok:
        return DatasetCheck(folder, report, BoxAssignment(profile.name, why_not=why_not))
    own = {"reg_max": reg_max or given.reg_max, "bin_width": bin_width or given.bin_width}
    settings = given.model_copy(update=own)
    unassigned = _unassigned(folder, settings, counter)
    sides = _sides(folder, report.classes, settings, counter)
    return DatasetCheck(folder, report, BoxAssignment(profile.name, unassigned, sides))


def generated_data(profile: Profile | None, tree: RunTree) -> Path:
    """Return the folder of the data that a profile generates, made when it is not there yet.

    Raises:
        InputError: there is no profile, or it generates none.
    """
    if profile is None:
        raise InputError(Problem("there is no data set to check", hint="Give PATH, a folder in COCO format (docs/data.md)."))
    if profile.data == "required":
        message = f"profile {profile.name} has no data set of its own"
        raise InputError(Problem(message, hint="Give PATH, a folder in COCO format (docs/data.md)."))
    return generate(AmbiguousShapesSpec(**profile.data.model_dump()), tree.root / "data")


def _unassigned(folder: Path, settings: Settings, counter: Counter) -> Unassigned:
    boxes = training_boxes(find_dataset(folder).train_annotations)
    with counter("trying", "other setting") as count:
        return find_unassigned(boxes, settings, nearest_of=nearest_of, progress=count)


def _sides(folder: Path, classes: tuple[str, ...], settings: Settings, counter: Counter) -> SideDistances:
    from gfl_lab.analysis.side_distances import side_distances  # loads torch

    with counter("assigning boxes in", "image") as count, _one_thread():
        return side_distances(find_dataset(folder), classes, settings, progress=count)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: the pieces are too small for several, which would wait for each other on busy cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
