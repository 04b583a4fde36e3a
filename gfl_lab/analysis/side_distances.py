"""Distances, in bins, of the sides of a data set's boxes from the locations that learn them, and the n and bin width to choose.

Every training box is assigned to locations as training does, image by image, from the annotations alone. A side farther than
n - 0.1 bins is clipped: DFL learns it as n - 0.1, and no box can be predicted beyond n bins.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from mmdet.registry import DATASETS, TASK_UTILS
from mmengine.config import Config
from numpy.typing import NDArray
from torch import Tensor

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
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec

QUANTILES = (0.5, 0.9, 0.99, 0.999)
ACCEPTED = 1000
"""One clipped side of this many, on the worst level, is accepted."""
N = TypeVar("N", int, float)

MAX_REG_MAX, MAX_BIN_WIDTH = 128, 64.0
"""The largest that the settings take."""
MAX_BINS = 512
"""Bins that are counted one by one; the last also holds what lies beyond."""
BATCH_DISTANCES = 2**20
"""Distances of boxes to locations that are computed at once: 4 MiB, so that they stay in the processor's cache."""

TABLE_2 = (
    "The paper found little effect on COCO: AP 40.1 to 40.2 for n from 12 to 18, 39.8 to 40.2 for bin widths from 0.5 to 4 "
    "(arXiv 2006.04388, Tables 2b and 2c)."
)


@dataclass(frozen=True)
class LevelSides:
    """Boxes learnt on one level, or on all (``stride`` 0), and the distances from their cells to their sides, in bins.

    A box counts on each level where it has a cell. Shares are of 1. Without cells there is nothing to state: None.

    Attributes:
        stride: of the level, px of the network input.
        boxes, boxes_share: boxes with a cell here, and of all boxes.
        cells: (cell, box) pairs; each has 4 sides.
        quantiles: distance that this share of the sides does not exceed.
        max: largest distance.
        clipped_sides, clipped_share: sides farther than n - 0.1 bins.
        clipped_boxes, clipped_boxes_share: boxes with such a side, and of the boxes here.
        counts: sides in [k, k + 1) bins for k = 0, 1, ...; at least n of them, at most ``MAX_BINS``, the last open.
        needed_reg_max: smallest n that clips at most one side in a thousand; None also where more than 128 would be needed.
        needed_bin_width: smallest width that does so at the present n, rounded up to 3 digits; None also beyond 64.
    """

    stride: int
    boxes: int
    boxes_share: float
    cells: int
    quantiles: dict[str, float] | None
    max: float | None
    clipped_sides: int
    clipped_share: float | None
    clipped_boxes: int
    clipped_boxes_share: float | None
    counts: tuple[int, ...]
    needed_reg_max: int | None
    needed_bin_width: float | None


@dataclass(frozen=True)
class SideDistances:
    """The result of ``side_distances``.

    Attributes:
        reg_max: n.
        bin_width: in strides.
        image_size: longest and shortest side that images were scaled into, px.
        images, boxes: that training uses; crowd regions are no boxes.
        boxes_without_cells: boxes that no location learns.
        levels: finest first.
        all: over all levels.
        notes: what training does that is not in the numbers.
    """

    reg_max: int
    bin_width: float
    image_size: tuple[int, int]
    images: int
    boxes: int
    boxes_without_cells: int
    levels: tuple[LevelSides, ...]
    all: LevelSides
    notes: tuple[str, ...]

    @property
    def _used(self) -> list[LevelSides]:
        return [level for level in self.levels if level.cells]

    @property
    def needed_reg_max(self) -> int | None:
        """Smallest n, at this bin width, that clips at most one side in a thousand on every level; None where there is none."""
        return _largest([level.needed_reg_max for level in self._used])

    @property
    def needed_bin_width(self) -> float | None:
        """Smallest bin width, at this n, that clips at most one side in a thousand on every level; None where there is none."""
        return _largest([level.needed_bin_width for level in self._used])

    @property
    def advice(self) -> str:
        """One paragraph: whether n and the bin width suit the data, and which would."""
        n, n_needed, width_needed = self.reg_max, self.needed_reg_max, self.needed_bin_width
        if not self._used:
            return "No box has a cell, so there is nothing to learn: anchor_scale and strides do not suit the boxes."
        worst = max(self._used, key=lambda level: level.clipped_share or 0.0)
        if worst.clipped_sides * ACCEPTED > 4 * worst.cells:
            text = f"reg_max {n} clips {worst.clipped_share:.2%} of the sides on stride {worst.stride}: "
            ways = [f"reg_max {n_needed} at bin_width {self.bin_width:g}"] if n_needed is not None else []
            ways += [f"bin_width {width_needed:g} at reg_max {n}"] if width_needed is not None else []
            return text + (
                f"{' or '.join(ways)} would clip at most 0.1% on every level." if ways else f"no reg_max up to {MAX_REG_MAX} will do."
            )
        text = f"reg_max {n} clips at most 0.1% of the sides on every level"
        text += (
            f"; so would reg_max {n_needed}, or bin_width {width_needed:g} at reg_max {n}."
            if n_needed is not None and n_needed < n
            else ", and no smaller one does."
        )
        far = max(level.quantiles["0.999"] for level in self._used if level.quantiles)
        if far < n / 2 and n_needed is not None and n_needed < n:
            text += f" 99.9% of the sides are within {far:.1f} bins: fewer bins would be cheaper, narrower ones finer. {TABLE_2}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        derived = {"needed_reg_max": self.needed_reg_max, "needed_bin_width": self.needed_bin_width, "advice": self.advice}
        return asdict(self) | derived


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

    Images are scaled into ``image_size``, as in training without flips, multi-scale and crops; no image is decoded. Of a
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
            hint = "Side distances are those of gfl-lab's own; leave the setting out."
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
        return _describe(stride, distances, own, clipped, total, reg_max, bin_width)

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


def _describe(
    stride: int, distances: NDArray[np.float32], boxes: int, clipped_boxes: int, total: int, reg_max: int, bin_width: float
) -> LevelSides:
    """Return the numbers of a level, from its distances in bins, sorted."""
    sides = len(distances)
    counts = np.bincount(np.minimum(distances, MAX_BINS - 1).astype(np.int64), minlength=reg_max)
    # float32, as training compares
    clipped = sides - int(np.searchsorted(distances, np.float32(reg_max - DISTANCE_MARGIN), side="right"))
    quantiles = needed_reg_max = needed_bin_width = None
    if sides:
        quantiles = {str(q): float(distances[math.ceil(round(q * sides, 6)) - 1]) for q in QUANTILES}
        farthest = float(distances[sides - 1 - sides // ACCEPTED])  # of those that must be reached
        needed_reg_max = _at_most(_reach(farthest), MAX_REG_MAX)
        needed_bin_width = _at_most(_round_up(farthest * bin_width / (reg_max - DISTANCE_MARGIN)), MAX_BIN_WIDTH)
    return LevelSides(
        stride=stride,
        boxes=boxes,
        boxes_share=boxes / total if total else 0.0,
        cells=sides // 4,
        quantiles=quantiles,
        max=float(distances[-1]) if sides else None,
        clipped_sides=clipped,
        clipped_share=clipped / sides if sides else None,
        clipped_boxes=clipped_boxes,
        clipped_boxes_share=clipped_boxes / boxes if boxes else None,
        counts=tuple(counts.tolist()),
        needed_reg_max=needed_reg_max,
        needed_bin_width=needed_bin_width,
    )


def _reach(distance: float) -> int:
    """Return the smallest n that does not clip a distance, in bins."""
    n = max(1, math.floor(distance))
    while np.float32(n - DISTANCE_MARGIN) < distance:
        n += 1
    return n


def _at_most(value: N, limit: float) -> N | None:
    return value if value <= limit else None


def _largest(values: Iterable[N | None]) -> N | None:
    """Return the largest value; None where one is None, or there is none."""
    given = list(values)
    known = [value for value in given if value is not None]
    return max(known) if known and len(known) == len(given) else None


def _round_up(value: float) -> float:
    """Round to 3 digits, upwards."""
    places = 2 - math.floor(math.log10(value))
    return round(math.ceil(value * 10**places) / 10**places, max(places, 0))


def _notes(infos: list[dict[str, Any]], settings: Settings) -> Iterator[str]:
    if settings.flip_prob:
        yield "flips are left out: a flipped box lies a little differently on the locations"
    if settings.scale_range != (1.0, 1.0):
        low, high = settings.scale_range
        yield f"multi-scale is left out: training also scales images by {low:g} to {high:g}, here by 1"
    if settings.crop != "none":
        yield f"crops ({settings.crop}) are left out"
    if any(instance["annotation"] for info in infos for instance in info["instances"]):
        yield "ambiguous sides are where the annotation has them; training draws an annotator anew each epoch"
