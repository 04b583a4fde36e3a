"""Weights that mmdet publishes, by the name of their config: fetched, checked, converted to the detector of gfl-lab."""

from __future__ import annotations

from pathlib import Path

from mmdet.datasets import CocoDataset

from gfl_lab.checkpoints.download import Progress, fetch
from gfl_lab.checkpoints.import_checkpoint import convert_file, read_weights
from gfl_lab.errors import InputError, Problem
from gfl_lab.inference.trained_detector import TrainedDetector, converted_detector
from gfl_lab.spec.file_models import Profile
from gfl_lab.zoo.metafile import PREFIX, Published

CONVERTED = ("atss", "gfl", "ld")
"""Folders of mmdet's configs whose detectors are gfl-lab's own, with profile coco_1x's image size and test settings."""


def check_offered(entry: Published) -> None:
    """Raise InputError if the weights cannot be converted, before they are fetched."""
    if entry.folder not in CONVERTED:
        hint = f"Offered are the configs in mmdet's folders {', '.join(CONVERTED)}, such as {PREFIX}gfl_r50_fpn_1x_coco."
        raise InputError(Problem(f"weights of {entry.config} are of a detector that gfl-lab does not have", f"{PREFIX}{entry.name}", hint))


def read_published(entry: Published, data: Path | None, profile: Profile, progress: Progress) -> TrainedDetector:
    """Return a detector with the weights that mmdet publishes for a config.

    Args:
        data: folder of a data set in COCO format with COCO's classes. None: for images of no data set.
        profile: gives the settings of groups input and evaluation.
        progress: see ``checkpoints.download.fetch``.

    Raises:
        ResourceError: the file cannot be downloaded, or has another hash than its name says.
        InputError: its weights do not fit the data. DataError: problems of the data set.
    """
    name = f"{PREFIX}{entry.name}"
    file = read_weights(fetch(entry.address, entry.digest, progress))
    note = f"{name} is {entry.file}, with a published box AP of {entry.box_ap:g} on {entry.dataset}"
    classes = file.classes or tuple(CocoDataset.METAINFO["classes"])
    return converted_detector(name, convert_file(file, name), classes, data, profile, (note,))
