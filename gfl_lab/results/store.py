"""The one way to read a run tree: experiments, trials, curves, distributions, images, logs.

Reads while trials run; repeated reads are cheap, because what has not changed on disk is not read again. One damaged
run directory never hides the others: its trial is shown as failed with kind ``unreadable`` and the reason. No message
holds a path outside the tree.
"""

from __future__ import annotations

import math
import os
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gfl_lab import naming, rundir
from gfl_lab.data.annotations import read_annotations
from gfl_lab.data.findings import Findings
from gfl_lab.data.layout import escapes, image_file
from gfl_lab.data.pixels import ImageError, read_rgb
from gfl_lab.errors import FormatError, GflLabError, Problem, StoreError
from gfl_lab.metrics.coco_ap import RESAMPLED, resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.files import WAYS_OUT
from gfl_lab.records.manifest import Manifest
from gfl_lab.records.metric_lines import MetricLine, last_metric_lines, read_metric_lines
from gfl_lab.records.plan import PlanFile, PlannedVariant, read_plan
from gfl_lab.records.result import Done, Failed
from gfl_lab.results.kept import Kept
from gfl_lab.results.rows import DataRow, ExperimentRow, Failure, Logged, Recorded, Resampled, TrialRow, VariantRow
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.settings import implied

UNREADABLE = "unreadable"
"""Failure kind of a trial whose files cannot be read."""

_DAMAGE = (StoreError, OSError, KeyError, TypeError, ValueError, AttributeError)
"""What a file of another shape than ours can raise while it is taken apart."""

_TAIL_BYTES = 64 * 1024
_CURVES_BYTES = 256 * 2**20
"""For curves that are kept in memory; 90,000 iterations with six terms are 6 MB a trial."""
_OBJECT_BYTES = 250
"""What an array takes beside its numbers, with its place in a dict."""
_RESAMPLED_BYTES = 64 * 2**20
"""For AP on resampled images that is kept in memory; 24 kB a trial."""

Stamp = tuple[int, int, int] | None
"""Inode, size and modification time of a file; None when there is none. Another stamp means other content."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


Series = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Step and epoch (int64) and value (float64) of one metric; metrics that stand in the same lines share the first two."""


@dataclass(frozen=True)
class _Curve:
    """What has been read of one metrics file, by kind and key."""

    stamp: Stamp
    offset: int
    series: dict[tuple[str, str], Series]

    @property
    def nbytes(self) -> int:
        arrays = {id(array): array.nbytes for each in self.series.values() for array in each}
        return sum(arrays.values()) + _OBJECT_BYTES * len(arrays)


class Store:
    """Reads the run tree ``tree``. Never writes. Safe to share between threads."""

    def __init__(self, tree: RunTree) -> None:
        self._tree = tree
        self._lock = threading.RLock()
        self._plans: dict[tuple[str, str], tuple[Stamp, PlanFile]] = {}
        self._ended: dict[tuple[str, int, int, int], tuple[Stamp, TrialRow]] = {}
        self._tails: dict[str, tuple[Stamp, MetricLine | None, MetricLine | None]] = {}
        self._curves: Kept[str, _Curve] = Kept(_CURVES_BYTES)
        self._resampled: Kept[str, tuple[Stamp, Resampled]] = Kept(_RESAMPLED_BYTES)
        self._file_names: dict[str, tuple[Stamp, dict[int, str]]] = {}

    # --- experiments ---

    def names(self) -> list[tuple[str, str]]:
        """(experiment, profile) of every plan, sorted; reads no file."""
        return self._tree.experiments()

    def experiments(self) -> tuple[ExperimentRow, ...]:
        """Every experiment that can be read, sorted by name and profile. ``problems`` says what cannot."""
        return self._read_all()[0]

    def problems(self) -> tuple[str, ...]:
        """One sentence for each plan that cannot be read."""
        return self._read_all()[1]

    def _read_all(self) -> tuple[tuple[ExperimentRow, ...], tuple[str, ...]]:
        rows, problems = [], []
        for name, profile in self.names():
            try:
                rows.append(self.experiment(name, profile))
            except StoreError as error:
                problems += [". ".join(filter(None, (problem.message, problem.hint))) for problem in error.problems]
        return tuple(rows), tuple(problems)

    def experiment(self, name: str, profile: str) -> ExperimentRow:
        """One experiment under a profile, with the state of every trial now.

        Raises:
            StoreError: there is none of that name (the known ones are named), or its plan is damaged.
        """
        valid = naming.is_valid_name(name) and naming.is_valid_name(profile)
        if not (self._plan_file(name, profile).exists() if valid else (name, profile) in self.names()):
            listed = ", ".join(f"{n} ({p})" for n, p in self.names()) or "none yet: `gfl-lab run EXPERIMENT.yaml` makes one"
            raise StoreError(f"there is no experiment {name!r} with profile {profile!r}. Known: {listed}.")
        try:
            return self._experiment_row(name, profile, self._plan(name, profile))
        except _DAMAGE as error:
            hint = error.problems[0].hint if isinstance(error, FormatError) else WAYS_OUT[naming.PLAN]
            raise StoreError(Problem(f"the plan of {name} ({profile}) cannot be read: {self._reason(error)}", hint=hint)) from None

    def question(self, name: str, profile: str) -> str:
        """Return the question of an experiment; empty if its plan does not hold one. Reads no trial."""
        try:
            return self._plan(name, profile).question
        except StoreError:
            return ""

    def is_running(self, name: str, profile: str) -> bool:
        """Return True if a living process holds a trial of an experiment. Reads leases alone."""
        try:
            planned = self._plan(name, profile).trials
        except StoreError:
            return False
        trials = [self._tree.trial(each.id) for each in planned if naming.is_trial_id(each.id)]
        return any(trial.file(naming.LEASE).exists() and trial.lease_alive() for trial in trials)

    def _plan_file(self, name: str, profile: str) -> Path:
        return self._tree.experiment(name, profile) / naming.PLAN

    def _plan(self, name: str, profile: str) -> PlanFile:
        path = self._plan_file(name, profile)
        stamp = stamp_of(path)
        with self._lock:
            if (held := self._plans.get((name, profile))) and held[0] == stamp:
                return held[1]
        plan = read_plan(path)
        with self._lock:
            self._plans[name, profile] = (stamp, plan)
        return plan

    def _experiment_row(self, name: str, profile: str, plan: PlanFile) -> ExperimentRow:
        data = plan.data
        return ExperimentRow(
            name=name,
            profile=profile,
            question=plan.question,
            kind=plan.kind,
            source=plan.source,
            created=plan.created,
            axes=plan.axes,
            metrics=plan.metrics,
            data=DataRow(data.name, data.digest, data.classes, data.train_images, data.val_images, data.truth),
            variants=tuple(self._variant_row(variant, data.train_images) for variant in plan.variants),
            profile_title=plan.profile_title,
            declared=frozenset(implied(plan.declared)),
        )

    def _variant_row(self, variant: PlannedVariant, train_images: int) -> VariantRow:
        return VariantRow(
            name=variant.name,
            axes=variant.axes,
            settings=variant.settings,
            baseline=variant.baseline,
            reference=variant.reference,
            trials=tuple(self._trial_row(trial.id, trial.seed, variant.settings, train_images) for trial in variant.trials),
        )

    # --- trials ---

    def _trial_row(self, trial_id: str, seed: int, settings: Mapping[str, Any], train_images: int) -> TrialRow:
        try:
            epochs = total_epochs(settings)
            steps = epochs * math.ceil(train_images / int(settings["batch_size"]))
        except (*_DAMAGE, ZeroDivisionError):
            epochs = steps = 0
        try:
            return self._read_trial(self._tree.trial(trial_id), seed, epochs, steps)
        except _DAMAGE as error:
            return TrialRow(trial_id, seed, TrialState.FAILED, failure=Failure(UNREADABLE, self._reason(error)), epochs=epochs, steps=steps)

    def _read_trial(self, trial: TrialDir, seed: int, epochs: int, steps: int) -> TrialRow:
        """The row; of a trial that has ended and that nobody holds as it was read before, while its result is the same."""
        leased, key, stamp = trial.file(naming.LEASE).exists(), (trial.id, seed, epochs, steps), stamp_of(trial.file(naming.RESULT))
        if not leased and stamp is not None:
            with self._lock:
                if (held := self._ended.get(key)) and held[0] == stamp:
                    return held[1]
        row = self._row(trial, seed, epochs, steps, leased)
        if not leased and row.state in (TrialState.DONE, TrialState.FAILED):
            with self._lock:
                self._ended[key] = (stamp, row)
                self._tails.pop(trial.id, None)
        return row

    def _row(self, trial: TrialDir, seed: int, epochs: int, steps: int, leased: bool) -> TrialRow:
        result = trial.result()
        last, last_val = self._tail(trial)
        if leased and trial.lease_alive():
            state = TrialState.RUNNING
        elif result is not None:
            state = TrialState(result.status)
        else:
            state = trial.state()
        ended = result if state is not TrialState.RUNNING else None
        done = ended if isinstance(ended, Done) else None
        timings = dict(ended.seconds) if ended else {}
        lease = trial.lease() if state is TrialState.RUNNING else None
        started = lease.since if lease else 0.0
        updated = (last.time if last else 0.0) or started
        seconds = timings.pop("total", None)
        if state is TrialState.RUNNING and started:
            seconds = max(0.0, updated - started)
        split = done.accumulation if done else None
        return TrialRow(
            id=trial.id,
            seed=seed,
            state=state,
            metrics=(done.metrics or {}) if done else {},
            failure=ended.failure if isinstance(ended, Failed) else None,
            epoch=(done.epochs or epochs) if done else last.epoch if last else 0,
            epochs=(done.epochs or epochs) if done else epochs,
            step=(done.steps or steps) if done else last.step if last else 0,
            steps=(done.steps or steps) if done else steps,
            seconds=sum(timings.values()) if seconds is None else seconds,
            device=done.device if done else "",
            latest=_numbers(last_val.metrics) if last_val else {},
            timings=timings,
            updated=updated,
            peak_memory_mib=(done.peak_memory_mib or 0.0) if done else 0.0,
            parts=split.parts if split else 1,
            parts_since=(split.since_step or 0) if split else 0,
        )

    def _tail(self, trial: TrialDir) -> tuple[MetricLine | None, MetricLine | None]:
        """The last metric line and the last one of an evaluation, from the end of the file alone."""
        path = trial.file(naming.METRICS_FILE)
        stamp = stamp_of(path)
        if stamp is None:
            return None, None
        with self._lock:
            if (held := self._tails.get(trial.id)) and held[0] == stamp:
                return held[1], held[2]
        last = last_val = None
        for line in last_metric_lines(path, _TAIL_BYTES):
            last = last or line
            if line.evaluates:
                last_val = line
                break
        with self._lock:
            self._tails[trial.id] = (stamp, last, last_val)
        return last, last_val

    def recorded(self, trial_id: str) -> Recorded:
        """What a trial wrote down of itself. Raises StoreError where its manifest is missing or damaged."""
        trial = self._tree.trial(trial_id)
        try:
            manifest, result = trial.manifest(), trial.result()
            done = result if isinstance(result, Done) else None
            files = {
                component.name: copy.read_text(encoding="utf-8", errors="replace")
                for component, copy in zip(manifest.components, manifest.component_files, strict=True)
            }
            return Recorded(
                id=trial.id,
                state=trial.state(),
                seed=manifest.seed,
                settings=manifest.settings,
                data=manifest.data.model_dump(mode="json"),
                code=manifest.code,
                weights_digest=manifest.weights_digest,
                components=files,
                environment=done.environment.entries if done and done.environment else {},
                metrics=(done.metrics or {}) if done else {},
            )
        except (StoreError, OSError) as error:
            raise StoreError(f"the manifest of trial {trial_id} cannot be read: {self._reason(error)}") from None

    # --- curves ---

    def logged(self, experiment: ExperimentRow) -> dict[tuple[str, str], tuple[Logged, ...]]:
        """Every metric that trials have logged, by kind and key, each with the trials that have it in the plan's order.

        Kind is ``train`` (a value an iteration) or ``val`` (a value an epoch).
        """
        found: dict[tuple[str, str], list[Logged]] = {}
        for variant in experiment.variants:
            for trial in variant.trials:
                for key, series in self._curve(trial.id).series.items():
                    found.setdefault(key, []).append(Logged(variant.name, trial.seed, trial.id, *series))
        return {key: tuple(each) for key, each in found.items()}

    def _curve(self, trial_id: str) -> _Curve:
        try:
            path = self._tree.trial(trial_id).file(naming.METRICS_FILE)
        except StoreError:
            return _Curve(None, 0, {})
        stamp = stamp_of(path)
        if stamp is None:
            return _Curve(None, 0, {})
        with self._lock:
            held = self._curves.get(trial_id)
            if held is not None and held.stamp == stamp:
                return held
            # A resume cuts the file back by writing another one in its place: then the inode differs.
            if held is None or held.stamp[0] != stamp[0] or stamp[1] < held.offset:
                held = _Curve(stamp, 0, {})
            try:
                lines, offset = read_metric_lines(path, held.offset)
            except OSError:
                return held
            held = _Curve(stamp, offset, _extended(held.series, lines))
            self._curves.put(trial_id, held, held.nbytes)
            return held

    # --- distributions ---

    def distributions_stamp(self, trial_id: str) -> Stamp:
        """Changes when the trial's distributions do; None while there are none. For callers that cache."""
        return stamp_of(self._tree.trial(trial_id).file(naming.DISTRIBUTIONS))

    def distributions(self, trial_id: str, columns: Sequence[str] | None = None, **where: int | str) -> pd.DataFrame | None:
        """Learned box distributions of a trial, one row a ground-truth box or kept false positive.

        Args:
            trial_id: 12 hex digits.
            columns: the only ones to read; all when None. Reading few is much cheaper: the probabilities are nearly
                the whole file.
            where: keep the rows where a column has this value, e.g. ``image_id=3``.

        Returns:
            None while the trial has none. List columns hold float32 arrays.

        Raises:
            StoreError: the file is damaged, or has no such column.
        """
        path = self._tree.trial(trial_id).file(naming.DISTRIBUTIONS)
        if not path.exists():
            return None
        filters = [(column, "==", value) for column, value in where.items()] or None
        try:
            known = set(pq.read_schema(path).names)
            missing = [c for c in (*(columns or ()), *where) if c not in known]
            if missing:
                raise StoreError(f"the distributions of trial {trial_id} have no column {', '.join(missing)}")
            # partitioning=None: a folder called `a=b` above the file is no column
            return pq.read_table(path, columns=list(columns) if columns else None, filters=filters, partitioning=None).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"the distributions of trial {trial_id} cannot be read: {self._reason(error)}") from None

    def history(self, trial_id: str, image_id: int, annotation_id: int) -> pd.DataFrame | None:
        """One box after each epoch, all columns of distributions.parquet and ``epoch`` (from 1), in its order.

        Returns:
            None while there is none, and where this box is not among those that are followed (``train.history``).

        Raises:
            StoreError: the file is damaged.
        """
        path = self._tree.trial(trial_id).file(naming.HISTORY)
        if not path.exists():
            return None
        try:
            wanted = [("image_id", "==", image_id), ("annotation_id", "==", annotation_id)]
            found = pq.read_table(path, filters=wanted, partitioning=None).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"the history of trial {trial_id} cannot be read: {self._reason(error)}") from None
        return found.sort_values("epoch").reset_index(drop=True) if len(found) else None

    # --- evaluation ---

    def records(self, trial_id: str) -> Records | None:
        """Detections and ground truth of a finished trial's evaluation, image by image; None while there are none. Raises StoreError."""
        found = self._evaluation(trial_id)
        return None if found is None else found[0]

    def records_or_none(self, trial_id: str) -> Records | None:
        """As ``records``; None too where the file is damaged."""
        try:
            return self.records(trial_id)
        except StoreError:
            return None

    def records_stamp(self, trial_id: str) -> Stamp:
        """Changes when the trial's records do; None while there are none. For callers that cache."""
        return stamp_of(self._tree.trial(trial_id).file(naming.EVAL_RECORDS))

    def resampled(self, trial_id: str) -> Resampled | None:
        """A finished trial's AP on bootstrap samples of its images; None while there is none. Raises StoreError."""
        stamp = self.records_stamp(trial_id)
        with self._lock:
            if (held := self._resampled.get(trial_id)) and held[0] == stamp:
                return held[1]
        if (found := self._evaluation(trial_id)) is None:
            return None
        records, values = found
        if values is None:  # written before AP was resampled where it is evaluated
            values = resample(match(records))
        result = Resampled(dict(zip(RESAMPLED, values.T, strict=True)), len(np.unique(records.image_ids)))
        with self._lock:
            self._resampled.put(trial_id, (stamp, result), sum(array.nbytes for array in result.values.values()))
        return result

    def resampled_or_none(self, trial_id: str) -> Resampled | None:
        """As ``resampled``; None too where the file is damaged, so that a table appears without what it would tell."""
        try:
            return self.resampled(trial_id)
        except StoreError:
            return None

    def _evaluation(self, trial_id: str) -> tuple[Records, np.ndarray | None] | None:
        path = self._tree.trial(trial_id).file(naming.EVAL_RECORDS)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Records.of(arrays), arrays["resampled"] if "resampled" in arrays else None
        except (*_DAMAGE, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise StoreError(f"the evaluation of trial {trial_id} cannot be read: {self._reason(error)}") from None

    # --- images and logs ---

    def image(self, trial_id: str, image_id: int) -> np.ndarray:
        """A validation image as the trial saw it: (height, width, 3), RGB, uint8, as stored (EXIF orientation is ignored, as in training).

        Raises:
            StoreError: the manifest or the image is missing or damaged, or the image's name leads out of its folder.
        """
        try:
            manifest = self._tree.trial(trial_id).manifest()
            folder = Path(manifest.paths.val_images)
        except _DAMAGE as error:
            raise StoreError(f"trial {trial_id} does not say where its images are: {self._reason(error)}") from None
        name = self._file_name(trial_id, image_id, manifest)
        path = image_file(folder, name)
        if escapes(name) or not path.resolve().is_relative_to(folder.resolve()):
            raise StoreError(f"image {image_id} is called {name!r}, which leads out of the image folder; it is not opened")
        if not path.exists():
            raise StoreError(f"image {image_id} ({name}) is not in the data folder any more")
        try:
            return read_rgb(path, _white_level(manifest))
        except ImageError as error:
            raise StoreError(f"image {image_id} ({name}) cannot be read: {error.why}") from None

    def _file_name(self, trial_id: str, image_id: int, manifest: Manifest) -> str:
        try:
            frame = self.distributions(trial_id, ["file_name"], image_id=int(image_id))
        except StoreError:
            frame = None
        if frame is not None and len(frame):
            return str(frame["file_name"].iloc[0])
        try:  # an image without boxes, or a trial without distributions yet
            file = Path(manifest.paths.val_annotations)
            stamp = stamp_of(file)
            with self._lock:
                held = self._file_names.get(str(file))
            if held is None or held[0] != stamp:
                annotations = read_annotations(file, Findings(), file.name)
                held = (stamp, {int(i["id"]): str(i["file_name"]) for i in annotations["images"]})
                with self._lock:
                    self._file_names[str(file)] = held
            return held[1][int(image_id)]
        except _DAMAGE:
            raise StoreError(f"trial {trial_id} knows no image {image_id}") from None

    def log_tail(self, trial_id: str, lines: int = 40) -> str:
        """The last lines of a trial's log, oldest first; empty when there is none."""
        path = self._tree.trial(trial_id).file(naming.LOG)
        if stamp_of(path) is None:
            return ""
        try:
            text = _read_tail(path, max(_TAIL_BYTES, 400 * lines)).decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _reason(self, error: BaseException) -> str:
        """What went wrong, without the place of the tree on this machine."""
        if isinstance(error, KeyError):
            return f"{error.args[0]!r} is missing"
        if isinstance(error, GflLabError):
            text = "; ".join(problem.message for problem in error.problems)
        else:
            text = error.strerror or type(error).__name__ if isinstance(error, OSError) and error.strerror else str(error)
        return text.replace(str(self._tree.root) + os.sep, "")


def store_root() -> Path:
    """Where ``open_store()`` reads: ``$GFL_LAB_HOME``, or ``runs`` in the current folder. Absolute."""
    return rundir.home()


def open_store(root: Path | None = None) -> Store:
    """The store at ``root``, by default where ``GFL_LAB_HOME`` points or ``./runs``. The folder need not exist."""
    return Store(RunTree(Path(root)) if root is not None else RunTree.default())


def _numbers(value: Any) -> dict[str, float]:
    """The finite numbers of a mapping."""
    if not isinstance(value, Mapping):
        return {}
    pairs = ((str(k), v) for k, v in value.items() if isinstance(v, (int, float)) and not isinstance(v, bool))
    return {key: float(number) for key, number in pairs if math.isfinite(number)}


def _white_level(manifest: Manifest) -> int:
    """The white level of a trial's data; 0 if it is not known."""
    try:
        return manifest.data.white_level
    except StoreError:
        return 0


def _read_tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        file.seek(max(0, end - size))
        return file.read()


def _extended(series: Mapping[tuple[str, str], Series], lines: Sequence[MetricLine]) -> dict[tuple[str, str], Series]:
    """``_Curve.series`` with more lines."""
    places: dict[str, list[tuple[int, int]]] = {}
    values: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in lines:
        kind = line.kind
        rows = places.setdefault(kind, [])
        rows.append((line.step, line.epoch))
        for key, number in line.metrics.items():
            values.setdefault((kind, key), []).append((len(rows) - 1, number))
    found = dict(series)
    shared = {kind: tuple(np.array(column, np.int64) for column in zip(*rows, strict=True)) for kind, rows in places.items()}
    joined: dict[tuple[int, tuple[str, str] | None], tuple[np.ndarray, np.ndarray]] = {}
    for key, rows in values.items():
        step, epoch = shared[key[0]]
        at, value = np.array([row for row, _ in rows]), np.array([number for _, number in rows], np.float64)
        whole = len(at) == len(step)
        if key not in found:
            found[key] = (step, epoch, value) if whole else (step[at], epoch[at], value)
            continue
        before = found[key]
        known = (id(before[0]), None if whole else key)
        if known not in joined:
            joined[known] = tuple(
                np.concatenate([old, new if whole else new[at]]) for old, new in zip(before[:2], (step, epoch), strict=True)
            )
        found[key] = (*joined[known], np.concatenate([before[2], value]))
    return found
