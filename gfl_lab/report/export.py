"""The table as people take it away: JSON, CSV and Markdown here, LaTeX and HTML in modules of their own, all files at once.

CSV and JSON are ASCII numbers with all digits that matter; the others show the same cells (``report.cells``).
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.records.files import write_text
from gfl_lab.report.comparison import Comparison
from gfl_lab.report.formatting import (
    MISSING,
    OURS,
    PUBLISHED,
    TRUTH,
    comparison_head,
    comparison_rows,
    comparison_title,
    layout,
    one_line,
    seeds_text,
)
from gfl_lab.report.latex import to_latex
from gfl_lab.report.page import to_html
from gfl_lab.report.table import Table, table_json

FORMATS = ("json", "md", "csv", "tex", "html")

# --- JSON and CSV ---------------------------------------------------------------------------------


def to_json(table: Table) -> str:
    """The form of docs/tables.md, indented, with a final newline."""
    return json.dumps(table_json(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv_number(value: float | None) -> str:
    return "" if value is None else repr(round(float(value), 6) + 0.0)


def to_csv(table: Table) -> str:
    """One line a variant; flat columns for every metric: ``AP_mean, AP_std, AP_n, AP_delta, AP_delta_std, AP_delta_n, …``.

    AP, AP50 and AP75 also have ``AP_delta_low`` and the other parts of ``_COMPARED``. Unknown values are empty. Published values are
    ``published_AP`` and so on, with source, split and comparability.
    """
    axes = list(dict.fromkeys(key for row in table.rows for key in row.axes))
    published = list(dict.fromkeys(key for row in table.rows if row.reference for key in row.reference.metrics))
    header = ["experiment", "profile", "variant", "baseline", *axes, "trials", "done", "trial_ids"]
    for key in table.all_metrics:
        header += [f"{key}_{part}" for part in ("mean", "std", "n", "delta", "delta_std", "delta_n")]
        if key in RESAMPLED:
            header += [f"{key}_delta_{part}" for part in _COMPARED]
    header += ["published_row", *(f"published_{key}" for key in published)]
    header += ["published_source", "published_split", "published_comparable", "published_why_not"]

    compared = {(each.variant, each.metric): each for each in table.comparisons}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        line: list[Any] = [table.experiment, table.profile, one_line(row.variant), _lower(row.baseline)]
        line += [_lower(row.axes[key]) if key in row.axes else "" for key in axes]
        line += [len(row.trials), row.counts.get("done", 0), " ".join(trial.id for trial in row.trials)]
        for key in table.all_metrics:
            found, delta = row.metrics.get(key), row.delta.get(key)
            line += [_csv_number(found.mean), _csv_number(found.std), found.n] if found else ["", "", 0]
            line += [_csv_number(delta.mean), _csv_number(delta.std), delta.n] if delta else ["", "", 0]
            if key in RESAMPLED:
                line += _csv_comparison(compared.get((row.variant, key)))
        reference = row.reference
        line += [one_line(reference.row) if reference else ""]
        line += [_csv_number(reference.metrics.get(key)) if reference else "" for key in published]
        if reference:
            line += [one_line(reference.source), one_line(reference.split), _lower(reference.comparable), one_line(reference.why_not)]
        else:
            line += ["", "", "", ""]
        writer.writerow(line)
    return out.getvalue()


_COMPARED = (
    "low", "high", "p", "p_holm", "resolves", "seeds_needed", "seeds_needed_for", "images_resolve", "images_needed", "rows_pooled",
    "verdict", "weak", "why",
)  # fmt: skip


def _csv_comparison(each: Comparison | None) -> list[Any]:
    if each is None:
        return [""] * len(_COMPARED)
    p_values = ["" if p is None else f"{p:.4g}" for p in (each.found.p, each.p)]
    needed = "" if each.needed is None else each.needed
    return [
        _csv_number(each.found.low),
        _csv_number(each.found.high),
        *p_values,
        _csv_number(each.detectable),
        needed,
        _csv_number(each.smallest),
        _csv_number(each.images_resolve),
        "" if each.images_needed is None else each.images_needed,
        "" if each.found.half is None else each.found.rows,
        each.verdict,
        _lower(each.weak),
        one_line(each.found.why),
    ]


def _lower(value: Any) -> str:
    """A setting as other programs read it: true, 16, [8, 16]."""
    return str(value).lower() if isinstance(value, bool) else naming.setting_text(value)


# --- Markdown -------------------------------------------------------------------------------------

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def markdown_escape(text: str) -> str:
    """``text`` so that Markdown (with GitHub's tables and maths) shows it as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", one_line(text).replace("&", "&amp;"))


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
    if table.compared:
        lines += [
            "",
            markdown_escape(comparison_title(table)),
            "",
            "| " + " | ".join(comparison_head(table)) + " |",
            "| :-- |" + " --: |" * (len(comparison_head(table)) - 1),
        ]
        lines += ["| " + " | ".join(map(markdown_escape, line)) + " |" for line in comparison_rows(table)]
    if table.footnotes:
        lines += ["", *(f"- {markdown_escape(note)}" for note in table.footnotes)]
    return "\n".join(lines) + "\n"


# --- files ----------------------------------------------------------------------------------------

_EXPORTERS = {"json": to_json, "md": to_markdown, "csv": to_csv, "tex": to_latex, "html": to_html}


def write_all(table: Table, folder: Path) -> dict[str, Path]:
    """Write ``table.{json,md,csv,tex,html}`` into ``folder``, each atomically; returns the paths by format."""
    paths = {}
    for name in FORMATS:
        paths[name] = folder / f"{naming.TABLE_STEM}.{name}"
        write_text(paths[name], _EXPORTERS[name](table))
    return paths
