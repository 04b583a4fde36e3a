"""Distances, in bins, of the sides of a data set's boxes from the locations that learn them.

Every training box is assigned to locations as training does, image by image, from the annotations alone. A side farther than
n - 0.1 bins is clipped: DFL learns it as n - 0.1, and no box can be predicted beyond n bins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS, TASK_UTILS
from mmengine.config import Config
from numpy.typing import NDArray
from torch import Tensor

from gfl_lab.analysis.side_levels import LevelSides, SideDistances, describe_level
from gfl_lab.data.assignment import scaled_size
from gfl_lab.data.coco import CocoPaths
from gfl_lab.detector.assign import UNASSIGNED
from gfl_lab.detector.box_forms import DISTANCE_MARGIN
from gfl_lab.detector.box_forms.base import distances_to_sides
from gfl_lab.detector.geometry import make_geometry
from gfl_lab.detector.targets import assign_batch
from gfl_lab.errors import Problem, SpecError
from gfl_lab.setup import dataset as _dataset  # noqa: F401  (registers TrialDataset)
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.bins import has_weighted_bins, reach
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec

BATCH_DISTANCES = 2**20
"""Distances of boxes to locations that are computed at once: 4 MiB, so that they stay in the processor's cache."""


@torch.inference_mode()
def side_distances(
    paths: CocoPaths,
    classes: Sequence[str],
    settings: Settings,
    reg_max: int | None = None,
    bin_width: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SideDistances:
    """Assign every training box to cells and measure the distances to its sides.

    Images are scaled into ``image_size``, as in training without flips, multi-scale and crops; no image is decoded. In a
    generated data set the annotated boxes count, not the annotators' that training draws anew each epoch.

    Args:
        paths: a data set that passed its check.
        classes: its class names.
        settings: groups model and input, and ``atss_topk``.
        reg_max, bin_width: n and Delta in place of the settings'.
        progress: called with the images done and all images.

    Raises:
        SpecError: the settings name an assigner or a head of the user's.
    """
    for key, own in (("assigner", "ATSSAssigner"), ("head", "GFLFamilyHead")):
        if getattr(settings, key) != own:
            hint = "Side distances are those of ATSS in gfl-lab's own head; leave the setting out."
            raise SpecError(Problem(f"{key} is {getattr(settings, key)}: it may assign boxes in its own way", hint=hint))
    reg_max, bin_width = reg_max or settings.reg_max, bin_width or settings.bin_width
    config = _training_config(paths, classes, settings)
    infos = DATASETS.build({**config.train_dataloader.dataset, "pipeline": [], "serialize_data": False}).data_list
    boxes = _scaled_boxes(infos, config, settings)
    priors = TASK_UTILS.build(config.model.bbox_head.anchor_generator)

    images = len(infos)
    found = [_Level() for _ in settings.strides]
    total = assigned_boxes = clipped_boxes = done = 0
    for (height, width), group in boxes.items():
        sizes = [(-(-height // stride), -(-width // stride)) for stride in settings.strides]
        geometry = make_geometry(priors, sizes, torch.device("cpu"))
        unit = (geometry.strides * bin_width)[:, None]
        for batch in _batches(group, len(geometry.priors)):
            truth, valid = _pad(batch)
            assigned = assign_batch(geometry, truth, valid, [(height, width)] * len(batch), settings.atss_topk).assigned
            image, location = (assigned != UNASSIGNED).nonzero(as_tuple=True)
            index = assigned[image, location]
            # the order of operations is that of the head's training
            distances = distances_to_sides(geometry.centers[location] / unit[location], truth[image, index] / unit[location])
            box, far = image * truth.shape[1] + index, (distances > reg_max - DISTANCE_MARGIN).any(1)
            for number, level in enumerate(found):
                here = geometry.levels[location] == number
                level.distances.append(distances[here].flatten().numpy())
                level.boxes += len(box[here].unique())
                level.clipped_boxes += len(box[here & far].unique())
            total += int(valid.sum())
            assigned_boxes += len(box.unique())
            clipped_boxes += len(box[far].unique())
            done += len(batch)
            if progress:
                progress(done, images)

    sides = [np.sort(np.concatenate([np.empty(0, np.float32), *level.distances])) for level in found]

    def describe(stride: int, distances: NDArray[np.float32], own: int, clipped: int) -> LevelSides:
        return describe_level(stride, distances, own, clipped, total, reg_max, bin_width)

    levels = tuple(
        describe(stride, distances, level.boxes, level.clipped_boxes)
        for stride, distances, level in zip(settings.strides, sides, found, strict=True)
    )
    every = describe(0, np.sort(np.concatenate(sides)), assigned_boxes, clipped_boxes)
    return SideDistances(
        reg_max, bin_width, settings.image_size, images, total, total - assigned_boxes, levels, every, tuple(_notes(infos, settings))
    )


class _Level:
    """The distances gathered on a level."""

    def __init__(self) -> None:
        self.distances: list[NDArray[np.float32]] = []
        self.boxes = self.clipped_boxes = 0


def _training_config(paths: CocoPaths, classes: Sequence[str], settings: Settings) -> Config:
    """Return the configuration that a trial of these settings would train by, for its data set, anchors and padding."""
    data = DataSpec(name="", digest="", classes=tuple(classes), train_images=0, val_images=0)
    spec = TrialSpec(settings=settings, data=data, seed=0, code=TRAINING_CODE_VERSION)
    return trial_config(spec, {key: str(path) for key, path in vars(paths).items()}, work_dir="")


def _scaled_boxes(infos: list[dict[str, Any]], config: Config, settings: Settings) -> dict[tuple[int, int], list[Tensor]]:
    """Return the (G, 4) boxes, xyxy px of the network input, of every training image, by the padded (height, width) of the image."""
    divisor = config.model.data_preprocessor.pad_size_divisor
    out: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for info in infos:
        size = info["width"], info["height"]
        boxes = torch.tensor([instance["bbox"] for instance in info["instances"] if not instance["ignore_flag"]], dtype=torch.float32)
        boxes, (width, height) = scale_boxes(boxes, size, settings.image_size)
        out[-(-height // divisor) * divisor, -(-width // divisor) * divisor].append(boxes)
    return out


def scale_boxes(boxes: Tensor, size: tuple[int, int], into: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Return the boxes as mmdet's ``Resize(scale=into, keep_ratio=True)`` leaves them, and the scaled image's (width, height).

    Args:
        boxes: (G, 4) float32, xyxy px.
        size: (width, height) of the image, px.
        into: longest and shortest side that it is scaled into, px.
    """
    width, height = scaled_size(*size, into)
    factors = boxes.new_tensor((width / size[0], height / size[1]))  # whole px: the two differ a little
    boxes = boxes * factors.repeat(2)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    return boxes, (width, height)


def _batches(images: list[Tensor], cells: int) -> Iterator[list[Tensor]]:
    """Yield images of about the same number of boxes, so that padding is little, as many as fit into ``BATCH_DISTANCES``."""
    batch: list[Tensor] = []
    for boxes in sorted(images, key=len):
        if batch and (len(batch) + 1) * len(boxes) * cells > BATCH_DISTANCES:
            yield batch
            batch = []
        batch.append(boxes)
    yield batch


def _pad(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    truth = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
    counts = torch.tensor([len(boxes) for boxes in batch])
    return truth, torch.arange(truth.shape[1]) < counts[:, None]


def _notes(infos: list[dict[str, Any]], settings: Settings) -> Iterator[str]:
    if has_weighted_bins(settings):
        yield f"bins: weighted reach {reach(settings, DISTANCE_MARGIN):.3g} strides; the numbers here are those of uniform bins"
    if settings.flip_prob:
        yield "flips are left out: a flipped box lies a little differently on the locations"
    if settings.scale_range != (1.0, 1.0):
        low, high = settings.scale_range
        yield f"multi-scale is left out: training also scales images by {low:g} to {high:g}, here by 1"
    if settings.crop != "none":
        yield f"crops ({settings.crop}) are left out"
    if any(instance["annotation"] for info in infos for instance in info["instances"]):
        yield "ambiguous sides are where the annotation has them; training draws an annotator anew each epoch"
