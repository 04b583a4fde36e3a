"""Every page of the dashboard on full, empty, half-finished, damaged and hostile trees, without a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import look
from gfl_lab import naming
from gfl_lab.results.store import open_store
from tests.support.fake_runs import HOSTILE_CLASSES, HOSTILE_TEXT, write_fake_tree

ROOT = Path(__file__).resolve().parent.parent
APP = str(ROOT / "dashboard" / "app.py")
PAGES = ("overview", "table", "curves", "boxes", "trials", "guide")
SMALL = {"epochs": 3, "val_images": 4, "train_images": 8}


def open_page(page: str, root: Path, monkeypatch, **query: str) -> AppTest:
    monkeypatch.setenv("GFL_LAB_HOME", str(root))
    app = AppTest.from_file(APP, default_timeout=60)
    app.run()
    for key, value in query.items():
        app.query_params[key] = value
    if page != "overview":
        app.switch_page(f"views/{page}.py")
    app.run()
    assert not app.exception, app.exception
    return app


def html_of(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


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
    return found | {"damaged": damaged}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("tree", ["empty", "full", "partial", "planned", "running", "failed", "no_truth", "hostile", "damaged"])
def test_every_page_opens(page, tree, trees, monkeypatch):
    app = open_page(page, trees[tree], monkeypatch)
    shown = html_of(app) + "".join(code.value for code in app.code)
    assert len(shown) > 300
    assert str(trees[tree]) not in shown and "/tmp/" not in shown
    if tree == "empty" and page != "guide":
        assert "gfl-lab run experiments/table3_qfl_dfl.yaml" in shown


def test_overview_says_where_each_trial_is(trees, monkeypatch):
    shown = html_of(open_page("overview", trees["partial"], monkeypatch))
    for words in ("3 done", "1 running", "2 failed", "1 interrupted", "1 planned", "What do QFL and DFL each add to ATSS?", "so far"):
        assert words in shown


def test_overview_names_a_damaged_plan(trees, monkeypatch):
    shown = html_of(open_page("overview", trees["damaged"], monkeypatch))
    assert "the plan of zz_broken (desk) cannot be read" in shown and "What do QFL" in shown


def test_table_shows_the_numbers_on_disk(trees, monkeypatch):
    shown = html_of(open_page("table", trees["full"], monkeypatch))
    plan = json.loads(next(trees["full"].glob("experiments/*/*/plan.json")).read_text())
    values = []
    for trial in plan["variants"][3]["trials"]:
        values.append(json.loads((trees["full"] / "trials" / trial["id"] / naming.RESULT).read_text())["metrics"]["AP"])
    assert f">{sum(values) / 2:.1f}<" in shown
    assert "published, not comparable" in shown and "40.2" in shown and "other backbone: r18, not r50" in shown
    assert "two-mode recall" in shown and "img/s" in shown and "baseline" in shown


def test_table_exports(trees, monkeypatch):
    app = open_page("table", trees["full"], monkeypatch)
    assert [button.proto.label for button in app.get("download_button")] == ["JSON", "Markdown", "CSV", "LaTeX", "HTML"]


def test_table_without_results(trees, monkeypatch):
    assert "No trial has finished" in html_of(open_page("table", trees["planned"], monkeypatch))


def test_curves_page_draws_all_terms(trees, monkeypatch):
    app = open_page("curves", trees["full"], monkeypatch)
    assert len(app.get("plotly_chart")) == 1 + 6  # AP, then loss, cls, bbox, dfl, centerness, lr
    assert app.query_params["metric"] == "AP"


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


def test_trials_page_puts_a_failure_first(trees, monkeypatch):
    app = open_page("trials", trees["partial"], monkeypatch)
    assert "failed" in app.selectbox(key="w:trial").format_func(app.selectbox(key="w:trial").value)
    assert "the loss became NaN or infinite at step" in html_of(app) and "step " in app.code[0].value


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
        assert look.text(HOSTILE_TEXT) in body
    for element in (*app.markdown, *app.caption, *app.title, *app.header):
        assert not any(name in element.value for name in (*HOSTILE_CLASSES, HOSTILE_TEXT))
    for chart in app.get("plotly_chart"):
        assert not any(name in json.loads(chart.proto.spec).__str__() for name in HOSTILE_CLASSES if "<" in name)


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
    assert look.redact(given) == shown


def test_plot_text_cannot_be_markup_or_template():
    assert look.plot_text("<b>x</b> & y") == "&lt;b&gt;x&lt;/b&gt; &amp; y"
    assert "%{" not in look.plot_text("%{customdata}")


@pytest.mark.parametrize(("seconds", "said"), [(0, "–"), (63, "63 s"), (123, "2 min 03 s"), (7380, "2 h 03 min")])
def test_duration(seconds, said):
    assert look.duration(seconds) == said


def test_colours_are_fixed_by_the_plan(trees):
    (full,) = open_store(trees["full"]).experiments()
    (partial,) = open_store(trees["partial"]).experiments()
    assert look.colours(full) == look.colours(partial) and len(set(look.colours(full).values())) == 4


def test_the_dashboard_needs_no_torch_ray_or_mlflow(trees):
    code = (
        "import sys\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({APP!r}, default_timeout=60).run()\n"
        "for page in ('table', 'curves', 'boxes', 'trials', 'guide'):\n"
        "    app.switch_page(f'views/{page}.py').run()\n"
        "    assert not app.exception, app.exception\n"
        "print(sorted({'torch', 'torchvision', 'ray', 'mlflow', 'mmdet', 'mmengine', 'mmcv'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"GFL_LAB_HOME": str(trees["full"])},
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
