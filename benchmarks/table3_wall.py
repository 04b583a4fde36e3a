"""Wall time of Table 3 on desk: `gfl-lab run`, and a shell loop over four stock trainings of mmdet, two at a time.

    uv run python benchmarks/table3_wall.py                     25 minutes on two quiet cores
    uv run python benchmarks/table3_wall.py --epochs 2          a shorter schedule, to try it
    uv run python benchmarks/table3_wall.py --precision bfloat16    gfl-lab once more, in that precision; 8 minutes more
    uv run python benchmarks/table3_wall.py --write             also writes benchmarks/results/

The loop is `ls trials | xargs -P SLOTS python table3_wall.py --stock`, a process for each cell, as many at a time as gfl-lab runs, on
as many threads. Each is what mmdet ships, with the numbers of the trial's config.py (`desk_training.py` says which): ATSSHead for the
baseline and GFLHead for the rest; general boxes without QFL have no stock head, so that cell trains GFLHead, too. Runner has its
default hooks, CocoMetric after each epoch, and a checkpoint after each epoch. Both start with an empty cache of nothing but files:
the data set is there, and Python's byte code. On a CPU the loop has no other precision: mmengine's AmpOptimWrapper asks for a GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.desk_training import stock_config
from benchmarks.machine import header, publish
from benchmarks.run_overhead import PACKAGES, STOCK_HOOKS, lab_run, race


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


def aps(home: Path) -> dict[tuple[bool, bool], tuple[float, str]]:
    """AP and id of each finished trial in a run tree, by QFL and DFL."""
    done = [file.parent for file in sorted((home / "trials").glob("*/result.json"))]
    by_cell = {trial: cell(trial) for trial in done}
    return {
        (by_cell[trial]["qfl"], by_cell[trial]["dfl"]): (json.loads((trial / "result.json").read_text())["metrics"]["AP"], trial.name)
        for trial in done
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="instead of the profile's")
    parser.add_argument("--precision", choices=["bfloat16"], help="run gfl-lab in it, too")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    parser.add_argument("--stock", nargs=3, metavar=("OUT", "THREADS", "TRIAL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stock:
        stock(Path(asked.stock[2]), Path(asked.stock[0]), int(asked.stock[1]))
        return
    folder = Path(tempfile.mkdtemp(prefix="table3-wall-"))
    home, out = folder / "runs", folder / "stock"
    ours, theirs, slots, threads = race(folder, out, __file__, asked.epochs)
    other = folder / str(asked.precision)
    best = None
    if asked.precision:
        other.mkdir()
        best, *_ = lab_run(other, {"precision": asked.precision} | ({"epochs": asked.epochs} if asked.epochs else {}))
    lines = [
        *header("Table 3 on desk: gfl-lab run and a shell loop over stock mmdet", " ".join(["uv run python benchmarks/table3_wall.py", *sys.argv[1:]]), PACKAGES),
        f"- the four cells of table3_qfl_dfl on desk, {slots} at a time on {threads} thread each; the data set was there before",
        "",
        "| way | wall |",
        "| :-- | --: |",
        f"| `gfl-lab run`: Ray, MLflow, box distributions, scores against the true edges, latency, table | {ours:.1f} s |",
        f"| shell loop: mmdet's heads, data set and pipeline, mmengine's Runner, CocoMetric and a checkpoint after each epoch | {theirs:.1f} s |",
        *([f"| `gfl-lab run` with `precision: {asked.precision}` | {best:.1f} s |"] if best else []),
        f"| loop / gfl-lab | {theirs / ours:.2f} |",
        *([f"| loop / gfl-lab in {asked.precision} | {theirs / best:.2f} |"] if best else []),
        "",
        f"| QFL | DFL | AP, gfl-lab | AP, stock |{f' AP, gfl-lab in {asked.precision} |' if best else ''}",
        f"| :-- | :-- | --: | --: |{' --: |' if best else ''}",
    ]  # fmt: skip
    also = aps(other / "runs")
    for (qfl, dfl), (ap, trial) in aps(home).items():
        switches = " | ".join("on" if switch else "off" for switch in (qfl, dfl))
        line = f"| {switches} | {ap:.1f} | {float((out / trial / 'AP').read_text()):.1f} |"
        lines.append(line + (f" {also[qfl, dfl][0]:.1f} |" if best else ""))
    publish("table3_wall", "\n".join(lines) + "\n", asked.write)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
