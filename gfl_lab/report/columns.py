"""The columns that people read: title and explanation of each, once for tables, dashboard and documents.

``naming.METRICS`` has the metrics. This module has the columns that compare variants, the verdicts, those of calibration and box sides,
and the columns of a search. ``docs/reference.py`` writes them into docs/tables.md.
"""

from __future__ import annotations

from gfl_lab.report.comparison import BETTER, EQUIVALENT, INCONCLUSIVE, MIN_EFFECT, WORSE
from gfl_lab.report.grid import LABEL, Column
from gfl_lab.report.statistics import NO_LOOK, NO_RECORDS, NO_SIGNAL, NO_SPREAD, ONE_SEED

VARIANT = Column("variant", "variant", LABEL, "one combination of settings, trained once for each seed", left=True)
SEEDS = Column("seeds", "seeds", LABEL, "finished seeds; 2/3 if one of three is missing")


def difference_columns(min_effect: float = MIN_EFFECT, metric: str = "AP") -> tuple[Column, ...]:
    """Return the columns of the table of differences in ``metric``. ``min_effect``, in AP, is the smallest difference that matters."""
    least = f"{min_effect:g}"
    return (
        VARIANT,
        Column(
            f"Δ {metric}",
            "difference",
            help="mean difference to the baseline, paired by seed; of imported arms, the difference of their means",
        ),
        Column(
            "95% interval",
            "interval",
            help="range of the true difference, over other seeds and other validation images; with one seed ± over images alone",
        ),
        Column("p", "p", help="chance of a difference at least this large without a true one; corrected by Holm's method over the rows"),
        Column("detectable", "detectable", help="smallest true difference that this number of seeds shows in 8 of 10 cases (80% power)"),
        Column(
            f"needed for {least} AP",
            "needed",
            help=f"seeds that show a true difference of {least} AP in 8 of 10 cases; or the images, if no number of seeds is enough",
        ),
        Column("verdict", "verdict", help="conclusion on the difference"),
    )


PAIR_DIFFERENCE = Column(
    "difference", "difference", help="first variant minus second, paired by seed; of imported arms, the difference of their means"
)
PAIR_HALF = Column("± 95%", "half", help="half width of the difference's 95% interval; not corrected for the number of rows")
PAIR_P = Column("p", "p", help="as in the table: corrected by Holm's method over the table's rows")
PAIR_VERDICT = Column("verdict", "verdict", help="conclusion on the difference", left=True)
PAIR_COUNT = Column(
    "errors (all scores)",
    "count",
    help="errors of this type at any score, as TIDE counts them, mean over seeds: first variant / second; those of low scores cost little AP",
)
PAIR_ABOUT = Column("", "about", left=True)
DIFFERING = Column(
    "differs in", "differing", help="setting, data, code or environment in which the trials of the first shared seed differ", left=True
)


def pair_columns(title: str, variant: str, reference: str) -> tuple[Column, ...]:
    """Return the first columns of a comparison of two variants: the row's name (``title``), both values, difference and interval."""
    values = (Column(variant, "value", help="mean over seeds"), Column(reference, "reference", help="mean over seeds"))
    return (Column(title, "name", left=True), *values, PAIR_DIFFERENCE, PAIR_HALF)


CALIBRATION_COLUMNS = (
    Column(
        "calibration error",
        "calibration_error",
        help="mean distance of score and IoU, bin by bin of the score, weighted by detections; lower is better",
    ),
    Column(
        "score and IoU",
        "score_iou",
        help="correlation of score and IoU over detections with an IoU of 0.5 or more: Pearson's of the values, Spearman's of their order; 1 if the score puts better boxes first",
    ),
    Column(
        "spread and IoU",
        "spread_iou",
        help="correlation of the mean spread of a box's four sides with the IoU at its location; negative where narrow distributions mean good boxes",
    ),
)
SIDE_COLUMNS = (
    Column("entropy", "entropy", help="uncertainty of a side's distribution; 0 if one bin has all the mass", unit="nats"),
    Column("spread", "spread", help="standard deviation of a side's distribution", unit="bins"),
    Column("bimodal", "bimodal", help="sides with two modes or more", unit="% of sides"),
    Column("tail", "tail", help="mass on the last bin, where the object reaches further than the bins do", unit="% of mass"),
    Column("error", "error", help="distance of the decoded edge from the annotated one", unit="px"),
    Column(
        "bimodality",
        "bimodality",
        help="twice the mass of the lighter of the two heaviest modes, times the depth of the valley between them: 0 one mode, 1 two equal ones",
    ),
)
"""Numbers of box sides."""

RANK = Column("rank", "rank", help="place by the metric; finished suggestions only")
NUMBER = Column("no.", "number", help="number of the suggestion, from 0, in the order in which Optuna made them")
STATE = Column("state", "state", help="done, failed, running, or stopped early by ASHA at an epoch", left=True)
TRIAL = Column("trial", "trial", help="id of the trial: the name of its run directory", left=True)
SETTING = Column("setting", "setting", left=True)
IMPORTANCE = Column(
    "importance", "importance", help="share of the setting in the difference between the best quarter and the rest (PED-ANOVA)"
)

VERDICTS = {
    BETTER: "the variant is better than the baseline: p < 0.05 after Holm's correction",
    WORSE: "the variant is worse than the baseline: p < 0.05 after Holm's correction",
    EQUIVALENT: "the difference lies within the smallest effect that matters, shown at 5%; `better, within ±0.3` is a difference too small to matter",
    INCONCLUSIVE: "too little data to show a difference, or to show that it is too small to matter; it does not mean equal",
    ONE_SEED: "the spread over seeds is unknown, so there is no interval; train a second seed, better a third",
    NO_SIGNAL: "the metric is 0.0 or below the smallest effect that matters in every trial of both variants, or both have the same numbers in every seed and every sample of the images",
    NO_SPREAD: "every seed gave exactly the same difference",
    NO_RECORDS: "`eval.npz` of a trial is missing or damaged, or two trials were evaluated on different images; `gfl-lab run` evaluates again",
    NO_LOOK: "the looks were fixed beforehand, and the first one is still to come; until then the difference is preliminary",
}
"""{verdict: its meaning}. ``(weak)`` after a verdict: it rests on two seeds."""
