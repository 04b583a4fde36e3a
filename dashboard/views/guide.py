"""The Guide page: a list of contents, and the meaning of each number and mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from dashboard import theme
from gfl_lab import naming
from gfl_lab.report import columns
from gfl_lab.report.grid import Column

_TABLE = """
Each row is a **variant**: all settings, no seed. Numbers are means over its finished seeds; **±** is the sample standard
deviation over seeds, and is missing with one seed: then a small difference may be chance. The signed number
below is the **difference to the baseline**, paired over the seeds that both have finished. **Bold** is a column's best mean, which
is no verdict.

**Published** columns hold the numbers of the paper. They are marked *not comparable* when our data, backbone or schedule
differ; the footnote says which. Then compare the direction of a difference, not its size.

The table of differences has the evidence. The **95% interval** of a difference covers other seeds and other validation
images; **p** says how often chance alone would give as much, corrected for the number of rows; **detectable** is the smallest
true difference that these seeds would show 8 times in 10. A variant is *equivalent* if the difference is shown to lie within the
smallest effect that matters, 0.3 AP unless the experiment says otherwise; *inconclusive* is too little data for any of these.
*Weak* is a verdict of two seeds. Only *better* and *worse* have a colour, whatever the sign of the difference.
"""

_CURVES = """
AP is measured on the validation images after each epoch. Losses are those of single steps, smoothed where the page says
so; compare a term between variants only if both have it with the same weight. With several seeds the line is their mean
up to the step that all have reached.

The page first says where AP **still rises**: the slope of AP over the last quarter of the epochs (three at least), where its 95%
interval leaves 0 out. *Level within noise* is an interval that holds 0. The noise is the spread of the slopes over seeds; with
one seed, the scatter of the epochs about a line, enlarged for consecutive epochs that correlate by 0.5. A loss **rose** if its median in the last epoch lies above all
its values in the first.
"""

_BOX = """
With DFL the detector does not predict where a side of a box is, but how probable each of *n* + 1 distances from a location
is (the bins, in units of the location's stride). The decoded edge is the **expectation** of that distribution; the
**target** is the annotated edge.

- *One narrow peak at the target*: the model is sure, and right.
- *One wide peak*: it is unsure by about that width.
- *Two peaks*: it sees two places where the edge may be: a shadow, a blurred or hidden side. The expectation then lies
  between them, where neither annotator would draw it: no single number is right for this side.
- *Mass on the last bin*: the object reaches further than the bins do.

On generated data the two true edges and their probabilities are known: the amber marks, as high as each is probable.
A distribution that matches them has learned the truth, not noise. Without DFL a box is a **Dirac** box, one distance a side.

A side is **beside another box** when another annotated box reaches into a band along it, a tenth of its own box wide to either
hand. Photographs have no second annotated edge; there such a box is a likely reason for two peaks.

Both variants are shown at the location, among those assigned to the box, that gives its class the highest score; this can be
another location in the other variant, so distances are compared on the image, not bin by bin.
"""

_CALIBRATION = """
A **reliability** line says how much detections of a score overlap the nearest box of their class; QFL trains the score to be
that IoU, the diagonal. **Overconfident** detections have a mean score above their mean IoU, **underconfident** ones below it,
if the 95% interval over other images leaves 0 out.

The correlation of score and IoU is over detections that overlap a box of their class by IoU 0.5 or more, as in the paper on IoU-Net.
Over all detections it would mostly say that boxes of low scores hit nothing.
"""

_ERRORS = """
**Types of error** are TIDE's six: what each costs is the AP50 that correcting it alone would give.
"""

_STATES = {
    "done": "finished; its numbers are in the table",
    "running": "a live process works on it; pages follow it by themselves",
    "failed": "it ended without a result; the reason is on the page Trials",
    "interrupted": "it was stopped and left a checkpoint: the same command continues from there; in a search also trials that it stopped early",
    "planned": "not started: the same command runs it",
}


def _explained(key: str, title: str) -> str:
    """Return a title that the head of a column links to."""
    return f'<span id="{theme.text(theme.about_id(key))}">{theme.text(title)}</span>'


def _columns(found: Sequence[Column]) -> None:
    rows = [[_explained(column.key, column.title), theme.text(column.unit or "–"), theme.text(column.help)] for column in found]
    theme.show(theme.table_html([("column", "name"), ("unit", "name"), ("meaning", "")], rows))


def _calibration() -> None:
    st.markdown(_CALIBRATION)
    _columns(columns.CALIBRATION_COLUMNS)


def _box() -> None:
    st.markdown(_BOX)
    _columns(columns.SIDE_COLUMNS)


def _verdicts() -> None:
    rows = [[theme.verdict_html(verdict), theme.with_code(meaning)] for verdict, meaning in columns.VERDICTS.items()]
    theme.show(theme.table_html([("verdict", "name"), ("meaning", "")], rows))


def _numbers() -> None:
    rows = [
        [
            _explained(metric.key, metric.title),
            theme.text(metric.unit or "–"),
            "higher" if metric.higher_is_better else "lower",
            theme.text(metric.help),
        ]
        for metric in naming.METRICS.values()
    ]
    theme.show(theme.table_html([("number", "name"), ("unit", "name"), ("better", "name"), ("meaning", "")], rows))


def _states() -> None:
    rows = [[theme.state_html(state), _STATES[state.value]] for state in theme.STATE_TITLES]
    theme.show(theme.table_html([("state", "name"), ("meaning", "")], rows))


# anchor, title, a line below it, and what draws the section
_SECTIONS: tuple[tuple[str, str, str, Callable[[], object]], ...] = (
    ("the-table", "The AP table", "", lambda: st.markdown(_TABLE)),
    ("differences", "Columns of the differences", "", lambda: _columns((columns.SEEDS, *columns.difference_columns()))),
    ("verdicts", "Verdicts", "Colour, sign and word are always those of the table.", _verdicts),
    ("numbers", "Metrics", "", _numbers),
    ("curves", "The curves", "", lambda: st.markdown(_CURVES)),
    ("box-distributions", "A box distribution", "", _box),
    ("calibration", "Calibration", "", _calibration),
    ("errors", "Types of error", "", lambda: st.markdown(_ERRORS)),
    ("states", "States of a trial", "", _states),
)

theme.header("How to read this")
theme.contents([(anchor, title) for anchor, title, _, _ in _SECTIONS])
for anchor, title, under, draw in _SECTIONS:
    theme.heading(title, under, anchor)
    draw()
