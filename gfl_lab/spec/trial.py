"""One trial, fully resolved: its settings, its data, its seed, and the ids that follow from them."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from gfl_lab import naming
from gfl_lab.spec import renames
from gfl_lab.spec.backbones import BACKBONES
from gfl_lab.spec.choices import BUILT_IN, OWN, ROLES
from gfl_lab.spec.needs import needs_of
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.settings import EVALUATION, Settings, group_of, inactive

TRAINING_CODE_VERSION = 1
"""Raised whenever a change of our code changes the numbers of a trial, so that old results are not taken for new."""


def _counted(settings: Settings, known_edges: bool) -> set[str]:
    """Return the inactive settings that count in a trial's id all the same.

    ``reg_max`` and ``bin_width`` do where they decide which sides are scored against known edges, or how wide an exported
    distribution is. Those of a registered backbone do since they always have: else finished trials would count as missing.
    """
    found: set[str] = set()
    if settings.detector != OWN:
        return found
    if settings.box == "gaussian" or known_edges:
        found |= {"reg_max", "bin_width"}
    if settings.backbone not in BACKBONES:
        found |= {"base_channels", "frozen_stages", "norm_eval", "bn_requires_grad"}
    return found


def effective(settings: Settings, known_edges: bool = True) -> dict[str, Any]:
    """Return what a trial's id holds of ``settings``, as JSON values.

    Left out are defaults, inactive settings and arguments that no component takes.

    Args:
        known_edges: whether the data set has the true edge distributions.
    """
    values = settings.model_dump(mode="json")
    own = {kind for kind, known in BUILT_IN.items() if getattr(settings, kind) not in known} | {"head"}
    values["component_args"] = {kind: given for kind, given in values["component_args"].items() if given and kind in own}
    idle, defaults = set(inactive(settings)) - _counted(settings, known_edges), _defaults()
    return {key: value for key, value in values.items() if value != defaults[key] and key not in idle}


def computed(settings: Settings) -> dict[str, Any]:
    """Return what training computes from ``settings``, as JSON values: equal for variants whose weights and AP are equal.

    It is coarser than ``effective``: other spellings of the same schedule, learning rate, freezing or loss are the same too.
    """
    idle = inactive(settings)
    values = {key: value for key, value in effective(settings).items() if key not in idle}
    values["epochs"] = total_epochs(settings)
    values.pop("schedule", None)
    if settings.base_batch_size in (0, settings.batch_size):
        values.pop("base_batch_size", None)
    if "frozen_stages" not in idle:
        values["frozen_stages"] = min(settings.frozen_stages, _stages(settings))
    if settings.trains_dfl and settings.dfl_weight == 0 and settings.head in BUILT_IN["head"]:
        values.pop("dfl_weight", None)
        values |= {"dfl": False}
    return values | {need.role: [computed(need.settings), need.seed, need.data] for need in needs_of(settings)}


def _stages(settings: Settings) -> int:
    """Return the stages of the backbone that the pyramid uses."""
    return min(4, (4, 8, 16, 32).index(settings.strides[0]) + len(settings.strides))


@functools.cache
def _defaults() -> dict[str, Any]:
    return Settings().model_dump(mode="json")


class DataSpec(BaseModel):
    """The data a trial sees, by content: two folders with the same digest give the same trial id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the data set.")
    digest: str = Field(description="SHA-256 over annotations and images, first 16 hex digits.")
    classes: tuple[str, ...] = Field(description="Names of the classes, by label.")
    train_images: int = Field(description="Training images that are used: with a box, and not too small.")
    val_images: int = Field(description="Validation images.")
    truth: bool = Field(default=False, description="Whether annotations have the true edge distributions (ambiguous_shapes).")
    white_level: int = Field(default=0, ge=0, description="Value that becomes 255. Only for images of more than 8 bits.")

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the white level out where there is none: data sets of 8-bit images keep their trials' ids."""
        return {key: value for key, value in serialise(self).items() if key != "white_level" or value}


class ComponentFile(BaseModel):
    """A file of the user's code that a trial uses; its copy lies in the trial's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the file.")
    digest: str = Field(description="SHA-256 of the file, first 16 hex digits.")


class TrialSpec(BaseModel):
    """One trial, fully resolved: everything that its numbers depend on, and nothing else (no paths, no machine).

    ``weights_digest`` stands for the content of the initial weights. ``code`` is ``TRAINING_CODE_VERSION`` of the code
    that runs it, ``components`` the user's own (docs/extending.md). ``needs`` holds the ids of the trials whose weights it
    needs, by the setting that describes them (needs.py).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings = Field(description="All settings, with their defaults. Empty for imported trials.")
    data: DataSpec = Field(description="The data set.")
    seed: int = Field(ge=0, le=2**31 - 1, description="The seed.")
    weights_digest: str = Field(default="", description="Hash of the initial weights; empty if there are none.")
    code: int = Field(description="Version of the training code.")
    components: tuple[ComponentFile, ...] = Field(default=(), description="Files of the user's code.")
    config: dict[str, Any] | None = Field(
        default=None,
        description="Config of an mmdet detector, as it is trained. Always `model`; with `recipe: config` also `optim_wrapper`, "
        '`param_scheduler`, `train_pipeline`, `test_pipeline`, `epochs` and `batch_size`. A tuple is `{"(tuple)": [...]}`.',
    )
    needs: dict[str, str] = Field(default={}, description="Ids of the trials whose weights it needs, by setting. Only if it needs any.")

    @model_serializer(mode="wrap")
    def _without_empty(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave config and needs out where there are none: trials of the GFL family that need no others keep their ids."""
        left_out = {key for key, empty in (("config", self.config is None), ("needs", not self.needs)) if empty}
        return {key: value for key, value in serialise(self).items() if key not in left_out}

    @property
    def id(self) -> str:
        """Content hash: 12 hex digits.

        Only settings that act and are not at their defaults count (``effective``), so that a setting that is added later
        changes no id. A default may therefore never change without raising ``TRAINING_CODE_VERSION``.
        """
        return self._digest(effective(self.settings, self.data.truth))

    @property
    def training_id(self) -> str:
        """Content hash of what the trained weights depend on: trials that differ in test settings alone have it in common.

        A component of the user's may read any setting, so with one it is the trial's own id.
        """
        settings = effective(self.settings, self.data.truth)
        if self.components:
            return self._digest(settings)
        config = self.config
        if config:
            model = {key: value for key, value in config["model"].items() if key != "test_cfg"}
            config = {**config, "model": model, "test_pipeline": None}
        return self.model_copy(update={"config": config})._digest(
            {key: value for key, value in settings.items() if group_of(key) != EVALUATION}
        )

    def _digest(self, settings: dict[str, Any]) -> str:
        """Return the hash of the trial with these settings in place of its own, under their first names (``renames``).

        ``weights_digest``, ``config`` and ``needs`` stand for the settings that name files, configs and other trials.
        """
        content = self.model_dump(mode="json", exclude={"settings"})
        elsewhere = {"init_weights", *ROLES} | ({"detector", "cfg_options"} if self.config else set())
        acting = {key: value for key, value in settings.items() if key not in elsewhere}
        content["settings"] = renames.first_edition(acting)
        content["data"].pop("name")
        components = content.pop("components")
        if components:
            content["components"] = sorted(file["digest"] for file in components)
        return naming.digest(content)
