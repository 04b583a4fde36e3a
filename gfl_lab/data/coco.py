"""Detection data sets in COCO format, any folder given with ``--data PATH``: finding, reading, checking and naming them.

The parts: ``layout`` finds files, ``annotations`` reads annotation files, ``pixels`` reads images, ``check`` checks everything (``annotation_check``, ``image_check``),
``report`` holds the outcome, ``digest`` names a data set by its content.
"""

from __future__ import annotations

from pathlib import Path

from gfl_lab.data import ambiguous_shapes
from gfl_lab.data.annotations import MIN_BOX_PX, MIN_SIDE_PX, is_learned, load_coco
from gfl_lab.data.check import check_dataset, require_valid
from gfl_lab.data.digest import Content, dataset_content, dataset_digest, find_white_level
from gfl_lab.data.findings import EXAMPLES
from gfl_lab.data.layout import SPLITS, CocoPaths, find_dataset, image_file
from gfl_lab.data.report import DatasetReport, SplitReport
from gfl_lab.spec.trial import DataSpec

__all__ = [
    "EXAMPLES",
    "MIN_BOX_PX",
    "MIN_SIDE_PX",
    "SPLITS",
    "CocoPaths",
    "Content",
    "DatasetReport",
    "SplitReport",
    "check_dataset",
    "dataset_content",
    "dataset_digest",
    "dataspec",
    "find_dataset",
    "find_white_level",
    "image_file",
    "is_learned",
    "load_coco",
    "require_valid",
]


def dataspec(root: Path | str, report: DatasetReport | None = None, cache: Path | None = None) -> DataSpec:
    """Return the data of a trial's specification: name, digest, classes and counts of the data set under ``root``.

    A folder made by ``ambiguous_shapes.generate`` is known by its dataset.json: its recorded digest is taken and ``truth``
    is set. Any other folder is named after itself.

    Args:
        root: the data set's folder; valid.
        report: of ``check_dataset``, if there is one, to save reading everything again.
        cache: see ``dataset_content``.

    Raises:
        DataError: the data set cannot be read.
    """
    generated = ambiguous_shapes.describe(Path(root))
    if generated:
        return DataSpec(
            name=generated["name"],
            digest=generated["digest"],
            classes=tuple(generated["classes"]),
            train_images=generated["spec"]["train_images"],
            val_images=generated["spec"]["val_images"],
            truth=True,
        )
    if report is None or not report.ok:
        report = require_valid(root, decode=report is None and cache is None)
    content = Content(report.digest, report.white_level) if report.digest else dataset_content(root, cache)
    return DataSpec(
        name=report.name,
        digest=content.digest,
        classes=report.classes,
        train_images=report.splits["train"].trainable,  # training leaves the others out
        val_images=report.splits["val"].images,
        truth=False,
        white_level=content.white_level,
    )
