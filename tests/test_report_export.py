"""Exporters: all forms say the same, names stay data, signs are right, files are whole."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gfl_lab import naming
from gfl_lab.report.exports import TABLE_FORMS, write_table
from gfl_lab.report.formatting import MISSING, format_number, format_spread, one_line
from gfl_lab.report.table import Table, build_table
from gfl_lab.report.table_grid import table_sheet
from gfl_lab.report.writers import latex, markdown
from gfl_lab.report.writers.terminal import TableReport
from gfl_lab.results.store import Store
from tests.support.fake_runs import write_fake_tree
from tests.support.grids import metric_cells
from tests.test_report_table import experiment, published, trial, variant

HOSTILE = r"<script>alert(1)</script> |*x*|_y_`z`$\alpha$ & 50% #1 {a} ~ ^ \ [l](http://m) ''--'' \end{table} 日本 é ±"


@pytest.fixture(scope="module")
def table() -> Table:
    return build_table(
        experiment(
            variant(
                "off", trial(0, AP=50.0, fps=41.26), trial(1, AP=51.0, fps=40.0), baseline=True, reference=published(AP=39.2, fps=19.4)
            ),
            variant("on", trial(0, AP=49.6, fps=30.0), trial(1, AP=50.4, fps=30.0), reference=published(AP=39.9)),
        )
    )


@pytest.fixture(scope="module")
def hostile() -> Table:
    bad = dataclasses.replace(published(AP=39.2), row=HOSTILE, why_not=HOSTILE, source=HOSTILE)
    rows = experiment(variant(HOSTILE, trial(0, AP=50.0), baseline=True, reference=bad), variant("line\nbreak", trial(0, AP=51.0)))
    return build_table(dataclasses.replace(rows, question=HOSTILE, data=dataclasses.replace(rows.data, name=HOSTILE)))


def terminal(table: Table, width: int = 100, tty: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=tty, color_system="standard" if tty else None)
    console.print(TableReport(table_sheet(table)))
    return out.getvalue()


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "signed", "text"),
    [
        ("AP", 39.25, False, "39.2"), ("AP", 0.7, True, "+0.7"), ("AP", -0.34, True, "−0.3"), ("AP", -0.04, True, "0.0"),
        ("AP", -3.0, False, "−3.0"), ("latency_ms", 24.305, False, "24.30"),
        ("wasserstein", 0.5, False, "0.500"), ("other", 1.0, True, "+1.000"),
    ],
)  # fmt: skip
def test_number_format(key: str, value: float, signed: bool, text: str) -> None:
    assert format_number(key, value, signed) == text


def test_cells() -> None:
    assert format_spread("AP", 39.2, None) == "39.2"
    assert format_spread("AP", 39.2, 0.14) == "39.2 ± 0.1"
    assert format_spread("AP", -0.7, 0.2, signed=True) == "−0.7 ± 0.2"
    assert metric_cells(build_table(experiment(variant("off", baseline=True))))[0][0].text == "–"


def test_best_follows_the_metrics_direction_ties_share_and_speed_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(naming.METRICS, "loss", naming.Metric("loss", "loss", "", False, 2, "of this test"))
    rows = experiment(
        variant("a", trial(0, AP=50.02, loss=9.0, fps=1.0, latency_ms=9.0), baseline=True),
        variant("b", trial(0, AP=50.04, loss=8.0, fps=2.0, latency_ms=8.0)),
        variant("c", trial(0, AP=40.0, loss=7.0, fps=3.0, latency_ms=7.0)), metrics=("AP", "loss", "fps", "latency_ms"),
    )  # fmt: skip
    table = build_table(rows)
    cells = [[cell.best for cell in row] for row in metric_cells(table)]
    assert [row[0] for row in cells] == [True, True, False]  # equal as printed
    assert [row[1] for row in cells] == [False, False, True]
    assert not any(row[2] or row[3] for row in cells), "speed is the noise of a busy machine"
    assert "**7.00**" in TABLE_FORMS["md"](table) and "**3.0**" not in TABLE_FORMS["md"](table)


# --- the five agree -------------------------------------------------------------------------------


def test_human_forms_show_the_same_cells(table: Table) -> None:
    cells = [cell for row in metric_cells(table) for cell in row]
    texts = {cell.text for cell in cells} | {cell.detail for cell in cells if cell.detail}
    assert "50.5 ± 0.7" in texts
    assert "−0.5 ± 0.1" in texts
    latex = TABLE_FORMS["tex"](table)
    for text in texts:
        assert text in TABLE_FORMS["md"](table)
        assert text in TABLE_FORMS["html"](table)
        assert text in terminal(table)
        assert (text.replace("±", r"\pm").replace("−", "-") if text != MISSING else "--") in latex
    for note in table.footnotes:
        assert note in " ".join(re.sub(r"\\(.)", r"\1", TABLE_FORMS["md"](table)).split())


def test_published_values_are_marked(table: Table) -> None:
    mark = "published (not comparable)"
    assert mark in terminal(table)
    assert mark in TABLE_FORMS["html"](table)
    assert mark in TABLE_FORMS["tex"](table)
    assert "| published AP |" in TABLE_FORMS["md"](table)
    assert "*39.2*" in TABLE_FORMS["md"](table)


def test_csv_is_flat_and_exact(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(TABLE_FORMS["csv"](table))))
    assert [line["variant"] for line in lines] == ["off", "on"]
    second = lines[1]
    assert float(second["AP_mean"]) == 50.0
    assert float(second["AP_delta"]) == -0.5
    assert float(second["AP_delta_std"]) == pytest.approx(0.141421)
    assert (second["AP_n"], second["qfl"], second["baseline"]) == ("2", "true", "false")
    assert (second["published_AP"], second["published_fps"], second["published_comparable"]) == ("39.9", "", "false")
    assert lines[0]["AP_delta"] == ""
    assert "−" not in TABLE_FORMS["csv"](table)


# --- names are data -------------------------------------------------------------------------------


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.data: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def test_html_stands_alone_and_escapes(hostile: Table) -> None:
    parser = _Tags()
    parser.feed(TABLE_FORMS["html"](hostile))
    assert not {"script", "link", "img", "iframe", "a"} & set(parser.tags)
    assert not {"src", "href", "onclick"} & {name for name, _ in parser.attributes}
    assert HOSTILE in parser.data
    assert "prefers-color-scheme: dark" in TABLE_FORMS["html"](hostile)
    assert "url(" not in TABLE_FORMS["html"](hostile)


def test_markdown_tables_keep_their_columns(hostile: Table) -> None:
    lines = [line for line in TABLE_FORMS["md"](hostile).splitlines() if line.startswith("|")]
    assert len(lines) == 4 + 3
    for part in (lines[:4], lines[4:]):
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in part}) == 1
    assert not re.search(r"(?<!\\)[<*_`$]", lines[2].split("|")[1])


def test_csv_survives(hostile: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(TABLE_FORMS["csv"](hostile))))
    assert [line["variant"] for line in lines] == [HOSTILE, "line break"]


def test_terminal_takes_no_markup(hostile: Table) -> None:
    bad = dataclasses.replace(hostile, question="[bold red]q[/] \x1b[31mred")
    assert "[bold red]q[/]" in terminal(bad)
    assert "\x1b" not in terminal(bad)


@given(st.text(max_size=60))
def test_latex_leaves_nothing_active(text: str) -> None:
    found = latex.escaped(text)
    assert found.isascii()
    bare = re.sub(r"\\[a-zA-Z]+|\\[{}$&%#_`'^\"~]|\$[^$]*\$", "", found)  # known commands, escaped characters, our maths
    assert not re.search(r"[\\$&%#_^~|<>\"]", bare)
    plain = re.sub(r"\\[{}]", "", found)
    assert plain.count("{") == plain.count("}")


@given(st.text(max_size=60))
def test_markdown_escape_is_one_line_and_undone_by_a_reader(text: str) -> None:
    found = markdown.escaped(text)
    assert "\n" not in found
    assert re.sub(r"\\(.)", r"\1", found).replace("&amp;", "&") == one_line(text)


@pytest.fixture(scope="module")
def wide() -> Table:
    """As many columns as Table 2a has, with spreads."""
    keys = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
    seeds = [[trial(seed, **{key: base + seed for key in keys}, fps=100.0 + seed) for seed in (0, 1)] for base in (50.0, 52.5)]
    values = published(**dict.fromkeys(keys, 39.2))
    rows = [variant(f"{name} representation", *seeds[i], baseline=not i, reference=values) for i, name in enumerate(("Dirac", "General"))]
    return build_table(dataclasses.replace(experiment(*rows), metrics=(*keys, "fps")))


def test_latex_gives_published_numbers_a_tabular_of_their_own_where_both_would_not_fit(table: Table, wide: Table) -> None:
    narrow, broad = TABLE_FORMS["tex"](table), TABLE_FORMS["tex"](wide)
    assert narrow.count("\\begin{tabular}") == 2 and "\\footnotesize\\setlength" not in narrow, "values; differences"
    assert broad.count("\\begin{tabular}") == 3 and "\\footnotesize\\setlength" in broad
    ours, theirs, _ = (part.partition("\\end{tabular}")[0] for part in broad.split("\\begin{tabular}")[1:])
    assert "published" not in ours and "50.5" in ours and "published" in theirs and "39.2" in theirs and "50.5" not in theirs


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_compiles_and_fits(tmp_path: Path, table: Table, hostile: Table, wide: Table) -> None:
    tables = "\n".join(TABLE_FORMS["tex"](found) for found in (table, hostile, wide))
    document = "\\documentclass{article}\\usepackage{booktabs,amssymb}\\setlength{\\textwidth}{160mm}"
    document += f"\\begin{{document}}{tables}\\end{{document}}"
    (tmp_path / "a.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "Overfull \\hbox" not in ran.stdout, ran.stdout


# --- terminal -------------------------------------------------------------------------------------


def test_colour_only_on_a_terminal(table: Table) -> None:
    assert "\x1b[" not in terminal(table)
    assert "\x1b[" in terminal(table, tty=True)
    assert "−0.5 ± 0.1" in terminal(table)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_shows_every_number_at_any_width(tmp_path: Path, seeds: tuple[int, ...], width: int) -> None:
    found = build_table(Store(write_fake_tree(tmp_path, seeds=seeds, val_images=2)).experiment("table3_qfl_dfl", "desk"))
    text = terminal(found, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = set(text.split())
    for row in metric_cells(found):
        for cell in row:
            assert cell.text.split()[0] in words


# --- files ----------------------------------------------------------------------------------------


def test_write_all(tmp_path: Path, table: Table) -> None:
    paths = write_table(table, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        f"table.{name}" for name in ("json", "md", "csv", "tex", "html")
    )
    assert json.loads(paths["json"].read_text(encoding="utf-8"))["rows"][0]["variant"] == "off"


def test_a_table_of_nothing_exports(tmp_path: Path) -> None:
    for rows in (experiment(), experiment(variant("off", baseline=True))):
        write_table(build_table(rows), tmp_path)
        assert terminal(build_table(rows))
