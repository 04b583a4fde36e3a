"""A search in the on-disk format, at any point of it, made without Optuna and without training. The numbers are invented."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfl_lab import naming
from gfl_lab.records.files import write_json
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.records.result import Failure
from gfl_lab.records.search import Outcome, SearchFile, Suggestion, write_search
from gfl_lab.rundir import RunTree
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.search import dimensions_of
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec
from tests.support.fake_runs import HOSTILE_TEXT

EPOCHS, BATCH, IMAGES, GRACE = 9, 2, 8, 1
SPACE = {
    "qfl_beta": {"low": 1.0, "high": 4.0},
    "dfl_weight": {"low": 0.1, "high": 2.0, "log": True},
    "reg_max": [8, 12, 16],
    "lr": {"low": 3.0e-4, "high": 5.0e-3, "log": True},
}
HOSTILE_VALUES = [{}, {"head": {"<script>alert(5)</script>": "**x** $a$ %{x}"}}]
MIXED = (
    *["done"] * 3,
    "stopped",
    "failed",
    "done",
    "invalid",
    "stopped",
    "repeat",
    *["done"] * 3,
    "stopped",
    "done",
    "stopped",
    "done",
) * 2
"""32 suggestions, of which 18 are done: enough for importance."""


def write_fake_search(
    root: Path, *, states: Sequence[str] = MIXED, hostile: bool = False, name: str = "search_desk", profile: str = "desk", trials: int = 40
) -> RunTree:
    """Write a search whose suggestions have the given ``states``: outcomes of the ledger, and running or interrupted.

    Args:
        hostile: one searched setting has values that are markup, and so have the question and the reasons.
    """
    tree, rng = RunTree(Path(root)), np.random.default_rng(list(name.encode()))
    space: dict[str, Any] = SPACE | ({"component_args": HOSTILE_VALUES} if hostile else {})
    data = DataSpec(name="ambiguous_shapes", digest="0" * 16, classes=("a",), train_images=IMAGES, val_images=4, truth=True)
    definition = {
        "space": space, "metric": "AP", "scheduler": {"name": "asha", "grace_epochs": GRACE, "reduction": 3}, "sampler_seed": 0, "seed": 0,
        "settings": {}, "data": data.digest, "code": TRAINING_CODE_VERSION, "components": [], "corner": "0" * 12,
    }  # fmt: skip
    ledger = SearchFile(definition, trials, "2026-01-01T00:00:00+00:00", {"name": "TPESampler", "seed": 0, "optuna": "5.0.0"})
    variants = []
    for number, state in enumerate(states):
        drawn = {dimension.key: _draw(rng, dimension) for dimension in dimensions_of(space)}
        settings = {dimension.key: dimension.value(drawn[dimension.key]) for dimension in dimensions_of(space)}
        entry = Suggestion(number, drawn, settings)
        ledger.suggestions.append(entry)
        if state in ("invalid", "repeat"):
            entry.state, entry.reason = Outcome(state), HOSTILE_TEXT if hostile else "reg_max is too small"
            continue
        resolved = Settings(**settings, qfl=True, dfl=True, epochs=EPOCHS, batch_size=BATCH)
        spec = TrialSpec(settings=resolved, data=data, seed=0, code=TRAINING_CODE_VERSION)
        entry.trial = spec.id
        entry.state = Outcome(state) if state in set(Outcome) else Outcome.OPEN
        _write_trial(tree, spec, entry, state, hostile)
        variants.append(
            {
                "name": naming.variant_name(settings), "axes": settings, "settings": resolved.model_dump(mode="json"), "baseline": False,
                "reference": None, "trials": [{"id": spec.id, "seed": 0}],
            }
        )  # fmt: skip
    folder = tree.experiment(name, profile)
    write_search(folder / naming.SEARCH, ledger)
    axes = {dimension.key: list(dimension.choices) or [str(dimension)] for dimension in dimensions_of(space)}
    question = "Which settings of QFL and DFL, and which learning rate, suit the generated data best?"
    plan = {
        "format": naming.FORMAT_VERSION,
        "created": ledger.created,
        "experiment": {
            "name": name, "question": HOSTILE_TEXT if hostile else question, "kind": "search", "source": f"{name}.yaml", "axes": axes,
            "baseline": None, "table": {"metrics": ["AP", "AP50", "AP75", "fps"]},
        },
        "profile": {"name": profile, "title": "two CPU cores, a few minutes"},
        "data": data.model_dump(mode="json"),
        "variants": variants,
    }  # fmt: skip
    write_json(folder / naming.PLAN, plan)
    return tree


def _draw(rng: np.random.Generator, dimension: Any) -> float:
    if dimension.choices:
        return int(rng.integers(len(dimension.choices)))
    low, high = (math.log(dimension.low), math.log(dimension.high)) if dimension.log else (dimension.low, dimension.high)
    drawn = rng.uniform(low, high)
    return float(math.exp(drawn) if dimension.log else drawn)


def _write_trial(tree: RunTree, spec: TrialSpec, entry: Suggestion, state: str, hostile: bool) -> None:
    trial, settings = tree.trial(spec.id), spec.settings
    trial.path.mkdir(parents=True)
    write_json(
        trial.file(naming.MANIFEST), {"format": naming.FORMAT_VERSION, "trial": spec.id, "spec": spec.model_dump(mode="json"), "paths": {}}
    )
    assert total_epochs(settings) == EPOCHS
    height = 60 - 9 * abs(math.log10(settings.lr) + 2.8) - 1.5 * abs(settings.qfl_beta - 2) - abs(math.log10(settings.dfl_weight) + 0.6)
    last = {"done": EPOCHS, "stopped": 1 + 2 * (entry.number % 2), "failed": 2, "running": 4, "interrupted": 3}.get(state, 0)
    per_epoch = IMAGES // BATCH
    writer = MetricWriter(trial.file(naming.METRICS_FILE))
    for epoch in range(1, last + 1):
        ap = round(height * (1 - 0.55**epoch), 4)
        for step in range((epoch - 1) * per_epoch + 1, epoch * per_epoch + 1):
            writer.write("train", step, epoch, {"loss": 2 - 0.1 * epoch, "lr": settings.lr})
        writer.write("val", epoch * per_epoch, epoch, {"AP": ap})
        entry.values[epoch] = entry.value = ap
    writer.close()
    if state == "running":
        entry.value = None
        trial.take_lease()
        return
    result: dict[str, Any] = {"status": "interrupted"}
    if state == "done":
        result = {"status": "done", "metrics": {"AP": entry.value, "fps": 40.0}, "epochs": EPOCHS, "steps": EPOCHS * per_epoch}
    elif state == "failed":
        reason = HOSTILE_TEXT if hostile else "the loss became non-finite at step 8"
        entry.value, entry.failure = None, Failure("non_finite_loss", reason)
        result = {"status": "failed", "failure": {"kind": entry.failure.kind, "reason": entry.failure.reason, "step": 8, "epoch": 2}}
    elif state == "interrupted":
        entry.value = None
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(
        trial.file(naming.RESULT),
        {
            "format": naming.FORMAT_VERSION,
            "trial": spec.id,
            **result,
            "seconds": {"train": 3.0 * last, "total": 3.0 * last},
            "finished": finished,
        },
    )
