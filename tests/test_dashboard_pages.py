"""Every page of the dashboard on full, empty, half-finished, damaged and hostile trees, without a browser."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import experiments, pages, reader, theme
from dashboard.views.compare_figures import is_cut, scale
from gfl_lab import naming
from gfl_lab.report.formatting import format_number, verdict_text
from gfl_lab.report.grid import Tone
from gfl_lab.report.statistics import Difference
from gfl_lab.report.table import build_table
from gfl_lab.report.variant_comparison import DifferenceRow
from gfl_lab.results.store import open_store
from gfl_lab.rundir import RunTree
from gfl_lab.session.import_results import ImportOptions, import_results
from tests.support.detection_files import annotations, detections, write
from tests.support.fake_runs import HOSTILE_CLASSES, HOSTILE_TEXT, with_needed_trials, write_fake_tree
from tests.support.fake_search_tree import MIXED, write_fake_search
from tests.support.grids import metric_cells

pytestmark = pytest.mark.usefixtures("no_packages")

ROOT = Path(__file__).resolve().parent.parent
APP = str(ROOT / "dashboard" / "app.py")
PAGES = tuple(entry.name for entry in pages.PAGES)
SMALL = {"epochs": 3, "val_images": 4, "train_images": 8}


def open_page(page: str, root: Path, monkeypatch, **query: str) -> AppTest:
    monkeypatch.setenv("GFL_LAB_HOME", str(root))
    app = AppTest.from_file(APP, default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    if page != "overview":
        app.switch_page(f"views/{page}.py")
    app.run()
    assert not app.exception, app.exception
    return app


def html_of(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


def words_of(app: AppTest) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html_of(app)).split()).replace(" ,", ",").replace(" :", ":")


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    def make(name: str, **options) -> Path:
        root = tmp_path_factory.mktemp(name)
        if options:
            write_fake_tree(root, **SMALL, **options)
        return root

    mixed = {0: "done", (1, 0): "running", (1, 1): "done", 2: "failed", (3, 0): "interrupted", (3, 1): "planned"}
    found = {
        "empty": make("empty"),
        "full": make("full", seeds=(0, 1)),
        "partial": make("partial", seeds=(0, 1), states=mixed),
        "planned": make("planned", states="planned"),
        "running": make("running", states="running"),
        "failed": make("failed", states="failed"),
        "no_truth": make("no_truth", truth=False),
        "hostile": make("hostile", hostile=True, states=["done", "done", "failed", "done"]),
    }
    damaged = make("damaged", states="done")
    trials = sorted((damaged / "trials").iterdir())
    write_fake_tree(damaged, name="zz_broken", **SMALL)
    (damaged / "experiments" / "zz_broken" / "desk" / naming.PLAN).write_text("{")
    (trials[0] / naming.RESULT).write_text("{")
    (trials[1] / naming.MANIFEST).write_text("[]")
    (trials[2] / naming.DISTRIBUTIONS).write_bytes(b"nothing")
    (trials[3] / naming.METRICS_FILE).write_bytes(b"\xff\n")
    for name, options in {
        "search": {"states": (*MIXED, "running", "interrupted")},
        "search_begun": {"states": ()},
        "search_few": {"states": ("done", "stopped", "failed", "invalid", "running"), "hostile": True},
    }.items():
        found[name] = make(name)
        write_fake_search(found[name], **options)
    return found | {"damaged": damaged}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "tree",
    ["empty", "full", "partial", "planned", "running", "failed", "no_truth", "hostile", "damaged", "search", "search_begun", "search_few"],
)
def test_every_page_opens(page, tree, trees, monkeypatch):
    app = open_page(page, trees[tree], monkeypatch)
    shown = html_of(app) + "".join(code.value for code in app.code)
    assert len(shown) > 300
    assert str(trees[tree]) not in shown and "/tmp/" not in shown
    if tree == "full" and page in ("table", "curves", "boxes", "calibration", "compare"):
        assert 0 < shown.find('class="answer"') < (shown.find("<table") if "<table" in shown else len(shown)), "the answer comes first"
    if tree == "empty" and page != "guide":
        assert "gfl-lab run experiments/table3_qfl_dfl.yaml" in shown


def test_pages_of_imported_detections_show_their_numbers_and_say_what_there_is_none_of(tmp_path, monkeypatch):
    coco = annotations(10)
    val = write(tmp_path / "files" / "val.json", coco)
    for arm, noise in (("yolo", 0.08), ("dfine", 0.03)):
        for seed in range(2):
            write(tmp_path / "files" / f"{arm}_s{seed}.json", detections(coco, seed, noise=noise))
    arms = [(arm, f"{tmp_path}/files/{arm}_s*.json") for arm in ("yolo", "dfine")]
    root = tmp_path / "runs"
    import_results(RunTree(root), "anyone", ImportOptions(arms, val, question="Which one?"), lambda _: None)
    shown = {page: words_of(open_page(page, root, monkeypatch)) for page in PAGES}
    for page in ("curves", "boxes", "calibration"):
        assert "This experiment is made of imported detections." in shown[page], page
    assert (
        "No training curves" in shown["curves"]
        and "No box distributions" in shown["boxes"]
        and "No box distributions" in shown["calibration"]
    )
    assert "calibration error" in shown["calibration"] and shown["calibration"].count("dfine") >= 2, "scores are there"
    assert "val: 10 images, 3 classes" in shown["table"] and "none of the detectors" in shown["table"] and "AP75" in shown["table"]
    assert "2 and 2 files" in shown["compare"] and "class 7" in shown["compare"]
    assert "Which one?" in shown["overview"] and shown["trials"].count("done") >= 4
    assert not any(str(tmp_path) in words for words in shown.values())


def test_boxes_of_an_mmdet_detector_are_shown_and_the_page_says_that_it_has_no_distributions(tmp_path, monkeypatch):
    write_fake_tree(tmp_path, **SMALL)
    (file,) = (tmp_path / "experiments").glob(f"*/*/{naming.PLAN}")
    plan = json.loads(file.read_text())
    last, with_head = plan["variants"][-1], plan["variants"][-2]
    last["settings"]["detector"] = "mmdet:retinanet_r50_fpn_1x_coco"
    with_head["settings"] |= {"detector": "mmdet:gfl_r50_fpn_1x_coco", "box": "dirac"}
    file.write_text(json.dumps(plan))
    rows = tmp_path / "trials" / last["trials"][0]["id"] / naming.DISTRIBUTIONS
    frame = pd.read_parquet(rows)
    nowhere = {"level": -1, "stride": 0, "bins": 0, "cell_x": math.nan, "cell_x1": math.nan}
    frame = frame.assign(**nowhere, probs=[[]] * len(frame), expectation=[[math.nan] * 4] * len(frame))
    pq.write_table(pa.Table.from_pandas(frame, schema=pq.read_schema(rows), preserve_index=False), rows)
    by_default = open_page("boxes", tmp_path, monkeypatch)
    assert "A detector of mmdet's" not in html_of(by_default), "a variant that has distributions is shown first"
    assert by_default.query_params["variant"] == with_head["name"], "mmdet's GFL head has them, whatever the settings of ours say"
    chosen = html_of(open_page("boxes", tmp_path, monkeypatch, variant=last["name"]))
    assert chosen.count("No distributions of box sides") == 2, "under its box and in place of the ranking"


def test_trials_that_others_need_are_shown_with_their_state_where_they_are_needed(tmp_path, monkeypatch):
    states = {(0, 0): "done", (0, 1): "running", (1, 0): "running", (1, 1): "planned"}
    name, (needed, tuned, student, teacher) = with_needed_trials(write_fake_tree(tmp_path, **SMALL, seeds=(0, 1), states=states))
    shown = words_of(open_page("overview", tmp_path, monkeypatch))
    assert f"starts from {name}: 1 running 1 done" in shown and "learns from qfl=on dfl=on: 2 done" in shown
    assert shown.count("trials that others need") == 1
    page = open_page("trials", tmp_path, monkeypatch, trial=student)
    shown = words_of(page)
    assert "Trials that others need" in shown and f"starts from {name}, seed 1 running" in shown
    assert "learns from qfl=on dfl=on, seed 0 done" in shown and len(page.selectbox(key="w:trial").options) == 8
    shown = words_of(open_page("trials", tmp_path, monkeypatch, trial=needed))
    assert re.search(rf"trial {needed} variant {re.escape(name)}, seed 0 needed by qfl=on dfl=off, seed 0 running", shown)
    # a running trial that others need keeps the page alive, and its end is seen
    row = open_store(tmp_path).experiment("table3_qfl_dfl", "desk")
    only_needed = dataclasses.replace(row, variants=())
    assert experiments.is_live(only_needed) and len(experiments.signature(only_needed)) == 2


def test_a_page_is_its_file_and_its_entry(trees, tmp_path, monkeypatch):
    file = tmp_path / "extra.py"
    file.write_text(
        "from dashboard import live, theme\n"
        "experiment = live.current()\n"
        "theme.header('An extra page', under=f'{len(experiment.trials)} trials')\n"
    )
    entry = pages.PageEntry("extra", "Extra", ":material/star:", "An extra page")
    monkeypatch.setattr(
        type(entry), "file", property(lambda self: file if self is entry else ROOT / "dashboard" / "views" / f"{self.name}.py")
    )
    monkeypatch.setattr(pages, "PAGES", (*pages.PAGES, entry))
    monkeypatch.setenv("GFL_LAB_HOME", str(trees["full"]))
    app = AppTest.from_file(APP, default_timeout=60).run()
    app.switch_page(str(file)).run()
    assert not app.exception and "An extra page" in html_of(app) and "8 trials" in html_of(app)
    assert app.selectbox[0].label == "Experiment", "it has the choice of experiment that all pages share"


def test_pages_have_no_bare_strings_which_streamlit_would_draw():
    for entry in pages.PAGES:
        _, *rest = ast.parse(entry.file.read_text(encoding="utf-8")).body
        assert not [each.lineno for each in rest if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)], entry.name


def test_every_page_has_its_row_in_the_docs():
    text = (ROOT / "docs" / "dashboard.md").read_text()
    assert [entry.title for entry in pages.PAGES if f"| {entry.title} |" not in text] == []


def test_overview_says_where_each_trial_is(trees, monkeypatch):
    shown = html_of(open_page("overview", trees["partial"], monkeypatch))
    for words in ("3 done", "1 running", "2 failed", "1 interrupted", "1 planned", "What do QFL and DFL each add to ATSS?", "so far"):
        assert words in shown


def test_overview_names_a_damaged_plan(trees, monkeypatch):
    shown = html_of(open_page("overview", trees["damaged"], monkeypatch))
    assert "the plan of zz_broken (desk) cannot be read" in shown and "What do QFL" in shown


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """45 experiments of the same four trials; of trial_44 one trial is running. Twelve seeds in zz_seeds."""
    root = tmp_path_factory.mktemp("many")
    write_fake_tree(root, **SMALL, name="trial_44", states={0: "running"})
    for number in range(44):
        shutil.copytree(root / "experiments" / "trial_44", root / "experiments" / f"trial_{number:02d}")
        plan = root / "experiments" / f"trial_{number:02d}" / "desk" / naming.PLAN
        changed = json.loads(plan.read_text())
        changed["experiment"]["question"] = f"Does DFL help number {number}?"
        changed["variants"] = changed["variants"][1:]
        plan.write_text(json.dumps(changed))
    return root


def experiments_on(app: AppTest) -> list[str]:
    return re.findall(r"(trial_\d\d) ·", html_of(app))


def test_many_experiments_come_in_pages_the_running_ones_first(many, monkeypatch):
    app = open_page("overview", many, monkeypatch)
    assert experiments_on(app) == ["trial_44", *(f"trial_{n:02d}" for n in range(19))]
    assert app.query_params["from"] == "0"
    app = open_page("overview", many, monkeypatch, **{"from": "40"})
    assert experiments_on(app) == [f"trial_{n:02d}" for n in range(39, 44)]
    app = open_page("overview", many, monkeypatch, **{"from": "41"})  # no page begins there
    assert experiments_on(app)[0] == "trial_44"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("number 7?", ["trial_07", "trial_17", "trial_27", "trial_37"]),
        ("TRIAL_1 desk", [f"trial_{n}" for n in range(10, 20)]),
        ("<b>nothing", []),
        ("trial_44", ["trial_44"]),
    ],
)
def test_experiments_are_found_by_their_words(query, found, many, monkeypatch):
    app = open_page("overview", many, monkeypatch, find=query)
    assert experiments_on(app) == found
    assert ("No experiment has these words" in html_of(app)) is not bool(found)
    assert app.text_input[0].value == query and app.query_params["find"] == query
    app.text_input[0].set_value("number 13?").run()
    assert experiments_on(app) == ["trial_13"] and app.query_params["find"] == "number 13?"


def test_a_new_search_begins_at_its_first_page(many, monkeypatch):
    app = open_page("overview", many, monkeypatch, **{"from": "20"})
    app.text_input[0].set_value("help number").run()
    assert experiments_on(app)[0] == "trial_00" and app.query_params["from"] == "0"


def test_a_search_between_two_trials_stays_on_the_first_page(many, tmp_path, monkeypatch):
    root = tmp_path / "runs"
    shutil.copytree(many, root)
    write_fake_search(root, states=("done", "done"), name="zz_search")
    assert "zz_search ·" in html_of(open_page("overview", root, monkeypatch)), "its ledger has just been written"
    os.utime(root / "experiments" / "zz_search" / "desk" / naming.SEARCH, (1, 1))
    assert "zz_search ·" not in html_of(open_page("overview", root, monkeypatch))


def test_many_seeds_have_one_bar(tmp_path, monkeypatch):
    write_fake_tree(tmp_path, **SMALL, seeds=range(12), states={(1, 3): "failed"})
    page = html_of(open_page("overview", tmp_path, monkeypatch))
    assert page.count('class="bar ') == 1 == page.count('b-failed"') and "of the steps of 12 trials" in page, "finished ones have none"
    (experiment,) = open_store(tmp_path).experiments()
    for each in build_table(experiment, open_store(tmp_path).resampled_or_none).compared:
        assert f">{theme.text(verdict_text(each))}</span>" in page and f">{format_number('AP', each.found.mean, True)}" in page.replace(
            '<td class="c-minus">', ">"
        )
    assert 'data-sign="?"' in page or 'data-sign="▲"' in page or 'data-sign="▼"' in page


def test_table_shows_the_numbers_on_disk(trees, monkeypatch):
    shown = html_of(open_page("table", trees["full"], monkeypatch))
    plan = json.loads(next(trees["full"].glob("experiments/*/*/plan.json")).read_text())
    values = []
    for trial in plan["variants"][3]["trials"]:
        values.append(json.loads((trees["full"] / "trials" / trial["id"] / naming.RESULT).read_text())["metrics"]["AP"])
    assert f">{sum(values) / 2:.1f}<" in shown
    assert "published, not comparable" in shown and "40.2" in shown and "other backbone: r18, not r50" in shown
    assert "two-mode recall" in shown and "img/s" in shown and "baseline" in shown


def rows_on(app: AppTest) -> list[str]:
    """The variants of the AP table, from top to bottom."""
    table = next(body for body in html_of(app).split("<table>")[1:] if "colgroup" in body).partition("</table>")[0]
    return [re.sub("<[^>]+>", "", name).replace(" baseline", "") for name in re.findall(r'<th scope="row" class="name">(.*?)</th>', table)]


@pytest.mark.parametrize("column", ["AP", "W1 to truth", "published AP", "published fps"])
def test_the_table_is_sorted_by_any_column_the_best_first(column, trees, monkeypatch):
    (experiment,) = open_store(trees["full"]).experiments()
    table = build_table(experiment)
    app = open_page("table", trees["full"], monkeypatch, sort=column)
    values = {"AP": [-row.metrics["AP"].mean for row in table.rows], "W1 to truth": [row.metrics["wasserstein"].mean for row in table.rows]}
    values |= {f"published {key}": [-row.reference.metrics[key] for row in table.rows] for key in ("AP", "fps")}
    expected = [row.variant for _, row in sorted(zip(values[column], table.rows, strict=True), key=lambda each: each[0])]
    assert rows_on(app) == expected and (column == "published fps" or expected != [row.variant for row in table.rows])
    assert app.query_params["sort"] == column


def test_the_table_shows_the_rows_that_have_the_words(trees, monkeypatch):
    app = open_page("table", trees["full"], monkeypatch, rows="DFL=on", sort="AP")
    assert sorted(rows_on(app)) == ["qfl=off dfl=on", "qfl=on dfl=on"]
    differences = html_of(app).split("Differences in AP")[1]
    assert "qfl=on dfl=on" in differences and "qfl=on dfl=off" not in differences.partition("</table>")[0]
    app.text_input[0].set_value("<b>").run()
    assert "No row has these words" in html_of(app) and "Differences in AP" not in html_of(app) and not app.exception
    app.text_input[0].set_value("").run()
    assert len(rows_on(app)) == 4


def test_the_seeds_needed_are_told_for_the_difference_of_the_url(trees, monkeypatch):
    assert "needed for 0.3 AP" in html_of(open_page("table", trees["full"], monkeypatch))
    assert "needed for 2 AP" in html_of(open_page("table", trees["full"], monkeypatch, difference="2"))
    assert "needed for 0.3 AP" in html_of(open_page("table", trees["full"], monkeypatch, difference="7"))


def test_colour_follows_the_verdict(trees, monkeypatch, tmp_path):
    store = open_store(trees["full"])
    cells = [cell for row in metric_cells(build_table(store.experiments()[0], store.resampled_or_none)) for cell in row]
    page = html_of(open_page("table", trees["full"], monkeypatch))
    for css, verdict in (("better", Tone.GOOD), ("worse", Tone.BAD)):
        assert page.count(f'class="delta {css}"') == sum(cell.tone is verdict for cell in cells)
    write_fake_tree(tmp_path, seeds=(0,), val_images=2)
    page = html_of(open_page("table", tmp_path, monkeypatch))
    assert 'class="delta">+' in page and "one seed" in page
    assert 'class="delta better"' not in page and 'class="delta worse"' not in page


def test_the_forest_plot_has_every_metric_and_the_colours_of_the_verdicts(trees, monkeypatch):
    store = open_store(trees["full"])
    (experiment,) = store.experiments()
    compared = build_table(experiment, store.resampled_or_none, 2.0).comparisons
    app = open_page("table", trees["full"], monkeypatch, difference="2", verdicts="AP75")
    forest = json.loads(app.get("plotly_chart")[0].proto.spec)
    marks = [(each["x"], each["error_x"]["array"], each["marker"]["color"]) for each in forest["data"]]
    assert len(marks) == 9 and {axis["title"]["text"] for key, axis in forest["layout"].items() if key.startswith("xaxis")} == {
        "Δ AP",
        "Δ AP50",
        "Δ AP75",
    }
    for each in compared:
        ((_, drawn, colour),) = [mark for mark in marks if mark[0] == [each.found.mean]]
        assert drawn == pytest.approx([each.found.half or each.found.image_half or 0.0]), each
        assert colour == theme.verdict_colour(each.verdict)
    assert [(shape["x0"], shape["x1"]) for shape in forest["layout"]["shapes"] if shape["type"] == "rect"] == [(-2.0, 2.0)] * 3
    text = html_of(app)
    assert (
        "Differences in AP75 to the baseline" in text
        and "Δ AP75" in text
        and any("What would resolve this?" in e.label for e in app.expander)
    )
    assert (
        theme.verdict_colour("inconclusive")
        == theme.verdict_colour("one seed")
        not in (theme.verdict_colour("better"), theme.verdict_colour("worse"))
    )


def test_columns_sort_by_a_click_explain_themselves_and_rows_open_their_seeds(trees, monkeypatch):
    app = open_page("table", trees["full"], monkeypatch, sort="AP75", open="qfl=on dfl=on")
    text = html_of(app)
    assert 'data-put="sort=AP"' in text and 'data-put="sort=the+plan%27s+order"' in text, "a second click on AP75 undoes it"
    (experiment,) = open_store(trees["full"]).experiments()
    trials = experiment.variants[3].trials
    for trial in trials:
        assert f"seed {trial.seed} · done · {trial.id}" in text and f">{trial.metrics['AP']:.1f}</td>" in text
    assert sum(trial.id in text for trial in experiment.trials) == len(trials), "the others are closed"
    guide = html_of(open_page("guide", trees["full"], monkeypatch))
    calibration = html_of(open_page("calibration", trees["full"], monkeypatch))
    links = set(re.findall(r'href="guide#(about-[^"]+)"', text + calibration))
    assert {"about-AP", "about-p", "about-detectable", "about-needed", "about-verdict", "about-score_iou", "about-spread"} <= links
    contents = set(re.findall(r'href="#([^"]+)"', guide))
    assert len(contents) == guide.count("<h2") and links | contents <= set(re.findall(r'id="([^"]+)"', guide))


def test_rows_without_a_value_come_last(trees, monkeypatch):
    (experiment,) = open_store(trees["partial"]).experiments()
    rows = rows_on(open_page("table", trees["partial"], monkeypatch, sort="AP"))
    finished = [variant.name for variant in experiment.variants if variant.done]
    assert set(rows[: len(finished)]) == set(finished) and len(rows) == 4


def test_figures_are_saved_with_a_caption(trees, monkeypatch):
    text = html_of(open_page("table", trees["full"], monkeypatch))
    for form in ("png", "svg"):
        (found,) = re.findall(
            rf'data-save="{form}" data-figure="forest" data-name="table3_qfl_dfl-desk-forest" data-caption="([^"]+)"', text
        )
        assert (
            "What do QFL and DFL each add to ATSS? Difference to qfl=off dfl=off, with its 95% interval" in found
            and "Verdicts on AP: " in found
        )


def test_table_exports(trees, monkeypatch):
    app = open_page("table", trees["full"], monkeypatch)
    assert [button.proto.label for button in app.get("download_button")] == ["JSON", "Markdown", "CSV", "LaTeX", "HTML"]


def test_table_without_results(trees, monkeypatch):
    assert "No trial has finished" in html_of(open_page("table", trees["planned"], monkeypatch))


def test_curves_page_draws_all_terms(trees, monkeypatch):
    app = open_page("curves", trees["full"], monkeypatch)
    drawn = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    titles = [chart["layout"]["yaxis"]["title"]["text"] for chart in drawn]
    assert titles[0].startswith("AP") and {"loss_cls", "loss_bbox", "loss_dfl", "lr"} <= set(titles) and "loss" not in titles
    assert "loss_dfl: qfl=off dfl=on, qfl=on dfl=on" in html_of(app), "their sums are not comparable"
    assert app.query_params["metric"] == "AP"
    app = open_page("curves", trees["full"], monkeypatch, last="3", log="1")
    assert all(json.loads(chart.proto.spec)["layout"]["yaxis"].get("type") == "log" for chart in app.get("plotly_chart")[1:])
    assert app.query_params["last"] == "3"


def test_boxes_page_follows_its_url(trees, monkeypatch):
    app = open_page(
        "boxes", trees["full"], monkeypatch, variant="qfl=off dfl=on", beside="qfl=on dfl=on", seed="1", image="2", box="2", zoom="0"
    )
    chosen = {box.label: box.value for box in app.selectbox}
    assert (
        chosen["Variant"] == "qfl=off dfl=on"
        and chosen["Beside it"] == "qfl=on dfl=on"
        and chosen["Seed"] == "1"
        and chosen["Image"] == "2"
    )
    assert not app.toggle[0].value and len(app.get("plotly_chart")) == 4
    app.selectbox(key="w:image").select("3").run()
    assert app.query_params["image"] == "3" and app.query_params["variant"] == "qfl=off dfl=on"


def test_boxes_page_ignores_what_is_no_option(trees, monkeypatch):
    app = open_page("boxes", trees["full"], monkeypatch, variant="<script>", beside="x", seed="-1", image="nan", box="../..", zoom="?")
    assert app.query_params["variant"].startswith("qfl=") and len(app.get("plotly_chart")) == 4


def test_boxes_page_lists_bimodal_sides(trees, monkeypatch):
    app = open_page("boxes", trees["full"], monkeypatch)
    ranking = app.dataframe[0].value
    assert len(ranking) and ranking["bimodality"].is_monotonic_decreasing
    assert app.query_params["box"] == str(ranking["annotation_id"].iloc[0])


def test_boxes_page_while_nothing_is_finished(trees, monkeypatch):
    assert "The furthest trial is at epoch 2 of 3" in html_of(open_page("boxes", trees["running"], monkeypatch))


def test_the_old_address_of_the_calibration_leads_there_with_its_choices(trees, monkeypatch):
    app = open_page("localisation", trees["full"], monkeypatch, seed="1")
    assert "Calibration and distributions in numbers" in html_of(app) and app.query_params["seed"] == "1"
    assert not any(entry.name in pages.MOVED for entry in pages.PAGES), "no link leads to it"


def test_calibration_page_shows_reliability_and_the_distributions_of_each_variant(trees, monkeypatch):
    app = open_page("calibration", trees["full"], monkeypatch, seed="1", group="side")
    text = html_of(app)
    assert "calibration error" in text and "Spearman" in text
    scores, counts = (json.loads(chart.proto.spec) for chart in app.get("plotly_chart"))
    assert len(counts["data"]) == len(scores["data"]) - 1 and counts["layout"]["yaxis"]["type"] == "log", "a bar and a line a variant"
    assert all(f">{side}<" in text for side in ("left", "top", "right", "bottom")) and "entropy [nats]" in text
    assert "two ground-truth edges" in html_of(open_page("calibration", trees["full"], monkeypatch))
    assert "two ground-truth edges" not in html_of(open_page("calibration", trees["no_truth"], monkeypatch, group="ambiguous"))
    assert "No trial has finished" in html_of(open_page("calibration", trees["planned"], monkeypatch))


def test_compare_page_compares_the_two_of_its_url(trees, monkeypatch):
    app = open_page("compare", trees["full"], monkeypatch, variant="qfl=on dfl=on", reference="qfl=on dfl=off")
    text = html_of(app)
    assert "It is open whether qfl=on dfl=on is better than qfl=on dfl=off" in text and "What would resolve this?" in text
    assert ">ours<" not in text and ">theirs<" not in text and "AP50 that errors cost" in text
    spans = {tuple(json.loads(chart.proto.spec)["layout"]["xaxis"]["range"]) for chart in app.get("plotly_chart")}
    assert len(app.get("plotly_chart")) == 4 and len(spans) == 1, "all differences have one scale"
    assert all(
        word in text for word in ("AP by class", "AP50 that errors cost", "localisation", "2 seeds", "over other seeds and other images")
    )
    assert "Nothing to compare yet" in html_of(open_page("compare", trees["planned"], monkeypatch))
    assert "A search is not compared" in html_of(open_page("compare", trees["search"], monkeypatch))


def test_one_long_interval_does_not_hide_the_others():
    def row(group: str, mean: float, half: float) -> DifferenceRow:
        return DifferenceRow(group, "a", mean, 0.0, Difference(mean, half, 0.5, 1.0, 1.0, 2))

    short = [row("metric", -4.0, 6.0), row("class", 10.0, 5.0)]
    low, high = scale(short)
    assert (low, high) == pytest.approx((-11.5, 16.5)), "from -10 to 15, and 6% of 25 on either side"
    assert not is_cut(short, (low, high))
    rare = row("class", 0.0, 300.0)
    low, high = scale([*short, rare])
    assert (low, high) == pytest.approx((-22.4, 22.4)), "AP and the means need -10 to 10: half of that more on either side, and 6%"
    assert is_cut([rare], (low, high)) and not is_cut(short, (low, high))
    wide = [row("metric", 0.0, 30.0), row("metric", 1.0, 1.0)]
    assert not is_cut(wide, scale(wide)), "the intervals of AP are never cut"


def test_compare_shows_the_images_of_a_class_and_of_an_error(trees, monkeypatch):
    old_link = {"ours": "qfl=on dfl=on", "theirs": "qfl=on dfl=off"}
    app = open_page("compare", trees["full"], monkeypatch, **old_link, error_iou="0.75", images_of="class:block")
    text = html_of(app)
    assert (
        app.query_params["variant"] == "qfl=on dfl=on"
        and app.query_params["reference"] == "qfl=on dfl=off"
        and "ours" not in app.query_params
    )
    assert "AP75 that errors cost" in text and "right class, IoU 0.1 to 0.75" in text
    assert 'data-put="images_of=error%3Alocalisation"' in text and "finds boxes that qfl=on dfl=off misses" in text
    app.selectbox(key="w:images_by").select("reference").run()
    assert "qfl=on dfl=off finds boxes that qfl=on dfl=on misses" in words_of(app) and app.query_params["images_by"] == "reference"
    app = open_page("compare", trees["full"], monkeypatch, images_of="error:missed")
    assert "misses boxes that" in html_of(app) and "Score at least" not in [each.label for each in app.selectbox]
    assert "finds boxes" not in html_of(open_page("compare", trees["full"], monkeypatch, images_of="class:<b>"))


def test_pages_without_records_say_so(tmp_path, monkeypatch):
    tree = write_fake_tree(tmp_path, **SMALL)
    for trial in tree.trials():
        trial.file(naming.EVAL_RECORDS).unlink()
    assert "has no evaluation records" in html_of(open_page("compare", tmp_path, monkeypatch))
    assert "No trial of this seed has records" in html_of(open_page("calibration", tmp_path, monkeypatch))


def test_growth_is_drawn(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    from gfl_lab.analysis.history import HISTORY_SCHEMA

    tree = write_fake_tree(tmp_path, **SMALL)
    for trial in tree.trials():
        rows = [row for row in pq.read_table(trial.file(naming.DISTRIBUTIONS)).to_pylist() if row["annotation_id"] >= 0]
        if rows[0]["bins"]:
            import pyarrow as pa

            kept = [{"epoch": epoch} | row for epoch in (1, 2, 3) for row in rows]
            pq.write_table(pa.Table.from_pylist(kept, schema=HISTORY_SCHEMA), trial.file(naming.HISTORY))
    app = open_page("boxes", tmp_path, monkeypatch)
    assert len(app.get("plotly_chart")) == 6 and "after every epoch" in html_of(app)


def test_boxes_begins_with_pictures_of_the_listed_sides(trees, monkeypatch):
    app = open_page("boxes", trees["full"], monkeypatch, sides="width")
    text = html_of(app)
    figures = re.findall(r'<figure( class="chosen")? title="image (\d+), box (\d+), \w+" data-put="image=(\d+)&amp;box=(\d+)".*?<img', text)
    assert 2 <= len(figures) <= 7 and figures[0][0] and all((i, b) == (x, y) for _, i, b, x, y in figures)
    assert len(re.findall(r"(?:left|top|right|bottom): \d+\.\d bins wide", text)) == 2 * len(figures), "alternative text and caption"
    before, after = (next(button for button in app.button if button.label == label) for label in ("Previous", "Next"))
    assert before.disabled and not after.disabled
    after.click().run()
    assert app.query_params["box"] == figures[1][2] and "2 of " in words_of(app)
    for order, words in (("error", "px off"), ("disagreement", "px apart"), ("bimodality", ": bimodality 0.")):
        app.selectbox(key="w:sides").select(order).run()
        assert words in html_of(app) and app.query_params["sides"] == order
    app.selectbox(key="w:score").select("0.9").run()
    assert not app.exception and ("No side is listed" in html_of(app) or "listed sides" in html_of(app))


def test_trials_page_puts_a_failure_first(trees, monkeypatch):
    app = open_page("trials", trees["partial"], monkeypatch)
    assert "failed" in app.selectbox(key="w:trial").format_func(app.selectbox(key="w:trial").value)
    assert "the loss became NaN or infinite at step" in html_of(app) and "step " in app.code[1].value
    assert app.code[0].value == "gfl-lab run table3_qfl_dfl --profile desk --seeds 0,1"


def test_an_opened_trial_has_its_settings_its_difference_and_its_commands(trees, monkeypatch):
    (experiment,) = open_store(trees["full"]).experiments()
    baseline, trial = experiment.variants[0].trials[1], experiment.variants[3].trials[1]
    app = open_page("trials", trees["full"], monkeypatch, trial=trial.id)
    text = html_of(app)
    assert f'data-put="trial={baseline.id}"' in text, "every row opens"
    assert (
        "Settings that differ from the baseline" in text and format_number("AP", trial.metrics["AP"] - baseline.metrics["AP"], True) in text
    )
    commands = app.code[0].value.splitlines()
    assert commands == [f"gfl-lab predict {trial.id} IMAGE.jpg", f"gfl-lab diff {baseline.id} {trial.id}"]
    assert "Settings that differ" not in html_of(open_page("trials", trees["full"], monkeypatch, trial=baseline.id))


def test_trials_page_says_what_is_unreadable(trees, monkeypatch):
    assert "its files cannot be read" in html_of(open_page("trials", trees["damaged"], monkeypatch))


def test_a_link_to_an_unknown_experiment_says_so(trees, monkeypatch):
    shown = html_of(open_page("table", trees["full"], monkeypatch, experiment="gone/desk"))
    assert "gone/desk" in shown and "not in this store" in shown and "What do QFL" in shown


@pytest.mark.parametrize("page", PAGES)
def test_hostile_names_show_themselves(page, trees, monkeypatch):
    app = open_page(page, trees["hostile"], monkeypatch)
    body = html_of(app)
    for name in (*HOSTILE_CLASSES, HOSTILE_TEXT, "<i>shapes</i>", "<b>"):
        if "<" in name:
            assert name not in body.replace("<b>qfl", "").replace("<b>", "" if name == "<b>" else "<b>")
    if page == "overview":
        assert theme.text(HOSTILE_TEXT) in body
    for element in (*app.markdown, *app.caption, *app.title, *app.header):
        assert not any(name in element.value for name in (*HOSTILE_CLASSES, HOSTILE_TEXT))
    for chart in app.get("plotly_chart"):
        assert not any(name in json.loads(chart.proto.spec).__str__() for name in HOSTILE_CLASSES if "<" in name)


# --- searches ---


def test_the_table_page_ranks_a_search(trees, monkeypatch):
    app = open_page("table", trees["search"], monkeypatch)
    shown = html_of(app)
    for words in (
        "18 done",
        "8 stopped early",
        "1 running",
        "2 failed",
        "1 interrupted",
        "of 40 trials",
        "A search for high AP",
        "0.1 to 2",
    ):
        assert words in shown, words
    assert re.search(r'class="answer">Best of 18 finished trials: qfl_beta=\S+ dfl_weight=\S+ reg_max=\S+ lr=\S+, with AP \d', shown)
    table = next(element.proto.body for element in app.get("html") if "<table>" in element.proto.body)
    assert [part.split("</th>")[0].split(">")[-1] for part in table.split('scope="col"')[1:]] == [
        "rank", "no.", "qfl_beta", "dfl_weight", "reg_max", "lr", "AP (0 to 100)", "state", "trial",
    ]  # fmt: skip
    rows = table.split("<tbody>")[1].split("</tr>")[:-1]
    assert len(rows) == 18 + 8 + 2 + 2 and all("done" in row for row in rows[:18]) and all("stopped early" in row for row in rows[18:26])
    assert 'class="best"' in rows[0] and "* stopped early: the value is that of its last epoch" in shown
    assert "by the final AP of 18 finished trials" in shown and "variant" not in table
    assert "suggested combinations that the settings refuse" in shown
    assert app.code[0].value == "gfl-lab confirm EXPERIMENT.yaml --profile desk"
    assert [button.proto.label for button in app.get("download_button")] == ["JSON", "Markdown", "CSV", "HTML"]
    charts = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    assert [trace["type"] for trace in charts[0]["data"]] == ["bar"] and len(charts) == 1 + 4
    scatter = {chart["layout"]["xaxis"]["title"]["text"]: chart for chart in charts[1:]}
    assert set(scatter) == {"qfl_beta", "dfl_weight (logarithmic)", "reg_max", "lr (logarithmic)"}
    assert scatter["lr (logarithmic)"]["layout"]["xaxis"]["type"] == "log" and "type" not in scatter["qfl_beta"]["layout"]["xaxis"]
    for chart in scatter.values():
        done, stopped = (trace["marker"] for trace in chart["data"])
        assert done["color"] != stopped["color"] and done["symbol"] != stopped["symbol"]


def test_a_search_with_few_finished_trials_says_why_there_is_no_importance(trees, monkeypatch):
    app = open_page("table", trees["search_few"], monkeypatch)
    assert "Importance of the settings needs 12 finished trials, and there are 1." in html_of(app)
    assert len(app.get("plotly_chart")) == 5


def test_a_search_of_which_nothing_has_ended(trees, monkeypatch, tmp_path):
    app = open_page("table", trees["search_begun"], monkeypatch)
    shown = html_of(app)
    assert "no suggestion is the best yet" in shown
    assert "none of 40 trials has begun" in shown and "Nothing to rank yet" in shown and "0.1 to 2, logarithmic" in shown
    assert not app.get("plotly_chart") and not app.get("download_button") and not app.code
    write_fake_search(tmp_path, states=("running", "failed"))
    shown = html_of(open_page("table", tmp_path, monkeypatch))
    assert "so far" in shown and "Nothing to rank yet" in shown and "the loss became non-finite at step 8" in shown


def _without_setting(ledger):
    del ledger["suggestions"][0]["settings"]["lr"]


def _odd_space(ledger):
    ledger["definition"]["space"]["lr"] = 3


def _odd_metric(ledger):
    ledger["definition"]["metric"] = "loveliness"


def _newer(ledger):
    ledger["format"] = 99


@pytest.mark.parametrize("damage", [None, "{", "[]", '{"format": 1}', _without_setting, _odd_space, _odd_metric, _newer])
def test_a_damaged_ledger_is_said_and_hides_nothing_else(damage, tmp_path, monkeypatch):
    tree = write_fake_search(tmp_path, states=("done", "stopped"))
    write_fake_tree(tmp_path, **SMALL)
    path = tree.experiment("search_desk", "desk") / naming.SEARCH
    if damage is None:
        path.unlink()
    elif isinstance(damage, str):
        path.write_text(damage)
    else:
        ledger = json.loads(path.read_text())
        damage(ledger)
        path.write_text(json.dumps(ledger))
    for page in ("table", "trials", "overview"):
        shown = html_of(open_page(page, tmp_path, monkeypatch, **({} if page == "overview" else {"experiment": "search_desk/desk"})))
        alert = shown.split('<div class="alert">')[1].split("</div>")[0]
        assert "search.json" in alert and str(tmp_path) not in shown
        assert "What do QFL" in shown or page != "overview"
        if page == "table":
            assert ("The ranked table cannot be shown" in shown) is (damage is not _newer)


@pytest.mark.parametrize("page", ["overview", "table", "trials", "curves"])
def test_hostile_settings_of_a_search_show_themselves(page, trees, monkeypatch):
    app = open_page(page, trees["search_few"], monkeypatch)
    body = html_of(app)
    assert "<script" not in body and (theme.text("<script>alert(5)</script>: **x** $a$ %{x}") in body)
    assert not app.markdown
    for chart in app.get("plotly_chart"):
        assert "<script" not in chart.proto.spec and "%{x}" not in chart.proto.spec.replace("%{x:d}", "")


def test_overview_lists_the_best_of_a_search(trees, monkeypatch):
    app = open_page("overview", trees["search"], monkeypatch)
    shown = html_of(app)
    assert "8 stopped early" in shown and "of 40 trials" in shown and "and 25 more in the ranked table" in shown
    assert shown.split("<tbody>")[1].count("</tr>") == 5
    few = html_of(open_page("overview", trees["search_few"], monkeypatch))
    assert "1 stopped early" in few and ">interrupted<" not in few and "epoch 3 of 9" in few and "then" in few
    labels = [link.proto.label for link in app.get("page_link")]
    assert "Ranked table" in labels and "AP table" not in labels


def test_trials_page_tells_stopped_early_from_interrupted(trees, monkeypatch):
    app = open_page("trials", trees["search"], monkeypatch)
    shown = html_of(app)
    assert shown.count("stopped by the search: other trials were better") == 8 and shown.count("continues from its checkpoint") == 1
    choice = app.selectbox(key="w:trial")
    assert sum("stopped early" in option for option in choice.options) == 8
    ledger = json.loads(next(trees["search"].glob("experiments/*/*/search.json")).read_text())
    stopped = next(entry["trial"] for entry in ledger["suggestions"] if entry["state"] == "stopped")
    assert ">stopped early<" in html_of(choice.set_value(stopped).run()).split("<dl>")[1]


def test_a_ranking_is_made_anew_only_when_its_files_have_changed(tmp_path, monkeypatch):
    tree = write_fake_search(tmp_path, states=("done", "stopped", "running"))
    made = []
    rank = reader.rank
    monkeypatch.setattr(reader, "rank", lambda search: made.append(search) or rank(search))
    app = open_page("table", tmp_path, monkeypatch)
    app.run()
    assert len(made) == 1 and "1 running" in html_of(app)
    path = tree.experiment("search_desk", "desk") / naming.SEARCH
    path.write_text(path.read_text().replace('"trials": 40', '"trials": 41'))
    assert "of 41 trials" in html_of(app.run()) and len(made) == 2
    running = next(trial for trial in tree.trials() if trial.lease_alive())
    running.drop_lease()
    app.run()
    assert len(made) == 3 and "1 interrupted" in html_of(app)


def test_a_search_is_followed_between_two_trials(tmp_path, monkeypatch):
    tree = write_fake_search(tmp_path, states=("done", "stopped"))
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path))
    (experiment,) = open_store(tmp_path).experiments()
    assert experiments.is_live(experiment)
    os.utime(tree.experiment("search_desk", "desk") / naming.SEARCH, (1e9, 1e9))
    assert not experiments.is_live(experiment)


# --- pieces ---


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ('File "/home/me/runs/trials/ab/x.py", line 3', 'File "…/x.py", line 3'),
        ("cannot open /data/coco/val2017/1.jpg: gone", "cannot open …/1.jpg: gone"),
        (r"C:\Users\me\x.png", "…/x.png"),
        ("~/runs/mlflow.db", "…/mlflow.db"),
        ("loss 1/2, AP/AP50, 3 / 4, http://a.org/b/c", "loss 1/2, AP/AP50, 3 / 4, http://a.org/b/c"),
    ],
)
def test_redact(given, shown):
    assert theme.redact(given) == shown


def test_plot_text_cannot_be_markup_or_template():
    assert theme.plot_text("<b>x</b> & y") == "&lt;b&gt;x&lt;/b&gt; &amp; y"
    assert "%{" not in theme.plot_text("%{customdata}")


@pytest.mark.parametrize(("seconds", "said"), [(0, "–"), (63, "1 min 03 s"), (123, "2 min 03 s"), (7380, "2 h 03 min")])
def test_duration(seconds, said):
    assert theme.duration(seconds) == said


def test_colours_are_fixed_by_the_plan(trees):
    (full,) = open_store(trees["full"]).experiments()
    (partial,) = open_store(trees["partial"]).experiments()
    assert theme.colours(full) == theme.colours(partial) and len(set(theme.colours(full).values())) == 4


def test_the_dashboard_needs_no_torch_ray_or_mlflow(trees):
    code = (
        "import os, sys\n"
        "from streamlit.testing.v1 import AppTest\n"
        "for home in sys.argv[1:]:\n"
        "    os.environ['GFL_LAB_HOME'] = home\n"
        f"    app = AppTest.from_file({APP!r}, default_timeout=60).run()\n"
        "    for page in ('table', 'curves', 'boxes', 'trials', 'guide'):\n"
        "        app.switch_page(f'views/{page}.py').run()\n"
        "        assert not app.exception, app.exception\n"
        "print(sorted({'torch', 'torchvision', 'ray', 'mlflow', 'mmdet', 'mmengine', 'mmcv'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(trees["full"]), str(trees["search"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("page", ["table", "curves", "boxes", "trials"])
def test_a_damaged_plan_is_said_on_each_page(page, trees, monkeypatch):
    shown = html_of(open_page(page, trees["damaged"], monkeypatch, experiment="zz_broken/desk"))
    assert "the plan of zz_broken (desk) cannot be read" in shown


def test_boxes_begins_with_a_general_box_also_where_it_is_trained_without_dfl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fake_tree(tmp_path, **SMALL, states="done")
    (path,) = (tmp_path / "experiments").glob(f"*/*/{naming.PLAN}")
    plan = json.loads(path.read_text())
    *_, last = plan["variants"]
    assert last["settings"]["box"] == "general"
    last["settings"]["dfl"] = False
    path.write_text(json.dumps(plan))
    (choice,) = [each for each in open_page("boxes", tmp_path, monkeypatch).selectbox if each.label == "Variant"]
    assert choice.value == last["name"]
