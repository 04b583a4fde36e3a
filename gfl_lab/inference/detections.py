"""A detection with the distributions of its edges, as a row and as JSON."""

from __future__ import annotations

from typing import TypedDict

from gfl_lab import naming


class DetectionRow(TypedDict):
    """The columns of distributions.parquet that a detection fills.

    Boxes are xyxy in px of the image, ``stride`` in px of the network's input; ``scale_x`` and ``scale_y`` are px of the input for
    one of the image. ``probs`` holds four sides of ``bins`` numbers, none for a box without distributions; ``bin_positions`` where
    the bins are, in bins, none where bin i is at i; ``expectation`` is the distances of the four sides in bins.
    """

    category: str
    det_score: float
    det_x1: float
    det_y1: float
    det_x2: float
    det_y2: float
    cell_x: float
    cell_y: float
    scale_x: float
    scale_y: float
    stride: int
    bins: int
    bin_width: float
    bin_positions: list[float]
    probs: list[float]
    expectation: list[float]


def detection_json(row: DetectionRow, distributions: bool) -> dict[str, object]:
    """Return a detection as JSON; places in px of the image, xyxy, distances in bins outwards from the location.

    Args:
        distributions: add the location, and the distributions of the four edges.
    """
    box = (row["det_x1"], row["det_y1"], row["det_x2"], row["det_y2"])
    found: dict[str, object] = {
        "class": row["category"],
        "score": round(row["det_score"], 6),
        "box": [round(value, 3) for value in box],
    }
    if not distributions:
        return found
    bins, probs, bin_px = row["bins"], [round(p, 6) for p in row["probs"]], row["stride"] * row["bin_width"]
    return found | {
        "cell": [round(row["cell_x"], 3), round(row["cell_y"], 3)],
        "stride": row["stride"],
        "bin_px": [round(bin_px / row["scale_x"], 6), round(bin_px / row["scale_y"], 6)],
        "expectation": dict(zip(naming.SIDES, (round(value, 6) for value in row["expectation"]), strict=True)),
        **({"bin_positions": [round(at, 6) for at in row["bin_positions"]]} if row["bin_positions"] else {}),
        "distributions": {side: probs[i * bins : (i + 1) * bins] for i, side in enumerate(naming.SIDES)} if bins else None,
    }
