"""The Guide page: the meaning of each number and mark."""

from __future__ import annotations

import streamlit as st

from dashboard import grid_html, theme
from gfl_lab import naming
from gfl_lab.report import columns


def _anchored(key: str, title: str) -> str:
    """Return a title that the head of a column links to."""
    return f'<span id="{theme.text(grid_html.anchor(key))}">{theme.text(title)}</span>'


theme.header("How to read this")

st.markdown(
    """
#### The AP table
Each row is a **variant**: all settings, no seed. Numbers are means over its finished seeds; **±** is the sample standard
deviation over seeds, and is missing where there is one seed: then a small difference may be chance. The signed number
below is the **difference to the baseline**, paired over the seeds that both have finished.

**Published** columns hold the numbers of the paper. They are marked *not comparable* when our data, backbone or schedule
are others; the footnote says which. Then only the direction of a difference can be held against them, not its size.

Below it stands what the differences are worth. The **95% interval** of a difference covers other seeds and other validation
images; **p** says how often chance alone would give as much, corrected for the number of rows; **detectable** is the smallest
true difference that these seeds would show 8 times in 10. A variant is *equivalent* if the difference is shown to lie within the
smallest effect that matters, 0.3 AP unless the experiment says otherwise; *inconclusive* is too little data for any of these.
*Weak* is a verdict of two seeds. Only *better* and *worse* have a colour, whatever the sign of the difference.

#### Calibration and errors
A **reliability** line says how much detections of a score overlap the nearest box of their class; QFL trains the score to be
that IoU, the diagonal. **Types of error** are TIDE's six: what each costs is the AP50 that correcting it alone would give.

#### The curves
AP is measured on the validation images after each epoch. Losses are those of single steps, smoothed where the page says
so; compare a term between variants only if both have it with the same weight. With several seeds the line is their mean
up to the step that all have reached.

#### A box distribution
With DFL the detector does not predict where a side of a box is, but how probable each of *n* + 1 distances from a cell
is (the bins, in units of the cell's stride). The decoded edge is the **expectation** of that distribution; the
**target** is the annotated edge.

- *One narrow peak at the target*: the model is sure, and right.
- *One wide peak*: it is unsure by about that width.
- *Two peaks*: it sees two places where the edge may be: a shadow, a blurred or hidden side. The expectation then lies
  between them, where neither annotator would draw it. That is how one sees that a box cannot be right with a single number.
- *Mass on the last bin*: the object reaches further than the bins do.

On generated data the two true edges and their probabilities are known: the amber marks, as high as each is probable.
A distribution that matches them has learned the truth, not noise. Without DFL a box is a **Dirac** box, one distance a side.

A side is **beside another box** when another annotated box reaches into a band along it, a tenth of its own box wide to either
hand: on photographs, where nobody knows the second edge, that is the nearest thing to a reason for two peaks.

Both variants are shown at the cell, among those assigned to the box, that gives its class the highest score; this can be
another cell in the other variant, so distances are compared on the image, not bin by bin.
"""
)

theme.heading("Columns of the differences", "The same words explain the head of each column.")
_COLUMNS = [[_anchored(column.key, column.title), theme.text(column.help)] for column in (columns.SEEDS, *columns.difference_columns())]
theme.show(theme.table_html([("column", "name"), ("meaning", "")], _COLUMNS))

theme.heading("Verdicts", "Colour, sign and word are always those of the table.")
_VERDICTS = [[theme.verdict_html(verdict), theme.text(meaning)] for verdict, meaning in columns.VERDICTS.items()]
theme.show(theme.table_html([("verdict", "name"), ("meaning", "")], _VERDICTS))

theme.heading("Numbers")
_ROWS = [
    [
        _anchored(metric.key, metric.title),
        theme.text(metric.unit or "–"),
        "higher" if metric.higher_is_better else "lower",
        theme.text(metric.help),
    ]
    for metric in naming.METRICS.values()
]
_ROWS.append(
    [
        "bimodality",
        "–",
        "–",
        "twice the mass of the lighter of the two heaviest modes, times the depth of the valley between them: 0 one mode, 1 two equal ones",
    ]
)
theme.show(theme.table_html([("number", "name"), ("unit", "name"), ("better", "name"), ("meaning", "")], _ROWS))

theme.heading("States")
_STATES = {
    "done": "finished; its numbers are in the table",
    "running": "a live process works on it; pages follow it by themselves",
    "failed": "it ended without a result; the reason is on the page Trials",
    "interrupted": "it was stopped and left a checkpoint: the same command goes on from there; in a search also what it stopped early",
    "planned": "not started: the same command runs it",
}
theme.show(theme.table_html([("state", "name"), ("meaning", "")], [[theme.state_html(s), _STATES[s.value]] for s in theme.STATE_TITLES]))
