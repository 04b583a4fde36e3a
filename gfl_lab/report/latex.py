"""The table as a LaTeX ``table`` environment that compiles with booktabs and amssymb."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from gfl_lab import naming
from gfl_lab.report.formatting import (
    MISSING,
    OURS,
    PUBLISHED,
    TRUTH,
    Layout,
    comparison_head,
    comparison_rows,
    group_titles,
    layout,
    metric_title,
    one_line,
    seeds_text,
)
from gfl_lab.report.table import Table

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


def latex_escape(text: str) -> str:
    """``text`` as pdfLaTeX without extra packages prints it. Characters it has no glyph for become a question mark."""
    out = []
    for char in unicodedata.normalize("NFC", one_line(text)):
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

    Differences stand below the values; the scores against known edges are a second tabular, and published numbers one of their own where
    they would not fit beside ours (``WIDE``).
    Needs ``\\usepackage{booktabs,amssymb}`` (amssymb for the check mark), nothing else.
    """
    found = layout(table)
    apart = _characters(table, found) > WIDE
    lines = [
        "% needs \\usepackage{booktabs,amssymb}",
        "\\begin{table}[t]",
        f"\\centering\\{'footnotesize' if apart else 'small'}\\setlength{{\\tabcolsep}}{{4pt}}",
        f"\\caption{{{latex_escape(table.question or table.experiment)} Data: {latex_escape(table.data)}.}}",
        f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', table.experiment)}}}",
        *_latex_tabular(table, found, (OURS,) if apart else (OURS, PUBLISHED)),
    ]
    for wanted in ([PUBLISHED] if apart and found.group(PUBLISHED) else []) + ([TRUTH] if found.group(TRUTH) else []):
        lines += ["\\par\\medskip", *_latex_tabular(table, found, (wanted,))]
    if table.compared:
        lines += ["\\par\\medskip", *_latex_comparisons(table)]
    if table.footnotes:
        lines.append("\\par\\smallskip")
        lines.append("\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright")
        lines += [latex_escape(note) + "\\par" for note in table.footnotes]
        lines.append("\\end{minipage}")
    lines.append("\\end{table}")
    return "\n".join(lines) + "\n"


def _characters(table: Table, found: Layout) -> int:
    """Characters of the widest row, ours and published, with two between columns."""
    shown = [*found.group(OURS), *found.group(PUBLISHED)]
    labels = [max(len(naming.setting_text(row.axes.get(axis, ""))) for row in table.rows) for axis in table.axes] or [
        max((len(row.variant) for row in table.rows), default=0)
    ]
    widths = [max([len(found.columns[i].title), *(len(cells[i].value) for cells in found.rows)]) for i in shown]
    return sum(labels) + sum(widths) + 2 * (len(labels) + len(widths)) + len("seeds")


def _latex_tabular(table: Table, found: Layout, wanted: Sequence[str]) -> list[str]:
    groups = [group for group in group_titles(table, found) if group[2] in wanted]
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


def _latex_comparisons(table: Table) -> list[str]:
    """The differences to the baseline as a tabular of their own."""
    head = comparison_head(table)
    lines = ["\\begin{tabular}{l" + "r" * (len(head) - 2) + "l}", "\\toprule"]
    lines += [" & ".join(map(latex_escape, head)) + " \\\\", "\\midrule"]
    lines += [" & ".join(map(latex_escape, row)) + " \\\\" for row in comparison_rows(table)]
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _latex_title(key: str) -> str:
    """AP$_{50}$ and AP$_S$ as papers write them; the title otherwise."""
    if key in naming.AP_METRICS and key != "AP":
        return f"AP$_{{{key.removeprefix('AP').removeprefix('_')}}}$"
    return latex_escape(metric_title(key))
