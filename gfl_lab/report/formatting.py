"""The cells of the table, as text that all human forms share: terminal, Markdown, LaTeX, HTML, dashboard.

Each form escapes them for its own language: names come from files and are data, never markup. A real minus sign is written.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from gfl_lab import naming
from gfl_lab.report.comparison import SMALLEST, Comparison, about
from gfl_lab.report.statistics import MAX_SEEDS, NO_SIGNAL
from gfl_lab.report.table import UNFAIR, Delta, Stat, Table, TableRow

MISSING = "–"
OURS, TRUTH, PUBLISHED = "ours", "truth", "published"


@dataclass(frozen=True)
class Column:
    """A metric's column: ``group`` is OURS, TRUTH (scores against known edges) or PUBLISHED."""

    key: str
    title: str
    group: str
    help: str = ""


@dataclass(frozen=True)
class Cell:
    """``value`` and ``delta`` as people read them (``delta`` is empty where there is none or a column shows none).

    ``best`` marks the column's best mean; ``better`` is the verdict on the difference: True for better, False for worse, None where it is
    not resolved, weighed by one seed, or not judged at all (all metrics but AP, AP50 and AP75). Colour follows it, never the sign alone.
    """

    value: str
    delta: str = ""
    best: bool = False
    better: bool | None = None


@dataclass(frozen=True)
class Layout:
    """Columns and, for each row of the table, its cells in the same order."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def group(self, name: str) -> list[int]:
        """Positions of the columns of one group."""
        return [i for i, column in enumerate(self.columns) if column.group == name]


def digits_of(key: str) -> int:
    return naming.METRICS[key].digits if key in naming.METRICS else 3


def format_number(key: str, value: float, signed: bool = False) -> str:
    """A metric's value with its digits and a real minus sign: 39.2, −0.3; ``signed`` adds the plus, except to zero."""
    text = f"{value:+.{digits_of(key)}f}"
    if float(text) == 0:
        return text[1:]
    return ("−" if text[0] == "-" else "+" if signed else "") + text[1:]


def format_stat(key: str, found: Stat | None) -> str:
    """39.2 ± 0.1; 39.2 for one seed; an en dash for none."""
    if found is None:
        return MISSING
    spread = "" if found.std is None else f" ± {format_number(key, found.std)}"
    return format_number(key, found.mean) + spread


def format_delta(key: str, found: Delta | None) -> str:
    """+0.7 ± 0.1; empty where there is no difference to give."""
    if found is None:
        return ""
    spread = "" if found.std is None else f" ± {format_number(key, found.std)}"
    return format_number(key, found.mean, signed=True) + spread


def seeds_text(row: TableRow) -> str:
    """Finished trials of a row: 3, or 2/3 while some are missing; marked where the row may not be compared."""
    done = row.counts.get("done", 0)
    return (str(done) if done == len(row.trials) else f"{done}/{len(row.trials)}") + (f" {UNFAIR}" if row.unfair else "")


def metric_title(key: str) -> str:
    return naming.METRICS[key].title if key in naming.METRICS else key


def rounded(key: str, value: float) -> float:
    return round(value, digits_of(key))


def layout(table: Table) -> Layout:
    """The cells of every human form. Differences are shown for AP metrics; JSON and CSV hold them for all."""
    columns = []
    for key in table.columns:
        known = naming.METRICS.get(key)
        help_ = known.help + (f" [{known.unit}]" if known.unit else "") if known else ""
        columns.append(Column(key, metric_title(key), TRUTH if key in naming.TRUTH_METRICS else OURS, help_))
    columns += [Column(key, metric_title(key), PUBLISHED, "as published") for key in table.published]
    columns.sort(key=lambda column: (OURS, PUBLISHED, TRUTH).index(column.group))

    best: dict[str, float] = {}
    for key in table.columns:
        means = [rounded(key, row.metrics[key].mean) for row in table.rows if key in row.metrics]
        if len(set(means)) > 1 and key in naming.METRICS:
            best[key] = max(means) if naming.METRICS[key].higher_is_better else min(means)

    verdicts = {(each.variant, each.metric): each.better for each in table.comparisons}
    rows = []
    for row in table.rows:
        cells = []
        for column in columns:
            key = column.key
            if column.group == PUBLISHED:
                value = row.reference.metrics.get(key) if row.reference else None
                cells.append(Cell(MISSING if value is None else format_number(key, value)))
                continue
            found = row.metrics.get(key)
            delta = row.delta.get(key) if key in naming.AP_METRICS else None
            better = None if delta is None else verdicts.get((row.variant, key))
            # Not against the known edges: a Dirac box has no false modes for free.
            is_best = column.group == OURS and found is not None and key in best and rounded(key, found.mean) == best[key]
            cells.append(Cell(format_stat(key, found), format_delta(key, delta), is_best, better))
        rows.append(tuple(cells))
    return Layout(tuple(columns), tuple(rows))


def ranked(table: Table, column: Column) -> list[int]:
    """Positions of the table's rows by a column's value, the best first; rows without one last, equal ones in the plan's order."""

    def value(row: TableRow) -> float | None:
        if column.group == PUBLISHED:
            return row.reference.metrics.get(column.key) if row.reference else None
        found = row.metrics.get(column.key)
        return None if found is None else found.mean

    sign = -1 if column.key not in naming.METRICS or naming.METRICS[column.key].higher_is_better else 1
    known = [(i, found) for i, row in enumerate(table.rows) if (found := value(row)) is not None]
    first = [i for i, _ in sorted(known, key=lambda each: sign * each[1])]
    return first + [i for i in range(len(table.rows)) if i not in first]


def published_title(table: Table) -> str:
    """Heading over the published columns."""
    return "published" if table.comparable else "published (not comparable)"


def group_titles(table: Table, found: Layout) -> list[tuple[str, int, str]]:
    """(heading, number of columns, group) for each group that has columns, in order."""
    titles = {OURS: f"{table.profile}", TRUTH: "against the known edges", PUBLISHED: published_title(table)}
    return [(titles[group], len(found.group(group)), group) for group in (OURS, PUBLISHED, TRUTH) if found.group(group)]


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


# --- against the baseline -------------------------------------------------------------------------


def comparison_head(table: Table) -> tuple[str, ...]:
    """Titles of the columns of ``comparison_rows``."""
    smallest = table.compared[0].smallest if table.compared else SMALLEST
    return "variant", "Δ AP", "95% interval", "p", "resolves", f"{smallest:g} needs", "verdict"


def comparison_title(table: Table) -> str:
    """Heading of the table of comparisons."""
    name = table.baseline.variant if table.baseline else ""
    return f"Differences in AP to the baseline ({name})"


def comparison_rows(table: Table) -> list[tuple[str, ...]]:
    """The comparisons in AP as people read them, one row a variant, under ``comparison_head``."""
    return [_comparison(each) for each in table.compared]


def _comparison(each: Comparison) -> tuple[str, ...]:
    found = each.found

    def points(value: float | None, signed: bool = False) -> str:
        return MISSING if value is None else format_number("AP", value, signed)

    if found.low is not None and found.high is not None:
        interval = f"{points(found.low, True)} to {points(found.high, True)}"
    else:
        told = found.image_half is not None and each.verdict != NO_SIGNAL
        interval = f"± {points(found.image_half)} (images)" if told else MISSING
    return each.variant, points(found.mean, True), interval, p_text(each.p), points(each.detectable), needed_text(each), verdict_text(each)


def p_text(p: float | None) -> str:
    """p as people read it; an en dash where there is none."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def needed_text(each: Comparison) -> str:
    """``12 seeds``; ``≥ 330 images`` where these images are too few however many seeds there are; an en dash where nothing is known."""
    if each.p is None:
        return MISSING
    if each.images_needed is not None:
        return f"≥ {about(each.images_needed)} images"
    return f"over {MAX_SEEDS} seeds" if each.needed is None else f"{each.needed} seeds"


def verdict_text(each: Comparison) -> str:
    """The verdict, marked where it rests on two seeds: ``better (weak)``."""
    return each.verdict + (" (weak)" if each.weak else "")
