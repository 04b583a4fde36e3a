"""The content of a run on the server, read from the run directories. Calls no server."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gfl_lab
from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records import plan as plan_file
from gfl_lab.records.files import damaged
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.metric_lines import MetricLine, read_metric_lines
from gfl_lab.records.plan import PlanFile
from gfl_lab.records.result import Done, Failed, Result
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.choices import IMPORTED
from gfl_lab.spec.trial import DataSpec
from gfl_lab.tracking.server import PARAM_LIMIT, file_stamp

TAG_SYNCED = "gfl.synced"
"""Fingerprint of what was mirrored when a run was complete: the same again means that there is nothing to do."""

TAG_FAILURE = "gfl.failure"
"""Tag of a trial's failure: kind and reason."""

TAG_NOTE = "mlflow.note.content"
NOTE_LIMIT = 7500
"""Characters of a description; MLflow cuts tag values at 8000."""

TABLE_FILES = tuple(f"{naming.TABLE_STEM}.{name}" for name in ("md", "html", "json", "csv", "tex"))
TRIAL_FILES = (naming.CONFIG, naming.RESULT, naming.DISTRIBUTIONS, naming.EVAL_RECORDS)

STATUS = {
    TrialState.PLANNED: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.DONE: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.INTERRUPTED: "KILLED",
}


@dataclass(frozen=True)
class Trial:
    """A trial of a plan, and its folder."""

    directory: TrialDir
    seed: int
    variant: str
    axes: dict[str, Any]
    data: DataSpec
    kind: str = naming.TRIAL_RUN
    """Value of its tag ``gfl.kind``: whether it is in the table, or only others need it."""
    links: dict[str, str] = field(default_factory=dict)
    """Tags for the trials that it needs and those that need it."""

    @property
    def id(self) -> str:
        """Its id."""
        return self.directory.id

    @property
    def name(self) -> str:
        """Name of its run."""
        return run_name(self.variant, self.seed)


@dataclass(frozen=True)
class Plan:
    """An experiment's plan as the mirror needs it."""

    record: PlanFile
    folder: Path
    trials: tuple[Trial, ...]
    """Those that others need first, then those of the table."""
    common: dict[str, str]
    """Tags of the parent run and of every child."""

    @property
    def rows(self) -> tuple[Trial, ...]:
        """The trials of the table."""
        return tuple(trial for trial in self.trials if trial.kind == naming.TRIAL_RUN)

    @property
    def source(self) -> dict[str, str]:
        """Tags for the origin of a run."""
        own = f"import-results {self.record.experiment}" if self.record.kind == IMPORTED else f"run {self.record.source}"
        return {"mlflow.source.name": f"gfl-lab {own}".strip(), "mlflow.source.type": "LOCAL"}


def read_plan(tree: RunTree, experiment: str, profile: str) -> Plan:
    """Read the plan of an experiment under a profile. Raises StoreError."""
    path = tree.experiment(experiment, profile) / naming.PLAN
    record = plan_file.read_plan(path)
    try:
        naming.canonical_json(record.to_json()).encode()  # half a surrogate pair, NaN: MLflow's databases take neither
    except ValueError as error:
        raise damaged(path, f"is no plan: {type(error).__name__}: {error}") from None
    links = _links(record)
    rows: dict[str, Trial] = {}
    for variant in record.variants:
        for trial in variant.trials:
            # Two variants that are the same trial are one run, under the first variant's name.
            own = (tree.trial(trial.id), trial.seed, variant.name, dict(variant.axes), record.data)
            rows.setdefault(trial.id, Trial(*own, links=links.get(trial.id, {})))
    needed = {
        each.trial.id: Trial(
            tree.trial(each.trial.id), each.trial.seed, each.name, {}, each.data, naming.NEEDED_RUN, links.get(each.trial.id, {})
        )
        for each in record.needed
        if each.trial.id not in rows
    }
    common = {
        naming.TAG_EXPERIMENT: experiment,
        naming.TAG_PROFILE: profile,
        naming.TAG_QUESTION: one_line(record.question, 1000),
        naming.TAG_VERSION: gfl_lab.__version__,
    }
    return Plan(record, path.parent, (*needed.values(), *rows.values()), common)


def run_name(variant: str, seed: int) -> str:
    """Return the name of a trial's run."""
    return f"{variant} · seed {seed}"


def _links(record: PlanFile) -> dict[str, dict[str, str]]:
    """Return the tags for what each trial needs and for those that need it, by id of the trial."""
    named = [(each.trial, each.name) for each in record.needed]
    named += [(trial, variant.name) for variant in record.variants for trial in variant.trials]
    names: dict[str, str] = {}
    for trial, variant in named:
        names.setdefault(trial.id, run_name(variant, trial.seed))
    users: dict[str, list[str]] = {}
    found: dict[str, dict[str, str]] = {}
    for trial, _ in named:
        if trial.needs:
            found[trial.id] = {f"gfl.{role}": f"{needed} ({names.get(needed, 'not in the plan')})" for role, needed in trial.needs.items()}
        for needed in trial.needs.values():
            users.setdefault(needed, []).append(names[trial.id])
    for needed, them in users.items():
        found.setdefault(needed, {})[naming.TAG_NEEDED_BY] = one_line(", ".join(dict.fromkeys(them)), 1000)
    return found


# --- the parent run -------------------------------------------------------------------------------


def parent_status(plan: Plan, states: Mapping[str, TrialState], final: bool) -> str:
    """Return RUNNING while trials of the table run or, unless ``final``, may still start; then how they ended.

    Trials that others need are left out: those that only finished trials need are never trained.
    """
    found = {states[trial.id] for trial in plan.rows}
    if TrialState.RUNNING in found or (not final and found & {TrialState.PLANNED, TrialState.INTERRUPTED}):
        return "RUNNING"
    if TrialState.FAILED in found:
        return "FAILED"
    return "KILLED" if found - {TrialState.DONE} else "FINISHED"


def parent_tags(plan: Plan, states: Mapping[str, TrialState]) -> dict[str, str]:
    """Return the tags of the parent run. The description among them is the question, with the table under it once there is one."""
    status = _counts(states[trial.id] for trial in plan.rows)
    if needed := _counts(states[trial.id] for trial in plan.trials if trial.kind == naming.NEEDED_RUN):
        status += f"; trials that others need: {needed}"
    note = escaped(one_line(plan.record.question, NOTE_LIMIT // 2))
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (plan.folder / f"{naming.TABLE_STEM}.md").read_text(encoding="utf-8")
        note = text if len(text) <= NOTE_LIMIT else note
    return {naming.TAG_KIND: naming.EXPERIMENT_RUN, **plan.common, naming.TAG_STATUS: status, TAG_NOTE: note}


def _counts(states: Iterable[TrialState]) -> str:
    present = list(states)
    return ", ".join(f"{present.count(state)} {state.value}" for state in TrialState if state in present)


def parent_params(plan: Plan) -> dict[str, str]:
    """Return axes, seeds, profile and data."""
    params = {axis: ", ".join(naming.setting_text(value) for value in values) for axis, values in plan.record.axes.items()}
    params["seeds"] = ", ".join(map(str, sorted({trial.seed for trial in plan.record.trials})))
    data = plan.record.data
    return params | {"profile": plan.common[naming.TAG_PROFILE], "data": f"{data.name} {data.digest}"}


def changed_params(params: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the params that have changed, as tags: MLflow's params cannot change, but seeds and axes of an experiment grow."""
    return {f"gfl.now.{key}": value for key, value in params.items() if key in known and known[key] != value[:PARAM_LIMIT]}


# --- the run of a trial ---------------------------------------------------------------------------


def trial_tags(
    plan: Plan, trial: Trial, parent_id: str, state: TrialState, result: Result | None, known: Mapping[str, str]
) -> dict[str, str]:
    """Return the tags of a trial's run; ``known`` are those on the server."""
    tags = {
        naming.TAG_KIND: trial.kind,
        **plan.common,
        **trial.links,
        naming.TAG_VARIANT: trial.variant,
        naming.TAG_SEED: str(trial.seed),
        naming.TAG_TRIAL: trial.id,
        naming.TAG_STATUS: state.value,
        "mlflow.parentRunId": parent_id,
    }
    if state is TrialState.FAILED and isinstance(result, Failed):
        tags[TAG_FAILURE] = one_line(f"{result.failure.kind}: {result.failure.reason}", 2000)
        tags[TAG_NOTE] = "Failed: " + escaped(tags[TAG_FAILURE])
    elif known.get(TAG_FAILURE):
        tags |= {TAG_FAILURE: "", TAG_NOTE: ""}
    if known.get(naming.TAG_NEEDED_BY) and naming.TAG_NEEDED_BY not in tags:
        tags[naming.TAG_NEEDED_BY] = ""
    return tags


def trial_params(trial: Trial) -> dict[str, str]:
    """Return the axes, the seed and the id."""
    params = {str(axis): naming.setting_text(value) for axis, value in trial.axes.items()}
    return params | {"seed": str(trial.seed), "trial": trial.id}


def trial_files(state: TrialState) -> tuple[str, ...]:
    """Return the names of a trial's files that become artifacts."""
    if state is TrialState.RUNNING:
        return (naming.CONFIG,)
    return (*TRIAL_FILES, naming.LOG) if state is TrialState.FAILED else TRIAL_FILES


def fingerprint(plan: Plan, trial: Trial, parent_id: str) -> str:
    """Return a value that changes with anything that a trial's run shows. Take it before the files are read."""
    described = [parent_id, plan.common, trial.variant, trial.axes, trial.seed]
    described += [trial.kind, trial.links] if trial.links else []
    files = (naming.METRICS_FILE, naming.LEASE, *TRIAL_FILES)
    return naming.digest([described, [[name, file_stamp(trial.directory.file(name))] for name in files]])


def data_input(data: DataSpec, paths: DataPaths | None = None) -> dict[str, str]:
    """Return the arguments of ``Server.log_data``."""
    counts = {"train_images": data.train_images, "val_images": data.val_images, "classes": len(data.classes)}
    source = {"uri": paths.train_annotations or paths.val_annotations, **paths.to_json()} if paths else {"name": data.name}
    return {
        "name": one_line(data.name, 400),
        "digest": data.digest[:36],
        "source_type": "local" if paths else "gfl-lab",
        "source": json.dumps(source),
        "profile": json.dumps({**counts, "truth": data.truth, "class_names": list(data.classes)[:100]}),
    }


def result_of(trial: TrialDir) -> Result | None:
    """Return its result; None if there is none, or it cannot be read."""
    with contextlib.suppress(StoreError):
        return trial.result()
    return None


def paths_of(trial: TrialDir) -> DataPaths | None:
    """Return the paths of its data; None if its manifest cannot be read."""
    with contextlib.suppress(StoreError):
        return trial.manifest().paths
    return None


def _created(trial: TrialDir) -> str:
    with contextlib.suppress(StoreError):
        return trial.manifest().created
    return ""


def started(trial: TrialDir, result: Result | None) -> int:
    """Return the start of a trial, ms: before its first metric line, else of its lease or manifest."""
    lines, _ = read_metric_lines(trial.file(naming.METRICS_FILE))
    first = next((line.time for line in lines if millis(line.time)), None)
    lease = trial.lease()
    since = lease.since if lease else 0.0
    if first is not None:
        if since and since < first:
            return millis(since) or millis(first) or 0
        setup = result.seconds.get("setup", 0.0) if result else 0.0
        return millis(first - setup) or 0
    return millis(since) or millis(_created(trial)) or now()


def ended(trial: TrialDir, result: Result | None) -> int:
    """Return the end of a trial, ms: by its result, else of its last metric line."""
    finished = millis(result.finished) if result else None
    if finished:
        return finished
    stamp = file_stamp(trial.file(naming.METRICS_FILE))
    return stamp[1] // 1_000_000 if stamp else now()


def line_points(lines: Iterable[MetricLine]) -> Iterator[tuple[str, float, int, int]]:
    """Yield (key, value, ms, step): train by iteration, val by epoch, so that MLflow's axis is the one of its chart."""
    for line in lines:
        if not (line.trains or line.evaluates):
            continue
        step, when = line.step if line.trains else line.epoch, millis(line.time) or 0
        for name, raw in line.metrics.items():
            value = _number(raw)
            if value is not None:
                yield naming.mlflow_metric(line.kind, name), value, when, step


def final_points(trial: TrialDir, result: Done) -> Iterator[tuple[str, float, int, int]]:
    """Return the finished trial's numbers, at step 0: single values, which MLflow draws as bars to compare runs by."""
    when = ended(trial, result)
    extra = {"seconds": result.seconds.get("total"), "peak_memory_mib": result.peak_memory_mib}
    for name, raw in {**(result.metrics or {}), **extra}.items():
        if raw is not None:
            yield naming.mlflow_metric("final", name), raw, when, 0


def now() -> int:
    """Return milliseconds since 1970."""
    return round(time.time() * 1000)


def one_line(text: object, limit: int) -> str:
    """Return ``text`` without line breaks, cut at ``limit`` characters."""
    joined = " ".join(str(text).split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"


def escaped(text: str) -> str:
    """Return ``text`` as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)


def millis(when: float | str | None) -> int | None:
    """Return Unix seconds or ISO text as MLflow's milliseconds; None for anything else."""
    if isinstance(when, str):
        try:
            moment = datetime.datetime.fromisoformat(when)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        when = moment.timestamp()
    return round(when * 1000) if isinstance(when, (int, float)) and math.isfinite(when) and when > 0 else None


def _number(value: object) -> float | None:
    """Return a metric value as MLflow takes it: infinities become NaN, because they would flatten its charts."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else math.nan
