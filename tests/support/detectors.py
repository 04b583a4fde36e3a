"""Detectors drawn from a model whose truth is known: what intervals and p-values are checked with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfl_lab.metrics.coco_ap import IOUS, Matches


@dataclass(frozen=True)
class World:
    """How detections come about; all spreads are of a box's overlap on the logit scale.

    Attributes:
        effect: of the variant over the baseline. seed_sd: between trainings of one variant. image_sd: between images, for both alike.
        response_sd: between images, for each variant by itself: what makes the choice of images matter to a difference.
    """

    images: int = 50
    effect: float = 0.0
    seed_sd: float = 0.05
    image_sd: float = 0.5
    response_sd: float = 0.2
    boxes: int = 3

    def pairs(self, rng: np.random.Generator, seeds: int) -> list[tuple[Matches, Matches]]:
        """(variant, baseline) of each seed over one draw of images."""
        image_ids = np.arange(self.images)
        gt_image = np.repeat(image_ids, self.boxes)
        ease = rng.normal(0, self.image_sd, self.images)
        responses = [rng.normal(0, self.response_sd, self.images) for _ in range(2)]

        def train(effect: float, response: np.ndarray) -> Matches:
            skill = 1.3 + effect + rng.normal(0, self.seed_sd)
            logit = skill + (ease + response)[gt_image] + rng.normal(0, 0.8, len(gt_image))
            iou = 1 / (1 + np.exp(-logit))
            wrong = rng.integers(0, self.images, self.images)
            image = np.concatenate([gt_image, wrong])
            score = np.concatenate([iou + rng.normal(0, 0.15, len(iou)), rng.normal(0.5, 0.15, len(wrong))])
            order = np.argsort(-score, kind="stable")
            box = np.full((len(IOUS), len(image)), -1)
            box[:, : len(iou)] = np.where(iou >= IOUS[:, None], np.arange(len(iou)), -1)
            return Matches(
                image_ids=image_ids, image=image[order], label=np.zeros(len(image), int), score=score[order], index=order, box=box[:, order],
                ignored=np.zeros(box.shape, bool), gt_image=gt_image, gt_label=np.zeros(len(gt_image), int), classes=1,
            )  # fmt: skip

        return [(train(self.effect, responses[0]), train(0.0, responses[1])) for _ in range(seeds)]
