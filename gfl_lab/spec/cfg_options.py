"""Values of an mmdet config by dotted path: each is a setting of its own in an experiment file, and they are one setting of a trial."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfl_lab.spec.settings import Settings

PREFIX = "cfg_options."


def is_option(key: object) -> bool:
    """Return True for the name of a setting that stands for one value of an mmdet config."""
    return isinstance(key, str) and len(key) > len(PREFIX) and key.startswith(PREFIX)


def folded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with each ``cfg_options.PATH`` moved into the one setting ``cfg_options``; a path of its own goes first."""
    own = {key.removeprefix(PREFIX): value for key, value in values.items() if is_option(key)}
    if not own:
        return dict(values)
    rest = {key: value for key, value in values.items() if not is_option(key)}
    given = rest.get("cfg_options", {})
    return rest | {"cfg_options": {**given, **own} if isinstance(given, Mapping) else given}


def spread(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with each entry of ``cfg_options`` as a setting of its own: what ``folded`` undoes."""
    given = values.get("cfg_options")
    if not isinstance(given, Mapping):
        return dict(values)
    rest = {key: value for key, value in values.items() if key != "cfg_options"}
    return {**{f"{PREFIX}{path}": value for path, value in given.items()}, **rest}


def setting_value(settings: Settings, key: str) -> Any:
    """Return the value of a setting, also of one that is called ``cfg_options.PATH``; None where the config's own value holds."""
    return settings.cfg_options.get(key.removeprefix(PREFIX)) if is_option(key) else getattr(settings, key)


def broken(options: Mapping[str, Any]) -> list[str]:
    """Return the rules that paths and values of ``cfg_options`` break."""
    found = []
    for path in options:
        last = path.rpartition(".")[2]
        if not all(path.split(".")):
            found.append(
                f"cfg_options has the path {path!r}: it must be names joined by single dots, such as model.bbox_head.loss_cls.gamma"
            )
        elif last == "num_classes":
            found.append(f"cfg_options gives {path}: the number of classes follows from the data")
        elif (top := path.partition(".")[0]) not in TOP:
            near = difflib.get_close_matches(top, TOP, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.append(f"cfg_options gives {path}: a path starts with one of {', '.join(TOP)}{hint}")
    return found


MODEL = "model"
"""Part of an mmdet config whose values act with either ``recipe``."""


def of_recipe(options: Mapping[str, Any]) -> list[str]:
    """Return the paths of ``cfg_options`` that change how a detector is trained or tested, which ``recipe: config`` alone uses."""
    return [path for path in options if path.partition(".")[0] != MODEL]


TOP = (MODEL, "optim_wrapper", "param_scheduler", "train_cfg", "train_pipeline", "test_pipeline", "auto_scale_lr")
"""Parts of an mmdet config that a trial uses; those after ``model`` with ``recipe: config`` alone."""
