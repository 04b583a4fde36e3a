"""Breaks an experiment on purpose, again and again, and demands the table of an undisturbed run to the last digit (docs/chaos.md).

    uv run python -m benchmarks.chaos --rounds 20 --seed 1              prints a line a round and a table of faults
    ... --write                                                         also writes it under benchmarks/results/
    ... --faults driver_kill,mlflow_away                                only these faults

Real processes, real signals, real Ray and MLflow. The seed fixes which faults come in which round and after which pauses; what
they hit is up to the machine. Exit code 1 when any round ended otherwise than the undisturbed run.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos_faults import FAULTS, NEED_SERVER, ROOT, Command, Scene, Server, kill, of_home
from benchmarks.machine import header
from gfl_lab import naming
from gfl_lab.rundir import RunTree, TrialDir

PACKAGES = ("torch", "mmdet", "mmengine", "ray", "mlflow", "numpy")
EXPERIMENT = """
name: chaos
question: Is the table the same, whatever breaks?
profile: tiny
axes: {dfl: [false, true], ema_decay: [0.0, 0.95]}
baseline: {dfl: false, ema_decay: 0.0}
table: {metrics: [AP, AP50, AP75, fps, two_mode_recall, false_bimodality, wasserstein]}
"""
PROFILE = """
name: tiny
title: trials of seconds
data: {train_images: 64, val_images: 16, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 8, frozen_stages: -1, norm_eval: false, neck_channels: 16, head_channels: 16, head_convs: 1, strides: [8, 16, 32],
  epochs: EPOCHS, batch_size: 8, optimizer: adamw, lr: 0.004, lr_schedule: cosine, warmup_iters: 2, image_size: [128, 128], scale_range: [0.8, 1.0]}
"""
TIMED = {"fps", "latency_ms", "seconds", "peak_memory_mib"}
"""Numbers of time and memory: they differ from run to run without any fault."""
EXITS = {0, 3, 6, 130, 143, -signal.SIGKILL}
"""How a disturbed command may end; anything else is a bug, whatever the table says."""
PAUSE_S = 12.0
END_WAIT_S = 150.0
DISK_MIB = 160


def deal(rounds: int, rng: random.Random, kinds: Iterable[str]) -> list[list[tuple[str, float]]]:
    """For each round one to four faults with the pause before each, s. Every kind comes up before any comes up again."""
    kinds, deck, dealt = sorted(kinds), [], []
    for _ in range(rounds):
        hand = []
        for _ in range(rng.randint(1, 4)):
            if not deck:
                deck = rng.sample(kinds, len(kinds))
            hand.append((deck.pop(), rng.uniform(0, PAUSE_S)))
        dealt.append(hand)
    return dealt


# --- what must be the same -------------------------------------------------------------------------


def untimed(value: Any) -> Any:
    """A JSON value without numbers of time and memory."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if str(key).rpartition("/")[2] not in TIMED}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def mirrored(uri: str, experiment: str) -> tuple[dict[str, Any], list[str]]:
    """Return the content of MLflow (by run name, each metric's values by step) and its faults that do not depend on values."""
    from mlflow.tracking import MlflowClient

    client, found, problems = MlflowClient(uri), {}, []
    entry = client.get_experiment_by_name(experiment)
    for run in client.search_runs([entry.experiment_id]) if entry else []:
        name = run.info.run_name
        if name in found:
            problems.append(f"MLflow has two runs {name!r}")
        if run.info.status != "FINISHED":
            problems.append(f"MLflow's run {name!r} is {run.info.status}")
        found[name] = {}
        for key in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, key)
            if len({point.step for point in points}) != len(points):
                problems.append(f"MLflow has steps of {key} of {name!r} twice")
            found[name][key] = {point.step: point.value for point in points}
    return untimed(found), problems


@dataclass(frozen=True)
class State:
    """The content of a finished run tree, without times."""

    table: Any
    lines: dict[str, list[Any]]
    mlflow: dict[str, Any]
    weights: dict[str, str]

    def differences(self, other: State) -> list[str]:
        return [
            f"{what} {'differ' if what != 'table' else 'differs'} from the undisturbed run's"
            for what in ("table", "lines", "mlflow", "weights")
            if getattr(self, what) != getattr(other, what)
        ]


def state_of(home: Path, uri: str, table: Any) -> tuple[State, list[str]]:
    """Return the content of a finished run tree, and its faults that do not depend on the content."""
    import hashlib

    import torch

    def digest(trial: TrialDir) -> str:
        """Return a digest of weights, optimizer and schedules in the last checkpoint, and of the evaluation's records."""
        found = hashlib.sha256()

        def walk(value: Any) -> None:
            if isinstance(value, torch.Tensor):
                found.update(value.contiguous().numpy().tobytes())
            elif isinstance(value, dict):
                for key in value:
                    found.update(str(key).encode())
                    walk(value[key])
            elif isinstance(value, (list, tuple)):
                for item in value:
                    walk(item)
            else:
                found.update(repr(value).encode())

        walk(torch.load(trial.file(naming.LAST_CHECKPOINT), weights_only=True))
        walk({key: torch.from_numpy(array) for key, array in _records(trial.file(naming.EVAL_RECORDS)).items()})
        return found.hexdigest()

    problems, lines, weights = [], {}, {}
    for trial in RunTree(home).trials():
        lines[trial.id] = [untimed(line._replace(time=0.0)._asdict()) for line in trial.metric_lines()]
        steps = [(line["kind"], line["step"]) for line in lines[trial.id]]
        if len(set(steps)) != len(steps):
            problems.append(f"steps of trial {trial.id} are there twice")
        weights[trial.id] = digest(trial)
    problems += [f"left behind: {path.relative_to(home)}" for path in home.rglob(".*") if path.name.endswith(".tmp") or ".tmp" in path.name]
    held, wrong = mirrored(uri, "chaos")
    return State(table, lines, held, weights), problems + wrong


def _records(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path) as file:
        return {key: file[key] for key in file.files if file[key].dtype.kind in "biuf"}


# --- rounds ----------------------------------------------------------------------------------------


@dataclass
class Round:
    """The events of a round. ``faults`` holds each dealt fault and the second at which it hit, None when there was nothing to hit."""

    number: int
    faults: list[tuple[str, float | None]]
    exits: list[int]
    seconds: float
    problems: list[str]

    def __str__(self) -> str:
        hits = ", ".join(f"{kind} {f'{second:.0f} s' if second is not None else '(missed)'}" for kind, second in self.faults)
        outcome = "; ".join(self.problems) or "same"
        return f"round {self.number}: {hits or 'undisturbed'}; exits {' '.join(map(str, self.exits))}; {self.seconds:.0f} s; {outcome}"


class Lab:
    """The experiment's files, and how a round over them is run."""

    def __init__(self, folder: Path, epochs: int, profile: str | None) -> None:
        self.folder, self.expected = folder, None
        (folder / "profiles").mkdir(parents=True, exist_ok=True)
        (folder / "profiles/tiny.yaml").write_text(PROFILE.replace("EPOCHS", str(epochs)))
        self.file = folder / "chaos.yaml"
        self.file.write_text(EXPERIMENT)
        self.options = ["--profile", profile] if profile else []

    def play(self, number: int, hand: list[tuple[str, float]], rng: random.Random) -> Round:
        """One round in a fresh run tree: start, break, start again until it ends with 0, and compare."""
        started = time.time()
        folder = self.folder / f"round-{number}"
        home = folder / "runs"
        home.mkdir(parents=True)
        kinds = {kind for kind, _ in hand}
        server = Server(folder / "mlflow") if kinds & NEED_SERVER else None
        if "disk_full" in kinds:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(home)], check=True)
        count = itertools.count(1)

        def start(command: str = "run", *arguments: str) -> Command:
            options = [command, *([str(self.file), *self.options] if command != "sync" else []), *arguments]
            return Command(home, server.uri if server else None, folder / f"output-{next(count)}-{command}.txt", *options)

        scene = Scene(home, rng, start, server)
        try:
            hits, exits = self._disturb(scene, hand)
            state = None
            if exits[-1] == 0:
                state = self._state(scene)
            scene.problems += self._left_behind(home)
            if state is not None and self.expected is not None:
                scene.problems += self.expected.differences(state)
            if self.expected is None:
                self.expected = state
        finally:
            if server:
                server.kill()
            if "disk_full" in kinds:
                if scene.problems:
                    shutil.copytree(home, folder / "runs-kept", dirs_exist_ok=True)
                subprocess.run(["umount", "-l", str(home)], check=True)
        played = Round(number, hits, exits, time.time() - started, scene.problems)
        if not scene.problems:
            shutil.rmtree(folder)
        return played

    @staticmethod
    def _disturb(scene: Scene, hand: list[tuple[str, float]]) -> tuple[list[tuple[str, float | None]], list[int]]:
        """Give the command again until it ends with 0, breaking what the hand says meanwhile."""
        began, waiting, hits, exits = time.time(), list(hand), [], []
        ready = began + waiting[0][1] if waiting else 0.0
        for _ in range(len(hand) + 4):
            scene.command = scene.start()
            hit = bool(scene.later)  # what is still broken counts
            while scene.command.running():
                scene.due()
                if waiting and time.time() >= ready and FAULTS[waiting[0][0]](scene):
                    hits.append((waiting.pop(0)[0], time.time() - began))
                    hit = True
                    ready = time.time() + waiting[0][1] if waiting else 0.0
                time.sleep(0.05)
            code, said = scene.command.end(), scene.command.said()
            exits.append(code)
            if code not in EXITS or "Traceback" in said or "internal error" in said:
                scene.problems.append(f"the command ended with {code}: {said[-400:]}")
            if code in (130, 143) and "continue with:  gfl-lab run" not in said:
                scene.problems.append(f"exit {code} without the next command: {said[-200:]}")
            if code and not hit:
                scene.problems.append(f"nothing was broken, but the command ended with {code}: {said[-400:]}")
            if code == 0:
                break
        else:
            scene.problems.append(f"it did not end with 0 in {len(exits)} attempts")
        scene.due(everything=True)
        return hits + [(kind, None) for kind, _ in waiting], exits

    def _state(self, scene: Scene) -> State | None:
        """Return the content of the finished tree; its faults go to the scene's problems."""
        if scene.server:
            scene.server.wait()
            for _ in range(2):
                sync = scene.start("sync")
                if sync.end():
                    scene.problems.append(f"sync failed: {sync.said()[-300:]}")
            if "up to date" not in sync.said():
                scene.problems.append(f"a second sync sent something: {sync.said()[-300:]}")
        printed = scene.start("table", "--json")
        if printed.end():
            scene.problems.append(f"no table: {printed.said()[-300:]}")
            return None
        uri = scene.server.uri if scene.server else RunTree(scene.home).mlflow_uri
        said = printed.said()
        state, problems = state_of(scene.home, uri, untimed(json.loads(said[said.index("{") :])))
        scene.problems += problems
        return state

    @staticmethod
    def _left_behind(home: Path) -> list[str]:
        """Processes of the run tree that are still there; Ray's agents look for their raylet only now and then."""
        end = time.time() + END_WAIT_S
        while (left := of_home(home)) and time.time() < end:
            time.sleep(0.5)
        for pid in left:
            kill(pid)
        return [f"process {pid} stayed behind: {line[:120]}" for pid, line in left.items()]


def report(rounds: list[Round], command: str) -> str:
    """The results file."""
    same = [round_ for round_ in rounds if not round_.problems]
    lines = [
        *header("Chaos: the same table, whatever breaks", f"uv run python -m benchmarks.chaos {command}", PACKAGES),
        f"- outcome: {len(same)} of {len(rounds)} rounds ended with the undisturbed run's table, metric lines, weights, optimizer states and MLflow "
        "values, and left no process and no temporary file behind",
        "",
        "| fault | hit | nothing to hit | rounds it hit in | of these the same |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for kind in FAULTS:
        seconds = [second for round_ in rounds for name, second in round_.faults if name == kind]
        struck = [round_ for round_ in rounds if any(name == kind and second is not None for name, second in round_.faults)]
        hits = sum(second is not None for second in seconds)
        lines.append(f"| {kind} | {hits} | {len(seconds) - hits} | {len(struck)} | {sum(not round_.problems for round_ in struck)} |")
    lines += ["", "Each round, with the second at which a fault hit and the exit codes of the command until 0:", ""]
    lines += [f"- {round_}" for round_ in rounds]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=",".join(FAULTS), help="only these, separated by commas")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--profile", help="a profile of experiments/profiles instead of the tiny one")
    parser.add_argument("--home", type=Path, help="an empty folder for the rounds; those that differ are kept; default: a temporary one")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    kinds = set(asked.faults.split(","))
    if unknown := kinds - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    if "disk_full" in kinds and os.geteuid():
        print("disk_full needs root, to mount a small file system: left out", file=sys.stderr)
        kinds.discard("disk_full")
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    folder = asked.home or Path(tempfile.mkdtemp(prefix="chaos-"))
    rng = random.Random(asked.seed)
    hands = deal(asked.rounds, rng, kinds)
    lab, rounds = Lab(folder, asked.epochs, asked.profile), []
    undisturbed = lab.play(0, [], rng)
    print(undisturbed, flush=True)
    if undisturbed.problems or lab.expected is None:
        sys.exit("the undisturbed run is not as it should be")
    for number, hand in enumerate(hands, 1):
        rounds.append(lab.play(number, hand, random.Random(f"{asked.seed}-{number}")))
        print(rounds[-1], flush=True)
    options = f"--rounds {asked.rounds} --seed {asked.seed}"
    options += "" if asked.faults == parser.get_default("faults") else f" --faults {asked.faults}"
    text = report(rounds, options + (" --write" if asked.write else ""))
    print("\n" + text)
    if asked.write:
        (ROOT / "benchmarks" / "results" / f"chaos_{datetime.date.today().isoformat()}.md").write_text(text)
    if any(round_.problems for round_ in rounds):
        sys.exit(f"some rounds differ; they are kept in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
