"""The data set of a plan: generated, or the user's, which is checked once."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from gfl_lab.addresses import absolute
from gfl_lab.data import ambiguous_shapes, coco
from gfl_lab.errors import InputError, Problem
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.marks import write_checked_data
from gfl_lab.rundir import RunTree
from gfl_lab.spec.file_models import Profile
from gfl_lab.spec.trial import DataSpec
from gfl_lab.wording import plural


def prepare_data(profile: Profile, tree: RunTree, data: Path | None, say: Callable[[str], None]) -> tuple[DataSpec, DataPaths]:
    """Make or check the data set; return its content and the absolute paths that trials read.

    A data set of the user's is decoded completely once. Its digest is remembered in the run tree, so that the next call only
    looks whether files have changed.

    Args:
        profile: it describes the generated data set.
        data: folder of the user's data set, instead.

    Raises:
        DataError: every problem found. InputError: there is no data.
    """
    folder, content = _generated(profile, tree, say) if data is None else _given(data, tree, say)
    found = coco.find_dataset(folder)
    paths = DataPaths(
        train_annotations=str(found.train_annotations), val_annotations=str(found.val_annotations), train_images=str(found.train_images),
        val_images=str(found.val_images),
    )  # fmt: skip
    return content, paths


def _generated(profile: Profile, tree: RunTree, say: Callable[[str], None]) -> tuple[Path, DataSpec]:
    if profile.data == "required":
        hint = "Give --data PATH, a folder in COCO format (docs/data.md)."
        raise InputError(Problem(f"profile {profile.name} has no data set of its own", hint=hint))
    shapes = ambiguous_shapes.AmbiguousShapesSpec(**profile.data.model_dump())
    if ambiguous_shapes.describe(tree.data(shapes.folder)) is None:
        say(f"generating the data set ambiguous_shapes ({shapes.train_images} + {shapes.val_images} images)")
    folder = ambiguous_shapes.generate(shapes, tree.root / "data")
    return folder, coco.dataspec(folder)


def _given(data: Path, tree: RunTree, say: Callable[[str], None]) -> tuple[Path, DataSpec]:
    folder = absolute(data, "--data")
    report = coco.require_valid(folder, decode=False)
    cache = tree.root / "data" / ".checked"
    content = coco.dataspec(folder, report, cache)
    passed = cache / f"{content.digest}.json"
    if not passed.exists():
        say(f"checking {sum(split.images for split in report.splits.values())} images of {report.name}")
        report = coco.require_valid(folder)
        if report.warning_kinds:
            count = sum(map(len, report.warning_kinds))
            kinds = len({finding.kind for finding in report.warning_kinds})
            command = f"gfl-lab data check {shlex.quote(str(folder))}"
            say(f"warning: {plural(count, 'warning')} of {plural(kinds, 'kind')} about the data:  {command}")
        write_checked_data(passed, report.name, content.digest)
    return folder, content
