"""Rules of imports: the contracts of pyproject.toml, and the modules loaded in a fresh interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_runs import write_fake_tree

ROOT = Path(__file__).resolve().parents[1]
DETECTION = {"torch", "torchvision", "mmdet", "mmengine", "mmcv"}
SERVICES = {"ray", "mlflow", "streamlit"}


def loaded(*modules: str, code: str = "") -> set[str]:
    """Top-level names in ``sys.modules`` after a fresh interpreter has imported ``modules`` and run ``code``."""
    program = f"import importlib, json, sys\nfor name in {modules!r}: importlib.import_module(name)\n{code}\n"
    program += "sys.__stdout__.write('\\n@' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    # A pytest plugin's start-up hook in a child would load modules that ours do not.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "PYTEST_"))}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("@")[2]))


def below(*packages: str) -> list[str]:
    """The packages and every module in them, by their files."""
    found = []
    for package in packages:
        path = ROOT / package.replace(".", "/")
        files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))
        assert files, package
        for file in files:
            parts = file.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def test_the_helper_sees_what_is_loaded() -> None:
    assert {"json", "gfl_lab"} <= loaded("gfl_lab") and "wave" not in loaded("gfl_lab") and "wave" in loaded("gfl_lab", "wave")


def test_the_import_contracts_hold() -> None:
    code = "from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kept, 0 broken" in done.stdout


def test_a_broken_contract_would_be_seen(tmp_path: Path) -> None:
    """The same contracts over a copy in which a lower layer imports an upper one."""
    import shutil

    for package in ("gfl_lab", "dashboard"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "gfl_lab" / "spec" / "source.py").open("a") as file:
        file.write("\nimport gfl_lab.plan.plan\nimport torch\n")
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "3 kept, 3 broken" in done.stdout, done.stdout + done.stderr


def test_help_loads_nothing_that_takes_time() -> None:
    code = "from gfl_lab.cli.main import main\nsys.argv = ['gfl-lab', '--help']\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    names = loaded(code=code)
    assert "click" in names and "gfl_lab" in names
    assert not names & (DETECTION | SERVICES | {"pydantic", "pandas", "numpy", "yaml", "rich", "scipy", "pyarrow", "plotly"})


@pytest.fixture(scope="module")
def light_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run tree with a finished experiment and the data set of profile smoke."""
    root = tmp_path_factory.mktemp("light")
    write_fake_tree(root, seeds=(0,), epochs=1, train_images=2, val_images=2)
    return root


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (["status"], {"scipy", "PIL", "rich", "optuna"}),  # without an interval
        (["table", "table3_qfl_dfl"], {"PIL", "optuna"}),
        (["plan", "table3_qfl_dfl", "--profile", "smoke"], {"scipy", "rich", "optuna"}),
    ],
)
def test_light_commands_load_nothing_that_they_do_not_need(command: list[str], heavy: set[str], light_tree: Path) -> None:
    code = (
        f"import os; os.environ['GFL_LAB_HOME'] = {str(light_tree)!r}\n"
        f"from gfl_lab.cli.main import main\nsys.argv = ['gfl-lab', *{command!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    names = loaded(code=code)
    assert "gfl_lab" in names and not names & (DETECTION | SERVICES | {"pandas", "pyarrow", "plotly", "cv2"} | heavy)


def test_the_command_line_loads_the_heavy_parts_only_when_a_command_needs_them() -> None:
    """Importing every command's module, as ``gfl-lab COMMAND --help`` does with its own."""
    from gfl_lab.cli.main import _COMMANDS

    assert not loaded(*(f"gfl_lab.cli.{name.replace('-', '_')}" for name in _COMMANDS)) & (
        DETECTION | SERVICES | {"pydantic", "pandas", "scipy", "pyarrow"}
    )


def test_planning_and_scheduling_and_mirroring_load_no_torch_and_no_service() -> None:
    modules = below(
        "gfl_lab.errors", "gfl_lab.naming", "gfl_lab.rundir", "gfl_lab.spec", "gfl_lab.plan", "gfl_lab.orchestrate", "gfl_lab.tracking"
    )
    modules.remove("gfl_lab.orchestrate.tune_parts")  # subclasses of Ray's, imported when Ray is there
    assert not loaded(*modules) & (DETECTION | SERVICES | {"pandas", "cv2"})


PRIVATE = {"ray._private", "_global_node", "run_metadata", "_engine_map", "_upgrade_db", "_get_alembic_config", "_get_latest_schema"}
"""Private names of Ray and MLflow that gfl-lab once replaced or read."""


def test_no_private_name_of_ray_or_mlflow_is_used() -> None:
    used = {
        f"{file.relative_to(ROOT)}: {name}"
        for folder in ("gfl_lab", "dashboard", "deploy", "benchmarks")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in PRIVATE
        if name in file.read_text(encoding="utf-8")
    }
    assert used == {"deploy/topology.py: ray._private"}, "its reason stands beside it"
    attribute = re.compile(r"\b(?:ray|tune|mlflow)(?:\.[a-z]\w*)*\._(?!_)\w+")
    found = {file.name: attribute.findall(file.read_text(encoding="utf-8")) for file in (ROOT / "gfl_lab").rglob("*.py")}
    assert not {name: names for name, names in found.items() if names}


OUTERMOST = {
    "gfl_lab/session/run_tree.py",  # default_tree, for commands and gfl_lab.open
    "gfl_lab/session/lab.py",
    "gfl_lab/results/store.py",  # open_store: the public reader, also the dashboard's
    "gfl_lab/orchestrate/tune_parts.py",  # a node of a cluster, whose home is its own
    "gfl_lab/rundir.py",  # where home is defined
}
"""Modules that may ask for the default run tree, beside those of ``gfl_lab/cli``."""


def test_the_run_tree_is_chosen_in_the_outermost_place_alone() -> None:
    """Everything else works on the tree that it is given: not every caller's tree is the one of GFL_LAB_HOME."""
    asks = re.compile(r"\b(?:default_tree|home|store_root|open_store)\(\)|GFL_LAB_HOME\"\]|RunTree\.default")
    found = {
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "gfl_lab").rglob("*.py"))
        if any(asks.search(line) for line in file.read_text(encoding="utf-8").splitlines() if "Path.home()" not in line)
    }
    assert {name for name in found if not name.startswith("gfl_lab/cli/")} <= OUTERMOST


def test_reading_and_reporting_and_checking_data_load_no_torch_and_no_service() -> None:
    names = loaded(*below("gfl_lab.metrics", "gfl_lab.results", "gfl_lab.report", "gfl_lab.data"), "gfl_lab.session.claim")
    assert "pandas" in names
    assert not names & (DETECTION | SERVICES)


@pytest.mark.slow
def test_the_dashboard_loads_no_torch_ray_or_mlflow() -> None:
    """Its modules; app.py and the views are scripts that draw when loaded, test_dashboard_pages.py asks the same of them."""
    modules = [name for name in below("dashboard") if name != "dashboard.app" and not name.startswith("dashboard.views.")]
    assert len(modules) >= 6
    names = loaded(*modules)
    assert "streamlit" in names
    assert not names & (DETECTION | {"ray", "mlflow"})


def test_only_records_know_the_keys_of_run_files() -> None:
    """Files of the run tree are parsed in ``gfl_lab/records`` alone: no other module takes them apart by key."""
    keys = r"""(?<![\w.])(?:result|manifest|plan|lease|spec|lock|locked|ledger)\[["']|\.get\(["'](?:spec|paths)["']|\[["'](?:spec|variants|trials|paths)["']\]|\bline\[["'](?:kind|step|epoch|time|metrics)["']"""
    own_format = {
        "gfl_lab/data/coco.py", "gfl_lab/data/ambiguous_shapes.py",  # dataset.json of a generated data set
        "gfl_lab/spec/search.py",  # a default of a field
        "gfl_lab/session/unassigned.py",  # a group of unassigned boxes
        "gfl_lab/spec/schema.py",  # properties of a JSON schema
        "gfl_lab/spec/renames.py",  # old names in files of the run tree, called by their readers
    }  # fmt: skip
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("gfl_lab", "dashboard")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "gfl_lab/records/" not in str(path) and str(path.relative_to(ROOT)) not in own_format
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(keys, line)
    ]
    assert not found, "\n".join(found)


def test_only_records_read_run_files_as_json() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "gfl_lab").rglob("*.py"))
        if re.search(r"\b(read_json|read_json_or_none|write_record)\b", path.read_text())
    ]
    assert not [name for name in found if not name.startswith("gfl_lab/records/")]
