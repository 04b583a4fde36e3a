"""Appearance: colours, the style sheet, and pieces of HTML. Every name passes ``text``, which escapes it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import streamlit as st
from PIL import Image, ImageDraw

from gfl_lab import wording
from gfl_lab.report.answer import Answer
from gfl_lab.report.comparison import BETTER, EQUIVALENT, WORSE
from gfl_lab.report.formatting import MISSING, VERDICT_SIGNS
from gfl_lab.results.rows import ExperimentRow, TrialRow, TrialState
from gfl_lab.results.search import DONE, STOPPED

# Okabe and Ito's colours, told apart with any colour vision; lighter tones of the same hues on a dark page. Amber is
# kept for the truth and grey for the baseline, so no variant has them.
_VARIANTS = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#B4588F", "#3A9AD0", "#6B4E9B"),
    "dark": ("#4BA3E0", "#F0803C", "#2FBF95", "#DE93BE", "#8CCBF2", "#A58BD6"),
}
_BASELINE = {"light": "#767676", "dark": "#A0A4AA"}
_TRUTH = {"light": "#D08A00", "dark": "#F2B134"}
_INK = {"light": "#1F2328", "dark": "#E7E9EC"}
_PAGE = {"light": "#FFFFFF", "dark": "#14171B"}
"""As in config.toml and style.css."""
_VERDICTS = {
    "light": {BETTER: "#00855F", WORSE: "#C2470A", EQUIVALENT: "#1F2328"},
    "dark": {BETTER: "#2FBF95", WORSE: "#F0803C", EQUIVALENT: "#E7E9EC"},
}
_OPEN = {"light": "#8A8F96", "dark": "#8A8F96"}
DASHES = ("solid", "solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x")

STATE_TITLES = {
    TrialState.DONE: "done",
    TrialState.RUNNING: "running",
    TrialState.FAILED: "failed",
    TrialState.INTERRUPTED: "interrupted",
    TrialState.PLANNED: "planned",
}
_TITLES: dict[str, str] = {TrialState.DONE: STATE_TITLES[TrialState.DONE], STOPPED: "stopped early"} | STATE_TITLES
_STATE_SIGNS: dict[str, str] = {
    TrialState.DONE: "✓",
    STOPPED: "■",
    TrialState.RUNNING: "▶",
    TrialState.FAILED: "✕",
    TrialState.INTERRUPTED: "‖",
    TrialState.PLANNED: "○",
}

MOST_BARS = 10
_WORTH_SEEING = (TrialState.FAILED, TrialState.RUNNING, TrialState.INTERRUPTED, TrialState.PLANNED, TrialState.DONE)


def scheme() -> str:
    """Return ``light`` or ``dark``, as the page is now."""
    return "dark" if st.context.theme.type == "dark" else "light"


def page() -> str:
    """Return the colour of the page."""
    return _PAGE[scheme()]


def ink() -> str:
    """Return the colour of text."""
    return _INK[scheme()]


def truth() -> str:
    """Return the colour of ground truth, and of nothing else."""
    return _TRUTH[scheme()]


def colours(experiment: ExperimentRow) -> dict[str, str]:
    """Return the colour of each variant: grey for the baseline, the others by their place in the plan, so that it never changes."""
    others = [variant.name for variant in experiment.variants if not variant.baseline]
    palette = _VARIANTS[scheme()]
    found = {name: palette[i % len(palette)] for i, name in enumerate(others)}
    return found | {variant.name: _BASELINE[scheme()] for variant in experiment.variants if variant.baseline}


def search_marks() -> dict[str, tuple[str, str, str]]:
    """Return colour, Plotly's symbol and a sign for finished and for early stopped suggestions."""
    blue, orange = _VARIANTS[scheme()][:2]
    return {DONE: (blue, "circle", "●"), STOPPED: (orange, "diamond-open", "◇")}


def verdict_colour(verdict: str) -> str:
    """Return the colour of a verdict: one each for better, worse and equivalent, and grey for everything that is open."""
    return _VERDICTS[scheme()].get(verdict, _OPEN[scheme()])


def icon() -> Image.Image:
    """Return the page's icon, a distribution with two modes; drawn here, because Streamlit fetches named icons from the web."""
    picture = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(picture)
    for index, height in enumerate((14, 46, 18, 10, 34, 22)):
        draw.rectangle([4 + 10 * index, 58 - height, 4 + 10 * index + 6, 58], fill=_VARIANTS["light"][0] if index < 3 else _TRUTH["light"])
    return picture


# --- text -----------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Return any text as HTML that shows exactly it."""
    return html.escape(str(value), quote=True)


def with_code(value: str) -> str:
    """Return text as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(value))


def plot_text(value: object) -> str:
    """Return any text for a Plotly label, with tags, entities, ``$maths$`` and ``%{templates}`` made harmless."""
    shown = html.escape(str(value), quote=False)
    return shown.replace("%{", "%\u200b{").replace("$", "$\u200b")


_ABSOLUTE = re.compile(r"(?<![\w:/.<])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:'\"<>|]+[/\\])+([^\s/\\:'\"<>|]*)")


def redact(value: str) -> str:
    """Return text of a log or an error without the folders of this machine: only the last part of a path stays."""
    return _ABSOLUTE.sub(lambda match: "…/" + match.group(1), value)


def duration(seconds: float) -> str:
    """Return wall time in words; an en dash for none."""
    return wording.duration(seconds) if seconds > 0 else MISSING


# --- pieces ---------------------------------------------------------------------------------------

_STYLE = Path(__file__).with_name("style.css")


def style() -> None:
    """Write the style sheet; once a page."""
    st.html(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>")


def show(body: str) -> None:
    """Show HTML whose names have gone through ``text``."""
    st.html(f'<div class="gfl {scheme()}">{body}</div>')


def header(title: str, over: str = "", under: str = "") -> None:
    """Show a page's head: a title, with a small line above and below. Plain text."""
    above = f'<div class="over">{text(over)}</div>' if over else ""
    below = f'<div class="dim">{text(under)}</div>' if under else ""
    show(f"{above}<h1>{text(title)}</h1>{below}")


def heading(title: str, under: str = "", anchor: str = "") -> None:
    """Show the heading of a part of a page, which links may lead to by its ``anchor``. Plain text."""
    identity = f' id="{text(anchor)}"' if anchor else ""
    show(f"<h2{identity}>{text(title)}</h2>" + (f'<div class="dim">{text(under)}</div>' if under else ""))


def contents(headings: Iterable[tuple[str, str]]) -> None:
    """Show links to the headings of a page: (anchor, title) of each. Plain text."""
    links = "".join(f'<a href="#{text(anchor)}">{text(title)}</a>' for anchor, title in headings)
    show(f'<nav class="legend contents" aria-label="Contents">{links}</nav>')


def empty(title: str, body: str, command: str = "") -> None:
    """Show why there is nothing to show yet, and what would change that. Plain text."""
    code = f"<br><code>{text(command)}</code>" if command else ""
    show(f'<div class="empty"><b>{text(title)}</b>{text(body)}{code}</div>')


def answer(found: Answer) -> None:
    """Show what the data of a page say, and below it the figures and the rule behind that."""
    why = f'<div class="why dim small">{text(found.reason)}</div>' if found.reason else ""
    show(f'<div class="answer">{text(found.sentence)}</div>{why}')


def alert(message: str) -> None:
    """Show that something is wrong. Plain text."""
    show(f'<div class="alert">{text(redact(message))}</div>')


def swatch(colour: str) -> str:
    """Return a small square of colour, as HTML."""
    return f'<span class="swatch" style="background:{colour}"></span>'


def verdict_html(verdict: str, words: str = "") -> str:
    """Return a verdict by sign, colour and word, as HTML; the word is ``words``, or the verdict itself."""
    css = {BETTER: "better", WORSE: "worse", EQUIVALENT: "equal"}.get(verdict, "open")
    sign = VERDICT_SIGNS.get(verdict, MISSING)
    return f'<span class="verdict {css}" data-sign="{sign}">{text(words or verdict)}</span>'


def state_title(state: str) -> str:
    """Return a state of a trial, or of a suggestion of a search, in words."""
    return _TITLES.get(state, state)


def state_html(state: str, count: int | None = None) -> str:
    """Return a state by sign, colour and word, as HTML, with its count."""
    words = state_title(state) if count is None else f"{count} {state_title(state)}"
    return f'<span class="state s-{text(state)}" data-sign="{_STATE_SIGNS.get(state, "")}">{text(words)}</span>'


def counts_html(counts: Mapping[TrialState, int] | Mapping[str, int], of: str = "") -> str:
    """Return how many trials are in each state that occurs, and of what, as HTML."""
    known: dict[str, int] = {str(state): count for state, count in counts.items()}
    parts = [state_html(state, known[state]) for state in _TITLES if known.get(state)]
    return '<span class="legend">' + "".join(parts) + (f'<span class="dim">{text(of)}</span>' if of else "") + "</span>"


def bar_html(trial: TrialRow, state: str | None = None) -> str:
    """Return a trial's progress as HTML, in the colour of ``state``, or of its own state if that is None."""
    state = trial.state.value if state is None else state
    return _bar(state, trial.progress, f"{trial.step} of {trial.steps} steps" if trial.steps else state_title(state))


def bars_html(trials: Sequence[TrialRow]) -> str:
    """Return the progress of a variant's trials, as HTML: a bar each, or one for all where they are many."""
    if len(trials) <= MOST_BARS:
        return "".join(bar_html(trial) for trial in trials)
    state = next(state for state in _WORTH_SEEING if any(trial.state is state for trial in trials))
    share = sum(trial.progress for trial in trials) / len(trials)
    return _bar(state, share, f"{share:.0%} of the steps of {len(trials)} trials")


def _bar(state: str, share: float, words: str) -> str:
    width = f"{100 * share:.1f}%"
    return f'<span class="bar b-{text(state)}" role="img" aria-label="{text(words)}" title="{text(words)}"><i style="width:{width}"></i></span>'


def variants_legend(names: Iterable[str], palette: dict[str, str]) -> None:
    """Show the colours of the variants."""
    show('<div class="legend">' + "".join(f"<span>{swatch(palette[name])}{text(name)}</span>" for name in names) + "</div>")


def _breakable(title: str) -> str:
    """Return text as HTML that may break after ``:`` and ``_``; a copy of it is the text itself."""
    return re.sub(r"(?<=[:_])(?=[^\s])", "<wbr>", text(title))


class Head(NamedTuple):
    """The head of a column: its title, its CSS classes, and the key under which the page Guide explains it; empty where it does not."""

    title: str
    css: str = ""
    about: str = ""


def about_id(key: str) -> str:
    """Return the id of a column's explanation on the page Guide."""
    return f"about-{key}"


def about_link(key: str, title: str) -> str:
    """Return a link to the explanation of a column on the page Guide, as HTML."""
    words = text(f"what {title} means")
    return f'<a class="help" href="guide#{text(about_id(key))}" target="_blank" rel="noopener" aria-label="{words}">?</a>'


def table_html(head: Sequence[tuple[str, str] | Head], rows: Iterable[Sequence[str]]) -> str:
    """Return a table: ``head`` holds (title, class), or ``Head``; cells are HTML. The first column is the row's heading.

    A title of class ``wide`` may break after the signs in a variant's name.
    """
    heads = [Head(*each) for each in head]
    classes = [each.css for each in heads]
    links = [about_link(each.about, each.title) if each.about else "" for each in heads]
    titles = [_breakable(each.title) if "wide" in each.css else text(each.title) for each in heads]
    top = "".join(f'<th scope="col" class="{each.css}">{title}{link}</th>' for each, title, link in zip(heads, titles, links, strict=True))
    body = ""
    for row in rows:
        first, *rest = row
        cells = "".join(f'<td class="{css}">{cell}</td>' for css, cell in zip(classes[1:], rest, strict=True))
        body += f'<tr><th scope="row" class="{classes[0]}">{first}</th>{cells}</tr>'
    return f'<div class="wrap"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
