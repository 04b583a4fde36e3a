"""From what a user typed to a plan: files, profile, data, published rows. The one place that joins spec, data and plan."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gfl_lab import shipped
from gfl_lab.addresses import absolute, check_text
from gfl_lab.cli.numbers import Whole
from gfl_lab.cli.output import plural
from gfl_lab.errors import InputError, Problem, SpecError
from gfl_lab.records.marks import write_checked_data
from gfl_lab.rundir import RunTree

MAX_TRIALS, MANY = 10_000, 1000
"""Trials that are planned unless --max-trials says more, and from how many on it takes seconds, so that their number is told first."""

MAX_SEED, MAX_SEEDS = 2**31 - 1, 100_000
_SEED = re.compile(r"[0-9]{1,10}")


def experiment_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """``EXPERIMENT``: an experiment file, by its path or, if gfl-lab has it, by its name."""

    def find(_ctx: click.Context, _param: click.Parameter, given: Path) -> Path:
        return shipped.find_experiment(given)

    return click.argument("experiment", type=click.Path(path_type=Path), callback=find)(command)


def profile_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--profile``."""
    return click.option("--profile", metavar="NAME", help="Profile instead of the experiment's own, from experiments/profiles.")(command)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What decides which trials there are."""
    for option in (
        click.option(
            "--max-trials",
            metavar="N",
            type=Whole(1, 1_000_000),
            default=MAX_TRIALS,
            show_default=True,
            help="Refuse an experiment with more trials than this.",
        ),
        click.option(
            "--init-weights",
            "--weights",  # its name before version 0.2
            "weights",
            cls=RenamedOption,
            metavar="[BACKBONE=]FILE",
            multiple=True,
            callback=parse_weights,
            help="Backbone weights to start from: a torch file, `pretrained`, or `random`; r101vd=FILE is for that backbone alone.",
        ),
        click.option("--seeds", metavar="LIST", callback=parse_seeds, help="Seeds instead of the experiment's own: 0,1,2 or 0..4."),
        click.option("--data", metavar="PATH", type=click.Path(path_type=Path), help="Folder with a data set in COCO format."),
    ):
        command = option(command)
    return profile_option(command)


class RenamedOption(click.Option):
    """An option that still takes its former names; help and errors show the first name alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option's line of help under its first name."""
        names, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names

    def get_error_hint(self, ctx: click.Context) -> str:
        """Return the first name, as errors show it."""
        return repr(self.opts[0])


def parse_weights(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """{backbone, or "" for all: weights}, paths absolute; ``r50=FILE`` is for one backbone."""
    from gfl_lab.spec.backbones import BACKBONES

    found: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        backbone, file = (name, file) if equals and name in BACKBONES else ("", text)
        if backbone in found:
            raise click.BadParameter(f"given twice{f' for {backbone}' if backbone else ''}")
        found[backbone] = _weights_path(file, Path.cwd())
    return found


def parse_seeds(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int] | None:
    """``0,1,2`` or ``0..4`` (both ends included), or both mixed."""
    if text is None:
        return None
    seeds: dict[int, None] = {}  # each once, in order
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not _SEED.fullmatch(first) or (dots and not _SEED.fullmatch(last)):
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise click.BadParameter(f"{shown!r}: write 0,1,2 or 0..4; seeds go from 0 to {MAX_SEED}")
        span = range(int(first), int(last if dots else first) + 1)
        if not span or span[-1] > MAX_SEED:
            raise click.BadParameter(f"{part!r}: seeds go from 0 to {MAX_SEED}, the smaller first")
        if len(span) + len(seeds) > MAX_SEEDS:
            raise click.BadParameter(f"{part!r}: at most {MAX_SEEDS:,} seeds are taken")
        seeds.update(dict.fromkeys(span))
    return list(seeds)


@dataclass(frozen=True)
class Files:
    """The files behind a plan, read and checked; nothing has been written, and none of ``code`` has been run."""

    experiment: Any
    source: Any
    profile: Any
    published: Any
    code: tuple[Any, ...] = ()


def read_files(path: Path, profile_name: str | None) -> Files:
    """Read the experiment, its profile and its published table.

    Raises:
        SpecError: every problem of the first file that has one.
    """
    from gfl_lab.spec.code import read_code
    from gfl_lab.spec.files import load_experiment, load_published

    experiment, source = load_experiment(path)
    beside = path.resolve().parent
    code, problems = read_code(experiment.custom_imports, source)
    profile = published = None
    try:
        profile = named_profile(profile_name or experiment.profile, beside)
    except SpecError as error:
        place = "" if profile_name else source.place("profile")
        problems += [problem if problem.place else Problem(problem.message, place, problem.hint) for problem in error.problems]
    if experiment.published_table:
        try:
            published = load_published(experiment.published_table, shipped.published_folders(beside), source)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return Files(experiment, source, profile, published, code)


def named_profile(name: str, beside: Path | None = None) -> Any:
    """Read a profile by its name, from the first of ``shipped.profile_folders`` that has it, or by its path (``lab/profiles/mine.yaml``).

    Raises:
        SpecError: there is none, or every problem in it.
    """
    from gfl_lab.spec.files import find_profile, load_profile

    if name.endswith(".yaml"):
        return load_profile(Path(name).expanduser())
    return load_profile(find_profile(name, shipped.profile_folders(beside)))


def profile_argument(name: str, beside: Path) -> str:
    """Return a profile of an experiment in folder ``beside`` as `gfl-lab data check --profile` takes it: its name, else its path.

    Raises:
        SpecError: there is none.
    """
    from gfl_lab.spec.files import find_profile

    if name.endswith(".yaml"):
        return name
    file = find_profile(name, shipped.profile_folders(beside))
    first = next((folder / file.name for folder in shipped.profile_folders() if (folder / file.name).is_file()), None)
    return name if first == file else os.path.relpath(file)


@dataclass(frozen=True)
class Prepared:
    """A plan with what its trials read, and the code that they use."""

    plan: Any
    paths: dict[str, str]
    code: tuple[Any, ...] = ()
    expand: Callable[[Any], Any] | None = None  # the plan of another experiment over the same data, weights and code


def prepare_data(files: Files, tree: RunTree, data: Path | None, say: Callable[[str], None]) -> tuple[Any, dict[str, str]]:
    """Make or check the data set; its content (DataSpec) and the absolute paths that trials read.

    A data set of the user's is decoded completely once; its digest is remembered in the run tree, so that the next run
    only looks whether files have changed.

    Raises:
        DataError: every problem found. InputError: there is no data.
    """
    from gfl_lab.data import ambiguous_shapes, coco

    profile = files.profile
    if data is None:
        if profile.data == "required":
            raise InputError(
                Problem(
                    f"profile {profile.name} has no data set of its own", hint="Give --data PATH, a folder in COCO format (docs/data.md)."
                )
            )
        spec = ambiguous_shapes.AmbiguousShapesSpec(**profile.data.model_dump())
        if ambiguous_shapes.describe(tree.data(spec.folder)) is None:
            say(f"generating the data set ambiguous_shapes ({spec.train_images} + {spec.val_images} images)")
        folder = ambiguous_shapes.generate(spec, tree.root / "data")
        content = coco.dataspec(folder)
    else:
        folder = absolute(data, "--data")
        report = coco.require_valid(folder, decode=False)
        cache = tree.root / "data" / ".checked"
        content = coco.dataspec(folder, report, cache)
        passed = cache / f"{content.digest}.json"
        if not passed.exists():
            say(f"checking {sum(split.images for split in report.splits.values())} images of {report.name}")
            report = coco.require_valid(folder)
            if report.warning_kinds:
                count = sum(map(len, report.warning_kinds))
                kinds = len({finding.kind for finding in report.warning_kinds})
                say(
                    f"warning: {plural(count, 'warning')} of {plural(kinds, 'kind')} about the data:  gfl-lab data check {shlex.quote(str(folder))}"
                )
            write_checked_data(passed, report.name, content.digest)
    found = coco.find_dataset(folder)
    paths = {
        "train_annotations": str(found.train_annotations), "val_annotations": str(found.val_annotations),
        "train_images": str(found.train_images), "val_images": str(found.val_images),
    }  # fmt: skip
    return content, paths


def _weights_path(weights: str, beside: Path) -> str:
    """Return the setting ``init_weights`` with its path made absolute."""
    if weights in ("random", "pretrained"):
        return weights
    try:
        path = os.path.abspath(beside / Path(weights).expanduser())
    except RuntimeError:  # no such user
        path = os.path.abspath(beside / weights)
    check_text(path, "init_weights")
    return path


def with_weights(settings: dict[str, Any], beside: Path) -> dict[str, Any]:
    """``settings`` with the path of their weights made absolute; it is relative to the folder ``beside``."""
    return settings | {"init_weights": _weights_path(settings["init_weights"], beside)} if "init_weights" in settings else settings


def _with_absolute_weights(experiment: Any, beside: Path) -> Any:
    own = {
        "overrides": with_weights(experiment.overrides, beside),
        "variants": {name: with_weights(values, beside) for name, values in experiment.variants.items()},
    }
    if "init_weights" in experiment.axes:
        own["axes"] = experiment.axes | {"init_weights": [_weights_path(value, beside) for value in experiment.axes["init_weights"]]}
    return experiment.model_copy(update=own)


def prepare(
    files: Files,
    tree: RunTree,
    *,
    data: Path | None,
    seeds: list[int] | None,
    weights: dict[str, str],
    say: Callable[[str], None],
    max_trials: int = MAX_TRIALS,
) -> Prepared:
    """The plan. Raises SpecError, DataError, InputError; then nothing but a data set or its check has been written."""
    from gfl_lab.plan.expand import cells
    from gfl_lab.plan.plan import build_plan, plan_over
    from gfl_lab.spec.code import class_names
    from gfl_lab.spec.settings import DataSpec

    experiment = files.experiment
    beside = files.source.path.resolve().parent  # a path in the file is relative to it, one on the command line to the current folder
    if experiment.kind == "search":  # what can be checked before anything is drawn
        from gfl_lab.plan.search import corners

        experiment = experiment.model_copy(update={"variants": corners(experiment, files.profile, files.source)})

    registered: frozenset[str] = frozenset()

    def components(settings: Any) -> tuple[Any, ...]:
        # All files, not only the one that has the class: it may use what another one registers.
        return tuple(file.component for file in files.code) if registered & class_names(settings) else ()

    asked = experiment.seeds if seeds is None else seeds

    def expand(experiment: Any, content: Any) -> Any:
        return build_plan(
            _with_absolute_weights(experiment, beside),
            files.profile,
            content,
            source=files.source.path.name,
            seeds=asked,
            published=files.published,
            weights_digest=digest_weights,
            components=components,
            weights_of=lambda settings: weights.get(settings.backbone) or weights.get("") or settings.init_weights,
            max_trials=max_trials,
        )

    count = len(cells(experiment, asked, source=files.source.path.name, max_trials=max_trials)) * len(asked)
    if count > MANY:
        say(f"planning {count:,} trials")
    # impossible settings and components, before any data is looked at
    draft = expand(experiment, DataSpec(name="", digest="", classes=(), train_images=0, val_images=0))
    registered = _check_components(files, [variant.settings for variant in draft.variants])
    _check_weights([variant.settings for variant in draft.variants], say)
    content, paths = prepare_data(files, tree, data, say)
    plan = plan_over(draft, content, asked, published=files.published, weights_digest=digest_weights, components=components)
    for note in plan.notes:
        say(f"note: {note}")
    return Prepared(plan, paths, files.code, lambda other: expand(other, content))


def _check_components(files: Files, variants: list[Any]) -> frozenset[str]:
    """Import the experiment's code and check every component that a variant names; the names that the code registers.

    An experiment without any is left alone: it has no need of torch yet.

    Raises:
        InputError: the code cannot be imported. SpecError: every problem of the components.
    """
    from gfl_lab.spec.choices import BUILT_IN
    from gfl_lab.spec.code import class_names

    ours = [settings for settings in variants if settings.component_args or class_names(settings)]
    if not files.code and not ours:
        return frozenset()
    from gfl_lab.setup.components import load
    from gfl_lab.train.component_check import check

    own = load(files.code)
    found: dict[str, Problem] = {}
    for settings in ours:
        for finding in check(settings, files.code, own):
            place = _place_of(files, finding.key, getattr(settings, finding.key))
            found.setdefault(finding.problem.message, Problem(finding.problem.message, place, finding.problem.hint))
    for kind in sorted({kind for settings in ours for kind in settings.component_args} - {"head"}):
        having = [settings for settings in ours if kind in settings.component_args]
        if all(getattr(settings, kind) in BUILT_IN[kind] for settings in having):
            place = _place_of(files, "component_args", having[0].component_args)
            found[kind] = Problem(f"component_args.{kind} is given, but no variant that has it names a {kind} of yours", place)
    if not found and files.code and not any(own & class_names(settings) for settings in ours):
        names = f"it registers {', '.join(sorted(own))}" if own else "it registers nothing"
        hint = "Make a registered class the value of an axis, of a variant or of `overrides`, or drop `custom_imports`."
        found[""] = Problem(f"no variant uses the code: {names}", files.source.place("custom_imports"), hint)
    if found:
        raise SpecError(list(found.values()))
    return own


def _check_weights(variants: list[Any], say: Callable[[str], None]) -> None:
    """Refuse files of initial weights that fit no backbone that asks for them; warn of weights that nobody publishes."""
    from gfl_lab.spec.backbones import with_weights

    files: dict[str, list[Any]] = {}
    for settings in variants:
        if settings.init_weights not in ("random", "pretrained"):
            files.setdefault(settings.init_weights, []).append(settings)
    for backbone in sorted({s.backbone for s in variants if s.init_weights == "pretrained"} - {*with_weights()}):
        say(
            f"warning: init_weights: pretrained, but none are published for backbone {backbone} that can be downloaded: give --init-weights {backbone}=FILE"
        )
    if files:
        from gfl_lab.checkpoints.pretrained import check_fit

        for file, having in files.items():
            check_fit(file, having)


def _place_of(files: Files, key: str, value: Any) -> str:
    """Where the experiment, or else the profile, gives a setting this value."""
    experiment, source = files.experiment, files.source
    if experiment.search and key in experiment.search.space:
        return source.place("search", "space", key)
    if value in experiment.axes.get(key, ()):
        return source.place("axes", key, experiment.axes[key].index(value))
    for name, settings in experiment.variants.items():
        if settings.get(key) == value:
            return source.place("variants", name, key)
    return source.place("overrides", key) if key in experiment.overrides else f"profile {files.profile.name}: {key}"


@functools.cache
def digest_weights(weights: str) -> str:
    """What stands in a trial's id for its initial weights: empty, `pretrained` (which they are follows from the backbone), or the file's SHA-256.

    Raises:
        InputError: the file cannot be read.
    """
    import hashlib

    if weights == "random":
        return ""
    if weights == "pretrained":
        return weights
    try:
        with open(weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"weights file {weights!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
