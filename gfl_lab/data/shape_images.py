"""The images of ambiguous_shapes and their annotations, drawn from a random generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("box", "ellipse", "triangle")
KINDS = ("translucent", "blurred", "occluded")
SHORT_PROBABILITY = {"translucent": 0.5, "blurred": 0.6, "occluded": 0.4}
"""Probability that an annotator draws the near edge (``edges[0]``); the far one has the rest."""

BODY = (26, 56)  # px of a body along its ambiguous axis
ACROSS = (24, 50)  # px across it
TAIL = (28, 34)  # px between the two edges: 3.5 to 4.25 bins at stride 8
OBJECTS = (1, 2, 2, 2, 2, 3, 3)  # drawn from
GAP = 3  # px kept free between the boxes of two objects
BORDER = 2  # px kept free at the image border

Pixels = NDArray[np.int32]


def _lattice_noise(rng: np.random.Generator, size: int, cell: int, amplitude: int) -> Pixels:
    """Return (size, size) smooth noise in [-amplitude, amplitude]: random values every ``cell`` px, linear between."""
    nodes = size // cell + 2
    grid = rng.integers(-amplitude, amplitude + 1, (nodes, nodes), dtype=np.int32)
    whole, part = np.divmod(np.arange(size, dtype=np.int32), np.int32(cell))
    rows = grid[whole] * (cell - part)[:, None] + grid[whole + 1] * part[:, None]
    return (rows[:, whole] * (cell - part) + rows[:, whole + 1] * part) // (cell * cell)


def _colour(rng: np.random.Generator) -> Pixels:
    """Return a saturated RGB colour: one channel high, one low, one anywhere."""
    channels = np.array([rng.integers(205, 256), rng.integers(5, 50), rng.integers(5, 256)], np.int32)
    return channels[rng.permutation(3)]


def _background(rng: np.random.Generator, size: int) -> Pixels:
    """Return (size, size, 3) muted texture with thin strokes and specks: nothing with the breadth of a body or a tail."""
    tone = rng.integers(80, 150)
    image = np.empty((size, size, 3), np.int32)
    light = _lattice_noise(rng, size, 32, 26) + _lattice_noise(rng, size, 8, 12)
    for channel in range(3):
        image[..., channel] = tone + rng.integers(-14, 15) + light
    y, x = np.ogrid[:size, :size]
    for _ in range(rng.integers(4, 9)):  # strokes: all pixels within 1 px of a segment's line
        x0, y0, dx, dy = rng.integers(0, size), rng.integers(0, size), rng.integers(-40, 41), rng.integers(-40, 41)
        across = np.abs((x - x0) * dy - (y - y0) * dx)
        along = (x - x0) * dx + (y - y0) * dy
        length2 = dx * dx + dy * dy
        image[(across * across <= length2) & (along >= 0) & (along <= length2)] = rng.integers(30, 220, 3)
    for _ in range(rng.integers(6, 14)):  # specks
        x0, y0, radius = rng.integers(0, size), rng.integers(0, size), rng.integers(1, 4)
        image[(x - x0) ** 2 + (y - y0) ** 2 <= radius * radius] = _colour(rng) * 3 // 4 + 20
    return image


def body_rows(shape: str, length: int, across: int, tip: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and one-past-last pixel of each of the ``across`` rows of a body that touches all sides of length x across.

    ``tip``: which way a triangle points, 0 to 3: along +, along -, up, down.
    """
    row = np.arange(across, dtype=np.int64)
    if shape == "box":
        return np.zeros(across, np.int64), np.full(across, length, np.int64)
    if shape == "ellipse":
        x = 2 * np.arange(length, dtype=np.int64)[None, :] + 1 - length
        y = 2 * row[:, None] + 1 - across
        inside = x * x * across * across + y * y * length * length <= length * length * across * across
        return inside.argmax(1), length - inside[:, ::-1].argmax(1)
    if tip >= 2:  # pointing across: the width grows by rows
        order = row if tip == 2 else across - 1 - row
        width = np.maximum((order + 1) * length // across, 2 - length % 2)
        first = (length - width) // 2
        return first, first + width
    centre2 = np.abs(2 * row + 1 - across)  # 0 in the middle row, about `across` at the ends
    reach = np.maximum(length - centre2 * length // across, 1)
    reach[centre2 <= 1] = length
    return (np.zeros(across, np.int64), reach) if tip == 0 else (length - reach, np.full(across, length, np.int64))


def draw_object(
    rng: np.random.Generator, canvas: Pixels, shape: str, length: int, across: int, tail: int, kind: str | None, decoy: bool
) -> None:
    """Paint one object on ``canvas`` (rows, columns, 3), across its rows' middle, from column 0 on, its tail towards the last.

    The tail is the body swept along the axis, so that both edges of the box are reached exactly.
    """
    rows = canvas.shape[0]
    margin = (rows - across) // 2
    columns = np.arange(canvas.shape[1])
    first, last = body_rows(shape, length, across, int(rng.integers(4)))
    body = (columns >= first[:, None]) & (columns < last[:, None])
    swept = (columns >= first[:, None]) & (columns < last[:, None] + tail)
    inner = canvas[margin : margin + across]
    shade = 256 - 70 * np.arange(across, dtype=np.int32) // across
    grain = _lattice_noise(rng, max(across, canvas.shape[1]), 6, 10)[:across, : canvas.shape[1], None]
    paint = _colour(rng)[None, None, :] * shade[:, None, None] // 256 + grain
    alpha = np.where(body, 256, 0).astype(np.int32)
    if kind == "translucent":
        alpha = np.where(swept & ~body, rng.integers(105, 140), alpha)
    elif kind == "blurred":
        # the fade ends at a quarter, not at nothing: the far edge, too, is a place that one can point at
        distance = np.clip(columns[None, :] - last[:, None], 0, tail)
        streak = rng.integers(-24, 25, (across, 1), dtype=np.int32)
        alpha = np.where(swept & ~body, 185 - 115 * distance // tail + streak * (tail - distance) // tail, alpha)
    elif kind == "occluded":
        alpha = np.where(swept, 256, 0)
    alpha = alpha.astype(np.int32)[..., None]
    inner[...] = (paint * alpha + inner * (256 - alpha)) // 256
    if kind == "occluded" or decoy:
        # the bar starts where A stops; beyond it at least 12 px of the object go on (a decoy bar hides nothing)
        start = length if kind == "occluded" else length + int(rng.integers(0, 3))
        width = int(rng.integers(10, 15))
        tone = rng.integers(20, 56, 3) + rng.integers(0, 160)
        bar = tone + _lattice_noise(rng, max(rows, width), 5, 8)[:rows, :width, None]
        canvas[:, start : start + width] = bar[:, : canvas.shape[1] - start]


def turned(canvas: Pixels, side: int) -> Pixels:
    """Return a view of ``canvas`` in which its side ``side`` (naming.SIDES) comes last along axis 1."""
    view = canvas if side in (0, 2) else canvas.swapaxes(0, 1)
    return view if side in (2, 3) else view[:, ::-1]


def draw_image(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Return one image (size, size, 3) and its annotations, ids left out."""
    image = _background(rng, size)
    taken: list[tuple[int, int, int, int]] = []
    annotations = []
    for _ in range(int(rng.choice(OBJECTS))):
        category = int(rng.integers(len(CLASSES)))
        kind = KINDS[rng.integers(len(KINDS))] if rng.random() < 0.5 else None
        side = int(rng.integers(4))
        length, across = int(rng.integers(BODY[0], BODY[1] + 1)), int(rng.integers(ACROSS[0], ACROSS[1] + 1))
        tail = int(rng.integers(TAIL[0], TAIL[1] + 1)) if kind else 0
        if kind is None and rng.random() < 0.5:  # a clear object as long as an ambiguous one with its tail
            length += int(rng.integers(TAIL[0], TAIL[1] + 1))
        decoy = kind is None and length <= BODY[1] and rng.random() < 0.15
        # px that the painted patch needs beyond the box: a bar overhangs by 4, and a decoy bar lies outside
        margin = 4 if kind == "occluded" or decoy else 0
        along = length + (tail or (17 if decoy else 0))
        wide, high = (along, across + 2 * margin) if side in (0, 2) else (across + 2 * margin, along)
        for _ in range(40):
            x, y = (int(rng.integers(BORDER, max(size - extent - BORDER, BORDER) + 1)) for extent in (wide, high))
            spot = (x - GAP, y - GAP, x + wide + GAP, y + high + GAP)
            if (
                x + wide <= size - BORDER
                and y + high <= size - BORDER
                and not any(spot[0] < b[2] and b[0] < spot[2] and spot[1] < b[3] and b[1] < spot[3] for b in taken)
            ):
                break
        else:
            continue
        taken.append((x, y, x + wide, y + high))
        patch = turned(image[y : y + high, x : x + wide], side)
        draw_object(rng, patch, CLASSES[category], length, across, tail, kind, decoy)
        # the long box of the object itself: without the bar's overhang and the decoy
        box = [x, y, x + wide, y + high]
        axis = 0 if side in (0, 2) else 1
        box[1 - axis] += margin
        box[3 - axis] -= margin
        near = box[axis] + length if side >= 2 else box[axis + 2] - length
        if kind is None:
            box[side] = near
        ambiguity = None
        if kind:
            first = SHORT_PROBABILITY[kind]
            ambiguity = {"side": side, "kind": kind, "edges": [near, box[side]], "probs": [first, round(1 - first, 6)]}
            if rng.random() < first:
                box[side] = near
        width, height = box[2] - box[0], box[3] - box[1]
        annotations.append(
            {
                "category_id": category + 1,
                "bbox": [box[0], box[1], width, height],
                "area": width * height,
                "iscrowd": 0,
                "ambiguity": ambiguity,
            }
        )
    image += rng.integers(-7, 8, image.shape, dtype=np.int32)
    return np.clip(image, 0, 255).astype(np.uint8), annotations
