"""The report on a data set: its numbers, errors and warnings, as plain values and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gfl_lab.addresses import readable
from gfl_lab.data.annotations import MIN_SIDE_PX, is_learned
from gfl_lab.data.findings import Finding
from gfl_lab.errors import Problem

SMALL_AREA, MEDIUM_AREA = 32.0**2, 96.0**2
"""COCO's size classes: small below 32 x 32 px, large from 96 x 96 px, by the annotation's ``area``."""
Box = tuple[int, int, tuple[float, ...], float, bool]
"""Image id, category id, (x, y, w, h), area, crowd."""


@dataclass(frozen=True)
class SplitReport:
    """Numbers of one split. Sizes are COCO's (area below 32 x 32 px, up to 96 x 96 px, above); crowd regions count apart."""

    images: int = 0
    boxes: int = 0
    crowds: int = 0
    small: int = 0
    medium: int = 0
    large: int = 0
    images_without_boxes: int = 0
    trainable: int = 0  # images that training uses: sides of MIN_SIDE_PX at least, and a box that is learned and no crowd
    skipped_boxes: int = 0  # boxes without a side of MIN_BOX_PX: training leaves them out, evaluation counts them
    most_boxes: int = 0
    mean_boxes: float = 0.0
    min_size: tuple[int, int] = (0, 0)  # smallest width and smallest height, px
    max_size: tuple[int, int] = (0, 0)
    boxes_by_class: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetReport:
    """The numbers of a data set, and its problems. ``digest`` is empty where there are errors or pixels were not read.

    Attributes:
        white_level: value of deep images that becomes 255; 0 where all images have 8 bits, or pixels were not read.
    """

    root: str
    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, SplitReport]
    error_kinds: tuple[Finding, ...]
    warning_kinds: tuple[Finding, ...]
    decoded: bool
    digest: str = ""
    white_level: int = 0

    @property
    def ok(self) -> bool:
        """True if it can be trained on."""
        return not self.error_kinds

    @property
    def errors(self) -> tuple[Problem, ...]:
        """One problem for each kind of error in a file."""
        return tuple(finding.summary() for finding in self.error_kinds)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """One problem for each kind of warning in a file."""
        return tuple(finding.summary() for finding in self.warning_kinds)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The errors (the name that the rest of the package uses)."""
        return self.errors

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with every error and every warning."""
        value = {key: getattr(self, key) for key in ("root", "name", "classes", "decoded", "digest", "white_level")}
        value["splits"] = {name: asdict(split) for name, split in self.splits.items()}
        for key, kinds in (("errors", self.error_kinds), ("warnings", self.warning_kinds)):
            value[key] = [asdict(problem) | {"kind": finding.kind} for finding in kinds for problem in finding.each()]
        return value | {"ok": self.ok}

    def to_text(self, verbose: bool = False) -> str:
        """Return the report as people read it, without colour.

        Args:
            verbose: one line for each problem, not for each kind.
        """
        lines = [f"{readable(self.name)}: {readable(self.root)}"]
        if self.classes:
            lines.append(f"  {len(self.classes)} classes: {', '.join(map(readable, self.classes))}")
        for name, split in self.splits.items():
            lines.append(
                f"  {name}: {split.images} images, {split.boxes} boxes (small {split.small}, medium {split.medium}, large {split.large}), "
                f"{split.crowds} crowd regions; {split.mean_boxes:.1f} boxes an image, at most {split.most_boxes}"
            )
            if split.images:
                lines.append(f"    sizes {split.min_size[0]}x{split.min_size[1]} to {split.max_size[0]}x{split.max_size[1]} px")
        if self.digest:
            lines.append(f"  digest {self.digest}")
        for title, kinds in (("error", self.error_kinds), ("warning", self.warning_kinds)):
            for finding in kinds:
                for problem in finding.each() if verbose else [finding.summary()]:
                    lines.append(f"  {title}: {str(problem).replace(chr(10), chr(10) + '  ')}")
        lines.append("  valid" if self.ok else "  not valid")
        return "\n".join(lines)


def split_report(images: Mapping[int, Mapping[str, Any]], sound: list[Box], names: Mapping[int, str]) -> SplitReport:
    """Count the sound boxes of a split.

    Args:
        images: by id. sound: boxes of these images, crowd regions included. names: of the categories, by id.
    """
    boxes = [entry for entry in sound if not entry[4]]
    per_image = Counter(entry[0] for entry in boxes)
    by_class = Counter(entry[1] for entry in boxes)
    sizes = [record["size"] for record in images.values() if record["size"]]
    small = sum(entry[3] < SMALL_AREA for entry in boxes)
    large = sum(entry[3] >= MEDIUM_AREA for entry in boxes)
    learned = [entry[0] for entry in boxes if is_learned(entry[2], images[entry[0]]["size"] or (0, 0))]
    return SplitReport(
        images=len(images),
        boxes=len(boxes),
        crowds=len(sound) - len(boxes),
        small=small,
        medium=len(boxes) - small - large,
        large=large,
        images_without_boxes=len(images) - len(per_image),
        trainable=len({number for number in learned if min(images[number]["size"] or (0, 0)) >= MIN_SIDE_PX}),
        skipped_boxes=len(boxes) - len(learned),
        most_boxes=max(per_image.values(), default=0),
        mean_boxes=len(boxes) / len(images) if images else 0.0,
        min_size=(min((s[0] for s in sizes), default=0), min((s[1] for s in sizes), default=0)),
        max_size=(max((s[0] for s in sizes), default=0), max((s[1] for s in sizes), default=0)),
        boxes_by_class={names[number]: by_class[number] for number in sorted(names)},
    )
