"""Train an experiment with three seeds, its trials packed on one GPU without Ray, and print the table.

    python benchmarks/gpu/packed.py DATA --home FOLDER --seconds 400 [--epochs 24] [--at-once 12] [--precision bfloat16]
    python benchmarks/gpu/packed.py DATA --home FOLDER --seconds 400 --check       on a CPU, tiny
    python benchmarks/gpu/packed.py --experiment experiments/detectors.yaml --home FOLDER     the experiment as it is, on its own profile

With DATA, a data set in COCO format, the detectors are full ResNet-18s at 640 x 480, and --epochs and --precision count; without it,
nothing of the experiment is changed.

Plan, manifests and table are gfl-lab's. Each trial is a `run_trial` in an interpreter of its own, since a process that was forked after
CUDA was asked for cannot use it. Before the time is over no trial starts that would not end; at the end running ones are asked to stop,
and their last checkpoints stay: a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path.cwd()
FULL = {"base_channels": 64, "neck_channels": 256, "head_channels": 256, "head_convs": 4, "image_size": [640, 480]}
SMALL = {
    "base_channels": 8,
    "neck_channels": 16,
    "head_channels": 16,
    "head_convs": 1,
    "image_size": [64, 64],
    "epochs": 1,
    "batch_size": 32,
}


def described(asked: argparse.Namespace) -> tuple[str, str, dict]:
    """Return name and profile of the experiment to run, and the content of its file."""
    content = yaml.safe_load((ROOT / asked.experiment).read_text())
    if asked.data is None:
        name, profile = f"{content['name']}_gpu", content["profile"]
    else:
        name, profile = f"{content['name']}_{asked.data.name}_gpu", "bccd"
        content["overrides"] = content.get("overrides", {}) | FULL | {"epochs": asked.epochs, "precision": asked.precision}
    if asked.check:
        content["overrides"] = content.get("overrides", {}) | SMALL
    content |= {"name": name, "seeds": [0] if asked.check else [0, 1, 2]}
    return name, profile, content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--experiment", type=Path, default=Path("experiments/table3_qfl_dfl.yaml"))
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=12)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    home = asked.home.resolve()
    folder = home / "files"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GFL_LAB_HOME"] = str(home / "runs")
    name, profile, content = described(asked)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))

    from gfl_lab.orchestrate import driver
    from gfl_lab.rundir import TrialState
    from gfl_lab.session.inputs import read_files
    from gfl_lab.session.planning import PlanOptions, prepare
    from gfl_lab.session.run_tree import default_tree

    files, tree = read_files(file, profile), default_tree()
    prepared = prepare(files, tree, PlanOptions(asked.data and asked.data.resolve()), lambda text: print(text, flush=True))
    plan = prepared.plan
    place = tree.experiment(files.experiment.name, files.profile.name)
    driver.save_plan(plan, place, tree)
    names = {trial.id: f"{variant.name} seed {trial.spec.seed}" for variant in plan.variants for trial in variant.trials}
    found = driver.states(plan.trials, tree)
    pending = [trial for trial in plan.trials if found[trial.id] is not TrialState.DONE]
    driver.write_manifests(pending, tree, prepared.paths, prepared.code)
    pending.sort(key=lambda trial: trial.spec.seed)  # whole seeds first
    cores = len(os.sched_getaffinity(0))
    at_once = max(1, min(asked.at_once, len(pending) or 1, cores if not asked.check else 1))
    threads = max(1, cores // at_once)
    print(
        f"{len(pending)} of {len(names)} trials to train, {at_once} at once, {threads} threads each, {content.get('overrides', {})}",
        flush=True,
    )

    stop = place / ".stop-packed"
    stop.unlink(missing_ok=True)
    running: dict[int, tuple[str, float]] = {}
    end, last, told = began + asked.seconds, 0.0, 0.0

    def state() -> str:
        lines = []
        for trial in plan.trials:
            path = tree.trial(trial.id).path / "metrics.jsonl"
            step = 0
            if path.exists() and (rows := path.read_text().splitlines()):
                step = json.loads(rows[-1]).get("step", 0)
            lines.append(str(step))
        return " ".join(lines)

    while pending or running:
        now = time.monotonic()
        if now > end and not stop.exists():
            stop.touch()
            print(f"the time is over: {len(running)} are asked to stop, {len(pending)} have not started", flush=True)
            pending.clear()
        while pending and len(running) < at_once and (now < end - last * 0.9 or not last):
            trial = pending.pop(0)
            words = {"threads": threads, "loader_workers": 0, "stop_file": str(stop)}
            code = f"from gfl_lab.train.trial import run_trial; run_trial({str(tree.trial(trial.id).path)!r}, **{words!r})"
            child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL).pid
            running[child] = (trial.id, now)
        if pending and not running:
            print(f"{len(pending)} trials would not end in time and were left out", flush=True)
            break
        try:
            child, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if child in running:
            trial_id, since = running.pop(child)
            took = time.monotonic() - since
            result = tree.trial(trial_id).path / "result.json"
            done = json.loads(result.read_text()) if result.exists() else {"status": "no result"}
            if done["status"] == "done":
                last = max(last, took)
            words = (
                done.get("failure", {}).get("reason", "")
                if done["status"] != "done"
                else f"AP {done['metrics']['AP']:.1f}, {done.get('peak_memory_mib', 0):.0f} MiB, {done['device']}, {json.dumps(done['seconds'])}"
            )
            print(f"{time.monotonic() - began:5.0f} s  {names[trial_id]}: {done['status']} after {took:.0f} s  {words}", flush=True)
        elif now - told > 30:
            told = now
            print(f"{now - began:5.0f} s  steps: {state()}", flush=True)
        else:
            time.sleep(0.2)
        if stop.exists() and now > end + 20:
            for child in running:
                os.kill(child, 9)
            print(f"{len(running)} did not stop in time and were ended; their checkpoints stay", flush=True)
            break
    stop.unlink(missing_ok=True)
    print(flush=True)
    shown = subprocess.run(
        [sys.executable, "-m", "gfl_lab.cli.main", "table", str(file), "--profile", profile, "--format", "md"], check=False
    )
    states = driver.states(plan.trials, tree)
    missing = [names[key] for key, value in states.items() if value is not TrialState.DONE]
    if missing:
        print(f"\nNOT COMPLETE, missing: {', '.join(missing)}")
    print(f"\n{time.monotonic() - began:.0f} s in all")
    sys.exit(bool(missing) or shown.returncode not in (0, 4))


if __name__ == "__main__":
    main()
