"""The table as people take it away: terminal, Markdown, CSV, LaTeX, HTML, JSON.

All human forms show the same cells (``layout``), each escaped for its own language: names come from files and are data,
never markup. Human forms write a real minus sign; CSV and JSON are ASCII numbers with all digits that matter.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfl_lab import naming, rundir
from gfl_lab.report.table import Delta, Stat, Table, TableRow, table_json

MISSING = "–"
OURS, TRUTH, PUBLISHED = "ours", "truth", "published"
FORMATS = ("json", "md", "csv", "tex", "html")

# --- cells that all human forms share -------------------------------------------------------------


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

    ``best`` marks the column's best mean; ``better`` says whether the difference is an improvement (None: no change).
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


def _digits(key: str) -> int:
    return naming.METRICS[key].digits if key in naming.METRICS else 3


def format_number(key: str, value: float, signed: bool = False) -> str:
    """A metric's value with its digits and a real minus sign: 39.2, −0.3; ``signed`` adds the plus, except to zero."""
    text = f"{value:+.{_digits(key)}f}"
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
    """Finished trials of a row: 3, or 2/3 while some are missing."""
    done = row.counts.get("done", 0)
    return str(done) if done == len(row.trials) else f"{done}/{len(row.trials)}"


def _title(key: str) -> str:
    return naming.METRICS[key].title if key in naming.METRICS else key


def _shown(key: str, value: float) -> float:
    return round(value, _digits(key))


def layout(table: Table) -> Layout:
    """The cells of every human form. Differences are shown for AP metrics; JSON and CSV hold them for all."""
    columns = []
    for key in table.columns:
        known = naming.METRICS.get(key)
        help_ = known.help + (f" [{known.unit}]" if known.unit else "") if known else ""
        columns.append(Column(key, _title(key), TRUTH if key in naming.TRUTH_METRICS else OURS, help_))
    columns += [Column(key, _title(key), PUBLISHED, "as published") for key in table.published]
    columns.sort(key=lambda column: (OURS, PUBLISHED, TRUTH).index(column.group))

    best: dict[str, float] = {}
    for key in table.columns:
        means = [_shown(key, row.metrics[key].mean) for row in table.rows if key in row.metrics]
        if len(set(means)) > 1 and key in naming.METRICS:
            best[key] = max(means) if naming.METRICS[key].higher_is_better else min(means)

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
            change = 0.0 if delta is None else _shown(key, delta.mean)
            better = None if change == 0 else (change > 0) == naming.METRICS[key].higher_is_better
            # Not against the known edges: a Dirac box has no false modes for free.
            is_best = column.group == OURS and found is not None and key in best and _shown(key, found.mean) == best[key]
            cells.append(Cell(format_stat(key, found), format_delta(key, delta), is_best, better))
        rows.append(tuple(cells))
    return Layout(tuple(columns), tuple(rows))


def published_title(table: Table) -> str:
    """Heading over the published columns."""
    return "published" if table.comparable else "published (not comparable)"


def _group_titles(table: Table, found: Layout) -> list[tuple[str, int, str]]:
    """(heading, number of columns, group) for each group that has columns, in order."""
    titles = {OURS: f"{table.profile}", TRUTH: "against the known edges", PUBLISHED: published_title(table)}
    return [(titles[group], len(found.group(group)), group) for group in (OURS, PUBLISHED, TRUTH) if found.group(group)]


def _one_line(text: str) -> str:
    """``text`` without line breaks and control characters."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


# --- JSON and CSV ---------------------------------------------------------------------------------


def to_json(table: Table) -> str:
    """The form of docs/tables.md, indented, with a final newline."""
    return json.dumps(table_json(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv_number(value: float | None) -> str:
    return "" if value is None else repr(round(float(value), 6) + 0.0)


def to_csv(table: Table) -> str:
    """One line a variant; flat columns for every metric: ``AP_mean, AP_std, AP_n, AP_delta, AP_delta_std, AP_delta_n, …``.

    Unknown values are empty. Published values are ``published_AP`` and so on, with source, split and comparability.
    """
    axes = list(dict.fromkeys(key for row in table.rows for key in row.axes))
    published = list(dict.fromkeys(key for row in table.rows if row.reference for key in row.reference.metrics))
    header = ["experiment", "profile", "variant", "baseline", *axes, "trials", "done", "trial_ids"]
    for key in table.all_metrics:
        header += [f"{key}_{part}" for part in ("mean", "std", "n", "delta", "delta_std", "delta_n")]
    header += ["published_row", *(f"published_{key}" for key in published)]
    header += ["published_source", "published_split", "published_comparable", "published_why_not"]

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        line: list[Any] = [table.experiment, table.profile, _one_line(row.variant), _lower(row.baseline)]
        line += [_lower(row.axes[key]) if key in row.axes else "" for key in axes]
        line += [len(row.trials), row.counts.get("done", 0), " ".join(trial.id for trial in row.trials)]
        for key in table.all_metrics:
            found, delta = row.metrics.get(key), row.delta.get(key)
            line += [_csv_number(found.mean), _csv_number(found.std), found.n] if found else ["", "", 0]
            line += [_csv_number(delta.mean), _csv_number(delta.std), delta.n] if delta else ["", "", 0]
        reference = row.reference
        line += [_one_line(reference.row) if reference else ""]
        line += [_csv_number(reference.metrics.get(key)) if reference else "" for key in published]
        if reference:
            line += [_one_line(reference.source), _one_line(reference.split), _lower(reference.comparable), _one_line(reference.why_not)]
        else:
            line += ["", "", "", ""]
        writer.writerow(line)
    return out.getvalue()


def _lower(value: Any) -> str:
    """A setting as other programs read it: true, 16, [8, 16]."""
    return str(value).lower() if isinstance(value, bool) else naming.setting_text(value)


# --- Markdown -------------------------------------------------------------------------------------

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def markdown_escape(text: str) -> str:
    """``text`` so that Markdown (with GitHub's tables and maths) shows it as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", _one_line(text).replace("&", "&amp;"))


def to_markdown(table: Table) -> str:
    """A GitHub table with its caption and footnotes. Best means are bold, differences in brackets."""
    found = layout(table)
    prefix = {OURS: "", TRUTH: "", PUBLISHED: "published "}
    header = ["variant", "seeds", *(prefix[c.group] + c.title for c in found.columns)]
    lines = [f"**{markdown_escape(table.question or table.experiment)}**", ""]
    lines += [f"{markdown_escape(table.experiment)} on {markdown_escape(table.profile)} ({markdown_escape(table.data)})", ""]
    lines += ["| " + " | ".join(markdown_escape(text) for text in header) + " |"]
    lines += ["| :-- |" + " --: |" * (len(header) - 1)]
    for row, cells in zip(table.rows, found.rows, strict=True):
        name = markdown_escape(row.variant) + (" (baseline)" if row.baseline else "")
        line = [name, seeds_text(row)]
        for column, cell in zip(found.columns, cells, strict=True):
            value = f"**{cell.value}**" if cell.best else cell.value
            if column.group == PUBLISHED and cell.value != MISSING and not table.comparable:
                value = f"*{cell.value}*"
            line.append(value + (f" ({cell.delta})" if cell.delta else ""))
        lines.append("| " + " | ".join(line) + " |")
    if table.footnotes:
        lines += ["", *(f"- {markdown_escape(note)}" for note in table.footnotes)]
    return "\n".join(lines) + "\n"


# --- LaTeX ----------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': "''", "`": "{}`", "[": "{[}", "]": "{]}", "*": "{*}",
    "±": r"$\pm$", "−": r"$-$", "·": r"$\cdot$", "–": "--", "—": "---", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "…": r"\dots{}",
    "Δ": r"$\Delta$", "β": r"$\beta$", "α": r"$\alpha$", "γ": r"$\gamma$", "σ": r"$\sigma$", "µ": r"$\mu$", "μ": r"$\mu$", "°": r"$^\circ$",
    "“": "``", "”": "''", "‘": "`", "’": "'", "→": r"$\rightarrow$", "≈": r"$\approx$",
    "ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "ø": r"{\o}", "Ø": r"{\O}", "œ": r"{\oe}", "Œ": r"{\OE}", "ł": r"{\l}", "Ł": r"{\L}",
}  # fmt: skip
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030c": "v", "\u0327": "c"}


def latex_escape(text: str) -> str:
    """``text`` as pdfLaTeX without extra packages prints it. Characters it has no glyph for become a question mark."""
    out = []
    for char in unicodedata.normalize("NFC", _one_line(text)):
        if char in _LATEX:
            out.append(_LATEX[char])
        elif char.isascii():
            out.append(char)
        else:
            base, *marks = unicodedata.normalize("NFD", char)
            known = base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS
            dotless = {"i": r"\i", "j": r"\j"}.get(base, base)
            out.append(f"\\{_ACCENTS[marks[0]]}{{{dotless}}}" if known else "?")
    return "".join(out).replace("--", "-{}-") if "--" in text else "".join(out)


def _latex_number(text: str) -> str:
    """39.2 ± 0.1 in maths, so that signs and spacing are right."""
    return "--" if text == MISSING else "$" + text.replace("±", r"\pm").replace("−", "-") + "$"


def _latex_setting(value: Any) -> str:
    if isinstance(value, bool):
        return r"$\checkmark$" if value else ""
    return latex_escape(naming.setting_text(value))


def to_latex(table: Table) -> str:
    """A booktabs ``table`` environment; axes become columns where all variants have the same ones, as papers do it.

    Differences stand below the values; the scores against known edges are a second tabular, so that each fits a page.
    Needs ``\\usepackage{booktabs,amssymb}`` (amssymb for the check mark), nothing else.
    """
    found = layout(table)
    lines = [
        "% needs \\usepackage{booktabs,amssymb}",
        "\\begin{table}[t]",
        "\\centering\\small\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{latex_escape(table.question or table.experiment)} Data: {latex_escape(table.data)}.}}",
        f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', table.experiment)}}}",
        *_latex_tabular(table, found, (OURS, PUBLISHED)),
    ]
    if found.group(TRUTH):
        lines += ["\\par\\medskip", *_latex_tabular(table, found, (TRUTH,))]
    if table.footnotes:
        lines.append("\\par\\smallskip")
        lines.append("\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright")
        lines += [latex_escape(note) + "\\par" for note in table.footnotes]
        lines.append("\\end{minipage}")
    lines.append("\\end{table}")
    return "\n".join(lines) + "\n"


def _latex_tabular(table: Table, found: Layout, wanted: Sequence[str]) -> list[str]:
    groups = [group for group in _group_titles(table, found) if group[2] in wanted]
    shown = [i for _, _, group in groups for i in found.group(group)]
    labels = [latex_escape(axis) for axis in table.axes] or ["variant"]
    spec = ("c" if table.axes else "l") * len(labels) + "c" + "".join("@{\\quad}" + "r" * n for _, n, _ in groups)
    heads, rules, start = [" & " * len(labels)], [], len(labels) + 2
    for title, n, _ in groups:
        heads.append(f"\\multicolumn{{{n}}}{{c}}{{{latex_escape(title)}}}")
        rules.append(f"\\cmidrule(lr){{{start}-{start + n - 1}}}")
        start += n
    lines = [f"\\begin{{tabular}}{{{spec}}}", "\\toprule", " & ".join(heads) + " \\\\", " ".join(rules)]
    lines.append(" & ".join([*labels, "seeds", *(_latex_title(found.columns[i].key) for i in shown)]) + " \\\\")
    lines.append("\\midrule")
    for row, cells in zip(table.rows, found.rows, strict=True):
        line = [_latex_setting(row.axes[axis]) for axis in table.axes] or [latex_escape(row.variant)]
        line.append(latex_escape(seeds_text(row)))
        for i in shown:
            value = _latex_number(cells[i].value)
            line.append(f"\\textbf{{\\boldmath {value}}}" if cells[i].best else value)
        lines.append(" & ".join(line) + " \\\\")
        if any(cells[i].delta for i in shown):
            changes = [f"{{\\scriptsize {_latex_number(cells[i].delta)}}}" if cells[i].delta else "" for i in shown]
            lines.append(" & ".join(["", *[""] * len(labels), *changes]) + " \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _latex_title(key: str) -> str:
    """AP$_{50}$ and AP$_S$ as papers write them; the title otherwise."""
    if key in naming.AP_METRICS and key != "AP":
        return f"AP$_{{{key.removeprefix('AP').removeprefix('_')}}}$"
    return latex_escape(_title(key))


# --- HTML -----------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --rule: #c9d0d6; --paper: #fff; --up: #12713b; --down: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ae; --rule: #3b434b; --paper: #14181c; --up: #63d297; --down: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1.5rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 84rem; margin: 0 auto; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .25rem; text-wrap: balance; overflow-wrap: anywhere; }
.about { color: var(--soft); margin: 0 0 1.5rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th, td { padding: .45rem .7rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; }
thead tr:first-child th { padding-bottom: .15rem; color: var(--soft); font-weight: 500; font-size: .85rem; text-align: center; }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
tbody th { text-align: left; font-weight: 500; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.first { border-left: 1px solid var(--rule); }
.published { color: var(--soft); }
thead tr:last-child th { white-space: normal; vertical-align: bottom; max-width: 6.5rem; }
.best { font-weight: 700; }
.delta { display: block; font-size: .82rem; line-height: 1.25; font-weight: 400; color: var(--soft); }
.up { color: var(--up); } .down { color: var(--down); }
.tag { color: var(--soft); font-size: .82rem; font-weight: 400; }
.notes { margin: 1rem 0 0; padding-left: 1.1rem; color: var(--soft); font-size: .88rem; max-width: 62rem; overflow-wrap: anywhere; }
@media print { body { padding: 0; } .scroll { overflow: visible; } }
""".strip()


def to_html(table: Table) -> str:
    """One file that stands alone: no script, no external resource, light and dark, printable."""

    def esc(text: str) -> str:
        return html.escape(_one_line(text), quote=True)

    found = layout(table)
    firsts = {found.group(group)[0] for _, _, group in _group_titles(table, found)}

    def classes(i: int, *more: str) -> str:
        names = [name for name, wanted in (("first", i in firsts), ("published", found.columns[i].group == PUBLISHED)) if wanted]
        names += [name for name in more if name]
        return f' class="{" ".join(names)}"' if names else ""

    heads = "".join(
        f'<th scope="colgroup" colspan="{n}" class="first{" published" if group == PUBLISHED else ""}">{esc(title)}</th>'
        for title, n, group in _group_titles(table, found)
    )
    titles = "".join(
        f'<th scope="col"{classes(i)}{f" title={chr(34)}{esc(column.help)}{chr(34)}" if column.help else ""}>{esc(column.title)}</th>'
        for i, column in enumerate(found.columns)
    )
    body = []
    for row, cells in zip(table.rows, found.rows, strict=True):
        tag = ' <span class="tag">baseline</span>' if row.baseline else ""
        line = [f'<th scope="row">{esc(row.variant)}{tag}</th><td>{esc(seeds_text(row))}</td>']
        for i, cell in enumerate(cells):
            direction = {True: " up", False: " down", None: ""}[cell.better]
            delta = f'<span class="delta{direction}">{esc(cell.delta)}</span>' if cell.delta else ""
            line.append(f"<td{classes(i, 'best' if cell.best else '')}>{esc(cell.value)}{delta}</td>")
        body.append("<tr>" + "".join(line) + "</tr>")
    notes = "".join(f"<li>{esc(note)}</li>" for note in table.footnotes)
    newline = "\n"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{esc(table.experiment)} · {esc(table.profile)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
<h1>{esc(table.question or table.experiment)}</h1>
<p class="about">{esc(table.experiment)} on {esc(table.profile)} · {esc(table.data)}</p>
<div class="scroll">
<table>
<thead>
<tr><th></th><th></th>{heads}</tr>
<tr><th scope="col" style="text-align:left">variant</th><th scope="col">seeds</th>{titles}</tr>
</thead>
<tbody>
{newline.join(body)}
</tbody>
</table>
</div>
{f'<ul class="notes">{notes}</ul>' if notes else ""}
</main>
</body>
</html>
"""


# --- terminal -------------------------------------------------------------------------------------


def render_terminal(table: Table) -> Any:
    """A rich renderable: our numbers with the differences below them, the published ones dim in a column of their own.

    Colour and weight are rich's to leave out where there is no terminal or NO_COLOR is set; the signs stay. Fits 80
    columns: where both do not fit side by side, the published values follow as a table of their own.
    """
    from rich import box
    from rich.console import Console, ConsoleOptions, Group
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    found = layout(table)
    ours, truth, published = (found.group(group) for group in (OURS, TRUTH, PUBLISHED))
    two_lines = any(cell.delta for cells in found.rows for cell in cells)

    def cell_text(cell: Cell) -> Text:
        text = Text(cell.value, style="bold" if cell.best else "")
        if two_lines:
            text.append("\n")
            text.append(cell.delta, style={True: "not bold green", False: "not bold red", None: "not bold dim"}[cell.better])
        return text

    def new_table(wrap: bool = True) -> RichTable:
        grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
        grid.add_column("variant", overflow="fold", no_wrap=not wrap)
        return grid

    def name_text(row: TableRow, mark: bool) -> Text:
        text = Text(_one_line(row.variant))
        if row.baseline and mark:
            text.append("\nbaseline", style="dim")
        return text

    def published_texts() -> tuple[Text, list[Text]]:
        """Heading and cells of all published values as one column, the numbers spread evenly under the heading."""
        columns = [[found.columns[i].title, *(cells[i].value for cells in found.rows)] for i in published]
        widths = [max(map(len, column)) for column in columns]
        title = published_title(table)
        gap = max(2, -(-(len(title) - sum(widths)) // max(1, len(widths) - 1))) if len(widths) > 1 else 2
        lines = [(" " * gap).join(text.rjust(n) for text, n in zip(line, widths, strict=True)) for line in zip(*columns, strict=True)]
        return Text(f"{title}\n{lines[0]}", style="not bold dim"), [Text(line, style="dim") for line in lines[1:]]

    def main_table(with_published: bool, wrap: bool) -> RichTable:
        grid = new_table(wrap)
        grid.add_column("seeds", justify="right", no_wrap=True)
        for i in ours:
            grid.add_column(Text(found.columns[i].title), justify="right", no_wrap=not wrap)
        texts: list[Text] = []
        if with_published:
            heading, texts = published_texts()
            grid.add_column(heading, no_wrap=True)
        for j, (row, cells) in enumerate(zip(table.rows, found.rows, strict=True)):
            grid.add_row(name_text(row, True), seeds_text(row), *(cell_text(cells[i]) for i in ours), *texts[j : j + 1])
        return grid

    def truth_table() -> RichTable:
        grid = new_table()
        for i in truth:
            grid.add_column(Text(found.columns[i].title), justify="right")
        for row, cells in zip(table.rows, found.rows, strict=True):
            grid.add_row(name_text(row, False), *(cells[i].value for i in truth))
        return grid

    def published_table() -> RichTable:
        grid = new_table()
        heading, texts = published_texts()
        grid.add_column(heading, no_wrap=True)
        for row, text in zip(table.rows, texts, strict=True):
            grid.add_row(Text(_one_line(row.variant), style="dim"), text)
        return grid

    class Terminal:
        """Chooses the arrangement when the width is known."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Any:
            def fits(grid: RichTable) -> bool:
                return Measurement.get(console, options.update(max_width=10_000), grid).maximum <= options.max_width

            parts: list[Any] = [Text(_one_line(table.question or table.experiment), style="bold")]
            parts.append(Text(_one_line(f"{table.experiment} on {table.profile} ({table.data})"), style="dim"))
            together = bool(published and table.rows) and fits(main_table(True, wrap=False))
            grid = main_table(together, wrap=not (together or fits(main_table(False, wrap=False))))
            parts.append(Padding(grid, (1, 0, 0, 0)))
            if truth and any(cells[i].value != MISSING for cells in found.rows for i in truth):
                parts.append(Padding(Text("Learned distributions against the known edges", style="dim"), (1, 0, 0, 0)))
                parts.append(truth_table())
            if published and not together and table.rows:
                parts.append(Padding(published_table(), (1, 0, 0, 0)))
            if table.footnotes:
                notes = RichTable.grid(padding=(0, 1))
                for note in table.footnotes:
                    notes.add_row(Text("·", style="dim"), Text(_one_line(note), style="dim", overflow="fold"))
                parts.append(Padding(notes, (1, 0, 0, 0)))
            yield Group(*parts)

    return Terminal()


# --- files ----------------------------------------------------------------------------------------

_EXPORTERS = {"json": to_json, "md": to_markdown, "csv": to_csv, "tex": to_latex, "html": to_html}


def write_all(table: Table, folder: Path) -> dict[str, Path]:
    """Write ``table.{json,md,csv,tex,html}`` into ``folder``, each atomically; returns the paths by format."""
    paths = {}
    for name in FORMATS:
        paths[name] = folder / f"{naming.TABLE_STEM}.{name}"
        rundir.write_text(paths[name], _EXPORTERS[name](table))
    return paths
