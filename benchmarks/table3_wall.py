"""What a user waits for Table 3 on desk: `gfl-lab run`, and a shell loop over four stock trainings of mmdet, two at a time.

    uv run python benchmarks/table3_wall.py                     25 minutes on two quiet cores
    uv run python benchmarks/table3_wall.py --epochs 2          a shorter schedule, to try it
    uv run python benchmarks/table3_wall.py --write             also writes benchmarks/results/

The loop is `ls trials | xargs -P SLOTS python table3_wall.py --stock`, a process for each cell, as many at a time as gfl-lab runs, on
as many threads. Each is what mmdet ships, with the numbers of the trial's config.py (`desk_training.py` says which): ATSSHead for the
baseline and GFLHead for the rest; general boxes without QFL have no stock head, so that cell trains GFLHead, too. Runner has its
default hooks, CocoMetric after each epoch, and a checkpoint after each epoch. Both start with an empty cache of nothing but files:
the data set is there, and Python's byte code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.desk_training import stock_config
from benchmarks.machine import header, publish
from benchmarks.run_overhead import PACKAGES, STOCK_HOOKS, race


def stock(trial: Path, out: Path, threads: int) -> None:
    """Train the cell with mmdet and mmengine alone; its AP goes to ``out/<id>/AP``."""
    import torch
    from mmdet.utils import register_all_modules
    from mmengine.runner import Runner

    import gfl_lab.detector  # noqa: F401  (the operators that mmcv-lite lacks: NMS)

    register_all_modules()
    torch.set_num_threads(threads)
    folder = out / trial.name
    config = stock_config(trial, 0, folder)
    config.default_hooks = STOCK_HOOKS
    settings = cell(trial)
    if not settings["qfl"] and not settings["dfl"]:
        config.model.bbox_head = atss(config.model.bbox_head)
    runner = Runner.from_cfg(config)
    runner.train()
    (folder / "AP").write_text(str(100 * runner.message_hub.log_scalars["val/coco/bbox_mAP"].current()))


def cell(trial: Path) -> dict[str, Any]:
    """Settings of a trial."""
    return json.loads((trial / "manifest.json").read_text())["spec"]["settings"]


def atss(gfl: Any) -> dict[str, Any]:
    """mmdet's ATSSHead with its own losses for a GFLHead's configuration."""
    kept = ("num_classes", "in_channels", "feat_channels", "stacked_convs", "anchor_generator", "norm_cfg")
    return {
        "type": "ATSSHead",
        **{key: gfl[key] for key in kept},
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="instead of the profile's")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    parser.add_argument("--stock", nargs=3, metavar=("OUT", "THREADS", "TRIAL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stock:
        stock(Path(asked.stock[2]), Path(asked.stock[0]), int(asked.stock[1]))
        return
    folder = Path(tempfile.mkdtemp(prefix="table3-wall-"))
    home, out = folder / "runs", folder / "stock"
    ours, theirs, slots, threads = race(folder, out, __file__, asked.epochs)
    lines = [
        *header("Table 3 on desk: gfl-lab run and a shell loop over stock mmdet", f"uv run python benchmarks/table3_wall.py{f' --epochs {asked.epochs}' if asked.epochs else ''} --write", PACKAGES),
        f"- the four cells of table3_qfl_dfl on desk, {slots} at a time on {threads} thread each; the data set was there before",
        "",
        "| way | wall |",
        "| :-- | --: |",
        f"| `gfl-lab run`: Ray, MLflow, box distributions, scores against the true edges, latency, table | {ours:.1f} s |",
        f"| shell loop: mmdet's heads, data set and pipeline, mmengine's Runner, CocoMetric and a checkpoint after each epoch | {theirs:.1f} s |",
        f"| loop / gfl-lab | {theirs / ours:.2f} |",
        "",
        "| QFL | DFL | AP, gfl-lab | AP, stock |",
        "| :-- | :-- | --: | --: |",
    ]  # fmt: skip
    for trial in sorted((home / "trials").iterdir()):
        if (trial / "result.json").exists():
            ap, settings = json.loads((trial / "result.json").read_text())["metrics"]["AP"], cell(trial)
            switches = " | ".join("on" if settings[key] else "off" for key in ("qfl", "dfl"))
            lines.append(f"| {switches} | {ap:.1f} | {float((out / trial.name / 'AP').read_text()):.1f} |")
    publish("table3_wall", "\n".join(lines) + "\n", asked.write)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
