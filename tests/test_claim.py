"""`report`: one page for a claim. Its numbers are the table's, its text is data, and mistakes get one sentence."""

from __future__ import annotations

import functools
import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gfl_lab import naming
from gfl_lab.errors import InputError
from gfl_lab.records.files import read_json, write_json
from gfl_lab.report import claim as report_claim
from gfl_lab.report import claim_sentences as sentences
from gfl_lab.report import variant_comparison, variant_pair
from gfl_lab.report.claim_boxes import CHOICE_INPUT, ChosenBox, choose_boxes
from gfl_lab.report.comparison import Comparison
from gfl_lab.report.formatting import format_number, format_spread
from gfl_lab.report.statistics import Difference
from gfl_lab.report.writers.claim_fit import fit
from gfl_lab.report.writers.claim_page import to_claim_page
from gfl_lab.report.writers.svg import ticks
from gfl_lab.results.rows import seeds_option
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.import_results import ImportOptions, import_results
from tests.support import detection_files
from tests.support.claims import LONG, fake_claim, longest
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree

FILE = Path(__file__).parents[1] / "experiments" / "table3_qfl_dfl.yaml"
VOID = {"meta", "rect", "line", "circle", "path", "image", "br"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunTree:
    """Four variants with three seeds, whose AP is that of their detections; not to be changed."""
    return write_fake_tree(tmp_path_factory.mktemp("whole"), seeds=(0, 1, 2), val_images=5, train_images=4, epochs=2, whole=True)


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bootstrap samples than `compare` draws: 0.3 s a claim instead of 3 s."""
    monkeypatch.setattr(variant_pair, "compare_variants", functools.partial(variant_comparison.compare_variants, replicates=15))


@pytest.fixture
def tree(whole: RunTree, tmp_path: Path) -> RunTree:
    """A copy of it, to be changed."""
    shutil.copytree(whole.root, tmp_path / "runs")
    return RunTree(tmp_path / "runs")


@pytest.fixture
def cli(whole: RunTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(whole.root))
    return runner(monkeypatch, capsys)


class Page(html.parser.HTMLParser):
    """A page as a tree's texts: every tag with its attributes, cells of tables row by row, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "head" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def numbers_of(page: Page) -> dict[str, dict[str, str]]:
    """The cells of the table of numbers, by row and column."""
    head, *rows = page.rows[:4]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["qfl=on dfl=on", "qfl=off dfl=on"])
def test_numbers_are_those_of_table_and_compare(cli: Cli, variant: str) -> None:
    code, out, err = cli("report", FILE, "--claim", variant)
    assert code == 0, err
    page, table = Page(out), json.loads(cli("table", FILE, "--json")[1])
    rows = {row["variant"]: row for row in table["rows"]}
    shown, found = numbers_of(page), rows[variant]["delta"]["AP"]
    for name in (variant, table["baseline"]):
        for key, stat in rows[name]["metrics"].items():
            if key in naming.AP_METRICS:
                assert shown[name][key] == format_spread(key, stat["mean"], stat["std"])
    for key, stat in rows[variant]["delta"].items():
        if key in naming.AP_METRICS:
            assert shown["difference seeds 0, 1, 2"][key] == format_spread(key, stat["mean"], stat["std"], signed=True)
    low, high = (format_number("AP", value, True) for value in found["interval"])
    mean = format_number("AP", found["mean"], True)
    assert f"{mean} AP points (95% interval {low} to {high})" in page.text and f"{mean} ({low} to {high})" in page.text
    assert "3 seeds, 5 validation images" in page.text and "after Holm's correction for 3 rows" in page.text
    compared = json.loads(cli("compare", FILE, variant, "--json")[1])["rows"]
    for row in compared:
        if row["group"] in ("class", "error"):
            assert f"{row['name']}: {format_number('AP', row['difference'], True)}" in page.text
    assert all(trial["id"] in page.text for name in (variant, table["baseline"]) for trial in rows[name]["trials"])
    assert "fake" not in page.text and table["question"] in page.text


def test_two_variants_of_which_none_is_the_baseline(whole: RunTree) -> None:
    known = fake_claim(whole, "qfl=on dfl=on", "qfl=off dfl=on", min_effect=0.7)
    assert known.main.rows == 1 and known.main.min_effect == 0.7
    for key, found in known.comparisons.items():
        assert known.delta[key].mean == pytest.approx(found.found.mean)
    page = to_claim_page(known)
    assert "(two-sided; one row, no correction)" in page and "(baseline)" not in page
    assert "--against &#x27;qfl=off dfl=on&#x27; --min-effect 0.7 -o claim.html" in page
    assert page.count('class="outline re"') == 8 and page.count('class="bars va"') == 8, "both learn distributions"


def test_the_same_command_gives_the_same_bytes_and_leaves_the_tree_alone(whole: RunTree) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.root.rglob("*")}
    assert to_claim_page(fake_claim(whole)) == to_claim_page(fake_claim(whole))
    assert {path: path.stat().st_mtime_ns for path in whole.root.rglob("*")} == before


# --- verdicts in words ----------------------------------------------------------------------------


def found(mean: float, half: float | None, p: float | None, p_equivalent: float | None = None, **more: object) -> Comparison:
    difference = Difference(mean, half, p, 0.1, 0.01, 3, spread=0.1, freedom=4.0, images=200)
    settled = {"detectable": 1.0, "needed": 12, "min_effect": 0.3, "p_equivalent": p_equivalent, **more}
    return Comparison("v", "AP", difference, p, 3, **settled)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "title", "sentence", "caveat"),
    [
        (found(2.0, 1.0, 0.01), "Better", "v is better than r: +2.0 AP points (95% interval +1.0 to +3.0).", "8 times in 10"),
        (found(-2.0, 1.0, 0.01), "Worse", "v is worse than r: −2.0 AP points (95% interval −3.0 to −1.0).", "1.0 AP or more"),
        (found(0.1, 0.09, 0.01, 0.01), "Better", "v is better than r: +0.1", "shown to be smaller than ±0.3 AP"),
        (found(0.0, 0.2, 0.9, 0.01), "Equivalent within ±0.3 AP", "v and r are equivalent within ±0.3 AP: they differ by 0.0", "8 times"),
        (found(0.5, 1.0, 0.4, 0.5), "Inconclusive", "It is open whether v is better than r: +0.5", "0.3 AP would need 12 seeds of each row"),
        (found(0.5, 1.0, 0.4, needed=None), "Inconclusive", "It is open", "more than 1,000 seeds"),
        (
            found(0.5, 1.0, 0.4, needed=None, images_resolve=0.8, images_needed=1423),
            "Inconclusive", "It is open", "200 validation images show 0.8 AP at best, however many seeds; 0.3 AP would need about 1,500 images",
        ),
    ],
)  # fmt: skip
def test_verdicts_in_words(case: Comparison, title: str, sentence: str, caveat: str) -> None:
    assert sentences.title(case) == title and sentences.verdict(case, "v", "r").startswith(sentence)
    assert caveat in " ".join(sentences.caveats(case))


def test_what_is_no_verdict_gives_its_reason() -> None:
    blind = replace(
        found(1.0, None, None), found=Difference(1.0, None, None, None, None, 2, verdict="no records", why="eval.npz is missing")
    )
    assert sentences.title(blind) == "No verdict: no records"
    assert sentences.verdict(blind, "v", "r") == "Nothing can be concluded on v and r, since eval.npz is missing."
    single = replace(found(1.0, None, None, detectable=None), found=Difference(1.0, None, None, None, 0.25, 1, verdict="one seed"))
    assert "± 1.0 for the choice of images alone" in sentences.verdict(single, "v", "r")
    assert "train two more seeds" in sentences.caveats(single)[0] and sentences.basis(single, 5) == "1 seed, 5 validation images."
    corrected = found(1.0, 0.9, 0.03)
    corrected = replace(corrected, p=0.09)
    assert "leaves 0 out; corrected for all rows, p does not" in " ".join(sentences.caveats(corrected))


def test_a_command_trains_the_same_trials(tree: RunTree) -> None:
    (row,) = Store(tree).experiments()
    assert row.run_command() == "gfl-lab run table3_qfl_dfl --profile desk --seeds 0,1,2"
    assert row.run_command([0, 1]).endswith("--seeds 0,1")
    cells = replace(row, name="cells", profile="bccd", data=replace(row.data, name="bccd"))
    assert cells.run_command() == "gfl-lab run cells --profile bccd --data PATH --seeds 0,1,2"
    assert replace(row, kind="search").run_command() == "gfl-lab run table3_qfl_dfl --profile desk"


def test_seeds_of_a_command_are_as_run_takes_them() -> None:
    assert [seeds_option(each) for each in ([0, 1, 2], [0, 1, 2, 3], [3, 5, 7, 9], [4])] == ["0,1,2", "0..3", "3,5,7,9", "4"]


def test_ticks_are_round_and_few() -> None:
    assert ticks(-1.3, 2.4, 4) == [-1.0, 0.0, 1.0, 2.0]
    for low, high in ((-0.01, 0.4), (0.0, 17.0), (-35.0, 2.0), (61.2, 61.9)):
        assert 2 <= len(ticks(low, high, 4)) <= 5


# --- boxes ----------------------------------------------------------------------------------------


def frame(*boxes: tuple[int, int, float], bins: int = 5) -> pd.DataFrame:
    """Boxes as (image, annotation, weight of a second mode of the left side)."""
    rows = []
    for image, annotation, second in boxes:
        probs = np.tile([0.0, 0.0, 1.0, 0.0, 0.0], (4, 1))
        probs[0] = [1 - second, 0, 0, 0, second]
        rows.append(
            {"image_id": image, "annotation_id": annotation, "category": "a", "stride": 8, "bin_width": 1.0, "scale_x": 1.0, "scale_y": 1.0,
             "bins": bins, "probs": probs.ravel() if bins else np.array([]), "bin_positions": None, "ambiguous_side": -1, "ambiguity": "",
             "edge_a": np.nan, "edge_b": np.nan, "cell_iou": 0.5, "gt_x1": 0.0, "gt_y1": 0.0, "gt_x2": 9.0, "gt_y2": 9.0, "level": 0}
        )  # fmt: skip
    return pd.DataFrame(rows)[list(CHOICE_INPUT)]


def test_one_box_is_chosen_by_each_variant_and_both_must_have_its_sides() -> None:
    first, second = frame((1, 1, 0.1), (2, 2, 0.4), (3, 3, 0.5)), frame((1, 1, 0.5), (2, 2, 0.0), (3, 3, 0.2))
    assert [(each.annotation_id, each.of_variant, each.side) for each in choose_boxes(first, second)] == [
        (3, True, "left"),
        (1, False, "left"),
    ]
    assert [each.annotation_id for each in choose_boxes(first, first)] == [3, 2], "the same box of both: the next one follows"
    second.loc[second["annotation_id"] == 3, "level"] = -1  # no location matched
    assert [each.annotation_id for each in choose_boxes(first, second)] == [2, 1]


def test_without_a_second_variant_or_a_second_mode() -> None:
    first, dirac = frame((1, 1, 0.1), (2, 2, 0.4)), frame((1, 1, 0.0), (2, 2, 0.0), bins=0)
    assert [(each.annotation_id, each.of_variant) for each in choose_boxes(first, dirac)] == [(2, True), (1, True)]
    plain = frame((4, 7, 0.0), (4, 6, 0.0))
    assert choose_boxes(plain, plain) == [ChosenBox(4, 6)]
    assert choose_boxes(first, frame((9, 9, 0.3))) == []


def test_boxes_of_a_dirac_variant_are_lines_and_two_such_have_no_figure(whole: RunTree) -> None:
    page = to_claim_page(fake_claim(whole))
    assert "qfl=off dfl=off predicts one distance for each side (box: dirac). Its one distance is drawn as a line." in page
    assert page.count('class="only re"') == 8 and page.count("data:image/jpeg;base64,") == 2
    both = to_claim_page(fake_claim(whole, "qfl=on dfl=off"))
    assert "No figure: qfl=on dfl=off predicts one distance" in both and "data:image" not in both


def test_missing_files_leave_their_part_out(tree: RunTree) -> None:
    known = fake_claim(tree)
    first, second = known.trials[0]
    shutil.rmtree(Path(tree.trial(first).manifest().paths.val_images))
    page = to_claim_page(fake_claim(tree))
    assert "data:image" not in page and page.count('class="bars va"') == 8, "without its picture"
    tree.trial(second).file(naming.DISTRIBUTIONS).unlink()
    assert "No figure: qfl=off dfl=off has boxes and scores on record alone." in to_claim_page(fake_claim(tree))
    tree.trial(first).file(naming.DISTRIBUTIONS).write_bytes(b"torn")
    assert f"the distributions of trial {first} cannot be read" in to_claim_page(fake_claim(tree))
    tree.trial(first).file(naming.EVAL_RECORDS).unlink()
    page = to_claim_page(fake_claim(tree))
    assert "No verdict: no records" in page and f"It cannot be shown: trial {first} has no evaluation records." in page


# --- the page -------------------------------------------------------------------------------------


def test_text_is_data_and_the_page_stands_alone(tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path, hostile=True, seeds=(0, 1), val_images=3, train_images=2, epochs=1)
    known = fake_claim(tree)
    for each in (known, longest(known)):
        out = to_claim_page(each)
        page = Page(out)
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "img", "b", "iframe", "link", "object"} and all(
            "class" in attributes for tag, attributes in page.tags if tag == "i"
        )
        assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
        links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("href", "src", "srcset")]
        assert all(str(link).startswith("data:image/jpeg;base64,") for link in links)
        assert not re.search(r"url\(|@import|https?://", out.replace("http://m", "")), "nothing is fetched"
        assert len(out) < 300_000
    assert "<script>alert(3)</script>" in Page(to_claim_page(known)).text


def test_what_does_not_fit_a_sheet_is_counted(whole: RunTree) -> None:
    known = fake_claim(whole)
    assert fit(known, ()).boxes == 2 and fit(known, ()).notes == known.notes
    crowded = longest(known)
    found = fit(crowded, ())
    assert found.boxes <= 1 and found.settings < 8
    page = Page(to_claim_page(crowded)).text
    assert page.count("a long word after another " * 9) >= 2, "both warnings"
    assert f"and {20 - len(found.notes)} more on these two rows" in page and "74 more classes changed less" in page
    assert LONG not in page and "The two differ in more than the declared axes: see the notes." in page


def test_an_unfair_comparison_is_told_and_has_its_exit_code(
    tree: RunTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    plan = read_json(file)
    plan["variants"][1]["settings"]["lr"] = 0.5
    write_json(file, plan)
    monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))
    cli = runner(monkeypatch, capsys)
    code, _, err = cli("report", FILE, "--claim", "qfl=on dfl=off", "-o", tmp_path / "unfair.html")
    assert code == 4 and "unfair: lr differs but is no declared axis" in err
    assert "† Unfair: lr differs" in (tmp_path / "unfair.html").read_text()
    assert cli("report", FILE, "--claim", "qfl=on dfl=on")[0] == 0, "it does not concern these two"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> RunTree:
    """An experiment of two arms with two files each."""
    folder = tmp_path_factory.mktemp("imported")
    coco = detection_files.annotations(8)
    detection_files.write(folder / "val.json", coco)
    arms = []
    for arm, noise in (("yolo", 0.09), ("d fine", 0.03)):
        for seed in range(2):
            detection_files.write(folder / f"{arm[0]}_s{seed}.json", detection_files.detections(coco, seed, noise=noise))
        arms.append((arm, f"{folder}/{arm[0]}_s*.json"))
    tree = RunTree(folder / "runs")
    import_results(tree, "anyone", ImportOptions(arms, folder / "val.json"), lambda text: None)
    return tree


def test_imported_results_have_a_page_without_distributions(
    imported: RunTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(imported.root))
    cli = runner(monkeypatch, capsys)
    code, out, err = cli("report", "anyone", "--claim", "d fine")
    page, table = Page(out), json.loads(cli("table", "anyone", "--json")[1])
    assert code == 0, err
    for row in table["rows"]:
        assert numbers_of(page)[row["variant"]]["AP"] == format_spread("AP", row["metrics"]["AP"]["mean"], row["metrics"]["AP"]["std"])
    assert "No figure: d fine has boxes and scores on record alone. yolo has boxes and scores on record alone." in page.text
    assert "trained elsewhere are not known" in page.text and "Imported: AP is computed from 4 detection files" in page.text
    command = "gfl-lab import-results anyone --annotations val.json --arm yolo=y_s0.json,y_s1.json --arm 'd fine=d_s0.json,d_s1.json' --baseline yolo"
    assert command in page.text and "gfl-lab report anyone --claim 'd fine' -o claim.html" in page.text
    assert "training code" not in page.text


# --- the command ----------------------------------------------------------------------------------


def test_words_of_a_name_come_in_any_order_and_a_file_is_not_overwritten(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "claim.html"
    code, printed, err = cli("report", FILE, "--claim", "dfl=on  qfl=on", "-o", out)
    assert (code, printed, err) == (0, "", f"written: {out}\n")
    assert cli("report", FILE, "--claim", "qfl=on dfl=on")[1] == out.read_text()
    code, _, err = cli("report", FILE, "--claim", "qfl=on dfl=off", "--out", out)
    assert code == 2 and f"{out} exists" in err and "--force" in err
    assert cli("report", FILE, "--claim", "qfl=on dfl=off", "-o", out, "--force")[0] == 0 and "against" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--claim", "qfl=perhaps"], "no variant 'qfl=perhaps'"),
        (["--claim", "dfl=on"], "2 variants of table3_qfl_dfl have 'dfl=on' in their name"),
        (["--claim", "dfl=off qfl=off"], "both are qfl=off dfl=off, which is the baseline"),
        (["--claim", "qfl=on dfl=on", "--against", "other"], "no variant 'other'"),
        (["--claim", "qfl=on dfl=on", "-o", "."], ". is a folder"),
        (["--claim", "qfl=on dfl=on", "--profile", "smoke"], "has not been run on profile smoke"),
        ([], "--claim"),
    ],
)
def test_mistakes_get_one_sentence(cli: Cli, arguments: list[str], words: str) -> None:
    code, out, err = cli("report", FILE, *arguments)
    assert code == 2 and words in err and not out


def test_seeds_that_only_one_has_finished_and_no_comparison_yet(tree: RunTree, monkeypatch: pytest.MonkeyPatch) -> None:
    known = fake_claim(tree)
    tree.trial(known.trials[2][0]).file(naming.RESULT).unlink()
    fewer = fake_claim(tree)
    words = "The difference is over the seeds that both have finished (0, 1); qfl=off dfl=off has more."
    assert list(fewer.trials) == [0, 1] and words in fewer.notes and fewer.main.weak
    assert any(note.startswith("Incomplete: qfl=on dfl=on has 2 of 3 trials done") for note in fewer.notes)
    monkeypatch.setattr(report_claim, "compare_two", lambda *_: (known.main,))
    assert "Verdict and interval rest on 3 of these 2 seeds." in fake_claim(tree).notes
    monkeypatch.setattr(report_claim, "compare_two", lambda *_: ())
    with pytest.raises(InputError, match="there is no comparison of qfl=on dfl=on with qfl=off dfl=off yet"):
        fake_claim(tree)


def test_warnings_of_the_table_come_first(tree: RunTree) -> None:
    file = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    plan = read_json(file)
    extended, cut = "Extended after it was read: on 2026-11-28.", "Warning: a cut."
    write_json(file, plan | {"experiment": plan["experiment"] | {"notes": ["A note.", extended, cut]}})
    known = fake_claim(tree)
    assert known.warnings == (extended, cut) and known.notes[0] == "A note." and cut not in known.notes
    text = Page(to_claim_page(known)).text
    assert "Read the warnings in the notes first." in text and text.index(extended) < text.index(cut) < text.index("A note.")


def test_a_table_with_looks_gives_its_own_command_and_notes(tree: RunTree) -> None:
    file = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    plan = read_json(file)
    write_json(file, plan | {"experiment": plan["experiment"] | {"design": {"until_resolved": 0.5, "looks": [2, 4]}}})
    known = fake_claim(tree)
    assert known.commands[0] == "gfl-lab run table3_qfl_dfl --profile desk --until-resolved 0.5 --max-seeds 4"
    assert known.notes[0].startswith("The looks at this table were fixed beforehand: 2 and 4 seeds")
    assert known.main.min_effect == 0.5 and "Verdict and interval rest on 2 of these 3 seeds." in known.notes
    assert "3 seeds, 5 validation images" not in to_claim_page(known) and "2 seeds, 5 validation images" in to_claim_page(known)


@pytest.fixture
def no_baseline(tree: RunTree) -> Iterator[RunTree]:
    """The tree's experiment without a baseline."""
    file = tree.experiment("table3_qfl_dfl", "desk") / naming.PLAN
    plan = read_json(file)
    plan["experiment"]["baseline"] = None
    for variant in plan["variants"]:
        variant["baseline"] = False
    write_json(file, plan)
    yield tree


def test_without_a_baseline_both_are_named(
    no_baseline: RunTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(no_baseline.root))
    cli = runner(monkeypatch, capsys)
    code, _, err = cli("report", FILE, "--claim", "qfl=on dfl=on")
    assert code == 2 and "has no baseline" in err and "--against: 'qfl=off dfl=off'" in err
    assert cli("report", FILE, "--claim", "qfl=on dfl=on", "--against", "qfl=off dfl=on")[0] == 0
    assert Store(no_baseline).experiment("table3_qfl_dfl", "desk").baseline is None
