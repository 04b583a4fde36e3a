"""Experiment, profile and published table: the keys of their files, with types and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gfl_lab.spec.limits import LOOKS, MOST_SEEDS
from gfl_lab.spec.search import SearchSpec

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


MAX_NAME_CHARACTERS = 100


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class DeskData(BaseModel):
    """The generated data set of a profile: how many images, how large, from which seed."""

    model_config = _STRICT

    train_images: int = Field(800, ge=8, le=100_000, description="training images")
    val_images: int = Field(200, ge=8, le=100_000, description="validation images")
    size: int = Field(128, ge=128, le=1024, description="side of the square images, px")
    seed: Seed = Field(0, description="seed of the generator; trials have seeds of their own")


class Resources(BaseModel):
    """Resources of one trial. They do not change a trial's numbers, so they are not in its id."""

    model_config = _STRICT

    cpus: int = Field(
        1, ge=1, le=1024, description="CPU cores and threads of a trial; fewer if the machine has fewer, or fewer for each GPU"
    )
    gpus: float = Field(0, ge=0, le=64, description="GPUs, or part of one, if the machine has any; with 2 or more, one process on each")
    gpu_packing: bool = Field(
        False, description="as many trials on a GPU as fit by the peak memory that `plan --measure` has measured; until then `gpus` each"
    )
    gpu_required: bool = Field(False, description="refuse to run on a CPU (exit code 6)")
    loader_workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="processes that load images; 0: the trial's own process. Default: cpus - 1 on a GPU, 0 on a CPU and inline. At most as many "
        "as half of the free /dev/shm holds at two batches each. Samples do not depend on it",
    )


class Profile(BaseModel):
    """A profile: data, settings that suit them, resources."""

    model_config = _STRICT

    name: str = Field(description="name of the file without `.yaml`")
    title: str = Field(description="one line about the profile")
    data: DeskData | Literal["required"] = Field(
        description="a generated data set, or `required`: `--data PATH` must name a folder in COCO format. `--data` also replaces a generated one"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="any of the settings, with their values")
    resources: Resources = Field(
        default_factory=lambda: Resources.model_validate({}), description="CPU cores and GPUs of one trial; not part of its id"
    )
    cpu_seconds_per_image: float = Field(
        0,
        ge=0,
        description="seconds to train and evaluate one image on one core, for a first estimate; 0: unknown. Finished trials and warm-ups override it",
    )
    reproduces: str = Field("", description="id of the published training settings that this profile repeats, when the data are the same")


class TableSpec(BaseModel):
    """Contents of the table."""

    model_config = _STRICT

    rows: list[str] = Field(default_factory=list, description="axes in the order of the variant's name; default: all, as declared")
    metrics: list[str] = Field(
        default_factory=lambda: ["AP", "AP50", "AP75", "fps"],
        min_length=1,
        description="columns; default: AP, AP50, AP75, fps. Metrics that are not listed are still recorded",
    )


class UntilResolved(BaseModel):
    """Seeds only where they are needed: the numbers of seeds at which the table is looked at, fixed beforehand."""

    model_config = _STRICT

    until_resolved: float = Field(gt=0, le=100, description="AP; a row stops when it is better, worse, or equivalent within this")
    looks: list[Annotated[int, Field(ge=LOOKS[0], le=MOST_SEEDS)]] = Field(
        default_factory=lambda: [*LOOKS], min_length=1, description="numbers of seeds, rising"
    )


class ExperimentFile(BaseModel):
    """An experiment file as written; see docs/experiment-files.md."""

    model_config = _STRICT

    name: str = Field(
        description="names the folder `experiments/<name>` of the run tree: letters, digits, `_`, `.` and `-`, no `..`, first a letter or digit, "
        "at most 100 characters"
    )
    question: str = Field("", description="one line, shown in tables and in MLflow")
    kind: Literal["ablation", "search"] = Field(
        "ablation",
        description="`ablation`: the same budget for every variant; `search`: settings are suggested, and poor trials stop early",
    )
    profile: str = Field(description="name of a profile; `--profile NAME` overrides it")
    custom_imports: list[str] = Field(default_factory=list, description="Python files that register components, relative to this file")
    axes: dict[str, list[Any]] = Field(
        default_factory=dict, description="settings to vary, each with its values; every combination is a variant"
    )
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict, description="named combinations of settings, instead of `axes`")
    overrides: dict[str, Any] = Field(default_factory=dict, description="settings of all variants; they override the profile's")
    when: dict[str, dict[str, Any]] = Field(default_factory=dict, description="conditions under which an axis applies")
    baseline: dict[str, Any] | str | None = Field(
        None, description="variant that the others are compared with: a value for each axis, or the name of a variant"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] | UntilResolved = Field(
        default_factory=lambda: [0],
        description="one trial for each variant and seed; default `[0]`, `--seeds 0..4` overrides it. Or `{until_resolved: AP, looks: [2, 3, 4, 6, 8]}`: "
        "seeds are added until each row has a verdict",
    )
    min_effect: float | None = Field(
        None,
        gt=0,
        le=100,
        description="smallest difference in AP that matters, 0.3 by default; within it variants are `equivalent`. Fix it before the first look",
    )
    published_table: str = Field(
        "", description="published table to show beside yours: a file in `published`, its rows matched by settings"
    )
    table: TableSpec = Field(TableSpec(), description="contents of the table")
    search: SearchSpec | None = Field(None, description="search space and its limits, for `kind: search`, instead of `axes` or `variants`")

    @property
    def first_seeds(self) -> list[int]:
        """The seeds that every variant has at the beginning: all of them, or those of the first look."""
        return self.seeds if isinstance(self.seeds, list) else list(range(self.seeds.looks[0]))


class PublishedRow(BaseModel):
    """One row of a published table."""

    model_config = _STRICT

    name: str = Field(description="name of the row in its source")
    settings: dict[str, Any] = Field(
        description="settings that a variant must have to be shown beside the row; with `why_not` the source's own words"
    )
    metrics: dict[str, float | None] = Field(description="metric keys and values; null if the source leaves one out")
    evidence: str = Field("", description="origin of the numbers, if not the table's")
    differs: str = Field("", description="differences of the source that no setting expresses; then the row is not called comparable")
    why_not: str = Field("", description="reason why no variant can produce the row; else empty")


class PublishedTable(BaseModel):
    """A published table: facts with their source."""

    model_config = _STRICT

    id: str = Field(description="name of the file without `.yaml`")
    title: str = Field(description="the table in a few words")
    source: str = Field(description="paper and table, or repository")
    split: str = Field(description="evaluated images: coco_minival, or others, which are not comparable")
    evidence: str = Field("", description="origin of the numbers: paper_text, official_repo, reading_note, ...")
    training: str = Field("", description="id of the published training settings; empty: the source states none")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings that every row was made with, beyond the defaults")
    differs: str = Field("", description="differences of the source that no setting expresses; then no row is called comparable")
    rows: list[PublishedRow] = Field(
        description="the rows; of those whose settings a variant has, the one with the most is shown beside it"
    )
