"""Training boxes that no location learns: how many, why, and which strides, anchor scale or image size would leave fewer.

Nothing is decoded and nothing needs torch: the annotations and the settings decide (``assignment.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gfl_lab.data.annotations import MIN_SIDE_PX, is_learned, load_coco
from gfl_lab.data.assignment import Assignment, Boxes, Cause, NearestOf, Pyramid, assign
from gfl_lab.data.proposals import BETTER, CLIPPED, Proposal, propose
from gfl_lab.spec.choices import ASSIGNERS, BUILT_IN
from gfl_lab.spec.settings import Settings

VERSION = 1
"""Raised whenever the analysis changes, so that what was kept of an older one is not taken for it."""
MEANING: dict[Cause, str] = {
    Cause.BETWEEN_ANCHORS: "size between two anchors",
    Cause.ABOVE_ANCHORS: "size at or above the largest anchor",
    Cause.BELOW_ANCHORS: "size below the smallest anchor",
    Cause.NO_LOCATION_INSIDE: "too small or too thin: no location lies inside the box",
    Cause.BEST_OUTSIDE: "shape far from a square: the locations of highest IoU lie outside the box",
    Cause.CROWDED_OUT: "crowded out: other boxes have a higher IoU at all its locations",
    Cause.SAME_BOX: "repeats another box of its image exactly, which takes its locations",
    Cause.ONE_CANDIDATE: "one candidate only: no standard deviation, so no threshold",
}
"""Each cause in words, in the order of the report."""
NO_THRESHOLD = (Cause.BETWEEN_ANCHORS, Cause.ABOVE_ANCHORS, Cause.BELOW_ANCHORS)
"""Causes by which no candidate's IoU reaches mean + standard deviation, because about half of them or more are alike."""
WHY_NO_THRESHOLD = (
    "ATSS trains a box on the candidates whose IoU reaches mean + standard deviation of all its candidates. Between two anchors "
    "(and beyond the first or last one) about half of them have the same, highest IoU, and then none reaches that."
)


@dataclass(frozen=True)
class Reason:
    """Boxes without a location for one cause.

    Attributes:
        cause: a ``Cause``.
        boxes: how many.
        between: sides of the anchors around them, px, where the size lies between two.
        size: their median size (root of the area), px of the network input.
        text: one line.
    """

    cause: str
    boxes: int
    between: tuple[float, float] | None
    size: float
    text: str


@dataclass(frozen=True)
class Unassigned:
    """The report.

    Attributes:
        strides, anchor_scale, atss_topk, image_size, pad_to: the settings that it holds for.
        images, boxes: looked at. Crowd regions, boxes that training leaves out and images without a box are not counted.
        all_images, all_boxes: of the training split; more than ``boxes`` where those are a sample.
        unassigned: boxes without a location.
        reasons: why, most frequent first; their boxes sum to ``unassigned``.
        proposals: best first.
        tried: other settings that were tried.
        notes: what training does that is not in the numbers.
    """

    strides: tuple[int, ...]
    anchor_scale: float
    atss_topk: int
    image_size: tuple[int, int]
    pad_to: int
    images: int
    boxes: int
    all_images: int
    all_boxes: int
    unassigned: int
    reasons: tuple[Reason, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    tried: int = 0
    notes: tuple[str, ...] = ()
    advice: str = field(default="", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "advice", _advice(self))

    @property
    def share(self) -> float:
        """Share of the boxes without a location, of 1."""
        return self.unassigned / self.boxes if self.boxes else 0.0

    @property
    def of(self) -> str:
        """`81 of 527 training boxes (15.4%)`."""
        sampled = f" in a sample of {self.images} of {self.all_images} images" if self.boxes < self.all_boxes else ""
        return f"{self.unassigned} of {self.boxes} training boxes ({self.share:.1%}){sampled}"

    @property
    def _is_partial(self) -> bool:
        """Return True if training also sees other scales or crops, where a box may get a location all the same."""
        return any(not note.startswith("flips") for note in self.notes)

    @property
    def summary(self) -> str:
        """One line: how many, the main cause, the best way out."""
        if not self.unassigned:
            return f"all {self.boxes} training boxes have a location"
        main = self.reasons[0]
        most = "" if main.boxes == self.unassigned else f" ({main.boxes} of them)"
        consequence = " at scale 1 without crops" if self._is_partial else " and are never learned"
        text = f"{self.of} get no location{consequence}: {_short(main)}{most}"
        if self.proposals:
            best = self.proposals[0]
            return f"{text}; {best.yaml} would leave {best.unassigned} ({best.cost})"
        return text + (f"; none of {self.tried} other settings leaves clearly fewer" if self.tried else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"analysed": True} | asdict(self) | {"share": self.share, "summary": self.summary}

    def lines(self) -> Iterator[str]:
        """Return the report as text."""
        if not self.unassigned:
            yield f"boxes without a location: none of {self.boxes}"
            return
        yield f"boxes without a location: {self.of}" + (", at scale 1 without crops" if self._is_partial else "; they are never learned")
        width = len(str(self.unassigned))
        for reason in self.reasons:
            yield f"  {reason.boxes:{width}}  {reason.text}"
        if any(reason.cause in NO_THRESHOLD for reason in self.reasons):
            yield WHY_NO_THRESHOLD
        if self.proposals:
            yield "settings that leave fewer (`settings` of a profile, `overrides` or an axis of an experiment; the trials get new ids):"
            texts = [proposal.yaml for proposal in self.proposals]
            for proposal, text in zip(self.proposals, texts, strict=True):
                line = f"  {text:{max(map(len, texts))}}  leaves {proposal.unassigned}; {proposal.cost}"
                yield line + (f"; clips {proposal.clipped_share:.1%} of the box sides" if proposal.clipped_share > CLIPPED else "")
        if self.advice:
            yield self.advice


def why_not_analysed(settings: Settings) -> str:
    """Return why the assignment of a variant does not follow from its settings; empty if it does."""
    if settings.assigner in ASSIGNERS:
        return f"assigner is {settings.assigner}: boxes without a location are counted for ATSS alone"
    for key in ("assigner", "head"):
        if getattr(settings, key) not in BUILT_IN[key]:
            return f"{key} is {getattr(settings, key)}, which may assign boxes in its own way"
    return ""


def training_boxes(annotations: Path) -> Boxes:
    """Return the boxes that training learns: not crowd regions, boxes under 1 px or outside their image, and images under 32 px.

    Args:
        annotations: of the training split of a data set that passed its check.

    Raises:
        DataError: the annotations cannot be read.
    """
    coco = load_coco(annotations)
    images = sorted(coco["images"], key=lambda image: image["id"])
    number = {image["id"]: index for index, image in enumerate(images)}
    sizes = [(image["width"], image["height"]) for image in images]
    given = [(number[entry["image_id"]], entry["bbox"]) for entry in coco["annotations"] if not entry["iscrowd"]]
    image = np.array([index for index, _ in given], np.int64)
    xywh = np.array([box for _, box in given], np.float64).reshape(-1, 4)
    kept = np.array([min(sizes[index]) >= MIN_SIDE_PX and is_learned(box, sizes[index]) for index, box in given], bool)
    order = np.flatnonzero(kept)[np.argsort(image[kept], kind="stable")]
    used = np.unique(image[order])
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)[order].astype(np.float32)
    return Boxes(xyxy, np.searchsorted(used, image[order]), np.array(sizes, np.float64).reshape(-1, 2)[used])


def find_unassigned(
    boxes: Boxes,
    settings: Settings,
    most: int | None = None,
    propose_above: float = 0.0,
    nearest_of: NearestOf | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Unassigned:
    """Count the boxes without a location and their causes, and try other settings if there are some.

    Images are scaled into ``image_size``, as in training without flips, multi-scale and crops. In a generated data set the
    annotated boxes count.

    Args:
        boxes: of ``training_boxes``.
        settings: of a variant for which ``why_not_analysed`` has no objection.
        most: boxes to look at; of more, those of a sample of the images.
        propose_above: share of boxes without a location above which other settings are tried.
        nearest_of: see ``assign``.
        progress: called with the settings tried and all of them.
    """
    every, pyramid = boxes, Pyramid.of(settings)
    boxes = boxes if most is None else boxes.sample(most)
    now = assign(boxes, pyramid, nearest_of)
    has_many = now.unassigned > propose_above * len(boxes)
    proposals, tried = propose(boxes, settings, now, nearest_of, progress) if has_many else ([], 0)
    return Unassigned(
        *(pyramid.strides, pyramid.anchor_scale, pyramid.topk, pyramid.image_size, pyramid.pad_to),
        *(len(boxes.sizes), len(boxes), len(every.sizes), len(every), now.unassigned),
        reasons=tuple(sorted(_reasons(now, pyramid), key=lambda reason: -reason.boxes)),
        proposals=tuple(proposals),
        tried=tried,
        notes=tuple(_notes(settings)),
    )


def _reasons(found: Assignment, pyramid: Pyramid) -> Iterator[Reason]:
    size = np.sqrt((found.xyxy[:, 2:] - found.xyxy[:, :2]).astype(float).prod(1))
    anchors = pyramid.anchors
    for cause, meaning in MEANING.items():
        having = found.having(cause)
        groups: list[tuple[tuple[float, float] | None, Any]] = [(None, having)]
        if cause is Cause.BETWEEN_ANCHORS:
            level = np.searchsorted(anchors, size, side="right")
            groups = [(pair, having & (level == index + 1)) for index, pair in enumerate(itertools.pairwise(anchors))]
        for between, group in groups:
            if not group.any():
                continue
            median = float(np.median(size[group]))
            text = meaning
            if between:
                text = f"size between the anchors of {between[0]:g} and {between[1]:g} px"
            elif cause is Cause.ABOVE_ANCHORS:
                text += f" ({anchors[-1]:g} px)"
            elif cause is Cause.BELOW_ANCHORS:
                text += f" ({anchors[0]:g} px)"
            elif cause is Cause.NO_LOCATION_INSIDE:
                text += f"; the finest are {pyramid.strides[0]} px apart"
            yield Reason(str(cause), int(group.sum()), between, median, f"{text} (median size {median:.3g} px)")


def _short(reason: Reason) -> str:
    """Return a reason without its explanation."""
    if reason.between:
        return f"size between the anchors of {reason.between[0]:g} and {reason.between[1]:g} px"
    return MEANING[Cause(reason.cause)].partition(":")[0]


def _advice(report: Unassigned) -> str:
    """Return a last sentence, for settings that need an explanation."""
    if not report.unassigned:
        return ""
    parts = []
    same = sum(reason.boxes for reason in report.reasons if reason.cause == Cause.SAME_BOX)
    if same:
        boxes, it = ("box repeats", "it") if same == 1 else ("boxes repeat", "them")
        parts.append(f"No setting helps where {same} {boxes} another one exactly: remove {it} from the annotations.")
    if not report.proposals and same < report.unassigned:
        percent = round(100 * (1 - BETTER))
        parts.append(f"None of {report.tried} other strides, anchor scales, image sizes and atss_topk leaves {percent}% fewer.")
    return " ".join(parts)


def _notes(settings: Settings) -> Iterator[str]:
    if settings.flip_prob:
        yield "flips are left out: a flipped box lies a little differently on the locations"
    if settings.scale_range != (1.0, 1.0):
        yield f"multi-scale is left out: training also scales images by {settings.scale_range[0]:g} to {settings.scale_range[1]:g}, here by 1"
    if settings.crop != "none":
        yield f"crops ({settings.crop}) are left out"
