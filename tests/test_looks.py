"""Seeds only where they are needed: looks that are fixed beforehand, what each row's last look says, and runs that stop by it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab import naming
from gfl_lab.errors import InputError, SpecError
from gfl_lab.orchestrate import budget, resources
from gfl_lab.orchestrate.driver import design_kept
from gfl_lab.records.files import read_json, write_json
from gfl_lab.report import looks_simulated as simulated
from gfl_lab.report import variant_comparison, variant_pair
from gfl_lab.report.claim_sentences import preliminary
from gfl_lab.report.comparison import compare, compare_two
from gfl_lab.report.formatting import format_number
from gfl_lab.report.looks import DECIDED, OUT_OF_REACH, SILENT, LookedAt, before_first_look, levels, look, looks_up_to, seeds_wanted
from gfl_lab.report.noise import LEVEL
from gfl_lab.report.statistics import Paired, holm, judge
from gfl_lab.report.table import build_table
from gfl_lab.report.table_data import table_json
from gfl_lab.results.rows import Design
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.claim import read_claim
from gfl_lab.session.looks import look_lines
from gfl_lab.spec.files import load_experiment
from tests.support import known_trial
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree
from tests.support.no_mirror import NoMirror
from tests.support.unchecked import skip_checks

LOOKS = (2, 3, 4, 6, 8)
VERDICT = {simulated.BETTER: 1, simulated.WORSE: 1, simulated.EQUIVALENT: 2, simulated.NO_VERDICT: 0}


# --- the design ---


@given(st.lists(st.integers(2, 100), min_size=1, max_size=9, unique=True).map(sorted))
def test_all_looks_together_spend_five_percent(looks: list[int]) -> None:
    assert sum(levels(looks)) == pytest.approx(1 - LEVEL)
    assert min(levels(looks)) > 0


def test_levels_by_hand() -> None:
    assert levels((2, 8)) == pytest.approx((0.05 * (0.25 + 0.125), 0.05 * (0.25 + 0.375)))
    assert levels((5,)) == pytest.approx((0.05,))


@pytest.mark.parametrize(("most", "looks"), [(8, LOOKS), (2, (2,)), (5, (2, 3, 4, 5)), (12, (2, 3, 4, 6, 8, 10, 12)), (3, (2, 3))])
def test_the_largest_number_of_seeds_is_the_last_look(most: int, looks: tuple[int, ...]) -> None:
    assert looks_up_to(most) == looks


@pytest.mark.parametrize("most", [1, 101])
def test_no_looks_for_too_few_or_too_many_seeds(most: int) -> None:
    with pytest.raises(ValueError, match=str(most)):
        looks_up_to(most)


# --- one table ---


def paired(mean: float, variance: float, seeds: int, images: float = 0.0, residual: float = 0.0) -> Paired:
    return Paired(mean, seeds, variance, images, residual, images=200)


def test_a_single_look_is_the_table_of_fixed_seeds() -> None:
    rows = {"a": paired(1.0, 0.1, 5), "b": paired(0.1, 0.2, 5)}
    found = look([5], dict.fromkeys(rows, 5), lambda name, metric, seeds: rows[name], 0.5)
    assert [each.found["AP"] for each in found.values()] == judge(list(rows.values()))
    assert found["a"].stopped == DECIDED


def test_p_is_enlarged_as_the_interval_is_widened() -> None:
    row = paired(1.0, 0.1, 3, 0.01)
    plain, look_ = judge([row])[0], judge([row], 0.01)[0]
    assert look_.p == pytest.approx(min(1.0, plain.p * 5)) and look_.half > plain.half
    for level in (0.04, 0.01, plain.p * 0.999, plain.p * 1.001):
        one = judge([row], level)[0]
        assert (one.p < 1 - LEVEL) == (one.half < one.mean), "the interval leaves 0 out just where p is below 5%"


def test_what_comes_later_changes_no_row_that_has_stopped() -> None:
    rng = np.random.default_rng(1)
    values = {"large": 20 + rng.normal(size=8), "none": rng.normal(size=8)}

    def at(name: str, metric: str, seeds: int) -> Paired:
        each = values[name][:seeds]
        return paired(float(each.mean()), float(each.var(ddof=1)), seeds)

    early = look(LOOKS, {"large": 4, "none": 4}, at, 0.1)
    late = look(LOOKS, {"large": 8, "none": 8}, at, 0.1)
    assert early["large"] == late["large"] and late["large"].stopped == DECIDED and late["large"].seeds < 8
    assert seeds_wanted(LOOKS, early)["large"] == early["large"].seeds


def test_a_look_waits_for_all_rows_but_those_that_failed() -> None:
    row = paired(30.0, 0.05, 2)
    assert look([2, 3], {"a": 2, "b": 1}, lambda *at: row, 0.5)["a"].seeds == 0
    assert look([2, 3], {"a": 2, "b": 1}, lambda *at: row, 0.5, {"b"})["a"].stopped == DECIDED
    done = look([2, 3], {"a": 2, "b": 2}, lambda name, *at: row if name == "a" else paired(0.1, 0.3, 2), 0.5)
    assert (done["a"].stopped, done["b"].stopped) == (DECIDED, "")


def test_a_row_that_is_not_there_yet_counts_among_those_that_p_is_corrected_for() -> None:
    rows = {"a": paired(3.0, 0.05, 2)}
    alone = look([2, 3], {"a": 2}, lambda *at: rows["a"], 0.5)
    beside = look([2, 3], {"a": 2, "b": 0, "c": 1}, lambda name, metric, seeds: rows[name], 0.5, {"b", "c"})
    assert alone["a"].found == beside["a"].found
    assert (alone["a"].stopped, beside["a"].stopped) != ("", DECIDED)
    assert [beside[name].seeds for name in "bc"] == [0, 0] and seeds_wanted([2, 3], beside)["b"] == 2


def test_a_row_out_of_reach_stops_without_a_verdict() -> None:
    # a tenth of the smallest effect, and so much noise that eight seeds do not tell
    found = look(LOOKS, {"a": 8}, lambda name, metric, seeds: paired(0.05, 4.0, seeds), 0.5)
    assert (found["a"].seeds, found["a"].stopped) == (3, OUT_OF_REACH)
    assert seeds_wanted(LOOKS, found) == {"a": 3}


def test_a_row_that_has_learned_nothing_stops_without_a_verdict() -> None:
    low = replace(paired(0.02, 1e-4, 2), highest=0.6)
    for least, stopped in ((0.7, SILENT), (0.5, DECIDED)):
        assert look([2, 3], {"a": 2}, lambda *at: low, least)["a"].stopped == stopped
    lines = look_lines(Design(looks=(2, 3), min_effect=0.7), {"a": LookedAt(2, {}, SILENT)})
    assert lines[0] == "look at 2 seeds: no signal, AP below 0.7 in every trial: a"


# --- many tables ---


@pytest.mark.parametrize("rows", [1, 4])
def test_the_simulation_decides_what_a_table_decides(rows: int) -> None:
    drawn = simulated.draw(np.random.default_rng(3), 25, rows, LOOKS, pair_sd=0.5, image_share=0.3)
    effects = np.random.default_rng(4).choice([0.0, 0.5, 1.0, 3.0], (25, rows))
    played = simulated.play(drawn, LOOKS, effects, 0.5)
    names = [str(row) for row in range(rows)]
    for table in range(25):

        def at(name: str, metric: str, seeds: int, table: int = table) -> Paired:
            place = (table, int(name), LOOKS.index(seeds))
            mean = float(drawn.mean[place]) + effects[table, int(name)]
            return paired(mean, float(drawn.seed_variance[place]), seeds, float(drawn.image_variance[place]), float(drawn.residual[place]))

        found = look(LOOKS, dict.fromkeys(names, 8), at, 0.5)
        assert [found[name].seeds for name in names] == played.seeds[table].tolist()
        decided = [VERDICT[int(verdict)] > 0 for verdict in played.verdict[table]]
        assert all(found[name].stopped == DECIDED for name, stop in zip(names, decided, strict=True) if stop and found[name].seeds < 8)


@settings(max_examples=30)
@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6))
def test_holm_of_arrays_is_holm_of_names(p: list[float]) -> None:
    by_name = holm({str(index): each for index, each in enumerate(p)})
    assert simulated.holm_rows(np.array(p)).tolist() == pytest.approx(list(by_name.values()))


@pytest.mark.parametrize(("rows", "share"), [(1, 0.0), (5, 0.1)])
def test_the_error_of_all_looks_together(rows: int, share: float) -> None:
    drawn = simulated.draw(np.random.default_rng(0), 600, rows, LOOKS, pair_sd=0.5, image_share=share)
    null = simulated.play(drawn, LOOKS, 0.0, 0.5)
    wrong = np.isin(null.verdict, [simulated.BETTER, simulated.WORSE]).any(-1).mean()
    assert wrong < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5
    edge = simulated.play(drawn, LOOKS, 0.5, 0.5)
    assert (edge.verdict == simulated.EQUIVALENT).any(-1).mean() < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


def test_expected_trials_lie_between_the_first_and_the_last_look() -> None:
    plain = simulated.expected_trials(LOOKS, 4, 0.5, 0.01)
    assert 10 <= plain < simulated.expected_trials(LOOKS, 4, 0.5, 0.5) <= 40
    many = simulated.expected_trials(LOOKS, 40, 0.5, 0.01, tables=50)
    assert 82 <= many < 41 * 8


# --- files ---


def experiment_file(folder: Path, seeds: str, more: str = "") -> Path:
    file = folder / "resolve.yaml"
    file.write_text(
        "name: resolve\nprofile: smoke\nbaseline: base\nvariants:\n  base: {lr: 0.001}\n  large: {lr: 0.002}\n"
        f"  alike: {{lr: 0.003}}\n{more}seeds: {seeds}\n"
    )
    return file


def test_seeds_as_looks_in_a_file(tmp_path: Path) -> None:
    experiment, _ = load_experiment(experiment_file(tmp_path, "{until_resolved: 0.5, looks: [2, 5]}"))
    assert (experiment.seeds.until_resolved, experiment.seeds.looks, experiment.first_seeds) == (0.5, [2, 5], [0, 1])
    assert load_experiment(experiment_file(tmp_path, "[0, 1]", "min_effect: 0.5\n"))[0].min_effect == 0.5


@pytest.mark.parametrize(
    ("seeds", "more", "message"),
    [
        ("{until_resolved: 0.5, looks: [3, 2]}", "", "each look must have more seeds than the one before"),
        ("{until_resolved: 0.5, looks: [1, 2]}", "", "greater than or equal to 2"),
        ("{until_resolved: 0}", "", "greater than 0"),
        ("{looks: [2, 3]}", "", "'until_resolved' is missing"),
        ("{until_resolved: 0.5, most: 3}", "", "unknown key 'most'"),
        ("{until_resolved: 0.5}", "min_effect: 0.3\n", "both are the same number"),
    ],
)
def test_mistakes_in_looks(tmp_path: Path, seeds: str, more: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_experiment(experiment_file(tmp_path, seeds, more))
    assert message in str(caught.value)


def test_looks_are_fixed_by_the_first_run() -> None:
    first = Design(0.5, (2, 3))
    assert design_kept(None, first) == first == design_kept(first, None) == design_kept(first, first)
    with pytest.raises(InputError, match="Looks are fixed before the first one"):
        design_kept(Design(0.4, (2, 3)), first)


# --- runs ---


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(resources, "_gpus", lambda: ())
    monkeypatch.setattr("gfl_lab.session.entries.TRIAL_ENTRY", "tests.support.known_trial:known")
    skip_checks(monkeypatch.setattr)
    monkeypatch.setattr("gfl_lab.session.session.start_mirror", NoMirror)
    return runner(monkeypatch, capsys)


def seeds_of(folder: Path) -> dict[str, int]:
    """Finished seeds of each variant."""
    row = Store(RunTree(folder / "runs")).experiment("resolve", "smoke")
    return {variant.name: len(variant.done) for variant in row.variants}


RUN = ("--executor", "inline", "--json")


def test_seeds_are_added_where_they_are_needed_alone(cli: Cli, tmp_path: Path) -> None:
    file = experiment_file(tmp_path, "[0]")
    code, out, err = cli("plan", file, "--until-resolved", "1")
    assert code == 0 and "6 trials" in err and "24" in err and "expected: about" in err
    code, out, err = cli("run", file, "--until-resolved", "1", *RUN)
    assert code == 0, err
    table = json.loads(out)  # one table, of the last look
    rows = {row["variant"]: row["delta"]["AP"] for row in table["rows"] if not row["baseline"]}
    assert (rows["large"]["verdict"], rows["alike"]["verdict"]) == ("better", "equivalent")
    found = seeds_of(tmp_path)
    assert found["large"] < found["alike"] == found["base"] <= 8
    assert rows["large"]["look"]["seeds"] == found["large"] and rows["large"]["look"]["stopped"] == DECIDED
    assert "look at 2 seeds" in err and "all 2 rows have stopped" in err
    assert table["looks"] == {"until_resolved": 1.0, "looks": list(LOOKS)} and table["extensions"] == []

    # the same command trains nothing and says the same; a plain table is that of the run
    code, again, err = cli("run", file, "--until-resolved", "1", *RUN)
    assert (code, json.loads(again)) == (0, table)
    assert all((trial.path / known_trial.STARTED).read_text() == "1\n" for trial in RunTree(tmp_path / "runs").trials())
    assert json.loads(cli("table", file, "--json")[1]) == table
    code, out, err = cli("plan", file, "--until-resolved", "1")
    assert code == 0 and "0 of " in err and "as in the finished trials" in err and out.count("seed ") == sum(found.values())
    assert f"{found['base']} seeds" in " ".join(cli("table", file)[1].split())

    # seeds that are added by hand are no reason for another verdict, and are named
    code, out, err = cli("run", file, "--seeds", "0..9", *RUN)
    more = json.loads(out)
    assert code == 0, err
    assert [row["delta"].get("AP", {}).get("interval") for row in more["rows"]] == [
        row["delta"].get("AP", {}).get("interval") for row in table["rows"]
    ]
    assert any("beyond the last look" in note for note in more["footnotes"]) and len(more["extensions"]) == 1

    # other looks than those of the first run are refused
    code, out, err = cli("run", file, "--until-resolved", "0.4", *RUN)
    assert code == 2 and "Looks are fixed before the first one" in " ".join(err.split())


def test_a_failed_row_does_not_stop_the_others(cli: Cli, tmp_path: Path) -> None:
    file = experiment_file(tmp_path, "{until_resolved: 1, looks: [2, 4, 8]}")
    file.write_text(file.read_text().replace("alike: {lr: 0.003}", f"alike: {{lr: 0.003}}\n  failing: {{lr: {known_trial.FAILING}}}"))
    code, out, err = cli("run", file, *RUN)
    assert code == 3, err
    rows = {row["variant"]: row for row in json.loads(out)["rows"]}
    assert rows["large"]["delta"]["AP"]["verdict"] == "better" and rows["alike"]["delta"]["AP"]["verdict"] == "equivalent"
    assert "failing seed 2" in err and "failing waits for a trial that failed" in err
    assert rows["failing"]["counts"]["done"] == 2


def test_a_budget_counts_over_all_looks(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial takes a minute of a clock that only they move. Every look by itself is within the budget of 9 minutes: 6, 4, 8 trials."""

    def minutes() -> float:
        return 60.0 * len(list((tmp_path / "runs").glob(f"trials/*/{known_trial.STARTED}")))

    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=minutes))
    file = experiment_file(tmp_path, "{until_resolved: 1, looks: [2, 4, 8]}")
    code, _, err = cli("run", file, *RUN, "--budget", "9min")
    assert code == 5 and "look at 2 seeds" in err and "--budget 9min is spent" in err, err
    assert 9 <= sum(seeds_of(tmp_path).values()) <= 10, "the trial that spends the last minute may not be the last of its look"
    assert cli("run", file, *RUN)[0] == 0


def test_seeds_that_are_added_after_a_verdict_are_told(cli: Cli, tmp_path: Path) -> None:
    file = experiment_file(tmp_path, "[0, 1, 2]")
    assert json.loads(cli("run", file, *RUN)[1])["extensions"] == []
    assert json.loads(cli("run", file, *RUN)[1])["extensions"] == []
    code, out, _ = cli("run", file, "--seeds", "0..4", *RUN)
    table = json.loads(out)
    assert code == 0 and [(each["read"], each["seeds"], each["variants"]) for each in table["extensions"]] == [(3, 5, 0)]
    assert any(note.startswith("Extended after it was read") for note in table["footnotes"])
    file.write_text(file.read_text().replace("  alike:", "  new: {lr: 0.004}\n  alike:"))
    assert json.loads(cli("run", file, "--seeds", "0..4", *RUN)[1])["extensions"][1]["variants"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-seeds", "5"), "--max-seeds is for --until-resolved"),
        (("--until-resolved", "1", "--seeds", "0,1"), "--until-resolved decides the seeds"),
        (("--until-resolved", "0"), "0"),
        (("--until-resolved", "1", "--max-seeds", "1"), "2"),
    ],
)
def test_options_that_do_not_fit(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = cli("run", experiment_file(tmp_path, "[0]"), *arguments, *RUN)
    assert code == 2 and message in " ".join(err.split())
    assert not (tmp_path / "runs" / "experiments").exists()


def test_two_variants_of_a_table_are_compared_at_their_last_common_look(cli: Cli, tmp_path: Path) -> None:
    cli("run", experiment_file(tmp_path, "{until_resolved: 1}"), *RUN)
    store = Store(RunTree(tmp_path / "runs"))
    row = store.experiment("resolve", "smoke")
    large, alike = row.variants[1:]
    found = compare_two(row, large, alike, store.resampled_or_none)[0].found
    assert variant_comparison.context(row, large, alike, store.resampled_or_none).level == found.level < 0.05  # sizes and classes too
    assert found.seeds == min(len(large.done), len(alike.done)) and found.level in levels(LOOKS)
    assert {each.variant for each in compare(row, store.resampled_or_none)} == {"large", "alike"}
    assert table_json(build_table(row, store.resampled_or_none))["looks"]["looks"] == list(LOOKS)
    assert all(trial.state is TrialState.DONE for trial in row.trials)


# --- before the first look ---


def test_before_the_first_look_differences_are_preliminary_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_packages: None
) -> None:
    """Two of three seeds are there, and with fixed seeds each row had a verdict: table, overview and comparison say why there is none yet."""
    from tests.test_dashboard_pages import SMALL, html_of, open_page, words_of

    states = {(variant, 2): "planned" for variant in range(4)}
    tree = write_fake_tree(tmp_path, **SMALL | {"epochs": 1}, seeds=(0, 1, 2), states=states)
    file = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    plan = read_json(file)
    plan["experiment"]["design"] = {"until_resolved": 2.0, "looks": [3, 4]}
    write_json(file, plan)
    store = Store(tree)
    row = store.experiment("table3_qfl_dfl", "desk")
    sentence = "Preliminary: no verdict before the first look (2 of 3 seeds done)."
    for pair in ((row.variants[3], row.variants[0]), (row.variants[0], row.variants[3]), (row.variants[3], row.variants[1])):
        found = compare_two(row, *pair, store.resampled_or_none)
        assert [(each.verdict, each.p, each.found.half, each.better) for each in found] == [("no look yet", None, None, None)] * 3
        assert preliminary(found[:1]) == sentence
    table = build_table(row, store.resampled_or_none)
    assert [each.found.mean for each in table.compared] == [each.delta["AP"].mean for each in table.rows[1:]]
    assert sentence in table.footnotes and not any(note.startswith("Open:") for note in table.footnotes)
    delta = table_json(table)["rows"][3]["delta"]["AP"]
    assert (delta["verdict"], delta["interval"], delta["look"]) == ("no look yet", None, None)
    mean = format_number("AP", table.compared[2].found.mean, signed=True)
    monkeypatch.setattr(variant_pair, "compare_variants", partial(variant_comparison.compare_variants, replicates=2))
    for page in ("overview", "table", "compare"):
        app = open_page(page, tmp_path, monkeypatch)
        shown = words_of(app)
        assert sentence in shown and mean in shown and "no look yet" in shown, page
        assert not re.search('data-sign="[▲▼=?]"', html_of(app)) and "(weak)" not in shown, page
    with pytest.raises(InputError, match="no comparison of qfl=on dfl=on with qfl=off dfl=off yet"):
        read_claim(tree, row, "qfl=on dfl=on")


def test_the_sentence_says_what_a_row_waits_for() -> None:
    assert before_first_look(0, (2, 3)) == "no verdict before the first look (0 of 2 seeds done)"
    assert before_first_look(4, (3, 4)) == "no verdict before the first look (3 of 3 seeds done; other rows have fewer)"
