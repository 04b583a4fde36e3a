"""`kind: search`: the file, suggestions as trials, the ledger, early stopping, going on after every kind of interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gfl_lab import naming
from gfl_lab.errors import SpecError, StoreError
from gfl_lab.orchestrate import resources
from gfl_lab.orchestrate.search import Follower, open_ledger
from gfl_lab.plan.plan import build_plan
from gfl_lab.plan.search import corners, definition_of, resolve
from gfl_lab.records.files import read_json
from gfl_lab.records.result import Failure
from gfl_lab.records.search import Outcome, SearchFile, Suggestion, write_search
from gfl_lab.report.exports import RANKING_FORMS
from gfl_lab.report.ranking import Importance, importance, rank
from gfl_lab.results.search import SearchRow, SuggestionRow, read_search
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.spec.files import load_experiment, load_profile
from gfl_lab.spec.search import Dimension
from gfl_lab.spec.trial import DataSpec
from tests.support.cli import Cli, runner
from tests.support.fake_search import EPOCHS_LOG
from tests.support.no_mirror import NoMirror
from tests.support.processes import command_line, family
from tests.support.unchecked import skip_checks
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
DATA = DataSpec(name="shapes", digest="0" * 16, classes=("a",), train_images=160, val_images=20, truth=True)
FAKE = "tests.support.fake_search:search_trial"
DRIVER = f"import gfl_lab.session.entries as entries\nentries.TRIAL_ENTRY = {FAKE!r}\n"
MAIN = "from gfl_lab.cli.main import main\nmain()"
UNMIRRORED = "from gfl_lab.session import session\nfrom tests.support.no_mirror import NoMirror\nsession.start_mirror = NoMirror\n"

SEARCH = """
name: find
kind: search
profile: fake
search:
  space:
    lr: {low: 1.0e-4, high: 1.0e-1, log: true}
    qfl_beta: {low: 1, high: 4}
  trials: 12
  sampler_seed: 3
"""
PROFILE = """
name: fake
title: no training
data: {train_images: 8, val_images: 8, size: 128, seed: 0}
settings: {backbone: r18, base_channels: 8, epochs: 9}
"""


def write(folder: Path, text: str = SEARCH, profile: str = PROFILE) -> Path:
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles" / "fake.yaml").write_text(profile)
    file = folder / "find.yaml"
    file.write_text(text)
    return file


def problems(folder: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_experiment(write(folder, text))
    return str(caught.value)


# --- the file ---


def test_every_mistake_in_a_search_is_told_with_its_line(tmp_path: Path) -> None:
    text = """name: find
kind: search
profile: fake
axes: {dfl: [true, false]}
seeds: [0, 1]
overrides: {dfl: true}
search:
  space:
    qfl_beta: {low: 0.5, high: 4.0}
    bin_width: {low: 2, high: 1}
    reg_mx: [8, 16]
    reg_max: {low: 8.5, high: 16}
    dfl: [true, false]
    epochs: [1, 2]
    box: {low: 1, high: 2}
    lr: 3
    box_loss_weight: [2.0]
    box_loss: [giou, 7, giou]
    dfl_weight: {low: 0, high: 1, log: true}
    quality_weight: {low: 0, hgh: 1}
  metric: fps
  grace_epochs: 0
  trals: 3
"""
    told = problems(tmp_path, text)
    for words in (
        "find.yaml:4: axes: 'axes' belongs to an ablation",
        "find.yaml:5: seeds: a search has one seed",
        "find.yaml:6: overrides.dfl: 'dfl' is searched and also in overrides",
        "find.yaml:9: search.space.qfl_beta.low: qfl_beta is 0.5: it must be 0 or at least 1",
        "find.yaml:10: search.space.bin_width: bin_width goes from 2 to 1",
        "find.yaml:11: search.space.reg_mx: unknown key 'reg_mx'\n    Did you mean 'reg_max'?",
        "find.yaml:12: search.space.reg_max.low: reg_max takes whole numbers",
        "find.yaml:14: search.space.epochs: 'epochs' cannot be searched",
        "find.yaml:15: search.space.box: box is not a number",
        "find.yaml:16: search.space.lr: lr is 3: it must be a list of values",
        "find.yaml:17: search.space.box_loss_weight: box_loss_weight lists 1 values",
        "find.yaml:18: search.space.box_loss.1: box_loss is 7",
        "find.yaml:18: search.space.box_loss.2: box_loss lists 'giou' twice",
        "find.yaml:19: search.space.dfl_weight.low: dfl_weight starts at 0: a logarithmic range",
        "find.yaml:20: search.space.quality_weight.hgh: unknown key 'hgh'\n    Did you mean 'high'?",
        "find.yaml:21: search.metric: fps is measured once, at the end, so ASHA",
        "find.yaml:22: search.grace_epochs",
        "find.yaml:23: search.trals: unknown key 'trals'",
    ):
        assert words in told, words


def test_a_range_that_holds_refused_values_and_a_space_that_is_too_small_are_told(tmp_path: Path) -> None:
    text = SEARCH.replace("qfl_beta: {low: 1, high: 4}", "qfl_beta: {low: 0, high: 4}")
    assert "the range holds values that are refused: qfl_beta is 0.44" in problems(tmp_path, text)
    text = SEARCH.replace("lr: {low: 1.0e-4, high: 1.0e-1, log: true}", "dfl: [true, false]").replace(
        "qfl_beta: {low: 1, high: 4}", "reg_max: {low: 8, high: 11}"
    )
    assert "the space has 8 points, fewer than trials: 12" in problems(tmp_path, text)
    assert "'search' is missing" in problems(tmp_path, "name: find\nkind: search\nprofile: fake\n")


def test_an_ablation_refuses_a_scheduler_and_says_why(tmp_path: Path) -> None:
    told = problems(tmp_path, "name: find\nprofile: fake\naxes: {dfl: [true, false]}\nscheduler: asha\nsearch: {space: {lr: [0.1, 0.2]}}\n")
    assert "find.yaml:4: scheduler: 'scheduler' belongs to a search" in told and "unequal budgets" in told
    assert "find.yaml:5: search: 'search' belongs to a search" in told and "unknown key" not in told


def test_numbers_are_rounded_and_stay_in_their_range() -> None:
    assert Dimension("lr", low=1e-4, high=1e-2, log=True).value(0.00123456789) == 0.00123457
    assert Dimension("lr", low=0.1234561, high=1.0).value(0.1234561) == 0.1234561  # rounded it would fall out
    assert Dimension("reg_max", low=4, high=16, integer=True).value(7) == 7
    assert Dimension("dfl", choices=(True, False)).value(1) is False
    assert str(Dimension("lr", low=0.1, high=1.0, log=True)) == "0.1 to 1, logarithmic"


# --- suggestions as trials ---


def test_a_suggestion_is_the_trial_that_an_ablation_has_for_the_same_settings(tmp_path: Path) -> None:
    profile = load_profile(EXPERIMENTS / "profiles" / "desk.yaml")
    search, source = load_experiment(EXPERIMENTS / "search_desk.yaml")
    settings = {"qfl_beta": 2.5, "dfl_weight": 0.5, "reg_max": 12, "lr": 0.002}
    variants = corners(search, profile, source)
    assert {value for variant in variants.values() for value in [variant["reg_max"]]} == {8, 12, 16}
    variant = resolve(search, settings, lambda experiment: build_plan(experiment, profile, DATA))
    text = "name: a\nprofile: desk\naxes: {qfl_beta: [2.5], dfl_weight: [0.5], reg_max: [12], lr: [0.002]}\n"
    ablation = build_plan(load_experiment(write(tmp_path, text))[0], profile, DATA)
    assert variant.trials[0].id == ablation.trials[0].id
    assert variant.axes == settings and variant.name == "qfl_beta=2.5 dfl_weight=0.5 reg_max=12 lr=0.002"
    with pytest.raises(SpecError):
        resolve(search, {"quality": "dgqp", "dgqp_topk": 12, "reg_max": 8}, lambda experiment: build_plan(experiment, profile, DATA))


def test_what_is_impossible_or_idle_under_the_profile_is_refused_before_anything_runs(tmp_path: Path) -> None:
    def refused(text: str) -> str:
        experiment, source = load_experiment(write(tmp_path, text))
        with pytest.raises(SpecError) as caught:
            corners(experiment, load_profile(tmp_path / "profiles" / "fake.yaml"), source)
        return str(caught.value)

    head = "name: find\nkind: search\nprofile: fake\n"
    told = refused(head + "overrides: {quality: dgqp, reg_max: 4}\nsearch:\n  trials: 2\n  space: {dgqp_topk: [4, 8], lr: [0.1, 0.2]}\n")
    assert "search.space.dgqp_topk.1: 8 is possible in no combination under profile fake: dgqp_topk is 8" in told
    told = refused(head + "overrides: {qfl: false}\nsearch: {space: {qfl_beta: {low: 1, high: 4}}}\n")
    assert "'qfl_beta' has no effect in any combination" in told
    told = refused(head + "search: {grace_epochs: 9, space: {qfl_beta: {low: 1, high: 4}}}\n")
    assert "grace_epochs is 9, but a trial has 9" in told
    space = ", ".join(
        f"{key}: [1, 2, 3]" for key in ("head_convs", "dgqp_topk", "atss_topk", "nms_pre", "max_dets", "base_batch_size", "warmup_iters")
    )
    experiment, source = load_experiment(write(tmp_path, f"{head}overrides: {{quality: dgqp}}\nsearch: {{space: {{{space}}}}}\n"))
    variants = corners(experiment, load_profile(tmp_path / "profiles" / "fake.yaml"), source)  # more combinations than are tried
    assert {(key, value) for variant in variants.values() for key, value in variant.items()} == {
        (k, v) for k in experiment.search.space for v in (1, 2, 3)
    }


# --- the ledger ---


def test_the_ledger_reads_what_it_wrote_and_says_what_has_ended(tmp_path: Path) -> None:
    ledger = SearchFile({"space": {"lr": [1, 2]}}, 3, "now", {"name": "TPESampler"})
    ledger.suggestions = [
        Suggestion(0, {"lr": 0}, {"lr": 1}, "a" * 12, Outcome.DONE, {1: 3.0, 2: 4.5}, 4.5),
        Suggestion(1, {"lr": 1}, {"lr": 2}, "b" * 12, Outcome.STOPPED, {1: 1.0}, 1.0),
        Suggestion(2, {"lr": 1}, {"lr": 2}, "b" * 12, Outcome.REPEAT),
        Suggestion(3, {"lr": 1}, {"lr": 2}, "c" * 12, Outcome.FAILED, failure=Failure("lost_process", "x")),
    ]
    write_search(tmp_path / naming.SEARCH, ledger)
    found, notes = open_ledger(tmp_path, ledger.definition, 3)
    assert found == ledger and not notes
    assert found.ended == 2 and not found.complete, "a lost process is tried again"
    found.suggestions[3].failure = Failure("non_finite_loss", "x")
    assert found.ended == 3 and found.complete, "settings that diverge do so again"

    (tmp_path / "table.md").write_text("old")
    fresh, notes = open_ledger(tmp_path, {"space": {"lr": [1, 3]}}, 3)
    assert not fresh.suggestions and (tmp_path / "previous" / ledger.digest / "table.md").exists() and "kept in" in notes[0]
    (tmp_path / naming.SEARCH).write_text('{"format": 1, "suggestions": 3}')
    with pytest.raises(StoreError, match="no record of a search"):
        open_ledger(tmp_path, {}, 3)


def test_the_last_epoch_is_told_only_when_the_trial_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [{"kind": "val", "step": n, "epoch": n, "time": n, "metrics": {"AP": 10.0 * n}} for n in (1, 2, 3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[:1]))
    follower = Follower(file, "AP", epochs=3)
    assert list(follower.look()) == [(1, 10.0)] and list(follower.look()) == []
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(follower.look()) == [(2, 20.0)]
    assert list(follower.look(final=True)) == [(3, 30.0)]


# --- searching, in this process ---


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FAKE_EPOCH_S", "0")
    monkeypatch.setattr(resources, "_gpus", lambda: ())
    monkeypatch.setattr("gfl_lab.session.entries.TRIAL_ENTRY", FAKE)
    skip_checks(monkeypatch.setattr)
    monkeypatch.setattr("gfl_lab.session.session.start_mirror", NoMirror)
    return runner(monkeypatch, capsys)


def outcomes(tree: RunTree, profile: str = "fake") -> list[tuple]:
    """Return the outcomes of a search, which must not depend on how often it was disturbed."""
    ledger = read_json(tree.experiment("find", profile) / naming.SEARCH)
    return [(s["number"], s["settings"], s["trial"], s["state"], s["value"], s["values"]) for s in ledger["suggestions"]]


def trained_epochs(tree: RunTree) -> dict[str, list[str]]:
    return {trial.id: trial.file(EPOCHS_LOG).read_text().split() for trial in tree.trials() if trial.file(EPOCHS_LOG).exists()}


def nothing_twice(tree: RunTree) -> bool:
    return all(len(epochs) == len(set(epochs)) for epochs in trained_epochs(tree).values())


def start(folder: Path, *arguments: str, pause: float, driver: str = DRIVER) -> subprocess.Popen[str]:
    environment = os.environ | {"GFL_LAB_HOME": str(folder / "runs"), "PYTHONPATH": str(ROOT), "FAKE_EPOCH_S": str(pause)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-c", driver + MAIN, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for_epochs(process: subprocess.Popen[str], tree: RunTree, more_than: int) -> int:
    """Wait until this driver holds the search and so many epochs have been trained in all; how many there are then."""
    end = time.time() + 300
    lock = tree.experiment("find", "fake") / ".driver.lock"
    while not lock.exists() or f"process {process.pid} " not in lock.read_text():  # trials of a killed driver train on for a while
        assert time.time() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    while (count := sum(map(len, trained_epochs(tree).values()))) <= more_than:
        assert time.time() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    return count


def test_a_search_is_ranked_stopped_early_and_goes_on_with_more_trials(cli: Cli, tmp_path: Path) -> None:
    file, tree = write(tmp_path), RunTree(tmp_path / "runs")
    code, out, err = cli("run", str(file), "--executor", "inline")
    assert code == 0, err
    assert "stopped at" in out and "gfl-lab confirm" in err and "chosen for that number" in " ".join(out.split())
    before = outcomes(tree)
    states = [state for _, _, _, state, _, _ in before]
    assert len(before) == 12 and {"done", "stopped", "failed"} == set(states)
    assert all(tree.trial(trial).state() is TrialState.INTERRUPTED for _, _, trial, state, _, _ in before if state == "stopped")
    folder = tree.experiment("find", "fake")
    assert {path.suffix for path in folder.glob("table.*")} == {".json", ".md", ".csv", ".html"}
    assert not list(folder.glob(".stop*"))

    count = trained_epochs(tree)
    code, out, err = cli("run", str(file), "--executor", "inline", "--json")
    table = json.loads(out)
    assert code == 0 and "nothing to train" in err and trained_epochs(tree) == count
    values = [row["value"] for row in table["rows"] if row["rank"]]
    assert values == sorted(values, reverse=True) and table["kind"] == "search"

    file.write_text(SEARCH.replace("trials: 12", "trials: 16"))
    code, out, err = cli("run", str(file), "--executor", "inline", "--json")
    assert code == 0 and "after epoch 1" in json.loads(out)["importance"]["of"]
    assert outcomes(tree)[:12] == before and len(outcomes(tree)) == 16 and nothing_twice(tree)

    code, out, _ = cli("status", str(file))
    assert code == 0 and "a search" in out and "stopped at 1/9" in out and "interrupted" not in out
    rows = json.loads(cli("status", "--json")[1])["rows"]
    assert {row["state"] for row in rows} == {"done", "stopped", "failed"}
    code, out, err = cli("plan", str(file))
    assert code == 0 and "16 trials have ended already" in err
    code, out, _ = cli("table", str(file), "--format", "csv")
    assert code == 0 and out.startswith("rank,number,lr,qfl_beta,metric,value,state")
    assert cli("table", str(file), "--format", "tex")[0] == 2
    assert cli("run", str(file), "--seeds", "0,1")[0] == 2

    code, out, err = cli("confirm", str(file), "--top", "2", "--executor", "inline")
    assert code == 0, err
    plan = read_json(tree.experiment("confirm_find", "fake") / naming.PLAN)
    assert plan["experiment"]["kind"] == "ablation" and plan["experiment"]["declared"] == ["lr", "qfl_beta"]
    assert [[trial["seed"] for trial in variant["trials"]] for variant in plan["variants"]] == [[1, 2, 3]] * 3
    code, out, err = cli("confirm", str(file), "--executor", "inline", "--seeds", "0", "--json")
    best = next(row for row in read_json(tree.experiment("find", "fake") / "table.json")["rows"] if row["rank"] == 1)
    assert code == 0 and "the search's own" in err
    variant = next(row for row in json.loads(out)["rows"] if not row["baseline"])
    assert best["trial"] in [trial["id"] for trial in variant["trials"]] and nothing_twice(tree), "the search's own trial is reused"


def test_a_search_that_is_killed_again_and_again_ends_as_an_undisturbed_one(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path)
    assert cli("run", str(file), "--executor", "inline")[0] == 0
    undisturbed = outcomes(RunTree(tmp_path / "runs"))

    folder = tmp_path / "disturbed"
    folder.mkdir()
    file, tree, seen = write(folder), RunTree(folder / "runs"), 0
    for number in (signal.SIGKILL, signal.SIGINT):
        process = start(folder, "run", str(file), "--executor", "inline", pause=0.05, driver=DRIVER + UNMIRRORED)
        seen = wait_for_epochs(process, tree, seen + 11)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
        assert number == signal.SIGKILL or "continue with:  gfl-lab run" in err
        assert 0 < len(outcomes(tree)) < 12
    process = start(folder, "run", str(file), "--executor", "inline", pause=0, driver=DRIVER + UNMIRRORED)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert outcomes(tree) == undisturbed and nothing_twice(tree)


def test_refused_and_repeated_suggestions_do_not_count_and_an_exhausted_space_ends_the_search(cli: Cli, tmp_path: Path) -> None:
    text = """name: find
kind: search
profile: fake
overrides: {quality: dgqp}
search:
  space: {dgqp_topk: [4, 8], reg_max: [4, 16]}
  trials: 4
  scheduler: none
"""
    file, tree = write(tmp_path, text), RunTree(tmp_path / "runs")
    code, out, err = cli("run", str(file), "--executor", "inline")
    assert code == 0, err
    found = outcomes(tree)
    assert sorted(state for _, _, _, state, _, _ in found if state == "done") == ["done"] * 3
    assert {state for _, settings, _, state, _, _ in found if settings == {"dgqp_topk": 8, "reg_max": 4}} == {"invalid"}
    assert "repeat" in {state for _, _, _, state, _, _ in found}
    assert "exhausted" in out and "combinations that the settings refuse" in out and len(trained_epochs(tree)) == 3
    assert "nothing to train" in cli("run", str(file), "--executor", "inline")[2]


def test_confirm_needs_a_search_with_something_finished(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("confirm", str(EXPERIMENTS / "table3_qfl_dfl.yaml"))
    assert code == 2 and "kind: search" in err
    code, _, err = cli("confirm", str(write(tmp_path)))
    assert code == 2 and "Run it first" in err


# --- the ranked table ---


def row(number: int, state: str, value: float | None, **more: object) -> SuggestionRow:
    more = {"epoch": 9 if state == "done" else 1, "epochs": 9} | more
    return SuggestionRow(number, {"lr": 0.001 * (number + 1), "dfl": number % 2 == 0}, {"lr": 0.001 * (number + 1), "dfl": number % 2}, f"{number:012x}", state, value, **more)  # fmt: skip


def searched(*rows: SuggestionRow, metric: str = "AP", scheduler: str = "none") -> SearchRow:
    space = {"lr": {"low": 0.001, "high": 0.1}, "dfl": [True, False]}
    how = {"name": scheduler, "grace_epochs": 1, "reduction": 3}
    return SearchRow("find", "fake", "<b>Which?</b>", "d", 0, metric, 20, space, how, {"name": "TPESampler", "seed": 0}, False, rows)


def test_rows_are_ranked_by_value_whichever_way_is_better_and_only_finished_ones_are_best() -> None:
    rows = (
        row(0, "done", 40.0),
        row(1, "stopped", 45.0),
        row(2, "failed", None, reason="lost_process: x"),
        row(3, "done", 42.0),
        row(4, "running", 50.0),
    )
    ranking = rank(searched(*rows))
    assert [(place, r.number) for place, r in ranking.rows] == [(1, 1), (2, 3), (3, 0), (None, 2), (None, 4)]
    assert [r.number for r in ranking.best] == [3, 0]
    low = rank(searched(*rows, metric="wasserstein"))
    assert [r.number for place, r in low.rows if place] == [0, 3, 1]
    page = RANKING_FORMS["html"](ranking)
    assert "<b>Which?" not in page and "&lt;b&gt;Which?" in page and "<script src" not in page
    assert any(note.startswith("Failed: 2") for note in ranking.notes)


def test_importance_finds_the_setting_that_matters_and_says_when_there_is_too_little() -> None:
    rows = [row(number, "done", 50.0 - number) for number in range(30)]  # the learning rate decides alone
    found = importance(searched(*rows))
    assert isinstance(found, Importance) and list(found.shares)[0] == "lr" and found.shares["lr"] > 0.8 and "30 finished" in found.of
    assert "needs 12 finished trials, and there are 5" in importance(searched(*rows[:5]))
    early = [row(number, "stopped", 1.0, values={1: 50.0 - number}) for number in range(30)]
    found = importance(searched(*early, scheduler="asha"))
    assert isinstance(found, Importance) and found.shares["lr"] > 0.8 and "after epoch 1 (only 0 are finished" in found.of


# --- with Ray ---


def test_a_search_without_a_detection_says_that_it_shows_nothing() -> None:
    found = rank(searched(*(row(i, "done", 0.0) for i in range(14))))
    assert found.importance == "Importance of the settings cannot be given: all 14 finished trials have the same AP."
    assert any(note.startswith("No signal: AP is 0.0 in every finished trial") for note in found.notes)
    assert not any("flatters" in note for note in found.notes)
    assert not any("No signal" in note for note in rank(searched(row(0, "done", 0.0), row(1, "done", 30.0))).notes)


INTERRUPT_IMPORT = """
import atexit, os, signal
register = atexit.register
def interrupted(function, *arguments, **named):
    register(function, *arguments, **named)
    if function.__module__ == "ray._private.worker":  # its module is half made now, and at the end it will be called
        os.kill(os.getpid(), signal.SIGINT)
    return function
atexit.register = interrupted
"""


def test_ctrl_c_while_ray_is_imported_stops_without_a_traceback(tmp_path: Path) -> None:
    process = start(tmp_path, "run", str(write(tmp_path)), pause=0, driver=DRIVER + UNMIRRORED + INTERRUPT_IMPORT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "stopped; continue with:  gfl-lab" in err and "Traceback" not in err, err


@pytest.mark.slow
@pytest.mark.timeout(1500)  # two starts of Ray, on a machine that may be busy
def test_optuna_and_asha_on_ray_survive_a_killed_driver_and_a_killed_actor(tmp_path: Path) -> None:
    """The next test sends a signal to a driver with Ray."""
    file, tree = write(tmp_path), RunTree(tmp_path / "runs")
    driver = DRIVER + UNMIRRORED
    process = start(tmp_path, "run", str(file), pause=0.3, driver=driver)
    seen = wait_for_epochs(process, tree, 8)
    process.kill()
    _, err = process.communicate(timeout=300)
    assert "Traceback" not in err and 0 < len(outcomes(tree)) < 12
    process = start(tmp_path, "run", str(file), pause=0.3, driver=driver)
    wait_for_epochs(process, tree, seen + 2)

    def actors() -> list[psutil.Process]:
        return [child for child in family(process.pid) if "ray::ResourceTrainable" in command_line(child)]

    wait_until(lambda: process.poll() is not None or actors(), 300)
    actors()[0].kill()  # its trial moves
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = outcomes(tree)
    states = [state for _, _, _, state, _, _ in found]
    assert len(found) == 12 and set(states) <= {"done", "stopped", "failed"} and "stopped" in states and "done" in states
    assert nothing_twice(tree), "an epoch that was trained once is not trained again"
    search = read_search(tree, "find", "fake")
    finished = [r for r in search.suggestions if r.state == "done"]
    assert finished and all(r.epoch == 9 and r.value == r.metrics["AP"] for r in finished)


@pytest.mark.slow
def test_a_search_that_really_trains_is_stopped_on_ray_goes_on_without_it_and_is_confirmed(tmp_path: Path, mlflow_db: Path) -> None:
    from tests.test_run import PROFILE as TINY
    from tests.test_run import Lab, one_core, stop_with_a_checkpoint

    experiment = "name: smoke\nkind: search\nprofile: tiny\nsearch:\n  space: {lr: {low: 0.0005, high: 0.01, log: true}, dfl: [true, false]}\n  trials: 3\n"
    lab = Lab(tmp_path / "lab", epochs=5, experiment=experiment, profile=TINY, database=mlflow_db)
    with one_core():
        process = lab.start("run", str(lab.file))
    stop_with_a_checkpoint(lab, process, signal.SIGINT, 130, after=1)
    (stopped,) = [trial.id for trial in lab.tree.trials() if trial.state() is TrialState.INTERRUPTED]
    out, err = lab.here("run", str(lab.file), "--executor", "inline")
    assert "rank" in out
    ledger = read_json(lab.tree.experiment("smoke", "tiny") / naming.SEARCH)
    assert ledger["sampler"]["optuna"] and len(ledger["suggestions"]) == 3
    assert {s["state"] for s in ledger["suggestions"]} <= {"done", "stopped"}
    assert (ledger["suggestions"][0]["state"], ledger["suggestions"][0]["trial"]) == ("done", stopped)
    assert all(s["values"] and s["trial"] in [trial.id for trial in lab.tree.trials()] for s in ledger["suggestions"])
    assert "nothing to train" in lab.here("run", str(lab.file))[1]
    out, err = lab.here("confirm", str(lab.file), "--seeds", "0", "--executor", "inline")
    assert "1 reused" in err and "defaults" in out
    names = {run.data.tags[naming.TAG_EXPERIMENT] for run in lab.mlflow_runs()}
    assert names == {"smoke", "confirm_smoke"}


def test_the_definition_of_a_search_changes_with_what_it_searches_not_with_how_long(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        experiment, source = load_experiment(write(tmp_path, text))
        profile = load_profile(tmp_path / "profiles" / "fake.yaml")
        variants = experiment.model_copy(update={"variants": corners(experiment, profile, source)})
        return SearchFile(definition_of(experiment, build_plan(variants, profile, DATA)), 1, "").digest

    first = digest(SEARCH)
    assert digest(SEARCH.replace("trials: 12", "trials: 20")) == first
    for change in (
        ("sampler_seed: 3", "sampler_seed: 4"),
        ("high: 4}", "high: 5}"),
        ("search:\n", "overrides: {dfl_weight: 1.0}\nsearch:\n"),
    ):
        assert digest(SEARCH.replace(*change)) != first, change
