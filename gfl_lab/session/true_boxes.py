"""The annotated boxes of images that `gfl-lab predict` draws: of the trial's own data set, or of an annotation file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from gfl_lab.addresses import readable
from gfl_lab.data.ambiguous_shapes import read_annotation
from gfl_lab.data.annotations import load_coco
from gfl_lab.data.detections.truth import read_truth
from gfl_lab.data.findings import Findings
from gfl_lab.data.layout import image_file
from gfl_lab.errors import DataError, InputError, Problem
from gfl_lab.report.boxes import TrueBox
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.session.trial_lookup import trial_of_checkpoint, trial_or_file
from gfl_lab.spec.choices import MMDET

_OTHER = "Give the annotations of these images with --annotations FILE."


def true_boxes(tree: RunTree, weights: str, images: Sequence[Path], annotations: Path | None) -> dict[Path, list[TrueBox]]:
    """Return the annotated boxes of each image. Crowds are left out.

    Args:
        weights: as ``trained.detector_for_images`` takes them.
        annotations: COCO annotation file that lists the images by name; None is the data set of the trial that ``weights`` name,
            which has the very image files.

    Raises:
        InputError: the weights are no trial's and there is no file, or an image is not in the annotations.
        DataError: an annotation file cannot be read.
    """
    if annotations is not None:
        return _of_file(images, annotations)
    trial = None if weights.startswith(MMDET) else trial_or_file(tree, weights) or trial_of_checkpoint(Path(weights))
    if trial is None:
        raise InputError(Problem(f"{weights} is no trial: it has no data set with annotations", "--truth", _OTHER))
    return _of_trial(images, trial)


def _of_trial(images: Sequence[Path], trial: TrialDir) -> dict[Path, list[TrueBox]]:
    paths = trial.manifest().paths
    found: dict[Path, list[TrueBox]] = {}
    for file, folder in ((paths.val_annotations, paths.val_images), (paths.train_annotations, paths.train_images)):
        missing = [path for path in images if path not in found]
        if not missing:
            break
        if not Path(file).is_file():
            raise InputError(Problem(f"the annotations of trial {trial.id} are gone: there is no file {readable(file)}", "--truth", _OTHER))
        coco = load_coco(file)
        numbers = {path: number for path in missing if (number := _image_at(path, Path(folder), coco["images"])) is not None}
        names = {entry["id"]: entry["name"] for entry in coco["categories"]}
        boxes: dict[int, list[TrueBox]] = {number: [] for number in numbers.values()}
        for annotation in coco["annotations"]:
            if annotation["image_id"] in boxes and not annotation["iscrowd"]:
                boxes[annotation["image_id"]].append(TrueBox(names[annotation["category_id"]], *read_annotation(annotation)))
        found |= {path: boxes[number] for path, number in numbers.items()}
    if unknown := [path for path in images if path not in found]:
        raise InputError([Problem(f"it is no image of the data set of trial {trial.id}", str(path), _OTHER) for path in unknown])
    return found


def _of_file(images: Sequence[Path], annotations: Path) -> dict[Path, list[TrueBox]]:
    findings, shown = Findings(), readable(str(annotations))
    truth = read_truth(annotations, shown, findings)
    if truth is None:
        raise DataError(findings.problems())
    found: dict[Path, list[TrueBox]] = {}
    problems = []
    for path in images:
        candidates = _best_named(path, truth.stems.get(path.stem, []), truth.names)
        if len(candidates) != 1:
            how = "lists no image of this name" if not candidates else f"lists {len(candidates)} images of this name"
            problems.append(Problem(f"{shown} {how}", str(path)))
            continue
        boxes = [(truth.classes[truth.label[index]], truth.box[index]) for index in truth.boxes_of.get(candidates[0], ())]
        found[path] = [TrueBox(name, (float(b[0]), float(b[1]), float(b[2]), float(b[3]))) for name, b in boxes]
    if problems:
        raise InputError(problems)
    return found


def _image_at(path: Path, folder: Path, images: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the id of the image whose file is ``path``."""
    real = path.resolve()
    for entry in images:
        # the name first: resolving a path asks the disk
        if PureWindowsPath(entry["file_name"]).stem == path.stem and image_file(folder, entry["file_name"]).resolve() == real:
            return int(entry["id"])
    return None


def _best_named(path: Path, candidates: Sequence[int], names: Sequence[str]) -> list[int]:
    """Return those images whose listed path ends as ``path`` does; if none does, those of the same name without folder and ending."""
    parts = path.resolve().parts
    alike = [index for index in candidates if parts[-len(own := PureWindowsPath(names[index]).parts) :] == own]
    return alike or list(candidates)
