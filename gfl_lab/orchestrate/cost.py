"""Estimates of the cost of trials, and their sources (docs/cost.md)."""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.orchestrate.expected import HINT, HISTORY, WARM_UP, Estimate
from gfl_lab.orchestrate.resources import Peak, TrialResources, processes_of
from gfl_lab.plan.plan import Plan, Trial
from gfl_lab.records.cost import read_all_measured
from gfl_lab.records.metric_lines import parse_metric_line, read_metric_lines
from gfl_lab.records.result import Done
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec import renames
from gfl_lab.spec.choices import OWN, ROLES, TEACHER
from gfl_lab.spec.file_models import Profile
from gfl_lab.spec.schedule import data_repeats, steps_of, total_epochs
from gfl_lab.spec.settings import INPUT, MODEL, Settings, group_of
from gfl_lab.spec.shorthand import trains_dfl

_SHAPE = (
    *(key for key in Settings.model_fields if group_of(key) in (MODEL, INPUT) and key not in ("init_weights", *ROLES)),
    "batch_size", "optimizer", "precision", "scale_range", "crop",
)  # fmt: skip
"""Settings that must be equal in two trials, so that the timing of one predicts that of the other."""
_MMDET = ("detector", "cfg_options", "recipe")
"""Settings that must be equal too where the detector is one of mmdet's."""
_DETECTOR = (
    "quality", "box", "reg_max", "head", "cls_loss", "box_loss", "assigner", "atss_topk", "dgqp_topk", "dgqp_channels", "dgqp_form", "ema_decay",
)  # fmt: skip
"""Settings that change the timing little: trials that agree in them are preferred."""
_DEFAULTS = Settings().model_dump(mode="json")


def shape(settings: Mapping[str, Any]) -> str:
    """Return a key of the settings that the timing of training and evaluation depends on most."""
    values = [settings.get(key, _DEFAULTS[key]) for key in _SHAPE]
    if settings.get("detector", OWN) != OWN:
        values += [settings.get(key, _DEFAULTS[key]) for key in _MMDET]
    taught = settings.get("distillation", "none") != "none" and settings.get(TEACHER)
    return naming.canonical_json([*values, settings[TEACHER]] if taught else values)  # without one the names of old warm-ups stay


def detector(settings: Mapping[str, Any]) -> str:
    """Return a key of the settings that the timing depends on a little."""
    values = {key: settings.get(key, _DEFAULTS[key]) for key in _DETECTOR}
    # The files of warm-ups are named by a hash of this, so it holds the first names.
    switches = {"ema_decay": bool(values["ema_decay"]), "dfl": trains_dfl(settings)}
    return naming.canonical_json(renames.first_edition(values | switches))


@dataclass(frozen=True)
class Timing:
    """Measured seconds of one finished trial or one warm-up.

    Attributes:
        source: HISTORY or WARM_UP.
        iteration_s: seconds of an iteration of training. image_s: of one image of evaluation. rest_s: of what is done once
            in a trial. cpus: cores that it had; 0 unknown. device: ``cpu`` or ``cuda NAME``. processes: of the trial.
        memory_mib, gpu_memory_mib: peak of a warm-up; 0 unknown.
    """

    source: str
    detector: str
    data: str
    digest: str
    iteration_s: float
    image_s: float
    rest_s: float
    cpus: int
    device: str
    processes: int = 1
    memory_mib: float = 0.0
    gpu_memory_mib: float = 0.0
    trial: str = ""

    def seconds(self, settings: Mapping[str, Any], data: Mapping[str, Any], done: float, cpus: int) -> float:
        """Return the seconds that a trial still takes on ``cpus`` cores after the part ``done`` of its steps, 0 to 1."""
        epochs = total_epochs(settings)
        training = steps_of(settings, data["train_images"]) * self.iteration_s * (1 - done)
        evaluations = max(1.0, epochs * (1 - done)) * data["val_images"] * self.image_s  # the last one is always left
        scale = self.cpus / cpus if self.device == "cpu" and self.cpus and cpus else 1.0
        return (training + evaluations + self.rest_s) * scale


class Timings:
    """The timings of a run tree: of its finished trials and its warm-ups."""

    def __init__(self, tree: RunTree) -> None:
        self._known: dict[str, list[Timing]] = {}
        self._most_alike = functools.cache(self._find_most_alike)  # a plan has many trials of few models
        for key, timing in [*_finished(tree), *_measured(tree)]:
            self._known.setdefault(key, []).append(timing)

    def estimate(
        self,
        settings: Mapping[str, Any],
        data: Mapping[str, Any],
        *,
        cpus: int,
        device: str,
        processes: int = 1,
        done: float = 0.0,
        profile: Profile | None = None,
        without: str = "",
        sources: Sequence[str] = (HISTORY, WARM_UP, HINT),
    ) -> Estimate:
        """Return the seconds that a trial still takes.

        Args:
            settings, data: as a manifest's spec has them. device: ``cpu``, ``cuda NAME``, or empty where it is not known.
            done: part of its steps that are done, 0 to 1. profile: whose hint is used where there is nothing better.
            without: id of a trial that is left out. sources: kinds of timings that may be used.
        """
        timing, count, other = self._most_alike(
            shape(settings), detector(settings), data["name"], data["digest"], cpus, device, processes, without, tuple(sources)
        )  # fmt: skip
        if timing:
            return Estimate(timing.seconds(settings, data, done, cpus), timing.source, count, other)
        if profile and HINT in sources and profile.cpu_seconds_per_image and device == "cpu":
            own = _DEFAULTS | profile.settings  # the hint is measured with the profile's own model
            if all(settings[key] == own[key] for key in ("backbone", "dcn", "precision", "detector")):
                images = data["train_images"] * data_repeats(settings) * total_epochs(settings)
                return Estimate(profile.cpu_seconds_per_image * images * (1 - done) / max(1, cpus), HINT)
        return Estimate(None)

    def _find_most_alike(
        self,
        shape: str,
        detector: str,
        name: str,
        digest: str,
        cpus: int,
        device: str,
        processes: int,
        without: str,
        sources: tuple[str, ...],
    ) -> tuple[Timing | None, int, tuple[str, ...]]:
        """Return the median timing of the most similar trials or warm-ups, their number, and the facts in which they differ."""
        wanted = {"detector settings": detector, "cores": cpus, "device": device, "data": digest}

        def apart(timing: Timing) -> dict[str, bool]:
            own = {"detector settings": timing.detector, "cores": timing.cpus, "device": timing.device, "data": timing.digest}
            return {key: bool(wanted[key]) and own[key] != wanted[key] for key in wanted}

        def worth(timing: Timing) -> tuple[bool, ...]:
            other = apart(timing)
            return not other["device"], not other["cores"], not other["detector settings"], timing.source == HISTORY, not other["data"]

        alike = [
            timing
            for timing in self._known.get(shape, [])
            if timing.source in sources
            and not (without and timing.trial == without)
            and (timing.data == name or timing.digest == digest)
            and (not device or timing.device.partition(" ")[0] == device.partition(" ")[0])
            and timing.processes == processes
        ]
        if not alike:
            return None, 0, ()
        best = max(map(worth, alike))
        best_alike = [timing for timing in alike if worth(timing) == best]
        best_alike = [timing for timing in best_alike if timing.cpus == best_alike[0].cpus]
        typical = {key: statistics.median(getattr(timing, key) for timing in best_alike) for key in ("iteration_s", "image_s", "rest_s")}
        other = tuple(key for key, differs in apart(best_alike[0]).items() if differs)
        return replace(best_alike[0], **typical), len(best_alike), other

    def peak(self, trials: Iterable[Trial], *, gpu: bool) -> Peak | None:
        """Return the peak memory of the most demanding of these trials; None unless a warm-up has measured every model among them."""
        found = []
        for trial in trials:
            settings = trial.spec.settings.model_dump(mode="json")
            own = [
                timing
                for timing in self._known.get(shape(settings), [])
                if timing.source == WARM_UP and timing.detector == detector(settings) and timing.device.startswith("cuda") == gpu
            ]
            if not own:
                return None
            found.append(max(own, key=lambda timing: timing.gpu_memory_mib or timing.memory_mib))
        return Peak(max(timing.memory_mib for timing in found), max(timing.gpu_memory_mib for timing in found)) if found else None


def _finished(tree: RunTree) -> Iterator[tuple[str, Timing]]:
    for trial in tree.trials():
        with contextlib.suppress(StoreError, KeyError, TypeError, ValueError, ZeroDivisionError, OSError):
            result = trial.result()
            if not isinstance(result, Done):
                continue
            manifest, seconds = trial.manifest(), result.seconds
            settings, data = manifest.settings, manifest.data
            steps, evaluations = _last_attempt(trial, result)
            yield (
                shape(settings),
                Timing(
                    source=HISTORY,
                    detector=detector(settings),
                    data=data.name,
                    digest=data.digest,
                    iteration_s=seconds["train"] / steps,
                    image_s=seconds["eval"] / (evaluations * data.val_images),
                    rest_s=max(0.0, seconds["total"] - seconds["train"] - seconds["eval"]),
                    cpus=_cores(trial),
                    device=re.sub(r":\d+", "", result.device, count=1),
                    processes=result.processes or 1,
                    trial=trial.id,
                ),
            )


def _last_attempt(trial: TrialDir, result: Done) -> tuple[int, int]:
    """Return the steps and evaluations in the ``seconds`` of a result: after a resume they are those of the last attempt alone."""
    started = datetime.datetime.fromisoformat(result.finished).timestamp() - result.seconds["total"] - 1
    with trial.file(naming.METRICS_FILE).open("rb") as file:
        first = parse_metric_line(file.readline())
    if first is None or first.time >= started:
        return result.steps or 0, result.epochs or 0
    own = [line for line in read_metric_lines(trial.file(naming.METRICS_FILE))[0] if line.time >= started]
    return sum(line.trains for line in own), sum(line.evaluates for line in own)


def _cores(trial: TrialDir) -> int:
    """Return the threads of the last attempt, from the log; 0 if they are not there."""
    with contextlib.suppress(OSError):
        threads = re.findall(r"^\S+ trial [0-9a-f]{12} .*, (\d+) threads", trial.file(naming.LOG).read_text(errors="replace"), re.MULTILINE)
        return int(threads[-1]) if threads else 0
    return 0


def _measured(tree: RunTree) -> Iterator[tuple[str, Timing]]:
    for found in read_all_measured(tree.root / naming.MEASURED_DIR):
        with contextlib.suppress(KeyError, TypeError, ValueError):  # settings of another shape
            yield (
                shape(found.settings),
                Timing(
                    source=WARM_UP,
                    detector=detector(found.settings),
                    data=found.data.name,
                    digest=found.data.digest,
                    iteration_s=found.seconds_per_iteration,
                    image_s=found.seconds_per_image,
                    rest_s=found.seconds_once,
                    cpus=found.cpus,
                    device=found.device,
                    memory_mib=found.memory_mib,
                    gpu_memory_mib=found.gpu_memory_mib,
                ),
            )


def estimates(
    trials: Sequence[Trial], plan: Plan, tree: RunTree, resources: TrialResources, device: str, timings: Timings | None = None,
    evaluated: Collection[str] = (), **how: Any,
) -> list[Estimate]:  # fmt: skip
    """Return what each trial of a plan still takes with these trial resources. For an interrupted trial, only the remaining steps count.

    Args:
        evaluated: ids of trials that train nothing: only their final weights are evaluated.
    """
    timings = timings or Timings(tree)
    found = []
    for trial in trials:
        data = trial.spec.data.model_dump(mode="json")
        settings = trial.spec.settings.model_dump(mode="json")
        done = 0.0
        if trial.id in evaluated:
            done = 1.0
        elif tree.trial(trial.id).state() is TrialState.INTERRUPTED:
            lines = read_metric_lines(tree.trial(trial.id).file(naming.METRICS_FILE))[0]
            done = min(1.0, max((line.step for line in lines), default=0) / steps_of(settings, trial.spec.data.train_images))
        processes = processes_of(resources.gpus)
        found.append(
            timings.estimate(
                settings, data, cpus=resources.cpus, device=device, processes=processes, done=done, profile=plan.profile, **how
            )
        )  # fmt: skip
    return found
