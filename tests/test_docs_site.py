"""The documents as a site: it builds without a warning and without a network, and holds every page."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from docs import reference
from gfl_lab.metrics import box_modes, error_types
from gfl_lab.report.modes import modes_frame
from gfl_lab.report.power import seeds_needed
from gfl_lab.report.sides import coincidence
from gfl_lab.report.table import build_table
from gfl_lab.results.store import Store, open_store
from gfl_lab.session.lab import Lab
from gfl_lab.session.variant_pair import find_pair

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
