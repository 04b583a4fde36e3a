"""Everything that is measured on a GPU, one after the other: the rows of docs/speed.md that need one, and Table 3 on real photographs.

    uv run python benchmarks/gpu.py ../shared/data               an H200 or H100; DATA has bccd and coco_people, in COCO format
    uv run python benchmarks/gpu.py ../shared/data --only tables
    uv run python benchmarks/gpu.py ../shared/data --check       on a CPU: that each part runs; its numbers say nothing

Each part is a command of its own and writes its own report under benchmarks/results/ (not with --check). A part that fails is told of
at the end, and the others run. Table 3 on each data set is trained from scratch, a full ResNet-18 at 640 x 480 with three seeds; the
run tree is kept, so a second call goes on where the first was cut off.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.machine import LAB, ROOT, header, lab_environment, publish
from benchmarks.run_overhead import EXPERIMENT, PACKAGES

SCRIPTS: list[tuple[str, list[str], list[str]]] = [
    ("head_losses.py", ["--batch", "16", "--sweep"], ["--repeat", "1"]),
    ("detector_speed.py", ["--profile"], ["--depth", "18", "--size", "96", "128", "--batch", "2", "--throughput-batch", "2", "--rounds", "1", "--profile"]),
    ("detector_speed.py", ["--depth", "101"], []),
    ("variant_latency.py", [], ["--depth", "18", "--size", "96", "128", "--rounds", "4"]),
    ("growth.py", [], ["--depth", "18", "--size", "64", "64", "--batch", "1", "--rounds", "1"]),
]  # fmt: skip
"""Script, what it is told on a GPU, and what for a check (nothing: left out)."""
LOADERS = ["--workers", "0", "4", "8", "15"]
FULL = {"base_channels": 64, "neck_channels": 256, "head_channels": 256, "head_convs": 4, "image_size": [640, 480], "epochs": 48}
"""Over the profile ``bccd``, which is made for a CPU: mmdet's widths."""


def table(data: Path, home: Path, check: bool) -> int:
    """Train Table 3 on a data set, and publish its table; the exit code."""
    folder = home.parent / data.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(EXPERIMENT.parent / "published", folder / "published", dirs_exist_ok=True)
    name = f"table3_{data.name}"
    content = yaml.safe_load(EXPERIMENT.read_text()) | {"name": name, "seeds": [0] if check else [0, 1, 2]}
    content["set"] = {"epochs": 1, "image_size": [96, 72], "base_channels": 8, "neck_channels": 16, "head_channels": 16} if check else FULL
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    command = ["run", str(file), "--profile", "bccd", "--data", str(data)]
    environment = lab_environment(home) | ({"CUDA_VISIBLE_DEVICES": "-1"} if check else {})
    done = subprocess.run([*LAB, *command], env=environment, check=False).returncode
    if done == 0:
        told = (home / "experiments" / name / "bccd" / "table.md").read_text()
        lines = [
            *header(f"Table 3 on {data.name}", f"uv run python benchmarks/gpu.py DATA --only tables{' --check' if check else ''}", PACKAGES)
        ]
        lines += [f"- on {devices(home)}; profile bccd with {json.dumps(content['set'])}, seeds {content['seeds']}", "", told]
        publish(name, "\n".join(lines), write=not check)
    return done


def devices(home: Path) -> str:
    """What the finished trials ran on."""
    found = [json.loads(path.read_text()) for path in (home / "trials").glob("*/result.json")]
    return ", ".join(sorted({result["device"] for result in found if "device" in result}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with bccd and coco_people")
    parser.add_argument("--only", choices=("speed", "tables"))
    parser.add_argument("--check", action="store_true", help="on a CPU and small; writes no report")
    parser.add_argument("--home", type=Path, default=ROOT / "runs" / "gpu", help="run tree of the tables")
    asked = parser.parse_args()
    data, home, failed = asked.data.resolve(), asked.home.resolve() / ("check" if asked.check else "full") / "runs", []
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if asked.only != "tables":
        commands = [[script, *(small if asked.check else usual)] for script, usual, small in SCRIPTS if small or not asked.check]
        commands = [[*words, "--device", "cpu" if asked.check else "cuda"] for words in commands]
        commands.append(["data_loading.py", str(data / "coco_people"), *(["--epochs", "1", "--workers", "0"] if asked.check else LOADERS)])
        for words in commands:
            if not asked.check:
                words.append("--write")
            print(f"\n$ python benchmarks/{' '.join(words)}", file=sys.stderr, flush=True)
            if subprocess.run([sys.executable, str(ROOT / "benchmarks" / words[0]), *words[1:]], env=environment, check=False).returncode:
                failed.append(" ".join(words))
    if asked.only != "speed":
        for each in ("bccd", "coco_people"):
            print(f"\nTable 3 on {each}", file=sys.stderr, flush=True)
            if table(data / each, home, asked.check):
                failed.append(f"Table 3 on {each}")
    for each in failed:
        print(f"failed: {each}", file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
