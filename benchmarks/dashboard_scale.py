"""How fast the dashboard's pages are over a store of 10,000 trials with 500 MB of distributions, and MLflow's UI over the same runs.

    uv run python benchmarks/dashboard_scale.py                         prints a report; --write also puts it under benchmarks/results/
    uv run python benchmarks/dashboard_scale.py --experiments 3 --no-mlflow
    uv run python benchmarks/dashboard_scale.py --root /tmp/scale       the tree there, made up first if there is none, and kept

The run tree is made up (tests/support/fake_runs.py): experiments of 100 trials (4 variants, 25 seeds) with curves, results, evaluation
records and distributions. Pages are opened in Debian's chromium; a page counts as there when its heading and all its parts are drawn
and Streamlit says that it is done. The question put to both: the APs of one experiment's trials. MLflow's UI runs over the mirror of
the same tree in sqlite; its page counts as there when the experiment's run is in its list.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import quote

import psutil

from benchmarks.machine import header, publish
from gfl_lab import naming

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 25
COMPLETE = "complete"
PAGES = ("", "table", "curves", "boxes", "calibration", "trials")
ROUNDS = 5
DASHBOARD = [str(Path(sys.executable).with_name("gfl-lab")), "dashboard", "--port", "PORT"]


def build(root: str, number: int) -> None:
    """One experiment of 100 trials."""
    sys.path.insert(0, str(ROOT))
    from tests.support.fake_runs import write_fake_tree

    own = Path(root) / f"part-{number}"
    write_fake_tree(own, name=f"experiment_{number:03d}", seeds=range(SEEDS), epochs=8, train_images=8, val_images=85, rng_seed=number)
    for part in ("trials", "data"):
        for folder in (own / part).iterdir():
            folder.rename(Path(root) / part / folder.name)
    for folder in (own / "experiments").iterdir():
        folder.rename(Path(root) / "experiments" / folder.name)
    shutil.rmtree(own)


@contextlib.contextmanager
def served(command: list[str], environment: dict[str, str], health: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server on a free port of 127.0.0.1, which replaces PORT in the command; its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [part.replace("PORT", str(port)) for part in command],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(480):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address + health, timeout=5).close()
                break
            time.sleep(0.25)
        yield address, psutil.Process(process.pid)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.terminate()
        process.terminate()
        process.wait(30)


def browser():
    """Debian's chromium without a screen."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1200"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def until(driver, script: str, seconds: float = 120.0) -> float:
    """Seconds until a script in the page gives something true."""
    began = time.perf_counter()
    while not driver.execute_script(script):
        if time.perf_counter() - began > seconds:
            raise TimeoutError(f"{driver.current_url} is not drawn after {seconds:.0f} s")
        time.sleep(0.02)
    return time.perf_counter() - began


DRAWN = """
const app = document.querySelector('[data-testid=stApp]');
return document.querySelectorAll('.gfl h1').length > 0 && app && app.dataset.testScriptState === 'notRunning'
  && !document.querySelectorAll('[data-testid=stSkeleton], [data-stale=true]').length && location.href.includes(%r);
"""

ROWS = "the table's rows"
SEEN = {"table": {ROWS: "return document.querySelectorAll('.gfl tbody tr').length > 0"}}
"""The part that a reader waits for, on pages that go on drawing."""

Address = tuple[str, dict[str, str]]
"""A path to open, and scripts by what they say once they are true, in the order in which they become so."""


def opened(server: list[str], environment: dict[str, str], health: str, addresses: list[Address]) -> tuple[dict[str, list[float]], float]:
    """Seconds from asking for an address to each of its scripts, a new browser for each. The server's memory at the end, MiB."""
    found: dict[str, list[float]] = {}
    with served(server, environment, health) as (address, process):
        for path, scripts in addresses:
            driver = browser()
            driver.get("about:blank")
            began = time.perf_counter()
            driver.get(address + path)
            for name, script in scripts.items():
                until(driver, script)
                found.setdefault(name, []).append(time.perf_counter() - began)
            driver.quit()
        return found, process.memory_info().rss / 2**20


def experiment_of(turn: int, experiments: int) -> str:
    """Another experiment each turn."""
    return f"experiment_{(turn * 17) % experiments:03d}"


def dashboard(root: Path, experiments: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each page, the first time and later ones on other experiments; the server's memory at the end, MiB."""
    addresses: list[Address] = []
    for turn in range(ROUNDS + 1):
        query = "?experiment=" + quote(f"{experiment_of(turn, experiments)}/desk", safe="")
        pages = (*PAGES[1:], PAGES[0]) if turn == 0 else PAGES
        addresses += [(f"/{page}{query if page else ''}", SEEN.get(page, {}) | {page: DRAWN % f"/{page}"}) for page in pages]
    return opened(DASHBOARD, {"GFL_LAB_HOME": str(root)}, "/_stcore/health", addresses)


def changes(root: Path) -> list[float]:
    """Seconds from a click on the navigation to the next page, in one session."""
    found = []
    with served(DASHBOARD, {"GFL_LAB_HOME": str(root)}, "/_stcore/health") as (address, _):
        driver = browser()
        driver.get(f"{address}/table?experiment=experiment_000%2Fdesk")
        until(driver, DRAWN % "/table")
        for title, page in [
            ("Curves", "curves"),
            ("Boxes", "boxes"),
            ("Calibration", "calibration"),
            ("Trials", "trials"),
            ("Table", "table"),
        ] * 2:
            link = next(link for link in driver.find_elements("css selector", "[data-testid=stTopNavLink]") if title in link.text)
            began = time.perf_counter()
            link.click()
            until(driver, f"return location.pathname.includes({page!r})")
            until(driver, DRAWN % f"/{page}")
            found.append(time.perf_counter() - began)
        driver.quit()
    return found


def mlflow_ui(root: Path, experiments: int) -> tuple[float | None, list[float]]:
    """Seconds that the mirror took to fill, None where it was there; seconds until MLflow's page of an experiment lists its run."""
    from gfl_lab.rundir import RunTree
    from gfl_lab.tracking.database import ui_command
    from gfl_lab.tracking.mirror import Mirror

    tree = RunTree(root)
    there = (root / naming.MLFLOW_DB).exists()
    mirror = Mirror(tree, tree.mlflow_uri)
    mirror.prepare()
    began = time.perf_counter()
    for number in range(experiments):
        mirror.sync(f"experiment_{number:03d}", "desk")
    filled = None if there else time.perf_counter() - began
    import mlflow

    mlflow.set_tracking_uri(tree.mlflow_uri)
    ids = {experiment.name: experiment.experiment_id for experiment in mlflow.search_experiments(max_results=1000)}
    arguments, environment = ui_command(tree, 0)
    arguments = ["PORT" if part == "0" else part for part in arguments]
    addresses: list[Address] = []
    for turn in range(ROUNDS + 1):
        name = experiment_of(turn, experiments)
        script = f"return document.body.innerText.includes({f'{name} · desk'!r})"
        addresses.append((f"/#/experiments/{ids[name]}/runs?workflowType=machine_learning", {"runs": script}))
    found, _ = opened(arguments, dict(environment), "/health", addresses)
    return filled, found["runs"]


def told(seconds: list[float]) -> str:
    """The first, and the median of the rest."""
    return f"{seconds[0]:.2f} | {statistics.median(seconds[1:]):.2f} | {max(seconds[1:]):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=100, help="of 100 trials each")
    parser.add_argument("--no-mlflow", dest="mlflow", action="store_false", help="leave the peer out")
    parser.add_argument("--root", type=Path, help="keep the tree here, or take the one that is here")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gfl-dash-") as folder:
        root = (asked.root or Path(folder)).resolve()
        if not (root / COMPLETE).exists():
            if (root / "trials").exists():
                sys.exit(f"{root} holds a tree that is not whole: remove it, or give another --root")
            for part in ("trials", "data", "experiments"):
                (root / part).mkdir(parents=True)
            with ProcessPoolExecutor(2) as pool:
                list(pool.map(build, [str(root)] * asked.experiments, range(asked.experiments)))
            (root / COMPLETE).touch()
        experiments, trials = (len(list((root / part).iterdir())) for part in ("experiments", "trials"))
        size = sum(file.stat().st_size for file in root.glob(f"trials/*/{naming.DISTRIBUTIONS}"))
        print(f"{trials:,} trials, {size / 2**20:.0f} MiB of distributions", file=sys.stderr, flush=True)
        pages, memory = dashboard(root, experiments)
        print(pages, memory, file=sys.stderr, flush=True)
        clicks = changes(root)
        print(clicks, file=sys.stderr, flush=True)
        filled, theirs = mlflow_ui(root, experiments) if asked.mlflow else (0.0, [])
    names = {"": "overview", "calibration": "calibration", "table": "table, with its plots"}
    lines = [
        *header(
            "The dashboard over many trials", f"uv run python benchmarks/dashboard_scale.py --experiments {experiments}", ("streamlit", "mlflow")
        ),
        f"- {trials:,} trials in {experiments} experiments, {size / 2**20:.0f} MiB of distributions",
        f"- a page opened in a new browser, on another experiment each time; the server's memory at the end: {memory:.0f} MiB",
        "",
        "| page opened from its address | first, s | median of the others, s | slowest of them, s |",
        "| :-- | --: | --: | --: |",
        *(f"| {names.get(page, page)} | {told(pages[page])} |" for page in ("", ROWS, *PAGES[1:])),
        "",
        f"A click on the navigation, to the next page drawn: median {statistics.median(clicks):.2f} s, slowest {max(clicks):.2f} s.",
    ]  # fmt: skip
    if theirs:
        ratio = statistics.median(theirs[1:]) / statistics.median(pages[ROWS][1:])
        lines += [
            "",
            "| the same question to MLflow's UI | first, s | median of the others, s | slowest of them, s |",
            "| :-- | --: | --: | --: |",
            f"| runs of one experiment | {told(theirs)} |",
            "",
            f"Theirs over our table's rows: {ratio:.1f}." + (f" The mirror took {filled:.0f} s to fill." if filled else ""),
        ]
    report = "\n".join(lines) + "\n"
    publish("dashboard_scale", report, asked.write)


if __name__ == "__main__":
    main()
