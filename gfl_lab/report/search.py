"""The result of a search: suggestions ranked by their metric, what the settings mattered, and a warning about the best one."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.records.files import write_text
from gfl_lab.report import export
from gfl_lab.report.formatting import MISSING, format_number
from gfl_lab.report.page import document, escaped
from gfl_lab.report.statistics import FAINT
from gfl_lab.results.search import DONE, FAILED, INVALID, REPEAT, STOPPED, SearchRow, SuggestionRow
from gfl_lab.spec.search import dimensions_of

MIN_FOR_IMPORTANCE = 12
"""Trials below which no importance is given: the best quarter would be fewer than three."""

BEST_SHARE = 0.25
FORMATS = ("json", "md", "csv", "html")


@dataclass(frozen=True)
class Importance:
    """How much each setting sets the best trials apart: shares that sum to 1, the largest first; ``of`` says of what."""

    shares: Mapping[str, float]
    of: str


@dataclass(frozen=True)
class Ranking:
    """A search as its table shows it.

    ``rows`` hold the rank, None where there is no value; ``importance`` is a sentence where it cannot be given.
    """

    search: SearchRow
    rows: tuple[tuple[int | None, SuggestionRow], ...]
    importance: Importance | str
    notes: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The searched settings, in the file's order."""
        return tuple(self.search.space)

    @property
    def best(self) -> tuple[SuggestionRow, ...]:
        """Finished suggestions, the best first: what may be confirmed."""
        return tuple(row for _, row in self.rows if row.state == DONE and row.value is not None)


def rank(search: SearchRow) -> Ranking:
    """Rank a search: by final value, stopped ones by their last; then what has no value. Invalid and repeated ones are only counted."""
    sign = -1 if naming.METRICS[search.metric].higher_is_better else 1
    shown = [row for row in search.suggestions if row.state not in (INVALID, REPEAT)]
    valued = sorted((row for row in shown if _ranks(row)), key=lambda row: (sign * row.value, row.state != DONE, row.number))
    rows = [*enumerate(valued, 1), *((None, row) for row in shown if not _ranks(row))]
    found = importance(search)
    return Ranking(search, tuple(rows), found, tuple(_notes(search, valued, found)))


def _ranks(row: SuggestionRow) -> bool:
    return row.state in (DONE, STOPPED) and row.value is not None


def importance(search: SearchRow) -> Importance | str:
    """PED-ANOVA importance (Optuna's default): what sets the best quarter of the trials apart in each setting alone.

    Over the finished trials. Where a scheduler left too few of them, over all trials at the epoch that every one has
    reached, which is said.
    """
    finished = [(row.drawn, row.value) for row in search.suggestions if row.state == DONE and row.value is not None]
    if len(finished) >= MIN_FOR_IMPORTANCE and len({value for _, value in finished}) == 1:
        return f"Importance of the settings cannot be given: all {len(finished)} finished trials have the same {search.metric}."
    if len(finished) >= MIN_FOR_IMPORTANCE:
        return Importance(_shares(search, finished), f"the final {search.metric} of {len(finished)} finished trials")
    grace = int(search.scheduler.get("grace_epochs") or 0)
    early = [(row.drawn, row.values[grace]) for row in search.suggestions if row.state not in (INVALID, REPEAT) and grace in row.values]
    if search.scheduler.get("name") == "asha" and len(early) >= MIN_FOR_IMPORTANCE:
        only = f"only {len(finished)} are finished; what helps early need not help at the end"
        return Importance(_shares(search, early), f"the {search.metric} of {len(early)} trials after epoch {grace} ({only})")
    return f"Importance of the settings needs {MIN_FOR_IMPORTANCE} finished trials, and there are {len(finished)}."


def _shares(search: SearchRow, points: list[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {dimension.key: dimension.distribution() for dimension in dimensions_of(search.space)}
    study = optuna.create_study(direction="maximize" if naming.METRICS[search.metric].higher_is_better else "minimize")
    for drawn, value in points:
        study.add_trial(create_trial(params=dict(drawn), distributions=space, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE), params=list(space))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _notes(search: SearchRow, valued: list[SuggestionRow], found: Importance | str) -> list[str]:
    notes = []
    done = [row for row in valued if row.state == DONE]
    if done and search.metric in naming.AP_METRICS and all(abs(row.value) < FAINT for row in done):
        notes.append(f"No signal: {search.metric} is 0.0 in every finished trial. The order of the rows says nothing.")
    elif done:
        notes.append(
            f"The number of the best of {len(done)} finished {'trial' if len(done) == 1 else 'trials'} flatters it: it was chosen for that number, on these images and with "
            "this seed. `gfl-lab confirm` compares it with the defaults over seeds that it was not chosen on."
        )
    if any(row.state == STOPPED for row in valued):
        notes.append("* stopped early: the value is that of its last epoch, and compares with no finished one.")
    notes.append(f"Importance: share in what sets the best quarter apart, by {found.of}." if isinstance(found, Importance) else found)
    for row in search.suggestions:
        if row.state == FAILED:
            notes.append(f"Failed: {row.number} (trial {row.trial}): {' '.join(row.reason.split())}")
    counts = {state: sum(row.state == state for row in search.suggestions) for state in (INVALID, REPEAT)}
    if counts[INVALID]:
        notes.append(f"Not counted: {counts[INVALID]} suggested combinations that the settings refuse.")
    if counts[REPEAT]:
        notes.append(f"Not counted: {counts[REPEAT]} suggested again what an earlier one computes.")
    if search.exhausted:
        notes.append("The space is exhausted: no new combination was found.")
    name, seed = search.sampler.get("name"), search.sampler.get("seed")
    scheduler = "no trial is stopped early"
    if search.scheduler.get("name") == "asha":
        scheduler = f"ASHA from epoch {search.scheduler['grace_epochs']} on, 1 in {search.scheduler['reduction']} goes on"
    notes.append(f"{name}, seed {seed} (optuna {search.sampler.get('optuna')}); {scheduler}; trials have seed {search.seed}.")
    return notes


# --- cells ----------------------------------------------------------------------------------------


def state_text(row: SuggestionRow) -> str:
    """``done``, ``stopped at 2/16``, ``failed``, ``running at 3/16``."""
    if row.state in (DONE, FAILED) or not row.epochs:
        return row.state
    return f"{row.state} at {row.epoch}/{row.epochs}"


def _value_text(search: SearchRow, row: SuggestionRow) -> str:
    if row.value is None or row.state == FAILED:
        return MISSING
    return format_number(search.metric, row.value) + ("" if row.state == DONE else "*" if row.state == STOPPED else " so far")


def _cells(ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """Header and lines that the human forms share."""
    metric = naming.METRICS[ranking.search.metric].title
    header = ["rank", "no.", *ranking.keys, metric, "state", "trial"]
    lines = [
        [
            str(place or MISSING),
            str(row.number),
            *(naming.setting_text(row.settings[key]) for key in ranking.keys),
            _value_text(ranking.search, row),
            state_text(row),
            row.trial,
        ]
        for place, row in ranking.rows
    ]
    return header, lines


def _about(search: SearchRow) -> str:
    return f"{search.name} on {search.profile} ({search.data})"


# --- forms ----------------------------------------------------------------------------------------


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """The ranking as ``gfl-lab table --json`` prints it (docs/search.md)."""
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


def to_json(ranking: Ranking) -> str:
    """``ranking_json``, indented, with a final newline."""
    return json.dumps(ranking_json(ranking), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(ranking: Ranking) -> str:
    """One line a suggestion; unknown values are empty."""
    metrics = [key for key in naming.METRICS if any(key in row.metrics for _, row in ranking.rows)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["rank", "number", *ranking.keys, "metric", "value", "state", "epoch", "epochs", "trial", *metrics])
    for place, row in ranking.rows:
        settings = [
            str(value).lower() if isinstance(value, bool) else naming.setting_text(value) for value in map(row.settings.get, ranking.keys)
        ]
        known = ["" if row.value is None else row.value, row.state, row.epoch, row.epochs, row.trial]
        line = [place or "", row.number, *settings, ranking.search.metric, *known]
        writer.writerow([*line, *(row.metrics.get(key, "") for key in metrics)])
    return out.getvalue()


def to_markdown(ranking: Ranking) -> str:
    """A GitHub table with its notes."""
    esc = export.markdown_escape
    header, lines = _cells(ranking)
    text = [f"**{esc(ranking.search.question or ranking.search.name)}**", "", esc(_about(ranking.search)), ""]
    text += ["| " + " | ".join(map(esc, header)) + " |", "|" + " --: |" * (len(header) - 2) + " :-- | :-- |"]
    text += ["| " + " | ".join(map(esc, line)) + " |" for line in lines]
    if isinstance(ranking.importance, Importance):
        text += ["", "| setting | importance |", "| :-- | --: |"]
        text += [f"| {esc(key)} | {share:.2f} |" for key, share in ranking.importance.shares.items()]
    return "\n".join([*text, "", *(f"- {esc(note)}" for note in ranking.notes)]) + "\n"


def render_terminal(ranking: Ranking) -> Any:
    """A rich renderable."""
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    header, lines = _cells(ranking)
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    for index, title in enumerate(header):
        grid.add_column(Text(title), justify="left" if index >= len(header) - 2 else "right")
    for (place, row), line in zip(ranking.rows, lines, strict=True):
        grid.add_row(*map(Text, line), style="bold" if place == 1 and row.state == DONE else "" if row.state == DONE else "dim")
    parts: list[Any] = [Text(ranking.search.question or ranking.search.name, style="bold"), Text(_about(ranking.search), style="dim")]
    parts.append(Padding(grid, (1, 0, 1, 0)))
    if isinstance(ranking.importance, Importance):
        bars = Table.grid(padding=(0, 1))
        for key, share in ranking.importance.shares.items():
            bars.add_row(Text(key), Text(f"{share:.2f}"), Text("━" * round(30 * share), style="cyan"))
        parts.append(Padding(bars, (0, 0, 1, 0)))
    notes = Table.grid(padding=(0, 1))
    for note in ranking.notes:
        notes.add_row(Text("·", style="dim"), Text(note, style="dim", overflow="fold"))
    return Group(*parts, notes)


def to_html(ranking: Ranking) -> str:
    """One file that stands alone, with the plots (plotly's script is in it)."""
    header, lines = _cells(ranking)
    heads = "".join(f'<th scope="col">{escaped(title)}</th>' for title in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    notes = "".join(f"<li>{escaped(note)}</li>" for note in ranking.notes)
    search = ranking.search
    return document(
        f"{search.name} · {search.profile}",
        search.question or search.name,
        _about(search),
        f"""<div class="scroll">
<table>
<thead>
<tr>{heads}</tr>
</thead>
<tbody>
{body}
</tbody>
</table>
</div>
<ul class="notes">{notes}</ul>
{_plots(ranking)}""",
    )


def _plots(ranking: Ranking) -> str:
    """Importance as bars, and the metric over each setting; empty while there is nothing to draw."""
    valued = [row for place, row in ranking.rows if place]
    if not valued:
        return ""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    bars = ranking.importance.shares if isinstance(ranking.importance, Importance) else {}
    names = [*(["importance"] if bars else []), *ranking.keys]
    figure = make_subplots(rows=-(-len(names) // 2), cols=2, subplot_titles=names)
    if bars:
        shares = list(reversed(bars.items()))
        figure.add_trace(
            go.Bar(x=[share for _, share in shares], y=[key for key, _ in shares], orientation="h", marker_color="#2a7de1"), 1, 1
        )
    logarithmic = {dimension.key for dimension in dimensions_of(ranking.search.space) if dimension.log}
    for index, key in enumerate(ranking.keys, start=1 if bars else 0):
        at = {"row": index // 2 + 1, "col": index % 2 + 1}
        for state, colour in ((DONE, "#2a7de1"), (STOPPED, "#9aa4ae")):
            rows = [row for row in valued if row.state == state]
            numeric = all(isinstance(row.settings[key], (int, float)) and not isinstance(row.settings[key], bool) for row in valued)
            shown = [row.settings[key] if numeric else naming.setting_text(row.settings[key]) for row in rows]
            words = [f"suggestion {row.number}, {state_text(row)}" for row in rows]
            points = go.Scatter(x=shown, y=[row.value for row in rows], mode="markers", text=words, marker={"color": colour, "size": 8})
            figure.add_trace(points, **at)
        figure.update_xaxes(type="log" if key in logarithmic else None, exponentformat="none", **at)
        figure.update_yaxes(title_text=naming.METRICS[ranking.search.metric].title, **at)
    figure.update_layout(
        height=320 * (-(-len(names) // 2)), showlegend=False, font_color="#7d8790", paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(125,135,144,0.08)", margin={"l": 60, "r": 20, "t": 40, "b": 40},
    )  # fmt: skip
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False})
    return f'<p class="about">Blue: finished; grey: stopped early, at the value of the last epoch.</p>\n{drawn}'


_EXPORTERS = {"json": to_json, "md": to_markdown, "csv": to_csv, "html": to_html}


def exported(ranking: Ranking, form: str) -> str:
    """The ranking in one of ``FORMATS``."""
    return _EXPORTERS[form](ranking)


def write_all(ranking: Ranking, folder: Path) -> None:
    """Write ``table.{json,md,csv,html}`` into ``folder``, each atomically."""
    for form in FORMATS:
        write_text(folder / f"{naming.TABLE_STEM}.{form}", exported(ranking, form))
