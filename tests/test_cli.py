"""The command line as a user meets it: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

from gfl_lab.cli.options import renamed_option
from gfl_lab.data import ambiguous_shapes
from gfl_lab.orchestrate import resources
from gfl_lab.wording import duration
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree

ROOT = Path(__file__).parents[1]
TABLE3 = ROOT / "experiments" / "table3_qfl_dfl.yaml"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(resources, "_gpus", lambda: ())
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=8, val_images=8), tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    """A data set of the user's: a folder in COCO format without known truth."""
    folder = tmp_path / "mine"
    shutil.copytree(shapes, folder)
    (folder / "dataset.json").unlink()
    return folder


def test_help_and_version(cli: Cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0 and "run" in out and "table3_qfl_dfl.yaml" in out
    assert cli("--version")[0] == 0
    for command in (
        "run",
        "plan",
        "status",
        "table",
        "dashboard",
        "mlflow",
        "sync",
        "data",
        "doctor",
        "published",
        "init",
        "import-checkpoint",
        "evaluate",
        "gc",
    ):
        code, out, _ = cli(command, "--help")
        assert code == 0 and "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "Did you mean 'run'"),
        (["run"], "Missing argument"),
        (["run", "nowhere.yaml"], "does not exist"),
        (["run", str(TABLE3.with_suffix(".yml"))], "Did you mean"),
        (["run", str(TABLE3), "--seeds", "a"], "0,1,2"),
        (["run", str(TABLE3), "--seeds", "3..1"], "seeds go from"),
        (["run", str(TABLE3), "--profile", "dsk"], "Did you mean 'desk'"),
        (["run", str(TABLE3), "--profile", "../desk"], "no profile"),
        (["run", str(TABLE3), "--profile", "bccd"], "--data PATH"),
        (["run", str(TABLE3), "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["run", str(TABLE3), "--profile", "coco_1x", "--data", "/nowhere", "--init-weights", "/no/file.pth"], "/no/file.pth"),
        (["run", str(TABLE3), "--executor", "slurm"], "slurm"),
        (["table", str(TABLE3)], "has not been run"),
        (["data", "check", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2_and_nothing_written(cli: Cli, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, out, err = cli(*arguments)
    assert code == 2 and words in err + out
    assert out == "" or arguments[0] == "data"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("axes: {reg_max: [0]}", "reg_max is 0"),
        ("axes: {qfl_beta: [0.5]}", "NaN"),
        ("axes: {qlf: [true]}", "'qfl'"),
        ("axis: {qfl: [true]}", "'axes'"),
        ("axes: {lr: [fast]}", "'fast'"),
    ],
)
def test_bad_experiments(cli: Cli, tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: bad\nprofile: desk\n{line}\nseeds: [0, 0]\n")
    for command in ("run", "plan", "table"):
        code, out, err = cli(command, path)
        assert code == 2 and words in err and "bad.yaml:3" in err and "bad.yaml:4" in err and out == ""
    assert not (tmp_path / "runs").exists()


def _annotations(folder: Path, split: str = "train") -> tuple[Path, dict]:
    path = folder / f"annotations/instances_{split}.json"
    return path, json.loads(path.read_text())


def _break(folder: Path, how: str) -> None:
    path, content = _annotations(folder)
    if how == "no annotations":
        shutil.rmtree(folder / "annotations")
        return
    if how == "missing image":
        (folder / "images" / content["images"][0]["file_name"]).unlink()
    elif how == "outside":
        content["annotations"][0]["bbox"] = [100, 100, 500, 20]
    elif how == "no area":
        content["annotations"][0]["bbox"][2] = -3
    elif how == "categories":
        content["categories"][0]["name"] = "other"
    elif how == "truncated":
        image = folder / "images" / content["images"][0]["file_name"]
        jpeg = image.with_suffix(".jpg")
        Image.open(image).convert("RGB").save(jpeg)
        jpeg.write_bytes(jpeg.read_bytes()[:-600])
        content["images"][0]["file_name"] = jpeg.name
    elif how == "nan":
        content["annotations"][0]["bbox"][0] = math.nan
    elif how == "not json":
        path.write_text("{")
        return
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no annotations", "annotations"), ("missing image", ".png"), ("outside", "leaves its image"), ("no area", "area"), ("categories", "differ"),
        ("truncated", "truncated"), ("nan", "NaN"), ("not json", "JSON"),
    ],
)  # fmt: skip
def test_bad_data_is_told_by_run_and_check(cli: Cli, data: Path, tmp_path: Path, how: str, words: str) -> None:
    _break(data, how)
    code, out, err = cli("data", "check", data)
    assert code == 2 and words.lower() in out.lower(), out
    code, out, err = cli("run", TABLE3, "--profile", "bccd", "--data", data)
    assert code == 2 and words.lower() in err.lower() and out == "", err
    runs = tmp_path / "runs"
    assert not (runs / "trials").exists() and not (runs / "experiments").exists()


def test_two_defects_are_both_told(cli: Cli, data: Path) -> None:
    _break(data, "outside")
    _break(data, "missing image")
    code, _, err = cli("run", TABLE3, "--profile", "bccd", "--data", data)
    assert code == 2 and "leaves its image" in err and ".png" in err and "2 problems" in err


def test_more_gpus_than_there_are_is_exit_6_at_once(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("run", TABLE3, "--gpus", "2")
    assert code == 6 and "--gpus 2" in err and "0" in err and out == ""
    assert not (tmp_path / "runs").exists()


def test_plan_of_any_coco_folder(cli: Cli, data: Path) -> None:
    code, out, err = cli("plan", TABLE3, "--profile", "bccd", "--data", data, "--seeds", "0..1", "--json")
    assert code == 0
    plan = json.loads(out)
    assert len(plan["rows"]) == 8 and {row["state"] for row in plan["rows"]} == {"planned"}
    assert plan["data"]["name"] == "mine" and plan["data"]["truth"] is False and plan["data"]["train_images"] == 8
    assert not (Path(os.environ["GFL_LAB_HOME"]) / "trials").exists(), "a plan writes no trials"


def test_table_and_status_from_disk(cli: Cli, tmp_path: Path) -> None:
    write_fake_tree(tmp_path / "runs", seeds=(0, 1))
    code, out, err = cli("table", TABLE3, "--json")
    assert code == 0 and err == ""
    table = json.loads(out)
    assert table["experiment"] == "table3_qfl_dfl" and table["profile"] == "desk" and len(table["rows"]) == 4
    row = table["rows"][1]
    assert {"variant", "settings", "metrics", "delta", "reference", "trials"} <= row.keys()
    assert row["metrics"]["AP"]["n"] == 2 and 1 < row["metrics"]["AP"]["mean"] <= 100
    for form, words in (("md", "|"), ("csv", "AP_mean"), ("tex", r"\toprule"), ("html", "<table"), ("text", "variant")):
        code, out, err = cli("table", TABLE3, "--format", form)
        assert code == 0 and words in out
    code, out, _ = cli("status")
    assert code == 0 and "8 done" in out
    code, out, _ = cli("status", TABLE3, "--json")
    assert len(json.loads(out)["rows"]) == 8


def test_status_of_a_plan_that_cannot_be_read_does_not_say_that_there_are_no_runs(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "runs/experiments/table3_qfl_dfl/desk"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{")
    code, _, err = cli("status")
    assert code == 0 and "cannot be read" in err and "no runs" not in err


def test_status_of_nothing_says_how_to_start(cli: Cli) -> None:
    code, out, err = cli("status")
    assert code == 0 and "gfl-lab run" in err


def test_a_table_of_unequal_arms_is_exit_4(cli: Cli, tmp_path: Path) -> None:
    write_fake_tree(tmp_path / "runs")
    path = tmp_path / "runs/experiments/table3_qfl_dfl/desk/plan.json"
    plan = json.loads(path.read_text())
    plan["variants"][1]["settings"]["epochs"] += 1
    path.write_text(json.dumps(plan))
    code, _, err = cli("table", TABLE3)
    assert code == 4 and "epochs" in err


def test_a_home_that_is_no_folder_is_told(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "file"))
    code, _, err = cli("plan", TABLE3)
    assert code == 2 and f"{tmp_path / 'file'} is not a folder" in err and "GFL_LAB_HOME" in err
    code, out, _ = cli("doctor")
    assert code == 6 and f"BAD  disk      the run tree {tmp_path / 'file'}" in out


def test_no_colour_and_no_bars_without_a_terminal(tmp_path: Path) -> None:
    write_fake_tree(tmp_path / "runs")
    environment = os.environ | {"GFL_LAB_HOME": str(tmp_path / "runs")}
    done = subprocess.run(
        [sys.executable, "-m", "gfl_lab.cli.main", "table", str(TABLE3)], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0 and "\x1b" not in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown"), (0, "0 s"), (59.6, "1 min 00 s"), (3599.9, "1 h 00 min"), (200, "3 min 20 s")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_weights_in_a_file_are_relative_to_it(cli: Cli, data: Path, tmp_path: Path) -> None:
    import torch

    from gfl_lab.detector.build import build_detector
    from gfl_lab.spec.files import load_profile, resolve_settings

    profile = load_profile(ROOT / "experiments" / "profiles" / "bccd.yaml")
    torch.save(build_detector(resolve_settings(profile.settings), 3).backbone.state_dict(), tmp_path / "w.pth")
    path = tmp_path / "exp.yaml"
    path.write_text("name: x\nprofile: bccd\naxes: {qfl: [true]}\noverrides: {init_weights: w.pth}\n")
    assert cli("plan", path, "--data", data)[0] == 0
    path.write_text("name: x\nprofile: bccd\naxes: {qfl: [true]}\noverrides: {init_weights: v.pth}\n")
    code, _, err = cli("plan", path, "--data", data)
    assert code == 2 and str(tmp_path / "v.pth") in err


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    import torch
    import torchvision

    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    code, out, err = cli("run", TABLE3, "--init-weights", file)  # desk is 24 channels wide
    assert code == 2 and "do not fit backbone r18" in err and "base_channels 24" in err and out == ""
    assert not (tmp_path / "runs" / "trials").exists() and not (tmp_path / "runs" / "experiments").exists()
    # a file for one backbone alone does not touch the others
    code, out, err = cli("plan", TABLE3, "--init-weights", f"r50={file}")
    assert code == 0 and "warning" not in err
    code, out, err = cli("plan", TABLE3, "--init-weights", file, "--init-weights", "random")
    assert code == 2 and "given twice" in err


@pytest.mark.parametrize(
    ("command", "former", "name", "wrong"),
    [
        (("plan", TABLE3), "--weights", "--init-weights", "missing.pth"),
        (("predict", "image.png", "image.png"), "--score", "--score-thr", "2"),
        (("predict", "image.png", "image.png"), "--most", "--max-boxes", "0"),
        (("table", TABLE3), "--difference", "--min-effect", "0"),
        (("sync",), "--to", "--tracking-uri", "ftp://nowhere"),
    ],
)
def test_a_renamed_option_works_under_its_former_name_with_a_warning(
    cli: Cli, command: tuple[object, ...], former: str, name: str, wrong: str
) -> None:
    expected = cli(*command, name, wrong)
    code, out, err = cli(*command, former, wrong)
    warning = f"warning: {former} is now {name}\n"
    assert code == expected[0] != 0 and out == expected[1], err
    assert err.replace(warning, "").replace(f"'{former}'", f"'{name}'") == expected[2] and "warning" not in expected[2]
    code, out, err = cli(*command, former, wrong, name, wrong)
    assert code == 2 and out == "" and ("give only" in err or "Invalid value" in err), err
    assert f"{former} " not in cli(command[0], "--help")[1]


def test_a_former_option_gives_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command
    @renamed_option("--most", "--max-boxes", "most", type=int, default=10)
    def show(most: int) -> None:
        click.echo(most)

    def shown(*arguments: str) -> tuple[str, str]:
        show.main(arguments, standalone_mode=False)
        return tuple(capsys.readouterr())

    assert shown() == ("10\n", "") and shown("--max-boxes", "3") == ("3\n", "")
    assert shown("--most", "3") == ("3\n", "warning: --most is now --max-boxes\n")
    with pytest.raises(click.UsageError, match="give only --max-boxes"):
        shown("--most", "3", "--max-boxes", "3")


def test_plan_warns_of_weights_that_nobody_publishes(cli: Cli, tmp_path: Path) -> None:
    experiment = tmp_path / "vd.yaml"
    experiment.write_text("name: vd\nprofile: desk\noverrides: {init_weights: pretrained}\naxes: {backbone: [r18, r18vd]}\n")
    code, _, err = cli("plan", experiment)
    assert code == 0 and "backbone r18vd" in err and "--init-weights r18vd=FILE" in err and "backbone r18 " not in err


def test_a_command_whose_ray_is_gone_ends_without_a_teardown_that_would_wait_for_it(tmp_path: Path) -> None:
    code = (
        "import atexit, threading\nfrom gfl_lab.cli import main\nfrom gfl_lab.errors import RayGone\n"
        "def gone(**named): raise RayGone('it does not answer')\n"
        "atexit.register(threading.Event().wait)\nmain.cli.main = gone\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 6 and done.stderr == "error: it does not answer\n"
