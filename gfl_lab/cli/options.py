"""Arguments and options that several commands share. Each group arrives in its command as one object."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gfl_lab import shipped
from gfl_lab.cli.numbers import Number, Whole
from gfl_lab.cli.output import say
from gfl_lab.errors import InputError, SpecError
from gfl_lab.session.executor_names import EXECUTORS
from gfl_lab.spec.limits import LOOKS, MAX_TRIALS, MOST_SEEDS

MAX_SEED, MAX_SEEDS = 2**31 - 1, 100_000
_SEED = re.compile(r"[0-9]{1,10}")

Command = Callable[..., Any]
Callback = Callable[[click.Context, click.Parameter, Any], Any]


def weights_options(command: Command) -> Command:
    """Add ``--detector`` (as ``config``) and ``--profile`` to a command that takes trained weights."""
    known = "Config of a WEIGHTS file of mmdet that is not of the GFL family: mmdet:NAME, or a config file (.py)."
    chosen = "Profile that gives WEIGHTS of the GFL family their image size and test settings.  [default: coco_1x]"
    command = click.option("--profile", metavar="NAME", help=chosen)(command)
    return click.option("--detector", "config", metavar="CONFIG", help=known)(command)


def experiment_argument(command: Command) -> Command:
    """Add ``EXPERIMENT``: an experiment file, by its path, by its name if gfl-lab has it, or by the name of an experiment in the run tree."""

    def find(_ctx: click.Context, _param: click.Parameter, given: Path) -> Path:
        try:
            return shipped.find_experiment(given)
        except InputError:
            from gfl_lab.session.lookup import file_to_run
            from gfl_lab.session.run_tree import default_tree

            return file_to_run(default_tree(), given)

    return click.argument("experiment", type=click.Path(path_type=Path), callback=find)(command)


def stored_argument(command: Command) -> Command:
    """Add ``EXPERIMENT`` to a command that reads results: an experiment file as above, or the name of an experiment in the run tree."""
    return click.argument("experiment", type=click.Path(path_type=Path))(command)


def profile_option(command: Command) -> Command:
    """Add ``--profile``."""
    return click.option("--profile", metavar="NAME", help="Profile instead of the experiment's: a name, or a profile file.")(command)


def budget_option(command: Command) -> Command:
    """Add ``--budget``."""
    return click.option(
        "--budget",
        metavar="AMOUNT",
        help="Spend at most 90min or 12h (wall time), 8cpuh (core-hours) or 40gpuh (GPU-hours). A larger estimate gives exit code 5.",
    )(command)


def plan_options(command: Command) -> Command:
    """Add ``--profile``, and the options that decide which trials there are: the command takes them as ``plan``, a PlanOptions."""

    @functools.wraps(command)
    def with_plan(*args: Any, data: Path | None, seeds: list[int] | None, weights: dict[str, str], max_trials: int, **others: Any) -> Any:
        from gfl_lab.session.planning import PlanOptions

        return command(*args, plan=PlanOptions(data, seeds, weights, max_trials), **others)

    return profile_option(
        _add(
            with_plan,
            click.option(
                "--data", metavar="PATH", type=click.Path(path_type=Path), help="Folder with a data set in COCO format (docs/data.md)."
            ),
            click.option(
                "--seeds",
                metavar="LIST",
                callback=parse_seeds,
                help="Seeds instead of the experiment's: 0,1,2 or 0..4 (both ends included).",
            ),
            renamed_option(
                "--weights",
                "--init-weights",
                "weights",
                metavar="[BACKBONE=]FILE",
                multiple=True,
                callback=parse_weights,
                help="Initial backbone weights: a torch file, `pretrained` (ImageNet, downloaded), or `random`; r101vd=FILE is for one backbone. Repeatable.",
            ),
            click.option(
                "--max-trials",
                metavar="N",
                type=Whole(1, 1_000_000),
                default=MAX_TRIALS,
                show_default=True,
                help="Refuse an experiment with more trials than this.",
            ),
        )
    )


def run_options(command: Command) -> Command:
    """Add the options that decide how trials run: the command takes them as ``options``, a RunOptions."""

    @functools.wraps(command)
    def with_options(
        *args: Any, executor: Any, address: str | None, storage: str | None, cpus: int | None, gpus: float | None, budget: str | None,
        relock: bool, **others: Any,
    ) -> Any:  # fmt: skip
        from gfl_lab.session.session import RunOptions

        storage = _storage_of(storage, cluster=bool(address) and executor == "ray")
        return command(*args, options=RunOptions(executor, address, storage, cpus, gpus, budget, relock), **others)

    return _add(
        with_options,
        click.option(
            "--executor",
            type=click.Choice(EXECUTORS),
            default="ray",
            show_default=True,
            help="Ray Tune, or one trial after the other in this process, for a debugger.",
        ),
        click.option(
            "--address", metavar="ADDRESS", help="Ray cluster, HOST:PORT or auto, instead of this machine. Its token: RAY_AUTH_TOKEN."
        ),
        click.option(
            "--storage",
            metavar="URI",
            envvar="GFL_LAB_STORAGE",
            help="With --address: S3-compatible storage, s3://BUCKET/PREFIX, for nodes that share no file system.",
        ),
        click.option("--cpus", type=Whole(1, 1024), help="CPU cores for each trial, instead of the profile's."),
        click.option("--gpus", type=Number(0, 64), help="GPUs, or part of one, for each trial, instead of the profile's; 0 for none."),
        budget_option,
        click.option("--relock", is_flag=True, help="Replace the table's lock file, even if locked numbers differ from the present ones."),
    )


def resolve_options(command: Command) -> Command:
    """Add ``--until-resolved`` and ``--max-seeds``: the command takes them as ``resolve``, a Resolve."""

    @functools.wraps(command)
    def with_resolve(*args: Any, until_resolved: float | None, max_seeds: int | None, **others: Any) -> Any:
        from gfl_lab.session.looks import Resolve

        return command(*args, resolve=Resolve(until_resolved, max_seeds), **others)

    return _add(
        with_resolve,
        click.option(
            "--until-resolved",
            metavar="AP",
            type=Number(0, 100, min_open=True),
            help="Add seeds only to rows that are not yet better, worse, or equivalent within AP (docs/statistics.md).",
        ),
        click.option(
            "--max-seeds",
            metavar="N",
            type=Whole(LOOKS[0], MOST_SEEDS),
            help=f"With --until-resolved: the most seeds of a variant.  [default: {LOOKS[-1]}]",
        ),
    )


def picture_options(command: Command) -> Command:
    """Add the options that decide how pictures are made: the command takes them as ``pictures``, a PictureOptions."""

    @functools.wraps(command)
    def with_pictures(
        *args: Any, max_boxes: int, numbers: tuple[int, ...], truth: bool, annotations: Path | None, out: Path, force: bool, **others: Any
    ) -> Any:
        from gfl_lab.session.pictures import PictureOptions

        pictures = PictureOptions(out, force, max_boxes, numbers, truth or annotations is not None, annotations)
        return command(*args, pictures=pictures, **others)

    default = Path("predictions")
    return _add(
        with_pictures,
        renamed_option(
            "--most",
            "--max-boxes",
            "max_boxes",
            default=10,
            show_default=True,
            type=Whole(1),
            help="Draw at most this many boxes of an image, the best.",
        ),
        click.option(
            "--box",
            "numbers",
            metavar="N",
            type=Whole(1),
            multiple=True,
            help="Draw and print only box N; 1 has the best score. May be repeated. --max-boxes then has no effect.",
        ),
        click.option("--truth", is_flag=True, help="Draw the annotated boxes too, for images of the trial's data set."),
        click.option(
            "--annotations",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Draw the annotated boxes of this COCO annotation file, which lists the images by name.",
        ),
        click.option("--out", default=default, show_default=True, type=click.Path(path_type=Path), help="Folder for the pictures."),
        click.option("--force", is_flag=True, help="Overwrite existing pictures."),
    )


def _add(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options in the order in which help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def _storage_of(uri: str | None, cluster: bool) -> str | None:
    """Return ``--storage`` for a cluster. A user's environment may always name one; without a cluster it is left out."""
    given = click.get_current_context().get_parameter_source("storage") is click.core.ParameterSource.COMMANDLINE
    if uri and given and not cluster:
        raise click.UsageError("--storage is for a cluster: give --address too, and no --executor inline")
    return uri if cluster else None


def renamed_option(
    former: str, name: str, variable: str, *, callback: Callback | None = None, multiple: bool = False, **attributes: Any
) -> Callable[[Command], Command]:
    """Return a decorator that adds the option ``name`` and, without help, its former name, which still works with a warning."""
    key = f"former_{variable}"

    def take(ctx: click.Context, param: click.Parameter, given: Any) -> Any:
        value = ctx.params.pop(key, None)  # of the former name: it is eager, so it has been read
        if ctx.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE:
            if ctx.get_parameter_source(variable) is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{former} is now {name}: give only {name}", ctx)
            say(f"warning: {former} is now {name}")
            given = value
        return callback(ctx, param, given) if callback else given

    def add(command: Command) -> Command:
        hidden = click.option(former, key, hidden=True, is_eager=True, multiple=multiple, type=attributes.get("type"))
        return click.option(name, variable, callback=take, multiple=multiple, **attributes)(hidden(command))

    return add


min_effect_option = renamed_option(
    "--difference",
    "--min-effect",
    "min_effect",
    metavar="AP",
    type=Number(0, 100, min_open=True),
    help="Smallest difference in AP that matters. Within it variants are equivalent.  [default: the experiment's, or 0.3]",
)
"""``--min-effect``, for commands that give verdicts."""


def _parse_error_iou(ctx: click.Context, param: click.Parameter, given: float) -> float:
    from gfl_lab.metrics.error_types import threshold_level

    try:
        threshold_level(given)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from None
    return given


error_iou_option = click.option(
    "--error-iou",
    metavar="IOU",
    type=Number(0, 1),
    default=0.5,
    show_default=True,
    callback=_parse_error_iou,
    help="IoU from which a detection is right in the types of error: 0.5, 0.55, ..., 0.95. At 0.75 badly placed boxes show.",
)
"""``--error-iou``, TIDE's foreground threshold."""


def parse_weights(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Return {backbone, or "" for all: weights}, paths absolute; ``r50=FILE`` is for one backbone."""
    from gfl_lab.session.weights import absolute_weights
    from gfl_lab.spec.backbones import BACKBONES

    found: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        backbone, file = (name, file) if equals and name in BACKBONES else ("", text)
        if backbone in found:
            raise click.BadParameter(f"given twice{f' for {backbone}' if backbone else ''}")
        found[backbone] = absolute_weights(file, Path.cwd())
    return found


def parse_seeds(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int] | None:
    """Read ``0,1,2`` or ``0..4`` (both ends included), or both mixed."""
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


def parse_settings(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, object]:
    """Return {setting: value} of ``KEY=VALUE`` each, the value in YAML."""
    from gfl_lab.spec.settings import Settings
    from gfl_lab.spec.source import Source, read_value
    from gfl_lab.spec.values import one_value_problems

    changes: dict[str, object] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise click.BadParameter(f"{text!r}: write KEY=VALUE, as in decode=local_peak")
        if key in changes:
            raise click.BadParameter(f"{key} is given twice")
        try:
            changes[key] = read_value(value)
        except SpecError as error:
            problem = error.problems[0]
            why = problem.message.replace("not valid YAML:", f"{value} is no YAML value:")
            raise click.BadParameter(f"{text!r}: {why}{f'. {problem.hint}' if problem.hint else ''}") from None
        if key in Settings.model_fields and (problems := one_value_problems(key, changes[key], Source(Path(), {}), ())):
            raise click.BadParameter("; ".join(problem.message for problem in problems))
    return changes
