"""A ranked search as grids: suggestions and importance for people, and every suggestion for CSV; and as JSON."""

from __future__ import annotations

from typing import Any

from gfl_lab import naming
from gfl_lab.report import columns
from gfl_lab.report.formatting import MISSING, format_number
from gfl_lab.report.grid import Cell, Column, Grid, Row, Sheet, Tone
from gfl_lab.report.ranking import Importance, Ranking
from gfl_lab.report.table_data import lower
from gfl_lab.results.search import DONE, FAILED, INVALID, REPEAT, STOPPED, SearchRow, SuggestionRow, state_text


def ranking_sheet(ranking: Ranking) -> Sheet:
    """Return the ranking as every form for people shows it."""
    search = ranking.search
    return Sheet(
        name=search.name,
        title=f"{search.name} · {search.profile}",
        heading=search.question or search.name,
        subject=f"{search.name} on {search.profile} ({search.data})",
        data="",
        grids=(suggestion_grid(ranking), *([_importance(ranking.importance)] if isinstance(ranking.importance, Importance) else [])),
        notes=ranking.notes,
    )


def suggestion_grid(ranking: Ranking) -> Grid:
    """Return one row a suggestion, the best first."""
    search = ranking.search
    settings = [Column(key, key) for key in ranking.keys]
    metric = naming.METRICS[search.metric]
    value = Column(metric.title, search.metric, help=metric.help, unit=metric.unit)
    shown = (columns.RANK, columns.NUMBER, *settings, value, columns.STATE, columns.TRIAL)
    rows = []
    for place, row in ranking.rows:
        cells = [Cell(str(place or MISSING), value=place), Cell(str(row.number), value=row.number)]
        cells += [Cell(naming.setting_text(row.settings[key])) for key in ranking.keys]
        cells += [Cell(_value_text(search, row), value=row.value), Cell(state_text(row)), Cell(row.trial)]
        tone = Tone.PLAIN if row.state == DONE else Tone.FAINT
        rows.append(Row(row.trial, tuple(cells), tone, strong=place == 1 and row.state == DONE))
    return Grid(shown, tuple(rows), named=False)


def _importance(found: Importance) -> Grid:
    rows = tuple(Row(key, (Cell(key), Cell(f"{share:.2f}", value=share))) for key, share in found.shares.items())
    return Grid((columns.SETTING, columns.IMPORTANCE), rows, shares=True)


def _value_text(search: SearchRow, row: SuggestionRow) -> str:
    if row.value is None or row.state == FAILED:
        return MISSING
    return format_number(search.metric, row.value) + ("" if row.state == DONE else "*" if row.state == STOPPED else " so far")


# --- other programs -------------------------------------------------------------------------------


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """Return the ranking as ``gfl-lab table --json`` prints it (docs/search.md)."""
    search, found = ranking.search, ranking.importance
    return {
        "format": naming.FORMAT_VERSION,
        "kind": "search",
        "experiment": search.name,
        "profile": search.profile,
        "question": search.question,
        "data": search.data,
        "metric": search.metric,
        "higher_is_better": naming.METRICS[search.metric].higher_is_better,
        "seed": search.seed,
        "trials": search.trials,
        "exhausted": search.exhausted,
        "space": dict(search.space),
        "scheduler": dict(search.scheduler),
        "sampler": dict(search.sampler),
        "importance": {"of": found.of, "shares": {key: round(value, 6) for key, value in found.shares.items()}}
        if isinstance(found, Importance)
        else None,
        "rows": [
            {
                "rank": place,
                "number": row.number,
                "settings": dict(row.settings),
                "value": row.value,
                "state": row.state,
                "epoch": row.epoch,
                "epochs": row.epochs,
                "seconds": round(row.seconds, 3),
                "metrics": dict(row.metrics),
                "trial": row.trial,
                "reason": row.reason,
            }
            for place, row in ranking.rows
        ],
        "not_counted": [
            {"number": row.number, "settings": dict(row.settings), "state": row.state, "reason": row.reason}
            for row in search.suggestions
            if row.state in (INVALID, REPEAT)
        ],
        "footnotes": list(ranking.notes),
    }


def data_grid(ranking: Ranking) -> Grid:
    """Return one row a suggestion with every metric; unknown values are empty."""
    metrics = [key for key in naming.METRICS if any(key in row.metrics for _, row in ranking.rows)]
    titles = ["rank", "number", *ranking.keys, "metric", "value", "state", "epoch", "epochs", "trial", *metrics]
    rows = []
    for place, row in ranking.rows:
        texts = [str(place or ""), str(row.number), *(lower(row.settings.get(key)) for key in ranking.keys), ranking.search.metric]
        texts += ["" if row.value is None else str(row.value), row.state, str(row.epoch), str(row.epochs), row.trial]
        texts += [str(row.metrics.get(key, "")) for key in metrics]
        rows.append(Row(row.trial, tuple(Cell(text) for text in texts)))
    return Grid(tuple(Column(title) for title in titles), tuple(rows), named=False)
