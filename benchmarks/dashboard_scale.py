"""How fast the dashboard's pages are over a store of 10,000 trials with 500 MB of distributions, and MLflow's UI over the same runs.

    uv run python benchmarks/dashboard_scale.py                         prints a report; --write also puts it under benchmarks/results/
    uv run python benchmarks/dashboard_scale.py --experiments 3 --no-mlflow

The run tree is made up (tests/support/fake_runs.py): experiments of 100 trials (4 variants, 25 seeds) with curves, results, evaluation
records and distributions. Pages are opened in Debian's chromium; a page counts as there when its heading and all its parts are drawn
and Streamlit says that it is done. The question put to both: the APs of one experiment's trials. MLflow's UI runs over the mirror of
the same tree in sqlite; its page counts as there when the experiment's run is in its list.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
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

import psutil

from benchmarks.machine import header

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 25
PAGES = ("", "table", "curves", "boxes", "localisation", "trials")
ROUNDS = 5
STREAMLIT = [
    sys.executable,
    "-m",
    "streamlit",
    "run",
    str(ROOT / "dashboard" / "app.py"),
    "--server.port",
    "PORT",
    "--server.headless",
    "true",
]


def build(root: str, number: int) -> int:
    """One experiment of 100 trials; bytes of its distributions."""
    sys.path.insert(0, str(ROOT))
    from gfl_lab import naming
    from tests.support.fake_runs import write_fake_tree

    own = Path(root) / f"part-{number}"
    tree = write_fake_tree(
        own, name=f"experiment_{number:03d}", seeds=range(SEEDS), epochs=8, train_images=8, val_images=85, rng_seed=number
    )
    size = sum(trial.file(naming.DISTRIBUTIONS).stat().st_size for trial in tree.trials())
    for part in ("trials", "data"):
        for folder in (own / part).iterdir():
            folder.rename(Path(root) / part / folder.name)
    for folder in (own / "experiments").iterdir():
        folder.rename(Path(root) / "experiments" / folder.name)
    shutil.rmtree(own)
    return size


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
            return float("nan")
        time.sleep(0.02)
    return time.perf_counter() - began


DRAWN = """
const app = document.querySelector('[data-testid=stApp]');
return document.querySelectorAll('.gfl h1').length > 0 && app && app.dataset.testScriptState === 'notRunning'
  && !document.querySelectorAll('[data-testid=stSkeleton], [data-stale=true]').length && location.href.includes(%r);
"""


def dashboard(root: Path, experiments: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each page, the first time and later ones on other experiments; the server's memory at the end, MiB."""
    from urllib.parse import quote

    found: dict[str, list[float]] = {page: [] for page in PAGES}
    with served(STREAMLIT, {"GFL_LAB_HOME": str(root)}, "/_stcore/health") as (address, process):
        for turn in range(ROUNDS + 1):
            driver = browser()
            for page in (*PAGES[1:], PAGES[0]) if turn == 0 else PAGES:
                name = quote(f"experiment_{(turn * 17) % experiments:03d}/desk", safe="")
                driver.get("about:blank")
                began = time.perf_counter()
                driver.get(f"{address}/{page}" + (f"?experiment={name}" if page else ""))
                until(driver, DRAWN % f"/{page}")
                found[page].append(time.perf_counter() - began)
            driver.quit()
        return found, process.memory_info().rss / 2**20


def changes(root: Path) -> list[float]:
    """Seconds from a click on the navigation to the next page, in one session."""
    found = []
    with served(STREAMLIT, {"GFL_LAB_HOME": str(root)}, "/_stcore/health") as (address, _):
        driver = browser()
        driver.get(f"{address}/table?experiment=experiment_000%2Fdesk")
        until(driver, DRAWN % "/table")
        for title, page in [
            ("Curves", "curves"),
            ("Boxes", "boxes"),
            ("Scores", "localisation"),
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


def mlflow_ui(root: Path, experiments: int) -> tuple[float, list[float]]:
    """Seconds that the mirror took to fill; seconds until MLflow's page of an experiment lists its run."""
    from gfl_lab.rundir import RunTree
    from gfl_lab.tracking.database import ui_command
    from gfl_lab.tracking.mirror import Mirror

    tree = RunTree(root)
    mirror = Mirror(tree, tree.mlflow_uri)
    mirror.prepare()
    began = time.perf_counter()
    for number in range(experiments):
        mirror.sync(f"experiment_{number:03d}", "desk")
    filled = time.perf_counter() - began
    import mlflow

    mlflow.set_tracking_uri(tree.mlflow_uri)
    ids = {experiment.name: experiment.experiment_id for experiment in mlflow.search_experiments(max_results=1000)}
    arguments, environment = ui_command(tree, 0)
    arguments = ["PORT" if part == "0" else part for part in arguments]
    found = []
    with served(arguments, dict(environment), "/health") as (address, _):
        for turn in range(ROUNDS + 1):
            name = f"experiment_{(turn * 17) % experiments:03d}"
            driver = browser()
            driver.get("about:blank")
            began = time.perf_counter()
            driver.get(f"{address}/#/experiments/{ids[name]}/runs")
            until(driver, f"return document.body.innerText.includes({f'{name} · desk'!r})")
            found.append(time.perf_counter() - began)
            driver.quit()
    return filled, found


def told(seconds: list[float]) -> str:
    """The first, and the median of the rest."""
    return f"{seconds[0]:.2f} | {statistics.median(seconds[1:]):.2f} | {max(seconds[1:]):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=100, help="of 100 trials each")
    parser.add_argument("--no-mlflow", dest="mlflow", action="store_false", help="leave the peer out")
    parser.add_argument("--write", action="store_true", help="write the report under benchmarks/results/")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gfl-dash-") as folder:
        root = Path(folder)
        for part in ("trials", "data", "experiments"):
            (root / part).mkdir()
        with ProcessPoolExecutor(2) as pool:
            size = sum(pool.map(build, [folder] * asked.experiments, range(asked.experiments)))
        print(f"{asked.experiments * 4 * SEEDS:,} trials, {size / 2**20:.0f} MiB of distributions", file=sys.stderr, flush=True)
        pages, memory = dashboard(root, asked.experiments)
        print(pages, memory, file=sys.stderr, flush=True)
        clicks = changes(root)
        print(clicks, file=sys.stderr, flush=True)
        filled, theirs = mlflow_ui(root, asked.experiments) if asked.mlflow else (0.0, [])
    names = {"": "overview", "localisation": "scores"}
    lines = [
        *header(
            "The dashboard over many trials", f"uv run python benchmarks/dashboard_scale.py --experiments {asked.experiments}", ("streamlit", "mlflow")
        ),
        f"- {asked.experiments * 4 * SEEDS:,} trials in {asked.experiments} experiments, {size / 2**20:.0f} MiB of distributions",
        f"- a page opened in a new browser, on another experiment each time; the server's memory at the end: {memory:.0f} MiB",
        "",
        "| page opened from its address | first, s | median of the others, s | slowest of them, s |",
        "| :-- | --: | --: | --: |",
        *(f"| {names.get(page, page)} | {told(pages[page])} |" for page in PAGES),
        "",
        f"A click on the navigation, to the next page drawn: median {statistics.median(clicks):.2f} s, slowest {max(clicks):.2f} s.",
    ]  # fmt: skip
    if theirs:
        ratio = statistics.median(theirs[1:]) / statistics.median(pages["table"][1:])
        lines += [
            "",
            "| the same question to MLflow's UI | first, s | median of the others, s | slowest of them, s |",
            "| :-- | --: | --: | --: |",
            f"| runs of one experiment | {told(theirs)} |",
            "",
            f"Theirs over our table page: {ratio:.1f}. The mirror took {filled:.0f} s to fill.",
        ]
    report = "\n".join(lines) + "\n"
    print(report)
    if asked.write:
        (ROOT / "benchmarks" / "results" / f"dashboard_scale_{datetime.date.today().isoformat()}.md").write_text(report)


if __name__ == "__main__":
    main()
