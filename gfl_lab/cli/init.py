"""`gfl-lab init`: gfl-lab's own experiments as files of the user's."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from gfl_lab import shipped
from gfl_lab.addresses import absolute
from gfl_lab.cli.output import say
from gfl_lab.errors import InputError, Problem
from gfl_lab.wording import plural

FIRST = "table3_qfl_dfl.yaml"


@click.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Copy the experiments, profiles, published tables and examples of gfl-lab into DIR, for editing.

    No file is overwritten: if DIR holds files of the same names, nothing is copied (exit code 2).

    Example:  gfl-lab init lab
    """
    source = shipped.experiments()
    names = shipped_files(source)
    copy_new(source, names, absolute(folder, "DIR"))
    print(folder)
    counts = [plural(sum(name.parent == Path(part) for name in names), noun) for part, noun in _PARTS]
    say(f"copied {', '.join(counts)}\nnext:  gfl-lab run {shlex.quote(str(folder / FIRST))}")


_PARTS = ((".", "experiment"), (shipped.PROFILES, "profile"), (shipped.PUBLISHED, "published table"), (shipped.EXAMPLES, "example file"))


def shipped_files(source: Path) -> list[Path]:
    """Return the files of the folder of experiments ``source``, relative to it."""
    patterns = (
        "*.yaml",
        f"{shipped.PROFILES}/*.yaml",
        f"{shipped.PUBLISHED}/*.yaml",
        f"{shipped.EXAMPLES}/*.yaml",
        f"{shipped.EXAMPLES}/*.py",
    )
    return [path.relative_to(source) for pattern in patterns for path in sorted(source.glob(pattern))]


def copy_new(source: Path, names: Sequence[Path], target: Path) -> None:
    """Copy files into a folder that has none of these names, all of them or none.

    The copies get the user's own permissions, whatever those of the installed files are.

    Raises:
        InputError: ``target`` is no folder, or holds one of the names; all of these are listed.
        OSError: the copy failed; what had been copied is removed.
    """
    blocking = next((path for path in (target, *target.parents) if path.exists()), target)
    if not blocking.is_dir():
        raise InputError(Problem(f"{blocking} is not a folder", "DIR", "Give a folder that exists, or a new one."))
    taken = [name for name in names if _is_taken(target, name)]
    if taken:
        raise InputError(
            Problem(
                f"{target} holds {plural(len(taken), 'file')} that would be overwritten: {', '.join(map(str, taken))}",
                "DIR",
                "Nothing was copied. Give another folder, or move these files away.",
            )
        )
    made: list[Path] = []  # in the order in which they were made
    with tempfile.TemporaryDirectory(prefix=".gfl-lab-init-", dir=blocking) as staged:
        for name in names:  # a full disk shows here, before a file has its name
            copy = Path(staged, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy)
        try:
            for name in names:
                _make_folders((target / name).parent, made)
                made.append(target / name)
                Path(staged, name).rename(target / name)
        except BaseException:
            _remove(made)
            raise


def _is_taken(target: Path, name: Path) -> bool:
    """Return True if ``name`` stands in ``target``, or a file stands where one of its folders would."""
    path = target / name
    return path.exists() or path.is_symlink() or (path.parent.exists() and not path.parent.is_dir())


def _make_folders(folder: Path, made: list[Path]) -> None:
    for path in reversed([folder, *folder.parents]):
        if not path.is_dir():
            path.mkdir()
            made.append(path)


def _remove(made: Sequence[Path]) -> None:
    for path in reversed(made):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
