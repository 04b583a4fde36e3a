"""Make the plan of an experiment over a data set. Only the data set, or its check, is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gfl_lab import naming
from gfl_lab.addresses import absolute
from gfl_lab.data import ambiguous_shapes
from gfl_lab.errors import InputError, Problem, SpecError
from gfl_lab.orchestrate.driver import check_design
from gfl_lab.plan.expand import combinations
from gfl_lab.plan.plan import Draft, Plan, PlanInputs, draft_plan
from gfl_lab.plan.search import corners
from gfl_lab.records.manifest import DataPaths
from gfl_lab.records.plan import Design
from gfl_lab.rundir import RunTree
from gfl_lab.session.components import check_components, named_classes
from gfl_lab.session.dataset import prepare_data
from gfl_lab.session.inputs import Files
from gfl_lab.session.mmdet_variants import announce_detectors, check_detectors, completed, resolved_once
from gfl_lab.session.weights import check_weights, digest_weights, experiment_with_absolute_paths
from gfl_lab.spec.choices import ROLES
from gfl_lab.spec.code import CodeFile
from gfl_lab.spec.file_models import ExperimentFile
from gfl_lab.spec.limits import MAX_TRIALS
from gfl_lab.spec.needs import all_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import ComponentFile

MAX_SEED = 2**31 - 1
MANY = 1000
"""From this many trials on planning takes seconds, and their number is shown first."""


@dataclass(frozen=True)
class PlanOptions:
    """Choices of a person that decide which trials there are.

    Attributes:
        data: folder of a data set in COCO format, instead of the profile's generated one.
        seeds: instead of the experiment's own.
        design: looks at the table that are fixed beforehand. counts: {variant: its number of seeds} so far, with a design.
        init_weights: {backbone, or "" for all others: initial weights}.
        max_trials: an experiment with more trials is refused.
    """

    data: Path | None = None
    seeds: Sequence[int] | None = None
    init_weights: Mapping[str, str] = field(default_factory=dict)
    max_trials: int = MAX_TRIALS
    design: Design | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse seeds that no trial can have, and repeated ones.

        Raises:
            InputError: there are none, one is out of range, or one is given twice.
        """
        if self.seeds is None:
            return
        wrong = [seed for seed in self.seeds if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED]
        if wrong or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            given = ", ".join(map(str, self.seeds)) or "none"
            raise InputError(Problem(f"the seeds are {given}", hint=f"Give at least one, each once, from 0 to {MAX_SEED}."))


@dataclass(frozen=True)
class Prepared:
    """A plan with the paths that its trials read, and the code that they use.

    Attributes:
        other_paths: of the data sets that needed trials have of their own, by their digests.
        expand: makes the plan of another experiment over the same data, weights and code.
    """

    plan: Plan
    paths: DataPaths
    other_paths: Mapping[str, DataPaths]
    code: tuple[CodeFile, ...]
    expand: Callable[[ExperimentFile], Plan]


def prepare(files: Files, tree: RunTree, options: PlanOptions, say: Callable[[str], None]) -> Prepared:
    """Make the plan of an ablation; of a search, the plan of the corners of its space.

    Args:
        say: called with each line for the person who waits.

    Raises:
        SpecError, DataError, InputError: every problem of the first step that has one; last, looks other than those of the first run.
    """
    experiment = files.experiment
    if experiment.kind == "search":
        _check_search(files, options)
        _refuse_needs(files)
        experiment = experiment.model_copy(update={"variants": corners(experiment, files.profile, files.source)})
    first = options.seeds if options.design is None else range(options.design.looks[0])
    seeds = experiment.first_seeds if first is None else first
    registered: frozenset[str] = frozenset()

    def components(settings: Settings) -> tuple[ComponentFile, ...]:
        # All files, not only the one that has the class: it may use what another one registers.
        return tuple(file.component for file in files.code) if registered and registered & named_classes(settings) else ()

    def weights_of(settings: Settings) -> str:
        return options.init_weights.get(settings.backbone) or options.init_weights.get("") or settings.init_weights

    inputs = PlanInputs(
        source=files.source.path.name,
        seeds=first,
        counts=options.counts,
        design=options.design,
        published=files.published,
        weights_digest=digest_weights,
        components=components,
        weights_of=weights_of,
        complete=completed(files),
        config_of=resolved_once(),
        max_trials=options.max_trials,
    )

    def draft(experiment: ExperimentFile) -> Draft:
        return draft_plan(experiment_with_absolute_paths(experiment, files.folder), files.profile, inputs)

    count = len(combinations(experiment, seeds, source=inputs.source, max_trials=options.max_trials)) * len(seeds)
    if count > MANY:
        say(f"planning {count:,} trials")
    announce_detectors(files, say)
    drafted = draft(experiment)  # impossible settings are refused before any data are looked at
    variants = [settings for variant in drafted.variants for settings in all_settings(variant.resolved)]
    registered = check_components(files, variants, say)
    check_detectors(files, variants, say)
    check_weights(variants, say)
    content, paths = prepare_data(files.profile, tree, options.data, say)
    others = {folder: prepare_data(files.profile, tree, Path(folder), say) for folder in sorted(drafted.data_folders)}
    contents = {folder: found for folder, (found, _) in others.items()}
    plan = drafted.over(content, contents)
    for note in plan.notes:
        say(f"note: {note}")
    if plan.design is not None:
        check_design(plan, tree.experiment(files.experiment.name, files.profile.name))
    other_paths = {found.digest: own for found, own in others.values() if found.digest != content.digest}
    return Prepared(plan, paths, other_paths, files.code, lambda other: draft(other).over(content, contents))


def _check_search(files: Files, options: PlanOptions) -> None:
    """Refuse options that no search of these files can use.

    Raises:
        InputError: several seeds, or a metric that these data cannot have.
    """
    search = files.experiment.search
    if options.seeds is not None and len(options.seeds) != 1:
        hint = "`gfl-lab confirm` compares the best with the defaults over several seeds."
        raise InputError(Problem(f"a search has one seed, and --seeds gives {len(options.seeds)}", hint=hint))
    if search and search.metric in naming.TRUTH_METRICS and options.data is not None:
        if ambiguous_shapes.describe(absolute(options.data, "--data")) is None:
            place = files.source.place("search", "metric")
            raise InputError(Problem(f"{search.metric} needs data whose true edges are known, and {options.data} has none", place))


def _refuse_needs(files: Files) -> None:
    """Refuse a search whose trials need other trials. Raises SpecError."""
    for role in ROLES:
        given = files.experiment.overrides.get(role) or files.profile.settings.get(role)
        if given:
            hint = "Search without it, or compare a few variants in an ablation."
            place = files.source.place("overrides", role) if role in files.experiment.overrides else f"profile {files.profile.name}"
            raise SpecError(Problem(f"{role} describes another trial, and the trials of a search need no others", place, hint))
