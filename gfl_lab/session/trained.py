"""Trained detectors by what a person names: a trial by its id, or a file with weights.

Torch is imported only once the names have been checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gfl_lab.addresses import absolute
from gfl_lab.errors import InputError, Problem
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.session.inputs import named_profile
from gfl_lab.session.lookup import require_done, trial_of_checkpoint, trial_or_file

if TYPE_CHECKING:
    from gfl_lab.inference.trained_detector import TrainedDetector

DEFAULT_PROFILE = "coco_1x"
"""Profile that gives imported weights their image size and test settings."""


def detector_to_evaluate(tree: RunTree, name: str, data: Path | None = None, profile: str | None = None) -> TrainedDetector:
    """Return the weights of a finished trial with its own validation data, or those in a file with the data set ``data``.

    Args:
        tree: the user's own: code that a trial brings along is run from there alone.
        name: beginning of a trial's id, or path of a file that `gfl-lab import-checkpoint` or a trial wrote. A trial's own
            ``last.pth`` without ``data`` is the trial.
        data: folder in COCO format, for a file.
        profile: name or path, for a file. None is ``DEFAULT_PROFILE``.

    Raises:
        InputError: there are no such weights, no data for them, or a trial that is not finished.
    """
    trial = trial_or_file(tree, name)
    if trial is not None and (data or profile):
        option = "--data" if data else "--profile"
        raise InputError(Problem(f"{option} goes with a weights file; a trial is evaluated on its own data", hint=f"Leave {option} out."))
    if data is None:
        trial = trial or trial_of_checkpoint(Path(name))
        if trial is None:
            hint = "Give --data PATH, a folder in COCO format (docs/data.md)."
            raise InputError(Problem(f"there is nothing to evaluate {name} on", hint=hint))
    return _read(tree, trial, Path(name), None if data is None else absolute(data, "--data"), profile, with_data=True)


def detector_for_images(tree: RunTree, name: str, profile: str | None = None) -> TrainedDetector:
    """Return the weights of a finished trial, or those in a file, for images of no data set.

    Args:
        tree: the user's own: code that a trial brings along is run from there alone.
        name: beginning of a trial's id, or path of a file.
        profile: name or path, for imported weights. None is ``DEFAULT_PROFILE``.

    Raises:
        InputError: there are no such weights, or a trial that is not finished.
    """
    trial = trial_or_file(tree, name) or trial_of_checkpoint(Path(name))
    return _read(tree, trial, Path(name), None, profile, with_data=False)


def _read(tree: RunTree, trial: TrialDir | None, file: Path, data: Path | None, profile: str | None, *, with_data: bool) -> TrainedDetector:
    if trial is not None:
        require_done(tree, trial)
    from gfl_lab.inference.trained_detector import read_trial, read_weights

    if trial is not None:
        return read_trial(trial, tree, with_data)
    return read_weights(file, data, named_profile(profile or DEFAULT_PROFILE), tree)
