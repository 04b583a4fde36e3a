"""Evaluating weights that are trained already: a trial's under other test settings, or a converted detector's on some data.

Nothing is trained and nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from pydantic import ValidationError
from torch import Tensor, nn

import gfl_lab.setup.dataset  # noqa: F401  (registers what trial_config names)
from gfl_lab import naming
from gfl_lab.addresses import readable
from gfl_lab.analysis.distributions import DistributionCollector
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.data import ambiguous_shapes, coco
from gfl_lab.data.pixels import ImageError
from gfl_lab.errors import InputError, Problem, ResourceError, StoreError
from gfl_lab.inference.evaluate import CocoEvaluator, collect
from gfl_lab.inference.predict import predict, predict_and_collect
from gfl_lab.records.manifest import DataPaths, Manifest
from gfl_lab.records.result import Done
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.setup.components import load_of_trial
from gfl_lab.setup.config import trial_config
from gfl_lab.spec.files import Profile, resolve_settings
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.settings import EVALUATION, INPUT, Settings, group_of, inactive
from gfl_lab.spec.source import Source, problems_of
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec

SETTABLE = tuple(key for key in Settings.model_fields if group_of(key) in (EVALUATION, INPUT))
"""Settings that trained weights can be evaluated under, whatever they were trained with."""

COMPARED = (*naming.AP_METRICS, *naming.TRUTH_METRICS)
"""Metrics of an evaluation, in the order of a table."""


@dataclass(frozen=True)
class Subject:
    """Weights, and everything that their numbers on some validation images depend on.

    Attributes:
        name: for messages: the trial's id or the file.
        state: state dict of the detector.
        spec: of the trial; for a file a TrialSpec of its settings, whose data have no digest.
        paths: train_annotations, val_annotations, train_images, val_images; absolute.
        metrics: the trial's recorded metrics; None for a file. device: where it was trained.
        notes: what whoever reads the numbers should know.
    """

    name: str
    state: Mapping[str, Tensor]
    spec: TrialSpec
    paths: DataPaths
    metrics: dict[str, float] | None = None
    device: str = ""
    notes: tuple[str, ...] = ()

    def under(self, changes: Mapping[str, Any]) -> Subject:
        """The same weights under changed settings, those of ``SETTABLE``.

        Raises:
            InputError: every key that may not be set, or else every value that breaks a rule.
        """
        problems = []
        for key in changes:
            if key not in Settings.model_fields:
                problems.append(Problem(f"there is no setting {key!r}", "--set", nearest(key, SETTABLE)))
            elif key not in SETTABLE:
                why = f"{key} belongs to the {group_of(key)}, which trained weights are tied to"
                problems.append(Problem(why, "--set", f"What may be set: {', '.join(SETTABLE)}."))
        if problems:
            raise InputError(problems)
        try:
            settings = resolve_settings(self.spec.settings.model_dump(), dict(changes))
        except ValidationError as error:
            raise InputError(_told(error, "--set")) from None
        if idle := sorted(inactive(settings).keys() & set(changes)):
            hint = f"The trial has box: {settings.box}, and only a general box can be decoded in two ways." if "decode" in idle else ""
            raise InputError([Problem(f"{key} has no effect on these weights", "--set", hint) for key in idle])
        return replace(self, spec=self.spec.model_copy(update={"settings": settings}))


@dataclass(frozen=True)
class Evaluation:
    """One pass over validation images.

    Attributes:
        metrics: AP metrics (0 to 100), and the scores against the truth where it is known; undefined ones are left out.
        per_class: AP by class. images: how many were looked at, of ``all_images``. device: cpu, cuda:0.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    images: int
    all_images: int
    device: str


def read_trial(trial: TrialDir, tree: RunTree, with_data: bool = True) -> Subject:
    """The weights of a finished trial (their moving average, where it has one), with its validation data.

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
    return Subject(trial.id, state, spec, paths, recorded, result.device, tuple(notes))


def read_weights(path: Path, data: Path | None, profile: Profile, tree: RunTree) -> Subject:
    """The weights in a file that ``gfl-lab import-checkpoint`` wrote, or in a trial's ``last.pth`` beside its manifest.

    A trial keeps all its settings. An imported detector has those that its weights show, the profile's of groups input and
    evaluation, and sees one image at a time, as in the published evaluations.

    Args:
        data: folder of a data set in COCO format; its annotations are checked, its images are not decoded. None: the weights are
            for images of no data set, and classes that they do not name are numbered, or COCO's where there are 80.
        tree: the user's own: code that a trial brings along is run from there alone.

    Raises:
        InputError: the file is no detector's or does not fit the data. DataError: problems of the data set.
    """
    state, meta = _read(path)
    known: tuple[str, ...] | None = None
    if "trial" in meta:
        trial = TrialDir(path.resolve().parent)
        if not trial.file(naming.MANIFEST).exists():
            hint = f"Give the trial's id, or the file in its run directory, where {naming.MANIFEST} is."
            raise InputError(Problem("a trial's checkpoint holds no settings", str(path), hint))
        manifest = trial.manifest()
        own = _spec(trial, manifest, tree)
        if manifest.trial != meta["trial"]:
            raise InputError(Problem(f"it belongs to trial {meta['trial']}, and the manifest beside it to {manifest.trial}", str(path)))
        settings, known, count = own.settings, own.data.classes, len(own.data.classes)
    else:
        settings, count = _imported(path, meta, profile)
    content, paths = _no_data(known, count) if data is None else _data(data)
    if count != len(content.classes):
        raise InputError(
            Problem(
                f"the weights tell {count} classes apart, and the data set {data} has {len(content.classes)} categories",
                str(path),
                "Give the data set that the weights were trained for.",
            )
        )
    notes: tuple[str, ...] = ()
    if known is None and data is None:
        notes = (f"the weights do not name their classes: they are called {content.classes[0]}, {content.classes[1 % count]}, ...",)
    elif known is None:
        notes = ("the weights do not name their classes: they are taken in the order of the data set's category ids",)
    elif known != content.classes:
        raise InputError(
            Problem(f"the weights know {', '.join(known)}, and the data set {data} has {', '.join(content.classes)}", str(path))
        )
    spec = TrialSpec(settings=settings, data=content, seed=0, code=TRAINING_CODE_VERSION)
    return Subject(str(path), state, spec, paths, notes=notes)


def evaluate(subject: Subject, limit: int | None = None, seen: Callable[[int, int], None] = lambda done, of: None) -> Evaluation:
    """Evaluate as a trial does after its last epoch, on the GPU where there is one.

    Args:
        limit: only the first so many validation images, by id.
        seen: called after each image with how many are done, and of how many.

    Raises:
        InputError: the weights do not fit their settings. DataError: an image cannot be read. ResourceError: too little memory.
    """
    with _too_little_memory_told():
        return _evaluate(subject, limit, seen)


def _evaluate(subject: Subject, limit: int | None, seen: Callable[[int, int], None]) -> Evaluation:
    spec, settings = subject.spec, subject.spec.settings
    config, model = _build(subject)
    if limit is not None:
        config.val_loader.dataset.indices = limit
    loader = Runner.build_dataloader(config.val_loader, seed=spec.seed)
    images = len(loader.dataset)
    evaluator = CocoEvaluator(subject.paths.val_annotations, spec.data.classes, settings.max_dets)
    collector = DistributionCollector(evaluator.truth, evaluator.category_ids, settings, ambiguous=True) if spec.data.truth else None
    samples = predict_and_collect(model, loader, collector) if collector else predict(model, loader)
    metrics, per_class = evaluator(collect(_counted(samples, images, seen)))
    if collector:
        metrics |= collector.truth_scores().metrics()
    return Evaluation(
        metrics={key: round(value, 6) for key, value in metrics.items()},
        per_class={key: round(value, 4) for key, value in per_class.items()},
        images=images,
        all_images=len(evaluator.truth.imgs),
        device=str(next(model.parameters()).device),
    )


def predict_images(subject: Subject, images: Sequence[Path], least: float) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Look at images one by one, on the GPU where there is one.

    Args:
        least: detections with a lower score are left out.

    Yields:
        The image and its detections, best first: rows as distributions.parquet has them, boxes in px of the image, with the four
        distributions of the cell that each came from.

    Raises:
        InputError: the weights do not fit their settings, or a file is no image.
    """
    with _too_little_memory_told():
        config, model = _build(subject)
    classes = subject.spec.data.classes
    pipeline = Compose(config.val_loader.dataset.pipeline)
    for number, path in enumerate(images):
        try:
            sample = pipeline({"img_path": str(path), "img_id": number, "instances": []})
        except ImageError as error:
            raise InputError(Problem(error.why, readable(str(path)))) from None
        labels = np.arange(len(classes))
        truth = SimpleNamespace(
            cats={label: {"name": name} for label, name in enumerate(classes)}, imgs={number: {"file_name": path.name}}, imgToAnns={}
        )
        collector = DistributionCollector(truth, labels, subject.spec.settings, ambiguous=False, least=least)
        with _too_little_memory_told():
            for _ in predict_and_collect(model, [pseudo_collate([sample])], collector):
                pass
        yield path, sorted(collector.rows, key=lambda row: -row["det_score"])


@contextlib.contextmanager
def _too_little_memory_told() -> Iterator[None]:
    """Raise ResourceError in place of torch's error for want of memory on a GPU."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ResourceError(Problem("the GPU has too little memory", hint="CUDA_VISIBLE_DEVICES=-1 takes the CPU.")) from None


def _build(subject: Subject) -> tuple[Any, nn.Module]:
    """mmengine's configuration, and the detector with its weights on the device that evaluates."""
    config = trial_config(subject.spec, subject.paths.to_json(), work_dir="")
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    _load(model, subject.state, subject.name)
    return config, model.to(get_device())


def _counted(samples: Iterator[Any], images: int, seen: Callable[[int, int], None]) -> Iterator[Any]:
    for done, sample in enumerate(samples, 1):
        seen(done, images)
        yield sample


def _told(error: ValidationError, place: str) -> list[Problem]:
    """pydantic's errors on settings as problems at ``place``."""
    return [Problem(problem.message, place, problem.hint) for problem in problems_of(error, Settings, Source(Path(place), {}))]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and ``meta`` of a checkpoint of ours."""
    content = load_safely(path)
    state, meta = content.get("state_dict"), content.get("meta")
    known = isinstance(meta, dict) and ("trial" in meta or "kind" in meta)
    if not known or meta is None or not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        hint = f"Weights of other projects are converted first:  gfl-lab import-checkpoint {path}"
        raise InputError(Problem("it is no checkpoint of gfl-lab's", str(path), hint))
    if not isinstance(meta.get("format"), int) or meta["format"] > naming.FORMAT_VERSION:
        raise InputError(f"{path} has format {meta.get('format')}; this gfl-lab reads up to {naming.FORMAT_VERSION}")
    return state, meta


def _spec(trial: TrialDir, manifest: Manifest, tree: RunTree) -> TrialSpec:
    """What a trial computes, with the user's code that it names imported."""
    spec = manifest.spec
    if spec.components and trial.path.resolve() != tree.trial(trial.id).path.resolve():
        names = ", ".join(component.name for component in spec.components)
        hint = "Where you trust it, say that the tree is yours: GFL_LAB_HOME."
        raise InputError(
            Problem(f"{trial.path} brings code along ({names}), which is run only from your own run tree, {tree.root}", hint=hint)
        )
    load_of_trial(trial, spec)
    return spec


def _imported(path: Path, meta: dict[str, Any], profile: Profile) -> tuple[Settings, int]:
    """Settings and number of classes of an imported detector."""
    if meta["kind"] != "detector":
        hint = "A backbone's weights are what training starts from:  gfl-lab run EXPERIMENT --init-weights FILE"
        raise InputError(Problem(f"it holds a {meta['kind']}, not a detector", str(path), hint))
    shown, count = meta.get("settings"), meta.get("num_classes")
    if not isinstance(shown, dict) or not isinstance(count, int):
        raise InputError(
            Problem("it does not say its settings or classes", str(path), "Convert the source again: gfl-lab import-checkpoint")
        )
    tests = {key: value for key, value in profile.settings.items() if key in SETTABLE}
    try:
        return resolve_settings(tests, {"batch_size": 1}, shown), count
    except ValidationError as error:
        raise InputError(_told(error, str(path))) from None


def _data(folder: Path) -> tuple[DataSpec, DataPaths]:
    """What a trial would see of a data set, but for the digest: that would take reading every image."""
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
    return data, paths


def _no_data(known: tuple[str, ...] | None, count: int) -> tuple[DataSpec, DataPaths]:
    """In place of a data set: classes alone."""
    coco_names = tuple(CocoDataset.METAINFO["classes"])
    classes = known or (coco_names if count == len(coco_names) else tuple(f"class {number}" for number in range(1, count + 1)))
    paths = DataPaths("", "", "", "")
    return DataSpec(name="images", digest="", classes=classes, train_images=0, val_images=0, truth=False), paths


def _check_data(data: DataSpec, paths: DataPaths, trial: str) -> None:
    """Whether a trial's validation data are still there, with the same classes and as many images."""
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


def _load(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Put weights into a detector, with every key accounted for."""
    own = model.state_dict()
    unfit = {
        "missing": sorted(own.keys() - state.keys()),
        "left over": sorted(state.keys() - own.keys()),
        "of another shape": sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape),
    }
    parts = [f"{len(keys)} {what} (first: {keys[0]})" for what, keys in unfit.items() if keys]
    if parts:
        raise InputError(f"the weights of {name} do not fit the detector of their settings: {', '.join(parts)}")
    model.load_state_dict(state)
