"""The weights of the trials that a trial needs: they lie in the folders beside its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from gfl_lab.detector.build import model_config
from gfl_lab.detector.distillation import LD, Distillation
from gfl_lab.detector.head import GFLFamilyHead
from gfl_lab.errors import GflLabError, NeededTrialMissing
from gfl_lab.rundir import TrialDir
from gfl_lab.spec.choices import TEACHER
from gfl_lab.spec.needs import needs_of
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TrialSpec
from gfl_lab.train.finished import FinalWeights, final_weights, read_spec

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers that are learned; the others, such as the positions of bins, follow from the settings."""


@dataclass(frozen=True)
class NeededTrial:
    """A finished trial that another one needs, with its final weights."""

    trial: TrialDir
    spec: TrialSpec
    weights: FinalWeights


def needed_trial(trial: TrialDir, spec: TrialSpec, role: str) -> NeededTrial:
    """Return the trial that ``trial`` needs as ``role``.

    Raises:
        NeededTrialMissing: it has not finished, or its files are damaged.
    """
    folder = TrialDir(trial.path.parent / spec.needs[role])
    try:
        own = read_spec(folder.manifest())
        return NeededTrial(folder, own, final_weights(folder, own))
    except (GflLabError, OSError) as error:
        raise NeededTrialMissing(f"it needs trial {folder.id} ({role}), whose weights cannot be used: {error}") from None


def start_from(model: nn.Module, needed: NeededTrial) -> str:
    """Put the weights of a trial into ``model`` wherever name and shape are the same; the other layers keep what they have.

    Buffers that follow from the settings are not taken.

    Returns:
        A sentence that lists what differs, for the log.

    Raises:
        NeededTrialMissing: no weight fits.
    """
    own, given = _learned(model), needed.weights.state
    taken = [name for name, value in own.items() if name in given and given[name].shape == value.shape]
    if not taken:
        raise NeededTrialMissing(f"no weight of trial {needed.trial.id} fits: no layer has the same name and shape")
    with torch.no_grad():
        for name in taken:
            own[name].copy_(given[name])
    anew = [
        f"{name} {_shape(value)}" + (f" there {_shape(given[name])}" if name in given else "")
        for name, value in own.items()
        if name not in taken
    ]
    start = f"it starts from the weights of trial {needed.trial.id}: {len(taken)} of {len(own)} are taken"
    return start + (f"; these start anew: {', '.join(anew)}" if anew else "")


def learn_from(model: nn.Module, settings: Settings, needed: NeededTrial | None) -> None:
    """Give the head of ``model`` its teacher, on the model's device.

    Args:
        settings: of the student.
        needed: the teacher's trial; None for a teacher with random weights, which takes as long.
    """
    (need,) = (each for each in needs_of(settings) if each.role == TEACHER)
    head = cast(GFLFamilyHead, model.bbox_head)
    teacher = MODELS.build({**model_config(need.settings, head.num_classes), "type": "TrialDetector"})
    if needed is not None:
        teacher.load_state_dict(needed.weights.state)
    kind = settings.distillation
    temperature, weight = (getattr(settings, f"{kind}_{part}") for part in ("temperature", "weight"))
    valuable = kind == LD and settings.ld_region == "main_and_vlr"
    head.distillation = Distillation(teacher.to(next(model.parameters()).device), kind, temperature, weight, valuable)


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and the statistics of a model by their names in its state."""
    buffers = {name: value for name, value in model.named_buffers() if name.rpartition(".")[2] in _STATISTICS}
    return {**dict(model.named_parameters()), **buffers}


def _shape(value: Tensor) -> str:
    return "(" + ", ".join(map(str, value.shape)) + ")"
