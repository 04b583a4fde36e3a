"""A table as a grid of cells: text, value, style, headings and spans, made once and written by every writer.

``report.table_grid`` and ``report.ranking_grid`` make grids. ``report.writers`` and the dashboard write them, each in its own language.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LABEL, AXIS, MEASURED, PUBLISHED, TRUE_EDGES = "label", "axis", "measured", "published", "true edges"
"""Groups of columns: a row's name and seeds; settings that the variants vary (LaTeX alone shows them as columns); metrics measured here;
published values; scores against the ground-truth edges."""


class Tone(Enum):
    """Colour of a cell's text, or of its detail where it has one."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    FAINT = "faint"

    @classmethod
    def of(cls, better: bool | None) -> Tone:
        """Return the tone of a verdict: GOOD for better, BAD for worse, FAINT for none."""
        return {True: cls.GOOD, False: cls.BAD, None: cls.FAINT}[better]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as people read it, not escaped. detail: a second, smaller line, such as the difference to the baseline.
        value: the value behind the text, for sorting and for marks; None where there is none.
        tone: colour. strong: drawn bold where colour is drawn.
        best: the best value of its column, bold in every form. italic: a published value that may not be compared.
    """

    text: str
    detail: str = ""
    value: bool | float | str | None = None
    tone: Tone = Tone.PLAIN
    strong: bool = False
    best: bool = False
    italic: bool = False


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: heading. key: the metric or setting. group: one of the groups of this module.
        help: explanation, without the unit. unit: empty for numbers without one. left: text is aligned left.
    """

    title: str
    key: str = ""
    group: str = ""
    help: str = ""
    unit: str = ""
    left: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading over ``span`` columns of one group."""

    title: str
    span: int
    group: str


@dataclass(frozen=True)
class Row:
    """One row; ``tone`` and ``strong`` apply to all of its cells."""

    name: str
    cells: tuple[Cell, ...]
    tone: Tone = Tone.PLAIN
    strong: bool = False


@dataclass(frozen=True)
class Interval:
    """A difference with its 95% interval, for writers that draw it."""

    name: str
    low: float
    mean: float
    high: float
    tone: Tone


@dataclass(frozen=True)
class Grid:
    """Columns and rows of cells in the same order.

    Attributes:
        title: heading above; empty for the main grid of a sheet.
        headings: over the columns that are no labels, group by group. intervals: differences that may be drawn as a plot.
        named: the first column holds the names of the rows. shares: the second column holds shares of 1 that may be drawn as bars.
        note: a line below it.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    headings: tuple[Heading, ...] = ()
    intervals: tuple[Interval, ...] = ()
    named: bool = True
    shares: bool = False
    note: str = ""

    def group(self, *names: str) -> list[int]:
        """Return the positions of the columns of these groups."""
        return [i for i, column in enumerate(self.columns) if column.group in names]

    @property
    def shown(self) -> list[int]:
        """Positions of the columns that every form but LaTeX shows."""
        return [i for i, column in enumerate(self.columns) if column.group != AXIS]


@dataclass(frozen=True)
class Sheet:
    """Everything that a form of a table shows.

    Attributes:
        name: of the experiment, for labels. title: of a window. heading: the question. subject: experiment and profile.
        data: the data set in words; empty where ``subject`` has it. notes: plain sentences.
    """

    name: str
    title: str
    heading: str
    subject: str
    data: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]

    @property
    def about(self) -> str:
        """Experiment, profile and data in one line."""
        return self.subject + (f" ({self.data})" if self.data else "")
