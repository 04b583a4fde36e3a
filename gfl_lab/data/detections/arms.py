"""The files of each arm of a comparison: patterns, natural order, and the seed of each file."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gfl_lab.addresses import readable
from gfl_lab.data.findings import Findings

MAX_FILES = 1000
"""Files of one arm; a pattern that matches more is taken for a mistake."""
LONGEST_NAME = 100
MAX_SEED = 2**31 - 1
_NUMBERS = re.compile(r"([0-9]+)")
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Seeds:
    """The seed of each file, and a sentence on where the seeds come from."""

    of: Mapping[str, tuple[int, ...]]
    about: str


def find_files(arms: Sequence[tuple[str, str]], findings: Findings) -> dict[str, list[Path]]:
    """Return the files of each arm in natural order (``s2`` before ``s10``), each once.

    Args:
        arms: (name, paths) as given: paths are separated by commas, and may hold ``*``, ``?`` and ``[...]``. A name may come again.
        findings: gets what is wrong.
    """
    found: dict[str, list[Path]] = {}
    for name, text in arms:
        if problem := _name_problem(name):
            findings.add("names of arms that cannot be used", problem, "--arm", "", "Write NAME=FILE, as in yolo=runs/yolo_s0.json.")
            continue
        files = found.setdefault(name, [])
        for part in _parts(text):
            files += _expand(part, f"arm {name}", findings)
    for name, files in found.items():
        unique = {file.resolve(): file for file in reversed(files)}
        found[name] = sorted(unique.values(), key=lambda file: _natural(str(file)))
        if len(found[name]) > MAX_FILES:
            message = f"arm {name} has {len(found[name]):,} files, and one file a seed is at most {MAX_FILES:,}"
            findings.add("arms with too many files", message, "--arm", "", "Name the files of one arm by a narrower pattern.")
    return found


def _name_problem(name: str) -> str:
    if not name or name != name.strip() or not name.isprintable():
        return f"the name {name!r} is empty, or has spaces around it or characters that are not printed"
    return f"the name {name[:30]!r}... is longer than {LONGEST_NAME} characters" if len(name) > LONGEST_NAME else ""


def _parts(text: str) -> list[str]:
    """Return the paths in a text. A comma separates, unless there is a file whose name has it."""
    return [text] if os.path.lexists(os.path.expanduser(text)) else [part.strip() for part in text.split(",")]


def _expand(text: str, arm: str, findings: Findings) -> list[Path]:
    path = os.path.expanduser(text)
    if not text:
        findings.add("arms without a file", "a path is empty", arm, "", "Write NAME=FILE, or NAME=FILE,FILE.")
    elif os.path.lexists(path):
        return [Path(path)]
    elif _PATTERN.search(path):
        if matches := glob.glob(path):
            return [Path(match) for match in matches]
        findings.add(
            "patterns without a file", f"no file matches {readable(text)}", arm, "", f"The current folder is {readable(os.getcwd())}."
        )
    else:
        findings.add(
            "files that do not exist", f"{readable(text)} does not exist", arm, "", f"The current folder is {readable(os.getcwd())}."
        )
    return []


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers in a text by their value."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBERS.split(text) if part]


def seeds_of(arms: Mapping[str, Sequence[Path]]) -> Seeds:
    """Return the seed of each file.

    The number in the names counts where the files of every arm differ in one number alone, and each arm has the numbers of every smaller
    one. Else files are counted 0, 1, 2 in their order. An arm of one file takes the only number of its name if the others have it.
    """
    several = {name: _numbers([str(file) for file in files]) for name, files in arms.items() if len(files) > 1}
    known = [set(numbers) for numbers in several.values() if numbers]
    counted = {name: tuple(range(len(files))) for name, files in arms.items()}
    if not several:
        return Seeds(counted, "Each arm has one file, which is seed 0.")
    if any(not numbers for numbers in several.values()):
        return Seeds(counted, "Seeds are counted 0, 1, 2 in the order of the files: their names do not differ in one number alone.")
    if any(not (a <= b or b <= a) for a in known for b in known):
        return Seeds(counted, "Seeds are counted 0, 1, 2 in the order of the files: the arms have other numbers in their names.")
    common = set.intersection(*known)
    found = {name: several.get(name) or (_single(arms[name][0], common),) for name in arms}
    return Seeds(found, "Seeds are the numbers in the names of the files.")


def _numbers(names: Sequence[str]) -> tuple[int, ...]:
    """Return the number in which the names differ, name by name; empty if they differ in anything else."""
    parts = [_NUMBERS.split(name) for name in names]
    if len({len(each) for each in parts}) != 1:
        return ()
    differing = [index for index, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    if len(differing) != 1 or differing[0] % 2 == 0:
        return ()
    numbers = tuple(int(each[differing[0]]) for each in parts)
    return numbers if len(set(numbers)) == len(numbers) and max(numbers) <= MAX_SEED else ()


def _single(file: Path, common: set[int]) -> int:
    """Return the seed of the only file of an arm: the number in its name if other arms have it, else their smallest."""
    numbers = [int(number) for number in _NUMBERS.findall(file.name)]
    return numbers[0] if len(numbers) == 1 and numbers[0] in common else min(common)
