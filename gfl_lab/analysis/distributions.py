"""The learned box distributions of a split as a table: one row per ground-truth box, then one per kept false positive.

A box's distributions are read at one location: among the locations that ATSS assigns to it under every annotation it may
get (both annotators on `ambiguous_shapes`; its one annotation elsewhere), the one with the highest score for its class. The
rule is the same for every variant, and on `ambiguous_shapes` the ideal distribution there is known (docs/box-distributions.md).
Columns of the table keep their names: `cell_...` are those of this location.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from gfl_lab.data.ambiguous_shapes import annotator_boxes
from gfl_lab.detector.assign import TOPK
from gfl_lab.detector.geometry import Geometry
from gfl_lab.detector.postprocess import DenseOutputs
from gfl_lab.detector.targets import assign_batch, pad_shapes
from gfl_lab.detector.transfer import to_device
from gfl_lab.metrics.truth_scores import TruthScores, truth_scores
from gfl_lab.records.distribution_columns import COLUMNS
from gfl_lab.records.files import atomic_path
from gfl_lab.spec.bins import bin_positions, unit_in_strides
from gfl_lab.spec.choices import ASSIGNERS, OWN
from gfl_lab.spec.settings import Settings

MATCH_IOU = 0.5
"""A detection of the box's class with at least this IoU finds it; the best score first, each used once."""

FALSE_POSITIVE_SCORE = 0.3
"""Unmatched detections from this score on are kept as rows; below it nearly all are background noise."""

_BOX = ("x1", "y1", "x2", "y2")
_TYPES = {
    "int64": pa.int64(), "int32": pa.int32(), "float32": pa.float32(), "string": pa.string(), "bool": pa.bool_(), "list": pa.list_(pa.float32()),
}  # fmt: skip
SCHEMA = pa.schema([(name, _TYPES[column.type]) for column in COLUMNS for name in column.names])


@dataclass(frozen=True)
class _Image:
    """An image of a batch: its sample, place in the batch, network px per original px (4,), and kept detections in original px."""

    sample: Any
    index: int
    scale: np.ndarray
    det_box: np.ndarray
    det_score: np.ndarray


class _Row(NamedTuple):
    """The subject of a row: a box with its annotation and the (detection, IoU) that finds it, or a detection that finds none."""

    label: int
    annotation: dict[str, Any] | None
    gt: np.ndarray | None
    det: tuple[int, float] | None


class _AtLocations(NamedTuple):
    """The head's outputs at P locations of an image, on the host; without meaning where the location is -1.

    Attributes:
        locations: index into A. scores: of one class each. boxes: (P, 4) network px. distances: (P, 4) bins.
        probs: (P, 4 (n+1)) or None. centers: (P, 2) network px. strides: px. levels: index.
    """

    locations: list[int]
    scores: list[float]
    boxes: np.ndarray
    distances: list[list[float]]
    probs: list[list[float]] | None
    centers: np.ndarray
    strides: list[int]
    levels: list[int]


def _outputs_at(dense: DenseOutputs, index: int, locations: Tensor, labels: list[int]) -> _AtLocations:
    """Return the outputs of image ``index`` at (P,) locations, with the scores of these classes."""
    at = locations.clamp(min=0)
    return _AtLocations(
        locations=locations.tolist(),
        scores=dense.scores[index, at, to_device(torch.tensor(labels), at.device)].tolist(),
        boxes=dense.boxes[index, at].cpu().numpy(),
        distances=dense.distances[index, at].tolist(),
        probs=None if dense.probs is None else dense.probs[index, at].flatten(1).tolist(),
        centers=dense.centers[at].cpu().numpy().astype(np.float64),
        strides=dense.strides[at].long().tolist(),
        levels=dense.levels[at].tolist(),
    )


def _no_outputs(count: int) -> _AtLocations:
    """Return the outputs of a head without locations of its own (DETR), or whose outputs at locations are not read."""
    nowhere, nan = [-1] * count, float("nan")
    boxes, centers = np.full((count, 4), nan), np.full((count, 2), nan)
    return _AtLocations(nowhere, [nan] * count, boxes, [[nan] * 4] * count, None, centers, nowhere, nowhere)


def _scale(sample: Any) -> np.ndarray:
    """Return the network px per original px, (4,): x, y, x, y."""
    return np.tile(np.asarray(sample.metainfo.get("scale_factor", (1.0, 1.0)), np.float64), 2)  # CenterNet's test scales nothing


def _xyxy(annotations: list[dict[str, Any]]) -> np.ndarray:
    """Return the boxes of COCO annotations, (G, 4) xyxy in original px."""
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


class DistributionCollector:
    """Gathers rows batch by batch.

    Args:
        truth: the split's annotation file as read by the evaluator (`COCO` object).
        category_ids: category id of each label.
        settings: of the trial. Those of the GFL family say nothing of a detector of mmdet's: its bins are one stride wide.
        ambiguous: whether annotations carry two annotators' edges.
        least: score from which on an unmatched detection is kept.
        images: ids of the only images to look at; all when None.
    """

    def __init__(
        self, truth: Any, category_ids: np.ndarray, settings: Settings, ambiguous: bool, least: float = FALSE_POSITIVE_SCORE,
        images: frozenset[int] | None = None,
    ) -> None:  # fmt: skip
        self.truth, self.category_ids, self.ambiguous = truth, category_ids, ambiguous
        self.settings = settings if settings.detector == OWN else Settings()
        self.reg_max = self.settings.reg_max
        self.bin_width, self.bin_positions = unit_in_strides(self.settings), bin_positions(self.settings)
        self.least, self.images = least, images
        self.names = [truth.cats[int(category)]["name"] for category in category_ids]
        self.label_of = {int(category): label for label, category in enumerate(category_ids)}
        self.rows: list[dict[str, Any]] = []

    def wants(self, samples: list[Any]) -> bool:
        """Return True if any of these is among the images to look at."""
        return self.images is None or any(sample.img_id in self.images for sample in samples)

    def add(self, dense: DenseOutputs, geometry: Geometry, samples: list[Any]) -> None:
        """Add the rows of one batch.

        Args:
            dense: the head's outputs at every location.
            geometry: of the batch.
            samples: predicted data samples, boxes in original px.
        """
        if dense.probs is not None:
            self.reg_max = dense.probs.shape[3] - 1
        truths = [self._boxes(sample) for sample in samples]
        most = max((len(annotations) for annotations, _ in truths), default=0)
        views = 2 if self.ambiguous else 1
        boxes = torch.zeros(views, len(samples), most, 4)
        valid = torch.zeros(len(samples), most, dtype=torch.bool)
        for index, (present, variants) in enumerate(truths):
            if present:
                boxes[:, index, : len(present)] = variants
                valid[index, : len(present)] = True
        device = geometry.priors.device
        boxes, valid = to_device(boxes, device), to_device(valid, device)
        shapes = pad_shapes([sample.metainfo for sample in samples])
        topk, on_gpu = TOPK if self.settings.assigner in ASSIGNERS else self.settings.atss_topk, device.type != "cpu"
        assigned = [assign_batch(geometry, view, valid, shapes, topk, never_waits=on_gpu).assigned for view in boxes]
        for index, (sample, (present, _)) in enumerate(zip(samples, truths, strict=True)):
            if self.wants([sample]):
                self._image_rows(index, sample, present, [view[index] for view in assigned], dense)

    def add_detections(self, samples: list[Any]) -> None:
        """Add the rows of one batch of a detector without box distributions: boxes and detections alone.

        Args:
            samples: predicted data samples, boxes in original px.
        """
        for sample in samples:
            if self.wants([sample]):
                image, rows, _ = self._found(0, sample, self._boxes(sample)[0])
                if rows:
                    self._append(image, rows, [False] * len(rows), _no_outputs(len(rows)))

    def _boxes(self, sample: Any) -> tuple[list[dict[str, Any]], Tensor]:
        """Return the annotations of an image that are no crowd, and their boxes (views, G, 4) in network px."""
        annotations = [a for a in self.truth.imgToAnns.get(sample.img_id, []) if not a.get("iscrowd", 0)]
        if self.ambiguous:
            views = np.array([annotator_boxes(a) for a in annotations], np.float64).reshape(-1, 2, 4).transpose(1, 0, 2)
        else:
            views = _xyxy(annotations)[None]
        return annotations, torch.from_numpy(views * _scale(sample)).float()

    def _found(self, index: int, sample: Any, annotations: list[dict[str, Any]]) -> tuple[_Image, list[_Row], list[int]]:
        """Return an image, its boxes with the detections that find them, then its false positives, and the detections that these are."""
        found = sample.pred_instances
        det_box, det_score, det_label = (t.cpu().numpy() for t in (found.bboxes, found.scores, found.labels))
        image = _Image(sample, index, _scale(sample), det_box, det_score)
        gt = _xyxy(annotations)
        labels = np.array([self.label_of[a["category_id"]] for a in annotations], np.int64)
        match = _match(gt, labels, det_box, det_score, det_label)
        rows = [_Row(int(labels[row]), annotation, gt[row], match.get(row)) for row, annotation in enumerate(annotations)]
        taken = {detection for detection, _ in match.values()}
        wrong = [int(detection) for detection in np.flatnonzero(det_score >= self.least) if int(detection) not in taken]
        rows += [_Row(int(det_label[detection]), None, None, (detection, float("nan"))) for detection in wrong]
        return image, rows, wrong

    def _image_rows(self, index: int, sample: Any, annotations: list[dict[str, Any]], assigned: list[Tensor], dense: DenseOutputs) -> None:
        image, rows, wrong = self._found(index, sample, annotations)
        labels = np.array([row.label for row in rows[: len(annotations)]], np.int64)
        locations, scored = self._matched_locations(dense.scores[index], labels, assigned)
        if wrong:
            where = to_device(torch.from_numpy(image.det_box[wrong] * image.scale).to(dense.boxes.dtype), dense.boxes.device)
            gap = (dense.boxes[index] - where[:, None]).abs().sum(2)
            locations = torch.cat([locations, gap.argmin(1)])
        if rows:
            outputs = _outputs_at(dense, index, locations, [row.label for row in rows])
            self._append(image, rows, [*scored, *[False] * len(wrong)], outputs)

    @staticmethod
    def _matched_locations(scores: Tensor, labels: np.ndarray, assigned: list[Tensor]) -> tuple[Tensor, list[bool]]:
        """Return the location matched to each box, -1 without one, and whether all annotations of the box share locations.

        A box without a shared location is shown at its best location under any annotation; it is not scored.

        Args:
            scores: (A, C). labels: (G,) classes of the boxes. assigned: (A,) box index under each annotation.
        """
        boxes = torch.arange(len(labels), device=scores.device)
        views = torch.stack([view == boxes[:, None] for view in assigned])  # (views, G, A)
        common = views.all(0)
        scored = common.any(1)
        candidates = torch.where(scored[:, None], common, views.any(0))
        of_class = scores.t()[to_device(torch.from_numpy(labels), scores.device)]
        best = torch.where(candidates, of_class, -1.0).argmax(1)
        return torch.where(candidates.any(1), best, -1), scored.tolist()

    def _append(self, image: _Image, rows: list[_Row], scored: list[bool], outputs: _AtLocations) -> None:
        sample, scale = image.sample, image.scale
        nan = float("nan")
        gt = np.array([[nan] * 4 if row.gt is None else row.gt for row in rows])
        boxes = outputs.boxes / scale
        ious = bbox_overlaps(torch.from_numpy(boxes), torch.from_numpy(gt), is_aligned=True).tolist()
        for number, (label, annotation, box, det) in enumerate(rows):
            ambiguity = (annotation or {}).get("ambiguity") if self.ambiguous else None
            row: dict[str, Any] = {
                "image_id": sample.img_id,
                "file_name": self.truth.imgs[sample.img_id]["file_name"],
                "annotation_id": annotation["id"] if annotation else -1,
                "category_id": int(self.category_ids[label]),
                "category": self.names[label],
                "ambiguity": ambiguity["kind"] if ambiguity else "",
                "ambiguous_side": ambiguity["side"] if ambiguity else -1,
                "scale_x": scale[0], "scale_y": scale[1],
                "bin_width": self.bin_width,
                "bin_positions": list(self.bin_positions or ()),
                "bins": self.reg_max + 1 if outputs.probs is not None else 0,
                "scored": scored[number],
                "edge_a": nan, "edge_b": nan, "prob_a": nan,
                "probs": [], "expectation": [nan] * 4, "target": [nan] * 4,
                "level": -1, "stride": 0, "cell_x": nan, "cell_y": nan, "score": nan, "cell_iou": nan,
            }  # fmt: skip
            row |= _parts("gt", box) | _parts("cell", None) | _parts("det", None) | {"det_score": nan, "det_iou": nan}
            if det is not None:
                row |= _parts("det", image.det_box[det[0]]) | {"det_score": float(image.det_score[det[0]]), "det_iou": det[1]}
            if outputs.locations[number] >= 0:
                stride, center = outputs.strides[number], outputs.centers[number]
                unit = stride * self.bin_width
                row |= _parts("cell", boxes[number]) | {
                    "level": outputs.levels[number], "stride": stride, "cell_x": center[0] / scale[0], "cell_y": center[1] / scale[1],
                    "score": outputs.scores[number], "expectation": outputs.distances[number],
                }  # fmt: skip
                if outputs.probs is not None:
                    row["probs"] = outputs.probs[number]
                if box is not None:
                    row["target"] = (_distances(center, box * scale) / unit).tolist()
                    row["cell_iou"] = ious[number]
                if annotation and ambiguity:
                    views = annotator_boxes(annotation)
                    edges = [_distances(center, np.asarray(view, np.float64) * scale)[ambiguity["side"]] / unit for view in views]
                    row |= {"edge_a": edges[0], "edge_b": edges[1], "prob_a": ambiguity["probs"][0]}
            self.rows.append(row)

    def write(self, path: Path) -> None:
        """Write distributions.parquet atomically."""
        table = pa.Table.from_pylist(self.rows, schema=SCHEMA)
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=4096)

    def truth_scores(self) -> TruthScores:
        """Return the three scores against the known truth, and the counts behind them."""
        rows = [row for row in self.rows if row["annotation_id"] >= 0]
        columns = {key: [row[key] for row in rows] for key in ("expectation", "ambiguous_side", "prob_a", "scored")}
        columns["edges"] = [(row["edge_a"], row["edge_b"]) for row in rows]
        probs = [row["probs"] or [float("nan")] * 4 * row["bins"] for row in rows]
        return truth_scores(probs=probs, reg_max=self.reg_max, positions=self.bin_positions, **columns)


def _parts(prefix: str, box: np.ndarray | None) -> dict[str, float]:
    values = [float("nan")] * 4 if box is None else [float(value) for value in box]
    return {f"{prefix}_{part}": value for part, value in zip(_BOX, values, strict=True)}


def _distances(center: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the distances (4,) from a point to the sides of an xyxy box: left, top, right, bottom."""
    return np.array([center[0] - box[0], center[1] - box[1], box[2] - center[0], box[3] - center[1]])


def _match(
    gt: np.ndarray, labels: np.ndarray, det_box: np.ndarray, det_score: np.ndarray, det_label: np.ndarray
) -> dict[int, tuple[int, float]]:
    """Return {ground truth: (detection, IoU)}: detections by falling score, each to the free box of its class with the best IoU."""
    if not len(gt) or not len(det_box):
        return {}
    ious = bbox_overlaps(torch.from_numpy(det_box).double(), torch.from_numpy(gt)).numpy()
    match: dict[int, tuple[int, float]] = {}
    for detection in np.argsort(-det_score, kind="stable"):
        free = [g for g in np.flatnonzero(labels == det_label[detection]) if int(g) not in match]
        if free:
            best = max(free, key=lambda g: ious[detection, g])
            if ious[detection, best] >= MATCH_IOU:
                match[int(best)] = (int(detection), float(ious[detection, best]))
    return match
