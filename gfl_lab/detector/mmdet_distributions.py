"""The box distributions of mmdet's own GFL heads, read as those of ours are.

A class with the reading stands between the head and its own class, as the fixes of ``mmdet_fixes`` do. Weights, losses and
detections stay mmdet's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfl_lab.detector.box_forms.general import General
from gfl_lab.detector.geometry import Geometry, GeometryCache
from gfl_lab.detector.mmdet_fixes import between
from gfl_lab.detector.postprocess import DenseOutputs, Maps, Reader

HEADS = ("GFLHead", "LDHead")
"""Heads of mmdet's that predict a distribution for each side at each location, and are read alike."""


def gives_distributions(model: Mapping[str, Any]) -> bool:
    """Return True if the head in a model's config is one of ``HEADS``."""
    head = model.get("bbox_head")
    return isinstance(head, Mapping) and str(head.get("type")).rpartition(".")[2] in HEADS


def read_distributions(detector: nn.Module, model: Mapping[str, Any]) -> None:
    """Give a detector that was built from ``model`` the methods that distributions are read with, if its head has any; in place."""
    if gives_distributions(model):
        head: nn.Module = detector.bbox_head  # type: ignore[assignment]
        own: type = type(head)
        head.__class__ = between(ReadsItsDistributions, own)


class ReadsItsDistributions(nn.Module):
    """``GFLHead``: what ``GFLFamilyHead`` has for the collector of distributions."""

    def geometry(self, featmap_sizes: Sequence[Sequence[int]], device: torch.device) -> Geometry:
        """Return the locations of a pyramid, as ``GFLFamilyHead.geometry``."""
        if not hasattr(self, "_geometries"):
            self._geometries = GeometryCache(self.prior_generator)
        return self._geometries.get(featmap_sizes, device)

    @torch.no_grad()
    def dense_outputs(self, head_outs: tuple[list[Tensor], list[Tensor]], img_metas: list[dict[str, Any]]) -> DenseOutputs:
        """Return scores, boxes and distributions at every location, as ``GFLFamilyHead.dense_outputs``."""
        maps = Maps(*([level.float() for level in levels] for levels in head_outs))
        form = General(reg_max=int(self.reg_max))  # type: ignore[arg-type]
        form.integral = self.integral
        with torch.autocast(maps.logits[0].device.type, enabled=False):
            geometry = self.geometry([level.shape[-2:] for level in maps.logits], maps.logits[0].device)
            return Reader(geometry, form, multiplies_score=False).dense(maps, img_metas)
