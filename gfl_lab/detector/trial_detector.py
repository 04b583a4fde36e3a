"""The detector that a trial trains: mmdet's single-stage detector, in channels-last memory order."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import GFL
from mmdet.registry import MODELS

from gfl_lab.detector.memory_order import to_channels_last


@MODELS.register_module()
class TrialDetector(GFL):
    """mmdet's GFL whose convolutions run in channels-last memory order, which takes a fifth off a training step on a CPU (docs/decisions/0004)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        to_channels_last(self)

    def extract_feat(self, batch_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the pyramid maps of (N, 3, H, W) images."""
        return super().extract_feat(batch_inputs.contiguous(memory_format=torch.channels_last))

    def loss(self, batch_inputs: torch.Tensor, batch_data_samples: list[Any]) -> dict[str, torch.Tensor]:
        """Return the losses of (N, 3, H, W) images; a teacher, if there is one, sees them too."""
        if (distillation := getattr(self.bbox_head, "distillation", None)) is not None:
            distillation.look(batch_inputs)
        return super().loss(batch_inputs, batch_data_samples)
