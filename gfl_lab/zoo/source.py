"""Config files of detectors: those in mmdet's wheel, by name, and the user's own."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.choices import MMDET
from gfl_lab.spec.hints import nearest


def configs_folder() -> Path:
    """Return the folder of the configs in mmdet's wheel. Raises InputError: mmdet is not installed, or has none."""
    found = importlib.util.find_spec("mmdet")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (folder := Path(place) / ".mim" / "configs").is_dir():
            return folder
    raise InputError(Problem("the installed mmdet has no configs", hint="Install mmdet from its wheel, as `uv sync` does."))


@functools.cache
def names() -> Mapping[str, Path]:
    """Return the file of each config in the wheel, by its name; without the parts that others are made of (``_base_``)."""
    folder = configs_folder()
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        if "_base_" not in path.relative_to(folder).parts:
            found.setdefault(path.stem, path)
    return found


def file_of(detector: str) -> Path:
    """Return the config file that the setting ``detector`` names.

    Raises:
        InputError: there is none of this name.
    """
    if not detector.startswith(MMDET):
        path = Path(detector)
        if not path.is_file():
            raise InputError(Problem(f"the config file {detector} does not exist", hint="Its path is relative to the experiment file."))
        return path
    name = detector.removeprefix(MMDET).removesuffix(".py")
    if name not in names():
        raise InputError(Problem(f"mmdet has no config {name!r}", hint=nearest_name(name)))
    return names()[name]


def nearest_name(name: str) -> str:
    """Return a hint with the config that is probably meant by ``name``."""
    parts = name.lower().replace("-", "_").split("_")
    alike = [known for known in names() if all(part in known.lower().replace("-", "_") for part in parts)]
    if alike:
        shown = ", ".join(alike[:5])
        return f"Configs like it: {shown}{', ...' if len(alike) > 5 else ''}."
    hint = nearest(name, names())
    return hint if len(hint) < 200 else f"It has {len(names())} configs, such as retinanet_r50_fpn_1x_coco."


@functools.cache
def read(detector: str) -> dict[str, Any]:
    """Return the whole config as plain Python data. Reading one executes it, as Python that mmdet, or the user, has written.

    Raises:
        InputError: there is no such file, it cannot be read, or it describes no detector.
    """
    path = file_of(detector)
    from mmengine.config import Config

    try:
        with contextlib.redirect_stdout(sys.stderr):  # `--json` keeps stdout for itself
            config: dict[str, Any] = Config.fromfile(path, import_custom_modules=False).to_dict()
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = "The file in mmdet's wheel is broken itself." if detector.startswith(MMDET) else ""
        raise InputError(Problem(f"the config {detector} cannot be read: {text}", hint=hint)) from None
    if not isinstance(config.get("model"), Mapping) or "type" not in config["model"]:
        hint = "It is a part that other configs are made of: name one of those."
        raise InputError(Problem(f"the config {detector} describes no detector: it has no `model` with a `type`", hint=hint))
    return config
