"""Every form of a table, by the ending of its file: the one list that commands and dashboard take their forms from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gfl_lab import naming
from gfl_lab.records.files import write_text
from gfl_lab.report.ranking import Ranking
from gfl_lab.report.ranking_grid import data_grid as ranking_data
from gfl_lab.report.ranking_grid import ranking_json, ranking_sheet
from gfl_lab.report.ranking_plots import plots_html
from gfl_lab.report.table import Table
from gfl_lab.report.table_data import data_grid, table_json
from gfl_lab.report.table_grid import table_sheet
from gfl_lab.report.writers.csv_file import to_csv
from gfl_lab.report.writers.html_page import to_html
from gfl_lab.report.writers.json_file import to_json
from gfl_lab.report.writers.latex import to_latex
from gfl_lab.report.writers.markdown import to_markdown

TABLE_FORMS: Mapping[str, Callable[[Table], str]] = {
    "json": lambda table: to_json(table_json(table)),
    "md": lambda table: to_markdown(table_sheet(table)),
    "csv": lambda table: to_csv(data_grid(table)),
    "tex": lambda table: to_latex(table_sheet(table)),
    "html": lambda table: to_html(table_sheet(table)),
}
RANKING_FORMS: Mapping[str, Callable[[Ranking], str]] = {
    "json": lambda ranking: to_json(ranking_json(ranking)),
    "md": lambda ranking: to_markdown(ranking_sheet(ranking)),
    "csv": lambda ranking: to_csv(ranking_data(ranking)),
    "html": lambda ranking: to_html(ranking_sheet(ranking), plots_html(ranking)),
}


def write_table(table: Table, folder: Path) -> dict[str, Path]:
    """Write ``table.{json,md,csv,tex,html}`` into ``folder``, each atomically; return the paths by form."""
    return _write(folder, {form: write(table) for form, write in TABLE_FORMS.items()})


def write_ranking(ranking: Ranking, folder: Path) -> dict[str, Path]:
    """Write ``table.{json,md,csv,html}`` into ``folder``, each atomically; return the paths by form."""
    return _write(folder, {form: write(ranking) for form, write in RANKING_FORMS.items()})


def _write(folder: Path, texts: Mapping[str, str]) -> dict[str, Path]:
    paths = {form: folder / f"{naming.TABLE_STEM}.{form}" for form in texts}
    for form, text in texts.items():
        write_text(paths[form], text)
    return paths
