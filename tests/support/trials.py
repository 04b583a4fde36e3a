"""One trial without a plan: a manifest in a run directory of its own."""

from __future__ import annotations

from pathlib import Path

from gfl_lab import naming
from gfl_lab.data import coco
from gfl_lab.records.files import write_json
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.spec.code import CodeFile
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec
from gfl_lab.train.trial import run_trial
from gfl_lab.zoo.resolve import complete, resolve
from tests.support.raw import raw_result

SMALL = {
    "backbone": "r18", "base_channels": 8, "frozen_stages": -1, "norm_eval": False, "neck_channels": 16, "head_channels": 16, "head_convs": 1,
    "strides": (8, 16, 32), "image_size": (128, 128), "optimizer": "adamw", "lr": 0.002, "lr_schedule": "cosine", "warmup_iters": 3, "batch_size": 8, "epochs": 2, "score_thr": 0.001,
}  # fmt: skip
"""A narrow ResNet-18 on 128 pixels, two epochs."""


def make_trial(
    root: Path, folder: Path, seed: int = 0, data: DataSpec | None = None, code: CodeFile | None = None, **settings: object
) -> TrialDir:
    """Write the manifest of a trial over the data set in ``folder`` with ``settings`` over ``SMALL``, and its user code.

    Returns:
        Its run directory, in the run tree ``root``.
    """
    found = coco.find_dataset(folder)
    resolved = complete(Settings.model_validate(SMALL | settings))
    data = data or coco.dataspec(folder)
    spec = TrialSpec(
        settings=resolved,
        data=data,
        seed=seed,
        code=TRAINING_CODE_VERSION,
        components=(code.component,) if code else (),
        config=resolve(resolved, len(data.classes)),
    )
    trial = RunTree(root).trial(spec.id)
    trial.path.mkdir(parents=True)
    if code:
        components = trial.file(naming.COMPONENTS_DIR)
        components.mkdir()
        (components / code.name).write_bytes(code.content)
    paths = {key: str(getattr(found, key)) for key in ("train_annotations", "val_annotations", "train_images", "val_images")}
    write_json(
        trial.file(naming.MANIFEST), {"format": 1, "trial": spec.id, "spec": spec.model_dump(mode="json"), "paths": paths, "created": ""}
    )
    return trial


def train(tree: RunTree, folder: Path, code: CodeFile | None = None, **settings: object) -> TrialDir:
    """Train a trial of ``make_trial`` at twice its learning rate to its end, in this process."""
    trial = make_trial(tree.root, folder, code=code, **{"lr": 0.004, "warmup_iters": 2} | settings)
    run_trial(trial.path)
    assert raw_result(trial)["status"] == "done"
    return trial
