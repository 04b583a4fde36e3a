"""Rules between the keys of an experiment file, each with the place of its problem."""

from __future__ import annotations

import graphlib
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import Problem
from gfl_lab.spec.cfg_options import is_option
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.messages import check_keys
from gfl_lab.spec.search import search_problems
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.source import Source
from gfl_lab.spec.value_text import repeated, same, show
from gfl_lab.spec.values import value_problems


def varied_problems(raw: dict[str, Any], source: Source) -> list[Problem]:
    """Return the problems of a file in which nothing varies, or too much does."""
    if raw.get("kind") == "search":
        return []
    given = [key for key in ("axes", "variants") if key in raw]
    if not given:
        hint = "Give `axes`, for example `axes: {qfl: [false, true]}`, or `variants`."
        return [Problem("nothing varies: there are neither axes nor variants", source.place(), hint)]
    if len(given) == 2:
        hint = "Write the combinations of the axes as variants too, or split the file in two."
        return [Problem("an experiment has axes or variants, not both", source.place("variants"), hint)]
    hint = "List the values to try, or to train the defaults alone give one variant: `variants: {defaults: {}}`."
    return [Problem(f"{key} is empty: nothing varies", source.place(key), hint) for key in given if raw[key] == {}]


def seed_problems(seeds: list[Any], source: Source) -> list[Problem]:
    """Return a problem for each seed that is given twice."""
    return [
        Problem(
            f"seeds list {show(seeds[index])} twice, first in line {source.line('seeds', first)}: each may stand once",
            source.place("seeds", index),
            "Keep one.",
        )
        for index, first in repeated(seeds).items()
    ]


def looks_problems(seeds: dict[str, Any], raw: dict[str, Any], source: Source) -> list[Problem]:
    """Return the problems of seeds that are given as looks: they do not rise, or ``min_effect`` is given twice."""
    looks, problems = seeds.get("looks"), []
    if isinstance(looks, list) and all(type(each) is int for each in looks) and looks != sorted(set(looks)):
        message = f"seeds.looks is {show(looks)}: each look must have more seeds than the one before"
        problems.append(Problem(message, source.place("seeds", "looks"), f"Write {show(sorted(set(looks)))}."))
    until = seeds.get("until_resolved")
    if until is not None and "min_effect" in raw and raw["min_effect"] != until:
        message = f"min_effect is {show(raw['min_effect'])} and seeds.until_resolved {show(until)}: both are the same number"
        problems.append(Problem(message, source.place("min_effect"), "Give seeds.until_resolved alone."))
    return problems


def table_problems(table: dict[str, Any], axes: dict[str, Any], source: Source) -> list[Problem]:
    """Return the problems of ``table``: rows that are no axes, unknown metrics, and repetitions."""
    problems = []
    rows, metrics = [value if isinstance(value := table.get(key), list) else [] for key in ("rows", "metrics")]
    for index, key in enumerate(rows):
        if axes and isinstance(key, str) and key not in axes:
            problems.append(Problem(f"{key!r} is not an axis", source.place("table", "rows", index), nearest(key, axes)))
    for index, key in enumerate(metrics):
        if isinstance(key, str) and key not in naming.METRICS:
            problems.append(Problem(f"{key!r} is not a metric", source.place("table", "metrics", index), nearest(key, naming.METRICS)))
    for name, values in (("rows", rows), ("metrics", metrics)):
        for index in repeated(values):
            problems.append(Problem(f"table.{name} lists {show(values[index])} twice", source.place("table", name, index), "Keep one."))
    return problems


def kind_problems(raw: dict[str, Any], source: Source, problems: list[Problem]) -> list[Problem]:
    """Return ``problems`` and the parts that an ablation and a search may not take from each other."""
    if raw.get("kind") == "search":
        own = "A search draws its settings itself: give them under search.space."
        found = [
            Problem(f"{key!r} belongs to an ablation", source.place(key), own)
            for key in ("axes", "variants", "when", "baseline", "min_effect", "published_table")
            if key in raw
        ]
        if isinstance(raw.get("seeds"), dict) or (isinstance(raw.get("seeds"), list) and len(raw["seeds"]) > 1):
            hint = "`gfl-lab confirm` compares the best with the defaults over several seeds."
            found.append(Problem("a search has one seed: its suggestions differ in their settings alone", source.place("seeds"), hint))
        if "search" not in raw:
            found.append(
                Problem("'search' is missing: what is searched, and for how many trials", source.place("kind"), "See docs/search.md.")
            )
        elif isinstance(raw["search"], dict):
            fixed = raw["overrides"] if isinstance(raw.get("overrides"), dict) else {}
            found += search_problems(raw["search"], fixed, source)
        return problems + found
    unequal = "Trials that a scheduler stops early have unequal budgets, so rows could not be compared. Give `kind: search`."
    found = [
        Problem(f"{key!r} belongs to a search, not to an ablation", source.place(key), unequal)
        for key in ("search", "scheduler")
        if key in raw
    ]
    return [problem for problem in problems if problem.place != source.place("scheduler")] + found


def axes_problems(axes: dict[str, Any], source: Source) -> list[Problem]:
    """Return the problems of ``axes``: unknown settings, and values that are wrong or repeated."""
    known = {*Settings.model_fields, *filter(is_option, axes)}
    problems = check_keys(axes, known, source, ("axes",))
    for key, values in axes.items():
        if key not in known or not isinstance(values, list):
            continue  # reported by the file's own model
        if not values:
            problems.append(Problem(f"axes.{key} is empty: it must list the values to try", source.place("axes", key)))
        problems += value_problems(key, values, source, ("axes", key))
    return problems


def baseline_problems(baseline: Any, axes: dict[str, Any], variants: dict[str, Any], source: Source) -> list[Problem]:
    if baseline is None:
        return []
    if variants:
        if not isinstance(baseline, str) or baseline not in variants:
            message = f"baseline is {show(baseline)}, which is not a variant"
            return [Problem(message, source.place("baseline"), nearest(str(baseline), variants))]
        return []
    if not isinstance(baseline, dict):
        if not isinstance(baseline, str):
            return []  # reported by the file's own model
        return [Problem(f"baseline is {show(baseline)}: it must give a value for each axis", source.place("baseline"))]
    problems = check_keys(baseline, axes, source, ("baseline",)) if axes else []
    for key, values in axes.items():
        if key not in baseline:
            problems.append(Problem(f"baseline gives no value for axis {key!r}", source.place("baseline")))
        elif isinstance(values, list) and not _among(baseline[key], values):
            message = f"baseline.{key} is {show(baseline[key])}, which is not among the axis' values {show(values)}"
            problems.append(Problem(message, source.place("baseline", key)))
    return problems


def when_problems(when: dict[str, Any], axes: dict[str, Any], source: Source) -> list[Problem]:
    """Return the problems of ``when``: unknown axes and values, and axes that need each other."""
    problems = []
    for axis, condition in when.items():
        if axis not in axes:
            problems.append(Problem(f"when.{axis}: {axis!r} is not an axis", source.place("when", axis), nearest(axis, axes)))
        if condition == {}:
            message = f"when.{axis} is empty: it must name another axis and its value"
            problems.append(Problem(message, source.place("when", axis), "Drop it, or give a condition: `when: {reg_max: {dfl: true}}`."))
        for key, value in condition.items() if isinstance(condition, dict) else ():
            place = source.place("when", axis, key)
            if key not in axes or key == axis:
                hint = nearest(key, set(axes) - {axis}) if set(axes) - {axis} else ""
                problems.append(Problem(f"when.{axis}.{key}: the condition must name another axis", place, hint))
            elif isinstance(axes[key], list) and not _among(value, axes[key]):
                values = show(axes[key])
                problems.append(Problem(f"when.{axis}.{key} is {show(value)}, which is not among the axis' values {values}", place))
    if cycle := _cycle(
        {axis: [key for key in condition if key in when] for axis, condition in when.items() if isinstance(condition, dict)}
    ):
        hint = "Drop one of these conditions: each axis would have to apply before the other."
        problems.append(Problem(f"the conditions form a cycle: {' -> '.join(cycle)}", source.place("when", cycle[0]), hint))
    return problems


def _cycle(needs: dict[str, list[str]]) -> list[str]:
    """Return the keys of a cycle, the first also last; empty if there is none. A key that needs itself is no cycle; it has its own problem."""
    graph = {key: [other for other in others if other != key] for key, others in needs.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))  # graphlib names a key before those that need it
    return []


def _among(value: Any, values: list[Any]) -> bool:
    return any(same(value, each) for each in values)
