"""Trained detectors by what a person names: a trial by its id, a file with weights, or weights that mmdet publishes.

Torch is imported only once the names have been checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gfl_lab.addresses import absolute
from gfl_lab.errors import InputError, Problem
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.session.inputs import named_profile
from gfl_lab.session.lookup import require_done, trial_of_checkpoint, trial_or_file
from gfl_lab.zoo import metafile
from gfl_lab.zoo.metafile import PREFIX

if TYPE_CHECKING:
    from gfl_lab.inference.trained_detector import TrainedDetector

DEFAULT_PROFILE = "coco_1x"
"""Profile that gives weights that are no trial's their image size and test settings."""


Progress = Callable[[int, int], None]
"""Called with the bytes of a download that are there, and of all."""


def _silent(done: int, of: int) -> None:
    pass


def detector_to_evaluate(
    tree: RunTree, name: str, data: Path | None = None, profile: str | None = None, progress: Progress = _silent
) -> TrainedDetector:
    """Return the weights of a finished trial with its own validation data, or those in a file with the data set ``data``.

    Args:
        tree: the user's own: code that a trial brings along is run from there alone.
        name: beginning of a trial's id, path of a file, or ``mmdet:NAME`` for the weights that mmdet publishes for a config. A
            trial's own ``last.pth`` without ``data`` is the trial.
        data: folder in COCO format, for a file or published weights.
        profile: name or path, for a file or published weights. None is ``DEFAULT_PROFILE``.
        progress: called while published weights are downloaded.

    Raises:
        InputError: there are no such weights, no data for them, or a trial that is not finished.
        ResourceError: published weights cannot be downloaded.
    """
    if name.startswith(PREFIX):
        if data is None:
            raise _no_data(name)
        return _published(name, absolute(data, "--data"), profile, progress)
    trial = trial_or_file(tree, name)
    if trial is not None and (data or profile):
        option = "--data" if data else "--profile"
        raise InputError(Problem(f"{option} goes with a weights file; a trial is evaluated on its own data", hint=f"Leave {option} out."))
    if data is None:
        trial = trial or trial_of_checkpoint(Path(name))
        if trial is None:
            raise _no_data(name)
    return _read(tree, trial, Path(name), None if data is None else absolute(data, "--data"), profile, with_data=True)


def detector_for_images(tree: RunTree, name: str, profile: str | None = None, progress: Progress = _silent) -> TrainedDetector:
    """Return the weights of a finished trial, those in a file, or published ones, for images of no data set.

    Args:
        tree: the user's own: code that a trial brings along is run from there alone.
        name: beginning of a trial's id, path of a file, or ``mmdet:NAME``.
        profile: name or path, for weights that are no trial's. None is ``DEFAULT_PROFILE``.
        progress: called while published weights are downloaded.

    Raises:
        InputError: there are no such weights, or a trial that is not finished.
        ResourceError: published weights cannot be downloaded.
    """
    if name.startswith(PREFIX):
        return _published(name, None, profile, progress)
    trial = trial_or_file(tree, name) or trial_of_checkpoint(Path(name))
    return _read(tree, trial, Path(name), None, profile, with_data=False)


def _no_data(name: str) -> InputError:
    hint = "Give --data PATH, a folder in COCO format (docs/data.md)."
    return InputError(Problem(f"there is nothing to evaluate {name} on", hint=hint))


def _published(name: str, data: Path | None, profile: str | None, progress: Progress) -> TrainedDetector:
    entry, settings = metafile.find(name.removeprefix(PREFIX)), named_profile(profile or DEFAULT_PROFILE)
    from gfl_lab.inference.published_weights import check_offered, read_published

    check_offered(entry)
    return read_published(entry, data, settings, progress)


def _read(tree: RunTree, trial: TrialDir | None, file: Path, data: Path | None, profile: str | None, *, with_data: bool) -> TrainedDetector:
    if trial is not None:
        require_done(tree, trial)
    from gfl_lab.inference.trained_detector import read_trial, read_weights

    if trial is not None:
        return read_trial(trial, tree, with_data)
    return read_weights(file, data, named_profile(profile or DEFAULT_PROFILE), tree)
