"""The columns of distributions.parquet: the distributions of a trial's boxes, a row for each box."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """Columns with one type and one meaning.

    Attributes:
        names: Names of the columns.
        type: ``int64``, ``int32``, ``float32``, ``string``, ``bool``, or ``list`` for a list of float32.
        meaning: Their meaning with its unit. ``o-px`` is a pixel of the original image, ``n-px`` one of the network's input.
    """

    names: tuple[str, ...]
    type: str
    meaning: str


def _box(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for part in ("x1", "y1", "x2", "y2"))


COLUMNS = (
    Column(("image_id", "annotation_id", "category_id"), "int64", "Ids in the annotation file; `annotation_id` is -1 for an unmatched detection."),
    Column(("file_name", "category"), "string", "File of the image; name of the class."),
    Column(_box("gt"), "float32", "Annotated box, o-px."),
    Column(("level", "stride"), "int32", "Pyramid level from 0, and its stride in n-px; -1 and 0 without a location."),
    Column(("cell_x", "cell_y"), "float32", "Centre of the location matched to the box, o-px."),
    Column(("scale_x", "scale_y"), "float32", "n-px for one o-px."),
    Column(("score",), "float32", "Score of the box's class at that location."),
    Column(_box("cell"), "float32", "Box decoded at that location, o-px."),
    Column(("cell_iou",), "float32", "IoU of the decoded box with the annotated one."),
    Column(
        _box("det"), "float32",
        "Detection after NMS that is matched to the box, o-px: same class, IoU at least 0.5, best score first, each once. NaN when missed.",
    ),
    Column(("det_score", "det_iou"), "float32", "Score of the detection, and its IoU with the annotated box; NaN when missed."),
    Column(("bins",), "int32", "`reg_max` + 1; 0 without a distribution, as for a Dirac box."),
    Column(("bin_width",), "float32", "Width of a bin in strides. One bin is `stride * bin_width` n-px."),
    Column(
        ("bin_positions",), "list",
        "Positions of the bins in strides, only with `bins: weighted`; empty where bin i is at i. Files of version 0.1 lack the column.",
    ),
    Column(("probs",), "list", "4 x `bins` probabilities: left, top, right, bottom. Empty without a distribution."),
    Column(("expectation",), "list", "Decoded distances from the location to the four sides, in bins."),
    Column(("target",), "list", "Distances from the location to the sides of the annotated box, in bins."),
    Column(("ambiguity",), "string", "Kind of ambiguity of the box; empty if it has none."),
    Column(("ambiguous_side",), "int32", "0 to 3 for left, top, right, bottom; -1 for none."),
    Column(("edge_a", "edge_b"), "float32", "The two true edges of the ambiguous side, in bins."),
    Column(("prob_a",), "float32", "Probability of the first true edge."),
    Column(("scored",), "bool", "Whether the location is assigned under every possible annotation of the box: the ideal distribution is known there."),
)  # fmt: skip
"""All columns, in the order of the file."""
