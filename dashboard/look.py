"""How things look: colours, the style sheet, and pieces of HTML. Every name passes ``text``, so that it shows itself."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import streamlit as st
from PIL import Image, ImageDraw

from gfl_lab.results.rows import ExperimentRow, TrialRow, TrialState

# Okabe and Ito's colours, told apart with any colour vision; lighter tones of the same hues on a dark page. Amber is
# kept for the truth and grey for the baseline, so no variant has them.
_VARIANTS = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#B4588F", "#3A9AD0", "#6B4E9B"),
    "dark": ("#4BA3E0", "#F0803C", "#2FBF95", "#DE93BE", "#8CCBF2", "#A58BD6"),
}
_BASELINE = {"light": "#767676", "dark": "#A0A4AA"}
_TRUTH = {"light": "#D08A00", "dark": "#F2B134"}
_INK = {"light": "#1F2328", "dark": "#E7E9EC"}
DASHES = ("solid", "solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x")

STATE_TITLES = {
    TrialState.DONE: "done",
    TrialState.RUNNING: "running",
    TrialState.FAILED: "failed",
    TrialState.INTERRUPTED: "interrupted",
    TrialState.PLANNED: "planned",
}
_STATE_SIGNS = {
    TrialState.DONE: "✓",
    TrialState.RUNNING: "▶",
    TrialState.FAILED: "✕",
    TrialState.INTERRUPTED: "‖",
    TrialState.PLANNED: "○",
}


def scheme() -> str:
    """``light`` or ``dark``, as the page is now."""
    return "dark" if st.context.theme.type == "dark" else "light"


def ink() -> str:
    """The colour of text."""
    return _INK[scheme()]


def truth() -> str:
    """The colour of what is known to be true, and of nothing else."""
    return _TRUTH[scheme()]


def colours(experiment: ExperimentRow) -> dict[str, str]:
    """Colour by variant: grey for the baseline, the others by their place in the plan, so that it never changes."""
    others = [variant.name for variant in experiment.variants if not variant.baseline]
    palette = _VARIANTS[scheme()]
    found = {name: palette[i % len(palette)] for i, name in enumerate(others)}
    return found | {variant.name: _BASELINE[scheme()] for variant in experiment.variants if variant.baseline}


def icon() -> Image.Image:
    """The page's icon, a distribution with two modes; drawn here, because Streamlit fetches named icons from the web."""
    picture = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(picture)
    for index, height in enumerate((14, 46, 18, 10, 34, 22)):
        draw.rectangle([4 + 10 * index, 58 - height, 4 + 10 * index + 6, 58], fill=_VARIANTS["light"][0] if index < 3 else _TRUTH["light"])
    return picture


# --- text -----------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Any text as HTML that shows exactly it."""
    return html.escape(str(value), quote=True)


def plot_text(value: object) -> str:
    """Any text for a Plotly label, where tags, entities, ``$maths$`` and ``%{templates}`` would be read."""
    shown = html.escape(str(value), quote=False)
    return shown.replace("%{", "%\u200b{").replace("$", "$\u200b")


_ABSOLUTE = re.compile(r"(?<![\w:/.<])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:'\"<>|]+[/\\])+([^\s/\\:'\"<>|]*)")


def redact(value: str) -> str:
    """Text of a log or an error without the folders of this machine: only the last part of a path stays."""
    return _ABSOLUTE.sub(lambda match: "…/" + match.group(1), value)


def duration(seconds: float) -> str:
    """Wall time as people say it."""
    if seconds <= 0:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


# --- pieces ---------------------------------------------------------------------------------------

_STYLE = """
<style>
.gfl { font-variant-numeric: tabular-nums; line-height: 1.5; }
.gfl .num { text-align: right; white-space: nowrap; }
.gfl .dim { opacity: .68; }
.gfl .small { font-size: .87em; }
.gfl .mono { font-family: ui-monospace, "Source Code Pro", monospace; font-size: .87em; }
.gfl h1 { font-family: "Source Serif", "Source Serif 4", Georgia, serif; font-weight: 600; font-size: 1.85rem; line-height: 1.22; margin: .1rem 0 .35rem; padding: 0;
  overflow-wrap: anywhere; }
.gfl .over { opacity: .68; overflow-wrap: anywhere; }
.gfl h2 { font-family: "Source Serif", "Source Serif 4", Georgia, serif; font-weight: 600; font-size: 1.2rem; margin: 1.1rem 0 .1rem; padding: 0; }
.gfl .wrap { overflow-x: auto; }
.gfl table { border-collapse: collapse; width: 100%; border: 0; }
.gfl th, .gfl td { border: 0; border-bottom: 1px solid color-mix(in srgb, currentColor 13%, transparent); padding: .5rem .6rem; vertical-align: top;
  text-align: left; }
.gfl thead th { font-weight: 600; vertical-align: bottom; white-space: nowrap; }
.gfl thead tr:last-child th { border-bottom: 1.5px solid color-mix(in srgb, currentColor 55%, transparent); }
.gfl thead tr.groups th { border-bottom: 0; padding-bottom: 0; font-weight: 400; opacity: .68; font-size: .87em; }
.gfl th.num, .gfl td.num { text-align: right; }
.gfl thead th.truth { white-space: normal; min-width: 5.2rem; max-width: 6rem; line-height: 1.25; }
.gfl .pm { opacity: .68; font-size: .87em; font-weight: 400; }
.gfl tbody tr:last-child td, .gfl tbody tr:last-child th { border-bottom: 1.5px solid color-mix(in srgb, currentColor 55%, transparent); }
.gfl tbody th { font-weight: 400; }
.gfl .name { white-space: nowrap; }
.gfl .wrap > table > tbody > tr > th:first-child, .gfl .wrap > table > thead > tr > th:first-child { position: sticky; left: 0; z-index: 1; background: var(--page); padding-left: .1rem; }
.gfl.light { --page: #ffffff; } .gfl.dark { --page: #14171b; }
.gfl td.remark { min-width: 11rem; }
.gfl .first { border-left: 1px solid color-mix(in srgb, currentColor 13%, transparent); }
.gfl .published { opacity: .68; font-style: italic; }
.gfl .best { font-weight: 700; }
.gfl .delta { display: block; font-size: .84em; font-weight: 400; opacity: .85; }
.gfl .better { color: #00855f; opacity: 1; } .gfl .worse { color: #c2470a; opacity: 1; }
.gfl.dark .better { color: #2fbf95; } .gfl.dark .worse { color: #f0803c; }
.gfl .swatch { display: inline-block; width: .72em; height: .72em; border-radius: 2px; margin-right: .5em; vertical-align: -.02em; }
.gfl ol.notes { padding-left: 1.15rem; margin: .3rem 0; } .gfl ol.notes li { margin: .1rem 0; overflow-wrap: anywhere; }
.gfl .state { white-space: nowrap; }
.gfl .state::before { display: inline-block; width: 1.25em; content: attr(data-sign); font-weight: 700; }
.gfl .s-done::before { color: #009e73; } .gfl .s-running::before { color: #0072b2; } .gfl .s-failed::before { color: #d55e00; }
.gfl .s-interrupted::before { color: #b4588f; } .gfl .s-planned::before { opacity: .55; }
.gfl.dark .s-running::before { color: #4ba3e0; } .gfl.dark .s-failed::before { color: #f0803c; } .gfl.dark .s-done::before { color: #2fbf95; }
.gfl .bar { display: inline-block; vertical-align: middle; width: 100%; min-width: 4rem; height: .5em; border-radius: 3px; overflow: hidden;
  background: color-mix(in srgb, currentColor 12%, transparent); }
.gfl .bar > i { display: block; height: 100%; background: #009e73; transition: width .6s linear; }
.gfl .bar.b-running > i { background: #0072b2; } .gfl .bar.b-failed > i { background: #d55e00; } .gfl .bar.b-interrupted > i { background: #b4588f; }
.gfl.dark .bar.b-running > i { background: #4ba3e0; }
.gfl .empty { border: 1px dashed color-mix(in srgb, currentColor 30%, transparent); border-radius: 6px; padding: 1.4rem 1.6rem; margin: .6rem 0; max-width: 46rem; }
.gfl .empty b { display: block; font-size: 1.05em; margin-bottom: .25rem; }
.gfl .empty code { font-size: .92em; background: color-mix(in srgb, currentColor 8%, transparent); padding: .1em .4em; border-radius: 4px; color: inherit; }
.gfl .alert { border-left: 3px solid #d55e00; padding: .35rem .9rem; margin: .5rem 0; overflow-wrap: anywhere; }
.gfl .legend { display: flex; flex-wrap: wrap; gap: .15rem 1.3rem; font-size: .92em; }
.gfl .key { display: inline-block; margin-right: .5em; vertical-align: -.1em; height: .95em; }
.gfl .key.box { width: 1.5em; height: .85em; } .gfl .key.line { width: 0; margin-left: .3em; } .gfl .key.pin { width: 0; margin-left: .3em; position: relative; height: .8em; }
.gfl .key.pin::before { content: ""; position: absolute; left: -4px; top: -4px; width: 8px; height: 8px; border-radius: 50%; background: var(--pin); margin-left: -1px; }
div.gfl dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .3rem 0; padding: 0; } .gfl dt { opacity: .68; } div.gfl dd { margin: 0; padding: 0; overflow-wrap: anywhere; }
.gfl .bars { display: flex; gap: 4px; min-width: 7rem; } .gfl .bars .bar { min-width: 1rem; flex: 1; align-self: center; margin-top: .5em; }
.gfl td.half { width: 34%; }
div[data-testid="stMainBlockContainer"] { padding: 4.6rem 2.4rem 4rem; max-width: 1360px; }
@media (min-width: 781px) and (max-width: 1180px) { .st-key-image-0, .st-key-image-1 { zoom: .66; } }
@media (max-width: 780px) { .st-key-two div[data-testid="stColumn"] { min-width: 100% !important; } }
div[data-testid="stMarkdownContainer"] > p, div[data-testid="stMarkdownContainer"] > ul { max-width: 46rem; }
a[data-testid="stPageLink-NavLink"] { padding-left: 0; text-decoration: underline; text-underline-offset: 3px; text-decoration-color: color-mix(in srgb, currentColor 35%, transparent); }
</style>
"""


def style() -> None:
    """The style sheet; once a page."""
    st.html(_STYLE)


def show(body: str) -> None:
    """HTML whose names have gone through ``text``."""
    st.html(f'<div class="gfl {scheme()}">{body}</div>')


def header(title: str, over: str = "", under: str = "") -> None:
    """A page's head: what it is about, small line above and below. Plain text."""
    above = f'<div class="over">{text(over)}</div>' if over else ""
    below = f'<div class="dim">{text(under)}</div>' if under else ""
    show(f"{above}<h1>{text(title)}</h1>{below}")


def heading(title: str, under: str = "") -> None:
    """A part of a page. Plain text."""
    show(f"<h2>{text(title)}</h2>" + (f'<div class="dim">{text(under)}</div>' if under else ""))


def empty(title: str, body: str, command: str = "") -> None:
    """What is said where nothing can be shown yet: why, and what would change it. Plain text."""
    code = f"<br><code>{text(command)}</code>" if command else ""
    show(f'<div class="empty"><b>{text(title)}</b>{text(body)}{code}</div>')


def alert(message: str) -> None:
    """Something is wrong. Plain text."""
    show(f'<div class="alert">{text(redact(message))}</div>')


def swatch(colour: str) -> str:
    """A small square of colour, as HTML."""
    return f'<span class="swatch" style="background:{colour}"></span>'


def state_html(state: TrialState) -> str:
    """A state by sign, colour and word, as HTML."""
    return f'<span class="state s-{state.value}" data-sign="{_STATE_SIGNS[state]}">{STATE_TITLES[state]}</span>'


def counts_html(counts: dict[TrialState, int]) -> str:
    """How many trials are in each state that occurs, as HTML."""
    parts = [f'<span class="state s-{s.value}" data-sign="{_STATE_SIGNS[s]}">{counts[s]} {STATE_TITLES[s]}</span>' for s in STATE_TITLES if counts[s]]
    return '<span class="legend">' + "".join(parts) + "</span>"


def bar_html(trial: TrialRow) -> str:
    """A trial's progress, as HTML."""
    said = f"{trial.step} of {trial.steps} steps" if trial.steps else STATE_TITLES[trial.state]
    return f'<span class="bar b-{trial.state.value}" role="img" aria-label="{said}" title="{said}"><i style="width:{100 * trial.progress:.1f}%"></i></span>'


def variants_legend(names: Iterable[str], palette: dict[str, str]) -> None:
    """The colours of the variants."""
    show('<div class="legend">' + "".join(f"<span>{swatch(palette[name])}{text(name)}</span>" for name in names) + "</div>")


def table_html(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """A table: ``head`` holds (title, class); cells are HTML. The first column is the row's heading."""
    classes = [css for _, css in head]
    top = "".join(f'<th scope="col" class="{css}">{text(title)}</th>' for title, css in head)
    body = ""
    for row in rows:
        first, *rest = row
        cells = "".join(f'<td class="{css}">{cell}</td>' for css, cell in zip(classes[1:], rest, strict=True))
        body += f'<tr><th scope="row" class="{classes[0]}">{first}</th>{cells}</tr>'
    return f'<div class="wrap"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
