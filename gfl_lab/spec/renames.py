"""Names that settings and keys of files had before version 0.2, and the names that they have now: the one table of them.

YAML files with old names are read with a warning (``Source.rename``). Files of a run tree are read silently, as they were
written before there were new names (``current``, ``upgrade_plan``, ``upgrade_search``). Hashes are made with the old names
(``first_edition``), so that no trial, training or search has another id than before.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from gfl_lab import naming

SETTINGS: Mapping[str, str] = {
    "lr_batch": "base_batch_size",
    "ema": "ema_decay",
    "flip": "flip_prob",
    "warmup_factor": "warmup_start_factor",
    "bias_lr": "bias_lr_mult",
    "norm_train": "bn_requires_grad",
    "weights": "init_weights",
    "box_weight": "box_loss_weight",
    "dirac_coder": "bbox_coder",
    "arguments": "component_args",
}
"""{old name: name} of settings."""

EXPERIMENT_KEYS: Mapping[str, str] = {
    "code": "custom_imports",
    "set": "overrides",
    "reference": "published_table",
    "arms": "variants",
}
"""{old name: name} of keys at the top of an experiment file."""

RESOURCE_KEYS: Mapping[str, str] = {"pack": "gpu_packing"}
"""{old name: name} of keys under ``resources`` of a profile."""

_OLD: Mapping[str, str] = {new: old for old, new in SETTINGS.items()}
_IN_VARIANT_NAME = re.compile(rf"(?<!\S)({'|'.join(SETTINGS)})=")


class RenamedKeyWarning(UserWarning):
    """A YAML file uses an old name of a setting or key. The message holds file, line, old and new name."""


def current(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with each old name replaced by the present one, in the same order.

    Raises:
        ValueError: a setting is given under both of its names.
    """
    if SETTINGS.keys().isdisjoint(settings):
        return dict(settings)
    if both := [f"{old} and {new}" for old, new in SETTINGS.items() if old in settings and new in settings]:
        raise ValueError(f"it gives {', '.join(both)}: two names of one setting")
    return {SETTINGS.get(key, key): value for key, value in settings.items()}


def first_edition(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the names that hashes are made of."""
    return {_OLD.get(key, key): value for key, value in settings.items()}


def current_variant_name(name: str) -> str:
    """Return the name that a variant made of axes has now: ``ema=0.9 dfl=on`` is ``ema_decay=0.9 dfl=on``."""
    return _IN_VARIANT_NAME.sub(lambda found: f"{SETTINGS[found[1]]}=", name)


def upgrade_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a plan.json with old names replaced, in place. Content of another form is left as it is."""
    experiment = plan.get("experiment")
    if isinstance(experiment, dict):
        _upgrade_mapping(experiment, "axes")
        _upgrade_mapping(experiment, "baseline")
        if isinstance(declared := experiment.get("declared"), list):
            experiment["declared"] = [SETTINGS.get(key, key) if isinstance(key, str) else key for key in declared]
    for variant in _dicts(plan.get("variants")):
        axes = variant.get("axes")
        made_of_axes = isinstance(axes, dict) and variant.get("name") == naming.variant_name(axes)
        _upgrade_mapping(variant, "axes")
        _upgrade_mapping(variant, "settings")
        if made_of_axes:
            variant["name"] = naming.variant_name(variant["axes"])
    return plan


def upgrade_search(search: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a search.json with old names replaced, in place. Content of another form is left as it is."""
    definition = search.get("definition")
    if isinstance(definition, dict):
        _upgrade_mapping(definition, "space")
        _upgrade_mapping(definition, "settings")
    for suggestion in _dicts(search.get("suggestions")):
        _upgrade_mapping(suggestion, "settings")
        _upgrade_mapping(suggestion, "drawn")
    return search


def _upgrade_mapping(holder: dict[str, Any], key: str) -> None:
    if isinstance(found := holder.get(key), dict):
        with contextlib.suppress(ValueError):  # damaged: both names of one setting
            holder[key] = current(found)


def _dicts(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
