"""Index of mmdet's published weights, from the metafile.yml files in mmdet's wheel. Needs neither torch nor mmdet's import.

Each file lists the models of one folder of configs: name, config, results and the address of the weights. The names of weight
files end in the first 8 hex digits of their SHA-256.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import yaml

from gfl_lab.addresses import digest_in_name, file_name
from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.choices import MMDET
from gfl_lab.zoo import source

_GFL, _ATSS = ("gfl", "ld"), ("atss",)
"""Folders of configs whose detectors are gfl-lab's own: with box distributions, and without."""
_BOX_AP = "box AP"


@dataclass(frozen=True)
class Published:
    """An entry of mmdet's zoo.

    Attributes:
        name: the config's file name without ``.py``.
        config: path of the config below mmdet's folder of configs, such as ``gfl/gfl_r50_fpn_1x_coco.py``.
        addresses: where the weights are; empty for none, several for a tracker.
        results: metric to value as published, such as ``box AP``: 40.2.
        dataset: where they were measured. title, paper: of the method and the paper's address; empty where not given.
    """

    name: str
    config: str
    addresses: tuple[str, ...]
    results: Mapping[str, float]
    dataset: str
    title: str
    paper: str

    @property
    def address(self) -> str:
        """Address of the one weights file."""
        return self.addresses[0]

    @property
    def file(self) -> str:
        """File name of the weights."""
        return file_name(self.address)

    @property
    def digest(self) -> str:
        """First 8 hex digits of the weights' SHA-256; empty where the file name has none."""
        return digest_in_name(self.address)

    @property
    def box_ap(self) -> float:
        """Published box AP, 0 to 100."""
        return self.results[_BOX_AP]

    @property
    def config_path(self) -> Path:
        """The config in mmdet's wheel."""
        return source.configs_folder() / self.config

    @property
    def is_own_detector(self) -> bool:
        """True if the weights can be converted to a detector of gfl-lab."""
        return self.has_distributions or PurePosixPath(self.config).parent.name in _ATSS

    @property
    def has_distributions(self) -> bool:
        """True if the detector predicts a distribution of each edge that gfl-lab can show."""
        return PurePosixPath(self.config).parent.name in _GFL


def find(name: str) -> Published:
    """Return the entry whose published box AP and weights file go with one config of mmdet.

    Args:
        name: file name of a config without ``.py``, or the name that metafile.yml gives the entry.

    Raises:
        InputError: there is no such config, or nothing usable is published for it.
    """
    folder = source.configs_folder()
    entries = read_index(folder)
    place = f"{MMDET}{name}"
    if name not in entries:
        configs = source.names()
        if name in configs:
            raise InputError(Problem("mmdet publishes no weights for this config", place, _near(name, entries)))
        raise InputError(Problem("mmdet has no config of this name", place, _near(name, configs.keys() | entries.keys())))
    entry = entries[name]
    if not entry.addresses:
        raise InputError(Problem("mmdet lists this config without a weights file", place, _near(name, entries.keys() - {name})))
    if not entry.config_path.is_file():
        raise InputError(Problem(f"its config {entry.config} is missing in mmdet's wheel", place, f"The weights are at {entry.address}."))
    if _BOX_AP not in entry.results:
        listed = ", ".join(f"{metric} {value:g}" for metric, value in entry.results.items()) or "none"
        raise InputError(Problem(f"mmdet publishes no box AP for it (results: {listed})", place, "Only detectors of boxes are evaluated."))
    if len(entry.addresses) > 1:
        raise InputError(Problem(f"mmdet publishes {len(entry.addresses)} weight files for it, and a detector has one", place))
    if not entry.digest:
        hint = f"Download {entry.address} yourself, and give the file in place of the name."
        raise InputError(Problem(f"mmdet gives no hash for {entry.file}, so a download cannot be checked", place, hint))
    return entry


@functools.cache
def read_index(folder: Path) -> dict[str, Published]:
    """Return all entries of a folder of configs: by the config's name, and also by their own name where it is another."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries: list[tuple[str, Published]] = []
    for path in sorted(folder.glob("*/metafile.yml")):
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        collections = {each["Name"]: each for each in content.get("Collections", [])} if isinstance(content, dict) else {}
        models = content.get("Models", []) if isinstance(content, dict) else content
        entries += [(model["Name"], _entry(model, collections, path.parent.name)) for model in models]
    by_config: dict[str, Published] = {}
    for _, entry in entries:
        by_config.setdefault(entry.name, entry)
    return {own: entry for own, entry in reversed(entries)} | by_config


def _entry(model: Mapping[str, Any], collections: Mapping[str, Any], folder: str) -> Published:
    config = PurePosixPath(unquote(model["Config"]))
    inside = config.relative_to("configs") if config.parts[0] == "configs" else PurePosixPath(folder, config.name)
    weights = model.get("Weights") or []
    results = model.get("Results") or []
    results = [{"Metrics": {}} | one for one in (results if isinstance(results, list) else [results])]
    of_boxes = [each for each in results if _BOX_AP in each["Metrics"]]
    paper = (model.get("Paper") or collections.get(model.get("In Collection", ""), {}).get("Paper")) or {}
    paper = paper[0] if isinstance(paper, list) else paper
    paper = {"URL": paper} if isinstance(paper, str) else paper
    return Published(
        name=inside.stem,
        config=str(inside),
        addresses=tuple(weights) if isinstance(weights, list) else (weights,),
        results={metric: value for each in reversed(results) for metric, value in each["Metrics"].items()},
        dataset=str((of_boxes or results or [{}])[0].get("Dataset", "")),
        title=str(paper.get("Title", "")),
        paper=str(paper.get("URL", "")),
    )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else "Names are those of mmdet's config files, such as gfl_r50_fpn_1x_coco."
