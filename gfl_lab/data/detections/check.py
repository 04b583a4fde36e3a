"""Reading one detection file against annotations: everything that does not fit, with its likely cause."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gfl_lab.addresses import readable
from gfl_lab.data.detections.readers import RawDetections, is_text_folder, read_results, read_text_folder
from gfl_lab.data.detections.readings import (
    AS_IS,
    CLASS_IDS,
    FROM_ZERO,
    LAYOUTS,
    LEAST,
    Evidence,
    Found,
    ImageReading,
    by_id,
    by_name,
    clearly_better,
    labels_of,
    layout_words,
)
from gfl_lab.data.detections.truth import Truth
from gfl_lab.data.findings import Findings, listed, show
from gfl_lab.metrics.coco_records import Records
from gfl_lab.wording import plural

MAX_DETS = 100
"""Detections counted for each image and class, as COCO does."""
SHARES = 2.0
"""No coordinate above this: they are shares of the image."""
_ENOUGH = 0.5
"""Share of objects with a detection on them from which the documented reading of boxes is not doubted."""


@dataclass(frozen=True)
class Options:
    """The readings that a user has given: of class ids and of boxes, by arm; ``""`` is every arm."""

    class_ids: Mapping[str, str] = field(default_factory=dict)
    boxes: Mapping[str, str] = field(default_factory=dict)

    def of(self, which: Mapping[str, str], arm: str) -> str:
        """Return the reading for an arm; empty if none was given."""
        return which.get(arm) or which.get("", "")


@dataclass(frozen=True)
class Detections:
    """The detections of one file, in its order, as they are evaluated.

    Attributes:
        arm, path: where they are from. file: what messages call it.
        position: (D,) of the image in the annotations; label: (D,) class from 0; score: (D,); box: (D, 4) xyxy, px; area: (D,) px^2.
        notes: sentences on how the file was read.
    """

    arm: str
    path: Path
    file: str
    position: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    area: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over the detections, 16 hex digits: the same for a file and its gzipped copy."""
        total = hashlib.sha256()
        for array in (self.position, self.label, self.score, self.box):
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()[:16]

    def records(self, truth: Truth) -> Records:
        """Return detections and annotations as evaluations take them."""
        return Records(
            image_ids=truth.image_ids, det_image=truth.image_ids[self.position], det_label=self.label, det_score=self.score,
            det_box=self.box, gt_image=truth.image, gt_label=truth.label, gt_area=truth.area, gt_crowd=truth.crowd, gt_id=truth.number,
            gt_box=truth.box, classes=truth.classes, max_dets=MAX_DETS, det_area=self.area,
        )  # fmt: skip


def read_detections(arm: str, path: Path, truth: Truth, options: Options, findings: Findings) -> Detections | None:
    """Read a file or a folder of text files; None with findings if anything does not fit."""
    file = readable(str(path))
    problems = Findings()
    if path.suffix == ".txt" and path.is_file():
        problems.add(
            "single text files", "is one text file", file, "", f"Give the folder of the text files: {arm}={readable(str(path.parent))}"
        )
        raw = None
    else:
        raw = (read_text_folder if is_text_folder(path) else read_results)(path, file, problems)
    found = None if raw is None else _Check(arm, path, file, raw, truth, options, problems).run()
    findings.extend(problems)
    return None if problems else found


class _Check:
    """The check of one file. Problems are added as they are found, so that all of a file are named at once."""

    def __init__(self, arm: str, path: Path, file: str, raw: RawDetections, truth: Truth, options: Options, findings: Findings) -> None:
        self.arm, self.path, self.file, self.raw, self.truth, self.findings = arm, path, file, raw, truth, findings
        self.class_ids = options.of(options.class_ids, arm)
        self.layout = options.of(options.boxes, arm)
        self.notes: list[str] = []

    def run(self) -> Detections:
        raw, truth = self.raw, self.truth
        self._told()
        self._scores()
        position = self._images()
        evidence = Evidence(truth, position, raw.boxes, raw.scores)
        layout = self.layout or raw.layout
        found = self._boxes(evidence, layout)
        label = self._classes(found)
        sizes = truth.sizes[position].astype(np.float64) if len(position) else np.zeros((0, 2))
        box = LAYOUTS[layout](raw.boxes, sizes)
        self._negative(box)
        extent = raw.boxes[:, 2:] if layout == "xywh" else box[:, 2:] - box[:, :2]
        return Detections(self.arm, self.path, self.file, position, label, raw.scores, box, extent.prod(axis=1), tuple(self.notes))

    def _add(self, kind: str, message: str, hint: str = "", item: str = "") -> None:
        self.findings.add(kind, message, self.file, item, hint)

    def _told(self) -> None:
        """Note the readings that were given and are not those of the format."""
        if self.class_ids not in ("", FROM_ZERO if self.raw.text else AS_IS):
            self.notes.append(f"class ids are read as {_reading_words(self.class_ids)}, as requested.")
        if self.layout not in ("", self.raw.layout):
            self.notes.append(f"boxes are read as {layout_words(self.layout)}, as requested.")

    # --- scores ---

    def _scores(self) -> None:
        scores = self.raw.scores
        if not len(scores):
            self.notes.append("holds no detection: its AP is 0.")
        elif scores.max() > 1:
            percent = 2 < scores.max() <= 100
            hint = "They seem to be percent: divide them by 100." if percent else "Write scores from 0 to 1."
            count = int((scores > 1).sum())
            self._add("scores above 1", f"{plural(count, 'score')} of {len(scores):,} above 1; the highest is {scores.max():g}", hint)
        if len(scores) and scores.min() < 0:
            self._add(
                "scores below 0",
                f"{plural(int((scores < 0).sum()), 'score')} below 0; the lowest is {scores.min():g}",
                "Write scores from 0 to 1.",
            )

    # --- images ---

    def _images(self) -> np.ndarray:
        raw, truth = self.raw, self.truth
        names = by_name(raw.images, truth)
        ids = names if raw.text else by_id(raw.images, truth)
        if raw.text or (ids.unknown and not names.unknown):
            chosen = names
            if not raw.text:
                self.notes.append("images are named by their files, which the annotations have.")
        elif not ids.unknown and not names.unknown and (ids.position != names.position).any() and self._named(ids, names):
            chosen = names
            self.notes.append("image ids are the numbers of file names, not the ids of the annotations: the boxes lie on objects there.")
        else:
            chosen = ids if len(ids.unknown) <= len(names.unknown) else names
        if chosen.unknown:
            self._unknown_images(chosen.unknown, len(set(raw.images)))
        if raw.listed is not None and not chosen.unknown:
            extra = by_name(raw.listed, truth).unknown
            if extra:
                self._unknown_images(extra, len(raw.listed))
        return chosen.position

    def _named(self, ids: ImageReading, names: ImageReading) -> bool:
        """Return True if detections lie on objects where image ids are read as names of files, and not where they are read as ids."""
        layout = self.layout or self.raw.layout
        shares = [Evidence(self.truth, each.position, self.raw.boxes, self.raw.scores).found(layout).share for each in (names, ids)]
        return clearly_better(*shares)

    def _unknown_images(self, unknown: tuple[int | str, ...] | tuple[str, ...], count: int) -> None:
        truth = self.truth
        examples = listed([show(image) for image in unknown], 3)
        message = f"{len(unknown):,} of {plural(count, 'image')} are not in the annotations: {examples}"
        numbers = [image for image in unknown if isinstance(image, int)]
        hint = "Is the annotation file that of the images that the detector was run on?"
        if len(unknown) == count and len(numbers) == count and 0 <= min(numbers) and max(numbers) <= len(truth.image_ids):
            hint = "The ids seem to be places in a list of the images. Write the ids of the annotations, or the names of the files."
        elif len(unknown) == count and not numbers:
            name = next((name for name in truth.names if name), "")
            hint = f"They are compared with ids and file names of the annotations, such as {show(name)}." if name else hint
        self._add("images that are not in the annotations", message, hint)

    # --- boxes ---

    def _boxes(self, evidence: Evidence, layout: str) -> Found:
        """Return the detections on objects as the boxes are read; name another reading that clearly fits better."""
        raw, truth = self.raw, self.truth
        if "normalised" in layout and len(raw.boxes) and (truth.sizes[np.unique(evidence.position)] == 0).any():
            self._add(
                "images without a size", "its boxes are shares of the image, and the annotations have no width and height of some images"
            )
            return Found(0, np.zeros(0, np.int64), np.zeros(0, np.int64))
        found = evidence.found(layout)
        if found.share >= _ENOUGH:
            return found
        others = {name: evidence.found(name) for name in LAYOUTS if name != layout}
        best, other = max(others.items(), key=lambda each: each[1].share)
        shares = (
            len(raw.boxes) > 0
            and "normalised" not in layout
            and np.abs(raw.boxes).max() <= SHARES
            and truth.sizes.max(initial=0) > 4 * SHARES
        )
        if other.objects >= LEAST and clearly_better(other.share, found.share):
            message = (
                f"boxes seem to be {layout_words(best)}: read so, {other.share:.0%} of {other.objects} objects have a detection on them "
                f"(IoU {ON:g} or more), and {found.share:.0%} read as {layout_words(layout)}"
            )
            self._add("boxes of another form", message, f"Give --boxes {self._for_arm(best)} if that is so, or write the boxes anew.")
            return other
        if shares:
            message = f"no coordinate is above {np.abs(raw.boxes).max():.3g}: boxes seem to be shares of the image, and pixels are expected"
            self._add(
                "boxes of another form", message, f"Give --boxes {self._for_arm('normalised-xywh')}, or -xyxy or -cxcywh in its place."
            )
        elif found.objects >= 10 * LEAST and found.share < 0.01:
            self.notes.append(
                f"fewer than 1% of {found.objects} annotated objects have a detection on them: is this the file of these images?"
            )
        return found

    def _negative(self, box: np.ndarray) -> None:
        wrong = np.flatnonzero((box[:, 2:] < box[:, :2]).any(axis=1))
        if len(wrong) and not self.findings.has(self.file, "boxes of another form"):
            shown = "; ".join(show(self.raw.boxes[index].tolist()) for index in wrong[:3])
            self._add(
                "boxes of negative width or height",
                f"{plural(len(wrong), 'box')[:-1] + 'xes' if len(wrong) > 1 else '1 box'} of negative width or height: {shown}",
            )

    # --- classes ---

    def _classes(self, found: Found) -> np.ndarray:
        """Return (D,) classes from 0, -1 for unknown ids; name the reading that fits, if it is another one."""
        categories, truth = self.raw.categories, self.truth
        reading = self.class_ids or (FROM_ZERO if self.raw.text else AS_IS)
        labels = {name: labels_of(categories, name, truth) for name in CLASS_IDS}
        agreement = {
            name: float((label[found.detection] == found.label).mean()) if len(found.label) else 0.0 for name, label in labels.items()
        }
        complete = [name for name in CLASS_IDS if (labels[name] >= 0).all() and name != reading]
        best = max(complete, key=agreement.__getitem__, default=None)
        unknown = np.unique(categories[labels[reading] < 0])
        tested = len(found.label) >= LEAST
        if len(unknown):
            message = (
                f"{len(unknown)} of {len(np.unique(categories))} class ids are not in the annotations: {listed(map(str, unknown.tolist()), 5)} "
                f"(the annotations have {_span(truth.category_ids)})"
            )
            if best and (not tested or agreement[best] >= _ENOUGH):
                self._add(
                    "class ids that are not in the annotations",
                    f"{message}. {self._cause(best, agreement[best], len(found.label))}",
                    self._class_hint(best),
                )
            else:
                self._add("class ids that are not in the annotations", message, "Are they the classes of these annotations?")
        elif tested and best and clearly_better(agreement[best], agreement[reading]):
            self._add(
                "class ids that seem to be shifted",
                f"{self._cause(best, agreement[best], len(found.label))}; read as {_reading_words(reading)} {agreement[reading]:.0%} do",
                self._class_hint(best),
            )
        elif tested:
            self._shift(found, agreement[reading])
        return labels[reading]

    def _shift(self, found: Found, own: float) -> None:
        """Name a constant difference of class ids that no reading explains, and classes that seem to be in another order."""
        differences, counts = np.unique(self.truth.category_ids[found.label] - self.raw.categories[found.detection], return_counts=True)
        top = int(counts.argmax())
        share, pairs = counts[top] / counts.sum(), len(found.label)
        if not self.raw.text and differences[top] != 0 and clearly_better(float(share), own) and len(differences) > 1 + (share < 1):
            message = f"class ids seem to be {abs(int(differences[top]))} too {'low' if differences[top] > 0 else 'high'}: so read, {share:.0%} of {pairs} detections on objects have the object's class, and {own:.0%} as they are"
            self._add("class ids that seem to be shifted", message, "Write the ids of the annotations' categories.")
        elif own < 1 / 3 and pairs >= 10 * LEAST and len(self.truth.classes) > 1:
            self.notes.append(
                f"{own:.0%} of {pairs} detections that lie on an object have its class: are the classes in the order of the annotations?"
            )

    def _cause(self, reading: str, agreement: float, pairs: int) -> str:
        text = f"They seem to be {_reading_words(reading)}"
        return f"{text}: so read, {agreement:.0%} of {pairs} detections on objects have the object's class" if pairs else text

    def _class_hint(self, reading: str) -> str:
        return f"Give --class-ids {self._for_arm(reading)} if that is so."

    def _for_arm(self, value: str) -> str:
        return f"{self.arm}={value}" if " " not in self.arm else f"'{self.arm}={value}'"


ON = 0.5


def _reading_words(reading: str) -> str:
    words = {AS_IS: "ids of the annotations", FROM_ZERO: "places in the annotations' list of classes, from 0"}
    return words.get(reading, "places in the annotations' list of classes, from 1")


def _span(ids: np.ndarray) -> str:
    """Return ids as a person reads them: ``1 to 90``, ``80 of 1 to 90`` or ``7``."""
    if len(ids) == 1:
        return str(ids[0])
    whole = len(ids) == ids[-1] - ids[0] + 1
    return f"{ids[0]} to {ids[-1]}" if whole else f"{len(ids)} of {ids[0]} to {ids[-1]}"
