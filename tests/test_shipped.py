"""gfl-lab's own files: where they are looked for, `gfl-lab init`, and what happens if they are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gfl_lab import shipped
from gfl_lab.cli import init as cli_init
from gfl_lab.errors import InputError, ResourceError
from gfl_lab.maintenance import installation
from gfl_lab.session.inputs import read_files
from tests.support.cli import Cli, runner

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped files that gfl-lab takes for its own, to break."""
    copy = tmp_path / "installed"
    for name in ("experiments", "dashboard"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(shipped, "root", lambda: copy)
    return copy


# --- where to look --------------------------------------------------------------------------------


def test_a_checkout_has_them_at_its_top() -> None:
    assert shipped.root() == ROOT and shipped.experiments() == EXPERIMENTS and shipped.dashboard() == ROOT / "dashboard"
    assert shipped.pins() == ROOT / "requirements.txt" and shipped.damaged() == []


def test_beside_the_file_then_the_current_folder_then_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.experiment_folders() == [tmp_path / "experiments", EXPERIMENTS]
    (tmp_path / "published").mkdir()
    assert shipped.experiment_folders() == [tmp_path, tmp_path / "experiments", EXPERIMENTS]
    beside = tmp_path / "lab"
    here = [tmp_path / name for name in ("profiles", "experiments/profiles")]
    assert shipped.profile_folders(beside) == [beside / "profiles", *here, EXPERIMENTS / "profiles"]
    assert shipped.published_folders()[-1] == EXPERIMENTS / "published"
    monkeypatch.chdir(ROOT)
    assert shipped.experiment_folders() == [EXPERIMENTS], "each folder once"


@pytest.mark.parametrize("folder", ["examples", "examples/of mine"])
def test_an_experiment_below_a_folder_of_init_uses_the_profiles_of_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    lab = tmp_path / "lab"
    shutil.copytree(EXPERIMENTS, lab, ignore=shutil.ignore_patterns("__pycache__"))
    (lab / folder).mkdir(exist_ok=True)
    edited = lab / "profiles" / "smoke.yaml"
    edited.write_text(edited.read_text().replace("epochs: 1", "epochs: 3"))
    (lab / "profiles" / "mine.yaml").write_text(edited.read_text().replace("name: smoke", "name: mine"))
    own = lab / folder / "own.yaml"
    own.write_text("name: own\nprofile: mine\naxes: {dfl: [false, true]}\n")
    assert read_files(own).profile.settings["epochs"] == read_files(own, "smoke").profile.settings["epochs"] == 3
    assert shipped.published_folders(lab / folder)[1] == lab / "published"


def test_an_experiment_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find_experiment(Path("table3_qfl_dfl")) == EXPERIMENTS / "table3_qfl_dfl.yaml"
    (tmp_path / "table3_qfl_dfl.yaml").write_text("name: own\n")
    assert shipped.find_experiment(Path("table3_qfl_dfl")) == tmp_path / "table3_qfl_dfl.yaml"
    for path in (Path("mine.yaml"), Path("lab/mine"), tmp_path / "x.yaml"):
        assert shipped.find_experiment(path) == path, "a path is taken as it is, also where nothing is"
    with pytest.raises(InputError, match="Did you mean 'table2a_box'"):
        shipped.find_experiment(Path("table2a_bx"))
    with pytest.raises(InputError, match="write table2a_box, or copy all of them"):
        shipped.find_experiment(Path("experiments/table2a_box.yaml"))


def test_commands_take_a_name(cli: Cli) -> None:
    code, _, err = cli("run", "table3_qfl_dfk")
    assert code == 2 and "Did you mean 'table3_qfl_dfl'" in err
    code, out, err = cli("plan", "table3_qfl_dfl", "--profile", "smoke", "--json")
    assert code == 0 and len(json.loads(out)["rows"]) == 4, err


# --- gfl-lab init ---------------------------------------------------------------------------------


def test_init_copies_every_file_for_editing(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("init", "a/lab")
    lab = tmp_path / "a" / "lab"
    assert code == 0 and out == "a/lab\n" and "next:  gfl-lab run a/lab/table3_qfl_dfl.yaml" in err
    names = cli_init.shipped_files(EXPERIMENTS)
    assert {path.relative_to(lab) for path in lab.rglob("*") if path.is_file()} == set(names)
    assert all((lab / name).read_bytes() == (EXPERIMENTS / name).read_bytes() for name in names)
    assert {"profiles/desk.yaml", "published/gfl_t3_qfl_dfl.yaml", "examples/own_components.py"} <= {str(name) for name in names}
    assert list((tmp_path / "a").iterdir()) == [lab] and all(path.stat().st_mode & 0o200 for path in lab.rglob("*"))
    code, out, err = cli("plan", str(lab / "table3_qfl_dfl.yaml"), "--profile", "smoke", "--json")
    assert code == 0 and json.loads(out)["rows"], err


def test_init_overwrites_nothing_and_names_all_that_is_in_its_way(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "desk.yaml").write_text("mine")
    (tmp_path / "published").write_text("a file where a folder goes")
    (tmp_path / "box_losses.yaml").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cli("init", ".")
    assert code == 2 and out == "" and "error" in err
    assert all(name in err for name in ("box_losses.yaml", "profiles/desk.yaml", "published/gfl_t3_qfl_dfl.yaml"))
    assert "profiles/smoke.yaml" not in err and sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "profiles" / "desk.yaml").read_text() == "mine"


def test_init_into_a_folder_with_other_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.yaml").write_text("mine")
    assert cli("init", ".")[0] == 0
    assert (tmp_path / "profiles" / "mine.yaml").read_text() == "mine" and (tmp_path / "profiles" / "desk.yaml").exists()


def test_init_refuses_what_is_no_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in ("file", "file/below"):
        code, _, err = cli("init", target)
        assert code == 2 and f"{tmp_path / 'file'} is not a folder" in err


def test_init_leaves_nothing_when_a_copy_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = cli_init.shipped_files(EXPERIMENTS)
    rename, done = Path.rename, []

    def full(path: Path, target: Path) -> Path:
        if len(done) == 40:
            raise OSError(28, "No space left on device")
        done.append(target)
        return rename(path, target)

    (tmp_path / "kept").write_text("x")
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        cli_init.copy_new(EXPERIMENTS, names, tmp_path / "lab")
    with pytest.raises(OSError, match="No space"):
        cli_init.copy_new(EXPERIMENTS, names, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


# --- former names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("former", "name"), [("models", "published"), ("ui", "mlflow")])
def test_a_former_name_works_with_one_warning(cli: Cli, former: str, name: str) -> None:
    code, out, err = cli(former, "--help")
    assert code == 0 and f"Usage: gfl-lab {name}" in out and err == f"warning: `gfl-lab {former}` is now `gfl-lab {name}`\n"
    assert cli(name, "--help") == (0, out, "")
    assert f"\n  {former} " not in cli("--help")[1] and f"\n  {name} " in cli("--help")[1]


# --- missing files --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["experiments", "experiments/profiles", "experiments/published"])
def test_no_command_takes_missing_files_for_none(cli: Cli, broken: Path, part: str) -> None:
    shutil.rmtree(broken / part)
    for command in (["published"], ["published", "--json"], ["init", "lab"], ["plan", str(EXPERIMENTS / "table3_qfl_dfl.yaml")]):
        code, out, err = cli(*command)
        assert code == 6 and out == "" and "gfl-lab's own files are missing" in err and "install it again" in err, command
    with pytest.raises(ResourceError, match="own files are missing"):
        list(installation.shipped_files())


def test_doctor_names_what_is_incomplete(broken: Path) -> None:
    (broken / "experiments" / "profiles" / "bccd.yaml").unlink()
    (broken / "experiments" / "published" / "gfl_t1c_qfl_beta.yaml").unlink()
    (broken / "experiments" / "published" / "gfl_t3_qfl_dfl.yaml").write_text("id: gfl_t3_qfl_dfl\n")
    (broken / "experiments" / "box_losses.yaml").write_text("name: box_losses\nprofile: bccd\naxes: {dfl: [false, true]}\n")
    found = list(installation.shipped_files())
    assert not any(ok for ok, _ in found)
    told = " ".join(message for _, message in found)
    assert all(name in told for name in ("'bccd'", "'gfl_t1c_qfl_beta'", "gfl_t3_qfl_dfl.yaml"))
    assert len(found) < 10


def test_the_dashboard_says_that_it_is_missing(cli: Cli, broken: Path) -> None:
    shutil.rmtree(broken / "dashboard")
    code, _, err = cli("dashboard")
    assert code == 6 and "app.py" in err
