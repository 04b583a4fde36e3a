"""From a variant's settings to the complete config of an mmdet detector, as a trial stores and trains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.cfg_options import of_recipe
from gfl_lab.spec.choices import MMDET, OWN
from gfl_lab.spec.plain_config import NotPlainError, encode
from gfl_lab.spec.settings import Settings
from gfl_lab.zoo import refusals, rewrite, widths
from gfl_lab.zoo.options import with_options
from gfl_lab.zoo.recipe import laid_open, recipe_of, settings_with_recipe
from gfl_lab.zoo.source import read
from gfl_lab.zoo.widths import with_widths


def complete(settings: Settings) -> Settings:
    """Return settings whose values are those of the config where the config decides (``recipe: config``); others as they are.

    Raises:
        InputError: the config cannot be read, is refused, or cannot be trained by its own recipe.
    """
    if settings.detector == OWN:
        return settings
    config = _config(settings)
    refusals.check(settings.detector, config["model"])
    if settings.recipe == "profile":
        return settings
    return settings_with_recipe(settings, recipe_of(settings.detector, config), config["model"])


def resolve(settings: Settings, classes: int) -> dict[str, Any] | None:
    """Return the config that a trial stores: its model, and with ``recipe: config`` how it is trained; None for our own detector.

    Args:
        settings: from ``complete``.
        classes: of the data.

    Raises:
        InputError: as ``complete``; or an option, or a part of the config, cannot be stored.
    """
    if settings.detector == OWN:
        return None
    config = _config(settings)
    model = model_for(settings, config["model"], classes)
    found: dict[str, Any] = {"model": model}
    if settings.init_weights == "pretrained":
        found["pretrained"] = pretrained_of(settings)
    if settings.recipe == "config":
        found |= recipe_of(settings.detector, config).to_config()
    try:
        encoded: dict[str, Any] = encode(found)
    except NotPlainError as error:
        raise InputError(Problem(f"the config {settings.detector} cannot be stored: {error}")) from None
    return encoded


def pretrained_of(settings: Settings) -> str:
    """Return the name that a config has for the published weights of its backbone, such as ``torchvision://resnet50``.

    Raises:
        InputError: it names none, or the variant's backbone has another width than the published ones.
    """
    backbone = _config(settings)["model"].get("backbone") or {}
    start = backbone.get("init_cfg")
    checkpoint = start.get("checkpoint") if isinstance(start, Mapping) and start.get("type") == "Pretrained" else None
    if not isinstance(checkpoint, str):
        hint = "Give init_weights: random, or a file."
        raise InputError(Problem(f"init_weights is pretrained, and {settings.detector} names no weights of its backbone", hint=hint))
    narrowed = settings.recipe == "profile" and settings.base_channels != widths.FIRST_STAGE and "base_channels" not in backbone
    if narrowed and widths.is_plain_resnet(backbone):
        message = f"init_weights is pretrained with base_channels {settings.base_channels}, and published weights have {widths.FIRST_STAGE}"
        raise InputError(Problem(message, hint=f"Give base_channels: {widths.FIRST_STAGE}, or init_weights: random."))
    return checkpoint


def notes(settings: Settings) -> tuple[str, ...]:
    """Return in what a trial differs from the config, or from the profile's other variants, in words."""
    if settings.detector == OWN:
        return ()
    config = _config(settings)
    if settings.recipe == "config":
        return recipe_of(settings.detector, config).notes
    name = settings.detector.removeprefix(MMDET)
    found = [widths.note(config["model"], settings, name)]
    if paths := of_recipe(settings.cfg_options):
        found.append(f"{name}: recipe: profile holds, and cfg_options for {', '.join(paths)} act only with recipe: config")
    return tuple(note for note in found if note)


def class_names(settings: Settings) -> set[str]:
    """Return every class that an mmdet detector's model names, without scopes; none for our own detector. Raises as ``complete``."""
    if settings.detector == OWN:
        return set()

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, Mapping):
            if isinstance(kind := node.get("type"), str):
                yield kind.rpartition(".")[2]
            node = list(node.values())
        if isinstance(node, list | tuple):
            for item in node:
                yield from walk(item)

    return set(walk(_config(settings)["model"]))


def model_for(settings: Settings, model: dict[str, Any], classes: int) -> dict[str, Any]:
    """Return the model of a config for the data and the recipe of a trial. The values of ``cfg_options`` go before every rewrite."""
    changed = rewrite.without_pretrained(rewrite.without_masks(rewrite.with_plain_norms(rewrite.with_classes(model, classes))))
    if settings.init_weights == "random":
        changed = rewrite.trained_from_start(changed)
    if settings.recipe == "profile":
        changed = with_widths(rewrite.with_protocol(rewrite.with_preprocessor(changed, settings), settings), settings)
    else:
        changed = rewrite.with_own_preprocessor(changed, padding=True)
    return rewrite.without_pretrained(with_options({"model": changed}, _of_model(settings))["model"])


def _of_model(settings: Settings) -> dict[str, Any]:
    """Return the options that stand in the model, without those of parts for masks and of ``init_cfg``, which are gone by now."""
    gone = ("mask", ".init_cfg")
    return {
        path: value for path, value in settings.cfg_options.items() if path.startswith("model.") and not any(part in path for part in gone)
    }


def _config(settings: Settings) -> dict[str, Any]:
    return with_options(laid_open(read(settings.detector)), settings.cfg_options)
