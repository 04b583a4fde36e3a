"""Checks of `gfl-lab doctor` on the installation: versions, OpenCV, shipped files, and that a detector builds."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import sys

from gfl_lab import shipped
from gfl_lab.errors import GflLabError
from gfl_lab.maintenance.finding import Findings
from gfl_lab.spec.files import find_profile, load_experiment, load_profile, load_published
from gfl_lab.spec.settings import Settings
from gfl_lab.wording import first_of, plural

PACKAGES = ("torch", "torchvision", "mmdet", "mmengine", "mmcv-lite", "ray", "mlflow", "streamlit", "faster-coco-eval", "numpy", "pandas")


def packages() -> Findings:
    """Check Python, and that every package is installed in a version that gfl-lab asks for."""
    yield (3, 11) <= sys.version_info[:2] <= (3, 12), f"Python {sys.version.split()[0]} (3.11 and 3.12 are supported)"
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{package} is not installed"
    yield True, ", ".join(versions)
    yield from _pins()


def _pins() -> Findings:
    """Compare what is installed with what gfl-lab asks for, and with the versions that it was tested with."""
    from packaging.requirements import Requirement

    def installed(name: str) -> str:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
        return ""

    required = [Requirement(text) for text in importlib.metadata.requires("gfl-lab") or ()]
    wrong = [
        f"{need.name} {found}, not {need.specifier}"
        for need in required
        if not need.marker and (found := installed(need.name)) and found not in need.specifier
    ]
    yield not wrong, f"versions: {'; '.join(wrong)}" if wrong else "every version is one that gfl-lab asks for"
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", shipped.pins().read_text(), re.MULTILINE)
    other = [f"{name} {found} (tested: {pin})" for name, pin in pins if (found := installed(name)) and found.partition("+")[0] != pin]
    yield True, "note: other versions than tested: " + ", ".join(other) if other else "all versions are the tested ones"


def opencv() -> Findings:
    """Check that one OpenCV is installed, the headless one: mmengine and mmcv-lite make pip install the plain one besides."""
    plain = [name for name in ("opencv-python", "opencv-contrib-python") if _is_installed(name)]
    way = "see docs/installation.md: `pip uninstall -y opencv-python opencv-contrib-python opencv-python-headless`, then `pip install --no-deps opencv-python-headless`"
    try:
        import cv2
    except ImportError as error:
        yield False, f"OpenCV cannot be imported: {error}; {way}"
        return
    if plain and _is_installed("opencv-python-headless"):
        yield (
            True,
            f"note: {' and '.join(plain)} and opencv-python-headless share one folder, and either may be the one that is loaded; {way}",
        )
    elif plain:
        yield True, f"note: {' and '.join(plain)} {cv2.__version__} is installed, which needs libGL; a machine without it: {way}"
    else:
        yield True, f"OpenCV {cv2.__version__} is the headless one"


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def shipped_files() -> Findings:
    """Check the files that gfl-lab brings along: none is missing or cut off, and each experiment finds its profile and table."""
    if damaged := shipped.damaged():
        yield False, f"missing or damaged: {first_of(damaged, 5)}: install gfl-lab again"
    folder = shipped.experiments()
    shipped.dashboard()
    profiles, tables = [[folder / part] for part in (shipped.PROFILES, shipped.PUBLISHED)]
    broken = []
    files = sorted(folder.glob("*.yaml"))
    for path in files:
        try:
            experiment, source = load_experiment(path)
            load_profile(find_profile(experiment.profile, profiles))
            if experiment.published_table:
                load_published(experiment.published_table, tables, source)
        except GflLabError as error:
            broken.append(path)
            yield False, f"{path}: {error.problems[0]}"
    if not damaged and not broken:
        count = len(list(tables[0].glob("*.yaml")))
        yield True, f"{plural(len(files), 'experiment')}, {plural(count, 'published table')} and the dashboard are in {shipped.root()}"


def detector() -> Findings:
    """Check that a small detector builds and runs."""
    import torch

    from gfl_lab.detector.build import build_detector

    small = Settings(backbone="r18", base_channels=8, neck_channels=16, head_channels=16, head_convs=1, strides=(8, 16), frozen_stages=-1)
    model = build_detector(small, 2).eval()
    with torch.inference_mode():
        scores = model(torch.zeros(1, 3, 64, 64), mode="tensor")[0]
    yield scores[0].shape == (1, 2, 8, 8), "a detector builds and runs without a compiled mmcv"
