"""The documents as a site: it builds without a warning and without a network, and holds every page."""

from __future__ import annotations

import html
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from docs import reference
from gfl_lab.metrics import box_modes, error_types
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.accumulation import Accumulation, write_accumulation
from gfl_lab.records.cost import Measured, Spent, write_measured, write_spent
from gfl_lab.records.evaluation import write_evaluation
from gfl_lab.records.lease import Lease, write_lease
from gfl_lab.records.manifest import DataPaths, imported_manifest, new_manifest, write_manifest
from gfl_lab.records.marks import FailedRepair, SoundTrials, write_failed_repair, write_sound_trials
from gfl_lab.records.metric_lines import MetricWriter
from gfl_lab.records.plan import PlanFile, write_plan
from gfl_lab.records.result import Done, Failed, Failure, Interrupted, Outcome, write_result
from gfl_lab.records.search import SearchFile, write_search
from gfl_lab.records.table_lock import TableLock, write_table_lock
from gfl_lab.report.modes import modes_frame
from gfl_lab.report.power import seeds_needed
from gfl_lab.report.sides import coincidence
from gfl_lab.report.table import build_table
from gfl_lab.results.store import Store, open_store
from gfl_lab.session.lab import Lab
from gfl_lab.session.variant_pair import find_pair
from gfl_lab.spec.imported import ImportedSpec
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import ComponentFile, DataSpec, TrialSpec

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_document_is_a_page_and_in_the_navigation(site: Path) -> None:
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / name).with_suffix(".html").exists() for name in documents) and not list(site.rglob("*.py"))
    listed = re.findall(r"[\w/-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    shown = {name for name in documents if "/" not in name} | {"decisions/index.md"}
    assert shown == set(listed) and len(listed) == len(set(listed))


def test_the_index_and_the_navigation_have_one_order() -> None:
    nav = re.findall(r"[\w/-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    index = dict.fromkeys(re.findall(r"\]\(([\w/-]+\.md)", (ROOT / "docs" / "index.md").read_text()))
    assert ["index.md", *index] == nav


SENTENCE = re.compile(r"(?:(?<=[.:!?] )|(?<=\*\* )|^(?:- |> |#+ )?|(?<=\| ))(?:What|Whoever|Of|Where)\b[^.?|\n]*[.?|\n]?", re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_sentences_begin_with_a_noun(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [found[0] for found in SENTENCE.finditer(text) if not found[0].endswith("?")] == []


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=[\"']?(https?:[^\"' >]*)", text) + re.findall(
            r"url\([\"']?(https?:[^)]*)", text
        )
        assert not fetched, path


def test_links_out_of_the_documents_become_names(site: Path) -> None:
    text = (site / "chaos.html").read_text(encoding="utf-8")
    assert "<code>benchmarks/results/chaos_" in text and 'href="../benchmarks' not in text
    assert (site / "notebooks" / "first_answer.ipynb").exists() and 'href="notebooks/first_answer.ipynb"' in (
        site / "index.html"
    ).read_text()
    assert not [path for path in site.rglob("*.html") if 'href="../../' in path.read_text(encoding="utf-8")]


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    text = (site / "python-api.html").read_text(encoding="utf-8")
    assert ":::" not in text
    for name in (open_store, seeds_needed, box_modes.modes, modes_frame, coincidence, find_pair, build_table, Lab.run):
        assert f'id="{name.__module__}.{name.__qualname__}"' in text
    assert 'id="gfl_lab.results.store.Store.logged"' in text  # inherited
    assert "Raises:" in text and html.escape(Store.question.__doc__.split(".")[0]) in text


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_generated_parts_are_those_of_the_code(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert reference.renewed(text) == text, "renew it with: uv run python docs/reference.py"


def test_every_generated_part_stands_in_one_page() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    assert sorted(part[2] for page in pages for part in reference.PART.finditer(page)) == sorted(reference.PARTS)


DATA = DataSpec(name="x", digest="x", classes=("x",), train_images=1, val_images=1, white_level=4095)


def filled(hint: Any) -> Any:
    """Return a value of a type with nothing left out."""
    parts = [each for each in typing.get_args(hint) if each is not type(None)]
    if type(None) in typing.get_args(hint) or typing.get_origin(hint) is UnionType:
        return filled(parts[0])
    if (origin := typing.get_origin(hint)) in (dict, Mapping):
        return {filled(parts[0]): filled(parts[1])}
    if origin in (tuple, list, Sequence):
        return origin([filled(parts[0])]) if origin is not Sequence else [filled(parts[0])]
    if hint is DataSpec:
        return DATA
    if hint in (values := {str: "x", Any: "x", int: 2, float: 0.5, bool: True}):
        return values[hint]
    if issubclass(hint, Enum):
        return next(iter(hint))
    hints = typing.get_type_hints(hint, localns={"DataSpec": DataSpec})
    return hint(**{name: filled(each) for name, each in hints.items() if typing.get_origin(each) is not typing.ClassVar})


def paths_in(value: Any, documented: set[str], path: str = "") -> Iterator[str]:
    """Yield the path of each value in a file. An object or a list without documented parts is one value."""
    parts = [each for each in documented if not path or each.startswith((f"{path}.", f"{path}[]."))]
    if path in documented or not parts:
        yield path
    if parts and isinstance(value, list):
        for each in value:
            yield from paths_in(each, documented, f"{path}[]")
    elif parts:
        free = next((part[len(path) + 1 :].partition(".")[0] for part in parts if path and part.startswith(f"{path}.<")), "")
        for key, each in value.items():
            yield from paths_in(each, documented, f"{path}.{free or key}" if path else key)


def assert_documented(fields: list[reference.Field], content: dict[str, Any]) -> None:
    documented = {path for field in fields for path in field.paths}
    assert set(paths_in(content, documented)) == documented | {"format"}


WRITERS: dict[str, tuple[Callable[[Path, Any], None], type]] = {
    "lease": (write_lease, Lease), "accumulation": (write_accumulation, Accumulation), "repair": (write_failed_repair, FailedRepair),
    "plan": (write_plan, PlanFile), "search": (write_search, SearchFile), "lock": (write_table_lock, TableLock), "cost": (write_spent, Spent),
    "measured": (write_measured, Measured), "intact": (write_sound_trials, SoundTrials),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_documented_fields_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    write, record = WRITERS[name]
    write(tmp_path / "file.json", filled(record))
    assert_documented(reference.FILES[name](), json.loads((tmp_path / "file.json").read_text()))


@pytest.mark.parametrize("kind", [Done, Failed, Interrupted])
def test_documented_fields_are_those_of_a_result(kind: type[Outcome], tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", filled(kind))
    documented = [*reference.fields_of(Outcome), *reference.fields_of(kind, leaves=set(reference.LEAVES) - {Failure})]
    assert_documented(documented, json.loads((tmp_path / "result.json").read_text()))


def test_documented_fields_are_those_of_a_manifest(tmp_path: Path) -> None:
    spec = TrialSpec(
        settings=Settings(), data=DATA, seed=0, code=1, components=(ComponentFile(name="x", digest="x"),), config={"x": 1}, needs={"x": "x"},
    )  # fmt: skip
    own, imported = tmp_path / "own.json", tmp_path / "imported.json"
    write_manifest(own, new_manifest(own, spec, DataPaths("x", "x", "x", "x")))
    write_manifest(imported, imported_manifest(imported, ImportedSpec(data=DATA, detections="x"), 0, "x"))
    content, other = json.loads(own.read_text()), json.loads(imported.read_text())
    assert other["spec"].keys() <= content["spec"].keys() | {"imported"} and other["paths"].keys() == content["paths"].keys()
    content["spec"]["imported"] = other["spec"]["imported"]
    assert_documented(reference.FILES["manifest"](), content)


def test_documented_fields_are_those_of_a_metric_line_and_of_the_arrays(tmp_path: Path) -> None:
    MetricWriter(tmp_path / "metrics.jsonl").write("val", 1, 1, {"AP": 1.0})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert_documented(reference.FILES["metrics"](), {"format": 1, **line})
    arrays = {name: np.zeros(1) for name in Records.__dataclass_fields__} | {"classes": ("x",), "max_dets": 100}
    write_evaluation(tmp_path / "eval.npz", Records(**arrays), np.zeros((1, 3)), {"AP": 1.0})
    documented = {name for names in reference.meanings_of(Records) for name in names}
    assert documented | {"format", "metrics", "resampled"} == set(np.load(tmp_path / "eval.npz").files)


@pytest.mark.slow
def test_the_examples_of_the_python_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "runs"))
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.DOTALL)
    found: dict = {}
    for example in examples:
        exec(compile(example, "python-api.md", "exec"), found)
    out = capsys.readouterr().out
    assert found["outcome"].code == 0 and len(found["table"].rows) == 4
    assert "('qfl=on dfl=on', " in out and "| qfl=on dfl=on" in out
    assert list(found["boxes"].columns) == ["image_id", "category", "bins", "probs"]
    modes = found["modes"]
    assert set(modes["image_id"]) == {found["image_id"]} and modes.groupby(["box", "side"])["mass"].sum().to_numpy() == pytest.approx(1)
    assert found["verdicts"].keys() == {"qfl=off dfl=on", "qfl=on dfl=off", "qfl=on dfl=on"}
    assert found["row"].found.low is None and found["row"].verdict in ("one seed", "no signal")
    names = [row.name for row in found["errors"]]  # a type without a number, as with no box found at all, has no row
    assert names and set(names) <= set(error_types.TYPES) and all(row.counts for row in found["errors"])
