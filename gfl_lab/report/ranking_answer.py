"""The best suggestion of a search in a sentence, and why its number flatters it."""

from __future__ import annotations

from gfl_lab import naming
from gfl_lab.report.answer import Answer
from gfl_lab.report.formatting import format_number, metric_title
from gfl_lab.report.ranking import Ranking, has_no_signal
from gfl_lab.wording import plural


def ranking_answer(ranking: Ranking) -> Answer:
    """Return the best finished suggestion with its settings and its value."""
    metric, done = ranking.search.metric, ranking.best
    if not done:
        return Answer("No trial has finished, so no suggestion is the best yet.")
    title = metric_title(metric)
    if has_no_signal(metric, done):
        return Answer(f"{title} is 0.0 in every finished trial: no suggestion is the best.")
    best = done[0]
    assert best.value is not None
    settings = naming.variant_name({key: best.settings[key] for key in ranking.keys})
    return Answer(
        f"Best of {plural(len(done), 'finished trial')}: {settings}, with {title} {format_number(metric, best.value)}.",
        "It was chosen for this number, on these images and with this seed, so the number flatters it. "
        "gfl-lab confirm compares it with the defaults over other seeds.",
    )
