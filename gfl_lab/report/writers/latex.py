"""A sheet as a LaTeX ``table`` environment that compiles with booktabs and amssymb."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from gfl_lab import naming
from gfl_lab.report.formatting import MISSING, one_line
from gfl_lab.report.grid import AXIS, LABEL, MEASURED, PUBLISHED, TRUE_EDGES, Cell, Column, Grid, Row, Sheet

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': "''", "`": "{}`", "[": "{[}", "]": "{]}", "*": "{*}",
    "±": r"$\pm$", "−": r"$-$", "·": r"$\cdot$", "–": "--", "—": "---", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "…": r"\dots{}", "†": r"\dag{}",
    "Δ": r"$\Delta$", "β": r"$\beta$", "α": r"$\alpha$", "γ": r"$\gamma$", "σ": r"$\sigma$", "µ": r"$\mu$", "μ": r"$\mu$", "°": r"$^\circ$",
    "“": "``", "”": "''", "‘": "`", "’": "'", "→": r"$\rightarrow$", "≈": r"$\approx$",
    "ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "ø": r"{\o}", "Ø": r"{\O}", "œ": r"{\oe}", "Œ": r"{\OE}", "ł": r"{\l}", "Ł": r"{\L}",
}  # fmt: skip
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030c": "v", "\u0327": "c"}

WIDE = 105
"""Characters in a row: so many are about 160 mm of small type, what a page with margins of 25 mm holds."""


def escaped(text: str) -> str:
    """Return ``text`` as pdfLaTeX without extra packages prints it. Characters it has no glyph for become a question mark."""
    out = []
    for char in unicodedata.normalize("NFC", one_line(text)):
        if char in _LATEX:
            out.append(_LATEX[char])
        elif char.isascii():
            out.append(char)
        else:
            decomposed = unicodedata.normalize("NFD", char)
            base, marks = decomposed[0], decomposed[1:]
            known = base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS
            dotless = {"i": r"\i", "j": r"\j"}.get(base, base)
            out.append(f"\\{_ACCENTS[marks[0]]}{{{dotless}}}" if known else "?")
    return "".join(out).replace("--", "-{}-") if "--" in text else "".join(out)


def to_latex(sheet: Sheet) -> str:
    """Return a booktabs ``table`` environment; axes become columns where all variants have the same ones, as papers do it.

    Differences stand below the values; the scores against ground-truth edges are a second tabular, and published numbers one of their
    own where they would not fit beside the measured ones (``WIDE``).
    Needs ``\\usepackage{booktabs,amssymb}`` (amssymb for the check mark), nothing else.
    """
    values, *others = sheet.grids
    apart = _characters(values) > WIDE
    lines = [
        "% needs \\usepackage{booktabs,amssymb}",
        "\\begin{table}[t]",
        f"\\centering\\{'footnotesize' if apart else 'small'}\\setlength{{\\tabcolsep}}{{4pt}}",
        f"\\caption{{{escaped(sheet.heading)} Data: {escaped(sheet.data)}.}}",
        f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', sheet.name)}}}",
        *_values(values, (MEASURED,) if apart else (MEASURED, PUBLISHED)),
    ]
    for group in ([PUBLISHED] if apart and values.group(PUBLISHED) else []) + ([TRUE_EDGES] if values.group(TRUE_EDGES) else []):
        lines += ["\\par\\medskip", *_values(values, (group,))]
    for grid in others:
        lines += ["\\par\\medskip", *_plain(grid)]
    if sheet.notes:
        lines.append("\\par\\smallskip")
        lines.append("\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright")
        lines += [escaped(note) + "\\par" for note in sheet.notes]
        lines.append("\\end{minipage}")
    lines.append("\\end{table}")
    return "\n".join(lines) + "\n"


def _labels(grid: Grid) -> list[int]:
    """Return the columns that name a row: the axes, or else the variant."""
    return grid.group(AXIS) or grid.group(LABEL)[:1]


def _characters(grid: Grid) -> int:
    """Return the characters of the widest row, measured and published, with two between columns."""
    labels = [max((len(row.cells[i].text) for row in grid.rows), default=0) for i in _labels(grid)]
    shown = grid.group(MEASURED, PUBLISHED)
    widths = [max([len(grid.columns[i].title), *(len(row.cells[i].text) for row in grid.rows)]) for i in shown]
    return sum(labels) + sum(widths) + 2 * (len(labels) + len(widths)) + len("seeds")


def _values(grid: Grid, groups: Sequence[str]) -> list[str]:
    """Return the values of some groups of columns as a tabular, differences in rows of their own."""
    headings = [heading for heading in grid.headings if heading.group in groups]
    shown = [i for heading in headings for i in grid.group(heading.group)]
    labels, seeds = _labels(grid), grid.group(LABEL)[1]
    spec = ("c" if grid.group(AXIS) else "l") * len(labels) + "c" + "".join("@{\\quad}" + "r" * heading.span for heading in headings)
    heads, rules, start = [" & " * len(labels)], [], len(labels) + 2
    for heading in headings:
        heads.append(f"\\multicolumn{{{heading.span}}}{{c}}{{{escaped(heading.title)}}}")
        rules.append(f"\\cmidrule(lr){{{start}-{start + heading.span - 1}}}")
        start += heading.span
    lines = [f"\\begin{{tabular}}{{{spec}}}", "\\toprule", _line(heads), " ".join(rules)]
    lines += [_line([_title(grid.columns[i]) for i in (*labels, seeds, *shown)]), "\\midrule"]
    for row in grid.rows:
        lines += _value_lines(row, labels, seeds, shown)
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _value_lines(row: Row, labels: Sequence[int], seeds: int, shown: Sequence[int]) -> list[str]:
    cells = [row.cells[i] for i in shown]
    lines = [_line([*(_label(row.cells[i]) for i in labels), escaped(row.cells[seeds].text), *map(_value, cells)])]
    if any(cell.detail for cell in cells):
        details = [f"{{\\scriptsize {_number(cell.detail)}}}" if cell.detail else "" for cell in cells]
        lines.append(_line(["", *[""] * len(labels), *details]))
    return lines


def _plain(grid: Grid) -> list[str]:
    """Return a grid of text as a tabular."""
    lines = ["\\begin{tabular}{l" + "r" * (len(grid.columns) - 2) + "l}", "\\toprule"]
    lines += [_line([escaped(column.title) for column in grid.columns]), "\\midrule"]
    lines += [_line([escaped(cell.text) for cell in row.cells]) for row in grid.rows]
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + " \\\\"


def _title(column: Column) -> str:
    """Return AP$_{50}$ and AP$_S$ as papers write them; the title otherwise."""
    if column.key in naming.AP_METRICS and column.key != "AP":
        return f"AP$_{{{column.key.removeprefix('AP').removeprefix('_')}}}$"
    return escaped(column.title)


def _label(cell: Cell) -> str:
    if isinstance(cell.value, bool):
        return r"$\checkmark$" if cell.value else ""
    return escaped(cell.text)


def _value(cell: Cell) -> str:
    value = _number(cell.text)
    return f"\\textbf{{\\boldmath {value}}}" if cell.best else value


def _number(text: str) -> str:
    """Return 39.2 ± 0.1 in maths, so that signs and spacing are right."""
    return "--" if text == MISSING else "$" + text.replace("±", r"\pm").replace("−", "-") + "$"
