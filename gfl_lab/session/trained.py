"""Trained detectors by what a person names: a trial, a file with weights, or weights that mmdet publishes.

Torch is imported only once the names have been checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfl_lab.addresses import absolute
from gfl_lab.errors import InputError, Problem
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.session.inputs import named_profile
from gfl_lab.session.trial_lookup import require_done, trial_of_checkpoint, trial_or_file
from gfl_lab.spec.choices import MMDET
from gfl_lab.spec.plain_config import decode
from gfl_lab.zoo import metafile
from gfl_lab.zoo.source import read

if TYPE_CHECKING:
    from gfl_lab.inference.trained_detector import TrainedDetector

DEFAULT_PROFILE = "coco_1x"
"""Profile that gives weights that are no trial's their image size and test settings."""


Progress = Callable[[int, int], None]
"""Called with the bytes of a download that are there, and of all."""


def _silent(done: int, of: int) -> None:
    pass


def require_weights(tree: RunTree, name: str, *, config: str | None = None) -> None:
    """Refuse weights that are not there, before anything is loaded, downloaded or written.

    Args:
        tree, name, config: as ``detector_to_evaluate`` takes them.

    Raises:
        InputError: there are no such weights, or a trial that is not finished.
    """
    if name.startswith(MMDET):
        metafile.find(name.removeprefix(MMDET))
        return
    trial = trial_or_file(tree, name) or trial_of_checkpoint(Path(name))
    if trial is not None and not config:
        require_done(tree, trial)


def detector_to_evaluate(
    tree: RunTree,
    name: str,
    data: Path | None = None,
    profile: str | None = None,
    *,
    config: str | None = None,
    progress: Progress = _silent,
) -> TrainedDetector:
    """Return the weights of a finished trial with its own validation data, or others with the data set ``data``.

    Args:
        tree: the user's own: code that a trial brings along is run from there alone.
        name: a trial as ``find_trial`` takes it, path of a file, or ``mmdet:NAME`` for the weights that mmdet publishes for a config.
            A trial's own ``last.pth`` without ``data`` is the trial.
        data: folder in COCO format, for a file or published weights.
        profile: name or path, for weights whose image size and test settings are not known. None is ``DEFAULT_PROFILE``.
        config: ``mmdet:NAME`` or a config file, for a file of mmdet's that is no detector of the GFL family.
        progress: called while published weights are downloaded.

    Raises:
        InputError: there are no such weights, no data for them, or a trial that is not finished.
        ResourceError: published weights cannot be downloaded.
    """
    folder = None if data is None else absolute(data, "--data")
    if name.startswith(MMDET) or config:
        if data is None:
            raise _no_data(name)
        return _of_mmdet(tree, name, folder, profile, config, progress)
    trial = trial_or_file(tree, name)
    if trial is not None and (data or profile):
        option = "--data" if data else "--profile"
        raise InputError(Problem(f"{option} goes with a weights file; a trial is evaluated on its own data", hint=f"Leave {option} out."))
    if data is None:
        trial = trial or trial_of_checkpoint(Path(name))
        if trial is None:
            raise _no_data(name)
    return _read(tree, trial, Path(name), folder, profile, with_data=True)


def detector_for_images(
    tree: RunTree, name: str, profile: str | None = None, *,
    config: str | None = None, distributions: bool = False, progress: Progress = _silent,
) -> TrainedDetector:  # fmt: skip
    """Return the weights of a finished trial, those in a file, or published ones, for images of no data set.

    Args:
        tree, name, profile, config, progress: as ``detector_to_evaluate`` takes them.
        distributions: whether box distributions are wanted.

    Raises:
        InputError: there are no such weights, a trial that is not finished, or a detector of mmdet's without the distributions that
            are wanted.
        ResourceError: published weights cannot be downloaded.
    """
    if name.startswith(MMDET) or config:
        if distributions:
            _require_distributions(name, config)
        return _of_mmdet(tree, name, None, profile, config, progress)
    trial = trial_or_file(tree, name) or trial_of_checkpoint(Path(name))
    detector = _read(tree, trial, Path(name), None, profile, with_data=False)
    if distributions and detector.spec.config:
        _require_head(decode(detector.spec.config["model"]), detector.spec.settings.detector)
    return detector


def _no_data(name: str) -> InputError:
    hint = "Give --data PATH, a folder in COCO format (docs/data.md)."
    return InputError(Problem(f"there is nothing to evaluate {name} on", hint=hint))


def _require_distributions(name: str, config: str | None) -> None:
    """Refuse a detector of mmdet's that predicts no distribution of box edges, before its weights are fetched."""
    if config or not metafile.find(name.removeprefix(MMDET)).has_distributions:
        _require_head(read(config or name)["model"], config or name)


def _require_head(model: Mapping[str, Any], detector: str) -> None:
    """Refuse a detector of mmdet's by its config, if its head predicts no distributions."""
    from gfl_lab.detector.mmdet_distributions import gives_distributions

    if not gives_distributions(model):
        hint = f"Leave --distributions out. Detectors of the GFL family have them, such as {MMDET}gfl_r50_fpn_1x_coco."
        raise InputError(Problem(f"the head of {detector} predicts no distributions of box edges", "--distributions", hint))


def _of_mmdet(tree: RunTree, name: str, data: Path | None, profile: str | None, config: str | None, progress: Progress) -> TrainedDetector:
    """Return published weights, or those in a file of mmdet's with its config."""
    if config is None:
        entry = metafile.find(name.removeprefix(MMDET))
        if profile and not entry.is_own_detector:
            raise _no_profile(name)
        settings = named_profile(profile or DEFAULT_PROFILE)
        from gfl_lab.inference.published_weights import read_published

        return read_published(entry, data, settings, progress)
    if name.startswith(MMDET) or trial_or_file(tree, name) is not None:
        raise InputError(
            Problem("--detector goes with a weights file; other weights have their detector on record", hint="Leave --detector out.")
        )
    if profile:
        raise _no_profile(config)
    trial_of_checkpoint(Path(name))  # there is such a file
    from gfl_lab.inference.published_weights import read_with_config

    return read_with_config(Path(name), config, data)


def _no_profile(detector: str) -> InputError:
    message = f"{detector} is tested by its own config, which gives image size and test settings"
    return InputError(Problem(message, "--profile", "Leave --profile out."))


def _read(tree: RunTree, trial: TrialDir | None, file: Path, data: Path | None, profile: str | None, *, with_data: bool) -> TrainedDetector:
    if trial is not None:
        require_done(tree, trial)
    from gfl_lab.inference.trained_detector import read_trial, read_weights

    if trial is not None:
        return read_trial(trial, tree, with_data)
    return read_weights(file, data, named_profile(profile or DEFAULT_PROFILE), tree)
