"""Trained detectors: a trial's final weights, or weights in a file, with everything that their numbers depend on.

Nothing is trained and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mmdet.datasets import CocoDataset
from pydantic import ValidationError
from torch import Tensor

from gfl_lab import naming
from gfl_lab.checkpoints import import_checkpoint
from gfl_lab.checkpoints.convert import Converted
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.data import ambiguous_shapes, coco
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.records.manifest import DataPaths, Manifest
from gfl_lab.records.result import Done
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.setup.components import load_of_trial
from gfl_lab.spec.file_models import Profile
from gfl_lab.spec.files import resolve_settings
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.messages import problems_of
from gfl_lab.spec.plain_config import decode, encode
from gfl_lab.spec.settings import EVALUATION, INPUT, Settings, group_of, inactive
from gfl_lab.spec.source import Source
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec
from gfl_lab.zoo.rewrite import test_settings, with_test_settings

SETTABLE = tuple(key for key in Settings.model_fields if group_of(key) in (EVALUATION, INPUT))
"""Settings that trained weights can be evaluated under, whatever they were trained with."""

COMPARED = (*naming.AP_METRICS, *naming.TRUTH_METRICS)
"""Metrics of an evaluation, in the order of a table."""


@dataclass(frozen=True)
class TrainedDetector:
    """Weights, and everything that their numbers on some validation images depend on.

    Attributes:
        name: the trial's id, or the file.
        is_trial: True for a trial that was named as one, False for a file.
        state: state dict of the detector.
        spec: of the trial; for a file a TrialSpec of its settings, whose data have no digest.
        paths: train_annotations, val_annotations, train_images, val_images; absolute.
        metrics: the trial's recorded metrics; None for a file. device: where it was trained.
        notes: sentences that belong beside the numbers.
    """

    name: str
    is_trial: bool
    state: Mapping[str, Tensor]
    spec: TrialSpec
    paths: DataPaths
    metrics: dict[str, float] | None = None
    device: str = ""
    notes: tuple[str, ...] = ()

    def under(self, changes: Mapping[str, Any]) -> TrainedDetector:
        """Return the same weights under changed settings, those of ``SETTABLE``.

        Raises:
            InputError: every key that may not be set, or else every value that breaks a rule.
        """
        problems = []
        for key in changes:
            if key not in Settings.model_fields:
                problems.append(Problem(f"there is no setting {key!r}", "--set", nearest(key, SETTABLE)))
            elif key not in SETTABLE:
                why = f"{key} belongs to the {group_of(key)}, which trained weights are tied to"
                problems.append(Problem(why, "--set", f"Settings that may be set: {', '.join(SETTABLE)}."))
        if problems:
            raise InputError(problems)
        try:
            settings = resolve_settings(self.spec.settings.model_dump(), dict(changes))
        except ValidationError as error:
            raise InputError(_problems(error, "--set")) from None
        config = self.spec.config
        if config:
            model, allowed = decode(config["model"]), _settable(config)
            config = config | {"model": encode(with_test_settings(model, changes))}
            idle, hint = changes.keys() - allowed, f"Settings that may be set with {settings.detector}: {', '.join(sorted(allowed))}."
        else:
            idle = inactive(settings).keys() & changes.keys()
            hint = f"The trial has box: {settings.box}, and only a general box can be decoded in two ways." if "decode" in idle else ""
        if idle:
            raise InputError([Problem(f"{key} has no effect on these weights", "--set", hint) for key in sorted(idle)])
        return replace(self, spec=self.spec.model_copy(update={"settings": settings, "config": config}))


def _settable(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the settings of ``SETTABLE`` that act on a detector of mmdet's, by its stored config.

    A config whose recipe was trained reads images by its own pipeline, which has their size. All padding stands in the config.
    """
    size = () if "test_pipeline" in config else ("image_size",)
    return test_settings(decode(config["model"])) | {"score_thr", "max_dets", *size}


def read_trial(trial: TrialDir, tree: RunTree, with_data: bool = True) -> TrainedDetector:
    """Return the weights of a finished trial (their moving average, where it has one), with its validation data.

    Args:
        tree: the user's own: code that a trial brings along is run from there alone.
        with_data: whether its data must be there still.

    Raises:
        StoreError: its manifest, result or checkpoint cannot be read. InputError: its data are gone or others by now.
    """
    manifest, result = trial.manifest(), trial.result()
    spec = _spec(trial, manifest, tree)
    if not isinstance(result, Done) or result.metrics is None:
        raise StoreError(f"trial {trial.id}: {naming.RESULT} is damaged")
    paths = manifest.paths
    state, meta = _read(trial.file(naming.LAST_CHECKPOINT))
    if meta.get("trial") != trial.id:
        raise StoreError(f"{trial.file(naming.LAST_CHECKPOINT)} belongs to trial {meta.get('trial')}, not to {trial.id}")
    if with_data:
        _check_data(spec.data, paths, trial.id)
    notes = []
    if spec.code != TRAINING_CODE_VERSION:
        notes.append(f"trial {trial.id} was made by version {spec.code} of the training code, this is {TRAINING_CODE_VERSION}")
    recorded = {key: result.metrics[key] for key in COMPARED if key in result.metrics}
    return TrainedDetector(trial.id, True, state, spec, paths, recorded, result.device, tuple(notes))


def read_weights(path: Path, data: Path | None, profile: Profile, tree: RunTree) -> TrainedDetector:
    """Return the weights in a file: another project's, those that ``gfl-lab import-checkpoint`` wrote, or a trial's ``last.pth``.

    A trial's file is beside its manifest, and keeps all its settings. Another detector has the settings that its weights show,
    those of groups input and evaluation from the profile, and sees one image at a time, as in the published evaluations.

    Args:
        data: folder of a data set in COCO format; its annotations are checked, its images are not decoded. None: the weights are
            for images of no data set, and classes that they do not name are numbered, or COCO's where there are 80.

    Raises:
        InputError: the file is no detector's or does not fit the data. DataError: problems of the data set.
    """
    file = import_checkpoint.read_weights(path)
    meta = file.meta
    if not is_own(file):
        return converted_detector(str(path), _converted(file, path), file.classes, data, profile)
    if file.others:
        raise InputError(Problem("it holds entries that are no weights", str(path), "Convert the source again: gfl-lab import-checkpoint"))
    _check_format(path, meta)
    if "trial" not in meta:
        settings, count = _imported(str(path), meta, profile)
        return detector_of(str(path), file.weights, settings, (), count, data_images(data))
    trial = TrialDir(path.resolve().parent)
    if not trial.file(naming.MANIFEST).exists():
        hint = f"Give the trial's id, or the file in its run directory, where {naming.MANIFEST} is."
        raise InputError(Problem("a trial's checkpoint holds no settings", str(path), hint))
    manifest = trial.manifest()
    own = _spec(trial, manifest, tree)
    if manifest.trial != meta["trial"]:
        raise InputError(Problem(f"it belongs to trial {meta['trial']}, and the manifest beside it to {manifest.trial}", str(path)))
    config = own.config
    return detector_of(str(path), file.weights, own.settings, own.data.classes, len(own.data.classes), data_images(data), config)


def is_own(file: import_checkpoint.WeightsFile) -> bool:
    """Return True for a file that gfl-lab has written."""
    return "trial" in file.meta or "kind" in file.meta


def _converted(file: import_checkpoint.WeightsFile, path: Path) -> Converted:
    try:
        return import_checkpoint.convert_file(file, str(path))
    except InputError as error:
        way = "Weights of another detector of mmdet's want their config: --detector mmdet:NAME or --detector FILE.py."
        raise InputError([Problem(p.message, p.place, f"{p.hint} {way}".strip()) for p in error.problems]) from None


def converted_detector(
    name: str, converted: Converted, classes: tuple[str, ...], data: Path | None, profile: Profile, notes: tuple[str, ...] | None = None
) -> TrainedDetector:
    """Return a detector whose weights come from another project.

    Args:
        name: for messages: the file.
        classes: names of the weights' classes, in the order of their channels; empty where they are not known.
        data, profile: as ``read_weights`` takes them.
        notes: sentences beside the numbers; None: the conversion's warnings.

    Raises:
        InputError: the weights are a backbone's or do not fit the data. DataError: problems of the data set.
    """
    recognised = converted.recognised
    meta = {"kind": recognised.kind, "settings": recognised.settings, "num_classes": recognised.num_classes}
    settings, count = _imported(name, meta, profile)
    known = classes if len(classes) == count else ()
    detector = detector_of(name, converted.state_dict, settings, known, count, data_images(data))
    return replace(detector, notes=(recognised.warnings if notes is None else notes) + detector.notes)


class Images(NamedTuple):
    """The images that weights are for: a data set, or classes alone.

    Attributes:
        content: classes, white level. paths: of the data set. folder: of the data set; None without one.
    """

    content: DataSpec
    paths: DataPaths
    folder: Path


def detector_of(
    name: str, state: Mapping[str, Tensor], settings: Settings, known: tuple[str, ...], count: int, images: Images | None,
    config: dict[str, Any] | None = None,
) -> TrainedDetector:  # fmt: skip
    """Return weights as a detector, for a data set or for images of none.

    Args:
        name: for messages. known: names of the ``count`` classes; empty where they are not known.
        config: of a detector of mmdet's, as a trial stores it.

    Raises:
        InputError: the data set has other classes.
    """
    content, paths, folder = images or Images(*_no_data(known, count), Path())
    if count != len(content.classes):
        raise InputError(
            Problem(
                f"the weights have {count} classes, and the data set {folder} has {len(content.classes)} categories",
                name,
                "Give the data set that the weights were trained for.",
            )
        )
    notes: tuple[str, ...] = ()
    if not known and images is None:
        notes = (f"the weights do not name their classes: they are called {content.classes[0]}, {content.classes[1 % count]}, ...",)
    elif not known:
        notes = ("the weights do not name their classes: they are taken in the order of the data set's category ids",)
    elif known != content.classes:
        number, mine, other = next((i, a, b) for i, (a, b) in enumerate(zip(known, content.classes, strict=True), 1) if a != b)
        hint = f"Give a data set with the classes {', '.join(known[:4])}{', ...' if count > 4 else ''} in this order."
        raise InputError(Problem(f"class {number} is {mine} in the weights and {other} in the data set {folder}", name, hint))
    spec = TrialSpec(settings=settings, data=content, seed=0, code=TRAINING_CODE_VERSION, config=config)
    return TrainedDetector(name, False, state, spec, paths, notes=notes)


def _problems(error: ValidationError, place: str) -> list[Problem]:
    """Return pydantic's errors on settings as problems at ``place``."""
    return [Problem(problem.message, place, problem.hint) for problem in problems_of(error, Settings, Source(Path(place), {}))]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return state dict and ``meta`` of a trial's checkpoint."""
    content = load_safely(path)
    state, meta = content.get("state_dict"), content.get("meta")
    known = isinstance(meta, dict) and ("trial" in meta or "kind" in meta)
    if not known or meta is None or not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(Problem("it is no checkpoint of gfl-lab's", str(path)))
    _check_format(path, meta)
    return state, meta


def _check_format(path: Path, meta: Mapping[str, Any]) -> None:
    """Raise InputError for a checkpoint of a later gfl-lab."""
    if not isinstance(meta.get("format"), int) or meta["format"] > naming.FORMAT_VERSION:
        raise InputError(f"{path} has format {meta.get('format')}; this gfl-lab reads up to {naming.FORMAT_VERSION}")


def _spec(trial: TrialDir, manifest: Manifest, tree: RunTree) -> TrialSpec:
    """Return what a trial computes, after importing the user's code that it names."""
    spec = manifest.spec
    if spec.components and trial.path.resolve() != tree.trial(trial.id).path.resolve():
        names = ", ".join(component.name for component in spec.components)
        hint = "If you trust it, set GFL_LAB_HOME to its tree."
        raise InputError(
            Problem(f"{trial.path} brings code along ({names}), which is run only from your own run tree, {tree.root}", hint=hint)
        )
    load_of_trial(trial, spec)
    return spec


def _imported(name: str, meta: Mapping[str, Any], profile: Profile) -> tuple[Settings, int]:
    """Return settings and number of classes of an imported detector."""
    if meta["kind"] != "detector":
        hint = "A backbone's weights are what training starts from:  gfl-lab run EXPERIMENT --init-weights FILE"
        raise InputError(Problem(f"it holds a {meta['kind']}, not a detector", name, hint))
    shown, count = meta.get("settings"), meta.get("num_classes")
    if not isinstance(shown, dict) or not isinstance(count, int):
        raise InputError(Problem("it has no settings or classes", name, "Convert the source again: gfl-lab import-checkpoint"))
    tests = {key: value for key, value in profile.settings.items() if key in SETTABLE}
    try:
        return resolve_settings(tests, {"batch_size": 1}, shown), count
    except ValidationError as error:
        raise InputError(_problems(error, name)) from None


def data_images(folder: Path | None) -> Images | None:
    """Return a data set as a trial's data, without the digest, which would take reading every image. None: there is none.

    Raises:
        DataError: problems of the data set.
    """
    if folder is None:
        return None
    report = coco.require_valid(folder, decode=False)
    truth = ambiguous_shapes.describe(folder) is not None
    paths = DataPaths(**{key: str(value) for key, value in asdict(coco.find_dataset(folder)).items()})
    data = DataSpec(
        name=report.name,
        digest="",
        classes=report.classes,
        train_images=report.splits["train"].trainable,
        val_images=report.splits["val"].images,
        truth=truth,
        white_level=coco.find_white_level(folder),
    )
    return Images(data, paths, folder)


def _no_data(known: tuple[str, ...], count: int) -> tuple[DataSpec, DataPaths]:
    """Return classes alone, in place of a data set."""
    coco_names = tuple(CocoDataset.METAINFO["classes"])
    classes = known or (coco_names if count == len(coco_names) else tuple(f"class {number}" for number in range(1, count + 1)))
    paths = DataPaths("", "", "", "")
    return DataSpec(name="images", digest="", classes=classes, train_images=0, val_images=0, truth=False), paths


def _check_data(data: DataSpec, paths: DataPaths, trial: str) -> None:
    """Refuse a trial whose validation data are gone, or have other classes or another number of images. Raises InputError."""
    for path in (paths.val_annotations, paths.val_images):
        if not Path(path).exists():
            raise InputError(f"trial {trial}: its validation data are gone: {path} does not exist")
    dataset = coco.load_coco(paths.val_annotations)
    classes = tuple(category["name"] for category in dataset["categories"])
    if classes != data.classes or len(dataset["images"]) != data.val_images:
        raise InputError(
            f"trial {trial}: {paths.val_annotations} is not what it was: {len(dataset['images'])} images and {len(classes)} "
            f"categories, and it was trained with {data.val_images} and {len(data.classes)}"
        )
