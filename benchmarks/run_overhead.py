"""Cost of `gfl-lab run` beside a shell loop that trains the same four configurations with mmengine's stock Runner.

    uv run python benchmarks/run_overhead.py                    Table 3's four cells on desk, twice: 15 minutes on two quiet cores
    uv run python benchmarks/run_overhead.py --write            also writes benchmarks/results/
    uv run python benchmarks/run_overhead.py --epochs 2         a shorter schedule, to try it

The loop is `ls trials | xargs -P SLOTS python run_overhead.py --stock`: a process for each configuration, as many at a time as
gfl-lab runs. Each reads the config.py that gfl-lab wrote for the trial and adds what mmdet's own configurations have: logger and
checkpoint hooks, and after each epoch an evaluation with mmdet's CocoMetric. Model, data, augmentation, batches and seeds are
the trial's, so both ways must come to the same weights, and that is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import LAB, ROOT, header, lab_environment, publish, timed

EXPERIMENT = ROOT / "experiments" / "table3_qfl_dfl.yaml"
STOCK_HOOKS = {
    "timer": {"type": "IterTimerHook"},
    "logger": {"type": "LoggerHook", "interval": 50},
    "checkpoint": {"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 1},
}
"""Values of mmdet's own configurations."""
PACKAGES = ("torch", "mmdet", "mmengine", "mmcv-lite", "ray", "mlflow", "pycocotools")


def stock(trial: Path, out: Path, threads: int) -> None:
    """Train the trial's configuration with mmengine's Runner as it is; its COCO numbers go to ``out/<id>/metrics.json``."""
    import torch
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    import gfl_lab.train.trial  # noqa: F401  (registers the detector, the data set and the samplers that the configuration names)

    torch.set_num_threads(threads)
    config = Config.fromfile(trial / "config.py")
    folder = out / trial.name
    annotations = config.val_loader.dataset.ann_file
    config.merge_from_dict(
        {
            "work_dir": str(folder),
            "val_dataloader": config.pop("val_loader"),
            "val_cfg": {"type": "ValLoop"},
            "val_evaluator": {"type": "CocoMetric", "ann_file": annotations, "metric": "bbox"},
        }
    )
    config.default_hooks = STOCK_HOOKS  # the trial's configuration turns them off, which a merge would not undo

    class SetEpoch(Hook):
        """The trial's data set draws its augmentation from the epoch."""

        def before_train_epoch(self, runner: Runner) -> None:
            runner.train_dataloader.dataset.set_epoch(runner.epoch)

    runner = Runner.from_cfg(config)
    runner.register_hook(SetEpoch())
    runner.train()
    hub = runner.message_hub.log_scalars
    (folder / "metrics.json").write_text(json.dumps({key: hub[f"val/coco/bbox_{key}"].current() for key in ("mAP", "mAP_50", "mAP_75")}))
    torch.save(runner.model.state_dict(), folder / "weights.pth")


def same_weights(trial: Path, out: Path) -> bool:
    """Return True if both ways came to the same weights, bit by bit."""
    import torch

    ours = torch.load(trial / "last.pth", weights_only=True)["state_dict"]
    theirs = torch.load(out / trial.name / "weights.pth", weights_only=True)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def slots_of(experiment: Path, environment: dict[str, str]) -> int:
    """How many of its trials run at once. The plan also makes the data set, and what is imported comes into the page cache."""
    planned = subprocess.run([*LAB, "plan", str(experiment), "--json"], env=environment, check=True, capture_output=True, text=True)
    timed([sys.executable, "-c", "import gfl_lab.train.trial, ray.tune, mlflow.tracking"], environment)
    return json.loads(planned.stdout)["at_once"]


def lab_run(folder: Path, settings: dict[str, Any]) -> tuple[float, int, dict[str, str]]:
    """Seconds of `gfl-lab run` over Table 3 with ``settings`` in ``folder/runs``; how many trials ran at once; the environment."""
    experiment, environment = folder / EXPERIMENT.name, lab_environment(folder / "runs")
    shutil.copytree(EXPERIMENT.parent / "published", folder / "published")
    experiment.write_text(EXPERIMENT.read_text() + (f"overrides: {json.dumps(settings)}\n" if settings else ""))
    slots = slots_of(experiment, environment)
    return timed([*LAB, "run", str(experiment)], environment), slots, environment


def race(folder: Path, out: Path, script: str, epochs: int | None) -> tuple[float, float, int, int]:
    """Seconds of `gfl-lab run` over Table 3 in ``folder/runs``, and of the shell loop over ``script --stock``; slots, threads of each."""
    run, slots, environment = lab_run(folder, {"epochs": epochs} if epochs else {})
    trials = sorted(path.parent for path in (folder / "runs" / "trials").glob("*/manifest.json"))
    return run, stock_loop(trials, out, script, slots, environment), slots, threads_of(slots)


def threads_of(slots: int) -> int:
    """Threads of each trial where ``slots`` run at once."""
    return len(os.sched_getaffinity(0)) // slots


def stock_loop(trials: Sequence[Path], out: Path, script: str, slots: int, environment: dict[str, str]) -> float:
    """Seconds of a shell loop over ``script --stock``, a process for each trial, ``slots`` at a time; 0 for none."""
    if not trials:
        return 0.0
    threads = threads_of(slots)
    one = f"{sys.executable} {script} --stock {out} {threads}"
    return timed(f"ls -d {' '.join(map(str, trials))} | xargs -P {slots} -n 1 {one}", environment | {"OMP_NUM_THREADS": str(threads)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="instead of the profile's")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    parser.add_argument("--stock", nargs=3, metavar=("OUT", "THREADS", "TRIAL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stock:
        stock(Path(asked.stock[2]), Path(asked.stock[0]), int(asked.stock[1]))
        return
    folder = Path(tempfile.mkdtemp(prefix="run-overhead-"))
    home, out = folder / "runs", folder / "stock"
    run, loop, slots, threads = race(folder, out, __file__, asked.epochs)
    lines = [
        *header("Overhead: gfl-lab run against a shell loop over mmengine's Runner", f"uv run python benchmarks/run_overhead.py{f' --epochs {asked.epochs}' if asked.epochs else ''}{' --write' if asked.write else ''}", PACKAGES),
        f"- the four cells of table3_qfl_dfl on desk, {slots} at a time on {threads} thread each; the data set was there before",
        "",
        "| way | wall |",
        "| :-- | --: |",
        f"| `gfl-lab run`: Ray, MLflow, box distributions, scores against the true edges, table | {run:.1f} s |",
        f"| shell loop: mmengine's Runner, CocoMetric after each epoch, checkpoints | {loop:.1f} s |",
        f"| ratio | {run / loop:.3f} |",
        "",
        "| trial | AP, gfl-lab | AP, loop | same weights |",
        "| :-- | --: | --: | :-- |",
    ]  # fmt: skip
    for trial in sorted((home / "trials").iterdir()):
        if (trial / "result.json").exists():
            ours = json.loads((trial / "result.json").read_text())["metrics"]["AP"]
            theirs = 100 * json.loads((out / trial.name / "metrics.json").read_text())["mAP"]
            lines.append(f"| {trial.name} | {ours:.1f} | {theirs:.1f} | {'yes' if same_weights(trial, out) else 'no'} |")
    report = "\n".join(lines) + "\n"
    publish("run_overhead", report, asked.write)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
