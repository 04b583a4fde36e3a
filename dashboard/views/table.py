"""The AP table of an ablation; of a search the ranked table, since trials that were stopped early cannot be compared like variants."""

from __future__ import annotations

from dashboard import experiments, live, theme
from dashboard.views import table_ablation, table_ranking
from gfl_lab.results.rows import ExperimentRow


def _body(experiment: ExperimentRow) -> None:
    (table_ranking if experiment.kind == experiments.SEARCH else table_ablation).show(experiment)


experiment = live.current()
theme.header(experiment.question or experiment.name, under=live.data_line(experiment))
if experiment.kind != experiments.SEARCH:
    table_ablation.choices(experiment)
live.follow(_body)
