"""``ambiguous_shapes``: generated images in which the places of some box edges are ambiguous, and the ambiguity is known.

Each image holds one to three objects in clutter. About half of them have one side where two annotators would draw the edge at
two places: the annotation keeps both and their probabilities, so the ideal distribution of every side is known. COCO format:
``images/*.png``, ``annotations/instances_{train,val}.json`` and ``dataset.json``; docs/ambiguous-shapes.md has the reasons.

Pixels come from NumPy's ``Generator`` and integer arithmetic alone: no BLAS, no trigonometry, no float rounding. So the same
spec gives the same pixels on every machine, which ``dataset.json`` records as a digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gfl_lab import naming
from gfl_lab.errors import DataError, Problem

NAME = "ambiguous_shapes"
GENERATOR_VERSION = 1
"""Raised whenever the same spec gives other pixels or annotations than before."""

CLASSES = ("box", "ellipse", "triangle")
KINDS = ("translucent", "blurred", "occluded")
SHORT_PROBABILITY = {"translucent": 0.5, "blurred": 0.6, "occluded": 0.4}
"""Probability that an annotator draws the near edge (``edges[0]``); the far one has the rest."""

DATASET_FILE = "dataset.json"

BODY = (26, 56)  # px of a body along its ambiguous axis
ACROSS = (24, 50)  # px across it
TAIL = (28, 34)  # px between the two edges: 3.5 to 4.25 bins at stride 8
OBJECTS = (1, 2, 2, 2, 2, 3, 3)  # drawn from
GAP = 3  # px kept free between the boxes of two objects
BORDER = 2  # px kept free at the image border

Box = tuple[float, float, float, float]
Pixels = NDArray[np.int32]


@dataclass(frozen=True)
class AmbiguousShapesSpec:
    """The data set to generate. Equal specs give equal data.

    ``size`` is the side of the square images, px. Objects keep their size in px, whatever the image.
    """

    train_images: int = 800
    val_images: int = 200
    size: int = 128
    seed: int = 0
    version: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        problems = [
            Problem(f"{key} is {value!r}: it must be a whole number from {low} to {high}", NAME)
            for key, low, high in (("train_images", 1, 10**6), ("val_images", 1, 10**6), ("size", 128, 4096), ("seed", 0, 2**31 - 1))
            if not isinstance(value := getattr(self, key), int) or isinstance(value, bool) or not low <= value <= high
        ]
        if self.version != GENERATOR_VERSION:
            problems.append(Problem(f"version is {self.version}: this gfl-lab generates version {GENERATOR_VERSION}", NAME))
        if problems:
            raise DataError(problems)

    @property
    def folder(self) -> str:
        """Name of the data set's folder: the same for equal specs only."""
        return f"{NAME}-{naming.digest(asdict(self))}"


# --- reading annotations --------------------------------------------------------------------------


def _corners(annotation: Mapping[str, Any]) -> list[float]:
    x, y, width, height = (float(v) for v in annotation["bbox"])
    return [x, y, x + width, y + height]


def annotator_boxes(annotation: Mapping[str, Any]) -> tuple[Box, Box]:
    """Return the boxes (x1, y1, x2, y2), px, that annotators A and B draw; the same box twice where no side is ambiguous."""
    ambiguity = annotation.get("ambiguity")
    corners = _corners(annotation)
    boxes: list[Box] = []
    for k in range(2):
        box = list(corners)
        if ambiguity:
            box[ambiguity["side"]] = float(ambiguity["edges"][k])
        boxes.append((box[0], box[1], box[2], box[3]))
    return boxes[0], boxes[1]


def draw_box(annotation: Mapping[str, Any], u: float) -> Box:
    """Return the box (x1, y1, x2, y2), px, of one annotator drawn by ``u``, uniform in [0, 1): A where u < probs[0], else B."""
    boxes = annotator_boxes(annotation)
    ambiguity = annotation.get("ambiguity")
    return boxes[0] if not ambiguity or u < ambiguity["probs"][0] else boxes[1]


# --- pixels ---------------------------------------------------------------------------------------


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


def _body_rows(shape: str, length: int, across: int, tip: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def _draw_object(
    rng: np.random.Generator, canvas: Pixels, shape: str, length: int, across: int, tail: int, kind: str | None, decoy: bool
) -> None:
    """Paint one object on ``canvas`` (rows, columns, 3), across its rows' middle, from column 0 on, its tail towards the last.

    The tail is the body swept along the axis, so that both edges of the box are reached exactly.
    """
    rows = canvas.shape[0]
    margin = (rows - across) // 2
    columns = np.arange(canvas.shape[1])
    first, last = _body_rows(shape, length, across, int(rng.integers(4)))
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


def _turned(canvas: Pixels, side: int) -> Pixels:
    """Return a view of ``canvas`` in which its side ``side`` (naming.SIDES) comes last along axis 1."""
    view = canvas if side in (0, 2) else canvas.swapaxes(0, 1)
    return view if side in (2, 3) else view[:, ::-1]


def _image(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
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
        patch = _turned(image[y : y + high, x : x + wide], side)
        _draw_object(rng, patch, CLASSES[category], length, across, tail, kind, decoy)
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


# --- files ----------------------------------------------------------------------------------------


def _write(spec: AmbiguousShapesSpec, folder: Path) -> dict[str, Any]:
    """Write the data set into ``folder``; returns the content of dataset.json."""
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    content = hashlib.sha256()
    files: dict[str, str] = {}
    image_id = annotation_id = 0
    for number, (split, count) in enumerate((("train", spec.train_images), ("val", spec.val_images))):
        images, annotations = [], []
        for index in range(count):
            # a generator per image: more images leave the earlier ones as they are
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([spec.seed, spec.version, number, index])))
            pixels, found = _image(rng, spec.size)
            while not found:
                pixels, found = _image(rng, spec.size)
            image_id += 1
            name = f"{split}_{index:05d}.png"
            images.append({"id": image_id, "file_name": name, "width": spec.size, "height": spec.size})
            for annotation in found:
                annotation_id += 1
                annotations.append({"id": annotation_id, "image_id": image_id, **annotation})
            content.update(pixels.tobytes())
            Image.fromarray(pixels).save(folder / "images" / name, format="PNG", compress_level=1)
        coco = {
            "info": {"description": f"{NAME} {split}, generated by gfl-lab", "spec": asdict(spec)},
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)],
            "images": images,
            "annotations": annotations,
        }
        text = naming.canonical_json(coco)
        content.update(text.encode())
        relative = f"annotations/instances_{split}.json"
        (folder / relative).write_text(text, encoding="utf-8")
        files[relative] = hashlib.sha256(text.encode()).hexdigest()
    return {
        "format": naming.FORMAT_VERSION,
        "name": NAME,
        "spec": asdict(spec),
        "digest": content.hexdigest()[:16],
        "classes": list(CLASSES),
        "files": files,
    }


def describe(folder: Path) -> dict[str, Any] | None:
    """Return ``dataset.json`` of a complete generated data set; None when the folder is not one, or is damaged."""
    try:
        value = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))
        spec = AmbiguousShapesSpec(**value["spec"])
        if value["format"] != naming.FORMAT_VERSION or value["name"] != NAME:
            return None
        for relative, checksum in value["files"].items():
            if hashlib.sha256((folder / relative).read_bytes()).hexdigest() != checksum:
                return None
        with os.scandir(folder / "images") as entries:
            images = sum(entry.name.endswith(".png") and entry.stat().st_size > 0 for entry in entries)
        return value if images == spec.train_images + spec.val_images else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        return None


def verify(folder: Path) -> bool:
    """Return True if pixels and annotations are the ones whose digest dataset.json records. Decodes every image."""
    about = describe(folder)
    if about is None:
        return False
    content = hashlib.sha256()
    for split in ("train", "val"):
        text = (folder / f"annotations/instances_{split}.json").read_bytes()
        for entry in json.loads(text)["images"]:
            try:
                with Image.open(folder / "images" / entry["file_name"]) as image:
                    content.update(image.convert("RGB").tobytes())
            except (OSError, SyntaxError):
                return False
        content.update(text)
    return content.hexdigest()[:16] == about["digest"]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the system when the process ends, however it ends
        yield


def generate(spec: AmbiguousShapesSpec, root: Path) -> Path:
    """Make the data set under ``root``, unless it is there; returns its folder, ``root / spec.folder``.

    Several processes may call it at once: one generates, the others wait and reuse. The folder appears complete or not at
    all; a folder that was damaged since is made again.
    """
    root = Path(root)
    folder = root / spec.folder
    if describe(folder):
        return folder
    with _locked(root / f".{spec.folder}.lock"):
        if describe(folder):
            return folder
        for stale in root.glob(f".{spec.folder}.*.tmp"):
            shutil.rmtree(stale, ignore_errors=True)  # of a process that was killed: with the lock held, no other works on it
        temporary = Path(tempfile.mkdtemp(dir=root, prefix=f".{spec.folder}.", suffix=".tmp"))
        try:
            about = _write(spec, temporary)
            (temporary / DATASET_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            temporary.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
