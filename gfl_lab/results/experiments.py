"""Experiments and the state of every trial, as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import FormatError, Problem, StoreError
from gfl_lab.records.files import WAYS_OUT
from gfl_lab.records.metric_lines import MetricLine, last_metric_lines
from gfl_lab.records.plan import PlanFile, PlannedVariant, read_plan
from gfl_lab.records.result import Done, Failed, Failure, Result, numbers_of
from gfl_lab.results.cache import StampedCache, stamp_of
from gfl_lab.results.reader import TreeReader
from gfl_lab.results.rows import DataRow, ExperimentRow, Outline, Recorded, TrialRow, VariantRow
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.schedule import steps_of, total_epochs
from gfl_lab.spec.shorthand import implied

UNREADABLE = "unreadable"
"""Failure kind of a trial whose files cannot be read."""

_TAIL_BYTES = 64 * 1024

Tail = tuple[MetricLine | None, MetricLine | None]
"""The last metric line of a trial, and the last one of an evaluation."""


class ExperimentReader(TreeReader):
    """Reads plans, and the trials in them."""

    def __init__(self, tree: RunTree) -> None:
        super().__init__(tree)
        self._plans: StampedCache[tuple[str, str], PlanFile] = StampedCache()
        self._ended: StampedCache[tuple[str, int, int, int], TrialRow] = StampedCache()
        self._tails: StampedCache[str, Tail] = StampedCache()

    def names(self) -> list[tuple[str, str]]:
        """Return (experiment, profile) of every plan, sorted; reads no file."""
        return self._tree.experiments()

    def experiments(self) -> tuple[ExperimentRow, ...]:
        """Return every readable experiment, sorted by name and profile. ``problems`` has the others."""
        return self._read_all()[0]

    def problems(self) -> tuple[str, ...]:
        """Return one sentence for each plan that cannot be read."""
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
        """Return one experiment under a profile, with the state of every trial now.

        Raises:
            StoreError: there is none of that name (the known ones are named), or its plan is damaged.
        """
        valid = naming.is_valid_name(name) and naming.is_valid_name(profile)
        if not (self._plan_file(name, profile).exists() if valid else (name, profile) in self.names()):
            listed = ", ".join(f"{n} ({p})" for n, p in self.names()) or "none yet: `gfl-lab run EXPERIMENT.yaml` makes one"
            raise StoreError(f"there is no experiment {name!r} with profile {profile!r}. Known: {listed}.")
        try:
            return self._experiment_row(name, profile, self._plan(name, profile))
        except (StoreError, OSError) as error:
            hint = error.problems[0].hint if isinstance(error, FormatError) else WAYS_OUT[naming.PLAN]
            raise StoreError(Problem(f"the plan of {name} ({profile}) cannot be read: {self._reason(error)}", hint=hint)) from None

    def question(self, name: str, profile: str) -> str:
        """Return the question of an experiment; empty if its plan does not hold one. Reads no trial."""
        try:
            return self._plan(name, profile).question
        except StoreError:
            return ""

    def outline(self, name: str, profile: str) -> Outline | None:
        """Return what the plan says of an experiment; None if it cannot be read. Reads no trial."""
        try:
            plan = self._plan(name, profile)
        except StoreError:
            return None
        return Outline(name, profile, plan.kind, plan.data.digest, tuple(variant.name for variant in plan.variants))

    def is_running(self, name: str, profile: str) -> bool:
        """Return True if a living process holds a trial of an experiment. Reads leases alone."""
        try:
            planned = self._plan(name, profile).all_trials
        except StoreError:
            return False
        return any(trial.lease_alive() for trial in self._tree.with_lease(each.id for each in planned))

    def _plan_file(self, name: str, profile: str) -> Path:
        return self._tree.experiment(name, profile) / naming.PLAN

    def _plan(self, name: str, profile: str) -> PlanFile:
        path = self._plan_file(name, profile)
        stamp = stamp_of(path)
        return self._plans.get((name, profile), stamp) or self._plans.put((name, profile), stamp, read_plan(path))

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
            min_effect=plan.min_effect,
            notes=plan.notes,
            design=plan.design,
            extensions=plan.extensions,
            data=DataRow(data.name, data.digest, data.classes, data.train_images, data.val_images, data.truth),
            variants=tuple(self._variant_row(variant, data.train_images) for variant in plan.variants),
            profile_title=plan.profile_title,
            declared=frozenset(implied(plan.declared)),
            needed=tuple(
                self._variant_row(PlannedVariant(each.name, {}, each.settings, False, None, (each.trial,)), each.data.train_images)
                for each in plan.needed
            ),
        )

    def _variant_row(self, variant: PlannedVariant, train_images: int) -> VariantRow:
        epochs, steps = _planned_length(variant.settings, train_images)
        leased = {trial.id for trial in self._tree.with_lease(trial.id for trial in variant.trials)}
        return VariantRow(
            name=variant.name,
            axes=variant.axes,
            settings=variant.settings,
            baseline=variant.baseline,
            reference=variant.reference,
            trials=tuple(
                replace(self._trial_row(trial.id, trial.seed, epochs, steps, trial.id in leased), needs=trial.needs)
                for trial in variant.trials
            ),
        )

    # --- trials ---

    def _trial_row(self, trial_id: str, seed: int, epochs: int, steps: int, leased: bool) -> TrialRow:
        try:
            return self._read_trial(self._tree.trial(trial_id), seed, epochs, steps, leased)
        except (StoreError, OSError) as error:
            return TrialRow(trial_id, seed, TrialState.FAILED, failure=Failure(UNREADABLE, self._reason(error)), epochs=epochs, steps=steps)

    def _read_trial(self, trial: TrialDir, seed: int, epochs: int, steps: int, leased: bool) -> TrialRow:
        """Return the row of a trial; for one that has ended and has no lease, the row read before, while its result is the same."""
        key, stamp = (trial.id, seed, epochs, steps), stamp_of(trial.file(naming.RESULT))
        if not leased and stamp is not None and (held := self._ended.get(key, stamp)) is not None:
            return held
        row = self._row(trial, seed, epochs, steps, leased)
        if not leased and row.state in (TrialState.DONE, TrialState.FAILED):
            self._ended.put(key, stamp, row)
            self._tails.drop(trial.id)
        return row

    def _row(self, trial: TrialDir, seed: int, epochs: int, steps: int, leased: bool) -> TrialRow:
        result = trial.result()
        last, last_val = self._tail(trial)
        if leased and trial.lease_alive():
            return _running_row(trial, seed, epochs, steps, last, last_val)
        if isinstance(result, Done):
            return _done_row(trial.id, seed, epochs, steps, result, last, last_val)
        seconds, timings = _times(result)
        return TrialRow(
            id=trial.id,
            seed=seed,
            state=trial.state() if result is None else TrialState(result.status),
            failure=result.failure if isinstance(result, Failed) else None,
            epoch=last.epoch if last else 0,
            epochs=epochs,
            step=last.step if last else 0,
            steps=steps,
            seconds=seconds,
            latest=numbers_of(last_val.metrics) if last_val else {},
            timings=timings,
            updated=last.time if last else 0.0,
        )

    def _tail(self, trial: TrialDir) -> Tail:
        path = trial.file(naming.METRICS_FILE)
        if (stamp := stamp_of(path)) is None:
            return None, None
        return self._tails.get(trial.id, stamp) or self._tails.put(trial.id, stamp, _last_lines(path))

    def recorded(self, trial_id: str) -> Recorded:
        """Return the records of one trial. Raises StoreError if its manifest is missing or damaged."""
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
                needs=manifest.needs,
                components=files,
                environment=done.environment.entries if done and done.environment else {},
                metrics=(done.metrics or {}) if done else {},
            )
        except (StoreError, OSError) as error:
            raise StoreError(f"the manifest of trial {trial_id} cannot be read: {self._reason(error)}") from None


def _planned_length(settings: Mapping[str, Any], train_images: int) -> tuple[int, int]:
    """Return the epochs and steps of a variant's trials; 0 where the settings have another shape."""
    try:
        return total_epochs(settings), steps_of(settings, train_images)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return 0, 0


def _running_row(
    trial: TrialDir, seed: int, epochs: int, steps: int, last: MetricLine | None, last_val: MetricLine | None
) -> TrialRow:  # fmt: skip
    lease = trial.lease()
    started = lease.since if lease else 0.0
    updated = (last.time if last else 0.0) or started
    return TrialRow(
        id=trial.id,
        seed=seed,
        state=TrialState.RUNNING,
        epoch=last.epoch if last else 0,
        epochs=epochs,
        step=last.step if last else 0,
        steps=steps,
        seconds=max(0.0, updated - started) if started else 0.0,
        latest=numbers_of(last_val.metrics) if last_val else {},
        updated=updated,
    )


def _done_row(
    trial_id: str, seed: int, epochs: int, steps: int, result: Done, last: MetricLine | None, last_val: MetricLine | None
) -> TrialRow:  # fmt: skip
    seconds, timings = _times(result)
    epochs, steps, split = result.epochs or epochs, result.steps or steps, result.accumulation
    return TrialRow(
        id=trial_id,
        seed=seed,
        state=TrialState.DONE,
        metrics=result.metrics or {},
        epoch=epochs,
        epochs=epochs,
        step=steps,
        steps=steps,
        seconds=seconds,
        device=result.device,
        latest=numbers_of(last_val.metrics) if last_val else {},
        timings=timings,
        updated=last.time if last else 0.0,
        peak_memory_mib=result.peak_memory_mib or 0.0,
        parts=split.parts if split else 1,
        parts_since=(split.since_step or 0) if split else 0,
    )


def _times(result: Result | None) -> tuple[float, dict[str, float]]:
    """Return the seconds of a trial in all, and of its parts."""
    timings = dict(result.seconds) if result else {}
    seconds = timings.pop("total", None)
    return sum(timings.values()) if seconds is None else seconds, timings


def _last_lines(path: Path) -> Tail:
    """Return the last metric line and the last one of an evaluation, from the end of the file alone. Raises OSError."""
    last = None
    for line in last_metric_lines(path, _TAIL_BYTES):
        last = last or line
        if line.evaluates:
            return last, line
    return last, None
