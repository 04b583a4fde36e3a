"""Every id, metric key, tag and file name, in one place. Nothing else builds or parses one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

FORMAT_VERSION = 1
"""Version of the on-disk format of the whole run tree (rundir.py)."""

NAMED_AXIS = "arm"
"""Axis of the variants that an experiment names itself, in plan.json and exports since version 0.1; its title is "variant"."""

SIDES = ("left", "top", "right", "bottom")
"""Order of box sides everywhere: channels of ``gfl_reg``, distributions, targets."""

# --- metrics --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A reported number: its key, how people read it, its unit and which way is better.

    ``group`` is ``AP`` for COCO's average precisions, ``edges`` for scores against the ground-truth edges, ``machine`` for measures of the
    machine's speed, which other programs on it disturb; else empty.
    """

    key: str
    title: str
    unit: str
    higher_is_better: bool
    digits: int
    help: str
    group: str = ""


METRICS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric("AP", "AP", "", True, 1, "COCO AP, mean over IoU 0.50:0.95, 0 to 100", "AP"),
        Metric("AP50", "AP50", "", True, 1, "COCO AP at IoU 0.50, 0 to 100", "AP"),
        Metric("AP75", "AP75", "", True, 1, "COCO AP at IoU 0.75, 0 to 100", "AP"),
        Metric("AP_S", "AP_S", "", True, 1, "COCO AP of boxes below 32x32 px, 0 to 100", "AP"),
        Metric("AP_M", "AP_M", "", True, 1, "COCO AP of boxes from 32x32 to 96x96 px, 0 to 100", "AP"),
        Metric("AP_L", "AP_L", "", True, 1, "COCO AP of boxes above 96x96 px, 0 to 100", "AP"),
        Metric("fps", "fps", "img/s", True, 1, "images per second, batch 1, decoding and NMS included, on this machine", "machine"),
        Metric("latency_ms", "latency", "ms", False, 2, "median time of one image, batch 1, decoding and NMS included", "machine"),
        Metric(
            "two_mode_recall",
            "two-mode recall",
            "",
            True,
            3,
            "share of ambiguous sides whose distribution has a mode at both true edges",
            "edges",
        ),
        Metric("false_bimodality", "false bimodality", "", False, 3, "share of clear sides whose distribution has two modes", "edges"),
        Metric(
            "wasserstein",
            "W1 to truth",
            "bins",
            False,
            3,
            "mean Wasserstein-1 distance to the true edge distribution on ambiguous sides",
            "edges",
        ),
    )
}
"""Metrics of a finished trial, in the order tables show them."""

AP_METRICS = tuple(key for key, metric in METRICS.items() if metric.group == "AP")
TRUTH_METRICS = tuple(key for key, metric in METRICS.items() if metric.group == "edges")
MACHINE_METRICS = tuple(key for key, metric in METRICS.items() if metric.group == "machine")


def mlflow_metric(kind: str, key: str) -> str:
    """Return MLflow's name of a metric: ``train/loss_cls``, ``val/AP``, ``final/fps``."""
    return f"{kind}/{key}"


# --- ids ------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def is_valid_name(name: str) -> bool:
    """Return True if ``name`` may name an experiment or profile: it becomes a folder, so no separators, no leading dot."""
    return bool(_NAME.fullmatch(name)) and ".." not in name


def canonical_json(value: Any) -> str:
    """Return JSON with one spelling per value: sorted keys, no spaces, no NaN. The input of every hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """Return first ``length`` hex digits of the SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def is_trial_id(text: str) -> bool:
    """Return True if ``text`` has the form of a trial id."""
    return re.fullmatch(r"[0-9a-f]{12}", text) is not None


def setting_text(value: Any) -> str:
    """Return a setting's value as tables show it: on, off, 16, 0.5, r18, {head: {temperature: 2}}."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(setting_text(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {setting_text(v)}" for key, v in value.items()) + "}"
    return str(value)


def variant_name(settings: dict[str, Any]) -> str:
    """Return the name of a variant: its axes and their values, ``qfl=on dfl=off``. An empty one is ``all defaults``."""
    return " ".join(f"{key}={setting_text(value)}" for key, value in settings.items()) or "all defaults"


# --- files of a run tree --------------------------------------------------------------------------

TRIALS_DIR, EXPERIMENTS_DIR, DATA_DIR = "trials", "experiments", "data"
MEASURED_DIR = "measured"  # what warm-ups have measured
MLFLOW_DB, MLFLOW_ARTIFACTS = "mlflow.db", "mlartifacts"

MANIFEST, CONFIG, METRICS_FILE, RESULT, LOG = "manifest.json", "config.py", "metrics.jsonl", "result.json", "log.txt"
EVAL_RECORDS, DISTRIBUTIONS = "eval.npz", "distributions.parquet"
HISTORY = "history.parquet"  # the distributions of a few boxes after every epoch
LAST_CHECKPOINT, PREVIOUS_CHECKPOINT = "last.pth", "previous.pth"
ACCUMULATION = "accumulation.json"  # in a trial's folder: it ran out of memory, each batch is done in parts
RESERVE = ".reserve"  # in a trial's folder: space given back when the disk is full, so that the outcome can be written
REPAIR = "repair.json"  # in a finished trial's folder: why its damaged records could not be made again
COMPONENTS_DIR = "components"  # in a trial's folder: the user's code that it uses
LEASE = "lease.json"
STOP_REQUEST = ".stop"  # in an experiment's folder: its driver was asked to stop
PLAN, TABLE_STEM = "plan.json", "table"
GENERATED_DATA = "ambiguous_shapes"  # name of the data set that gfl-lab generates itself
LOCK = "table.lock.json"  # in an experiment's folder: the trials behind its table, and what each found
NEW_LOCK = "table.lock.new.json"  # beside it: the numbers as they are now, where locked ones differ
SEARCH = "search.json"  # in an experiment's folder: what a search has suggested, and how each ended
COST = "cost.json"  # in an experiment's folder: what its commands have spent


def stop_request(trial_id: str) -> str:
    """Return the file, in an experiment's folder, that asks one trial of its driver to stop."""
    return f"{STOP_REQUEST}.{trial_id}"


# --- MLflow tags ----------------------------------------------------------------------------------

TAG_KIND = "gfl.kind"
EXPERIMENT_RUN, TRIAL_RUN, NEEDED_RUN = "experiment", "trial", "needed"  # its values; "needed": a trial that only others need
TAG_EXPERIMENT, TAG_PROFILE = "gfl.experiment", "gfl.profile"
TAG_VARIANT, TAG_SEED, TAG_TRIAL = "gfl.variant", "gfl.seed", "gfl.trial"
TAG_NEEDED_BY = "gfl.needed_by"
TAG_STATUS, TAG_VERSION, TAG_QUESTION = "gfl.status", "gfl.version", "gfl.question"
