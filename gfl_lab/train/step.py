"""One training step: a batch in one or more parts, in one or more processes, and no step of a loss that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper

from gfl_lab.detector.transfer import to_host
from gfl_lab.errors import NonFiniteLoss
from gfl_lab.train.team import Team


class TrainingStep:
    """A training step of ``model``.

    Attributes:
        parts: into how many parts each batch is split, for want of memory; their gradients are added up.
        team: the processes that share each batch.
    """

    def __init__(self, model: BaseModel, optim_wrapper: OptimWrapper, team: Team | None = None, parts: int = 1) -> None:
        self.model, self.optim_wrapper, self.team, self.parts = model, optim_wrapper, team or Team(), parts

    def __call__(self, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Take one step over a batch. In parts, each part's loss is weighted by its share of the images.

        The batch is padded as a whole, so an image looks the same in a part. What differs a little is what the loss divides by
        (the positives of the part) and the statistics of batch norms.

        Returns:
            The terms of the loss, on the CPU.

        Raises:
            NonFiniteLoss: before any weight changes, in all processes or in none (its step is filled in by the trial). The host
                waits for the terms after it has queued the backward pass, so a GPU has work to do meanwhile.
        """
        model, optim_wrapper = self.model, self.optim_wrapper
        with optim_wrapper.optim_context(model):
            data = model.data_preprocessor(data, True)
        images = len(data["inputs"])
        parts = self.team.least(min(self.parts, images))  # losses are normalised over the processes: as many calls in each
        sums: dict[str, torch.Tensor] = {}
        for indices in np.array_split(np.arange(images), parts):
            part, share = slice(int(indices[0]), int(indices[-1]) + 1), len(indices) / images
            with optim_wrapper.optim_context(model):
                losses = model(**(data if parts == 1 else {key: value[part] for key, value in data.items()}), mode="loss")
            loss, found = self._parse_losses(losses)
            sums = {name: sums.get(name, 0) + share * value.detach() for name, value in found.items()}
            values = to_host(torch.stack([value.float() for value in sums.values()]))  # queued before the backward pass
            optim_wrapper.backward(loss * share)
        self.team.average_gradients(model.parameters())
        terms = dict(zip(sums, values(), strict=True))
        if not torch.isfinite(terms["loss"]):
            raise NonFiniteLoss(0, 0, {name: float(value) for name, value in terms.items()})
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return terms

    def _parse_losses(self, losses: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """As mmengine's, the terms as means over the processes."""
        total, terms = self.model.parse_losses(losses)
        if self.team.size > 1:
            terms = dict(zip(terms, self.team.mean(torch.stack([term.detach().float() for term in terms.values()])), strict=True))
        return total, terms
