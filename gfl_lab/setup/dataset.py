"""The COCO-format data set as a trial sees it: every sample is a function of (seed, epoch, index) and nothing else.

So augmentation does not depend on the number of loader processes, on the order of loading, or on an interruption: a
resumed trial sees the very images that the undisturbed one would have seen.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.datasets.transforms import PackDetInputs
from mmdet.datasets.transforms import Resize as MmdetResize
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler

from gfl_lab.data.ambiguous_shapes import draw_box
from gfl_lab.data.annotations import is_learned, load_coco
from gfl_lab.data.assignment import scaled_size
from gfl_lab.data.layout import image_file
from gfl_lab.data.pixels import read_image
from gfl_lab.errors import DataError

CACHE_BYTES = 512 * 2**20
"""Decoded images of a split are kept in memory while they fit in this much; the desk data set takes 47 MB."""


@DATASETS.register_module()
class TrialDataset(BaseDetDataset):
    """A COCO-format split.

    Args:
        seed: of the trial; with the epoch and the index it seeds every random choice of a sample.
        draw_annotators: draw, anew each epoch, which of the two annotators drew an ambiguous side (`ambiguous_shapes`).
        classes: category names in the order of the labels.
        repeats: how often each image counts; an index beyond the images starts again at the first, with other random choices.
        like_mmdet: images in the order of the annotation file, not of their ids; and those whose annotations are all left out
            count as images with annotations. Both as mmdet's ``CocoDataset`` has it, for a config's own recipe.

    Attributes:
        decoded: the images that are kept in memory, once the annotations have been read.
    """

    def __init__(
        self,
        *args: Any,
        seed: int = 0,
        draw_annotators: bool = False,
        classes: Sequence[str] = (),
        repeats: int = 1,
        like_mmdet: bool = False,
        **kwargs: Any,
    ) -> None:
        self.seed = seed
        self.draw_annotators = draw_annotators
        self.repeats, self.like_mmdet = repeats, like_mmdet
        self._shared_epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # loader processes must see it change
        super().__init__(*args, metainfo={"classes": tuple(classes)}, **kwargs)

    def full_init(self) -> None:
        """Load the data as mmengine does, and make room for decoded images before loader processes are forked."""
        done = self._fully_initialized
        super().full_init()
        if not done:
            self.decoded = DecodedImages(map(self.get_data_info, range(self._images())), CACHE_BYTES)
            for transform in self.pipeline.transforms:
                if isinstance(transform, LoadImageCached):
                    transform.memory = self.decoded

    def __len__(self) -> int:
        return self.repeats * self._images()

    def _images(self) -> int:
        return int(super().__len__())

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the image of an index, which may be beyond the number of images."""
        info: dict[str, Any] = super().get_data_info(idx % self._images())
        return info

    def _rand_another(self) -> int:
        return int(np.random.randint(0, self._images()))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (from 0) of the next samples."""
        self._shared_epoch[0] = epoch

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the images with their boxes (xyxy, px); a crowd region is marked to be ignored, a box under 1 px is left out."""
        dataset = load_coco(self.ann_file)
        labels = {category["id"]: self.metainfo["classes"].index(category["name"]) for category in dataset["categories"]}
        instances: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in dataset["images"]}
        self._annotated = {annotation["image_id"] for annotation in dataset["annotations"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in dataset["images"]}
        for annotation in dataset["annotations"]:
            if not is_learned(annotation["bbox"], sizes[annotation["image_id"]]):
                continue
            x, y, w, h = annotation["bbox"]
            instances[annotation["image_id"]].append(
                {
                    "bbox": [x, y, x + w, y + h],
                    "bbox_label": labels[annotation["category_id"]],
                    "ignore_flag": int(annotation["iscrowd"]),
                    "annotation_id": annotation["id"],
                    "annotation": annotation if annotation.get("ambiguity") else None,
                }
            )
        return [
            {
                "img_path": str(image_file(self.data_prefix["img"], image["file_name"])),
                "img_id": image["id"],
                "width": image["width"],
                "height": image["height"],
                "instances": instances[image["id"]],
            }
            for image in (dataset["images"] if self.like_mmdet else sorted(dataset["images"], key=lambda image: image["id"]))
        ]

    def filter_data(self) -> list[dict[str, Any]]:
        """Return, in training, the images with a box that counts and a side of at least 32 px, as every published GFL row does.

        A config's own ``filter_cfg`` may have another length, or keep images without boxes.
        """
        if self.test_mode or self.filter_cfg is None:
            return self.data_list
        least = self.filter_cfg.get("min_size", 0)
        large = (info for info in self.data_list if min(info["width"], info["height"]) >= least)
        return [info for info in large if not self.filter_cfg.get("filter_empty_gt") or self._has_truth(info)]

    def _has_truth(self, info: dict[str, Any]) -> bool:
        """Return True if an image counts as one with boxes."""
        if self.like_mmdet:
            return info["img_id"] in self._annotated
        return any(not instance["ignore_flag"] for instance in info["instances"])

    def prepare_data(self, idx: int) -> Any:
        """Return the sample ``idx`` through the pipeline, under its own seed.

        If a crop leaves no box, mmdet takes another image. Here it is drawn under the seed of the first one.

        Raises:
            DataError: no image has a box left.
        """
        if self.test_mode:
            return self.pipeline(self.get_data_info(idx))
        with seeded(self.seed, int(self._shared_epoch[0]), idx):
            for _ in range(self.max_refetch + 1):
                if (sample := self._trained(idx)) is not None:
                    return sample
                idx = self._rand_another()
        raise DataError(f"the transforms of training left no box in {self.max_refetch + 1} images one after another")

    def _trained(self, idx: int) -> Any:
        info = self.get_data_info(idx)
        if self.draw_annotators:
            for instance in info["instances"]:
                if instance["annotation"]:
                    instance["bbox"] = list(draw_box(instance["annotation"], np.random.random()))
        return self.pipeline(info)


@contextlib.contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed ``random`` and ``numpy.random`` from ``entropy`` for the block, then put the process' own state back."""
    state, numpy_state = random.getstate(), np.random.get_state()
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


@TRANSFORMS.register_module()
class LoadImageCached:
    """Read an image with ``pixels.read_image`` (BGR, uint8), or take it from memory.

    The cached array is handed out itself: the transforms after it (Resize first) write to new arrays.

    Args:
        white_level: of the data set, for images of more than 8 bits.
        to_float32: hand out a copy in float32, which some transforms of mmdet want.
        copy: hand out a copy, for transforms that write into the image that they get.

    Attributes:
        memory: decoded images that are kept; none unless the data set has given one.
    """

    def __init__(self, white_level: int = 0, to_float32: bool = False, copy: bool = False) -> None:
        self.white_level, self.to_float32, self.copy = white_level, to_float32, copy
        self.memory: DecodedImages | None = None

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results["img_path"]
        image = self.memory.get(path) if self.memory else None
        if image is None:
            image = read_image(path, self.white_level)
            if self.memory:
                self.memory.keep(path, image)
        if self.to_float32:
            image = image.astype(np.float32)
        elif self.copy:
            image = image.copy()
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results


@TRANSFORMS.register_module()
class ResizeKeepRatio(BaseTransform):
    """Scale an image and its boxes into ``scale``, ratio kept, with each side at least 1 px (``scaled_size``).

    mmdet's ``Resize`` does the work, for the size of this image; its own ``keep_ratio`` leaves a very long image no height.

    Args:
        scale: longest and shortest side to scale into, px. mmdet's transforms that draw a scale set it anew for each image.
        keep_ratio: True; they pass it to every kind of resize.
        interpolation: of OpenCV, "bilinear" or "bicubic".
    """

    def __init__(self, scale: Any, keep_ratio: bool = True, interpolation: str = "bilinear") -> None:
        if not keep_ratio:
            raise ValueError("ResizeKeepRatio keeps the ratio: leave keep_ratio out")
        self.scale, self.interpolation = scale, interpolation

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return ``results`` with the (H, W, 3) image, its boxes, ``img_shape`` and ``scale_factor`` changed, as mmdet's ``Resize``."""
        height, width = results["img"].shape[:2]
        size = scaled_size(width, height, self.scale)
        return MmdetResize(scale=size, keep_ratio=False, interpolation=self.interpolation).transform(results)


class DecodedImages:
    """Decoded images in memory that loader processes share with the process that forks them: what one decodes, all have.

    Args:
        infos: ``img_path``, ``width`` and ``height`` of each image; they have a place up to the first that does not fit.
        room: bytes.

    Attributes:
        size: bytes that they take once they are all here.
    """

    def __init__(self, infos: Iterable[dict[str, Any]], room: int) -> None:
        self._places: dict[str, tuple[int, int, tuple[int, int, int]]] = {}  # number, first byte, shape
        self.size = 0
        for info in infos:
            if info["img_path"] in self._places:
                continue
            shape = (info["height"], info["width"], 3)
            if self.size + math.prod(shape) > room:
                break
            self._places[info["img_path"]] = len(self._places), self.size, shape
            self.size += math.prod(shape)
        # Anonymous memory, taken page by page as images come in. A byte each marks an image that is there: it is set last.
        self._pixels = np.frombuffer(mmap.mmap(-1, max(1, self.size)), np.uint8)
        self._there = np.frombuffer(mmap.mmap(-1, max(1, len(self._places))), np.uint8)

    def get(self, path: str) -> np.ndarray | None:
        """Return the (H, W, 3) pixels of an image, or None if they are not stored."""
        place = self._places.get(path)
        if place is None or not self._there[place[0]]:
            return None
        _, start, shape = place
        return self._pixels[start : start + math.prod(shape)].reshape(shape)

    def keep(self, path: str, image: np.ndarray) -> None:
        """Take in an image that has a place and the declared size. Two processes that do so write the same bytes."""
        place = self._places.get(path)
        if place is not None and place[2] == image.shape:
            number, start, shape = place
            self._pixels[start : start + math.prod(shape)] = image.reshape(-1)
            self._there[number] = 1


@TRANSFORMS.register_module()
class PackBytes(PackDetInputs):
    """mmdet's, but the (3, H, W) image is a view of its (H, W, 3) pixels, as `BatchPreprocessor` reads them: no copy."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = np.ascontiguousarray(results.pop("img"))
        return {"inputs": torch.from_numpy(image).permute(2, 0, 1), **super().transform(results)}


@DATA_SAMPLERS.register_module()
class OneShapeBatchSampler(BatchSampler):
    """Batches for evaluation whose images have one padded shape, so that no image sees padding that it would not have alone.

    Group norms and attention look at padding: mixed shapes would make AP depend on the batch. Published evaluations take
    one image at a time. Images keep their order within a shape; shapes follow each other as they first occur.

    Args:
        sampler: of a ``TrialDataset``.
        batch_size: largest batch.
        image_size: longest and shortest side that images are scaled into, px.
        pad_to: padded sides are multiples of this, px.
    """

    def __init__(self, sampler: Any, batch_size: int, image_size: tuple[int, int], pad_to: int, drop_last: bool = False) -> None:
        super().__init__(sampler, batch_size, drop_last)
        groups: dict[tuple[int, int], list[int]] = {}
        for index in sampler:
            info = sampler.dataset.get_data_info(index)
            width, height = scaled_size(info["width"], info["height"], (image_size[0], image_size[1]))
            groups.setdefault((-(-width // pad_to), -(-height // pad_to)), []).append(index)
        self.batches = [group[start : start + batch_size] for group in groups.values() for start in range(0, len(group), batch_size)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@DATA_SAMPLERS.register_module()
class WholeSampler(DefaultSampler):
    """mmengine's sampler, of which every process of a trial sees the whole: batches are cut into parts, not the epoch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rank, self.world_size = 0, 1
        self.num_samples = self.total_size = len(self.dataset)


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(AspectRatioBatchSampler):
    """mmdet's batches of like shape, which can leave out the first ``skip`` of an epoch: those an interrupted trial has done.

    With ``like_shapes`` off, a batch may hold wide and high images together.

    In a trial of several processes each takes its part of the one batch, so that batches do not depend on their number. Where
    the last batch of an epoch has fewer images than there are processes, the rest of them take its first image once more.
    """

    def __init__(self, *args: Any, like_shapes: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip, self.like_shapes = 0, like_shapes
        self.rank, self.processes = get_dist_info()

    def __iter__(self) -> Iterator[list[int]]:
        skip, self.skip = self.skip, 0
        batches = super().__iter__() if self.like_shapes else BatchSampler.__iter__(self)
        for batch in itertools.islice(batches, skip, None):
            yield batch[self.rank :: self.processes] or batch[:1]
