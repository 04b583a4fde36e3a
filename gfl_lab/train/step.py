"""One training step: a batch in one or more accumulation steps and processes; a loss that is not finite changes no weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper

from gfl_lab.detector.transfer import to_host
from gfl_lab.errors import NonFiniteLoss
from gfl_lab.train.process_group import ProcessGroup, without_gradient_sync


class TrainingStep:
    """A training step of ``model``, which holds the weights that the training starts or continues with.

    The model itself stays unwrapped: evaluation, moving average and checkpoints use it as in a single process.

    Args:
        accumulation_steps: the number of parts of each batch whose gradients are added up, to save memory.
        group: the processes that share each batch.
    """

    def __init__(
        self, model: BaseModel, optim_wrapper: OptimWrapper, accumulation_steps: int = 1, group: ProcessGroup | None = None
    ) -> None:
        self.model, self.optim_wrapper, self.accumulation_steps = model, optim_wrapper, accumulation_steps
        self.group = group or ProcessGroup()
        self.network = self.group.wrap(model)

    def __call__(self, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Take one step over a batch: the part of it that this process has. The loss of a part is weighted by its share of the images.

        The batch is padded as a whole, so an image looks the same in a part. Two things depend on the number of parts: the number of
        positives by which a loss is divided is that of the part, and so are the statistics of batch norms.

        Returns:
            The terms of the loss, on the CPU; means over the processes.

        Raises:
            NonFiniteLoss: before any weight changes, in all processes or in none; its caller adds step and epoch. The host waits for
                the terms after it has queued the last backward pass, so that a GPU has work to do meanwhile.
        """
        model, optim_wrapper = self.model, self.optim_wrapper
        with optim_wrapper.optim_context(model):
            data = model.data_preprocessor(data, True)
        images = len(data["inputs"])
        # Losses are normalised over the processes, so that all need the same number of forward passes.
        parts = np.array_split(np.arange(images), self.group.all_reduce_min(min(self.accumulation_steps, images)))
        sums: dict[str, torch.Tensor] = {}
        for number, indices in enumerate(parts, 1):
            share, last = len(indices) / images, number == len(parts)
            with without_gradient_sync(self.network, skip=not last):
                with optim_wrapper.optim_context(model):
                    losses = self.network(**_part(data, indices) if len(parts) > 1 else data, mode="loss")
                loss, terms = model.parse_losses(losses)
                sums = {name: sums.get(name, 0) + share * value.detach() for name, value in terms.items()}
                if last:  # the copy is queued before the backward pass
                    wait_for_terms = to_host(self.group.all_reduce_mean(torch.stack([value.float() for value in sums.values()])))
                optim_wrapper.backward(loss * share)
        found = dict(zip(sums, wait_for_terms(), strict=True))
        if not torch.isfinite(found["loss"]):
            raise NonFiniteLoss(0, 0, {name: float(value) for name, value in found.items()})
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return found


def _part(data: dict[str, Any], indices: np.ndarray) -> dict[str, Any]:
    """Return the images of a batch with these indices, which are consecutive."""
    return {key: value[int(indices[0]) : int(indices[-1]) + 1] for key, value in data.items()}
