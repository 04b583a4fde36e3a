"""Run trees and experiment files of version 0.1 stay readable, whatever is renamed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from gfl_lab import naming
from gfl_lab.records.files import read_json
from gfl_lab.records.plan import read_plan
from gfl_lab.records.table_lock import read_table_lock
from gfl_lab.report.table import build_table
from gfl_lab.results.store import open_store
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.spec import renames
from tests.support.cli import Cli, runner
from tests.support.old_tree import OldTree, copy_old_tree

APP = Path(__file__).resolve().parent.parent / "dashboard" / "app.py"
AP = {"a5fee4a9f77b": 3.179067, "37c0b0c14627": 0.512651}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OldTree:
    copied = copy_old_tree(tmp_path)
    monkeypatch.setenv("GFL_LAB_HOME", str(copied.root))
    return copied


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return runner(monkeypatch, capsys)


@pytest.mark.parametrize("name", ["axes", "arms"])
def test_the_table_is_the_one_that_was_written_then(old: OldTree, cli: Cli, name: str) -> None:
    experiment: Path = getattr(old, name)
    code, out, err = cli("table", experiment, "--json")
    assert code == 0, err
    now, then = json.loads(out), json.loads((old.root / "experiments" / experiment.stem / "small_0_1" / "table.json").read_text())
    assert [row["variant"] for row in now["rows"]] == [row["variant"] for row in then["rows"]]
    for ours, theirs in zip(now["rows"], then["rows"]):
        assert (ours["metrics"], ours["trials"], ours["baseline"]) == (theirs["metrics"], theirs["trials"], theirs["baseline"])
        assert (ours.get("reference") or {}).get("metrics") == (theirs.get("reference") or {}).get("metrics")


@pytest.mark.parametrize("name", ["axes", "arms"])
def test_the_lock_file_of_then_verifies(old: OldTree, cli: Cli, name: str) -> None:
    code, out, err = cli("verify", getattr(old, name))
    assert (code, out) == (0, "") and "2 of 2 trials" in err


def test_an_edited_result_is_still_seen(old: OldTree, cli: Cli) -> None:
    result = old.root / "trials" / old.joint / "result.json"
    result.write_text(result.read_text().replace("0.512651", "9.512651"))
    code, out, _ = cli("verify", old.axes)
    assert code == 4 and old.joint in out and "9.51" in out


def test_both_variants_are_compared(old: OldTree, cli: Cli) -> None:
    code, out, err = cli("compare", old.axes, "qfl=on")
    assert code == 0, err
    assert all(text in out for text in ("0.5", "3.2", "−2.7", "4.7")), out


def test_status_shows_both_trials_done_with_their_ap(old: OldTree, cli: Cli) -> None:
    code, out, err = cli("status", "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content["problems"] == []
    for experiment in ("quality_0_1", "arms_0_1"):
        rows = [row for row in content["rows"] if row["experiment"] == experiment]
        assert {row["trial"]: row["AP"] for row in rows} == AP
        assert {(row["state"], row["step"], row["steps"]) for row in rows} == {("done", 40, 40)}


@pytest.mark.parametrize("name", ["axes", "arms"])
def test_the_old_file_still_means_the_same_trials(old: OldTree, cli: Cli, name: str) -> None:
    """The data set is generated again, bit for bit, and every old setting name leads to the id of then."""
    code, out, err = cli("plan", getattr(old, name), "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert {row["trial"]: row["state"] for row in rows} == dict.fromkeys(old.trials, "done")


def test_the_axis_of_named_variants_keeps_its_stored_key_and_is_shown_as_variant(old: OldTree, cli: Cli) -> None:
    code, out, err = cli("table", old.arms, "--json")
    assert code == 0 and [row["settings"] for row in json.loads(out)["rows"]] == [{"arm": "focal"}, {"arm": "joint"}], err
    code, out, err = cli("table", old.arms, "--format", "tex")
    assert code == 0 and "variant & seeds" in out and "arm &" not in out, err


def test_two_old_trials_differ_in_what_they_differed_in_then(old: OldTree, cli: Cli) -> None:
    code, out, err = cli("diff", *old.trials, "--json")
    assert code == 0, err
    changed = {row["name"] for row in json.loads(out)["differences"] if row["group"] == "settings"}
    assert {"qfl", "quality"} & changed and not {"box_weight", "box_loss_weight", "flip", "flip_prob"} & changed


def test_rows_curves_and_distributions_are_read(old: OldTree) -> None:
    store = open_store(old.root)
    row = store.experiment("quality_0_1", "small_0_1")
    assert [trial.state for trial in row.trials] == [TrialState.DONE] * 2
    assert {trial.id: trial.metrics["AP"] for trial in row.trials} == AP
    table = build_table(row, store.resampled_or_none)
    assert len(table.rows) == 2 and row.baseline is not None and row.baseline.name == "qfl=off"
    for trial in old.trials:
        assert len(store.distributions(trial)) >= 17
        assert store.records_or_none(trial) is not None and "done: AP" in store.log_tail(trial)


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("page", ["table", "curves", "calibration", "compare", "trials"])
def test_the_dashboard_shows_the_old_tree(old: OldTree, page: str) -> None:
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.run()
    app.query_params["experiment"] = "quality_0_1/small_0_1"
    app.switch_page(f"views/{page}.py")
    app.run()
    assert not app.exception, app.exception
    shown = "\n".join(element.proto.body for element in app.get("html"))
    assert 'class="alert"' not in shown, shown
    assert page == "calibration" or "qfl=on" in shown + str([box.options for box in app.selectbox]), shown


def test_nothing_of_the_old_tree_is_litter(old: OldTree, cli: Cli) -> None:
    code, out, err = cli("gc", "--unreferenced", "--json")
    assert code == 0, err
    kinds = {row["kind"] for row in json.loads(out)["rows"] if Path(row["path"]).is_relative_to(old.root)}
    assert kinds <= {"training state"}, out


def test_every_record_of_the_old_tree_is_read_and_written_with_the_same_content(old: OldTree) -> None:
    """But for names of settings: a record that is written back keeps every other key and value."""
    tree = RunTree(old.root)
    for name, profile in tree.experiments():
        folder = tree.experiment(name, profile)
        for file, read in ((naming.PLAN, read_plan), (naming.LOCK, read_table_lock)):
            stored = read_json(folder / file)
            written = {"format": naming.FORMAT_VERSION, **read(folder / file).to_json()}
            assert json.loads(json.dumps(written)) == (renames.upgrade_plan(stored) if file == naming.PLAN else stored), file
    for trial in tree.trials():
        stored = read_json(trial.file(naming.RESULT))
        assert {"format": naming.FORMAT_VERSION, **trial.result().to_json()} == stored
        assert trial.manifest().spec.id == trial.id and len(trial.manifest().component_files) == 0
        lines = [json.loads(line) for line in trial.file(naming.METRICS_FILE).read_text().splitlines()]
        assert [line._asdict() for line in trial.metric_lines()] == lines
