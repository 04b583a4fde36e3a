"""An experiment of detection files that other projects made: read, checked, evaluated and written as finished trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gfl_lab import naming, shipped
from gfl_lab.addresses import absolute, readable
from gfl_lab.data.detections.arms import Seeds, find_files, seeds_of
from gfl_lab.data.detections.cautions import cautions
from gfl_lab.data.detections.check import Detections, Options, read_detections
from gfl_lab.data.detections.truth import Truth, read_truth
from gfl_lab.data.findings import Findings
from gfl_lab.errors import DataError, InputError, Problem, StoreError
from gfl_lab.integrity.damage import file_entries
from gfl_lab.integrity.trial_check import damage
from gfl_lab.metrics.coco_evaluation import evaluate
from gfl_lab.orchestrate.extensions import extensions
from gfl_lab.records.evaluation import write_evaluation
from gfl_lab.records.manifest import imported_manifest, write_manifest
from gfl_lab.records.plan import PlanFile, PlannedTrial, PlannedVariant, read_plan, write_plan
from gfl_lab.records.result import Done, finished_now, now, write_result
from gfl_lab.report.exports import write_table
from gfl_lab.report.table import Table, build_table
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.lock_file import LockFile
from gfl_lab.spec.choices import IMPORTED
from gfl_lab.spec.imported import ImportedSpec
from gfl_lab.spec.trial import DataSpec
from gfl_lab.wording import first_of, joined, plural

METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
Say = Callable[[str], None]


@dataclass(frozen=True)
class ImportOptions:
    """Choices of an import.

    Attributes:
        arms: (name, paths) as given, see ``find_files``.
        annotations: file that the detections are evaluated against.
        baseline: the arm that others are compared with; None is the first one.
        min_effect: AP points, the smallest difference that matters; None is the default. question: that the experiment answers.
        readings: what class ids and boxes mean, where it has been said.
    """

    arms: Sequence[tuple[str, str]]
    annotations: Path
    baseline: str | None = None
    min_effect: float | None = None
    question: str = ""
    readings: Options = field(default_factory=Options)


@dataclass(frozen=True)
class _Arm:
    """An arm with its files, the seed of each and the trial that each becomes."""

    name: str
    files: tuple[Detections, ...]
    seeds: tuple[int, ...]
    specs: tuple[ImportedSpec, ...]


def import_results(tree: RunTree, name: str, options: ImportOptions, say: Say) -> Table:
    """Make an experiment of detection files, and return its table. Repeated with more files it grows.

    Args:
        name: of the experiment. say: receives what happens.

    Raises:
        InputError: every problem of the arguments, or of all files; the experiment exists with other content. Nothing has been written.
    """
    _check_name(tree, name)
    annotations = absolute(options.annotations, "--annotations")
    truth, found, seeds = _read(annotations, options, say)
    data = truth.data(annotations.name.partition(".")[0] or "annotations")
    arms = [
        _Arm(arm, tuple(files), seeds.of[arm], tuple(ImportedSpec(data=data, detections=each.digest, file=each.file) for each in files))
        for arm, files in found.items()
    ]
    _check_twins(arms)
    notes = _notes(arms, seeds, truth)
    former = _former(tree, name)
    plan = _plan(name, arms, data, options, notes, former)
    folder = tree.experiment(name, IMPORTED)
    if former is not None:
        _check_kept(former, plan, folder)
        plan = replace(plan, extensions=extensions(plan, former, tree, now()))
    made = _write_trials(tree, arms, truth, annotations, say)
    changed = former is None or plan != former
    if changed:
        write_plan(folder / naming.PLAN, plan)
    store = Store(tree)
    row = store.experiment(name, IMPORTED)
    table = build_table(row, store.resampled_or_none)
    if not made and not changed:
        say(f"{name} holds these files already: nothing has changed")
    write_table(table, folder)
    new_baseline = former is not None and _baseline(former) != _baseline(plan)
    LockFile(folder, row, store, say, experiment=name).settle((), trained=True, relock=new_baseline)
    say(f"table written to {folder} (json, md, csv, tex, html)")
    say(f"look closer:  gfl-lab table {name}   gfl-lab compare {name} {arms[-1].name!r}   gfl-lab dashboard")
    return table


# --- reading --------------------------------------------------------------------------------------


def _check_name(tree: RunTree, name: str) -> None:
    """Refuse a name that another experiment has. Raises InputError."""
    if not naming.is_valid_name(name):
        hint = "Use letters, digits, '_', '-' and '.', beginning with a letter or digit."
        raise InputError(Problem(f"{name!r} cannot name an experiment", hint=hint))
    others = [profile for experiment, profile in tree.experiments() if experiment == name and profile != IMPORTED]
    if others:
        raise InputError(Problem(f"{name} is an experiment that was trained here, on {joined(others)}", hint="Give another name."))
    if (file := shipped.experiment_file(name)) is not None:
        raise InputError(Problem(f"there is an experiment file of the name {name}: {file}", hint="Give another name."))


def _read(annotations: Path, options: ImportOptions, say: Say) -> tuple[Truth, dict[str, list[Detections]], Seeds]:
    """Read annotations and all files. Raises DataError with every problem of all of them."""
    findings = Findings()
    files = find_files(options.arms, findings)
    if options.baseline is not None and options.baseline not in files:
        known = f"Arms: {', '.join(files)}." if files else ""
        findings.add("baselines that are no arm", f"there is no arm {options.baseline!r}", "--baseline", "", known)
    for which, given in (("--class-ids", options.readings.class_ids), ("--boxes", options.readings.boxes)):
        for arm in given.keys() - files.keys() - {""}:
            findings.add("readings of unknown arms", f"there is no arm {arm!r}", which, "", f"Arms: {', '.join(files)}.")
    truth = read_truth(annotations, readable(str(options.annotations)), findings)
    if truth is None:
        raise DataError(findings.problems())
    names = _short_names([path for paths in files.values() for path in paths])
    found: dict[str, list[Detections]] = {arm: [] for arm in files}
    for arm, paths in files.items():
        for path in paths:
            say(f"reading {arm}: {readable(str(path))}")
            detections = read_detections(arm, path, truth, options.readings, findings)
            if detections is not None:
                found[arm].append(replace(detections, file=names[path]))
    if findings:
        raise DataError(findings.problems())
    return truth, found, seeds_of(files)


def _short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest ends of paths that differ from each other: ``s0/bbox.json`` and ``s1/bbox.json``."""
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = {path: "/".join(path.parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(paths):
            break
    return {path: readable(name) for path, name in names.items()} if paths else {}


def _check_twins(arms: Sequence[_Arm]) -> None:
    """Refuse two files with the same detections: one of them was given twice. Raises InputError with all of them."""
    first: dict[str, str] = {}
    problems = []
    for arm in arms:
        for each, spec in zip(arm.files, arm.specs, strict=True):
            here = f"{each.file} ({arm.name})"
            if spec.id in first:
                hint = "Give each file once: a copy is no other seed and no other detector."
                problems.append(Problem(f"{first[spec.id]} and {here} hold the same detections", hint=hint))
            first.setdefault(spec.id, here)
    if problems:
        raise InputError(problems)


def _notes(arms: Sequence[_Arm], seeds: Seeds, truth: Truth) -> tuple[str, ...]:
    files = [each for arm in arms for each in arm.files]
    notes = [
        f"Imported: AP is computed from {plural(len(files), 'detection file')} of other projects. gfl-lab has trained none of the detectors."
    ]
    notes += [f"Warning: {each}" for each in cautions(files, truth)]
    by_note: dict[str, list[str]] = {}
    for each in files:
        for note in each.notes:
            by_note.setdefault(note, []).append(each.file)
    notes += [f"{first_of(names, 3)}: {note}" for note, names in by_note.items()]
    single = [arm.name for arm in arms if len(arm.files) == 1]
    if single:
        notes.append(
            f"One file: {joined(single)} {'has' if len(single) == 1 else 'have'} one seed. The ± beside such a difference is what the "
            "choice of images makes uncertain; how much another training would differ is not known."
        )
    if len(single) < len(arms):
        notes.append(seeds.about)
    return tuple(notes)


# --- the plan -------------------------------------------------------------------------------------


def _former(tree: RunTree, name: str) -> PlanFile | None:
    path = tree.experiment(name, IMPORTED) / naming.PLAN
    return read_plan(path) if path.exists() else None


def _plan(
    name: str, arms: Sequence[_Arm], data: DataSpec, options: ImportOptions, notes: tuple[str, ...], former: PlanFile | None
) -> PlanFile:  # fmt: skip
    """Return the plan. Question, baseline and smallest effect that are not given again stay as they were."""
    before = _baseline(former) if former else None
    baseline = options.baseline or (before if any(arm.name == before for arm in arms) else arms[0].name)
    return PlanFile(
        created=former.created if former else now(),
        experiment=name,
        question=options.question or (former.question if former else ""),
        kind=IMPORTED,
        source="",
        axes={naming.NAMED_AXIS: tuple(arm.name for arm in arms)},
        declared=(naming.NAMED_AXIS,),
        metrics=METRICS,
        profile=IMPORTED,
        profile_title="imported detections",
        data=former.data if former and former.data.digest == data.digest else data,
        variants=tuple(
            PlannedVariant(
                arm.name, {naming.NAMED_AXIS: arm.name}, {}, arm.name == baseline, None,
                tuple(PlannedTrial(spec.id, seed) for spec, seed in zip(arm.specs, arm.seeds, strict=True)),
            )
            for arm in arms
        ),
        min_effect=options.min_effect if options.min_effect is not None else (former.min_effect if former else None),
        notes=notes,
    )  # fmt: skip


def _baseline(plan: PlanFile) -> str | None:
    return next((variant.name for variant in plan.variants if variant.baseline), None)


def _check_kept(former: PlanFile, plan: PlanFile, folder: Path) -> None:
    """Refuse a plan that lacks a file of the former one: nothing that was imported is dropped silently. Raises InputError."""
    hint = f"Repeat the command with all files to add some. For other files give another name, or move {folder} away first."
    if former.data.digest != plan.data.digest:
        raise InputError(Problem(f"{plan.experiment} exists, and its annotations are others ({former.data.name})", hint=hint))
    now_has = {variant.name: {trial.id for trial in variant.trials} for variant in plan.variants}
    lost = [
        f"{variant.name}, seed {trial.seed} (trial {trial.id})"
        for variant in former.variants
        for trial in variant.trials
        if trial.id not in now_has.get(variant.name, set())
    ]
    if lost:
        raise InputError(
            Problem(
                f"{plan.experiment} exists with {plural(len(lost), 'file')} that are not given, or are others now: {'; '.join(lost)}",
                hint=hint,
            )
        )


# --- the trials -----------------------------------------------------------------------------------


def _write_trials(tree: RunTree, arms: Sequence[_Arm], truth: Truth, annotations: Path, say: Say) -> int:
    """Write the trials that are not there or are damaged; return their number."""
    made = 0
    for arm in arms:
        for each, seed, spec in zip(arm.files, arm.seeds, arm.specs, strict=True):
            if _is_whole(tree, spec.id):
                continue
            ap = _write_trial(tree, each, spec, seed, truth, annotations)
            say(f"{arm.name}, seed {seed}: AP {ap:.1f}, {len(each.score):,} detections ({each.file}, trial {spec.id})")
            made += 1
    return made


def _is_whole(tree: RunTree, trial_id: str) -> bool:
    trial = tree.trial(trial_id)
    try:
        return trial.state() is TrialState.DONE and not damage(trial)
    except StoreError:
        return False


def _write_trial(tree: RunTree, each: Detections, spec: ImportedSpec, seed: int, truth: Truth, annotations: Path) -> float:
    """Evaluate the detections of a file and write them as a finished trial; result.json comes last. Return AP."""
    begun = time.perf_counter()
    trial = tree.trial(spec.id)
    trial.path.mkdir(parents=True, exist_ok=True)
    records = each.records(truth)
    found = evaluate(records)
    metrics: Mapping[str, float] = {key: round(value, 6) for key, value in found.metrics.items()}
    write_manifest(trial.file(naming.MANIFEST), imported_manifest(trial.file(naming.MANIFEST), spec, seed, str(annotations)))
    write_evaluation(trial.file(naming.EVAL_RECORDS), records, found.resampled, metrics)
    trial.log(f"imported from {each.path.resolve()}: {len(each.score)} detections, AP {metrics.get('AP', 0.0):.1f}")
    result = Done(
        trial=spec.id,
        metrics=metrics,
        per_class={key: round(value, 4) for key, value in found.per_class.items()},
        counts={"detections": len(each.score), "boxes": len(truth.label)},
        files=file_entries(trial),
    )
    write_result(trial.file(naming.RESULT), finished_now(result, time.perf_counter() - begun))
    return metrics.get("AP", 0.0)
