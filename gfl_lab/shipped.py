"""Files that travel with gfl-lab (experiments, profiles, published tables, dashboard, tested pins) and where to look for them.

Only this module has their places. A checkout has them at its top; a wheel has the same layout inside the package, in
``gfl_lab/_shipped`` (pyproject.toml, ``force-include``).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from gfl_lab.errors import InputError, Problem, ResourceError

PROFILES, PUBLISHED, EXAMPLES = "profiles", "published", "examples"
"""Folders below a folder of experiments."""

INSIDE = "_shipped"
"""Folder in an installed package that holds what a checkout has at its top."""

_AGAIN = "The installation of gfl-lab is not complete: install it again. `gfl-lab doctor` lists what is missing."


def root() -> Path:
    """Return the folder with ``experiments``, ``dashboard`` and ``requirements.txt``, whether or not they are there."""
    package = Path(str(resources.files("gfl_lab")))
    checkout = package.parent
    is_checkout = not (package / INSIDE).is_dir() and (checkout / "pyproject.toml").is_file()
    return checkout if is_checkout else package / INSIDE


def experiments() -> Path:
    """Return the folder of gfl-lab's own experiments, with ``profiles`` and ``published`` in it.

    Raises:
        ResourceError: one of the three holds no file.
    """
    folder = root() / "experiments"
    for part in (folder, folder / PROFILES, folder / PUBLISHED):
        if not any(part.glob("*.yaml")):
            raise ResourceError(Problem(f"gfl-lab's own files are missing: no YAML file in {part}", hint=_AGAIN))
    return folder


def dashboard() -> Path:
    """Return the folder of the dashboard's pages.

    Raises:
        ResourceError: it is missing.
    """
    folder = root() / "dashboard"
    if not (folder / "app.py").is_file():
        raise ResourceError(Problem(f"gfl-lab's own files are missing: there is no {folder / 'app.py'}", hint=_AGAIN))
    return folder


def pins() -> Path:
    """Return the list of the versions that gfl-lab was tested with, in the form of ``requirements.txt``.

    Raises:
        ResourceError: it is missing.
    """
    file = root() / "requirements.txt"
    if not file.is_file():
        raise ResourceError(Problem(f"gfl-lab's own files are missing: there is no {file}", hint=_AGAIN))
    return file


def damaged() -> list[str]:
    """Return the files of the installed package that are missing or have another size than the installer recorded.

    Empty for a checkout, whose files no installer has recorded.
    """
    import importlib.metadata

    package = Path(str(resources.files("gfl_lab")))
    try:
        recorded = importlib.metadata.files("gfl-lab") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    own = [file for file in recorded if file.parts[0] == package.name and file.suffix != ".pyc"]
    wrong = []
    for file in own:
        path = Path(str(file.locate()))
        if not path.is_relative_to(package):  # the record of another installation than the one that runs
            return []
        if not path.is_file() or (file.size is not None and path.stat().st_size != file.size):
            wrong.append(str(file))
    return wrong


# --- where to look --------------------------------------------------------------------------------


def experiment_folders() -> list[Path]:
    """Return the folders of experiments in their order: the current folder, its ``experiments``, gfl-lab's own.

    The current folder counts if it looks like one that `gfl-lab init` made: it has ``profiles`` or ``published``.

    Raises:
        ResourceError: gfl-lab's own are missing.
    """
    here = Path.cwd()
    own = [here] if _looks_made(here) else []
    return _unique([*own, here / "experiments", experiments()])


def profile_folders(beside: Path | None = None) -> list[Path]:
    """Return the folders of profiles in their order.

    The first are those of the experiment file, if there is one: in its folder ``beside``, and in the nearest folder above that looks
    like one of `gfl-lab init` (for ``lab/examples/own_head.yaml`` it is ``lab``). Those of ``experiment_folders`` follow.
    """
    return _below(PROFILES, beside)


def published_folders(beside: Path | None = None) -> list[Path]:
    """Return the folders of published tables in their order, as ``profile_folders``."""
    return _below(PUBLISHED, beside)


def find_experiment(given: Path) -> Path:
    """Return the file of an experiment that a user gave by path, or by name (``table3_qfl_dfl``).

    A path is taken as it is. A name is looked for in the current folder and in ``experiment_folders``.

    Raises:
        InputError: no experiment has this name; or the path does not exist, and gfl-lab has an experiment of its name.
    """
    if given.exists():
        return given
    if given.suffix in (".yaml", ".yml") or len(given.parts) != 1:
        here = given.with_suffix(".yaml").exists()  # a slip in the suffix, which reading the file reports
        if not here and (experiments() / f"{given.stem}.yaml").is_file():
            hint = f"gfl-lab has an experiment of this name: write {given.stem}, or copy all of them with `gfl-lab init DIR`."
            raise InputError(Problem(f"{given} does not exist", hint=hint))
        return given
    if (file := experiment_file(given.name)) is not None:
        return file
    folders = _unique([Path.cwd(), *experiment_folders()])
    known = sorted({file.stem for folder in folders[1:] for file in folder.glob("*.yaml")})
    import difflib

    near = difflib.get_close_matches(given.name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Give the path of a YAML file, or a name: {', '.join(known)}."
    raise InputError(Problem(f"there is no experiment {given.name!r}", hint=hint))


def experiment_file(name: str) -> Path | None:
    """Return the file of the experiment that a user names (``table3_qfl_dfl``), from the folders of ``find_experiment``, or None."""
    files = (folder / f"{name}.yaml" for folder in _unique([Path.cwd(), *experiment_folders()]))
    return next((file for file in files if file.is_file()), None)


def _below(name: str, beside: Path | None) -> list[Path]:
    own = [] if beside is None else [beside, *_made_above(beside)]
    return _unique(folder / name for folder in [*own, *experiment_folders()])


def _made_above(folder: Path) -> list[Path]:
    """Return the nearest folder above ``folder`` that looks like one of `gfl-lab init`, if there is one."""
    return [above for above in folder.resolve().parents if _looks_made(above)][:1]


def _looks_made(folder: Path) -> bool:
    """Return True if a folder has ``profiles`` or ``published``, as those that `gfl-lab init` makes."""
    return (folder / PROFILES).is_dir() or (folder / PUBLISHED).is_dir()


def _unique(folders: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(folder.resolve() for folder in folders))
