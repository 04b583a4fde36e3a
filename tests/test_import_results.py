"""`gfl-lab import-results` as a user meets it: the table of detection files, every command that reads it, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from gfl_lab import naming
from gfl_lab.errors import InputError
from gfl_lab.integrity.trial_check import damage
from gfl_lab.maintenance import run_files
from gfl_lab.maintenance.surplus import find_surplus
from gfl_lab.records.plan import read_plan
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.lab import Lab
from gfl_lab.session.lookup import file_to_run
from tests.support.cli import Cli, runner
from tests.support.detection_files import annotations, changed, detections, write
from tests.support.fake_runs import write_fake_tree

NAME = "anyone"
COCO = annotations(16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations, three files of `yolo` and of `dfine`, and one of `rtdetr`."""
    folder = tmp_path_factory.mktemp("files")
    write(folder / "val.json", COCO)
    for seed in range(3):
        write(folder / f"yolo_s{seed}.json", detections(COCO, seed, noise=0.09))
        write(folder / f"dfine_s{seed}.json.gz", detections(COCO, 10 + seed, noise=0.03))
    write(folder / "rtdetr.json", detections(COCO, 20))
    return folder


def arguments(files: Path, *arms: str) -> list[str]:
    patterns = {"yolo": "yolo_s*.json", "dfine": "dfine_s*.json.gz", "rtdetr": "rtdetr.json"}
    found = ["import-results", NAME, "--annotations", str(files / "val.json")]
    for arm in arms or ("yolo", "dfine"):
        found += ["--arm", f"{arm}={files / patterns[arm]}"]
    return found


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run tree with two arms, made by the command line in an interpreter of its own, which must not load torch."""
    root = tmp_path_factory.mktemp("made")
    code = (
        "import json, sys; from gfl_lab.cli.main import main\n"
        "try: main()\nfinally: sys.stderr.write('@' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    command = [sys.executable, "-c", code, *arguments(files), "--question", "Is D-FINE better?", "--min-effect", "0.5", "--json"]
    done = subprocess.run(command, env={"GFL_LAB_HOME": str(root), "PATH": ""}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stderr.rpartition("@")[2]))
    assert "numpy" in loaded and not loaded & {"torch", "mmdet", "mmengine", "ray", "mlflow", "streamlit", "faster_coco_eval"}
    (root / "printed.json").write_text(done.stdout)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the tree, to change."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.setenv("GFL_LAB_HOME", str(made))
    monkeypatch.chdir(tmp_path)
    yield runner(monkeypatch, capsys)


def test_the_table_has_means_differences_intervals_and_verdicts(made: Path) -> None:
    table = json.loads((made / "printed.json").read_text())
    yolo, dfine = table["rows"]
    assert (yolo["variant"], yolo["baseline"], dfine["metrics"]["AP"]["n"]) == ("yolo", True, 3)
    assert table["question"] == "Is D-FINE better?" and table["data"] == "val: 16 images, 3 classes"
    delta = dfine["delta"]["AP"]
    assert (delta["seeds"], delta["n"]) == ([], 3), "trainings of two projects do not pair"
    assert delta["verdict"] == "better" and delta["min_effect"] == 0.5 and delta["images"] == 16
    assert delta["interval"][0] > 0 and delta["std_error_images"] > 0
    assert set(dfine["metrics"]) == {"AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"}
    assert any("none of the detectors" in note for note in table["footnotes"]) and any(
        "numbers in the names" in note for note in table["footnotes"]
    )
    folder = made / "experiments" / NAME / "imported"
    assert {path.name for path in folder.iterdir()} == {
        *(f"table.{form}" for form in ("json", "md", "csv", "tex", "html")),
        naming.PLAN,
        naming.LOCK,
    }
    assert json.loads((folder / "table.json").read_text()) == table


def test_every_command_that_reads_results_takes_the_name(cli: Cli, made: Path) -> None:
    code, out, _ = cli("table", NAME, "--json")
    assert code == 0 and json.loads(out) == json.loads((made / "printed.json").read_text())
    for form in ("md", "csv", "tex", "html"):
        code, out, _ = cli("table", NAME, "--format", form)
        assert code == 0 and "dfine" in out
    code, out, err = cli("compare", NAME, "dfine", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and "dfine against yolo, 3 and 3 files" in err and {"class 1", "AP_S", "background"} <= {row["name"] for row in rows}
    code, out, _ = cli("report", NAME, "--claim", "dfine")
    assert (
        code == 0
        and "none of the detectors" in out
        and "has boxes and scores on record alone" in out
        and "gfl-lab import-results anyone" in out
    )
    code, out, err = cli("verify", NAME)
    assert code == 0 and "recomputed the AP of 6 of 6 trials from their detections; every number is as locked" in err
    code, out, _ = cli("status", NAME)
    assert code == 0 and "nothing to train" in out and "epoch" not in out and out.count("done") == 7
    assert Lab(made).table(NAME).rows[1].variant == "dfine"


def test_a_name_is_that_of_a_trained_experiment_too_and_a_file_goes_before_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "trained"))
    write_fake_tree(tmp_path / "trained", name="mine", epochs=1, train_images=4, val_images=2)
    code, out, _ = cli("table", "mine", "--json")
    assert code == 0 and json.loads(out)["experiment"] == "mine"
    assert cli("status", "mine")[1].startswith("mine on desk: 4 done")
    tree = RunTree(tmp_path / "trained")
    with pytest.raises(InputError, match="is not found by its name"):
        file_to_run(tree, Path("mine"))
    Path("mine.yaml").write_text("experiment: [")
    assert cli("table", "mine")[0] == 2, "the file is meant, and it is no experiment"
    started: list[list[str]] = []
    monkeypatch.setattr("os.execvpe", lambda _file, words, _environment: started.append(words))
    Path("mine.yaml").unlink()
    code, _, err = cli("dashboard", "mine")
    assert code == 0 and "/table?experiment=mine/desk" in err and started


def test_what_needs_training_or_weights_is_refused_with_a_plain_reason(cli: Cli, made: Path) -> None:
    trial = RunTree(made).trials()[0].id
    picture = Path("picture.jpg")
    Image.new("RGB", (8, 8)).save(picture)
    for command in (("run", NAME), ("plan", NAME), ("confirm", NAME)):
        code, _, err = cli(*command)
        assert code == 2 and "imported detections: there is nothing to train" in err
    for command in (("reproduce", trial), ("evaluate", trial), ("predict", trial, picture)):
        code, _, err = cli(*command)
        assert code == 2 and "it has no weights" in err
    code, _, err = cli("compare", NAME, "dfin", "nobody")
    assert code == 2 and "has no variant 'nobody'" in err
    code, _, err = cli("table", "anyon")
    assert code == 2 and "Did you mean 'anyone'?" in err
    code, _, err = cli("table", NAME, "--profile", "desk")
    assert code == 2 and "It is there on: imported." in err


def test_the_same_files_again_change_nothing_and_more_files_are_added(
    cli: Cli, root: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(root))
    before = {path: path.read_bytes() for path in (root / "trials").rglob("*") if path.is_file()}
    plan = read_plan(root / "experiments" / NAME / "imported" / naming.PLAN)
    code, out, err = cli(*arguments(files), "--json")
    assert code == 0 and "holds these files already: nothing has changed" in err
    assert json.loads(out) == json.loads((root / "printed.json").read_text()), "question and smallest effect are kept"
    assert {path: path.read_bytes() for path in (root / "trials").rglob("*") if path.is_file() and path.name != ".intact.json"} == before
    code, out, err = cli(*arguments(files, "yolo", "dfine", "rtdetr"), "--baseline", "dfine", "--json")
    grown = read_plan(root / "experiments" / NAME / "imported" / naming.PLAN)
    assert code == 0 and err.count(", seed ") == 1 and "rtdetr, seed 0: AP" in err
    assert grown.variants[0].trials == plan.variants[0].trials and [each.baseline for each in grown.variants] == [False, True, False]
    table = json.loads(out)
    assert table["rows"][2]["delta"]["AP"]["verdict"] == "one seed"
    assert any(note.startswith("One file: rtdetr has one seed.") for note in table["footnotes"])
    assert [each["variants"] for each in table["extensions"]] == [1], "an arm that is added when verdicts are there is told"
    assert cli("verify", NAME)[0] == 0
    code, _, err = cli(*arguments(files))
    assert code == 2 and "rtdetr, seed 0" in err and "give another name" in err


def test_other_content_under_a_name_and_a_file_given_twice_are_refused(cli: Cli, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path / "other")
    write(tmp_path / "other" / "yolo_s1.json", detections(COCO, 99))
    code, _, err = cli(*arguments(tmp_path / "other"))
    assert code == 2 and "yolo, seed 1 (trial " in err and "move " in err
    write(tmp_path / "other" / "val.json", annotations(16, seed=5))
    code, _, err = cli(*arguments(tmp_path / "other"))
    assert code == 2 and "its annotations are others" in err
    shutil.copy(files / "yolo_s0.json", tmp_path / "copy.json")
    code, _, err = cli(
        "import-results",
        "new",
        "--annotations",
        files / "val.json",
        "--arm",
        f"a={files / 'yolo_s0.json'}",
        "--arm",
        f"b={tmp_path / 'copy.json'}",
    )
    assert code == 2 and "hold the same detections" in err
    code, _, err = cli("import-results", "table3_qfl_dfl", "--annotations", files / "val.json", "--arm", f"a={files / 'yolo_s0.json'}")
    assert code == 2 and "there is an experiment file of the name" in err


def test_all_problems_of_all_files_are_named_at_once_and_nothing_is_written(
    cli: Cli, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "empty"))
    found = detections(COCO, 1)
    percent = write(tmp_path / "percent.json", changed(found, score=lambda each: 100 * each["score"]))
    (tmp_path / "cut.json").write_bytes((files / "yolo_s0.json").read_bytes()[:-50])
    code, _, err = cli(
        "import-results", "new", "--annotations", files / "val.json", "--arm", f"a={percent},{tmp_path / 'cut.json'}", "--arm", "b=none.json",
        "--baseline", "c", "--class-ids", "d=zero-based",
    )  # fmt: skip
    assert code == 2 and "error: 5 problems" in err
    assert all(text in err for text in ("percent", "cut off", "none.json does not exist", "there is no arm 'c'", "there is no arm 'd'"))
    assert not (tmp_path / "empty").exists()
    write(tmp_path / "val.json", found)
    code, _, err = cli("import-results", "new", "--annotations", tmp_path / "val.json", "--arm", f"a={percent}")
    assert code == 2 and "holds a list of detections" in err
    for bad in (["--arm", "a"], ["--arm", f"a={percent}", "--boxes", "xy"], ["--arm", f"a={percent}", "loose.json"], []):
        code, _, err = cli("import-results", "new", "--annotations", files / "val.json", *bad)
        assert code == 2, bad


def test_a_damaged_trial_is_named_and_made_again_by_the_same_command(
    cli: Cli, root: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(root))
    tree = RunTree(root)
    first, second, third = tree.trials()[:3]
    assert all(not damage(trial) for trial in tree.trials())
    first.file(naming.EVAL_RECORDS).write_bytes(b"nothing")
    second.file(naming.RESULT).write_text("{")
    third.file(naming.MANIFEST).unlink()
    said = [message for ok, message in run_files.runs(tree, repair=False) if not ok]
    assert len(said) == 3 and sum("the same `gfl-lab import-results anyone`" in message for message in said) >= 2
    assert cli("verify", NAME)[0] == 4
    code, _, err = cli(*arguments(files))
    assert code == 0 and err.count(", seed ") == 3
    assert all(not damage(trial) for trial in tree.trials()) and len(tree.trials()) == 6
    assert cli("verify", NAME)[0] == 0
    surplus = find_surplus(tree, checkpoints=True, unreferenced=True, say=lambda _: None)
    assert not [item for item in surplus if item.path.is_relative_to(root)], "of the run tree; sessions of Ray lie elsewhere"


def test_an_imported_trial_is_read_like_any_other_and_has_no_settings(made: Path) -> None:
    store = Store(RunTree(made))
    row = store.experiment(NAME, "imported")
    trial = row.variants[0].trials[0]
    recorded = store.recorded(trial.id)
    assert row.is_imported and recorded.settings == {} and recorded.seed == 0
    records, resampled = store.records(trial.id), store.resampled(trial.id)
    assert records is not None and len(records.image_ids) == 16 and resampled is not None and resampled.images == 16
    assert store.distributions(trial.id) is None
    with pytest.raises(Exception, match="come without images"):
        store.image(trial.id, 100)
