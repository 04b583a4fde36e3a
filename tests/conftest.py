"""Tests marked `exhaustive` try once more, with other values, what another test tries; they run with --exhaustive.

Files with many slow tests come first: with several processes, the files that are left at the end are short.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from logging import StreamHandler
from pathlib import Path

import pytest
from hypothesis import settings

from gfl_lab.naming import LAST_CHECKPOINT, MLFLOW_DB
from gfl_lab.rundir import RunTree, TrialDir
from tests.support.sharing import filled_folder, shared_folder

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
"""Processes of trials import nothing from the current folder; fake trials are modules of the tests."""

# Of torch and of OpenBLAS, in all processes that tests start and that choose no number themselves, as a trial does. Several processes
# with two threads on two cores wait for each other: twelve layers of 32 channels took 12 s of processor time instead of 0.4.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests start hundreds of processes that import torch, Ray or MLflow: without its byte code each compiles them again, some seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# An example that takes long on a busy machine is no fault.
settings.register_profile("gfl-lab", deadline=None)
settings.load_profile("gfl-lab")

# Until the tests are collected: what they import stays, and each collection would look through it.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="also run the tests marked exhaustive")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--exhaustive"):
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(pytest.mark.skip(reason="runs with --exhaustive"))
    tests = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if _is_slow(item))
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path], item.path))


def _is_slow(item: pytest.Item) -> bool:
    if item.get_closest_marker("skip"):
        return False
    return bool(item.get_closest_marker("slow") or item.get_closest_marker("browser"))


def pytest_collection_finish() -> None:
    """Settle what the imported modules do in this process.

    - One thread for each process of the tests, of which there are as many as cores, or one more.
    - A trial's latency is measured over two images: over all of them it takes as long as the training. `test_evaluate.py` has the
      numbers that users get.
    - Garbage is collected again, and less often than by default.
    """
    gc.enable()
    gc.set_threshold(20_000, 50, 50)
    _take_threads_back()
    if latency := sys.modules.get("gfl_lab.inference.latency"):
        latency.WARMUP_IMAGES, latency.MEASURED_IMAGES = 0, 2


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """Leave what is there before a module out of garbage collections: mmengine collects at each data set, 0.7 s over all imports."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Take back the threads that a trial in this process leaves torch with.

    With two of them beside other busy processes, each waits for the other at every layer: the same small training of
    ``test_detector_build.py`` took 151 s of processor time after such a trial, and 5 s without.
    """
    _take_threads_back()
    yield
    _take_threads_back()


def _take_threads_back() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _log_to_an_open_file() -> Iterator[None]:
    """Give mmengine's last logger the lasting stdout: made in a test that captures it, it would write to a closed file in all later ones."""
    yield
    if logging := sys.modules.get("mmengine.logging"):
        for handler in logging.MMLogger.get_current_instance().handlers:
            if type(handler) is StreamHandler:
                handler.stream = sys.stdout  # setStream would flush the closed file


@pytest.fixture(autouse=True)
def _ready_database(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a new database of MLflow's in this process as a copy of ``mlflow_db``, once there is one: MLflow takes 3 s of CPU to make it.

    Files whose tests are about making one have a fixture of this name that does nothing.
    """
    database = sys.modules.get("gfl_lab.tracking.database")
    if database is None:
        return
    make_usable = database.make_usable

    def from_copy(path: Path, uri: str, artifacts: Path) -> None:
        made = filled_folder(tmp_path_factory, "mlflow")
        if made and not list(path.parent.glob(f"{path.name}*")):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made / MLFLOW_DB, path)
        make_usable(path, uri, artifacts)

    monkeypatch.setattr(database, "make_usable", from_copy)


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """List no installed package: each start of a page in a test looks through all of them for components of Streamlit, for 0.3 s."""
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: iter(()))


# --- made once in a test run; imports inside, so that tests of tables need no torch ---


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set of 16 training and 8 validation images; not to be written to."""

    from gfl_lab.data import ambiguous_shapes

    def fill(folder: Path) -> None:
        ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=16, val_images=8), folder)

    return next(shared_folder(tmp_path_factory, "shapes", fill).glob("*/dataset.json")).parent


def _trained(factory: pytest.TempPathFactory, tree: RunTree, shapes: Path, name: str, **settings: object) -> TrialDir:
    """Return a copy in ``tree`` of a trial that is trained once."""

    from tests.support.trials import train

    def fill(folder: Path) -> None:
        train(RunTree(folder), shapes, **settings)

    stored = shared_folder(factory, name, fill)
    (trial,) = RunTree(stored).trials()
    copied = tree.trial(trial.id)
    shutil.copytree(trial.path, copied.path)
    return copied


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> RunTree:
    """A run tree of the module."""
    return RunTree(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory, tree: RunTree, shapes: Path) -> TrialDir:
    """A finished trial with a general box, evaluated with the moving average of its weights."""
    return _trained(tmp_path_factory, tree, shapes, "general", ema_decay=0.5)


@pytest.fixture(scope="module")
def dirac(tmp_path_factory: pytest.TempPathFactory, tree: RunTree, shapes: Path) -> TrialDir:
    """A finished trial with a Dirac box."""
    return _trained(tmp_path_factory, tree, shapes, "dirac", dfl=False, epochs=1)


@pytest.fixture(scope="module")
def imported(general: TrialDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The general trial's weights as a detector from elsewhere: settings that are seen in the weights, classes without names."""
    from gfl_lab.checkpoints.import_checkpoint import import_checkpoint

    out = tmp_path_factory.mktemp("weights") / "imported.pth"
    import_checkpoint(general.file(LAST_CHECKPOINT), out)
    return out


@pytest.fixture(scope="session")
def mlflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database as a first run leaves it, which takes MLflow 3 s of CPU; to be copied into a run tree."""

    from gfl_lab.tracking.mirror import Mirror

    def fill(folder: Path) -> None:
        tree = RunTree(folder)
        Mirror(tree, tree.mlflow_uri).prepare()

    return shared_folder(tmp_path_factory, "mlflow", fill) / MLFLOW_DB
