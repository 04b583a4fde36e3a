"""The first 80 training losses of four variants: what a change of code alone must not move.

``python -m tests.support.golden_losses`` records them again, after a deliberate change of what a trial computes;
``--compare`` prints how far this machine is from the recorded ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from gfl_lab.data import ambiguous_shapes
from gfl_lab.data.ambiguous_shapes import AmbiguousShapesSpec
from gfl_lab.train.trial import run_trial
from tests.support import DATA
from tests.support.trials import make_trial

FILE = DATA / "golden_losses.json"
STEPS = 80
VARIANTS = {f"{quality} {box}": {"quality": quality, "box": box} for quality in ("centerness", "joint") for box in ("dirac", "general")}
"""QFL off and on, DFL off and on."""
SETTINGS = {"head_channels": 32, "batch_size": 2, "epochs": 1, "warmup_iters": 10, "lr": 0.004, "dfl_weight": 1.0, "score_thr": 0.05}

Losses = dict[str, list[float]]
"""A value for each step, by the name of the term; ``loss`` is the sum."""


def generate(folder: Path) -> Path:
    """Generate the data set of 160 training images: one epoch is 80 steps."""
    return ambiguous_shapes.generate(AmbiguousShapesSpec(train_images=2 * STEPS, val_images=8), folder)


def train(variant: str, data: Path, root: Path, threads: int = 1) -> Losses:
    """Train ``variant`` for one epoch and return its losses."""
    trial = make_trial(root, data, **SETTINGS | VARIANTS[variant])
    run_trial(trial.path, threads=threads)
    lines = [line.metrics for line in trial.metric_lines() if line.kind == "train"]
    return {key: [line[key] for line in lines] for key in sorted(lines[0]) if key.startswith("loss")}


def difference(ours: Losses, theirs: Losses) -> float:
    """Return the largest relative difference of any term at any step."""
    pairs = [(a, b) for key in theirs for a, b in zip(ours[key], theirs[key], strict=True)]
    return max(abs(a - b) / max(abs(b), 1e-3) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true", help="write nothing; print the largest relative difference of each variant")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = generate(Path(folder, "data"))
        found = {variant: train(variant, data, Path(folder, "runs"), options.threads) for variant in VARIANTS}
    if options.compare:
        recorded = json.loads(FILE.read_text())
        for variant in VARIANTS:
            steps = [
                difference({k: v[:n] for k, v in found[variant].items()}, {k: v[:n] for k, v in recorded[variant].items()})
                for n in (1, 20, 40, 80)
            ]
            print(f"{variant}: " + ", ".join(f"{each:.1e}" for each in steps) + " within 1, 20, 40 and 80 steps")
    else:
        FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
