"""Refusals before anything is written: every number on the command line, and what a command alone shows to be wrong."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gfl_lab.cli.main import _COMMANDS
from gfl_lab.cli.main import cli as main_command
from gfl_lab.cli.numbers import Number, Whole
from gfl_lab.orchestrate import resources
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree

ROOT = Path(__file__).parents[1]
TABLE3 = ROOT / "experiments" / "table3_qfl_dfl.yaml"
SEARCH = ROOT / "experiments" / "search_desk.yaml"


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for key, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(f"{name} {key}", inner)


COMMANDS = [
    found for name in _COMMANDS for found in commands(name, importlib.import_module(f"gfl_lab.cli.{name.replace('-', '_')}").command)
]
NUMBERS = [
    (name, command, option)
    for name, command in COMMANDS
    for option in command.params
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
]
IDS = [f"{name} {option.opts[0]}" for name, _, option in NUMBERS]


def test_every_command_is_looked_at_and_the_numbers_are_found() -> None:
    assert set(_COMMANDS) == set(main_command.list_commands(None)) and len(NUMBERS) > 12
    assert {"run --gpus", "data check --bin-width", "table --min-effect", "predict --score-thr"} <= set(IDS)


@pytest.mark.parametrize(("name", "command", "option"), NUMBERS, ids=IDS)
def test_a_number_is_finite_and_in_its_range(name: str, command: click.Command, option: click.Parameter) -> None:
    assert isinstance(option.type, Number | Whole), "gfl_lab.cli.numbers has the types that refuse nan and inf"
    assert option.type.min is not None and option.type.max is not None or option.type.min is not None
    context = click.Context(command)

    def given(text: object) -> object:
        return (text,) if option.multiple else text

    for text in ("nan", "NaN", "inf", "-inf", "infinity", "1e400", "-1", "-1e-9", "", " ", "1_0", "0x10", "ten", "1,5", "9" * 5000, "٣"):
        if text == "-1e-9" and isinstance(option.type, Number) and not (option.type.min == 0):
            continue
        with pytest.raises(click.BadParameter) as caught:
            option.type_cast_value(context, given(text))
        message = caught.value.format_message()
        assert option.opts[0] in message and "it must be a" in message, message
    low = option.type.min + (0.5 if getattr(option.type, "min_open", False) else 0)
    assert option.type_cast_value(context, given(f"{low}")) == given(low)
    if option.type.max is not None:
        with pytest.raises(click.BadParameter):
            option.type_cast_value(context, given(f"{option.type.max + 1}"))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(resources, "_gpus", lambda: ())
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return runner(monkeypatch, capsys)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


RUN_OPTIONS = [
    (["--address", "nowhere"], 2, "HOST:PORT"),
    (["--address", "host:99999"], 2, "HOST:PORT"),
    (["--address", ""], 2, "HOST:PORT"),
    (["--address", "127.0.0.1:6379"], 2, "no token"),
    (["--address", "auto"], 2, "no token"),
    (["--address", "127.0.0.1:6379", "--executor", "inline"], 2, "--executor"),
    (["--gpus", "nan"], 2, "--gpus"),
    (["--gpus", "1.5"], 6, "--gpus"),
    (["--cpus", "0"], 2, "--cpus"),
    (["--budget", "nanh"], 2, "nanh"),
    (["--budget", "infh"], 2, "infh"),
    (["--budget", "1e400h"], 2, "1e400h"),
    (["--budget", "-1h"], 2, "-1h"),
    (["--budget", "0h"], 2, "0h"),
    (["--budget", "1" * 400 + "h"], 2, "--budget"),
    (["--budget", "4gpuh"], 2, "no GPU"),
    (["--seeds", "²"], 2, "0..4"),
    (["--seeds", "9" * 5000], 2, "0..4"),
    (["--seeds", "0..2000000000"], 2, "seeds"),
    (["--seeds", "-1"], 2, "0..4"),
    (["--seeds", "nan"], 2, "0..4"),
    (["--max-trials", "2"], 2, "4 trials"),
    (["--data", "missing"], 2, "missing"),
    (["--init-weights", "missing.pth"], 2, "missing.pth"),
    (["--init-weights", "text.yaml"], 2, "text.yaml"),
    (["--storage", "s3://bucket/x"], 2, "--address"),
    (["--profile", "nan"], 2, "profile"),
]


@pytest.mark.parametrize(("options", "code", "words"), RUN_OPTIONS, ids=[" ".join(options)[:40] for options, _, _ in RUN_OPTIONS])
def test_a_run_that_is_refused_leaves_everything_as_it_was(cli: Cli, tmp_path: Path, options: list[str], code: int, words: str) -> None:
    (tmp_path / "text.yaml").write_text("a: 1\n")
    before = listing(tmp_path)
    found, out, err = cli("run", TABLE3, *options)
    assert (found, out) == (code, "") and words in err, err
    assert "internal error" not in err and listing(tmp_path) == before


def test_a_cluster_that_does_not_answer_is_told_before_anything_is_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for file in (TABLE3, SEARCH):
        code, out, err = cli("run", file, "--address", f"127.0.0.1:{port}")
        assert code == 6 and out == "" and f"no Ray cluster answers at 127.0.0.1:{port}" in err
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    code, _, err = cli("run", TABLE3, "--address", f"127.0.0.1:{port}")
    assert code == 2 and "RAY_AUTH_TOKEN_PATH" in err and listing(tmp_path) == {}


@pytest.mark.parametrize(
    "text",
    ["score_thr=nan", "score_thr=.nan", "score_thr=.inf", "nms_iou=1e400", "max_dets=010", "max_dets=1_0", "nms_iou=0:30", "score_thr=on"],
)
def test_test_settings_take_finite_numbers(cli: Cli, tmp_path: Path, text: str) -> None:
    write_fake_tree(tmp_path / "runs")
    before = listing(tmp_path)
    trial = next((tmp_path / "runs" / "trials").iterdir()).name
    code, out, err = cli("evaluate", trial, "--set", text)
    assert code == 2 and out == "" and "internal error" not in err and text.split("=")[0] in err
    assert listing(tmp_path) == before


def test_outputs_that_cannot_be_written_are_refused_first(cli: Cli, tmp_path: Path) -> None:
    write_fake_tree(tmp_path / "runs")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    (tmp_path / "text.png").write_text("no image")
    folder = next((tmp_path / "runs" / "trials").iterdir())
    trial, manifest = folder.name, json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"paths": {"train_annotations": str(tmp_path / "gone.json")}}))
    before = listing(tmp_path)
    for arguments in (
        ["reproduce", trial, "--keep", "file/deeper"],
        ["reproduce", trial, "--keep", "folder"],
        ["reproduce", trial, "--keep", "new"],  # its data are not there
        ["import-checkpoint", "weights.pth", "--out", "folder"],
        ["import-checkpoint", "weights.pth", "--out", "file/deeper.pth"],
        ["import-checkpoint", "weights.pth"],
        ["import-checkpoint", "missing.pth"],
        ["predict", trial, "text.png", "--out", "file"],
        ["predict", trial, "text.png", "--out", "new"],
        ["predict", trial, "missing.png", "--out", "new"],
        ["predict", "weights.pth", "text.png", "--out", "new"],
        ["evaluate", "weights.pth", "--data", "missing"],
        ["evaluate", "weights.pth"],
        ["data", "generate", "file/deeper"],
        ["data", "check", "missing"],
        ["confirm", SEARCH, "--gpus", "nan"],
        ["plan", TABLE3, "--seeds", "²"],
        ["table", TABLE3, "--min-effect", "nan"],
        ["data", "check", "--profile", "desk", "--bin-width", "nan"],
    ):
        code, out, err = cli(*arguments)
        assert code == 2, (arguments, code, err)
        assert "internal error" not in err and (arguments[0] == "data" or out == ""), arguments
        assert listing(tmp_path) == before, arguments


def test_confirming_with_a_wrong_option_writes_no_file(cli: Cli, tmp_path: Path) -> None:
    from tests.support.fake_search_tree import write_fake_search

    write_fake_search(tmp_path / "runs")
    before = listing(tmp_path)
    for options in (["--gpus", "nan"], ["--budget", "x"], ["--unknown"], ["--data", "missing"], ["--address", "x"], ["--seeds", "x"]):
        code, out, err = cli("confirm", SEARCH, *options)
        assert code == 2 and out == "" and "internal error" not in err, (options, err)
        assert listing(tmp_path) == before, options


def test_many_trials_are_counted_and_not_expanded(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a variant was resolved")

    file = tmp_path / "big.yaml"
    axes = {
        "reg_max": range(1, 129),
        "atss_topk": range(1, 101),
        "max_dets": range(1, 1000),
        "nms_pre": range(1, 1000),
        "epochs": range(1, 1000),
    }
    shutil.copytree(ROOT / "experiments" / "profiles", tmp_path / "profiles")
    file.write_text("name: big\nprofile: desk\naxes:\n" + "".join(f"  {key}: {list(values)}\n" for key, values in axes.items()))
    monkeypatch.setattr("gfl_lab.plan.plan.resolve_settings", never)
    for name in ("plan", "run"):
        code, out, err = cli(name, file)
        assert code == 2 and out == "" and "12,761,638,387,200 trials (128 reg_max x 100 atss_topk x 999 max_dets" in err, err
        assert "at most 10,000" in err and "--max-trials" in err
    assert not (tmp_path / "runs").exists()
