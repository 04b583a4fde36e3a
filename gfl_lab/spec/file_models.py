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

    train_images: int = Field(800, ge=8, le=100_000)
    val_images: int = Field(200, ge=8, le=100_000)
    size: int = Field(128, ge=128, le=1024, description="side of the square images, px")
    seed: Seed = 0


class Resources(BaseModel):
    """Resources of one trial. They do not change a trial's numbers, so they are not in its id."""

    model_config = _STRICT

    cpus: int = Field(1, ge=1, le=1024, description="CPU cores (and threads)")
    gpus: float = Field(0, ge=0, le=64, description="GPUs, or part of one; taken only where there is a GPU unless gpu_required")
    gpu_packing: bool = Field(
        False, description="as many trials on a GPU as fit by the peak memory that `plan --measure` has measured; `gpus` each until then"
    )
    gpu_required: bool = Field(False, description="refuse to run on a CPU")
    loader_workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="processes that load images, 0: the trial's own; not given: on a GPU one for each of its cores but one",
    )


class Profile(BaseModel):
    """A profile: data, settings that suit them, resources."""

    model_config = _STRICT

    name: str
    title: str
    data: DeskData | Literal["required"] = Field(description="a generated data set, or `required`: give --data PATH")
    settings: dict[str, Any] = Field(default_factory=dict)
    resources: Resources = Field(default_factory=lambda: Resources.model_validate({}))
    cpu_seconds_per_image: float = Field(
        0, ge=0, description="training and evaluation of one image on one core, for a first estimate of time; 0 unknown"
    )
    reproduces: str = Field("", description="id of the published training settings that this profile repeats, when the data are the same")


class TableSpec(BaseModel):
    """Contents of the table."""

    model_config = _STRICT

    rows: list[str] = Field(default_factory=list, description="axes in the order of the variant's name; default: all, as declared")
    metrics: list[str] = Field(default_factory=lambda: ["AP", "AP50", "AP75", "fps"], min_length=1)


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

    name: str
    question: str = ""
    kind: Literal["ablation", "search"] = "ablation"
    profile: str
    custom_imports: list[str] = Field(default_factory=list, description="Python files that register components, relative to this file")
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    overrides: dict[str, Any] = Field(default_factory=dict)
    when: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baseline: dict[str, Any] | str | None = None
    seeds: Annotated[list[Seed], Field(min_length=1)] | UntilResolved = Field(default_factory=lambda: [0])
    min_effect: float | None = Field(
        None, gt=0, le=100, description="the smallest difference in AP that matters; within it variants are equivalent (0.3 by default)"
    )
    published_table: str = ""
    table: TableSpec = TableSpec()
    search: SearchSpec | None = None

    @property
    def first_seeds(self) -> list[int]:
        """The seeds that every variant has at the beginning: all of them, or those of the first look."""
        return self.seeds if isinstance(self.seeds, list) else list(range(self.seeds.looks[0]))


class PublishedRow(BaseModel):
    """One row of a published table."""

    model_config = _STRICT

    name: str
    settings: dict[str, Any] = Field(
        description="what a variant must have to stand beside the row; with `why_not` the source's own words, which nothing reads"
    )
    metrics: dict[str, float | None]
    evidence: str = Field("", description="where the numbers were read, if not as the table's")
    differs: str = Field("", description="what the source did otherwise in this row that no setting says; then it is not called comparable")
    why_not: str = Field("", description="why no variant can produce the row; empty where one can")


class PublishedTable(BaseModel):
    """A published table: facts with their source."""

    model_config = _STRICT

    id: str
    title: str
    source: str
    split: str = Field(description="images that were evaluated: coco_minival, or another one that we cannot compare with")
    evidence: str = Field("", description="where the numbers were read: paper_text, official_repo, reading_note, ...")
    training: str = Field("", description="id of the published training settings; empty: the source states none")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings that every row was made with, beyond the defaults")
    differs: str = Field("", description="what the source did otherwise that no setting says; then no row is called comparable")
    rows: list[PublishedRow]
