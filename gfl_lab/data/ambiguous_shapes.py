"""``ambiguous_shapes``: generated images in which the places of some box edges are ambiguous, and the ambiguity is known.

Each image holds one to three objects in clutter. About half of them have one side where two annotators would draw the edge at
two places: the annotation keeps both and their probabilities, so the ideal distribution of every side is known. COCO format:
``images/*.png``, ``annotations/instances_{train,val}.json`` and ``dataset.json``; docs/ambiguous-shapes.md has the reasons.

Pixels come from NumPy's ``Generator`` and integer arithmetic alone: no BLAS, no trigonometry, no float rounding. So the same
spec gives the same pixels on every machine, which ``dataset.json`` records as a digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gfl_lab import naming
from gfl_lab.data.shape_images import CLASSES, draw_image
from gfl_lab.errors import DataError, Problem
from gfl_lab.processes import one_at_a_time

NAME = naming.GENERATED_DATA
GENERATOR_VERSION = 1
"""Raised whenever the same spec gives other pixels or annotations than before."""

DATASET_FILE = "dataset.json"

Box = tuple[float, float, float, float]


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


class AnnotatedBox(NamedTuple):
    """A box as its annotation has it, (x1, y1, x2, y2) in px of the image.

    ``side`` is the index in ``naming.SIDES`` of the side that annotators draw at either of ``edges`` (px), with the probabilities
    ``probs``; -1 where no side is ambiguous.
    """

    box: Box
    side: int = -1
    edges: tuple[float, float] | None = None
    probs: tuple[float, float] | None = None

    @property
    def views(self) -> tuple[Box, Box]:
        """The boxes that annotators A and B draw; the same box twice where no side is ambiguous."""
        return self._with_edge(0), self._with_edge(1)

    def _with_edge(self, annotator: int) -> Box:
        x1, y1, x2, y2 = (self.edges[annotator] if self.edges and index == self.side else value for index, value in enumerate(self.box))
        return x1, y1, x2, y2


def read_annotation(annotation: Mapping[str, Any]) -> AnnotatedBox:
    """Return the box of an annotation in COCO's format, with its ambiguous side if the data set records one."""
    x, y, width, height = (float(value) for value in annotation["bbox"])
    box = (x, y, x + width, y + height)
    ambiguity = annotation.get("ambiguity")
    if not ambiguity:
        return AnnotatedBox(box)
    (near, far), (first, second) = ambiguity["edges"], ambiguity["probs"]
    return AnnotatedBox(box, int(ambiguity["side"]), (float(near), float(far)), (float(first), float(second)))


def annotator_boxes(annotation: Mapping[str, Any]) -> tuple[Box, Box]:
    """Return the boxes (x1, y1, x2, y2), px, that annotators A and B draw; the same box twice where no side is ambiguous."""
    return read_annotation(annotation).views


def draw_box(annotation: Mapping[str, Any], u: float) -> Box:
    """Return the box (x1, y1, x2, y2), px, of one annotator drawn by ``u``, uniform in [0, 1): A where u < probs[0], else B."""
    found = read_annotation(annotation)
    first, second = found.views
    return first if found.probs is None or u < found.probs[0] else second


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
            pixels, found = draw_image(rng, spec.size)
            while not found:
                pixels, found = draw_image(rng, spec.size)
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


def generate(spec: AmbiguousShapesSpec, root: Path) -> Path:
    """Make the data set under ``root``, unless it is there; returns its folder, ``root / spec.folder``.

    Several processes may call it at once: one generates, the others wait and reuse. The folder appears complete or not at
    all; a folder that was damaged since is made again.
    """
    root = Path(root)
    folder = root / spec.folder
    if describe(folder):
        return folder
    with one_at_a_time(root / f".{spec.folder}.lock"):
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
